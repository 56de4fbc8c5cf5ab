"""Three nats-servers keep one stream; whichever leads it is killed, again and again, in full flow (contract F1).

Not collected by name, since each election takes some seconds. PROOFS_LEADER_KILLS says how often (20).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import nats
import pytest

from fleet.base import wire
from proofs.fixtures.fleet_parts import NatsServer, Program, free_port, growing, wait
from proofs.fleet.test_relay import expect_once

KILLS = int(os.environ.get("PROOFS_LEADER_KILLS", "20"))

ONCE: dict[str, Any] = {
    "allow_reconnect": False,
    "connect_timeout": 2,
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0,
}
"""Whoever is dead is not waited for."""


def cluster(directory: Path) -> list[NatsServer]:
    """Three servers that know each other; none runs yet."""
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f"nats-route://127.0.0.1:{port}" for port in ports)
    found = []
    for number, port in enumerate(ports):
        place = directory / f"server-{number}"
        place.mkdir()
        listen = f'listen: "127.0.0.1:{port}", routes: [{routes}]'
        found.append(NatsServer(place, f'server_name: "{number}"\ncluster {{ name: "proof", {listen} }}\n'))
    return found


def stand(servers: list[NatsServer]) -> tuple[int, int] | None:
    """Who leads the stream, and how many messages it has; None while nobody leads."""

    async def ask(url: str) -> tuple[int, int] | None:
        client = await nats.connect(url, **ONCE)
        try:
            info = await client.jetstream().stream_info("HYBRID")
        finally:
            await client.close()
        leader = info.cluster.leader if info.cluster is not None else None
        return None if leader is None else (int(leader), info.state.messages)

    for server in servers:
        try:
            return asyncio.run(ask(server.url))
        except (nats.errors.Error, TimeoutError, OSError):
            continue
    return None


@pytest.mark.claim("F1")
def test_killed_leaders_of_a_stream_lose_and_repeat_nothing(tmp_path: Path) -> None:
    servers = cluster(tmp_path)
    config = {"instance": "one", "database": str(tmp_path / "bot.db"), "metrics_port": 0, "poll_secs": 0.02,
              "batch_rows": 50, "stream": {"max_bytes": 1 << 28, "replicas": 3},
              "nats": {"servers": [server.url for server in servers]}}  # fmt: skip
    relay = Program(tmp_path, "relay", config)
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.end)
            server.start()
        ledger = stack.enter_context(growing(tmp_path / "bot.db", seed=3))
        stack.callback(relay.end)
        relay.start()
        ledger.start(ticks=10, every_secs=0.05)
        for _ in range(KILLS):
            leader, before = wait(lambda: stand(servers), f"a leader: {relay.said[-300:]}", 60)
            servers[leader].end()

            def going_on(before: int = before) -> bool:
                return (stand(servers) or (0, 0))[1] > before + 5

            wait(going_on, f"messages under another leader: {relay.said[-300:]}", 60)
            servers[leader].start()
        ledger.stop()
        with closing(sqlite3.connect(ledger.path)) as connection:
            (due,) = connection.execute("SELECT max(id) FROM ticks").fetchone()
        wait(lambda: f"ticks up to {due}" in last_tick(servers), f"all {due} ticks: {relay.said[-300:]}", 60)
        assert relay.end(signal.SIGTERM) == 0
        expect_once(servers[0], ledger.path)


def last_tick(servers: list[NatsServer]) -> str:
    """How far the stream has come with ticks, in words."""

    async def ask(url: str) -> str:
        client = await nats.connect(url, **ONCE)
        try:
            found = await client.jetstream().get_last_msg("HYBRID", "hybrid.one.ticks")
        finally:
            await client.close()
        return f"ticks up to {wire.decode(found.data or b'', 'hybrid.one.ticks').end['id']}"

    try:
        return asyncio.run(ask(servers[0].url))
    except (nats.errors.Error, TimeoutError, OSError) as error:
        return repr(error)
