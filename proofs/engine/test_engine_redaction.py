"""engine/base/redaction.py: a secret is shown nowhere, and what is none is shown (C8)."""

from __future__ import annotations

import ast
import itertools
import json
import logging
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import engine
from engine import command
from engine.base import logs, redaction
from engine.base.exits import ConfigError
from engine.base.redaction import MARK, forget, learn, redact, redact_value
from engine.config.settings import effective, load
from engine.signals import Signals
from proofs.engine.test_engine_cli import call
from proofs.fixtures.engine_process import write_config

SECRET = "hunter2"

POSITIONS = [
    "wss://user:{}@host/ws/btcusdt@trade",
    "wss://{}@host:9443/x",
    "wss://:{}@host",
    "wss://user:{}/x@host",
    "wss://user:{}@more@host/x",
    "wss://user:a/{}@host.example",
    "wss://user:a?{}@host",
    "wss://user:a#{}@host",
    "wss://user:a;{}@host",
    "wss://user:{}",
    "wss://host:{}/x",
    "WSS://user:{}@host",
    "wss%3A%2F%2Fuser%3A{}%40host",
    "wss://user%3A{}%40host/x",
    "wss://host/x?token={}",
    "wss://host/x?streams=a@trade&signature={}",
    "wss://host/x;token={}",
    "wss://host/x;{}",
    "wss://host/x%3Ftoken%3D{}",
    "wss://host/x#{}",
    "wss://host/token/{}/x",
    "wss://host/key={}/x",
    "wss://[::1]:9001/x?key={}",
    "postgres://u:{}@h/db",
    "file:bot.db?key={}",
    "file:///bot.db?password={}",
    "user:{}@host:9001",
    "user:{}@host/x",
    "password={}",
    "pasword = {}",
    "passwd: {}",
    "api-key={}",
    "API_KEY: '{}'",
    'secret_token = "{}"',
    "Authorization: Bearer {}",
    "/etc/engine/password={}/config.toml",
    "wss://host/key/{}/x",
    "wss://host/pw/{}",
    "wss://host/keys/{}",
    "pw={}",
    "key: {}",
    "Bearer {}",
    "bearer  '{}",
    "/x/key/{}",
    "/var/lib/api_keys/{}/x.jsonl",
    "cannot read '/x/my-token/{}'",
]
"""Where a secret may stand."""

WORD = st.text(string.ascii_letters + string.digits + "-_.~!$*+", min_size=1, max_size=12).map(
    lambda tail: SECRET + tail
)


@pytest.mark.slow
@pytest.mark.claim("C8")
@pytest.mark.parametrize("position", POSITIONS)
@given(
    secret=WORD,
    before=st.sampled_from(["", "cannot connect to ", "'", '("']),
    after=st.sampled_from(["", "'", ": refused"]),
)
def test_C8_a_secret_is_not_shown_wherever_it_stands(position: str, secret: str, before: str, after: str) -> None:
    text = before + position.format(secret) + after
    assert SECRET not in redact(text)
    assert SECRET not in redact_value(text)


@pytest.mark.parametrize(
    "text",
    [
        "wss://stream.binance.com:9443/ws/btcusdt@trade",
        "wss://stream.binance.com/ws/!ticker@arr",
        "wss://api.gemini.com/v1/marketdata/BTCUSD",
        "wss://api.gemini.com/v1/marketdata/btcusd",
        "wss://fstream.binance.com/ws/btcusdt_260925@aggTrade",
        "wss://nbstream.binance.com/eoptions/ws/BTC-260630-9000-P@trade",
        "wss://stream.binance.com/ws/1000000mogusdt@trade/btcusdt@trade",
        "monkey: no key",
        "ws://localhost:9001",
        "ws://[::1]:9001/feed",
        "SOL/USDC",
        "data/bot.db",
        "/var/lib/hybrid-engine/bot.db",
        "HTTP 429 (Retry-After: 30)",
        "2026-01-09T16:31:49.074508Z",
        "books do not balance: tick_count = 3, but ingest_processed = 4",
        "connecting to 'ws://127.0.0.1:9001/feed': [Errno 111] Connection refused",
        "btcusdt@trade: gap",
        "should be a URL without user name and password, since market data needs none",
        "/x/private.key: cannot be read: Permission denied",
        "x/token: no such file",
        "'/x/token': No such file or directory",
        "secret: not a regular file",
        "engine.replay_file = '/x/tokens.jsonl': cannot be read: Is a directory",
        "/var/lib/private/hybrid-engine/bot.db",
        "/run/credentials/hybrid-engine.service/bundle.json",
        "keys/values of a table",
        "KEY/USDT",
        "source.symbol = 'AUTH/USDT': gap",
        "AUTH/USDT:USDT",
        "tokens / secrets",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert redact(text) == text
    assert redact_value(text) == text


@pytest.mark.claim("C8")
@given(
    st.text(string.ascii_letters + string.digits + "-_.~", min_size=16, max_size=60).filter(
        lambda key: any(c in string.digits for c in key) and any(c in string.ascii_letters for c in key)
    ),
    st.sampled_from(["wss://host/{}", "wss://host/ws/{}/x", "connecting to 'wss://host:1/{}?x': refused"]),
)
@example("Zq9xW7vK3pL8mN4tR6yB2cDe", "wss://host/ws/{}")
@example("sk-proj-Abc123Def456Ghi789Jkl0", "wss://host/{}")
@example("AKIAIOSFODNN7EXAMPLE", "wss://host/{}")
@example("a1" * 8, "wss://host/{}")
def test_C8_what_looks_like_a_key_in_a_path_is_not_shown(key: str, position: str) -> None:
    assert key not in redact(position.format(key))


@pytest.mark.claim("C8")
@given(st.text() | st.text("ws:/@?#;%=.'\" abp[]"))
@example("password=[redacted]")
def test_C8_what_is_redacted_stays_as_it_is(text: str) -> None:
    """An error is redacted where it is made and where it is logged."""
    once = redact(text)
    assert redact(once) == once


def texts_of(tree: ast.AST) -> Iterator[str]:
    """What a program may say: its texts, with something in place of what is filled in; not its documentation."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x1" for part in child.values)
            elif isinstance(child, ast.Constant) and isinstance(child.value, str) and not isinstance(node, ast.Expr):
                yield child.value


@pytest.mark.slow
@pytest.mark.claim("C8")
def test_C8_nothing_that_the_engine_itself_says_looks_like_a_secret() -> None:
    root = Path(engine.__file__).parent
    said = [text for path in root.rglob("*.py") for text in texts_of(ast.parse(path.read_text()))]
    assert len(said) > 1000
    # Addresses of databases, which nobody is shown.
    assert [text for text in said if "?mode=" not in text and redact(text) != text] == []


@pytest.fixture
def learning() -> Iterator[None]:
    """Nothing is known of configurations that were read in this process, and nothing is left."""
    forget()
    yield
    forget()


@pytest.mark.claim("C8")
@pytest.mark.usefixtures("learning")
@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("wss://host/ws/Zq9xW7vK3pL8mN4tR6yB2cDe", "Zq9xW7vK3pL8mN4tR6yB2cDe"),
        ("wss://host/key/hunter2/x", "hunter2"),
        ("wss://host/token/swordfish", "swordfish"),
        ("wss://host/key=swordfish/x", "swordfish"),
        ("wss://host/x?streams=btcusdt@trade&apiKey=swordfish", "swordfish"),
        ("wss://host/x?signature=abcd", "abcd"),
        ("wss://host/x?listenKey=pqia91ma19a5s61cv6a81va65sd", "pqia91ma19a5s61cv6a81va65sd"),
        ("wss://host/x?a=pqia91ma19a5s61cv6a81va65sd", "pqia91ma19a5s61cv6a81va65sd"),
        (f"wss://host/x?token={'a1b2' * 30}", "a1b2" * 30),
        ("wss://host/token/a%2Bb%2Fc%3D", "a+b/c="),
        ("wss://host/token/a%2Bb%2Fc%3D", "a%2Bb%2Fc%3D"),
    ],
)  # fmt: skip
def test_C8_a_secret_of_a_configured_url_is_shown_nowhere_else(url: str, secret: str) -> None:
    """Whatever a venue makes of it: in a close reason, in the text of a rejection."""
    said = [f"closed by the peer: 4001 unknown key {secret}.", f"{secret}", f"GET /x/{secret}: gone", f"('{secret}',)"]
    said.append(f"wss://other/{secret}")
    assert any(secret in redact(text) for text in said)
    learn(url)
    assert not any(secret in redact(text) + redact_value(text) for text in said)
    learn("wss://host/key/7a")
    learn("wss://host/private/stream?streams=btcusdt@trade")
    learn("wss://host/auth/trades/btcusdt@trade")
    # In capital letters, and where it was cut.
    assert secret.upper() not in redact(f"unknown key {secret.upper()}.")
    if len(secret) >= 8:
        for length in range(6, len(secret)):
            for text in (f"unknown key {secret[:length]}", f"unknown key {secret[:length]}...: closed"):
                assert secret[:6] not in redact(text)
    # What is none stays: names of streams, hosts, options, and words of which a short secret is a part.
    for text in ("host", "btcusdt@trade", "streams", "abcdef", "xhunter2x", "7a", "trades of a stream"):
        assert redact(text) == text


@pytest.mark.claim("C8")
@pytest.mark.usefixtures("learning")
@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("hunter2", "hunter2-more"),
        ("swordfish", "swordfish-of-tomorrow"),
        ("a1b2" * 15, "a1b2" * 16),
        ("a1b2" * 30, "a1b2" * 31),
    ],
)
def test_C8_of_a_secret_that_begins_like_another_nothing_is_left(short: str, long: str) -> None:
    for learnt in ([short, long], [long, short]):
        forget()
        for secret in learnt:
            learn(f"wss://host/key/{secret}")
        for secret in learnt:
            assert redact(f"of {secret} nothing is known") == f"of {MARK} nothing is known"


PLACES = {
    # flags or a configuration, with a secret in it
    "mistyped flag": (["--pasword={}"], ""),
    "mistyped flag, apart": (["--pasword", "{}"], ""),
    "short flag": (["-p{}"], ""),
    "no flag": (["{}"], ""),
    "flag that takes none": (["--check-config={}"], ""),
    "whole number": (["--sample-every", "ws://u:{}@h"], ""),
    "number": (["--seconds", "token={}"], ""),
    "url": (["--ws-url", "wss://user:{}@host"], ""),
    "url's port": (["--ws-url", "wss://host:{}/"], ""),
    "url's query": (["--ws-url", "wss://host/x?token={}"], ""),
    "database": (["--db", "postgres://u:{}@h/db"], ""),
    "replay file": (["--ingest", "replay", "--replay-file", "file:x?key={}"], ""),
    "replay file in a directory": (["--ingest", "replay", "--replay-file", "/x/key/{}"], ""),
    "database in a directory": (["--db", "token/{}"], ""),
    "mode": (["--mode", "password={}"], ""),
    "bearer": (["--ingest", "Bearer {}"], ""),
    "bearer in the file": ([], "engine.ingest_mode = 'Bearer {}'"),
    "config": (["--config", "wss://u:{}@h/c.toml"], ""),
    "sources": (["--ingest", "realws", "--sources", "x?password={}"], ""),
    "unknown key": ([], "engine.pasword = '{}'"),
    "unknown key of another kind": ([], "engine.colour = '{}'"),
    "unknown table": ([], "[vault]\nanything = '{}'"),
    "unknown list": ([], "engine.x = ['{}']"),
    "telling key": ([], "secret = '{}'"),
    "trusted key": ([], "gate.trusted_keys = ['{}']"),
    "url in the file": ([], "engine.ws_url = 'wss://user:{}@host'"),
    "key that is a url": ([], "'wss://user:{}@host' = 1"),
    "name": ([], "app.symbol = 'wss://user:{}@host'"),
    "syntax error": ([], "password = {}"),
    "syntax error in a line": ([], "password '{}'"),
    "key twice": ([], "'{}' = 1\n'{}' = 2"),
    "table twice": ([], "['{}']\n['{}']"),
    "inline table": ([], "a = {{'{}' = 1, '{}' = 2}}"),
}


def command_line(directory: Path, place: str) -> list[str]:
    args, text = PLACES[place]
    config = write_config(directory, {"engine": {"run_seconds": 0.01}})
    config.write_text(text.format(SECRET, SECRET) + "\n" + config.read_text())
    return ["--config", str(config), *(argument.format(SECRET) for argument in args)]


@pytest.mark.claim("C8")
@pytest.mark.parametrize("place", PLACES)
def test_C8_no_output_of_a_check_shows_it(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    try:
        command.run(["--check-config", *command_line(tmp_path, place)], Signals())
    except ConfigError as error:
        logs.report(logging.getLogger("engine"), error)
    said = [*capsys.readouterr(), *map(logs.format_record, caplog.records)]
    assert len("".join(said)) > 10
    assert SECRET not in "".join(said)


@pytest.mark.slow
@pytest.mark.claim("C8")
@pytest.mark.parametrize("place", ["mistyped flag", "url", "database", "unknown key", "syntax error", "name"])
def test_C8_no_output_of_a_start_shows_it(tmp_path: Path, place: str) -> None:
    result = call(tmp_path, *command_line(tmp_path, place))
    assert result.returncode in (0, 12)
    assert result.stdout + result.stderr
    assert SECRET not in result.stdout + result.stderr


@pytest.mark.claim("C8")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    secret=WORD,
    position=st.sampled_from(POSITIONS),
    key=st.sampled_from(["app.symbol", "engine.ws_url", "x", "app.db_path"]),
)
def test_C8_neither_an_error_nor_the_effective_configuration_shows_it(
    tmp_path: Path, secret: str, position: str, key: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"{key} = {json.dumps(position.format(secret))}\n")
    try:
        shown = json.dumps(effective(load(str(path), {})))
    except ConfigError as error:
        shown = str(error) + json.dumps(error.details, default=str)
    assert SECRET not in shown


_WORDS = [
    *("secret", "tokens", "pasw", "passphrase", "pwd", "pw", "api_key", "API-Keys", "private", "credential", "auth"),
    # In letters beyond ASCII that are the same as ours where case is ignored.
    *("authorize", "Bearer ", "listenKey", "key", "\u017fecret", "to\u212aen", "pr\u0131vate", "cred\u0130ential"),
    *("symbol", "user", ""),
]
_BEFORE = ["", "/", "x/", "?", "x?a=", "user:", "user%3a", "://", "HTTP%3A%2F%2F", "a "]
_BEHIND = ["", "=x", ": x", '": "x"', "%3dx", "%3Dx", "/x", "/x.db", " x", "x", "@host", "%40host"]


@pytest.mark.claim("C8")
@pytest.mark.parametrize("word", _WORDS)
def test_C8_an_expression_that_is_not_asked_would_find_nothing(word: str) -> None:
    """What decides whether a text is looked at closely lets nothing pass that would be taken out."""
    for before, behind in itertools.product(_BEFORE, _BEHIND):
        text = expected = before + word + behind
        for expression, instead in (
            (redaction._QUERY, f"?{MARK}"),
            (redaction._USER_AND_PASSWORD, f"{MARK}@"),
            (redaction._TELLING_DIRECTORY, rf"\g<1>{MARK}"),
            (redaction._NAMED, rf"\g<1>{MARK}"),
            (redaction._BEARER, rf"\g<1>{MARK}"),
        ):
            expected = re.sub(expression, instead, expected)
        assert redaction._redact_words(text) == expected
        assert redaction._may_have_url(text) or re.search(redaction._URL, text) is None


@pytest.mark.claim("C8")
@pytest.mark.parametrize("length", [16_383, 16_384, 16_385, 100_000])
def test_C8_what_nobody_reads_to_its_end_is_cut(length: int) -> None:
    text = "x" * length
    assert redact(text) == (text if length <= 16_384 else "x" * 16_384 + "...")


@pytest.mark.claim("C8")
@pytest.mark.usefixtures("learning")
@pytest.mark.parametrize(
    ("secret", "said", "shown"),
    [
        # What is shorter would be found by chance.
        ("abc", "of abc", "of abc"),
        ("abcd", "of abcd", "of [redacted]"),
        ("abcd", "(ABCD)", "([redacted])"),
        # From eight characters on it is one within other words too, and where it was cut.
        ("abcdefg", "xabcdefg abcdefgx", "xabcdefg abcdefgx"),
        ("abcdefg", "of abcdef", "of abcdef"),
        ("abcdefgh", "xabcdefgh abcdefghx", "x[redacted] [redacted]x"),
        ("abcdefgh", "of abcdef", "of [redacted]"),
        ("abcdefgh", "of abcdefg...", "of [redacted]..."),
        ("abcdefgh", "of abcde", "of abcde"),
        ("abcdefgh", "of abcdef and more", "of abcdef and more"),
        ("a1b2" * 20, f"of {'a1b2' * 19}a1b", "of [redacted]"),
        # Of one that is longer than eighty all the rest is taken out.
        ("a1b2" * 25, f"of {'a1b2' * 21}", "of [redacted]"),
        ("a1b2" * 25, f"of {'a1b2' * 24}...", "of [redacted]"),
        # What stands in every stream's URL is none.
        ("trades", "of trades", "of trades"),
        ("Stream", "of stream", "of stream"),
    ],
    ids=range(15),
)
def test_C8_how_much_of_a_learnt_secret_is_one(secret: str, said: str, shown: str) -> None:
    learn(f"wss://host/key/{secret}")
    assert redact(said) == shown
