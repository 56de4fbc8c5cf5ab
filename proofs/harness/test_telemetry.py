"""How what is observed is remembered (contract W6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.base.pressure import Unknown
from harness.dashboard.telemetry import TIERS, Telemetry
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
