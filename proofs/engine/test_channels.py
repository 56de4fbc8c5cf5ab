"""engine/base/channels.py: bounds, order, fairness, and when full is an overload (B1, B2, S6)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.channels import Channel
from engine.base.exits import Overload
from engine.config import schema
from engine.watch import Watch
from proofs.fixtures import engine_loop


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, None]) -> None:
    async def within_deadline() -> None:
        async with asyncio.timeout(10):
            await work

    engine_loop.run(within_deadline())


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.claim("B1")
@given(
    capacity=st.integers(1, 20),
    batches=st.lists(st.integers(1, 30), max_size=30),
    takes=st.lists(st.integers(0, 5), max_size=30),
)
def test_B1_bounded_in_order_and_nothing_lost(capacity: int, batches: list[int], takes: list[int]) -> None:
    async def work() -> None:
        channel: Channel[tuple[int, int]] = Channel("tick", capacity, Clock())
        got: list[tuple[int, int]] = []

        async def produce() -> None:
            for number, weight in enumerate(batches):
                await channel.put((number, weight), weight)

        producer = asyncio.ensure_future(produce())
        for pauses in takes:
            for _ in range(pauses):
                await asyncio.sleep(0)
            pending = channel.pending()
            # Never over the capacity, but for one batch that is itself heavier than the channel.
            assert channel.weight <= capacity or len(pending) == 1
            got += channel.take_all()
        while not producer.done() or channel.pending():
            await asyncio.sleep(0)
            got += channel.take_all()
        assert got == list(enumerate(batches))

    run(work())


@pytest.mark.claim("B1")
def test_B1_producers_are_let_in_in_order_of_arrival_and_ingest_does_not_overtake() -> None:
    async def work() -> None:
        channel: Channel[str] = Channel("persist", 2, Clock())
        channel.put_nowait("a", 2)
        first = asyncio.ensure_future(channel.put("b", 2))
        second = asyncio.ensure_future(channel.put("c", 1))
        await settle()
        assert channel.room() == 0
        assert channel.take_all() == ["a"]
        assert channel.room() == 0
        assert channel.take_all() == ["b"]
        await asyncio.gather(first, second)
        assert channel.room() == 1
        assert channel.take_all() == ["c"]

    run(work())


@pytest.mark.claim("B1")
def test_B1_a_cancelled_producer_leaves_nothing_behind() -> None:
    async def work() -> None:
        channel: Channel[str] = Channel("persist", 1, Clock())
        channel.put_nowait("a", 1)
        waiting = asyncio.ensure_future(channel.put("b", 1))
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert channel.waiting() == []
        assert channel.take_all() == ["a"]
        assert channel.take_all() == []

    run(work())


@pytest.mark.claim("B2")
def test_B2_freed_room_is_offered_to_ingest() -> None:
    channel: Channel[str] = Channel("tick", 1, Clock())
    offers = []
    channel.on_room = lambda: offers.append(channel.room())
    channel.put_nowait("a", 1)
    assert offers == []
    channel.take_all()
    assert offers == [1]


@pytest.mark.claim("B2")
def test_B2_full_for_longer_than_the_grace_is_an_overload() -> None:
    clock = Clock()
    channel: Channel[str] = Channel("persist", 4, clock)
    channel.put_nowait("a", 3)
    clock.now += 10
    channel.check_overload(0.25)
    channel.put_nowait("b", 1)
    clock.now += 0.25
    channel.check_overload(0.25)
    clock.now += 0.01
    with pytest.raises(Overload) as raised:
        channel.check_overload(0.25)
    assert raised.value.details == {"reason": "OVERLOAD", "channel": "persist", "full_ms": 260, "capacity": 4}


@pytest.mark.claim("B2")
def test_B2_a_burst_that_is_taken_in_time_is_no_overload() -> None:
    clock = Clock()
    channel: Channel[str] = Channel("tick", 1, clock)
    for _ in range(100):
        channel.put_nowait("a", 1)
        clock.now += 0.2
        channel.check_overload(0.25)
        channel.take_all()


@pytest.mark.claim("B2")
def test_B2_a_channel_that_is_always_full_but_moves_is_no_overload() -> None:
    async def work() -> None:
        clock = Clock()
        channel: Channel[int] = Channel("persist", 1, clock)
        channel.put_nowait(0, 1)
        producers = [asyncio.ensure_future(channel.put(number, 1)) for number in range(1, 10)]
        await settle()
        for number in range(10):
            clock.now += 0.2
            channel.check_overload(0.25)
            assert channel.take_all() == [number]
        await asyncio.gather(*producers)

    run(work())


@pytest.mark.claim("B2")
def test_B2_a_producer_that_waits_means_full_even_below_the_capacity() -> None:
    async def work() -> None:
        clock = Clock()
        channel: Channel[str] = Channel("persist", 10, clock)
        channel.put_nowait("a", 6)
        waiting = asyncio.ensure_future(channel.put("b", 5))
        await settle()
        clock.now += 1
        assert channel.full_for(0.25)
        channel.take_all()
        assert not channel.full_for(0.0)
        await waiting

    run(work())


@pytest.mark.claim("E5")
def test_E5_a_nudge_wakes_a_waiting_consumer_and_is_not_lost_on_a_busy_one() -> None:
    async def work() -> None:
        channel: Channel[str] = Channel("tick", 1, Clock())
        waiting = asyncio.ensure_future(channel.wait())
        await settle()
        channel.nudge()
        await waiting
        channel.nudge()
        await channel.wait()
        assert channel.weight == 0

    run(work())


@pytest.mark.claim("D3")
def test_D3_a_consumer_may_wait_for_more_or_for_a_time() -> None:
    async def work() -> None:
        channel: Channel[str] = Channel("persist", 10, Clock())
        waiting = asyncio.ensure_future(channel.wait(3))
        await settle()
        channel.put_nowait("a", 2)
        await settle()
        assert not waiting.done()
        channel.put_nowait("b", 1)
        await waiting
        channel.take_all()
        await channel.wait(3, 0.001)
        # More than the channel holds will never come: full is enough.
        channel.put_nowait("c", 10)
        await channel.wait(1000)

    run(work())


@pytest.mark.claim("B1")
@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize("weight", [1, 2, 9, 10, 11])
def test_B1_who_waits_for_anything_is_woken_by_the_least_of_it(weight: int, is_early: bool) -> None:
    async def work() -> None:
        channel: Channel[str] = Channel("tick", 10, Clock())
        if is_early:
            await channel.put("a", weight)
        waiting = asyncio.ensure_future(channel.wait())
        await settle()
        assert waiting.done() is is_early
        if not is_early:
            await channel.put("a", weight)
        await waiting
        assert channel.take_all() == ["a"]

    run(work())


@pytest.mark.claim("E4")
def test_E4_a_closed_channel_wakes_its_consumer_and_keeps_what_is_pending() -> None:
    async def work() -> None:
        channel: Channel[str] = Channel("tick", 5, Clock())
        waiting = asyncio.ensure_future(channel.wait(5))
        await settle()
        channel.put_nowait("a", 1)
        channel.close()
        await waiting
        await channel.wait()
        assert channel.take_all() == ["a"]

    run(work())


@pytest.mark.claim("E4")
def test_E4_a_consumer_that_waits_for_a_nudge_alone_rests_although_the_channel_is_closed() -> None:
    """As the writer's part does at the end of a run, for as long as the database is locked."""

    async def work() -> None:
        channel: Channel[str] = Channel("persist", 5, Clock())
        channel.put_nowait("a", 5)
        channel.close()
        waiting = asyncio.ensure_future(channel.wait(None))
        await settle()
        assert not waiting.done()
        channel.nudge()
        await waiting

    run(work())


@pytest.mark.claim("B6")
def test_B6_a_consumer_is_woken_when_nothing_more_can_come_whatever_it_wants() -> None:
    """A producer that waits for room has stopped the flow although the channel is not full to the brim."""

    async def work() -> None:
        channel: Channel[str] = Channel("persist", 8, Clock())
        channel.put_nowait("first", 7)
        consumer = asyncio.ensure_future(channel.wait(1_000_000_000))
        await settle()
        assert not consumer.done()
        producer = asyncio.ensure_future(channel.put("second", 4))
        await consumer
        assert channel.take_all() == ["first"]
        await producer

    run(work())


@pytest.mark.claim("B6")
def test_B6_a_consumer_that_waits_for_a_nudge_alone_is_not_woken_by_a_full_channel() -> None:
    async def work() -> None:
        channel: Channel[str] = Channel("persist", 8, Clock())
        consumer = asyncio.ensure_future(channel.wait(None))
        await settle()
        channel.put_nowait("first", 8)
        producer = asyncio.ensure_future(channel.put("second", 4))
        await settle()
        assert not consumer.done()
        channel.nudge()
        await consumer
        channel.take_all()
        await producer

    run(work())


@pytest.mark.claim("B6")
def test_B6_a_channel_knows_since_when_something_is_pending() -> None:
    clock = Clock()
    channel: Channel[str] = Channel("persist", 8, clock)
    for now, batch in ((101.0, "first"), (102.0, "second")):
        clock.now = now
        channel.put_nowait(batch, 1)
    assert channel.pending_since == 101.0
    channel.take_all()
    clock.now = 103.0
    channel.put_nowait("third", 1)
    assert channel.pending_since == 103.0


@pytest.mark.claim("B2")
def test_B2_a_refusal_starts_the_overload_clock_only_of_a_channel_without_room() -> None:
    clock = Clock()
    full: Channel[str] = Channel("tick", 2, clock)
    full.put_nowait("a", 1)
    full.refused()
    assert full.full_since is None
    full.put_nowait("b", 1)
    full.full_since = None
    full.refused()
    assert full.full_since == 100.0
    clock.now = 101.0
    full.refused()
    assert full.full_since == 100.0


@pytest.mark.claim("B1")
def test_B1_who_finds_work_at_once_is_not_held_up_and_a_timer_that_is_over_wakes_nobody() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        channel: Channel[str] = Channel("tick", 9, Clock())
        begun = loop.time()
        channel.put_nowait("a", 1)
        await channel.wait()
        assert loop.time() - begun < 0.5
        channel.take_all()
        # Woken by work long before its time is over; the next wait has a time of its own.
        loop.call_soon(channel.put_nowait, "b", 1)
        await channel.wait(timeout_secs=0.02)
        channel.take_all()
        begun = loop.time()
        await channel.wait(timeout_secs=0.06)
        assert loop.time() - begun > 0.055

    run(work())


class Stoppable(asyncio.SelectorEventLoop):
    """A loop whose process can be stopped for a while."""

    stopped_secs = 0.0

    def time(self) -> float:
        return super().time() + self.stopped_secs


@pytest.mark.slow
@pytest.mark.claim("B2")
@pytest.mark.parametrize("stops", [[10.0], [0.6] * 3, [86400.0, 0.2]])
def test_B2_time_in_which_the_process_was_stopped_is_no_overload(stops: list[float]) -> None:
    """SIGSTOP, a frozen cgroup, a machine that is paused: the consumer did not run either, and is asked first."""
    loop = Stoppable()

    async def work() -> None:
        channel: Channel[str] = Channel("persist", 1, loop.time)
        options = schema.Settings(engine=schema.Engine(overload_grace_ms=1000))
        unused: Any = None
        watch = Watch(options, unused, (channel,), unused, unused, unused, unused, unused)
        channel.put_nowait("a", 1)
        watching = loop.create_task(watch.watch_overload())
        for secs in stops:
            await settle()
            loop.stopped_secs += secs
            # Due at once, whatever it waits for.
            await asyncio.wait({watching}, timeout=0.01)
        assert not watching.done() or watching.exception() is None
        # And yet one that frees nothing while it runs is one.
        with pytest.raises(Overload) as raised:
            await watching
        assert 1000 < int(str(raised.value.details["full_ms"])) < 9_000

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.wait_for(work(), 10 + sum(stops)))


@pytest.mark.claim("B2")
def test_B2_what_is_excused_is_at_most_what_there_was() -> None:
    clock = Clock()
    channel: Channel[str] = Channel("persist", 1, clock)
    channel.excuse(5.0)
    assert channel.full_since is None
    channel.put_nowait("a", 1)
    clock.now += 1.0
    channel.excuse(5.0)
    assert channel.full_since == clock.now
