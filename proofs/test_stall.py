"""Stall detection (contract K3)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stall import Progress, StallClock


def seen(tick_id: int) -> Progress:
    return Progress(tick_id, 1_767_976_286_000 + tick_id)


def clock_at(tick_id: int = 10, threshold_secs: float = 45.0) -> StallClock:
    """A clock that has seen `tick_id` at time 0."""
    clock = StallClock(threshold_secs, 0.0)
    assert clock.look(seen(tick_id), None, 1, 0.0) is None
    return clock


def test_K3_no_progress_for_the_threshold_is_a_stall() -> None:
    clock = clock_at()
    assert clock.look(seen(10), None, 1, 44.9) is None
    stall = clock.look(seen(10), None, 1, 45.0)
    assert stall is not None
    assert (stall.ticks_count, stall.last_tick_ts, stall.progress) == (10, 1_767_976_286_010, False)
    assert (stall.stall_streak, stall.seconds_since_progress) == (1, 45.0)


@pytest.mark.claim("K3")
def test_a_slow_but_living_engine_is_not_stalled() -> None:
    clock = clock_at()
    for number in range(1, 50):
        assert clock.look(seen(10 + number), None, 1, 44.0 * number) is None


def test_K3_a_restart_starts_the_clock_anew_but_not_the_truth() -> None:
    clock = clock_at()
    assert clock.look(seen(10), None, 1, 45.0) is not None
    clock.restarted(46.0)
    assert clock.due_at == 91.0
    assert clock.look(seen(10), None, 1, 90.0) is None
    again = clock.look(seen(10), None, 1, 91.0)
    assert again is not None
    assert (again.stall_streak, again.seconds_since_progress) == (2, 91.0)


def test_K3_progress_ends_the_streak() -> None:
    clock = clock_at()
    assert clock.look(seen(10), None, 1, 50.0) is not None
    assert clock.look(seen(11), None, 1, 60.0) is None
    stall = clock.look(seen(11), None, 1, 105.0)
    assert stall is not None
    assert stall.stall_streak == 1


def test_K3_a_database_that_was_replaced_is_progress() -> None:
    clock = clock_at(1_000_000)
    assert clock.look(seen(3), None, 1, 60.0) is None


@pytest.mark.claim("K3")
def test_a_throttled_engine_in_a_quiet_market_is_not_stalled() -> None:
    """One tick each 5 s, of which one in twenty is stored; heartbeats tell of the others."""
    clock = StallClock(45.0, 0.0)
    for number in range(200):
        now, received = 5.0 * number, number
        assert clock.look(seen(10 + received // 20), received, 20, now) is None


@pytest.mark.claim("K3")
def test_an_engine_that_receives_and_never_stores_is_stalled() -> None:
    clock = StallClock(45.0, 0.0)
    stalls = [clock.look(seen(10), number, 5, 1.0 * number) for number in range(60)]
    first = next(number for number, stall in enumerate(stalls) if stall is not None)
    # Four ticks may have gone unstored; the fifth had to be.
    assert first == 4 + 45


def test_K3_a_replay_into_itself_makes_no_rows() -> None:
    clock = StallClock(45.0, 0.0)
    for number in range(20):
        assert clock.look(seen(10), 1000 * number, None, 10.0 * number) is None
    assert clock.look(seen(10), 19_000, None, 190.0 + 45.0) is not None


@pytest.mark.claim("K3")
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 30.0), st.booleans(), st.booleans()), max_size=60))
def test_a_stall_is_exactly_the_threshold_without_progress_and_restart(
    looks: list[tuple[float, bool, bool]],
) -> None:
    clock = clock_at()
    now, quiet_since, tick_id = 0.0, 0.0, 10
    for pause, grows, restarted in looks:
        now += pause
        if restarted:
            clock.restarted(now)
            quiet_since = now
        tick_id += grows
        if grows:
            quiet_since = now
        due = clock.due_at
        stall = clock.look(seen(tick_id), None, 1, now)
        assert (stall is not None) == (now >= quiet_since + 45.0)
        if not grows and not restarted:
            assert (stall is not None) == (now >= due)
