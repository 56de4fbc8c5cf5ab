"""Several runs of proofs about one engine -> what one run of all of them would have said (contract V17).

Nothing is believed that the runs' records do not say, and nothing is proven by runs that do not belong together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.base.errors import HarnessError
from harness.evidence.lines import EndLine, RunLine
from harness.evidence.results import (
    ProofResult,
    RecordIdentity,
    RunSummary,
    Verdicts,
    contradiction,
    counts,
    told_verdict,
)
from harness.evidence.verdict import ClauseId, run_state

NAMED_MAX = 3
"""Things that one message names."""


@dataclass(frozen=True)
class Part:
    """A run that is to be joined with others: what verdicts.json says of it, and what its record does."""

    name: str
    """What a reader knows it by."""
    summary: RunSummary
    run: RunLine
    end: EndLine
    verdicts: Verdicts
    record: RecordIdentity


def join(parts: Sequence[Part], run_id: str) -> RunSummary:
    """The verdicts of all runs as those of one, `run_id`, but for its record. Raises HarnessError that names the run
    and why it cannot be joined."""
    if len(parts) < 2:
        raise HarnessError("there is nothing to merge: name two runs or more")
    for part in parts:
        if (reason := _fault(part)) is not None:
            raise HarnessError(f"{part.name}: {reason}")
    first, *others = parts
    for part in others:
        if (reason := _difference(first, part)) is not None:
            raise HarnessError(f"{part.name}: {reason} than {first.name}")
    for reason in (_twice(parts), _wrong_shards(parts), _contradiction(parts)):
        if reason is not None:
            raise HarnessError(reason)
    verdicts: dict[str, ProofResult] = {}
    for part in parts:
        verdicts |= {one.proof: one for one in part.summary.verdicts}
    judged = [verdicts[proof] for proof in sorted(verdicts)]
    claimed = Counter(clause for one in judged for clause in one.claims)
    left_out = {clause: count - claimed[clause] for clause, count in _claims(first).items() if count > claimed[clause]}
    whole = all(part.summary.complete for part in parts)
    state = run_state(ended_early=False, left_out=not whole or bool(left_out) or len(judged) < first.end.collected)
    accepted = sorted({clause for part in parts for clause in part.summary.accepted_unproven})
    return replace(
        first.summary, run_id=run_id, state=state, selected=len(judged), verdicts=judged, counts=counts(judged),
        accepted_unproven=accepted, complete=whole, left_out=left_out, record=None, shard=None,
    )  # fmt: skip


def facts(parts: Sequence[Part]) -> dict[str, str]:
    """What the record of the joined run says of the host: what is the same everywhere, and where the rest is from."""
    same = set.intersection(*(set(part.run.facts.items()) for part in parts))
    return dict(sorted(same)) | {
        f"part {number}": f"run {part.summary.run_id}, last digest {part.record.sha256}"
        for number, part in enumerate(parts, start=1)
    }


# --- one run -------------------------------------------------------------------------------------------------


def _fault(part: Part) -> str | None:
    """Why a run cannot be joined with any other; None when it can."""
    summary, end = part.summary, part.end
    if summary.state not in ("complete", "partial") or end.interrupted or summary.never_ran:
        return f"it did not come to its end (state {summary.state}, {summary.never_ran} proofs never ran)"
    if summary.run_id != part.run.run:
        return f"verdicts.json is of run {summary.run_id}, the record of {part.run.run}"
    if summary.record is None or (summary.record.sha256, summary.record.lines) != (
        part.record.sha256,
        part.record.lines,
    ):
        return "its verdicts.json is about another record than the one beside it"
    if summary.proved is None or summary.proved.runtime is None:
        return "it does not say which engine was proven"
    if (reason := contradiction(summary, part.verdicts, end)) is not None:
        return reason
    shard = summary.shard
    told = None if shard is None else f"{shard.number}/{shard.of} of {shard.split}"
    if part.run.facts.get("shard") != told:
        return f"verdicts.json calls it shard {told}, its record {part.run.facts.get('shard')}"
    return None


def _claims(part: Part) -> dict[ClauseId, int]:
    """Clause -> how many of the proofs that were collected claim it."""
    found = Counter(clause for one in part.summary.verdicts for clause in one.claims)
    found.update(part.summary.left_out)
    return dict(sorted(found.items()))


# --- several -------------------------------------------------------------------------------------------------


def _difference(first: Part, part: Part) -> str | None:
    """In what a run is about something else than the first, up to "than ..."; None when both are about the same."""
    ours, theirs = first.summary, part.summary
    assert ours.proved is not None
    assert theirs.proved is not None
    if ours.judged != theirs.judged or ours.proved.engine_cmd != theirs.proved.engine_cmd:
        return f"it judged another engine, {theirs.judged.engine},"
    if ours.proved.engine != theirs.proved.engine:
        return f"it judged another engine, of digest {theirs.proved.engine[:12]},"
    if ours.proved.unit != theirs.proved.unit:
        return "its unit was another"
    if (before := ours.proved.runtime) != (after := theirs.proved.runtime):
        assert before is not None
        assert after is not None
        packages = before.packages.keys() | after.packages.keys()
        changed = sorted(name for name in packages if before.packages.get(name) != after.packages.get(name))
        return f"it ran on other packages ({_named(changed or ['python'])})"
    if first.run.clauses != part.run.clauses:
        words = {**first.run.clauses, **part.run.clauses}
        other = sorted(one for one in words if first.run.clauses.get(one) != part.run.clauses.get(one))
        return f"it was held against another contract ({_named(other)})"
    for name in ("commit", "tree"):
        if first.run.facts.get(name) != part.run.facts.get(name):
            return f"its {name} is another ({part.run.facts.get(name)})"
    if ours.planned != theirs.planned:
        return "it has other planned clauses"
    if ours.systemd != theirs.systemd:
        return f"it ran against another systemd ({theirs.systemd})"
    if ours.collected != theirs.collected or _claims(first) != _claims(part):
        return f"it collected other proofs ({theirs.collected}, not {ours.collected})"
    return None


def _twice(parts: Sequence[Part]) -> str | None:
    names: dict[str, str] = {}
    for part in parts:
        if part.summary.run_id in names:
            return f"{part.name}: it is run {part.summary.run_id}, which {names[part.summary.run_id]} is too"
        names[part.summary.run_id] = part.name
    return None


def _wrong_shards(parts: Sequence[Part]) -> str | None:
    """Why the runs are not all the parts of one whole; None when they are, or none of them is a part."""
    found = {part.name: part.summary.shard for part in parts}
    if not any(found.values()):
        return None
    seen: dict[int, str] = {}
    first = next(one for one in found.values() if one is not None)
    for name, shard in found.items():
        if shard is None:
            return f"{name}: it is no shard, and others are"
        if (shard.of, shard.split) != (first.of, first.split):
            return (
                f"{name}: shard {shard.number}/{shard.of} is of another division than {first.number}/{first.of}: give"
                " each computer the same reports/history.jsonl, or none"
            )
        if shard.number in seen:
            return f"{name}: it is shard {shard.number}/{shard.of}, which {seen[shard.number]} is too"
        seen[shard.number] = name
    lacking = [f"{number}/{first.of}" for number in range(1, first.of + 1) if number not in seen]
    return f"shard {_named(lacking)} is missing: {_named(list(found))} are not all" if lacking else None


def _contradiction(parts: Sequence[Part]) -> str | None:
    seen: dict[str, Part] = {}
    for part in parts:
        for proof, verdict in part.verdicts.items():
            other = seen.setdefault(proof, part)
            if other.verdicts[proof] != verdict:
                elsewhere = told_verdict(other.verdicts[proof])
                return f"{part.name}: {proof} is {told_verdict(verdict)}, and in {other.name} {elsewhere}"
    return None


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
