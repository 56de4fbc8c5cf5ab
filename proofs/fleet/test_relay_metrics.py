"""What a relay tells of itself: rows that were taken, how far behind it is, and nothing of what it cannot know
(contract F1, F4, O13). The stream is a hand-written one, in memory."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.js.errors import NotFoundError

from fleet.base import link, wire
from harness.base.clock import FakeClock
from proofs.fixtures.fleet_parts import grown
from proofs.fleet.test_relay import BY_ID, Metered, settings

NOW = 1_764_000_000.0


class Memory:
    """A stream that takes what it is given."""

    def __init__(self, clock: FakeClock) -> None:
        self.taken: list[wire.Message] = []
        self._clock = clock
        self._last: dict[str, Any] = {}

    async def get_last_msg(self, _stream: str, subject: str) -> Any:
        if subject not in self._last:
            raise NotFoundError
        return self._last[subject]

    async def publish(self, subject: str, data: bytes, **_: object) -> Any:
        self.taken.append(wire.decode(data, subject))
        number = len(self.taken)
        at = datetime.fromtimestamp(self._clock.wall(), UTC)
        self._last[subject] = SimpleNamespace(data=data, seq=number, time=at)
        return SimpleNamespace(seq=number, duplicate=False)

    def rows(self, table: str) -> int:
        return sum(len(one.rows) for one in self.taken if one.table.name == table)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return grown(tmp_path / "bot.db", times=2)


def relay_of(ledger: Path, clock: FakeClock, batch_rows: int = 50) -> Metered:
    return Metered(settings("nats://127.0.0.1:1", ledger, batch_rows=batch_rows), clock)


def ticks_in(ledger: Path) -> int:
    with closing(sqlite3.connect(ledger)) as connection:
        return int(connection.execute("SELECT count(*) FROM ticks").fetchone()[0])


def oldest_ts(ledger: Path) -> float:
    with closing(sqlite3.connect(ledger)) as connection:
        return float(connection.execute("SELECT min(ts) FROM ticks").fetchone()[0]) / 1000


async def drain(relay: Metered, stream: Memory) -> None:
    while await relay.round(cast("Any", stream)):
        pass


def sample(relay: Metered, name: str, **labels: str) -> float | None:
    return relay.registry.get_sample_value(f"hybrid_relay_{name}", labels)


@pytest.mark.claim("F1", "O13")
@pytest.mark.parametrize("bytes_max", [1 << 20, 1500])
def test_what_is_counted_is_what_was_taken(ledger: Path, bytes_max: int) -> None:
    """Also where what was read is too much for one message."""
    clock = FakeClock(NOW)
    relay, stream = relay_of(ledger, clock), Memory(clock)
    relay._max_bytes = bytes_max
    asyncio.run(drain(relay, stream))
    for table in BY_ID:
        assert sample(relay, "rows_total", table=table) == stream.rows(table) > 0
    messages = sum(relay.value("messages_total", table=table) for table in {one.table.name for one in stream.taken})
    assert messages == len(stream.taken)


@pytest.mark.claim("F4", "O13")
def test_lag_is_in_seconds_of_the_oldest_row_that_waits(ledger: Path) -> None:
    clock = FakeClock(oldest_ts(ledger) + 90.0)
    relay, stream = relay_of(ledger, clock, batch_rows=7), Memory(clock)
    asyncio.run(relay.round(cast("Any", stream)))
    assert sample(relay, "lag_seconds", table="ticks") == pytest.approx(90.0)
    assert sample(relay, "backlog_rows", table="ticks") == ticks_in(ledger)
    for _ in range(2):
        asyncio.run(drain(relay, stream))
    assert sample(relay, "lag_seconds", table="ticks") == 0
    assert sample(relay, "backlog_rows", table="ticks") == 0


@pytest.mark.claim("F4", "O13")
def test_a_ledger_that_cannot_be_read_is_told_until_it_can(ledger: Path) -> None:
    clock = FakeClock(NOW)
    relay, stream = relay_of(ledger, clock), Memory(clock)
    asyncio.run(drain(relay, stream))
    caught_up = relay.value("caught_up_timestamp_seconds")
    away = ledger.rename(ledger.with_name("away.db"))
    found = []
    for _ in range(2):
        clock.sleep(10)
        asyncio.run(drain(relay, stream))
        found.append((relay.value("ledger_readable"), relay.value("caught_up_timestamp_seconds") - caught_up))
        # What waits meanwhile is not known.
        for name in ("lag_seconds", "backlog_rows"):
            assert sample(relay, name, table="ticks") == (None if away.exists() else 0)
        if away.exists():
            away.rename(ledger)
    assert found == [(0.0, 0.0), (1.0, 20.0)]


@pytest.mark.claim("F1", "O13")
def test_what_one_table_holds_keeps_no_other_from_the_stream(ledger: Path) -> None:
    """A reason longer than a value may be, of an adapter that quotes a venue's whole page."""
    clock = FakeClock(NOW)
    relay, stream = relay_of(ledger, clock), Memory(clock)
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE signals SET veto_detail = ? WHERE id = 1", ("x" * 25_000,))
    caught_up = relay.value("caught_up_timestamp_seconds")
    clock.sleep(10)
    asyncio.run(drain(relay, stream))
    assert relay.value("ledger_readable") == 0.0
    assert relay.value("caught_up_timestamp_seconds") == caught_up
    assert [sample(relay, "backlog_rows", table=name) is None for name in ("ticks", "signals")] == [False, True]
    assert stream.rows("ticks") == ticks_in(ledger)
    assert stream.rows("order_events") > 0
    assert stream.rows("signals") == 0
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE signals SET veto_detail = NULL WHERE id = 1")
    asyncio.run(drain(relay, stream))
    assert relay.value("ledger_readable") == 1.0
    assert relay.value("caught_up_timestamp_seconds") == clock.wall()


@pytest.mark.claim("F4", "O13")
def test_without_a_connection_nobody_knows_what_waits(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no sample rings nothing."""
    clock = FakeClock(oldest_ts(ledger) + 90.0)
    relay = relay_of(ledger, clock, batch_rows=7)
    stopping = asyncio.Event()
    seen: list[tuple[float | None, ...]] = []

    def look() -> None:
        seen.append(
            tuple(sample(relay, one) for one in ("connected",))
            + tuple(sample(relay, one, table="ticks") for one in ("lag_seconds", "backlog_rows"))
        )

    class Client:
        async def close(self) -> None:
            look()
            stopping.set()

    async def connect(*_: object) -> Client:
        return Client()

    async def carry(_client: object, _stopping: object) -> None:
        await relay.round(cast("Any", Memory(clock)))
        look()
        raise TimeoutError

    async def no_pause(*_: object) -> None:
        pass

    monkeypatch.setattr(link, "connect", connect)
    monkeypatch.setattr("fleet.relay.relay.pause", no_pause)
    monkeypatch.setattr(relay, "_carry", carry)
    asyncio.run(relay.run(stopping))
    assert seen == [(1.0, pytest.approx(90.0), ticks_in(ledger)), (0.0, None, None)]


@pytest.mark.claim("F1")
def test_a_relay_that_was_restarted_knows_how_old_its_place_is(ledger: Path) -> None:
    """However often it is: what was published last is what the stream forgets."""
    clock = FakeClock(NOW)
    stream = Memory(clock)
    asyncio.run(drain(relay_of(ledger, clock), stream))
    for hours, more in ((11, 0), (2, len(BY_ID) + 1), (1, 0)):
        clock.sleep(hours * 3600)
        before = len(stream.taken)
        relay = relay_of(ledger, clock)
        relay._max_age = 24 * 3600.0
        asyncio.run(drain(relay, stream))
        assert len(stream.taken) - before == more
