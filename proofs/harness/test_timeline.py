"""Drawings of who did what when."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from harness.evidence.timeline import WIDTH, Span, lanes

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
