"""Batches into rows: the statements of one transaction, which the caller holds (D3, I3)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Final, TypeAlias

import msgspec

from engine.base.events import EXACT, Fill, Numbering, OrderEvent, Side, Signal, Tick
from engine.storage.batch import Batch, Written
from engine.storage.migrations import OPEN_STATUSES, ORDER_OF_MODE, ORDERS_PER_SIGNAL

# Rows per INSERT. One statement of 32 rows is as quick as one of 512; any number of rows below that takes at most five
# more, and so few distinct texts keep the connection's statement cache warm.
_ROWS_PER_STATEMENT: Final = (32, 16, 8, 4, 2, 1)


_NAMES_PER_STATEMENT: Final = 16
"""Sources that one SELECT finds, unless there are fewer."""


class _Insert(msgspec.Struct, frozen=True):
    """A multi-row INSERT: the text before VALUES, the number of columns, the text after the rows.

    ON CONFLICT DO NOTHING, unlike INSERT OR IGNORE, still refuses a NULL where the table has NOT NULL.
    """

    head: str
    width: int
    tail: str


# What is bound for each row should be of the very types str, int or float: sqlite3 looks for an adapter of anything
# else, None, True and members of enumerations too, which takes three times as long as to bind it. So a column that is
# NULL in all rows is left out.
_TICKS: Final = _Insert(
    "INSERT INTO ticks(id, symbol, price, volume, ts, source, trade_id)",
    7,
    "ON CONFLICT DO NOTHING",
)
_TICKS_WITH_EVENT_IDS: Final = _Insert(
    "INSERT INTO ticks(id, symbol, price, volume, ts, source, trade_id, event_id)",
    8,
    "ON CONFLICT DO NOTHING",
)
_SIGNALS: Final = _Insert(
    "INSERT INTO signals(id, symbol, value, ts, event_id, tick_id, side, reason, size, price, replayed)",
    11,
    "ON CONFLICT DO NOTHING",
)
_SIGNALS_WITH_VETOES: Final = _Insert(
    "INSERT INTO signals(id, symbol, value, ts, event_id, tick_id, side, reason, size, price, replayed, veto,"
    " veto_detail)",
    13,
    "ON CONFLICT DO NOTHING",
)
_ORDERS: Final = _Insert(
    "INSERT INTO orders(id, symbol, side, status, ts, order_id, is_shadow, qty_exact, price_exact, filled_qty, seq,"
    " reason, updated_ts, replayed, detail)",
    15,
    "ON CONFLICT DO NOTHING",
)
_EARLIER: Final = _Insert(
    "INSERT INTO earlier_order_events(order_id, seq, status, reason, filled_qty, ts, detail)",
    7,
    "ON CONFLICT DO NOTHING",
)
_FILLS: Final = _Insert(
    "INSERT INTO trades(order_id, seq, symbol, side, ts, is_shadow, qty_exact, price_exact, fees_exact, cash_delta,"
    " replayed)",
    11,
    "",
)


@cache
def _insert_text(insert: _Insert, rows: int) -> str:
    row = "(" + ",".join("?" * insert.width) + ")"
    return f"{insert.head} VALUES {','.join([row] * rows)} {insert.tail}"


@cache
def _names_text(names: int) -> str:
    return f"SELECT name, id FROM sources WHERE name IN ({','.join('?' * names)})"


def _text(value: Decimal) -> str:
    """The shortest plain notation of the same number: bytes matter, and readers need not know exponents."""
    plain = str(value)
    if "E" in plain:
        plain = f"{value:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


Texts: TypeAlias = dict[int, str]
"""Texts of amounts by the object's id. A signal, its order and its fill share the objects of their amounts, which have
to be there as long as this is used: for one batch."""


def _remember(texts: Texts, value: Decimal) -> str:
    text = texts[id(value)] = _text(value)
    return text


class RowWriter:
    """Writes the rows of batches. Remembers nothing: what a rolled back transaction wrote must not survive it."""

    def __init__(self, connection: sqlite3.Connection, *, replay: bool) -> None:
        """`replay`: rows are marked `replayed`, move no position, and replace nothing that other runs derived (I3)."""
        self._connection = connection
        self._replay = int(replay)

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
            self._write_bars(batch.barred)
        if batch.ticks:
            ticks = self._write_ticks(batch.ticks)
        signal_ids: dict[str, int] = {}
        texts: Texts = {}
        if batch.signals:
            signals = self._write_signals(batch.signals, signal_ids, texts)
        if batch.orders or batch.fills:
            orders, new_fills = self._write_orders(batch.orders, batch.fills, signal_ids, texts)
            fills = len(new_fills)
            self._write_fills(new_fills, texts)
        return Written(ticks, len(batch.ticks) - ticks, signals, orders, fills)

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

    def _write_bars(self, barred: dict[str, tuple[str, int]]) -> None:
        # In a row of the host's own: that of a source would forget the one host as the source is pointed to another. An
        # earlier version kept them there, and one before it without the host.
        self._connection.executemany(
            "UPDATE sources SET barred_until = NULL WHERE barred_host = ? OR barred_host IS NULL AND name IN (?, ?)",
            [(host, host, source) for source, (host, _) in barred.items()],
        )
        # Of what sources of one host were told, the longest comes last.
        self._connection.executemany(
            "INSERT INTO sources(name, barred_host, barred_until) VALUES (?, ?, ?) ON CONFLICT(name)"
            " DO UPDATE SET barred_host = excluded.barred_host, barred_until = excluded.barred_until",
            [(host, host, until) for host, until in sorted(barred.values())],
        )

    def _write_ticks(self, ticks: list[Tick]) -> int:
        values: list[Any] = []
        known: dict[str, int] = {}
        source, source_id = None, 0
        has_texts = bool([1 for tick in ticks if tick.event_id is not None])
        for tick in ticks:
            if tick.source is not source:
                source = tick.source
                if source not in known:
                    # Mostly all are of one.
                    known = self._source_ids({one.source for one in ticks} if known else {source})
                source_id = known[source]
            values += (tick.id, tick.symbol, tick.price, tick.volume, tick.ts, source_id, tick.trade_id)
            if has_texts:
                values.append(tick.event_id)
        return self._insert(_TICKS_WITH_EVENT_IDS if has_texts else _TICKS, values)

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

    def _source_ids(self, names: set[str]) -> dict[str, int]:
        execute = self._connection.execute
        asked, known = list(names), dict[str, int]()
        # Few statements: each hands the interpreter over to the event loop, and may wait to have it back.
        while asked:
            some = asked[-_NAMES_PER_STATEMENT:] if len(asked) >= _NAMES_PER_STATEMENT else asked[-1:]
            del asked[-len(some) :]
            known.update(execute(_names_text(len(some)), some).fetchall())
        for name in names - known.keys():
            known[name] = execute("INSERT INTO sources(name) VALUES (?) RETURNING id", (name,)).fetchone()[0]
        return known

    def _next_signal_id(self) -> int:
        """Above all signals, and above all orders too, whose ids are made of those of signals."""
        signals, orders = self._connection.execute(
            "SELECT (SELECT max(id) FROM signals), (SELECT max(id) FROM orders)"
        ).fetchone()
        return max(signals or 0, (orders or 0) // ORDERS_PER_SIGNAL) + 1

    def _write_signals(self, signals: list[Signal], ids: dict[str, int], texts: Texts) -> int:
        """Store signals, and enter their row ids by event id into `ids`; returns how many rows changed."""
        values: list[Any] = []
        vetoes = bool([1 for signal in signals if signal.veto is not None])
        row_id = self._next_signal_id()
        replay = self._replay
        for signal in signals:
            size, price = signal.size, signal.price
            values += (
                row_id, signal.symbol, signal.confidence, signal.ts, signal.event_id, signal.tick_id,
                signal.side._value_, signal.reason._value_, texts.get(id(size)) or _remember(texts, size),
                texts.get(id(price)) or _remember(texts, price), replay,
            )  # fmt: skip
            if vetoes:
                values += (signal.veto, signal.veto_detail)
            ids[signal.event_id] = row_id
            row_id += 1
        written = self._insert(_SIGNALS_WITH_VETOES if vetoes else _SIGNALS, values)
        if written != len(signals):
            # Which of them were stored before only the table can tell.
            ids.clear()
            if not self._replay:
                written += sum(self._take_over(signal) for signal in signals)
        return written

    def _take_over(self, signal: Signal) -> int:
        """Put a signal into the place of a replay's with its event id; returns how many there were."""
        return self._connection.execute(
            "UPDATE signals SET (symbol, value, ts, tick_id, side, reason, size, price, veto, veto_detail, replayed)"
            " = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0) WHERE event_id = ? AND replayed",
            (
                signal.symbol, signal.confidence, signal.ts, signal.tick_id, signal.side, signal.reason,
                _text(signal.size), _text(signal.price), signal.veto, signal.veto_detail, signal.event_id,
            ),
        ).rowcount  # fmt: skip

    def _order_row_id(self, event: OrderEvent, signal_ids: Mapping[str, int]) -> int:
        """An order's id is made of its signal's and the mode: found by the one index that signals have."""
        signal_id = signal_ids.get(event.signal_id)
        if signal_id is not None:
            return signal_id * ORDERS_PER_SIGNAL + ORDER_OF_MODE[event.mode]
        execute = self._connection.execute
        row = execute("SELECT id FROM signals WHERE event_id = ?", (event.signal_id,)).fetchone()
        if row is not None:
            return int(row[0]) * ORDERS_PER_SIGNAL + ORDER_OF_MODE[event.mode]
        # Somebody has deleted the signal. An order that is open is found at once.
        for stored in (f"SELECT id FROM orders WHERE status IN {OPEN_STATUSES} AND order_id = ?",
                       "SELECT id FROM orders WHERE order_id = ?"):  # fmt: skip
            row = execute(stored, (event.order_id,)).fetchone()
            if row is not None:
                return int(row[0])
        return self._next_signal_id() * ORDERS_PER_SIGNAL + ORDER_OF_MODE[event.mode]

    def _write_orders(
        self, events: list[OrderEvent], fills: list[Fill], signal_ids: Mapping[str, int], texts: Texts
    ) -> tuple[int, list[Fill]]:
        """Store transitions. Returns how many were new, and the fills that came with those: a fill is known by the
        transition that reports it. Raises ValueError for a fill without one."""
        chains: dict[str, list[OrderEvent]] = {}
        for event in events:
            chain = chains.get(event.order_id)
            if chain is None:
                chains[event.order_id] = [event]
            elif event.seq > chain[-1].seq:
                chain.append(event)
        reported: dict[str, Fill] = {}
        for fill in fills:
            if fill.order_id not in chains:
                raise ValueError(f"fill {fill.event_id} came without the transition that reports it")
            reported.setdefault(fill.event_id, fill)
        # Mostly all orders and their signals are new; if not, each is asked.
        if self._begin_orders(chains, signal_ids, texts):
            return sum(map(len, chains.values())), list(reported.values())
        written = 0
        for chain in chains.values():
            known = self._go_on(chain, signal_ids)
            written += len(chain) - len(known)
            for event in known:
                reported.pop(f"{event.order_id}/{event.seq}", None)
        return written, list(reported.values())

    def _begin_orders(
        self, chains: Mapping[str, list[OrderEvent]], signal_ids: Mapping[str, int], texts: Texts
    ) -> bool:
        """Store orders of signals that were stored just now; False, and nothing stored, where there are others."""
        values: list[Any] = []
        for chain in chains.values():
            signal_id = signal_ids.get(chain[0].signal_id)
            if signal_id is None:
                return False
            self._add_order(values, signal_id * ORDERS_PER_SIGNAL + ORDER_OF_MODE[chain[0].mode], chain, texts)
        self._insert(_ORDERS, values)
        self._write_earlier([event for chain in chains.values() if len(chain) > 1 for event in chain[:-1]])
        return True

    def _go_on(self, chain: list[OrderEvent], signal_ids: Mapping[str, int]) -> list[OrderEvent]:
        """Store those transitions of an order that follow what is stored of it; returns the others."""
        execute = self._connection.execute
        row_id = self._order_row_id(chain[0], signal_ids)
        row = execute("SELECT seq, replayed FROM orders WHERE id = ?", (row_id,)).fetchone()
        if row is not None and row[1] != self._replay:
            if self._replay:
                return chain
            self._forget_replayed(row_id, chain[0].order_id)
            row = None
        if row is None:
            values: list[Any] = []
            self._add_order(values, row_id, chain, {})
            self._insert(_ORDERS, values)
            self._write_earlier(chain[:-1])
            return []
        new = [event for event in chain if event.seq > row[0]]
        if new:
            execute(
                "INSERT INTO earlier_order_events SELECT order_id, seq, status, reason, filled_qty, updated_ts, detail"
                " FROM orders WHERE id = ? ON CONFLICT DO NOTHING",
                (row_id,),
            )
            self._write_earlier(new[:-1])
            last = new[-1]
            execute(
                "UPDATE orders SET status = ?, filled_qty = ?, seq = ?, reason = ?, updated_ts = ?, detail = ?"
                " WHERE id = ?",
                (last.status, _text(last.filled_qty), last.seq, last.reason, last.ts, last.detail, row_id),
            )
        return chain[: len(chain) - len(new)]

    def _forget_replayed(self, row_id: int, order_id: str) -> None:
        execute = self._connection.execute
        execute("DELETE FROM trades WHERE order_id = ? AND replayed", (order_id,))
        execute("DELETE FROM earlier_order_events WHERE order_id = ?", (order_id,))
        execute("DELETE FROM orders WHERE id = ?", (row_id,))

    def _add_order(self, values: list[Any], row_id: int, chain: list[OrderEvent], texts: Texts) -> None:
        """Add an order's row to `values`: when it began, and its latest transition."""
        event = chain[-1]
        qty, price = event.qty, event.price
        qty_text = texts.get(id(qty)) or _remember(texts, qty)
        values += (
            row_id, event.symbol, event.side._value_, event.status._value_, chain[0].ts, event.order_id,
            1 if event.is_shadow else 0, qty_text, texts.get(id(price)) or _remember(texts, price),
            qty_text if event.filled_qty is qty else _text(event.filled_qty), event.seq,
            event.reason._value_, event.ts, self._replay, event.detail,
        )  # fmt: skip

    def _write_earlier(self, events: list[OrderEvent]) -> None:
        values: list[Any] = []
        for event in events:
            values += (
                event.order_id, event.seq, event.status, event.reason, _text(event.filled_qty), event.ts, event.detail,
            )  # fmt: skip
        self._insert(_EARLIER, values)

    def _write_fills(self, fills: list[Fill], texts: Texts) -> None:
        values: list[Any] = []
        replay = self._replay
        for fill in fills:
            order_id, qty, price = fill.order_id, fill.qty, fill.price
            values += (
                order_id, fill.event_id[len(order_id) + 1 :], fill.symbol, fill.side._value_, fill.ts,
                1 if fill.is_shadow else 0, texts.get(id(qty)) or _remember(texts, qty),
                texts.get(id(price)) or _remember(texts, price), _text(fill.fees), _text(fill.cash_delta), replay,
            )  # fmt: skip
        self._insert(_FILLS, values)
        if not self._replay:
            self._move_positions(fills)

    def _move_positions(self, fills: list[Fill]) -> None:
        by_key: dict[tuple[str, str], list[Fill]] = {}
        for fill in fills:
            by_key.setdefault((fill.mode, fill.symbol), []).append(fill)
        moved: dict[tuple[str, str], tuple[Decimal, ...]] = {}
        add, subtract, buy = EXACT.add, EXACT.subtract, Side.BUY
        for key, theirs in by_key.items():
            qty, cash, fees, _ = self._position(key)
            for fill in theirs:
                qty = add(qty, fill.qty) if fill.side is buy else subtract(qty, fill.qty)
                cash = add(cash, fill.cash_delta)
                fees = add(fees, fill.fees)
            moved[key] = (qty, cash, fees, theirs[-1].price)
        self._connection.executemany(
            "INSERT INTO positions(mode, symbol, qty, cash, fees, price) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET qty = excluded.qty, cash = excluded.cash, fees = excluded.fees,"
            " price = excluded.price",
            [(*key, *map(_text, sums)) for key, sums in moved.items()],
        )

    def _position(self, key: tuple[str, str]) -> tuple[Decimal, ...]:
        """Quantity, cash, fees and price as they are stored."""
        row = self._connection.execute(
            "SELECT qty, cash, fees, price FROM positions WHERE mode = ? AND symbol = ?", key
        ).fetchone()
        return tuple(map(Decimal, row or ("0", "0", "0", "0")))
