"""What the dashboard has observed, kept beside it, so that it outlives the dashboard (contract W8).

A SQLite file of the dashboard's own, in the directory that systemd gives it. Bounded twice: by the tiers, which bound
the rows, and by a number of pages. A store that cannot be read, is full or is not there never stops anything: what is
observed stays in memory, the page says what is wrong, and the next look tries again.
"""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.base import jsontext
from harness.dashboard.telemetry import (
    AGE_SECS_MAX,
    EVENTS_MAX,
    SERIES,
    TIERS,
    KeptStep,
    Remembered,
    Sums,
    Telemetry,
    TelemetryEvent,
)
from harness.dashboard.view_model import Observation

NAME = "telemetry.db"

KEEP_SECS = 5.0
"""Between two writes: what a SIGKILL can lose."""

PAGE_BYTES, PAGES_MAX = 1024, 8192
"""Small, since a write changes the end of each tier and nothing else; 8 MiB are several times what the tiers fill."""

WAL_BYTES_MAX = 1024 * 1024

LOCK_SECS = 0.25

OLD_EVERY = 12
"""Writes between two removals of what is too old."""

VERSION = 1
"""Of the schema; a file of another one is set aside."""

_SCHEMA = """
CREATE TABLE steps (
  seconds INTEGER NOT NULL, at INTEGER NOT NULL, sums TEXT NOT NULL, PRIMARY KEY (seconds, at)
) WITHOUT ROWID;
CREATE TABLE events (at_ms INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE state (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_STATE = ("told_us", "source", "source_since_ms")


class TelemetryStore:
    """The file. Whatever fails, `trouble` says it in words; nothing is raised. For one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._connection: sqlite3.Connection | None = None
        # Of the file that is open.
        self._inode = 0
        self._writes = 0
        self.trouble = ""
        """Why nothing is kept at the moment; empty when all is."""
        self.damage = ""
        """What was found damaged since the start, and what became of it."""
        self.is_new = False
        """Whether the file was made by this dashboard, and does not have yet what it knew before."""

    def load(self) -> Remembered:
        """Return what an earlier dashboard kept; nothing where there is nothing that can be read."""
        return self._try(self._load) or Remembered()

    def save(self, news: Remembered, now: float) -> bool:
        """Keep what has changed, in one transaction. now: seconds since the Unix epoch. Returns whether it is kept."""

        def write(connection: sqlite3.Connection) -> bool:
            self._write(connection, news, now)
            return True

        return self._try(write) or False

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except sqlite3.Error as error:
                self.trouble = f"{self._path}: {error}"

    def _try(self, what: Any) -> Any:
        for trial in (1, 2):
            try:
                result = what(self._open())
            except (sqlite3.Error, OSError, ValueError) as error:
                self.trouble = f"{self._path}: {_words(error)}"
                self.close()
                damaged = getattr(error, "sqlite_errorname", "") in _DAMAGED or isinstance(error, _Foreign)
                if trial == 1 and damaged and self._set_aside(str(error)):
                    continue
                return None
            self.trouble = ""
            return result
        return None

    def _open(self) -> sqlite3.Connection:
        try:
            status = self._path.lstat()
            if self._connection is not None and status.st_ino == self._inode:
                return self._connection
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("is not a file")
        except FileNotFoundError:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
        # A file that was taken away from under us would be written to, and nobody would find it.
        self.close()
        connection = sqlite3.connect(self._path, timeout=LOCK_SECS, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._writes, self._inode = connection, 0, self._path.lstat().st_ino
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute(f"PRAGMA max_page_count = {PAGES_MAX}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        connection.execute("PRAGMA cache_size = -256")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA journal_mode = WAL")
        # A cut of the power may take the last writes, and never the file; each write would cost a flush of the disk.
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
        if version == 0 and tables == 0:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
            self.is_new = True
        elif version != VERSION:
            raise _Foreign(f"is of version {version}, not {VERSION}")
        elif connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise _Foreign("fails SQLite's check")

    def _set_aside(self, why: str) -> bool:
        aside = self._path.with_name(f"{NAME}.damaged")
        try:
            for suffix in ("-wal", "-shm"):
                self._path.with_name(f"{NAME}{suffix}").unlink(missing_ok=True)
            self._path.replace(aside)
        except OSError as error:
            self.trouble = f"{self._path}: {why}, and it cannot be set aside: {error.strerror}"
            return False
        self.damage = f"{self._path} was damaged ({why}): it is set aside as {aside.name}, and a new one is written"
        return True

    def _load(self, connection: sqlite3.Connection) -> Remembered:
        most = 2 * sum(steps for _, steps in TIERS)
        rows = connection.execute("SELECT seconds, at, sums FROM steps ORDER BY at DESC LIMIT ?", (most,)).fetchall()
        steps = [KeptStep(seconds, at, sums) for seconds, at, text in rows if (sums := _sums(seconds, at, text))]
        found = connection.execute("SELECT at_ms, kind, text FROM events ORDER BY at_ms DESC LIMIT ?", (EVENTS_MAX,))
        events = [
            TelemetryEvent(at_ms, kind, jsontext.text(text))
            for at_ms, kind, text in reversed(found.fetchall())
            if isinstance(at_ms, int) and kind in ("start", "stop", "crash", "source")
        ]
        state = dict(connection.execute("SELECT name, value FROM state LIMIT 100").fetchall())
        told_us, source, since = (state.get(name) for name in _STATE)
        return Remembered(
            steps, events, told_us if isinstance(told_us, int) else 0, source if isinstance(source, str) else None,
            since if isinstance(since, int) else None,
        )  # fmt: skip

    def _write(self, connection: sqlite3.Connection, news: Remembered, now: float) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                "INSERT OR REPLACE INTO steps VALUES (?, ?, ?)",
                [(one.seconds, one.at, jsontext.write(dict(one.sums))) for one in news.steps],
            )
            if news.events is not None:
                connection.execute("DELETE FROM events")
                connection.executemany(
                    "INSERT INTO events VALUES (?, ?, ?)", [(one.at_ms, one.kind, one.text) for one in news.events]
                )
            state = zip(_STATE, (news.told_us, news.source, news.source_since_ms), strict=True)
            connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", list(state))
            if self._writes % OLD_EVERY == 0:
                for seconds, steps in TIERS:
                    old = (seconds, int(now) - seconds * steps)
                    connection.execute("DELETE FROM steps WHERE seconds = ? AND at < ?", old)
                connection.execute("DELETE FROM events WHERE at_ms < ?", (int(now - AGE_SECS_MAX) * 1000,))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._writes += 1


class _Foreign(ValueError):
    """The file is a database, and not ours."""


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _sums(seconds: object, at: object, text: object) -> Mapping[str, Sums] | None:
    """What a row says; None for one that no dashboard has written."""
    if not isinstance(seconds, int) or not isinstance(at, int) or not isinstance(text, str):
        return None
    try:
        table = jsontext.parse(text)
    except ValueError:
        return None
    found: dict[str, Sums] = {}
    for name in SERIES if isinstance(table, dict) else ():
        values = table.get(name)
        if isinstance(values, list) and len(values) == 3:
            count, total, top = map(jsontext.number, values)
            if count and total is not None and top is not None:
                found[name] = (float(count), float(total), float(top))
    return found or None


class KeptTelemetry:
    """What was observed, and the file in which it is kept, for all threads."""

    def __init__(self, store: TelemetryStore | None = None) -> None:
        """store: None keeps it in memory alone."""
        self._store = store
        self._telemetry = Telemetry()
        # Guards the telemetry: observations are taken on one thread, and asked for on others.
        self._lock = threading.Lock()

    def load(self) -> None:
        """Take back what an earlier dashboard kept; before the first observation."""
        if self._store is not None:
            kept = self._store.load()
            with self._lock:
                self._telemetry.restore(kept)

    def take(self, seen: Observation) -> None:
        """Remember one observation."""
        with self._lock:
            self._telemetry.take(seen)

    def keep(self, now: float) -> None:
        """Write what has changed since the last time. now: seconds since the Unix epoch."""
        if self._store is None:
            return
        with self._lock:
            news = self._telemetry.unkept()
        if not self._store.save(news, now):
            with self._lock:
                self._telemetry.not_kept(news)
        elif self._store.is_new:
            # The file may have been taken away, or set aside: all that is known goes into the new one.
            with self._lock:
                everything = self._telemetry.everything()
            self._store.is_new = not self._store.save(everything, now)

    def close(self, now: float) -> None:
        """Write what is left."""
        self.keep(now)
        if self._store is not None:
            self._store.close()

    @property
    def notices(self) -> list[str]:
        """What an operator should know of the store, in words."""
        if self._store is None:
            return []
        found = [f"telemetry is not kept: {self._store.trouble}"] if self._store.trouble else []
        return [*found, *([f"telemetry: {self._store.damage}"] if self._store.damage else [])]

    def span(self, from_ms: int, to_ms: int) -> dict[str, Any]:
        """Return what was observed in a span: `series`, `events`, since when anything is known (`known_from`), and what
        is wrong with the store (`notices`)."""
        with self._lock:
            return {
                "series": self._telemetry.span(from_ms, to_ms),
                "events": [vars(event) for event in self._telemetry.events(from_ms, to_ms)],
                "known_from": self._telemetry.first_ms(),
                "kept": self._store is not None and not self._store.trouble,
                "notices": self.notices,
            }

    def first_ms(self) -> int | None:
        """From when on something is known; None for nothing."""
        with self._lock:
            return self._telemetry.first_ms()

    def source_since_ms(self) -> int | None:
        """Since when the feed is known to come from where it comes from."""
        with self._lock:
            return self._telemetry.source_since_ms
