"""What a collector tells of itself (contract F3, O13), over a stream and a database that are hand-written ones."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import nats
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from fleet.base import link
from fleet.base.service import Log
from fleet.base.settings import CollectorSettings, Nats
from fleet.collector import store
from fleet.collector.collector import Collector
from fleet.collector.intake import Arrived, Batch
from harness.base.clock import FakeClock

NOW = 1_764_000_000.0


class Counted(Collector):
    """A collector, with what it counts."""

    def __init__(self, clock: FakeClock) -> None:
        self.registry = CollectorRegistry()
        settings = CollectorSettings(
            consumer="c", conninfo="", batch_messages=20, metrics_port=0, password_file=None,
            nats=Nats((), "HYBRID", "", None, None),
        )  # fmt: skip
        super().__init__(settings, clock, Log("collector"), self.registry)

    def value(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"hybrid_collector_{name}")


def delivered(number: int, waiting: int, at: float) -> Any:
    async def ack() -> None:
        pass

    about = SimpleNamespace(
        sequence=SimpleNamespace(consumer=number, stream=number), num_pending=waiting,
        timestamp=datetime.fromtimestamp(at, UTC), num_delivered=1,
    )  # fmt: skip
    return SimpleNamespace(metadata=about, ack=ack, subject="hybrid.one.ticks", data=b"")


@pytest.mark.claim("F3", "O13")
def test_it_has_caught_up_when_nothing_waits_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lag is the age of what was stored last, as long as more waits."""
    clock = FakeClock(NOW)
    collector = Counted(clock)
    seen: list[tuple[float | None, ...]] = []

    class Subscription:
        # The number of a message, and how many wait behind it.
        batches = iter([(1, 3), (2, 2), (3, 0)])

        async def fetch(self, count: int, **_: float) -> list[Any]:
            if count > 1:
                # What waits does not come yet.
                raise nats.errors.TimeoutError
            names = ("caught_up_timestamp_seconds", "pending_messages", "lag_seconds", "working")
            seen.append(tuple(collector.value(name) for name in names))
            clock.sleep(10)
            for number, waiting in self.batches:
                return [delivered(number, waiting, NOW)]
            stopping.set()
            raise nats.errors.TimeoutError

    class Database:
        async def store(self, _stream: str, _found: list[Arrived], *, breaks: bool) -> Batch:
            return Batch()

    async def whole(*_: object) -> bool:
        return True

    stopping = asyncio.Event()
    monkeypatch.setattr(collector, "_is_whole", whole)
    parts: Any = (None, "c", Subscription(), Database(), stopping)
    asyncio.run(collector._deliver(*parts))
    assert seen == [
        (NOW, 0.0, 0.0, 1.0), (NOW, 3.0, 10.0, 1.0), (NOW, 2.0, 20.0, 1.0), (NOW + 30, 0.0, 0.0, 1.0),
    ]  # fmt: skip
    assert collector.value("caught_up_timestamp_seconds") == NOW + 40


@pytest.mark.claim("F3", "O13")
def test_one_that_waits_for_another_knows_nothing_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database last had all is for the one at work to tell. The lock is for whoever has the stream, and
    until its connection is lost."""
    clock, did = FakeClock(NOW), list[tuple[str, float | None]]()
    collector, stopping = Counted(clock), asyncio.Event()

    def note(what: str) -> None:
        did.append((what, collector.value("caught_up_timestamp_seconds")))

    class Client:
        is_closed = False

        async def close(self) -> None:
            note("close")

    class Database:
        free = iter([False, False, False, True])

        async def lock(self) -> bool:
            note("lock")
            clock.sleep(10)
            client.is_closed = len(did) == 4
            return next(self.free)

        async def begin(self) -> None:
            pass

    async def connect(*_: object) -> Client:
        note("connect")
        client.is_closed = False
        return client

    async def read_on(*_: object) -> None:
        note("read")
        client.is_closed = True

    async def no_pause(*_: object) -> None:
        pass

    client, database = Client(), Database()
    monkeypatch.setattr(link, "connect", connect)
    monkeypatch.setattr(link, "jetstream", lambda _: None)
    monkeypatch.setattr("fleet.collector.collector.pause", no_pause)
    monkeypatch.setattr(collector, "_read_on", read_on)
    parts: Any = (database, stopping)
    for _ in range(2):
        asyncio.run(collector._with(*parts))
    assert did == [
        ("connect", NOW), ("lock", NOW), ("lock", None), ("lock", None), ("close", None),
        ("connect", None), ("lock", None), ("read", NOW + 40), ("close", NOW + 40),
    ]  # fmt: skip


@pytest.mark.claim("F3", "O13")
@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("the connection is lost"),
        psycopg.errors.ReadOnlySqlTransaction("it has become a standby"),
        psycopg.errors.InsufficientPrivilege("somebody has revoked it"),
    ],
)
def test_without_a_database_it_does_not_work(monkeypatch: pytest.MonkeyPatch, error: psycopg.Error) -> None:
    """Whatever PostgreSQL says of that may be over at any time."""
    collector = Counted(FakeClock(NOW))
    stopping = asyncio.Event()
    found: list[float | None] = []

    class Database:
        async def close(self) -> None:
            found.append(collector.value("working"))
            stopping.set()

    async def connect(_settings: object) -> Database:
        return Database()

    async def lose(_database: object, _stopping: object) -> None:
        collector._metrics.working.set(1)
        raise error

    async def no_pause(*_: object) -> None:
        pass

    monkeypatch.setattr(store, "connect", connect)
    monkeypatch.setattr("fleet.collector.collector.pause", no_pause)
    monkeypatch.setattr(collector, "_with", lose)
    asyncio.run(collector.run(stopping))
    assert found == [0.0]
