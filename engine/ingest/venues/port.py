"""The port that venues are plugged in by: what one has to say of itself, and the books that are kept of its messages.

A venue is one small class. It says what to send after the upgrade (`subscribe`), what to say now and then so that the
venue does not hang up (`beat`), and what a message is (`read`): trades, a `Control` (the venue speaks of the
connection: a subscription acknowledged or rejected, a server about to go), nothing of interest, or unusable. It does no
I/O and keeps nothing between messages, so one instance serves all sources.

Every message gets exactly one of four verdicts (contract N8, N8b, B5):

    trade      one tick or several, appended to the caller's list
    ignored    well-formed, but no trade: book updates, acknowledgements, heartbeats
    foreign    a trade of a market that nobody asked for: not a tick
    error      unusable: not JSON, a field missing or of the wrong type or out of range

A message of several trades is the one that can be two: its good trades become ticks and each bad one counts an error.
Whatever the bytes, nothing is raised: a feed that sends rubbish is a number in the books, not an exception in the
ingest task.

A venue may have a second, faster reader for its everyday message (`fast`); whatever that cannot use is left to `read`,
so that the two cannot disagree on a trade. docs/venues.md has a venue written for this port from beginning to end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from engine.base.events import Tick
from engine.base.redaction import redact
from engine.ingest.venues.markets import TRADE, Markets, Subscription, host_of, is_below, upper

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""The largest message worth decoding (N8: a real first Gemini frame has 600 KB). Feeds enforce it."""

MAX_TRADE_ID: Final = 2**63 - 1
"""Largest trade id that fits SQLite's INTEGER."""

MAX_TEXT_CHARS: Final = 128
"""Longest symbol or textual event id, in characters and in bytes of UTF-8: intake remembers event ids, so their size
is bounded here (B1, B5)."""

EARLIEST: Final = 10**12
LATEST: Final = 10**13
"""A venue's times lie from EARLIEST to before LATEST, in ms: from September 2001, when there was none of them, to 2286.
Of a time in any other unit than the venue documents, seconds to nanoseconds, neither is so: it is no time at all, where
it would else be another year's, of which every signal is stale (R2)."""

_COSTS: Final = ((b",", 5), (b":", 3), (b"[", 6), (b"{", 14))
_COST_MAX: Final = MAX_MESSAGE_BYTES
_TEXTS_MAX: Final = 600_000
"""What a message costs that is made values of. One of nothing but `[]` or `{"a":0}` becomes thirty times as large in
memory, and a snapshot of an order book, which may have all 4 MiB, ten times; more than 50 MiB become of none (B4)."""

_CHEAP_BYTES: Final = 128 * 1024
"""So few bytes cannot cost too much."""

ROWS_MAX: Final = MAX_MESSAGE_BYTES // 64
"""Most trades of one message; a trade has more than 64 bytes on every venue."""

_REASON_CHARS_MAX: Final = 120
_EXCERPT_CHARS_MAX: Final = 60

NUMBERS_MAX: Final = 4096
"""Ranges of ids that bear no trade, kept until the next flush: more than one read of a socket brings."""

_FLOAT_MAX: Final = 1.7976931348623157e308

Message: TypeAlias = bytes | bytearray | memoryview

Id: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_TRADE_ID)]
Price: TypeAlias = Annotated[float, Meta(gt=0.0, le=_FLOAT_MAX)]
Volume: TypeAlias = Annotated[float, Meta(ge=0.0, le=_FLOAT_MAX)]
Seconds: TypeAlias = Annotated[int, Meta(ge=EARLIEST // 1000, lt=LATEST // 1000)]
Millis: TypeAlias = Annotated[int, Meta(ge=EARLIEST, lt=LATEST)]
Micros: TypeAlias = Annotated[int, Meta(ge=EARLIEST * 1000, lt=LATEST * 1000)]
Nanos: TypeAlias = Annotated[int, Meta(ge=EARLIEST * 1_000_000, le=MAX_TRADE_ID)]
Instant: TypeAlias = Annotated[datetime, Meta(tz=True)]
Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]
_Row = TypeVar("_Row")
Rows: TypeAlias = Annotated[list[_Row], Meta(max_length=ROWS_MAX)]

# What a decoder may raise on arbitrary bytes: msgspec's errors and UnicodeDecodeError are ValueErrors, and
# nesting deeper than the interpreter allows is a RecursionError.
UNREADABLE: Final = (ValueError, RecursionError)

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_WORDS_CHARS_MAX: Final = 200

# As much as a hostile peer can have us keep until the messages of one read are dealt with.
_CONTROLS_MAX: Final = 4096

_ANY_JSON: Final = msgspec.json.Decoder()


class Trade(Struct, gc=False):
    """What `Venue.read` makes of one trade."""

    market: str
    """As the message says it; upper and lower case are the same."""
    price: float
    volume: float
    ts: int
    """Milliseconds since the epoch, by the venue's clock."""
    id: int | str | None = None
    """The venue's: whole numbers where it numbers its trades, text where it only names them."""
    count: int = 1
    """How many of its numbers it used up, of which `id` is the last."""


class Bad(Struct, frozen=True):
    """One trade of a message that cannot be used, beside others that can."""

    reason: str


class Latest(Struct, frozen=True):
    """The latest trade of a market has this id, whether it came or not."""

    market: str
    """As the messages of its trades say it."""
    id: int


class Ack(Struct, frozen=True):
    """The venue will send the trades of a market."""

    market: str = ""
    """As the message says it; "" for all that was asked for."""
    of: int = 1
    """Where it says no market: how many of its kind acknowledge all that was asked for."""


class Rejected(Struct, frozen=True):
    """The venue will not send what was asked for. Fails the connection."""

    words: str
    """What it said."""


class Draining(Struct, frozen=True):
    """The venue is about to close this connection, and asks to have it replaced."""

    words: str


class Lost(Struct, frozen=True):
    """So many messages of this connection never came, by the venue's own count of them."""

    messages: int


Control: TypeAlias = Ack | Rejected | Draining | Lost
Said: TypeAlias = Trade | Bad | Latest | Control
ParseInto: TypeAlias = Callable[[Message, list[Tick]], None]


class Parser:
    """Parses the messages of one source and keeps the books of what it could not use.

    One parser serves a source for the whole run, across reconnects: `error_streak` is what
    `parse_error_limit` (contract section 3, exit 11) is held against, and a reconnect does not reset it.
    """

    __slots__ = (
        "_markets", "_source", "controls", "error_streak", "errors", "foreign", "ignored", "last_error", "last_foreign",
        "latest", "numbers", "parse_into",
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

    numbers: list[tuple[str, int, int, int]]
    """Ids that were used up by what is no trade, since `numbers` was last emptied: stream, first, last, time."""

    latest: dict[str, int]
    """Stream -> the id of its latest trade, as the venue says, since `latest` was last emptied."""

    error_streak: int
    """Unusable messages since the last tick; ignored messages neither count nor end the streak."""

    last_error: str | None
    """Why the latest error was one, with an excerpt: printable, 120 characters at most. None until then."""

    parse_into: ParseInto
    """`parse_into(message, out)` appends the ticks of one message to `out` and updates the books; it never
    raises. `message` is the whole payload of one text frame, UTF-8. Ticks come without `id` (intake numbers
    them), `ts` in ms. A closure, not a method: the hot path then reads its decoder and names from cells."""

    controls: list[Control]
    """What the venue said of the connection rather than of a market, since `controls` was last emptied; in order."""

    def __init__(self, source: str, markets: Markets) -> None:
        """`source` names the ticks' source; `markets` are those that its ticks may be of, and name stream and symbol
        (N10, N12)."""
        self._source = source
        self._markets = markets
        self.ignored = 0
        self.foreign = 0
        self.last_foreign = ""
        self.numbers = []
        self.latest = {}
        self.controls = []
        self.errors = 0
        self.error_streak = 0
        self.last_error = None

    def refuse(self, reason: str, message: Message = b"") -> None:
        """Count one unusable message. Feeds call it for what must not even be decoded: a binary frame, or one
        over MAX_MESSAGE_BYTES."""
        self.note_error(reason, message)
        self.error_streak += 1

    def note_error(self, reason: str, message: Message) -> None:
        """Count an error without ending anything: one bad trade of a message that has good ones."""
        self.errors += 1
        # A reason by msgspec may quote the message, hence it is an excerpt too; ascii() keeps control
        # characters and terminal escapes of a hostile peer out of the log.
        room = _REASON_CHARS_MAX - _EXCERPT_CHARS_MAX - len(": ")
        excerpt = ascii(bytes(message[:_EXCERPT_CHARS_MAX]))[2:-1][:_EXCERPT_CHARS_MAX]
        printable = ascii(reason)[1:-1]
        self.last_error = f"{printable[:room]}: {excerpt}" if excerpt else printable[:room]

    def note_foreign(self, market: str, why: str = "") -> None:
        """Count a trade of a market that nobody asked for (N12). `why`: where that is not plain."""
        self.foreign += 1
        if not why and self._markets.guessed is not None:
            came = "as in earlier runs" if self._markets.awaited else "which came first"
            why = f"that of its source is {self._markets.guessed}, {came}; others are named by `markets`"
        # ascii() keeps control characters of a hostile peer out of the log.
        self.last_foreign = ascii(market)[1:-1][:MAX_TEXT_CHARS] + (f": {ascii(why)[1:-1]}" if why else "")

    def note_control(self, control: Control) -> None:
        """The venue spoke of the connection."""
        if len(self.controls) < _CONTROLS_MAX:
            self.controls.append(control)

    def ignore(self) -> None:
        """Count a message that is well-formed and no trade (N8b)."""
        # Not the end of a streak: a venue whose trades no longer parse goes on sending book updates (N8b).
        self.ignored += 1

    def pass_numbers(self, stream: str, first: int, last: int, ts: int) -> None:
        """The ids `first` to `last` were used up by what is no trade, or came under another id."""
        if len(self.numbers) < NUMBERS_MAX:
            self.numbers.append((stream, max(0, first), last, ts))

    def read_object(self, message: Message) -> dict[str, Any] | None:
        """The message as a JSON object; None, and an error counted, when it is none."""
        try:
            return json_object(message)
        except ValueError as trouble:
            self.refuse(str(trouble), message)
            return None


class VenueParser(Parser):
    """Keeps the books of what a `Venue` reads."""

    __slots__ = ("_read", "placed")

    placed: dict[str, tuple[str, str]]
    """A market as messages say it -> the stream and the symbol of its trades, for those that came so far."""

    def __init__(self, venue: Venue, source: str, markets: Markets) -> None:
        super().__init__(source, markets)
        self.placed = {}
        self._read = venue.read
        fast = venue.fast(self)
        if fast is not None and not type(venue).__module__.startswith(f"{__package__}."):
            fast = self._careful(fast)
        self.parse_into = fast or self.read_into

    @property
    def asked(self) -> tuple[str, ...]:
        """The markets that were asked for, in upper case."""
        return tuple(self._markets.asked or ())

    def _careful(self, fast: ParseInto) -> ParseInto:
        """A reader that is another's code, and may raise what it likes: what it does not take `read` judges."""

        def parse_into(message: Message, out: list[Tick]) -> None:
            before = len(out)
            try:
                fast(message, out)
            except Exception:
                # Nothing is lost by it: `read` takes the message, or what is wrong with it is booked.
                del out[before:]
                self.read_into(message, out)

        return parse_into

    def read_into(self, message: Message, out: list[Tick]) -> None:
        """`parse_into`, by way of the venue's `read`."""
        before, errors, foreign = len(out), self.errors, self.foreign
        try:
            for said in self._read(bytes(message)):
                self._take(said, message, out)
        except Exception as trouble:
            # A venue that is another's code may raise what it likes.
            self.note_error(str(trouble) or type(trouble).__name__, message)
        if len(out) > before:
            self.error_streak = 0
        elif self.errors > errors:
            self.error_streak += 1
        elif self.foreign == foreign:
            self.ignore()

    def _take(self, said: Said, message: Message, out: list[Tick]) -> None:
        if not isinstance(said, Trade):
            if isinstance(said, Bad):
                self.note_error(said.reason, message)
            elif isinstance(said, Latest):
                # Of a market without a trade nobody knows which were the first that could have come.
                if said.market in self.placed and 0 <= said.id <= MAX_TRADE_ID:
                    self.latest[self.placed[said.market][0]] = said.id
            else:
                self.note_control(said)
            return
        problem = _unsound(said)
        if problem is not None:
            self.note_error(problem, message)
            return
        place = self._markets.place(said.market, TRADE)
        if place is None:
            self.note_foreign(said.market, "" if said.market else "it does not say of which")
            return
        if len(self.placed) < NUMBERS_MAX:
            self.placed[said.market] = place
        number, name = (said.id, None) if not isinstance(said.id, str) else (None, said.id)
        out.append(Tick(*place, said.price, said.volume, said.ts, number, name))
        if number is not None and said.count > 1:
            self.pass_numbers(place[0], number - said.count + 1, number - 1, said.ts)


_NUMBERS = (float, int)


def _unsound(trade: Trade) -> str | None:
    """Why a trade is none, of whatever kind a plug-in makes its parts. Comparisons with a NaN are false."""
    if type(trade.count) is not int:
        return f"count {trade.count!r}, expected a whole number"
    if type(trade.ts) is not int or type(trade.price) not in _NUMBERS or type(trade.volume) not in _NUMBERS:
        return f"price {trade.price!r}, volume {trade.volume!r} or time {trade.ts!r}, expected numbers"
    if not 0.0 < trade.price <= _FLOAT_MAX:
        return f"price {trade.price!r}"
    if not 0.0 <= trade.volume <= _FLOAT_MAX:
        return f"volume {trade.volume!r}"
    if not EARLIEST <= trade.ts < LATEST:
        return f"time {spelled(trade.ts)}, expected milliseconds"
    if isinstance(trade.id, str):
        return None if trade.id and len(trade.id.encode("utf-8", "replace")) <= MAX_TEXT_CHARS else "id of a trade"
    if trade.id is not None and (type(trade.id) is not int or not 0 <= trade.id <= MAX_TRADE_ID):
        return f"id outside 0..{MAX_TRADE_ID}"
    return None


class Venue:
    """One venue's way of speaking. Subclass it; see docs/venues.md."""

    name: ClassVar[str]
    """What `venue` in the sources file says, in lower case."""
    documentation: ClassVar[str] = ""
    """Where its rules stand."""
    url: ClassVar[str] = ""
    """Where to connect when the sources file names no URL; "" when it has to."""
    hosts: ClassVar[tuple[str, ...]] = ()
    """The venue's own domains, which serve wss:// only."""
    served_at: ClassVar[str] = r".*"
    """Where on its own domains the venue serves trades to everybody: host and path, as a regular expression."""
    testnets: ClassVar[tuple[str, ...]] = ()
    """Domains among them whose prices are not the market's."""
    consecutive_ids: ClassVar[bool] = False
    """Whether a market's trades are numbered without holes, so that a hole is a lost trade (N9)."""
    market: ClassVar[str] = r".+"
    """What a market looks like, as a regular expression."""
    example: ClassVar[str] = ""
    """A market, for messages to people who spelled one wrongly."""
    beat: ClassVar[str] = ""
    """What to send every `beat_secs` seconds, so that the venue does not hang up; "" for nothing."""
    beat_secs: ClassVar[float] = 0.0
    max_age_secs: ClassVar[float] = 0.0
    """How old a connection may become before it is replaced: less than the venue lets it become. 0: any age."""

    def subscribe(self, markets: Sequence[str], kind: str) -> list[str]:
        """The messages that ask for the trades of `markets`, which are spelled as in the sources file. `kind`: the
        source's, "trade" where it says nothing."""
        raise NotImplementedError

    def read(self, message: bytes) -> Iterable[Said]:
        """What a text message says; nothing for what is of no interest. Raises ValueError for what is unusable."""
        raise NotImplementedError

    def fast(self, parser: VenueParser) -> ParseInto | None:
        """A reader of the everyday message that leaves everything else to `parser.read_into`; None for none."""
        return None

    def subscription(self, url: str, table: Mapping[str, str] | None, kind: str) -> Subscription:
        """What a source at `url` asks for, whose `markets` are `table` and whose `kind` is `kind` (N13)."""
        host = host_of(url)
        if table is None:
            return Subscription(
                self.name,
                problem=f'{self.name} has to be told which markets: markets = {{ "{self.example}" = "..." }}',
            )
        if is_below(host, self.hosts) and url[:3].lower() == "ws:":
            return Subscription(self.name, problem=f"{host} serves wss:// only")
        if is_below(host, self.hosts) and not re.fullmatch(self.served_at, host + urlsplit(url).path):
            return Subscription(self.name, problem=f"{self.name} serves no public trades there; use {self.url}")
        for market in table:
            if not re.fullmatch(self.market, market):
                return Subscription(
                    self.name,
                    problem=f"{self.name} has no market {market!r}; it writes them like {self.example!r}",
                )
        markets = tuple(upper(market) for market in table)
        return self.doubted(host, Subscription(self.name, markets, messages=tuple(self.subscribe(list(table), kind))))

    def doubted(self, host: str, found: Subscription) -> Subscription:
        """`found`, with what an operator had better know of `host`."""
        if found.problem is not None or not is_below(host, self.testnets):
            return found
        doubt = f"{host} is a test network: its prices are not the market's, and its ids start over"
        return msgspec.structs.replace(found, doubts=(*found.doubts, doubt))

    def parser(self, url: str, source: str, markets: Markets) -> Parser:
        """What reads the messages of one source for the whole run."""
        return VenueParser(self, source, markets)


def check_values(message: Message) -> None:
    """Raise ValueError for a message that must not be made values of: memory has no room for them (B4)."""
    if len(message) <= _CHEAP_BYTES:
        return
    text = bytes(message)
    # Those within texts are counted too, of which venues have few. Texts beyond ASCII take up to four times the room.
    cost = sum(weight * text.count(mark) for mark, weight in _COSTS) * (1 if text.isascii() else 2)
    if cost > _COST_MAX or text.count(b'"') > 2 * _TEXTS_MAX:
        raise ValueError("too many values in one message")


def json_object(message: Message) -> dict[str, Any]:
    """The message as a JSON object. Raises ValueError when it is none, or of more values than memory has room for."""
    check_values(message)
    try:
        value = _ANY_JSON.decode(message)
    except UNREADABLE as trouble:
        raise ValueError(f"not JSON: {trouble}") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {type(value).__name__}")
    return value


def rows(data: object, read: Callable[[Any], Trade | None]) -> Iterator[Said]:
    """The trades of a message that holds several: each good one, and a `Bad` for each that `read` refuses with a
    ValueError; what it makes None of is of no interest. Raises ValueError when `data` is no list, or one of more rows
    than a message of trades can have: to refuse each of them would keep the event loop for seconds."""
    if not isinstance(data, list):
        raise ValueError(f"'data' is no list but {type(data).__name__}")
    if len(data) > ROWS_MAX:
        raise ValueError(f"'data' has over {ROWS_MAX} rows")
    # One by one, so that they are never all there beside each other.
    return _rows(data, read)


def _rows(data: list[Any], read: Callable[[Any], Trade | None]) -> Iterator[Said]:
    for row in data:
        try:
            trade = read(row)
        except ValueError as trouble:
            yield Bad(f"bad trade: {trouble}")
            continue
        if trade is not None:
            yield trade


def words(*said: object) -> str:
    """What a venue said, for the log and the status: printable, and cut short."""
    # Of half a secret nobody would know that it is one.
    text = ": ".join(redact(spelled(one))[:_WORDS_CHARS_MAX] for one in said if one not in (None, ""))
    return ascii(text)[1:-1][:_WORDS_CHARS_MAX] or "it does not say why"


def spelled(value: object) -> str:
    """Any value as text. Of whole numbers Python itself writes 4300 digits at most."""
    try:
        return str(value)
    except (ValueError, RecursionError):
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def millis(span: timedelta) -> int:
    """The time since EPOCH in whole ms: exact, where a float of seconds would be a millisecond short now and then."""
    return span.days * 86_400_000 + span.seconds * 1000 + span.microseconds // 1000


def why(decoder: msgspec.json.Decoder[Any], message: Message) -> str:
    """Why `decoder` refuses `message`."""
    try:
        decoder.decode(message)
    except UNREADABLE as trouble:
        return str(trouble)
    return "unreadable"


def is_too_long(text: str) -> bool:
    """Of a text of at most MAX_TEXT_CHARS characters: whether it has more bytes."""
    return not text.isascii() and len(text.encode()) > MAX_TEXT_CHARS
