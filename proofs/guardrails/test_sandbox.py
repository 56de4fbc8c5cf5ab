"""The sandbox of the shipped unit, each directive tried from inside, and the way out that it leaves (contract E1)."""

from __future__ import annotations

import errno
import json
import socket
from typing import Any

import pytest

from harness.base.errors import HarnessError, Unavailable
from proofs.fixtures.engine_unit import PREFIX, EngineUnit, exchange_for

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
attempt("DevicePolicy", lambda: os.mknod("device", 0o20600, os.makedev(1, 7)))
attempt("LockPersonality", lambda: call("personality", PER_LINUX32))
attempt("MemoryDenyWriteExecute", lambda: mmap.mmap(-1, 4096, prot=7) and None)
attempt("NoNewPrivileges", lambda: "set" if libc.prctl(39, 0, 0, 0, 0) == 1 else None)
attempt("PrivateDevices", lambda: read("/dev/mem" if os.path.exists("/dev/mem") else "/dev/proof"))
attempt("PrivateTmp", lambda: read("/tmp/proof-outside"))
attempt("PrivateUsers", mapped)
attempt("ProcSubset", lambda: read("/proc/version"))
attempt("ProtectClock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
attempt("ProtectControlGroups", lambda: write("/sys/fs/cgroup/cgroup.subtree_control"))
attempt("ProtectHome", lambda: os.listdir("/root") and None)
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

SANDBOX: dict[str, object] = {
    "AmbientCapabilities": "none",
    "CapabilityBoundingSet": "none",
    "DevicePolicy": errno.EPERM,
    "LimitCORE": "none",
    "LockPersonality": errno.EPERM,
    "MemoryDenyWriteExecute": errno.EPERM,
    "NoNewPrivileges": "set",
    "PrivateDevices": errno.ENOENT,
    "PrivateTmp": errno.ENOENT,
    "PrivateUsers": "its own",
    "ProcSubset": errno.ENOENT,
    "ProtectClock": errno.EPERM,
    "ProtectControlGroups": errno.EACCES,
    "ProtectHome": errno.EACCES,
    "ProtectHostname": errno.EPERM,
    "ProtectKernelLogs": errno.EPERM,
    "ProtectKernelModules": errno.EPERM,
    "ProtectKernelTunables": errno.ENOENT,
    "ProtectProc": errno.ENOENT,
    "ProtectSystem": errno.EROFS,
    "RestrictAddressFamilies": errno.EAFNOSUPPORT,
    "RestrictNamespaces": errno.EPERM,
    "RestrictRealtime": errno.EPERM,
    "RestrictSUIDSGID": errno.EPERM,
    "SystemCallFilter": errno.EPERM,
    "UMask": oct(0o100750),
    "User": "another",
}
"""What comes of each attempt in the shipped unit."""

ALLOWED = ("AF_INET", "AF_INET6", "AF_UNIX", "RemoveIPC")
"""What an engine needs; RemoveIPC= takes away what was left, which can be made."""

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

OUT_OF_REACH = {
    "AmbientCapabilities", "PrivateDevices", "ProtectClock", "ProtectKernelLogs", "ProtectKernelModules",
    "ProtectKernelTunables",
}  # fmt: skip
"""What not even root of a private machine can do: there the attempt shows nothing without the sandbox either."""


def probed(unit: EngineUnit, directives: str = "") -> dict[str, Any]:
    """What came of each attempt, with these lines on top of the unit."""
    unit.machine.path(PROBE_PATH).write_text(PROBE)
    unit.machine.path("/tmp/proof-outside").write_text("x")
    start = f"Type=exec\nRestart=no\nExecStart=\nExecStart={PREFIX}/bin/python -I {PROBE_PATH}\n"
    unit.drop_in("30-probe", f"[Service]\n{start}{directives}")
    try:
        unit.try_start()
        told = unit.wait("what the probe found", lambda entry: entry.message.startswith("PROBED "))
        found: dict[str, Any] = json.loads(told.message.removeprefix("PROBED "))
        return found
    finally:
        unit.down()
        unit.remove_drop_in("30-probe")


def shared_memory(unit: EngineUnit) -> list[str]:
    """What is left of the probe's."""
    # In the machine: whoever reads it sees the memory of its own namespace.
    lines = unit.machine.run("cat", "/proc/sysvipc/shm").expect(0).stdout.splitlines()
    return [line for line in lines if str(KEY) in line.split()]


@pytest.mark.claim("E1")
def test_what_the_sandbox_forbids_cannot_be_done(unit_with_short_times: EngineUnit) -> None:
    """Each directive tried from inside, by a program in the engine's place; without any of them it is done."""
    unit = unit_with_short_times
    if unit.machine.kind != "private":
        raise Unavailable("the unit is tried with another program, and without its sandbox", "use --systemd=private")
    unit.wipe()
    try:
        found = probed(unit)
        for name, outcome in SANDBOX.items():
            unit.expect(found[name] == outcome, f"{name}: it came to {found[name]!r}, expected {outcome!r}", name)
        for name in ALLOWED:
            unit.expect(found[name] == "done", f"{name}: what an engine needs came to {found[name]!r}", name)
        left = shared_memory(unit)
        unit.expect(not left, f"shared memory is left behind: {left}", "RemoveIPC")
        without = probed(unit, OPEN)
    finally:
        unit.machine.run("ipcrm", "--shmem-key", str(KEY))
        unit.wipe()
    same = {name for name, outcome in SANDBOX.items() if without[name] == outcome}
    if not same <= OUT_OF_REACH:
        raise HarnessError(f"these attempts show nothing, they fail without the sandbox too: {same - OUT_OF_REACH}")


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
