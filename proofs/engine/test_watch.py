"""What a heartbeat and STATUS= say, and in which unit (contract M2, M4)."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.base import metrics, notify
from engine.base.channels import Channel
from engine.base.exits import Overload
from engine.config.schema import Settings
from engine.watch import Watch
from proofs.fixtures import engine_loop


def watching(ingest: object = None, counters: metrics.Counters | None = None) -> Watch:
    nobody = cast("Any", None)
    return Watch(
        Settings(), cast("Any", ingest), (), nobody, counters or metrics.Counters(), nobody, notify.Notifier(None),
        lambda: 0,
    )  # fmt: skip


@pytest.mark.claim("M2")
def test_M2_loop_lag_is_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> float:
        watch = watching()
        # By this clock each turn of the loop comes a quarter of a second late.
        clock = itertools.count(0.0, 0.25)
        monkeypatch.setattr(watch, "_loop", SimpleNamespace(time=lambda: next(clock)))
        monkeypatch.setattr("engine.watch._LAG_INTERVAL_SECS", 0.0)
        measuring = asyncio.get_running_loop().create_task(watch.measure_lag())
        await asyncio.wait({measuring}, timeout=0.01)
        measuring.cancel()
        return watch._lag.quantile_ms(0.99)

    assert engine_loop.run(scenario()) == pytest.approx(255.0, abs=5.0)


@pytest.mark.claim("M4", "N7")
@pytest.mark.parametrize("hindrance", ["", "a barred until tomorrow"])
@pytest.mark.parametrize("source", [None, "a"])
def test_M4_N7_the_status_counts_what_the_heartbeat_does(source: str | None, hindrance: str) -> None:
    async def scenario() -> str:
        intake = SimpleNamespace(received=70, processed=7)
        ingest = SimpleNamespace(intake=intake, feed=SimpleNamespace(source=source, hindrance=hindrance))
        return watching(ingest, metrics.Counters(signal_count=3, persist_count=11)).status()

    more = f"; {hindrance}" if hindrance else ""
    assert engine_loop.run(scenario()) == (
        f"SHADOW SYNTHETIC from {source or 'nobody'}: 7 ticks, 3 signals, 11 rows on disk{more}"
    )


class Course:
    """Time that passes only while somebody sleeps; a sleeper may come back late, or a little early."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *late_secs: float, turns: int = 10) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._late_secs = [*late_secs, *[0.0] * turns][:turns]
        # Called with each sleep's number, as what else happens then.
        self.meanwhile: Callable[[int], object] = lambda _: None
        monkeypatch.setattr("engine.watch.asyncio", SimpleNamespace(sleep=self._sleep))

    def time(self) -> float:
        return self.now

    async def _sleep(self, secs: float) -> None:
        if not self._late_secs:
            raise asyncio.CancelledError
        self.slept.append(secs)
        self.now += secs + self._late_secs.pop(0)
        self.meanwhile(len(self.slept))

    def run(self, options: Settings, make: Callable[[Watch], Coroutine[Any, Any, None]], **parts: Any) -> Watch:
        """One of a watch's tasks, to its end."""

        async def scenario() -> Watch:
            loop = SimpleNamespace(time=self.time)
            nobody: dict[str, Any] = dict.fromkeys(("ingest", "store", "liveness", "notifier"))
            facts = {"channels": (), "counters": metrics.Counters(), "tick_rows_queued": lambda: 0, **nobody, **parts}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("engine.watch.asyncio", SimpleNamespace(get_running_loop=lambda: loop))
                watch = Watch(options, **facts)
            with suppress(asyncio.CancelledError):
                await make(watch)
            return watch

        return engine_loop.run(scenario())


def engine_table(**changes: Any) -> Settings:
    return Settings.model_validate({"engine": changes})


@pytest.mark.claim("M2", "M4")
def test_M2_M4_heartbeats_keep_the_cadence_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a late turn of the loop did to one of them; and none comes twice because a timer was early."""
    course = Course(monkeypatch, 0.0, 3.0, 25.0, -0.0004, 0.0, turns=5)
    beats: list[tuple[str, float]] = []

    async def beating(watch: Watch) -> None:
        for name, word in (("tell_clock_skew", "skew"), ("status", "status")):
            monkeypatch.setattr(watch, name, lambda word=word: beats.append((word, course.now)))
        monkeypatch.setattr(watch, "report", lambda message: beats.append((message, course.now)))
        await watch.heartbeats()

    told: list[dict[str, object]] = []
    notifier = SimpleNamespace(send=lambda **assignments: told.append(assignments))
    course.run(engine_table(heartbeat_interval_secs=10.0), beating, notifier=notifier)
    expected = [1000.0, 1010.0, 1023.0, 1055.0, 1059.9996, 1070.0]
    assert [at for word, at in beats if word == "HEARTBEAT (G4)"] == pytest.approx(expected)
    assert course.slept == pytest.approx([10.0, 10.0, 7.0, 5.0, 10.0004])
    # What the clocks say comes before, and systemd is told each time.
    assert [word for word, _ in beats[:3]] == ["skew", "HEARTBEAT (G4)", "status"]
    assert told == [{"STATUS": None}] * 6


@pytest.mark.claim("M2")
def test_M2_a_loop_that_comes_back_early_has_no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, -0.001, -5.0, 0.0, turns=3)
    watch = course.run(Settings(), lambda watch: watch.measure_lag())
    assert course.slept == [0.1, 0.1, 0.1]
    assert watch._lag.quantile_ms(1.0) <= 0.1


@pytest.mark.claim("B2")
@pytest.mark.parametrize(
    ("grace_ms", "pause", "full_ms"), [(250, 0.0625, 322), (1000, 0.25, 1260), (1, 0.01, 20), (40, 0.01, 60)]
)
def test_B2_a_channel_that_stays_full_is_an_overload_a_quarter_of_the_grace_later_at_most(
    monkeypatch: pytest.MonkeyPatch, grace_ms: int, pause: float, full_ms: int
) -> None:
    """Of several it is the one farthest down, which holds up the others."""
    course = Course(monkeypatch, turns=100)
    channels = tuple(Channel[str](name, 1, course.time) for name in ("tick", "signal", "persist"))
    for channel in channels[:2]:
        channel.put_nowait("a", 1)
    with pytest.raises(Overload) as raised:
        course.run(engine_table(overload_grace_ms=grace_ms), lambda watch: watch.watch_overload(), channels=channels)
    assert (raised.value.details["channel"], raised.value.details["capacity"]) == ("signal", 1)
    assert abs(cast("int", raised.value.details["full_ms"]) - full_ms) <= 1
    # Before it is called one, the consumers run once.
    assert course.slept[-1] == 0.01
    assert set(course.slept[:-1]) == {pause}


@pytest.mark.claim("B2")
def test_B2_room_that_is_made_at_the_last_moment_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, turns=20)
    channel = Channel[str]("tick", 1, course.time)
    channel.put_nowait("a", 1)

    def meanwhile(_: int) -> None:
        if course.slept[-1] == 0.01:
            assert channel.take_all() == ["a"]
            channel.put_nowait("a", 1)

    course.meanwhile = meanwhile
    course.run(engine_table(overload_grace_ms=250), lambda watch: watch.watch_overload(), channels=(channel,))
    assert course.slept.count(0.01) >= 3


@pytest.mark.claim("B2")
@pytest.mark.parametrize(("late", "full_ms"), [(0.0, 322), (0.0624, 447), (0.0626, 322), (3600.0, 322)])
def test_B2_what_is_late_by_more_than_a_pause_did_not_run(
    monkeypatch: pytest.MonkeyPatch, late: float, full_ms: int
) -> None:
    """Nor did any consumer in that time, which does not count. What is less is the work of this very loop."""
    course = Course(monkeypatch, *[late] * 20, turns=20)
    channel = Channel[str]("tick", 1, course.time)
    channel.put_nowait("a", 1)
    with pytest.raises(Overload) as raised:
        course.run(engine_table(overload_grace_ms=250), lambda watch: watch.watch_overload(), channels=(channel,))
    assert abs(cast("int", raised.value.details["full_ms"]) - full_ms) <= 1


@pytest.mark.claim("E5")
@pytest.mark.parametrize(("watchdog_secs", "pause"), [(20.0, 5.0), (0.04, 0.01), (0.001, 0.01), (1e-6, 0.01)])
def test_E5_the_watchdog_is_fed_once_everybody_has_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, watchdog_secs: float, pause: float
) -> None:
    """Four times in its time, and a hundred times a second at most."""
    course = Course(monkeypatch, turns=8)
    liveness = notify.Liveness(("ingest", "persist"))
    fed: list[tuple[float, dict[str, object]]] = []
    nudged: list[str] = []
    silent_in = (3, 4, 6)

    def meanwhile(turn: int) -> None:
        liveness.answer("ingest")
        if turn not in silent_in:
            liveness.answer("persist")

    course.meanwhile = meanwhile
    course.run(
        Settings(),
        lambda watch: watch.feed_watchdog(watchdog_secs),
        liveness=liveness,
        notifier=SimpleNamespace(send=lambda **told: fed.append((course.now, told))),
        ingest=SimpleNamespace(feed=SimpleNamespace(nudge=lambda: nudged.append("feed"))),
        channels=tuple(SimpleNamespace(nudge=lambda name=name: nudged.append(name)) for name in ("tick", "persist")),
    )
    assert set(course.slept) == {pause}
    assert [told for _, told in fed] == [{"WATCHDOG": 1}] * 5
    assert [round((at - 1000.0) / pause) for at, _ in fed] == [1, 2, 5, 7, 8]
    # Each epoch asks everybody; while one is silent, the last of the flow is asked again.
    epoch = ["tick", "persist", "feed"]
    assert nudged == [*epoch * 3, "persist", "persist", *epoch, "persist", *epoch * 2]
    lines = [vars(line)["fields"] for line in caplog.records if line.message == "watchdog not fed"]
    assert lines
    assert all(fields["silent"] == ["persist"] for fields in lines)
    # Three times nobody answered for it, and a line a second is enough.
    assert len(lines) == (3 if pause > 1 else 1)


def ingest_with(**by_market: tuple[int | None, int]) -> Any:
    feed = SimpleNamespace(
        parse_errors=11, foreign=12, ignored=13, reconnects=14, connections_unbounded=15, source="here", nudge=None
    )
    intake = SimpleNamespace(received=40, processed=20, sampled_out=20, duplicates=5)
    return SimpleNamespace(
        intake=intake, feed=feed, tick_count=20, ticks_parsed=45, by_market=lambda: by_market,
        clocks=SimpleNamespace(skew_ms=-7),
    )  # fmt: skip


@pytest.mark.claim("M2", "M3", "N9")
@pytest.mark.parametrize("queued", [3, 4])
def test_M2_M3_a_heartbeat_says_what_each_part_has_counted(caplog: pytest.LogCaptureFixture, queued: int) -> None:
    counters = metrics.Counters(
        signal_count=1, shadow_orders=2, trade_count=3, persist_count=4, persist_errors=5, tick_rows_written=9,
        tick_rows_known=6, bp_drops_tick=1, bp_drops_persist=1, bp_drops_signal=8, risk_vetoes=10, stale_vetoes=16,
    )  # fmt: skip
    ingest = ingest_with(a=(3, 4), b=(None, 1), c=(2, 0))

    async def scenario() -> None:
        nobody = cast("Any", None)
        store = SimpleNamespace(wal_bytes=17)
        options = engine_table(sample_every=2)
        watch = Watch(options, ingest, (), cast("Any", store), counters, nobody, nobody, lambda: queued)
        watch.report("FINAL METRICS")

    caplog.set_level(logging.INFO)
    engine_loop.run(scenario())
    first = caplog.records[0]
    assert (first.levelname, first.message) == ("INFO", "FINAL METRICS")
    assert vars(first)["fields"] == {
        "tick_count": 20, "signal_count": 1, "shadow_orders": 2, "trade_count": 3, "persist_count": 4,
        "persist_errors": 5, "ingest_received": 40, "ingest_processed": 20, "bp_drops_tick": 1, "bp_drops_signal": 8,
        "bp_drops_persist": 1, "risk_vetoes": 10, "stale_vetoes": 16, "parse_errors": 11, "foreign": 12, "ignored": 13,
        "duplicates": 5, "gaps": 5, "reconnects": 14, "connections_unbounded": 15, "ticks_parsed": 45,
        "sampled_out": 20, "tick_rows_written": 9, "tick_rows_known": 6, "log_drops": 0, "tick_rows_queued": queued,
        "loop_lag_ms_p99": 0.0, "wal_bytes": 17, "source": "here", "clock_skew_ms": -7,
        "gaps_by_market": {"a": 3, "c": 2}, "duplicates_by_market": {"a": 4, "b": 1, "c": 0},
    }  # fmt: skip
    told = [(line.levelname, line.message, vars(line)["fields"]) for line in caplog.records[1:]]
    parts = "tick_rows_written + tick_rows_known + tick_rows_queued + bp_drops_tick + bp_drops_persist"
    assert told == (
        [] if queued == 3 else [("ERROR", "books do not balance", {"broken": [f"tick_count = 20, but {parts} = 21"]})]
    )


@pytest.mark.claim("N14")
def test_N14_what_is_said_of_a_clock_has_its_numbers(caplog: pytest.LogCaptureFixture) -> None:
    notices = [
        SimpleNamespace(source="a", skew_ms=6000, text="the venue's clock is ahead", over=False),
        SimpleNamespace(source="b", skew_ms=1, text="the venue's clock is right again", over=True),
    ]
    asked: list[float] = []
    clocks = SimpleNamespace(turn=lambda now: asked.append(now) or notices)

    async def scenario() -> float:
        watch = watching(SimpleNamespace(clocks=clocks))
        watch.tell_clock_skew()
        watching(SimpleNamespace(clocks=None)).tell_clock_skew()
        return asyncio.get_running_loop().time()

    caplog.set_level(logging.INFO)
    assert engine_loop.run(scenario()) - asked[0] < 5.0
    assert [(line.levelname, line.message, vars(line)["fields"]) for line in caplog.records] == [
        ("WARNING", "the venue's clock is ahead",
         {"source": "a", "clock_skew_ms": 6000, "max_staleness_ms": 5000}),
        ("INFO", "the venue's clock is right again",
         {"source": "b", "clock_skew_ms": 1, "max_staleness_ms": 5000}),
    ]  # fmt: skip
