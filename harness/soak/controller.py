"""`hybrid-soak`: watches the running engine for hours, and drives it through systemctl only (contract section 9).

Each look at the computer is followed by decisions, each decision is on disk before it is acted on:

    look      unit, journal, database, PSI, memory
    decide    why did a run end (exit_actions), does it stand still (stall), is the computer pressed (ladder)
    act       systemctl restart or stop; rewrite `[engine] sample_every` or `ingest_mode`
    record    a decision line for each action, a sample line for each look, every command in the flight record

Who restarted the engine: every run of it has an invocation id. One that ended although the controller did not
touch it is down or has been restarted by systemd; the journal says with what result, which tells a watchdog's kill
from an exit. One that ended cleanly and was started again was restarted by somebody else, an operator. A run that
the controller itself replaced is never answered for how it ended.

At the end, whatever ends it, config and engine are as they were found (put_back.py), and a report is written.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from harness.base import files, pressure, progress, terminal
from harness.base.clock import Clock, OsClock
from harness.base.errors import HarnessError, RecorderError
from harness.base.pressure import Pressure, Unknown
from harness.base.unit import UnitState
from harness.evidence.recorder import Recorder, Unrecorded
from harness.evidence.shell import Shell
from harness.observing import health, observe
from harness.observing.judgement import Finding
from harness.observing.ledger_view import LedgerUnreadable
from harness.observing.observe import Computer, LocalComputer
from harness.observing.stall import Progress, StallClock
from harness.soak import exit_actions, put_back
from harness.soak.decisions import KEPT_BYTES, Action, DecisionLog, Log, new_run_id, read, set_aside, timestamp
from harness.soak.exit_actions import SOAK_START, Endings, Exit, ExitPolicy, awaits_restart, from_unit, is_down
from harness.soak.ladder import Ladder, Step
from harness.soak.rewrite import ConfigFile, ConfigTrouble

EXIT_COMPLETE = 0
EXIT_ABORT = 1
EXIT_STOPPED = 3
"""Ended before its time, without a finding: neither a success nor a failure."""

INGEST_MODES = {"synthetic": "SYNTHETIC", "replay": "REPLAY", "mockws": "MOCK_WS", "realws": "REAL_WS"}
"""--mode, as the engine's --ingest spells it -> `ingest_mode` in the config."""

BLIND_LOOKS_MAX = 3
"""Looks in a row at unit and journal that may fail; a soak that sees nothing proves nothing."""

NAP_SECS = 0.2
"""A sleeping process does not see the flag that a signal handler sets, so sleep is taken in naps."""

SAMPLES, RECORD = "soak_samples.jsonl", "soak_record.jsonl"
"""Beside the decision log: what the plots are made of, and every command."""

SCREEN_LINE_SECS = 60.0
"""Without a terminal, a line on how it goes is printed so often."""


@dataclass(frozen=True)
class Options:
    """What a soak was asked for. Times in seconds."""

    seconds: float
    mode: str
    """One of INGEST_MODES."""
    psi_actions: str
    """on, logonly or off."""
    stall_threshold_secs: float
    recover_after_secs: float
    """0: never step down."""
    poll_secs: float
    abort_file: Path


class _End(Exception):
    """The soak is over."""

    def __init__(self, action: Action, reason: str, status: int) -> None:
        super().__init__(reason)
        self.action = action
        self.reason = reason
        self.status = status


def _abort(reason: str) -> _End:
    return _End(Action.ABORT, reason, EXIT_ABORT)


class Screen:
    """Where a human watches: a line that is redrawn on a terminal, plain lines elsewhere."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._redrawn = terminal.redraws(stream)
        self._colour = terminal.coloured(stream)
        self._clock = clock
        self._next_line_at = 0.0

    def say(self, text: str) -> None:
        """Print one line that stays."""
        self._put(f"{terminal.CLEAR}{text}\n" if self._redrawn else f"{text}\n")

    def draw(self, sample: Mapping[str, object], seconds: float) -> None:
        """Show how it goes."""
        if self._redrawn:
            width = terminal.columns()
            self._put(f"{terminal.CLEAR}{progress.line(sample, seconds, colour=self._colour, columns=width)}")
        elif self._clock.monotonic() >= self._next_line_at:
            self._next_line_at = self._clock.monotonic() + SCREEN_LINE_SECS
            self.say(progress.line(sample, seconds, colour=self._colour, columns=None))

    def close(self) -> None:
        """Leave the redrawn line behind."""
        if self._redrawn:
            self._put("\n")

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # A terminal that was closed or a pipe nobody reads must not end a soak of hours.
            return


class Soak:
    """One run of the controller."""

    def __init__(
        self,
        options: Options,
        computer: Computer,
        config: ConfigFile,
        healthcheck: Callable[[], list[Finding]],
        log: DecisionLog,
        samples: Log,
        clock: Clock,
        screen: Screen,
        engine_before: str = "",
    ) -> None:
        """healthcheck: examines the engine once; every finding must be ok before the soak begins.

        engine_before: how a soak that was killed found the engine (put_back.RUNNING or STOPPED), if it did not put it
        back: then that counts, and not what it left.
        """
        self._options = options
        self._computer = computer
        self._config = config
        self._healthcheck = healthcheck
        self._log = log
        self._samples = samples
        self._clock = clock
        self._screen = screen
        now = clock.monotonic()
        self._mode = options.mode
        self._ladder = Ladder()
        self._exits = ExitPolicy()
        self._endings = Endings()
        # Runs that have ended and are not dealt with yet.
        self._ended: list[Exit] = []
        self._stall = StallClock(options.stall_threshold_secs, now)
        # The last reading; None before the first, and always with --psi-actions off.
        self._reading: Pressure | Unknown | None = None
        # The name of the signal that asks for the end; empty while none does.
        self._asked_to_stop = ""
        # How the engine was found; empty as long as nothing was touched.
        self._engine_before = ""
        self._left_before = engine_before
        # The run of the engine that was seen last.
        self._invocation = ""
        # Looks in a row at a unit that is down, and nobody says why.
        self._down_looks = 0
        # Runs whose end has been dealt with: told of, or brought about by ourselves.
        self._settled: set[str] = set()
        # Runs that we ended.
        self._ours: set[str] = set()
        self._acted_at = now
        # What systemctl complained of when the unit was last started; empty when it did not.
        self._complaint = ""
        # When the engine, stopped by us meanwhile, is to be started again; None when it is not.
        self._start_at: float | None = None
        # Fields of the present run's last heartbeat.
        self._heartbeat: Mapping[str, Any] = {}
        # Since when the database cannot be read; None while it can.
        self._unreadable_since: float | None = None
        self._blind_looks = 0
        self._restarts = 0
        self._started_at = now
        # The last look at the database that succeeded, and when it was.
        self._seen: tuple[float, Progress] | None = None

    def ask_to_stop(self, why: str) -> None:
        """End the soak soon, in order. May be called by a signal handler."""
        self._asked_to_stop = self._asked_to_stop or why

    def run(self) -> int:
        """The whole soak; returns the exit status.

        Raises RecorderError when something cannot be recorded: then nothing more is done to the unit, which goes
        on running, and the config is put back. Raises ConfigTrouble when that fails.
        """
        try:
            self._begin()
            while True:
                self._look()
                self._pause()
        except _End as end:
            self._decide(end.action, end.reason)
            return end.status
        except RecorderError:
            raise
        except HarnessError as error:
            self._decide(Action.CONFIG_ERROR if isinstance(error, ConfigTrouble) else Action.ABORT, str(error))
            return EXIT_ABORT
        finally:
            self._put_back()
            self._screen.close()

    # --- beginning and end ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        options = self._options
        restored = self._config.restore()
        self._config.load()
        self._read_pressure()
        left = "; put back the config that an earlier run left changed" if restored else ""
        self._decide(Action.STARTUP, f"Run ID: {self._log.run_id}, Mode: {options.mode}{left}")
        self._check_requests()
        self._engine_before = (self._left_before if restored else "") or put_back.found(self._computer)
        self._config.change({"sample_every": self._ladder.rung.sample_every, "ingest_mode": INGEST_MODES[self._mode]})
        self._restart(SOAK_START, engine_before=self._engine_before)
        self._await_health()
        self._restarts = 0
        self._started_at = self._clock.monotonic()
        self._stall.restarted(self._started_at)

    def _await_health(self) -> None:
        """The first healthcheck that passes begins the soak; a feed gets as long to deliver as a stall may last."""
        end = self._clock.monotonic() + self._options.stall_threshold_secs
        while True:
            self._check_requests()
            findings = self._healthcheck()
            failed = [str(finding) for finding in findings if not finding.ok]
            if not failed:
                return
            state = self._computer.unit()
            # A unit that has ended for good will not get well by waiting.
            if self._clock.monotonic() >= end or (is_down(state) and not awaits_restart(state)):
                raise _abort(f"Healthcheck failed: {'; '.join(failed)}{self._complained()}")
            self._clock.sleep(NAP_SECS)

    def _put_back(self) -> None:
        if self._engine_before:
            put_back.put_back(
                self._computer, self._config, self._engine_before, self._stopped_by_others, self._decide, self._clock
            )

    def _stopped_by_others(self) -> bool:
        """Whether somebody else stopped the run of the engine that was last seen."""
        try:
            self._endings.take(self._computer.journal())
        except RecorderError:
            raise
        except HarnessError as error:
            self._screen.say(f"[SOAK] {error}")
        return self._invocation in self._endings.stopped - self._ours

    def _check_requests(self) -> None:
        if self._asked_to_stop:
            raise _End(Action.STOP, f"Stopped by {self._asked_to_stop}", EXIT_STOPPED)
        if self._options.abort_file.exists():
            raise _abort(f"Abort file {self._options.abort_file} exists")

    # --- one look ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._check_requests()
        now = self._clock.monotonic()
        if now - self._started_at >= self._options.seconds:
            raise _End(Action.COMPLETE, "Soak duration reached", EXIT_COMPLETE)
        try:
            # The journal first: what has ended by then shows in the state that is looked at next.
            entries = self._computer.journal()
            self._ended += self._endings.take(entries)
            state = self._computer.unit()
            self._blind_looks = 0
        except RecorderError:
            raise
        except HarnessError as error:
            self._blind_looks += 1
            if self._blind_looks > BLIND_LOOKS_MAX:
                raise _abort(f"Nothing can be seen of the unit: {error}") from error
            self._screen.say(f"[SOAK] {error}")
            return
        self._read_pressure()
        seen = self._read_progress(now)
        beat = observe.heartbeat(entries, state.invocation_id)
        if state.invocation_id != self._invocation:
            self._heartbeat = {}
        if beat is not None:
            self._heartbeat = beat.fields

        if not self._deal_with_exits(state, now):
            if state.invocation_id != self._invocation:
                self._invocation = state.invocation_id
                self._stall.restarted(now)
            self._tend(state, seen, now)
        self._sample(state, seen, now)

    def _tend(self, state: UnitState, seen: Progress | None, now: float) -> None:
        """A look after which the unit was left as it is."""
        if not is_down(state):
            self._down_looks = 0
        if self._start_at is not None:
            if now >= self._start_at:
                self._restart("Starting after the backoff")
        elif is_down(state):
            # The journal may be a moment behind; by the next look it has said why.
            self._down_looks += not awaits_restart(state)
            if self._down_looks > 1:
                raise _abort(f"The unit is down: {state}{self._complained()}")
        elif state.active == "active" and not (seen is not None and self._deal_with_stall(seen, now)):
            self._deal_with_pressure(now)

    def _read_pressure(self) -> None:
        if self._options.psi_actions != "off":
            self._reading = self._computer.pressure()

    def _read_progress(self, now: float) -> Progress | None:
        try:
            seen = self._computer.progress()
        except LedgerUnreadable as error:
            if self._unreadable_since is None:
                self._unreadable_since = now
            if now - self._unreadable_since >= self._options.stall_threshold_secs:
                raise _abort(f"Whether the engine makes progress cannot be seen: {error}") from error
            self._screen.say(f"[SOAK] {error}")
            return None
        self._unreadable_since = None
        if self._seen is not None and seen.tick_id_max != self._seen[1].tick_id_max:
            self._exits.progressed()
        return seen

    # --- exits ---------------------------------------------------------------------------------------------

    def _deal_with_exits(self, state: UnitState, now: float) -> bool:
        """Answer every run that has ended since the last look. Returns whether the unit was acted upon."""
        present = from_unit(state)
        ended, self._ended = [*self._ended, *([present] if present is not None else [])], []
        acted = False
        for one in ended:
            if one.invocation_id in self._settled:
                continue
            self._settled.add(one.invocation_id)
            # What ended before our own last action, or in this look before the answer to another, is answered by it.
            late = one.at is not None and one.at < self._acted_at
            acted = self._deal_with_exit(one, state, now, answered=acted or late) or acted
        return acted

    def _deal_with_exit(self, ended: Exit, state: UnitState, now: float, *, answered: bool) -> bool:
        ended_at = now if ended.at is None else ended.at
        answer = self._exits.answer(ended, ended_at)
        due_at = ended_at + answer.delay_secs
        restarted = not is_down(state) and state.invocation_id != ended.invocation_id
        left_to_systemd = answer.action is exit_actions.Action.RESTART and due_at <= now and awaits_restart(state)
        by_operator = restarted and answer.action is exit_actions.Action.STOP
        by_others = ended.invocation_id in self._endings.stopped - self._ours
        ends = answer.action in (exit_actions.Action.STOP, exit_actions.Action.ABORT) or (
            answer.action is exit_actions.Action.STEP_UP and self._ladder.at_top
        )
        if answered:
            restarted_by = "controller"
        elif by_operator:
            restarted_by = "operator"
        elif restarted or left_to_systemd:
            restarted_by = "watchdog" if ended.result == "watchdog" else "systemd"
        else:
            restarted_by = "nobody" if ends else "controller"
        self._restarts += restarted_by not in ("controller", "nobody")
        reason = answer.reason
        if by_operator:
            reason = "restarted by somebody else"
        elif by_others and answer.action is exit_actions.Action.STOP:
            reason = "stopped by somebody else"
        self._decide(
            Action.ENGINE_EXIT, f"{ended}: {reason}",
            exit_code=ended.exit_code, result=ended.result, invocation_id=ended.invocation_id,
            restarted_by=restarted_by,
        )  # fmt: skip
        if answered or by_operator:
            return False
        match answer.action:
            case exit_actions.Action.STOP:
                raise _End(Action.STOP, f"{ended}: {reason}", EXIT_STOPPED)
            case exit_actions.Action.ABORT:
                raise _abort(f"{ended}: {answer.reason}{self._complained()}")
            case exit_actions.Action.STEP_UP:
                self._ladder, step = self._ladder.overloaded()
                if step is Step.ABORT:
                    raise _abort(f"{ended}: at the top of the ladder already")
                self._restart_on_rung(f"Throttling up to {self._ladder.rung.name}: {ended}")
                return True
            case exit_actions.Action.FALL_BACK:
                self._mode = "mockws"
                self._config.change({"ingest_mode": INGEST_MODES[self._mode]})
                self._restart(f"Falling back to the mock feed: {ended}")
                return True
            case exit_actions.Action.RESTART:
                by_systemd = restarted or awaits_restart(state)
                return self._restart_in_time(f"{ended}: {answer.reason}", due_at, by_systemd, now)

    def _restart_in_time(self, reason: str, due_at: float, by_systemd: bool, now: float) -> bool:
        if due_at > now:
            if by_systemd:
                self._decide(Action.ENGINE_STOP, f"Holding it for {due_at - now:.1f} s: {reason}")
                self._take_over(self._computer.stop)
            self._start_at = due_at
            return True
        if not by_systemd:
            self._restart(reason)
            return True
        return False

    # --- stall and pressure --------------------------------------------------------------------------------

    def _deal_with_stall(self, seen: Progress, now: float) -> bool:
        received = self._heartbeat.get("ingest_received")
        row_every = None if self._mode == "replay" else self._ladder.rung.sample_every
        stall = self._stall.look(seen, received if isinstance(received, int) else None, row_every, now)
        if stall is None:
            return False
        self._decide(Action.STALL, "Pipeline stalled", **asdict(stall))
        self._restart("Restarting due to STALL")
        return True

    def _deal_with_pressure(self, now: float) -> None:
        if self._reading is None:
            return
        exceeded = None if isinstance(self._reading, Unknown) else self._reading.exceeded()
        shown = ", ".join(exceeded or [])
        if self._options.psi_actions == "logonly":
            if exceeded:
                self._decide(Action.PSI_LOGONLY, f"PSI {shown}")
            return
        pressured = None if exceeded is None else bool(exceeded)
        self._ladder, step = self._ladder.read(pressured, now, self._options.recover_after_secs)
        if step is Step.UP:
            self._restart_on_rung(f"Throttling up to {self._ladder.rung.name} due to PSI: {shown}")
        elif step is Step.DOWN:
            calm = f"below the limits for {self._options.recover_after_secs:g} s"
            self._restart_on_rung(f"Throttling down to {self._ladder.rung.name}: {calm}")
        elif step in (Step.THROTTLE_MAX, Step.ABORT):
            self._decide(Action.THROTTLE_MAX, f"Sustained pressure under max throttle: {shown}")
            if step is Step.ABORT:
                raise _abort("Sustained pressure under max throttle")

    # --- acting --------------------------------------------------------------------------------------------

    def _restart_on_rung(self, reason: str) -> None:
        self._config.change({"sample_every": self._ladder.rung.sample_every})
        self._restart(reason)

    def _restart(self, reason: str, **facts: object) -> None:
        self._decide(Action.ENGINE_RESTART, reason, **facts)
        self._restarts += 1
        self._start_at = None
        self._take_over(self._computer.restart)
        self._stall.restarted(self._clock.monotonic())

    def _take_over(self, act: Callable[[Callable[[], bool]], str]) -> None:
        """Do something to the unit that ends its present run: that end is ours. Given up when we are to stop."""
        ends = self._computer.unit().invocation_id
        self._settled.add(ends)
        self._ours.add(ends)
        self._acted_at = self._clock.monotonic()
        self._complaint = act(lambda: bool(self._asked_to_stop))
        self._invocation = self._computer.unit().invocation_id
        self._heartbeat = {}

    def _complained(self) -> str:
        return f"; systemctl said: {self._complaint}" if self._complaint else ""

    def _pause(self) -> None:
        """Until the next look: one poll, or less when a stall is due or a start is."""
        now = self._clock.monotonic()
        due = [self._stall.due_at, self._started_at + self._options.seconds]
        due += [self._start_at] if self._start_at is not None else []
        until = min([now + self._options.poll_secs, *(at for at in due if at > now)])
        while (left := until - self._clock.monotonic()) > 0:
            if self._asked_to_stop or self._options.abort_file.exists():
                return
            self._clock.sleep(min(NAP_SECS, left))

    # --- recording -----------------------------------------------------------------------------------------

    def _decide(self, action: Action, reason: str, **facts: object) -> None:
        self._log.decide(
            action,
            reason,
            ingest_mode=self._mode,
            psi_actions=self._options.psi_actions,
            state=self._ladder.rung.name,
            sample_every=self._ladder.rung.sample_every,
            facts={**facts, **(pressure.facts(self._reading) if self._reading is not None else {})},
        )
        self._screen.say(f"[SOAK] {action.value}: {reason}")

    def _sample(self, state: UnitState, seen: Progress | None, now: float) -> None:
        per_sec = None
        if seen is not None:
            if self._seen is not None and now > self._seen[0]:
                at, before = self._seen
                per_sec = round(max(0, seen.tick_id_max - before.tick_id_max) / (now - at), 3)
            self._seen = (now, seen)
        sample: dict[str, object] = {
            "timestamp": timestamp(self._clock.wall()),
            "run_id": self._log.run_id,
            "elapsed_secs": round(now - self._started_at, 3),
            "active": state.active,
            "state": self._ladder.rung.name,
            "sample_every": self._ladder.rung.sample_every,
            "tick_id_max": None if seen is None else seen.tick_id_max,
            "ticks_per_sec": per_sec,
            "ingest_received": self._heartbeat.get("ingest_received"),
            "ingest_processed": self._heartbeat.get("ingest_processed"),
            "loop_lag_ms_p99": self._heartbeat.get("loop_lag_ms_p99"),
            "rss_bytes": self._computer.rss_bytes(state.main_pid) if state.main_pid > 1 else None,
            "restarts": self._restarts,
        }
        if isinstance(self._reading, Unknown):
            sample |= {"psi": "unknown", "psi_error": self._reading.reason}
        elif self._reading is not None:
            sample |= {f"{name}_some_avg10": self._reading.some(name) for name in pressure.RESOURCES}
        self._samples.write(sample)
        self._screen.draw(sample, self._options.seconds)


# --- command line ------------------------------------------------------------------------------------------

DESCRIPTION = """\
Watches the running engine: restarts it when it stalls, throttles it under pressure, answers its exits, and records
every decision. At the end the engine's config is what it was, and the engine runs if it ran before."""

EPILOG = """\
Exit status: 0 complete, 1 aborted (or nothing could be started), 2 wrong usage, 3 stopped before its time.

examples:
  hybrid-soak                                          two hours against the real venues
  hybrid-soak --seconds 180 --mode synthetic --psi-actions off --stall-threshold-sec 20
  hybrid-soak --psi-actions logonly --poll-sec 1       record pressure, do nothing about it
  hybrid-soak --recover-after-sec 300                  step down again after five calm minutes
  touch data/ops/ABORT                                 abort the run that looks for this file
  hybrid-soak --put-back                               what a soak that was killed could not put back any more

beside the decision log: soak_samples.jsonl, soak_record.jsonl (every command), soak_report_<run>.html
"""


REPORT_EPILOG = """\
examples:
  python -m harness soak-report
  python -m harness soak-report /var/lib/hybrid-soak/data/ops/soak_decisions.jsonl
  python -m harness soak-report --run 9d02287d-d9ba-4bee-8d6b-3941e0295fea
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The soak controller's options (contract section 9)."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = " (default: %(default)s)"
    parser.add_argument("--seconds", type=_positive, default=7200.0, metavar="N", help=f"how long{default}")
    parser.add_argument("--mode", choices=INGEST_MODES, default="realws", help=f"the engine's feed{default}")
    parser.add_argument("--db", type=Path, metavar="PATH", help="database (default: [app] db_path of the config)")
    parser.add_argument("--config", type=Path, default=health.CONFIG, metavar="PATH", help=f"engine's config{default}")
    parser.add_argument("--unit", default=health.UNIT, help=f"the engine's unit{default}")
    parser.add_argument(
        "--psi-actions", choices=("on", "logonly", "off"), default="on",
        help=f"on: throttle under pressure; logonly: record it; off: do not read it{default}",
    )  # fmt: skip
    parser.add_argument(
        "--stall-threshold-sec", type=_positive, default=45.0, metavar="N",
        help=f"restart after so long without a new tick{default}",
    )  # fmt: skip
    parser.add_argument(
        "--recover-after-sec", type=_not_negative, default=0.0, metavar="N",
        help=f"one rung down after so long below the limits; 0: never{default}",
    )  # fmt: skip
    parser.add_argument("--poll-sec", type=_positive, default=5.0, metavar="N", help=f"time between looks{default}")
    parser.add_argument(
        "--decision-log", type=Path, default=Path("data/ops/soak_decisions.jsonl"), metavar="PATH",
        help=f"JSON lines, appended to{default}",
    )  # fmt: skip
    parser.add_argument(
        "--abort-file", type=Path, default=Path("data/ops/ABORT"), metavar="PATH",
        help=f"the run aborts when it exists{default}",
    )  # fmt: skip
    parser.add_argument(
        "--pressure-dir", type=Path, default=observe.PRESSURE_DIR, metavar="PATH",
        help=f"directory of PSI files{default}",
    )  # fmt: skip
    parser.add_argument(
        "--put-back", action="store_true",
        help="do not soak: put back config and engine if the last soak in the decision log was killed",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """One soak, from lock to report. Returns the exit status; raises HarnessError when none can begin."""
    clock = OsClock()
    run_id = new_run_id()
    directory = options.decision_log.parent
    screen = Screen(sys.stdout, clock)
    config = ConfigFile(options.config)
    with ExitStack() as stack:
        _make(directory)
        for place in {directory.resolve(), config.path.parent}:
            stack.enter_context(_alone(place))
        killed = put_back.unfinished(options.decision_log) if options.decision_log.exists() else None
        if options.put_back:
            return _put_back_killed(options, config, killed, clock, screen)
        log = stack.enter_context(closing(DecisionLog(options.decision_log, run_id, clock)))
        # Whatever happens from here on is worth a report.
        stack.callback(_write_report, options.decision_log, run_id, screen)
        samples = stack.enter_context(closing(Log(directory / SAMPLES, sync=False, keep_bytes=KEPT_BYTES)))
        set_aside(directory / RECORD, KEPT_BYTES)
        recorder = stack.enter_context(closing(Recorder(directory / RECORD, run_id, "soak", clock)))
        engine_before = str(killed["engine_before"]) if killed else ""
        soak = _soak(options, config, Shell(recorder, clock), log, samples, clock, screen, engine_before)
        with _stopped_by_signals(soak):
            status = soak.run()
        recorder.end(status=status)
        return status


def _soak(
    options: argparse.Namespace,
    config: ConfigFile,
    shell: Shell,
    log: DecisionLog,
    samples: Log,
    clock: Clock,
    screen: Screen,
    engine_before: str,
) -> Soak:
    asked = Options(
        seconds=options.seconds,
        mode=options.mode,
        psi_actions=options.psi_actions,
        stall_threshold_secs=options.stall_threshold_sec,
        recover_after_secs=options.recover_after_sec,
        poll_secs=options.poll_sec,
        abort_file=options.abort_file,
    )
    try:
        tables = config.load()
    except ConfigTrouble as error:
        log.decide(
            Action.CONFIG_ERROR, str(error), ingest_mode=asked.mode, psi_actions=asked.psi_actions,
            state=Ladder().rung.name, sample_every=Ladder().rung.sample_every, facts={},
        )  # fmt: skip
        raise
    database = health.placed(options.db.absolute() if options.db else health.database_of(tables), shell, options.unit)
    target = health.Target(
        unit=options.unit,
        database=database,
        heartbeat_interval_secs=health.heartbeat_interval_of(tables),
        # The soak is about the engine, and pressure is what its ladder is for.
        dashboard_url=None,
    )
    wanted = {name: check for name, check in health.checks(target, shell, clock).items() if name != "pressure"}
    computer = LocalComputer(shell, options.unit, database, clock, options.pressure_dir)
    return Soak(
        asked, computer, config, lambda: health.examine(wanted, clock), log, samples, clock, screen, engine_before
    )


def _put_back_killed(
    options: argparse.Namespace, config: ConfigFile, killed: Mapping[str, Any] | None, clock: Clock, screen: Screen
) -> int:
    """Put back what a soak that was killed could not; its decision log is continued, if it can be."""
    # Its lines are the record: what is put back must not depend on whether a disk takes more.
    computer = LocalComputer(Shell(Unrecorded()), options.unit, options.config, clock, options.pressure_dir)
    if killed is None:
        if config.restore():
            screen.say("[SOAK] put back the config; how the engine was found stands nowhere, it is left as it is")
        return EXIT_COMPLETE

    def decide(action: Action, reason: str, **facts: object) -> None:
        screen.say(f"[SOAK] {action.value}: {reason}")
        try:
            with closing(DecisionLog(options.decision_log, str(killed["run_id"]), clock)) as log:
                log.decide(
                    action, reason, ingest_mode=str(killed["ingest_mode"]), psi_actions=str(killed["psi_actions"]),
                    state=Ladder().rung.name, sample_every=Ladder().rung.sample_every, facts=facts,
                )  # fmt: skip
        except RecorderError as error:
            screen.say(f"[SOAK] {error}")

    put_back.put_back(computer, config, str(killed["engine_before"]), lambda: False, decide, clock)
    return EXIT_COMPLETE


def _make(directory: Path) -> None:
    try:
        with files.found(directory / "x", make=True):
            return
    except OSError as error:
        raise HarnessError(f"{directory}: cannot be made: {error.strerror}") from error


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Only one controller at a time has the lock on a directory; it goes with the process, however that ends.

    A directory that does not exist needs no lock: what looks into it will say so.
    """
    if not directory.is_dir():
        yield
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HarnessError(f"another soak controller runs: it holds the lock on {directory}") from error
        yield
    finally:
        os.close(fd)


@contextmanager
def _stopped_by_signals(soak: Soak) -> Iterator[None]:
    def handle(number: int, _frame: FrameType | None) -> None:
        soak.ask_to_stop(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_report(decision_log: Path, run_id: str, screen: Screen) -> None:
    """The report is made from the files, and a failure here loses nothing: `soak-report` makes it again."""
    try:
        screen.say(f"[SOAK] report: {write_report(decision_log, run_id)}")
    except Exception as error:
        screen.say(f"[SOAK] no report: {error}; `python -m harness soak-report` makes it from the files")


def write_report(decision_log: Path, run_id: str | None) -> Path:
    """Render the report of a run (default: the last one) beside its decision log, and return its path."""
    # jinja2 costs more to import than everything else here, and a soak needs it once.
    from harness.soak import report as soak_report

    decisions = read(decision_log, run_id)
    if not decisions:
        raise RecorderError(f"{decision_log} holds no decisions{f' of run {run_id}' if run_id else ''}")
    run_id = str(decisions[0]["run_id"])
    samples = decision_log.parent / SAMPLES
    text = soak_report.render(decisions, read(samples, run_id) if samples.exists() else [])
    target = decision_log.parent / f"soak_report_{str(decisions[0]['timestamp'])[:10]}_{run_id[:8]}.html"
    try:
        with files.found(target) as place:
            place.replace(text.encode("utf-8", "replace"))
    except OSError as error:
        raise RecorderError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `soak-report`."""
    parser.description = "Render a soak's HTML report, with plots, from its decision log and the samples beside it."
    parser.epilog = REPORT_EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "log", type=Path, nargs="?", default=Path("data/ops/soak_decisions.jsonl"), metavar="LOG",
        help="decision log (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--run", dest="run_id", metavar="ID", help="run_id (default: the last run in the log)")


def run_report(options: argparse.Namespace) -> int:
    """Render a report again, and print where it is."""
    print(write_report(options.log, options.run_id))
    return 0


def _positive(text: str) -> float:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be more than 0")
    return value


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of seconds") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be 0 or more seconds")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """`hybrid-soak`."""
    parser = argparse.ArgumentParser(prog="hybrid-soak")
    add_arguments(parser)
    options = parser.parse_args(argv)
    try:
        return run(options)
    except HarnessError as error:
        print(f"hybrid-soak: {error}", file=sys.stderr)
        return EXIT_ABORT


if __name__ == "__main__":
    sys.exit(main())
