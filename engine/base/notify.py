"""Telling systemd how the engine is: readiness, status, and a watchdog that only progress feeds (M4, E5).

A bare timer would feed the watchdog of an engine whose tasks are stuck. Here a probe goes round instead: an
epoch starts, every task is nudged, and each answers when it next passes the top of its loop. Only when all
have answered is WATCHDOG=1 sent and the next epoch started. A quiet market answers, because the nudge wakes
tasks that have nothing to do.
"""

from __future__ import annotations

import logging
import socket
import time

from engine.base.exits import EngineError
from engine.base.logs import RateLimited
from engine.base.redaction import redact

logger = logging.getLogger("engine.base.notify")

STATUS_CHARS_MAX = 500
"""How much of a reason STATUS= has; `systemctl status` cuts it where the terminal ends."""

EXTEND_SECS = 60
"""For so much longer a start may take, from each EXTEND_TIMEOUT_USEC on."""

EXTEND_EVERY_SECS = 5.0

_SEND_TIMEOUT_SECS = 0.1


class Notifier:
    """sd_notify(3) over the datagram socket that systemd names in NOTIFY_SOCKET; does nothing without one."""

    def __init__(self, address: str | None) -> None:
        """`address` is a path, or "@name" in the abstract namespace; None when nobody listens."""
        self._address = address
        self._socket: socket.socket | None = None
        self._failures = RateLimited(logger, logging.WARNING)
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # The queue may hold as few as ten datagrams (net.unix.max_dgram_qlen), and a READY must not be lost
            # because it was full for a moment; nor may a listener that stopped reading stop the event loop.
            self._socket.settimeout(_SEND_TIMEOUT_SECS)

    def send(self, **assignments: object) -> None:
        """Send e.g. READY=1, STATUS="..." as one datagram. A failure is logged, never raised: what follows from missing
        notifications is systemd's to decide."""
        if self._socket is None or self._address is None:
            return
        # A newline would start another assignment.
        lines = [f"{name}={redact(str(value)).replace(chr(10), ' ')}" for name, value in assignments.items()]
        target = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            self._socket.sendto("\n".join(lines).encode(), target)
        except OSError as error:
            self._failures.log(time.monotonic(), "sd_notify failed", error=str(error), sent=lines)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Extension:
    """Asks for more time before READY=1, each time that it is called; at most every EXTEND_EVERY_SECS that is told."""

    def __init__(self, address: str | None, what: str) -> None:
        """`what` takes so long, for STATUS=."""
        self._notifier = Notifier(address)
        self._what = what
        self._next_at = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + EXTEND_EVERY_SECS
            self._notifier.send(EXTEND_TIMEOUT_USEC=EXTEND_SECS * 1_000_000, STATUS=self._what)

    def close(self) -> None:
        self._notifier.close()


def reason(error: EngineError) -> str:
    """Return why the engine ends, as STATUS=: the reason first, since `systemctl status` shows the beginning (M4)."""
    text = redact(str(error))
    text = text if len(text) <= STATUS_CHARS_MAX else text[: STATUS_CHARS_MAX - 3] + "..."
    return f"{text} (exit {int(error.code)} {error.code.name})"


def tell_reason(address: str | None, error: EngineError) -> None:
    """Leave the reason with systemd, which shows it as long as the unit is down."""
    notifier = Notifier(address)
    notifier.send(STATUS=reason(error))
    notifier.close()


class _Waiting:
    """A class, because a generator as a context manager takes as long as the channel's `put` inside it."""

    __slots__ = ("_name", "_names")

    def __init__(self, names: set[str], name: str) -> None:
        self._names = names
        self._name = name

    def __enter__(self) -> None:
        self._names.add(self._name)

    def __exit__(self, *_: object) -> None:
        self._names.discard(self._name)


class Liveness:
    """Which tasks have answered the probe of the current epoch."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._epoch = 1
        # Task -> the last epoch it answered.
        self._answered = dict.fromkeys(names, 0)
        # Tasks that wait for room in a channel: not they are stuck but, if anyone, the consumer, who answers
        # for itself.
        self._waiting: set[str] = set()

    def answer(self, name: str) -> None:
        """Called by task `name` at the top of its loop."""
        self._answered[name] = self._epoch

    def waiting(self, name: str) -> _Waiting:
        """Task `name` waits for room in a channel inside this block and cannot answer."""
        return _Waiting(self._waiting, name)

    def finished(self, name: str) -> None:
        """Task `name` has ended as it should and answers no more."""
        self._answered.pop(name, None)

    def silent(self) -> list[str]:
        """Return the tasks that have not answered in this epoch."""
        return [name for name, epoch in self._answered.items() if epoch != self._epoch and name not in self._waiting]

    def next_epoch(self) -> None:
        """Everybody has answered: what they answered so far counts no more."""
        self._epoch += 1
