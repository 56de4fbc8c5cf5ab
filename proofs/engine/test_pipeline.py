"""The engine end to end: a real process, a real WebSocket server, a real database."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import logging
import os
import signal
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.server import ServerConnection

from engine import pipeline
from engine.base.events import Fill, OrderEvent, OrderStatus, Reason, Side, Tick
from engine.base.exits import ConfigError, Overload
from engine.config import schema, settings
from engine.ingest.synthetic import SyntheticFeed
from engine.storage import persistence
from engine.storage.batch import Batch, Written
from engine.storage.ledger import Ledger
from engine.storage.opening import open_ledger
from engine.storage.persistence import Persistence, flush_due_secs
from engine.trading.desk import Desk
from proofs.fixtures import seed_database
from proofs.fixtures.engine_process import (
    DEADLINE_SECS,
    TRANSPORTS,
    Server,
    assert_balanced,
    binance_trade,
    engine,
    mock_tick,
    server,
    until_closed,
    write_config,
)
from proofs.fixtures.small_disk import mounted


def walk(ticks: int, price: float = 100.0, step: float = 0.05) -> list[float]:
    """N1, written down once more."""
    prices = []
    for number in range(ticks):
        price = max(1.0, price + step * (1.0 if number % 5 in (0, 2, 3) else -0.5))
        prices.append(price)
    return prices


NOT_GOING_ON = "trade ids do not go on from where they were"


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = vars(record)["fields"]
    return fields


def parsed_are(count: int) -> Callable[[dict[str, Any]], bool]:
    return lambda beat: bool(beat["ticks_parsed"] == count)


def write_sources(directory: Path, *servers: Server, **extra: object) -> None:
    tables = []
    for priority, server_ in enumerate(servers):
        keys = {"name": f"s{priority}", "url": server_.url, "kind": "trade", "priority": priority} | extra
        tables.append("[[source]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    (directory / "ws_sources.toml").write_text("\n".join(tables))


@pytest.mark.slow
@pytest.mark.claim("N1", "M2", "M3", "G4", "D1", "D3", "S1", "I5", "R4", "R5", "S9")
def test_N1_M2_M3_G4_D1_D3_S1_I5_R4_R5_S9_synthetic_from_start_to_end(tmp_path: Path) -> None:
    """One tick an interval along the walk, a heartbeat at start and on a steady cadence, orders with their price, fee
    and slippage, batches of `batch_size` rows long before `flush_interval_ms`; `--seconds` later a clean end."""
    tables: dict[str, dict[str, object]] = {
        "engine": {"heartbeat_interval_secs": 0.1},
        "execution": {"slippage_bps": 50, "fee_rate": 0.002},
        "persist": {"batch_size": 10, "flush_interval_ms": 60_000},
    }
    config = write_config(tmp_path, tables)
    with engine(tmp_path, "--config", str(config), "--seconds", "0.75") as running:
        beat = running.wait_heartbeat(lambda beat: beat["tick_rows_written"] >= 20)
        # One batch, and what came while a busy computer wrote the one before.
        assert beat["tick_rows_queued"] <= 50
        assert running.query("PRAGMA journal_mode") == [("wal",)]
        assert running.wait_exit() == 0
        final = running.final()
        started = [line["fields"]["message"] for line in running.lines]
        assert started.index("PRAGMA verification") < started.index("all PRAGMAs verified")
        assert (
            started.index("all PRAGMAs verified") < started.index("schema migrated") < started.index("HEARTBEAT (G4)")
        )
        beats = running.messages("HEARTBEAT (G4)")
        assert beats[0]["tick_count"] <= 1
        assert len(beats) in (7, 8, 9)
        assert final["tick_rows_queued"] == 0
        assert final["clock_skew_ms"] is None  # It is our own clock.

        ticks = final["tick_count"]
        prices, times = zip(*running.query("SELECT price, ts FROM ticks ORDER BY id"), strict=True)
        assert list(prices) == walk(ticks)
        assert (times[-1] - times[0]) / (ticks - 1) == pytest.approx(5, rel=0.1)
        orders = final["signal_count"]
        assert orders == final["shadow_orders"] == final["trade_count"] == ticks // 10
        rows = running.query(
            "SELECT t.price, s.side, o.status, o.reason, o.is_shadow, f.is_shadow, f.qty_exact, f.price_exact,"
            " f.fees_exact, f.cash_delta, e.detail FROM signals s JOIN ticks t ON t.id = s.tick_id"
            " JOIN orders o ON o.signal_id = s.event_id JOIN order_events e ON e.order_id = o.order_id"
            " JOIN trades f ON f.order_id = o.order_id ORDER BY s.id"
        )
        assert len(rows) == orders
        for number, (price, side, status, reason, shadow, fill_shadow, *exact, detail) in enumerate(rows):
            assert (side, status, reason) == ("BUY" if number % 2 else "SELL", "FILLED", "SHADOW_RECORDED")
            assert shadow == fill_shadow == 1
            qty, fill_price, fees, cash_delta = map(Decimal, exact)
            sign = 1 if side == "BUY" else -1
            assert float(fill_price) == pytest.approx(price * (1 + sign * 0.005), rel=1e-12)
            assert float(fees) == pytest.approx(0.1 * float(fill_price) * 0.002, rel=1e-9)
            assert cash_delta + sign * qty * fill_price + fees == 0
            assert detail == "fee_rate=0.002 slippage_bps=50.0"


@pytest.mark.claim("N1")
def test_N1_the_walk_never_falls_below_one() -> None:
    options = schema.Engine(start_price=1.2, price_step=0.5)
    feed = SyntheticFeed(None, options, "A/B", lambda: 7)  # type: ignore[arg-type]
    made = [feed.next_tick() for _ in range(40)]
    assert [tick.price for tick in made] == walk(40, 1.2, 0.5)
    falling = SyntheticFeed(None, schema.Engine(start_price=1.1, price_step=1.0), "A/B", lambda: 7)  # type: ignore[arg-type]
    assert [falling.next_tick().price for _ in range(5)] == walk(5, 1.1, 1.0)
    assert min(walk(5, 1.1, 1.0)) >= 1.0


@pytest.mark.slow
@pytest.mark.claim("N3", "N7", "N9", "S3", "sampling")
@pytest.mark.parametrize(("every", "transport"), [(1, "picows"), (5, "websockets"), (10, "picows"), (20, "websockets")])
def test_N3_N7_N9_S3_sampling_is_exact_across_reconnects_with_overlap(
    tmp_path: Path, every: int, transport: str
) -> None:
    """Three connections, each repeating the last 7 ticks of the one before; 103 distinct ticks."""

    def script(connection: ServerConnection, number: int) -> None:
        first, last = [(0, 40), (33, 80), (73, 103)][number] if number < 3 else (0, 0)
        for tick in range(first, last):
            connection.send(mock_tick(tick))
        if number >= 2:
            until_closed(connection)

    with server(script) as exchange:
        config = write_config(
            tmp_path, {"engine": {"sample_every": every, "ws_url": exchange.url, "max_backoff_secs": 0.05}}
        )
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", HYBRID_TRANSPORT=transport) as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 103)
            assert running.stop() == 0
            final = running.final()
            assert final["ingest_processed"] == 103 // every
            assert final["duplicates"] == 14
            assert final["gaps"] == 0
            assert final["reconnects"] == 2
            stored = [trade for (trade,) in running.query("SELECT trade_id FROM ticks ORDER BY id")]
            assert stored == list(range(every - 1, 103, every))


@pytest.mark.slow
@pytest.mark.claim("N12", "N3", "N9", "N11")
@pytest.mark.parametrize("ids", [int, "t{}".format])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N12_N3_N9_N11_each_symbol_of_a_mock_feed_has_ids_of_its_own(
    tmp_path: Path, transport: str, ids: Callable[[int], object]
) -> None:
    """Two symbols that number from 1, at the same times; after a restart all of it again, the other way round, and
    more; then one symbol starts over."""
    symbols = ["A/B", "C/D"]

    def script(connection: ServerConnection, number: int) -> None:
        if number == 2:
            symbols.append("E/F")
        for tick in range(1, 11 + 5 * number):
            for symbol in symbols[:: -1 if number else 1]:
                if (tick, symbol) != (7, "C/D"):
                    connection.send(mock_tick(tick, event_id=ids(tick), symbol=symbol))
        if number == 2:
            connection.send(mock_tick(10**6, event_id=ids(1), symbol="C/D"))
        until_closed(connection)

    with server(script) as exchange:
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url}})
        breaks = []
        for received, duplicates in ((19, 0), (10, 19), (31, 29)):
            with engine(tmp_path, "--config", str(config), "--ingest", "mockws", HYBRID_TRANSPORT=transport) as running:
                running.wait_heartbeat(parsed_are(received + duplicates))
                assert running.stop() == 0
                final = running.final()
            assert (final["ingest_received"], final["duplicates"]) == (received, duplicates)
            assert final["gaps"] == (ids is int and not duplicates)
            breaks += [(told["market"], told["old_id"], told["new_id"]) for told in running.messages(NOT_GOING_ON)]
        stored = running.query(
            "SELECT symbol, count(*), count(DISTINCT coalesce(trade_id, event_id)) FROM ticks GROUP BY 1"
        )
        assert stored == [("A/B", 20, 20), ("C/D", 20, 19), ("E/F", 20, 20)]
        assert breaks == [("C/D", ids(20), ids(1))]


@pytest.mark.slow
@pytest.mark.claim("N12", "N11")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N12_N11_a_source_that_brings_another_market_than_it_did_ends_with_what_to_do(
    tmp_path: Path, transport: str
) -> None:
    """Nothing says which market is meant: neither its URL, nor `markets`, which then does."""
    brings = ["BTCUSDT"]

    def script(connection: ServerConnection, number: int) -> None:
        for trade in itertools.count(1):
            connection.send(json.dumps(json.loads(binance_trade(trade)) | {"s": brings[-1]}))
            with suppress(TimeoutError):
                connection.recv(timeout=0.02)

    with server(script) as venue:
        config = str(write_config(tmp_path, {"engine": {"feed_silence_secs": 0.4, "max_backoff_secs": 0.05}}))
        write_sources(tmp_path, venue, venue="binance")
        arguments = ["--config", config, "--ingest", "realws"]
        with engine(tmp_path, *arguments, HYBRID_TRANSPORT=transport) as running:
            running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 0)
            assert running.stop() == 0
        stored = running.query("SELECT count(*) FROM ticks")
        brings.append("ETHUSDT")
        with engine(tmp_path, *arguments, HYBRID_TRANSPORT=transport) as running:
            assert running.wait_exit() == 12
            last = running.messages("source s0 ")[-1]["message"]
        assert "brings ETHUSDT, and nothing of BTCUSDT as in earlier runs" in last
        assert "`markets` has to" in last
        assert running.query("SELECT count(*) FROM ticks") == stored
        with (tmp_path / "ws_sources.toml").open("a") as file:
            file.write('markets = { ETHUSDT = "ETH/USDT" }\n')
        with engine(tmp_path, *arguments, HYBRID_TRANSPORT=transport) as running:
            running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 0)
            assert running.stop() == 0
        assert running.query("SELECT DISTINCT symbol FROM ticks ORDER BY id DESC LIMIT 1") == [("ETH/USDT",)]


@pytest.mark.claim("N2", "N12")
def test_N2_N12_each_symbol_of_a_replay_has_ids_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is replayed, each line is stored once."""
    file = tmp_path / "ticks.jsonl"
    file.write_text("\n".join(mock_tick(n, symbol=symbol, ts=10**12) for n in range(1, 6) for symbol in ("A/B", "C/D")))
    for known in (0, 10):
        code, final = run_here(tmp_path, caplog, {"engine": {"ingest_mode": "REPLAY", "replay_file": str(file)}})
        assert (code, final["tick_count"], final["duplicates"], final["tick_rows_known"]) == (0, 10, 0, known)
    stored = query(tmp_path, "SELECT symbol, group_concat(trade_id, ' ') FROM ticks GROUP BY symbol")
    assert stored == [("A/B", "1 2 3 4 5"), ("C/D", "1 2 3 4 5")]


@pytest.mark.slow
@pytest.mark.claim("N8", "N8b", "S5", "L3")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N8_N8b_S5_L3_malformed_messages_are_counted_and_the_engine_runs_on(tmp_path: Path, transport: str) -> None:
    bad: list[str | bytes] = [
        "{",
        "[]",
        "nonsense",
        mock_tick(1, price="NaN"),
        mock_tick(2, price=-1),
        mock_tick(3, ts="x"),
        b"\x00\x01",
    ]

    def script(connection: ServerConnection, number: int) -> None:
        if number == 0:
            for message in bad:
                connection.send(message)
            connection.send('{"type":"heartbeat"}')
            connection.send(mock_tick(10))
            # Over the size limit, by more than one read: one more parse error, and a new connection. But for its size
            # it would be a tick.
            connection.send(mock_tick(12, pad="x" * (5 * 1024 * 1024)))
            until_closed(connection)
        elif number == 1:
            # The same in fragments, none of which is.
            connection.send(["x" * 1024 * 1024] * 5)
        else:
            # Fragments are one message; 600 KB is the size of a real first frame of Gemini.
            connection.send(['{"type":"ack","pad":"', "x" * 600_000, '"}'])
            connection.send(mock_tick(11))
        until_closed(connection)

    with server(script) as exchange:
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url, "max_backoff_secs": 0.05}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", HYBRID_TRANSPORT=transport) as running:
            beat = running.wait_heartbeat(lambda beat: beat["ingest_received"] == 2)
            assert (beat["parse_errors"], beat["ignored"], beat["reconnects"]) == (len(bad) + 2, 2, 2)
            assert running.stop() == 0
            # Rate-limited: at most one line a second.
            assert len(running.messages("unusable message")) <= 2


@pytest.mark.claim("N8")
def test_N8_exit_11_after_the_limit_of_unusable_messages_in_a_row(tmp_path: Path) -> None:
    def script(connection: ServerConnection, number: int) -> None:
        for tick in range(3):
            for _ in range(9):
                connection.send("{")
            connection.send(mock_tick(tick))
        for _ in range(10):
            connection.send("{")
            # Ignored messages are no good messages.
            connection.send('{"type":"heartbeat"}')
        until_closed(connection)

    with server(script) as exchange:
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url, "parse_error_limit": 10}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            assert running.wait_exit() == 11
            assert running.messages("10 unusable messages in a row")[0]["parse_errors"] == 37
            assert running.final()["tick_rows_written"] == 3


def test_exit_10_when_no_source_can_be_connected(tmp_path: Path) -> None:
    with server(lambda connection, number: None) as exchange:
        url = exchange.url
    config = write_config(tmp_path, {"engine": {"ws_url": url, "network_give_up_secs": 0.3, "max_backoff_secs": 0.1}})
    with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
        assert running.wait_exit() == 10
        assert running.final()["tick_count"] == 0


@pytest.mark.slow
@pytest.mark.claim("E4", "S13")
@pytest.mark.parametrize(("signum", "transport"), [(signal.SIGTERM, "picows"), (signal.SIGINT, "websockets")])
def test_E4_S13_a_stop_in_full_flow_writes_everything_received(tmp_path: Path, signum: int, transport: str) -> None:
    sent = 0

    def script(connection: ServerConnection, number: int) -> None:
        nonlocal sent
        while True:
            connection.send(mock_tick(sent))
            sent += 1

    with server(script) as exchange:
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", HYBRID_TRANSPORT=transport) as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] > 500)
            assert running.stop(signum) == 0
            final = running.final()
            received = final["ingest_received"]
            assert received <= sent
            assert final["tick_rows_written"] == received
            assert running.query("SELECT count(*), min(trade_id), max(trade_id) FROM ticks") == [
                (received, 0, received - 1)
            ]
            assert running.query("PRAGMA integrity_check") == [("ok",)]
            assert running.lines[-1]["fields"] == {"message": "shutdown complete", "exit_code": 0}


def lock(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


@pytest.mark.slow
@pytest.mark.claim("B3", "D4", "I6", "S12", "L3")
def test_B3_D4_I6_S12_L3_a_locked_database_is_waited_for_and_nothing_else_waits(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"persist": {"flush_interval_ms": 20, "busy_timeout_ms": 1000}})
    with engine(tmp_path, "--config", str(config)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 5)
        with_lock = lock(running.db)
        failed = running.wait_heartbeat(lambda beat: beat["persist_errors"] >= 1)
        # Ingest, strategy and execution went on, and the loop with them.
        assert failed["tick_rows_queued"] > 100
        assert failed["signal_count"] - failed["shadow_orders"] <= 1
        assert failed["signal_count"] > failed["tick_rows_written"] // 10 + 5
        assert failed["loop_lag_ms_p99"] < 200
        with_lock.execute("ROLLBACK")
        with_lock.close()
        after = running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > failed["tick_count"])
        assert after["loop_lag_ms_p99"] < 200
        assert running.stop() == 0
        assert running.query("SELECT count(*) FROM ticks") == [(running.final()["tick_count"],)]


@pytest.mark.slow
@pytest.mark.claim("B2")
def test_B2_exit_13_when_a_channel_stays_full(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        {"engine": {"shutdown_timeout_secs": 0.2, "overload_grace_ms": 100}, "channels": {"persist_channel_size": 20}},
    )
    with engine(tmp_path, "--config", str(config)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 5)
        with_lock = lock(running.db)
        overload = running.wait_line("persist channel full")
        assert (overload["reason"], overload["channel"], overload["exit_code"]) == ("OVERLOAD", "persist", 13)
        assert running.wait_exit() == 13
        with_lock.close()
        final = running.final()
        assert final["bp_drops_persist"] > 0
        assert final["tick_rows_queued"] == 0
        assert running.messages("rows lost")


@pytest.mark.slow
@pytest.mark.claim("B5")
@pytest.mark.parametrize(
    ("mode", "strategy", "transport"),
    [
        ("PAPER", {"name": "periodic"}, "picows"),
        ("SHADOW", {"name": "sma_crossover", "sma_long": 60}, "websockets"),
    ],
)
def test_B5_memory_is_bounded_however_many_symbols_a_peer_names(
    tmp_path: Path, mode: str, strategy: dict[str, object], transport: str
) -> None:
    """Thrice as many symbols as a run takes, then ticks of those that it took, too small to fill a paper order."""
    symbols = 4096

    def script(connection: ServerConnection, number: int) -> None:
        for trade in range(3 * symbols):
            connection.send(mock_tick(trade, symbol=f"{trade:0128}", volume=1e-12))
        for trade in range(3 * symbols, 8 * symbols):
            connection.send(mock_tick(trade, symbol=f"{trade % symbols:0128}", volume=1e-12, price=100.0 + trade % 7))
        until_closed(connection)

    tables: dict[str, dict[str, object]] = {
        "strategy": strategy,
        "engine": {"signal_every_n_ticks": 1, "overload_grace_ms": 60_000, "heartbeat_interval_secs": 0.5},
        "risk_caps": {"max_exposure_usd": 1e12, "max_symbol_exposure_usd": 1e11, "max_open_orders": 1_000_000},
    }
    with server(script) as venue:
        config = write_config(tmp_path, tables, mode=mode)
        arguments = ["--config", str(config), "--ingest", "mockws", "--ws-url", venue.url]
        with engine(tmp_path, *arguments, HYBRID_TRANSPORT=transport) as running:
            running.wait_line("connected")
            before = running.rss_bytes()
            beat = running.wait_heartbeat(lambda beat: beat["tick_rows_written"] == 6 * symbols, 60.0)
            growth = running.rss_bytes() - before
            assert running.stop() == 0
            final = running.final()
    assert (beat["foreign"], final["tick_count"]) == (2 * symbols, 6 * symbols)
    assert growth <= 64 * 2**20, f"{growth / 2**20:.0f} MiB more"
    [word] = running.messages("trade of a market that nobody asked for")
    assert word["market"].startswith("0000")
    if strategy["name"] == "periodic":
        assert final["signal_count"] == final["tick_count"]
        # Each order came to an end: of the last ones by the stop, the others to make room.
        ends = dict(running.query("SELECT status, count(*) FROM orders GROUP BY status"))
        assert ends.keys() == {"CANCELED"}, ends


@pytest.mark.slow
@pytest.mark.claim("N14")
def test_N14_trades_sent_again_say_nothing_of_the_clock(tmp_path: Path) -> None:
    """As old as they may be: they are no new ticks."""
    again = threading.Semaphore(0)

    def script(connection: ServerConnection, number: int) -> None:
        now = time.time_ns() // 1_000_000
        for number, ts in ((1, now - 62_000), (2, now)):
            connection.send(mock_tick(number, ts=ts))
        for _ in range(3):
            again.acquire(timeout=DEADLINE_SECS)
            connection.send(mock_tick(1, ts=now - 62_000))
        until_closed(connection)

    with server(script) as venue:
        config = write_config(tmp_path, {"engine": {"max_staleness_ms": 5_000}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", "--ws-url", venue.url) as running:
            first = running.wait_heartbeat(
                lambda beat: beat["ingest_received"] == 2 and beat["clock_skew_ms"] is not None
            )
            for sent in range(1, 4):  # Each in an interval of its own.
                again.release()
                running.wait_heartbeat(lambda beat, sent=sent: beat["duplicates"] == sent)  # type: ignore[misc]
            assert running.stop() == 0
            assert running.final()["clock_skew_ms"] == first["clock_skew_ms"]
            assert running.messages("the venue's clock") == []


@pytest.mark.slow
@pytest.mark.claim("N14", "M2")
def test_N14_M2_the_last_line_tells_of_the_clock_too(tmp_path: Path) -> None:
    """Of trades that came since the last heartbeat, which of a short run may be all."""
    read = threading.Event()

    def script(connection: ServerConnection, number: int) -> None:
        connection.send(mock_tick(1, ts=time.time_ns() // 1_000_000))
        # A pong comes after all that was sent before its ping.
        if connection.ping().wait(DEADLINE_SECS):
            read.set()
        until_closed(connection)

    with server(script) as venue:
        tables = {"engine": {"ingest_mode": "MOCK_WS", "ws_url": venue.url, "heartbeat_interval_secs": 3600}}
        with engine(tmp_path, "--config", str(write_config(tmp_path, tables))) as running:
            assert read.wait(DEADLINE_SECS)
            assert running.stop() == 0
            assert isinstance(running.final()["clock_skew_ms"], int)


@pytest.mark.claim("B6")
@given(
    rows=st.integers(0, 10**9),
    batch_size=st.integers(1, 10**9),
    full=st.booleans(),
    closed=st.booleans(),
    waited_secs=st.floats(0, 1e6),
    flush_secs=st.floats(0.001, 1e6),
)
def test_B6_rows_wait_for_more_only_while_more_can_come(
    rows: int, batch_size: int, full: bool, closed: bool, waited_secs: float, flush_secs: float
) -> None:
    due = flush_due_secs(
        rows=rows, batch_size=batch_size, full=full, closed=closed, waited_secs=waited_secs, flush_secs=flush_secs
    )
    assert 0 <= due <= flush_secs
    assert (due == 0) == (full or closed or rows >= batch_size or waited_secs >= flush_secs)


@pytest.mark.slow
@pytest.mark.claim("B6")
@pytest.mark.parametrize("mode", ["SHADOW", "PAPER"])
@pytest.mark.parametrize(
    ("batch_size", "channel"), [(1, 512), (511, 512), (512, 512), (513, 512), (10**9, 512), (10**9, 1), (100, 2)]
)
def test_B6_no_batch_size_is_an_overload(tmp_path: Path, mode: str, batch_size: int, channel: int) -> None:
    """Only a write frees room, and the interval is longer than the grace by far."""
    sent = 1500

    def script(connection: ServerConnection, number: int) -> None:
        for n in range(1, sent + 1):
            connection.send(mock_tick(n))
        until_closed(connection)

    with server(script) as venue:
        config = write_config(
            tmp_path,
            {
                "engine": {"overload_grace_ms": 2000, "signal_every_n_ticks": 3},
                "channels": {"persist_channel_size": channel},
                "persist": {"batch_size": batch_size, "flush_interval_ms": 20_000},
            },
            mode=mode,
        )
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", "--ws-url", venue.url) as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == sent)
            assert running.stop() == 0
            assert running.final()["tick_rows_written"] == sent


@pytest.mark.slow
@pytest.mark.claim("D6")
def test_D6_a_second_engine_exits_12_and_harms_nobody(tmp_path: Path) -> None:
    config = str(write_config(tmp_path))
    with engine(tmp_path, "--config", config) as first:
        first.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 10)
        with engine(tmp_path, "--config", config) as second:
            assert second.wait_exit() == 12
            (error,) = (line["fields"] for line in second.lines if line["level"] == "ERROR")
            assert f"another engine has this database: pid {first.process.pid};" in error["message"]
        with engine(tmp_path, "--config", config, "--ingest", "replay") as replay:
            assert replay.wait_exit() == 12
        with engine(tmp_path, "--config", config, "--check-config") as check:
            assert check.wait_exit() == 0
        assert first.stop() == 0
        assert first.final()["tick_rows_known"] == 0
    assert not (tmp_path / "bot.db.lock").exists()


@pytest.mark.claim("D7")
def test_D7_a_database_that_is_lost_as_the_engine_stops_is_told_too(tmp_path: Path) -> None:
    """The rows wait for the stop, and their writer finds nothing any more when the run is ending already."""
    read = threading.Event()

    def script(connection: ServerConnection, number: int) -> None:
        for tick in range(10):
            connection.send(mock_tick(tick))
        # A pong comes after all that was sent before its ping.
        if connection.ping().wait(DEADLINE_SECS):
            read.set()
        until_closed(connection)

    with server(script) as venue:
        tables: dict[str, dict[str, object]] = {
            "engine": {"ingest_mode": "MOCK_WS", "ws_url": venue.url, "heartbeat_interval_secs": 3600},
            "persist": {"batch_size": 100_000, "flush_interval_ms": 60_000},
        }
        with engine(tmp_path, "--config", str(write_config(tmp_path, tables))) as running:
            assert read.wait(DEADLINE_SECS)
            running.db.unlink()
            assert running.stop() == 12
            assert any("is not there any more" in line["fields"]["message"] for line in running.lines)


@pytest.mark.slow
@pytest.mark.claim("D7")
@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("fault", ["deleted", "replaced", "directory moved", "WAL deleted"])
def test_D7_a_lost_database_ends_the_run_within_a_heartbeat(tmp_path: Path, busy: bool, fault: str) -> None:
    """Whether there is anything to write or not."""
    home = tmp_path / "home"
    home.mkdir()
    interval_ms = 5 if busy else 3_600_000
    config = write_config(home, {"engine": {"tick_interval_ms": interval_ms, "shutdown_timeout_secs": 1}})
    with engine(home, "--config", str(config)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] >= 1)
        if fault == "deleted":
            running.db.unlink()
        elif fault == "replaced":
            (home / "empty").touch()
            (home / "empty").replace(running.db)
        elif fault == "directory moved":
            home.rename(tmp_path / "moved")
        else:
            running.db.with_name("bot.db-wal").unlink()
        assert running.wait_exit() == 12
        error = next(line["fields"] for line in running.lines if line["level"] == "ERROR")
        assert "when it was last seen as it should be" in error["message"]
        assert not any("traceback" in line["fields"] for line in running.lines)
        final = running.final()
        if busy:
            assert final["tick_count"] > final["tick_rows_written"] + final["tick_rows_known"]


@pytest.mark.slow
@pytest.mark.claim("D7")
def test_D7_what_shows_only_at_the_stop_is_no_clean_stop(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"engine": {"tick_interval_ms": 3_600_000}})
    with engine(tmp_path, "--config", str(config)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] == 1)
        running.process.send_signal(signal.SIGSTOP)
        running.db.unlink()
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGCONT)
        assert running.wait_exit() == 12


@pytest.mark.slow
@pytest.mark.claim("B1", "B2", "S6")
def test_B1_B2_S6_a_burst_waits_in_the_socket_not_in_memory(tmp_path: Path) -> None:
    """6000 ticks of 2 kB at once through channels of 16 while the database is locked: the engine stops reading, so that
    what it holds is bounded; the server waits; nothing is dropped, nothing is overloaded."""
    ticks, sizes = 6000, {"tick_channel_size": 16, "signal_channel_size": 2, "persist_channel_size": 16}
    sent, pad = 0, "x" * 2000
    locked = threading.Event()

    def script(connection: ServerConnection, number: int) -> None:
        nonlocal sent
        for sent in range(1, ticks + 1):
            connection.send(mock_tick(sent, pad=pad))
            if sent == 10:
                assert locked.wait(20.0)
        until_closed(connection)

    with server(script) as exchange:
        config = write_config(
            tmp_path, {"engine": {"ws_url": exchange.url, "overload_grace_ms": 10_000}, "channels": sizes}
        )
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 0)
            with_lock = lock(running.db)
            locked.set()
            running.wait_heartbeat(lambda beat: beat["tick_rows_queued"] > 16)
            held = running.wait_standstill("ticks_parsed")
            rss = running.rss_bytes()
            # Over what the channel and the writer take: one read of the socket, 256 kB.
            assert 16 < held["tick_rows_queued"] < 2 * 16 + 256
            assert sent < ticks
            seen = len(running.messages("HEARTBEAT (G4)"))
            running.wait_heartbeats(seen + 3)
            assert running.messages("HEARTBEAT (G4)")[-1]["ticks_parsed"] == held["ticks_parsed"]
            assert running.rss_bytes() - rss < 1024 * 1024
            with_lock.execute("ROLLBACK")
            with_lock.close()
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == ticks)
            assert running.stop() == 0
            assert running.final()["tick_rows_written"] == ticks


@pytest.mark.slow
@pytest.mark.claim("N2", "N7", "I3", "R2", "S8")
def test_N2_N7_I3_R2_S8_replays_repeat_nothing_and_leave_the_live_book_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A live run; then its database is replayed, then a file, each twice."""
    code, live = run_here(tmp_path, caplog, {"engine": {"run_seconds": 0.4, "volume": 3}})
    assert code == 0
    ticks = live["tick_count"]

    def derived() -> list[list[tuple[Any, ...]]]:
        return [query(tmp_path, f"SELECT * FROM {table}") for table in ("signals", "orders", "order_events", "trades")]

    def positions() -> list[tuple[Any, ...]]:
        return query(tmp_path, "SELECT * FROM positions")

    before = query(tmp_path, "SELECT * FROM ticks"), derived()
    book = positions()
    assert len(before[1][0]) == ticks // 10 > 0
    assert len(book) == 1
    for _ in range(2):
        code, final = run_here(tmp_path, caplog, {"engine": {"ingest_mode": "REPLAY"}})
        assert code == 0
        assert (final["ingest_received"], final["tick_rows_known"], final["tick_rows_written"]) == (ticks, ticks, 0)
        # The same ticks make the same signals.
        assert final["signal_count"] == ticks // 10
        assert (query(tmp_path, "SELECT * FROM ticks"), derived(), positions()) == (*before, book)

    lines = [json.dumps({"symbol": "A/B", "price": 1 + n / 10, "volume": 1, "ts": 1000 * n}) for n in range(50)]
    lines.insert(7, "not json")
    lines.append(json.dumps({"symbol": "A/B", "price": 2, "volume": 1, "ts": 60_000, "event_id": "x1"}))
    file = tmp_path / "ticks.jsonl"
    file.write_text("\n".join(lines))
    replay = {"ingest_mode": "REPLAY", "replay_file": str(file), "sample_every": 3, "signal_every_n_ticks": 5}
    runs = []
    for written, known in ((17, 0), (0, 17)):
        code, final = run_here(tmp_path, caplog, {"engine": {**replay, "max_staleness_ms": 5000}})
        assert code == 0
        assert (final["ingest_received"], final["ingest_processed"], final["parse_errors"]) == (51, 17, 1)
        assert (final["tick_rows_written"], final["tick_rows_known"]) == (written, known)
        # R2: replay judges staleness by replay time, and these ticks are from 1970.
        assert (final["signal_count"], final["trade_count"], final["stale_vetoes"]) == (3, 3, 0)
        runs.append(derived())
    assert runs[0] == runs[1]
    assert [len(table) for table in runs[0]] == [len(table) + 3 for table in before[1]]
    assert positions() == book
    assert query(tmp_path, "SELECT DISTINCT symbol, replayed FROM trades") == [("SOL/USDC", 0), ("A/B", 1)]


@pytest.mark.claim("N2", "N7", "M3")
def test_N2_N7_M3_a_replay_in_time_order_is_sampled_whatever_the_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_ledger(tmp_path / "bot.db", busy_timeout_ms=1000)
    late_first = [Tick("feed", "A/B", 1.0, 1.0, 100_000 - n, n, None, n) for n in range(1, 32)]
    store.write(Batch(ticks=late_first))
    store.close()
    replay = {"ingest_mode": "REPLAY", "sample_every": 3, "signal_every_n_ticks": 1}
    code, final = run_here(tmp_path, caplog, {"engine": replay})
    assert code == 0
    assert (final["ingest_received"], final["ingest_processed"], final["duplicates"], final["gaps"]) == (31, 10, 0, 0)
    assert query(tmp_path, "SELECT tick_id FROM signals ORDER BY id") == [(n,) for n in range(29, 1, -3)]
    assert query(tmp_path, "SELECT count(*) FROM ticks") == [(31,)]


@pytest.mark.claim("R1", "S8")
def test_R1_S8_sma_crossover_gives_the_same_signals_for_the_same_ticks_in_another_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prices = [10, 10, 10, 13, 13, 13, 9, 9]
    lines = [json.dumps({"symbol": "A/B", "price": p, "volume": 1, "ts": n}) for n, p in enumerate(prices, 1)]
    file = tmp_path / "ticks.jsonl"
    file.write_text("\n".join(lines))
    tables: dict[str, dict[str, object]] = {
        "engine": {"ingest_mode": "REPLAY", "replay_file": str(file)},
        "strategy": {"name": "sma_crossover", "sma_short": 2, "sma_long": 3},
    }
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        assert run_here(tmp_path / name, caplog, tables)[0] == 0
        made.append(query(tmp_path / name, "SELECT * FROM signals ORDER BY id"))
        assert query(tmp_path / name, "SELECT tick_id, side, reason, value FROM signals ORDER BY id") == [
            (4, "BUY", "SMA_CROSSOVER", 0.75),
            (7, "SELL", "SMA_CROSSOVER", 0.75),
        ]
    assert made[0] == made[1]


@pytest.mark.claim("N7", "M3")
def test_N7_M3_synthetic_ticks_are_sampled_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code, final = run_here(tmp_path, caplog, {"engine": {"run_seconds": 0.25, "sample_every": 5}})
    assert code == 0
    assert final["ingest_processed"] == final["ingest_received"] // 5 > 0
    prices = [price for (price,) in query(tmp_path, "SELECT price FROM ticks ORDER BY id")]
    assert prices == walk(final["ingest_received"])[4::5]


@pytest.mark.claim("N2")
def test_N2_a_missing_replay_file_is_a_configuration_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"nope\.jsonl"):
        run_here(tmp_path, caplog, {"engine": {"ingest_mode": "REPLAY", "replay_file": "nope.jsonl"}})


@pytest.mark.slow
@pytest.mark.claim("R3", "I2")
def test_R3_I2_a_restored_position_weighs_at_its_price_from_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """10 X/Y at 100 fill the cap of 1000 for all symbols together, although no tick of X/Y ever comes."""
    store = open_ledger(tmp_path / "bot.db", busy_timeout_ms=1000)
    ten, price, none = Decimal(10), Decimal(100), Decimal(0)
    fill = Fill("shadow-x/0", "shadow-x", "X/Y", Side.BUY, ten, price, none, -ten * price, 1, True)
    filled = OrderEvent(
        "shadow-x", 0, "x", "X/Y", Side.BUY, ten, price, ten, OrderStatus.FILLED, Reason.SHADOW_RECORDED, 1, True
    )
    store.write(Batch(orders=[filled], fills=[fill]))
    store.close()
    code, final = run_here(tmp_path, caplog, {"engine": {"run_seconds": 0.3}, "risk_caps": {"max_exposure_usd": 1000}})
    assert code == 0
    assert final["signal_count"] == final["risk_vetoes"] > 0
    assert query(tmp_path, "SELECT DISTINCT veto FROM signals") == [("RISK_CAP",)]


GEMINI_FRAME = {
    "type": "update", "eventId": 1, "timestampms": 1_700_000_000_000, "socket_sequence": 0,
    "events": [
        {"type": "change", "side": "bid", "price": "41999.00", "remaining": "1", "delta": "1", "reason": "place"},
        {"type": "trade", "tid": 900, "price": "42000.10", "amount": "0.5", "makerSide": "bid"},
        {"type": "trade", "tid": 950, "price": "42000.20", "amount": "0.25", "makerSide": "ask"},
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim("N4", "N5", "N10", "S2")
@pytest.mark.parametrize(("status", "transport"), [(451, "picows"), (503, "websockets")])
def test_N4_N5_N10_S2_every_kind_of_failure_moves_on_and_better_sources_are_come_back_to(
    tmp_path: Path, status: int, transport: str
) -> None:
    """In order of priority: a source that refuses with HTTP, to be come back to; one whose TLS fails, one that
    closes at once, one where nobody listens, and a Gemini that works."""

    def binance(connection: ServerConnection, number: int) -> None:
        connection.send(binance_trade(7))
        aggregated = json.loads(binance_trade(0)) | {"e": "aggTrade", "a": 8, "f": 1, "l": 2, "p": "42000.30"}
        connection.send(json.dumps(aggregated))
        until_closed(connection)

    def gemini(connection: ServerConnection, number: int) -> None:
        connection.send(json.dumps(GEMINI_FRAME))
        until_closed(connection)

    def closing(connection: ServerConnection, number: int) -> None:
        return

    with server(closing) as gone:
        pass
    with server(binance) as better, server(closing) as closes, server(gemini) as worst:
        better.refusals += [(status, {"Retry-After": "7"})] * 1000
        urls = {
            "http": better.url, "tls": closes.url.replace("ws:", "wss:"), "closes": closes.url, "nobody": gone.url,
            "works": worst.url,
        }  # fmt: skip
        tables = [
            f'[[source]]\nname = "{name}"\nurl = "{url}"\npriority = {priority}\n'
            f'venue = "{"gemini" if name == "works" else "binance"}"\n'
            for priority, (name, url) in enumerate(urls.items())
        ]
        (tmp_path / "ws_sources.toml").write_text(
            "".join(tables).replace("priority = 0", 'priority = 0\nsymbol = "B/T"')
        )
        config = write_config(tmp_path, {"app": {"symbol": "G/U"}, "engine": {"max_backoff_secs": 0.2}})
        with engine(tmp_path, "--config", str(config), "--ingest", "realws", HYBRID_TRANSPORT=transport) as running:
            running.wait_heartbeat(lambda beat: beat["source"] == "works")
            del better.refusals[1:]
            running.wait_heartbeat(lambda beat: beat["source"] == "http" and beat["ingest_received"] == 4)
            assert running.stop() == 0
            failures = running.messages("connection failed")
            # On a slow computer the best source's backoff may be over before the worst was tried.
            assert list(dict.fromkeys(failure["source"] for failure in failures)) == ["http", "tls", "nobody"]
            assert failures[0]["http_status"] == status
            # What is said to any other status than 429 and 418 is told, and not as if it were obeyed.
            said = {key: value for key, value in failures[0].items() if key.startswith("retry_after")}
            assert said == {"retry_after_ignored": "7"}
            assert running.messages("connection lost")[0]["source"] == "closes"
            rows = running.query(
                "SELECT name, symbol, trade_id, price, volume, ts FROM ticks JOIN sources ON sources.id = ticks.source"
                " ORDER BY ticks.trade_id"
            )
            # Each source's ticks have its own symbol, or the default where it has none; aggregated trades have ids of
            # their own.
            assert rows == [
                ("http", "B/T", 7, 42000.1, 0.001, 1_700_000_000_000),
                ("http BTCUSDT@aggTrade", "B/T", 8, 42000.3, 0.001, 1_700_000_000_000),
                ("works", "G/U", 900, 42000.1, 0.5, 1_700_000_000_000),
                ("works", "G/U", 950, 42000.2, 0.25, 1_700_000_000_000),
            ]
            final = running.final()
            assert (final["gaps"], final["parse_errors"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.claim("N5")
@pytest.mark.parametrize(
    ("status", "headers", "max_backoff_secs", "wait_secs", "transport"),
    [(429, {"Retry-After": "1"}, 0.05, 1.0, "picows"), (418, {}, 0.6, 0.6, "websockets")],
)
def test_N5_429_and_418_are_obeyed(
    tmp_path: Path, status: int, headers: dict[str, str], max_backoff_secs: float, wait_secs: float, transport: str
) -> None:
    """For as long as Retry-After says, or `max_backoff_secs` where it says nothing."""

    def good(connection: ServerConnection, number: int) -> None:
        connection.send(mock_tick(number))
        until_closed(connection)

    with server(good) as exchange:
        exchange.refusals.append((status, headers))
        options = {"ws_url": exchange.url, "max_backoff_secs": max_backoff_secs}
        config = write_config(tmp_path, {"engine": options})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", HYBRID_TRANSPORT=transport) as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
            first, second = exchange.attempt_times
            assert second - first >= wait_secs
            failure = running.messages("connection failed")[0]
            assert (failure["http_status"], failure["retry_after_secs"]) == (status, 1.0 if headers else None)
            assert running.stop() == 0


@pytest.mark.slow
@pytest.mark.claim("N5")
def test_N5_a_restarted_engine_still_leaves_a_venue_alone(tmp_path: Path) -> None:
    """Retry-After outlasts the run that was told, which ends with 10; the next one knows, and does not even ask. It is
    the host that is left alone, whatever else of the source is another."""
    with server(lambda connection, number: until_closed(connection)) as exchange:
        exchange.refusals.append((429, {"Retry-After": "60"}))
        # The first has to hear of it, on a busy computer too; the others ask nobody.
        for path, give_up_secs in (("/", 2.0), ("/renamed", 0.3), ("/", 0.3)):
            options = {"ws_url": exchange.url + path, "network_give_up_secs": give_up_secs}
            config = write_config(tmp_path, {"engine": options})
            with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
                assert running.wait_exit() == 10
            assert len(exchange.attempt_times) == 1
            with closing(sqlite3.connect(tmp_path / "bot.db", isolation_level=None)) as connection:
                hosts = connection.execute("SELECT DISTINCT barred_host FROM sources").fetchall()
                assert hosts == [("127.0.0.1",)]
                if path == "/renamed":
                    # As an earlier version would have kept it.
                    connection.execute("DELETE FROM sources WHERE name LIKE '%renamed'")
                    connection.execute("UPDATE sources SET barred_host = NULL")
        # A positive control: it is that note, and nothing else, that keeps it away.
        with closing(sqlite3.connect(tmp_path / "bot.db", isolation_level=None)) as connection:
            [(until,)] = connection.execute("SELECT barred_until FROM sources").fetchall()
            assert 50_000 < until - time.time() * 1000 < 60_000
            connection.execute("UPDATE sources SET barred_until = barred_until - 60000")
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            running.wait_line("connected")
            assert running.stop() == 0


@pytest.mark.slow
@pytest.mark.claim("N4", "S2")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N4_S2_ticks_come_over_tls_from_a_server_whose_certificate_is_trusted(tmp_path: Path, transport: str) -> None:
    def script(connection: ServerConnection, number: int) -> None:
        connection.send(mock_tick(number))
        until_closed(connection)

    authority, stranger = trustme.CA(), trustme.CA()
    for name, of in (("trusted.pem", authority), ("other.pem", stranger)):
        of.cert_pem.write_to_path(tmp_path / name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with server(script, context) as exchange:
        # Time enough for a handshake on a busy computer: what failed is asked for, not that it failed soon.
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url, "network_give_up_secs": 2.0}})
        arguments = ("--config", str(config), "--ingest", "mockws")
        trusted = {"HYBRID_TRANSPORT": transport, "SSL_CERT_FILE": str(tmp_path / "trusted.pem")}
        with engine(tmp_path, *arguments, **trusted) as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
            assert running.stop() == 0
        with engine(tmp_path, *arguments, **(trusted | {"SSL_CERT_FILE": str(tmp_path / "other.pem")})) as running:
            assert "unable to get local issuer certificate" in running.wait_line("connection failed")["reason"]
            assert running.wait_exit() == 10
        assert exchange.connections == 1


@pytest.mark.slow
@pytest.mark.claim("N5", "S3")
def test_N5_S3_a_server_that_accepts_and_closes_is_backed_off(tmp_path: Path) -> None:
    with server(lambda connection, number: None) as exchange:
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url, "network_give_up_secs": 0.8}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            assert running.wait_exit() == 10
            # Accepting is no sign of life: the clock of network_give_up_secs runs on.
            at = [
                line for line in running.lines if line["level"] == "ERROR" or line["fields"]["message"] == "connected"
            ]
            first, *_, last = (datetime.fromisoformat(line["timestamp"]) for line in at)
            assert (last - first).total_seconds() < 1.6
            # Delays of at least 0.25 and 0.5 s: no more than three attempts fit in.
            assert 2 <= len(exchange.attempt_times) <= 3


@pytest.mark.slow
@pytest.mark.claim("N6", "S4")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N6_S4_a_half_open_connection_is_found_and_left(tmp_path: Path, transport: str) -> None:
    """The first connection goes dead without a word: nobody pongs, nobody closes."""

    def script(connection: ServerConnection, number: int) -> None:
        connection.send(mock_tick(number))
        if number == 0:
            # While this lock is held the library can neither answer pings nor see a close.
            with connection.protocol_mutex:
                exchange.done.wait(DEADLINE_SECS)
        else:
            until_closed(connection)

    with server(script) as exchange:
        options = {"ws_url": exchange.url, "keepalive_secs": 0.2, "pong_timeout_secs": 0.2, "max_backoff_secs": 0.1}
        config = write_config(tmp_path, {"engine": options})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", HYBRID_TRANSPORT=transport) as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 2)
            assert "no pong" in running.wait_line("connection dropped")["reason"]
            assert running.stop() == 0
            exchange.done.set()


@pytest.mark.slow
@pytest.mark.claim("N6", "N8b", "N4")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N6_N8b_N4_neither_pongs_nor_ignored_messages_hide_a_mute_feed(tmp_path: Path, transport: str) -> None:
    def mute(connection: ServerConnection, number: int) -> None:
        # Well-formed and no trade: keeps the connection alive, but is no progress (N8b).
        while not exchange_done.wait(0.05):
            connection.send('{"e":"kline","E":1}')

    def good(connection: ServerConnection, number: int) -> None:
        for tick in range(1_000_000):
            connection.send(binance_trade(tick))
            if exchange_done.wait(0.05):
                return

    exchange_done = threading.Event()
    with server(mute) as better, server(good) as worse:
        write_sources(tmp_path, better, worse, venue="binance")
        config = write_config(
            tmp_path,
            {
                "engine": {
                    "keepalive_secs": 0.1,
                    "pong_timeout_secs": 2,
                    "feed_silence_secs": 0.4,
                    "max_backoff_secs": 30,
                }
            },
        )
        with engine(tmp_path, "--config", str(config), "--ingest", "realws", HYBRID_TRANSPORT=transport) as running:
            beat = running.wait_heartbeat(lambda beat: beat["ingest_received"] >= 3)
            assert beat["source"] == "s1"
            assert beat["ignored"] >= 3
            assert "no new tick" in running.wait_line("connection dropped")["reason"]
            assert running.stop() == 0
        exchange_done.set()


def tcp_connections(pid: int) -> int:
    """How many TCP sockets the process holds."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(fd.readlink().name)
    rows = [*Path("/proc/net/tcp").read_text().splitlines()[1:], *Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    return sum(f"socket:[{row.split()[9]}]" in inodes for row in rows)


@pytest.mark.slow
@pytest.mark.claim("R4", "R5", "I1", "I4", "S10", "S11", "L4")
def test_R4_R5_I1_I4_S10_S11_L4_paper_takes_orders_through_their_whole_life(tmp_path: Path) -> None:
    """All six states, each transition stored with time and reason; and no word to anybody meanwhile."""
    heard: list[str | bytes] = []
    huge = {12: {"price": 1e15}}

    def script(connection: ServerConnection, number: int) -> None:
        # A signal at every 4th tick, for 0.1; a tick fills at most its volume.
        for n in range(1, 18):
            connection.send(mock_tick(n, volume=0.06, **huge.get(n, {})))
        heard.extend(connection)

    with server(script) as exchange:
        tables: dict[str, dict[str, object]] = {
            "engine": {"ws_url": exchange.url, "signal_every_n_ticks": 4},
            "risk_caps": {"max_exposure_usd": 1e300, "max_symbol_exposure_usd": 1e300},
        }
        config = write_config(tmp_path, tables, mode="PAPER")
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 17)
            assert tcp_connections(running.process.pid) == 1
            assert running.stop() == 0
            final = running.final()
            assert (final["shadow_orders"], final["signal_count"], final["trade_count"]) == (0, 4, 5)
            filled = ["SUBMITTED", "ACKNOWLEDGED", "PARTIAL_FILL", "FILLED"]
            lives = {4: filled, 8: filled, 12: ["SUBMITTED", "REJECTED"], 16: [*filled[:3], "CANCELED"]}
            events = running.query("SELECT order_id, seq, status, reason, ts, detail FROM order_events")
            for trade, life in lives.items():
                mine = sorted((e for e in events if f":{trade}@" in e[0]), key=lambda e: e[1])
                assert [(seq, status) for _, seq, status, *_ in mine] == list(enumerate(life))
                assert all(reason.startswith("PAPER_") and ts > 1_700_000_000_000 for *_, reason, ts, _ in mine)
            assert len(events) == sum(map(len, lives.values()))
            statuses = dict(running.query("SELECT signal_id, status FROM orders"))
            assert sorted(statuses.values()) == ["CANCELED", "FILLED", "FILLED", "REJECTED"]
            # L4: what could not be done is in the log as well.
            assert "price" in running.messages("order rejected")[0]["detail"]
            fills = running.query(
                "SELECT side, qty_exact, price_exact, fees_exact, cash_delta, is_shadow, mode FROM trades"
            )
            assert [qty for _, qty, *_ in fills] == ["0.06", "0.04"] * 2 + ["0.06"]
            for side, *exact, is_shadow, mode in fills:
                qty, price, fees, cash = map(Decimal, exact)
                assert cash + (qty if side == "BUY" else -qty) * price + fees == 0
                assert (is_shadow, mode) == (1, "PAPER")
            sold, bought = Decimal("0.1"), Decimal("0.16")
            assert running.query("SELECT mode, qty FROM positions") == [("PAPER", str(bought - sold))]
    assert heard == []


@pytest.mark.slow
@pytest.mark.claim("R2", "R3", "S7", "L2", "L4")
def test_R2_R3_S7_L2_L4_vetoed_signals_are_counted_and_persisted_and_make_no_orders(tmp_path: Path) -> None:
    def script(connection: ServerConnection, number: int) -> None:
        for tick in range(40):
            # The first half is years old.
            fresh = {} if tick < 20 else {"ts": time.time_ns() // 1_000_000}
            connection.send(mock_tick(tick, **fresh))
        until_closed(connection)

    with server(script) as exchange:
        tables: dict[str, dict[str, object]] = {
            "engine": {"ws_url": exchange.url, "max_staleness_ms": 5000},
            "risk_caps": {"max_symbol_exposure_usd": 5},
        }
        with engine(tmp_path, "--config", str(write_config(tmp_path, tables)), "--ingest", "mockws") as running:
            running.wait_heartbeat(lambda beat: beat["signal_count"] == 4)
            assert running.stop() == 0
            final = running.final()
            assert (final["stale_vetoes"], final["risk_vetoes"], final["shadow_orders"]) == (2, 2, 0)
            vetoes = running.query("SELECT veto, veto_detail FROM signals ORDER BY id")
            assert [veto for veto, _ in vetoes] == ["STALE_DATA"] * 2 + ["RISK_CAP"] * 2
            assert "ms old" in vetoes[0][1]
            # R3: at the tick's real price, 0.1 x 100.5.
            assert "10.05" in vetoes[2][1]
            assert running.query("SELECT count(*) FROM orders") == [(0,)]


@pytest.mark.slow
@pytest.mark.claim("D3", "N9", "I3")
def test_D3_N9_I3_a_restart_neither_stores_nor_trades_a_tick_twice(tmp_path: Path) -> None:
    """A second run is sent the same ticks again and two more: only those are new (N9). A third has lost what was said
    of their ids, as after a crash between the ticks and that: the ticks themselves tell."""

    def script(connection: ServerConnection, number: int) -> None:
        for tick in range(20 + 2 * min(number, 1)):
            connection.send(mock_tick(tick))
        until_closed(connection)

    tables = ("signals", "orders", "order_events", "trades", "positions")
    before: list[list[tuple[Any, ...]]] = []
    with server(script) as exchange:
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url}})
        for received, duplicates, fills in ((20, 0, 2), (2, 20, 0), (0, 22, 0)):
            with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
                running.wait_heartbeat(parsed_are(received + duplicates))
                assert running.stop() == 0
                final = running.final()
                assert (final["ingest_received"], final["duplicates"]) == (received, duplicates)
                assert (final["tick_rows_known"], final["trade_count"]) == (0, fills)
            rows = [running.query(f"SELECT * FROM {table}") for table in tables]
            if not received:
                assert rows == before
            before = rows
            with sqlite3.connect(running.db) as connection:
                if duplicates:
                    connection.execute("UPDATE sources SET last_trade_id = NULL, first_trade_id = NULL")
            connection.close()
        assert running.query("SELECT count(*) FROM ticks") == [(22,)]


@pytest.mark.slow
@pytest.mark.claim("N7", "N9", "D3")
@pytest.mark.parametrize("ingest", ["mockws", "realws"])
def test_N7_N9_a_second_run_samples_its_own_new_ticks(tmp_path: Path, ingest: str) -> None:
    """After a clean stop it is sent all of the first run's again, also those that were sampled out: none is new, and of
    the new ones it counts from one."""
    tick = mock_tick if ingest == "mockws" else binance_trade

    def script(connection: ServerConnection, number: int) -> None:
        for one in range(20 + 7 * min(number, 1)):
            connection.send(tick(one))
        until_closed(connection)

    with server(script) as exchange:
        (tmp_path / "ws_sources.toml").write_text(
            f'[[source]]\nname = "here"\nurl = "{exchange.url}"\npriority = 1\nvenue = "binance"\n'
        )
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url, "sample_every": 3}})
        for received, duplicates, processed in ((20, 0, 6), (7, 20, 2)):
            with engine(tmp_path, "--config", str(config), "--ingest", ingest) as running:
                parsed = received + duplicates
                running.wait_heartbeat(lambda beat, parsed=parsed: bool(beat["ticks_parsed"] == parsed))  # type: ignore[misc]
                assert running.stop() == 0
                final = running.final()
            assert (final["ingest_received"], final["duplicates"]) == (received, duplicates)
            assert (final["ingest_processed"], final["tick_rows_written"]) == (processed, processed)
        assert running.query("SELECT trade_id FROM ticks ORDER BY id") == [(n,) for n in (2, 5, 8, 11, 14, 17, 22, 25)]


@pytest.mark.slow
@pytest.mark.claim("N7", "N1", "D3")
def test_N7_N1_a_second_synthetic_run_samples_a_walk_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It begins where the walk begins, and its rows come after those of the first."""
    rows = 0
    for _ in range(2):
        code, final = run_here(tmp_path, caplog, {"engine": {"run_seconds": 0.2, "sample_every": 3}})
        assert code == 0
        assert final["ingest_processed"] == final["ingest_received"] // 3 == final["tick_rows_written"] > 2
        stored = query(tmp_path, "SELECT price FROM ticks ORDER BY id")
        assert len(stored) == rows + final["tick_rows_written"]
        assert stored[rows : rows + 3] == stored[:3]
        rows = len(stored)


@pytest.mark.slow
@pytest.mark.claim("D2", "M4")
def test_D2_M4_systemd_hears_that_a_migration_takes_longer(tmp_path: Path) -> None:
    seed_database.build(tmp_path / "bot.db", ticks=20_000)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE_SECS)
        with engine(tmp_path, "--ingest", "synthetic", NOTIFY_SOCKET=str(tmp_path / "notify")) as running:
            asked = systemd.recv(4096).decode().splitlines()
            assert asked == ["EXTEND_TIMEOUT_USEC=60000000", "STATUS=migrating the database"]
            assert systemd.recv(4096).decode().startswith("READY=1")
            assert running.stop() == 0


@pytest.mark.slow
@pytest.mark.claim("M4", "E5")
def test_M4_E5_systemd_hears_ready_then_the_watchdog_in_a_quiet_market_then_stopping(tmp_path: Path) -> None:
    def silent(connection: ServerConnection, number: int) -> None:
        until_closed(connection)

    with server(silent) as exchange, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE_SECS)
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url}})
        told: list[str] = []

        def hear(what: str, times: int = 1) -> None:
            while sum(line == what for line in told) < times:
                told.extend(systemd.recv(4096).decode().splitlines())

        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", **environ) as running:
            hear("READY=1")
            running.wait_line("all PRAGMAs verified")
            assert told[0] == "READY=1"
            hear("WATCHDOG=1", times=6)
            assert any(line.startswith("STATUS=SHADOW MOCK_WS") for line in told)
            # A locked database is waited for, and waiting is not being stuck (D4).
            holder = lock(running.db)
            fed = told.count("WATCHDOG=1")
            hear("WATCHDOG=1", times=fed + 6)
            holder.close()
            assert running.stop() == 0
            hear("STOPPING=1")
            assert not running.messages("watchdog not fed")


@pytest.mark.slow
@pytest.mark.claim("E5")
def test_E5_a_stopped_process_does_not_feed_the_watchdog_and_a_late_loop_is_no_overload(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE_SECS)
        config = write_config(tmp_path, {"channels": {"tick_channel_size": 1, "persist_channel_size": 1}})
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        # By a command, and so a child of this process, which can wait for it to be stopped.
        with engine(tmp_path, "--config", str(config), prefix=["env"], **environ) as running:
            running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 5)
            running.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, running.process.pid, os.WSTOPPED)
            systemd.setblocking(False)
            with suppress(BlockingIOError):
                while systemd.recv(4096):
                    continue
            systemd.settimeout(0.3)
            with pytest.raises(TimeoutError):
                systemd.recv(4096)
            running.process.send_signal(signal.SIGCONT)
            systemd.settimeout(DEADLINE_SECS)
            while b"WATCHDOG=1" not in systemd.recv(4096):
                continue
            assert running.stop() == 0


STAGES = {
    "nobody": None,
    "ingest": (SyntheticFeed, "run"),
    "strategy": (Desk, "run_strategy"),
    "execution": (Desk, "run_execution"),
    "persist": (Persistence, "run"),
}


def run(loaded: settings.Loaded, environment: settings.Environment) -> int:
    options = loaded.settings
    store = open_ledger(
        options.app.db_path,
        busy_timeout_ms=options.persist.busy_timeout_ms,
        replay=options.engine.ingest_mode == "REPLAY",
    )
    return pipeline.run(loaded, environment, store)


def load(tmp_path: Path, tables: dict[str, dict[str, object]]) -> settings.Loaded:
    config = write_config(tmp_path, tables)
    return settings.load(str(config), {"app.db_path": ("--db", str(tmp_path / "bot.db"))})


def query(tmp_path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{tmp_path / 'bot.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def run_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tables: dict[str, dict[str, object]]
) -> tuple[int, dict[str, Any]]:
    """Runs the pipeline in this process, to its end; returns exit status and FINAL METRICS, with the books checked at
    every heartbeat."""
    caplog.clear()
    caplog.set_level("INFO")
    loaded = load(tmp_path, tables)
    code = run(loaded, settings.Environment("INFO", "picows", None, None))
    books = [vars(line)["fields"] for line in caplog.records if line.message in ("HEARTBEAT (G4)", "FINAL METRICS")]
    for beat in books:
        assert_balanced(beat, loaded.settings.engine.sample_every)
    return code, books[-1]


async def hang(self: object) -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.slow
@pytest.mark.claim("B2")
@pytest.mark.parametrize(("stuck", "channel"), [("strategy", "tick"), ("execution", "signal")])
def test_B2_overload_names_the_channel_and_writes_what_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stuck: str, channel: str
) -> None:
    monkeypatch.setattr(Desk, f"run_{stuck}", hang)
    caplog.set_level("INFO")
    tables: dict[str, dict[str, object]] = {
        "engine": {"shutdown_timeout_secs": 0.1, "signal_every_n_ticks": 1, "overload_grace_ms": 50},
        "channels": {"tick_channel_size": 8, "signal_channel_size": 2},
    }
    code = run(load(tmp_path, tables), settings.Environment("INFO", "picows", None, None))
    assert code == 13
    (overload,) = [
        fields_of(record) for record in caplog.records if record.message.startswith(f"{channel} channel full")
    ]
    assert (overload["reason"], overload["channel"]) == ("OVERLOAD", channel)
    (final,) = [fields_of(record) for record in caplog.records if record.message == "FINAL METRICS"]
    assert final["tick_rows_written"] >= 8
    assert final["tick_count"] == final["tick_rows_written"] + final["bp_drops_tick"]
    # Nothing was executed, so every signal was lost, and none in silence.
    assert final["bp_drops_signal"] == final["signal_count"]
    assert bool(final["signal_count"]) is (stuck == "execution")
    assert not [record for record in caplog.records if "balance" in record.message]


def run_in_process(tmp_path: Path, watchdog_secs: float, tables: dict[str, dict[str, object]]) -> list[str]:
    """Runs the pipeline here; returns what systemd would have heard, one assignment an element."""
    loaded = load(tmp_path, tables)
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))

        def hear() -> None:
            while (datagram := systemd.recv(4096)) != b"END":
                told.extend(datagram.decode().splitlines())

        listener = threading.Thread(target=hear)
        listener.start()
        try:
            run(loaded, settings.Environment("INFO", "picows", str(tmp_path / "notify"), watchdog_secs))
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"END", str(tmp_path / "notify"))
            listener.join(DEADLINE_SECS)
    return told


@pytest.mark.slow
@pytest.mark.claim("E5")
@pytest.mark.parametrize("stuck", STAGES)
def test_E5_one_stuck_task_starves_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stuck: str
) -> None:
    target = STAGES[stuck]
    if target is not None:
        owner, name = target
        monkeypatch.setattr(owner, name, hang)
    told = run_in_process(
        tmp_path,
        0.1,
        {"engine": {"run_seconds": 0.3, "shutdown_timeout_secs": 0.1, "tick_interval_ms": 1000}},
    )
    silent = [fields_of(record)["silent"] for record in caplog.records if record.message == "watchdog not fed"]
    if target is None:
        assert told.count("WATCHDOG=1") >= 5
        assert silent == []
    else:
        assert told.count("WATCHDOG=1") == 0
        assert {tuple(names) for names in silent} == {(stuck,)}


@pytest.mark.slow
@pytest.mark.claim("E5")
def test_E5_a_write_that_hangs_starves_the_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = threading.Event()

    def hang(self: Ledger, batch: Batch) -> Written:
        hung.wait(DEADLINE_SECS)
        return Written(len(batch.ticks), 0, 0, 0, 0)

    monkeypatch.setattr(Ledger, "write", hang)
    # Allows a write to take busy_timeout_ms + 0.1 s instead of the 1 s + 2 s that it would be.
    monkeypatch.setattr(persistence, "_WRITE_SLACK_SECS", -0.9)
    told = run_in_process(
        tmp_path,
        0.2,
        {"engine": {"run_seconds": 0.8, "shutdown_timeout_secs": 0.1}, "persist": {"busy_timeout_ms": 1000}},
    )
    hung.set()
    # Fed while a write may still take that long, not after.
    fed = told.count("WATCHDOG=1")
    assert 1 <= fed <= 6


@pytest.mark.slow
@pytest.mark.claim("E5", "M4")
@pytest.mark.parametrize("usec", ["1", "1000"])
def test_E5_M4_a_watchdog_of_no_time_leaves_time_for_the_rest(tmp_path: Path, usec: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE_SECS)
        config = write_config(tmp_path, {"engine": {"tick_interval_ms": 1}})
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": usec}
        with engine(tmp_path, "--config", str(config), **environ) as running:
            fed: list[float] = []
            while len(fed) < 100:
                if systemd.recv(4096) == b"WATCHDOG=1":
                    fed.append(time.monotonic())
            # 10 ms each; ten wait in the socket when this process was not given the processor.
            assert fed[-1] - fed[0] > 80 * 0.01
            systemd.close()
            running.wait_heartbeat(lambda beat: beat["ingest_received"] > 1000)
            assert running.stop() == 0
            seconds = time.monotonic() - fed[-1]
            assert 1 <= len(running.messages("sd_notify failed")) <= seconds + 2
            assert len(running.messages("watchdog not fed")) <= seconds + 2


@pytest.mark.slow
@pytest.mark.claim("M4", "E4")
def test_M4_systemd_hears_of_the_whole_life_of_a_run_in_its_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    told = run_in_process(tmp_path, 60.0, {"engine": {"run_seconds": 0.1, "tick_interval_ms": 1000}})
    # A heartbeat says how it is, too.
    life = [line for line in told if not line.startswith("STATUS=SHADOW SYNTHETIC from ")]
    assert life == ["READY=1", "STOPPING=1", "STATUS=stopping"]
    assert told[0] == "READY=1"
    assert told[1].startswith("STATUS=SHADOW SYNTHETIC from ")
    lines = [(line.levelname, line.message, vars(line)["fields"]) for line in caplog.records]
    assert lines[-1] == ("INFO", "shutdown complete", {"exit_code": 0})
    assert lines[-2][:2] == ("INFO", "FINAL METRICS")
    assert ("INFO", "pipeline running", {"ingest_mode": "SYNTHETIC"}) in lines


@pytest.mark.slow
@pytest.mark.claim("M4", "C7")
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "nobody"])
@pytest.mark.parametrize("error", [ValueError("of this"), Overload("too much", channel="x"), ImportError("no x")])
def test_M4_C7_whatever_a_stage_raises_ends_the_run_in_order_and_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stage: str, error: Exception
) -> None:
    async def fail(self: object) -> None:
        raise error

    owner, name = STAGES[stage] or (None, "")
    monkeypatch.setattr(owner, name, fail)
    told = run_in_process(
        tmp_path, 60.0, {"engine": {"run_seconds": 60, "shutdown_timeout_secs": 0.1, "tick_interval_ms": 1}}
    )
    code, words, fields = {
        ValueError: ("CRASH", f"{stage} failed", {"exit_code": 1, "task": stage}),
        Overload: ("OVERLOAD", "too much", {"exit_code": 13, "channel": "x"}),
        ImportError: ("CONFIG", "installation is damaged: no x",
                      {"exit_code": 12, "task": stage, "error": "ImportError('no x')"}),
    }[type(error)]  # fmt: skip
    found = [line for line in caplog.records if line.levelname == "ERROR" and "exit_code" in fields_of(line)]
    assert [(line.message, fields_of(line)) for line in found] == [(words, {"exit_name": code, **fields})]
    # As the last word of the unit, and why it is not there any more.
    assert told[-1] == f"STATUS={words} (exit {fields['exit_code']} {code})"
    assert told[-3:-1] == ["STOPPING=1", "STATUS=stopping"]


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_a_run_has_the_quicker_loop_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_uvloop: bool
) -> None:
    kinds = []

    async def look(*_: object) -> int:
        kinds.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])
        return 7

    monkeypatch.setattr(pipeline, "_run", look)
    if not has_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    loaded = load(tmp_path, {})
    store: Any = None
    assert pipeline.run(loaded, settings.Environment("INFO", "picows", None, None), store) == 7
    can_be_had = has_uvloop and importlib.util.find_spec("uvloop") is not None
    assert kinds == ["uvloop" if can_be_had else "asyncio"]


@pytest.mark.claim("M4")
def test_M4_there_is_no_ready_without_a_database(tmp_path: Path) -> None:
    (tmp_path / "bot.db").write_text("this is a letter, not a database. " * 50)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        with pytest.raises(ConfigError):
            run(load(tmp_path, {}), settings.Environment("INFO", "picows", str(tmp_path / "notify"), 1.0))
        with pytest.raises(BlockingIOError):
            systemd.recv(4096)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with mounted(tmp_path / "disk", "1m") as path:
        yield path


@pytest.mark.slow
@pytest.mark.claim("D4", "L3")
def test_D4_L3_a_full_disk_is_counted_and_waited_for(small_disk: Path) -> None:
    """Nothing that was reported as stored is lost, and what could not be stored is once there is room."""
    config = write_config(small_disk, {"channels": {"persist_channel_size": 100_000}})
    with engine(small_disk, "--config", str(config)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 5)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        failed = running.wait_heartbeat(lambda beat: beat["persist_errors"] >= 2)
        trouble = running.wait_line("batch not written, trying again")
        assert trouble["kind"] == "DiskTrouble"
        assert running.query("SELECT count(*) FROM ticks")[0][0] >= failed["tick_rows_written"]
        ballast.unlink()
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > failed["tick_count"])
        assert running.stop() == 0
        final = running.final()
        assert running.query("SELECT count(*), max(id) FROM ticks") == [(final["tick_count"],) * 2]
        assert running.query("PRAGMA integrity_check") == [("ok",)]
