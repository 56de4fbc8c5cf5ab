"""What the dashboard's collector keeps of a file and of the journal, and when it looks again (W4, W5)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cysystemd.reader import Rule

from harness.base.clock import OsClock
from harness.base.errors import HarnessError
from harness.dashboard import collector
from harness.dashboard.archive import Archive
from harness.dashboard.collector import Collector, Journal, Places, _File
from harness.dashboard.query import PageQuery
from harness.dashboard.telemetry_store import KeptTelemetry
from harness.dashboard.view_model import Trouble
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell


@pytest.mark.claim("W4")
def test_a_file_that_may_be_read_again_is_read_again(tmp_path: Path) -> None:
    """`chmod` changes neither its length nor when it was written."""
    path, denied = tmp_path / "config.toml", [True]
    path.write_text("x")

    def read(path: Path) -> str:
        if denied:
            raise HarnessError(f"{path}: Permission denied")
        return path.read_text()

    file = _File(path, read, os.stat)
    path.chmod(0o600)
    assert isinstance(file.value(), Trouble)
    denied.clear()
    assert isinstance(file.value(), Trouble)
    path.chmod(0o644)
    assert file.value() == "x"


def beat(at: float, number: int) -> dict[str, str]:
    """An entry of the journal with a heartbeat."""
    line = {"timestamp": "", "level": "INFO", "fields": {"message": "HEARTBEAT (G4)", "number": number}, "target": ""}
    return {
        "__REALTIME_TIMESTAMP": str(int(at * 1e6)), "_SYSTEMD_INVOCATION_ID": "run", "_SYSTEMD_UNIT": "u.service",
        "MESSAGE": json.dumps(line),
    }  # fmt: skip


@pytest.mark.claim("W4", "W5")
def test_the_last_heartbeat_is_the_one_that_came_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the computer's clock was then: it may have been set back. The run's beginning is read after its end."""
    come = {collector.LOG_MAX: [], collector.LIFECYCLE_MAX: [], None: [beat(4000, 1), beat(4010, 2)]}

    class Told:
        def __init__(self, rule: Rule, back: int | None) -> None:
            self._back = back

        def take(self, most: int = 1) -> list[dict[str, str]]:
            found = come[self._back]
            come[self._back] = []
            return found

    monkeypatch.setattr(collector, "_Tail", Told)
    journal = Journal("u.service")
    shown = []
    for beats in ([beat(5000, 7)], [], [beat(1400, 8)], [beat(1410, 9)]):
        come[collector.LOG_MAX] = beats
        journal.follow()
        seen = journal.log("run")
        assert not isinstance(seen, Trouble)
        shown.append((seen.heartbeat["number"], seen.heartbeat_at))
    assert shown == [(7, 5000.0), (7, 5000.0), (8, 1400.0), (9, 1410.0)]


@pytest.mark.claim("W7")
def test_decisions_of_all_times_are_paged_and_stay_where_they_are_as_the_log_grows(tmp_path: Path) -> None:
    """Also those before the end of the log that is read again and again; a line that is none is no row."""
    log, nowhere = tmp_path / "decisions.jsonl", tmp_path / "nowhere"
    places = Places("u.service", nowhere, None, log, nowhere, nowhere, "/")
    dashboard = Collector(places, 1.0, Shell(Unrecorded()), OsClock())

    def seen() -> None:
        raise AssertionError("what was seen last knows only the end")

    def asked(rows: int, at_id: int | None = None) -> PageQuery:
        return PageQuery(at_id, newest_first=True, rows=rows, filters={})

    archive = Archive(KeptTelemetry(), seen, lambda: None, dashboard.past_decisions)  # type: ignore[arg-type]
    assert archive.table("decisions", asked(10)).rows == []
    made = [
        json.dumps({"timestamp": "2026-11-28T12:00:00Z", "action": f"A{number}", "reason": "x" * 200})
        for number in range(1000)
    ]
    log.write_text("no decision\n" + "\n".join(made) + "\n")
    assert log.stat().st_size > 3 * collector.DECISION_BYTES
    found, at_id = [], None
    while True:
        page = archive.table("decisions", asked(300, at_id))
        found += [row[2] for row in page.rows]
        if (at_id := page.next_id) is None:
            break
        with log.open("a") as file:
            file.write(made[0].replace("A0", "later") + "\n")
    assert found == [f"A{number}" for number in reversed(range(1000))]
    log.unlink()
    log.mkdir()
    with pytest.raises(HarnessError, match=r"decisions\.jsonl"):
        archive.table("decisions", asked(1))
