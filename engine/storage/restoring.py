"""What a starting engine reads of the runs before it.

SQLite keeps any value in any column, and who mends a database by hand may leave one that the engine never writes. Each
value is checked here, where a human can still be told, and not where it would stop a feed or a writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from decimal import Decimal, DecimalException
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from engine.base.events import Mode, Numbering, OrderEvent, OrderStatus, Reason, Side
from engine.storage.batch import Position, Restored
from engine.storage.migrations import OPEN_STATUSES, TABLES, ask_edge

RECENT_EVENT_IDS: Final = 65_536
"""How many of the newest ticks `restore` looks at for textual event ids: enough to recognise what a venue
sends again after a reconnect, and a bounded cost whatever the size of the table."""

RECENT_TIMES: Final = 16_384
"""Of how many of the newest ticks `restore` gives the times, each; before those, of ever fewer. The numberings share
them, so that a start stays quick."""

RECENT_TIMES_MIN: Final = 8

HOLES_RESTORED_MAX: Final = 64
"""How many holes `restore` finds between ticks that are ahead of what their stream says of its ids."""

_TRADE_ID_MAX: Final = 2**63 - 1

RECENT_SIGNAL_IDS: Final = 2048
"""How many of the newest signals `restore` names: those of ticks that a crash left above the watermark lie well
within it, and as many an executor remembers."""


ROW_ID_MAX: Final = 2**60
"""The highest id of a row above which there are to be more: an order's is four times its signal's."""

PLACES_MAX: Final = 24
DIGITS_MAX: Final = 35
"""What an exact sum of products may have behind and before the point (events.EXACT)."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31)]
Id: TypeAlias = Annotated[int, Meta(ge=0, le=_TRADE_ID_MAX)]
Millis: TypeAlias = Annotated[int, Meta(ge=-(2**60), le=2**60)]
Holes: TypeAlias = list[tuple[Id, Id]]

_Row = TypeVar("_Row")


class NotOurs(ValueError):
    """The database holds what the engine never writes; the text says where, and what."""


def _read(connection: sqlite3.Connection, row: type[_Row], sql: str, arguments: Sequence[object] = ()) -> list[_Row]:
    """The rows of a query, each a tuple of these types. Raises NotOurs for one that is not; sqlite3.Error."""
    try:
        return msgspec.convert(connection.execute(sql, arguments).fetchall(), list[row])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise NotOurs(f"{sql.split(' FROM ')[-1].split()[0]}: {error}") from None
    except sqlite3.OperationalError as error:
        if hasattr(error, "sqlite_errorcode"):
            raise
        # Python's own word for a text that is not UTF-8.
        raise NotOurs(f"{sql.split(' FROM ')[-1].split()[0]}: {error}") from None


def _amount(table: str, text: str) -> Decimal:
    """An amount of money or of an asset. Raises NotOurs when it is none with which can be reckoned."""
    try:
        amount = Decimal(text)
    except DecimalException:
        amount = Decimal("NaN")
    exponent = amount.as_tuple().exponent
    # To such a one others can be added in EXACT for ever.
    if not isinstance(exponent, int) or exponent < -PLACES_MAX or amount.adjusted() >= DIGITS_MAX:
        raise NotOurs(f"{table}: {text[:40]!r} is no amount")
    return amount


def restore(connection: sqlite3.Connection) -> Restored:
    """Row numbers, watermarks, positions and open orders, at a cost that does not grow with the number of ticks. Raises
    sqlite3.Error, and NotOurs for values that no engine has written."""
    newest_ids = {table: connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0] or 0 for table in TABLES}
    for table, newest in newest_ids.items():
        if newest > ROW_ID_MAX:
            raise NotOurs(f"{table}: a row with id {newest} leaves no room for others")
    tick_id_max = newest_ids["ticks"]
    named = _read(
        connection, tuple[str, str | None, str | None], "SELECT name, source, market FROM sources WHERE number = 1"
    )
    streams = {name: None if source is None or market is None else (source, market) for name, source, market in named}
    symbols = dict(
        _read(
            connection,
            tuple[str, str],
            "SELECT name, symbol FROM sources JOIN ticks ON ticks.id ="
            " (SELECT id FROM ticks WHERE source = sources.id AND trade_id IS NOT NULL ORDER BY trade_id DESC LIMIT 1)"
            " WHERE number = 1 AND market IS NOT '' ORDER BY sources.id DESC",
        )
    )
    barred = dict(
        _read(
            connection,
            tuple[str, Millis],
            "SELECT coalesce(barred_host, name), max(barred_until) FROM sources WHERE barred_until IS NOT NULL"
            " GROUP BY 1",
        )
    )
    recent: dict[str, list[tuple[str, int]]] = {}
    for source, event_id, ts in _read(
        connection,
        tuple[str, str, Millis],
        "SELECT sources.name, event_id, ts FROM ticks JOIN sources ON sources.id = ticks.source"
        " WHERE ticks.id > ? AND event_id IS NOT NULL ORDER BY ticks.id",
        (tick_id_max - RECENT_EVENT_IDS,),
    ):
        recent.setdefault(source, []).append((event_id, ts))
    positions: dict[Mode, dict[str, Position]] = {}
    held = _read(
        connection,
        tuple[Mode, str, str, str, str, str],
        "SELECT mode, symbol, qty, cash, fees, price FROM positions",
    )
    for mode, symbol, *sums in held:
        positions.setdefault(mode, {})[symbol] = Position(*(_amount("positions", text) for text in sums))
    open_orders = [
        OrderEvent(
            order_id=row[0], seq=row[1], signal_id=row[2], symbol=row[3], side=row[4],
            qty=_amount("orders", row[5]), price=_amount("orders", row[6]), filled_qty=_amount("orders", row[7]),
            status=row[8], reason=row[9], ts=row[10], is_shadow=bool(row[11]), mode=row[12],
        )
        for row in _read(
            connection,
            tuple[str, int, str, str, Side, str, str, str, OrderStatus, Reason, Millis, int, Mode],
            "SELECT order_id, seq, signal_id, symbol, side, qty_exact, price_exact, filled_qty, status,"
            " reason, updated_ts, is_shadow, mode FROM orders"
            f" WHERE status IN {OPEN_STATUSES} AND order_id IS NOT NULL AND NOT replayed ORDER BY id"
        )
    ]  # fmt: skip
    newest_signals = _read(
        connection,
        tuple[str],
        "SELECT event_id FROM signals WHERE event_id IS NOT NULL AND NOT replayed ORDER BY id DESC LIMIT ?",
        (RECENT_SIGNAL_IDS,),
    )
    signal_ids = [event_id for (event_id,) in reversed(newest_signals)]
    numberings = _numberings(connection)
    return Restored(tick_id_max + 1, numberings, streams, symbols, barred, recent, positions, signal_ids, open_orders)


def _numberings(connection: sqlite3.Connection) -> list[Numbering]:
    """What is known of trade ids. Ticks may be ahead of it, when a kill came between them: they tell more."""
    rows = _read(
        connection,
        tuple[int, str, str | None, Count, Id | None, Id | None, Millis | None, Millis | None, str | None],
        "SELECT id, name, stream, number, first_trade_id, last_trade_id, first_ts, last_ts, missing FROM sources",
    )
    times = max(RECENT_TIMES_MIN, RECENT_TIMES // max(1, len(rows)))
    found = []
    for row_id, name, stream, number, first, last, first_ts, last_ts, missing in rows:
        newest = _edge(connection, row_id, "DESC")
        if last is None and newest is None:
            continue
        if first is None:
            oldest = _edge(connection, row_id, "ASC")
            first, first_ts = oldest if oldest is not None else (last, first_ts)
        holes = read_holes(missing)
        if newest is not None and (last is None or newest[0] > last):
            known = first if last is None else last
            assert known is not None
            holes += _holes_since(connection, row_id, known)
            last, last_ts = newest[0], max(newest[1], last_ts or 0)
        assert last is not None
        first = last if first is None else min(first, last)
        segments = _segments(connection, row_id, times, first, first_ts)
        found.append(Numbering(stream or name, number, first, last, last_ts or 0, holes, segments, first_ts))
    return found


def read_holes(missing: str | None) -> Holes:
    """What `sources.missing` holds: (from, to), ascending. Raises NotOurs."""
    try:
        holes = [] if missing is None else msgspec.json.decode(missing, type=Holes)
    except (ValueError, RecursionError) as error:
        raise NotOurs(f"sources.missing: {error}") from None
    edges = [edge for hole in holes for edge in hole]
    if edges != sorted(edges):
        raise NotOurs("sources.missing: its holes are not in order")
    return holes


def _edge(connection: sqlite3.Connection, row_id: int, order: str) -> tuple[int, int] | None:
    """Trade id and time of a stream's tick with the highest ("DESC") or lowest ("ASC") id."""
    found = _read(connection, tuple[Id, Millis], ask_edge(order), (row_id,))
    return found[0] if found else None


def _holes_since(connection: sqlite3.Connection, row_id: int, trade_id: int) -> list[tuple[int, int]]:
    """The newest holes between the ids of a stream's ticks from this id on."""
    rows = connection.execute(
        "SELECT trade_id + 1, next - 1 FROM (SELECT trade_id, lead(trade_id) OVER (ORDER BY trade_id) AS next"
        " FROM ticks WHERE source = ? AND trade_id >= ?) WHERE next > trade_id + 1 ORDER BY trade_id DESC LIMIT ?",
        (row_id, trade_id, HOLES_RESTORED_MAX),
    ).fetchall()
    return rows[::-1]


def _segments(
    connection: sqlite3.Connection, row_id: int, times: int, first: int, first_ts: int | None
) -> list[tuple[int, int, int]]:
    """When a numbering's ids came: of each of the newest ticks, and of ever fewer towards the oldest. What is not on
    disk came between its neighbours. `first`: the lowest id, seen at `first_ts`."""
    ask = "SELECT trade_id, ts FROM ticks WHERE source = ? AND trade_id <= ? ORDER BY trade_id DESC LIMIT ?"
    rows = _read(connection, tuple[Id, Millis], ask, (row_id, _TRADE_ID_MAX, times))
    step = times
    while len(rows) >= times:
        step *= 2
        earlier = _read(connection, tuple[Id, Millis], ask, (row_id, rows[-1][0] - step, 1))
        if not earlier:
            break
        rows += earlier
    segments: list[tuple[int, int, int]] = []
    upto, before = first - 1, first_ts
    for trade_id, ts in reversed(rows):
        if trade_id - 1 > upto:
            before = ts if before is None else before
            segments.append((trade_id - 1, min(before, ts), max(before, ts)))
        segments.append((trade_id, ts, ts))
        upto, before = trade_id, ts
    return segments
