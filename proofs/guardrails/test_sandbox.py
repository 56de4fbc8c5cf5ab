"""The sandboxes of the shipped units, each directive tried from inside, and the ways out that they leave (E1, O2)."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest

from harness.base.errors import HarnessError, Refuted, Unavailable
from harness.machines.machine import Machine
from harness.machines.stage import PREFIX
from proofs.fixtures.engine_unit import EngineUnit, exchange_for

PROBE_PATH = "/run/proof-probe.py"

KEY = 0x70726F6F
"""Of the shared memory that the probe leaves behind."""

PROBE = """
import ctypes, json, mmap, os, resource, socket, time

libc = ctypes.CDLL(None, use_errno=True)
found = {}

# What came of it: "done", what it found instead, or the number of the error.
def attempt(name, act):
    try:
        found[name] = act() or "done"
    except OSError as error:
        found[name] = error.errno

def call(name, *args):
    # Negative as the kernel's system calls are, whatever the library's function is called.
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)

def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def dropped(line):
    fields = dict(one.split(":", 1) for one in open("/proc/self/status").read().splitlines())
    return None if int(fields[line], 16) else "none"

def set_id():
    write("own")
    os.chmod("own", 0o4755)

def mapped():
    return "its own" if open("/proc/self/uid_map").read().split()[2] != "4294967295" else None

def segment():
    # Left behind on purpose.
    identity = libc.shmget(0x70726f6f, 4096, 0o1600)
    if identity < 0:
        raise OSError(ctypes.get_errno(), "shmget")

class Param(ctypes.Structure):
    _fields_ = [("priority", ctypes.c_int)]

FILE = f"file-{os.getpid()}"
CLONE_NEWUSER, CLONE_NEWNS, SCHED_FIFO, PER_LINUX32 = 0x10000000, 0x00020000, 1, 8

attempt("AmbientCapabilities", lambda: dropped("CapAmb"))
attempt("CapabilityBoundingSet", lambda: dropped("CapBnd"))
attempt("DevicePolicy", lambda: os.mknod(f"device-{os.getpid()}", 0o20600, os.makedev(1, 7)))
attempt("LockPersonality", lambda: call("personality", PER_LINUX32))
attempt("MemoryDenyWriteExecute", lambda: mmap.mmap(-1, 4096, prot=7) and None)
attempt("NoNewPrivileges", lambda: "set" if libc.prctl(39, 0, 0, 0, 0) == 1 else None)
attempt("PrivateDevices", lambda: read("/dev/mem" if os.path.exists("/dev/mem") else "/dev/proof"))
attempt("PrivateTmp", lambda: read("/tmp/proof-outside"))
attempt("PrivateUsers", mapped)
attempt("ProcSubset", lambda: read("/proc/version"))
attempt("ProtectClock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
attempt("ProtectControlGroups", lambda: write("/sys/fs/cgroup/cgroup.subtree_control"))
attempt("ProtectHome", lambda: read("/root/proof-outside"))
attempt("ProtectHostname", lambda: socket.sethostname(socket.gethostname()))
attempt("ProtectKernelLogs", lambda: call("klogctl", 10, None, 0))
attempt("ProtectKernelModules", lambda: call("syscall", 175, b"", 0, b""))
attempt("ProtectKernelTunables", lambda: write("/proc/sys/kernel/printk"))
attempt("ProtectProc", lambda: os.listdir("/proc/1") and None)
attempt("ProtectSystem", lambda: write(f"/usr/proof-{os.getpid()}"))
attempt("RemoveIPC", segment)
attempt("RestrictAddressFamilies", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close())
attempt("RestrictRealtime", lambda: call("sched_setscheduler", 0, SCHED_FIFO, ctypes.byref(Param(1))))
attempt("RestrictSUIDSGID", set_id)
attempt("SystemCallFilter", lambda: os.setpriority(os.PRIO_PROCESS, 0, 1))
attempt("LimitCORE", lambda: "none" if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) else None)
attempt("UMask", lambda: os.close(os.open(FILE, os.O_CREAT | os.O_EXCL)) or oct(os.stat(FILE).st_mode))
attempt("User", lambda: "another" if os.getuid() else None)
for family in ("AF_INET", "AF_INET6", "AF_UNIX"):
    attempt(family, lambda: socket.socket(getattr(socket, family)).close())
# Last, since nothing is as it was when it succeeds.
attempt("RestrictNamespaces", lambda: call("unshare", CLONE_NEWUSER))
print("PROBED " + json.dumps(found))
"""

UNITS = ("hybrid-engine", "hybrid-dashboard", "hybrid-soak", "hybrid-health-snapshot")

FAMILIES = ("AF_INET", "AF_INET6", "AF_UNIX")

SOCKETS, REMOVAL, UMASK = "RestrictAddressFamilies", "RemoveIPC", "UMask"
"""Directives of which not every value forbids the same, or not at once."""

OPEN = """\
User=root
CapabilityBoundingSet=~
DevicePolicy=auto
LimitCORE=infinity
LockPersonality=no
MemoryDenyWriteExecute=no
NoNewPrivileges=no
PrivateDevices=no
PrivateTmp=no
PrivateUsers=no
ProcSubset=all
ProtectClock=no
ProtectControlGroups=no
ProtectHome=no
ProtectHostname=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectKernelTunables=no
ProtectProc=default
ProtectSystem=no
RestrictAddressFamilies=
RestrictNamespaces=no
RestrictRealtime=no
RestrictSUIDSGID=no
SystemCallFilter=
UMask=0022
"""

CAPABILITIES = ("AmbientCapabilities", "CapabilityBoundingSet")

OUT_OF_REACH = {
    "AmbientCapabilities", "PrivateDevices", "ProtectClock", "ProtectKernelLogs", "ProtectKernelModules",
    "ProtectKernelTunables",
}  # fmt: skip
"""What not even root of a private machine can do: there the attempt shows nothing without the sandbox either."""


def directives_of(text: str) -> dict[str, str]:
    """What a unit file sets, the last value of each directive."""
    lines = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in lines if equals}


def probed(machine: Machine, unit: str, directives: str = "") -> dict[str, Any]:
    """What came of each attempt in a unit, with these lines on top of it."""
    machine.path(PROBE_PATH).write_text(PROBE)
    for place in ("/root", "/tmp"):
        machine.path(f"{place}/proof-outside").write_text("x")
    drop_in = machine.path(f"{machine.unit_dir}/{unit}.d/30-probe.conf")
    drop_in.parent.mkdir(exist_ok=True)
    program = f"{PREFIX}/bin/python -I {PROBE_PATH}"
    drop_in.write_text(
        "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nWorkingDirectory=/tmp\nExecStopPost=\n"
        f"ExecStart=\nExecStart={program}\n{directives}"
    )
    machine.systemctl("daemon-reload").expect(0)
    try:
        started = machine.systemctl("start", unit)
        machine.run("journalctl", "--sync").expect(0)
        told = machine.run("journalctl", "--unit", unit, "--output", "cat", "--lines", "20", "--no-pager").stdout
        if started.status != 0:
            raise Refuted(f"{unit} does not run the probe: {started.stderr}{told}")
        found: dict[str, Any] = json.loads(re.findall(r"^PROBED (.*)", told, re.MULTILINE)[-1])
        return found
    finally:
        machine.systemctl("stop", unit)
        drop_in.unlink()
        machine.systemctl("daemon-reload").expect(0)


def shared_memory(machine: Machine) -> list[str]:
    """What is left of the probe's."""
    # In the machine: whoever reads it sees the memory of its own namespace.
    lines = machine.run("cat", "/proc/sysvipc/shm").expect(0).stdout.splitlines()
    return [line for line in lines if str(KEY) in line.split()]


@pytest.mark.claim("E1", "O2")
@pytest.mark.parametrize("name", UNITS)
def test_what_a_sandbox_forbids_cannot_be_done(unit_with_short_times: EngineUnit, name: str) -> None:
    """Each directive tried from inside, by a program in the service's place; without any of them it is done."""
    machine, unit = unit_with_short_times.machine, f"{name}.service"
    if machine.kind != "private":
        raise Unavailable("units are tried with another program, and without their sandboxes", "use --systemd=private")
    unit_with_short_times.wipe()
    here = directives_of(unit_with_short_times.stage.unit(unit).read_text())
    try:
        found = probed(machine, unit)
        left = shared_memory(machine)
        open_to_all = probed(machine, unit, OPEN) if name == UNITS[0] else {}
    finally:
        machine.run("ipcrm", "--shmem-key", str(KEY))
        unit_with_short_times.wipe()
    for directive, outcome in found.items():
        # What is not set forbids nothing, and neither does a list of what is left.
        if directive in FAMILIES:
            is_due = directive not in here[SOCKETS].split()
            word = "done" if is_due else "not done"
            _expect((outcome != "done") is is_due, f"a socket of {directive} must not be {word}: {outcome!r}")
        elif directive == UMASK:
            mode = oct(0o100777 & ~int(here[UMASK], 8))
            _expect(outcome == mode, f"UMask: a file has the mode {outcome}, expected {mode}")
        elif directive == REMOVAL:
            _expect(not (left and here.get(REMOVAL) == "yes"), f"shared memory is left behind: {left}")
        elif here.get(directive) is not None and (directive not in CAPABILITIES or not here[directive]):
            _expect(outcome != "done", f"{directive}: what it forbids was done")
    shown = {directive for directive, outcome in open_to_all.items() if outcome == "done"}
    lost = set(open_to_all) - shown - OUT_OF_REACH - {UMASK}
    if lost:
        raise HarnessError(f"these attempts show nothing, they fail without the sandbox too: {lost}")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise Refuted(message)


@pytest.mark.claim("E1", "N3")
def test_an_exchange_is_reached_over_ipv6(engine: EngineUnit) -> None:
    """From inside the unit, by address."""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError as error:
        raise Unavailable(
            f"this computer has no IPv6: {error.strerror}", "sysctl net.ipv6.conf.lo.disable_ipv6=0"
        ) from error
    with exchange_for(engine, "::1") as exchange:
        engine.connect(exchange)
        exchange.send_ticks(5)
        engine.wait_ticks(5)
