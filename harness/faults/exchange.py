"""A mock WebSocket exchange in the test process, on an ephemeral loopback port.

Built on `websockets`, so that the engine's own transport meets another implementation on the wire. It has its own
JSON and imports nothing of the engine's. It counts what it sent: `sent` is what the engine must account for.

Each method may be called from the test's thread; the server runs on a loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from http import HTTPStatus
from typing import Any, TypeVar, cast
from weakref import WeakSet

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Event

from harness.base.clock import Clock, OsClock, poll
from harness.base.errors import Refuted
from harness.base.waiting import awaiting
from harness.faults.dialects import Dialect

T = TypeVar("T")

CALL_SECS = 30.0
"""Deadline of one call from the test into the server's loop."""

HOPE_SECS = 0.5
"""How often a wait asks whether what it waits for can come at all."""

_MUTE_LOOK_SECS = 0.02

# Ticks whose stamp is remembered: more than any proof lets a venue send again.
_STAMPS_MAX = 200_000


def event_id(number: int) -> str:
    """Return a UUID of its own for each number: text that any reading of N3 takes for an id, and none for a count."""
    return f"{number >> 48:08x}-0000-4000-8000-{number & 0xFFFFFFFFFFFF:012x}"


class Exchange:
    """One server on the loopback, `url`. Use as a context manager."""

    def __init__(self, symbol: str = "SOL/USDC", clock: Clock | None = None, host: str = "127.0.0.1") -> None:
        """host: the address that it listens on, of this computer's loopback."""
        self.symbol = symbol
        self._host = host
        self.sent = 0
        """Distinct ticks that were sent."""
        self.sent_again = 0
        """Ticks that were sent a second time."""
        self.sent_raw = 0
        """Messages of `send_raw` that went out, one for each client."""
        self.connections = 0
        """Clients that ever connected."""
        self.numbered = False
        """Whether event ids are whole numbers, for proofs about numbers (gaps, ids that start over); else UUIDs."""
        self.port = 0
        self.deadline_secs = 10.0
        """Of every wait that names none of its own."""
        self.refuted: Callable[[str], Refuted] = Refuted
        """Makes the refutation when a client does not do what it is waited for: a unit's own knows how the unit is."""
        self.hopeless: Callable[[], bool] = lambda: False
        """Whether no client can come any more: a unit's own knows that it is down for good. Asked now and then."""
        self._clock = clock or OsClock()
        self.opened: list[float] = []
        """When clients were let in, in seconds of the wall clock, as the journal has it."""
        self.pings: list[float] = []
        """When clients sent a ping, in monotonic seconds. It is answered."""
        self.refusals: list[float] = []
        """When handshakes were answered with an HTTP error, in monotonic seconds."""
        self._next_id = 1
        self._frozen: set[ServerConnection] = set()
        self._refusal: tuple[int, dict[str, str]] | None = None
        self.late_handshakes = 0
        """Handshakes that were answered after `delay_handshakes`."""
        self._delay_secs = 0.0
        self._mute = False
        self._clients: set[ServerConnection] = set()
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        self._stamps: dict[int, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="exchange", daemon=True)
        self._server: Server | None = None
        self._on_connect: Callable[[ServerConnection], Awaitable[None]] | None = None
        self._dialect: Dialect | None = None
        self.heard: list[str] = []
        """What clients said; a `dialect` has answered each of it. Nobody listens while `feed` sends."""

    @property
    def url(self) -> str:
        return f"ws://[{self._host}]:{self.port}" if ":" in self._host else f"ws://{self._host}:{self.port}"

    def __enter__(self) -> Exchange:
        self._thread.start()
        self._server = self._call(self._serve())
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECS)
        self._loop.close()

    def wait_client(self, deadline_secs: float | None = None, *, connections: int = 1) -> None:
        """Wait until a client is connected, and so many have ever been. Refuted when none comes."""
        waited = self._wait(
            "a client of the exchange", lambda: bool(self._clients) and self.connections >= connections, deadline_secs
        )
        if waited is not None:
            raise self.refuted(f"no client connected to {self.url} within {waited:.2g} s")

    def wait_sent(self, count: int, deadline_secs: float | None = None) -> None:
        """Wait until `count` ticks were sent. Refuted when clients do not take them."""
        waited = self._wait(f"{count} ticks to be sent", lambda: self.sent >= count, deadline_secs)
        if waited is not None:
            raise self.refuted(f"{self.sent} of {count} ticks sent to {self.url} within {waited:.2g} s")

    def wait_refusals(self, count: int, deadline_secs: float | None = None) -> None:
        """Wait until `count` handshakes were refused. Refuted when nobody tries so often."""
        waited = self._wait(f"{count} refused handshakes", lambda: len(self.refusals) >= count, deadline_secs)
        if waited is not None:
            raise self.refuted(f"{len(self.refusals)} of {count} handshakes refused within {waited:.2g} s")

    def wait_pings(self, count: int, deadline_secs: float | None = None) -> None:
        """Wait until clients have sent so many pings. Refuted when they do not."""
        waited = self._wait(f"{count} pings of clients", lambda: len(self.pings) >= count, deadline_secs)
        if waited is not None:
            raise self.refuted(f"{len(self.pings)} of {count} pings were sent to {self.url} within {waited:.2g} s")

    def speak(self, dialect: Dialect) -> None:
        """From now on, greet every client that connects as this venue does, and answer what it says."""
        self._dialect = dialect

    def wait_heard(self, count: int, deadline_secs: float | None = None) -> None:
        """Wait until clients have said so many messages, and were answered. Refuted when they do not."""
        waited = self._wait(f"{count} messages of clients", lambda: len(self.heard) >= count, deadline_secs)
        if waited is not None:
            raise self.refuted(f"{len(self.heard)} of {count} messages were said to {self.url} within {waited:.2g} s")

    def _wait(self, what: str, reached: Callable[[], bool], deadline_secs: float | None) -> float | None:
        """Wait for something of the clients; None when it has come, else the seconds that were waited in vain."""
        deadline = self.deadline_secs if deadline_secs is None else deadline_secs
        began = self._clock.monotonic()
        look_at, over = began + HOPE_SECS, False

        def done() -> bool | None:
            nonlocal look_at, over
            # What was on its way when it was asked last has come by now.
            was_over = over
            if self._clock.monotonic() >= look_at:
                look_at, over = self._clock.monotonic() + HOPE_SECS, self.hopeless()
            return True if reached() else False if was_over else None

        with awaiting(what):
            if poll(done, self._clock, deadline):
                return None
        return min(deadline, self._clock.monotonic() - began)

    def send_ticks(self, count: int, *, price: float = 100.0, step: float = 0.0, again: int = 0) -> None:
        """Send `count` new ticks to every client, at full speed.

        price, step: the n-th tick ever sent (from 1) is at price + n * step, in quote units. again: how many of the
        ticks sent last are sent once more before, as venues do after a reconnect; they count as `sent_again`, not as
        `sent`.
        """
        first = self._next_id - again
        self._next_id += count
        self._call(self._broadcast(self.tick(n, price + n * step) for n in range(first, self._next_id)))
        self.sent += count
        self.sent_again += again

    def feed(self, *, interval_secs: float, price: float = 100.0, again: int = 0) -> None:
        """From now on, send every client that connects a tick each `interval_secs`, for as long as it stays.

        again: how many of the ticks sent last each of them is sent first, as venues do after a reconnect.
        """

        async def forever(client: ServerConnection) -> None:
            for number in range(max(1, self._next_id - again), self._next_id):
                await client.send(self.tick(number, price))
                self.sent_again += 1
            while client not in self._frozen:
                if self._mute:
                    await asyncio.sleep(_MUTE_LOOK_SECS)
                    continue
                number, self._next_id = self._next_id, self._next_id + 1
                await client.send(self.tick(number, price))
                self.sent += 1
                await asyncio.sleep(interval_secs)

        self._on_connect = forever

    def number_from(self, next_id: int) -> None:
        """The next new tick has this id, as after a venue was wiped; ids that come again are of other trades."""
        self._next_id = next_id
        self._stamps.clear()

    def send_raw(self, messages: Iterable[str | bytes]) -> None:
        """Send messages as they are: garbage, acknowledgements, whatever a venue might say."""
        self.sent_raw += self._call(self._broadcast(messages))

    def on_connect_send(self, messages: list[str]) -> None:
        """From now on, greet every client that connects with these messages."""

        async def greet(client: ServerConnection) -> None:
            for message in messages:
                await client.send(message)

        self._on_connect = greet

    def drop_clients(self) -> int:
        """Cut every connection without a closing handshake, as a network does. Returns how many there were."""

        async def cut() -> int:
            clients = list(self._clients)
            for client in clients:
                client.transport.abort()
            return len(clients)

        return self._call(cut())

    def freeze_clients(self) -> int:
        """Neither read from nor write to the present clients any more, so that not even a pong goes out: what a
        half-open connection looks like from the other end. Returns how many there were."""

        async def freeze() -> int:
            clients = list(self._clients)
            for client in clients:
                client.transport.pause_reading()
                self._frozen.add(client)
            return len(clients)

        return self._call(freeze())

    def refuse(self, status: int | None, headers: dict[str, str] | None = None) -> None:
        """From now on, answer every handshake with this HTTP status; None lets clients in again."""
        self._refusal = None if status is None else (status, headers or {})

    def mute(self, muted: bool) -> None:
        """Whether `feed` sends nothing for now. Connections stay, pings are answered."""
        self._mute = muted

    def delay_handshakes(self, seconds: float) -> None:
        """From now on, answer every handshake so late; 0: at once."""
        self._delay_secs = seconds

    def close_port(self) -> None:
        """Cut every connection and listen no more: who connects now is refused by the kernel."""
        self._call(self._close())
        self._server = None

    def open_port(self) -> None:
        """Listen on the same port again."""
        self._server = self._call(self._serve())

    def flood_on_connect(self) -> None:
        """From now on, send every client that connects ticks as fast as it takes them."""
        self.feed(interval_secs=0.0)

    def tick(self, number: int, price: float = 100.0, *, volume: float = 1.0, age_secs: float = 0.0) -> str:
        """Return the wire form of a tick (contract N3, or that of the venue it speaks as).

        age_secs: how long before the present it is stamped; the same stamp whenever it is sent again, as a venue's
        trades have.
        """
        stamp = self._stamps.setdefault(number, int((self._clock.wall() - age_secs) * 1000))
        if len(self._stamps) > _STAMPS_MAX:
            del self._stamps[next(iter(self._stamps))]
        if self._dialect is not None:
            return self._dialect.trade(self._dialect.market, number, f"{price:.8f}", f"{volume:.8f}", stamp)
        return json.dumps(
            {
                "event_id": str(number) if self.numbered else event_id(number),
                "symbol": self.symbol,
                "price": price,
                "volume": volume,
                "ts": stamp,
            }
        )

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_SECS)

    async def _serve(self) -> Server:
        return await serve(
            self._handle,
            self._host,
            self.port,
            process_request=self._answer,
            compression=None,
            ping_interval=None,
            close_timeout=0.2,
            create_connection=self._peer(),
        )

    def _peer(self) -> type[ServerConnection]:
        """A connection that says when its client has sent a ping, which the library answers without a word."""
        transports = self._transports

        def pinged() -> None:
            self.pings.append(self._clock.monotonic())

        class Peer(ServerConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                transports.add(cast(asyncio.Transport, transport))
                super().connection_made(transport)

            def process_event(self, event: Event) -> None:
                if isinstance(event, Frame) and event.opcode is Opcode.PING:
                    pinged()
                super().process_event(event)

        return Peer

    async def _answer(self, client: ServerConnection, _request: Request) -> Response | None:
        if self._delay_secs:
            await asyncio.sleep(self._delay_secs)
            self.late_handshakes += 1
        if self._refusal is None:
            return None
        status, headers = self._refusal
        self.refusals.append(self._clock.monotonic())
        response = client.respond(HTTPStatus(status), "refused\n")
        for name, value in headers.items():
            response.headers[name] = value
        return response

    async def _handle(self, client: ServerConnection) -> None:
        self.opened.append(self._clock.wall())
        self._clients.add(client)
        self.connections += 1
        try:
            if self._on_connect is not None:
                await self._on_connect(client)
            await self._converse(client, self._dialect)
        except ConnectionClosed:
            pass  # The engine may go at any moment: killing it is what proofs do.
        finally:
            self._clients.discard(client)

    async def _converse(self, client: ServerConnection, dialect: Dialect | None) -> None:
        for message in dialect.greeting if dialect else ():
            await client.send(message)
        async for said in client:
            text = said if isinstance(said, str) else said.decode(errors="replace")
            for message in dialect.answer(text) if dialect else ():
                await client.send(message)
            self.heard.append(text)

    async def _broadcast(self, messages: Iterable[str | bytes]) -> int:
        sent = 0
        for message in messages:
            for client in list(self._clients):
                try:
                    await client.send(message)
                except ConnectionClosed:
                    continue
                sent += 1
        return sent

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close(close_connections=True)
            await self._server.wait_closed()
            # A connection that ends later wakes it anew, which asyncio (3.13) does not expect, and tells of some time.
            self._server.server._wakeup = lambda: None  # type: ignore[attr-defined]

    async def _end(self) -> None:
        await self._close()
        # A client that came while the server closed has a handler that the server does not know any more, and a
        # connection whose end wakes a server that was woken already, which asyncio (3.13) does not expect.
        self._loop.set_exception_handler(lambda *_: None)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0)
