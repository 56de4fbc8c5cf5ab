"""Relay, collector, nats-server and PostgreSQL are killed in full flow: every row of the ledger is in PostgreSQL once,
and positions are equal to the last digit.

PROOFS_FLEET_KILLS says how often each is killed (3; the night's 20).
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

KILLS = int(os.environ.get("PROOFS_FLEET_KILLS", "3"))

STREAM = {"max_bytes": 1 << 28}

LEDGER = {
    "ticks": "SELECT id, ts, symbol, price, volume, trade_id FROM ticks ORDER BY id",
    "signals": "SELECT id, ts, symbol, event_id, tick_id, side, reason, value, size, price, veto FROM signals"
    " ORDER BY id",
    "orders": "SELECT id, ts, order_id, signal_id, mode, symbol, side, qty_exact, price_exact FROM orders ORDER BY id",
    "order_events": "SELECT order_id, seq, ts, status, reason, filled_qty, detail FROM order_events ORDER BY 1, 2",
    "fills": "SELECT id, ts, event_id, order_id, mode, symbol, side, qty_exact, price_exact, fees_exact, cash_delta"
    " FROM trades ORDER BY id",
    "positions": "SELECT mode, symbol, qty, cash, fees, price FROM positions ORDER BY 1, 2",
}
"""What a ledger has, as it has it."""

COLLECTED = {
    "ticks": "SELECT id, ts, symbol, price, volume, trade_id FROM ticks WHERE instance = %s ORDER BY id",
    "signals": "SELECT id, ts, symbol, event_id, tick_id, side, reason, confidence, size::text, price::text, veto"
    " FROM signals WHERE instance = %s ORDER BY id",
    "orders": "SELECT id, ts, order_id, signal_id, mode, symbol, side, qty::text, price::text FROM orders"
    " WHERE instance = %s ORDER BY id",
    "order_events": "SELECT order_id, seq, ts, status, reason, filled_qty::text, detail FROM order_events"
    ' WHERE instance = %s ORDER BY order_id COLLATE "C", seq',
    "fills": "SELECT id, ts, event_id, order_id, mode, symbol, side, qty::text, price::text, fees::text,"
    " cash_delta::text FROM fills WHERE instance = %s ORDER BY id",
    "positions": "SELECT mode, symbol, qty::text, cash::text, fees::text, price::text FROM positions_now"
    ' WHERE instance = %s ORDER BY mode COLLATE "C", symbol COLLATE "C"',
}
"""The same from PostgreSQL: exact decimals as texts, so that each digit counts."""


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
        counts = {}
        with closing(sqlite3.connect(self.ledger)) as ledger:
            for table, sql in LEDGER.items():
                due = ledger.execute(sql).fetchall()
                if table == "positions":
                    ask = "SELECT max(fill_id) FROM positions"
                    awaited = ledger.execute("SELECT max(id) FROM trades").fetchone()[0]
                else:
                    ask, awaited = f"SELECT count(*) FROM {table}", len(due)
                wait(
                    partial(self.has_collected, ask, awaited),
                    f"all of {table}: {self.relay.said[-500:]} {self.collector.said[-500:]}",
                )
                found = self.collected(COLLECTED[table], self.instance)
                assert found == due, (
                    f"{table}: {[one for one in zip(found, due, strict=False) if one[0] != one[1]][:2]}"
                )
                counts[table] = len(due)
        assert self.collected("SELECT * FROM positions_differing") == []
        summed = self.collected(COLLECTED["positions"].replace("positions_now", "positions_by_fills"), self.instance)
        said = self.collected(COLLECTED["positions"], self.instance)
        assert [normal(row) for row in summed] == [normal(row) for row in said]
        assert self.collected("SELECT * FROM breaks") == []
        assert self.collected("SELECT * FROM refused") == []
        return counts


def normal(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """With decimals that do not say how many zeros they end with."""
    return tuple(one.rstrip("0").rstrip(".") if isinstance(one, str) and "." in one else one for one in row)


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
