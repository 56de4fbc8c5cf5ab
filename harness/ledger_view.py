"""The engine's database as an onlooker sees it: read-only, at a cost that does not grow with the table (D5, K3).

Each look opens and closes its own connection, so that a database that was replaced is seen as it is, and no open
read transaction keeps the engine's WAL from shrinking.

Whoever may write beside the database may also put something else in its place. A look at anything ends in time: what is
not a file is not opened, and a statement that goes on and on is interrupted.

`look` is for those who may write beside the database, as the controller does. `glance` needs no more than to read the
files: it maps the WAL's index read-only, so that it cannot leave a byte behind whoever runs it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from harness.clock import OsClock
from harness.errors import HarnessError
from harness.stall import Progress

T = TypeVar("T")

NEWEST = "SELECT id, ts FROM ticks ORDER BY id DESC LIMIT 1"
"""`id` is the table's own key, so this is one step to its end."""

TIMEOUT_SECS = 1.0
"""Readers do not wait for the writer in WAL mode; this is for the moment in which somebody recovers the WAL."""

GLANCE_SECS = 0.25
"""How long a glance waits for a database that somebody holds exclusively: less than the page's refresh."""

ANSWER_SECS = 1.0
"""A look whose answers take longer is given up: those of the engine's own tables take a millisecond."""

VALUE_BYTES_MAX = 1 << 20
"""No value of the engine's is nearly as long."""

SCHEMA_VERSIONS = (1, 2, 3)
"""The values of `PRAGMA user_version` whose tables a glance understands (D2)."""

OPEN_ORDERS_MAX = 1000
"""No more open orders than this are looked at: far above any sensible `max_open_orders`."""

_TICKS = "SELECT id, ts, symbol, price FROM ticks WHERE id > ? ORDER BY id DESC LIMIT ?"
_SIGNALS = "SELECT ts, symbol, side, price, veto FROM signals ORDER BY id DESC LIMIT ?"
_FILLS = "SELECT ts, symbol, side, fill_price, fill_qty, is_shadow FROM trades ORDER BY id DESC LIMIT ?"
_POSITIONS = "SELECT mode, symbol, qty, price FROM positions LIMIT 1000"
# The index holds open orders only, so that closed ones cost nothing; left to itself SQLite may take another.
_OPEN_ORDERS = (
    "SELECT mode, symbol, side, qty_exact, filled_qty FROM orders INDEXED BY orders_open"
    " WHERE status IN ('SUBMITTED', 'ACKNOWLEDGED', 'PARTIAL_FILL') AND order_id IS NOT NULL LIMIT ?"
)

GLANCES = (_TICKS, _SIGNALS, _FILLS, _POSITIONS, _OPEN_ORDERS)
"""Everything a glance asks, in this order; none of it costs more when a table grows."""


class LedgerUnreadable(HarnessError):
    """The database is not there, or is not one that can be read. Says nothing about whether the engine lives."""


def look(path: Path) -> Progress:
    """The newest tick of the database at `path`. Raises LedgerUnreadable, which names the file and the reason."""
    row = _asked(path, lambda: _newest(path))
    try:
        return Progress(0, None) if row is None else Progress(int(row[0]), int(row[1]))
    except (TypeError, ValueError, OverflowError) as error:
        raise LedgerUnreadable(f"{path}: its newest tick is not a tick: {error}") from error


def _newest(path: Path) -> Any:
    with _connected(f"file:{quote(str(path))}?mode=ro", TIMEOUT_SECS) as connection:
        return connection.execute(NEWEST).fetchone()


@contextmanager
def _connected(uri: str, timeout_secs: float) -> Iterator[sqlite3.Connection]:
    """A connection whose statements end in time, and run no code that stands in the file."""
    clock = OsClock()
    end = clock.monotonic() + ANSWER_SECS
    with closing(sqlite3.connect(uri, uri=True, timeout=timeout_secs, isolation_level=None)) as connection:
        connection.set_progress_handler(lambda: clock.monotonic() > end, 10_000)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection


def _asked(path: Path, ask: Callable[[], T]) -> T:
    """What `ask` answers about the database at `path`. Raises LedgerUnreadable when it does not."""
    _expect_files(path)
    try:
        return ask()
    except sqlite3.Error as error:
        raise LedgerUnreadable(f"{path}: {error}") from error


def _expect_files(path: Path) -> None:
    """Refuse what only opening it could hang on, or change: a pipe, a device, a socket; also beside the database."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
        place = path.with_name(name)
        try:
            mode = os.stat(place).st_mode
        except FileNotFoundError:
            if name == path.name:
                raise LedgerUnreadable(f"{path}: there is no such database") from None
            continue
        except (OSError, ValueError) as error:
            raise LedgerUnreadable(f"{place}: {getattr(error, 'strerror', error)}") from error
        if not stat.S_ISREG(mode):
            raise LedgerUnreadable(f"{place}: is not a file")


@dataclass(frozen=True)
class Tick:
    """One row of `ticks`."""

    id: int
    ts: int
    """Milliseconds since the Unix epoch."""
    symbol: str
    price: float


@dataclass(frozen=True)
class Deed:
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
class Glance:
    """The newest of everything, from one snapshot of the database."""

    ticks: list[Tick]
    """Oldest first: those after the id that was asked for, or the newest of them."""
    signals: list[Deed]
    fills: list[Deed]
    holdings: list[Holding]
    open_orders: list[OpenOrder]


def glance(path: Path, *, after_tick: int, ticks_max: int, deeds_max: int) -> Glance:
    """The newest rows: at most `ticks_max` ticks with an id above `after_tick`, at most `deeds_max` signals and fills.

    Raises LedgerUnreadable, which names the file and the reason; also for a schema of another version.
    """
    ticks, signals, fills, holdings, orders = _asked(path, lambda: _glanced(path, after_tick, ticks_max, deeds_max))
    return Glance(
        ticks=[Tick(*row) for row in reversed(ticks)],
        signals=[
            Deed(ts, symbol, side or "", None if price is None else float(price), veto or "")
            for ts, symbol, side, price, veto in reversed(signals)
        ],
        fills=[
            Deed(ts, symbol, side, float(price), f"{qty:g}{' (simulated)' if shadow else ''}")
            for ts, symbol, side, price, qty, shadow in reversed(fills)
        ],
        holdings=[Holding(*row) for row in holdings],
        open_orders=[OpenOrder(*row) for row in orders],
    )


def _glanced(path: Path, after_tick: int, ticks_max: int, deeds_max: int) -> list[list[tuple[Any, ...]]]:
    # A database whose last writer closed it has no WAL, and a reader that may not make one is refused; without a WAL
    # nobody is writing, so the file can be taken for immutable. If a writer comes in between, the next glance sees it.
    has_wal = path.with_name(f"{path.name}-wal").exists()
    try:
        return _ask(path, has_wal, after_tick, ticks_max, deeds_max)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_READONLY_CANTINIT":
            raise
        # Between a writer's first commit and its second the WAL's index has no mark that a reader could share, and
        # we make none. What was checkpointed before can be read.
        return _ask(path, False, after_tick, ticks_max, deeds_max)


def _ask(path: Path, has_wal: bool, after_tick: int, ticks_max: int, deeds_max: int) -> list[list[tuple[Any, ...]]]:
    """The rows that answer GLANCES, of one moment: fills and positions agree."""
    uri = f"file:{quote(str(path))}?mode=ro&{'readonly_shm=1' if has_wal else 'immutable=1'}"
    with _connected(uri, GLANCE_SECS) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in SCHEMA_VERSIONS:
            old = version < min(SCHEMA_VERSIONS)
            raise LedgerUnreadable(
                f"{path}: schema version {version}, of {'an older' if old else 'a newer'} engine than this dashboard,"
                f" which reads {' and '.join(map(str, SCHEMA_VERSIONS))}"
                f"{'; the engine migrates it when it starts' if old else ''}"
            )
        connection.execute("BEGIN")
        values = ((after_tick, ticks_max), (deeds_max,), (deeds_max,), (), (OPEN_ORDERS_MAX,))
        rows = [connection.execute(sql, given).fetchall() for sql, given in zip(GLANCES, values, strict=True)]
        connection.execute("COMMIT")
    return rows
