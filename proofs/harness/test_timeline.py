"""Drawings of who did what when."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence.timeline import WIDTH, Span, StackedBar, columns, lanes

DRAWINGS = Path(__file__).resolve().parents[1] / "fixtures/drawings"

BARS = st.builds(
    Span,
    at=st.floats(0, 100),
    seconds=st.floats(0, 100),
    kind=st.sampled_from(["proven", "refuted"]),
    text=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")),
)


def rects(drawing: str) -> list[ET.Element]:
    return ET.fromstring(drawing).findall("rect")


@given(st.dictionaries(st.sampled_from(["gw0", "gw1", "<main>"]), st.lists(BARS, max_size=20)), st.floats(0, 100))
def test_every_bar_lies_within_the_drawing(rows: dict[str, list[Span]], seconds: float) -> None:
    for rect in rects(lanes("all & <sundry>", rows, seconds=seconds)):
        left, width = float(rect.attrib["x"]), float(rect.attrib["width"])
        assert 0 < left < left + width <= WIDTH


def test_a_moment_is_seen_and_lies_where_it_happened() -> None:
    (early, late) = rects(lanes("x", {"log": [Span(0, 0, "INFO", "a"), Span(10, 0, "ERROR", "b")]}, seconds=10))
    assert float(early.attrib["x"]) < 110
    assert float(late.attrib["x"]) + float(late.attrib["width"]) <= WIDTH
    assert [rect.findtext("title") for rect in (early, late)] == ["a", "b"]
    assert late.attrib["class"] == "bar-ERROR"


def test_a_crowd_is_drawn_once_and_its_worst_is_seen() -> None:
    crowd = [Span(number / 1000, 0, "INFO", "fine") for number in range(10_000)]
    crowd.insert(5000, Span(5.0, 0, "ERROR", "bad"))
    drawn = rects(lanes("x", {"log": crowd}, seconds=10, priority=("INFO", "ERROR")))
    assert len(drawn) <= WIDTH / 2
    assert "bad" in [rect.findtext("title") for rect in drawn]
    spans = [Span(1.0, number / 1000, "INFO", "fine") for number in range(9000)]
    assert len(rects(lanes("x", {"log": spans}, seconds=10))) <= WIDTH / 2


def test_what_lies_apart_is_drawn_apart() -> None:
    """Bars that differ by more than the least width of one, in where they begin or in how long they are."""
    second = WIDTH / 10
    moments = [Span(3 * number / second, 0, "INFO", "moment") for number in range(250)]
    spans = [Span(1, 3 * number / second, "INFO", "span") for number in range(1, 250)]
    assert len(rects(lanes("x", {"log": [*moments, *spans]}, seconds=10))) == 499


def test_lanes_lie_below_each_other_beside_their_names() -> None:
    names = ["gw0", "gw1", "gw2"]
    drawing = ET.fromstring(lanes("x", {name: [Span(1, 8, "proven", "a")] for name in names}, seconds=10))
    width, height = map(int, drawing.attrib["viewBox"].split()[2:])
    texts = {text.text: text.attrib for text in drawing.findall("text")}
    bars = [bar.attrib for bar in drawing.findall("rect")]
    below = 0.0
    for name, bar in zip(names, bars, strict=True):
        top, left = float(bar["y"]), float(bar["x"])
        assert below <= top < float(texts[name]["y"]) <= top + float(bar["height"]), f"{name} is not beside its bar"
        assert 0 < float(texts[name]["x"]) < left
        below = top + float(bar["height"])
    axis = [float(texts[f"{seconds:.3g} s"]["x"]) for seconds in (0, 2.5, 5, 7.5, 10)]
    assert [axis[0] + (axis[-1] - axis[0]) * step / 4 for step in range(5)] == pytest.approx(axis)
    assert float(bars[0]["x"]) == pytest.approx(axis[0] + (axis[-1] - axis[0]) / 10, abs=0.1)
    assert below < float(texts["0 s"]["y"]) < height
    assert axis[-1] < width


VALUES = st.one_of(st.just(0.0), st.floats(1e-3, 1e6))


@given(st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=40))
def test_columns_stand_side_by_side_and_are_as_high_as_their_values(values: list[list[float]]) -> None:
    bars = [
        StackedBar([("proven", low), ("refuted", high)], f"run {number}") for number, (low, high) in enumerate(values)
    ]
    drawing = ET.fromstring(columns("x", bars, unit="s"))
    width, height = map(int, drawing.attrib["viewBox"].split()[2:])
    (line,) = drawing.findall("line")
    zero = float(line.attrib["y1"])
    top = max(map(sum, values), default=0.0) or 1.0
    groups = drawing.findall("g")
    assert [group.findtext("title") for group in groups] == [bar.text for bar in bars]
    right = float(line.attrib["x1"]) - 0.2
    for group, (low, high) in zip(groups, values, strict=True):
        found = [
            {name: float(rect.attrib[name]) for name in ("x", "y", "width", "height")} for rect in group.findall("rect")
        ]
        assert len(found) == bool(low) + bool(high), "what is nothing is not drawn, and what is little is"
        upon = zero
        for rect, value in zip(found, [one for one in (low, high) if one], strict=True):
            assert rect["height"] == pytest.approx(max(2.0, value / top * (zero - 8)), abs=0.06)
            assert rect["y"] + rect["height"] == pytest.approx(upon, abs=0.11), "one part stands on the other"
            upon = rect["y"]
        for rect in found[:1]:
            assert right < rect["x"], "it covers the one before"
            right = rect["x"] + rect["width"]
    assert right <= float(line.attrib["x2"]) < width
    assert zero < height


@pytest.mark.parametrize(
    ("seconds", "axis"),
    [(0.5, ["0 s", "125 ms", "250 ms", "375 ms", "500 ms"]), (1.0, ["0 s", "250 ms", "500 ms", "750 ms", "1 s"]),
     (4.0, ["0 s", "1 s", "2 s", "3 s", "4 s"]), (1000.0, ["0 s", "250 s", "500 s", "750 s", "1e+03 s"])],
)  # fmt: skip
def test_an_axis_is_named_in_seconds_or_milliseconds(seconds: float, axis: list[str]) -> None:
    assert [text.text for text in ET.fromstring(lanes("x", {}, seconds=seconds)).findall("text")] == axis


def test_what_stands_below_columns_has_room() -> None:
    for count, shown in ((6, []), (7, ["a", "b"]), (40, ["a", "b"])):
        drawing = ET.fromstring(columns("x", COLUMNS[:1] * count, unit="s", ends=("a", "b")))
        assert [text.text for text in drawing.findall("text")][2:] == shown, count


LANES = {
    "commands": [
        Span(0.0, 1.5, "command", "systemctl start <a>"), Span(0.001, 1.5, "failed", "and one that failed"),
        Span(2.0, 30.0, "command", "longer than the drawing"), Span(-1.0, 0.5, "command", "before it began"),
    ],
    "log & systemd": [Span(at, 0.0, kind, f"{at}") for at, kind in (
        (0.25, "INFO"), (0.25, "other"), (0.251, "ERROR"), (0.3, "INFO"), (7.5, "ERROR"), (9.999, "INFO"),
        (11.0, "INFO"),
    )],
    "<nothing>": [],
}  # fmt: skip
COLUMNS = [
    StackedBar([("proven", 320.0), ("unproven", 1.0), ("refuted", 0.0)], "the first <run>"),
    StackedBar([("proven", 80.0), ("unproven", 60.0), ("refuted", 7.0)], "a part", pale=True),
    StackedBar([], "nothing"),
]


@pytest.mark.claim("V2")
@pytest.mark.parametrize(
    ("name", "drawing"),
    [
        ("lanes", lanes("What & when", LANES, seconds=10.0, priority=("INFO", "command", "ERROR", "failed"))),
        ("moment", lanes("x", {"log": [Span(0.0, 0.0, "INFO", "a")]}, seconds=0.0)),
        ("columns", columns("Verdicts & more", COLUMNS, unit="<proofs>", ends=("Monday", "Tuesday"))),
        ("full", columns("x", COLUMNS * 5, unit="s", ends=("<Monday>", "<Tuesday>"))),
        ("none", columns("x", [], unit="s", ends=("a", "b"))),
    ],
)
def test_a_drawing_is_the_same_to_the_last_byte(name: str, drawing: str) -> None:
    """`verify` renders a document anew and compares: whoever moves a line makes a forgery of each that there is."""
    assert drawing + "\n" == (DRAWINGS / f"{name}.svg").read_text()
