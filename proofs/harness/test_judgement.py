"""One judgement of health for healthcheck, /healthz and the start of a soak (contract M5, W4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.base import pressure
from harness.base.unit import UnitState
from harness.evidence.checkers import equations
from harness.observing import judgement
from harness.observing.judgement import Finding

RUNNING = UnitState("active", "running", "success", 42, 0, 0, 0, "b" * 32, "")


def psi(**cpu: float) -> pressure.Pressure | pressure.Unknown:
    ten, sixty = cpu.get("ten", 0.0), cpu.get("sixty", 0.0)
    calm, text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", f"avg10={ten:.2f} avg60={sixty:.2f}"
    return pressure.parse({"cpu": f"some {text} avg300=0.00 total=0", "memory": calm, "io": calm})


@pytest.mark.claim("M5", "W4")
@pytest.mark.parametrize(
    ("ten", "sixty", "ok", "says"),
    [
        (20.0, 20.0, True, "CPU 20 % of 20 %"),
        (20.01, 20.0, True, "the computer was for a moment under pressure: CPU 20.01 % over 10 s and 20 % over 60 s"),
        (100.0, 5.0, True, "the computer was for a moment under pressure"),
        (20.0, 100.0, True, "CPU 20 % of 20 %"),
        (
            20.01,
            20.01,
            False,
            "the computer is under pressure: CPU 20.01 % over 10 s and 20.01 % over 60 s, limit 20 %",
        ),
    ],
)
def test_pressure_alone_fails_only_when_it_lasts(ten: float, sixty: float, ok: bool, says: str) -> None:
    found = judgement.pressure(psi(ten=ten, sixty=sixty))
    assert found.ok is ok
    assert says in found.detail


@pytest.mark.claim("M5")
def test_what_is_not_known_is_not_well() -> None:
    assert judgement.pressure(pressure.Unknown("cpu: missing")) == Finding("pressure", False, "unknown: cpu: missing")
    assert not judgement.heartbeat(None, 10.0).ok
    assert equations({})[0].ok is None


@pytest.mark.claim("M5", "W4")
@pytest.mark.parametrize(
    ("beats", "sample_every", "secs"),
    [
        ([(0.0, 0), (10.0, 20)], 20, 10.0),
        ([(0.0, 7), (10.0, 20), (15.0, 30)], 3, 1.5),
        # Every tick is stored, none comes, the clock was set back: nothing explains why none is stored.
        ([(0.0, 0), (10.0, 20)], 1, 0.0),
        ([(0.0, 20), (10.0, 20)], 20, 0.0),
        ([(0.0, 20), (10.0, 3)], 20, 0.0),
        ([(10.0, 0), (10.0, 20)], 20, 0.0),
        ([(10.0, 0), (9.0, 20)], 20, 0.0),
        # How many come is not known before the second heartbeat.
        ([(0.0, 0)], 20, 4.0),
        ([], 20, 4.0),
        ([(0.0, 0)], 1, 0.0),
    ],
)
def test_an_engine_that_samples_has_a_row_to_store_now_and_then(
    beats: list[tuple[float, int]], sample_every: int, secs: float
) -> None:
    told = [(at, {"ingest_received": received}) for at, received in beats]
    assert judgement.row_secs(told, sample_every, 4.0) == secs


@pytest.mark.claim("M5", "W4")
@pytest.mark.parametrize(
    ("row_secs", "flush_secs", "limit_secs"),
    [(0.0, 1.0, 3.5), (0.5, 1.0, 3.5), (0.6, 1.0, 3.7), (10.0, 1.0, 22.5), (0.0, 5.0, 10.5), (0.0, 0.02, 3.5)],
)
def test_the_newest_tick_may_be_as_old_as_two_rows_and_their_flush(
    row_secs: float, flush_secs: float, limit_secs: float
) -> None:
    assert judgement.limit_secs(row_secs, flush_secs) == pytest.approx(limit_secs)
    assert judgement.progress(limit_secs - 0.1, 7, limit_secs) == Finding("database", True, "its newest tick is 7")
    old = Finding("database", False, f"no new tick within {limit_secs:g} s, the last is 7")
    assert judgement.progress(limit_secs, 7, limit_secs) == old


@pytest.mark.claim("M3")
def test_an_equation_is_what_its_numbers_are() -> None:
    beat = {
        "ticks_parsed": 19, "ingest_received": 12, "duplicates": 7, "ingest_processed": 9, "sampled_out": 3,
        "tick_count": 9, "tick_rows_written": 4, "tick_rows_known": 2, "tick_rows_queued": 1, "bp_drops_tick": 2,
        "bp_drops_persist": 0,
    }  # fmt: skip
    assert [(line.ok, line.number, line.says) for line in equations(beat)] == [
        (True, 19, "ticks parsed 19 = received + duplicates 19"),
        (True, 12, "received 12 = processed + sampled out 12"),
        (True, 9, "ticks 9 = processed 9"),
        (True, 9, "ticks 9 = written + known before + queued + dropped 9"),
    ]
    assert judgement.books(beat) == []
    broken = equations(beat | {"duplicates": 8})[0]
    assert (broken.ok, broken.number, broken.says) == (False, 19, "ticks parsed 19 ≠ received + duplicates 20")
    untold = equations({"ticks_parsed": 19, "duplicates": 8})[0]
    assert (untold.ok, untold.number) == (None, 19)


@pytest.mark.claim("W4")
def test_engine_and_computer_are_different_things() -> None:
    well, squeezed = judgement.unit(RUNNING), judgement.pressure(psi(ten=50.0, sixty=50.0))
    assert "; the engine itself is well" in judgement.whole([well, squeezed])[1].detail
    assert (
        "; the engine itself is well" in judgement.whole([well, Finding("dashboard", False, "503"), squeezed])[2].detail
    )
    down = judgement.unit(replace(RUNNING, active="failed"))
    assert judgement.whole([down, squeezed]) == [down, squeezed]
    assert judgement.whole([well, judgement.pressure(psi())]) == [well, judgement.pressure(psi())]


@pytest.mark.claim("M5")
def test_the_edges_of_the_rules() -> None:
    assert judgement.heartbeat(30.0, 10.0).ok
    assert not judgement.heartbeat(30.1, 10.0).ok
    assert judgement.progress(3.4, 7).ok
    assert judgement.progress(3.5, 7) == Finding("database", False, "no new tick within 3.5 s, the last is 7")
    assert not judgement.unit(replace(RUNNING, main_pid=0)).ok


@pytest.mark.claim("M3", "W4")
def test_books_that_do_not_balance_are_found() -> None:
    beat = {"ticks_parsed": 12, "ingest_received": 10, "duplicates": 2}
    assert judgement.books(beat) == []
    assert judgement.books({**beat, "duplicates": 1}) == [
        Finding("books", False, "ticks parsed 12 ≠ received + duplicates 11")
    ]
    assert judgement.books({**beat, "duplicates": 10**5000}) == []


@pytest.mark.claim("M5")
def test_a_finding_is_one_line_that_begins_with_its_outcome() -> None:
    assert [
        str(one) for one in (judgement.progress(3.4, 7), judgement.heartbeat(None, 10.0), judgement.unit(RUNNING))
    ] == [
        "PASS database its newest tick is 7",
        "FAIL heartbeat none from this run of the engine within 30 s",
        f"PASS unit {RUNNING}",
    ]


@pytest.mark.claim("M5", "W4")
@pytest.mark.parametrize("name", ["cpu", "memory", "io"])
def test_each_resource_has_its_limit_over_ten_seconds_and_over_sixty(name: str) -> None:
    limit, shown = {"cpu": (20, "CPU"), "memory": (10, "memory"), "io": (15, "I/O")}[name]

    def judged(ten: float, sixty: float) -> Finding:
        texts = dict.fromkeys(("cpu", "memory", "io"), "some avg10=1.00 avg60=1.00 avg300=0.00 total=0")
        return judgement.pressure(
            pressure.parse(texts | {name: f"some avg10={ten:.2f} avg60={sixty:.2f} avg300=0.00 total=0"})
        )

    assert judged(limit, limit + 1) == Finding(
        "pressure",
        True,
        ", ".join(
            f"{label} {limit if key == name else 1} % of {most} %"
            for key, label, most in (("cpu", "CPU", 20), ("memory", "memory", 10), ("io", "I/O", 15))
        ),
    )
    over = limit + 0.5
    assert judged(over, limit) == Finding(
        "pressure",
        True,
        f"the computer was for a moment under pressure: {shown} {over:g} % over 10 s and {limit} % over 60 s,"
        f" limit {limit} %",
    )
    assert judged(over, over) == Finding(
        "pressure",
        False,
        f"the computer is under pressure: {shown} {over:g} % over 10 s and {over:g} % over 60 s, limit {limit} %",
    )


@pytest.mark.claim("W4")
def test_of_several_resources_the_one_that_lasts_is_named() -> None:
    calm, lasting, moment = (
        f"some avg10={ten:.2f} avg60={sixty:.2f} avg300=0.00 total=0" for ten, sixty in ((0, 0), (30, 30), (30, 1))
    )
    found = judgement.pressure(pressure.parse({"cpu": moment, "memory": lasting, "io": calm}))
    assert found == Finding(
        "pressure", False, "the computer is under pressure: memory 30 % over 10 s and 30 % over 60 s, limit 10 %"
    )
    both = judgement.pressure(pressure.parse({"cpu": moment, "memory": moment, "io": calm}))
    assert (both.ok, both.detail.count(" over 10 s")) == (True, 2)
