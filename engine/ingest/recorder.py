"""A feed whose messages go to a recording: what the venue said, before anybody has judged it."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Final, cast

from engine.base.events import Tick
from engine.base.exits import Crash
from engine.config import schema
from engine.ingest.connected import FeedLine
from engine.ingest.intake import Intake
from engine.ingest.ports import Inlet, Numbers
from engine.ingest.recording import Event, message, without_secrets
from engine.ingest.tape import Tape
from engine.ingest.transport import Connect, ConnectFailed, Connection, Line
from engine.ingest.venues.markets import Streams
from engine.ingest.venues.port import Message, Parser
from engine.ingest.websocket import WebSocketFeed

logger = logging.getLogger("engine.ingest.recorder")


class Books(Inlet):
    """Where the ticks of a recorder end. They are counted: the session has to know whether a source makes progress."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake

    def deliver(self, ticks: list[Tick], numbers: Numbers = ()) -> int:
        known = self.intake.received
        self.intake.admit(ticks)
        self.intake.pass_numbers(numbers)
        self.intake.take_breaks()
        self.intake.take_moved()
        return self.intake.received - known

    def tell_latest(self, latest: dict[str, int]) -> None:
        self.intake.tell_all_latest(latest)

    def answer(self) -> None:
        """No watchdog waits for it."""

    def barred(self, source: str, host: str, secs: float) -> None:
        """Nothing outlives the process but the recording."""


class Recorder(WebSocketFeed):
    """Listens to one source as REAL_WS does, and records what is said."""

    def __init__(
        self,
        source: schema.Source,
        options: schema.Engine,
        symbol: str,
        connect: Connect,
        now: Callable[[], float],
        intake: Intake,
        streams: Streams,
        tape: Tape,
    ) -> None:
        """`symbol`: what ticks of a market that nobody named are called. The rest as in WebSocketFeed."""
        self.received = 0
        """Messages."""
        self.sent = 0
        self._tape = tape
        super().__init__(Books(intake), [source], options, symbol, self._tapped(connect), now, {}, streams)
        self._connect_otherwise = self._tapped(self._connect_otherwise)

    def flush(self) -> None:
        """What was recorded is on its way to the disk."""
        if self._failure is None:
            try:
                self._tape.flush()
            except Crash as failure:
                self._fail(failure)

    def record(self, event: Event) -> None:
        """Never raises: it is called where the transport hands over what it read."""
        if self._failure is None:
            try:
                self._tape.write(event)
            except Crash as failure:
                self._fail(failure)

    def _tapped(self, connect: Connect) -> Connect:
        async def tapped(url: str, line: Line, connected: socket.socket) -> None:
            await connect(url, _Tap(self, cast("FeedLine", line)), connected)

        return tapped

    def _report_failure(self, line: FeedLine, failure: ConnectFailed) -> None:
        self.record(Event("failed", at(), line.conn, reason=without_secrets(str(failure))))
        super()._report_failure(line, failure)


class _Tap(Line):
    """A line whose messages are recorded before it hears of them."""

    def __init__(self, recorder: Recorder, line: FeedLine) -> None:
        self._recorder = recorder
        self._line = line
        self._conn = line.conn
        # Whether the end of the connection is recorded.
        self._ended = False
        self.parser = cast("Parser", _TappedParser(line.parser, self._received))

    # The line's own, which replaces some of them as it goes.
    @property
    def connection(self) -> Connection | None:  # type: ignore[override]
        return self._line.connection

    @property
    def dead(self) -> bool:  # type: ignore[override]
        return self._line.dead

    @property
    def ticks(self) -> list[Tick]:  # type: ignore[override]
        return self._line.ticks

    @property
    def errors(self) -> int:  # type: ignore[override]
        return self._line.errors

    def opened(self, connection: Connection) -> None:
        self._recorder.record(Event("opened", at(), self._conn))
        self._line.opened(_TappedConnection(self, connection))

    def text(self, payload: bytes | memoryview) -> None:
        self._received(payload)
        self._line.text(payload)

    def refuse(self, reason: str, payload: bytes = b"") -> None:
        self._recorder.received += 1
        self._recorder.record(Event("refused", at(), self._conn, base64=payload or None, reason=reason))
        self._line.refuse(reason, payload)

    def troubled(self) -> None:
        self._line.troubled()

    def flush(self) -> None:
        self._line.flush()

    def pong(self) -> None:
        self._line.pong()

    def closed(self, reason: str) -> None:
        self.ended(reason)
        self._line.closed(reason)

    def unread(self) -> None:
        self.ended("the peer reads nothing")
        self._line.unread()

    def sent(self, text: str) -> None:
        self._recorder.sent += 1
        self._recorder.record(Event("sent", at(), self._conn, text=without_secrets(text)))

    def ended(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._recorder.record(Event("closed", at(), self._conn, reason=reason))

    def _received(self, payload: Message) -> None:
        if not self._ended:
            self._recorder.received += 1
            self._recorder.record(message(at(), self._conn, bytes(payload)))


class _TappedParser:
    """As much of a parser as a transport uses."""

    def __init__(self, parser: Parser, received: Callable[[Message], None]) -> None:
        self._parser = parser
        parse_into = parser.parse_into

        def record_and_parse(payload: Message, ticks: list[Tick]) -> None:
            received(payload)
            parse_into(payload, ticks)

        self.parse_into = record_and_parse

    @property
    def errors(self) -> int:
        return self._parser.errors


class _TappedConnection(Connection):
    """A connection whose messages are recorded as they are sent."""

    def __init__(self, tap: _Tap, connection: Connection) -> None:
        self._tap = tap
        self._connection = connection

    def ping(self) -> None:
        self._connection.ping()

    def send(self, text: str) -> None:
        self._tap.sent(text)
        self._connection.send(text)

    def pause(self) -> None:
        self._connection.pause()

    def resume(self) -> None:
        self._connection.resume()

    def close(self) -> None:
        self._tap.ended("closed by the recorder")
        self._connection.close()


_BEGAN_NS: Final = time.time_ns() - time.monotonic_ns()


def at() -> int:
    """Now, in microseconds since 1970, by the clock as it was at the start: silence in a recording is what it was,
    though the clock is set or the computer sleeps meanwhile."""
    return (_BEGAN_NS + time.monotonic_ns()) // 1000


def make_books(sparse: bool) -> Intake:
    """What counts a recorder's ticks. `sparse`: holes in the ids mean nothing."""
    return Intake(1, 1, is_sparse=lambda stream: sparse)
