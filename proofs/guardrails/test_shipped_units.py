"""Every shipped unit does its work as it ships, in its own sandbox, started by its own file; drop-ins only shorten
times (contract O2, K11)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.base.clock import OsClock, poll
from harness.evidence.shell import Shell
from harness.faults.exchange import Exchange
from harness.machines.machine import Machine, PrivateMachine
from harness.machines.stage import Stage
from proofs.fixtures.dashboard_unit import DashboardUnit
from proofs.fixtures.engine_unit import EngineUnit, toml
from proofs.fixtures.hook import hook
from proofs.fixtures.shipped import Shipped

SOAK = "hybrid-soak.service"
SNAPSHOT = "hybrid-health-snapshot.service"
STATE = "/var/lib/hybrid-soak"
LOG = f"{STATE}/data/ops/soak_decisions.jsonl"

EXPOSURES_MAX = {SOAK: 2.5, SNAPSHOT: 2.5}
"""Of `systemd-analyze security`."""

STOP_SECS_MAX = 10.0
"""A soak that is stopped restarts the engine on the operator's config and writes a report. Far below TimeoutStopSec=60,
at which systemd kills it."""

SHUTDOWN = "proof-shutdown.target"
SHUTDOWN_TEXT = "[Unit]\nDefaultDependencies=no\nRequires=shutdown.target\nAfter=shutdown.target\n"
"""As poweroff.target, but for the end: what is left can be looked at."""

FAST = {"tick_interval_ms": 20, "heartbeat_interval_secs": 0.5, "sample_every": 3}
CONFIG = {"engine": FAST, "persist": {"flush_interval_ms": 20}}


class ShippedSoak(Shipped):
    """hybrid-soak.service, and what it has decided."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine, SOAK)
        machine.run("rm", "-rf", STATE).expect(0)

    def times(self, seconds: float) -> Any:
        """A soak of so many seconds that looks often."""
        flags = f"--seconds {seconds} --mode realws --poll-sec 0.2 --psi-actions off"
        return self.shortened(f"[Service]\nExecStart=\nExecStart=/opt/hybrid-engine/bin/hybrid-soak {flags}\n")

    def decisions(self, action: str = "") -> list[Mapping[str, Any]]:
        try:
            lines = self.machine.path(LOG).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [one for one in map(json.loads, lines) if action in ("", one["action"])]

    def begin(self, engine_before: str) -> None:
        """Start it, and wait until it watches the engine on its own config."""
        self.machine.systemctl("start", SOAK).expect(0)
        started = self.wait("the start of the engine", lambda: self.decisions("ENGINE_RESTART"))
        self.expect(started[0]["engine_before"] == engine_before, f"the engine was {engine_before}, not: {started[0]}")
        self.wait("a look", lambda: self.machine.path(LOG).with_name("soak_samples.jsonl").stat().st_size)

    def expect_put_back(self, config: Path, text: str) -> None:
        """It ended without a fault, the config is the operator's, and decisions and report are there."""
        self.expect(config.read_text() == text, f"the config is {config.read_text()!r}, was {text!r}")
        left = [path.name for path in config.parent.iterdir() if "soak" in path.name]
        self.expect(not left, f"beside the config are {left}")
        last = self.decisions()[-1]
        self.expect(last["action"] == "PUT_BACK", f"the last decision is {last}")


def operate(engine: EngineUnit, exchange: Exchange) -> tuple[Path, str]:
    """Give the engine an operator's config, its venue on loopback. Returns the config's path and text."""
    exchange.feed(interval_secs=0.02)
    engine.configure(CONFIG)
    engine.configure_sources(f'[[source]]\nname = "here"\nurl = "{exchange.url}"\npriority = 1\n')
    config = engine.machine.path(engine.config_path)
    return config, config.read_text()


@pytest.mark.slow
@pytest.mark.claim("O2", "K11")
def test_a_soak_is_stopped_in_seconds(engine: EngineUnit, exchange: Exchange) -> None:
    """`systemctl stop`; the engine ran before and does again, on its own config, and the soak has not failed."""
    config, text = operate(engine, exchange)
    engine.start()
    before = engine.show().invocation_id
    soak = ShippedSoak(engine.machine)
    with soak.times(3600):
        soak.begin("running")
        soak.expect("REAL_WS" in config.read_text(), "the engine does not run on the soak's config")
        during = engine.show().invocation_id
        begun = OsClock().monotonic()
        engine.machine.systemctl("stop", SOAK).expect(0)
        took = OsClock().monotonic() - begun
        soak.expect(took < STOP_SECS_MAX, f"the stop took {took:.1f} s")
        shown = soak.show("ActiveState", "Result")
        soak.expect(shown == {"ActiveState": "inactive", "Result": "success"}, f"it is {shown}")
        soak.expect_put_back(config, text)
        after = engine.show()
        soak.expect(
            after.active == "active" and after.invocation_id not in (before, during),
            f"the engine was not restarted on its own config: {after}",
        )
        reports = list(engine.machine.path(LOG).parent.glob("soak_report_*.html"))
        soak.expect(len(reports) == 1, f"the reports are {reports}")
        owner = engine.machine.run("stat", "--format=%U:%G %a", LOG).stdout.strip()
        soak.expect(owner == "root:hybrid-engine 640", f"the decision log is {owner}: the dashboard may not read it")


@pytest.mark.slow
@pytest.mark.claim("O2", "K11")
def test_the_timers_soak_leaves_a_stopped_engine_stopped(engine: EngineUnit, exchange: Exchange) -> None:
    config, text = operate(engine, exchange)
    soak = ShippedSoak(engine.machine)
    timer = Shipped(engine.machine, "hybrid-soak.timer")
    with (
        soak.times(1),
        timer.shortened("[Timer]\nOnCalendar=\nRandomizedDelaySec=0\nOnActiveSec=50ms\nAccuracySec=1ms\n"),
    ):
        engine.machine.systemctl("start", timer.name).expect(0)
        listed = engine.machine.systemctl("list-timers", "--all", "--no-legend").stdout
        soak.expect(timer.name in listed and SOAK in listed, f"list-timers says {listed!r}")
        soak.wait("the end", lambda: soak.decisions("PUT_BACK"))
        soak.wait("its last word", lambda: soak.show("ActiveState")["ActiveState"] in ("inactive", "failed"))
        soak.expect(soak.show("Result")["Result"] == "success", "it has failed")
        soak.expect_put_back(config, text)
        soak.expect(not soak.decisions("ABORT"), "it did not run its time")
        soak.expect(engine.show().active == "inactive", f"the engine was stopped before, and is {engine.show()}")


@pytest.mark.slow
@pytest.mark.claim("O2", "K11")
def test_what_a_killed_soak_left_is_put_back_by_its_unit(engine: EngineUnit, exchange: Exchange) -> None:
    config, text = operate(engine, exchange)
    engine.start()
    soak = ShippedSoak(engine.machine)
    with soak.times(3600):
        soak.begin("running")
        during = engine.show().invocation_id
        engine.machine.systemctl("kill", "--signal=KILL", "--kill-whom=main", SOAK).expect(0)
        soak.wait("what its unit puts back", lambda: soak.decisions("PUT_BACK"))
        soak.wait("its last word", lambda: soak.show("ActiveState")["ActiveState"] == "failed")
        soak.expect_put_back(config, text)
        after = engine.show()
        soak.expect(
            after.active == "active" and after.invocation_id != during, f"the engine runs as the soak left it: {after}"
        )


@pytest.mark.slow
@pytest.mark.claim("O2", "K11")
def test_a_shutdown_ends_a_soak_in_seconds(shell: Shell, stage: Stage, exchange: Exchange) -> None:
    """Every unit is stopped at once, as at a poweroff, in a machine of its own."""
    machine = PrivateMachine(shell, stage.binds(), f"proof-{os.getpid()}-shutdown")
    machine.boot()
    try:
        exchange.feed(interval_secs=0.02)
        config = machine.path(machine.layout.config)
        config.parent.mkdir(exist_ok=True)
        config.write_text(toml(CONFIG))
        sources = f'[[source]]\nname = "here"\nurl = "{exchange.url}"\npriority = 1\n'
        config.with_name("ws_sources.toml").write_text(sources)
        soak = ShippedSoak(machine)
        with soak.times(3600):
            machine.systemctl("start", "hybrid-engine.service").expect(0)
            soak.begin("running")
            (machine.path(machine.unit_dir) / SHUTDOWN).write_text(SHUTDOWN_TEXT)
            machine.systemctl("daemon-reload").expect(0)
            begun = OsClock().monotonic()
            machine.systemctl("start", SHUTDOWN, "--job-mode=replace-irreversibly").expect(0)
            took = OsClock().monotonic() - begun
            soak.expect(took < STOP_SECS_MAX, f"the shutdown took {took:.1f} s")
            soak.expect_put_back(config, toml(CONFIG))
            soak.expect("shutdown" in soak.decisions()[-1]["reason"], f"the end: {soak.decisions()[-1]}")
            soak.expect(soak.show("Result") == {"Result": "success"}, "the soak has failed")
    finally:
        machine.halt()


@pytest.mark.slow
@pytest.mark.claim("O2", "M5")
def test_the_snapshot_tells_a_healthy_engine_from_one_that_is_down(
    engine: EngineUnit, dashboard: DashboardUnit
) -> None:
    """By its timer, then by hand. Pressure is the kernel's own here, so a failure for that alone is none."""
    engine.configure({**CONFIG, "dashboard": dashboard.table})
    engine.start()
    dashboard.start()
    snapshot, timer = Shipped(engine.machine, SNAPSHOT), Shipped(engine.machine, "hybrid-health-snapshot.timer")

    said = engine.machine.run("journalctl", "-u", SNAPSHOT, "-o", "cat", "--no-pager").stdout
    seen = [len(said.split("Starting "))]

    def findings() -> dict[str, str]:
        """What the last run said: name -> the whole line."""
        # Not by invocation: of lines that come as the unit ends, a busy journald does not know theirs any more.
        runs = engine.machine.run("journalctl", "-u", SNAPSHOT, "-o", "cat", "--no-pager").stdout.split("Starting ")
        lines = [line for line in runs[-1].splitlines() if re.match("PASS|FAIL", line)]
        if len(runs) <= seen[0]:
            return {}
        return {line.split()[1]: line for line in lines[:-1]} if lines[-1:] in (["PASS"], ["FAIL"]) else {}

    with timer.shortened("[Timer]\nOnBootSec=\nOnUnitActiveSec=\nOnActiveSec=50ms\nAccuracySec=1ms\n"):
        engine.machine.systemctl("start", timer.name).expect(0)
        listed = engine.machine.systemctl("list-timers", "--all", "--no-legend").stdout
        snapshot.expect(timer.name in listed and SNAPSHOT in listed, f"list-timers says {listed!r}")
        by_timer = snapshot.wait("what it found", findings)
    wrong = [line for name, line in by_timer.items() if name != "pressure" and not line.startswith("PASS")]
    snapshot.expect(list(by_timer) == ["unit", "database", "heartbeat", "dashboard", "pressure"], f"it said {by_timer}")
    snapshot.expect(not wrong and "unknown" not in by_timer["pressure"], f"of a healthy engine it said {by_timer}")
    seen[0] += 1
    engine.stop()
    snapshot.expect(engine.machine.systemctl("start", SNAPSHOT).status != 0, "it passed an engine that is down")
    by_hand = snapshot.wait("what it found", findings)
    snapshot.expect(by_hand["unit"].startswith("FAIL"), f"of an engine that is down it said {by_hand}")
    engine.machine.systemctl("reset-failed", SNAPSHOT)


@pytest.mark.claim("O2")
@pytest.mark.parametrize("name", EXPOSURES_MAX)
def test_the_unit_is_caged(machine: Machine, name: str) -> None:
    unit = Shipped(machine, name)
    verified = machine.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{name}")
    unit.expect(verified.stderr == "", f"systemd-analyze verify says: {verified.stderr}")
    shown = machine.run("systemd-analyze", "security", "--no-pager", name).stdout
    overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown)
    assert overall, shown
    unit.expect(float(overall[1]) <= EXPOSURES_MAX[name], f"exposure {overall[1]}, at most {EXPOSURES_MAX[name]}")


@pytest.mark.slow
@pytest.mark.claim("O11")
def test_a_failed_engine_is_told_of_and_only_when_that_is_wanted(engine: EngineUnit) -> None:
    """By the shipped template in its own sandbox, to a webhook that refuses it first, and once to a command."""
    machine, name = engine.machine, "hybrid-notice@hybrid-engine.service.service"
    settings = machine.path("/etc/hybrid-engine/notice.toml")
    credential = machine.path("/etc/credstore/hybrid-notice-url")
    engine.configure_text("[engine]\nsample_every = 0\n")

    def said() -> str:
        return machine.run("journalctl", "-u", name, "-o", "cat", "--no-pager").stdout

    # Failures of other proofs on this machine have asked for it too.
    before = said().count("unmet condition")

    def skipped() -> bool | None:
        return said().count("unmet condition") > before or None

    with hook(503) as there, Shipped(machine, "hybrid-notice@.service").shortened("[Service]\nRestartSec=50ms\n"):
        engine.try_start()
        engine.expect(poll(skipped, OsClock(), 5.0) is True, "a failure asks for no notice, or one that is not wanted")
        engine.expect(there.got == [], f"nobody wanted to be told, and was: {there.got}")
        try:
            settings.write_text('webhook = true\ncommand = ["cat"]\n')
            credential.parent.mkdir(mode=0o700, exist_ok=True)
            credential.write_text(there.url)
            credential.chmod(0o600)
            engine.try_start()
            poll(lambda: len(there.got) > 1 or None, OsClock(), 10.0)
            journal = said()
            engine.expect(
                len(there.got) > 1, f"told {len(there.got)} times, after one refusal; its journal:\n{journal}"
            )
            told = there.got[1][1]
            engine.expect((told["unit"], told["exit_status"]) == ("hybrid-engine.service", "12"), f"told of {told}")
            engine.expect("engine.sample_every = 0" in told["reason"], f"the reason is {told['reason']!r}")
            ended = [line for line in told["lines"] if line.startswith("systemd: ") and "status=12" in line]
            engine.expect(ended != [], f"what systemd says of the end is not told: {told['lines']}")
            engine.expect(told["invocation_id"] == engine.show().invocation_id, f"told of another run: {told}")
            journal = poll(lambda: text if "webhook: told" in (text := said()) else None, OsClock(), 10.0) or said()
            engine.expect(journal.count("command: told") == 1, f"the command is not taken once: {journal}")
            engine.expect("127.0.0.1 answers HTTP 503" in journal, f"the refusal is not told: {journal}")
            engine.expect("s3cr3t" not in journal, f"the URL is in the journal: {journal}")
        finally:
            settings.unlink(missing_ok=True)
            credential.unlink(missing_ok=True)
            machine.systemctl("stop", name)
