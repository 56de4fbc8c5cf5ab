"""Where ticks come from: SYNTHETIC, REPLAY, and WebSocket feeds (MOCK_WS, REAL_WS). Contract section 4.

A feed turns its source into lists of ticks and delivers them to ingest, synchronously. When ingest has no
room it pauses the feed: a WebSocket feed stops reading its sockets, so that TCP slows the venue down (B2).

The WebSocket feed decides nothing. `session.Session` says what to connect to and when; the feed carries the
effects out and reports what happened. Two independent libraries can carry it, behind `Connect`: picows
(`via_picows`) and websockets (`via_websockets`). The feed goes nowhere but to the configured URLs: no proxy of the
environment, no redirect, is followed.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import logging
import os
import random
import re
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.parse import urlsplit

from engine import schema, session, settings
from engine.events import Tick
from engine.exits import ConfigError, Crash, EngineError, NetworkLost, ProtocolChanged
from engine.logs import RateLimited
from engine.wire import MAX_MESSAGE_BYTES, Kind, Parser, kind_for

logger = logging.getLogger("engine.feeds")

# Ticks that one step of a replay, or of a synthetic feed that fell behind, hands over at most: small enough that
# the loop turns every few ms, large enough that the step costs nothing per tick.
_STEP_TICKS = 2000

CLOSE_GRACE_SECS: Final = 1.0
"""How long a connection that we close may take to flush its close frame before it is aborted."""


class Inlet(Protocol):
    """What a feed delivers to. Implemented by the pipeline."""

    def deliver(self, ticks: list[Tick]) -> int:
        """Takes all of `ticks`; returns how many were new. May call the feed's `pause` before it returns."""

    def answer(self) -> None:
        """The feed's task is at the top of its loop: it is not stuck (E5)."""

    def barred(self, source: str, secs: float) -> None:
        """The venue of `source` wants to be left alone for so long, whatever becomes of this process (N5)."""


class Feed(Protocol):
    """One source of ticks for one run."""

    @property
    def parse_errors(self) -> int:
        """Unusable messages (N8)."""

    @property
    def ignored(self) -> int:
        """Well-formed messages that are no trades (N8b)."""

    @property
    def source(self) -> str | None:
        """Name of the source that delivers; None while there is none."""

    @property
    def reconnects(self) -> int:
        """Connections after the first one."""

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
        self._file = _open_lines(path)
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
        parser = Parser(Kind.REPLAY, f"{by_line}:ids", "")
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


def _open_lines(path: Path) -> IO[bytes]:
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

    def __init__(self, parser: Parser, limit: int) -> None:
        self.parser = parser
        # Set once the parser's streak of errors reaches the limit.
        self.broken: ProtocolChanged | None = None
        self._limit = limit
        self._errors_seen = 0
        self._log = RateLimited(logger, logging.WARNING)

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

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class ConnectFailed(Exception):
    """A connection attempt that came to nothing. `http_status` and `retry_after_secs` where the server
    answered with HTTP instead of upgrading."""

    def __init__(self, reason: str, http_status: int | None = None, retry_after_secs: float | None = None) -> None:
        super().__init__(reason)
        self.http_status = http_status
        self.retry_after_secs = retry_after_secs


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
        if not self.dead:
            self._feed.line_received(self, ticks)

    def pong(self) -> None:
        if not self.dead:
            self._feed.line_pong(self)

    def closed(self, reason: str) -> None:
        if not self.dead:
            if self.ticks:
                self.flush()
            self._feed.line_closed(self, reason)


Connect = Callable[[str, Line], Awaitable[None]]
"""Opens `url` for a Line: calls its `opened`, then returns. Raises ConnectFailed."""


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
    ) -> None:
        """`sources`: at least one. `now`: monotonic seconds, the clock of the event loop's timers. `barred_secs`: for
        how long an earlier run was told to leave the venue of a source alone."""
        policy = session.Policy(
            keepalive_secs=options.keepalive_secs,
            pong_timeout_secs=options.pong_timeout_secs,
            feed_silence_secs=options.feed_silence_secs,
            max_backoff_secs=options.max_backoff_secs,
            network_give_up_secs=options.network_give_up_secs,
        )
        wanted = [
            session.Source(source.name, source.url, urlsplit(source.url).hostname or "", source.priority)
            for source in sources
        ]
        self._streams = {
            source.name: _Stream(
                Parser(kind_for(source.venue, source.url), source.name, source.symbol or default_symbol),
                options.parse_error_limit,
            )
            for source in sources
        }
        barred = {source.host: now() + barred_secs[source.name] for source in wanted if source.name in barred_secs}
        self._session = session.Session(wanted, policy, random.uniform, barred)
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

    async def run(self) -> None:
        self._apply(self._session.start(self._now()))
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
        self._apply(self._session.connected(line.conn, self._now()))

    def line_received(self, line: Line, ticks: list[Tick]) -> None:
        new = self._inlet.deliver(ticks) if ticks else 0
        effects = self._session.received(line.conn, self._now(), new)
        if effects:
            self._apply(effects)

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
                case session.Close(conn, reason):
                    self._close(self._lines[conn], reason)
                case session.GiveUp(seconds, last_reason):
                    self._fail(
                        NetworkLost(
                            f"no source connected for {seconds:.1f} s; the last attempt: {last_reason}",
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
            await self._connect(line.source.url, line)
        except ConnectFailed as failure:
            if line.dead:
                return
            self._forget(line)
            fields = _about(line.source) | {"reason": str(failure)}
            if failure.http_status is not None:
                fields |= {"http_status": failure.http_status, "retry_after_secs": failure.retry_after_secs}
            logger.warning("connection failed", extra={"fields": fields})
            self._apply(
                self._session.connect_failed(
                    line.conn, self._now(), str(failure), failure.http_status, failure.retry_after_secs
                )
            )
            barred_secs = self._session.barred_until(line.source.host) - self._now()
            if barred_secs > 0:
                self._inlet.barred(line.source.name, barred_secs)
        except Exception as error:
            # No failure of the network: the library cannot be loaded, or is not what we take it for.
            crash = Crash(f"transport failed: {why(error)}")
            crash.__cause__ = error
            self._fail(crash)
        finally:
            line.task = None

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


def retry_after_secs(header: str | None, now: datetime) -> float | None:
    """The Retry-After header as seconds from `now`: it holds seconds or an HTTP date (RFC 9110 section
    10.2.3). None when there is none, or nobody can tell what it means."""
    from email.utils import parsedate_to_datetime

    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        # A number too long for a float means for ever; ten digits of seconds are 300 years.
        return float(text[:10]) if len(text) <= 10 else 1e10
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def why(error: BaseException) -> str:
    """An exception as a reason for the log."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def refusal(status: int, retry_after: str | None) -> ConnectFailed:
    """The server answered with HTTP `status` instead of upgrading, and with this Retry-After header."""
    return ConnectFailed(f"HTTP {status}", status, retry_after_secs(retry_after, datetime.now(UTC)))


async def _over_picows(url: str, line: Line) -> None:
    from engine import via_picows

    await via_picows.connect(url, line)


async def _over_websockets(url: str, line: Line) -> None:
    from engine import via_websockets

    await via_websockets.connect(url, line)


CONNECTS: Final[dict[str, Connect]] = {"picows": _over_picows, "websockets": _over_websockets}
"""Transports by their name in HYBRID_TRANSPORT. A library is loaded with the first attempt to connect: that takes a
quarter of the time that the engine needs to start, and a run without a WebSocket needs none."""
