"""G1, the half that is health: the healthcheck passes a healthy unit and fails each broken part (contract M5)."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.base.clock import OsClock, poll
from harness.evidence.shell import CommandResult
from harness.faults import nemesis
from harness.observing import judgement
from proofs.fixtures.dashboard_unit import DashboardUnit
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.soak_run import SoakRun

ALL_SECS = 5.0
FAST = {"engine": {"tick_interval_ms": 20, "heartbeat_interval_secs": 0.5}, "persist": {"flush_interval_ms": 20}}


def check(engine: EngineUnit, soak: SoakRun, *flags: str) -> CommandResult:
    """One healthcheck in the machine, with injected pressure; it must end in time whatever it finds: within five
    seconds, and what a command that does nothing takes on this computer."""
    done = engine.machine.run(
        "/opt/hybrid-engine/bin/hybrid-healthcheck", "--config", engine.config_path,
        "--pressure-dir", soak.pressure_dir, *flags,
    )  # fmt: skip
    nothing = engine.machine.run("true").seconds
    engine.expect(done.seconds < ALL_SECS + nothing, f"the healthcheck took {done.seconds:.1f} s")
    last = done.stdout.splitlines()[-1]
    engine.expect((last, done.status) in (("PASS", 0), ("FAIL", 1)), f"status {done.status}: {done.stdout}")
    return done


def expect_failed(engine: EngineUnit, done: CommandResult, *names: str) -> None:
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL ")]
    engine.expect(set(names) <= set(failed), f"expected {names} to fail:\n{done.stdout}")


@contextmanager
def web_server(status: int) -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.claim("G1", "M5")
def test_healthy_unit_passes_and_pressure_fails_it(engine: EngineUnit, soak: SoakRun) -> None:
    engine.configure(FAST)
    engine.start()
    engine.wait_ticks(1)
    done = check(engine, soak, "--without-dashboard")
    engine.expect(done.status == 0, f"a healthy unit fails:\n{done.stdout}")
    names = [line.split()[1] for line in done.stdout.splitlines()[:-1]]
    engine.expect(names == ["unit", "database", "heartbeat", "pressure"], f"one line a check: {names}")
    soak.inject_pressure(cpu=20.01)
    expect_failed(engine, check(engine, soak), "pressure")
    soak.inject_text("cpu", "garbage\n")
    expect_failed(engine, check(engine, soak), "pressure")


@pytest.mark.slow
@pytest.mark.claim("G1", "M5")
def test_the_dashboard_of_the_configuration_must_answer(
    engine: EngineUnit, soak: SoakRun, dashboard: DashboardUnit
) -> None:
    engine.configure({**FAST, "dashboard": dashboard.table})
    engine.start()
    engine.wait_ticks(1)
    dashboard.start()
    done = check(engine, soak)
    engine.expect(done.status == 0, f"a healthy unit with a dashboard fails:\n{done.stdout}")
    engine.expect("\nPASS dashboard" in done.stdout, f"the dashboard was not asked:\n{done.stdout}")
    dashboard.stop()
    expect_failed(engine, check(engine, soak), "dashboard")
    with web_server(503) as url:
        expect_failed(engine, check(engine, soak, "--dashboard", url), "dashboard")


@pytest.mark.slow
@pytest.mark.claim("M5", "W4")
def test_an_engine_that_stores_a_tick_now_and_then_is_well(
    engine: EngineUnit, soak: SoakRun, dashboard: DashboardUnit
) -> None:
    """As a soak throttles it: for the healthcheck, and for the page, which looks for longer."""
    rare = {"tick_interval_ms": 20, "sample_every": 1000, "heartbeat_interval_secs": 2}
    engine.configure({**FAST, "engine": rare, "dashboard": dashboard.table})
    engine.start()
    engine.wait_log("HEARTBEAT (G4)", lambda entry: int(str(entry.fields["ingest_received"])) > 20)
    done = check(engine, soak, "--without-dashboard")
    engine.expect(done.status == 0, f"an engine that stores a tick each 20 s fails:\n{done.stdout}")
    dashboard.start()

    def has_looked_long() -> bool | None:
        (still_secs,) = re.findall(r"^hybrid_newest_tick_still_seconds\S* (\S+)$", dashboard.get("/metrics").body, re.M)
        return True if float(still_secs) > judgement.PROGRESS_SECS else None

    dashboard.expect(poll(has_looked_long, OsClock(), 10.0) is True, "it has seen ticks")
    answer = dashboard.get("/healthz")
    dashboard.expect(answer.status == 200, f"/healthz answers {answer.status}: {answer.body}")


@pytest.mark.slow
@pytest.mark.claim("G1", "M5")
def test_paused_engine_fails_although_systemd_says_active(engine: EngineUnit, soak: SoakRun) -> None:
    """With a heartbeat so fast that it is old before the healthcheck's own start-up is over."""
    engine.configure({**FAST, "engine": {"tick_interval_ms": 20, "heartbeat_interval_secs": 0.02}})
    engine.start()
    engine.wait_ticks(1)
    with nemesis.paused(engine):
        expect_failed(engine, check(engine, soak), "database", "heartbeat")


@pytest.mark.claim("G1", "M5")
def test_stopped_unit_and_missing_database_fail(engine: EngineUnit, soak: SoakRun) -> None:
    engine.configure(FAST)
    expect_failed(engine, check(engine, soak), "unit", "database", "heartbeat")
