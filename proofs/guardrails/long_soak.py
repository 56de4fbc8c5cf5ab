"""A long soak with faults on the way; not collected by name.

The nightly job runs `pytest proofs/guardrails/long_soak.py`.

PROOFS_SOAK_SECONDS (600) says how long. The faults come at fixed parts of that time: a SIGSTOP, a network cut and
a burst of real CPU pressure. It must end COMPLETE, its decision log must tell the story, and the configuration must
be as it was. Decisions, samples and the report with plots are kept in reports/soak/.
"""

from __future__ import annotations

import os

import pytest

from harness.base.clock import OsClock, poll
from harness.faults import nemesis
from harness.faults.exchange import Exchange
from harness.proving.plugin import Run
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.soak_run import SoakRun

SECONDS = float(os.environ.get("PROOFS_SOAK_SECONDS", "600"))

CONFIG = """\
# An operator's comment, to be kept.
[engine]
ingest_mode = "MOCK_WS"
ws_url = "{url}"
max_backoff_secs = 1
max_connects_per_minute = 60000
heartbeat_interval_secs = 1
sample_every = 1  # another one
"""


@pytest.mark.claim("K1", "K3", "K5", "K6", "stall", "psi")
def test_soak_with_faults_completes(engine: EngineUnit, exchange: Exchange, soak: SoakRun, proof_run: Run) -> None:
    try:
        soak_with_faults(engine, exchange, soak)
    finally:
        soak.stop()
        soak.keep(proof_run.options.reports / "soak")


def soak_with_faults(engine: EngineUnit, exchange: Exchange, soak: SoakRun) -> None:
    clock = OsClock()
    exchange.feed(interval_secs=0.02)
    config = CONFIG.format(url=exchange.url)
    engine.configure_text(config)
    soak.start(
        "--mode", "mockws", "--stall-threshold-sec", "10", "--recover-after-sec", "20", "--poll-sec", "2",
        seconds=SECONDS, injected=False,
    )  # fmt: skip
    soak.wait("ENGINE_RESTART", deadline_secs=30.0)
    started = clock.monotonic()

    def wait_until(part: float) -> None:
        soak.expect(not soak.decisions("ABORT"), "the soak aborted")
        poll(lambda: None, clock, started + part * SECONDS - clock.monotonic())

    wait_until(0.1)
    # A pause of an engine that is just starting would be the start's to notice, not the controller's.
    soak.wait_looks(2)
    with nemesis.paused(engine):
        soak.wait("STALL", deadline_secs=30.0)
        soak.wait("ENGINE_RESTART", lambda d: "STALL" in d["reason"])

    wait_until(0.3)
    engine.mark()
    with nemesis.disconnected(exchange):
        engine.wait_log("connection lost")
        engine.wait_log("connected", deadline_secs=30.0)

    wait_until(0.5)
    with nemesis.cpu_load(engine.machine, hogs=6, above=21.0):
        soak.wait("ENGINE_RESTART", lambda d: d["state"] == "THROTTLE1" and "up" in d["reason"], deadline_secs=30.0)
    soak.wait("ENGINE_RESTART", lambda d: "down to NORMAL" in d["reason"], deadline_secs=0.4 * SECONDS + 60.0)

    soak.wait("COMPLETE", deadline_secs=SECONDS)
    soak.wait_end()
    actions = [d["action"] for d in soak.decisions()]
    soak.expect(
        actions[0] == "STARTUP" and actions[-3:] == ["COMPLETE", "ENGINE_STOP", "PUT_BACK"], f"the story: {actions}"
    )
    soak.expect(engine.machine.path(engine.config_path).read_text() == config, "the config is not as it was")
