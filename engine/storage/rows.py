"""Batches into rows: the statements of one transaction, which the caller holds (D3, I3)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Final

import msgspec

from engine.base.events import EXACT, Fill, Numbering, OrderEvent, Side, Signal, Tick
from engine.storage.batch import Batch, Position, Written

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


class RowWriter:
    """Writes the rows of batches. Remembers nothing: what a rolled back transaction wrote must not survive it."""

    def __init__(self, connection: sqlite3.Connection, *, replay: bool) -> None:
        """`replay`: rows are marked `replayed`, move no position, and replace nothing that other runs derived (I3)."""
        self._connection = connection
        self._replay = replay

    def write(self, batch: Batch) -> Written:
        """Insert all of `batch`, and count what was new. Raises sqlite3.Error."""
        ticks = signals = orders = fills = 0
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
                "INSERT INTO bars(host, until) VALUES (?, ?) ON CONFLICT(host) DO UPDATE SET until = excluded.until",
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
            "INSERT INTO sources(name, stream, number, first_trade_id, last_trade_id, first_ts, last_ts, missing)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(name) DO UPDATE SET stream = excluded.stream, number = excluded.number,"
            " first_trade_id = excluded.first_trade_id, last_trade_id = excluded.last_trade_id,"
            " first_ts = excluded.first_ts, last_ts = excluded.last_ts, missing = coalesce(excluded.missing, missing)",
            [
                (
                    label, one.stream, one.number, one.first, one.last, one.oldest_ts, one.newest_ts,
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
