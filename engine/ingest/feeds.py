"""Where ticks come from: SYNTHETIC, REPLAY, and WebSocket feeds (MOCK_WS, REAL_WS). Contract section 4.

A feed turns its source into lists of ticks and delivers them to ingest, synchronously. When ingest has no
room it pauses the feed: a WebSocket feed stops reading its sockets, so that TCP slows the venue down (B2).

The WebSocket feed decides nothing. `session.Session` says what to connect to and when; the feed carries the
effects out and reports what happened. Two independent libraries can carry it, behind `Connect`: picows
(`via_picows`) and websockets (`via_websockets`). The feed goes nowhere but to the configured URLs: no proxy of the
environment, no redirect, is followed.

A peer is a stranger. What it makes us hold is bounded: one message (MAX_MESSAGE_BYTES), one read of the socket, the
head of its answer to the upgrade, and SEND_BUFFER_BYTES that it does not read (B4). What it says is logged cut short.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import logging
import os
import random
import re
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.parse import urlsplit

from engine.base.events import Tick
from engine.base.exits import ConfigError, EngineError, NetworkLost, ProtocolChanged, explain
from engine.base.logs import RateLimited
from engine.config import schema, settings
from engine.ingest import refusal, session
from engine.ingest.dialing import Dialer
from engine.ingest.venues import registry
from engine.ingest.venues.markets import Kind, Markets, Streams
from engine.ingest.venues.port import MAX_MESSAGE_BYTES, Ack, Control, Draining, Lost, Parser, Rejected
from engine.ingest.venues.wire import TickParser

logger = logging.getLogger("engine.ingest.feeds")

# Ticks that one step of a replay, or of a synthetic feed that fell behind, hands over at most: small enough that
# the loop turns every few ms, large enough that the step costs nothing per tick.
_STEP_TICKS = 2000

# At most so often a source's foreign trades are logged.
_FOREIGN_SECS = 60.0

CLOSE_GRACE_SECS: Final = 1.0
"""How long a connection that we close may take to flush its close frame before it is aborted."""

SEND_BUFFER_BYTES: Final = 64 * 1024
"""How much a peer may leave unread before the connection is closed. All that is ever sent are subscriptions, pings and
pongs (B4)."""

_SAID_CHARS: Final = 500
"""How much of what a peer says gets into the log."""

_HINDRANCES_SHOWN: Final = 3


class Inlet(Protocol):
    """What a feed delivers to. Implemented by the pipeline."""

    def deliver(self, ticks: list[Tick]) -> int:
        """Takes all of `ticks`; returns how many were new. May call the feed's `pause` before it returns."""

    def pass_numbers(self, numbers: list[tuple[str, int, int]]) -> None:
        """These ids were used up by what is no trade: stream, id, time (N12)."""

    def answer(self) -> None:
        """The feed's task is at the top of its loop: it is not stuck (E5)."""

    def barred(self, source: str, secs: float) -> None:
        """The venue of `source` is left alone for so long, whatever becomes of this process (N5)."""


class Feed(Protocol):
    """One source of ticks for one run."""

    @property
    def parse_errors(self) -> int:
        """Unusable messages (N8)."""

    @property
    def ignored(self) -> int:
        """Well-formed messages that are no trades (N8b)."""

    @property
    def foreign(self) -> int:
        """Trades of markets that nobody asked for (N12)."""

    @property
    def source(self) -> str | None:
        """Name of the source that delivers; None while there is none."""

    @property
    def reconnects(self) -> int:
        """Connections after the first one."""

    @property
    def connections_unbounded(self) -> int:
        """Connections that were closed because what their peer made us hold had no bound (B4)."""

    @property
    def hindrance(self) -> str:
        """What keeps the feed from its sources, for humans; empty when nothing does."""

    async def run(self) -> None:
        """Feeds until `stop`, or until the source is at its end. Raises EngineError when it cannot go on."""

    def stop(self) -> None:
        """Ends `run`. What has been received has been delivered."""

    def pause(self) -> None:
        """Receive no more until `resume`: ingest has no room."""

    def resume(self) -> None:
        """Ingest has room again."""

    def nudge(self) -> None:
        """Makes `run` pass the top of its loop: the probe that it still answers (E5)."""


class _Bell:
    """Wakes one waiting task, early or at a given time."""

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float | None = None) -> None:
        """Waits for `ring`, at most until the loop's time `until`. A ring before the wait counts."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if until is None else loop.call_at(until, self.ring)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        self._rung = False


class _Stepped:
    """What SYNTHETIC and REPLAY have in common: a task that makes ticks in steps."""

    reconnects = 0
    foreign = 0
    connections_unbounded = 0
    hindrance = ""

    def __init__(self, inlet: Inlet) -> None:
        self.parse_errors = 0
        self.ignored = 0
        self._inlet = inlet
        self._bell = _Bell()
        self._stopped = False
        self._paused = False

    def stop(self) -> None:
        self._stopped = True
        self._bell.ring()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._bell.ring()

    def nudge(self) -> None:
        self._bell.ring()


class SyntheticFeed(_Stepped):
    """A deterministic walk, one tick per interval (N1).

    Ticks are numbered from 0. Tick n moves the price by `price_step` times +1 when n mod 5 is 0, 2 or 3 and
    times -0.5 otherwise, never below 1.0, and carries the price after the move.
    """

    source = "synthetic"

    def __init__(self, inlet: Inlet, options: schema.Engine, symbol: str, now_ms: Callable[[], int]) -> None:
        super().__init__(inlet)
        self._interval_secs = options.tick_interval_ms / 1000
        self._price = options.start_price
        self._step = options.price_step
        self._volume = options.volume
        self._symbol = symbol
        self._now_ms = now_ms
        self._number = 0

    def next_tick(self) -> Tick:
        """The next tick of the walk, stamped with the time of now."""
        direction = 1.0 if self._number % 5 in (0, 2, 3) else -0.5
        self._number += 1
        self._price = max(1.0, self._price + direction * self._step)
        return Tick(self.source, self._symbol, self._price, self._volume, self._now_ms())

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while not self._stopped:
            self._inlet.answer()
            if self._paused:
                await self._bell.wait()
                # The walk stands still while there is no room, so it has nothing to catch up with.
                next_at = max(next_at, loop.time())
                continue
            now = loop.time()
            due = 0
            while next_at <= now and due < _STEP_TICKS:
                next_at += self._interval_secs
                due += 1
            if due == _STEP_TICKS:
                # After a suspended machine woke up, a day of ticks at once would help nobody.
                next_at = now + self._interval_secs
            if due:
                self._inlet.deliver([self.next_tick() for _ in range(due)])
            await self._bell.wait(next_at)


class ReplayFeed(_Stepped):
    """Ticks that were recorded, as fast as the pipeline takes them (N2)."""

    source = "replay"

    def __init__(self, inlet: Inlet, chunks: AsyncGenerator[list[Tick], None], origin: str) -> None:
        """`origin`: where the ticks come from, for the log."""
        super().__init__(inlet)
        self._chunks = chunks
        self._origin = origin

    async def run(self) -> None:
        found = False
        async with aclosing(self._chunks) as chunks:
            async for ticks in chunks:
                self._inlet.answer()
                self._inlet.deliver(ticks)
                found = found or bool(ticks)
                while self._paused and not self._stopped:
                    await self._bell.wait()
                    self._inlet.answer()
                if self._stopped:
                    return
        if not found and not self._stopped:
            logger.warning("nothing to replay: there is no tick in it", extra={"fields": {"replay": self._origin}})


class FileReplayFeed(ReplayFeed):
    """A replay from a JSONL file: `symbol`, `price`, `volume`, `ts` in ms, optional `event_id` (N2).

    A tick without an `event_id` is identified by the file's digest and its line number, so that replaying the
    same file twice stores it once. An unusable line is a parse error; `parse_error_limit` of them in a row
    raise ProtocolChanged, and so do lines of which none is usable (N2b).
    """

    def __init__(self, inlet: Inlet, path: Path, parse_error_limit: int) -> None:
        """Raises ConfigError when `path` is not a readable regular file, or one of another format."""
        self._file = open_lines(path)
        self._limit = parse_error_limit
        super().__init__(inlet, self._read(), str(path))

    async def _read(self) -> AsyncGenerator[list[Tick], None]:
        with self._file as file:
            by_line = f"replay:{await self._digest(file)}"
            if not self._stopped:
                async with aclosing(self._parse(file, by_line)) as chunks:
                    async for ticks in chunks:
                        yield ticks

    async def _digest(self, file: IO[bytes]) -> str:
        """What tells the file from others; a stop may come while it is made."""
        digest = hashlib.sha256()
        file.seek(0)
        while not self._stopped and (data := await asyncio.to_thread(file.read, MAX_MESSAGE_BYTES)):
            digest.update(data)
            self._inlet.answer()
        return digest.hexdigest()[:16]

    async def _parse(self, file: IO[bytes], by_line: str) -> AsyncGenerator[list[Tick], None]:
        loop = asyncio.get_running_loop()
        parser = TickParser(Kind.REPLAY, f"{by_line}:ids", Markets("", "", Streams()))
        stream = _Stream(parser, self._limit)
        number = 0  # of the line
        found = False  # a tick
        first: str | None = None  # what was wrong with the first line that was no tick
        file.seek(0)
        while lines := await asyncio.to_thread(_read_lines, file):
            ticks: list[Tick] = []
            for line in lines:
                number += 1
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                # A file that was being written when the power failed ends in NULs.
                line = line.strip(b" \t\r\n\0")
                if not line:
                    continue
                before = len(ticks)
                if len(line) > MAX_MESSAGE_BYTES:
                    parser.refuse(f"line {number} over {MAX_MESSAGE_BYTES} bytes")
                else:
                    parser.parse_into(line, ticks)
                for tick in ticks[before:]:
                    if tick.trade_id is None and tick.event_id is None:
                        tick.source = by_line
                        tick.trade_id = number
                stream.check(loop.time(), line=number)
                found = found or bool(ticks)
                if first is None and not found:
                    first = f"line {number}: {parser.last_error if parser.errors else 'not a tick'}"
            self.parse_errors = parser.errors
            self.ignored = parser.ignored
            yield ticks
            if stream.broken is not None:
                if found:
                    raise stream.broken
                break
        if first is not None and not found:
            raise ProtocolChanged(f"{self._origin}: no usable line; {first}", parse_errors=parser.errors, lines=number)


_HEAD_BYTES = 4096

_MAGIC: Final = {
    b"\x1f\x8b": ("gzip", "gunzip it"),
    b"\x1f\x9d": ("compress", "uncompress it"),
    b"BZh": ("bzip2", "bunzip2 it"),
    b"\xfd7zXZ\0": ("xz", "unxz it"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd it"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4 it"),
    b"7z\xbc\xaf\x27\x1c": ("7z", "unpack it"),
    b"PK\x03\x04": ("zip", "unzip it"),
    b"PK\x05\x06": ("zip", "unzip it"),
    b"SQLite format 3\0": ("SQLite", "replay it without a replay file, as --db"),
    b"PAR1": ("Parquet", "export it as JSON, one object a line"),
    b"ARROW1": ("Arrow", "export it as JSON, one object a line"),
    codecs.BOM_UTF16_LE: ("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    codecs.BOM_UTF16_BE: ("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    codecs.BOM_UTF32_BE: ("UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    b"{\0": ("UTF-16", "convert it: iconv -f UTF-16LE -t UTF-8"),
    b"\0{": ("UTF-16", "convert it: iconv -f UTF-16BE -t UTF-8"),
}
"""How files begin that hold no lines of JSON: (what they are, what to do first)."""


def why_no_lines(head: bytes) -> str | None:
    """Why a file that begins with `head` cannot be replayed as it is, and what to do; None when it may hold JSONL."""
    for magic, (name, remedy) in _MAGIC.items():
        if head.startswith(magic):
            return f"{name}, not lines of JSON: {remedy} first"
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if re.match(rb"\[\s*[{\[\]]", text):
        return "a JSON array, not one object a line: jq -c '.[]' makes lines of it"
    return None


def open_lines(path: Path) -> IO[bytes]:
    """The replay file. Raises ConfigError when it is not a readable regular file, or not one of lines."""
    refused: str | None
    try:
        # Without waiting: what only looks like a regular file, such as /proc/kmsg, may have nothing to say.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        refused = f"cannot be read: {error.strerror}"
    else:
        try:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            refused = why_no_lines(file.read(_HEAD_BYTES) or b"") if regular else "not a regular file"
        except OSError as error:
            refused = f"cannot be read: {error.strerror}"
        if refused is None:
            return file
        file.close()
    raise ConfigError(f"engine.replay_file = {str(path)!r}: {refused}", key="engine.replay_file", value=str(path))


def _read_lines(file: IO[bytes]) -> list[bytes]:
    """The next lines of `file`, at most one step of them; a line that never ends is cut, not read whole."""
    lines: list[bytes] = []
    size = 0
    while len(lines) < _STEP_TICKS and size < MAX_MESSAGE_BYTES:
        line = file.readline(MAX_MESSAGE_BYTES + 1)
        if not line:
            break
        lines.append(line)
        size += len(line)
        if len(line) > MAX_MESSAGE_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_MESSAGE_BYTES)
    return lines


class _Stream:
    """One source's parser and its run of unusable messages, across reconnects (N8)."""

    def __init__(
        self, parser: Parser, limit: int, messages: tuple[str, ...] = (), markets: tuple[str, ...] = (), beat: str = ""
    ) -> None:
        """`messages`: what is sent after the upgrade to have `markets` sent, in upper case. `beat`: what is sent now
        and then (`session.Beat`)."""
        self.parser = parser
        self.messages = messages
        self.markets = markets
        self.beat = beat
        # What the venue said the last time it rejected a subscription; "" once it acknowledged one.
        self.rejection = ""
        # Set once the parser's streak of errors reaches the limit.
        self.broken: ProtocolChanged | None = None
        self._limit = limit
        self._errors_seen = 0
        self._log = RateLimited(logger, logging.WARNING)
        self._foreign_seen = 0
        # Messages that were missed, by the venue's own count.
        self.lost = 0
        self._lost_log = RateLimited(logger, logging.WARNING)
        # It is the peer's way rather than an event: a line a minute will do.
        self._foreign_log = RateLimited(logger, logging.WARNING, _FOREIGN_SECS)

    def check_foreign(self, now: float, source: str) -> None:
        """To be called after messages, some of which may have been of another market (N12)."""
        parser = self.parser
        if parser.foreign != self._foreign_seen:
            self._foreign_seen = parser.foreign
            self._foreign_log.log(
                now,
                "trade of a market that nobody asked for",
                source=source,
                market=parser.last_foreign,
                foreign=parser.foreign,
            )

    def tell_lost(self, now: float, source: str, messages: int) -> None:
        """The venue counts its messages, and so many never came (N9)."""
        self.lost += messages
        self._lost_log.log(now, "messages of the venue are missing", source=source, lost=self.lost)

    def check(self, now: float, **where: object) -> None:
        """To be called after a message that may have been unusable."""
        parser = self.parser
        if parser.errors == self._errors_seen:
            return
        self._errors_seen = parser.errors
        self._log.log(now, "unusable message", error=parser.last_error, parse_errors=parser.errors, **where)
        if parser.error_streak >= self._limit and self.broken is None:
            self.broken = ProtocolChanged(
                f"{parser.error_streak} unusable messages in a row, the last one: {parser.last_error}",
                parse_errors=parser.errors,
                parse_error_limit=self._limit,
                **where,
            )


class Connection(Protocol):
    """An open WebSocket, whichever library carries it."""

    def ping(self) -> None: ...

    def send(self, text: str) -> None:
        """Sends a text message."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class ConnectFailed(Exception):
    """A connection attempt that came to nothing.

    `http_status` and `retry_after` (the headers) where the server answered with HTTP instead of upgrading. `unbounded`
    where its answer had no end.
    """

    def __init__(
        self, reason: str, http_status: int | None = None, retry_after: Sequence[str] = (), *, unbounded: bool = False
    ) -> None:
        super().__init__(reason)
        self.http_status = http_status
        self.retry_after = retry_after
        self.unbounded = unbounded


class Line:
    """One connection's end in the feed: its transport calls `opened`, then messages and `flush`, then
    `closed`. Whatever comes after the session dropped the connection falls on deaf ears."""

    def __init__(self, feed: WebSocketFeed, conn: int, source: session.Source, stream: _Stream) -> None:
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


Connect = Callable[[str, Line, socket.socket], Awaitable[None]]
"""Opens `url` for a Line over a connected socket: calls its `opened`, then returns. Raises ConnectFailed."""


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
        how long an earlier run was told to leave the venue of a source alone. `streams`: the names of all streams."""
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
        self._streams: dict[str, _Stream] = {}
        for source in sources:
            venue = registry.venue_of(source.venue, source.url)
            found = settings.subscription(source)
            its_markets = Markets(
                source.name,
                source.symbol or default_symbol,
                streams,
                settings.asked_markets(source, default_symbol),
            )
            self._streams[source.name] = _Stream(
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
                    urlsplit(source.url).hostname or "",
                    source.priority,
                    subscribes=bool(found.messages),
                    beat_secs=venue.beat_secs,
                )
            )
        barred: dict[str, session.Bar] = {}
        for place in wanted:
            until = now() + barred_secs.get(place.name, 0.0)
            # The longest of a host's, should several of its sources have been told.
            if place.name in barred_secs and (place.host not in barred or until > barred[place.host].until):
                barred[place.host] = session.Bar(until, "HTTP 429 or 418, to an earlier run")
        self._sources = wanted
        self._session = session.Session(wanted, policy, random.uniform, barred, now())
        self._max_retry_after_secs = options.max_retry_after_secs
        self._dialer = Dialer()
        self.connections_unbounded = 0
        self._inlet = inlet
        self._connect = connect
        self._now = now
        self._lines: dict[int, Line] = {}
        self._bell = _Bell()
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

    def line_opened(self, line: Line) -> None:
        logger.info("connected", extra={"fields": _about(line.source)})
        assert line.connection is not None
        if self._paused:
            line.connection.pause()
        for message in line.stream.messages:
            line.connection.send(message)
        self._apply(self._session.connected(line.conn, self._now()))

    def line_received(self, line: Line, ticks: list[Tick]) -> None:
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

    def _heed(self, line: Line, control: Control) -> None:
        """Acts on what a venue says of the connection (N18)."""
        match control:
            case Ack(market):
                if market:
                    line.awaited.discard(market.upper())
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

    def line_troubled(self, line: Line) -> None:
        line.stream.check(self._now(), source=line.source.name)
        if line.stream.broken is not None and self._failure is None:
            self._fail(line.stream.broken)

    def line_pong(self, line: Line) -> None:
        self._apply(self._session.pong(line.conn, self._now()))

    def line_closed(self, line: Line, reason: str) -> None:
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
                    line = self._lines[conn] = Line(self, conn, source, self._streams[source.name])
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

    async def _open(self, line: Line) -> None:
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

    async def _dial_and_connect(self, line: Line) -> None:
        parts = urlsplit(line.source.url)
        place = (line.source.host, parts.port or (443 if parts.scheme == "wss" else 80))
        try:
            connected = await self._dialer.dial(place)
            address = connected.getpeername()
        except (OSError, RuntimeError) as error:
            # RuntimeError: no thread to resolve in could be started, or uvloop's word for an OSError.
            raise ConnectFailed(why(error)) from error
        good = False
        try:
            await self._connect(line.source.url, line, connected)
            good = True
        finally:
            self._dialer.note_handshake(place, address, good=good)

    def _report_failure(self, line: Line, failure: ConnectFailed) -> None:
        source, reason = line.source, str(failure)
        fields = _about(source) | {"reason": reason}
        secs = None
        if failure.http_status is not None:
            secs = refusal.wait_secs(failure.retry_after, datetime.now(UTC))
            fields |= {"http_status": failure.http_status, "retry_after_secs": secs}
        if failure.retry_after:
            fields["retry_after"] = cut_short(", ".join(failure.retry_after))
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
        """Let the next run know how long the venue of `source` is to be left alone."""
        bar = self._session.bar(source.host, self._now())
        if bar is not None:
            self._inlet.barred(source.name, bar.until - self._now())

    def _close(self, line: Line, reason: str) -> None:
        self._forget(line)
        if reason != "stop":
            logger.warning("connection dropped", extra={"fields": {**_about(line.source), "reason": reason}})
        if line.connection is not None:
            line.connection.close()
        elif line.task is not None:
            line.task.cancel()

    def _forget(self, line: Line) -> None:
        line.dead = True
        self._lines.pop(line.conn, None)


def _about(source: session.Source) -> dict[str, object]:
    return {"source": source.name, "url": settings.redact_url(source.url)}


def refused(head: bytes, error: BaseException) -> ConnectFailed:
    """Why a handshake failed whose answer began with `head`."""
    status, headers = refusal.read_head(head)
    unbounded = head.find(b"\r\n\r\n") < 0 and len(head) >= refusal.HEAD_BYTES_MAX
    reason = why(error) if status in (None, 101) else f"HTTP {status}"
    if unbounded:
        reason = f"{reason}; the head of the answer has over {refusal.HEAD_BYTES_MAX} bytes"
    if status in (None, 101):
        return ConnectFailed(reason, unbounded=unbounded)
    return ConnectFailed(reason, status, headers, unbounded=unbounded)


def why(error: BaseException) -> str:
    """An exception as a reason for the log."""
    text = cut_short(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def cut_short(text: str) -> str:
    """As much of a peer's text as the log has room for."""
    return text if len(text) <= _SAID_CHARS else f"{text[:_SAID_CHARS]}..."


async def _over_picows(url: str, line: Line, connected: socket.socket) -> None:
    from engine.ingest import via_picows

    await via_picows.connect(url, line, connected)


async def _over_websockets(url: str, line: Line, connected: socket.socket) -> None:
    from engine.ingest import via_websockets

    await via_websockets.connect(url, line, connected)


CONNECTS: Final[dict[str, Connect]] = {"picows": _over_picows, "websockets": _over_websockets}
"""Transports by their name in HYBRID_TRANSPORT. A library is loaded with the first attempt to connect: that takes a
quarter of the time that the engine needs to start, and a run without a WebSocket needs none."""
