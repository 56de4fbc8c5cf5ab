"""`python -m harness diagnose`: which resource is under pressure, and which unit causes it.

Two snapshots, a window apart; diagnosis.py makes the report of them. Everything is read from /proc, the cgroup
tree and systemd, so that it works on a box where no sysstat is installed. It changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from harness.base import arguments, pressure, terminal
from harness.base.clock import Clock, OsClock
from harness.base.errors import HarnessError
from harness.diagnosis import diagnosis
from harness.diagnosis.diagnosis import ComputerSnapshot, DeviceCount, Facts, ProcessCount, UnitCount
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.observing import health, instances, observe
from harness.soak.decisions import timestamp

CGROUPS = Path("/sys/fs/cgroup")

COMMAND_SECS = 3.0
"""Deadline of a question to systemd: a diagnosis is wanted most when everything is slow."""

DESCRIPTION = """\
Watch this computer for some seconds and say which resource is under pressure and which unit causes it: PSI, load,
memory, disks, the busiest processes, the stall of each unit, I/O wait. Reads /proc, cgroups and systemd only."""

EPILOG = """\
Exit status: 0 whatever was found; 1 when nothing could be learned; 2 wrong usage.

examples:
  python -m harness diagnose
  python -m harness diagnose --window 3
  python -m harness diagnose --json | jq -r .conclusion
"""


def read_computer(clock: Clock, pressure_dir: Path, cgroups: Path) -> ComputerSnapshot:
    """Read every counter once. cgroups: where the cgroup file systems are mounted."""
    times = psutil.cpu_times()
    idle = times.idle + times.iowait
    # Guest time is counted in user time already.
    total = times.user + times.nice + times.system + times.irq + times.softirq + times.steal + idle
    return ComputerSnapshot(
        at=clock.monotonic(),
        cpu_busy_secs=total - idle - times.steal,
        cpu_iowait_secs=times.iowait,
        cpu_secs=total,
        pressure=observe.read_pressure(pressure_dir),
        units=_units(cgroups),
        processes=dict(_processes()),
        devices={
            name: DeviceCount(
                read_bytes=one.read_bytes,
                written_bytes=one.write_bytes,
                requests=one.read_count + one.write_count,
                request_ms=one.read_time + one.write_time,
                busy_ms=one.busy_time,
            )
            for name, one in (psutil.disk_io_counters(perdisk=True) or {}).items()
        },
    )


def _processes() -> Iterator[tuple[int, ProcessCount]]:
    # Not psutil.process_iter(), which keeps its objects and so may take a new process for an earlier one of that PID.
    for pid in psutil.pids():
        # A process may end before all was read.
        with suppress(psutil.Error, OSError):
            yield pid, _process(psutil.Process(pid))


def _process(process: psutil.Process) -> ProcessCount:
    proc = Path("/proc", str(process.pid))
    with process.oneshot():
        times = process.cpu_times()
        try:
            moved = process.io_counters()
            io = moved.read_bytes + moved.write_bytes
        except psutil.AccessDenied:
            io = None
        return ProcessCount(
            started=process.create_time(),
            name=process.name(),
            unit=diagnosis.unit_of((proc / "cgroup").read_text()),
            user_secs=times.user,
            system_secs=times.system,
            waited_secs=_waited(proc),
            rss_bytes=process.memory_info().rss,
            io_bytes=io,
        )


def _waited(proc: Path) -> float | None:
    """Return the seconds that the threads of a process were ready and did not run: sched-stats.rst, second field of
    schedstat."""
    try:
        texts = [(task / "schedstat").read_text() for task in (proc / "task").iterdir()]
        return sum(int(text.split()[1]) for text in texts) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def cgroup2(cgroups: Path) -> Path | None:
    """Return where cgroup v2 is mounted below `cgroups`: there itself, or beside v1 (hybrid); None when nowhere."""
    for root in (cgroups, cgroups / "unified"):
        if (root / "cgroup.controllers").exists():
            return root
    return None


def _units(cgroups: Path) -> dict[str, UnitCount]:
    root = cgroup2(cgroups)
    if root is None:
        return {}
    paths = [path for path, _, _ in os.walk(root) if diagnosis.unit_in(Path(path).name) != diagnosis.NO_UNIT]
    # A unit that runs a manager of its own is counted as the units of that.
    outer = {str(parent) for path in paths for parent in Path(path).parents}
    return {
        diagnosis.unit_in(str(Path(path).relative_to(root))): _unit(Path(path)) for path in paths if path not in outer
    }


def _unit(cgroup: Path) -> UnitCount:
    usage = _numbers(cgroup / "cpu.stat").get("usage_usec")
    memory = _text(cgroup / "memory.current")
    io = _text(cgroup / "io.stat")
    moved = [int(word.partition("=")[2]) for word in io.split() if word.startswith(("rbytes=", "wbytes="))]
    texts = {resource: _text(cgroup / f"{resource}.pressure") for resource in pressure.RESOURCES}
    return UnitCount(
        cpu_secs=None if usage is None else usage / 1e6,
        memory_bytes=int(memory) if memory else None,
        io_bytes=sum(moved) if (cgroup / "io.stat").exists() else None,
        pressure=pressure.parse({resource: text for resource, text in texts.items() if text}),
    )


def _text(path: Path) -> str:
    """Empty when it is not there, or no more."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _numbers(path: Path) -> dict[str, int]:
    return {name: int(number) for name, number in (line.split() for line in _text(path).splitlines())}


def _facts(shell: Shell, clock: Clock, engine: str) -> Facts:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    system = platform.uname()
    return Facts(
        at=timestamp(clock.wall()),
        host=system.node,
        kernel=f"{system.system} {system.release} {system.version} {system.machine}",
        cpus=psutil.cpu_count() or 1,
        uptime_secs=clock.wall() - psutil.boot_time(),
        load=psutil.getloadavg(),
        memory_total=memory.total,
        memory_available=memory.available,
        swap_total=swap.total,
        swap_used=swap.used,
        disks=[(mount, usage.used, usage.total) for mount, usage in _disks()],
        engine=engine,
        engine_state=_asked(lambda: str(observe.show(shell, engine, COMMAND_SECS))),
        systemd=_asked(lambda: _failed_units(shell)),
    )


def _disks() -> Iterator[tuple[str, Any]]:
    seen = set()
    for part in psutil.disk_partitions():
        if part.device in seen:
            continue  # The same file system, bound to another place.
        seen.add(part.device)
        try:
            yield part.mountpoint, psutil.disk_usage(part.mountpoint)
        except OSError:
            continue


def _failed_units(shell: Shell) -> str:
    listed = shell.run(
        "systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager", timeout_secs=COMMAND_SECS
    ).expect(0)
    return ", ".join(line.split()[0] for line in listed.stdout.splitlines() if line.strip()) or "none"


def _asked(question: Callable[[], str]) -> str:
    if not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return "unknown: systemd does not run here"
    try:
        return question()
    except HarnessError as error:
        return f"unknown: {str(error).splitlines()[0]}"


# --- command line ------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The diagnosis's options."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument(
        "--window", type=_window, default=10.0, metavar="SECONDS",
        help="how long to watch, 0.1 to 3600 (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    instances.add_argument(parser, unit=lambda one: one.unit)
    parser.add_argument("--unit", default=health.UNIT, help="the engine's unit (default: %(default)s)")
    parser.add_argument(
        "--pressure-dir", type=Path, default=observe.PRESSURE_DIR, help="directory of PSI files (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Read everything twice, and print what happened in between."""
    clock = OsClock()
    # What only reads leaves no record of its own: the report is the record.
    shell = Shell(Unrecorded())
    before = read_computer(clock, options.pressure_dir, CGROUPS)
    end = before.at + options.window
    with terminal.redrawn(sys.stderr) as show:
        while (left := end - clock.monotonic()) > 0:
            show(f"watching for {left:.0f} s more")
            clock.sleep(min(left, 1.0))
    after = read_computer(clock, options.pressure_dir, CGROUPS)
    sample = diagnosis.compare(_facts(shell, clock, options.unit), before, after)
    if options.json:
        print(json.dumps(diagnosis.as_json(sample), indent=1, ensure_ascii=False))
    else:
        print(diagnosis.text(sample, colour=terminal.coloured(sys.stdout)))
    return 0


def _window(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of seconds") from None
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: must be 0.1 to 3600 seconds")
    return value


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """`hybrid-diagnose`."""
    parser = arguments.CommandParser(prog="hybrid-diagnose")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
