"""What is written and what is read of times is the same whatever time zone the computer is in (contract M1)."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.base import logs
from engine.ingest import refusal
from engine.live import attestation
from engine.storage import dbfile
from harness.bundle import statement
from harness.soak import decisions, report

MOMENT = 1_735_689_599.25  # A quarter of a second before the year ends in UTC, and nowhere else.


@pytest.fixture(params=["UTC0", "AHEAD-13:45", "BEHIND+11:30"])
def _zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process in a time zone (POSIX form: no database of zones is asked)."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_zone")
@pytest.mark.claim("M1")
def test_M1_what_is_written_is_utc() -> None:
    record = logging.LogRecord("engine", logging.INFO, __file__, 1, "said", None, None)
    record.created = MOMENT
    written = [json.loads(logs.format_record(record))["timestamp"], decisions.timestamp(MOMENT)]
    assert written == ["2024-12-31T23:59:59.250000Z"] * 2
    assert [attestation.show_time(MOMENT), statement.show_time(MOMENT)] == ["2024-12-31T23:59:59Z"] * 2
    line = decisions.Decision(decisions.timestamp(MOMENT), "r", "SYNTHETIC", "off", "NORMAL", 1, "STARTUP", "begun")
    assert "2024-12-31 23:59:59 UTC" in report.render([line], [])


@pytest.mark.usefixtures("_zone")
@pytest.mark.claim("M1")
def test_M1_what_is_read_is_utc() -> None:
    assert attestation.parse_time("2024-12-31T23:59:59Z") == int(MOMENT)
    now = datetime.fromtimestamp(MOMENT, UTC)
    for header in ("Wed, 01 Jan 2025 00:00:29 GMT", "Wed, 01 Jan 2025 00:00:29 -0000"):
        assert refusal.wait_secs([header], now) == 29.75


@pytest.mark.usefixtures("_zone")
@pytest.mark.claim("D8")
def test_D8_a_file_that_is_set_aside_is_named_in_utc(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    (tmp_path / "a").touch()
    name = dbfile.set_aside(tmp_path / "a").name
    named = datetime.strptime(name, "a.orphan-%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert before <= named <= datetime.now(UTC)
