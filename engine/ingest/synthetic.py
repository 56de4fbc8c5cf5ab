"""A deterministic walk, one tick an interval (N1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.base.events import Tick
from engine.config import schema
from engine.ingest.ports import Inlet
from engine.ingest.stepped import STEP_TICKS, Stepped


class SyntheticFeed(Stepped):
    """A deterministic walk, one tick per interval (N1).

    Ticks are numbered from 0. Tick n moves the price by `price_step` times +1 when n mod 5 is 0, 2 or 3 and
    times -0.5 otherwise, never below 1.0, and carries the price after the move.
    """

    source = "synthetic"

    def __init__(self, inlet: Inlet, options: schema.Engine, symbol: str, now_ms: Callable[[], int]) -> None:
        super().__init__(inlet)
        self._interval_secs = options.tick_interval_ms / 1000
        self._price = options.start_price
        self._step = options.price_step
        self._volume = options.volume
        self._symbol = symbol
        self._now_ms = now_ms
        self._number = 0

    def next_tick(self) -> Tick:
        """The next tick of the walk, stamped with the time of now."""
        direction = 1.0 if self._number % 5 in (0, 2, 3) else -0.5
        self._number += 1
        self._price = max(1.0, self._price + direction * self._step)
        return Tick(self.source, self._symbol, self._price, self._volume, self._now_ms())

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while not self._stopped:
            self._inlet.answer()
            if self._paused:
                await self._bell.wait()
                # The walk stands still while there is no room, so it has nothing to catch up with.
                next_at = max(next_at, loop.time())
                continue
            now = loop.time()
            due = 0
            while next_at <= now and due < STEP_TICKS:
                next_at += self._interval_secs
                due += 1
            if due == STEP_TICKS:
                # After a suspended machine woke up, a day of ticks at once would help nobody.
                next_at = now + self._interval_secs
            if due:
                self._inlet.deliver([self.next_tick() for _ in range(due)])
            await self._bell.wait(next_at)
