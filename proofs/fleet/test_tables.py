"""What values leave a host (contract F1)."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.base.tables import FILLS, TABLES, TEXT_MAX, TICKS, Table

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


LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""

LONG = "9" * 1000


@pytest.mark.claim("F1")
@pytest.mark.parametrize(
    ("kind", "taken", "left_out"),
    [
        ("int", [-(2**63), -1, 0, 2**63 - 1], [-(2**63) - 1, 2**63, 1.0, True, "1", b"1"]),
        ("ts", [0, 1, LAST_MS], [-1, LAST_MS + 1, 1.0, True, "1"]),
        ("real", [-1.7976931348623157e308, -0.5, 5e-324, 0.0], [math.inf, -math.inf, math.nan, True, "1.0", 2**63]),
        (
            "exact",
            ["0", "-0.10", "007", LONG, f"-{LONG}.{LONG}"],
            [
                "",
                "-",
                ".5",
                "5.",
                "+1",
                "1e3",
                "1,5",
                " 1",
                "1\n",
                "NaN",
                "\u0661",
                f"{LONG}0",
                f"1.{LONG}0",
                1,
                1.5,
                b"1",
            ],
        ),
        (
            "text",
            ["", "a", "\u00e9\u20ac\U0001f600", "x" * 16_000, "\u20ac" * 16_000],
            ["\0", "a\0b", "\ud800", "a\udfffb", "x" * 16_001, b"a", 1],
        ),
    ],
)
def test_a_kind_takes_what_the_engine_writes_from_its_least_to_its_most(
    kind: str, taken: list[object], left_out: list[object]
) -> None:
    table = Table("any", {"key": "int", "value": kind}, ("key",))
    for value in taken:
        (_, found), odd = table.cleaned((1, value))
        assert (found, type(found), odd) == (value, type(value), False)
    for value in left_out:
        # What has lost its day lies before all others.
        assert table.cleaned((1, value)) == ((1, 0 if kind == "ts" else None), True), repr(value)[:40]
    # Nothing at all is no fault, but for a row's day.
    assert table.cleaned((1, None)) == (((1, 0), True) if kind == "ts" else ((1, None), False))


@pytest.mark.claim("F1")
@pytest.mark.parametrize(("whole", "real"), [(0, 0.0), (7, 7.0), (2**63 - 1, 2.0**63), (-(2**63) + 1, -(2.0**63))])
def test_a_whole_number_where_a_real_one_stands_is_taken_for_it(whole: int, real: float) -> None:
    table = Table("any", {"key": "int", "value": "real"}, ("key",))
    (_, found), odd = table.cleaned((1, whole))
    assert (found, type(found), odd) == (real, float, False)


@pytest.mark.claim("F1")
@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_key_has_a_value_in_every_row_and_a_day_is_the_only_one_that_may_be_lost(name: str) -> None:
    table = TABLES[name]
    good = [KEYS.get(kind, 1) for kind in table.columns.values()]
    assert set(table.key) <= set(table.names)
    assert table.columns["ts"] == "ts"
    for place, column in enumerate(table.names):
        row = [*good[:place], None, *good[place + 1 :]]
        if column in table.key:
            with pytest.raises(ValueError, match=f"^{name}: {column} is 'None', which is no "):
                table.cleaned(row)
        else:
            assert table.cleaned(row)[0][place] == (0 if column == "ts" else None)
    for wrong in (good[:-1], [*good, 1]):
        with pytest.raises(ValueError, match=f"^{name}: {len(wrong)} values for {len(good)} columns$"):
            table.cleaned(wrong)


@pytest.mark.claim("F1")
def test_a_row_is_odd_wherever_in_it_the_odd_value_stands() -> None:
    good = (7, 5, "X", 1.0, 1.0, "a", 1, None)
    assert not TICKS.cleaned(good)[1]
    for place in range(1, 8):
        assert TICKS.cleaned([*good[:place], b"", *good[place + 1 :]])[1]
