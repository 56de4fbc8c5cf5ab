"""Two looks -> rates, and what is said of them (contract K2)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import pressure
from harness.base.pressure import Pressure, Unknown
from harness.diagnosis import diagnosis
from harness.diagnosis.diagnosis import (
    NO_UNIT,
    ComputerSnapshot,
    DeviceCount,
    Facts,
    Interval,
    ProcessCount,
    UnitCount,
    compare,
    words,
)

ENGINE, HOG = "hybrid-engine.service", "hog.service"

FACTS = Facts(
    at="2026-01-09T16:17:49.000000Z", host="box", kernel="Linux 6.8", cpus=4, uptime_secs=1_259_760.0,
    load=(6.38, 6.37, 6.79), memory_total=16 * 2**30, memory_available=2 * 2**30, swap_total=4 * 2**30,
    swap_used=900 * 2**20, disks=[("/", 143 * 2**30, 233 * 2**30)], engine=ENGINE, engine_state="active",
    systemd="none",
)  # fmt: skip


def psi(cpu: float = 0.0, memory: float = 0.0, io: float = 0.0) -> Pressure:
    """Counters that stand at so many seconds of stall."""
    lines = {
        name: f"some avg10=0.00 avg60=0.00 avg300=0.00 total={round(secs * 1e6)}"
        for name, secs in (("cpu", cpu), ("memory", memory), ("io", io))
    }
    found = pressure.parse(lines)
    assert isinstance(found, Pressure)
    return found


def unit(cpu_secs: float, memory: int = 2**20, io: int = 0, **stalled: float) -> UnitCount:
    return UnitCount(cpu_secs, memory, io, psi(**stalled))


def process(unit_name: str, cpu_secs: float, **fields: Any) -> ProcessCount:
    count = ProcessCount(
        started=1.0, name="sh", unit=unit_name, user_secs=cpu_secs, system_secs=0.0, waited_secs=0.0,
        rss_bytes=2**20, io_bytes=0,
    )  # fmt: skip
    return replace(count, **fields)


def look(at: float, stalled: Pressure | Unknown, **fields: Any) -> ComputerSnapshot:
    empty = ComputerSnapshot(
        at=at, cpu_busy_secs=0.0, cpu_iowait_secs=0.0, cpu_secs=4 * at, pressure=stalled, units={}, processes={},
        devices={},
    )  # fmt: skip
    return replace(empty, **fields)


def pressed_by_hog() -> Interval:
    """Ten seconds in which a hog takes three of four cores and the engine waits for one."""
    before = look(100.0, psi(), units={HOG: unit(0.0), ENGINE: unit(5.0)}, processes={7: process(HOG, 0.0)})
    after = look(
        110.0, psi(cpu=4.2), cpu_busy_secs=31.0,
        units={HOG: unit(30.0, cpu=4.0), ENGINE: unit(6.0, cpu=1.5)}, processes={7: process(HOG, 29.0)},
    )  # fmt: skip
    return compare(FACTS, before, after)


@pytest.mark.claim("K2")
def test_K2_the_unit_that_takes_and_the_units_that_wait_are_told_apart() -> None:
    said = words(pressed_by_hog())
    assert "CPU is under pressure: in 42.0 % of the last 10.0 s some task waited for a processor (limit 20 %)." in said
    assert "hog.service (used 3.00 of 4 cores, mostly sh, PID 7) causes it." in said
    assert "Waiting: hog.service 40.0 %, hybrid-engine.service 15.0 % of the time." in said
    assert "Nobody else had to wait" not in said
    assert said.endswith("hybrid-engine.service itself used 0.10 cores and waited cpu 15.0 %, memory 0.0 %, io 0.0 % "
                         "of the time.")  # fmt: skip


@pytest.mark.claim("K2")
def test_K2_waiting_is_never_called_utilisation() -> None:
    for sample in (pressed_by_hog(), quiet()):
        shown = diagnosis.text(sample, colour=False).lower()
        assert "utili" not in shown
        assert "cpu usage" not in shown


def quiet() -> Interval:
    units = {ENGINE: unit(0.0)}
    return compare(FACTS, look(0.0, psi(), units=units), look(10.0, psi(cpu=0.1), units=units))


def test_a_quiet_computer_is_said_to_be_quiet() -> None:
    said = words(quiet())
    assert said.startswith(
        "No resource is under pressure. Over 10.0 s, the time in which some task waited: CPU 1.0 % (limit 20 %)"
    )
    assert "causes" not in said


@pytest.mark.claim("K1")
@pytest.mark.parametrize(("resource", "limit"), pressure.LIMITS.items())
def test_K1_a_limit_presses_only_above_it(resource: str, limit: float) -> None:
    at, above = (psi(**{resource: limit / 10 + more}) for more in (0.0, 0.001))
    for stalled, pressing in ((at, False), (above, True)):
        assert ("is under pressure: in" in words(compare(FACTS, look(0.0, psi()), look(10.0, stalled)))) == pressing


def test_pressure_that_is_over_is_not_called_present() -> None:
    late = pressure.parse(dict.fromkeys(pressure.RESOURCES, "some avg10=41.08 avg60=43.33 avg300=44.73 total=5000000"))
    said = words(compare(FACTS, look(0.0, late), look(10.0, late)))
    assert said.startswith("No resource is under pressure.")
    assert "still remembers more: CPU 41.08 > 20" in said


@pytest.mark.claim("K2")
@pytest.mark.parametrize("looks", [(Unknown("cpu: missing"), psi()), (psi(), Unknown("cpu: missing"))])
def test_K2_unreadable_pressure_is_unknown_and_never_zero(looks: tuple[Pressure | Unknown, Pressure | Unknown]) -> None:
    units = {HOG: UnitCount(9.0, None, None, Unknown("cpu: missing"))}
    sample = compare(FACTS, look(0.0, looks[0]), look(10.0, looks[1], units=units))
    said = words(sample)
    assert said.startswith("Pressure is unknown: cpu: missing. Most processor time went to hog.service")
    assert "No resource is under pressure" not in said
    shown = diagnosis.as_json(sample)
    assert shown["stalled"] is None
    (hog,) = shown["units"]
    assert hog["stalled"] is None
    assert hog["io_bytes_per_sec"] is None
    assert " unknown unknown unknown  hog.service" in diagnosis.text(sample, colour=False)


def test_memory_and_disk_have_causes_of_their_own() -> None:
    before = look(0.0, psi(), units={"big.service": unit(0.0), "copy.service": unit(0.0)})
    after = look(
        10.0, psi(memory=2.0, io=3.0),
        units={"big.service": unit(1.0, memory=13 * 2**30), "copy.service": unit(0.5, io=500 * 2**20)},
    )  # fmt: skip
    said = words(compare(FACTS, before, after))
    assert "big.service (holds 13.0 GiB of 16.0 GiB) causes it" in said
    assert "copy.service (moved 50.0 MiB a second) causes it" in said
    assert "Within its limit: CPU 0.0 %" in said


def test_two_that_take_alike_are_both_named() -> None:
    after = look(10.0, psi(cpu=9.0), units={"a.service": unit(19.0), "b.service": unit(18.0), "c.service": unit(1.0)})
    said = words(compare(FACTS, look(0.0, psi()), after))
    assert "a.service (used 1.90 of 4 cores) and b.service (used 1.80 of 4 cores) cause it." in said


def test_a_hog_that_only_hinders_itself_is_told_from_one_that_hinders_others() -> None:
    before = look(0.0, psi(), units={HOG: unit(0.0), ENGINE: unit(0.0)})
    after = look(10.0, psi(cpu=9.0), units={HOG: unit(30.0, cpu=9.0), ENGINE: unit(0.1)})
    assert "Nobody else had to wait." in words(compare(FACTS, before, after))


def test_what_cannot_be_seen_is_not_blamed_on_what_can() -> None:
    after = look(10.0, psi(cpu=9.0), cpu_busy_secs=40.0, units={"a.service": unit(5.0)})
    assert "Of 4.00 cores in use, 3.50 went to what cannot be seen" in words(compare(FACTS, look(0.0, psi()), after))


def test_without_cgroups_the_processes_are_added_up() -> None:
    before = look(0.0, psi(), processes={1: process(NO_UNIT, 5.0), 2: process("a.service", 0.0)})
    after = look(
        10.0, psi(cpu=9.0),
        processes={
            1: process(NO_UNIT, 5.0, started=2.0), 2: process("a.service", 1.0), 3: process("a.service", 6.0),
        },
    )  # fmt: skip
    sample = compare(FACTS, before, after)
    # PID 1 is another process than before: all of its time is of this window.
    assert {unit.name: unit.cores for unit in sample.units} == {"a.service": 0.7, NO_UNIT: 0.5}
    assert "a.service (used 0.70 of 4 cores, mostly sh, PID 3)" in words(sample)


def test_a_process_in_no_unit_is_named_itself() -> None:
    after = look(10.0, psi(cpu=9.0), processes={4: process(NO_UNIT, 15.0, name="rg")})
    said = words(compare(FACTS, look(0.0, psi()), after))
    assert "What runs in no unit (used 1.50 of 4 cores, mostly rg, PID 4) causes it." in said


def test_a_unit_that_was_restarted_counts_from_zero() -> None:
    before = look(0.0, psi(), units={HOG: unit(100.0, cpu=50.0)})
    sample = compare(FACTS, before, look(10.0, psi(), units={HOG: unit(5.0, cpu=1.0)}))
    (hog,) = sample.units
    assert hog.cores == 0.5
    assert hog.stalled is not None
    assert hog.stalled["cpu"] == pytest.approx(10.0)


def test_a_unit_that_began_meanwhile_counts_from_zero() -> None:
    sample = compare(FACTS, look(0.0, psi()), look(10.0, psi(), units={HOG: unit(5.0, cpu=1.0)}))
    (hog,) = sample.units
    assert hog.cores == 0.5
    assert hog.stalled == {"cpu": pytest.approx(10.0), "memory": 0.0, "io": 0.0}


def test_devices_and_waits() -> None:
    unused = DeviceCount(0, 0, 0, 0, 0)
    before = look(
        0.0, psi(), processes={5: process(HOG, 0.0)}, devices={"vda": DeviceCount(0, 0, 10, 50, 0), "loop0": unused},
    )  # fmt: skip
    after = look(
        10.0, psi(), cpu_iowait_secs=4.0, processes={5: process(HOG, 0.0, waited_secs=5.0, io_bytes=100)},
        devices={"vda": DeviceCount(1000, 2000, 20, 100, 5000), "loop0": unused},
    )  # fmt: skip
    sample = compare(FACTS, before, after)
    assert sample.iowait_percent == 10.0
    (device,) = sample.devices
    assert (device.name, device.read_bytes_per_sec, device.wait_ms, device.busy_percent) == ("vda", 100.0, 5.0, 50.0)
    (one,) = sample.processes
    assert (one.waited_percent, one.io_bytes_per_sec) == (50.0, 10.0)


@pytest.mark.parametrize(
    ("cgroups", "name"),
    [
        ("0::/system.slice/hybrid-engine.service\n", ENGINE),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/dbus.service\n", "user@1000.service/dbus.service"),
        ("0::/system.slice/docker-abc.scope/nested\n", "docker-abc.scope"),
        # Hybrid: systemd's own hierarchy says the same, and is all there is when v2 is not mounted.
        (
            "9:name=systemd:/system.slice/cron.service\n8:pids:/x.service\n0::/system.slice/cron.service\n",
            "cron.service",
        ),
        ("9:name=systemd:/system.slice/cron.service\n0::/\n", "cron.service"),
        ("0::/system.slice/a:b.service\n", "a:b.service"),
        # Whoever has a cgroup delegated may call one below it as they like.
        ("0::/user.slice/user@1000.service/a\u2028b\x0b\x85c/d.scope\n", "user@1000.service/d.scope"),
        ("0::/../..\n", NO_UNIT),
        ("0::/user.slice\n", NO_UNIT),
        ("", NO_UNIT),
    ],
)
def test_the_unit_of_a_process(cgroups: str, name: str) -> None:
    assert diagnosis.unit_of(cgroups) == name


def test_the_report_is_80_columns_wide_and_the_conclusion_last() -> None:
    shown = diagnosis.text(pressed_by_hog(), colour=False)
    assert max(map(len, shown.splitlines())) < 80
    assert "\x1b" not in shown
    sections = [line for line in shown.splitlines() if line.startswith("---")]
    assert len(sections) == 11
    assert sections[-1] == "--- 11. Conclusion ---"
    assert "\x1b[1m--- 1. Time ---\x1b[0m" in diagnosis.text(pressed_by_hog(), colour=True)
    assert json.loads(json.dumps(diagnosis.as_json(pressed_by_hog())))["conclusion"] == words(pressed_by_hog())


def busy() -> Interval:
    """Ten seconds in which all that is counted has moved, from counters that did not begin at zero."""
    before = look(
        50.0, psi(cpu=1.0, memory=2.0, io=3.0), cpu_busy_secs=1000.0, cpu_iowait_secs=30.0,
        units={
            HOG: unit(40.0, 3 * 2**30, 7 * 2**20, cpu=1.0), ENGINE: unit(5.0),
            "gone.service": unit(1.0), "mute.service": UnitCount(None, None, None, Unknown("gone")),
        },
        processes={
            7: process(HOG, 30.0, name="hog", system_secs=3.0, waited_secs=2.0, io_bytes=4096),
            8: process(ENGINE, 2.0, name="python", waited_secs=None, io_bytes=None),
            9: process("mute.service", 1.0, name="a-name-that-is-cut", system_secs=1.0, rss_bytes=5 * 2**20),
            11: process(HOG, 1.0), 12: process("mute.service", 4.0, io_bytes=2048),
        },
        devices={"vda": DeviceCount(1000, 5000, 10, 50, 100), "vdb": DeviceCount(1, 1, 5, 5, 1),
                 "sr0": DeviceCount(0, 0, 0, 0, 0)},
    )  # fmt: skip
    after = look(
        60.0, psi(cpu=6.0, memory=2.5, io=3.1), cpu_busy_secs=1030.0, cpu_iowait_secs=34.0,
        units={
            HOG: replace(unit(60.0, 4 * 2**30, 27 * 2**20), pressure=psi(cpu=5.0, io=0.2)),
            ENGINE: unit(7.5, 2 * 2**20, 1024, cpu=0.75),
            "mute.service": UnitCount(None, None, None, Unknown("gone")), "idle.service": unit(0.0, memory=7),
        },
        processes={
            7: process(HOG, 48.0, name="hog", system_secs=4.5, waited_secs=5.0, rss_bytes=3 * 2**30, io_bytes=8192),
            8: process(ENGINE, 4.0, name="python", waited_secs=None, io_bytes=None),
            9: process("mute.service", 2.0, name="a-name-that-is-cut", system_secs=1.5, rss_bytes=6 * 2**20,
                       io_bytes=10240),
            # Another process than before that had its PID.
            11: process(NO_UNIT, 0.5, started=2.0, waited_secs=2.0, io_bytes=100),
            12: process("mute.service", 4.0, io_bytes=4096),
        },
        devices={"vda": DeviceCount(11_000, 7048, 30, 250, 6100), "vdb": DeviceCount(1, 1, 5, 5, 99_999_999),
                 "sr0": DeviceCount(0, 0, 0, 0, 0), "new": DeviceCount(1, 1, 1, 1, 1)},
    )  # fmt: skip
    return compare(replace(FACTS, disks=[*FACTS.disks, ("/empty", 0, 0)]), before, after)


def test_each_rate_is_what_the_counters_grew_by_in_the_window() -> None:
    sample = busy()
    assert (sample.window_secs, sample.cores_busy, sample.iowait_percent) == (10.0, 3.0, 10.0)
    assert sample.stalled == {"cpu": pytest.approx(50.0), "memory": pytest.approx(5.0), "io": pytest.approx(1.0)}
    assert [(one.pid, one.user_cores, one.system_cores, one.waited_percent, one.rss_bytes, one.io_bytes_per_sec)
            for one in sample.processes] == [
        (7, 1.8, 0.15, pytest.approx(30.0), 3 * 2**30, 409.6), (8, 0.2, 0.0, None, 2**20, None),
        (9, 0.1, 0.05, 0.0, 6 * 2**20, 1024.0), (11, 0.05, 0.0, 20.0, 2**20, 10.0), (12, 0.0, 0.0, 0.0, 2**20, 204.8),
    ]  # fmt: skip
    assert [(one.name, one.cores, one.memory_bytes, one.io_bytes_per_sec, one.stalled) for one in sample.units] == [
        (HOG, 2.0, 4 * 2**30, 2 * 2**20, pytest.approx({"cpu": 40.0, "memory": 0.0, "io": 2.0})),
        (ENGINE, 0.25, 2 * 2**20, 102.4, pytest.approx({"cpu": 7.5, "memory": 0.0, "io": 0.0})),
        ("mute.service", pytest.approx(0.15), 7 * 2**20, 1228.8, None),
        (NO_UNIT, 0.05, 2**20, 10.0, None),
        ("idle.service", 0.0, 7, 0.0, {"cpu": 0.0, "memory": 0.0, "io": 0.0}),
    ]
    assert [(one.name, one.read_bytes_per_sec, one.written_bytes_per_sec, one.wait_ms, one.busy_percent)
            for one in sample.devices] == [
        ("vda", 1000.0, 204.8, 10.0, 60.0), ("vdb", 0.0, 0.0, 0.0, 100.0),
    ]  # fmt: skip


REPORT = """\
--- 1. Time ---
2026-01-09T16:17:49.000000Z

--- 2. Host and kernel ---
box
Linux 6.8

--- 3. Uptime and load ---
up 14 days, 13:56, load 6.38 6.37 6.79
3.00 of 4 cores in use over 10.0 s

--- 4. Pressure (PSI): percent of the time in which some task waited ---
cpu      50.0 %, limit 20 %
memory    5.0 %, limit 10 %
io        1.0 %, limit 15 %
cpu_some     some avg10=0.00 avg60=0.00 avg300=0.00 total=6000000
memory_some  some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000
io_some      some avg10=0.00 avg60=0.00 avg300=0.00 total=3100000

--- 5. Memory ---
14.0 GiB of 16.0 GiB used, 2.0 GiB available; swap 900.0 MiB of 4.0 GiB

--- 6. Disks ---
 61 % of 233.0 GiB  /
  0 % of       0 B  /empty

--- 7. Processes over 10.0 s: cores (user, system), and the wait for one ---
    PID  user system  waited       RSS  name            unit
      7  1.80   0.15  30.0 %   3.0 GiB  hog             hog.service
      8  0.20   0.00 unknown   1.0 MiB  python          hybrid-engine.service
      9  0.10   0.05   0.0 %   6.0 MiB  a-name-that-is- mute.service
     11  0.05   0.00  20.0 %   1.0 MiB  sh              (no unit)
     12  0.00   0.00   0.0 %   1.0 MiB  sh              mute.service

--- 8. Units over 10.0 s: cores, and the part of the time they waited ---
cores    memory   I/O a s      cpu  memory      io  unit
 2.00   4.0 GiB   2.0 MiB   40.0 %   0.0 %   2.0 %  hog.service
 0.25   2.0 MiB     102 B    7.5 %   0.0 %   0.0 %  hybrid-engine.service
 0.15   7.0 MiB   1.2 KiB  unknown unknown unknown  mute.service
 0.05   1.0 MiB      10 B  unknown unknown unknown  (no unit)
 0.00       7 B       0 B    0.0 %   0.0 %   0.0 %  idle.service

--- 9. I/O wait over 10.0 s ---
processors were idle and waited for a disk in 10.0 % of their time
vda: read 1000 B/s, written 205 B/s, 10.0 ms a request, busy 60 %
vdb: read 0 B/s, written 0 B/s, 0.0 ms a request, busy 100 %

--- 10. systemd ---
hybrid-engine.service: active
failed units: none

--- 11. Conclusion ---
CPU is under pressure: in 50.0 % of the last 10.0 s some task waited for a
processor (limit 20 %). hog.service (used 2.00 of 4 cores, mostly hog, PID 7)
causes it. Waiting: hog.service 40.0 %, hybrid-engine.service 7.5 % of the
time. Within its limit: memory 5.0 % (limit 10 %), I/O 1.0 % (limit 15 %).
hybrid-engine.service itself used 0.25 cores and waited cpu 7.5 %, memory 0.0
%, io 0.0 % of the time."""


def test_the_report_has_everything_in_its_place() -> None:
    assert diagnosis.text(busy(), colour=False) == REPORT


def test_a_clock_that_does_not_count_makes_no_wait() -> None:
    still = compare(FACTS, look(0.0, psi(), cpu_secs=7.0), look(10.0, psi(), cpu_secs=7.0, cpu_iowait_secs=1.0))
    assert still.iowait_percent == 0.0
    slow = compare(FACTS, look(0.0, psi(), cpu_secs=7.0), look(10.0, psi(), cpu_secs=7.5, cpu_iowait_secs=0.25))
    assert slow.iowait_percent == 50.0


def test_a_name_that_is_too_long_for_a_line_is_not_broken() -> None:
    name = f"a-unit-{'x' * 80}.service"
    sample = compare(FACTS, look(0.0, psi()), look(10.0, psi(cpu=9.0), units={name: unit(30.0)}))
    conclusion = diagnosis.text(sample, colour=False).partition("Conclusion ---\n")[2]
    assert name in conclusion
    assert " ".join(conclusion.split()) == words(sample)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0:00"), (59.9, "0:00"), (60, "0:01"), (3599, "0:59"), (3600, "1:00"), (86_399, "23:59"),
     (86_400, "1 days, 0:00"), (90_061, "1 days, 1:01"), (10 * 86_400 + 3660, "10 days, 1:01")],
)  # fmt: skip
def test_how_long_it_is_up(seconds: float, told: str) -> None:
    facts = replace(FACTS, uptime_secs=seconds)
    assert f"up {told}," in diagnosis.text(compare(facts, look(0.0, psi()), look(1.0, psi())), colour=False)


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (2**20 - 1, "1024.0 KiB"), (2**20, "1.0 MiB"),
     (2**30, "1.0 GiB"), (2**40, "1.0 TiB"), (2**50, "1024.0 TiB")],
)  # fmt: skip
def test_a_size_is_told_in_its_unit(value: float, told: str) -> None:
    assert diagnosis.size(value) == told


@pytest.mark.parametrize(
    ("cores", "named"),
    [
        ((2.0, 1.0, 0.9), ["u0", "u1"]), ((1.0, 2.0, 0.99), ["u1", "u0"]), ((2.0, 0.99, 0.5), ["u0"]),
        ((1.0, 1.0, 1.0, 1.0), ["u0", "u1", "u2"]), ((0.0, 0.0), []), ((), []),
    ],
)  # fmt: skip
def test_who_takes_half_of_what_the_first_takes_is_named_too(cores: tuple[float, ...], named: list[str]) -> None:
    units = {f"u{number}": unit(10 * one, memory=10 - number) for number, one in enumerate(cores)}
    said = words(compare(FACTS, look(0.0, psi()), look(10.0, psi(cpu=9.0), cpu_busy_secs=sum(cores) * 10, units=units)))
    assert re.findall(r"(u\d) \(used", said) == named
    assert ("Which unit causes it cannot be seen." in said) == (not named)
    assert ("causes it." in said) == (len(named) == 1)


@pytest.mark.parametrize(
    ("busy_secs", "seen_secs", "told"),
    [(2.4, 0.0, False), (2.6, 0.0, True), (40.0, 30.0, False), (40.0, 29.9, True), (4.0, 1.6, False), (4.0, 1.4, True)],
)
def test_what_cannot_be_seen_is_told_when_it_is_a_quarter(busy_secs: float, seen_secs: float, told: bool) -> None:
    """Of what is in use, and of a core."""
    units = {"u": unit(seen_secs, memory=1, io=1)}
    for stalled, pressed in ((psi(cpu=9.0), told), (psi(memory=9.0), False)):
        after = look(10.0, stalled, cpu_busy_secs=busy_secs, units=units)
        assert ("cannot be seen from here" in words(compare(FACTS, look(0.0, psi()), after))) == pressed


def test_of_who_waits_the_three_longest_are_named_and_who_hardly_does_is_not() -> None:
    waits = {"a": 0.099, "b": 0.1, "c": 3.0, "d": 2.0, "e": 4.0}
    units = {name: unit(1.0, cpu=secs) for name, secs in waits.items()}
    said = words(compare(FACTS, look(0.0, psi()), look(10.0, psi(cpu=9.0), units=units)))
    assert "Waiting: e 40.0 %, c 30.0 %, d 20.0 % of the time." in said
    few = {name: units[name] for name in ("a", "b")}
    said = words(compare(FACTS, look(0.0, psi()), look(10.0, psi(cpu=9.0), units=few)))
    assert "Waiting: b 1.0 % of the time." in said


def test_of_memory_and_disk_who_takes_most_is_named_first() -> None:
    """Also where that is not the busiest."""
    units = {"busy": unit(9.0, memory=6 * 2**30, io=6000), "calm": unit(1.0, memory=8 * 2**30, io=8000)}
    for resource in ("memory", "io"):
        said = words(compare(FACTS, look(0.0, psi()), look(10.0, psi(**{resource: 9.0}), units=units)))
        assert re.findall(r"(busy|calm) \(", said) == ["calm", "busy"]
    said = words(compare(FACTS, look(0.0, psi()), look(10.0, psi(cpu=9.0), units=units)))
    assert re.findall(r"(busy|calm) \(", said) == ["busy"]


def test_json_has_all_that_the_report_has() -> None:
    shown = json.loads(json.dumps(diagnosis.as_json(busy())))
    assert shown["limits"] == {"cpu": 20.0, "memory": 10.0, "io": 15.0}
    assert shown["pressure"] == pressure.facts(busy().pressure)
    assert shown["stalled"] == pytest.approx({"cpu": 50.0, "memory": 5.0, "io": 1.0})
    assert shown["facts"]["disks"] == [["/", 143 * 2**30, 233 * 2**30], ["/empty", 0, 0]]
    assert [one["pid"] for one in shown["processes"]] == [7, 8, 9, 11, 12]
    unknown = diagnosis.as_json(replace(busy(), pressure=Unknown("gone"), stalled=Unknown("gone")))
    assert (unknown["pressure"], unknown["stalled"]) == ({"psi": "unknown", "psi_error": "gone"}, None)


def test_of_disk_and_memory_the_process_that_takes_most_is_named() -> None:
    processes = {
        1: process("u", 9.0, name="busy"), 2: process("u", 0.0, name="large", rss_bytes=9 * 2**20),
        3: process("u", 0.0, name="reads", io_bytes=9), 4: process("u", 0.0, name="secret", io_bytes=None),
    }  # fmt: skip
    for resource, name in (("cpu", "busy"), ("memory", "large"), ("io", "reads")):
        after = look(10.0, psi(**{resource: 9.0}), units={"u": unit(9.0, io=9)}, processes=processes)
        assert f", mostly {name}, PID" in words(compare(FACTS, look(0.0, psi()), after))


@given(st.floats(0, 2**60))
def test_sizes_are_short(value: float) -> None:
    assert len(diagnosis.size(value)) <= 13
