"""What becomes of a signal that risk let through: an order, its transitions and its fills (R4).

Three executors with one face. SHADOW records an order as filled at once. PAPER takes it through its whole
life against the ticks that follow. LIVE passes it to an adapter that somebody installed and this project does
not ship. The first two have no way to reach a venue: nothing here can open a connection (I1).

Life of an order, each arrow an `OrderEvent`:

    SUBMITTED ─> ACKNOWLEDGED ─> PARTIAL_FILL* ─> FILLED
        └─> REJECTED    └──────────────┴─> CANCELED

Accounting (R5, I4): prices, fees and quantities are rounded once, when they are made, to PLACES; everything
after that is exact, so that for every fill cash_delta + (+/- qty x price) + fees is zero, not nearly zero.
A fill's id is its order's id and the `seq` of the transition that reports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Final, Protocol, TypeAlias

import msgspec

from engine.events import EXACT, Fill, Mode, OrderEvent, OrderStatus, Reason, Side, Signal, Tick
from engine.exits import Crash

PLACES: Final = Decimal("1e-12")
"""Every price and fee is rounded to this, half to even; every quantity is cut down to it."""

PAPER_TICKS_MAX: Final = 100
"""A paper order rests for so many ticks of its symbol; then what is left of it is cancelled (S11)."""

SEEN_SIGNALS_MAX: Final = 65_536
"""How many signal ids an executor remembers (I3). Older ones are still refused by the database's unique keys,
so a signal that comes again after that many others moves the position in memory, but never on disk."""

_ROUND: Final = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])
_CUT: Final = Context(prec=60, rounding=ROUND_DOWN, traps=[InvalidOperation])
_BASIS_POINTS: Final = Decimal(10_000)

Outcome: TypeAlias = tuple[list[OrderEvent], list[Fill]]
"""Transitions and fills in the order they happened. Persist both; give both to risk.Book.record."""


class Order(msgspec.Struct):
    """An order and how far it has come. `price` is the tick's price the signal was made at; `resting_ticks`
    counts the ticks of its symbol since."""

    order_id: str
    signal_id: str
    tick_id: int
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    filled_qty: Decimal = Decimal(0)
    seq: int = -1
    resting_ticks: int = 0

    @property
    def remaining_qty(self) -> Decimal:
        return EXACT.subtract(self.qty, self.filled_qty)


class Executor(Protocol):
    """What the pipeline drives. Every method returns what happened; `now_ms` stamps it (wall or replay time)."""

    mode: Mode

    def adopt(self, orders: Iterable[OrderEvent]) -> None:
        """Take over the orders that an earlier run left open (`Restored.open_orders`). Call before anything else."""
        ...

    def submit(self, signal: Signal, now_ms: int) -> Outcome:
        """Make an order of `signal`. Nothing happens for a signal id seen before (I3).
        Raises ValueError for a vetoed signal."""
        ...

    def on_ticks(self, ticks: Sequence[Tick], now_ms: int) -> Outcome:
        """What `ticks` do to open orders. An order takes no notice of ticks up to the one that caused it, so it
        does not matter whether a batch comes here before or after its signals were submitted."""
        ...

    def cancel(self, order_id: str, now_ms: int) -> Outcome:
        """Cancel what is left of one order; nothing for an order that is not open."""
        ...

    def cancel_all(self, now_ms: int) -> Outcome:
        """Cancel what is left of every open order, oldest first. Called at shutdown."""
        ...


class SeenIds:
    """The last `limit` ids that were added, exactly."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: dict[str, None] = {}  # insertion-ordered

    def add(self, new_id: str) -> bool:
        """Remember the id; False when it was known."""
        if new_id in self._ids:
            return False
        self._ids[new_id] = None
        if len(self._ids) > self._limit:
            del self._ids[next(iter(self._ids))]
        return True


def _unusable(signal: Signal) -> str | None:
    """Why no order can be made of the signal, or None."""
    for name, value in (("size", signal.size), ("price", signal.price)):
        if not value.is_finite() or value <= 0:
            return f"{name} {value} is not a positive number"
        try:
            rounded = value.quantize(PLACES, context=_CUT)
        except InvalidOperation:
            return f"{name} {value} is too large"
        if rounded == 0:
            return f"{name} {value} is below {PLACES}"
    return None


def _order(mode: Mode, signal: Signal) -> Order:
    return Order(
        order_id=f"{mode.lower()}-{signal.event_id}",
        signal_id=signal.event_id,
        tick_id=signal.tick_id,
        symbol=signal.symbol,
        side=signal.side,
        qty=signal.size,
        price=signal.price,
    )


class _Simulator:
    """What SHADOW and PAPER share: prices, fees, and the record of an order's life."""

    mode: Mode

    def __init__(self, fee_rate: Decimal, slippage_bps: Decimal) -> None:
        """`fee_rate`: fraction of the notional; `slippage_bps`: how much worse than the tick a fill is, in 1/10000."""
        self._fee_rate = fee_rate
        self._slippage = slippage_bps / _BASIS_POINTS
        self._seen = SeenIds(SEEN_SIGNALS_MAX)

    def _is_new(self, signal: Signal) -> bool:
        return _is_new(self._seen, signal)

    def _fill_price(self, side: Side, price: Decimal) -> Decimal:
        factor = 1 + self._slippage if side is Side.BUY else 1 - self._slippage
        return _ROUND.multiply(price, factor).quantize(PLACES, context=_ROUND)

    def _fill(self, order: Order, qty: Decimal, price: Decimal, now_ms: int) -> Fill:
        """Count `qty` as filled. The caller reports it with the order's next transition, which gives the id."""
        notional = EXACT.multiply(qty, price)
        fees = _ROUND.multiply(notional, self._fee_rate).quantize(PLACES, context=_ROUND)
        order.filled_qty = EXACT.add(order.filled_qty, qty)
        return _fill(self.mode, order, qty, price, fees, now_ms)


def _is_new(seen: SeenIds, signal: Signal) -> bool:
    if signal.veto is not None:
        raise ValueError(f"signal {signal.event_id} was vetoed ({signal.veto}), it must not become an order")
    return seen.add(signal.event_id)


def _fill(mode: Mode, order: Order, qty: Decimal, price: Decimal, fees: Decimal, now_ms: int) -> Fill:
    notional = EXACT.multiply(qty, price)
    cash = notional if order.side is Side.SELL else -notional
    return Fill(
        event_id=f"{order.order_id}/{order.seq + 1}",
        order_id=order.order_id,
        symbol=order.symbol,
        side=order.side,
        qty=qty,
        price=price,
        fees=fees,
        cash_delta=EXACT.subtract(cash, fees),
        ts=now_ms,
        is_shadow=mode is not Mode.LIVE,
        mode=mode,
    )


def _transition(
    mode: Mode, order: Order, status: OrderStatus, reason: Reason, now_ms: int, detail: str | None = None
) -> OrderEvent:
    order.seq += 1
    return OrderEvent(
        order_id=order.order_id,
        seq=order.seq,
        signal_id=order.signal_id,
        symbol=order.symbol,
        side=order.side,
        qty=order.qty,
        price=order.price,
        filled_qty=order.filled_qty,
        status=status,
        reason=reason,
        ts=now_ms,
        is_shadow=mode is not Mode.LIVE,
        detail=detail,
        mode=mode,
    )


def _adopted(orders: Iterable[OrderEvent], mode: Mode) -> dict[str, Order]:
    return {
        event.order_id: Order(
            order_id=event.order_id,
            signal_id=event.signal_id,
            tick_id=0,
            symbol=event.symbol,
            side=event.side,
            qty=event.qty,
            price=event.price,
            filled_qty=event.filled_qty,
            seq=event.seq,
        )
        for event in orders
        if event.mode is mode
    }


class ShadowExecutor(_Simulator):
    """Records each order as filled, whole and at once, at the tick's price worsened by the slippage (S9)."""

    mode = Mode.SHADOW

    def adopt(self, orders: Iterable[OrderEvent]) -> None:
        """A shadow order is never open; there is nothing to take over."""

    def submit(self, signal: Signal, now_ms: int) -> Outcome:
        if not self._is_new(signal):
            return [], []
        order = _order(self.mode, signal)
        problem = _unusable(signal)
        if problem is None:
            order.qty = order.qty.quantize(PLACES, context=_CUT)
            price = self._fill_price(order.side, order.price)
            if price > 0:
                fill = self._fill(order, order.qty, price, now_ms)
                filled = _transition(
                    self.mode, order, OrderStatus.FILLED, Reason.SHADOW_RECORDED, now_ms, self._assumptions()
                )
                return [filled], [fill]
            problem = f"price {order.price} less slippage is not positive"
        rejected = _transition(
            self.mode, order, OrderStatus.REJECTED, Reason.SHADOW_RECORDED, now_ms, problem
        )
        return [rejected], []

    def on_ticks(self, ticks: Sequence[Tick], now_ms: int) -> Outcome:
        return [], []

    def cancel(self, order_id: str, now_ms: int) -> Outcome:
        return [], []

    def cancel_all(self, now_ms: int) -> Outcome:
        return [], []

    def _assumptions(self) -> str | None:
        return None
