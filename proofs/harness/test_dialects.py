"""The mock venues say what the venues' documentation has them say (harness/faults/dialects.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.faults.dialects import (
    BinanceDialect,
    BitstampDialect,
    BybitDialect,
    CoinbaseDialect,
    Dialect,
    GeminiDialect,
    KrakenDialect,
    OKXDialect,
)

MS = 1_795_423_471_005
TIME = "2026-11-23T08:44:31.005456Z"

TRADES: list[tuple[type[Dialect], dict[str, Any]]] = [
    (BinanceDialect, {"e": "trade", "E": MS + 2, "s": "BTCUSDT", "t": 7, "p": "1.50", "q": "0.2", "T": MS, "m": True,
                      "M": True}),
    (BitstampDialect, {"data": {
        "id": 7, "timestamp": "1795423471", "amount": 0.2, "amount_str": "0.2", "price": 1.5, "price_str": "1.50",
        "type": 0, "microtimestamp": "1795423471005456", "buy_order_id": 1822021417099264,
        "sell_order_id": 1822021408882689,
    }, "channel": "live_trades_btcusd", "event": "trade"}),
    (BybitDialect, {"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": 1672304486868, "data": [
        {"T": MS, "s": "BTCUSDT", "S": "Buy", "v": "0.2", "p": "1.50", "L": "PlusTick", "i": "7", "BT": False,
         "RPI": False, "seq": 21}]}),
    (CoinbaseDialect, {
        "type": "match", "trade_id": 7, "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
        "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1", "side": "buy", "size": "0.2", "price": "1.50",
        "product_id": "BTC-USD", "sequence": 49, "time": TIME}),
    (GeminiDialect, {"E": MS * 1_000_000 + 456_789, "s": "btcusd", "t": 7, "p": "1.50", "q": "0.2", "m": True}),
    (KrakenDialect, {"channel": "trade", "type": "update", "data": [
        {"symbol": "BTC/USD", "side": "sell", "price": 1.5, "qty": 0.2, "ord_type": "limit", "trade_id": 7,
         "timestamp": TIME}]}),
    (OKXDialect, {"arg": {"channel": "trades", "instId": "BTC-USDT"}, "data": [
        {"instId": "BTC-USDT", "tradeId": "7", "px": "1.50", "sz": "0.2", "side": "buy", "ts": str(MS), "count": "1",
         "source": "0", "seqId": 1234}]}),
]  # fmt: skip


@pytest.mark.parametrize(("venue", "trade"), TRADES)
def test_a_trade_is_as_its_venue_writes_it(venue: type[Dialect], trade: dict[str, Any]) -> None:
    dialect = venue()
    assert json.loads(dialect.trade(venue.market, 7, "1.50", "0.2", MS)) == trade
    rows = [(7, "1.50", "0.2", MS), (8, "1.51", "0.3", MS + 1)]
    several = [json.loads(one) for one in dialect.trades(venue.market, rows)]
    if venue in (BybitDialect, KrakenDialect):
        (message,) = several
        assert (len(message["data"]), message["data"][0]) == (2, trade["data"][0])
    else:
        assert (len(several), several[0]) == (2, trade)


def test_prices_keep_their_digits_where_they_are_numbers() -> None:
    assert '"price":1.50,"qty":0.20000000000000000001,' in KrakenDialect().trade(
        "BTC/USD", 7, "1.50", "0.20000000000000000001", MS
    )


def test_what_a_trade_can_be_besides() -> None:
    assert json.loads(BybitDialect().trade("BTCUSDT", 7, "1", "1", MS, block=True))["data"][0]["BT"] is True
    assert json.loads(OKXDialect().trade("BTC-USDT", 7, "1", "1", MS, count=3))["data"][0]["count"] == "3"
    assert json.loads(CoinbaseDialect().trade("BTC-USD", 7, "1", "1", MS, kind="last_match"))["type"] == "last_match"
    latest = json.loads(CoinbaseDialect.latest("BTC-USD", 7))
    assert latest == {"type": "heartbeat", "sequence": 50, "last_trade_id": 7, "product_id": "BTC-USD",
                      "time": "2026-11-27T01:02:03.464459Z"}  # fmt: skip


TIMES = {"time_in": "2026-11-27T00:00:00.000001Z", "time_out": "2026-11-27T00:00:00.000002Z"}
BYBIT = {"conn_id": "0970e817-426e-429a-a679-ff7f55e0b16a", "req_id": "", "op": "subscribe"}
BAD_BITSTAMP = {"event": "bts:error", "channel": "", "data": {"code": None, "message": "Bad subscription string."}}

ANSWERS: list[tuple[type[Dialect], Any, list[Any]]] = [
    (BinanceDialect, {"method": "SUBSCRIBE", "params": ["btcusdt@trade", "x@aggTrade"], "id": 3},
     [{"result": None, "id": 3}]),
    (BinanceDialect, {"method": "SUBSCRIBE", "params": ["BTCUSDT@trade"], "id": 3},
     [{"error": {"code": 2, "msg": "Invalid request"}, "id": 3}]),
    (BinanceDialect, {"method": "SUBSCRIBE", "params": "btcusdt@trade", "id": 3},
     [{"code": 2, "msg": "Invalid request: unknown variant", "id": 3}]),
    (BinanceDialect, {"method": "LIST", "params": []},
     [{"code": 2, "msg": "Invalid request: unknown variant", "id": None}]),
    (BitstampDialect, {"event": "bts:subscribe", "data": {"channel": "live_trades_nobody"}},
     [{"event": "bts:subscription_succeeded", "channel": "live_trades_nobody", "data": {}}]),
    (BitstampDialect, {"event": "bts:heartbeat"},
     [{"event": "bts:heartbeat", "channel": "", "data": {"status": "success"}}]),
    (BitstampDialect, {"event": "bts:subscribe", "data": {}}, [BAD_BITSTAMP]),
    (BitstampDialect, {"event": "subscribe", "data": {"channel": "live_trades_btcusd"}}, [BAD_BITSTAMP]),
    *((BitstampDialect, {"event": "bts:subscribe", "data": {"channel": channel}},
       [{"event": "bts:error", "channel": channel, "data": {"code": 4009, "message": "Invalid channel provided."}}])
      for channel in ("live_trades_BTCUSD", "live_trades_btc/usd")),
    (BybitDialect, {"op": "subscribe", "args": ["publicTrade.BTCUSDT"]},
     [{"success": True, "ret_msg": "subscribe", **BYBIT}]),
    (BybitDialect, {"op": "subscribe", "args": ["publicTrade.X", "publicTrade.Y"], "req_id": "4"},
     [{"success": False, "ret_msg": "error:handler not found,topic:publicTrade.X", **BYBIT, "req_id": "4"}]),
    (BybitDialect, {"op": "subscribe", "args": ["publicTrade.BTCUSDT"] * 10},
     [{"success": True, "ret_msg": "subscribe", **BYBIT}]),
    (BybitDialect, {"op": "subscribe", "args": ["publicTrade.BTCUSDT"] * 11},
     [{"success": False, "ret_msg": "args size >10", **BYBIT}]),
    (BybitDialect, {"op": "ping"},
     [{"success": True, "ret_msg": "pong", "conn_id": "0970e817", "req_id": "", "op": "ping"}]),
    (CoinbaseDialect, {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches", "heartbeat"]},
     [{"type": "subscriptions", "channels": [
         {"name": name, "product_ids": ["BTC-USD"], "account_ids": None} for name in ("matches", "heartbeat")]}]),
    (CoinbaseDialect, {"type": "subscribe", "product_ids": ["BTC-USD", "X", "Y"], "channels": []},
     [{"type": "error", "message": "Failed to subscribe", "reason": "X is not a valid product"}]),
    (CoinbaseDialect, {"type": "ask"},
     [{"type": "error", "message": "Type has to be either subscribe or unsubscribe"}]),
    (GeminiDialect, {"id": "5", "params": ["btcusd@trade", "ethusd@trade"]}, [{"id": "5", "status": 200}]),
    *((GeminiDialect, {"id": "5", "params": ["btcusd@trade", stream]},
       [{"id": "5", "status": 400, "error": {"code": -1013, "msg": f"Invalid stream name: {stream}"}}])
      for stream in ("btcusd@depth", "nobody@trade")),
    (KrakenDialect,
     {"method": "subscribe", "params": {"channel": "trade", "symbol": ["BTC/USD", "X"], "snapshot": False}},
     [{"method": "subscribe", "result": {"channel": "trade", "snapshot": False, "symbol": "BTC/USD"}, "success": True,
       **TIMES},
      {"error": "Currency pair not supported X", "method": "subscribe", "success": False, "symbol": "X", **TIMES}]),
    (KrakenDialect, {"method": "subscribe", "params": {"channel": "trade", "symbol": ["ETH/USD"]}},
     [{"method": "subscribe", "result": {"channel": "trade", "snapshot": True, "symbol": "ETH/USD"}, "success": True,
       **TIMES}]),
    *((KrakenDialect, asked, [{"error": "Unknown method or channel", "success": False, **TIMES}])
      for asked in ({"method": "ask", "params": {"channel": "trade"}}, {"method": "subscribe"},
                    {"method": "subscribe", "params": {"channel": "book"}})),
    (OKXDialect, {"op": "subscribe", "args": [{"channel": "trades", "instId": one} for one in ("BTC-USDT", "X")]},
     [{"event": "subscribe", "arg": {"channel": "trades", "instId": "BTC-USDT"}, "connId": "a4d3ae55"},
      {"event": "error", "code": "60018", "msg": "Wrong URL or channel:trades,instId:X doesn't exist.",
       "connId": "a4d3ae55"}]),
]  # fmt: skip


@pytest.mark.parametrize(("venue", "asked", "answers"), ANSWERS)
def test_a_subscription_is_answered_as_its_venue_does(venue: type[Dialect], asked: Any, answers: list[Any]) -> None:
    assert [json.loads(one) for one in venue().answer(json.dumps(asked))] == answers


def test_a_venue_knows_the_markets_that_it_was_told_of() -> None:
    assert OKXDialect().answer("ping") == ["pong"]
    assert CoinbaseDialect().markets == ("BTC-USD", "ETH-USD")
    (answer,) = CoinbaseDialect("X-Y").answer('{"type":"subscribe","product_ids":["BTC-USD"],"channels":[]}')
    assert json.loads(answer)["reason"] == "BTC-USD is not a valid product"
    assert {venue.name: venue.numbers_by_market for venue, _ in TRADES} == {
        "binance": True, "bitstamp": False, "bybit": False, "coinbase": True, "gemini": False, "kraken": True,
        "okx": True,
    }  # fmt: skip
