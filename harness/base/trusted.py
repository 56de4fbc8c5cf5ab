"""Reads files that nobody but root and this process's own user can have put where they are.

Every component of the path is opened from the one before it, and none may be a symbolic link; directories and the file
must belong to root or to this user, and nobody else may write them. So whatever another user puts below, beside or in
the place of such a file is refused in words, and never read: a link, a FIFO, a device, a hard link, a file of its own.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.base.errors import HarnessError


class Untrusted(HarnessError):
    """What lies there is not a file that root or this user put there. Names it and says what is wrong with it."""


def read(path: Path, most_bytes: int) -> bytes:
    """Return the whole of a file. Untrusted also for one with more than `most_bytes`; OSError as open(2)."""
    with _opened(path) as fd:
        return _read_all(path, fd, most_bytes)


def read_end(path: Path, most_bytes: int) -> tuple[int, bytes]:
    """Return the last `most_bytes` of a file, or all of it, and at which byte they begin. Raises as `read`."""
    with _opened(path) as fd:
        begin = os.lseek(fd, max(0, os.fstat(fd).st_size - most_bytes), os.SEEK_SET)
        return begin, _read(fd, most_bytes)


def read_named(path: Path, most_bytes: int) -> bytes:
    """Return the whole of a file that an operator names and only that, which may lie behind links and belong to
    anybody: a regular file of at most `most_bytes`. Untrusted for another; OSError as open(2)."""
    # Not to wait for whoever writes into a FIFO.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Untrusted(f"{path} is not a regular file")
        return _read_all(path, fd, most_bytes)
    finally:
        os.close(fd)


def status(path: Path) -> os.stat_result:
    """Return what fstat(2) says of a file. Raises as `read`."""
    with _opened(path) as fd:
        return os.fstat(fd)


def names(directory: Path) -> list[str]:
    """Return what a directory holds, sorted. Raises as `read`."""
    with _held(directory, directory=True) as fd:
        return sorted(os.listdir(f"/proc/self/fd/{fd}"))


def _read_all(path: Path, fd: int, most_bytes: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > most_bytes:
        raise Untrusted(f"{path}: has {size} bytes, more than the {most_bytes} that are read")
    return _read(fd, most_bytes)


def _read(fd: int, most_bytes: int) -> bytes:
    # A file that grows meanwhile is not followed.
    with os.fdopen(os.dup(fd), "rb") as file:
        return file.read(most_bytes)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    with _held(path, directory=False) as held:
        # The very file that was looked at: a name could lead to another by now.
        fd = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def _held(path: Path, *, directory: bool) -> Iterator[int]:
    """A descriptor that only names the file (O_PATH): to open a FIFO waits, and to open a device may do something."""
    *parents, last = (path.parts[1:] if path.is_absolute() else path.parts) or (".",)
    fd = os.open("/" if path.is_absolute() else ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, name in enumerate([*parents, last]):
            deeper = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = deeper
            _check(path, name, os.fstat(fd), directory=directory or number < len(parents))
        yield fd
    finally:
        os.close(fd)


def _check(path: Path, name: str, found: os.stat_result, *, directory: bool) -> None:
    mode = found.st_mode
    where = f"{path}: {name!r}" if name != path.name else str(path)
    if stat.S_ISLNK(mode):
        raise Untrusted(f"{where} is a symbolic link, which is not followed")
    if directory and not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not directory and not stat.S_ISREG(mode):
        raise Untrusted(f"{where} is not a regular file")
    if found.st_uid not in (0, os.geteuid()):
        raise Untrusted(f"{where} belongs to user {found.st_uid}, not to root or to the user who reads it")
    # In a directory such as /tmp others may add names and not change those that are there.
    others = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid()))
    if others and not (directory and mode & stat.S_ISVTX):
        raise Untrusted(f"{where} may be written by other users than root and the one who reads it")
