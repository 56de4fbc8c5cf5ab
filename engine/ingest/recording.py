"""What a recording of a source holds: its lines, and what is kept out of them. Pure.

A recording is JSON, one object a line, mostly compressed by gzip. The first line says what was recorded; each of the
others is an event of a connection:

    {"recording":1,"source":"kraken","url":"wss://ws.kraken.com/v2","venue":"kraken","markets":{"BTC/USD":"BTC/USD"},...}
    {"event":"opened","at":1795741323000123}
    {"event":"sent","at":1795741323000456,"text":"{\\"method\\": \\"subscribe\\", ...}"}
    {"event":"received","at":1795741323052001,"text":"{\\"channel\\":\\"status\\", ...}"}
    {"event":"closed","at":1795741383052001,"reason":"closed by the peer: 1001"}

`at` is the computer's time in microseconds since 1970; `conn` tells connections apart, and is left out of the first.
Text is what came, character by character; what is no text (binary messages, text that is not UTF-8) is base64. Pings
and pongs of the protocol are not in it. A file that goes on where another one was full begins with a first line as
well; what is received on a connection that was opened in an earlier file goes on there. Files that belong together may
be joined as they are.

What was sent, and the URL, may hold keys: those are taken out. What a venue sent is kept as it came.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal
from urllib.parse import quote, unquote, urlsplit

import msgspec
from msgspec import Struct

from engine.base.redaction import MARK, is_telling, redact, redact_value

VERSION: Final = 1

LINE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Longer than a message of MAX_MESSAGE_BYTES can become, each byte of it escaped."""

_BEGINS: Final = re.compile(rb'\s*\{\s*"recording"\s*:')

# Beyond those of redaction: what stands under these in a message to a venue proves who one is.
_PROVES: Final = re.compile(r"(key|pw|sig|sign|signature|nonce|hmac|cert|jwt)", re.IGNORECASE)

# What says that a message asks to be let in: its values may be secrets whose places alone tell what they are.
_WORDS: Final = frozenset({"op", "method", "type", "event", "action", "command", "cmd"})
_ASKS_IN: Final = re.compile(r"auth|log.?[oi]n|sign.?in", re.IGNORECASE)

# What a URL of a venue's may say of the data that it asks for. The rest of a query is nobody's business.
_PLAIN_PARAMETERS: Final = frozenset(
    {"streams", "timeunit", "heartbeat", "top_of_book", "bids", "offers", "trades", "auctions"}
)
_PLAIN_VALUE: Final = re.compile(r"[A-Za-z]{1,16}")
_AT: Final = "\ue000"
_STREAM: Final = re.compile(r"!?[\w.\-]{1,40}@[\w.@+:\-]{1,40}")


class Header(Struct, frozen=True, omit_defaults=True):
    """The first line: what was recorded."""

    recording: int
    """The version of the format."""
    source: str
    url: str
    symbol: str
    """What ticks of a market that nobody named are called."""
    run: str
    """Tells one recording from another, across its files."""
    venue: str | None = None
    kind: str = "trade"
    markets: dict[str, str] | None = None
    """As the venue writes them -> what their ticks are called; None where nothing says."""
    part: int = 1
    """Of the files of one recording the how manieth."""
    engine: str = ""
    """The version that recorded it."""


class Event(Struct, frozen=True, omit_defaults=True):
    """Another line: what happened on a connection."""

    event: Literal["opened", "sent", "received", "refused", "closed", "failed"]
    """`refused`: a message that must not be decoded, with why. `failed`: an attempt to connect."""
    at: int = 0
    conn: int = 1
    text: str | None = None
    base64: bytes | None = None
    reason: str = ""

    @property
    def payload(self) -> bytes:
        """The message."""
        return self.base64 or b"" if self.text is None else self.text.encode("utf-8", "surrogatepass")


_HEADER: Final = msgspec.json.Decoder(Header)
_EVENT: Final = msgspec.json.Decoder(Event)


def begins(head: bytes) -> bool:
    """Whether a file that begins with `head`, uncompressed, is a recording."""
    return _BEGINS.match(head) is not None


def read_header(line: bytes) -> Header:
    """The first line. Raises ValueError, which says what is wrong with it."""
    try:
        header = _HEADER.decode(line)
    except (ValueError, RecursionError) as trouble:
        raise ValueError(f"its first line: {trouble}") from None
    if header.recording != VERSION:
        raise ValueError(f"its first line: version {header.recording}; this engine reads version {VERSION}")
    return header


def read_event(line: bytes) -> Event:
    """A line that is not the first. Raises ValueError, which says what is wrong with it."""
    try:
        event = _EVENT.decode(line)
    except RecursionError as trouble:
        raise ValueError(str(trouble)) from None
    if event.event == "received" and event.text is None and event.base64 is None:
        raise ValueError("neither text nor base64 of what was received")
    return event


def line_of(record: Header | Event) -> bytes:
    """A line of a recording, its newline included."""
    return msgspec.json.encode(record) + b"\n"


def message(at: int, conn: int, payload: bytes) -> Event:
    """A message that was received."""
    try:
        return Event("received", at, conn, text=payload.decode())
    except UnicodeDecodeError:
        return Event("received", at, conn, base64=payload)


def public_url(url: str) -> str:
    """`url` with nothing in it but what says which data it asks for: it still is a URL."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = "" if parts.port is None else f":{parts.port}"
    # Brackets would make it the address of a host, and an @ what is before it a user.
    path = redact_value(f"{parts.scheme}://h{parts.path.replace('@', _AT)}").removeprefix(f"{parts.scheme}://h")
    path = path.replace(_AT, "@").replace(MARK, "redacted")
    # Split by hand: parse_qs would take the "+" of a time zone for a space.
    pairs = (pair.partition("=") for pair in parts.query.split("&"))
    shown = ((name, _plain_value(name, unquote(value))) for name, _, value in pairs)
    kept = [f"{name}={quote(value, safe='/@+:!')}" for name, value in shown if value]
    query = "?" + "&".join(kept) if kept else ""
    return f"{parts.scheme}://{host}{port}{path}{query}"


def _plain_value(name: str, value: str) -> str:
    if name.lower() not in _PLAIN_PARAMETERS:
        return ""
    if name.lower() == "streams":
        return "/".join(stream for stream in value.split("/") if _STREAM.fullmatch(stream))
    return value if _PLAIN_VALUE.fullmatch(value) else ""


def without_secrets(text: str) -> str:
    """What was sent, without what may be a secret in it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return redact(text)
    asks_in = isinstance(value, dict) and any(
        isinstance(word, str) and _ASKS_IN.search(word) for name, word in value.items() if name.lower() in _WORDS
    )
    cleaned = _cleaned(value, in_lists=asks_in)
    # Else as it was written.
    return text if cleaned == value else json.dumps(cleaned)


def _cleaned(value: Any, name: str = "", *, in_lists: bool) -> Any:
    """in_lists: whether what stands in a list, and so under no name, may be a secret."""
    if value is not None and not isinstance(value, bool) and (is_telling(name) or _PROVES.fullmatch(name)):
        return MARK
    if isinstance(value, dict):
        return {key: _cleaned(inner, key, in_lists=in_lists) for key, inner in value.items()}
    if isinstance(value, list):
        return [
            MARK if in_lists and isinstance(inner, str | int | float) else _cleaned(inner, in_lists=in_lists)
            for inner in value
        ]
    return redact(value) if isinstance(value, str) else value
