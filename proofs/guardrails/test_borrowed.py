"""The computer's own systemd, borrowed for proofs: in a machine, so that there is one to borrow (contract V19)."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.base.errors import Refuted
from harness.evidence.shell import Shell
from harness.machines.machine import PrivateMachine, why_not_private
from harness.machines.stage import Stage

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = "/srv/lender"
COPIED = ("config", "distributions", "docs", "engine", "fleet", "harness", "proofs", "requirements", "systemd")
RUN_SECS = 300.0

PROVEN = ("test_killed_engine_is_restarted", "test_crash_is_restarted", "test_full_disk_is_waited_for")
"""A kill, and two of which each mounts a disk of its own for the unit."""
UNPROVEN = "test_first_heartbeat_comes_at_start_and_default_is_ten_seconds"
"""Asks what is installed, which here nothing is."""
PLACES = (
    "/etc",
    "/opt",
    "/run/hybrid-proofs",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/var/lib",
    "/var/lib/private",
)


@pytest.fixture
def computer(shell: Shell, stage: Stage) -> Iterator[PrivateMachine]:
    """A machine with a checkout and its environment, where no engine is installed."""
    if reason := why_not_private():
        raise reason
    digest = stage.root.parent / "stage.digest"
    binds = [(Path(sys.prefix), f"{CHECKOUT}/.venv"), (stage.root, f"{CHECKOUT}/.cache/stage"),
             (digest, f"{CHECKOUT}/.cache/{digest.name}")]  # fmt: skip
    machine = PrivateMachine(shell, binds, f"proof-{os.getpid()}-lender")
    machine.boot()
    try:
        for name in COPIED:
            ignore = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
            shutil.copytree(ROOT / name, machine.path(f"{CHECKOUT}/{name}"), ignore=ignore)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy2(ROOT / name, machine.path(f"{CHECKOUT}/{name}"))
        yield machine
    finally:
        machine.halt()


@pytest.mark.claim("V19")
def test_a_borrowed_systemd_gives_the_same_verdicts_and_is_left_as_it_was(computer: PrivateMachine) -> None:
    # Whatever its state is called in the end: what a boot still writes is not the run's.
    computer.run("systemctl", "is-system-running", "--wait")
    before = listed(computer)
    plugin = f"{CHECKOUT}:{CHECKOUT}/distributions/pytest-hybrid-proofs"
    names = " or ".join((*PROVEN, UNPROVEN))
    done = computer.run(
        "sh", "-c", f"cd {CHECKOUT} && PYTHONPATH={plugin} .venv/bin/python -m pytest -q -p no:cacheprovider "
        f"--proofs-systemd=host proofs/guardrails -m 'not sabotage' -k '{names}'", timeout_secs=RUN_SECS,
    )  # fmt: skip
    if done.status != 3:
        raise Refuted(f"the run ended with {done.status}, expected 3, something unproven:\n{done.stdout}{done.stderr}")
    verdicts = json.loads(computer.path(f"{CHECKOUT}/reports/verdicts.json").read_text())
    found = {one["proof"].rpartition("::")[2]: (one["verdict"], one["reason"]) for one in verdicts["verdicts"]}
    assert verdicts["systemd"] == "host"
    assert {name: found[name] for name in PROVEN} == dict.fromkeys(PROVEN, ("proven", ""))
    verdict, reason = found[UNPROVEN]
    assert verdict == "unproven"
    assert "installed in a private machine only (use --systemd=private)" in reason
    after = listed(computer)
    assert not after - before, f"left behind: {sorted(after - before)}"
    assert not before - after, f"taken away: {sorted(before - after)}"


def listed(computer: PrivateMachine) -> set[str]:
    return {path for place in PLACES for path in computer.run("find", place, "-maxdepth", "1").stdout.splitlines()}
