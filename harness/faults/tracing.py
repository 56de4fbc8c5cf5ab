"""What strace(1) sees and does of a running service, whatever language it is written in: what it sends, and a thread
that stands still while the others go on.

Both begin when every thread concerned has a tracer, and end with none; a service is not restarted for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from harness.base.errors import Unavailable
from harness.faults.nemesis import Receipt, await_receipt
from harness.machines.machine import Machine
from harness.machines.systemd import Unit

TRACER = "proof-trace.service"
"""The unit that strace runs as."""

SENDING = "socket,connect,bind,sendto,sendmsg,sendmmsg,write,writev"
"""Calls that make a socket or send something."""

SYNCING = "fsync,fdatasync,msync,sync,syncfs,sync_file_range"
"""Calls that force what was written to the disk."""

NEW = re.compile(r"\b(?:socket\(|sa_family=)AF_(?:INET6?|PACKET|VSOCK)\b")
"""Address families that reach beyond the computer's own files: a UNIX socket, as of sd_notify, does not."""

OPEN = re.compile(r"\(\d+<(?:TCP|UDP)(?:v6|LITE)?:")
"""A socket of such a family, as strace writes a descriptor."""


@dataclass(frozen=True)
class Thread:
    """One thread of a service's main process."""

    id: int
    name: str


def threads(unit: Unit) -> list[Thread]:
    """Return the main process's threads, the main thread first; empty when there is none."""
    pid = unit.show().main_pid
    shown = unit.machine.run("sh", "-c", f"grep -H '' /proc/{pid}/task/*/comm").stdout
    found = [
        Thread(int(match[1]), match[2])
        for match in re.finditer(rf"^/proc/{pid}/task/(\d+)/comm:(.*)$", shown, re.MULTILINE)
    ]
    return sorted(found, key=lambda thread: (thread.id != pid, thread.id))


@contextmanager
def calls(unit: Unit, names: str) -> Iterator[Callable[[], list[str]]]:
    """Watch the main process's threads; yields what returns their calls of these names since then, one line each, as
    strace writes them.

    Unavailable without strace, or where it may not trace. A call through io_uring(7) is none that can be seen.
    """
    pid = unit.show().main_pid
    with _strace(unit.machine, pid, "--follow-forks", f"--trace={names}"):
        _await_tracer(unit.machine, f"/proc/{pid}/task/*/status")
        yield lambda: unit.machine.run("cat", _log(unit.machine)).expect(0).stdout.splitlines()


def to_the_network(calls: Sequence[str]) -> list[str]:
    """Return those of the calls that make a socket of an internet address family, name such an address, or send
    something over one that is open."""
    return [call for call in calls if NEW.search(call) or OPEN.search(call)]


def whole_run(
    machine: Machine, directory: str, argv: Sequence[str], names: str, most_secs: float
) -> tuple[int, list[str]]:
    """Run a command in this directory, as a service of systemd's that is watched from its first moment on and ended
    after most_secs. Return its exit status, and its calls of these names as `calls` has them.

    Unavailable without strace, or where it may not trace."""
    traced = _command(machine, "--follow-forks", "--seccomp-bpf", f"--trace={names}", "--", *argv)
    properties = {"WorkingDirectory": directory, "NotifyAccess": "all", "RuntimeMaxSec": f"{most_secs:g}"}
    told = [f"--property={name}={value}" for name, value in properties.items()]
    ended = machine.systemd_run(f"--unit={TRACER}", "--wait", "--collect", "--quiet", *told, *traced)
    seen = machine.run("cat", _log(machine)).stdout
    machine.run("rm", "-f", _log(machine)).expect(0)
    if not seen:
        raise Unavailable("strace may not trace here", "use PROOFS_SYSTEMD=private, as root")
    return ended.status, seen.splitlines()


@contextmanager
def standing_still(unit: Unit, thread: Thread) -> Iterator[Receipt]:
    """Let one thread of the main process stand still at its next system call, as in a call that does not return; the
    others go on. At the end it goes on too. Unavailable without strace, or where it may not trace."""
    with _strace(unit.machine, thread.id, "--trace=all", "--inject=all:delay_enter=3600s"):
        pid = unit.show().main_pid
        evidence = _await_tracer(unit.machine, f"/proc/{pid}/task/{thread.id}/status", "t (tracing stop)")
        yield Receipt("a thread stands still", f"{thread.name}: {evidence}")


@contextmanager
def _strace(machine: Machine, pid: int, *flags: str) -> Iterator[None]:
    command = _command(machine, *flags, f"--attach={pid}")
    machine.systemd_run(f"--unit={TRACER}", "--property=CollectMode=inactive-or-failed", *command).expect(0)
    try:
        yield
    finally:
        machine.systemctl("stop", TRACER)
        machine.run("rm", "-f", _log(machine)).expect(0)


def _command(machine: Machine, *flags: str) -> tuple[str, ...]:
    if machine.run("sh", "-c", "command -v strace").status != 0:
        raise Unavailable("strace is not installed", "apt-get install strace")
    return (
        "strace", "--quiet=all", "--decode-fds=all", "--signal=none", "--string-limit=4096",
        f"--output={_log(machine)}", *flags,
    )  # fmt: skip


def _log(machine: Machine) -> str:
    return f"{machine.layout.state}/trace.log"


def _await_tracer(machine: Machine, files: str, state: str = "") -> str:
    """Wait until the threads of these /proc/PID/task/TID/status files are traced, and are in this state if any."""

    def look() -> str | None:
        shown = machine.run("sh", "-c", f"grep -h -e ^State -e ^TracerPid {files}").stdout
        tracers = re.findall(r"^TracerPid:\s*(\d+)$", shown, re.MULTILINE)
        done = bool(tracers) and "0" not in tracers and state in shown
        if not done and machine.systemctl("is-active", TRACER).status != 0:
            raise Unavailable("strace may not trace here", "use PROOFS_SYSTEMD=private, as root")
        return " ".join(shown.split()) if done else None

    return await_receipt(look, "strace to be there")
