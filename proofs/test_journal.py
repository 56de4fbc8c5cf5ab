"""Journal fields as typed entries."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from harness import journal
from harness.journal import Entry

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
    assert entry.fields["tick_count"] == 7


def test_a_line_of_systemd_about_a_unit_belongs_to_that_unit() -> None:
    entry = parse(MESSAGE="Failed", UNIT="a.service", _SYSTEMD_UNIT="init.scope", INVOCATION_ID="ee")
    assert (entry.unit, entry.invocation_id, entry.event) == ("a.service", "ee", "Failed")


def test_what_systemd_sent_before_a_start_is_known_however_late_it_is_received() -> None:
    late = parse(MESSAGE="Main process exited", _SOURCE_REALTIME_TIMESTAMP="1795421139000000")
    assert (late.sent_us, late.realtime_us) == (1795421139000000, 1795421139037929)
    assert parse(MESSAGE=M1).sent_us == 1795421139037929


def test_what_has_no_message_is_no_entry() -> None:
    assert journal.parse({"_PID": "1"}, 0) is None


@given(st.text() | st.just('{"fields": 1}') | st.just("{"))
def test_any_message_survives(message: str) -> None:
    assert parse(MESSAGE=message).message == message
