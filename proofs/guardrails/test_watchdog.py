"""Without any controller, systemd's watchdog ends what hangs, and leaves alone what is merely quiet (contract E5)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from harness.base.clock import OsClock
from harness.base.errors import HarnessError
from harness.faults import nemesis, tracing
from harness.faults.exchange import Exchange
from harness.proving.sabotage import Patch
from proofs.fixtures.engine_unit import EngineUnit

GOES_ON_TICKS = 50
"""More than any buffer of an engine under proof holds when a thread stops: they are written each 10 ms."""

BURST_TICKS = 200
"""More than it may be fed from one heartbeat to the next, and fewer than any channel holds."""

RUNS_TICKS = 10
"""So many show that it runs, and does not just begin."""


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
    watched.wait_ticks(watched.tick_count() + GOES_ON_TICKS)


@pytest.mark.slow
@pytest.mark.claim("E5")
def test_whichever_thread_stands_still_it_goes_on_or_is_ended(watched: EngineUnit, exchange: Exchange) -> None:
    """A watchdog that a thread of its own feeds sees nothing of one that hangs: ticks come, none is stored, and the
    unit is active. So each thread is held for itself, whatever it is for."""
    exchange.feed(interval_secs=0.02)
    # What comes meanwhile has room, however slow the computer is: an overload (B2) would end the process as well.
    watched.connect(exchange, channels={"persist_channel_size": 4096})
    watched.wait_ticks(RUNS_TICKS)
    ended: list[str] = []
    first = tracing.threads(watched)
    for number, thread in enumerate(first):
        which = f"thread {number} ({thread.name})" if number else "the main thread"
        if len(now := tracing.threads(watched)) != len(first):
            raise HarnessError(f"it has {len(now)} threads now and had {len(first)}: which is which cannot be said")
        with tracing.standing_still(watched, now[number]):
            due = watched.tick_count() + GOES_ON_TICKS
            goes_on = watched.goes_on(GOES_ON_TICKS)
            watched.expect(
                goes_on is not None,
                f"{which} stands still: {watched.tick_count()} ticks, of {due} that were due, and systemd lets it be",
            )
            if not goes_on:
                ended.append(thread.name)
                left = watched.how_it_ended(watched.whole_journal()).startswith("a clean end")
                watched.expect(not left, f"{which} stands still, and it leaves as if somebody had told it to")
        watched.stop()
        watched.start()
        watched.wait_ticks(watched.tick_count() + RUNS_TICKS)
    watched.expect(bool(ended), "no thread is missed: nothing that stands still is ever noticed")


@pytest.mark.slow
@pytest.mark.claim("E5", "N6")
def test_it_is_fed_no_more_than_a_hundred_times_a_second(watched: EngineUnit, exchange: Exchange) -> None:
    """Nor is a silent peer asked more often than each keepalive_secs whether it is there."""
    watched.connect(exchange, engine={"keepalive_secs": 1})
    clock = OsClock()
    connected = clock.monotonic()
    with tracing.calls(watched, tracing.SENDING) as calls:
        expect_not_overfed(watched, calls)
        exchange.wait_pings(1)
        pings, took = len(exchange.pings), clock.monotonic() - connected
        watched.expect(pings <= took + 1, f"{pings} pings in {took:.1f} s of silence, keepalive_secs is 1")
        # Nor by what comes, one by one and many together: on a busy computer nothing comes one by one.
        exchange.feed(interval_secs=0.002)
        exchange.drop_clients()
        exchange.wait_client(connections=2)
        expect_not_overfed(watched, calls, lambda: exchange.send_ticks(BURST_TICKS))
    watched.stop()
    # And by hand, where nobody ends it for being late.
    argv, state = ["env", "WATCHDOG_USEC=2000", *watched.argv("--seconds", "1")], watched.machine.layout.state
    began = clock.monotonic()
    status, seen = tracing.whole_run(watched.machine, state, argv, tracing.SENDING, watched.deadline_secs)
    times, took = fed(seen), clock.monotonic() - began
    watched.expect(status == 0, f"a run of a second ends with {status}")
    watched.expect(0 < times <= 100 * took, f"of 2 ms for each, it was fed {times} times in {took:.1f} s")


def expect_not_overfed(
    watched: EngineUnit, calls: Callable[[], list[str]], meanwhile: Callable[[], object] = lambda: None
) -> None:
    clock = OsClock()
    before, began = fed(calls()), clock.monotonic()
    for _ in range(5):
        watched.mark()
        meanwhile()
        watched.wait_log("HEARTBEAT (G4)")
    times, took = fed(calls()) - before, clock.monotonic() - began
    watched.expect(0 < times <= 100 * took + 20, f"it was fed {times} times in {took:.1f} s")


def fed(calls: list[str]) -> int:
    return sum("WATCHDOG=1" in call for call in calls)


@pytest.mark.claim("E5", "N6")
def test_quiet_market_is_not_stuck(watched: EngineUnit, exchange: Exchange) -> None:
    """Connected, and not one tick for several watchdog periods."""
    feed = {"ingest_mode": "MOCK_WS", "ws_url": exchange.url, "heartbeat_interval_secs": 0.7, "feed_silence_secs": 0}
    watched.configure({"engine": feed})
    watched.start()
    exchange.wait_client()
    nth = itertools.count(1)
    watched.wait_log("HEARTBEAT (G4)", lambda _: next(nth) == 3)
    state = watched.show()
    watched.expect((state.active, state.n_restarts) == ("active", 0), "a quiet market was taken for a hang")
    left = [entry.fields["reason"] for entry in watched.whole_journal() if entry.event == "connection dropped"]
    watched.expect(not left, f"a quiet feed was left for {left}, where feed_silence_secs is 0, which is off")


@pytest.mark.slow
@pytest.mark.claim("E5", "N5")
def test_slow_server_is_no_hang(watched: EngineUnit, exchange: Exchange) -> None:
    """A handshake that takes longer than the watchdog's period is waited for, and the engine lives meanwhile."""
    exchange.feed(interval_secs=0.02)
    watched.connect(exchange)
    # The fault's receipt comes with the late handshake itself, so the mark must be set before the fault.
    watched.wait_log("connected")
    watched.mark()
    with nemesis.slow(exchange, 1.0):
        watched.wait_log("connected")
    before = watched.tick_count()
    watched.wait_ticks(before + 5)
    watched.expect(watched.show().n_restarts == 0, "a slow server was taken for a hang of the engine")


STUCK = {
    "event-loop": Patch(
        "engine/trading/desk.py",
        "Desk.run_strategy",
        "self._liveness.answer('strategy')\n",
        "self._liveness.answer('strategy')\n"
        "self.takes = getattr(self, 'takes', 0) + bool(channel.pending())\n"
        "__import__('time').sleep(3600 if self.takes > 5 else 0)\n",
    ),
    "strategy": Patch(
        "engine/trading/desk.py",
        "Desk.run_strategy",
        "self._liveness.answer('strategy')\n",
        "self._liveness.answer('strategy')\n"
        "self.takes = getattr(self, 'takes', 0) + bool(channel.pending())\n"
        "await asyncio.sleep(3600 if self.takes > 5 else 0)\n",
    ),
    "ingest": Patch(
        "engine/ingest/synthetic.py", "SyntheticFeed.run", "await self._bell.wait(next_at)", "await asyncio.sleep(3600)"
    ),
    "persist": Patch(
        "engine/storage/ledger.py",
        "Ledger.write",
        "written = self._rows.write(batch)",
        "__import__('time').sleep(3600)\nwritten = self._rows.write(batch)",
    ),
}


@pytest.mark.slow
@pytest.mark.claim("E5")
@pytest.mark.parametrize("what", STUCK)
def test_stuck_part_is_restarted_by_the_watchdog(watched: EngineUnit, what: str) -> None:
    """One part of the engine hangs, the rest lives: READY was sent, the process runs, and yet it is ended."""
    # So few ticks that a stuck writer does not end in an overload before.
    watched.configure(
        {"engine": {"tick_interval_ms": 50}, "persist": {"busy_timeout_ms": 1000, "flush_interval_ms": 50}}
    )
    with watched.patched(STUCK[what]):
        watched.start()
        watched.wait("the watchdog report of systemd", lambda e: "Watchdog timeout" in e.message)
        watched.wait_restarts(1)
        watched.down()
