"""Private machines come and go, and leave nothing behind even when their test run is killed."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.base import settings
from harness.base.clock import OsClock, poll
from harness.base.errors import CommandFailed, HarnessError, MachineError, Unavailable
from harness.evidence.shell import Shell
from harness.machines import doctor
from harness.machines import machine as machines
from harness.machines.machine import Machine, PrivateMachine
from harness.machines.stage import Stage

BOOT_AND_WAIT = """
import sys
from pathlib import Path
from harness.machines.machine import PrivateMachine
from harness.evidence.recorder import Recorder
from harness.evidence.shell import Shell
from harness.machines.stage import Stage
import os
shell = Shell(Recorder(Path(sys.argv[2]), "run", "killed"))
machine = PrivateMachine(shell, Stage(Path(sys.argv[1])).binds(), f"proof-{os.getpid()}-killed")
machine.boot()
print(machine.name, flush=True)
sys.stdin.read()
"""


def left_of(name: str) -> list[str]:
    """What exists of a machine: cgroups, state directory, mounts, processes."""
    found = [f"{parent}/{name}" for parent in machines.cgroup_parents() if Path(parent, name).exists()]
    found += [str(machines.RUN_DIR / name)] if (machines.RUN_DIR / name).exists() else []
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"/{name}/" in (process / "cgroup").read_text() + "/":
                found.append(f"process {process.name}")
        except OSError:
            continue
    return found


@pytest.fixture
def can_boot() -> None:
    reason = machines.why_not_private()
    if reason:
        raise reason


def test_the_staged_engine_is_compiled(stage: Stage) -> None:
    """Its unit cannot write there: without bytecode beside it, each start of the engine would compile it anew."""
    (package,) = stage.prefix.glob("lib/python3*/site-packages/engine")
    for source in package.glob("*.py"):
        # The name only: where this process keeps its own is another matter.
        compiled = package / "__pycache__" / Path(importlib.util.cache_from_source(str(source))).name
        made_from = int.from_bytes(compiled.read_bytes()[8:12], "little")
        assert made_from == int(source.stat().st_mtime), f"{compiled} is of another {source.name}"


def test_halted_machine_leaves_nothing(can_boot: None, shell: Shell, stage: Stage) -> None:
    machine = PrivateMachine(shell, stage.binds(), f"proof-{os.getpid()}-halts")
    machine.boot()
    assert machine.systemctl("is-system-running").stdout.strip() == "running"
    assert left_of(machine.name)
    machine.halt()
    assert left_of(machine.name) == []


def test_killed_run_leaves_nothing_after_the_next_start(
    can_boot: None, stage: Stage, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    checkout = pytestconfig.rootpath
    run = subprocess.Popen(
        [sys.executable, "-c", BOOT_AND_WAIT, str(checkout), str(tmp_path / "record.jsonl")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,
    )
    with run:
        assert run.stdout is not None
        name = run.stdout.readline().strip()
        assert name, "the run to be killed did not boot a machine"
        os.kill(run.pid, signal.SIGKILL)
    assert left_of(name), "the kill came too late to leave anything"
    assert name in machines.sweep()
    assert poll(lambda: True if left_of(name) == [] else None, OsClock(), 5.0), left_of(name)


def test_a_running_machine_is_not_swept(machine: Machine) -> None:
    assert machine.name not in machines.sweep()
    assert machine.run("true").status == 0


def test_a_machine_whose_owners_pid_is_another_process_by_now_is_swept(can_boot: None) -> None:
    """The number alone says nothing: this very process lives, and did not start then."""
    names = [f"proof-{os.getpid()}-{what}" for what in ("reused", "own")]
    started = {"reused": "1", "own": machines.process_start(os.getpid())}
    for name, (what, at) in zip(names, started.items(), strict=True):
        assert name.endswith(what)
        (machines.RUN_DIR / name).mkdir(parents=True)
        (machines.RUN_DIR / name / "owner.json").write_text(json.dumps({"pid": os.getpid(), "started": at}))
    try:
        assert set(machines.sweep()) & set(names) == {names[0]}
        assert [(machines.RUN_DIR / name).exists() for name in names] == [False, True]
    finally:
        machines.remove_machine(names[1], OsClock())


def test_cgroups_of_a_run_that_was_killed_in_a_chroot_are_swept(can_boot: None) -> None:
    """Its state directory is gone with the chroot's own /run; and one in which a machine is about to boot stays."""
    names = {f"proof-{os.getpid()}-{what}": what == "fresh" for what in ("forsaken", "fresh")}
    trees = [(Path(parent, name), kept) for parent in machines.cgroup_parents() for name, kept in names.items()]
    try:
        for tree, kept in trees:
            (tree / "payload").mkdir(parents=True)
            if not kept:
                os.utime(tree, (0, 0))
        machines.sweep()
        assert [tree.exists() for tree, _ in trees] == [kept for _, kept in trees]
    finally:
        for name in names:
            machines.remove_machine(name, OsClock())


@pytest.mark.claim("V13")
def test_what_the_administrator_has_set_is_none_of_a_machines(
    can_boot: None, shell: Shell, stage: Stage, tmp_path: Path
) -> None:
    """Nor does a line of tmpfiles.d that cannot be carried out keep one from booting, as it keeps no computer."""
    administrators = {
        "/etc/systemd/journald.conf.d/50-small.conf": "[Journal]\nStorage=none\nMaxLevelStore=warning\n",
        "/etc/systemd/system.conf.d/50-quiet.conf": "[Manager]\nLogLevel=err\nDefaultRestartSec=1h\n",
        "/etc/tmpfiles.d/odd.conf": "Q! /nowhere - - nobody-of-this-name\nnonsense\n",
    }
    binds = stage.binds()
    for number, (place, text) in enumerate(administrators.items()):
        (tmp_path / str(number)).write_text(text)
        binds.append((tmp_path / str(number), place))
    machine = PrivateMachine(shell, binds, f"proof-{os.getpid()}-set")
    try:
        machine.boot()
        machine.systemd_run("--unit=told", "--wait", "echo", "hello").expect(0)
        machine.run("journalctl", "--sync").expect(0)
        lines = machine.run("journalctl", "--unit=told", "--output=cat").expect(0).stdout
        restarts = machine.systemctl("show", "told.service", "--property=RestartUSec", "--value").stdout
    finally:
        machine.halt()
    assert "hello\n" in lines
    assert "told.service: Deactivated successfully" in lines
    assert restarts == "100ms\n"


def test_a_killed_run_of_a_user_leaves_nothing_after_the_next_start(
    shell: Shell, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory lies in the memory of whoever is logged in."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    silent = SimpleNamespace(status=0, stdout="")
    monkeypatch.setattr(machines.UserMachine, "systemctl", lambda *_, **__: silent)
    left = tmp_path / "hybrid-proofs" / "proof-7-main" / "state"
    left.mkdir(parents=True)
    machine = machines.UserMachine(shell, stage, "proof-8-main")
    machine._lend()
    try:
        assert [path.name for path in (tmp_path / "hybrid-proofs").iterdir()] == ["proof-8-main"]
    finally:
        machine.halt()
    assert not (tmp_path / "hybrid-proofs").exists()


@pytest.mark.claim("V13")
@pytest.mark.parametrize(
    ("error", "told"),
    [(CommandFailed("it ended with 1"), "it ended with 1"), (MachineError("not up\nmuch\nwhy"), "not up why")],
)
def test_the_doctor_says_what_kept_a_machine_from_booting(
    monkeypatch: pytest.MonkeyPatch, error: HarnessError, told: str
) -> None:
    def boot(machine: PrivateMachine) -> None:
        raise error

    monkeypatch.setattr(PrivateMachine, "boot", boot)
    found = doctor._private()
    assert (found.ok, found.detail) == (False, told)


def test_a_boot_that_fails_says_why_and_leaves_nothing(
    can_boot: None, shell: Shell, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "TARGET", "[Unit]\nRequires=no-such.service\n")
    monkeypatch.setattr(machines, "BOOT_SECS", 2.0)
    machine = PrivateMachine(shell, stage.binds(), f"proof-{os.getpid()}-fails")
    with pytest.raises(MachineError, match=r"is not up after|ended while it booted") as error:
        machine.boot()
    assert left_of(machine.name) == []
    assert machines.IN_EVERY_BOOT not in str(error.value), "what stands in every good boot is no reason"


@pytest.mark.claim("V13")
def test_a_boot_that_fails_for_want_of_inotify_instances_says_so(
    can_boot: None, shell: Shell, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, most = machines.inotify_instances()
    assert 0 < used <= most
    assert machines.short_of_inotify() == (
        "" if most - used >= machines.INOTIFY_INSTANCES else machines.short_of_inotify()
    )
    monkeypatch.setattr(machines, "TARGET", "[Unit]\nRequires=no-such.service\n")
    monkeypatch.setattr(machines, "BOOT_SECS", 1.0)
    monkeypatch.setattr(machines, "inotify_instances", lambda: (126, 128))
    machine = PrivateMachine(shell, stage.binds(), f"proof-{os.getpid()}-short")
    with pytest.raises(MachineError, match=r"; 126 of the 128 inotify instances of this user are in use \(sysctl fs"):
        machine.boot()


@pytest.mark.claim("V13")
def test_inotify_instances_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    before, most = machines.inotify_instances()
    fds = [ctypes.CDLL(None).inotify_init1(os.O_CLOEXEC) for _ in range(12)]
    try:
        # Others on this computer come and go meanwhile.
        assert machines.inotify_instances()[0] >= before + 12 - 8
    finally:
        for fd in fds:
            os.close(fd)
    monkeypatch.setattr(doctor, "inotify_instances", lambda: (most - 1, most))
    (line,) = [found for found in doctor.examine() if found.subject == "inotify instances"]
    assert (line.ok, line.detail.endswith("room for 0 private machines")) == (False, True)


def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machines, "why_not_private", lambda: None)
    assert machines.choose("auto") == "private"
    monkeypatch.setattr(machines, "why_not_private", lambda: Unavailable("no root", "be root"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(Unavailable, match="no root"):
        machines.choose("auto")
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd" / "private").touch()
    assert machines.choose("auto") == "user"
    assert machines.choose("host") == "host"


def test_an_unknown_variant_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROOFS_SYSTEMD", "docker")
    with pytest.raises(ValueError, match=r"PROOFS_SYSTEMD='docker'.*private"):
        settings.load(tmp_path)
