"""Contract N4, N5, N15: whatever peers do, in whatever order, what the session may never do."""

from __future__ import annotations

from math import inf

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.ingest.session import CONNECT_TIMEOUT_SECS, Close, Connect, Effect, GiveUp, Wake
from proofs.engine.test_session import BEST, TWIN, WORSE, Driver
from proofs.engine.test_session import POLICY as USUAL

# So small a budget that a few refusals exhaust it.
POLICY = msgspec.structs.replace(USUAL, max_connects_per_minute=4)
HAIR = 1e-6
"""Sums and differences of times are rounded: (begin + 60) - 60 need not be begin."""

SOURCES = {source.name: source for source in (BEST, TWIN, WORSE)}


class SessionMachine(RuleBasedStateMachine):
    """Three sources on two hosts, and peers that refuse, bar, hang up, fall silent, or deliver."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(*SOURCES.values(), policy=POLICY)
        self.open: set[int] = set()
        self.gone: set[int] = set()
        self.began_at: dict[int, float] = {}
        self.open_at = self.driver.now
        self.attempts: dict[str, list[float]] = {source.host: [] for source in SOURCES.values()}
        self.barred: dict[str, float] = {}
        self.over = False
        self.last_conn = 0
        self.saw(self.driver.log)

    @property
    def live(self) -> list[int]:
        return sorted(self.driver.live)

    def saw(self, effects: list[Effect]) -> None:
        now = self.driver.now
        for effect in effects:
            assert not self.over, "after its end a session does nothing"
            match effect:
                case Connect(conn, source):
                    assert conn > self.last_conn, "a connection number is never used twice"
                    self.last_conn = conn
                    self.began_at[conn] = now
                    assert now >= self.barred.get(source.host, -inf), f"{source.host} wants to be left alone"
                    self.attempts[source.host].append(now)
                case Close(conn):
                    self.open.discard(conn)
                    self.gone.add(conn)
                case GiveUp(seconds):
                    assert seconds >= POLICY.network_give_up_secs - HAIR
                    assert not self.open
                    self.over = True
                    self.driver.wake_at = None

    def light(self) -> None:
        if self.open:
            self.open_at = self.driver.now

    def lose(self, conn: int) -> None:
        self.light()
        del self.driver.live[conn]
        self.open.discard(conn)
        self.gone.add(conn)

    @rule(secs=st.sampled_from([0.1, 1.0, 9.0, 50.0]))
    def time_passes(self, secs: float) -> None:
        """Wakes come in time."""
        until = self.driver.now + secs
        while self.driver.wake_at is not None and self.driver.wake_at <= until:
            self.driver.now, self.driver.wake_at = self.driver.wake_at, None
            self.light()
            self.saw(self.driver.did(self.driver.session.wake(self.driver.now)))
        self.driver.now = until

    @precondition(lambda self: set(self.live) - self.open)
    @rule(data=st.data())
    def opens(self, data: st.DataObject) -> None:
        conn = data.draw(st.sampled_from(sorted(set(self.live) - self.open)))
        self.open.add(conn)
        self.saw(self.driver.did(self.driver.session.connected(conn, self.driver.now)))

    @precondition(lambda self: set(self.live) - self.open)
    @rule(data=st.data(), status=st.sampled_from([None, 404, 418, 429]), retry=st.sampled_from([None, 5.0, 9999.0]))
    def refuses(self, data: st.DataObject, status: int | None, retry: float | None) -> None:
        conn = data.draw(st.sampled_from(sorted(set(self.live) - self.open)))
        host = SOURCES[self.driver.live[conn]].host
        now = self.driver.now
        if status in (418, 429):
            secs = min(POLICY.max_backoff_secs if retry is None else retry, POLICY.max_retry_after_secs)
            self.barred[host] = max(self.barred.get(host, -inf), now + secs)
        self.lose(conn)
        self.saw(self.driver.did(self.driver.session.connect_failed(conn, now, "refused", status, retry)))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), new=st.integers(0, 2))
    def delivers(self, data: st.DataObject, new: int) -> None:
        conn = data.draw(st.sampled_from(sorted(self.open)))
        self.saw(self.driver.did(self.driver.session.received(conn, self.driver.now, new)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def hangs_up(self, data: st.DataObject) -> None:
        conn = data.draw(st.sampled_from(sorted(self.open)))
        self.lose(conn)
        self.saw(self.driver.did(self.driver.session.closed(conn, self.driver.now, "closed by peer")))

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def speaks_too_late(self, data: st.DataObject) -> None:
        conn, now, session = data.draw(st.sampled_from(sorted(self.gone))), self.driver.now, self.driver.session
        assert not session.connected(conn, now)
        assert not session.connect_failed(conn, now, "late", 429, 60.0)
        assert not session.received(conn, now, 1)
        assert not session.closed(conn, now, "late")

    @invariant()
    def never_more_than_one_beside_the_active_one(self) -> None:
        assert len(self.live) <= 2
        names = list(self.driver.live.values())
        assert len(set(names)) == len(names), "a source is connected to once"

    @invariant()
    def the_source_is_one_that_is_open(self) -> None:
        source = self.driver.session.source
        assert source is None or source.name in {self.driver.live[conn] for conn in self.open}

    @invariant()
    def no_host_is_contacted_more_often_than_allowed(self) -> None:
        since = self.driver.now - 60.0 + HAIR
        for times in self.attempts.values():
            assert sum(at > since for at in times) <= POLICY.max_connects_per_minute

    @invariant()
    def what_is_due_is_done(self) -> None:
        now = self.driver.now
        self.light()
        assert all(now <= self.began_at[conn] + CONNECT_TIMEOUT_SECS + HAIR for conn in set(self.live) - self.open)
        assert self.over or self.open or now <= self.open_at + POLICY.network_give_up_secs + HAIR

    @invariant()
    def something_is_always_to_come(self) -> None:
        """Nothing hangs: there is a wake to come until the session is over."""
        assert self.over or self.driver.wake_at is not None
        wakes = [effect.at for effect in self.driver.log if isinstance(effect, Wake)]
        assert wakes == [at for at in wakes if at < inf]


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(stateful_step_count=40)
