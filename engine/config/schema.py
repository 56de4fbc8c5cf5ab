"""What a configuration may hold: names, types, ranges, defaults (contract section 2, C4). Pure.

Each table is a pydantic model. A field says all there is to a key: its type and range, its default, what it is for.
"""

# Annotations are evaluated, because pydantic reads them: text would first have to be evaluated, which each start pays.
import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from engine.ingest.venues import registry

MARKETS_MAX: Final = 1024
"""Markets of one source."""

# Ten years: longer waits overflow the timers of some event loops, and mean a typo anyway.
_MAX_SECS: Final = 10 * 365 * 86_400

_ModeName = Literal["SHADOW", "PAPER", "LIVE"]
_IngestModeName = Literal["SYNTHETIC", "REPLAY", "MOCK_WS", "REAL_WS"]
MODES: Final[tuple[str, ...]] = get_args(_ModeName)
INGEST_MODES: Final[tuple[str, ...]] = get_args(_IngestModeName)


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
    if any(ord(char) <= 32 or ord(char) == 127 for char in value):
        raise ValueError("should be a URL of printable characters without spaces")
    if not parts.hostname.isascii():
        raise ValueError("should be a URL whose host is written in ASCII (xn--...)")
    if ":" not in parts.hostname and not re.fullmatch(r"[\w.-]+", parts.hostname):
        raise ValueError("should be a URL whose host has letters, digits, `.`, `-` and `_` (RFC 952)")
    if not value.isascii():
        raise ValueError("should be a URL that is percent-encoded where it is not ASCII, such as %E5%B8%81 for \u5e01")
    if parts.username is not None or parts.password is not None:
        raise ValueError("should be a URL without user name and password, since market data needs none")
    if parts.fragment:
        raise ValueError("should be a URL without a #fragment (RFC 6455 section 3)")
    return value


def _path(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("should be a file path")
    if value == ":memory:":
        raise ValueError("should be a file path: a database in memory would lose every tick at exit")
    return value


def _instance(value: str) -> str:
    if value == "default" or not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_-]{0,31})?", value):
        raise ValueError(
            "should be 1 to 32 of A-Z a-z 0-9 _ -, the first a letter or a digit, and not `default`, which is what the"
            " engine without a name is called"
        )
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


Mode = Annotated[_ModeName, BeforeValidator(_mode)]
IngestMode = Annotated[_IngestModeName, BeforeValidator(_ingest_mode)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
MarketName = Annotated[str, Field(max_length=128, pattern=r"^[\w.\-/]+$")]
InstanceName = Annotated[str, AfterValidator(_instance)]
VenueName = Annotated[str, Field(max_length=128), AfterValidator(_venue)]
FilePath = Annotated[str, AfterValidator(_path)]
WsUrl = Annotated[str, AfterValidator(_ws_url)]
TrustedKey = Annotated[str, AfterValidator(_trusted_key)]
# At least a millisecond: what is done again and again after less is all that would be done.
Secs = Annotated[float, Field(ge=0.001, le=_MAX_SECS)]
Millis = Annotated[int, Field(ge=1, le=_MAX_SECS * 1000)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
ChannelSize = Annotated[int, Field(ge=1, le=1_000_000)]


class Table(BaseModel):
    """One table of a file."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # One validator a file, not one a table: building them is most of what a start pays here.
        defer_build=True,
        # A ValidationError that went astray would show what may be a secret (C8).
        hide_input_in_errors=True,
    )


def keys(table: type[Table], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key that may stand in a `table`, dotted, with what it is for; tables themselves included."""
    for name, field in table.model_fields.items():
        yield prefix + name, field.description or ""
        inner = next(iter(get_args(field.annotation)), field.annotation)
        if isinstance(inner, type) and issubclass(inner, Table):
            yield from keys(inner, f"{prefix}{name}.")


class App(Table):
    """`[app]`: who this is, what is traded and where it is stored."""

    instance: InstanceName = Field(
        default="", description="What this engine is called in a fleet; default: its template unit's instance (O9)."
    )
    symbol: Name = Field(default="SOL/USDC", description="What the ticks are called where a source names no symbol.")
    db_path: FilePath = Field(default="data/bot.db", description="SQLite database, relative to the working directory.")


class Engine(Table):
    """`[engine]`: ingest and the life of the process."""

    ingest_mode: IngestMode = Field(default="SYNTHETIC", description="Where ticks come from.")
    tick_interval_ms: Millis = Field(default=500, description="SYNTHETIC: time between two ticks.")
    signal_every_n_ticks: Count = Field(default=10, description="Strategy `periodic`: a signal every so many ticks.")
    heartbeat_interval_secs: Secs = Field(default=10.0, description="Time between two HEARTBEAT (G4) lines.")
    run_seconds: float | None = Field(
        default=None, gt=0, le=_MAX_SECS, description="Stop with exit 0 after so long; absent: run on."
    )
    ws_url: WsUrl = Field(default="ws://localhost:9001", description="MOCK_WS: the one URL that is connected to.")
    sample_every: Count = Field(default=1, description="Process every Nth new tick (N7).")
    replay_file: FilePath | None = Field(
        default=None, description="REPLAY: JSONL file of ticks; absent: the ticks in the database."
    )
    start_price: float = Field(default=100.0, gt=0, description="SYNTHETIC: price the walk starts from.")
    price_step: float = Field(default=0.05, ge=0, description="SYNTHETIC: size of one step of the walk.")
    volume: float = Field(default=1.0, ge=0, description="SYNTHETIC: volume of each tick.")
    max_staleness_ms: Millis = Field(default=5000, description="A signal on an older tick is vetoed (R2).")
    keepalive_secs: Secs = Field(default=10.0, description="Ping after so long without anything received (N6).")
    pong_timeout_secs: Secs = Field(default=10.0, description="Reconnect when a ping is unanswered for so long (N6).")
    feed_silence_secs: float = Field(
        default=120.0,
        ge=0,
        le=_MAX_SECS,
        description="Move on from a source without a new tick for so long; 0: never (N6).",
    )
    max_backoff_secs: Secs = Field(default=30.0, description="Longest delay between two attempts at a source (N5).")
    max_retry_after_secs: Secs = Field(
        default=3600.0, description="Longest that HTTP 429 or 418 keeps us away from a venue (N5)."
    )
    max_connects_per_minute: int = Field(
        default=10, ge=1, le=60_000, description="How often one host is contacted in any minute (N15)."
    )
    subscribe_timeout_secs: Secs = Field(
        default=10.0, description="How long a venue may take to acknowledge a subscription (N18)."
    )
    network_give_up_secs: Secs = Field(default=120.0, description="Exit 10 after so long without any connection.")
    parse_error_limit: Count = Field(default=100, description="Exit 11 after so many unusable messages in a row (N8).")
    overload_grace_ms: Millis = Field(default=250, description="Exit 13 when a channel is full for longer (B2).")
    shutdown_timeout_secs: Secs = Field(
        default=5.0, description="Longest time a stop may take to write what is queued."
    )


class StrategyTable(Table):
    """`[strategy]`: when to trade."""

    name: Literal["periodic", "sma_crossover"] = Field(default="periodic", description="Which strategy runs (R1).")
    sma_short: int = Field(default=5, ge=1, le=1_000_000, description="sma_crossover: ticks in the short average.")
    sma_long: int = Field(default=20, ge=2, le=1_000_000, description="sma_crossover: ticks in the long average.")

    @model_validator(mode="after")
    def _short_before_long(self) -> Self:
        if self.sma_short >= self.sma_long:
            raise ValueError(f"sma_short ({self.sma_short}) should be less than sma_long ({self.sma_long})")
        return self


class Execution(Table):
    """`[execution]`: what an order costs."""

    fee_rate: float = Field(default=0.001, ge=0, le=1, description="Fees as a fraction of an order's notional value.")
    slippage_bps: float = Field(default=0.0, ge=0, lt=10_000, description="Price moved against us, in basis points.")
    order_size: float = Field(default=0.1, gt=0, le=1e12, description="Quantity of each signal, in the base asset.")


class RiskCaps(Table):
    """`[risk_caps]`: what an order may not exceed."""

    max_exposure_usd: float = Field(
        default=10_000.0, gt=0, description="Cap on the exposure of all symbols together (R3)."
    )
    max_symbol_exposure_usd: float = Field(default=5_000.0, gt=0, description="Cap on the exposure of one symbol (R3).")
    max_open_orders: Count = Field(default=10, description="Cap on orders that are neither filled nor ended (R3).")


class Channels(Table):
    """`[channels]`: how much may wait between stages."""

    tick_channel_size: ChannelSize = Field(default=256, description="Ticks between ingest and strategy.")
    signal_channel_size: ChannelSize = Field(default=64, description="Signals between strategy and execution.")
    persist_channel_size: ChannelSize = Field(default=512, description="Rows between the pipeline and the writer.")


class Persist(Table):
    """`[persist]`: when rows go to disk."""

    batch_size: Count = Field(default=200, description="Flush as soon as so many rows wait.")
    flush_interval_ms: Millis = Field(default=1000, description="Flush when the oldest row has waited so long.")
    busy_timeout_ms: int = Field(
        default=5000, ge=1000, le=600_000, description="How long one attempt waits for a locked database (D1)."
    )


class Gate(Table):
    """`[gate]`: what opens LIVE."""

    proof_bundle: FilePath = Field(default="data/proof_bundle.json", description="Signed proof bundle that LIVE needs.")
    # Not strict in this one field: TOML has lists, not tuples. The strings in it stay strings.
    trusted_keys: tuple[TrustedKey, ...] = Field(
        default=(), strict=False, description="Ed25519 public keys that may sign it."
    )
    max_age_hours: float = Field(default=24.0, gt=0, le=87_600, description="A bundle older than this does not count.")

    @model_validator(mode="after")
    def _each_key_once(self) -> Self:
        if len(set(self.trusted_keys)) != len(self.trusted_keys):
            raise ValueError("trusted_keys should have each key once")
        return self


class Dashboard(Table):
    """`[dashboard]`: the status page, of which the engine only checks the settings."""

    host: Name = Field(default="127.0.0.1", description="Address the dashboard listens on.")
    port: int = Field(default=8501, ge=1, le=65_535, description="TCP port the dashboard listens on.")
    refresh_seconds: Secs = Field(default=1.0, description="Time between two refreshes of the page.")


class Settings(Table):
    """The effective configuration: built-in defaults, overridden by the file, overridden by flags."""

    mode: Mode = Field(default="SHADOW", description="What the engine may do with an order.")
    live_armed: bool = Field(default=False, description="Second switch that LIVE needs beside mode (R6).")
    # Constructed, not validated: to make a table by its name would build a validator of its own.
    app: App = Field(default=App.model_construct(), description="What is traded and where it is stored.")
    engine: Engine = Field(default=Engine.model_construct(), description="Ingest and the life of the process.")
    strategy: StrategyTable = Field(default=StrategyTable.model_construct(), description="When to trade.")
    execution: Execution = Field(default=Execution.model_construct(), description="What an order costs.")
    risk_caps: RiskCaps = Field(default=RiskCaps.model_construct(), description="What an order may not exceed.")
    channels: Channels = Field(default=Channels.model_construct(), description="How much may wait between stages.")
    persist: Persist = Field(default=Persist.model_construct(), description="When rows go to disk.")
    gate: Gate = Field(default=Gate.model_construct(), description="What opens LIVE.")
    dashboard: Dashboard = Field(default=Dashboard.model_construct(), description="The status page.")


class Source(Table):
    """One `[[source]]` of the sources file (C6)."""

    name: Name = Field(description="Name of the source; stored with its ticks, so unique.")
    priority: int = Field(ge=0, le=1_000_000, description="Lower is tried first; equal ones in file order.")
    url: WsUrl = Field(default="", description="ws:// or wss:// URL; absent: the venue's own.")
    kind: Name = Field(
        default="trade", description="`aggTrade` where Binance is to be sent a SUBSCRIBE for those; else a mere label."
    )
    venue: VenueName | None = Field(
        default=None,
        description="Whose messages these are (`hybrid-engine venues`); inferred from the URL when absent.",
    )
    symbol: Name | None = Field(default=None, description="What its ticks are called; default [app] symbol (N10).")
    markets: dict[MarketName, Name] | None = Field(
        default=None,
        min_length=1,
        max_length=MARKETS_MAX,
        description="Market, as the venue writes it -> what its ticks are called; absent: the URL's market (N12).",
    )


class SourcesFile(Table):
    """The sources file (C6)."""

    # Not strict, as trusted_keys.
    source: tuple[Source, ...] = Field(strict=False, description="Where to get ticks.")
