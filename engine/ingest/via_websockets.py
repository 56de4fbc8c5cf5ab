"""The other transport (HYBRID_TRANSPORT=websockets), which the proofs use as a second opinion. Sole importer of
websockets."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, cast

from websockets.asyncio import client
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed

from engine.ingest.refusal import HEAD_BYTES_MAX, is_interim, read_head
from engine.ingest.session import CONNECT_TIMEOUT_SECS
from engine.ingest.transport import CLOSE_GRACE_SECS, SEND_BUFFER_BYTES, Line, refused, why
from engine.ingest.venues.port import MAX_MESSAGE_BYTES

# websockets reads one frame less than this ahead of us; a paused feed holds that much per connection.
_QUEUE_FRAMES = 64


class _Answer:
    """The answer to the upgrade as it comes in: what of it the library is to see, which knows no interim ones."""

    def __init__(self) -> None:
        self.head = b""
        """As much as was read of the answer that counts; behind it what came with its end."""
        self.is_over = False
        """Whether all of its head is here."""
        self.is_good = True
        """Whether it may be an upgrade yet."""
        self.is_unbounded = False
        self._bytes = 0

    def add(self, data: bytes) -> bytes:
        """What has come in. Returns the answer once its head is whole, with what is behind it."""
        self.head += data
        while (end := self.head.find(b"\r\n\r\n")) >= 0:
            status, _ = read_head(self.head[:end])
            if not is_interim(status):
                self.is_over = True
                self.is_good = status in (None, 101)
                return self.head
            self._bytes += end + 4
            self.head = self.head[end + 4 :]
        self.is_unbounded = self._bytes + len(self.head) >= HEAD_BYTES_MAX
        self.is_good = not self.is_unbounded
        return b""


class _Client(client.ClientConnection):
    """A connection of the library's with the bounds that it lacks: on what the peer does not read, and on when the end
    has come."""

    def __init__(self, line: Line, answer: _Answer, protocol: ClientProtocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self._line = line
        self._answer = answer
        self._ending = False

    def data_received(self, data: bytes) -> None:
        if not self._answer.is_over:
            data = self._answer.add(data)
            if not self._answer.is_good:
                # A refusal is known from its head. Its body is nothing to us, and may have no end.
                self.transport.abort()
            if not (data and self._answer.is_good):
                return
        super().data_received(data)
        if self.close_deadline is not None and not self._ending:
            # The library leaves it to the peer to end the TCP connection.
            self._ending = True
            self.loop.call_at(self.close_deadline, self.transport.abort)

    def pause_writing(self) -> None:
        """More than SEND_BUFFER_BYTES wait for the peer to read them."""
        super().pause_writing()
        self._line.unread()
        # Not while the library is in the middle of writing.
        self.loop.call_soon(self.transport.abort)


class _WebsocketsConnection:
    def __init__(self, line: Line, websocket: client.ClientConnection) -> None:
        self._line = line
        self._websocket = websocket
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._tasks: set[asyncio.Task[None]] = set()
        line.opened(self)
        self._spawn(self._read())

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        # The event loop itself holds tasks only weakly.
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._line.closed(why(error))

    def ping(self) -> None:
        self._spawn(self._ping())

    def send(self, text: str) -> None:
        self._spawn(self._send(text))

    def pause(self) -> None:
        self._may_read.clear()

    def resume(self) -> None:
        self._may_read.set()

    def close(self) -> None:
        self._may_read.set()
        self._spawn(self._websocket.close())

    async def _send(self, text: str) -> None:
        # What becomes of the connection is told where it is read.
        with suppress(ConnectionClosed):
            await self._websocket.send(text)

    async def _ping(self) -> None:
        try:
            await (await self._websocket.ping())
        except ConnectionClosed:
            return
        self._line.pong()

    async def _read(self) -> None:
        line = self._line
        try:
            while not line.dead:
                await self._may_read.wait()
                message = await self._websocket.recv()
                if isinstance(message, str):
                    line.text(message.encode())
                else:
                    line.refuse("binary message", message)
                line.flush()
        except ConnectionClosed as error:
            sent = error.sent
            # What we closed the connection for.
            if error.rcvd is None and sent is not None:
                if sent.code == 1009:
                    line.refuse(f"message over {MAX_MESSAGE_BYTES} bytes")
                elif sent.code == 1007:
                    line.refuse("message is not UTF-8")
                elif sent.code != 1000:
                    line.refuse(f"protocol error: {sent.reason}")
            line.closed(why(error))


class _Direct(client.connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def connect(url: str, line: Line, connected: socket.socket) -> None:
    """A `transport.Connect`."""
    answer = _Answer()
    try:
        websocket = await _Direct(
            url,
            sock=connected,
            proxy=None,
            compression=None,
            ping_interval=None,
            open_timeout=CONNECT_TIMEOUT_SECS,
            close_timeout=CLOSE_GRACE_SECS,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=_QUEUE_FRAMES,
            write_limit=SEND_BUFFER_BYTES,
            create_connection=cast("type[client.ClientConnection]", functools.partial(_Client, line, answer)),
        )
    except Exception as error:
        raise refused(answer.head, error, unbounded=answer.is_unbounded) from error
    _WebsocketsConnection(line, websocket)
