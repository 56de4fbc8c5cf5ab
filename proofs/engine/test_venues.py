"""Contract N4, N8-N12, N18, N19: every venue behind the port, held against a mock exchange's dialect of it.

A dialect (harness/faults/dialects.py) is written from the venue's documentation; the engine's reader is written from it
too, and neither knows the other. The venue that docs/venues.md teaches to write is one of them.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import Tick
from engine.base.exits import ConfigError
from engine.config import settings
from engine.config.schema import Source
from engine.ingest import connected, session
from engine.ingest.intake import Intake
from engine.ingest.messages import Messages
from engine.ingest.venues import port, registry
from engine.ingest.venues.gemini import GeminiV1Parser
from engine.ingest.venues.kraken import Kraken
from engine.ingest.venues.markets import Markets, Streams
from engine.ingest.venues.port import (
    MAX_MESSAGE_BYTES,
    MAX_TRADE_ID,
    ROWS_MAX,
    Ack,
    Draining,
    Lost,
    Message,
    ParseInto,
    Parser,
    Rejected,
    Trade,
    Venue,
    VenueParser,
)
from harness.faults.dialects import (
    DIALECTS,
    BinanceDialect,
    BitstampDialect,
    BybitDialect,
    CoinbaseDialect,
    Dialect,
    GeminiDialect,
    KrakenDialect,
    OKXDialect,
)
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_process import engine, write_config

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_764_000_000_123


class Gate(Dialect):
    """Of the venue in docs/venues.md."""

    name = "gate"
    market = "BTC_USDT"
    other = "ETH_USDT"
    heartbeats = ('{"time": 1606292218, "channel": "spot.pong", "event": "", "error": null, "result": null}',)
    numbers_by_market = False

    def answer(self, message: str) -> list[str]:
        asked = json.loads(message)
        said = {"time": 1606292218, "channel": asked["channel"], "event": asked.get("event", "")}
        if asked["channel"] == "spot.ping":
            return list(self.heartbeats)
        for market in self._unknown(asked["payload"]):
            return [json.dumps({**said, "error": {"code": 2, "message": f"unknown currency pair {market}"}})]
        return [json.dumps({**said, "error": None, "result": {"status": "success"}})]

    def trade(self, market: str, number: int, price: str, size: str, ms: int) -> str:
        row = {
            "id": number, "create_time": ms // 1000, "create_time_ms": f"{ms}.4578", "side": "sell",
            "currency_pair": market, "amount": size, "price": price,
        }  # fmt: skip
        return json.dumps({"time": ms // 1000, "channel": "spot.trades", "event": "update", "result": row})


def example() -> str:
    """The venue of docs/venues.md, as it stands there."""
    source: str
    [source] = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "venues.md").read_text(), re.MULTILINE | re.DOTALL)
    return source


def of_the_page() -> Venue:
    module = ModuleType("gate_of_the_page")
    sys.modules[module.__name__] = module
    exec(compile(example(), "docs/venues.md", "exec"), module.__dict__)
    venue = module.Gate()
    assert isinstance(venue, Venue)
    return venue


ALL: tuple[type[Dialect], ...] = (*DIALECTS, Gate)
VENUES: dict[str, Venue] = {dialect.name: registry.find(dialect.name) for dialect in DIALECTS} | {"gate": of_the_page()}
each = pytest.mark.parametrize("dialect", [dialect() for dialect in ALL], ids=[dialect.name for dialect in ALL])


def names(dialect: Dialect) -> dict[str, str]:
    return {dialect.market: "FIRST", dialect.other: "SECOND"}


def subscription(dialect: Dialect, table: dict[str, str] | None) -> Any:
    venue = VENUES[dialect.name]
    return venue.subscription(venue.url, table, "trade")


def parser_of(dialect: Dialect, streams: Streams | None = None) -> Parser:
    asked = {market.upper(): name for market, name in names(dialect).items()}
    venue = VENUES[dialect.name]
    return venue.parser(venue.url, "src", Markets("src", "none", streams or Streams(), asked))


def read(parser: Parser, *messages: str | bytes) -> list[Tick]:
    ticks: list[Tick] = []
    for message in messages:
        parser.parse_into(memoryview(message.encode() if isinstance(message, str) else message), ticks)
    return ticks


def plain(ticks: list[Tick]) -> list[tuple[str, float, float, int, int | str | None]]:
    return [
        (tick.symbol, tick.price, tick.volume, tick.ts, tick.event_id if tick.trade_id is None else tick.trade_id)
        for tick in ticks
    ]


# --- the conversation ---------------------------------------------------------------------------------------


@pytest.mark.claim("N18")
@each
def test_N18_what_is_asked_for_is_acknowledged_market_by_market_or_as_a_whole(dialect: Dialect) -> None:
    found = subscription(dialect, names(dialect))
    assert found.problem is None
    assert found.markets == (dialect.market.upper(), dialect.other.upper())
    parser = parser_of(dialect)
    read(parser, *dialect.greeting, *(reply for message in found.messages for reply in dialect.answer(message)))
    acks = {control.market.upper() for control in parser.controls if isinstance(control, Ack)}
    assert acks in ({""}, set(found.markets)), "each market, or all of them"
    assert not [control for control in parser.controls if not isinstance(control, Ack)]
    assert parser.errors == 0


@pytest.mark.claim("N18")
@pytest.mark.parametrize(
    ("dialect", "says"),
    [
        (BybitDialect("ETHUSDT"), "error:handler not found,topic:publicTrade.BTCUSDT"),
        (CoinbaseDialect("ETH-USD"), "Failed to subscribe: BTC-USD is not a valid product"),
        (Gate("ETH_USDT"), "2: unknown currency pair BTC_USDT"),
        (GeminiDialect("ethusd"), "400: -1013: Invalid stream name: btcusd@trade"),
        (KrakenDialect("ETH/USD"), "BTC/USD: Currency pair not supported BTC/USD"),
        (OKXDialect("ETH-USDT"), "60018: Wrong URL or channel:trades,instId:BTC-USDT doesn't exist."),
    ],
    ids=lambda value: value.name if isinstance(value, Dialect) else "",
)
def test_N18_a_rejection_has_the_venues_words(dialect: Dialect, says: str) -> None:
    parser = parser_of(dialect)
    messages = subscription(dialect, names(dialect)).messages
    read(parser, *(reply for message in messages for reply in dialect.answer(message)))
    assert Rejected(says) in parser.controls
    assert parser.errors == 0


@pytest.mark.claim("N18")
@pytest.mark.parametrize(
    ("dialect", "said", "says"),
    [
        (BinanceDialect(), {"code": 3, "msg": "Invalid JSON: x"}, "3: Invalid JSON: x"),
        (BinanceDialect(), {"id": 1, "error": {"code": -1121, "msg": "Invalid symbol."}}, "-1121: Invalid symbol."),
        (BinanceDialect(), {"error": "Too many requests"}, "Too many requests"),
        (BitstampDialect(), {"event": "bts:error", "data": {"code": 4009, "message": "no"}}, "4009: no"),
        (BybitDialect(), {"success": False, "ret_msg": "args size >10", "op": "subscribe"}, "args size >10"),
        (BybitDialect(), {"retCode": 10006, "retMsg": "Too many visits!"}, "10006: Too many visits!"),
        (CoinbaseDialect(), {"type": "error", "message": "ErrSlowConsume"}, "ErrSlowConsume"),
        (GeminiDialect(), {"status": 429, "error": {"code": -1003, "msg": "Rate limit"}}, "429: -1003: Rate limit"),
        (KrakenDialect(), {"error": "Malformed request", "success": False}, "Malformed request"),
        (KrakenDialect(), {"Error": "Exceeded msg rate"}, "Exceeded msg rate"),
        (OKXDialect(), {"event": "error", "code": "60014", "msg": "too frequent"}, "60014: too frequent"),
        (
            OKXDialect(),
            {"event": "channel-conn-count-error", "channel": "trades", "connCount": "30", "connId": "a4d3ae55"},
            "channel-conn-count-error: trades: 30",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Dialect) else "",
)  # fmt: skip
def test_N18_each_form_of_a_refusal_has_the_venues_words(dialect: Dialect, said: dict[str, object], says: str) -> None:
    parser = parser_of(dialect)
    assert read(parser, json.dumps(said)) == []
    assert (parser.controls, parser.ignored, parser.errors) == ([Rejected(says)], 1, 0)


@pytest.mark.claim("N18")
def test_N18_a_rejection_of_bitstamps_has_its_words() -> None:
    """It acknowledges a market that it does not have, unless it is spelled as none can be."""
    for message, says in (
        ('{"event": "bts:subscribe", "data": {"channel": "live_trades_BTCUSD"}}', "Invalid channel provided."),
        ('{"event": "bts:subscribe", "data": {}}', "Bad subscription string."),
    ):
        parser = parser_of(BitstampDialect())
        read(parser, *BitstampDialect().answer(message))
        [told] = parser.controls
        assert isinstance(told, Rejected)
        assert told.words.endswith(says)


@pytest.mark.claim("N18")
def test_N18_bybit_is_asked_for_ten_markets_at_once_and_for_no_more_than_it_takes() -> None:
    names = [f"COIN{number}USDT" for number in range(25)]
    dialect = BybitDialect(*names)
    venue = VENUES["bybit"]
    found = venue.subscription(venue.url, {name: name for name in names}, "trade")
    assert [len(json.loads(message)["args"]) for message in found.messages] == [10, 10, 5]
    parser = venue.parser(venue.url, "src", Markets("src", "none", Streams(), {name: name for name in names}))
    read(parser, *(reply for message in found.messages for reply in dialect.answer(message)))
    assert parser.controls == [Ack(of=3)] * 3, "each answer is to its own request"
    parser.controls.clear()
    assert read(parser, *dialect.answer('{"op": "subscribe", "args": ["publicTrade.X"]}')) == []
    assert [type(control) for control in parser.controls] == [Rejected]
    many = {f"COIN{number:04}USDT": "X" for number in range(1000)}
    assert "spread them over several sources" in str(venue.subscription(venue.url, many, "trade").problem)


@pytest.mark.claim("N18")
def test_N18_a_rejection_of_binances_has_its_words() -> None:
    """It knows no unknown market, only requests that it does not understand."""
    for reply in (
        BinanceDialect().answer('{"method": "SUBSCRYBE", "params": [], "id": 1}'),
        ['{"error":{"code":2,"msg":"no"},"id":1}'],
    ):
        parser = parser_of(BinanceDialect())
        read(parser, *reply)
        assert [type(control) for control in parser.controls] == [Rejected]
    # To whom nothing was sent by SUBSCRIBE, an answer says nothing.
    url = "wss://stream.binance.com/ws/btcusdt@trade"
    parser = VENUES["binance"].parser(url, "src", Markets("src", "X", Streams(), {"BTCUSDT": "X"}))
    read(parser, '{"error":{"code":2,"msg":"no"},"id":1}', '{"result":null,"id":1}')
    assert (parser.controls, parser.ignored) == ([], 2)


@pytest.mark.claim("N18")
@each
def test_N18_a_server_that_is_about_to_close_says_so(dialect: Dialect) -> None:
    if dialect.draining:
        parser = parser_of(dialect)
        read(parser, dialect.draining)
        assert [type(control) for control in parser.controls] == [Draining]
        assert parser.ignored == 1


@pytest.mark.slow
@pytest.mark.claim("N18")
def test_N18_what_a_peer_says_is_bounded_and_printable() -> None:
    parser = parser_of(KrakenDialect())
    read(parser, *[json.dumps({"success": False, "error": "\x1b[2J\u202e" * 999})] * 5000)
    assert len(parser.controls) < 5000
    [told] = {control.words for control in parser.controls if isinstance(control, Rejected)}
    assert len(told) <= 200
    assert told.isascii()
    assert told.isprintable()


@pytest.mark.claim("N8b")
@each
def test_N8b_greetings_heartbeats_and_answers_to_beats_are_ignored(dialect: Dialect) -> None:
    parser = parser_of(dialect)
    venue = VENUES[dialect.name]
    said = [*dialect.greeting, *dialect.heartbeats, *(dialect.answer(venue.beat) if venue.beat else ())]
    assert read(parser, *said) == []
    assert (parser.ignored, parser.errors, parser.foreign, parser.controls) == (len(said), 0, 0, [])


# --- trades -------------------------------------------------------------------------------------------------


@pytest.mark.claim("N4", "N10", "N12")
@each
def test_N4_N10_N12_trades_bear_their_markets_name_and_the_exact_numbers(dialect: Dialect) -> None:
    parser = parser_of(dialect)
    rows = [(7, "116147.61", "0.00026284", NOW), (8, "0.00001234", "123456.789", NOW + 1), (9, "9", "0", NOW + 999)]
    ticks = read(parser, *dialect.trades(dialect.market, rows), dialect.trade(dialect.other, 7, "1.5", "2", NOW))
    # And by the quick way, now that both markets are known.
    ticks += read(parser, *dialect.trades(dialect.market, rows), dialect.trade(dialect.other, 7, "1.5", "2", NOW))
    wanted = [("FIRST", float(price), float(size), ms, number) for number, price, size, ms in rows]
    assert plain(ticks) == [*wanted, ("SECOND", 1.5, 2.0, NOW, 7)] * 2
    assert {tick.source for tick in ticks if tick.symbol == "FIRST"} == {"src"}
    assert {tick.source for tick in ticks if tick.symbol == "SECOND"} == {f"src {dialect.other.upper()}"}
    assert (parser.errors, parser.ignored, parser.foreign, parser.error_streak) == (0, 0, 0, 0)


@pytest.mark.claim("N12")
@each
def test_N12_a_market_that_nobody_asked_for_is_foreign(dialect: Dialect) -> None:
    parser = parser_of(dialect)
    stranger = dialect.market.replace("BTC", "DOGE").replace("btc", "doge")
    for number in range(3):
        ticks = read(
            parser, dialect.trade(stranger, number, "1", "1", NOW), dialect.trade(dialect.market, number, "1", "1", NOW)
        )
        assert [tick.symbol for tick in ticks] == ["FIRST"]
    assert (parser.foreign, parser.errors, parser.ignored) == (3, 0, 0)
    assert parser.last_foreign.upper() == stranger.upper()


@pytest.mark.claim("N9")
@each
def test_N9_gaps_are_counted_where_the_venue_numbers_by_market_and_resends_are_duplicates(dialect: Dialect) -> None:
    streams = Streams()
    parser = parser_of(dialect, streams)
    venue = VENUES[dialect.name]
    intake = Intake(1, 1, is_sparse=lambda stream: not venue.consecutive_ids)
    said = [dialect.trade(dialect.market, number, "1", "1", NOW + number) for number in (1, 2, 3, 6, 7)]
    said += [dialect.trade(dialect.other, number, "1", "1", NOW + number) for number in (900, 901)]
    assert len(intake.admit(read(parser, *said))) == 7
    # A trade uses up its own id and no other.
    assert parser.numbers == []
    assert intake.admit(read(parser, *said)) == []
    assert (intake.received, intake.duplicates) == (7, 7)
    assert intake.gaps == (2 if dialect.numbers_by_market else 0)
    assert venue.consecutive_ids is dialect.numbers_by_market


@pytest.mark.claim("N11")
@each
def test_N11_ids_that_start_over_are_new_trades(dialect: Dialect) -> None:
    parser = parser_of(dialect)
    venue = VENUES[dialect.name]
    intake = Intake(1, 1, is_sparse=lambda stream: not venue.consecutive_ids)
    for start in (NOW, NOW + 3_600_000):
        said = [dialect.trade(dialect.market, number, "1", "1", start + number) for number in range(1, 6)]
        assert len(intake.admit(read(parser, *said))) == 5
        assert intake.admit(read(parser, *said)) == []


@pytest.mark.claim("N9")
def test_N9_fills_that_okx_merges_are_no_gap() -> None:
    dialect = OKXDialect()
    for turn in range(2):
        parser = parser_of(dialect)
        intake = Intake(1, 1)
        # The second time the market is known, and the quick reader reads it.
        first = read(parser, *[dialect.trade(dialect.market, 100, "1", "1", NOW)] * (1 + turn))
        merged = read(parser, dialect.trade(dialect.market, 105, "1", "3", NOW + 1, count=4))
        intake.admit(first + merged)
        intake.pass_numbers(parser.numbers)
        # 102 to 105 were one order's; 101 is missing.
        assert intake.gaps == 1
    parser = parser_of(dialect)
    read(parser, dialect.trade(dialect.market, 10**9, "1", "3", NOW, count=10**9))
    assert len(parser.numbers) == 1, "a peer cannot have us keep as many ids as it likes"


@pytest.mark.claim("N18", "N9")
@pytest.mark.parametrize("per_read", [1, 20, 100])
def test_N18_fills_that_okx_merges_are_no_gap_however_many_come_in_one_read(per_read: int) -> None:
    dialect = OKXDialect()
    parser = parser_of(dialect)
    intake = Intake(1, 1)
    said = [dialect.trade(dialect.market, 60 * number, "1", "1", NOW, count=60) for number in range(1, 101)]
    for at in range(0, len(said), per_read):
        intake.admit(read(parser, *said[at : at + per_read]))
        intake.pass_numbers(parser.numbers)
        parser.numbers.clear()
    assert (intake.received, intake.gaps) == (100, 0)


@pytest.mark.claim("N12")
def test_N12_a_block_trade_of_bybits_is_no_print_of_the_market() -> None:
    dialect = BybitDialect()
    parser = parser_of(dialect)
    said = [
        dialect.trade(dialect.market, 1, "1", "1", NOW),
        dialect.trade(dialect.market, 2, "9", "9", NOW, block=True),
    ]
    assert [tick.trade_id for tick in read(parser, *said, *said)] == [1, 1]
    assert (parser.ignored, parser.errors) == (2, 0)
    # Among others it hides none of them.
    several = json.loads(said[0])
    several["data"] += json.loads(said[1])["data"] + json.loads(dialect.trade(dialect.market, 3, "1", "1", NOW))["data"]
    assert [tick.trade_id for tick in read(parser, json.dumps(several))] == [1, 3]


@pytest.mark.claim("N9")
def test_N9_ids_of_bybits_are_numbers_or_names() -> None:
    dialect = BybitDialect()
    parser = parser_of(dialect)
    texts = [
        "2290000000036455162",
        "20f43950-d8dd-5b31-9112-a178eb6023af",
        str(MAX_TRADE_ID),
        str(MAX_TRADE_ID + 1),
        "٣٤",
    ]
    frames = [dialect.trade(dialect.market, 1, "1", "1", NOW).replace('"i": "1"', f'"i": "{text}"') for text in texts]
    wanted = [2290000000036455162, texts[1], MAX_TRADE_ID, texts[3], 34]
    for _ in range(2):
        assert [one[-1] for one in plain(read(parser, *frames))] == wanted
    too_long = dialect.trade(dialect.market, 1, "1", "1", NOW).replace('"i": "1"', '"i": "' + "\U0001f600" * 60 + '"')
    assert read(parser, too_long, too_long) == []
    assert parser.errors == 2


@pytest.mark.claim("N8b")
def test_N8b_coinbases_last_match_is_a_trade_of_before() -> None:
    dialect = CoinbaseDialect()
    intake = Intake(1, 1)
    parser = parser_of(dialect)
    last = dialect.trade(dialect.market, 7, "1", "1", NOW, kind="last_match")
    said = [last, dialect.trade(dialect.market, 8, "1", "1", NOW + 1)]
    assert len(intake.admit(read(parser, *said))) == 2
    # After a reconnect it is known already.
    again = dialect.trade(dialect.market, 8, "1", "1", NOW + 1, kind="last_match")
    assert intake.admit(read(parser, again)) == []


@pytest.mark.claim("N9", "N8b")
def test_N9_N8b_coinbases_heartbeat_says_which_trade_was_the_latest() -> None:
    dialect = CoinbaseDialect()
    parser = parser_of(dialect)
    read(parser, dialect.latest(dialect.market, 5), dialect.latest("DOGE-USD", 5))
    assert parser.latest == {}, "of a market without a trade it says nothing"
    read(parser, dialect.trade(dialect.other, 1, "1", "1", NOW), dialect.trade(dialect.market, 5, "1", "1", NOW))
    read(parser, dialect.latest(dialect.market, 6), dialect.latest(dialect.other, 7), dialect.latest(dialect.market, 8))
    assert parser.latest == {"src": 7, "src BTC-USD": 8}
    odds: list[Any] = [None, "9", 9.5, True, -1, 2**63, []]
    for odd in odds:
        read(parser, json.dumps({"type": "heartbeat", "product_id": dialect.market, "last_trade_id": odd}))
        read(parser, json.dumps({"type": "heartbeat", "product_id": odd, "last_trade_id": 9}))
    assert parser.latest == {"src": 7, "src BTC-USD": 8}
    assert (parser.errors, parser.foreign, parser.ignored) == (0, 0, 19)


# --- bad input ----------------------------------------------------------------------------------------------

FIELDS = {
    # dialect: (market, id, price, size, time) as they are called in a trade
    "binance": ("s", "t", "p", "q", "T"),
    "bitstamp": ("channel", "id", "price_str", "amount_str", "microtimestamp"),
    "bybit": ("s", "i", "p", "v", "T"),
    "coinbase": ("product_id", "trade_id", "price", "size", "time"),
    "gate": ("currency_pair", "id", "price", "amount", "create_time_ms"),
    "gemini": ("s", "t", "p", "q", "E"),
    "kraken": ("symbol", "trade_id", "price", "qty", "timestamp"),
    "okx": ("instId", "tradeId", "px", "sz", "ts"),
}


def row_of(frame: Any, name: str) -> dict[str, Any]:
    """The object within a frame that has the field `name`, the innermost one."""
    found: list[dict[str, Any]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if name in value:
                found.append(value)
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(frame)
    return found[-1]


def changed(dialect: Dialect, name: str, change: Callable[[dict[str, Any]], object]) -> str:
    frame = json.loads(dialect.trade(dialect.market, 5, "1.5", "2", NOW))
    change(row_of(frame, name))
    return json.dumps(frame)


def set_to(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda row: row.__setitem__(name, value)


BAD_NUMBERS: list[object] = [
    None,
    True,
    "",
    "x",
    "0x10",
    " 1",
    "1_0",
    [],
    {},
    "nan",
    "inf",
    "-inf",
    math.nan,
    math.inf,
    -1,
    "-0.1",
]
BAD_IDS: list[object] = [None, True, "", " 1", [], {}, 1.5, -1, 2**63, "9" * 5000]


@pytest.mark.claim("N8")
@each
def test_N8_bad_fields_are_one_error_each_and_never_a_tick(dialect: Dialect) -> None:
    _, number, price, size, at = FIELDS[dialect.name]
    cases: list[tuple[str, Callable[[dict[str, Any]], object]]] = []
    cases += [(name, set_to(name, value)) for name in (price, size, at) for value in BAD_NUMBERS]
    cases += [(price, set_to(price, value)) for value in (0, "0", "0.000", "1e999")]
    cases += [
        (number, set_to(number, value)) for value in BAD_IDS if dialect.name != "bybit" or isinstance(value, list)
    ]
    cases += [(name, lambda row, name=name: row.pop(name)) for name in (number, price, size, at)]  # type: ignore[misc]
    for name, change in cases:
        message = changed(dialect, name, change)
        for known in (False, True):
            parser = parser_of(dialect)
            if known:
                read(parser, dialect.trade(dialect.market, 4, "1", "1", NOW))
            ticks = read(parser, message)
            assert (ticks, parser.errors, parser.foreign) == ([], 1, 0), (message, parser.last_error)
            assert parser.last_error


BAD_MARKETS: list[object] = [
    None,
    True,
    7,
    1.5,
    [],
    {},
    "",
    "?",
    "x" * 129,
    "x" * 100_000,
    "BTC\u0000USD",
    "\u212aRAKEN",
    "\ud800",
]


@pytest.mark.claim("N12", "N8")
@each
def test_N12_N8_a_trade_of_no_market_or_of_another_is_never_a_tick(dialect: Dialect) -> None:
    """Counted once, as an error or as foreign; whichever way it is read."""
    field = FIELDS[dialect.name][0]
    prefix = "live_trades_" if dialect.name == "bitstamp" else ""
    values = [prefix + value if isinstance(value, str) else value for value in BAD_MARKETS]
    cases = [set_to(field, value) for value in [*values, dialect.market + "X", dialect.market[:-1]]]
    messages = [changed(dialect, field, change).encode("utf-8", "surrogatepass") for change in cases]
    messages.append(changed(dialect, field, lambda row: row.pop(field)).encode())
    good = dialect.trade(dialect.market, 5, "1.5", "2", NOW).encode()
    messages.append(good.replace(dialect.market.encode(), dialect.market.encode() + b"\xff"))
    for message in messages:
        for known in (False, True):
            parser = parser_of(dialect)
            if known:
                read(parser, dialect.trade(dialect.market, 4, "1", "1", NOW))
            assert read(parser, message) == [], message[:300]
            assert parser.errors + parser.foreign == 1, (message[:300], parser.last_error, parser.last_foreign)
            assert parser.ignored == 0
            assert len(parser.last_foreign) < 300
            assert (parser.last_foreign + str(parser.last_error)).isprintable()


@pytest.mark.claim("N8", "N8b")
@pytest.mark.parametrize("dialect", [KrakenDialect(), BybitDialect(), OKXDialect()], ids=lambda dialect: dialect.name)
def test_N8_N8b_a_message_of_several_trades_may_hold_anything(dialect: Dialect) -> None:
    frame = json.loads(dialect.trade(dialect.market, 5, "1.5", "2", NOW))
    [row] = frame["data"]
    for data, ticks, errors, ignored in (
        ([], 0, 0, 1),
        (None, 0, 1, 0),
        ({}, 0, 1, 0),
        ([None], 0, 1, 0),
        ([7, "x", [], {}, None], 0, 5, 0),
        ([None, row, [row], row], 2, 2, 0),
    ):
        for known in (False, True):
            parser = parser_of(dialect)
            if known:
                read(parser, dialect.trade(dialect.market, 4, "1", "1", NOW))
            found = read(parser, json.dumps(frame | {"data": data}))
            assert (len(found), parser.errors, parser.ignored) == (ticks, errors, ignored), data


@pytest.mark.slow
@pytest.mark.claim("N8")
@pytest.mark.parametrize("dialect", [KrakenDialect(), BybitDialect(), OKXDialect()], ids=lambda dialect: dialect.name)
def test_N8_4_MiB_of_trades_are_read_in_a_moment(dialect: Dialect) -> None:
    frame = json.loads(dialect.trade(dialect.market, 5, "1.5", "2", NOW))
    row = frame["data"][0]
    count = (MAX_MESSAGE_BYTES - 200) // (len(json.dumps(row)) + 2)
    frame["data"] = [row] * count
    message = json.dumps(frame).encode()
    assert 4_000_000 < len(message) <= MAX_MESSAGE_BYTES
    for known in (False, True):
        parser = parser_of(dialect)
        if known:
            read(parser, dialect.trade(dialect.market, 4, "1", "1", NOW))
        began = time.process_time()
        assert len(read(parser, message)) == count
        assert time.process_time() - began < 2.0
        assert len(parser.numbers) <= 4096


@pytest.mark.claim("N8")
@each
def test_N8_numbers_may_be_texts_and_texts_numbers_where_they_mean_the_same(dialect: Dialect) -> None:
    _, number, price, size, _ = FIELDS[dialect.name]
    for name, values in ((price, (1.5, "1.5")), (size, (2, "2", "2.0", 2.0)), (number, (5, "5"))):
        for value in values if (dialect.name, name) != ("bybit", number) else ("5",):
            ticks = read(parser_of(dialect), changed(dialect, name, set_to(name, value)))
            assert plain(ticks) == [("FIRST", 1.5, 2.0, NOW, 5)], (name, value)


@pytest.mark.claim("N8")
@each
def test_N8_other_fields_are_not_judged(dialect: Dialect) -> None:
    name = FIELDS[dialect.name][2]
    message = changed(dialect, name, lambda row: row.update(extra=None, more=["x", {"y": math.inf}], side=7, m="no"))
    for wanted in (1, 2):
        parser = parser_of(dialect)
        assert len(read(parser, *[message.replace("Infinity", "1e400")] * wanted)) in (0, wanted)
        message = message.replace("Infinity", "1")
        assert len(read(parser_of(dialect), *[message] * wanted)) == wanted


@pytest.mark.claim("N8")
@pytest.mark.parametrize(
    ("dialect", "times"),
    [
        # A unit that is not the venue's is an error, not another year.
        (
            BinanceDialect(),
            {
                10**12 - 1: None,
                10**12: 10**12,
                10**13 - 1: 10**13 - 1,
                10**13: None,
                10**15 - 1: None,
                10**15: 10**12,
                10**16 - 1: 10**13 - 1,
                10**16: None,
            },
        ),
        (OKXDialect(), {str(10**12): 10**12, str(10**12 - 1): None, str(10**13): None, f"{NOW}.5": None}),
        (BybitDialect(), {10**12: 10**12, 10**12 - 1: None, 10**13 - 1: 10**13 - 1, 10**13: None}),
        (
            BitstampDialect(),
            {str(10**15): 10**12, str(10**16 - 1): 10**13 - 1, str(10**15 - 1): None, str(10**16): None},
        ),
        (GeminiDialect(), {10**18: 10**12, 2**63 - 1: (2**63 - 1) // 10**6, 10**18 - 1: None, 2**63: None}),
        *(
            (
                dialect,
                {
                    "2001-09-09T01:46:40Z": 10**12,
                    "2001-09-09T01:46:39.999Z": None,
                    "1970-01-01T00:00:00Z": None,
                    "1969-12-31T23:59:59.999Z": None,
                    "2026-11-27T01:02:03Z": 1795741323000,
                    "2026-11-27T01:02:03.9Z": 1795741323900,
                    "2026-11-27T01:02:03.999999Z": 1795741323999,
                    "2026-11-27T01:02:03.123456789Z": 1795741323123,
                    "2026-11-27T02:02:03+01:00": 1795741323000,
                    "2026-11-27T01:02:03": None,
                    "2026-11-27": None,
                    "2026-02-30T00:00:00Z": None,
                    "2286-11-20T17:46:39.999Z": 10**13 - 1,
                    "2286-11-20T17:46:40Z": None,
                    "9999-12-31T23:59:59Z": None,
                    "now": None,
                },
            )
            for dialect in (CoinbaseDialect(), KrakenDialect())
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Dialect) else "",
)
def test_N8_times_at_the_edges(dialect: Dialect, times: dict[object, int | None]) -> None:
    at = FIELDS[dialect.name][4]
    for said, wanted in times.items():
        message = changed(dialect, at, set_to(at, said))
        parser = parser_of(dialect)
        read(parser, dialect.trade(dialect.market, 4, "1", "1", NOW))
        slowly, quickly = parser_of(dialect), parser
        for one in (slowly, quickly):
            ticks = read(one, message)
            assert [tick.ts for tick in ticks] == ([] if wanted is None else [wanted]), said
            assert one.errors == (wanted is None), said


@pytest.mark.claim("N8")
@each
def test_N8_a_time_in_a_wrong_unit_is_never_taken_for_another_time(dialect: Dialect) -> None:
    """Else it is of 1970, and every signal on it is stale. It may be understood, if it is understood rightly."""
    at = FIELDS[dialect.name][4]
    usable = changed(dialect, at, lambda row: None)
    numbers = [NOW // 1000, NOW, NOW * 1000, NOW * 10**6, 0, 1, 1000, 10**9 - 1, 10**11, 10**14, 10**17, 10**30]
    for said in [*numbers, *map(str, numbers), f"{NOW / 1000}", f"{NOW}.5", "1970-01-21T10:00:00Z", "1970-01-01"]:
        message = changed(dialect, at, set_to(at, said))
        slowly, quickly = parser_of(dialect), parser_of(dialect)
        read(quickly, usable)
        for parser in (slowly, quickly):
            ticks = read(parser, message)
            assert all(abs(tick.ts - NOW) <= 1000 for tick in ticks), (said, ticks)
            assert len(ticks) + parser.errors == 1, said


@pytest.mark.claim("N8")
@pytest.mark.parametrize("name", ["timestampms", "timestamp"])
def test_N8_a_time_in_a_wrong_unit_is_no_time_in_version_1_of_geminis(name: str) -> None:
    right = {"timestampms": NOW, "timestamp": NOW // 1000}[name]
    for unknown in ((), ({"type": "rubbish"},)):  # read quickly, and event by event
        trade = {"type": "trade", "tid": 1, "price": "1", "amount": "1", "makerSide": "ask"}
        frame = {"type": "update", "eventId": 1, "events": [trade, *unknown]}
        for said in (NOW // 1000, NOW, NOW * 1000, NOW * 10**6, 0, 1):
            parser = GeminiV1Parser("src", Markets("src", "BTC/USD", Streams(), {"BTCUSD": "BTC/USD"}))
            ticks = read(parser, json.dumps({**frame, name: said}))
            assert (len(ticks), parser.errors) == ((1, 0) if said == right else (0, 1)), said
            # What is not needed is not judged.
            [tick] = read(parser, json.dumps({**frame, "timestampms": NOW, "timestamp": said}))
            assert tick.ts == NOW
            before = parser.errors, parser.ignored + 1
            read(parser, json.dumps({**frame, "events": [{"type": "change"}, *unknown], name: said}))
            assert (parser.errors, parser.ignored) == before


@pytest.mark.claim("N18")
def test_N18_a_frame_of_version_1_that_cannot_be_used_is_not_lost() -> None:
    trade = {"type": "trade", "tid": 1, "price": "1", "amount": "1", "makerSide": "ask"}
    frames: list[dict[str, object]] = [
        {"timestampms": NOW // 1000, "events": [trade]},
        {"timestampms": NOW, "events": 7},
        {"timestampms": NOW, "events": [{**trade, "price": "x"}]},
        {"timestampms": NOW},
    ]
    parser = GeminiV1Parser("src", Markets("src", "BTC/USD", Streams(), {"BTCUSD": "BTC/USD"}))
    for sequence, frame in enumerate(frames):
        read(parser, json.dumps({"type": "update", "eventId": 1, "socket_sequence": sequence, **frame}))
    read(parser, json.dumps({"type": "heartbeat", "socket_sequence": len(frames)}))
    assert (parser.controls, parser.errors) == ([], len(frames))


@pytest.mark.claim("N8", "N8b")
@each
def test_N8_N8b_what_is_no_message_of_the_venues_gets_one_verdict(dialect: Dialect) -> None:
    unusable = [
        b"",
        b"x",
        b"\xff",
        b"[]",
        b"null",
        b"7",
        b'"trade"',
        b"{}",
        b'{"a":' * 9999,
        b"[" * 100_000,
        b"\x00\x01\x02",
    ]
    for message in unusable:
        parser = parser_of(dialect)
        assert read(parser, message) == []
        if message == b"{}" and dialect.name in ("binance", "gemini"):
            assert (parser.errors, parser.ignored) == (0, 1)
        else:
            assert (parser.errors, parser.ignored) == (1, 0), message
    unknown = [
        {"type": "brand_new", "event": "brand_new", "channel": "brand_new", "op": "brand_new", "e": "brand_new"},
        {"type": "status", "event": "x", "channel": "ohlc", "topic": "kline.1.BTCUSDT", "data": [{"p": 1}]},
    ]
    for value in unknown:
        parser = parser_of(dialect)
        assert read(parser, json.dumps(value)) == []
        assert (parser.errors, parser.ignored, parser.controls) == (0, 1, []), value


@pytest.mark.claim("N8")
@each
def test_N8_the_good_trades_of_a_message_are_saved(dialect: Dialect) -> None:
    rows = [(number, "1.5", "2", NOW) for number in range(4)]
    message, *more = dialect.trades(dialect.market, rows)
    if more:
        return  # one trade a message
    name = FIELDS[dialect.name][2]
    frame = json.loads(message)
    row_of(frame, name)[name] = "x"
    for known in (False, True):
        parser = parser_of(dialect)
        if known:
            read(parser, message)
        ticks = read(parser, json.dumps(frame))
        assert [tick.trade_id for tick in ticks] == [0, 1, 2]
        assert (parser.errors, parser.error_streak) == (1, 0)
    frame["data"] = []
    parser = parser_of(dialect)
    assert read(parser, json.dumps(frame)) == []
    assert (parser.errors, parser.ignored) == (0, 1)


@pytest.mark.slow
@pytest.mark.claim("N8")
@each
def test_N8_a_snapshot_of_4_MiB_is_read_in_a_moment(dialect: Dialect) -> None:
    row = json.dumps({"price": "1.5", "size": "2"})
    rows = ",".join([row] * (MAX_MESSAGE_BYTES // (len(row) + 1) - 100))
    message = f'{{"event":"x","op":"x","channel":"book","type":"snapshot","asks":[{rows}]}}'.encode()
    assert 4_000_000 < len(message) <= MAX_MESSAGE_BYTES
    parser = parser_of(dialect)
    began = time.process_time()
    assert read(parser, message) == []
    assert time.process_time() - began < 2.0
    assert (parser.ignored, parser.errors) == (1, 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def frames(draw: st.DrawFn) -> tuple[Dialect, list[bytes]]:
    """Messages of a venue's, some of them mangled; a foreign market's among them."""
    dialect = draw(st.sampled_from(ALL))()
    said: list[str] = [
        dialect.trade(dialect.market, 5, "1.5", "2", NOW),
        dialect.trade("DOGE-EUR", 5, "1.5", "2", NOW),
        *dialect.greeting,
        *dialect.heartbeats,
        *filter(None, [dialect.draining]),
        *(reply for message in subscription(dialect, names(dialect)).messages for reply in dialect.answer(message)),
    ]
    messages: list[bytes] = []
    for text in draw(st.lists(st.sampled_from(said), max_size=4)):
        match draw(st.integers(0, 3)):
            case 0:
                messages.append(text.encode())
            case 1:
                messages.append(draw(st.binary(max_size=40)))
            case 2:
                at = draw(st.integers(0, len(text)))
                messages.append(text.encode()[:at] + draw(st.binary(max_size=4)) + text.encode()[at:])
            case _ if text.startswith("{"):
                value = json.loads(text)
                inner = value
                while True:
                    key = draw(st.sampled_from(sorted(inner)))
                    below = inner[key]
                    if isinstance(below, list) and below and isinstance(below[0], dict):
                        below = below[0]
                    if not (isinstance(below, dict) and below and draw(st.booleans())):
                        break
                    inner = below
                inner[key] = draw(json_values)
                messages.append(json.dumps(value).encode("utf-8", "surrogatepass"))
    return dialect, messages


@pytest.mark.slow
@pytest.mark.claim("N8", "N12")
@given(frames())
def test_N8_N12_whatever_comes_is_booked_and_no_tick_is_of_another_market(drawn: tuple[Dialect, list[bytes]]) -> None:
    dialect, messages = drawn
    parser = parser_of(dialect)
    for message in messages:
        before = (parser.errors, parser.ignored, parser.foreign)
        ticks = read(parser, message)
        verdicts = sum(
            after > was for after, was in zip((parser.errors, parser.ignored, parser.foreign), before, strict=True)
        )
        assert verdicts + bool(ticks) >= 1
        for tick in ticks:
            assert tick.symbol in ("FIRST", "SECOND")
            assert 0 < tick.price < math.inf
            assert 0 <= tick.volume < math.inf
            assert 0 <= tick.ts < 10**14
            assert tick.trade_id is None or 0 <= tick.trade_id <= MAX_TRADE_ID


# --- what may be asked for (N13) ----------------------------------------------------------------------------


@pytest.mark.claim("N13")
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("binance", "btc-usdt"), ("bitstamp", "BTC/USD"), ("bybit", "btc/usdt"), ("coinbase", "btcusd"),
        ("gate", "btc_usdt"), ("gemini", "btc-usd"), ("kraken", "XBTUSD"), ("okx", "BTCUSDT"),
    ],
)  # fmt: skip
def test_N13_a_market_that_is_spelled_as_the_venue_has_none_is_refused(name: str, wrong: str) -> None:
    problem = VENUES[name].subscription(VENUES[name].url, {wrong: "X"}, "trade").problem
    assert problem is not None
    assert wrong in problem or "btcusdt@trade" in problem


@pytest.mark.claim("N13", "N18")
@pytest.mark.parametrize(
    ("name", "market", "asked"),
    [
        ("bitstamp", "btcusd-perp", "live_trades_btcusd-perp"),
        ("bybit", "1000000BABYDOGEUSDT", "publicTrade.1000000BABYDOGEUSDT"),
        ("bybit", "BTCUSDT-27DEC24", "publicTrade.BTCUSDT-27DEC24"),
        ("coinbase", "00-USD", "00-USD"),
        ("gemini", "BTCUSD", "btcusd@trade"),
        ("gemini", "btcgusdperp", "btcgusdperp@trade"),
        ("gemini", "gemi-btc05m2602251745-hi66750", "GEMI-BTC05M2602251745-HI66750@trade"),
        ("gemini", "GEMI-PRES2028-VANCE", "GEMI-PRES2028-VANCE@trade"),
        ("kraken", "AAPLx/USD", "AAPLx/USD"),
        ("kraken", "1INCH/EUR", "1INCH/EUR"),
        ("okx", "BTC-USD_UM-SWAP", "BTC-USD_UM-SWAP"),
        ("okx", "BTC-USD_UM-260925", "BTC-USD_UM-260925"),
        ("okx", "BTC-USD-260925-70000-C", "BTC-USD-260925-70000-C"),
    ],
)
def test_N13_N18_odd_names_that_a_venue_has_are_asked_for_as_it_writes_them(name: str, market: str, asked: str) -> None:
    found = VENUES[name].subscription(VENUES[name].url, {market: "X"}, "trade")
    assert found.problem is None
    assert f'"{asked}"' in found.messages[0]


@pytest.mark.claim("N12")
def test_N12_contracts_of_geminis_are_placed_whichever_way_they_are_written() -> None:
    dialect, market = GeminiDialect(), "GEMI-PRES2028-VANCE"
    parser = VENUES["gemini"].parser("", "src", Markets("src", "X", Streams(), {market: "VANCE"}))
    ticks = read(parser, *(dialect.trade(name, 1, "0.45", "10", NOW) for name in (market, market.lower())))
    assert [tick.symbol for tick in ticks] == ["VANCE", "VANCE"]


@pytest.mark.claim("N13")
@each
def test_N13_a_venue_is_reached_by_TLS_and_told_its_markets(dialect: Dialect) -> None:
    venue = VENUES[dialect.name]
    assert venue.subscription(venue.url, None, "trade").problem is not None or dialect.name == "gemini"
    bare = venue.url.replace("wss:", "ws:")
    problem = venue.subscription(bare, {dialect.market: "X"}, "trade").problem
    assert problem is not None
    assert "wss://" in problem
    # What a proxy or a mock exchange serves is its own business.
    assert venue.subscription("ws://127.0.0.1:1/ws", {dialect.market: "X"}, "trade").problem is None
    for domain in venue.testnets:
        doubts = venue.subscription(f"wss://{domain}{urlsplit(venue.url).path}", {dialect.market: "X"}, "trade").doubts
        assert any("test network" in doubt for doubt in doubts)


@pytest.mark.claim("N13")
@pytest.mark.parametrize(
    ("name", "market", "url"),
    [
        ("kraken", "BTC/USD", "wss://ws.kraken.com"),
        ("kraken", "BTC/USD", "wss://ws-auth.kraken.com/v2"),
        ("kraken", "BTC/USD", "wss://futures.kraken.com/ws/v1"),
        ("okx", "BTC-USDT", "wss://ws.okx.com:8443/ws/v5/private"),
        ("okx", "BTC-USDT", "wss://ws.okx.com:8443/ws/v5/business"),
        ("okx", "BTC-USDT", "wss://www.okx.com"),
        ("bybit", "BTCUSDT", "wss://stream.bybit.com/v5/private"),
        ("bybit", "BTCUSDT", "wss://stream.bybit.com/v5/public/option"),
        ("bybit", "BTCUSDT", "wss://stream.bybit.com/v5/public"),
        ("coinbase", "BTC-USD", "wss://ws-direct.exchange.coinbase.com"),
        ("coinbase", "BTC-USD", "wss://advanced-trade-ws.coinbase.com"),
        ("coinbase", "BTC-USD", "wss://ws-feed.prime.coinbase.com"),
        ("coinbase", "BTC-USD", "wss://ws-feed.pro.coinbase.com"),
        ("coinbase", "BTC-PERP", "wss://ws-md.international.coinbase.com"),
    ],
)
def test_N13_what_a_venue_serves_to_nobody_or_elsewhere_is_refused(name: str, market: str, url: str) -> None:
    problem = registry.subscription(None, url, {market: "X"}, "trade").problem
    assert problem == f"{name} serves no public trades there; use {VENUES[name].url}"
    # What a proxy or a mock exchange makes of a path is its own business.
    assert registry.subscription(name, "ws://127.0.0.1:9/any", {market: "X"}, "trade").problem is None


@pytest.mark.claim("N13")
@pytest.mark.parametrize(
    ("market", "url"),
    [
        ("BTC/USD", "wss://beta-ws.kraken.com/v2"),
        ("BTC-USDT", "wss://wsus.okx.com:8443/ws/v5/public"),
        ("BTC-USDT", "wss://wseea.okx.com:8443/ws/v5/public"),
        ("BTCUSDT", "wss://stream.bybit.com/v5/public/linear"),
        ("BTCUSD", "wss://stream-testnet.bybit.com/v5/public/inverse"),
        ("BTCUSDT", "wss://stream.bybit-tr.com/v5/public/spot"),
        ("BTC-USD", "wss://ws-feed-public.sandbox.exchange.coinbase.com"),
        ("btcusd", "wss://ws.gemini.com?snapshot=-1"),
        *((dialect.market, registry.find(dialect.name).url) for dialect in DIALECTS),
    ],
)
def test_N13_what_a_venue_serves_to_everybody_is_not(market: str, url: str) -> None:
    assert registry.subscription(None, url, {market: "X"}, "trade").problem is None


@pytest.mark.claim("N4")
def test_N4_hosts_tell_their_venue() -> None:
    for name in registry.names():
        assert registry.venue_of(None, registry.find(name).url).name == name
    for url in ("ws://127.0.0.1:9", "wss://notkraken.com", "wss://kraken.com.test"):
        assert registry.venue_of(None, url).name == "mock"


@pytest.mark.claim("N4")
def test_N4_binance_is_subscribed_to_where_its_URL_asks_for_that() -> None:
    venue = registry.find("binance")
    table = {"btcusdt": "BTC/USDT", "ETHUSDT": "ETH/USDT"}
    found = venue.subscription("wss://stream.binance.us:9443/stream", table, "aggTrade")
    [message] = found.messages
    assert json.loads(message) == {"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade", "ethusdt@aggTrade"], "id": 1}
    assert found.markets == ("BTCUSDT", "ETHUSDT")
    assert venue.subscription("wss://stream.binance.com/ws/btcusdt@trade", table, "trade").messages == ()
    # Futures that are silent where they are asked for trades.
    silent = venue.subscription("wss://fstream.binance.com/ws", {"BTCUSDT": "X"}, "aggTrade")
    assert "/market" in (silent.problem or "")


@pytest.mark.claim("N13")
def test_N13_version_1_of_geminis_is_a_warning() -> None:
    found = registry.find("gemini").subscription("wss://api.gemini.com/v1/marketdata/btcusd", None, "trade")
    assert (found.markets, found.problem, found.messages) == (("BTCUSD",), None, ())
    assert "deprecated" in found.doubts[-1]


@pytest.mark.claim("N18", "N9")
def test_N18_frames_that_geminis_version_1_numbered_and_never_sent_are_told() -> None:
    parser = GeminiV1Parser("src", Markets("src", "X", Streams(), {"BTCUSD": "X"}))
    trade = {"type": "trade", "tid": 5, "price": "1.5", "amount": "2"}
    for sequence, events in (
        (0, []),
        (1, [trade]),
        (4, [trade]),
        (5, ["?"]),
        (6, []),
        (0, []),
        ("x", [trade]),
        (3, []),
    ):
        frame = {"type": "update", "timestampms": NOW, "events": events, "socket_sequence": sequence}
        read(parser, json.dumps(frame))
        if sequence == 6:
            read(parser, '{"type": "heartbeat", "socket_sequence": 7}')
    # A new connection begins with 0; what is no number counts nothing.
    assert parser.controls == [Lost(2), Lost(2)]


@pytest.mark.claim("N18")
def test_N18_what_a_connection_says_when_it_is_gone_is_not_taken_for_its_successors() -> None:
    parser = parser_of(KrakenDialect())
    source = session.Source("kraken", "ws://127.0.0.1:1", "127.0.0.1", 1)
    line = connected.FeedLine(None, 1, source, Messages(parser, 100))  # type: ignore[arg-type]
    line.dead = True
    line.text(b'{"success": false, "error": "late"}')
    line.flush()
    assert parser.controls == []


@pytest.mark.claim("N18")
def test_N18_connections_are_replaced_and_venues_are_told_in_time() -> None:
    """Binance ends them after 24 hours; OKX hangs up after 30 s without a word, Bybit wants one each 20."""
    assert registry.find("binance").max_age_secs == 23.5 * 3600
    assert 0 < registry.find("okx").beat_secs < 30
    assert 0 < registry.find("bybit").beat_secs <= 20


# --- venues of other packages (N19) -------------------------------------------------------------------------


@pytest.mark.claim("N19")
def test_N19_the_venue_of_the_documentation_is_short_and_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(example().splitlines()) <= 80
    (tmp_path / "gate.py").write_text(example())
    info = tmp_path / "gate_venue-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gate-venue\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[hybrid_engine.venues]\ngate = gate:Gate\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "gate" in registry.names()
    assert registry.find("GATE").url == "wss://api.gateio.ws/ws/v4/"


class Theirs(Kraken):
    """A venue that somebody makes of one of ours, and does not rename."""


@pytest.mark.claim("N19")
@pytest.mark.parametrize("name", ["mykraken", "MyKraken"])
def test_N19_a_venue_is_called_what_its_entry_point_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    point = EntryPoint(name, f"{__name__}:Theirs", registry.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda _: Theirs)
    monkeypatch.setattr(registry, "_others", lambda: [point])
    for asked in (name, name.lower(), name.upper()):
        found = registry.find(asked)
        assert (type(found), found.name) == (Theirs, name)
    assert registry.find("kraken").name == "kraken"


@pytest.mark.claim("N19")
@pytest.mark.parametrize(
    ("module", "why"),
    [("raise RuntimeError('boom')", "RuntimeError: boom"), ("Gate = 7", "not a Venue but int"), ("", "AttributeError")],
)
def test_N19_one_that_cannot_be_loaded_is_a_mistake_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, why: str
) -> None:
    name = f"broken_{abs(hash(module))}"
    (tmp_path / f"{name}.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("broken", f"{name}:Gate", registry.GROUP)
    monkeypatch.setattr(registry, "_others", lambda: [point])
    with pytest.raises(ConfigError, match=re.escape(why)):
        registry.find("broken")


def _raises(*_: object) -> NoReturn:
    raise Odd("boom")


@pytest.mark.claim("N19")
@pytest.mark.parametrize(
    ("makes_up", "why"),
    [
        ({"subscribe": _raises}, "Odd: boom"),
        ({"subscribe": lambda *_: [b"bytes"]}, "TypeError: what it sends is text, not bytes"),
        ({"subscribe": lambda *_: None}, "TypeError"),
        ({"subscription": _raises}, "Odd: boom"),
        ({"subscription": lambda *_: None}, "AttributeError"),
        ({"market": "("}, "unterminated subpattern"),
        ({"beat": b"ping"}, "TypeError: what it sends is text, not bytes"),
        ({"beat_secs": "5"}, "beat_secs '5'"),
        ({"beat_secs": math.nan}, "beat_secs nan"),
        ({"max_age_secs": -1}, "max_age_secs -1"),
    ],
)
def test_N19_one_that_cannot_say_what_to_send_is_a_mistake_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, makes_up: Mapping[str, object], why: str
) -> None:
    theirs = type("Made", (Kraken,), dict(makes_up))
    monkeypatch.setattr(EntryPoint, "load", lambda _: theirs)
    monkeypatch.setattr(registry, "_others", lambda: [EntryPoint("made", "made:Made", registry.GROUP)])
    source = Source(name="a", priority=0, venue="made", url="wss://made.test", markets={"BTC/USD": "X"})
    with pytest.raises(ConfigError, match=re.escape(why)) as refused:
        settings.check_source(source, Path("sources.yaml"), "X")
    assert "'made'" in str(refused.value)


class Odd(Exception):
    """Of another package, and of no kind that anybody knows."""


RAISED: dict[bytes, Exception] = {
    b"key": KeyError("x"), b"runtime": RuntimeError("x"), b"file": OSError(2, "x"), b"odd": Odd("x"),
}  # fmt: skip


class Rude(Venue):
    """Raises what it likes, and makes up what it likes."""

    name = "rude"

    def read(self, message: bytes) -> list[Trade]:
        if message in RAISED:
            raise RAISED[message]
        price: Any = {
            b"nan": math.nan, b"zero": 0.0, b"inf": math.inf, b"exact price": Decimal(1), b"text price": "1",
            b"true": True,
        }.get(message, 1.0)  # fmt: skip
        volume: Any = {b"volume": -1.0, b"exact volume": Decimal(1), b"no volume": None}.get(message, 1.0)
        ts: Any = {b"ts": NOW // 1000, b"half a ts": NOW + 0.5, b"text ts": str(NOW)}.get(message, NOW)
        number: Any = {b"id": -1, b"name": "x" * 129, b"half an id": 7.5, b"true id": True, b"bytes": b"7"}.get(
            message, 7
        )
        count: Any = {b"half a count": 1.5, b"text count": "2", b"no count": None}.get(message, 1)
        return [Trade("A", price, volume, ts, number, count)]


class Hasty(Rude):
    """With a quick reader that raises whatever it likes, too, in the midst of a message."""

    def fast(self, parser: VenueParser) -> ParseInto:
        def parse_into(message: Message, out: list[Tick]) -> None:
            out.append(Tick("src", "X", 1.0, 1.0, NOW, 1))
            raise Odd("x")

        return parse_into


@pytest.mark.claim("N19", "N8")
def test_N19_N8_what_another_packages_quick_reader_raises_is_booked() -> None:
    parser = Hasty().parser("", "src", Markets("src", "X", Streams(), {"A": "X"}))
    assert read(parser, *RAISED, b"nan") == []
    assert (parser.errors, parser.error_streak) == (len(RAISED) + 1,) * 2
    assert [tick.trade_id for tick in read(parser, b"good")] == [7]


@pytest.mark.claim("N19")
@pytest.mark.parametrize("what", ["parser", "fast"])
def test_N19_one_whose_reader_cannot_be_made_is_a_mistake_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    theirs = type("Made", (Kraken,), {what: _raises})
    monkeypatch.setattr(EntryPoint, "load", lambda _: theirs)
    monkeypatch.setattr(registry, "_others", lambda: [EntryPoint("made", "made:Made", registry.GROUP)])
    with pytest.raises(ConfigError, match="'made': it cannot read: Odd: boom"):
        registry.parser("made", "wss://made.test", "a", Markets("a", "X", Streams()))


@pytest.mark.claim("N19")
def test_N19_what_another_packages_venue_says_is_checked() -> None:
    parser = Rude().parser("", "src", Markets("src", "X", Streams(), {"A": "X"}))
    bad = [
        *RAISED, b"nan", b"zero", b"inf", b"id", b"name", b"volume", b"ts", b"exact price", b"text price", b"true",
        b"exact volume", b"no volume", b"half a ts", b"text ts", b"half an id", b"true id", b"bytes",
        b"half a count", b"text count", b"no count",
    ]  # fmt: skip
    assert read(parser, *bad) == []
    assert (parser.errors, parser.error_streak) == (len(bad), len(bad))
    assert [tick.trade_id for tick in read(parser, b"good")] == [7]
    assert parser.error_streak == 0


SHORTEST: dict[str, tuple[str, str]] = {
    "bybit": ('{"topic":"publicTrade.X","data":[%s]}', '{"s":"X","i":"1","p":1,"v":1,"T":1700000000000}'),
    "okx": (
        '{"arg":{"channel":"trades"},"data":[%s]}', '{"instId":"X","tradeId":1,"px":1,"sz":1,"ts":1700000000000}',
    ),
    "gemini": (
        '{"type":"update","timestampms":1700000000000,"events":[%s]}',
        '{"type":"trade","tid":1,"price":1,"amount":1}',
    ),
}  # fmt: skip
"""A message, and a trade of fewer bytes than any that the venue sends."""


@pytest.mark.slow
@pytest.mark.claim("B4", "N8")
@pytest.mark.parametrize("venue", SHORTEST)
def test_B4_N8_more_trades_than_a_message_may_have_are_none(venue: str) -> None:
    """Whichever reader reads it."""
    url = "wss://api.gemini.com/v1/marketdata/x" if venue == "gemini" else "wss://x.test"
    parser = VENUES[venue].parser(url, "src", Markets("src", "X", Streams(), {"X": "X"}))
    message, row = SHORTEST[venue]
    assert len(read(parser, message % row)) == 1
    too_many = message % ",".join([row] * (ROWS_MAX + 1))
    assert len(too_many) <= MAX_MESSAGE_BYTES
    assert (read(parser, too_many), parser.errors) == ([], 1)
    assert len(read(parser, message % ",".join([row] * ROWS_MAX))) == ROWS_MAX


# --- the everyday message -----------------------------------------------------------------------------------


@pytest.mark.claim("N8")
@each
@pytest.mark.parametrize("markets", [1, 2])
def test_N8_a_trade_ends_a_streak_whichever_reader_reads_it(dialect: Dialect, markets: int) -> None:
    """The first of a market, and those that come when it is known."""
    parser = parser_of(dialect)
    for number in range(1, 9):
        market = (dialect.market, dialect.other)[number % markets]
        assert read(parser, "{", "[]") == []
        assert (parser.errors, parser.error_streak) == (2 * number, 2)
        assert len(read(parser, dialect.trade(market, number, "1.5", "2", NOW + number))) == 1
        assert (parser.errors, parser.error_streak) == (2 * number, 0)


class Counted(Markets):
    """That knows how often it was asked for a place."""

    asked_for = 0

    def place(self, market: str, kind: str) -> tuple[str, str] | None:
        self.asked_for += 1
        return super().place(market, kind)


@pytest.mark.parametrize("dialect", [dialect() for dialect in DIALECTS], ids=[dialect.name for dialect in DIALECTS])
@pytest.mark.parametrize("markets", [1, 2])
def test_of_a_market_that_is_known_nobody_asks_again(dialect: Dialect, markets: int) -> None:
    """Which is what makes the everyday message quick."""
    asked = {market.upper(): name for market, name in names(dialect).items()}
    counted = Counted("src", "none", Streams(), asked)
    parser = VENUES[dialect.name].parser(VENUES[dialect.name].url, "src", counted)

    def trades(first: int) -> list[str]:
        places = (dialect.market, dialect.other)[:markets]
        return [
            dialect.trade(market, number, "1.5", "2", NOW + number)
            for number in range(first, first + 5)
            for market in places
        ]

    assert len(read(parser, *trades(1))) == 5 * markets
    before = counted.asked_for
    assert len(read(parser, *trades(6))) == 5 * markets
    assert counted.asked_for == before


# --- the whole engine ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.claim("N18", "N4")
@pytest.mark.parametrize("transport", ["picows", "websockets"])
def test_N18_an_engine_subscribes_beats_and_replaces_a_connection_that_will_be_closed(
    tmp_path: Path, transport: str
) -> None:
    """Bybit never acknowledges, and is left; OKX does, and says that it is about to close."""

    class Silent(BybitDialect):
        def answer(self, message: str) -> list[str]:
            return []

    with Exchange() as better, Exchange() as exchange:
        better.speak(Silent())
        exchange.speak(dialect := OKXDialect())
        (tmp_path / "ws_sources.toml").write_text(
            f'[[source]]\nname = "mute"\nvenue = "bybit"\nurl = "{better.url}"\npriority = 1\n'
            'markets = { BTCUSDT = "B" }\n'
            f'[[source]]\nname = "okx"\nvenue = "okx"\nurl = "{exchange.url}"\npriority = 2\n'
            'markets = { BTC-USDT = "FIRST", ETH-USDT = "SECOND" }\n'
        )
        options = {"subscribe_timeout_secs": 0.3, "max_connects_per_minute": 6000, "max_backoff_secs": 30}
        config = write_config(tmp_path, {"engine": options})
        with engine(tmp_path, "--config", str(config), "--ingest", "realws", HYBRID_TRANSPORT=transport) as running:
            dropped = running.wait_line("connection dropped")
            assert dropped["reason"] == "the subscription was not acknowledged within 0.3 s"
            exchange.wait_heard(1)
            exchange.send_raw([dialect.trade("BTC-USDT", 1, "1.5", "2", NOW), dialect.draining])
            running.wait_line("the server is about to close")
            exchange.wait_heard(2)
            # Both connections get it; whichever is first, it is one tick.
            exchange.send_raw([dialect.trade("ETH-USDT", number, "2.5", "1", NOW + number) for number in range(1, 30)])
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 30)
            assert running.stop() == 0
            final = running.final()
            assert (final["gaps"], final["parse_errors"]) == (0, 0)
    asked = [{"channel": "trades", "instId": market} for market in ("BTC-USDT", "ETH-USDT")]
    assert [json.loads(text) for text in exchange.heard if text != "ping"] == [{"op": "subscribe", "args": asked}] * 2


@pytest.mark.claim("N17", "N18")
def test_N17_N18_whatever_a_venue_says_has_words() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert port.words(10**5000, "no") == "a number of 16610 bits: no"
    assert port.words(nested) == "a list"
    assert port.words(1, None, "", "x" * 500) == f"1: {'x' * 197}"


class _OfSeconds(port.Venue):
    name = "seconds"

    def read(self, message: bytes) -> list[port.Said]:
        return [port.Trade("A", 1.0, 1.0, int(message))]


@pytest.mark.claim("N8", "N19")
@pytest.mark.parametrize("ts", [1_700_000_000, 10**9, 10**11 - 1, 10**14, -1])
def test_N8_N19_a_trade_whose_time_is_not_in_milliseconds_is_unusable(ts: int) -> None:
    parser = _OfSeconds().parser("wss://x.test", "a", Markets("a", "A", Streams()))
    ticks: list[Tick] = []
    parser.parse_into(str(ts).encode(), ticks)
    assert (ticks, parser.errors) == ([], 1)
    assert "expected milliseconds" in str(parser.last_error)
    parser.parse_into(b"1700000000000", ticks)
    assert [tick.ts for tick in ticks] == [1_700_000_000_000]
