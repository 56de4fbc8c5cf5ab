"""MOCK_WS and REAL_WS: feeds over WebSocket. Contract section 4.

The feed decides nothing. `session.Session` says what to connect to and when; the feed carries the effects out and
reports what happened. It goes nowhere but to the configured URLs: no proxy of the environment and no redirect is
followed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from engine.base.events import Tick
from engine.base.exits import EngineError, NetworkLost, explain
from engine.config import schema, settings
from engine.ingest import refusal, session
from engine.ingest.dialing import Dialer
from engine.ingest.messages import Messages
from engine.ingest.ports import Inlet
from engine.ingest.stepped import Bell
from engine.ingest.transport import SEND_BUFFER_BYTES, Connect, ConnectFailed, Connection, Line, cut_short, why
from engine.ingest.venues import registry
from engine.ingest.venues.markets import Markets, Streams, host_of, upper
from engine.ingest.venues.port import Ack, Control, Draining, Lost, Rejected

logger = logging.getLogger("engine.ingest.websocket")


_HINDRANCES_SHOWN: Final = 3


class FeedLine:
    """The `transport.Line` of a connection of this feed."""

    def __init__(self, feed: WebSocketFeed, conn: int, source: session.Source, stream: Messages) -> None:
        self.conn = conn
        self.source = source
        self.stream = stream
        self.connection: Connection | None = None  # None until opened
        self.task: asyncio.Task[None] | None = None  # the attempt; None once it is decided
        self.dead = False
        self.ticks: list[Tick] = []  # of the messages since the last flush
        self.parser = stream.parser
        self.errors = stream.parser.errors  # as far as the feed has been told of them
        self.foreign = stream.parser.foreign  # likewise
        self.awaited = set(stream.markets) if stream.messages else set()  # markets without an acknowledgement
        self._feed = feed

    def opened(self, connection: Connection) -> None:
        if self.dead:
            connection.close()
            return
        self.connection = connection
        self._feed.line_opened(self)

    def text(self, payload: bytes | memoryview) -> None:
        """One whole text message."""
        self.parser.parse_into(payload, self.ticks)
        if self.parser.errors != self.errors:
            self.troubled()

    def refuse(self, reason: str) -> None:
        """A message that must not be decoded: binary, too large, or not UTF-8."""
        if self.dead:
            return
        self.parser.refuse(reason)
        self.troubled()

    def troubled(self) -> None:
        """The parser has counted errors since the last time."""
        self.errors = self.parser.errors
        self._feed.line_troubled(self)

    def flush(self) -> None:
        """The messages of one read have been handed over."""
        ticks, self.ticks = self.ticks, []
        if self.dead:
            # They would be taken for those of the source's next connection.
            self.parser.controls.clear()
        else:
            self._feed.line_received(self, ticks)

    def pong(self) -> None:
        if not self.dead:
            self._feed.line_pong(self)

    def closed(self, reason: str) -> None:
        if not self.dead:
            if self.ticks or self.parser.controls:
                self.flush()
            # What the peer said before it hung up may have ended the conversation already.
            if not self.dead:
                self._feed.line_closed(self, reason)

    def unread(self) -> None:
        """The peer leaves unread what it makes us say; the transport closes the connection."""
        if not self.dead:
            self._feed.connections_unbounded += 1
            self.closed(f"the peer reads nothing: over {SEND_BUFFER_BYTES} bytes of answers to its pings wait for it")


class WebSocketFeed:
    """MOCK_WS and REAL_WS: does what the session says, and tells it what happened."""

    def __init__(
        self,
        inlet: Inlet,
        sources: Sequence[schema.Source],
        options: schema.Engine,
        default_symbol: str,
        connect: Connect,
        now: Callable[[], float],
        barred_secs: Mapping[str, float],
        streams: Streams,
    ) -> None:
        """`sources`: at least one. `now`: monotonic seconds, the clock of the event loop's timers. `barred_secs`: for
        how long an earlier run was told to leave a host alone; told by the name of a source, its host. `streams`: the
        names of all streams."""
        policy = session.Policy(
            keepalive_secs=options.keepalive_secs,
            pong_timeout_secs=options.pong_timeout_secs,
            feed_silence_secs=options.feed_silence_secs,
            max_backoff_secs=options.max_backoff_secs,
            network_give_up_secs=options.network_give_up_secs,
            max_retry_after_secs=options.max_retry_after_secs,
            max_connects_per_minute=options.max_connects_per_minute,
            subscribe_timeout_secs=options.subscribe_timeout_secs,
        )
        wanted: list[session.Source] = []
        self._streams: dict[str, Messages] = {}
        for source in sources:
            venue = registry.venue_of(source.venue, source.url)
            found = settings.subscription(source)
            its_markets = Markets(
                source.name,
                source.symbol or default_symbol,
                streams,
                settings.asked_markets(source, default_symbol),
            )
            self._streams[source.name] = Messages(
                venue.parser(source.url, source.name, its_markets),
                options.parse_error_limit,
                found.messages,
                found.markets,
                venue.beat,
            )
            wanted.append(
                session.Source(
                    source.name,
                    source.url,
                    host_of(source.url),
                    source.priority,
                    subscribes=bool(found.messages),
                    beat_secs=venue.beat_secs,
                )
            )
        barred: dict[str, session.Bar] = {}
        for place in wanted:
            # The longest of a host's, should several of its sources have been told.
            told = [barred_secs[key] for key in (place.host, place.name) if key in barred_secs]
            if told and (place.host not in barred or now() + max(told) > barred[place.host].until):
                barred[place.host] = session.Bar(now() + max(told), "HTTP 429 or 418, to an earlier run")
        self._sources = wanted
        self._session = session.Session(wanted, policy, random.uniform, barred, now())
        self._max_retry_after_secs = options.max_retry_after_secs
        self._dialer = Dialer()
        self.connections_unbounded = 0
        self._inlet = inlet
        self._connect = connect
        self._now = now
        # Sources whose upgrade only the other transport understands.
        self._by_other: set[str] = set()
        self._lines: dict[int, FeedLine] = {}
        self._bell = Bell()
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._stopped = False
        # Why `run` has to end; None while all is well.
        self._failure: EngineError | None = None

    @property
    def source(self) -> str | None:
        source = self._session.source
        return None if source is None else source.name

    @property
    def reconnects(self) -> int:
        return self._session.reconnects

    @property
    def parse_errors(self) -> int:
        return sum(stream.parser.errors for stream in self._streams.values())

    @property
    def ignored(self) -> int:
        return sum(stream.parser.ignored for stream in self._streams.values())

    @property
    def foreign(self) -> int:
        return sum(stream.parser.foreign for stream in self._streams.values())

    @property
    def hindrance(self) -> str:
        bars = [f"{source.name} {bar}" for source in self._sources if (bar := self._bar(source)) is not None]
        bars += [f"{name}: {stream.rejection}" for name, stream in self._streams.items() if stream.rejection]
        more = len(bars) - _HINDRANCES_SHOWN
        return "; ".join(bars[:_HINDRANCES_SHOWN]) + (f"; {more} more" if more > 0 else "")

    def _bar(self, source: session.Source) -> str | None:
        """Until when the source may not be contacted, and why, for humans; None when it may."""
        bar = self._session.bar(source.host, self._now())
        if bar is None:
            return None
        until = datetime.now(UTC) + timedelta(seconds=bar.until - self._now())
        return f"barred until {until:%Y-%m-%dT%H:%M:%SZ}: {bar.reason}"

    async def run(self) -> None:
        self._apply(self._session.start(self._now()))
        for source in self._sources:
            if told := self._bar(source):
                logger.warning(told, extra={"fields": _about(source)})
                # As it is now, for what an earlier run wrote may have been longer than it may be.
                self._note_bar(source)
        while not self._stopped:
            self._inlet.answer()
            if self._failure is not None:
                raise self._failure
            await self._bell.wait()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._apply(self._session.stop(self._now()))
        self._bell.ring()

    def pause(self) -> None:
        self._paused = True
        for line in self._lines.values():
            if line.connection is not None:
                line.connection.pause()

    def resume(self) -> None:
        self._paused = False
        for line in list(self._lines.values()):
            if line.connection is not None:
                line.connection.resume()
        if not self._stopped and self._timer is None:
            self._wake_at(self._now())

    def nudge(self) -> None:
        self._bell.ring()

    def line_opened(self, line: FeedLine) -> None:
        logger.info("connected", extra={"fields": _about(line.source)})
        assert line.connection is not None
        if self._paused:
            line.connection.pause()
        for message in line.stream.messages:
            line.connection.send(message)
        self._apply(self._session.connected(line.conn, self._now()))

    def line_received(self, line: FeedLine, ticks: list[Tick]) -> None:
        new = self._inlet.deliver(ticks) if ticks else 0
        parser = line.parser
        if parser.numbers:
            self._inlet.pass_numbers(parser.numbers)
            parser.numbers.clear()
        if parser.foreign != line.foreign:
            line.foreign = parser.foreign
            line.stream.check_foreign(self._now(), line.source.name)
        effects = self._session.received(line.conn, self._now(), new)
        if effects:
            self._apply(effects)
        if parser.controls:
            controls = parser.controls[:]
            parser.controls.clear()
            for control in controls:
                if not line.dead:
                    self._heed(line, control)

    def _heed(self, line: FeedLine, control: Control) -> None:
        """Acts on what a venue says of the connection (N18)."""
        match control:
            case Ack(market):
                if market:
                    line.awaited.discard(upper(market))
                else:
                    line.awaited.clear()
                if not line.awaited:
                    line.stream.rejection = ""
                    self._apply(self._session.acknowledged(line.conn, self._now()))
            case Rejected(said):
                line.stream.rejection = f"subscription rejected: {said}"
                self._apply(self._session.rejected(line.conn, self._now(), line.stream.rejection))
            case Draining(said):
                logger.info("the server is about to close", extra={"fields": {**_about(line.source), "said": said}})
                self._apply(self._session.draining(line.conn, self._now()))
            case Lost(messages):
                line.stream.tell_lost(self._now(), line.source.name, messages)

    def line_troubled(self, line: FeedLine) -> None:
        line.stream.check(self._now(), source=line.source.name)
        if line.stream.broken is not None and self._failure is None:
            self._fail(line.stream.broken)

    def line_pong(self, line: FeedLine) -> None:
        self._apply(self._session.pong(line.conn, self._now()))

    def line_closed(self, line: FeedLine, reason: str) -> None:
        self._forget(line)
        logger.warning("connection lost", extra={"fields": {**_about(line.source), "reason": reason}})
        self._apply(self._session.closed(line.conn, self._now(), reason))

    def _fail(self, failure: EngineError) -> None:
        self._failure = failure
        self._bell.ring()

    def _apply(self, effects: Sequence[session.Effect]) -> None:
        for effect in effects:
            match effect:
                case session.Wake(at):
                    self._wake_at(at)
                case session.Connect(conn, source):
                    line = self._lines[conn] = FeedLine(self, conn, source, self._streams[source.name])
                    line.task = asyncio.get_running_loop().create_task(self._open(line))
                case session.Ping(conn):
                    connection = self._lines[conn].connection
                    if connection is not None:
                        connection.ping()
                case session.Beat(conn):
                    line = self._lines[conn]
                    if line.connection is not None:
                        line.connection.send(line.stream.beat)
                case session.Close(conn, reason):
                    self._close(self._lines[conn], reason)
                case session.GiveUp(seconds, last_reason):
                    hindrance = self.hindrance
                    self._fail(
                        NetworkLost(
                            f"no source connected for {seconds:.1f} s; the last attempt: {last_reason}"
                            + (f"; {hindrance}" if hindrance else ""),
                            seconds=round(seconds, 3),
                            last_reason=last_reason,
                        )
                    )

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if self._paused:
            # We do not read, so silence says nothing about the peer; `resume` asks again.
            return
        self._apply(self._session.wake(self._now()))

    async def _open(self, line: FeedLine) -> None:
        try:
            await self._dial_and_connect(line)
        except ConnectFailed as failure:
            if line.dead:
                return
            self._forget(line)
            self._report_failure(line, failure)
        except Exception as error:
            # No failure of the network: the library cannot be loaded, or is not what we take it for.
            self._fail(explain(error, f"transport failed: {why(error)}"))
        finally:
            line.task = None

    async def _dial_and_connect(self, line: FeedLine) -> None:
        parts = urlsplit(line.source.url)
        place = (parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80))
        try:
            connected = await self._dialer.dial(place)
            address = connected.getpeername()
        except (OSError, RuntimeError) as error:
            # RuntimeError: no thread to resolve in could be started, or uvloop's word for an OSError.
            raise ConnectFailed(why(error)) from error
        good = False
        try:
            connect = _over_websockets if line.source.name in self._by_other else self._connect
            await connect(line.source.url, line, connected)
            good = True
        finally:
            self._dialer.note_handshake(place, address, good=good)

    def _report_failure(self, line: FeedLine, failure: ConnectFailed) -> None:
        source, reason = line.source, str(failure)
        fields = _about(source) | {"reason": reason}
        secs = None
        if failure.http_status is not None:
            fields["http_status"] = failure.http_status
        is_obeyed = failure.http_status in session.RATE_LIMITED
        if is_obeyed:
            fields["retry_after_secs"] = secs = refusal.wait_secs(failure.retry_after, datetime.now(UTC))
        if failure.retry_after:
            # Another status is a failure like any other, which is backed off (N5).
            fields["retry_after" if is_obeyed else "retry_after_ignored"] = cut_short(", ".join(failure.retry_after))
        if failure.may_upgrade and source.name not in self._by_other:
            self._by_other.add(source.name)
            fields["next_transport"] = "websockets"
        else:
            # Nothing is gained by it.
            self._by_other.discard(source.name)
        logger.warning("connection failed", extra={"fields": fields})
        if failure.unbounded:
            self.connections_unbounded += 1
        effects = self._session.connect_failed(line.conn, self._now(), reason, failure.http_status, secs)
        if secs is not None and secs > self._max_retry_after_secs and self._bar(source) is not None:
            longest = {"max_retry_after_secs": self._max_retry_after_secs}
            logger.warning("told to wait longer than max_retry_after_secs", extra={"fields": fields | longest})
        self._note_bar(source)
        self._apply(effects)

    def _note_bar(self, source: session.Source) -> None:
        """Let the next run know how long the host of `source` is to be left alone, whatever is called so then."""
        bar = self._session.bar(source.host, self._now())
        if bar is not None:
            self._inlet.barred(source.name, source.host, bar.until - self._now())

    def _close(self, line: FeedLine, reason: str) -> None:
        self._forget(line)
        if reason != "stop":
            logger.warning("connection dropped", extra={"fields": {**_about(line.source), "reason": reason}})
        if line.connection is not None:
            line.connection.close()
        elif line.task is not None:
            line.task.cancel()

    def _forget(self, line: FeedLine) -> None:
        line.dead = True
        self._lines.pop(line.conn, None)


def _about(source: session.Source) -> dict[str, object]:
    return {"source": source.name, "url": settings.redact_url(source.url)}


async def _over_picows(url: str, line: Line, connected: socket.socket) -> None:
    from engine.ingest import via_picows

    await via_picows.connect(url, line, connected)


async def _over_websockets(url: str, line: Line, connected: socket.socket) -> None:
    from engine.ingest import via_websockets

    await via_websockets.connect(url, line, connected)


CONNECTS: Final[dict[str, Connect]] = {"picows": _over_picows, "websockets": _over_websockets}
"""Transports by their name in HYBRID_TRANSPORT. A library is loaded with the first attempt to connect: that takes a
quarter of the time that the engine needs to start, and a run without a WebSocket needs none."""
