"""Contract N4, N5, N17, B4: a feed over real sockets, within this process, on both transports; its peers are rude."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.sync.server import ServerConnection

from engine.base.events import Tick
from engine.base.exits import NetworkLost, ProtocolChanged
from engine.config import schema
from engine.ingest import via_picows, via_websockets, websocket
from engine.ingest.ports import Numbers
from engine.ingest.refusal import HEAD_BYTES_MAX
from engine.ingest.transport import SEND_BUFFER_BYTES
from engine.ingest.venues.markets import Streams
from engine.ingest.venues.port import MAX_MESSAGE_BYTES
from engine.ingest.websocket import WebSocketFeed
from proofs.engine.test_peers import GOODBYES, NOT_TO_BE_READ, RESERVED, VIOLATIONS
from proofs.engine.test_recording import Ears, running, until
from proofs.fixtures import engine_loop
from proofs.fixtures.engine_process import DEADLINE_SECS, TRANSPORTS, mock_tick
from proofs.fixtures.engine_process import server as tls_server
from proofs.fixtures.raw_server import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    flood,
    frame,
    frames_from,
    raw_server,
    read_request,
    until_closed,
    upgrade,
)


class Listener(Ears):
    """Where ticks end, and what is to be remembered of hosts."""

    feed: WebSocketFeed

    def __init__(self, url: str) -> None:
        super().__init__(None, url)
        self.bars: list[tuple[str, str, float]] = []

    def barred(self, source: str, host: str, secs: float) -> None:
        self.bars.append((source, host, secs))


def make(transport: str, url: str, kind: type[Listener] = Listener, **options: Any) -> Listener:
    """A feed at one URL, quick to come back."""
    ears = kind(url)
    wanted = schema.Source(name="one", url=url, kind="mock", priority=0)
    quick = {"max_connects_per_minute": 60_000, "max_backoff_secs": 0.01, **options}
    now = asyncio.get_running_loop().time
    connect = websocket.CONNECTS[transport]
    ears.feed = WebSocketFeed(ears, [wanted], schema.Engine(**quick), "S", connect, now, {}, Streams())
    return ears


@asynccontextmanager
async def listening(
    transport: str, url: str, kind: type[Listener] = Listener, **options: Any
) -> AsyncIterator[Listener]:
    """Such a feed, as long as somebody waits for what it hears."""
    ears = make(transport, url, kind, **options)
    async with running(ears.feed):
        yield ears


def wait_ticks(transport: str, url: str, ticks: int, kind: type[Listener] = Listener, **options: Any) -> Listener:
    """Listen until so many ticks came."""

    async def listen() -> Listener:
        async with listening(transport, url, kind, **options) as ears:
            await until(lambda: len(ears.rows) >= ticks, ears.heard)
            return ears

    return engine_loop.run(listen())


def serve(client: socket.socket, number: int) -> None:
    """Upgrade, send a tick of this number, and stay."""
    upgrade(client, and_then=frame(mock_tick(number)))
    until_closed(client)


def at_first(script: Callable[[socket.socket], None]) -> Callable[[socket.socket, int], None]:
    """What the first connection meets; those after it are served."""

    def either(client: socket.socket, number: int) -> None:
        if number:
            serve(client, number)
        else:
            script(client)

    return either


def told(caplog: pytest.LogCaptureFixture, *messages: str) -> list[tuple[str, dict[str, Any]]]:
    """The lines with one of these messages, and their fields."""
    return [(record.message, vars(record)["fields"]) for record in caplog.records if record.message in messages]


# --- ends -------------------------------------------------------------------------------------------------------

LAST_WORDS = {
    "goodbye": frame(b"", CLOSE),
    "goodbye with a code": close_frame(1001, "for now"),
    "impossible code": close_frame(999),
    "reserved opcode": frame(b"", 3),
    "masked": frame("{}", mask=True),
    "frame too big": b"\x81\x7f\x00\x00\x00\x10" + bytes(4),
    "message within a message": frame("{", fin=False) + frame("{}"),
}


@pytest.mark.slow
@pytest.mark.claim("N4", "N17")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("words", LAST_WORDS)
def test_N17_after_its_last_words_a_peer_is_left_though_it_keeps_the_connection(
    transport: str, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not only once it is found to be silent (N6), for which it may take a minute."""
    for module in (via_picows, via_websockets):
        monkeypatch.setattr(module, "CLOSE_GRACE_SECS", 0.05)
    left = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        if number:
            serve(client, number)
            return
        upgrade(client, and_then=frame(mock_tick(number)) + LAST_WORDS[words])
        # Unlike a script's end, it waits until the client has ended it.
        with suppress(ConnectionResetError):
            until_closed(client)
        left.set()

    with raw_server(script) as server:
        ears = wait_ticks(transport, server.url, 2, keepalive_secs=60, feed_silence_secs=0)
        assert left.wait(DEADLINE_SECS)
    assert [row[5] for row in ears.rows] == [0, 1]
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.claim("N4")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("how", ["ends", "resets"])
def test_N4_a_connection_that_breaks_off_without_a_word_is_over(
    caplog: pytest.LogCaptureFixture, transport: str, how: str
) -> None:
    def script(client: socket.socket, number: int) -> None:
        if number:
            serve(client, number)
            return
        upgrade(client, and_then=frame(mock_tick(number)))
        if how == "resets":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_server(script) as server, caplog.at_level(logging.WARNING):

        async def listen() -> Listener:
            async with listening(transport, server.url, keepalive_secs=60, feed_silence_secs=0) as ears:
                # A reset may overtake the tick before it.
                await until(lambda: 1 in ids(ears), ears.heard)
            return ears

        ears = engine_loop.run(listen())
    assert ears.feed.parse_errors == 0
    [(_, fields)] = told(caplog, "connection lost")
    assert fields["reason"]


RESETS = 60


@pytest.mark.claim("N4")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N4_a_reset_that_comes_with_the_upgrade_is_told_each_time(transport: str) -> None:
    """uvloop reports it to nobody who asked by add_reader, and reads no further connection of that descriptor then."""

    def script(client: socket.socket, number: int) -> None:
        if number >= RESETS:
            serve(client, number)
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        upgrade(client)

    with raw_server(script) as server:
        ears = wait_ticks(transport, server.url, 1, keepalive_secs=60, feed_silence_secs=0)
    assert [row[5] for row in ears.rows] == [RESETS]


@pytest.mark.claim("N4")
def test_N4_whatever_ends_the_reading_of_a_connection_is_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of the library's is no reason to wait until silence is found."""
    receive = ClientConnection.recv
    broken: list[ClientConnection] = []

    async def recv(self: ClientConnection) -> str | bytes:
        if not broken or self in broken:
            broken.append(self)
            raise AssertionError("state machine confused")
        return await receive(self)

    monkeypatch.setattr(ClientConnection, "recv", recv)
    with raw_server(serve) as server, caplog.at_level(logging.WARNING):
        ears = wait_ticks("websockets", server.url, 1, keepalive_secs=60, feed_silence_secs=0)
    assert [row[5] for row in ears.rows] == [1]
    [(_, fields)] = told(caplog, "connection lost")
    assert fields["reason"] == "AssertionError: state machine confused"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.slow
@pytest.mark.claim("N6")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N6_a_connection_of_which_nobody_takes_what_is_sent_is_closed_all_the_same(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a half-open one is: what waits to be sent does not keep its socket for minutes."""
    for module in (via_picows, via_websockets):
        monkeypatch.setattr(module, "CLOSE_GRACE_SECS", 0.05)
    left = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        upgrade(client, and_then=frame(mock_tick(number)))
        left.wait(DEADLINE_SECS)

    async def scenario(url: str) -> None:
        async with listening(transport, url, keepalive_secs=60) as ears:
            await until(lambda: bool(ears.rows), ears.heard)
            [line] = ears.feed._lines.values()
            below, connection = line.socket, line.connection
            assert below is not None
            assert connection is not None
            below.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            stuck_since, before = time.monotonic(), -1
            # As much as may wait, so that it does even if the kernel takes a little more.
            while time.monotonic() - stuck_since < 0.1:
                now = waiting(connection)
                if now < SEND_BUFFER_BYTES - 20_000:
                    connection.send("x" * 16_000)
                if now != before:
                    stuck_since, before = time.monotonic(), now
                await asyncio.sleep(0)
            # So much may wait.
            assert ears.feed.connections_unbounded == 0
            connection.close()
            # Before the peer's own end.
            async with asyncio.timeout(DEADLINE_SECS / 3):
                while below.fileno() >= 0:  # noqa: ASYNC110
                    await asyncio.sleep(0)
        left.set()

    with raw_server(script) as server:
        engine_loop.run(scenario(server.url))


def waiting(connection: Any) -> int:
    """How many bytes the kernel has not taken yet."""
    below = (
        connection._transport.underlying_transport
        if hasattr(connection, "_transport")
        else connection._websocket.transport
    )
    size: int = below.get_write_buffer_size()
    return size


# --- messages ---------------------------------------------------------------------------------------------------


def heard(transport: str, said: bytes, *, then_leaves: bool = True, **options: Any) -> Listener:
    """What a feed made of `said`, which comes in one packet. It is over with tick 1, which comes in the next
    connection where the first one ends, else behind it."""

    def script(client: socket.socket, number: int) -> None:
        if number:
            serve(client, 1)
        elif then_leaves:
            upgrade(client, and_then=said)
            # Its close frame, behind which what came has been read.
            client.recv(65536)
        else:
            upgrade(client, and_then=said + frame(mock_tick(1)))
            until_closed(client)

    with raw_server(script) as server:

        async def listen() -> Listener:
            async with listening(transport, server.url, keepalive_secs=60, feed_silence_secs=0, **options) as ears:
                await until(lambda: any(row[5] == 1 for row in ears.rows), ears.heard)
            return ears

        return engine_loop.run(listen())


def ids(ears: Listener) -> list[int]:
    return [row[5] for row in ears.rows]


@pytest.mark.slow
@pytest.mark.claim("N17")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("what", VIOLATIONS | RESERVED)
def test_N17_each_offence_is_one_error_that_ends_the_connection(
    caplog: pytest.LogCaptureFixture, transport: str, what: str
) -> None:
    before = frame(mock_tick(0)) if what in VIOLATIONS else b""
    # picows has the reserved bits looked at once a read, at its end.
    behind = frame(mock_tick(NOT_TO_BE_READ)) + frame("{") if what in VIOLATIONS else b""
    with caplog.at_level(logging.WARNING):
        ears = heard(transport, before + (VIOLATIONS | RESERVED)[what] + behind)
    assert ids(ears) == ([0, 1] if before else [1])
    assert (ears.feed.parse_errors, ears.feed.reconnects) == (1, 1)
    [(_, error), (_, lost)] = told(caplog, "unusable message", "connection lost")
    assert error["error"].startswith("protocol error: " if "UTF-8" not in what and "half" not in what else "")
    assert lost["source"] == "one"


@pytest.mark.slow
@pytest.mark.claim("N17")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("what", [what for what in GOODBYES if what != "nothing"])
def test_N17_a_goodbye_is_no_offence(caplog: pytest.LogCaptureFixture, transport: str, what: str) -> None:
    with caplog.at_level(logging.WARNING):
        ears = heard(transport, frame(mock_tick(0)) + GOODBYES[what])
    assert ids(ears) == [0, 1]
    # Fragments that were a message by then.
    assert ears.feed.parse_errors == (1 if "fragments" in what else 0)
    assert ears.feed.reconnects == 1
    [(_, lost)] = told(caplog, "connection lost")
    code = re.search(r"\d{4}", what)
    assert (code[0] if code is not None else "") in lost["reason"]


FULL = mock_tick(0)[:-1] + ', "pad": "' + "x" * (MAX_MESSAGE_BYTES - len(mock_tick(0)) - len(', "pad": ""')) + '"}'
FITS = {
    "one frame": frame(FULL),
    "two frames": frame(FULL[:100], fin=False) + frame(FULL[100:], 0),
    "one frame and nothing": frame(FULL, fin=False) + frame(b"", 0),
    "nothing and one frame": frame("", fin=False) + frame(FULL, 0),
    "many frames": frame(FULL[:1], fin=False)
    + b"".join(frame(FULL[at : at + 100_000], 0, fin=False) for at in range(1, len(FULL), 100_000))
    + frame(b"", 0),
}
TOO_BIG = {
    "one frame": frame(FULL + " "),
    "two frames": frame(FULL[:100], fin=False) + frame(FULL[100:] + " ", 0),
    "without an end": frame(FULL, fin=False) + frame(" ", 0, fin=False),
    "binary": frame(FULL + " ", BINARY),
}


@pytest.mark.slow
@pytest.mark.claim("N8", "B4")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("how", FITS)
def test_N8_a_message_of_4_MiB_is_read_however_it_is_cut(transport: str, how: str) -> None:
    assert len(FULL) == MAX_MESSAGE_BYTES
    ears = heard(transport, FITS[how], then_leaves=False)
    assert (ids(ears), ears.feed.parse_errors, ears.feed.reconnects) == ([0, 1], 0, 0)


@pytest.mark.slow
@pytest.mark.claim("N8", "B4")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("how", TOO_BIG)
def test_N8_a_message_of_a_byte_more_is_one_error_that_ends_the_connection(
    caplog: pytest.LogCaptureFixture, transport: str, how: str
) -> None:
    with caplog.at_level(logging.WARNING):
        ears = heard(transport, frame(mock_tick(0)) + TOO_BIG[how] + frame(mock_tick(NOT_TO_BE_READ)))
    assert (ids(ears), ears.feed.parse_errors, ears.feed.reconnects) == ([0, 1], 1, 1)
    [(_, error), _] = told(caplog, "unusable message", "connection lost")
    assert f"over {MAX_MESSAGE_BYTES} bytes" in error["error"]


@pytest.mark.claim("N8", "N17")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("said", "expected", "errors"),
    [
        (frame(mock_tick(0)) * 2 + frame(mock_tick(2)), [0, 2, 1], 0),
        (frame(mock_tick(0)[:9], fin=False) + frame(mock_tick(0)[9:], 0), [0, 1], 0),
        (frame("", fin=False) + frame("", 0, fin=False) + frame(mock_tick(0), 0), [0, 1], 0),
        (
            frame(mock_tick(0)[:9], fin=False) + frame(b"x", PING) + frame(b"x", PONG) + frame(mock_tick(0)[9:], 0),
            [0, 1],
            0,
        ),
        (frame(b"x", PING) + frame(b"", PONG), [1], 0),
        (frame(mock_tick(0), BINARY), [1], 1),
        (frame(b"x", BINARY, fin=False) + frame(b"x", PING) + frame(b"x", 0) + frame(mock_tick(0)), [0, 1], 1),
        (frame(""), [1], 1),
        (frame("{") * 3 + frame(mock_tick(0)), [0, 1], 3),
    ],
)  # fmt: skip
def test_N8_what_is_no_offence_does_not_end_the_connection(
    transport: str, said: bytes, expected: list[int], errors: int
) -> None:
    ears = heard(transport, said, then_leaves=False)
    assert (ids(ears), ears.feed.parse_errors, ears.feed.reconnects) == (expected, errors, 0)


@pytest.mark.slow
@pytest.mark.claim("N8", "N17")
@pytest.mark.parametrize("transport", TRANSPORTS)
@given(frames=st.lists(st.tuples(st.sampled_from([CONTINUATION, TEXT, BINARY]), st.booleans()), min_size=1, max_size=8))
def test_N17_fragments_are_a_message_in_their_order_and_an_offence_in_any_other(
    transport: str, frames: list[tuple[int, bool]]
) -> None:
    """Of a binary message as of a text: it is one unusable message, and what comes behind it is read."""
    said, expected = b"", list[int]()
    errors, offends = 0, False
    begun: tuple[int, int] | None = None
    for number, (opcode, fin) in enumerate([*frames, (CONTINUATION, True)], start=10):
        if begun is None and number == 10 + len(frames):
            # Nothing is left to be ended.
            break
        offends = (opcode == CONTINUATION) == (begun is None)
        # A tick is whole with what stands between its first and its last fragment.
        tick = mock_tick(number)
        said += frame(("}" if fin else " ") if opcode == CONTINUATION else tick if fin else tick[:-1], opcode, fin=fin)
        if offends:
            errors += 1
            break
        begun = begun or (opcode, number)
        if fin:
            errors += begun[0] == BINARY
            expected += [begun[1]] if begun[0] == TEXT else []
            begun = None
    ears = heard(transport, said, then_leaves=offends)
    assert (ids(ears), ears.feed.parse_errors, ears.feed.reconnects) == ([*expected, 1], errors, int(offends))


BAD_MESSAGES = [
    frame("{"),
    frame(b"\x00", BINARY),
    frame("{", fin=False) + frame("{", 0),
    frame(b"\x00", BINARY, fin=False) + frame(b"\x00", 0),
]


@pytest.mark.claim("N8")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("bad", BAD_MESSAGES, ids=repr)
def test_N8_so_many_unusable_messages_in_a_row_end_the_run(
    caplog: pytest.LogCaptureFixture, transport: str, bad: bytes
) -> None:
    """Whatever makes them unusable, each is told where it comes."""

    def script(client: socket.socket, number: int) -> None:
        upgrade(client, and_then=bad * 2 + frame(mock_tick(0)) + bad * 3)
        until_closed(client)

    async def listen_in_vain(url: str) -> Listener:
        ears = make(transport, url, parse_error_limit=3)
        with pytest.raises(ProtocolChanged, match="3 unusable messages in a row"):
            await asyncio.wait_for(ears.feed.run(), DEADLINE_SECS)
        return ears

    with raw_server(script) as server, caplog.at_level(logging.WARNING):
        ears = engine_loop.run(listen_in_vain(server.url))
    assert (ids(ears), ears.feed.parse_errors) == ([0], 5)
    # Others are held back.
    [(_, fields), *_] = told(caplog, "unusable message")
    assert fields["parse_errors"] == 1


@pytest.mark.slow
@pytest.mark.claim("N6")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N6_pings_are_answered_with_what_they_say_and_ours_are_answered(transport: str) -> None:
    answers: list[bytes] = []

    def script(client: socket.socket, number: int) -> None:
        upgrade(client, and_then=frame(b"how are you", PING))
        pings = 0
        for code, payload in frames_from(client):
            if code == PONG:
                answers.append(payload)
            elif code == PING:
                client.sendall(frame(payload, PONG))
                pings += 1
            # The next one is only sent after an answer.
            if pings >= 2 and answers:
                break
        client.sendall(frame(mock_tick(1)))
        until_closed(client)

    with raw_server(script) as server:
        ears = wait_ticks(transport, server.url, 1, keepalive_secs=0.01, pong_timeout_secs=1, feed_silence_secs=0)
        assert (server.connections, ears.feed.reconnects, answers) == (1, 0, [b"how are you"])


@pytest.mark.slow
@pytest.mark.claim("B4")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("first", [b"", frame("[", fin=False)], ids=["alone", "amid fragments"])
def test_B4_a_peer_that_reads_no_pongs_is_left(caplog: pytest.LogCaptureFixture, transport: str, first: bytes) -> None:
    left = threading.Event()

    @at_first
    def script(client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        upgrade(client, and_then=first)
        with suppress(ConnectionResetError, BrokenPipeError):
            flood(client, frame(b"x" * 125, PING) * 500, 100 * 1024 * 1024)
            # It took all of it.
            return
        left.set()

    with raw_server(script) as server, caplog.at_level(logging.WARNING):
        ears = wait_ticks(transport, server.url, 1, keepalive_secs=60)
        assert left.wait(DEADLINE_SECS)
    assert (ears.feed.connections_unbounded, ears.feed.reconnects) == (1, 1)
    [(_, fields)] = told(caplog, "connection lost")
    assert fields["reason"].startswith(f"the peer reads nothing: over {SEND_BUFFER_BYTES} bytes")


@pytest.mark.slow
@pytest.mark.claim("B2")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_B2_what_comes_while_there_is_no_room_waits_at_the_peer(transport: str) -> None:
    """More than all buffers between hold; and nothing of it is lost."""
    blocked = threading.Event()
    message = frame(json.dumps({"type": "x", "pad": "x" * 64_000}))

    def script(client: socket.socket, number: int) -> None:
        upgrade(client, and_then=frame(mock_tick(0)))
        everything = message * 500 + frame(mock_tick(1))
        client.settimeout(1)
        sent = 0
        while sent < len(everything):
            try:
                sent += client.send(everything[sent : sent + 1_000_000])
            except TimeoutError:
                client.settimeout(DEADLINE_SECS)
                blocked.set()
        until_closed(client)

    class Full(Listener):
        """Has no room once it has a tick, until its peer is blocked."""

        def deliver(self, ticks: list[Tick], numbers: Numbers = ()) -> int:
            if not self.rows:
                self.feed.pause()
                loop = asyncio.get_running_loop()
                loop.run_in_executor(None, blocked.wait, DEADLINE_SECS).add_done_callback(lambda _: self.feed.resume())
            return super().deliver(ticks, numbers)

    with raw_server(script) as server:
        ears = wait_ticks(transport, server.url, 2, Full, keepalive_secs=60, feed_silence_secs=0)
        assert blocked.is_set()
    assert (ids(ears), ears.feed.ignored, ears.feed.parse_errors, ears.feed.reconnects) == ([0, 1], 500, 0, 0)


@pytest.mark.claim("N6")
def test_N6_websockets_pings_nobody_by_itself() -> None:
    """When a ping is due, and what its absence means, is the session's to say."""

    async def scenario(url: str) -> None:
        async with listening("websockets", url, keepalive_secs=60) as ears:
            await until(lambda: bool(ears.rows), ears.heard)
            [line] = ears.feed._lines.values()
            connection: Any = line.connection
            assert connection._websocket.ping_interval is None

    with raw_server(serve) as server:
        engine_loop.run(scenario(server.url))


@pytest.mark.claim("B2")
@pytest.mark.parametrize(
    ("course", "asked"),
    [
        (["pause"], ["pause"]),
        (["pause", "pause"], ["pause"]),
        (["resume"], []),
        (["pause", "resume", "resume", "pause"], ["pause", "resume", "pause"]),
        (["end", "pause"], []),
        (["pause", "end", "resume"], ["pause"]),
        (["end", "close"], []),
    ],
)
def test_B2_picows_is_told_to_pause_and_to_go_on_once_and_only_while_it_is_connected(
    course: list[str], asked: list[str]
) -> None:
    """An event loop may raise for what comes twice, or too late."""
    done: list[str] = []

    async def scenario() -> None:
        below = SimpleNamespace(
            pause_reading=lambda: done.append("pause"), resume_reading=lambda: done.append("resume")
        )
        transport: Any = SimpleNamespace(
            is_disconnected=False,
            underlying_transport=below,
            wait_disconnected=asyncio.Event().wait,
            send_close=lambda code: done.append("close"),
            disconnect=lambda graceful=True: done.append("disconnect"),
        )
        connection = via_picows._PicowsConnection(transport, SimpleNamespace())
        for step in course:
            if step == "end":
                transport.is_disconnected = True
            else:
                getattr(connection, step)()

    engine_loop.run(scenario())
    assert done == asked


@pytest.mark.claim("B4", "N17")
@pytest.mark.parametrize(("level", "asked"), [(logging.INFO, []), (logging.WARNING, []), (logging.ERROR, ["pause"])])
def test_B4_picows_reads_no_more_once_the_protocol_is_broken(level: int, asked: list[str]) -> None:
    """It says so 10 ms before it disconnects."""
    done: list[str] = []
    line: Any = SimpleNamespace(connection=SimpleNamespace(pause=lambda: done.append("pause")))
    via_picows._Ear(line).log(level, "protocol error")
    assert done == asked
    # Before the upgrade there is nothing to pause.
    line.connection = None
    via_picows._Ear(line).log(level, "protocol error")
    assert done == asked


# --- attempts that fail -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.claim("N4", "N5")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("answer", "fields", "barred_secs", "is_cut"),
    [
        (["503 No"], {"reason": "HTTP 503", "http_status": 503}, None, False),
        (["451 Unavailable For Legal Reasons"], {"reason": "HTTP 451", "http_status": 451}, None, False),
        (
            ["503 No", "Retry-After: 7", "Retry-After: soon"],
            {"reason": "HTTP 503", "http_status": 503, "retry_after_ignored": "7, soon"},
            None,
            False,
        ),
        (["429 No"], {"reason": "HTTP 429", "http_status": 429, "retry_after_secs": None}, 0.01, False),
        (
            ["429 No", "Retry-After: soon"],
            {"reason": "HTTP 429", "http_status": 429, "retry_after_secs": None, "retry_after": "soon"},
            0.01,
            False,
        ),
        (
            ["429 No", "Retry-After: 0"],
            {"reason": "HTTP 429", "http_status": 429, "retry_after_secs": None, "retry_after": "0"},
            0.01,
            False,
        ),
        (
            ["418 No", "Retry-After: 0.01, 0.03", "Retry-After: 0.02"],
            {"reason": "HTTP 418", "http_status": 418, "retry_after_secs": 0.03, "retry_after": "0.01, 0.03, 0.02"},
            0.03,
            False,
        ),
        (
            ["429 No", "Retry-After: 0.04"],
            {"reason": "HTTP 429", "http_status": 429, "retry_after_secs": 0.04, "retry_after": "0.04"},
            0.04,
            False,
        ),
        (
            ["429 No", "Retry-After: 0.05"],
            {"reason": "HTTP 429", "http_status": 429, "retry_after_secs": 0.05, "retry_after": "0.05"},
            0.04,
            True,
        ),
    ],
)
def test_N5_what_a_refusal_says_is_told_as_far_as_it_is_obeyed(
    caplog: pytest.LogCaptureFixture,
    transport: str,
    answer: list[str],
    fields: dict[str, Any],
    barred_secs: float | None,
    is_cut: bool,
) -> None:
    @at_first
    def script(client: socket.socket) -> None:
        read_request(client)
        client.sendall("\r\n".join([f"HTTP/1.1 {answer[0]}", *answer[1:], "Content-Length: 0", "", ""]).encode())

    with raw_server(script) as server, caplog.at_level(logging.WARNING):
        ears = wait_ticks(transport, server.url, 1, max_retry_after_secs=0.04)
        where = {"source": "one", "url": server.url}
    warned = "told to wait longer than max_retry_after_secs"
    told_longer = [(warned, {**where, **fields, "max_retry_after_secs": 0.04})]
    assert told(caplog, "connection failed", warned) == [
        ("connection failed", {**where, **fields}),
        *(told_longer if is_cut else []),
    ]
    # What time has gone by since it was said is taken off.
    for bar in ears.bars:
        assert bar[:2] == ("one", "127.0.0.1")
        assert barred_secs is not None
        assert 0 < bar[2] <= barred_secs + 1e-6
    assert len(ears.bars) <= 1
    assert bool(ears.bars) == (barred_secs is not None)


@pytest.mark.slow
@pytest.mark.claim("N5", "B4")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("body", [b"", b"x" * 100, b"x" * 1_000_000], ids=["nothing", "little", "much"])
def test_N5_a_refusal_is_known_from_its_head(transport: str, body: bytes) -> None:
    """Nobody waits for the rest of it, or for the peer to leave."""
    left = threading.Event()

    @at_first
    def script(client: socket.socket) -> None:
        read_request(client)
        with suppress(ConnectionResetError, BrokenPipeError):
            client.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 2000000\r\n\r\n" + body)
            until_closed(client)
        left.set()

    with raw_server(script) as server:
        began = time.monotonic()
        wait_ticks(transport, server.url, 1)
        assert left.wait(DEADLINE_SECS)
        # An attempt may take 10 s.
        assert time.monotonic() - began < 5


@pytest.mark.slow
@pytest.mark.claim("N4")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("is_trusted", [True, False])
def test_N4_over_tls_only_a_server_that_is_trusted_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, transport: str, is_trusted: bool
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    (authority if is_trusted else stranger).cert_pem.write_to_path(tmp_path / "trusted.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def script(connection: ServerConnection, number: int) -> None:
        connection.send(mock_tick(number))
        server.done.wait(DEADLINE_SECS)

    with tls_server(script, context) as server, caplog.at_level(logging.WARNING):
        if is_trusted:
            assert ids(wait_ticks(transport, server.url, 1)) == [0]
            return

        async def listen_in_vain() -> None:
            await make(transport, server.url, network_give_up_secs=0.2).feed.run()

        with pytest.raises(NetworkLost, match="unable to get local issuer certificate"):
            engine_loop.run(asyncio.wait_for(listen_in_vain(), DEADLINE_SECS))
        assert server.connections == 0


@pytest.mark.claim("N4", "N13")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N4_N13_a_host_with_the_dot_of_the_root_is_that_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """It passes every check of the configuration; its certificate is for the name without it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "trusted.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("market.test").configure_cert(context)
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    looked_up: list[str] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **options: Any) -> Any:
        looked_up.append(host)
        return resolve("127.0.0.1", *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def script(connection: ServerConnection, number: int) -> None:
        connection.send(mock_tick(number))
        server.done.wait(DEADLINE_SECS)

    with tls_server(script, context) as server:
        url = server.url.replace("127.0.0.1", "market.test.")
        assert ids(wait_ticks(transport, url, 1)) == [0]
    assert (looked_up, asked) == (["market.test."], ["market.test"])


@pytest.mark.slow
@pytest.mark.claim("N4")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N4_nothing_is_contacted_but_the_url(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, transport: str
) -> None:
    """Neither where an answer leads, nor what the environment has for others."""
    with raw_server(serve) as elsewhere, caplog.at_level(logging.WARNING):
        for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "socks_proxy"):
            monkeypatch.setenv(name, elsewhere.url.replace("ws:", "http:"))
            monkeypatch.setenv(name.upper(), elsewhere.url.replace("ws:", "http:"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)

        def script(client: socket.socket, number: int) -> None:
            if number < len(REDIRECTS):
                read_request(client)
                client.sendall(
                    f"HTTP/1.1 {REDIRECTS[number]} x\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n".encode()
                )
            else:
                serve(client, 1)

        with raw_server(script) as server:
            wait_ticks(transport, server.url, 1)
            assert server.connections == len(REDIRECTS) + 1
        assert elsewhere.connections == 0
    assert [fields["reason"] for _, fields in told(caplog, "connection failed")] == [
        f"HTTP {status}" for status in REDIRECTS
    ]


OVER = "the head of the answer has over 16384 bytes"


@pytest.mark.slow
@pytest.mark.claim("B4")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("answer", "is_unbounded", "reason"),
    [
        (b"HTTP/1.1 503 No\r\n".ljust(HEAD_BYTES_MAX - 64, b"x") + b"\r\n\r\n", False, "HTTP 503"),
        (b"HTTP/1.1 503 No\r\n".ljust(HEAD_BYTES_MAX - 1, b"x"), False, ""),
        (b"HTTP/1.1 503 No\r\n".ljust(HEAD_BYTES_MAX, b"x"), True, f"HTTP 503; {OVER}"),
        (b"HTTP/1.1 503 No\r\n\r\n".ljust(2 * HEAD_BYTES_MAX, b"x"), False, "HTTP 503"),
        (b"x" * 2 * HEAD_BYTES_MAX, True, f"; {OVER}"),
    ],
)  # fmt: skip
def test_B4_the_head_of_an_answer_has_a_bound(
    caplog: pytest.LogCaptureFixture, transport: str, answer: bytes, is_unbounded: bool, reason: str
) -> None:
    @at_first
    def script(client: socket.socket) -> None:
        read_request(client)
        with suppress(ConnectionResetError, BrokenPipeError):
            client.sendall(answer)
            if is_unbounded:
                until_closed(client)

    with raw_server(script) as server, caplog.at_level(logging.WARNING):
        ears = wait_ticks(transport, server.url, 1)
    [(_, fields)] = told(caplog, "connection failed")
    assert fields["reason"].endswith(reason)
    assert ears.feed.connections_unbounded == is_unbounded


@pytest.mark.claim("N17", "B4")
@given(
    interim=st.lists(st.sampled_from([b"HTTP/1.1 100 Continue", b"HTTP/1.1 103 Hints\r\nLink: x"]), max_size=3),
    status=st.sampled_from([101, 102, 199, 200, 429, 503, None, 0]),
    padding=st.integers(0, 400),
    behind=st.binary(max_size=40),
    cuts=st.lists(st.integers(1, 60)),
)
def test_N17_an_answer_is_the_same_however_it_comes_in(
    interim: list[bytes], status: int | None, padding: int, behind: bytes, cuts: list[int]
) -> None:
    """`websockets` is shown the answer that counts, whole and with what is behind it; and nothing of a refusal.
    `status`: None for what is no HTTP, 0 for a head of nothing."""
    is_interim = status in (102, 199)
    before = b"".join(one + b"\r\n\r\n" for one in interim)
    head = (b"220 smtp" if status is None else f"HTTP/1.1 {status} x".encode()) + b"\r\nX: " + b"y" * padding
    if status == 0:
        head = b""
    whole = before + head + b"\r\n\r\n" + (b"" if is_interim else behind)
    answer = via_websockets._Answer()
    shown = b""
    at = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(via_websockets, "HEAD_BYTES_MAX", 400)
        for size in [*cuts, len(whole)]:
            piece = whole[at : at + size]
            at += len(piece)
            # As the library does.
            shown += piece if answer.is_over else answer.add(piece)
            if not answer.is_good:
                break
    if answer.is_unbounded:
        assert (answer.is_good, answer.is_over, shown) == (False, False, b"")
        assert len(before + head) + 4 >= 400
    elif is_interim:
        assert (answer.is_good, answer.is_over, shown) == (True, False, b"")
        assert len(whole) < 400
    else:
        assert answer.is_over
        assert answer.is_good == (status in (101, None, 0))
        assert shown.startswith(head + b"\r\n\r\n")
        if answer.is_good:
            assert shown == whole[len(before) :]


REDIRECTS = (301, 302, 303, 307, 308)


# What a connection gets: an upgrade as picows knows it, one that only the other transport knows, or none.
PLAIN, LISTED, REFUSED, HINTED = "plain", "listed", "refused", "hinted"


@pytest.mark.slow
@pytest.mark.claim("N17", "N4")
@pytest.mark.parametrize(
    ("transport", "course", "carriers", "announced"),
    [
        # Nothing but an answer that the other one may understand makes it the other one's.
        ("picows", [REFUSED, REFUSED, PLAIN], "ppp", []),
        ("picows", [LISTED, LISTED], "pw", [0]),
        # As long as that succeeds, and each time anew.
        ("picows", [PLAIN, LISTED, LISTED, PLAIN, REFUSED, PLAIN], "ppwwwp", [0]),
        ("picows", [LISTED, REFUSED, LISTED, LISTED], "pwpw", [0, 2]),
        # Nothing is gained by it where the other one does not understand it either.
        ("picows", [HINTED, HINTED, PLAIN], "pwp", [0]),
        ("websockets", [LISTED, REFUSED, LISTED, PLAIN], "wwww", []),
    ],
)
def test_N17_who_carries_a_source_after_what_it_answered(
    caplog: pytest.LogCaptureFixture, transport: str, course: list[str], carriers: str, announced: list[int]
) -> None:
    """`announced`: which of the failures say that the other transport is next."""
    seen: list[str] = []

    def script(client: socket.socket, number: int) -> None:
        seen.append("w" if b"websockets" in client.recv(65536, socket.MSG_PEEK) else "p")
        what = course[number]
        if what in (REFUSED, HINTED):
            read_request(client)
            client.sendall(b"HTTP/1.1 503 No\r\n\r\n" if what == REFUSED else b"HTTP/1.1 103 Early Hints\r\n\r\n")
            return
        upgrade(
            client, and_then=frame(mock_tick(number)), connection="keep-alive, Upgrade" if what == LISTED else "Upgrade"
        )
        if number == len(course) - 1:
            until_closed(client)
        elif seen[-1] == "w" or what == PLAIN:
            client.sendall(close_frame(1001))
            # Its goodbye, behind which what came has been read.
            client.recv(65536)

    with raw_server(script) as server, caplog.at_level(logging.WARNING):

        async def listen() -> None:
            async with listening(transport, server.url) as ears:
                await until(lambda: any(row[5] == len(course) - 1 for row in ears.rows), ears.heard)

        engine_loop.run(listen())
    assert "".join(seen) == carriers
    failures = told(caplog, "connection failed")
    next_ones = {
        number: fields["next_transport"] for number, (_, fields) in enumerate(failures) if "next_transport" in fields
    }
    assert next_ones == dict.fromkeys(announced, "websockets")
