"""A flight record -> what engines did in it, judged again by the checkers (contract V11).

Heartbeats are in the journal lines of every proof that drives the unit; what was in an engine's database is there where
a proof has read it for this purpose (`ledger` lines).

What broke a clause on purpose does not count: a proof that was refuted says so itself, and a sabotage (V4) is meant to
be one. Of another engine (--engine-cmd), only the clauses count that a proof of the record claims.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from harness.base import jsontext
from harness.base.escape import shown
from harness.evidence import checkers
from harness.evidence.checkers import FillRow, Heartbeat, Judgement, LedgerRows
from harness.evidence.lines import JournalLine, LedgerLine, RecordLine, RunLine, VerdictLine
from harness.evidence.verdict import ClauseId, Verdict

SABOTAGE = ClauseId("V4")

DIGITS_MAX = 60
"""Of an exact decimal, before or behind its point; the engine's have 18 at most."""

Place = tuple[str, str]
"""Worker and proof: what happened in one place happened in one machine, in this order."""


@dataclass
class _Histories:
    beats: dict[Place, list[Heartbeat]] = field(default_factory=dict)
    ledgers: dict[Place, list[LedgerRows]] = field(default_factory=dict)
    verdicts: dict[str, VerdictLine] = field(default_factory=dict)
    is_foreign: bool = False


@dataclass(frozen=True)
class Rejudged:
    """What the checkers say of one clause in a record."""

    clause: ClauseId
    judged: int
    broken: Sequence[tuple[str, Judgement]]
    """Proofs in which the clause was broken although they were not refuted."""


def log_fields(message: str) -> tuple[str, dict[str, object]] | None:
    """Read level and fields of a log line in the contract's form (M1), its `message` among them; None for any other."""
    try:
        log = json.loads(message)
        return str(log.get("level", "")), {"message": log["fields"].pop("message"), **log["fields"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def heartbeat(line: JournalLine) -> Mapping[str, object] | None:
    """Read the fields of a heartbeat (M2); None for every other journal entry."""
    if not isinstance(line.message, str) or "HEARTBEAT" not in line.message:
        return None
    found = log_fields(line.message)
    return found[1] if found is not None and str(found[1]["message"]).startswith("HEARTBEAT") else None


class UnitLog:
    """What the log of one unit tells of itself, entry by entry."""

    def __init__(self) -> None:
        self._sample_every: int | None = None

    def take(self, at: int, message: str, *, by_systemd: bool) -> Heartbeat | None:
        """Take the next entry of the unit, or of systemd about it; returns it when it is a heartbeat, or the last
        metrics. at: where it stands, for whoever looks it up."""
        if by_systemd:
            # What the next run was told stands in its own log.
            if message.startswith("Starting "):
                self._sample_every = None
            return None
        if (log := log_fields(message)) is None:
            return None
        event = str(log[1]["message"])
        if event == "configuration loaded":
            self._sample_every = jsontext.whole(log[1].get("sample_every"))
        is_beat = event.startswith("HEARTBEAT") or event == "FINAL METRICS"
        return Heartbeat(at, log[1], self._sample_every) if is_beat else None


def judge(lines: Iterable[RecordLine]) -> list[Rejudged]:
    """Judge a record's history. Raises ValueError that names the line of which the rows are not numbers."""
    found = _collect(lines)
    claimed = {clause for verdict in found.verdicts.values() for clause in verdict.claims}
    judged = []
    for clause, of_place in (
        (checkers.M3, {place: checkers.books_balance(beats) for place, beats in found.beats.items()}),
        (checkers.N7, {place: checkers.sampling_is_exact(beats) for place, beats in found.beats.items()}),
        (checkers.I2, {place: checkers.caps_hold(ledgers) for place, ledgers in found.ledgers.items()}),
        (checkers.I3, {place: checkers.events_count_once(ledgers) for place, ledgers in found.ledgers.items()}),
        (checkers.I4, {place: checkers.fills_balance(ledgers) for place, ledgers in found.ledgers.items()}),
    ):
        if found.is_foreign and clause not in claimed:
            continue
        broken = [
            (proof, judgement)
            for (_, proof), judgement in of_place.items()
            if judgement.violations and not _on_purpose(found.verdicts.get(proof))
        ]
        judged.append(Rejudged(clause, sum(one.judged for one in of_place.values()), broken))
    return judged


def _on_purpose(verdict: VerdictLine | None) -> bool:
    return verdict is not None and (verdict.verdict is Verdict.REFUTED or SABOTAGE in verdict.claims)


def _collect(lines: Iterable[RecordLine]) -> _Histories:
    found = _Histories()
    told: dict[tuple[str, str], UnitLog] = defaultdict(UnitLog)
    for number, line in enumerate(lines, start=1):
        place = line.worker, line.proof
        match line:
            case RunLine():
                found.is_foreign |= "engine" in line.facts
            case VerdictLine():
                found.verdicts[line.proof] = line
            case LedgerLine():
                found.ledgers.setdefault(place, []).append(ledger(number, line))
            case JournalLine(message=str(message)):
                beat = told[line.worker, line.unit].take(number, message, by_systemd=line.by == "systemd")
                if beat is not None:
                    found.beats.setdefault(place, []).append(beat)
    return found


def _exact(text: str) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{shown(text)[:40]} is not a decimal") from None
    if not found.is_finite() or len(found.as_tuple().digits) > DIGITS_MAX or abs(found.adjusted()) > DIGITS_MAX:
        raise ValueError(f"{shown(text)[:40]} is not a decimal of at most {DIGITS_MAX} digits")
    return found


def ledger(number: int, line: LedgerLine) -> LedgerRows:
    """Make a ledger of its line, which is the record's `number`th. Raises ValueError for rows that are not numbers."""
    try:
        fills = [FillRow(row_id, symbol, side, *map(_exact, exact)) for row_id, symbol, side, *exact in line.fills]
        caps = {name: _exact(cap) for name, cap in line.caps.items()}
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    return LedgerRows(
        at=number, ticks=line.ticks, signals=line.signals, orders=line.orders, fills=fills,
        exposure_cap=caps.get("exposure"), symbol_exposure_cap=caps.get("symbol_exposure"),
    )  # fmt: skip
