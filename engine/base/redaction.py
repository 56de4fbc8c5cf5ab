"""Takes secrets out of text before anybody reads it: log lines, STATUS=, --check-config (contract C4, C8). Pure.

What is taken out, rather too much than too little:

* of a URL: user name and password, all from the first `?`, `#` or `;` on, and of the path what looks like a key; the
  whole URL where its host is not one, since that may be half of a password
* what stands before an `@` as if it were `user:password`
* what a telling name is set to: `password = ...`, `token: ...`, `?key=...`, in any spelling of ours or of a venue; what
  follows the word Bearer
* what stands in a path, of whatever, behind a directory with a telling name: `/x/key/...`
* wherever it stands, what was taken out of a configured URL (`learn`): a venue may say it again

What is left cannot be told from a symbol, a stream or a file name. Neither can a password that is a word such as "no",
which a sentence may begin with that says something of a name: `/x/token: no such file`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Final
from urllib.parse import unquote

MARK: Final = "[redacted]"

_CHARS_MAX: Final = 16_384

_LEARNT_CHARS_MIN: Final = 4
"""A shorter secret would be found by chance everywhere."""

_VOCABULARY: Final = frozenset({
    "aggtrade", "book", "connect", "data", "events", "feed", "futures", "hist", "inverse", "linear", "live", "login",
    "market", "marketdata", "markets", "options", "orders", "perp", "private", "public", "quote", "quotes",
    "realtime", "spot", "stream", "streams", "swap", "ticker", "tickers", "trade", "trades", "user", "users",
    "websocket",
})  # fmt: skip
"""What stands in a path of a venue's behind a telling name too (`/private/stream`), and in what the engine says."""

_LEARNT_WITHIN_CHARS: Final = 8
"""From here on a secret is found within other words too."""

_LEARNT_CUT_CHARS_MAX: Final = 80
"""Of a longer secret that was cut behind these, all of what is left is taken out."""

# What any of the expressions below needs: most text has none of it.
_SUSPICIOUS: Final = re.compile(r"[:=@%/]|bearer\s", re.IGNORECASE)

# The others are text, which `re` compiles when it is first needed, and keeps: most starts need none of them.
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

_TELLING_DIRECTORY: Final = (
    # All in capital letters it is a pair: KEY/USDT.
    r"(?i)((?:^(?=\S*$)|(?<=[/'\"]))(?!(?-i:[A-Z0-9]+/[A-Z0-9]+(?![\w~+!$*-])))(?:[\w.-]{0,64}[_.-])?"
    r"(?:secrets?|tokens?|pass(?:word|wd|phrase)s?|pwd|pw|api[_-]?keys?|keys?|auth|bearer|listen[_-]?keys?)/)"
    r"(?:\[redacted\]|[^\s/'\",;)\]]+)"
)

_QUERY: Final = r"\?[\w.%-]+=[^\s'\"]*"
_USER_AND_PASSWORD: Final = r"(?i)[^\s/@:'\"]{1,64}(?::|%3a)[^\s'\"]*(?:@|%40)(?=[\w\[])"
_NAMED: Final = (
    # `pw` and `key` alone, for they are parts of harmless words.
    rf"(?i)((?:(?:{_TELLING})[\w.-]{{0,64}}|(?<![\w.-])(?:pw|key)(?![\w.-]))[\"']?\s{{0,8}}"
    # What is said of a name is not a value of it.
    r"(?:[=:]|%3d)\s*(?!(?:an?|are|cannot|is|may|missing|must|no|not|permission|should|the|unknown|was) \w))"
    r"(\[redacted\]|(?:bearer|basic)\s+\S+|\"[^\"]*\"|'[^']*'|[^\s,;&\"')\]}]+)"
)
_BEARER: Final = r"(?i)(\bbearer\s+[\"']?)(?:\[redacted\]|[^\s'\"]+)"
_STEMS: Final = ("auth", "bearer", "credential", "key", "pas", "private", "pw", "secret", "token")
"""One of these, in any case, is in whatever `_TELLING_DIRECTORY`, `_NAMED` and `_BEARER` find."""

_TELLING_PARAMETERS: Final = frozenset({"pw", "key", "keys", "sig", "sign", "signature"})


def is_telling(name: str) -> bool:
    """Return whether `name` says that its value is a secret; a mistyped one does, too."""
    return re.search(_TELLING, name, re.IGNORECASE) is not None


class _Learnt:
    """The secrets that were found in the configuration, as one expression; None while there are none."""

    secrets: ClassVar[set[str]] = set()
    pattern: ClassVar[re.Pattern[str] | None] = None


def learn(url: str) -> None:
    """From now on, what is a secret in `url` is shown nowhere."""
    found = {
        secret for secret in _secrets_of(url) if len(secret) >= _LEARNT_CHARS_MIN and secret.lower() not in _VOCABULARY
    } - _Learnt.secrets
    if not found:
        return
    _Learnt.secrets |= found
    # The longest first: one may begin like another.
    words = sorted(_Learnt.secrets, key=len, reverse=True)
    _Learnt.pattern = re.compile("|".join(map(_said_again, words)), re.IGNORECASE)


def _said_again(secret: str) -> str:
    """Find a secret, also the beginning of one where a text was cut."""
    if len(secret) < _LEARNT_WITHIN_CHARS:
        return rf"(?<!\w){re.escape(secret)}(?!\w)"
    sure, rest = secret[: _LEARNT_WITHIN_CHARS - 2], secret[_LEARNT_WITHIN_CHARS - 2 : _LEARNT_CUT_CHARS_MAX]
    cut = "".join(f"(?:{re.escape(char)}" for char in rest) + ")?" * len(rest)
    more = r"\S*" if len(secret) > _LEARNT_CUT_CHARS_MAX else ""
    return rf"{re.escape(secret)}|{re.escape(sure)}{cut}{more}(?=\Z|\.\.\.)"


def forget() -> None:
    """Undo `learn`, for a process that has done with a configuration."""
    _Learnt.secrets.clear()
    _Learnt.pattern = None


def _secrets_of(url: str) -> Iterator[str]:
    """Yield what is taken out of a URL and may be said again, as it is written and as it is meant."""
    if not re.search(r"[^/][/?#;]", url.partition("://")[2]):
        return
    found = re.search(_URL, url[:_CHARS_MAX])
    if found is None:
        return
    rest = found[2]
    path, _, parameters = rest[len(re.split(r"[/?#;\\]", rest, maxsplit=1)[0]) :].partition("?")
    secrets = [match[0] for match in re.finditer(_KEY_IN_PATH, path)]
    secrets += [match[0][len(match[1]) :] for match in re.finditer(_TELLING_SEGMENT, path)]
    for parameter in re.split("[&;]", parameters):
        name, _, value = parameter.partition("=")
        # Names of streams and options are not secrets.
        if (
            is_telling(name)
            or name.lower() in _TELLING_PARAMETERS
            or re.compile(_KEY_IN_PATH).fullmatch(f"/{value}", 1)
        ):
            secrets.append(value)
    for secret in secrets:
        yield from {secret.rpartition("=")[2], unquote(secret.rpartition("=")[2])}


def redact(text: str) -> str:
    """`text` without the secrets in it, cut where it becomes too long to be read."""
    if len(text) > _CHARS_MAX:
        text = text[:_CHARS_MAX] + "..."
    if _Learnt.pattern is not None:
        text = _Learnt.pattern.sub(MARK, text)
    if not _SUSPICIOUS.search(text):
        return text
    if not _may_have_url(text):
        return _redact_words(text)
    shown, end = [], 0
    for found in re.finditer(_URL, text):
        shown += [_redact_words(text[end : found.start()]), _redact_found(found)]
        end = found.end()
    return "".join([*shown, _redact_words(text[end:])])


def redact_value(value: str) -> str:
    """`value`, which is one URL, name or path and nothing else, without the secrets in it."""
    if _Learnt.pattern is not None:
        value = _Learnt.pattern.sub(MARK, value)
    found = re.search(_URL, value[:_CHARS_MAX]) if _may_have_url(value) else None
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


def _may_have_url(text: str) -> bool:
    return "://" in text or "%" in text


def _redact_words(text: str) -> str:
    # An expression is asked only of text that has what it needs: the first lines of a start have paths in them, and no
    # more, and to compile all of these takes longer than to read a configuration.
    if "?" in text:
        text = re.sub(_QUERY, f"?{MARK}", text)
    if "@" in text or "%40" in text:
        text = re.sub(_USER_AND_PASSWORD, f"{MARK}@", text)
    lower = text.lower()
    # To an expression that ignores case, some letters beyond ASCII are ones of ASCII, such as the long s.
    if text.isascii() and not any(stem in lower for stem in _STEMS):
        return text
    text = re.sub(_TELLING_DIRECTORY, rf"\g<1>{MARK}", text)
    return re.sub(_BEARER, rf"\g<1>{MARK}", re.sub(_NAMED, rf"\g<1>{MARK}", text))
