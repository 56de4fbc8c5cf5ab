"""Two snapshots of a computer -> which resource was under pressure in between, and which unit caused it.

Three kinds of number that must not be taken for one another: *stall* is PSI, the percent of wall time in which some
task waited for a resource (contract K2); *cores* is processor time used, in whole processors; *waited* is the time a
process was ready to run and another one ran. What stalls is the victim, what uses is the cause, and often they differ.

What could not be learned is None and reads "unknown".
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.base import pressure
from harness.base.pressure import LIMITS, RESOURCES, Pressure, Unknown

NO_UNIT = "(no unit)"
"""What stands for processes that systemd runs in no unit: kernel threads, and all on a computer without systemd."""

SHOWN = 10
"""Rows of a table; JSON has all of them."""

WIDTH = 79
"""Of the report's lines."""

_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")


@dataclass(frozen=True)
class ProcessCount:
    """Counters of one process. Times in seconds since it began, sizes in bytes."""

    started: float
    """When it began, in seconds of any clock: tells it from a later one with the same PID."""
    name: str
    """Its short name. Never its command line, which may hold a secret."""
    unit: str
    user_secs: float
    system_secs: float
    waited_secs: float | None
    rss_bytes: int
    io_bytes: int | None
    """Read from and written to disks; None when only its owner may know."""


@dataclass(frozen=True)
class UnitCount:
    """Counters of one unit's cgroup; None for what its cgroup does not count."""

    cpu_secs: float | None
    memory_bytes: int | None
    io_bytes: int | None
    pressure: Pressure | Unknown


@dataclass(frozen=True)
class DeviceCount:
    """Counters of one block device since boot."""

    read_bytes: int
    written_bytes: int
    requests: int
    request_ms: int
    """Time that all requests together took."""
    busy_ms: int


@dataclass(frozen=True)
class ComputerSnapshot:
    """Everything that counts up, read at one moment."""

    at: float
    """Monotonic seconds."""
    cpu_busy_secs: float
    cpu_iowait_secs: float
    cpu_secs: float
    """Of all processors together, idle or not."""
    pressure: Pressure | Unknown
    units: Mapping[str, UnitCount]
    processes: Mapping[int, ProcessCount]
    devices: Mapping[str, DeviceCount]


@dataclass(frozen=True)
class Facts:
    """What does not count up. Sizes in bytes."""

    at: str
    """RFC 3339, UTC."""
    host: str
    kernel: str
    cpus: int
    uptime_secs: float
    load: tuple[float, float, float]
    """Tasks running or waiting, averaged over 1, 5 and 15 minutes."""
    memory_total: int
    memory_available: int
    swap_total: int
    swap_used: int
    disks: Sequence[tuple[str, int, int]]
    """(mount point, used, total) of each file system on a disk."""
    engine: str
    """The engine's unit."""
    engine_state: str
    """In words, as systemd tells it; or why that is unknown."""
    systemd: str
    """Failed units, by name; or why they are unknown."""


@dataclass(frozen=True)
class ProcessLoad:
    """One process over the window."""

    pid: int
    name: str
    unit: str
    user_cores: float
    system_cores: float
    waited_percent: float | None
    rss_bytes: int
    io_bytes_per_sec: float | None

    @property
    def cores(self) -> float:
        """Processors it used."""
        return self.user_cores + self.system_cores


@dataclass(frozen=True)
class UnitLoad:
    """One unit over the window."""

    name: str
    cores: float
    memory_bytes: int
    io_bytes_per_sec: float | None
    stalled: Mapping[str, float] | None
    """Percent of the window in which some task of it waited, for cpu, memory and io."""


@dataclass(frozen=True)
class DeviceLoad:
    """One block device over the window."""

    name: str
    read_bytes_per_sec: float
    written_bytes_per_sec: float
    wait_ms: float
    """Mean time of a request."""
    busy_percent: float


@dataclass(frozen=True)
class Interval:
    """What was seen of a computer over a window of time."""

    facts: Facts
    window_secs: float
    pressure: Pressure | Unknown
    """At the end of the window."""
    stalled: Mapping[str, float] | Unknown
    """Percent of the window in which some task waited, for cpu, memory and io."""
    cores_busy: float
    iowait_percent: float
    """Of the window, in which processors were idle and a disk had not answered yet."""
    units: Sequence[UnitLoad]
    """The busiest first."""
    processes: Sequence[ProcessLoad]
    """The busiest first."""
    devices: Sequence[DeviceLoad]


# --- from counters to rates --------------------------------------------------------------------------------


def unit_in(path: str) -> str:
    """Return the unit that a cgroup's path belongs to, NO_UNIT when none: `dbus.service`, and
    `user@1000.service/dbus.service` for what a manager inside a unit runs."""
    return "/".join(part for part in path.split("/") if part.endswith(_SUFFIXES)) or NO_UNIT


def unit_of(cgroups: str) -> str:
    """Return the unit in a /proc/<pid>/cgroup: by cgroup v2, else by systemd's own v1 hierarchy."""
    found = {}
    # At line feeds only: every other character may stand in a cgroup's name.
    for line in filter(None, cgroups.split("\n")):
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            found[controllers] = unit_in(path)
    return next((unit for _, unit in sorted(found.items()) if unit != NO_UNIT), NO_UNIT)


def compare(facts: Facts, before: ComputerSnapshot, after: ComputerSnapshot) -> Interval:
    """Return what happened between two snapshots. What began or was restarted meanwhile counts from zero."""
    window = after.at - before.at
    processes = []
    for pid, new in after.processes.items():
        old = before.processes.get(pid)
        known = old is not None and old.started == new.started
        processes.append(_process(pid, old if known else None, new, window))
    processes.sort(key=lambda one: one.cores, reverse=True)
    units = []
    for name in {*after.units, *(process.unit for process in processes)}:
        own = [process for process in processes if process.unit == name]
        units.append(_unit(name, before.units.get(name), after.units.get(name), own, window))
    units.sort(key=lambda one: (one.cores, one.memory_bytes), reverse=True)
    ticked = after.cpu_secs - before.cpu_secs
    return Interval(
        facts=facts,
        window_secs=window,
        pressure=after.pressure,
        stalled=pressure.stalled(before.pressure, after.pressure, window),
        cores_busy=(after.cpu_busy_secs - before.cpu_busy_secs) / window,
        iowait_percent=100 * (after.cpu_iowait_secs - before.cpu_iowait_secs) / ticked if ticked > 0 else 0.0,
        units=units,
        processes=processes,
        devices=[
            _device(name, before.devices[name], new, window)
            for name, new in after.devices.items()
            # Many a device is there and never used.
            if name in before.devices and new.requests
        ],
    )


def _process(pid: int, old: ProcessCount | None, new: ProcessCount, window: float) -> ProcessLoad:
    waited = _rate(old.waited_secs if old else 0.0, new.waited_secs, window)
    return ProcessLoad(
        pid=pid,
        name=new.name,
        unit=new.unit,
        user_cores=(new.user_secs - (old.user_secs if old else 0.0)) / window,
        system_cores=(new.system_secs - (old.system_secs if old else 0.0)) / window,
        waited_percent=None if waited is None else 100 * waited,
        rss_bytes=new.rss_bytes,
        io_bytes_per_sec=_rate(old.io_bytes if old else 0, new.io_bytes, window),
    )


def _unit(
    name: str, old: UnitCount | None, new: UnitCount | None, processes: Sequence[ProcessLoad], window: float
) -> UnitLoad:
    cores = memory = io = stalled = None
    if new is not None:
        cores = _rate(old.cpu_secs if old else 0.0, new.cpu_secs, window)
        memory = new.memory_bytes
        io = _rate(old.io_bytes if old else 0, new.io_bytes, window)
        found = pressure.stalled(old.pressure if old else None, new.pressure, window)
        stalled = None if isinstance(found, Unknown) else found
    if io is None:
        each = [process.io_bytes_per_sec for process in processes]
        known = [rate for rate in each if rate is not None]
        io = sum(known) if known and len(known) == len(each) else None
    return UnitLoad(
        name=name,
        # The cgroup also knows of processes that ended meanwhile.
        cores=sum(process.cores for process in processes) if cores is None else cores,
        memory_bytes=sum(process.rss_bytes for process in processes) if memory is None else memory,
        io_bytes_per_sec=io,
        stalled=stalled,
    )


def _device(name: str, old: DeviceCount, new: DeviceCount, window: float) -> DeviceLoad:
    requests = new.requests - old.requests
    return DeviceLoad(
        name=name,
        read_bytes_per_sec=(new.read_bytes - old.read_bytes) / window,
        written_bytes_per_sec=(new.written_bytes - old.written_bytes) / window,
        wait_ms=(new.request_ms - old.request_ms) / requests if requests > 0 else 0.0,
        busy_percent=min(100.0, (new.busy_ms - old.busy_ms) / window / 10),
    )


def _rate(old: float | None, new: float | None, window: float) -> float | None:
    if old is None or new is None:
        return None
    return (new - old if new >= old else new) / window


# --- in words ----------------------------------------------------------------------------------------------

_NAMES = {"cpu": "CPU", "memory": "memory", "io": "I/O"}
_AWAITED = {"cpu": "a processor", "memory": "memory", "io": "a disk"}

CALM_PERCENT = 1.0
"""Of the time; a unit that waits less is not said to wait."""


def words(sample: Interval) -> str:
    """Say which resource is under pressure, and which unit causes it, in sentences."""
    if isinstance(sample.stalled, Unknown):
        said = [f"Pressure is unknown: {sample.stalled.reason}."]
        if causes := _causes(sample, "cpu"):
            said.append(f"Most processor time went to {_listed(causes)}.")
        return " ".join([*said, _engine(sample)])
    stalled = sample.stalled
    pressed = [resource for resource in RESOURCES if stalled[resource] > LIMITS[resource]]
    said = [_pressed(sample, resource, stalled[resource]) for resource in pressed]
    calm = ", ".join(
        f"{_NAMES[resource]} {stalled[resource]:.1f} % (limit {LIMITS[resource]:g} %)"
        for resource in RESOURCES
        if resource not in pressed
    )
    if not pressed:
        said.append(
            "No resource is under pressure. "
            f"Over {sample.window_secs:.1f} s, the time in which some task waited: {calm}."
        )
        late = [] if isinstance(sample.pressure, Unknown) else sample.pressure.exceeded()
        if late:
            said.append(f"The kernel's average of the last 10 s still remembers more: {', '.join(late)}.")
    elif calm:
        said.append(f"Within its limit: {calm}.")
    return " ".join([*said, _engine(sample)])


def _pressed(sample: Interval, resource: str, stall: float) -> str:
    causes = _causes(sample, resource)
    title = _NAMES[resource]
    said = [
        f"{title[0].upper()}{title[1:]} is under pressure: "
        f"in {stall:.1f} % of the last {sample.window_secs:.1f} s some task "
        f"waited for {_AWAITED[resource]} (limit {LIMITS[resource]:g} %)."
    ]
    if causes:
        said.append(f"{_listed(causes)} {'causes' if len(causes) == 1 else 'cause'} it.")
    else:
        said.append("Which unit causes it cannot be seen.")
    unseen = sample.cores_busy - sum(unit.cores for unit in sample.units)
    if resource == "cpu" and unseen > max(0.25, 0.25 * sample.cores_busy):
        said.append(
            f"Of {sample.cores_busy:.2f} cores in use, {unseen:.2f} went to what cannot be seen from here: processes "
            "that have ended, or run outside this container."
        )
    waiting = {
        unit.name: unit.stalled[resource]
        for unit in sample.units
        if unit.stalled and unit.stalled[resource] >= CALM_PERCENT
    }
    longest = sorted(waiting, key=lambda name: waiting[name], reverse=True)[:3]
    if longest:
        said.append(f"Waiting: {', '.join(f'{name} {waiting[name]:.1f} %' for name in longest)} of the time.")
        if set(waiting) <= set(causes):
            said.append("Nobody else had to wait.")
    return " ".join(said)


_AMOUNTS: dict[str, Callable[[UnitLoad], float | None]] = {
    "cpu": lambda unit: unit.cores,
    "memory": lambda unit: float(unit.memory_bytes),
    "io": lambda unit: unit.io_bytes_per_sec,
}


def _causes(sample: Interval, resource: str) -> dict[str, str]:
    """Return the unit that takes most of a resource, and those that take at least half as much, with how much that
    is."""
    amounts = {unit.name: _AMOUNTS[resource](unit) or 0.0 for unit in sample.units}
    most = max(amounts.values(), default=0.0)
    causing = [name for name in amounts if most > 0 and amounts[name] >= most / 2]
    causing.sort(key=lambda name: amounts[name], reverse=True)
    return {
        name: f"{_amount(sample, resource, amounts[name])}{_mostly(sample, name, resource)}" for name in causing[:3]
    }


def _listed(causes: Mapping[str, str]) -> str:
    return " and ".join(
        f"{'What runs in no unit' if name == NO_UNIT else name} ({how})" for name, how in causes.items()
    )


def _mostly(sample: Interval, unit: str, resource: str) -> str:
    amounts: dict[str, Callable[[ProcessLoad], float]] = {
        "cpu": lambda process: process.cores,
        "memory": lambda process: float(process.rss_bytes),
        "io": lambda process: process.io_bytes_per_sec or 0.0,
    }
    own = [process for process in sample.processes if process.unit == unit]
    top = max(own, key=amounts[resource], default=None)
    return f", mostly {top.name}, PID {top.pid}" if top else ""


def _amount(sample: Interval, resource: str, value: float) -> str:
    if resource == "cpu":
        return f"used {value:.2f} of {sample.facts.cpus} cores"
    if resource == "memory":
        return f"holds {size(value)} of {size(sample.facts.memory_total)}"
    return f"moved {size(value)} a second"


def _engine(sample: Interval) -> str:
    name = sample.facts.engine
    own = next((unit for unit in sample.units if unit.name == name), None)
    if own is None:
        return f"{name} does not run here."
    if own.stalled is None:
        return f"How long {name} waited is unknown."
    shown = ", ".join(f"{resource} {own.stalled[resource]:.1f} %" for resource in RESOURCES)
    return f"{name} itself used {own.cores:.2f} cores and waited {shown} of the time."


# --- as a report -------------------------------------------------------------------------------------------


def text(sample: Interval, *, colour: bool) -> str:
    """Return the whole report, 80 columns wide; the conclusion stands last."""
    facts = sample.facts
    used = facts.memory_total - facts.memory_available
    over = f"over {sample.window_secs:.1f} s"
    sections = [
        ("Time", [facts.at]),
        ("Host and kernel", [facts.host, facts.kernel]),
        ("Uptime and load", [
            f"up {_uptime(facts.uptime_secs)}, load {' '.join(f'{value:.2f}' for value in facts.load)}",
            f"{sample.cores_busy:.2f} of {facts.cpus} cores in use {over}",
        ]),
        ("Pressure (PSI): percent of the time in which some task waited", _pressure_lines(sample)),
        ("Memory", [
            f"{size(used)} of {size(facts.memory_total)} used, {size(facts.memory_available)} available; "
            f"swap {size(facts.swap_used)} of {size(facts.swap_total)}"
        ]),
        ("Disks", [f"{_percent(used, total)} of {size(total):>9}  {mount}" for mount, used, total in facts.disks]),
        (f"Processes {over}: cores (user, system), and the wait for one", _process_lines(sample)),
        (f"Units {over}: cores, and the part of the time they waited", _unit_lines(sample)),
        (f"I/O wait {over}", [
            f"processors were idle and waited for a disk in {sample.iowait_percent:.1f} % of their time",
            *(f"{one.name}: read {size(one.read_bytes_per_sec)}/s, written {size(one.written_bytes_per_sec)}/s, "
              f"{one.wait_ms:.1f} ms a request, busy {one.busy_percent:.0f} %" for one in sample.devices),
        ]),
        ("systemd", [f"{facts.engine}: {facts.engine_state}", f"failed units: {facts.systemd}"]),
        ("Conclusion", textwrap.wrap(words(sample), WIDTH, break_on_hyphens=False, break_long_words=False)),
    ]  # fmt: skip
    bold, plain = ("\x1b[1m", "\x1b[0m") if colour else ("", "")
    shown = []
    for number, (title, lines) in enumerate(sections, start=1):
        shown.append("\n".join([f"{bold}--- {number}. {title} ---{plain}", *lines]))
    return "\n\n".join(shown)


def as_json(sample: Interval) -> dict[str, Any]:
    """Return everything in the report, ready for JSON; unknown is null."""
    found = asdict(sample)
    found["pressure"] = pressure.facts(sample.pressure)
    found["limits"] = dict(LIMITS)
    found["conclusion"] = words(sample)
    if isinstance(sample.stalled, Unknown):
        found["stalled"] = None
    return found


def size(value: float) -> str:
    """Return bytes for a human: `1.5 GiB`."""
    for letter in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {letter}" if letter == "B" else f"{value:.1f} {letter}"
        value /= 1024
    return f"{value:.1f} TiB"


def _pressure_lines(sample: Interval) -> list[str]:
    if isinstance(sample.stalled, Unknown):
        return [f"unknown: {sample.stalled.reason}"]
    if isinstance(sample.pressure, Unknown):
        return [f"unknown: {sample.pressure.reason}"]
    lines = [f"{name:<7} {sample.stalled[name]:5.1f} %, limit {LIMITS[name]:g} %" for name in RESOURCES]
    return [*lines, *(f"{name:<12} {line.raw}" for name, line in sample.pressure.lines.items())]


def _process_lines(sample: Interval) -> list[str]:
    lines = [f"{'PID':>7} {'user':>5} {'system':>6} {'waited':>7} {'RSS':>9}  {'name':<15} unit"]
    for one in sample.processes[:SHOWN]:
        waited = "unknown" if one.waited_percent is None else f"{one.waited_percent:.1f} %"
        lines.append(
            f"{one.pid:>7} {one.user_cores:5.2f} {one.system_cores:6.2f} {waited:>7} {size(one.rss_bytes):>9}  "
            f"{one.name[:15]:<15} {one.unit}"
        )
    return lines


def _unit_lines(sample: Interval) -> list[str]:
    lines = [f"{'cores':>5} {'memory':>9} {'I/O a s':>9}  {' '.join(f'{name:>7}' for name in RESOURCES)}  unit"]
    for one in sample.units[:SHOWN]:
        io = "unknown" if one.io_bytes_per_sec is None else size(one.io_bytes_per_sec)
        shown = (f"{'unknown' if one.stalled is None else f'{one.stalled[name]:.1f} %':>7}" for name in RESOURCES)
        lines.append(f"{one.cores:5.2f} {size(one.memory_bytes):>9} {io:>9}  {' '.join(shown)}  {one.name}")
    return lines


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0:3.0f} %"


def _uptime(seconds: float) -> str:
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{f'{days} days, ' if days else ''}{hours}:{minutes % 60:02}"
