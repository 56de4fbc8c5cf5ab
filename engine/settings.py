"""The sole reader of TOML files and of the environment. Contract sections 1 and 2, clauses C1-C6.

Every mistake ends in one `ConfigError` (exit 12) that names the file or flag, the key, the value received and
what is allowed. A value is shown only when it cannot be a secret.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from engine.exits import ConfigError

DEFAULT_CONFIG_PATH = Path("config/config.toml")
SOURCES_FILE_NAME = "ws_sources.toml"

# A config file is a few KB; reading at most this much keeps `--config /dev/zero` from filling the memory.
MAX_FILE_BYTES = 1024 * 1024

# Ten years: longer waits overflow the timers of some event loops, and mean a typo anyway.
_MAX_SECS = 10 * 365 * 86_400
_MAX_MS = _MAX_SECS * 1000

_SECRET_KEY = re.compile(r"secret|token|passw|api_?key|private|credential|auth", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")
_URL_QUERY = re.compile(r"\?[^\s'\"]*")

_Model = TypeVar("_Model", bound=BaseModel)


def _mode(value: object) -> object:
    """Any case is accepted; what is no mode is left as it came, for the error to show."""
    return value.upper() if isinstance(value, str) and value.upper() in MODES else value


def _ingest_mode(value: object) -> object:
    # The flag spells them without the underscore (contract section 1), the file with it (section 2).
    short_forms = {"MOCKWS": "MOCK_WS", "REALWS": "REAL_WS"}
    if not isinstance(value, str):
        return value
    name = short_forms.get(value.upper(), value.upper())
    return name if name in INGEST_MODES else value


def _ws_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"should be a ws:// or wss:// URL ({error})") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname or port == 0:
        raise ValueError("should be a ws:// or wss:// URL with a host, such as ws://localhost:9001")
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


Text = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
FilePath = Annotated[str, AfterValidator(_path)]
WsUrl = Annotated[str, AfterValidator(_ws_url)]
Secs = Annotated[float, Field(gt=0, le=_MAX_SECS)]
Millis = Annotated[int, Field(ge=1, le=_MAX_MS)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
ChannelSize = Annotated[int, Field(ge=1, le=1_000_000)]

ModeName = Literal["SHADOW", "PAPER", "LIVE"]
IngestMode = Literal["SYNTHETIC", "REPLAY", "MOCK_WS", "REAL_WS"]
MODES: tuple[str, ...] = get_args(ModeName)
INGEST_MODES: tuple[str, ...] = get_args(IngestMode)


class _Table(BaseModel):
    # Deferred, because a table is only ever validated as a part of Settings or of a sources file: built by itself as
    # well, each would cost start-up time and memory twice.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class App(_Table):
    """`[app]`: what is traded and where it is stored."""

    symbol: Text = Field(default="SOL/USDC", description="What the ticks are called where a source names no symbol.")
    db_path: FilePath = Field(default="data/bot.db", description="SQLite database, relative to the working directory.")


class Engine(_Table):
    """`[engine]`: ingest and the life of the process."""

    ingest_mode: Annotated[IngestMode, BeforeValidator(_ingest_mode)] = Field(
        default="SYNTHETIC", description="Where ticks come from."
    )
    tick_interval_ms: Millis = Field(default=500, description="SYNTHETIC: time between two ticks.")
    signal_every_n_ticks: Count = Field(default=10, description="Strategy `periodic`: a signal every so many ticks.")
    heartbeat_interval_secs: Secs = Field(default=10.0, description="Time between two HEARTBEAT (G4) lines.")
    run_seconds: Secs | None = Field(default=None, description="Stop with exit 0 after so long; absent: run on.")
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
    network_give_up_secs: Secs = Field(default=120.0, description="Exit 10 after so long without any connection.")
    parse_error_limit: Count = Field(default=100, description="Exit 11 after so many unusable messages in a row (N8).")
    overload_grace_ms: Millis = Field(default=250, description="Exit 13 when a channel is full for longer (B2).")
    shutdown_timeout_secs: Secs = Field(
        default=5.0, description="Longest time a stop may take to write what is queued."
    )


class StrategyTable(_Table):
    """`[strategy]`: when to trade."""

    name: Literal["periodic", "sma_crossover"] = Field(default="periodic", description="Which strategy runs (R1).")
    sma_short: int = Field(default=5, ge=1, le=1_000_000, description="sma_crossover: ticks in the short average.")
    sma_long: int = Field(default=20, ge=2, le=1_000_000, description="sma_crossover: ticks in the long average.")

    @model_validator(mode="after")
    def _short_is_shorter(self) -> StrategyTable:
        if self.sma_short >= self.sma_long:
            raise ValueError(f"sma_short ({self.sma_short}) should be less than sma_long ({self.sma_long})")
        return self


class Execution(_Table):
    """`[execution]`: what an order costs."""

    fee_rate: float = Field(default=0.001, ge=0, le=1, description="Fees as a fraction of an order's notional value.")
    slippage_bps: float = Field(default=0.0, ge=0, lt=10_000, description="Price moved against us, in basis points.")
    order_size: float = Field(default=0.1, gt=0, le=1e12, description="Quantity of each signal, in the base asset.")


class RiskCaps(_Table):
    """`[risk_caps]`: what an order may not exceed."""

    max_exposure_usd: float = Field(
        default=10_000.0, gt=0, description="Cap on the exposure of all symbols together (R3)."
    )
    max_symbol_exposure_usd: float = Field(default=5_000.0, gt=0, description="Cap on the exposure of one symbol (R3).")
    max_open_orders: Count = Field(default=10, description="Cap on orders that are neither filled nor ended (R3).")


class Channels(_Table):
    """`[channels]`: how much may wait between stages."""

    tick_channel_size: ChannelSize = Field(default=256, description="Ticks between ingest and strategy.")
    signal_channel_size: ChannelSize = Field(default=64, description="Signals between strategy and execution.")
    persist_channel_size: ChannelSize = Field(default=512, description="Rows between the pipeline and the writer.")


class Persist(_Table):
    """`[persist]`: when rows go to disk."""

    batch_size: Count = Field(default=100, description="Flush as soon as so many rows wait.")
    flush_interval_ms: Millis = Field(default=1000, description="Flush when the oldest row has waited so long.")
    busy_timeout_ms: int = Field(
        default=5000,
        ge=1000,
        le=600_000,
        description="How long one attempt waits for a locked database (D1).",
    )


class Gate(_Table):
    """`[gate]`: what opens LIVE."""

    proof_bundle: FilePath = Field(default="data/proof_bundle.json", description="Signed proof bundle that LIVE needs.")
    # Lax for this one field: TOML has lists, not tuples. The strings in it stay strings.
    trusted_keys: tuple[Text, ...] = Field(
        default=(), strict=False, description="Ed25519 public keys that may sign it."
    )
    max_age_hours: float = Field(default=24.0, gt=0, le=87_600, description="A bundle older than this does not count.")


class Dashboard(_Table):
    """`[dashboard]`: the status page, of which the engine only checks the settings."""

    host: Text = Field(default="127.0.0.1", description="Address the dashboard listens on.")
    port: int = Field(default=8501, ge=1, le=65_535, description="TCP port the dashboard listens on.")
    refresh_seconds: Secs = Field(default=1.0, description="Time between two refreshes of the page.")


class Settings(_Table):
    """The effective configuration: built-in defaults, overridden by the file, overridden by flags."""

    mode: Annotated[ModeName, BeforeValidator(_mode)] = Field(
        default="SHADOW", description="What the engine may do with an order."
    )
    live_armed: bool = Field(default=False, description="Second switch that LIVE needs beside mode (R6).")
    app: App = Field(default_factory=App, description="What is traded and where it is stored.")
    engine: Engine = Field(default_factory=Engine, description="Ingest and the life of the process.")
    strategy: StrategyTable = Field(default_factory=StrategyTable, description="When to trade.")
    execution: Execution = Field(default_factory=Execution, description="What an order costs.")
    risk_caps: RiskCaps = Field(default_factory=RiskCaps, description="What an order may not exceed.")
    channels: Channels = Field(default_factory=Channels, description="How much may wait between stages.")
    persist: Persist = Field(default_factory=Persist, description="When rows go to disk.")
    gate: Gate = Field(default_factory=Gate, description="What opens LIVE.")
    dashboard: Dashboard = Field(default_factory=Dashboard, description="The status page.")


class Source(_Table):
    """One `[[source]]` of the sources file (C6)."""

    name: Text = Field(description="Name of the source; stored with its ticks, so unique.")
    url: WsUrl = Field(description="ws:// or wss:// URL.")
    kind: Text = Field(
        default="trade", description="Label kept for older files; the engine reads trades whatever it says."
    )
    priority: int = Field(ge=0, le=1_000_000, description="Lower is tried first; equal ones in file order.")
    venue: Annotated[Literal["binance", "gemini"], BeforeValidator(str.lower)] | None = Field(
        default=None, description="Whose messages these are; inferred from the URL when absent."
    )
    symbol: Text | None = Field(default=None, description="What its ticks are called; default [app] symbol (N10).")


class _SourcesFile(_Table):
    source: tuple[Source, ...] = Field(strict=False)


class Loaded(NamedTuple):
    """What one start of the engine runs on."""

    settings: Settings
    sources: tuple[Source, ...]  # best first; empty unless REAL_WS
    config_path: Path | None  # None when the default file is absent and built-in defaults apply
    warnings: tuple[tuple[str, dict[str, object]], ...]  # (message, fields) to log once logging runs


class Environment(NamedTuple):
    """What the engine takes from its environment variables."""

    log_level: str  # HYBRID_LOG
    transport: str  # HYBRID_TRANSPORT: which WebSocket library carries the feed
    notify_socket: str | None  # NOTIFY_SOCKET, sd_notify(3); None when nobody listens
    watchdog_secs: float | None  # WATCHDOG_USEC, sd_watchdog_enabled(3); None when it is off or for another process


LOG_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR")
TRANSPORTS = ("picows", "websockets")


def read_environment(environ: Mapping[str, str] | None = None, pid: int | None = None) -> Environment:
    """Reads HYBRID_LOG, HYBRID_TRANSPORT and systemd's variables. Raises ConfigError for a value that is
    none of the allowed ones."""
    environ = os.environ if environ is None else environ
    pid = os.getpid() if pid is None else pid
    log_level = environ.get("HYBRID_LOG", "INFO").upper()
    transport = environ.get("HYBRID_TRANSPORT", TRANSPORTS[0]).lower()
    for name, value, allowed in (
        ("HYBRID_LOG", log_level, LOG_LEVELS),
        ("HYBRID_TRANSPORT", transport, TRANSPORTS),
    ):
        if value not in allowed:
            raise ConfigError(
                f"environment variable {name} = {value!r}: should be one of {', '.join(allowed)}",
                key=name,
                value=value,
                allowed=list(allowed),
            )
    usec = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
    watchdog_secs = int(usec) / 1e6 if ours and usec.isascii() and usec.isdecimal() and int(usec) > 0 else None
    return Environment(log_level, transport, environ.get("NOTIFY_SOCKET") or None, watchdog_secs)


def load(config: str | None, flags: Mapping[str, tuple[str, object]], sources: str | None = None) -> Loaded:
    """Reads, overrides and validates the configuration.

    `config` is the path given with --config, None when the flag was absent. `flags` maps dotted keys
    ("engine.sample_every") to (flag name, value). `sources` is the path given with --sources.
    Raises ConfigError naming every problem found (C2-C6).
    """
    warnings: list[tuple[str, dict[str, object]]] = []
    path: Path | None = DEFAULT_CONFIG_PATH if config is None else Path(config)
    assert path is not None
    if config is None and not os.path.lexists(path):
        warnings.append(("no config file, built-in defaults apply", {"config_path": str(path)}))
        table: dict[str, Any] = {}
        directory, path = path.parent, None
    else:
        table = read_toml(path)
        directory = path.parent

    origins: dict[str, str] = {}
    for key, (flag, value) in flags.items():
        if key == "mode" and isinstance(value, str) and value.upper() not in MODES:
            # C1: a typo must never become LIVE, nor leave a LIVE of the file in force.
            warnings.append(("unknown --mode, running SHADOW", {"value": value, "allowed": list(MODES)}))
            value = "SHADOW"
        _override(table, key, value)
        origins[key] = flag

    settings = _validate(Settings, table, path or DEFAULT_CONFIG_PATH, origins)
    found: tuple[Source, ...] = ()
    if settings.engine.ingest_mode == "REAL_WS":
        found = load_sources(Path(sources) if sources is not None else directory / SOURCES_FILE_NAME)
    return Loaded(settings, found, path, tuple(warnings))


def load_sources(path: Path) -> tuple[Source, ...]:
    """The `[[source]]` tables of the sources file, best priority first (C6). Raises ConfigError."""
    table = read_toml(path)
    if not table.get("source"):
        raise ConfigError(
            f"{path}: no [[source]] in it: REAL_WS needs at least one, with name, url and priority",
            config_path=str(path),
            key="source",
        )
    found = _validate(_SourcesFile, table, path, {}).source
    names = [source.name for source in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{path}: source.name = {name!r} is used twice: each source needs its own name",
                config_path=str(path),
                key="source.name",
                value=name,
            )
    return tuple(sorted(found, key=lambda source: source.priority))


def effective(loaded: Loaded) -> dict[str, object]:
    """The configuration in force as plain data for --check-config, safe to print."""
    plain: dict[str, object] = loaded.settings.model_dump(mode="json")
    if loaded.sources:
        plain["sources"] = [source.model_dump(mode="json") for source in loaded.sources]
    shown = _redact_urls(plain)
    assert isinstance(shown, dict)
    return shown


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML file at `path` as a dict. Raises ConfigError with line and column of a syntax error."""
    where: dict[str, object] = {"config_path": str(path)}
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}", error=reason, **where) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes, so not a configuration", **where)
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{path}: starts with a byte order mark: save it as UTF-8 without BOM", **where)
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8", line=line, **where) from None
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        place = re.search(r"line (\d+), column (\d+)", reason)
        if place:
            where |= {"line": int(place[1]), "column": int(place[2])}
        raise ConfigError(f"{path}: not valid TOML: {reason}", error=reason, **where) from None


def redact_url(url: str) -> str:
    """`url` without user name, password and query, any of which may hold a secret (C4, V1)."""
    return _URL_QUERY.sub("?[redacted]", _URL_CREDENTIALS.sub("[redacted]@", url))


def _redact_urls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _redact_urls(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact_urls(item) for item in value]
    return redact_url(value) if isinstance(value, str) and "://" in value else value


def _override(table: dict[str, Any], key: str, value: object) -> None:
    *tables, name = key.split(".")
    for part in tables:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            return  # `engine = 3` in the file: validation reports that
        table = inner
    table[name] = value


def _validate(model: type[_Model], table: dict[str, Any], path: Path, origins: Mapping[str, str]) -> _Model:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems = [_problem(item, model, path, origins) for item in error.errors()]
    first = problems[0]
    message = str(first["problem"]) + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
    details = {key: value for key, value in first.items() if key != "problem"}
    raise ConfigError(message, **details, problems=[problem["problem"] for problem in problems])


def _problem(item: Any, model: type[BaseModel], path: Path, origins: Mapping[str, str]) -> dict[str, object]:
    location: tuple[str | int, ...] = item["loc"]
    key = _dotted(location)
    origin = origins.get(key, str(path))
    allowed = re.sub(r"^(Value error, |Input )", "", item["msg"])
    shown = _shown(key, item["input"])
    details: dict[str, object] = {"config_path": str(path), "key": key, "value": shown}
    if item["type"] == "extra_forbidden":
        allowed = "unknown key"
        nearest = _nearest(location, model)
        if nearest:
            allowed += f"; the nearest known one is {nearest}"
            details["nearest"] = nearest
    elif item["type"] == "missing":
        allowed = "missing"
        shown = ""
    elif item["type"] == "model_type":
        allowed = "should be a table"
    elif item["type"] == "tuple_type":
        allowed = "should be a list"
    name = origin if key in origins else f"{origin}: {key}"
    problem = f"{name} = {shown}: {allowed}" if shown else f"{name}: {allowed}"
    return {"problem": problem, **details, "allowed": allowed}


def _dotted(location: tuple[str | int, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _shown(key: str, value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if _SECRET_KEY.search(key):
        return "[redacted]"
    text = redact_url(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(location: tuple[str | int, ...], model: type[BaseModel]) -> str | None:
    """The known key most like the unknown one: of the same table first, then of the whole file, so that a key
    put under the wrong table is found too."""
    *tables, name = [str(part) for part in location]
    known = list(_known_keys(model))
    table = ".".join(part for part in tables if not part.isdecimal())
    siblings = [key for key in known if key.rpartition(".")[0] == table]
    for candidates, cutoff in ((siblings, 0.6), (known, 0.75)):
        names = {key.rpartition(".")[2]: key for key in candidates}
        match = difflib.get_close_matches(name.lower(), names, n=1, cutoff=cutoff)
        if match:
            return names[match[0]]
    return None


def _known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = field.annotation
        if name == "source":
            inner = Source
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _known_keys(inner, f"{prefix}{name}.")
