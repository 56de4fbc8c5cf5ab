"""What feeds have in common: a task that can be told to stop or to wait, and the bell that wakes it."""

from __future__ import annotations

import asyncio

from engine.ingest.ports import Inlet

# Ticks that one step of a replay, or of a synthetic feed that fell behind, hands over at most: small enough that
# the loop turns every few ms, large enough that the step costs nothing per tick.
STEP_TICKS = 2000


class Bell:
    """What wakes one waiting task, early or at a given time."""

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake who waits, or whoever waits next."""
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float | None = None) -> None:
        """Wait for `ring`, at most until the loop's time `until`. A ring before the wait counts."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if until is None else loop.call_at(until, self.ring)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        self._rung = False


class Woken:
    """A feed whose task is told by flags, and waits for a bell."""

    def __init__(self, inlet: Inlet) -> None:
        self._inlet = inlet
        self._bell = Bell()
        self._stopped = False
        self._paused = False

    def stop(self) -> None:
        self._stopped = True
        self._bell.ring()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._bell.ring()

    def nudge(self) -> None:
        self._bell.ring()


class Stepped(Woken):
    """What SYNTHETIC and REPLAY have in common: a task that makes ticks in steps."""

    reconnects = 0
    foreign = 0
    connections_unbounded = 0
    hindrance = ""

    def __init__(self, inlet: Inlet) -> None:
        super().__init__(inlet)
        self.parse_errors = 0
        self.ignored = 0
