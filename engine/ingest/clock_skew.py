"""How far a venue's clock is from ours, told from the times of its trades (contract N14). Pure.

    offset of a trade = its time - when it came = clock skew (venue - ours) - delay

A delay is never negative, so the least delayed trades tell the skew best; but one trade may bear any time at all. An
interval between two heartbeats is therefore cut into slices. Of each slice the best (largest) offset counts, of the
last trade of each batch. At the interval's end, with the limit being `max_staleness_ms`:

    ahead    a quarter of the slices, and two at least, are ahead by more than the limit: the venue is ahead, by their
             median. A stray trade from the future spoils one slice.
    agrees   else, if any other slice lies within the limit: then signals of fresh trades pass, however many old ones
             came beside them, as after a reconnect.
    behind   else, if there are two slices: nothing fresh came at all; the venue is behind, by the best of them.

Otherwise there was one trade, or none, and it proves nothing: what it said is judged together with the next interval's.
The slices of a quiet market are few, and those of a busy one no more than SLICES_MAX.

Only trades are seen, from one side: a clock that is behind, and a venue whose trades are late, look the same.
"""

from __future__ import annotations

from statistics import median_low
from typing import Final

from msgspec import Struct

SLICES_MAX: Final = 32

REMIND_SECS: Final = 3600.0
"""A skew that stays is told again so often; before that only if it has changed by more than the limit."""


class Notice(Struct, frozen=True):
    """What the log must say: a warning, or that it is over."""

    source: str
    skew_ms: int
    over: bool

    @property
    def text(self) -> str:
        """What the log says of it, in seconds."""
        if self.over:
            return "the venue's clock agrees with ours again"
        secs = abs(self.skew_ms) / 1000
        direction = "ahead" if self.skew_ms > 0 else "behind, or its trades come late"
        return f"the venue's clock is {secs:.{0 if secs >= 10 else 1}f} s {direction}: every signal is vetoed as stale"


class VenueClock:
    """The slices of one interval, of one source."""

    def __init__(self, limit_ms: int, interval_secs: float) -> None:
        self._limit_ms = limit_ms
        self._slice_ms = max(1.0, interval_secs * 1000 / SLICES_MAX)
        self._started_at_ms: int | None = None  # None before the interval's first batch
        self._bests: dict[int, int] = {}  # slice -> its best offset

    def add(self, ts_ms: int, now_ms: int) -> None:
        """Count a batch of new ticks: the time of its last one, and when it came by our clock."""
        if self._started_at_ms is None:
            self._started_at_ms = now_ms
        # A heartbeat may be late, and our clock be set: the interval has no more slices for that.
        number = min(max(0, int((now_ms - self._started_at_ms) / self._slice_ms)), SLICES_MAX - 1)
        offset_ms = ts_ms - now_ms
        best = self._bests.get(number)
        if best is None or offset_ms > best:
            self._bests[number] = offset_ms

    def judge(self) -> int | None:
        """End the interval: the skew in ms, or None when what came proves nothing; that then stays for the next."""
        ahead = [offset for offset in self._bests.values() if offset > self._limit_ms]
        others = [offset for offset in self._bests.values() if offset <= self._limit_ms]
        best = max(others, default=None)
        if len(ahead) >= max(2, len(self._bests) / 4):
            skew_ms = median_low(ahead)
        elif best is not None and (best >= -self._limit_ms or len(others) > 1):
            skew_ms = best
        else:
            # At most one slice of each kind: kept under numbers that no slice of the next interval has.
            self._bests = {-1 - number: offset for number, offset in enumerate(self._bests.values())}
            self._started_at_ms = None
            return None
        self._bests.clear()
        self._started_at_ms = None
        return skew_ms


class VenueClocks:
    """The clocks of all sources, and which of them an operator must hear about. One per run."""

    skew_ms: int | None
    """Of the source that delivered last, as last judged; None before that."""

    def __init__(self, limit_ms: int, interval_secs: float) -> None:
        """`limit_ms`: max_staleness_ms, beyond which every signal is vetoed. `interval_secs`: between two `turn`s."""
        self.skew_ms = None
        self._limit_ms = limit_ms
        self._interval_secs = interval_secs
        self._clocks: dict[str, VenueClock] = {}
        self._skews: dict[str, int] = {}  # as last judged
        self._told: dict[str, tuple[int, float]] = {}  # sources beyond the limit: the skew told last, and when
        self._latest = ""

    def add(self, source: str, ts_ms: int, now_ms: int) -> None:
        """Count a batch of new ticks of `source`: the time of its last one, and when it came by our clock."""
        clock = self._clocks.get(source)
        if clock is None:
            clock = self._clocks[source] = VenueClock(self._limit_ms, self._interval_secs)
        clock.add(ts_ms, now_ms)
        self._latest = source

    def turn(self, now: float) -> list[Notice]:
        """End the interval at `now` (monotonic seconds): what must be told."""
        notices = []
        for source, clock in self._clocks.items():
            skew_ms = clock.judge()
            if skew_ms is None:
                continue
            self._skews[source] = skew_ms
            told = self._told.get(source)
            if abs(skew_ms) > self._limit_ms:
                if told is None or abs(skew_ms - told[0]) > self._limit_ms or now - told[1] >= REMIND_SECS:
                    self._told[source] = skew_ms, now
                    notices.append(Notice(source, skew_ms, over=False))
            elif told is not None:
                del self._told[source]
                notices.append(Notice(source, skew_ms, over=True))
        self.skew_ms = self._skews.get(self._latest)
        return notices
