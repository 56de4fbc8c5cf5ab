"""The engine end to end: a real process, a real WebSocket server, a real database."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from websockets.sync.server import ServerConnection

from engine import feeds, pipeline, settings
from engine.feeds import retry_after_secs
from engine.ledger import Batch, Ledger, Written
from proofs.fixtures.engine_process import (
    DEADLINE_SECS,
    Server,
    binance_trade,
    engine,
    mock_tick,
    server,
    until_closed,
    write_config,
)

TRANSPORTS = ["picows", "websockets"]


def walk(ticks: int, price: float = 100.0, step: float = 0.05) -> list[float]:
    """N1, written down once more."""
    prices = []
    for number in range(ticks):
        price = max(1.0, price + step * (1.0 if number % 5 in (0, 2, 3) else -0.5))
        prices.append(price)
    return prices


def write_sources(directory: Path, *servers: Server, **extra: object) -> None:
    tables = []
    for priority, server_ in enumerate(servers):
        keys = {"name": f"s{priority}", "url": server_.url, "kind": "trade", "priority": priority} | extra
        tables.append("[[source]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    (directory / "ws_sources.toml").write_text("\n".join(tables))


def test_N1_synthetic_ticks_follow_the_walk_and_all_reach_the_disk(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with engine(tmp_path, "--config", str(config)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] >= 25)
        assert running.stop() == 0
        final = running.final()
        prices = [price for (price,) in running.query("SELECT price FROM ticks ORDER BY id")]
        assert prices == walk(final["tick_count"])
        assert final["signal_count"] == final["shadow_orders"] == final["trade_count"] == final["tick_count"] // 10
        assert running.query("SELECT count(*) FROM trades") == [(final["trade_count"],)]


def test_M2_M3_heartbeat_at_start_and_on_a_steady_cadence(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"engine": {"heartbeat_interval_secs": 0.2}})
    with engine(tmp_path, "--config", str(config), "--seconds", "1.1") as running:
        assert running.wait_exit() == 0
        beats = running.messages("HEARTBEAT (G4)")
        assert beats[0]["tick_count"] <= 1
        assert len(beats) in (5, 6, 7)
        assert running.final()["tick_rows_queued"] == 0


@pytest.mark.parametrize(("every", "transport"), [(1, "picows"), (5, "websockets"), (10, "picows"), (20, "websockets")])
def test_N3_N7_N9_sampling_is_exact_across_reconnects_with_overlap(tmp_path: Path, every: int, transport: str) -> None:
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


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N8_malformed_messages_are_counted_and_the_engine_runs_on(tmp_path: Path, transport: str) -> None:
    bad = ["{", "[]", "nonsense", mock_tick(1, price="NaN"), mock_tick(2, price=-1), mock_tick(3, ts="x"), b"\x00\x01"]

    def script(connection: ServerConnection, number: int) -> None:
        if number == 0:
            for message in bad:
                connection.send(message)
            connection.send('{"type":"heartbeat"}')
            connection.send(mock_tick(10))
            # Over the size limit: one more parse error, and a new connection.
            connection.send("x" * (4 * 1024 * 1024 + 1))
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


@pytest.mark.parametrize(("signum", "transport"), [(signal.SIGTERM, "picows"), (signal.SIGINT, "websockets")])
def test_E4_a_stop_in_full_flow_writes_everything_received(tmp_path: Path, signum: int, transport: str) -> None:
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


def lock(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def test_B3_D4_a_locked_database_is_waited_for_and_nothing_else_waits(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"persist": {"flush_interval_ms": 20, "busy_timeout_ms": 1000}})
    with engine(tmp_path, "--config", str(config)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 5)
        with_lock = lock(running.db)
        failed = running.wait_heartbeat(lambda beat: beat["persist_errors"] >= 1)
        assert failed["tick_rows_queued"] > 100
        with_lock.execute("ROLLBACK")
        with_lock.close()
        after = running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > failed["tick_count"])
        assert after["loop_lag_ms_p99"] < 200
        assert running.stop() == 0
        assert running.query("SELECT count(*) FROM ticks") == [(running.final()["tick_count"],)]


def test_B2_exit_13_when_a_channel_stays_full(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        {"engine": {"shutdown_timeout_secs": 0.5}, "channels": {"persist_channel_size": 20}},
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


def test_B2_a_burst_is_not_an_overload(tmp_path: Path) -> None:
    """20 000 ticks at once through channels of 16: the socket waits, nothing is lost, nothing is overloaded."""

    def script(connection: ServerConnection, number: int) -> None:
        for tick in range(20_000):
            connection.send(mock_tick(tick))
        until_closed(connection)

    with server(script) as exchange:
        sizes = {"tick_channel_size": 16, "signal_channel_size": 2, "persist_channel_size": 16}
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url}, "channels": sizes})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 20_000)
            assert running.stop() == 0
            assert running.final()["tick_rows_written"] == 20_000


def test_N2_replay_of_the_database_writes_no_tick_twice(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with engine(tmp_path, "--config", str(config)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] >= 30)
        assert running.stop() == 0
        before = running.query("SELECT id, price, ts FROM ticks ORDER BY id")
        trades = running.query("SELECT event_id, fill_price FROM trades ORDER BY id")
    with engine(tmp_path, "--config", str(config), "--ingest", "replay", "--sample-every", "1") as running:
        assert running.wait_exit() == 0
        final = running.final()
        assert final["ingest_received"] == final["tick_rows_known"] == len(before)
        assert final["tick_rows_written"] == 0
        assert running.query("SELECT id, price, ts FROM ticks ORDER BY id") == before
        assert running.query("SELECT event_id, fill_price FROM trades ORDER BY id") == trades


def test_N2_N7_replay_of_a_file_twice_stores_it_once(tmp_path: Path) -> None:
    lines = [json.dumps({"symbol": "A/B", "price": 1 + n / 10, "volume": 1, "ts": 1000 * n}) for n in range(50)]
    lines.insert(7, "not json")
    lines.append(json.dumps({"symbol": "A/B", "price": 2, "volume": 1, "ts": 60_000, "event_id": "x1"}))
    file = tmp_path / "ticks.jsonl"
    file.write_text("\n".join(lines))
    config = write_config(tmp_path, {"engine": {"max_staleness_ms": 5000}})
    for run, (written, known) in enumerate([(17, 0), (0, 17)]):
        with engine(
            tmp_path, "--config", str(config), "--ingest", "replay", "--replay-file", str(file), "--sample-every", "3"
        ) as running:
            assert running.wait_exit() == 0, run
            final = running.final()
            assert (final["ingest_received"], final["ingest_processed"], final["parse_errors"]) == (51, 17, 1)
            assert (final["tick_rows_written"], final["tick_rows_known"]) == (written, known)
            # R2: replay judges staleness by replay time, and these ticks are from 1970.
            assert (final["signal_count"], final["stale_vetoes"]) == (1, 0)


def test_N2_a_missing_replay_file_exits_12(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with engine(tmp_path, "--config", str(config), "--ingest", "replay", "--replay-file", "nope.jsonl") as running:
        assert running.wait_exit() == 12


@pytest.mark.parametrize(("status", "transport"), [(451, "picows"), (503, "websockets")])
def test_N4_a_refusing_source_is_passed_over_and_come_back_to(tmp_path: Path, status: int, transport: str) -> None:
    def good(connection: ServerConnection, number: int) -> None:
        connection.send(binance_trade(number + 1))
        until_closed(connection)

    with server(good) as better, server(good) as worse:
        better.refusals += [(status, {})] * 2
        write_sources(tmp_path, better, worse, venue="binance", symbol="BTC/USDT")
        config = write_config(tmp_path, {"engine": {"max_backoff_secs": 0.2}})
        with engine(tmp_path, "--config", str(config), "--ingest", "realws", HYBRID_TRANSPORT=transport) as running:
            running.wait_heartbeat(lambda beat: beat["source"] == "s1")
            running.wait_heartbeat(lambda beat: beat["source"] == "s0")
            failed = running.wait_line("connection failed")
            assert (failed["http_status"], failed["source"]) == (status, "s0")
            assert running.stop() == 0
            symbols = running.query("SELECT DISTINCT symbol FROM ticks")
            assert symbols == [("BTC/USDT",)]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N5_429_is_obeyed(tmp_path: Path, transport: str) -> None:
    def good(connection: ServerConnection, number: int) -> None:
        connection.send(mock_tick(number))
        until_closed(connection)

    with server(good) as exchange:
        exchange.refusals.append((429, {"Retry-After": "1"}))
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url, "max_backoff_secs": 0.05}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws", HYBRID_TRANSPORT=transport) as running:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
            first, second = exchange.attempt_times
            assert second - first >= 1.0
            assert running.messages("connection failed")[0]["retry_after_secs"] == 1.0
            assert running.stop() == 0


def test_N5_a_server_that_accepts_and_closes_is_backed_off(tmp_path: Path) -> None:
    with server(lambda connection, number: None) as exchange:
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url, "network_give_up_secs": 0.8}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            assert running.wait_exit() == 10
            # Accepting is no sign of life: the clock of network_give_up_secs runs on.
            assert time.monotonic() - exchange.attempt_times[0] < 1.6
            # Delays of at least 0.25 and 0.5 s: no more than three attempts fit in.
            assert 2 <= len(exchange.attempt_times) <= 3


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N6_a_half_open_connection_is_found_and_left(tmp_path: Path, transport: str) -> None:
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


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N6_pongs_do_not_hide_a_mute_feed(tmp_path: Path, transport: str) -> None:
    def mute(connection: ServerConnection, number: int) -> None:
        until_closed(connection)

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
            assert "no new tick" in running.wait_line("connection dropped")["reason"]
            assert running.stop() == 0
        exchange_done.set()


def test_R4_paper_takes_orders_through_their_whole_life(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"engine": {"volume": 0.06}}, mode="PAPER")
    with engine(tmp_path, "--config", str(config)) as running:
        running.wait_heartbeat(lambda beat: beat["trade_count"] >= 4)
        assert running.stop() == 0
        final = running.final()
        assert final["shadow_orders"] == 0
        statuses = {status for (status,) in running.query("SELECT DISTINCT status FROM order_events")}
        assert statuses >= {"SUBMITTED", "ACKNOWLEDGED", "PARTIAL_FILL", "FILLED"}
        # Nothing is left open at a stop.
        open_ = running.query("SELECT count(*) FROM orders WHERE status IN ('SUBMITTED','ACKNOWLEDGED','PARTIAL_FILL')")
        assert open_ == [(0,)]


def test_R2_R3_vetoed_signals_are_counted_and_persisted_and_make_no_orders(tmp_path: Path) -> None:
    def script(connection: ServerConnection, number: int) -> None:
        for tick in range(40):
            connection.send(mock_tick(tick))
        until_closed(connection)

    with server(script) as exchange:
        # These ticks are years old.
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url, "max_staleness_ms": 5000}})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            running.wait_heartbeat(lambda beat: beat["stale_vetoes"] == 4)
            assert running.stop() == 0
        config = write_config(tmp_path, {"risk_caps": {"max_symbol_exposure_usd": 5}})
        with engine(tmp_path, "--config", str(config)) as running:
            running.wait_heartbeat(lambda beat: beat["risk_vetoes"] >= 2)
            assert running.stop() == 0
            capped = running.final()["risk_vetoes"]
            assert running.final()["stale_vetoes"] == 0
            assert running.query("SELECT veto, count(*) FROM signals GROUP BY veto ORDER BY veto") == [
                ("RISK_CAP", capped),
                ("STALE_DATA", 4),
            ]
            assert running.query("SELECT count(*) FROM orders") == [(0,)]


def test_D3_the_watermark_survives_a_restart(tmp_path: Path) -> None:
    """A second run is sent the same ticks again and two more: only those are new (N9)."""

    def script(connection: ServerConnection, number: int) -> None:
        for tick in range(20 + 2 * number):
            connection.send(mock_tick(tick))
        until_closed(connection)

    with server(script) as exchange:
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url}})
        for received, duplicates in ((20, 0), (2, 20)):
            with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
                running.wait_heartbeat(lambda beat, received=received: beat["ingest_received"] == received)
                assert running.stop() == 0
                assert running.final()["duplicates"] == duplicates
        assert running.query("SELECT count(*) FROM ticks") == [(22,)]


def test_D3_N9_after_sigkill_in_full_flow_what_is_sent_again_fills_every_hole(tmp_path: Path) -> None:
    """The watermark on disk must not be ahead of the ticks: a tick between them would be a duplicate for ever."""
    sent = 0

    def script(connection: ServerConnection, number: int) -> None:
        nonlocal sent
        while number == 0:
            connection.send(mock_tick(sent))
            sent += 1
        for tick in range(sent):
            connection.send(mock_tick(tick))
        until_closed(connection)

    with server(script) as exchange:
        sizes = {"tick_channel_size": 16, "persist_channel_size": 16}
        config = write_config(tmp_path, {"engine": {"ws_url": exchange.url}, "channels": sizes})
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 300)
            running.process.kill()
            running.process.wait(DEADLINE_SECS)
            assert running.query("PRAGMA integrity_check") == [("ok",)]
            before = running.query("SELECT count(*) FROM ticks")[0][0]
        with engine(tmp_path, "--config", str(config), "--ingest", "mockws") as running:
            running.wait_heartbeat(lambda beat: beat["ticks_parsed"] == sent)
            assert running.stop() == 0
            final = running.final()
            # What is above the watermark is taken for new, and then found to be on disk already.
            assert final["duplicates"] + final["tick_rows_known"] == before
            assert running.query("SELECT count(*), min(trade_id), max(trade_id) FROM ticks") == [(sent, 0, sent - 1)]


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


def test_E5_a_stopped_process_does_not_feed_the_watchdog_and_a_late_loop_is_no_overload(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE_SECS)
        config = write_config(tmp_path, {"channels": {"tick_channel_size": 1, "persist_channel_size": 1}})
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        with engine(tmp_path, "--config", str(config), **environ) as running:
            running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 5)
            running.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, running.process.pid, os.WSTOPPED)
            systemd.setblocking(False)
            with suppress(BlockingIOError):
                while systemd.recv(4096):
                    continue
            systemd.settimeout(0.5)
            with pytest.raises(TimeoutError):
                systemd.recv(4096)
            running.process.send_signal(signal.SIGCONT)
            systemd.settimeout(DEADLINE_SECS)
            while b"WATCHDOG=1" not in systemd.recv(4096):
                continue
            assert running.stop() == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_N4_a_tls_failure_moves_on_to_the_next_source(tmp_path: Path, transport: str) -> None:
    def good(connection: ServerConnection, number: int) -> None:
        connection.send(mock_tick(number))
        until_closed(connection)

    with server(good) as plain:
        (tmp_path / "ws_sources.toml").write_text(
            f'[[source]]\nname="tls"\nurl="{plain.url.replace("ws:", "wss:")}"\npriority=1\n'
            f'[[source]]\nname="plain"\nurl="{plain.url}"\npriority=2\n'
        )
        config = write_config(tmp_path)
        with engine(tmp_path, "--config", str(config), "--ingest", "realws", HYBRID_TRANSPORT=transport) as running:
            beat = running.wait_heartbeat(lambda beat: beat["ingest_received"] == 1)
            assert beat["source"] == "plain"
            assert running.wait_line("connection failed")["source"] == "tls"
            assert running.stop() == 0
            # N10: MOCK messages bring their own symbol.
            assert running.query("SELECT symbol FROM ticks") == [("BTC/USD",)]


@pytest.mark.parametrize(
    ("header", "secs"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 400, 1e10),
        ("Fri, 01 Mar 2024 00:01:00 GMT", 60.0),
        ("Fri, 01 Mar 2024 00:01:00", 60.0),
        ("Thu, 29 Feb 2024 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_N5_retry_after_is_seconds_or_a_date(header: str | None, secs: float | None) -> None:
    assert retry_after_secs(header, datetime(2024, 3, 1, tzinfo=UTC)) == secs


STAGES = {
    "nobody": None,
    "ingest": (feeds.SyntheticFeed, "run"),
    "strategy": (pipeline.Pipeline, "_work_strategy"),
    "execution": (pipeline.Pipeline, "_work_execution"),
    "persist": (pipeline.Pipeline, "_work_persist"),
}


def load(tmp_path: Path, tables: dict[str, dict[str, object]]) -> settings.Loaded:
    config = write_config(tmp_path, tables)
    return settings.load(str(config), {"app.db_path": ("--db", str(tmp_path / "bot.db"))})


async def hang(self: object) -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(("stuck", "channel"), [("strategy", "tick"), ("execution", "signal")])
def test_B2_overload_names_the_channel_and_writes_what_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stuck: str, channel: str
) -> None:
    monkeypatch.setattr(pipeline.Pipeline, f"_work_{stuck}", hang)
    caplog.set_level("INFO")
    tables: dict[str, dict[str, object]] = {
        "engine": {"shutdown_timeout_secs": 0.1, "signal_every_n_ticks": 1, "overload_grace_ms": 50},
        "channels": {"tick_channel_size": 8, "signal_channel_size": 2},
    }
    code = pipeline.run(load(tmp_path, tables), settings.Environment("INFO", "picows", None, None))
    assert code == 13
    (overload,) = [record.fields for record in caplog.records if record.message.startswith(f"{channel} channel full")]
    assert (overload["reason"], overload["channel"]) == ("OVERLOAD", channel)
    (final,) = [record.fields for record in caplog.records if record.message == "FINAL METRICS"]
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
            pipeline.run(loaded, settings.Environment("INFO", "picows", str(tmp_path / "notify"), watchdog_secs))
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"END", str(tmp_path / "notify"))
            listener.join(DEADLINE_SECS)
    return told


@pytest.mark.parametrize("stuck", STAGES)
def test_E5_one_stuck_task_starves_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stuck: str
) -> None:
    target = STAGES[stuck]
    if target is not None:
        monkeypatch.setattr(*target, hang)
    told = run_in_process(
        tmp_path,
        0.1,
        {"engine": {"run_seconds": 0.3, "shutdown_timeout_secs": 0.1, "tick_interval_ms": 1000}},
    )
    silent = [record.fields["silent"] for record in caplog.records if record.message == "watchdog not fed"]
    if target is None:
        assert told.count("WATCHDOG=1") >= 5
        assert silent == []
    else:
        assert told.count("WATCHDOG=1") == 0
        assert {tuple(names) for names in silent} == {(stuck,)}


def test_E5_a_write_that_hangs_starves_the_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = threading.Event()

    def hang(self: Ledger, batch: Batch) -> Written:
        hung.wait(DEADLINE_SECS)
        return Written(len(batch.ticks), 0, 0, 0, 0)

    monkeypatch.setattr(Ledger, "write", hang)
    # Allows a write to take busy_timeout_ms + 0.1 s instead of the 1 s + 2 s that it would be.
    monkeypatch.setattr(pipeline, "_WRITE_SLACK_SECS", -0.9)
    told = run_in_process(
        tmp_path,
        0.2,
        {"engine": {"run_seconds": 0.8, "shutdown_timeout_secs": 0.1}, "persist": {"busy_timeout_ms": 1000}},
    )
    hung.set()
    # Fed while a write may still take that long, not after.
    fed = told.count("WATCHDOG=1")
    assert 1 <= fed <= 6
