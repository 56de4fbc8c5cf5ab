"""Each judge can still say no: what waits and expects, and the receipts of faults that did not land (contract V4).

The sabotages rest on these, and run at night; a judge that always nods would leave all else green.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, cast

import pytest

from harness.base.clock import OsClock, poll
from harness.base.errors import HarnessError, MachineError, Refuted
from harness.faults import nemesis, tracing
from harness.faults.exchange import Exchange
from harness.faults.nemesis import Receipt
from harness.machines import systemd
from harness.machines.systemd import METRONOME
from harness.proving.sabotage import Patch
from proofs.fixtures import soak_run
from proofs.fixtures.browser import Visit
from proofs.fixtures.dashboard_unit import DashboardUnit
from proofs.fixtures.engine_process import Engine
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.shipped import Shipped
from proofs.fixtures.soak_run import SOAK, WORK, SoakRun

pytestmark = pytest.mark.claim("V4")

SOON_SECS = 0.2


def says_no(judge: Callable[[], object], why: str, kind: type[Exception] = Refuted) -> None:
    """The judge must refuse, for this reason."""
    with pytest.raises(kind, match=why):
        judge()


@pytest.mark.slow
def test_judges_of_the_unit_say_no(engine: EngineUnit, exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """To what has not come, and to one more than has."""
    engine.deadline_secs = SOON_SECS
    says_no(lambda: engine.wait_ticks(1), "0 of 1 after")
    with monkeypatch.context() as patch:
        patch.setattr(systemd, "DEADLINE_SECS", SOON_SECS)
        says_no(lambda: engine.metronome.beats(1, watched=engine), "beat 0 of 1 times", MachineError)
    engine.configure({"engine": {"sample_every": 0}})
    says_no(engine.start, r"(?s)hybrid-engine.service did not start.*last journal lines")
    engine.deadline_secs = 10.0
    engine.connect(exchange)
    says_no(lambda: exchange.wait_client(SOON_SECS, connections=2), "no client connected")
    exchange.send_ticks(5)
    says_no(lambda: exchange.wait_sent(6, SOON_SECS), "5 of 6 ticks sent")
    engine.wait_ticks(5)
    engine.deadline_secs = SOON_SECS
    says_no(lambda: engine.wait_ticks(6), "5 of 6 after")
    says_no(lambda: engine.wait_rows("SELECT COUNT(*) FROM ticks WHERE price < 0", 1), "0 of 1 after")
    says_no(lambda: engine.wait_log("no such event"), "'no such event' has not come within 0.2 s")
    says_no(
        lambda: engine.wait_log("pipeline running", lambda entry: entry.fields["message"] == "x"),
        "'pipeline running' has not come within 0.2 s as it is asked for: 1 came, the last with message pipeline",
    )
    says_no(lambda: engine.wait("anything", lambda _: False), "anything has not come")
    engine.wait_log("engine starting")
    engine.mark()
    says_no(lambda: engine.wait_log("engine starting"), "has not come")
    engine.expect(True, "never said")
    says_no(
        lambda: engine.expect(False, "it is not so", "Restart"),
        r"(?s)it is not so.*state: active.*set by: Restart=on-failure in",
    )
    engine.deadline_secs = 10.0
    engine.kill()
    engine.wait_restarts(1)
    engine.deadline_secs = SOON_SECS
    says_no(lambda: engine.wait_restarts(2), "was restarted 1 times within 0.2 s")
    says_no(engine.wait_end, "still runs after 0.2 s")
    engine.machine.systemctl("start", METRONOME)
    seen = engine.metronome.beats(2, watched=engine)
    assert len(seen) >= 2
    engine.deadline_secs = 10.0
    engine.stop()
    says_no(engine.kill, "there is no main process to get SIGKILL")


def test_judges_of_the_controller_say_no(soak: SoakRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a decision that was not made, to one that is another, and to a controller that does not look or end."""
    monkeypatch.setattr(soak_run, "DEADLINE_SECS", SOON_SECS)
    engine = soak.engine
    engine.deadline_secs = SOON_SECS
    says_no(lambda: soak.wait("STALL"), "no STALL decision within 0.2 s")
    decision = {"timestamp": "t", "state": "NORMAL", "action": "STALL", "reason": "r"}
    engine.machine.path(f"{WORK}/soak_decisions.jsonl").write_text(json.dumps(decision) + "\n")
    assert soak.wait("STALL") == decision
    says_no(lambda: soak.wait("STALL", lambda one: one["reason"] == "another"), "no STALL decision")
    says_no(lambda: soak.wait("ABORT"), "no ABORT decision")
    engine.machine.path(f"{WORK}/soak_samples.jsonl").write_text("{}\n")
    says_no(lambda: soak.wait_looks(1), "does not look any more")
    says_no(lambda: soak.expect(False, "it is not so"), "(?s)it is not so.*STALL: r")
    soak.expect(True, "never said")
    engine.machine.systemd_run(f"--unit={SOAK}", "--collect", "sleep", "60").expect(0)
    try:
        says_no(lambda: soak.wait_end(SOON_SECS), "still runs after 0.2 s")
    finally:
        soak.stop()
    soak.wait_end(SOON_SECS)


@pytest.mark.slow
def test_judges_of_a_history_say_no(engine: EngineUnit, exchange: Exchange) -> None:
    """Whatever a proof is about; and only of what was told since it is listened to."""

    def run() -> None:
        engine.connect(exchange)
        exchange.send_ticks(5)
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["ingest_received"] == 5)
        engine.stop()
        engine.wait_log("FINAL METRICS")

    run()
    engine.expect_true_history()
    with engine.patched(Patch("engine/ingest/inlet.py", "Ingest.deliver", "len(ticks)", "2 * len(ticks)")):
        run()
    says_no(engine.expect_true_history, r"M3: ticks parsed \d+ ≠ received \+ duplicates")
    engine.listen()
    engine.expect_true_history()


def test_judges_of_the_dashboard_say_no(engine: EngineUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = DashboardUnit(engine)
    says_no(lambda: dashboard.expect(False, "it is not so"), "it is not so")
    dashboard.expect(True, "never said")
    says_no(lambda: dashboard.get("/"), "the dashboard does not answer /")
    monkeypatch.setattr(dashboard, "state", lambda: {"ticks": 3})
    says_no(lambda: dashboard.wait("more", lambda state: state["ticks"] > 3, SOON_SECS), "does not show more within")
    assert dashboard.wait("as many", lambda state: state["ticks"] >= 3, SOON_SECS) == {"ticks": 3}


def test_judges_of_a_shipped_unit_say_no(engine: EngineUnit) -> None:
    shipped = Shipped(engine.machine, SOAK)
    says_no(lambda: shipped.expect(False, "it is not so"), "it is not so")
    shipped.expect(True, "never said")
    says_no(lambda: shipped.wait("anything", lambda: None, SOON_SECS), "anything has not come within 0.2 s")
    assert shipped.wait("three", lambda: 3, SOON_SECS) == 3


class Page:
    """One on which nothing becomes true, and one thing is."""

    def evaluate(self, expression: str, _argument: object) -> bool:
        return expression == "so"

    def inner_text(self, _selector: str) -> str:
        return "what stands there"


def test_judges_of_a_page_say_no() -> None:
    visit = object.__new__(Visit)
    visit.page = cast(Any, Page())
    says_no(lambda: visit.wait("more", "not so", within_secs=SOON_SECS), "(?s)does not show more.*what stands there")
    visit.wait("as much", "so", within_secs=SOON_SECS)
    says_no(lambda: visit.expect(False, "it is not so"), "it is not so")
    visit.expect(True, "never said")


def test_judges_of_the_exchange_say_no(exchange: Exchange) -> None:
    says_no(lambda: exchange.wait_client(SOON_SECS), "no client connected")
    says_no(lambda: exchange.wait_heard(1, SOON_SECS), "0 of 1 messages were said")
    says_no(lambda: exchange.wait_sent(1, SOON_SECS), "0 of 1 ticks sent")
    says_no(lambda: exchange.wait_refusals(1, SOON_SECS), "0 of 1 handshakes refused")
    says_no(lambda: exchange.wait_pings(1, SOON_SECS), "0 of 1 pings were sent")


def test_judges_of_a_process_say_no(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "--seconds", "0.1")
    engine.wait_line("engine starting")
    assert engine.wait_exit() == 0
    says_no(lambda: engine.wait_line("no such line"), "no line 'no such line'", AssertionError)
    says_no(lambda: engine.wait_line("engine starting", lambda _: False), "no line", AssertionError)
    says_no(lambda: engine.wait_heartbeats(1000), "no line 'HEARTBEAT", AssertionError)


def no_receipt(fault: AbstractContextManager[Receipt], why: str) -> None:
    """The fault must say that it did not land, before anybody believes in it."""
    with pytest.raises(HarnessError, match=why), fault as receipt:
        pytest.fail(f"a receipt for nothing: {receipt}")


def test_a_fault_that_did_not_land_has_no_receipt(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nemesis, "LAND_SECS", SOON_SECS)
    monkeypatch.setattr(nemesis.await_receipt, "__defaults__", (SOON_SECS,))
    no_receipt(nemesis.disconnected(exchange), "nobody was connected, so no connection was cut")
    no_receipt(nemesis.half_open(exchange), "nobody was connected, so no connection is half-open")
    no_receipt(nemesis.garbage(exchange, ["{"]), "nobody was connected, so nobody got any garbage")
    no_receipt(nemesis.refusing(exchange, 503), "did not land: waited 0.2 s for a handshake to be refused")
    no_receipt(nemesis.slow(exchange, 0.1), "did not land: waited 0.2 s for a handshake")
    # Whoever opened the port again in between.
    for name in ("close_port", "open_port"):
        monkeypatch.setattr(exchange, name, lambda: None)
    no_receipt(nemesis.unreachable(exchange), "answers 0")
    # A database in a mode in which a lock excludes nobody.
    database = tmp_path / "x.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE t (x)")
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **options: sqlite3.dbapi2.connect(":memory:", isolation_level=None)
    )
    no_receipt(nemesis.locked(database), "takes a second writer")
    no_receipt(nemesis.held(database), "can be read: it is not held")


@pytest.mark.slow
def test_a_fault_of_the_unit_that_did_not_land_has_no_receipt(
    engine: EngineUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals that reach nobody, pressure that does not rise, a disk with room left."""
    monkeypatch.setattr(nemesis.await_receipt, "__defaults__", (SOON_SECS,))
    engine.configure({})
    engine.start()
    with monkeypatch.context() as beside:
        kill = engine.kill
        beside.setattr(engine, "kill", lambda name="KILL": kill("KILL"))
        with pytest.raises(Refuted, match="its main process ended when it was to be paused"), nemesis.paused(engine):
            pytest.fail("a receipt for who is not there")
    engine.wait_restarts(1)
    monkeypatch.setattr(engine, "kill", lambda name="KILL": None)
    no_receipt(nemesis.paused(engine), r"did not land: waited 0.2 s for process \d+ to stop")
    no_receipt(nemesis.killed(engine), r"did not land: waited 0.2 s for process \d+ to die")
    machine, run = engine.machine, engine.machine.run
    monkeypatch.setattr(
        machine, "run", lambda *argv, **more: run(*(["true"] if argv[0] == "systemd-run" else argv), **more)
    )
    no_receipt(nemesis.cpu_load(machine), "did not land: waited 0.2 s for the hog to run")
    thread = tracing.threads(engine)[0]
    start_outside = machine.start_outside
    for command, why in (
        # One that ends, as where it may not trace; and one that runs, but traces nothing.
        (("true",), "strace may not trace here"),
        (("sleep", "60"), "did not land: waited 0.2 s for strace"),
    ):
        monkeypatch.setattr(machine, "start_outside", lambda *_, command=command: start_outside(*command))
        no_receipt(tracing.standing_still(engine, thread), why)


def test_poll_says_no() -> None:
    assert poll(lambda: None, OsClock(), SOON_SECS) is None
