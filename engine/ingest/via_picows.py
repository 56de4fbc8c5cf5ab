"""The default transport: picows, which hands over frames out of the socket's callback. Sole importer of picows."""

from __future__ import annotations

import asyncio
import logging
import socket

from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    ws_connect,
)

from engine.base.events import Tick
from engine.ingest.session import CONNECT_TIMEOUT_SECS
from engine.ingest.transport import CLOSE_GRACE_SECS, SEND_BUFFER_BYTES, ConnectFailed, Line, refused, why
from engine.ingest.venues.port import MAX_MESSAGE_BYTES

_TEXT = WSMsgType.TEXT

# Nothing of what picows logs gets out: it is also in what picows raises.
_SILENT = logging.getLogger("picows.silent")
_SILENT.setLevel(logging.CRITICAL)


class _Ear(logging.LoggerAdapter[logging.Logger]):
    """Where picows logs. Here it says first that the peer broke the protocol, 10 ms before it disconnects. Until then
    it would go on reading, and keep whatever comes: as much as the machine can send itself in that time."""

    def __init__(self, line: Line) -> None:
        super().__init__(_SILENT)
        self._line = line

    def log(self, level: int, *_: object, **__: object) -> None:
        if level >= logging.ERROR and self._line.connection is not None:
            self._line.connection.pause()


# What may stand in a close frame: RFC 6455 section 7.4 and IANA's registry.
_CLOSE_CODES = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})


class _PicowsConnection:
    def __init__(self, transport: WSTransport, line: Line) -> None:
        self._transport = transport
        self._reading = True
        # Kept, because the event loop itself holds tasks only weakly.
        self._watch = asyncio.get_running_loop().create_task(self._wait_for_end(line))

    async def _wait_for_end(self, line: Line) -> None:
        """Tell how the connection ended, unless it is known already."""
        try:
            await self._transport.wait_disconnected()
        except WSProtocolError as error:
            # Its arguments are a close code and words.
            if error.args[0] == WSCloseCode.MESSAGE_TOO_BIG:
                line.refuse(f"frame over {MAX_MESSAGE_BYTES} bytes")
                line.closed("message too big")
            else:
                line.refuse(f"protocol error: {error.args[1]}")
                line.closed(f"protocol error: {error.args[1]}")
        except Exception as error:
            line.closed(why(error))
        else:
            line.closed("connection broken")

    def ping(self) -> None:
        self._transport.send_ping()

    def send(self, text: str) -> None:
        self._transport.send(WSMsgType.TEXT, text.encode())

    def pause(self) -> None:
        if self._reading and not self._transport.is_disconnected:
            self._reading = False
            self._transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        if not self._reading and not self._transport.is_disconnected:
            self._reading = True
            self._transport.underlying_transport.resume_reading()

    def close(self) -> None:
        if self._transport.is_disconnected:
            return
        self.leave(WSCloseCode.OK)

    def leave(self, code: WSCloseCode) -> None:
        self._transport.send_close(code)
        self._transport.disconnect()
        # A half-open connection never acknowledges, and would hold its socket for minutes.
        asyncio.get_running_loop().call_later(CLOSE_GRACE_SECS, self._transport.disconnect, False)

    def abort(self) -> None:
        self._transport.disconnect(False)


def _read_no_more(payload: bytes | bytearray | memoryview, ticks: list[Tick]) -> None:
    """What is in a read behind the end of the conversation is nothing to us (RFC 6455 section 5.5.1)."""


class _PicowsListener(WSListener):
    """Frames out of the socket's callback."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._parser = line.parser
        self._parse_into = line.parser.parse_into
        # The pieces of a fragmented message; None between messages.
        self._pieces: bytearray | None = None
        # Whether those are of a binary one.
        self._is_binary = False
        # None until connected.
        self._connection: _PicowsConnection | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.underlying_transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
        self._connection = _PicowsConnection(transport, self._line)
        self._line.opened(self._connection)

    def pause_writing(self) -> None:
        """More than SEND_BUFFER_BYTES wait for the peer to read them."""
        self._parse_into = _read_no_more
        self._line.unread()
        assert self._connection is not None
        # Not while picows is in the middle of what was read.
        asyncio.get_running_loop().call_soon(self._connection.abort)

    def resume_writing(self) -> None:
        """Comes too late."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is _TEXT and frame.fin and self._pieces is None:
            # Line.text, spelled out: the call would cost a twentieth of the whole way to the disk.
            line = self._line
            if frame.payload_size > MAX_MESSAGE_BYTES:
                self._too_big("frame")
                return
            # A copy, which is made and read in less time than a view of so few bytes.
            self._parse_into(frame.get_payload_as_bytes(), line.ticks)
            if self._parser.errors != line.errors:
                line.troubled()
        elif frame.msg_type == WSMsgType.CLOSE:
            # No sign of life: were it taken for one, a server that accepts and closes would look healthy.
            self._hung_up(frame.get_payload_as_bytes())
            return
        else:
            self._other(transport, frame)
        # picows marks the last frame of each read, control frames included, which is why the pongs are ours.
        if frame.last_in_buffer:
            # Looked at once a read, which finds a peer that compresses unasked: one message of many is no such peer.
            if frame.rsv1 or frame.rsv2 or frame.rsv3:
                self._line.ticks.clear()
                self._violated("reserved bits set, and no extension agreed on")
            self._line.flush()

    def _hung_up(self, payload: bytes) -> None:
        """The peer sent a close frame; of what it may hold picows has looked at length and UTF-8."""
        code = int.from_bytes(payload[:2], "big") if payload else None
        if code is not None and code not in _CLOSE_CODES:
            self._violated(f"close code {code}")
            return
        said = "without a code" if code is None else f"{code} {payload[2:].decode()}"
        self._end(f"closed by the peer: {said}".rstrip(), WSCloseCode.OK)

    def _violated(self, what: str) -> None:
        self._line.refuse(f"protocol error: {what}")
        self._end(f"protocol error: {what}", WSCloseCode.PROTOCOL_ERROR)

    def _end(self, reason: str, code: WSCloseCode) -> None:
        """Told before the transport ends, so that neither what it still hands over nor its end are counted."""
        self._parse_into = _read_no_more
        self._pieces = None
        self._line.closed(reason)
        assert self._connection is not None
        self._connection.leave(code)

    def _other(self, transport: WSTransport, frame: WSFrame) -> None:
        if self._line.dead:
            return
        kind = frame.msg_type
        if kind == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind == WSMsgType.PONG:
            self._line.pong()
        elif frame.payload_size > MAX_MESSAGE_BYTES:
            self._too_big("frame")
        else:
            self._piece(frame)

    def _piece(self, frame: WSFrame) -> None:
        if (frame.msg_type != WSMsgType.CONTINUATION) == (self._pieces is not None):
            self._violated("fragments out of order")
            return
        if self._pieces is None:
            self._pieces = bytearray()
            self._is_binary = frame.msg_type == WSMsgType.BINARY
        self._pieces += frame.get_payload_as_memoryview()
        if len(self._pieces) > MAX_MESSAGE_BYTES:
            self._too_big("message")
        elif frame.fin:
            message, self._pieces = bytes(self._pieces), None
            if self._is_binary:
                self._line.refuse("binary message", message)
            else:
                self._line.text(message)

    def _too_big(self, what: str) -> None:
        """Of a frame picows itself says so, and means to disconnect 10 ms later; until then it goes on reading, and
        hands over even that frame if the rest of it comes in time."""
        self._line.refuse(f"{what} over {MAX_MESSAGE_BYTES} bytes")
        self._end("message too big", WSCloseCode.MESSAGE_TOO_BIG)


async def connect(url: str, line: Line, connected: socket.socket) -> None:
    """A `transport.Connect`."""

    def listen(_: WSUpgradeRequest, response: WSUpgradeResponse) -> _PicowsListener:
        # None was offered, so whoever names one will not be understood (RFC 6455 section 4.1).
        for header in ("Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"):
            if header in response.headers:
                raise ConnectFailed(f"the server agrees to what was not asked for: {header}")
        return _PicowsListener(line)

    try:
        await ws_connect(
            listen,
            url,
            socket_factory=lambda _: connected,
            websocket_handshake_timeout=CONNECT_TIMEOUT_SECS,
            logger_name=_Ear(line),
            enable_auto_pong=False,
            max_frame_size=MAX_MESSAGE_BYTES,
            max_redirects=0,
            # It waits by add_reader, and uvloop then tells nobody of a reset that comes with the upgrade, nor of
            # anything on a later socket of the same number (MagicStack/uvloop#552). It would be no faster.
            use_aiofastnet=False,
        )
    except ConnectFailed:
        raise
    except Exception as error:
        # Whatever went wrong, from TLS to a malformed answer: the session backs off and tries again.
        raise refused(getattr(error, "raw_header", None) or b"", error) from error
    if line.connection is None and not line.dead:
        raise ConnectFailed("connection closed during the handshake")
