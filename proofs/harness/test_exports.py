"""The evidence for other people's tools (contract V15)."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence import exports
from proofs.fixtures import large_run
from proofs.harness.test_buglog import END, PROOF, RECORD, document, line, verdict

pytestmark = pytest.mark.claim("V15")


@pytest.mark.slow
def test_junit_counts_what_the_record_holds() -> None:
    doc = document(list(large_run.record()))
    root = ElementTree.fromstring(exports.junit(doc))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("3000", "20", "8")
    suites = root.findall("testsuite")
    assert len(suites) == large_run.FILES
    for suite in suites:
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
        assert suite.get("errors") == str(len(suite.findall("testcase/error")))
    failure = next(root.iter("failure"))
    assert re.fullmatch(r"the unit restarted \d+ times on exit status 12", failure.get("message", ""))
    assert str(failure.text).startswith("REFUTED")


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ({"state": "interrupted", "interrupted": True, "selected": 22, "never_ran": 16}, "16 of 22 proofs never ran"),
        ({"state": "partial", "selected": 1, "collected": 30}, "1 of 30 were chosen"),
        (None, "the record has no end"),
    ],
    ids=["interrupted", "partial", "cut-off"],
)
def test_less_than_all_is_green_nowhere(end: dict[str, Any] | None, says: str) -> None:
    """A run whose proofs are all proven, and which is not all of them."""
    last = [line(33, "end", proof="", **{**END, **end})] if end is not None else []
    doc = document([*(one for one in RECORD[:-1] if one.proof != PROOF), *last])
    assert doc.counts == {"refuted": 0, "unproven": 0, "proven": 1}
    error = ElementTree.fromstring(exports.junit(doc)).find("testsuite/testcase/error")
    assert error is not None
    assert says in error.get("message", "")
    results = [json.loads(text) for name, text in exports.allure(doc).items() if name.endswith("-result.json")]
    assert [
        (one["status"], one["statusDetails"].get("message", "")) for one in results if one["status"] != "passed"
    ] == [("broken", error.get("message"))]


def test_allure_results_have_status_steps_and_a_steady_identity() -> None:
    files = exports.allure(document())
    results = {
        one["fullName"]: one
        for name, text in files.items()
        if name.endswith("-result.json")
        for one in [json.loads(text)]
    }
    assert all(name == f"{one['uuid']}-result.json" for name, one in zip(
        [name for name in files if name.endswith("-result.json")], results.values(), strict=True
    ))  # fmt: skip
    refuted = results[PROOF]
    assert (refuted["status"], refuted["stop"] - refuted["start"]) == ("failed", 1250)
    assert {"name": "tag", "value": "E2"} in refuted["labels"]
    assert {"name": "severity", "value": "critical"} in refuted["labels"]
    assert any("systemctl start 'a b.service'" in step["name"] for step in refuted["steps"])
    # Allure follows a test from run to run by this.
    other = exports.allure(document([replace(one, run="2") for one in RECORD]))
    again = [json.loads(text) for name, text in other.items() if name.endswith("-result.json")]
    assert {one["historyId"] for one in again} == {one["historyId"] for one in results.values()}
    assert {one["uuid"] for one in again}.isdisjoint(one["uuid"] for one in results.values())
    assert "kernel = Linux\\ 6.18" in files["environment.properties"]


EXPORTS = Path(__file__).resolve().parents[1] / "fixtures/exports"

ALL_KINDS = [
    *RECORD[:-3],
    verdict(
        31, PROOF, ["E2", "exit12"], "refuted", "it | restarted\n  state: <failed>", 1.25, told="E  all\nthat & more"
    ),
    verdict(32, "proofs/engine/test_b.py::test_\xe9[::]", ["N7"], "unproven", "no PSI\nhere", 0.5, about=""),
    verdict(33, "proofs/engine/test_b.py::test_fine", [], "proven"),
    verdict(34, "gw1 died", ["E2"], "unproven", "", 0.0),
    line(35, "end", proof="", **{**END, "state": "partial", "selected": 4, "collected": 30}),
]


@pytest.mark.parametrize("name", ["run.xml", "run.json"])
def test_what_others_read_is_all_that_is_known_of_a_run(name: str) -> None:
    """JUnit XML; Allure's files, one below the other."""
    doc = document(ALL_KINDS)
    files = exports.allure(doc)
    told = exports.junit(doc) if name == "run.xml" else "".join(f"--- {file}\n{files[file]}" for file in sorted(files))
    assert told == (EXPORTS / name).read_text()


def test_a_run_without_any_proof_was_at_no_time() -> None:
    doc = document([RECORD[0]])
    (result,) = (json.loads(text) for name, text in exports.allure(doc).items() if name.endswith("-result.json"))
    assert (result["status"], result["start"], result["stop"]) == ("broken", 0, 0)
    early = replace(verdict(2, PROOF, ["E2"], "proven", seconds=9.0), at=4.0)
    (result,) = (
        json.loads(text) for name, text in exports.allure(document([RECORD[0], early, RECORD[-1]])).items()
        if name.endswith("-result.json")
    )  # fmt: skip
    assert (result["start"], result["stop"]) == (0, 4000)
    assert 'timestamp="1970-01-01T00:00:00"' in exports.junit(document([RECORD[0], early, RECORD[-1]]))


@given(st.lists(st.text(min_size=1), min_size=5, max_size=5))
def test_any_text_makes_xml_and_json(texts: list[str]) -> None:
    record = [
        line(1, "run", proof="", systemd="private", facts={texts[0]: texts[1]}, clauses={}),
        line(2, "intent", texts[2], argv=["echo", texts[3]], cwd="", environment=""),
        verdict(3, texts[2], [texts[4]], "refuted", texts[0], told=texts[1]),
        line(4, "end", proof="", **END),
    ]
    doc = document(record)
    root = ElementTree.fromstring(exports.junit(doc))
    assert root.get("failures") == "1"
    files = exports.allure(doc)
    assert len(files["environment.properties"].splitlines()) == 4
    for name, text in files.items():
        if name.endswith(".json"):
            json.loads(text)


def test_every_character_that_xml_has_stays() -> None:
    kept = "".join(char for char in map(chr, (*range(0x20, 0x300), 0xFFFD, 0x1F600, sys.maxunicode)))
    assert exports._xml(kept) == kept
    assert exports._xml("\x00\x1b\ufffe\ud800") == "\ufffd" * 4
