"""Takes secrets out of text before anybody reads it: log lines, STATUS=, --check-config (contract C4, C8). Pure.

What is taken out, rather too much than too little:

* of a URL: user name and password, all from the first `?`, `#` or `;` on, and of the path what looks like a key; the
  whole URL where its host is not one, since that may be half of a password
* what stands before an `@` as if it were `user:password`
* what a telling name is set to: `password = ...`, `token: ...`, `?key=...`, in any spelling of ours or of a venue; what
  follows the word Bearer

What is left cannot be told from a symbol, a stream or a file name.
"""

from __future__ import annotations

import re
from typing import Final

MARK: Final = "[redacted]"

TELLING: Final = re.compile(
    r"secret|token|pas+(?:w|phrase)|pwd|api[_-]?key|private|credential|auth(?!or(?!iz))|bearer|listen[_-]?key",
    re.IGNORECASE,
)
"""A name that says that its value is a secret; a mistyped one, too."""

_CHARS_MAX: Final = 16_384

# What any of the expressions below needs: most text has none of it.
_SUSPICIOUS: Final = re.compile(r"[:=@%]|bearer\s", re.IGNORECASE)

# Bounded, so that no text takes time in the square of its length.
_URL: Final = re.compile(r"([a-z][a-z0-9+.-]{0,31})(?:://|%3a%2f%2f)(\S*)", re.IGNORECASE)
_HOST: Final = re.compile(r"(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d{0,5})?", re.IGNORECASE)
_URL_PATH_END: Final = re.compile(r"[?#;]|%(?:3[bdf]|23|40)", re.IGNORECASE)
# Between slashes: what is long; what is of letters and digits and no stream, which has an @; what is set to something.
_KEY_IN_PATH: Final = re.compile(
    r"[\w-]{32,}|(?<=/)(?![^/]*@)(?=[^/]*[0-9])(?=[^/]*[A-Za-z])[\w.~%+!$*-]{16,}|(?<=/)[^/]*=[^/]*"
)
_TELLING_SEGMENT: Final = re.compile(
    rf"((?:(?:{TELLING.pattern})[^/]*|(?<=/)(?:pw|keys?))/)(?:\[redacted\]|[^/]+)", re.IGNORECASE
)

_QUERY: Final = re.compile(r"\?[\w.%-]+=[^\s'\"]*")
_USER_AND_PASSWORD: Final = re.compile(r"[^\s/@:'\"]{1,64}(?::|%3a)[^\s'\"]*(?:@|%40)(?=[\w\[])", re.IGNORECASE)
_NAMED: Final = re.compile(
    # `pw` and `key` alone, for they are parts of harmless words.
    rf"((?:(?:{TELLING.pattern})[\w.-]{{0,64}}|(?<![\w.-])(?:pw|key)(?![\w.-]))[\"']?\s{{0,8}}(?:[=:]|%3d)\s*)"
    r"(\[redacted\]|(?:bearer|basic)\s+\S+|\"[^\"]*\"|'[^']*'|[^\s,;&\"')\]}]+)",
    re.IGNORECASE,
)

_BEARER: Final = re.compile(r"(\bbearer\s+[\"']?)(?:\[redacted\]|[^\s'\"]+)", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` without the secrets in it, cut where it becomes too long to be read."""
    if len(text) > _CHARS_MAX:
        text = text[:_CHARS_MAX] + "..."
    if not _SUSPICIOUS.search(text):
        return text
    shown, end = [], 0
    for found in _URL.finditer(text):
        shown += [_redact_words(text[end : found.start()]), _redact_found(found)]
        end = found.end()
    return "".join([*shown, _redact_words(text[end:])])


def redact_value(value: str) -> str:
    """`value`, which is one URL, name or path and nothing else, without the secrets in it."""
    found = _URL.search(value[:_CHARS_MAX])
    if found is None:
        return redact(value)
    # Blanks and quotes in it belong to it.
    return value[: found.start()] + _redact_url(found[1], value[found.start(2) : _CHARS_MAX])


def _redact_found(found: re.Match[str]) -> str:
    """A URL in a text, with the quote, bracket or comma that ends it."""
    rest = found[2]
    end = re.search(r"['\"<>),]", rest)
    if end is None or "@" in rest[end.start() :]:
        return _redact_url(found[1], rest)
    return _redact_url(found[1], rest[: end.start()]) + _redact_words(rest[end.start() :])


def _redact_url(scheme: str, rest: str) -> str:
    authority = re.split(r"[/?#;\\]", rest, maxsplit=1)[0]
    user, at, host = authority.rpartition("@")
    path = rest[len(authority) :]
    end = _URL_PATH_END.search(path)
    query = ""
    if end is not None:
        path, query = path[: end.start()], f"{'?' if end[0][0] == '%' else end[0]}{MARK}"
    # A stream is called btcusdt@trade; a dot or a colon beside the @ is that of a host, or of a password before it.
    if (host and not _HOST.fullmatch(host)) or re.search(r":[^/]*@|@[^/]*[.:]", path):
        return f"{scheme}://{MARK}"
    path = _TELLING_SEGMENT.sub(rf"\g<1>{MARK}", _KEY_IN_PATH.sub(MARK, path))
    return f"{scheme}://{MARK if user else ''}{at}{host}{path}{query}"


def _redact_words(text: str) -> str:
    text = _QUERY.sub(f"?{MARK}", text)
    text = _USER_AND_PASSWORD.sub(f"{MARK}@", text)
    return _BEARER.sub(rf"\g<1>{MARK}", _NAMED.sub(rf"\g<1>{MARK}", text))
