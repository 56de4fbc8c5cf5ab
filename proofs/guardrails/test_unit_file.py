"""The installed unit says what the contract demands of it, as systemd itself reads it (contract E1)."""

from __future__ import annotations

import re

import pytest

from harness.base.errors import Unavailable
from proofs.fixtures.engine_unit import EngineUnit

EXPOSURE_MAX = 1.2
"""Of `systemd-analyze security`; a plain unit scores 9.5."""


@pytest.mark.claim("E1", "B5")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "12"),
        # systemd does not apply RestartPreventExitStatus= to ExecStartPre=.
        ("ExecStartPre", ""),
        ("SuccessExitStatus", ""),
        # What systemd would have the kernel do; that the kernel does it takes a memory controller (B5).
        ("MemoryMax", "536870912"),
        ("MemorySwapMax", "0"),
        ("OOMPolicy", "stop"),
    ],
)
def test_property(unit_with_short_times: EngineUnit, name: str, value: str) -> None:
    """Of the unit, whichever engine it runs: no fixture `engine`, which would make it a proof of that (V9)."""
    shown = unit_with_short_times.property(name)
    unit_with_short_times.expect(shown == value, f"{name} is {shown!r}, the contract demands {value!r}")


@pytest.mark.claim("E1")
def test_has_a_watchdog(engine: EngineUnit) -> None:
    # systemd tells a watchdog's period only of a unit that runs.
    engine.configure({})
    engine.start()
    period = engine.property("WatchdogUSec")
    engine.expect(period not in ("", "0", "infinity"), f"the unit has no WatchdogSec=: {period}")


@pytest.mark.claim("E1")
def test_only_our_drop_in_is_on_top(engine: EngineUnit) -> None:
    """What is proven is the installed file: drop-ins set paths and times, and nothing else."""
    drop_ins = engine.property("DropInPaths").split()
    engine.expect([path.rpartition("/")[2] for path in drop_ins] == ["10-proof.conf"], f"drop-ins: {drop_ins}")


@pytest.mark.claim("E1")
def test_is_hardened(engine: EngineUnit) -> None:
    if engine.machine.kind == "user":
        raise Unavailable("a user's manager runs the unit without its sandbox", "use --systemd=private")
    shown = engine.machine.run("systemd-analyze", "security", "--no-pager", engine.name)
    overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown.stdout)
    assert overall, f"systemd-analyze said: {shown.stdout}{shown.stderr}"
    engine.expect(float(overall[1]) <= EXPOSURE_MAX, f"exposure {overall[1]}, at most {EXPOSURE_MAX}")
