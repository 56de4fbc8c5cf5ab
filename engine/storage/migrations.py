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

from engine.base.events import Mode
from engine.base.exits import ConfigError

log = logging.getLogger("engine.storage.ledger")

_STEPS_PER_CALL: Final = 100_000
"""Steps of SQLite's virtual machine between two calls of `going_on`: some milliseconds."""

SCHEMA_VERSION: Final = 5
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

ORDERS_PER_SIGNAL: Final = 4
"""An order's id is its signal's times this, and ORDER_OF_MODE: one signal makes one order in each mode at most."""

ORDER_OF_MODE: Final = {Mode.SHADOW: 0, Mode.PAPER: 1, Mode.LIVE: 2}

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
    that wants to be left alone (N5). Which host an earlier bar is of only the sources file can tell."""
    connection.execute("DROP INDEX ticks_by_event_id")
    connection.execute(
        "CREATE UNIQUE INDEX ticks_by_event_id ON ticks(source, event_id, ts) WHERE event_id IS NOT NULL"
    )
    connection.execute("ALTER TABLE sources ADD COLUMN first_ts INTEGER")
    connection.execute(
        "UPDATE sources SET first_ts = (SELECT ts FROM ticks WHERE ticks.source = sources.id AND trade_id IS NOT NULL"
        " ORDER BY trade_id LIMIT 1)"
    )
    connection.execute("ALTER TABLE sources ADD COLUMN barred_host TEXT")
    return 0


# Version 5 says each thing once (docs/performance.md). What can be derived is a generated column, which takes no room;
# an order's row has its latest transition; an order is known by its id, which is made of its signal's, and a fill by
# the transition that reports it, so that neither needs an index. `*_v0` are what the earlier engine said in its own
# rows. Beside each table: how a column comes from those of version 4, where it is not the same.
_REBUILT_V5: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "signals": (
        """id INTEGER PRIMARY KEY, symbol TEXT NOT NULL, value REAL NOT NULL, ts INTEGER NOT NULL, event_id TEXT,
           tick_id INTEGER, side TEXT, reason TEXT, size TEXT, price TEXT, veto TEXT, veto_detail TEXT,
           replayed INTEGER NOT NULL DEFAULT 0, kind_v0 TEXT,
           kind TEXT AS (coalesce(kind_v0, side || ':' || reason))""",
        {
            # The orders of the earlier engine keep their ids, and no other order may get one of those.
            "id": f"""CASE WHEN event_id IS NULL THEN id ELSE id + max(0,
                      (SELECT coalesce(max(id), 0) FROM orders WHERE order_id IS NULL) / {ORDERS_PER_SIGNAL} + 1
                      - (SELECT min(id) FROM signals WHERE event_id IS NOT NULL)) END""",
            "kind_v0": "CASE WHEN kind IS NOT side || ':' || reason THEN kind END",
        },
    ),
    "orders": (
        """id INTEGER PRIMARY KEY, symbol TEXT NOT NULL, side TEXT NOT NULL, status TEXT NOT NULL, ts INTEGER NOT NULL,
           order_id TEXT, is_shadow INTEGER NOT NULL DEFAULT 1, qty_exact TEXT, price_exact TEXT, filled_qty TEXT,
           seq INTEGER, reason TEXT, updated_ts INTEGER, replayed INTEGER NOT NULL DEFAULT 0, detail TEXT, qty_v0 REAL,
           price_v0 REAL,
           qty REAL AS (coalesce(qty_v0, CAST(qty_exact AS REAL))),
           price REAL AS (coalesce(price_v0, CAST(price_exact AS REAL))),
           mode TEXT AS (upper(substr(order_id, 1, instr(order_id, '-') - 1))),
           signal_id TEXT AS (substr(order_id, instr(order_id, '-') + 1))""",
        {
            "id": f"""CASE WHEN order_id IS NULL THEN id ELSE coalesce(
                      (SELECT s.id FROM signals s WHERE s.event_id = orders.signal_id),
                      (SELECT coalesce(max(id), 0) FROM signals) + orders.id) * {ORDERS_PER_SIGNAL}
                      + CASE mode {" ".join(f"WHEN '{mode}' THEN {n}" for mode, n in ORDER_OF_MODE.items())} END END""",
            "detail": "(SELECT e.detail FROM order_events e WHERE e.order_id = orders.order_id AND e.seq = orders.seq)",
            "qty_v0": "CASE WHEN order_id IS NULL THEN qty END",
            "price_v0": "CASE WHEN order_id IS NULL THEN price END",
        },
    ),
    "trades": (
        """id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, seq INTEGER, symbol TEXT NOT NULL, side TEXT NOT NULL,
           ts INTEGER NOT NULL, is_shadow INTEGER NOT NULL DEFAULT 1, qty_exact TEXT, price_exact TEXT, fees_exact TEXT,
           cash_delta TEXT, replayed INTEGER NOT NULL DEFAULT 0, event_id_v0 TEXT, fill_qty_v0 REAL, fill_price_v0 REAL,
           fees_v0 REAL,
           event_id TEXT AS (coalesce(event_id_v0, order_id || '/' || seq)),
           fill_qty REAL AS (coalesce(fill_qty_v0, CAST(qty_exact AS REAL))),
           fill_price REAL AS (coalesce(fill_price_v0, CAST(price_exact AS REAL))),
           fees REAL AS (coalesce(fees_v0, CAST(fees_exact AS REAL))),
           mode TEXT AS (CASE WHEN seq IS NOT NULL THEN upper(substr(order_id, 1, instr(order_id, '-') - 1)) END)""",
        {
            "seq": "CASE WHEN mode IS NOT NULL THEN CAST(substr(event_id, length(order_id) + 2) AS INTEGER) END",
            "event_id_v0": "CASE WHEN mode IS NULL THEN event_id END",
            "fill_qty_v0": "CASE WHEN mode IS NULL THEN fill_qty END",
            "fill_price_v0": "CASE WHEN mode IS NULL THEN fill_price END",
            "fees_v0": "CASE WHEN mode IS NULL THEN fees END",
        },
    ),
}

_STATEMENTS_V5: Final = (
    "ALTER TABLE order_events RENAME TO earlier_order_events",
    "DELETE FROM earlier_order_events WHERE (order_id, seq) IN (SELECT order_id, seq FROM orders)",
    """CREATE VIEW order_events AS
       SELECT order_id, seq, status, reason, filled_qty, ts, detail FROM earlier_order_events UNION ALL
       SELECT order_id, seq, status, reason, filled_qty, updated_ts, detail FROM orders WHERE order_id IS NOT NULL""",
    "CREATE INDEX trades_replayed ON trades(order_id) WHERE replayed",
)


def _migrate_4_to_5(connection: sqlite3.Connection, path: Path) -> int:
    """What can be derived of signals, orders and fills is stored no more; all columns can still be read."""
    for index in ("trades_by_event_id", "orders_by_order_id", "orders_replayed"):
        connection.execute(f"DROP INDEX IF EXISTS {index}")
    # Views of somebody else's speak of our tables by their names, and mean the new ones from now on.
    connection.execute("PRAGMA legacy_alter_table = ON")
    try:
        rows = sum(_rebuild(connection, path, table, *plan) for table, plan in _REBUILT_V5.items())
    finally:
        connection.execute("PRAGMA legacy_alter_table = OFF")
    for statement in _STATEMENTS_V5:
        connection.execute(statement)
    return rows


def _rebuild(connection: sqlite3.Connection, path: Path, table: str, body: str, derived: dict[str, str]) -> int:
    """Make `table` anew with `body`; `derived` says how a column comes from those of the old one. Columns, indexes and
    triggers of others are kept. Returns the rows copied."""
    connection.execute(f"CREATE TABLE rebuilt({body})")
    ours = {row[1] for row in connection.execute("PRAGMA table_xinfo(rebuilt)")}
    columns = list(_columns(connection, "rebuilt"))
    theirs = connection.execute(f'PRAGMA table_xinfo("{table}")').fetchall()
    for _, name, type_, not_null, default, _, hidden in theirs:
        if name in ours:
            continue
        if hidden:
            raise ConfigError(
                f"{path}: table {table}: column {name} is generated, and is not one of ours; the engine cannot keep it",
                path=str(path), table=table, column=name,
            )  # fmt: skip
        declaration = f"{type_}{' NOT NULL' if not_null else ''}{'' if default is None else f' DEFAULT {default}'}"
        connection.execute(f'ALTER TABLE rebuilt ADD COLUMN "{name}" {declaration}')
        columns.append(name)
    beside = [
        sql
        for (sql,) in connection.execute(
            "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL",
            (table,),
        )
    ]
    found = {row[1] for row in theirs}
    given = [name for name in columns if name in found or name in derived]
    named = ", ".join(f'"{name}"' for name in given)
    values = ", ".join(derived.get(name, f'"{name}"') for name in given)
    rows = connection.execute(f"INSERT INTO rebuilt({named}) SELECT {values} FROM {table} ORDER BY id").rowcount
    connection.execute(f"DROP TABLE {table}")
    connection.execute(f"ALTER TABLE rebuilt RENAME TO {table}")
    for sql in beside:
        connection.execute(sql)
    return rows


def find_edge(connection: sqlite3.Connection, row_id: int, order: str) -> tuple[int, int] | None:
    """Trade id and time of a stream's tick with the highest ("DESC") or lowest ("ASC") id."""
    found: tuple[int, int] | None = connection.execute(ask_edge(order), (row_id,)).fetchone()
    return found


def ask_edge(order: str) -> str:
    """The query of `find_edge`, about the id of a row of `sources`."""
    return f"SELECT trade_id, ts FROM ticks WHERE source = ? AND trade_id IS NOT NULL ORDER BY trade_id {order} LIMIT 1"


_MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection, Path], int], ...]] = (
    _migrate_0_to_1, _migrate_1_to_2, _migrate_2_to_3, _migrate_3_to_4, _migrate_4_to_5,
)  # fmt: skip
"""The function at index v takes version v to v + 1, inside a transaction that the caller holds (D2)."""


def migrate(connection: sqlite3.Connection, path: Path, going_on: Callable[[], None]) -> None:
    """Take the schema forward to SCHEMA_VERSION in one transaction; log it when there was anything to do. `going_on` is
    called now and then while it takes, which is 20 s of the processor for a million orders."""
    # What is sorted may be as large as an index.
    connection.execute("PRAGMA temp_store = FILE")
    connection.set_progress_handler(going_on, _STEPS_PER_CALL)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the write lock: another process may have migrated since the file was judged.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        refuse_version(path, version)
        # A row that two steps carry over is one row.
        rows = max((step(connection, path) for step in _MIGRATIONS[version:]), default=0)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.set_progress_handler(None, 0)
        connection.execute("PRAGMA temp_store = MEMORY")
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
