"""A server's answer to an upgrade to WebSocket, mostly a refusal: its status, and how long it wants to be left alone
(N5). Pure.

Both are read from the head of the answer as it came, since what a stranger sends need not be valid HTTP. Retry-After
(RFC 9110 section 10.2.3) is seconds or an HTTP date in three forms. Seen in the wild are also fractions, an epoch time
in seconds or milliseconds, and the header twice or with a list in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

FOR_EVER_SECS: Final = 1e10
"""300 years; a longer wait would overflow some timers, and is none the less for ever."""

HEAD_BYTES_MAX: Final = 16 * 1024
"""How long the head of an answer may be; the limit is picows' own."""

_READ_CHARS: Final = 1000
"""How much of one header is read: longer than any that means something."""

# Text, which `re` compiles when it is first needed: most runs are refused nowhere.
_STATUS: Final = rb"HTTP/[0-9.]+ ([0-9]{3})(?![0-9])"
_RETRY_AFTER: Final = rb"(?im)^retry-after[ \t]*:[ \t]*(.*?)[ \t\r]*$"
_CONNECTION: Final = rb"(?im)^connection[ \t]*:(.*)$"
_NUMBER: Final = r"[0-9]+(\.[0-9]*)?|\.[0-9]+"

# Numbers from here on are plainly no wait but a time since 1970: as a wait they would last 32 years and more.
_EPOCH_SECS: Final = 1e9
_EPOCH_MS: Final = 1e12


def read_head(head: bytes) -> tuple[int | None, list[str]]:
    """The status and the Retry-After headers in the head of an HTTP answer, or in as much of it as came. None when it
    is not HTTP."""
    status = re.match(_STATUS, head)
    if status is None:
        return None, []
    return int(status[1]), [
        value.decode("latin-1") for value in re.findall(_RETRY_AFTER, head.partition(b"\r\n\r\n")[0])
    ]


def is_interim(status: int | None) -> bool:
    """Whether an answer only says that another one follows (RFC 9110 section 15.2)."""
    return status is not None and 100 <= status < 200 and status != 101


def may_upgrade(head: bytes) -> bool:
    """Whether an answer that begins with `head` may be an upgrade all the same, although a library that does not know
    these forms refused it: one that is interim, or whose Connection lists more than the upgrade (RFC 9110 section
    7.6.1)."""
    status, _ = read_head(head)
    options = b",".join(re.findall(_CONNECTION, head.partition(b"\r\n\r\n")[0])).lower().split(b",")
    return is_interim(status) or (status == 101 and len(options) > 1 and b"upgrade" in map(bytes.strip, options))


def wait_secs(headers: Iterable[str], now: datetime) -> float | None:
    """The seconds from `now` (aware) that Retry-After headers ask for: the longest where they name several. None where
    there is none that anybody could understand, or the time has passed: our clock may be ahead of the venue's, and
    who refuses does not mean at once."""
    texts = [text for header in headers for text in _values(header[:_READ_CHARS])]
    waits = [wait for text in texts if (wait := _wait(text, now)) is not None and wait > 0.0]
    return min(max(waits), FOR_EVER_SECS) if waits else None


def _values(header: str) -> Iterator[str]:
    """The elements of a list. A comma may also stand in a date, after the day's name."""
    day = ""
    for part in header.split(","):
        if part.strip().isalpha():
            day = f"{part},"
            continue
        yield (day + part).strip()
        day = ""


def _wait(text: str, now: datetime) -> float | None:
    # Few refusals have a date, and each start would wait for it.
    from email.utils import parsedate_to_datetime

    try:
        if re.fullmatch(_NUMBER, text):
            number = float(text)
            if number < _EPOCH_SECS:
                return number
            epoch = number if number < _EPOCH_MS else number / 1000
            return epoch - now.timestamp()
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except Exception:
        # email.utils reads far more than RFC 9110 has, and raises ValueError, TypeError, OverflowError or IndexError
        # for what it cannot.
        return None
