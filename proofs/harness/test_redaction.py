"""No secret reaches the flight record (contract V1)."""

from __future__ import annotations

import base64
import html
import importlib
import json
import re
import shlex
import string
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence.redaction import _TELLING, CLEAN_TEXTS_MAX, MARK, TOKEN_FORMS, Redactor, forms

pytestmark = pytest.mark.claim("V1")

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "proofs" / "fixtures" / "evidence.txt"

WORDS = st.text(string.ascii_letters + string.digits + "!$%()*+,-./:;<=>?@[]^_{|}~", min_size=12, max_size=40).filter(
    lambda word: word[0] not in "-[" and "redacted" not in word
)
"""Secrets without white space, quotes and backslashes."""

PHRASES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=12, max_size=40).filter(
    lambda phrase: "redacted" not in phrase and len(set(phrase)) > 6 and phrase == phrase.strip() and phrase[0] != "-"
)
"""Secrets of any characters."""

NAMES = st.sampled_from(
    ["password", "DB_PASSWORD", "api_key", "API-KEY", "X_API_TOKEN", "client_secret", "aws_secret_access_key",
     "passphrase", "Authorization", "session_id", "db_pass", "private_key", "SECRET_KEY_BASE", "token2"]
)  # fmt: skip


def fresh(environ: dict[str, str] | None = None) -> Redactor:
    return Redactor(environ or {})


@given(NAMES, PHRASES)
def test_quoted_values_at_telling_names(name: str, secret: str) -> None:
    quoted = json.dumps(secret)
    for text in (
        f"{name} = {quoted}\nb = 1",
        json.dumps({"a": 1, name: secret, "b": 2}),
        json.dumps({"message": json.dumps({name: secret})}),
        json.dumps({"m": json.dumps({"m": json.dumps({name: secret})})}),
        json.dumps({name: secret}, ensure_ascii=False),
        f'{name} = """{secret.replace(chr(34), "x")}"""',
    ):
        redacted = fresh().text(text)
        assert MARK in redacted
        assert secret not in redacted
        assert quoted[1:-1] not in redacted


@given(NAMES, WORDS)
def test_bare_values_at_telling_names(name: str, secret: str) -> None:
    for text in (
        f"connecting with {name}={secret} now",
        f"{name}: {secret}",
        f"{name}: Bearer {secret}",
        f"\n{name}={secret} and the rest of it\n",
        f"GET /?a=1&{name}={quote(secret)}&b=2",
        f"run --{name.lower()} {shlex.quote(secret)} now",
        f"run --{name.lower()}={secret}",
    ):
        redacted = fresh().text(text)
        assert MARK in redacted
        assert secret not in redacted
        assert quote(secret) not in redacted


@given(st.from_regex(_TELLING, fullmatch=True))
def test_whatever_name_is_telling_is_looked_for(name: str) -> None:
    assert fresh().text(f"{name}=hunter2") == f"{name}={MARK}"


@given(WORDS)
def test_credentials_in_urls(secret: str) -> None:
    for scheme in ("wss", "https", "postgres+asyncpg"):
        redacted = fresh().text(f"dialling {scheme}://user:{quote(secret, safe='')}@venue.example:9443/ws/sol@trade")
        assert redacted == f"dialling {scheme}://{MARK}@venue.example:9443/ws/sol@trade"


@given(NAMES, PHRASES, st.sampled_from(["--{}=", "{}=", "--{} "]))
def test_what_a_command_line_gives_away_is_known_everywhere(name: str, secret: str, form: str) -> None:
    redactor = fresh()
    word = form.format(name.lower() if form.startswith("-") else name)
    argv = ["tool", word.strip(), secret, "-v"] if word.endswith(" ") else ["tool", word + secret, "-v"]
    shown = redactor.argv(argv)
    assert secret not in " ".join(shown)
    assert (shown[0], shown[-1], len(shown)) == ("tool", "-v", len(argv))
    for echoed in (f"logged in with {secret}.", json.dumps({"message": f"hello {secret}"})):
        redacted = redactor.text(echoed)
        assert secret not in redacted
        assert json.dumps(secret)[1:-1] not in redacted


@given(PHRASES)
def test_secrets_of_the_environment_are_known_everywhere(secret: str) -> None:
    redactor = fresh({"VENUE_API_SECRET": secret, "HOME": "/somewhere"})
    assert secret not in redactor.text(f"the key is {secret}, at /somewhere")
    assert redactor.environment({"VENUE_API_SECRET": secret, "HOME": "/somewhere"}) == {
        "HOME": "/somewhere",
        "VENUE_API_SECRET": MARK,
    }
    assert redactor.value({"reason": [f"it said {secret}"], "token": "short", "n": 1}) == {
        "reason": [f"it said {MARK}"],
        "token": MARK,
        "n": 1,
    }


RANDOM = st.from_regex(r"[A-Za-z][A-Za-z0-9]{4,20}[0-9][A-Za-z][A-Za-z0-9]{4,8}", fullmatch=True)
"""Secrets as generators make them."""

PLACES = {
    "a unit's own credential": "SetCredential=nats-password:X",
    # place: text, in which X is the secret
    "pwd:": "pwd: X",
    "pwd=": "user=u;pwd=X;database=d",
    "pass =": "pass = X",
    "pass:": "login: me\npass: X\n",
    "PASS=": "PASS=X",
    "PIN=": "PIN=X",
    "ODBC": "Driver={ODBC Driver 18};Server=tcp:db,1433;Uid=sa;Pwd=X;Encrypt=yes",
    "ODBC, in braces": "Driver=SQLite;UID=sa;PWD={X; and more};",
    "ADO": "Data Source=db;User ID=sa;Password=one X two;Pooling=true",
    "ADO, quoted": "Data Source=db;User ID=sa;Password='X';",
    "JDBC": "jdbc:sqlserver://db:1433;databaseName=a;user=sa;password=X;encrypt=true",
    "JDBC, query": "jdbc:mysql://db:3306/a?user=sa&password=X&ssl=1",
    "JDBC, Oracle": "jdbc:oracle:thin:scott/X@db:1521:orcl",
    "libpq": "host=db user=me password=X dbname=a",
    "libpq, quoted": "host=db user=me password='a X' dbname=a",
    "libpq, URL": "postgresql://me:X@db:5432/a?sslmode=require",
    "storage key": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=X;EndpointSuffix=b",
    "XML": "<db><password>X</password></db>",
    "XML, lines": "<password>\n    X\n</password>",
    "XML, namespace": '<ns:password type="text">X</ns:password>',
    "XML, CDATA": "<password><![CDATA[X<]]></password>",
    "XML, attribute": '<user name="me" password="X"/>',
    "XML, attribute of a key": '<add key="ApiToken" value="X"/>',
    "XML, entry": '<entry key="db.password">X</entry>',
    "netrc": "machine db login me password X",
    "netrc, lines": "machine db\n  login me\n  password X\n",
    "sentence": "login with password X failed",
    "sentence, is": "the password is X.",
    "sentence, quoted": 'the passphrase was "a X"',
    "sentence, token": "token X has expired",
    "prompt": "password:\nX\n",
    "SQL": "CREATE USER me IDENTIFIED BY 'X'",
    "SQL, plug-in": 'ALTER USER me IDENTIFIED WITH mysql_native_password BY "X"',
    "SQL, Oracle": "CREATE USER me IDENTIFIED BY X",
    "SQL, Postgres": "ALTER ROLE me WITH LOGIN PASSWORD 'X'",
    "HTTP Bearer": "Authorization: Bearer X",
    "HTTP Digest": 'Proxy-Authorization: Digest username="me", response="X"',
    "HTTP, Python": "headers={'Authorization': 'token X', 'Accept': '*/*'}",
    "HTTP, pairs": "[('Accept', '*/*'), ('X-Api-Key', 'X')]",
    "curl": "curl -u me:X https://db",
    "curl, long": "curl --user 'me:X' https://db",
    "sshpass": "sshpass -p X ssh db",
    "curl, in one word": "curl -sS -ume:X https://db",
    "redis": "redis-cli -h db -a X ping",
    "docker": "docker login -u me -p X registry",
    "LDAP": "ldapsearch -x -D cn=me -w X",
    "MQTT": "mosquitto_pub -h db -u me -P X -t a",
    "SMB": "smbclient -U me%X //db/a",
    "zip": "unzip -P X a.zip",
    "lftp": "lftp -u me,X db",
    "a member's name": '{"name": "API_KEY", "value": "X", "n": 1}',
    "a member's name, nested": json.dumps({"m": json.dumps({"id": "password", "value": "X"})}),
    "pw": '{"pw": "X", "n": 1}',
    "one-time password": "otp=X",
    "listen key": "wss://venue/ws?listenKey=X",
    "signature of a venue": "OK-ACCESS-SIGN: X",
    "SQL, set": "SET PASSWORD FOR 'me'@'%' = 'X'",
    "sentence, whose": "the password for user me: X",
    "mysql": "mysql -h db -u me -pX a",
    "cookie": "Cookie: a=b; session=X",
    "set-cookie": "Set-Cookie: sid=X; Path=/; HttpOnly",
    "PEM": "-----BEGIN EC PRIVATE KEY-----\nX\n-----END EC PRIVATE KEY-----",
    "PEM, in JSON": '{"key": "-----BEGIN PRIVATE KEY-----\\nX\\n-----END PRIVATE KEY-----\\n"}',
    "JSON, list": '{"passwords": ["a", "X"], "n": 1}',
    "JSON, nested": '{"secret": {"deep": [{"a": "X"}]}, "n": 1}',
    "JSON, lines": '{\n  "credentials": {\n    "user": "me",\n    "value": "X"\n  },\n  "n": 1\n}',
    "JSON in JSON": json.dumps({"m": json.dumps({"token": {"a": ["X"]}})}),
    "YAML, list": "passwords:\n  - a\n  - X\nn: 1\n",
    "YAML, dashes": "passwords:\n- X\nn: 1\n",
    "YAML, mapping": "db:\n  secret:\n    a: X\n  n: 1\n",
    "YAML, block": "private_key: |\n  a\n\n  X\nn: 1\n",
    "TOML, list": 'tokens = [\n  "a",\n  "X",\n]\nn = 1\n',
    "TOML, inline": 'secret = { a = "X" }\nn = 1\n',
    "TOML, table": '[db.credentials]\nuser = "me"\nvalue = "X"\n[other]\nn = 1\n',
    "INI, table": "[secrets]\nfirst = X\n",
    "repr, dict": "{'secret': {'a': 'X'}, 'n': 1}",
    "repr, tuple": "Settings(api_keys=('a', 'X'), n=1)",
    "terminal": "password: \x1b[31mX\x1b[0m",
    "again": "password=X\n" + "x" * 9000 + " X",
}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@given(secret=RANDOM)
def test_places_in_which_a_secret_stands(place: str, secret: str) -> None:
    redacted = fresh().text(PLACES[place].replace("X", secret).replace(f"{secret}-Api-Key", "X-Api-Key"))
    assert MARK in redacted
    assert secret not in redacted
    # What is beside it stays.
    kept = [
        word
        for word in ("machine", "Server=tcp:db,1433", "n: 1", "n = 1", '"n": 1', "'n': 1", "-h db")
        if word in PLACES[place]
    ]
    assert all(word in redacted for word in kept), redacted


@given(RANDOM)
def test_http_basic(secret: str) -> None:
    encoded = base64.b64encode(f"me:{secret}".encode()).decode()
    for text in (f"Authorization: Basic {encoded}", f"sent 'Basic {encoded}' to it", f"basic {encoded.rstrip('=')}"):
        redacted = fresh().text(text)
        assert MARK in redacted
        assert encoded.rstrip("=") not in redacted
    redactor = fresh()
    assert redactor.argv(["curl", "-u", f"me:{secret}", "https://db"]) == ["curl", "-u", f"me:{MARK}", "https://db"]
    assert secret not in redactor.text(f"it says {secret}")


@given(st.binary(max_size=9).map(bytes.hex), RANDOM | PHRASES, st.binary(max_size=9))
def test_a_known_secret_is_found_in_other_forms(before: str, secret: str, after: bytes) -> None:
    """URL-encoded, in base64 at any place of more text, in hex, in JSON and HTML."""
    redactor = fresh({"VENUE_API_SECRET": secret})
    data = before.encode() + secret.encode() + after
    inner = forms(secret)
    for encoded in (
        quote(secret, safe=""), quote_plus(secret), base64.b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode(), secret.encode().hex(), secret.encode().hex().upper(),
        json.dumps(secret), html.escape(secret),
    ):  # fmt: skip
        redacted = redactor.text(f"it said {encoded} twice")
        assert MARK in redacted, encoded
        assert not any(form in redacted for form in inner)


COMMANDS = {
    # words, in which X is the secret
    "a flag and its value": ["tool", "--token", "X"],
    "an assignment": ["env", "DB_PASSWORD=X", "tool"],
    "a URL": ["psql", "postgresql://me:X@db:5432/a"],
    "a URL after a flag": ["tool", "--db=postgresql://me:X@db/a"],
    "a header": ["curl", "-H", "Authorization: Bearer X", "https://db"],
    "a user and a password": ["curl", "-u", "me:X", "https://db"],
    "the same, by its path": ["/usr/bin/curl", "--user", "me:X", "https://db"],
    "behind a proxy": ["wget", "--proxy-user", "me:X", "https://db"],
    "a password alone": ["sshpass", "-p", "X", "ssh", "db"],
    "the same, by its own path": ["./sshpass", "-p", "X", "ssh", "db"],
    "redis": ["redis-cli", "-a", "X", "ping"],
    "LDAP": ["/opt/bin/ldapsearch", "-x", "-w", "X"],
    "MQTT": ["mosquitto_pub", "-P", "X", "-t", "a"],
    "SQL Server": ["sqlcmd", "-S", "db", "-P", "X"],
    "glued to its flag": ["mysql", "-h", "db", "-pX", "a"],
    "of a container": ["docker", "login", "-u", "me", "-p", "X", "registry"],
    "behind a percent sign": ["smbclient", "-U", "me%X", "//db/a"],
    "behind a comma": ["lftp", "-u", "me,X", "db"],
    "of an archive": ["unzip", "-P", "X", "a.zip"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_what_a_command_is_given_is_not_shown_and_known_everywhere_from_then_on(words: list[str]) -> None:
    secret = "c0rrectHorse7"
    redactor = fresh()
    shown = redactor.argv([word.replace("X", secret) for word in words])
    assert secret not in " ".join(shown)
    assert len(shown) == len(words)
    assert [(word, one) for word, one in zip(words, shown, strict=True) if "X" not in word and word != one] == []
    assert redactor.text(f"hello {secret}") == f"hello {MARK}"


@pytest.mark.parametrize(
    "words",
    [
        ["sshpass", "-p"],
        ["/bin/redis-cli", "-a"],
        ["curl", "-u"],
        ["/usr/bin/wget", "--proxy-user"],
        ["tool", "--password"],
    ],
)
def test_a_password_that_is_too_short_to_be_known_is_not_shown_where_it_stands(words: list[str]) -> None:
    """Elsewhere it may be anything."""
    redactor = fresh()
    assert redactor.argv([*words, "pw1", "pw1"]) == [*words, MARK, "pw1"]
    assert redactor.text("it says pw1") == "it says pw1"


def test_a_known_secret_is_found_in_json_of_either_kind() -> None:
    secret = 'sécret"with\\quotes'
    redactor = fresh({"VENUE_API_SECRET": secret})
    for ascii_only in (True, False):
        assert redactor.text(f"it said {json.dumps(secret, ensure_ascii=ascii_only)}") == f'it said "{MARK}"'


def test_what_the_environment_holds_within_more_text_is_known_everywhere() -> None:
    """A secret in a URL, or behind a word that says what it is."""
    secret = "c0rrectHorse7"
    for name, value in (
        ("DATABASE_URL", f"postgresql://me:{secret}@db/a"), ("OPTIONS", f"-Xmx1g -Ddb.password={secret}"),
        ("API_TOKEN", f"Bearer {secret}"), ("HTTP_AUTHORIZATION", f"Basic  {secret}"), ("DB_PASSWORD", f"me:{secret}"),
    ):  # fmt: skip
        assert fresh({name: value}).text(f"hello {secret}") == f"hello {MARK}", name
    assert fresh({"HOME": f"/{secret}"}).text(f"hello {secret}") == f"hello {secret}"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        # Nothing is no secret, and what is around one stays to the last blank.
        ('password = ""', 'password = ""'),
        ("token = '' # none", "token = '' # none"),
        ("<password></password>", "<password></password>"),
        ("password\n  a1b2c3d4e5 \t\nnext", f"password\n  {MARK} \t\nnext"),
        ('password = "a b" # old', f'password = "{MARK}" # old'),
        ('tokens = ["a"]\nn = 1', f"tokens = [{MARK}]\nn = 1"),
        # What has no end is taken to the end of its line.
        ('tokens = ["a"\nn = 1', f"tokens = [{MARK}\nn = 1"),
        ('tokens = ["a"', f"tokens = [{MARK}"),
        ('a = {"secret": {"b": "]}", "c": [1]}, "n": 1}', f'a = {{"secret": {{{MARK}}}, "n": 1}}'),
        ("secrets:\nn: 1\n", "secrets:\nn: 1\n"),
        ("secrets:\n  a: x\n\n  b: y\nn: 1\n", f"secrets:\n  {MARK}\nn: 1\n"),
        ("secrets:\n  a: x", f"secrets:\n  {MARK}"),
        ("d:\n  secrets:\n  - x\n  - y\n  n: 1\n", f"d:\n  secrets:\n    {MARK}\n  n: 1\n"),
        ("[secrets]\na = 1\nb = 2\n[other]\nn = 1\n", f"[secrets]\n{MARK}\n[other]\nn = 1\n"),
        ("[secrets]\na = 1\n \t[other]\nn = 1\n", f"[secrets]\n{MARK}\n \t[other]\nn = 1\n"),
        ("[secrets]\na = 1", f"[secrets]\n{MARK}"),
        ("[secrets]\n\n[other]\n", "[secrets]\n\n[other]\n"),
        # Of a sentence about something basic nobody can tell that it is none, but by what it would say.
        ("basic bWU6aHVudGVyMg==", f"basic {MARK}"),
        ("basic bWU6aHVudGVyMg", f"basic {MARK}"),
        ("basic bWU6aHVudGVyMg=", f"basic {MARK}"),
        ("basic bWU6aHVudGVy=", f"basic {MARK}"),
        ("basic bm9ib2R5IGhlcmU=", "basic bm9ib2R5IGhlcmU="),
        ("basic bWU6AAECAwQF", "basic bWU6AAECAwQF"),
        ("basic AAEC6gMEBQY=", "basic AAEC6gMEBQY="),
        ("basic electricity", "basic electricity"),
    ],
)  # fmt: skip
def test_what_is_taken_out_ends_where_it_ends(text: str, redacted: str) -> None:
    assert fresh().text(text) == redacted


@given(st.binary(max_size=9), RANDOM, st.binary(max_size=9))
def test_of_base64_each_character_that_only_the_secret_makes_is_taken_out(
    before: bytes, secret: str, after: bytes
) -> None:
    """A character is six bits; of the first and the last some may be of what is around."""
    first, end = 8 * len(before), 8 * len(before + secret.encode())
    encoded = base64.b64encode(before + secret.encode() + after).decode()
    # Nothing stands behind it that an ending such as `pw=` could be the name of.
    assert fresh({"VENUE_API_SECRET": secret}).text(f"<{encoded}") == (
        f"<{encoded[: -(-first // 6)]}{MARK}{encoded[end // 6 :]}"
    )


@given(RANDOM)
def test_all_below_a_telling_key_is_secret(secret: str) -> None:
    value = {
        "password": [secret],
        "deep": {"secret": {"a": secret, "n": 12345, "on": True}},
        "n": 12345,
        "pwd": "/home",
    }
    assert fresh().value(value) == {
        "password": [MARK], "deep": {"secret": {"a": MARK, "n": MARK, "on": True}}, "n": 12345, "pwd": "/home",
    }  # fmt: skip
    redactor = fresh({"VENUE_API_SECRET": secret})
    assert secret not in str(redactor.value({secret: "a key"}))


@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
        "xoxb-" + "123456789012-abcdefghij",
        "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxIn0" + ".c2lnbmF0dXJl",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEA\nAAAA\n" + "-----END OPENSSH PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n" + "MC4CAQAwBQYDK2VwBCIEIA",
    ],
    ids=["aws", "github", "stripe", "slack", "jwt", "ssh-key", "cut-off-key"],
)
def test_telling_forms(secret: str) -> None:
    redacted = fresh().text(f"it printed {secret}\nand went on")
    assert MARK in redacted
    assert not any(part in redacted for part in secret.split("\n")[-1].split(".") if "-----" not in part)
    assert "b3BlbnNzaC1rZXktdjEA" not in redacted


def test_token_forms_are_those_of_detect_secrets() -> None:
    # Here, because every worker loads this module, and one runs this.
    from detect_secrets.plugins.base import RegexBasedDetector

    detectors = (
        "aws", "azure_storage_key", "discord", "github_token", "gitlab_token", "mailchimp", "openai", "pypi_token",
        "sendgrid", "slack", "square_oauth", "stripe", "telegram_token", "twilio",
    )  # fmt: skip
    theirs = [
        (form.pattern, form.flags)
        for name in detectors
        for thing in vars(importlib.import_module(f"detect_secrets.plugins.{name}")).values()
        if isinstance(thing, type) and issubclass(thing, RegexBasedDetector) and thing is not RegexBasedDetector
        for form in thing().denylist
    ]
    inline = re.compile(r"^\(\?[a-z]+\)")
    assert [(inline.sub("", form), re.compile(form).flags) for form in TOKEN_FORMS] == theirs


@pytest.mark.parametrize(
    "evidence",
    [
        "ws://127.0.0.1:9001/stream?streams=solusdt@trade",
        "systemctl --user start hybrid-engine.service",
        "journalctl -u hybrid-engine.service",
        "InvocationID=0123456789abcdef0123456789abcdef",
        "sha256 " + "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        'trusted_keys = ["c1f0b7..."]',
        '{"level":"INFO","fields":{"message":"HEARTBEAT (G4)","tick_count":5},"target":"engine.pipeline"}',
        "key=engine.ingest_mode value=bogus",
        "PWD=/var/lib/hybrid-engine",
        "TOKEN_FILE=/run/credentials/x",
        "OLDPWD=/root",
        "pwd: /var/lib/hybrid-engine",
        "PASS unit       active/running",
        "PASS: 12 FAIL: 0",
        "pass: 12 fail: 0",
        "log in with password authentication",
        "basic authentication was refused",
        "a token bucket, a secret santa, a password policy",
        "identified by the unit's name",
        "journalctl -u hybrid-engine.service -p err -n 50",
        "ExecStart=/bin/sh -c 'exec sleep infinity'",
        '[{"a": [1, 2]}, {"b": {}}]',
        "LoadCredential=\nSetCredential=\nImportCredential=",
        "[engine]\nsample_every = 5\n",
        "passwd:         files systemd",
        "VmPin:\t       0 kB",
    ],
)
def test_evidence_stays(evidence: str) -> None:
    assert fresh().text(evidence) == evidence


def test_real_evidence_stays() -> None:
    """What commands printed and journals said in runs of these proofs: line by line, and as a whole."""
    text = EVIDENCE.read_text()
    assert fresh().text(text) == text
    for line in text.splitlines():
        assert fresh().text(line) == line
    for path in (*ROOT.glob("config/*.toml"), *ROOT.glob("systemd/*.service")):
        assert fresh().text(path.read_text()) == path.read_text()


@given(st.text())
def test_any_text_can_be_redacted_and_then_is(text: str) -> None:
    once = fresh().text(text)
    if MARK not in once:
        assert once == text


PIECES = [
    "x", "password", '"', "\\", "a.", "eyJ", "https://", "-", "token=", "://a:", "token=[", 'token={"', "token=('",
    "\n",
    "<password>", "<password a", "<password><![CDATA[", "machine login u password ", "with password ", "mysql a -p",
    'key="password" ', "basic ", "Basic YTpi ", "token:\n ", "token:\n", "[token]\n", "password\n", "identified by '",
    "identified with ", "sshpass -p", ";pwd=", "jdbc:a:b:c/", "'token', ", ' "', "user a", "%a0", "pin=", "pass: ",
    "a1",
    "password is ", "token 'a", "-----BEGIN PRIVATE KEY-----", "-u a:", " \t", '\\"token\\": [', "]})", "\\'", "x-a-",
    "password = \\'",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("piece", PIECES)
def test_a_long_line_takes_time_in_its_length(piece: str) -> None:
    """In the square of it, this would take minutes. The word at its end is what all rules are tried for."""
    begun = time.process_time()
    for before in ("", "token=["):
        assert fresh().text(before + piece * (30_000 // len(piece)) + " key")
    assert time.process_time() - begun < 3


def test_clean_texts_are_forgotten_when_something_is_learned() -> None:
    redactor = fresh()
    assert redactor.text("swordfish") == "swordfish"
    redactor.argv(["login", "--password", "swordfish"])
    assert redactor.text("swordfish") == MARK
    for number in range(CLEAN_TEXTS_MAX + 10):
        assert redactor.text(f"clean {number}") == f"clean {number}"


def test_a_flag_after_a_secret_flag_is_no_secret_elsewhere() -> None:
    redactor = fresh()
    assert redactor.argv(["login", "--token", "--verbose"]) == ["login", "--token", MARK]
    assert redactor.text("--verbose") == "--verbose"
