"""G0: SHADOW is the default, and LIVE fails closed, under the real unit."""

from __future__ import annotations

import pytest

from harness.faults import tracing
from proofs.fixtures import misconfigured
from proofs.fixtures.engine_unit import EngineUnit, Tables

FAST = {"tick_interval_ms": 2, "signal_every_n_ticks": 2}


def run_until_orders(engine: EngineUnit) -> None:
    engine.start()
    engine.wait_rows("SELECT COUNT(*) FROM orders", at_least=3)
    engine.stop()


@pytest.mark.claim("G0", "L1", "R4")
@pytest.mark.parametrize(
    "tables",
    [{"engine": FAST}, {"mode": "SHADOW", "engine": FAST}, {"mode": "SHADOW", "live_armed": True, "engine": FAST}],
    ids=["no-mode", "shadow", "shadow-although-armed"],
)
def test_shadow_unless_told_otherwise(engine: EngineUnit, tables: Tables) -> None:
    engine.configure(tables)
    run_until_orders(engine)
    modes = engine.query("SELECT DISTINCT is_shadow FROM orders UNION SELECT DISTINCT is_shadow FROM trades")
    engine.expect(modes == [(1,)], f"orders or fills that are not shadow: {modes}")
    said = engine.wait_log("configuration loaded").fields["mode"]
    engine.expect(said == "SHADOW", f"the engine says it runs {said}")


@pytest.mark.claim("G0", "C1")
def test_mode_typo_on_the_command_line_is_shadow(engine: EngineUnit) -> None:
    """`--mode lvie` must never become LIVE, whatever the environment says. The flag comes by a drop-in, as an operator
    would add it."""
    engine.configure({"mode": "LIVE", "live_armed": True, "engine": FAST})
    command = engine.command("--mode", "lvie")
    with engine.drop_in("30-flag", f"[Service]\n{misconfigured.ASKING_FOR_LIVE}\nExecStart=\nExecStart={command}\n"):
        run_until_orders(engine)
        engine.expect(engine.query("SELECT DISTINCT is_shadow FROM orders") == [(1,)], "orders that are not shadow")
        engine.wait("the warning about the mode", lambda e: e.level == "WARN" and "lvie" in e.message)


@pytest.mark.claim("G0", "L1", "S14")
@pytest.mark.parametrize(
    ("armed", "bundle"),
    [
        pytest.param(False, None, id="not-armed"),
        pytest.param(True, None, id="no-bundle"),
        pytest.param(True, "", id="touched-bundle", marks=pytest.mark.slow),
        pytest.param(True, "{}", id="empty-object", marks=pytest.mark.slow),
        pytest.param(True, '{"payload": "e30=", "signature": ""}', id="nobody-signed-it", marks=pytest.mark.slow),
    ],
)
def test_live_without_the_gate_records_nothing(engine: EngineUnit, armed: bool, bundle: str | None) -> None:
    """Every way to ask for LIVE without all it needs: exit 12, and not one order of any kind."""
    engine.configure({"mode": "LIVE" if armed else "live", "live_armed": armed, "engine": FAST})
    if bundle is not None:
        engine.write_state("data/proof_bundle.json", bundle)
    expect_refused(engine, armed)
    expect_runs_otherwise(engine)


@pytest.mark.claim("G0", "L1", "S14")
def test_live_on_the_command_line_needs_the_gate_too(engine: EngineUnit) -> None:
    """As an operator adds it, by a drop-in, to a configuration that does not ask for LIVE and is armed."""
    engine.configure({"live_armed": True, "engine": FAST})
    with engine.drop_in("30-flag", f"[Service]\nExecStart=\nExecStart={engine.command('--mode', 'live')}\n"):
        expect_refused(engine, armed=True)
        asked = misconfigured.check(engine, "--mode", "live")
        engine.expect(asked.status == 12, f"--check-config --mode live: exit {asked.status}, where a start has 12 (C7)")
    expect_runs_otherwise(engine)


@pytest.mark.claim("G0", "L1", "S14")
def test_a_refused_live_calls_nobody(engine: EngineUnit) -> None:
    """From its first moment to its end it opens no connection, not even to its feed, and leaves no file."""
    feed = {"ingest_mode": "MOCK_WS", "ws_url": "ws://127.0.0.1:9"}
    for asked, flags in (({"mode": "Live"}, ()), ({}, ("--mode", "live"))):
        engine.configure({**asked, "live_armed": True, "engine": feed})
        if flags:
            engine.write_state("data/proof_bundle.json", '{"payload": "e30="}')
        machine, argv = engine.machine, engine.argv(*flags)
        with misconfigured.expect_untouched(engine):
            status, calls = tracing.whole_run(
                machine, machine.layout.state, argv, tracing.SENDING, engine.deadline_secs
            )
        engine.expect(
            status == 12, f"LIVE without the gate: exit {status}, or no end within {engine.deadline_secs:g} s"
        )
        called = tracing.to_the_network(calls)
        engine.expect(not called, f"a refused LIVE calls the network: {called[:3]}")


@pytest.mark.slow
@pytest.mark.claim("G0", "L1", "S14")
def test_a_refused_live_leaves_what_is_there(engine: EngineUnit) -> None:
    """The database of a run before it, to the byte."""
    engine.configure({"live_armed": True, "engine": FAST})
    run_until_orders(engine)
    engine.configure({"mode": "LIVE", "live_armed": True, "engine": FAST})
    with misconfigured.expect_untouched(engine):
        engine.expect_no_live(engine.try_start())
        engine.wait_exit(12)


def expect_refused(engine: EngineUnit, armed: bool) -> None:
    engine.expect_no_live(engine.try_start())
    line = engine.wait("the line that ends the run", lambda e: e.level == "ERROR" and "exit_code" in e.fields)
    engine.expect(line.fields["exit_code"] == 12, f"refused with {line.fields['exit_code']}")
    engine.expect(("live_armed" in line.event) == (not armed), "the refusal must name what is missing, and only that")
    engine.expect("proof bundle" in line.event, "the refusal does not name the proof bundle")
    engine.expect(not engine.database.exists(), "a refused LIVE touched the database")


def expect_runs_otherwise(engine: EngineUnit) -> None:
    """A positive control: it was LIVE that was refused. What starts at nothing refuses nothing."""
    engine.wipe()
    engine.configure({"engine": FAST})
    engine.start()
    engine.wait_ticks(1)
