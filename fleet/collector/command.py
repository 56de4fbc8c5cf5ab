"""`hybrid-collector`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from fleet.base import program
from fleet.base.service import Log, serve_metrics
from fleet.base.settings import CollectorSettings, load_collector
from fleet.collector.collector import Collector
from harness.base import terminal
from harness.base.clock import OsClock

ABOUT = "Stores in PostgreSQL what relays have published to NATS JetStream, each row once."


async def serve(settings: CollectorSettings, log: Log, stopping: asyncio.Event) -> None:
    """Collect until it is time to stop. Raises ConfigError."""
    registry = CollectorRegistry()
    serve_metrics(registry, settings.metrics_port)
    await Collector(settings, OsClock(), log, registry).run(stopping)


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run hybrid-collector; returns its exit status."""
    options = program.parser("hybrid-collector", ABOUT, Path("/etc/hybrid-engine/collector.toml")).parse_args(argv)
    return program.run("hybrid-collector", options, load_collector, serve)


if __name__ == "__main__":
    sys.exit(main())
