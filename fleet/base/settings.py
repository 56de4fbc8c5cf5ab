"""What an operator may say to relay and collector: TOML, in which every key is known and every value judged."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleet.base.wire import INSTANCE
from harness.base.errors import HarnessError
from harness.observing import health, instances

EXIT_CONFIG = 12
"""What no restart heals, as the engine's (docs/contract.md, section 3)."""

SECRET_BYTES_MAX = 4096
"""Far more than any password has."""


class ConfigError(HarnessError):
    """What no restart heals: exit status 12."""


@dataclass(frozen=True)
class Nats:
    """Where the stream is, and who we are there."""

    servers: tuple[str, ...]
    stream: str
    user: str
    """Empty: none is asked for."""
    password_file: Path | None
    ca: Path | None
    """Certificates that the servers' are signed by; None: those that this computer trusts."""


@dataclass(frozen=True)
class Stream:
    """What the stream is made with where there is none yet."""

    replicas: int
    max_age_hours: float
    max_bytes: int


@dataclass(frozen=True)
class RelaySettings:
    """What a relay is told."""

    instance: str
    database: Path
    decision_log: Path | None
    journal_unit: str
    """The engine's unit, whose heartbeats are passed on; empty: none are."""
    tick_every: int
    """Each so many-th tick is passed on; 0: none is."""
    poll_secs: float
    batch_rows: int
    metrics_port: int
    """On 127.0.0.1; 0: none."""
    nats: Nats
    stream: Stream


@dataclass(frozen=True)
class CollectorSettings:
    """What a collector is told."""

    consumer: str
    """What the names of its consumers begin with."""
    conninfo: str
    """libpq's, without a password."""
    password_file: Path | None
    batch_messages: int
    metrics_port: int
    nats: Nats


Check = Callable[[Any], object]
"""Returns a value as it is used. Raises ValueError, which says what is allowed."""


def _text(pattern: str, allowed: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(allowed)
        return value

    return check


def _number(low: float, high: float, *, whole: bool = True) -> Check:
    def check(value: Any) -> int | float:
        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise ValueError(f"a {'whole ' if whole else ''}number from {low} to {high}")
        return value

    return check


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith(("/", "$CREDENTIALS_DIRECTORY/")) or "\0" in value:
        raise ValueError("an absolute path, or one that begins with $CREDENTIALS_DIRECTORY/")
    head, _, tail = value.partition("/")
    if not head:
        return Path(value)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ValueError("what LoadCredential= of the unit loads; this process has no $CREDENTIALS_DIRECTORY")
    return Path(directory, tail)


def _servers(value: Any) -> tuple[str, ...]:
    allowed = "a list of nats://HOST:PORT or tls://HOST:PORT, without user or password"
    if not isinstance(value, list) or not value:
        raise ValueError(allowed)
    for url in value:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("nats", "tls") and parts.hostname and parts.port and "@" not in parts.netloc
        except (ValueError, TypeError, AttributeError):
            good = False
        if not good:
            raise ValueError(allowed)
    return tuple(value)


def _conninfo(value: Any) -> str:
    if not isinstance(value, str) or re.search(r"passw|\bpassfile|://[^/]*:[^/]*@", value, re.IGNORECASE):
        raise ValueError("libpq's keywords, such as 'host=db dbname=hybrid user=collector', without a password")
    return value


Keys = dict[str, tuple[Check, Any]]
"""Key -> how it is judged, and what it is where nobody says it; ... where somebody must."""

_TOKEN = _text(r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, _ and -")
_PORT = _number(0, 65535)

_NATS: Keys = {
    "servers": (_servers, ...),
    "stream": (_TOKEN, "HYBRID"),
    "user": (_text(r"[\x21-\x7e]{0,128}", "up to 128 printable characters"), ""),
    "password_file": (_path, None),
    "ca": (_path, None),
}
_STREAM: Keys = {
    "replicas": (_number(1, 5), 1),
    "max_age_hours": (_number(0.1, 24 * 366, whole=False), 24 * 14),
    "max_bytes": (_number(1 << 20, 1 << 50), 8 << 30),
}
RELAY: dict[str, Keys] = {
    "": {
        "instance": (_text(INSTANCE.pattern, "1 to 64 letters, digits, _ and -"), None),
        "database": (_path, None),
        "decision_log": (_path, None),
        "journal_unit": (_text(r"([\w@:.-]{1,240}\.service)?", "a unit, such as hybrid-engine.service"), ""),
        "tick_every": (_number(0, 1_000_000), 1),
        "poll_secs": (_number(0.01, 60, whole=False), 0.25),
        "batch_rows": (_number(1, 5000), 500),
        "metrics_port": (_PORT, 9464),
    },
    "nats": _NATS,
    "stream": _STREAM,
}
COLLECTOR: dict[str, Keys] = {
    "": {
        "consumer": (_TOKEN, "collector"),
        "conninfo": (_conninfo, ...),
        "password_file": (_path, None),
        "batch_messages": (_number(1, 5000), 200),
        "metrics_port": (_PORT, 9465),
    },
    "nats": _NATS,
}


def load_relay(path: Path) -> RelaySettings:
    """The relay's configuration. Raises ConfigError, which names file, key, value and what is allowed.

    The engine's name and database are what its own configuration says, which lies beside the relay's; where that says
    nothing, or lies elsewhere, they are the relay's to say.
    """
    found = _load(path, RELAY)
    engine = path.with_name("config.toml")
    tables = _engine_tables(engine)
    if tables is None:
        if None in (found[""]["instance"], found[""]["database"]):
            # Under another name all of it would be there twice.
            raise ConfigError(f"{engine}: cannot be read, and {path} does not say both instance and database")
        tables = {}
    if found[""]["database"] is None:
        found[""]["database"] = instances.at(engine).state / health.database_of(tables)
    named = instances.name_of(engine, tables)
    said = found[""]["instance"] or named
    if named not in (said, instances.NAMELESS):
        raise ConfigError(f"{path}: instance = {said!r}: must be left out, or {named!r}, as {engine} says")
    found[""]["instance"] = said
    return RelaySettings(**found[""], nats=Nats(**found["nats"]), stream=Stream(**found["stream"]))


def _engine_tables(path: Path) -> dict[str, Any] | None:
    """What an engine's configuration says: nothing where there is none; None where it cannot be read, of which the
    engine itself complains."""
    try:
        return health.load_tables(path) if path.exists() else {}
    except (HarnessError, OSError):
        return None


def load_collector(path: Path) -> CollectorSettings:
    """The collector's configuration. Raises ConfigError likewise."""
    found = _load(path, COLLECTOR)
    return CollectorSettings(**found[""], nats=Nats(**found["nats"]))


def _load(path: Path, tables: dict[str, Keys]) -> dict[str, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            text = file.read(1 << 20).decode()
        found = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # What it quotes of a broken line may be a secret.
        at = re.search(r"\(at [^)]*\)$", str(error))
        raise ConfigError(f"{path}: is no TOML {at[0] if at else ''}".rstrip()) from error
    result = {}
    top = {key: value for key, value in found.items() if not (key in tables and key)}
    for name, keys in tables.items():
        given = found.get(name, {}) if name else top
        if not isinstance(given, Mapping):
            raise ConfigError(f"{path}: {name} is to be a table, [{name}]")
        result[name] = _judged(path, name, keys, given, [*keys, *(table for table in tables if table and not name)])
    return result


def _judged(path: Path, table: str, keys: Keys, given: Mapping[str, Any], known: list[str]) -> dict[str, Any]:
    prefix = f"{table}." if table else ""
    for key in given:
        if key not in keys:
            near = difflib.get_close_matches(key, known, 1, 0.0)[0]
            raise ConfigError(f"{path}: {prefix}{key}: unknown key; the nearest known one is {prefix}{near}")
    values = {}
    for key, (check, default) in keys.items():
        if key in given:
            try:
                values[key] = check(given[key])
            except ValueError as error:
                said = "(not shown)" if key in ("servers", "conninfo") else repr(given[key])[:100]
                raise ConfigError(f"{path}: {prefix}{key} = {said}: must be {error}") from error
        elif default is ...:
            raise ConfigError(f"{path}: {prefix}{key}: is missing")
        else:
            values[key] = default
    return values


def read_secret(path: Path) -> str:
    """The first line of a file that holds a password. Raises ConfigError, which does not show it."""
    try:
        with path.open("rb") as file:
            # A line may end with two characters more.
            line = file.readline(SECRET_BYTES_MAX + 3).rstrip(b"\r\n")
        if len(line) > SECRET_BYTES_MAX:
            raise ConfigError(f"{path}: its first line is longer than {SECRET_BYTES_MAX} bytes")
        secret = line.decode()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is no text") from error
    if not secret:
        raise ConfigError(f"{path}: is empty; a password is expected in its first line")
    return secret
