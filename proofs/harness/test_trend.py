"""The page about the history of the runs (contract V14)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence import buglog, history, trend
from proofs.harness.test_history import RUNS, B, run

pytestmark = pytest.mark.claim("V14")


def test_the_page_has_each_run_and_who_is_not_steady() -> None:
    newest = f"{buglog.name_of(RUNS[3].run, RUNS[3].started)}.html"
    page = trend.page(RUNS, [newest])
    assert page.index("run-4</a>") < page.index("<td>run-2</td>") < page.index("<td>run-1</td>")
    assert f'href="buglog/{newest}"' in page
    assert f'<td class="name">{B}</td><td class="number">1</td><td class="number">1</td><td>run-3</td>' in page
    assert "Proven in one run" in page
    assert "Proven in one run" not in trend.page(RUNS[:2], [])
    assert "0 runs" in trend.page([], [])


@pytest.mark.parametrize(("state", "pale"), [("complete", False), ("partial", True), ("interrupted", True)])
def test_what_is_not_a_whole_run_is_paler(state: str, pale: bool) -> None:
    page = trend.page([RUNS[1], run(9, {B: "proven"}, state=state)], [])
    shades = re.findall(r"<g( class=\"pale\")?><title>[^<]*, run (run-\d) ", page)
    assert {(name, bool(shade)) for shade, name in shades} == {("run-2", False), ("run-9", pale)}


def test_of_very_many_that_are_not_steady_the_worst_are_named() -> None:
    names = [f"proofs/test_x.py::test_{number:03}" for number in range(102)]
    runs = [run(1, dict.fromkeys(names, "proven")), run(2, dict.fromkeys(names, "refuted")),
            run(3, {names[-1]: "unproven", names[50]: "refuted"})]  # fmt: skip
    page = trend.page(runs, [])
    told = re.findall(r'<td class="name">(.*?)</td><td class="number">(\d+)</td><td class="number">(\d+)</td>', page)
    twice = [names[50], names[-1]]
    expected = [*((name, "1", "2") for name in twice), *((name, "1", "1") for name in names if name not in twice)]
    assert told == expected[: trend.FLAKES_MAX]


@given(st.text(min_size=1, max_size=40))
def test_nothing_in_a_history_becomes_markup(text: str) -> None:
    hostile = f"<b>&{text}\"'"
    entries = history.parse(
        history.line(run(1, {hostile: "refuted"}, run=hostile, commit=hostile)).replace("\ud800", "?")
    )
    assert "<b>" not in trend.page(entries, [])
