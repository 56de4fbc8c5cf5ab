"""What the engine remembers: one SQLite file, one writer, any number of readers.

The writer hands over batches (batch.py), each one transaction, so after any crash it is there or it is not (D3).

`Ledger` belongs to one thread at a time and blocks it. The pipeline gives it a thread of its own, so that the
trading loop never waits for the disk (I6). `read_ticks` is the exception: it has its own read-only connection
and runs on the event loop.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from engine.base.events import Tick
from engine.base.exits import ConfigError
from engine.storage import dbfile, restoring
from engine.storage.batch import Batch, Busy, DiskTrouble, Restored, Unwritten, Written
from engine.storage.rows import RowWriter
from engine.storage.sqlite_codes import DAMAGED, DISK, LOCKED, primary_code, refuse, refuse_contents, uri

log = logging.getLogger("engine.storage.ledger")

WAL_BYTES: Final = 4 * 1024 * 1024
"""How much is in the WAL alone before it is copied into the file: about what SQLite's defaults come to."""

WAL_BYTES_MAX: Final = 2 * WAL_BYTES
"""More than this is copied beside the writer, which then waits for none of it; and a WAL file that is longer although
less of it is needed is cut."""

WAL_ALARM_BYTES: Final = 64 * 1024 * 1024
"""From here on a WAL is told of, and again at each doubling: somebody does not let it be copied."""

CHECKPOINT_PAUSE_SECS: Final = 1.0
"""Between two checkpoints of which the first could not do anything."""

LOOK_PAUSE_SECS: Final = 0.02
"""A batch that follows another so soon is written without a look at the files before. One takes 10 us and hands the
interpreter over to the event loop three times, and there may be a thousand batches a second."""

ASIDE_STOP_SECS: Final = 3.0
"""How long a stop waits for the copy of the WAL that is going on, and then for it to obey."""

ODD_SECS: Final = 1.0
"""How long the file may differ from what its WAL explains. A checkpoint of another process, an operator's shell, writes
pages before it says so."""

LAST_LOOK_PAUSE_SECS: Final = 0.01
"""Between two looks at files that differ from what their WAL explains, before they are closed."""


def plan_checkpoint(left_bytes: int, wal_bytes: int) -> str | None:
    """How to copy a WAL of `wal_bytes` of which `left_bytes` are not in the file yet: None, "PASSIVE" and "TRUNCATE" at
    once, between two batches, or "ASIDE", while the writer goes on.

    A WAL begins anew when all of it is copied and nobody reads it, which takes a moment without writing. So the bulk
    is copied aside, and what was written meanwhile at once.
    """
    if left_bytes > WAL_BYTES_MAX:
        return "ASIDE"
    if wal_bytes > WAL_BYTES_MAX:
        return "TRUNCATE"
    return "PASSIVE" if left_bytes >= WAL_BYTES else None


def wal_alarm_level(wal_bytes: int) -> int:
    """0 below WAL_ALARM_BYTES, 1 from there on, one more with each doubling."""
    return (wal_bytes // WAL_ALARM_BYTES).bit_length()


_IS_TICK: Final = (
    "(typeof(coalesce(name, '')) = 'text' AND typeof(symbol) = 'text' AND typeof(price) IN ('real', 'integer')"
    " AND typeof(volume) IN ('real', 'integer') AND typeof(ts) = 'integer' AND abs(price) < 9e999"
    " AND abs(volume) < 9e999 AND typeof(trade_id) IN ('integer', 'null') AND typeof(event_id) IN ('text', 'null'))"
)
"""Whether a row of `ticks` has the types of a tick: SQLite keeps any value in any column."""


class Ledger:
    """An open, verified database. Made by `open_ledger`; used by one thread at a time, which it blocks."""

    def __init__(
        self,
        path: Path,
        files: dbfile.DatabaseFile,
        connection: sqlite3.Connection,
        busy_timeout_ms: int,
        replay: bool,
        newest_tick_id: int,
    ) -> None:
        self.path = path
        # The length of the WAL file when it was last looked at. Any thread may read it.
        self.wal_bytes = 0
        self._files = files
        self._connection = connection
        self._busy_timeout_ms = busy_timeout_ms
        self._rows = RowWriter(connection, replay=replay)
        # What ended it: the files are not those that were opened any more, or not what we have made of them.
        self._lost: ConfigError | None = None
        self._opened = self._good = files.snapshot()
        self._header = files.header()
        self._odd_since: float | None = None
        self._good_at = time.time()
        self._next_look_at = 0.0
        # Rows committed since.
        self._rows_since = 0
        # The state of the WAL that we left: other salts, or more frames, are another process's doing.
        self._left = self._opened.frames
        self._newest_tick_id = newest_tick_id
        self._aside: threading.Thread | None = None
        self._aside_connection: sqlite3.Connection | None = None
        self._next_checkpoint_at = 0.0
        self._checkpoint_error: str | None = None
        self._alarm_level = 0

    def write(self, batch: Batch) -> Written:
        """Put all of `batch` on disk in one transaction, and say how much of it is new (D3, I3).

        Waits up to busy_timeout for another process's lock. Raises Busy or DiskTrouble when nothing was
        written and the same batch may be tried again (D4); ConfigError when the file turns out damaged, or is not
        where it was any more (D7); Crash when it refuses a row, which no second try can change.
        """
        if time.monotonic() >= self._next_look_at:
            self.look()
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            frames = self._files.frames()
            if not self._files.has_tail(frames):
                self._give_up("has a WAL that was cut off")
            self._notice_others(frames)
            written = self._rows.write(batch)
            connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                self._fail(error)
            raise
        self._rows_since += written.ticks + written.signals + written.orders + written.fills
        if batch.ticks:
            self._newest_tick_id = max(self._newest_tick_id, batch.ticks[-1].id)
        self._left = self._files.frames()
        self._checkpoint(self._left)
        return written

    def look(self) -> None:
        """Make sure that what is written is found under the path (D7), and keep the WAL short (D9).

        Raises ConfigError when the files are not what was opened any more; nothing is written from then on. Raises
        DiskTrouble when they cannot be looked at.
        """
        if self._lost is not None:
            raise self._lost
        try:
            if self._files.mend_index():
                self._give_up("has lost its WAL's index: it was cut off")
            now = self._files.snapshot()
        except (FileNotFoundError, NotADirectoryError) as error:
            self._give_up(f"is not there any more: {error.filename}")
        except OSError as error:
            raise DiskTrouble(f"{self.path}: {error}", errno.errorcode.get(error.errno or 0, "OSError")) from error
        fault = dbfile.find_fault(self._opened, now)
        if fault is not None:
            self._give_up(fault)
        self._judge(now)
        self._next_look_at = time.monotonic() + LOOK_PAUSE_SECS
        if self._odd_since is None:
            self._good_at = time.time()
            self._rows_since = 0
        self._notice_others(now.frames)
        self._watch_wal(now.wal_bytes)
        self._checkpoint(now.frames)

    def _judge(self, now: dbfile.FilesSnapshot) -> None:
        """Tell a change of the contents by SQLite from any other."""
        if self._aside is not None:
            if self._aside.is_alive():
                # It is the one that changes them.
                return
            self._aside = None
            self._end_checkpoint(self._good.frames)
        oddity = dbfile.find_oddity(self._good, now)
        if oddity is None:
            self._accept(now)
        elif self._odd_since is None or self._files.find_checkpointer() is not None:
            self._odd_since = time.monotonic()
        elif time.monotonic() - self._odd_since > ODD_SECS:
            self._give_up(f"{oddity}, and not by SQLite")

    def _accept(self, now: dbfile.FilesSnapshot) -> None:
        if now.database != self._good.database:
            self._header = self._files.header()
        self._good = now
        self._odd_since = None

    def _notice_others(self, now: dbfile.Frames) -> None:
        """Another process may have written. Whatever it wrote, it must not be an older database in place of ours."""
        if (now.salts, now.written) == (self._left.salts, self._left.written):
            return
        try:
            newest = self._connection.execute("SELECT max(id) FROM ticks").fetchone()[0] or 0
        except sqlite3.Error as error:
            self._fail(error)
        if newest < self._newest_tick_id:
            self._give_up(f"was restored over: its newest tick has id {newest}, and {self._newest_tick_id} was written")

    def _give_up(self, what: str) -> NoReturn:
        """Leave the files as a kill would, and no WAL beside a file that it was not made for."""
        self._next_look_at = 0.0
        self._stop_aside()
        there = self._files.find()
        in_place = there.database == self._opened.database[:2] and self._files.header() == self._header
        rescued = in_place and there.wal != self._opened.wal and there.shm == self._opened.shm and self._rescue()
        # Without its name, closing cannot delete it; interrupted, it cannot copy it.
        aside: Path | None = None
        if there.wal == self._opened.wal or (rescued and there.wal is not None):
            with suppress(OSError):
                aside = dbfile.set_aside(self._files.wal)
        self._connection.interrupt()
        self._connection.close()
        if aside is not None and in_place and not rescued and not self._files.wal.exists():
            aside.rename(self._files.wal)
            aside = None
        since = datetime.fromtimestamp(self._good_at, UTC).isoformat(timespec="milliseconds")
        rows = f"{self._rows_since} rows were committed" if self._rows_since else "nothing was committed"
        saved = "; all that was committed is in the file" if rescued else ""
        self._lost = ConfigError(
            f"{self.path}: the database {what}; {rows} since {since}, when it was last seen as it should be{saved}",
            path=str(self.path), rows=self._rows_since, since=since, wal_set_aside=aside and str(aside),
        )  # fmt: skip
        raise self._lost

    def _rescue(self) -> bool:
        """Copy a WAL that has lost its name into the file. We have it open; nobody will have it after us."""
        return self._copy(self._connection, "PASSIVE") and not self._files.frames().left_bytes

    def _watch_wal(self, wal_bytes: int) -> None:
        self.wal_bytes = wal_bytes
        level = wal_alarm_level(wal_bytes)
        fields = {"path": str(self.path), "wal_bytes": wal_bytes}
        if level > self._alarm_level:
            readers = self._files.find_readers()
            why = self._checkpoint_error or "somebody keeps a read transaction open"
            log.warning(
                "the WAL grows and cannot be cut", extra={"fields": {**fields, "why": why, "reader_pids": readers}}
            )
            self._alarm_level = level
        elif self._alarm_level and not level:
            log.info("the WAL is short again", extra={"fields": fields})
            self._alarm_level = 0

    def _checkpoint(self, frames: dbfile.Frames) -> None:
        how = plan_checkpoint(frames.left_bytes, self.wal_bytes)
        if how is None or self._aside is not None or self._odd_since is not None:
            return
        if time.monotonic() < self._next_checkpoint_at:
            return
        if how == "ASIDE":
            thread = threading.Thread(target=self._copy_aside, name="checkpoint", daemon=True)
            # Where no thread can be had it is tried again later, as after any other failure.
            with suppress(RuntimeError):
                thread.start()
                self._aside = thread
                return
        else:
            self._copy(self._connection, how)
        self._end_checkpoint(frames)

    def _end_checkpoint(self, before: dbfile.Frames) -> None:
        """What it has changed in the files was no other's doing. If it could not do anything, the next one waits."""
        try:
            now = self._files.snapshot()
        except OSError:
            # The next look says so.
            return
        if dbfile.find_fault(self._opened, now) is None:
            self._accept(now)
        if (now.frames.salts, now.frames.copied) == (before.salts, before.copied):
            self._next_checkpoint_at = time.monotonic() + CHECKPOINT_PAUSE_SECS

    def _copy_aside(self) -> None:
        """Copy the WAL on a connection of its own. The writer goes on, and copies nothing itself meanwhile: SQLite
        before 3.51.3 may lose a transaction that begins the WAL anew while another connection begins to copy it, so
        this begins only while there is something left to copy, which keeps the WAL from beginning anew."""
        try:
            with closing(sqlite3.connect(uri(self.path, "rw"), uri=True, isolation_level=None)) as connection:
                self._aside_connection = connection
                before = self._files.frames().copied
                self._copy(connection, "PASSIVE")
            # What the writer would wait for when it copies the rest and cuts the WAL: SQLite syncs the file only when
            # all of the WAL is in it, and cutting a file takes the longer the more of it is cached.
            if self._files.frames().copied != before:
                self._files.sync()
        except (sqlite3.Error, OSError) as error:
            self._checkpoint_error = str(error)
        finally:
            self._aside_connection = None

    def _copy(self, connection: sqlite3.Connection, how: str) -> bool:
        """Whether a checkpoint could be made. Where it could not, what was committed is in the WAL, and safe."""
        try:
            if how == "TRUNCATE":
                # It would wait for readers as for a lock.
                connection.execute("PRAGMA busy_timeout = 0")
            blocked, _, _ = connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        except sqlite3.Error as error:
            self._checkpoint_error = str(error)
            return False
        finally:
            if how == "TRUNCATE":
                connection.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms}")
        self._checkpoint_error = None
        return not blocked

    def _stop_aside(self, patience_secs: float = 0.0) -> None:
        if self._aside is not None:
            self._aside.join(patience_secs)
            if (connection := self._aside_connection) is not None:
                connection.interrupt()
            self._aside.join(ASIDE_STOP_SECS)

    def restore(self) -> Restored:
        """What earlier runs left: row numbers, watermarks, positions and open orders, at a cost that does not
        grow with the number of ticks. Raises ConfigError or Crash like `open_ledger`."""
        try:
            return restoring.restore(self._connection)
        except sqlite3.Error as error:
            refuse(self.path, error, "cannot be read")
        except restoring.NotOurs as error:
            refuse_contents(self.path, error)

    def written_ms(self) -> int:
        """When the files were last written, by the clock of then. To be asked before this run writes."""
        found = [self.path, self.path.with_name(f"{self.path.name}-wal")]
        return max((file.stat().st_mtime_ns // 1_000_000 for file in found if file.exists()), default=0)

    def lift_bars(self) -> list[str]:
        """Forget that venues want to be left alone (N5). Returns the hosts that were barred. Raises ConfigError or
        Crash like `open_ledger`."""
        try:
            barred = self._connection.execute(
                "SELECT DISTINCT coalesce(barred_host, name) FROM sources WHERE barred_until IS NOT NULL ORDER BY 1"
            ).fetchall()
            self._connection.execute("UPDATE sources SET barred_until = NULL")
        except sqlite3.Error as error:
            refuse(self.path, error, "cannot be written")
        return [host for (host,) in barred]

    async def read_ticks(self, chunk: int = 2000) -> AsyncGenerator[list[Tick], None]:
        """All ticks stored now, in time order (`ts`, then row id), in lists of at most `chunk`: REPLAY (N2).

        Sees the database as it is at the first read: ticks written meanwhile do not show up. Its connection
        is read-only and keeps temp_store at FILE, so that sorting a large table spills to disk instead of
        memory; the WAL cannot shrink until the generator is exhausted or closed. A tick of the earlier engine
        has the source "". Raises ConfigError or Crash like `open_ledger`, and ConfigError for a row that is no tick.
        """
        import aiosqlite

        try:
            async with (
                aiosqlite.connect(uri(self.path), uri=True) as connection,
                connection.execute(
                    "SELECT coalesce(sources.name, ''), symbol, price, volume, ts, trade_id, event_id,"
                    f" ticks.id, {_IS_TICK} FROM ticks LEFT JOIN sources ON sources.id = ticks.source"
                    " ORDER BY ts, ticks.id"
                ) as rows,
            ):
                while found := await rows.fetchmany(chunk):
                    ticks = []
                    for *row, is_tick in found:
                        if not is_tick:
                            what = restoring.NotOurs(f"ticks: the row with id {row[-1]} is no tick")
                            refuse_contents(self.path, what)
                        ticks.append(Tick(*row))
                    yield ticks
        except sqlite3.Error as error:
            if not primary_code(error):
                # Python's own word for a text that is not UTF-8.
                refuse_contents(self.path, error)
            refuse(self.path, error, "cannot be read")

    def close(self) -> None:
        """Close the database and let others have it; what was written is safe whether this is called or not.

        The checkpoint is PASSIVE, so a reader in mid-query cannot hold up a stop: TRUNCATE would wait for
        it as long as busy_timeout. Where nobody else has the file open, closing removes the WAL anyway.

        Raises ConfigError when only now it shows that the files are not what they should be (D7).
        """
        try:
            if self._lost is None:
                self._look_for_the_last_time()
                if not self._copy(self._connection, "PASSIVE"):
                    fields = {"path": str(self.path), "error": self._checkpoint_error}
                    log.warning("checkpoint failed", extra={"fields": fields})
                self._connection.close()
        finally:
            self._files.release()

    def _look_for_the_last_time(self) -> None:
        self._stop_aside(ASIDE_STOP_SECS)
        try:
            self.look()
            while self._odd_since is not None:
                time.sleep(LAST_LOOK_PAUSE_SECS)
                self.look()
        except Unwritten as error:
            log.warning("the files cannot be looked at", extra={"fields": {"error": str(error)}})
        self._stop_aside(ASIDE_STOP_SECS)

    def _roll_back(self) -> None:
        if self._lost is None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.error("rollback failed", extra={"fields": {"path": str(self.path), "error": str(error)}})

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        code = primary_code(error)
        if code in LOCKED:
            raise Busy(f"{self.path}: {error}") from error
        if code in DISK:
            raise DiskTrouble(f"{self.path}: {error}", error.sqlite_errorname) from error
        if code in DAMAGED:
            self._give_up(f"cannot be written: {error}")
        refuse(self.path, error, "cannot be written")
