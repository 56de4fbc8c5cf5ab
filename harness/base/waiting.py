"""Tell what each pytest process waits for, in a status file of its own that another process can read.

A wait says what it is for, in words: `with awaiting("the STALL decision"):`. Without a reader that costs nothing, else
two small writes into a file in memory. Workers of pytest-xdist have no terminal, so this is how their waits get to
the one of the controller (harness/proving/live.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.base.clock import Clock, OsClock

BYTES = 512
"""Length of a status file. Written and read in one go, so that a reader never sees half of one."""


@dataclass(frozen=True)
class Waiting:
    """What one process does."""

    since: float
    """Monotonic seconds, which all processes of a computer share."""
    proof: str
    what: str
    """What is awaited; empty while the proof does not wait."""


class StatusFile:
    """The file in which one process says what it does. May be written from any of its threads."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or OsClock()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._proof = Waiting(0.0, "", "")
        self._waits: list[Waiting] = []

    def works_on(self, proof: str) -> None:
        """Say which proof runs; empty: none."""
        with self._lock:
            self._proof = Waiting(self._clock.monotonic(), proof, "")
            self._waits.clear()
            self._write()

    @contextmanager
    def awaiting(self, what: str) -> Iterator[None]:
        """Say that `what` is awaited inside this block."""
        with self._lock:
            wait = Waiting(self._clock.monotonic(), self._proof.proof, what)
            self._waits.append(wait)
            self._write()
        try:
            yield
        finally:
            with self._lock:
                if wait in self._waits:
                    self._waits.remove(wait)
                self._write()

    def close(self) -> None:
        """Close and remove the file."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        now = self._waits[-1] if self._waits else self._proof
        words = (" ".join(text.split()) for text in (now.proof, now.what))
        text = "\t".join([f"{now.since:.3f}", *words])
        os.pwrite(self._fd, text.encode()[:BYTES].ljust(BYTES), 0)


def read(path: Path) -> Waiting | None:
    """Read a status file; None when it says nothing yet, or is gone."""
    try:
        since, proof, what = path.read_bytes().decode("utf-8", "replace").rstrip(" ").split("\t", 2)
    except (OSError, ValueError):
        return None
    return Waiting(float(since), proof, what) if proof else None


_status_file: StatusFile | None = None


def use(status_file: StatusFile | None) -> None:
    """Write what this process awaits there from now on; None: nowhere."""
    global _status_file
    _status_file = status_file


@contextmanager
def awaiting(what: str) -> Iterator[None]:
    """Write to the status file in use, if there is one, that `what` is awaited inside this block."""
    if _status_file is None:
        yield
    else:
        with _status_file.awaiting(what):
            yield
