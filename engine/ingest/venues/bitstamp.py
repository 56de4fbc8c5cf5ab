"""Bitstamp, WebSocket API v2: the channels `live_trades_<market>`.

"Websocket API v2" (bitstamp.net/websocket/v2, by its stored copies and by what others have seen on the wire in
September 2026; looked up on 27 November 2026). Each channel is subscribed to by a message of its own, of less than 512
bytes, and acknowledged by `bts:subscription_succeeded`, also where there is no such market: such a channel stays
silent. One that is spelled as none can be is answered by `bts:error`, as is what is no message. `bts:request_reconnect`
says that the server closes the connection in a few seconds; none becomes older than 90 days. A connection takes 1024
channels, and is closed without a word at the next one. The server pings every 54 seconds; `bts:heartbeat` may be asked,
and need not be.

A trade has its price and amount as JSON numbers and as text; the text is read. `microtimestamp` is in microseconds, as
text; `timestamp` is in seconds, of perpetuals in milliseconds, and is not read.

`id` is unique in the whole venue: those of one market's trades lie apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from engine.base.events import Tick
from engine.ingest.venues.port import (
    UNREADABLE,
    Ack,
    Draining,
    Id,
    Message,
    Micros,
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
    words,
)

_CHANNEL: Final = "live_trades_"


class _Row(Struct, gc=False):
    id: Id
    price_str: Price
    amount_str: Volume
    microtimestamp: Micros


class _Trade(Struct, gc=False):
    event: Literal["trade"]
    channel: Text
    data: _Row


_TRADE: Final = msgspec.json.Decoder(_Trade, strict=False)


class Bitstamp(Venue):
    """The channels `live_trades_<market>`."""

    name = "bitstamp"
    documentation = "bitstamp.net/websocket/v2 (November 2026)"
    url = "wss://ws.bitstamp.net"
    hosts = ("bitstamp.net",)
    testnets = ("sandbox.bitstamp.net",)
    market = r"[a-z0-9]+(-[a-z0-9]+)?"
    example = "btcusd"

    def subscribe(self, markets: Sequence[str], kind: str) -> list[str]:
        return [
            json.dumps({"event": "bts:subscribe", "data": {"channel": f"{_CHANNEL}{market}"}}) for market in markets
        ]

    def read(self, message: bytes) -> list[Said]:
        value = json_object(message)
        channel, data = value.get("channel"), value.get("data")
        of_trades = isinstance(channel, str) and channel.startswith(_CHANNEL)
        match value.get("event"):
            case "trade" if of_trades:
                frame = msgspec.convert(value, _Trade, strict=False)
                trade = frame.data
                market = frame.channel.removeprefix(_CHANNEL)
                return [Trade(market, trade.price_str, trade.amount_str, trade.microtimestamp // 1000, trade.id)]
            case "trade":
                raise ValueError("a trade of no channel")
            case "bts:subscription_succeeded":
                return [Ack(channel.removeprefix(_CHANNEL))] if of_trades and isinstance(channel, str) else []
            case "bts:error":
                told = (data.get("code"), data.get("message")) if isinstance(data, dict) else (data,)
                return [Rejected(words(channel, *told))]
            case "bts:request_reconnect":
                return [Draining("bts:request_reconnect")]
            case str():
                return []
        raise ValueError("no 'event' that is a string")

    def fast(self, parser: VenueParser) -> ParseInto:
        decode, placed, read_into = _TRADE.decode, parser.placed, parser.read_into

        def parse_into(message: Message, out: list[Tick]) -> None:
            try:
                frame = decode(message)
                # Whatever channel it is of, only one whose market was placed is known by what follows the prefix.
                stream, symbol = placed[frame.channel[len(_CHANNEL) :]]
            except (*UNREADABLE, KeyError):
                read_into(message, out)
                return
            if not frame.channel.startswith(_CHANNEL):
                read_into(message, out)
                return
            trade = frame.data
            ts = trade.microtimestamp // 1000
            out.append(Tick(stream, symbol, trade.price_str, trade.amount_str, ts, trade.id))
            parser.error_streak = 0

        return parse_into


VENUE: Final = Bitstamp()
