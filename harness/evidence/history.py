"""What the runs of the proofs have shown, one JSON object a line (`reports/history.jsonl`, contract V14): what is new
in a run, and which proofs are not steady.

A proof that was proven stands under its short name, to keep a line small; the others under their ids, to be named when
their record is long gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.base import jsontext
from harness.base.escape import shown
from harness.evidence.lines import SECONDS_MAX, is_digest
from harness.evidence.results import ProofResult
from harness.evidence.verdict import Verdict, anchor, merge

FILE_NAME = "history.jsonl"

KEPT = 200
"""Runs of which a history tells."""

NAMED_MAX = 200
"""Proofs that a record names as new in one respect; the others are counted."""

_TEXTS = ("run", "state", "systemd", "commit", "tree", "engine")


@dataclass(frozen=True)
class RunEntry:
    """One run."""

    run: str
    sha256: str
    """Digest of its record's last line."""
    started: float
    """Seconds since the epoch."""
    seconds: float
    state: str
    """complete, partial or interrupted."""
    systemd: str
    commit: str
    tree: str
    """clean or modified; empty where there is no git."""
    engine: str
    """The command that was judged in place of the installed engine; empty for that."""
    proven: Mapping[str, float]
    """Proof's anchor() -> seconds."""
    refuted: Mapping[str, float] = field(default_factory=dict)
    """Proof -> seconds, as the next."""
    unproven: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Of the whole, as far as it went."""
        # What never ran is proven to nobody.
        return merge([*self.outcomes.values(), *[Verdict.UNPROVEN] * (self.state != "complete")])

    @property
    def outcomes(self) -> dict[str, Verdict]:
        """Proof's anchor() -> its verdict."""
        return {
            **dict.fromkeys(self.proven, Verdict.PROVEN),
            **{anchor(proof): Verdict.UNPROVEN for proof in self.unproven},
            **{anchor(proof): Verdict.REFUTED for proof in self.refuted},
        }


def entry(run: Mapping[str, str], verdicts: Iterable[ProofResult], *, started: float, seconds: float) -> RunEntry:
    """Return the entry of a run that has come to its end.

    run: the members of an RunEntry that are texts.
    """
    found: dict[Verdict, dict[str, float]] = {verdict: {} for verdict in Verdict}
    for one in verdicts:
        name = anchor(one.proof) if one.verdict is Verdict.PROVEN else one.proof
        found[one.verdict][name] = round(one.seconds, 3)
    return RunEntry(
        sha256=run["sha256"], started=started, seconds=round(seconds, 3), proven=found[Verdict.PROVEN],
        refuted=found[Verdict.REFUTED], unproven=found[Verdict.UNPROVEN], **{name: run[name] for name in _TEXTS},
    )  # fmt: skip


def line(one: RunEntry) -> str:
    """Return an entry as its line."""
    return json.dumps(vars(one), separators=(",", ":"), ensure_ascii=False) + "\n"


def parse(text: str) -> list[RunEntry]:
    """Return the entries of a history, the oldest first. What is no entry is passed over: a line may be torn, or
    another's."""
    return [found for one in text.split("\n") if (found := _entry(one)) is not None]


def _entry(text: str) -> RunEntry | None:
    try:
        told = jsontext.parse(text)
    except ValueError:
        return None
    if not isinstance(told, dict) or any(name not in told or not check(told[name]) for name, check in _MEMBERS.items()):
        return None
    made: dict[str, Any] = {name: told[name] for name in _MEMBERS}
    made |= {name: shown(made[name]) for name in (*_TEXTS, "sha256")}
    made |= {name: {shown(proof): secs for proof, secs in made[name].items()} for name in map(str, Verdict)}
    return RunEntry(**made)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_span(value: Any) -> bool:
    known = jsontext.number(value)
    return known is not None and 0 <= known <= SECONDS_MAX


def _are_spans(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_span, value.values()))


_MEMBERS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_TEXTS, _is_text), "sha256": is_digest, "started": _is_span, "seconds": _is_span,
    **dict.fromkeys(map(str, Verdict), _are_spans),
}  # fmt: skip
"""What an entry's line holds."""


def changes(earlier: Sequence[RunEntry], now: RunEntry, names: Iterable[str]) -> dict[str, Any]:
    """Return what a record holds of what is new in its run: against the last earlier run of the same engine that has
    each proof, whether that run had all of them or not.

    earlier: the oldest first. names: of all proofs of this run. Returns `before` (the last earlier run, empty for
    none), the proofs that are `broken` (proven there, not here), `mended`, `added` (in no earlier run) and `flaky`, of
    each at most NAMED_MAX, how many there are of each (`counts`), and how many are `gone`.
    """
    same = [one for one in earlier if one.engine == now.engine]
    last: dict[str, Verdict] = {}
    for one in same:
        last |= one.outcomes
    found: dict[str, list[str]] = {"broken": [], "mended": [], "added": [], "flaky": []}
    outcomes, unsteady = now.outcomes, flaky([*same, now])
    for name in sorted(set(names)):
        short = anchor(name)
        before, verdict = last.get(short), outcomes.get(short)
        if verdict is None:
            continue
        if same and before is None:
            found["added"].append(name)
        elif before is not None and (before is Verdict.PROVEN) != (verdict is Verdict.PROVEN):
            found["broken" if before is Verdict.PROVEN else "mended"].append(name)
        if short in unsteady:
            found["flaky"].append(name)
    whole = [one for one in same if one.state == "complete"]
    gone = len(whole[-1].outcomes.keys() - outcomes.keys()) if whole and now.state == "complete" else 0
    return {
        "before": same[-1].run if same else "",
        "counts": {kind: len(proofs) for kind, proofs in found.items()},
        "gone": gone,
        **{kind: proofs[:NAMED_MAX] for kind, proofs in found.items()},
    }


def flaky(entries: Iterable[RunEntry]) -> dict[str, list[RunEntry]]:
    """Return the proofs, by their anchor(), that were proven in one run and not in another of the very same sources,
    with the runs of those sources.

    That is known of a commit whose tree was clean: of a modified one nobody can tell what was in it.
    """
    by_sources: dict[tuple[str, str, str], list[RunEntry]] = {}
    for one in entries:
        if one.tree == "clean":
            by_sources.setdefault((one.commit, one.engine, one.systemd), []).append(one)
    unsteady: dict[str, list[RunEntry]] = {}
    for runs in by_sources.values():
        proven = {short for one in runs for short in one.proven}
        others = {anchor(proof) for one in runs for proof in (*one.refuted, *one.unproven)}
        for short in proven & others:
            unsteady.setdefault(short, []).extend(runs)
    return unsteady
