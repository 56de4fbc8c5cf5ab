"""REPLAY of a recording: what a venue said is said again, to the parser and the session that a live run would have.

The session lives in the time of the recording, and is woken only while a connection is open: when to make an attempt
was decided when it was recorded. So there is no backoff, no budget and no end of patience here; what the session makes
of acknowledgements, rejections, silence and servers that are about to close is what it makes of them in a live run."""

from __future__ import annotations

import asyncio
import logging
from math import inf

import msgspec

from engine.base.events import Tick
from engine.config import schema, settings
from engine.ingest.connected import Connected, FeedLine, about, policy_of
from engine.ingest.ports import Inlet
from engine.ingest.recording import Event
from engine.ingest.stepped import STEP_TICKS
from engine.ingest.tape import Recording
from engine.ingest.transport import Connection
from engine.ingest.venues.markets import Streams

logger = logging.getLogger("engine.ingest.playback")

# Between two events no more time goes by: a clock may have been set, or a computer have slept.
_STEP_SECS_MAX = 3600.0

# The waits that a recording has behind it.
_NO_WAIT_SECS = 1e-9
_FOR_EVER_SECS = 1e9
_UNBOUNDED = 1_000_000_000


class PlaybackFeed(Connected):
    """What was recorded, as fast as the pipeline takes it (N20)."""

    def __init__(
        self, inlet: Inlet, recording: Recording, source: schema.Source, options: schema.Engine, streams: Streams
    ) -> None:
        """`source`: `source_of` the recording, which is closed at the end."""
        policy = msgspec.structs.replace(
            policy_of(options),
            base_backoff_secs=_NO_WAIT_SECS,
            max_backoff_secs=_NO_WAIT_SECS,
            network_give_up_secs=_FOR_EVER_SECS,
            max_connects_per_minute=_UNBOUNDED,
        )
        self._clock = 0.0
        self._wake_due = inf
        super().__init__(
            inlet,
            [source],
            policy,
            options.parse_error_limit,
            source.symbol or "",
            lambda: self._clock,
            {},
            streams,
        )
        self._recording = recording
        # The attempt that waits for what became of it.
        self._pending: FeedLine | None = None
        # By the number that a connection has in the recording.
        self._by_conn: dict[int, FeedLine] = {}
        # The time of the last event, in microseconds; None before the first.
        self._at: int | None = None
        # Whether there was a tick.
        self._found = False
        # Messages of connections that the session had given up.
        self._unheard = 0

    async def run(self) -> None:
        try:
            await self._run_to_its_end()
        finally:
            self._recording.close()

    async def _run_to_its_end(self) -> None:
        self._apply(self._session.start(self._clock))
        while records := await asyncio.to_thread(self._recording.read, STEP_TICKS):
            for record in records:
                self._inlet.answer()
                if isinstance(record, Event):
                    self._advance(record.at)
                    self._play(record)
                if self._failure is not None:
                    raise self._failure
                while self._paused and not self._stopped:
                    await self._bell.wait()
                    self._inlet.answer()
                if self._stopped:
                    return
            # A replay without a pause shall not keep the loop from anything else.
            await asyncio.sleep(0)
        if not self._stopped:
            self._tell_end()

    def _tell_end(self) -> None:
        recording = self._recording
        fields = {"replay": str(recording.path), "lines": recording.line}
        if recording.cut:
            logger.warning("the recording is cut short: its end is missing", extra={"fields": fields})
        if self._unheard:
            logger.warning(
                "the recording goes on over connections that were given up",
                extra={"fields": {**fields, "messages": self._unheard}},
            )
        if not self._found:
            logger.warning("nothing to replay: there is no tick in it", extra={"fields": fields})

    def line_received(self, line: FeedLine, ticks: list[Tick]) -> None:
        self._found = self._found or bool(ticks)
        super().line_received(line, ticks)

    def stop(self) -> None:
        super().stop()
        self._recording.stop()
        self._apply(self._session.stop(self._clock))

    def _attempt(self, line: FeedLine) -> None:
        self._pending = line

    def _abandon(self, line: FeedLine) -> None:
        if line is self._pending:
            self._pending = None

    def _close(self, line: FeedLine, reason: str) -> None:
        if line.connection is not None:
            super()._close(line, reason)
        else:
            # Of an attempt that the recording never made there is nothing to tell.
            self._forget(line)
            self._abandon(line)

    def _wake_at(self, at: float) -> None:
        self._wake_due = at

    def _advance(self, at: int) -> None:
        """Let time go by up to `at`, in microseconds; 0 where an event does not say."""
        if not at:
            return
        passed = 0.0 if self._at is None else min((at - self._at) / 1e6, _STEP_SECS_MAX)
        self._at = at
        until = self._clock + passed
        while self._is_open and self._wake_due <= until:
            self._clock = max(self._clock, self._wake_due)
            self._wake_due = inf
            self._apply(self._session.wake(self._clock))
        self._clock = max(self._clock, until)

    @property
    def _is_open(self) -> bool:
        return any(line.connection is not None for line in self._lines.values())

    def _play(self, event: Event) -> None:
        match event.event:
            case "opened":
                self._open(event.conn)
            case "failed":
                line = self._next_attempt()
                if line is not None:
                    self._forget(line)
                    logger.warning(
                        "connection failed", extra={"fields": {**about(line.source), "reason": event.reason}}
                    )
                    self._apply(self._session.connect_failed(line.conn, self._clock, event.reason))
            case "closed":
                if (closing := self._by_conn.pop(event.conn, None)) is not None:
                    closing.closed(event.reason)
            case "received":
                line = self._continued(event.conn)
                self._unheard += line.dead
                line.text(event.payload)
                line.flush()
            case "refused":
                line = self._continued(event.conn)
                line.refuse(event.reason, event.payload)
                line.flush()

    def _next_attempt(self) -> FeedLine | None:
        """The attempt that the session wants to make; None where it is content with the connection that it has."""
        while self._pending is None and not self._lines:
            self._clock = max(self._clock, self._wake_due)
            self._apply(self._session.wake(self._clock))
        line, self._pending = self._pending, None
        return line

    def _open(self, conn: int) -> FeedLine:
        line = self._next_attempt()
        if line is None:
            # The recording has another one.
            for other in list(self._lines.values()):
                other.closed("the recording goes on with another connection")
            line = self._next_attempt()
        assert line is not None, "a session without a connection wants one"
        self._by_conn[conn] = line
        line.opened(_Played(line))
        return line

    def _continued(self, conn: int) -> FeedLine:
        """A connection that is open. One that nothing is known of was opened in an earlier file, and what was asked for
        acknowledged."""
        line = self._by_conn.get(conn)
        if line is None:
            line = self._open(conn)
            self._apply(self._session.acknowledged(line.conn, self._clock))
        return line


class _Played(Connection):
    """The end of a connection that nobody is at any more."""

    def __init__(self, line: FeedLine) -> None:
        self._line = line

    def ping(self) -> None:
        # Whoever recorded it waited for the pongs: a connection without them was closed.
        self._line.pong()

    def send(self, text: str) -> None:
        """What is said to it was said before."""

    def pause(self) -> None:
        """It brings nothing by itself."""

    def resume(self) -> None:
        """Likewise."""

    def close(self) -> None:
        """What it still brings falls on deaf ears."""


def source_of(recording: Recording) -> schema.Source:
    """The source that was recorded. Raises ConfigError when this engine cannot have it."""
    header = recording.header
    table = {
        "name": header.source,
        "priority": 0,
        "url": header.url,
        "kind": header.kind,
        "venue": header.venue,
        "symbol": header.symbol,
        "markets": header.markets,
    }
    return settings.make_source(table, recording.path, {})
