"""The computer's own systemd, borrowed for proofs: in a machine, so that there is one to borrow (contract V19)."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.base.errors import Refuted, Unavailable
from harness.evidence.shell import Shell
from harness.machines.machine import PrivateMachine, choose, why_not_private
from harness.machines.stage import Stage
from harness.proving.plugin import Run

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
def computer(shell: Shell, stage: Stage, proof_run: Run) -> Iterator[PrivateMachine]:
    """A machine with a checkout and its environment, where no engine is installed."""
    if reason := why_not_private():
        raise reason
    if choose(proof_run.options.systemd) != "private":
        raise Unavailable("this run has lent its unit to the computer already", "use --systemd=private")
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
    # As `make proofs` asks for them, which is more than there are units.
    said, found = run_proofs(computer, *PROVEN, UNPROVEN, workers=2)
    assert "one worker instead of 2: a host systemd has one hybrid-engine.service" in said
    assert {name: found[name] for name in PROVEN} == dict.fromkeys(PROVEN, ("proven", ""))
    verdict, reason = found[UNPROVEN]
    assert verdict == "unproven"
    assert "installed in a private machine only (use --systemd=private)" in reason
    after = listed(computer)
    assert not after - before, f"left behind: {sorted(after - before)}"
    assert not before - after, f"taken away: {sorted(before - after)}"


@pytest.mark.claim("V19")
def test_a_borrowed_systemd_is_no_second_runs(computer: PrivateMachine) -> None:
    """Whatever keeps the directory of its units locked is told from a run that was killed, whose unit is in the way."""
    _, found = run_proofs(computer, PROVEN[0], under="flock --shared /run/systemd/system")
    verdict, reason = found[PROVEN[0]]
    assert verdict == "unproven"
    assert "another run has its hybrid-engine.service in /run/systemd/system (wait for its end)" in reason


def run_proofs(
    computer: PrivateMachine, *names: str, workers: int = 0, under: str = ""
) -> tuple[str, dict[str, tuple[str, str]]]:
    """Return what a run of these proofs on the computer's own systemd says, and the verdict and reason of each.

    under: a command that runs the run. Raises Refuted unless something of it is unproven and nothing is refuted.
    """
    plugin = f"{CHECKOUT}:{CHECKOUT}/distributions/pytest-hybrid-proofs"
    done = computer.run(
        "sh", "-c", f"cd {CHECKOUT} && PYTHONPATH={plugin} {under} .venv/bin/python -m pytest -n {workers} "
        "-p no:cacheprovider --proofs-systemd=host proofs/guardrails -m 'not sabotage' "
        f"-k '{' or '.join(names)}'", timeout_secs=RUN_SECS,
    )  # fmt: skip
    if done.status != 3:
        raise Refuted(f"the run ended with {done.status}, expected 3, something unproven:\n{done.stdout}{done.stderr}")
    verdicts = json.loads(computer.path(f"{CHECKOUT}/reports/verdicts.json").read_text())
    assert verdicts["systemd"] == "host"
    return done.stdout, {
        one["proof"].rpartition("::")[2]: (one["verdict"], one["reason"]) for one in verdicts["verdicts"]
    }


def listed(computer: PrivateMachine) -> set[str]:
    return {path for place in PLACES for path in computer.run("find", place, "-maxdepth", "1").stdout.splitlines()}
