"""Coinbase Exchange: the channels `matches` and `heartbeat` of the public WebSocket feed.

"Exchange WebSocket Overview", "Channels" and "Rate Limits" (docs.cdp.coinbase.com/exchange/websocket-feed, read on 27
November 2026). A client that has not subscribed within 5 s is disconnected. The answer is `subscriptions`, with every
channel and its products, or `error` with a `message` and a `reason`. A `match` is a trade; `last_match` is the latest
one before the subscription. `heartbeat` comes each second. New types of messages may come at any time and are to be
ignored.

`trade_id` is consecutive by product, so a hole in it is a trade that was lost. `sequence` counts all messages of the
full channel, most of which `matches` leaves out, so a hole in it means nothing here. A heartbeat's `last_trade_id`
tells of a loss before the next trade does.

An address may send 8 requests a second; a channel of a product takes ten subscriptions of an account. The page names no
age at which a connection ends, and no ping of the client's: a heartbeat comes each second.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, Literal

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
    Latest,
    Message,
    ParseInto,
    Price,
    Rejected,
    Said,
    Text,
    Trade,
    Venue,
    VenueParser,
    Volume,
    json_object,
    millis,
    words,
)


class _Match(Struct, gc=False):
    type: Literal["match", "last_match"]
    trade_id: Id
    product_id: Text
    price: Price
    size: Volume
    time: Instant


_MATCH: Final = msgspec.json.Decoder(_Match, strict=False)


class Coinbase(Venue):
    """The channel `matches` of Coinbase Exchange."""

    name = "coinbase"
    documentation = "docs.cdp.coinbase.com/exchange/websocket-feed (November 2026)"
    url = "wss://ws-feed.exchange.coinbase.com"
    hosts = ("coinbase.com",)
    # Of the other feed, ws-direct, nobody gets anything without a login; Advanced Trade, Prime and the International
    # Exchange speak protocols of their own.
    served_at = r"(?!ws-direct\.)([^/]+\.)?exchange\.coinbase\.com/?"
    testnets = ("sandbox.exchange.coinbase.com",)
    consecutive_ids = True
    market = r"[A-Z0-9]+-[A-Z0-9]+"
    example = "BTC-USD"

    def subscribe(self, markets: Sequence[str], kind: str) -> list[str]:
        return [json.dumps({"type": "subscribe", "product_ids": list(markets), "channels": ["matches", "heartbeat"]})]

    def read(self, message: bytes) -> list[Said]:
        value = json_object(message)
        match value.get("type"):
            case "match" | "last_match":
                trade = msgspec.convert(value, _Match, strict=False)
                return [Trade(trade.product_id, trade.price, trade.size, millis(trade.time - EPOCH), trade.trade_id)]
            case "subscriptions":
                channels = value.get("channels")
                return [
                    Ack(product)
                    for channel in (channels if isinstance(channels, list) else ())
                    if isinstance(channel, dict) and channel.get("name") == "matches"
                    for product in channel.get("product_ids") or ()
                    if isinstance(product, str)
                ]
            case "heartbeat":
                product, last = value.get("product_id"), value.get("last_trade_id")
                return [Latest(product, last)] if isinstance(product, str) and type(last) is int else []
            case "error":
                return [Rejected(words(value.get("message"), value.get("reason")))]
            case str():
                return []
        raise ValueError("no 'type' that is a string")

    def fast(self, parser: VenueParser) -> ParseInto:
        decode, placed, read_into = _MATCH.decode, parser.placed, parser.read_into

        def parse_into(message: Message, out: list[Tick]) -> None:
            try:
                trade = decode(message)
                stream, symbol = placed[trade.product_id]
            except (*UNREADABLE, KeyError):
                read_into(message, out)
                return
            ts = millis(trade.time - EPOCH)
            if not EARLIEST <= ts < LATEST:
                read_into(message, out)
                return
            out.append(Tick(stream, symbol, trade.price, trade.size, ts, trade.trade_id))
            parser.error_streak = 0

        return parse_into


VENUE: Final = Coinbase()
