"""Bybit, WebSocket API v5: the topic `publicTrade`.

"Connect" and "Trade" of the public stream (bybit-exchange.github.io/docs/v5/ws/connect and
.../v5/websocket/public/trade, read on 27 November 2026). `op` `subscribe` is answered once for all its topics, by
`success`, a `ret_msg` and the `req_id` that was given with it; of spot it names ten at most, and all of a connection's
have 21,000 characters at most. `op` `ping` is to be sent every 20 s. A message holds up to 1024 trades. An address may
connect 500 times in 5 minutes. Other streams of the version say by `retCode` and `retMsg` what they refuse.

`i` is a UUID for contracts and a number for spot, where it is shared by all symbols, so that those of one market lie
apart. A block trade (`BT`) was agreed on beside the order book: no print of the market.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from engine.base.events import Tick
from engine.ingest.venues.markets import Subscription
from engine.ingest.venues.port import (
    MAX_TRADE_ID,
    UNREADABLE,
    Ack,
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
    is_too_long,
    json_object,
    rows,
    words,
)

_TOPIC: Final = "publicTrade."

_TOPICS_MAX: Final = 10
"""In one request."""

_ARGS_CHARS_MAX: Final = 21_000
"""Of all topics of a connection, as they stand in an array."""


class _Row(
    Struct, gc=False, rename={"market": "s", "id": "i", "price": "p", "volume": "v", "ts": "T", "is_block": "BT"}
):
    market: Text
    id: Text
    price: Price
    volume: Volume
    ts: Millis
    is_block: bool = False


def _id(text: str) -> tuple[int | None, str | None]:
    """A trade's id as a number, or as a text; the other is None. Raises ValueError for a text of too many bytes."""
    if text.isdecimal():
        number = int(text)
        if number <= MAX_TRADE_ID:
            return number, None
    if is_too_long(text):
        raise ValueError("the id of a trade is too long")
    return None, text


def _trade(row: Any) -> Trade | None:
    trade = msgspec.convert(row, _Row, strict=False)
    number, name = _id(trade.id)
    return None if trade.is_block else Trade(trade.market, trade.price, trade.volume, trade.ts, name or number)


class Bybit(Venue):
    """The topics `publicTrade.<market>`, of spot where nothing else is said."""

    name = "bybit"
    documentation = "bybit-exchange.github.io/docs/v5/websocket/public/trade (November 2026)"
    url = "wss://stream.bybit.com/v5/public/spot"
    hosts = ("bybit.com", "bybit-tr.com", "bybit.kz", "bybitgeorgia.ge")
    # Those of options are asked for by their base coin.
    served_at = r"stream[^/]*/v5/public/(spot|linear|inverse)/?"
    testnets = ("stream-testnet.bybit.com",)
    market = r"[A-Z0-9]+(-[A-Z0-9-]+)?"
    example = "BTCUSDT"
    beat = '{"op": "ping"}'
    beat_secs = 20.0

    def subscribe(self, markets: Sequence[str], kind: str) -> list[str]:
        requests = [markets[at : at + _TOPICS_MAX] for at in range(0, len(markets), _TOPICS_MAX)]
        # The answer has the request's id and nothing else of it: let that say how many answers there will be.
        return [
            json.dumps({"req_id": str(len(requests)), "op": "subscribe", "args": [f"{_TOPIC}{one}" for one in asked]})
            for asked in requests
        ]

    def subscription(self, url: str, table: Mapping[str, str] | None, kind: str) -> Subscription:
        chars = len(json.dumps([f"{_TOPIC}{market}" for market in table or ()]))
        if chars > _ARGS_CHARS_MAX:
            problem = f"so many markets have {chars} characters, and bybit takes {_ARGS_CHARS_MAX} of one connection"
            return Subscription(self.name, problem=f"{problem}: spread them over several sources")
        return super().subscription(url, table, kind)

    def read(self, message: bytes) -> Iterable[Said]:
        value = json_object(message)
        topic = value.get("topic")
        if isinstance(topic, str):
            return rows(value.get("data"), _trade) if topic.startswith(_TOPIC) else []
        if value.get("success") is False or value.get("retCode") not in (None, 0):
            return [Rejected(words(value.get("retCode"), value.get("ret_msg"), value.get("retMsg")))]
        match value.get("op"):
            case "subscribe":
                if value.get("success") is not True:
                    return []
                requests = value.get("req_id")
                count = isinstance(requests, str) and re.fullmatch(r"[0-9]{1,4}", requests)
                return [Ack(of=int(count[0]) if count else 1)]
            case str():
                return []
        raise ValueError("neither 'topic' nor 'op'")

    def fast(self, parser: VenueParser) -> ParseInto | None:
        # Of the topics that were asked for and no other: that is told in C.
        topics = tuple(f"{_TOPIC}{market}" for market in parser.asked)
        if not topics:
            return None
        trades = msgspec.defstruct("Trades", [("topic", Literal[topics]), ("data", Rows[_Row])], gc=False)
        decode: Callable[[Message], Any] = msgspec.json.Decoder(trades, strict=False).decode
        placed, read_into = parser.placed, parser.read_into

        def parse_into(message: Message, out: list[Tick]) -> None:
            before = len(out)
            try:
                for one in decode(message).data:
                    stream, symbol = placed[one.market]
                    name = one.id
                    if one.is_block:
                        continue
                    if name.isdecimal() and (number := int(name)) <= MAX_TRADE_ID:
                        out.append(Tick(stream, symbol, one.price, one.volume, one.ts, number))
                    elif name.isascii():
                        out.append(Tick(stream, symbol, one.price, one.volume, one.ts, None, name))
                    else:
                        raise ValueError(name)
            except (*UNREADABLE, KeyError):
                del out[before:]
            if len(out) > before:
                parser.error_streak = 0
            else:
                read_into(message, out)

        return parse_into


VENUE: Final = Bybit()
