"""An engine that runs for minutes keeps its promises in the last of them as in the first; not collected by name.
`pytest proofs/guardrails/long_run.py`.

PROOFS_RUN_SECONDS (180) says how long. Every other proof under the unit is over within seconds.
"""

from __future__ import annotations

import os

import pytest

from harness.base.clock import OsClock
from harness.faults import nemesis
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit
from proofs.guardrails.test_stop import expect_clean_end

SECONDS = float(os.environ.get("PROOFS_RUN_SECONDS", "180"))

BEAT_SECS = 0.2


@pytest.mark.claim("D4", "G4", "M2", "M3", "S13")
@pytest.mark.parametrize("seconds", [SECONDS])
def test_what_is_told_is_there_for_as_long_as_it_runs(engine: EngineUnit, exchange: Exchange, seconds: float) -> None:
    """Heartbeats come, and what they tell as written is in the database; at the end all that was counted is there, and
    after another start it still is."""
    exchange.feed(interval_secs=0.005)
    engine.connect(exchange, engine={"heartbeat_interval_secs": BEAT_SECS})
    with nemesis.disconnected(exchange):
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["reconnects"] == 1)
    pid = engine.show().main_pid
    clock = OsClock()
    began, beats = clock.monotonic(), 0
    while (run_for := clock.monotonic() - began) < seconds:
        engine.mark()
        beat = engine.wait_log("HEARTBEAT (G4)").fields
        beats += 1
        told, stored = beat["tick_rows_written"], engine.tick_count()
        engine.expect(beat["reconnects"] == 1, f"after {run_for:.0f} s it says {beat['reconnects']} reconnects of 1")
        engine.expect(stored >= told, f"after {run_for:.0f} s it says that {told} rows are written, and {stored} are")
    engine.expect(
        beats >= 0.5 * run_for / BEAT_SECS, f"{beats} heartbeats in {run_for:.0f} s, one is due each {BEAT_SECS} s"
    )
    engine.expect(engine.show().main_pid == pid, "it was restarted meanwhile")
    engine.stop()
    expect_clean_end(engine)
    newest = "SELECT max(id) FROM ticks"
    ((last,),), stored = engine.query(newest), engine.tick_count()
    engine.start()
    engine.wait_rows(newest, at_least=int(str(last)) + 1)
    ((left,),) = engine.query(f"SELECT count(*) FROM ticks WHERE id <= {last}")
    engine.expect(left == stored, f"of {stored} ticks {left} are left after another start")
