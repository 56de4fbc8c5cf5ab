"""Strategy, risk and execution: what becomes of each batch of ticks, as the rows that are stored of it.

Two stages. Strategy turns ticks into signals; execution asks risk about each, has it executed, and hands what came of
it to persist. PAPER orders are filled by the ticks that follow them, so there execution is handed the ticks too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Final

from engine.base import metrics, notify
from engine.base.channels import Channel
from engine.base.events import Fill, OrderEvent, OrderStatus, Reason, Signal, Tick
from engine.storage.batch import Batch, count_rows
from engine.trading import execution, risk, strategy

logger = logging.getLogger("engine.pipeline")

REPORTS_SECS: Final = 0.1
"""How long an answer of a venue may wait to be booked while there are no ticks, or no more of them, LIVE."""

# To look a member up in its enumeration takes as long as to add two decimals.
_REJECTED: Final = OrderStatus.REJECTED
_ADAPTER_ERROR: Final = Reason.ADAPTER_ERROR
_RECORDED: Final = Reason.SHADOW_RECORDED

Items = tuple[list[Tick], list[Signal]]
"""What the signal channel carries: ticks where execution wants them, and the signals that came of them."""


class Desk:
    """Trades one mode of one run."""

    def __init__(
        self,
        maker: strategy.Strategy,
        book: risk.Book,
        executor: execution.Executor,
        ticks: Channel[list[Tick]],
        signals: Channel[Items],
        rows: Channel[Batch],
        counters: metrics.Counters,
        liveness: notify.Liveness,
        *,
        wants_ticks: bool,
        asks_venue: bool,
        settle_secs: float,
        wall_ms: Callable[[], int] | None,
    ) -> None:
        """`wants_ticks`: execution is handed all ticks, by which orders are filled. `asks_venue`: a venue answers in
        its own time, and is asked now and then. `settle_secs`: how long its answers to cancellations are waited for at
        the end. `wall_ms`: the time of day; None: replay time, the latest time stamp seen (R2)."""
        self._strategy = maker
        self._book = book
        self._executor = executor
        self._ticks = ticks
        self._signals = signals
        self._rows = rows
        self._counters = counters
        self._liveness = liveness
        self._loop = asyncio.get_running_loop()
        self._fills_by_ticks = wants_ticks
        # Risk weighs what is held at its latest price (R3). Of the only symbol of a run each signal has that; from the
        # second one on it takes the ticks.
        self._hands_ticks = wants_ticks
        self._last: Tick | None = None
        self._reports_secs = REPORTS_SECS if asks_venue else None
        self._settle_secs = settle_secs
        self._wall_ms = wall_ms
        self._replay_ms = 0
        # Order events and fills made.
        self.outcomes_made = 0

    async def run_strategy(self) -> None:
        """The strategy stage, to the end of the tick channel."""
        channel = self._ticks
        while not (channel.closed and not channel.pending()):
            await channel.wait()
            self._liveness.answer("strategy")
            for ticks in channel.take_all():
                for items in self._decide(ticks):
                    with self._liveness.waiting("strategy"):
                        await self._signals.put(items, len(items[0]) + len(items[1]))

    def _decide(self, ticks: list[Tick]) -> Iterator[Items]:
        """What strategy makes of `ticks`, in pieces that the signal channel can hold."""
        size = self._signals.capacity
        if not self._hands_ticks:
            symbol = (self._last or ticks[0]).symbol
            self._hands_ticks = bool([1 for tick in ticks if tick.symbol != symbol])
            if self._hands_ticks and self._last is not None:
                yield [self._last], []
            self._last = ticks[-1]
        if self._hands_ticks:
            for start in range(0, len(ticks), size):
                piece = ticks[start : start + size]
                yield piece, self._signals_of(piece)
        else:
            signals = self._signals_of(ticks)
            for start in range(0, len(signals), size):
                yield [], signals[start : start + size]

    def _signals_of(self, ticks: list[Tick]) -> list[Signal]:
        signals = self._strategy.on_ticks(ticks)
        self._counters.signal_count += len(signals)
        if logger.isEnabledFor(logging.DEBUG):
            for made in signals:
                fields = {"event_id": made.event_id, "symbol": made.symbol, "side": made.side}
                logger.debug("signal generated", extra={"fields": {**fields, "reason_code": made.reason}})
        return signals

    async def run_execution(self) -> None:
        """The execution stage, to the end of the signal channel; what is still open is cancelled then."""
        channel = self._signals
        while not (channel.closed and not channel.pending()):
            await channel.wait(timeout_secs=self._reports_secs)
            self._liveness.answer("execution")
            for ticks, signals in channel.take_all():
                await self._persist(self._execute(ticks, signals))
            if self._reports_secs is not None:
                await self._book_reports()
        # What no tick of this run can fill any more must not look open to the next one (S11).
        batch = Batch()
        self._book_outcome(self._executor.cancel_all(self._now_ms()), batch)
        await self._persist(batch)
        await self._settle()

    async def _book_reports(self) -> None:
        """Book what a venue has said since it was last asked."""
        batch = Batch()
        self._book_outcome(self._executor.on_ticks([], self._now_ms()), batch)
        await self._persist(batch)

    async def _settle(self) -> None:
        """Wait for a venue to say what became of the orders that it was asked to cancel. Its answer to one that is
        left open comes to the next run."""
        deadline = self._loop.time() + self._settle_secs
        while (left := self._executor.open_order_ids()) and self._loop.time() < deadline:
            await asyncio.sleep(REPORTS_SECS)
            await self._book_reports()
        if left:
            logger.error("orders left open at the venue", extra={"fields": {"order_ids": left}})

    def _execute(self, ticks: list[Tick], signals: list[Signal]) -> Batch:
        """Risk and execution for one piece of the flow, as the rows that come of it."""
        batch = Batch()
        if not ticks:
            self._answer(signals, batch)
            return batch
        start = 0
        for signal_ in signals:
            end = start
            while ticks[end].id != signal_.tick_id:
                end += 1
            self._follow(ticks[start : end + 1], batch)
            self._answer([signal_], batch)
            start = end + 1
        if start < len(ticks):
            self._follow(ticks[start:], batch)
        return batch

    def _follow(self, ticks: list[Tick], batch: Batch) -> None:
        """What `ticks` do to the prices that risk weighs by, and to open orders. They go no further than the next
        signal: what is let through and filled must not depend on how many came at once (R4)."""
        self._book.mark(ticks)
        if not self._fills_by_ticks:
            return
        if self._wall_ms is not None:
            self._book_outcome(self._executor.on_ticks(ticks, self._wall_ms()), batch)
            return
        for tick in ticks:
            self._replay_ms = max(self._replay_ms, tick.ts)
            self._book_outcome(self._executor.on_ticks([tick], self._replay_ms), batch)

    def _answer(self, signals: list[Signal], batch: Batch) -> None:
        """Ask risk about each signal, and have executed what it lets through."""
        book, submit, replays = self._book, self._executor.submit, self._wall_ms is None
        made: list[OrderEvent] = []
        filled: list[Fill] = []
        now_ms = self._now_ms()
        for signal_ in signals:
            if replays:
                now_ms = self._replay_ms = max(now_ms, signal_.ts)
            assessed = book.assess(signal_, now_ms)
            batch.signals.append(assessed)
            if assessed.veto is None:
                events, fills = submit(assessed, now_ms)
                # Before the next signal is assessed.
                book.record(events, fills)
                made += events
                filled += fills
            else:
                self._count_veto(assessed)
        batch.orders += made
        batch.fills += filled
        self._tell(made, len(filled))

    def _book_outcome(self, outcome: execution.Outcome, batch: Batch) -> None:
        events, fills = outcome
        if not events and not fills:
            return
        self._book.record(events, fills)
        batch.orders += events
        batch.fills += fills
        self._tell(events, len(fills))

    def _tell(self, events: list[OrderEvent], fills: int) -> None:
        """Count what was booked, and logs of it what somebody has to know."""
        self._counters.trade_count += fills
        debug = logger.isEnabledFor(logging.DEBUG)
        recorded = 0
        for event in events:
            if event.status is _REJECTED:
                # L4: what execution could not do is never silent.
                fields = {"order_id": event.order_id, "detail": event.detail, "reason": event.reason}
                logger.error("order rejected", extra={"fields": fields})
            elif event.reason is _RECORDED:
                recorded += 1
                if debug:
                    fields = {"order_id": event.order_id, "signal_id": event.signal_id, "symbol": event.symbol}
                    logger.debug("shadow order executed", extra={"fields": fields})
            elif event.reason is _ADAPTER_ERROR:
                fields = {"order_id": event.order_id, "detail": event.detail, "status": event.status}
                logger.error("execution error", extra={"fields": fields})
        self._counters.shadow_orders += recorded

    def _count_veto(self, vetoed: Signal) -> None:
        if vetoed.veto is Reason.STALE_DATA:
            self._counters.stale_vetoes += 1
        else:
            self._counters.risk_vetoes += 1
        fields = {"event_id": vetoed.event_id, "reason": vetoed.veto, "detail": vetoed.veto_detail}
        logger.debug("signal vetoed", extra={"fields": fields})

    async def _persist(self, batch: Batch) -> None:
        rows = count_rows(batch)
        self.outcomes_made += len(batch.orders) + len(batch.fills)
        if rows:
            with self._liveness.waiting("execution"):
                await self._rows.put(batch, rows)

    def _now_ms(self) -> int:
        return self._replay_ms if self._wall_ms is None else self._wall_ms()
