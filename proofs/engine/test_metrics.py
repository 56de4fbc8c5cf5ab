"""engine/base/metrics.py: the counters, their names, and the books (M2, M3)."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.metrics import Counters, LagHistogram, broken_books, snapshot
from proofs.fixtures.engine_process import assert_balanced

M2_NAMES = [
    "tick_count",
    "signal_count",
    "shadow_orders",
    "trade_count",
    "persist_count",
    "persist_errors",
    "ingest_received",
    "ingest_processed",
    "bp_drops_tick",
    "bp_drops_signal",
    "bp_drops_persist",
    "risk_vetoes",
    "parse_errors",
    "ignored",
    "foreign",
    "duplicates",
    "gaps",
    "reconnects",
    "stale_vetoes",
    "loop_lag_ms_p99",
    "clock_skew_ms",
    "log_drops",
    "wal_bytes",
]

COUNT = st.integers(0, 10**9)


@pytest.mark.claim("M2")
def test_M2_a_snapshot_has_every_name_of_the_contract() -> None:
    fields = snapshot(
        Counters(), by_market={}, tick_rows_queued=0, loop_lag_ms_p99=0.0, wal_bytes=0, source=None, clock_skew_ms=None
    )
    assert set(M2_NAMES) <= set(fields)


@pytest.mark.claim("M2")
@pytest.mark.parametrize(("lag", "told"), [(0.0, 0.0), (1.23456, 1.235), (1.2344, 1.234), (99_000.0, 99_000.0)])
def test_M2_the_lag_is_told_to_the_microsecond(lag: float, told: float) -> None:
    fields = snapshot(
        Counters(), by_market={}, tick_rows_queued=0, loop_lag_ms_p99=lag, wal_bytes=0, source=None, clock_skew_ms=None
    )
    assert fields["loop_lag_ms_p99"] == told


@pytest.mark.claim("N9", "C8")
def test_N9_gaps_and_duplicates_are_told_of_the_markets_with_most() -> None:
    counts: dict[str, tuple[int | None, int]] = {f"s {number}": (number, 200 - number) for number in range(1, 151)}
    counts["sparse"] = (None, 1000)
    counts["token=S3CRET"] = (999, 999)
    counts["x" * 5000] = (998, 998)
    fields = snapshot(
        Counters(), by_market=counts, tick_rows_queued=0, loop_lag_ms_p99=0.0, wal_bytes=0, source="x", clock_skew_ms=0
    )
    gaps, duplicates = fields["gaps_by_market"], fields["duplicates_by_market"]
    assert isinstance(gaps, dict)
    assert isinstance(duplicates, dict)
    first = {"token=[redacted]": 999, "x" * 128: 998}
    assert gaps == first | {f"s {number}": number for number in range(53, 151)}
    assert duplicates == {"sparse": 1000} | first | {f"s {number}": 200 - number for number in range(1, 98)}


@st.composite
def balanced(draw: st.DrawFn) -> tuple[dict[str, object], int]:
    every = draw(st.integers(1, 20))
    received, duplicates = draw(COUNT), draw(COUNT)
    processed = received // every
    written = draw(st.integers(0, processed))
    known = draw(st.integers(0, processed - written))
    queued = draw(st.integers(0, processed - written - known))
    dropped = draw(st.integers(0, processed - written - known - queued))
    counters = Counters(
        ticks_parsed=received + duplicates,
        duplicates=duplicates,
        ingest_received=received,
        ingest_processed=processed,
        sampled_out=received - processed,
        tick_count=processed,
        tick_rows_written=written,
        tick_rows_known=known,
        bp_drops_tick=dropped,
        bp_drops_persist=processed - written - known - queued - dropped,
    )
    fields = snapshot(
        counters, by_market={}, tick_rows_queued=queued, loop_lag_ms_p99=0.0, wal_bytes=0, source="x", clock_skew_ms=7
    )
    return fields, every


@pytest.mark.claim("M3")
@given(balanced())
def test_M3_balanced_books_are_not_complained_about(books: tuple[dict[str, object], int]) -> None:
    assert broken_books(*books) == []
    assert_balanced(*books)


@pytest.mark.claim("M3")
@given(
    balanced(),
    st.sampled_from(
        [
            "ticks_parsed",
            "duplicates",
            "ingest_received",
            "ingest_processed",
            "sampled_out",
            "tick_count",
            "tick_rows_written",
            "tick_rows_known",
            "tick_rows_queued",
            "bp_drops_tick",
            "bp_drops_persist",
        ]
    ),
    st.integers(1, 1000),
)
def test_M3_one_lost_tick_anywhere_breaks_the_books(books: tuple[dict[str, object], int], name: str, lost: int) -> None:
    fields, every = books
    number = fields[name]
    assert isinstance(number, int)
    broken = fields | {name: number + lost}
    assert broken_books(broken, every)
    with pytest.raises(AssertionError, match=r"M3|N7"):
        assert_balanced(broken, every)


@pytest.mark.claim("M2")
@given(st.lists(st.floats(0.1, 90_000), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_M2_lag_quantile_is_within_a_bucket_of_the_exact_one(lags: list[float], fraction: float) -> None:
    histogram = LagHistogram()
    for lag in lags:
        histogram.add(lag)
    exact = sorted(lags)[max(0, math.ceil(fraction * len(lags)) - 1)]
    assert exact <= histogram.quantile_ms(fraction) * 1.000001
    assert histogram.quantile_ms(fraction) <= exact * 1.11


@pytest.mark.claim("M2")
@pytest.mark.parametrize("lag", [-5.0, 0.0])
def test_M2_no_lag_is_a_tenth_of_a_millisecond_at_most(lag: float) -> None:
    histogram = LagHistogram()
    assert histogram.quantile_ms(0.99) == 0.0
    histogram.add(lag)
    assert histogram.quantile_ms(0.99) <= 0.1


@pytest.mark.claim("M2")
def test_M2_every_counter_begins_at_zero() -> None:
    assert set(msgspec.structs.asdict(Counters()).values()) == {0}


@pytest.mark.parametrize(
    "lag", [digit * 10.0**exponent for exponent in range(-1, 4) for digit in range(1, 10)] + [98_000]
)
@pytest.mark.claim("M2")
def test_M2_any_one_lag_is_told_to_a_tenth(lag: float) -> None:
    """From a tenth of a millisecond to 99 s, just below each digit and at it: no bucket is missing or too wide."""
    for exact in (lag * 0.9951, lag):
        histogram = LagHistogram()
        histogram.add(exact)
        assert exact * 0.9999999 <= histogram.quantile_ms(1.0) <= max(0.1, exact * 1.1000001)
