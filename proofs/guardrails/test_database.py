"""The unit's database is its own, and watched (contract D6, D7, D8)."""

from __future__ import annotations

import re

import pytest

from harness.faults import nemesis
from harness.faults.exchange import Exchange
from harness.machines.systemd import METRONOME
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.misconfigured import logged


@pytest.mark.slow
@pytest.mark.claim("D6")
def test_an_engine_that_is_started_by_hand_beside_the_unit_is_refused(engine: EngineUnit, exchange: Exchange) -> None:
    exchange.feed(interval_secs=0.005)
    engine.connect(exchange)
    engine.wait_ticks(10)
    pid = engine.show().main_pid
    by_hand = engine.argv("--db", engine.machine.layout.database, "--seconds", "2")
    second = engine.machine.run(*by_hand)
    ends = [entry.event for entry in logged(second) if entry.level == "ERROR"]
    engine.expect(
        second.status == 12 and any(re.search(rf"\b{pid}\b", event) for event in ends),
        f"a second engine on the unit's database ended with {second.status}, and said {second.stdout[-500:]}",
    )
    engine.wait_ticks(engine.tick_count() + 10)
    # systemd has waited for the old process: its lock is gone.
    engine.machine.systemctl("restart", engine.name).expect(0)
    engine.wait_ticks(engine.tick_count() + 10)
    with nemesis.killed(engine):
        engine.wait_restarts(1)
    engine.wait_ticks(engine.tick_count() + 10)


@pytest.mark.claim("D7", "E2")
@pytest.mark.parametrize("fault", ["deleted", "replaced"])
def test_a_database_that_is_lost_ends_the_unit_and_systemd_leaves_it_down(
    engine: EngineUnit, exchange: Exchange, fault: str
) -> None:
    exchange.feed(interval_secs=0.005)
    engine.connect(exchange)
    engine.wait_ticks(10)
    database = engine.machine.layout.database
    if fault == "deleted":
        engine.machine.run("rm", database).expect(0)
    else:
        engine.machine.run("sh", "-c", f"cp {database} {database}.backup && mv {database}.backup {database}").expect(0)
    engine.wait("the end of the unit", lambda e: "Main process exited" in e.message and "status=12/" in e.message)
    engine.machine.systemctl("start", "--no-block", METRONOME).expect(0)
    first, *later = engine.metronome.beats(2, watched=engine)
    engine.expect(all(state == first for state in later), "a unit without its database was started again")
    engine.expect((first.active, first.n_restarts) == ("failed", 0), f"the unit is {first.active}")
    told = engine.wait("the line that ends the run", lambda e: e.level == "ERROR" and e.fields.get("exit_code") == 12)
    engine.expect("rows" in told.fields and "since" in told.fields, f"the log says {told.message}")


@pytest.mark.claim("D8")
def test_a_wal_whose_database_is_gone_is_kept(engine: EngineUnit, exchange: Exchange) -> None:
    exchange.feed(interval_secs=0.005)
    engine.connect(exchange)
    engine.wait_ticks(10)
    with engine.drop_in("30-once", "[Service]\nRestart=no\n"), nemesis.killed(engine):
        engine.machine.run("rm", engine.machine.layout.database).expect(0)
        left = engine.database.with_name("bot.db-wal").read_bytes()
        engine.start()
        engine.wait_ticks(1)
    orphans = list(engine.database.parent.glob("bot.db-wal.orphan-*"))
    engine.expect(
        [path.read_bytes() for path in orphans] == [left], f"the WAL of the lost database was thrown away: {orphans}"
    )
    told = engine.wait_log("set aside what a database that is gone has left")
    engine.expect(told.level == "WARN" and told.fields["bytes"] == len(left), f"the log says {told.fields}")
