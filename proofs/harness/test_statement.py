"""What a bundle says of a run: nothing is called proven that was not shown whole (V5)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError

from harness.bundle import statement
from harness.bundle.statement import BundleStatement
from harness.evidence import results
from harness.evidence.results import Interpreter, Package, RunSummary, Runtime
from harness.evidence.verdict import ClauseId, Verdict
from proofs.fixtures import true_bundle

ENGINE = {"gate.py": "1" * 64}
UNIT = [("hybrid-engine.service", "2" * 64)]
CONFIG = {"mode": "LIVE", "live_armed": True, "gate": {"trusted_keys": ["ed25519:A"]}, "engine": {"sample_every": 1}}
MADE = true_bundle.made(ENGINE, UNIT, CONFIG, 1_800_000_000.5)


def proof(name: str, verdict: str, *claims: str) -> dict[str, Any]:
    return {"proof": name, "claims": list(claims), "verdict": verdict, "reason": ""}


def summary(*verdicts: dict[str, Any], **changes: Any) -> RunSummary:
    return results.parse(json.dumps({"run_id": "1", "verdicts": verdicts, "complete": True, **changes}))


@pytest.mark.claim("V5")
@pytest.mark.parametrize(
    ("of_run", "verdicts"),
    [
        (summary(proof("a", "proven", "E1", "E2")), {"E1": "proven", "E2": "proven"}),
        (summary(proof("a", "proven", "E1"), proof("b", "unproven", "E1")), {"E1": "unproven"}),
        (summary(proof("a", "refuted", "E1"), proof("b", "unproven", "E1")), {"E1": "refuted"}),
        (
            summary(proof("a", "proven", "E1"), left_out={"E1": 1, "E2": 2}),
            {"E1": "unproven", "E2": "unproven"},
        ),
        (summary(proof("a", "proven", "E1"), planned=["E1"]), {"E1": "unproven"}),
        (summary(proof("a", "proven", "E1"), complete=False), {"E1": "unproven"}),
        (summary(proof("a", "proven", "E1"), proof("died", "unproven")), {"E1": "unproven"}),
        (summary(proof("a", "unproven", "E1"), accepted_unproven=["E1"]), {"E1": "unproven"}),
    ],
    ids=["all", "one-unproven", "one-refuted", "left-out", "planned", "part", "a-worker-died", "accepted"],
)
def test_a_clause_is_proven_only_as_a_whole(of_run: RunSummary, verdicts: dict[str, str]) -> None:
    assert statement.clause_verdicts(of_run) == verdicts


@pytest.mark.claim("V5")
def test_the_statement_has_what_a_stranger_asks() -> None:
    predicate = MADE["predicate"]
    assert (MADE["_type"], MADE["predicateType"]) == (statement.STATEMENT_TYPE, statement.PREDICATE_TYPE)
    assert {subject["name"]: subject["digest"]["sha256"] for subject in MADE["subject"]} == {
        "engine": statement.digest(ENGINE), "runtime": statement.digest(true_bundle.RUNTIME),
        "unit": statement.digest(UNIT), "config": statement.digest(CONFIG),
    }  # fmt: skip
    assert predicate["time"] == "2027-01-15T08:00:00Z"
    assert predicate["record"] == {"run_id": "1", "sha256": "0" * 64, "lines": 1, "head": "0" * 64}
    assert predicate["platform"] == {"kernel": "Linux 6.1", "systemd": "systemd 252"}
    assert predicate["git"] == {"commit": "0" * 40, "tree": "clean"}
    assert predicate["proved_on"]["drop_ins"] == {"10-proof.conf": "[Service]\nRestartSec=20ms\n"}
    assert len(predicate["proofs"]) == len(true_bundle.GUARDRAILS) + 1
    assert statement.problem(as_read(MADE)) is None


@pytest.mark.claim("V5")
@given(st.permutations(sorted(CONFIG)))
def test_V5_the_same_facts_are_the_same_bytes(order: list[str]) -> None:
    config = {key: CONFIG[key] for key in order}
    made = true_bundle.made(ENGINE, UNIT, config, 1_800_000_000.5)
    made["predicate"]["signed"] = MADE["predicate"]["signed"]
    assert statement.canonical(made) == statement.canonical(MADE)


@pytest.mark.claim("V5")
def test_V5_what_is_signed_is_json_that_every_reader_takes() -> None:
    assert (
        statement.canonical({"b": [1, "é"], "a": {"d": None, "c": 0.5}})
        == '{"a":{"c":0.5,"d":null},"b":[1,"é"]}'.encode()
    )
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            statement.canonical({"a": number})


def as_read(made: dict[str, Any]) -> BundleStatement:
    return BundleStatement.model_validate_json(statement.canonical(made))


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    made = copy.deepcopy(MADE)
    change(made)
    return made


@pytest.mark.claim("V5")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda made: made.update(_type="x"), "_type is 'x'"),
        (lambda made: made["subject"].pop(), "must be about"),
        (lambda made: made["predicate"]["engine"].update({"gate.py": "0"}), "digest of engine"),
        (lambda made: made["predicate"]["config"].update(mode="PAPER"), "digest of config"),
        (lambda made: made["predicate"]["unit"].clear(), "digest of unit"),
        (lambda made: made["predicate"]["runtime"]["packages"].clear(), "digest of runtime"),
        (lambda made: made["predicate"]["proofs"].pop(0), "clause G0 is called proven"),
        (lambda made: made["predicate"]["proofs"][0].update(verdict="refuted"), "its proofs are refuted"),
    ],
    ids=range(8),
)
def test_a_statement_that_contradicts_itself(change: Callable[[dict[str, Any]], object], says: str) -> None:
    assert says in (statement.problem(as_read(changed(change))) or "nothing")


def within(made: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        made = made[step]
    return made


@pytest.mark.claim("V5")
@pytest.mark.parametrize(
    "path",
    [
        (), ("subject", 0), ("subject", 0, "digest"), ("predicate",), ("predicate", "proofs", 0),
        ("predicate", "record"), ("predicate", "proved_on"), ("predicate", "runtime"),
        ("predicate", "runtime", "python"),
    ],
    ids=str,
)  # fmt: skip
def test_no_part_of_a_statement_has_more_or_less_than_is_known_of_it(path: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError):
        as_read(changed(lambda made: within(made, path).update(more="x")))
    for name in within(MADE, path):
        with pytest.raises(ValidationError):
            as_read(changed(lambda made, name=name: within(made, path).pop(name)))  # type: ignore[misc]


@pytest.mark.claim("V5")
def test_a_statement_stays_as_it_was_read() -> None:
    read = as_read(MADE)
    for part in (read, read.predicate, read.predicate.record, read.subject[0]):
        for name in type(part).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(part, name, None)


PROVEN = Runtime(
    Interpreter("3.11", "1" * 64),
    {name: Package("1", f"{number}" * 64) for number, name in enumerate(("websockets", "tomlkit", "certifi"))},
)


@pytest.mark.claim("R9")
@pytest.mark.parametrize(
    ("now", "added", "changed"),
    [
        (PROVEN, [], []),
        (replace(PROVEN, packages={**PROVEN.packages, "b": Package("2", "f"), "a": Package("1", "e")}),
         ["a 1", "b 2"], []),
        (replace(PROVEN, packages={}), [], ["certifi", "tomlkit", "websockets"]),
        (replace(PROVEN, packages={**PROVEN.packages, "tomlkit": Package("1", "f" * 64)}), [], ["tomlkit"]),
        (replace(PROVEN, packages={**PROVEN.packages, "certifi": Package("2", "2" * 64)}), [], ["certifi"]),
        (replace(PROVEN, python=Interpreter("3.11", "2" * 64)), [], ["python"]),
        (Runtime(Interpreter("3.12", "1" * 64), {"a": Package("1", "e")}), ["a 1"],
         ["python", "certifi", "tomlkit", "websockets"]),
    ],
    ids=["same", "more", "gone", "other-files", "other-version", "other-python", "all"],
)  # fmt: skip
def test_what_a_runtime_has_more_or_other_than_the_proven_one_is_named(
    now: Runtime, added: list[str], changed: list[str]
) -> None:
    assert (statement.added_packages(now, PROVEN), statement.changed_since(now, PROVEN)) == (added, changed)


@pytest.mark.claim("V5")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda made: made["predicate"]["config"].update(mode="SHADOW"), "mode SHADOW and live_armed true"),
        (lambda made: made["predicate"]["config"].update(live_armed=False), "live_armed false"),
        (true_bundle.verdict("I7", "unproven"), "required and not proven: I7"),
        (true_bundle.verdict("psi", "refuted"), "refuted: proofs/test_all.py::test_psi; required and not proven: psi"),
        (true_bundle.listed("accepted_unproven", "S3"), "required and not proven: S3"),
        (lambda made: made["predicate"]["clauses"].clear(), "required and not proven: G0 G1"),
    ],
    ids=range(6),
)
def test_why_a_bundle_opens_nothing(change: Callable[[dict[str, Any]], object], says: str) -> None:
    clauses = list(map(ClauseId, [*true_bundle.GUARDRAILS, "V1", "R6"]))
    assert statement.objections(as_read(MADE), clauses) == []
    assert says in "; ".join(statement.objections(as_read(changed(change)), clauses))


@pytest.mark.claim("V5")
def test_V5_pace_and_looks_are_no_part_of_it() -> None:
    effective: dict[str, JsonValue] = {
        "mode": "LIVE",
        "engine": {"sample_every": 5, "ws_url": "ws://x"},
        "dashboard": {"port": 1},
    }
    assert statement.safety_part(effective) == {"mode": "LIVE", "engine": {"ws_url": "ws://x"}}


@pytest.mark.claim("V5")
def test_V5_verdicts_are_those_of_the_harness() -> None:
    assert {one["verdict"] for one in MADE["predicate"]["proofs"]} <= {verdict.value for verdict in Verdict}
