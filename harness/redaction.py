"""Secrets are taken out of everything before it is recorded (contract V1).

Three kinds of rules, all on text; output that is no UTF-8 is decoded losslessly for them:

* what stands at a telling name: `password = "..."`, `--token ...`, `API_KEY=...`, `Authorization: ...`, in TOML, JSON
  (also JSON within JSON), YAML, headers, URLs' queries, shell words and environment lists;
* what has a telling form: credentials in a URL, private keys in PEM, and the tokens that detect-secrets knows;
* what was learned to be a secret: values of telling names in the environment and on command lines, wherever they turn
  up again.

A rule takes too much rather than too little. What it cannot know stays: a password without a name that was on no
command line, or one that was encoded before it was printed. Of detect-secrets the entropy rules are left out, since
they take digests and invocation ids, which are evidence, and the rules that go by a name, which the ones here include.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

MARK = "[redacted]"

LEARNED_CHARS_MIN = 6
"""A shorter secret is redacted where its name stands, but not looked for elsewhere: it would be found everywhere."""

TOKEN_FORMS = (
    r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}",
    r"""(?i)aws.{0,20}?(?:key|pwd|pw|password|pass|token).{0,20}?[\'\"]([0-9a-zA-Z/+]{40})[\'\"]""",
    r"AccountKey=[a-zA-Z0-9+\/=]{88}",
    r"[MNO][a-zA-Z\d_-]{23,25}\.[a-zA-Z\d_-]{6}\.[a-zA-Z\d_-]{27}",
    r"(ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9_]{36}",
    r"(glpat|gldt|glft|glsoat|glrt)-[A-Za-z0-9_\-]{20,50}(?!\w)",
    r"GR1348941[A-Za-z0-9_\-]{20,50}(?!\w)",
    r"glcbt-([0-9a-fA-F]{2}_)?[A-Za-z0-9_\-]{20,50}(?!\w)",
    r"glimt-[A-Za-z0-9_\-]{25}(?!\w)",
    r"glptt-[A-Za-z0-9_\-]{40}(?!\w)",
    r"glagent-[A-Za-z0-9_\-]{50,1024}(?!\w)",
    r"gloas-[A-Za-z0-9_\-]{64}(?!\w)",
    r"[0-9a-z]{32}-us[0-9]{1,2}",
    r"sk-[A-Za-z0-9-_]*[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}",
    r"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9-_]{70,}",
    r"pypi-AgENdGVzdC5weXBpLm9yZw[A-Za-z0-9-_]{70,}",
    r"SG\.[a-zA-Z0-9_-]{22}\.[a-zA-Z0-9_-]{43}",
    r"(?i)xox(?:a|b|p|o|s|r)-(?:\d+-)+[a-z0-9]+",
    r"(?ix)https://hooks\.slack\.com/services/T[a-zA-Z0-9_]+/B[a-zA-Z0-9_]+/[a-zA-Z0-9_]+",
    r"sq0csp-[0-9A-Za-z\\\-_]{43}",
    r"(?:r|s)k_live_[0-9a-zA-Z]{24}",
    r"\d{8,10}:[0-9A-Za-z_-]{35}",
    r"AC[a-z0-9]{32}",
    r"SK[a-z0-9]{32}",
)
"""The expressions by which detect-secrets 1.5 (Yelp, Apache License 2.0) knows a token by its form; a test compares
them. Copied, because that brings an HTTP library along: 150 ms in every process that records. Not those for JSON Web
Tokens and npm: they take time in the square of a line's length, and the rules here include them."""

CLEAN_CHARS_MAX, CLEAN_TEXTS_MAX = 1000, 4096
"""Short texts without a secret are remembered, since command lines repeat themselves."""

_WORD = (
    r"(?:pass(?:word|wd|phrase)|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|signing[-_]?key"
    r"|credentials?|authorization|cookie|session[-_]?id)s?(?:[-_]?(?:key|id|base|value|\d{1,4})){0,2}"
)
# Bounded, and tried at the start of a word only: a long line without a secret costs no more than its length.
_NAME = rf"(?:[\w.-]{{0,64}}?(?:{_WORD}|[-_](?:pass|pwd|pw))|x-[\w-]{{1,40}}-(?:payload|signature))"
_START = r"(?<![\w.-])"
_QUOTED = r"(?P<q>\"\"\"|'''|\\*[\"'])(?:(?P<s>(?s:.*?))(?<!\\)(?P=q)|(?P<open>.*))"
_BARE = r"(?!\\*[\"'])"

_STEMS = ("pass", "pw", "secret", "token", "key", "credent", "author", "cook", "sess", "payload", "nature")
"""Every _NAME has one of these, casefolded (none has an i, which has more cases than that). Most texts have none, and
looking for them takes a twentieth of what the rules for names take."""

_NAMED_RULES = (
    # Lists of the environment, one a line.
    rf"(?P<keep>^(?:export )?{_NAME}=)(?P<s>(?!\\*[\"']).+)",
    rf"(?P<keep>{_START}{_NAME}\\*[\"']?[ \t]{{0,4}}(?:=>|:=|[:=])[ \t]{{0,4}}){_QUOTED}",
    rf"(?P<keep>{_START}{_NAME}[ \t]{{0,4}}=[ \t]{{0,4}}){_BARE}(?P<s>\S+)",
    # YAML and headers: to the end of the line.
    rf"(?P<keep>{_START}{_NAME}\\*[\"']?[ \t]{{0,4}}:[ \t]{{0,4}}){_BARE}(?P<s>\S.*)",
    rf"(?P<keep>{_START}(?=-){_NAME}[ \t]{{1,4}}){_QUOTED}",
    rf"(?P<keep>{_START}(?=-){_NAME}[ \t]{{1,4}})(?![\"'\\-])(?P<s>\S+)",
)
_RULES = (
    r"(?P<keep>(?<!\S)(?:-u|--user|--proxy-user)[ =][^\s:\"']+:)(?P<s>[^\s\"']+)",
    r"(?P<keep>[?&;](?:key|sig|signature|auth|code)=)(?P<s>[^&#\s\"']+)",
    r"(?P<keep>\bbearer[ \t]+)(?P<s>[\w.~+/=-]{8,})",
    # RFC 3986, 3.2.1: user information ends with the authority's only "@".
    r"(?P<keep>\b[a-z][a-z0-9+.-]{0,30}://)(?P<s>[^\s/?#\"'<>@]*:[^\s/?#\"'<>]*|[^\s/?#\"'<>@]+)(?=@)",
    # RFC 7519: a JSON object in base64url, then its claims and its signature.
    r"(?P<keep>(?<![\w-]))(?P<s>eyJ[\w-]{4,8000}\.[\w-]{4,64000}\.?[\w-]*)",
    r"(?P<keep>-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)(?P<s>(?s:.*?))(?=-----END|\Z)",
)
_FLAG = re.compile(rf"-{{1,2}}{_NAME}", re.IGNORECASE)
_ANY_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_ASSIGNED = re.compile(rf"(-{{0,2}}{_NAME}=)(.+)", re.IGNORECASE | re.DOTALL)
_TELLING = re.compile(_NAME, re.IGNORECASE)


@cache
def _compiled(rules: tuple[str, ...], flags: re.RegexFlag = re.IGNORECASE | re.MULTILINE) -> list[re.Pattern[str]]:
    """When first needed: it takes 10 ms, and many a process that imports this records nothing."""
    return [re.compile(rule, flags) for rule in rules]


class Redactor:
    """Takes secrets out of values, and remembers those it could learn. One for each record."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """environ: the environment that recorded commands inherit; the values of its telling names are secrets."""
        self._known: set[str] = set()
        self._known_form: re.Pattern[str] | None = None
        self._clean: set[str] = set()
        for name, value in environ.items():
            if _TELLING.fullmatch(name):
                self._learn(value)
            else:
                self.text(value, self._learn)

    def text(self, text: str, learn: Callable[[str], None] | None = None) -> str:
        """The text without secrets. learn: gets each one that was found at a name or in a URL."""
        if text in self._clean:
            return text
        redacted = self._redacted(text, learn)
        if redacted == text and len(text) <= CLEAN_CHARS_MAX and len(self._clean) < CLEAN_TEXTS_MAX:
            self._clean.add(text)
        return redacted

    def _redacted(self, text: str, learn: Callable[[str], None] | None) -> str:
        def replaced(match: re.Match[str]) -> str:
            found = match.groupdict()
            secret, mark = found["s"] or found.get("open") or "", found.get("q") or ""
            if learn is not None:
                learn(secret)
            return f"{found['keep']}{mark}{MARK}{mark}" if secret else match[0]

        folded = text.casefold()
        named = _compiled(_NAMED_RULES) if any(stem in folded for stem in _STEMS) else []
        for rule in (*named, *_compiled(_RULES)):
            text = rule.sub(replaced, text)
        for form in _compiled(TOKEN_FORMS, re.NOFLAG):
            text = form.sub(MARK, text)
        return self._known_form.sub(MARK, text) if self._known_form is not None else text

    def argv(self, argv: Sequence[str]) -> list[str]:
        """A command line without secrets: `--token X`, `--token=X`, `TOKEN=X`, and whatever else text() finds."""
        redacted: list[str] = []
        for before, word in zip(("", *argv), argv, strict=False):
            assigned = _ASSIGNED.fullmatch(word)
            if _FLAG.fullmatch(before):
                if not _ANY_FLAG.fullmatch(word):
                    self._learn(word)
                redacted.append(MARK)
            elif assigned is not None:
                self._learn(assigned[2])
                redacted.append(assigned[1] + MARK)
            else:
                redacted.append(self.text(word, self._learn))
        return redacted

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment without secrets, in the order of its names."""
        return {name: MARK if _TELLING.fullmatch(name) else self.text(value) for name, value in sorted(environ.items())}

    def value(self, value: Any) -> Any:
        """Any JSON value without secrets: texts are redacted, as is all text at a telling key."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                key: MARK if isinstance(one, str) and _TELLING.fullmatch(str(key)) else self.value(one)
                for key, one in value.items()
            }
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self.value(one) for one in value]
        return value

    def _learn(self, secret: str) -> None:
        # Of `Bearer X` and `user:X` the X is the secret.
        for one in (secret, secret.split()[-1] if secret.split() else "", secret.partition(":")[2]):
            if len(one) >= LEARNED_CHARS_MIN and MARK not in one and one not in self._known:
                in_json = (json.dumps(one, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
                self._known |= {one, *in_json, quote(one, safe="")}
        self._clean.clear()
        longest_first = sorted(self._known, key=len, reverse=True)
        self._known_form = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
