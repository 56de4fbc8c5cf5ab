"""The LIVE gate: everything that LIVE needs beside `mode = "LIVE"` (contract R6, guardrails G0 and G1).

It opens when `live_armed` is set, when the proof bundle is a true one (engine/attestation.py judges it) about exactly
this engine tree, this effective unit and this configuration, and when one execution adapter is installed. Whatever is
missing ends the start with exit 12 and one log line that names every check that failed. No code of an adapter runs
before all else is right.

It guards against mistakes and shortcuts: a typo, an old bundle, a change after the proofs. It cannot guard against
root on this computer, who can replace the engine itself. What is compared and why: docs/decisions/0003-live-gate.md.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from engine import attestation, settings
from engine.attestation import Here, Refusal
from engine.execution import ExecutionAdapter
from engine.exits import ConfigError
from engine.settings import Loaded

logger = logging.getLogger("engine.gate")

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

_PROPERTIES: Final = ("MainPID", "FragmentPath", "DropInPaths", "NeedDaemonReload")


def check(loaded: Loaded) -> ExecutionAdapter | None:
    """The adapter that LIVE trades through; None at once for SHADOW and PAPER.

    Raises ConfigError naming every check that failed. Remembers the bundle when it opens the gate.
    """
    config = loaded.settings
    if config.mode != "LIVE":
        return None
    found: list[Refusal] = []
    if not config.live_armed:
        found.append(Refusal("live_armed", "is not true"))
    now = time.time()
    memory = Path(config.app.db_path).parent / MEMORY_NAME
    made = 0.0
    try:
        statement = _statement(Path(config.gate.proof_bundle), config.gate.trusted_keys)
        here = Here(
            now, config.gate.max_age_hours, engine_files(), unit_files(), safety_part(loaded), *_remembered(memory)
        )
        found += attestation.refusals(statement, here)
        made = attestation.parse_time(statement.predicate.time)
    except Refusal as refusal:
        found.append(refusal)
    adapters = importlib.metadata.entry_points(group=ADAPTER_GROUP)
    if len(adapters) != 1:
        names = ", ".join(sorted(f"{one.name} = {one.value}" for one in adapters)) or "none"
        found.append(Refusal("execution adapter", f"entry point group {ADAPTER_GROUP} must have one, has {names}"))
    adapter = None
    if not found:
        try:
            (entry,) = adapters
            adapter = _load(entry)
            _remember(memory, made, now)
        except Refusal as refusal:
            found.append(refusal)
    if found:
        where = f"{loaded.config_path}: " if loaded.config_path else ""
        raise ConfigError(
            f'{where}mode = "LIVE" is refused: {"; ".join(map(str, found))}',
            key="mode",
            value="LIVE",
            checks=[refusal.check for refusal in found],
        )
    assert adapter is not None
    fields = {"bundle_time": attestation.show_time(made), "adapter": adapter.name}
    logger.warning("LIVE gate opened: orders are real", extra={"fields": fields})
    return adapter


def _statement(path: Path, trusted_keys: Sequence[str]) -> attestation.Statement:
    """What one of the keys has signed. Raises Refusal that names the file."""
    raw = _read(path, "proof bundle", attestation.BYTES_MAX)
    try:
        return attestation.verified(raw, trusted_keys)
    except Refusal as refusal:
        raise Refusal(refusal.check, f"proof bundle {path} {refusal.reason}") from None


# --- what is compared --------------------------------------------------------------------------------------


def safety_part(loaded: Loaded) -> dict[str, Any]:
    """The effective configuration without PACE_TABLES and PACE_KEYS, URLs redacted as `--check-config` shows them."""
    part: dict[str, Any] = {key: value for key, value in settings.effective(loaded).items() if key not in PACE_TABLES}
    part["engine"] = {key: value for key, value in part["engine"].items() if key not in PACE_KEYS}
    return part


def engine_files(package: Path = Path(__file__).parent) -> dict[str, str]:
    """Path below the package -> SHA-256, of all that Python could take for a part of it.

    Bytecode that Python wrote is left out, because it differs from computer to computer; instead what would run of it
    must be what its source says. Raises Refusal for that, and for whatever is no regular file.
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
            if path.parent.name != "__pycache__" or path.suffix != ".pyc":
                content = path.read_bytes()
                found[relative] = hashlib.sha256(content).hexdigest()
                if path.suffix == ".py" and not _runs_as_written(path, content):
                    raise Refusal("engine", f"{relative}: its bytecode in __pycache__ is not what the source says")
    return found


class _Loader(importlib.machinery.SourceFileLoader):
    """Python's own, but one that leaves no bytecode behind."""

    def set_data(self, path: str, data: object, *, _mode: int = 0o666) -> None:
        return


def _runs_as_written(path: Path, source: bytes) -> bool:
    loader = _Loader(path.stem, str(path))
    if not os.path.lexists(importlib.util.cache_from_source(str(path))):
        return True
    try:
        return bool(loader.get_code(path.stem) == loader.source_to_code(source, str(path)))
    except (ImportError, SyntaxError, EOFError, ValueError):
        return False


def unit_files() -> list[tuple[str, str]]:
    """(name, SHA-256) of the files that make up the unit we run as, the fragment first, as systemd has loaded them.

    Raises Refusal when we are not a unit's main process, or when its files have changed since systemd read them.
    """
    parts = [part for line in _text("/proc/self/cgroup").splitlines() for part in line.rpartition(":")[2].split("/")]
    services = [part for part in parts if part.endswith(".service")]
    program = shutil.which("systemctl", path="/usr/bin:/bin")
    if not services or program is None:
        raise Refusal("unit", "the engine does not run as a service of systemd")
    in_user_manager = any(re.fullmatch(r"user@\d+\.service", part) for part in services[:-1])
    manager = ["--user"] if in_user_manager else []
    argv = [program, *manager, "show", services[-1], f"--property={','.join(_PROPERTIES)}"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SYSTEMCTL_SECS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        raise Refusal("unit", f"systemd does not say what {services[-1]} is: {said} ({NO_BUS})") from None
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if shown.get("MainPID") != str(os.getpid()):
        raise Refusal("unit", f"the engine is not the main process of {services[-1]}")
    if shown.get("NeedDaemonReload") != "no":
        raise Refusal("unit", f"{services[-1]} has changed since systemd read it: `systemctl daemon-reload`, restart")
    paths = [shown.get("FragmentPath", ""), *shown.get("DropInPaths", "").split()]
    try:
        return [(Path(path).name, hashlib.sha256(Path(path).read_bytes()).hexdigest()) for path in paths]
    except OSError as error:
        raise Refusal("unit", f"{error.filename!r} cannot be read: {error.strerror}") from None


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _read(path: Path, what: str, bytes_max: int) -> bytes:
    """A regular file's bytes, no link followed. Raises Refusal, and FileNotFoundError in it as `__cause__`."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for somebody who writes.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Refusal(what, f"{path} is missing") from error
    except OSError as error:
        reason = "is a symbolic link" if path.is_symlink() else f"cannot be opened: {error.strerror}"
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
    """The time of the newest bundle that opened the gate, and when that last happened; (None, None): never.

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
    except (ValueError, TypeError, KeyError):
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


def _load(entry: importlib.metadata.EntryPoint) -> ExecutionAdapter:
    """The adapter that the entry point makes. Raises Refusal for whatever goes wrong in its code."""
    where = f"{entry.name} = {entry.value}"
    try:
        adapter: ExecutionAdapter = entry.load()()
    except Exception as error:  # whatever somebody's code raises
        raise Refusal("execution adapter", f"{where} failed: {type(error).__name__}: {error}") from error
    missing = [name for name in ("submit", "cancel", "reports") if not callable(getattr(adapter, name, None))]
    if missing or not isinstance(getattr(adapter, "name", None), str):
        raise Refusal("execution adapter", f"{where} is no adapter: it lacks {', '.join(missing) or 'name'}")
    return adapter
