"""The invariants I1 to I6 as they show on the real unit; the property tests are beside the pure modules."""

from __future__ import annotations

import functools
import itertools
import json
import time
from dataclasses import replace

import pytest

from harness.base.clock import OsClock, poll
from harness.base.journal import Entry
from harness.evidence import checkers
from harness.faults import nemesis, tracing
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit

LAG_MS_MAX = 500.0
"""Far below the busy timeout of 1000 ms for which a write that blocked the loop would stop it."""


BEAT_SECS = 0.2
"""Between two heartbeats of a unit that is connected to an exchange."""

EACH_TICK = {"signal_every_n_ticks": 1}


@pytest.mark.claim("I1", "R4")
def test_orders_make_no_network_call(engine: EngineUnit, exchange: Exchange) -> None:
    prove_no_network_call(engine, exchange, "SHADOW", fills=50)


@pytest.mark.slow
@pytest.mark.claim("I1", "R4", "S10")
def test_orders_of_paper_make_no_network_call(engine: EngineUnit, exchange: Exchange) -> None:
    """Through their whole life: what is open is cancelled as it stops."""
    # Some signals are vetoed: ten orders may be open.
    prove_no_network_call(engine, exchange, "PAPER", fills=10)


def prove_no_network_call(engine: EngineUnit, exchange: Exchange, mode: str, fills: int) -> None:
    """With orders of 50 ticks in full flow, the process has one connection, to the feed, over which it says nothing, be
    it in a ping; and it asks the kernel for no other, be it for a moment, nor as it stops."""
    engine.connect(exchange, mode, engine={**EACH_TICK, "keepalive_secs": 600})
    with tracing.calls(engine, tracing.SENDING) as calls:
        own = engine.pids()
        exchange.send_ticks(50)
        engine.wait_rows("SELECT COUNT(*) FROM trades", at_least=fills)
        # What an order has left to a process of its own is the order's call, and that may take its time to begin.
        poll(lambda: True if set(engine.pids()) <= set(own) else None, OsClock(), engine.deadline_secs)
        far = tracing.to_the_network(calls())
        pid = engine.show().main_pid
        lines = engine.machine.run("ss", "--tcp", "--udp", "--numeric", "--processes", "--all", "--no-header").stdout
        engine.stop()
        # A connection is closed by a message.
        far += [call for call in calls() if tracing.NEW.search(call)]
    engine.expect(not far, f"while orders are made it calls the network: {far[:3]}")
    connected = [line.split() for line in lines.splitlines() if f"pid={pid}," in line]
    peers = [line[5] for line in connected]
    engine.expect(peers == [f"127.0.0.1:{exchange.port}"], f"connections of the engine: {connected}")


@pytest.mark.slow
@pytest.mark.claim("I1", "R4")
def test_nobody_is_asked_for_a_name_or_anything_else(engine: EngineUnit, exchange: Exchange) -> None:
    """From its first moment to its end it calls its feed, if it has one, and nobody else: no resolver either."""
    machine = engine.machine
    feeds: dict[str, dict[str, object]] = {"SYNTHETIC": {"tick_interval_ms": 5}, "MOCK_WS": {"ws_url": exchange.url}}
    exchange.feed(interval_secs=0.005)
    for mode, feed in feeds.items():
        engine.configure({"app": {"db_path": f"data/{mode}.db"}, "engine": {**EACH_TICK, **feed, "ingest_mode": mode}})
        argv = engine.argv("--seconds", "1")
        status, calls = tracing.whole_run(
            machine, machine.layout.state, argv, "connect,bind,sendto,sendmsg,sendmmsg", engine.deadline_secs
        )
        engine.expect(status == 0, f"a run of a second of {mode} ends with {status}")
        far = [call for call in calls if tracing.NEW.search(call) and f"htons({exchange.port})" not in call]
        engine.expect(not far, f"a run of {mode} calls the network: {far[:3]}")
        ((fills,),) = engine.query("SELECT count(*) FROM trades", engine.database.with_name(f"{mode}.db"))
        engine.expect(int(str(fills)) > 0, f"a run of {mode} made no order")


@pytest.mark.claim("I2", "R3")
def test_caps_are_never_exceeded(engine: EngineUnit, exchange: Exchange) -> None:
    """A position of at most 350 in each of two markets, and of 500 in both: orders of about 300 fill, but not in both
    at once; those of about 450 are vetoed, and the vetoes persisted."""
    engine.connect(
        exchange, engine=EACH_TICK,
        strategy={"name": "sma_crossover", "sma_short": 1, "sma_long": 2},
        execution={"order_size": 3.0}, risk_caps={"max_exposure_usd": 500.0, "max_symbol_exposure_usd": 350.0},
    )  # fmt: skip
    prices = [level + (5.0 if number % 2 else -5.0) for level in (100.0, 150.0) for number in range(20)]
    sent: list[str] = []
    # Each for itself and beside the other.
    for order in ("AAAABBBB", "AB"):
        for number, (symbol, price) in enumerate(zip(itertools.cycle(order), [*prices, *prices]), start=len(sent) + 1):
            exchange.symbol = f"{symbol}/USD"
            sent.append(exchange.tick(number, price))
    exchange.send_raw(sent)
    engine.wait_rows("SELECT COUNT(*) FROM signals WHERE veto = 'RISK_CAP'", at_least=5)
    engine.mark()
    beat = engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["ingest_received"] == len(sent)).fields
    vetoed = engine.query("SELECT COUNT(*) FROM signals WHERE veto = 'RISK_CAP'")[0][0]
    engine.expect(beat["risk_vetoes"] == vetoed, f"{beat['risk_vetoes']} vetoes counted, {vetoed} persisted")
    engine.expect_judged(checkers.caps_hold([engine.read_ledger()]))


KNOWN = 1200
AGAIN_TIMES = 5


def contents(engine: EngineUnit) -> dict[str, list[tuple[object, ...]]]:
    """All that the contract's tables hold in its columns (10b): what else is there may change."""
    tables = {
        "ticks": "id, symbol, price, volume, ts, trade_id", "signals": "id, tick_id, side, reason, price, veto",
        "orders": "order_id, is_shadow", "order_events": "order_id, seq, status, reason, filled_qty, detail",
        "trades": "id, symbol, side, fill_qty, fill_price, fees, cash_delta, is_shadow",
    }  # fmt: skip
    return {table: engine.query(f"SELECT {of} FROM {table} ORDER BY 1, 2") for table, of in tables.items()}


@pytest.mark.claim("I3", "N9", "D4")
def test_the_same_events_again_change_nothing(engine: EngineUnit, exchange: Exchange) -> None:
    """Sent twice, over a reconnect and over a restart of the unit, and then thousands of times: the same rows."""
    engine.connect(exchange, engine={**EACH_TICK, "max_staleness_ms": 2_000_000_000})
    for old in range(1, 6):
        # Stamped now, sent below: what is old is neither forgotten nor removed by a start (D4).
        exchange.tick(old, age_secs=8 * 86_400)
    # Too old to be traded, and with a price of many digits: a veto is kept as well.
    vetoed = [exchange.tick(-number, 67123.123456789, volume=0.123456789, age_secs=30 * 86_400) for number in (1, 2)]
    exchange.send_raw(vetoed)
    exchange.send_ticks(KNOWN)
    engine.wait_rows("SELECT COUNT(*) FROM trades", at_least=KNOWN)
    before, tables = engine.read_ledger(), contents(engine)
    with nemesis.disconnected(exchange):
        engine.wait_log("connection lost")
    exchange.wait_client(connections=2)
    exchange.send_ticks(0, again=KNOWN)
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["duplicates"] == KNOWN)
    engine.stop()
    engine.start()
    exchange.wait_client(connections=3)
    # More than any channel has room for (B2).
    for _ in range(AGAIN_TIMES):
        exchange.send_ticks(0, again=KNOWN)
    exchange.send_raw(vetoed)
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["duplicates"] == KNOWN * AGAIN_TIMES + len(vetoed))
    after, now = engine.read_ledger(), contents(engine)
    engine.expect_judged(checkers.events_count_once([before, after]))
    engine.expect(replace(after, at=before.at) == before, f"rows before: {before}, after: {after}")
    for table, rows in tables.items():
        others = [pair for pair in itertools.zip_longest(rows, now[table]) if pair[0] != pair[1]]
        engine.expect(not others, f"{table} has other rows after a restart (before, after): {others[:2]}")
    # An id that an earlier run had is another trade at another time (N9).
    later = {**json.loads(vetoed[0]), "ts": json.loads(vetoed[0])["ts"] + 1}
    exchange.send_raw([json.dumps(later)])
    engine.wait_ticks(KNOWN + len(vetoed) + 1)


@pytest.mark.claim("I4", "R5")
def test_cash_position_and_fees_balance(engine: EngineUnit, exchange: Exchange) -> None:
    """Of few digits and of all that there may be, of which none is lost."""
    terms = {"slippage_bps": 7, "fee_rate": 0.00075}
    for size in (0.3, 0.123456789012):
        engine.connect(exchange, engine=EACH_TICK, execution={**terms, "order_size": size})
        due = 40 + (engine.row_count("trades") if engine.database.exists() else 0)
        exchange.send_raw([exchange.tick(due + number, 100.0 + number / 7) for number in range(1, 41)])
        engine.wait_rows("SELECT COUNT(*) FROM trades", at_least=due)
        engine.stop()
    engine.expect_judged(checkers.fills_balance([engine.read_ledger()]))


@pytest.mark.slow
@pytest.mark.claim("R4", "N7", "G0")
def test_each_of_two_markets_is_traded_at_its_own_price(engine: EngineUnit, exchange: Exchange) -> None:
    """Of all ticks together every second is processed, whatever it is of; each third of those makes a signal, and its
    order is of that tick."""
    engine.connect(exchange, engine={"signal_every_n_ticks": 3, "sample_every": 2})
    prices = {"NEAR/EUR": 100.0, "FAR/EUR": 7000.0}
    order = ["NEAR/EUR", "FAR/EUR", "FAR/EUR", "NEAR/EUR"]
    sent = []
    for number in range(60):
        exchange.symbol = order[number % 4]
        sent.append(exchange.tick(number, prices[exchange.symbol] + number))
    exchange.send_raw(sent)
    engine.wait_rows("SELECT COUNT(*) FROM trades", at_least=10)
    fills = engine.query("SELECT symbol, CAST(fill_price AS REAL), is_shadow FROM trades ORDER BY id")
    due = [(order[number % 4], prices[order[number % 4]] + number, 1) for number in range(5, 60, 6)]
    engine.expect(fills == due, f"of every sixth tick of two markets the fills (symbol, price, is_shadow): {fills}")
    named = engine.query(
        "SELECT ticks.symbol, CAST(ticks.price AS REAL), CAST(signals.price AS REAL)"
        " FROM signals JOIN ticks ON ticks.id = tick_id ORDER BY signals.id"
    )
    engine.expect(named == [(*one[:2], one[1]) for one in due], f"signals, with the ticks that they name: {named}")
    modes = engine.query("SELECT DISTINCT is_shadow FROM orders")
    engine.expect(modes == [(1,)], f"orders that are not shadow: {modes}")


def counts(received: int, beat: Entry) -> bool:
    """Whether it is a heartbeat that counts so many ticks."""
    return bool(beat.fields["ingest_received"] == received)


@pytest.mark.claim("I6", "B3")
def test_loop_does_not_wait_for_the_disk(engine: EngineUnit, exchange: Exchange) -> None:
    """Locked for longer than a write may wait: ticks are taken all the while and the loop stays prompt."""
    engine.connect(exchange, engine=EACH_TICK)
    exchange.send_ticks(5)
    engine.wait_ticks(5)
    late = []
    with nemesis.locked(engine.database):
        for received in range(25, 106, 20):
            engine.mark()
            sent_at = time.time()
            exchange.send_ticks(20)
            beat = engine.wait_log("HEARTBEAT (G4)", functools.partial(counts, received))
            late.append(beat.sent_us / 1e6 - sent_at)
        engine.wait("the word that a batch could not be written", lambda e: e.level == "WARN" and "lock" in e.message)
        engine.mark()
        lag_ms = engine.wait_log("HEARTBEAT (G4)").fields["loop_lag_ms_p99"]
    engine.expect(lag_ms < LAG_MS_MAX, f"the loop was late by {lag_ms} ms")
    # Whatever the engine says of its loop: half of the time at least, the next heartbeat counts what came.
    usual = sorted(late)[len(late) // 2]
    engine.expect(
        usual < BEAT_SECS + LAG_MS_MAX / 1000,
        f"while the database is locked, ticks are counted after {usual:.1f} s, heartbeats are due each {BEAT_SECS} s",
    )
    engine.wait_ticks(105)
