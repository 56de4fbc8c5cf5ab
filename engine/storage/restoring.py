"""What a starting engine reads of the runs before it."""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from typing import Final

import msgspec

from engine.base.events import Mode, Numbering, OrderEvent, OrderStatus, Reason, Side
from engine.storage.batch import Position, Restored
from engine.storage.migrations import OPEN_STATUSES, find_edge

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


def restore(connection: sqlite3.Connection) -> Restored:
    """Row numbers, watermarks, positions and open orders, at a cost that does not grow with the number of ticks. Raises
    sqlite3.Error."""
    tick_id_max = connection.execute("SELECT max(id) FROM ticks").fetchone()[0] or 0
    streams = {
        name: None if market is None else (source, market)
        for name, source, market in connection.execute("SELECT name, source, market FROM sources WHERE number = 1")
    }
    symbols = dict(
        connection.execute(
            "SELECT name, symbol FROM sources JOIN ticks ON ticks.id ="
            " (SELECT id FROM ticks WHERE source = sources.id AND trade_id IS NOT NULL ORDER BY trade_id DESC LIMIT 1)"
            " WHERE number = 1 AND market IS NOT '' ORDER BY sources.id DESC"
        )
    )
    barred = dict(
        connection.execute(
            "SELECT coalesce(barred_host, name), max(barred_until) FROM sources WHERE barred_until IS NOT NULL"
            " GROUP BY 1"
        )
    )
    recent: dict[str, list[tuple[str, int]]] = {}
    for source, event_id, ts in connection.execute(
        "SELECT sources.name, event_id, ts FROM ticks JOIN sources ON sources.id = ticks.source"
        " WHERE ticks.id > ? AND event_id IS NOT NULL ORDER BY ticks.id",
        (tick_id_max - RECENT_EVENT_IDS,),
    ):
        recent.setdefault(source, []).append((event_id, ts))
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
            f" WHERE status IN {OPEN_STATUSES} AND order_id IS NOT NULL AND NOT replayed ORDER BY id"
        )
    ]  # fmt: skip
    newest_signals = connection.execute(
        "SELECT event_id FROM signals WHERE event_id IS NOT NULL AND NOT replayed ORDER BY id DESC LIMIT ?",
        (RECENT_SIGNAL_IDS,),
    ).fetchall()
    signal_ids = [event_id for (event_id,) in reversed(newest_signals)]
    numberings = _numberings(connection)
    return Restored(tick_id_max + 1, numberings, streams, symbols, barred, recent, positions, signal_ids, open_orders)


def _numberings(connection: sqlite3.Connection) -> list[Numbering]:
    """What is known of trade ids. Ticks may be ahead of it, when a kill came between them: they tell more."""
    rows = connection.execute(
        "SELECT id, name, stream, number, first_trade_id, last_trade_id, first_ts, last_ts, missing FROM sources"
    ).fetchall()
    times = max(RECENT_TIMES_MIN, RECENT_TIMES // max(1, len(rows)))
    found = []
    for row_id, name, stream, number, first, last, first_ts, last_ts, missing in rows:
        newest = find_edge(connection, row_id, "DESC")
        if last is None and newest is None:
            continue
        if first is None:
            oldest = find_edge(connection, row_id, "ASC")
            first, first_ts = oldest if oldest is not None else (last, first_ts)
        holes = [] if missing is None else msgspec.json.decode(missing, type=list[tuple[int, int]])
        if newest is not None and (last is None or newest[0] > last):
            holes += _holes_since(connection, row_id, first if last is None else last)
            last, last_ts = newest[0], max(newest[1], last_ts or 0)
        first = min(first, last)
        segments = _segments(connection, row_id, times, first, first_ts)
        found.append(Numbering(stream or name, number, first, last, last_ts or 0, holes, segments, first_ts))
    return found


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
    rows = connection.execute(ask, (row_id, _TRADE_ID_MAX, times)).fetchall()
    step = times
    while len(rows) >= times:
        step *= 2
        row = connection.execute(ask, (row_id, rows[-1][0] - step, 1)).fetchone()
        if row is None:
            break
        rows.append(row)
    segments: list[tuple[int, int, int]] = []
    upto, before = first - 1, first_ts
    for trade_id, ts in reversed(rows):
        if trade_id - 1 > upto:
            before = ts if before is None else before
            segments.append((trade_id - 1, min(before, ts), max(before, ts)))
        segments.append((trade_id, ts, ts))
        upto, before = trade_id, ts
    return segments
