"""`hybrid-dashboard`: where it listens, and how it ends. What it serves is in harness/dashboard/web.py."""

from __future__ import annotations

import argparse
import asyncio
import errno
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

from harness.base import arguments, terminal
from harness.base.clock import OsClock
from harness.base.errors import HarnessError
from harness.dashboard import view_model, web
from harness.dashboard.collector import Collector, Places
from harness.dashboard.telemetry_store import KeptTelemetry, TelemetryStore
from harness.dashboard.view_model import Listen
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.observing import health, instances, observe
from harness.soak.exit_actions import EngineExitCode

UNTAKEN_MS = 5000
"""A client that has taken nothing for so long is cut off."""


class DashboardConfigError(HarnessError):
    """The configuration cannot be used, which no restart heals: exit status 12, as the engine's."""


def listen(wanted: Listen) -> socket.socket:
    """Open the listening socket.

    Raises DashboardConfigError for a host that is not one, and HarnessError for a port that is taken, which names the
    process that has it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise DashboardConfigError(f"dashboard.host = {wanted.host!r}: {error}") from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every accepted connection.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_MS)
        sock.bind(address)
        sock.listen(128)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise HarnessError(f"{wanted.host} port {wanted.port} is taken by {holder(wanted.port)}") from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise DashboardConfigError(f"dashboard.host = {wanted.host!r}: is no address of this computer") from error
        raise HarnessError(f"cannot listen on {wanted.host} port {wanted.port}: {error.strerror}") from error
    return sock


def holder(port: int) -> str:
    """Return who listens on a TCP port, for a human."""
    # Needed only when there is something to complain of.
    import psutil

    try:
        pids = {
            one.pid
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
        }
        for pid in pids:
            if pid is not None:
                process = psutil.Process(pid)
                return f"process {pid} of {process.username()}: {' '.join(process.cmdline()) or process.name()}"
    except psutil.Error:
        pass
    return f"a process that this user may not see; as root, `ss -ltnp sport = :{port}` names it"


def names_of(wanted: Listen, sock: socket.socket) -> frozenset[str]:
    """Return what the dashboard may be called in a Host header, beside the address a connection comes to: what the
    configuration calls it, localhost, and on a network also this computer's name."""
    names = {"localhost", wanted.host.lower()}
    if not is_loopback(sock):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def is_loopback(sock: socket.socket) -> bool:
    """Return whether only this computer reaches the socket."""
    return ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


# --- command line ------------------------------------------------------------------------------------------

DESCRIPTION = "Serve one live page about the engine, with /healthz and /metrics. Reads only, never writes."
EPILOG = """\
It listens where [dashboard] of the engine's configuration says (default 127.0.0.1:8501). There is no password: on
another host than loopback, everybody who reaches it can read. From elsewhere, a tunnel is better:
  ssh -L 8501:localhost:8501 the-host

Exit status: 0 stopped, 1 port taken or another fault, 12 a configuration that cannot be used.

examples:
  hybrid-dashboard
  hybrid-dashboard --config config/config.toml --db data/bot.db
  hybrid-dashboard --decision-log /var/lib/hybrid-soak/data/ops/soak_decisions.jsonl --reports reports
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The dashboard's options."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    instances.add_argument(
        parser, unit=lambda one: one.unit, config=lambda one: one.config, decision_log=lambda one: one.decision_log,
        reports=lambda one: one.evidence,
    )  # fmt: skip
    parser.add_argument("--unit", default=health.UNIT, help="the engine's unit (default: %(default)s)")
    parser.add_argument(
        "--config", type=Path, metavar="PATH",
        help=f"the engine's config (default: {health.CONFIG}, or the built-in defaults where there is none)",
    )  # fmt: skip
    parser.add_argument("--db", type=Path, metavar="PATH", help="its database (default: [app] db_path of the config)")
    parser.add_argument(
        "--decision-log", type=Path, default=Path("data/ops/soak_decisions.jsonl"), metavar="PATH",
        help="the soak's decisions, likewise (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), metavar="DIR",
        help="verdicts.json and buglog/ of the last proof run; of root or the user who runs this, not behind links "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR",
        help="where to keep what was observed (memory, pressure, rung, lag), so that a restart does not lose it "
        "(default: nowhere, in memory)",
    )  # fmt: skip
    parser.add_argument(
        "--pressure-dir", type=Path, default=observe.PRESSURE_DIR, metavar="DIR",
        help="directory of PSI files (default: %(default)s)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop, and return the exit status."""
    try:
        wanted = _wanted(options.config)
        with closing(listen(wanted)) as sock:
            if not is_loopback(sock):
                _say(f"warning: listens on {wanted.host}, not on loopback: everybody who reaches it can read, and "
                     "nothing is encrypted")  # fmt: skip
            places = Places(
                unit=options.unit,
                config=options.config or health.CONFIG,
                database=options.db.absolute() if options.db else None,
                decision_log=options.decision_log,
                reports=options.reports,
                pressure_dir=options.pressure_dir,
                buglog_url=web.BUGLOG_URL,
            )
            clock = OsClock()
            collector = Collector(places, wanted.refresh_secs, Shell(Unrecorded()), clock)
            host, port = sock.getsockname()[:2]
            _say(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
            store = TelemetryStore(options.state_dir.absolute()) if options.state_dir else None
            serving = web.serve(
                collector, sock, refresh_secs=wanted.refresh_secs, reports=options.reports,
                names=names_of(wanted, sock), telemetry=KeptTelemetry(store),
            )  # fmt: skip
            asyncio.run(serving)
    except DashboardConfigError as error:
        _say(str(error))
        return EngineExitCode.CONFIG
    except HarnessError as error:
        _say(str(error))
        return 1
    return 0


def _say(text: str) -> None:
    print(f"hybrid-dashboard: {text}", file=sys.stderr, flush=True)


def _wanted(config: Path | None) -> Listen:
    path = config or health.CONFIG
    if config is None and not path.exists():
        _say(f"warning: {path} does not exist: built-in defaults apply")
        return Listen()
    try:
        return view_model.listen_of(health.load_tables(path))
    except HarnessError as error:
        raise DashboardConfigError(str(error)) from error
    except ValueError as error:
        raise DashboardConfigError(f"{path}: {error}") from error


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """`hybrid-dashboard`."""
    parser = arguments.CommandParser(prog="hybrid-dashboard")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
