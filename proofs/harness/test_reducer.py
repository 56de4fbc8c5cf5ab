"""The soak's decisions as a state machine, without a controller: what it may do about whatever the engine does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harness.base.clock import FakeClock
from harness.base.pressure import Unknown
from harness.base.unit import UnitState
from harness.observing.stall import Progress
from harness.soak.ladder import RUNGS
from harness.soak.reducer import (
    BLIND_POLLS_MAX,
    EXIT_ABORT,
    EXIT_COMPLETE,
    EXIT_STOPPED,
    INGEST_MODES,
    Action,
    Change,
    Decide,
    Effect,
    End,
    Halt,
    Reducer,
    Requests,
    Restart,
    Say,
    Seen,
    Terms,
    WriteSample,
)
from proofs.harness.test_exit_actions import failure, process_exit, stopping, success
from proofs.harness.test_soak import CALM, PRESSED, FakeComputer

TERMS = Terms(
    seconds=300.0, mode="realws", psi_actions="on", stall_threshold_secs=45.0, recover_after_secs=60.0, poll_secs=5.0
)
RUN, NEXT = "a" * 32, "b" * 32


def up(invocation: str = RUN) -> UnitState:
    return UnitState("active", "running", "success", 4242, 0, 0, 0, invocation, "")


def look(soak: Reducer, now: float, unit: UnitState | str, ticks: int = 1, **more: object) -> list[Effect]:
    seen = Seen((), unit, pressure=CALM, progress=Progress(ticks, ticks))
    return list(soak.observe(replace(seen, **more), now))  # type: ignore[arg-type]


def begun(**changes: object) -> Reducer:
    soak = Reducer(replace(TERMS, **changes), 0.0)  # type: ignore[arg-type]
    soak.start("run", CALM, restored=False)
    soak.begin("stopped")
    soak.acted("", RUN, "", 0.0, 0.0, started=True)
    soak.healthy(0.0)
    return soak


@pytest.mark.claim("K5")
def test_K5_the_config_is_changed_before_the_engine_is_started() -> None:
    change, decision, act = Reducer(TERMS, 0.0).begin("running")
    assert change == Change({"sample_every": 1, "ingest_mode": "REAL_WS"})
    assert isinstance(decision, Decide)
    assert decision.facts == {"engine_before": "running", "soak_phase": "start"}
    assert act == Restart()


@pytest.mark.claim("K6")
def test_K6_a_look_at_a_healthy_engine_is_a_sample_and_nothing_else() -> None:
    (sample,) = look(begun(), 5.0, up(), heartbeat={"ingest_received": 7})
    assert isinstance(sample, WriteSample)
    assert sample.fields["ingest_received"] == 7
    assert sample.pressure["cpu_some_avg10"] == 0.0


@pytest.mark.claim("K3")
def test_K3_a_stall_is_decided_before_it_is_acted_on() -> None:
    soak = begun()
    look(soak, 5.0, up())
    stall, restart, act, sample = look(soak, 50.0, up())
    assert isinstance(stall, Decide)
    assert isinstance(restart, Decide)
    assert isinstance(sample, WriteSample)
    assert (stall.action, restart.action, act) == (Action.STALL, Action.ENGINE_RESTART, Restart())
    assert sample.restarts == 1


@pytest.mark.claim("K4")
def test_K4_the_end_of_a_run_that_was_replaced_in_this_look_is_not_answered() -> None:
    """Of two ends in one look the first is answered by a restart, which ends whatever ran then."""
    soak = begun()
    entries = [
        process_exit(RUN, 13, "exited"), failure(RUN, "exit-code"),
        process_exit(NEXT, 10, "exited"), failure(NEXT, "exit-code"),
    ]  # fmt: skip
    down = UnitState("activating", "auto-restart", "exit-code", 0, 1, 10, 1, NEXT, "")
    exits = [one.action for one in look(soak, 5.0, down, entries=entries) if isinstance(one, Decide)]
    assert exits == [Action.ENGINE_EXIT, Action.ENGINE_RESTART]


def test_a_soak_that_sees_nothing_ends() -> None:
    soak = begun()
    said = [look(soak, 5.0 * number, "no answer") for number in range(1, BLIND_POLLS_MAX + 2)]
    assert said[:-1] == [[Say("no answer")]] * BLIND_POLLS_MAX
    assert said[-1] == [End(Action.ABORT, "Nothing can be seen of the unit: no answer", EXIT_ABORT)]


DOWN = UnitState("inactive", "dead", "success", 0, 0, 0, 0, "", "")
"""Of which nobody says why."""


@pytest.mark.claim("K7", "K9")
@pytest.mark.parametrize(
    ("bad", "times"),
    [
        ({"unit": "no answer"}, BLIND_POLLS_MAX),
        ({"unit": DOWN}, 1),
        # One look each 5 s is less than the threshold of 45 s, and so are eight in a row.
        ({"progress": "locked"}, 8),
    ],
    ids=["blind", "down", "unreadable"],
)
def test_what_is_endured_in_a_row_is_endured_again_after_a_look_that_is_well(
    bad: dict[str, object], times: int
) -> None:
    """A soak lasts for hours, and each of these happens now and then."""
    soak, now = begun(seconds=1e6), 0.0
    for ticks in range(1, 6):
        for _ in range(times):
            now += 5.0
            found = look(soak, now, **{"unit": up(), "ticks": ticks, **bad})  # type: ignore[arg-type]
            assert not [one for one in found if isinstance(one, End)]
        now += 5.0
        assert [type(one) for one in look(soak, now, up(), ticks + 1)] == [WriteSample]


@pytest.mark.claim("K3")
@pytest.mark.parametrize(("mode", "stalls"), [("realws", True), ("replay", False)])
def test_K3_an_engine_that_is_fed_and_stores_nothing_stalls(mode: str, stalls: bool) -> None:
    """But one that replays into the database that it reads, which stores no tick twice."""
    soak = begun(mode=mode)
    acts = [
        effect
        for now in range(5, 60, 5)
        for effect in look(soak, float(now), up(), heartbeat={"ingest_received": 1000 * now})
        if isinstance(effect, Restart)
    ]
    assert bool(acts) is stalls


@pytest.mark.claim("K3")
def test_K3_what_the_first_healthcheck_took_is_no_stall() -> None:
    """It waits as long as a stall may last; the threshold begins when the soak does."""
    soak = Reducer(TERMS, 0.0)
    soak.begin("stopped")
    soak.acted("", RUN, "", 0.0, 0.0, started=True)
    soak.healthy(44.0)
    for now in (45.0, 50.0, 85.0):
        assert [type(one) for one in look(soak, now, up())] == [WriteSample]
    assert Restart() in look(soak, 90.0, up())


@pytest.mark.claim("K3")
def test_K3_a_run_is_not_judged_by_the_heartbeat_of_the_one_before() -> None:
    soak = begun()
    (sample,) = look(soak, 5.0, up(), heartbeat={"ingest_received": 7})
    assert isinstance(sample, WriteSample)
    assert sample.fields["ingest_received"] == 7
    (sample,) = look(soak, 10.0, up(NEXT))
    assert isinstance(sample, WriteSample)
    assert sample.fields["ingest_received"] is None


@pytest.mark.claim("K4")
@pytest.mark.parametrize(("ticks", "row"), [(1, 2), (2, 1)], ids=["none came", "ticks came"])
def test_K4_a_network_that_brought_ticks_is_lost_for_the_first_time_again(ticks: int, row: int) -> None:
    """The backoff doubles only as long as nothing comes."""
    soak = begun()
    look(soak, 5.0, up())
    reasons = []
    for now, run, grown in ((10.0, RUN, 1), (20.0, NEXT, ticks)):
        look(soak, now - 5.0, up(run), grown)
        down = UnitState("activating", "auto-restart", "exit-code", 0, 1, 10, 1, run, "")
        entries = [process_exit(run, 10), failure(run, "exit-code")]
        told = look(soak, now, down, grown, entries=entries)
        reasons += [one.reason for one in told if isinstance(one, Decide) and one.action is Action.ENGINE_EXIT]
        soak.acted(run, NEXT, "", now, now, started=True)
    assert [f"{number} time(s)" in reason for number, reason in zip((1, row), reasons, strict=True)] == [True, True]


@pytest.mark.claim("K7")
def test_K7_a_signal_comes_before_the_abort_file_and_time_last() -> None:
    soak = begun()
    ends = [soak.check(Requests("SIGTERM", "/x")), soak.check(Requests("", "/x")), soak.check_time(300.0)]
    assert [one and one.status for one in ends] == [EXIT_STOPPED, EXIT_ABORT, EXIT_COMPLETE]
    assert soak.check(Requests()) is None
    assert soak.check_time(299.9) is None


def test_the_next_look_is_earlier_where_a_stall_is_due() -> None:
    soak = begun()
    look(soak, 5.0, up())
    assert soak.next_poll_at(5.0) == 10.0
    assert soak.next_poll_at(42.0) == 45.0


@pytest.mark.claim("K6")
def test_K6_a_sample_has_what_was_seen_and_nothing_that_was_not() -> None:
    soak = begun()
    (first,) = look(soak, 5.0, up(), 10)
    beat = {"ingest_received": 7, "ingest_processed": 6, "loop_lag_ms_p99": 1.25, "tick_count": 6}
    (second,) = look(soak, 7.5, up(), 15, heartbeat=beat)
    calm = {"cpu_some_avg10": 0.0, "memory_some_avg10": 0.0, "io_some_avg10": 0.0}
    fields: dict[str, object] = {
        "elapsed_secs": 7.5, "active": "active", "state": "NORMAL", "sample_every": 1, "tick_id_max": 15,
        "ticks_per_sec": 2.0, "ingest_received": 7, "ingest_processed": 6, "loop_lag_ms_p99": 1.25,
    }  # fmt: skip
    untold = {"ingest_received": None, "ingest_processed": None, "loop_lag_ms_p99": None}
    assert first == WriteSample(
        4242, {**fields, **untold, "elapsed_secs": 5.0, "tick_id_max": 10, "ticks_per_sec": None}, 0, calm
    )
    assert second == WriteSample(4242, fields, 0, calm)
    # A heartbeat holds until the next one; what cannot be read has no figure, and is no zero.
    (third,) = look(soak, 10.0, up(), progress="locked", pressure=Unknown("cpu: missing"))[1:]
    assert third == WriteSample(
        4242,
        {**fields, "elapsed_secs": 10.0, "tick_id_max": None, "ticks_per_sec": None},
        0,
        {"psi": "unknown", "psi_error": "cpu: missing"},
    )
    # The rate is that since the last look that succeeded; of a database begun anew there is none.
    (fourth,) = look(soak, 12.5, up(), 22, pressure=None)
    assert fourth == WriteSample(4242, {**fields, "elapsed_secs": 12.5, "tick_id_max": 22, "ticks_per_sec": 1.4}, 0, {})


@pytest.mark.claim("K6")
@pytest.mark.parametrize(
    ("secs", "ticks", "rate"), [(3.0, 1, 0.333), (3.0, 2, 0.667), (0.5, 1, 2.0), (7.0, 0, 0.0), (7.0, -3, 0.0)]
)
def test_K6_the_rate_of_a_sample_is_what_came_since_the_last_one(secs: float, ticks: int, rate: float) -> None:
    soak = begun()
    look(soak, 5.0, up(), 100)
    (sample,) = look(soak, 5.0 + secs, up(), 100 + ticks)
    assert isinstance(sample, WriteSample)
    assert (sample.fields["ticks_per_sec"], sample.fields["elapsed_secs"]) == (rate, 5.0 + secs)
    # Of two looks at one moment there is no rate.
    (again,) = look(soak, 5.0 + secs, up(), 100 + ticks)
    assert isinstance(again, WriteSample)
    assert again.fields["ticks_per_sec"] is None


@pytest.mark.claim("K6")
def test_K6_times_of_a_sample_are_told_to_the_millisecond() -> None:
    (sample,) = look(begun(), 5.12345, up())
    assert isinstance(sample, WriteSample)
    assert sample.fields["elapsed_secs"] == 5.123


@pytest.mark.claim("K7")
@pytest.mark.parametrize(
    ("now", "looks_at"),
    [
        (0.0, 5.0),
        (42.0, 45.0),  # The stall that is due.
        (45.0, 50.0),  # At that moment it is dealt with, and the next look is a poll again.
        (298.0, 300.0),  # The end.
        (295.0, 300.0),
        (300.0, 305.0),
    ],
)
def test_K7_the_next_look_is_a_poll_away_or_when_something_is_due(now: float, looks_at: float) -> None:
    soak = begun()
    assert soak.next_poll_at(now) == looks_at


@pytest.mark.claim("K7")
def test_K7_until_the_engine_is_well_the_time_is_that_of_the_controller() -> None:
    soak = Reducer(TERMS, 100.0)
    assert (soak.next_poll_at(100.0), soak.next_poll_at(398.0)) == (105.0, 400.0)
    assert soak.check_time(399.9) is None
    assert soak.check_time(400.0) == End(Action.COMPLETE, "Soak duration reached", EXIT_COMPLETE)
    soak.healthy(130.0)
    assert soak.check_time(429.9) is None
    assert soak.check_time(430.0) is not None


@pytest.mark.claim("K4", "K7")
def test_K4_an_engine_that_is_held_is_started_when_its_backoff_is_over() -> None:
    soak = begun()
    look(soak, 5.0, up())
    for now, wait in ((10.0, None), (20.0, 4.0)):
        run = RUN if wait is None else NEXT
        down = UnitState("activating", "auto-restart", "exit-code", 0, 1, 10, 1, run, "")
        found = look(soak, now, down, entries=[process_exit(run, 10), failure(run, "exit-code") | at(now)])
        if wait is None:
            # The first delay is as long as systemd's own.
            assert [type(one) for one in found] == [Decide, Decide, Halt, WriteSample]
            soak.acted(run, "", "", now, now, started=False)
            assert soak.next_poll_at(now) == now + 2.0
            assert not [one for one in look(soak, now + 1.9, STOPPED) if isinstance(one, Restart)]
            told, act, _ = look(soak, now + 2.0, STOPPED)
            assert isinstance(told, Decide)
            assert (told.action, told.reason, act) == (Action.ENGINE_RESTART, "Starting after the backoff", Restart())
            soak.acted("", NEXT, "", now + 2, now + 2, started=True)
            look(soak, now + 3.0, up(NEXT))
        else:
            held = [one.reason for one in found if isinstance(one, Decide) and one.action is Action.ENGINE_STOP]
            assert held == ["Holding it for 4.0 s: exit 10 (NETWORK): network lost 2 time(s) in a row"]


STOPPED = UnitState("inactive", "dead", "success", 0, 0, 0, 0, "", "")
"""As systemd tells of a unit that it was asked to stop."""


def at(now: float) -> dict[str, str]:
    return {"__MONOTONIC_TIMESTAMP": f"{now * 1e6:.0f}"}


@pytest.mark.claim("K7")
@pytest.mark.parametrize(
    ("active", "sub", "now", "given_up"),
    [
        ("active", "running", 44.9, False), ("active", "running", 45.0, True), ("activating", "start", 1.0, False),
        ("failed", "failed", 1.0, True), ("inactive", "dead", 1.0, True), ("activating", "auto-restart", 1.0, False),
        ("activating", "auto-restart", 45.0, True),
    ],
)  # fmt: skip
def test_K7_a_failing_healthcheck_is_made_again_until_its_time_is_over(
    active: str, sub: str, now: float, given_up: bool
) -> None:
    soak = Reducer(TERMS, 0.0)
    soak.begin("stopped")
    soak.acted("", RUN, "no such unit", 0.0, 0.0, started=True)
    unit = replace(up(), active=active, sub=sub)
    end = soak.judge_health(["FAIL unit x", "FAIL database y"], unit, now, 45.0)
    said = "Healthcheck failed: FAIL unit x; FAIL database y; systemctl said: no such unit"
    assert end == (End(Action.ABORT, said, EXIT_ABORT) if given_up else None)


@pytest.mark.claim("K6", "K11")
def test_K6_each_restart_is_counted_once_whoever_made_it() -> None:
    soak = begun()
    look(soak, 5.0, up())
    runs = [f"{number:032x}" for number in range(6)]
    now = 10.0

    def ends(run: str, following: str, *entries: dict[str, str]) -> tuple[int, str]:
        found = look(soak, now, up(following), round(now), entries=[{**one, **at(now)} for one in entries])
        sample = next(one for one in found if isinstance(one, WriteSample))
        return sample.restarts, next(
            str(one.facts["restarted_by"]) for one in found if isinstance(one, Decide) and "restarted_by" in one.facts
        )

    assert ends(RUN, runs[0], failure(RUN, "watchdog")) == (1, "watchdog")
    now = 20.0
    assert ends(runs[0], runs[1], process_exit(runs[0], 11), failure(runs[0], "exit-code")) == (2, "systemd")
    now = 30.0
    assert ends(runs[1], runs[2], success(runs[1])) == (3, "operator")


@pytest.mark.claim("K11")
def test_K11_a_run_that_we_ended_ourselves_was_not_stopped_by_others() -> None:
    soak = begun()
    look(soak, 5.0, up())
    assert not soak.stopped_by_others([])
    assert not soak.stopped_by_others([stopping(NEXT)])
    assert soak.stopped_by_others([stopping(RUN)])
    ours = begun()
    look(ours, 5.0, up())
    ours.acted(RUN, RUN, "", 6.0, 6.0, started=False)
    assert not ours.stopped_by_others([stopping(RUN)])


@pytest.mark.claim("K5", "K6")
@pytest.mark.parametrize("mode", sorted(INGEST_MODES))
@pytest.mark.parametrize("restored", [False, True])
def test_K6_the_first_decision_says_what_is_soaked(mode: str, restored: bool) -> None:
    soak = Reducer(replace(TERMS, mode=mode), 0.0)
    (told,) = soak.start("run-7", Unknown("cpu: missing"), restored=restored)
    assert isinstance(told, Decide)
    left = "; put back the config that an earlier run left changed" if restored else ""
    assert told == Decide(Action.STARTUP, f"Run ID: run-7, Mode: {mode}{left}", mode, RUNGS[0], told.facts)
    assert (told.facts["psi"], told.facts["psi_error"]) == ("unknown", "cpu: missing")
    change, *_ = soak.begin("running")
    assert change == Change({"sample_every": 1, "ingest_mode": INGEST_MODES[mode]})
    # With --psi-actions off nothing is said of pressure.
    (silent,) = Reducer(TERMS, 0.0).start("run-7", None, restored=False)
    assert isinstance(silent, Decide)
    assert silent.facts == {}


@pytest.mark.claim("K1", "K4")
def test_K4_a_look_that_finds_an_operators_restart_is_a_look_like_any_other() -> None:
    soak = begun()
    look(soak, 5.0, up())
    found = look(soak, 10.0, up(NEXT), 2, entries=[success(RUN)], pressure=PRESSED)
    told = [(one.action, one.facts.get("restarted_by")) for one in found if isinstance(one, Decide)]
    assert told == [(Action.ENGINE_EXIT, "operator"), (Action.ENGINE_RESTART, None)]
    assert Restart() in found


@pytest.mark.claim("K1", "K4")
def test_K4_a_look_in_which_an_end_was_answered_steps_up_once() -> None:
    """The pressure in it is that of an engine that is no more."""
    soak = begun()
    look(soak, 5.0, up())
    entries = [process_exit(RUN, 13), failure(RUN, "exit-code") | at(9.0)]
    found = look(soak, 10.0, up(NEXT), 2, entries=entries, pressure=PRESSED)
    assert [type(one) for one in found] == [Decide, Change, Decide, Restart, WriteSample]
    assert isinstance(found[-1], WriteSample)
    assert (found[-1].fields["sample_every"], found[-1].restarts) == (5, 2)


@pytest.mark.claim("K4")
@pytest.mark.parametrize(("ended_at", "answered"), [(19.9, True), (20.0, False)])
def test_K4_what_ended_before_the_soak_last_acted_is_answered_by_that(ended_at: float, answered: bool) -> None:
    """A run ends, systemd starts another one, and the soak restarts that before it hears of the first."""
    soak, third = begun(), "c" * 32
    look(soak, 5.0, up())
    soak.acted(NEXT, third, "", 20.0, 21.0, started=True)
    entries = [process_exit(RUN, 13), failure(RUN, "exit-code") | at(ended_at)]
    found = look(soak, 25.0, up(third), 2, entries=entries)
    told = [one.facts["restarted_by"] for one in found if isinstance(one, Decide) and "restarted_by" in one.facts]
    assert told == ["controller" if answered else "systemd"]
    assert (Restart() in found) is not answered


@pytest.mark.claim("K1", "K3")
def test_K3_a_look_in_which_a_stall_was_answered_leaves_the_rung_as_it_is() -> None:
    soak = begun()
    look(soak, 5.0, up())
    found = look(soak, 50.0, up(), pressure=PRESSED)
    assert [type(one) for one in found] == [Decide, Decide, Restart, WriteSample]
    assert isinstance(found[-1], WriteSample)
    assert found[-1].fields["sample_every"] == 1


@pytest.mark.claim("K6")
def test_K6_a_sample_of_an_engine_that_is_being_replaced_has_no_heartbeat() -> None:
    soak = begun()
    look(soak, 5.0, up(), heartbeat={"ingest_received": 7})
    *_, sample = look(soak, 10.0, up(), 2, pressure=PRESSED)
    assert isinstance(sample, WriteSample)
    assert (sample.fields["ingest_received"], sample.fields["state"]) == (None, "THROTTLE1")


@pytest.mark.claim("K3", "K4")
def test_K3_an_engine_that_an_operator_restarted_gets_the_whole_threshold_from_then_on() -> None:
    soak = begun()
    look(soak, 5.0, up())
    look(soak, 40.0, up(NEXT), entries=[success(RUN)])
    assert Restart() not in look(soak, 84.9, up(NEXT))
    assert Restart() in look(soak, 85.0, up(NEXT))


@pytest.mark.claim("K4")
@pytest.mark.parametrize("was_up", [True, False])
def test_K4_a_unit_that_is_down_without_a_word_is_given_up_at_the_second_look(was_up: bool) -> None:
    soak = begun()
    if was_up:
        look(soak, 5.0, up())
    assert [type(one) for one in look(soak, 10.0, DOWN)] == [WriteSample]
    (end,) = look(soak, 15.0, DOWN)
    assert isinstance(end, End)
    assert (end.action, end.status) == (Action.ABORT, EXIT_ABORT)
    assert end.reason.startswith("The unit is down: ")


@pytest.mark.claim("K4")
def test_K4_of_the_ends_in_a_look_each_that_is_news_is_dealt_with() -> None:
    """The journal tells late of a run that the soak itself replaced, and in the same look of the next one's end."""
    soak = begun()
    look(soak, 5.0, up())
    soak.acted(RUN, NEXT, "", 6.0, 6.0, started=True)
    last = "c" * 32
    entries = [
        process_exit(RUN, 9, "killed"), failure(RUN, "timeout") | at(6.0),
        process_exit(NEXT, 11), failure(NEXT, "exit-code") | at(9.0),
    ]  # fmt: skip
    found = look(soak, 10.0, up(last), 2, entries=entries)
    assert [one.facts["invocation_id"] for one in found if isinstance(one, Decide)] == [NEXT]
    # Told once more, neither is.
    assert [type(one) for one in look(soak, 15.0, up(last), 3, entries=entries)] == [WriteSample]


class SoakMachine(RuleBasedStateMachine):
    """An engine, a systemd and people that do what they like, between looks of a soak."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(1000.0)
        self.computer = FakeComputer(self.clock)
        self.soak = Reducer(TERMS, self.clock.now)
        self.config: dict[str, int | str] = {}
        self.end: End | None = None
        self.told: list[str] = []
        self.rungs = [0]
        self.modes = [TERMS.mode]

    @initialize()
    def begin(self) -> None:
        self.carry_out(self.soak.start("run", CALM, restored=False))
        self.carry_out(self.soak.begin("stopped"))
        self.soak.healthy(self.clock.now)

    @rule(secs=st.sampled_from([0.2, 2.0, 5.0, 20.0]))
    def time_passes(self, secs: float) -> None:
        self.clock.now += secs

    @precondition(lambda self: self.computer.active == "active")
    @rule(status=st.sampled_from([1, 10, 10, 11, 11, 12, 13, 13, 99]), restarted=st.booleans())
    def engine_exits(self, status: int, restarted: bool) -> None:
        self.computer.fail(status, restarted=restarted and status != 12)

    @precondition(lambda self: self.computer.active == "active")
    @rule(restarted=st.booleans())
    def watchdog_kills(self, restarted: bool) -> None:
        self.computer.fail(6, code="dumped", result="watchdog", restarted=restarted)

    @precondition(lambda self: self.computer.active == "active")
    @rule(restarted=st.booleans())
    def engine_finishes(self, restarted: bool) -> None:
        self.computer.finish(restarted=restarted)

    @precondition(lambda self: self.computer.active == "active")
    @rule()
    def engine_freezes(self) -> None:
        self.computer.freeze()

    @rule(reading=st.sampled_from([CALM, PRESSED, Unknown("cpu: missing")]))
    def pressure_is(self, reading: object) -> None:
        self.computer.readings = [reading]  # type: ignore[list-item]

    @precondition(lambda self: self.end is None)
    @rule(blind=st.sampled_from([False] * 5 + [True]), unreadable=st.sampled_from([False] * 5 + [True]))
    def look(self, blind: bool, unreadable: bool) -> None:
        entries = self.computer.journal()
        unit: UnitState | str = "no answer" if blind else self.computer.unit()
        progress: Progress | str = "no such database" if unreadable else self.computer.progress()
        seen = Seen(entries, unit, None, self.computer.pressure(), progress)
        effects = list(self.soak.observe(seen, self.clock.now))
        acts = [one for one in effects if isinstance(one, Restart | Halt)]
        assert len(acts) <= 1, "one look, one act"
        for act in acts:
            before = effects[effects.index(act) - 1]
            assert isinstance(before, Decide), "what is done has been decided, and is on disk"
            wanted = Action.ENGINE_RESTART if isinstance(act, Restart) else Action.ENGINE_STOP
            assert before.action is wanted
        ended = [one for one in effects if isinstance(one, End)]
        assert not ended or (effects[-1:] == ended and not acts), "nothing is done to an engine that is given up"
        if not ended:
            assert isinstance(effects[-1], Say if blind else WriteSample)
        self.carry_out(effects)

    def carry_out(self, effects: object) -> None:
        for effect in effects:  # type: ignore[attr-defined]
            match effect:
                case Change():
                    self.config |= effect.keys
                case Restart() | Halt():
                    ended, at = self.computer.unit().invocation_id, self.clock.now
                    started = isinstance(effect, Restart)
                    if started:
                        rung = RUNGS[self.rungs[-1]]
                        assert self.config == {
                            "sample_every": rung.sample_every, "ingest_mode": INGEST_MODES[self.modes[-1]],
                        }, "an engine starts on what was decided"  # fmt: skip
                    act = self.computer.restart if started else self.computer.stop
                    complaint = act(lambda: False)
                    now = self.computer.unit().invocation_id
                    self.soak.acted(ended, now, complaint, at, self.clock.now, started=started)
                case Decide():
                    self.rungs.append(RUNGS.index(effect.rung))
                    self.modes.append(effect.mode)
                    if effect.action is Action.ENGINE_EXIT:
                        self.told.append(str(effect.facts["invocation_id"]))
                case End():
                    self.end = effect

    @invariant()
    def each_end_is_told_once(self) -> None:
        assert len(self.told) == len(set(self.told))

    @invariant()
    def rungs_are_climbed_one_by_one(self) -> None:
        assert all(abs(after - before) <= 1 for before, after in zip(self.rungs, self.rungs[1:], strict=False))

    @invariant()
    def nobody_leaves_the_mock_feed(self) -> None:
        assert self.modes == sorted(self.modes, key=["realws", "mockws"].index)

    @invariant()
    def looks_do_not_stop(self) -> None:
        now = self.clock.now
        assert now < self.soak.next_poll_at(now) <= now + TERMS.poll_secs


TestSoakMachine = SoakMachine.TestCase
TestSoakMachine.settings = settings(stateful_step_count=40)
