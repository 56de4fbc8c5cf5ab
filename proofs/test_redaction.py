"""No secret reaches the flight record (contract V1)."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.redaction import _TELLING, CLEAN_TEXTS_MAX, MARK, TOKEN_FORMS, Redactor

pytestmark = pytest.mark.claim("V1")

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
    ],
)
def test_evidence_stays(evidence: str) -> None:
    assert fresh().text(evidence) == evidence


@given(st.text())
def test_any_text_can_be_redacted_and_then_is(text: str) -> None:
    once = fresh().text(text)
    if MARK not in once:
        assert once == text


@pytest.mark.parametrize("piece", ["x", "password", '"', "\\", "a.", "eyJ", "https://", "-", "token=", "://a:"])
def test_a_long_line_takes_time_in_its_length(piece: str) -> None:
    """In the square of it, this would take minutes. The word at its end is what all rules are tried for."""
    assert fresh().text(piece * (100_000 // len(piece)) + " key")


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
