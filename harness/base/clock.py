"""The sole user of `time` and `sleep`: waiting is done here, always for something and never for ever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")

POLL_SECS = 0.01
"""Pause between two looks at something that cannot notify us, such as a database row. At half of this, a waiting proof
takes a tenth of a core from those that work."""


class Clock(Protocol):
    """What the harness knows of time."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, never going backwards."""
        ...

    def wall(self) -> float:
        """Return seconds since the Unix epoch."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...


class OsClock:
    """The computer's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def process_age_secs() -> float:
    """Return how long ago this process began, its interpreter's own start included (proc_pid_stat(5), field 22)."""
    # The name of the program, which may hold anything, is in parentheses.
    began = int(Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK"))


class FakeClock:
    """A clock that only moves when somebody sleeps on it: tests of policies need no real time."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def poll(look: Callable[[], T | None], clock: Clock, deadline_secs: float) -> T | None:
    """Look until `look` returns something other than None, or return None after `deadline_secs`.

    Looks once more after the deadline, so that a slow last look is not taken for a failure.
    """
    end = clock.monotonic() + deadline_secs
    while True:
        late = clock.monotonic() >= end
        found = look()
        if found is not None or late:
            return found
        clock.sleep(POLL_SECS)
