"""Two engines under one systemd, started from the template units as they ship (contract O9, O10)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from harness.machines.machine import Machine
from harness.machines.stage import UNITS
from harness.observing import instances
from harness.observing.instances import Instance
from proofs.fixtures.engine_unit import toml
from proofs.fixtures.shipped import Shipped

BIN = "/opt/hybrid-engine/bin"

ALPHA, BETA = Instance("alpha"), Instance("beta")

FAST = {"tick_interval_ms": 10, "heartbeat_interval_secs": 0.5}


class Fleet(Shipped):
    """Instances on a private machine, and what belongs to them."""

    def __init__(self, machine: Machine) -> None:
        # To journalctl the units of all of them.
        super().__init__(machine, "hybrid-*@*")

    def configure(self, one: Instance, port: int, **engine: object) -> str:
        """Write an instance's configuration; returns its text."""
        text = toml({"dashboard": {"port": port}, "engine": {**FAST, **engine}, "persist": {"flush_interval_ms": 20}})
        place = self.machine.path(str(one.config))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return text

    def ctl(self, *argv: str, status: int = 0) -> str:
        done = self.machine.run(f"{BIN}/hybrid-ctl", *argv)
        self.expect(done.status == status, f"hybrid-ctl {' '.join(argv)} ended with {done.status}, not {status}:\n"
                    f"{done.stdout}{done.stderr}")  # fmt: skip
        return done.stdout

    def health(self) -> dict[str, bool]:
        """Who is well, but for pressure: a computer that proves other things meanwhile is not calm."""
        done = self.machine.run(f"{BIN}/hybrid-ctl", "health", "--json")
        said = json.loads(done.stdout)
        well = all(one["ok"] for one in said.values())
        self.expect(done.status == int(not well), f"hybrid-ctl health ended with {done.status}: {said}")
        return {
            name: all(check["ok"] for check in one["checks"] if check["name"] != "pressure")
            for name, one in said.items()
        }

    def invocation(self, one: Instance) -> str:
        return self.machine.systemctl("show", one.unit, "--property=InvocationID", "--value").expect(0).stdout.strip()

    def logged(self, one: Instance) -> list[dict[str, Any]]:
        """The fields of each line of the present run."""
        argv = ("journalctl", "--quiet", "-o", "cat", f"_SYSTEMD_INVOCATION_ID={self.invocation(one)}")
        lines = self.machine.run(*argv).stdout.splitlines()
        return [json.loads(line)["fields"] for line in lines if line.startswith("{")]

    def beats(self, one: Instance) -> bool:
        """Whether the present run has logged a heartbeat."""
        return "HEARTBEAT (G4)" in [fields["message"] for fields in self.logged(one)]


@pytest.fixture
def fleet(machine: Machine) -> Iterator[Fleet]:
    """Nothing of it is left for the next proof."""
    fleet = Fleet(machine)
    nobodys = machine.path(str(instances.CONFIGURATION / "config.toml"))
    nobodys.unlink(missing_ok=True)
    try:
        yield fleet
    finally:
        machine.systemctl("stop", "hybrid-*@*")
        machine.systemctl("reset-failed", "hybrid-*@*")
        for one in (ALPHA, BETA):
            for place in (
                str(one.config.parent),
                f"/var/lib/hybrid-engine-{one.name}",
                f"/var/lib/hybrid-soak-{one.name}",
            ):
                shutil.rmtree(machine.path(place), ignore_errors=True)


@pytest.mark.slow
@pytest.mark.claim("O9", "O10", "O12", "U1")
def test_two_engines_leave_each_other_alone(fleet: Fleet) -> None:
    """Files, users' rights, watchdog, restart and stop of one are not the other's; hybrid-ctl tells them apart."""
    fleet.configure(ALPHA, 8601)
    fleet.configure(BETA, 8602)
    with Shipped(fleet.machine, ALPHA.unit).shortened("[Service]\nWatchdogSec=1s\nRestartSec=100ms\n"):
        said = fleet.ctl("start", "alpha", "beta")
        fleet.expect("alpha  active" in said and "beta   active" in said, f"hybrid-ctl start says {said!r}")
        for one in (ALPHA, BETA):
            fleet.wait(f"a heartbeat of {one.name}", lambda one=one: fleet.beats(one))
            database = fleet.machine.path(f"/var/lib/hybrid-engine-{one.name}/data/bot.db")
            fleet.expect(database.exists(), f"{one.name} has no database in a state directory of its own")
            names = {fields.get("instance") for fields in fleet.logged(one)}
            fleet.expect(names == {one.name}, f"the lines of {one.name} say that they are of {names}")
        health = fleet.health()
        fleet.expect(health == {"alpha": True, "beta": True}, f"they are not both well: {health}")

        before = {one: fleet.invocation(one) for one in (ALPHA, BETA)}
        fleet.machine.systemctl("kill", "--signal=STOP", ALPHA.unit).expect(0)
        fleet.wait("the watchdog's restart of alpha", lambda: fleet.invocation(ALPHA) not in ("", before[ALPHA]))
        fleet.wait("a heartbeat of the restarted alpha", lambda: fleet.beats(ALPHA))
        fleet.expect(fleet.invocation(BETA) == before[BETA], "beta was restarted with alpha")

        fleet.ctl("stop", "alpha")
        listed = {one["name"]: one for one in json.loads(fleet.ctl("list", "--json", status=1))["engines"]}
        fleet.expect(listed["alpha"]["active"] == "inactive", f"alpha was stopped and is {listed['alpha']}")
        fleet.expect(listed["beta"]["active"] == "active", f"beta was stopped with alpha: {listed['beta']}")
        fleet.expect(fleet.invocation(BETA) == before[BETA], "beta was restarted")
        health = fleet.health()
        fleet.expect(health == {"alpha": False, "beta": True}, f"it is not beta alone that is well: {health}")
        of_one = fleet.machine.run(
            f"{BIN}/hybrid-healthcheck", "--instance", "alpha", "--without-dashboard", "--json"
        ).stdout
        of_all = fleet.machine.run(f"{BIN}/hybrid-ctl", "health", "alpha", "--json").stdout
        shapes = [
            [sorted(told), [(sorted(check), check["name"]) for check in told["checks"]]]
            for told in (json.loads(of_one), json.loads(of_all)["alpha"])
        ]
        fleet.expect(shapes[0] == shapes[1], f"healthcheck and hybrid-ctl say it in two ways:\n{of_one}\n{of_all}")


@pytest.mark.slow
@pytest.mark.claim("O9")
def test_a_soak_of_one_leaves_the_other_alone(fleet: Fleet) -> None:
    """Its unit may not even write the other's configuration."""
    texts: Mapping[Instance, str] = {one: fleet.configure(one, 8601 + n) for n, one in enumerate((ALPHA, BETA))}
    fleet.ctl("start", "--all")
    before = {one: fleet.invocation(one) for one in (ALPHA, BETA)}
    soak = Shipped(fleet.machine, "hybrid-soak@alpha.service")
    shipped = fleet.machine.path(f"{UNITS}/hybrid-soak@.service").read_text()
    fleet.expect("ReadWritePaths=/etc/hybrid-engine/%i -/var/lib/hybrid-engine-%i\n" in shipped, "it may write more")
    flags = "--instance %i --seconds 1 --mode synthetic --poll-sec 0.2 --psi-actions off"
    with soak.shortened(f"[Service]\nExecStart=\nExecStart={BIN}/hybrid-soak {flags}\n"):
        fleet.machine.systemctl("start", soak.name).expect(0)
        log = fleet.machine.path(str(ALPHA.decision_log))
        soak.wait("its end", lambda: log.exists() and '"PUT_BACK"' in log.read_text())
    for one in (ALPHA, BETA):
        fleet.expect(
            fleet.machine.path(str(one.config)).read_text() == texts[one], f"{one.name} has another config now"
        )
    fleet.expect(fleet.invocation(ALPHA) != before[ALPHA], "the soak has not restarted its own engine")
    fleet.expect(fleet.invocation(BETA) == before[BETA], "the soak of alpha has restarted beta")


@pytest.mark.slow
@pytest.mark.claim("O10", "O12")
def test_configurations_are_checked_together(fleet: Fleet) -> None:
    """What the engine refuses, and what two engines cannot both have."""
    fleet.configure(ALPHA, 8601)
    fleet.configure(BETA, 8601)
    said = fleet.ctl("check-config", status=12)
    fleet.expect("alpha and beta have the same [dashboard] host and port: 127.0.0.1:8601" in said, said)
    fleet.configure(BETA, 8602, sample_every=0)
    said = json.loads(fleet.ctl("check-config", "--json", status=12))
    fleet.expect("engine.sample_every" in said["refused"]["beta"] and said["fine"] == ["alpha"], f"it says {said}")
    alphas = {"targets": ["127.0.0.1:8601"], "labels": {"engine": "alpha"}}
    # One that cannot be read takes no other off the list.
    fleet.machine.path(str(BETA.config)).write_text("[app")
    said = json.loads(fleet.ctl("targets", status=12))
    fleet.expect(said == [alphas], f"beside a configuration that cannot be read, targets are {said}")
    fleet.configure(BETA, 8602, sample_every=0)
    # Of two that are to be started one can be.
    said = fleet.ctl("start", "alpha", "beta", status=1)
    fleet.expect("alpha  active" in said, f"hybrid-ctl start says {said!r}")
    fleet.ctl("stop", "alpha", "beta")
    place = fleet.machine.path(str(BETA.config))
    place.write_text(fleet.configure(BETA, 8602) + "[app]\ninstance = 'alpha'\n")
    said = json.loads(fleet.ctl("check-config", "--json", status=12))
    fleet.expect("should be left out, or 'beta'" in said["refused"]["beta"], f"it says {said}")
    fleet.configure(BETA, 8602)
    fleet.ctl("check-config")
    targets = [("alpha", "127.0.0.1:8601"), ("beta", "127.0.0.1:8602")]
    said = json.loads(fleet.ctl("targets"))
    due = [{"targets": [address], "labels": {"engine": name}} for name, address in targets]
    fleet.expect(said == due, f"targets are {said}")
    said = fleet.machine.run(f"{BIN}/hybrid-ctl", "list", "gamma").stderr
    fleet.expect("there is no /etc/hybrid-engine/gamma/config.toml; configured: alpha, beta" in said, said)
