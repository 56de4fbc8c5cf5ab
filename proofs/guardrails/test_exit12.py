"""exit12: what no restart can heal is not restarted, and everything else is (contract E2, E3, C3, C4).

The claim "it was not restarted" is worth as much as the proof that it would have been noticed: the metronome
restarts all the while, the positive controls restart under the same drop-ins, and test_sabotage.py shows that a
sabotaged unit is caught.
"""

from __future__ import annotations

import socket

import pytest

from harness.faults import nemesis
from harness.faults.exchange import Exchange
from harness.machines.systemd import METRONOME
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.misconfigured import PASSWORD, Mistake, faults_of_line, unknown, wrong_value

OBSERVED_RESTART_DELAYS = 3

MISCONFIGURED = {
    # case: (configuration or None for no file at all, what the one log line must name)
    "toml-syntax-error": ("invalid = [toml\n", ["line 1"]),
    "unknown-key": (
        f'[engine]\ntick_intervall_ms = "{PASSWORD}"\n',
        ["engine.tick_intervall_ms", "tick_interval_ms"],
    ),
    "wrong-type": ('[engine]\nsample_every = "five"\n', ["engine.sample_every", "five"]),
    "risk-cap-zero": ("[risk_caps]\nmax_exposure_usd = 0\n", ["risk_caps.max_exposure_usd", "0"]),
    "missing-file": (None, ["No such file"]),
    "source-without-trades": (
        '[engine]\ningest_mode = "REAL_WS"\n',
        ["source.url", "BTCUSDT@trade", "must be written in lower case"],
    ),
    "live-without-gate": ('mode = "LIVE"\n', ["LIVE", "live_armed", "proof bundle"]),
}

MISTAKES = {
    "unknown-key": unknown("engine.tick_intervall_ms", "tick_interval_ms"),
    "wrong-type": Mistake("wrong-type", "", "engine.sample_every", "five"),
    "risk-cap-zero": wrong_value("risk_caps.max_exposure_usd", "0"),
}
"""What the line of a start must name beside that, as `--check-config` has to (test_configuration.py)."""

HOPELESS = '[[source]]\nname = "a"\nurl = "wss://stream.binance.com:9443/ws/BTCUSDT@trade"\npriority = 1\n'


def misconfigure(engine: EngineUnit, case: str) -> None:
    text, _ = MISCONFIGURED[case]
    engine.configure_sources(HOPELESS)
    if text is None:
        engine.remove_config()
    else:
        engine.configure_text(text)


def prove_not_restarted(engine: EngineUnit) -> None:
    """The claim of E2. Expects a configuration that the engine must refuse."""
    started = engine.try_start(METRONOME)
    engine.expect(started.status != 0, "systemctl start succeeded on a configuration that must be refused")
    ended = engine.wait("the report of the ended main process", lambda e: "Main process exited" in e.message)
    engine.expect("status=12/" in ended.message, f"expected exit status 12, systemd says: {ended.message}")
    first, *later = engine.metronome.beats(OBSERVED_RESTART_DELAYS, watched=engine)
    last = later[-1]
    engine.expect(
        last.n_restarts == 0,
        f"the unit restarted {last.n_restarts} times on exit status 12, which no restart can heal",
        "RestartPreventExitStatus",
    )
    engine.expect(last.active == "failed", f"expected the unit to be failed, it is {last.active}")
    engine.expect(last.exec_main_status == 12, f"expected exit status 12, got {last.exec_main_status}")
    engine.expect(
        all(state == first for state in later), "the unit changed after it had failed: something started it again"
    )


@pytest.mark.claim("exit12", "E2", "M4", "M1")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param("toml-syntax-error", marks=pytest.mark.claim("C4")),
        pytest.param("unknown-key", marks=pytest.mark.claim("C4")),
        pytest.param("wrong-type", marks=pytest.mark.claim("C4")),
        pytest.param("risk-cap-zero", marks=pytest.mark.claim("C4")),
        pytest.param("missing-file", marks=pytest.mark.claim("C3")),
        pytest.param("source-without-trades", marks=pytest.mark.claim("N13")),
        pytest.param("live-without-gate", marks=pytest.mark.claim("G0", "S14")),
    ],
)
def test_misconfigured_unit_stays_down_and_says_why(engine: EngineUnit, case: str) -> None:
    misconfigure(engine, case)
    prove_not_restarted(engine)
    line = engine.wait(
        "an ERROR line that names the file",
        lambda e: e.level == "ERROR" and any(path in e.message for path in (engine.config_path, engine.sources_path)),
    )
    for word in MISCONFIGURED[case][1]:
        engine.expect(word in line.message, f"the log line does not name {word!r}")
    told = [entry.message for entry in engine.whole_journal() if PASSWORD in entry.message]
    engine.expect(not told, f"the log shows the value of a key that is not known: {told}")
    if case in MISTAKES:
        faults = faults_of_line(MISTAKES[case], line, engine.config_path)
        engine.expect(not faults, f"C4: {'; '.join(faults)}")
    # What `systemctl status` shows of it, and what `journalctl -p err` finds.
    status = engine.property("StatusText")
    engine.expect(
        line.event.startswith(status.partition(" (exit 12")[0][:60]) and status.endswith("(exit 12 CONFIG)"),
        f"systemctl status says {status!r}",
    )
    engine.expect(line.priority == 3, f"the line has priority {line.priority}, an error has 3")


@pytest.mark.claim("exit12", "E2")
def test_mended_unit_runs(engine: EngineUnit, exchange: Exchange) -> None:
    """The operator mends the file and restarts the unit, and ticks reach the database."""
    misconfigure(engine, "unknown-key")
    engine.try_start()
    state = engine.show()
    engine.expect(
        (state.active, state.exec_main_status) == ("failed", 12),
        f"the unit is {state.active}, exit status {state.exec_main_status}, where it must be failed with 12",
    )
    exchange.feed(interval_secs=0.005)
    engine.configure(
        {"engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url}, "persist": {"flush_interval_ms": 10}}
    )
    engine.start()
    engine.wait_ticks(1)


@pytest.mark.claim("exit12", "E3")
def test_crash_is_restarted(engine: EngineUnit) -> None:
    """Exit 1: the disk is full when the database is opened."""
    # systemd makes the state directory, in which the disk may be, at the first start.
    engine.try_start()
    disk = engine.machine.layout.disk
    engine.configure({"app": {"db_path": f"{disk}/bot.db"}})
    with nemesis.small_disk(engine.machine, disk, "4k"), nemesis.full_disk(engine.machine, disk):
        engine.try_start()
        expect_restarts_with(engine, 1)
        engine.stop()


@pytest.mark.claim("exit12", "E3")
def test_lost_network_is_restarted(engine: EngineUnit) -> None:
    """Exit 10: nobody listens at the URL."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        engine.configure(
            {
                "engine": {
                    "ingest_mode": "MOCK_WS",
                    "ws_url": f"ws://127.0.0.1:{nobody.getsockname()[1]}",
                    "network_give_up_secs": 0.1,
                    "max_backoff_secs": 0.05,
                }
            }
        )
        engine.try_start()
        expect_restarts_with(engine, 10)


@pytest.mark.claim("exit12", "E3")
def test_changed_protocol_is_restarted(engine: EngineUnit, exchange: Exchange) -> None:
    """Exit 11: the exchange talks, and nothing it says can be understood."""
    # One fewer than the limit, and what can be understood begins the count anew.
    moved = "<html>we have moved</html>"
    alternating = [message for number in (1, 2, 3) for message in (*[moved] * 4, exchange.tick(number))]
    exchange.on_connect_send([*alternating, *[moved] * 20])
    engine.configure({"engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url, "parse_error_limit": 5}})
    engine.try_start()
    expect_restarts_with(engine, 11)
    beat = engine.wait_log("FINAL METRICS").fields
    told = f"{beat['parse_errors']} unusable messages and {beat['ingest_received']} ticks"
    engine.expect(beat["parse_errors"] >= 17 and beat["ingest_received"] == 3, f"it ended after {told}, not 17 and 3")


@pytest.mark.claim("exit12", "E3", "B2")
def test_overload_is_restarted(engine: EngineUnit, exchange: Exchange) -> None:
    """Exit 13: somebody holds the database while the exchange floods."""
    exchange.flood_on_connect()
    engine.configure(
        {
            "engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url, "overload_grace_ms": 50},
            "channels": {"persist_channel_size": 16},
            "persist": {"flush_interval_ms": 10, "busy_timeout_ms": 1000},
        }
    )
    engine.start()
    engine.wait_ticks(1)
    with nemesis.locked(engine.database):
        engine.wait("the OVERLOAD log line", lambda e: e.fields.get("reason") == "OVERLOAD")
    expect_restarts_with(engine, 13)


@pytest.mark.claim("exit12", "E3")
def test_killed_engine_is_restarted(engine: EngineUnit) -> None:
    """SIGKILL, as the kernel's out-of-memory killer sends it."""
    prove_restarted_after(engine, "KILL")


@pytest.mark.claim("D7", "E3")
def test_engine_whose_mapped_file_was_cut_off_is_restarted(engine: EngineUnit) -> None:
    """SIGBUS, as the kernel sends it."""
    prove_restarted_after(engine, "BUS")


def prove_restarted_after(engine: EngineUnit, signal: str) -> None:
    """Killed by a signal, the unit runs anew."""
    engine.configure({"engine": {"tick_interval_ms": 5}})
    engine.start()
    before = engine.show()
    engine.kill(signal)
    engine.wait_restarts(1)
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.pid != before.main_pid)
    state = engine.show()
    engine.expect(state.invocation_id != before.invocation_id, "a restart must be a new invocation")


def expect_restarts_with(engine: EngineUnit, status: int) -> None:
    """The unit ends with `status`, and systemd starts it again; but for a crash, it counts what it did before."""
    if status != 1:
        engine.wait_log("FINAL METRICS")
    ended = engine.wait("the report of the ended main process", lambda e: "Main process exited" in e.message)
    engine.expect(f"status={status}/" in ended.message, f"expected exit status {status}, systemd says: {ended.message}")
    engine.wait_restarts(1)
