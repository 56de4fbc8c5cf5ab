"""G5: the contract's text, the list of its clauses and the proofs agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from harness import contract
from harness.contract import Clause

ROOT = Path(__file__).resolve().parent.parent

TEXT = """\
* A1 First clause,
  on two lines.
* A2 Second (G0).

prose about A3

| id | guardrail |
|---|---|
| G0 | a row |
"""


@pytest.mark.claim("G5")
def test_list_and_contract_agree() -> None:
    texts = contract.clauses((ROOT / "docs" / "contract.md").read_text())
    table = contract.listed(tomllib.loads((ROOT / "config" / "contract.toml").read_text()))
    assert contract.disagreements(texts, table) == []
    assert len(texts) > 80


def test_clauses_are_bullets_and_rows() -> None:
    assert contract.clauses(TEXT) == {
        "A1": "* A1 First clause, on two lines.",
        "A2": "* A2 Second (G0).",
        "G0": "| G0 | a row |",
    }


def test_a_clause_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="A1 stands twice"):
        contract.clauses(TEXT + "* A1 again\n")


def test_every_way_to_disagree_is_named() -> None:
    texts = contract.clauses(TEXT)
    table = contract.listed(tomllib.loads(contract.as_toml(texts, planned=["A2"])))
    assert contract.disagreements(texts, table) == []
    assert table["A2"].planned
    assert not table["A1"].planned
    del texts["G0"]
    texts["A1"] += " And more."
    texts["A9"] = "* A9 new"
    assert [line.split()[0] for line in contract.disagreements(texts, table)] == ["A9", "G0", "the"]


def test_claims_and_clauses() -> None:
    table = {"A1": Clause("A1", "", planned=False), "A2": Clause("A2", "", planned=True)}
    assert contract.unproved(table, {"A2"}) == ["A1"]
    assert contract.unproved(table, {"A1"}) == []
    assert contract.unknown(table, ["A1", "Z9"]) == ["Z9"]


def test_a_malformed_list_names_the_entry() -> None:
    with pytest.raises(ValueError, match="A1"):
        contract.listed({"A1": {"digests": "x"}})
