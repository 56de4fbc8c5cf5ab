"""Contract B1, B2: a channel against a model of it, whoever puts, waits and takes in whatever order."""

from __future__ import annotations

import asyncio
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.base.channels import Channel
from proofs.engine.test_channels import Clock, settle

Batch = tuple[int, int]
"""Number in the order of arrival, and weight."""


class ChannelMachine(RuleBasedStateMachine):
    """One consumer, a producer that looks for room, and producers that wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.numbers = iter(range(10_000))
        # The model: what is inside, who waits, and since when nobody could put.
        self.inside: list[Batch] = []
        self.waiting: deque[Batch] = deque()
        self.full_since: float | None = None
        self.expected = 0
        self.tasks: list[asyncio.Task[None]] = []

    @initialize(capacity=st.integers(1, 8))
    def make(self, capacity: int) -> None:
        self.channel: Channel[Batch] = Channel("tick", capacity, self.clock)

    def teardown(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.loop.run_until_complete(settle())
        self.loop.close()

    @property
    def weight(self) -> int:
        return sum(weight for _, weight in self.inside)

    def fits(self, weight: int) -> bool:
        return not self.inside or self.weight + weight <= self.channel.capacity

    def update_clock(self) -> None:
        full = self.weight >= self.channel.capacity or bool(self.waiting)
        self.full_since = (self.clock.now if self.full_since is None else self.full_since) if full else None

    @rule(weight=st.sampled_from([1, 2, 9]))
    def put(self, weight: int) -> None:
        batch = (next(self.numbers), weight)
        self.tasks.append(self.loop.create_task(self.channel.put(batch, weight)))
        self.loop.run_until_complete(settle())
        if self.waiting or not self.fits(weight):
            self.waiting.append(batch)
        else:
            self.inside.append(batch)
        self.update_clock()

    @precondition(lambda self: self.channel.room())
    @rule(data=st.data())
    def put_what_there_is_room_for(self, data: st.DataObject) -> None:
        weight = data.draw(st.integers(1, self.channel.room()))
        batch = (next(self.numbers), weight)
        self.channel.put_nowait(batch, weight)
        self.inside.append(batch)
        self.update_clock()

    @rule()
    def refuse(self) -> None:
        self.channel.refused()

    @rule()
    def take(self) -> None:
        taken = self.channel.take_all()
        self.loop.run_until_complete(settle())
        assert taken == self.inside
        for number, _ in taken:
            assert number == self.expected, "in the order of arrival, none lost and none twice"
            self.expected += 1
        self.inside, self.full_since = [], None
        while self.waiting and self.fits(self.waiting[0][1]):
            self.inside.append(self.waiting.popleft())
        self.update_clock()

    @rule(secs=st.integers(1, 5))
    def time_passes(self, secs: int) -> None:
        self.clock.now += secs

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert self.channel.pending() == self.inside
        assert self.channel.waiting() == list(self.waiting)
        assert self.channel.weight == self.weight
        assert sum(not task.done() for task in self.tasks) == len(self.waiting)

    @invariant()
    def it_is_bounded(self) -> None:
        assert self.weight <= self.channel.capacity or len(self.inside) == 1
        assert self.channel.room() == (0 if self.waiting else max(0, self.channel.capacity - self.weight))

    @invariant()
    def it_is_full_since_nobody_could_put(self) -> None:
        assert self.channel.full_since == self.full_since
        full_secs = 0.0 if self.full_since is None else self.clock.now - self.full_since
        assert self.channel.full_for(2.0) is (full_secs > 2.0)


TestChannelMachine = ChannelMachine.TestCase
TestChannelMachine.settings = settings(stateful_step_count=40)
