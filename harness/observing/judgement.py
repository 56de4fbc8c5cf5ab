"""Is the engine well? One table of rules for everybody who asks: the healthcheck, the dashboard's /healthz, the start
of a soak (contract M5).

    what        is well when
    unit        systemd calls it active, and it has a process
    database    it can be read, and its newest tick is another than PROGRESS_SECS ago
    heartbeat   the present run's last is at most three of its intervals old
    books       the last heartbeat's numbers balance (M3)
    pressure    no limit of K1 is exceeded over ten seconds and over a minute as well

Engine and computer are different things: pressure alone says nothing against the engine, and that is said with it. A
moment of it, such as the start of a compiler, is not a fault of anything. What cannot be learned is not well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.base.pressure import LIMITS, RESOURCES, Pressure, Unknown
from harness.base.unit import UnitState
from harness.evidence.checkers import equations

PROGRESS_SECS = 3.5
"""How long the database may take to show a new tick: the engine's default tick interval (0.5 s) and flush interval
(1 s), and twice that again."""

HEARTBEAT_INTERVALS_MAX = 3
"""A heartbeat older than so many intervals is not fresh (G4)."""

BESIDE_THE_ENGINE = {"pressure", "dashboard"}
"""Checks that say nothing about the engine."""

NAMES = {"cpu": "CPU", "memory": "memory", "io": "I/O"}


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        return f"{'PASS' if self.ok else 'FAIL'} {self.name} {self.detail}"


def unit(state: UnitState) -> Finding:
    """Judge whether systemd calls the unit active."""
    return Finding("unit", state.active == "active" and state.main_pid != 0, str(state))


def progress(still_secs: float, newest_id: int) -> Finding:
    """Judge whether the database grows. still_secs: for how long its newest tick has been the same."""
    if still_secs >= PROGRESS_SECS:
        return Finding("database", False, f"no new tick within {still_secs:g} s, the last is {newest_id}")
    return Finding("database", True, f"its newest tick is {newest_id}")


def heartbeat(age_secs: float | None, interval_secs: float) -> Finding:
    """Judge whether the present run of the engine has logged a heartbeat within three of its intervals.

    age_secs: of the last one; None for none.
    """
    limit = HEARTBEAT_INTERVALS_MAX * interval_secs
    if age_secs is None:
        return Finding("heartbeat", False, f"none from this run of the engine within {limit:g} s")
    return Finding("heartbeat", age_secs <= limit, f"the last is {age_secs:.1f} s old, at most {limit:g} s")


def books(beat: Mapping[str, object]) -> list[Finding]:
    """Return one finding for each equation that a heartbeat breaks."""
    return [Finding("books", False, line.says) for line in equations(beat) if line.ok is False]


def pressure(reading: Pressure | Unknown) -> Finding:
    """Judge whether the computer's pressure is known and no limit is exceeded for long."""
    if isinstance(reading, Unknown):
        return Finding("pressure", False, f"unknown: {reading.reason}")
    over = [name for name in RESOURCES if reading.some(name) > LIMITS[name]]
    lasting = [name for name in over if reading.some_minute(name) > LIMITS[name]]
    if not over:
        shown = ", ".join(f"{NAMES[name]} {reading.some(name):g} % of {LIMITS[name]:g} %" for name in RESOURCES)
        return Finding("pressure", True, shown)
    shown = ", ".join(
        f"{NAMES[name]} {reading.some(name):g} % over 10 s and {reading.some_minute(name):g} % over 60 s, "
        f"limit {LIMITS[name]:g} %"
        for name in lasting or over
    )
    how = "is" if lasting else "was for a moment"
    return Finding("pressure", not lasting, f"the computer {how} under pressure: {shown}")


def whole(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, with a word for the engine where the computer alone is at fault."""
    failed = {finding.name for finding in findings if not finding.ok}
    if not failed <= BESIDE_THE_ENGINE:
        return list(findings)
    said = "; the engine itself is well"
    return [
        replace(one, detail=f"{one.detail}{said}") if one.name == "pressure" and not one.ok else one for one in findings
    ]
