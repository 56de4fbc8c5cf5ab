"""What a client may ask of the past (contract W6, W7)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.dashboard import query

pytestmark = pytest.mark.claim("W7")

NOW = 1_764_000_000_000


def test_spans() -> None:
    assert query.span_of({}, NOW) == query.SpanQuery("", NOW - 3_600_000, NOW, 400)
    assert query.span_of({"range": "all", "symbol": "A/B", "points": "50"}, NOW) == query.SpanQuery(
        "A/B", None, None, 50
    )
    assert query.span_of({"range": "5m", "from": "5", "to": "9"}, NOW) == query.SpanQuery("", 5, 9, 400)
    assert query.span_of({"to": "9"}, NOW) == query.SpanQuery("", 0, 9, 400)
    assert query.span_of({"from": "5"}, NOW) == query.SpanQuery("", 5, NOW, 400)
    assert query.page_of({"at": "7", "order": "oldest", "side": "BUY", "mode": ""}) == query.PageQuery(
        7, False, 50, {"side": "BUY"}
    )
    assert query.page_of({"order": "newest", "from": "5", "to": "9"}) == query.PageQuery(None, True, 50, {}, 5, 9)
    assert query.page_of({"contains": "x"}, rows_max=7, rows=3) == query.PageQuery(None, True, 3, {"contains": "x"})


LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""


@pytest.mark.parametrize(
    ("ask", "name", "least", "most"),
    [
        (query.page_of, "at", 0, 2**63 - 1),
        (query.page_of, "rows", 1, 200),
        (query.page_of, "from", 0, LAST_MS),
        (query.page_of, "to", 0, LAST_MS),
        (lambda asked: query.page_of(asked, rows_max=7), "rows", 1, 7),
        (lambda asked: query.span_of(asked, LAST_MS), "from", 0, LAST_MS - 1),
        (lambda asked: query.span_of({"from": "0", **asked}, NOW), "to", 1, LAST_MS),
        (lambda asked: query.span_of(asked, NOW), "points", 10, 400),
    ],
)
def test_a_number_is_taken_from_its_least_to_its_most_and_no_further(
    ask: Callable[[dict[str, str]], query.PageQuery | query.SpanQuery], name: str, least: int, most: int
) -> None:
    for within in (least, most):
        assert within in vars(ask({name: str(within)})).values()
    for beyond in (least - 1, most + 1):
        with pytest.raises(ValueError, match=rf"\b{name} = '?{beyond}\b"):
            ask({name: str(beyond)})


@pytest.mark.parametrize("ask", [query.page_of, lambda asked: query.span_of(asked, NOW)])
def test_a_span_begins_before_it_ends(ask: Callable[[dict[str, str]], object]) -> None:
    ask({"from": "5", "to": "6"})
    for to in ("5", "4"):
        with pytest.raises(ValueError, match=rf"^to = {to}: must be after from = 5$"):
            ask({"from": "5", "to": to})


def test_a_text_may_be_as_long_as_those_of_the_database_and_no_longer() -> None:
    longest = "x" * 200
    assert query.span_of({"symbol": longest}, NOW).symbol == longest
    for name in query.FILTERS:
        assert query.page_of({name: longest}).filters == {name: longest}
        with pytest.raises(ValueError, match=f"^{name}: must be a text of at most 200 characters$"):
            query.page_of({name: f"{longest}x"})


def test_a_range_is_as_long_as_its_name_says() -> None:
    minute = 60_000
    lengths = {"5m": 5 * minute, "1h": 60 * minute, "24h": 24 * 60 * minute}
    assert set(query.RANGES) == {*lengths, "all"}
    for name, length in lengths.items():
        assert query.span_of({"range": name}, NOW) == query.SpanQuery("", NOW - length, NOW, 400)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"range": "1y"}, "range = '1y': must be one of 5m, 1h, 24h, all"),
        ({"from": "9", "to": "5"}, "to = 5: must be after from = 9"),
        ({"from": "-1"}, "from = '-1': must be a whole number from 0 to"),
        ({"from": "1e5"}, "must be a whole number"),
        ({"to": "²"}, "must be a whole number"),
        ({"points": "100000"}, "points = '100000': must be a whole number from 10 to 400"),
        ({"sql": "x"}, "'sql': unknown, allowed are range, from, to, symbol, points"),
        ({"symbol": "x" * 300}, "symbol: must be a text of at most 200 characters"),
    ],
)
def test_what_is_no_span_is_named(asked: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        query.span_of(asked, NOW)


@pytest.mark.parametrize(
    "asked", [{"at": "x"}, {"rows": "0"}, {"rows": "201"}, {"order": "price"}, {"id": "1"}, {"at": "9" * 19}]
)
def test_what_is_no_page_is_named(asked: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must be|unknown"):
        query.page_of(asked)
