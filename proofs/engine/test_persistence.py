"""engine/storage/persistence.py: what becomes of a batch that cannot be written, and what is counted (D4, B6, E5, M3).

The disk is a real one in test_ledger.py; here it says what a case needs it to say.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from engine.base import metrics
from engine.base.channels import Channel
from engine.base.exits import ConfigError, Crash, EngineError
from engine.config.schema import Persist
from engine.storage import persistence
from engine.storage.batch import Batch, Busy, DiskTrouble, Written
from engine.storage.persistence import Persistence
from proofs.engine.test_ledger import tick, traded
from proofs.fixtures import engine_loop

DEADLINE_SECS = 10.0


class Disk:
    """Does with each write what comes next of `outcomes`, and afterwards always writes."""

    def __init__(self, *outcomes: Exception | Callable[[], object]) -> None:
        self.outcomes = list(outcomes)
        self.looks: list[Exception | None] = []
        self.written: list[Batch] = []
        self.tried_at: list[float] = []
        self.looked_at: list[float] = []
        self.closed = False

    def write(self, batch: Batch) -> Written:
        self.tried_at.append(time.monotonic())
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            outcome()
        self.written.append(batch)
        known = sum(tick.id % 2 for tick in batch.ticks)
        return Written(len(batch.ticks) - known, known, len(batch.signals), len(batch.orders), len(batch.fills))

    def look(self) -> None:
        self.looked_at.append(time.monotonic())
        if self.looks and (error := self.looks.pop(0)) is not None:
            raise error

    def close(self) -> None:
        self.closed = True


class Stage:
    """A persist stage in front of a disk."""

    def __init__(self, disk: Disk, look_secs: float = 3600.0, **options: Any) -> None:
        self.disk = disk
        self.counters = metrics.Counters()
        self.answers = 0
        self.ended: list[EngineError] = []
        self.channel: Channel[Batch] = Channel("persist", 512, asyncio.get_running_loop().time)
        self.stage = Persistence(
            cast("Any", disk),
            self.channel,
            Persist(**{"batch_size": 1, "busy_timeout_ms": 1000, **options}),
            self.counters,
            look_secs=look_secs,
            answer=self.answer,
            end=self.ended.append,
        )

    def answer(self) -> None:
        self.answers += 1

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_SECS):
            while not condition():
                self.channel.nudge()
                await asyncio.sleep(0.001)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    engine_loop.run(work())


def rows(number: int) -> Batch:
    """A tick that is new, one that is known, and a signal with order and fill."""
    return Batch(ticks=[tick(2 * number), tick(2 * number + 1)], **_derived(number))


def _derived(number: int) -> dict[str, Any]:
    made = traded(number)
    return {"signals": made.signals, "orders": made.orders, "fills": made.fills}


@pytest.mark.slow
@pytest.mark.claim("D4", "M2", "M3")
def test_D4_a_batch_that_could_not_be_written_is_tried_until_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def work() -> None:
        disk = Disk(Busy("bot.db: database is locked"), DiskTrouble("bot.db: disk is full", "SQLITE_FULL"), Busy("x"))
        one = Stage(disk)
        running = asyncio.ensure_future(one.stage.run())
        one.channel.put_nowait(rows(1), 5)
        await one.until(lambda: disk.tried_at)
        # What comes meanwhile waits behind it, and shows in the books.
        one.channel.put_nowait(rows(2), 5)
        one.channel.put_nowait(rows(3), 5)
        assert [batch.ticks[0].id for batch in one.stage.unwritten()] == [2, 4, 6]
        one.channel.close()
        async with asyncio.timeout(DEADLINE_SECS):
            await running
        assert [[tick.id for tick in batch.ticks] for batch in disk.written] == [[2, 3], [4, 5, 6, 7]]
        assert one.stage.unwritten() == []
        counted = one.counters
        assert (counted.persist_errors, counted.tick_rows_written, counted.tick_rows_known) == (3, 3, 3)
        # All rows of all tables that are on disk, those that were there before left out.
        assert (counted.persist_count, one.stage.derived_written) == (12, 9)
        assert (one.ended, one.stage.failure) == ([], None)
        pauses = [later - earlier for earlier, later in itertools.pairwise(disk.tried_at[:4])]
        # libuv counts whole milliseconds.
        assert all(pause > least - 0.001 for pause, least in zip(pauses, (0.05, 0.1, 0.2), strict=True)), pauses
        one.stage.close()
        assert disk.closed

    run(work)
    # One line a second; the others are counted.
    [line] = caplog.records
    assert (line.levelname, line.message) == ("WARNING", "batch not written, trying again")
    assert vars(line)["fields"] == {
        "error": "bot.db: database is locked", "kind": "Busy", "rows": 5, "attempt": 1, "suppressed": 0,
    }  # fmt: skip


@pytest.mark.claim("D4")
def test_D4_the_waits_grow_to_a_second_and_begin_anew_with_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        disk = Disk(*[Busy("x")] * 7, lambda: None, Busy("x"))
        one = Stage(disk)
        loop, waits = one.stage._loop, list[float]()
        call_later = loop.call_later

        def soon(secs: float, again: Callable[[], object], *args: Any) -> asyncio.TimerHandle:
            waits.append(secs)
            return call_later(0, again, *args)

        running = asyncio.ensure_future(one.stage.run())
        with monkeypatch.context() as patch:
            patch.setattr(one.stage, "_loop", _Loop(loop.time, soon))
            for number in (1, 2):
                one.channel.put_nowait(rows(number), 5)
                await one.until(lambda number=number: len(disk.written) == number)  # type: ignore[misc]
                await one.until(lambda: not one.stage.unwritten())
        one.channel.close()
        await running
        assert waits == [0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 1.0, 0.05]
        one.stage.close()

    run(work)


class _Loop:
    """An event loop of which only these are asked."""

    def __init__(self, clock: Callable[[], float], call_later: Callable[..., asyncio.TimerHandle]) -> None:
        self.time = clock
        self.call_later = call_later


@pytest.mark.claim("D4", "E3")
@pytest.mark.parametrize(
    ("error", "kind", "says", "details"),
    [
        (ConfigError("bot.db: was replaced", rows=7), ConfigError, "bot.db: was replaced", {"rows": 7}),
        (Crash("bot.db: refused a row"), Crash, "bot.db: refused a row", {}),
        (ValueError("of this"), Crash, "writer failed", {"task": "writer"}),
        (ImportError("no x"), ConfigError, "installation is damaged: no x",
         {"error": "ImportError('no x')", "task": "writer"}),
    ],
    ids=range(4),
)  # fmt: skip
def test_D4_what_no_other_attempt_mends_ends_the_run(
    error: Exception, kind: type[EngineError], says: str, details: dict[str, object]
) -> None:
    async def work() -> None:
        disk = Disk(error)
        one = Stage(disk)
        one.channel.put_nowait(rows(1), 5)
        async with asyncio.timeout(DEADLINE_SECS):
            await one.stage.run()
        [ended] = one.ended
        assert ended is one.stage.failure
        assert (type(ended), str(ended), ended.details) == (kind, says, details)
        # It is lost, and the books have it as such.
        assert [batch.ticks[0].id for batch in one.stage.unwritten()] == [2]
        assert (one.counters.persist_errors, one.counters.persist_count) == (1, 0)
        one.stage.close()
        assert disk.closed

    run(work)


@pytest.mark.claim("E5")
def test_E5_a_write_that_takes_longer_than_a_lock_explains_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        hangs = threading.Event()
        disk = Disk(lambda: hangs.wait(DEADLINE_SECS))
        one = Stage(disk)
        running = asyncio.ensure_future(one.stage.run())
        await one.until(lambda: one.answers)
        one.channel.put_nowait(rows(1), 5)
        await one.until(lambda: disk.tried_at)
        loop, began = one.stage._loop, one.stage._attempt_started_at
        # busy_timeout_ms is a second, and SQLite may take a little longer than that.
        for later, answers in ((0.0, True), (2.999, True), (3.001, False), (60.0, False)):
            with monkeypatch.context() as patch:
                patch.setattr(one.stage, "_loop", _Loop(lambda later=later: began + later, loop.call_later))  # type: ignore[misc]
                before = one.answers
                for _ in range(5):
                    one.channel.nudge()
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                assert (one.answers > before) is answers, later
        # Nor is a database closed in which somebody writes.
        closing = one.stage.close
        closing()
        assert not disk.closed
        hangs.set()
        await one.until(lambda: disk.written)
        await one.until(lambda: not one.stage.unwritten())
        one.channel.close()
        await running
        closing()
        assert disk.closed

    run(work)


@pytest.mark.claim("D7")
@pytest.mark.parametrize("look_secs", [0.02, 3600.0])
def test_D7_who_has_nothing_to_write_looks_at_the_files(monkeypatch: pytest.MonkeyPatch, look_secs: float) -> None:
    """At each heartbeat, and once a second at the least."""
    monkeypatch.setattr(persistence, "_LOOK_SECS", 0.05)

    async def work() -> None:
        disk = Disk()
        disk.looks = [None, DiskTrouble("x", "EIO"), Busy("x"), ConfigError("bot.db: was replaced")]
        one = Stage(disk, look_secs)
        running = asyncio.ensure_future(one.stage.run())
        await one.until(lambda: one.ended)
        assert [str(error) for error in one.ended] == ["bot.db: was replaced"]
        await running
        pauses = [later - earlier for earlier, later in itertools.pairwise(disk.looked_at)]
        assert len(pauses) == 3
        assert min(pauses) >= min(0.05, look_secs)
        # From then on it waits for its end alone.
        one.stage.close()
        assert disk.closed
        assert len(disk.looked_at) == 4

    run(work)
