"""The sole reader of TOML files and of the environment. Contract sections 1 and 2, clauses C1-C6.

Every mistake ends in one `ConfigError` (exit 12) that names the file or flag, the key, the value received and
what is allowed. A value is shown only when it cannot be a secret.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Collection, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from engine.base.exits import ConfigError
from engine.base.redaction import MARK, is_telling, learn, redact, redact_value
from engine.config import schema
from engine.config.schema import Settings, Source
from engine.ingest.venues import markets, registry

DEFAULT_CONFIG_PATH = Path("config/config.toml")
SOURCES_FILE_NAME = "ws_sources.toml"

INSTANCES = Path("/etc/hybrid-engine")
"""Where instance NAME has its configuration: NAME/config.toml, by the template units."""

# A config file is a few KB; reading at most this much keeps `--config /dev/zero` from filling the memory.
MAX_FILE_BYTES = 1024 * 1024

# How much of a value, a key or a reason is shown, and of how many mistakes: a file may hold a million of them.
_SHOWN_CHARS_MAX = 80
_PROBLEMS_MAX = 20

# Linux' limit for a name, and SQLite's for a path.
_NAME_BYTES_MAX = 255
_PATH_BYTES_MAX = 512

# In one line of a file.
_DOTS_MAX = 1000
_DIGITS_MAX = 4000

_Table = TypeVar("_Table", bound=schema.Table)


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
    """Read HYBRID_LOG, HYBRID_TRANSPORT and systemd's variables. Raises ConfigError for a value that is
    none of the allowed ones."""
    environ = os.environ if environ is None else environ
    pid = os.getpid() if pid is None else pid
    log_level = schema.upper(environ.get("HYBRID_LOG", "INFO"))
    named = environ.get("HYBRID_TRANSPORT", TRANSPORTS[0])
    transport = named.lower() if named.isascii() else named
    for name, value, allowed in (
        ("HYBRID_LOG", log_level, LOG_LEVELS),
        ("HYBRID_TRANSPORT", transport, TRANSPORTS),
    ):
        if value not in allowed:
            shown = shorten(redact_value(value))
            raise ConfigError(
                f"environment variable {name} = {shown!r}: should be one of {', '.join(allowed)}",
                key=name,
                value=shown,
                allowed=list(allowed),
            )
    usec = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
    # Twenty digits are what systemd's 64 bits can hold.
    valid = ours and re.fullmatch(r"[0-9]{1,20}", usec) is not None and int(usec) > 0
    watchdog_secs = int(usec) / 1e6 if valid else None
    return Environment(log_level, transport, environ.get("NOTIFY_SOCKET") or None, watchdog_secs)


def notify_socket() -> str | None:
    """NOTIFY_SOCKET, whatever else is wrong with the environment."""
    return os.environ.get("NOTIFY_SOCKET") or None


def load(config: str | None, flags: Mapping[str, tuple[str, object]], sources: str | None = None) -> Loaded:
    """Reads, overrides and validates the configuration.

    `config` is the path given with --config, None when the flag was absent. `flags` maps dotted keys
    ("engine.sample_every") to (flag name, value). `sources` is the path given with --sources.
    Raises ConfigError naming every problem found (C2-C6).
    """
    warnings: list[tuple[str, dict[str, object]]] = []
    path: Path | None = DEFAULT_CONFIG_PATH if config is None else _path("--config", config)
    assert path is not None
    if config is None and not os.path.lexists(path):
        warnings.append(("no config file, built-in defaults apply", {"config_path": str(path)}))
        table: dict[str, Any] = {}
        directory, path = path.parent, None
    else:
        table = read_toml(path)
        directory = path.parent
        if flags:
            _validate_overridden(table, path, flags)

    origins: dict[str, str] = {}
    for key, (flag, value) in flags.items():
        if key == "mode" and isinstance(value, str) and schema.upper(value) not in schema.MODES:
            # C1: a typo must never become LIVE, nor leave a LIVE of the file in force.
            shown = shorten(redact_value(value))
            warnings.append(("unknown --mode, running SHADOW", {"value": shown, "allowed": list(schema.MODES)}))
            value = "SHADOW"
        _override(table, key, value)
        origins[key] = flag
    if path is not None:
        _name(table, path, origins)

    settings = _validate(Settings, table, path or DEFAULT_CONFIG_PATH, origins)
    learn(settings.engine.ws_url)
    _check_places(settings, path or DEFAULT_CONFIG_PATH, origins)
    found: tuple[Source, ...] = ()
    if settings.engine.ingest_mode == "REAL_WS":
        sources_path = _path("--sources", sources) if sources is not None else directory / SOURCES_FILE_NAME
        found = load_sources(sources_path)
        for source in found:
            learn(source.url)
            warnings += check_source(source, sources_path, settings.app.symbol)
    return Loaded(settings, found, path, tuple(warnings))


def unit_instance(config: str | None) -> str:
    """The instance whose template unit gives this path with --config; empty for every other path."""
    path = Path(os.path.abspath(config)) if config else DEFAULT_CONFIG_PATH
    return path.parent.name if path.parent.parent == INSTANCES else ""


def _name(table: dict[str, Any], path: Path, origins: dict[str, str]) -> None:
    """Gives an instance of the template unit its name. Raises ConfigError where the file says another (O9)."""
    instance = unit_instance(str(path))
    app = table.get("app", {})
    if not instance or not isinstance(app, dict):
        return
    if "instance" not in app:
        _override(table, "app.instance", instance)
        origins["app.instance"] = f"the directory of {path}"
    elif isinstance(said := app["instance"], str) and said != instance:
        shown = _shown("app.instance", said, secret=False)
        raise ConfigError(
            f"{path}: app.instance = {shown}: should be left out, or {instance!r}, as its directory and its unit",
            config_path=str(path),
            key="app.instance",
            value=shown,
            allowed=instance,
        )


def _check_places(settings: Settings, path: Path, origins: Mapping[str, str]) -> None:
    """What no start could open is refused by --check-config too. What another user may open is not: the unit has its
    own."""
    places = {"app.db_path": settings.app.db_path}
    if settings.engine.ingest_mode == "REPLAY" and settings.engine.replay_file is not None:
        places["engine.replay_file"] = settings.engine.replay_file
    for key, place in places.items():
        allowed = None
        try:
            if key == "app.db_path" and not _fits(place):
                allowed = "too long a name, with what SQLite appends to it (-journal)"
            elif not stat.S_ISREG(os.stat(place).st_mode):
                allowed = "not a regular file"
        except FileNotFoundError as error:
            # The database is made when there is none.
            allowed = error.strerror if key == "engine.replay_file" else None
        except PermissionError:
            continue
        except (OSError, ValueError) as error:
            allowed = getattr(error, "strerror", None) or str(error)
        if allowed is not None:
            shown = _shown(key, place, secret=False)
            name = origins.get(key, f"{path}: {key}")
            raise ConfigError(
                f"{name} = {shown}: {allowed}", config_path=str(path), key=key, value=shown, allowed=allowed
            )


def _fits(database: str) -> bool:
    """Whether there can be files of its name and of those beside it, in directories that may not be there yet."""
    path = os.fsencode(os.path.realpath(database)) + b"-journal"
    return len(path) <= _PATH_BYTES_MAX and all(len(name) <= _NAME_BYTES_MAX for name in path.split(b"/"))


def load_sources(path: Path) -> tuple[Source, ...]:
    """The `[[source]]` tables of the sources file, best priority first (C6). Raises ConfigError."""
    table = read_toml(path)
    if not table.get("source"):
        raise ConfigError(
            f"{path}: no [[source]] in it: REAL_WS needs at least one, with name, url and priority",
            config_path=str(path),
            key="source",
        )
    found = tuple(_located(source, path) for source in _validate(schema.SourcesFile, table, path, {}).source)
    names: set[str] = set()
    for name in (source.name for source in found):
        if name in names:
            raise ConfigError(
                f"{path}: source.name = {name!r} is used twice: each source needs its own name",
                config_path=str(path),
                key="source.name",
                value=name,
            )
        names.add(name)
    return tuple(sorted(found, key=lambda source: source.priority))


def make_source(table: Mapping[str, object], path: Path, origins: Mapping[str, str]) -> Source:
    """A source that stands in no sources file but in `path`, or on the command line: `origins` maps its keys to flags.
    Raises ConfigError."""
    named = {f"source[0].{key}": flag for key, flag in origins.items()}
    source = _located(_validate(schema.SourcesFile, {"source": [dict(table)]}, path, named).source[0], path)
    learn(source.url)
    return source


def known_sources(loaded: Loaded, sources: str | None) -> tuple[Source, ...]:
    """The sources of the file that REAL_WS would read, whatever this run is for; none where there is no such file."""
    if loaded.sources:
        return loaded.sources
    directory = (loaded.config_path or DEFAULT_CONFIG_PATH).parent
    path = _path("--sources", sources) if sources is not None else directory / SOURCES_FILE_NAME
    return load_sources(path) if sources is not None or os.path.lexists(path) else ()


def _located(source: Source, path: Path) -> Source:
    """A source with a URL: its own, or its venue's."""
    if source.url:
        return source
    url = registry.find(source.venue).url if source.venue is not None else ""
    if not url:
        raise ConfigError(
            f"{path}: source.url: missing: source {source.name!r} needs one, or a venue with an URL of its own"
            " (`hybrid-engine venues` lists them)",
            config_path=str(path),
            key="source.url",
            source=source.name,
        )
    return source.model_copy(update={"url": url})


def subscription(source: Source) -> markets.Subscription:
    """What a source asks its venue for (N12, N13)."""
    return registry.subscription(source.venue, source.url, source.markets, source.kind)


def asked_markets(source: Source, default_symbol: str) -> dict[str, str] | None:
    """The markets of a source, and what their ticks are called; None when nothing says (N12)."""
    found = subscription(source)
    return markets.asked(found, source.markets, source.symbol or default_symbol)


def check_source(source: Source, path: Path, default_symbol: str) -> list[tuple[str, dict[str, object]]]:
    """What an operator had better know of a source. Raises ConfigError when no trade can ever come of it (N13)."""
    found = subscription(source)
    where: dict[str, object] = {"config_path": str(path), "source": source.name}
    if found.problem is not None:
        url = redact_url(source.url)
        raise ConfigError(
            f"{path}: source.url = {url!r}: no trade can ever come of it: {found.problem}",
            **where, key="source.url", value=url,
        )  # fmt: skip
    doubts = list(found.doubts)
    if source.markets is not None:
        problem, more = markets.misfit(found, source.markets)
        if problem is not None:
            named = ", ".join(source.markets)
            raise ConfigError(
                f"{path}: source.markets names {named[:80]}: {problem}", **where, key="source.markets", value=named[:80]
            )
        doubts += more
    elif len(found.markets) > 1:
        called = markets.asked(found, None, source.symbol or default_symbol) or {}
        listed = ", ".join(f"{market} as {name}" for market, name in list(called.items())[:4])
        doubts.append(f"it asks for {len(called)} markets and has no `markets` table to name them: {listed}")
    elif found.markets:
        [market] = found.markets
        if source.symbol is not None:
            doubt = markets.misnomer(market, source.symbol)
            doubts += [] if doubt is None else [doubt]
        elif markets.plain(market) != markets.plain(default_symbol):
            doubts.append(f"ticks of its market {market} will be called {default_symbol}: give it a symbol of its own")
    return [(f"source {source.name}: {doubt}", where) for doubt in doubts]


def effective(loaded: Loaded) -> dict[str, object]:
    """The configuration in force as plain data for --check-config, safe to print.

    Where something is redacted, a digest of the whole value stands in its place: it may hold a secret, and it may say
    which market is streamed, which a proof bundle is about.
    """
    plain: dict[str, object] = loaded.settings.model_dump(mode="json")
    if loaded.sources:
        plain["sources"] = [
            # URLs are shown without their query, which may say what is asked for.
            source.model_dump(mode="json") | {"markets": asked_markets(source, loaded.settings.app.symbol)}
            for source in loaded.sources
        ]
    shown = _redacted(plain)
    assert isinstance(shown, dict)
    return shown


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML file at `path` as a dict. Raises ConfigError with line and column of a syntax error."""
    where: dict[str, object] = {"config_path": str(path)}
    try:
        raw = _read(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}", error=reason, **where) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes, so not a configuration", **where)
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{path}: starts with a byte order mark: save it as UTF-8 without BOM", **where)
    for number, text in enumerate(raw.split(b"\n"), 1):
        # A key of so many parts costs the parser time in the square of their number.
        if text.count(b".") > _DOTS_MAX:
            raise ConfigError(f"{path}: line {number}: more than {_DOTS_MAX} dots", line=number, **where)
        # Python would refuse one of 4301, in words of its own.
        if re.search(rb"[0-9_]{%d}" % (_DIGITS_MAX + 1), text):
            raise ConfigError(
                f"{path}: line {number}: a number of more than {_DIGITS_MAX} digits", line=number, **where
            )
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8", line=line, **where) from None
    except (ValueError, RecursionError) as error:
        # What it quotes stands in the file, and may be a secret.
        reason = re.sub(r"'[^']{3,}'|\"[^\"]{3,}\"", MARK, str(error)) or type(error).__name__
        place = re.search(r"line (\d+), column (\d+)", reason)
        if place:
            where |= {"line": int(place[1]), "column": int(place[2])}
        raise ConfigError(f"{path}: not valid TOML: {reason}", error=reason, **where) from None


def redact_url(url: str) -> str:
    """`url` without what may be a secret in it (C4, V1)."""
    return redact_value(url)


def shorten(text: str) -> str:
    """`text`, cut where it becomes too long to be read."""
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 3] + "..."


def _path(flag: str, value: str) -> Path:
    if not value:
        raise ConfigError(f"{flag} = '': should be a file path", key=flag, value="")
    return Path(value)


def _read(path: Path) -> bytes:
    """What the file holds, MAX_FILE_BYTES + 1 at most. Raises OSError or ValueError. Waits for nobody: a pipe, or a
    device that has nothing to say, is refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0):
        mode = os.fstat(descriptor).st_mode
        # A device may be /dev/null, which is an empty file to everybody.
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISCHR(mode)):
            raise ValueError("not a regular file")
        raw = b""
        while len(raw) <= MAX_FILE_BYTES and (more := os.read(descriptor, MAX_FILE_BYTES + 1 - len(raw))):
            raw += more
        return raw


def _redacted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    if not isinstance(value, str):
        return value
    shown = redact_value(value)
    if shown == value:
        return value
    # Imported only here: of all starts only --check-config and LIVE have a use for it.
    import hashlib

    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return shown.replace(MARK, f"{MARK[:-1]}, SHA-256 {digest}...]", 1)


def _override(table: dict[str, Any], key: str, value: object) -> None:
    *tables, name = key.split(".")
    for part in tables:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            return  # `engine = 3` in the file: validation reports that
        table = inner
    table[name] = value


def _validate(model: type[_Table], table: dict[str, Any], path: Path, origins: Mapping[str, str]) -> _Table:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise _refusal(error.errors(), model, path, origins) from None


def _validate_overridden(table: dict[str, Any], path: Path, flags: Collection[str]) -> None:
    """Raises ConfigError for what the file says wrongly, though a flag says it otherwise (C1, C4). What keys have to do
    with each other is asked when the flags are in."""
    try:
        Settings.model_validate(table)
    except ValidationError as error:
        if found := [item for item in error.errors() if _dotted(item["loc"]) in flags]:
            raise _refusal(found, Settings, path, {}) from None


def _refusal(found: Sequence[Any], model: type[schema.Table], path: Path, origins: Mapping[str, str]) -> ConfigError:
    problems = [_problem(item, model, path, origins) for item in found[:_PROBLEMS_MAX]]
    first = problems[0]
    message = str(first["problem"]) + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
    details = {key: value for key, value in first.items() if key != "problem"}
    if len(problems) > 1:
        details["problems"] = [problem["problem"] for problem in problems[1:]]
    return ConfigError(message, **details)


def _problem(item: Any, model: type[schema.Table], path: Path, origins: Mapping[str, str]) -> dict[str, object]:
    location: tuple[str | int, ...] = item["loc"]
    if location[-1:] == ("[key]",):
        # pydantic's word for a key, here the name of a market, that is what is wrong.
        location = location[:-1]
    dotted = _dotted(location)
    origin = origins.get(dotted, str(path))
    allowed = re.sub(r"^(Value error, |Input )", "", item["msg"])
    # Nobody knows what the value of an unknown key is: `pasword` is one.
    shown = _shown(dotted, item["input"], secret=item["type"] == "extra_forbidden")
    key = shorten(redact(dotted))
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
    elif item["type"] in ("model_type", "dict_type"):
        allowed = "should be a table"
    elif item["type"] == "tuple_type":
        allowed = "should be a list"
    name = origin if dotted in origins else f"{origin}: {key}"
    problem = f"{name} = {shown}: {allowed}" if shown else f"{name}: {allowed}"
    return {"problem": problem, **details, "allowed": allowed}


def _dotted(location: tuple[str | int, ...]) -> str:
    """The key as TOML writes it: what is not a bare key is quoted, so that an empty one is seen, too."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in location]
    return "".join(parts).removeprefix(".")


def _quoted(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part, ensure_ascii=False)


def _shown(key: str, value: object, *, secret: bool) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    # trusted_keys: where a public key belongs, somebody may paste a private one.
    if secret or is_telling(key) or "trusted_keys" in key:
        return MARK
    if isinstance(value, int) and value.bit_length() > 64:
        # Python itself refuses to write out a very long one.
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | time):
        return value.isoformat()
    return shorten(repr(redact_value(value)) if isinstance(value, str) else repr(value))


def _nearest(location: tuple[str | int, ...], model: type[schema.Table]) -> str | None:
    """The known key most like the unknown one: of the same table first, then of the whole file, so that a key
    put under the wrong table is found too."""
    # Imported only here, for most starts have no use for it.
    import difflib

    *tables, name = [shorten(str(part)) for part in location]
    known = [key for key, _ in schema.keys(model)]
    table = ".".join(part for part in tables if not part.isdecimal())
    siblings = [key for key in known if key.rpartition(".")[0] == table]
    for candidates, cutoff in ((siblings, 0.6), (known, 0.75)):
        names = {key.rpartition(".")[2]: key for key in candidates}
        match = difflib.get_close_matches(name.lower(), names, n=1, cutoff=cutoff)
        if match:
            return names[match[0]]
    return None
