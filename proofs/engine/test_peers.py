"""What strangers do to a connection, on both transports: raw bytes to a real engine process (B4, N5, N15, N16, N17)."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from engine.ingest import dialing
from engine.ingest.venues.port import MAX_MESSAGE_BYTES
from engine.storage.batch import Batch
from engine.storage.opening import open_ledger
from harness.base.errors import Unavailable
from proofs.fixtures import engine_loop
from proofs.fixtures.engine_process import DEADLINE_SECS, TRANSPORTS, Engine, engine, mock_tick, write_config
from proofs.fixtures.raw_server import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    close_frame,
    flood,
    frame,
    raw_server,
    read_request,
    until_closed,
    upgrade,
)

MIB = 1024 * 1024
RSS_MIB_MAX = 64

Peer = Callable[[socket.socket], None]


@contextmanager
def started(
    directory: Path, transport: str, url: str, *args: str, prefix: Sequence[str] = (), **options: object
) -> Iterator[Engine]:
    """The engine on one URL, patient with errors and quick to come back."""
    defaults = {"parse_error_limit": 1_000_000_000, "max_backoff_secs": 0.05, "network_give_up_secs": 60}
    config = write_config(directory, {"engine": {"ws_url": url, **defaults, **options}})
    arguments = ("--config", str(config), "--ingest", "mockws", *args)
    with engine(directory, *arguments, prefix=prefix, HYBRID_TRANSPORT=transport) as running:
        yield running


def assert_calm(running: Engine) -> None:
    """Nothing but M1 lines, in ASCII, without a traceback, an error of ours, or a future that nobody asked."""
    for raw, line in zip(running.raw, running.lines, strict=True):
        assert line["level"] in ("INFO", "WARN"), raw
        assert "traceback" not in line["fields"], raw
        assert "never retrieved" not in raw, raw
        assert re.fullmatch(r"[ -~]+\n", raw), raw
        assert len(raw) < 4000, raw


def say(client: socket.socket, _: int, answer: bytes) -> None:
    client.sendall(answer)


def answered(head: bytes, rest: bytes, total: int) -> Peer:
    """Answers the upgrade with `head`, and goes on with `rest`."""

    def peer(client: socket.socket) -> None:
        read_request(client)
        client.sendall(head)
        flood(client, rest, total)
        until_closed(client)

    return peer


def flooded(data: bytes, total: int, first: bytes = b"") -> Peer:
    """Upgrades, sends `first`, then `data` over and over."""

    def peer(client: socket.socket) -> None:
        upgrade(client, and_then=first)
        flood(client, data, total)

    return peer


OK_HEAD = b"HTTP/1.1 200 OK\r\n"
ENDLESS_ANSWERS = {
    "a head of one line": answered(b"", b"HTTP/1.1 " * 1000, 100 * MIB),
    "a header that does not end": answered(OK_HEAD, b"a: " + b"b" * 65536, 100 * MIB),
    "headers that do not end": answered(OK_HEAD, b"a: b\r\n" * 10000, 100 * MIB),
}
ANSWERS = {
    "informational answers": answered(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3000, 100 * MIB),
    "a body that does not end": answered(b"HTTP/1.1 503 No\r\n\r\n", b"x" * 65536, 100 * MIB),
    "chunks that do not end": answered(
        b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10000, 100 * MIB
    ),
    "a body that never comes": answered(b"HTTP/1.1 503 No\r\nContent-Length: 1000\r\n\r\n", b" ", 1),
    "a redirect": answered(b"HTTP/1.1 302 No\r\nLocation: ws://127.0.0.1:1/\r\n\r\n", b"x" * 65536, 100 * MIB),
}
UNREAD = {
    "pings": flooded(frame(b"x" * 125, PING) * 500, 200 * MIB),
    "pings amid fragments": flooded(frame(b"x" * 125, PING) * 500, 200 * MIB, frame("[", fin=False)),
}
FLOODS = {
    "tiny fragments": flooded(frame(b"a", 0, fin=False) * 20000, MIB // 4, frame("a", fin=False)),
    "empty fragments": flooded(frame(b"", 0, fin=False) * 20000, MIB // 4, frame("", fin=False)),
    "a message of fragments": flooded(frame(b"a" * 65536, 0, fin=False), 100 * MIB, frame("a", fin=False)),
    "empty messages": flooded(frame("") * 20000, MIB // 4),
    "pongs": flooded(frame(b"", PONG) * 20000, MIB // 4),
    "close frames": flooded(close_frame(1000) * 20000, 100 * MIB),
    "more behind a reserved opcode": flooded(b"x" * 65536, 100 * MIB, frame(b"", 3)),
    "more behind a frame too big": flooded(b"x" * 65536, 100 * MIB, b"\x81\x7f\x00\x00\x00\x10" + bytes(4)),
    "more behind an impossible close": flooded(b"x" * 65536, 100 * MIB, close_frame(999)),
}


@pytest.mark.slow
@pytest.mark.claim("B4")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_B4_memory_is_bounded_whatever_a_peer_does(tmp_path: Path, transport: str) -> None:
    """One after the other; those without any bound are counted; in the end a good one is served."""
    peers = [*ENDLESS_ANSWERS.values(), *ANSWERS.values(), *UNREAD.values(), *FLOODS.values()]
    ready = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        ready.wait(DEADLINE_SECS)
        if number < len(peers):
            peers[number](client)
        else:
            upgrade(client, and_then=frame(mock_tick(1)))
            until_closed(client)

    with raw_server(script) as server, started(tmp_path, transport, server.url) as running:
        running.wait_heartbeat(lambda beat: True)
        before = running.rss_bytes()
        ready.set()
        beat = running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1, 4 * DEADLINE_SECS)
        peak = int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{running.process.pid}/status").read_text())[0]) * 1024
        assert peak - before <= RSS_MIB_MAX * MIB, f"resident memory rose by {(peak - before) / MIB:.0f} MiB"
        # picows refuses the first of the informational answers; the other one waits for the last.
        endless = len(ENDLESS_ANSWERS) + (transport == "websockets")
        assert beat["connections_unbounded"] == endless + len(UNREAD)
        reasons = [line["reason"] for line in running.messages("connection failed")]
        assert sum("the head of the answer has over 16384 bytes" in reason for reason in reasons) == endless
        reasons = [line["reason"] for line in running.messages("connection lost")]
        assert sum("the peer reads nothing" in reason for reason in reasons) == len(UNREAD)
        assert running.stop() == 0
        assert_calm(running)


@pytest.mark.slow
@pytest.mark.claim("N6")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N6_a_message_that_comes_slowly_is_waited_for(tmp_path: Path, transport: str) -> None:
    """No pong can come within a message: one that takes longer than a pong may must not be cut off over and over."""

    def script(client: socket.socket, number: int) -> None:
        upgrade(client)
        data = frame('{"pad": "' + "x" * 100_000 + '"}') + frame(mock_tick(number))
        # Longer than keepalive_secs and pong_timeout_secs together, in pauses that are shorter than either.
        for at in range(0, len(data), len(data) // 12):
            client.sendall(data[at : at + len(data) // 12])
            left.wait(0.1)
        until_closed(client)

    left = threading.Event()
    with (
        raw_server(script) as server,
        started(tmp_path, transport, server.url, keepalive_secs=0.3, pong_timeout_secs=0.3) as running,
    ):
        running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
        assert not running.messages("connection dropped")
        # And then nothing more comes, no pong either.
        assert "no pong within" in running.wait_line("connection dropped")["reason"]
        assert running.stop() == 0
        assert_calm(running)
        left.set()


BIG = MAX_MESSAGE_BYTES - 256


def filled(before: str, piece: str, after: str) -> str:
    """As many pieces as the largest message has room for."""
    return before + ",".join([piece] * (BIG // (len(piece) + 1))) + after


@cache
def dense() -> dict[str, str]:
    """Messages of as many values as there is room for, or as are read. Each is in the words of several venues, so that
    it is looked into as far as can be."""
    return {
        "an array of arrays": filled("[", "[]", "]"),
        "objects": filled('{"e":"x","type":"x","event":"x","channel":"x","id":[', '{"a":0}', "]}"),
        "names": "{" + ",".join(f'"{number:x}":0.5' for number in range(BIG // 11)) + "}",
        "texts": filled('{"e":"x","type":"x","event":"x","channel":"x","id":[', '"xx"', "]}"),
        "rows of no trades": filled(
            '{"channel":"trade","topic":"publicTrade.BTCUSDT","arg":{"channel":"trades","instId":"BTC-USDT"},'
            '"type":"update","event":"trade","events":[],"data":[',
            "{}",
            "]}",
        ),
        "fewer rows of no trades": '{"channel":"trade","topic":"publicTrade.BTCUSDT","data":['
        + ",".join(["{}"] * 100_000)
        + "]}",
        # Just so many that they are read.
        "objects with a name": '{"id":[' + ",".join(f'{{"{number:x}":0.5}}' for number in range(190_000)) + "]}",
        "objects with a name beyond ASCII": '{"id":['
        + ",".join(f'{{"\U0001f600{number:x}":0.5}}' for number in range(95_000))
        + "]}",
        "many texts": '{"id":[' + ",".join(['"xx"'] * 599_000) + "]}",
        "many texts beyond ASCII": '{"id":[' + ",".join(['"x\U0001f600"'] * 419_000) + "]}",
        "many arrays": '{"id":[' + ",".join(["[0.5]"] * 381_000) + "]}",
        "events of no trades": filled('{"type":"update","events":[', "{}", "]}"),
    }


DENSE_SOURCES = {
    "binance": ("/ws/btcusdt@trade", "btcusdt"),
    "bybit": ("/v5/public/spot", "BTCUSDT"),
    "gemini": ("/v1/marketdata/btcusd", "btcusd"),
    "kraken": ("/v2", "BTC/USD"),
    "okx": ("/ws/v5/public", "BTC-USDT"),
}


@pytest.mark.slow
@pytest.mark.claim("B4")
@pytest.mark.parametrize("venue", DENSE_SOURCES)
def test_B4_a_message_of_nothing_but_values_does_not_become_as_many_objects(tmp_path: Path, venue: str) -> None:
    """The largest message that is read at all could become thirty times as large in memory."""
    path, market = DENSE_SOURCES[venue]
    ready = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        ready.wait(DEADLINE_SECS)
        upgrade(client, and_then=b"".join(frame(text) for text in dense().values()))
        until_closed(client)

    with raw_server(script) as server:
        sources = tmp_path / "ws_sources.toml"
        sources.write_text(
            f'[[source]]\nname = "dense"\nurl = "{server.url}{path}"\npriority = 1\nvenue = "{venue}"\n'
            f'markets = {{ "{market}" = "X" }}\n'
        )
        config = write_config(tmp_path, {"engine": {"subscribe_timeout_secs": 60, "keepalive_secs": 60}})
        with engine(tmp_path, "--config", str(config), "--ingest", "realws") as running:
            running.wait_heartbeat(lambda beat: True)
            before = running.rss_bytes()
            ready.set()
            running.wait_heartbeat(
                lambda beat: beat["parse_errors"] + beat["ignored"] >= len(dense()), 4 * DEADLINE_SECS
            )
            peak = int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{running.process.pid}/status").read_text())[0]) * 1024
            assert peak - before <= RSS_MIB_MAX * MIB, f"resident memory rose by {(peak - before) / MIB:.0f} MiB"
            assert running.stop() == 0
            assert_calm(running)


LEGAL_UPGRADES: dict[str, dict[str, Any]] = {
    "more options": {"connection": "keep-alive, Upgrade"},
    "more options in another order": {"connection": "upgrade,Keep-Alive"},
    "two headers": {"connection": "keep-alive\r\nConnection: Upgrade"},
    "continue": {"before": b"HTTP/1.1 100 Continue\r\n\r\n"},
    "hints": {"before": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3, "connection": "Upgrade, x"},
}


@pytest.mark.slow
@pytest.mark.claim("N17", "N4")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N17_N4_an_upgrade_in_any_legal_form_is_one(tmp_path: Path, transport: str) -> None:
    """Each connection in another form. Where the transport knows only one, the other transport carries the source from
    the next attempt on, and as long as that succeeds."""
    forms = list(LEGAL_UPGRADES.values())
    served: list[int] = []

    def script(client: socket.socket, number: int) -> None:
        upgrade(client, and_then=frame(mock_tick(len(served) + 1)), **forms[len(served) % len(forms)])
        # It is read, or the client has left.
        if client.recv(65536):
            served.append(number)

    with raw_server(script) as server, started(tmp_path, transport, server.url, keepalive_secs=0.01) as running:
        running.wait_heartbeat(lambda beat: beat["ingest_received"] >= len(forms), 2 * DEADLINE_SECS)
        assert running.stop() == 0
        failures = [line["next_transport"] for line in running.messages("connection failed")]
        assert failures == (["websockets"] if transport == "picows" else [])
        assert_calm(running)


ODD_TEXT = "r\u2028\u2029\u0085\u009b31m\u202e\u2066\x00\x07\x1b[2J\r\n\x7f\ufeff"

NOT_TO_BE_READ = 1_000_000
"""Id of a tick that comes where nobody may listen any more."""

# What breaks the protocol, after which nobody can tell what a peer means.
VIOLATIONS = {
    **{f"opcode {code}": frame(b"x", code) for code in (3, 7, 11, 15)},
    "fragmented ping": frame(b"x", PING, fin=False),
    "fragmented close": frame(b"", CLOSE, fin=False),
    "ping of 126 bytes": frame(b"x" * 126, PING),
    "close of 126 bytes": frame(b"\x03\xe8" + b"x" * 124, CLOSE),
    "masked": frame("{}", mask=True),
    "close of one byte": frame(b"\x03", CLOSE),
    "reason that is not UTF-8": close_frame(1000, b"\xff\xfe"),
    "reason with half a character": close_frame(1000, "\ud800".encode("utf-8", "surrogatepass")),
    "lonely continuation": frame("{}", 0),
    "message within a message": frame("{", fin=False) + frame("{}"),
    "binary within a message": frame("{", fin=False) + frame(b"x", BINARY),
    "binary begun within a message": frame("{", fin=False) + frame(b"x", BINARY, fin=False),
    "message within a binary": frame(b"x", BINARY, fin=False) + frame("{}"),
    **{
        f"close code {code}": close_frame(code, ODD_TEXT)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
    },
}
# Bits of an extension that nobody agreed on. picows has them looked at once a read, which is then refused as a whole.
RESERVED = {f"reserved bits {bits}": frame(mock_tick(NOT_TO_BE_READ), rsv=bits) for bits in (1, 2, 4, 7)}
# No offence: ways to say goodbye.
GOODBYES = {
    "close": frame(b"", CLOSE),
    "close amid fragments": frame("{", fin=False) + frame(b"x", PING) + frame("}", 0) + close_frame(1001),
    **{f"close code {code}": close_frame(code, ODD_TEXT) for code in (1000, 1001, 1011, 1013, 3000, 4999)},
    "messages after a close": close_frame(1001) + (frame(mock_tick(NOT_TO_BE_READ)) + frame("{")) * 3,
    "nothing": b"",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim("N17")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N17_what_breaks_the_protocol_is_counted_and_ends_the_connection(tmp_path: Path, transport: str) -> None:
    """Each in a connection of its own, behind a good tick; the engine comes back every time, and its log stays calm."""
    endings = [*VIOLATIONS.values(), *GOODBYES.values()]

    def script(client: socket.socket, number: int) -> None:
        if number < len(endings):
            upgrade(client, and_then=frame(mock_tick(number)) + endings[number])
            if endings[number]:
                assert client.recv(65536)  # its close frame
        elif number < len(endings) + len(RESERVED):
            upgrade(client, and_then=list(RESERVED.values())[number - len(endings)])
            assert client.recv(65536)
        else:
            upgrade(client, and_then=frame(mock_tick(number)))
            until_closed(client)

    with raw_server(script) as server, started(tmp_path, transport, server.url) as running:
        last = len(endings) + len(RESERVED)
        running.wait_heartbeat(lambda beat: beat["reconnects"] == last, 4 * DEADLINE_SECS)
        beat = running.wait_heartbeat(lambda beat: beat["ingest_received"] == len(endings) + 1)
        # A close amid fragments leaves half a message, which is one more.
        assert beat["parse_errors"] == len(VIOLATIONS) + len(RESERVED) + 1
        assert running.stop() == 0
        assert_calm(running)
        assert len(running.messages("connection lost")) == last
        assert running.query(f"SELECT count(*) FROM ticks WHERE event_id = '{NOT_TO_BE_READ}'") == [(0,)]
        assert running.query("SELECT count(*) FROM ticks") == [(len(endings) + 1,)]


@pytest.mark.slow
@pytest.mark.claim("N8", "N17")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N8_N17_text_that_is_not_utf8_is_malformed_where_it_is_read(tmp_path: Path, transport: str) -> None:
    """What nobody reads is looked at by `websockets` alone, which then disconnects."""
    tick = mock_tick(1).encode()
    read = tick.replace(b"BTC", b"\xffBTC")
    unread = tick[:-1] + b',"x":"\xed\xa0\x80"}'
    messages = [read, unread] if transport == "picows" else [read, unread, tick]

    def script(client: socket.socket, number: int) -> None:
        upgrade(client, and_then=b"".join(map(frame, messages)) if transport == "picows" else frame(messages[number]))
        until_closed(client)

    with raw_server(script) as server, started(tmp_path, transport, server.url) as running:
        beat = running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
        counted = 1 if transport == "picows" else 2
        assert (beat["parse_errors"], beat["reconnects"]) == (counted, counted if transport == "websockets" else 0)
        assert running.stop() == 0
        assert_calm(running)


@pytest.mark.slow
@pytest.mark.claim("N17")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N17_an_answer_to_the_upgrade_that_makes_no_sense_is_a_failure_like_others(
    tmp_path: Path, transport: str
) -> None:
    odd = ODD_TEXT.replace("\r\n", "").encode()
    agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    answers: list[bytes] = [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 " + odd + b"\r\n\r\n",
        b"HTTP/1.1 200 " + odd + b"\r\n\r\n",
        b"HTTP/1.1 520 \r\n\r\n",
        b"HTTP/1.0 503 No\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 302 No\r\nLocation: " + odd + b"\r\n\r\n",
        b"HTTP/1.1 503 No\r\n" + odd + b"\r\n\r\n",
        b"HTTP/1.1 101 " + odd + b"\r\n" + odd + b": " + odd + b"\r\n\r\n",
        agreed.encode() + b"\r\n",
        agreed.encode() + b"Sec-WebSocket-Accept: " + odd + b"\r\n\r\n",
        agreed.encode() + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 503 " + b"x" * 9000 + b"\r\n\r\n",
    ]
    extras = ["Sec-WebSocket-Extensions: permessage-deflate\r\n", "Sec-WebSocket-Protocol: mqtt\r\n"]

    def script(client: socket.socket, number: int) -> None:
        if number < len(answers):
            read_request(client)
            client.sendall(answers[number])
        else:
            extra = dict(enumerate(extras, len(answers))).get(number)
            upgrade(client, extra or "", frame(mock_tick(number)))
            until_closed(client)

    with raw_server(script) as server, started(tmp_path, transport, server.url) as running:
        running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1, 2 * DEADLINE_SECS)
        assert len(running.messages("connection failed")) == server.connections - 1 == len(answers) + len(extras)
        assert running.stop() == 0
        assert_calm(running)


# --- told to wait (N5) -----------------------------------------------------------------------------------------


def refuse(client: socket.socket, *headers: bytes) -> None:
    """Answer the upgrade with 429."""
    read_request(client)
    lines = [b"HTTP/1.1 429 Too Many Requests", *(b"Retry-After: " + header for header in headers)]
    client.sendall(b"\r\n".join(lines) + b"\r\nContent-Length: 100\r\n\r\n")


def serve(client: socket.socket, number: int = 1) -> None:
    """Upgrade, send one tick, and stay."""
    upgrade(client, and_then=frame(mock_tick(number)))
    until_closed(client)


@pytest.mark.slow
@pytest.mark.claim("N5")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N5_a_wait_beyond_reason_is_cut_and_what_the_venue_said_is_told(tmp_path: Path, transport: str) -> None:
    """The longest of what it said counts, whatever it said beside; 429 is obeyed without waiting for its body."""

    def script(client: socket.socket, number: int) -> None:
        if number:
            serve(client)
        else:
            refuse(client, b"Fri, 31 Dec 9999 23:59:59 GMT, 7", b"soon\xb2", b"\xe2\x80\xa8")

    with raw_server(script) as server, started(tmp_path, transport, server.url, max_retry_after_secs=0.7) as running:
        told = running.wait_line("told to wait longer than max_retry_after_secs")
        assert told["retry_after"].startswith("Fri, 31 Dec 9999 23:59:59 GMT, 7, soon\u00b2")
        assert (told["source"].startswith("mock_ws"), told["max_retry_after_secs"]) == (True, 0.7)
        running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
        failed, connected = [
            next(line["timestamp"] for line in running.lines if line["fields"]["message"] == message)
            for message in ("connection failed", "connected")
        ]
        waited = datetime.fromisoformat(connected) - datetime.fromisoformat(failed)
        assert 0.65 <= waited.total_seconds() < 5
        assert running.stop() == 0
        assert_calm(running)


def set_bar(database: Path, secs: float) -> None:
    """What an earlier run, under another clock perhaps, left behind."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        until_ms = int((time.time() + secs) * 1000)
        assert connection.execute("UPDATE sources SET barred_until = ?", (until_ms,)).rowcount == 1


def bar_secs(running: Engine) -> float:
    """How long the bar in the database will last."""
    [(until_ms,)] = running.query("SELECT barred_until FROM sources")
    return float(until_ms) / 1000 - time.time()


@pytest.mark.slow
@pytest.mark.claim("N5")
@pytest.mark.parametrize("secs", [300 * 365 * 86400.0, 3700.0, 60.0])
def test_N5_a_bar_of_an_earlier_run_is_told_cut_and_kept(tmp_path: Path, secs: float) -> None:
    """Told at the start, in STATUS= and in the reason of exit 10; cut to `max_retry_after_secs`, on disk as well, so
    that restarts do not begin it anew; and the venue is not contacted."""
    expected = min(secs, 3600.0)
    with raw_server(lambda client, number: refuse(client, b"60")) as server, ExitStack() as stack:
        with started(tmp_path, "picows", server.url) as running:
            running.wait_line("connection failed")
            assert running.stop() == 0
        set_bar(running.db, secs)
        address = str(tmp_path / "notify")
        systemd = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        systemd.bind(address)
        systemd.settimeout(DEADLINE_SECS)
        config = write_config(tmp_path, {"engine": {"ws_url": server.url, "network_give_up_secs": 0.3}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", NOTIFY_SOCKET=address) as running:
            ready = systemd.recv(4096).decode()
            assert running.wait_exit() == 10
        (told,) = running.messages("barred until ")
        until = re.fullmatch(r"barred until (\S+): HTTP 429 or 418, to an earlier run", told["message"])
        assert until is not None
        left = datetime.fromisoformat(until[1]) - datetime.now(UTC)
        assert expected - 15 < left.total_seconds() <= expected + 1
        assert told["source"].startswith("mock_ws ")
        status = re.fullmatch(r"READY=1\nSTATUS=.* mock_ws \S+ barred until (\S+): HTTP 429 or 418, .*", ready)
        assert status is not None
        # Both are cut to whole seconds, one of them a moment later.
        assert abs((datetime.fromisoformat(status[1]) - datetime.fromisoformat(until[1])).total_seconds()) <= 1
        (error,) = [line["fields"] for line in running.lines if line["level"] == "ERROR"]
        assert "no source connected for" in error["message"]
        assert f"barred until {until[1][:-3]}" in error["message"]
        assert expected - 15 < bar_secs(running) <= expected
        assert server.connections == 1


@pytest.mark.slow
@pytest.mark.claim("N5")
def test_N5_of_several_bars_of_a_host_the_longest_counts(tmp_path: Path) -> None:
    """Two sources were told the same, a third less; all three are at one host."""
    with raw_server(serve_one) as server:
        names = ("first", "second", "third")
        sources = [f'[[source]]\nname = "{n}"\nurl = "{server.url}/{n}"\nkind = "mock"\npriority = 1\n' for n in names]
        (tmp_path / "ws_sources.toml").write_text("\n".join(sources))
        store = open_ledger(tmp_path / "bot.db", busy_timeout_ms=1000)
        until_ms = int(time.time() * 1000) + 60_000
        # The second is of an earlier version, which did not keep the host.
        told = {"first": until_ms, "third": until_ms - 59_900}
        store.write(Batch(barred={name: ("127.0.0.1", until) for name, until in told.items()}))
        store._connection.execute("INSERT INTO sources(name, barred_until) VALUES ('second', ?)", (until_ms,))
        store.close()
        arguments = ("--ingest", "realws")
        with started(tmp_path, "picows", server.url, *arguments, network_give_up_secs=0.4) as running:
            assert running.wait_exit() == 10
        assert [line["source"] for line in running.messages("barred until ")] == list(names)
        (error,) = [line["fields"]["message"] for line in running.lines if line["level"] == "ERROR"]
        assert error.count("barred until") == 3
        assert server.connections == 0


@pytest.mark.slow
@pytest.mark.claim("N5")
def test_N5_a_clock_that_was_set_back_does_not_lengthen_a_bar(tmp_path: Path) -> None:
    """What lies on disk is from an hour hence: a bar of 1.5 s is none of an hour and 1.5 s."""

    def script(client: socket.socket, number: int) -> None:
        serve(client) if number else refuse(client, b"3000")

    with raw_server(script) as server:
        with started(tmp_path, "picows", server.url) as running:
            running.wait_line("connection failed")
            assert running.stop() == 0
        set_bar(running.db, 3600 + 1.5)
        os.utime(running.db, (time.time() + 3600,) * 2)
        since = time.monotonic()
        with started(tmp_path, "picows", server.url) as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
            assert time.monotonic() - since > 1.4
            assert running.stop() == 0


@pytest.mark.slow
@pytest.mark.claim("N5")
def test_N5_an_operator_can_lift_a_bar(tmp_path: Path) -> None:
    """By the command that the documents name, on the stopped engine."""

    def script(client: socket.socket, number: int) -> None:
        serve(client) if number else refuse(client, b"3600")

    with raw_server(script) as server:
        with started(tmp_path, "picows", server.url) as running:
            running.wait_line("connection failed")
            assert running.stop() == 0
        config = str(tmp_path / "config.toml")
        with engine(tmp_path, "--config", config, "--lift-bars") as lifting:
            assert lifting.wait_exit() == 0
            assert lifting.wait_line("bars lifted")["hosts"] == ["127.0.0.1"]
        assert server.connections == 1
        with engine(tmp_path, "--config", config, "--ingest", "mockws") as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
            assert running.stop() == 0
    with engine(tmp_path, "--config", config, "--lift-bars", "--db", str(tmp_path / "mistyped.db")) as lifting:
        assert lifting.wait_exit() == 12
    assert not (tmp_path / "mistyped.db").exists()


# --- connecting (N15, N16) -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.claim("N15")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N15_a_venue_that_delivers_and_drops_is_reconnected_to_at_an_even_pace(tmp_path: Path, transport: str) -> None:
    """A share of a minute after the connection before began, although each of them was healthy; two sources of one host
    share its budget."""
    began: list[float] = []
    enough = threading.Event()

    def script(client: socket.socket, number: int) -> None:
        began.append(time.monotonic())
        upgrade(client, and_then=frame(mock_tick(number)))
        if len(began) == 4:
            enough.set()
            until_closed(client)

    with raw_server(script) as server:
        url = server.url
        sources = [f'[[source]]\nname = "{n}"\nurl = "{url}/{n}"\nkind = "mock"\npriority = {n}\n' for n in (1, 2)]
        (tmp_path / "ws_sources.toml").write_text("\n".join(sources))
        with started(tmp_path, transport, url, "--ingest", "realws", max_connects_per_minute=120) as running:
            assert enough.wait(DEADLINE_SECS)
            assert running.stop() == 0
    # Three shares of half a second, less what a busy machine delayed the first one's acceptance by.
    assert 1.0 < began[-1] - began[0] < DEADLINE_SECS, began


@pytest.fixture
def own_names(tmp_path: Path) -> Callable[..., list[str]]:
    """Makes a command prefix that puts files of our own over some of /etc for one process."""
    if os.geteuid() != 0:
        raise Unavailable("other files in /etc for one process need a mount namespace", "run as root")

    def prefix(**files: str) -> list[str]:
        mounts = []
        for name, text in files.items():
            path = tmp_path / f"etc-{name}"
            path.write_text(text)
            mounts.append(f"mount --bind {path} /etc/{name.replace('_', '.')}")
        return ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]

    return prefix


def swallow(host: str, port: int, stack: ExitStack) -> None:
    """Listen at an address so that it drops whoever wants to connect, as a firewall does."""
    listener = stack.enter_context(socket.socket())
    listener.bind((host, port))
    listener.listen(0)
    # What the queue does not hold is dropped.
    for _ in range(4):
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex((host, port))


DEAD = "127.0.0.41"
ALIVE = "127.0.0.42"


@pytest.mark.slow
@pytest.mark.claim("N16")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", ["swallows", "refuses", "hangs up", "says nonsense"])
def test_N16_every_address_of_a_host_is_tried(
    tmp_path: Path, transport: str, kind: str, own_names: Callable[..., list[str]]
) -> None:
    """Whichever comes first, one that swallows, refuses or breaks off does not keep the engine from the other."""
    # glibc sorts what it finds, so both orders of the file are tried.
    for order in ((DEAD, ALIVE), (ALIVE, DEAD)):
        hosts = "127.0.0.1 localhost\n" + "".join(f"{address} exchange.test\n" for address in order)
        prefix = own_names(hosts=hosts)
        with raw_server(serve_one, ALIVE) as server, ExitStack() as stack:
            if kind == "swallows":
                swallow(DEAD, server.port, stack)
            elif kind != "refuses":
                answer = b"" if kind == "hangs up" else b"nonsense\r\n\r\n"
                stack.enter_context(raw_server(partial(say, answer=answer), DEAD, server.port))
            url = f"ws://exchange.test:{server.port}/"
            config = write_config(tmp_path, {"engine": {"ws_url": url, "max_backoff_secs": 0.05}})
            arguments = ("--config", str(config), "--ingest", "mockws", "--db", str(tmp_path / f"{order[0]}.db"))
            with engine(tmp_path, *arguments, prefix=prefix, HYBRID_TRANSPORT=transport) as running:
                since = time.monotonic()
                running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
                assert time.monotonic() - since < 5
                assert running.stop() == 0
                assert_calm(running)


@pytest.mark.slow
@pytest.mark.claim("N16")
def test_N16_what_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "DIAL_TIMEOUT_SECS", 1.0)
    with ExitStack() as stack:
        with socket.create_server((DEAD, 0)) as nobody:
            port = nobody.getsockname()[1]
        swallow(DEAD, port, stack)
        with pytest.raises(OSError, match=rf"^no connection to {DEAD} within 1 s$"):
            engine_loop.run(dialing.Dialer().dial((DEAD, port)))
        with pytest.raises(OSError, match="cannot be the name of a host"):
            engine_loop.run(dialing.Dialer().dial((f"{'x' * 64}.test", port)))


def serve_one(client: socket.socket, number: int) -> None:
    """A `script` that serves everybody."""
    serve(client, number)


@pytest.mark.slow
@pytest.mark.claim("N16")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N16_a_silent_resolver_delays_no_stop(
    tmp_path: Path, transport: str, own_names: Callable[..., list[str]]
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.settimeout(DEADLINE_SECS)
        try:
            server.bind((f"127.0.0.{60 + TRANSPORTS.index(transport)}", 53))
        except OSError as error:
            raise Unavailable(
                f"port 53 of a loopback address cannot be had: {error}", "stop what listens there"
            ) from None
        prefix = own_names(
            resolv_conf=f"nameserver {server.getsockname()[0]}\noptions timeout:30 attempts:5\n",
            nsswitch_conf="hosts: files dns\n",
        )
        with started(tmp_path, transport, "ws://exchange.test:9/", prefix=prefix) as running:
            server.recv(4096)  # The engine has asked, and gets no answer.
            since = time.monotonic()
            assert running.stop() == 0
            # Well below shutdown_timeout_secs, which is for what has to be written.
            assert time.monotonic() - since < 3
            assert_calm(running)
