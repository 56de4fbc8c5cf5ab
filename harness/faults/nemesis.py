"""Faults, as context managers that undo themselves and hand out a receipt: evidence that the fault landed.

A fault that was not seen to land proves nothing about what withstands it, so no receipt means unproven: each
fault raises HarnessError when it cannot show that it is in effect. What each cannot do is said in its docstring.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.base import pressure
from harness.base.clock import Clock, OsClock, poll
from harness.base.errors import CommandFailed, HarnessError, Refuted, Unavailable
from harness.base.waiting import awaiting
from harness.faults.exchange import Exchange
from harness.machines.machine import Machine
from harness.machines.systemd import Unit

LAND_SECS = 10.0
"""How long a fault may take until it can be seen."""

HOG = "proof-hog.service"
"""The unit that loads the CPU."""


@dataclass(frozen=True)
class Receipt:
    """Evidence that a fault landed."""

    fault: str
    evidence: str
    """What was seen, in words a reader can check."""


@contextmanager
def paused(unit: Unit) -> Iterator[Receipt]:
    """Stop the unit's main process with SIGSTOP; continue it at the end, if it is still the same. Refuted when it ends
    meanwhile by itself.

    systemd goes on seeing an active unit: that is the point.
    """
    pid = unit.show().main_pid
    unit.kill("STOP")

    def stopped() -> str | None:
        seen = _stopped(unit.machine, pid)
        if seen is None and unit.show().main_pid != pid:
            raise unit.refuted("its main process ended when it was to be paused")
        return seen

    try:
        yield Receipt("pause", await_receipt(stopped, f"process {pid} to stop"))
    finally:
        if unit.show().main_pid == pid:
            try:
                unit.kill("CONT")
            except (CommandFailed, Refuted):
                # Somebody may have restarted it since that look.
                if unit.show().main_pid == pid:
                    raise


@contextmanager
def killed(unit: Unit) -> Iterator[Receipt]:
    """SIGKILL to the unit's main process, as the out-of-memory killer sends it. Cannot be undone."""
    pid = unit.show().main_pid
    unit.kill("KILL")
    yield Receipt("kill", await_receipt(lambda: _gone(unit, pid), f"process {pid} to die"))


@contextmanager
def disconnected(exchange: Exchange) -> Iterator[Receipt]:
    """Cut every connection once. Clients may come back at once."""
    cut = exchange.drop_clients()
    if not cut:
        raise _stays_away(exchange, "nobody was connected, so no connection was cut")
    yield Receipt("disconnect", f"{cut} connection(s) aborted")


@contextmanager
def half_open(exchange: Exchange) -> Iterator[Receipt]:
    """Freeze the present connections: TCP stays up and nothing is read or answered. New ones are fine."""
    frozen = exchange.freeze_clients()
    if not frozen:
        raise _stays_away(exchange, "nobody was connected, so no connection is half-open")
    yield Receipt("half-open", f"{frozen} connection(s) frozen")


@contextmanager
def unreachable(exchange: Exchange) -> Iterator[Receipt]:
    """Cut every connection and close the port: the kernel refuses whoever connects. Opens it again at the end."""
    exchange.close_port()
    try:
        with socket.socket() as probe:
            refused = probe.connect_ex(("127.0.0.1", exchange.port))
        if refused != errno.ECONNREFUSED:
            raise HarnessError(f"port {exchange.port} answers {errno.errorcode.get(refused, refused)}")
        yield Receipt("refuse", f"port {exchange.port}: {os.strerror(refused)}")
    finally:
        exchange.open_port()


@contextmanager
def unanswered(exchange: Exchange) -> Iterator[Receipt]:
    """While it is unreachable, have somebody listen at its port who says nothing: who connects waits for an upgrade."""
    with socket.create_server(("127.0.0.1", exchange.port)), socket.socket() as probe:
        probe.settimeout(LAND_SECS)
        probe.connect(("127.0.0.1", exchange.port))
        yield Receipt("no answer", f"port {exchange.port} is connected to, and nobody reads")


@contextmanager
def silent(exchange: Exchange) -> Iterator[Receipt]:
    """A feed that brings nothing any more, over connections that are up and answer pings. Undone at the end."""
    exchange.mute(True)
    try:
        # What was on its way when it was muted may still go out.
        before = exchange.sent
        await_receipt(lambda: "quiet" if exchange.sent == before else None, "the feed to fall silent")
        yield Receipt("silence", f"{exchange.sent} ticks sent, and no more")
    finally:
        exchange.mute(False)


@contextmanager
def garbage(exchange: Exchange, messages: Sequence[str | bytes]) -> Iterator[Receipt]:
    """Send every client what it cannot understand, once."""
    before = exchange.sent_raw
    exchange.send_raw(messages)
    sent = exchange.sent_raw - before
    if not sent:
        raise _stays_away(exchange, "nobody was connected, so nobody got any garbage")
    yield Receipt("garbage", f"{sent} messages sent")


@contextmanager
def slow(exchange: Exchange, seconds: float) -> Iterator[Receipt]:
    """Answer handshakes so late, and cut who is connected, so that there is one. At once again at the end."""
    before = exchange.late_handshakes
    exchange.delay_handshakes(seconds)
    exchange.drop_clients()

    def late() -> str | None:
        count = exchange.late_handshakes - before
        return f"{count} handshake(s) answered after {seconds:g} s" if count else None

    try:
        yield Receipt("slow server", _await_client(exchange, late, f"a handshake that takes {seconds:g} s"))
    finally:
        exchange.delay_handshakes(0.0)


@contextmanager
def refusing(exchange: Exchange, status: int, headers: dict[str, str] | None = None) -> Iterator[Receipt]:
    """Answer handshakes with an HTTP error, and cut who is connected. Lets clients in again at the end."""
    before = len(exchange.refusals)
    exchange.refuse(status, headers)
    exchange.drop_clients()

    def refused() -> str | None:
        count = len(exchange.refusals) - before
        return f"{count} handshake(s) got HTTP {status}" if count else None

    try:
        yield Receipt("refuse", _await_client(exchange, refused, f"a handshake to be refused with {status}"))
    finally:
        exchange.refuse(None)


@contextmanager
def locked(database: Path) -> Iterator[Receipt]:
    """Hold the database's write lock, as a stuck backup or a forgotten shell does. Readers still read."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=LAND_SECS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            refused = refusal(database, "BEGIN IMMEDIATE")
            if refused is None:
                raise HarnessError(f"{database} takes a second writer: it is not locked")
            yield Receipt("lock", f"another writer is told: {refused}")
        finally:
            connection.execute("ROLLBACK")


@contextmanager
def held(database: Path) -> Iterator[Receipt]:
    """Hold a database that nobody has open, as a restore does: others can neither write nor read it."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=LAND_SECS)) as connection:
        # In WAL mode readers are kept out only by who asks for this before anything else.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        try:
            refused = refusal(database, "SELECT count(*) FROM sqlite_master")
            if refused is None:
                raise HarnessError(f"{database} can be read: it is not held")
            yield Receipt("hold", f"another reader is told: {refused}")
        finally:
            connection.execute("ROLLBACK")


def refusal(database: Path, sql: str, patience_secs: float = 0.0) -> str | None:
    """Return what SQLite says to somebody else who asks this and is so patient; None when it does as it is asked."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=patience_secs)) as other:
        try:
            other.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            return str(error)
    return None


@contextmanager
def small_disk(machine: Machine, directory: str, size: str) -> Iterator[None]:
    """Put a tiny file system over `directory` of the machine. Units see it when they start."""
    machine.run("mkdir", "-p", directory).expect(0)
    mounted = machine.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", directory)
    if mounted.status != 0:
        raise Unavailable(f"a tiny disk cannot be mounted: {mounted.stderr.strip()}", "use a private machine, as root")
    try:
        yield
    finally:
        # Lazily: a unit that was not stopped in time may still hold a file there.
        machine.run("umount", "--lazy", directory).expect(0)


@contextmanager
def full_disk(machine: Machine, directory: str) -> Iterator[Receipt]:
    """Fill a small_disk to the last byte; at the end there is as much room as before."""
    filler = f"{directory}/filler"
    try:
        # dd ends with an error when the disk is full, which is what it is for.
        machine.run("dd", "if=/dev/zero", f"of={filler}", "bs=1k").expect(1)
        left = machine.run("df", "--output=avail", directory).expect(0).stdout.split()[-1]
        if left != "0":
            raise HarnessError(f"{directory} still has {left} kB")
        yield Receipt("full disk", f"{directory}: 0 kB available")
    finally:
        machine.run("rm", "-f", filler).expect(0)


@contextmanager
def broken_pressure(machine: Machine) -> Iterator[Receipt]:
    """Take the kernel's CPU pressure from what starts in the machine from now on: its file is empty."""
    if machine.kind != "private":
        raise Unavailable(
            "the pressure of a computer that others use stays as it is", "use PROOFS_SYSTEMD=private, as root"
        )
    file = "/proc/pressure/cpu"
    mounted = machine.run("mount", "--bind", "/dev/null", file)
    if mounted.status != 0:
        raise Unavailable(f"PSI cannot be broken: {mounted.stderr.strip()}", "use a private machine, as root")
    try:
        text = machine.run("cat", file).expect(0).stdout
        if text:
            raise HarnessError(f"{file} can still be read: {text}")
        yield Receipt("broken PSI", f"{file} is empty")
    finally:
        machine.run("umount", file).expect(0)


@contextmanager
def cpu_load(machine: Machine, *, hogs: int = 4, idle: bool = False, above: float | None = None) -> Iterator[Receipt]:
    """Busy loops in a unit of their own.

    idle: as a caged neighbour (CPUQuota= needs cgroup controllers that not every computer has). Where the kernel shares
    the processor between sessions first (sched(7), autogroup), CPUSchedulingPolicy=idle ranks a loop among its own
    only, so its session is put last as well. above: when given, wait until the kernel's own CPU pressure, some avg10,
    is higher than that percentage of stall time; the average moves slowly, so 20 % takes about 4 s.
    """
    policy = ["--property=CPUSchedulingPolicy=idle"] if idle else []
    last = "test ! -e /proc/self/autogroup || echo 19 >/proc/self/autogroup; " if idle else ""
    loops = " ".join(["while :; do :; done &"] * hogs)
    machine.systemd_run(f"--unit={HOG}", "--collect", *policy, "sh", "-c", f"{last}{loops} wait").expect(0)
    try:
        if above is None:
            evidence = await_receipt(lambda: _busy(machine, HOG), "the hog to run")
        else:
            evidence = await_receipt(lambda: _pressed(above), f"CPU pressure above {above:g} %", deadline_secs=30.0)
        yield Receipt("idle CPU load" if idle else "CPU load", evidence)
    finally:
        machine.systemctl("stop", HOG)


@dataclass(frozen=True)
class Contention:
    """What the CPU load has had of the processor since it was started, in seconds."""

    used: float
    waited: float
    """While some of its loops wanted the processor and did not have it: others used it."""


def contention(machine: Machine) -> Contention:
    """Return how the CPU load fares, from the accounts of its cgroup. Unavailable where the kernel keeps none."""
    find = f"cat $(find /sys/fs/cgroup -path '*/{HOG}/cpu.stat' -o -path '*/{HOG}/cpu.pressure')"
    words = dict(re.findall(r"(usage_usec|some .*total)[ =](\d+)", machine.run("sh", "-c", find).stdout))
    used = words.pop("usage_usec", None)
    waited = next(iter(words.values()), None)
    if used is None or waited is None:
        raise Unavailable("the kernel keeps no CPU accounts of a unit", "boot with cgroup v2 and PSI")
    return Contention(int(used) / 1e6, int(waited) / 1e6)


def _stopped(machine: Machine, pid: int) -> str | None:
    status = machine.run("grep", "^State", f"/proc/{pid}/status").stdout.strip()
    return f"process {pid}: {status}" if "T (stopped)" in status else None


def _gone(unit: Unit, pid: int) -> str | None:
    return f"process {pid} is gone" if unit.show().main_pid != pid else None


def _busy(machine: Machine, name: str) -> str | None:
    shown = machine.systemctl("show", name, "--property=CPUUsageNSec,ActiveState").stdout
    return shown.replace("\n", " ").strip() if "ActiveState=active" in shown else None


def _pressed(above: float) -> str | None:
    reading = pressure.parse({name: Path(f"/proc/pressure/{name}").read_text() for name in pressure.RESOURCES})
    if isinstance(reading, pressure.Unknown):
        raise Unavailable(f"pressure is unknown: {reading.reason}", "boot a kernel with CONFIG_PSI=y and psi=1")
    some = reading.some("cpu")
    return f"/proc/pressure/cpu: some avg10={some:g}" if some > above else None


def _await_client(exchange: Exchange, look: Callable[[], str | None], what: str) -> str:
    """As await_receipt, for a fault that needs a client."""
    try:
        return await_receipt(look, what)
    except HarnessError as error:
        raise _stays_away(exchange, str(error)) from error


def _stays_away(exchange: Exchange, what: str) -> Exception:
    """Return the fault of a client that was there and is no more; of one that never came, nobody's."""
    return exchange.refuted(what) if exchange.connections else HarnessError(what)


def await_receipt(look: Callable[[], str | None], what: str, deadline_secs: float = LAND_SECS) -> str:
    """Return the evidence that a fault landed, once `look` has any. HarnessError when it never has."""
    clock: Clock = OsClock()
    with awaiting(what):
        evidence = poll(look, clock, deadline_secs)
    if evidence is None:
        raise HarnessError(f"the fault did not land: waited {deadline_secs:g} s for {what}")
    return evidence
