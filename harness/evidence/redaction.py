"""Secrets are taken out of everything before it is recorded (contract V1).

Three kinds of rules, all on text; output that is not UTF-8 is decoded losslessly for them:

* what stands at a telling name: `password = "..."`, `--token ...`, `API_KEY=...`, `Authorization: ...`, in TOML, JSON
  (also JSON within JSON), YAML, headers, URLs' queries, shell words and environment lists; in XML, netrc, connection
  strings, SQL and sentences; and all that is in a list, an object, a block or a table of such a name;
* what has a telling form: credentials in a URL or for HTTP Basic, private keys in PEM, and the tokens that
  detect-secrets knows;
* what was learned to be a secret: values of telling names in the environment and on command lines, wherever they turn
  up again, URL-encoded, in base64 and in hex too; and what looks random at a telling name, in the rest of its text.

A rule takes too much rather than too little. What it cannot know stays; docs/architecture.md lists it. Of
detect-secrets the entropy rules are left out, since they take digests and invocation ids, which are evidence, and the
rules that go by a name, which the ones here include.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote, quote_plus

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

LINE_CHARS_MAX = 4000
"""A longer command line is looked at word by word only: it is a script, whose lines are looked at."""

CLEAN_CHARS_MAX, CLEAN_TEXTS_MAX = 1000, 4096
"""Short texts without a secret are remembered, since command lines repeat themselves."""

_WORD = (
    r"(?:pass(?:word|wd|phrase|code)|secret|token|(?:api|access|account|storage|private|signing)[-_]?key"
    r"|credentials?|authorization|cookie|session[-_]?id)s?(?:[-_]?(?:key|id|base|value|\d{1,4})){0,2}"
)
# Bounded, and tried at the start of a word only: a long line without a secret costs no more than its length.
_NAME = (
    # systemd.exec(5): such a line names a file with a credential, not the credential.
    rf"(?!LoadCredential(?:Encrypted)?=)(?:[\w.-]{{0,64}}?(?:{_WORD}|[-_](?:pass|pwd|pw)|listenkey)|x-[\w-]{{1,40}}-(?:payload|signature)"
    r"|[\w-]{1,40}-sign)"
)
_START = r"(?<![\w.-])"
_QUOTED = r"(?P<q>\"\"\"|'''|\\*[\"'])(?:(?P<s>(?s:.*?))(?<!\\)(?P=q)|(?P<open>.*))"
# Not what is quoted, and not a list or an object whose content was taken out before.
_BARE = r"(?!\\*[\"'])(?![\[({]\[redacted\])"
_EQUALS = r"[ \t]{0,4}=[ \t]{0,4}"
_COLON = r"[ \t]{0,4}:[ \t]{0,4}"
_IS = r"[ \t]{0,4}(?:=>|:=|[:=])[ \t]{0,4}"
# Words that are names of other things as well: the shell's PWD is a path, what passes is counted or told in capitals.
_SHORT = (
    rf"(?:pwd(?=\\*[\"']?{_IS}\\*[\"']?[^\s/~\"'\\])|(?-i:pass|Pass)(?!{_IS}\d+\b)"
    rf"|(?-i:pin|PIN|Pin|otp|OTP)(?={_IS}\\*[\"']?\w{{4}})|pw(?=\\*[\"']?{_IS}))"
)
_SAID = r"(?:pass(?:word|wd|phrase|code)|pwd|secret|token|api key)"
_LOOKS_RANDOM = r"(?=[^\s\"']{0,80}\d)(?=[^\s\"']{0,80}[a-z])[^\s\"'=:/]{8,}"
_NOT_ONE = r"(?!(?:auth\w*|protect\w*|login|logins|prompt\w*|polic\w+|hash\w*|manag\w+|support\w*|based|required)\b)"
"""What follows "with password" in a sentence about something else."""

_STEMS = (
    "pass", "pw", "secret", "token", "key", "credent", "author", "cook", "sess", "payload", "nature", "pin", "dent",
    "-sign", "otp",
)  # fmt: skip
"""Every rule for names needs one of these, casefolded. Most texts have none, and looking for them takes a twentieth of
what the rules take."""

_NAMED_RULES = (
    # Lists of the environment, one a line.
    rf"(?P<keep>^(?:export )?(?:{_NAME}|(?-i:PASS|PIN)(?!=\d+\b))=)(?P<s>(?!\\*[\"'])(?![\[({{]\[redacted\]).+)",
    # Connection strings: to the semicolon, with blanks.
    rf"(?P<keep>;[ \t]{{0,4}}(?:{_NAME}|pwd){_EQUALS})(?P<s>[^\s;\"'{{][^;\n\"']*)(?=;|$)",
    # Quoted values; in a tuple the name's own quotes and a comma are between.
    rf"(?P<keep>{_START}(?:{_NAME}|{_SHORT})\\*[\"']?{_IS}){_QUOTED}",
    # The name in one member of an object, the value in the next.
    rf"(?P<keep>(?P<n>\\{{0,15}}[\"'])(?:key|name|id)(?P=n)[ \t]{{0,4}}:[ \t]{{0,4}}(?P=n){_NAME}(?P=n)\s{{0,40}},"
    rf"\s{{0,40}}(?P=n)(?:value|content)(?P=n)[ \t]{{0,4}}:[ \t]{{0,4}}){_QUOTED}",
    rf"(?P<keep>(?<!\\)(?P<n>\\{{0,15}}[\"']){_NAME}(?P=n)[ \t]{{0,4}},[ \t]{{0,4}})"
    rf"(?!\\*[\"'][\w-]{{1,64}}\\*[\"'][ \t]{{0,4}}:){_QUOTED}",
    rf"(?P<keep>{_START}(?:{_NAME}|{_SHORT}){_EQUALS}){_BARE}(?P<s>\S+)",
    # YAML and headers: to the end of the line.
    rf"(?P<keep>{_START}(?<!LoadCredential=)(?<!LoadCredentialEncrypted=)(?:{_NAME}|{_SHORT})\\*[\"']?{_COLON}){_BARE}(?P<s>\S.*)",
    rf"(?P<keep>{_START}(?=-){_NAME}[ \t]{{1,4}}){_QUOTED}",
    rf"(?P<keep>{_START}(?=-){_NAME}[ \t]{{1,4}})(?![\"'\\-])(?P<s>\S+)",
    # XML: elements, and the name in one attribute and its value in another, or between the tags.
    rf"(?P<keep><(?:[\w.-]{{1,40}}:)?{_NAME}(?:\s[^<>]{{0,400}})?>\s{{0,8}}<!\[CDATA\[)(?P<s>(?s:.{{1,4000}}?))(?=\]\]>)",
    rf"(?P<keep><(?:[\w.-]{{1,40}}:)?(?:{_NAME}|pwd|pass)(?:\s[^<>]{{0,400}})?>\s{{0,8}})(?P<s>[^<\s][^<]*)",
    rf"(?P<keep>\b(?:key|name|id)=(?P<n>[\"']){_NAME}(?P=n)[^<>]{{0,200}}?\bvalue=){_QUOTED}",
    rf"(?P<keep>\b(?:key|name|id)=(?P<n>[\"']){_NAME}(?P=n)[^<>]{{0,200}}>\s{{0,8}})(?P<s>[^<\s][^<]*)",
    # netrc(5), on one line or on several.
    r"(?P<keep>\b(?:login|user|account)\s{1,8}\S{1,200}\s{1,8}(?:password|passwd)\s{1,8})(?P<s>\S+)",
    # SQL, and sentences.
    r"(?P<keep>\bidentified[ \t]+(?:with[ \t]+\S{1,60}[ \t]+)?(?:by|as)[ \t]+(?:password[ \t]+)?)" + _QUOTED,
    rf"(?P<keep>\bidentified[ \t]+by[ \t]+)(?P<s>{_LOOKS_RANDOM})",
    rf"(?P<keep>\b{_SAID}(?:[ \t]{{1,4}}(?:is|was))?[ \t]{{1,4}}){_QUOTED}",
    rf"(?P<keep>\b{_SAID}(?:[ \t]{{1,4}}(?:is|was))?[ \t]{{1,4}})(?P<s>{_LOOKS_RANDOM})",
    rf"(?P<keep>\b{_SAID}[ \t]{{1,4}}(?:for|of)[ \t]{{1,4}}[^\n:=]{{1,80}}{_IS}){_QUOTED}",
    rf"(?P<keep>\b{_SAID}[ \t]{{1,4}}(?:for|of)[ \t]{{1,4}}[^\n:=]{{1,80}}{_IS})(?P<s>{_LOOKS_RANDOM})",
    rf"(?P<keep>\bwith[ \t]{{1,4}}(?:the[ \t]{{1,4}}|a[ \t]{{1,4}})?(?:pass(?:word|wd|phrase|code)|pwd)[ \t]{{1,4}})"
    rf"{_NOT_ONE}(?P<s>[^\s\"']{{6,}})",
    rf"(?P<keep>^[ \t]{{0,20}}pass(?:word|wd|phrase|code):?[ \t]{{0,20}}\r?\n[ \t]{{0,20}})"
    rf"(?P<s>{_LOOKS_RANDOM})[ \t\r]{{0,20}}$",
)
_RULES = (
    r"(?P<keep>(?<!\S)(?:-u|--user|--proxy-user)[ =]?[\"']?[^\s:\"']+:)(?P<s>[^\s\"']+)",
    r"(?P<keep>\bjdbc:[a-z0-9:]{1,40}:[^/\s@:]{1,80}/)(?P<s>[^@\s]{1,200})(?=@)",
    r"(?P<keep>[?&;](?:key|sig|signature|auth|code)=)(?P<s>[^&#\s\"']+)",
    r"(?P<keep>\bbearer[ \t]+)(?P<s>[\w.~+/=-]{8,})",
    # RFC 3986, 3.2.1: user information ends with the authority's only "@".
    r"(?P<keep>\b[a-z][a-z0-9+.-]{0,30}://)(?P<s>[^\s/?#\"'<>@]*:[^\s/?#\"'<>]*|[^\s/?#\"'<>@]+)(?=@)",
    # RFC 7519: a JSON object in base64url, then its claims and its signature.
    r"(?P<keep>(?<![\w-]))(?P<s>eyJ[\w-]{4,8000}\.[\w-]{4,64000}\.?[\w-]*)",
    r"(?P<keep>-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)(?P<s>(?s:.*?))(?=-----END|\Z)",
)
_PROGRAM_RULES = (
    # A password as a word of its own or not, or after the user.
    r"(?P<keep>\b(?:mysql\w{0,10}|mariadb[\w-]{0,10})[ \t][^\n|;&]{0,200}?(?<=[ \t])-p)(?P<s>[^\s\"']\S*)",
    r"(?P<keep>\b(?:sshpass|(?:docker|podman)[ \t]+login)[ \t](?:[^\n|;&]{0,200}?[ \t])?-p[ \t]{0,4})(?P<s>\S+)",
    r"(?P<keep>\b(?:redis-cli|ldap(?:search|add|modify|delete|passwd|whoami))[ \t](?:[^\n|;&]{0,200}?[ \t])?-[aw]"
    r"[ \t]{0,4})(?P<s>[^\s-]\S*)",
    r"(?P<keep>\b(?:mosquitto_(?:pub|sub|rr)|(?:un)?zip|sqlcmd)[ \t](?:[^\n|;&]{0,200}?[ \t])?-P[ \t]{0,4})(?P<s>\S+)",
    r"(?P<keep>\b(?:smbclient|rpcclient|net|mount\.cifs)[ \t](?:[^\n|;&]{0,200}?[ \t])?(?:-U|--user=?)[ \t]{0,4}"
    r"[^\s%]{1,80}%)(?P<s>\S+)",
    r"(?P<keep>\blftp[ \t](?:[^\n|;&]{0,200}?[ \t])?-u[ \t]{0,4}[^\s,]{1,80},)(?P<s>\S+)",
)
_PROGRAMS = (
    "mysql", "mariadb", "sshpass", "login", "redis-cli", "ldap", "mosquitto", "zip", "sqlcmd", "smbclient", "rpcclient",
    "net", "cifs", "lftp",
)  # fmt: skip
"""Each of these rules needs one of these, casefolded."""
_NESTED = rf"{_START}(?:{_NAME}|{_SHORT})\\*[\"']?[ \t]{{0,4}}(?:=>|:=|[:=])\s{{0,8}}(?P<open>[\[({{])"
_PIECE = r"[\[\](){}]|(?<!\\)(?P<q>\\{0,15}[\"'])(?s:.*?)(?<!\\)(?P=q)"
"""Of what is nested: a bracket, or a text, whose brackets do not count."""
_BLOCK = rf"^(?P<indent>[ \t]*)(?:- )?[\"']?{_NAME}[\"']?:[ \t]{{0,20}}(?:[|>][-+\d]{{0,2}})?[ \t]{{0,20}}\r?\n"
_TABLE = rf"^[ \t]*\[{{1,2}}[\"' ]{{0,2}}{_NAME}[\"' ]{{0,2}}\]{{1,2}}[ \t\r]*\n"
_BASIC = r"\bbasic[ \t]+(?P<s>[A-Za-z0-9+/_-]{8,}={0,2})"
_FLAG = re.compile(rf"-{{1,2}}{_NAME}", re.IGNORECASE)
_ANY_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_ASSIGNED = re.compile(rf"(-{{0,2}}{_NAME}=)(.+)", re.IGNORECASE | re.DOTALL)
_TELLING = re.compile(rf"{_NAME}|(?-i:pass|PASS|pin|PIN)", re.IGNORECASE)
_RANDOM = re.compile(_LOOKS_RANDOM, re.IGNORECASE)
_SPLIT = {
    "sshpass": ("-p",), "curl": ("-u", "--user", "--proxy-user"), "wget": ("-u", "--user", "--proxy-user"),
    "redis-cli": ("-a",), "ldapsearch": ("-w",), "mosquitto_pub": ("-P",), "mosquitto_sub": ("-P",), "sqlcmd": ("-P",),
}  # fmt: skip
"""Program -> its flags whose value is a password, or a user and a password."""


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
        """Return the text without secrets. learn: gets each one that was found at a name or in a URL."""
        if text in self._clean:
            return text
        redacted = self._redacted(text, learn)
        if redacted == text and len(text) <= CLEAN_CHARS_MAX and len(self._clean) < CLEAN_TEXTS_MAX:
            self._clean.add(text)
        return redacted

    def _redacted(self, text: str, learn: Callable[[str], None] | None) -> str:
        random: set[str] = set()

        def found(secret: str) -> None:
            if learn is not None:
                learn(secret)
            if _RANDOM.fullmatch(secret):
                random.add(secret)

        def replaced(match: re.Match[str]) -> str:
            groups = match.groupdict()
            secret, mark = groups["s"] or groups.get("open") or "", groups.get("q") or ""
            if not secret:
                return match[0]
            found(secret)
            tail = match[0][match.end("s") - match.start() :] if not mark else ""
            return f"{groups['keep']}{mark}{MARK}{mark or tail}"

        folded = text.casefold()
        named = any(stem in folded for stem in _STEMS)
        if named:
            text = _without_tables(_without_blocks(_without_nested(text)))
        rules: tuple[str, ...] = _RULES
        if any(program in folded for program in _PROGRAMS):
            rules = _PROGRAM_RULES + rules
        if named:
            rules = _NAMED_RULES + rules
        for rule in _compiled(rules):
            text = rule.sub(replaced, text)
        if "basic" in folded:
            text = _compiled((_BASIC,))[0].sub(lambda match: _basic(match, found), text)
        for form in _compiled(TOKEN_FORMS, re.NOFLAG):
            text = form.sub(MARK, text)
        for secret in random - {MARK}:
            text = text.replace(secret, MARK)
        return self._known_form.sub(MARK, text) if self._known_form is not None else text

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Return a command line without secrets: `--token X`, `--token=X`, `TOKEN=X`, `curl -u me:X`, and whatever else
        text() finds."""
        redacted: list[str] = []
        split = _SPLIT.get(argv[0].rpartition("/")[2], ()) if argv else ()
        if len(line := " ".join(argv)) < LINE_CHARS_MAX:
            # Flags whose meaning depends on the program, and on the words before. What goes on in another word is more
            # than a secret: a header's value, which ends with its line, and the URL behind it.
            self.text(line, lambda secret: self._learn(secret) if any(secret in word for word in argv) else None)
        for before, word in zip(("", *argv), argv, strict=False):
            assigned = _ASSIGNED.fullmatch(word)
            if _FLAG.fullmatch(before):
                if not _ANY_FLAG.fullmatch(word):
                    self._learn(word)
                redacted.append(MARK)
            elif before in split:
                user, colon, secret = word.partition(":")
                self._learn(secret or word)
                redacted.append(f"{user}:{MARK}" if colon else MARK)
            elif assigned is not None:
                self._learn(assigned[2])
                redacted.append(assigned[1] + MARK)
            else:
                redacted.append(self.text(word, self._learn))
        return redacted

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment without secrets, in the order of its names."""
        return {name: MARK if _TELLING.fullmatch(name) else self.text(value) for name, value in sorted(environ.items())}

    def value(self, value: Any, telling: bool = False) -> Any:
        """Any JSON value without secrets: texts are redacted, and so is all that is below a telling key.

        telling: whether it is below one.
        """
        if isinstance(value, str):
            return MARK if telling else self.text(value)
        if isinstance(value, Mapping):
            # The name may be one member, and the value another.
            named = any(_TELLING.fullmatch(str(value.get(key, ""))) for key in ("name", "key", "id"))
            return {
                self.text(key) if isinstance(key, str) else key: self.value(
                    one, telling or _TELLING.fullmatch(str(key)) is not None or (named and key in ("value", "content"))
                )
                for key, one in value.items()
            }
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self.value(one, telling) for one in value]
        return MARK if telling and isinstance(value, int | float) and not isinstance(value, bool) else value

    def _learn(self, secret: str) -> None:
        # Of `Bearer X` and `user:X` the X is the secret.
        for one in (secret, secret.split()[-1] if secret.split() else "", secret.partition(":")[2]):
            if len(one) >= LEARNED_CHARS_MIN and MARK not in one and one not in self._known:
                self._known |= forms(one)
        self._clean.clear()
        longest_first = sorted(self._known, key=len, reverse=True)
        self._known_form = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def forms(secret: str) -> set[str]:
    """Return a secret as it may turn up again: as it is, and in JSON, HTML, a URL, hex and base64, also within more of
    it."""
    data = secret.encode("utf-8", "surrogatepass")
    quoted = {quote(data, safe=""), quote_plus(data)}
    lower = {re.sub("%..", lambda code: code[0].lower(), one) for one in quoted}
    in_json = {json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    in_base64 = set()
    for before in range(3):
        # Of the first characters some bits are those of what is before, of the last one some are those of what follows.
        padded = bytes(before) + data
        text = base64.b64encode(padded).decode().rstrip("=")
        text = text[(0, 2, 3)[before] : len(text) - (len(padded) % 3 > 0)]
        if len(text) >= LEARNED_CHARS_MIN:
            in_base64 |= {text, text.replace("+", "-").replace("/", "_")}
    return {secret, html.escape(secret), data.hex(), data.hex().upper(), *quoted, *lower, *in_json, *in_base64}


def _basic(match: re.Match[str], found: Callable[[str], None]) -> str:
    """Return a header of HTTP Basic without its credentials; a sentence about something basic as it is."""
    encoded = match["s"].replace("-", "+").replace("_", "/")
    try:
        user, colon, secret = base64.b64decode(encoded + "=" * (-len(encoded) % 4)).decode().partition(":")
    except ValueError:
        return match[0]
    if not colon or not f"{user}{secret}".isprintable():
        return match[0]
    found(secret)
    return f"{match[0][: match.start('s') - match.start()]}{MARK}"


def _without_nested(text: str) -> str:
    """Return a text without what is in lists, tuples and objects of a telling name; to the end of the line where one
    has no end."""
    pieces, at = [], 0
    # What has no end is looked through in vain; only so often, or it would take time in the square of the length.
    budget = 4 * len(text)
    (opens,), (piece,) = _compiled((_NESTED,)), _compiled((_PIECE,))
    while (match := opens.search(text, at)) is not None:
        depth, end = 1, -1
        for one in piece.finditer(text, match.end(), match.end() + budget):
            depth += (one[0] in "[({") - (one[0] in "])}")
            if depth == 0:
                end = one.start()
                break
        budget -= (end if end >= 0 else len(text)) - match.end()
        if end < 0:
            end = text.find("\n", match.end()) if "\n" in text[match.end() :] else len(text)
        content = text[match.end() : end]
        pieces += [text[at : match.end()], MARK if content.strip() else content]
        at = end
    return "".join([*pieces, text[at:]])


def _without_blocks(text: str) -> str:
    """Return a text without the indented lines below a telling name, as YAML has them."""
    pieces, at = [], 0
    (opens,) = _compiled((_BLOCK,))
    while (match := opens.search(text, at)) is not None:
        end = match.end()
        indent = match["indent"]
        while end < len(text):
            line = text[end : _line_end(text, end)]
            inside = line.startswith((f"{indent} ", f"{indent}\t", f"{indent}- ")) or not line.strip()
            if not inside:
                break
            end += len(line)
        content = text[match.end() : end]
        feed = "\n" if content.endswith("\n") else ""
        pieces += [text[at : match.end()], f"{indent}  {MARK}{feed}" if content.strip() else content]
        at = end
    return "".join([*pieces, text[at:]])


def _without_tables(text: str) -> str:
    """Return a text without the lines below a telling heading in brackets, as TOML and INI files have them."""
    pieces, at = [], 0
    (opens,) = _compiled((_TABLE,))
    while (match := opens.search(text, at)) is not None:
        end = match.end()
        while end < len(text) and not text[end : end + 200].lstrip(" \t").startswith("["):
            end = _line_end(text, end)
        content = text[match.end() : end]
        feed = "\n" if content.endswith("\n") else ""
        pieces += [text[at : match.end()], f"{MARK}{feed}" if content.strip() else content]
        at = end
    return "".join([*pieces, text[at:]])


def _line_end(text: str, start: int) -> int:
    """Return where the line that begins here ends, its line feed included."""
    return text.find("\n", start) + 1 or len(text)
