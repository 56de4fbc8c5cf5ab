"""Contract N3, N4, N8, N8b, N10, B5: bytes of one message -> ticks, and the books of what is none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.base.events import Tick
from engine.ingest.venues.binance import BinanceParser
from engine.ingest.venues.gemini import GeminiV1Parser
from engine.ingest.venues.markets import Markets, Streams
from engine.ingest.venues.port import MAX_MESSAGE_BYTES, MAX_TEXT_CHARS, MAX_TRADE_ID, Parser
from engine.ingest.venues.registry import find, venue_of
from engine.ingest.venues.wire import SYMBOLS_MAX, TickParser

FRAMES = Path(__file__).parents[1] / "fixtures" / "frames"
MESSAGES = [json.loads(line) for line in (FRAMES / "messages.jsonl").read_text().splitlines()]

BINANCE = {"e": "trade", "s": "BTCUSDT", "t": 5, "p": "1.5", "q": "2", "T": 1_700_000_000_000}
MOCK = {"event_id": 5, "symbol": "SOL/USDC", "price": 1.5, "volume": 2, "ts": 1_700_000_000_000}
GEMINI_TRADE = {"type": "trade", "tid": 5, "price": "1.5", "amount": "2", "makerSide": "bid"}
GEMINI = {"type": "update", "timestampms": 1_700_000_000_000, "events": [GEMINI_TRADE]}


class Kind(StrEnum):
    """The readers that this file is about."""

    MOCK = "mock"
    BINANCE = "binance"
    GEMINI = "gemini"
    REPLAY = "replay"


def parser_for(kind: Kind, source: str, markets: Markets) -> Parser:
    if kind is Kind.BINANCE:
        return BinanceParser(source, markets)
    if kind is Kind.GEMINI:
        return GeminiV1Parser(source, markets)
    return TickParser(source, markets, replayed=kind is Kind.REPLAY)


def parse(kind: Kind, *messages: bytes) -> tuple[list[Tick], Parser]:
    parser = parser_for(kind, "src", Markets("src", "SYM", Streams()))
    ticks: list[Tick] = []
    for message in messages:
        parser.parse_into(message, ticks)
    return ticks, parser


def one(kind: Kind, field: str, raw: str) -> tuple[list[Tick], Parser]:
    """Parse the sample message of `kind` with one field's value replaced by the JSON text `raw`."""
    sample = {Kind.BINANCE: BINANCE, Kind.MOCK: MOCK, Kind.GEMINI: GEMINI_TRADE}[kind]
    text = json.dumps({**sample, field: "@"}).replace('"@"', raw)
    if kind is Kind.GEMINI:
        text = json.dumps({**GEMINI, "events": ["@"]}).replace('"@"', text)
    return parse(kind, text.encode("utf-8", "surrogatepass"))


@pytest.mark.claim("N4", "N8", "N8b")
@pytest.mark.parametrize("row", MESSAGES, ids=[f"{row['kind']}-{row['why']}" for row in MESSAGES])
def test_N4_N8_N8b_recorded_and_made_messages(row: dict[str, Any]) -> None:
    ticks, parser = parse(Kind(row["kind"]), row["message"].encode())
    assert [[t.symbol, t.price, t.volume, t.ts, t.trade_id, t.event_id] for t in ticks] == row["ticks"]
    assert (parser.ignored, parser.errors) == (row["ignored"], row["errors"])
    assert all(t.source == "src" and t.id == 0 for t in ticks)


@pytest.mark.claim("N8b")
def test_N8b_real_gemini_frames_are_ignored() -> None:
    lines = (FRAMES / "gemini_real.jsonl").read_bytes().splitlines()
    ticks, parser = parse(Kind.GEMINI, *lines)
    assert (ticks, parser.ignored, parser.errors) == ([], len(lines), 0)


@pytest.mark.claim("N8")
def test_N8_first_gemini_frame_of_600_KB_is_read() -> None:
    first = json.loads((FRAMES / "gemini_real.jsonl").read_bytes().splitlines()[0])
    first["events"] = first["events"] * (600_000 // len(json.dumps(first["events"])) + 1)
    message = json.dumps(first).encode()
    assert 600_000 <= len(message) <= MAX_MESSAGE_BYTES
    ticks, parser = parse(Kind.GEMINI, message)
    assert (ticks, parser.ignored, parser.errors) == ([], 1, 0)

    first["events"].append(GEMINI_TRADE)
    first["timestampms"] = 10**12 + 7
    ticks, parser = parse(Kind.GEMINI, json.dumps(first).encode())
    assert [(t.price, t.ts) for t in ticks] == [(1.5, 10**12 + 7)]


NOT_A_NUMBER = ["null", "true", '""', '"x"', '"0x10"', '" 1"', '"1_0"', "[]", "{}", "NaN", "Infinity", '"nan"']
OUT_OF_RANGE = ['"inf"', '"-inf"', "1e999", '"1e999"', "-1", '"-0.1"']
PRICES, VOLUMES, IDS, TIMES = (
    {Kind.BINANCE: "p", Kind.MOCK: "price", Kind.GEMINI: "price"},
    {Kind.BINANCE: "q", Kind.MOCK: "volume", Kind.GEMINI: "amount"},
    {Kind.BINANCE: "t", Kind.GEMINI: "tid"},
    {Kind.BINANCE: "T", Kind.MOCK: "ts"},
)


@pytest.mark.claim("N8", "N2b")
@pytest.mark.parametrize("kind", [Kind.MOCK, Kind.REPLAY])
@pytest.mark.parametrize(
    ("ts", "unit"),
    [
        (10**9 - 1, None),
        (10**9, "seconds"),
        (10**11 - 1, "seconds"),
        (10**11, None),
        (10**14 - 1, None),
        (10**14, "microseconds"),
        (1_700_000_000_000_000, "microseconds"),
        (10**17 - 1, "microseconds"),
        (10**17, "nanoseconds"),
        (1_700_000_000_000_000_000, "nanoseconds"),
        (2**70, "nanoseconds"),
    ],
)
def test_N8_a_time_in_another_unit_is_called_by_its_unit(kind: Kind, ts: int, unit: str | None) -> None:
    """A tick that somebody made up may be of any year, and one of 1970 is no mistake unless it is in a file."""
    parser = parser_for(kind, "src", Markets("src", "SYM", Streams()))
    ticks: list[Tick] = []
    parser.parse_into(json.dumps({**MOCK, "ts": ts}).encode(), ticks)
    if unit is None or (unit == "seconds" and kind is Kind.MOCK):
        assert ([tick.ts for tick in ticks], parser.errors) == ([ts], 0)
    else:
        assert ticks == []
        assert parser.last_error is not None
        assert f" ts is in {unit}, expected milliseconds" in parser.last_error


@pytest.mark.claim("N8")
@pytest.mark.parametrize("kind", [Kind.BINANCE, Kind.MOCK, Kind.GEMINI])
def test_N8_bad_numbers_are_one_error(kind: Kind) -> None:
    cases = [(PRICES, raw) for raw in [*NOT_A_NUMBER, *OUT_OF_RANGE, "0", '"0.000"', "-0.0"]]
    cases += [(VOLUMES, raw) for raw in NOT_A_NUMBER + OUT_OF_RANGE]
    cases += [(IDS, raw) for raw in [*NOT_A_NUMBER, *OUT_OF_RANGE, "1.5", str(2**63), "9" * 5000]]
    cases += [(TIMES, raw) for raw in [*NOT_A_NUMBER, *OUT_OF_RANGE, "1.5", str(10**17), str(2**63)]]
    for fields, raw in cases:
        if kind in fields:
            ticks, parser = one(kind, fields[kind], raw)
            assert (ticks, parser.errors, parser.ignored) == ([], 1, 0), (fields[kind], raw[:20])
            assert parser.last_error is not None


@pytest.mark.claim("N8")
def test_N8_ids_at_the_limits_are_fine() -> None:
    for kind, field in (*IDS.items(), (Kind.MOCK, "event_id")):
        for trade_id in (0, MAX_TRADE_ID):
            ticks, _ = one(kind, field, str(trade_id))
            assert [t.trade_id for t in ticks] == [trade_id]
    ticks, _ = one(Kind.MOCK, "event_id", json.dumps("x" * MAX_TEXT_CHARS))
    assert [t.event_id for t in ticks] == ["x" * MAX_TEXT_CHARS]


@pytest.mark.claim("N8")
@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    "message",
    [b"\xff\xfe", b'{"e":"\xff"}', b'{"type":"\xff"}', b'{"x":' + b"[" * 100_000, b'{"a":' * 20_000, b"\x00"],
)
def test_N8_invalid_utf8_and_deep_nesting_are_errors(kind: Kind, message: bytes) -> None:
    ticks, parser = parse(kind, message)
    assert (ticks, parser.errors, parser.ignored, parser.error_streak) == ([], 1, 0, 1)


@pytest.mark.claim("N8")
def test_N8_the_reason_is_short_and_printable() -> None:
    for message in (b'{"e":"trade\x1b[31m', b"\x1b[2J" * 500, json.dumps({"e": "trade", "t": "\u202e" * 999}).encode()):
        _, parser = parse(Kind.BINANCE, message)
        assert parser.last_error is not None
        assert len(parser.last_error) <= 120
        assert parser.last_error.isascii()
        assert parser.last_error.isprintable()


@pytest.mark.claim("N8")
def test_N8_consecutive_unusable_messages_are_counted() -> None:
    """`parse_error_limit` (exit 11) is about messages since the last tick: ignored ones are no progress (N8b)."""
    good, bad = json.dumps(BINANCE).encode(), b"rubbish"
    parser = parser_for(Kind.BINANCE, "src", Markets("src", "SYM", Streams()))
    streaks = []
    for message in (bad, bad, good, bad, b'{"result":null,"id":1}', bad, bad):
        parser.parse_into(message, [])
        streaks.append(parser.error_streak)
    assert streaks == [1, 2, 0, 1, 1, 2, 3]
    parser.refuse("binary frame", memoryview(b"\x00\x01"))
    assert (parser.errors, parser.error_streak) == (6, 4)
    assert parser.last_error == "binary frame: \\x00\\x01"


@pytest.mark.claim("N8")
def test_N8_a_gemini_frame_is_one_message_of_a_streak() -> None:
    bad = {**GEMINI_TRADE, "price": "0"}
    parser = parser_for(Kind.GEMINI, "src", Markets("src", "SYM", Streams()))
    for events, errors, streak in (([bad, bad], 2, 1), ([bad], 3, 2), ([bad, GEMINI_TRADE], 4, 0)):
        parser.parse_into(json.dumps({**GEMINI, "events": events}).encode(), [])
        assert (parser.errors, parser.error_streak) == (errors, streak)


@pytest.mark.claim("N10")
def test_N10_the_symbol_is_the_sources_own() -> None:
    for kind, message, symbol in (
        (Kind.BINANCE, BINANCE, "SYM"),
        (Kind.GEMINI, GEMINI, "SYM"),
        (Kind.MOCK, MOCK, "SOL/USDC"),
    ):
        ticks, _ = parse(kind, json.dumps(message).encode())
        assert [t.symbol for t in ticks] == [symbol]


@pytest.mark.claim("N4")
def test_N4_binance_shape_may_change_between_connections() -> None:
    plain = json.dumps(BINANCE).encode()
    combined = json.dumps({"stream": "btcusdt@trade", "data": BINANCE}).encode()
    ticks, parser = parse(Kind.BINANCE, plain, combined, combined, plain, combined)
    assert len(ticks) == 5
    assert parser.errors == 0


@pytest.mark.claim("N3")
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_N3_every_buffer_type_is_read(wrap: Callable[[bytes], Any]) -> None:
    for kind, message in ((Kind.MOCK, MOCK), (Kind.BINANCE, BINANCE), (Kind.GEMINI, GEMINI)):
        ticks, _ = parse(kind, wrap(json.dumps(message).encode()))
        assert len(ticks) == 1
        _, parser = parse(kind, wrap(b"rubbish"))
        assert parser.errors == 1


@pytest.mark.claim("N4")
@pytest.mark.parametrize(
    ("venue", "url", "kind"),
    [
        (None, "wss://stream.binance.com:9443/ws/btcusdt@trade", Kind.BINANCE),
        (None, "wss://data-stream.binance.vision/ws/btcusdt@trade", Kind.BINANCE),
        (None, "wss://STREAM.Binance.US/ws", Kind.BINANCE),
        (None, "wss://api.gemini.com/v1/marketdata/BTCUSD", Kind.GEMINI),
        (None, "wss://api.sandbox.gemini.com/v1/marketdata/BTCUSD", Kind.GEMINI),
        (None, "ws://localhost:9001", Kind.MOCK),
        (None, "ws://127.0.0.1/binance.com", Kind.MOCK),
        (None, "wss://notbinance.com/", Kind.MOCK),
        ("binance", "ws://127.0.0.1:1", Kind.BINANCE),
        ("Gemini", "wss://stream.binance.com", Kind.GEMINI),
    ],
)
def test_N4_venue_or_host_decides_the_dialect(venue: str | None, url: str, kind: Kind) -> None:
    assert venue_of(venue, url).name == kind


@pytest.mark.claim("N4")
def test_N4_an_unknown_venue_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"venue 'krake': allowed are 'binance', 'bitstamp', .*'okx'"):
        find("krake")


# --- markets (N12) ------------------------------------------------------------------------------------------


def of(market: str, trade_id: int = 5, **more: object) -> dict[str, object]:
    return {**BINANCE, "s": market, "t": trade_id, **more}


def combined(message: dict[str, object]) -> bytes:
    return json.dumps({"stream": f"{str(message['s']).lower()}@{message['e']}", "data": message}).encode()


TWO = {"BTCUSDT": "BTC/USDT", "ETHUSDT": "ETH/USDT"}


@pytest.mark.claim("N12")
@pytest.mark.parametrize("shape", [combined, lambda message: json.dumps(message).encode()], ids=["combined", "plain"])
def test_N12_each_market_of_a_combined_stream_has_its_own_name_and_ids(shape: Callable[[Any], bytes]) -> None:
    parser = parser_for(Kind.BINANCE, "src", Markets("src", "SYM", Streams(), TWO))
    ticks: list[Tick] = []
    markets = ["BTCUSDT", "BTCUSDT", "ETHUSDT", "BTCUSDT", "ETHUSDT", "ETHUSDT"]
    for market in markets:
        parser.parse_into(shape(of(market)), ticks)
    parser.parse_into(shape(of("BTCUSDT", e="aggTrade", a=5)), ticks)
    assert [t.symbol for t in ticks] == [*(TWO[market] for market in markets), "BTC/USDT"]
    streams = {"BTCUSDT": "src", "ETHUSDT": "src ETHUSDT"}
    assert [t.source for t in ticks] == [*(streams[market] for market in markets), "src BTCUSDT@aggTrade"]
    assert (parser.foreign, parser.errors, parser.ignored) == (0, 0, 0)


@pytest.mark.claim("N12")
@pytest.mark.parametrize("asked", [None, {"BTCUSDT": "SYM"}, {"BTCUSDT": "SYM", "XRPUSDT": "X"}])
def test_N12_a_trade_of_another_market_is_foreign(asked: dict[str, str] | None) -> None:
    parser = parser_for(Kind.BINANCE, "src", Markets("src", "SYM", Streams(), asked))
    ticks: list[Tick] = []
    for market in ("BTCUSDT", "ETHUSDT", "BTCUSDT", "\x1b[31m", "btcusdt"):
        parser.parse_into(json.dumps(of(market)).encode(), ticks)
        parser.parse_into(combined(of(market)), ticks)
    assert [(t.source, t.symbol) for t in ticks] == [("src", "SYM")] * 6
    assert (parser.foreign, parser.errors, parser.error_streak) == (4, 0, 0)
    why = "" if asked else ": that of its source is BTCUSDT, which came first; others are named by `markets`"
    assert parser.last_foreign == f"\\x1b[31m{why}"


@pytest.mark.claim("N12")
@pytest.mark.parametrize("shape", [lambda one: json.dumps(one).encode(), combined], ids=["raw", "combined"])
def test_N12_a_print_that_is_no_market_trade_does_not_choose_the_market(shape: Callable[..., bytes]) -> None:
    parser = parser_for(Kind.BINANCE, "src", Markets("src", "SYM", Streams()))
    ticks: list[Tick] = []
    for one in (of("BTCUSDT", 1, X="INSURANCE_FUND"), of("ETHUSDT", 2), of("BTCUSDT", 3), of("ETHUSDT", 3, X="ADL")):
        parser.parse_into(shape(one), ticks)
    assert [(t.symbol, t.trade_id) for t in ticks] == [("SYM", 2)]
    assert (parser.ignored, parser.foreign, parser.numbers) == (2, 1, [("src", 3, 3, ticks[0].ts)])


@pytest.mark.claim("N12")
def test_N12_a_message_that_does_not_say_its_market_is_of_the_only_one() -> None:
    nameless = {key: value for key, value in BINANCE.items() if key != "s"}
    for asked, ticks_made, foreign in ((None, 3, 0), ({"BTCUSDT": "SYM"}, 3, 0), (TWO, 1, 2)):
        parser = parser_for(Kind.BINANCE, "src", Markets("src", "SYM", Streams(), asked))
        ticks: list[Tick] = []
        for message in (nameless, BINANCE, nameless):
            parser.parse_into(json.dumps(message).encode(), ticks)
        assert (len(ticks), parser.foreign) == (ticks_made, foreign)
    # In a combined stream the stream's name says it.
    parser = parser_for(Kind.BINANCE, "src", Markets("src", "SYM", Streams(), TWO))
    ticks = []
    parser.parse_into(json.dumps({"stream": "ethusdt@trade", "data": nameless}).encode(), ticks)
    assert [t.symbol for t in ticks] == ["ETH/USDT"]


@pytest.mark.claim("N12")
@pytest.mark.parametrize("execution", ["INSURANCE_FUND", "ADL", "NA", "market", 7, [], {"a": 1}])
@pytest.mark.parametrize("shape", [combined, lambda message: json.dumps(message).encode()], ids=["combined", "plain"])
def test_N12_a_print_that_is_no_market_trade_is_ignored_and_its_id_is_no_gap(
    shape: Callable[[Any], bytes], execution: object
) -> None:
    parser = parser_for(Kind.BINANCE, "src", Markets("src", "SYM", Streams()))
    ticks: list[Tick] = []
    parser.parse_into(shape(of("BTCUSDT", 1, X="MARKET")), ticks)
    parser.parse_into(shape(of("BTCUSDT", 2, X=execution, p="0", q="0")), ticks)
    parser.parse_into(shape(of("BTCUSDT", 3, X=None)), ticks)
    assert [t.trade_id for t in ticks] == [1, 3]
    assert (parser.ignored, parser.errors, parser.foreign) == (1, 0, 0)
    assert parser.numbers == [("src", 2, 2, BINANCE["T"])]
    # One whose id cannot be read, and one of another market, use up no id of ours.
    parser.parse_into(shape(of("BTCUSDT", 4, X=execution) | {"t": "x"}), ticks)
    parser.parse_into(shape(of("ETHUSDT", 4, X=execution)), ticks)
    assert (len(parser.numbers), parser.ignored) == (1, 3)


@pytest.mark.claim("N12")
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["BTCUSDT", "ETHUSDT", "SOLUSDT"]),
            st.sampled_from(["trade", "aggTrade"]),
            st.booleans(),
            st.sampled_from([None, "MARKET", "ADL"]),
        ),
        max_size=30,
    )
)
def test_N12_whatever_was_read_before_a_message_means_the_same(
    messages: list[tuple[str, str, bool, str | None]],
) -> None:
    """The reader that is chosen for a stream, and changed for another, never changes what a message says."""
    parser = parser_for(Kind.BINANCE, "src", Markets("src", "SYM", Streams(), TWO))
    for number, (market, kind, is_combined, execution) in enumerate(messages):
        body = {**of(market, number), "e": kind, "a": number} | ({"X": execution} if execution else {})
        ticks: list[Tick] = []
        before = parser.foreign, parser.ignored
        parser.parse_into(combined(body) if is_combined else json.dumps(body).encode(), ticks)
        if execution == "ADL" and kind == "trade":
            assert (ticks, parser.ignored) == ([], before[1] + 1)
        elif market not in TWO:
            assert (ticks, parser.foreign) == ([], before[0] + 1)
        else:
            [one] = ticks
            assert (one.symbol, one.trade_id) == (TWO[market], number)
            assert one.source == parser._markets.place(market, kind)[0]  # type: ignore[index]
    assert parser.errors == 0


class Counted(Markets):
    """That knows how often it was asked for a place."""

    asked_for = 0

    def place(self, market: str, kind: str) -> tuple[str, str] | None:
        self.asked_for += 1
        return super().place(market, kind)


@pytest.mark.parametrize("shape", [combined, lambda message: json.dumps(message).encode()], ids=["combined", "plain"])
@pytest.mark.parametrize("event", ["trade", "aggTrade"])
@pytest.mark.parametrize("markets", [["BTCUSDT"], ["BTCUSDT", "ETHUSDT"]], ids=["one", "two"])
@pytest.mark.parametrize("micros", [1, 1000], ids=["ms", "us"])
def test_of_a_market_of_binances_that_is_known_nobody_asks_again(
    shape: Callable[[Any], bytes], event: str, markets: list[str], micros: int
) -> None:
    """Which is what makes its everyday message quick, in each of the shapes that a connection may have."""
    counted = Counted("src", "SYM", Streams(), TWO)
    parser = parser_for(Kind.BINANCE, "src", counted)
    ticks: list[Tick] = []

    def read(first: int) -> None:
        for number in range(first, first + 6):
            time = 1_700_000_000_000 * micros
            parser.parse_into(shape(of(markets[number % len(markets)], number, e=event, a=number, T=time)), ticks)

    read(0)
    before = counted.asked_for
    read(6)
    assert counted.asked_for == before
    assert ([tick.trade_id for tick in ticks], {tick.ts for tick in ticks}) == (list(range(12)), {1_700_000_000_000})


# --- properties ---------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["e", "t", "a", "p", "q", "T", "data", "stream", "type", "events", "tid", "price"])
            | st.text(max_size=4),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
SAMPLES = [row["message"].encode() for row in MESSAGES]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with some bytes overwritten, dropped or inserted."""
    message = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(message)))
        length = draw(st.integers(0, 3))
        message[at : at + length] = draw(st.binary(max_size=3))
    return bytes(message)


@pytest.mark.claim("N8")
@given(
    message=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()) | mutated(),
    kind=st.sampled_from(list(Kind)),
)
def test_N8_no_bytes_raise_and_every_message_gets_one_verdict(message: bytes, kind: Kind) -> None:
    ticks, parser = parse(kind, message)
    if kind is Kind.GEMINI:
        assert bool(parser.ignored) == (not ticks and not parser.errors)
        assert parser.ignored <= 1
    else:
        assert len(ticks) + parser.ignored + parser.errors == 1
    assert (parser.last_error is None) == (parser.errors == 0)
    assert parser.last_error is None or len(parser.last_error) <= 120
    for tick in ticks:
        assert tick.price > 0
        assert math.isfinite(tick.price)
        assert tick.volume >= 0
        assert math.isfinite(tick.volume)
        assert 0 <= tick.ts < 10**14
        assert tick.trade_id is None or 0 <= tick.trade_id <= MAX_TRADE_ID


def as_float(value: object) -> float | None:
    """Independent reading of a number field: a JSON number, or a string that holds one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def as_int(value: object, limit: int) -> int | None:
    if as_float(value) is None:
        return None
    # As it was written: a float rounds what is just below a limit up to it.
    known: Any = json.loads(value) if isinstance(value, str) else value
    return int(known) if known == int(known) and 0 <= known < limit else None


NUMBERS: st.SearchStrategy[object] = (
    st.integers(-5, 10**17)
    | st.floats(-2, 1e6, allow_subnormal=False)
    | st.decimals("-1", "100000", places=8).map(str)
    | st.integers(-3, 10**17).map(str)
    | st.integers(10**12 - 2, 10**13 + 1)
    | st.integers(10**15 - 2, 10**16 + 1).map(str)
    | st.sampled_from(["", "x", "nan", "inf", None, True, [], 0, "0", -0.0])
)


@pytest.mark.claim("N4", "N8")
@given(
    event=st.sampled_from(["trade", "aggTrade"]),
    fields=st.fixed_dictionaries(
        {}, optional={"t": NUMBERS, "a": NUMBERS, "p": NUMBERS, "q": NUMBERS, "T": NUMBERS, "E": NUMBERS}
    ),
    combined=st.booleans(),
)
@example("trade", {"t": 0, "p": 1, "q": 0, "T": str(10**16 - 1)}, False)
def test_N4_N8_binance_agrees_with_a_plain_reading_of_the_rules(
    event: str, fields: dict[str, object], combined: bool
) -> None:
    price, volume = as_float(fields.get("p")), as_float(fields.get("q"))
    trade_id = as_int(fields.get("t" if event == "trade" else "a"), 2**63)
    ts = as_int(fields.get("T"), 10**16)
    # In milliseconds or microseconds of this century and the next two, or no time.
    ts = None if ts is None else ts // 1000 if ts >= 10**15 else ts
    ts = ts if ts is not None and 10**12 <= ts < 10**13 else None
    body: dict[str, object] = {**fields, "e": event}
    message = json.dumps({"stream": f"x@{event}", "data": body} if combined else body).encode()
    ticks, parser = parse(Kind.BINANCE, message)
    if price is None or price <= 0 or volume is None or volume < 0 or trade_id is None or ts is None:
        assert (ticks, parser.errors) == ([], 1)
    else:
        assert ticks == [Tick("src", "SYM", price, volume, ts, trade_id)]


@pytest.mark.claim("N8")
@given(kinds=st.lists(st.sampled_from(["good", "bad", "change", "unknown", "block_trade"]), max_size=12))
def test_N8_bad_events_of_a_gemini_frame_do_not_lose_the_good_ones(kinds: list[str]) -> None:
    events: list[dict[str, object]] = []
    for number, kind in enumerate(kinds):
        trade = {**GEMINI_TRADE, "tid": number}
        events.append({"good": trade, "bad": {**trade, "price": "-1"}}.get(kind) or {**trade, "type": kind})
    ticks, parser = parse(Kind.GEMINI, json.dumps({**GEMINI, "events": events}).encode())
    assert [t.trade_id for t in ticks] == [n for n, kind in enumerate(kinds) if kind == "good"]
    assert parser.errors == kinds.count("bad")
    assert parser.ignored == (not ticks and not parser.errors)


def mock_of(symbol: str, event_id: int = 1) -> bytes:
    return json.dumps({**MOCK, "symbol": symbol, "event_id": event_id}).encode()


@pytest.mark.claim("B5")
def test_B5_a_source_names_so_many_symbols_and_no_more() -> None:
    ticks, parser = parse(Kind.MOCK, *(mock_of(f"S{n}", n) for n in range(SYMBOLS_MAX)))
    assert (len(ticks), parser.foreign, parser.last_foreign) == (SYMBOLS_MAX, 0, "")
    parser.refuse("an error, whose streak a foreign trade neither ends nor prolongs")
    for n in range(1, 4):
        parser.parse_into(mock_of(f"more\n{n}\u202e"), ticks)
    assert (len(ticks), parser.foreign, parser.ignored, parser.errors) == (SYMBOLS_MAX, 3, 0, 1)
    assert parser.error_streak == 1
    assert parser.last_foreign == "more\\n3\\u202e: beyond the 4096 symbols that one run takes from a source"
    # Those that it named before go on, and share their strings.
    parser.parse_into(mock_of("S7", 9_999), ticks)
    assert (ticks[-1].symbol, parser.error_streak) == ("S7", 0)
    assert ticks[-1].symbol is ticks[7].symbol
    assert ticks[-1].source is ticks[7].source


@pytest.mark.claim("B5")
def test_B5_what_is_no_tick_names_no_symbol() -> None:
    bad = [json.dumps({**MOCK, "symbol": f"S{n}", "event_id": -1}).encode() for n in range(SYMBOLS_MAX)]
    ticks, parser = parse(Kind.MOCK, *bad, mock_of("mine"))
    assert (len(ticks), parser.foreign, parser.errors) == (1, 0, SYMBOLS_MAX)


@pytest.mark.claim("B5")
def test_B5_the_word_on_a_foreign_trade_is_bounded() -> None:
    _, parser = parse(Kind.MOCK, *(mock_of(f"{n:04}" + "\U0001f600" * 31) for n in range(SYMBOLS_MAX + 1)))
    assert parser.last_foreign.isprintable()
    assert parser.last_foreign.isascii()
    assert len(parser.last_foreign) <= 240


@pytest.mark.claim("B5")
@pytest.mark.parametrize("kind", [Kind.MOCK, Kind.REPLAY])
@pytest.mark.parametrize("field", ["symbol", "event_id"])
@pytest.mark.parametrize(
    ("text", "fits"), [("\U0001f600" * 32, True), ("x" + "\U0001f600" * 32, False), ("\xe9" * 64, True)]
)
def test_B5_texts_are_bounded_in_bytes_too(kind: Kind, field: str, text: str, fits: bool) -> None:
    """A character may take four bytes, and what is remembered of a peer's are tens of thousands."""
    ticks, parser = parse(kind, json.dumps({**MOCK, field: text}, ensure_ascii=False).encode())
    assert (len(ticks), parser.errors) == (int(fits), int(not fits))
    if not fits:
        assert (parser.last_error or "").startswith(f"{field} over 128 bytes: ")


@pytest.mark.claim("N3", "F1")
@pytest.mark.parametrize("kind", [Kind.MOCK, Kind.REPLAY])
def test_N3_F1_a_symbol_that_no_database_of_a_fleet_can_hold_is_refused(kind: Kind) -> None:
    ticks, parser = parse(kind, json.dumps({**MOCK, "symbol": "SOL\0USDC"}).encode())
    assert (ticks, parser.errors) == ([], 1)
    assert (parser.last_error or "").startswith("symbol with a NUL: ")


@pytest.mark.claim("B5")
def test_B5_a_replay_may_have_any_number_of_symbols() -> None:
    ticks, parser = parse(Kind.REPLAY, *(mock_of(f"S{n}", n) for n in range(SYMBOLS_MAX + 10)))
    assert (len(ticks), parser.foreign) == (SYMBOLS_MAX + 10, 0)
    # Each has ids of its own, also those that have no stream of their own.
    ticks, parser = parse(Kind.REPLAY, *(mock_of(f"S{n}", 7) for n in range(SYMBOLS_MAX + 10) for _ in "ab"))
    assert len({(t.source, t.trade_id, t.event_id) for t in ticks}) == SYMBOLS_MAX + 10
    assert all(t.symbol == t.event_id.partition("@")[2] for t in ticks if t.event_id is not None)
    assert len({t.source for t in ticks}) == SYMBOLS_MAX + 1


@pytest.mark.claim("N8", "N2")
@pytest.mark.parametrize("kind", [Kind.MOCK, Kind.REPLAY])
@pytest.mark.parametrize("field", ["price", "volume", "ts"])
def test_N8_a_number_of_a_tick_may_be_a_text(kind: Kind, field: str) -> None:
    """As in what a spreadsheet or another engine has written."""
    plain, _ = parse(kind, json.dumps(MOCK).encode())
    quoted, parser = parse(kind, json.dumps(MOCK | {field: str(MOCK[field])}).encode())
    assert (quoted, parser.errors) == (plain, 0)
    assert len(plain) == 1
