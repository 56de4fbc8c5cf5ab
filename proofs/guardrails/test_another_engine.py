"""Another engine is a black box: one that does nothing is proven in nothing, and is told what it fails to do (V9, V10).

`make nothing` drives every proof over it; here are those of each kind, with deadlines that a sleeper cannot use. And
one that keeps the contract is proven in what it keeps, whatever its modules are.
"""

from __future__ import annotations

import inspect
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import pytest

from harness.base.clock import OsClock
from harness.base.errors import Refuted
from harness.faults import exchange as exchange_module
from harness.faults.exchange import Exchange
from harness.machines import systemd
from harness.machines.stage import PREFIX
from proofs.fixtures import soak_run
from proofs.fixtures.engine_unit import ENGINE_FILES, WATCHDOG_SEC, EngineUnit, exchange_for
from proofs.fixtures.lie import Lie
from proofs.fixtures.lies import LIES
from proofs.fixtures.soak_run import SoakRun
from proofs.guardrails import (
    test_exit12,
    test_g0,
    test_g3,
    test_g4,
    test_invariants,
    test_sampling,
    test_stop,
    test_watchdog,
)

Another = Callable[..., EngineUnit]

SECOND = ("reference_engine.py", f"{PREFIX}/bin/python -I {{}} --config {{{{config}}}}", "")

SLEEPER_SECS = 0.5
"""What is waited for a sleeper that will never wake."""

LIAR_SECS = 5.0
"""What is waited for what an engine says and does not do."""

EARLY_SECS = 0.05
"""How often a wait asks here whether it is in vain."""


@pytest.fixture
def another(engine: EngineUnit) -> Iterator[Another]:
    """The unit with a program of proofs/fixtures instead of our engine, and a drop-in's further lines, until the test
    ends."""
    directory = engine.machine.path(f"{ENGINE_FILES}/another")
    directory.mkdir(parents=True, exist_ok=True)

    def run(program: str, command: str, more: str, changed: Callable[[str], str] = str) -> EngineUnit:
        source = directory / program
        source.write_text(changed((engine.stage.checkout / "proofs/fixtures" / program).read_text()))
        source.chmod(0o755)
        engine.runs = command.format(f"{ENGINE_FILES}/another/{program}")
        engine.put_drop_in("30-another", f"[Service]\nExecStart=\nExecStart={engine.command()}\n{more}\n")
        return engine

    ours = engine.runs
    yield run
    engine.runs = ours
    engine.down()
    engine.remove_drop_in("30-another")
    shutil.rmtree(directory)


PROOFS: dict[str, tuple[Callable[..., None], dict[str, object]]] = {
    "stays-down": (test_exit12.test_misconfigured_unit_stays_down_and_says_why, {"case": "unknown-key"}),
    "is-restarted": (test_exit12.test_killed_engine_is_restarted, {}),
    "shadow": (test_g0.test_shadow_unless_told_otherwise, {"tables": {"engine": test_g0.FAST}}),
    "live-refused": (test_g0.test_live_without_the_gate_records_nothing, {"armed": False, "bundle": None}),
    "heartbeat": (test_g4.test_heartbeats_come_in_time_and_balance, {}),
    "sampling": (test_sampling.test_processed_is_received_over_n_across_reconnects, {"every": 5}),
    "stop": (test_stop.test_systemctl_stop_in_full_flow, {}),
    "quiet": (test_watchdog.test_quiet_market_is_not_stuck, {}),
}

MUTE = ("stays-down", "is-restarted", "heartbeat")
"""What is asked of the one that does not even say READY=1: none of the rest comes further."""


def drive(proof: Callable[..., None], engine: EngineUnit, exchange: Exchange, parameters: Mapping[str, object]) -> None:
    have = {"engine": engine, "watched": engine, "exchange": exchange, **parameters}
    proof(**{taken: have[taken] for taken in inspect.signature(proof).parameters})
    # As the fixture does at the end of each proof but those of sabotages, of which these are.
    engine.down()
    engine.expect_true_history()


@pytest.mark.slow
@pytest.mark.claim("V9", "V10")
@pytest.mark.parametrize("variant", ["ready", "mute"])
def test_an_engine_that_does_nothing_is_refuted_in_everything(
    another: Another, exchange: Exchange, variant: str
) -> None:
    """Refuted, not unproven; and one that never says READY=1 is told so in seconds."""
    engine = another("nothing", f"{{}} {variant}", "TimeoutStartSec=500ms" if variant == "mute" else "")
    engine.deadline_secs = exchange.deadline_secs = SLEEPER_SECS
    clock = OsClock()
    for name, (proof, parameters) in PROOFS.items():
        if variant == "mute" and name not in MUTE:
            continue
        began = clock.monotonic()
        with pytest.raises(Refuted) as refuted:
            drive(proof, engine, exchange, parameters)
        said = str(refuted.value)
        assert clock.monotonic() - began < 10.0, f"{name} took too long: {said}"
        if variant == "mute" and "did not start" in said:
            assert said.startswith("no READY=1 (M4) after "), f"{name}: {said}"
        engine.down()
        engine.wipe()


KEPT = [
    *PROOFS.values(),
    (test_g3.test_pragmas_are_verified_before_ready, {}),
    (test_invariants.test_the_same_events_again_change_nothing, {}),
    (test_invariants.test_cash_position_and_fees_balance, {}),
]
"""What the second engine keeps, in short: `make reference` drives every proof of the clauses it claims."""


@pytest.mark.slow
@pytest.mark.claim("V9")
@pytest.mark.parametrize(("proof", "parameters"), KEPT)
def test_a_second_engine_that_keeps_the_contract_is_proven(
    another: Another,
    exchange: Exchange,
    proof: Callable[..., None],
    parameters: Mapping[str, object],
) -> None:
    drive(proof, another(*SECOND), exchange, parameters)


IN_THE_SUITE = {lie.proof: lie.id for lie in reversed(LIES) if not lie.takes_long}
"""One lie for each proof that is quick; like the sabotages, the others come in the night."""


@pytest.mark.slow
@pytest.mark.claim("V4", "V9")
@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lie, id=lie.id, marks=() if lie.id in IN_THE_SUITE.values() else pytest.mark.sabotage)
        for lie in LIES
    ],
)
def test_a_second_engine_that_keeps_all_but_one_promise_is_refuted(another: Another, lie: Lie) -> None:
    engine = another(*SECOND, lie.applied)
    engine.deadline_secs = LIAR_SECS
    told = refutation_of(lie, engine)
    if not re.search(lie.says, told, re.DOTALL):
        warnings.warn(f"{lie.id}: refuted, but not for that at first: {told.splitlines()[0]}", stacklevel=1)
        engine.down()
        engine.wipe()
        told = refutation_of(lie, engine)
    assert re.search(lie.says, told, re.DOTALL), f"refuted, but not for that: {told}"


def refutation_of(lie: Lie, engine: EngineUnit) -> str:
    """What the promise's proof says of the engine that breaks it. It must be refuted each time it is asked."""
    barks_soon = f"[Service]\nWatchdogSec={WATCHDOG_SEC}\n"
    watched = engine.drop_in("20-watchdog", barks_soon) if lie.watched else nullcontext()
    with watched, exchange_for(engine) as exchange:
        exchange.deadline_secs = LIAR_SECS
        with pytest.raises(Refuted) as refuted:
            drive(lie.proof, engine, exchange, lie.parameters)
    return str(refuted.value)


def expect_each_wait_to_say(ended: str, engine: EngineUnit, exchange: Exchange) -> None:
    """Every kind of wait begins with how the unit has ended, and goes on for much less than its deadline."""
    waits: list[Callable[[], object]] = [
        lambda: engine.wait_log("HEARTBEAT (G4)"),
        lambda: engine.wait_ticks(1),
        lambda: engine.wait_restarts(1),
        lambda: exchange.wait_client(),
        lambda: exchange.wait_sent(1),
        lambda: exchange.wait_refusals(1),
        lambda: exchange.wait_heard(1),
    ]
    began = OsClock().monotonic()
    for wait in waits:
        with pytest.raises(Refuted, match=ended) as refuted:
            wait()
        assert refuted.value.journal, "the journal was read too early"
    assert OsClock().monotonic() - began < engine.deadline_secs / 2


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait looks soon whether there is anything left to wait for."""
    monkeypatch.setattr(systemd, "SLICE_SECS", EARLY_SECS)
    monkeypatch.setattr(exchange_module, "HOPE_SECS", EARLY_SECS)


@pytest.mark.slow
@pytest.mark.claim("V10")
@pytest.mark.usefixtures("looks_often")
def test_a_wait_says_first_that_the_unit_has_ended_cleanly(engine: EngineUnit, exchange: Exchange) -> None:
    """Although nobody told it to: systemd does not start it again."""
    with engine.drop_in("30-clean", "[Service]\nType=exec\nExecStart=\nExecStart=/bin/true\n"):
        engine.start()
        expect_each_wait_to_say(r"\Aa clean end after \d+\.\d s; ", engine, exchange)


@pytest.mark.slow
@pytest.mark.claim("V10")
def test_an_end_before_ready_and_a_log_of_no_m1_lines_are_told(engine: EngineUnit) -> None:
    """The first faults of whoever begins an engine."""
    with engine.drop_in("30-clean", "[Service]\nExecStart=\nExecStart=/bin/echo started\n"):
        engine.try_start()
        with pytest.raises(Refuted, match=r"\Aa clean end before READY=1 \(M4\) after .* s; expected exit status 12"):
            engine.wait_exit(12)
        with pytest.raises(Refuted, match=r"what it logs are no M1 lines: 'started'"):
            engine.wait_log("HEARTBEAT (G4)", deadline_secs=0.1)
    with engine.drop_in("30-clean", "[Service]\nExecStart=\nExecStart=/bin/true\n"):
        engine.try_start()
        with pytest.raises(Refuted, match=r"has not come within .* s, and it logs nothing"):
            engine.wait_log("HEARTBEAT (G4)", deadline_secs=0.1)


@pytest.mark.slow
@pytest.mark.claim("V10")
@pytest.mark.usefixtures("looks_often")
def test_a_wait_says_first_that_the_unit_has_ended(
    engine: EngineUnit, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends then, when nothing can come any more: every kind of wait."""
    monkeypatch.setattr(soak_run, "LOOKS_BETWEEN", 2)
    engine.configure({"engine": {"sample_every": 0}})
    engine.try_start()
    expect_each_wait_to_say(r"\Aexit 12 after \d+\.\d s: .*sample_every", engine, exchange)
    assert any("sample_every" in entry.message for entry in engine.journal())
    # The controller refuses to begin over such an engine.
    soak = SoakRun(engine)
    soak.prepare()
    soak.inject_pressure()
    soak.start()
    try:
        for wait in (lambda: soak.wait("PSI_LOGONLY"), lambda: soak.wait_looks(1)):
            with pytest.raises(Refuted, match=r"\Athe controller has ended \(\d+/\S+\); "):
                wait()
    finally:
        soak.stop()
