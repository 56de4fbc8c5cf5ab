"""The proofs also run against a computer's own systemd and against a user's manager.

Both are had for real inside a private machine: there, PID 1 is a systemd that is not ours, and `user@.service`
starts a manager for a user without any privilege.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.evidence.shell import CommandResult, Shell
from harness.machines import machine as machines
from harness.machines.machine import PrivateMachine
from harness.machines.stage import Stage

SEEN = "/mnt/checkout"
SELECTION = "exit12 and (unknown or killed)"
COPIED = (
    ".venv", ".cache", "config", "distributions", "docs", "engine", "fleet", "harness", "proofs", "requirements",
    "systemd", "Makefile", "pyproject.toml",
)  # fmt: skip


@pytest.fixture
def computer(shell: Shell, stage: Stage, pytestconfig: pytest.Config) -> Iterator[PrivateMachine]:
    """A booted machine without an engine; it sees the checkout, with an up-to-date stage in it, read-only."""
    reason = machines.why_not_private()
    if reason:
        raise reason
    booted = PrivateMachine(shell, [(pytestconfig.rootpath, SEEN)], f"proof-{os.getpid()}-variant")
    booted.boot()
    try:
        yield booted
    finally:
        booted.halt()


def prove(computer: PrivateMachine, checkout: str, variant: str, *prefix: str) -> CommandResult:
    return computer.run(
        *prefix, "sh", "-c",
        # The environment knows where the checkout was when it was set up.
        f"cd {checkout} && export PYTHONPATH={checkout}/distributions/pytest-hybrid-proofs && "
        f"exec .venv/bin/python -m pytest proofs/guardrails/test_exit12.py -p no:cacheprovider "
        f"-k '{SELECTION}' --systemd={variant}",
        timeout_secs=120,
    )  # fmt: skip


def expect_proven(done: CommandResult, variant: str) -> None:
    assert done.status == 0, done.stdout + done.stderr
    assert f"verdicts (systemd: {variant})" in done.stdout
    assert re.search(r"\b2 proven, 0 unproven, 0 refuted", done.stdout), done.stdout


def copy(computer: PrivateMachine, checkout: Path, target: str) -> None:
    """The checkout, at a place that the machine can write."""
    names = " ".join(name for name in COPIED if (checkout / name).exists())
    computer.run("mkdir", "-p", target).expect(0)
    computer.run("sh", "-c", f"cd {SEEN} && tar c {names} | tar x -C {target}", timeout_secs=120).expect(0)


def test_host_variant(computer: PrivateMachine, pytestconfig: pytest.Config) -> None:
    copy(computer, pytestconfig.rootpath, "/opt/checkout")
    expect_proven(prove(computer, "/opt/checkout", "host"), "host")
    assert not computer.path("/run/systemd/system/hybrid-engine.service").exists(), "the unit was left behind"


def test_user_variant(computer: PrivateMachine, pytestconfig: pytest.Config) -> None:
    # journald's files become readable for the group by a tmpfiles rule that these machines do not run.
    for command in (
        "useradd --create-home --groups systemd-journal tester",
        "chgrp -R systemd-journal /run/log/journal && chmod -R g+rX /run/log/journal",
    ):
        computer.run("sh", "-c", command).expect(0)
    copy(computer, pytestconfig.rootpath, "/home/tester/checkout")
    computer.run("chown", "-R", "tester:", "/home/tester/checkout").expect(0)
    uid = computer.run("id", "-u", "tester").expect(0).stdout.strip()
    computer.systemctl("start", f"user@{uid}.service").expect(0)
    done = prove(
        computer, "/home/tester/checkout", "user", "setpriv", "--reuid=tester", "--regid=tester", "--init-groups",
        "env", "HOME=/home/tester", f"XDG_RUNTIME_DIR=/run/user/{uid}",
    )  # fmt: skip
    expect_proven(done, "user")
