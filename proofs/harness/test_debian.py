"""harness/machines/debian.py: what runs on another Debian has that for its root, and goes with whoever waits for it.

A copy-on-write view of this computer's root stands for the other Debian. The night makes a true one (`make debian`).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.machines import debian
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


def test_a_release_that_debootstrap_does_not_know_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's debootstrap knows the names of the releases up to its own."""
    (tmp_path / "debootstrap").write_text('#!/bin/sh\nfor one; do echo "<$one>"; done >"$4/asked"\n')
    (tmp_path / "debootstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    root = tmp_path / "root"
    debian.make(Shell(Unrecorded()), root, "forky")
    assert (root / "asked").read_text().split()[2:] == ["<forky>", f"<{root}>", "<>", "<sid>"]


def test_each_release_is_made_in_the_night_and_documented() -> None:
    night = (ROOT / ".github/workflows/nightly-soak.yml").read_text()
    (versions,) = re.findall(r"^ +version: \[(.*)\]$", night, re.MULTILINE)
    assert re.findall(r'"(\d+)"', versions) == list(debian.RELEASES)
    document = (ROOT / "docs/hacking.md").read_text()
    assert re.findall(r"^\| (\d+)\b", document, re.MULTILINE) == list(debian.RELEASES)


def why_not(argv: list[str]) -> str:
    done = subprocess.run([*argv, "/mnt/.venv/bin/python", "-c", WHY_NOT], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.machine
def test_a_chroot_is_refused_and_says_what_to_do(beside: list[str], tmp_path: Path) -> None:
    said = why_not([*beside, "env", "PYTHONPATH=/mnt", "chroot", str(tmp_path / "root")])
    assert "this is a chroot" in said
    assert "python -m harness debian" in said


@pytest.mark.machine
def test_another_debian_can_boot_machines(beside: list[str], tmp_path: Path) -> None:
    assert why_not([*beside, *entering(tmp_path / "root", "mnt", [])]) == "None\n"


@pytest.mark.machine
def test_the_exit_status_is_the_commands(beside: list[str], tmp_path: Path) -> None:
    argv = [*beside, *entering(tmp_path / "root", "etc", ["sh", "-c", "pwd; exit 42"])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (42, "/etc\n"), done.stderr


ORPHAN = """
import os, time
reader, writer = os.pipe()
parent = os.fork()
if parent == 0:
    if (orphan := os.fork()) != 0:
        os.write(writer, str(orphan).encode())
        os._exit(0)
    time.sleep(0.1)
    os._exit(0)
os.waitpid(parent, 0)
orphan = int(os.read(reader, 16))
deadline = time.monotonic() + 10
while os.path.exists(f"/proc/{orphan}"):
    assert time.monotonic() < deadline, "nobody reaped it within 10 s"
    time.sleep(0.01)
"""


@pytest.mark.machine
def test_orphans_are_reaped(beside: list[str], tmp_path: Path) -> None:
    argv = [*beside, *entering(tmp_path / "root", "tmp", ["/usr/bin/python3", "-Ic", ORPHAN])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.machine
def test_its_cgroups_are_those_of_current_releases(beside: list[str], tmp_path: Path) -> None:
    """systemd 258 and later boots no machine where those of version 1 are."""
    argv = [*beside, *entering(tmp_path / "root", "tmp", ["stat", "-fc", "%T", "/sys/fs/cgroup"])]
    assert subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout == "cgroup2fs\n"


@pytest.mark.machine
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
