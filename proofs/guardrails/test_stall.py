"""stall: an engine that makes no progress is restarted, and it is known by whom (contract K3, E5)."""

from __future__ import annotations

from datetime import datetime

import pytest

from harness.faults import nemesis
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.soak_run import Decision, SoakRun

THRESHOLD_SECS = 1.5


def configure(engine: EngineUnit, exchange: Exchange) -> None:
    engine.configure(
        {
            "engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url, "heartbeat_interval_secs": 0.5},
            "persist": {"flush_interval_ms": 50},
        }
    )


def moment(line: Decision) -> datetime:
    """When a decision was made, or a look ended."""
    return datetime.fromisoformat(line["timestamp"])


@pytest.mark.claim("stall", "K3", "K6")
def test_controller_restarts_a_paused_engine(engine: EngineUnit, exchange: Exchange, soak: SoakRun) -> None:
    """SIGSTOP, seen as state T; systemd still says active; STALL and restart within threshold and one poll."""
    exchange.feed(interval_secs=0.02)
    configure(engine, exchange)
    soak.start("--mode", "mockws", "--stall-threshold-sec", str(THRESHOLD_SECS))
    soak.wait("ENGINE_RESTART")
    engine.wait_ticks(10)
    # The first look finds where the table stands, a later one that it grows: from there on the stall is measured.
    soak.wait_looks(3)
    before = engine.show()
    engine.mark()
    with nemesis.paused(engine) as receipt:
        soak.expect("T (stopped)" in receipt.evidence, receipt.evidence)
        engine.expect(engine.show().active == "active", "systemd noticed a pause that it cannot see")
        stall = soak.wait("STALL")
        restart = soak.wait("ENGINE_RESTART", lambda d: "STALL" in d["reason"])
    waited = stall["seconds_since_progress"]
    # The look before that one came too early: how long both took together is what a busy computer adds, and no more.
    decided = moment(stall)
    looks = [at for at in map(moment, soak.samples()) if at < decided]
    late = (decided - looks[-2]).total_seconds()
    soak.expect(
        THRESHOLD_SECS <= waited <= THRESHOLD_SECS + late,
        f"stalled for {waited} s, the threshold is {THRESHOLD_SECS} s, and the last two looks took {late:.3f} s",
    )
    soak.expect(stall["ticks_count"] >= 10 and stall["stall_streak"] == 1, f"facts of the stall: {stall}")
    between = [at for at in map(moment, soak.samples()) if decided < at < moment(restart)]
    soak.expect(not between, f"{len(between)} looks from STALL to restart")
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.pid != before.main_pid)
    after = engine.show()
    engine.expect(after.invocation_id != before.invocation_id, "the engine was not restarted")
    engine.expect(after.n_restarts == 0, "systemd restarted it by itself: it was not the controller")
    engine.expect(not any("Watchdog timeout" in entry.message for entry in engine.journal()), "the watchdog was faster")


@pytest.mark.slow
@pytest.mark.claim("stall", "K3", "K5")
def test_slow_but_living_engine_is_left_alone(engine: EngineUnit, exchange: Exchange, soak: SoakRun) -> None:
    """A tick each second half of the threshold, for several thresholds; then the config is as it was."""
    exchange.feed(interval_secs=THRESHOLD_SECS / 2)
    configure(engine, exchange)
    config = engine.machine.path(engine.config_path).read_text()
    soak.start("--mode", "mockws", "--stall-threshold-sec", str(THRESHOLD_SECS), seconds=2.5 * THRESHOLD_SECS)
    soak.wait("COMPLETE", deadline_secs=2 * engine.deadline_secs)
    soak.wait_end()
    soak.expect(soak.decisions("STALL") == [], "a slow engine was taken for a stalled one")
    soak.expect(len(soak.decisions("ENGINE_RESTART")) == 1, "it was restarted after the start of the soak")
    soak.expect(engine.machine.path(engine.config_path).read_text() == config, "the config is not as it was")
