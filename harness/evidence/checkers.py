"""Judge what a run of an engine left, whoever ran it: history in, verdict out (contract V11).

A checker knows one clause and nothing of how its history came about, as a Jepsen checker does. The proofs use these on
what they have just seen, and `python -m harness verify` on what a flight record holds (harness/evidence/rejudge.py), so
that a recorded run can be judged again, and by a later version of a checker.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow

from harness.base import jsontext
from harness.evidence.verdict import ClauseId, Verdict

M3, N7, I2, I3, I4 = map(ClauseId, ("M3", "N7", "I2", "I3", "I4"))

EXACT = Context(prec=400, traps=[InvalidOperation, DivisionByZero, Overflow])
"""In which the sums and products of the numbers of a history are not rounded."""

EQUATIONS = (
    ("ticks parsed", "ticks_parsed", "received + duplicates", ("ingest_received", "duplicates")),
    ("received", "ingest_received", "processed + sampled out", ("ingest_processed", "sampled_out")),
    ("ticks", "tick_count", "processed", ("ingest_processed",)),
    (
        "ticks", "tick_count", "written + known before + queued + dropped",
        ("tick_rows_written", "tick_rows_known", "tick_rows_queued", "bp_drops_tick", "bp_drops_persist"),
    ),
)  # fmt: skip
"""M3, as a reader says it and as the heartbeat's fields have it."""


@dataclass(frozen=True)
class Heartbeat:
    """One heartbeat, or the final metrics."""

    at: int
    """Where it stands in the history, such as the number of its line."""
    fields: Mapping[str, object]
    sample_every: int | None = None
    """What the run that logged it had been told; None when the history does not tell."""


@dataclass(frozen=True)
class FillRow:
    """A row of `trades`."""

    id: int
    symbol: str
    side: str
    """BUY or SELL."""
    qty: Decimal
    price: Decimal
    fees: Decimal
    cash: Decimal
    """What it did to the cash: negative for a purchase."""

    @property
    def signed(self) -> Decimal:
        """What it did to the position."""
        return self.qty if self.side == "BUY" else -self.qty


@dataclass(frozen=True)
class LedgerRows:
    """What an engine's database held at one moment, in the order of its rows."""

    at: int
    """As of a `Heartbeat`."""
    ticks: Sequence[tuple[int, str, int | None, int]]
    """id, symbol, trade id, time (ms)."""
    signals: Sequence[tuple[int, int, str]]
    """id, id of the tick, side."""
    orders: Sequence[str]
    """Their ids, in any order."""
    fills: Sequence[FillRow]
    exposure_cap: Decimal | None = None
    """`[risk_caps] max_exposure_usd` of the run; None when the history does not tell."""
    symbol_exposure_cap: Decimal | None = None


@dataclass(frozen=True)
class Violation:
    """Where a history breaks a clause."""

    at: int
    """As of a `Heartbeat`."""
    says: str


@dataclass(frozen=True)
class Judgement:
    """What a checker says of a history."""

    clause: ClauseId
    judged: int
    """How many things (heartbeats, rows) it had to judge."""
    violations: Sequence[Violation]

    @property
    def verdict(self) -> Verdict:
        """Nothing to judge proves nothing."""
        if self.violations:
            return Verdict.REFUTED
        return Verdict.PROVEN if self.judged else Verdict.UNPROVEN

    def __str__(self) -> str:
        if not self.violations:
            return f"{self.clause}: {self.verdict} by {self.judged}"
        more = f", and {len(self.violations) - 1} more" if len(self.violations) > 1 else ""
        return f"{self.clause}: {self.violations[0].says}{more}"


@dataclass(frozen=True)
class Equation:
    """One equation of M3, with the numbers of a heartbeat."""

    ok: bool | None
    """None when the heartbeat does not tell all of its numbers."""
    left: str
    right: str
    says: str
    number: int | None
    """What its left side comes to."""


def equations(fields: Mapping[str, object]) -> list[Equation]:
    """Put the numbers of a heartbeat into the equations of M3."""
    found = []
    for left, key, right, parts in EQUATIONS:
        numbers = [jsontext.whole(fields.get(name)) for name in (key, *parts)]
        known = [number for number in numbers if number is not None]
        if len(known) != len(numbers):
            found.append(Equation(None, left, right, f"{left} = {right}: no heartbeat tells", numbers[0]))
        else:
            ok, total = known[0] == sum(known[1:]), sum(known[1:])
            says = f"{left} {known[0]} {'=' if ok else '≠'} {right} {total}"
            found.append(Equation(ok, left, right, says, known[0]))
    return found


def books_balance(beats: Iterable[Heartbeat]) -> Judgement:
    """Judge M3: every equation holds in every heartbeat, and each tells all of its numbers."""
    judged, found = 0, []
    for beat in beats:
        judged += 1
        found += [Violation(beat.at, line.says) for line in equations(beat.fields) if not line.ok]
    return Judgement(M3, judged, found)


def sampling_is_exact(beats: Iterable[Heartbeat]) -> Judgement:
    """Judge N7: processed is received // sample_every in every heartbeat of which that is known."""
    judged, found = 0, []
    for beat in beats:
        received, processed = (jsontext.whole(beat.fields.get(f"ingest_{name}")) for name in ("received", "processed"))
        if not beat.sample_every:
            continue
        judged += 1
        if received is None or processed is None:
            found.append(Violation(beat.at, "the heartbeat does not tell what was received and processed"))
        elif processed != received // beat.sample_every:
            expected = f"received {received} // {beat.sample_every} = {received // beat.sample_every}"
            found.append(Violation(beat.at, f"processed {processed} ≠ {expected}"))
    return Judgement(N7, judged, found)


def caps_hold(ledgers: Iterable[LedgerRows]) -> Judgement:
    """Judge I2: no fill carries an exposure over its cap, at the fill's own price.

    A fill that makes an exposure smaller is right, however far the market has carried that over the cap.
    """
    judged, found = 0, []
    for ledger in ledgers:
        positions: dict[str, Decimal] = {}
        prices: dict[str, Decimal] = {}
        for fill in ledger.fills:
            prices[fill.symbol] = fill.price
            before = _exposures(positions, prices)
            positions[fill.symbol] = EXACT.add(positions.get(fill.symbol, Decimal(0)), fill.signed)
            after = _exposures(positions, prices)
            for what, was, now, cap in (
                (fill.symbol, before.get(fill.symbol, Decimal(0)), after[fill.symbol], ledger.symbol_exposure_cap),
                ("all symbols", sum(before.values(), Decimal(0)), sum(after.values(), Decimal(0)), ledger.exposure_cap),
            ):
                if cap is not None:
                    judged += 1
                    if now > cap and now > was:
                        says = f"fill {fill.id} carries the exposure of {what} from {was} to {now}, the cap is {cap}"
                        found.append(Violation(ledger.at, says))
    return Judgement(I2, judged, found)


def _exposures(positions: Mapping[str, Decimal], prices: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {symbol: EXACT.multiply(abs(qty), prices[symbol]) for symbol, qty in positions.items()}


def events_count_once(ledgers: Iterable[LedgerRows]) -> Judgement:
    """Judge I3: no trade, answer to a tick, order or fill is there twice, and what was there stays as it was.

    ledgers: of one database, in the order of time.
    """
    judged, found = 0, []
    earlier: LedgerRows | None = None
    for ledger in ledgers:
        trades = [(symbol, trade_id, ts) for _, symbol, trade_id, ts in ledger.ticks if trade_id is not None]
        for what, keys in (
            ("trade", trades),
            ("signal on tick", [tick for _, tick, _ in ledger.signals]),
            ("order", ledger.orders),
            ("fill", [fill.id for fill in ledger.fills]),
        ):
            judged += len(keys)
            found += [Violation(ledger.at, f"{what} {_shown(key)} is there twice") for key in _twice(keys)]
        if earlier is not None:
            for what in ("ticks", "signals", "orders", "fills"):
                was, now = getattr(earlier, what), getattr(ledger, what)
                # An order's id says nothing of when it was made.
                is_kept = set(was) <= set(now) if what == "orders" else list(now[: len(was)]) == list(was)
                if not is_kept:
                    found.append(Violation(ledger.at, f"of the {what} something was changed or is gone"))
        earlier = ledger
    return Judgement(I3, judged, found)


def _twice(keys: Iterable[Hashable]) -> list[Hashable]:
    seen: dict[Hashable, int] = {}
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
    return [key for key, count in seen.items() if count > 1]


def _shown(key: Hashable) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def fills_balance(ledgers: Iterable[LedgerRows]) -> Judgement:
    """Judge I4: for every fill, cash + position x price + fees is exactly zero."""
    judged, found = 0, []
    for ledger in ledgers:
        for fill in ledger.fills:
            judged += 1
            notional = EXACT.multiply(fill.signed, fill.price)
            balance = EXACT.add(EXACT.add(fill.cash, notional), fill.fees)
            if balance:
                says = f"fill {fill.id}: cash {fill.cash} + {fill.signed} x {fill.price} + fees {fill.fees} = {balance}"
                found.append(Violation(ledger.at, says))
    return Judgement(I4, judged, found)
