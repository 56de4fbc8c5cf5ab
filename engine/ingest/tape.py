"""Recordings as files: written in parts, of which the newest are kept, and read back however they end."""

from __future__ import annotations

import codecs
import errno
import fcntl
import logging
import os
import re
import shlex
import stat
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

import msgspec

from engine.base.exits import ConfigError, Crash
from engine.ingest.recording import LINE_BYTES_MAX, Event, Header, begins, line_of, read_event, read_header

logger = logging.getLogger("engine.record")

_GZIP: Final = b"\x1f\x8b"
_GZIP_WBITS: Final = 16 + zlib.MAX_WBITS
_READ_BYTES: Final = 64 * 1024
_UNPACKED_BYTES_MAX: Final = 1024 * 1024
_READ_AT_ONCE_BYTES: Final = 4 * 1024 * 1024
_HEAD_BYTES: Final = 64
_HEAD_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
_NULLS_MAX: Final = 1024 * 1024
_GONE: Final = "and what was recorded in it is lost unless somebody moved it"

# What a restart does not heal: the path is another one than it should be, or another user's.
_HOPELESS: Final = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
        errno.ELOOP, errno.EINVAL,
        # Where even missing directories cannot be made: in /proc.
        errno.ENOENT,
    }
)  # fmt: skip


class Tape:
    """Writes a recording, in files of about `file_bytes`, of which the newest `files` are kept.

    `<source>-<begin of the recording>-<part>.jsonl.gz`, so that they sort by time. What was flushed can be read,
    whatever becomes of the process. Older recordings of the same source in the directory count among the files that are
    kept.
    """

    def __init__(self, directory: Path, header: Header, *, file_bytes: int, files: int) -> None:
        """`header`: of the first part. Raises ConfigError or Crash when the directory cannot be written to."""
        self.parts = 0
        self._directory = directory
        self._header = header
        self._file_bytes = file_bytes
        self._files = files
        clean = re.sub(r"[^A-Za-z0-9._-]+", "_", header.source)[:64]
        # Sources whose names differ only in what a file's name has no room for have files of their own.
        self._name = clean if clean == header.source else f"{clean}-{zlib.crc32(header.source.encode()):08x}"
        self._ours = re.compile(re.escape(self._name) + r"-[0-9]{8}T[0-9]{9}Z-[0-9]{6}\.jsonl\.gz")
        # Compressed, of all parts and of the present one.
        self._bytes = 0
        self._part_bytes = 0
        self._raw: IO[bytes]
        self._pack: zlib._Compress
        try:
            self._lock = self._open_lock()
        except OSError as error:
            raise self._refusal(error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._begin()
        except OSError as error:
            os.close(self._lock)
            if error.errno == errno.EWOULDBLOCK:
                raise Crash(f"--to {directory}: another recorder writes {header.source!r} there") from None
            raise self._refusal(error) from None

    def _open_lock(self) -> int:
        self._directory.mkdir(parents=True, exist_ok=True)
        return os.open(self._directory / f".{self._name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _refusal(self, error: OSError) -> ConfigError | Crash:
        text = f"--to {self._directory}: cannot be written: {error.strerror}"
        return ConfigError(text, key="--to") if error.errno in _HOPELESS else Crash(text)

    @property
    def path(self) -> Path:
        """The present part."""
        return self._directory / f"{self._name}-{self._header.run}-{self.parts:06}.jsonl.gz"

    def write(self, event: Event) -> None:
        """Raises Crash when the disk does not take it; then `close` is all that is left to do."""
        try:
            self._put(self._pack.compress(line_of(event)))
            if self._part_bytes >= self._file_bytes:
                if self._is_there():
                    self._end()
                    self._begin()
                else:
                    self._replace()
        except OSError as error:
            raise self._lost(error) from None

    def flush(self) -> None:
        """What was written can be read by others, and is there if this process is killed. Raises Crash."""
        try:
            self._flush()
            if not self._is_there():
                self._replace()
        except OSError as error:
            raise self._lost(error) from None

    def close(self) -> None:
        """End the recording well, unless it was lost. Raises Crash when the disk does not take the rest, or the file is
        gone."""
        try:
            if not self._raw.closed:
                there = self._is_there()
                self._end()
                if not there:
                    raise Crash(f"{self.path}: is not there any more, {_GONE}", path=str(self.path))
        except OSError as error:
            raise self._lost(error) from None
        finally:
            os.close(self._lock)

    def size(self) -> int:
        """Bytes of all parts so far, as compressed."""
        return self._bytes

    def _is_there(self) -> bool:
        """Whether the present part still is where others look for it."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(found, os.fstat(self._raw.fileno()))

    def _replace(self) -> None:
        """Go on in another part, as somebody took this one away."""
        gone = self.path
        self._end()
        # The lock may have been taken away as well; who has got it meanwhile is another recorder.
        lock = self._open_lock()
        if os.path.samestat(os.fstat(lock), os.fstat(self._lock)):
            os.close(lock)
        else:
            before, self._lock = self._lock, lock
            os.close(before)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._begin()
        logger.warning(
            f"the recording goes on in another file: the present one is not there any more, {_GONE}",
            extra={"fields": {"path": str(gone), "next": str(self.path)}},
        )

    def _lost(self, error: OSError) -> Crash:
        # What is not written yet is tried once more here; else when the object goes, and Python would tell the error.
        with suppress(OSError):
            self._raw.close()
        return Crash(f"{self.path}: cannot be written: {error.strerror}", path=str(self.path))

    def _begin(self) -> None:
        self.parts += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._raw = os.fdopen(os.open(self.path, flags, 0o666), "wb")
        self._part_bytes = 0
        # Not by gzip.GzipFile, which keeps back 32 KiB in Python 3.12 and 512 in 3.14: a part would end as much later.
        # Without a name and a time in it: the same frames are the same file.
        self._pack = zlib.compressobj(6, wbits=_GZIP_WBITS)
        self._put(self._pack.compress(line_of(msgspec.structs.replace(self._header, part=self.parts))))
        self._flush()
        found = filter(self._ours.fullmatch, os.listdir(self._directory))
        # Whatever time it was when others began: clocks are set back.
        for old in sorted(found, key=lambda name: (f"-{self._header.run}-" in name, name))[: -self._files]:
            with suppress(FileNotFoundError):
                os.unlink(self._directory / old)

    def _end(self) -> None:
        with self._raw:
            self._put(self._pack.flush())
            self._raw.flush()
            os.fsync(self._raw.fileno())

    def _flush(self) -> None:
        self._put(self._pack.flush(zlib.Z_SYNC_FLUSH))
        self._raw.flush()

    def _put(self, packed: bytes) -> None:
        # Mostly nothing: zlib gives a block when it is full.
        if packed:
            self._raw.write(packed)
            self._part_bytes += len(packed)
            self._bytes += len(packed)


def run_name(at: int) -> str:
    """What a recording that begins at `at` (microseconds since 1970) is called."""
    return f"{datetime.fromtimestamp(at // 1_000_000, UTC):%Y%m%dT%H%M%S}{at // 1000 % 1000:03}Z"


class Recording:
    """A recording that is being read. `close` it."""

    header: Header

    cut = False
    """Whether its end is missing, known once all was read."""

    line = 0
    """The number of the last line that was good."""

    def __init__(self, path: Path, file: IO[bytes], lines: _Lines) -> None:
        """Raises ConfigError when its first line is not what it should be."""
        self.path = path
        self._file = file
        self._lines = lines
        # Unpacked, of all lines so far.
        self._read_bytes = 0
        # The header, None until it was read.
        self._first: Header | None = None
        first = self._next()
        if not isinstance(first, Header):
            raise self._refusal("cut short within its first line: nothing of it can be read")
        self.header = self._first = first
        lines.patient = True

    def read(self, count: int) -> list[Header | Event]:
        """The next lines, `count` or a few megabytes of them at most; none at the end. Raises ConfigError where it is
        damaged."""
        found: list[Header | Event] = []
        most = self._read_bytes + _READ_AT_ONCE_BYTES
        while len(found) < count and self._read_bytes < most and (record := self._next()) is not None:
            found.append(record)
        return found

    def stop(self) -> None:
        """End a `read` that is under way in another thread, and all others, as if there were no more."""
        self._lines.stopped = True

    def close(self) -> None:
        """Let go of the file; what was read stays good."""
        self._file.close()

    def _next(self) -> Header | Event | None:
        while True:
            try:
                text = self._lines.next()
            except ValueError as trouble:
                raise self._damaged(str(trouble)) from None
            except OSError as error:
                raise self._refusal(f"cannot be read: {error.strerror}") from None
            if text is None:
                self.cut = self.cut or self._lines.cut
                return None
            self.line += 1
            if self.line == 1:
                text = text.removeprefix(codecs.BOM_UTF8)
            self._read_bytes += len(text)
            # A file that was being written when the power failed ends in NULs.
            text = text.strip(b" \t\r\n\0")
            if not text:
                continue
            try:
                return self._judge(text)
            except ValueError as trouble:
                self.line -= 1
                if self._lines.at_end:
                    # What a writer was killed in the middle of.
                    self.cut = True
                    return None
                if self._first is None:
                    raise self._refusal(str(trouble)) from None
                raise self._damaged(str(trouble)) from None

    def _judge(self, text: bytes) -> Header | Event:
        if not begins(text):
            return read_event(text)
        header = read_header(text)
        first = self._first or header
        if (header.source, header.url, header.venue) != (first.source, first.url, first.venue):
            raise ValueError(f"another source, {header.source!r}: replay one after the other")
        if (header.markets, header.symbol, header.kind) != (first.markets, first.symbol, first.kind):
            raise ValueError(
                f"the same source, {header.source!r}, asked for something else: replay one after the other"
            )
        return header

    def _damaged(self, trouble: str) -> ConfigError:
        if self._first is None:
            return self._refusal(f"damaged within its first line, so that nothing of it can be read: {trouble}")
        name = shlex.quote(self.path.name)
        # Of a file that is damaged, and not only cut short, zcat may give nothing at all.
        unpack = f"head -c {self._lines.sound_bytes} {name} | zcat" if self._lines.packed else f"cat {name}"
        return self._refusal(
            f"damaged after line {self.line}: {trouble}; what is before can be replayed:"
            f" {unpack} | head -n {self.line} > good.jsonl"
        )

    def _refusal(self, what: str) -> ConfigError:
        self._file.close()
        return refusal(self.path, what)


def refusal(path: Path, what: str) -> ConfigError:
    """Why a file cannot be replayed."""
    return ConfigError(f"engine.replay_file = {str(path)!r}: {what}", key="engine.replay_file", value=str(path))


def find(path: Path) -> Recording | None:
    """The recording at `path`; None for a file of anything else, or none that can be read. Raises ConfigError for a
    recording that cannot be replayed."""
    try:
        # Without waiting: what only looks like a regular file may have nothing to say.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError:
        return None
    try:
        lines = _Lines(file) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
        head = b"" if lines is None else lines.head()
    except (OSError, ValueError):
        file.close()
        return None
    if lines is None or not begins(head):
        file.close()
        if lines is not None and lines.packed and not head:
            raise refusal(path, "gzip, and nothing in it")
        return None
    return Recording(path, file, lines)


class _Lines:
    """The lines of a file, unpacked where it is gzip, in however many members."""

    def __init__(self, file: IO[bytes]) -> None:
        # Set by another thread: there shall be no more.
        self.stopped = False
        # Whether to read on for as long as it takes. Not before the first line: a start waits for that.
        self.patient = False
        self._file = file
        self._raw = b""
        # So many NULs were read after it.
        self._nulls = 0
        self._within = False
        self._unpack = zlib.decompressobj(_GZIP_WBITS)
        self._damage = ""
        self._refill()
        self.packed = self._raw.startswith(_GZIP)
        # Whether the file ended within a member.
        self.cut = False
        # Whether all was given; what was last had no newline.
        self.at_end = False
        self._within = self.packed
        # Unpacked and not given yet: from `_at` on.
        self._text = b""
        self._at = 0
        self._ended = False

    @property
    def sound_bytes(self) -> int:
        """Up to there the file could be unpacked: what was given comes from before."""
        return self._file.tell() - self._nulls - len(self._raw)

    def head(self) -> bytes:
        """How the text begins. Raises OSError."""
        while len(self._text) < _HEAD_BYTES and (more := self._read()):
            self._text += more
        return self._text[:_HEAD_BYTES].removeprefix(codecs.BOM_UTF8)

    def next(self) -> bytes | None:
        """The next line; None at the end. Raises ValueError, which says what is damaged, or OSError."""
        pieces: list[bytes] = []
        size = 0
        while not self.stopped:
            end = self._text.find(b"\n", self._at)
            if end >= 0:
                pieces.append(self._text[self._at : end])
                self._at = end + 1
                return b"".join(pieces)
            pieces.append(self._text[self._at :])
            size += len(pieces[-1])
            if size > LINE_BYTES_MAX:
                raise ValueError(f"a line of over {LINE_BYTES_MAX} bytes")
            self._text, self._at = self._read(), 0
            if not self._text:
                self.at_end = True
                if self._damage:
                    raise ValueError(self._damage)
                return b"".join(pieces) or None
        return None

    def _read(self) -> bytes:
        """The next bytes of the text; none at its end."""
        while not (self._ended or self.stopped):
            if not self._raw and not self._refill():
                self._ended = True
                text = self._finish()
                self.cut = self._within
                return text
            if not self.packed:
                text, self._raw = self._raw, b""
                return text
            if not self._within:
                # Zeros may follow a member.
                self._raw = self._raw.lstrip(b"\0")
                if not self._raw:
                    continue
                self._unpack = zlib.decompressobj(_GZIP_WBITS)
                self._within = True
            text = self._inflate()
            if text:
                return text
        return b""

    def _refill(self) -> bool:
        """Read on; whether there was anything. NULs are kept back until something follows them: a file that was being
        written when the power failed ends in NULs, and unpacked they would be anything."""
        while not self.stopped and (more := self._file.read(_READ_BYTES)):
            if not self.patient and self._file.tell() > _HEAD_FILE_BYTES_MAX:
                return False
            self._raw = more.rstrip(b"\0")
            nulls, self._nulls = self._nulls, len(more) - len(self._raw)
            if self._raw:
                if nulls > _NULLS_MAX:
                    self._damage = f"{nulls} NULs"
                    self._raw, self._nulls = b"", nulls + len(more)
                    return False
                self._raw = b"\0" * nulls + self._raw
                return True
            self._nulls += nulls
        return False

    def _finish(self) -> bytes:
        """The rest of the text, where the NULs that were kept back are the end of a member: its length ends in some."""
        if self._within and self._nulls:
            last = self._unpack.copy()
            with suppress(zlib.error):
                text = last.decompress(b"\0" * min(self._nulls, _NULLS_MAX))
                if last.eof:
                    self._within = False
                    return text
        return b""

    def _inflate(self) -> bytes:
        before = self._unpack.copy()
        try:
            text = self._unpack.decompress(self._raw, _UNPACKED_BYTES_MAX)
        except zlib.error as error:
            self._damage = str(error)
            self._ended = True
            return self._salvage(before)
        self._within = not self._unpack.eof
        self._raw = self._unpack.unconsumed_tail if self._within else self._unpack.unused_data
        return text

    def _salvage(self, unpack: zlib._Decompress) -> bytes:
        """What can be read of `_raw` up to where it is damaged."""
        text = bytearray()
        good = 0
        with suppress(zlib.error):
            while good < len(self._raw):
                text += unpack.decompress(self._raw[good : good + 1])
                good += 1
        self._raw = self._raw[good:]
        return bytes(text)
