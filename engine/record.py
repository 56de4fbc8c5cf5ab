"""`hybrid-engine record`: one source's messages -> files, until a signal or the time is up (N20)."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from engine import __version__
from engine.base.exits import EngineError, ExitCode, NetworkLost
from engine.config import settings
from engine.config.schema import Settings, Source
from engine.config.settings import Environment
from engine.ingest import recorder, websocket
from engine.ingest.recording import VERSION, Header, public_url
from engine.ingest.tape import Tape, run_name
from engine.ingest.venues import registry
from engine.ingest.venues.markets import Streams
from engine.signals import Signals

logger = logging.getLogger("engine.record")

_FLUSH_SECS: Final = 1.0
_PROGRESS_SECS: Final = 5.0
_LINE_BYTES_MAX: Final = 4096

# A recorder is there for the days on which a venue cannot be reached, or says what nobody understands.
_NEVER_SECS: Final = 1e9
_NEVER: Final = 1_000_000_000


def run(
    source: Source,
    options: Settings,
    environment: Environment,
    signals: Signals,
    *,
    directory: Path,
    file_bytes: int,
    files: int,
    seconds: float | None,
) -> int:
    """Record `source` until a signal asks for a stop, or `seconds` are over; returns the exit status. Raises
    ConfigError when nothing can be written to `directory`, Crash when the disk takes no more, NetworkLost when nothing
    was received in `seconds`."""
    symbol = source.symbol or options.app.symbol
    began = recorder.at()
    header = Header(
        recording=VERSION,
        source=source.name,
        url=public_url(source.url),
        symbol=symbol,
        run=run_name(began),
        venue=source.venue,
        kind=source.kind,
        # As they are written in the sources file: what is asked for is made of that.
        markets=settings.asked_markets(source, symbol) if source.markets is None else source.markets,
        engine=__version__,
    )
    tape = Tape(directory, header, file_bytes=file_bytes, files=files)
    _tell(f"recording {source.name} to {tape.path}; Ctrl-C ends it")
    with asyncio.Runner() as runner:
        return runner.run(_record(source, options, environment, signals, tape, symbol, seconds))


def _tell(text: str) -> None:
    """Progress, for whoever looks; nobody waits for one who does not."""
    with suppress(OSError, ValueError):
        fd = sys.stderr.fileno()
        ready = select.poll()
        ready.register(fd, select.POLLOUT)
        # A pipe that is ready takes a line of 4096 bytes (pipe(7), PIPE_BUF).
        if ready.poll(0):
            os.write(fd, f"{text}\n".encode("utf-8", "backslashreplace")[:_LINE_BYTES_MAX])


async def _record(
    source: Source,
    options: Settings,
    environment: Environment,
    signals: Signals,
    tape: Tape,
    symbol: str,
    seconds: float | None,
) -> int:
    loop = asyncio.get_running_loop()
    intake = recorder.make_books(sparse=not registry.venue_of(source.venue, source.url).consecutive_ids)
    feed = recorder.Recorder(
        source,
        options.engine.model_copy(update={"network_give_up_secs": _NEVER_SECS, "parse_error_limit": _NEVER}),
        symbol,
        websocket.CONNECTS[environment.transport],
        loop.time,
        intake,
        Streams(),
        tape,
    )

    def tell() -> None:
        mib = tape.size() / 1024 / 1024
        _tell(
            f"{source.name}: {feed.received} received, {feed.sent} sent, {intake.received} trades,"
            f" {intake.gaps} missed, {feed.parse_errors} unusable, {mib:.1f} MiB; file {tape.parts}"
        )

    async def flush() -> None:
        told_at = loop.time()
        while True:
            await asyncio.sleep(_FLUSH_SECS)
            feed.flush()
            if loop.time() >= told_at + _PROGRESS_SECS:
                told_at = loop.time()
                tell()

    failure: EngineError | None = None
    flushing = loop.create_task(flush())
    with signals.stopping(loop, feed.stop):
        if seconds is not None:
            loop.call_later(seconds, feed.stop)
        try:
            await feed.run()
        except EngineError as error:
            failure = error
        flushing.cancel()
        try:
            tape.close()
        except EngineError as error:
            failure = failure or error
    tell()
    if failure is not None:
        raise failure
    logger.info("recorded", extra={"fields": {"path": str(tape.path), "files": tape.parts, "received": feed.received}})
    if seconds is not None and not feed.received and signals.stop is None:
        raise NetworkLost(f"nothing was received from {source.name} in {seconds:g} s", seconds=seconds)
    return ExitCode.COMPLETE
