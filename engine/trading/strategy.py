"""Ticks in, signals out. No clock, no randomness, no state but the ticks seen: the same ticks give the same
signals in a fresh process (contract R1, S8), in whatever batches they arrive."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, Protocol

from engine.base.events import WIDE, Reason, Side, Signal, Tick
from engine.base.exits import ConfigError

CONFIDENCE: Final = 0.75
"""What both strategies claim (R1)."""

# To look a member up in its enumeration takes as long as to add two decimals.
_BUY: Final = Side.BUY
_SELL: Final = Side.SELL
_TRIGGER: Final = Reason.PERIODIC_TRIGGER

SYMBOLS_MAX: Final = 4096
"""Of so many symbols `sma_crossover` keeps averages (B5)."""

PRICES_MAX: Final = 131_072
"""So many prices it keeps of all symbols together, in 15 MiB: `sma_long` of each (B5)."""


class Strategy(Protocol):
    """What the pipeline feeds with every processed tick, in order."""

    name: str

    def on_ticks(self, ticks: Sequence[Tick]) -> list[Signal]:
        """The signals that `ticks` call for, in order of their ticks; most often none. Ticks have their ids."""
        ...


def _decimal(price: float) -> Decimal:
    """The number the venue printed: the shortest decimal that reads back as this double."""
    return Decimal(repr(price))


def identity(tick: Tick) -> str:
    """What a signal's id says about its tick (I3): the source's own id for the trade, where it gives one, so that
    a tick that is read or sent again makes the same signal id in whatever run; else the row id.

    Three forms that cannot be mistaken for one another: `7@source`, `'x1'@1700000000000@source`, `7`. A number that
    comes again at another time has another source (Tick.source); a text has its time.
    """
    if tick.trade_id is not None:
        return f"{tick.trade_id}@{tick.source}"
    if tick.event_id is not None:
        return f"{tick.event_id!r}@{tick.ts}@{tick.source}"
    return str(tick.id)


def _signal(name: str, tick: Tick, side: Side, reason: Reason, size: Decimal) -> Signal:
    event_id = f"{name}:{identity(tick)}"
    return Signal(event_id, tick.id, tick.symbol, side, reason, CONFIDENCE, size, _decimal(tick.price), tick.ts)


class Periodic:
    """A signal at every Nth tick of any symbol, sides SELL, BUY, SELL... (R1). Costs nothing for the others."""

    name = "periodic"

    def __init__(self, order_size: Decimal, signal_every_n_ticks: int) -> None:
        self._order_size = order_size
        self._every = signal_every_n_ticks
        self._until_next = signal_every_n_ticks  # ticks still to come, the one that signals included
        self._side = Side.SELL

    def on_ticks(self, ticks: Sequence[Tick]) -> list[Signal]:
        signals = []
        count, until_next = len(ticks), self._until_next
        while until_next <= count:
            signals.append(_signal(self.name, ticks[until_next - 1], self._side, _TRIGGER, self._order_size))
            self._side = _BUY if self._side is _SELL else _SELL
            until_next += self._every
        self._until_next = until_next - count
        return signals


class _Averages:
    """The two moving averages of one symbol, as sums over the last `short` and `long` prices."""

    __slots__ = ("long_sum", "prices", "short_sum", "trend")

    def __init__(self) -> None:
        self.prices: deque[Decimal] = deque()  # the last `long` prices, oldest first
        self.short_sum = Decimal(0)
        self.long_sum = Decimal(0)
        self.trend: int | None = None  # sign of short - long average; None before `long` prices were seen


class SmaCrossover:
    """BUY when a symbol's short simple moving average crosses above its long one, SELL when below (R1).

    A cross is strict: it was not above (below) after the previous tick of that symbol and is now. So nothing is
    signalled before `sma_long` + 1 ticks. Averages are compared exactly, as the decimals the venue printed.

    Memory is bounded however many symbols there are (B5): beyond SYMBOLS_MAX symbols, or PRICES_MAX prices of more
    than one, the symbol whose last tick lies furthest back is forgotten. When it comes back its averages start anew,
    as those of a symbol never seen: no signal before `sma_long` + 1 more ticks. Which symbol that is depends on the
    ticks alone.
    """

    name = "sma_crossover"

    def __init__(self, order_size: Decimal, sma_short: int, sma_long: int) -> None:
        self._order_size = order_size
        self._short = sma_short
        self._long = sma_long
        self._short_weight = Decimal(sma_short)
        self._long_weight = Decimal(sma_long)
        self._by_symbol: OrderedDict[str, _Averages] = OrderedDict()  # the latest tick's symbol last
        self._prices = 0  # kept of all symbols together

    def on_ticks(self, ticks: Sequence[Tick]) -> list[Signal]:
        signals = []
        for tick in ticks:
            side = self._cross(tick)
            if side is not None:
                signals.append(_signal(self.name, tick, side, Reason.SMA_CROSSOVER, self._order_size))
        return signals

    def _cross(self, tick: Tick) -> Side | None:
        averages = self._by_symbol.get(tick.symbol)
        if averages is None:
            averages = self._by_symbol[tick.symbol] = _Averages()
        else:
            self._by_symbol.move_to_end(tick.symbol)
        prices, price = averages.prices, _decimal(tick.price)
        averages.short_sum = WIDE.add(averages.short_sum, price)
        averages.long_sum = WIDE.add(averages.long_sum, price)
        if len(prices) >= self._short:
            averages.short_sum = WIDE.subtract(averages.short_sum, prices[-self._short])
        if len(prices) == self._long:
            averages.long_sum = WIDE.subtract(averages.long_sum, prices.popleft())
        else:
            self._prices += 1
            self._forget()
        prices.append(price)
        if len(prices) < self._long:
            return None
        # short_sum / short against long_sum / long, without the division that would round.
        before = averages.trend
        now = averages.trend = int(
            WIDE.compare(
                WIDE.multiply(averages.short_sum, self._long_weight),
                WIDE.multiply(averages.long_sum, self._short_weight),
            )
        )
        if before is None:
            return None
        if before <= 0 < now:
            return Side.BUY
        if before >= 0 > now:
            return Side.SELL
        return None

    def _forget(self) -> None:
        """Make room for one more price, of the symbol that is last."""
        while len(self._by_symbol) > SYMBOLS_MAX or (self._prices > PRICES_MAX and len(self._by_symbol) > 1):
            _, forgotten = self._by_symbol.popitem(last=False)
            self._prices -= len(forgotten.prices)


def make(name: str, *, order_size: Decimal, signal_every_n_ticks: int, sma_short: int, sma_long: int) -> Strategy:
    """The strategy of `[strategy] name`, with the settings it needs of those given (ticks; size in units of the
    base asset). Raises ConfigError for an unknown name, or averages that could never cross."""
    if name == Periodic.name:
        return Periodic(order_size, signal_every_n_ticks)
    if name == SmaCrossover.name:
        if not 0 < sma_short < sma_long:
            raise ConfigError(
                f"[strategy] sma_short = {sma_short}, sma_long = {sma_long}: allowed is 0 < sma_short < sma_long",
                sma_short=sma_short,
                sma_long=sma_long,
            )
        return SmaCrossover(order_size, sma_short, sma_long)
    known = [Periodic.name, SmaCrossover.name]
    raise ConfigError(f"[strategy] name = {name!r}: allowed are {known}", name=name, known=known)
