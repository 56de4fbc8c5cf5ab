"""Journal fields as typed entries."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import journal
from harness.base.journal import Entry

M1 = json.dumps(
    {
        "timestamp": "2026-01-09T16:31:49.065123Z",
        "level": "INFO",
        "fields": {"message": "HEARTBEAT (G4)", "tick_count": 7},
        "target": "engine.pipeline",
    }
)


def parse(**fields: str) -> Entry:
    entry = journal.parse({"_PID": "62", **fields}, 1795421139037929)
    assert entry is not None
    return entry


def test_a_line_of_the_service() -> None:
    entry = parse(MESSAGE=M1, _SYSTEMD_UNIT="a.service", _SYSTEMD_INVOCATION_ID="ff", SYSLOG_IDENTIFIER="engine")
    assert (entry.unit, entry.invocation_id, entry.pid, entry.level) == ("a.service", "ff", 62, "INFO")
    assert (entry.event, entry.identifier) == ("HEARTBEAT (G4)", "engine")
    assert (entry.fields["tick_count"], entry.target) == (7, "engine.pipeline")


def test_a_line_of_systemd_about_a_unit_belongs_to_that_unit() -> None:
    entry = parse(MESSAGE="Failed", UNIT="a.service", _SYSTEMD_UNIT="init.scope", INVOCATION_ID="ee")
    assert (entry.unit, entry.invocation_id, entry.event) == ("a.service", "ee", "Failed")


def test_what_an_entry_does_not_say_is_nothing_and_its_priority_that_of_information() -> None:
    assert journal.parse({"MESSAGE": "x"}, 7) == Entry(
        message="x", unit="", invocation_id="", identifier="", pid=0, realtime_us=7, sent_us=7, priority=6
    )


@pytest.mark.parametrize(("said", "priority"), [("0", 0), ("3", 3), ("7", 7), ("", 6), ("x", 6), ("-1", 6), ("²", 6)])
def test_a_priority_is_a_number_or_that_of_information(said: str, priority: int) -> None:
    assert parse(MESSAGE="x", PRIORITY=said).priority == priority


def test_what_systemd_sent_before_a_start_is_known_however_late_it_is_received() -> None:
    late = parse(MESSAGE="Main process exited", _SOURCE_REALTIME_TIMESTAMP="1795421139000000")
    assert (late.sent_us, late.realtime_us) == (1795421139000000, 1795421139037929)
    assert parse(MESSAGE=M1).sent_us == 1795421139037929


def test_what_has_no_message_is_no_entry() -> None:
    assert journal.parse({"_PID": "1"}, 0) is None


@given(st.text() | st.just('{"fields": 1}') | st.just("{") | st.just('{"a":' * 20_000) | st.just('{"a":' + "9" * 9999))
def test_any_message_survives(message: str) -> None:
    assert parse(MESSAGE=message).message == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
"""Any value that a field may have; objects in one are no form of journalctl's."""


@pytest.mark.claim("K8")
@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=4) | JSON, max_size=4))
def test_entries_of_any_form_survive(printed: list[object]) -> None:
    """Also those of which every separator that Unicode knows stands in the text as it is."""
    output = "\n".join(json.dumps(one, ensure_ascii=False) for one in printed)
    expected = [one for one in printed if isinstance(one, dict) and one]
    found = journal.entries(output)
    assert len(found) == len(expected)
    for entry, raw in zip(found, expected, strict=True):
        assert {name: value for name, value in raw.items() if isinstance(value, str)}.items() <= entry.items()
        journal.parse(entry | {"_PID": "1"}, 0)


@pytest.mark.claim("K8")
@given(st.binary() | st.just("a\u2028b\x85c\x1e".encode()))
def test_what_is_not_text_is_printed_as_numbers_and_read_as_text(message: bytes) -> None:
    (entry,) = journal.entries(json.dumps({"_PID": "7", "MESSAGE": list(message)})) or [{}]
    assert entry.get("MESSAGE", "") == message.decode("utf-8", "replace")


@pytest.mark.claim("K8")
@pytest.mark.parametrize("text", ["", "\n\n", "{", "[1]", "null", "\x00", "{" * 100_000, '{"a":' * 100_000])
def test_what_is_no_entry_is_left_out(text: str) -> None:
    good = '{"MESSAGE": "x"}'
    assert journal.entries(f"{good}\n{text}\n{good}\n") == [{"MESSAGE": "x"}] * 2


@pytest.mark.claim("K8")
def test_a_field_that_stands_several_times_or_was_too_long() -> None:
    assert journal.entries('{"A": ["x", "y"], "B": [[104, 105], "z"], "C": null, "D": [300]}') == [
        {"A": "x", "B": "hi"}
    ]


@pytest.mark.claim("K8")
@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([0], "\0"), ([255], "\ufffd"), ([0, 104, 255], "\0h\ufffd"), ([256], None), ([-1], None), ([104, 256], None),
        ([104, -1], None), ([104, "i"], None), ([104, [105]], None), ([104, None], None),
    ],
)  # fmt: skip
def test_numbers_are_text_where_each_of_them_is_a_byte(numbers: list[object], text: str | None) -> None:
    assert journal.entries(json.dumps({"A": numbers, "B": "x"})) == [{"A": text, "B": "x"} if text else {"B": "x"}]


def _told(message: str, at_secs: float, level: str = "", **fields: object) -> journal.Entry:
    text = {"fields": {"message": message, **fields}, "level": level} if level else message
    raw = {"MESSAGE": json.dumps(text) if level else message, "UNIT": "u"}
    entry = journal.parse(raw, int(at_secs * 1e6))
    assert entry is not None
    return entry


START = _told("Starting u - a unit...", 1.0)
ENDS = {
    "nothing": ([], ""),
    "it runs": ([START, _told("Started u.", 1.1)], ""),
    "exit": (
        [START, _told("full", 1.2, "ERROR", reason="OVERLOAD", channel="persist"),
         _told("u: Main process exited, code=exited, status=13/n/a", 1.4)],
        "exit 13 after 0.4 s: OVERLOAD persist",
    ),
    "an error without a reason": (
        [START, _told("no such key", 1.2, "ERROR"), _told("u: Main process exited, code=exited, status=12/n/a", 1.3),
         _told("u: Failed with result 'exit-code'.", 1.3)],
        "exit 12 after 0.3 s: no such key",
    ),
    "killed": ([START, _told("u: Main process exited, code=killed, status=9/KILL", 3.0)], "killed by KILL after 2.0 s"),
    "mute": (
        [START, _told("u: start operation timed out. Terminating.", 11.0),
         _told("u: Failed with result 'timeout'.", 11.0)],
        "no READY=1 (M4) after 10.0 s",
    ),
    "its start was not seen": ([_told("u: Main process exited, code=dumped, status=6/ABRT", 3.0)], "dumped by ABRT"),
    "the last of several": (
        [START, _told("old", 1.1, "ERROR"), _told("u: Main process exited, code=exited, status=1/FAILURE", 1.5),
         _told("Starting u - a unit...", 2.0), _told("u: Failed with result 'protocol'.", 2.1)],
        "a clean end before READY=1 (M4) after 0.1 s",
    ),
    "it need not say that it is ready": (
        [_told("Started u.", 1.0), _told("u: Main process exited, code=exited, status=1/FAILURE", 1.7),
         _told("Started u.", 2.0), _told("u: Main process exited, code=exited, status=7/NOTRUNNING", 2.3)],
        "exit 7 after 0.3 s",
    ),
    "no program": (
        [_told("Started u.", 1.0), _told("u: Failed at step EXEC spawning /no/such: No such file or directory", 1.0),
         _told("u: Main process exited, code=exited, status=203/EXEC", 1.0)],
        "exit 203/EXEC: Failed at step EXEC spawning /no/such: No such file or directory",
    ),
    "no program before it": (
        [START, _told("u: Failed at step EXEC spawning /no/such: No such file or directory", 1.0),
         _told("u: Control process exited, code=exited, status=203/EXEC", 1.0),
         _told("u: Failed with result 'exit-code'.", 1.0)],
        "exit 203/EXEC: Failed at step EXEC spawning /no/such: No such file or directory",
    ),
    "clean, but nobody asked": (
        [START, _told("disk full", 1.2, "ERROR", reason="STORAGE"), _told("u: Deactivated successfully.", 1.4)],
        "a clean end after 0.4 s: STORAGE",
    ),
    "clean, as was asked": (
        [START, _told("Stopping u - a unit...", 1.3), _told("u: Deactivated successfully.", 1.4)],
        "",
    ),
    "clean, as was asked, and then not": (
        [START, _told("Stopping u - a unit...", 1.3), _told("u: Deactivated successfully.", 1.4),
         _told("Starting u - a unit...", 2.0), _told("u: Deactivated successfully.", 2.3)],
        "a clean end after 0.3 s",
    ),
    "clean after a failure": (
        [START, _told("u: Main process exited, code=exited, status=1/FAILURE", 1.5),
         _told("Starting u - a unit...", 2.0), _told("u: Deactivated successfully.", 2.1)],
        "a clean end after 0.1 s",
    ),
    "before its program": (
        [START, _told("u: Control process exited, code=exited, status=3/NOTIMPLEMENTED", 1.2),
         _told("u: Failed with result 'exit-code'.", 1.2)],
        "exit 3 of a command beside the main process (such as ExecStartPre=) after 0.2 s",
    ),
}  # fmt: skip


@pytest.mark.claim("V10")
@pytest.mark.parametrize("case", ENDS)
def test_how_a_unit_ended_is_read_from_its_journal(case: str) -> None:
    entries, told = ENDS[case]
    assert journal.how_it_ended(entries) == told
