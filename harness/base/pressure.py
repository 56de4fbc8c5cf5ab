"""PSI text -> Pressure, and what counts as too much of it (contract K1, K2).

PSI is the share of wall time, in percent, in which some (or all) tasks were stalled waiting for a resource. It is
not utilisation: a busy computer on which nobody has to wait has a pressure of zero.

What cannot be read is `Unknown`, which is neither pressure nor the absence of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

LIMITS = {"cpu": 20.0, "memory": 10.0, "io": 15.0}
"""Percent of the last ten seconds in which some task waited; more than that is pressure (K1)."""

RESOURCES = tuple(LIMITS)

_LINE = re.compile(r"(some|full) avg10=(\S+) avg60=(\S+) avg300=(\S+) total=(\d+)")


@dataclass(frozen=True)
class PressureLine:
    """One line of one file under /proc/pressure."""

    raw: str
    """As the kernel wrote it, without the newline."""
    avg10: float
    """Percent of the last ten seconds, 0 to 100."""
    avg60: float
    """Likewise of the last minute."""
    total_us: int
    """Microseconds of stall since boot, or since the cgroup was made."""


@dataclass(frozen=True)
class Pressure:
    """All lines of one look, as `cpu_some`, `cpu_full`, `memory_some`, ... A kernel before 5.13 has no `cpu_full`."""

    lines: Mapping[str, PressureLine]

    def some(self, resource: str) -> float:
        """Return the percentage of the last ten seconds in which some task waited for `resource` (cpu, memory, io)."""
        return self.lines[f"{resource}_some"].avg10

    def some_minute(self, resource: str) -> float:
        """Return the percentage of the last minute in which some task waited for `resource`."""
        return self.lines[f"{resource}_some"].avg60

    def exceeded(self) -> list[str]:
        """Return each limit that is strictly exceeded, as text such as `CPU 58.8 > 20`; empty when none is."""
        return [
            f"{resource.upper()} {self.some(resource):g} > {limit:g}"
            for resource, limit in LIMITS.items()
            if self.some(resource) > limit
        ]


@dataclass(frozen=True)
class Unknown:
    """The pressure could not be learned."""

    reason: str


def parse(texts: Mapping[str, str]) -> Pressure | Unknown:
    """Return the contents of /proc/pressure/cpu, memory and io (keys `cpu`, `memory`, `io`) as Pressure, or Unknown.

    Unknown when a file is missing, lacks its `some` line, or holds what is not PSI: the reason names the file.
    """
    lines: dict[str, PressureLine] = {}
    for resource in RESOURCES:
        if resource not in texts:
            return Unknown(f"{resource}: missing")
        for raw in texts[resource].splitlines():
            match = _LINE.fullmatch(raw.strip())
            averages = [_percent(text) for text in match.group(2, 3, 4)] if match else []
            known = [value for value in averages if value is not None]
            if match is None or known != averages:
                return Unknown(f"{resource}: not a line of PSI: {raw[:120]!r}")
            avg10, avg60, _ = known
            lines[f"{resource}_{match[1]}"] = PressureLine(raw.strip(), avg10, avg60, int(match[5]))
        if f"{resource}_some" not in lines:
            return Unknown(f"{resource}: no `some` line")
    return Pressure(lines)


def stalled(before: Pressure | Unknown | None, after: Pressure | Unknown, seconds: float) -> dict[str, float] | Unknown:
    """Return the percentage of the `seconds` between two looks in which some task waited, for each resource.

    Exact, where avg10 is an average that lags behind. before: None for what did not exist yet. Unknown when a look is.
    """
    if isinstance(before, Unknown):
        return before
    if isinstance(after, Unknown):
        return after
    found = {}
    for resource in RESOURCES:
        name = f"{resource}_some"
        old, new = before.lines[name].total_us if before else 0, after.lines[name].total_us
        # A unit that was restarted meanwhile counts from zero.
        grown = new - old if new >= old else new
        found[resource] = min(100.0, grown / 1e4 / seconds)
    return found


def facts(reading: Pressure | Unknown) -> dict[str, object]:
    """Return what a decision line says of a reading (K6): raw lines and parsed averages, or that it is unknown and
    why."""
    if isinstance(reading, Unknown):
        return {"psi": "unknown", "psi_error": reading.reason}
    found: dict[str, object] = {}
    for name, line in reading.lines.items():
        found[f"{name}_raw"] = line.raw
        found[f"{name}_avg10"] = line.avg10
    return found


def _percent(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0.0 <= value <= 100.0 else None
