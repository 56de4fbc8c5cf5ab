"""What strace(1) sees and does of a running service, whatever language it is written in: what it sends, and a thread
that stands still while the others go on.

Both begin when every thread concerned has a tracer, and end with none; a service is not restarted for them. strace runs
outside of the machine: a service in a private one has no way to ask whether it is watched, for its TracerPid is 0.
"""

from __future__ import annotations

import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import Unavailable
from harness.evidence.shell import Process
from harness.faults.nemesis import Receipt, await_receipt
from harness.machines.machine import Machine
from harness.machines.systemd import Unit

END_SECS = 5.0
"""How long strace may take to let go."""

SENDING = "socket,connect,bind,sendto,sendmsg,sendmmsg,write,writev"
"""Calls that make a socket or send something."""

SYNCING = "fsync,fdatasync,msync,sync,syncfs,sync_file_range"
"""Calls that force what was written to the disk."""

TRACER = "proof-trace.service"
"""The unit that a run which is watched as a whole is."""

HOW = ("--quiet=all", "--decode-fds=all", "--signal=none", "--string-limit=4096")
"""What strace shows of a call."""

NEW = re.compile(r"\b(?:socket\(|sa_family=)AF_(?:INET6?|PACKET|VSOCK)\b")
"""Address families that reach beyond the computer's own files: a UNIX socket, as of sd_notify, does not."""

OPEN = re.compile(r"\(\d+<(?:TCP|UDP)(?:v6|LITE)?:")
"""A socket of such a family, as strace writes a descriptor."""


@dataclass(frozen=True)
class Thread:
    """One thread of a service's main process."""

    id: int
    """As this computer counts, which a machine's own processes may not."""
    name: str


def threads(unit: Unit) -> list[Thread]:
    """Return the main process's threads, the main thread first; empty when there is none."""
    pid = _pid(unit)
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        # One that has just ended is none.
        with suppress(OSError):
            found.append(Thread(int(task.name), (task / "comm").read_text().strip()))
    return sorted(found, key=lambda thread: (thread.id != pid, thread.id))


def descriptors(unit: Unit) -> int:
    """Return how many files, sockets and the like the main process has open."""
    return len(list(Path(f"/proc/{_pid(unit)}/fd").iterdir()))


@contextmanager
def calls(unit: Unit, names: str) -> Iterator[Callable[[], list[str]]]:
    """Watch the main process's threads; yields what returns their calls of these names since then, one line each, as
    strace writes them.

    Unavailable without strace, or where it may not trace. A call through io_uring(7) is none that can be seen.
    """
    pid = _pid(unit)
    with _strace(unit.machine, pid, "--follow-forks", f"--trace={names}") as (strace, log):
        _await_tracer(unit, strace, pid)
        yield lambda: log.read_text(errors="replace").splitlines()


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
    _demand_strace()
    log = f"{machine.layout.state}/trace.log"
    traced = ("strace", *HOW, f"--output={log}", "--follow-forks", "--seccomp-bpf", f"--trace={names}", "--", *argv)
    properties = {
        "WorkingDirectory": directory,
        "NotifyAccess": "all",
        "RuntimeMaxSec": f"{most_secs:g}",
        # strace lets go of no process that it has seen begin.
        "TimeoutStopSec": "1",
    }
    told = [f"--property={name}={value}" for name, value in properties.items()]
    ended = machine.systemd_run(f"--unit={TRACER}", "--wait", "--collect", "--quiet", *told, *traced)
    seen = machine.run("cat", log).stdout
    machine.run("rm", "-f", log).expect(0)
    if not seen:
        raise Unavailable("strace may not trace here", "use PROOFS_SYSTEMD=private, as root")
    return ended.status, seen.splitlines()


@contextmanager
def standing_still(unit: Unit, thread: Thread) -> Iterator[Receipt]:
    """Let one thread of the main process stand still at its next system call, as in a call that does not return; the
    others go on. At the end it goes on too. Unavailable without strace, or where it may not trace."""
    with _strace(unit.machine, thread.id, "--trace=all", "--inject=all:delay_enter=3600s") as (strace, _):
        evidence = _await_tracer(unit, strace, _pid(unit), thread.id, "t (tracing stop)")
        yield Receipt("a thread stands still", f"{thread.name}: {evidence}")


def _demand_strace() -> None:
    # A machine has the programs of the computer that it is on.
    if shutil.which("strace") is None:
        raise Unavailable("strace is not installed", "apt-get install strace")


def _pid(unit: Unit) -> int:
    """Return its main process, as this process sees it. Refuted when there is none."""
    main = unit.show().main_pid
    if main == 0:
        raise unit.refuted("there is no main process to be watched")
    return unit.machine.pid_outside(main)


@contextmanager
def _strace(machine: Machine, thread: int, *flags: str) -> Iterator[tuple[Process, Path]]:
    """Yields strace, and the file that it writes."""
    _demand_strace()
    # Beside the machine as well: what lies in its directories can be seen there.
    with tempfile.TemporaryDirectory(prefix="proof-trace-") as directory:
        log = Path(directory, "calls")
        log.touch()
        strace = machine.start_outside("strace", *HOW, f"--output={log}", *flags, f"--attach={thread}")
        try:
            yield strace, log
        finally:
            strace.signal(signal.SIGTERM)
            if not strace.wait(END_SECS):
                strace.kill()


def _await_tracer(unit: Unit, strace: Process, pid: int, thread: int | None = None, state: str = "") -> str:
    """Wait until this thread of the process, or each of them, is traced, and is in this state if any."""

    def look() -> str | None:
        shown = []
        for status in Path(f"/proc/{pid}/task").glob(f"{'*' if thread is None else thread}/status"):
            with suppress(OSError):
                shown += re.findall(r"^(?:State|TracerPid):.*$", status.read_text(), re.MULTILINE)
        tracers = [line.split()[-1] for line in shown if line.startswith("TracerPid")]
        told = " ".join(" ".join(shown).split())
        done = bool(tracers) and "0" not in tracers and state in told
        if not done and not strace.alive:
            if _pid(unit) != pid:
                raise unit.refuted("its main process ended when it was to be watched")
            raise Unavailable("strace may not trace here", "use PROOFS_SYSTEMD=private, as root")
        return told if done else None

    return await_receipt(look, "strace to be there")
