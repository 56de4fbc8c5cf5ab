"""G5: the contract's text, the list of its clauses and the proofs agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.evidence.verdict import ClauseId, claims_in_name
from harness.proving import contract
from harness.proving.contract import Clause
from proofs.fixtures.bytecode import environ
from proofs.guardrails.test_g4 import FIELDS

A1, A2, G0 = ClauseId("A1"), ClauseId("A2"), ClauseId("G0")

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


@pytest.mark.slow
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
    twice = "marks = pytestmark = pytest.mark.claim('Z1')\nother = pytest.mark.claim('Z2')\ndef test_x(): ..."
    assert contract.claims_in_source(twice) == {"test_x": ["Z1"]}
    odd = "@pytest.mark.claim(CLAUSE, 5, 'A1', *MORE)\n@pytest.mark.slow\n@other.claim('A2')\ndef test_x(): ..."
    assert contract.claims_in_source(odd) == {"test_x": ["A1"]}
    assert contract.claims_in_source("def test_B1_C2_x(): ...") == {"test_B1_C2_x": []}


@pytest.mark.slow
@pytest.mark.claim("G5")
def test_a_clause_in_a_name_is_claimed_too() -> None:
    """A name claims nothing; whoever reads one must not be misled."""
    for path in sorted((ROOT / "proofs").rglob("test_*.py")):
        for name, claimed in contract.claims_in_source(path.read_text()).items():
            unclaimed = set(claims_in_name(name)) - set(claimed)
            assert not unclaimed, f"{path.name}::{name}: add @pytest.mark.claim({', '.join(map(repr, unclaimed))})"


def test_table_is_no_part_of_the_clauses() -> None:
    table = {A1: Clause(A1, "", planned=True), G0: Clause(G0, "", planned=False)}
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
    table = contract.listed(tomllib.loads(contract.as_toml(texts, planned=[A2])))
    assert contract.disagreements(texts, table) == []
    assert table[A2].planned
    assert not table[A1].planned
    del texts[G0]
    texts[A1] += " And more."
    texts[ClauseId("A9")] = "* A9 new"
    assert [line.split()[0] for line in contract.disagreements(texts, table)] == ["A9", "G0", "the"]


def test_the_list_comes_back_from_its_text() -> None:
    texts = contract.clauses(TEXT)
    table = contract.listed(tomllib.loads(contract.as_toml(texts, planned=[A2], of_harness=[A2, G0])))
    assert table == {
        clause: Clause(clause, contract.digest(texts[clause]), planned, engines)
        for clause, planned, engines in ((A1, False, True), (A2, True, False), (G0, False, False))
    }
    assert contract.as_toml(texts, [A2], [A2, G0]).splitlines()[3:] == [
        f'A1 = {{ digest = "{table[A1].digest}" }}',
        f'A2 = {{ digest = "{table[A2].digest}", planned = true, of = "harness" }}',
        f'G0 = {{ digest = "{table[G0].digest}", of = "harness" }}',
    ]


def test_claims_and_clauses() -> None:
    table = {A1: Clause(A1, "", planned=False), A2: Clause(A2, "", planned=True)}
    assert contract.unproved(table, {A2}) == [A1]
    assert contract.unproved(table, {A1}) == []
    assert contract.unknown(table, [A1, ClauseId("Z9")]) == ["Z9"]


@pytest.mark.parametrize(
    ("claimed", "kept", "judges"),
    [
        ([A1], None, True), ([A1, G0], None, True), ([G0], None, False), ([], None, False), (["Z9"], None, True),
        ([A1], [A1], True), ([A1], [A1, A2], True), ([A1, A2], [A1], False), ([A1, A2], [A1, A2], True),
        ([A1], [], False),
        ([A1, G0], [A1], True), ([G0], [A1], False),
    ],
)  # fmt: skip
def test_a_proof_judges_an_engine_that_claims_to_keep_all_that_it_asks_for(
    claimed: list[ClauseId], kept: list[ClauseId] | None, judges: bool
) -> None:
    table = {clause: Clause(clause, "", planned=False, engines=clause != G0) for clause in (A1, A2, G0)}
    assert contract.judges_engine(table, claimed, kept) == judges


def test_a_malformed_list_names_the_entry() -> None:
    with pytest.raises(ValueError, match="A1"):
        contract.listed({"A1": {"digests": "x"}})


def the_list() -> dict[ClauseId, Clause]:
    return contract.listed(tomllib.loads((ROOT / "config/contract.toml").read_text()))


def the_page() -> str:
    sources = {path.name: path.read_text() for path in (ROOT / "proofs").rglob("test_*.py")}
    return contract.interface((ROOT / "docs/contract.md").read_text(), the_list(), sources)


def read_of_an_engine() -> dict[str, set[str]]:
    """What proofs that judge an engine by its unit read of it: log messages, fields, and words of their SQL, each with
    the files where it stands. Those of the dashboard and of the gate read this project's own."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "proofs/guardrails").glob("test_*.py")):
        source = path.read_text()
        claims = contract.claims_in_source(source).values()
        ours = "fixtures.dashboard_unit" in source or "fixtures.live_unit" in source
        if "EngineUnit" not in source or ours or not any(contract.judges_engine(the_list(), each) for each in claims):
            continue
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(func=ast.Attribute(attr="wait_log"), args=[ast.Constant(value=str(event)), *_]):
                    found[event].add(path.name)
                case ast.Compare(left=ast.Attribute(attr="event"), comparators=[ast.Constant(value=str(event))]):
                    found[event].add(path.name)
                case ast.Subscript(slice=ast.Constant(value=str(field))):
                    found[field].add(path.name)
                case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(field)), *_]):
                    found[field].add(path.name)
                case ast.Constant(value=str(sql)) if re.search(r"\b(SELECT|FROM)\b", sql):
                    for word in re.findall(r"\b[a-z_]{2,}\b", re.sub(r"'[^']*'", "", sql)):
                        found[word].add(path.name)
    return found


OF_SQL = {"count", "sum"}
OF_THE_WIRE = {"fields", "message", "timestamp"}
"""Of every line of M1 and of a decision (K6)."""


@pytest.mark.claim("V9")
def test_proofs_rely_on_nothing_that_the_interface_does_not_name() -> None:
    page = the_page()
    read = read_of_an_engine()
    assert {"HEARTBEAT (G4)", "ingest_received", "veto", "positions"} <= read.keys(), "nothing was collected"
    unnamed = {
        word: sorted(files)
        for word, files in read.items()
        if word not in OF_SQL | OF_THE_WIRE and not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", page)
    }
    assert not unnamed, f"docs/contract.md, section 10b, does not name {unnamed}"


def test_the_interface_is_a_page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["contract", "--interface"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("## 10b.")
    assert "| 13 | OVERLOAD |" in told
    assert told == the_page()
    with pytest.raises(ValueError, match="has no part"):
        contract.interface("# Nothing\n", {}, {})


@pytest.mark.slow
@pytest.mark.claim("V9")
def test_the_interface_has_each_clause_that_another_engine_is_asked_for() -> None:
    """In its own words; and what these refer to, and the first part of the page, where that is an engine's promise."""
    texts, listed = contract.clauses((ROOT / "docs/contract.md").read_text()), the_list()
    told = contract.clauses(the_page())
    program = (
        "import pytest, sys\n"
        "class Asked:\n"
        "    def pytest_collection_finish(self, session):\n"
        "        marks = [mark for item in session.items for mark in item.iter_markers('claim')]\n"
        "        print('asked', *sorted({clause for mark in marks for clause in mark.args}))\n"
        "flags = ['--collect-only', '-q', '-p', 'no:xdist', '--engine-cmd', '/bin/engine']\n"
        "pytest.main(['proofs/guardrails', *flags], [Asked()])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=environ(), timeout=60
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("asked "))
    asked = {ClauseId(word) for word in line.split()[1:] if listed[ClauseId(word)].engines}
    assert len(asked) > 70
    assert {clause: told.get(clause) for clause in asked} == {clause: texts[clause] for clause in asked}
    words = [the_page().partition("## 1. ")[0], *(texts[clause] for clause in asked)]
    referred = {ClauseId(word) for word in re.findall(r"\b[A-Z]\d{1,2}b?\b", " ".join(words))}
    missing = {clause for clause in referred - told.keys() if clause in listed and listed[clause].engines}
    assert not missing, f"the page refers to {missing}, and does not print them"


PAGE = f"""\
{contract.INTERFACE_HEADING}

B2 counts here.

## 1. One

* C1 Told.

## 2. Two

## 3. Three

## 4. Four

Nobody's words.

* A1 Asked,
  on two lines (A3).
* A2 Not asked.

* A3 Referred to (A1, B1).

## 5. Five

| id | words |
|---|---|
| S1 | not asked |
| S2 | asked |

* B2 Read.

## 6. Six

* B1 The harness's.
"""


def test_of_the_rest_the_interface_has_what_is_asked_and_what_that_refers_to() -> None:
    table = {
        clause: Clause(clause, "", planned=False, engines=clause != "B1")
        for clause in map(ClauseId, ("A1", "A2", "A3", "B1", "B2", "C1", "S1", "S2"))
    }
    proofs = (
        "@pytest.mark.claim('A1', 'S2', 'B1')\ndef test_a(engine: EngineUnit): ...\n"
        "@pytest.mark.claim('A2')\ndef test_b(): ...\n"
    )
    rest = contract.interface(PAGE, table, {"test_a.py": proofs}).partition("## 4. ")[2]
    assert rest == (
        "Four\n\n* A1 Asked,\n  on two lines (A3).\n* A3 Referred to (A1, B1).\n\n"
        "## 5. Five\n\n| id | words |\n|---|---|\n| S2 | asked |\n* B2 Read.\n"
    )


@pytest.mark.claim("M2")
def test_a_heartbeat_is_asked_for_all_that_the_contract_names() -> None:
    text = contract.clauses((ROOT / "docs" / "contract.md").read_text())[ClauseId("M2")]
    quoted = ", ".join(part for part in text.split("`")[1::2] if part.islower())
    assert set(re.findall(r"\w+", quoted)) - {"heartbeat_interval_secs"} == FIELDS
