"""The schema, and how an older one becomes it: forward only, in one transaction (D2).

Bytes are spent with care (docs/contract.md, D3; at most 300 written to disk a tick): integer keys in arrival
order, no index on time. What needs the newest row asks for the highest id.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine.base.exits import ConfigError

log = logging.getLogger("engine.storage.ledger")

SCHEMA_VERSION: Final = 4
"""The `PRAGMA user_version` this engine reads and writes; 0: the earlier engine's, or an empty file (D2)."""

# The earlier engine's tables: column, declaration in a new table, declaration where an old table lacks it
# (SQLite adds a NOT NULL column only with a default). None: without that column the file is not one of ours.
_TABLES_V0: Final[dict[str, tuple[tuple[str, str, str | None], ...]]] = {
    "ticks": (
        ("id", "INTEGER PRIMARY KEY", None),
        ("symbol", "TEXT NOT NULL", "TEXT NOT NULL DEFAULT ''"),
        ("price", "REAL NOT NULL", "REAL NOT NULL DEFAULT 0"),
        ("volume", "REAL NOT NULL", "REAL NOT NULL DEFAULT 0"),
        ("ts", "INTEGER NOT NULL", "INTEGER NOT NULL DEFAULT 0"),
    ),
    "signals": (
        ("id", "INTEGER PRIMARY KEY", None),
        ("symbol", "TEXT NOT NULL", "TEXT NOT NULL DEFAULT ''"),
        ("kind", "TEXT NOT NULL", "TEXT NOT NULL DEFAULT ''"),
        ("value", "REAL NOT NULL", "REAL NOT NULL DEFAULT 0"),
        ("ts", "INTEGER NOT NULL", "INTEGER NOT NULL DEFAULT 0"),
    ),
    "orders": (
        ("id", "INTEGER PRIMARY KEY", None),
        ("symbol", "TEXT NOT NULL", "TEXT NOT NULL DEFAULT ''"),
        ("side", "TEXT NOT NULL", "TEXT NOT NULL DEFAULT ''"),
        ("qty", "REAL NOT NULL", "REAL NOT NULL DEFAULT 0"),
        ("price", "REAL", "REAL"),
        ("status", "TEXT NOT NULL", "TEXT NOT NULL DEFAULT ''"),
        ("ts", "INTEGER NOT NULL", "INTEGER NOT NULL DEFAULT 0"),
    ),
    "trades": (
        ("id", "INTEGER PRIMARY KEY", None),
        ("event_id", "TEXT NOT NULL UNIQUE", "TEXT"),
        ("order_id", "TEXT NOT NULL", "TEXT NOT NULL DEFAULT ''"),
        ("symbol", "TEXT NOT NULL", "TEXT NOT NULL DEFAULT ''"),
        ("side", "TEXT NOT NULL", "TEXT NOT NULL DEFAULT ''"),
        ("fill_qty", "REAL NOT NULL", "REAL NOT NULL DEFAULT 0"),
        ("fill_price", "REAL NOT NULL", "REAL NOT NULL DEFAULT 0"),
        ("fees", "REAL NOT NULL", "REAL NOT NULL DEFAULT 0"),
        ("ts", "INTEGER NOT NULL", "INTEGER NOT NULL DEFAULT 0"),
        ("is_shadow", "INTEGER NOT NULL DEFAULT 1", "INTEGER NOT NULL DEFAULT 1"),
    ),
}

TABLES: Final = tuple(_TABLES_V0)
"""The tables that grow with the flow; each has an integer id in order of arrival."""

# What version 1 adds. The REAL columns stay for readers; the *_exact texts are the decimals themselves (R5).
# `replayed` is 1 in what only a replay has made: it is in no position and in no open order.
_COLUMNS_V1: Final[dict[str, dict[str, str]]] = {
    "ticks": {"source": "INTEGER", "trade_id": "INTEGER", "event_id": "TEXT"},
    "signals": {
        "event_id": "TEXT",
        "tick_id": "INTEGER",
        "side": "TEXT",
        "reason": "TEXT",
        "size": "TEXT",
        "price": "TEXT",
        "veto": "TEXT",
        "veto_detail": "TEXT",
        "replayed": "INTEGER NOT NULL DEFAULT 0",
    },
    "orders": {
        "order_id": "TEXT",
        "signal_id": "TEXT",
        "mode": "TEXT",
        "is_shadow": "INTEGER NOT NULL DEFAULT 1",
        "qty_exact": "TEXT",
        "price_exact": "TEXT",
        "filled_qty": "TEXT",
        "seq": "INTEGER",
        "reason": "TEXT",
        "updated_ts": "INTEGER",
        "replayed": "INTEGER NOT NULL DEFAULT 0",
    },
    "trades": {
        "mode": "TEXT",
        "qty_exact": "TEXT",
        "price_exact": "TEXT",
        "fees_exact": "TEXT",
        "cash_delta": "TEXT",
        "replayed": "INTEGER NOT NULL DEFAULT 0",
    },
}

OPEN_STATUSES: Final = "('SUBMITTED', 'ACKNOWLEDGED', 'PARTIAL_FILL')"
"""In SQL: of an order that a venue may still fill."""

_STATEMENTS_V1: Final = (
    "CREATE TABLE sources(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last_trade_id INTEGER)",
    """CREATE TABLE order_events(order_id TEXT NOT NULL, seq INTEGER NOT NULL, status TEXT NOT NULL,
       reason TEXT NOT NULL, filled_qty TEXT NOT NULL, ts INTEGER NOT NULL, detail TEXT,
       PRIMARY KEY(order_id, seq)) WITHOUT ROWID""",
    """CREATE TABLE positions(mode TEXT NOT NULL, symbol TEXT NOT NULL, qty TEXT NOT NULL, cash TEXT NOT NULL,
       fees TEXT NOT NULL, price TEXT NOT NULL, PRIMARY KEY(mode, symbol)) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX ticks_by_trade_id ON ticks(source, trade_id) WHERE trade_id IS NOT NULL",
    "CREATE UNIQUE INDEX ticks_by_event_id ON ticks(source, event_id) WHERE event_id IS NOT NULL",
    "CREATE UNIQUE INDEX signals_by_event_id ON signals(event_id)",
    "CREATE UNIQUE INDEX orders_by_order_id ON orders(order_id)",
    # The earlier engine's orders have no order_id and were filled or forgotten long ago.
    f"CREATE INDEX orders_open ON orders(id) WHERE status IN {OPEN_STATUSES} AND order_id IS NOT NULL",
    "CREATE INDEX orders_replayed ON orders(order_id) WHERE replayed",
    # A fill's event_id begins with its order's id and has a unique index; a second one would say no more.
    "DROP INDEX IF EXISTS idx_trades_order_id",
)


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, tuple[str, bool, bool, bool]]:
    """Column name -> (type, NOT NULL, has a default, is the primary key); empty without such a table."""
    rows = connection.execute(f'PRAGMA table_info("{table}")')
    return {name: (type_.upper(), bool(nn), default is not None, pk == 1) for _, name, type_, nn, default, pk in rows}


def _adopt_table(connection: sqlite3.Connection, path: Path, table: str) -> None:
    """Make `table` the earlier engine's (keeping what it has beyond that), then add version 1's columns."""
    declared = _TABLES_V0[table]
    found = _columns(connection, table)
    if not found:
        columns = {name: declaration for name, declaration, _ in declared} | _COLUMNS_V1[table]
        body = ", ".join(f"{name} {declaration}" for name, declaration in columns.items())
        connection.execute(f"CREATE TABLE {table}({body})")
        return
    type_, _, _, is_key = found.get("id", ("missing", False, False, False))
    if type_ != "INTEGER" or not is_key:
        raise ConfigError(
            f"{path}: table {table}: column id is {type_}, it must be INTEGER PRIMARY KEY",
            path=str(path), table=table, column="id",
        )  # fmt: skip
    ours = {name: addition for name, _, addition in declared if addition is not None} | _COLUMNS_V1[table]
    for name, (_, not_null, has_default, is_key) in found.items():
        if name not in ours and not_null and not has_default and not is_key:
            raise ConfigError(
                f"{path}: table {table}: column {name} is NOT NULL without a default, and is not one of ours;"
                " the engine could not add rows",
                path=str(path), table=table, column=name,
            )  # fmt: skip
    for name, addition in ours.items():
        if name not in found:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {addition}")


def _has_unique(connection: sqlite3.Connection, table: str, column: str) -> bool:
    for _, name, unique, _, partial in connection.execute(f'PRAGMA index_list("{table}")').fetchall():
        if unique and not partial:
            indexed = [row[2] for row in connection.execute(f'PRAGMA index_info("{name}")')]
            if indexed == [column]:
                return True
    return False


def _migrate_0_to_1(connection: sqlite3.Connection, path: Path) -> int:
    """The earlier engine's database, or an empty file, becomes version 1. Returns the rows carried over.

    `ts` goes from seconds to milliseconds; indexes on it go away, because they cost a tick more bytes than
    its price does. Positions start from zero: that engine booked every fill at a constant 100.0 (contract
    section 12), so the sum of its fills says nothing.
    """
    for index, sql in connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'").fetchall():
        columns = [row[2] for row in connection.execute(f'PRAGMA index_info("{index}")')]
        if sql is not None and columns == ["ts"]:
            connection.execute(f'DROP INDEX "{index}"')
    rows = 0
    for table in _TABLES_V0:
        _adopt_table(connection, path, table)
        rows += connection.execute(f"UPDATE {table} SET ts = ts * 1000").rowcount
    connection.execute(
        "UPDATE signals SET side = substr(kind, 1, instr(kind, ':') - 1),"
        " reason = substr(kind, instr(kind, ':') + 1) WHERE instr(kind, ':') > 0"
    )
    if not _has_unique(connection, "trades", "event_id"):
        try:
            connection.execute("CREATE UNIQUE INDEX trades_by_event_id ON trades(event_id)")
        except sqlite3.IntegrityError as error:
            raise ConfigError(
                f"{path}: table trades: column event_id holds the same id twice",
                path=str(path), table="trades", column="event_id",
            ) from error  # fmt: skip
    for statement in _STATEMENTS_V1:
        connection.execute(statement)
    return rows


def _migrate_1_to_2(connection: sqlite3.Connection, path: Path) -> int:
    """Sources remember until when their venue wants to be left alone (N5)."""
    connection.execute("ALTER TABLE sources ADD COLUMN barred_until INTEGER")
    return 0


def _migrate_2_to_3(connection: sqlite3.Connection, path: Path) -> int:
    """Sources become streams: each market and each numbering of a source has a row (N11, N12). What was a source's
    watermark becomes its first numbering."""
    for column in (
        "source TEXT", "market TEXT", "stream TEXT", "number INTEGER NOT NULL DEFAULT 1", "first_trade_id INTEGER",
        "last_ts INTEGER", "missing TEXT",
    ):  # fmt: skip
        connection.execute(f"ALTER TABLE sources ADD COLUMN {column}")
    for row_id, last in connection.execute(
        "SELECT id, last_trade_id FROM sources WHERE last_trade_id IS NOT NULL"
    ).fetchall():
        newest = find_edge(connection, row_id, "DESC")
        oldest = find_edge(connection, row_id, "ASC")
        first, last_ts = (min(oldest[0], last), newest[1]) if oldest and newest else (last, 0)
        connection.execute("UPDATE sources SET first_trade_id = ?, last_ts = ? WHERE id = ?", (first, last_ts, row_id))
    return 0


def _migrate_3_to_4(connection: sqlite3.Connection, path: Path) -> int:
    """A textual id is a trade's only with its time (N11); what a numbering saw first has a time too; and it is a host
    that wants to be left alone (N5). Which host an earlier bar is of only the sources file can tell: it stays under the
    source's name."""
    connection.execute("DROP INDEX ticks_by_event_id")
    connection.execute(
        "CREATE UNIQUE INDEX ticks_by_event_id ON ticks(source, event_id, ts) WHERE event_id IS NOT NULL"
    )
    connection.execute("ALTER TABLE sources ADD COLUMN first_ts INTEGER")
    connection.execute(
        "UPDATE sources SET first_ts = (SELECT ts FROM ticks WHERE ticks.source = sources.id AND trade_id IS NOT NULL"
        " ORDER BY trade_id LIMIT 1)"
    )
    connection.execute("CREATE TABLE bars(host TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID")
    connection.execute(
        "INSERT INTO bars(host, until) SELECT name, barred_until FROM sources WHERE barred_until IS NOT NULL"
    )
    connection.execute("ALTER TABLE sources DROP COLUMN barred_until")
    return 0


def find_edge(connection: sqlite3.Connection, row_id: int, order: str) -> tuple[int, int] | None:
    """Trade id and time of a stream's tick with the highest ("DESC") or lowest ("ASC") id."""
    found: tuple[int, int] | None = connection.execute(
        f"SELECT trade_id, ts FROM ticks WHERE source = ? AND trade_id IS NOT NULL ORDER BY trade_id {order} LIMIT 1",
        (row_id,),
    ).fetchone()
    return found


_MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection, Path], int], ...]] = (
    _migrate_0_to_1, _migrate_1_to_2, _migrate_2_to_3, _migrate_3_to_4,
)  # fmt: skip
"""The function at index v takes version v to v + 1, inside a transaction that the caller holds (D2)."""


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Take the schema forward to SCHEMA_VERSION in one transaction; log it when there was anything to do."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the write lock: another process may have migrated since the file was judged.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        refuse_version(path, version)
        rows = 0
        for step in _MIGRATIONS[version:]:
            rows += step(connection, path)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    if version != SCHEMA_VERSION:
        log.info(
            "schema migrated",
            extra={"fields": {"from_version": version, "to_version": SCHEMA_VERSION, "rows": rows}},
        )


def refuse_version(path: Path, version: int) -> None:
    """Raise ConfigError for a schema that this engine does not know."""
    if not 0 <= version <= SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: schema version {version}; this engine knows 0 to {SCHEMA_VERSION}; left as it is",
            path=str(path), version=version, known=SCHEMA_VERSION,
        )  # fmt: skip
