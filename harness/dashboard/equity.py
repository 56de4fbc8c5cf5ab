"""Fills -> equity, realised and unrealised profit, fees and drawdown, in exact decimals (contract W7).

The price of what is held is the average of what was paid for it. All else follows: equity is cash plus what is held at
its last price, and realised profit is what equity, fees and unrealised profit leave, so that the four always add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext

from harness.observing.ledger_history import FillAt, Fills, PositionAt

POINTS_MAX = 1000
"""Of one mode's line; when there are more, every second goes."""

EXACT = Context(prec=60)
"""Sums of the engine's decimals are exact in so many digits."""

_ZERO = Decimal(0)


@dataclass
class EquityHolding:
    """What the fills of one mode in one symbol add up to."""

    qty: Decimal = _ZERO
    cash: Decimal = _ZERO
    fees: Decimal = _ZERO
    paid: Decimal = _ZERO
    """For what is held; below zero for what is owed."""
    price: Decimal = _ZERO
    """Of the last fill."""

    def take(self, fill: FillAt) -> None:
        """Book one fill."""
        signed = fill.qty if fill.buys else -fill.qty
        if self.qty == 0 or (self.qty > 0) == fill.buys:
            self.paid += signed * fill.price
        elif abs(signed) < abs(self.qty):
            self.paid -= self.paid * abs(signed) / abs(self.qty)
        else:
            # To zero or through it: what is left, if anything, was bought, or sold, at this price.
            self.paid = (self.qty + signed) * fill.price
        self.qty += signed
        self.cash += fill.cash
        self.fees += fill.fees
        self.price = fill.price


@dataclass(frozen=True)
class Point:
    """How one mode stood after a fill, at the prices of the last fills."""

    ts_ms: int
    equity: Decimal
    unrealised: Decimal
    fees: Decimal

    @property
    def realised(self) -> Decimal:
        """Before fees."""
        return EXACT.add(EXACT.subtract(self.equity, self.unrealised), self.fees)


@dataclass
class EquityLine:
    """One mode's equity over time."""

    holdings: dict[str, EquityHolding] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    peak: Decimal = _ZERO
    """The highest equity there was; the beginning counts."""
    drawdown: Decimal = _ZERO
    """The deepest fall from a peak."""
    fills: int = 0
    _every: int = 1
    _equity: Decimal = _ZERO
    _unrealised: Decimal = _ZERO
    _fees: Decimal = _ZERO

    def take(self, fill: FillAt) -> None:
        """Book one fill."""
        holding = self.holdings.setdefault(fill.symbol, EquityHolding())
        self._add(holding, -1)
        holding.take(fill)
        self._add(holding, 1)
        self.fills += 1
        self.peak = max(self.peak, self._equity)
        self.drawdown = max(self.drawdown, self.peak - self._equity)
        if self.fills % self._every == 0:
            self.points.append(Point(fill.ts_ms, self._equity, self._unrealised, self._fees))
        if len(self.points) > POINTS_MAX:
            del self.points[::2]
            self._every *= 2

    def _add(self, holding: EquityHolding, sign: int) -> None:
        worth = holding.qty * holding.price
        self._equity += sign * (holding.cash + worth)
        self._unrealised += sign * (worth - holding.paid)
        self._fees += sign * holding.fees

    def now(self, ts_ms: int) -> Point:
        """Return how it stands after the last fill."""
        return Point(ts_ms, self._equity, self._unrealised, self._fees)


class Equity:
    """The lines of all modes. Fills are taken in the order of their ids, each once."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.lines: dict[str, EquityLine] = {}
        self.last_id = 0
        self.last_ms = 0
        self._last: FillAt | None = None

    def follow(self, read: Callable[[int], Fills]) -> Fills:
        """Book what has come since, of what `read` gives behind an id, and return that; from the beginning where the
        fill that was booked last is not there as it was: a backup has taken the place of its database, under its very
        inode number, say."""
        if self._last is not None:
            found = read(self._last.id - 1)
            if found.fills[:1] == [self._last]:
                self.take(found.fills[1:], found.last_id)
                return found
            self._begin()
        found = read(0)
        self.take(found.fills, found.last_id)
        return found

    def take(self, fills: Iterable[FillAt], last_id: int) -> None:
        """Book fills behind those that were taken. last_id: of the last row that was read, a fill or not."""
        with localcontext(EXACT):
            for fill in fills:
                self.lines.setdefault(fill.mode, EquityLine()).take(fill)
                self.last_ms = fill.ts_ms
                self._last = fill
        self.last_id = last_id

    def disagreements(self, positions: Iterable[PositionAt]) -> list[str]:
        """Return what the engine's own sums say otherwise, in words; empty when they agree to the last digit."""
        found = []
        kept = {(one.mode, one.symbol): one for one in positions}
        ours = {(mode, symbol): held for mode, line in self.lines.items() for symbol, held in line.holdings.items()}
        for key in sorted(kept.keys() | ours.keys()):
            theirs, held = kept.get(key), ours.get(key, EquityHolding())
            if theirs is None:
                found.append(f"{' '.join(key)}: fills, and no position")
                continue
            sums = ((name, getattr(theirs, name), getattr(held, name)) for name in ("qty", "cash", "fees"))
            found += [
                f"{' '.join(key)}: {name} is {kept_sum}, fills add up to {our_sum}"
                for name, kept_sum, our_sum in sums
                if kept_sum != our_sum
            ]
        return found
