"""G2: under the kernel's own CPU pressure above 20 % the engine is throttled (contract K1)."""

from __future__ import annotations

import pytest

from harness.faults import nemesis
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.soak_run import SoakRun


@pytest.mark.claim("G2", "psi", "K1")
def test_real_pressure_throttles_the_engine(engine: EngineUnit, soak: SoakRun) -> None:
    engine.configure({"engine": {"tick_interval_ms": 20}, "persist": {"flush_interval_ms": 20}})
    soak.start("--mode", "synthetic", seconds=60.0, injected=False)
    soak.wait("ENGINE_RESTART", lambda d: d["reason"] == "Soak Start")
    # Loops that wait for each other are pressure enough; other proofs on this computer need not wait for them.
    with nemesis.cpu_load(engine.machine, hogs=6, idle=True, above=21.0) as receipt:
        throttled = soak.wait("ENGINE_RESTART", lambda d: d["state"].startswith("THROTTLE"))
    soak.expect(throttled["cpu_some_avg10"] > 20.0, f"throttled at {throttled['cpu_some_avg10']}; {receipt.evidence}")
    soak.expect(throttled["current_sample_every"] >= 5, f"decision: {throttled}")
