"""The connection to NATS: given up soon once nothing comes over it, and never taken up again by itself (contract F3,
F4); and who hears a relay's and a collector's metrics (F6)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from fleet.base import link, service
from fleet.base.service import Log
from fleet.base.settings import Nats

GIVEN_UP_SECS = 15
"""After so long both ends of a connection to PostgreSQL give it up, and this one is no more patient."""


@pytest.mark.claim("F3", "F4")
def test_a_connection_over_which_nothing_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """And made anew by us: whoever connects asks the stream how far it has come."""
    told: dict[str, Any] = {}

    class Client:
        async def connect(self, servers: list[str], **options: Any) -> None:
            told.update(options, servers=servers)

    monkeypatch.setattr(link, "Client", Client)
    settings = Nats(("nats://a:1", "nats://b:1"), "HYBRID", "", None, None)
    client = asyncio.run(link.connect(settings, "relay", Log("relay"), asyncio.Event()))
    assert isinstance(client, Client)
    assert told["servers"] == ["nats://a:1", "nats://b:1"]
    assert told["ping_interval"] * (told["max_outstanding_pings"] + 1) <= GIVEN_UP_SECS
    assert told["connect_timeout"] <= GIVEN_UP_SECS
    assert told["allow_reconnect"] is False


@pytest.mark.claim("F3", "F4")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_signal_ends_a_service_in_order(signum: signal.Signals) -> None:
    async def scenario() -> bool:
        stopping = service.stop_on_signals()
        try:
            os.kill(os.getpid(), signum)
            async with asyncio.timeout(5.0):  # It comes with the next turn of the loop.
                return await stopping.wait()
        finally:
            for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                asyncio.get_running_loop().remove_signal_handler(one)

    before = signal.signal(signum, signal.SIG_IGN)
    try:
        assert asyncio.run(scenario())
    finally:
        signal.signal(signum, before)


@pytest.mark.claim("F6", "O13")
def test_metrics_are_for_this_computer_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service.serve_metrics(CollectorRegistry(), port)
    socket.create_connection(("127.0.0.1", port), timeout=5.0).close()
    # Of this computer too, but not the address that it is asked to listen at.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5.0)
