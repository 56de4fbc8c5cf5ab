"""The LIVE gate: everything that LIVE needs beside `mode = "LIVE"` (contract R6, guardrails G0 and G1).

It opens when `live_armed` is set, when prices are real ones, when the proof bundle is a true one (attestation.py judges
it) about exactly this engine tree, what it runs on, this effective unit and this configuration, and when one
execution adapter is installed. Whatever is missing ends the start with exit 12 and one log line that names every check
that failed. No code of an adapter runs before all else is right.

It guards against mistakes and shortcuts: a typo, an old bundle, a change after the proofs. It cannot guard against
root on this computer, who can replace the engine itself. What is compared and why: docs/decisions/0003-live-gate.md.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import importlib.metadata
import ipaddress
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from engine.base.exits import ConfigError
from engine.config import settings
from engine.config.settings import Loaded
from engine.ingest.venues import registry
from engine.live import attestation, environment, runtime
from engine.live.attestation import Here, Refusal
from engine.trading.execution import ExecutionAdapter

logger = logging.getLogger("engine.live.gate")

ADAPTER_GROUP: Final = "hybrid_engine.execution"

MEMORY_NAME: Final = "live_gate.json"
"""Beside the database: the newest bundle that opened the gate, and when it was last opened."""

SYSTEMCTL_SECS: Final = 10.0
"""How long systemd may take to say what the effective unit is."""

PACE_TABLES: Final = frozenset({"channels", "persist", "dashboard"})
PACE_KEYS: Final = frozenset({"sample_every", "run_seconds", "heartbeat_interval_secs"})
"""What of the configuration a bundle is not about, because it changes pace or looks and no order: these tables, and
these keys of `[engine]`. The soak controller's ladder changes `sample_every` while the unit lives."""

NO_BUS: Final = (
    "dbus-daemon answers no dynamic user: give the unit's user a name that stays, `systemd-sysusers --inline 'u "
    "hybrid-engine -'`"
)
"""What to do on a computer with dbus-daemon (systemd issue 22737); with dbus-broker it is not needed."""

_PROPERTIES: Final = "MainPID,FragmentPath,DropInPaths,NeedDaemonReload,Environment,EnvironmentFiles"

_UNIT_FILE_BYTES_MAX: Final = 1024 * 1024
"""No unit file and no environment file is larger."""


def check(loaded: Loaded) -> ExecutionAdapter | None:
    """Return the adapter that LIVE trades through; None at once for SHADOW and PAPER.

    Raises ConfigError naming every check that failed. Remembers the bundle when it opens the gate.
    """
    config = loaded.settings
    if config.mode != "LIVE":
        return None
    found: list[Refusal] = []
    if not config.live_armed:
        found.append(Refusal("live_armed", "is not true"))
    found += [Refusal("ingest", reason) for reason in _made_up_prices(loaded)]
    now = time.time()
    memory = Path(config.app.db_path).parent / MEMORY_NAME
    made = 0.0
    unit: UnitFacts | None = None
    try:
        statement = _statement(Path(config.gate.proof_bundle), config.gate.trusted_keys)
        unit = effective_unit()
        here = Here(
            now, config.gate.max_age_hours, engine_files(), runtime.describe(), unit.files, safety_part(loaded),
            *_remembered(memory),
        )  # fmt: skip
        found += attestation.refusals(statement, here)
        made = attestation.parse_time(statement.predicate.time)
    except Refusal as refusal:
        found.append(refusal)
    found += [Refusal("isolation", reason) for reason in runtime.process_objections()]
    by_unit, in_manager = (unit.variables, unit.in_manager) if unit else (None, set())
    found += [Refusal("environment", reason) for reason in environment.objections(os.environ, by_unit, in_manager)]
    adapter = None
    try:
        entry = _installed_adapter()
        if not found:
            # What is imported from now on, the adapter first, runs as the sources say that the bundle is about.
            runtime.forget_bytecode()
            adapter = _load(entry)
            _remember(memory, made, now)
    except Refusal as refusal:
        found.append(refusal)
    _raise_if_any(loaded, found)
    assert adapter is not None
    fields = {"bundle_time": attestation.show_time(made), "adapter": adapter.name}
    logger.warning("LIVE gate opened: orders are real", extra={"fields": fields})
    return adapter


def check_prices(loaded: Loaded) -> None:
    """What `check` would say of the feed of a LIVE configuration, known before any start. Raises ConfigError."""
    _raise_if_any(loaded, [Refusal("ingest", reason) for reason in _made_up_prices(loaded)])


def _raise_if_any(loaded: Loaded, found: Sequence[Refusal]) -> None:
    if found:
        where = f"{loaded.config_path}: " if loaded.config_path else ""
        raise ConfigError(
            f'{where}mode = "LIVE" is refused: {"; ".join(map(str, found))}',
            key="mode",
            value="LIVE",
            checks=[refusal.check for refusal in found],
        )


def _made_up_prices(loaded: Loaded) -> Iterator[str]:
    """Yield why the prices of this configuration are not a venue's (R7)."""
    mode = loaded.settings.engine.ingest_mode
    if mode != "REAL_WS":
        yield f'ingest_mode is "{mode}", and nobody trades on made-up prices: LIVE needs "REAL_WS"'
    for source in loaded.sources:
        if not is_private(source.url):
            yield (
                f"source {source.name!r} ({settings.redact_url(source.url)}) is not encrypted, so anybody on the way "
                "may make up its prices: use wss://, or ws:// to localhost, 127.0.0.1 or [::1]"
            )
        if registry.is_test_network(source.venue, source.url):
            yield (
                f"source {source.name!r} ({settings.redact_url(source.url)}) is a test network, whose prices are not "
                "the market's"
            )


def is_private(url: str) -> bool:
    """Return whether nobody on the network can change what comes from a URL: wss://, or ws:// to this computer.

    This computer is `localhost` and what Python's strict parser reads as an address of 127.0.0.0/8 or as ::1. Another
    spelling of these (0x7f.1, 127.1, ::ffff:127.0.0.1), and a name that merely resolves to them, is not.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme == "wss":
        return True
    match = re.fullmatch(r"(?:(localhost)|([0-9.]+)|\[([0-9a-f:]+)\])(?::[0-9]*)?", parts.netloc, re.IGNORECASE)
    if parts.scheme != "ws" or match is None:
        return False
    name, v4, v6 = match.groups()
    try:
        return (
            bool(name)
            or (bool(v4) and ipaddress.IPv4Address(v4).is_loopback)
            or (bool(v6) and ipaddress.IPv6Address(v6) == ipaddress.IPv6Address("::1"))
        )
    except ValueError:
        return False


def _statement(path: Path, trusted_keys: Sequence[str]) -> attestation.Statement:
    """Return what one of the keys has signed. Raises Refusal that names the file."""
    raw = _read(path, "proof bundle", attestation.BYTES_MAX)
    try:
        return attestation.verified(raw, trusted_keys)
    except Refusal as refusal:
        raise Refusal(refusal.check, f"proof bundle {path} {refusal.reason}") from None


# --- what is compared --------------------------------------------------------------------------------------


def safety_part(loaded: Loaded) -> dict[str, Any]:
    """Return the effective configuration without PACE_TABLES and PACE_KEYS, URLs redacted as `--check-config` shows
    them."""
    part: dict[str, Any] = {key: value for key, value in settings.effective(loaded).items() if key not in PACE_TABLES}
    part["engine"] = {key: value for key, value in part["engine"].items() if key not in PACE_KEYS}
    return part


def engine_files(package: Path = runtime.PACKAGE) -> dict[str, str]:
    """Return path below the package -> SHA-256, of all that Python could take for a part of it.

    Bytecode that Python wrote is left out, because it differs from computer to computer; instead what would run of it
    must be what its source says. Raises Refusal for that, and for whatever is not a regular file.
    """
    found = {}
    for directory, subdirectories, names in os.walk(package):
        for name in sorted([*subdirectories, *names]):
            path = Path(directory, name)
            relative = path.relative_to(package).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise Refusal("engine", f"{relative} is not a regular file")
            if not runtime.is_bytecode(relative):
                content = path.read_bytes()
                found[relative] = hashlib.sha256(content).hexdigest()
                if path.suffix == ".py" and not runtime.runs_as_written(path, content):
                    raise Refusal("engine", f"{relative}: its bytecode in __pycache__ is not what the source says")
    return found


class UnitFacts(NamedTuple):
    """The unit that we run as."""

    files: list[tuple[str, str]]
    """(name, SHA-256) of the files that make it up: the fragment, the drop-ins, the environment files."""
    variables: set[str]
    """The names of the environment variables that they set."""
    in_manager: set[str]
    """Those of the manager's own environment."""


def effective_unit() -> UnitFacts:
    """Return the unit that we run as, as systemd has loaded it.

    Raises Refusal when we are not a unit's main process, or when its files have changed since systemd read them.
    """
    parts = [part for line in _text("/proc/self/cgroup").splitlines() for part in line.rpartition(":")[2].split("/")]
    services = [part for part in parts if part.endswith(".service")]
    if not services:
        raise Refusal("unit", "the engine does not run as a service of systemd")
    in_user_manager = any(re.fullmatch(r"user@\d+\.service", part) for part in services[:-1])
    manager = ["--user"] if in_user_manager else []
    shown = environment.properties(
        _systemctl(*manager, "show", services[-1], f"--property={_PROPERTIES}", about=services[-1])
    )
    if shown.get("MainPID") != [str(os.getpid())]:
        raise Refusal("unit", f"the engine is not the main process of {services[-1]}")
    if shown.get("NeedDaemonReload") != ["no"]:
        raise Refusal("unit", f"{services[-1]} has changed since systemd read it: `systemctl daemon-reload`, restart")
    paths = [*shown.get("FragmentPath", []), *" ".join(shown.get("DropInPaths", [])).split()]
    files = [(Path(path).name, _digest_of(_content(path))) for path in paths]
    variables = environment.set_by_unit(shown.get("Environment", []))
    for pattern, may_be_absent in environment.files(shown.get("EnvironmentFiles", [])):
        for path in _matching(pattern):
            content = _content(path, may_be_absent)
            files.append((f"EnvironmentFile={Path(path).name}", _digest_of(content)))
            variables |= environment.set_by_file((content or b"").decode("utf-8", "surrogateescape"))
    in_manager = environment.set_in_manager(_systemctl(*manager, "show-environment", about="its own environment"))
    return UnitFacts(files, variables, in_manager)


def _systemctl(*args: str, about: str) -> str:
    program = shutil.which("systemctl", path="/usr/bin:/bin")
    if program is None:
        raise Refusal("unit", "the engine does not run as a service of systemd: there is no systemctl")
    try:
        done = subprocess.run([program, *args], capture_output=True, timeout=SYSTEMCTL_SECS, check=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raw = getattr(error, "stderr", None) or str(error).encode("utf-8", "replace")
        said = raw.decode("utf-8", "replace").strip()
        raise Refusal("unit", f"systemd does not say what {about} is: {said} ({NO_BUS})") from None
    return done.stdout.decode("utf-8", "surrogateescape")


def _matching(pattern: str) -> list[str]:
    """Return the files that an EnvironmentFile= names, in the order in which systemd reads them."""
    return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]


def _content(path: str, may_be_absent: bool = False) -> bytes | None:
    """Return what is in a file of the unit; None for one that is absent and may be. systemd follows links there."""
    try:
        return _read(Path(path), "unit", _UNIT_FILE_BYTES_MAX, follow_links=True)
    except Refusal as refusal:
        if may_be_absent and isinstance(refusal.__cause__, FileNotFoundError):
            return None
        raise


def _digest_of(content: bytes | None) -> str:
    return "absent" if content is None else hashlib.sha256(content).hexdigest()


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def _read(path: Path, what: str, bytes_max: int, *, follow_links: bool = False) -> bytes:
    """Return a regular file's bytes. Raises Refusal, and FileNotFoundError in it as `__cause__`."""
    links = 0 if follow_links else os.O_NOFOLLOW
    try:
        # O_NONBLOCK: opening a pipe must not wait for somebody who writes.
        fd = os.open(path, os.O_RDONLY | links | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Refusal(what, f"{path} is missing") from error
    except (OSError, ValueError) as error:
        is_link = isinstance(error, OSError) and error.errno == errno.ELOOP
        reason = "is a symbolic link" if is_link else f"cannot be opened: {getattr(error, 'strerror', error)}"
        raise Refusal(what, f"{path} {reason}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Refusal(what, f"{path} is not a regular file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            raw = file.read(bytes_max + 1)
    except OSError as error:
        raise Refusal(what, f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)
    if len(raw) > bytes_max:
        raise Refusal(what, f"{path} is larger than {bytes_max} bytes")
    return raw


# --- memory ------------------------------------------------------------------------------------------------


def _remembered(path: Path) -> tuple[float | None, float | None]:
    """Return the time of the newest bundle that opened the gate, and when that last happened; (None, None): never.

    Raises Refusal for a memory that says neither: it is then for a human to say that the past does not count.
    """
    try:
        raw = _read(path, "memory", 4096)
        found = json.loads(raw)
        return attestation.parse_time(found["newest_bundle"]), attestation.parse_time(found["opened_at"])
    except Refusal as refusal:
        if isinstance(refusal.__cause__, FileNotFoundError):
            return None, None
        raise
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refusal("memory", f"{path} is damaged; remove it to forget which bundles were accepted") from None


def _remember(path: Path, made: float, now: float) -> None:
    newest, opened = _remembered(path)
    content = {
        "newest_bundle": attestation.show_time(max(made, newest or 0.0)),
        "opened_at": attestation.show_time(max(now, opened or 0.0)),
    }
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(attestation.canonical(content) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise Refusal("memory", f"{path} cannot be written: {error.strerror}") from None


# --- adapter -----------------------------------------------------------------------------------------------


def _installed_adapter() -> importlib.metadata.EntryPoint:
    """Return the one entry point of the group. Raises Refusal when there is none, or more than one."""
    try:
        adapters = importlib.metadata.entry_points(group=ADAPTER_GROUP)
    except Exception as error:  # whatever the standard library makes of damaged metadata
        raise Refusal("execution adapter", f"entry points cannot be read: {type(error).__name__}: {error}") from error
    if len(adapters) != 1:
        names = ", ".join(sorted(f"{one.name} = {one.value}" for one in adapters)) or "none"
        raise Refusal("execution adapter", f"entry point group {ADAPTER_GROUP} must have one, has {names}")
    (entry,) = adapters
    return entry


def _load(entry: importlib.metadata.EntryPoint) -> ExecutionAdapter:
    """Return the adapter that the entry point makes. Raises Refusal for whatever goes wrong in its code."""
    where = f"{entry.name} = {entry.value}"
    try:
        adapter: ExecutionAdapter = entry.load()()
        missing = [name for name in ("submit", "cancel", "reports") if not callable(getattr(adapter, name, None))]
        nameless = not isinstance(getattr(adapter, "name", None), str)
    except (Exception, SystemExit) as error:  # whatever somebody's code raises; exit(1) would be restarted for ever
        raise Refusal("execution adapter", f"{where} failed: {type(error).__name__}: {error}") from error
    if missing or nameless:
        raise Refusal("execution adapter", f"{where} is not an adapter: it lacks {', '.join(missing) or 'name'}")
    return adapter
