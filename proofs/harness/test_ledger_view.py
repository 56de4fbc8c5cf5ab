"""Reading the engine's database from outside (contract D5, K3)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.storage import migrations, opening
from harness.observing import ledger_view
from harness.observing.ledger_view import LedgerUnreadable


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """As the engine makes it, with nothing in it; closed."""
    path = tmp_path / "bot.db"
    opening.open_ledger(path, busy_timeout_ms=1000).close()
    return path


def snapshot(path: Path) -> ledger_view.LedgerSnapshot:
    return ledger_view.read_snapshot(path, after_tick=0, ticks_max=3, markers_max=2)


def insert_ticks(path: Path, count: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO ticks(symbol, price, volume, ts) VALUES ('X', ?, 1.0, ?)",
            ((n, n) for n in range(1, count + 1)),
        )


def test_the_engines_schema_is_understood(database: Path) -> None:
    assert migrations.SCHEMA_VERSION in ledger_view.SCHEMA_VERSIONS
    assert snapshot(database) == ledger_view.LedgerSnapshot([], [], [], [], [])


@pytest.mark.claim("K3")
def test_no_snapshot_costs_more_when_a_table_grows(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        for sql in (*ledger_view.SNAPSHOT_QUERIES, *ledger_view.TALLY_QUERIES):
            values = (0,) * sql.count("?")
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values))
            opcodes = {row[1] for row in connection.execute(f"EXPLAIN {sql}", values)}
            assert "TEMP B-TREE" not in plan, f"{sql} sorts: {plan}"
            assert "Count" not in opcodes, f"{sql} counts"
            # From an end of the table, by a partial index, or a table with a row a symbol.
            assert "ORDER BY id DESC LIMIT" in sql or "orders_open" in plan or "FROM positions" in sql, plan


def test_the_newest_rows_are_told_oldest_first(database: Path) -> None:
    insert_ticks(database, 5)
    assert [tick.id for tick in snapshot(database).ticks] == [3, 4, 5]
    later = ledger_view.read_snapshot(database, after_tick=4, ticks_max=3, markers_max=2)
    assert [tick.id for tick in later.ticks] == [5]


def test_a_database_without_a_wal_is_read_in_a_directory_that_may_not_be_written(database: Path) -> None:
    insert_ticks(database, 1)
    before = sorted(path.name for path in database.parent.iterdir())
    assert before == ["bot.db"], "the last writer closed it"
    snapshot(database)
    assert sorted(path.name for path in database.parent.iterdir()) == before


def test_a_snapshot_leaves_the_index_of_the_wal_as_it_is(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        for number in range(3):
            writer.execute("INSERT INTO ticks(symbol, price, volume, ts) VALUES ('X', 1.0, 1.0, ?)", (number,))
        index = database.with_name("bot.db-shm").read_bytes()
        # In a process of its own: within one, SQLite shares the mapping that the writer made.
        script = "import sys; from pathlib import Path; from harness.observing.ledger_view import read_snapshot; "
        script += "seen = read_snapshot(Path(sys.argv[1]), after_tick=0, ticks_max=3, markers_max=2); "
        script += "print([tick.ts for tick in seen.ticks])"
        command = [sys.executable, "-c", script, str(database)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[0, 1, 2]\n"
        assert database.with_name("bot.db-shm").read_bytes() == index


def test_after_the_first_commit_what_was_checkpointed_is_read(database: Path) -> None:
    insert_ticks(database, 1)
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("INSERT INTO ticks(symbol, price, volume, ts) VALUES ('X', 2.0, 1.0, 2)")
        assert [tick.id for tick in snapshot(database).ticks] in ([1], [1, 2])
        writer.execute("INSERT INTO ticks(symbol, price, volume, ts) VALUES ('X', 3.0, 1.0, 3)")
        assert [tick.id for tick in snapshot(database).ticks] == [1, 2, 3]


@pytest.mark.parametrize(("version", "age"), [(0, "an older"), (99, "a newer")])
def test_a_schema_that_is_not_understood_is_named(database: Path, version: int, age: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(LedgerUnreadable, match=f"schema version {version}, of {age} engine"):
        snapshot(database)


# --- the counts --------------------------------------------------------------------------------------------


def insert_deeds(path: Path, count: int, symbol: str = "X") -> None:
    """Signals at 1, 2, 3... ms, each third vetoed; and for each other one a fill, bought and sold by turns."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for n in range(1, count + 1):
            connection.execute(
                "INSERT INTO signals(symbol, value, ts, side, price, veto) VALUES (?, 1, ?, 'BUY', '1', ?)",
                (symbol, n, "RISK_CAP" if n % 3 == 0 else None),
            )
            if n % 3:
                connection.execute(
                    "INSERT INTO trades(order_id, seq, symbol, side, qty_exact, price_exact, fees_exact, ts, is_shadow)"
                    " VALUES (?, 0, ?, ?, '1', '1', '0', ?, 1)",
                    (f"{symbol}{n}", symbol, "BUY" if n % 2 else "SELL", n),
                )


@pytest.mark.claim("W5")
def test_what_is_counted_is_what_the_database_holds_since_then(database: Path) -> None:
    insert_deeds(database, 12)
    insert_deeds(database, 5, "Y")
    tally = ledger_view.read_tally(database, symbol="X", since_ms=4)
    assert tally == ledger_view.Tally(since_ms=4, signals=9, vetoed=3, bought=3, sold=3)
    assert ledger_view.read_tally(database, symbol="Z", since_ms=0) == ledger_view.Tally(0, 0, 0, 0, 0)


@pytest.mark.claim("W5")
def test_where_there_are_too_many_a_later_time_is_named(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_deeds(database, 30)
    monkeypatch.setattr(ledger_view, "TALLY_ROWS", 10)
    tally = ledger_view.read_tally(database, symbol="X", since_ms=0)
    with closing(sqlite3.connect(database)) as connection:
        signals = connection.execute("SELECT COUNT(*) FROM signals WHERE ts >= ?", (tally.since_ms,)).fetchone()[0]
        fills = connection.execute("SELECT COUNT(*) FROM trades WHERE ts >= ?", (tally.since_ms,)).fetchone()[0]
    assert tally.since_ms == 21
    assert (tally.signals, tally.bought + tally.sold) == (signals, fills)


# --- whatever lies there -----------------------------------------------------------------------------------

VALUES = (
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=30) | st.text(max_size=30)
    | st.sampled_from([2**63 - 1, -(2**63), "NaN", "Infinity", "1e999999", "-1e999999", "0e999999", "\x00", b"\xff\x00",
                       "9" * 5000, "SHADOW", "BUY", "1.5"])
)  # fmt: skip
"""Anything that SQLite keeps in a column, whatever the column is for."""

READ = {
    "ticks": ("ts", "symbol", "price"),
    "signals": ("ts", "symbol", "side", "price", "veto"),
    "trades": ("ts", "symbol", "side", "price_exact", "fill_price_v0", "qty_exact", "fill_qty_v0", "is_shadow"),
    "positions": ("mode", "symbol", "qty", "price"),
    "orders": ("order_id", "symbol", "side", "qty_exact", "filled_qty"),
}
REST: dict[str, dict[str, object]] = {
    "ticks": {"volume": 1.0}, "signals": {"value": 1.0},
    "trades": {"order_id": "o", "seq": 0, "fees_exact": "0"}, "positions": {"cash": "0", "fees": "0"},
    "orders": {"status": "SUBMITTED", "ts": 1},
}  # fmt: skip


@st.composite
def rows(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    table = draw(st.sampled_from(sorted(READ)))
    return table, {**REST[table], **{column: draw(VALUES) for column in READ[table]}}


@pytest.mark.slow
@pytest.mark.claim("W2")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows(), min_size=1, max_size=5))
@example([("positions", {"mode": "SHADOW", "symbol": "Z", "qty": "NaN", "price": "1", "cash": "0", "fees": "0"})])
@example([("positions", {"mode": "SHADOW", "symbol": "Z", "qty": "1", "price": "1e999999", "cash": "0", "fees": "0"})])
def test_any_row_is_understood_or_left_out_and_counted(
    database: Path, given_rows: list[tuple[str, dict[str, Any]]]
) -> None:
    kept = 0
    with closing(sqlite3.connect(database)) as connection, connection:
        for table in READ:
            connection.execute(f"DELETE FROM {table}")
        for table, row in given_rows:
            sql = f"INSERT OR IGNORE INTO {table}({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
            try:
                stored = connection.execute(sql, tuple(row.values())).rowcount
            except sqlite3.IntegrityError:
                continue
            # An order without an id, and NaN makes one, is the earlier engine's: filled or forgotten long ago.
            nameless = table == "orders" and (row["order_id"] is None or row["order_id"] != row["order_id"])
            kept += 0 if nameless else stored
    seen = ledger_view.read_snapshot(database, after_tick=0, ticks_max=9, markers_max=9)
    shown = [*seen.ticks, *seen.signals, *seen.fills, *seen.holdings, *seen.open_orders]
    assert len(shown) + seen.odd == kept
    for tick in seen.ticks:
        assert (type(tick.ts), type(tick.price), type(tick.symbol)) == (int, float, str)
        assert abs(tick.price) < 1e300
    for marker in (*seen.signals, *seen.fills):
        assert marker.price is None or abs(marker.price) < 1e300
    for held in seen.holdings:
        assert Decimal(held.qty) * Decimal(held.price) < 10**130
    ledger_view.read_tally(database, symbol="X", since_ms=0)


def odd_names(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.mkdir()


@pytest.mark.slow
@pytest.mark.claim("W2")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: (path.unlink(), os.mkfifo(path)), "bot.db: is not a file"),
        (lambda path: os.mkfifo(path.with_name("bot.db-wal")), "bot.db-wal: is not a file"),
        (lambda path: os.mkfifo(path.with_name("bot.db-journal")), "bot.db-journal: is not a file"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "bot.db: is not a file"),
        (odd_names, "bot.db: is not a file"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000), "bot.db: "),
        (lambda path: replace_ticks(path, "SELECT 1 AS id"), "no such column"),
        (lambda path: replace_ticks(path, ENDLESS), "no answer within"),
        (lambda path: long_text(path), "too big"),
    ],
    ids=["FIFO", "FIFO as WAL", "FIFO as journal", "device", "directory", "garbage", "view", "endless view", "long"],
)  # fmt: skip
def test_whatever_lies_there_is_told_in_time(
    database: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object], says: str
) -> None:
    monkeypatch.setattr(ledger_view, "ANSWER_SECS", 0.05)
    spoil(database)
    with pytest.raises(LedgerUnreadable, match=says):
        snapshot(database)


@pytest.mark.claim("K9")
def test_a_look_is_over_within_three_seconds() -> None:
    assert ledger_view.TIMEOUT_SECS + ledger_view.ANSWER_SECS < 3.0


ENDLESS = (
    "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)"
    " SELECT id, id AS ts, 'X' AS symbol, 1.0 AS price FROM n"
)


def replace_ticks(path: Path, view: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE ticks")
        connection.execute(f"CREATE VIEW ticks AS {view}")


def long_text(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO ticks(symbol, price, volume, ts) VALUES (?, 1, 1, 1)", ("x" * 10_000_000,))


@pytest.mark.claim("W2", "K3")
def test_a_read_of_the_controller_ends_in_time_too(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_view, "ANSWER_SECS", 0.05)
    replace_ticks(database, ENDLESS)
    with pytest.raises(LedgerUnreadable, match="no answer within"):
        ledger_view.read_progress(database)
    replace_ticks_back(database)
    with pytest.raises(LedgerUnreadable, match="no whole numbers"):
        ledger_view.read_progress(database)


def replace_ticks_back(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP VIEW ticks")
        connection.execute("CREATE TABLE ticks(id INTEGER PRIMARY KEY, ts)")
        connection.execute("INSERT INTO ticks VALUES (1, 'soon')")


@pytest.mark.claim("D5")
def test_what_a_killed_writer_left_is_read_from_its_wal(database: Path) -> None:
    """Its last commits are in the WAL alone, and nobody is there who could check it in."""
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        " [c.execute('INSERT INTO ticks(symbol, price, volume, ts) VALUES (?, 1, 1, ?)', ('X', n)) for n in range(5)];"
        " os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(database)], check=False).returncode == 9
    assert database.with_name("bot.db-wal").stat().st_size > 0
    before = {path.name: path.read_bytes() for path in database.parent.iterdir()}
    assert [tick.ts for tick in snapshot(database).ticks] == [2, 3, 4]
    assert {path.name: path.read_bytes() for path in database.parent.iterdir()} == before
