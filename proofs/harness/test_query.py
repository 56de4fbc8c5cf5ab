"""What a client may ask of the past (contract W6, W7)."""

from __future__ import annotations

import re

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
    assert query.page_of({"at": "7", "order": "oldest", "side": "BUY", "mode": ""}) == query.PageQuery(
        7, False, 50, {"side": "BUY"}
    )


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
