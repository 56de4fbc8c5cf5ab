"""concurrency: five readers during full-rate writes see no error and never a step back (contract D5)."""

from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from harness.base.clock import OsClock
from harness.faults import nemesis
from harness.faults.exchange import Exchange
from harness.machines.systemd import DEADLINE_SECS
from proofs.fixtures.engine_unit import EngineUnit

READERS = 5

LATE_SECS = 2.0
"""How long who else writes may have to wait for a batch."""
LOOKS = 40


@pytest.mark.claim("concurrency", "D5")
def test_five_readers_beside_the_writer(engine: EngineUnit, exchange: Exchange) -> None:
    exchange.flood_on_connect()
    engine.configure(
        {"engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url}, "persist": {"flush_interval_ms": 10}}
    )
    engine.start()
    engine.wait_ticks(100)
    counts: list[list[int]] = [[] for _ in range(READERS)]
    errors: list[str] = []
    clock = OsClock()
    end = clock.monotonic() + DEADLINE_SECS

    def read(seen: list[int]) -> None:
        try:
            uri = f"file:{engine.database}?mode=ro"
            # At least so many looks, and on until the writer was seen at work.
            while len(seen) < LOOKS or (seen[-1] == seen[0] and clock.monotonic() < end):
                with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
                    seen.append(connection.execute("SELECT COUNT(*) FROM ticks").fetchone()[0])
        except sqlite3.Error as error:
            errors.append(str(error))

    readers = [threading.Thread(target=read, args=(seen,)) for seen in counts]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    engine.expect(errors == [], f"readers failed: {errors}")
    for seen in counts:
        engine.expect(len(seen) >= LOOKS and seen == sorted(seen), f"a reader saw a step back: {seen}")
    engine.expect(
        all(seen[-1] > seen[0] for seen in counts), "nothing was written meanwhile, so nothing was concurrent"
    )
    expect_for_the_group(engine)
    beat = engine.wait_log("HEARTBEAT (G4)").fields
    engine.expect(beat["persist_errors"] == 0, f"the writer had {beat['persist_errors']} errors")
    # And so with what is there already.
    engine.stop()
    before = engine.tick_count()
    engine.start()
    engine.wait_ticks(before + 1)
    expect_for_the_group(engine)


def expect_for_the_group(engine: EngineUnit) -> None:
    """Without -shm nobody can read a database in WAL mode; where nobody has it open, there may be neither."""
    files = [engine.database.with_name(f"{engine.database.name}{end}") for end in ("", "-wal", "-shm")]
    for path in (*filter(Path.exists, files), engine.database.parent):
        mode = stat.S_IMODE(path.stat().st_mode)
        readable = bool(mode & stat.S_IRGRP) and not mode & stat.S_IRWXO
        engine.expect(readable, f"{path.name} has mode {mode:04o}: its group reads it, and nobody else (UMask=0027)")


@pytest.mark.slow
@pytest.mark.claim("D5", "D4")
def test_what_others_write_beside_it_is_no_matter(engine: EngineUnit, exchange: Exchange) -> None:
    """An operator's own table, filled while it runs: neither is it touched, nor is the run another one."""
    engine.connect(exchange)
    with closing(sqlite3.connect(engine.database, isolation_level=None, timeout=DEADLINE_SECS)) as connection:
        connection.execute("CREATE TABLE NOTES (x)")
        for number in range(1, 6):
            connection.execute("INSERT INTO NOTES VALUES (?)", (number,))
            exchange.send_ticks(10)
            engine.wait_ticks(10 * number)
    engine.stop()
    state = engine.show()
    engine.expect((state.result, state.n_restarts) == ("success", 0), "another process's writing ended the run")
    notes = engine.query("SELECT x FROM NOTES")
    engine.expect(notes == [(number,) for number in range(1, 6)], f"the table of somebody else holds {notes}")
    # Between a row that came and the flush that is due for it as well.
    exchange.feed(interval_secs=0.002)
    engine.connect(exchange, persist={"flush_interval_ms": 1000, "batch_size": 100_000})
    exchange.wait_sent(exchange.sent + 20)
    for _ in range(5):
        refused = nemesis.refusal(engine.database, "BEGIN IMMEDIATE", LATE_SECS)
        engine.expect(refused is None, f"in full flow another process cannot write for {LATE_SECS:g} s: {refused}")
