"""What a service of ours is to systemd, to Prometheus and to whoever reads its log."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

from cysystemd.daemon import sd_notify  # type: ignore[attr-defined]
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, start_http_server
from prometheus_client.registry import Collector

from fleet.base.settings import ConfigError


class Log:
    """Lines on stderr. What is said again and again is said once, until something else happens to its subject."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._said: dict[str, str] = {}

    def say(self, text: str) -> None:
        """A line."""
        print(f"{self._program}: {text}", file=sys.stderr, flush=True)

    def state(self, subject: str, text: str) -> None:
        """What has become of something, unless that was said last of it; "" for well, which is said if it was not."""
        if self._said.get(subject, "") != text:
            self._said[subject] = text
            self.say(f"{subject}: {text or 'well again'}")


def notify(text: str) -> None:
    """Tell systemd (sd_notify(3)). Nobody may be listening."""
    # Without a socket, and with one that nobody is at, cysystemd complains.
    if "NOTIFY_SOCKET" in os.environ:
        with suppress(ValueError):
            sd_notify(text, False)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM, SIGINT and SIGHUP set."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Let `seconds` pass, or less when it is time to stop."""
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return


class Meters:
    """Makes the metrics of one program, which bear its name."""

    def __init__(self, program: str, registry: CollectorRegistry) -> None:
        """program: `relay`, for hybrid_relay_..."""
        self._prefix = f"hybrid_{program}_"
        self._registry = registry

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """A value that goes up and down."""
        return Gauge(f"{self._prefix}{name}", text, labels, registry=self._registry)

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """A value that goes up."""
        return Counter(f"{self._prefix}{name}", text, labels, registry=self._registry)


class _Named(Collector):
    """What a registry holds, with the engine's name as the label `engine` of each sample."""

    def __init__(self, registry: CollectorRegistry, engine: str) -> None:
        self._registry = registry
        self._label = {"engine": engine}

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one._replace(labels={**one.labels, **self._label}) for one in metric.samples]
            yield metric


def serve_metrics(registry: CollectorRegistry, port: int, engine: str = "") -> None:
    """Serve /metrics on loopback; nothing for port 0. engine: whom all of them are about, if it is one.

    Raises ConfigError for a port that cannot be had.
    """
    if port:
        shown = registry
        if engine:
            shown = CollectorRegistry()
            shown.register(_Named(registry, engine))
        try:
            start_http_server(port, "127.0.0.1", shown)
        except OSError as error:
            raise ConfigError(f"metrics_port = {port}: {error.strerror}") from error
