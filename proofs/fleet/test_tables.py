"""What values leave a host (contract F1)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.base.tables import FILLS, TABLES, TEXT_MAX, TICKS

ANYTHING = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(), st.binary(), st.booleans(), st.just("1" * 3000),
    st.integers(-(2**63), 2**63 - 1), st.decimals(allow_nan=False).map(str),
)  # fmt: skip


KEYS = {"int": 1, "text": "x"}


@pytest.mark.claim("F1")
@given(st.sampled_from(sorted(TABLES)).flatmap(
    lambda name: st.tuples(st.just(name), st.lists(ANYTHING, min_size=len(TABLES[name].columns),
                                                   max_size=len(TABLES[name].columns)))))  # fmt: skip
def test_whatever_a_row_holds_it_can_be_sent_and_is_itself_afterwards(case: tuple[str, list[Any]]) -> None:
    name, raw = case
    table = TABLES[name]
    try:
        row, odd = table.cleaned(raw)
    except ValueError:
        # Only for want of a key: with one, the rest may be anything.
        keyed = [KEYS[table.columns[one]] if one in table.key else value
                 for one, value in zip(table.names, raw, strict=True)]  # fmt: skip
        table.cleaned(keyed)
        return
    assert table.cleaned(row)[0] == row
    assert json.loads(json.dumps(row, allow_nan=False)) == list(row)
    changed = [(a, b) for a, b in zip(raw, row, strict=True) if a is not b and (type(a) is not type(b) or a != b)]
    # A whole number where a real one stands is the same number.
    assert odd == any(not (type(a) is int and type(b) is float) for a, b in changed)


@pytest.mark.claim("F1")
def test_what_the_engine_writes_stays_as_it_is() -> None:
    tick = (7, 1_795_000_000_000, "ÄÖ/€", 0.1 + 0.2, 1e-9, "binance", 2**62, None)
    assert TICKS.cleaned(tick) == (tick, False)
    exact = "-" + "9" * 600 + "." + "1" * 300
    fill = (1, 5, "shadow-x/0", "shadow-x", "SHADOW", "X", "BUY", "0.10", exact, "0", "-1.50", 1)
    assert FILLS.cleaned(fill) == (fill, False)


@pytest.mark.claim("F1")
@pytest.mark.parametrize(
    ("column", "value"),
    [("symbol", "a\0b"), ("symbol", "\ud800"), ("symbol", "x" * (TEXT_MAX + 1)), ("price", float("inf")),
     ("price", "1.0"), ("trade_id", 2**63), ("trade_id", True), ("ts", -1), ("ts", 10**15)],
)  # fmt: skip
def test_what_the_engine_never_writes_is_null_and_odd(column: str, value: object) -> None:
    good = dict(zip(TICKS.names, (7, 5, "X", 1.0, 1.0, "a", 1, None), strict=True))
    row, odd = TICKS.cleaned([*{**good, column: value}.values()])
    assert odd
    assert dict(zip(TICKS.names, row, strict=True)) == {**good, column: 0 if column == "ts" else None}


@pytest.mark.claim("F1")
def test_a_row_without_its_key_is_none() -> None:
    with pytest.raises(ValueError, match="ticks: id is 'x', which is no int"):
        TICKS.cleaned(("x", 5, "X", 1.0, 1.0, "a", 1, None))
    with pytest.raises(ValueError, match="7 values for 8 columns"):
        TICKS.cleaned((7, 5, "X", 1.0, 1.0, "a", 1))
