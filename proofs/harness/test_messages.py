"""The judge of log lines: levels, fields and priorities (contract M1, section 10b)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.base.journal import Entry
from harness.evidence import messages

CONTRACT = Path(__file__).resolve().parents[2] / "docs" / "contract.md"

pytestmark = pytest.mark.claim("M1")


def line(message: str, level: str, priority: int, **fields: object) -> Entry:
    return Entry(message, "u", "", "engine", 1, 0, 0, {"message": message, **fields}, "", level, "t", priority)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (line("connected", "INFO", 6, source="mock"), ""),
        (line("something of its own", "WARN", 4), ""),
        (line("connected", "WARN", 4, source="mock"), "'connected' is logged as WARN, and 10b says INFO"),
        (line("connected", "INFO", 6), "'connected' does not tell source"),
        (line("of its own", "ERROR", 6), "'of its own' is logged with priority 6 as ERROR, whose priority is 3"),
        (line("of its own", "warning", 4), "'of its own' is logged with priority 4 as warning, no level of M1"),
    ],
)
def test_a_line_has_its_level_priority_and_fields(entry: Entry, says: str) -> None:
    assert [violation.says for violation in messages.are_as_told([entry]).violations] == [says] * bool(says)


def test_what_is_no_line_of_the_engines_is_not_judged() -> None:
    judgement = messages.are_as_told([line("Started hybrid-engine.service", "", 6)])
    assert (judgement.judged, judgement.violations) == (0, [])


def test_messages_are_those_of_the_contract() -> None:
    table = CONTRACT.read_text().split("## 10b.")[1].split("| table |")[0]
    levels = {
        name: level
        for names, level in re.findall(r"^\| (`.*?) \| (INFO|WARN|ERROR) \|", table, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", names)
    }
    # "barred until" goes on with a time.
    assert levels.pop("barred until ...") == "WARN"
    assert levels == {name: level for name, (level, _) in messages.MESSAGES.items()}
    for name, (_, fields) in messages.MESSAGES.items():
        row = next(row for row in table.splitlines() if f"`{name}`" in row)
        assert fields <= set(re.findall(r"`([a-z_]+)`", row)), f"the table does not name the fields of {name}"
