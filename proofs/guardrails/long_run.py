"""An engine that runs for minutes keeps its promises in the last of them as in the first; not collected by name.
`pytest proofs/guardrails/long_run.py`.

PROOFS_RUN_SECONDS (180) says how long. Every other proof under the unit is over within seconds.
"""

from __future__ import annotations

import os

import pytest

from harness.base.clock import OsClock
from harness.faults import nemesis, tracing
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit
from proofs.guardrails.test_stop import expect_clean_end, expect_told_again

SECONDS = float(os.environ.get("PROOFS_RUN_SECONDS", "180"))

BEAT_SECS = 0.2

FILES_MORE = 8
"""So many files more may be open at one moment than at another."""

DEFAULT_BEAT_SECS = 10.0

IDLE_MOST = 0.1
"""The part of a processor that a quiet market takes at most."""


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


@pytest.mark.claim("B1", "E5", "E6")
@pytest.mark.parametrize("seconds", [SECONDS])
def test_a_market_is_quiet_for_as_long_as_it_likes(watched: EngineUnit, exchange: Exchange, seconds: float) -> None:
    """Without any tick from the start on, and after one: the watchdog leaves it alone, it does next to nothing, and a
    signal that means nothing is told however many were. Connections that are cut leave nothing open."""
    watched.connect(exchange, engine={"feed_silence_secs": 0, "heartbeat_interval_secs": 1})
    pid = watched.show().main_pid
    clock, files = OsClock(), 0
    for ticks in (1, 2):
        began, used = clock.monotonic(), processor_secs(watched, pid)
        while clock.monotonic() - began < seconds / 2:
            watched.mark()
            watched.wait_log("HEARTBEAT (G4)")
            state, quiet_secs = watched.show(), clock.monotonic() - began
            watched.expect(
                (state.active, state.main_pid) == ("active", pid), f"{quiet_secs:.0f} s of a quiet market ended it"
            )
            expect_told_again(watched, "USR1")
            with nemesis.disconnected(exchange):
                watched.wait_log("connected")
            opened = tracing.descriptors(watched)
            files = files or opened
            watched.expect(opened <= files + FILES_MORE, f"{opened} files are open, {files} were after one reconnect")
        part = (processor_secs(watched, pid) - used) / quiet_secs
        watched.expect(part <= IDLE_MOST, f"it takes {part:.0%} of a processor while nothing comes")
        exchange.send_ticks(1)
        watched.wait_ticks(ticks)
    watched.stop()
    expect_clean_end(watched)


@pytest.mark.slow
@pytest.mark.claim("M2", "G4")
def test_what_is_not_configured_beats_each_ten_seconds(engine: EngineUnit) -> None:
    """And is so long about it, not only said to be."""
    engine.configure({})
    engine.start()
    first = engine.wait_log("HEARTBEAT (G4)")
    engine.mark()
    second = engine.wait_log("HEARTBEAT (G4)", deadline_secs=DEFAULT_BEAT_SECS + 2)
    took = (second.realtime_us - first.realtime_us) / 1e6
    engine.expect(
        abs(took - DEFAULT_BEAT_SECS) <= 2, f"from the first heartbeat to the next it is {took:.1f} s, not 10 (G4)"
    )


def processor_secs(engine: EngineUnit, pid: int) -> float:
    """Return how long a process has had a processor (proc(5))."""
    stat = engine.machine.run("cat", f"/proc/{pid}/stat").expect(0).stdout
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
