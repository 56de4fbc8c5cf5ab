"""What carries a WebSocket, and what it reports to: two independent libraries can, picows (`via_picows`) and websockets
(`via_websockets`).

A peer is a stranger. What it makes us hold is bounded: one message (MAX_MESSAGE_BYTES), one read of the socket, the
head of its answer to the upgrade, and SEND_BUFFER_BYTES that it does not read (B4). What it says is logged cut short.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from engine.base.events import Tick
from engine.base.redaction import redact
from engine.ingest import refusal
from engine.ingest.venues.port import Parser

CLOSE_GRACE_SECS: Final = 1.0
"""How long a connection that we close may take to flush its close frame before it is aborted."""


SEND_BUFFER_BYTES: Final = 64 * 1024
"""How much a peer may leave unread before the connection is closed. All that is ever sent are subscriptions, pings and
pongs (B4)."""


_SAID_CHARS: Final = 500
"""How much of what a peer says gets into the log."""


class Connection(Protocol):
    """An open WebSocket, whichever library carries it."""

    def ping(self) -> None:
        """Ask for a sign of life; the answer comes as the line's `pong` (N6)."""

    def send(self, text: str) -> None:
        """Send a text message."""

    def pause(self) -> None:
        """Read no more from the socket, so that TCP slows the peer down (B2)."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Say goodbye, and end within CLOSE_GRACE_SECS whether the peer answers or not; `closed` does not follow."""


class ConnectFailed(Exception):
    """A connection attempt that came to nothing.

    `http_status` and `retry_after` (the headers) where the server answered with HTTP instead of upgrading. `unbounded`
    where its answer had no end. `may_upgrade` where another library may understand what it answered.
    """

    def __init__(
        self,
        reason: str,
        http_status: int | None = None,
        retry_after: Sequence[str] = (),
        *,
        unbounded: bool = False,
        may_upgrade: bool = False,
    ) -> None:
        super().__init__(reason)
        self.http_status = http_status
        self.retry_after = retry_after
        self.unbounded = unbounded
        self.may_upgrade = may_upgrade


class Line(Protocol):
    """One connection's end in the feed: its transport calls `opened`, then messages and `flush`, then
    `closed`. Whatever comes after the session dropped the connection falls on deaf ears."""

    connection: Connection | None
    dead: bool
    ticks: list[Tick]
    """Of the messages since the last flush."""
    parser: Parser
    errors: int
    """As far as the feed has been told of them."""

    def opened(self, connection: Connection) -> None:
        """The upgrade is done; `connection` is what the feed acts on from now on."""

    def text(self, payload: bytes | memoryview) -> None:
        """One whole text message."""

    def refuse(self, reason: str, payload: bytes = b"") -> None:
        """A message that must not be decoded: binary, too large, or not UTF-8. `payload`: it, where it is at hand."""

    def troubled(self) -> None:
        """The parser has counted errors since the last time."""

    def flush(self) -> None:
        """The messages of one read have been handed over."""

    def pong(self) -> None:
        """The peer has answered a ping."""

    def closed(self, reason: str) -> None:
        """The connection has ended without our asking. `reason`: for the log, with control characters as they came."""

    def unread(self) -> None:
        """The peer leaves unread what it makes us say; the transport closes the connection."""


Connect = Callable[[str, Line, socket.socket], Awaitable[None]]
"""Opens `url` for a Line over a connected socket: calls its `opened`, then returns. Raises ConnectFailed."""


def refused(head: bytes, error: BaseException, *, unbounded: bool = False) -> ConnectFailed:
    """Why a handshake failed whose answer began with `head`. `unbounded`: that much came before it already."""
    status, headers = refusal.read_head(head)
    unbounded = unbounded or (head.find(b"\r\n\r\n") < 0 and len(head) >= refusal.HEAD_BYTES_MAX)
    reason = why(error) if status in (None, 101) else f"HTTP {status}"
    if unbounded:
        reason = f"{reason}; the head of the answer has over {refusal.HEAD_BYTES_MAX} bytes"
    may_upgrade = refusal.may_upgrade(head)
    if status in (None, 101) or may_upgrade:
        return ConnectFailed(reason, unbounded=unbounded, may_upgrade=may_upgrade)
    return ConnectFailed(reason, status, headers, unbounded=unbounded)


def why(error: BaseException) -> str:
    """An exception as a reason for the log."""
    text = cut_short(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def cut_short(text: str) -> str:
    """As much of a peer's text as the log has room for."""
    # Of half a secret nobody would know that it is one.
    text = redact(text)
    return text if len(text) <= _SAID_CHARS else f"{text[:_SAID_CHARS]}..."
