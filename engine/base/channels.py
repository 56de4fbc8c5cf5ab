"""Bounded channels between the stages, and the clock that tells a burst from an overload (B1, B2, S6).

A channel carries batches and is bounded by what they weigh (ticks, signals, rows), not by their number. One
consumer takes everything pending at once. A producer that can wait uses `put`; ingest, which runs in the
socket's callback and cannot, looks at `room`, keeps the rest and stops reading until `on_room`.

Full means that nobody can put and no room has been freed since: `full_since` starts when the channel fills
or a producer has to wait, and every `take_all` that leaves room stops it. The policy is the same whatever the
load: nothing is dropped, the producer waits, and a consumer that frees nothing for `overload_grace_ms` ends
the run with Overload. Time in which the process did not run at all does not count.

A channel belongs to one event loop and is not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from engine.base.exits import Overload

T = TypeVar("T")


class Channel(Generic[T]):
    """Bounded channel of batches with many producers and one consumer."""

    def __init__(self, name: str, capacity: int, clock: Callable[[], float]) -> None:
        """`name` as in logs and metrics ("tick"); `capacity` >= 1 in units of weight; `clock` gives monotonic
        seconds."""
        self.name = name
        self.capacity = capacity
        # What the pending batches weigh together. A single batch heavier than the channel is let in when the
        # channel is empty, so this exceeds the capacity by at most one batch.
        self.weight = 0
        # Monotonic time since which no room has been freed; None while a batch of weight 1 could be put.
        self.full_since: float | None = None
        # Called after room was freed and nobody else waits for it; None when ingest does not wait.
        self.on_room: Callable[[], None] | None = None
        # Monotonic time since which something is pending; meaningless while nothing is.
        self.pending_since = 0.0
        self.closed = False
        self._clock = clock
        self._batches: list[T] = []
        self._producers: deque[tuple[T, int, asyncio.Future[None]]] = deque()
        self._consumer: asyncio.Future[None] | None = None
        # Weight at which the waiting consumer wants to be woken; None for no weight.
        self._wanted: int | None = 1
        # A nudge that came while the consumer was busy, to be answered when it next waits.
        self._nudged = False

    def room(self) -> int:
        """Return the weight that `put_nowait` takes now; 0 while others wait, so that nobody overtakes them."""
        return 0 if self._producers else max(0, self.capacity - self.weight)

    def put_nowait(self, batch: T, weight: int) -> None:
        """Append `batch`. The caller has made sure that `weight` <= `room()`."""
        self._append(batch, weight)
        self._update_clock()

    async def put(self, batch: T, weight: int) -> None:
        """Append `batch`, waiting for room in the order of arrival."""
        if not self._producers and self._fits(weight):
            self._append(batch, weight)
            self._update_clock()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (batch, weight, turn)
        self._producers.append(entry)
        self._update_clock()
        self._wake_if_reached()
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._producers:
                self._producers.remove(entry)
            raise

    def refused(self) -> None:
        """Tell the overload clock that ingest found no room and stopped reading."""
        if self.full_since is None and not self.room():
            self.full_since = self._clock()

    async def wait(self, wanted: int | None = 1, timeout_secs: float | None = None) -> None:
        """Wait until batches of at least `wanted` weight are pending, there is no room for more, or the channel is
        closed (None: for none of these), it is nudged, or `timeout_secs` have passed. The caller looks which."""
        if self._nudged or (wanted is not None and self.closed) or self._reached(wanted):
            self._nudged = False
            # Even a consumer that always finds work must let the other tasks and the socket run.
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._wanted = wanted
        waiting = self._consumer = loop.create_future()
        timer = None if timeout_secs is None else loop.call_later(timeout_secs, self._wake)
        try:
            await waiting
        finally:
            self._consumer = None
            self._nudged = False
            if timer is not None:
                timer.cancel()

    def take_all(self) -> list[T]:
        """Return everything pending, oldest first; frees their room and lets waiting producers in."""
        batches, self._batches = self._batches, []
        self.weight = 0
        self.full_since = None
        while self._producers and self._fits(self._producers[0][1]):
            batch, weight, turn = self._producers.popleft()
            self._append(batch, weight)
            turn.set_result(None)
        self._update_clock()
        if self.on_room is not None and self.room():
            self.on_room()
        return batches

    def pending(self) -> list[T]:
        """Return the batches that wait, for the books; not to be changed."""
        return self._batches

    def waiting(self) -> list[T]:
        """Return the batches of producers that wait for room, for the books."""
        return [batch for batch, _, _ in self._producers]

    def nudge(self) -> None:
        """Wake a waiting consumer without giving it anything: the probe that it still answers (E5)."""
        if self._consumer is None:
            self._nudged = True
        else:
            self._wake()

    def close(self) -> None:
        """No more will be put. The consumer is woken, and takes what is pending as its last."""
        self.closed = True
        self._wake()

    def excuse(self, secs: float) -> None:
        """Tell the overload clock that nobody could free anything for so long: the process did not run."""
        if self.full_since is not None:
            self.full_since = min(self.full_since + secs, self._clock())

    def full_for(self, secs: float) -> bool:
        """Return whether no room has been freed for longer than `secs`."""
        return self.full_since is not None and self._clock() - self.full_since > secs

    def check_overload(self, grace_secs: float) -> None:
        """Raise Overload when no room has been freed for longer than `grace_secs`."""
        if self.full_since is not None and self.full_for(grace_secs):
            full_secs = self._clock() - self.full_since
            raise Overload(
                f"{self.name} channel full for {full_secs * 1000:.0f} ms",
                reason="OVERLOAD",
                channel=self.name,
                full_ms=round(full_secs * 1000),
                capacity=self.capacity,
            )

    def _fits(self, weight: int) -> bool:
        return not self._batches or self.weight + weight <= self.capacity

    def _append(self, batch: T, weight: int) -> None:
        if not self._batches:
            self.pending_since = self._clock()
        self._batches.append(batch)
        self.weight += weight
        self._wake_if_reached()

    def _wake_if_reached(self) -> None:
        if self._reached(self._wanted):
            self._wake()

    def _reached(self, wanted: int | None) -> bool:
        return wanted is not None and bool(self._batches) and (self.weight >= wanted or not self.room())

    def _update_clock(self) -> None:
        if self.weight >= self.capacity or self._producers:
            if self.full_since is None:
                self.full_since = self._clock()
        else:
            self.full_since = None

    def _wake(self) -> None:
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)
