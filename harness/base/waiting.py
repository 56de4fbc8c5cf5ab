"""What each pytest process waits for, told on a slate that whoever watches can read: one small file a process.

A wait says what it is for, in words: `with awaiting("the STALL decision"):`. Where nobody watches, that costs nothing;
else two small writes into a file in memory. Workers of pytest-xdist have no terminal, so this is how their waits get to
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
"""Length of a slate. Written and read in one go, so that a reader never sees half of one."""


@dataclass(frozen=True)
class Waiting:
    """What one process does."""

    since: float
    """Monotonic seconds, which all processes of a computer share."""
    proof: str
    what: str
    """What is awaited; empty while the proof does not wait."""


class Slate:
    """The file on which a process tells what it does. Written from whichever thread waits."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or OsClock()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._proof = Waiting(0.0, "", "")
        self._waits: list[Waiting] = []

    def works_on(self, proof: str) -> None:
        """A proof begins; empty: none."""
        with self._lock:
            self._proof = Waiting(self._clock.monotonic(), proof, "")
            self._waits.clear()
            self._write()

    @contextmanager
    def awaiting(self, what: str) -> Iterator[None]:
        """Inside this block, `what` is awaited."""
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
        """Wipe it away."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        now = self._waits[-1] if self._waits else self._proof
        words = (" ".join(text.split()) for text in (now.proof, now.what))
        text = "\t".join([f"{now.since:.3f}", *words])
        os.pwrite(self._fd, text.encode()[:BYTES].ljust(BYTES), 0)


def read(path: Path) -> Waiting | None:
    """What a slate says; None when it says nothing yet, or is gone."""
    try:
        since, proof, what = path.read_bytes().decode("utf-8", "replace").rstrip(" ").split("\t", 2)
    except (OSError, ValueError):
        return None
    return Waiting(float(since), proof, what) if proof else None


_slate: Slate | None = None


def use(slate: Slate | None) -> None:
    """From now on, what this process awaits is told there; None: nowhere."""
    global _slate
    _slate = slate


@contextmanager
def awaiting(what: str) -> Iterator[None]:
    """Tell the watcher, if there is one, that `what` is awaited inside this block."""
    if _slate is None:
        yield
    else:
        with _slate.awaiting(what):
            yield
