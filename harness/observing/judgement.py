"""Is the engine well? One table of rules for everybody who asks: the healthcheck, the dashboard's /healthz, the start
of a soak (contract M5).

    what        is well when
    unit        systemd calls it active, and it has a process
    database    it can be read, and its newest tick is another than limit_secs() ago
    heartbeat   the present run's last is at most three of its intervals old
    books       the last heartbeat's numbers balance (M3)
    pressure    no limit of K1 is exceeded over ten seconds and over a minute as well

Engine and computer are different things: pressure alone says nothing against the engine, and that is said with it. A
moment of it, such as the start of a compiler, is not a fault of anything. What cannot be learned is not well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.base import jsontext
from harness.base.pressure import LIMITS, RESOURCES, Pressure, Unknown
from harness.base.unit import UnitState
from harness.evidence.checkers import equations

PROGRESS_SECS = 3.5
"""How long the database may take to show a new tick: twice the engine's default tick interval (0.5 s) and flush
interval (1 s), and half a second."""

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


def progress(still_secs: float, newest_id: int, limit_secs: float = PROGRESS_SECS) -> Finding:
    """Judge whether the database grows. still_secs: for how long its newest tick has been the same; limit_secs: as
    limit_secs() says."""
    if still_secs >= limit_secs:
        return Finding("database", False, f"no new tick within {still_secs:g} s, the last is {newest_id}")
    return Finding("database", True, f"its newest tick is {newest_id}")


def limit_secs(row_secs: float, flush_secs: float) -> float:
    """Return how long the database may take to show a new tick. row_secs: as row_secs() says; flush_secs: how long a
    tick may wait for others before it is stored."""
    return max(PROGRESS_SECS, 2 * (row_secs + flush_secs) + 0.5)


def row_secs(beats: Sequence[tuple[float, Mapping[str, object]]], sample_every: int, interval_secs: float) -> float:
    """Return in how many seconds an engine that samples has a tick to store, as its last two heartbeats tell.

    beats: seconds and fields of this run's, the newest last. sample_every: one tick in so many is stored.
    interval_secs: between heartbeats; what a run of one heartbeat has received is not known before the next. 0 for an
    engine that stores every tick or receives none.
    """
    if sample_every <= 1:
        return 0.0
    if len(beats) < 2:
        return interval_secs
    (before, told), (now, tells) = beats[-2:]
    received = [jsontext.number(fields.get("ingest_received")) or 0 for fields in (told, tells)]
    if now <= before or received[1] <= received[0]:
        return 0.0
    return sample_every * (now - before) / (received[1] - received[0])


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
