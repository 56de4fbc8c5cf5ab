"""JSON that others wrote, and JSON that others read (contract W2)."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import jsontext

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**400, 10**401) | st.floats() | st.text()
    | st.sampled_from(["\ud800", "\x00", "a" * 5000, "\u2028"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
"""Any tree that JSON or TOML can make in Python, and what json.loads makes of NaN and 1e400."""


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def strict(text: str) -> Any:
    """As a browser's JSON.parse reads it."""
    return json.loads(text.encode("utf-8"), parse_constant=refuse_constant)


@pytest.mark.claim("W2")
@given(ANYTHING)
def test_whatever_is_written_is_json_that_every_reader_takes(value: Any) -> None:
    read = strict(jsontext.write({"value": value}))
    assert list(read) == ["value"]


def test_what_json_can_say_is_said() -> None:
    value = {"a": [1, -2.5, True, None, "é\u2028"], "b": {}}
    assert strict(jsontext.write(value)) == value
    assert strict(jsontext.write([math.nan, math.inf, 10**400, 2**60])) == [None, None, None, 2.0**60]


@pytest.mark.claim("W2")
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "", "\x00", b"\xff", "nul", "[1,]"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        jsontext.parse(text)


@given(ANYTHING)
def test_a_value_is_taken_for_what_it_is(value: Any) -> None:
    number, whole, text = jsontext.number(value), jsontext.whole(value), jsontext.text(value)
    assert number is None or (math.isfinite(number) and not isinstance(value, bool))
    assert whole is None or -(2**63) <= whole < 2**63
    assert len(text) <= max(jsontext.TEXT_MAX, 310)
    text.encode("utf-8")
    if isinstance(value, list | dict | bool | None):
        assert (number, text) == (None, "?")


@pytest.mark.claim("W2")
@pytest.mark.parametrize(
    ("value", "number", "whole"),
    [
        (0, 0, 0), (-1, -1, -1), (2**63 - 1, 2**63 - 1, 2**63 - 1), (-(2**63), -(2**63), -(2**63)),
        (2**63, 2**63, None), (-(2**63) - 1, -(2**63) - 1, None), (10**299, 10**299, None),
        (2.0, 2.0, None), (-0.5, -0.5, None), (9.9e299, 9.9e299, None), (-9.9e299, -9.9e299, None),
        (1e300, None, None), (-1e300, None, None), (10**301, None, None), (-(10**301), None, None),
        (math.nan, None, None), (math.inf, None, None), (-math.inf, None, None),
        (True, None, None), (False, None, None), ("1", None, None), (None, None, None), ([1], None, None),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_a_number_has_a_sensible_size_and_a_whole_one_64_bits(value: object, number: object, whole: object) -> None:
    assert (jsontext.number(value), jsontext.whole(value)) == (number, whole)
    assert jsontext.text(value, "x") == (value if isinstance(value, str) else "x" if number is None else str(number))


@pytest.mark.claim("W2")
@pytest.mark.parametrize(
    ("value", "written"),
    [
        (2**53, "9007199254740992"), (-(2**53), "-9007199254740992"), (2**53 - 1, "9007199254740991"),
        # What JavaScript takes for another number is written as the one that it takes it for.
        (2**53 + 1, "9007199254740992.0"), (-(2**53) - 1, "-9007199254740992.0"), (2**63, "9.223372036854776e+18"),
        (2**1000 - 1, "1.0715086071862673e+301"), (2**1000, "null"), (10**400, "null"), (-(10**400), "null"),
        (1e308, "1e+308"), (math.inf, "null"), (math.nan, "null"), (True, "true"), (None, "null"), (..., "null"),
        (("a", 1), '["a",1]'), ({1: 2, None: 3, "b": []}, '{"1":2,"?":3,"b":[]}'), ("\ud800", '"?"'), (b"x", "null"),
        ("x" * 2000, f'"{"x" * 2000}"'), ("x" * 2001, f'"{"x" * 2000}"'),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_what_json_cannot_say_is_the_nearest_that_it_can(value: object, written: str) -> None:
    assert jsontext.write(value) == written
