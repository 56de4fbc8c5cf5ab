"""Observations -> how memory, pressure, rung, lag and rate went, and what happened when, in bounded memory (contract
W6).

Each tier remembers a longer time in longer steps. A step keeps the highest value seen in it, of the rate the mean; a
step without an observation is missing, and stays a gap.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.base import jsontext
from harness.base.pressure import RESOURCES, Pressure
from harness.dashboard import view_model
from harness.dashboard.view_model import LogSnapshot, Observation, UnitSnapshot

TIERS = ((1, 900), (15, 960), (120, 1440))
"""(seconds of a step, steps): a quarter of an hour, four hours, two days."""

EVENTS_MAX = 500

SERIES = ("ticks_per_sec", "rss_mib", "cpu", "memory", "io", "sample_every", "lag_ms")


@dataclass
class _Step:
    """What one step of a tier has seen of each series: (how often, sum, highest)."""

    values: dict[str, tuple[int, float, float]] = field(default_factory=dict)

    def take(self, name: str, value: float) -> None:
        count, total, top = self.values.get(name, (0, 0.0, value))
        self.values[name] = (count + 1, total + value, max(top, value))

    def shown(self, name: str) -> float | None:
        if name not in self.values:
            return None
        count, total, top = self.values[name]
        return total / count if name == "ticks_per_sec" else top


@dataclass(frozen=True)
class TelemetryEvent:
    """Something that happened, as a mark on every chart."""

    at_ms: int
    kind: str
    """start, stop, crash, or source."""
    text: str


class Telemetry:
    """What was observed since the dashboard started."""

    def __init__(self) -> None:
        self._tiers: list[OrderedDict[int, _Step]] = [OrderedDict() for _ in TIERS]
        self._events: deque[TelemetryEvent] = deque(maxlen=EVENTS_MAX)
        # Up to when (microseconds since the Unix epoch) the journal has been taken: it is shown anew each time.
        self._told_us = 0
        self._source: str | None = None
        self.source_since_ms: int | None = None
        """Since when the feed is known to come from where it comes from."""

    def take(self, seen: Observation) -> None:
        """Remember one observation."""
        values = {name: value for name, value in _values(seen).items() if value is not None}
        for (seconds, steps), tier in zip(TIERS, self._tiers, strict=True):
            key = int(seen.at) // seconds
            step = tier.setdefault(key, _Step())
            for name, value in values.items():
                step.take(name, value)
            while len(tier) > steps:
                tier.popitem(last=False)
        self._note(seen)

    def _note(self, seen: Observation) -> None:
        if isinstance(seen.unit, UnitSnapshot):
            for entry in seen.unit.lifecycle:
                at_us = round(view_model.entry_at(entry) * 1e6)
                if at_us <= self._told_us:
                    continue
                self._told_us = at_us
                kind, said = view_model.lifecycle_event(entry)
                if kind == "start" and entry.get("INVOCATION_ID") == seen.unit.state.invocation_id:
                    said = view_model.who_started(seen.unit.state, seen.unit.lifecycle, view_model.decided(seen))[1]
                if kind:
                    self._events.append(TelemetryEvent(at_us // 1000, kind, said))
        if isinstance(seen.log, LogSnapshot):
            source = seen.log.heartbeat.get("source")
            if isinstance(source, str) and source != self._source:
                if self._source is not None:
                    was = jsontext.text(self._source)
                    self._events.append(
                        TelemetryEvent(round(seen.at * 1000), "source", f"{was} -> {jsontext.text(source)}")
                    )
                self._source, self.source_since_ms = source, round(seen.at * 1000)

    def events(self, from_ms: int, to_ms: int) -> list[TelemetryEvent]:
        """Return what happened in a span, the oldest first."""
        return sorted((one for one in self._events if from_ms <= one.at_ms <= to_ms), key=lambda one: one.at_ms)

    def span(self, from_ms: int, to_ms: int) -> Mapping[str, Any]:
        """Return the series of a span: `step_ms`, `at_ms` of the steps there are, and the values of each series."""
        now = max((key * TIERS[0][0] for key in self._tiers[0]), default=0)
        # The finest that reaches back to the span's beginning.
        fits = [at for at, (seconds, steps) in enumerate(TIERS) if (now - seconds * steps) * 1000 <= from_ms]
        at = fits[0] if fits else len(TIERS) - 1
        seconds = TIERS[at][0]
        steps = [(key, step) for key, step in self._tiers[at].items() if from_ms <= key * seconds * 1000 < to_ms]
        return {
            "step_ms": seconds * 1000,
            "at_ms": [key * seconds * 1000 for key, _ in steps],
            **{name: [step.shown(name) for _, step in steps] for name in SERIES},
        }


def _values(seen: Observation) -> dict[str, float | None]:
    rss = seen.unit.rss_bytes if isinstance(seen.unit, UnitSnapshot) else None
    runs = isinstance(seen.unit, UnitSnapshot) and seen.unit.state.active == "active"
    beat = seen.log.heartbeat if runs and isinstance(seen.log, LogSnapshot) else {}
    pressure = seen.pressure if isinstance(seen.pressure, Pressure) else None
    return {
        # What is written late by a stopped engine is no rate of it.
        "ticks_per_sec": seen.ticks_per_sec,
        "rss_mib": None if rss is None else rss / 2**20,
        "sample_every": view_model.sample_every(seen) if runs else None,
        "lag_ms": jsontext.number(beat.get("loop_lag_ms_p99")),
        **{name: None if pressure is None else pressure.some(name) for name in RESOURCES},
    }
