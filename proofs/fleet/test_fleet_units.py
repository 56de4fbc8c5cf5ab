"""Relay and collector as they ship, under systemd, in their own sandbox (contract F1, F3, F6, O2)."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import psycopg
import pytest

from harness.machines.machine import Machine
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.fleet_parts import PASSWORD, NatsServer, Postgres, streamed, toml, wait
from proofs.fixtures.shipped import Shipped

pytestmark = pytest.mark.slow

EXPOSURE_MAX = 1.5
"""Of `systemd-analyze security`."""

QUICK = "[Service]\nRestartSec=50ms\n"


@pytest.mark.claim("F1", "F3", "F4", "F6", "O2")
def test_a_fleets_units_carry_an_engine_into_a_database(
    engine: EngineUnit, with_extra: Machine, nats_server: NatsServer, postgres: Postgres
) -> None:
    machine = with_extra
    nats_server.begin_anew()
    engine.configure({"engine": {"tick_interval_ms": 20, "heartbeat_interval_secs": 0.5}})
    engine.start()
    etc = machine.path("/etc/hybrid-engine")
    servers = {"servers": [nats_server.url]}
    relayed = {"instance": "one", "database": machine.layout.database, "journal_unit": "hybrid-engine.service",
               "metrics_port": 0, "stream": {"max_bytes": 1 << 26}, "nats": servers}  # fmt: skip
    collected = {"conninfo": postgres.make_database("units"), "metrics_port": 0, "nats": servers,
                 "password_file": "$CREDENTIALS_DIRECTORY/postgres-password"}  # fmt: skip
    (etc / "relay.toml").write_text(toml({**relayed, "instance": "a.b"}))
    (etc / "collector.toml").write_text(toml(collected))
    secret = etc / "postgres-password"
    secret.touch(0o600)
    secret.write_text(PASSWORD)
    relay, collector = Shipped(machine, "hybrid-relay.service"), Shipped(machine, "hybrid-collector.service")

    def rows(sql: str) -> int:
        try:
            with postgres.connect("units") as connection:
                return int(connection.execute(f"SELECT count(*) FROM hybrid.{sql}").fetchall()[0][0])
        except psycopg.Error:
            return 0

    with relay.shortened(QUICK), collector.shortened(QUICK):
        machine.systemctl("start", relay.name)
        relay.wait("exit 12", lambda: relay.show("ActiveState")["ActiveState"] == "failed")
        shown = relay.show("ExecMainStatus", "NRestarts")
        relay.expect(shown == {"ExecMainStatus": "12", "NRestarts": "0"}, f"a wrong name: {shown}")
        (etc / "relay.toml").write_text(toml(relayed))
        for unit in (relay, collector):
            machine.systemctl("start", unit.name).expect(0)
        relay.wait("ticks and heartbeats", lambda: {"ticks", "heartbeats"} <= set(streamed(nats_server.url)))
        collector.wait("a heartbeat in PostgreSQL", lambda: rows("heartbeats") > 0)
        policy = machine.run("chrt", "--pid", relay.show("MainPID")["MainPID"]).stdout
        relay.expect("SCHED_IDLE" in policy, f"it competes with the engine for the processor: {policy}")
        for unit in (relay, collector):
            machine.systemctl("kill", "--signal=KILL", unit.name).expect(0)
            unit.wait("a restart by systemd", lambda unit=unit: unit.show("NRestarts")["NRestarts"] != "0")
            # What was on its way at the kill comes all the same.
            before = rows("ticks")
            unit.wait("rows after a kill", lambda before=before: rows("ticks") > before + 50)
        machine.systemctl("stop", collector.name).expect(0)
        stored = rows("ticks")
        relay.wait(
            "ticks while the collector is down",
            lambda: sum(len(one.rows) for one in streamed(nats_server.url)["ticks"]) > stored + 20,
        )
        machine.systemctl("start", collector.name).expect(0)
        engine.stop()
        with closing(sqlite3.connect(machine.path(machine.layout.database))) as ledger:
            (due,) = ledger.execute("SELECT count(*) FROM ticks").fetchone()
        wait(lambda: rows("ticks") == due, f"all {due} ticks")
        collector.expect(rows("breaks") == 0, "something was lost on the way")
        for unit in (relay, collector):
            said = machine.run("systemd-analyze", "security", "--no-pager", unit.name).stdout
            (exposure,) = re.findall(r"Overall exposure level for \S+ ([\d.]+)", said)
            unit.expect(float(exposure) <= EXPOSURE_MAX, f"exposure {exposure}")
            machine.systemctl("stop", unit.name).expect(0)
            unit.expect(unit.show("Result")["Result"] == "success", "its stop is not clean")
        journal = machine.run("journalctl", "--output=cat", "--no-pager", "-u", collector.name).stdout
        collector.expect(PASSWORD not in journal, "its log shows the password")
