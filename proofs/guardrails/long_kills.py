"""The soak controller, killed again and again; not collected by name. `pytest proofs/guardrails/long_kills.py`.

PROOFS_CONTROLLER_KILLS (50) says how often: under pressure that makes it change the configuration and restart the
engine all the time, it gets SIGKILL at a random moment, and whatever it leaves must load. The engine itself says so. At
the end a controller that may live puts the operator's configuration back, to the byte.
"""

from __future__ import annotations

import os
import random
import tomllib

import pytest

from harness.base.clock import OsClock
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.soak_run import SOAK, SoakRun

KILLS = int(os.environ.get("PROOFS_CONTROLLER_KILLS", "50"))

MOMENTS_SECS = (0.0, 2.5)
"""After its first decision: time to start the engine, and to change the configuration twice."""

CONFIG = """\
# An operator's comment, to be kept.
[engine]
tick_interval_ms = 20  # and this one
heartbeat_interval_secs = 0.5
sample_every = 1
"""


@pytest.mark.claim("K5")
def test_a_killed_controller_leaves_a_config_that_loads(engine: EngineUnit, soak: SoakRun) -> None:
    chance = random.Random(20261124)
    engine.configure_text(CONFIG)
    path = engine.machine.path(engine.config_path)
    left = []
    for kill in range(1, KILLS + 1):
        # So that the first decision that is seen is its own.
        soak.prepare()
        soak.inject_pressure(cpu=55.0)
        soak.start("--mode", "synthetic")
        soak.wait("STARTUP")
        # The moment is what this is about, so nothing is waited for.
        OsClock().sleep(chance.uniform(*MOMENTS_SECS))
        engine.machine.systemctl("kill", "--signal=KILL", SOAK).expect(0)
        soak.wait_end()
        found = tomllib.loads(path.read_text())["engine"]
        soak.expect(found["tick_interval_ms"] == 20, f"kill {kill} left {found}")
        left.append(found["sample_every"])
        engine.machine.run(*engine.argv("--check-config")).expect(0)
    soak.expect(len(set(left)) > 1, f"it was never killed after it had changed the configuration: {left}")
    soak.inject_pressure()
    soak.start("--mode", "synthetic", seconds=1.0)
    soak.wait("COMPLETE")
    soak.wait_end()
    soak.expect(path.read_text() == CONFIG, f"the config is not as it was:\n{path.read_text()}")
