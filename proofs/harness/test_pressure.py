"""PSI text -> Pressure (contract K1, K2)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import pressure
from harness.base.pressure import Pressure, Unknown


def psi(some: float, *, full: bool = True) -> str:
    text = f"some avg10={some:.2f} avg60=1.00 avg300=0.50 total=388424185368\n"
    return text + ("full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n" if full else "")


def reading(cpu: float = 0.0, memory: float = 0.0, io: float = 0.0) -> Pressure:
    found = pressure.parse({"cpu": psi(cpu), "memory": psi(memory), "io": psi(io)})
    assert isinstance(found, Pressure)
    return found


@pytest.mark.claim("K1")
@pytest.mark.parametrize(
    ("found", "exceeded"),
    [
        (reading(), []),
        (reading(cpu=20.0, memory=10.0, io=15.0), []),
        (reading(cpu=20.01), ["CPU 20.01 > 20"]),
        (reading(memory=10.01), ["MEMORY 10.01 > 10"]),
        (reading(io=15.01), ["IO 15.01 > 15"]),
        (reading(cpu=58.8, memory=100.0, io=99.0), ["CPU 58.8 > 20", "MEMORY 100 > 10", "IO 99 > 15"]),
    ],
)
def test_a_limit_is_exceeded_only_by_more_than_it(found: Pressure, exceeded: list[str]) -> None:
    assert found.exceeded() == exceeded


@pytest.mark.claim("K1", "K2")
def test_each_number_of_a_line_is_where_it_belongs() -> None:
    texts = {
        name: f"some avg10={10 * n}.25 avg60={n}.5 avg300=0.0 total={n}\n"
        "full avg10=0.00 avg60=100.00 avg300=0.00 total=9\n"
        for n, name in enumerate(pressure.RESOURCES)
    }
    found = pressure.parse(texts)
    assert isinstance(found, Pressure)
    for n, name in enumerate(pressure.RESOURCES):
        assert (found.some(name), found.some_minute(name)) == (10 * n + 0.25, n + 0.5)
        assert (found.lines[f"{name}_some"].total_us, found.lines[f"{name}_full"].total_us) == (n, 9)
        assert (found.lines[f"{name}_full"].avg10, found.lines[f"{name}_full"].avg60) == (0.0, 100.0)


@pytest.mark.claim("K6")
def test_K6_facts_are_raw_and_parsed() -> None:
    facts = pressure.facts(reading(cpu=62.33))
    assert facts["cpu_some_raw"] == "some avg10=62.33 avg60=1.00 avg300=0.50 total=388424185368"
    assert facts["cpu_some_avg10"] == 62.33
    assert facts["memory_full_raw"] == "full avg10=0.00 avg60=0.00 avg300=0.00 total=0"
    assert len(facts) == 12


def test_a_kernel_without_full_pressure_of_the_cpu_is_read() -> None:
    found = pressure.parse({"cpu": psi(3.0, full=False), "memory": psi(0.0), "io": psi(0.0)})
    assert isinstance(found, Pressure)
    assert "cpu_full" not in found.lines


@pytest.mark.claim("K2")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        "some avg10=nan avg60=0.00 avg300=0.00 total=0\n",
        "some avg10=-1.00 avg60=0.00 avg300=0.00 total=0\n",
        "some avg10=100.01 avg60=0.00 avg300=0.00 total=0\n",
        "some avg10=inf avg60=0.00 avg300=0.00 total=0\n",
        "some avg10=1.00 avg60=0.00\n",
        "some avg10=1.00 avg60=x avg300=0.00 total=0\n",
        "<html>",
    ],
)
@pytest.mark.parametrize("resource", pressure.RESOURCES)
def test_what_is_no_psi_is_unknown_and_named(text: str, resource: str) -> None:
    texts = {"cpu": psi(0), "memory": psi(0), "io": psi(0)} | {resource: text}
    found = pressure.parse(texts)
    assert isinstance(found, Unknown)
    assert found.reason.startswith(f"{resource}: ")
    assert pressure.facts(found) == {"psi": "unknown", "psi_error": found.reason}


@pytest.mark.claim("K2")
def test_K2_a_missing_file_is_unknown() -> None:
    assert pressure.parse({"cpu": psi(0), "memory": psi(0)}) == Unknown("io: missing")


@pytest.mark.claim("K2")
@given(st.text(max_size=200))
def test_any_text_is_either_read_or_unknown(text: str) -> None:
    found = pressure.parse({"cpu": text, "memory": psi(0), "io": psi(0)})
    if isinstance(found, Pressure):
        assert 0 <= found.some("cpu") <= 100


@pytest.mark.parametrize("broken", ["avg10", "avg60", "avg300"])
@pytest.mark.claim("K2")
def test_K2_each_average_must_be_one(broken: str) -> None:
    text = re.sub(rf"(?<={broken}=)[\d.]+", "101.00", psi(1.0, full=False))
    found = pressure.parse({"cpu": text, "memory": psi(0), "io": psi(0)})
    assert isinstance(found, Unknown)
    assert found.reason.startswith("cpu: not a line of PSI: ")


@pytest.mark.claim("K2")
@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [(100, 100, 0.0), (100, 1100, 10.0), (100, 10_100, 100.0), (100, 99_999, 100.0), (1000, 500, 5.0), (0, 1, 0.01)],
    ids=["nothing", "tenth", "all", "more-than-all", "counts-anew", "least"],
)
def test_K2_between_two_looks_it_is_the_part_of_the_time_that_was_waited(
    before: int, after: int, percent: float
) -> None:
    """Of ten milliseconds."""
    looks = [
        pressure.parse(dict.fromkeys(pressure.RESOURCES, psi(0).replace("388424185368", str(total))))
        for total in (before, after)
    ]
    assert pressure.stalled(looks[0], looks[1], 0.01) == pytest.approx(dict.fromkeys(pressure.RESOURCES, percent))


@pytest.mark.claim("K2")
def test_K2_what_did_not_exist_before_counts_from_zero() -> None:
    """To the microsecond: of a millisecond, 100 us are a tenth."""
    text = psi(0).replace("388424185368", "100")
    after = pressure.parse(dict.fromkeys(("cpu", "memory", "io"), text))
    assert pressure.stalled(None, after, 1e-3) == pytest.approx(dict.fromkeys(("cpu", "memory", "io"), 10.0))
