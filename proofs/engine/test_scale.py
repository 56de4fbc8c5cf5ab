"""Volume, against a server that is not ours: not one tick lost, not one twice, in bounded memory.

PROOFS_SCALE_TICKS: trades in each stream (default 10 000, so that the suite stays quick). Growth of memory is judged
from 300 000 on. PROOFS_SCALE_KILLS: how often the engine is killed in full flow (default 3).
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proofs.fixtures import seed_database
from proofs.fixtures.crashes import end_time_and_again
from proofs.fixtures.engine_process import DEADLINE_SECS, ROOT, Engine, engine, write_config
from proofs.fixtures.foreign_exchange import PRICE_STEPS

pytestmark = pytest.mark.slow

TICKS = int(os.environ.get("PROOFS_SCALE_TICKS", "10000"))
KILLS = int(os.environ.get("PROOFS_SCALE_KILLS", "3"))

DEADLINE = DEADLINE_SECS + TICKS / 4000
"""Generous: a tenth of the rate that one core of this decade reaches."""

FLOW_TICKS = max(TICKS, 30_000)
"""So many go on for long enough to be looked at meanwhile."""

EARLIER_TICKS = min(5 * TICKS, 150_000)
"""In the database of the earlier engine; that which is on record had 150 000."""

PATIENT = {"overload_grace_ms": 10_000}
"""No burst is too long for the disk of whatever computer this is, nor a replay, which comes as fast as it is taken."""

WARM_TICKS = 100_000
"""After so many, memory must not grow any more; by RSS_GROWTH_BYTES_MAX at most (T5)."""

RSS_JUDGED_TICKS = 300_000
RSS_GROWTH_BYTES_MAX = 2 * 1024 * 1024

WAL_BYTES_MAX = 8 * 1024 * 1024
"""Longer than this a WAL is only as long as somebody reads an old snapshot of it."""

LONG_BYTES = 1000
RESEND = 1200
"""More trades of LONG_BYTES than a cut can lose: what the buffers of both ends hold, some 650 kB."""

RESEND_AFTER_KILL = 3000
"""More than a kill can lose: the buffers, what one read brought, and what the channels hold."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The foreign server's."""
    command = [sys.executable, "-m", "proofs.fixtures.foreign_exchange"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.communicate(timeout=DEADLINE_SECS)


def configured(
    directory: Path,
    port: int,
    ticks: int,
    drops: int = 0,
    resend: int = 0,
    size: int = 0,
    rate: int = 0,
    **options: object,
) -> list[str]:
    """Arguments for an engine that reads a stream of its own."""
    query = f"key={directory.name}&ticks={ticks}&drops={drops}&resend={resend}&bytes={size}&rate={rate}"
    (directory / "ws_sources.toml").write_text(
        f'[[source]]\nname = "foreign"\nurl = "ws://127.0.0.1:{port}/ws?{query}"\npriority = 1\n'
        'venue = "binance"\nsymbol = "BTC/USDT"\n'
    )
    tables = {"engine": {**PATIENT, "max_backoff_secs": 0.05, **options}}
    return ["--config", str(write_config(directory, tables)), "--ingest", "realws"]


def assert_exact(running: Engine, ticks: int, every: int) -> None:
    """The rows are every `every`th of the trades 0..ticks-1, each once, each with its own price."""
    expected = ticks // every
    assert running.query("SELECT count(*), count(DISTINCT trade_id), min(trade_id), max(trade_id) FROM ticks") == [
        (expected, expected, every - 1, expected * every - 1)
    ]
    wrong = running.query(
        f"SELECT count(*) FROM ticks WHERE trade_id % {every} != {every - 1} OR symbol != 'BTC/USDT' OR volume != 0.5"
        f" OR abs(price - 100 - trade_id % {PRICE_STEPS} / 100.0) > 1e-9 OR ts != 1700000000000 + trade_id"
    )
    assert wrong == [(0,)]


@pytest.mark.claim("N7", "N4", "B1", "S2", "sampling")
@pytest.mark.parametrize("every", [1, 5, 10, 20])
def test_N7_N4_B1_S2_sampling_every_sampled_trade_is_one_row(tmp_path: Path, port: int, every: int) -> None:
    with engine(tmp_path, *configured(tmp_path, port, TICKS, sample_every=every)) as running:
        warm = 0
        if TICKS >= RSS_JUDGED_TICKS:
            running.wait_heartbeat(lambda beat: beat["ingest_received"] >= WARM_TICKS, DEADLINE)
            warm = running.rss_bytes()
        running.wait_heartbeat(lambda beat: beat["ingest_received"] == TICKS, DEADLINE)
        growth = running.rss_bytes() - warm
        assert running.stop() == 0
        final = running.final()
        assert (final["ingest_received"], final["ingest_processed"]) == (TICKS, TICKS // every)
        assert (final["duplicates"], final["gaps"], final["parse_errors"]) == (0, 0, 0)
        assert_exact(running, TICKS, every)
        if TICKS >= RSS_JUDGED_TICKS:
            print(f"sample_every {every}: {TICKS} ticks, RSS {warm} B, {growth} B more at the end")
            assert growth <= RSS_GROWTH_BYTES_MAX


@pytest.mark.claim("N7", "N9", "S3", "sampling")
def test_N7_N9_S3_sampling_is_exact_although_the_connection_breaks_twenty_times(tmp_path: Path, port: int) -> None:
    with engine(
        tmp_path, *configured(tmp_path, port, TICKS, drops=20, resend=RESEND, size=LONG_BYTES, sample_every=5)
    ) as running:
        running.wait_heartbeat(lambda beat: beat["ingest_received"] == TICKS, DEADLINE)
        assert running.stop() == 0
        final = running.final()
        assert (final["reconnects"], final["gaps"]) == (20, 0)
        assert final["duplicates"] > 20
        assert_exact(running, TICKS, 5)


class Reader(threading.Thread):
    """Counts the ticks of a database, over and over, on a connection of its own."""

    def __init__(self, path: Path, ended: threading.Event) -> None:
        super().__init__()
        self.counts: list[int] = []
        self.error: Exception | None = None
        self._path = path
        self._ended = ended

    def run(self) -> None:
        try:
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=0)) as connection:
                while not self._ended.is_set():
                    self.counts.append(connection.execute("SELECT count(*) FROM ticks").fetchone()[0])
        except sqlite3.Error as error:
            self.error = error


@pytest.mark.claim("D5", "concurrency")
def test_five_readers_in_full_flow_see_no_error_and_never_fewer_rows(tmp_path: Path, port: int) -> None:
    ended = threading.Event()
    with engine(tmp_path, *configured(tmp_path, port, FLOW_TICKS)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 0)
        readers = [Reader(running.db, ended) for _ in range(5)]
        for reader in readers:
            reader.start()
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] == FLOW_TICKS, DEADLINE)
        ended.set()
        for reader in readers:
            reader.join(DEADLINE_SECS)
        assert running.stop() == 0
        assert running.final()["persist_errors"] == 0
        assert_exact(running, FLOW_TICKS, 1)
    for reader in readers:
        assert reader.error is None
        assert len(set(reader.counts)) > 1
        assert reader.counts == sorted(reader.counts)
    # One of five may be starved on a busy computer; that there was much to see, all of them together say.
    assert len({count for reader in readers for count in reader.counts}) > 3


class Snapshot:
    """A reader in another process that keeps its read transaction open until it is told."""

    def __init__(self, path: Path) -> None:
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN');"
            " c.execute('SELECT count(*) FROM ticks').fetchone(); print('reading', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "reading\n"

    def end(self) -> None:
        self.process.communicate(timeout=DEADLINE_SECS)


@pytest.mark.claim("D9")
def test_D9_a_long_reader_holds_up_nothing_and_then_the_wal_is_cut(tmp_path: Path, port: int) -> None:
    ticks = max(TICKS, 100_000)
    with engine(tmp_path, *configured(tmp_path, port, 10_000_000)) as running:
        running.wait_heartbeat(lambda beat: beat["tick_rows_written"] > 0)
        reader = Snapshot(running.db)
        held = running.wait_heartbeat(lambda beat: beat["tick_rows_written"] >= ticks, DEADLINE)
        assert held["wal_bytes"] > WAL_BYTES_MAX
        assert held["persist_errors"] == 0
        reader.end()
        running.wait_heartbeat(
            lambda beat: beat["tick_rows_written"] > held["tick_rows_written"] and beat["wal_bytes"] <= WAL_BYTES_MAX,
            DEADLINE,
        )
        assert running.stop() == 0
        assert running.final()["persist_errors"] == 0


@pytest.mark.claim("D3", "I3", "I5", "N9")
def test_D3_I3_I5_N9_killed_in_full_flow_time_and_again(tmp_path: Path, port: int) -> None:
    """Whenever it dies: the file is whole, no batch is there by half, and what is sent again fills every hole."""
    arguments = configured(
        tmp_path, port, 10_000_000, resend=RESEND_AFTER_KILL, size=LONG_BYTES, heartbeat_interval_secs=0.02
    )
    assert end_time_and_again(tmp_path, arguments, port, [signal.SIGKILL] * KILLS + [signal.SIGTERM], 20_231_114) == 0


@pytest.mark.claim("D3", "E4", "I5")
def test_D3_E4_I5_ended_in_full_flow_only_what_was_on_its_way_is_missing(tmp_path: Path, port: int) -> None:
    """At 25 000 ticks a second, with nothing sent again."""
    ends = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * 2
    arguments = configured(tmp_path, port, 10_000_000, rate=25_000, heartbeat_interval_secs=0.02)
    assert end_time_and_again(tmp_path, arguments, port, ends, 20_231_115) > 0


@pytest.mark.claim("D2", "N2", "I3")
def test_D2_N2_I3_the_earlier_engines_ticks_are_replayed_and_not_stored_twice(tmp_path: Path) -> None:
    ticks, signals = EARLIER_TICKS, EARLIER_TICKS // 10
    seed_database.build(tmp_path / "bot.db", ticks)
    config = write_config(tmp_path, {"engine": PATIENT})
    with engine(tmp_path, "--config", str(config), "--ingest", "replay") as running:
        assert running.wait_exit() == 0
        assert running.messages("schema migrated")[0]["rows"] == ticks + 3 * signals
        final = running.final()
        assert (final["tick_count"], final["tick_rows_known"], final["tick_rows_written"]) == (ticks, ticks, 0)
        assert (final["signal_count"], final["shadow_orders"], final["trade_count"]) == (signals, signals, signals)
        assert running.query("SELECT count(*), count(DISTINCT ts), max(id) FROM ticks") == [(ticks, ticks, ticks)]
        # What the earlier engine had recorded, and what the replay makes of it, which is in no position.
        assert running.query("SELECT replayed, count(*) FROM trades GROUP BY replayed") == [(0, signals), (1, signals)]
        assert running.query("SELECT * FROM positions") == []
