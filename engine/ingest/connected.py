"""What feeds have in common whose ticks come over connections: REAL_WS, MOCK_WS, and the replay of a recording.

They decide nothing. `session.Session` says what to connect to and when; the feed carries the effects out and reports
what happened. How a connection comes about, and what time it is, is the business of whoever subclasses this.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from engine.base.events import Tick
from engine.base.exits import ConfigError, EngineError, NetworkLost, explain
from engine.config import schema, settings
from engine.ingest import session
from engine.ingest.messages import Messages
from engine.ingest.ports import Inlet
from engine.ingest.stepped import Woken
from engine.ingest.transport import SEND_BUFFER_BYTES, Connection
from engine.ingest.venues import registry
from engine.ingest.venues.markets import Markets, Streams, host_of, upper
from engine.ingest.venues.port import Ack, Control, Draining, Lost, Rejected

logger = logging.getLogger("engine.ingest.connected")


class FeedLine:
    """The `transport.Line` of a connection of such a feed."""

    def __init__(self, feed: Connected, conn: int, source: session.Source, stream: Messages) -> None:
        self.conn = conn
        self.source = source
        self.stream = stream
        self.connection: Connection | None = None  # None until opened
        self.socket: socket.socket | None = None  # below it; None where there is none, or not yet
        self.task: asyncio.Task[None] | None = None  # the attempt; None once it is decided
        self.dead = False
        self.ticks: list[Tick] = []  # of the messages since the last flush
        self.parser = stream.parser
        self.errors = stream.parser.errors  # as far as the feed has been told of them
        self.foreign = stream.parser.foreign  # likewise
        self.acks = 0  # acknowledgements that name no market
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

    def refuse(self, reason: str, payload: bytes = b"") -> None:
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
            try:
                self._feed.line_received(self, ticks)
            except Exception as error:
                # Raised into a transport it would be taken for a failure of the network.
                self._feed.line_crashed(self, error)

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


class Connected(Woken, ABC):
    """Does what the session says, and tells it what happened."""

    def __init__(
        self,
        inlet: Inlet,
        sources: Sequence[schema.Source],
        policy: session.Policy,
        parse_error_limit: int,
        default_symbol: str,
        now: Callable[[], float],
        barred_secs: Mapping[str, float],
        streams: Streams,
    ) -> None:
        """`sources`: at least one. `now`: monotonic seconds. `barred_secs`: for how long an earlier run was told to
        leave a host alone; told by the name of a source, its host. `streams`: the names of all streams."""
        super().__init__(inlet)
        wanted: list[session.Source] = []
        self._patience_secs = policy.feed_silence_secs
        self._markets: dict[str, Markets] = {}
        # Source -> since when only trades of another market come than the one that came in earlier runs.
        self._estranged: dict[str, float] = {}
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
            self._markets[source.name] = its_markets
            self._streams[source.name] = Messages(
                registry.parser(source.venue, source.url, source.name, its_markets),
                parse_error_limit,
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
                    max_age_secs=venue.max_age_secs,
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
        self.connections_unbounded = 0
        self._now = now
        self._lines: dict[int, FeedLine] = {}
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
        return ""

    def line_opened(self, line: FeedLine) -> None:
        """Subscribe on a new connection, and tell the session (N18)."""
        logger.info("connected", extra={"fields": about(line.source)})
        assert line.connection is not None
        if self._paused:
            line.connection.pause()
        for message in line.stream.messages:
            line.connection.send(message)
        self._apply(self._session.connected(line.conn, self._now()))

    def line_received(self, line: FeedLine, ticks: list[Tick]) -> None:
        """Deliver the ticks of one read, then act on whatever else it said: ids used up, foreign trades, controls."""
        parser = line.parser
        new = self._inlet.deliver(ticks, parser.numbers) if ticks or parser.numbers else 0
        parser.numbers.clear()
        if parser.latest:
            self._inlet.tell_latest(parser.latest)
            parser.latest.clear()
        if parser.foreign != line.foreign:
            line.foreign = parser.foreign
            line.stream.check_foreign(self._now(), line.source.name)
            self._check_estranged(line.source.name)
        self._apply(self._session.received(line.conn, self._now(), new, len(ticks) - new))
        if parser.controls:
            controls = parser.controls[:]
            parser.controls.clear()
            for control in controls:
                if not line.dead:
                    self._heed(line, control)

    def estrangement(self, name: str) -> str | None:
        """What is wrong with a source that brings another market than in earlier runs; None when nothing is."""
        awaited = self._markets[name].awaited
        if awaited is None or name not in self._estranged:
            return None
        came = self._streams[name].parser.last_foreign.partition(":")[0]
        return f"brings {came}, and nothing of {awaited} as in earlier runs"

    def _check_estranged(self, name: str) -> None:
        """End the run over trades of another market than in earlier runs, where nothing says which is meant: they
        cannot be stored under the old one's name, and an engine that stores nothing is of no use to anybody (N12)."""
        if self._markets[name].awaited is None:
            return
        since = self._estranged.setdefault(name, self._now())
        secs = self._now() - since
        if len(self._sources) > 1 or not 0 < self._patience_secs <= secs or self._failure is not None:
            # Another source may do; this one is left as one that says nothing (N6).
            return
        what = self.estrangement(name)
        self._fail(
            ConfigError(
                f"source {name} {what}, for {secs:.1f} s; its URL does not say which is meant, so `markets` has to, or"
                " another `symbol` for the new one",
                source=name,
            )
        )

    def _heed(self, line: FeedLine, control: Control) -> None:
        """Act on what a venue says of the connection (N18)."""
        match control:
            case Ack(market, of):
                line.acks += not market
                if market:
                    line.awaited.discard(upper(market))
                elif line.acks >= of:
                    line.awaited.clear()
                if not line.awaited:
                    line.stream.rejection = ""
                    self._apply(self._session.acknowledged(line.conn, self._now()))
            case Rejected(said):
                what = "subscription rejected" if line.awaited else "the venue will send no more"
                line.stream.rejection = f"{what}: {said}"
                self._apply(self._session.rejected(line.conn, self._now(), line.stream.rejection))
            case Draining(said):
                logger.info("the server is about to close", extra={"fields": {**about(line.source), "said": said}})
                self._apply(self._session.draining(line.conn, self._now()))
            case Lost(messages):
                line.stream.tell_lost(self._now(), line.source.name, messages)

    def line_troubled(self, line: FeedLine) -> None:
        """Tell of unusable messages, and end the run where there were too many in a row (N8)."""
        line.stream.check(self._now(), source=line.source.name)
        if line.stream.broken is not None and self._failure is None:
            self._fail(line.stream.broken)

    def line_crashed(self, line: FeedLine, error: Exception) -> None:
        """End the run: ticks that came are in no book."""
        # The session still has it, and closes it at the end.
        line.dead = True
        if line.connection is not None:
            line.connection.close()
        if self._failure is None:
            self._fail(explain(error, "ingest failed", source=line.source.name))

    def line_pong(self, line: FeedLine) -> None:
        """Let the session know that the peer is alive (N6)."""
        self._apply(self._session.pong(line.conn, self._now()))

    def line_closed(self, line: FeedLine, reason: str) -> None:
        """Tell of a connection that the peer or the network ended, and let the session decide what is next."""
        self._forget(line)
        logger.warning("connection lost", extra={"fields": {**about(line.source), "reason": reason}})
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
                    self._attempt(line)
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

    @abstractmethod
    def _attempt(self, line: FeedLine) -> None:
        """Begin to connect."""

    @abstractmethod
    def _abandon(self, line: FeedLine) -> None:
        """The attempt is no longer wanted."""

    @abstractmethod
    def _wake_at(self, at: float) -> None:
        """Wake the session at this time, and no longer at an earlier one."""

    def _close(self, line: FeedLine, reason: str) -> None:
        self._forget(line)
        if reason != "stop":
            logger.warning("connection dropped", extra={"fields": {**about(line.source), "reason": reason}})
        if line.connection is not None:
            line.connection.close()
        else:
            self._abandon(line)

    def _forget(self, line: FeedLine) -> None:
        line.dead = True
        self._lines.pop(line.conn, None)


def about(source: session.Source) -> dict[str, object]:
    """What a log line says of the source that it is about."""
    return {"source": source.name, "url": settings.redact_url(source.url)}


def policy_of(options: schema.Engine) -> session.Policy:
    """When to do what, as the configuration says."""
    return session.Policy(
        keepalive_secs=options.keepalive_secs,
        pong_timeout_secs=options.pong_timeout_secs,
        feed_silence_secs=options.feed_silence_secs,
        max_backoff_secs=options.max_backoff_secs,
        network_give_up_secs=options.network_give_up_secs,
        max_retry_after_secs=options.max_retry_after_secs,
        max_connects_per_minute=options.max_connects_per_minute,
        subscribe_timeout_secs=options.subscribe_timeout_secs,
    )
