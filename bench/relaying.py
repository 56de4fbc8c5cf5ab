"""The relay with a stop watch: a ledger full of rows -> a real nats-server on loopback. Not an engine.

What is measured is the relay's own processor time: on most hosts the server has another processor, or is elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from bench import subject
from fleet.base import link
from fleet.base.service import Log
from fleet.base.settings import Nats, RelaySettings, Stream
from fleet.relay.relay import Relay, make_stream
from harness.base.clock import OsClock
from harness.machines import tools

STUCK_SECS = 30.0
"""A relay that has published nothing for so long has failed."""

LAST = ("chrt", "--idle", "0")
"""Run when nobody else wants the processor: the relay as its unit does, the server because most have it elsewhere."""

STREAM = Stream(replicas=1, max_age_hours=24, max_bytes=1 << 30)


@dataclass(frozen=True)
class Relayed:
    """What a run came to."""

    rows: int
    secs: float
    cpu_secs: float


@contextmanager
def _stream(directory: Path) -> Iterator[str]:
    """A nats-server; its URL. Raises Unavailable without one."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = directory / "nats.conf"
    config.write_text(f'host: "127.0.0.1"\nport: {port}\njetstream {{ store_dir: "{directory}/jetstream" }}\n')
    argv = [*LAST, tools.need("nats-server"), "--config", str(config)]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def relay(database: Path, directory: Path) -> Relayed:
    """Publish all of `database`, which nobody writes to. Raises Unavailable without a nats-server."""
    with _stream(directory) as url:
        return asyncio.run(_relay(database, url))


@contextmanager
def beside(database: Path, directory: Path) -> Iterator[None]:
    """`hybrid-relay` as its unit runs it, on a ledger that an engine is about to make, with a nats-server. Raises
    OSError without one, and SubjectFailed at the end when it has published nothing."""
    config, log = directory / "relay.toml", directory / "relay.log"
    with _stream(directory) as url:
        config.write_text(
            f'instance = "bench"\ndatabase = "{database}"\nmetrics_port = 0\n[nats]\nservers = ["{url}"]\n'
        )
        argv = [*LAST, sys.executable, "-m", "fleet.relay.command", "--config", str(config)]
        with log.open("wb") as output:
            process = subprocess.Popen(argv, cwd=subject.ROOT, env=subject.environment({}), stderr=output)
        try:
            _wait(url, 0, log)
            yield
            _wait(url, 1, log)
        finally:
            process.kill()
            process.wait()


def _wait(url: str, messages: int, log: Path) -> None:
    """Until the stream is there and has so many. Raises SubjectFailed."""
    deadline = time.monotonic() + STUCK_SECS
    while asyncio.run(_messages(url)) < messages:
        if time.monotonic() > deadline:
            raise subject.SubjectFailed(f"the relay published nothing: {subject.tail(log)}")
        time.sleep(subject.LOOK_SECS)


async def _messages(url: str) -> int:
    """How many the stream has; -1 while there is none."""
    settings = Nats((url,), "HYBRID", "", None, None)
    client = await link.connect(settings, "bench", Log("bench"), asyncio.Event())
    assert client is not None, "nobody has stopped it"
    try:
        return (await link.jetstream(client).stream_info("HYBRID")).state.messages
    except link.TROUBLE:
        return -1
    finally:
        await client.close()


async def _relay(database: Path, url: str) -> Relayed:
    settings = RelaySettings(
        instance="bench", database=database, decision_log=None, journal_unit="", tick_every=1, poll_secs=0.25,
        batch_rows=500, metrics_port=0, nats=Nats((url,), "HYBRID", "", None, None), stream=STREAM,
    )  # fmt: skip
    registry = CollectorRegistry()
    found = Relay(settings, [], OsClock(), Log("bench"), registry)
    client = await link.connect(settings.nats, "bench", Log("bench"), asyncio.Event())
    assert client is not None, "nobody has stopped it"
    stream = link.jetstream(client)
    await make_stream(stream, "HYBRID", STREAM)
    started, cpu = time.perf_counter(), time.process_time()
    while await found.round(stream):
        pass
    secs, cpu_secs = time.perf_counter() - started, time.process_time() - cpu
    await client.close()
    rows = registry.get_sample_value("hybrid_relay_rows_total", {"table": "ticks"}) or 0
    return Relayed(int(rows), secs, cpu_secs)
