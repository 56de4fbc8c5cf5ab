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

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Final, Protocol, TypeAlias

import msgspec

from engine.base.events import EXACT, Fill, Mode, OrderEvent, OrderStatus, Reason, Side, Signal, Tick
from engine.base.exits import ConfigError, Crash

PLACES: Final = Decimal("1e-12")
"""Every price and fee is rounded to this, half to even; every quantity is cut down to it."""

MAGNITUDE_MAX: Final = Decimal("1e15")
"""No order is made at a size or price of this or more: products of what is below it stay exact (events.EXACT)."""

PAPER_TICKS_MAX: Final = 100
"""A paper order rests for so many ticks of its symbol; then what is left of it is cancelled (S11)."""

PAPER_REST_MS: Final = 3_600_000
"""And for so long, where fewer ticks of its symbol come: an hour is longer than the pauses of a market that is merely
quiet, and an order in one that is gone must not count against `max_open_orders` for ever."""

PAPER_ORDERS_MAX: Final = 4096
"""So many paper orders rest at once, in about 10 MiB; one more cancels the oldest (B5). A venue has a limit too."""

SEEN_IDS_MAX: Final = 2048
"""How many ids of signals an executor remembers, in about a quarter of a megabyte (I3). An older one is still refused
by the database's unique keys: it moves the position in memory until the next start, but never on disk."""

_ROUND: Final = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])
_CUT: Final = Context(prec=60, rounding=ROUND_DOWN, traps=[InvalidOperation])

_multiply, _subtract = EXACT.multiply, EXACT.subtract
_multiply_round, _quantize_round = _ROUND.multiply, _ROUND.quantize

# To look a member up in its enumeration takes as long as to add two decimals.
_SELL: Final = Side.SELL
_FILLED: Final = OrderStatus.FILLED
_SHADOW: Final = Mode.SHADOW
_RECORDED: Final = Reason.SHADOW_RECORDED

Outcome: TypeAlias = tuple[list[OrderEvent], list[Fill]]
"""Transitions and fills in the order they happened. Persist both; give both to risk.Book.record."""


class Order(msgspec.Struct):
    """An order and how far it has come. `price` is the tick's price the signal was made at; `resting_ticks`
    counts the ticks of its symbol since, `since_ms` is when it was made; of an adopted one, when
    it last changed."""

    order_id: str
    signal_id: str
    tick_id: int
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    since_ms: int
    filled_qty: Decimal = Decimal(0)
    seq: int = -1
    status: OrderStatus = OrderStatus.SUBMITTED
    resting_ticks: int = 0

    @property
    def remaining_qty(self) -> Decimal:
        """What is yet to be filled, exactly; in units of the base asset."""
        return EXACT.subtract(self.qty, self.filled_qty)


class Executor(Protocol):
    """What the pipeline drives. Every method returns what happened; `now_ms` stamps it (wall or replay time)."""

    mode: Mode

    def adopt(self, orders: Iterable[OrderEvent], signal_ids: Iterable[str] = ()) -> None:
        """Take over what earlier runs left: the last transitions of open orders, and the ids of signals that need
        no second answer (`Restored.open_orders`, `.recent_signal_ids`). Call before anything else."""
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

    def open_order_ids(self) -> list[str]:
        """The orders that have neither filled nor ended, oldest first."""
        ...


class SeenIds:
    """The last `limit` ids that were added, exactly."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # A set would do, but while ids come and go it is four times as large, and made anew every few thousand of them:
        # the largest part of what the process grew by in its first million ticks.
        self._ids: dict[str, None] = {}
        self._oldest_first: deque[str] = deque()

    def add(self, new_id: str) -> bool:
        """Remember the id; False when it was known."""
        ids = self._ids
        if new_id in ids:
            return False
        ids[new_id] = None
        self._oldest_first.append(new_id)
        if len(ids) > self._limit:
            del ids[self._oldest_first.popleft()]
        return True

    def __contains__(self, known_id: str) -> bool:
        return known_id in self._ids


def _unusable(name: str, value: Decimal) -> str | None:
    """Why no order or fill can have this size or price, or None."""
    if not value.is_finite() or value <= 0:
        return f"{name} {value} is not a positive number"
    if value >= MAGNITUDE_MAX:
        return f"{name} {value} is not below {MAGNITUDE_MAX}"
    if value < PLACES:
        return f"{name} {value} is below {PLACES}"
    return None


def _cash_delta(side: Side, notional: Decimal, fees: Decimal) -> Decimal:
    return _subtract(notional if side is _SELL else EXACT.minus(notional), fees)


def _order(signal: Signal, order_id: str, qty: Decimal, price: Decimal, now_ms: int) -> Order:
    return Order(order_id, signal.event_id, signal.tick_id, signal.symbol, signal.side, qty, price, now_ms)


class _Executor:
    """What all three share: the memory of signals, the orders that are open, and their records."""

    mode: Mode

    def __init__(self) -> None:
        self._seen = SeenIds(SEEN_IDS_MAX)
        self._open: OrderedDict[str, Order] = OrderedDict()  # by order id, oldest first
        self._prefix = f"{self.mode.lower()}-"
        # The size of the last signal, and what becomes of it in an order.
        self._size = self._qty = Decimal("NaN")
        self._size_problem: str | None = None

    def adopt(self, orders: Iterable[OrderEvent], signal_ids: Iterable[str] = ()) -> None:
        for signal_id in signal_ids:
            self._seen.add(signal_id)
        for event in orders:
            if event.mode is self.mode:
                self._seen.add(event.signal_id)
                self._enter(
                    Order(
                        order_id=event.order_id,
                        signal_id=event.signal_id,
                        tick_id=0,
                        symbol=event.symbol,
                        side=event.side,
                        qty=event.qty,
                        price=event.price,
                        filled_qty=event.filled_qty,
                        seq=event.seq,
                        status=event.status,
                        since_ms=event.ts,
                    )
                )

    def submit(self, signal: Signal, now_ms: int) -> Outcome:
        if signal.veto is not None:
            raise ValueError(f"signal {signal.event_id} was vetoed ({signal.veto}): it must not become an order")
        if not self._seen.add(signal.event_id):
            return [], []
        if signal.size is not self._size:
            self._take_size(signal.size)
        qty, price = self._qty, signal.price
        problem = self._size_problem
        if not (price.is_finite() and PLACES <= price < MAGNITUDE_MAX):
            problem = problem or _unusable("price", price)
        if problem is None and (rounded := _quantize_round(price, PLACES)) != price:
            price = rounded
        return self._place(signal, f"{self._prefix}{signal.event_id}", qty, price, problem, now_ms)

    def _take_size(self, size: Decimal) -> None:
        """Mostly one signal is of the same size as the one before, so it is looked at once."""
        self._size = size
        self._size_problem = _unusable("size", size)
        cut = size if self._size_problem is not None else size.quantize(PLACES, context=_CUT)
        self._qty = size if cut == size else cut

    def cancel_all(self, now_ms: int) -> Outcome:
        events: list[OrderEvent] = []
        fills: list[Fill] = []
        for order_id in list(self._open):
            more_events, more_fills = self.cancel(order_id, now_ms)
            events += more_events
            fills += more_fills
        return events, fills

    def open_order_ids(self) -> list[str]:
        return list(self._open)

    def cancel(self, order_id: str, now_ms: int) -> Outcome:
        raise NotImplementedError

    def _place(
        self, signal: Signal, order_id: str, qty: Decimal, price: Decimal, problem: str | None, now_ms: int
    ) -> Outcome:
        """Make an order of `qty` at `price` and its first transitions, or reject it for the `problem` it has."""
        raise NotImplementedError

    def _enter(self, order: Order) -> None:
        self._open[order.order_id] = order

    def _leave(self, order: Order) -> None:
        self._open.pop(order.order_id, None)

    def _transition(
        self, order: Order, status: OrderStatus, reason: Reason, now_ms: int, detail: str | None = None
    ) -> OrderEvent:
        order.seq += 1
        order.status = status
        if status in (OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.REJECTED):
            self._leave(order)
        else:
            self._enter(order)
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
            is_shadow=self.mode is not Mode.LIVE,
            detail=detail,
            mode=self.mode,
        )

    def _fill(self, order: Order, qty: Decimal, price: Decimal, fees: Decimal, now_ms: int) -> Fill:
        """Count `qty` as filled, once (S11). The transition that reports it must be the order's next one."""
        order.filled_qty = EXACT.add(order.filled_qty, qty)
        return Fill(
            event_id=f"{order.order_id}/{order.seq + 1}",
            order_id=order.order_id,
            symbol=order.symbol,
            side=order.side,
            qty=qty,
            price=price,
            fees=fees,
            cash_delta=_cash_delta(order.side, EXACT.multiply(qty, price), fees),
            ts=now_ms,
            is_shadow=self.mode is not Mode.LIVE,
            mode=self.mode,
        )


class _Simulator(_Executor):
    """What the two executors without a venue share: the price and the fee of a simulated fill."""

    def __init__(self, fee_rate: Decimal, slippage_bps: Decimal) -> None:
        """`fee_rate`: fraction of the notional. `slippage_bps`: how much worse than the tick, in 1/10000."""
        super().__init__()
        self._fee_rate = fee_rate
        slippage = _ROUND.divide(slippage_bps, Decimal(10_000))
        self._price_factor = {
            Side.BUY: _ROUND.add(Decimal(1), slippage),
            Side.SELL: _ROUND.subtract(Decimal(1), slippage),
        }
        self._has_slippage = bool(slippage)
        self._assumptions = f"fee_rate={fee_rate} slippage_bps={slippage_bps}"

    def _fill_price(self, side: Side, price: Decimal) -> Decimal:
        return _ROUND.multiply(price, self._price_factor[side]).quantize(PLACES, context=_ROUND)

    def _fees(self, notional: Decimal) -> Decimal:
        return _quantize_round(_multiply_round(notional, self._fee_rate), PLACES)

    def _simulated_fill(self, order: Order, qty: Decimal, price: Decimal, now_ms: int) -> Fill:
        return self._fill(order, qty, price, self._fees(EXACT.multiply(qty, price)), now_ms)


class ShadowExecutor(_Simulator):
    """Records each order as filled, whole and at once, at the tick's price worsened by the slippage (S9).

    The fee and slippage assumed are in the transition's detail. An order is never open here.
    """

    mode = Mode.SHADOW

    def on_ticks(self, ticks: Sequence[Tick], now_ms: int) -> Outcome:
        return [], []

    def cancel(self, order_id: str, now_ms: int) -> Outcome:
        return [], []

    def _place(
        self, signal: Signal, order_id: str, qty: Decimal, price: Decimal, problem: str | None, now_ms: int
    ) -> Outcome:
        side, symbol = signal.side, signal.symbol
        fill_price = price
        if problem is None and self._has_slippage:
            fill_price = self._fill_price(side, price)
            problem = _unusable("price after slippage", fill_price)
        if problem is not None:
            order = _order(signal, order_id, qty, price, now_ms)
            return [self._transition(order, OrderStatus.REJECTED, Reason.SHADOW_RECORDED, now_ms, problem)], []
        # By position, and without an Order, which would be over at once: this is done for every tenth tick by default.
        notional = _multiply(qty, fill_price)
        fees = self._fees(notional)
        filled = OrderEvent(
            order_id, 0, signal.event_id, symbol, side, qty, price, qty, _FILLED, _RECORDED,
            now_ms, True, self._assumptions, _SHADOW,
        )  # fmt: skip
        fill = Fill(
            f"{order_id}/0", order_id, symbol, side, qty, fill_price, fees, _cash_delta(side, notional, fees), now_ms,
            True, _SHADOW,
        )  # fmt: skip
        return [filled], [fill]


class PaperExecutor(_Simulator):
    """Market orders against the ticks that follow, in a simulation that gives the same fills for the same ticks.

    A tick fills at most its own volume, the oldest order of its symbol first, at its price worsened by the
    slippage. What is left of an order is cancelled after PAPER_TICKS_MAX ticks of its symbol, after PAPER_REST_MS,
    or when PAPER_ORDERS_MAX newer ones rest. The work for a tick does not grow with the orders in other symbols.
    """

    mode = Mode.PAPER

    def __init__(self, fee_rate: Decimal, slippage_bps: Decimal) -> None:
        super().__init__(fee_rate, slippage_bps)
        self._by_symbol: dict[str, dict[str, Order]] = {}  # the open orders once more, oldest first

    def on_ticks(self, ticks: Sequence[Tick], now_ms: int) -> Outcome:
        events: list[OrderEvent] = []
        fills: list[Fill] = []
        # First: after a silence nobody has looked since, and its end must not fill what was over by then.
        while self._open and now_ms - (oldest := next(iter(self._open.values()))).since_ms > PAPER_REST_MS:
            events.append(self._cancel(oldest, now_ms, f"not filled within {PAPER_REST_MS // 1000} s"))
        for tick in ticks:
            if not self._open:
                break
            if tick.symbol in self._by_symbol:
                self._match(tick, now_ms, events, fills)
        return events, fills

    def cancel(self, order_id: str, now_ms: int) -> Outcome:
        order = self._open.get(order_id)
        if order is None:
            return [], []
        return [self._cancel(order, now_ms, "requested")], []

    def _place(
        self, signal: Signal, order_id: str, qty: Decimal, price: Decimal, problem: str | None, now_ms: int
    ) -> Outcome:
        order = _order(signal, order_id, qty, price, now_ms)
        events = [self._transition(order, OrderStatus.SUBMITTED, Reason.PAPER_SUBMITTED, now_ms, self._assumptions)]
        if problem is None:
            events.append(self._transition(order, OrderStatus.ACKNOWLEDGED, Reason.PAPER_ACKNOWLEDGED, now_ms))
            while len(self._open) > PAPER_ORDERS_MAX:
                oldest = next(iter(self._open.values()))
                events.append(self._cancel(oldest, now_ms, f"{PAPER_ORDERS_MAX} newer orders rest"))
        else:
            events.append(self._transition(order, OrderStatus.REJECTED, Reason.PAPER_REJECTED, now_ms, problem))
        return events, []

    def _enter(self, order: Order) -> None:
        super()._enter(order)
        self._by_symbol.setdefault(order.symbol, {})[order.order_id] = order

    def _leave(self, order: Order) -> None:
        super()._leave(order)
        rest = self._by_symbol.get(order.symbol, {})
        rest.pop(order.order_id, None)
        if not rest:
            self._by_symbol.pop(order.symbol, None)

    def _match(self, tick: Tick, now_ms: int, events: list[OrderEvent], fills: list[Fill]) -> None:
        waiting = [order for order in self._by_symbol[tick.symbol].values() if tick.id > order.tick_id]
        if not waiting:
            return
        available = self._tradable_volume(tick)
        for order in waiting:
            order.resting_ticks += 1
            qty = min(available, order.remaining_qty)
            if qty > 0:
                available = EXACT.subtract(available, qty)
                price = self._fill_price(order.side, Decimal(repr(tick.price)))
                fills.append(self._simulated_fill(order, qty, price, now_ms))
                status = OrderStatus.PARTIAL_FILL if order.remaining_qty else OrderStatus.FILLED
                events.append(self._transition(order, status, Reason.PAPER_FILL, now_ms))
            if order.remaining_qty and order.resting_ticks >= PAPER_TICKS_MAX:
                events.append(self._cancel(order, now_ms, f"not filled within {PAPER_TICKS_MAX} ticks"))

    def _tradable_volume(self, tick: Tick) -> Decimal:
        """What the tick can fill: nothing where its price or volume could not be booked exactly."""
        price, volume = Decimal(repr(tick.price)), Decimal(repr(tick.volume))
        if _unusable("price", price) or _unusable("volume", volume):
            return Decimal(0)
        if any(_unusable("price", self._fill_price(side, price)) for side in Side):
            return Decimal(0)
        return volume.quantize(PLACES, context=_CUT)

    def _cancel(self, order: Order, now_ms: int, why: str) -> OrderEvent:
        return self._transition(order, OrderStatus.CANCELED, Reason.PAPER_CANCELED, now_ms, why)


class AdapterReport(msgspec.Struct, frozen=True):
    """What a venue said about one order. `qty`, `price` and `fees` are those of this execution alone, and 0
    unless `status` is PARTIAL_FILL or FILLED."""

    order_id: str
    status: OrderStatus
    qty: Decimal = Decimal(0)
    price: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)
    detail: str | None = None


class ExecutionAdapter(Protocol):
    """The port to a venue (R6). An entry point in the group `hybrid_engine.execution` names a class or function
    without arguments that makes one; exactly one may be installed.

    Called on the event loop, so no method may wait for the network: queue the request, answer in `reports`. An
    order's id is the same over restarts, and no two orders share one: it is what the venue must know the order by, so
    that one sent twice is one order there. After a restart `reports` speaks of orders that earlier runs left open too.
    """

    name: str

    def submit(self, order: Order) -> None:
        """Send the order. Raise, with whatever exception, only if it surely did not reach the venue: the order
        is then recorded as REJECTED (L4). Anything less certain belongs into `reports`."""
        ...

    def cancel(self, order_id: str) -> None:
        """Ask for what is left of the order to be cancelled; CANCELED comes through `reports`."""
        ...

    def reports(self) -> Iterable[AdapterReport]:
        """What has happened since the last call, in order. What it raises is recorded on the open orders, and it
        is asked again: with the next ticks, and several times a second without any."""
        ...


class LiveExecutor(_Executor):
    """Passes orders to an adapter and records what it answers. No adapter error is swallowed (L4): one from
    `submit` rejects the order; one from `cancel` or `reports` becomes a transition of every order it leaves in
    doubt, to the status it has, with reason ADAPTER_ERROR. So does a report of a fill that cannot be, or of what is no
    status."""

    mode = Mode.LIVE

    def __init__(self, adapter: ExecutionAdapter) -> None:
        super().__init__()
        self._adapter = adapter
        # Orders on which the current failure of `reports` is recorded: once each, however often it is asked.
        self._in_doubt: set[str] = set()
        # Why the run has to end, once it is known.
        self._ending: Crash | None = None

    def on_ticks(self, ticks: Sequence[Tick], now_ms: int) -> Outcome:
        """Book the adapter's reports; the ticks themselves mean nothing here.
        Raises Crash for a report about an order that is not open: from a call without ticks that has nothing to give,
        so that what was booked of other orders reaches the disk."""
        if self._ending is not None:
            if ticks:
                return [], []
            raise self._ending
        events: list[OrderEvent] = []
        fills: list[Fill] = []
        reports: list[AdapterReport] = []
        failure = None
        try:
            # What came before a failure stays in the list, and is booked.
            reports.extend(self._adapter.reports())
        except Exception as error:  # whatever a venue's library raises
            failure = f"reports: {_named(error)}"
        for report in reports:
            order = self._open.get(report.order_id)
            if order is None:
                self._ending = self._ending or Crash(
                    f"adapter {self._adapter.name}: report about an order that is not open",
                    order_id=report.order_id,
                    status=report.status,
                )
                continue
            try:
                # A plain str is equal to a status, and never that status: risk would take the order for open.
                status = OrderStatus(report.status)
            except ValueError:
                detail = f"reports: {report.status!r}, which is no status"
                events.append(self._transition(order, order.status, Reason.ADAPTER_ERROR, now_ms, detail))
                continue
            is_fill = status in (OrderStatus.PARTIAL_FILL, OrderStatus.FILLED)
            if is_fill and (problem := _impossible(report, order)) is not None:
                detail = f"reports: {status} with {problem}"
                events.append(self._transition(order, order.status, Reason.ADAPTER_ERROR, now_ms, detail))
                continue
            if is_fill:
                qty, price, fees = (
                    value.quantize(PLACES, context=_ROUND) for value in (report.qty, report.price, report.fees)
                )
                fills.append(self._fill(order, qty, price, fees, now_ms))
            events.append(self._transition(order, status, Reason.ADAPTER, now_ms, report.detail))
        if failure is None:
            self._in_doubt.clear()
        else:
            for order in [order for order in self._open.values() if order.order_id not in self._in_doubt]:
                self._in_doubt.add(order.order_id)
                events.append(self._transition(order, order.status, Reason.ADAPTER_ERROR, now_ms, failure))
        if self._ending is not None and not (ticks or events):
            raise self._ending
        return events, fills

    def cancel(self, order_id: str, now_ms: int) -> Outcome:
        """Ask the adapter; the order stays open until a report says CANCELED."""
        order = self._open.get(order_id)
        if order is None:
            return [], []
        try:
            self._adapter.cancel(order_id)
        except Exception as error:  # whatever a venue's library raises
            detail = f"cancel: {_named(error)}"
            return [self._transition(order, order.status, Reason.ADAPTER_ERROR, now_ms, detail)], []
        return [], []

    def _place(
        self, signal: Signal, order_id: str, qty: Decimal, price: Decimal, problem: str | None, now_ms: int
    ) -> Outcome:
        order = _order(signal, order_id, qty, price, now_ms)
        events = [self._transition(order, OrderStatus.SUBMITTED, Reason.ADAPTER, now_ms, self._adapter.name)]
        if problem is None:
            try:
                self._adapter.submit(order)
            except Exception as error:  # whatever a venue's library raises
                problem = _named(error)
        if problem is not None:
            events.append(self._transition(order, OrderStatus.REJECTED, Reason.ADAPTER_ERROR, now_ms, problem))
        return events, []


def _impossible(report: AdapterReport, order: Order) -> str | None:
    """Why the order cannot have been filled as the report says, or None."""
    figures = {"quantity": report.qty, "price": report.price, "fees": report.fees}
    for name, value in figures.items():
        if not isinstance(value, Decimal):
            return f"{name} {value!r}, which is no Decimal"
    problem = _unusable("quantity", report.qty) or _unusable("price", report.price)
    if problem is not None:
        return problem
    if not report.fees.is_finite() or abs(report.fees) >= MAGNITUDE_MAX:
        return f"fees {report.fees}"
    if report.qty > order.remaining_qty:
        return f"quantity {report.qty}, of which {order.remaining_qty} were left to fill"
    return None


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def make(mode: Mode, *, fee_rate: Decimal, slippage_bps: Decimal, adapter: ExecutionAdapter | None = None) -> Executor:
    """The executor of a mode. LIVE without an adapter raises ConfigError (R6): the gate checks that first."""
    if mode is Mode.SHADOW:
        return ShadowExecutor(fee_rate, slippage_bps)
    if mode is Mode.PAPER:
        return PaperExecutor(fee_rate, slippage_bps)
    if adapter is None:
        raise ConfigError("mode LIVE: no execution adapter was given", mode=mode)
    return LiveExecutor(adapter)
