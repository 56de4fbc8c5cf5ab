"""Throttling as a ladder: a pressured reading steps up, lasting calm steps down (contract K1, K2).

Each rung is a `sample_every` of the engine. The state is a value: every reading gives the next state and what is to
be done about it. An unknown reading changes nothing: it is neither pressure nor calm, and the time around it is not
counted as calm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


@dataclass(frozen=True)
class Rung:
    """One step of the ladder."""

    name: str
    sample_every: int
    """The engine processes every Nth tick."""


RUNGS = (Rung("NORMAL", 1), Rung("THROTTLE1", 5), Rung("THROTTLE2", 10), Rung("THROTTLE3", 20))
"""From bottom to top (K1)."""

TOP_READINGS_MAX = 5
"""Consecutive pressured readings at the top that are endured; one more aborts (K1)."""


class Step(StrEnum):
    """What a reading asks for."""

    HOLD = "HOLD"
    UP = "UP"
    DOWN = "DOWN"
    THROTTLE_MAX = "THROTTLE_MAX"
    ABORT = "ABORT"


@dataclass(frozen=True)
class Ladder:
    """Where the ladder stands, and what it has seen on this rung."""

    index: int = 0
    """Into RUNGS."""
    pressured_at_top: int = 0
    """Consecutive pressured readings at the top; unknown ones in between do not interrupt the row."""
    calm_secs: float = 0.0
    """How long the pressure has been known to be below the limits; counted between neighbouring calm readings."""
    calm_at: float | None = None
    """When the last reading was calm; None when it was not, or when there was none on this rung."""

    @property
    def rung(self) -> Rung:
        return RUNGS[self.index]

    @property
    def at_top(self) -> bool:
        return self.index == len(RUNGS) - 1

    def read(self, pressured: bool | None, now: float, recover_after_secs: float) -> tuple[Ladder, Step]:
        """Return the state after one reading, and what it asks for.

        pressured: whether a limit is exceeded; None when the pressure is unknown. now: monotonic seconds.
        recover_after_secs: calm for so long is one rung down; 0 never steps down (latch).
        """
        if pressured is None:
            return replace(self, calm_at=None), Step.HOLD
        if pressured:
            if not self.at_top:
                return Ladder(self.index + 1), Step.UP
            count = self.pressured_at_top + 1
            return Ladder(self.index, count), Step.ABORT if count > TOP_READINGS_MAX else Step.THROTTLE_MAX
        calm_secs = self.calm_secs + (now - self.calm_at if self.calm_at is not None else 0.0)
        if recover_after_secs > 0 and self.index > 0 and calm_secs >= recover_after_secs:
            return Ladder(self.index - 1), Step.DOWN
        return Ladder(self.index, 0, calm_secs, now), Step.HOLD

    def overloaded(self) -> tuple[Ladder, Step]:
        """Return the state after the engine ended with OVERLOAD (exit 13, K4): UP, or ABORT at the top."""
        if self.at_top:
            return self, Step.ABORT
        return Ladder(self.index + 1), Step.UP
