"""The tables that leave a host: their columns, and what values those may have.

SQLite keeps any value in any column, so a value is taken only when it is what the engine writes there. What is not
becomes null, except in a key, and the row counts as odd.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

Value = str | int | float | None
Row = tuple[Value, ...]

TEXT_MAX = 16_000
"""Characters of a text that are passed on; the longest are the soak controller's decisions."""

TS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_EXACT = re.compile(r"-?\d{1,1000}(\.\d{1,1000})?", re.ASCII)


@dataclass(frozen=True)
class Table:
    """One table of the stream and of PostgreSQL, whatever it is called in a ledger."""

    name: str
    columns: dict[str, str]
    """Name -> kind: "int" (64 bits), "ts" (ms since the Unix epoch), "real", "exact" (a decimal as text) or "text"."""
    key: tuple[str, ...]
    """What tells one row of an instance from another."""
    names: tuple[str, ...] = field(init=False)
    """Of the columns, in order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.columns))

    def cleaned(self, row: Sequence[object]) -> tuple[Row, bool]:
        """A row as the engine writes it, and whether anything in it was not.

        Raises ValueError when there are more or fewer values than columns, or a key has none.
        """
        if len(row) != len(self.columns):
            raise ValueError(f"{self.name}: {len(row)} values for {len(self.columns)} columns")
        found: list[Value] = []
        odd = False
        for (name, kind), value in zip(self.columns.items(), row, strict=True):
            known = None if value is None else _KINDS[kind](value)
            if known is None:
                odd |= value is not None
                if kind == "ts":
                    # A row belongs to a day. What has none lies before all others.
                    odd, known = True, 0
                elif name in self.key:
                    raise ValueError(f"{self.name}: {name} is {str(value)[:100]!r}, which is no {kind}")
            found.append(known)
        return tuple(found), odd


def _int(value: object) -> int | None:
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def _ts(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= TS_MAX else None


def _real(value: object) -> float | None:
    if type(value) is int:
        value = float(value) if abs(value) < 2**63 else None
    return value if type(value) is float and math.isfinite(value) else None


def _exact(value: object) -> str | None:
    return value if type(value) is str and _EXACT.fullmatch(value) else None


def _text(value: object) -> str | None:
    # PostgreSQL takes no NUL and no half of a surrogate pair.
    if type(value) is not str or len(value) > TEXT_MAX or "\0" in value:
        return None
    return value if value.isascii() or value.encode("utf-8", "replace").decode() == value else None


_KINDS = {"int": _int, "ts": _ts, "real": _real, "exact": _exact, "text": _text}

TICKS = Table(
    "ticks",
    {
        "id": "int", "ts": "ts", "symbol": "text", "price": "real", "volume": "real", "source": "text",
        "trade_id": "int", "event_id": "text",
    },
    ("id",),
)  # fmt: skip
SIGNALS = Table(
    "signals",
    {
        "id": "int", "ts": "ts", "symbol": "text", "event_id": "text", "tick_id": "int", "side": "text",
        "reason": "text", "confidence": "real", "size": "exact", "price": "exact", "veto": "text",
        "veto_detail": "text",
    },
    ("id",),
)  # fmt: skip
ORDERS = Table(
    "orders",
    {
        "id": "int", "ts": "ts", "order_id": "text", "signal_id": "text", "mode": "text", "symbol": "text",
        "side": "text", "qty": "exact", "price": "exact", "is_shadow": "int",
    },
    ("id",),
)  # fmt: skip
ORDER_EVENTS = Table(
    "order_events",
    {
        "order_id": "text", "seq": "int", "ts": "ts", "status": "text", "reason": "text", "filled_qty": "exact",
        "detail": "text",
    },
    ("order_id", "seq"),
)  # fmt: skip
FILLS = Table(
    "fills",
    {
        "id": "int", "ts": "ts", "event_id": "text", "order_id": "text", "mode": "text", "symbol": "text",
        "side": "text", "qty": "exact", "price": "exact", "fees": "exact", "cash_delta": "exact", "is_shadow": "int",
    },
    ("id",),
)  # fmt: skip
POSITIONS = Table(
    "positions",
    {
        "fill_id": "int", "ts": "ts", "mode": "text", "symbol": "text", "qty": "exact", "cash": "exact",
        "fees": "exact", "price": "exact",
    },
    ("fill_id", "mode", "symbol"),
)  # fmt: skip
"""A position as it was after the fill `fill_id` of its ledger."""
GAPS = Table(
    "gaps",
    {"version": "int", "ts": "ts", "source": "text", "market": "text", "first": "int", "last": "int"},
    ("version", "source", "market", "first"),
)
"""The trade ids of a source that are missing, all of them anew in each version."""
DECISIONS = Table("decisions", {"at_byte": "int", "ts": "ts", "action": "text", "line": "text"}, ("at_byte",))
"""The soak controller's, by where in its log they stand."""
HEARTBEATS = Table("heartbeats", {"at_us": "int", "ts": "ts", "line": "text"}, ("at_us",))
"""The engine's, by the microsecond of the Unix epoch in which the journal took them."""

TABLES = {
    table.name: table for table in (TICKS, SIGNALS, ORDERS, ORDER_EVENTS, FILLS, POSITIONS, GAPS, DECISIONS, HEARTBEATS)
}
