"""The venue of the bench: a process that sends ready-made frames over a WebSocket as fast as TCP takes them.

It must never be the bottleneck, so there is no event loop and no WebSocket library in it: the handshake of RFC 6455 is
two lines, and a server's frames are a few bytes in front of the payload. Frames are made before the client comes and
sent in blocks; with a rate, one frame a write, each at its time.

    python -m bench.load --ticks 200000 [--rate 25000] [--frames combined] [--markets 10] [--stamps FILE]

prints one JSON object a line: {"port": ...} once it listens, {"started": ...} when it sends the first frame. Times are
nanoseconds of CLOCK_MONOTONIC, which all processes share. It ends when the client hangs up.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from array import array
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha1
from itertools import islice
from pathlib import Path

FIRST_ID = 1_000_000_000
"""Ids of a constant width make frames of a constant length."""

BLOCK_FRAMES = 500
"""Frames in one write: 64 KiB, what a busy venue's kernel hands over at once."""

READY_FRAMES = 400_000
"""Frames made before the client comes; more are made while sending. They stay fresh enough for R2 (5 s) that way."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

_PLAIN = (
    b'{"e":"trade","E":%(now)d,"s":"%(market)b","t":%(id)d,"p":"142.%(cents)02d000000","q":"1.25000000",'
    b'"T":%(now)d,"m":true,"M":true}'
)
_COMBINED = (
    b'{"stream":"solusdt@aggTrade","data":{"e":"aggTrade","E":%(now)d,"s":"%(market)b","a":%(id)d,'
    b'"p":"142.%(cents)02d000000","q":"1.25000000","f":%(id)d,"l":%(id)d,"T":%(now)d,"m":true,"M":true}}'
)


_MOCK = (
    b'{"event_id":"018f6d3c-7b5a-7cc0-9a1e-%(id)012d","symbol":"SOL/USDC","price":142.%(cents)02d,"volume":1.25,'
    b'"ts":%(now)d,"source":"a venue of ours"}'
)

FRAMES = {"trade": _PLAIN, "combined": _COMBINED, "mock": _MOCK}
"""Binance's trades, its combined stream of aggTrade, and the ticks of MOCK_WS with textual ids (N3)."""


def market_names(count: int) -> list[str]:
    """What the venue calls so many markets."""
    return ["SOLUSDT"] if count == 1 else [f"M{number:04}USDT" for number in range(count)]


def frame_template(form: str, market: str) -> bytes:
    """A server's text frame (RFC 6455, section 5.2) with places for `now` (ms), `id`, `cents` (0..99) and `market`,
    which is as long as the one given."""
    payload = FRAMES[form]
    size = len(payload % {b"now": 10**12, b"id": FIRST_ID, b"cents": 0, b"market": market.encode()})
    if not 126 <= size < 2**16:
        raise ValueError(f"payload of {size} bytes: the two-byte length field takes 126 to 65535")
    return b"\x81\x7e" + size.to_bytes(2, "big").replace(b"%", b"%%") + payload


def frames(ticks: int, form: str, markets: int = 1) -> Iterator[bytes]:
    """`ticks` frames of so many markets in turn, each with consecutive trade ids, stamped with the time at which they
    are made."""
    names = [name.encode() for name in market_names(markets)]
    template = frame_template(form, names[0].decode())
    for number in range(ticks):
        turn, market = divmod(number, markets)
        now = time.time_ns() // 1_000_000
        yield template % {b"now": now, b"id": FIRST_ID + turn, b"cents": number * 7 % 100, b"market": names[market]}


def blocks(ticks: int, form: str, markets: int = 1) -> Iterator[bytes]:
    """The same frames, joined for one write each."""
    made = frames(ticks, form, markets)
    while block := b"".join(islice(made, BLOCK_FRAMES)):
        yield block


def shake_hands(client: socket.socket) -> None:
    """The server's half of the opening handshake (RFC 6455, section 4.2)."""
    request = b""
    while b"\r\n\r\n" not in request:
        received = client.recv(65536)
        if not received:
            raise ConnectionError("client went away during the handshake")
        request += received
    headers = dict(line.split(b":", 1) for line in request.split(b"\r\n")[1:] if b":" in line)
    key = next(value.strip() for name, value in headers.items() if name.lower() == b"sec-websocket-key")
    accept = b64encode(sha1(key + _GUID).digest())
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def send_all(client: socket.socket, ready: list[bytes], rest: Iterator[bytes]) -> None:
    """As fast as the client takes them."""
    say(started=time.monotonic_ns())
    for block in ready:
        client.sendall(block)
    for block in rest:
        client.sendall(block)


def send_paced(client: socket.socket, made: list[bytes], rate: int) -> array[int]:
    """One frame a write, `rate` a second; returns when each was sent. What is late is sent at once."""
    stamps = array("q")
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    interval = 1_000_000_000 // rate
    due = time.monotonic_ns()
    say(started=due)
    for frame in made:
        while (early := due - time.monotonic_ns()) > 0:
            time.sleep(early / 1e9)
        stamps.append(time.monotonic_ns())
        client.sendall(frame)
        due += interval
    return stamps


def say(**fields: int) -> None:
    """One line for whoever started this process."""
    print(json.dumps(fields), flush=True)


def main() -> None:
    """Serves one client. See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Send trades over a WebSocket.")
    parser.add_argument("--ticks", type=int, required=True, help="how many trades")
    parser.add_argument("--rate", type=int, help="trades a second, one a write; default as fast as possible")
    parser.add_argument(
        "--frames", choices=FRAMES, default="trade", help="combined: as cryptofeed wants it; mock: as MOCK_WS does"
    )
    parser.add_argument("--markets", type=int, default=1, help="of how many markets, in turn (default: 1)")
    parser.add_argument("--stamps", type=Path, help="with --rate: where to write the send times, as 64-bit integers")
    arguments = parser.parse_args()
    paced = bool(arguments.rate)
    rest = (frames if paced else blocks)(arguments.ticks, arguments.frames, arguments.markets)
    ready = list(rest if paced else islice(rest, READY_FRAMES // BLOCK_FRAMES))
    with socket.create_server(("127.0.0.1", 0)) as server:
        say(port=server.getsockname()[1])
        client, _ = server.accept()
    with client:
        try:
            shake_hands(client)
            if paced:
                stamps = send_paced(client, ready, arguments.rate)
                if arguments.stamps:
                    arguments.stamps.write_bytes(stamps.tobytes())
                    say(stamped=len(stamps))
            else:
                send_all(client, ready, rest)
            while client.recv(65536):
                pass
        except ConnectionError:
            # The client is a process that is stopped when it has what it wanted.
            return


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
