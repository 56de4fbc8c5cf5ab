"""config/schema.py: what a table may hold. What a whole file may hold, and what the error says: test_settings.py."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, date, datetime, time
from math import inf, nan, nextafter
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.config.schema import Engine, Gate, Settings, Source, SourcesFile, Table, keys
from proofs.fixtures import section_2

ROOT = Path(__file__).resolve().parents[2]

TABLES: dict[str, type[Table]] = {
    **{
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table)
    },
    "": Settings,
    "source": Source,
}
"""By the name of the table in a file."""

WHOLE = {"source": {"name": "a", "priority": 1}}
"""What must stand in a table."""

FIELDS = [(table, name) for table, model in TABLES.items() for name in model.model_fields]


def test_every_setting_says_what_it_is_for() -> None:
    for table in (Settings, SourcesFile):
        for key, purpose in keys(table):
            assert len(purpose) > 10, key
            assert purpose.endswith("."), key


@pytest.mark.claim("C4")
def test_C4_the_contract_names_each_key_and_its_default() -> None:
    listed = section_2.said_of_keys()
    wanted = {key for key, _ in keys(Settings) if "." in key}
    assert listed.keys() == wanted
    for key, said in listed.items():
        table, name = key.split(".")
        value = TABLES[table].model_fields[name].default
        shown = section_2.default_in(said).strip('"')
        spelled = {None: ("none",), (): ("[]",)}.get(value) or (
            str(value),
            f"{value:g}" if type(value) is float else "",
        )
        assert shown in spelled, f"{key} is {value!r}, and the contract says {said}"


@pytest.mark.claim("C4", "G0", "R6")
def test_G0_who_says_nothing_trades_nothing() -> None:
    """As the contract has it: `mode` and `live_armed` (false)."""
    assert "`live_armed` (false)" in (ROOT / "docs" / "contract.md").read_text()
    for made in (Settings(), Settings.model_validate({}), Settings.model_validate({"engine": {}})):
        assert (made.mode, made.live_armed) == ("SHADOW", False)
    # Neither switch moves the other.
    assert Settings.model_validate({"mode": "LIVE"}).live_armed is False
    assert Settings.model_validate({"live_armed": True}).mode == "SHADOW"


@pytest.mark.claim("C4")
def test_C4_keys_are_those_of_all_tables_below() -> None:
    assert dict(keys(SourcesFile)).keys() == {
        "source", *(f"source.{name}" for name in ("name", "url", "kind", "priority", "venue", "symbol", "markets"))
    }  # fmt: skip


def test_what_is_absent_has_its_default() -> None:
    assert Settings.model_validate({}) == Settings()
    assert Settings.model_validate({"engine": {"sample_every": 5}}) == Settings(engine=Engine(sample_every=5))


@pytest.mark.claim("C6")
def test_C6_what_has_no_default_is_missing() -> None:
    with pytest.raises(ValidationError) as raised:
        Source.model_validate({"name": "a"})
    assert [(error["loc"], error["type"]) for error in raised.value.errors()] == [
        (("priority",), "missing"),
    ]


def test_every_default_is_allowed() -> None:
    assert Settings.model_validate(Settings().model_dump()) == Settings()


@pytest.mark.parametrize("table", TABLES)
def test_what_was_read_is_not_changed_afterwards(table: str) -> None:
    made = TABLES[table].model_validate(WHOLE.get(table, {}))
    for name in TABLES[table].model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(made, name, getattr(made, name))


@pytest.mark.claim("C8")
def test_C8_an_error_that_nobody_words_shows_no_value() -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"gate": {"trusted_keys": ["HUSH"]}, "engine": {"api_key": "HUSH", "ws_url": "HUSH"}})
    assert len(raised.value.errors()) == 3
    assert "HUSH" not in str(raised.value)
    assert "HUSH" not in repr(raised.value)


# --- any value at any key -------------------------------------------------------------------------------------

HUGE = st.sampled_from([2**63, -(2**63) - 1, 10**400, -(10**4000)])
MOMENTS = st.dates() | st.times() | st.datetimes() | st.datetimes(timezones=st.just(UTC))
BARE = st.none() | st.booleans() | st.integers() | HUGE | st.floats() | st.text(max_size=5) | MOMENTS
ANYTHING = st.recursive(
    BARE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PLAUSIBLE = st.sampled_from(
    ["ws://h", "wss://h:1/p", "live", "PAPER", "replay", "mockws", "periodic", "sma_crossover", "kraken", "a/b.db", "x"]
) | st.integers(1, 60_000)
MARKETS = st.dictionaries(st.sampled_from(["BTCUSDT", "BTC/USD"]), PLAUSIBLE | BARE, max_size=2)


@pytest.mark.claim("C4")
@given(st.dictionaries(st.sampled_from([key for key, _ in keys(Settings) if "." not in key]), ANYTHING))
def test_C4_any_table_is_made_or_refused(table: dict[str, Any]) -> None:
    with suppress(ValidationError):
        assert isinstance(Settings.model_validate(table), Settings)


def as_read(name: str, value: object) -> object:
    """What a table has under `name` when `value` was taken: itself, but for lists, and for names in any case."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict) and name != "markets":
        return TABLES[name].model_validate(value)
    if isinstance(value, str) and name in ("mode", "ingest_mode"):
        return {"MOCKWS": "MOCK_WS", "REALWS": "REAL_WS"}.get(value.upper(), value.upper())
    return value


@pytest.mark.claim("C4")
@given(field=st.sampled_from(FIELDS), value=ANYTHING | PLAUSIBLE | MARKETS)
def test_C4_what_is_taken_is_neither_converted_nor_lost(field: tuple[str, str], value: Any) -> None:
    """A number for a text, a 1 for true, 1.0 for 1, a text for a number: none is taken. A whole number may stand for
    another, since nobody writes 1.0 seconds."""
    table, name = field
    with suppress(ValidationError):
        made = TABLES[table].model_validate(WHOLE.get(table, {}) | {name: value})
        got = getattr(made, name)
        assert got == as_read(name, value)
        assert type(got) is type(as_read(name, value)) or (type(got), type(value)) == (float, int)
        assert got not in (inf, -inf)
        assert TABLES[table].model_validate(made.model_dump()) == made


NO_TABLE = [
    True,
    1,
    1.5,
    inf,
    nan,
    10**400,
    "x",
    date(2000, 1, 1),
    time(7, 32),
    datetime(2000, 1, 1, tzinfo=UTC),
    [],
    [{}],
]


@pytest.mark.claim("C4")
def test_C4_no_key_takes_a_type_that_is_not_its_own() -> None:
    """Each key refuses all but one of: truth, whole number, number, text, date, time, moment, list, table; and any
    number that is none or too large."""
    samples: list[Any] = [
        True,
        7,
        7.5,
        "x",
        date(2000, 1, 1),
        time(7, 32),
        datetime(2000, 1, 1, tzinfo=UTC),
        [7],
        {"a": 7},
    ]
    for table, name in FIELDS:
        taken = set()
        for sample in samples:
            with suppress(ValidationError):
                TABLES[table].model_validate(WHOLE.get(table, {}) | {name: sample})
                taken.add(type(sample))
        for number in (inf, -inf, nan, 10**400, -(10**400)):
            with pytest.raises(ValidationError):
                TABLES[table].model_validate(WHOLE.get(table, {}) | {name: number})
        assert taken in (set(), {bool}, {int}, {int, float}, {str}), f"{table}.{name} takes {taken}"
    for table in TABLES.keys() - {"", "source"}:
        for value in NO_TABLE:
            with pytest.raises(ValidationError) as raised:
                Settings.model_validate({table: value})
            assert [error["loc"] for error in raised.value.errors()] == [(table,)]


DECADE = 10 * 365 * 86_400
RANGES: dict[str, tuple[str, ...]] = {
    f"[0.001, {DECADE}]": (
        "engine.heartbeat_interval_secs", "engine.keepalive_secs", "engine.pong_timeout_secs",
        "engine.max_backoff_secs", "engine.max_retry_after_secs", "engine.subscribe_timeout_secs",
        "engine.network_give_up_secs", "engine.shutdown_timeout_secs", "dashboard.refresh_seconds",
    ),
    f"[1, {DECADE * 1000}]": (
        "engine.tick_interval_ms", "engine.max_staleness_ms", "engine.overload_grace_ms", "persist.flush_interval_ms",
    ),
    "[1, 1_000_000_000]": (
        "engine.signal_every_n_ticks", "engine.sample_every", "engine.parse_error_limit", "risk_caps.max_open_orders",
        "persist.batch_size",
    ),
    "[1, 1_000_000]": (
        "channels.tick_channel_size", "channels.signal_channel_size", "channels.persist_channel_size",
        "strategy.sma_short",
    ),
    f"(0, {DECADE}]": ("engine.run_seconds",),
    f"[0, {DECADE}]": ("engine.feed_silence_secs",),
    "(0, inf)": ("engine.start_price", "risk_caps.max_exposure_usd", "risk_caps.max_symbol_exposure_usd"),
    "[0, inf)": ("engine.price_step", "engine.volume"),
    "[1, 60_000]": ("engine.max_connects_per_minute",),
    "[2, 1_000_000]": ("strategy.sma_long",),
    "[0, 1]": ("execution.fee_rate",),
    "[0, 10_000)": ("execution.slippage_bps",),
    "(0, 1_000_000_000_000]": ("execution.order_size",),
    "[1000, 600_000]": ("persist.busy_timeout_ms",),
    "(0, 87_600]": ("gate.max_age_hours",),
    "[1, 65_535]": ("dashboard.port",),
    "[0, 1_000_000]": ("source.priority",),
}  # fmt: skip
"""What each number may be: written here a second time, since what is refused tomorrow is in somebody's file today."""


@pytest.mark.claim("C4")
@pytest.mark.parametrize("span", RANGES)
def test_C4_each_number_is_taken_within_its_range_and_no_further(span: str) -> None:
    """At each end: what is the last to be taken, and the number next to it."""
    # The two that are also held against each other.
    rest = {"sma_short": {"sma_long": 1_000_000}, "sma_long": {"sma_short": 1}}
    ends = span[1:-1].split(", ")
    for key in RANGES[span]:
        table, name = key.split(".")
        data = WHOLE.get(table, {}) | rest.get(name, {})
        annotated = TABLES[table].model_fields[name].annotation
        for end, inclusive, outward in ((ends[0], span[0] == "[", -1), (ends[1], span[-1] == "]", 1)):
            taken: float
            if annotated is int:
                refused: float = int(end) + outward
                taken = int(end)
            elif inclusive:
                refused, taken = nextafter(float(end), outward * inf), float(end)
            else:
                refused, taken = float(end), nextafter(float(end), -outward * inf)
            if name == "sma_short" and outward > 0:
                # It is less than the other, whose range ends here too.
                taken -= 1
            with pytest.raises(ValidationError) as raised:
                TABLES[table].model_validate(data | {name: refused})
            assert [error["loc"] for error in raised.value.errors()] == [(name,)], f"{key} = {refused}"
            assert getattr(TABLES[table].model_validate(data | {name: taken}), name) == taken


def test_each_number_has_its_range() -> None:
    numbers = {
        f"{table}.{name}" for table, name in FIELDS
        if set(get_args(TABLES[table].model_fields[name].annotation) or [TABLES[table].model_fields[name].annotation])
        & {int, float}
    }  # fmt: skip
    listed = [key for found in RANGES.values() for key in found]
    assert len(set(listed)) == len(listed)
    assert set(listed) == numbers


@pytest.mark.claim("C4")
@pytest.mark.parametrize("field", ["app.symbol", "dashboard.host", "source.name", "source.kind", "source.symbol"])
def test_C4_a_name_is_of_1_to_128_characters_that_can_be_seen(field: str) -> None:
    table, name = field.split(".")
    for value in ("x", "x" * 128, "a b", "\x80", "\u5e01" * 128):
        assert getattr(TABLES[table].model_validate(WHOLE.get(table, {}) | {name: value}), name) == value
    for value in ("", "x" * 129, "\0", "a\x1f", "\x7fb", "a\n"):
        with pytest.raises(ValidationError):
            TABLES[table].model_validate(WHOLE.get(table, {}) | {name: value})


@pytest.mark.claim("C4")
@pytest.mark.parametrize(
    ("markets", "are_taken"),
    [
        ({"A": "B"}, True),
        ({"BTC-USD_1.x/y": "B"}, True),
        ({"\u5e01USDT": "B"}, True),
        ({"A" * 128: "B" * 128}, True),
        ({f"M{number}": "B" for number in range(1024)}, True),
        ({}, False),
        ({"": "B"}, False),
        ({"A B": "B"}, False),
        ({"A@trade": "B"}, False),
        ({"A" * 129: "B"}, False),
        ({"A": "B" * 129}, False),
        ({"A": ""}, False),
        ({f"M{number}": "B" for number in range(1025)}, False),
    ],
    ids=range(13),
)
def test_C4_markets_are_of_1_to_1024_names(markets: dict[str, str], are_taken: bool) -> None:
    table = {"name": "a", "priority": 1, "markets": markets}
    if are_taken:
        assert Source.model_validate(table).markets == markets
    else:
        with pytest.raises(ValidationError):
            Source.model_validate(table)


@pytest.mark.claim("O12")
@pytest.mark.parametrize(
    ("names", "are_taken"),
    [
        (["", "a", "Z", "9", "a-b_c", "a" * 32, "defaults"], True),
        (["default", "-a", "_a", "a" * 33, "a.b", "a b", "a/b", "\u00e4", "a\n"], False),
    ],
)
def test_O12_an_instance_is_called_what_a_unit_can_be_called(names: list[str], are_taken: bool) -> None:
    for name in names:
        if are_taken:
            assert Settings.model_validate({"app": {"instance": name}}).app.instance == name
        else:
            with pytest.raises(ValidationError):
                Settings.model_validate({"app": {"instance": name}})


LABEL = "a" * 63


@pytest.mark.claim("C4", "C6")
@pytest.mark.parametrize(
    "url",
    [
        "ws://h",
        "wss://h.example.",
        "wss://h:1/~!*'();:@&=+$,/?a=b",
        "wss://h:65535",
        "WSS://H",
        "ws://[::1]:9001",
        "ws://[fe80::1%eth0]:9001",
        "ws://mock_exchange.test-net.:9001",
        f"wss://{LABEL}.com",
        f"wss://{LABEL}.{LABEL}.{LABEL}.{'a' * 61}",
    ],
)
def test_C4_C6_a_url_that_can_be_one_is_taken(url: str) -> None:
    assert Engine.model_validate({"ws_url": url}).ws_url == url
    assert Source.model_validate({"name": "a", "priority": 1, "url": url}).url == url


@pytest.mark.claim("C4", "C6")
@pytest.mark.parametrize(
    ("urls", "says"),
    [
        (["ws://h:65536", "ws://h:x", "ws://[::1"], "its port a number up to 65535"),
        (["http://h", "h", "", "ws://", "ws:///x", "ws://:1", "ws://h:0"], "with a host, such as ws://localhost:9001"),
        (
            ["ws://a..b", "ws://.a", "ws://a.com..", f"ws://{LABEL}a.com", f"ws://{LABEL}.{LABEL}.{LABEL}.{'a' * 62}"],
            "parts of 1 to 63 characters (RFC 1035)",
        ),
        (["ws://h/ x", "ws://h/\x01", "ws://h/x\x7f"], "printable characters without spaces"),
        (["ws://b\u00fccher.example"], "host is written in ASCII (xn--...)"),
        (["wss://h;9443/ws", "ws://h\\x", "ws://ex*mple.com", "ws://h%41"], "letters, digits, `.`, `-` and `_`"),
        (["ws://h/\u5e01"], "percent-encoded where it is not ASCII"),
        (["ws://u@h", "ws://:p@h", "ws://u:p@h"], "without user name and password"),
        (["ws://h/#x"], "without a #fragment"),
    ],
)
def test_C4_C6_a_url_that_cannot_be_one_is_refused_with_the_reason(urls: list[str], says: str) -> None:
    for url in urls:
        for model, table in ((Engine, {"ws_url": url}), (Source, {"name": "a", "priority": 1, "url": url})):
            with pytest.raises(ValidationError, match=re.escape(says)):
                model.model_validate(table)


def test_two_keys_of_one_table_are_held_against_each_other() -> None:
    key = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    with pytest.raises(ValidationError, match="each key once"):
        Gate.model_validate({"trusted_keys": [key, key]})
    with pytest.raises(ValidationError, match=r"sma_short \(20\) should be less than sma_long \(20\)"):
        Settings.model_validate({"strategy": {"sma_short": 20}})


def test_a_later_pydantic_finds_what_it_wants_of_its_loader_of_plugins() -> None:
    """Only `get_plugins` is ours, and gives none."""
    script = (
        "import engine.config, pydantic\n"
        "from pydantic.plugin._loader import get_plugins\n"
        "assert get_plugins() == ()\n"
        "from pydantic.plugin._loader import PYDANTIC_ENTRY_POINT_GROUP\n"
        "assert PYDANTIC_ENTRY_POINT_GROUP\n"
        "try:\n"
        "    from pydantic.plugin._loader import nothing_of_this_name\n"
        "except ImportError:\n"
        "    print('as ever')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout == "as ever\n", done.stderr
