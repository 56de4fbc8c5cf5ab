"""Ticks that were recorded: in a database, or in a file of JSON lines (N2, N2b)."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import logging
import os
import re
import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import IO, Final

from engine.base.events import Tick
from engine.base.exits import ConfigError, ProtocolChanged
from engine.ingest.messages import Messages
from engine.ingest.ports import Inlet
from engine.ingest.stepped import STEP_TICKS, Stepped
from engine.ingest.venues.markets import Markets, Streams
from engine.ingest.venues.port import MAX_MESSAGE_BYTES
from engine.ingest.venues.wire import TickParser

logger = logging.getLogger("engine.ingest.replay")


class ReplayFeed(Stepped):
    """Ticks that were recorded, as fast as the pipeline takes them (N2)."""

    source = "replay"

    def __init__(self, inlet: Inlet, chunks: AsyncGenerator[list[Tick], None], origin: str) -> None:
        """`origin`: where the ticks come from, for the log."""
        super().__init__(inlet)
        self._chunks = chunks
        self._origin = origin

    async def run(self) -> None:
        found = False
        async with aclosing(self._chunks) as chunks:
            async for ticks in chunks:
                self._inlet.answer()
                self._inlet.deliver(ticks)
                found = found or bool(ticks)
                while self._paused and not self._stopped:
                    await self._bell.wait()
                    self._inlet.answer()
                if self._stopped:
                    return
        if not found and not self._stopped:
            logger.warning("nothing to replay: there is no tick in it", extra={"fields": {"replay": self._origin}})


class FileReplayFeed(ReplayFeed):
    """A replay from a JSONL file: `symbol`, `price`, `volume`, `ts` in ms, optional `event_id` (N2).

    A tick without an `event_id` is identified by the file's digest and its line number, so that replaying the
    same file twice stores it once. An unusable line is a parse error; `parse_error_limit` of them in a row
    raise ProtocolChanged, and so do lines of which none is usable (N2b).
    """

    def __init__(self, inlet: Inlet, path: Path, parse_error_limit: int) -> None:
        """Raises ConfigError when `path` is not a readable regular file, or one of another format."""
        self._file = open_lines(path)
        self._limit = parse_error_limit
        super().__init__(inlet, self._read(), str(path))

    async def _read(self) -> AsyncGenerator[list[Tick], None]:
        with self._file as file:
            before = os.fstat(file.fileno())
            by_line = f"replay:{await self._digest(file)}"
            if not self._stopped:
                async with aclosing(self._parse(file, by_line)) as chunks:
                    async for ticks in chunks:
                        yield ticks
                self._compare(before, os.fstat(file.fileno()))

    def _compare(self, before: os.stat_result, after: os.stat_result) -> None:
        """Tell of a file that was changed meanwhile; raise ConfigError for one that was cut off: what was replayed of
        it is neither the one nor the other."""
        if after.st_size < before.st_size:
            raise ConfigError(
                f"{self._origin}: was cut off while it was replayed, from {before.st_size} to {after.st_size} bytes",
                key="engine.replay_file",
            )
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            logger.warning(
                "the replay file was changed while it was replayed", extra={"fields": {"replay": self._origin}}
            )

    async def _digest(self, file: IO[bytes]) -> str:
        """What tells the file from others; a stop may come while it is made."""
        digest = hashlib.sha256()
        file.seek(0)
        while not self._stopped and (data := await asyncio.to_thread(file.read, MAX_MESSAGE_BYTES)):
            digest.update(data)
            self._inlet.answer()
        return digest.hexdigest()[:16]

    async def _parse(self, file: IO[bytes], by_line: str) -> AsyncGenerator[list[Tick], None]:
        loop = asyncio.get_running_loop()
        by_id = f"{by_line}:ids"
        parser = TickParser(by_id, Markets(by_id, "", Streams()), replayed=True)
        stream = Messages(parser, self._limit)
        number = 0  # of the line
        found = False  # a tick
        first: str | None = None  # what was wrong with the first line that was no tick
        file.seek(0)
        reader = _LineReader(file)
        while (lines := await asyncio.to_thread(reader.step)) is not None:
            ticks: list[Tick] = []
            for line in lines:
                number += 1
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                # A file that was being written when the power failed ends in NULs.
                line = line.strip(b" \t\r\n\0")
                if not line:
                    continue
                before = len(ticks)
                if len(line) > MAX_MESSAGE_BYTES:
                    parser.refuse(f"line {number} over {MAX_MESSAGE_BYTES} bytes")
                else:
                    parser.parse_into(line, ticks)
                for tick in ticks[before:]:
                    if tick.trade_id is None and tick.event_id is None:
                        tick.source = by_line
                        tick.trade_id = number
                stream.check(loop.time(), line=number)
                found = found or bool(ticks)
                if first is None and not found:
                    first = f"line {number}: {parser.last_error if parser.errors else 'not a tick'}"
            self.parse_errors = parser.errors
            self.ignored = parser.ignored
            yield ticks
            if stream.broken is not None:
                if found:
                    raise stream.broken
                break
        if first is not None and not found:
            raise ProtocolChanged(f"{self._origin}: no usable line; {first}", parse_errors=parser.errors, lines=number)


_HEAD_BYTES = 4096


_MAGIC: Final = {
    b"\x1f\x8b": ("gzip", "gunzip it"),
    b"\x1f\x9d": ("compress", "uncompress it"),
    b"\x78\x01": ("zlib", "inflate it: zlib-flate -uncompress"),
    b"\x78\x9c": ("zlib", "inflate it: zlib-flate -uncompress"),
    b"\x78\xda": ("zlib", "inflate it: zlib-flate -uncompress"),
    b"\x5d\0\0": ("lzma", "unlzma it"),
    b"\xff\x06\0\0sNaPpY": ("snappy", "decompress it: snzip -d"),
    b"BZh": ("bzip2", "bunzip2 it"),
    b"\xfd7zXZ\0": ("xz", "unxz it"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd it"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4 it"),
    b"7z\xbc\xaf\x27\x1c": ("7z", "unpack it"),
    b"PK\x03\x04": ("zip", "unzip it"),
    b"PK\x05\x06": ("zip", "unzip it"),
    b"SQLite format 3\0": ("SQLite", "replay it without a replay file, as --db"),
    b"PAR1": ("Parquet", "export it as JSON, one object a line"),
    b"ARROW1": ("Arrow", "export it as JSON, one object a line"),
    # Before UTF-16, whose mark is the beginning of this one.
    codecs.BOM_UTF32_LE: ("UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    codecs.BOM_UTF16_LE: ("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    codecs.BOM_UTF16_BE: ("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    codecs.BOM_UTF32_BE: ("UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    b"{\0": ("UTF-16", "convert it: iconv -f UTF-16LE -t UTF-8"),
    b"\0{": ("UTF-16", "convert it: iconv -f UTF-16BE -t UTF-8"),
}
"""How files begin that hold no lines of JSON: (what they are, what to do first)."""


def why_no_lines(head: bytes) -> str | None:
    """Why a file that begins with `head` cannot be replayed as it is, and what to do; None when it may hold JSONL."""
    for magic, (name, remedy) in _MAGIC.items():
        if head.startswith(magic):
            return f"{name}, not lines of JSON: {remedy} first"
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if re.match(rb"\[\s*[{\[\]]", text):
        return "a JSON array, not one object a line: jq -c '.[]' makes lines of it"
    return None


def open_lines(path: Path) -> IO[bytes]:
    """The replay file. Raises ConfigError when it is not a readable regular file, or not one of lines."""
    refused: str | None
    try:
        # Without waiting: what only looks like a regular file, such as /proc/kmsg, may have nothing to say.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        refused = f"cannot be read: {error.strerror}"
    else:
        try:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            refused = why_no_lines(file.read(_HEAD_BYTES) or b"") if regular else "not a regular file"
        except OSError as error:
            refused = f"cannot be read: {error.strerror}"
        if refused is None:
            return file
        file.close()
    raise ConfigError(f"engine.replay_file = {str(path)!r}: {refused}", key="engine.replay_file", value=str(path))


class _LineReader:
    """The lines of `file` in steps, each of which ends in bounded time: whoever reads has to answer the watchdog, and
    to stop when told to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        # Whether the rest of a line that never ends is still to be skipped.
        self._skips = False

    def step(self) -> list[bytes] | None:
        """The next lines; None at the end. A line that never ends is cut, not read whole."""
        lines: list[bytes] = []
        size = 0
        while len(lines) < STEP_TICKS and size < MAX_MESSAGE_BYTES:
            line = self._file.readline(MAX_MESSAGE_BYTES + 1)
            if not line:
                return lines or None
            size += len(line)
            if not self._skips:
                lines.append(line)
            self._skips = (self._skips or len(line) > MAX_MESSAGE_BYTES) and not line.endswith(b"\n")
        return lines
