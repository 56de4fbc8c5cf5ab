"""JSON lines on stdout, in the shape that tracing-subscriber's JSON formatter prints (contract M1).

    {"timestamp":"2026-01-09T16:31:49.074508Z","level":"INFO","fields":{"message":"..."},"target":"engine.x"}

An event's own keys are passed as `logger.info("message", extra={"fields": {...}})`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime

from engine.exits import EngineError, ExitCode

_LEVEL_NAMES = {"WARNING": "WARN", "CRITICAL": "ERROR"}

# Chatter of the WebSocket libraries about every connection; the feed logs those itself, with its own fields.
_QUIET_LOGGERS = ("asyncio", "picows", "websockets")


def format_record(record: logging.LogRecord) -> str:
    """One log record as one line of JSON, without the newline. What JSON cannot hold becomes text."""
    fields: dict[str, object] = {"message": _message(record)}
    extra = getattr(record, "fields", None)
    if isinstance(extra, dict):
        fields |= extra
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        fields.setdefault("error", f"{type(error).__name__}: {error}")
        fields["traceback"] = "".join(traceback.format_exception(error))
    line = {
        "timestamp": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "level": _LEVEL_NAMES.get(record.levelname, record.levelname),
        "fields": fields,
        "target": record.name,
    }
    try:
        return _encode(line)
    except (ValueError, TypeError, RecursionError):
        line["fields"] = {str(key): _plain(value) for key, value in fields.items()}
        return _encode(line)


def _encode(line: Mapping[str, object]) -> str:
    """ASCII only, and DEL escaped as well: what a stranger says may hold line separators, controls of terminals, text
    that runs backwards, or half a character."""
    return json.dumps(line, default=str, separators=(",", ":"), allow_nan=False).replace("\x7f", "\\u007f")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return str(record.msg)


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)


class JsonLines(logging.Handler):
    """Writes each record to file descriptor `fd` as one line, unbuffered, so that a crash loses none.

    A reader that went away (EPIPE) or a full non-blocking pipe costs the line, never the engine: `lost`
    counts such lines.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        # A lone surrogate cannot be UTF-8; backslashreplace writes it as \udcxx, which is valid JSON.
        data = memoryview((format_record(record) + "\n").encode("utf-8", "backslashreplace"))
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self.lost += 1


def configure(level: str, fd: int = 1) -> JsonLines:
    """Sends every logger's records at `level` (DEBUG, INFO, WARN, ERROR) or above to `fd` as JSON lines."""
    handler = JsonLines(fd)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel("WARNING" if level == "WARN" else level)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    return handler


def report(logger: logging.Logger, error: EngineError, cause: BaseException | None = None) -> None:
    """Logs why the engine stops as one ERROR line, with the traceback of `cause`, by default of what `error`
    was raised from where that is an unexpected failure."""
    fields = {**error.details, "exit_code": int(error.code), "exit_name": error.code.name}
    if cause is None and error.code is ExitCode.CRASH:
        cause = error.__cause__
    logger.error("%s", error, exc_info=cause, extra={"fields": fields})


class RateLimited:
    """Lets through at most one line per `interval_secs`; the next one says how many were held back (N8)."""

    def __init__(self, logger: logging.Logger, level: int, interval_secs: float = 1.0, burst: int = 1) -> None:
        """`burst`: so many lines may come at once; each is given back after one interval."""
        self._earlier_secs = interval_secs * (burst - 1)
        self._logger = logger
        self._level = level
        self._interval_secs = interval_secs
        self._next_at = -math.inf
        self._suppressed = 0

    def log(self, now: float, message: str, **fields: object) -> bool:
        """Logs `message` with `fields` unless one was logged less than the interval before `now` (monotonic
        seconds). Returns whether it did."""
        if now < self._next_at - self._earlier_secs:
            self._suppressed += 1
            return False
        self._next_at = max(self._next_at, now) + self._interval_secs
        self._logger.log(self._level, message, extra={"fields": {**fields, "suppressed": self._suppressed}})
        self._suppressed = 0
        return True
