"""What is new in a ledger since the last message of the stream, table by table.

All that speaks SQL to a ledger is here. A tail reads in one snapshot; before it reads on it makes sure that the ledger
is the one that the stream knows: the last row that was published is still there, as it was published. A database that
was restored from a backup, begun anew, renumbered or that belongs to another instance is not (LedgerChanged).

What only a replay has made (`replayed`) is in no position and leaves no host. It may be deleted, and its ids used
again; so a place is the id of a row that was published, never of one that was passed over.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fleet.base.tables import FILLS, GAPS, ORDER_EVENTS, ORDERS, POSITIONS, SIGNALS, TICKS, Row, Table
from fleet.base.wire import Place
from harness.base.errors import HarnessError
from harness.observing import ledger_view

SCHEMAS = tuple(version for version in ledger_view.SCHEMA_VERSIONS if version >= 3)
"""The values of `PRAGMA user_version` that this module reads."""

OPEN = ("SUBMITTED", "ACKNOWLEDGED", "PARTIAL_FILL")
"""The states of an order after which there may come others."""

WIDE_FILLS = 50_000
"""After more new fills than this all positions are published, rather than those that the fills have moved."""


class LedgerChanged(HarnessError):
    """The ledger is not the one that the stream knows. Exit status 12: a human has to say which is right."""


@dataclass(frozen=True)
class Known:
    """What the stream holds of a table."""

    place: Place
    last: Row | None
    schema: int
    """Of the ledger when that was published."""


@dataclass(frozen=True)
class Read:
    """What a tail has found."""

    rows: Sequence[Row]
    place: Callable[[int], Place]
    """How far the table was read when the first so many of the rows, at least one, are published."""
    odd: int = 0
    """Rows in which something is not what the engine writes there."""
    behind: int = 0
    """Rows, about, that are not published yet, those that were read included."""


NOTHING = Read((), lambda count: {})


class Tail(Protocol):
    """Reads one table."""

    table: Table

    def read(self, connection: sqlite3.Connection, schema: int, known: Known | None, limit: int) -> Read:
        """At most `limit` rows after those that are known, inside a transaction that the caller holds. Raises
        LedgerChanged, and sqlite3.Error."""
        ...


def check_schema(version: int) -> str:
    """What is wrong with a ledger's `PRAGMA user_version`; empty when nothing is."""
    if version in SCHEMAS:
        return ""
    if version < min(SCHEMAS):
        return f"schema version {version}, of an older engine; the engine migrates it when it starts"
    return f"schema version {version}, of a newer engine than this relay, which reads {', '.join(map(str, SCHEMAS))}"


def ledger_tails(tick_every: int) -> list[Tail]:
    """A tail for each table of a ledger. tick_every: each so many-th tick; 0: none."""
    ticks = AppendedTail(
        TICKS,
        "SELECT id, ts, symbol, price, volume, (SELECT name FROM sources WHERE sources.id = ticks.source), trade_id,"
        " event_id FROM ticks",
        f"id % {tick_every} = 0" if tick_every > 1 else "1",
    )
    signals = AppendedTail(
        SIGNALS,
        "SELECT id, ts, symbol, event_id, tick_id, side, reason, value, size, price, veto, veto_detail FROM signals",
        "NOT replayed",
        name="event_id",
    )
    orders = AppendedTail(
        ORDERS,
        "SELECT id, ts, order_id, signal_id, mode, symbol, side, coalesce(qty_exact, CAST(qty AS TEXT)),"
        " coalesce(price_exact, CAST(price AS TEXT)), is_shadow FROM orders",
        "NOT replayed",
        name="order_id",
    )
    fills = AppendedTail(
        FILLS,
        "SELECT id, ts, event_id, order_id, mode, symbol, side, coalesce(qty_exact, CAST(fill_qty AS TEXT)),"
        " coalesce(price_exact, CAST(fill_price AS TEXT)), coalesce(fees_exact, CAST(fees AS TEXT)), cash_delta,"
        " is_shadow FROM trades",
        "NOT replayed",
    )
    return [*([ticks] if tick_every else []), signals, orders, OrderEventsTail(), fills, PositionsTail(), GapsTail()]


class AppendedTail:
    """A table to which rows are added at its end, in the order of their ids, and whose rows do not change (what does
    change of an order is an order event)."""

    def __init__(self, table: Table, select: str, condition: str, name: str | None = None) -> None:
        """select: the table's columns, in their order. condition: of the rows that are published. name: the column that
        names a row for good; its id changes when the engine migrates the ledger."""
        self.table = table
        self._select = select
        self._condition = condition
        self._name = name
        (self._from,) = select.rsplit(" ", 1)[1:]

    def read(self, connection: sqlite3.Connection, schema: int, known: Known | None, limit: int) -> Read:
        after = self._find(connection, schema, known) if known is not None else 0
        raw = connection.execute(
            f"{self._select} WHERE id > ? AND {self._condition} ORDER BY id LIMIT ?", (after, limit)
        ).fetchall()
        rows, odd = _clean(self.table, raw)
        (top,) = connection.execute(f"SELECT max(id) FROM {self._from}").fetchone()
        behind = max(len(rows), top - after if len(rows) == limit else 0)
        return Read(rows, lambda count: {"id": rows[count - 1][0]}, odd, behind)

    def _find(self, connection: sqlite3.Connection, schema: int, known: Known) -> int:
        """The id of the row that was published last."""
        place, last = known.place.get("id"), known.last
        if not isinstance(place, int) or last is None:
            raise LedgerChanged(f"{self.table.name}: the last message of the stream has no row")
        found = _one(self.table, connection.execute(f"{self._select} WHERE id = ?", (place,)).fetchone())
        if found == last:
            return place
        if schema != known.schema and self._name is not None:
            # The engine has given the rows other ids, in the same order.
            name = last[self.table.names.index(self._name)]
            again = connection.execute(f"{self._select} WHERE {self._name} = ?", (name,)).fetchone()
            moved = _one(self.table, again)
            if moved is not None and moved[1:] == last[1:]:
                return int(again[0])
        raise _changed(self.table, f"id {place}", last, found)


class OrderEventsTail:
    """The transitions of orders. They have no id of their own, so they are found by the orders: those after the last
    one that was seen, and those that were open then."""

    table = ORDER_EVENTS
    _of_events = "SELECT order_id, seq, ts, status, reason, filled_qty, detail FROM"
    _of_order = "SELECT order_id, seq, updated_ts, status, reason, filled_qty, detail FROM orders WHERE id = ?"

    def read(self, connection: sqlite3.Connection, schema: int, known: Known | None, limit: int) -> Read:
        once = _says_once(connection)
        after, open_orders = 0, dict[str, int]()
        if known is not None:
            after, open_orders = self._find(connection, once, schema, known)
        raw: list[Sequence[Any]] = []
        ids: list[int] = []
        """Of the newest order that is seen once the row at the same place is published."""
        for order_id, row_id in self._gone_on(connection, once, open_orders):
            raw += self._transitions(connection, once, order_id, row_id, open_orders[order_id])
            ids += [after] * (len(raw) - len(ids))
            if len(raw) >= limit:
                break
        top = after
        while len(raw) < limit:
            new = connection.execute(
                "SELECT id, order_id FROM orders WHERE id > ? AND NOT replayed AND order_id IS NOT NULL"
                " ORDER BY id LIMIT ?",
                (top, limit - len(raw)),
            ).fetchall()
            for top, order_id in new:
                raw += self._transitions(connection, once, order_id, top, -1)
                ids += [top] * (len(raw) - len(ids))
            if not new:
                break
        rows, odd = _clean(self.table, raw[:limit])
        (newest,) = connection.execute("SELECT max(id) FROM orders").fetchone()
        behind = max(len(rows), newest - top if len(raw) >= limit else 0)
        return Read(rows, lambda count: placed(rows[:count], ids[count - 1], open_orders), odd, behind)

    def _find(
        self, connection: sqlite3.Connection, once: bool, schema: int, known: Known
    ) -> tuple[int, dict[str, int]]:
        place, last = known.place, known.last
        after, open_orders, order_id = place.get("id"), place.get("open"), place.get("order")
        if not isinstance(after, int) or not isinstance(open_orders, dict) or last is None:
            raise LedgerChanged("order_events: the last message of the stream does not say how far it comes")
        if schema != known.schema:
            moved = _order_row(connection, once, order_id)
            if moved is None:
                raise LedgerChanged(f"order_events: order {order_id}, which was published, is not there any more")
            after = moved
        row_id = _order_row(connection, once, last[0])
        events = [] if row_id is None else self._transitions(connection, once, last[0], row_id, int(last[1] or 0) - 1)
        found = _one(self.table, events[0]) if events else None
        if found != last:
            raise _changed(self.table, f"order {last[0]}, seq {last[1]}", last, found)
        return after, open_orders

    def _gone_on(
        self, connection: sqlite3.Connection, once: bool, open_orders: dict[str, int]
    ) -> list[tuple[str, int]]:
        """Of the orders that were open, those that have gone on since, with their row ids."""
        if not open_orders:
            return []
        # The index holds open orders only; left to itself SQLite may take another.
        now = {
            order_id: (row_id, seq)
            for row_id, order_id, seq in connection.execute(
                "SELECT id, order_id, seq FROM orders INDEXED BY orders_open"
                f" WHERE status IN {OPEN} AND order_id IS NOT NULL"
            )
        }
        found = []
        for order_id, published in open_orders.items():
            row_id, seq = now.get(order_id, (None, None))
            if row_id is None:
                row_id = _order_row(connection, once, order_id)
                if row_id is None:
                    raise LedgerChanged(f"order_events: order {order_id}, which was published, is not there any more")
            elif seq == published:
                continue
            found.append((order_id, row_id))
        return found

    def _transitions(
        self, connection: sqlite3.Connection, once: bool, order_id: Any, row_id: int, after: int
    ) -> list[Sequence[Any]]:
        if not once:
            return connection.execute(
                f"{self._of_events} order_events WHERE order_id = ? AND seq > ? ORDER BY seq", (order_id, after)
            ).fetchall()
        # An order's latest transition is in its own row.
        return connection.execute(
            f"{self._of_events} earlier_order_events WHERE order_id = ? AND seq > ? UNION ALL"
            f" {self._of_order} AND seq > ? ORDER BY 2",
            (order_id, after, row_id, after),
        ).fetchall()


def placed(events: Sequence[Row], newest_id: int, open_before: dict[str, int]) -> Place:
    """How far order events were read: the newest order that was seen, and the last event of each that is open."""
    open_now = dict(open_before)
    for order_id, seq, _, status, *_ in events:
        if status in OPEN:
            open_now[str(order_id)] = int(seq or 0)
        else:
            open_now.pop(str(order_id), None)
    return {"id": newest_id, "order": events[-1][0], "open": open_now}


def _says_once(connection: sqlite3.Connection) -> bool:
    """Whether the ledger keeps an order's latest transition in the order's row alone, and the orders' ids are made of
    those of their signals."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'earlier_order_events'").fetchone()
    return found is not None


def _order_row(connection: sqlite3.Connection, once: bool, order_id: Any) -> int | None:
    """The row id of an order."""
    row = None
    if once:
        # Made of its signal's, which has an index; an order has none.
        row = connection.execute(
            "SELECT orders.id FROM signals JOIN orders ON orders.id BETWEEN signals.id * 4 AND signals.id * 4 + 3"
            " WHERE signals.event_id = substr(?1, instr(?1, '-') + 1) AND orders.order_id = ?1",
            (order_id,),
        ).fetchone()
    row = row or connection.execute("SELECT id FROM orders WHERE order_id = ?", (order_id,)).fetchone()
    return None if row is None else int(row[0])


class PositionsTail:
    """What each mode holds of each symbol, whenever fills have moved it, as it is after the newest fill. A place is the
    fill up to which all of it was published, or where that was left off (`after`)."""

    table = POSITIONS

    def read(self, connection: sqlite3.Connection, schema: int, known: Known | None, limit: int) -> Read:
        newest = connection.execute("SELECT id, ts FROM trades WHERE NOT replayed ORDER BY id DESC LIMIT 1").fetchone()
        if newest is None:
            if known is not None:
                raise LedgerChanged(f"positions: fill {known.place.get('fill')}, which was published, is not there")
            return NOTHING
        since, after = 0, ["", ""]
        if known is not None:
            self._verify(connection, known)
            since = int(known.place["fill"])
            if known.place.get("after") is not None:
                # Left off. What has moved since begins anew, under the fill that moved it.
                after = known.place["after"] if since == newest[0] else after
                since = int(known.place["since"])
            elif since == newest[0]:
                return NOTHING
        moved = ""
        if newest[0] - since <= WIDE_FILLS:
            moved = " AND (mode, symbol) IN (SELECT mode, symbol FROM trades WHERE id > ? AND NOT replayed)"
        raw = connection.execute(
            "SELECT ?, ?, mode, symbol, qty, cash, fees, price FROM positions WHERE (mode, symbol) > (?, ?)"
            f"{moved} ORDER BY mode, symbol LIMIT ?",
            (*newest, *after, *([since] if moved else []), limit + 1),
        ).fetchall()
        rows, odd = _clean(self.table, raw[:limit])

        def place(count: int) -> Place:
            if count == len(raw):
                return {"fill": newest[0]}
            return {"fill": newest[0], "since": since, "after": list(rows[count - 1][2:4])}

        return Read(rows, place, odd, len(raw))

    def _verify(self, connection: sqlite3.Connection, known: Known) -> None:
        place, last = known.place, known.last
        if not isinstance(place.get("fill"), int) or last is None:
            raise LedgerChanged("positions: the last message of the stream does not say how far it comes")
        row = connection.execute("SELECT ts FROM trades WHERE id = ?", (place["fill"],)).fetchone()
        if row is None or row[0] != last[1]:
            raise LedgerChanged(
                f"positions: fill {place['fill']}, of {last[1]}, was published, and "
                f"{'is not there' if row is None else f'is of {row[0]} here'}"
            )


class GapsTail:
    """The trades that a ledger knows to be missing, all of them anew when anything of it has changed. A row without a
    source says that this version is there, also when nothing is missing any more."""

    table = GAPS

    def read(self, connection: sqlite3.Connection, schema: int, known: Known | None, limit: int) -> Read:
        raw = connection.execute(
            "SELECT coalesce(source, stream, name), coalesce(market, ''), missing, coalesce(last_ts, 0) FROM sources"
            " WHERE missing IS NOT NULL AND missing <> '[]' ORDER BY id"
        ).fetchall()
        found = {
            (str(source), str(market), first): (last, ts)
            for source, market, missing, ts in raw
            for first, last in ranges(missing)
        }
        digest = hashlib.sha256(json.dumps(sorted((*key, last) for key, (last, _) in found.items())).encode())
        state = digest.hexdigest()[:32]
        version, sent = 1, 0
        if known is not None:
            version, sent = int(known.place["version"]), int(known.place["sent"])
            if known.place.get("state") != state:
                version, sent = version + 1, 0
        elif not found:
            return NOTHING
        newest = max((ts for _, ts in found.values()), default=0)
        everything = [
            (version, newest, "", "", 0, 0),
            *((version, ts, *key, last) for key, (last, ts) in sorted(found.items())),
        ]
        left = [(row[0], row[1], row[2], row[3], row[4], row[5]) for row in everything[sent:]]
        rows, odd = _clean(self.table, left[:limit])
        return Read(rows, lambda count: {"version": version, "state": state, "sent": sent + count}, odd, len(left))


def ranges(missing: object) -> list[tuple[int, int]]:
    """First and last id of each hole, of JSON as the engine keeps it; what is none is left out."""
    try:
        found = json.loads(missing) if isinstance(missing, str) else []
    except (ValueError, RecursionError):
        return []
    return [
        (one[0], one[1])
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, list) and len(one) == 2 and all(type(n) is int and abs(n) < 2**63 for n in one)
    ]


def _clean(table: Table, raw: Sequence[Sequence[Any]]) -> tuple[list[Row], int]:
    found = [table.cleaned(row) for row in raw]
    return [row for row, _ in found], sum(odd for _, odd in found)


def _one(table: Table, raw: Sequence[Any] | None) -> Row | None:
    return None if raw is None else table.cleaned(raw)[0]


def _changed(table: Table, what: str, last: Row, found: Row | None) -> LedgerChanged:
    if found is None:
        return LedgerChanged(f"{table.name}: the row with {what}, which was published, is not there")
    differing = [name for name, a, b in zip(table.names, last, found, strict=True) if a != b]
    return LedgerChanged(f"{table.name}: the row with {what} differs from what was published in {', '.join(differing)}")
