"""Without any controller, systemd's watchdog ends what hangs, and leaves alone what is merely quiet (contract E5)."""

from __future__ import annotations

import pytest

from harness import nemesis
from harness.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit


@pytest.mark.claim("E5", "stall")
def test_paused_engine_is_restarted_by_the_watchdog(watched: EngineUnit) -> None:
    watched.configure({"engine": {"tick_interval_ms": 10}})
    watched.start()
    before = watched.show()
    with nemesis.paused(watched):
        watched.expect(watched.show().active == "active", "systemd noticed a pause that it cannot see")
        watched.wait("the watchdog report of systemd", lambda e: "Watchdog timeout" in e.message)
        watched.wait_restarts(1)
    watched.wait_log("HEARTBEAT (G4)", lambda entry: entry.pid != before.main_pid)


@pytest.mark.claim("E5")
def test_quiet_market_is_not_stuck(watched: EngineUnit, exchange: Exchange) -> None:
    """Connected, and not one tick for several watchdog periods."""
    watched.configure({"engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url, "heartbeat_interval_secs": 1}})
    watched.start()
    exchange.wait_client()
    for _ in range(3):
        watched.wait_log("HEARTBEAT (G4)")
        watched.mark()
    state = watched.show()
    watched.expect((state.active, state.n_restarts) == ("active", 0), "a quiet market was taken for a hang")
