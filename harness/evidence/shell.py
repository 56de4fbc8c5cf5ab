"""The sole importer of `sh` and `subprocess`: every command of the harness runs here, and is recorded.

What goes on running is sh's: it gives lines to a callback as they come. What is only waited for is not: sh forks this
whole process for each command (7 ms with 120 MB in it, and as much for the pages that both then copy), subprocess
spawns it by vfork (3 ms in all), and most commands here take less than that.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from harness.base.clock import Clock, OsClock
from harness.base.errors import CommandFailed, RecorderError, Unavailable
from harness.evidence.recorder import Record

KILL_SECS = 5.0
"""How long a killed command may take to be gone."""

ADORNED_BY = ("SYSTEMD_COLORS", "SYSTEMD_URLIFY", "SYSTEMD_LOG_")
"""How the names begin of what changes the output of systemd's programs, whoever reads it."""

SHOWN_CHARS = 4000
"""How much of an output an error message shows; the record holds all of it."""


@dataclass(frozen=True)
class CommandResult:
    """What a command that has ended left."""

    argv: tuple[str, ...]
    status: int
    """Exit status; minus the signal's number when a signal ended it."""
    stdout: str
    stderr: str
    seconds: float

    def expect(self, *statuses: int) -> CommandResult:
        """This result, when its status is one of `statuses` (default 0). Raises CommandFailed otherwise."""
        if self.status in (statuses or (0,)):
            return self
        raise CommandFailed(
            f"`{shlex.join(self.argv)}` ended with {self.status}, expected "
            f"{' or '.join(map(str, statuses or (0,)))}\n{self.stdout[-SHOWN_CHARS:]}{self.stderr[-SHOWN_CHARS:]}"
        )


class Process:
    """A command that goes on running. Its lines go to `on_line` on a thread of their own."""

    def __init__(self, running: Any, ended: threading.Event, statuses: Sequence[int]) -> None:
        """statuses: its exit status, once `ended` is set."""
        self._running = running
        self._ended = ended
        self._statuses = statuses

    @property
    def pid(self) -> int:
        """Of the started process; > 1."""
        return int(self._running.pid)

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    @property
    def status(self) -> int | None:
        """The exit status, minus a signal's number; None as long as it runs."""
        return None if self.alive else self._statuses[0]

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.alive and self.pid > 1:
            try:
                self._running.signal(number)
            except ProcessLookupError:
                return

    def wait(self, timeout_secs: float) -> bool:
        """Return whether the process ended within `timeout_secs`."""
        return self._ended.wait(timeout_secs)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.signal(signal.SIGKILL)
        self.wait(KILL_SECS)


class _Killed:
    """Kills the command that was put in it, with all that it started, when the block is left by an exception, such as
    Ctrl-C, and waits until it is gone: whoever goes on may close what its last words are written to."""

    def __init__(self, wait: Callable[[Any], object]) -> None:
        """wait: until a killed command is gone; at most KILL_SECS."""
        self._wait = wait
        self._started: Any = None
        self._group = 0

    def put(self, start: Callable[[], Any]) -> Any:
        """Start a command that gets a process group of its own. An interrupt waits until it can be killed."""
        with _uninterrupted():
            self._started = start()
            self._group = int(self._started.pid)
        return self._started

    def kill(self) -> None:
        if self._group > 1:
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL)

    def __enter__(self) -> _Killed:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._started is not None:
            self.kill()
            # A process that moved to another group may hold the pipes.
            with suppress(subprocess.TimeoutExpired):
                self._wait(self._started)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A SIGINT that comes inside this block is dealt with after it. Only the main thread ever has to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came and callable(handler):
            handler(*came[0])


class Shell:
    """Runs commands and records each: the intent before, the result after."""

    def __init__(self, recorder: Record, clock: Clock | None = None) -> None:
        self.recorder = recorder
        self._clock = clock or OsClock()

    def run(
        self,
        *argv: str,
        timeout_secs: float = 60.0,
        cwd: Path | None = None,
        stdin: str | None = None,
    ) -> CommandResult:
        """Run a command to its end. Never raises for its status: see CommandResult.expect.

        timeout_secs: after this the command is killed and CommandFailed raised. stdin: what it may read; None for
        nothing. Raises Unavailable when the program is not installed.
        """
        intent = self.recorder.intent(argv, str(cwd or Path.cwd()))
        started = self._clock.monotonic()
        overdue = False
        with _Killed(lambda running: running.communicate(timeout=KILL_SECS)) as spawned:
            running = spawned.put(lambda: _spawn(argv, cwd, subprocess.DEVNULL if stdin is None else subprocess.PIPE))
            try:
                given = None if stdin is None else stdin.encode("utf-8", "replace")
                out, err = running.communicate(given, timeout=timeout_secs)
            except subprocess.TimeoutExpired:
                overdue = True
                spawned.kill()
                out, err = running.communicate(timeout=KILL_SECS)
        result = self._result(intent, argv, running.returncode, out, err, started)
        if overdue:
            raise CommandFailed(f"`{shlex.join(argv)}` did not end within {timeout_secs:g} s")
        return result

    def start(self, *argv: str, on_line: Callable[[str], None]) -> Process:
        """Start a command that goes on running; `on_line` gets each line of its stdout and stderr, and the record
        all of them when it ends."""
        intent = self.recorder.intent(argv, str(Path.cwd()))
        started = self._clock.monotonic()
        ended = threading.Event()
        lines: list[str] = []
        statuses: list[int] = []

        def keep(line: str) -> None:
            lines.append(line)
            on_line(line)

        def done(_command: Any, _success: bool, status: int) -> None:
            # In sh's thread nobody hears of it; the record remembers that a line of it could not be written.
            with suppress(RecorderError):
                self._result(intent, argv, status, "".join(lines).encode("utf-8", "surrogateescape"), b"", started)
            statuses.append(status)
            ended.set()

        with _Killed(lambda _: ended.wait(KILL_SECS)) as spawned:
            return Process(spawned.put(lambda: _start(argv, keep, done)), ended, statuses)

    def _result(
        self, intent: int, argv: Sequence[str], status: int, out: bytes, err: bytes, started: float
    ) -> CommandResult:
        result = CommandResult(
            argv=tuple(argv),
            status=status,
            stdout=out.decode("utf-8", "replace"),
            stderr=err.decode("utf-8", "replace"),
            seconds=self._clock.monotonic() - started,
        )
        self.recorder.write(
            "result",
            intent=intent,
            status=status,
            stdout=out,
            stderr=err,
            seconds=round(result.seconds, 6),
        )
        return result


def _spawn(argv: Sequence[str], cwd: Path | None, stdin: int) -> subprocess.Popen[bytes]:
    """Start a command whose output is wanted at its end."""
    try:
        return subprocess.Popen(
            argv, cwd=cwd, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
            env=_environment(),
        )  # fmt: skip
    except (FileNotFoundError, PermissionError) as error:
        if error.filename != argv[0]:
            raise
        raise _not_installed(argv[0]) from error


def _start(argv: Sequence[str], on_line: Callable[[str], None], on_end: Callable[[Any, bool, int], None]) -> Any:
    """Start a command whose lines are wanted as they come."""
    # Here, because it takes 30 ms that nobody else needs to wait for.
    import sh

    try:
        command = sh.Command(argv[0])
    except sh.CommandNotFound as error:
        raise _not_installed(argv[0]) from error
    return command(
        *argv[1:], _bg=True, _bg_exc=False, _out=on_line, _err=on_line, _done=on_end, _tty_out=False, _new_group=True,
        _encoding="utf-8", _decode_errors="surrogateescape", _env=_environment(),
    )  # fmt: skip


def _environment() -> dict[str, str]:
    """Ours, without what adorns the output that is read here (systemd's ENVIRONMENT.md), nor translates it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith((*ADORNED_BY, "LANGUAGE"))}
    if everything := kept.pop("LC_ALL", ""):
        kept["LC_CTYPE"] = everything
    return {**kept, "LC_MESSAGES": "C"}


def _not_installed(program: str) -> Unavailable:
    return Unavailable(f"`{program}` is not installed", f"install the package that has {program}")
