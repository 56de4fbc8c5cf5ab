"""The judge of log lines: levels, fields and priorities (contract M1, section 10b)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.base.journal import Entry
from harness.evidence import messages

CONTRACT = Path(__file__).resolve().parents[2] / "docs" / "contract.md"

pytestmark = pytest.mark.claim("M1")


def line(message: str, level: str, priority: int, **fields: object) -> Entry:
    at = "2026-11-28T12:30:00.123456Z"
    return Entry(message, "u", "", "engine", 1, 0, 0, {"message": message, **fields}, at, level, "t", priority)


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


@pytest.mark.parametrize(
    ("timestamp", "target", "is_right"),
    [
        ("2026-11-28T12:30:00.123456Z", "engine", True),
        ("2026-11-28T12:30:00.123456+00:00", "engine.pipeline", True),
        ("2026-11-28T12:30:00.123456Z", "", False),
        *((wrong, "engine", False) for wrong in (
            "", "2026-11-28 12:30:00.123456Z", "20261128T123000.123456Z", "2026-11-28T12:30:00.123Z",
            "2026-11-28T12:30:00.123456", "2026-11-28T14:30:00.123456+02:00", "2026-W48-6T12:30:00.123456Z",
        )),
    ],
)  # fmt: skip
def test_a_line_says_when_it_was_and_who_wrote_it(timestamp: str, target: str, is_right: bool) -> None:
    entry = replace(line("of its own", "INFO", 6), timestamp=timestamp, target=target)
    assert bool(messages.are_as_told([entry]).violations) is not is_right


@pytest.mark.parametrize(("level", "priority"), [("ERROR", 3), ("WARN", 4), ("INFO", 6), ("DEBUG", 7)])
def test_priorities_are_those_of_syslog(level: str, priority: int) -> None:
    wrong = [other for other in range(9) if messages.are_as_told([line("of its own", level, other)]).violations]
    assert wrong == [other for other in range(9) if other != priority]


def test_a_judgement_says_how_many_lines_there_were_and_where_one_is_wrong() -> None:
    lines = [line("of its own", "INFO", 6), line("Started", "", 6), line("connected", "WARN", 4, source="mock")]
    judgement = messages.are_as_told(lines)
    assert (judgement.judged, [violation.at for violation in judgement.violations]) == (2, [3])


def test_what_is_no_line_of_the_engines_is_not_judged() -> None:
    judgement = messages.are_as_told([line("Started hybrid-engine.service", "", 6)])
    assert (judgement.judged, judgement.violations) == (0, [])


def ended(status: str, invocation: str = "a") -> Entry:
    return Entry(f"u: Main process exited, code=exited, status={status}", "u", invocation, "systemd", 1, 0, 0)


def reason(code: object, level: str = "ERROR", invocation: str = "a") -> Entry:
    return Entry("", "u", invocation, "engine", 1, 0, 0, {"message": "why", "exit_code": code}, "", level, "t", 3)


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ([reason(12), ended("12/n/a")], 0),
        ([ended(f"{code}/n/a", str(code)) for code in (10, 11, 12, 13)], 4),
        # The journal may have them in another order: they come over two ways.
        ([ended("12/n/a"), reason(12)], 0),
        ([ended("1/FAILURE"), ended("0/SUCCESS")], 0),
        ([reason(12, invocation=""), ended("12/n/a")], 0),
        ([ended("12/n/a")], 1),
        ([reason(12, invocation="b"), ended("12/n/a")], 1),
        ([reason(11), ended("12/n/a")], 1),
        ([reason("12"), ended("12/n/a")], 1),
        ([reason(12, "WARN"), ended("12/n/a")], 1),
        ([reason(10), ended("10/n/a"), ended("10/n/a", "b"), reason(13, invocation="c"), ended("13/n/a", "c")], 1),
    ],
)
def test_an_end_with_a_reason_has_its_line(entries: list[Entry], wrong: int) -> None:
    judgement = messages.ends_are_told(entries)
    assert len(judgement.violations) == wrong
    codes = ("10/", "11/", "12/", "13/")
    ends = [at for at, entry in enumerate(entries, start=1) if any(f"status={code}" in entry.message for code in codes)]
    assert judgement.judged == len(ends)
    assert {violation.at for violation in judgement.violations} <= set(ends)
    assert all("no ERROR line of it has exit_code" in violation.says for violation in judgement.violations)


def test_a_process_that_logs_writes_nothing_else() -> None:
    """What systemd says in its place before it is the service, and what runs beside it, is not judged."""
    others = [Entry("of another process", "u", "", "engine", 2, 0, 0), Entry("before it", "u", "", "(engine)", 1, 0, 0)]
    assert messages.are_lines([line("of its own", "INFO", 6), *others]).judged == 1
    assert not messages.are_lines(others).violations
    noise = Entry("Traceback", "u", "", "engine", 1, 0, 0)
    judgement = messages.are_lines([*others, noise, line("of its own", "INFO", 6)])
    assert [(one.at, one.says) for one in judgement.violations] == [(3, "a line that is no M1 line: 'Traceback'")]


@pytest.mark.claim("M2")
def test_what_counts_never_falls() -> None:
    """But for another process, which begins anew, and for what is measured."""
    beats = [line("HEARTBEAT (G4)", "INFO", 6, ignored=count, gaps=9 - count) for count in (0, 2, 2)]
    final = line("FINAL METRICS", "INFO", 6, ignored=1)
    another = replace(line("HEARTBEAT (G4)", "INFO", 6, ignored=0, risk_vetoes=None), pid=2)
    judgement = messages.counters_never_fall([*beats, another, line("connected", "INFO", 6, ignored=0), final])
    assert (judgement.judged, judgement.clause) == (5, "M2")
    assert [(one.at, one.says) for one in judgement.violations] == [(6, "ignored falls from 2 to 1")]


@pytest.mark.claim("E4")
@pytest.mark.parametrize(
    ("state", "identifier", "wrong"),
    [("stop-sigterm", "systemd", 1), ("stop-watchdog", "systemd", 0), ("stop-sigterm", "engine", 0)],
)
def test_a_stop_is_obeyed(state: str, identifier: str, wrong: int) -> None:
    """What the watchdog ends may be past hearing; and the engine may say whatever it likes."""
    entry = Entry(f"u: State '{state}' timed out. Killing.", "u", "", identifier, 1, 0, 0)
    assert len(messages.stops_are_obeyed([ended("0/SUCCESS"), entry]).violations) == wrong


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
