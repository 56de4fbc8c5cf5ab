"""The page about the history of the runs (contract V14)."""

from __future__ import annotations

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


@given(st.text(min_size=1, max_size=40))
def test_nothing_in_a_history_becomes_markup(text: str) -> None:
    hostile = f"<b>&{text}\"'"
    entries = history.parse(
        history.line(run(1, {hostile: "refuted"}, run=hostile, commit=hostile)).replace("\ud800", "?")
    )
    assert "<b>" not in trend.page(entries, [])
