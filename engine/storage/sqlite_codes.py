"""What SQLite's result codes mean to the engine: try again, let a restart try, or leave it to a human.

https://sqlite.org/rescode.html
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote

from engine.base.exits import ConfigError, Crash

# What a human has to mend. Everything else SQLite can fail with at start may be gone after a restart.
_UNUSABLE: Final = frozenset({
    sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
})  # fmt: skip

# The engine has no triggers: what one forbids is forbidden for as long as it is there.
_BY_A_TRIGGER: Final = sqlite3.SQLITE_CONSTRAINT_TRIGGER

BESIDE: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
"""What SQLite says then, depending on whether those files can be read: the database itself was found to be writable."""

LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
DISK: Final = frozenset({
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
})  # fmt: skip
DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code (the low byte of the extended one); 0 for errors of the Python layer."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def refuse(path: Path, error: sqlite3.Error, doing: str) -> NoReturn:
    """Raise ConfigError for what a human has to mend, Crash for what a restart may heal; `doing` ends the sentence
    that begins with the path."""
    is_for_a_human = primary_code(error) in _UNUSABLE or getattr(error, "sqlite_errorcode", 0) == _BY_A_TRIGGER
    kind = ConfigError if is_for_a_human else Crash
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    raise kind(f"{path}: {doing}: {error}", path=str(path), sqlite=name) from error


def refuse_contents(path: Path, error: Exception) -> NoReturn:
    """Raise ConfigError for a database that holds what no engine writes."""
    raise ConfigError(
        f"{path}: holds what the engine never writes, in {error}; mend it, or put a backup in its place", path=str(path)
    ) from None


def uri(path: Path, mode: str = "ro") -> str:
    """`path` as an SQLite URI that is opened in `mode` (ro, rw)."""
    return f"file:{quote(bytes(path.absolute()))}?mode={mode}"
