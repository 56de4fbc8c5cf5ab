"""The stall clock (contract K3): what is progress, and what only looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.observing.stall import Progress, Stall, StallClock

THRESHOLD = 10.0


def seen(rows: int) -> Progress:
    return Progress(rows, 1_000 + rows if rows else None)


def looks(clock: StallClock, *taken: tuple[float, int, int | None], row_every: int | None = 1) -> list[float]:
    """When a stall was found. taken: (now, rows, received) of each look."""
    return [now for now, rows, received in taken if clock.observe(seen(rows), received, row_every, now) is not None]


@pytest.mark.claim("K3")
def test_K3_a_stall_is_told_when_the_threshold_has_passed_and_not_before() -> None:
    clock = StallClock(THRESHOLD, 100.0)
    assert clock.due_at == 110.0
    assert clock.observe(seen(7), None, 1, 101.0) is None
    assert clock.observe(seen(7), None, 1, 109.999) is None
    assert clock.observe(seen(7), None, 1, 110.0) == Stall(7, 1_007, False, 1, 10.0)
    assert clock.observe(seen(7), None, 1, 112.5) == Stall(7, 1_007, False, 2, 12.5)


@pytest.mark.claim("K3")
@pytest.mark.parametrize(("now", "told"), [(112.345, 12.345), (112.3454, 12.345), (112.3456, 12.346), (110.0004, 10.0)])
def test_K3_the_time_since_progress_is_told_to_the_millisecond(now: float, told: float) -> None:
    clock = StallClock(THRESHOLD, 100.0)
    assert clock.observe(seen(7), None, 1, 101.0) is None
    stall = clock.observe(seen(7), None, 1, now)
    assert stall is not None
    assert stall.seconds_since_progress == told


@pytest.mark.claim("K3")
def test_K3_the_first_look_is_never_a_stall() -> None:
    assert looks(StallClock(THRESHOLD, 0.0), (50.0, 3, 5), (51.0, 3, 5)) == [51.0]


@pytest.mark.claim("K3")
def test_K3_a_new_row_starts_the_clock_and_the_row_of_stalls_anew() -> None:
    clock = StallClock(THRESHOLD, 0.0)
    assert looks(clock, (1.0, 1, None), (10.0, 1, None), (12.0, 2, None), (21.0, 2, None)) == [10.0]
    assert clock.due_at == 22.0
    assert clock.observe(seen(2), None, 1, 22.0) == Stall(2, 1_002, False, 1, 10.0)
    # Fewer rows than before is another database, in which somebody wrote.
    assert clock.observe(seen(1), None, 1, 23.0) is None
    assert clock.due_at == 33.0


@pytest.mark.claim("K3")
def test_K3_a_restarted_engine_gets_the_whole_threshold_but_progress_is_as_old_as_it_is() -> None:
    clock = StallClock(THRESHOLD, 0.0)
    assert looks(clock, (1.0, 1, 5), (10.0, 1, 5)) == [10.0]
    clock.restarted(11.0)
    assert clock.due_at == 21.0
    assert clock.observe(seen(1), None, 1, 20.9) is None
    assert clock.observe(seen(1), None, 1, 21.0) == Stall(1, 1_001, False, 2, 21.0)


@pytest.mark.claim("K3")
def test_K3_what_a_throttled_engine_receives_is_progress_until_it_should_have_made_a_row() -> None:
    """One tick a second, of which every twentieth is stored: at the twentieth without a row the feed is no excuse."""
    clock = StallClock(THRESHOLD, 0.0)
    assert looks(clock, *((float(n), 1, n) for n in range(20)), row_every=20) == []
    assert clock.due_at == 29.0
    assert looks(clock, *((float(n), 1, n) for n in range(20, 40)), row_every=20)[0] == 29.0


@pytest.mark.claim("K3")
def test_K3_each_row_lets_a_throttled_engine_receive_as_much_again() -> None:
    clock = StallClock(THRESHOLD, 0.0)
    assert looks(clock, *((float(n), n // 20, n) for n in range(200)), row_every=20) == []


@pytest.mark.claim("K3")
def test_K3_an_engine_that_receives_for_ever_and_stores_nothing_is_stalled() -> None:
    clock = StallClock(THRESHOLD, 0.0)
    stalls = looks(clock, *((float(n), 1, 1_000 * n) for n in range(60)), row_every=20)
    assert stalls[0] == THRESHOLD
    assert len(stalls) == 50


@pytest.mark.claim("K3")
def test_K3_a_count_that_stands_still_or_begins_anew_is_no_feed() -> None:
    for received in (5, 4, None):
        clock = StallClock(THRESHOLD, 0.0)
        assert looks(clock, (0.0, 1, 5), (9.0, 1, received), (10.0, 1, received), row_every=20) == [10.0]


@pytest.mark.claim("K3")
def test_K3_a_replay_that_makes_no_rows_is_alive_while_it_receives() -> None:
    clock = StallClock(THRESHOLD, 0.0)
    assert looks(clock, *((float(n), 1, 1_000 * n) for n in range(60)), row_every=None) == []
    assert looks(clock, *((float(n), 1, 59_000) for n in range(60, 70)), row_every=None) == [69.0]


@pytest.mark.claim("K3")
def test_K3_what_the_engine_received_before_its_restart_is_not_compared() -> None:
    clock = StallClock(THRESHOLD, 0.0)
    assert looks(clock, (0.0, 1, 900), (1.0, 1, 919), row_every=20) == []
    clock.restarted(2.0)
    # From zero again, and one in twenty again: alive for as long as that takes.
    assert looks(clock, *((float(n), 1, n) for n in range(3, 22)), row_every=20) == []


@given(st.lists(st.tuples(st.floats(0.1, 5), st.integers(0, 3)), max_size=60), st.sampled_from([1, 5, 20, None]))
@pytest.mark.claim("K3")
def test_K3_rows_that_come_within_the_threshold_are_never_a_stall(
    steps: list[tuple[float, int]], row_every: int | None
) -> None:
    """Two looks without a row are at most 10 s; the third would be due."""
    clock, now, rows = StallClock(15.1, 0.0), 0.0, 0
    quiet = 0
    for secs, made in steps:
        quiet = 0 if made else quiet + 1
        now, rows = now + secs, rows + made + (1 if quiet == 3 else 0)
        quiet %= 3
        assert clock.observe(seen(rows), None, row_every, now) is None


@pytest.mark.parametrize("threshold", [0.5, 90.0])
@pytest.mark.claim("K3")
def test_K3_an_engine_that_never_stores_anything_is_stalled_at_every_look_after_the_threshold(threshold: float) -> None:
    clock = StallClock(threshold, 0.0)
    streaks = [clock.observe(seen(0), 0, 1, threshold * n / 2) for n in range(7)]
    assert [one and one.stall_streak for one in streaks] == [None, None, 1, 2, 3, 4, 5]
