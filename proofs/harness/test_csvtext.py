"""Rows become CSV that a spreadsheet takes for what it is (contract W7, K7)."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import csvtext

pytestmark = pytest.mark.claim("W7", "K7")


@given(
    st.lists(
        st.lists(
            st.none() | st.integers() | st.text(st.characters(exclude_characters="\r\x00", codec="utf-8")),
            min_size=2,
            max_size=2,
        )
    )
)
def test_csv_comes_back_and_holds_no_formula(rows: list[list[object]]) -> None:
    text = csvtext.csv_text(["a", "b"], rows)
    header, *read = list(csv.reader(io.StringIO(text)))
    assert header == ["a", "b"]
    for row, again in zip(rows, read, strict=True):
        for value, cell in zip(row, again, strict=True):
            assert cell.removeprefix("'") == ("" if value is None else str(value)).removeprefix("'")
            assert not cell.startswith(("=", "@"))


def test_negative_amounts_stay_numbers() -> None:
    assert csvtext.csv_text(["cash"], [["-10.3560"], ["+1e-8"], ["-cmd"], ["=1+1"]]).split() == [
        "cash", "-10.3560", "+1e-8", "'-cmd", "'=1+1",
    ]  # fmt: skip
