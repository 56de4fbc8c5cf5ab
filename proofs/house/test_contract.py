"""G5: the contract's text, the list of its clauses and the proofs agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from harness.evidence.verdict import claims_in_name
from harness.proving import contract
from harness.proving.contract import Clause

ROOT = Path(__file__).resolve().parents[2]

A_PROOF = "@pytest.mark.claim('G0')\ndef test_a(): ..."

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


@pytest.mark.claim("G5")
def test_contract_lists_the_proofs() -> None:
    path = ROOT / "docs" / "contract.md"
    table = contract.listed(tomllib.loads((ROOT / "config" / "contract.toml").read_text()))
    sources = {file.name: file.read_text() for file in (ROOT / "proofs").rglob("test_*.py")}
    assert path.read_text() == contract.with_table(path.read_text(), table, sources), (
        "run `python -m harness contract --update`"
    )


def test_claims_are_read_from_marks() -> None:
    source = (
        "import pytest\npytestmark = pytest.mark.claim('Z1')\n"
        "@pytest.mark.claim('A1', 'A2')\ndef test_B1_x(): ...\nasync def test_y(): ...\ndef helper(): ...\n"
    )
    assert contract.claims_in_source(source) == {"test_B1_x": ["Z1", "A1", "A2"], "test_y": ["Z1"]}
    assert contract.claims_in_source("def test_B1_C2_x(): ...") == {"test_B1_C2_x": []}


@pytest.mark.claim("G5")
def test_a_clause_in_a_name_is_claimed_too() -> None:
    """A name claims nothing; whoever reads one must not be misled."""
    for path in sorted((ROOT / "proofs").rglob("test_*.py")):
        for name, claimed in contract.claims_in_source(path.read_text()).items():
            unclaimed = set(claims_in_name(name)) - set(claimed)
            assert not unclaimed, f"{path.name}::{name}: add @pytest.mark.claim({', '.join(map(repr, unclaimed))})"


def test_table_is_no_part_of_the_clauses() -> None:
    table = {"A1": Clause("A1", "", planned=True), "G0": Clause("G0", "", planned=False)}
    text = contract.with_table(TEXT, table, {"test_a.py": A_PROOF})
    assert "| A1 | planned | |" in text
    assert "| G0 | built | `test_a::a` |" in text
    assert contract.clauses(text) == contract.clauses(TEXT)
    assert contract.with_table(text, table, {"test_a.py": A_PROOF}) == text


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
