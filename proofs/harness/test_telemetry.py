"""How what is observed is remembered (contract W6)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.pressure import Unknown
from harness.dashboard.telemetry import AGE_SECS_MAX, TIERS, Remembered, Telemetry
from harness.dashboard.view_model import LogSnapshot, Observation, Trouble, UnitSnapshot
from proofs.harness.test_view_model import BEAT, EXITED, NOW, SEEN, STARTED, entry, unit

pytestmark = pytest.mark.claim("W6")


def at(seconds: float, **changed: object) -> Observation:
    return replace(SEEN, at=NOW + seconds, **changed)  # type: ignore[arg-type]


def test_each_step_has_its_peak_and_a_step_without_an_observation_is_missing() -> None:
    telemetry = Telemetry()
    for second in (0, 1, 2, 10, 11):
        beat = {**BEAT, "loop_lag_ms_p99": 5.0 + second}
        telemetry.take(at(second, ticks_per_sec=float(second), log=LogSnapshot("SHADOW", 5, beat, NOW)))
    span = telemetry.span(int(NOW - 1) * 1000, int(NOW + 60) * 1000)
    first = int(NOW) * 1000
    assert [ms - first for ms in span["at_ms"]] == [0, 1000, 2000, 10_000, 11_000]
    assert span["lag_ms"] == [5.0, 6.0, 7.0, 15.0, 16.0]
    assert span["sample_every"] == [5.0] * 5
    # A span from before anything was known needs no longer steps than what is known.
    assert telemetry.span(0, int(NOW + 60) * 1000) == span
    # A longer span comes from a coarser tier: peaks of lag, means of the rate.
    late = 3000
    telemetry.take(at(late, ticks_per_sec=0.0, log=Trouble("x")))
    long = telemetry.span(int(NOW - 60) * 1000, int(NOW + late + 60) * 1000)
    assert long["step_ms"] == TIERS[1][0] * 1000
    assert max(value for value in long["lag_ms"] if value is not None) == 16.0
    assert sum(long["ticks_per_sec"]) < 24


def test_memory_is_bounded() -> None:
    telemetry = Telemetry()
    for second in range(2 * TIERS[0][0] * TIERS[0][1]):
        telemetry.take(at(second))
    span = telemetry.span(int(NOW) * 1000 + 1000 * TIERS[0][1], int(NOW) * 1000 * 2)
    assert len(span["at_ms"]) == TIERS[0][1]


def test_what_is_not_known_is_no_zero() -> None:
    telemetry = Telemetry()
    telemetry.take(at(0, unit=Trouble("x"), pressure=Unknown("x"), ticks_per_sec=None, log=Trouble("x")))
    span = telemetry.span(0, int(NOW + 60) * 1000)
    assert [span[name] for name in ("rss_mib", "cpu", "lag_ms", "ticks_per_sec", "sample_every")] == [[None]] * 5


def test_starts_ends_and_sources_are_marked_once_with_who() -> None:
    telemetry = Telemetry()
    lifecycle = [
        entry(STARTED, "a", NOW - 100, MESSAGE="Started engine."),
        entry(EXITED, "a", NOW - 50, MESSAGE="Main process exited, code=killed"),
        entry(STARTED, "b", NOW - 40, MESSAGE="Started engine."),
    ]
    shown = UnitSnapshot(replace(unit().state, invocation_id="b"), NOW - 40, lifecycle)
    for second, source in ((0, "binance"), (1, "binance"), (2, "gemini")):
        log = LogSnapshot("SHADOW", 5, {**BEAT, "source": source}, NOW)
        telemetry.take(at(second, unit=shown, log=log))
    events = telemetry.events(0, int(NOW + 60) * 1000)
    assert [(event.kind, event.text) for event in events] == [
        ("start", "Started engine."),
        ("crash", "Main process exited, code=killed"),
        ("start", "started by an operator, or at boot"),
        ("source", "binance -> gemini"),
    ]
    assert telemetry.source_since_ms == events[-1].at_ms
    assert telemetry.events(int(NOW - 45) * 1000, int(NOW - 35) * 1000) == [events[2]]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 14, 100, 3000, 50_000]),
            st.none() | st.integers(0, 100),
            st.none() | st.integers(0, 100),
        ),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([10, 899, 3600, 86_400, 2 * 86_400, 10**7]),
)
def test_a_span_shows_of_each_step_what_was_seen_in_it(
    seen: list[tuple[int, int | None, int | None]], back: int
) -> None:
    telemetry, now = Telemetry(), int(NOW)
    taken: list[tuple[int, int | None, int | None]] = []
    for pause, rate, lag in seen:
        now += pause
        beat = {**BEAT, "loop_lag_ms_p99": lag}
        telemetry.take(at(now - NOW, ticks_per_sec=rate, log=LogSnapshot("SHADOW", 5, beat, now)))
        taken.append((now, rate, lag))
    shown = telemetry.span((now - back) * 1000, (now + 1) * 1000)
    first = telemetry.first_ms()
    assert first is not None
    begin = max((now - back) * 1000, first)
    length, steps = next((tier for tier in TIERS if (now - tier[0] * tier[1]) * 1000 <= begin), TIERS[-1])
    assert shown["step_ms"] == length * 1000
    found = {
        ms // 1000 // length: (rate, lag)
        for ms, rate, lag in zip(shown["at_ms"], shown["ticks_per_sec"], shown["lag_ms"], strict=True)
    }
    assert list(found) == sorted(found)
    for key in {at // length for at, _, _ in taken}:
        if now - back <= key * length and key > now // length - steps:
            assert key in found
    for key, (rate, lag) in found.items():
        rates = [rate for at, rate, _ in taken if at // length == key and rate is not None]
        lags = [lag for at, _, lag in taken if at // length == key and lag is not None]
        assert rate == (pytest.approx(sum(rates) / len(rates)) if rates else None)
        assert lag == max(lags, default=None)


@pytest.mark.parametrize(
    ("seconds", "first"),
    [
        ([], None),
        ([7], 7),
        ([7, 899], 7),
        # Out of the finest tier after a quarter of an hour; in the next one its step began at 0.
        ([7, 7 + 901], 0),
        ([7, 7 + 15 * 960 + 15], 0),
        ([3000, 3000 + 2 * 86_400 + 120], 1800),
        ([3000, 3000 + AGE_SECS_MAX + 1800], 3000 + AGE_SECS_MAX + 1800),
    ],
)
def test_something_is_known_from_the_oldest_step_on_that_is_remembered(seconds: list[int], first: int | None) -> None:
    zero = int(NOW) // 1800 * 1800
    telemetry = Telemetry()
    for second in seconds:
        telemetry.take(at(zero + second - NOW))
    assert telemetry.first_ms() == (None if first is None else (zero + first) * 1000)


def test_what_was_kept_and_taken_back_is_what_was_seen() -> None:
    whole, first = Telemetry(), Telemetry()
    observed = [
        at(
            second,
            ticks_per_sec=float(second % 7),
            log=LogSnapshot("SHADOW", 5, {**BEAT, "source": f"venue {second // 5}"}, NOW),
        )
        for second in (*range(20), 1000, 1001, 5000)
    ]
    for one in observed:
        whole.take(one)
    for one in observed[:10]:
        first.take(one)
    again = Telemetry()
    again.restore(first.everything())
    for one in observed[10:]:
        again.take(one)
    for back in (1, 60, 4000, 10**6):
        begin, end = round((NOW + 5000 - back) * 1000), round((NOW + 6000) * 1000)
        assert again.span(begin, end) == whole.span(begin, end)
        assert again.events(begin, end) == whole.events(begin, end)
    assert (again.first_ms(), again.source_since_ms) == (whole.first_ms(), whole.source_since_ms)
    assert again.everything() == whole.everything()


def test_only_what_has_changed_is_handed_out_to_be_kept_and_what_was_not_kept_comes_again() -> None:
    telemetry = Telemetry()
    beats = (LogSnapshot("SHADOW", 5, {**BEAT, "source": source}, NOW) for source in ("binance", "gemini"))
    telemetry.take(at(0, log=next(beats)))
    telemetry.take(at(1, log=next(beats)))
    news = telemetry.unkept()
    assert [(step.seconds, step.at - int(NOW)) for step in news.steps] == [
        (length, int(NOW + second) // length * length - int(NOW))
        for length, _ in TIERS
        for second in ((0, 1) if length == 1 else (0,))
    ]
    assert [event.text for event in news.events or ()] == ["binance -> gemini"]
    nothing = telemetry.unkept()
    assert (nothing.steps, nothing.events) == ([], None)
    telemetry.not_kept(news)
    assert telemetry.unkept() == news
    telemetry.take(at(2))
    later = telemetry.unkept()
    assert later.steps[0].at == int(NOW) + 2
    assert (len(later.steps), later.events) == (len(TIERS), None)
    telemetry.not_kept(later)
    assert repr(telemetry.unkept()) == repr(later)


def test_nothing_was_seen_yet_and_nothing_is_to_be_kept() -> None:
    telemetry = Telemetry()
    assert telemetry.unkept() == Remembered([], None, 0, None, None)
    telemetry.restore(Remembered())
    assert telemetry.everything() == Remembered([], [], 0, None, None)
    telemetry.restore(Remembered(events=None))
    assert (telemetry.first_ms(), telemetry.events(0, 10**15), telemetry.source_since_ms) == (None, [], None)
    assert telemetry.span(0, 10**15)["at_ms"] == []


def test_each_series_has_what_was_seen_in_its_unit() -> None:
    telemetry = Telemetry()
    telemetry.take(at(0))
    shown = telemetry.span(0, int(NOW + 60) * 1000)
    assert shown == {
        "step_ms": 1000, "at_ms": [int(NOW) * 1000], "ticks_per_sec": [20.0], "rss_mib": [1.0], "cpu": [3.0],
        "memory": [0.0], "io": [0.0], "sample_every": [5.0], "lag_ms": [2.5],
    }  # fmt: skip
    # Of an engine that does not run there is no rung and no lag.
    telemetry.take(at(1, unit=unit(active="inactive")))
    last = {name: values[-1] for name, values in telemetry.span(0, int(NOW + 60) * 1000).items() if name != "step_ms"}
    assert (last["rss_mib"], last["sample_every"], last["lag_ms"], last["cpu"]) == (None, None, None, 3.0)


def test_tiers_reach_back_as_far_as_the_contract_says() -> None:
    assert [(seconds, seconds * steps) for seconds, steps in TIERS] == [
        (1, 15 * 60), (15, 4 * 3600), (120, 2 * 86_400), (1800, 31 * 86_400),
    ]  # fmt: skip
    assert AGE_SECS_MAX == 31 * 86_400


def test_a_span_has_its_beginning_and_not_its_end() -> None:
    telemetry = Telemetry()
    for second in range(5):
        telemetry.take(at(second, log=LogSnapshot("SHADOW", 5, {**BEAT, "source": f"venue {second}"}, NOW)))
    zero = int(NOW) * 1000
    assert telemetry.span(zero + 1000, zero + 3000)["at_ms"] == [zero + 1000, zero + 2000]
    assert telemetry.span(zero + 1001, zero + 3001)["at_ms"] == [zero + 2000, zero + 3000]
    # What happened has a moment, and not a length: that at the end is of it.
    assert [event.at_ms - zero for event in telemetry.events(zero + 1000, zero + 3000)] == [1000, 2000, 3000]
    assert [event.at_ms - zero for event in telemetry.events(zero + 1001, zero + 2999)] == [2000]


def test_of_many_events_the_newest_are_remembered() -> None:
    telemetry = Telemetry()
    for second in range(510):
        telemetry.take(at(second, log=LogSnapshot("SHADOW", 5, {**BEAT, "source": f"venue {second}"}, NOW)))
    events = telemetry.events(0, 10**15)
    assert [event.text for event in events[:1] + events[-1:]] == ["venue 9 -> venue 10", "venue 508 -> venue 509"]
    assert len(events) == 500


def test_what_the_journal_tells_anew_is_taken_and_what_it_tells_again_is_not() -> None:
    telemetry = Telemetry()
    lifecycle = [entry(STARTED, "a", NOW - 100, MESSAGE="one"), entry(EXITED, "a", NOW - 50, MESSAGE="two"),
                 entry(STARTED, "c", NOW - 40, MESSAGE="three")]  # fmt: skip
    for second, told in enumerate((lifecycle[:1], lifecycle[:2], lifecycle, lifecycle)):
        telemetry.take(at(second, unit=UnitSnapshot(unit().state, NOW, told)))
    assert [event.text for event in telemetry.events(0, 10**15)] == ["one", "two", "three"]
    assert telemetry.unkept().told_us == round((NOW - 40) * 1e6)


def test_what_was_forgotten_before_it_was_kept_is_not_kept() -> None:
    telemetry = Telemetry()
    for second in (0, 1, 2, 2000):
        telemetry.take(at(second))
    kept = telemetry.unkept()
    assert [step.at - int(NOW) for step in kept.steps if step.seconds == 1] == [2000]
    assert len([step for step in kept.steps if step.seconds == 15]) == 2
    # Nor what could not be kept, and was forgotten meanwhile.
    telemetry.take(at(4000))
    telemetry.not_kept(kept)
    assert [step.at - int(NOW) for step in telemetry.unkept().steps if step.seconds == 1] == [4000]


def test_the_oldest_step_of_a_month_is_shown_although_it_began_before() -> None:
    zero = int(NOW) // 1800 * 1800
    telemetry = Telemetry()
    for second in (0, AGE_SECS_MAX + 5):
        telemetry.take(at(zero + second - NOW))
    shown = telemetry.span(0, 10**15)
    assert (shown["step_ms"], shown["at_ms"]) == (1_800_000, [zero * 1000, (zero + AGE_SECS_MAX) * 1000])
