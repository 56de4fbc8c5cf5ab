"""What a client asks for -> what may be asked for (contract W6, W7).

Numbers, words of a list and short texts that go into a query as bound values: nothing else of an address gets further.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.observing import ledger_history
from harness.observing.ledger_view import TEXT_MAX

Default = TypeVar("Default", int, None)

RANGES = {"5m": 300_000, "1h": 3_600_000, "24h": 86_400_000, "all": None}
"""Name -> milliseconds up to now; None: all there is."""

MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""

ID_MAX = 2**63 - 1

PAGE_ROWS = 50
"""Of a page of a table, unless somebody asks for another number."""

CONTAINS = "contains"
"""The filter of tables that the database does not hold: rows in which the text stands, in any case."""

FILTERS = (*ledger_history.FILTERS, CONTAINS)


@dataclass(frozen=True)
class SpanQuery:
    """A span of time, parted into buckets."""

    symbol: str
    from_ms: int | None
    to_ms: int | None
    buckets: int


@dataclass(frozen=True)
class PageQuery:
    """Some rows of a table."""

    at_id: int | None
    newest_first: bool
    rows: int
    filters: Mapping[str, str]
    from_ms: int | None = None
    """Since when and before when, in milliseconds since the Unix epoch; None for no bound."""
    to_ms: int | None = None


def span_of(asked: Mapping[str, str], now_ms: int) -> SpanQuery:
    """`range` (one of RANGES) or `from` and `to` (milliseconds since the Unix epoch), `symbol`, `points`. ValueError
    names what is wrong and what is allowed."""
    _only(asked, ("range", "from", "to", "symbol", "points"))
    buckets = _whole(asked, "points", ledger_history.BUCKETS_MAX, 10, ledger_history.BUCKETS_MAX)
    symbol = _short(asked, "symbol")
    if "from" in asked or "to" in asked:
        begin, end = _whole(asked, "from", 0, 0, MS_MAX), _whole(asked, "to", now_ms, 0, MS_MAX)
        if end <= begin:
            raise ValueError(f"to = {end}: must be after from = {begin}")
        return SpanQuery(symbol, begin, end, buckets)
    name = asked.get("range", "1h")
    if name not in RANGES:
        raise ValueError(f"range = {name[:40]!r}: must be one of {', '.join(RANGES)}")
    length = RANGES[name]
    return SpanQuery(symbol, None if length is None else now_ms - length, None if length is None else now_ms, buckets)


def page_of(asked: Mapping[str, str], rows_max: int = ledger_history.PAGE_MAX, rows: int = PAGE_ROWS) -> PageQuery:
    """`at` (an id to begin at), `order` (newest or oldest), `rows` (or as many as the argument says), `from` and `to`,
    and the filters. ValueError as span_of()."""
    _only(asked, ("at", "order", "rows", "from", "to", *FILTERS))
    order = asked.get("order", "newest")
    if order not in ("newest", "oldest"):
        raise ValueError(f"order = {order[:40]!r}: must be newest or oldest")
    at_id = _whole(asked, "at", None, 0, ID_MAX)
    filters = {name: _short(asked, name) for name in FILTERS if asked.get(name)}
    begin, end = (_whole(asked, name, None, 0, MS_MAX) for name in ("from", "to"))
    if begin is not None and end is not None and end <= begin:
        raise ValueError(f"to = {end}: must be after from = {begin}")
    return PageQuery(at_id, order == "newest", _whole(asked, "rows", rows, 1, rows_max), filters, begin, end)


def _only(asked: Mapping[str, str], allowed: Sequence[str]) -> None:
    for name in asked:
        if name not in allowed:
            raise ValueError(f"{name[:40]!r}: unknown, allowed are {', '.join(allowed)}")


def _whole(asked: Mapping[str, str], name: str, default: Default, least: int, most: int) -> int | Default:
    text = asked.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise ValueError(f"{name} = {text[:40]!r}: must be a whole number from {least} to {most}")
    return int(text)


def _short(asked: Mapping[str, str], name: str) -> str:
    text = asked.get(name, "")
    if len(text) > TEXT_MAX:
        raise ValueError(f"{name}: must be a text of at most {TEXT_MAX} characters")
    return text
