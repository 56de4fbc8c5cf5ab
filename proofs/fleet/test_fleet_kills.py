"""Relay, collector, nats-server and PostgreSQL are killed in full flow: every row of the ledger is in PostgreSQL once,
and positions are equal to the last digit.

PROOFS_FLEET_KILLS says how often each is killed (3). The night does it to a whole fleet: `make fleet-sim`.
"""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
from collections import Counter
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proofs.fixtures import fleet_books
from proofs.fixtures.fleet_books import LEDGER
from proofs.fixtures.fleet_parts import (
    PASSWORD,
    Growing,
    NatsServer,
    Postgres,
    Process,
    Program,
    growing,
    streamed,
    wait,
)

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("PROOFS_FLEET_KILLS", "3"))

STREAM = {"max_bytes": 1 << 28}


class Fleet:
    """One engine's ledger, its relay, a stream, a collector and a database."""

    def __init__(self, directory: Path, nats_server: NatsServer, postgres: Postgres, database: str, seed: int) -> None:
        self.nats_server, self.postgres, self.database = nats_server, postgres, database
        self.instance = database
        password = directory / "password"
        password.write_text(f"{PASSWORD}\n")
        servers = {"servers": [nats_server.url]}
        self.relay = Program(
            directory, "relay",
            {"instance": self.instance, "database": str(directory / "bot.db"), "metrics_port": 0, "poll_secs": 0.02,
             "batch_rows": 200, "stream": STREAM, "nats": servers},
        )  # fmt: skip
        self.collector = Program(
            directory, "collector",
            {"conninfo": postgres.make_database(database), "password_file": str(password), "metrics_port": 0,
             "batch_messages": 20, "nats": servers},
        )  # fmt: skip
        self.ledger = directory / "bot.db"
        self.random = random.Random(seed)
        self._connection: psycopg.Connection[Any] | None = None

    def end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self.relay.end()
        self.collector.end()

    def has_collected(self, sql: str, at_least: int) -> bool:
        return bool(self.collected(sql)[0][0] >= at_least)

    def collected(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = self.postgres.connect(self.database)
        try:
            self._connection.execute("SET search_path = hybrid")
            rows: list[tuple[Any, ...]] = self._connection.execute(sql, values or None).fetchall()
            return rows
        except psycopg.OperationalError:
            self._connection = None
            raise

    def count(self) -> int:
        """Ticks in PostgreSQL, about; none while it cannot be asked."""
        try:
            return int(self.collected("SELECT coalesce(max(id), 0) FROM ticks")[0][0])
        except psycopg.Error:
            return 0

    def wait_flow(self, what: str) -> None:
        """Some more rows come through, a random number of them."""
        more = self.count() + self.random.randrange(1, 300)
        said = self.relay.said[-300:] + self.collector.said[-300:]
        wait(lambda: self.count() >= more, f"rows flow after {what}: {said}")

    def expect_equal(self) -> dict[str, int]:
        """All of the ledger is in PostgreSQL, once, and nothing else. Returns the number of rows of each table."""
        with closing(sqlite3.connect(self.ledger)) as ledger:
            due = {table: len(ledger.execute(sql).fetchall()) for table, sql in LEDGER.items()}
            (last,) = ledger.execute("SELECT max(id) FROM trades").fetchone()
        for table, count in due.items():
            ask, awaited = f"SELECT count(*) FROM {table}", count
            if table == "positions":
                ask, awaited = "SELECT max(fill_id) FROM positions", last
            wait(
                partial(self.has_collected, ask, awaited),
                f"all of {table}: {self.relay.said[-500:]} {self.collector.said[-500:]}",
            )
        with self.postgres.connect(self.database) as connection:
            books = fleet_books.of_ledger(self.ledger, connection, self.instance)
            assert [one for one in books if one.lost or one.foreign] == []
            assert fleet_books.sums_that_differ(connection, self.instance) == []
        assert self.collected("SELECT * FROM breaks") == []
        assert self.collected("SELECT * FROM refused") == []
        return {one.table: one.due for one in books}


@pytest.mark.claim("F1", "F3")
def test_kills_in_full_flow_lose_and_repeat_nothing(
    tmp_path: Path, nats_server: NatsServer, postgres: Postgres
) -> None:
    with ExitStack() as stack:
        ledger: Growing = stack.enter_context(growing(tmp_path / "bot.db", seed=18))
        fleet = Fleet(tmp_path, nats_server, postgres, "kills", seed=KILLS)
        stack.callback(fleet.end)
        ledger.grow(300)
        fleet.relay.start()
        fleet.collector.start()
        ledger.start(ticks=20, every_secs=0.03)
        victims: list[Process] = [fleet.relay, fleet.collector, nats_server, postgres] * KILLS
        fleet.random.shuffle(victims)
        for victim in victims:
            fleet.wait_flow("the last kill")
            victim.end()
            victim.start()
        fleet.wait_flow("the last kill")
        ledger.stop()
        counts = fleet.expect_equal()
        assert counts["ticks"] > 1000
        assert min(counts.values()) > 0
        # And exactly once in the stream itself, message by message.
        for table, messages in streamed(nats_server.url).items():
            keys = Counter(row[: len(one.table.key)] if table == "order_events" else row[0]
                           for one in messages for row in one.rows)  # fmt: skip
            if table != "positions":
                assert max(keys.values()) == 1, f"{table}: {keys.most_common(3)}"
                assert len(keys) == counts[table]
            assert messages[0].start is None
            for before, after in itertools.pairwise(messages):
                assert after.start == before.end
