"""The default transport: picows, which hands over frames out of the socket's callback. Sole importer of picows."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from engine.feeds import CLOSE_GRACE_SECS, ConnectFailed, Line, refusal, why
from engine.session import CONNECT_TIMEOUT_SECS
from engine.wire import MAX_MESSAGE_BYTES

# What the kernel may buffer of one connection, and so about the most that one read brings: picows doubles its own
# buffer whenever a read fills it, and a saturated loopback would take it to megabytes (B1). Market data over a
# link of 100 ms still gets 1 MB/s, 7000 trades a second, through. Against 256 KiB this saves 1 MiB of resident
# memory at saturation and costs no throughput (`python -m bench --only T1,T5`).
_RECEIVE_BUFFER_BYTES = 96 * 1024

_TEXT = WSMsgType.TEXT


class _PicowsConnection:
    def __init__(self, transport: WSTransport) -> None:
        self._transport = transport
        self._reading = True

    def ping(self) -> None:
        self._transport.send_ping()

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
        self._transport.send_close(WSCloseCode.OK)
        self._transport.disconnect()
        # A half-open connection never acknowledges, and would hold its socket for minutes.
        asyncio.get_running_loop().call_later(CLOSE_GRACE_SECS, self._transport.disconnect, False)


class _PicowsListener(WSListener):
    """Frames out of the socket's callback. Payloads are views into the receive buffer, good until the
    callback returns; a parser copies what it keeps."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._parser = line.parser
        self._parse_into = line.parser.parse_into
        # The pieces of a fragmented message; None between messages.
        self._pieces: bytearray | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        raw: socket.socket = transport.underlying_transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._line.opened(_PicowsConnection(transport))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == _TEXT and frame.fin and self._pieces is None:
            # Line.text, spelled out: the call would cost a twentieth of the whole way to the disk.
            line = self._line
            payload = frame.get_payload_as_memoryview()
            if len(payload) > MAX_MESSAGE_BYTES:
                self._too_big(transport, "frame")
                return
            self._parse_into(payload, line.ticks)
            if self._parser.errors != line.errors:
                line.troubled()
        elif frame.msg_type == WSMsgType.CLOSE:
            # No sign of life: were it taken for one, a server that accepts and closes would look healthy.
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
            return
        else:
            self._other(transport, frame)
        # picows marks the last frame of each read, control frames included, which is why the pongs are ours.
        if frame.last_in_buffer:
            self._line.flush()

    def _other(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind == WSMsgType.PONG:
            self._line.pong()
        elif frame.payload_size > MAX_MESSAGE_BYTES:
            self._too_big(transport, "frame")
        elif kind == WSMsgType.BINARY:
            # Its continuation frames are refused one by one too: rare enough not to matter.
            self._line.refuse("binary message")
        else:
            self._piece(transport, frame)

    def _piece(self, transport: WSTransport, frame: WSFrame) -> None:
        if (frame.msg_type == WSMsgType.TEXT) == (self._pieces is not None):
            self._line.refuse("fragments out of order")
            self._pieces = None
            return
        if self._pieces is None:
            self._pieces = bytearray()
        self._pieces += frame.get_payload_as_memoryview()
        if len(self._pieces) > MAX_MESSAGE_BYTES:
            self._pieces = None
            self._too_big(transport, "message")
        elif frame.fin:
            message, self._pieces = bytes(self._pieces), None
            self._line.text(message)

    def _too_big(self, transport: WSTransport, what: str) -> None:
        """Of a frame picows itself says so, and means to disconnect 10 ms later; until then it goes on reading, and
        hands over even that frame if the rest of it comes in time."""
        self._line.refuse(f"{what} over {MAX_MESSAGE_BYTES} bytes")
        # Before the transport, so that neither further fragments nor the end of the connection are counted.
        self._line.closed("message too big")
        transport.send_close(WSCloseCode.MESSAGE_TOO_BIG)
        transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        handshake = transport.close_handshake
        sent = handshake.sent if handshake is not None else None
        received = handshake.recv if handshake is not None else None
        if sent is not None and received is None and sent.code == WSCloseCode.MESSAGE_TOO_BIG:
            self._line.refuse(f"frame over {MAX_MESSAGE_BYTES} bytes")
            reason = "message too big"
        elif received is not None:
            reason = f"closed by the peer: {received.code} {received.reason or ''}".rstrip()
        else:
            reason = "connection broken"
        self._line.closed(reason)


async def connect(url: str, line: Line) -> None:
    """A `feeds.Connect`."""
    try:
        await ws_connect(
            functools.partial(_PicowsListener, line),
            url,
            ssl_context=ssl.create_default_context() if url.startswith("wss:") else None,
            websocket_handshake_timeout=CONNECT_TIMEOUT_SECS,
            enable_auto_pong=False,
            max_frame_size=MAX_MESSAGE_BYTES,
            max_redirects=0,
        )
    except Exception as error:
        response = getattr(error, "response", None)
        if isinstance(error, WSError) and response is not None:
            raise refusal(int(response.status), response.headers.get("Retry-After")) from error
        # Whatever went wrong, from DNS to TLS to a malformed answer: the session backs off and tries again.
        raise ConnectFailed(why(error)) from error
    if line.connection is None and not line.dead:
        raise ConnectFailed("connection closed during the handshake")
