"""What runs leave in the history, and what it says is new (contract V14)."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.escape import shown
from harness.evidence import history
from harness.evidence.history import RunEntry
from harness.evidence.lines import SECONDS_MAX, SinceLine, VerdictLine
from harness.evidence.results import ProofResult
from harness.evidence.verdict import Verdict, anchor
from proofs.harness.test_buglog import RECORD, document, line, rendered

pytestmark = pytest.mark.claim("V14")

A, B, C, D = (f"proofs/test_x.py::test_{letter}" for letter in "abcd")


def run(number: int, verdicts: dict[str, str], **changed: Any) -> RunEntry:
    """A complete run of a clean commit."""
    told = {"run": f"run-{number}", "sha256": f"{number:064x}", "state": "complete", "systemd": "private",
            "commit": "c" * 40, "tree": "clean", "engine": ""}  # fmt: skip
    judged = [ProofResult(proof, [], Verdict(verdict), "", 0.25) for proof, verdict in verdicts.items()]
    made = history.entry(told, judged, started=1795423471.0 + 3600 * number, seconds=60.0 + number)
    return dataclasses.replace(made, **changed)


RUNS = [
    run(1, {A: "proven", B: "refuted", C: "proven"}, commit="b" * 40),
    run(2, {A: "proven", B: "proven", C: "proven"}),
    run(3, {A: "proven", B: "unproven"}, state="partial"),
    run(4, {A: "refuted", B: "proven", C: "proven"}, tree="modified"),
]


def test_an_entry_comes_back_from_its_line() -> None:
    assert history.parse("".join(map(history.line, RUNS))) == RUNS
    assert [one.verdict for one in RUNS] == [Verdict.REFUTED, Verdict.PROVEN, Verdict.UNPROVEN, Verdict.REFUTED]


@pytest.mark.slow
@given(st.text(max_size=60) | st.sampled_from([history.line(RUNS[0])[:40], "[]", "{}", "[" * 5000, "null"]))
def test_what_is_no_entry_is_passed_over(text: str) -> None:
    """A line that a crash tore, or anybody wrote."""
    kept = history.parse(f"{text}\n{history.line(RUNS[1])}")
    assert kept == [RUNS[1]]


@given(st.text(st.characters(codec="utf-8"), min_size=1) | st.sampled_from(["a\u2028b", "a\x85b", "a\x1cb", "a\r\nb"]))
def test_whatever_a_proof_is_called_its_entry_is_one_line(name: str) -> None:
    """Also where Unicode ends a line in the midst of it."""
    one = run(1, {name: "refuted"}, commit=name)
    (kept, after) = history.parse(history.line(one) + history.line(RUNS[1]))
    assert (kept.commit, kept.refuted, after) == (shown(name), {shown(name): 0.25}, RUNS[1])


def test_an_entry_is_short() -> None:
    """There are 200 of them, each with thousands of proofs."""
    assert history.line(run(1, {"a.py::test_\xe9": "refuted", B: "proven"}, commit="c")) == (
        f'{{"run":"run-1","sha256":"{1:064x}","started":1795427071.0,"seconds":61.0,"state":"complete",'
        f'"systemd":"private","commit":"c","tree":"clean","engine":"","proven":{{"{anchor(B)}":0.25}},'
        '"refuted":{"a.py::test_\xe9":0.25},"unproven":{}}\n'
    )


def test_seconds_are_kept_to_the_millisecond() -> None:
    told = dict.fromkeys(("run", "sha256", "state", "systemd", "commit", "tree", "engine"), "")
    one = history.entry(told, [ProofResult(B, [], Verdict.REFUTED, "", 1.23456)], started=1.23456, seconds=60.98765)
    assert (one.refuted, one.started, one.seconds) == ({B: 1.235}, 1.23456, 60.988)


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [(0, True), (0.5, True), (SECONDS_MAX, True), (SECONDS_MAX * 1.01, False), (-0.1, False),
     (None, False), (True, False), ("1", False)],
)  # fmt: skip
def test_a_time_that_cannot_be_makes_no_entry(seconds: object, kept: bool) -> None:
    for name in ("started", "seconds", "refuted", "proven", "unproven"):
        told = {**vars(RUNS[0]), name: seconds if name in ("started", "seconds") else {"p": seconds}}
        assert bool(history.parse(json.dumps(told))) == kept, name


def test_what_was_chosen_and_has_no_verdict_is_nothing_new() -> None:
    now = run(5, {B: "refuted", D: "proven"})
    assert history.changes(RUNS[:2], now, [A, B, C, D])["counts"] == {"broken": 1, "mended": 0, "added": 1, "flaky": 1}


def test_a_run_is_compared_with_the_last_one_that_had_each_proof() -> None:
    """C is not in the partial run before: what the run before that said of it counts."""
    now = run(5, {A: "refuted", B: "proven", C: "unproven", D: "refuted"})
    found = history.changes(RUNS[:3], now, [A, B, C, D])
    assert found == {
        "before": "run-3", "broken": [A, C], "mended": [B], "added": [D], "flaky": [A, B, C], "gone": 0,
        "counts": {"broken": 2, "mended": 1, "added": 1, "flaky": 3},
    }  # fmt: skip
    assert isinstance(line(1, "since", "", **found), SinceLine)


def test_what_a_complete_run_no_longer_has_is_gone() -> None:
    assert history.changes(RUNS[:2], run(5, {A: "proven"}), [A])["gone"] == 2
    assert history.changes(RUNS[:2], run(5, {A: "proven"}, state="partial"), [A])["gone"] == 0


def test_without_an_earlier_run_nothing_is_new() -> None:
    """An earlier run of another engine says nothing of this one."""
    other = [dataclasses.replace(one, engine="/usr/bin/other") for one in RUNS]
    for earlier in ([], other):
        found = history.changes(earlier, RUNS[0], [A, B])
        assert (found["before"], sum(found["counts"].values())) == ("", 0)


def test_only_the_very_same_sources_show_that_a_proof_is_not_steady() -> None:
    """Of a modified tree nobody knows what was in it, and another commit may have mended it."""
    assert history.flaky(RUNS) == {anchor(B): RUNS[1:3]}
    assert history.flaky([RUNS[0], RUNS[1], RUNS[3]]) == {}


def test_of_many_new_proofs_some_are_named_and_all_are_counted() -> None:
    names = [f"proofs/test_x.py::test_{number}" for number in range(history.NAMED_MAX + 50)]
    found = history.changes([run(1, dict.fromkeys(names, "proven"))], run(2, dict.fromkeys(names, "refuted")), names)
    assert (len(found["broken"]), found["counts"]["broken"]) == (history.NAMED_MAX, len(names))


def test_the_document_says_what_is_new() -> None:
    refuted = RECORD[-3]
    assert isinstance(refuted, VerdictLine)
    proof = refuted.proof
    since = line(32, "since", proof="", before="run-1", gone=4, broken=[proof, proof, "nobody"], mended=[], added=[],
                 flaky=[proof], counts={"broken": 1, "mended": 0, "added": 0, "flaky": 1})  # fmt: skip
    doc = document([*RECORD[:-1], since, RECORD[-1]])
    assert [one.news for one in doc.proofs] == [["broken", "flaky"], []]
    for text in rendered(doc):
        words = " ".join(text.split())
        assert "New since run run-1" in words
        assert "1 newly not proven" in words
        assert "4 gone" in words
    assert document().since is None
    assert isinstance(since, SinceLine)
    first = document([*RECORD[:-1], dataclasses.replace(since, before=""), RECORD[-1]])
    assert all("No earlier run was kept" in text for text in rendered(first))
