"""A unit on a machine: start, stop, kill, look, and wait for what happens to it.

Waiting follows the journal, which carries both what the service logs and what systemd says about it, so a wait
ends with the event and not with the next poll. Every wait has a deadline; when it passes, the error holds the
unit's state, its last journal lines and the command to look further.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from types import FunctionType

from cysystemd.reader import JournalReader

from harness.base import journal, unit
from harness.base.clock import POLL_SECS, Clock, OsClock, poll
from harness.base.errors import MachineError, Refuted
from harness.base.journal import Entry
from harness.base.unit import UnitState
from harness.base.waiting import awaiting
from harness.evidence.recorder import Recorder
from harness.evidence.shell import CommandResult
from harness.machines.machine import Machine

DEADLINE_SECS = 10.0
"""Default deadline of a wait: far above what anything here takes, far below a bored reader's patience."""

CATCH_UP_SECS = 10.0
"""So long what stands in a journal takes to read at most: ten thousand lines of a service that says much as it stops
take a second or two."""

SLICE_SECS = 0.5
"""How often a wait looks whether the unit can bring about at all what is awaited."""

SHOWN_LINES = 20
"""Journal lines in the message of a failed wait."""

METRONOME = "proof-metronome.service"

DOWN = ("inactive", "failed")
"""ActiveState of a unit of which nothing runs and that systemd does not start again by itself."""


class JournalStream:
    """The journal of one machine as it grows. Entries are kept in order; waiting is for the next to come.

    A thread reads the journal files themselves: journald wakes `journalctl --follow` only four times a second
    (its post-change timer), while a new entry can be read at once.
    """

    def __init__(self, recorder: Recorder, machine: Machine, units: Collection[str]) -> None:
        self._recorder = recorder
        self._units = units
        self._entries: list[Entry] = []
        self._grown = threading.Condition()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._ends = 0
        self._read_us = 0
        """When journald took the last entry that was read."""
        self._reader = JournalReader()
        machine.open_journal(self._reader)
        self._thread = threading.Thread(target=self._follow, name="journal", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            while not self._stopping.is_set():
                raw = self._reader.next()
                if raw is None:
                    with self._grown:
                        # How often everything that was there had been read.
                        self._ends += 1
                        self._grown.notify_all()
                    # Notices files that were added or rotated away.
                    self._reader.process_events()
                    self._stopping.wait(POLL_SECS)
                    continue
                self._read_us = raw.get_realtime_usec()
                entry = journal.parse(raw.data, self._read_us)
                if entry is not None and entry.unit in self._units:
                    self._take(entry)
        except Exception as error:
            with self._grown:
                self._failure = error
                self._grown.notify_all()

    def _take(self, entry: Entry) -> None:
        with self._grown:
            self._entries.append(entry)
            self._grown.notify_all()
        if entry.unit != METRONOME:
            self._recorder.write("journal", unit=entry.unit, by=entry.identifier, message=entry.message)

    def mark(self) -> int:
        """Return the position of the next entry."""
        with self._grown:
            return len(self._entries)

    def since(self, mark: int) -> list[Entry]:
        """Return what came from `mark` on."""
        with self._grown:
            return self._entries[mark:]

    def wait(
        self,
        match: Callable[[Entry], bool],
        mark: int,
        deadline_secs: float,
        hopeless: Callable[[], bool] | None = None,
    ) -> Entry | None:
        """Return the first entry from `mark` on that matches, or None when none has come within the deadline.

        match is asked once for each entry. hopeless: asked now and then whether nothing can come any more; what was
        still on its way is waited for until the next time.
        """
        clock: Clock = OsClock()
        end = clock.monotonic() + deadline_secs
        check_at, given_up, last_check = clock.monotonic() + SLICE_SECS, False, False
        with self._grown:
            while True:
                for entry in self._entries[mark:]:
                    mark += 1
                    if match(entry):
                        return entry
                left = end - clock.monotonic()
                if left <= 0 or last_check:
                    return None
                self._check()
                self._grown.wait(left if hopeless is None else min(left, SLICE_SECS))
                if hopeless is not None and clock.monotonic() >= check_at:
                    last_check, given_up = given_up, hopeless()
                    check_at = clock.monotonic() + SLICE_SECS

    def catch_up(self) -> None:
        """Wait until everything is read that stands in the journal now.

        MachineError where that cannot be: whoever looks for what must not be there would find nothing.
        """
        now_us = OsClock().wall() * 1e6
        with self._grown:
            # The look that goes on may have missed what came last; the one after it has not.
            seen = self._ends
            done = self._grown.wait_for(
                lambda: self._failure is not None or self._ends >= seen + 2 or self._read_us > now_us, CATCH_UP_SECS
            )
            self._check()
        if not done:
            raise MachineError(f"the machine's journal is longer than what was read of it in {CATCH_UP_SECS:g} s")

    def _check(self) -> None:
        if self._failure is not None:
            raise MachineError(f"the machine's journal cannot be read any more: {self._failure}")

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._thread.join()


def _not_as_asked(entries: Sequence[Entry], match: Callable[[Entry], bool] | None) -> str:
    """Say how many lines came that did not satisfy `match`, and what the last had in the fields that it names."""
    if match is None or not entries:
        return ""
    # A function's own constants hold the keys that it asks for.
    constants = match.__code__.co_consts if isinstance(match, FunctionType) else ()
    asked = [name for name in constants if isinstance(name, str) and name in entries[-1].fields]
    had = ", ".join(f"{name} {entries[-1].fields[name]}" for name in asked)
    return f" as it is asked for: {len(entries)} came" + (f", the last with {had}" if had else "")


class Unit:
    """One unit of a machine. Verbs act and check; what systemd refuses is a Refuted with the evidence."""

    def __init__(self, machine: Machine, stream: JournalStream, name: str) -> None:
        self.machine = machine
        self.name = name
        self.deadline_secs = DEADLINE_SECS
        """Of every wait that names none of its own."""
        self._stream = stream
        self._mark = 0
        self._since_us = 0
        self._group = ""

    def show(self) -> UnitState:
        """Look at the unit now."""
        (state,) = read_states(self.machine, self.name)
        return state

    def property(self, name: str) -> str:
        """Return one property's value as `systemctl show` prints it."""
        return self.machine.systemctl("show", self.name, f"--property={name}", "--value").expect(0).stdout.strip()

    def pids(self) -> list[int]:
        """The processes in its control group, by the machine's count, or in its last one when it has none any more."""
        self._group = self.property("ControlGroup") or self._group
        if not self._group:
            return []
        listed = self.machine.run(
            "find", f"/sys/fs/cgroup{self._group}", "-name", "cgroup.procs", "-exec", "cat", "{}", "+"
        )
        return [int(pid) for pid in listed.stdout.split()]

    def start(self) -> None:
        """Start it and wait until it says READY=1. Refuted when it does not come up."""
        started = self.try_start()
        if started.status != 0:
            raise self.refuted(f"{self.name} did not start: {started.stderr.strip()}")

    def try_start(self, *beside: str) -> CommandResult:
        """Start it, and other units beside it, whatever comes of it. Waits for the start jobs' end. Forgets the
        journal so far. The status is 0 only when every unit came up."""
        self.forget()
        return self.machine.systemctl("start", self.name, *beside)

    def stop(self) -> None:
        """Stop it and wait until it is down. Does nothing to a unit that is down."""
        self.machine.systemctl("stop", self.name).expect(0)

    def kill(self, signal_name: str = "KILL") -> None:
        """Send the main process a signal through systemd, which knows its PID. Refuted when there is none."""
        sent = self.machine.systemctl("kill", f"--signal={signal_name}", "--kill-whom=main", self.name)
        if sent.status != 0 and self.show().main_pid == 0:
            raise self.refuted(f"there is no main process to get SIG{signal_name}")
        sent.expect(0)

    def mark(self) -> None:
        """Let waits and journal() see only what comes from now on."""
        self._mark = self._stream.mark()

    def forget(self) -> None:
        """As mark(), for a unit that is down: what was sent until now does not count either when it is read later."""
        self.mark()
        self._since_us = int(OsClock().wall() * 1e6)

    def journal(self) -> list[Entry]:
        """Return what was logged by or about the unit since it was last started (or marked) by hand."""
        return [entry for entry in self._stream.since(self._mark) if self._counts(entry)]

    def whole_journal(self) -> list[Entry]:
        """As journal(), with what the machine's journald has not written or nobody has read yet."""
        self.machine.run("journalctl", "--sync")
        self._stream.catch_up()
        return self.journal()

    def wait_log(
        self, event: str, match: Callable[[Entry], bool] | None = None, deadline_secs: float | None = None
    ) -> Entry:
        """Wait for the service itself to log `event` (its M1 message), with fields that satisfy `match`."""
        others: list[Entry] = []

        def found(entry: Entry) -> bool:
            if entry.event != event:
                return False
            others.append(entry)
            return match is None or match(entry)

        return self.wait(
            f"the log line {event!r}",
            found,
            deadline_secs,
            lambda: _not_as_asked(others, match) or self._nothing_like_it(),
        )

    def _nothing_like_it(self) -> str:
        """Say what it logs where that is no M1 line at all."""
        own = [entry for entry in self.whole_journal() if entry.identifier != "systemd"]
        if not own:
            return ", and it logs nothing"
        return "" if any(entry.fields for entry in own) else f": what it logs are no M1 lines: {own[0].message[:80]!r}"

    def wait_restarts(self, times: int) -> None:
        """Wait until systemd counts `times` automatic restarts of the unit since it was started by hand.

        Looks at the unit again and again, because a look also wakes systemd: a timer of its own, such as
        RestartSec=, may otherwise come up to 250 ms late (the default accuracy of sd_event_add_time(3)).
        """
        clock = OsClock()
        began = clock.monotonic()

        def restarted() -> bool | None:
            state = self.show()
            # A unit that is down stays so: between two restarts it is `activating`.
            return True if state.n_restarts >= times else False if state.active in DOWN else None

        with awaiting(f"restart {times} of {self.name}"):
            done = poll(restarted, clock, self.deadline_secs)
        if not done:
            count, waited = self.show().n_restarts, min(self.deadline_secs, clock.monotonic() - began)
            raise self.refuted(
                f"{self.name} was restarted {count} times within {waited:.2g} s", "Restart", "RestartSec"
            )

    def wait_end(self) -> None:
        """Wait until the unit does not run any more, however that came. A user's manager does not log a clean end."""
        before = self.show().n_restarts

        def ended() -> bool | None:
            state = self.show()
            return True if state.active in DOWN else False if state.n_restarts > before else None

        with awaiting(f"the end of {self.name}"):
            found = poll(ended, OsClock(), self.deadline_secs)
        if found is None:
            raise self.refuted(f"{self.name} still runs after {self.deadline_secs:g} s")
        if not found:
            raise self.refuted(f"{self.name} was started again where it had to stay down", "Restart")

    def wait(
        self,
        what: str,
        match: Callable[[Entry], bool],
        deadline_secs: float | None = None,
        instead: Callable[[], str] = str,
    ) -> Entry:
        """Wait for a journal entry of the unit since the mark. Refuted when none has come in time, and at once when the
        unit is down for good before. instead: what to say then of that which came in its place."""
        deadline = self.deadline_secs if deadline_secs is None else deadline_secs
        clock = OsClock()
        began = clock.monotonic()
        with awaiting(what):
            entry = self._stream.wait(
                lambda e: self._counts(e) and match(e), self._mark, deadline, self.is_down_for_good
            )
        if entry is None:
            waited = min(deadline, clock.monotonic() - began)
            raise self.refuted(f"{self.name}: {what} has not come within {waited:.2g} s{instead()}")
        return entry

    def is_down_for_good(self) -> bool:
        """Return whether it ended, unasked, and systemd will not start it again. Asks systemd only where the journal
        gives a reason to."""
        return bool(journal.how_it_ended(self.journal())) and self.show().active in DOWN

    def _counts(self, entry: Entry) -> bool:
        return entry.unit == self.name and entry.sent_us >= self._since_us

    def expect(self, condition: bool, message: str, *directives: str) -> None:
        """Refute with the unit's state and journal unless `condition` holds. directives: what of the unit's file it
        depends on, for the reader to know where that is set."""
        if not condition:
            raise self.refuted(message, *directives)

    def refuted(self, message: str, *directives: str) -> Refuted:
        """Return a refutation with the unit's state and journal. How the unit ended meanwhile, if it did, is the first
        thing that it says (V10)."""
        try:
            entries = self.whole_journal()
        except MachineError:
            # What refutes is not lost for that.
            entries = self.journal()
        state = str(self.show())
        if ended := self.how_it_ended(entries):
            message = f"{ended}; {message}"
        lines = [f"    {entry.identifier}[{entry.pid}]: {entry.message}" for entry in entries[-SHOWN_LINES:]]
        set_by = self._set_by(directives) if directives else ""
        return Refuted(
            "\n".join(
                [
                    message,
                    f"  state: {state}",
                    *([f"  set by: {set_by}"] if set_by else []),
                    f"  last journal lines ({len(lines)}):",
                    *lines,
                    f"  look further: {self.machine.journal_command(self.name)}",
                ]
            ),
            observed=message,
            state=f"{self.name} {state}",
            set_by=set_by,
            journal=entries,
        )

    def how_it_ended(self, entries: Sequence[Entry]) -> str:
        """Return how it ended, by these entries about it; empty when they tell of no end."""
        return journal.how_it_ended(entries)

    def _set_by(self, directives: Collection[str]) -> str:
        # What cannot be looked up must not take the place of the refutation.
        cat = self.machine.systemctl("cat", self.name).stdout
        found = [(name, unit.set_by(cat, name)) for name in directives]
        return "; ".join(f"{name}={told[0]} in {told[1]}" if told else f"{name}= in no file" for name, told in found)


class Metronome:
    """Counts restart delays with systemd's own hands.

    "It was not restarted, although several RestartSec= have passed" needs a measure of those that is neither a
    sleep nor our clock: a second unit with the same Restart= and RestartSec= that fails at once, started beside
    the first. Each of its restarts shows that this systemd, now, does restart what it should, after that delay.
    """

    def __init__(self, machine: Machine, name: str = METRONOME) -> None:
        self._machine = machine
        self.name = name
        """Of its unit."""

    def install(self, restart_sec: str) -> None:
        """Put its unit file, with this RestartSec=, where the machine's systemd finds it."""
        self._machine.path(f"{self._machine.unit_dir}/{self.name}").write_text(self.text(restart_sec))
        self._machine.systemctl("daemon-reload").expect(0)

    @staticmethod
    def text(restart_sec: str) -> str:
        """Return the unit file."""
        return (
            "[Unit]\nDescription=Fails at once, and is restarted each RestartSec\nStartLimitIntervalSec=0\n"
            f"[Service]\nExecStart=/bin/false\nRestart=on-failure\nRestartSec={restart_sec}\n"
        )

    def beats(self, count: int, watched: Unit, delays_secs: float = 0.0) -> list[UnitState]:
        """Let `count` restart delays pass, from now on. Returns how `watched` looked all the while, first to last.

        delays_secs: how long these are together, when that is not next to nothing.

        Raises MachineError when the metronome does not beat.
        """
        seen: list[UnitState] = []
        beats: list[int] = []

        def enough() -> bool | None:
            state, own = read_states(self._machine, watched.name, self.name)
            seen.append(state)
            beats.append(own.n_restarts)
            return True if own.n_restarts >= beats[0] + count else None

        with awaiting(f"{count} beats of the metronome"):
            beaten = poll(enough, OsClock(), DEADLINE_SECS + delays_secs)
        if beaten is None:
            raise MachineError(f"the metronome beat {beats[-1] - beats[0]} of {count} times: nothing can be said")
        return seen


def read_states(machine: Machine, *names: str) -> list[UnitState]:
    """Return the states of units, all of the same moment."""
    return unit.parse_all(machine.systemctl(*unit.show_argv(*names)).expect(0).stdout)
