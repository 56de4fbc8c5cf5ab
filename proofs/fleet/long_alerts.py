"""Each alert rings by the fault it is for, and by no other, through a real Prometheus and a real Alertmanager (contract
O13). Not collected by name: it takes two minutes. test_alerts.py has a short form."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from harness.base.clock import OsClock
from harness.base.errors import Unavailable
from harness.faults import nemesis
from harness.machines import tools
from harness.machines.machine import Machine
from harness.observing.instances import Instance
from proofs.fixtures.dashboard_unit import DashboardUnit
from proofs.fixtures.engine_unit import EngineUnit, toml
from proofs.fixtures.fleet_parts import NatsServer, Postgres, free_port, wait
from proofs.fixtures.monitoring import PROMETHEUS, Site, alerts, hastened, monitoring, site, tampered_books
from proofs.fixtures.true_bundle import Signer, made

WATCH_SECS = 30.0
"""A healthy fleet is watched as long as the slowest alert takes to ring."""


@pytest.mark.claim("O13")
@pytest.mark.parametrize("name", alerts())
def test_the_tests_of_a_rule_pass_with_no_other(tmp_path: Path, name: str) -> None:
    """Without it, without its `for:`, and with a shorter one, they fail."""
    rules, tests = ((PROMETHEUS / f"hybrid.{kind}.yml").read_text() for kind in ("rules", "tests"))
    head, *cases = re.split(r"^(?=  - name: )", tests, flags=re.MULTILINE)
    (tmp_path / "hybrid.tests.yml").write_text(head + "".join(case for case in cases if f'"{name}"' in case))
    (rule,) = re.findall(rf"^ +- alert: {name}\n(?:(?! +- alert: ).*\n)*", rules, re.MULTILINE)
    variants = {
        rule.replace(name, f"{name}Not"),
        re.sub(r"^ +for: \w+\n", "", rule, flags=re.MULTILINE),
        hastened(rule),
    }
    for variant in {rule, *variants}:
        (tmp_path / "hybrid.rules.yml").write_text(rules.replace(rule, variant))
        argv = [tools.need("promtool"), "test", "rules", "hybrid.tests.yml"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == (variant != rule), f"{variant}{done.stdout}"


# --- faults --------------------------------------------------------------------------------------------------


@contextmanager
def pressure(at: Site) -> Iterator[None]:
    at.dashboard.inject_pressure(cpu=90.0, cpu_minute=90.0)
    yield
    at.dashboard.inject_pressure()


@contextmanager
def clock_skew(at: Site) -> Iterator[None]:
    """The venue's trades bear times of the future."""
    at.venue_time.ahead_secs = 60.0
    yield
    at.venue_time.ahead_secs = 0.0


@contextmanager
def held_reader(at: Site) -> Iterator[None]:
    """A reader that does not end keeps the WAL from being copied, while much is written."""
    with closing(sqlite3.connect(at.engine.database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ticks").fetchone()

        def long() -> bool:
            # Each of them is a transaction of its own.
            for _ in range(50):
                at.exchange.send_ticks(1)
            return at.engine.database.with_name("bot.db-wal").stat().st_size > 65 * 2**20

        wait(long, "a WAL of 65 MiB", 120)
        yield


@contextmanager
def stalled(at: Site) -> Iterator[None]:
    with nemesis.paused(at.engine):
        yield


@contextmanager
def expiring_bundle(at: Site) -> Iterator[None]:
    """LIVE is configured, with a bundle of proofs that ended 19 hours ago."""
    made_at = OsClock().wall() - 19 * 3600
    bundle = at.engine.machine.path(f"{at.engine.machine.layout.state}/data/proof_bundle.json")
    bundle.write_bytes(Signer().seal(made({}, [], {}, made_at)))
    before = at.engine.machine.path(at.engine.config_path).read_text()
    at.engine.configure_text(before.replace('mode = "SHADOW"', 'mode = "LIVE"'))
    yield
    at.engine.configure_text(before)


@contextmanager
def stopped_stream(at: Site) -> Iterator[None]:
    at.nats_server.end()
    yield
    at.nats_server.start()


@contextmanager
def stopped_database(at: Site) -> Iterator[None]:
    at.postgres.end(signal.SIGINT)
    yield
    at.postgres.start()


@contextmanager
def stopped_dashboard(at: Site) -> Iterator[None]:
    at.dashboard.stop()
    yield
    at.dashboard.start()


@contextmanager
def barred(at: Site) -> Iterator[None]:
    """The venue says 429, and for how long."""
    with nemesis.refusing(at.exchange, 429, {"Retry-After": "120"}):
        yield
    at.engine.stop()
    lift = shlex.join(at.engine.argv("--lift-bars"))
    at.engine.machine.run("setpriv", "--reuid=hybrid-engine", "--regid=hybrid-engine", "--clear-groups", "sh", "-c",
                          f"umask 027 && cd {at.engine.machine.layout.state} && exec {lift}").expect(0)  # fmt: skip
    at.engine.start()


@contextmanager
def killed_time_and_again(at: Site) -> Iterator[None]:
    for count in range(1, 6):
        with nemesis.killed(at.engine):
            at.engine.wait_restarts(count)
    yield


@contextmanager
def refused_configuration(at: Site) -> Iterator[None]:
    before = at.engine.machine.path(at.engine.config_path).read_text()
    at.engine.configure_text("[engine]\nsample_every = 0\n")
    at.engine.machine.systemctl("restart", at.engine.name)
    yield
    at.engine.configure_text(before)
    at.engine.start()


@contextmanager
def stopped_engine(at: Site) -> Iterator[None]:
    at.engine.stop()
    yield
    at.engine.start()


FAULTS: dict[str, tuple[Callable[[Site], AbstractContextManager[None]], set[str]]] = {
    "HybridPressure": (pressure, set()),
    "HybridClockSkew": (clock_skew, set()),
    "HybridBooksBroken": (tampered_books, set()),
    "HybridWalGrowth": (held_reader, set()),
    "HybridBundleExpiring": (expiring_bundle, set()),
    "HybridEngineStalled": (stalled, set()),
    "HybridUnwatched": (stopped_dashboard, set()),
    "HybridCollectorLag": (stopped_database, set()),
    # What the relay cannot publish the collector cannot read.
    "HybridRelayLag": (stopped_stream, {"HybridCollectorLag"}),
    "HybridEngineDown": (stopped_engine, set()),
    # A restart is down for a moment, which is a minute here.
    "HybridEngineMisconfigured": (refused_configuration, {"HybridEngineDown"}),
    "HybridVenueBarred": (barred, {"HybridEngineDown"}),
    "HybridEngineRestartStorm": (killed_time_and_again, {"HybridEngineDown"}),
}
"""Alert -> its fault, and what may ring with it. The last goes on for a quarter of an hour."""


@pytest.mark.claim("O13")
def test_each_alert_rings_by_its_fault(
    engine: EngineUnit, dashboard: DashboardUnit, nats_server: NatsServer, postgres: Postgres, tmp_path: Path
) -> None:
    assert FAULTS.keys() == set(alerts())
    with site(tmp_path, engine, dashboard, nats_server, postgres) as watched:
        seen = watched.seen
        seen.watch(WATCH_SECS)
        assert seen.told.got == [], "a healthy fleet rings"
        for name, (fault, also) in FAULTS.items():
            with fault(watched):
                told = seen.wait_rung(name)
                assert seen.firing() <= {name, *also}, f"not only {name} rings"
                assert "<error" not in json.dumps(told["annotations"]), told
            if name != "HybridEngineRestartStorm":
                seen.wait_silent()


# --- several engines -----------------------------------------------------------------------------------------


ALPHA, BETA = Instance("alpha"), Instance("beta")


@contextmanager
def two_engines(machine: Machine) -> Iterator[str]:
    """Instances of the template units, with their dashboards. Gives what `hybrid-ctl targets` prints."""
    if machine.kind != "private":
        raise Unavailable("the template units are installed in a private machine only", "use --systemd=private")
    machine.path(str(Instance().config)).unlink(missing_ok=True)
    units = [f"hybrid-{what}@{one.name}.service" for one in (ALPHA, BETA) for what in ("engine", "dashboard")]
    try:
        for one in (ALPHA, BETA):
            config = machine.path(str(one.config))
            config.parent.mkdir(parents=True)
            dashboard = {"port": free_port(), "refresh_seconds": 0.5}
            config.write_text(toml({"engine": {"heartbeat_interval_secs": 2}, "dashboard": dashboard}))
        machine.systemctl("start", *units).expect(0)
        yield machine.run("/opt/hybrid-engine/bin/hybrid-ctl", "targets").expect(0).stdout
    finally:
        machine.systemctl("stop", *units)
        for one in (ALPHA, BETA):
            for place in (str(one.config.parent), f"/var/lib/hybrid-engine-{one.name}"):
                shutil.rmtree(machine.path(place), ignore_errors=True)


@pytest.mark.claim("O13", "O12", "O10")
def test_of_several_engines_the_one_at_fault_is_named(machine: Machine, tmp_path: Path) -> None:
    """By itself, and by the list of targets where nothing answers any more."""
    with two_engines(machine) as targets, monitoring(tmp_path, targets) as seen:

        def up() -> set[str]:
            return {one["metric"]["engine"] for one in seen.query("hybrid_engine_up == 1")}

        wait(lambda: up() == {"alpha", "beta"}, "both engines are seen")
        seen.watch(WATCH_SECS / 6)
        # Pressure is the computer's own here.
        assert seen.rung().keys() <= {"HybridPressure"}
        machine.systemctl("stop", ALPHA.unit).expect(0)
        told = seen.wait_rung("HybridEngineDown")
        assert told["annotations"]["summary"] == "alpha: the engine is down"
        machine.systemctl("stop", "hybrid-dashboard@beta.service").expect(0)
        assert seen.wait_rung("HybridUnwatched")["labels"]["engine"] == "beta"
        assert seen.rung().keys() <= {"HybridPressure", "HybridEngineDown", "HybridUnwatched"}
