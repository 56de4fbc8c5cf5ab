"""The soak as a state machine: what was seen, and when -> what is to be done about it. Does nothing itself.

The controller looks at the computer, hands over what it saw, carries out the effects in their order, and reports back
what a restart or a stop came to (`acted`). Times are monotonic seconds.

Who restarted the engine: every run of it has an invocation id. One that ended although the controller did not
touch it is down or has been restarted by systemd; the journal says with what result, which tells a watchdog's kill
from an exit. One that ended cleanly and was started again was restarted by somebody else, an operator. A run that
the controller itself replaced is never answered for how it ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from harness.base import pressure
from harness.base.pressure import Pressure, Unknown
from harness.base.unit import UnitState
from harness.observing.stall import Progress, StallClock
from harness.soak import exit_actions
from harness.soak.exit_actions import SOAK_START, Endings, Exit, ExitPolicy, awaits_restart, from_unit, is_down
from harness.soak.ladder import Ladder, Rung, Step

EXIT_COMPLETE = 0
EXIT_ABORT = 1
EXIT_STOPPED = 3
"""Ended before its time, without a finding: neither a success nor a failure."""

INGEST_MODES = {"synthetic": "SYNTHETIC", "replay": "REPLAY", "mockws": "MOCK_WS", "realws": "REAL_WS"}
"""--mode, as the engine's --ingest spells it -> `ingest_mode` in the config."""

BLIND_POLLS_MAX = 3
"""Looks in a row at unit and journal that may fail; a soak that sees nothing proves nothing."""


class Action(StrEnum):
    """Everything a controller decides (K6)."""

    STARTUP = "STARTUP"
    ENGINE_RESTART = "ENGINE_RESTART"
    ENGINE_STOP = "ENGINE_STOP"
    ENGINE_EXIT = "ENGINE_EXIT"
    STALL = "STALL"
    THROTTLE_MAX = "THROTTLE_MAX"
    PSI_LOGONLY = "PSI_LOGONLY"
    ABORT = "ABORT"
    COMPLETE = "COMPLETE"
    STOP = "STOP"
    CONFIG_ERROR = "CONFIG_ERROR"
    PUT_BACK = "PUT_BACK"


@dataclass(frozen=True)
class Terms:
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


@dataclass(frozen=True)
class Requests:
    """What people ask of a soak that runs."""

    signal: str = ""
    """Name of the signal that asks for the end; empty while none does."""
    abort_file: str = ""
    """Path of the abort file; empty while there is none."""


@dataclass(frozen=True)
class Seen:
    """One look at the computer."""

    entries: Sequence[Mapping[str, str]]
    """The unit's journal since the last look, as `journalctl -o json` prints it."""
    unit: UnitState | str
    """Text: why unit or journal could not be seen."""
    heartbeat: Mapping[str, Any] | None = None
    """Fields of the present run's newest heartbeat among `entries`; None when there is none."""
    pressure: Pressure | Unknown | None = None
    """None with --psi-actions off."""
    progress: Progress | str = ""
    """Text: why the database could not be read."""


# --- effects -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decide:
    """Put a decision on disk, before what follows is done. `mode` and `rung` are those of this moment."""

    action: Action
    reason: str
    mode: str
    rung: Rung
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Change:
    """Rewrite keys of `[engine]` in the config."""

    keys: Mapping[str, int | str]


@dataclass(frozen=True)
class Restart:
    """`systemctl restart`; what came of it goes to `acted`."""


@dataclass(frozen=True)
class Halt:
    """`systemctl stop`; what came of it goes to `acted`."""


@dataclass(frozen=True)
class Say:
    """Tell whoever watches."""

    text: str


@dataclass(frozen=True)
class WriteSample:
    """Write a sample line. `fields` lacks what only the controller knows: wall time, run id, resident memory."""

    main_pid: int
    fields: Mapping[str, object]
    restarts: int
    pressure: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """The soak is over. Always the last effect."""

    action: Action
    reason: str
    status: int


Effect = Decide | Change | Restart | Halt | Say | WriteSample | End


class _Over(Exception):
    """Leaves the middle of a look: nothing more is decided in it."""

    def __init__(self, end: End) -> None:
        self.end = end


def _abort(reason: str) -> _Over:
    return _Over(End(Action.ABORT, reason, EXIT_ABORT))


class Reducer:
    """What a soak remembers between two polls, and what it makes of the next one."""

    def __init__(self, terms: Terms, now: float) -> None:
        self._terms = terms
        self._mode = terms.mode
        self._ladder = Ladder()
        self._exits = ExitPolicy()
        self._endings = Endings()
        # Runs that have ended and are not dealt with yet.
        self._ended: list[Exit] = []
        self._stall = StallClock(terms.stall_threshold_secs, now)
        # The last reading; None before the first, and always with --psi-actions off.
        self._reading: Pressure | Unknown | None = None
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
        # What the present look has come to so far.
        self._effects: list[Effect] = []

    # --- beginning -----------------------------------------------------------------------------------------

    def start(self, run_id: str, reading: Pressure | Unknown | None, *, restored: bool) -> Sequence[Effect]:
        """Record that the controller runs, with nothing touched yet. `restored`: it found the config changed by an
        earlier run."""
        self._reading = reading
        left = "; put back the config that an earlier run left changed" if restored else ""
        return [self.decision(Action.STARTUP, f"Run ID: {run_id}, Mode: {self._terms.mode}{left}", {})]

    def begin(self, engine_before: str) -> Sequence[Effect]:
        """Start the engine, found running or stopped, on the config of the soak."""
        self._change({"sample_every": self._ladder.rung.sample_every, "ingest_mode": INGEST_MODES[self._mode]})
        self._restart(SOAK_START, None, {"engine_before": engine_before, "soak_phase": "start"})
        return self._take()

    def judge_health(self, failed: Sequence[str], unit: UnitState, now: float, until: float) -> End | None:
        """Return what the failed findings of a healthcheck before the soak come to: None when it is to be made again,
        which it is until the given time."""
        # A unit that has ended for good will not get well by waiting.
        if now >= until or (is_down(unit) and not awaits_restart(unit)):
            return End(Action.ABORT, f"Healthcheck failed: {'; '.join(failed)}{self._complained()}", EXIT_ABORT)
        return None

    def healthy(self, now: float) -> None:
        """The first healthcheck that passes begins the soak."""
        self._restarts = 0
        self._started_at = now
        self._stall.restarted(now)

    # --- one poll ------------------------------------------------------------------------------------------

    def check(self, requests: Requests) -> End | None:
        """Return whether somebody wants the end."""
        if requests.signal:
            return End(Action.STOP, f"Stopped by {requests.signal}", EXIT_STOPPED)
        if requests.abort_file:
            return End(Action.ABORT, f"Abort file {requests.abort_file} exists", EXIT_ABORT)
        return None

    def check_time(self, now: float) -> End | None:
        """Return whether the soak has lasted as long as it was to."""
        if now - self._started_at >= self._terms.seconds:
            return End(Action.COMPLETE, "Soak duration reached", EXIT_COMPLETE)
        return None

    def observe(self, seen: Seen, now: float) -> Sequence[Effect]:
        """Return what is to be done about what was seen."""
        try:
            self._observe(seen, now)
        except _Over as over:
            self._effects.append(over.end)
        return self._take()

    def acted(self, ended: str, present: str, complaint: str, began_at: float, now: float, *, started: bool) -> None:
        """The unit was restarted (`started`) or stopped, from `began_at` to `now`. `ended`, `present`: the
        invocations before and after; `complaint`: what systemctl said, empty when it did as it was told."""
        self._disown(ended)
        self._acted_at = began_at
        self._complaint = complaint
        self._invocation = present
        if started:
            self._stall.restarted(now)

    def next_poll_at(self, now: float) -> float:
        """Return when to poll again: one interval from now, or earlier when a stall, a start or the end is due."""
        due = [self._stall.due_at, self._started_at + self._terms.seconds]
        due += [self._start_at] if self._start_at is not None else []
        return min([now + self._terms.poll_secs, *(at for at in due if at > now)])

    def stopped_by_others(self, entries: Sequence[Mapping[str, str]]) -> bool:
        """Return whether somebody else stopped the run of the engine that was last seen; `entries`: journal since
        then."""
        self._endings.take(entries)
        return self._invocation in self._endings.stopped - self._ours

    def decision(self, action: Action, reason: str, facts: Mapping[str, object]) -> Decide:
        """Return a decision of this moment, with the pressure that was last read."""
        read = pressure.facts(self._reading) if self._reading is not None else {}
        return Decide(action, reason, self._mode, self._ladder.rung, {**facts, **read})

    def _observe(self, seen: Seen, now: float) -> None:
        # What has ended by then shows in the state that was looked at next.
        self._ended += self._endings.take(seen.entries)
        state = seen.unit
        if isinstance(state, str):
            self._blind_looks += 1
            if self._blind_looks > BLIND_POLLS_MAX:
                raise _abort(f"Nothing can be seen of the unit: {state}")
            self._say(state)
            return
        self._blind_looks = 0
        self._reading = seen.pressure
        progress = self._take_progress(seen.progress, now)
        if state.invocation_id != self._invocation:
            self._heartbeat = {}
        if seen.heartbeat is not None:
            self._heartbeat = seen.heartbeat
        if not self._deal_with_exits(state, now):
            if state.invocation_id != self._invocation:
                self._invocation = state.invocation_id
                self._stall.restarted(now)
            self._tend(state, progress, now)
        self._sample(state, progress, now)

    def _tend(self, state: UnitState, seen: Progress | None, now: float) -> None:
        """A look after which the unit was left as it is."""
        if not is_down(state):
            self._down_looks = 0
        if self._start_at is not None:
            if now >= self._start_at:
                self._restart("Starting after the backoff", state)
        elif is_down(state):
            # The journal may be a moment behind; by the next look it has said why.
            self._down_looks += not awaits_restart(state)
            if self._down_looks > 1:
                raise _abort(f"The unit is down: {state}{self._complained()}")
        elif state.active == "active" and not (seen is not None and self._deal_with_stall(state, seen, now)):
            self._deal_with_pressure(state, now)

    def _take_progress(self, seen: Progress | str, now: float) -> Progress | None:
        if isinstance(seen, str):
            if self._unreadable_since is None:
                self._unreadable_since = now
            if now - self._unreadable_since >= self._terms.stall_threshold_secs:
                raise _abort(f"Whether the engine makes progress cannot be seen: {seen}")
            self._say(seen)
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
        left_to_systemd = answer.action is exit_actions.ExitAction.RESTART and due_at <= now and awaits_restart(state)
        by_operator = restarted and answer.action is exit_actions.ExitAction.STOP
        by_others = ended.invocation_id in self._endings.stopped - self._ours
        ends = answer.action in (exit_actions.ExitAction.STOP, exit_actions.ExitAction.ABORT) or (
            answer.action is exit_actions.ExitAction.STEP_UP and self._ladder.at_top
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
        elif by_others and answer.action is exit_actions.ExitAction.STOP:
            reason = "stopped by somebody else"
        self._decide(
            Action.ENGINE_EXIT, f"{ended}: {reason}",
            exit_code=ended.exit_code, result=ended.result, invocation_id=ended.invocation_id,
            restarted_by=restarted_by,
        )  # fmt: skip
        if answered or by_operator:
            return False
        match answer.action:
            case exit_actions.ExitAction.STOP:
                raise _Over(End(Action.STOP, f"{ended}: {reason}", EXIT_STOPPED))
            case exit_actions.ExitAction.ABORT:
                raise _abort(f"{ended}: {answer.reason}{self._complained()}")
            case exit_actions.ExitAction.STEP_UP:
                self._ladder, step = self._ladder.overloaded()
                if step is Step.ABORT:
                    raise _abort(f"{ended}: at the top of the ladder already")
                self._restart_on_rung(f"Throttling up to {self._ladder.rung.name}: {ended}", state)
                return True
            case exit_actions.ExitAction.FALL_BACK:
                self._mode = "mockws"
                self._change({"ingest_mode": INGEST_MODES[self._mode]})
                self._restart(f"Falling back to the mock feed: {ended}", state)
                return True
            case exit_actions.ExitAction.RESTART:
                by_systemd = restarted or awaits_restart(state)
                return self._restart_in_time(f"{ended}: {answer.reason}", due_at, state, by_systemd, now)

    def _restart_in_time(self, reason: str, due_at: float, state: UnitState, by_systemd: bool, now: float) -> bool:
        if due_at > now:
            if by_systemd:
                self._decide(Action.ENGINE_STOP, f"Holding it for {due_at - now:.1f} s: {reason}")
                self._take_over(Halt(), state)
            self._start_at = due_at
            return True
        if not by_systemd:
            self._restart(reason, state)
            return True
        return False

    # --- stall and pressure --------------------------------------------------------------------------------

    def _deal_with_stall(self, state: UnitState, seen: Progress, now: float) -> bool:
        received = self._heartbeat.get("ingest_received")
        row_every = None if self._mode == "replay" else self._ladder.rung.sample_every
        stall = self._stall.observe(seen, received if isinstance(received, int) else None, row_every, now)
        if stall is None:
            return False
        self._decide(Action.STALL, "Pipeline stalled", **asdict(stall))
        self._restart("Restarting due to STALL", state)
        return True

    def _deal_with_pressure(self, state: UnitState, now: float) -> None:
        if self._reading is None:
            return
        exceeded = None if isinstance(self._reading, Unknown) else self._reading.exceeded()
        shown = ", ".join(exceeded or [])
        if self._terms.psi_actions == "logonly":
            if exceeded:
                self._decide(Action.PSI_LOGONLY, f"PSI {shown}")
            return
        pressured = None if exceeded is None else bool(exceeded)
        self._ladder, step = self._ladder.read(pressured, now, self._terms.recover_after_secs)
        if step is Step.UP:
            self._restart_on_rung(f"Throttling up to {self._ladder.rung.name} due to PSI: {shown}", state)
        elif step is Step.DOWN:
            calm = f"below the limits for {self._terms.recover_after_secs:g} s"
            self._restart_on_rung(f"Throttling down to {self._ladder.rung.name}: {calm}", state)
        elif step in (Step.THROTTLE_MAX, Step.ABORT):
            self._decide(Action.THROTTLE_MAX, f"Sustained pressure under max throttle: {shown}")
            if step is Step.ABORT:
                raise _abort("Sustained pressure under max throttle")

    # --- acting --------------------------------------------------------------------------------------------

    def _restart_on_rung(self, reason: str, state: UnitState) -> None:
        self._change({"sample_every": self._ladder.rung.sample_every})
        self._restart(reason, state)

    def _restart(self, reason: str, state: UnitState | None, facts: Mapping[str, object] | None = None) -> None:
        self._decide(Action.ENGINE_RESTART, reason, **(facts or {}))
        self._restarts += 1
        self._start_at = None
        self._take_over(Restart(), state)

    def _take_over(self, act: Restart | Halt, state: UnitState | None) -> None:
        """End the unit's present run: its end is then ours, also where it has ended already and is told of later."""
        self._effects.append(act)
        if state is not None:
            self._disown(state.invocation_id)
        self._heartbeat = {}

    def _disown(self, invocation: str) -> None:
        self._settled.add(invocation)
        self._ours.add(invocation)

    def _complained(self) -> str:
        return f"; systemctl said: {self._complaint}" if self._complaint else ""

    # --- effects -------------------------------------------------------------------------------------------

    def _take(self) -> Sequence[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def _decide(self, action: Action, reason: str, **facts: object) -> None:
        self._effects.append(self.decision(action, reason, facts))

    def _change(self, keys: Mapping[str, int | str]) -> None:
        self._effects.append(Change(keys))

    def _say(self, text: str) -> None:
        self._effects.append(Say(text))

    def _sample(self, state: UnitState, seen: Progress | None, now: float) -> None:
        per_sec = None
        if seen is not None:
            if self._seen is not None and now > self._seen[0]:
                at, before = self._seen
                per_sec = round(max(0, seen.tick_id_max - before.tick_id_max) / (now - at), 3)
            self._seen = (now, seen)
        fields: dict[str, object] = {
            "elapsed_secs": round(now - self._started_at, 3),
            "active": state.active,
            "state": self._ladder.rung.name,
            "sample_every": self._ladder.rung.sample_every,
            "tick_id_max": None if seen is None else seen.tick_id_max,
            "ticks_per_sec": per_sec,
            "ingest_received": self._heartbeat.get("ingest_received"),
            "ingest_processed": self._heartbeat.get("ingest_processed"),
            "loop_lag_ms_p99": self._heartbeat.get("loop_lag_ms_p99"),
        }
        read: dict[str, object] = {}
        if isinstance(self._reading, Unknown):
            read = {"psi": "unknown", "psi_error": self._reading.reason}
        elif self._reading is not None:
            read = {f"{name}_some_avg10": self._reading.some(name) for name in pressure.RESOURCES}
        self._effects.append(WriteSample(state.main_pid, fields, self._restarts, read))
