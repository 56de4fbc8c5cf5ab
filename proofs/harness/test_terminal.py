"""What a person sees while something takes its time."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base import terminal
from proofs.fixtures.bytecode import environ

ROOT = Path(__file__).resolve().parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_colour_is_for_terminals_and_for_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.coloured(Terminal())
    assert not terminal.coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "")  # Set to nothing: as if it were not set.
    assert terminal.coloured(Terminal())
    monkeypatch.setenv("NO_COLOR", "0")
    assert not terminal.coloured(Terminal())


def test_a_terminal_that_cannot_go_back_gets_neither_colour_nor_redrawn_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.coloured(Terminal())
    assert not terminal.redraws(Terminal())


def test_a_redrawn_line_fits_and_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    stream = Terminal()
    with terminal.redrawn(stream) as show:
        show("installing the engine")
        show("done")
    assert stream.getvalue() == "\r\x1b[Kinstallin\r\x1b[Kdone\r\x1b[K"


def test_nothing_is_redrawn_in_a_pipe() -> None:
    stream = io.StringIO()
    with terminal.redrawn(stream) as show:
        show("installing the engine")
    assert stream.getvalue() == ""


class Broken(io.StringIO):
    """A standard output of which nothing is taken."""

    def __init__(self, error: OSError, *, late: bool) -> None:
        super().__init__()
        self._error, self._late = error, late

    def write(self, text: str) -> int:
        if not self._late:
            raise self._error
        return len(text)

    def flush(self) -> None:
        raise self._error

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


def says(*, then: int | None) -> int:
    print("hello")
    if then is None:
        sys.exit(3)
    return then


@pytest.mark.claim("U1")
@pytest.mark.parametrize(
    ("error", "late", "then", "status", "told"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), False, 0, 141, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), True, 0, 0, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), True, 7, 7, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), True, None, 3, ""),
        (OSError(errno.ENOSPC, "No space left"), False, 0, 1, "standard output cannot be written: No space left\n"),
        (OSError(errno.ENOSPC, "No space left"), True, None, 1, "standard output cannot be written: No space left\n"),
    ],
)
def test_a_command_whose_words_nobody_takes_ends_in_order(
    error: OSError, late: bool, then: int | None, status: int, told: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stdout = Broken(error, late=late)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert terminal.command(says)(then=then) == status
    assert sys.stdout is stdout
    assert capsys.readouterr().err == told


def test_what_else_goes_wrong_in_a_command_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    @terminal.command
    def fails() -> int:
        print("hello")
        raise BrokenPipeError(errno.EPIPE, "Broken pipe", "socket")

    with pytest.raises(BrokenPipeError, match="socket"):
        fails()
    assert terminal.command(says)(then=5) == 5
    with pytest.raises(SystemExit, match="3"):
        terminal.command(says)(then=None)
    assert capsys.readouterr().out == "hello\n" * 3


COMMANDS = sorted(
    str(file.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__main__")
    for half in ("harness", "fleet", "mutants", "bench", "proofs/simulation")
    for file in (ROOT / half).rglob("*.py")
    if re.search(r"^    sys.exit\(main\(\)\)$", file.read_text(), re.MULTILINE)
)


def test_the_commands_are_found() -> None:
    assert {"harness", "harness.upkeep.ctl", "fleet.relay.command", "mutants"} <= set(COMMANDS)


@pytest.mark.slow
@pytest.mark.claim("U1")
@pytest.mark.parametrize("module", [*COMMANDS, "engine"])
def test_a_disk_that_is_full_is_told_by_every_command(module: str) -> None:
    with open("/dev/full", "w") as full:
        asked = [sys.executable, "-m", module, "--help"]
        done = subprocess.run(asked, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    said = "standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr.removeprefix("hybrid-engine: ")) == (1, said)


PROGRAMS = [
    ("harness", "contract", "--interface"), ("harness", "--help"), ("harness", "doctor"),
    ("harness.upkeep.ctl", "--help"),
    ("harness.observing.health", "--help"), ("harness.soak.controller", "--help"), ("fleet.relay.command", "--help"),
]  # fmt: skip


def said_with(redirection: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What becomes of a program of ours in a shell that redirects it so."""
    module, *arguments = words
    program = f"import sys; from {module}{'.__main__' if module == 'harness' else ''} import main; sys.exit(main())"
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirection}', sys.executable, "-c", program, *arguments],
        cwd=ROOT, env=dict(environ(), **environment), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim("U1")
@pytest.mark.parametrize("words", PROGRAMS, ids=" ".join)
def test_a_standard_output_that_is_closed_is_told_in_a_line(words: tuple[str, ...]) -> None:
    done = said_with(">&-", *words)
    assert (done.returncode, done.stderr) == (1, "standard output cannot be written: Bad file descriptor\n")


@pytest.mark.claim("U1")
def test_what_else_is_closed_is_no_fault_of_a_command(tmp_path: Path) -> None:
    """And no file that it opens becomes its standard error."""
    program = (
        "import os, sys; from harness.base import terminal\n"
        "def main():\n"
        "    file = open(sys.argv[1], 'w'); print('an error', file=sys.stderr)\n"
        "    print(file.fileno() > 2, sys.stdin.read())\n"
        "    return 7\n"
        "sys.exit(terminal.command(main)())\n"
    )
    argv = ["sh", "-c", 'exec "$0" "$@" <&- 2>&-', sys.executable, "-c", program, str(tmp_path / "file")]
    done = subprocess.run(argv, cwd=ROOT, env=environ(), stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (7, "True \n")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.claim("U1")
def test_in_a_locale_of_ascii_other_signs_are_spelled_out() -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = said_with("", "harness", "contract", "--interface", **plain)
    assert (done.returncode, done.stderr) == (0, "")
    assert "`l\\u0131ve` is not LIVE" in done.stdout
