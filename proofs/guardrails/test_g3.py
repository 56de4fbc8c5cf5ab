"""G3: the PRAGMAs are what they must be, read back by the engine and by another process (contract D1, I5, S1)."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from datetime import datetime

import pytest

from harness.faults import nemesis, tracing
from harness.faults.exchange import Exchange
from harness.proving.sabotage import Patch
from proofs.fixtures.engine_unit import EngineUnit

COMMITS = 20
"""At least: each is waited for."""

LINK = "link.db"

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
    verified = datetime.fromisoformat(engine.wait_log("all PRAGMAs verified").timestamp)
    ready = engine.wait("systemd's word that it started", lambda e: e.message.startswith("Started "))
    mode = engine.query("PRAGMA journal_mode")
    engine.expect(mode == [("wal",)], f"it says that it verified a database, which is in mode {mode}")
    early = verified.timestamp() - ready.sent_us / 1e6
    engine.expect(early <= 0, f"READY=1 came {early:.3f} s before the database was verified")


@pytest.mark.slow
@pytest.mark.claim("G3", "D1", "I5")
def test_what_was_committed_is_forced_to_disk(engine: EngineUnit, exchange: Exchange) -> None:
    """`synchronous` belongs to a connection, so that nobody else can read it back: but with FULL each commit is synced,
    and with OFF nothing ever is, neither before the log is copied into the database, while it runs or by a clean stop,
    nor after."""
    engine.connect(exchange, engine={"signal_every_n_ticks": 1})
    wal = engine.database.with_name("bot.db-wal")
    # A write that fails changes nothing of that.
    with nemesis.locked(engine.database):
        exchange.send_ticks(1)
        engine.wait("the word that a batch could not be written", lambda e: e.level == "WARN" and "lock" in e.message)
    # Nearly as much as SQLite, left to itself, lets come together; a process that is traced is slow.
    while exchange.sent < 10_000 and (not wal.exists() or wal.stat().st_size < 3.2 * 2**20):
        exchange.send_ticks(500)
        engine.wait_ticks(exchange.sent)
    with tracing.calls(engine, tracing.SYNCING) as calls:
        # In WAL mode nothing but a copy of the log writes to the file itself.
        before, copied, each, commits = engine.database.stat().st_mtime_ns, False, 0, 0
        for _ in range(COMMITS):
            known, written = len(calls()), engine.database.stat().st_mtime_ns
            exchange.send_ticks(1)
            engine.wait_ticks(exchange.sent)
            # An engine that keeps its log short (D9) syncs when it copies that.
            if engine.database.stat().st_mtime_ns == written:
                commits, each = commits + 1, each + len(calls()) - known
        engine.expect(each <= commits / 2, f"{each} syncs for {commits} commits: synchronous is FULL, whatever is told")
        for _ in range(30):
            exchange.send_ticks(50)
            engine.wait_ticks(exchange.sent)
            if copied := engine.database.stat().st_mtime_ns != before:
                break
        synced = calls()
        # An engine may let more come together (D9).
        engine.expect(bool(synced) or not copied, "the log is copied into the database, and nothing is synced before")
        # An engine may have copied everything by now (D3 says nothing of when).
        left = wal.stat().st_size
        engine.kill("INT")
        engine.wait_end()
        more = calls()[len(synced) :]
    engine.expect(bool(more) or not left, "a clean stop syncs nothing: synchronous is OFF, whatever was read back")


@pytest.mark.slow
@pytest.mark.claim("M4", "E2")
def test_what_is_no_database_is_never_ready(engine: EngineUnit) -> None:
    """READY=1 says that the database was verified: whoever says it first lets `systemctl start` succeed on one that
    cannot be used."""
    engine.try_start()
    engine.stop()
    engine.configure({})
    engine.write_state("data/bot.db", "this is a letter to the operator\n" * 300)
    state = engine.machine.layout.state
    engine.machine.run("chown", f"--reference={state}", f"{state}/data").expect(0)
    for left in ("-wal", "-shm"):
        engine.database.with_name(f"bot.db{left}").unlink(missing_ok=True)
    started = engine.try_start()
    engine.expect(started.status != 0, "systemctl start succeeded on a file that is no database")
    engine.wait_exit(12)
    engine.expect(
        not any(entry.event == "pipeline running" for entry in engine.journal()), "it ran on a file that is no database"
    )
    engine.stop()
    # What the operator has put right is right.
    engine.database.unlink()
    engine.start()
    engine.stop()
    engine.configure({"app": {"db_path": "data"}})
    started = engine.try_start()
    engine.expect(started.status != 0, "systemctl start succeeded where a directory is the database")


@pytest.mark.slow
@pytest.mark.claim("G3", "D1")
def test_a_database_of_another_mode_is_set_to_rights(engine: EngineUnit) -> None:
    """The mode of its journal belongs to the file, and somebody may have changed it between two runs."""
    engine.configure({"engine": {"tick_interval_ms": 5}, "persist": {"flush_interval_ms": 10}})
    engine.start()
    engine.wait_ticks(1)
    engine.stop()
    with closing(sqlite3.connect(engine.database)) as connection:
        changed = connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    assert changed == [("delete",)]
    before = engine.tick_count()
    engine.start()
    engine.wait_ticks(before + 1)
    mode = engine.query("PRAGMA journal_mode")
    engine.expect(mode == [("wal",)], f"a database that was in mode DELETE is in mode {mode}")
    said = engine.wait_log("PRAGMA verification").fields
    engine.expect({name: said.get(name) for name in WANTED} == WANTED, f"read back at a later start: {said}")
    engine.wait_log("all PRAGMAs verified")


@pytest.mark.slow
@pytest.mark.claim("D5", "C4")
@pytest.mark.parametrize("name", ["a b%20c#d?mode=memory&e.db", "\u20ac'\".db", "~/$HOME ${PATH}.db", LINK])
def test_the_database_is_the_file_that_is_named(engine: EngineUnit, name: str) -> None:
    """Whatever a URL, SQL or a shell makes of the name; behind a link it is what that leads to. Not everybody may write
    it."""
    # systemd makes the state directory at the first start.
    engine.try_start()
    engine.stop()
    state = engine.machine.path(engine.machine.layout.state)
    database = state / name
    if name == LINK:
        database = state / "real.db"
        (state / name).symlink_to(database.name)
    engine.configure({"app": {"db_path": name}, "engine": {"tick_interval_ms": 5}})
    engine.start()
    engine.wait_rows("SELECT COUNT(*) FROM ticks", at_least=1, database=database)
    files = list(state.rglob("*.db*"))
    open_to_all = [file.name for file in files if not file.is_symlink() and file.stat().st_mode & stat.S_IWOTH]
    engine.expect(not open_to_all, f"everybody may write {open_to_all}")
    engine.expect((name == LINK) == (state / LINK).is_symlink(), f"of the link there is {files}")


@pytest.mark.claim("G3", "I5", "M2")
def test_another_process_sees_the_wal(engine: EngineUnit, exchange: Exchange) -> None:
    engine.connect(exchange)
    exchange.send_ticks(10)
    engine.wait_ticks(10)
    engine.expect(engine.query("PRAGMA journal_mode") == [("wal",)], "another process does not see WAL mode")
    wal = engine.database.with_name("bot.db-wal")
    engine.expect(wal.exists(), "there is no write-ahead log")
    engine.mark()
    told, size = engine.wait_log("HEARTBEAT (G4)").fields["wal_bytes"], wal.stat().st_size
    # Of what a busy engine writes beside its ticks.
    engine.expect(size / 2 <= told <= 2 * size, f"wal_bytes is {told}, and the log has {size} bytes")
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
