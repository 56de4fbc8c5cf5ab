"""Files of ours in directories that somebody else may write in, found and written without following anybody's link.

A path is walked component by component, each opened below the one before (openat(2)), so that nothing changes between
a look and what is done. A link on the way counts in a directory that only root and this process's user can write;
anywhere else it may have been put there for us to follow, and is refused. So is, as the last component, whatever is not
a regular file with one name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LINKS_MAX = 40
"""As the kernel's own limit."""


@dataclass(frozen=True)
class Place:
    """Where a file is, or would be: a name in an open directory. Everything raises OSError with the file's path."""

    path: Path
    """Without links."""
    directory: int
    """File descriptor (O_PATH) of its directory."""
    ours: bool
    """Whether only root and this process's user can write in that directory."""

    def open(self, flags: int, mode: int = 0o644) -> int:
        """Return a file descriptor of the file; flags and mode as of open(2)."""
        with self._named():
            fd = os.open(
                self.path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=self.directory
            )
            found = os.fstat(fd)
            if self.ours or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1):
                return fd
            os.close(fd)
            raise OSError(errno.EPERM, "is not a file with one name, in a directory that others can write")

    def read(self) -> bytes:
        """Return the file's content."""
        with os.fdopen(self.open(os.O_RDONLY), "rb") as file, self._named():
            return file.read()

    def status(self) -> os.stat_result | None:
        """Of the file itself, also when that is a link; None when there is none."""
        try:
            with self._named():
                return os.stat(self.path.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def replace(self, data: bytes, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
        """Make this the file's content, on disk when this returns; at any moment it is the old one or the new one.

        owner: user and group; None for those of this process.
        """
        partial = Place(self.path.with_name(f".{self.path.name}.partial"), self.directory, self.ours)
        with contextlib.suppress(FileNotFoundError):
            # What was left half written.
            partial.unlink()
        try:
            fd = partial.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with self._named():
                try:
                    os.fchmod(fd, mode)
                    if owner is not None and owner != (os.geteuid(), os.getegid()):
                        os.fchown(fd, *owner)
                    left = memoryview(data)
                    while left:
                        left = left[os.write(fd, left) :]
                    os.fsync(fd)
                finally:
                    os.close(fd)
            partial.rename(self.path.name)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise

    def rename(self, name: str) -> None:
        """Rename the file within its directory, over one that has that name; on disk when this returns."""
        with self._named():
            os.rename(self.path.name, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.directory)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def unlink(self) -> None:
        """Remove the file, or the link that stands in its place."""
        with self._named():
            os.unlink(self.path.name, dir_fd=self.directory)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = "is a link" if error.errno == errno.ELOOP else error.strerror
            raise type(error)(error.errno, reason, str(self.path)) from error


@contextmanager
def found(path: Path, *, make: bool = False) -> Iterator[Place]:
    """Where `path` leads. make: make the directories that are missing.

    Raises OSError when a directory is missing, or a link on the way is one that others may have put there.
    """
    place = _walk(path.absolute(), make)
    try:
        yield place
    finally:
        os.close(place.directory)


def resolved(path: Path) -> Path:
    """`path` without the links that count; from the first on that does not, or is missing, as it is."""
    try:
        with found(path) as place:
            return place.path
    except (OSError, ValueError):
        return path.absolute()


def _walk(path: Path, make: bool) -> Place:
    links = 0
    left = list(reversed(path.parts[1:]))
    here, fd = Path("/"), os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while left:
            name = left.pop()
            about = os.fstat(fd)
            ours = about.st_uid in (0, os.geteuid()) and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            target = _link(name, fd)
            if target is not None:
                links += 1
                if not ours or links > LINKS_MAX:
                    reason = "is a link in a directory that others can write" if not ours else os.strerror(errno.ELOOP)
                    raise OSError(errno.ELOOP, reason, str(here / name))
                if left and about.st_dev == os.stat("/proc").st_dev:
                    # Of a process's root or file; what its text says is another process's view.
                    inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                    os.close(fd)
                    here, fd = here / name, inner
                    continue
                left += reversed([part for part in target.split("/") if part])
                if target.startswith("/"):
                    os.close(fd)
                    here, fd = Path("/"), os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            elif left:
                inner = _directory(name, fd, here / name, make)
                os.close(fd)
                here, fd = here.parent if name == ".." else here / name, inner
            else:
                return Place(here / name, fd, ours)
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    except BaseException:
        os.close(fd)
        raise


def _link(name: str, directory: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def _directory(name: str, parent: int, path: Path, make: bool) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=parent)
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error


def why_not_writable(directory: Path) -> str:
    """Return what keeps this process from writing in a directory, or from making it; empty when nothing does. Writes
    nothing."""
    place = next(path for path in (directory, *directory.absolute().parents) if os.path.exists(path))
    if not place.is_dir():
        return os.strerror(errno.ENOTDIR)
    if os.access(place, os.W_OK | os.X_OK):
        return ""
    return os.strerror(errno.EROFS if os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES)
