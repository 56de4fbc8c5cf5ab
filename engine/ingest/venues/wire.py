"""What arrives on the wire, as ticks: one WebSocket message (or one replay line) in, zero or more ticks out.

Every message gets exactly one of four verdicts (contract N8, N8b, B5):

    trade      one tick, or several for a Gemini frame, appended to the caller's list
    ignored    well-formed, but no trade: book updates, klines, acks, venue heartbeats
    foreign    a trade of a market that nobody asked for: not a tick
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
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from engine.base.events import Tick
from engine.ingest.venues.markets import AGGREGATED, TRADE, Kind, Markets

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""The largest message worth decoding (N8: a real first Gemini frame has 600 KB). Feeds enforce it."""

MAX_TRADE_ID: Final = 2**63 - 1
"""Largest trade id that fits SQLite's INTEGER."""

MAX_TEXT_CHARS: Final = 128
"""Longest symbol or textual event id, in characters and in bytes of UTF-8: intake remembers event ids, so their size
is bounded here (B1, B5)."""

SYMBOLS_MAX: Final = 4096
"""So many symbols one run takes from a MOCK source, which names them as it likes (B5): positions, averages and orders
are kept for each. A trade of one more is `foreign`. A replay has no such limit: nobody else chooses what is in it."""

_MICROSECONDS_FROM: Final = 10**14
"""A Binance time from here on is in microseconds: as milliseconds it would lie beyond the year 5138."""

_REASON_CHARS_MAX: Final = 120
_EXCERPT_CHARS_MAX: Final = 60

_NUMBERS_MAX: Final = 4096
"""Ids of prints that are no trades, kept until the next flush: more than one read of a socket brings."""

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


# Other executions than these are no market trades: insurance fund, automatic deleveraging, NA (N12).
_Execution: TypeAlias = Literal["MARKET"] | None

_NAMES: Final = {"price": "p", "volume": "q", "ts": "T", "market": "s", "execution": "X"}


class _BinanceTrade(Struct, gc=False, tag_field="e", tag=TRADE, rename=_NAMES | {"id": "t"}):
    id: _Id
    price: _Price
    volume: _Volume
    ts: _MillisOrMicros
    market: str = ""
    execution: _Execution = None


class _BinanceAggTrade(Struct, gc=False, tag_field="e", tag=AGGREGATED, rename=_NAMES | {"id": "a"}):
    id: _Id
    price: _Price
    volume: _Volume
    ts: _MillisOrMicros
    market: str = ""


class _BinanceCombined(Struct, gc=False):
    data: _BinanceTrade | _BinanceAggTrade
    stream: str = ""


class _BinanceNumber(Struct, gc=False, tag_field="e", tag=TRADE, rename=_NAMES | {"id": "t"}):
    """What counts of a print that is no market trade: the id that it used up."""

    id: _Id
    ts: _MillisOrMicros
    market: str = ""


class _BinanceCombinedNumber(Struct, gc=False):
    data: _BinanceNumber
    stream: str = ""


def _one_market(trade: type, market: str, combined: bool, lone: bool) -> msgspec.json.Decoder[Any]:
    """Reads the trades of one market and nothing else, which is a tenth quicker than to read the market and look it up.
    `trade`: _BinanceTrade or _BinanceAggTrade. `lone`: a message that does not say its market is of this one."""
    is_single = trade is _BinanceTrade
    field: tuple[Any, ...] = ("market", Literal[market], market) if lone else ("market", Literal[market])
    one = msgspec.defstruct(
        "OneMarket",
        [("id", _Id), ("price", _Price), ("volume", _Volume), ("ts", _MillisOrMicros), field]
        + ([("execution", _Execution, None)] if is_single else []),
        rename=_NAMES | {"id": "t" if is_single else "a"},
        tag_field="e",
        tag=TRADE if is_single else AGGREGATED,
        gc=False,
    )
    if combined:
        one = msgspec.defstruct("OneMarketCombined", [("data", one)], gc=False)
    return msgspec.json.Decoder(one, strict=False)


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
_BINANCE_NUMBER: Final = msgspec.json.Decoder(_BinanceNumber, strict=False)
_BINANCE_COMBINED_NUMBER: Final = msgspec.json.Decoder(_BinanceCombinedNumber, strict=False)
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

    __slots__ = (
        "_markets", "_source", "error_streak", "errors", "foreign", "ignored", "last_error", "last_foreign",
        "numbers", "parse_into",
    )  # fmt: skip

    ignored: int
    """Messages that are fine and no trade (N8b)."""

    errors: int
    """Unusable messages, and unusable events of Gemini frames (`parse_errors`, N8)."""

    foreign: int
    """Trades of markets that nobody asked for (N12, B5). Like ignored messages they neither count as errors nor end a
    streak of them."""

    last_foreign: str
    """The market of the latest of them, and why it is foreign where that is not plain: printable and short."""

    numbers: list[tuple[str, int, int]]
    """Ids that were used up by what is no trade, since `numbers` was last emptied: stream, id, time."""

    error_streak: int
    """Unusable messages since the last tick; ignored messages neither count nor end the streak."""

    last_error: str | None
    """Why the latest error was one, with an excerpt: printable, 120 characters at most. None until then."""

    parse_into: ParseInto
    """`parse_into(message, out)` appends the ticks of one message to `out` and updates the books; it never
    raises. `message` is the whole payload of one text frame, UTF-8. Ticks come without `id` (intake numbers
    them), `ts` in ms. A closure, not a method: the hot path then reads its decoder and names from cells."""

    def __init__(self, kind: Kind, source: str, markets: Markets) -> None:
        """`source` names the ticks' source; `markets` are those that BINANCE and GEMINI ticks may be of, and name
        stream and symbol (N10, N12). MOCK and REPLAY messages bring their own symbol."""
        self._source = source
        self._markets = markets
        self.ignored = 0
        self.foreign = 0
        self.last_foreign = ""
        self.numbers = []
        self.errors = 0
        self.error_streak = 0
        self.last_error = None
        if kind is Kind.BINANCE:
            self.parse_into = self._binance_parser()
        elif kind is Kind.GEMINI:
            self.parse_into = self._gemini_parser()
        elif kind is Kind.MOCK:
            self.parse_into = self._own_parser(_MOCK_TICK, SYMBOLS_MAX)
        else:
            self.parse_into = self._own_parser(_REPLAY_TICK, None)

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

    def _note_foreign(self, market: str, why: str = "") -> None:
        self.foreign += 1
        # ascii() keeps control characters of a hostile peer out of the log.
        self.last_foreign = ascii(market)[1:-1][:MAX_TEXT_CHARS] + (f": {why}" if why else "")

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
        # What one connection sends is mostly trades of one stream in one shape, so `decode` is for the stream and shape
        # that were seen last, until a second stream is seen; from then on it reads any.
        decode: Callable[[Message], Any] = _BINANCE_PLAIN.decode
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
            except _UNREADABLE:
                parse_slowly(message, out)
                return
            if combined:
                trade = trade.data
            ts = trade.ts
            if ts >= _MICROSECONDS_FROM:
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
                trade, said, is_combined = _BINANCE_PLAIN.decode(message), "", False
            except _UNREADABLE:
                try:
                    envelope = _BINANCE_COMBINED.decode(message)
                except _UNREADABLE:
                    self._judge_binance(message)
                    return
                trade, said, is_combined = envelope.data, envelope.stream.partition("@")[0], True
            kind = TRADE if type(trade) is _BinanceTrade else AGGREGATED
            market = trade.market or said
            place = self._markets.place(market, kind)
            if place is None:
                self._note_foreign(market, "" if market else "it does not say of which")
                return
            ts = trade.ts if trade.ts < _MICROSECONDS_FROM else trade.ts // 1000
            out.append(Tick(*place, trade.price, trade.volume, ts, trade.id))
            self.error_streak = 0
            if trade.market and trade.market == trade.market.upper():
                placed[type(trade), trade.market] = place
            several, combined = len(set(placed.values())) != 1, is_combined
            if several:
                decode = _BINANCE_COMBINED.decode if combined else _BINANCE_PLAIN.decode
                return
            [((only, market), (stream, symbol))] = placed.items()
            decode = readers.get((only, market, combined)) or readers.setdefault(
                (only, market, combined), _one_market(only, market, combined, self._markets.is_single).decode
            )

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
        data = value["data"] if decoder is _BINANCE_COMBINED else value
        if event == TRADE and isinstance(data, dict) and data.get("X") not in (None, "MARKET"):
            self._ignore()
            self._note_number(message, decoder is _BINANCE_COMBINED)
            return
        self.refuse(f"bad {event}: {_why(decoder, message)}", message)

    def _note_number(self, message: Message, combined: bool) -> None:
        """The id of a print that is no market trade is not missing."""
        try:
            if combined:
                envelope = _BINANCE_COMBINED_NUMBER.decode(message)
                number, market = envelope.data, envelope.data.market or envelope.stream.partition("@")[0]
            else:
                number = _BINANCE_NUMBER.decode(message)
                market = number.market
        except _UNREADABLE:
            return
        place = self._markets.place(market, TRADE)
        if place is not None and len(self.numbers) < _NUMBERS_MAX:
            ts = number.ts if number.ts < _MICROSECONDS_FROM else number.ts // 1000
            self.numbers.append((place[0], number.id, ts))

    def _gemini_place(self) -> tuple[str, str]:
        place = self._markets.place("", TRADE)
        # A URL of Gemini's names one market, and the sources file cannot name another (engine/config/settings.py).
        assert place is not None
        return place

    def _gemini_parser(self) -> ParseInto:
        source, symbol = self._gemini_place()
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
            source, symbol = self._gemini_place()
            out.extend([Tick(source, symbol, trade.price, trade.amount, ts, trade.tid) for trade in trades])
            self.error_streak = 0
        elif bad:
            self.error_streak += 1
        else:
            self._ignore()

    def _own_parser(
        self, decoder: msgspec.json.Decoder[_MockTick] | msgspec.json.Decoder[_ReplayTick], symbols_max: int | None
    ) -> ParseInto:
        source = self._source
        # Each symbol taken so far -> itself, so that its ticks share one string.
        symbols: dict[str, str] = {}
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
                trade_id, event_id = event_id, None
            else:
                trade_id = None
                if event_id is not None and _is_too_long(event_id):
                    self.refuse(f"event_id over {MAX_TEXT_CHARS} bytes", message)
                    return
            symbol = symbols.get(tick.symbol)
            if symbol is None:
                symbol = tick.symbol
                if _is_too_long(symbol):
                    self.refuse(f"symbol over {MAX_TEXT_CHARS} bytes", message)
                    return
                if symbols_max is not None:
                    if len(symbols) >= symbols_max:
                        self._note_foreign(symbol, f"beyond the {symbols_max} symbols that one run takes from a source")
                        if trade_id is not None and len(self.numbers) < _NUMBERS_MAX:
                            self.numbers.append((source, trade_id, tick.ts))
                        return
                    symbols[symbol] = symbol
            out.append(Tick(source, symbol, tick.price, tick.volume, tick.ts, trade_id, event_id))
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


def _is_too_long(text: str) -> bool:
    """Of a text of at most MAX_TEXT_CHARS characters: whether it has more bytes."""
    return not text.isascii() and len(text.encode()) > MAX_TEXT_CHARS


def _is_integer(text: str) -> bool:
    """ "42", "-7", "007": what a venue may write when it puts an integer id into a string."""
    return text.isascii() and text.removeprefix("-").isdigit()
