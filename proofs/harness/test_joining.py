"""Several runs are one, or it is said why not (contract V17)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import HarnessError
from harness.bundle import statement
from harness.evidence.lines import EndLine, RunLine
from harness.evidence.results import (
    Interpreter,
    JudgedEngine,
    Package,
    ProofResult,
    ProvedEngine,
    RecordIdentity,
    RunSummary,
    Runtime,
    Shard,
    counts,
)
from harness.evidence.verdict import ClauseId, Verdict
from harness.proving import joining
from harness.proving.joining import Part

G0, G1, L1 = map(ClauseId, ("G0", "G1", "L1"))
PROOFS = {f"test_{number}": [G0, G1][: 1 + number % 2] for number in range(6)}
RUNTIME = Runtime(Interpreter("3.11", "1" * 64), {"websockets": Package("1", "2" * 64)})
PROVED = ProvedEngine("3" * 64, RUNTIME, [("hybrid-engine.service", "4" * 64)])


def part(
    number: int, proofs: dict[str, Verdict], *, of: int = 0, everything: dict[str, list[ClauseId]] = PROOFS
) -> Part:
    """A run that judged some of all proofs."""
    judged = [ProofResult(proof, everything[proof], verdict) for proof, verdict in sorted(proofs.items())]
    left: dict[ClauseId, int] = {}
    for proof, claims in everything.items():
        for clause in claims if proof not in proofs else ():
            left[clause] = left.get(clause, 0) + 1
    shard = Shard(number, of, "5" * 64) if of else None
    state = "partial" if left else "complete"
    facts = {"commit": "c", "tree": "clean", "kernel": f"Linux {number}"}
    if shard is not None:
        facts["shard"] = f"{number}/{of} of {'5' * 64}"
    identity = RecordIdentity(f"runs/{number}/record.jsonl", 9, f"{number}" * 64)
    summary = RunSummary(
        f"run-{number}", state, len(everything), len(judged), 0, "private", judged, counts(judged), [], [L1],
        complete=True, left_out=dict(sorted(left.items())), record=identity, proved=PROVED, shard=shard,
    )  # fmt: skip
    line: dict[str, Any] = {"run": f"run-{number}", "worker": "main", "seq": 1, "at": 1.0, "proof": ""}
    run = RunLine(**line, systemd="private", facts=facts, clauses={G0: "words", G1: "more"})
    end = EndLine(
        **line, lines=8, counts=counts(judged), interrupted=False, systemd="private", planned=[L1],
        accepted_unproven=[], state=state, collected=len(everything), selected=len(judged), never_ran=0,
    )  # fmt: skip
    return Part(f"host-{number}", summary, run, end, {one.proof: (one.verdict, one.claims) for one in judged}, identity)


def thirds() -> list[Part]:
    names = sorted(PROOFS)
    return [part(n + 1, dict.fromkeys(names[n::3], Verdict.PROVEN), of=3) for n in range(3)]


@pytest.mark.claim("V17")
@given(st.data(), st.integers(2, 4))
def test_runs_of_parts_say_what_one_run_says(data: st.DataObject, of: int) -> None:
    """Whatever the verdicts and the division."""
    verdicts = {proof: data.draw(st.sampled_from(list(Verdict))) for proof in PROOFS}
    where = {proof: data.draw(st.integers(1, of)) for proof in PROOFS}
    parts = [part(n, {one: verdicts[one] for one in PROOFS if where[one] == n}, of=of) for n in range(1, of + 1)]
    joined = joining.join(data.draw(st.permutations(parts)), "joined")
    whole = part(1, verdicts)
    assert joined == replace(whole.summary, run_id="joined", record=None)
    assert statement.clause_verdicts(joined) == statement.clause_verdicts(whole.summary)


@pytest.mark.claim("V17")
def test_runs_that_leave_something_out_are_no_whole() -> None:
    names = sorted(PROOFS)
    parts = [part(1, dict.fromkeys(names[:2], Verdict.PROVEN)), part(2, dict.fromkeys(names[1:4], Verdict.PROVEN))]
    joined = joining.join(parts, "joined")
    assert (joined.state, joined.left_out, joined.selected) == ("partial", {G0: 2, G1: 1}, 4)
    assert statement.clause_verdicts(joined)[G0] is Verdict.UNPROVEN


@pytest.mark.claim("V17")
def test_a_run_that_was_none_of_all_proofs_makes_the_whole_none() -> None:
    """As one that a file which could not be collected is missing from."""
    for unlucky in range(3):
        parts = [of_summary(complete=number != unlucky)(one) for number, one in enumerate(thirds())]
        joined = joining.join(parts, "joined")
        assert (joined.complete, joined.state, joined.never_ran) == (False, "partial", 0)


@pytest.mark.claim("V17")
def test_what_was_accepted_anywhere_is_accepted() -> None:
    accepted: list[list[ClauseId]] = [[G1], [], [G0, G1]]
    parts = [of_both(accepted_unproven=of_one)(one) for one, of_one in zip(thirds(), accepted, strict=True)]
    assert joining.join(parts, "joined").accepted_unproven == [G0, G1]


@pytest.mark.claim("V17")
def test_a_record_says_what_its_runs_share_and_where_they_are_from() -> None:
    first, *others = thirds()
    told = joining.facts([of_facts(os="of one alone")(first), *others])
    of_parts = {f"part {number}": f"run run-{number}, last digest {f'{number}' * 64}" for number in (1, 2, 3)}
    assert told == {"commit": "c", "tree": "clean", **of_parts}


def of_summary(**changed: Any) -> Callable[[Part], Part]:
    return lambda one: replace(one, summary=replace(one.summary, **changed))


def of_both(**changed: Any) -> Callable[[Part], Part]:
    """Of verdicts.json and of the record."""
    return lambda one: replace(one, summary=replace(one.summary, **changed), end=replace(one.end, **changed))


def of_facts(**changed: str) -> Callable[[Part], Part]:
    return lambda one: replace(one, run=replace(one.run, facts={**one.run.facts, **changed}))


def reversed_verdict(one: Part) -> Part:
    first = replace(one.summary.verdicts[0], verdict=Verdict.REFUTED)
    return replace(one, summary=replace(one.summary, verdicts=[first, *one.summary.verdicts[1:]]))


def with_verdicts_twice(one: Part) -> Part:
    return replace(one, summary=replace(one.summary, verdicts=one.summary.verdicts * 2))


def without_a_verdict(one: Part) -> Part:
    return replace(one, summary=replace(one.summary, verdicts=one.summary.verdicts[1:]))


@pytest.mark.claim("V17")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (of_summary(proved=replace(PROVED, engine="f" * 64)), "host-2: it judged another engine, of digest fff"),
        (of_summary(judged=JudgedEngine("/bin/other")), "host-2: it judged another engine, /bin/other"),
        (of_summary(proved=replace(PROVED, unit=[])), "host-2: its unit was another"),
        (
            of_summary(proved=replace(PROVED, runtime=replace(RUNTIME, packages={}))),
            r"host-2: it ran on other packages \(websockets\) than host-1",
        ),
        (of_summary(proved=None), "host-2: it does not say which engine was proven"),
        (
            lambda one: replace(one, run=replace(one.run, clauses={G0: "other words", G1: "more"})),
            r"host-2: it was held against another contract \(G0\)",
        ),
        (of_facts(commit="d"), r"host-2: its commit is another \(d\)"),
        (of_facts(tree="modified"), r"host-2: its tree is another \(modified\)"),
        (of_both(planned=[]), "host-2: it has other planned clauses"),
        (of_both(systemd="user"), r"host-2: it ran against another systemd \(user\)"),
        (of_both(collected=7), r"host-2: it collected other proofs \(7, not 6\)"),
        (of_summary(left_out={}), "host-2: verdicts.json says that all was judged, its record that the run is partial"),
        (of_summary(state="interrupted"), r"host-2: it did not come to its end \(state interrupted"),
        (of_summary(state="running"), "host-2: it did not come to its end"),
        (of_summary(never_ran=1), "host-2: it did not come to its end"),
        (lambda one: replace(one, end=replace(one.end, interrupted=True)), "host-2: it did not come to its end"),
        (of_summary(run_id="run-1"), "host-2: verdicts.json is of run run-1, the record of run-2"),
        (of_summary(record=None), "host-2: its verdicts.json is about another record"),
        (reversed_verdict, r"host-2: verdicts.json says refuted \(G0 G1\) of test_1, its record proven"),
        (without_a_verdict, "host-2: verdicts.json says nothing of test_1, its record proven"),
        (with_verdicts_twice, "host-2: its verdicts.json names a proof twice"),
        (of_summary(counts={}), "host-2: verdicts.json and its record differ in counts"),
        (of_summary(accepted_unproven=[G0]), "host-2: verdicts.json and its record differ in accepted_unproven"),
        (of_summary(shard=None), "host-2: verdicts.json calls it shard None, its record 2/3 of 555"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(change: Callable[[Part], Part], reason: str) -> None:
    first, second, third = thirds()
    with pytest.raises(HarnessError, match=reason):
        joining.join([first, change(second), third], "joined")


def as_shard(one: Part, number: int, of: int, split: str) -> Part:
    told = f"{number}/{of} of {split}"
    return of_facts(shard=told)(of_summary(shard=Shard(number, of, split))(one))


@pytest.mark.claim("V17")
@pytest.mark.parametrize(
    ("given_parts", "reason"),
    [
        (lambda a, b, c: [a], "there is nothing to merge"),
        (lambda a, b, c: [b, c], "^shard 1/3 is missing: host-2, host-3 are not all"),
        (lambda a, b, c: [a, c], "^shard 2/3 is missing"),
        (lambda a, b, c: [a, b], "^shard 3/3 is missing"),
        (lambda a, b, c: [a, as_shard(b, 2, 7, "5" * 64), c], "shard 2/7 is of another division than 1/3"),
        (lambda a, b, c: [as_shard(one, n, 7, "5" * 64) for n, one in ((1, a), (7, b))],
         "^shard 2/7, 3/7, 4/7 and 2 more is missing"),
        (lambda a, b, c: [a, b, a], "host-1: it is run run-1, which host-1 is too"),
        (lambda a, b, c: [a, b, as_shard(c, 2, 3, "5" * 64)], "host-3: it is shard 2/3, which host-2 is too"),
        (lambda a, b, c: [a, b, as_shard(c, 3, 3, "6" * 64)], "host-3: shard 3/3 is of another division than 1/3"),
        (lambda a, b, c: [a, b, as_shard(c, 3, 4, "5" * 64)], "host-3: shard 3/4 is of another division"),
        (lambda a, b, c: [a, part(2, dict.fromkeys(["test_2"], Verdict.PROVEN))], "host-2: it is no shard, and others"),
        (
            lambda a, b, c: [part(1, {"test_0": Verdict.PROVEN}), part(2, {"test_0": Verdict.REFUTED})],
            r"host-2: test_0 is refuted \(G0\), and in host-1 proven \(G0\)",
        ),
    ],
)  # fmt: skip
def test_what_is_no_whole_is_refused(given_parts: Callable[..., list[Part]], reason: str) -> None:
    with pytest.raises(HarnessError, match=reason):
        joining.join(given_parts(*thirds()), "joined")
