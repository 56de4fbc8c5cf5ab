"""The database as files: that nobody else has it, that it is still where it was, what lies beside it without an owner.

SQLite answers none of this: it lets two engines write to one file, goes on writing to a file that was deleted or moved
away, and throws a write-ahead log away that it finds beside an empty database.

Two locks say that a database is ours, and die with the process. One is on a file beside it, whose holder the kernel
names (F_GETLK); it holds although the database itself is replaced. One is on the database's own inode, which has one
however many names lead to it. That one is flock(2), which POSIX locks, SQLite's, do not see.

No file of SQLite's is closed here before SQLite has closed it: closing any descriptor of a file drops all POSIX locks
that the process has on it (see "How To Corrupt An SQLite Database File", 2.2).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from engine.base.exits import ConfigError, Crash

WAL_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24

_HEADER_BYTES: Final = 100
"""Of the database: with the counter of its changes and its size in pages."""

_INDEX: Final = struct.Struct("=14xHI12xII56xI")
"""Of the wal-index, in the computer's byte order (https://www.sqlite.org/walformat.html, 2.1): page size, frames in the
WAL, the two salts, and frames that were copied into the database."""

_SALTS: Final = struct.Struct("=II")
"""As the wal-index has them, which are the bytes of each frame."""

_CHECKPOINT_BYTE: Final = 121
_READ_BYTES: Final = range(124, 128)
"""Of the wal-index: whoever copies the WAL, or reads a snapshot that needs it, has a lock on one of them (2.2.4)."""

_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of fcntl(2) on 64-bit Linux: type, whence, start, length, PID."""

LEAST_BYTES: Final = {"-wal": WAL_HEADER_BYTES, "-journal": 512}
"""What a lost database leaves beside it, and how long it is without holding anything."""

_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
_WAL_MAGICS: Final = (bytes.fromhex("377f0682"), bytes.fromhex("377f0683"))

FOR_A_HUMAN: Final = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
    errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP,
})  # fmt: skip


class Frames(NamedTuple):
    """What the wal-index says."""

    page_bytes: int
    written: int
    """Frames in the WAL."""
    salts: tuple[int, int]
    """Others in each generation of the WAL: it begins anew once all of it is in the database."""
    copied: int
    """Frames of them that are in the database file."""

    def bytes_of(self, frames: int) -> int:
        """What so many frames take in the file."""
        return frames * (FRAME_HEADER_BYTES + self.page_bytes)

    @property
    def left_bytes(self) -> int:
        """What is not in the database file yet."""
        return self.bytes_of(self.written - self.copied)


class FilesSnapshot(NamedTuple):
    """The files at one moment."""

    database: tuple[int, int, int, int]
    """Device, inode, size, time of change."""
    wal: tuple[int, int]
    shm: tuple[int, int]
    wal_bytes: int
    frames: Frames


class Found(NamedTuple):
    """Which files have the names now, by device and inode; None for no file that could be seen."""

    database: tuple[int, int] | None
    wal: tuple[int, int] | None
    shm: tuple[int, int] | None


def find_fault(opened: FilesSnapshot, now: FilesSnapshot) -> str | None:
    """Which of the files is not the one that was opened, in words; None while all are."""
    if now.database[:2] != opened.database[:2]:
        return "was replaced: another file is in its place"
    if now.wal != opened.wal:
        return "has lost its WAL: another file is in its place"
    if now.shm != opened.shm:
        return "has lost its WAL's index: another file is in its place"
    if now.database[2] == 0:
        return "was truncated to nothing"
    return None


def find_oddity(before: FilesSnapshot, now: FilesSnapshot) -> str | None:
    """What happened to the contents that no checkpoint and no transaction explains, in words.

    A checkpoint of another process is odd too while it runs: only what stays odd is a fault. The index has to be read
    before the sizes: a checkpoint changes the file first and the index afterwards.
    """
    if now.database[2:] != before.database[2:] and (now.frames.salts, now.frames.copied) == (
        before.frames.salts,
        before.frames.copied,
    ):
        shorter = before.database[2] - now.database[2]
        return f"is {shorter} bytes shorter" if shorter > 0 else "was changed in place"
    if now.frames.written and now.wal_bytes < WAL_HEADER_BYTES + now.frames.bytes_of(now.frames.written):
        return "has a WAL that was cut off"
    return None


class DatabaseFile:
    """A database that is ours until `release`."""

    def __init__(self, path: Path, lock: int, descriptor: int) -> None:
        # As it was given: what a link in it leads to may change, and then what we write is not found by that path.
        self._lock_path = _lock_path(path)
        self._path = os.path.abspath(path)
        real = os.path.realpath(path)
        self.wal = Path(f"{real}-wal")
        # As text, because each batch asks for them.
        self._real, self._wal, self._shm = real, f"{real}-wal", f"{real}-shm"
        self._lock = lock
        self._descriptor = descriptor
        self._inode = os.fstat(descriptor).st_ino
        self._index: int | None = None
        self._index_bytes: int  # as long as it has been since `open_index`
        # It has no locks, unlike SQLite's other files.
        self._wal_descriptor: int | None = None
        self._map: mmap.mmap | None = None

    def open_index(self) -> None:
        """To be called once, when SQLite has opened its files.

        Raises ConfigError when there is no index of a WAL that others share.
        """
        try:
            self._index = os.open(self._shm, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ConfigError(f"{self._path}: no wal-index: not in WAL mode, or not shared", path=self._path) from error
        # Mapped, as SQLite has it: a system call would hand the interpreter over to the event loop, in each batch.
        self._map = mmap.mmap(self._index, _INDEX.size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._index_bytes = os.fstat(self._index).st_size
        self._wal_descriptor = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        if not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
            raise Crash(f"{self._path}: was replaced while it was opened", path=self._path)

    def mend_index(self) -> bool:
        """Whether the index was cut off. Then it is as long as it was, because SQLite and we have it mapped, and
        whoever touches a page that is not there dies of SIGBUS; and it says that it knows nothing, so that whoever
        needs it makes it anew out of the WAL, rather than to take what is left of it for all."""
        assert self._index is not None
        index_bytes = os.fstat(self._index).st_size
        if index_bytes >= self._index_bytes:
            self._index_bytes = index_bytes
            return False
        os.pwrite(self._index, bytes(_INDEX.size), 0)
        os.ftruncate(self._index, self._index_bytes)
        return True

    def snapshot(self) -> FilesSnapshot:
        """The files as they are. Raises FileNotFoundError or NotADirectoryError when one is not there."""
        frames = self.frames()
        database, wal, shm = os.stat(self._path), os.stat(self._wal), os.stat(self._shm)
        # A link in its place may lead to the same file; but whoever follows it looks for the WAL beside the other name.
        found = database if database.st_ino != self._inode else os.lstat(self._real)
        return FilesSnapshot(
            (found.st_dev, found.st_ino, database.st_size, database.st_mtime_ns),
            (wal.st_dev, wal.st_ino),
            (shm.st_dev, shm.st_ino),
            wal.st_size,
            frames,
        )

    def frames(self) -> Frames:
        """What the wal-index says now."""
        assert self._map is not None
        page_bytes, written, salt_1, salt_2, copied = _INDEX.unpack_from(self._map)
        # 65536 does not fit into its sixteen bits, and is written as 1.
        return Frames(65536 if page_bytes == 1 else page_bytes, written, (salt_1, salt_2), copied)

    def has_tail(self, frames: Frames) -> bool:
        """Whether the last frame of the WAL is where the index says. It is not once the file has been cut, even if it
        has grown again since. To be asked under SQLite's write lock, when nobody begins the WAL anew."""
        if not frames.written:
            return True
        assert self._wal_descriptor is not None
        read = os.pread(self._wal_descriptor, 16, WAL_HEADER_BYTES + frames.bytes_of(frames.written - 1))
        return read[8:] == _SALTS.pack(*frames.salts)

    def find(self) -> Found:
        """Which files have the names now, whatever a link in the given path leads to by now."""
        return Found(*(_identity(path) for path in (self._real, self._wal, self._shm)))

    def find_checkpointer(self) -> int | None:
        """The PID of another process that is copying the WAL."""
        assert self._index is not None
        return _ask_lock(self._index, _CHECKPOINT_BYTE)

    def find_readers(self) -> list[int]:
        """The PIDs of other processes that read a snapshot; one of each of the four that there may be."""
        assert self._index is not None
        return sorted({pid for byte in _READ_BYTES if (pid := _ask_lock(self._index, byte)) is not None})

    def header(self) -> bytes:
        """The first bytes of the file that we have, wherever it is now."""
        return os.pread(self._descriptor, _HEADER_BYTES, 0)

    def sync(self) -> None:
        """Bring to the disk what a checkpoint has copied into the file, and drop the WAL from the cache."""
        os.fsync(self._descriptor)
        # Unlike the other files it has no locks that closing it would drop.
        wal = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(wal, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(wal)

    def release(self) -> None:
        """Let others have it. To be called once, when SQLite has closed it."""
        if self._map is not None:
            self._map.close()
        for descriptor in (self._index, self._wal_descriptor, self._descriptor):
            if descriptor is not None:
                os.close(descriptor)
        _drop_lock(self._lock_path, self._lock)


def claim(path: Path) -> DatabaseFile:
    """Make the database at `path` ours; it is made, empty, where there is none. Its directory must be there.

    Raises ConfigError, which names the process that has it, or says what is wrong with the lock; Crash for a disk that
    may recover.
    """
    try:
        return _claim(path, _lock_path(path))
    except OSError as error:
        # In /proc, /sys and their like there are directories in which nobody can make a file.
        hopeless = error.errno == errno.ENOENT and path.parent.is_dir()
        kind = ConfigError if hopeless or error.errno in FOR_A_HUMAN else Crash
        raise kind(f"{error.filename}: {error.strerror}{_owner(_lock_path(path))}", path=str(path)) from error


def _claim(path: Path, lock_path: Path) -> DatabaseFile:
    with ExitStack() as undo:
        lock = _take_lock(path, lock_path)
        undo.callback(_drop_lock, lock_path, lock)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        undo.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(path, _flock_holder(os.fstat(descriptor))) from None
        undo.pop_all()
        return DatabaseFile(path, lock, descriptor)


def set_aside_orphans(path: Path) -> list[tuple[Path, int]]:
    """Rename what a database that is gone or empty has left beside it; where to, and its size in bytes.

    SQLite would delete it, unread. What lies beside a link belongs to no database: SQLite looks
    beside what it leads to.
    """
    real, given = Path(os.path.realpath(path)), Path(os.path.abspath(path))
    owners = [given] if given.is_symlink() else []
    if not real.exists() or not real.stat().st_size:
        owners.append(real)
    found = [(owner.with_name(owner.name + suffix), least) for owner in owners for suffix, least in LEAST_BYTES.items()]
    return [
        (set_aside(orphan), orphan_bytes)
        for orphan, least in found
        if orphan.is_file() and (orphan_bytes := orphan.stat().st_size) > least
    ]


def why_foreign(header: bytes, beside: Path, found: bytes) -> str | None:
    """Why a WAL or rollback journal that begins with `found` cannot be of the database beside which it lies, which has
    that header; None where it may be, or means nothing to SQLite."""
    if beside.name.endswith("-journal"):
        # What has our version was in WAL mode ever since, and the change to that mode needs no undoing.
        in_wal_mode = header[18:20] == b"\x02\x02" and any(header[60:64])
        return "the database is in WAL mode and has no journal" if in_wal_mode and found[:8] == _JOURNAL_MAGIC else None
    if found[:4] not in _WAL_MAGICS:
        return None
    theirs, ours = int.from_bytes(found[8:12], "big"), int.from_bytes(header[16:18], "big")
    # 65536 does not fit into its sixteen bits, and is written as 1.
    ours = 65536 if ours == 1 else ours
    return f"its pages have {theirs} bytes, those of the database {ours}" if theirs != ours else None


def set_aside(path: Path) -> Path:
    """Rename a file so that nothing finds it by its old name, over no other one; its new name."""
    stem = f"{path}.orphan-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    target, number = Path(stem), 1
    while target.exists():
        number += 1
        target = Path(f"{stem}-{number}")
    return path.rename(target)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# --- locks -------------------------------------------------------------------------------------------------


def _lock_path(path: Path) -> Path:
    return Path(f"{os.path.realpath(path)}.lock")


def _take_lock(path: Path, lock_path: Path) -> int:
    while True:
        try:
            lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except PermissionError:
            # Another user's. Whether it is held can be asked all the same, if it may be read.
            lock = os.open(lock_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            holder = _lock_holder(lock)
            os.close(lock)
            if holder is not None:
                raise _taken(path, holder) from None
            raise
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _lock_holder(lock)
            os.close(lock)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            if holder is not None:
                raise _taken(path, holder) from None
            continue
        # Whoever had it may have removed it after we opened it: then it is nobody's any more, and locks nobody out.
        try:
            current = os.stat(lock_path, follow_symlinks=False)
        except FileNotFoundError:
            current = None
        if current is None or not os.path.samestat(current, os.fstat(lock)):
            os.close(lock)
            continue
        # On a full disk it cannot be written. The kernel knows the holder in any case.
        with suppress(OSError):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock


def _drop_lock(lock_path: Path, lock: int) -> None:
    # One that is left behind is in nobody's way.
    with suppress(OSError):
        lock_path.unlink()
    os.close(lock)


def _ask_lock(descriptor: int, start: int = 0) -> int | None:
    """The process that has a POSIX lock on that byte: 0 for one that is in another PID namespace, None for nobody.

    We ourselves count as nobody.
    """
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else pid


def _lock_holder(lock: int) -> str | None:
    """The process that has it, in words; None for nobody."""
    pid = _ask_lock(lock)
    if pid is None:
        return None
    if pid > 0:
        return f"pid {pid}"
    # In its own namespace it has the PID that it wrote.
    written = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
    return f"pid {written if written.isdecimal() else 'unknown'} of another PID namespace (a container)"


def _flock_holder(found: os.stat_result) -> str:
    """The process that has the inode, in words, as far as /proc tells."""
    inode = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        lines = []
    for _, kind, _, _, pid, where, *_ in (fields for line in lines if len(fields := line.split()) >= 6):
        if kind == "FLOCK" and where == inode and int(pid) > 0:
            return f"pid {pid}, under another name"
    return "pid unknown, under another name"


def _owner(lock_path: Path) -> str:
    try:
        found = lock_path.lstat()
    except OSError:
        return ""
    return (
        f": it belongs to uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}, and this is uid {os.geteuid()};"
        " nobody holds it, so it can be removed"
    )


def _taken(path: Path, holder: str) -> ConfigError:
    return ConfigError(
        f"{path}: another engine has this database: {holder}; stop that one, or set another db_path",
        path=str(path), holder=holder,
    )  # fmt: skip
