"""G1, the half that is the gate, under the real unit: one row of the matrix opens LIVE, and every other one is exit 12.

The rows are driven in groups on one prepared unit; each starts from all that is needed, and takes one thing away.
proofs/engine/test_attestation.py has the long tail, proofs/engine/test_gate.py the engine as a plain process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from harness.base.clock import OsClock
from harness.machines.stage import PREFIX
from harness.proving.sabotage import Patch
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.live_unit import BUNDLE, ENVIRONMENT_FILE, LiveUnit, live
from proofs.fixtures.true_bundle import Signer, at, flipped, verdict

HOUR = 3600.0

Case = tuple[Callable[[LiveUnit, ExitStack], object], tuple[str, ...]]
"""Takes one thing away, for as long as the stack lives; and the checks that must fail."""


def now() -> float:
    return OsClock().wall()


def drop_in(unit: LiveUnit, stack: ExitStack) -> None:
    """Something of the operator's own, after the bundle was signed."""
    stack.enter_context(unit.engine.drop_in("50-later", "[Service]\nNice=1\n"))


def unread_drop_in(unit: LiveUnit, stack: ExitStack) -> None:
    """On disk, but not yet read by systemd: what runs is not what the files say."""
    unit.engine.write_drop_in("50-later", "[Service]\nNice=1\n")
    stack.callback(unit.engine.remove_drop_in, "50-later")


def one_byte(unit: LiveUnit, _: ExitStack) -> None:
    """In the middle of the payload, where an A becomes a C: still the base64 of something."""
    raw = unit.bundle()
    unit.put(flipped(raw, raw.index(b"A", len(raw) // 2), bit=1))


def not_armed(unit: LiveUnit, stack: ExitStack) -> None:
    unit.configure(live_armed=False)
    stack.callback(unit.configure)


def another_cap(unit: LiveUnit, stack: ExitStack) -> None:
    unit.configure(risk_caps={"max_exposure_usd": 20_000})
    stack.callback(unit.configure)


def no_adapter(unit: LiveUnit, stack: ExitStack) -> None:
    unit.remove_adapter()
    stack.callback(unit.install_adapter)


def another_feed(unit: LiveUnit, stack: ExitStack) -> None:
    """What the soak controller falls back to when the protocol has changed (K4)."""
    unit.configure(engine={"ingest_mode": "MOCK_WS"})
    stack.callback(unit.configure)


def add_a_remark(unit: LiveUnit, stack: ExitStack, name: str) -> None:
    """One line more in an installed file, until the stack ends."""
    path = unit.engine.machine.path(name)
    text, times = path.read_text(), path.stat()
    path.write_text(f"{text}# A remark.\n")
    stack.callback(os.utime, path, ns=(times.st_atime_ns, times.st_mtime_ns))
    stack.callback(path.write_text, text)


def another_package(unit: LiveUnit, stack: ExitStack) -> None:
    """One that the engine imports."""
    add_a_remark(unit, stack, unit.package("msgspec/__init__.py"))


def stray_path_file(unit: LiveUnit, stack: ExitStack) -> None:
    """Python runs a line of it at every start, before anything else."""
    name = unit.package("zz.pth")
    unit.write(name, "import sys\n")
    stack.callback(unit.engine.machine.path(name).unlink)


def another_script(unit: LiveUnit, stack: ExitStack) -> None:
    """What the unit executes."""
    add_a_remark(unit, stack, f"{PREFIX}/bin/hybrid-engine")


def another_environment_file(unit: LiveUnit, stack: ExitStack) -> None:
    """A value in a file that the unit only names."""
    unit.write(ENVIRONMENT_FILE, "HYBRID_LOG=INFO\nHYBRID_TRANSPORT=websockets\n")
    stack.callback(unit.write, ENVIRONMENT_FILE, "HYBRID_LOG=INFO\n")


def path_in_the_manager(unit: LiveUnit, stack: ExitStack) -> None:
    """Every unit gets what the manager has."""
    unit.engine.machine.systemctl("set-environment", "PYTHONPATH=/tmp").expect(0)
    stack.callback(unit.engine.machine.systemctl, "unset-environment", "PYTHONPATH")


def not_isolated(unit: LiveUnit, stack: ExitStack) -> None:
    """Signed as it is, and still not what LIVE takes: modules come from beside the script first."""
    command = unit.engine.command().replace(" -I ", " ")
    stack.enter_context(unit.engine.drop_in("50-later", f"[Service]\nExecStart=\nExecStart={command}\n"))
    signed = unit.bundle()
    stack.callback(unit.put, unit.state(BUNDLE).read_bytes())
    unit.put(signed)


# In this order, because a sabotage must be refuted by the case that it is about: that is the first it changes.
GROUPS: dict[str, dict[str, Case]] = {
    "operator": {
        "another cap": (another_cap, ("config",)),
        "not armed": (not_armed, ("live_armed", "config")),
        "made-up prices": (another_feed, ("ingest", "config")),
        "no adapter": (no_adapter, ("runtime", "execution adapter")),
    },
    "bundle": {
        "touched": (lambda unit, _: unit.put(b""), ("envelope",)),
        "another's": (lambda unit, _: unit.put(Signer().seal(unit.statement())), ("signature",)),
        "one byte flipped": (one_byte, ("signature",)),
        "stale": (lambda unit, _: unit.put(unit.bundle(at(now() - 25 * HOUR))), ("age",)),
        "one unproven": (lambda unit, _: unit.put(unit.bundle(verdict("S12", "unproven"))), ("guardrails",)),
    },
    "unit": {
        "a drop-in more": (drop_in, ("unit",)),
        "a drop-in that systemd has not read": (unread_drop_in, ("unit",)),
        "another environment file": (another_environment_file, ("unit",)),
        "PYTHONPATH in the manager": (path_in_the_manager, ("environment", "environment")),
        "not isolated": (not_isolated, ("runtime", "isolation")),
    },
    "packages": {
        "another package": (another_package, ("runtime",)),
        "another script": (another_script, ("runtime",)),
        "a stray .pth file": (stray_path_file, ("runtime",)),
    },
}


@pytest.mark.slow
@pytest.mark.claim("G1", "G0", "R6", "R7", "R9", "L1", "S14", "V5")
@pytest.mark.parametrize("group", GROUPS)
def test_nothing_less_opens_live(engine: EngineUnit, group: str) -> None:
    with live(engine) as unit:
        unit.prepare()
        for case, (take_away, checks) in GROUPS[group].items():
            with ExitStack() as stack:
                take_away(unit, stack)
                unit.expect_refused(case, *checks)


@pytest.mark.claim("G1", "G0", "R6", "L1")
@pytest.mark.parametrize("mode", ["SHADOW", "PAPER"])
def test_another_mode_never_calls_the_adapter(engine: EngineUnit, mode: str) -> None:
    """With all that LIVE needs in place, but for the mode."""
    with live(engine) as unit:
        unit.prepare(mode=mode)
        engine.start()
        engine.wait_rows("SELECT COUNT(*) FROM orders", at_least=3)
        engine.stop()
        engine.expect(unit.calls() == [], f"{mode} called the adapter: {unit.calls()}")
        orders = engine.query("SELECT DISTINCT is_shadow, mode FROM orders")
        engine.expect(orders == [(1, mode)], f"orders of {mode}: {orders}")


@pytest.mark.slow
@pytest.mark.claim("G1", "R6", "L1", "V5")
def test_another_engine_tree_does_not_open_live(engine: EngineUnit) -> None:
    """One constant of one module is another than when the bundle was signed."""
    with live(engine) as unit:
        unit.prepare()
        with engine.patched(
            Patch("engine/trading/risk.py", "Caps", "max_exposure_usd: Decimal", "max_exposure_usd: 'Decimal'")
        ):
            unit.expect_refused("another engine tree", "engine")


@pytest.mark.claim("G1", "R6", "L1", "L4", "V5")
def test_the_true_bundle_opens_live_and_the_adapter_sees_the_orders(engine: EngineUnit) -> None:
    with live(engine) as unit:
        unit.prepare()
        engine.start()
        engine.wait_rows("SELECT COUNT(*) FROM orders", at_least=3)
        engine.stop()
        opened = engine.wait_log("LIVE gate opened: orders are real")
        engine.expect(opened.fields.get("adapter") == "filling", f"opened for {opened.fields.get('adapter')}")
        calls = unit.calls()
        orders = engine.query("SELECT order_id, is_shadow, mode, status FROM orders ORDER BY id")
        engine.expect(calls[0] == ("made", ""), f"the adapter's first call: {calls[:1]}")
        submitted = [order_id for what, order_id in calls if what == "submit"]
        engine.expect([order[0] for order in orders] == submitted, f"the adapter saw {submitted}, on disk: {orders}")
        engine.expect(all(order[1:3] == (0, "LIVE") for order in orders), f"orders that are not LIVE: {orders}")
        # The third order rests at the venue, and its cancellation at the stop is booked.
        ends = [order[3] for order in orders[:3]]
        engine.expect(ends == ["FILLED", "FILLED", "CANCELED"], f"the first three orders ended as {ends}")
        engine.expect(("cancel", submitted[2]) in calls, f"the adapter was not asked to cancel: {calls}")
        fills = engine.query("SELECT DISTINCT is_shadow, mode FROM trades")
        engine.expect(fills == [(0, "LIVE")], f"fills: {fills}")


@pytest.mark.slow
@pytest.mark.claim("G1", "R6", "V5")
def test_an_older_bundle_than_the_newest_accepted_is_refused(engine: EngineUnit) -> None:
    """The same one again is fine: a restart is no replay."""
    with live(engine) as unit:
        unit.prepare()
        older = unit.bundle(at(now() - HOUR))
        for _ in range(2):
            engine.start()
            engine.stop()
        unit.put(older)
        started = engine.try_start()
        engine.expect(started.status != 0, "LIVE started on an older bundle")
        line = engine.wait("the refusal", lambda entry: entry.level == "ERROR")
        engine.expect(line.fields.get("checks") == ["replay"], f"refused for {line.fields.get('checks')}")
        made = [what for what, _ in unit.calls()].count("made")
        engine.expect(made == 2, f"the adapter was made {made} times by two accepted starts")
