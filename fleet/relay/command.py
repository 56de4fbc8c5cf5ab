"""`hybrid-relay`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from fleet.base import program
from fleet.base.service import Log, serve_metrics
from fleet.base.settings import ConfigError, RelaySettings, load_relay
from fleet.relay.files import DecisionsTail, HeartbeatsTail
from fleet.relay.relay import FileTail, Relay
from fleet.relay.tails import LedgerChanged
from harness.base import terminal
from harness.base.clock import OsClock
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell

ABOUT = "Publishes what is new in one engine's ledger to NATS JetStream, each row exactly once. It never writes."


async def serve(settings: RelaySettings, log: Log, stopping: asyncio.Event) -> None:
    """Relay until it is time to stop. Raises ConfigError and LedgerChanged."""
    registry = CollectorRegistry()
    serve_metrics(registry, settings.metrics_port, settings.instance)
    clock = OsClock()
    files: list[FileTail] = []
    if settings.decision_log is not None:
        files.append(DecisionsTail(settings.decision_log))
    if settings.journal_unit:
        files.append(HeartbeatsTail(Shell(Unrecorded(), clock), settings.journal_unit, clock))
    await Relay(settings, files, clock, log, registry).run(stopping)


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run hybrid-relay; returns its exit status."""
    options = program.parser("hybrid-relay", ABOUT, Path("/etc/hybrid-engine/relay.toml")).parse_args(argv)
    return program.run("hybrid-relay", options, load_relay, serve, (ConfigError, LedgerChanged))


if __name__ == "__main__":
    sys.exit(main())
