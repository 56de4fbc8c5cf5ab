"""What watches over a run: heartbeats and their books, loop lag, overload, venues' clocks, systemd's watchdog.

Each watcher is a task of its own that never ends by itself; what it raises ends the run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from engine.base import logs, metrics, notify
from engine.base.channels import Channel
from engine.config.schema import Settings
from engine.ingest.inlet import Ingest
from engine.storage.ledger import Ledger

logger = logging.getLogger("engine.pipeline")

# How often the lag of the event loop is measured.
_LAG_INTERVAL_SECS = 0.1

_OVERLOAD_RECHECK_SECS = 0.01

# systemd may ask for more often, and then nothing else would be done.
_WATCHDOG_PAUSE_SECS_MIN = 0.01


class Watch:
    """Sees what the parts of a run count, and changes none of it but the totals of the heartbeat."""

    def __init__(
        self,
        options: Settings,
        ingest: Ingest,
        channels: tuple[Channel[Any], ...],
        store: Ledger,
        counters: metrics.Counters,
        liveness: notify.Liveness,
        notifier: notify.Notifier,
        tick_rows_queued: Callable[[], int],
    ) -> None:
        """`channels`: in the order of the flow, persist last. `tick_rows_queued`: ticks that wait for the disk."""
        self._options = options
        self._ingest = ingest
        self._channels = channels
        self._store = store
        self._counters = counters
        self._liveness = liveness
        self._notifier = notifier
        self._tick_rows_queued = tick_rows_queued
        self._loop = asyncio.get_running_loop()
        self._lag = metrics.LagHistogram()

    async def heartbeats(self) -> None:
        """Log the snapshot, on the cadence of the start (G4)."""
        interval = self._options.engine.heartbeat_interval_secs
        next_at = self._loop.time()
        while True:
            self.tell_clock_skew()
            self.report("HEARTBEAT (G4)")
            self._notifier.send(STATUS=self.status())
            # On the cadence of the start, whatever a late turn of the loop did to this one; and one interval on in
            # any case, because timers may fire a fraction of a millisecond early.
            next_at += interval
            while next_at <= self._loop.time():
                next_at += interval
            await asyncio.sleep(next_at - self._loop.time())

    def tell_clock_skew(self) -> None:
        """End an interval of the venues' clocks; what an operator must know of them goes to the log (N14)."""
        clocks = self._ingest.clocks
        for notice in () if clocks is None else clocks.turn(self._loop.time()):
            fields = {
                "source": notice.source,
                "clock_skew_ms": notice.skew_ms,
                "max_staleness_ms": self._options.engine.max_staleness_ms,
            }
            logger.log(logging.INFO if notice.over else logging.WARNING, notice.text, extra={"fields": fields})

    async def measure_lag(self) -> None:
        """How late the event loop is."""
        while True:
            due_at = self._loop.time() + _LAG_INTERVAL_SECS
            await asyncio.sleep(_LAG_INTERVAL_SECS)
            self._lag.add(max(0.0, self._loop.time() - due_at) * 1000)

    async def watch_overload(self) -> None:
        """Raise Overload when a channel stays full for longer than `overload_grace_ms` (B1)."""
        grace = self._options.engine.overload_grace_ms / 1000
        channels = self._channels
        pause_secs = max(_OVERLOAD_RECHECK_SECS, grace / 4)
        while True:
            await self._sleep(pause_secs, pause_secs)
            if any(channel.full_for(grace) for channel in channels):
                # Let the consumers run once before it is called an overload.
                await self._sleep(_OVERLOAD_RECHECK_SECS, pause_secs)
                # The one farthest down holds up the others.
                for channel in reversed(channels):
                    channel.check_overload(grace)

    async def _sleep(self, secs: float, late_secs: float) -> None:
        """Sleep. Later than by `late_secs` nobody comes back but from a loop that was stuck, or a process that was
        stopped (SIGSTOP, a frozen cgroup, a machine that was paused), and in that time no consumer ran either."""
        due_at = self._loop.time() + secs
        await asyncio.sleep(secs)
        late = self._loop.time() - due_at
        if late > late_secs:
            for channel in self._channels:
                channel.excuse(late)

    async def feed_watchdog(self, watchdog_secs: float) -> None:
        """Tell systemd that all is well, as long as every task answers (E5)."""
        pause_secs = max(watchdog_secs / 4, _WATCHDOG_PAUSE_SECS_MIN)
        unfed = logs.RateLimited(logger, logging.WARNING)
        while True:
            self._liveness.next_epoch()
            for channel in self._channels:
                channel.nudge()
            self._ingest.feed.nudge()
            await asyncio.sleep(pause_secs)
            while silent := self._liveness.silent():
                unfed.log(self._loop.time(), "watchdog not fed", silent=silent)
                # A batch in flight keeps persist waiting without a deadline.
                self._channels[-1].nudge()
                await asyncio.sleep(pause_secs)
            self._notifier.send(WATCHDOG=1)

    def report(self, message: str) -> None:
        """Log the snapshot (M2), and each equation of M3 that does not hold in it."""
        fields = self.snapshot()
        logger.info(message, extra={"fields": fields})
        broken = metrics.broken_books(fields, self._options.engine.sample_every)
        if broken:
            logger.error("books do not balance", extra={"fields": {"broken": broken}})

    def snapshot(self) -> dict[str, object]:
        """Return the fields of HEARTBEAT and FINAL METRICS (M2)."""
        counters, intake, by_market = self._counters, self._ingest.intake, self._ingest.by_market()
        counters.tick_count = self._ingest.tick_count
        counters.ticks_parsed = self._ingest.ticks_parsed
        counters.ingest_received = intake.received
        counters.ingest_processed = intake.processed
        counters.sampled_out = intake.sampled_out
        counters.duplicates = intake.duplicates
        counters.gaps = sum(gaps or 0 for gaps, _ in by_market.values())
        counters.parse_errors = self._ingest.feed.parse_errors
        counters.foreign = self._ingest.feed.foreign
        counters.ignored = self._ingest.feed.ignored
        counters.reconnects = self._ingest.feed.reconnects
        counters.connections_unbounded = self._ingest.feed.connections_unbounded
        counters.log_drops = logs.drops()
        return metrics.snapshot(
            counters,
            by_market=by_market,
            tick_rows_queued=self._tick_rows_queued(),
            loop_lag_ms_p99=self._lag.quantile_ms(0.99),
            wal_bytes=self._store.wal_bytes,
            source=self._ingest.feed.source,
            clock_skew_ms=None if self._ingest.clocks is None else self._ingest.clocks.skew_ms,
        )

    def status(self) -> str:
        """Return one line for `systemctl status` (M4)."""
        counters = self._counters
        hindrance = self._ingest.feed.hindrance
        return (
            f"{self._options.mode} {self._options.engine.ingest_mode} from {self._ingest.feed.source or 'nobody'}:"
            f" {self._ingest.intake.processed} ticks, {counters.signal_count} signals,"
            f" {counters.persist_count} rows on disk" + (f"; {hindrance}" if hindrance else "")
        )
