"""What venues and strangers do to the installed unit: say wait, drop, and never read (B4, N5, N15)."""

from __future__ import annotations

import re
import socket
import struct
import time

import pytest

from harness.base.errors import Refuted
from harness.base.waiting import awaiting
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.raw_server import (
    CLOSE,
    PING,
    close_frame,
    flood,
    frame,
    raw_server,
    read_request,
    until_closed,
    upgrade,
)

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


ENDINGS = {
    **{
        f"close {code}": close_frame(code)
        for code in (1000, 1001, 1002, 1003, 1008, 1009, 1011, 1012, 1013, 3000, 4999)
    },
    "a reason": close_frame(1000, "bye " * 30),
    "no code": frame(b"", CLOSE),
    "half a code": frame(b"\x03", CLOSE),
    "a code that is none": close_frame(999),
    "no word": b"",
    "half a frame": frame("x" * 200)[:50],
    "half a head": frame("x" * 200)[:1],
}
"""What a peer says last, once the upgrade is made."""

ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"",
)
"""What a peer says instead of an upgrade."""


@pytest.mark.slow
@pytest.mark.claim("N3")
@pytest.mark.parametrize("reset", [False, True])
def test_however_a_connection_ends_the_next_is_tried(engine: EngineUnit, reset: bool) -> None:
    """reset: by the kernel's RST, not its FIN."""

    def script(client: socket.socket, number: int) -> None:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if number < len(ENDINGS):
            upgrade(client, and_then=list(ENDINGS.values())[number])
        elif number < len(ENDINGS) + len(ANSWERS):
            read_request(client)
            client.sendall(ANSWERS[number - len(ENDINGS)])
        else:
            upgrade(client, and_then=trade(number))
            until_closed(client)

    with raw_server(script) as server, awaiting("a peer that ended all connections but the last"):
        configure(engine, server.url, max_connects_per_minute=60_000)
        engine.start()
        try:
            engine.wait_ticks(1)
        except Refuted as refuted:
            ended = [*ENDINGS, *(f"instead of an upgrade: {answer!r}" for answer in ANSWERS)][: server.connections]
            raise Refuted(f"after {ended[-1:]} no connection came: {refuted}") from refuted
        engine.stop()
    engine.expect(engine.show().n_restarts == 0, "it was restarted meanwhile")
