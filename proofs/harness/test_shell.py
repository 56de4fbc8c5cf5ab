"""Commands of the harness end with it, whatever interrupts it, and with them what they started."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.base.clock import OsClock, poll
from harness.base.errors import CommandFailed, Unavailable
from harness.evidence import recorder as flight
from harness.evidence import shell as module
from harness.evidence.lines import ResultLine
from harness.evidence.recorder import Recorder
from harness.evidence.shell import Shell

pytestmark = pytest.mark.filterwarnings("error:subprocess .* is still running:ResourceWarning")
"""A command that nobody waited for."""

# A length that nobody else sleeps, to be recognised by.
SLEEP = f"86{os.getpid()}.25"
SLEEPERS = f"sleep {SLEEP} & sleep {SLEEP}"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    recorder = Recorder(tmp_path / "record.jsonl", "run", "main")
    # Whatever was started in the background of a script has SIGINT ignored, and so has all that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Shell(recorder)
    signal.signal(signal.SIGINT, before)
    recorder.close()


def sleepers() -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += path.read_bytes().split(b"\0")[:2] == [b"sleep", SLEEP.encode()]
        except OSError:
            continue
    return found


def wait_sleepers(count: int) -> None:
    assert poll(lambda: True if sleepers() == count else None, OsClock(), 10.0), f"{sleepers()} sleep, not {count}"


def interrupted_by(monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    """SIGINT comes in the very instant in which the command is started."""
    real: Callable[..., Any] = getattr(module, start)

    def started(*args: Any) -> Any:
        running = real(*args)
        wait_sleepers(2)
        signal.raise_signal(signal.SIGINT)
        return running

    monkeypatch.setattr(module, start, started)


@pytest.mark.slow
@pytest.mark.claim("V1")
@pytest.mark.parametrize("interrupted", [False, True])
def test_no_thread_outlives_the_record_and_complains(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """What a command says last is in the record when the interrupt is passed on, also when its writer is slow; and a
    record that was closed under a command that goes on ends no thread with an exception (see pyproject.toml)."""
    recorder = shell.recorder
    assert isinstance(recorder, Recorder)
    if not interrupted:
        process = shell.start("sh", "-c", SLEEPERS, on_line=print)
        wait_sleepers(2)
        recorder.close()
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(10.0)
        assert recorder.failure is not None
        return
    write = recorder.write
    monkeypatch.setattr(
        recorder, "write", lambda kind, **facts: (kind == "result" and OsClock().sleep(0.3), write(kind, **facts))[1]
    )
    interrupted_by(monkeypatch, "_start")
    with pytest.raises(KeyboardInterrupt):
        shell.start("sh", "-c", SLEEPERS, on_line=print)
    *_, last = flight.read(recorder.path)
    assert isinstance(last, ResultLine)
    assert last.status == -signal.SIGKILL


def test_an_interrupt_while_a_command_starts_ends_it(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_by(monkeypatch, "_spawn")
    with pytest.raises(KeyboardInterrupt):
        shell.run("sh", "-c", SLEEPERS)
    wait_sleepers(0)


def test_an_interrupt_while_a_command_starts_that_goes_on_running(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_by(monkeypatch, "_start")
    with pytest.raises(KeyboardInterrupt):
        shell.start("sh", "-c", SLEEPERS, on_line=lambda _line: None)
    wait_sleepers(0)


def test_an_interrupt_while_a_command_runs_ends_it(shell: Shell) -> None:
    def interrupt() -> None:
        wait_sleepers(2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        shell.run("sh", "-c", SLEEPERS)
    thread.join()
    wait_sleepers(0)


def test_a_command_that_takes_too_long_is_ended_with_what_it_started(shell: Shell) -> None:
    with pytest.raises(CommandFailed, match=r"did not end within 0\.3 s"):
        shell.run("sh", "-c", SLEEPERS, timeout_secs=0.3)
    wait_sleepers(0)


def test_after_a_command_an_interrupt_is_what_it_was(shell: Shell) -> None:
    before = signal.getsignal(signal.SIGINT)
    shell.run("true").expect(0)
    assert signal.getsignal(signal.SIGINT) is before
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(shell.run("sh", "-c", "exit 3").status))
    thread.start()
    thread.join()
    assert results == [3]


def test_a_program_that_is_not_there_is_named(shell: Shell, tmp_path: Path) -> None:
    for use in (lambda: shell.run("no-such-program"), lambda: shell.start("no-such-program", on_line=print)):
        with pytest.raises(Unavailable, match="`no-such-program` is not installed"):
            use()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        shell.run("true", cwd=tmp_path / "nowhere")


@pytest.mark.parametrize("everything", ["C.UTF-8", ""])
def test_a_command_speaks_english(shell: Shell, monkeypatch: pytest.MonkeyPatch, everything: str) -> None:
    """As it is read here; characters it goes on writing as the computer does."""
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("LC_ALL", everything)
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    told = dict(line.split("=", 1) for line in shell.run("env").stdout.splitlines() if line.startswith(("LC_", "LANG")))
    kept = {"LC_CTYPE": everything} if everything else {}
    assert told == {"LANG": "de_DE.UTF-8", "LC_MESSAGES": "C", **kept}


@pytest.mark.parametrize("name", ["SYSTEMD_COLORS", "SYSTEMD_URLIFY", "SYSTEMD_LOG_LEVEL"])
def test_what_adorns_the_output_of_a_command_does_not_reach_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SYSTEMD_KEPT", "1")
    lines: list[str] = []
    started = shell.start("env", on_line=lines.append)
    assert started.wait(10.0)
    for output in (shell.run("env").stdout, "".join(lines)):
        assert f"{name}=" not in output
        assert "SYSTEMD_KEPT=1" in output
