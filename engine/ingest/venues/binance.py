"""Binance: trades by URL (raw or combined) or by SUBSCRIBE; spot, futures, testnets, binance.us and binance.vision.

"WebSocket Streams" of the spot API (developers.binance.com, products/spot/web-socket-streams) as it stood in November
2026: `trade` and `aggTrade`, raw or combined ({"stream": ..., "data": {...}}), times in milliseconds or, with
timeUnit=MICROSECOND, in microseconds. {"method": "SUBSCRIBE", "params": [streams], "id": n} is answered by
{"result": null, "id": n}, or by an error with `code` and `msg`; an unknown symbol is acknowledged all the same. The
`serverShutdown` event comes before the server closes the connection. Ids are consecutive by market.

Trades take a typed msgspec decoder that reads only the fields of a tick, makes the floats in C and checks the ranges
there too. It is the sole judge of what a trade is: a message that it refuses is looked at again, slowly, but only to
tell an error from something that may be ignored. Fields that are not read are not judged either: an unknown field, or
rubbish inside one, never loses a trade.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from engine.base.events import Tick
from engine.ingest.venues.markets import AGGREGATED, TRADE, Kind, Markets, Subscription, is_bare, subscription, upper
from engine.ingest.venues.port import (
    MICROSECONDS_FROM,
    NUMBERS_MAX,
    UNREADABLE,
    Ack,
    Draining,
    Id,
    Message,
    MillisOrMicros,
    ParseInto,
    Parser,
    Price,
    Rejected,
    Venue,
    Volume,
    why,
    words,
)

# Other executions than these are no market trades: insurance fund, automatic deleveraging, NA (N12).
_Execution: TypeAlias = Literal["MARKET"] | None

_NAMES: Final = {"price": "p", "volume": "q", "ts": "T", "market": "s", "execution": "X"}


class _Trade(Struct, gc=False, tag_field="e", tag=TRADE, rename=_NAMES | {"id": "t"}):
    id: Id
    price: Price
    volume: Volume
    ts: MillisOrMicros
    market: str = ""
    execution: _Execution = None


class _AggTrade(Struct, gc=False, tag_field="e", tag=AGGREGATED, rename=_NAMES | {"id": "a"}):
    id: Id
    price: Price
    volume: Volume
    ts: MillisOrMicros
    market: str = ""


class _Combined(Struct, gc=False):
    data: _Trade | _AggTrade
    stream: str = ""


class _Number(Struct, gc=False, tag_field="e", tag=TRADE, rename=_NAMES | {"id": "t"}):
    """What counts of a print that is no market trade: the id that it used up."""

    id: Id
    ts: MillisOrMicros
    market: str = ""


class _CombinedNumber(Struct, gc=False):
    data: _Number
    stream: str = ""


def _one_market(trade: type, market: str, combined: bool, lone: bool) -> msgspec.json.Decoder[Any]:
    """Reads the trades of one market and nothing else, which is a tenth quicker than to read the market and look it up.
    `trade`: _Trade or _AggTrade. `lone`: a message that does not say its market is of this one."""
    is_single = trade is _Trade
    field: tuple[Any, ...] = ("market", Literal[market], market) if lone else ("market", Literal[market])
    one = msgspec.defstruct(
        "OneMarket",
        [("id", Id), ("price", Price), ("volume", Volume), ("ts", MillisOrMicros), field]
        + ([("execution", _Execution, None)] if is_single else []),
        rename=_NAMES | {"id": "t" if is_single else "a"},
        tag_field="e",
        tag=TRADE if is_single else AGGREGATED,
        gc=False,
    )
    if combined:
        one = msgspec.defstruct("OneMarketCombined", [("data", one)], gc=False)
    return msgspec.json.Decoder(one, strict=False)


# strict=False reads numbers out of strings ("p": "90333.28") without a str object in between.
_PLAIN: Final = msgspec.json.Decoder(_Trade | _AggTrade, strict=False)
_COMBINED: Final = msgspec.json.Decoder(_Combined, strict=False)
_NUMBER: Final = msgspec.json.Decoder(_Number, strict=False)
_COMBINED_NUMBER: Final = msgspec.json.Decoder(_CombinedNumber, strict=False)


class BinanceParser(Parser):
    """Reads what Binance sends, whichever way it was asked."""

    __slots__ = ("_subscribed",)

    def __init__(self, source: str, markets: Markets, subscribed: bool = False) -> None:
        """`subscribed`: whether a SUBSCRIBE was sent, whose answer matters."""
        super().__init__(source, markets)
        self._subscribed = subscribed
        self.parse_into = self._reader()

    def _reader(self) -> ParseInto:
        # What one connection sends is mostly trades of one stream in one shape, so `decode` is for the stream and shape
        # that were seen last, until a second stream is seen; from then on it reads any.
        decode: Callable[[Message], Any] = _PLAIN.decode
        combined = False
        stream = symbol = ""
        # Kind and market, as they were said -> stream and symbol.
        placed: dict[tuple[type, str], tuple[str, str]] = {}
        several = True
        # A peer that changes its shape with each message shall not have a reader made for each.
        readers: dict[tuple[type, str, bool], Callable[[Message], Any]] = {}

        def parse_into(message: Message, out: list[Tick]) -> None:
            try:
                trade = decode(message)
            except UNREADABLE:
                parse_slowly(message, out)
                return
            if combined:
                trade = trade.data
            ts = trade.ts
            if ts >= MICROSECONDS_FROM:
                ts //= 1000
            if several:
                place = placed.get((type(trade), trade.market))
                if place is None:
                    parse_slowly(message, out)
                    return
                out.append(Tick(*place, trade.price, trade.volume, ts, trade.id))
            else:
                out.append(Tick(stream, symbol, trade.price, trade.volume, ts, trade.id))
            self.error_streak = 0

        def parse_slowly(message: Message, out: list[Tick]) -> None:
            nonlocal decode, combined, stream, symbol, several
            try:
                trade, said, is_combined = _PLAIN.decode(message), "", False
            except UNREADABLE:
                try:
                    envelope = _COMBINED.decode(message)
                except UNREADABLE:
                    self._judge(message)
                    return
                trade, said, is_combined = envelope.data, envelope.stream.partition("@")[0], True
            kind = TRADE if type(trade) is _Trade else AGGREGATED
            market = trade.market or said
            place = self._markets.place(market, kind)
            if place is None:
                self.note_foreign(market, "" if market else "it does not say of which")
                return
            ts = trade.ts if trade.ts < MICROSECONDS_FROM else trade.ts // 1000
            out.append(Tick(*place, trade.price, trade.volume, ts, trade.id))
            self.error_streak = 0
            if trade.market and trade.market == upper(trade.market):
                placed[type(trade), trade.market] = place
            several, combined = len(set(placed.values())) != 1, is_combined
            if several:
                decode = _COMBINED.decode if combined else _PLAIN.decode
                return
            [((only, market), (stream, symbol))] = placed.items()
            decode = readers.get((only, market, combined)) or readers.setdefault(
                (only, market, combined), _one_market(only, market, combined, self._markets.is_single).decode
            )

        return parse_into

    def _judge(self, message: Message) -> None:
        """Books for a message that is no usable trade."""
        value = self.read_object(message)
        if value is None:
            return
        decoder: msgspec.json.Decoder[Any] = _PLAIN
        stream = value.get("stream")
        event = value.get("e")
        if "data" in value and isinstance(stream, str):
            decoder = _COMBINED
            event = value["data"].get("e") if isinstance(value["data"], dict) else None
            if stream.endswith(("@trade", "@aggTrade")) and event is None:
                event = stream.rpartition("@")[2]
        if event not in ("trade", "aggTrade"):
            if event is None or isinstance(event, str):
                self.ignore()
                self._heed(value, event)
            else:
                self.refuse(f"event type 'e' is not a string but {type(event).__name__}", message)
            return
        data = value["data"] if decoder is _COMBINED else value
        if event == TRADE and isinstance(data, dict) and data.get("X") not in (None, "MARKET"):
            self.ignore()
            self._note_number(message, decoder is _COMBINED)
            return
        self.refuse(f"bad {event}: {why(decoder, message)}", message)

    def _heed(self, value: dict[str, Any], event: str | None) -> None:
        """What it says of the connection."""
        if event == "serverShutdown":
            self.note_control(Draining("serverShutdown"))
        elif not self._subscribed:
            return
        elif "result" in value and value["result"] is None:
            self.note_control(Ack())
        elif event is None and ("error" in value or "code" in value):
            error = value.get("error")
            told = error if isinstance(error, dict) else value
            self.note_control(Rejected(words(told.get("code"), told.get("msg"))))

    def _note_number(self, message: Message, combined: bool) -> None:
        """The id of a print that is no market trade is not missing."""
        try:
            if combined:
                envelope = _COMBINED_NUMBER.decode(message)
                number, market = envelope.data, envelope.data.market or envelope.stream.partition("@")[0]
            else:
                number = _NUMBER.decode(message)
                market = number.market
        except UNREADABLE:
            return
        place = self._markets.find(market, TRADE)
        if place is not None and len(self.numbers) < NUMBERS_MAX:
            ts = number.ts if number.ts < MICROSECONDS_FROM else number.ts // 1000
            self.numbers.append((place[0], number.id, ts))


class Binance(Venue):
    """Trades of its spot and futures markets, by URL or by SUBSCRIBE."""

    name = "binance"
    documentation = "developers.binance.com, Spot, WebSocket Streams (November 2026)"
    url = "wss://stream.binance.com:9443/ws"
    hosts = ("binance.com", "binance.us", "binance.vision", "binancefuture.com")
    testnets = ("testnet.binance.vision", "binancefuture.com")
    consecutive_ids = True
    example = "BTCUSDT"

    def subscription(self, url: str, table: Mapping[str, str] | None, kind: str) -> Subscription:
        return subscription(Kind.BINANCE, url, table, kind)

    def parser(self, url: str, source: str, markets: Markets) -> Parser:
        return BinanceParser(source, markets, subscribed=is_bare(url))


VENUE: Final = Binance()
