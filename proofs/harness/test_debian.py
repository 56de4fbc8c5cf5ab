"""harness/machines/debian.py: what runs on another Debian has that for its root, and goes with whoever waits for it.

A copy-on-write view of this computer's root stands for the other Debian. The night makes a true one (`make debian`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.machines import machine as machines
from harness.machines.debian import entering

ANOTHER_ROOT = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" "$1/root"
for lent in proc sys dev; do mount --rbind "/$lent" "$1/root/$lent"; done
mount --bind "$2" "$1/root/mnt"
shift 2; exec "$@"
"""
"""Makes "$1/root" another root, with the checkout "$2" at its /mnt, and runs the rest."""

WHY_NOT = "from harness.machines.machine import why_not_private; print(why_not_private())"

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def beside(tmp_path: Path) -> list[str]:
    """What goes before a command, so that `tmp_path/root` is another root for it."""
    reason = machines.why_not_private()
    if reason:
        raise reason
    return [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-euc",
        ANOTHER_ROOT,
        "another",
        str(tmp_path),
        str(ROOT),
    ]


def why_not(argv: list[str]) -> str:
    done = subprocess.run([*argv, "/mnt/.venv/bin/python", "-c", WHY_NOT], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_chroot_is_refused_and_says_what_to_do(beside: list[str], tmp_path: Path) -> None:
    said = why_not([*beside, "env", "PYTHONPATH=/mnt", "chroot", str(tmp_path / "root")])
    assert "this is a chroot" in said
    assert "python -m harness debian" in said


def test_another_debian_can_boot_machines(beside: list[str], tmp_path: Path) -> None:
    assert why_not([*beside, *entering(tmp_path / "root", "mnt", [])]) == "None\n"


def test_the_exit_status_is_the_commands(beside: list[str], tmp_path: Path) -> None:
    argv = [*beside, *entering(tmp_path / "root", "etc", ["sh", "-c", "pwd; exit 42"])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (42, "/etc\n"), done.stderr


def test_nothing_outlives_whoever_waits_for_it(beside: list[str], tmp_path: Path) -> None:
    """Also not what left the command's process group."""
    script = "setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000"
    argv = [*beside, *entering(tmp_path / "root", "tmp", ["sh", "-c", script])]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert int(started.stdout.readline()) > 1
        started.kill()
        # Its end comes when nobody has the pipe any more.
        assert started.communicate(timeout=10)[0] == ""
