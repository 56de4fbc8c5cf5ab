"""Gemini: version 1 "Market Data" by URL, which its documentation has moved to the archive, and the streams of today.

"WebSocket", "Message Format" and "Streams" (developer.gemini.com/websocket, version 0.10.7, by its stored excerpts, its
clients and what others have seen on the wire in September 2026; looked up on 27 November 2026): wss://ws.gemini.com,
{"id": ..., "method": "subscribe", "params": ["btcusd@trade"]}, answered by {"id": ..., "status": 200}, or by another
status with an `error` for the whole of it. A trade has `E` (event time in nanoseconds), `s` (symbol, in lower case),
`t` (trade id), `p`, `q` and `m` (whether the buyer is the maker), and no `e`, which says what other messages are. The
server pings every 20 seconds; an address may connect 300 times in 5 minutes. Contracts of prediction markets speak the
same protocol and are called GEMI-..., in upper case ("Ticker Overview" and "Streams" of Prediction Markets, looked up
on 27 November 2026); the venue's own client says that a stream's name in another case is silent.

"Market Data" version 1 (docs.gemini.com/websocket-api): `update` frames with a list of events, some of them trades.
`socket_sequence` counts the frames of a connection from 0: a hole in it is a frame that was lost.

In both the id of a trade is that of an event of the whole venue: those of one market's trades lie far apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Struct

from engine.base.events import Tick
from engine.ingest.venues.markets import TRADE, Markets, Subscription, host_of, is_below
from engine.ingest.venues.port import (
    ROWS_MAX,
    UNREADABLE,
    Ack,
    Id,
    Lost,
    Message,
    Millis,
    Nanos,
    ParseInto,
    Parser,
    Price,
    Rejected,
    Rows,
    Said,
    Seconds,
    Text,
    Trade,
    Venue,
    VenueParser,
    Volume,
    check_values,
    json_object,
    words,
)

_NAME: Final = "gemini"

# What version 1 may be asked for by name, and all of which it sends where nothing is.
_ENTRIES: Final = ("bids", "offers", "trades", "auctions")

_STREAMS: Final = "leave out url and name markets, and get today's streams"


class _Trade(Struct, gc=False, tag_field="type", tag="trade"):
    tid: Id
    price: Price
    amount: Volume


class _Change(Struct, gc=False, tag_field="type", tag="change"):
    pass


class _BlockTrade(Struct, gc=False, tag_field="type", tag="block_trade"):
    pass


class _Update(Struct, gc=False, tag_field="type", tag="update"):
    events: Rows[_Trade | _Change | _BlockTrade]
    timestampms: Millis | None = None
    socket_sequence: int | None = None


class _Heartbeat(Struct, gc=False, tag_field="type", tag="heartbeat"):
    socket_sequence: int | None = None


class _Envelope(Struct, gc=False):
    """A Gemini frame whose events are judged one by one."""

    type: str
    events: list[msgspec.Raw] | None = None
    # Judged only where they are needed.
    timestampms: Any = None
    timestamp: Any = None
    socket_sequence: Any = None


class _EventType(Struct, gc=False):
    type: str


class _StreamTrade(Struct, gc=False, rename={"ts": "E", "market": "s", "id": "t", "price": "p", "volume": "q"}):
    ts: Nanos
    market: Text
    id: Id
    price: Price
    volume: Volume


_FRAME: Final = msgspec.json.Decoder(_Update | _Heartbeat, strict=False)
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope, strict=False)
_EVENT_TYPE: Final = msgspec.json.Decoder(_EventType)
_TRADE: Final = msgspec.json.Decoder(_Trade, strict=False)
_STREAM_TRADE: Final = msgspec.json.Decoder(_StreamTrade, strict=False)


class GeminiV1Parser(Parser):
    """Reads the frames of version 1: its good trades become ticks, each bad one counts an error."""

    __slots__ = ("_sequence",)

    def __init__(self, source: str, markets: Markets) -> None:
        super().__init__(source, markets)
        # `socket_sequence` of the latest frame; each connection begins with 0.
        self._sequence: int | None = None
        self.parse_into = self._reader()

    def _place(self) -> tuple[str, str]:
        place = self._markets.place("", TRADE)
        # A URL of Gemini's names one market, and the sources file cannot name another (engine/config/settings.py).
        assert place is not None
        return place

    def _reader(self) -> ParseInto:
        source, symbol = self._place()
        decode = _FRAME.decode

        def parse_into(message: Message, out: list[Tick]) -> None:
            try:
                frame = decode(message)
            except UNREADABLE:
                self._judge(message, out)
                return
            self._count(frame.socket_sequence)
            trades = [event for event in frame.events if type(event) is _Trade] if type(frame) is _Update else None
            if not trades:
                self.ignore()
                return
            ts = frame.timestampms
            if ts is None:
                self._judge(message, out)
                return
            out.extend([Tick(source, symbol, trade.price, trade.amount, ts, trade.tid) for trade in trades])
            self.error_streak = 0

        return parse_into

    def _count(self, sequence: object) -> None:
        """A frame has come; `sequence`: its place among those of its connection."""
        if type(sequence) is not int:
            return
        before, self._sequence = self._sequence, sequence
        if before is not None and sequence > before + 1:
            self.note_control(Lost(sequence - before - 1))

    def _judge(self, message: Message, out: list[Tick]) -> None:
        """Books, and the good trades, of a frame that has something bad or unknown in it."""
        try:
            check_values(message)
            envelope = _ENVELOPE.decode(message)
        except UNREADABLE as trouble:
            value = self.read_object(message)
            if value is not None:
                # It came, whatever it is.
                self._count(value.get("socket_sequence"))
                self.refuse(f"bad frame: {trouble}", message)
            return
        self._count(envelope.socket_sequence)
        if envelope.type != "update":
            # Decoded once more because the envelope skips over what it does not read.
            if self.read_object(message) is not None:
                self.ignore()
            return
        if envelope.events is None:
            self.refuse("update without events", message)
            return
        if len(envelope.events) > ROWS_MAX:
            self.refuse(f"update of over {ROWS_MAX} events", message)
            return
        trades: list[_Trade] = []
        bad: list[str] = []
        for event in envelope.events:
            try:
                if _EVENT_TYPE.decode(event).type == "trade":
                    trades.append(_TRADE.decode(event))
            except UNREADABLE as trouble:
                bad.append(f"bad event: {trouble}")
        ts = 0
        if trades:
            try:
                ts = _ts(envelope)
            except ValueError as trouble:
                trades.clear()
                bad.append(f"trade without a time: {trouble}")
        for reason in bad:
            self.note_error(reason, message)
        if trades:
            source, symbol = self._place()
            out.extend([Tick(source, symbol, trade.price, trade.amount, ts, trade.tid) for trade in trades])
            self.error_streak = 0
        elif bad:
            self.error_streak += 1
        else:
            self.ignore()


def _ts(frame: _Envelope) -> int:
    """When its trades were, in ms. Raises ValueError when it does not say."""
    if frame.timestampms is not None:
        ms: int = msgspec.convert(frame.timestampms, Millis, strict=False)
        return ms
    seconds: int = msgspec.convert(frame.timestamp, Seconds, strict=False)
    return seconds * 1000


def _is_v1(url: str, table: Mapping[str, str] | None) -> bool:
    """Whether `url` is meant for version 1. That of a stranger's host is, unless there are markets to subscribe to."""
    host = host_of(url)
    if host.startswith(("ws.", "api.")):
        return host.startswith("api.")
    return urlsplit(url).path.strip("/") != "" or table is None


def _v1(host: str, path: str, query: str) -> Subscription:
    """What a URL of version 1 asks for. `host`: "" for one that is not the venue's."""
    match = re.fullmatch(r"/v1/marketdata/([A-Za-z0-9]+)/?", path)
    if match is None:
        what = "the market data of one market" if path.startswith("/v1/") else "version 1"
        return Subscription(_NAME, problem=f"it is not {what}: {_STREAMS}")
    if host and not host.startswith("api."):
        return Subscription(_NAME, problem=f"version 1 is served by api.gemini.com, not by {host}: {_STREAMS}")
    flags = {name: value.lower() for name, value in parse_qsl(query)}
    chosen = {name: flags[name] for name in _ENTRIES if name in flags}
    if chosen and chosen.get("trades") != "true":
        return Subscription(_NAME, problem="its flags leave out trades: add trades=true, or no flags at all")
    return Subscription(_NAME, (match[1].upper(),))


class Gemini(Venue):
    """The streams `<market>@trade`, and version 1 where the URL asks for it."""

    name = _NAME
    documentation = "developer.gemini.com/websocket/streams (November 2026)"
    url = "wss://ws.gemini.com"
    hosts = ("gemini.com",)
    testnets = ("sandbox.gemini.com",)
    market = r"[A-Za-z0-9]+|(?i:gemi)-[A-Za-z0-9-]+"
    example = "btcusd"

    def subscribe(self, markets: Sequence[str], kind: str) -> list[str]:
        # The venue tells cases apart: those of prediction markets are upper, all others lower.
        spelled = [market.upper() if "-" in market else market.lower() for market in markets]
        streams = [f"{market}@trade" for market in spelled]
        return [json.dumps({"id": "1", "method": "subscribe", "params": streams})]

    def read(self, message: bytes) -> list[Said]:
        value = json_object(message)
        if "status" in value:
            if value["status"] == 200:
                return [Ack()]
            error = value.get("error")
            told = (error.get("code"), error.get("msg")) if isinstance(error, dict) else (error,)
            return [Rejected(words(value["status"], *told))]
        # Other streams say what they are (`markPrice` has a p too), or have nothing that a trade has.
        if value.get("e") not in (None, "trade") or not value.keys() & {"t", "p", "q"}:
            return []
        trade = msgspec.convert(value, _StreamTrade, strict=False)
        return [Trade(trade.market, trade.price, trade.volume, trade.ts // 1_000_000, trade.id)]

    def fast(self, parser: VenueParser) -> ParseInto:
        decode, placed, read_into = _STREAM_TRADE.decode, parser.placed, parser.read_into

        def parse_into(message: Message, out: list[Tick]) -> None:
            try:
                trade = decode(message)
                stream, symbol = placed[trade.market]
            except (*UNREADABLE, KeyError):
                read_into(message, out)
                return
            out.append(Tick(stream, symbol, trade.price, trade.volume, trade.ts // 1_000_000, trade.id))
            parser.error_streak = 0

        return parse_into

    def subscription(self, url: str, table: Mapping[str, str] | None, kind: str) -> Subscription:
        if not _is_v1(url, table):
            return super().subscription(url, table, kind)
        parts, host = urlsplit(url), host_of(url)
        if not is_below(host, self.hosts):
            found = Subscription(_NAME, _v1("", unquote(parts.path), parts.query).markets)
        elif parts.scheme == "ws":
            return Subscription(_NAME, problem=f"{host} serves wss:// only")
        else:
            found = self.doubted(host, _v1(host, unquote(parts.path), parts.query))
        doubt = f"version 1 of Gemini's market data is deprecated: {_STREAMS}"
        return msgspec.structs.replace(found, doubts=(*found.doubts, doubt))

    def parser(self, url: str, source: str, markets: Markets) -> Parser:
        # Which of both it is was decided with the subscription: only the streams of today are told their markets.
        if _is_v1(url, markets.asked):
            return GeminiV1Parser(source, markets)
        return super().parser(url, source, markets)


VENUE: Final = Gemini()
