"""What a configuration may hold: names, types, ranges, defaults (contract section 2, C4). Pure.

Each table is a frozen struct. A field's annotation carries what is allowed, as a schema of pydantic's validator, and
what the field is for; its default is the struct's. `pydantic_core` is the half of pydantic that validates: without the
half that makes models, an engine starts in two thirds of the time (docs/decisions/0002-configuration.md).
"""

# Annotations are evaluated, because they are the schema: no `from __future__ import annotations` here.
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from pydantic_core import SchemaValidator
from pydantic_core import core_schema as core

from engine.ingest.venues import registry

# Ten years: longer waits overflow the timers of some event loops, and mean a typo anyway.
_MAX_SECS: Final = 10 * 365 * 86_400

ModeName = Literal["SHADOW", "PAPER", "LIVE"]
IngestMode = Literal["SYNTHETIC", "REPLAY", "MOCK_WS", "REAL_WS"]
MODES: Final[tuple[str, ...]] = get_args(ModeName)
INGEST_MODES: Final[tuple[str, ...]] = get_args(IngestMode)


_STRICT: Final = core.CoreConfig(strict=True, allow_inf_nan=False)


def upper(name: str) -> str:
    """`name` in upper case where it is ASCII. Of other letters str.upper makes ours: LIVE of "l\u0131ve"."""
    return name.upper() if name.isascii() else name


def _mode(value: object) -> object:
    """Any case is accepted; what is no mode is left as it came, for the error to show."""
    return upper(value) if isinstance(value, str) and upper(value) in MODES else value


def _ingest_mode(value: object) -> object:
    # The flag spells them without the underscore (contract section 1), the file with it (section 2).
    short_forms = {"MOCKWS": "MOCK_WS", "REALWS": "REAL_WS"}
    if not isinstance(value, str):
        return value
    name = short_forms.get(upper(value), upper(value))
    return name if name in INGEST_MODES else value


def _ws_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        # Its text quotes what it takes for the port, which may be a password.
        raise ValueError("should be a ws:// or wss:// URL, its port a number up to 65535") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname or port == 0:
        raise ValueError("should be a ws:// or wss:// URL with a host, such as ws://localhost:9001")
    labels = parts.hostname.removesuffix(".").split(".")
    if len(parts.hostname) > 253 or not all(1 <= len(label) <= 63 for label in labels):
        raise ValueError("should be a URL whose host can have an address: parts of 1 to 63 characters (RFC 1035)")
    if any(ord(char) <= 32 or ord(char) > 126 for char in value):
        raise ValueError("should be a URL of printable ASCII characters without spaces")
    if parts.username is not None or parts.password is not None:
        raise ValueError("should be a URL without user name and password: market data needs none")
    if parts.fragment:
        raise ValueError("should be a URL without a #fragment (RFC 6455 section 3)")
    return value


def _path(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("should be a file path")
    if value == ":memory:":
        raise ValueError("should be a file path: a database in memory would lose every tick at exit")
    return value


def _venue(value: str) -> str:
    return registry.find(value).name


def _trusted_key(value: str) -> str:
    # The base64 of 32 bytes, and the one spelling of it: the last character has two bits to spare.
    if not re.fullmatch(r"ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", value):
        raise ValueError("should be a public key as `python -m harness bundle keygen` prints it: ed25519:, then base64")
    # Imported only here, for most starts trust nobody.
    from base64 import b64decode

    from engine.base import ed25519

    weak = ed25519.weakness(b64decode(value.removeprefix("ed25519:")))
    if weak:
        raise ValueError(f"should be a public key of prime order, as key generators make them; it {weak}")
    return value


_NAME: Final = core.str_schema(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")
_MARKETS: Final = core.dict_schema(
    core.str_schema(max_length=128, pattern=r"^[A-Za-z0-9_.\-/]+$"), _NAME, min_length=1, max_length=1024
)
_PATH: Final = core.no_info_after_validator_function(_path, core.str_schema())
_TRUSTED_KEY: Final = core.no_info_after_validator_function(_trusted_key, core.str_schema())
_WS_URL: Final = core.no_info_after_validator_function(_ws_url, core.str_schema())
_MODE: Final = core.no_info_before_validator_function(_mode, core.literal_schema(list(MODES)))
_INGEST_MODE: Final = core.no_info_before_validator_function(_ingest_mode, core.literal_schema(list(INGEST_MODES)))
_VENUE: Final = core.no_info_after_validator_function(_venue, core.str_schema(max_length=128))

Name = Annotated[str, _NAME]
FilePath = Annotated[str, _PATH]
WsUrl = Annotated[str, _WS_URL]
# At least a millisecond: what is done again and again after less is all that would be done.
Secs = Annotated[float, core.float_schema(ge=0.001, le=_MAX_SECS)]
Millis = Annotated[int, core.int_schema(ge=1, le=_MAX_SECS * 1000)]
Count = Annotated[int, core.int_schema(ge=1, le=1_000_000_000)]
ChannelSize = Annotated[int, core.int_schema(ge=1, le=1_000_000)]


class Table(msgspec.Struct, frozen=True):
    """One table of a file."""

    def check(self) -> None:
        """What the fields must be together. Raises ValueError, which says so."""


def validator(table: type[Table]) -> SchemaValidator:
    """What makes a `table` of plain data, or raises pydantic_core.ValidationError. Strict: nothing is converted."""
    return SchemaValidator(_table(table))


def _table(table: type[Table]) -> core.CoreSchema:
    # A field that is absent is left to the struct, which has the default.
    fields = {
        field.name: core.typed_dict_field(_rule(field.type), required=field.required)
        for field in msgspec.structs.fields(table)
    }

    def make(values: dict[str, Any]) -> Table:
        made = table(**values)
        made.check()
        return made

    rules = core.typed_dict_schema(fields, extra_behavior="forbid", config=_STRICT)
    return core.no_info_after_validator_function(make, rules)


def _rule(annotation: Any) -> core.CoreSchema:
    """The schema in a field's annotation; that of a table is made of its fields'."""
    bare, rule, *_ = get_args(annotation)
    return _table(bare) if isinstance(bare, type) and issubclass(bare, Table) else rule


def keys(table: type[Table], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key that may stand in a `table`, dotted, with what it is for; tables themselves included."""
    for field in msgspec.structs.fields(table):
        bare, *_, purpose = get_args(field.type)
        yield prefix + field.name, purpose
        inner = get_args(bare)[0] if get_args(bare) else bare
        if isinstance(inner, type) and issubclass(inner, Table):
            yield from keys(inner, f"{prefix}{field.name}.")


class App(Table, frozen=True):
    """`[app]`: what is traded and where it is stored."""

    symbol: Annotated[Name, "What the ticks are called where a source names no symbol."] = "SOL/USDC"
    db_path: Annotated[FilePath, "SQLite database, relative to the working directory."] = "data/bot.db"


class Engine(Table, frozen=True):
    """`[engine]`: ingest and the life of the process."""

    ingest_mode: Annotated[IngestMode, _INGEST_MODE, "Where ticks come from."] = "SYNTHETIC"
    tick_interval_ms: Annotated[Millis, "SYNTHETIC: time between two ticks."] = 500
    signal_every_n_ticks: Annotated[Count, "Strategy `periodic`: a signal every so many ticks."] = 10
    heartbeat_interval_secs: Annotated[Secs, "Time between two HEARTBEAT (G4) lines."] = 10.0
    run_seconds: Annotated[
        float | None,
        core.nullable_schema(core.float_schema(gt=0, le=_MAX_SECS)),
        "Stop with exit 0 after so long; absent: run on.",
    ] = None
    ws_url: Annotated[WsUrl, "MOCK_WS: the one URL that is connected to."] = "ws://localhost:9001"
    sample_every: Annotated[Count, "Process every Nth new tick (N7)."] = 1
    replay_file: Annotated[
        str | None, core.nullable_schema(_PATH), "REPLAY: JSONL file of ticks; absent: the ticks in the database."
    ] = None
    start_price: Annotated[float, core.float_schema(gt=0), "SYNTHETIC: price the walk starts from."] = 100.0
    price_step: Annotated[float, core.float_schema(ge=0), "SYNTHETIC: size of one step of the walk."] = 0.05
    volume: Annotated[float, core.float_schema(ge=0), "SYNTHETIC: volume of each tick."] = 1.0
    max_staleness_ms: Annotated[Millis, "A signal on an older tick is vetoed (R2)."] = 5000
    keepalive_secs: Annotated[Secs, "Ping after so long without anything received (N6)."] = 10.0
    pong_timeout_secs: Annotated[Secs, "Reconnect when a ping is unanswered for so long (N6)."] = 10.0
    feed_silence_secs: Annotated[
        float,
        core.float_schema(ge=0, le=_MAX_SECS),
        "Move on from a source without a new tick for so long; 0: never (N6).",
    ] = 120.0
    max_backoff_secs: Annotated[Secs, "Longest delay between two attempts at a source (N5)."] = 30.0
    max_retry_after_secs: Annotated[Secs, "Longest that HTTP 429 or 418 keeps us away from a venue (N5)."] = 3600.0
    max_connects_per_minute: Annotated[
        int, core.int_schema(ge=1, le=60_000), "How often one host is contacted in any minute (N15)."
    ] = 10
    subscribe_timeout_secs: Annotated[Secs, "How long a venue may take to acknowledge a subscription (N18)."] = 10.0
    network_give_up_secs: Annotated[Secs, "Exit 10 after so long without any connection."] = 120.0
    parse_error_limit: Annotated[Count, "Exit 11 after so many unusable messages in a row (N8)."] = 100
    overload_grace_ms: Annotated[Millis, "Exit 13 when a channel is full for longer (B2)."] = 250
    shutdown_timeout_secs: Annotated[Secs, "Longest time a stop may take to write what is queued."] = 5.0


class StrategyTable(Table, frozen=True):
    """`[strategy]`: when to trade."""

    name: Annotated[
        Literal["periodic", "sma_crossover"],
        core.literal_schema(["periodic", "sma_crossover"]),
        "Which strategy runs (R1).",
    ] = "periodic"
    sma_short: Annotated[int, core.int_schema(ge=1, le=1_000_000), "sma_crossover: ticks in the short average."] = 5
    sma_long: Annotated[int, core.int_schema(ge=2, le=1_000_000), "sma_crossover: ticks in the long average."] = 20

    def check(self) -> None:
        if self.sma_short >= self.sma_long:
            raise ValueError(f"sma_short ({self.sma_short}) should be less than sma_long ({self.sma_long})")


class Execution(Table, frozen=True):
    """`[execution]`: what an order costs."""

    fee_rate: Annotated[float, core.float_schema(ge=0, le=1), "Fees as a fraction of an order's notional value."] = (
        0.001
    )
    slippage_bps: Annotated[float, core.float_schema(ge=0, lt=10_000), "Price moved against us, in basis points."] = 0.0
    order_size: Annotated[float, core.float_schema(gt=0, le=1e12), "Quantity of each signal, in the base asset."] = 0.1


class RiskCaps(Table, frozen=True):
    """`[risk_caps]`: what an order may not exceed."""

    max_exposure_usd: Annotated[float, core.float_schema(gt=0), "Cap on the exposure of all symbols together (R3)."] = (
        10_000.0
    )
    max_symbol_exposure_usd: Annotated[float, core.float_schema(gt=0), "Cap on the exposure of one symbol (R3)."] = (
        5_000.0
    )
    max_open_orders: Annotated[Count, "Cap on orders that are neither filled nor ended (R3)."] = 10


class Channels(Table, frozen=True):
    """`[channels]`: how much may wait between stages."""

    tick_channel_size: Annotated[ChannelSize, "Ticks between ingest and strategy."] = 256
    signal_channel_size: Annotated[ChannelSize, "Signals between strategy and execution."] = 64
    persist_channel_size: Annotated[ChannelSize, "Rows between the pipeline and the writer."] = 512


class Persist(Table, frozen=True):
    """`[persist]`: when rows go to disk."""

    batch_size: Annotated[Count, "Flush as soon as so many rows wait."] = 200
    flush_interval_ms: Annotated[Millis, "Flush when the oldest row has waited so long."] = 1000
    busy_timeout_ms: Annotated[
        int, core.int_schema(ge=1000, le=600_000), "How long one attempt waits for a locked database (D1)."
    ] = 5000


class Gate(Table, frozen=True):
    """`[gate]`: what opens LIVE."""

    proof_bundle: Annotated[FilePath, "Signed proof bundle that LIVE needs."] = "data/proof_bundle.json"
    # Not strict in this one field: TOML has lists, not tuples. The strings in it stay strings.
    trusted_keys: Annotated[
        tuple[str, ...], core.tuple_variable_schema(_TRUSTED_KEY, strict=False), "Ed25519 public keys that may sign it."
    ] = ()
    max_age_hours: Annotated[float, core.float_schema(gt=0, le=87_600), "A bundle older than this does not count."] = (
        24.0
    )

    def check(self) -> None:
        if len(set(self.trusted_keys)) != len(self.trusted_keys):
            raise ValueError("trusted_keys should have each key once")


class Dashboard(Table, frozen=True):
    """`[dashboard]`: the status page, of which the engine only checks the settings."""

    host: Annotated[Name, "Address the dashboard listens on."] = "127.0.0.1"
    port: Annotated[int, core.int_schema(ge=1, le=65_535), "TCP port the dashboard listens on."] = 8501
    refresh_seconds: Annotated[Secs, "Time between two refreshes of the page."] = 1.0


class Settings(Table, frozen=True):
    """The effective configuration: built-in defaults, overridden by the file, overridden by flags."""

    mode: Annotated[ModeName, _MODE, "What the engine may do with an order."] = "SHADOW"
    live_armed: Annotated[bool, core.bool_schema(), "Second switch that LIVE needs beside mode (R6)."] = False
    app: Annotated[App, "What is traded and where it is stored."] = msgspec.field(default_factory=App)
    engine: Annotated[Engine, "Ingest and the life of the process."] = msgspec.field(default_factory=Engine)
    strategy: Annotated[StrategyTable, "When to trade."] = msgspec.field(default_factory=StrategyTable)
    execution: Annotated[Execution, "What an order costs."] = msgspec.field(default_factory=Execution)
    risk_caps: Annotated[RiskCaps, "What an order may not exceed."] = msgspec.field(default_factory=RiskCaps)
    channels: Annotated[Channels, "How much may wait between stages."] = msgspec.field(default_factory=Channels)
    persist: Annotated[Persist, "When rows go to disk."] = msgspec.field(default_factory=Persist)
    gate: Annotated[Gate, "What opens LIVE."] = msgspec.field(default_factory=Gate)
    dashboard: Annotated[Dashboard, "The status page."] = msgspec.field(default_factory=Dashboard)


class Source(Table, frozen=True):
    """One `[[source]]` of the sources file (C6)."""

    name: Annotated[Name, "Name of the source; stored with its ticks, so unique."]
    priority: Annotated[int, core.int_schema(ge=0, le=1_000_000), "Lower is tried first; equal ones in file order."]
    url: Annotated[WsUrl, "ws:// or wss:// URL; absent: the venue's own."] = ""
    kind: Annotated[Name, "`aggTrade` where Binance is to be sent a SUBSCRIBE for those; else a mere label."] = "trade"
    venue: Annotated[
        str | None,
        core.nullable_schema(_VENUE),
        "Whose messages these are (`hybrid-engine venues`); inferred from the URL when absent.",
    ] = None
    symbol: Annotated[
        str | None, core.nullable_schema(_NAME), "What its ticks are called; default [app] symbol (N10)."
    ] = None
    markets: Annotated[
        dict[str, str] | None,
        core.nullable_schema(_MARKETS),
        "Market, as the venue writes it -> what its ticks are called; absent: the URL's market (N12).",
    ] = None


class SourcesFile(Table, frozen=True):
    """The sources file (C6)."""

    source: Annotated[
        tuple[Source, ...], core.tuple_variable_schema(_table(Source), strict=False), "Where to get ticks."
    ]
