"""engine/config/settings.py: what loads, what exits 12 and what the error says (C1-C6)."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import socket
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine.config.settings
from engine.base import redaction
from engine.base.exits import ConfigError
from engine.config import schema
from engine.config.schema import INGEST_MODES, MODES, Settings
from engine.config.settings import (
    LOG_LEVELS,
    TRANSPORTS,
    asked_markets,
    effective,
    known_sources,
    load,
    load_sources,
    notify_socket,
    read_environment,
    redact_url,
)
from engine.live import gate
from proofs.engine.test_ed25519 import SMALL_ORDER

ROOT = Path(__file__).resolve().parents[2]

SEED_CONFIG = """\
[app]
symbol = "SOL/USDC"
db_path = "data/bot.db"

[engine]
tick_interval_ms = 500
start_price = 100.0
price_step = 0.05
volume = 1.0
sample_every = 1

[dashboard]
host = "127.0.0.1"
port = 8501
refresh_seconds = 1
"""

KEYS = (
    "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "ed25519:PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=",
)
"""Public keys of RFC 8032."""


def refused(tmp_path: Path, text: str | bytes, **flags: object) -> ConfigError:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as raised:
        load(str(path), {key.replace("__", "."): (f"--{key}", value) for key, value in flags.items()})
    assert str(tmp_path) in str(raised.value) or flags
    return raised.value


def accepted(tmp_path: Path, text: str, **flags: object) -> Settings:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load(str(path), {key.replace("__", "."): (f"--{key}", value) for key, value in flags.items()}).settings


@pytest.mark.claim("O12")
def test_O12_an_instance_of_the_template_has_its_directorys_name_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.config.settings, "INSTANCES", tmp_path)
    for name in ("alpha", "default", "a.b"):
        (tmp_path / name).mkdir()
    (tmp_path / "alpha/config.toml").touch()
    loaded = load(str(tmp_path / "alpha/config.toml"), {})
    assert loaded.settings.app.instance == "alpha"
    # Which is what a bundle is about.
    assert gate.safety_part(loaded)["app"]["instance"] == "alpha"
    assert accepted(tmp_path, "").app.instance == ""
    assert accepted(tmp_path, "[app]\ninstance = 'one'").app.instance == "one"
    assert accepted(tmp_path / "alpha", "[app]\ninstance = 'alpha'").app.instance == "alpha"
    said = "app.instance = 'beta': should be left out, or 'alpha', as its directory and its unit"
    assert said in str(refused(tmp_path / "alpha", "[app]\ninstance = 'beta'"))
    for text in ("app = 3", "[app]\ninstance = 3"):
        assert "app" in str(refused(tmp_path / "alpha", text))
    for name in ("default", "a.b"):
        said = f"the directory of {tmp_path}/{name}/config.toml = '{name}': should be 1 to 32 of"
        assert said in str(refused(tmp_path / name, ""))


@pytest.mark.claim("C5")
def test_C5_the_config_of_an_older_deployment_loads_unchanged(tmp_path: Path) -> None:
    assert accepted(tmp_path, SEED_CONFIG) == Settings()


def test_the_example_config_shows_every_key_at_its_default(tmp_path: Path) -> None:
    text = (ROOT / "config" / "config.toml").read_text()
    assert accepted(tmp_path, text) == Settings()
    shown = tomllib.loads(re.sub(r"^# (instance|run_seconds|replay_file)", r"\1", text, flags=re.MULTILINE))
    assert flatten(shown).keys() == {key for key, _ in schema.keys(Settings)} - shown.keys() | {"mode", "live_armed"}


def test_the_example_sources_load() -> None:
    assert [source.name for source in load_sources(ROOT / "config" / "ws_sources.toml")] == [
        "binance_btcusdt",
        "gemini_btcusd",
    ]


@pytest.mark.claim("N13")
@pytest.mark.parametrize(
    ("symbol", "told"),
    [
        ("BTC/USDT", []),
        ("Bitcoin", []),
        ("ETH/USDT", ["source a: BTCUSDT is called ETH/USDT, the name of another market"]),
    ],
)
def test_N13_a_symbol_of_another_pair_is_a_warning(tmp_path: Path, symbol: str, told: list[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[engine]\ningest_mode = "REAL_WS"\n')
    path.with_name("ws_sources.toml").write_text(
        '[[source]]\nname = "a"\nurl = "wss://stream.binance.com/ws/btcusdt@trade"\npriority = 1\n'
        f'symbol = "{symbol}"\n'
    )
    assert [message for message, _ in load(str(path), {}).warnings] == told
    # What is shipped surprises nobody.
    assert load(str(path), {}, str(ROOT / "config" / "ws_sources.toml")).warnings == ()


@pytest.mark.claim("N12", "N13")
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("url = 'wss://stream.binance.com/ws/solusdc@trade'", []),
        ("url = 'wss://stream.binance.com/ws/btcusdt@trade'\nmarkets = {BTCUSDT = 'BTC/USDT'}", []),
        (
            "url = 'wss://stream.binance.com/ws/btcusdt@trade'",
            ["ticks of its market BTCUSDT will be called SOL/USDC: give it a symbol of its own"],
        ),
        (
            "url = 'wss://stream.binance.com/ws/btcusdt@trade/ethusdt@trade'",
            ["it asks for 2 markets and has no `markets` table to name them: BTCUSDT as BTCUSDT, ETHUSDT as ETHUSDT"],
        ),
        (
            # However many there are, in few words.
            f"url = 'wss://stream.binance.com/ws/{'/'.join(f'{name}usdt@trade' for name in 'abcdef')}'",
            [
                "it asks for 6 markets and has no `markets` table to name them: AUSDT as AUSDT, BUSDT as BUSDT,"
                " CUSDT as CUSDT, DUSDT as DUSDT"
            ],
        ),
        (
            "url = 'wss://stream.binance.com/ws/btcusdt@trade'\nmarkets = {BTCUSDT = 'B', ETHUSDT = 'E'}",
            ["ETHUSDT will not come: the URL does not ask for it"],
        ),
    ],
    ids=range(6),
)
def test_N12_N13_what_an_operator_had_better_know_of_a_source_is_a_warning(
    tmp_path: Path, source: str, told: list[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('engine.ingest_mode = "REAL_WS"')
    sources = path.with_name("ws_sources.toml")
    sources.write_text(f'[[source]]\nname = "a"\npriority = 1\n{source}\n')
    where = {"config_path": str(sources), "source": "a"}
    assert load(str(path), {}).warnings == tuple((f"source a: {doubt}", where) for doubt in told)


def flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@pytest.mark.parametrize("mode", ["shadow", "Paper", "LIVE"])
def test_modes_may_be_written_in_any_case(tmp_path: Path, mode: str) -> None:
    assert accepted(tmp_path, f'mode = "{mode}"').mode == mode.upper()
    assert accepted(tmp_path, "", mode=mode).mode == mode.upper()


@pytest.mark.claim("C1", "G0")
@pytest.mark.parametrize("typo", ["shdow", "", "LIVE ", "live\n", "0"])
def test_C1_G0_an_unknown_mode_flag_runs_shadow_even_over_a_live_file(tmp_path: Path, typo: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text('mode = "LIVE"\nlive_armed = true\n')
    loaded = load(str(path), {"mode": ("--mode", typo)})
    assert loaded.settings.mode == "SHADOW"
    ((message, fields),) = loaded.warnings
    assert "SHADOW" in message
    assert fields["value"] == typo


@pytest.mark.claim("C4")
def test_C4_an_unknown_mode_in_the_file_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, 'mode = "shdow"')
    assert "mode = 'shdow'" in str(error)
    assert "'SHADOW', 'PAPER' or 'LIVE'" in str(error)


@pytest.mark.claim("C2")
def test_C2_an_unknown_ingest_is_refused_by_the_name_of_the_flag(tmp_path: Path) -> None:
    error = refused(tmp_path, "", engine__ingest_mode="synthetc")
    assert str(error).startswith("--engine__ingest_mode = 'synthetc'")


@functools.cache
def folded_to_ascii() -> list[tuple[str, str]]:
    """What is not ASCII until Python's upper(), lower() or casefold() makes it so: dotless i, long s, the sign of
    Kelvin, ligatures. Going through all of Unicode takes a second, which a worker's collection must not pay."""
    return [
        (char, folded)
        for char in map(chr, range(128, sys.maxunicode + 1))
        for folded in {char.upper(), char.lower(), char.casefold()}
        if folded.isascii()
    ]


def misspelled(names: Iterable[str]) -> Iterator[str]:
    pairs = folded_to_ascii()
    for name in names:
        for written in (name.upper(), name.lower()):
            for char, folded in pairs:
                for spelled in {folded.upper(), folded.lower()}:
                    if spelled in written:
                        yield written.replace(spelled, char, 1)


@pytest.mark.slow
@pytest.mark.claim("C1")
def test_C1_a_mode_is_spelled_in_ascii(tmp_path: Path) -> None:
    found = {*misspelled(MODES)}
    assert "l\u0131ve" in found
    path = tmp_path / "config.toml"
    for typo in found:
        path.write_text('mode = "LIVE"\nlive_armed = true\n')
        loaded = load(str(path), {"mode": ("--mode", typo)})
        assert (loaded.settings.mode, len(loaded.warnings)) == ("SHADOW", 1), typo
        assert refused(tmp_path, f'mode = "{typo}"').code == 12


@pytest.mark.claim("C1", "C4")
def test_C1_C4_a_flag_hides_no_mistake_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags: dict[str, tuple[str, object]] = {"mode": ("--mode", "shadow"), "engine.sample_every": ("--sample-every", 2)}
    for text in ('mode = "lvie"', "mode = 5", "engine.sample_every = 0"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(f"{path}: {text.partition(' ')[0]} = ")):
            load(str(path), flags)
    # What keys have to do with each other is asked of what is in force.
    path.write_text('engine.ingest_mode = "REPLAY"')
    assert load(str(path), {"engine.ingest_mode": ("--ingest", "synthetic")}).settings.engine.ingest_mode == "SYNTHETIC"


@pytest.mark.claim("C2")
def test_C2_an_ingest_is_spelled_in_ascii(tmp_path: Path) -> None:
    found = {*misspelled([*INGEST_MODES, "mockws", "realws"])}
    assert "\u017fynthetic" in found
    for typo in found:
        refused(tmp_path, "", engine__ingest_mode=typo)
        refused(tmp_path, f'engine.ingest_mode = "{typo}"')


@pytest.mark.claim("C7")
def test_C7_what_the_environment_names_is_spelled_in_ascii() -> None:
    for name, allowed in (("HYBRID_LOG", LOG_LEVELS), ("HYBRID_TRANSPORT", TRANSPORTS)):
        found = {*misspelled(allowed)}
        assert found
        for typo in found:
            with pytest.raises(ConfigError, match=name):
                read_environment({name: typo}, 7)


@pytest.mark.parametrize(
    ("flag", "mode"), [("mockws", "MOCK_WS"), ("realws", "REAL_WS"), ("replay", "REPLAY"), ("Synthetic", "SYNTHETIC")]
)
def test_ingest_flags(tmp_path: Path, flag: str, mode: str) -> None:
    (tmp_path / "ws_sources.toml").write_text('[[source]]\nname="a"\nurl="ws://h"\npriority=1\n')
    assert accepted(tmp_path, "", engine__ingest_mode=flag).engine.ingest_mode == mode


@pytest.mark.claim("C3")
def test_C3_a_config_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.toml: cannot be read: No such file"):
        load(str(tmp_path / "nope.toml"), {})


@pytest.mark.claim("C3")
def test_C3_only_the_default_path_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load(None, {})
    assert (loaded.settings, loaded.config_path) == (Settings(), None)
    assert "defaults" in loaded.warnings[0][0]
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").symlink_to("nowhere")
    with pytest.raises(ConfigError):
        load(None, {})


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    got = accepted(tmp_path, "[engine]\nsample_every = 5\nvolume = 2\n", engine__sample_every=7)
    assert (got.engine.sample_every, got.engine.volume, got.engine.price_step) == (7, 2.0, 0.05)


@pytest.mark.claim("C4")
def test_C4_a_mistake_in_a_flag_is_told_by_the_flag(tmp_path: Path) -> None:
    error = refused(tmp_path, "[engine]\nsample_every = 5\n", engine__sample_every=0)
    assert str(error).startswith("--engine__sample_every = 0: should be greater than or equal to 1")


@pytest.mark.claim("C4")
@pytest.mark.parametrize(
    "line",
    [
        "risk_caps.max_exposure_usd = 0",
        "risk_caps.max_exposure_usd = -1.5",
        "risk_caps.max_symbol_exposure_usd = nan",
        "risk_caps.max_open_orders = 0",
        "channels.tick_channel_size = 0",
        "channels.signal_channel_size = 1_000_001",
        "channels.persist_channel_size = 1.5",
        "engine.tick_interval_ms = -500",
        "engine.tick_interval_ms = 0",
        "engine.heartbeat_interval_secs = 0",
        "engine.heartbeat_interval_secs = inf",
        "engine.feed_silence_secs = -1",
        "engine.sample_every = 0",
        "engine.sample_every = true",
        "engine.sample_every = 1.0",
        'engine.sample_every = "1"',
        "engine.volume = true",
        'engine.volume = "1"',
        "engine.start_price = 0",
        "engine.run_seconds = 0",
        "engine.parse_error_limit = 0",
        'engine.ws_url = "http://localhost"',
        'engine.ws_url = "ws://"',
        'engine.ws_url = "ws://h:99999"',
        'engine.ws_url = "ws://h ost"',
        'engine.ws_url = "ws://a..b/x"',
        f'engine.ws_url = "ws://{"a" * 64}.com/x"',
        f'engine.ws_url = "ws://{".".join(["a" * 60] * 5)}/x"',
        'engine.ingest_mode = "MOCK"',
        "engine.ingest_mode = 1",
        "engine = 3",
        "engine.ws_url = 1979-05-27",
        "execution.fee_rate = 1.01",
        "execution.fee_rate = -0.1",
        "execution.slippage_bps = -1",
        "execution.order_size = 0",
        "persist.busy_timeout_ms = 999",
        "persist.batch_size = 0",
        "strategy.sma_short = 20",
        'strategy.name = "hodl"',
        "dashboard.port = 0",
        "dashboard.port = 65536",
        'app.db_path = ""',
        'app.db_path = ":memory:"',
        'app.db_path = "a\\u0000b"',
        'app.symbol = ""',
        'live_armed = "yes"',
        "live_armed = 1",
        "gate.trusted_keys = [1]",
        'gate.trusted_keys = "k"',
        'gate.trusted_keys = ["k"]',
        f'gate.trusted_keys = ["{"A" * 43}="]',
        f'gate.trusted_keys = ["ed25519:{"A" * 42}="]',
        f'gate.trusted_keys = ["ed25519:{"A" * 42}B="]',
        f'gate.trusted_keys = ["ed25519:{"A" * 43}="]',
        f'gate.trusted_keys = ["{KEYS[0]}", "{KEYS[1]}", "{KEYS[0]}"]',
        "gate.max_age_hours = 0",
        "mode = 1",
    ],
)
def test_C4_out_of_range_and_wrong_types_are_refused(tmp_path: Path, line: str) -> None:
    error = refused(tmp_path, line)
    key = line.partition(" ")[0]
    assert str(error.details["key"]).startswith(key.partition(".")[0])
    assert error.details["allowed"]
    assert error.code == 12


@pytest.mark.claim("R8", "C4")
@pytest.mark.parametrize(("encoded", "says"), SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_a_key_for_which_anybody_can_sign_is_refused(tmp_path: Path, encoded: str, says: str) -> None:
    weak = f"ed25519:{base64.b64encode(bytes.fromhex(encoded)).decode()}"
    error = refused(tmp_path, f'gate.trusted_keys = ["{KEYS[0]}", "{weak}"]')
    assert (error.code, error.details["key"]) == (12, "gate.trusted_keys[1]")
    assert says in str(error)


@pytest.mark.claim("C4")
@pytest.mark.parametrize(
    "line",
    [
        "engine.heartbeat_interval_secs = 1",
        "engine.feed_silence_secs = 0",
        "execution.slippage_bps = 2.5",
        "execution.fee_rate = 0",
        "channels.tick_channel_size = 1",
        "channels.tick_channel_size = 1_000_000",
        f'gate.trusted_keys = ["{KEYS[0]}", "{KEYS[1]}"]',
        'engine.ws_url = "wss://host:443/path?stream=x"',
        "engine.run_seconds = 0.5",
    ],
)
def test_C4_the_edges_of_the_ranges_are_allowed(tmp_path: Path, line: str) -> None:
    accepted(tmp_path, line)


@pytest.mark.claim("C10")
def test_C10_each_key_in_seconds_takes_fractions(tmp_path: Path) -> None:
    contract = (Path(__file__).resolve().parents[2] / "docs" / "contract.md").read_text()
    (row,) = (line for line in contract.splitlines() if line.startswith("| `[engine]` |"))
    keys = re.findall(r"`(\w+_secs)`", row)
    assert len(keys) >= 8
    got = accepted(tmp_path, "\n".join(f"engine.{key} = 1.25" for key in keys))
    assert {key: getattr(got.engine, key) for key in keys} == dict.fromkeys(keys, 1.25)


@pytest.mark.claim("C4")
@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("engine.sampl_every = 1", "engine.sample_every"),
        ("engine.max_open_orders = 1", "risk_caps.max_open_orders"),
        ("[enginee]", "engine"),
        ("risk_caps.max_exposure = 1", "risk_caps.max_exposure_usd"),
        ('ingest_mode = "REPLAY"', "engine.ingest_mode"),
        ("engine.SAMPLE_EVERY = 1", "engine.sample_every"),
    ],
)
def test_C4_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, line: str, nearest: str) -> None:
    error = refused(tmp_path, line)
    assert f"the nearest known one is {nearest}" in str(error)
    assert error.details["nearest"] == nearest


@pytest.mark.claim("C4")
def test_C4_every_problem_is_told_at_once(tmp_path: Path) -> None:
    error = refused(tmp_path, "[engine]\nsample_every = 0\nvolume = -1\n[risk_caps]\nmax_open_orders = 0\n")
    # The first one is the message, and stands nowhere a second time.
    problems = error.details["problems"]
    assert isinstance(problems, list)
    assert len({str(error).removesuffix(" (and 2 more)"), *problems}) == 3
    assert str(error).endswith(" (and 2 more)")


@pytest.mark.claim("C4")
@pytest.mark.parametrize(("count", "listed"), [(1, 0), (2, 1), (20, 19), (21, 19), (1000, 19)])
def test_C4_of_many_mistakes_twenty_are_listed_and_all_are_counted(tmp_path: Path, count: int, listed: int) -> None:
    error = refused(tmp_path, "".join(f"key{number} = 1\n" for number in range(count)))
    assert str(error).endswith(f" (and {count - 1} more)" if count > 1 else ": unknown key")
    problems = error.details.get("problems", [])
    assert isinstance(problems, list)
    assert len(problems) == listed
    assert all(f"key{number + 1} = " in problem for number, problem in enumerate(problems))


@pytest.mark.claim("C4", "C7")
@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        (f"mode = '{'x' * 78}'", "mode", f"'{'x' * 78}'"),
        (f"mode = '{'x' * 79}'", "mode", f"'{'x' * 76}..."),
        (f"{'k' * 80} = 1", "k" * 80, "[redacted]"),
        (f"{'k' * 81} = 1", f"{'k' * 77}...", "[redacted]"),
        ("engine.sample_every = 0x" + "f" * 16, "engine.sample_every", str(2**64 - 1)),
        ("engine.sample_every = 0x1" + "0" * 16, "engine.sample_every", "an integer of 65 bits"),
        ("engine.sample_every = false", "engine.sample_every", "false"),
    ],
    ids=range(7),
)
def test_C4_C7_key_and_value_are_shown_as_far_as_one_reads_them(
    tmp_path: Path, line: str, key: str, value: str
) -> None:
    error = refused(tmp_path, line)
    assert (error.details["key"], error.details["value"]) == (key, value)
    assert f"config.toml: {key} = {value}: " in str(error)


@pytest.mark.claim("C4")
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("engine.volume = true", "engine.volume = true: should be"),
        ("engine.volume = 1979-05-27", "engine.volume = 1979-05-27: should be"),
        ("engine.volume = 07:32:00", "engine.volume = 07:32:00: should be"),
        ("engine.volume = 1979-05-27 07:32:00Z", "engine.volume = 1979-05-27T07:32:00+00:00: should be"),
        ("'' = 1", '"" = [redacted]: unknown key'),
        ('engine."a.b" = 1', 'engine."a.b" = [redacted]: unknown key'),
        ('engine."\\u001b[31m" = 1', r'engine."\u001b[31m" = [redacted]: unknown key'),
    ],
)
def test_C4_key_and_value_are_written_as_in_toml(tmp_path: Path, line: str, says: str) -> None:
    assert f"config.toml: {says}" in str(refused(tmp_path, line))


@pytest.mark.claim("C4", "C6")
def test_C4_C6_a_market_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[[source]]\nname = "a"\npriority = 1\nurl = "ws://h"\nmarkets = { "a b" = "x" }\n')
    with pytest.raises(ConfigError) as raised:
        load_sources(path)
    assert raised.value.details["key"] == 'source[0].markets."a b"'
    assert "should match pattern" in str(raised.value)


@pytest.mark.claim("C4")
def test_C4_a_syntax_error_has_line_and_column(tmp_path: Path) -> None:
    error = refused(tmp_path, 'mode = "SHADOW"\ninvalid = [toml\n')
    assert (error.details["line"], error.details["column"]) == (2, 12)


@pytest.mark.claim("C4")
@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbfmode = 'SHADOW'",
        b"mode = '\xff'",
        b"a = " + b"[" * 5000,
        b"a = 1\na = 2",
        b"x" * (1024 * 1024 + 1),
        b"engine.volume = 1" + b"0" * 5000,
        b"\x00",
    ],
)
def test_C4_what_is_no_toml_is_refused(tmp_path: Path, raw: bytes) -> None:
    refused(tmp_path, raw)


@pytest.mark.claim("C4")
def test_C4_a_directory_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load(str(tmp_path), {})


@pytest.mark.claim("C4")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_C4_any_bytes_load_or_raise_config_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(raw)
    with suppress(ConfigError):
        load(str(path), {})


@pytest.mark.claim("C4")
@pytest.mark.parametrize(
    "text",
    [
        '[engine]\napi_key = "HUSH"',
        '[engine]\nws_url = "ws://user:HUSH@host/x"',
        '[engine]\nws_url = "http://user:HUSH@host/x"',
        '[engine]\nws_url = "http://host/x?token=HUSH"',
        'secret_token = "HUSH"',
        '[vault]\npassword = "HUSH"',
        'keys = ["HUSH"]',
    ],
)
def test_C4_secrets_never_appear(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, text)
    assert "HUSH" not in str(error) + json.dumps(error.details, default=str)


def test_effective_config_is_plain_and_redacted(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[engine]\nws_url = "ws://h/x?token=HUSH"\ningest_mode = "REAL_WS"\n')
    sources = path.with_name("ws_sources.toml")
    sources.write_text('[[source]]\nname = "a"\nurl = "wss://h/y?token=HUSH"\npriority = 1\n')
    shown = json.dumps(effective(load(str(path), {})))
    assert "HUSH" not in shown
    assert "ws://h/x?[redacted, SHA-256 " in shown
    assert "wss://h/y?[redacted, SHA-256 " in shown
    # What is not shown may say which market is streamed, so that another one is not the same configuration.
    sources.write_text(sources.read_text().replace("HUSH", "SHHH"))
    assert json.dumps(effective(load(str(path), {}))) != shown
    assert redact_url("wss://u:p@h:1/x") == "wss://[redacted]@h:1/x"


GOOD = '[[source]]\nname = "a"\nurl = "ws://h"\nkind = "ticker"\npriority = 1\n'


@pytest.mark.claim("C6")
@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "source = []",
        "[source]\nname = 'a'",
        GOOD.replace("ws://h", "http://h"),
        GOOD.replace("ws://h", "ws:///x"),
        GOOD.replace('url = "ws://h"\n', ""),
        GOOD.replace('name = "a"\n', ""),
        GOOD.replace("priority = 1", 'priority = "1"'),
        GOOD + 'venue = "kraken"',
        GOOD + "colour = 3",
        GOOD + GOOD,
        "source = 3",
        "not toml",
    ],
)
def test_C6_real_ws_without_good_sources_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "ws_sources.toml").write_text(text)
    error = refused(tmp_path, '[engine]\ningest_mode = "REAL_WS"')
    assert "ws_sources.toml" in str(error)


@pytest.mark.claim("C6")
def test_C6_the_earlier_sources_file_loads_best_priority_first(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        '[[source]]\nname="gemini_btcusd"\nurl="wss://api.gemini.com/v1/marketdata/btcusd"\nkind="ticker"\npriority=99\n'
        '[[source]]\nname="binance_btcusdt"\nurl="wss://stream.binance.com:9443/ws/btcusdt@trade"\nkind="ticker"\n'
        "priority=1\n"
    )
    assert [source.name for source in load_sources(path)] == ["binance_btcusdt", "gemini_btcusd"]


@pytest.mark.claim("C6")
def test_C6_sources_are_not_looked_at_in_other_modes(tmp_path: Path) -> None:
    (tmp_path / "ws_sources.toml").write_text("not toml")
    accepted(tmp_path, "")


def test_environment_defaults_and_mistakes() -> None:
    assert read_environment({}, 7) == ("INFO", "picows", None, None)
    with pytest.raises(ConfigError, match="HYBRID_LOG"):
        read_environment({"HYBRID_LOG": "loud"}, 7)
    with pytest.raises(ConfigError, match="HYBRID_TRANSPORT"):
        read_environment({"HYBRID_TRANSPORT": "pigeon"}, 7)


@pytest.mark.claim("E5")
@pytest.mark.parametrize(
    ("variables", "secs"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "7"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
    ],
)
def test_E5_the_watchdog_is_ours_only_when_it_names_us(variables: dict[str, str], secs: float | None) -> None:
    assert read_environment(variables, 7).watchdog_secs == secs


# --- any value at any key (C7) -------------------------------------------------------------------------------

BARE = st.one_of(
    st.integers().map(str),
    st.integers(10**19, 10**400).map(str),
    st.sampled_from(
        ["9" * 5000, "0x" + "f" * 5000, "-0x1", "0x" + "f" * 20, "1e400", "-1e400", "1e308", "5e-324", "0.0"]
    ),
    st.sampled_from(["nan", "inf", "-inf", "true", "false", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z"]),
    st.floats().map(repr),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(json.dumps),
    st.sampled_from(
        ["ws://h", "ws://h:1/?a=b", "binance", "LIVE", "replay", "realws", "/", ".", "\\u0000", "x" * 5000]
    ).map(lambda text: f'"{text}"'),
)
VALUE = st.recursive(
    BARE,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(inner, max_size=3).map(
            lambda items: f"{{{', '.join(f'k{n} = {item}' for n, item in enumerate(items))}}}"
        )
        | st.integers(1, 400).map(lambda depth: "[" * depth + "]" * depth)
    ),
    max_leaves=6,
)
DOTTED_KEYS = [key for key, _ in schema.keys(Settings)]


def outcome(path: Path) -> str:
    """What becomes of a configuration: the effective one, or an error that names the key, what it is and what it may
    be. Anything else that is raised is exit 1."""
    try:
        return json.dumps(effective(load(str(path), {})), allow_nan=False)
    except ConfigError as refusal:
        error = refusal
    assert error.code == 12
    assert len(str(error)) < 2000
    json.dumps(error.details)
    if "key" in error.details:
        assert str(error.details["key"]) in str(error)
        assert error.details.get("allowed")
    return ""


@pytest.mark.claim("C7")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(DOTTED_KEYS), VALUE, min_size=1, max_size=3))
def test_C7_any_type_at_any_key_is_taken_or_refused(tmp_path: Path, values: dict[str, str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
    outcome(path)


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize(
    "value",
    ["'x'", "0x" + "f" * 5000, "-1", "1e400", "nan", "true", "1979-05-27", "07:32:00", "[]", "[[1]]", "{}"],
    ids=range(11),
)
def test_C7_each_type_at_each_key_is_taken_or_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "config.toml"
    for key in DOTTED_KEYS:
        path.write_text(f"{key} = {value}\n")
        outcome(path)


@pytest.mark.claim("C7")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(
        st.sampled_from(["name", "url", "priority", "kind", "venue", "symbol", "markets", "x"]), VALUE, max_size=4
    ),
    whole=st.booleans(),
)
def test_C7_any_type_at_any_key_of_a_source_is_taken_or_refused(
    tmp_path: Path, values: dict[str, str], whole: bool
) -> None:
    good = {"name": '"a"', "url": '"ws://h"', "priority": "1"} if whole else {}
    path = tmp_path / "s.toml"
    path.write_text("[[source]]\n" + "".join(f"{key} = {value}\n" for key, value in (good | values).items()))
    with suppress(ConfigError):
        load_sources(path)


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize(
    "text",
    [
        "a." * 400_000 + "a = 1",
        "engine." + "a." * 400_000 + "a = 1",
        "[" + "a." * 20_000 + "a]",
        "engine.x = " + "[" * 900 + "]" * 900,
        "engine.x = " + "{a = " * 300 + "1" + "}" * 300,
        "".join(f"k{number} = 1\n" for number in range(50_000)),
        f'"{"k" * 900_000}" = 1',
        f'app.symbol = "{"s" * 900_000}"',
    ],
    ids=range(8),
)
def test_C7_depth_and_size_are_refused_in_few_words(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, text)
    assert len(str(error)) + len(json.dumps(error.details)) < 10_000


def unusual(directory: Path) -> dict[str, str]:
    """Paths at which there is no file."""
    (directory / "directory").mkdir()
    os.mkfifo(directory / "pipe")
    (directory / "loop").symlink_to("loop")
    (directory / "file").touch()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(directory / "socket"))
    return {
        **{name: str(directory / name) for name in ("directory", "pipe", "loop", "socket")},
        "too long": str(directory / ("x" * 300)),
        "below a file": str(directory / "file" / "x"),
        "device": "/dev/zero",
        "memory": "/proc/self/mem",
        "empty": "",
    }


@pytest.mark.claim("C7")
def test_C7_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    for what, place in unusual(tmp_path).items():
        with pytest.raises(ConfigError):
            load(place, {})
        with pytest.raises(ConfigError):
            load("/dev/null", {"engine.ingest_mode": ("--ingest", "realws")}, place)
        for key in ("app.db_path", "engine.replay_file"):
            if what == "memory":
                # A regular file by its mode; whoever opens it refuses it.
                continue
            with pytest.raises(ConfigError, match=key):
                load("/dev/null", {"engine.ingest_mode": ("--ingest", "replay"), key: (f"--{key}", place)})


@pytest.mark.claim("C7")
@pytest.mark.parametrize("usec", ["", "-1", "1e6", "\u00b2", "\u0663", "9" * 5000, "1" + "0" * 30, " 1", "1_000"])
def test_C7_a_watchdog_time_that_is_none(usec: str) -> None:
    assert read_environment({"WATCHDOG_USEC": usec}, 7).watchdog_secs is None


@pytest.mark.claim("C7")
@given(st.text(st.characters(codec=None)))
def test_C7_any_environment_is_taken_or_refused(value: str) -> None:
    for name in ("HYBRID_LOG", "HYBRID_TRANSPORT", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        with suppress(ConfigError):
            read_environment({name: value}, 7)


@pytest.mark.claim("N18", "C6")
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ('markets = { BTCUSDT = "B" }', "source.url: missing: source 'a' needs one, or a venue with an URL of its own"),
        ('venue = "krake"\nmarkets = { BTCUSDT = "B" }', "'krake'"),
        ('venue = "kraken"', "kraken has to be told which markets"),
        ('venue = "kraken"\nmarkets = { XBTUSD = "B" }', "kraken has no market 'XBTUSD'"),
        ('venue = "kraken"\nmarkets = { "BTC/USD" = "B", XBTUSD = "C" }', "kraken has no market 'XBTUSD'"),
        ('venue = "okx"\nmarkets = { BTC-USDT = "B", ETH-USDT = "B" }', "would share positions"),
        ('venue = "okx"\nurl = "ws://ws.okx.com/ws/v5/public"\nmarkets = { BTC-USDT = "B" }', "serves wss:// only"),
        ('venue = "kraken"\nurl = "WS://ws.kraken.com/v2"\nmarkets = { "BTC/USD" = "B" }', "serves wss:// only"),
    ],
)
def test_N18_C6_a_source_that_cannot_be_subscribed_to_is_a_mistake(tmp_path: Path, source: str, says: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[engine]\ningest_mode = "REAL_WS"\n')
    path.with_name("ws_sources.toml").write_text(f'[[source]]\nname = "a"\npriority = 1\n{source}\n')
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(str(path), {})


@pytest.mark.claim("N18")
def test_N18_the_url_of_a_venue_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[engine]\ningest_mode = "REAL_WS"\n')
    path.with_name("ws_sources.toml").write_text(
        '[[source]]\nname = "a"\npriority = 1\nvenue = "Kraken"\nmarkets = { "BTC/USD" = "BTC/USD" }\n'
    )
    loaded = load(str(path), {})
    assert [source.url for source in loaded.sources] == ["wss://ws.kraken.com/v2"]
    assert loaded.warnings == ()


@pytest.mark.claim("N12", "C6")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("wss://stream.binance.com/ws/%E5%B8%81usdt@trade", None),
        ("wss://stream.binance.com/ws/\u5e01usdt@trade", "percent-encoded where it is not ASCII"),
        ("wss://stream.bin\u00e4nce.com/ws/btcusdt@trade", "written in ASCII (xn--...)"),
        ("wss://stream.binance.com/ws/btcusdt@trade x", "printable characters without spaces"),
    ],
)
def test_N12_C6_markets_in_other_scripts_have_their_names_in_urls_percent_encoded(
    tmp_path: Path, url: str, says: str | None
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[engine]\ningest_mode = "REAL_WS"\n')
    path.with_name("ws_sources.toml").write_text(
        f'[[source]]\nname = "a"\npriority = 1\nurl = "{url}"\nmarkets = {{ "\u5e01USDT" = "BI/USDT" }}\n'
    )
    if says is not None:
        with pytest.raises(ConfigError, match=re.escape(says)):
            load(str(path), {})
        return
    loaded = load(str(path), {})
    assert loaded.warnings == ()
    assert asked_markets(loaded.sources[0], "X") == {"\u5e01USDT": "BI/USDT"}


@pytest.mark.claim("C4", "C7")
@pytest.mark.parametrize("text", ["sample_every = {}", "x = [1, {}]", "start_price = {}.5", "x = 1e{}"])
def test_C4_C7_a_number_without_end_is_refused_by_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[engine]\n" + text.format("9" * 5000) + "\n")
    with pytest.raises(ConfigError, match="line 2: a number of more than 4000 digits") as refused:
        load(str(path), {})
    assert len(str(refused.value)) < 300


@pytest.mark.claim("C7")
@pytest.mark.parametrize(
    ("filler", "most", "says"),
    [
        ("x", 1024 * 1024 - 6, "larger than 1048576 bytes, so not a configuration"),
        (".", 1000, "line 2: more than 1000 dots"),
        ("9", 4000, "line 2: a number of more than 4000 digits"),
        ("_", 4000, "line 2: a number of more than 4000 digits"),
    ],
)
def test_C7_a_file_is_read_up_to_each_of_its_bounds(tmp_path: Path, filler: str, most: int, says: str) -> None:
    accepted(tmp_path, f"# 1\n#{filler * most}\n")
    assert says in str(refused(tmp_path, f"# 1\n#{filler * (most + 1)}\n"))


SOURCE = '[[source]]\nname = "a"\npriority = 1\n'
REAL_WS = 'engine.ingest_mode = "REAL_WS"\n'


@pytest.mark.claim("C4", "C6")
@pytest.mark.parametrize(
    ("config", "sources", "says", "fields"),
    [
        ("engine.sample_every = 0", None, "{config}: engine.sample_every = 0: ", {
            "key": "engine.sample_every", "value": "0", "allowed": "should be greater than or equal to 1",
        }),
        ("engine.sampel_every = 7", None, "{config}: engine.sampel_every = [redacted]: unknown key", {
            "key": "engine.sampel_every", "value": "[redacted]", "nearest": "engine.sample_every",
            "allowed": "unknown key; the nearest known one is engine.sample_every",
        }),
        ("engine = 3", None, "{config}: engine = 3: should be a table", {
            "key": "engine", "value": "3", "allowed": "should be a table",
        }),
        ("gate.trusted_keys = 3", None, "{config}: gate.trusted_keys = [redacted]: should be a list", {
            "key": "gate.trusted_keys", "value": "[redacted]", "allowed": "should be a list",
        }),
        ("app.db_path = '/dev/null'", None, "{config}: app.db_path = '/dev/null': not a regular file", {
            "key": "app.db_path", "value": "'/dev/null'", "allowed": "not a regular file",
        }),
        ("a = \n", None, "{config}: not valid TOML: Invalid value (at line 1, column 5)", {
            "line": 1, "column": 5, "error": "Invalid value (at line 1, column 5)",
        }),
        ("a = 1\nb = '\udcff'", None, "{config}: line 2: not UTF-8", {"line": 2}),
        (f"a = 1\nb = {'9' * 4001}", None, "{config}: line 2: a number of more", {"line": 2}),
        (f"a = 1\n{'b.' * 1001}c = 1", None, "{config}: line 2: more than 1000 dots", {"line": 2}),
        ("\ufeffa = 1", None, "{config}: starts with a byte order mark", {}),
        (REAL_WS, None, "{sources}: cannot be read: No such file or directory", {
            "config_path": "{sources}", "error": "No such file or directory",
        }),
        (REAL_WS, "", "{sources}: no [[source]] in it", {"config_path": "{sources}", "key": "source"}),
        (REAL_WS, SOURCE + "url = 'ws://h'\n" + SOURCE + "url = 'ws://h'", "{sources}: source.name = 'a' is used", {
            "config_path": "{sources}", "key": "source.name", "value": "a",
        }),
        (REAL_WS, '[[source]]\nname = "a"\nurl = "ws://h"', "{sources}: source[0].priority: missing", {
            "config_path": "{sources}", "key": "source[0].priority", "value": "a table", "allowed": "missing",
        }),
        (REAL_WS, SOURCE, "{sources}: source.url: missing: source 'a' needs one", {
            "config_path": "{sources}", "key": "source.url", "source": "a",
        }),
        (REAL_WS, SOURCE + "url = 'ws://ws.okx.com/x?y'\nvenue = 'okx'", "{sources}: source.url = ", {
            "config_path": "{sources}", "key": "source.url", "source": "a", "value": "ws://ws.okx.com/x?[redacted]",
        }),
        (REAL_WS, SOURCE + "url = 'wss://stream.binance.com/ws/btcusdt@trade'\nmarkets = {ETHUSDT = 'E'}",
            "{sources}: source.markets names ETHUSDT: its URL asks for BTCUSDT", {
            "config_path": "{sources}", "key": "source.markets", "source": "a", "value": "ETHUSDT",
        }),
        (REAL_WS, SOURCE + "url = 'wss://stream.binance.com/ws/btcusdt@trade'\nmarkets = {" + ", ".join(
                f"M{number:02} = 'm{number}'" for number in range(40)) + "}",
            f"{{sources}}: source.markets names {', '.join(f'M{number:02}' for number in range(40))[:80]}: its URL", {
            "config_path": "{sources}", "key": "source.markets", "source": "a",
            "value": ", ".join(f"M{number:02}" for number in range(40))[:80],
        }),
    ],
    ids=range(18),
)  # fmt: skip
def test_C4_C6_a_mistake_is_told_with_its_file_its_key_and_its_value(
    tmp_path: Path, config: str, sources: str | None, says: str, fields: dict[str, object]
) -> None:
    """In words, and in fields of their own for whoever reads the log by a program."""
    places = {"config": str(tmp_path / "config.toml"), "sources": str(tmp_path / "ws_sources.toml")}
    if sources is not None:
        (tmp_path / "ws_sources.toml").write_text(sources)
    error = refused(tmp_path, config.encode("utf-8", "surrogateescape"))
    assert str(error).startswith(says.format(**places))
    expected = {"config_path": "{config}", **fields}
    assert error.details == {
        name: value.format(**places) if isinstance(value, str) else value for name, value in expected.items()
    }


@pytest.mark.claim("N9")
@pytest.mark.parametrize("mode", ["SYNTHETIC", "REAL_WS"])
@pytest.mark.parametrize(
    ("beside", "named", "known"),
    [(False, False, ()), (True, False, ("beside",)), (False, True, ("named",)), (True, True, ("named",))],
)
def test_N9_the_sources_of_a_database_are_those_of_the_file_that_real_ws_would_read(
    tmp_path: Path, mode: str, beside: bool, named: bool, known: tuple[str, ...]
) -> None:
    path, elsewhere = tmp_path / "config.toml", tmp_path / "elsewhere.toml"
    path.write_text(f'engine.ingest_mode = "{mode}"')
    for file, name, there in ((path.with_name("ws_sources.toml"), "beside", beside), (elsewhere, "named", named)):
        if there:
            file.write_text(f'[[source]]\nname = "{name}"\nurl = "ws://h"\npriority = 1\n')
    sources = str(elsewhere) if named else None
    if mode == "REAL_WS" and not known:
        with pytest.raises(ConfigError):
            load(str(path), {}, sources)
        return
    loaded = load(str(path), {}, sources)
    assert tuple(source.name for source in known_sources(loaded, sources)) == known
    if mode == "SYNTHETIC":
        # What was named must be there.
        with pytest.raises(ConfigError, match="No such file"):
            known_sources(loaded, str(tmp_path / "nowhere.toml"))


@pytest.mark.claim("C7")
def test_C7_a_database_is_called_what_leaves_room_for_sqlites_journal(tmp_path: Path) -> None:
    """247 bytes, the whole path 504; whether or not its directories are there."""
    assert accepted(tmp_path, f"app.db_path = '{tmp_path}/{'d' * 247}'")
    assert "too long a name" in str(refused(tmp_path, f"app.db_path = '{tmp_path}/{'d' * 248}'"))
    # Two bytes each.
    two_bytes_each = "\u00e4" * 124
    assert "too long a name" in str(refused(tmp_path, f"app.db_path = '{tmp_path}/{two_bytes_each}'"))
    deep = f"{tmp_path}/{'a' * 200}/{'b' * 200}/"
    assert len(deep) < 500
    assert accepted(tmp_path, f"app.db_path = '{deep}{'d' * (504 - len(deep))}'")
    assert "too long a name" in str(refused(tmp_path, f"app.db_path = '{deep}{'d' * (505 - len(deep))}'"))


@pytest.mark.claim("C7", "M4", "E5")
@pytest.mark.parametrize(
    ("variables", "taken"),
    [
        ({}, ("INFO", "picows", None, None)),
        ({"HYBRID_LOG": "warn", "HYBRID_TRANSPORT": "WebSockets"}, ("WARN", "websockets", None, None)),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1"}, ("INFO", "picows", "/run/x", 1e-6)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "9" * 20}, ("INFO", "picows", "@x", 99999999999999.999999)),
        ({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "9" * 21}, ("INFO", "picows", None, None)),
        ({"NOTIFY_SOCKET": " ", "WATCHDOG_USEC": "00"}, ("INFO", "picows", " ", None)),
    ],
    ids=range(6),
)
def test_C7_what_the_environment_says_is_taken(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], taken: tuple[object, ...]
) -> None:
    assert read_environment(variables, 7) == taken
    for name in ("HYBRID_LOG", "HYBRID_TRANSPORT", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_environment() == taken
    assert notify_socket() == taken[2]
    # A watchdog that is another process's.
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert read_environment().watchdog_secs is None


@pytest.mark.claim("C4", "C7")
@pytest.mark.parametrize(
    ("name", "value", "shown", "allowed"),
    [
        ("HYBRID_LOG", "loud", "LOUD", ["DEBUG", "INFO", "WARN", "ERROR"]),
        ("HYBRID_TRANSPORT", "Pigeon", "pigeon", ["picows", "websockets"]),
        ("HYBRID_TRANSPORT", "x" * 81, "x" * 77 + "...", ["picows", "websockets"]),
        ("HYBRID_TRANSPORT", "token=hunter2", "token=[redacted]", ["picows", "websockets"]),
    ],
    ids=range(4),
)
def test_C4_C7_what_the_environment_may_not_say_is_told(name: str, value: str, shown: str, allowed: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        read_environment({name: value}, 7)
    assert str(refused.value) == f"environment variable {name} = {shown!r}: should be one of {', '.join(allowed)}"
    assert refused.value.details == {"key": name, "value": shown, "allowed": allowed}


@pytest.mark.claim("C4")
def test_C4_an_empty_path_is_none() -> None:
    with pytest.raises(ConfigError) as refused:
        load("", {})
    assert (str(refused.value), refused.value.details) == (
        "--config = '': should be a file path", {"key": "--config", "value": ""},
    )  # fmt: skip
    with pytest.raises(ConfigError) as refused:
        load("/dev/null", {"engine.ingest_mode": ("--ingest", "realws")}, "")
    assert (str(refused.value), refused.value.details) == (
        "--sources = '': should be a file path", {"key": "--sources", "value": ""},
    )  # fmt: skip


@pytest.mark.claim("C8")
@pytest.mark.parametrize(
    ("config", "sources", "is_learnt"),
    [
        ("engine.ws_url = 'ws://h/key/swordfish-1'", "", True),
        ('engine.ingest_mode = "REAL_WS"', "url = 'wss://h/x?token=swordfish-1'", True),
        ('engine.ingest_mode = "REAL_WS"', "url = 'wss://h/key/swordfish-1/x'", True),
        # What nobody will connect to nobody will say.
        ("", "url = 'wss://h/x?token=swordfish-1'", False),
    ],
    ids=range(4),
)
def test_C8_a_secret_in_what_was_loaded_is_shown_nowhere(
    tmp_path: Path, config: str, sources: str, is_learnt: bool
) -> None:
    redaction.forget()
    try:
        first = "[[source]]\nname = 'first'\npriority = 2\nurl = 'wss://first.example/'\n" if "url" in sources else ""
        (tmp_path / "ws_sources.toml").write_text(f"{first}[[source]]\nname = 'a'\npriority = 3\n{sources}\n")
        accepted(tmp_path, config)
        said = redaction.redact("4001 unknown key swordfish-1")
        assert said == ("4001 unknown key [redacted]" if is_learnt else "4001 unknown key swordfish-1")
    finally:
        redaction.forget()
