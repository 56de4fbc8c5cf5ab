"""The diagnosis names the unit that presses, on a real systemd under real pressure (issue: what a person sees; K2)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.base import pressure
from harness.base.clock import OsClock
from harness.diagnosis import diagnose
from harness.faults import nemesis
from proofs.fixtures.engine_unit import EngineUnit

WINDOW_SECS = "0.5"


def diagnosed(engine: EngineUnit) -> dict[str, Any]:
    """What the installed command says inside the machine."""
    command = ("/opt/hybrid-engine/bin/hybrid-diagnose", "--window", WINDOW_SECS, "--json")
    found: dict[str, Any] = json.loads(engine.machine.run(*command).expect(0).stdout)
    return found


@pytest.mark.slow
@pytest.mark.claim("K2", "psi")
def test_the_unit_that_presses_is_named(engine: EngineUnit) -> None:
    engine.configure({"engine": {"tick_interval_ms": 20}})
    engine.start()
    with nemesis.cpu_load(engine.machine, hogs=6) as receipt:
        found = diagnosed(engine)
    with nemesis.broken_pressure(engine.machine):
        blind = diagnosed(engine)
    said = found["conclusion"]
    engine.expect("CPU is under pressure: in " in said, f"{receipt.evidence}, and yet: {said}")
    engine.expect(f"{nemesis.HOG} (used " in said and " it. " in said, f"the hog is not named: {said}")
    engine.expect("hybrid-engine.service itself used " in said, f"nothing is said of the engine: {said}")
    (hog,) = [unit for unit in found["units"] if unit["name"] == nemesis.HOG]
    engine.expect(hog["stalled"]["cpu"] > 20, f"six busy loops do not wait for each other: {hog}")
    engine.expect(blind["stalled"] is None, f"unreadable pressure was given a number: {blind['stalled']}")
    engine.expect(blind["conclusion"].startswith("Pressure is unknown: cpu"), blind["conclusion"])


PSI = "some avg10=1.00 avg60=1.00 avg300=0.50 total=2000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


@pytest.mark.parametrize("below", ["", "unified"], ids=["v2", "hybrid"])
def test_both_layouts_of_cgroups(tmp_path: Path, below: str) -> None:
    root = tmp_path / below
    service = root / "system.slice" / "a.service"
    manager = root / "user.slice" / "user@1.service"
    for place in (service / "nested", manager / "init.scope", manager / "app.slice" / "dbus.service"):
        place.mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu io memory\n")
    (service / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\n")
    (service / "memory.current").write_text("4096\n")
    (service / "io.stat").write_text(
        "254:0 rbytes=10 wbytes=5 rios=1 wios=1 dbytes=0 dios=0\n254:16 rbytes=1 wbytes=2\n"
    )
    for name in ("cpu", "memory", "io"):
        (service / f"{name}.pressure").write_text(PSI)
    units = diagnose.read_computer(OsClock(), tmp_path, tmp_path).units
    assert set(units) == {"a.service", "user@1.service/init.scope", "user@1.service/dbus.service"}
    found = units["a.service"]
    assert (found.cpu_secs, found.memory_bytes, found.io_bytes) == (1.5, 4096, 18)
    assert isinstance(found.pressure, pressure.Pressure)
    assert found.pressure.lines["cpu_some"].total_us == 2_000_000
    bare = units["user@1.service/dbus.service"]
    assert (bare.cpu_secs, bare.memory_bytes, bare.io_bytes) == (None, None, None)
    assert isinstance(bare.pressure, pressure.Unknown)


def test_a_computer_without_cgroup_v2_has_processes_all_the_same(tmp_path: Path) -> None:
    seen = diagnose.read_computer(OsClock(), tmp_path, tmp_path)
    assert seen.units == {}
    assert seen.processes
    assert isinstance(seen.pressure, pressure.Unknown)


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "diagnose", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_text_is_plain_in_a_pipe() -> None:
    done = run("--window", "0.1")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    assert "Conclusion ---" in done.stdout


@pytest.mark.parametrize("window", ["0", "-1", "nan", "abc", "1e9"])
def test_a_wrong_window_is_named(window: str) -> None:
    done = run(f"--window={window}")
    assert done.returncode == 2
    assert repr(window) in done.stderr
    assert "seconds" in done.stderr
