"""OKX, WebSocket API v5: the channel `trades`.

"WebSocket", "Order Book Trading, Market Data, WS / Trades channel" (okx.com/docs-v5/en, by its stored excerpts, its
clients and what others wrote down of it in July 2026; looked up on 27 November 2026). Each argument of a subscription
is answered by `event` `subscribe` with its `arg`; a mistake by `event` `error` with `code` and `msg`. A connection that
is silent for 30 s is closed: the text `ping` is answered by the text `pong`. `event` `notice` (code 64008) comes a
minute before an upgrade closes the connection, and asks to connect anew. An address may connect three times a second, a
connection subscribe 480 times an hour, with 64 KB of arguments.

An update may stand for several fills of one order at one price: `count` says of how many, `tradeId` is the last one's.
Trade ids are consecutive by instrument, so those before it are used up. `seqId` is the message's place in the order
book's sequence, where it may repeat and start over; it says nothing of trades.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from engine.base.events import Tick
from engine.ingest.venues.port import (
    UNREADABLE,
    Ack,
    Draining,
    Id,
    Message,
    Millis,
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
    rows,
    words,
)

_CHANNEL: Final = "trades"


class _Arg(Struct, gc=False):
    channel: Literal["trades"]


class _Row(Struct, gc=False, rename={"market": "instId", "id": "tradeId", "price": "px", "volume": "sz"}):
    market: Text
    id: Id
    price: Price
    volume: Volume
    ts: Millis
    count: Id = 1


class _Trades(Struct, gc=False):
    arg: _Arg
    data: Rows[_Row]


_TRADES: Final = msgspec.json.Decoder(_Trades, strict=False)


def _trade(row: Any) -> Trade:
    trade = msgspec.convert(row, _Row, strict=False)
    return Trade(trade.market, trade.price, trade.volume, trade.ts, trade.id, max(1, trade.count))


class OKX(Venue):
    """The channel `trades` of version 5."""

    name = "okx"
    documentation = "okx.com/docs-v5, WS / Trades channel (November 2026)"
    url = "wss://ws.okx.com:8443/ws/v5/public"
    hosts = ("okx.com",)
    served_at = r"[^/]+/ws/v5/public/?"
    testnets = ("wspap.okx.com", "wsuspap.okx.com", "wseeapap.okx.com")
    consecutive_ids = True
    # With an underscore: the contracts margined in USD, such as BTC-USD_UM-SWAP.
    market = r"[A-Z0-9]+-[A-Z0-9_]+(-[A-Z0-9_-]+)?"
    example = "BTC-USDT"
    beat = "ping"
    beat_secs = 20.0

    def subscribe(self, markets: Sequence[str], kind: str) -> list[str]:
        args = [{"channel": _CHANNEL, "instId": market} for market in markets]
        return [json.dumps({"op": "subscribe", "args": args})]

    def read(self, message: bytes) -> Iterable[Said]:
        if message == b"pong":
            return []
        value = json_object(message)
        arg = value.get("arg")
        channel, market = (arg.get("channel"), arg.get("instId")) if isinstance(arg, dict) else (None, None)
        match value.get("event"):
            case None if channel == _CHANNEL:
                return rows(value.get("data"), _trade)
            case None if isinstance(channel, str):
                return []
            case "subscribe":
                return [Ack(market)] if isinstance(market, str) and channel == _CHANNEL else []
            case "error":
                return [Rejected(words(value.get("code"), value.get("msg")))]
            case "channel-conn-count-error" as event:
                return [Rejected(words(event, value.get("channel"), value.get("connCount")))]
            case "notice":
                return [Draining(words(value.get("code"), value.get("msg")))]
            case str():
                return []
        raise ValueError("neither 'event' nor 'arg' with a channel")

    def fast(self, parser: VenueParser) -> ParseInto:
        decode, placed, read_into = _TRADES.decode, parser.placed, parser.read_into

        def parse_into(message: Message, out: list[Tick]) -> None:
            before = len(out)
            merged = False
            try:
                trades = decode(message).data
                for one in trades:
                    stream, symbol = placed[one.market]
                    out.append(Tick(stream, symbol, one.price, one.volume, one.ts, one.id))
                    merged = merged or one.count > 1
            except (*UNREADABLE, KeyError):
                del out[before:]
            if len(out) == before:
                read_into(message, out)
                return
            parser.error_streak = 0
            if merged:
                for one in trades:
                    if one.count > 1:
                        parser.pass_numbers(placed[one.market][0], one.id - one.count + 1, one.id - 1, one.ts)

        return parse_into


VENUE: Final = OKX()
