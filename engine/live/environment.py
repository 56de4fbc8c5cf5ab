"""Environment variables and where they come from: what systemd says of a unit -> reasons to refuse LIVE (R9). Pure.

A variable can change what code runs (PYTHONPATH, LD_PRELOAD), whom TLS trusts (SSL_CERT_FILE) or which library carries
the feed (HYBRID_TRANSPORT). So each one that the engine has must be explained: systemd makes it itself, or the unit's
Environment= or one of its environment files sets it, which a bundle is about. What comes from elsewhere
(PassEnvironment=, `systemctl set-environment`, DefaultEnvironment=) nobody has signed. Some are refused wherever they
come from.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator
from typing import Final

HARMLESS: Final = frozenset({"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"})
"""Older units set these two, and an isolated Python does not read them."""

FORBIDDEN: Final = re.compile(
    r"PYTHON.*|LD_.*|GCONV_PATH|GLIBC_TUNABLES|LOCPATH|NLSPATH|HOSTALIASES|LOCALDOMAIN|RES_OPTIONS|RESOLV_.*"
    r"|OPENSSL_.*|SSL_CERT_(FILE|DIR)|SSLKEYLOGFILE"
)
"""What puts other code into a process, or another trust store or other names of hosts under it. A unit that sets one is
signed, but what it points to is not. Python's, OpenSSL's and the linker's go by prefix: new releases bring new ones."""

FROM_SYSTEMD: Final = frozenset(
    {
        "PATH", "LANG", "LANGUAGE", "USER", "LOGNAME", "HOME", "SHELL", "TERM", "COLORTERM", "NO_COLOR",
        "INVOCATION_ID", "JOURNAL_STREAM", "LOG_NAMESPACE", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC",
        "MAINPID", "MANAGERPID", "MANAGERPIDFDID", "SYSTEMD_EXEC_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID",
        "LISTEN_FDNAMES", "FDSTORE", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "DEBUG_INVOCATION",
        "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY", "LOGS_DIRECTORY", "CONFIGURATION_DIRECTORY",
        "CREDENTIALS_DIRECTORY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "TRIGGER_UNIT", "TRIGGER_PATH",
        "TRIGGER_TIMER_REALTIME_USEC", "TRIGGER_TIMER_MONOTONIC_USEC",
    }
)  # fmt: skip
"""What a manager sets by itself, LC_* beside them; none changes what runs. systemd.exec(5), "Environment Variables Set
or Propagated by the Service Manager"."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMED_MAX: Final = 5
"""How many variables one reason names."""


def properties(text: str) -> dict[str, list[str]]:
    """Return what `systemctl show` printed: property -> its values, of which EnvironmentFiles has one a line."""
    found: dict[str, list[str]] = {}
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    return found


def set_by_unit(values: Collection[str]) -> set[str]:
    """Return the names in the property Environment, which is quoted as for a shell. What cannot be read sets
    nothing."""
    found: set[str] = set()
    for value in values:
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        # A word with control characters is shown as $'NAME=...'.
        found |= {word.removeprefix("$").partition("=")[0] for word in words if "=" in word}
    return {name for name in found if _NAME.fullmatch(name)}


def set_by_file(content: str) -> set[str]:
    """Return the names that the text of an environment file may set."""
    names = (line.lstrip().partition("=")[0].rstrip() for line in content.split("\n") if "=" in line)
    return {name for name in names if _NAME.fullmatch(name)}


def files(values: Collection[str]) -> list[tuple[str, bool]]:
    """(path or pattern, may it be absent) of the property EnvironmentFiles, in order."""
    found = []
    for value in values:
        path, _, said = value.rpartition(" (ignore_errors=")
        if path:
            found.append((path, said == "yes)"))
    return found


def set_in_manager(text: str) -> set[str]:
    """Return the names in what `systemctl show-environment` printed: one assignment a line."""
    return {line.partition("=")[0] for line in text.split("\n") if "=" in line}


def objections(own: Collection[str], by_unit: Collection[str] | None, in_manager: Collection[str]) -> Iterator[str]:
    """Yield why the variables with these names keep LIVE shut.

    own: those of the engine's process. by_unit: those that the unit and its files set; None when that is not known.
    in_manager: those of the manager's own environment, which every unit gets.
    """
    if named := [name for name in own if _is_forbidden(name)]:
        yield f"{_listed(named)} set: another code, trust or resolver than was proven may run"
    if named := [name for name in in_manager if _is_forbidden(name)]:
        yield f"{_listed(named)} set in systemd's own environment: `systemctl unset-environment`, DefaultEnvironment="
    if by_unit is not None:
        known = {*by_unit, *FROM_SYSTEMD}
        if named := [
            name for name in own if name not in known and not name.startswith("LC_") and not _is_forbidden(name)
        ]:
            yield (
                f"{_listed(named)} set by neither Environment= nor EnvironmentFile= of the unit, so nobody signed it: "
                "write it there, or UnsetEnvironment="
            )


def _is_forbidden(name: str) -> bool:
    return FORBIDDEN.fullmatch(name) is not None and name not in HARMLESS


def _listed(names: Collection[str]) -> str:
    some = sorted(names)[:_NAMED_MAX]
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return f"{', '.join(some)}{more} {'is' if len(names) == 1 else 'are'}"
