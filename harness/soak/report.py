"""Decisions and samples of one soak -> one self-contained HTML page with plots (contract K7).

A pure function: the same files give the same page. There is one clock on it, UTC to the second, whatever tells a time;
the instant itself stands behind it. Decisions that only repeat each other are folded. The plots can be zoomed into, and
the page brings its data along as CSV.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.base import jsontext
from harness.base.plots import NUMBER_ROOM, Mark, Series, figure
from harness.base.pressure import LIMITS, RESOURCES
from harness.soak import table
from harness.soak.decisions import Decision, SampleLine
from harness.soak.ladder import RUNGS

DETAIL = 8
"""How many times the plots can be stretched until a peak is lost."""

PERIOD_MAX, REPEATS_MIN = 4, 3
"""Of decisions that repeat each other: how many make one round (a stall, the restart, its exit...), and from how many
rounds on they are folded."""

CSV_EMBEDDED_MAX = 4_000_000
"""Bytes of CSV that a page brings along; who wants more asks the command for it."""

STILL_SECS = 30.0
"""A counter that has not changed for so long stands still; in less time there may have been no heartbeat."""

TIME_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""

OUTCOMES = ("COMPLETE", "STOP", "ABORT", "CONFIG_ERROR")


class _More(TypedDict, total=False):
    """What `figure` takes beside the lines."""

    limits: Mapping[str, float]
    ticks: Sequence[float]


@dataclass(frozen=True)
class DecisionRow:
    """One decision, ready to be shown."""

    number: int
    at: str
    """As the page's clock says it."""
    instant: str
    """As the log says it."""
    state: str
    sample_every: int
    action: str
    reason: str
    facts: str
    """What the line says beyond the envelope and PSI."""
    pressure: str


@dataclass(frozen=True)
class Repeated:
    """Decisions of which the page has shown one round already."""

    rows: Sequence[DecisionRow]
    rounds: int

    @property
    def actions(self) -> str:
        return ", ".join(row.action for row in self.rows[: len(self.rows) // self.rounds])


@dataclass(frozen=True)
class DataFile:
    """A table that the page brings along."""

    name: str
    lines: int
    address: str
    """A data: URL; empty where it is too large."""


def name_of(decisions: Sequence[Decision]) -> str:
    """Return the name of the report of a run, without an ending."""
    return f"soak_report_{decisions[0].timestamp[:10]}_{decisions[0].run_id[:8]}"


def render(decisions: Sequence[Decision], samples: Sequence[SampleLine]) -> str:
    """Render the page. decisions, samples: the lines of one run, in order; at least one decision."""
    begun = _seconds(decisions[0])
    ends = [*map(_seconds, decisions), *map(_seconds, samples)]
    length = max(ends) - begun
    days = datetime.fromtimestamp(begun, UTC).date() != datetime.fromtimestamp(max(ends), UTC).date()

    def clock(at: float) -> str:
        return f"{datetime.fromtimestamp(at, UTC):{'%m-%d %H:%M:%S' if days else '%H:%M:%S'}}"

    marks = [mark for number, line in enumerate(decisions, 1) if (mark := _mark(number, line, begun, clock))]
    rows = [_row(number, line, clock) for number, line in enumerate(decisions, 1)]
    outcome = next((line for line in reversed(decisions) if line.action in OUTCOMES), None)
    environment = Environment(
        loader=PackageLoader("harness.evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("soak.html.j2").render(
        outcome=outcome.action if outcome else "CUT OFF",
        reason=outcome.reason if outcome else "the log ends without an outcome: the controller was killed",
        facts=_facts(decisions, samples, length) | {"restarts": _restarts(marks)},
        charts=[Markup(svg) for svg in _charts(samples, begun, length, marks, clock)],
        rows=list(_folded(decisions, rows)),
        number_of_decisions=len(rows),
        files=_data(decisions, samples),
        span={"begun": begun, "seconds": max(length, 1.0), "days": days, "number_room": NUMBER_ROOM},
    )


def _folded(decisions: Sequence[Decision], rows: Sequence[DecisionRow]) -> Iterator[DecisionRow | Repeated]:
    """Yield each decision once, and what only repeats the ones before it together."""
    keys = [_key(line) for line in decisions]
    at = 0
    while at < len(rows):
        found = [
            (period, rounds)
            for period in range(1, PERIOD_MAX + 1)
            if (rounds := _rounds(keys, at, period)) >= REPEATS_MIN
        ]
        if not found:
            yield rows[at]
            at += 1
            continue
        period, rounds = max(found, key=lambda one: (one[0] * one[1], -one[0]))
        yield from rows[at : at + period]
        yield Repeated(rows[at + period : at + period * rounds], rounds - 1)
        at += period * rounds


def _key(line: Decision) -> tuple[object, ...]:
    """Return what two decisions have in common where one only repeats the other: all but the figures."""
    words = re.sub(r"\d+(\.\d+)?", "#", line.reason)
    facts = (line.facts.get(name) for name in ("soak_phase", "restarted_by"))
    return line.action, line.state, line.ingest_mode, words, *facts


def _rounds(keys: Sequence[object], at: int, period: int) -> int:
    rounds = 1
    while keys[at + rounds * period : at + (rounds + 1) * period] == keys[at : at + period]:
        rounds += 1
    return rounds


def _data(decisions: Sequence[Decision], samples: Sequence[SampleLine]) -> list[DataFile]:
    found = []
    made = {"decisions": table.decisions_table(decisions), "samples": table.samples_table(samples)}
    for kind, lines in (("decisions", len(decisions)), ("samples", len(samples))):
        text = table.as_csv(made[kind]).encode("utf-8", "replace")
        embedded = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text).decode()}"
        address = embedded if lines and len(text) <= CSV_EMBEDDED_MAX else ""
        found.append(DataFile(f"{name_of(decisions)}_{kind}.csv", lines, address))
    return found


def _facts(decisions: Sequence[Decision], samples: Sequence[SampleLine], length: float) -> dict[str, str]:
    first = decisions[0]
    ids = [newest for sample in samples if isinstance(newest := sample.facts.get("tick_id_max"), int)]
    facts = {
        "run": first.run_id,
        "started": f"{datetime.fromisoformat(first.timestamp).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "length": f"{length:.0f} s, {len(samples)} polls",
        "feed": " then ".join(dict.fromkeys(line.ingest_mode for line in decisions)),
        "PSI actions": first.psi_actions,
        "ticks stored": f"{max(ids) - min(ids)}" if ids else "unknown",
        "stalls": str(sum(line.action == "STALL" for line in decisions)),
    }
    unknown = sum("psi_error" in sample.facts for sample in samples)
    if unknown:
        facts["PSI unknown"] = f"in {unknown} of {len(samples)} polls"
    return facts


def _restarts(marks: Sequence[Mark]) -> str:
    by = Counter(mark.kind for mark in marks if mark.kind != "stall")
    return ", ".join(f"{count} by {kind}" for kind, count in by.items()) or "none"


def _charts(
    samples: Sequence[SampleLine], begun: float, length: float, marks: Sequence[Mark], clock: Callable[[float], str]
) -> list[str]:
    def series(name: str, key: str, scale: float = 1.0, *, stepped: bool = False) -> Series:
        points = [(_seconds(sample) - begun, _scaled(sample.facts.get(key), scale)) for sample in samples]
        return Series(name, points, stepped)

    rungs = [rung.sample_every for rung in RUNGS]
    every: list[tuple[str, str, list[Series], _More]] = [
        (
            "Ticks received and processed", "a second, as the heartbeats count them",
            [_rate(samples, begun, name, f"ingest_{name}") for name in ("received", "processed")],
            {},
        ),
        ("Ticks stored", "a second", [series("ticks/s", "ticks_per_sec")], {}),
        ("Resident memory", "MiB", [series("RSS", "rss_bytes", 2.0**-20)], {}),
        (
            "Pressure (PSI)", "% of the last 10 s in which some task waited",
            [series(name, f"{name}_some_avg10") for name in RESOURCES], {"limits": LIMITS},
        ),
        (
            "Rung", f"sample_every: {', '.join(f'{rung.name} {rung.sample_every}' for rung in RUNGS)}",
            [series("sample_every", "sample_every", stepped=True)], {"ticks": rungs},
        ),
        ("Event-loop lag", "ms, 99th percentile", [series("lag", "loop_lag_ms_p99", stepped=True)], {}),
    ]  # fmt: skip
    return [
        figure(
            title, lines, unit=unit, seconds=length, marks=marks, clock=lambda at: clock(begun + at), detail=DETAIL,
            **more,
        )
        for title, unit, lines, more in every
    ]  # fmt: skip


def _rate(samples: Sequence[SampleLine], begun: float, name: str, key: str) -> Series:
    """Return a counter of the heartbeats as a rate. It changes only with a heartbeat, if anything comes at all, and
    begins anew with each run of the engine, which is a gap."""
    points: list[tuple[float, float | None]] = []
    last: tuple[float, float] | None = None
    for sample in samples:
        at, count = _seconds(sample) - begun, sample.facts.get(key)
        if not isinstance(count, int | float):
            last = None
            points.append((at, None))
        elif last is None or count < last[1]:
            last = (at, float(count))
            points.append((at, None))
        elif count > last[1]:
            points.append((at, (count - last[1]) / (at - last[0])))
            last = (at, float(count))
        elif at - last[0] >= STILL_SECS:
            points.append((at, 0.0))
            last = (at, float(count))
    return Series(name, points)


def _mark(number: int, line: Decision, begun: float, clock: Callable[[float], str]) -> Mark | None:
    at = _seconds(line) - begun
    text = f"{clock(_seconds(line))} {line.action}: {line.reason}"
    match line.action:
        case "ENGINE_RESTART" if "soak_phase" not in line.facts:
            return Mark(at, "controller", text, number)
        case "ENGINE_EXIT" if line.facts.get("restarted_by") in ("systemd", "watchdog", "operator"):
            return Mark(at, str(line.facts["restarted_by"]), text, number)
        case "STALL":
            return Mark(at, "stall", text, number)
    return None


def _row(number: int, line: Decision, clock: Callable[[float], str]) -> DecisionRow:
    psi = {key for key in line.facts if key.endswith(("_raw", "_avg10")) or key in ("psi", "psi_error")}
    facts = {key: value for key, value in line.facts.items() if key not in psi}
    if "psi_error" in line.facts:
        pressure = f"unknown: {line.facts['psi_error']}"
    else:
        known = [(name, _scaled(line.facts.get(f"{name}_some_avg10"), 1.0)) for name in RESOURCES]
        pressure = ", ".join(f"{name} {value:g}" for name, value in known if value is not None)
    return DecisionRow(
        number=number,
        at=clock(_seconds(line)),
        instant=line.timestamp,
        state=line.state,
        sample_every=line.current_sample_every,
        action=line.action,
        reason=line.reason,
        facts=" ".join(f"{key}={_told(key, value, clock)}" for key, value in facts.items()),
        pressure=pressure,
    )


def _told(name: str, value: object, clock: Callable[[float], str]) -> object:
    """Return a fact as the page says it: a time of the engine's is milliseconds since the Unix epoch."""
    at = jsontext.whole(value) if name.endswith("_ts") else None
    return value if at is None or not 0 <= at <= TIME_MS_MAX else clock(at / 1000)


def _seconds(line: Decision | SampleLine) -> float:
    return datetime.fromisoformat(line.timestamp).timestamp()


def _scaled(value: object, scale: float) -> float | None:
    return float(value) * scale if isinstance(value, int | float) else None
