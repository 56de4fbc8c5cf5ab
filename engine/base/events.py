"""What flows through the pipeline: ticks in; signals, orders and fills out. Plain data, no behaviour.

Times (`ts`) are integer milliseconds since the Unix epoch, in the exchange's clock for ticks and in the
clock that strategy and risk run on (wall time, or replay time in REPLAY) for everything derived.
Money is `Decimal` from the signal onwards (contract R5); a tick keeps the float the wire parser made.
"""

from __future__ import annotations

from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
)
from enum import StrEnum

import msgspec

# Sums and products of money are made in this context (R5, I4). Quantities, prices and fees have at most 12
# decimal places, so a product has 24 and 36 digits are left before the point; what does not fit raises
# decimal.Inexact rather than being rounded. Python's default context would round at 28 digits in silence.
EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])

# Running sums are kept in this one, because a sum that never rounds cannot drift. Wide enough for any number of any
# doubles, written in decimal (309 digits before the point, 324 behind it), times an amount: up to 309 digits more
# before the point, 12 behind it.
WIDE = Context(prec=1000, Emax=MAX_EMAX, Emin=MIN_EMIN)


class Mode(StrEnum):
    """What the engine may do with an order. SHADOW is the default (G0)."""

    SHADOW = "SHADOW"
    PAPER = "PAPER"
    LIVE = "LIVE"


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"


class Reason(StrEnum):
    """Why a signal was made or vetoed, or why an order changed state. Persisted as they stand."""

    PERIODIC_TRIGGER = "PERIODIC_TRIGGER"
    SMA_CROSSOVER = "SMA_CROSSOVER"
    STALE_DATA = "STALE_DATA"
    RISK_CAP = "RISK_CAP"
    SHADOW_RECORDED = "SHADOW_RECORDED"
    PAPER_SUBMITTED = "PAPER_SUBMITTED"
    PAPER_ACKNOWLEDGED = "PAPER_ACKNOWLEDGED"
    PAPER_FILL = "PAPER_FILL"
    PAPER_REJECTED = "PAPER_REJECTED"
    PAPER_CANCELED = "PAPER_CANCELED"
    ADAPTER = "ADAPTER"
    ADAPTER_ERROR = "ADAPTER_ERROR"


class OrderStatus(StrEnum):
    SUBMITTED = "SUBMITTED"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    PARTIAL_FILL = "PARTIAL_FILL"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    REJECTED = "REJECTED"


class Tick(msgspec.Struct, gc=False):
    """One trade print. Mutable because intake sets `id`, and `source` where ids started over.

    `source` names what its ids count in: the source, for its first market and numbering (N11, N12).
    `trade_id` is the venue's integer id where it gives one, `event_id` a textual one where it does not;
    both None for a source without ids (SYNTHETIC). `id` is 0 until intake numbers the tick; it becomes the
    row id, so it never repeats within one database.
    """

    source: str
    symbol: str
    price: float
    volume: float
    ts: int
    trade_id: int | None = None
    event_id: str | None = None
    id: int = 0


class Numbering(msgspec.Struct):
    """What is known of one numbering of a stream's trade ids, as it goes to disk and comes back (N9, N11).

    A stream is what one source says of one market; its ids may start over, and each numbering counts for itself.
    `first` and `last` are the lowest and the highest id seen, `newest_ts` the latest time, `oldest_ts` that of the
    first ids; None where it is not known. `missing` are the ids in between that were not seen, as (from, to), both
    included; None: as stored before. `segments`, ascending, say when ids came: (up to this id, from this time, to this
    time)."""

    stream: str
    number: int
    first: int
    last: int
    newest_ts: int
    missing: list[tuple[int, int]] | None = None
    segments: list[tuple[int, int, int]] = []
    oldest_ts: int | None = None

    @property
    def label(self) -> str:
        return numbering_label(self.stream, self.number)


def numbering_label(stream: str, number: int) -> str:
    """Return what `Tick.source` is for the ticks of a numbering: the stream's name for its first one."""
    return stream if number == 1 else f"{stream} (numbering {number})"


class Signal(msgspec.Struct, frozen=True, gc=False):
    """What the strategy wants. `event_id` is derived from strategy and the tick's identity at its source, so that
    reprocessing a tick makes the same id again (I3). `veto` is None for a signal that passed risk."""

    event_id: str
    tick_id: int
    symbol: str
    side: Side
    reason: Reason
    confidence: float
    size: Decimal
    price: Decimal
    ts: int
    veto: Reason | None = None
    veto_detail: str | None = None


class OrderEvent(msgspec.Struct, frozen=True, gc=False):
    """One transition of an order. The first of an order creates it; `seq` counts from 0 within the order.

    `is_shadow` is False only for an order that a venue was asked for (LIVE); PAPER and SHADOW are told apart
    by `mode`, because their positions must not mix."""

    order_id: str
    seq: int
    signal_id: str
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    filled_qty: Decimal
    status: OrderStatus
    reason: Reason
    ts: int
    is_shadow: bool
    detail: str | None = None
    mode: Mode = Mode.SHADOW


class Fill(msgspec.Struct, frozen=True, gc=False):
    """One execution of (part of) an order. `cash_delta` is exact: -/+ qty x price - fees."""

    event_id: str
    order_id: str
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    fees: Decimal
    cash_delta: Decimal
    ts: int
    is_shadow: bool
    mode: Mode = Mode.SHADOW
