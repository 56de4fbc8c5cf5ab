"""The engine with a stop watch: when each frame reached the transport's callback, and when strategy had its tick.

The engine itself has none, so that nobody pays for one. This runner wraps two calls from outside, then starts the
engine as `python -m engine` does, and writes two arrays of 64-bit integers (nanoseconds of CLOCK_MONOTONIC) at the end:
FILE.arrived and FILE.decided, one entry a tick, in order.

    python -m bench.latency FILE --config PATH
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import __main__ as engine_main
from engine.base.events import Signal, Tick
from engine.ingest import via_picows
from engine.trading import strategy

arrived = array("q")
decided = array("q")


class Watched:
    """A strategy that notes when it was asked."""

    def __init__(self, inner: strategy.Strategy) -> None:
        self.name = inner.name
        self._on_ticks = inner.on_ticks

    def on_ticks(self, ticks: Sequence[Tick]) -> list[Signal]:
        """As the strategy inside."""
        signals = self._on_ticks(ticks)
        # After the decision: what it takes to make one belongs to the way there.
        now = time.monotonic_ns()
        decided.extend([now] * len(ticks))
        return signals


def watch() -> None:
    """Puts the stop watch into the engine's modules. The load sends one text frame per tick, and nothing else."""
    make = strategy.make
    listener: Any = via_picows._PicowsListener
    on_ws_frame = listener.on_ws_frame

    def stamped(self: Any, transport: Any, frame: Any) -> None:
        arrived.append(time.monotonic_ns())
        on_ws_frame(self, transport, frame)

    listener.on_ws_frame = stamped
    strategy.make = lambda *args, **named: Watched(make(*args, **named))


if __name__ == "__main__":
    watch()
    status = engine_main.main(sys.argv[2:])
    Path(f"{sys.argv[1]}.arrived").write_bytes(arrived.tobytes())
    Path(f"{sys.argv[1]}.decided").write_bytes(decided.tobytes())
    sys.exit(status)
