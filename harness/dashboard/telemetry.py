"""Observations -> how memory, pressure, rung, lag and rate went, and what happened when, in bounded memory (contract
W6).

Each tier remembers a longer time in longer steps. A step keeps the highest value seen in it, of the rate the mean; a
step without an observation is missing, and stays a gap. What has changed since it was last kept is handed out to be
kept (harness/dashboard/telemetry_store.py), and is taken back at the next start.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.base import jsontext
from harness.base.pressure import RESOURCES, Pressure
from harness.dashboard import view_model
from harness.dashboard.view_model import LogSnapshot, Observation, UnitSnapshot

TIERS = ((1, 900), (15, 960), (120, 1440), (1800, 1488))
"""(seconds of a step, steps): a quarter of an hour, four hours, two days, a month."""

AGE_SECS_MAX = max(seconds * steps for seconds, steps in TIERS)
"""What is older is forgotten."""

EVENTS_MAX = 500

SERIES = ("ticks_per_sec", "rss_mib", "cpu", "memory", "io", "sample_every", "lag_ms")

Sums = tuple[float, float, float]
"""What a step has seen of a series: how often, sum, highest."""


@dataclass(frozen=True)
class TelemetryEvent:
    """Something that happened, as a mark on every chart."""

    at_ms: int
    kind: str
    """start, stop, crash, or source."""
    text: str


@dataclass(frozen=True)
class KeptStep:
    """A step as it is kept."""

    seconds: int
    """Of its tier."""
    at: int
    """Its beginning, seconds since the Unix epoch."""
    sums: Mapping[str, Sums]


@dataclass(frozen=True)
class Remembered:
    """What is kept of it all, or of what has changed."""

    steps: Sequence[KeptStep] = ()
    events: Sequence[TelemetryEvent] | None = ()
    """All of them; None when none has come since."""
    told_us: int = 0
    """Up to when (microseconds since the Unix epoch) the journal has been taken."""
    source: str | None = None
    source_since_ms: int | None = None


class _Step:
    """What one step has seen of each series, in the order of SERIES."""

    __slots__ = ("sums",)

    def __init__(self) -> None:
        self.sums = array("d", [0.0] * (3 * len(SERIES)))

    def take(self, index: int, count: float, total: float, top: float) -> None:
        at = 3 * index
        self.sums[at + 2] = max(self.sums[at + 2], top) if self.sums[at] else top
        self.sums[at] += count
        self.sums[at + 1] += total

    def of(self, index: int) -> Sums:
        count, total, top = self.sums[3 * index : 3 * index + 3]
        return count, total, top

    def shown(self, index: int) -> float | None:
        count, total, top = self.of(index)
        if not count:
            return None
        return total / count if SERIES[index] == "ticks_per_sec" else top


class Telemetry:
    """What was observed. Not safe for two threads."""

    def __init__(self) -> None:
        self._tiers: list[OrderedDict[int, _Step]] = [OrderedDict() for _ in TIERS]
        self._events: deque[TelemetryEvent] = deque(maxlen=EVENTS_MAX)
        # The journal is shown anew each time, and after a restart too.
        self._told_us = 0
        self._source: str | None = None
        self.source_since_ms: int | None = None
        """Since when the feed is known to come from where it comes from."""
        self._now = 0
        # What has changed since it was handed out to be kept: (tier, step), and whether there was an event.
        self._changed: set[tuple[int, int]] = set()
        self._events_changed = False

    def take(self, seen: Observation) -> None:
        """Remember one observation."""
        self._now = int(seen.at)
        values = _values(seen)
        for number, ((seconds, steps), tier) in enumerate(zip(TIERS, self._tiers, strict=True)):
            key = self._now // seconds
            step = tier.setdefault(key, _Step())
            for index, name in enumerate(SERIES):
                value = values[name]
                if value is not None:
                    step.take(index, 1, value, value)
            self._changed.add((number, key))
            self._forget(number, steps)
        self._note(seen)

    def _forget(self, number: int, most: int) -> None:
        tier, oldest = self._tiers[number], self._now // TIERS[number][0] - most
        while tier and (len(tier) > most or next(iter(tier)) < oldest):
            self._changed.discard((number, tier.popitem(last=False)[0]))

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
                    self._happened(TelemetryEvent(at_us // 1000, kind, said))
        if isinstance(seen.log, LogSnapshot):
            source = seen.log.heartbeat.get("source")
            if isinstance(source, str) and source != self._source:
                if self._source is not None:
                    was = jsontext.text(self._source)
                    self._happened(TelemetryEvent(round(seen.at * 1000), "source", f"{was} -> {jsontext.text(source)}"))
                self._source, self.source_since_ms = source, round(seen.at * 1000)

    def _happened(self, event: TelemetryEvent) -> None:
        self._events.append(event)
        self._events_changed = True

    def events(self, from_ms: int, to_ms: int) -> list[TelemetryEvent]:
        """Return what happened in a span, the oldest first."""
        return sorted((one for one in self._events if from_ms <= one.at_ms <= to_ms), key=lambda one: one.at_ms)

    def first_ms(self) -> int | None:
        """Return from when on something is known; None for nothing."""
        found: int | None = None
        length = 0
        for (seconds, _), tier in reversed(list(zip(TIERS, self._tiers, strict=True))):
            at = next(iter(tier), None)
            # The step of a finer tier says it better, where that reaches as far back.
            if at is not None and (found is None or at * seconds < found + length):
                found, length = at * seconds, seconds
        return None if found is None else found * 1000

    def span(self, from_ms: int, to_ms: int) -> Mapping[str, Any]:
        """Return the series of a span: `step_ms`, `at_ms` of the steps there are, and the values of each series."""
        # The finest that reaches back to the span's beginning, or to that of all that is known.
        begin = max(from_ms, self.first_ms() or 0)
        fits = [at for at, (seconds, steps) in enumerate(TIERS) if (self._now - seconds * steps) * 1000 <= begin]
        at = fits[0] if fits else len(TIERS) - 1
        seconds = TIERS[at][0]
        steps = sorted(item for item in self._tiers[at].items() if from_ms <= item[0] * seconds * 1000 < to_ms)
        return {
            "step_ms": seconds * 1000,
            "at_ms": [key * seconds * 1000 for key, _ in steps],
            **{name: [step.shown(index) for _, step in steps] for index, name in enumerate(SERIES)},
        }

    def unkept(self) -> Remembered:
        """Return what has changed since the last call, to be kept; what cannot be is given back by `not_kept`."""
        changed, self._changed = self._changed, set()
        events, self._events_changed = self._events_changed, False
        return self._remembered(changed, events=events)

    def not_kept(self, news: Remembered) -> None:
        """Take back what could not be kept: the next `unkept` has it again."""
        numbers = {seconds: number for number, (seconds, _) in enumerate(TIERS)}
        for step in news.steps:
            key = (numbers[step.seconds], step.at // step.seconds)
            if key[1] in self._tiers[key[0]]:
                self._changed.add(key)
        self._events_changed |= news.events is not None

    def everything(self) -> Remembered:
        """Return all there is, for a store that has lost what it had."""
        return self._remembered({(number, key) for number, tier in enumerate(self._tiers) for key in tier}, events=True)

    def _remembered(self, keys: set[tuple[int, int]], *, events: bool) -> Remembered:
        steps = [
            KeptStep(
                TIERS[number][0], key * TIERS[number][0],
                {name: sums for index, name in enumerate(SERIES) if (sums := self._tiers[number][key].of(index))[0]},
            )
            for number, key in sorted(keys)
        ]  # fmt: skip
        kept = list(self._events) if events else None
        return Remembered(steps, kept, self._told_us, self._source, self.source_since_ms)

    def restore(self, kept: Remembered) -> None:
        """Take what an earlier dashboard kept, before the first observation. Steps of tiers that are no more are left
        out."""
        for number, (seconds, steps) in enumerate(TIERS):
            mine = sorted((one for one in kept.steps if one.seconds == seconds), key=lambda one: one.at)[-steps:]
            for one in mine:
                step = self._tiers[number].setdefault(one.at // seconds, _Step())
                for index, name in enumerate(SERIES):
                    if name in one.sums:
                        step.take(index, *one.sums[name])
        self._events.extend(kept.events or ())
        self._told_us, self._source, self.source_since_ms = kept.told_us, kept.source, kept.source_since_ms


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
