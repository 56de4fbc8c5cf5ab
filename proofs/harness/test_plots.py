"""Series -> SVG."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.plots import STRETCHED, Mark, Series, figure

DRAWINGS = Path(__file__).resolve().parents[1] / "fixtures/drawings"


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def points(html: str) -> list[list[tuple[float, float]]]:
    lines = [path.attrib["d"] for path in drawn(html).iter("path") if path.attrib["class"].startswith("line")]
    return [[(float(x), float(y)) for x, y in (pair.split() for pair in line[1:].split("L"))] for line in lines]


def test_what_is_unknown_is_a_gap() -> None:
    html = figure("t", [Series("a", [(0, 1.0), (1, 2.0), (2, None), (3, 2.0), (4, 1.0)])], unit="u", seconds=4)
    assert [len(line) for line in points(html)] == [2, 2]


def test_a_point_between_two_gaps_is_seen() -> None:
    """As a line of no length with round ends: a dot, however the drawing is stretched."""
    ((first, second),) = points(figure("t", [Series("a", [(0, None), (1, 2.0), (2, None)])], unit="u", seconds=2))
    assert first == second == (500.0, 0.0)


def test_a_stepped_series_holds_its_value() -> None:
    (line,) = points(figure("t", [Series("a", [(0, 1.0), (10, 5.0)], stepped=True)], unit="u", seconds=10))
    assert len(line) == 3
    assert line[0][1] == line[1][1]
    assert line[1][0] == line[2][0]


def test_an_empty_chart_is_drawn() -> None:
    page = drawn(figure("nothing <yet>", [Series("a", [])], unit="", seconds=0))
    assert [svg.attrib["aria-label"] for svg in page.iter("svg")] == ["nothing <yet>"]


def test_a_day_has_no_more_to_draw_than_an_hour_and_keeps_its_peak() -> None:
    series = [(5.0 * n, 1000.0 if n == 12345 else 1.0) for n in range(17280)]
    (line,) = points(figure("t", [Series("a", series)], unit="u", seconds=86400))
    assert len(line) <= 2 * STRETCHED
    assert sum(y == min(y for _, y in line) for _, y in line) == 1


VALUE = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e6)


@given(st.lists(st.tuples(st.floats(0, 1e5), VALUE), max_size=40).map(lambda p: sorted(p, key=lambda q: q[0])))
def test_any_series_is_well_formed_and_stays_inside(series: list[tuple[float, float | None]]) -> None:
    html = figure("t", [Series("a", series)], unit="u", seconds=1e5)
    assert not re.search(r"\b(nan|inf)\b", html)
    for line in points(html):
        assert all(0 <= x <= STRETCHED and 0 <= y <= STRETCHED for x, y in line)


def test_a_figure_has_its_words_outside_of_what_stretches() -> None:
    html = figure(
        "Pressure",
        [Series("cpu", [(0, 1.0), (50, None), (60, 40.0), (70, None)]), Series("io", [(0, 2.0), (100, 3.0)])],
        unit="% <of>", seconds=100, limits={"cpu": 20.0}, ticks=(0, 20, 50),
        marks=[Mark(25.0, "stall", "12:00:00 <stuck>", 7), Mark(50.0, "controller", "no row")],
    )  # fmt: skip
    page = drawn(html)
    assert not list(page.iter("text"))
    paths = {path.attrib["class"]: path.attrib["d"] for path in page.iter("path")}
    assert paths["limit series-0"] == "M0 600.0H1000"
    assert paths["mark mark-stall"] == "M250.0 0V1000"
    # A point between two gaps is a dot: a line of no length.
    assert paths["line series-0"] == "M600.0 200.0L600.0 200.0"
    assert paths["line series-1"] == "M0.0 960.0L1000.0 940.0"
    assert [span.text for span in page.iter("span") if span.get("class") == "y"] == ["0", "20", "50"]
    (link,) = page.iter("a")
    assert (link.text, link.attrib["href"], link.attrib["title"]) == ("7", "#decision-7", "12:00:00 <stuck>")
    assert "% <of>" in "".join(page.itertext())


@pytest.mark.parametrize(
    ("value", "top"),
    [(0.0, 1.0), (-5.0, 1.0), (1.0, 1.0), (1.0000001, 2.0), (2.0, 2.0), (2.1, 2.5), (2.5, 2.5), (2.6, 5.0), (5.0, 5.0),
     (5.1, 10.0), (10.0, 10.0), (0.3, 0.5), (99.0, 100.0), (101.0, 200.0), (1e-12, 1e-12), (3e-7, 5e-7)],
)  # fmt: skip
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    page = drawn(figure("t", [Series("a", [(0, value)])], unit="u", seconds=10))
    named = [float(str(span.text)) for span in page.iter("span") if span.get("class") == "y"]
    assert named == pytest.approx([0.0, top / 2, top])
    assert points(figure("t", [Series("a", [(0, top), (1, top)])], unit="u", seconds=10))[0][0][1] == 0.0


def test_what_is_as_large_as_a_number_can_be_is_its_own_bound() -> None:
    for value in (1e300, 1.7e308, 1e-300, 5e-324):
        (line,) = points(figure("t", [Series("a", [(0, value), (10, value)])], unit="u", seconds=10))
        assert line == [(0.0, 0.0), (1000.0, 0.0)]


@pytest.mark.parametrize(
    ("ticks", "told"),
    [((0, 999), "0 999"), ((0, 1000, 2500), "0 1k 2.5k"), ((1e6, 1.5e6), "1M 1.5M"), ((1e9, 2e9), "1G 2G"),
     ((0.001,), "0.001")],
)  # fmt: skip
def test_a_value_is_named_in_short(ticks: tuple[float, ...], told: str) -> None:
    page = drawn(figure("t", [], unit="u", seconds=10, ticks=ticks))
    assert " ".join(str(span.text) for span in page.iter("span") if span.get("class") == "y") == told


def test_of_a_column_that_is_known_nowhere_a_gap_stays() -> None:
    """Where there are more points than columns."""
    hours = [(float(n), None if 1000 <= n < 2000 else 1.0) for n in range(6000)]
    assert len(points(figure("t", [Series("a", hours)], unit="u", seconds=6000))) == 2
    few = [(float(n), float(n % 2)) for n in range(2 * STRETCHED)]
    (line,) = points(figure("t", [Series("a", few)], unit="u", seconds=2 * STRETCHED))
    assert len(line) == 2 * STRETCHED, "there was room for each"
    (line,) = points(figure("t", [Series("a", few * 2)], unit="u", seconds=2 * STRETCHED))
    assert len(line) <= 2 * STRETCHED


def test_marks_at_the_same_time_have_one_number_and_those_a_room_apart_each_theirs() -> None:
    def numbered(*times: float) -> list[str | None]:
        marks = [Mark(at, "stall", "t", number) for number, at in enumerate(times, start=1)]
        page = drawn(figure("t", [], unit="u", seconds=1000, marks=[Mark(0.0, "start", "s"), *marks]))
        return [link.text for link in page.iter("a") if "hidden" not in link.attrib]

    assert numbered(0.0, 0.0, 24.9, 25.0, 49.9, 50.0) == ["1", "4", "6"]
    assert numbered(0.5) == ["1"]


FULL = {
    "title": "Rung & <rate>",
    "series": [
        Series("rung", [(0, 1.0), (10, 5.0), (20, None), (30, 2.0)], stepped=True),
        Series("rate <a s>", [(0, 3.0), (15, math.nan), (20, 7.5), (50, -1.0), (70, 12.0)]),
    ],
    "unit": "ticks & more",
    "seconds": 60.0,
    "limits": {"rung": 4.0},
    "marks": [Mark(5.0, "stall", "12:00 <stuck>", 7), Mark(5.5, "stop", "later", 8), Mark(59.0, "start", "none")],
}


@pytest.mark.claim("V2")
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("figure", {}),
        ("figure-detail", {"detail": 4, "ticks": (0, 5, 10, 50), "clock": lambda at: f"<{at:.0f}>"}),
        ("figure-short", {"seconds": 59.9, "limits": None, "marks": ()}),
        ("figure-one", {"series": [Series("alone", [(0, 1.0), (7199, 2.0)])], "seconds": 7200.0, "limits": {"x": 9.0}}),
    ],
)
def test_a_figure_is_the_same_to_the_last_byte(name: str, more: dict[str, Any]) -> None:
    """`verify` renders a document anew and compares: whoever moves a line makes a forgery of each that there is."""
    assert figure(**{**FULL, **more}) + "\n" == (DRAWINGS / f"{name}.html").read_text()


def test_times_are_as_exact_as_the_axis_is_long() -> None:
    for seconds, times in ((2.0, ["0.0 s", "0.5 s", "1.0 s", "1.5 s", "2.0 s"]),
                           (7200, ["0:00:00", "0:30:00", "1:00:00", "1:30:00", "2:00:00"])):  # fmt: skip
        (axis,) = (
            div for div in drawn(figure("t", [], unit="u", seconds=seconds)).iter("div") if div.get("class") == "x"
        )
        assert [span.text for span in axis] == times


def test_numbers_of_marks_do_not_lie_upon_each_other() -> None:
    marks = [Mark(at, "stall", "t", number) for number, at in enumerate((50.0, 50.0, 51.0, 53.0), start=1)]
    page = drawn(figure("t", [Series("a", [])], unit="u", seconds=100, marks=marks))
    assert [link.text for link in page.iter("a") if "hidden" not in link.attrib] == ["1", "4"]
    assert sum(path.attrib["class"] == "mark mark-stall" for path in page.iter("path")) == 4
