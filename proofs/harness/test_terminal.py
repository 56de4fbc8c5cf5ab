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
