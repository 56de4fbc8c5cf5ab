"""Read the engine's database without writing, at a cost that does not grow with its tables (D5, K3).

Each read opens and closes its own connection, so that a database that was replaced is seen as it is, and no open
read transaction keeps the engine's WAL from shrinking.

`read_progress` is for those who may write beside the database, as the controller does. `read_snapshot` needs no more
than to read the files: it maps the WAL's index read-only, so that it cannot leave a byte behind whoever runs it.

Whatever lies there, a read ends in time and either returns what it found or raises LedgerUnreadable: SQLite keeps any
value in any column, and a file of that name may be anything. What the engine never writes is left out and counted.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from harness.base import jsontext
from harness.base.clock import OsClock
from harness.base.errors import HarnessError
from harness.observing.stall import Progress

NEWEST = "SELECT id, ts FROM ticks ORDER BY id DESC LIMIT 1"
"""`id` is the table's own key, so this is one step to its end."""

T = TypeVar("T")
Row = tuple[Any, ...]

TIMEOUT_SECS = 1.0
"""Readers do not wait for the writer in WAL mode; this is for the moment in which somebody recovers the WAL."""

ANSWER_SECS = 1.0
"""A read whose answers take longer is given up: those of the engine's own tables take a millisecond."""

ROW_BYTES_MAX = 20_000
"""A database with a longer row or value at its end is not read; the engine's rows have some hundred bytes."""

DIGITS_MAX = 60
"""Before or behind the point of an exact decimal; the engine's have 18 at most."""

TEXT_MAX = 200
"""Characters of a symbol, a side or a mode; the engine's are far shorter."""

SNAPSHOT_LOCK_SECS = 0.25
"""How long a snapshot waits for a database that somebody holds exclusively: less than the page's refresh."""

SCHEMA_VERSIONS = (1, 2, 3, 4, 5)
"""The values of `PRAGMA user_version` whose tables a snapshot understands (D2)."""

OPEN_ORDERS_MAX = 1000
"""No more open orders than this are read: far above any sensible `max_open_orders`."""

POSITIONS_MAX = 20_000
"""No more positions than this are read: an engine holds 16,384 symbols at most (B5)."""

_TICKS = "SELECT id, ts, symbol, price FROM ticks WHERE id > ? ORDER BY id DESC LIMIT ?"
_SIGNALS = "SELECT ts, symbol, side, price, veto FROM signals ORDER BY id DESC LIMIT ?"
_FILLS = "SELECT ts, symbol, side, fill_price, fill_qty, is_shadow FROM trades ORDER BY id DESC LIMIT ?"
_POSITIONS = f"SELECT mode, symbol, qty, price FROM positions LIMIT {POSITIONS_MAX}"
# The index holds open orders only, so that closed ones cost nothing; left to itself SQLite may take another.
_OPEN_ORDERS = (
    "SELECT mode, symbol, side, qty_exact, filled_qty FROM orders INDEXED BY orders_open"
    " WHERE status IN ('SUBMITTED', 'ACKNOWLEDGED', 'PARTIAL_FILL') AND order_id IS NOT NULL LIMIT ?"
)

SNAPSHOT_QUERIES = (_TICKS, _SIGNALS, _FILLS, _POSITIONS, _OPEN_ORDERS)
"""Every query of a snapshot, in this order; none of them costs more when a table grows."""

TALLY_ROWS = 5000
"""So many of the newest signals and fills are counted, at most."""

_SIGNALS_FROM = "SELECT ts FROM signals ORDER BY id DESC LIMIT 1 OFFSET ?"
_FILLS_FROM = "SELECT ts FROM trades ORDER BY id DESC LIMIT 1 OFFSET ?"
_SIGNAL_TALLY = (
    "SELECT COUNT(*), COUNT(CASE WHEN veto <> '' THEN 1 END)"
    " FROM (SELECT symbol, ts, veto FROM signals ORDER BY id DESC LIMIT ?) WHERE symbol = ? AND ts BETWEEN ? AND ?"
)
_FILL_TALLY = (
    "SELECT COUNT(CASE side WHEN 'BUY' THEN 1 END), COUNT(CASE side WHEN 'SELL' THEN 1 END)"
    " FROM (SELECT symbol, ts, side FROM trades ORDER BY id DESC LIMIT ?) WHERE symbol = ? AND ts BETWEEN ? AND ?"
)

TALLY_QUERIES = (_SIGNALS_FROM, _FILLS_FROM, _SIGNAL_TALLY, _FILL_TALLY)
"""Every query of a tally; likewise."""

_TS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""


class LedgerUnreadable(HarnessError):
    """The database is not there, or is not one that can be read. Says nothing about whether the engine lives."""


def read_progress(path: Path) -> Progress:
    """Read the newest tick of the database at `path`. Raises LedgerUnreadable, which names the file and the reason."""
    _expect_files(path)
    try:
        with _connected(path, "mode=ro", TIMEOUT_SECS, ANSWER_SECS) as connection:
            row = connection.execute(NEWEST).fetchone()
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    if row is None:
        return Progress(0, None)
    tick_id, ts = jsontext.whole(row[0]), jsontext.whole(row[1])
    if tick_id is None or ts is None:
        raise LedgerUnreadable(f"{path}: id and time of the newest tick are no whole numbers")
    return Progress(tick_id, ts)


@dataclass(frozen=True)
class StoredTick:
    """One row of `ticks`."""

    id: int
    ts: int
    """Milliseconds since the Unix epoch."""
    symbol: str
    price: float


@dataclass(frozen=True)
class Marker:
    """A signal or a fill, as a mark on the price line."""

    ts: int
    """Milliseconds since the Unix epoch."""
    symbol: str
    side: str
    """BUY or SELL; empty in rows of an earlier engine."""
    price: float | None
    note: str
    """The veto of a signal, the quantity of a fill; empty when there is none."""


@dataclass(frozen=True)
class Holding:
    """What one mode holds of one symbol, and how far its open orders could carry that; exact decimals as text."""

    mode: str
    symbol: str
    qty: str
    price: str
    """Of the last fill."""


@dataclass(frozen=True)
class OpenOrder:
    """An order that is neither filled, nor cancelled or rejected; exact decimals as text."""

    mode: str
    symbol: str
    side: str
    qty: str
    filled_qty: str


@dataclass(frozen=True)
class LedgerSnapshot:
    """The newest of everything, from one snapshot of the database."""

    ticks: list[StoredTick]
    """Oldest first: those after the id that was asked for, or the newest of them."""
    signals: list[Marker]
    fills: list[Marker]
    holdings: list[Holding]
    open_orders: list[OpenOrder]
    odd: int = 0
    """Rows that were left out, because they hold what the engine never writes."""


@dataclass(frozen=True)
class Tally:
    """Signals and fills of one symbol from a time on."""

    since_ms: int
    """Milliseconds since the Unix epoch: from when on all are counted."""
    signals: int
    """Vetoed ones included."""
    vetoed: int
    bought: int
    sold: int


def read_snapshot(path: Path, *, after_tick: int, ticks_max: int, markers_max: int) -> LedgerSnapshot:
    """Read the newest rows of one moment.

    At most `ticks_max` ticks with an id above `after_tick`, at most `markers_max` signals and as many fills. Raises
    LedgerUnreadable, which names the file and the reason; also for a schema of another version.
    """
    values = ((after_tick, ticks_max), (markers_max,), (markers_max,), (), (OPEN_ORDERS_MAX,))

    def ask(connection: sqlite3.Connection) -> list[list[Row]]:
        expect_schema(path, connection)
        # Of one moment: fills and positions agree.
        connection.execute("BEGIN")
        rows = [connection.execute(sql, given).fetchall() for sql, given in zip(SNAPSHOT_QUERIES, values, strict=True)]
        connection.execute("COMMIT")
        return rows

    ticks, signals, fills, holdings, orders = query(path, ask)
    found = (
        understood(_tick, ticks[::-1]), understood(_signal, signals[::-1]), understood(_fill, fills[::-1]),
        understood(_holding, holdings), understood(_open_order, orders),
    )  # fmt: skip
    odd = sum(len(rows) for rows in (ticks, signals, fills, holdings, orders)) - sum(len(rows) for rows in found)
    return LedgerSnapshot(*found, odd)


def read_tally(path: Path, *, symbol: str, since_ms: int) -> Tally:
    """Count signals and fills of a symbol since a time, or since a later one where there are more than TALLY_ROWS.

    Raises LedgerUnreadable as `read_snapshot` does.
    """

    def ask(connection: sqlite3.Connection) -> Tally:
        edges = [connection.execute(sql, (TALLY_ROWS,)).fetchone() for sql in (_SIGNALS_FROM, _FILLS_FROM)]
        since = max([since_ms, *(ts + 1 for (ts,) in filter(None, edges) if _ts(ts) is not None)])
        values = (TALLY_ROWS, symbol, since, _TS_MAX)
        return Tally(since, *connection.execute(_SIGNAL_TALLY, values).fetchone(),
                     *connection.execute(_FILL_TALLY, values).fetchone())  # fmt: skip

    return query(path, ask)


def expect_schema(path: Path, connection: sqlite3.Connection) -> None:
    """Raise LedgerUnreadable for a database whose tables are not of a version that is read here."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in SCHEMA_VERSIONS:
        old = version < min(SCHEMA_VERSIONS)
        raise LedgerUnreadable(
            f"{path}: schema version {version}, of {'an older' if old else 'a newer'} engine than this dashboard,"
            f" which reads {', '.join(map(str, SCHEMA_VERSIONS))}"
            f"{'; the engine migrates it when it starts' if old else ''}"
        )


def query(path: Path, ask: Callable[[sqlite3.Connection], T], answer_secs: float = ANSWER_SECS) -> T:
    """What `ask` learns from the database, which is opened so that not a byte is left behind.

    Raises LedgerUnreadable as `glance`, also when the answers take longer than `answer_secs`.
    """
    has_wal = _expect_files(path)
    try:
        try:
            return _ask(path, has_wal, ask, answer_secs)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_READONLY_CANTINIT":
                raise
            # Between a writer's first commit and its second the WAL's index has no mark that a reader could share, and
            # we make none. What was checkpointed before can be read.
            return _ask(path, False, ask, answer_secs)
    except sqlite3.Error as error:
        raise _unreadable(path, error, answer_secs) from error


def _ask(path: Path, has_wal: bool, ask: Callable[[sqlite3.Connection], T], answer_secs: float) -> T:
    # A database whose last writer closed it has no WAL, and a reader that may not make one is refused; without a WAL
    # nobody is writing, so the file can be taken for immutable. A writer that comes in between is seen by the next one.
    mode = f"mode=ro&{'readonly_shm=1' if has_wal else 'immutable=1'}"
    with _connected(path, mode, SNAPSHOT_LOCK_SECS, answer_secs) as connection:
        return ask(connection)


# --- the file ----------------------------------------------------------------------------------------------


def _expect_files(path: Path) -> bool:
    """Make sure that database and what SQLite keeps beside it are files, since to open a FIFO waits for ever. Returns
    whether there is a WAL: a database whose last writer closed it has none."""
    there = []
    for name in ("", "-wal", "-shm", "-journal"):
        file = path.with_name(f"{path.name}{name}")
        try:
            regular = stat.S_ISREG(file.stat().st_mode)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LedgerUnreadable(f"{file}: {error.strerror}") from error
        except ValueError as error:
            raise LedgerUnreadable(f"{str(path)!r}: {error}") from error
        if not regular:
            raise LedgerUnreadable(f"{file}: is not a file")
        there.append(name)
    # Without this, SQLite says of a missing file what it says of one it may not read.
    if "" not in there:
        raise LedgerUnreadable(f"{path}: there is no such database")
    return "-wal" in there


@contextmanager
def _connected(path: Path, how: str, lock_secs: float, answer_secs: float) -> Iterator[sqlite3.Connection]:
    clock = OsClock()
    end = clock.monotonic() + answer_secs
    uri = f"file:{quote(bytes(path))}?{how}"
    with closing(sqlite3.connect(uri, uri=True, timeout=lock_secs, isolation_level=None)) as connection:
        # A table may be a view without end, or one that runs code.
        connection.set_progress_handler(lambda: clock.monotonic() > end, 10_000)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection


def _unreadable(path: Path, error: sqlite3.Error, answer_secs: float = ANSWER_SECS) -> LedgerUnreadable:
    late = getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT"
    return LedgerUnreadable(f"{path}: {f'no answer within {answer_secs:g} s' if late else error}")


# --- rows --------------------------------------------------------------------------------------------------


def understood(make: Callable[[Row], T], rows: Sequence[Row]) -> list[T]:
    """What `make` makes of the rows, without those of which it says (ValueError) that the engine never writes them."""
    found = []
    for row in rows:
        try:
            found.append(make(row))
        except ValueError:
            continue
    return found


def _tick(row: Row) -> StoredTick:
    tick_id, ts, symbol, price = row
    return StoredTick(_due(jsontext.whole(tick_id)), _due(_ts(ts)), _text(symbol), _real(price))


def _signal(row: Row) -> Marker:
    ts, symbol, side, price, veto = row
    return Marker(_due(_ts(ts)), _text(symbol), _side(side), None if price is None else float(exact(price)),
                "" if veto is None else _text(veto))  # fmt: skip


def _fill(row: Row) -> Marker:
    ts, symbol, side, price, qty, shadow = row
    note = f"{_real(qty):g}{' (simulated)' if shadow else ''}"
    return Marker(_due(_ts(ts)), _text(symbol), _side(side), _real(price), note)


def _holding(row: Row) -> Holding:
    mode, symbol, qty, price = row
    return Holding(_text(mode), _text(symbol), str(exact(qty)), str(exact(price)))


def _open_order(row: Row) -> OpenOrder:
    mode, symbol, side, qty, filled = row
    return OpenOrder(_text(mode), _text(symbol), _side(side), str(exact(qty)), str(exact(filled)))


def _due(value: T | None) -> T:
    if value is None:
        raise ValueError("not what is due there")
    return value


def _ts(value: object) -> int | None:
    known = jsontext.whole(value)
    return known if known is not None and 0 <= known <= _TS_MAX else None


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise ValueError("not a short text")
    return value


def _side(value: object) -> str:
    # An earlier engine wrote others.
    side = _text(value or "")
    return side if side in ("BUY", "SELL") else ""


def _real(value: object) -> float:
    return float(_due(jsontext.number(value)))


def exact(value: object) -> Decimal:
    """An exact decimal that the engine keeps as text, of a size that can be reckoned with."""
    try:
        found = Decimal(_text(value))
    except InvalidOperation as error:
        raise ValueError("not a decimal") from error
    if not found.is_finite() or (found and abs(found.adjusted()) > DIGITS_MAX):
        raise ValueError("not a number of this world")
    return found or Decimal(0)
