"""G4: a structured heartbeat on its cadence, and books that balance in every one of them (contract M1 to M3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime

import pytest

from harness.base.clock import OsClock, poll
from harness.base.journal import Entry
from harness.base.waiting import awaiting
from harness.evidence import checkers, messages
from harness.faults import nemesis
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.misconfigured import printed

FIELDS = messages.COUNTERS | {"gaps", "loop_lag_ms_p99", "clock_skew_ms", "wal_bytes"}
"""All that M2 names; a test of the suite holds that."""

MAY_BE_UNKNOWN = {"clock_skew_ms"}

BEATS = 16
INTERVAL_SECS = 0.2
"""So many and so often that one that comes late, on a busy computer, changes little of the whole."""

LATE_TIMES = 10
LATE_SECS = 0.5
"""So often, at most, and for so long a loop stands still, with two heartbeats between."""

RUNNING_SECS = 0.5
"""How long ingest that runs may take to be let in by an exchange of the same computer."""


def heartbeats(engine: EngineUnit, count: int) -> list[Entry]:
    def nth(number: int) -> Callable[[Entry], bool]:
        left = itertools.count(number, -1)
        return lambda entry: entry.event == "HEARTBEAT (G4)" and next(left) == 1

    for number in range(1, count + 1):
        engine.wait(f"heartbeat number {number}", nth(number))
    return [entry for entry in engine.journal() if entry.event == "HEARTBEAT (G4)"][:count]


def is_number(value: object, may_be_unknown: bool) -> bool:
    """Whether it is what a counter or a measurement says."""
    if value is None:
        return may_be_unknown
    return isinstance(value, int | float) and not isinstance(value, bool) and (value >= 0 or may_be_unknown)


@pytest.mark.claim("G4", "M1", "M2", "M3", "M4")
def test_heartbeats_come_in_time_and_balance(engine: EngineUnit, exchange: Exchange) -> None:
    """At a fraction of the default interval, so that a proof sees several; the cadence is the configured one."""
    exchange.feed(interval_secs=0.001)
    engine.configure(
        {
            "engine": {
                "ingest_mode": "MOCK_WS",
                "ws_url": exchange.url,
                "heartbeat_interval_secs": INTERVAL_SECS,
                "sample_every": 3,
            }
        }
    )
    # A busy computer may be late once.
    for attempt in (1, 2, 3):
        engine.start()
        ready = engine.wait("systemd's word that it started", lambda e: e.message.startswith("Started "))
        exchange.wait_client(connections=attempt)
        late = exchange.opened[-1] - ready.realtime_us / 1e6
        if late <= RUNNING_SECS:
            break
        engine.stop()
    engine.expect(late <= RUNNING_SECS, f"it connected {late:.1f} s after READY=1, by which ingest is running (M4)")
    # As a whole: on a busy computer one comes late, and the next one after it in time; or most do for a while.
    due = INTERVAL_SECS * (BEATS - 1)
    for attempt in (1, 2, 3):
        beats = heartbeats(engine, attempt * BEATS)[-BEATS:]
        took = (beats[-1].realtime_us - beats[0].realtime_us) / 1e6
        if in_time := 0.8 * due <= took <= 1.2 * due + 0.5:
            break
    engine.expect(in_time, f"{took:.3f} s for {BEATS} heartbeats of {INTERVAL_SECS:g} s")
    # And each by itself: half of them, on a busy computer.
    apart = sorted((later.realtime_us - before.realtime_us) / 1e6 for before, later in itertools.pairwise(beats))
    usual = apart[len(apart) // 2]
    engine.expect(
        0.8 * INTERVAL_SECS <= usual <= 1.5 * INTERVAL_SECS,
        f"from one heartbeat to the next it is {usual:.3f} s as a rule, heartbeat_interval_secs is {INTERVAL_SECS:g}",
    )
    engine.expect(len({beat.pid for beat in beats}) == 1, "it was restarted meanwhile")
    for beat in beats:
        books = beat.fields
        engine.expect(set(books) >= FIELDS, f"missing in the heartbeat: {sorted(FIELDS - set(books))}")
        engine.expect(beat.level == "INFO" and beat.target != "", "not an M1 line")
        strange = [f"{name} = {books[name]!r}" for name in FIELDS if not is_number(books[name], name in MAY_BE_UNKNOWN)]
        engine.expect(not strange, f"a heartbeat counts in what is no number: {strange}")
        engine.expect_own_time(beat)
    history = [checkers.Heartbeat(number, beat.fields, sample_every=3) for number, beat in enumerate(beats, start=1)]
    engine.expect_judged(checkers.books_balance(history))
    engine.expect_judged(checkers.sampling_is_exact(history))
    engine.expect(beats[-1].fields["ingest_received"] > beats[0].fields["ingest_received"], "no progress")
    engine.expect_judged(messages.counters_never_fall(beats))
    whole = all(datetime.fromisoformat(beat.timestamp).microsecond == 0 for beat in beats)
    engine.expect(not whole, f"the times of lines have no microseconds: {beats[0].timestamp}")
    engine.expect(engine.property("StatusText") != "", "a running engine tells systemd no STATUS=")
    engine.stop()
    final = engine.wait_log("FINAL METRICS").fields
    engine.expect(set(final) >= FIELDS, f"missing in the final metrics: {sorted(FIELDS - set(final))}")
    # Whoever of the unit it is that writes them.
    lines = [e.message for e in engine.whole_journal() if e.identifier != "systemd" and not e.level]
    engine.expect(not lines, f"lines that are no M1 lines: {lines[:3]}")


@pytest.mark.claim("G4", "M2")
def test_first_heartbeat_comes_at_start_and_default_is_ten_seconds(engine: EngineUnit) -> None:
    engine.configure({})
    engine.start()
    (first,) = heartbeats(engine, 1)
    ready = engine.wait("systemd's word that it started", lambda e: e.message.startswith("Started "))
    engine.expect(abs(first.realtime_us - ready.realtime_us) < 1e6, "the first heartbeat is not at the start")
    shown = engine.machine.run(*engine.argv("--check-config"))
    engine.expect(shown.status == 0, f"--check-config ends with {shown.status}: {shown.stderr[-300:]}")
    key = "engine.heartbeat_interval_secs"
    told = printed(shown).get(key)
    engine.expect(told == 10, f"the default of {key} is {told}, not 10")


@pytest.mark.slow
@pytest.mark.claim("M2", "B3")
def test_a_loop_that_is_late_now_and_then_says_so(engine: EngineUnit) -> None:
    """What is late once in ten times or so is what loop_lag_ms_p99 is about: a mean or a median says nothing of it."""
    engine.configure({"engine": {"heartbeat_interval_secs": INTERVAL_SECS}})
    engine.start()
    heartbeats(engine, BEATS // 2)
    told_ms = 0.0
    for _ in range(LATE_TIMES):
        with nemesis.paused(engine), awaiting("a loop to be late"):
            poll(lambda: None, OsClock(), LATE_SECS)
        for _ in range(2):
            engine.mark()
            told_ms = engine.wait_log("HEARTBEAT (G4)").fields["loop_lag_ms_p99"]
        if told_ms >= 800 * LATE_SECS:
            break
    engine.expect(
        told_ms >= 800 * LATE_SECS,
        f"loop_lag_ms_p99 is {told_ms}, and it was late by {1000 * LATE_SECS:g} ms time and again",
    )
