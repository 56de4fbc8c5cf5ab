"""What the engine's database holds of a span of time, read-only and at a cost that does not grow with its tables
(contract W6, W7).

`id` is each table's key and counts in the order in which rows were stored, so the rows of a time are found by halving:
some twenty steps for ten million rows, without an index on time, which would cost each tick more than its price does.
A span is parted into buckets. One with few rows is summed up whole; of one with many, rows at even distances are looked
at, and the answer says so. How many ticks a bucket has is exact in either case.

Where times run backwards (a venue's clock that was set back) a row counts where it was stored.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.observing import ledger_view
from harness.observing.ledger_view import LedgerUnreadable

ANSWER_SECS = 15.0
"""A read is given up after so long: on a computer that is busy, the tenth of a second that it works may take that."""

BUCKETS_MAX = 400
"""Of one span."""

WHOLE_ROWS, LOOKS = 256, 32
"""A bucket of more rows is not summed up but looked at in so many places."""

VETO_ROWS = 100_000
"""So many of a span's newest signals are counted, at most."""

PAGE_MAX = 200
"""Rows of one page of a table."""

CSV_ROWS_MAX = 20_000
"""Rows of one file."""

NEAR_MS = 3_600_000
"""Ticks that are no older are of the present."""

SYMBOLS_MAX = 50
"""Markets that are named, of those the newest ticks are of."""

_TS_AT = "SELECT ts FROM {table} WHERE id >= ? ORDER BY id LIMIT 1"
# In one statement: between two, whatever else Python does in this process would have its turn. A stride of rows is
# passed when its last is before the time, then half of it, a quarter, down to one.
_PASSED = """
WITH RECURSIVE passed(low, stride) AS (
  SELECT :low, :stride UNION ALL
  SELECT
    CASE WHEN low + stride <= :high
      AND (SELECT ts FROM {table} WHERE id >= low + stride - 1 ORDER BY id LIMIT 1) < :at
      THEN low + stride ELSE low END,
    stride / 2
  FROM passed WHERE stride > 0)
SELECT MAX(low) FROM passed"""
_WHOLE = "SELECT COUNT(*), MIN(price), MAX(price) FROM ticks WHERE id >= ? AND id < ? AND symbol = ?"
_LAST = "SELECT price FROM ticks WHERE id >= ? AND id < ? AND symbol = ? ORDER BY id DESC LIMIT 1"
_LOOKED = """
WITH RECURSIVE look(n, at) AS (
  SELECT 0, :first UNION ALL SELECT n + 1, :first + (:last - :first) * (n + 1) / :looks FROM look WHERE n < :looks)
SELECT COUNT(*), MIN(price), MAX(price) FROM look JOIN ticks ON ticks.id = look.at WHERE symbol = :symbol"""
_BARS = {
    4: "SELECT coalesce(barred_host, name), MAX(barred_until) FROM sources WHERE barred_until > ? GROUP BY 1"
    " ORDER BY 2 LIMIT 50",
    2: "SELECT name, barred_until FROM sources WHERE barred_until > ? ORDER BY 2 LIMIT 50",
}
"""By the version of the schema from which on it is so, the newest first; an earlier one keeps none."""

_LATEST = "SELECT DISTINCT symbol FROM (SELECT symbol FROM ticks ORDER BY id DESC LIMIT 5000) LIMIT ?"
_VETOES = (
    "SELECT COALESCE(NULLIF(veto, ''), ''), COUNT(*) FROM signals WHERE id >= ? AND id < ? GROUP BY 1 ORDER BY 2 DESC"
)


@dataclass(frozen=True)
class Bucket:
    """A part of a span in which ticks came."""

    at_ms: int
    """Its beginning, milliseconds since the Unix epoch."""
    ticks: int
    """Of all markets."""
    low: float | None
    """Of the market that was asked for, as the next two; None when it had no tick that was looked at."""
    high: float | None
    last: float | None


@dataclass(frozen=True)
class TimeSpan:
    """A span of time, parted into buckets of equal length; those without a tick are left out: gaps are gaps."""

    symbol: str
    """Empty when there is no tick at all."""
    symbols: list[str]
    """Those that there lately were."""
    first_ms: int
    last_ms: int
    step_ms: int
    buckets: list[Bucket]
    sampled: bool
    """Whether lows and highs are of some of the rows only."""
    vetoes: list[tuple[str, int]]
    """(why a signal made no order, how often); an empty reason: it made one."""
    vetoes_from_ms: int
    """From when on signals were counted."""


NO_SPAN = TimeSpan("", [], 0, 0, 1, [], False, [], 0)
"""Of a database without a tick."""


def read_span(
    path: Path, *, symbol: str, from_ms: int | None, to_ms: int | None, buckets: int, now_ms: int = 0
) -> TimeSpan:
    """Read a span of ticks and signals.

    symbol: empty for that of the newest tick. from_ms, to_ms: None for the first and the last tick there is. buckets:
    how many the span is parted into, at most BUCKETS_MAX. now_ms: where a span without an end reaches to, so that
    silence is seen, unless the ticks are of another time, as those of a replay. Raises LedgerUnreadable, which names
    the file and the reason.
    """

    def ask(connection: sqlite3.Connection) -> TimeSpan:
        ledger_view.expect_schema(path, connection)
        # Of one moment.
        connection.execute("BEGIN")
        first_id, end_id = _bounds(connection, "ticks")
        symbols = [str(name) for (name,) in connection.execute(_LATEST, (SYMBOLS_MAX,))]
        if first_id == end_id:
            return NO_SPAN
        wanted = symbol or symbols[0]
        begin = _time(connection, "ticks", first_id) if from_ms is None else from_ms
        end = _time(connection, "ticks", end_id - 1) + 1 if to_ms is None else to_ms
        if to_ms is None and 0 < now_ms - end <= max(end - begin, NEAR_MS):
            end = now_ms
        count = max(1, min(buckets, BUCKETS_MAX))
        step = max(1, -(-max(end - begin, 1) // count))
        edges = [first_id if from_ms is None else _find(connection, "ticks", begin, first_id, end_id)]
        for number in range(1, count + 1):
            at = min(begin + number * step, end)
            last = to_ms is None and number == count
            edges.append(end_id if last else _find(connection, "ticks", at, edges[-1], end_id))
        found, sampled = [], False
        for number, (low_id, high_id) in enumerate(pairwise(edges)):
            if high_id > low_id:
                sampled |= high_id - low_id > WHOLE_ROWS
                found.append(_bucket(connection, begin + number * step, low_id, high_id, wanted))
        vetoes, since = _vetoes(connection, begin, end)
        connection.execute("COMMIT")
        return TimeSpan(wanted, symbols, begin, end, step, found, sampled, vetoes, since)

    return ledger_view.query(path, ask, ANSWER_SECS)


def _bounds(connection: sqlite3.Connection, table: str) -> tuple[int, int]:
    """The first id of a table, and one more than its last."""
    first, last = connection.execute(f"SELECT (SELECT MIN(id) FROM {table}), (SELECT MAX(id) FROM {table})").fetchone()
    return (_whole(first), _whole(last) + 1) if first is not None else (1, 1)


def _time(connection: sqlite3.Connection, table: str, row_id: int) -> int:
    row = connection.execute(_TS_AT.format(table=table), (row_id,)).fetchone()
    return _whole(row[0]) if row is not None else 0


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise LedgerUnreadable(f"{value!r:.60}: no whole number, where the engine has an id or a time")
    return value


def _find(connection: sqlite3.Connection, table: str, at_ms: int, low: int, high: int) -> int:
    """The first id of [low, high) whose row is not before a time; `high` when there is none."""
    places = {"low": low, "high": high, "at": at_ms, "stride": 1 << (high - low).bit_length()}
    (found,) = connection.execute(_PASSED.format(table=table), places).fetchone()
    return _whole(found)


def _bucket(connection: sqlite3.Connection, at_ms: int, low_id: int, high_id: int, symbol: str) -> Bucket:
    if high_id - low_id <= WHOLE_ROWS:
        seen = connection.execute(_WHOLE, (low_id, high_id, symbol)).fetchone()
    else:
        places = {"first": low_id, "last": high_id - 1, "looks": LOOKS - 1, "symbol": symbol}
        seen = connection.execute(_LOOKED, places).fetchone()
    last = connection.execute(_LAST, (max(low_id, high_id - WHOLE_ROWS), high_id, symbol)).fetchone()
    low, high = (value if isinstance(value, int | float) else None for value in seen[1:])
    closing = last[0] if last is not None and isinstance(last[0], int | float) else None
    return Bucket(at_ms, high_id - low_id, low, high, closing)


def _vetoes(connection: sqlite3.Connection, begin: int, end: int) -> tuple[list[tuple[str, int]], int]:
    first, last = _bounds(connection, "signals")
    low = _find(connection, "signals", begin, first, last)
    high = _find(connection, "signals", end, low, last)
    counted = max(low, high - VETO_ROWS)
    rows = connection.execute(_VETOES, (counted, high)).fetchall()
    since = begin if counted == low else _time(connection, "signals", counted)
    return [(str(reason)[: ledger_view.TEXT_MAX], _whole(number)) for reason, number in rows], since


# --- tables ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One column of a table of the page."""

    name: str
    sql: str


_TRANSITIONS = "transitions"

_CONCATENATED = (
    "(SELECT group_concat(status || ' ' || filled_qty || ' at ' || ts, ', ') FROM ({} ORDER BY seq LIMIT 50))"
)
_EVENTS = {
    # The last transition of an order stands in the order, and only the earlier ones beside it.
    5: _CONCATENATED.format(
        "SELECT e.status, e.filled_qty, e.ts, e.seq FROM earlier_order_events AS e WHERE e.order_id = orders.order_id"
        " UNION ALL SELECT orders.status, orders.filled_qty, orders.updated_ts, orders.seq"
    ),
    1: _CONCATENATED.format(
        "SELECT status, filled_qty, ts, seq FROM order_events WHERE order_events.order_id = orders.order_id"
    ),
}
"""In SQL, by the version of the schema from which on it is so, the newest first: what happened to an order."""

TABLES: Mapping[str, Sequence[Column]] = {
    "trades": (
        Column("id", "id"), Column("time", "ts"), Column("mode", "mode"), Column("symbol", "symbol"),
        Column("side", "side"), Column("qty", "COALESCE(qty_exact, fill_qty)"),
        Column("price", "COALESCE(price_exact, fill_price)"), Column("fees", "COALESCE(fees_exact, fees)"),
        Column("cash", "cash_delta"), Column("order", "order_id"), Column("replayed", "replayed"),
    ),
    "orders": (
        Column("id", "id"), Column("time", "ts"), Column("mode", "mode"), Column("symbol", "symbol"),
        Column("side", "side"), Column("status", "status"), Column("qty", "COALESCE(qty_exact, qty)"),
        Column("filled", "filled_qty"), Column("price", "COALESCE(price_exact, price)"), Column("reason", "reason"),
        Column("order", "order_id"),
        Column("transitions", _TRANSITIONS),
    ),
    "signals": (
        Column("id", "id"), Column("time", "ts"), Column("symbol", "symbol"), Column("side", "side"),
        Column("reason", "reason"), Column("size", "size"), Column("price", "price"), Column("veto", "veto"),
        Column("detail", "veto_detail"),
    ),
}  # fmt: skip
"""What may be asked for, and no other column."""

FILLS_MAX = 4_000
"""Fills of one read: a kilobyte each, while they are looked at."""

_FILLS = (
    "SELECT id, ts, mode, symbol, side, qty_exact, price_exact, fees_exact, cash_delta FROM trades"
    " WHERE id > ? AND replayed = 0 AND mode IS NOT NULL ORDER BY id LIMIT ?"
)
_POSITIONS = f"SELECT mode, symbol, qty, cash, fees FROM positions LIMIT {ledger_view.POSITIONS_MAX}"

FILTERS = ("mode", "symbol", "side", "status", "veto")
"""Columns that a page may be narrowed by."""

SCANNED_MAX = 200_000
"""Rows that a narrowed page looks through, at most."""


@dataclass(frozen=True)
class Page:
    """Some rows of a table."""

    columns: list[str]
    rows: list[list[Any]]
    next_id: int | None
    """Where the next page begins; None when there is none."""


def read_bars(path: Path, now_ms: int) -> list[tuple[str, int]]:
    """(host, or in an earlier schema source, and until when it may not be contacted, in ms) of each venue that asked to
    be left alone. Raises LedgerUnreadable."""

    def ask(connection: sqlite3.Connection) -> list[Any]:
        ledger_view.expect_schema(path, connection)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        sql = _of_version(_BARS, version)
        return connection.execute(sql, (now_ms,)).fetchall() if sql is not None else []

    rows = ledger_view.query(path, ask, ANSWER_SECS)
    return [(str(name)[: ledger_view.TEXT_MAX], until) for name, until in rows if isinstance(until, int)]


def read_page(
    path: Path,
    *,
    table: str,
    at_id: int | None,
    newest_first: bool,
    rows: int,
    filters: Mapping[str, str],
    from_ms: int | None = None,
    to_ms: int | None = None,
) -> Page:
    """Read rows of one of TABLES in the order of their ids.

    at_id: where to begin, itself included; None for the table's end. filters: of FILTERS, column -> its value. A filter
    looks through SCANNED_MAX rows at most, and the page then says where to go on. from_ms, to_ms: only rows since the
    one and before the other, in milliseconds since the Unix epoch. Raises LedgerUnreadable.
    """
    columns = TABLES[table]
    by_name = {column.name: column.sql for column in columns}
    narrowed = {name: value for name, value in filters.items() if name in by_name and name in FILTERS}

    def ask(connection: sqlite3.Connection) -> Page:
        ledger_view.expect_schema(path, connection)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        events = _of_version(_EVENTS, version) or "NULL"
        selected = [events if column.sql == _TRANSITIONS else column.sql for column in columns]
        first, end = _bounds(connection, table)
        if from_ms is not None:
            first = _find(connection, table, from_ms, first, end)
        if to_ms is not None:
            end = _find(connection, table, to_ms, first, end)
        if newest_first:
            high = end if at_id is None else min(at_id + 1, end)
            low = max(first, high - SCANNED_MAX) if narrowed else first
        else:
            low = first if at_id is None else max(at_id, first)
            high = min(end, low + SCANNED_MAX) if narrowed else end
        where = "".join(f" AND {by_name[name]} = ?" for name in narrowed)
        found = connection.execute(
            f"SELECT {', '.join(selected)} FROM {table} WHERE id >= ? AND id < ?{where}"
            f" ORDER BY id {'DESC' if newest_first else 'ASC'} LIMIT ?",
            (low, high, *narrowed.values(), rows + 1),
        ).fetchall()
        following: int | None = None
        if len(found) > rows:
            following = _whole(found[rows][0])
        elif newest_first and low > first:
            following = low - 1
        elif not newest_first and high < end:
            following = high
        return Page([column.name for column in columns], [list(row) for row in found[:rows]], following)

    return ledger_view.query(path, ask, ANSWER_SECS)


def _of_version(queries: Mapping[int, str], version: int) -> str | None:
    return next((sql for since, sql in queries.items() if version >= since), None)


# --- fills and positions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FillAt:
    """One execution, in exact decimals."""

    id: int
    ts_ms: int
    mode: str
    symbol: str
    buys: bool
    qty: Decimal
    price: Decimal
    fees: Decimal
    cash: Decimal
    """What it did to the cash: -/+ qty x price - fees."""


@dataclass(frozen=True)
class PositionAt:
    """The sums that the engine keeps of all fills of a mode and a symbol."""

    mode: str
    symbol: str
    qty: Decimal
    cash: Decimal
    fees: Decimal


@dataclass(frozen=True)
class Fills:
    """Some fills, and the positions of the same moment."""

    fills: list[FillAt]
    positions: list[PositionAt]
    last_id: int
    """Of the last row that was read."""
    whole: bool
    """Whether no more fills were there, so that they add up to the positions."""
    odd: int
    """Rows that hold what the engine never writes."""


def read_fills(path: Path, after_id: int, most: int = FILLS_MAX) -> Fills:
    """The fills behind an id, at most so many of them. Raises LedgerUnreadable."""

    def ask(connection: sqlite3.Connection) -> tuple[list[Any], list[Any]]:
        ledger_view.expect_schema(path, connection)
        connection.execute("BEGIN")
        fills = connection.execute(_FILLS, (after_id, most)).fetchall()
        positions = connection.execute(_POSITIONS).fetchall()
        connection.execute("COMMIT")
        return fills, positions

    rows, sums = ledger_view.query(path, ask, ANSWER_SECS)
    fills = ledger_view.understood(_fill, rows)
    positions = ledger_view.understood(_position, sums)
    odd = len(rows) + len(sums) - len(fills) - len(positions)
    last_id = _whole(rows[-1][0]) if rows else after_id
    return Fills(fills, positions, last_id, len(rows) < most, odd)


def _fill(row: Sequence[Any]) -> FillAt:
    row_id, ts, mode, symbol, side, *amounts = row
    if not isinstance(row_id, int) or not isinstance(ts, int) or side not in ("BUY", "SELL"):
        raise ValueError("not a fill")
    qty, price, fees, cash = map(ledger_view.exact, amounts)
    return FillAt(row_id, ts, str(mode), str(symbol), side == "BUY", qty, price, fees, cash)


def _position(row: Sequence[Any]) -> PositionAt:
    mode, symbol, *amounts = row
    return PositionAt(str(mode), str(symbol), *map(ledger_view.exact, amounts))
