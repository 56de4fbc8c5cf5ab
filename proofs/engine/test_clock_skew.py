"""Contract N14: a venue's clock that vetoes everything is told, and no stray trade is taken for one."""

from __future__ import annotations

import itertools
import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.channels import Channel
from engine.base.events import Tick
from engine.ingest.clock_skew import REMIND_SECS, SLICES_MAX, Notice, VenueClock, VenueClocks
from engine.ingest.inlet import Ingest
from engine.ingest.intake import Intake
from engine.ingest.venues.markets import Markets, Streams

LIMIT = 5_000
NOW = 1_700_000_000_000
INTERVAL_SECS = 10.0
SLICE_MS = int(INTERVAL_SECS * 1000 / SLICES_MAX) + 1
DAY = 86_400_000


def judged(offsets: list[int]) -> int | None:
    """One batch a slice, each with its last trade so far ahead of our clock."""
    clock = VenueClock(LIMIT, INTERVAL_SECS)
    for n, offset in enumerate(offsets):
        now = NOW + n * SLICE_MS
        clock.add(now + offset, now)
    return clock.judge()


@pytest.mark.claim("N14")
@pytest.mark.parametrize(
    ("offsets", "skew_ms"),
    [
        # A good clock: delays of the network.
        ([-40, -12, -200], -12),
        ([0], 0),
        ([3, -5], 3),
        # The limit itself is none beyond it.
        ([LIMIT, LIMIT], LIMIT),
        ([-LIMIT, -LIMIT], -LIMIT),
        ([-LIMIT], -LIMIT),
        # Ahead and behind: all trades say so, the least delayed of them best.
        ([62_000, 61_950, 61_990, 60_000], 61_950),
        ([-62_000, -62_400, -70_000], -62_000),
        # One trade that is not as the others, in either direction, under each kind of clock.
        ([-40, DAY * 365, -12, -200], -12),
        ([-40, -DAY, -12, -200], -12),
        ([62_000, DAY * 365, 61_990], 62_000),
        ([62_000, -DAY, 61_990], 61_990),
        ([-62_000, DAY * 365, -62_400], -62_000),
        ([-62_000, -DAY, -62_400], -62_000),
        # Fresh ones beside a burst of old ones after a reconnect, or beside one.
        ([-90_000, -60_000, -30_000, -20, -35], -20),
        ([-90_000, -60_000, -30_000, -20], -20),
        ([-90_000, -20], -20),
        # Two strays from the future among many are still strays, a quarter is not.
        ([DAY, DAY, *[-10] * 7], -10),
        ([DAY, DAY, *[-10] * 6], DAY),
        # One trade that would be a skew, or one of each kind, proves nothing.
        ([], None),
        ([62_000], None),
        ([-62_000], None),
        ([62_000, -62_000], None),
    ],
)
def test_N14_what_an_interval_says(offsets: list[int], skew_ms: int | None) -> None:
    assert judged(offsets) == skew_ms
    assert judged(offsets[::-1]) == skew_ms


@pytest.mark.claim("N14")
def test_N14_a_quiet_markets_trades_are_judged_together() -> None:
    """One trade an interval: the second that says the same confirms the first, a fresh one refutes it."""
    for second, skew_ms in ((-61_000, -61_000), (-50, -50), (62_000, None)):
        clock = VenueClock(LIMIT, INTERVAL_SECS)
        clock.add(NOW - 62_000, NOW)
        assert clock.judge() is None
        assert clock.judge() is None
        clock.add(NOW + DAY + second, NOW + DAY)
        assert clock.judge() == skew_ms
    # What has been judged is gone.
    assert judged([62_000, 62_000]) == 62_000
    assert clock.judge() is None


@pytest.mark.claim("N14")
def test_N14_many_old_trades_in_a_moment_are_one_slice() -> None:
    """A burst weighs no more than its time: fresh ones before and after it decide."""
    clock = VenueClock(LIMIT, INTERVAL_SECS)
    clock.add(NOW + 62_000, NOW)
    for n in range(1_000):
        clock.add(NOW + 62_000 - 57_000 - n, NOW + SLICE_MS)
    clock.add(NOW + 2 * SLICE_MS + 62_000, NOW + 2 * SLICE_MS)
    assert clock.judge() == 62_000


@pytest.mark.claim("N14")
@given(
    skew=st.integers(-10 * DAY, 10 * DAY),
    delays=st.lists(st.integers(0, 900), min_size=4, max_size=100),
    stray=st.one_of(st.none(), st.integers(-(2**50), 2**50)),
    at=st.integers(0, 99),
    pace_ms=st.integers(0, 2_000),
)
def test_N14_the_skew_is_found_whatever_one_trade_says(
    skew: int, delays: list[int], stray: int | None, at: int, pace_ms: int
) -> None:
    """Only one that lies between the skew and the limit counts: no delay speaks against it."""
    clock = VenueClock(LIMIT, INTERVAL_SECS)
    offsets = [skew - delay for delay in delays]
    if stray is not None:
        offsets.insert(at % (len(offsets) + 1), stray)
    for n, offset in enumerate(offsets):
        now = NOW + n * (SLICE_MS + pace_ms)
        clock.add(now + offset, now)
    found = clock.judge()
    assert found is not None
    assert abs(found - skew) <= 900 or (found == stray and skew < found <= LIMIT)


@pytest.mark.claim("N14")
@pytest.mark.parametrize("interval_secs", [5e-324, 0.2, 10.0, 3e8])
@pytest.mark.parametrize("step_ms", [0, 1, 7, 400, 10**9, -1, -(10**9)])
def test_N14_memory_is_bounded_whatever_the_clocks_say(step_ms: int, interval_secs: float) -> None:
    clock = VenueClock(LIMIT, interval_secs)
    for n in range(1_000):
        now = NOW + n * step_ms
        clock.add(now + (-1) ** n * n * DAY, now)
        if n % 300 == 299:
            clock.judge()
        assert len(clock._bests) <= SLICES_MAX + 2


def turn(clocks: VenueClocks, at: float, *offsets: int, source: str = "s") -> list[Notice]:
    for n, offset in enumerate(offsets):
        now = NOW + int(at * 1000) + n * SLICE_MS
        clocks.add(source, now + offset, now)
    return clocks.turn(at)


@pytest.mark.claim("N14")
def test_N14_a_skew_is_told_when_it_begins_changes_or_stays_and_when_it_is_over() -> None:
    clocks = VenueClocks(LIMIT, INTERVAL_SECS)
    assert clocks.skew_ms is None
    assert turn(clocks, 0) == []
    assert clocks.skew_ms is None
    assert turn(clocks, 10, -20, -30) == []
    assert clocks.skew_ms == -20
    [begun] = turn(clocks, 20, 62_000, 62_000)
    assert (begun.source, begun.skew_ms, begun.over, clocks.skew_ms) == ("s", 62_000, False, 62_000)
    assert begun.text == "the venue's clock is 62 s ahead: every signal is vetoed as stale"
    # The same, nothing, and a little more: nobody is told again.
    assert turn(clocks, 30, 62_000, 62_010) == turn(clocks, 40) == turn(clocks, 50, 66_000, 66_000) == []
    assert clocks.skew_ms == 66_000
    [changed] = turn(clocks, 60, 67_001, 67_001)
    assert changed.skew_ms == 67_001
    assert turn(clocks, 60 + REMIND_SECS - 1, 67_000, 67_000) == []
    [reminded] = turn(clocks, 60 + REMIND_SECS, 67_000, 67_000)
    assert not reminded.over
    [turned] = turn(clocks, 4_000, -7_000, -7_000)
    assert turned.text == (
        "the venue's clock is 7.0 s behind, or its trades come late: every signal is vetoed as stale"
    )
    [over] = turn(clocks, 4_010, -20)
    assert (over.over, over.skew_ms, over.text) == (True, -20, "the venue's clock agrees with ours again")
    assert turn(clocks, 4_020, -20, -20) == []


@pytest.mark.claim("N14")
def test_N14_each_source_has_its_clock() -> None:
    clocks = VenueClocks(LIMIT, INTERVAL_SECS)
    turn(clocks, 0, 62_000, source="a")
    assert turn(clocks, 10, 62_000, source="b") == []
    [notice] = turn(clocks, 20, 62_000, source="a")
    assert (notice.source, clocks.skew_ms) == ("a", 62_000)
    assert turn(clocks, 30, 0, source="b") == []
    assert clocks.skew_ms == 0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.claim("N14")
def test_N14_the_limit_itself_vetoes_nothing_and_is_not_told(sign: int) -> None:
    clocks = VenueClocks(LIMIT, INTERVAL_SECS)
    assert turn(clocks, 0, sign * LIMIT, sign * LIMIT) == []
    [begun] = turn(clocks, 10, sign * (LIMIT + 1), sign * (LIMIT + 1))
    assert not begun.over
    [over] = turn(clocks, 20, sign * LIMIT, sign * LIMIT)
    assert over.over


@pytest.mark.claim("N14")
def test_N14_the_markets_of_a_venue_have_one_clock() -> None:
    """Beside fresh trades of one of them old ones of another, which is quiet, make no skew; the source is named."""
    streams = Streams()
    markets = Markets("venue", "X", streams, {"A": "X", "B": "Y"})
    clocks = VenueClocks(LIMIT, INTERVAL_SECS)
    now_ms = itertools.count(NOW, SLICE_MS)
    ingest = Ingest(
        Intake(1, 1), Channel("tick", 99, time.monotonic), Channel("persist", 99, time.monotonic), lambda: None,
        streams, cast("Any", lambda _: None), replay=False, keep_ids=False, clocks=clocks, wall_ms=lambda: next(now_ms),
    )  # fmt: skip
    numbers = itertools.count()

    def traded(market: str, offset_ms: int) -> None:
        stream, symbol = cast("tuple[str, str]", markets.place(market, "trade"))
        assert ingest.deliver([Tick(stream, symbol, 1.0, 1.0, NOW + offset_ms, next(numbers))]) == 1

    for _ in range(3):
        traded("A", 0)
        traded("B", -90_000)
    assert clocks.turn(0.0) == []
    for _ in range(3):
        traded("B", -90_000)
    assert [notice.source for notice in clocks.turn(INTERVAL_SECS)] == ["venue"]
