"""Kraken spot, WebSocket API version 2: the channel `trade`.

"Trade" and "Heartbeat" of the Spot WebSocket v2 (docs.kraken.com/exchange/api-reference/spot-websocket-v2/trade and
docs.kraken.com/api/docs/websocket-v2/heartbeat, read on 27 November 2026). A subscription names symbols; each is
acknowledged, or refused with `success` false and an `error`, by itself. After the upgrade comes a `status`, and a
`heartbeat` in each second without other messages, so that no ping of ours is needed. What is asked too often is
answered by {"Error": "Exceeded msg rate"} ("Spot Rate Limits", by what others wrote down of it in 2026), spelled so;
how often that is, the venue does not say. A message may hold several trades, of several
orders. Prices and quantities are JSON numbers, times RFC 3339. No snapshot is asked for; its trades would be good ones.

`trade_id` is a sequence number, unique by book: consecutive by symbol.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from engine.base.events import Tick
from engine.ingest.venues.port import (
    EARLIEST,
    EPOCH,
    LATEST,
    UNREADABLE,
    Ack,
    Id,
    Instant,
    Message,
    ParseInto,
    Price,
    Rejected,
    Rows,
    Said,
    Text,
    Trade,
    Venue,
    VenueParser,
    Volume,
    json_object,
    millis,
    rows,
    words,
)


class _Row(Struct, gc=False):
    symbol: Text
    price: Price
    qty: Volume
    trade_id: Id
    timestamp: Instant


class _Trades(Struct, gc=False):
    channel: Literal["trade"]
    data: Rows[_Row]


_TRADES: Final = msgspec.json.Decoder(_Trades, strict=False)


def _trade(row: Any) -> Trade:
    trade = msgspec.convert(row, _Row, strict=False)
    return Trade(trade.symbol, trade.price, trade.qty, millis(trade.timestamp - EPOCH), trade.trade_id)


class Kraken(Venue):
    """The channel `trade` of version 2."""

    name = "kraken"
    documentation = "docs.kraken.com, Spot WebSocket v2, trade (November 2026)"
    url = "wss://ws.kraken.com/v2"
    hosts = ("kraken.com",)
    served_at = r"(beta-)?ws\.kraken\.com/v2/?"
    testnets = ("beta-ws.kraken.com",)
    consecutive_ids = True
    market = r"[A-Za-z0-9.]+/[A-Z0-9]+"
    example = "BTC/USD"

    def subscribe(self, markets: Sequence[str], kind: str) -> list[str]:
        params = {"channel": "trade", "symbol": list(markets), "snapshot": False}
        return [json.dumps({"method": "subscribe", "params": params})]

    def read(self, message: bytes) -> Iterable[Said]:
        value = json_object(message)
        if value.get("channel") == "trade":
            return rows(value.get("data"), _trade)
        if value.get("success") is False or value.keys() & {"error", "Error"}:
            return [Rejected(words(value.get("symbol"), value.get("error"), value.get("Error")))]
        if value.get("method") == "subscribe":
            result = value.get("result")
            symbol = result.get("symbol") if isinstance(result, dict) else None
            return [Ack(symbol)] if isinstance(symbol, str) else []
        if isinstance(value.get("channel"), str) or isinstance(value.get("method"), str):
            return []
        raise ValueError("neither 'channel' nor 'method'")

    def fast(self, parser: VenueParser) -> ParseInto:
        decode, placed, read_into = _TRADES.decode, parser.placed, parser.read_into

        def parse_into(message: Message, out: list[Tick]) -> None:
            before = len(out)
            try:
                for one in decode(message).data:
                    stream, symbol = placed[one.symbol]
                    ts = millis(one.timestamp - EPOCH)
                    if not EARLIEST <= ts < LATEST:
                        raise ValueError(ts)
                    out.append(Tick(stream, symbol, one.price, one.qty, ts, one.trade_id))
            except (*UNREADABLE, KeyError):
                del out[before:]
            if len(out) > before:
                parser.error_streak = 0
            else:
                read_into(message, out)

        return parse_into


VENUE: Final = Kraken()
