"""The engine, killed and stopped again and again in full flow; not collected by name.

Run it by `pytest proofs/engine/long_crashes.py`.

PROOFS_CRASH_KILLS (100) and PROOFS_CRASH_STOPS (50) say how often, in an order by chance; PROOFS_CRASH_RATE (25000) is
how many trades come in a second. The venue sends nothing again, so that each end leaves a hole: exactly what was on its
way and is nowhere on disk. proofs/engine/test_scale.py has the short form.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from proofs.engine.test_scale import configured, port
from proofs.fixtures.crashes import end_time_and_again

__all__ = ["port"]

KILLS = int(os.environ.get("PROOFS_CRASH_KILLS", "100"))
STOPS = int(os.environ.get("PROOFS_CRASH_STOPS", "50"))
RATE = int(os.environ.get("PROOFS_CRASH_RATE", "25000"))
SEED = 20_261_127


@pytest.mark.claim("D3", "E4", "N9")
def test_ended_in_full_flow_a_night_long(tmp_path: Path, port: int) -> None:
    ends = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * STOPS
    random.Random(SEED).shuffle(ends)
    arguments = configured(tmp_path, port, 2**40, rate=RATE, heartbeat_interval_secs=0.02, overload_grace_ms=250)
    missing = end_time_and_again(tmp_path, arguments, port, ends, SEED)
    print(f"{KILLS} kills, {STOPS} stops: {missing} trades were on their way, none is missing that was not")
    assert missing > 0
