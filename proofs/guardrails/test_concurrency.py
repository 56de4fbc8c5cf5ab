"""concurrency: five readers during full-rate writes see no error and never a step back (contract D5)."""

from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import closing

import pytest

from harness.base.clock import OsClock
from harness.faults.exchange import Exchange
from harness.machines.systemd import DEADLINE_SECS
from proofs.fixtures.engine_unit import EngineUnit

READERS = 5
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
    for path in (engine.database, engine.database.with_name(f"{engine.database.name}-wal"), engine.database.parent):
        mode = stat.S_IMODE(path.stat().st_mode)
        readable = bool(mode & stat.S_IRGRP) and not mode & stat.S_IRWXO
        engine.expect(readable, f"{path.name} has mode {mode:04o}: its group reads it, and nobody else (UMask=0027)")
    beat = engine.wait_log("HEARTBEAT (G4)").fields
    engine.expect(beat["persist_errors"] == 0, f"the writer had {beat['persist_errors']} errors")
