"""What PostgreSQL holds of the stream, and what it says of it (contract F3, F5)."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nats
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from fleet.base import wire
from fleet.base.service import Log
from fleet.base.settings import CollectorSettings, ConfigError, Nats
from fleet.base.tables import FILLS, GAPS, POSITIONS, SIGNALS, TABLES, TICKS, Table
from fleet.base.wire import Message
from fleet.collector import store
from fleet.collector.collector import Collector
from fleet.collector.intake import Arrived, Batch
from fleet.collector.store import Store
from harness.base.clock import OsClock
from proofs.fixtures.fleet_parts import PASSWORD, ROOT, NatsServer, Postgres, Program, wait

AT = datetime(2026, 11, 27, 12, tzinfo=UTC)
NOON = int(AT.timestamp() * 1000)
STREAM = "HYBRID"

_NUMBERS = itertools.count(1)


@pytest.fixture
def given_settings(postgres: Postgres, tmp_path: Path) -> CollectorSettings:
    """For a database of its own."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return CollectorSettings(
        consumer="collector", conninfo=postgres.make_database(f"db{next(_NUMBERS)}"), batch_messages=20, metrics_port=0,
        password_file=tmp_path / "password", nats=Nats((), STREAM, "", None, None),
    )  # fmt: skip


def message(sequence: int, table: Table, start: Any, *rows: tuple[Any, ...], instance: str = "one") -> Arrived:
    end = {"id": rows[-1][0]}
    data = wire.encode(Message(instance, table, 3, start, end, rows, rows[-1]))
    return Arrived(sequence, AT, wire.subject(instance, table.name), data)


def tick(number: int, ts: int = NOON, price: float = 1.0) -> tuple[Any, ...]:
    return (number, ts, "X", price, 1.0, "a", number, None)


def over(found: CollectorSettings, work: Callable[[Store], Awaitable[None]]) -> None:
    """Do something as the one collector."""

    async def run() -> None:
        database = await store.connect(found)
        try:
            await locked(database)
            await database.begin()
            if await database.progress(STREAM) is None:
                await database.begin_stream(STREAM, AT)
            await work(database)
        finally:
            await database.close()

    asyncio.run(run())


async def locked(database: Store) -> None:
    """The lock goes with the connection that had it, a moment after that was closed."""
    for _ in range(20_000):
        if await database.lock():
            return
    pytest.fail("the lock of a closed connection is still there")


def query(found: CollectorSettings, sql: str) -> list[tuple[Any, ...]]:
    conninfo = f"{found.conninfo} password='{PASSWORD}' options='-c search_path=hybrid'"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        rows: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
        return rows


@pytest.mark.slow
@pytest.mark.claim("F3")
def test_what_comes_again_is_stored_once_and_read_on_from(given_settings: CollectorSettings) -> None:
    first = [message(1, TICKS, None, tick(1), tick(2)), message(2, TICKS, {"id": 2}, tick(3))]

    async def work(database: Store) -> None:
        await database.store(STREAM, first)
        await database.store(STREAM, first)
        assert await database.progress(STREAM) == store.Progress(AT, 2)

    async def later(database: Store) -> None:
        # Another process, which knows how far each table had come.
        batch = await database.store(
            STREAM, [message(3, TICKS, {"id": 3}, tick(4)), message(7, TICKS, {"id": 6}, tick(7))]
        )
        assert [(one.sequence, one.expected) for one in batch.breaks] == [(7, {"id": 4})]

    over(given_settings, work)
    over(given_settings, later)
    assert [row[0] for row in query(given_settings, "SELECT id FROM ticks ORDER BY id")] == [1, 2, 3, 4, 7]
    assert query(given_settings, "SELECT expected, found FROM breaks") == [({"id": 4}, {"id": 6})]


@pytest.mark.slow
@pytest.mark.claim("F3")
def test_what_is_lost_on_the_way_of_a_stream_that_was_made_anew_is_seen_too(given_settings: CollectorSettings) -> None:
    """Its messages are numbered from 1 again, and go on from where those of the one before ended."""

    async def work(database: Store) -> None:
        await database.store(STREAM, [message(1, TICKS, None, tick(1)), message(9, TICKS, {"id": 1}, tick(2))])
        await database.begin_stream(STREAM, AT.replace(hour=13))
        batch = await database.store(STREAM, [message(1, TICKS, {"id": 2}, tick(3))])
        assert not batch.breaks

    async def later(database: Store) -> None:
        batch = await database.store(STREAM, [message(2, TICKS, {"id": 6}, tick(7))])
        assert [(one.sequence, one.expected, one.found) for one in batch.breaks] == [(2, {"id": 3}, {"id": 6})]

    over(given_settings, work)
    over(given_settings, later)
    assert query(given_settings, "SELECT sequence, place FROM places") == [(2, {"id": 7})]


@pytest.mark.claim("F3")
def test_what_postgresql_does_not_take_is_refused_alone(given_settings: CollectorSettings) -> None:
    """A decimal with more digits than a numeric may have before its point is none of an engine's."""
    digits = "9" * 1000
    fill = (1, NOON, "s/0", "s", "SHADOW", "X", "BUY", digits, digits, "0", "0", 1)
    # Of a key an index takes 2704 bytes, after compression.
    long = (
        1,
        NOON,
        "SHADOW",
        "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=9000)),
        "1",
        "1",
        "0",
        "1",
    )
    strange = Arrived(2, AT, "hybrid.one.ticks", b"[]")
    bad = message(3, TICKS, {"id": 1}, tick(2))
    bad = Arrived(bad.sequence, bad.at, bad.subject, bad.data.replace(b'"to":{"id":2}', b'"to":{"id":"\\u0000"}'))

    async def work(database: Store) -> None:
        batch = await database.store(
            STREAM,
            [
                message(1, TICKS, None, tick(1)), strange, bad, message(4, FILLS, None, fill),
                message(5, POSITIONS, None, long),
            ],
        )  # fmt: skip
        assert [one.sequence for one, _ in batch.refused] == [2, 3, 5]
        assert await database.progress(STREAM) == store.Progress(AT, 5)

    over(given_settings, work)
    refused = query(given_settings, "SELECT sequence, subject, reason FROM refused ORDER BY sequence")
    assert refused[0] == (2, "hybrid.one.ticks", "is no JSON object")
    assert refused[1][0] == 3
    assert query(given_settings, "SELECT qty::text FROM fills") == [(digits,)]


@pytest.mark.claim("F3")
def test_both_ends_give_up_a_connection_over_which_nothing_comes(given_settings: CollectorSettings) -> None:
    """Else a collector whose host is gone would hold its lock for hours; `make fleet-sim` cuts such a host off."""

    async def work() -> None:
        ours = replace(given_settings, conninfo=f"{given_settings.conninfo} keepalives_idle=7")
        database = await store.connect(ours)
        connection = database._connection
        found = connection.info.get_parameters()
        assert (found["keepalives_idle"], found["keepalives_interval"], found["keepalives_count"]) == ("7", "5", "2")
        assert found["tcp_user_timeout"] == "15000"
        for name, value in (("idle", "5"), ("interval", "5"), ("count", "2")):
            row = await (await connection.execute(f"SHOW tcp_keepalives_{name}")).fetchone()
            assert row == (value,), name
        assert await (await connection.execute("SHOW tcp_user_timeout")).fetchone() == ("15000",)
        await database.close()

    asyncio.run(work())


@pytest.mark.claim("F3")
def test_one_collector_is_at_work(given_settings: CollectorSettings) -> None:
    async def work(database: Store) -> None:
        other = await store.connect(given_settings)
        assert not await other.lock()
        await database.close()
        await locked(other)
        await other.close()

    over(given_settings, work)


@pytest.mark.claim("F5")
def test_each_day_is_a_partition_and_what_came_before_its_day_moves_there(given_settings: CollectorSettings) -> None:
    day = 86_400_000

    async def work(database: Store) -> None:
        await database.store(STREAM, [message(1, TICKS, None, tick(1), tick(2, NOON + 2 * day), tick(3, 0))])
        later = message(2, TICKS, {"id": 3}, tick(4, NOON + 2 * day))
        later = Arrived(2, datetime(2026, 11, 29, tzinfo=UTC), later.subject, later.data)
        places = "SELECT tableoid::regclass::text, id FROM ticks ORDER BY id"
        assert query(given_settings, places) == [("ticks_20261127", 1), ("ticks_other", 2), ("ticks_other", 3)]
        await database.store(STREAM, [later])
        assert query(given_settings, places) == [
            ("ticks_20261127", 1), ("ticks_20261129", 2), ("ticks_other", 3), ("ticks_20261129", 4),
        ]  # fmt: skip

    over(given_settings, work)


@pytest.mark.slow
@pytest.mark.claim("F5")
def test_whoever_reads_over_midnight_holds_up_no_row(
    given_settings: CollectorSettings, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a backup does. The day's rows move to its partition once they may."""
    places = "SELECT tableoid::regclass::text, id FROM ticks ORDER BY id"
    name = given_settings.conninfo.split("dbname=")[1].split()[0]

    async def work(database: Store) -> None:
        with postgres.connect(name) as backup, backup.transaction():
            backup.execute("SELECT FROM hybrid.ticks_other")
            began = time.monotonic()
            for number in range(1, 4):
                await database.store(STREAM, [message(number, TICKS, {"id": number - 1}, tick(number))])
            assert store.READ_SECS <= time.monotonic() - began < 2 * store.READ_SECS, "not tried once"
            assert query(given_settings, places) == [("ticks_other", number) for number in (1, 2, 3)]
        await database.store(STREAM, [message(4, TICKS, {"id": 3}, tick(4))])
        assert query(given_settings, places)[-1] == ("ticks_other", 4)
        monkeypatch.setattr(store, "LATER_SECS", 0.0)
        database._made_later.clear()
        with postgres.connect(name) as backup, backup.transaction():
            backup.execute("SELECT FROM hybrid.ticks_other")
            await database.store(STREAM, [message(5, TICKS, {"id": 4}, tick(5))])
        await database.store(STREAM, [message(6, TICKS, {"id": 5}, tick(6))])
        assert query(given_settings, places) == [("ticks_20261127", number) for number in range(1, 7)]

    over(given_settings, work)


@pytest.mark.claim("F5")
def test_a_day_whose_first_message_is_refused_gets_its_partition_with_the_next(
    given_settings: CollectorSettings,
) -> None:
    """What was made for the message that is refused is undone with it."""
    bad = message(1, TICKS, None, tick(1))
    bad = Arrived(bad.sequence, bad.at, bad.subject, bad.data.replace(b'"to":{"id":1}', b'"to":{"id":"\\u0000"}'))

    async def work(database: Store) -> None:
        batch = await database.store(STREAM, [bad])
        assert [one.sequence for one, _ in batch.refused] == [1]
        await database.store(STREAM, [message(2, TICKS, None, tick(2))])

    over(given_settings, work)
    assert query(given_settings, "SELECT tableoid::regclass::text, id FROM ticks") == [("ticks_20261127", 2)]


@pytest.mark.claim("F5")
def test_a_day_that_an_operator_has_detached_is_theirs(given_settings: CollectorSettings, postgres: Postgres) -> None:
    """To keep it elsewhere, say. What comes again of it, as after a stream was put back, holds up nothing."""

    async def work(database: Store) -> None:
        await database.store(STREAM, [message(1, TICKS, None, tick(1))])

    over(given_settings, work)
    name = given_settings.conninfo.split("dbname=")[1].split()[0]
    with postgres.connect(name) as connection:
        connection.execute("SET search_path = hybrid; SET ROLE collector")
        connection.execute("ALTER TABLE ticks DETACH PARTITION ticks_20261127")
        connection.commit()
        over(given_settings, work)
        assert connection.execute("SELECT tableoid::regclass::text FROM ticks").fetchall() == [("ticks_other",)]
        assert connection.execute("SELECT id FROM ticks_20261127").fetchall() == [(1,)]


@pytest.mark.claim("F5")
def test_a_table_that_an_operator_keeps_otherwise_gets_no_partitions(
    given_settings: CollectorSettings, postgres: Postgres
) -> None:
    """As docs/fleet.md says of hypertables, which are none of PostgreSQL's own."""

    async def before(database: Store) -> None:
        """The schema is there when it is begun."""

    async def after(database: Store) -> None:
        await database.begin_stream(STREAM, AT)
        await database.store(STREAM, [message(1, TICKS, None, tick(1), tick(2))])
        await database.store(STREAM, [message(1, TICKS, None, tick(1), tick(2))])

    over(given_settings, before)
    name = given_settings.conninfo.split("dbname=")[1].split()[0]
    with postgres.connect(name) as connection:
        connection.execute("SET search_path = hybrid; SET ROLE collector")
        connection.execute("ALTER TABLE ticks RENAME TO ticks_partitioned")
        connection.execute("CREATE TABLE ticks (LIKE ticks_partitioned INCLUDING ALL)")
        over(given_settings, after)
        assert connection.execute("SELECT id FROM ticks ORDER BY id").fetchall() == [(1,), (2,)]
        assert connection.execute("SELECT 1 FROM pg_class WHERE relname LIKE 'ticks_2%'").fetchall() == []


@pytest.mark.slow
@pytest.mark.claim("F5")
def test_the_schema_goes_forward_and_a_newer_one_is_left_alone(
    given_settings: CollectorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(database: Store) -> None:
        return

    known = store.migrations()
    assert list(known) == list(range(1, len(known) + 1))
    monkeypatch.setattr(store, "migrations", lambda: {1: known[1]})
    over(given_settings, nothing)
    monkeypatch.setattr(store, "migrations", lambda: {**known, 3: "CREATE TABLE more (x int); SELECT 1/0"})
    with pytest.raises(psycopg.errors.DivisionByZero):
        over(given_settings, nothing)
    assert query(given_settings, "SELECT version FROM migrations ORDER BY 1") == [(1,), (2,)]
    assert query(given_settings, "SELECT to_regclass('more')::text") == [(None,)]
    monkeypatch.setattr(store, "migrations", lambda: {**known, 3: "CREATE TABLE more (x int)"})
    over(given_settings, nothing)
    monkeypatch.setattr(store, "migrations", lambda: known)
    with pytest.raises(ConfigError, match="version 3, of a newer collector than this one, which knows 2"):
        over(given_settings, nothing)
    monkeypatch.setattr(store, "migrations", lambda: {**known, 1: "SELECT 1", 3: "CREATE TABLE more (x int)"})
    with pytest.raises(ConfigError, match="version 1 is not the one of this collector"):
        over(given_settings, nothing)


@pytest.mark.slow
@pytest.mark.claim("F5")
def test_the_schema_has_the_columns_of_the_tables(given_settings: CollectorSettings) -> None:
    async def nothing(database: Store) -> None:
        return

    over(given_settings, nothing)
    kinds = {"int": "bigint", "ts": "bigint", "real": "double precision", "exact": "numeric", "text": "text"}
    for table in TABLES.values():
        found = query(
            given_settings,
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'hybrid'"
            f" AND table_name = '{table.name}' ORDER BY ordinal_position",
        )
        due = [("instance", "text"), ("day", "date"), *((name, kinds[kind]) for name, kind in table.columns.items())]
        assert found == due


# --- views ---------------------------------------------------------------------------------------------------


def average_cost(fills: list[tuple[str, Decimal, Decimal]]) -> tuple[Fraction, Fraction, Fraction]:
    """Quantity, average price and realised profit, exactly: lots are averaged, and closed at their average."""
    qty = cost = realised = Fraction(0)
    for side, amount, price in fills:
        left = Fraction(amount) * (1 if side == "BUY" else -1)
        if qty and (qty > 0) != (left > 0):
            closed = -left if abs(left) <= abs(qty) else qty
            realised += closed * (Fraction(price) - cost / qty)
            cost -= closed * cost / qty
            qty -= closed
            left += closed
        qty += left
        cost += left * Fraction(price)
    return qty, cost / qty if qty else Fraction(0), realised


AMOUNT = st.integers(1, 10**6).map(lambda n: Decimal(n) / 10**4)


@pytest.fixture(scope="module")
def summing(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a migrated database."""
    password = tmp_path_factory.mktemp("password") / "password"
    password.write_text(PASSWORD)
    found = CollectorSettings("c", postgres.make_database("summing"), password, 20, 0, Nats((), STREAM, "", None, None))

    async def nothing(database: Store) -> None:
        return

    over(found, nothing)
    with psycopg.connect(f"{found.conninfo} password='{PASSWORD}' options='-c search_path=hybrid'") as connection:
        yield connection


@pytest.mark.slow
@pytest.mark.claim("F5")
@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from(["BUY", "SELL"]), AMOUNT, AMOUNT), min_size=1, max_size=12))
def test_profit_is_that_of_average_cost(
    summing: psycopg.Connection[Any], fills: list[tuple[str, Decimal, Decimal]]
) -> None:
    rows = [
        (
            "one", "2026-11-27", number, NOON, f"s/{number}", "s", "SHADOW", "X", side, qty, price, price / 1000,
            (-qty if side == "BUY" else qty) * price - price / 1000, 1,
        )
        for number, (side, qty, price) in enumerate(fills, 1)
    ]  # fmt: skip
    with summing.cursor() as cursor:
        cursor.executemany(f"INSERT INTO fills VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)
        (found,) = cursor.execute("SELECT fills, realised, unrealised, fees, total FROM pnl_by_symbol").fetchall()
        (position,) = cursor.execute("SELECT qty, cash, fees, price FROM positions_by_fills").fetchall()
        totals = cursor.execute("SELECT realised, fees, total FROM pnl_by_instance").fetchall()
        summing.rollback()
    qty, average, realised = average_cost(fills)
    fees = sum(price for _, _, price in fills) / 1000
    last = fills[-1][2]
    assert (found[0], found[3]) == (len(fills), fees)
    assert abs(Fraction(found[1]) - realised) < Fraction(1, 10**9)
    assert abs(Fraction(found[2]) - qty * (Fraction(last) - average)) < Fraction(1, 10**9)
    assert position == (Decimal(0) + sum(row[9] * (1 if row[8] == "BUY" else -1) for row in rows),
                        sum(row[12] for row in rows), fees, last)  # fmt: skip
    # What was earned is what cash and position are worth.
    assert abs(Fraction(found[4]) - Fraction(position[1]) - qty * Fraction(last)) < Fraction(1, 10**9)
    assert totals == [(found[1], found[3], found[4])]


@pytest.mark.slow
@pytest.mark.claim("F5")
def test_views_say_why_nothing_was_traded_and_what_is_missing(given_settings: CollectorSettings) -> None:
    def signal_row(number: int, veto: str | None) -> tuple[Any, ...]:
        return (number, NOON + number, "X", f"e{number}", number, "BUY", "SMA", 0.5, "1", "2", veto, f"d{number}")

    async def work(database: Store) -> None:
        await database.store(
            STREAM,
            [
                message(1, SIGNALS, None, *(signal_row(n, [None, "RISK_CAP", "STALE_DATA"][n % 3]) for n in range(7))),
                message(
                    2, GAPS, None, (1, NOON, "", "", 0, 0), (1, NOON, "a", "BTC", 5, 9), (1, NOON, "a", "BTC", 20, 20)
                ),
                message(3, GAPS, {"id": 1}, (2, NOON, "", "", 0, 0), (2, NOON, "a", "BTC", 5, 9)),
                message(4, GAPS, None, (1, NOON, "", "", 0, 0), instance="two"),
            ],
        )

    over(given_settings, work)
    vetoes = "SELECT instance, day::text, symbol, veto, signals, latest_detail FROM veto_reasons ORDER BY veto"
    assert query(given_settings, vetoes) == [
        ("one", "2026-11-27", "X", "RISK_CAP", 2, "d4"), ("one", "2026-11-27", "X", "STALE_DATA", 2, "d5"),
    ]  # fmt: skip
    assert query(given_settings, "SELECT instance, source, market, first, last, trades FROM gaps_now") == [
        ("one", "a", "BTC", 5, 9, 5)
    ]


@pytest.mark.claim("F3")
def test_a_delivery_that_did_not_arrive_is_not_acknowledged_by_the_next(given_settings: CollectorSettings) -> None:
    """The consumer has delivered a second message to nobody: everything is read again from what is stored."""
    acknowledged: list[int] = []
    stored: list[Any] = []

    def delivered(number: int) -> Any:
        async def ack() -> None:
            acknowledged.append(number)

        about = SimpleNamespace(
            sequence=SimpleNamespace(consumer=number, stream=number), num_pending=0, timestamp=AT, num_delivered=1
        )
        one = message(number, TICKS, None, tick(number))
        return SimpleNamespace(metadata=about, ack=ack, subject=one.subject, data=one.data)

    class Subscription:
        arrive = iter([delivered(1), delivered(3)])

        async def fetch(self, batch: int, **deadline: float) -> list[Any]:
            return [next(self.arrive)]

    class Database:
        async def store(self, stream: str, found: list[Arrived], *, breaks: bool) -> Batch:
            stored.extend(one.sequence for one in found)
            return Batch()

    async def work() -> None:
        collector = Collector(given_settings, OsClock(), Log("collector"), CollectorRegistry())
        parts: Any = (None, "collector-1", Subscription(), Database(), asyncio.Event())
        await collector._deliver(*parts)

    asyncio.run(work())
    assert (stored, acknowledged) == ([1], [1])


# --- the command ---------------------------------------------------------------------------------------------


def published(server: NatsServer, *rows: list[int], anew: bool = False) -> None:
    """A message of each list of ticks, by their numbers."""

    async def run() -> None:
        client = await nats.connect(server.url)
        stream = client.jetstream()
        if anew:
            await stream.delete_stream(STREAM)
        await stream.add_stream(name=STREAM, subjects=["hybrid.>"], max_bytes=1 << 26, discard="new")
        for numbers in rows:
            start = {"id": numbers[0] - 1} if numbers[0] > 1 else None
            one = message(0, TICKS, start, *map(tick, numbers))
            await stream.publish(one.subject, one.data)
        await client.close()

    asyncio.run(run())


def stored_ticks(found: CollectorSettings) -> list[int]:
    try:
        return [row[0] for row in query(found, "SELECT id FROM ticks ORDER BY id")]
    except psycopg.Error:
        return []


def program(server: NatsServer, found: CollectorSettings, directory: Path) -> Program:
    return Program(
        directory, "collector",
        {"conninfo": found.conninfo, "password_file": str(found.password_file), "metrics_port": 0,
         "nats": {"servers": [server.url]}},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim("F3")
def test_what_a_stream_lost_and_got_again_elsewhere_is_found(
    nats_server: NatsServer, given_settings: CollectorSettings, tmp_path: Path
) -> None:
    """A server that has not caught up has become the leader, and relays have published again what it lacked: rows are
    where others were read already."""
    began = OsClock().wall()
    collector = program(nats_server, given_settings, tmp_path)
    published(nats_server, [1], [2])
    try:
        with nats_server.put_back():
            published(nats_server, [3], [4])
            collector.start()
            wait(lambda: stored_ticks(given_settings) == [1, 2, 3, 4], f"four ticks: {collector.said}")
            assert collector.end(signal.SIGTERM) == 0
        published(nats_server, [3, 4, 5], [6], [7], [8])
        collector.start()
        wait(lambda: stored_ticks(given_settings) == [*range(1, 9)], f"what stands elsewhere now: {collector.said}")
        told = re.search(
            "before message 5, ticks of one: something was lost; read again from (.{19}) UTC", collector.said
        )
        assert told, collector.said
        again = datetime.fromisoformat(f"{told[1]}+00:00").timestamp()
        # It is told to the second.
        assert began - 3601 < again <= OsClock().wall() - 3600, f"an hour before is not {told[1]}"
        # What is lost for good is stored as that, and the stream is not read again and again.
        published(nats_server, [11], [15])
        wait(lambda: stored_ticks(given_settings)[-1] == 15, f"what came after: {collector.said}")
        assert [row[0]["id"] for row in query(given_settings, "SELECT expected FROM breaks ORDER BY sequence")][
            -2:
        ] == [8, 11]
        assert collector.said.count("read again from") == 1
    finally:
        collector.end()


@pytest.mark.slow
@pytest.mark.claim("F3")
def test_the_command_reads_on_after_a_stream_and_a_database_were_put_back(
    nats_server: NatsServer, given_settings: CollectorSettings, tmp_path: Path
) -> None:
    """A database that knows less than the consumer had acknowledged, and a stream that was made anew."""

    collector = program(nats_server, given_settings, tmp_path)
    publish, stored = partial(published, nats_server), partial(stored_ticks, given_settings)
    publish([1, 2], [3], [4])
    collector.start()
    try:
        wait(lambda: stored() == [1, 2, 3, 4], f"four ticks: {collector.said}")
        assert collector.end(signal.SIGTERM) == 0
        # A backup in which the last two messages had not come yet.
        query(given_settings, "DELETE FROM ticks WHERE id > 2 RETURNING 1")
        query(given_settings, "UPDATE progress SET sequence = 1 RETURNING 1")
        query(given_settings, """UPDATE places SET sequence = 1, place = '{"id": 2}' RETURNING 1""")
        collector.start()
        wait(lambda: stored() == [1, 2, 3, 4], f"what the backup lacked: {collector.said}")
        publish([1], [2], [3, 4, 5], anew=True)
        wait(lambda: stored() == [1, 2, 3, 4, 5], f"what the new stream has more: {collector.said}")
        assert "is not the one that was read until 3: from its start" in collector.said
        assert query(given_settings, "SELECT * FROM breaks") == []
    finally:
        collector.end()


@pytest.mark.claim("F5")
def test_what_the_document_asks_is_answered(given_settings: CollectorSettings) -> None:
    async def nothing(database: Store) -> None:
        return

    over(given_settings, nothing)
    blocks = re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs/fleet.md").read_text(), re.MULTILINE | re.DOTALL)
    statements = [one for block in blocks for one in block.split(";") if one.strip()]
    assert len(statements) > 8
    with psycopg.connect(f"{given_settings.conninfo} password='{PASSWORD}'") as connection:
        for statement in statements:
            connection.execute(statement)
