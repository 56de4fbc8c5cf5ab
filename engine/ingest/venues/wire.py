"""Ticks as JSON objects: MOCK_WS (contract N3) and the lines of a replay (N2).

    MOCK     {"event_id": ..., "symbol": ..., "price": ..., "volume": ..., "ts": ms}
    REPLAY   the same, `event_id` optional

What venues send is read by the modules beside this one; the four verdicts are those of port.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from engine.base.events import Tick
from engine.ingest.venues.markets import MOCK, Markets, Subscription, host_of
from engine.ingest.venues.port import (
    MAX_TEXT_CHARS,
    MAX_TRADE_ID,
    UNREADABLE,
    Message,
    ParseInto,
    Parser,
    Price,
    Text,
    Venue,
    Volume,
    is_too_long,
)

SYMBOLS_MAX: Final = 4096
"""So many symbols one run takes from a MOCK source, which names them as it likes (B5): positions, averages and orders
are kept for each. A trade of one more is `foreign`. A replay has no such limit: nobody else chooses what is in it. So
many of its symbols have a stream each."""


_MICROSECONDS_FROM: Final = 10**14
"""As milliseconds it would lie beyond the year 5138."""

_IN_SECONDS: Final = range(10**9, 10**11)
"""A time within it is one in seconds, from 2001 on: as milliseconds it would lie between 1970 and 1973."""

# Ticks that somebody made up may be of any year.
_Millis: TypeAlias = Annotated[int, Meta(ge=0, lt=_MICROSECONDS_FROM)]


class _MockTick(Struct, gc=False):
    event_id: int | Text
    symbol: Text
    price: Price
    volume: Volume
    ts: _Millis


class _ReplayTick(Struct, gc=False):
    symbol: Text
    price: Price
    volume: Volume
    ts: _Millis
    event_id: int | Text | None = None


_MOCK_TICK: Final = msgspec.json.Decoder(_MockTick, strict=False)
_REPLAY_TICK: Final = msgspec.json.Decoder(_ReplayTick, strict=False)


class TickParser(Parser):
    """Reads ticks that bring their own symbol."""

    __slots__ = ()

    def __init__(self, source: str, markets: Markets, *, replayed: bool = False) -> None:
        """`replayed`: whether they are lines of a replay."""
        super().__init__(source, markets)
        self.parse_into = self._reader(_REPLAY_TICK if replayed else _MOCK_TICK)

    def _reader(self, decoder: msgspec.json.Decoder[_MockTick] | msgspec.json.Decoder[_ReplayTick]) -> ParseInto:
        markets = self._markets
        # All symbols of a replay beyond those that are remembered: their trades are told apart by text.
        rest = f"{self._source} *"
        # A recording is whoever's; of an exchange whose clock is far off one hears otherwise (N14).
        is_replay = decoder is _REPLAY_TICK
        # Each symbol taken so far -> its stream and itself, so that its ticks share the strings.
        symbols: dict[str, tuple[str, str]] = {}
        decode: Callable[[Message], _MockTick | _ReplayTick] = decoder.decode

        def parse_into(message: Message, out: list[Tick]) -> None:
            try:
                tick = decode(message)
            except UNREADABLE as trouble:
                self._judge_own(message, trouble)
                return
            if is_replay and tick.ts in _IN_SECONDS:
                self.refuse("bad tick: ts is in seconds, expected milliseconds", message)
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
                if event_id is not None and is_too_long(event_id):
                    self.refuse(f"event_id over {MAX_TEXT_CHARS} bytes", message)
                    return
            place = symbols.get(tick.symbol)
            if place is None:
                symbol = tick.symbol
                if is_too_long(symbol):
                    self.refuse(f"symbol over {MAX_TEXT_CHARS} bytes", message)
                    return
                # PostgreSQL stores none, and rows of a whole fleet have the symbol in their keys.
                if "\0" in symbol:
                    self.refuse("symbol with a NUL", message)
                    return
                if len(symbols) < SYMBOLS_MAX:
                    place = symbols[symbol] = (markets.place_symbol(symbol), symbol)
                elif is_replay:
                    place = (rest, symbol)
                    if (known := event_id if trade_id is None else trade_id) is not None:
                        trade_id, event_id = None, f"{known}@{symbol}"
                else:
                    self.note_foreign(symbol, f"beyond the {SYMBOLS_MAX} symbols that one run takes from a source")
                    return
            out.append(Tick(*place, tick.price, tick.volume, tick.ts, trade_id, event_id))
            self.error_streak = 0

        return parse_into

    def _judge_own(self, message: Message, trouble: Exception) -> None:
        """Book for a message that is no usable tick."""
        value = self.read_object(message)
        if value is None:
            return
        if "type" in value and not value.keys() & {"price", "volume", "event_id"}:
            self.ignore()
        elif isinstance(ts := value.get("ts"), int) and ts >= _MICROSECONDS_FROM:
            unit = "micro" if ts < _MICROSECONDS_FROM * 1000 else "nano"
            self.refuse(f"bad tick: ts is in {unit}seconds, expected milliseconds", message)
        else:
            self.refuse(f"bad tick: {trouble}", message)


def _is_integer(text: str) -> bool:
    """ "42", "-7", "007": what a venue may write when it puts an integer id into a string."""
    return text.isascii() and text.removeprefix("-").isdigit()


class Mock(Venue):
    """MOCK_WS, whose messages bring their own symbol."""

    name = MOCK
    documentation = "docs/contract.md, N3"
    consecutive_ids = True

    def subscription(self, url: str, table: Mapping[str, str] | None, kind: str) -> Subscription:
        host = host_of(url)
        if host in ("localhost", "::1") or host.startswith("127."):
            return Subscription(MOCK)
        return Subscription(
            MOCK, doubts=(f"{host} is not a host of a known venue: its messages are read as MOCK_WS's",)
        )

    def parser(self, url: str, source: str, markets: Markets) -> Parser:
        return TickParser(source, markets)


VENUE: Final = Mock()
