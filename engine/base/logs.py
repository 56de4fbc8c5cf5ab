"""JSON lines on stdout, in the shape that tracing-subscriber's JSON formatter prints (contract M1).

    {"timestamp":"2026-01-09T16:31:49.074508Z","level":"INFO","fields":{"message":"..."},"target":"engine.x"}

An event's own keys are passed as `logger.info("message", extra={"fields": {...}})`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import socket
import stat
import threading
import traceback
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

from engine.base.exits import EngineError, ExitCode
from engine.base.redaction import redact

# Of syslog(3), by the level's name: what journald is told in front of a line, and takes off it (sd-daemon(3)).
_PRIORITIES = {"CRITICAL": 3, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}

_LEVEL_NAMES = {"WARNING": "WARN", "CRITICAL": "ERROR"}

# Chatter of the WebSocket libraries about every connection; the feed logs those itself, with its own fields.
_QUIET_LOGGERS = ("asyncio", "picows", "websockets")

QUEUE_BYTES_MAX = 1024 * 1024
"""How much log may wait for a reader that does not read."""

_instance = ""

# More of them Python does not write out.
_INTEGER_BITS_MAX = 4096

LINGER_SECS = 0.5
"""How long the end of the process is put off for lines that wait."""


def format_record(record: logging.LogRecord) -> str:
    """Return one log record as one line of JSON, without the newline. What JSON cannot hold becomes text."""
    fields: dict[str, object] = {"message": _message(record)}
    extra = getattr(record, "fields", None)
    if _instance:
        fields["instance"] = _instance
    if isinstance(extra, dict):
        fields |= extra
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        fields.setdefault("error", f"{type(error).__name__}: {error}")
        fields["traceback"] = "".join(traceback.format_exception(error))
    fields = {key: _without_secrets(value) for key, value in fields.items()}
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


def _without_secrets(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    if type(value) is list:
        return [_without_secrets(item) for item in value]
    return value


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > _INTEGER_BITS_MAX:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    try:
        return repr(value)
    except Exception:
        return f"a {type(value).__name__}"


class JsonLines(logging.Handler):
    """Writes each record to file descriptor `fd` as one line, unbuffered, so that a crash loses none (M1), and never
    waits for whoever reads it (M6).

    A line goes out at once as long as the descriptor takes it. What it does not take waits, QUEUE_BYTES_MAX at most,
    for a thread that lives as long as something waits. Of too much the older half is dropped, since the last lines
    say why an engine ended; one WARNING in their place says how many there were. A line that has begun is always
    finished first, so that no two lines are ever mixed.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.drops = 0  # lines that were never written
        self._out = _Output(fd)
        self._tells_priorities = _is_journal(fd)
        # Guards all below; notified when nothing waits any more.
        self._idle = threading.Condition()
        # What is left of the line that is being written; empty between two lines.
        self._line = memoryview(b"")
        self._begun = False  # whether some of that line is out already
        self._tells = 0  # how many dropped lines that line tells of
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._untold = 0  # lines dropped since the last one that told
        self._thread: threading.Thread | None = None
        self._emitting = False

    def emit(self, record: logging.LogRecord) -> None:
        line = _encoded(record)
        if self._tells_priorities:
            line = b"<%d>%b" % (_PRIORITIES.get(record.levelname, 6), line)
        with self._idle:
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            if self._emitting:
                # A finalizer logs, such as that of a task that failed unnoticed, and it runs in the middle of this very
                # method: whom it interrupts will write its line.
                return
            self._emitting = True
            try:
                if self._thread is None and (self._out.waits or not self._write_at_once()):
                    self._start()
                if self._waiting_bytes > QUEUE_BYTES_MAX:
                    while self._waiting_bytes > QUEUE_BYTES_MAX // 2 and len(self._waiting) > 1:
                        self._drop(self._waiting.popleft())
            finally:
                self._emitting = False

    def drain(self, timeout_secs: float) -> None:
        """Wait until every line is out, at most so long: the process is about to end."""
        with self._idle:
            self._idle.wait_for(lambda: self._thread is None, timeout_secs)

    def _write_at_once(self) -> bool:
        """Write what waits, as far as the descriptor takes it now; False when it takes no more."""
        while self._next():
            try:
                self._wrote(self._out.write(self._line))
            except BlockingIOError:
                return False
            except OSError:
                self._fail()
                return True
        return True

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No thread can be had: the next line tries again.
            return
        self._thread = thread

    def _work(self) -> None:
        while True:
            with self._idle:
                if not self._next():
                    self._thread = None
                    self._idle.notify_all()
                    return
                line = self._line
            try:
                written = self._out.write_when_ready(line)
            except OSError:
                with self._idle:
                    self._fail()
                    self._thread = None
                    self._idle.notify_all()
                return
            with self._idle:
                self._wrote(written)

    def _next(self) -> bool:
        """Make `_line` what is to be written next; False when there is nothing."""
        if self._line:
            return True
        if self._untold and self._waiting:
            self._tells = self._untold
            fields = {"dropped": self._untold, "log_drops": self.drops}
            told = logging.LogRecord(__name__, logging.WARNING, "", 0, "%d log lines dropped", (self._untold,), None)
            told.fields = fields
            self._line = memoryview(_encoded(told))
        elif self._waiting:
            line = self._waiting.popleft()
            self._waiting_bytes -= len(line)
            self._line = memoryview(line)
        return bool(self._line)

    def _wrote(self, size: int) -> None:
        self._line = self._line[size:]
        self._begun = bool(self._line)
        if not self._line:
            self._untold -= self._tells
            self._tells = 0

    def _fail(self) -> None:
        """The descriptor is broken, perhaps not for ever: its disk may be full. What waits is lost but for a line that
        has begun, which the next attempt has to finish."""
        if not self._begun:
            if not self._tells:
                self._count_drop()
            self._line, self._tells = memoryview(b""), 0
        while self._waiting:
            self._drop(self._waiting.popleft())

    def _drop(self, line: bytes) -> None:
        self._waiting_bytes -= len(line)
        self._count_drop()

    def _count_drop(self) -> None:
        self.drops += 1
        self._untold += 1


class _Output:
    """A file descriptor, written to without waiting for whoever reads it.

    O_NONBLOCK is not for us to set: it belongs to the open file, which a terminal or a pipe shares with other
    processes. So a socket is told with each message, and a pipe or a terminal is opened anew. Where that is not
    permitted, since somebody else made the pipe, every write may wait.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.waits = False  # whether `write` may wait
        self._socket: socket.socket | None = None
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=os.dup(fd))
            elif not stat.S_ISREG(mode):
                self.waits = True
                self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                self.waits = False
        except OSError:
            # Nobody may open it, or it is closed: then the first write says so.
            return

    def write(self, data: memoryview) -> int:
        """Write as much as fits. Raises BlockingIOError when nothing does, another OSError when it is broken."""
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        return os.write(self._fd, data)

    def write_when_ready(self, data: memoryview) -> int:
        """Wait until something fits, however long, and writes it."""
        while True:
            try:
                return self.write(data)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()


def _encoded(record: logging.LogRecord) -> bytes:
    # A lone surrogate cannot be UTF-8; backslashreplace writes it as \udcxx, which is valid JSON.
    return (format_record(record) + "\n").encode("utf-8", "backslashreplace")


def _is_journal(fd: int) -> bool:
    """Return whether a descriptor is a stream to journald, of whichever namespace."""
    try:
        with socket.socket(fileno=os.dup(fd)) as peer:
            name = peer.getpeername()
    except OSError:
        return False
    return isinstance(name, str) and name.startswith("/run/systemd/journal") and name.endswith("/stdout")


def configure(fd: int = 1) -> JsonLines:
    """Send every logger's records at INFO or above to `fd` as JSON lines."""
    handler = JsonLines(fd)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_level("INFO")
    return handler


def set_instance(name: str) -> None:
    """Say in each line from now on which engine this is; nothing for an empty name."""
    global _instance
    _instance = name


def set_level(level: str) -> None:
    """Log records at `level` (DEBUG, INFO, WARN, ERROR) or above from now on."""
    logging.getLogger().setLevel("WARNING" if level == "WARN" else level)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel("ERROR" if level == "ERROR" else "WARNING")


def drops() -> int:
    """Return how many log lines were dropped so far (M6)."""
    return sum(handler.drops for handler in logging.getLogger().handlers if isinstance(handler, JsonLines))


def report(logger: logging.Logger, error: EngineError, cause: BaseException | None = None) -> None:
    """Log why the engine stops as one ERROR line, with the traceback of `cause`, by default of what `error` was raised
    from where that is an unexpected failure."""
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
        """Log `message` with `fields` unless one was logged less than the interval before `now` (monotonic seconds).
        Returns whether it did."""
        if now < self._next_at - self._earlier_secs:
            self._suppressed += 1
            return False
        self._next_at = max(self._next_at, now) + self._interval_secs
        self._logger.log(self._level, message, extra={"fields": {**fields, "suppressed": self._suppressed}})
        self._suppressed = 0
        return True
