"""psi: the ladder under injected readings at exact limits, against the real unit (contract K1, K2, G2)."""

from __future__ import annotations

import tomllib

import pytest

from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.soak_run import SoakRun

RUNGS = [("NORMAL", 1), ("THROTTLE1", 5), ("THROTTLE2", 10), ("THROTTLE3", 20)]
TABLES = {"engine": {"tick_interval_ms": 5, "heartbeat_interval_secs": 0.5}, "persist": {"flush_interval_ms": 20}}


def start(engine: EngineUnit, soak: SoakRun, *flags: str) -> None:
    engine.configure(TABLES)
    soak.start("--mode", "synthetic", *flags)
    soak.wait("ENGINE_RESTART", lambda d: d["reason"] == "Soak Start")
    engine.wait_ticks(1)


def sampled(engine: EngineUnit) -> int:
    config = tomllib.loads(engine.machine.path(engine.config_path).read_text())
    return int(config["engine"]["sample_every"])


@pytest.mark.slow
@pytest.mark.claim("psi", "G2", "K1")
@pytest.mark.parametrize(
    ("at_limit", "above"),
    [({"cpu": 20.0}, {"cpu": 20.01}), ({"memory": 10.0}, {"memory": 10.01}), ({"io": 15.0}, {"io": 15.01})],
    ids=["cpu", "memory", "io"],
)
def test_one_rung_up_above_the_limit_and_not_at_it(
    engine: EngineUnit, soak: SoakRun, at_limit: dict[str, float], above: dict[str, float]
) -> None:
    soak.inject_pressure(**at_limit)
    start(engine, soak)
    soak.wait_looks(2)
    soak.expect(len(soak.decisions("ENGINE_RESTART")) == 1, f"{at_limit} is at the limit, not above it")
    soak.inject_pressure(**above)
    decision = soak.wait("ENGINE_RESTART", lambda d: d["state"] == "THROTTLE1")
    soak.inject_pressure()
    soak.expect(decision["current_sample_every"] == 5, f"decision: {decision}")
    engine.wait_log("configuration loaded", lambda entry: entry.fields["sample_every"] >= 5)
    soak.expect(sampled(engine) >= 5, "the config was not rewritten")


@pytest.mark.slow
@pytest.mark.claim("psi", "K1", "K6")
def test_latch_then_up_to_the_top_then_abort(engine: EngineUnit, soak: SoakRun) -> None:
    soak.inject_pressure(cpu=55.0)
    start(engine, soak)
    soak.wait("ABORT", deadline_secs=2 * engine.deadline_secs)
    soak.wait_end()
    steps = [(d["state"], d["current_sample_every"]) for d in soak.decisions("ENGINE_RESTART")]
    soak.expect(steps == RUNGS, f"the ladder was climbed as {steps}")
    soak.expect(len(soak.decisions("THROTTLE_MAX")) == 6, "more than 5 pressured readings at the top, not fewer")
    last = [d["action"] for d in soak.decisions()][-3:]
    soak.expect(last == ["ABORT", "ENGINE_STOP", "PUT_BACK"], f"the end of the story: {last}")
    engine.expect(engine.show().active == "inactive", "the engine was not stopped")
    soak.expect(tomllib.loads(engine.machine.path(engine.config_path).read_text()) == TABLES, "config not restored")
    for decision in soak.decisions():
        soak.expect(
            {"timestamp", "run_id", "ingest_mode", "psi_actions", "state", "current_sample_every", "action", "reason"}
            <= set(decision),
            f"keys of a decision: {sorted(decision)}",
        )


@pytest.mark.slow
@pytest.mark.claim("psi", "K1")
def test_recovery_steps_down_and_latch_does_not(engine: EngineUnit, soak: SoakRun) -> None:
    soak.inject_pressure(cpu=30.0)
    start(engine, soak, "--recover-after-sec", "0.6")
    soak.wait("ENGINE_RESTART", lambda d: d["state"] == "THROTTLE1")
    soak.inject_pressure()
    soak.wait("ENGINE_RESTART", lambda d: d["reason"].startswith("Throttling down to NORMAL"))


@pytest.mark.slow
@pytest.mark.claim("psi", "K2")
@pytest.mark.parametrize("actions", ["logonly", "off"])
def test_logonly_and_off_do_nothing(engine: EngineUnit, soak: SoakRun, actions: str) -> None:
    soak.inject_pressure(cpu=99.0)
    start(engine, soak, "--psi-actions", actions)
    if actions == "logonly":
        soak.wait("PSI_LOGONLY", lambda d: d["cpu_some_avg10"] == 99.0)
    else:
        soak.wait_looks(3)
        soak.expect(not any("cpu_some_avg10" in d for d in soak.decisions()), "PSI was read although it is off")
    soak.expect(len(soak.decisions("ENGINE_RESTART")) == 1, f"psi-actions {actions} acted")


@pytest.mark.slow
@pytest.mark.claim("psi", "K2")
def test_unreadable_pressure_is_unknown_and_never_zero(engine: EngineUnit, soak: SoakRun) -> None:
    """After a step up, PSI turns to garbage: recorded as unknown, no step down although recovery is short."""
    soak.inject_pressure(cpu=30.0)
    start(engine, soak, "--recover-after-sec", "0.3")
    soak.wait("ENGINE_RESTART", lambda d: d["state"] == "THROTTLE1")
    soak.inject_text("cpu", "no pressure here\n")
    soak.wait_looks(5)
    soak.stop()
    unknown = [d for d in soak.decisions() if d.get("psi") == "unknown"]
    soak.expect(bool(unknown) and "cpu" in unknown[-1]["psi_error"], "the unreadable reading is not recorded")
    soak.expect(not any("down to" in d["reason"] for d in soak.decisions()), "unknown was taken for no pressure")
