"""A systemd service of anybody's under proof: the unit on a private machine, and ready-made promises about it.

A promise asks of a unit what its directives are for, and not whether they stand there: it kills, stops, pauses, looks.
Each knows its own sabotage, lines of a drop-in under which it must be refuted, which shows that it can fail.
pytest_hybrid_proofs.unit_under_proof makes the fixture.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.base.clock import OsClock, poll
from harness.base.errors import CommandFailed, HarnessError, MachineError, Refuted, Unavailable
from harness.base.journal import Entry
from harness.base.unit import UnitState, properties
from harness.base.waiting import awaiting
from harness.evidence.recorder import Recorder
from harness.evidence.shell import CommandResult
from harness.machines.machine import Machine
from harness.machines.stage import UNITS
from harness.machines.systemd import DOWN, JournalStream, Metronome, Unit

SABOTAGED_SECS_MIN, SABOTAGED_TIMES = 1.0, 3.0
"""A sabotaged unit is waited for so many times as long as the proof just took without the sabotage, and for so long at
least."""

ADMINISTERED = (Path("/etc/systemd/system"), Path("/run/systemd/system"))
"""Where a computer's administrator has units, and drop-ins for those of packages."""

KINDS = frozenset({".service", ".socket", ".target", ".timer", ".path", ".mount", ".automount", ".slice", ".swap"})
"""How the names of units end."""

ARCHIVES = "/run/proof-archives"
"""Where a machine's apt keeps packages."""

BEATS, DOWN_SECS = 3, 2.0
"""Restart delays, and seconds at least, after which a unit that was not restarted stays down."""

SHORTEST_RESTART_SECS = 0.1
"""A shorter RestartSec= is counted as that: systemd starts nothing more often for long."""

START_SECS = 60.0
"""How long a start may take, unless the unit's own TimeoutStartSec= is shorter."""

STEADY_SECS = 0.5
"""For so long a unit has to serve without a new start before anything else is asked of it: one that ends soon after
each start is active again and again."""

BACK_SECS = 2.0
"""The same, of one that was killed."""

STOP_SECS = 10.0
"""How long a promise that comes next waits for a unit's own stop before it kills whatever is left."""

OVERDUE_SECS = 1.0
"""After so long beyond its time a stop is not waited for any longer."""

APART_SECS = 1.0
"""A stop's length by the journal and by the command's own time differ by less."""

CONTROL_TIMES = 2.5
"""So many of a watchdog's periods a unit must live through that is not paused."""

GONE_SECS = 1.0
"""How long after systemd has told of its end a process may be there."""

SLOWEST_RESTART_SECS = 120.0
"""A longer RestartSec= is not waited for."""

ENDS = "/run/proof-ends"
"""In the machine: a line for each time that the program ran that ends at once."""

MACHINES_OWN = frozenset(
    {"systemd-journald.service", "dbus.service", "dbus-broker.service", "systemd-networkd.service", "init.scope"}
)
"""What a machine is made of, and not to be proven in it with another unit file."""

NAME_CHARS = 200
"""Of a unit's name: systemd takes 255, and a proof puts files beside it whose names are longer."""

MADE_BY_SYSTEMD = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "CacheDirectory": "/var/cache"}
"""Directive -> where a directory is made of it that the service may write to."""

API_FILE_SYSTEMS = ("/dev", "/proc", "/sys")
"""Not writable data, whoever may write to them: what ProtectSystem=strict leaves as it is."""


TOLD = "[Unit]\nCollectMode=inactive\n[Service]\nLogLevelMax=info\n"
"""On top of every unit: what became of it is kept, and what systemd says of it is not left out of the journal."""

_IGNORED = re.compile(r"(/\S+?):\d+: (.*[Ii]gnor.*)")
"""What systemd says of a line of a unit file: the file, and what is wrong with it."""

_SKIPPED = re.compile(r"was skipped because| skipped, unmet |Condition check resulted in")

_COMMANDS = {"condition": "ExecCondition", "start-pre": "ExecStartPre", "start-post": "ExecStartPost"}
"""State of a start -> what is being run."""

_KILLED = re.compile(r"Killing process .* with signal SIGKILL|timed out\. Killing")

_KILLED_BY_SIGKILL = (2, 9)
"""UnitState.exec_main_code and exec_main_status of a main process that did not end by itself."""

_DAC_OVERRIDE = 1
_LEAD_TO_IT = {0, _DAC_OVERRIDE, 3, 6, 7}
"""Capabilities (capabilities(7)): who may write to whatever may be written to, and who can make himself one who may, by
CAP_CHOWN, CAP_FOWNER, CAP_SETGID or CAP_SETUID."""


class ServiceUnit(Unit):
    """One unit on a private machine, for promises about it. What the service does wrong is a Refuted, never the failure
    of a command that was given to systemd."""

    def __init__(self, machine: Machine, stream: JournalStream, name: str, serves: Sequence[str] = ()) -> None:
        """serves: a command that exits 0, in the machine, as soon as the service does what it is there for."""
        super().__init__(machine, stream, name)
        self._serves = serves
        self.metronome = Metronome(machine, f"proof-metronome-{name}")
        self.start_secs = START_SECS
        """How long a start may take."""

    def expect_usable(self) -> None:
        """Refuted when systemd cannot make anything of the unit's file."""
        shown = self.property("LoadState")
        if shown != "loaded":
            told = [
                entry.message for entry in self._all_told() if "efus" in entry.message or _IGNORED.match(entry.message)
            ]
            why = f": {told[-1]}" if told else ""
            raise self.refuted(f"systemd cannot use {self.name} ({shown}){why}")

    def _all_told(self) -> list[Entry]:
        """What systemd has said of the unit since it is there, when it was read and reloaded included."""
        self.whole_journal()
        return [entry for entry in self._stream.since(0) if entry.unit == self.name and by_systemd(entry)]

    def ignored(self, file: str) -> list[str]:
        """What systemd said of lines of a file that it does not understand, and ignores."""
        found = [told for entry in self._all_told() if (told := _IGNORED.match(entry.message)) and told[1] == file]
        return list(dict.fromkeys(told[2] for told in found))

    def fresh(self) -> None:
        """Stop it, by SIGKILL when it takes long, and let systemd forget what became of it, how often it was started
        included. Nothing of it is left running."""
        # While it has a control group, which is asked about below.
        self.pids()
        told = ""
        try:
            told = self.machine.systemctl("stop", self.name, timeout_secs=STOP_SECS).stderr
        except CommandFailed:
            self.machine.systemctl("kill", "--signal=KILL", self.name)
        for process in self.left_running():
            self.machine.run("kill", "-KILL", process.partition(" ")[0])
        with awaiting(f"the end of {self.name}"):
            down = poll(lambda: True if self.show().active in DOWN else None, OsClock(), STOP_SECS)
        if down is None:
            raise MachineError(f"{self.name} cannot be stopped: {told.strip() or self.show()}")
        self.machine.systemctl("reset-failed", self.name)

    def stop(self) -> None:
        """Stop it and wait until it is down. Does nothing to a unit that is down. Refuted when that takes a minute."""
        try:
            done = self.machine.systemctl("stop", self.name, timeout_secs=self.start_secs)
        except CommandFailed:
            raise self.refuted(f"{self.name} has not stopped within {self.start_secs:g} s") from None
        if done.status != 0:
            raise self.refuted(f"systemd does not stop {self.name}: {done.stderr.strip()}")

    def left_running(self) -> list[str]:
        """What runs in its control group, each as `PID NAME`."""
        found = []
        for pid in self.pids():
            named = self.machine.run("cat", f"/proc/{pid}/comm").stdout.strip()
            found.append(f"{pid} {named}".strip())
        return found

    def try_start(self, *beside: str) -> CommandResult:
        """As Unit's. Refuted when it neither comes up nor fails within start_secs."""
        self.forget()
        try:
            return self.machine.systemctl("start", self.name, *beside, timeout_secs=self.start_secs)
        except CommandFailed:
            raise self.refuted(
                f"{self._start_lacks()} within {self.start_secs:g} s; {self.name} did not start",
                "Type",
                "TimeoutStartSec",
            ) from None

    def _start_lacks(self) -> str:
        """What a start still waits for."""
        shown = properties(self.machine.systemctl("show", self.name, "--property=Type,SubState,BusName").stdout)
        if shown.get("SubState") in ("condition", "start-pre", "start-post"):
            return f"no end of {_COMMANDS[shown['SubState']]}="
        kind = shown.get("Type", "")
        if kind == "dbus":
            return f"no {shown.get('BusName') or 'name'} on the bus"
        return "no READY=1" if kind in ("notify", "notify-reload") else f"no end of ExecStart= (Type={kind})"

    def start_serving(self) -> None:
        """Start it and wait until it serves. Refuted when it does not."""
        self.expect_usable()
        self.fresh()
        clock = OsClock()
        began = clock.monotonic()
        self.start()
        self.wait_serving()
        # What takes long once takes long again.
        self.deadline_secs = max(self.deadline_secs, 2 * (clock.monotonic() - began))

    def wait_serving(self, steady_secs: float = STEADY_SECS) -> None:
        """Wait until it runs and does what it is there for, and has done so for a while without a new start. Refuted
        when it does not in time, and at once when it is down for good."""
        clock = OsClock()
        run, since, longest, unknown, mute = "", 0.0, 0.0, "", False
        end = clock.monotonic() + self.deadline_secs + steady_secs

        def asked() -> bool:
            nonlocal unknown, mute
            try:
                # Half of what is left: whoever comes up deaf at first is asked again.
                secs = max(1.0, (end - clock.monotonic()) / 2)
                answer = self.machine.run(*self._serves, timeout_secs=secs)
            except CommandFailed:
                mute = True
                return False
            unknown = answer.stderr.strip() if answer.stderr.startswith("nsenter: failed to execute") else ""
            mute = False
            return answer.status == 0

        def serving() -> bool | None:
            nonlocal run, since, longest
            state = self.show()
            if self._is_down(state):
                return False
            serves = state.active == "active" and (not self._serves or asked())
            now = clock.monotonic()
            if not serves:
                run = ""
            elif run != state.invocation_id:
                run, since = state.invocation_id, now
            else:
                longest = max(longest, now - since)
            return True if run and now - since >= steady_secs else None

        what = f"`{shlex.join(self._serves)}`" if self._serves else "it to be active"
        with awaiting(what):
            done = poll(serving, clock, end - clock.monotonic())
        if done:
            return
        if unknown:
            raise HarnessError(f"nobody can tell whether {self.name} serves: {unknown}")
        state = self.show()
        if done is False:
            reason = f"it is {state.active}"
        elif mute:
            reason = f"{what} has not answered"
        elif longest:
            reason = f"never longer than {longest:.1f} s, restarted {state.n_restarts} times"
        else:
            reason = f"waited {self.deadline_secs:g} s (deadline_secs) for {what}"
        raise self.refuted(f"{self.name} does not serve: {reason}")

    def _is_down(self, state: UnitState) -> bool:
        """Whether it will not run again by itself."""
        if state.active == "inactive":
            # For a moment of each restart it is that as well, with a job on its way.
            return self.property("Job") in ("", "0") and self.show().active == "inactive"
        return state.active == "failed"

    def kill(self, signal_name: str = "KILL") -> None:
        """Send the main process a signal through systemd, which knows its PID. Refuted when there is none."""
        done = self.machine.systemctl("kill", f"--signal={signal_name}", "--kill-whom=main", self.name)
        if done.status != 0:
            raise self.refuted(f"{self.name} has no main process that could get a signal")

    def main_process(self) -> int:
        """The main process's PID. Refuted when there is none."""
        pid = self.show().main_pid
        if pid == 0:
            raise self.refuted(f"{self.name} has no main process")
        return pid

    def restart_secs(self) -> float:
        """How long systemd waits before it starts it again. HarnessError when that is too long to wait for."""
        shown = self.property("RestartUSec")
        if (secs := seconds(shown)) > SLOWEST_RESTART_SECS:
            raise HarnessError(
                f"{self.name} is started again after {shown} (RestartSec=), and a promise waits "
                f"{SLOWEST_RESTART_SECS:g} s at most: give unit_under_proof a drop_in with a shorter one"
            )
        return secs

    def wait_restarts(self, times: int) -> None:
        """As Unit's; what systemd waits before each (RestartSec=) comes on top of the deadline."""
        usual = self.deadline_secs
        self.deadline_secs += times * self.restart_secs()
        try:
            super().wait_restarts(times)
        finally:
            self.deadline_secs = usual

    def how_it_ended(self, entries: Sequence[Entry]) -> str:
        """As Unit's, with what systemd and a service that logs no JSON say."""
        systemds = [entry.message for entry in entries if by_systemd(entry)]
        skipped = [message for message in systemds if _SKIPPED.search(message)]
        if skipped:
            return f"not started by systemd: {skipped[-1]}"
        limited = (
            " (start request repeated too quickly)" if any("repeated too quickly" in one for one in systemds) else ""
        )
        told = super().how_it_ended(entries)
        if not told:
            return limited.strip()
        if told.startswith("no READY=1"):
            return told.replace("no READY=1 (M4)", self._start_lacks(), 1)
        if told.startswith("a clean end before READY=1"):
            told = told.replace(" (M4)", "") if self.property("Type").startswith("notify") else "result protocol"
        if _barked(entries):
            told = f"its watchdog (WatchdogSec=) was not fed: {told}"
        failed = [message for message in systemds if message.startswith(f"{self.name}: Failed to ")]
        if told.startswith("result ") and failed:
            return f"{told}: {failed[-1].removeprefix(f'{self.name}: ')}{limited}"
        own = [entry for entry in entries if entry.identifier != "systemd" and entry.message.strip()]
        words = f": {own[-1].message.strip()}" if own and ": " not in told else ""
        return f"{told}{words}{limited}"

    @contextmanager
    def drop_in(self, name: str, directives: str) -> Iterator[None]:
        """Put lines of [Service] on top of the unit's file for a while. HarnessError when that is not in effect, or
        systemd ignores one of them."""
        # Of all drop-ins the one whose name comes last counts, and the unit may have an override.conf.
        directory = f"{self.machine.unit_dir}/{self.name}.d"
        inside = f"{directory}/zz-{name}.conf"
        path = self.machine.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[Service]\n{directives}\n", "utf-8")
        try:
            self.machine.systemctl("daemon-reload").expect(0)
            # There a name stands as it is, where a property is quoted.
            shown = self.machine.systemctl("cat", self.name)
            _, found, rest = shown.stdout.partition(f"# {inside}\n")
            later = [line for line in rest.split("\n") if line.startswith("# /")]
            if not found or any(not line.startswith(f"# {directory}/zz-") for line in later):
                self.expect_usable()
                raise HarnessError(f"{inside} is not in effect: {shown.stdout}{shown.stderr}")
            if ignored := self.ignored(inside):
                raise HarnessError(f"systemd ignores a line of the drop-in {name}: {'; '.join(ignored)}")
            yield
        finally:
            with self._while_there_is_a_machine():
                self.fresh()
                path.unlink()
                self.machine.systemctl("daemon-reload").expect(0)

    @contextmanager
    def _while_there_is_a_machine(self) -> Iterator[None]:
        """What is put in order again, of a machine that may be down by now: no other proof has to answer for that."""
        try:
            yield
        except (HarnessError, OSError):
            if self.machine.alive():
                raise

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """Let systemd keep for a while what became of it, also after a clean end, when it forgets a unit that no other
        has to do with."""
        other = f"proof-remembers-{self.name.removesuffix('.service')}.target"
        path = self.machine.path(f"{self.machine.unit_dir}/{other}")
        path.write_text(f"[Unit]\nDefaultDependencies=no\nAfter={self.name}\n", "utf-8")
        self.machine.systemctl("start", other).expect(0)
        try:
            yield
        finally:
            with self._while_there_is_a_machine():
                self.machine.systemctl("stop", other)
                path.unlink()

    @contextmanager
    def ending_with(self, status: int) -> Iterator[None]:
        """Have another program in the place of the unit's, which ends at once with an exit status. What has to be done
        before it (ExecStartPre=) is done each time. HarnessError where that is in a root of the unit's own."""
        rooted = self.property("RootDirectory") or self.property("RootImage")
        if rooted and self.property("ExecStartPre"):
            raise HarnessError(f"{self.name} has a root of its own ({rooted}), in which no other program can be put")
        # Of a command with `-` every end is a good one (systemd.service(5)).
        ignored = "-" if "ignore_errors=no" not in self.property("ExecStart") else ""
        # With full privileges, so that no sandbox keeps it from being run: the status is what is asked about.
        program = f"ExecStart=\nExecStart={ignored}+/bin/sh -c 'echo >>{ENDS}; exit {status}'"
        self.machine.path(ENDS).unlink(missing_ok=True)
        with self.drop_in("50-ends", f"Type=exec\nExecStartPost=\nRootDirectory=\nRootImage=\n{program}"):
            yield

    def ends(self) -> int:
        """How often the program of ending_with() ran."""
        path = self.machine.path(ENDS)
        return path.read_text().count("\n") if path.exists() else 0


@dataclass(frozen=True)
class Promise:
    """What a unit is to keep, and how it is broken on purpose."""

    name: str
    prove: Callable[[ServiceUnit], None]
    """Refuted when the unit does not keep it."""
    sabotage: str
    """Lines for [Service] under which it must be refuted."""
    reason: str
    """Regular expression that this refutation must match."""
    further: tuple[tuple[str, str], ...] = ()
    """The same for each further way in which it can be broken: lines for [Service], and the refutation's expression."""

    def __str__(self) -> str:
        return self.name

    def prove_it_can_fail(self, unit: ServiceUnit) -> None:
        """Prove it, break it on purpose in each way that is known, and expect each refutation. AssertionError when one
        does not come, or for another reason; Refuted when the promise is not kept to begin with."""
        clock = OsClock()
        began = clock.monotonic()
        try:
            self.prove(unit)
        except BaseException:
            # Whoever comes next expects it stopped, as a promise that is kept leaves it.
            unit.fresh()
            raise
        usual = unit.deadline_secs
        unit.deadline_secs = max(SABOTAGED_SECS_MIN, SABOTAGED_TIMES * (clock.monotonic() - began))
        try:
            for directives, reason in ((self.sabotage, self.reason), *self.further):
                self._expect_refutation(unit, directives, reason)
        finally:
            unit.deadline_secs = usual

    def _expect_refutation(self, unit: ServiceUnit, directives: str, reason: str) -> None:
        try:
            with unit.drop_in("90-sabotage", directives):
                self.prove(unit)
        except Refuted as error:
            if not re.search(reason, error.observed):
                raise AssertionError(f"{self.name}: refuted, but not by /{reason}/: {error}") from error
            return
        raise AssertionError(f"{self.name}: not refuted under {directives!r}, so it proves nothing")


def restarts_on(status: int = 1) -> Promise:
    """Systemd starts it again when its program ends with this exit status: the program runs a second time.

    Takes the unit's RestartSec=, two minutes at most.
    """
    _expect_status(status)

    def prove(unit: ServiceUnit) -> None:
        # One that does not serve with its own program is not started again in any sense that matters.
        unit.start_serving()
        unit.fresh()
        with unit.ending_with(status):
            unit.try_start()
            unit.wait_restarts(1)
            # systemd counts a restart before it knows whether it may start the unit.
            again = poll(
                lambda: True if unit.ends() > 1 else False if unit._is_down(unit.show()) else None,
                OsClock(), unit.deadline_secs,
            )  # fmt: skip
            if not again:
                raise unit.refuted(
                    f"{unit.name} was not started again on exit status {status}",
                    "Restart", "StartLimitBurst", "StartLimitIntervalSec",
                )  # fmt: skip

    return Promise(
        f"restarts on exit status {status}", prove, "Restart=no\nRestartForceExitStatus=", r"was restarted 0 times",
        (("[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h", r"was not started again"),),
    )  # fmt: skip


def stays_down_on(status: int) -> Promise:
    """It is not started again when its program ends with this exit status.

    Takes three of the unit's RestartSec=, of which none may be longer than two minutes, and two seconds at least. What
    ExecStartPre= ends with is not asked about; that systemd does not apply RestartPreventExitStatus= to.
    """
    _expect_status(status)

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        unit.fresh()
        delay = unit.restart_secs()
        unit.metronome.install(unit.property("RestartUSec"))
        beats = max(BEATS, math.ceil(DOWN_SECS / max(delay, SHORTEST_RESTART_SECS)))
        with unit.ending_with(status):
            try:
                unit.try_start(unit.metronome.name)
                seen = unit.metronome.beats(beats, unit, beats * delay)
            finally:
                unit.machine.systemctl("stop", unit.metronome.name)
            last, ends = seen[-1], unit.ends()
            again = max(last.n_restarts, ends - 1)
            unit.expect(
                again <= 0, f"restarted {again} times on exit status {status}", "Restart", "RestartPreventExitStatus"
            )
            down = last.active == "inactive" or (last.active, last.exec_main_status) == ("failed", status)
            unit.expect(ends == 1 and down, f"expected it to have ended with status {status}: {last}")

    return Promise(
        f"stays down on exit status {status}", prove,
        # A Type=oneshot is not allowed to be restarted always.
        f"Restart={'on-failure' if status else 'always'}\nSuccessExitStatus=\nRestartPreventExitStatus=",
        r"restarted [1-9]\d* times",
    )  # fmt: skip


def survives_sigkill(serves_secs: float = BACK_SECS) -> Promise:
    """Killed, it comes back by itself as another process, and serves again, for so many seconds at least.

    Takes the unit's RestartSec=, two minutes at most.
    """
    _expect_seconds(serves_secs)

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        before = unit.show()
        unit.kill("KILL")
        unit.wait_restarts(1)
        unit.wait_serving(serves_secs)
        after = unit.show()
        unit.expect(
            after.invocation_id != before.invocation_id and after.main_pid not in (0, before.main_pid),
            f"still process {before.main_pid} after SIGKILL",
        )
        unit.fresh()

    # The second breaks every start but the first, also where the unit's own root has no program for it.
    return Promise(
        "survives SIGKILL", prove, "RestartForceExitStatus=\nRestartPreventExitStatus=SIGKILL",
        r"was restarted 0 times", (("[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h", r"does not serve"),),
    )  # fmt: skip


def watchdog_bites(within_secs: float = 10.0) -> Promise:
    """A paused process, which says nothing any more, is ended by systemd within so many seconds and is gone then, and
    one that is not paused is not.

    Takes two and a half of the unit's WatchdogSec= before.
    """
    _expect_seconds(within_secs)

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        period = seconds(unit.property("WatchdogUSec"))
        # A longer one does not bite in time, which is all that there is to know.
        if 0 < period <= within_secs:
            unit.wait_serving(CONTROL_TIMES * period)
        paused = unit.main_process()
        unit.mark()
        unit.kill("STOP")
        unit.wait(
            "the watchdog's report of systemd",
            lambda entry: by_systemd(entry) and "Failed with result 'watchdog'" in entry.message,
            within_secs,
            lambda: ": it barked, and nothing has ended (TimeoutAbortSec=)" if _barked(unit.journal()) else "",
        )
        # systemd tells of an end before it takes the dead process off the list of processes.
        process = unit.machine.path(f"/proc/{paused}")
        gone = poll(lambda: None if process.exists() else True, OsClock(), GONE_SECS)
        unit.expect(gone is not None, f"process {paused} is still there after the bite", "KillMode", "SendSIGKILL")
        unit.fresh()

    return Promise("watchdog bites", prove, "WatchdogSec=0", r"watchdog's report of systemd has not come")


def _barked(entries: Sequence[Entry]) -> bool:
    return any(by_systemd(entry) and "Watchdog timeout" in entry.message for entry in entries)


def stops_within(secs: float) -> Promise:
    """Asked to stop, it ends by itself within so many seconds, without an error and without SIGKILL, whoever sends it,
    and leaves no process running in its control group."""
    _expect_seconds(secs)

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        unit.left_running()
        unit.mark()
        most = secs + OVERDUE_SECS
        with unit.remembered():
            try:
                done = unit.machine.systemctl("stop", unit.name, timeout_secs=most)
            except CommandFailed:
                raise unit.refuted(
                    f"took more than {most:.2f} s to stop, at most {secs:g}: {unit.show().sub}",
                    "KillSignal",
                    "TimeoutStopSec",
                ) from None
            if done.status != 0:
                raise unit.refuted(f"systemd does not stop {unit.name}: {done.stderr.strip()}")
            state = unit.show()
        entries = unit.whole_journal()
        unit.expect(
            (state.active, state.result) == ("inactive", "success"), f"did not stop cleanly: result {state.result}",
            "KillSignal", "TimeoutStopSec",
        )  # fmt: skip
        killed = next((e.message for e in entries if by_systemd(e) and _KILLED.search(e.message)), "")
        if not killed and (state.exec_main_code, state.exec_main_status) == _KILLED_BY_SIGKILL:
            killed = "its main process was killed by SIGKILL"
        unit.expect(not killed, f"did not stop cleanly: {killed}", "KillMode", "KillSignal", "TimeoutStopSec")
        left = unit.left_running()
        unit.expect(not left, f"left running: {', '.join(left)}", "KillMode")
        took = stopping_secs(entries, done.seconds, secs)
        unit.expect(took <= secs, f"took {took:.2f} s to stop, at most {secs:g}")

    return Promise(
        f"stops within {secs:g} s", prove,
        # One that has no process any more has a stop all the same.
        "ExecStop=-+/bin/sleep 1000\nKillSignal=SIGURG\nSendSIGHUP=no\nTimeoutStopSec=200ms",
        r"did not stop cleanly: result timeout",
        ((f"ExecStop=+/bin/sleep {secs + 1:g}\nTimeoutStopSec={secs + 60:g}", r"took .*\d s to stop"),),
    )  # fmt: skip


def by_systemd(entry: Entry) -> bool:
    """Whether a machine's systemd says it, and not a service that calls itself so (SyslogIdentifier=)."""
    return entry.identifier == "systemd" and entry.pid == 1


def stopping_secs(entries: Sequence[Entry], command_secs: float, limit: float) -> float:
    """How long a stop took, by systemd's own words, which leave out how long systemctl takes.

    They must agree with the command that asked for it; where they do not, or are missing, the command's time counts.
    MachineError when the two differ so much that one of them keeps the limit and the other does not.
    """
    told = [entry for entry in entries if by_systemd(entry)]
    began = next((entry.sent_us for entry in told if entry.message.startswith("Stopping ")), None)
    ended = next((entry.sent_us for entry in reversed(told) if entry.message.startswith("Stopped ")), None)
    if began is None or ended is None or ended < began:
        return command_secs
    took = (ended - began) / 1e6
    if took <= limit < command_secs and command_secs - took > APART_SECS:
        raise MachineError(f"the stop took {took:.2f} s by the journal and {command_secs:.2f} s by systemctl")
    return took if took <= command_secs else command_secs


def exposure_at_most(limit: float) -> Promise:
    """`systemd-analyze security` gives it at most this exposure, from 0 (none) to 10."""

    if not 0 <= limit <= 10:
        raise ValueError(f"an exposure is from 0 to 10, not {limit}")

    def prove(unit: ServiceUnit) -> None:
        unit.expect_usable()
        shown = unit.machine.run("systemd-analyze", "security", "--no-pager", unit.name)
        overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown.stdout)
        if overall is None:
            raise MachineError(f"systemd-analyze said: {shown.stdout}{shown.stderr}")
        unit.expect(float(overall[1]) <= limit, f"exposure {overall[1]}, at most {limit:g}")

    return Promise(
        f"exposure at most {limit:g}", prove,
        "DynamicUser=no\nUser=root\nNoNewPrivileges=no\nProtectSystem=no\nProtectHome=no\nPrivateDevices=no\n"
        "PrivateNetwork=no\nPrivateUsers=no\nRestrictNamespaces=no\nRestrictAddressFamilies=\nSystemCallFilter=\n"
        "CapabilityBoundingSet=~",
        r"exposure [\d.]+, at most",
    )  # fmt: skip


def writes_only_below(*directories: str) -> Promise:
    """As the threads of its main process run, it can write to nothing but these directories, and /dev, /proc and /sys.

    Every file and directory is asked about that is on a file system that it has not mounted read-only: whether its
    users (the real and the saved one too), groups and capabilities let it write there, or make it writable; and each
    file that it holds open. That who has CAP_SYS_ADMIN may mount things anew, and who has CAP_SYS_PTRACE may speak for
    others, is not asked about. A service with PrivateTmp= has /tmp and /var/tmp to name as well.
    """

    for path in directories:
        if not path.startswith("/"):
            raise ValueError(f"writes_only_below: {path!r} is not an absolute path")
    directories = tuple(path.rstrip("/") or "/" for path in directories)
    if "/" in directories:
        raise ValueError("writes_only_below: there is not a directory that is not below /")

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        found = _writable(unit, [*API_FILE_SYSTEMS, *directories])
        unit.expect(not found, f"may write to {found}", "ProtectSystem", "ReadWritePaths")
        unit.fresh()

    # One more directory of its own, in a place that is not its own already.
    made = (f"{name}=proof-left-open" for name, place in MADE_BY_SYSTEMD.items() if not _is_below(place, directories))
    return Promise(
        f"writes only below {' '.join(directories) or 'nothing'}", prove,
        next(made, "TemporaryFileSystem=/proof-left-open:mode=1777"), r"may write to \S*/proof-left-open",
    )  # fmt: skip


def no_network() -> Promise:
    """Each thread of its processes has a network of its own, in which nothing is up but the loopback interface.

    That takes PrivateNetwork=; IPAddressDeny= and RestrictAddressFamilies= leave other ways, and are not asked about.
    """

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        main = unit.main_process()
        # The last thread of each network is asked below: one of the main process, which stays, while others may go.
        pids = sorted({*unit.pids(), main}, key=lambda pid: pid == main)
        places = " ".join(f"/proc/{pid}/task/*" for pid in pids)
        listed = unit.machine.run("sh", "-c", f"for one in {places}; do echo $one $(readlink $one/ns/net); done").stdout
        of = {place: network for place, _, network in (line.partition(" ") for line in listed.splitlines()) if network}
        computers = unit.machine.run("readlink", "/proc/1/ns/net").stdout.strip()
        shared = sorted({int(place.split("/")[2]) for place, network in of.items() if network == computers})
        if shared and any("PrivateNetwork=yes is configured, but" in entry.message for entry in unit.whole_journal()):
            raise Unavailable(
                "systemd could not make a network for the unit here, and went on without (see its journal)",
                "a computer on which a private machine may make network namespaces",
            )
        unit.expect(not shared, f"shares the computer's network: process {shared}", "PrivateNetwork")
        for place in {network: place for place, network in of.items()}.values():
            shown = unit.machine.run("nsenter", f"--net={place}/ns/net", "ip", "-oneline", "link", "show", "up")
            if not unit.machine.path(place).exists():
                continue
            up = set(re.findall(r"^\d+: ([^:@]+)", shown.expect(0).stdout, re.MULTILINE)) - {"lo"}
            unit.expect(not up, f"its network leads somewhere: {', '.join(sorted(up))}")
        unit.fresh()

    return Promise("no network", prove, "PrivateNetwork=no", r"shares the computer's network")


def _writable(unit: ServiceUnit, allowed: Sequence[str]) -> str:
    """The first file or directory outside of these directories that the running unit may write to; else empty."""
    pid = unit.main_process()
    resolved = unit.machine.run("realpath", "--canonicalize-missing", "--", *allowed).expect(0).stdout.splitlines()
    allowed = [*allowed, *resolved]
    mounts = unit.machine.path(f"/proc/{pid}/mountinfo").read_text("utf-8", "surrogateescape")
    # A thread may have given up what another has kept.
    who = dict.fromkeys((user, *privileges(status, user)) for status in _statuses(unit, pid) for user in users(status))
    for place in writable_mounts(mounts):
        if _is_below(place, allowed):
            continue
        left_out = [word for path in allowed for word in ("-path", f"./{_literal(path)}", "-prune", "-o")]
        # By who may do everything: what lies in a directory that it may not list is reached by its name all the same.
        listed = shlex.join(
            ["find", f"./{place.lstrip('/')}", "-xdev", *left_out, "-type", "f,d", "-writable", "-print0"]
        )
        for user, *rights in who:
            asked = shlex.join(
                ["setpriv", *rights, "find", "-files0-from", "-", "-maxdepth", "0",
                 "(", "-writable", "-o", "-uid", user, ")", "-print", "-quit"]
            )  # fmt: skip
            # The directory is that of the unit's own mounts; the programs are the machine's, which it may not run.
            looked = unit.machine.run("sh", "-c", f"cd /proc/{pid}/root && {listed} | {asked}; echo looked")
            *found, end = looked.stdout.splitlines()
            if end != "looked" or (not found and "setpriv:" in looked.stderr):
                raise MachineError(f"cannot look at what {unit.name} may write to: {looked.stderr}")
            if found:
                return found[0].removeprefix(".")
    return next((path for path in _open_to_write(unit, pid) if not _is_below(path, allowed)), "")


def _statuses(unit: ServiceUnit, pid: int) -> Iterator[str]:
    """/proc/PID/status of each thread of a process; one may end meanwhile."""
    for thread in sorted(unit.machine.path(f"/proc/{pid}/task").iterdir()):
        with suppress(OSError):
            yield (thread / "status").read_text()


def _open_to_write(unit: ServiceUnit, pid: int) -> Iterator[str]:
    """The files that a process has open for writing, such as its StandardOutput=append:, deleted ones left out."""
    listed = unit.machine.run("find", f"/proc/{pid}/fd", "-type", "l", "-xtype", "f", "-printf", "%f %l\\n").stdout
    for line in listed.splitlines():
        number, _, path = line.partition(" ")
        info = unit.machine.path(f"/proc/{pid}/fdinfo/{number}").read_text()
        flags = next(int(told.split()[1], 8) for told in info.splitlines() if told.startswith("flags:"))
        if path.startswith("/") and flags & os.O_ACCMODE != os.O_RDONLY and not path.endswith(" (deleted)"):
            yield path


def _literal(path: str) -> str:
    """A path as find's -path takes it, which knows wildcards."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", path.lstrip("/"))


def _expect_status(status: int) -> None:
    if not 0 <= status <= 255:
        raise ValueError(f"an exit status is from 0 to 255, not {status}")


def _expect_seconds(secs: float) -> None:
    if not 0 <= secs < float("inf"):
        raise ValueError(f"not a number of seconds: {secs}")


_UNITS_SECS = {
    "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "month": 2629800.0,
    "y": 31557600.0,
}  # fmt: skip


def seconds(shown: str) -> float:
    """Seconds of a time span as systemd shows it (systemd.time(7)): `1min 30s`, `infinity`. ValueError for none."""
    if shown == "infinity":
        return float("inf")
    if shown == "0":
        return 0.0
    found = re.findall(r"([\d.]+)(us|ms|min|month|s|h|d|w|y)", shown)
    if not found or " ".join(f"{number}{unit}" for number, unit in found) != shown:
        raise ValueError(f"not a time span: {shown!r}")
    return sum(float(number) * _UNITS_SECS[unit] for number, unit in found)


def check_definition(name: str, text: str | None, drop_in: str, serves: Sequence[str]) -> None:
    """ValueError, in one line, for what cannot be a service under proof: its name, its unit file's text, the lines on
    top, or the command that tells that it serves."""
    if len(name) > NAME_CHARS or not re.fullmatch(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]+)?\.service", name):
        raise ValueError(
            f"unit_under_proof({name[:60]!r}): not the name of a service. It ends with `.service`, is no longer than "
            f"{NAME_CHARS} characters, and has only ASCII letters, digits and any of : - _ . \\ in it; of a template "
            "(`name@.service`) an instance is proven, such as `name@one.service`"
        )
    if text is not None and name in MACHINES_OWN:
        raise ValueError(f"unit_under_proof({name!r}): a private machine needs its own {name}")
    if text is not None and (wrong := wrong_text(text)):
        raise ValueError(f"unit_under_proof({name!r}): the unit's text {wrong}")
    if "\0" in drop_in:
        raise ValueError(f"unit_under_proof({name!r}): drop_in has a NUL character in it")
    if isinstance(serves, str):
        raise ValueError(
            f"unit_under_proof({name!r}): serves is a list of words, such as {shlex.split(serves)!r}, not {serves!r}"
        )


def wrong_text(text: str) -> str:
    """What keeps a text from being a service's unit file; empty for one that may be one."""
    if "\0" in text:
        return "has a NUL character in it"
    sections = {line.strip() for line in text.removeprefix("\ufeff").splitlines()}
    return "" if "[Service]" in sections else "has no section [Service]"


def warn_of_ignored(unit: ServiceUnit) -> None:
    """Warn of lines of the unit's own file that systemd ignores: they stand there, and nothing is proven of them."""
    if ignored := unit.ignored(unit.property("FragmentPath")):
        warnings.warn(f"systemd ignores lines of {unit.name}: {'; '.join(ignored)}", stacklevel=2)


def _is_below(path: str, directories: Sequence[str]) -> bool:
    return any(path == one or path.startswith(f"{one.rstrip('/')}/") for one in directories)


def writable_mounts(mountinfo: str) -> list[str]:
    """Where something is mounted that may be written to, from /proc/PID/mountinfo."""
    lines = [line.split() for line in mountinfo.splitlines()]
    # Options of the mount are the sixth field, those of the file system the last.
    return [
        re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        for fields in lines
        if "rw" in fields[5].split(",") and "rw" in fields[-1].split(",")
    ]


def users(status: str) -> list[str]:
    """The users that a process is or can become again, from its /proc/PID/status: the effective one first."""
    real, effective, saved = _fields(status)["Uid"][:3]
    return list(dict.fromkeys([effective, real, saved]))


def privileges(status: str, user: str) -> list[str]:
    """What setpriv(1) has to be told to be as a process, from its /proc/PID/status, as one of its users: user, groups,
    and all capabilities that it can raise, those included that these lead to."""
    fields = _fields(status)
    permitted = int(fields["CapPrm"][0], 16)
    held = {number for number in range(64) if permitted >> number & 1}
    if held & _LEAD_TO_IT:
        # Capabilities of anybody but root do not count where it is asked what may be written to (access(2)).
        user = "0"
        held.add(_DAC_OVERRIDE)
    capabilities = ",".join(["-all", *(f"+cap_{number}" for number in sorted(held))])
    groups = [f"--groups={','.join(fields['Groups'])}"] if fields["Groups"] else ["--clear-groups"]
    return [
        f"--reuid={user}", f"--regid={fields['Gid'][1]}", *groups,
        f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", f"--bounding-set={capabilities}",
    ]  # fmt: skip


def _fields(status: str) -> dict[str, list[str]]:
    return {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}


@contextmanager
def under_proof(
    recorder: Recorder,
    machine: Machine,
    name: str,
    text: str | None,
    archives: Path,
    *,
    package: str | None = None,
    drop_in: str = "",
    serves: Sequence[str] = (),
) -> Iterator[ServiceUnit]:
    """Have a unit in a private machine for a while, as put() does, with lines for [Service] on top, to be proven."""
    put(machine, name, text, package, archives)
    _expect_own_name(name, machine.systemctl("show", name, "--property=Id", "--value").stdout.strip() or name, name)
    with closing(JournalStream(recorder, machine, [name])) as stream:
        unit = ServiceUnit(machine, stream, name, serves)
        with unit.drop_in("05-told", TOLD):
            warn_of_ignored(unit)
            with unit.drop_in("10-proof", drop_in):
                yield unit


def put(machine: Machine, name: str, text: str | None, package: str | None, archives: Path) -> None:
    """Have a unit in a private machine: its text as a unit file, or the computer's own, or what a package brings.

    archives: where packages may lie that need not be fetched. Raises Unavailable on any other machine, and for a unit
    that is not to be had.
    """
    if machine.kind != "private":
        raise Unavailable(f"a {machine.kind} systemd is not ours to put {name} into", "use --proofs-systemd=private")
    if text is not None and (wrong := wrong_text(text)):
        raise HarnessError(f"the unit file of {name} {wrong}")
    if text is not None:
        machine.path(f"{machine.unit_dir}/{name}").write_text(text, "utf-8")
        machine.systemctl("daemon-reload").expect(0)
        return
    files = administered(name)
    for place, content in files.items():
        target = machine.path(f"{ADMINISTERED[0]}/{place}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    if files:
        machine.systemctl("daemon-reload")
    if machine.systemctl("cat", name).status != 0:
        if package is None:
            raise Unavailable(f"{name} is not installed on this computer", f"install what has {name}")
        _install(machine, package, archives)


def administered(name: str, administrators: Sequence[Path] = ADMINISTERED, vendors: Path = UNITS) -> dict[str, bytes]:
    """Return what a machine lacks of this computer's units: the files that somebody has put beside those of packages,
    since a unit may name any of them, and all drop-ins, as place below a directory of units -> text.

    administrators: directories of units, the one that counts most first; vendors: that of packages, whose unit files
    each machine has. Raises Unavailable for a unit that is masked, HarnessError for another name of one.
    """
    found: dict[str, bytes] = {}
    asked = {name, f"{name.partition('@')[0]}@.service" if "@" in name else name}
    own = (file for directory in administrators for file in sorted(directory.glob("*.*")))
    for file in own:
        if file.is_dir() or file.suffix not in KINDS or file.name in MACHINES_OWN or file.name in found:
            continue
        text, stands_for = file.read_bytes() if file.is_file() else b"", file.resolve().name
        if file.name in asked:
            if not text:
                raise Unavailable(f"{name} is masked on this computer ({file})", f"systemctl unmask {name}")
            _expect_own_name(name, stands_for, file.name)
        if not text or stands_for == file.name:
            found[file.name] = text
    for file in (file for directory in (*administrators, vendors) for file in sorted(directory.glob("*.d/*.conf"))):
        if file.parent.stem not in MACHINES_OWN:
            # One that is masked is as an empty one.
            found.setdefault(f"{file.parent.name}/{file.name}", file.read_bytes() if file.is_file() else b"")
    return found


def _expect_own_name(name: str, found: str, asked: str) -> None:
    if found != asked:
        raise HarnessError(f"{name} is another name of {found}, by which systemd speaks of it: ask for that")


def _install(machine: Machine, package: str, archives: Path) -> None:
    # The machine's root is thrown away: nothing of this reaches the computer.
    kept = machine.path(ARCHIVES)
    (kept / "partial").mkdir(parents=True, exist_ok=True)
    for path in archives.glob("*.deb"):
        shutil.copy(path, kept)
    # A proof starts it, when its drop-ins are there.
    policy = machine.path("/usr/sbin/policy-rc.d")
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    # Units are read-only in a machine: copies of the computer's, for this run alone.
    machine.run("mount", "-o", "remount,bind,rw", str(UNITS)).expect(0)
    done = machine.run(
        "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet", "--no-install-recommends",
        "-o", f"Dir::Cache::Archives={ARCHIVES}", package, timeout_secs=120.0,
    )  # fmt: skip
    if done.status != 0:
        told = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(
            f"the package {package} cannot be had: {told[-1] if told else 'apt-get says nothing'}",
            f"apt-get install {package}",
        )
