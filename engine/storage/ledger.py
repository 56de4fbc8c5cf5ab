"""What the engine remembers: one SQLite file, one writer, any number of readers. Sole importer of sqlite3.

The writer hands over batches. A batch is one transaction, so after any crash it is there or it is not
(D3), and handing over the same batch again changes nothing, because every row has an identity of its own
(I3): a tick its row id and its (source, trade id), a signal, order and fill its event id. That is what
makes the retry after `Busy` and `DiskTrouble` safe even where nobody can tell whether a COMMIT arrived.

Opening is where a file is judged, before anything in it is changed: a directory, a file that is not
SQLite, that this user may not write, that is damaged or that a newer engine wrote is for a human to mend
(`ConfigError`, exit 12); a lock or a full disk may pass (`Crash`, exit 1).

`Ledger` belongs to one thread at a time and blocks it. The pipeline gives it a thread of its own, so that the
trading loop never waits for the disk (I6). `read_ticks` is the exception: it has its own read-only connection
and runs on the event loop.

Bytes are spent with care (docs/contract.md, D3; at most 300 written to disk a tick): integer keys in arrival
order, no index on time. What needs the newest row asks for the highest id.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import quote

import msgspec

from engine.base.events import EXACT, Fill, Mode, Numbering, OrderEvent, OrderStatus, Reason, Side, Signal, Tick
from engine.base.exits import ConfigError, Crash
from engine.storage import dbfile

log = logging.getLogger("engine.storage.ledger")

SCHEMA_VERSION: Final = 3
"""The `PRAGMA user_version` this engine reads and writes; 0: the earlier engine's, or an empty file (D2)."""

BUSY_TIMEOUT_MS_MIN: Final = 1000
"""D1: a shorter wait would turn an ordinary checkpoint by a reader into an error."""

RECENT_EVENT_IDS: Final = 65_536
"""How many of the newest ticks `restore` looks at for textual event ids: enough to recognise what a venue
sends again after a reconnect, and a bounded cost whatever the size of the table."""

QUICK_CHECK_BYTES_MAX: Final = 32 * 1024 * 1024
"""Up to this size the whole file is checked at every start (0.1 s); a larger one only before a migration.
Damage beyond that shows when it is read, and ends the run as `ConfigError`."""

RECENT_TIMES: Final = 256
"""Of how many of a numbering's newest ticks `restore` gives the times, each; before those, of ever fewer. Where there
are more than 16 numberings, of fewer, so that a start stays quick."""

RECENT_TIMES_MIN: Final = 8

HOLES_RESTORED_MAX: Final = 64
"""How many holes `restore` finds between ticks that are ahead of what their stream says of its ids."""

_TRADE_ID_MAX: Final = 2**63 - 1

RECENT_SIGNAL_IDS: Final = 2048
"""How many of the newest signals `restore` names: those of ticks that a crash left above the watermark lie well
within it, and as many an executor remembers."""

PAGE_BYTES: Final = 1024
"""Page size of a new file (an existing one keeps its own). A commit writes every page it touched as a whole,
and a batch of a few hundred rows touches the last page of each table and index. Measured with batches of
100 ticks: 223 B written a tick, 434 with SQLite's default of 4096; the rate is the same within the noise."""

CACHE_KIB: Final = 256
"""SQLite's page cache on the writer's connection. Rows go to the ends of tables and indexes, which is little; the
default of 2000 KiB only made the process grow for its first half million rows, without being faster (B1)."""

WAL_BYTES: Final = 4 * 1024 * 1024
"""How much is in the WAL alone before it is copied into the file: about what SQLite's defaults come to."""

WAL_BYTES_MAX: Final = 2 * WAL_BYTES
"""More than this is copied beside the writer, which then waits for none of it; and a WAL file that is longer although
less of it is needed is cut."""

WAL_ALARM_BYTES: Final = 64 * 1024 * 1024
"""From here on a WAL is told of, and again at each doubling: somebody does not let it be copied."""

CHECKPOINT_PAUSE_SECS: Final = 1.0
"""Between two checkpoints of which the first could not do anything."""

LOOK_PAUSE_SECS: Final = 0.02
"""A batch that follows another so soon is written without a look at the files before. One takes 10 us and hands the
interpreter over to the event loop three times, and there may be a thousand batches a second."""

ASIDE_STOP_SECS: Final = 3.0
"""How long a stop waits for the copy of the WAL that is going on, and then for it to obey."""

ODD_SECS: Final = 1.0
"""How long the file may differ from what its WAL explains. A checkpoint of another process, an operator's shell, writes
pages before it says so."""

PRAGMAS: Final[dict[str, tuple[str, str | int]]] = {
    "journal_mode": ("WAL", "wal"),
    "synchronous": ("NORMAL", 1),
    "temp_store": ("MEMORY", 2),
}
"""D1: what is set on the writer's connection, and what must be read back; busy_timeout is a setting."""


class Unwritten(Exception):
    """Nothing of the batch is on disk. The same batch may be handed over again, as often as it takes (D4)."""


class Busy(Unwritten):
    """Another process held the database for the whole of busy_timeout."""


class DiskTrouble(Unwritten):
    """The disk is full or failing. `reason` is SQLite's name for it, such as SQLITE_FULL."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Batch(msgspec.Struct):
    """What one transaction takes. `numberings` maps a label (`Tick.source`) to the trade ids seen, `labels` to (stream,
    number) where the ids follow in a later batch, `streams` the names of new streams to (source, market), `barred` a
    source's name to the time (ms) before which its venue must not be contacted (N5)."""

    ticks: list[Tick] = []
    signals: list[Signal] = []
    orders: list[OrderEvent] = []
    fills: list[Fill] = []
    numberings: dict[str, Numbering] = {}
    labels: dict[str, tuple[str, int]] = {}
    streams: dict[str, tuple[str, str]] = {}
    barred: dict[str, int] = {}


class Written(msgspec.Struct):
    """What `write` put on disk, in rows. `orders` counts transitions. `ticks_known` are ticks that were
    stored before; the other lists' known rows are only missing from their counts."""

    ticks: int
    ticks_known: int
    signals: int
    orders: int
    fills: int


class Position(msgspec.Struct, frozen=True):
    """The exact sums of all fills of one symbol in one mode, those of replays excluded: quantity held, cash moved,
    fees paid (which are in the cash). `price` is that of the last fill."""

    qty: Decimal
    cash: Decimal
    fees: Decimal
    price: Decimal


class Restored(msgspec.Struct):
    """What a starting engine must know of the runs before it.

    `numberings` are those of all streams (N9, N11); `streams` maps a stream's name to (source, market), None where an
    earlier version did not keep them. `recent_event_ids` maps a stream to its textual ids, oldest first.
    `recent_signal_ids`, oldest first, are those of signals that have been judged, and executed if they passed.
    `open_orders` holds the last transition of every order that neither filled, nor was cancelled or rejected, in order
    of creation.
    """

    next_tick_id: int
    numberings: list[Numbering]
    streams: dict[str, tuple[str, str] | None]
    barred: dict[str, int]
    recent_event_ids: dict[str, list[str]]
    positions: dict[Mode, dict[str, Position]]
    recent_signal_ids: list[str]
    open_orders: list[OrderEvent]


# --- schema ------------------------------------------------------------------------------------------------

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

_OPEN_STATUSES: Final = "('SUBMITTED', 'ACKNOWLEDGED', 'PARTIAL_FILL')"

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
    f"CREATE INDEX orders_open ON orders(id) WHERE status IN {_OPEN_STATUSES} AND order_id IS NOT NULL",
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
        newest = _edge(connection, row_id, "DESC")
        oldest = _edge(connection, row_id, "ASC")
        first, last_ts = (min(oldest[0], last), newest[1]) if oldest and newest else (last, 0)
        connection.execute("UPDATE sources SET first_trade_id = ?, last_ts = ? WHERE id = ?", (first, last_ts, row_id))
    return 0


def _edge(connection: sqlite3.Connection, row_id: int, order: str) -> tuple[int, int] | None:
    """Trade id and time of a stream's tick with the highest ("DESC") or lowest ("ASC") id."""
    found: tuple[int, int] | None = connection.execute(
        f"SELECT trade_id, ts FROM ticks WHERE source = ? AND trade_id IS NOT NULL ORDER BY trade_id {order} LIMIT 1",
        (row_id,),
    ).fetchone()
    return found


_MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection, Path], int], ...]] = (
    _migrate_0_to_1, _migrate_1_to_2, _migrate_2_to_3,
)  # fmt: skip
"""The function at index v takes version v to v + 1, inside a transaction that the caller holds (D2)."""


# --- opening -----------------------------------------------------------------------------------------------

# What a human has to mend. Everything else SQLite can fail with at start may be gone after a restart.
_UNUSABLE: Final = frozenset({
    sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
})  # fmt: skip
OPEN_PATIENCE_SECS: Final = 1.0
"""How long the files beside the database may be beyond us. Another user's reader, such as a healthcheck of root's, that
looks at the database in the moment in which we open it makes them its own before it hands them over."""

OPEN_PAUSE_SECS: Final = 0.01

_BESIDE: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
"""What SQLite says then, depending on whether those files can be read: the database itself was found to be writable."""

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DISK: Final = frozenset({
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
})  # fmt: skip
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code (the low byte of the extended one); 0 for errors of the Python layer."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _refuse(path: Path, error: sqlite3.Error, doing: str) -> NoReturn:
    kind = ConfigError if _primary_code(error) in _UNUSABLE else Crash
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    raise kind(f"{path}: {doing}: {error}", path=str(path), sqlite=name) from error


def _uri(path: Path, mode: str = "ro") -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def _stored_version(path: Path, busy_timeout_ms: int) -> int:
    """The user_version of the file, found without changing a byte of it (D2: a newer one stays untouched).

    The header has it, unless a WAL was left behind: then the newest header is in there, and SQLite reads it
    for us. A writable connection would not do, closing it copies the WAL into the file.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        return 0
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise ConfigError(f"{path}: not an SQLite database", path=str(path), found=header[:16].hex())
    wal = path.with_name(path.name + "-wal")
    if not wal.exists() or wal.stat().st_size == 0:
        return int.from_bytes(header[60:64], "big", signed=True)
    connection = sqlite3.connect(_uri(path), uri=True, timeout=busy_timeout_ms / 1000)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def _check_place(path: Path) -> None:
    """Refuse what no SQLite error would describe as well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a regular file", path=str(path))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ConfigError(f"{path}: directory {path.parent} is not writable", path=str(path))
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise ConfigError(f"{path}: not readable and writable by this user", path=str(path))
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{path}: {error.strerror}: {error.filename}", path=str(path)) from error
    except OSError as error:
        # Its parents are there: it is in /proc or the like, where nobody can make a directory.
        hopeless = error.errno == errno.ENOENT or error.errno in dbfile.FOR_A_HUMAN
        kind = ConfigError if hopeless else Crash
        raise kind(f"{path}: {error.strerror}: {error.filename}", path=str(path)) from error


def _apply_pragmas(connection: sqlite3.Connection, path: Path, busy_timeout_ms: int) -> None:
    """Set what D1 asks for, read it back on the same connection, log it, refuse what differs (G3)."""
    connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
    for name, (value, _) in PRAGMAS.items():
        connection.execute(f"PRAGMA {name} = {value}")
    wanted: dict[str, str | int] = {name: value for name, (_, value) in PRAGMAS.items()}
    wanted["busy_timeout"] = busy_timeout_ms
    found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted}
    # Checkpoints are ours to begin, since a long one must not hold up the writer (`plan_checkpoint`).
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    log.info("PRAGMA verification", extra={"fields": found})
    differing = [name for name, value in wanted.items() if found[name] != value]
    if differing:
        raise ConfigError(
            f"{path}: PRAGMA mismatch: wanted {wanted}, found {found}",
            path=str(path), differing=differing,
        )  # fmt: skip
    log.info("all PRAGMAs verified", extra={"fields": {"path": str(path)}})


def _quick_check(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise ConfigError(f"{path}: damaged database: {verdict}", path=str(path), quick_check=verdict)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Take the schema forward to SCHEMA_VERSION in one transaction; log it when there was anything to do."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the write lock: another process may have migrated since the file was judged.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        _refuse_version(path, version)
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


def _refuse_version(path: Path, version: int) -> None:
    if not 0 <= version <= SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: schema version {version}; this engine knows 0 to {SCHEMA_VERSION}; left as it is",
            path=str(path), version=version, known=SCHEMA_VERSION,
        )  # fmt: skip


class Gap(msgspec.Struct, frozen=True):
    """Trades that a venue numbered and that were never seen (N9). Times are those of the stored ticks around it, in ms
    by the venue's clock; None where there is none."""

    source: str
    market: str
    """As the venue writes it; "" where it is not known."""
    first: int
    last: int
    after_ts: int | None
    before_ts: int | None


def read_gaps(path: str | Path) -> list[Gap]:
    """The holes in each stream's trade ids that the database remembers: the newest 64 of each. Beside a running engine
    too. Raises ConfigError or Crash like `open_ledger`."""
    path = Path(path)
    gaps: list[Gap] = []
    try:
        with closing(sqlite3.connect(_uri(path), uri=True)) as connection:
            rows = connection.execute(
                "SELECT id, coalesce(source, stream, name), market, missing FROM sources WHERE missing IS NOT NULL"
                " ORDER BY id"
            ).fetchall()
            for row_id, source, market, missing in rows:
                for first, last in msgspec.json.decode(missing, type=list[tuple[int, int]]):
                    around = [
                        connection.execute(f"SELECT ts FROM ticks WHERE source = ? AND {edge} LIMIT 1", (row_id, at))
                        for edge, at in (
                            ("trade_id < ? ORDER BY trade_id DESC", first), ("trade_id > ? ORDER BY trade_id", last)
                        )
                    ]  # fmt: skip
                    after, before = (row[0] if (row := found.fetchone()) else None for found in around)
                    gaps.append(Gap(source, market or "", first, last, after, before))
    except sqlite3.Error as error:
        _refuse(path, error, "cannot be read")
    return gaps


def open_ledger(path: str | Path, *, busy_timeout_ms: int, replay: bool = False) -> Ledger:
    """Open or create the database at `path`, verify and migrate it, and log what was found (S1, D1, D2).

    `busy_timeout_ms`: how long one attempt waits for another process's lock, at least BUSY_TIMEOUT_MS_MIN.
    `replay`: what this run derives is marked `replayed`, moves no position, and leaves what other runs derived
    from the same ticks as it is (I3); they in turn take over what only a replay had made.
    Missing parent directories are made. While it is open nobody else can open it so, not even by another name (D6);
    what a lost database has left beside it is set aside with a WARNING (D8). Then logs, in this order: "PRAGMA
    verification", "all PRAGMAs verified", "schema migrated" (only if it was), "initial database state" (the highest
    row ids: counting rows would read the whole table).

    Raises ConfigError for a file no restart can heal, Crash for a lock or a disk that may recover.
    """
    path = Path(path)
    if busy_timeout_ms < BUSY_TIMEOUT_MS_MIN:
        raise ConfigError(
            f"[persist] busy_timeout_ms = {busy_timeout_ms}: at least {BUSY_TIMEOUT_MS_MIN}",
            key="persist.busy_timeout_ms", value=busy_timeout_ms,
        )  # fmt: skip
    _check_place(path)
    files = dbfile.claim(path)
    try:
        for orphan, orphan_bytes in dbfile.set_aside_orphans(path):
            fields = {"path": str(path), "orphan": str(orphan), "bytes": orphan_bytes}
            log.warning("set aside what a database that is gone has left", extra={"fields": fields})
        return _open_patiently(path, busy_timeout_ms, replay, files)
    except OSError as error:
        files.release()
        raise Crash(f"{path}: {error}", path=str(path)) from error
    except BaseException:
        files.release()
        raise


def _open_patiently(path: Path, busy_timeout_ms: int, replay: bool, files: dbfile.DatabaseFile) -> Ledger:
    patience = time.monotonic() + OPEN_PATIENCE_SECS
    while True:
        try:
            return _open(path, busy_timeout_ms, replay, files)
        except sqlite3.Error as error:
            if _primary_code(error) not in _BESIDE or time.monotonic() > patience:
                _refuse(path, error, "cannot be opened")
        time.sleep(OPEN_PAUSE_SECS)


def _open(path: Path, busy_timeout_ms: int, replay: bool, files: dbfile.DatabaseFile) -> Ledger:
    connection: sqlite3.Connection | None = None
    try:
        version = _stored_version(path, busy_timeout_ms) if path.exists() else 0
        _refuse_version(path, version)
        # The writer thread is not the one that opens; `Ledger` is never used by two at once.
        connection = sqlite3.connect(
            path, timeout=busy_timeout_ms / 1000, isolation_level=None, check_same_thread=False
        )
        _apply_pragmas(connection, path, busy_timeout_ms)
        if version < SCHEMA_VERSION or path.stat().st_size <= QUICK_CHECK_BYTES_MAX:
            _quick_check(connection, path)
        if version < SCHEMA_VERSION:
            _migrate(connection, path)
        highest = {
            f"{table}_id_max": connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0] or 0
            for table in _TABLES_V0
        }
        log.info(
            "initial database state",
            extra={"fields": {"path": str(path), "schema_version": SCHEMA_VERSION, **highest}},
        )
        files.open_index()
        return Ledger(path, files, connection, busy_timeout_ms, replay, highest["ticks_id_max"])
    except BaseException:
        if connection is not None:
            connection.close()
        raise


# --- writing -----------------------------------------------------------------------------------------------

# Rows per INSERT. One statement of 32 rows is as quick as one of 512; any number of rows below that takes at most five
# more, and so few distinct texts keep the connection's statement cache warm.
_ROWS_PER_STATEMENT: Final = (32, 16, 8, 4, 2, 1)


class _Insert(msgspec.Struct, frozen=True):
    """A multi-row INSERT: the text before VALUES, the number of columns, the text after the rows.

    ON CONFLICT DO NOTHING, unlike INSERT OR IGNORE, still refuses a NULL where the table has NOT NULL.
    """

    head: str
    width: int
    tail: str


_TICKS: Final = _Insert(
    "INSERT INTO ticks(id, symbol, price, volume, ts, source, trade_id, event_id)",
    8,
    "ON CONFLICT DO NOTHING",
)
_SIGNALS: Final = _Insert(
    "INSERT INTO signals(symbol, kind, value, ts, event_id, tick_id, side, reason, size, price, veto, veto_detail,"
    " replayed)",
    13,
    "ON CONFLICT(event_id) DO UPDATE SET symbol = excluded.symbol, kind = excluded.kind, value = excluded.value,"
    " ts = excluded.ts, tick_id = excluded.tick_id, side = excluded.side, reason = excluded.reason,"
    " size = excluded.size, price = excluded.price, veto = excluded.veto, veto_detail = excluded.veto_detail,"
    " replayed = excluded.replayed WHERE signals.replayed > excluded.replayed",
)
_ORDERS: Final = _Insert(
    "INSERT INTO orders(symbol, side, qty, price, status, ts, order_id, signal_id, mode, is_shadow,"
    " qty_exact, price_exact, filled_qty, seq, reason, updated_ts, replayed)",
    17,
    "ON CONFLICT(order_id) DO UPDATE SET status = excluded.status, filled_qty = excluded.filled_qty,"
    " seq = excluded.seq, reason = excluded.reason,"
    " updated_ts = excluded.updated_ts WHERE excluded.seq > orders.seq",
)
_ORDER_EVENTS: Final = _Insert(
    "INSERT INTO order_events(order_id, seq, status, reason, filled_qty, ts, detail)",
    7,
    "ON CONFLICT DO NOTHING",
)
_FILLS: Final = _Insert(
    "INSERT INTO trades(event_id, order_id, symbol, side, fill_qty, fill_price, fees, ts, is_shadow, mode,"
    " qty_exact, price_exact, fees_exact, cash_delta, replayed)",
    15,
    "ON CONFLICT DO NOTHING",
)


@cache
def _insert_text(insert: _Insert, rows: int) -> str:
    row = "(" + ",".join("?" * insert.width) + ")"
    return f"{insert.head} VALUES {','.join([row] * rows)} {insert.tail}"


def _text(value: Decimal) -> str:
    """The shortest plain notation of the same number: bytes matter, and readers need not know exponents."""
    plain = f"{value:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def plan_checkpoint(left_bytes: int, wal_bytes: int) -> str | None:
    """How to copy a WAL of `wal_bytes` of which `left_bytes` are not in the file yet: None, "PASSIVE" and "TRUNCATE" at
    once, between two batches, or "ASIDE", while the writer goes on.

    A WAL begins anew when all of it is copied and nobody reads it, which takes a moment without writing. So the bulk
    is copied aside, and what was written meanwhile at once.
    """
    if left_bytes > WAL_BYTES_MAX:
        return "ASIDE"
    if wal_bytes > WAL_BYTES_MAX:
        return "TRUNCATE"
    return "PASSIVE" if left_bytes >= WAL_BYTES else None


def wal_alarm_level(wal_bytes: int) -> int:
    """0 below WAL_ALARM_BYTES, 1 from there on, one more with each doubling."""
    return (wal_bytes // WAL_ALARM_BYTES).bit_length()


class Ledger:
    """An open, verified database. Made by `open_ledger`; used by one thread at a time, which it blocks."""

    def __init__(
        self,
        path: Path,
        files: dbfile.DatabaseFile,
        connection: sqlite3.Connection,
        busy_timeout_ms: int,
        replay: bool,
        newest_tick_id: int,
    ) -> None:
        self.path = path
        # The length of the WAL file when it was last looked at. Any thread may read it.
        self.wal_bytes = 0
        self._files = files
        self._connection = connection
        self._busy_timeout_ms = busy_timeout_ms
        self._replay = replay
        # What ended it: the files are not those that were opened any more, or not what we have made of them.
        self._lost: ConfigError | None = None
        self._opened = self._good = files.look()
        self._header = files.header()
        self._odd_since: float | None = None
        self._good_at = time.time()
        self._next_look_at = 0.0
        # Rows committed since.
        self._rows_since = 0
        # The state of the WAL that we left: other salts, or more frames, are another process's doing.
        self._left = self._opened.frames
        self._newest_tick_id = newest_tick_id
        self._aside: threading.Thread | None = None
        self._aside_connection: sqlite3.Connection | None = None
        self._next_checkpoint_at = 0.0
        self._checkpoint_error: str | None = None
        self._alarm_level = 0

    def write(self, batch: Batch) -> Written:
        """Put all of `batch` on disk in one transaction, and say how much of it is new (D3, I3).

        Waits up to busy_timeout for another process's lock. Raises Busy or DiskTrouble when nothing was
        written and the same batch may be tried again (D4); ConfigError when the file turns out damaged, or is not
        where it was any more (D7); Crash when it refuses a row, which no second try can change.
        """
        if time.monotonic() >= self._next_look_at:
            self.look()
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            frames = self._files.frames()
            if not self._files.has_tail(frames):
                self._give_up("has a WAL that was cut off")
            self._notice_others(frames)
            written = self._write_rows(batch)
            connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                self._fail(error)
            raise
        self._rows_since += written.ticks + written.signals + written.orders + written.fills
        if batch.ticks:
            self._newest_tick_id = max(self._newest_tick_id, batch.ticks[-1].id)
        self._left = self._files.frames()
        self._checkpoint(self._left)
        return written

    def look(self) -> None:
        """Make sure that what is written is found under the path (D7), and keep the WAL short (D9).

        Raises ConfigError when the files are not what was opened any more; nothing is written from then on. Raises
        DiskTrouble when they cannot be looked at.
        """
        if self._lost is not None:
            raise self._lost
        try:
            now = self._files.look()
        except (FileNotFoundError, NotADirectoryError) as error:
            self._give_up(f"is not there any more: {error.filename}")
        except OSError as error:
            raise DiskTrouble(f"{self.path}: {error}", errno.errorcode.get(error.errno or 0, "OSError")) from error
        fault = dbfile.find_fault(self._opened, now)
        if fault is not None:
            self._give_up(fault)
        self._judge(now)
        self._next_look_at = time.monotonic() + LOOK_PAUSE_SECS
        if self._odd_since is None:
            self._good_at = time.time()
            self._rows_since = 0
        self._notice_others(now.frames)
        self._watch_wal(now.wal_bytes)
        self._checkpoint(now.frames)

    def _judge(self, now: dbfile.Look) -> None:
        """Tell a change of the contents by SQLite from any other."""
        if self._aside is not None:
            if self._aside.is_alive():
                # It is the one that changes them.
                return
            self._aside = None
            self._end_checkpoint(self._good.frames)
        oddity = dbfile.find_oddity(self._good, now)
        if oddity is None:
            self._accept(now)
        elif self._odd_since is None or self._files.find_checkpointer() is not None:
            self._odd_since = time.monotonic()
        elif time.monotonic() - self._odd_since > ODD_SECS:
            self._give_up(f"{oddity}, and not by SQLite")

    def _accept(self, now: dbfile.Look) -> None:
        if now.database != self._good.database:
            self._header = self._files.header()
        self._good = now
        self._odd_since = None

    def _notice_others(self, now: dbfile.Frames) -> None:
        """Another process may have written. Whatever it wrote, it must not be an older database in place of ours."""
        if (now.salts, now.written) == (self._left.salts, self._left.written):
            return
        try:
            newest = self._connection.execute("SELECT max(id) FROM ticks").fetchone()[0] or 0
        except sqlite3.Error as error:
            self._fail(error)
        if newest < self._newest_tick_id:
            self._give_up(f"was restored over: its newest tick has id {newest}, and {self._newest_tick_id} was written")
        self._left = now

    def _give_up(self, what: str) -> NoReturn:
        """Leave the files as a kill would, and no WAL beside a file that it was not made for."""
        self._next_look_at = 0.0
        self._stop_aside()
        there = self._files.find()
        in_place = there.database == self._opened.database[:2] and self._files.header() == self._header
        rescued = in_place and there.wal != self._opened.wal and there.shm == self._opened.shm and self._rescue()
        # Without its name, closing cannot delete it; interrupted, it cannot copy it.
        aside: Path | None = None
        if there.wal == self._opened.wal or (rescued and there.wal is not None):
            with suppress(OSError):
                aside = dbfile.set_aside(self._files.wal)
        self._connection.interrupt()
        self._connection.close()
        if aside is not None and in_place and not rescued and not self._files.wal.exists():
            aside.rename(self._files.wal)
            aside = None
        since = datetime.fromtimestamp(self._good_at, UTC).isoformat(timespec="milliseconds")
        rows = f"{self._rows_since} rows were committed" if self._rows_since else "nothing was committed"
        saved = "; all that was committed is in the file" if rescued else ""
        self._lost = ConfigError(
            f"{self.path}: the database {what}; {rows} since {since}, when it was last seen as it should be{saved}",
            path=str(self.path), rows=self._rows_since, since=since, wal_set_aside=aside and str(aside),
        )  # fmt: skip
        raise self._lost

    def _rescue(self) -> bool:
        """Copy a WAL that has lost its name into the file. We have it open; nobody will have it after us."""
        return self._copy(self._connection, "PASSIVE") and not self._files.frames().left_bytes

    def _watch_wal(self, wal_bytes: int) -> None:
        self.wal_bytes = wal_bytes
        level = wal_alarm_level(wal_bytes)
        fields = {"path": str(self.path), "wal_bytes": wal_bytes}
        if level > self._alarm_level:
            readers = self._files.find_readers()
            why = self._checkpoint_error or "somebody keeps a read transaction open"
            log.warning(
                "the WAL grows and cannot be cut", extra={"fields": {**fields, "why": why, "reader_pids": readers}}
            )
            self._alarm_level = level
        elif self._alarm_level and not level:
            log.info("the WAL is short again", extra={"fields": fields})
            self._alarm_level = 0

    def _checkpoint(self, frames: dbfile.Frames) -> None:
        how = plan_checkpoint(frames.left_bytes, self.wal_bytes)
        if how is None or self._aside is not None or self._odd_since is not None:
            return
        if time.monotonic() < self._next_checkpoint_at:
            return
        if how == "ASIDE":
            thread = threading.Thread(target=self._copy_aside, name="checkpoint", daemon=True)
            # Where no thread can be had it is tried again later, as after any other failure.
            with suppress(RuntimeError):
                thread.start()
                self._aside = thread
                return
        else:
            self._copy(self._connection, how)
        self._end_checkpoint(frames)

    def _end_checkpoint(self, before: dbfile.Frames) -> None:
        """What it has changed in the files was no other's doing. If it could not do anything, the next one waits."""
        try:
            now = self._files.look()
        except OSError:
            # The next look says so.
            return
        if dbfile.find_fault(self._opened, now) is None:
            self._accept(now)
        if (now.frames.salts, now.frames.copied) == (before.salts, before.copied):
            self._next_checkpoint_at = time.monotonic() + CHECKPOINT_PAUSE_SECS

    def _copy_aside(self) -> None:
        """Copy the WAL on a connection of its own. The writer goes on, and copies nothing itself meanwhile: SQLite
        before 3.51.3 may lose a transaction that begins the WAL anew while another connection begins to copy it, so
        this begins only while there is something left to copy, which keeps the WAL from beginning anew."""
        try:
            with closing(
                sqlite3.connect(_uri(self.path, "rw"), uri=True, isolation_level=None, check_same_thread=False)
            ) as connection:
                self._aside_connection = connection
                connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
                before = self._files.frames().copied
                self._copy(connection, "PASSIVE")
            # What the writer would wait for when it copies the rest and cuts the WAL: SQLite syncs the file only when
            # all of the WAL is in it, and cutting a file takes the longer the more of it is cached.
            if self._files.frames().copied != before:
                self._files.sync()
        except (sqlite3.Error, OSError) as error:
            self._checkpoint_error = str(error)
        finally:
            self._aside_connection = None

    def _copy(self, connection: sqlite3.Connection, how: str) -> bool:
        """Whether a checkpoint could be made. Where it could not, what was committed is in the WAL, and safe."""
        try:
            if how == "TRUNCATE":
                # It would wait for readers as for a lock.
                connection.execute("PRAGMA busy_timeout = 0")
            blocked, _, _ = connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        except sqlite3.Error as error:
            self._checkpoint_error = str(error)
            return False
        finally:
            if how == "TRUNCATE":
                connection.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms}")
        self._checkpoint_error = None
        return not blocked

    def _stop_aside(self, patience_secs: float = 0.0) -> None:
        if self._aside is not None:
            self._aside.join(patience_secs)
            if (connection := self._aside_connection) is not None:
                connection.interrupt()
            self._aside.join(ASIDE_STOP_SECS)

    def restore(self) -> Restored:
        """What earlier runs left: row numbers, watermarks, positions and open orders, at a cost that does not
        grow with the number of ticks. Raises ConfigError or Crash like `open_ledger`."""
        try:
            return self._restore()
        except sqlite3.Error as error:
            _refuse(self.path, error, "cannot be read")

    def written_ms(self) -> int:
        """When the files were last written, by the clock of then. To be asked before this run writes."""
        found = [self.path, self.path.with_name(f"{self.path.name}-wal")]
        return max((file.stat().st_mtime_ns // 1_000_000 for file in found if file.exists()), default=0)

    def lift_bars(self) -> list[str]:
        """Forget that venues want to be left alone (N5). Returns the sources that were barred. Raises ConfigError or
        Crash like `open_ledger`."""
        try:
            barred = self._connection.execute("SELECT name FROM sources WHERE barred_until IS NOT NULL").fetchall()
            self._connection.execute("UPDATE sources SET barred_until = NULL")
        except sqlite3.Error as error:
            _refuse(self.path, error, "cannot be written")
        return [name for (name,) in barred]

    async def read_ticks(self, chunk: int = 2000) -> AsyncGenerator[list[Tick], None]:
        """All ticks stored now, in time order (`ts`, then row id), in lists of at most `chunk`: REPLAY (N2).

        Sees the database as it is at the first read: ticks written meanwhile do not show up. Its connection
        is read-only and keeps temp_store at FILE, so that sorting a large table spills to disk instead of
        memory; the WAL cannot shrink until the generator is exhausted or closed. A tick of the earlier engine
        has the source "". Raises ConfigError or Crash like `open_ledger`.
        """
        import aiosqlite

        try:
            async with (
                aiosqlite.connect(_uri(self.path), uri=True) as connection,
                connection.execute(
                    "SELECT coalesce(sources.name, ''), symbol, price, volume, ts, trade_id, event_id,"
                    " ticks.id FROM ticks LEFT JOIN sources ON sources.id = ticks.source"
                    " ORDER BY ts, ticks.id"
                ) as rows,
            ):
                while found := await rows.fetchmany(chunk):
                    yield [Tick(*row) for row in found]
        except sqlite3.Error as error:
            _refuse(self.path, error, "cannot be read")

    def close(self) -> None:
        """Close the database and let others have it; what was written is safe whether this is called or not.

        The checkpoint is PASSIVE, so a reader in mid-query cannot hold up a stop: TRUNCATE would wait for
        it as long as busy_timeout. Where nobody else has the file open, closing removes the WAL anyway.

        Raises ConfigError when only now it shows that the files are not what they should be (D7).
        """
        try:
            if self._lost is None:
                self._look_for_the_last_time()
                if not self._copy(self._connection, "PASSIVE"):
                    fields = {"path": str(self.path), "error": self._checkpoint_error}
                    log.warning("checkpoint failed", extra={"fields": fields})
                self._connection.close()
        finally:
            self._files.release()

    def _look_for_the_last_time(self) -> None:
        self._stop_aside(ASIDE_STOP_SECS)
        try:
            self.look()
            while self._odd_since is not None:
                time.sleep(OPEN_PAUSE_SECS)
                self.look()
        except Unwritten as error:
            log.warning("the files cannot be looked at", extra={"fields": {"error": str(error)}})
        self._stop_aside(ASIDE_STOP_SECS)

    def _roll_back(self) -> None:
        if self._lost is None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.error("rollback failed", extra={"fields": {"path": str(self.path), "error": str(error)}})

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        code = _primary_code(error)
        if code in _LOCKED:
            raise Busy(f"{self.path}: {error}") from error
        if code in _DISK:
            raise DiskTrouble(f"{self.path}: {error}", error.sqlite_errorname) from error
        if code in _DAMAGED:
            self._give_up(f"cannot be written: {error}")
        _refuse(self.path, error, "cannot be written")

    def _write_rows(self, batch: Batch) -> Written:
        ticks = signals = orders = fills = 0
        # Nothing is cached from batch to batch: what a rolled back transaction wrote must not survive it.
        if batch.streams:
            self._connection.executemany(
                "INSERT INTO sources(name, source, market) VALUES (?, ?, ?)"
                " ON CONFLICT(name) DO UPDATE SET source = excluded.source, market = excluded.market",
                [(name, *owner) for name, owner in batch.streams.items()],
            )
        if batch.labels:
            self._connection.executemany(
                "INSERT INTO sources(name, stream, number) VALUES (?, ?, ?)"
                " ON CONFLICT(name) DO UPDATE SET stream = excluded.stream, number = excluded.number",
                [(label, *whose) for label, whose in batch.labels.items()],
            )
        if batch.numberings:
            self._write_numberings(batch.numberings)
        if batch.barred:
            self._connection.executemany(
                "INSERT INTO sources(name, barred_until) VALUES (?, ?)"
                " ON CONFLICT(name) DO UPDATE SET barred_until = excluded.barred_until",
                batch.barred.items(),
            )
        if batch.ticks:
            ticks = self._write_ticks(batch.ticks)
        if batch.signals:
            signals = self._write_signals(batch.signals)
        if batch.orders or batch.fills:
            theirs = self._orders_of_others(batch)
            if self._replay:
                orders = self._write_orders([event for event in batch.orders if event.order_id not in theirs])
                fills = self._write_fills([fill for fill in batch.fills if fill.order_id not in theirs])
            else:
                self._forget_replayed(theirs)
                orders = self._write_orders(batch.orders)
                fills = self._write_fills(batch.fills)
        return Written(ticks, len(batch.ticks) - ticks, signals, orders, fills)

    def _orders_of_others(self, batch: Batch) -> set[str]:
        """The orders in `batch` that are stored already, by a replay where this run is none, or the other way round."""
        execute = self._connection.execute
        if self._replay:
            stored = "SELECT 1 FROM orders WHERE order_id = ? AND NOT replayed"
        elif execute("SELECT 1 FROM orders WHERE replayed LIMIT 1").fetchone() is None:
            return set()
        else:
            stored = "SELECT 1 FROM orders WHERE order_id = ? AND replayed"
        order_ids = {event.order_id for event in batch.orders} | {fill.order_id for fill in batch.fills}
        return {order_id for order_id in order_ids if execute(stored, (order_id,)).fetchone() is not None}

    def _forget_replayed(self, order_ids: set[str]) -> None:
        for order_id in order_ids:
            # All the ids of an order's fills, and no others: "/" is followed by "0".
            self._connection.execute(
                "DELETE FROM trades WHERE event_id >= ? AND event_id < ?", (f"{order_id}/", f"{order_id}0")
            )
            self._connection.execute("DELETE FROM order_events WHERE order_id = ?", (order_id,))
            self._connection.execute("DELETE FROM orders WHERE order_id = ?", (order_id,))

    def _insert(self, insert: _Insert, values: Sequence[Any]) -> int:
        """Insert the rows laid end to end in `values`; returns how many of them changed the table."""
        execute, width = self._connection.execute, insert.width
        before = self._connection.total_changes
        start, end = 0, len(values)
        for rows in _ROWS_PER_STATEMENT:
            text, step = _insert_text(insert, rows), rows * width
            while end - start >= step:
                execute(text, values[start : start + step])
                start += step
        return self._connection.total_changes - before

    def _write_ticks(self, ticks: list[Tick]) -> int:
        source_ids = self._source_ids(ticks)
        values: list[Any] = []
        for tick in ticks:
            values += (
                tick.id, tick.symbol, tick.price, tick.volume, tick.ts, source_ids[tick.source],
                tick.trade_id, tick.event_id,
            )  # fmt: skip
        return self._insert(_TICKS, values)

    def _write_numberings(self, numberings: Mapping[str, Numbering]) -> None:
        self._connection.executemany(
            "INSERT INTO sources(name, stream, number, first_trade_id, last_trade_id, last_ts, missing)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(name) DO UPDATE SET stream = excluded.stream, number = excluded.number,"
            " first_trade_id = excluded.first_trade_id, last_trade_id = excluded.last_trade_id,"
            " last_ts = excluded.last_ts, missing = coalesce(excluded.missing, missing)",
            [
                (
                    label, one.stream, one.number, one.first, one.last, one.newest_ts,
                    None if one.missing is None else msgspec.json.encode(one.missing).decode(),
                )
                for label, one in numberings.items()
            ],
        )  # fmt: skip

    def _source_ids(self, ticks: list[Tick]) -> dict[str, int]:
        execute = self._connection.execute
        known = {}
        for name in {tick.source for tick in ticks}:
            row = execute("SELECT id FROM sources WHERE name = ?", (name,)).fetchone()
            known[name] = (row or execute("INSERT INTO sources(name) VALUES (?) RETURNING id", (name,)).fetchone())[0]
        return known

    def _write_signals(self, signals: list[Signal]) -> int:
        values: list[Any] = []
        for signal in signals:
            values += (
                signal.symbol, f"{signal.side}:{signal.reason}", signal.confidence, signal.ts,
                signal.event_id, signal.tick_id, signal.side, signal.reason, _text(signal.size),
                _text(signal.price), signal.veto, signal.veto_detail, self._replay,
            )  # fmt: skip
        return self._insert(_SIGNALS, values)

    def _write_orders(self, events: list[OrderEvent]) -> int:
        orders: list[Any] = []
        transitions: list[Any] = []
        for event in events:
            filled = _text(event.filled_qty)
            orders += (
                event.symbol, event.side, float(event.qty), float(event.price), event.status, event.ts,
                event.order_id, event.signal_id, event.mode, event.is_shadow, _text(event.qty),
                _text(event.price), filled, event.seq, event.reason, event.ts, self._replay,
            )  # fmt: skip
            transitions += (
                event.order_id, event.seq, event.status, event.reason, filled, event.ts, event.detail,
            )  # fmt: skip
        self._insert(_ORDERS, orders)
        return self._insert(_ORDER_EVENTS, transitions)

    def _write_fills(self, fills: list[Fill]) -> int:
        # Only a fill that was not there before may move a position. Mostly all are new; if not, each is asked.
        self._connection.execute("SAVEPOINT fills")
        written = self._insert_fills(fills)
        if written < len(fills):
            self._connection.execute("ROLLBACK TO fills")
            fills = [fill for fill in fills if self._insert_fills([fill])]
        self._connection.execute("RELEASE fills")
        if not self._replay:
            self._move_positions(fills)
        return len(fills)

    def _insert_fills(self, fills: list[Fill]) -> int:
        values: list[Any] = []
        for fill in fills:
            values += (
                fill.event_id, fill.order_id, fill.symbol, fill.side, float(fill.qty), float(fill.price),
                float(fill.fees), fill.ts, fill.is_shadow, fill.mode, _text(fill.qty), _text(fill.price),
                _text(fill.fees), _text(fill.cash_delta), self._replay,
            )  # fmt: skip
        return self._insert(_FILLS, values)

    def _move_positions(self, fills: list[Fill]) -> None:
        moved: dict[tuple[str, str], Position] = {}
        for fill in fills:
            key = (fill.mode, fill.symbol)
            before = moved.get(key) or self._position(key)
            moved[key] = Position(
                qty=EXACT.add(before.qty, fill.qty if fill.side is Side.BUY else EXACT.minus(fill.qty)),
                cash=EXACT.add(before.cash, fill.cash_delta),
                fees=EXACT.add(before.fees, fill.fees),
                price=fill.price,
            )
        self._connection.executemany(
            "INSERT INTO positions(mode, symbol, qty, cash, fees, price) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET qty = excluded.qty, cash = excluded.cash, fees = excluded.fees,"
            " price = excluded.price",
            [
                (*key, _text(sums.qty), _text(sums.cash), _text(sums.fees), _text(sums.price))
                for key, sums in moved.items()
            ],
        )

    def _position(self, key: tuple[str, str]) -> Position:
        row = self._connection.execute(
            "SELECT qty, cash, fees, price FROM positions WHERE mode = ? AND symbol = ?", key
        ).fetchone()
        return Position(*map(Decimal, row or ("0", "0", "0", "0")))

    def _restore(self) -> Restored:
        connection = self._connection
        tick_id_max = connection.execute("SELECT max(id) FROM ticks").fetchone()[0] or 0
        streams = {
            name: None if market is None else (source, market)
            for name, source, market in connection.execute("SELECT name, source, market FROM sources WHERE number = 1")
        }
        barred = dict(connection.execute("SELECT name, barred_until FROM sources WHERE barred_until IS NOT NULL"))
        recent: dict[str, list[str]] = {}
        for source, event_id in connection.execute(
            "SELECT sources.name, event_id FROM ticks JOIN sources ON sources.id = ticks.source"
            " WHERE ticks.id > ? AND event_id IS NOT NULL ORDER BY ticks.id",
            (tick_id_max - RECENT_EVENT_IDS,),
        ):
            recent.setdefault(source, []).append(event_id)
        positions: dict[Mode, dict[str, Position]] = {}
        for mode, symbol, *sums in connection.execute("SELECT mode, symbol, qty, cash, fees, price FROM positions"):
            positions.setdefault(Mode(mode), {})[symbol] = Position(*map(Decimal, sums))
        open_orders = [
            OrderEvent(
                order_id=row[0], seq=row[1], signal_id=row[2], symbol=row[3], side=Side(row[4]),
                qty=Decimal(row[5]), price=Decimal(row[6]), filled_qty=Decimal(row[7]),
                status=OrderStatus(row[8]), reason=Reason(row[9]), ts=row[10], is_shadow=bool(row[11]),
                mode=Mode(row[12]),
            )
            for row in connection.execute(
                "SELECT order_id, seq, signal_id, symbol, side, qty_exact, price_exact, filled_qty, status,"
                " reason, updated_ts, is_shadow, mode FROM orders"
                f" WHERE status IN {_OPEN_STATUSES} AND order_id IS NOT NULL AND NOT replayed ORDER BY id"
            )
        ]  # fmt: skip
        newest_signals = connection.execute(
            "SELECT event_id FROM signals WHERE event_id IS NOT NULL AND NOT replayed ORDER BY id DESC LIMIT ?",
            (RECENT_SIGNAL_IDS,),
        ).fetchall()
        signal_ids = [event_id for (event_id,) in reversed(newest_signals)]
        numberings = self._restore_numberings()
        return Restored(tick_id_max + 1, numberings, streams, barred, recent, positions, signal_ids, open_orders)

    def _restore_numberings(self) -> list[Numbering]:
        """What is known of trade ids. Ticks may be ahead of it, when a kill came between them: they tell more."""
        rows = self._connection.execute(
            "SELECT id, name, stream, number, first_trade_id, last_trade_id, last_ts, missing FROM sources"
        ).fetchall()
        times = max(RECENT_TIMES_MIN, RECENT_TIMES * 16 // max(16, len(rows)))
        found = []
        for row_id, name, stream, number, first, last, last_ts, missing in rows:
            newest = _edge(self._connection, row_id, "DESC")
            if last is None and newest is None:
                continue
            oldest = _edge(self._connection, row_id, "ASC") if first is None else None
            if first is None:
                first = oldest[0] if oldest is not None else last
            holes = [] if missing is None else msgspec.json.decode(missing, type=list[tuple[int, int]])
            if newest is not None and (last is None or newest[0] > last):
                holes += self._holes_since(row_id, first if last is None else last)
                last, last_ts = newest[0], max(newest[1], last_ts or 0)
            segments = self._segments(row_id, times)
            found.append(Numbering(stream or name, number, min(first, last), last, last_ts or 0, holes, segments))
        return found

    def _holes_since(self, row_id: int, trade_id: int) -> list[tuple[int, int]]:
        """The newest holes between the ids of a stream's ticks from this id on."""
        rows = self._connection.execute(
            "SELECT trade_id + 1, next - 1 FROM (SELECT trade_id, lead(trade_id) OVER (ORDER BY trade_id) AS next"
            " FROM ticks WHERE source = ? AND trade_id >= ?) WHERE next > trade_id + 1 ORDER BY trade_id DESC LIMIT ?",
            (row_id, trade_id, HOLES_RESTORED_MAX),
        ).fetchall()
        return rows[::-1]

    def _segments(self, row_id: int, times: int) -> list[tuple[int, int, int]]:
        """When a numbering's ids came: of each of the newest ticks, and of ever fewer towards the oldest."""
        ask = "SELECT trade_id, ts FROM ticks WHERE source = ? AND trade_id <= ? ORDER BY trade_id DESC LIMIT ?"
        rows = self._connection.execute(ask, (row_id, _TRADE_ID_MAX, times)).fetchall()
        step = times
        while len(rows) >= times:
            step *= 2
            row = self._connection.execute(ask, (row_id, rows[-1][0] - step, 1)).fetchone()
            if row is None:
                break
            rows.append(row)
        segments = []
        before = 0
        for trade_id, ts in reversed(rows):
            segments.append((trade_id, min(before, ts), max(before, ts)))
            before = ts
        return segments
