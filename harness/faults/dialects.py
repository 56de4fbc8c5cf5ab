"""How venues speak, for a mock exchange: what they say to a subscription, to a ping and before they close, and what
their trades look like. Written from the venues' documentation, and from nothing of the engine's.

    binance   developers.binance.com, Spot, WebSocket Streams
    bitstamp  bitstamp.net/websocket/v2
    bybit     bybit-exchange.github.io/docs/v5/ws/connect, .../v5/websocket/public/trade
    coinbase  docs.cdp.coinbase.com/exchange/websocket-feed
    gemini    developer.gemini.com/websocket
    kraken    docs.kraken.com, Spot WebSocket v2, trade
    okx       okx.com/docs-v5, WebSocket, WS / Trades channel

as these pages stood in November 2026.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime


class Dialect:
    """One venue's end of a conversation. A market that it has not is one that it was not told of."""

    name = ""
    market = ""
    """A market as this venue writes it."""
    other = ""
    """Another one."""
    greeting: tuple[str, ...] = ()
    """What it says unasked after the upgrade."""
    heartbeats: tuple[str, ...] = ()
    """What it says now and then that is neither an answer nor a trade."""
    draining = ""
    """What it says before it closes a connection; "" where it closes without a word."""
    numbers_by_market = True
    """Whether a market's trades are numbered without holes."""

    def __init__(self, *markets: str) -> None:
        self.markets = markets or (self.market, self.other)

    def answer(self, message: str) -> list[str]:
        """Return what it says to a client's message."""
        raise NotImplementedError

    def trade(self, market: str, number: int, price: str, size: str, ms: int) -> str:
        """Return one trade: its number, its price and size as decimals, its time in milliseconds."""
        raise NotImplementedError

    def trades(self, market: str, rows: Iterable[tuple[int, str, str, int]]) -> list[str]:
        """Return several trades, in as few messages as the venue would take."""
        return [self.trade(market, *row) for row in rows]

    def _unknown(self, wanted: Iterable[str]) -> list[str]:
        return [market for market in wanted if market not in self.markets]


def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03}456Z"


class BinanceDialect(Dialect):
    """By SUBSCRIBE on the raw endpoint."""

    name = "binance"
    market = "BTCUSDT"
    other = "ETHUSDT"
    draining = '{"e":"serverShutdown","E":1770123456789}'

    def answer(self, message: str) -> list[str]:
        asked = json.loads(message)
        if asked.get("method") != "SUBSCRIBE" or not isinstance(asked.get("params"), list):
            return [json.dumps({"code": 2, "msg": "Invalid request: unknown variant", "id": asked.get("id")})]
        if any(
            "@" not in name or name != name.lower() for name in (one.split("@")[0] + "@" for one in asked["params"])
        ):
            return [json.dumps({"error": {"code": 2, "msg": "Invalid request"}, "id": asked["id"]})]
        # It does not look whether there is such a market.
        return [json.dumps({"result": None, "id": asked["id"]})]

    def trade(self, market: str, number: int, price: str, size: str, ms: int) -> str:
        return json.dumps(
            {"e": "trade", "E": ms + 2, "s": market, "t": number, "p": price, "q": size, "T": ms, "m": True, "M": True}
        )


class CoinbaseDialect(Dialect):
    """Coinbase Exchange, channels `matches` and `heartbeat`."""

    name = "coinbase"
    market = "BTC-USD"
    other = "ETH-USD"
    heartbeats = (
        '{"type":"heartbeat","sequence":90,"last_trade_id":1,"product_id":"BTC-USD","time":"2014-11-07T08:19:28.464459Z"}',
        '{"type":"something_new","at":1}',
    )

    def answer(self, message: str) -> list[str]:
        asked = json.loads(message)
        if asked.get("type") != "subscribe":
            return ['{"type":"error","message":"Type has to be either subscribe or unsubscribe"}']
        products = asked.get("product_ids", [])
        for product in self._unknown(products):
            reason = f"{product} is not a valid product"
            return [json.dumps({"type": "error", "message": "Failed to subscribe", "reason": reason})]
        channels = [{"name": name, "product_ids": products, "account_ids": None} for name in asked["channels"]]
        return [json.dumps({"type": "subscriptions", "channels": channels})]

    @staticmethod
    def latest(market: str, number: int) -> str:
        """Return a heartbeat that names the latest trade of a product."""
        return json.dumps(
            {
                "type": "heartbeat",
                "sequence": number * 7 + 1,
                "last_trade_id": number,
                "product_id": market,
                "time": "2026-11-27T01:02:03.464459Z",
            }
        )

    def trade(self, market: str, number: int, price: str, size: str, ms: int, kind: str = "match") -> str:
        return json.dumps(
            {
                "type": kind,
                "trade_id": number,
                "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
                "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1",
                "side": "buy",
                "size": size,
                "price": price,
                "product_id": market,
                "sequence": number * 7,
                "time": _rfc3339(ms),
            }
        )


class KrakenDialect(Dialect):
    """Version 2, channel `trade`."""

    name = "kraken"
    market = "BTC/USD"
    other = "ETH/USD"
    greeting = (
        '{"channel":"status","type":"update","data":[{"version":"2.0.9","system":"online","api_version":"v2",'
        '"connection_id":12345678901234567890}]}',
    )
    heartbeats = ('{"channel":"heartbeat"}', '{"method":"pong","time_in":"2026-11-27T00:00:00Z"}')

    def answer(self, message: str) -> list[str]:
        asked = json.loads(message)
        times = {"time_in": "2026-11-27T00:00:00.000001Z", "time_out": "2026-11-27T00:00:00.000002Z"}
        params = asked.get("params", {})
        if asked.get("method") != "subscribe" or params.get("channel") != "trade":
            return [json.dumps({"error": "Unknown method or channel", "success": False, **times})]
        answers = []
        for symbol in params["symbol"]:
            if symbol in self.markets:
                result = {"channel": "trade", "snapshot": params.get("snapshot", True), "symbol": symbol}
                answers.append({"method": "subscribe", "result": result, "success": True, **times})
            else:
                error = f"Currency pair not supported {symbol}"
                answers.append({"error": error, "method": "subscribe", "success": False, "symbol": symbol, **times})
        return [json.dumps(one) for one in answers]

    def trade(self, market: str, number: int, price: str, size: str, ms: int) -> str:
        return self.trades(market, [(number, price, size, ms)])[0]

    def trades(self, market: str, rows: Iterable[tuple[int, str, str, int]]) -> list[str]:
        # Written by hand: prices are numbers here, and a float would lose digits of them.
        data = ",".join(
            f'{{"symbol":"{market}","side":"sell","price":{price},"qty":{size},"ord_type":"limit","trade_id":{number},'
            f'"timestamp":"{_rfc3339(ms)}"}}'
            for number, price, size, ms in rows
        )
        return [f'{{"channel":"trade","type":"update","data":[{data}]}}']


class BitstampDialect(Dialect):
    """Version 2, channels `live_trades_<market>`."""

    name = "bitstamp"
    market = "btcusd"
    other = "ethusd"
    heartbeats = ('{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}',)
    draining = '{"event":"bts:request_reconnect","channel":"","data":""}'
    numbers_by_market = False

    def answer(self, message: str) -> list[str]:
        asked = json.loads(message)
        channel = asked.get("data", {}).get("channel", "")
        if asked.get("event") == "bts:heartbeat":
            return list(self.heartbeats)
        market = channel.removeprefix("live_trades_")
        if asked.get("event") != "bts:subscribe" or not channel:
            data: dict[str, object] = {"code": None, "message": "Bad subscription string."}
            return [json.dumps({"event": "bts:error", "channel": "", "data": data})]
        if market != market.lower() or "/" in market:
            data = {"code": 4009, "message": "Invalid channel provided."}
            return [json.dumps({"event": "bts:error", "channel": channel, "data": data})]
        # It does not look whether there is such a market.
        return [json.dumps({"event": "bts:subscription_succeeded", "channel": channel, "data": {}})]

    def trade(self, market: str, number: int, price: str, size: str, ms: int) -> str:
        data = {
            "id": number,
            "timestamp": str(ms // 1000),
            "amount": float(size),
            "amount_str": size,
            "price": float(price),
            "price_str": price,
            "type": 0,
            "microtimestamp": f"{ms}456",
            "buy_order_id": 1822021417099264,
            "sell_order_id": 1822021408882689,
        }
        return json.dumps({"data": data, "channel": f"live_trades_{market}", "event": "trade"})


class OKXDialect(Dialect):
    """Version 5, channel `trades`."""

    name = "okx"
    market = "BTC-USDT"
    other = "ETH-USDT"
    heartbeats = ('{"event":"channel-conn-count","channel":"trades","connCount":"2","connId":"abcd1234"}',)
    draining = (
        '{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade.'
        ' Please reconnect.","connId":"a4d3ae55"}'
    )

    def answer(self, message: str) -> list[str]:
        if message == "ping":
            return ["pong"]
        answers = []
        for arg in json.loads(message)["args"]:
            if arg["instId"] in self.markets:
                answers.append({"event": "subscribe", "arg": arg, "connId": "a4d3ae55"})
            else:
                wrong = f"Wrong URL or channel:trades,instId:{arg['instId']} doesn't exist."
                answers.append({"event": "error", "code": "60018", "msg": wrong, "connId": "a4d3ae55"})
        return [json.dumps(one) for one in answers]

    def trade(self, market: str, number: int, price: str, size: str, ms: int, count: int = 1) -> str:
        row = {
            "instId": market,
            "tradeId": str(number),
            "px": price,
            "sz": size,
            "side": "buy",
            "ts": str(ms),
            "count": str(count),
            "source": "0",
            "seqId": 1234,
        }
        return json.dumps({"arg": {"channel": "trades", "instId": market}, "data": [row]})


class BybitDialect(Dialect):
    """Version 5, topics `publicTrade.<market>` of spot."""

    name = "bybit"
    market = "BTCUSDT"
    other = "ETHUSDT"
    heartbeats = ('{"success":true,"ret_msg":"pong","conn_id":"0970e817","req_id":"","op":"ping"}',)
    numbers_by_market = False

    def answer(self, message: str) -> list[str]:
        asked = json.loads(message)
        if asked["op"] == "ping":
            return list(self.heartbeats)
        wrong = self._unknown(topic.removeprefix("publicTrade.") for topic in asked["args"])
        said = f"error:handler not found,topic:publicTrade.{wrong[0]}" if wrong else ""
        if len(asked["args"]) > 10:
            said = "args size >10"
        reply = {
            "success": not said, "ret_msg": said or "subscribe", "conn_id": "0970e817-426e-429a-a679-ff7f55e0b16a",
            "req_id": asked.get("req_id", ""), "op": asked["op"],
        }  # fmt: skip
        return [json.dumps(reply)]

    def trade(self, market: str, number: int, price: str, size: str, ms: int, *, block: bool = False) -> str:
        return self._message(market, [self._row(market, number, price, size, ms, block)])

    def trades(self, market: str, rows: Iterable[tuple[int, str, str, int]]) -> list[str]:
        return [self._message(market, [self._row(market, *row) for row in rows])]

    @staticmethod
    def _row(market: str, number: int, price: str, size: str, ms: int, block: bool = False) -> dict[str, object]:
        return {
            "T": ms, "s": market, "S": "Buy", "v": size, "p": price, "L": "PlusTick", "i": str(number), "BT": block,
            "RPI": False, "seq": number * 3,
        }  # fmt: skip

    @staticmethod
    def _message(market: str, rows: list[dict[str, object]]) -> str:
        return json.dumps({"topic": f"publicTrade.{market}", "type": "snapshot", "ts": 1672304486868, "data": rows})


class GeminiDialect(Dialect):
    """The streams of 2026, `<market>@trade`."""

    name = "gemini"
    market = "btcusd"
    other = "ethusd"
    heartbeats = (
        '{"u":1,"E":1759873803503023900,"s":"btcusd","b":"1.0","B":"2","a":"1.1","A":"3"}',
        '{"e":"markPrice","E":1789456740173524809,"s":"btcgusdperp","p":"77244.69","i":"772446"}',
        '{"lastUpdateId":1764527605192164,"symbol":"btcgusdperp","bids":[["77188","0.4"]],"asks":[]}',
    )
    numbers_by_market = False

    def answer(self, message: str) -> list[str]:
        asked = json.loads(message)
        for stream in asked["params"]:
            if not stream.endswith("@trade") or stream.removesuffix("@trade") not in self.markets:
                error = {"code": -1013, "msg": f"Invalid stream name: {stream}"}
                return [json.dumps({"id": asked["id"], "status": 400, "error": error})]
        return [json.dumps({"id": asked["id"], "status": 200})]

    def trade(self, market: str, number: int, price: str, size: str, ms: int) -> str:
        return json.dumps({"E": ms * 1_000_000 + 456_789, "s": market, "t": number, "p": price, "q": size, "m": True})


DIALECTS: tuple[type[Dialect], ...] = (
    BinanceDialect,
    BitstampDialect,
    BybitDialect,
    CoinbaseDialect,
    GeminiDialect,
    KrakenDialect,
    OKXDialect,
)
