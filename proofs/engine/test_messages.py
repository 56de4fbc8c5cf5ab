"""Contract N8, N9, N12: what is told of messages that are of no use, of those that never came, and of other markets."""

from __future__ import annotations

from typing import Any

import pytest

from engine.base.events import Tick
from engine.ingest.messages import Messages
from engine.ingest.venues.markets import Markets, Streams
from engine.ingest.venues.registry import find
from harness.faults.dialects import OKXDialect

MARKET = "BTC-USDT"
GOOD = OKXDialect().trade(MARKET, 1, "1.5", "2", 1_764_000_000_000).encode()
FOREIGN = [
    OKXDialect().trade(market, 1, "1.5", "2", 1_764_000_000_000).encode() for market in ("DOGE-USDT", "PEPE-USDT")
]
RUBBISH = b"{"


def messages(limit: int = 1000) -> Messages:
    parser = find("okx").parser("ws://127.0.0.1:9", "s", Markets("s", "S", Streams(), {MARKET: "S"}))
    return Messages(parser, limit)


def read(said: Messages, now: float, message: bytes) -> None:
    """What a feed does with a message."""
    ticks: list[Tick] = []
    said.parser.parse_into(message, ticks)
    said.check(now, source="s", line=7)
    said.check_foreign(now, "s")


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, dict[str, Any]]]:
    return [(record.levelname, record.message, record.__dict__["fields"]) for record in caplog.records]


@pytest.mark.claim("N8")
def test_N8_a_line_says_why_where_and_how_many_there_were(caplog: pytest.LogCaptureFixture) -> None:
    """Of all of them, those too of which no line was written, and once each: a good message writes none."""
    said = messages()
    for now, message in [(0.0, RUBBISH), (0.4, b"[]"), (0.9, b"null"), (1.0, RUBBISH), (1.5, GOOD), (9.0, GOOD)]:
        read(said, now, message)
    lines = told(caplog)
    assert [(level, text) for level, text, _ in lines] == [("WARNING", "unusable message")] * 2
    assert [fields.pop("error") for _, _, fields in lines] == ["not JSON: Input data was truncated: {"] * 2
    assert [fields for _, _, fields in lines] == [
        {"parse_errors": 1, "source": "s", "line": 7, "suppressed": 0},
        {"parse_errors": 4, "source": "s", "line": 7, "suppressed": 2},
    ]


@pytest.mark.claim("N8")
@pytest.mark.parametrize(
    ("limit", "read_before", "is_broken"),
    [
        (1, [], False),
        (1, [RUBBISH], True),
        (2, [RUBBISH], False),
        (2, [RUBBISH, RUBBISH], True),
        (2, [RUBBISH, GOOD, RUBBISH], False),
        (2, [RUBBISH, b'{"event":"x"}', RUBBISH], True),
        (3, [RUBBISH, RUBBISH, RUBBISH, GOOD], True),
    ],
)
def test_N8_so_many_unusable_messages_in_a_row_break_a_source(
    limit: int, read_before: list[bytes], is_broken: bool
) -> None:
    said = messages(limit)
    for message in read_before:
        read(said, 0.0, message)
    assert (said.broken is not None) == is_broken
    if said.broken is not None:
        assert str(said.broken) == (
            f"{limit} unusable messages in a row, the last one: not JSON: Input data was truncated: {{"
        )
        assert said.broken.details == {"parse_errors": limit, "parse_error_limit": limit, "source": "s", "line": 7}


@pytest.mark.claim("N8")
def test_N8_a_source_breaks_once_with_what_broke_it() -> None:
    said = messages(1)
    read(said, 0.0, RUBBISH)
    first = said.broken
    read(said, 0.0, b"[]")
    assert said.broken is first


@pytest.mark.claim("N12", "B5")
def test_N12_a_trade_of_another_market_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    said = messages()
    for now, message in [(0.0, FOREIGN[0]), (1.0, GOOD), (59.9, FOREIGN[0]), (60.0, FOREIGN[1]), (300.0, GOOD)]:
        read(said, now, message)
    text = "trade of a market that nobody asked for"
    assert told(caplog) == [
        ("WARNING", text, {"source": "s", "market": "DOGE-USDT", "foreign": 1, "suppressed": 0}),
        ("WARNING", text, {"source": "s", "market": "PEPE-USDT", "foreign": 3, "suppressed": 1}),
    ]


@pytest.mark.claim("N9")
def test_N9_messages_that_never_came_are_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    said = messages()
    for now, count in [(0.0, 3), (0.5, 4), (1.0, 1)]:
        said.tell_lost(now, "s", count)
    text = "messages of the venue are missing"
    assert told(caplog) == [
        ("WARNING", text, {"source": "s", "lost": 3, "suppressed": 0}),
        ("WARNING", text, {"source": "s", "lost": 8, "suppressed": 1}),
    ]
    assert said.lost == 8
