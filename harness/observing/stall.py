"""Stall detection: an engine that systemd calls active and that stores nothing (contract K3).

Progress is the highest row id of `ticks`, whose cost does not grow with the table. A throttled engine stores one
tick in `sample_every`, so in a quiet market the table may stand still while the feed lives. Its heartbeats tell:
what it received counts as progress as long as it is less than what must have produced a row. An engine that
receives on and on and stores nothing is stalled all the same.

The clock has two hands. `progress_at` is when progress was last seen; it is what a decision reports. `armed_at` is
when the engine was last (re)started; a fresh engine gets the whole threshold.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The progress that the engine's database shows at one moment."""

    tick_id_max: int
    """Highest row id of `ticks`; 0 while there are none."""
    last_tick_ts: int | None
    """`ts` of that row, milliseconds since the Unix epoch; None while there are none."""


@dataclass(frozen=True)
class Stall:
    """No progress for the threshold. Field names are those of the decision line."""

    ticks_count: int
    """Highest row id of `ticks`."""
    last_tick_ts: int | None
    progress: bool
    stall_streak: int
    """Stalls in a row, without progress in between."""
    seconds_since_progress: float


class StallClock:
    """Watches one engine for a stall. All times are monotonic seconds."""

    def __init__(self, threshold_secs: float, now: float) -> None:
        self._threshold_secs = threshold_secs
        self._armed_at = now
        self._progress_at = now
        # What the last observation of the table found; None before the first one.
        self._seen: Progress | None = None
        # What the engine had received, by its heartbeat, when the table last grew; None before the first heartbeat
        # after that.
        self._received_then: int | None = None
        self._received: int | None = None
        self._streak = 0

    @property
    def due_at(self) -> float:
        """When the threshold will have passed, unless progress is seen before."""
        return max(self._armed_at, self._progress_at) + self._threshold_secs

    def restarted(self, now: float) -> None:
        """The engine was started anew: it gets the whole threshold, and its counters begin at zero."""
        self._armed_at = now
        self._received_then = self._received = None

    def observe(self, seen: Progress, received: int | None, row_every: int | None, now: float) -> Stall | None:
        """Take in one observation; return the stall, when the threshold has passed without progress.

        received: ticks the engine's last heartbeat says it received, None when there was none since its start.
        row_every: so many received ticks make one row (the rung's `sample_every`); None when they make none (a
        replay of the database into itself).
        """
        first, grown = self._seen is None, self._seen is not None and seen.tick_id_max != self._seen.tick_id_max
        self._seen = seen
        if grown or self._received_then is None:
            self._received_then = received
        fed = self._is_fed(received, row_every)
        self._received = received
        if grown or fed:
            self._progress_at = now
            self._streak = 0
        if first or now < self.due_at:
            return None
        self._streak += 1
        return Stall(
            ticks_count=seen.tick_id_max,
            last_tick_ts=seen.last_tick_ts,
            progress=False,
            stall_streak=self._streak,
            seconds_since_progress=round(now - self._progress_at, 3),
        )

    def _is_fed(self, received: int | None, row_every: int | None) -> bool:
        before, then = self._received, self._received_then
        return (
            received is not None
            and before is not None
            and then is not None
            and received > before
            and (row_every is None or received - then < row_every)
        )
