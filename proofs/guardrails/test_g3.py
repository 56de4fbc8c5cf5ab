"""G3: the PRAGMAs are what they must be, read back by the engine and by another process (contract D1, I5, S1)."""

from __future__ import annotations

import pytest

from harness.proving.sabotage import Patch
from proofs.fixtures.engine_unit import EngineUnit

WANTED = {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 5000, "temp_store": 2}


@pytest.mark.claim("G3", "I5", "S1", "D1")
def test_pragmas_are_verified_before_ready(engine: EngineUnit) -> None:
    engine.configure({})
    engine.start()
    said = engine.wait_log("PRAGMA verification").fields
    engine.expect({name: said.get(name) for name in WANTED} == WANTED, f"read back: {said}")
    engine.wait_log("pipeline running")
    events = [entry.event for entry in engine.journal()]
    engine.expect(
        events.index("all PRAGMAs verified") < events.index("pipeline running"), "it ran before it had verified"
    )


@pytest.mark.claim("G3", "I5")
def test_another_process_sees_the_wal(engine: EngineUnit) -> None:
    engine.configure({"engine": {"tick_interval_ms": 5}, "persist": {"flush_interval_ms": 10}})
    engine.start()
    engine.wait_ticks(1)
    engine.expect(engine.query("PRAGMA journal_mode") == [("wal",)], "another process does not see WAL mode")
    engine.expect(engine.database.with_name("bot.db-wal").exists(), "there is no write-ahead log")
    engine.expect(engine.query("PRAGMA integrity_check") == [("ok",)], "the database is damaged")


@pytest.mark.claim("G3", "D1")
@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("synchronous", '("NORMAL", 1)', '("OFF", 1)'),
        ("journal_mode", '("WAL", "wal")', '("DELETE", "wal")'),
        ("temp_store", '("MEMORY", 2)', '("FILE", 2)'),
    ],
    ids=["synchronous", "journal_mode", "temp_store"],
)
def test_a_pragma_that_is_not_as_it_must_be_refuses_to_start(
    engine: EngineUnit, name: str, right: str, wrong: str
) -> None:
    """An engine that sets the wrong value, but still knows the right one: exit 12, not restarted."""
    engine.configure({})
    with engine.patched(Patch("engine/storage/opening.py", "PRAGMAS", right, wrong)):
        started = engine.try_start()
        engine.expect(started.status != 0, "the engine runs on a PRAGMA that is not as it must be")
        refusal = engine.wait("the refusal", lambda e: e.level == "ERROR" and "PRAGMA mismatch" in e.event)
        engine.expect(refusal.fields["differing"] == [name], f"the refusal names {refusal.fields['differing']}")
        engine.expect(refusal.fields["exit_code"] == 12, f"refused with {refusal.fields['exit_code']}")
