"""Contract N10, N12, N13: whose market a trade is, what its ticks and ids are called, and what a URL asks for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import numbering_label
from engine.ingest.venues import registry
from engine.ingest.venues.markets import (
    AGGREGATED,
    MOCK,
    TRADE,
    Markets,
    Streams,
    Subscription,
    asked,
    misfit,
    misnomer,
    plain,
)

BINANCE = "wss://stream.binance.com:9443"
GEMINI = "wss://api.gemini.com"


def subscription(venue: str | None, url: str, table: dict[str, str] | None = None) -> Subscription:
    """Of a source without `markets`."""
    return registry.subscription(venue, url, table, TRADE)


@pytest.mark.claim("N12", "N13")
@pytest.mark.parametrize(
    ("url", "markets"),
    [
        (f"{BINANCE}/ws/btcusdt@trade", ("BTCUSDT",)),
        (f"{BINANCE}/ws/btcusdt@aggTrade", ("BTCUSDT",)),
        (f"{BINANCE}/ws/btcusdt@trade/ethusdt@trade", ("BTCUSDT", "ETHUSDT")),
        (f"{BINANCE}/stream?streams=btcusdt@trade/ethusdt@aggTrade", ("BTCUSDT", "ETHUSDT")),
        (f"{BINANCE}/stream?timeUnit=MICROSECOND&streams=btcusdt@trade/btcusdt@aggTrade", ("BTCUSDT",)),
        (f"{BINANCE}/stream?streams=btcusdt%40trade", ("BTCUSDT",)),
        (f"{BINANCE}/stream?streams=btcusdt@trade%2Fethusdt@trade", ("BTCUSDT", "ETHUSDT")),
        (f"{BINANCE}/stream?streams=btcusdt%40trade%2fethusdt%40aggTrade&timeUnit=MICROSECOND", ("BTCUSDT", "ETHUSDT")),
        (f"{BINANCE}/ws/%E5%B8%81%E5%AE%89usdt@trade", ("\u5e01\u5b89USDT",)),
        (f"{BINANCE}/stream?streams=%E5%B8%81%E5%AE%89usdt%40aggTrade", ("\u5e01\u5b89USDT",)),
        ("wss://fstream.binance.com/market/ws/%E5%B8%81%E5%AE%89usdt@aggTrade", ("\u5e01\u5b89USDT",)),
        (f"{BINANCE}/stream?streams=btcusdt@trade/btcusdt@kline_1m", ("BTCUSDT",)),
        ("wss://data-stream.binance.vision/ws/solusdc@trade", ("SOLUSDC",)),
        ("wss://stream.binance.us:9443/ws/btcusd@trade", ("BTCUSD",)),
        ("wss://fstream.binance.com/market/ws/btcusdt_260925@aggTrade", ("BTCUSDT_260925",)),
        ("wss://fstream.binance.com/market/ws/btcusdt@aggTrade", ("BTCUSDT",)),
        ("wss://fstream.binance.com/market/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade", ("BTCUSDT", "ETHUSDT")),
        ("wss://fstream.binancefuture.com/ws/btcusdt@aggTrade", ("BTCUSDT",)),
        ("wss://dstream.binance.com/ws/btcusd_perp@aggTrade", ("BTCUSD_PERP",)),
        ("wss://nbstream.binance.com/eoptions/ws/BTC-260630-9000-P@trade", ("BTC-260630-9000-P",)),
        (f"{GEMINI}/v1/marketdata/btcusd", ("BTCUSD",)),
        (f"{GEMINI}/v1/marketdata/BTCUSD?trades=true", ("BTCUSD",)),
        (f"{GEMINI}/v1/marketdata/btcusd?heartbeat=true&top_of_book=false", ("BTCUSD",)),
    ],
)
def test_N12_N13_a_url_tells_its_markets(url: str, markets: tuple[str, ...]) -> None:
    found = subscription(None, url)
    assert (found.problem, found.markets) == (None, markets)


@pytest.mark.claim("N13")
@pytest.mark.parametrize(
    ("url", "why"),
    [
        (BINANCE, "names no stream"),
        (f"{BINANCE}/ws", "names no stream"),
        (f"{BINANCE}/ws/", "names no stream"),
        (f"{BINANCE}/stream", "names no stream"),
        (f"{BINANCE}/stream?streams=", "names no stream"),
        (f"{BINANCE}/btcusdt@trade", "names no stream"),
        (f"{BINANCE}/ws/BTCUSDT@trade", "must be written in lower case: 'btcusdt@trade'"),
        (f"{BINANCE}/ws/BTCUSDT@aggTrade", "must be written in lower case: 'btcusdt@aggTrade'"),
        (f"{BINANCE}/ws/btcusdt@aggtrade", "not spelled as the venue does"),
        (f"{BINANCE}/ws/btcusdt@Trade", "not spelled as the venue does"),
        (f"{BINANCE}/ws/btcusdt%2540trade", "carries no trades"),
        (f"{BINANCE}/ws/%FFusdt@trade", "not spelled as the venue does"),
        (f"{BINANCE}/ws/%E5%B8%81USDT@trade", "must be written in lower case: '\u5e01usdt@trade'"),
        (f"{BINANCE}/ws/%E5%B8%81-usdt@trade", "without separators, in lower case: '\u5e01usdt@trade'"),
        (f"{BINANCE}/ws/%E5%B8%81/usdt@trade", "without the slash: '\u5e01usdt@trade'"),
        (f"{BINANCE}/ws/btc/usdt@trade@1s", "carries no trades"),
        (f"{BINANCE}/ws/btcusdt@kline_1m", "carries no trades"),
        (f"{BINANCE}/ws/btcusdt@bookTicker", "carries no trades"),
        (f"{BINANCE}/ws/btcusdt@depth@100ms", "carries no trades"),
        (f"{BINANCE}/ws/!miniTicker@arr", "carries no trades"),
        (f"{BINANCE}/stream?streams=btcusdt@kline_1m@+08:00/ethusdt@ticker", "carries no trades"),
        ("wss://fstream.binance.com/ws/btcusdt@markPrice", "carries no trades"),
        ("wss://fstream.binance.com/ws/btcusdt@aggTrade", "use wss://fstream.binance.com/market/ws/btcusdt@aggTrade"),
        ("wss://fstream.binance.com/stream?streams=btcusdt@aggTrade", "silent without a route"),
        ("wss://fstream.binance.com/public/ws/btcusdt@aggTrade", "/public is silent"),
        ("wss://fstream.binance.com/public/stream?streams=btcusdt@aggTrade", "/public is silent"),
        ("wss://fstream.binance.com/private/ws/btcusdt@trade", "use wss://fstream.binance.com/market/ws/btcusdt@aggT"),
        ("wss://fstream.binance.com/market/ws/btc-usdt@aggTrade", "without separators, in lower case: 'btcusdt@agg"),
        ("wss://fstream.binance.com/market/ws/btc_usdt-260925@aggTrade", ": 'btcusdt_260925@aggTrade'"),
        ("wss://dstream.binance.com/ws/BTCUSD_PERP@aggTrade", "in lower case: 'btcusd_perp@aggTrade'"),
        (f"{BINANCE}/ws/btc-usdt@trade", "without separators, in lower case: 'btcusdt@trade'"),
        (f"{BINANCE}/ws/BTC_USDT@trade", "without separators, in lower case: 'btcusdt@trade'"),
        (f"{BINANCE}/ws/btc.usdt@aggTrade", "without separators, in lower case: 'btcusdt@aggTrade'"),
        (f"{BINANCE}/ws/btcusdt_260925@trade", "is a futures contract, of which stream.binance.com has none"),
        (f"{BINANCE}/ws/btcusd_perp@aggTrade", "is a futures contract"),
        (f"{BINANCE}/ws/btc/usdt@trade", "without the slash: 'btcusdt@trade'"),
        (f"{BINANCE}/stream?streams=BTC/USDT@trade", "without the slash: 'btcusdt@trade'"),
        (BINANCE.replace("wss", "ws") + "/ws/btcusdt@trade", "serves wss:// only"),
        (GEMINI.replace("wss", "ws") + "/v1/marketdata/btcusd", "serves wss:// only"),
        ("wss://stream-sbe.binance.com/ws/btcusdt@trade", "binary SBE"),
        ("wss://ws-api.binance.com:443/ws-api/v3", "answers requests"),
        ("wss://api.binance.com/ws/btcusdt@trade", "answers requests"),
        ("wss://ws.gemini.com", "has to be told which markets"),
        (f"{GEMINI}/v2/marketdata", "is not version 1: leave out url"),
        (f"{GEMINI}/v1/marketdata", "not the market data of one market"),
        (f"{GEMINI}/v1/marketdata/", "not the market data of one market"),
        (f"{GEMINI}/v1/order/events", "not the market data of one market"),
        (f"{GEMINI}/v1/marketdata/btcusd?trades=false&bids=true", "leave out trades"),
        (f"{GEMINI}/v1/marketdata/btcusd?bids=true", "leave out trades"),
        (f"{GEMINI}/v1/marketdata/btcusd?trades=false", "leave out trades"),
        ("wss://exchange.gemini.com/v1/marketdata/btcusd", "served by api.gemini.com"),
    ],
)
def test_N13_a_url_that_can_never_deliver_a_trade_says_why(url: str, why: str) -> None:
    problem = subscription(None, url).problem
    assert problem is not None
    assert why in problem


@pytest.mark.claim("N13")
@pytest.mark.parametrize(
    ("url", "doubt"),
    [
        ("wss://stream.testnet.binance.vision/ws/btcusdt@trade", "test network"),
        ("wss://stream.binancefuture.com/ws/btcusdt@trade", "test network"),
        ("wss://api.sandbox.gemini.com/v1/marketdata/btcusd", "test network"),
        ("wss://ws.notkraken.com/v2", "not a host of a known venue"),
        ("wss://stream.binance.com.example.org/ws/btcusdt@trade", "not a host of a known venue"),
        ("wss://fstream.binance.com/ws/btcusdt@trade", "not documented for futures"),
        ("wss://fstream.binance.com/public/ws/btcusdt@trade", "not documented for futures"),
        ("wss://fstream.binance.com/market/ws/btcusdt@trade", "btcusdt@aggTrade is"),
        ("wss://dstream.binance.com/ws/btcusd_perp@trade", "not documented for futures"),
        (f"{BINANCE}/market/ws/btcusdt@trade", "no /market"),
        ("wss://demo-stream.binance.com/ws/btcusdt@trade", "test network"),
        ("wss://demo-fstream.binance.com/market/ws/btcusdt@aggTrade", "test network"),
        ("wss://demo-dstream.binance.com/ws/btcusd_perp@aggTrade", "test network"),
        (f"{BINANCE}/stream?streams=btcusdt@trade/ethusdt@trade/btcusdt@aggTrade", "BTCUSDT is asked for single and"),
        (f"{BINANCE}/stream?streams=btcusdt@trade/ETHUSDT@trade", "lower case"),
        (f"{BINANCE}/stream?streams=btcusdt@trade/eth-usdt@trade", "without separators"),
        (f"{BINANCE}/stream?streams=btcusdt@trade/ethusdt@ticker", "carries no trades"),
    ],
)
def test_N13_what_may_work_yet_surprise_is_told(url: str, doubt: str) -> None:
    found = subscription(None, url)
    assert found.problem is None
    assert doubt in " ".join(found.doubts)


@pytest.mark.claim("N13")
def test_N13_of_many_doubts_three_are_told() -> None:
    wrong = "/".join(f"{name}usdt@ticker" for name in ("eth", "sol", "ada", "xrp"))
    doubts = subscription(None, f"{BINANCE}/stream?streams={wrong}/btcusdt@trade/btcusdt@aggTrade").doubts
    assert len(doubts) == 3
    assert all("carries no trades" in doubt for doubt in doubts)


@pytest.mark.claim("N13")
@pytest.mark.parametrize(
    ("venue", "url", "why"),
    [
        ("binance", f"{GEMINI}/v1/marketdata/btcusd", "api.gemini.com speaks gemini, not binance"),
        ("Gemini", f"{BINANCE}/ws/btcusdt@trade", "stream.binance.com speaks binance, not gemini"),
        ("gemini", "wss://stream.binance.com/v1/marketdata/btcusd", "speaks binance"),
        ("kraken", f"{BINANCE}/ws", "speaks binance, not kraken: leave venue out"),
        ("okx", "wss://stream.bybit.com/v5/public/spot", "speaks bybit, not okx"),
    ],
)
def test_N13_a_venue_on_the_host_of_another_is_refused(venue: str, url: str, why: str) -> None:
    assert why in (subscription(venue, url).problem or "")


@pytest.mark.claim("N13")
@pytest.mark.parametrize("host", ["127.0.0.1:9001", "localhost", "[::1]:9001", "proxy.example"])
@pytest.mark.parametrize("path", ["", "/", "/ws/BTCUSDT@trade", "/stream", "/ws/btcusdt@kline_1m"])
def test_N13_what_another_host_makes_of_a_path_is_its_own_business(host: str, path: str) -> None:
    for venue in ("binance", "gemini"):
        found = subscription(venue, f"ws://{host}{path}")
        assert found.problem is None
        assert [doubt for doubt in found.doubts if "is deprecated" not in doubt] == []


@pytest.mark.claim("N12")
def test_N12_a_path_tells_its_markets_on_any_host() -> None:
    found = subscription("binance", "ws://127.0.0.1:1/stream?streams=btcusdt@trade/ethusdt@trade")
    assert found.markets == ("BTCUSDT", "ETHUSDT")
    assert subscription("gemini", "ws://127.0.0.1:1/v1/marketdata/ethusd").markets == ("ETHUSD",)


@pytest.mark.claim("N13")
@given(st.text(max_size=30), st.text(max_size=30))
def test_N13_any_path_is_read_without_an_exception(path: str, query: str) -> None:
    for base in (BINANCE, GEMINI, "ws://127.0.0.1"):
        subscription(None, f"{base}/{path}?{query}".replace("[", "").replace("]", ""))


@pytest.mark.claim("N12")
def test_N12_what_ticks_are_called() -> None:
    one, two = (
        subscription(None, f"{BINANCE}/ws/{names}") for names in ("btcusdt@trade", "btcusdt@trade/ethusdt@trade")
    )
    assert asked(one, None, "SOL/USDC") == {"BTCUSDT": "SOL/USDC"}
    assert asked(two, None, "ETH/USDT") == {"BTCUSDT": "BTCUSDT", "ETHUSDT": "ETH/USDT"}
    assert asked(two, {"btcusdt": "Bitcoin"}, "ETH/USDT") == {"BTCUSDT": "Bitcoin"}
    assert asked(subscription("binance", "ws://127.0.0.1/"), None, "X") is None
    assert plain("btc-usdt") == plain("BTC/USDT") == "BTCUSDT"
    assert plain("\u5e01\u5b89usdt") == plain("\u5e01\u5b89/USDT") != plain("USDT")


@pytest.mark.claim("N13")
@pytest.mark.parametrize(
    ("kind", "asked", "is_doubted"),
    [
        ("trade", "btcusdt@trade", False),
        ("Trade", "btcusdt@trade", False),
        ("aggtrade", "btcusdt@aggTrade", False),
        ("aggTrades", "btcusdt@trade", True),
        ("ticker", "btcusdt@trade", True),
    ],
)
def test_N13_a_kind_that_nobody_knows_is_told_where_it_decides(kind: str, asked: str, is_doubted: bool) -> None:
    """Where the URL names the streams it is a label, as in files of the seed's."""
    for host in ("stream.binance.com:9443", "127.0.0.1:9001"):
        found = registry.subscription("binance", f"wss://{host}/ws", {"BTCUSDT": "X"}, kind)
        assert asked in found.messages[0]
        assert any(repr(kind) in doubt for doubt in found.doubts) is is_doubted
        found = registry.subscription("binance", f"wss://{host}/ws/btcusdt@trade", {"BTCUSDT": "X"}, kind)
        assert found.doubts == ()


@pytest.mark.claim("N13")
def test_N13_markets_that_do_not_fit_their_url() -> None:
    two = subscription(None, f"{BINANCE}/ws/btcusdt@trade/ethusdt@trade")
    assert misfit(two, {"BTCUSDT": "a", "ETHUSDT": "b"}) == (None, ())
    assert misfit(two, {"SOLUSDT": "a"}) == ("its URL asks for BTCUSDT, ETHUSDT", ())
    assert misfit(two, {"btcusdt": "a", "SOLUSDT": "b"}) == (
        None,
        (
            "SOLUSDT will not come: the URL does not ask for it",
            "trades of ETHUSDT are left out: markets does not name it",
        ),
    )
    assert misfit(two, {"btcusdt": "a", "BTCUSDT": "b"}) == ("the same market stands there twice", ())
    assert misfit(subscription(None, "ws://127.0.0.1/"), {"A": "a"}) == (
        "each of its messages brings its own symbol",
        (),
    )
    assert misfit(subscription("binance", "ws://127.0.0.1/"), {"A": "a"}) == (None, ())


@pytest.mark.claim("N12", "N13")
@pytest.mark.parametrize(
    ("market", "name", "is_other"),
    [
        ("BTCUSDT", "ETH/USDT", True),
        ("btcusdt", "eth-usdt", True),
        ("BTCUSDT", "ETHUSDT", True),
        ("BTCUSDT", "BTC/USD", True),
        ("BTCUSDT_260925", "ETH/USDT", True),
        ("BTCUSDT", "BTC/USDT", False),
        ("BTCUSDT", "btc_usdt", False),
        ("BTCUSDT", "BTC/USDT:USDT", False),
        ("BTCUSDT", "BTC/USDT-PERP", False),
        ("BTCUSD_PERP", "BTC/USD", False),
        ("BTCUSDT_260925", "BTC/USDT", False),
        ("BTCUSDT_260925", "BTCUSDT_260925", False),
        ("BTCGUSDPERP", "BTC/GUSD", False),
        ("BTCUSDT", "Bitcoin", False),
        ("BTCUSDT", "X", False),
    ],
)
def test_N12_N13_a_name_of_another_pair_is_told(market: str, name: str, is_other: bool) -> None:
    told = misnomer(market, name)
    assert (told is not None) == is_other
    # Whether or not its URL says what it asks for.
    for url in (f"{BINANCE}/ws/{market.lower()}@trade", "wss://proxy.example/"):
        found = subscription("binance", url)
        if found.problem is None:
            assert misfit(found, {market: name}) == (None, () if told is None else (told,))


@pytest.mark.claim("N12", "N13")
def test_N12_N13_two_markets_never_share_a_name() -> None:
    for url in (f"{BINANCE}/ws/btcusdt@trade/ethusdt@trade", "ws://127.0.0.1/"):
        problem, _ = misfit(subscription("binance", url), {"BTCUSDT": "X", "ETHUSDT": "X"})
        assert problem == "two markets are called by the same name, and would share positions"


@pytest.mark.claim("N12")
def test_N12_each_market_and_each_kind_of_trade_has_a_stream_of_its_own() -> None:
    streams = Streams(sources=["a", "b"])
    markets = Markets("a", "X", streams, {"BTCUSDT": "BTC/USDT", "ETHUSDT": "ETH/USDT"})
    assert markets.place("BTCUSDT", TRADE) == ("a", "BTC/USDT")
    assert markets.place("ethusdt", TRADE) == ("a ETHUSDT", "ETH/USDT")
    assert markets.place("BTCUSDT", AGGREGATED) == ("a BTCUSDT@aggTrade", "BTC/USDT")
    assert markets.place("SOLUSDT", TRADE) is None
    assert markets.place("", TRADE) is None
    assert streams.take_new() == {
        "a": ("a", "BTCUSDT"), "a ETHUSDT": ("a", "ETHUSDT"), "a BTCUSDT@aggTrade": ("a", "BTCUSDT@aggTrade"),
    }  # fmt: skip
    assert streams.take_new() == {}
    assert (streams.owner("a ETHUSDT"), streams.owner("unheard of")) == (("a", "ETHUSDT"), ("unheard of", ""))


@pytest.mark.claim("N12")
def test_N12_without_a_word_the_first_market_that_comes_is_meant() -> None:
    markets = Markets("a", "SYM", Streams())
    assert markets.place("", TRADE) == ("a", "SYM")
    assert markets.place("BTCUSDT", TRADE) == ("a BTCUSDT", "SYM")
    assert markets.place("ETHUSDT", TRADE) is None
    assert markets.place("BTCUSDT", AGGREGATED) == ("a BTCUSDT@aggTrade", "SYM")
    assert (markets.guessed, markets.is_single) == ("BTCUSDT", True)


@pytest.mark.claim("N12")
def test_N12_what_is_no_trade_does_not_tell_which_market_is_meant() -> None:
    markets = Markets("a", "SYM", Streams())
    assert markets.find("BTCUSDT", TRADE) is None
    assert markets.place("ETHUSDT", TRADE) == ("a", "SYM") == markets.find("ETHUSDT", TRADE)
    assert markets.find("BTCUSDT", TRADE) is None


@pytest.mark.claim("N12")
def test_N12_the_first_market_that_came_is_meant_in_later_runs_too() -> None:
    """As long as its ticks are called as they were: two markets under one name would share positions."""
    stored = {
        "a": ("a", "BTCUSDT"), "a ETHUSDT": ("a", "ETHUSDT"), "b": ("b", "SOLUSDT@aggTrade"), "c": None,
    }  # fmt: skip
    symbols = {"a": "BTC/USDT", "a ETHUSDT": "ETH/USDT", "b": "SOL/USDT", "c": "X"}

    def first(source: str, symbol: str, came: str, asked: dict[str, str] | None = None) -> tuple[str, str] | None:
        return Markets(source, symbol, Streams(stored, "abc", symbols), asked).place(came, TRADE)

    assert first("a", "BTC/USDT", "ETHUSDT") is None
    assert first("a", "BTC/USDT", "BTCUSDT") == ("a", "BTC/USDT")
    assert first("a", "ETH/USDT", "ETHUSDT") == ("a ETHUSDT", "ETH/USDT")
    assert first("b", "SOL/USDT", "BTCUSDT") is None
    assert first("b", "SOL/USDT", "SOLUSDT") == ("b SOLUSDT", "SOL/USDT")
    # Another name or another source is another matter, and so is what was asked for.
    assert first("a", "DOGE/USDT", "DOGEUSDT") == ("a DOGEUSDT", "DOGE/USDT")
    assert first("c", "BTC/USDT", "ETHUSDT") == ("c", "BTC/USDT")
    assert first("a", "BTC/USDT", "ETHUSDT", {"ETHUSDT": "BTC/USDT"}) == ("a ETHUSDT", "BTC/USDT")


@pytest.mark.claim("N12")
def test_N12_only_letters_of_ascii_have_two_cases() -> None:
    """Of the dotless i upper() makes an I, and a trade of nobody knows what would be one of ours."""
    asked = Markets("one", "BTC/USD", Streams(), {"BIT": "BIT/USD"})
    assert asked.place("bit", TRADE) is not None
    assert asked.place("b\u0131t", TRADE) is None
    assert plain("b\u0131t") != plain("BIT")
    mixed = Markets("one", "X", Streams(), {"\u5e01\u0131USDT": "X"})
    assert mixed.place("\u5e01\u0131usdt", TRADE) == mixed.place("\u5e01\u0131USDT", TRADE) == ("one", "X")
    assert mixed.place("\u5e01IUSDT", TRADE) is None


@pytest.mark.claim("N12", "N18")
def test_N12_N18_a_market_in_another_script_is_subscribed_to_by_its_name() -> None:
    found = subscription("binance", f"{BINANCE}/ws", {"\u5e01\u5b89USDT": "BIAN/USDT"})
    assert (found.problem, found.markets) == (None, ("\u5e01\u5b89USDT",))
    [message] = found.messages
    assert json.loads(message)["params"] == ["\u5e01\u5b89usdt@trade"]
    assert misfit(found, {"\u5e01\u5b89USDT": "BIAN/USDT"})[0] is None


@pytest.mark.claim("N12")
def test_N12_a_restart_finds_the_streams_by_their_names() -> None:
    """Repointed to another market, and back: each time the stream is the one it was."""
    stored: dict[str, tuple[str, str] | None] = {"a": ("a", "BTCUSDT"), "a ETHUSDT": ("a", "ETHUSDT"), "old": None}
    streams = Streams(stored, ["a", "old", "a SOLUSDT"])
    assert streams.name("a", "ETHUSDT") == "a ETHUSDT"
    assert streams.name("a", "BTCUSDT") == "a"
    # Another source has that name; and a row of an earlier version belongs to whoever is called so.
    assert streams.name("a", "SOLUSDT") == "a SOLUSDT (2)"
    assert streams.name("old", "BTCUSDT") == "old"
    assert streams.take_new() == {"a SOLUSDT (2)": ("a", "SOLUSDT"), "old": ("old", "BTCUSDT")}


@pytest.mark.claim("N12", "N9")
def test_N12_N9_what_a_mock_source_stored_under_one_name_goes_on_as_that_of_its_newest_symbol() -> None:
    """Of a database that was written when all symbols of a source had the same ids."""
    streams = Streams({"m": None, "other": None}, ["m"], {"m": "A/B", "other": "X"})
    assert streams.of_symbol("m", "C/D") == "m C/D"
    assert streams.of_symbol("m", "A/B") == "m"
    assert streams.take_new() == {"m": ("m", "A/B"), "m C/D": ("m", "C/D")}
    # No symbol that comes for the first time takes the place of another.
    streams = Streams({"m": ("m", "A/B")}, ["m"], {"m": "A/B"})
    assert streams.predecessor(streams.of_symbol("m", "C/D")) is None


@pytest.mark.claim("N12", "N11")
def test_N12_N11_no_symbol_is_taken_for_the_numbering_of_another_one() -> None:
    streams = Streams()
    symbols = ["A", "(numbering 2)", "A (numbering 3)", "(numbering 2) (2)", "B"]
    names = [streams.of_symbol("m", symbol) for symbol in symbols]
    labels = {numbering_label(name, number) for name in names for number in range(2, 9)}
    assert len(set(names)) == len(symbols)
    assert not labels & set(names)


@pytest.mark.claim("N11")
def test_N11_a_stream_that_takes_the_place_of_another_is_told_which() -> None:
    stored: dict[str, tuple[str, str] | None] = {"a": ("a", "BTCUSDT"), "b": ("b", "BTCUSDT"), "old": None}
    streams = Streams(stored, ["a", "b"])
    Markets("a", "X", streams, {"ETHUSDT": "X"})
    assert streams.predecessor(streams.name("a", "ETHUSDT")) == "a"
    # From single to aggregated trades of the same market.
    Markets("b", "X", streams, {"BTCUSDT": "X"})
    assert streams.predecessor(streams.name("b", "BTCUSDT@aggTrade")) == "b"
    # One market more is no break of the others, whether they have been heard yet or not.
    streams = Streams(stored, ["a"])
    Markets("a", "X", streams, {"BTCUSDT": "X", "ETHUSDT": "Y"})
    assert streams.predecessor(streams.name("a", "ETHUSDT")) is None
    streams = Streams(stored, ["a"])
    assert streams.name("a", "BTCUSDT") == "a"
    assert streams.predecessor(streams.name("a", "ETHUSDT")) is None
    assert streams.predecessor("unheard of") is None


@pytest.mark.claim("N12")
@given(
    st.lists(st.tuples(st.sampled_from(["a", "a b", "a b (2)"]), st.sampled_from(["", "b", "b (2)", "c"])), max_size=20)
)
def test_N12_no_two_streams_share_a_name(owners: list[tuple[str, str]]) -> None:
    streams = Streams(sources=["a", "a b", "a b (2)"])
    names = {owner: streams.name(*owner) for owner in owners}
    assert len(set(names.values())) == len(names)
    assert Streams(dict(streams.take_new()), ["a", "a b", "a b (2)"]).name("a", "new") not in names.values()
    assert all(streams.name(*owner) == name for owner, name in names.items())


def test_an_unknown_host_speaks_mock() -> None:
    assert subscription(None, "ws://127.0.0.1:9001/").venue == MOCK
