"""What the soak controller and the healthcheck see of a computer, and the three things they do to it.

`Computer` is the whole of it, so that a test can put a hand-written one in its place. Everything goes through the
recorded shell but reads of /proc and of the engine's database.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from harness.base import journal, pressure, unit
from harness.base.clock import Clock
from harness.base.errors import CommandFailed
from harness.base.journal import Entry
from harness.base.pressure import Pressure, Unknown
from harness.base.unit import UnitState
from harness.evidence.shell import CommandResult, Shell
from harness.observing import ledger_view
from harness.observing.ledger_view import LedgerUnreadable
from harness.observing.stall import Progress

PRESSURE_DIR = Path("/proc/pressure")

ANSWER_SECS = 10.0
"""Deadline of a command that only reads."""

LOOK_SECS = 3.0
"""So long may a look at a database take (K9), and hang in the kernel."""

ACT_SECS = 150.0
"""Deadline of a start, restart or stop: above the unit's TimeoutStopSec plus TimeoutStartSec."""

ACT_NAP_SECS = 0.05
"""Between two looks at a job of systemd's."""

NO_JOB = ("", "0")
"""What systemd says of the job of a unit that has none."""

HEARTBEAT = "HEARTBEAT (G4)"

_FIELDS = (
    "MESSAGE", "MESSAGE_ID", "INVOCATION_ID", "USER_INVOCATION_ID", "_SYSTEMD_INVOCATION_ID", "COMMAND",
    "EXIT_CODE", "EXIT_STATUS", "UNIT_RESULT", "SYSLOG_IDENTIFIER", "_PID", "UNIT", "_SYSTEMD_UNIT",
)  # fmt: skip


class Computer(Protocol):
    """The engine's surroundings. Reads raise HarnessError when nothing can be learned."""

    def unit(self) -> UnitState:
        """Return the engine's unit now."""
        ...

    def restart(self, give_up: Callable[[], bool]) -> str:
        """Start the unit, stopping it before if it runs, and wait until that is done or `give_up`; systemd goes on
        with it. Returns what there is to complain of, empty when nothing."""
        ...

    def stop(self, give_up: Callable[[], bool]) -> str:
        """Stop the unit, and wait and return as `restart`."""
        ...

    def shuts_down(self) -> bool:
        """Return whether the computer is shutting down."""
        ...

    def journal(self) -> Sequence[Mapping[str, str]]:
        """Return the unit's journal entries since the last call, as raw fields."""
        ...

    def pressure(self) -> Pressure | Unknown:
        """Return the computer's pressure now. Never raises."""
        ...

    def progress(self) -> Progress:
        """Return the newest tick in the engine's database."""
        ...

    def rss_bytes(self, pid: int) -> int | None:
        """Return the resident memory of a process; None when it is gone."""
        ...


class LocalComputer:
    """The computer this process runs on, and its system manager."""

    def __init__(
        self,
        shell: Shell,
        unit_name: str,
        database: Path,
        clock: Clock,
        pressure_dir: Path,
        since: float | None = None,
    ) -> None:
        """since: from when on its journal is read, in seconds since 1970; None for now."""
        self._shell = shell
        self._unit = unit_name
        self._progress = Bounded(lambda: ledger_view.read_progress(database), str(database))
        self._pressure_dir = pressure_dir
        self._clock = clock
        self._since = clock.wall() if since is None else since
        self._cursor = ""

    def unit(self) -> UnitState:
        return show(self._shell, self._unit)

    def restart(self, give_up: Callable[[], bool]) -> str:
        complaint = self._act("restart", give_up)
        if complaint:
            return complaint
        state = self.unit()
        return "" if state.active == "active" else f"it is {state} after systemctl restart"

    def stop(self, give_up: Callable[[], bool]) -> str:
        return self._act("stop", give_up)

    def shuts_down(self) -> bool:
        return self._shell.run("systemctl", "is-system-running", timeout_secs=ANSWER_SECS).stdout.strip() == "stopping"

    def _act(self, verb: str, give_up: Callable[[], bool]) -> str:
        # Not waited for by systemctl: whoever asks the controller to stop must not wait for a job of the engine's.
        result = self._shell.run("systemctl", "--no-block", verb, self._unit, timeout_secs=ANSWER_SECS)
        if result.status != 0:
            said = result.stderr.strip() or f"systemctl {verb} ended with {result.status}"
            return said.split("\n")[0]
        end = self._clock.monotonic() + ACT_SECS
        while (
            unit.properties(_show(self._shell, self._unit, ("Job",), ANSWER_SECS).stdout).get("Job", "") not in NO_JOB
        ):
            if give_up() or self._clock.monotonic() >= end:
                return f"systemctl {verb} is not done yet"
            self._clock.sleep(ACT_NAP_SECS)
        return ""

    def journal(self) -> list[dict[str, str]]:
        place = f"--after-cursor={self._cursor}" if self._cursor else f"--since=@{self._since:.6f}"
        entries = read_journal(self._shell, f"--unit={self._unit}", place)
        self._cursor = next((one["__CURSOR"] for one in reversed(entries) if "__CURSOR" in one), self._cursor)
        return entries

    def pressure(self) -> Pressure | Unknown:
        return read_pressure(self._pressure_dir)

    def progress(self) -> Progress:
        return self._progress.read(LOOK_SECS)

    def rss_bytes(self, pid: int) -> int | None:
        return rss_bytes(pid)


class Bounded:
    """A read of a database by a thread of its own, which is left alone when it hangs in the kernel.

    A read ends by itself (ledger_view.py) unless somebody puts a pipe in the file's place at the very moment
    between the check and the opening, or the disk itself hangs.
    """

    def __init__(self, read: Callable[[], Progress], name: str) -> None:
        """name: of the database, for error messages."""
        self._read = read
        self._name = name
        self._thread: threading.Thread | None = None

    def read(self, timeout_secs: float) -> Progress:
        """Return what the read gives or raises. Raises LedgerUnreadable when it does not end in time."""
        if self._thread is not None and self._thread.is_alive():
            raise LedgerUnreadable(f"{self._name}: an earlier read of it has not come back")
        answer: Future[Progress] = Future()

        def run() -> None:
            try:
                answer.set_result(self._read())
            except BaseException as error:
                answer.set_exception(error)

        # A daemon, so that it does not keep the process from ending.
        self._thread = threading.Thread(target=run, name="ledger-read", daemon=True)
        self._thread.start()
        try:
            return answer.result(timeout_secs)
        except TimeoutError:
            raise LedgerUnreadable(f"{self._name}: no answer within {timeout_secs:g} s") from None


def rss_bytes(pid: int) -> int | None:
    """Return the resident memory of a process; None when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def show(shell: Shell, unit_name: str, timeout_secs: float = ANSWER_SECS) -> UnitState:
    """Return the state of a unit. Raises CommandFailed when systemd does not answer."""
    shown = _show(shell, unit_name, unit.PROPERTIES, timeout_secs)
    try:
        return unit.parse(shown.stdout)
    except ValueError as error:
        raise CommandFailed(f"{unit_name}: {error}") from error


def working_directory(shell: Shell, unit_name: str, timeout_secs: float = ANSWER_SECS) -> Path:
    """Return where the unit's process runs, which its relative paths start from; `/` for a unit that says nothing."""
    shown = _show(shell, unit_name, ("WorkingDirectory",), timeout_secs)
    # systemd marks a directory that may be missing with an exclamation mark.
    return Path(unit.properties(shown.stdout).get("WorkingDirectory", "").removeprefix("!") or "/")


def _show(shell: Shell, unit_name: str, names: Sequence[str], timeout_secs: float) -> CommandResult:
    return shell.run("systemctl", *unit.show_argv(unit_name, names=names), timeout_secs=timeout_secs).expect(0)


def read_journal(shell: Shell, *matches: str, timeout_secs: float = ANSWER_SECS) -> list[dict[str, str]]:
    """Journal entries as raw fields, oldest first.

    matches: options and matches of journalctl(1). Raises CommandFailed when the journal cannot be read.
    """
    result = shell.run(
        # --all: else a line of 4096 bytes, such as a heartbeat of eighty markets, is null.
        "journalctl", "--quiet", "--no-pager", "--all", "--output=json", f"--output-fields={','.join(_FIELDS)}",
        *matches,
        timeout_secs=timeout_secs,
    ).expect(0)  # fmt: skip
    return journal.entries(result.stdout)


def heartbeat(entries: Sequence[Mapping[str, str]], invocation_id: str) -> Entry | None:
    """Return the last HEARTBEAT (G4) that this run of the engine logged; None when there is none."""
    return next(heartbeats(entries, invocation_id), None)


def heartbeats(entries: Sequence[Mapping[str, str]], invocation_id: str) -> Iterator[Entry]:
    """Yield those that this run of the engine logged, the last first."""
    for raw in reversed(entries):
        if raw.get("_SYSTEMD_INVOCATION_ID") != invocation_id:
            continue
        entry = journal.parse(raw, int(raw.get("__REALTIME_TIMESTAMP", 0)))
        if entry is not None and entry.event == HEARTBEAT:
            yield entry


def read_pressure(directory: Path) -> Pressure | Unknown:
    """Return the PSI files in `directory` (cpu, memory, io, as in /proc/pressure). Unknown when one cannot be read."""
    texts = {}
    for resource in pressure.RESOURCES:
        try:
            texts[resource] = (directory / resource).read_text(encoding="ascii", errors="replace")
        except OSError as error:
            return Unknown(f"{directory / resource}: {error.strerror}")
    return pressure.parse(texts)
