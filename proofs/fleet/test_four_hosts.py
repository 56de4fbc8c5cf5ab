"""docs/fleet.md, "From one host to four": all that stands there, typed into four machines (contract F11)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import distribution
from pathlib import Path

import pytest

from harness.base.clock import OsClock, poll
from harness.base.errors import Unavailable
from harness.evidence.shell import Shell
from harness.machines.machine import Machine, PrivateMachine, why_not_private
from harness.machines.stage import Stage
from proofs.fixtures.fleet_parts import tool
from proofs.fixtures.fleet_servers import EXTRA

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("host-1", "host-2", "host-3", "host-4")
NETWORK = "10.77.0"
COPIED = {
    "host-2": ("acct-2.password", "nats-users.conf"),
    "host-3": ("acct-3.password", "nats-users.conf", "collector.password", "postgres.password"),
    "host-4": ("acct-4.password", "collector.password", "postgres.password"),
}
"""What the document says is copied to whom, beside certificates."""

ASK = "runuser -u postgres -- psql -At hybrid -c"


def section() -> str:
    text = (ROOT / "docs" / "fleet.md").read_text()
    return text.partition("\n## From one host to four\n")[2].partition("\n## ")[0]


def steps() -> list[tuple[Sequence[str], str]]:
    """(hosts, commands), in order."""
    found: list[tuple[Sequence[str], str]] = []
    for where, commands in re.findall(r"^On (.+?):\n\n```sh\n(.*?)^```$", section(), re.MULTILINE | re.DOTALL):
        found.append((HOSTS if where == "every host" else re.findall(r"host-\d", where), commands))
    return found


def test_every_command_of_the_section_is_of_some_host() -> None:
    blocks = re.findall(r"^```\w+\n", section(), re.MULTILINE)
    assert len(steps()) == len(blocks) > 5
    assert all(hosts for hosts, _ in steps())


@contextmanager
def network(count: int) -> Iterator[list[Path]]:
    """So many network namespaces, with addresses from NETWORK.1 on, that reach each other and nothing else. They are
    held by processes that end with this one."""
    with ExitStack() as stack:
        held = []
        for _ in range(count + 1):
            holder = subprocess.Popen(
                [tool("unshare"), "--net", tool("setpriv"), "--pdeathsig", "KILL", "sh", "-c", "echo held; exec cat"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            stack.callback(holder.wait)
            stack.callback(holder.kill)
            assert holder.stdout is not None
            if holder.stdout.readline() != b"held\n":
                raise Unavailable("no network namespaces here", "a computer or container with CAP_SYS_ADMIN")
            held.append(holder.pid)
        switch, *hosts = held

        def ip(pid: int, *argv: str) -> None:
            subprocess.run([tool("nsenter"), "-t", str(pid), "--net", tool("ip"), *argv], check=True)

        ip(switch, "link", "add", "switch", "type", "bridge")
        ip(switch, "link", "set", "switch", "up")
        for number, pid in enumerate(hosts, start=1):
            ip(switch, "link", "add", f"port-{number}", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
            ip(switch, "link", "set", f"port-{number}", "master", "switch", "up")
            ip(pid, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            ip(pid, "link", "set", "eth0", "up")
            ip(pid, "link", "set", "lo", "up")
        yield [Path(f"/proc/{pid}/ns/net") for pid in hosts]


@pytest.fixture
def with_fleet(proof_stage: Stage | None, tmp_path: Path) -> list[tuple[Path, str]]:
    """What `make install FLEET=1` installs, for machines."""
    reason = why_not_private()
    if reason is not None or proof_stage is None:
        raise reason or Unavailable("there is no installation", "run this in a checkout")
    tool("nats-server")
    if not list(Path("/etc/postgresql").glob("*/main")):
        raise Unavailable("there is no PostgreSQL as Debian installs it", "make fleet-tools")
    prefix = tmp_path / "prefix"
    shutil.copytree(proof_stage.prefix, prefix, symlinks=True)
    (site,) = prefix.glob("lib/python3*/site-packages")
    for name in EXTRA:
        found = distribution(name)
        for top in {Path(file).parts[0] for file in found.files or ()} - {".."}:
            source = Path(str(found.locate_file(top)))
            if source.is_dir():
                shutil.copytree(source, site / top, dirs_exist_ok=True)
    return [(prefix, target) if target == "/opt/hybrid-engine" else (source, target)
            for source, target in proof_stage.binds()]  # fmt: skip


@pytest.fixture
def machines(
    with_fleet: list[tuple[Path, str]], proof_shell: Shell, proof_stage: Stage
) -> Iterator[dict[str, PrivateMachine]]:
    """Four computers of their own on one network, with an installation each."""
    with ExitStack() as stack:
        found: dict[str, PrivateMachine] = {}
        for host, place in zip(HOSTS, stack.enter_context(network(len(HOSTS))), strict=True):
            machine = PrivateMachine(proof_shell, with_fleet, f"proof-{os.getpid()}-{host}", network=place)
            stack.callback(machine.halt)
            machine.boot()
            machine.run("hostname", host).expect(0)
            shutil.copytree(proof_stage.etc, machine.path("/etc/hybrid-engine"), dirs_exist_ok=True)
            found[host] = machine
        yield found


def copy(machines: dict[str, PrivateMachine]) -> None:
    """As an operator does between two steps."""
    for host, names in COPIED.items():
        target = machines[host].path("/root/fleet")
        target.mkdir(mode=0o700, exist_ok=True)
        for name in ("ca.pem", f"{host}.pem", f"{host}.key", *names):
            shutil.copy(machines["host-1"].path(f"/root/fleet/{name}"), target / name)


def said(machine: Machine) -> str:
    """The end of what the fleet's units have to say."""
    units = [part for name in ("nats-server", "hybrid-relay", "hybrid-collector") for part in ("-u", name)]
    return machine.run("journalctl", "--no-pager", "--output=cat", "--lines=8", *units).stdout


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.claim("F11")
def test_what_the_document_says_makes_one_fleet_of_four_hosts(machines: dict[str, PrivateMachine]) -> None:
    clock = OsClock()
    database = machines["host-4"]
    for number, (hosts, commands) in enumerate(steps()):
        for host in hosts:
            done = machines[host].run("sh", "-euc", commands, timeout_secs=120)
            told = [said(machine) for machine in machines.values()]
            assert done.status == 0, f"step {number} on {host} ended with {done.status}: {done.stderr}\n{told}"
        if "ca.key" in commands:
            copy(machines)

    def collected(sql: str) -> str:
        return database.run("sh", "-c", f'{ASK} "{sql}"').stdout.strip()

    names = "acct-1\nacct-2\nacct-3\nacct-4"
    sql = "SELECT DISTINCT instance FROM hybrid.ticks ORDER BY 1"
    came = poll(lambda: collected(sql) == names or None, clock, 60.0)
    told = [said(machine) for machine in machines.values()]
    assert came, f"only {collected(sql)!r} came: {told}"
    assert collected("SELECT count(*) FROM hybrid.breaks") == "0"
