"""What venues and strangers do to the installed unit: say wait, drop, and never read (B4, N5, N15)."""

from __future__ import annotations

import re
import socket
import time

import pytest

from harness.base.waiting import awaiting
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.raw_server import PING, flood, frame, raw_server, until_closed, upgrade

MIB = 1024 * 1024


def trade(number: int) -> bytes:
    """A tick of contract N3, in a frame."""
    return frame(f'{{"event_id": {number}, "symbol": "A/B", "price": 1.5, "volume": 1, "ts": 1700000000000}}')


def configure(engine: EngineUnit, url: str, **options: object) -> None:
    feed = {"ingest_mode": "MOCK_WS", "ws_url": url, "max_backoff_secs": 0.1, "heartbeat_interval_secs": 0.1}
    engine.configure({"engine": {**feed, **options}, "persist": {"flush_interval_ms": 10}})


@pytest.mark.slow
@pytest.mark.claim("N5", "M4", "E3")
def test_a_bar_is_shown_and_outlasts_restarts(engine: EngineUnit, exchange: Exchange) -> None:
    """`systemctl status` says until when; systemd restarts the engine again and again, and the venue hears nothing."""
    exchange.refuse(429, {"Retry-After": "7200"})
    configure(engine, exchange.url, network_give_up_secs=0.5)
    engine.try_start()
    engine.wait_log("connection failed", lambda entry: entry.fields.get("http_status") == 429)
    engine.wait_log("told to wait longer than max_retry_after_secs")
    engine.wait_restarts(2)
    engine.wait("a run that knows of the bar", lambda entry: entry.event.startswith("barred until "))
    engine.expect(len(exchange.refusals) == 1, f"the venue was contacted {len(exchange.refusals)} times")
    engine.down()
    configure(engine, exchange.url)
    engine.start()
    status = engine.property("StatusText")
    engine.expect(
        re.search(r"barred until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ: HTTP 429", status) is not None,
        f"the status does not say so: {status}",
    )


@pytest.mark.slow
@pytest.mark.claim("N15")
def test_a_venue_that_delivers_and_drops_is_reconnected_to_at_an_even_pace(engine: EngineUnit) -> None:
    """At a budget of 60 a minute, a second after the connection before began."""
    began: list[float] = []

    def script(client: socket.socket, number: int) -> None:
        began.append(time.monotonic())
        upgrade(client, and_then=trade(number))
        if number >= 3:
            until_closed(client)

    with raw_server(script) as server:
        configure(engine, server.url, max_connects_per_minute=60)
        engine.start()
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields.get("reconnects") == 3)
        engine.stop()
    took = began[3] - began[0]
    engine.expect(took > 2.0, f"connected again after {took / 3:.2f} s")


@pytest.mark.slow
@pytest.mark.claim("B4")
def test_a_peer_that_never_reads_is_left(engine: EngineUnit) -> None:
    """Pings without end, whose pongs it does not read: the connection is closed and counted, and the log says why."""

    def script(client: socket.socket, number: int) -> None:
        if number:
            upgrade(client, and_then=trade(number))
            until_closed(client)
        else:
            upgrade(client)
            flood(client, frame(b"x" * 125, PING) * 500, 100 * MIB)

    with raw_server(script) as server, awaiting("the end of the pings"):
        configure(engine, server.url)
        engine.start()
        engine.wait_log("connection lost", lambda entry: "the peer reads nothing" in entry.fields["reason"])
        engine.wait_ticks(1)
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields.get("connections_unbounded") == 1)
        engine.stop()
