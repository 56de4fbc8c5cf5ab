"""What a service of ours is to systemd, to Prometheus and to whoever reads its log."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

from prometheus_client import CollectorRegistry, start_http_server

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
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(text.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
        except OSError:
            return


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


def serve_metrics(registry: CollectorRegistry, port: int) -> None:
    """Serve /metrics on loopback; nothing for port 0. Raises ConfigError for a port that cannot be had."""
    if port:
        try:
            start_http_server(port, "127.0.0.1", registry)
        except OSError as error:
            raise ConfigError(f"metrics_port = {port}: {error.strerror}") from error
