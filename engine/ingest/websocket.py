"""MOCK_WS and REAL_WS: feeds over WebSocket. Contract section 4.

It goes nowhere but to the configured URLs: no proxy of the environment and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from engine.base.exits import explain
from engine.config import schema
from engine.ingest import refusal, session
from engine.ingest.connected import Connected, FeedLine, about, policy_of
from engine.ingest.dialing import Dialer, secs_since_bytes
from engine.ingest.ports import Inlet
from engine.ingest.transport import Connect, ConnectFailed, Line, cut_short, why
from engine.ingest.venues.markets import Streams

logger = logging.getLogger("engine.ingest.websocket")

_HINDRANCES_SHOWN: Final = 3


class WebSocketFeed(Connected):
    """MOCK_WS and REAL_WS: connections over the network, in the time of the event loop."""

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
        super().__init__(
            inlet, sources, policy_of(options), options.parse_error_limit, default_symbol, now, barred_secs, streams
        )
        self._max_retry_after_secs = options.max_retry_after_secs
        self._dialer = Dialer()
        self._connect = connect
        # What carries a source that the first one could not be upgraded for.
        self._connect_otherwise: Connect = _over_websockets
        # Sources whose upgrade only the other transport understands.
        self._by_other: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def hindrance(self) -> str:
        bars = [f"{source.name} {bar}" for source in self._sources if (bar := self._bar(source)) is not None]
        bars += [f"{name}: {stream.rejection}" for name, stream in self._streams.items() if stream.rejection]
        bars += [f"{name} {what}" for name in self._streams if (what := self.estrangement(name)) is not None]
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
                logger.warning(told, extra={"fields": about(source)})
                # As it is now, for what an earlier run wrote may have been longer than it may be.
                self._note_bar(source)
        while not self._stopped:
            self._inlet.answer()
            if self._failure is not None:
                raise self._failure
            await self._bell.wait()

    def stop(self) -> None:
        super().stop()
        if self._timer is not None:
            self._timer.cancel()
        self._apply(self._session.stop(self._now()))

    def pause(self) -> None:
        super().pause()
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

    def _attempt(self, line: FeedLine) -> None:
        line.task = asyncio.get_running_loop().create_task(self._open(line))

    def _abandon(self, line: FeedLine) -> None:
        if line.task is not None:
            line.task.cancel()

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if self._paused:
            # We do not read, so silence says nothing about the peer; `resume` asks again.
            return
        now = self._now()
        for line in self._lines.values():
            if line.socket is not None and (secs := secs_since_bytes(line.socket)) is not None:
                self._session.arriving(line.conn, now - secs)
        self._apply(self._session.wake(now))

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
            line.socket = connected
            connect = self._connect_otherwise if line.source.name in self._by_other else self._connect
            await connect(_without_root(line.source.url), line, connected)
            good = True
        finally:
            self._dialer.note_handshake(place, address, good=good)

    def _report_failure(self, line: FeedLine, failure: ConnectFailed) -> None:
        source, reason = line.source, str(failure)
        fields = about(source) | {"reason": reason}
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


def _without_root(url: str) -> str:
    """`url` with its host as certificates have it. A name with a dot at its end is looked up as it stands, but the dot
    is in no certificate and in no SNI (RFC 6066 section 3)."""
    host = urlsplit(url).netloc.partition(":")[0]
    return url.replace(host, host.removesuffix("."), 1)


async def _over_picows(url: str, line: Line, connected: socket.socket) -> None:
    from engine.ingest import via_picows

    await via_picows.connect(url, line, connected)


async def _over_websockets(url: str, line: Line, connected: socket.socket) -> None:
    from engine.ingest import via_websockets

    await via_websockets.connect(url, line, connected)


CONNECTS: Final[dict[str, Connect]] = {"picows": _over_picows, "websockets": _over_websockets}
"""Transports by their name in HYBRID_TRANSPORT. A library is loaded with the first attempt to connect: that takes a
quarter of the time that the engine needs to start, and a run without a WebSocket needs none."""
