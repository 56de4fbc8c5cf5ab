"""What arrives on the wire, as ticks: one WebSocket message (or one replay line) in, zero or more ticks out.

Every message gets exactly one of three verdicts (contract N8, N8b):

    trade      one tick, or several for a Gemini frame, appended to the caller's list
    ignored    well-formed, but no trade: book updates, klines, acks, venue heartbeats
    error      unusable: not JSON, a field missing or of the wrong type or out of range

A Gemini frame is the one message that can be both: its good trades become ticks and each bad one counts an
error. Whatever the bytes, nothing is raised: a feed that sends rubbish is a number in the books, not an
exception in the ingest task.

Trades take a typed msgspec decoder that reads only the fields of a tick, makes the floats in C and checks
the ranges there too. It is the sole judge of what a trade is: a message that it refuses is looked at again,
slowly, but only to tell an error from something that may be ignored, and to save the good trades of a
Gemini frame. So the two paths cannot disagree on a trade. Fields that are not read are not judged either:
an unknown field, or rubbish inside one, never loses a trade.

Formats (as the venues document them):

    Binance  "WebSocket Streams", `trade` and `aggTrade`, raw or combined ({"stream": ..., "data": {...}}),
             times in milliseconds or, with timeUnit=MICROSECOND, in microseconds
    Gemini   "Market Data" version 1, `update` frames with a list of events
    MOCK     {"event_id": ..., "symbol": ..., "price": ..., "volume": ..., "ts": ms}  (contract N3)
    REPLAY   the same, `event_id` optional  (contract N2)
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from engine.events import Tick

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""The largest message worth decoding (N8: a real first Gemini frame has 600 KB). Feeds enforce it."""

MAX_TRADE_ID: Final = 2**63 - 1
"""Largest trade id that fits SQLite's INTEGER."""

MAX_TEXT_CHARS: Final = 128
"""Longest symbol or textual event id: intake remembers event ids, so their size is bounded here (B1)."""

_MICROSECONDS_FROM: Final = 10**14
"""A Binance time from here on is in microseconds: as milliseconds it would lie beyond the year 5138."""

_REASON_CHARS_MAX: Final = 120
_EXCERPT_CHARS_MAX: Final = 60

Message: TypeAlias = bytes | bytearray | memoryview

_Id: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_TRADE_ID)]
_Price: TypeAlias = Annotated[float, Meta(gt=0.0, le=1.7976931348623157e308)]
_Volume: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.7976931348623157e308)]
_Millis: TypeAlias = Annotated[int, Meta(ge=0, lt=_MICROSECONDS_FROM)]
_MillisOrMicros: TypeAlias = Annotated[int, Meta(ge=0, lt=_MICROSECONDS_FROM * 1000)]
_Seconds: TypeAlias = Annotated[int, Meta(ge=0, lt=_MICROSECONDS_FROM // 1000)]
_Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]

# What a decoder may raise on arbitrary bytes: msgspec's errors and UnicodeDecodeError are ValueErrors, and
# nesting deeper than the interpreter allows is a RecursionError.
_UNREADABLE: Final = (ValueError, RecursionError)


class Kind(StrEnum):
    """Which venue's dialect a source speaks."""

    MOCK = "mock"
    BINANCE = "binance"
    GEMINI = "gemini"
    REPLAY = "replay"


CONSECUTIVE_IDS: Final = frozenset({Kind.MOCK, Kind.BINANCE, Kind.REPLAY})
"""Kinds that number their trades without holes, so that a hole is a lost trade (N9). Not Gemini: its `tid`
is the id of an event of the whole venue, where consecutive trades of one market lie far apart."""

_VENUES: Final = {"binance": Kind.BINANCE, "gemini": Kind.GEMINI}
_HOSTS: Final = {
    "binance.com": Kind.BINANCE,
    "binance.us": Kind.BINANCE,
    "binance.vision": Kind.BINANCE,
    "gemini.com": Kind.GEMINI,
}


def kind_for(venue: str | None, url: str) -> Kind:
    """The dialect of a source in ws_sources.toml (contract section 2).

    `venue` decides when given; without it the host of `url` does, and an unknown host speaks MOCK.
    ValueError when `venue` is unknown, or when there is none and `url` is not a URL.
    """
    if venue is not None:
        try:
            return _VENUES[venue.lower()]
        except KeyError:
            raise ValueError(f"venue {venue!r}: allowed are {', '.join(map(repr, _VENUES))}") from None
    host = urlsplit(url).hostname or ""
    for domain, kind in _HOSTS.items():
        if host == domain or host.endswith("." + domain):
            return kind
    return Kind.MOCK


class _BinanceTrade(
    Struct,
    gc=False,
    tag_field="e",
    tag="trade",
    rename={"id": "t", "price": "p", "volume": "q", "ts": "T"},
):
    id: _Id
    price: _Price
    volume: _Volume
    ts: _MillisOrMicros


class _BinanceAggTrade(
    Struct,
    gc=False,
    tag_field="e",
    tag="aggTrade",
    rename={"id": "a", "price": "p", "volume": "q", "ts": "T"},
):
    id: _Id
    price: _Price
    volume: _Volume
    ts: _MillisOrMicros


class _BinanceCombined(Struct, gc=False):
    data: _BinanceTrade | _BinanceAggTrade


class _GeminiTrade(Struct, gc=False, tag_field="type", tag="trade"):
    tid: _Id
    price: _Price
    amount: _Volume


class _GeminiChange(Struct, gc=False, tag_field="type", tag="change"):
    pass


class _GeminiBlockTrade(Struct, gc=False, tag_field="type", tag="block_trade"):
    pass


class _GeminiUpdate(Struct, gc=False, tag_field="type", tag="update"):
    events: list[_GeminiTrade | _GeminiChange | _GeminiBlockTrade]
    timestampms: _Millis | None = None
    timestamp: _Seconds | None = None


class _GeminiHeartbeat(Struct, gc=False, tag_field="type", tag="heartbeat"):
    pass


class _GeminiEnvelope(Struct, gc=False):
    """A Gemini frame whose events are judged one by one."""

    type: str
    events: list[msgspec.Raw] | None = None
    timestampms: _Millis | None = None
    timestamp: _Seconds | None = None


class _GeminiEventType(Struct, gc=False):
    type: str


class _MockTick(Struct, gc=False):
    event_id: int | _Text
    symbol: _Text
    price: _Price
    volume: _Volume
    ts: _Millis


class _ReplayTick(Struct, gc=False):
    symbol: _Text
    price: _Price
    volume: _Volume
    ts: _Millis
    event_id: int | _Text | None = None


# strict=False reads numbers out of strings ("p": "90333.28") without a str object in between.
_BINANCE_PLAIN: Final = msgspec.json.Decoder(_BinanceTrade | _BinanceAggTrade, strict=False)
_BINANCE_COMBINED: Final = msgspec.json.Decoder(_BinanceCombined, strict=False)
_GEMINI_FRAME: Final = msgspec.json.Decoder(_GeminiUpdate | _GeminiHeartbeat, strict=False)
_GEMINI_ENVELOPE: Final = msgspec.json.Decoder(_GeminiEnvelope, strict=False)
_GEMINI_EVENT_TYPE: Final = msgspec.json.Decoder(_GeminiEventType)
_GEMINI_TRADE: Final = msgspec.json.Decoder(_GeminiTrade, strict=False)
_MOCK_TICK: Final = msgspec.json.Decoder(_MockTick, strict=False)
_REPLAY_TICK: Final = msgspec.json.Decoder(_ReplayTick, strict=False)
_ANY_JSON: Final = msgspec.json.Decoder()

ParseInto: TypeAlias = Callable[[Message, list[Tick]], None]


class Parser:
    """Parses the messages of one source and keeps the books of what it could not use.

    One parser serves a source for the whole run, across reconnects: `error_streak` is what
    `parse_error_limit` (contract section 3, exit 11) is held against, and a reconnect does not reset it.
    """

    __slots__ = ("_source", "_symbol", "error_streak", "errors", "ignored", "last_error", "parse_into")

    ignored: int
    """Messages that are fine and no trade (N8b)."""

    errors: int
    """Unusable messages, and unusable events of Gemini frames (`parse_errors`, N8)."""

    error_streak: int
    """Unusable messages since the last tick; ignored messages neither count nor end the streak."""

    last_error: str | None
    """Why the latest error was one, with an excerpt: printable, 120 characters at most. None until then."""

    parse_into: ParseInto
    """`parse_into(message, out)` appends the ticks of one message to `out` and updates the books; it never
    raises. `message` is the whole payload of one text frame, UTF-8. Ticks come without `id` (intake numbers
    them), `ts` in ms. A closure, not a method: the hot path then reads its decoder and names from cells."""

    def __init__(self, kind: Kind, source: str, symbol: str) -> None:
        """`source` names the ticks' source; `symbol` is what BINANCE and GEMINI ticks are called (N10). MOCK
        and REPLAY messages bring their own symbol."""
        self._source = source
        self._symbol = symbol
        self.ignored = 0
        self.errors = 0
        self.error_streak = 0
        self.last_error = None
        if kind is Kind.BINANCE:
            self.parse_into = self._binance_parser()
        elif kind is Kind.GEMINI:
            self.parse_into = self._gemini_parser()
        elif kind is Kind.MOCK:
            self.parse_into = self._own_parser(_MOCK_TICK)
        else:
            self.parse_into = self._own_parser(_REPLAY_TICK)

    def refuse(self, reason: str, message: Message = b"") -> None:
        """Count one unusable message. Feeds call it for what must not even be decoded: a binary frame, or one
        over MAX_MESSAGE_BYTES."""
        self._note_error(reason, message)
        self.error_streak += 1

    def _note_error(self, reason: str, message: Message) -> None:
        self.errors += 1
        # A reason by msgspec may quote the message, hence it is an excerpt too; ascii() keeps control
        # characters and terminal escapes of a hostile peer out of the log.
        room = _REASON_CHARS_MAX - _EXCERPT_CHARS_MAX - len(": ")
        excerpt = ascii(bytes(message[:_EXCERPT_CHARS_MAX]))[2:-1][:_EXCERPT_CHARS_MAX]
        printable = ascii(reason)[1:-1]
        self.last_error = f"{printable[:room]}: {excerpt}" if excerpt else printable[:room]

    def _ignore(self) -> None:
        # Not the end of a streak: a venue whose trades no longer parse goes on sending book updates (N8b).
        self.ignored += 1

    def _read_object(self, message: Message) -> dict[str, Any] | None:
        """The message as a JSON object; None, and an error counted, when it is none."""
        try:
            value = _ANY_JSON.decode(message)
        except _UNREADABLE as trouble:
            self.refuse(f"not JSON: {trouble}", message)
            return None
        if not isinstance(value, dict):
            self.refuse(f"not a JSON object but {type(value).__name__}", message)
            return None
        return value

    def _binance_parser(self) -> ParseInto:
        source, symbol = self._source, self._symbol
        decode_plain, decode_combined = _BINANCE_PLAIN.decode, _BINANCE_COMBINED.decode
        combined = False

        def parse_into(message: Message, out: list[Tick]) -> None:
            nonlocal combined
            try:
                trade = decode_combined(message).data if combined else decode_plain(message)
            except _UNREADABLE:
                # A connection sends either plain or combined messages for its whole life, so the shape that
                # worked last is tried first.
                try:
                    trade = decode_plain(message) if combined else decode_combined(message).data
                except _UNREADABLE:
                    self._judge_binance(message)
                    return
                combined = not combined
            ts = trade.ts
            if ts >= _MICROSECONDS_FROM:
                ts //= 1000
            out.append(Tick(source, symbol, trade.price, trade.volume, ts, trade.id))
            self.error_streak = 0

        return parse_into

    def _judge_binance(self, message: Message) -> None:
        """Books for a message that is no usable trade."""
        value = self._read_object(message)
        if value is None:
            return
        decoder: msgspec.json.Decoder[Any] = _BINANCE_PLAIN
        stream = value.get("stream")
        event = value.get("e")
        if "data" in value and isinstance(stream, str):
            decoder = _BINANCE_COMBINED
            event = value["data"].get("e") if isinstance(value["data"], dict) else None
            if stream.endswith(("@trade", "@aggTrade")) and event is None:
                event = stream.rpartition("@")[2]
        if event not in ("trade", "aggTrade"):
            if event is None or isinstance(event, str):
                self._ignore()
            else:
                self.refuse(f"event type 'e' is not a string but {type(event).__name__}", message)
            return
        self.refuse(f"bad {event}: {_why(decoder, message)}", message)

    def _gemini_parser(self) -> ParseInto:
        source, symbol = self._source, self._symbol
        decode = _GEMINI_FRAME.decode

        def parse_into(message: Message, out: list[Tick]) -> None:
            try:
                frame = decode(message)
            except _UNREADABLE:
                self._judge_gemini(message, out)
                return
            trades = (
                [event for event in frame.events if type(event) is _GeminiTrade]
                if type(frame) is _GeminiUpdate
                else None
            )
            if not trades:
                self._ignore()
                return
            ts = _gemini_ts(frame)
            if ts is None:
                self.refuse("trade without timestampms and timestamp", message)
                return
            out.extend([Tick(source, symbol, trade.price, trade.amount, ts, trade.tid) for trade in trades])
            self.error_streak = 0

        return parse_into

    def _judge_gemini(self, message: Message, out: list[Tick]) -> None:
        """Books, and the good trades, of a frame that has something bad or unknown in it."""
        try:
            envelope = _GEMINI_ENVELOPE.decode(message)
        except _UNREADABLE as trouble:
            if self._read_object(message) is not None:
                self.refuse(f"bad frame: {trouble}", message)
            return
        if envelope.type != "update":
            # Decoded once more because the envelope skips over what it does not read.
            if self._read_object(message) is not None:
                self._ignore()
            return
        if envelope.events is None:
            self.refuse("update without events", message)
            return
        trades: list[_GeminiTrade] = []
        bad: list[str] = []
        for event in envelope.events:
            try:
                if _GEMINI_EVENT_TYPE.decode(event).type == "trade":
                    trades.append(_GEMINI_TRADE.decode(event))
            except _UNREADABLE as trouble:
                bad.append(f"bad event: {trouble}")
        ts = _gemini_ts(envelope)
        if trades and ts is None:
            trades.clear()
            bad.append("trade without timestampms and timestamp")
        for reason in bad:
            self._note_error(reason, message)
        if trades and ts is not None:
            source, symbol = self._source, self._symbol
            out.extend([Tick(source, symbol, trade.price, trade.amount, ts, trade.tid) for trade in trades])
            self.error_streak = 0
        elif bad:
            self.error_streak += 1
        else:
            self._ignore()

    def _own_parser(self, decoder: msgspec.json.Decoder[_MockTick] | msgspec.json.Decoder[_ReplayTick]) -> ParseInto:
        source = self._source
        decode: Callable[[Message], _MockTick | _ReplayTick] = decoder.decode

        def parse_into(message: Message, out: list[Tick]) -> None:
            try:
                tick = decode(message)
            except _UNREADABLE as trouble:
                self._judge_own(message, trouble)
                return
            event_id = tick.event_id
            if isinstance(event_id, str) and _is_integer(event_id):
                # 128 digits at most (MAX_TEXT_CHARS), so int() is cheap and below Python's own limit.
                event_id = int(event_id)
            if isinstance(event_id, int):
                # Checked here: in a union msgspec lets integers beyond 2**63 past their constraint.
                if not 0 <= event_id <= MAX_TRADE_ID:
                    self.refuse(f"event_id outside 0..{MAX_TRADE_ID}", message)
                    return
                out.append(Tick(source, tick.symbol, tick.price, tick.volume, tick.ts, event_id))
            else:
                out.append(Tick(source, tick.symbol, tick.price, tick.volume, tick.ts, None, event_id))
            self.error_streak = 0

        return parse_into

    def _judge_own(self, message: Message, trouble: Exception) -> None:
        """Books for a message that is no usable tick."""
        value = self._read_object(message)
        if value is None:
            return
        if "type" in value and not value.keys() & {"price", "volume", "event_id"}:
            self._ignore()
        elif isinstance(ts := value.get("ts"), int) and ts >= _MICROSECONDS_FROM:
            unit = "micro" if ts < _MICROSECONDS_FROM * 1000 else "nano"
            self.refuse(f"bad tick: ts is in {unit}seconds, expected milliseconds", message)
        else:
            self.refuse(f"bad tick: {trouble}", message)


def _why(decoder: msgspec.json.Decoder[Any], message: Message) -> str:
    """Why `decoder` refuses `message`."""
    try:
        decoder.decode(message)
    except _UNREADABLE as trouble:
        return str(trouble)
    return "unreadable"


def _gemini_ts(frame: _GeminiUpdate | _GeminiEnvelope) -> int | None:
    if frame.timestampms is not None:
        return frame.timestampms
    return None if frame.timestamp is None else frame.timestamp * 1000


def _is_integer(text: str) -> bool:
    """ "42", "-7", "007": what a venue may write when it puts an integer id into a string."""
    return text.isascii() and text.removeprefix("-").isdigit()
