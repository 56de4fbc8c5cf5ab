"""Hosts that are network namespaces, on a switch that is a bridge.

All of it is made inside of namespaces of our own (network, mounts, processes), which end with the process that made
them, whatever ends that: no interface, route or process of the computer is touched, and none is left behind.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.base.errors import Unavailable
from proofs.fixtures.fleet_parts import Place, tool

NETWORK = "10.77.0"
"""First three numbers of all addresses. It is nobody's: the namespace has no way out."""

NAMESPACES = Path("/run/netns")
"""Where ip(8) looks for them."""


def own_namespaces() -> list[str]:
    """What stands before a command to run it where hosts can be made, with all that it starts ending with it. Raises
    Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("network namespaces need root", "sudo make fleet-sim")
    tool("ip")
    argv = [tool("unshare"), "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    tried = subprocess.run([*argv, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Unavailable(f"no namespaces here: {tried.stderr.strip()}", "a computer or container with CAP_SYS_ADMIN")
    return argv


class Switch:
    """A bridge, and the hosts on it. Made inside of own_namespaces() alone."""

    def __init__(self, hosts: int) -> None:
        # Of our own mounts; nothing of the computer's /run is needed by what is started here.
        _run("mount", "-t", "tmpfs", "tmpfs", "/run")
        _ip("link set lo up")
        _ip("link add switch type bridge")
        _ip(f"address add {NETWORK}.254/24 dev switch")
        _ip("link set switch up")
        self.places = [self._host(number) for number in range(1, hosts + 1)]

    def _host(self, number: int) -> Place:
        name, address = f"host-{number}", f"{NETWORK}.{number}"
        _ip(f"netns add {name}")
        _ip(f"link add {name} type veth peer name eth0 netns {name}")
        _ip(f"link set {name} master switch up")
        _ip(f"-n {name} address add {address}/24 dev eth0")
        _ip(f"-n {name} link set eth0 up")
        _ip(f"-n {name} link set lo up")
        return Place(address, (tool("nsenter"), f"--net={NAMESPACES / name}"))

    @contextmanager
    def cut_off(self, host: int) -> Iterator[None]:
        """Nothing reaches the host of this index or comes from it, and nobody is told: a cable is out further on."""
        name = f"host-{host + 1}"
        _ip(f"link set {name} nomaster")
        try:
            yield
        finally:
            _ip(f"link set {name} master switch")


def _ip(command: str) -> None:
    _run(tool("ip"), *command.split())


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)}: {done.stderr.strip()}", "a computer or container with CAP_NET_ADMIN")
