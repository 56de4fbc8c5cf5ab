"""What the dashboard's collector keeps of a file and of the journal, and when it looks again (W4, W5)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cysystemd.reader import Rule

from harness.base.errors import HarnessError
from harness.dashboard import collector
from harness.dashboard.collector import Journal, _File
from harness.dashboard.view_model import Trouble


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
