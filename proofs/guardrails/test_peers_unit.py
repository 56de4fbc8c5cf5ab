"""What venues and strangers do to the installed unit: say wait, drop, never read, and speak another protocol (B4, N3,
N5, N6, N15)."""

from __future__ import annotations

import itertools
import re
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from harness.base.clock import OsClock, poll
from harness.base.waiting import awaiting
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.raw_server import (
    PING,
    PONG,
    TRADE,
    RawServer,
    close_frame,
    flood,
    frame,
    frames_from,
    raw_server,
    read_request,
    until_closed,
    upgrade,
)

MIB = 1024 * 1024


def trade(number: int) -> bytes:
    """A tick of contract N3, in a frame."""
    return frame(TRADE.format(number))


def configure(engine: EngineUnit, url: str, **options: object) -> None:
    feed = {"ingest_mode": "MOCK_WS", "ws_url": url, "max_backoff_secs": 0.1, "heartbeat_interval_secs": 0.1}
    engine.configure({"engine": {**feed, **options}, "persist": {"flush_interval_ms": 10}})


@pytest.mark.slow
@pytest.mark.claim("N5", "M4", "E3")
def test_a_bar_is_shown_and_outlasts_restarts(engine: EngineUnit, exchange: Exchange) -> None:
    """`systemctl status` says until when; systemd restarts the engine again and again, and the venue hears nothing."""
    exchange.refuse(429, {"Retry-After": "7200"})
    configure(engine, exchange.url, network_give_up_secs=1.0)
    engine.try_start()
    engine.wait_log("connection failed", lambda entry: entry.fields.get("http_status") == 429)
    engine.wait_log("told to wait longer than max_retry_after_secs")
    for times in (1, 2):
        engine.wait_restarts(times)
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


WAIT_SECS = 7200


@pytest.mark.slow
@pytest.mark.claim("N5")
def test_however_a_wait_is_spelled_it_is_kept(engine: EngineUnit, exchange: Exchange) -> None:
    """Two hours, each time told to an engine that knows of no bar."""
    until = datetime.fromtimestamp(int(time.time()) + WAIT_SECS, UTC)
    spelled = (
        f"{WAIT_SECS}.5", f"5, {WAIT_SECS}", f"{until.timestamp():.0f}", f"{until.timestamp() * 1000:.0f}",
        format_datetime(until, usegmt=True), f"{until:%A, %d-%b-%y %H:%M:%S} GMT", f"{until:%a %b %d %H:%M:%S %Y}",
    )  # fmt: skip
    for number, header in enumerate(spelled, start=1):
        exchange.refuse(429, {"Retry-After": header})
        feed = {"ingest_mode": "MOCK_WS", "ws_url": exchange.url, "max_backoff_secs": 0.05}
        engine.configure({"app": {"db_path": f"data/{number}.db"}, "engine": feed})
        engine.start()
        engine.wait_log("told to wait longer than max_retry_after_secs")
        engine.stop()
        engine.expect(
            len(exchange.refusals) == number,
            f"Retry-After: {header}, and it came {len(exchange.refusals) - number} times too often",
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
@pytest.mark.claim("N15")
def test_a_venue_that_refuses_is_tried_within_its_budget(engine: EngineUnit) -> None:
    """However short a wait may be."""

    def script(client: socket.socket, _: int) -> None:
        answers("503 Service Unavailable")(client)

    with raw_server(script) as server:
        configure(engine, server.url, max_connects_per_minute=3, max_backoff_secs=0.05)
        engine.start()
        nth = itertools.count(1)
        engine.wait_log("connection failed", lambda _: next(nth) == 3)
        with awaiting("an attempt beyond the budget"):
            poll(lambda: True if server.connections > 3 else None, OsClock(), BUDGET_SECS)
        engine.expect(server.connections == 3, f"{server.connections} attempts within seconds, 3 a minute are allowed")


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
        engine.wait("the word that it was left", lambda entry: entry.event in NOT_CONNECTED)
        engine.wait_ticks(1)
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields.get("connections_unbounded") == 1)
        engine.stop()


BUDGET_SECS = 1.5
"""In which whoever keeps no budget tries many times."""

PIECES = 15
PIECE_SECS = 0.1


@pytest.mark.slow
@pytest.mark.claim("N6")
def test_a_peer_from_which_bytes_come_is_alive(engine: EngineUnit) -> None:
    """Though it never reads a ping: neither one that delivers, nor a message that takes its time."""
    message = frame(TRADE.format(PIECES)[:-1] + " " * 70_000 + "}")
    size = len(message) // PIECES + 1

    def script(client: socket.socket, _: int) -> None:
        upgrade(client)
        slowly = [message[at : at + size] for at in range(0, len(message), size)]
        for part in (*map(trade, range(PIECES)), *slowly):
            client.sendall(part)
            OsClock().sleep(PIECE_SECS)
        until_closed(client)

    with raw_server(script) as server:
        configure(engine, server.url, keepalive_secs=0.2, pong_timeout_secs=1)
        engine.start()
        engine.wait_ticks(PIECES + 1)
        engine.expect(server.connections == 1, f"it left a peer that was sending {server.connections - 1} times")
        engine.stop()


Peer = Callable[[socket.socket], object]

SILENCE_SECS = 1.5

QUESTION = b"how are you"

NOT_CONNECTED = ("connection failed", "connection lost", "connection dropped")

REFUSALS = (
    "400 Bad Request", "403 Forbidden", "404 Not Found", "410 Gone", "418 I'm a teapot", "429 Too Many Requests",
    "451 Unavailable For Legal Reasons", "500 Internal Server Error", "502 Bad Gateway",
)  # fmt: skip

QUERY = "?streams=a/b&since=1%2C5"


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answers(status: str, headers: str = "") -> Peer:
    """The answer to the upgrade is another than 101."""

    def peer(client: socket.socket) -> None:
        read_request(client)
        client.sendall(f"HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n".encode())

    return peer


def says(data: bytes) -> Peer:
    """A trade and then these bytes, and that is the end."""
    return lambda client: upgrade(client, and_then=trade(1) + data)


def reset_before_a_word(client: socket.socket) -> None:
    read_request(client)
    reset(client)


def reset_in_full_flow(client: socket.socket) -> None:
    upgrade(client, and_then=trade(1))
    reset(client)


def no_http(client: socket.socket) -> None:
    read_request(client)
    client.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")


def half_an_answer(client: socket.socket) -> None:
    read_request(client)
    client.sendall(b"HTTP/1.1 101 Switching Proto")


def busy_with_nothing(client: socket.socket) -> None:
    """Pings, what is ignored, and the same trade, for as long as anybody listens."""
    upgrade(client)
    while True:
        client.sendall(frame(b"", PING) + frame('{"type": "heartbeat"}') + trade(1))
        OsClock().sleep(0.1)


def peers(elsewhere: str) -> dict[str, Peer]:
    return {
        "closes before it answers": read_request,
        "resets the connection before it answers": reset_before_a_word,
        "speaks another protocol": no_http,
        "ends within its answer": half_an_answer,
        "answers 200": answers("200 OK"),
        **{f"answers {status}": answers(status) for status in REFUSALS},
        "agrees without a proof that it has read the key": answers(
            "101 Switching Protocols", "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        ),
        "answers 301": answers("301 Moved Permanently", f"Location: {elsewhere}\r\n"),
        "answers 307": answers("307 Temporary Redirect", f"Location: {elsewhere}\r\n"),
        "resets the connection": reset_in_full_flow,
        "ends without a close frame": says(b""),
        "ends within a message": says(trade(2)[:-9]),
        "closes without a code": says(frame(b"", 8)),
        **{f"closes with {code}": says(close_frame(code, "bye")) for code in (1000, 1001, 1008, 1011, 1013, 4001)},
        "says nothing new": busy_with_nothing,
    }


@pytest.mark.slow
@pytest.mark.claim("N3", "N6", "M1")
def test_whatever_a_peer_does_it_is_connected_to_again(engine: EngineUnit) -> None:
    """And nobody else is, whoever is named by the peer or by the environment."""
    with ExitStack() as stack:
        elsewhere = stack.enter_context(raw_server(lambda client, _: client.close()))
        scripts = peers(elsewhere.url)
        asked: list[bytes] = []
        pongs: list[bytes] = []

        def script(client: socket.socket, number: int) -> None:
            if number < len(scripts):
                list(scripts.values())[number](client)
            else:
                asks_and_says(client, asked, pongs)

        server = stack.enter_context(raw_server(script))
        proxy = elsewhere.url.removesuffix("/feed").replace("ws:", "http:")
        names = ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "ws_proxy", "socks_proxy")
        environment = " ".join(f"{name}={proxy}" for name in names)
        stack.enter_context(engine.drop_in("40-proxy", f"[Service]\nEnvironment={environment}\n"))
        configure(engine, server.url + QUERY, max_connects_per_minute=60_000, feed_silence_secs=SILENCE_SECS)
        engine.start()
        for number in range(len(scripts)):
            wait_connections(engine, server, number + 2, list(scripts), elsewhere)
        engine.wait_ticks(3)
        engine.stop()
        expect_never_contacted(engine, elsewhere)
        told = [entry for entry in engine.whole_journal() if entry.event in NOT_CONNECTED]
        engine.expect(
            len(told) >= len(scripts), f"{len(told)} lines tell of {len(scripts)} connections that came to nothing"
        )
    engine.expect(asked[0].startswith(f"GET /feed{QUERY} HTTP/1.1\r\n".encode()), f"it asked for {asked[0]!r}")
    engine.expect(set(pongs) == {QUESTION}, f"to the ping {QUESTION!r} it answers {pongs}")
    ids = engine.query("SELECT trade_id FROM ticks ORDER BY id")
    engine.expect(ids == [(1,), (2,), (3,)], f"what was stored of 1, 2, which came in pieces, and 3: {ids}")


def wait_connections(
    engine: EngineUnit, server: RawServer, count: int, peers: Sequence[str], elsewhere: RawServer
) -> None:
    def reached() -> bool | None:
        return True if server.connections >= count else False if engine.is_down_for_good() else None

    with awaiting(f"the connection after a peer that {peers[count - 2]}"):
        done = poll(reached, OsClock(), engine.deadline_secs)
    expect_never_contacted(engine, elsewhere)
    state = engine.show()
    # It may be further than what is awaited.
    last = f"a peer that {[*peers, 'delivers'][min(server.connections, len(peers) + 1) - 1]}"
    engine.expect((state.active, state.n_restarts) == ("active", 0), f"it ended over {last}")
    engine.expect(bool(done), f"it is not connected again after {last}")


def expect_never_contacted(engine: EngineUnit, elsewhere: RawServer) -> None:
    engine.expect(elsewhere.connections == 0, f"a host that is not configured was contacted, {elsewhere.url}")


def asks_and_says(client: socket.socket, asked: list[bytes], pongs: list[bytes]) -> None:
    """A trade in pieces, with a question between them; and another one for the answer."""
    asked.append(upgrade(client))
    piece, rest = TRADE.format(2)[:20], TRADE.format(2)[20:]
    client.sendall(frame(piece, fin=False) + frame(QUESTION, PING) + frame(b"", 0, fin=False) + frame(rest, 0))
    for code, said in frames_from(client):
        if code == PONG:
            pongs.append(said)
            client.sendall(trade(3))
