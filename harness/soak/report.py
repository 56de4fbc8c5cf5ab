"""Decisions and samples of one soak -> one self-contained HTML page with plots (contract K7).

A pure function: the same files give the same page. Times on the page are seconds since the STARTUP decision, UTC
where they are times of day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.base.plots import Mark, Series, figure
from harness.base.pressure import LIMITS, RESOURCES
from harness.soak.decisions import Decision, SampleLine
from harness.soak.ladder import RUNGS

OUTCOMES = ("COMPLETE", "STOP", "ABORT", "CONFIG_ERROR")


class _More(TypedDict, total=False):
    """What `figure` takes beside the lines."""

    limits: Mapping[str, float]
    ticks: Sequence[float]


@dataclass(frozen=True)
class DecisionRow:
    """One decision, ready to be shown."""

    at: str
    """Time of day, UTC."""
    state: str
    sample_every: int
    action: str
    reason: str
    facts: str
    """What the line says beyond the envelope and PSI."""
    pressure: str


def render(decisions: Sequence[Decision], samples: Sequence[SampleLine]) -> str:
    """Render the page. decisions, samples: the lines of one run, in order; at least one decision."""
    begun = _seconds(decisions[0])
    spans = [at - begun for at in (*map(_seconds, decisions), *map(_seconds, samples))]
    length = max(spans)
    marks = [
        mark
        for number, line in enumerate(decisions, start=1)
        if (mark := _mark(number, line, _seconds(line) - begun)) is not None
    ]
    outcome = next((line for line in reversed(decisions) if line.action in OUTCOMES), None)
    environment = Environment(
        loader=PackageLoader("harness.evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("soak.html.j2").render(
        outcome=outcome.action if outcome else "CUT OFF",
        reason=outcome.reason if outcome else "the log ends without an outcome: the controller was killed",
        facts=_facts(decisions, samples, length) | {"restarts": _restarts(marks)},
        charts=[Markup(svg) for svg in _charts(samples, begun, length, marks)],
        rows=[_row(line) for line in decisions],
    )


def _facts(decisions: Sequence[Decision], samples: Sequence[SampleLine], length: float) -> dict[str, str]:
    first = decisions[0]
    ids = [newest for sample in samples if isinstance(newest := sample.facts.get("tick_id_max"), int)]
    facts = {
        "run": first.run_id,
        "started": f"{datetime.fromisoformat(first.timestamp):%Y-%m-%d %H:%M:%S} UTC",
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


def _charts(samples: Sequence[SampleLine], begun: float, length: float, marks: Sequence[Mark]) -> list[str]:
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
    return [figure(title, lines, unit=unit, seconds=length, marks=marks, **more) for title, unit, lines, more in every]


def _rate(samples: Sequence[SampleLine], begun: float, name: str, key: str) -> Series:
    """Return a counter of the heartbeats as a rate. It changes only with a heartbeat, and begins anew with each run of
    the engine, which is a gap."""
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
    return Series(name, points)


def _mark(number: int, line: Decision, at: float) -> Mark | None:
    text = f"{line.timestamp[11:19]} {line.action}: {line.reason}"
    match line.action:
        case "ENGINE_RESTART" if "soak_phase" not in line.facts:
            return Mark(at, "controller", text, number)
        case "ENGINE_EXIT" if line.facts.get("restarted_by") in ("systemd", "watchdog", "operator"):
            return Mark(at, str(line.facts["restarted_by"]), text, number)
        case "STALL":
            return Mark(at, "stall", text, number)
    return None


def _row(line: Decision) -> DecisionRow:
    psi = {key for key in line.facts if key.endswith(("_raw", "_avg10")) or key in ("psi", "psi_error")}
    facts = {key: value for key, value in line.facts.items() if key not in psi}
    if "psi_error" in line.facts:
        pressure = f"unknown: {line.facts['psi_error']}"
    else:
        known = [(name, _scaled(line.facts.get(f"{name}_some_avg10"), 1.0)) for name in RESOURCES]
        pressure = ", ".join(f"{name} {value:g}" for name, value in known if value is not None)
    return DecisionRow(
        at=line.timestamp[11:23],
        state=line.state,
        sample_every=line.current_sample_every,
        action=line.action,
        reason=line.reason,
        facts=" ".join(f"{key}={value}" for key, value in facts.items()),
        pressure=pressure,
    )


def _seconds(line: Decision | SampleLine) -> float:
    return datetime.fromisoformat(line.timestamp).timestamp()


def _scaled(value: object, scale: float) -> float | None:
    return float(value) * scale if isinstance(value, int | float) else None
