"""Whether a signal may become an order (R2, R3): the exposure it could lead to, and the age of its tick.

Exposure of a symbol is the furthest its position can get with the orders that are open, whichever of them
fill and in whatever order, at the symbol's latest price:

    max(position + open buys, open sells - position) x price

A signal is vetoed if it would raise the exposure of its symbol, or of all symbols together, to more than the
cap. One that does not raise it always passes, so that an operator can get out of a position that the market
has carried over the cap. Prices move the exposure too; no order does, beyond the cap (I2).

Work and memory are bounded however many symbols there are (B5). What all symbols are exposed to together is a running
sum, kept exactly; a symbol without position and open orders is forgotten; and a signal that would open one more than
HOLDINGS_MAX is vetoed.

The book knows only what it is told: after `assess` lets a signal through, what the executor made of it must be
given to `record` before the next `assess`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from typing import Final

import msgspec

from engine.base.events import EXACT, WIDE, Fill, OrderEvent, OrderStatus, Reason, Side, Signal, Tick
from engine.trading.execution import SeenIds

BOOKED_IDS_MAX: Final = 1024
"""How many ids of fills and of ended orders the book remembers (I3). What comes to it twice comes close together: the
executor has refused a repeated signal before, and what is older the database refuses."""

HOLDINGS_MAX: Final = 16_384
"""So many symbols have a position or open orders at once, in about 16 MiB: four times what one run takes from a feed
(wire.SYMBOLS_MAX), so that a few restarts, or the replay of many markets, do not reach it."""

# Exposure is compared, not booked: a price too long for exact arithmetic is rounded up, against us.
_UP: Final = Context(prec=60, rounding=ROUND_CEILING)

_add, _subtract = EXACT.add, EXACT.subtract
_add_up, _subtract_up, _multiply_up = _UP.add, _UP.subtract, _UP.multiply

_ZERO: Final = Decimal(0)

# To look a member up in its enumeration takes as long as to add two decimals.
_BUY: Final = Side.BUY
_FILLED: Final = OrderStatus.FILLED
_CANCELED: Final = OrderStatus.CANCELED
_REJECTED: Final = OrderStatus.REJECTED


class Caps(msgspec.Struct, frozen=True):
    """`[risk_caps]` in exact numbers, and `[engine] max_staleness_ms`."""

    max_exposure_usd: Decimal
    max_symbol_exposure_usd: Decimal
    max_open_orders: int
    max_staleness_ms: int


class _Holding(msgspec.Struct):
    """One symbol: position (negative when short), unfilled quantity of open orders, latest price."""

    position: Decimal = _ZERO
    buys: Decimal = _ZERO
    sells: Decimal = _ZERO
    price: Decimal = _ZERO
    # Stale between a change of the others and `move` or `Book._reckon`.
    up: Decimal = _ZERO  # the furthest that the position can get, and the furthest that it can get below
    down: Decimal = _ZERO
    reach: Decimal = _ZERO  # the greater of both; 0 without position and open orders
    exposure: Decimal = _ZERO

    def move(self) -> None:
        """Follow a change of position or open orders."""
        self.up = up = _add_up(self.position, self.buys)
        self.down = down = _subtract_up(self.sells, self.position)
        self.reach = up if up >= down else down


class Book:
    """Positions and open orders of one mode, and the judgement on new signals. Decimal throughout (R5)."""

    def __init__(self, caps: Caps, positions: Mapping[str, tuple[Decimal, Decimal]] | None = None) -> None:
        """`positions`: what earlier runs left, symbol -> (quantity, last known price). Open orders they left are
        given to `record` like any others."""
        self._caps = caps
        self._holdings: dict[str, _Holding] = {}
        # The holding that changed last, which mostly is the one that changes next, and the exact sum of all others'
        # exposures.
        self._current = _Holding()
        self._others = _ZERO
        for symbol, (qty, price) in (positions or {}).items():
            if qty:
                self._holdings[symbol] = holding = _Holding(position=qty, price=price)
                holding.move()
                self._reckon(holding)
        # The size that was last seen to be an amount.
        self._size = _ZERO
        # The symbol assessed last: it keeps its price until its order is recorded, although it may be flat.
        self._assessed = ""
        self._open: dict[str, OrderEvent] = {}  # by order id; the latest transition
        self._seen_fills = SeenIds(BOOKED_IDS_MAX)
        self._ended_orders = SeenIds(BOOKED_IDS_MAX)

    @property
    def open_orders(self) -> int:
        """Orders that have neither filled nor ended: what `max_open_orders` caps (R3)."""
        return len(self._open)

    def position(self, symbol: str) -> Decimal:
        """Quantity held; negative when short."""
        return self._holdings[symbol].position if symbol in self._holdings else _ZERO

    def exposure(self, symbol: str | None = None) -> Decimal:
        """In quote currency, at the latest prices; of all symbols together for None."""
        if symbol is None:
            return WIDE.add(self._others, self._current.exposure)
        return self._holdings[symbol].exposure if symbol in self._holdings else _ZERO

    def mark(self, ticks: Sequence[Tick]) -> None:
        """Take the latest price of each symbol that is held or has open orders."""
        unmarked = len(self._holdings)
        seen: set[str] = set()
        for tick in reversed(ticks):
            if not unmarked:
                return
            if tick.symbol in seen:
                continue
            seen.add(tick.symbol)
            holding = self._holdings.get(tick.symbol)
            if holding is not None:
                holding.price = Decimal(repr(tick.price))
                self._reckon(holding)
                unmarked -= 1

    def assess(self, signal: Signal, now_ms: int) -> Signal:
        """The signal as it is, or with `veto` and `veto_detail` set. Marks its symbol at its price unless stale.

        `now_ms` is wall time, or replay time in REPLAY. A tick from further in the future than
        `max_staleness_ms` is as stale as one from that far in the past: one of the two clocks is wrong.
        """
        age_ms = now_ms - signal.ts
        if abs(age_ms) > self._caps.max_staleness_ms:
            return _veto(
                signal,
                Reason.STALE_DATA,
                f"tick is {age_ms} ms old, allowed are {self._caps.max_staleness_ms} in either direction",
            )
        size, price = signal.size, signal.price
        # Mostly of the same size as the signal before, which is then looked at once.
        if (size is not self._size or not price.is_finite() or price <= _ZERO) and (name := self._not_positive(signal)):
            return _veto(signal, Reason.RISK_CAP, f"{name} {getattr(signal, name)} is not a positive number")
        if len(self._open) >= self._caps.max_open_orders:
            return _veto(
                signal,
                Reason.RISK_CAP,
                f"{len(self._open)} open orders, allowed are {self._caps.max_open_orders}",
            )
        excess = self._excess(signal)
        return signal if excess is None else _veto(signal, Reason.RISK_CAP, excess)

    def record(self, events: Iterable[OrderEvent], fills: Iterable[Fill]) -> None:
        """Book what an executor returned. Transitions and fills that were booked before change nothing (I3)."""
        touched: set[str] = set()
        for event in events:
            touched.add(event.symbol)
            # Of an order that is over with its first transition nothing rests.
            if event.seq or event.status is not _FILLED:
                self._record_event(event)
        for fill in fills:
            if self._seen_fills.add(fill.event_id):
                touched.add(fill.symbol)
                holding = self._holdings.get(fill.symbol) or self._holding(fill.symbol)
                move = _add if fill.side is _BUY else _subtract
                holding.position = move(holding.position, fill.qty)
                if not holding.price:
                    holding.price = fill.price
        # Only now: a fill that closes an order comes after the order's last transition, and needs the price it had.
        holdings = self._holdings
        for symbol in touched:
            holding = holdings.get(symbol) or self._holding(symbol)
            holding.move()
            self._reckon(holding)
            if not holding.reach:
                del holdings[symbol]

    def _holding(self, symbol: str) -> _Holding:
        holding = self._holdings.get(symbol)
        if holding is None:
            holding = self._holdings[symbol] = _Holding()
        return holding

    def _reckon(self, holding: _Holding) -> None:
        """Bring the exposure up to date with a holding that has changed."""
        if holding is not self._current:
            # Normalized, or the finest price ever seen would make every later sum as long as itself.
            total = WIDE.add(self._others, self._current.exposure)
            self._others = WIDE.normalize(WIDE.subtract(total, holding.exposure))
            self._current = holding
        holding.exposure = _multiply_up(holding.reach, holding.price)

    def _forget_flat(self, symbol: str) -> None:
        holding = self._holdings.get(symbol)
        if holding is not None and not holding.reach:
            del self._holdings[symbol]

    def _not_positive(self, signal: Signal) -> str | None:
        size, price = signal.size, signal.price
        if not size.is_finite() or size <= _ZERO:
            return "size"
        self._size = size
        return "price" if not price.is_finite() or price <= _ZERO else None

    def _excess(self, signal: Signal) -> str | None:
        """Mark the signal's symbol; name the cap its full fill could break, or None."""
        if self._assessed != signal.symbol:
            self._forget_flat(self._assessed)
        holding = self._holdings.get(signal.symbol)
        if holding is None:
            if len(self._holdings) >= HOLDINGS_MAX:
                return f"positions or open orders in {len(self._holdings)} symbols, allowed are {HOLDINGS_MAX}"
            holding = self._holding(signal.symbol)
        self._assessed = signal.symbol
        holding.price = signal.price
        self._reckon(holding)
        reach = _add_up(holding.up if signal.side is _BUY else holding.down, signal.size)
        after = _multiply_up(reach, signal.price)
        if after <= holding.exposure:
            return None
        cap = self._caps.max_symbol_exposure_usd
        if after > cap:
            return f"exposure of {signal.symbol} could become {after:f}, allowed is {cap:f}"
        total = WIDE.add(self._others, after)
        cap = self._caps.max_exposure_usd
        if total > cap:
            return f"exposure could become {total:f}, allowed is {cap:f}"
        return None

    def _record_event(self, event: OrderEvent) -> None:
        known = self._open.get(event.order_id)
        if known is not None:
            if event.seq <= known.seq:
                return
            self._rest(known, -1)
            del self._open[event.order_id]
        status = event.status
        if status is _FILLED or status is _CANCELED or status is _REJECTED:
            # Of an order that ends with its first transition there is none that could come late.
            if event.seq:
                self._ended_orders.add(event.order_id)
        elif known is not None or event.order_id not in self._ended_orders:
            self._open[event.order_id] = event
            self._rest(event, +1)

    def _rest(self, event: OrderEvent, sign: int) -> None:
        """Add (or take away) what is unfilled of an open order."""
        holding = self._holding(event.symbol)
        change = EXACT.multiply(EXACT.subtract(event.qty, event.filled_qty), Decimal(sign))
        if event.side is _BUY:
            holding.buys = WIDE.add(holding.buys, change)
        else:
            holding.sells = WIDE.add(holding.sells, change)
        if not holding.price:
            holding.price = event.price


def _veto(signal: Signal, reason: Reason, detail: str) -> Signal:
    return msgspec.structs.replace(signal, veto=reason, veto_detail=detail)
