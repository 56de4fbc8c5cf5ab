"""Opening the database: where a file is judged, before anything in it is changed (S1, D1, D2).

A directory, a file that is not SQLite, that this user may not write, that is damaged or that a newer engine wrote is
for a human to mend (`ConfigError`, exit 12); a lock or a full disk may pass (`Crash`, exit 1).
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from engine.base.exits import ConfigError, Crash
from engine.storage import dbfile
from engine.storage.ledger import Ledger
from engine.storage.migrations import SCHEMA_VERSION, TABLES, migrate, refuse_version
from engine.storage.sqlite_codes import BESIDE, DAMAGED, primary_code, refuse, uri

log = logging.getLogger("engine.storage.ledger")

_MAGIC: Final = b"SQLite format 3\0"

BUSY_TIMEOUT_MS_MIN: Final = 1000
"""D1: a shorter wait would turn an ordinary checkpoint by a reader into an error."""

QUICK_CHECK_BYTES_MAX: Final = 8 * 1024 * 1024
"""Up to this size the whole file is checked at every start (25 ms); a larger one only before a migration.
Damage beyond that shows when it is read, and ends the run as `ConfigError`."""

PAGE_BYTES: Final = 1024
"""Page size of a new file (an existing one keeps its own). A commit writes every page it touched as a whole,
and a batch of a few hundred rows touches the last page of each table and index. Measured with batches of
100 ticks: 223 B written a tick, 434 with SQLite's default of 4096; the rate is the same within the noise."""

CACHE_KIB: Final = 256
"""SQLite's page cache on the writer's connection. Rows go to the ends of tables and indexes, which is little; the
default of 2000 KiB only made the process grow for its first half million rows, without being faster (B1)."""

OPEN_PATIENCE_SECS: Final = 1.0
"""How long the files beside the database may be beyond us. Another user's reader, such as a healthcheck of root's, that
looks at the database in the moment in which we open it makes them its own before it hands them over."""

OPEN_PAUSE_SECS: Final = 0.01

PRAGMAS: Final[dict[str, tuple[str, str | int]]] = {
    "journal_mode": ("WAL", "wal"),
    "synchronous": ("NORMAL", 1),
    "temp_store": ("MEMORY", 2),
}
"""D1: what is set on the writer's connection, and what must be read back; busy_timeout is a setting."""


def _stored_version(path: Path, busy_timeout_ms: int) -> int:
    """The user_version of the file, found without changing a byte of it (D2: a newer one stays untouched).

    The header has it, unless a WAL was left behind: then the newest header is in there, and SQLite reads it
    for us. A writable connection would not do, closing it copies the WAL into the file.
    """
    header = _head(path)
    if not header:
        return 0
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise ConfigError(f"{path}: not an SQLite database", path=str(path), found=header[:16].hex())
    if any(owner := header[68:72]):
        raise ConfigError(
            f"{path}: the database of another application (application_id 0x{owner.hex()}); left as it is",
            path=str(path), application_id=owner.hex(),
        )  # fmt: skip
    wal = path.with_name(path.name + "-wal")
    if not wal.exists() or wal.stat().st_size == 0:
        return int.from_bytes(header[60:64], "big", signed=True)
    with closing(_reader(path, busy_timeout_ms)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _reader(path: Path, busy_timeout_ms: int, *, alone: bool = False) -> sqlite3.Connection:
    """A connection that changes nothing, `alone`: to the file without its WAL."""
    connection = sqlite3.connect(uri(path) + ("&immutable=1" if alone else ""), uri=True)
    connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    return connection


def _check_place(path: Path) -> None:
    """Refuse what no SQLite error would describe as well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a regular file", path=str(path))
        for beside in (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal")):
            if beside.exists() and not beside.is_file():
                raise ConfigError(f"{beside}: not a regular file, and SQLite needs one there", path=str(beside))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ConfigError(f"{path}: directory {path.parent} is not writable", path=str(path))
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise ConfigError(f"{path}: not readable and writable by this user", path=str(path))
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{path}: {error.strerror}: {error.filename}", path=str(path)) from error
    except OSError as error:
        # Its parents are there: it is in /proc or the like, where nobody can make a directory.
        hopeless = error.errno == errno.ENOENT or error.errno in dbfile.FOR_A_HUMAN
        kind = ConfigError if hopeless else Crash
        raise kind(f"{path}: {error.strerror}: {error.filename}", path=str(path)) from error


def _apply_pragmas(connection: sqlite3.Connection, path: Path, busy_timeout_ms: int) -> None:
    """Set what D1 asks for, read it back on the same connection, log it, refuse what differs (G3)."""
    connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
    for name, (value, _) in PRAGMAS.items():
        connection.execute(f"PRAGMA {name} = {value}")
    wanted: dict[str, str | int] = {name: value for name, (_, value) in PRAGMAS.items()}
    wanted["busy_timeout"] = busy_timeout_ms
    found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted}
    # Checkpoints are ours to begin, since a long one must not hold up the writer (`plan_checkpoint`).
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    log.info("PRAGMA verification", extra={"fields": found})
    differing = [name for name, value in wanted.items() if found[name] != value]
    if differing:
        raise ConfigError(
            f"{path}: PRAGMA mismatch: wanted {wanted}, found {found}",
            path=str(path), differing=differing,
        )  # fmt: skip
    log.info("all PRAGMAs verified", extra={"fields": {"path": str(path)}})


def _quick_check(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise ConfigError(f"{path}: damaged database: {verdict}", path=str(path), quick_check=verdict)


def open_ledger(
    path: str | Path, *, busy_timeout_ms: int, replay: bool = False, going_on: Callable[[], None] = lambda: None
) -> Ledger:
    """Open or create the database at `path`, verify and migrate it, and log what was found (S1, D1, D2).

    `busy_timeout_ms`: how long one attempt waits for another process's lock, at least BUSY_TIMEOUT_MS_MIN.
    `replay`: what this run derives is marked `replayed`, moves no position, and leaves what other runs derived
    from the same ticks as it is (I3); they in turn take over what only a replay had made.
    `going_on` is called now and then while a migration takes.
    Missing parent directories are made. While it is open nobody else can open it so, not even by another name (D6);
    what a lost database has left beside it is set aside with a WARNING (D8). Then logs, in this order: "PRAGMA
    verification", "all PRAGMAs verified", "schema migrated" (only if it was), "initial database state" (the highest
    row ids: counting rows would read the whole table).

    Raises ConfigError for a file no restart can heal, Crash for a lock or a disk that may recover.
    """
    path = Path(path)
    if busy_timeout_ms < BUSY_TIMEOUT_MS_MIN:
        raise ConfigError(
            f"[persist] busy_timeout_ms = {busy_timeout_ms}: at least {BUSY_TIMEOUT_MS_MIN}",
            key="persist.busy_timeout_ms", value=busy_timeout_ms,
        )  # fmt: skip
    _check_place(path)
    files = dbfile.claim(path)
    try:
        for orphan, orphan_bytes in dbfile.set_aside_orphans(path):
            fields = {"path": str(path), "orphan": str(orphan), "bytes": orphan_bytes}
            log.warning("set aside what a database that is gone has left", extra={"fields": fields})
        return _open_patiently(path, busy_timeout_ms, replay, files, going_on)
    except OSError as error:
        files.release()
        raise Crash(f"{path}: {error}", path=str(path)) from error
    except BaseException:
        files.release()
        raise


_TICK: Final = "SELECT id, symbol, price, ts FROM ticks"


class _Glance(NamedTuple):
    """What a database is seen to hold."""

    newest: tuple[int, str, float, int] | None
    """Id, symbol, price and time of the newest tick; the time in seconds where the earlier engine wrote it."""
    is_sound: bool


def _glance(path: Path, busy_timeout_ms: int, *, alone: bool) -> _Glance | None:
    """A look, `alone`: at the file without its WAL. None where there is no table of ticks, or where SQLite cannot make
    sense of it."""
    with closing(_reader(path, busy_timeout_ms, alone=alone)) as connection:
        try:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'ticks'").fetchone() is None:
                return None
            newest = connection.execute(f"{_TICK} ORDER BY id DESC LIMIT 1").fetchone()
            is_small = path.stat().st_size <= QUICK_CHECK_BYTES_MAX
            is_sound = not is_small or connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            return _Glance(newest, is_sound)
        except sqlite3.Error as error:
            if primary_code(error) in DAMAGED | {sqlite3.SQLITE_ERROR}:
                return None
            raise


def _why_not_its_wal(path: Path, busy_timeout_ms: int) -> str | None:
    """Why the WAL beside a database is another one's, as far as can be seen; None where it may be its own.

    A WAL does not say whose it is, and SQLite takes any. But ticks are only ever added: what the file has without the
    WAL it must have with it. A file in the midst of a checkpoint need not make sense alone; with its own WAL it does.
    """
    alone = _glance(path, busy_timeout_ms, alone=True)
    if alone is None or not alone.is_sound:
        return None
    both = _glance(path, busy_timeout_ms, alone=False)
    if both is None or not both.is_sound:
        return "with it the database is damaged, without it not"
    if alone.newest is None or both.newest == alone.newest:
        return None
    with closing(_reader(path, busy_timeout_ms)) as connection:
        same = connection.execute(f"{_TICK} WHERE id = ?", alone.newest[:1]).fetchone()
    # The WAL may have the migration of the earlier engine's database.
    if same in (alone.newest, (*alone.newest[:3], alone.newest[3] * 1000)):
        return None
    return f"with it tick {alone.newest[0]}, the newest of the database, is not there"


def _set_aside_foreign(path: Path, busy_timeout_ms: int) -> None:
    """Rename a WAL or journal of another database, which SQLite would take for this one's (D8). Raises ConfigError for
    a database of a newer engine, which is left as it is, with what lies beside it."""
    real = Path(os.path.realpath(path))
    header = _head(real)
    if len(header) < 100 or not header.startswith(_MAGIC):
        return
    refuse_version(path, int.from_bytes(header[60:64], "big", signed=True))
    for suffix, least in dbfile.LEAST_BYTES.items():
        beside = real.with_name(real.name + suffix)
        if not beside.is_file() or beside.stat().st_size <= least:
            continue
        why = dbfile.why_foreign(header, beside, _head(beside))
        if why is None and suffix == "-wal":
            why = _why_not_its_wal(real, busy_timeout_ms)
        if why is not None:
            orphan_bytes = beside.stat().st_size
            fields = {"path": str(path), "orphan": str(dbfile.set_aside(beside)), "bytes": orphan_bytes, "why": why}
            log.warning("set aside what belongs to another database", extra={"fields": fields})


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _open_patiently(
    path: Path, busy_timeout_ms: int, replay: bool, files: dbfile.DatabaseFile, going_on: Callable[[], None]
) -> Ledger:
    patience = time.monotonic() + OPEN_PATIENCE_SECS
    while True:
        try:
            return _open(path, busy_timeout_ms, replay, files, going_on)
        except sqlite3.Error as error:
            if primary_code(error) not in BESIDE or time.monotonic() > patience:
                refuse(path, error, "cannot be opened")
        time.sleep(OPEN_PAUSE_SECS)


def _open(
    path: Path, busy_timeout_ms: int, replay: bool, files: dbfile.DatabaseFile, going_on: Callable[[], None]
) -> Ledger:
    connection: sqlite3.Connection | None = None
    try:
        _set_aside_foreign(path, busy_timeout_ms)
        version = _stored_version(path, busy_timeout_ms)
        refuse_version(path, version)
        # By URI, for Debian's SQLite takes a path that begins with "file:" for one. The writer thread is not the one
        # that opens; `Ledger` is never used by two at once.
        connection = sqlite3.connect(uri(path, "rw"), uri=True, isolation_level=None, check_same_thread=False)
        _apply_pragmas(connection, path, busy_timeout_ms)
        if version < SCHEMA_VERSION or path.stat().st_size <= QUICK_CHECK_BYTES_MAX:
            _quick_check(connection, path)
        if version < SCHEMA_VERSION:
            migrate(connection, path, going_on)
        highest = {
            f"{table}_id_max": connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0] or 0 for table in TABLES
        }
        log.info(
            "initial database state",
            extra={"fields": {"path": str(path), "schema_version": SCHEMA_VERSION, **highest}},
        )
        files.open_index()
        return Ledger(path, files, connection, busy_timeout_ms, replay, highest["ticks_id_max"])
    except BaseException:
        if connection is not None:
            connection.close()
        raise
