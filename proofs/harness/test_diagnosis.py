"""Two looks -> rates, and what is said of them (contract K2)."""

from __future__ import annotations

import json
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


@given(st.floats(0, 2**60))
def test_sizes_are_short(value: float) -> None:
    assert len(diagnosis.size(value)) <= 13
