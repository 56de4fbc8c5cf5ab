"""The decision log (contract K6)."""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path

import pytest

from harness.base.clock import FakeClock
from harness.base.errors import RecorderError
from harness.soak import decisions
from harness.soak.decisions import DecisionLog, Log
from harness.soak.reducer import Action

WHEN = 1767973370.571357


def decide(log: DecisionLog, action: Action = Action.STARTUP, **facts: object) -> None:
    log.decide(
        action, "why", ingest_mode="realws", psi_actions="on", state="NORMAL", sample_every=1, facts=facts
    )  # fmt: skip


@pytest.mark.claim("K6")
def test_K6_a_line_has_these_keys_in_this_order(tmp_path: Path) -> None:
    run_id = decisions.new_run_id()
    log = DecisionLog(tmp_path / "ops" / "decisions.jsonl", run_id, FakeClock(WHEN))
    decide(log, cpu_some_avg10=62.33)
    (entry,) = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert list(entry) == [
        "timestamp", "run_id", "ingest_mode", "psi_actions", "state", "current_sample_every", "action", "reason",
        "cpu_some_avg10",
    ]  # fmt: skip
    assert entry["timestamp"] == "2026-01-09T15:42:50.571357Z"
    assert entry["action"] == "STARTUP"
    assert uuid.UUID(run_id).version == 4


@pytest.mark.claim("K6")
def test_K6_a_timestamp_always_has_microseconds() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000000Z", decisions.timestamp(1767973370.0))


@pytest.mark.claim("K6")
def test_K6_the_actions() -> None:
    assert set(Action) == {
        "STARTUP", "ENGINE_RESTART", "ENGINE_STOP", "ENGINE_EXIT", "STALL", "THROTTLE_MAX", "PSI_LOGONLY", "ABORT",
        "COMPLETE", "STOP", "CONFIG_ERROR", "PUT_BACK",
    }  # fmt: skip


@pytest.mark.claim("K6")
def test_K6_each_line_is_on_disk_before_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    log = DecisionLog(tmp_path / "decisions.jsonl", "run", FakeClock(WHEN))
    decide(log)
    decide(log)
    assert len(synced) == 2
    assert synced[1] == log.path.stat().st_size


@pytest.mark.claim("K6")
def test_K6_runs_share_a_file_and_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    decide(DecisionLog(path, "first", FakeClock(WHEN)))
    with path.open("a") as file:
        file.write('{"timestamp": "2026-01-09T15:42:5')
    decide(DecisionLog(path, "second", FakeClock(WHEN)), Action.STOP)
    decide(DecisionLog(path, "second", FakeClock(WHEN)), Action.ENGINE_STOP)
    assert [entry.action for entry in decisions.read(path)] == ["STOP", "ENGINE_STOP"]
    assert [entry.action for entry in decisions.read(path, "first")] == ["STARTUP"]
    assert decisions.read(path, "third") == []


@pytest.mark.claim("K6")
def test_K6_a_reason_cannot_break_the_line(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "decisions.jsonl", "run", FakeClock(WHEN))
    decide(log, error="two\nlines, \udcff and ünïcode")
    assert len(log.path.read_text().splitlines()) == 1
    assert len(decisions.read(log.path)) == 1


@pytest.mark.claim("K6")
def test_K6_what_cannot_be_recorded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecorderError, match=r"file/decisions\.jsonl"):
        DecisionLog(tmp_path / "file" / "decisions.jsonl", "run", FakeClock())
    with pytest.raises(RecorderError, match=r"disk full|No space"):
        decide(DecisionLog(Path("/dev/full"), "run", FakeClock(WHEN)))
    with pytest.raises(RecorderError, match=r"nowhere\.jsonl"):
        decisions.read(tmp_path / "nowhere.jsonl")


def test_a_samples_file_that_has_grown_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text("x" * 100)
    Log(path, sync=False, keep_bytes=99).close()
    assert (tmp_path / "samples.jsonl.1").read_text() == "x" * 100
    assert path.read_text() == ""
