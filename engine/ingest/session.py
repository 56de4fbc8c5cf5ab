"""Which source to be connected to, and when: failover, backoff, keepalive (N4, N5, N6, exit 10).

A state machine without I/O. The caller (connected.py, or playback.py for a recording) tells it what happened, each time
with the monotonic time, and carries out the effects it gets back, in order:
`Connect`, `Ping`, `Beat`, `Close`, `Wake`, `GiveUp`.

A connection number is never used twice. Events of a connection that the session has closed, or that has
failed, are late and change nothing, so the caller need not guard against races.

The states of a source: idle, connecting, open. One connection is the *active* one. While that is to a worse
source than could be had, a second, the *candidate*, is opened to the better source; the active one is
closed only when the candidate delivers its first new tick (make before break). A candidate that fails, or
delivers nothing, is dropped without harm to the active one.

A venue that is subscribed to has to acknowledge that in time (N18); until it has, its connection is on trial. A server
that says that it is about to close a connection is taken at its word, and so is a venue that lets none become older
than so and so: a second connection to it is opened beside the first, and replaces it as a better source's would. It
goes before that of a better source, which may say nothing for as long as the first one lasts.

Every source backs off by itself: after its nth failure in a row, n counted from 0, it may not be tried for
min(max_backoff, base_backoff * 2**n) * uniform(0.5, 1) seconds. Only a healthy connection resets n: one that
delivered a new tick and stayed open at least as long as the wait before it, and base_backoff. So a server
that accepts and closes at once, or delivers one tick and closes, is backed off like one that refuses.
HTTP 429 and 418 bar every source on that host (N5), because the venue counts by address, not by stream.

However healthy its connections were, a host is not contacted more than `max_connects_per_minute` times in any minute,
by all sources on it together, and a connection that opened is followed by the next one a share of a minute after it
began (N15). A source on another host has a budget of its own, so moving on to it is immediate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Final, TypeAlias

from msgspec import Struct

CONNECT_TIMEOUT_SECS: Final = 10.0
"""How long a connection attempt (TCP, TLS and the upgrade) may take. The contract gives no number; this is
the default open_timeout of the websockets library."""

RATE_LIMITED: Final = (418, 429)
"""What a host answers that wants to be left alone; its Retry-After is obeyed (N5)."""

_MINUTE_SECS: Final = 60.0


class Source(Struct, frozen=True):
    """One place to get ticks from (ws_sources.toml)."""

    name: str
    url: str
    host: str
    """Host of `url`: rate limits (429, 418) count for the host."""
    priority: int
    """Lower is tried first; equal ones in the order given."""
    subscribes: bool = False
    """Whether something is asked for after the upgrade, which the venue has to acknowledge (N18)."""
    beat_secs: float = 0.0
    """How often the venue wants to hear of us, in its own words (`Beat`); 0: not at all."""
    max_age_secs: float = 0.0
    """How old a connection may become before it is replaced, as the venue closes older ones; 0: as old as it likes."""


class Policy(Struct, frozen=True):
    """When to do what, in seconds. Defaults of the configuration: contract section 2, `[engine]`."""

    keepalive_secs: float
    """Silence after which a ping is sent (N6)."""
    pong_timeout_secs: float
    """How long the answer to a ping, or any message, may take (N6)."""
    feed_silence_secs: float
    """How long an open connection may bring no new tick (N6); 0 = for ever."""
    max_backoff_secs: float
    """Longest wait between two attempts, and the bar after a 429 or 418 without Retry-After (N5)."""
    network_give_up_secs: float
    """How long no connection may be open before the run ends (exit 10)."""
    subscribe_timeout_secs: float = 10.0
    """How long the acknowledgement of a subscription may take (N18)."""
    base_backoff_secs: float = 0.5
    """Wait after the first failure, before jitter (N5 gives no number)."""
    max_retry_after_secs: float = 3600.0
    """Longest that a venue, or a bar of an earlier run, keeps us away (N5)."""
    max_connects_per_minute: int = 10
    """How often a host may be contacted in any minute (N15)."""


class Bar(Struct, frozen=True):
    """A host wants to be left alone."""

    until: float
    reason: str
    """What it said: HTTP 429."""


class Connect(Struct, frozen=True):
    """Open a WebSocket to `source.url`; answer with connected() or connect_failed()."""

    conn: int
    source: Source


class Ping(Struct, frozen=True):
    """Send a ping; answer with pong() when one arrives."""

    conn: int


class Beat(Struct, frozen=True):
    """Send what the venue wants to hear now and then; no answer is due."""

    conn: int


class Close(Struct, frozen=True):
    """Drop the connection, or the attempt if it is still one; no answer is due. `reason` is for the log."""

    conn: int
    reason: str


class Wake(Struct, frozen=True):
    """Call wake() at this monotonic time; replaces an earlier Wake."""

    at: float


class GiveUp(Struct, frozen=True):
    """End the run with exit 10: nothing was open for `seconds`; `last_reason` is the latest failure."""

    seconds: float
    last_reason: str


Effect: TypeAlias = Connect | Ping | Beat | Close | Wake | GiveUp

_NOTHING: Final[tuple[Effect, ...]] = ()


class _Station:
    """What is known of one source; lives as long as the session."""

    __slots__ = ("delay", "failures", "not_before", "rank", "source")

    def __init__(self, source: Source, rank: int) -> None:
        self.source = source
        # Position in the order of preference: 0 is the best.
        self.rank = rank
        # Failures since the last healthy connection.
        self.failures = 0
        # The wait imposed by the latest failure.
        self.delay = 0.0
        # Monotonic time before which no attempt may be made, as far as this source's own backoff goes.
        self.not_before = -inf


class _Host:
    """What is known of one host, by all its sources; lives as long as the session."""

    __slots__ = ("attempts", "bar", "next_at")

    def __init__(self, attempts_max: int) -> None:
        # When it was contacted, the latest attempts only.
        self.attempts: deque[float] = deque(maxlen=attempts_max)
        # Before this the connection that opened last is not followed by another.
        self.next_at = -inf
        # None when it never asked to be left alone.
        self.bar: Bar | None = None

    @property
    def barred_until(self) -> float:
        return -inf if self.bar is None else self.bar.until

    @property
    def ready_at(self) -> float:
        """When it may be contacted again."""
        full = len(self.attempts) == self.attempts.maxlen
        budget_at = self.attempts[0] + _MINUTE_SECS if full else -inf
        return max(self.barred_until, budget_at, self.next_at)


class _Link:
    """One connection, or the attempt at one; lives until it is closed or has failed."""

    __slots__ = (
        "acknowledged",
        "beat_at",
        "conn",
        "delivered",
        "draining",
        "heard",
        "heard_at",
        "heir",
        "open",
        "opened_at",
        "ping_at",
        "progress_at",
        "started_at",
        "station",
        "waited",
    )

    def __init__(self, conn: int, station: _Station, now: float) -> None:
        self.conn = conn
        self.station = station
        self.started_at = now
        # The backoff that preceded this attempt: what a healthy connection has to outlast.
        self.waited = station.delay
        self.open = False
        # The times below mean nothing until `open`.
        self.opened_at = now
        # Latest sign of life: bytes, or the opening itself.
        self.heard_at = now
        # Latest new tick, or the opening.
        self.progress_at = now
        # Latest ping; it is unanswered while later than heard_at.
        self.ping_at = -inf
        # Latest beat, or the opening.
        self.beat_at = now
        # Whether what was asked for is known to come.
        self.acknowledged = not station.source.subscribes
        # Whether the server means to close it.
        self.draining = False
        # Whether anything arrived, data or pong.
        self.heard = False
        # Whether a new tick arrived.
        self.delivered = False
        # Whether it became the active one because another source's ended, and had not delivered anything.
        self.heir = False


class Session:
    """The connection logic of one REAL_WS or MOCK_WS run. Times (`now`) are monotonic seconds."""

    reconnects: int
    """Connections opened after the first one (M2)."""

    def __init__(
        self,
        sources: Sequence[Source],
        policy: Policy,
        uniform: Callable[[float, float], float],
        barred: Mapping[str, Bar] | None = None,
        now: float = 0.0,
    ) -> None:
        """`sources`: at least one, in any order. `uniform(a, b)`: a random float in [a, b], for the jitter.
        `barred`: host -> what an earlier run was told by it. It may have been another engine's, so it is cut to
        `max_retry_after_secs` from `now` on.

        ValueError when there is no source, or a time in `policy` would make the session spin: all have to be
        positive, `feed_silence_secs` may be 0.
        """
        if not sources:
            raise ValueError("sources: at least one is needed")
        for key in Policy.__struct_fields__:
            seconds = getattr(policy, key)
            if not (0.0 < seconds < inf or (key == "feed_silence_secs" and seconds == 0.0)):
                raise ValueError(f"policy.{key} {seconds}: allowed is a positive number of seconds")
        self.reconnects = 0
        self._policy = policy
        self._uniform = uniform
        self._stations = [
            _Station(source, rank) for rank, source in enumerate(sorted(sources, key=lambda s: s.priority))
        ]
        self._hosts = {source.host: _Host(policy.max_connects_per_minute) for source in sources}
        for name, bar in (barred or {}).items():
            if name in self._hosts:
                self._hosts[name].bar = Bar(min(bar.until, now + policy.max_retry_after_secs), bar.reason)
        self._links: dict[int, _Link] = {}
        self._active: _Link | None = None
        self._candidate: _Link | None = None
        self._last_conn = 0
        self._opened = 0
        # Since when no connection has been open that proved itself by any sign of life.
        self._dark_since = 0.0
        self._last_reason = "no attempt has ended yet"
        # The time of the Wake that the caller holds; None when it holds none that is still to come.
        self._wake_at: float | None = None
        self._running = False

    @property
    def source(self) -> Source | None:
        """The source of the active connection; None while that is not open."""
        link = self._active
        return link.station.source if link is not None and link.open else None

    def bar(self, host: str, now: float) -> Bar | None:
        """What keeps us from contacting `host` although it could be reached; None when nothing does."""
        bar = self._hosts[host].bar
        return bar if bar is not None and bar.until > now else None

    def start(self, now: float) -> Sequence[Effect]:
        """Begin; call it once, before anything else. The clock of `network_give_up_secs` starts."""
        self._running = True
        self._dark_since = now
        return self._proceed(now, [])

    def stop(self, now: float) -> Sequence[Effect]:
        """Close everything. After this, and after a GiveUp, every event is late."""
        self._running = False
        effects: list[Effect] = [Close(conn, "stop") for conn in self._links]
        self._links.clear()
        self._active = self._candidate = None
        return effects

    def connected(self, conn: int, now: float) -> Sequence[Effect]:
        """The attempt succeeded: the WebSocket is open."""
        link = self._links.get(conn)
        if link is None or link.open:
            return _NOTHING
        link.open = True
        link.opened_at = link.heard_at = link.progress_at = link.beat_at = now
        host = self._hosts[link.station.source.host]
        host.next_at = link.started_at + _MINUTE_SECS / self._policy.max_connects_per_minute
        if self._opened:
            self.reconnects += 1
        self._opened += 1
        return self._proceed(now, [])

    def connect_failed(
        self,
        conn: int,
        now: float,
        reason: str,
        http_status: int | None = None,
        retry_after: float | None = None,
    ) -> Sequence[Effect]:
        """The attempt failed. `http_status`: when the server answered the upgrade with something else than
        101. `retry_after`: its Retry-After header, as seconds from now."""
        link = self._links.get(conn)
        if link is None or link.open:
            return _NOTHING
        if http_status in RATE_LIMITED:
            host = self._hosts[link.station.source.host]
            # Written so that a NaN counts as no header.
            secs = retry_after if retry_after is not None and retry_after >= 0 else self._policy.max_backoff_secs
            # An earlier bar is over: no attempt is made while there is one, and only one at a time.
            host.bar = Bar(now + min(secs, self._policy.max_retry_after_secs), reason)
        self._drop(link, now, reason)
        return self._proceed(now, [])

    def received(self, conn: int, now: float, new_ticks: int, known_ticks: int = 0) -> Sequence[Effect]:
        """Messages arrived, which became `new_ticks` and ticks that had been seen before. One call per batch.
        Messages without a new tick keep the connection alive, but are no progress (N8b)."""
        link = self._links.get(conn)
        if link is None or not link.open:
            return _NOTHING
        link.heard_at = now
        link.heard = True
        if new_ticks or (known_ticks and self._is_echo(link)):
            link.progress_at = now
            if not link.delivered:
                link.delivered = True
                if link is self._candidate:
                    return self._promote(link, now)
                if link.heir and (other := self._candidate) is not None and other.station.rank > link.station.rank:
                    self._forget(other, now)
                    return self._proceed(now, [Close(other.conn, f"{link.station.source.name} is preferred")])
        return _NOTHING

    def _is_echo(self, link: _Link) -> bool:
        """Whether ticks that are known come over a replacement because the connection that it is to replace, which has
        delivered since it was opened, is a moment faster."""
        active = self._active
        return (
            link is self._candidate
            and active is not None
            and active.station is link.station
            and active.progress_at > link.opened_at
        )

    def pong(self, conn: int, now: float) -> Sequence[Effect]:
        """A pong arrived: the peer lives, which says nothing about the feed (N6)."""
        return self.received(conn, now, 0)

    def arriving(self, conn: int, at: float) -> None:
        """The latest bytes came at that time, maybe of a message that is not complete yet: the peer lives. Told before
        `wake`."""
        link = self._links.get(conn)
        if link is not None and link.open:
            link.heard_at = max(link.heard_at, at)

    def acknowledged(self, conn: int, now: float) -> Sequence[Effect]:
        """The venue has said that everything that was asked for will come."""
        link = self._links.get(conn)
        if link is not None:
            link.acknowledged = True
        return _NOTHING

    def rejected(self, conn: int, now: float, reason: str) -> Sequence[Effect]:
        """The venue has said that something that was asked for will not come."""
        if conn not in self._links:
            return _NOTHING
        return [Close(conn, reason), *self.closed(conn, now, reason)]

    def draining(self, conn: int, now: float) -> Sequence[Effect]:
        """The server has said that it will close the connection."""
        link = self._links.get(conn)
        if link is None or link.draining:
            return _NOTHING
        link.draining = True
        effects: list[Effect] = []
        other = self._candidate
        if link is self._active and link.delivered and other is not None and other.station is not link.station:
            # A better source that says nothing would keep the place of what is to go on delivering.
            self._forget(other, now)
            effects.append(Close(other.conn, f"{link.station.source.name} is replaced first"))
        return self._proceed(now, effects)

    def closed(self, conn: int, now: float, reason: str) -> Sequence[Effect]:
        """The peer closed the connection, or it broke."""
        link = self._links.get(conn)
        if link is None:
            return _NOTHING
        self._drop(link, now, reason)
        return self._proceed(now, [])

    def wake(self, now: float) -> Sequence[Effect]:
        """The time of the latest Wake has come. Waking early is harmless."""
        if not self._running:
            return _NOTHING
        self._wake_at = None
        effects: list[Effect] = []
        for link in list(self._links.values()):
            self._check(link, now, effects)
        return self._proceed(now, effects)

    def _check(self, link: _Link, now: float, effects: list[Effect]) -> None:
        """Act on the deadlines of a link that have passed."""
        if now < self._deadline(link):
            return
        policy = self._policy
        if not link.open:
            reason = f"no connection within {CONNECT_TIMEOUT_SECS:g} s"
        elif now >= self._mute_at(link):
            reason = f"no new tick for {policy.feed_silence_secs:g} s"
        elif now >= self._unacknowledged_at(link):
            reason = f"the subscription was not acknowledged within {policy.subscribe_timeout_secs:g} s"
        elif now >= self._dead_at(link):
            reason = f"no pong within {policy.pong_timeout_secs:g} s"
        else:
            if now >= self._beat_due_at(link):
                link.beat_at = now
                effects.append(Beat(link.conn))
            if now >= self._ping_due_at(link):
                link.ping_at = now
                effects.append(Ping(link.conn))
            if now >= self._old_at(link):
                link.draining = True
            return
        effects.append(Close(link.conn, reason))
        self._drop(link, now, reason)

    def _deadline(self, link: _Link) -> float:
        """When something has to be done about a link if nothing happens."""
        if not link.open:
            return link.started_at + CONNECT_TIMEOUT_SECS
        return min(
            self._dead_at(link),
            self._ping_due_at(link),
            self._mute_at(link),
            self._unacknowledged_at(link),
            self._beat_due_at(link),
            self._old_at(link),
        )

    def _dead_at(self, link: _Link) -> float:
        return link.ping_at + self._policy.pong_timeout_secs if link.ping_at > link.heard_at else inf

    def _ping_due_at(self, link: _Link) -> float:
        return inf if link.ping_at > link.heard_at else link.heard_at + self._policy.keepalive_secs

    def _unacknowledged_at(self, link: _Link) -> float:
        return inf if link.acknowledged else link.opened_at + self._policy.subscribe_timeout_secs

    def _beat_due_at(self, link: _Link) -> float:
        beat_secs = link.station.source.beat_secs
        return link.beat_at + beat_secs if beat_secs else inf

    def _old_at(self, link: _Link) -> float:
        max_age_secs = link.station.source.max_age_secs
        return link.opened_at + max_age_secs if max_age_secs and not link.draining else inf

    def _mute_at(self, link: _Link) -> float:
        silence = self._policy.feed_silence_secs
        return link.progress_at + silence if silence else inf

    def _drop(self, link: _Link, now: float, reason: str) -> None:
        """Forget a link that failed, and back its source off."""
        self._forget(link, now)
        source = link.station.source
        self._last_reason = f"{source.name}: {reason}"
        policy, station = self._policy, link.station
        # The exponent is capped because 2.0**1024 is an OverflowError, after a year of refusals.
        ceiling = min(policy.max_backoff_secs, policy.base_backoff_secs * 2.0 ** min(station.failures, 64))
        station.failures += 1
        station.delay = ceiling * self._uniform(0.5, 1.0)
        station.not_before = now + station.delay

    def _forget(self, link: _Link, now: float) -> None:
        del self._links[link.conn]
        if link is self._candidate:
            self._candidate = None
        else:
            self._active, self._candidate = self._candidate, None
            if self._active is not None:
                self._active.heir = not self._active.delivered and self._active.station is not link.station
        if not link.open:
            return
        if link.heard:
            self._dark_since = now
        long_enough = max(self._policy.base_backoff_secs, link.waited)
        if link.delivered and now - link.opened_at >= long_enough:
            link.station.failures = 0
            link.station.delay = 0.0

    def _promote(self, candidate: _Link, now: float) -> Sequence[Effect]:
        """The candidate delivers: it replaces the active connection, or goes before one that is better and mute."""
        worse = self._active
        assert worse is not None, "a candidate exists only beside an active connection"
        if candidate.station.rank > worse.station.rank:
            self._active, self._candidate = candidate, worse
            return self._proceed(now, [])
        self._forget(worse, now)
        again = candidate.station is worse.station
        reason = "replaced before the server closes it" if again else f"{candidate.station.source.name} is preferred"
        return self._proceed(now, [Close(worse.conn, reason)])

    def _proceed(self, now: float, effects: list[Effect]) -> Sequence[Effect]:
        """Start what is to be started, and say when to come back."""
        if not self._running:
            return effects
        give_up_at = inf
        if not any(link.open for link in self._links.values()):
            give_up_at = self._dark_since + self._policy.network_give_up_secs
            if now >= give_up_at:
                effects.extend(self.stop(now))
                effects.append(GiveUp(now - self._dark_since, self._last_reason))
                return effects
        wake_at = min(give_up_at, self._start_attempt(now, effects))
        for link in self._links.values():
            wake_at = min(wake_at, self._deadline(link))
        # A deadline may have passed between two wakes; it is acted upon in the next one, at once.
        wake_at = max(wake_at, now)
        if wake_at != self._wake_at:
            self._wake_at = wake_at
            effects.append(Wake(wake_at))
        return effects

    def _waits_for_its_turn(self, station: _Station, now: float) -> bool:
        """Whether nothing but the pace of N15 keeps a source from being tried."""
        return max(station.not_before, self._hosts[station.source.host].barred_until) <= now

    def _start_attempt(self, now: float, effects: list[Effect]) -> float:
        """Connect to the best source that may be tried and is better than what we have, which an heir that is mute is
        not; before that to the one that we have, where its server is about to close. Returns when the next one may be
        tried; infinity when there is nothing to wait for."""
        active = self._active
        if active is None:
            wanted = self._stations
        elif active.open and self._candidate is None:
            wanted = self._stations[: active.station.rank]
            if active.heir and not active.delivered:
                wanted = [station for station in self._stations if station is not active.station]
            if active.draining:
                wanted = [active.station, *wanted]
                if active.delivered and self._waits_for_its_turn(active.station, now):
                    wanted = wanted[:1]
        else:
            return inf
        next_at = inf
        for station in wanted:
            host = self._hosts[station.source.host]
            eligible_at = max(station.not_before, host.ready_at)
            if eligible_at <= now:
                host.attempts.append(now)
                self._last_conn += 1
                link = self._links[self._last_conn] = _Link(self._last_conn, station, now)
                if active is None:
                    self._active = link
                else:
                    self._candidate = link
                effects.append(Connect(link.conn, station.source))
                return inf
            next_at = min(next_at, eligible_at)
        return next_at
