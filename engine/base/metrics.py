"""Counters of one run, their snapshot for HEARTBEAT and FINAL METRICS (M2), and the books they keep (M3)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from functools import lru_cache
from heapq import nlargest
from itertools import accumulate
from typing import Final

import msgspec

from engine.base.redaction import redact


class Counters(msgspec.Struct):
    """What happened since start. Counted on the event loop's thread only, so a snapshot is consistent."""

    tick_count: int = 0  # ticks that ingest handed to the pipeline
    signal_count: int = 0  # signals the strategy made, vetoed ones included
    shadow_orders: int = 0
    trade_count: int = 0  # fills
    persist_count: int = 0  # rows of all tables that are on disk
    persist_errors: int = 0  # attempts to write that failed; each was retried
    ingest_received: int = 0  # new ticks
    ingest_processed: int = 0  # every `sample_every`th of them
    bp_drops_tick: int = 0  # ticks that found no room in any channel before the shutdown deadline
    bp_drops_signal: int = 0  # signals, order events and fills not written at the shutdown deadline
    bp_drops_persist: int = 0  # tick rows not written at the shutdown deadline
    risk_vetoes: int = 0  # RISK_CAP
    stale_vetoes: int = 0  # STALE_DATA
    parse_errors: int = 0
    foreign: int = 0  # trades of markets that nobody asked for (N12)
    ignored: int = 0  # well-formed messages that are not trades (N8b)
    duplicates: int = 0
    gaps: int = 0  # exchange trade ids that never came (N9)
    reconnects: int = 0  # connection attempts after the first
    connections_unbounded: int = 0  # closed because what their peer made us hold had no bound (B4)
    ticks_parsed: int = 0
    sampled_out: int = 0
    tick_rows_written: int = 0
    tick_rows_known: int = 0  # ticks that were in the database already: a replay
    log_drops: int = 0  # log lines that nobody took in time, or that could not be written (M6)


# Lower bounds of the loop-lag histogram's buckets in ms; each is a tenth of its decade wide or narrower.
_LAG_BOUNDS_MS = [0.0] + [digit * 10.0**exponent / 10 for exponent in range(-1, 5) for digit in range(10, 100)]


class LagHistogram:
    """Event-loop lag in fixed memory: buckets a tenth of their value wide, up to 99 s."""

    def __init__(self) -> None:
        self._counts = [0] * len(_LAG_BOUNDS_MS)
        self._total = 0

    def add(self, lag_ms: float) -> None:
        """Count one measurement; what is below 0 (a clock step) counts as 0."""
        self._counts[max(0, bisect_right(_LAG_BOUNDS_MS, lag_ms) - 1)] += 1
        self._total += 1

    def quantile_ms(self, fraction: float) -> float:
        """Return the lag that `fraction` (0..1) of the measurements do not exceed, to the bucket's upper bound; 0.0
        before the first one."""
        if not self._total:
            return 0.0
        # One at least, so that it is a bucket in which something was counted.
        wanted = max(1.0, fraction * self._total)
        index = bisect_left(list(accumulate(self._counts)), wanted)
        return _LAG_BOUNDS_MS[min(index + 1, len(_LAG_BOUNDS_MS) - 1)]


MARKETS_MAX: Final = 100
"""Of so many markets gaps and duplicates are told: a line of the log has bounds."""

_MARKET_CHARS_MAX: Final = 128


def snapshot(
    counters: Counters,
    *,
    by_market: Mapping[str, tuple[int | None, int]],
    tick_rows_queued: int,
    loop_lag_ms_p99: float,
    wal_bytes: int,
    source: str | None,
    clock_skew_ms: int | None,
) -> dict[str, object]:
    """Return the fields of one HEARTBEAT or FINAL METRICS line. `wal_bytes` is the length of the database's write-ahead
    log, `source` the name of the connected source, `clock_skew_ms` how far its venue's clock is ahead; `by_market`:
    source and market -> its gaps, None where they cannot be told, and its duplicates."""
    return {
        **msgspec.structs.asdict(counters),
        "tick_rows_queued": tick_rows_queued,
        "loop_lag_ms_p99": round(loop_lag_ms_p99, 3),
        "wal_bytes": wal_bytes,
        "source": source,
        "clock_skew_ms": clock_skew_ms,
        "gaps_by_market": _most({market: gaps for market, (gaps, _) in by_market.items() if gaps is not None}),
        "duplicates_by_market": _most({market: duplicates for market, (_, duplicates) in by_market.items()}),
    }


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    """Return those of `counts` that are the highest, MARKETS_MAX at most."""
    most = nlargest(MARKETS_MAX, counts.items(), key=lambda item: item[1])
    return {_shown(market): count for market, count in most}


@lru_cache(maxsize=4 * MARKETS_MAX)
def _shown(market: str) -> str:
    # Remembered: to look through the names of so many markets for secrets keeps the event loop for 50 ms.
    return redact(market)[:_MARKET_CHARS_MAX]


def broken_books(fields: Mapping[str, object], sample_every: int) -> list[str]:
    """Return the equations of N7 and M3 that `fields` (a snapshot) breaks, as text with the numbers; empty when the
    books balance."""

    def number(name: str) -> int:
        value = fields[name]
        assert isinstance(value, int)
        return value

    disk = ("tick_rows_written", "tick_rows_known", "tick_rows_queued", "bp_drops_tick", "bp_drops_persist")
    equations = [
        (number("ticks_parsed"), ("ingest_received", "duplicates"), "ticks_parsed"),
        (number("ingest_received"), ("ingest_processed", "sampled_out"), "ingest_received"),
        (number("tick_count"), ("ingest_processed",), "tick_count"),
        (number("tick_count"), disk, "tick_count"),
    ]
    broken = []
    for left, names, name in equations:
        right = sum(number(part) for part in names)
        if left != right:
            broken.append(f"{name} = {left}, but {' + '.join(names)} = {right}")
    expected = number("ingest_received") // sample_every
    if number("ingest_processed") != expected:
        processed = fields["ingest_processed"]
        broken.append(f"ingest_processed = {processed}, but ingest_received // {sample_every} = {expected}")
    return broken
