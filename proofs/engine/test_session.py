"""Contract N4, N5, N6 and exit 10: the connection state machine under a fake clock."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ingest.session import (
    CONNECT_TIMEOUT_SECS,
    Bar,
    Beat,
    Close,
    Connect,
    Effect,
    GiveUp,
    Ping,
    Policy,
    Session,
    Source,
    Wake,
)

BEST = Source("best", "wss://one.test/a", "one.test", 1)
WORSE = Source("worse", "wss://two.test/b", "two.test", 99)
TWIN = Source("twin", "wss://one.test/c", "one.test", 50)
POLICY = Policy(
    keepalive_secs=10,
    pong_timeout_secs=10,
    feed_silence_secs=120,
    max_backoff_secs=30,
    network_give_up_secs=120,
)


def longest(_: float, high: float) -> float:
    """No jitter: the longest wait the law allows."""
    return high


class Driver:
    """A session and its fake clock; keeps what the effects said."""

    def __init__(self, *sources: Source, policy: Policy = POLICY) -> None:
        self.session = Session(sources, policy, longest)
        self.now = 1000.0
        self.wake_at: float | None = None
        self.live: dict[int, str] = {}
        self.log: list[Effect] = []
        self.did(self.session.start(self.now))

    def did(self, effects: Sequence[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Connect):
                self.live[effect.conn] = effect.source.name
            elif isinstance(effect, Close):
                del self.live[effect.conn]
            elif isinstance(effect, Wake):
                assert effect.at >= self.now
                self.wake_at = effect.at
        self.log += effects
        return [effect for effect in effects if not isinstance(effect, Wake)]

    def conn(self, name: str) -> int:
        (conn,) = [c for c, n in self.live.items() if n == name]
        return conn

    def open(self, name: str) -> list[Effect]:
        return self.did(self.session.connected(self.conn(name), self.now))

    def refuse(self, name: str, status: int | None = None, retry_after: float | None = None) -> list[Effect]:
        conn = self.conn(name)
        del self.live[conn]
        return self.did(self.session.connect_failed(conn, self.now, "refused", status, retry_after))

    def tick(self, name: str, new_ticks: int = 1) -> list[Effect]:
        return self.did(self.session.received(self.conn(name), self.now, new_ticks))

    def pong(self, name: str) -> list[Effect]:
        return self.did(self.session.pong(self.conn(name), self.now))

    def hang_up(self, name: str) -> list[Effect]:
        conn = self.conn(name)
        del self.live[conn]
        return self.did(self.session.closed(conn, self.now, "closed by peer"))

    def until_something(self, limit: float = 1e6) -> list[Effect]:
        """Follow the wakes until the session does something; returns that."""
        assert self.now < 100_000, "the session goes on and on where it should have ended"
        stop_at = self.now + limit
        while self.wake_at is not None and self.wake_at <= stop_at:
            self.now = self.wake_at
            self.wake_at = None
            if effects := self.did(self.session.wake(self.now)):
                return effects
        self.now = stop_at
        return []


@pytest.mark.claim("N4")
def test_N4_the_best_source_is_tried_first() -> None:
    driver = Driver(WORSE, BEST)
    assert driver.log[0] == Connect(1, BEST)
    assert driver.session.source is None
    driver.open("best")
    assert driver.session.source == BEST


@pytest.mark.claim("N4")
def test_N4_equal_priorities_keep_their_order() -> None:
    other = Source("other", "ws://x", "x", 1)
    assert Driver(other, BEST).log[0] == Connect(1, other)


@pytest.mark.claim("N4")
def test_N4_a_failure_moves_on_to_the_next_source_at_once() -> None:
    driver = Driver(BEST, WORSE)
    assert driver.refuse("best", 451) == [Connect(2, WORSE)]


@pytest.mark.claim("N4")
def test_N4_coming_back_is_make_before_break() -> None:
    driver = Driver(BEST, WORSE)
    driver.refuse("best")
    driver.open("worse")
    driver.tick("worse")
    assert driver.until_something() == [Connect(3, BEST)]
    assert driver.open("best") == []
    assert driver.session.source == WORSE
    assert driver.tick("best", 0) == []
    assert driver.tick("best") == [Close(2, "best is preferred")]
    assert driver.session.source == BEST
    assert driver.session.reconnects == 1


@pytest.mark.claim("N4")
def test_N4_a_candidate_that_fails_does_no_harm() -> None:
    driver = Driver(BEST, WORSE)
    driver.refuse("best")
    driver.open("worse")
    delays = []
    for _ in range(9):
        since = driver.now
        driver.tick("worse")
        while not (effects := driver.until_something(5)):
            driver.tick("worse")
        assert [type(e) for e in effects] == [Connect]
        delays.append(driver.now - since)
        driver.refuse("best")
        assert driver.session.source == WORSE
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.claim("N4")
def test_N4_a_mute_candidate_is_dropped_and_the_worse_source_stays() -> None:
    driver = Driver(BEST, WORSE, policy=Policy(10, 10, 15, 30, 120))
    driver.refuse("best")
    driver.open("worse")
    driver.tick("worse")
    driver.until_something()
    driver.open("best")
    candidate, opened_at = driver.conn("best"), driver.now
    effects: list[Effect] = []
    while not any(isinstance(e, Close) for e in effects):
        effects = driver.until_something(5)
        for effect in effects:
            if isinstance(effect, Ping):
                driver.pong(driver.live[effect.conn])
        driver.tick("worse")
    assert effects == [Close(candidate, "no new tick for 15 s")]
    assert driver.now == opened_at + 15
    assert driver.session.source == WORSE


@pytest.mark.claim("N4")
def test_N4_when_the_active_connection_breaks_the_candidate_takes_over() -> None:
    driver = Driver(BEST, WORSE)
    driver.refuse("best")
    driver.open("worse")
    driver.until_something()
    driver.open("best")
    assert driver.hang_up("worse") == []
    assert driver.session.source == BEST


@pytest.mark.claim("N5")
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_N5_jitter_shortens_a_wait_by_half_at_most(share: float) -> None:
    asked = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return share

    session = Session([BEST], POLICY, uniform)
    now, waits = 0.0, []
    effects = session.start(now)
    for conn in range(1, 6):
        assert Connect(conn, BEST) in effects
        failed_at = now
        effects = session.connect_failed(conn, now, "refused")
        while Connect(conn + 1, BEST) not in effects:
            now += 1 / 64
            effects = session.wake(now)
        waits.append(now - failed_at)
    assert waits == [share * secs for secs in (0.5, 1.0, 2.0, 4.0, 8.0)]
    assert set(asked) == {(0.5, 1.0)}


@pytest.mark.claim("N5")
def test_N5_backoff_doubles_up_to_the_limit() -> None:
    driver = Driver(BEST, policy=Policy(10, 10, 120, 30, 1e6))
    delays = []
    for _ in range(9):
        failed_at = driver.now
        driver.refuse("best")
        assert [type(e) for e in driver.until_something()] == [Connect]
        delays.append(driver.now - failed_at)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.claim("N5")
def test_N5_a_server_that_accepts_and_closes_at_once_is_backed_off() -> None:
    driver = Driver(BEST, policy=Policy(10, 10, 120, 30, 1e6))
    attempts_at = []
    while driver.now < 1000 + 600:
        attempts_at.append(driver.now)
        driver.open("best")
        driver.tick("best")
        driver.hang_up("best")
        driver.until_something()
    assert len(attempts_at) <= 7 + 600 / 30


@pytest.mark.claim("N5")
def test_N5_the_counter_resets_after_a_healthy_connection() -> None:
    driver = Driver(BEST, policy=Policy(10, 10, 120, 30, 1e6))
    for _ in range(5):
        driver.refuse("best")
        driver.until_something()
    driver.open("best")
    driver.tick("best")
    driver.now += 8
    driver.hang_up("best")
    closed_at = driver.now
    driver.until_something()
    assert driver.now - closed_at == 0.5


@pytest.mark.claim("N5")
@pytest.mark.parametrize(("ticks", "secs"), [(0, 8.0), (1, 7.75)], ids=["no new tick", "too short"])
def test_N5_the_counter_does_not_reset_after_a_connection_that_was_not_healthy(ticks: int, secs: float) -> None:
    driver = Driver(BEST, policy=Policy(10, 10, 120, 30, 1e6))
    for _ in range(5):
        driver.refuse("best")
        driver.until_something()
    driver.open("best")
    driver.tick("best", ticks)
    driver.now += secs
    driver.hang_up("best")
    closed_at = driver.now
    driver.until_something()
    assert driver.now - closed_at == 16


@pytest.mark.claim("N5")
def test_N5_a_bar_of_an_earlier_run_is_obeyed_by_all_sources_on_that_host() -> None:
    told = Bar(1090.0, "HTTP 429")
    session = Session([BEST, TWIN, WORSE], POLICY, longest, {"one.test": told, "gone.test": told}, 1000.0)
    assert session.bar("one.test", 1089.0) == told
    assert session.bar("one.test", 1090.0) is None
    effects = session.start(1000.0)
    assert [effect.source for effect in effects if isinstance(effect, Connect)] == [WORSE]


@pytest.mark.claim("N5")
@pytest.mark.parametrize("status", [429, 418])
@pytest.mark.parametrize(("retry_after", "bar"), [(None, 30), (77, 77), (float("nan"), 30), (0, 0.5), (-5, 30)])
def test_N5_a_rate_limit_bars_the_whole_host(status: int, retry_after: float | None, bar: float) -> None:
    driver = Driver(BEST, TWIN)
    assert driver.refuse("best", status, retry_after) == ([] if bar > 0.5 else [Connect(2, TWIN)])
    if bar > 0.5:
        assert driver.until_something() == [Connect(2, BEST)]
        assert driver.now == 1000 + bar


@pytest.mark.claim("N5")
def test_N5_a_bar_is_never_longer_than_max_retry_after_secs() -> None:
    """Not one that a clock set back, or an earlier engine, made long; nor what the venue says; nor max_backoff_secs."""
    policy = Policy(10, 10, 120, 9000, 1e6, max_retry_after_secs=3600)
    told = {"one.test": Bar(1e10, "HTTP 429"), "two.test": Bar(1500, "x")}
    session = Session([BEST, WORSE], policy, longest, told, 1000.0)
    assert session.bar("one.test", 1000.0) == Bar(4600.0, "HTTP 429")
    assert session.bar("two.test", 1000.0) == Bar(1500.0, "x")
    for retry_after in (None, 1e10, float("inf")):
        driver = Driver(BEST, policy=policy)
        driver.refuse("best", 429, retry_after)
        assert driver.session.bar("one.test", driver.now) == Bar(4600.0, "refused")


@pytest.mark.claim("N15")
def test_N15_a_connection_that_opened_is_followed_a_share_of_a_minute_later() -> None:
    """A venue that delivers and drops is healthy every time, and is not connected to more than ten times a minute."""
    driver = Driver(BEST, policy=Policy(10, 10, 120, 30, 1e6))
    began = []
    for _ in range(20):
        began.append(driver.now)
        driver.open("best")
        driver.now += 0.6
        driver.tick("best")
        driver.hang_up("best")
        assert driver.until_something() == [Connect(len(began) + 1, BEST)]
    assert [later - sooner for sooner, later in itertools.pairwise(began)] == [6.0] * 19
    # After a life that was longer than that, only the backoff is waited.
    driver.open("best")
    driver.now += 6
    driver.tick("best")
    driver.hang_up("best")
    since = driver.now
    driver.until_something()
    assert driver.now == since + 0.5


@pytest.mark.claim("N15")
def test_N15_refusals_are_counted_for_the_host_and_another_host_is_turned_to_at_once() -> None:
    driver = Driver(BEST, TWIN, WORSE, policy=Policy(10, 10, 120, 0.001, 1e6, 0.001, max_connects_per_minute=4))
    attempts: dict[str, list[float]] = {"one.test": [], "two.test": []}
    while driver.now < 1200:
        for conn, name in list(driver.live.items()):
            attempts["one.test" if name in ("best", "twin") else "two.test"].append(driver.now)
            assert driver.live[conn] == name
            driver.refuse(name, 503)
        if not driver.live:
            driver.until_something()
    assert [round(at - 1000) for at in attempts["one.test"]] == [0] * 4 + [60] * 4 + [120] * 4 + [180] * 4
    assert [round(at - 1000) for at in attempts["two.test"]] == [0] * 4 + [60] * 4 + [120] * 4 + [180] * 4


@pytest.mark.claim("N5")
def test_N5_a_rate_limit_does_not_bar_other_hosts() -> None:
    driver = Driver(BEST, TWIN, WORSE)
    assert driver.refuse("best", 429, 600) == [Connect(2, WORSE)]


@pytest.mark.claim("N6")
def test_N6_bytes_of_a_message_that_is_not_complete_are_a_sign_of_life_and_no_progress() -> None:
    driver = Driver(BEST)
    driver.session.arriving(1, 2000)
    driver.open("best")
    driver.session.arriving(1, 900)
    driver.session.arriving(7, 2000)
    assert driver.until_something() == [Ping(1)]
    assert driver.now == 1010
    driver.session.arriving(1, 1015)
    assert driver.until_something() == [Ping(1)]
    assert driver.now == 1025
    while driver.now < 1110:
        driver.session.arriving(1, driver.now)
        driver.until_something()
    driver.session.arriving(1, driver.now)
    assert driver.until_something()[0] == Close(1, "no new tick for 120 s")


@pytest.mark.claim("N6")
def test_N6_silence_is_answered_by_a_ping_and_a_missed_pong_by_a_reconnect() -> None:
    driver = Driver(BEST)
    driver.open("best")
    driver.now += 4
    driver.tick("best")
    assert driver.until_something() == [Ping(1)]
    assert driver.now == 1014
    assert driver.until_something() == [Close(1, "no pong within 10 s")]
    assert driver.now == 1024
    assert driver.until_something() == [Connect(2, BEST)]


@pytest.mark.claim("N6")
def test_N6_a_pong_or_any_message_answers_the_ping() -> None:
    driver = Driver(BEST)
    driver.open("best")
    answers: list[Callable[[], object]] = [lambda: driver.pong("best"), lambda: driver.tick("best", 0)]
    for answer in answers:
        assert driver.until_something() == [Ping(1)]
        driver.now += 9
        answer()
    assert driver.until_something() == [Ping(1)]


@pytest.mark.claim("N6")
@pytest.mark.parametrize("sign_of_life", ["pong", "ignored"])
def test_N6_pongs_and_ignored_messages_do_not_hide_a_mute_feed(sign_of_life: str) -> None:
    """Also N8b: an ignored message keeps the connection alive and is no progress."""
    driver = Driver(BEST, WORSE)
    driver.open("best")
    driver.now += 5
    driver.tick("best")
    effects: list[Effect] = []
    while not any(isinstance(e, Close) for e in effects):
        effects = driver.until_something()
        if effects == [Ping(1)]:
            assert (driver.pong("best") if sign_of_life == "pong" else driver.tick("best", 0)) == []
    assert effects == [Close(1, "no new tick for 120 s"), Connect(2, WORSE)]
    assert driver.now == 1125


@pytest.mark.claim("N6")
def test_N6_feed_silence_zero_is_off() -> None:
    driver = Driver(BEST, policy=Policy(10, 10, 0, 30, 120))
    driver.open("best")
    for _ in range(100):
        assert driver.until_something() == [Ping(1)]
        driver.pong("best")


@pytest.mark.claim("N6")
def test_N6_a_mute_only_source_is_reconnected() -> None:
    driver = Driver(BEST, policy=Policy(200, 10, 120, 30, 1e6))
    driver.open("best")
    assert driver.until_something() == [Close(1, "no new tick for 120 s")]


@pytest.mark.claim("N4")
def test_N4_an_attempt_that_hangs_is_a_failure() -> None:
    driver = Driver(BEST, WORSE)
    assert driver.until_something() == [Close(1, "no connection within 10 s"), Connect(2, WORSE)]
    assert driver.now == 1000 + CONNECT_TIMEOUT_SECS


def test_exit10_gives_up_when_no_source_has_been_connected_for_long_enough() -> None:
    driver = Driver(BEST, WORSE)
    while not isinstance(driver.log[-1], GiveUp):
        for name in list(driver.live.values()):
            driver.refuse(name)
        driver.until_something()
    assert driver.now == 1120
    assert driver.log[-1] == GiveUp(120, driver.log[-1].last_reason)
    assert driver.log[-1].last_reason in ("best: refused", "worse: refused")
    assert driver.session.wake(2000) == ()


def test_exit10_the_clock_starts_again_when_a_connection_that_lived_is_lost() -> None:
    driver = Driver(BEST)
    driver.open("best")
    driver.now += 500
    driver.tick("best")
    driver.hang_up("best")
    while not isinstance(driver.log[-1], GiveUp):
        driver.until_something()
        if driver.live:
            driver.refuse("best")
    assert driver.now == 1620


def test_exit10_a_server_that_accepts_and_says_nothing_does_not_stop_the_clock() -> None:
    driver = Driver(BEST)
    while not isinstance(driver.log[-1], GiveUp):
        if driver.live:
            driver.open("best")
            driver.hang_up("best")
        driver.until_something()
    assert driver.now == 1120


def test_exit10_never_while_a_connection_is_open() -> None:
    driver = Driver(BEST, policy=Policy(10, 10, 0, 30, 5))
    driver.open("best")
    for _ in range(20):
        assert driver.until_something() == [Ping(1)]
        driver.pong("best")


@pytest.mark.claim("N4")
def test_N4_late_events_are_harmless() -> None:
    driver = Driver(BEST, WORSE)
    driver.refuse("best")
    session = driver.session
    for conn in (1, 99):
        assert session.connected(conn, 1001) == ()
        assert session.connect_failed(conn, 1001, "late", 429, 1e9) == ()
        assert session.received(conn, 1001, 5) == ()
        assert session.pong(conn, 1001) == ()
        assert session.closed(conn, 1001, "late") == ()
    assert driver.until_something(1) == []
    assert driver.live == {2: "worse"}


@pytest.mark.claim("E4")
def test_E4_stop_closes_everything_for_good() -> None:
    driver = Driver(BEST, WORSE)
    driver.refuse("best")
    driver.open("worse")
    driver.until_something()
    assert driver.did(driver.session.stop(driver.now)) == [Close(2, "stop"), Close(3, "stop")]
    assert driver.session.source is None
    assert driver.session.wake(driver.now + 1e6) == ()
    assert driver.session.connected(3, driver.now) == ()


@pytest.mark.claim("N4")
def test_N4_a_session_that_could_not_work_is_refused() -> None:
    with pytest.raises(ValueError, match="sources: at least one"):
        Session([], POLICY, longest)
    for position, key in enumerate(Policy.__struct_fields__):
        for wrong in (-1.0, float("nan"), float("inf"), 0.0):
            if key == "feed_silence_secs" and wrong == 0.0:
                continue
            values: list[Any] = [10, 10, 120, 30, 120, 10, 0.5, 3600, 10]
            values[position] = wrong
            with pytest.raises(ValueError, match=rf"policy\.{key} .*: allowed is a positive number"):
                Session([BEST], Policy(*values), longest)


# --- properties: a small world of servers that misbehave, driven by whatever Hypothesis makes up --------------


class World:
    """Carries out a session's effects against made-up servers, and checks the rules at every step.

    `behaviours[source]` is a cycle of what successive connections to that source do. Scheduled events of
    connections that the session closed are delivered all the same: they are the late events.
    """

    def __init__(
        self,
        sources: list[Source],
        behaviours: dict[str, list[Any]],
        policy: Policy,
        seed: int,
        barred: dict[str, float],
    ) -> None:
        self.policy = policy
        told = {host: Bar(until, "an earlier run") for host, until in barred.items()}
        self.session = Session(sources, policy, random.Random(seed).uniform, told)
        self.rank = {s.name: r for r, s in enumerate(sorted(sources, key=lambda s: s.priority))}
        self.behaviours = {name: itertools.cycle(script) for name, script in behaviours.items()}
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[[], Sequence[Effect]]]] = []
        self.number = itertools.count()
        self.wake_at: float | None = None
        # Live connections: conn -> [source, opened_at or None, delivered, heard, waited]
        self.live: dict[int, list[Any]] = {}
        self.plans: dict[int, tuple[Any, ...]] = {}
        self.failures = dict.fromkeys(self.rank, 0)
        self.not_before = dict.fromkeys(self.rank, 0.0)
        self.waited = dict.fromkeys(self.rank, 0.0)
        self.failed_at = dict.fromkeys(self.rank, 0.0)
        self.barred = {host: min(until, policy.max_retry_after_secs) for host, until in barred.items()}
        # Host -> when it was contacted, and when the latest connection to it that opened began.
        self.contacts: dict[str, list[float]] = {}
        self.opened_from: dict[str, float] = {}
        self.dark_since = 0.0
        self.gave_up = False
        # Sources that were left alone when another one's connection ended.
        self.left: set[str] = set()

    def run(self, until: float) -> None:
        self.carry_out(self.session.start(0.0))
        while not self.gave_up:
            at = min(
                self.queue[0][0] if self.queue else float("inf"),
                self.wake_at if self.wake_at is not None else float("inf"),
            )
            assert at < float("inf"), "silence: no wake is pending and no event can come"
            if at > until:
                return
            self.now = at
            if self.wake_at == at:
                self.wake_at = None
                self.carry_out(self.session.wake(self.now))
            else:
                self.carry_out(heapq.heappop(self.queue)[2]())

    def later(self, secs: float, event: Callable[[], Sequence[Effect]]) -> None:
        heapq.heappush(self.queue, (self.now + secs, next(self.number), event))

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            assert not self.gave_up
            if isinstance(effect, Wake):
                assert effect.at >= self.now
                self.wake_at = effect.at
            elif isinstance(effect, Connect):
                self.connect(effect)
            elif isinstance(effect, Close):
                self.ended(effect.conn, promoted="preferred" in effect.reason)
            elif isinstance(effect, Ping):
                assert self.live[effect.conn][1] is not None
                if self.plans[effect.conn][0] in ("mute", "healthy"):
                    self.later(0.1, partial(self.pong, effect.conn))
            else:
                self.gave_up = True
                assert not any(link[1] is not None for link in self.live.values())
                assert self.now - self.dark_since >= self.policy.network_give_up_secs - 1e-9
        assert self.gave_up or self.wake_at is not None
        assert len(self.live) <= 2

    def connect(self, effect: Connect) -> None:
        name, conn = effect.source.name, effect.conn
        assert conn not in self.plans
        assert name not in [link[0] for link in self.live.values()]
        # No storm: the wait that the law imposes on this source has passed, and so has the host's bar.
        assert self.now >= self.not_before[name] - 1e-9
        assert self.now >= self.barred.get(effect.source.host, 0.0)
        # No storm by many sources, nor by healthy connections: the budget of the host (N15).
        contacts = self.contacts.setdefault(effect.source.host, [])
        contacts.append(self.now)
        allowed = self.policy.max_connects_per_minute
        assert len(contacts) <= allowed or self.now - contacts[-1 - allowed] >= 60 - 1e-9
        assert self.now >= self.opened_from.get(effect.source.host, -60.0) + 60 / allowed - 1e-9
        for other in self.live.values():
            assert other[1] is not None
            assert self.rank[name] < self.rank[other[0]] or (other[0] in self.left and not other[2])
        self.live[conn] = [name, None, False, False, self.waited[name]]
        plan = self.plans[conn] = next(self.behaviours[name])
        if plan[0] == "refuse":
            self.later(plan[1], lambda: self.refuse(conn, effect.source.host, None, None))
        elif plan[0] == "limit":
            self.later(plan[1], lambda: self.refuse(conn, effect.source.host, 429, plan[2]))
        elif plan[0] != "hang":
            began = self.now
            self.later(0.05, lambda: self.opened(conn, plan, effect.source.host, began))

    def refuse(self, conn: int, host: str, status: int | None, retry_after: float | None) -> Sequence[Effect]:
        if conn in self.live:
            if status is not None:
                bar = self.policy.max_backoff_secs if retry_after is None else retry_after
                until = self.now + min(bar, self.policy.max_retry_after_secs)
                self.barred[host] = max(self.barred.get(host, 0.0), until)
            self.ended(conn)
        return self.session.connect_failed(conn, self.now, "refused", status, retry_after)

    def opened(self, conn: int, plan: tuple[Any, ...], host: str, began: float) -> Sequence[Effect]:
        if conn in self.live:
            self.live[conn][1] = self.now
            self.opened_from[host] = began
        if plan[0] in ("healthy", "tick_close"):
            self.later(0.1, lambda: self.tick(conn, plan))
        if plan[0] in ("close", "healthy", "tick_close"):
            self.later(plan[1] + 0.2, lambda: self.hang_up(conn))
        return self.session.connected(conn, self.now)

    def tick(self, conn: int, plan: tuple[Any, ...]) -> Sequence[Effect]:
        if conn in self.live:
            self.live[conn][2] = self.live[conn][3] = True
            if plan[0] == "healthy":
                self.later(3.0, lambda: self.tick(conn, plan))
        return self.session.received(conn, self.now, 1)

    def pong(self, conn: int) -> Sequence[Effect]:
        if conn in self.live:
            self.live[conn][3] = True
        return self.session.pong(conn, self.now)

    def hang_up(self, conn: int) -> Sequence[Effect]:
        if conn in self.live:
            self.ended(conn)
        return self.session.closed(conn, self.now, "closed")

    def ended(self, conn: int, promoted: bool = False) -> None:
        name, opened_at, delivered, heard, waited = self.live.pop(conn)
        self.left = {link[0] for link in self.live.values()}
        if opened_at is not None and heard:
            self.dark_since = self.now
        base = self.policy.base_backoff_secs
        if opened_at is not None and delivered and self.now - opened_at >= max(base, waited):
            self.failures[name] = 0
            self.waited[name] = 0.0
        if promoted:
            return
        at_least = 0.5 * min(self.policy.max_backoff_secs, base * 2 ** self.failures[name])
        self.failures[name] += 1
        self.not_before[name] = self.now + at_least
        # The session knows the wait with its jitter; the model assumes the shortest, so its idea of healthy
        # is at least as generous and its law never stricter than the real one.
        self.waited[name] = at_least


SECS = st.sampled_from([0.0, 0.3, 1.0, 7.0, 40.0, 300.0])
BEHAVIOUR = st.one_of(
    st.tuples(st.just("refuse"), st.sampled_from([0.0, 0.2, 5.0])),
    st.tuples(st.just("limit"), st.sampled_from([0.0, 0.2]), st.sampled_from([None, 0.0, 5.0, 90.0, 1e9])),
    st.tuples(st.just("hang")),
    st.tuples(st.just("close"), SECS),
    st.tuples(st.just("tick_close"), SECS),
    st.tuples(st.just("healthy"), SECS),
    st.tuples(st.just("mute")),
    st.tuples(st.just("half_open")),
)
SCRIPT = st.lists(BEHAVIOUR, min_size=1, max_size=4)


@pytest.mark.claim("N4", "N5", "N6", "N15")
@given(
    scripts=st.lists(SCRIPT, min_size=1, max_size=3),
    feed_silence=st.sampled_from([0.0, 20.0, 120.0]),
    give_up=st.sampled_from([30.0, 120.0, 1e9]),
    seed=st.integers(0, 3),
    budget=st.sampled_from([1, 3, 10, 6000]),
    barred=st.dictionaries(st.sampled_from(["one.test", "two.test"]), st.sampled_from([5.0, 400.0, 1e10])),
)
def test_N4_N5_N6_N15_exit10_rules_hold_in_any_world(
    scripts: list[list[Any]], feed_silence: float, give_up: float, seed: int, budget: int, barred: dict[str, float]
) -> None:
    """No storm, no silence, two connections at most, rate limits obeyed but not for ever, late events harmless."""
    sources = [BEST, TWIN, WORSE][: len(scripts)]
    policy = Policy(10, 10, feed_silence, 30, give_up, max_retry_after_secs=200, max_connects_per_minute=budget)
    behaviours = {s.name: script for s, script in zip(sources, scripts, strict=True)}
    world = World(sources, behaviours, policy, seed, barred)
    world.run(until=600.0)
    # Whatever anybody was told: after the longest bar every best source has been contacted again.
    assert world.gave_up or world.contacts


CALL = st.tuples(
    st.sampled_from(["connected", "connect_failed", "connect_failed_429", "received", "pong", "closed", "wake"]),
    st.integers(0, 6),
    st.floats(0, 40, allow_nan=False),
)


@pytest.mark.claim("N4")
@given(calls=st.lists(CALL, max_size=40), count=st.integers(1, 3))
def test_N4_any_order_of_events_is_survived(calls: list[tuple[str, int, float]], count: int) -> None:
    session = Session([BEST, TWIN, WORSE][:count], POLICY, longest)
    now, live, wake_at, gave_up = 0.0, set[int](), None, False

    def check(effects: Sequence[Effect]) -> None:
        nonlocal wake_at, gave_up
        for effect in effects:
            assert not gave_up
            if isinstance(effect, Connect):
                live.add(effect.conn)
            elif isinstance(effect, Close):
                live.remove(effect.conn)
            elif isinstance(effect, Wake):
                assert effect.at >= now
                wake_at = effect.at
            elif isinstance(effect, Ping):
                assert effect.conn in live
            else:
                gave_up = True
        assert len(live) <= 2
        assert gave_up or wake_at is not None

    check(session.start(now))
    for name, back, secs in calls:
        now += secs
        conn = max(live, default=0) - back
        opened = {c for c, link in session._links.items() if link.open}
        if name == "closed" or (name.startswith("connect_failed") and conn not in opened):
            live.discard(conn)
        arguments: dict[str, tuple[Any, ...]] = {
            "connected": (conn, now),
            "connect_failed": (conn, now, "x"),
            "connect_failed_429": (conn, now, "x", 429, secs),
            "received": (conn, now, back),
            "pong": (conn, now),
            "closed": (conn, now, "x"),
            "wake": (now,),
        }
        check(getattr(session, name.removesuffix("_429"))(*arguments[name]))
        assert set(session._links) == live
    for effect in session.stop(now):
        assert isinstance(effect, Close)
        live.remove(effect.conn)
    assert not live


# --- subscriptions (N18) ------------------------------------------------------------------------------------

ASKED = Source("asked", "wss://three.test/", "three.test", 1, subscribes=True)
AGING = Source("aging", "wss://aging.test/feed", "aging.test", 1, max_age_secs=100.0)
BEATING = Source("beating", "wss://four.test/", "four.test", 1, beat_secs=20.0)


@pytest.mark.claim("N18")
def test_N18_a_subscription_that_is_not_acknowledged_is_a_failure() -> None:
    driver = Driver(ASKED, WORSE)
    driver.open("asked")
    driver.tick("asked")  # of one market, which says nothing of the others
    driver.now += 8
    driver.tick("asked")
    effects = driver.until_something()
    reason = "the subscription was not acknowledged within 10 s"
    assert effects == [Close(1, reason), Connect(2, WORSE)]
    assert driver.now == 1010


@pytest.mark.claim("N18")
def test_N18_one_that_is_acknowledged_goes_on() -> None:
    driver = Driver(ASKED, WORSE)
    driver.open("asked")
    assert driver.session.acknowledged(driver.conn("asked"), driver.now) == ()
    while driver.now < 1100:
        assert driver.until_something(5) == []
        driver.tick("asked")
    assert driver.session.source == ASKED
    # One that comes late is of a connection that is gone.
    assert driver.session.acknowledged(99, driver.now) == ()


@pytest.mark.claim("N18")
def test_N18_one_that_is_rejected_is_a_failure_that_is_backed_off() -> None:
    driver = Driver(ASKED, WORSE)
    driver.open("asked")
    rejected = driver.did(driver.session.rejected(1, driver.now, "subscription rejected: no such market"))
    assert rejected == [Close(1, "subscription rejected: no such market"), Connect(2, WORSE)]
    assert driver.session.rejected(1, driver.now, "again") == ()
    driver.open("worse")
    driver.tick("worse")
    # The budget of its host (N15) is longer than its backoff.
    assert driver.until_something() == [Connect(3, ASKED)]
    assert driver.now == 1006


@pytest.mark.claim("N18")
def test_N18_what_a_venue_wants_to_hear_is_sent_as_often_as_it_says() -> None:
    driver = Driver(BEATING)
    driver.open("beating")
    beats = []
    while driver.now < 1061:
        driver.tick("beating")
        beats += [(effect, driver.now) for effect in driver.until_something(5)]
    assert beats == [(Beat(1), 1020), (Beat(1), 1040), (Beat(1), 1060)]


@pytest.mark.claim("N18", "N6")
def test_N18_beats_are_no_pings() -> None:
    """A peer that is silent is found as soon as without them."""
    driver = Driver(BEATING)
    driver.open("beating")
    assert driver.until_something() == [Ping(1)]
    assert driver.until_something() == [Close(1, "no pong within 10 s")]
    assert driver.now == 1020


@pytest.mark.claim("N18", "N15")
def test_N18_a_server_that_will_close_is_replaced_before_it_does() -> None:
    driver = Driver(ASKED, WORSE)
    driver.open("asked")
    driver.session.acknowledged(1, driver.now)
    driver.tick("asked")
    driver.now += 60
    assert driver.did(driver.session.draining(1, driver.now)) == [Connect(2, ASKED)]
    assert driver.session.draining(1, driver.now) == ()
    driver.did(driver.session.connected(2, driver.now))
    driver.session.acknowledged(2, driver.now)
    assert driver.did(driver.session.received(1, driver.now, 1)) == []
    replaced = driver.did(driver.session.received(2, driver.now, 1))
    assert replaced == [Close(1, "replaced before the server closes it")]
    assert driver.session.source == ASKED
    # One that says so again and again is connected to at the pace of N15.
    assert driver.did(driver.session.draining(2, driver.now)) == []
    assert driver.until_something(100) == [Connect(3, ASKED)]
    assert driver.now == 1066


@pytest.mark.claim("N18")
def test_N18_a_connection_is_replaced_before_the_venue_finds_it_too_old() -> None:
    driver = Driver(AGING, WORSE)
    driver.open("aging")
    opened_at = driver.now
    for conn, born_at in ((1, opened_at), (2, opened_at + 100)):
        while driver.now < born_at + 95:
            driver.now += 5
            assert driver.did(driver.session.received(conn, driver.now, 1)) == []
            driver.until_something(0)
        assert driver.until_something(10) == [Connect(conn + 1, AGING)]
        assert driver.now == born_at + 100
        driver.did(driver.session.connected(conn + 1, driver.now))
        # The old one goes on until the new one delivers, and is not replaced again.
        assert driver.did(driver.session.received(conn, driver.now, 1)) == []
        replaced = driver.did(driver.session.received(conn + 1, driver.now, 1))
        assert replaced == [Close(conn, "replaced before the server closes it")]


@pytest.mark.claim("N18", "N4")
@pytest.mark.parametrize("better_opens", [False, True])
@pytest.mark.parametrize("after_secs", [0, 30])
def test_N18_N4_a_better_source_that_says_nothing_keeps_no_server_from_being_replaced(
    better_opens: bool, after_secs: float
) -> None:
    """Whether it is mute or does not even answer: the one that delivers is connected to once more, and first."""
    driver = Driver(BEST, WORSE)
    driver.refuse("best")
    driver.open("worse")
    driver.tick("worse")
    assert driver.until_something() == [Connect(3, BEST)]
    if better_opens:
        driver.open("best")
        for _ in range(int(after_secs)):
            driver.now += 1
            driver.tick("worse")
            driver.pong("best")
            driver.until_something(0)
    due = max(driver.now, 1006)
    dropped = driver.did(driver.session.draining(2, driver.now))
    assert dropped[0] == Close(3, "worse is replaced first")
    # At the pace of its host (N15), for which nothing else takes its place.
    connects = dropped[1:] or driver.until_something(10)
    assert connects == [Connect(4, WORSE)]
    assert driver.now == due
    driver.did(driver.session.connected(4, driver.now))
    assert driver.did(driver.session.received(4, driver.now, 1))[0] == Close(2, "replaced before the server closes it")
    # Then the better one has its turn again.
    while Connect(5, BEST) not in driver.log:
        assert driver.now < due + 10, "the better source is not come back to"
        driver.tick("worse")
        driver.until_something(1)


@pytest.mark.claim("N18", "N4")
@pytest.mark.parametrize("status", [429, 503])
def test_N18_N4_where_a_closing_server_takes_no_other_connection_a_better_source_is_tried(status: int) -> None:
    driver = Driver(BEST, WORSE)
    driver.refuse("best")
    driver.open("worse")
    driver.tick("worse")
    driver.now = 1060
    assert driver.did(driver.session.draining(2, driver.now)) == [Connect(3, WORSE)]
    assert driver.did(driver.session.connect_failed(3, driver.now, "refused", status)) == [Connect(4, BEST)]


@pytest.mark.claim("N18", "N6")
def test_N18_N6_a_replacement_that_is_a_moment_slower_delivers_all_the_same() -> None:
    """What it brings is known by then, each time; it is no mute one."""
    driver = Driver(AGING)
    driver.open("aging")
    driver.tick("aging")
    while driver.now < 1100:
        assert driver.until_something(5) in ([], [Connect(2, AGING)])
        driver.did(driver.session.received(1, driver.now, 1))
    driver.did(driver.session.connected(2, driver.now))
    # What a venue sends again of before says nothing of what it will send.
    assert driver.did(driver.session.received(2, driver.now, 0, 50)) == []
    driver.now += 5
    assert driver.did(driver.session.received(1, driver.now, 1)) == []
    assert driver.did(driver.session.received(2, driver.now, 0)) == []
    assert driver.did(driver.session.received(2, driver.now, 0, 1)) == [
        Close(1, "replaced before the server closes it")
    ]


@pytest.mark.claim("N4", "N6")
def test_N4_N6_of_another_source_known_trades_are_no_progress() -> None:
    driver = beside_worse(BEST)
    driver.now += 5
    driver.tick("worse")
    assert driver.did(driver.session.received(3, driver.now, 0, 1)) == []
    assert driver.session.source == WORSE


@pytest.mark.claim("N18")
def test_N18_a_server_that_closes_before_its_successor_delivers_costs_no_other_source_a_turn() -> None:
    driver = Driver(ASKED, WORSE)
    driver.open("asked")
    driver.session.acknowledged(1, driver.now)
    driver.now += 60
    driver.did(driver.session.draining(1, driver.now))
    driver.did(driver.session.connected(2, driver.now))
    del driver.live[1]
    assert driver.did(driver.session.closed(1, driver.now, "closed by the peer")) == []
    assert driver.session.source == ASKED


UNACKNOWLEDGED = "the subscription was not acknowledged within 10 s"


def unacknowledged(driver: Driver, conn: int, feeding: int) -> float:
    """How long a connection lives whose subscription nobody acknowledges, while `feeding` has all that comes."""
    opened_at = driver.now
    while Close(conn, UNACKNOWLEDGED) not in driver.log:
        driver.did(driver.session.received(feeding, driver.now, 1))
        driver.until_something(5)
    return driver.now - opened_at


@pytest.mark.claim("N18")
def test_N18_a_second_source_has_to_acknowledge_too() -> None:
    driver = Driver(BEST, ASKED)
    driver.refuse("best", 429, 100.0)
    driver.open("asked")
    assert unacknowledged(driver, 2, feeding=2) == 10


@pytest.mark.claim("N18")
def test_N18_a_replacement_has_to_acknowledge_too() -> None:
    driver = Driver(ASKED)
    driver.open("asked")
    driver.session.acknowledged(1, driver.now)
    driver.now += 60
    assert driver.did(driver.session.draining(1, driver.now)) == [Connect(2, ASKED)]
    driver.did(driver.session.connected(2, driver.now))
    assert unacknowledged(driver, 2, feeding=1) == 10


def beside_worse(source: Source, policy: Policy = POLICY) -> Driver:
    """A worse source feeds the session, and a better one, which failed at first, has a connection again: number 3."""
    driver = Driver(source, WORSE, policy=policy)
    driver.refuse(source.name)
    driver.open("worse")
    driver.tick("worse")
    assert driver.until_something() == [Connect(3, source)]
    driver.open(source.name)
    return driver


@pytest.mark.claim("N18")
def test_N18_a_connection_that_is_on_trial_beats_too() -> None:
    driver = beside_worse(BEATING)
    opened_at, beats = driver.now, list[float]()
    while driver.now < opened_at + 50:
        driver.tick("worse")
        driver.tick("beating", 0)
        beats += [driver.now for effect in driver.until_something(5) if effect == Beat(3)]
    assert beats == [opened_at + 20, opened_at + 40]


@pytest.mark.claim("N4", "N6")
def test_N4_N6_a_connection_that_is_on_trial_and_half_open_is_found() -> None:
    """Where nothing but a pong that does not come tells of it: it would keep the place of every later one."""
    driver = beside_worse(BEST, policy=Policy(10, 10, 0, 30, 120))
    opened_at, done = driver.now, list[tuple[Effect, float]]()
    while driver.now < opened_at + 25 and not any(isinstance(effect, Close) for effect, _ in done):
        driver.tick("worse")
        done += [(effect, driver.now - opened_at) for effect in driver.until_something(5)]
    assert done == [(Ping(3), 10), (Close(3, "no pong within 10 s"), 20)]


@pytest.mark.claim("N18")
def test_N18_a_server_that_will_close_says_so_on_a_connection_that_is_on_trial() -> None:
    """As one that is shut down does on all of them."""
    driver = beside_worse(BEST)
    assert driver.did(driver.session.draining(3, driver.now)) == []
    assert driver.tick("best") == [Close(2, "best is preferred")]
    driver.now += 60
    assert driver.until_something(0) == [Connect(4, BEST)]
    driver.did(driver.session.connected(4, driver.now))
    assert driver.did(driver.session.received(4, driver.now, 1)) == [Close(3, "replaced before the server closes it")]


@pytest.mark.claim("N4")
def test_N4_each_better_source_is_come_back_to() -> None:
    """Not the best one only, which may be gone for good."""
    second = Source("second", "wss://five.test/", "five.test", 50)
    driver = Driver(BEST, second, WORSE)
    driver.refuse("best")
    driver.refuse("second")
    driver.open("worse")
    while driver.session.source != second:
        assert driver.now < 1100, "the second one is not come back to"
        driver.tick("worse")
        for effect in driver.until_something(5):
            if isinstance(effect, Connect) and effect.source == BEST:
                driver.refuse("best")
            elif isinstance(effect, Connect):
                driver.open("second")
                driver.tick("second")


@pytest.mark.claim("N4")
def test_N4_while_a_better_source_is_mute_the_others_are_tried() -> None:
    """Its connection was on trial when the one that delivered ended: it need not be better than nothing."""
    driver = beside_worse(BEST)
    assert driver.hang_up("worse") == []
    assert driver.session.source == BEST
    assert driver.until_something() == [Connect(4, WORSE)]
    driver.open("worse")
    assert driver.session.source == BEST
    assert driver.tick("worse") == []
    assert driver.session.source == WORSE
    # It keeps its chance.
    assert driver.tick("best") == [Close(4, "best is preferred")]
    assert driver.session.source == BEST


@pytest.mark.claim("N4")
def test_N4_a_better_source_that_speaks_at_last_needs_no_other() -> None:
    driver = beside_worse(BEST)
    driver.hang_up("worse")
    assert driver.until_something() == [Connect(4, WORSE)]
    driver.open("worse")
    assert driver.tick("best") == [Close(4, "best is preferred")]
    assert driver.until_something(30) == [Ping(3)]


@pytest.mark.claim("N4")
def test_N4_without_a_limit_to_silence_a_mute_source_costs_no_more() -> None:
    """Of three, the worst of which is the one that delivers, time and again."""
    second = Source("second", "wss://five.test/", "five.test", 50)
    driver = Driver(BEST, second, WORSE, policy=Policy(10, 10, 0, 30, 120))
    driver.refuse("best")
    driver.refuse("second")
    driver.open("worse")
    driver.tick("worse")
    dark = longest_dark = 0.0
    while driver.now < 1600:
        before = driver.now
        for effect in driver.until_something(1):
            if isinstance(effect, Connect):
                driver.refuse("second") if effect.source == second else driver.open(effect.source.name)
            elif isinstance(effect, Ping):
                driver.did(driver.session.pong(effect.conn, driver.now))
        if driver.session.source == WORSE or "worse" in driver.live.values():
            driver.tick("worse")
            dark = 0.0
            if int(driver.now) % 50 == 0:
                driver.hang_up("worse")
        dark += driver.now - before
        longest_dark = max(longest_dark, dark)
    assert longest_dark < 35
