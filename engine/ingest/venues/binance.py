"""Binance: trades by URL (raw or combined) or by SUBSCRIBE; spot, futures, testnets, binance.us and binance.vision.

"General WebSocket Streams information" and "Live Subscribing/Unsubscribing to streams" of the spot API
(developers.binance.com/en/docs/products/spot/web-socket-streams, read on 27 November 2026): `trade` and `aggTrade`, raw
or combined ({"stream": ..., "data": {...}}), times in milliseconds or, with timeUnit=MICROSECOND, in microseconds.
{"method": "SUBSCRIBE", "params": [streams], "id": n} is answered by {"result": null, "id": n}, or by an error with
`code` and `msg`; an unknown symbol is acknowledged all the same. Ids are consecutive by market.

A connection is closed after 24 hours, and after `serverShutdown`, which comes before. The server pings every 20 seconds
(futures: 3 minutes; binance.us: 3 minutes) and wants the pong within a minute. A connection takes 1024 streams and 5
messages a second, an address 300 connections in 5 minutes.

What URLs mean: "WebSocket Streams" (spot; USD-M and COIN-M futures; testnet), "SBE Market Data Streams" and "WebSocket
API", as they stood in November 2026. USD-M futures since April 2026: "Important WebSocket Change Notice" (USDS-Margined
Futures, WebSocket Market Streams) gives `@aggTrade` to /market alone; elsewhere the connection opens and stays silent.

Trades take a typed msgspec decoder that reads only the fields of a tick, makes the floats in C and checks the ranges
there too. It is the sole judge of what a trade is: a message that it refuses is looked at again, slowly, but only to
tell an error from something that may be ignored. Fields that are not read are not judged either: an unknown field, or
rubbish inside one, never loses a trade.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from json import dumps
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta, Struct

from engine.base.events import Tick
from engine.ingest.venues.markets import (
    AGGREGATED,
    TRADE,
    Markets,
    Subscription,
    host_of,
    is_below,
    lower,
    plain,
    upper,
)
from engine.ingest.venues.port import (
    EARLIEST,
    LATEST,
    UNREADABLE,
    Ack,
    Draining,
    Id,
    Message,
    ParseInto,
    Parser,
    Price,
    Rejected,
    Venue,
    Volume,
    why,
    words,
)

_NAME: Final = "binance"

# Markets may be called in any script: Binance has some since 2025 ("UTF-8 Encoding" in its changelog of December 2025).
_TRADE_STREAM: Final = rf"([\w.\-]+)@({TRADE}|{AGGREGATED})"
_ROUTED: Final = "fstream.binance.com"
_FUTURES_HOST: Final = r"[a-z-]*[fd]stream[a-z-]*\.binance\.com|(.+\.)?binancefuture\.com"
_SPOT_MARKET: Final = r"[^\W_A-Z]+"
_CONTRACT: Final = r"[^\W_]+_(perp|PERP|[0-9]{6})"
_FUTURES_MARKET: Final = r"[^\W_A-Z]+(_(perp|[0-9]{6}))?"

# Other executions than these are no market trades: insurance fund, automatic deleveraging, NA (N12).
_Execution: TypeAlias = Literal["MARKET"] | None

# Between both units lie times that are of neither.
_MillisOrMicros: TypeAlias = Annotated[int, Meta(ge=EARLIEST, lt=LATEST * 1000)]

_NAMES: Final = {"price": "p", "volume": "q", "ts": "T", "market": "s", "execution": "X"}


class _Trade(Struct, gc=False, tag_field="e", tag=TRADE, rename=_NAMES | {"id": "t"}):
    id: Id
    price: Price
    volume: Volume
    ts: _MillisOrMicros
    market: str = ""
    execution: _Execution = None


class _AggTrade(Struct, gc=False, tag_field="e", tag=AGGREGATED, rename=_NAMES | {"id": "a"}):
    id: Id
    price: Price
    volume: Volume
    ts: _MillisOrMicros
    market: str = ""


class _Combined(Struct, gc=False):
    data: _Trade | _AggTrade
    stream: str = ""


class _Number(Struct, gc=False, tag_field="e", tag=TRADE, rename=_NAMES | {"id": "t"}):
    """What counts of a print that is no market trade: the id that it used up."""

    id: Id
    ts: _MillisOrMicros
    market: str = ""


class _CombinedNumber(Struct, gc=False):
    data: _Number
    stream: str = ""


def _one_market(trade: type, market: str, combined: bool, lone: bool) -> msgspec.json.Decoder[Any]:
    """Read the trades of one market and nothing else, which is a tenth quicker than to read the market and look it up.
    `trade`: _Trade or _AggTrade. `lone`: a message that does not say its market is of this one."""
    is_single = trade is _Trade
    field: tuple[Any, ...] = ("market", Literal[market], market) if lone else ("market", Literal[market])
    one = msgspec.defstruct(
        "OneMarket",
        [("id", Id), ("price", Price), ("volume", Volume), ("ts", _MillisOrMicros), field]
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
            if ts >= LATEST:
                ts //= 1000
                if ts < EARLIEST:
                    parse_slowly(message, out)
                    return
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
            ts = _in_millis(trade.ts)
            if ts < EARLIEST:
                self.refuse(f"time {trade.ts}, expected milliseconds or microseconds", message)
                return
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
        """Book for a message that is no usable trade."""
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
            said = error if isinstance(error, str) else None
            self.note_control(Rejected(words(told.get("code"), told.get("msg"), said)))

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
        if place is not None:
            self.pass_numbers(place[0], number.id, number.id, _in_millis(number.ts))


def _in_millis(ts: int) -> int:
    return ts if ts < LATEST else ts // 1000


def is_bare(url: str) -> bool:
    """Whether a URL of Binance's is for those who name their streams in a SUBSCRIBE."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    return path.endswith("/ws") or (path.endswith("/stream") and "streams=" not in parts.query)


def _binance(host: str, path: str, query: str) -> Subscription:
    """`host`: "" for one that is not the venue's."""
    if host.startswith("stream-sbe."):
        return _hopeless("it sends binary SBE messages; use stream.binance.com")
    if host.startswith(("ws-api.", "ws-fapi.", "ws-dapi.", "api.", "fapi.", "dapi.", "www.")) or host == "binance.com":
        return _hopeless("it answers requests and sends no streams; use stream.binance.com")
    path = path.rstrip("/")
    if path.endswith("/stream"):
        # By hand: parse_qs would take the "+" of a time zone for a space. A slash may be encoded, in a query.
        pairs = [unquote(pair) for pair in query.split("&")]
        asked = [name for pair in pairs if pair.startswith("streams=") for name in pair[8:].split("/")]
    else:
        asked = path.partition("/ws/")[2].split("/")
    asked = [name for name in asked if name]
    if not asked:
        return _hopeless(
            "it names no stream; ask for one, such as /ws/btcusdt@trade, or end it in /ws and name `markets`",
        )
    route = path.removesuffix("/stream").partition("/ws/")[0].strip("/")
    markets: list[str] = []
    wrong: list[str] = []
    doubts: list[str] = []
    kinds: dict[str, str] = {}
    for before, name in pairwise(("@", *asked)):
        problem, doubt = _binance_stream(host, route, before, name)
        if problem is not None:
            wrong.append(problem)
            continue
        if doubt is not None:
            doubts.append(doubt)
        market, _, kind = name.partition("@")
        market = upper(market)
        if market not in markets:
            markets.append(market)
        elif kinds.get(market) != kind:
            doubts.append(f"{market} is asked for single and aggregated: each of its trades is stored twice")
        kinds[market] = kind
    if not markets:
        return _hopeless("; ".join(wrong[:3]))
    return Subscription(_NAME, tuple(markets), doubts=tuple((wrong + doubts)[:3]))


def _binance_stream(host: str, route: str, before: str, name: str) -> tuple[str | None, str | None]:
    """Why a stream brings no trades, or None; and what is doubtful of one that may. `route`: what stands before /ws;
    `before`: the stream that is asked for before it."""
    match = re.fullmatch(_TRADE_STREAM, name)
    if match is None:
        is_near = re.search(r"@(trade|aggtrade)\b", name, re.IGNORECASE)
        return f"{name!r} is not spelled as the venue does" if is_near else f"{name!r} carries no trades", None
    market, kind = match.groups()
    # European options write their symbols in upper case, and what an unknown host does nobody knows.
    if not host or host.startswith("nbstream."):
        return None, None
    is_futures = re.fullmatch(_FUTURES_HOST, host) is not None
    meant = lower(plain(market))
    if is_futures and (contract := re.search(r"[-_.]?(perp|[0-9]{6})$", lower(market))):
        meant = f"{lower(plain(market[: contract.start()]))}_{contract[1]}"
    # A "/" within a market's name parts it in two streams, the first of no kind. A user's key is longer.
    if re.fullmatch(r"[^\W_]{1,20}", before):
        return f"'{before}/{name}' must be written without the slash: '{lower(before)}{meant}@{kind}'", None
    if not is_futures and re.fullmatch(_CONTRACT, market):
        return f"{name!r} is a futures contract, of which {host} has none; dstream.binance.com and fstream have", None
    if not re.fullmatch(_FUTURES_MARKET if is_futures else _SPOT_MARKET, market):
        how = "in lower case" if lower(market) == meant else "without separators, in lower case"
        return f"{name!r} must be written {how}: '{meant}@{kind}'", None
    if host == _ROUTED and route != "market" and (kind == AGGREGATED or route == "private"):
        where = f"/{route} is silent" if route else "silent without a route"
        return f"{name!r}: {where} since April 2026; use wss://{host}/market/ws/{market}@{AGGREGATED}", None
    if is_futures and kind == TRADE:
        return None, f"{name!r} is not documented for futures and may be silent; {market}@{AGGREGATED} is"
    if route and not is_futures:
        return None, f"the venue documents no /{route} for its spot markets"
    return None, None


def _hopeless(problem: str) -> Subscription:
    return Subscription(_NAME, problem=problem)


class Binance(Venue):
    """Trades of its spot and futures markets, by URL or by SUBSCRIBE."""

    name = _NAME
    documentation = "developers.binance.com, Spot, WebSocket Streams (November 2026)"
    url = "wss://stream.binance.com:9443/ws"
    hosts = ("binance.com", "binance.us", "binance.vision", "binancefuture.com")
    testnets = (
        "testnet.binance.vision", "binancefuture.com", "demo-stream.binance.com", "demo-fstream.binance.com",
        "demo-dstream.binance.com", "demo-nbstream.binance.com",
    )  # fmt: skip
    consecutive_ids = True
    example = "BTCUSDT"
    max_age_secs = 23.5 * 3600

    def subscription(self, url: str, table: Mapping[str, str] | None, kind: str) -> Subscription:
        if table is None or not is_bare(url):
            return self._asked_by_url(url)
        # Held against the same rules as if the URL named those streams.
        asked = AGGREGATED if kind.lower() == AGGREGATED.lower() else TRADE
        streams = [f"{lower(market)}@{asked}" for market in table]
        parts = urlsplit(url)
        path = parts.path.rstrip("/").removesuffix("/stream").removesuffix("/ws") + "/ws/" + "/".join(streams)
        found = self._asked_by_url(parts._replace(path=path, query="").geturl())
        if found.problem is not None:
            return found
        # By the id the answer is told from others.
        message = dumps({"method": "SUBSCRIBE", "params": streams, "id": 1})
        doubts = found.doubts
        if kind.lower() not in (TRADE, AGGREGATED.lower()):
            doubts = (*doubts, f"kind {kind!r} is neither {TRADE!r} nor {AGGREGATED!r}; {TRADE!r} is asked for")
        return msgspec.structs.replace(found, messages=(message,), doubts=doubts)

    def _asked_by_url(self, url: str) -> Subscription:
        """The rules are held against the venue's own hosts only: what a proxy or a mock exchange makes of a path is its
        own business."""
        parts, host = urlsplit(url), host_of(url)
        if not is_below(host, self.hosts):
            return Subscription(_NAME, _binance("", unquote(parts.path), parts.query).markets)
        if parts.scheme == "ws":
            return _hopeless(f"{host} serves wss:// only")
        return self.doubted(host, _binance(host, unquote(parts.path), parts.query))

    def parser(self, url: str, source: str, markets: Markets) -> Parser:
        return BinanceParser(source, markets, subscribed=is_bare(url))


VENUE: Final = Binance()
