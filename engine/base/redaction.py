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

_CHARS_MAX: Final = 16_384

# What any of the expressions below needs: most text has none of it.
_SUSPICIOUS: Final = re.compile(r"[:=@%]|bearer\s", re.IGNORECASE)

# The others are text, which `re` compiles when it is first needed, and keeps: most starts need none of them, and to
# compile them takes longer than to read a configuration.
_TELLING: Final = (
    r"secret|token|pas+(?:w|phrase)|pwd|api[_-]?key|private|credential|auth(?!or(?!iz))|bearer|listen[_-]?key"
)
# Bounded, so that no text takes time in the square of its length.
_URL: Final = r"(?i)([a-z][a-z0-9+.-]{0,31})(?:://|%3a%2f%2f)(\S*)"
_HOST: Final = r"(?i)(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d{0,5})?"
_URL_PATH_END: Final = r"(?i)[?#;]|%(?:3[bdf]|23|40)"
# Between slashes: what is long; what is of letters and digits and no stream, which has an @; what is set to something.
_KEY_IN_PATH: Final = r"[\w-]{32,}|(?<=/)(?![^/]*@)(?=[^/]*[0-9])(?=[^/]*[A-Za-z])[\w.~%+!$*-]{16,}|(?<=/)[^/]*=[^/]*"
_TELLING_SEGMENT: Final = rf"(?i)((?:(?:{_TELLING})[^/]*|(?<=/)(?:pw|keys?))/)(?:\[redacted\]|[^/]+)"

_QUERY: Final = r"\?[\w.%-]+=[^\s'\"]*"
_USER_AND_PASSWORD: Final = r"(?i)[^\s/@:'\"]{1,64}(?::|%3a)[^\s'\"]*(?:@|%40)(?=[\w\[])"
_NAMED: Final = (
    # `pw` and `key` alone, for they are parts of harmless words.
    rf"(?i)((?:(?:{_TELLING})[\w.-]{{0,64}}|(?<![\w.-])(?:pw|key)(?![\w.-]))[\"']?\s{{0,8}}(?:[=:]|%3d)\s*)"
    r"(\[redacted\]|(?:bearer|basic)\s+\S+|\"[^\"]*\"|'[^']*'|[^\s,;&\"')\]}]+)"
)
_BEARER: Final = r"(?i)(\bbearer\s+[\"']?)(?:\[redacted\]|[^\s'\"]+)"


def is_telling(name: str) -> bool:
    """Return whether `name` says that its value is a secret; a mistyped one does, too."""
    return re.search(_TELLING, name, re.IGNORECASE) is not None


def redact(text: str) -> str:
    """`text` without the secrets in it, cut where it becomes too long to be read."""
    if len(text) > _CHARS_MAX:
        text = text[:_CHARS_MAX] + "..."
    if not _SUSPICIOUS.search(text):
        return text
    shown, end = [], 0
    for found in re.finditer(_URL, text):
        shown += [_redact_words(text[end : found.start()]), _redact_found(found)]
        end = found.end()
    return "".join([*shown, _redact_words(text[end:])])


def redact_value(value: str) -> str:
    """`value`, which is one URL, name or path and nothing else, without the secrets in it."""
    found = re.search(_URL, value[:_CHARS_MAX])
    if found is None:
        return redact(value)
    # Blanks and quotes in it belong to it.
    return value[: found.start()] + _redact_url(found[1], value[found.start(2) : _CHARS_MAX])


def _redact_found(found: re.Match[str]) -> str:
    """Return a URL in a text, with the quote, bracket or comma that ends it."""
    rest = found[2]
    end = re.search(r"['\"<>),]", rest)
    if end is None or "@" in rest[end.start() :]:
        return _redact_url(found[1], rest)
    return _redact_url(found[1], rest[: end.start()]) + _redact_words(rest[end.start() :])


def _redact_url(scheme: str, rest: str) -> str:
    authority = re.split(r"[/?#;\\]", rest, maxsplit=1)[0]
    user, at, host = authority.rpartition("@")
    path = rest[len(authority) :]
    end = re.search(_URL_PATH_END, path)
    query = ""
    if end is not None:
        path, query = path[: end.start()], f"{'?' if end[0][0] == '%' else end[0]}{MARK}"
    # A stream is called btcusdt@trade; a dot or a colon beside the @ is that of a host, or of a password before it.
    if (host and not re.fullmatch(_HOST, host)) or re.search(r":[^/]*@|@[^/]*[.:]", path):
        return f"{scheme}://{MARK}"
    path = re.sub(_TELLING_SEGMENT, rf"\g<1>{MARK}", re.sub(_KEY_IN_PATH, MARK, path))
    return f"{scheme}://{MARK if user else ''}{at}{host}{path}{query}"


def _redact_words(text: str) -> str:
    text = re.sub(_QUERY, f"?{MARK}", text)
    text = re.sub(_USER_AND_PASSWORD, f"{MARK}@", text)
    return re.sub(_BEARER, rf"\g<1>{MARK}", re.sub(_NAMED, rf"\g<1>{MARK}", text))
