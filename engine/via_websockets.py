"""The other transport (HYBRID_TRANSPORT=websockets), which the proofs use as a second opinion. Sole importer of
websockets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from websockets.asyncio import client
from websockets.exceptions import ConnectionClosed, InvalidStatus

from engine.feeds import CLOSE_GRACE_SECS, ConnectFailed, Line, refusal, why
from engine.session import CONNECT_TIMEOUT_SECS
from engine.wire import MAX_MESSAGE_BYTES

# websockets reads one frame less than this ahead of us; a paused feed holds that much per connection.
_QUEUE_FRAMES = 64


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
        task.add_done_callback(self._tasks.discard)

    def ping(self) -> None:
        self._spawn(self._ping())

    def pause(self) -> None:
        self._may_read.clear()

    def resume(self) -> None:
        self._may_read.set()

    def close(self) -> None:
        self._may_read.set()
        self._spawn(self._websocket.close())

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
                    line.refuse("binary message")
                line.flush()
        except ConnectionClosed as error:
            sent = error.sent
            if error.rcvd is None and sent is not None and sent.code == 1009:
                line.refuse(f"message over {MAX_MESSAGE_BYTES} bytes")
            elif error.rcvd is None and sent is not None and sent.code == 1007:
                line.refuse("message is not UTF-8")
            line.closed(why(error))


class _Direct(client.connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def connect(url: str, line: Line) -> None:
    """A `feeds.Connect`."""
    try:
        websocket = await _Direct(
            url,
            proxy=None,
            compression=None,
            ping_interval=None,
            open_timeout=CONNECT_TIMEOUT_SECS,
            close_timeout=CLOSE_GRACE_SECS,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=_QUEUE_FRAMES,
        )
    except InvalidStatus as error:
        raise refusal(error.response.status_code, error.response.headers.get("Retry-After")) from error
    except Exception as error:
        raise ConnectFailed(why(error)) from error
    _WebsocketsConnection(line, websocket)
