"""Stopping is clean: exit 0, and everything that was received is on disk (contract E4, S13)."""

from __future__ import annotations

import struct
from signal import SIGALRM, SIGIO, SIGPROF, SIGPWR, SIGRTMAX, SIGRTMIN, SIGSTKFLT, SIGUSR2, SIGVTALRM

import pytest

from harness.base.clock import OsClock, poll
from harness.base.waiting import awaiting
from harness.faults import nemesis, tracing
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import COUNTED, EngineUnit

MEANINGLESS = (
    *map(int, (SIGUSR2, SIGALRM, SIGPROF, SIGVTALRM, SIGIO, SIGPWR, SIGSTKFLT)),
    *range(SIGRTMIN, SIGRTMAX + 1),
)
"""Signals that E6 means, and that would end a process that does nothing about them."""

RUN_SECS = 2.0

BATCHES = 30
"""Each of one tick, after which it is looked what they have left."""

TOLD_SECS = 2.0
"""How long systemd may not know of a stop, or a start not obey one: far less than shutdown_timeout_secs (5)."""


def run_and_feed(engine: EngineUnit, exchange: Exchange) -> None:
    exchange.feed(interval_secs=0.001)
    engine.configure({"engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url}})
    engine.start()
    exchange.wait_sent(100)


def expect_clean_end(engine: EngineUnit) -> None:
    final = engine.wait_log("FINAL METRICS").fields
    state = engine.show()
    engine.expect(
        (state.active, state.result, state.exec_main_status) == ("inactive", "success", 0),
        "the engine did not end cleanly",
    )
    stored = engine.tick_count()
    engine.expect(
        stored == final["ingest_received"] > 0,
        f"{final['ingest_received']} ticks received, {stored} in the database",
    )
    engine.expect_stored(final)
    engine.expect(engine.query("PRAGMA integrity_check") == [("ok",)], "the database is damaged")


@pytest.mark.claim("E4", "S13")
def test_systemctl_stop_in_full_flow(engine: EngineUnit, exchange: Exchange) -> None:
    run_and_feed(engine, exchange)
    engine.stop()
    expect_clean_end(engine)


@pytest.mark.claim("E4", "S13")
def test_sigint_in_full_flow(engine: EngineUnit, exchange: Exchange) -> None:
    """Ctrl-C: a clean end by itself, so systemd does not restart it."""
    run_and_feed(engine, exchange)
    engine.kill("INT")
    engine.wait_end()
    expect_clean_end(engine)
    engine.expect(engine.show().n_restarts == 0, "a clean end was restarted")


@pytest.mark.slow
@pytest.mark.claim("E4", "S13")
def test_a_run_of_seconds_ends_like_a_stop(engine: EngineUnit, exchange: Exchange) -> None:
    """Exit 0, and what was received is on disk, although a flush is not due yet."""
    clock = OsClock()
    engine.connect(exchange, engine={"run_seconds": RUN_SECS}, persist={"flush_interval_ms": 60_000})
    began = clock.monotonic()
    # Fewer than a batch, and then nothing that would wake whoever waits for more.
    exchange.send_ticks(50)
    engine.wait_end()
    took = clock.monotonic() - began
    # It is ready a moment before it is connected.
    engine.expect(
        RUN_SECS / 2 <= took <= RUN_SECS + TOLD_SECS, f"a run of {RUN_SECS} s ended {took:.1f} s after it connected"
    )
    expect_clean_end(engine)


@pytest.mark.slow
@pytest.mark.claim("M4")
def test_systemd_is_told_of_a_stop(engine: EngineUnit, exchange: Exchange) -> None:
    """STOPPING=1, or a stop that the engine began by itself looks like a service that runs."""
    run_and_feed(engine, exchange)
    with tracing.calls(engine, tracing.SENDING) as calls:
        engine.kill("INT")
        engine.wait_end()
        told = [call for call in calls() if "STOPPING=1" in call]
    engine.expect(len(told) == 1, f"STOPPING=1 was sent {len(told)} times")


@pytest.mark.slow
@pytest.mark.claim("E6", "M4", "S13")
def test_once_a_stop_has_begun_no_signal_changes_its_end(engine: EngineUnit, exchange: Exchange) -> None:
    """An operator who presses Ctrl-C again and again: while the database is locked, so that the stop takes a while, and
    longer than one write waits for it."""
    exchange.feed(interval_secs=0.001)
    engine.connect(exchange)
    exchange.wait_sent(100)
    with nemesis.locked(engine.database):
        engine.kill("INT")
        with awaiting("systemd to be told of the stop"):
            # Before it can have given up the rows that it cannot write.
            known = poll(lambda: engine.show().active == "deactivating" or None, OsClock(), TOLD_SECS)
        engine.expect(known is not None, "it is stopping, and systemd was not told (STOPPING=1)")
        for signal in ("TERM", "INT", "HUP", "QUIT", "USR1", "TERM"):
            sent = engine.machine.systemctl("kill", f"--signal={signal}", "--kill-whom=main", engine.name)
            engine.expect(sent.status == 0, "a signal ended it in the midst of its stop")
        engine.wait("the word that a batch could not be written", lambda e: e.level == "WARN" and "lock" in e.message)
    engine.wait_end()
    expect_clean_end(engine)


@pytest.mark.claim("E6", "S13")
@pytest.mark.parametrize("signal", ["HUP", "QUIT"])
def test_hangup_and_quit_in_full_flow(engine: EngineUnit, exchange: Exchange, signal: str) -> None:
    """The terminal that started it is closed, or somebody presses Ctrl-\\."""
    run_and_feed(engine, exchange)
    engine.kill(signal)
    engine.wait_end()
    expect_clean_end(engine)
    engine.expect(engine.show().n_restarts == 0, "a clean end was restarted")


@pytest.mark.slow
@pytest.mark.claim("E6")
def test_a_stop_during_the_start_is_clean(engine: EngineUnit) -> None:
    """While the database is being opened, which somebody else has: neither is that waited for, nor is a signal that
    means nothing another one than later."""
    engine.configure({"engine": {"tick_interval_ms": 5}, "persist": {"flush_interval_ms": 10, "busy_timeout_ms": 8000}})
    engine.start()
    engine.wait_ticks(1)
    engine.stop()
    with nemesis.held(engine.database):
        engine.forget()
        engine.machine.systemctl("start", "--no-block", engine.name).expect(0)
        engine.wait_log("configuration loaded")
        engine.kill("USR1")
        began = OsClock().monotonic()
        engine.stop()
        took = OsClock().monotonic() - began
    killed = [entry.message for entry in engine.whole_journal() if "code=killed" in entry.message]
    engine.expect(not killed, f"a signal ended it during the start: {killed}")
    state = engine.show()
    engine.expect(
        (state.active, state.result, state.exec_main_status) == ("inactive", "success", 0),
        "a stop during the start did not end it cleanly",
    )
    engine.expect(took <= TOLD_SECS, f"a stop during the start took {took:.1f} s")


@pytest.mark.slow
@pytest.mark.claim("E6")
def test_a_signal_that_means_nothing(engine: EngineUnit, exchange: Exchange) -> None:
    """Neither the run nor its end is another one, from the moment at which it is ready; nor does it take longer until a
    stop is one."""
    exchange.feed(interval_secs=0.001)
    engine.configure({"engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url}})
    engine.start()
    engine.kill("USR1")
    pid = engine.show().main_pid
    expect_told(engine, "USR1")
    with awaiting("a second real-time signal to be told"):
        # Of several within a second one is told.
        poll(lambda: engine.kill("RTMIN+1") or told(engine, "RTMIN+1") or None, OsClock(), engine.deadline_secs)
    expect_told(engine, "RTMIN+1")
    send_all = f"for number in {' '.join(map(str, MEANINGLESS))}; do kill -$number {pid} || exit 1; done"
    sent = engine.machine.run("sh", "-c", send_all)
    engine.expect(sent.status == 0, f"a signal that means nothing ended it: {sent.stderr.strip()}")
    exchange.wait_sent(exchange.sent + 100)
    state = engine.show()
    engine.expect((state.active, state.main_pid) == ("active", pid), "another process runs, or none")
    engine.stop()
    expect_clean_end(engine)
    engine.start()
    engine.kill("QUIT")
    engine.wait_end()
    state = engine.show()
    engine.expect(
        (state.active, state.result, state.exec_main_status) == ("inactive", "success", 0),
        "a stop at the moment at which it was ready did not end it cleanly",
    )


def told(engine: EngineUnit, signal: str) -> bool:
    """Whether this signal is a log line yet."""
    lines = [entry.fields["signal"] for entry in engine.journal() if entry.event == "signal ignored"]
    return f"SIG{signal}" in lines


def expect_told(engine: EngineUnit, signal: str) -> None:
    """Refute when this signal is no log line."""
    engine.wait_log("signal ignored", lambda entry: entry.fields["signal"] == f"SIG{signal}")


def count_commits(wal: bytes) -> int:
    """Count the transactions that are in a write-ahead log (SQLite's file format, section 4). An empty one has none."""
    if len(wal) < 32:
        return 0
    (page_bytes,), salts = struct.unpack_from(">I", wal, 8), wal[16:24]
    frames = range(32, len(wal) - 23, 24 + page_bytes)
    # The last frame of a transaction says how large it leaves the database; those of an earlier log have other salts.
    return sum(wal[at + 4 : at + 8] != bytes(4) and wal[at + 8 : at + 16] == salts for at in frames)


def expect_whole_batches(engine: EngineUnit) -> int:
    """What one batch holds is there together, whenever somebody looks: a signal with its order, its transition and its
    fill. Returns how many ticks there are."""
    ((ticks, *counts),) = engine.query(
        "SELECT (SELECT count(*) FROM ticks), (SELECT count(*) FROM signals WHERE veto IS NULL),"
        " (SELECT count(*) FROM orders), (SELECT count(*) FROM order_events), (SELECT count(*) FROM trades)"
    )
    engine.expect(len(set(counts)) == 1, f"a batch is there by half: signals, orders, transitions, fills {counts}")
    return int(str(ticks))


@pytest.mark.slow
@pytest.mark.claim("D3")
def test_a_batch_takes_nothing_for_good(engine: EngineUnit, exchange: Exchange) -> None:
    """Or so many of them end the run: descriptors, threads and files are as many after each batch as before."""
    engine.connect(exchange, engine={"signal_every_n_ticks": 1})
    before = dict[str, int]()
    for batches in (1, 2):
        for _ in range(BATCHES):
            exchange.send_ticks(1)
            engine.wait_ticks(exchange.sent)
        now = {"descriptors": tracing.descriptors(engine), "threads": len(tracing.threads(engine))}
        now["files"] = len(list(engine.machine.path(engine.machine.layout.state).rglob("*")))
        # What is made at the first need, such as a thread, is there after the first round.
        grown = {what: count - before.get(what, count) for what, count in now.items()}
        engine.expect(
            max(grown.values()) < BATCHES / 2, f"after {batches * BATCHES} batches it has {now}; grown by {grown}"
        )
        before = now


@pytest.mark.claim("D3", "D4", "N9")
def test_sigkill_in_full_flow(engine: EngineUnit, exchange: Exchange) -> None:
    """Whole batches only, the engine goes on where it was, and what is sent again is not stored again."""
    exchange.numbered = True
    exchange.feed(interval_secs=0.001, again=100)
    engine.connect(exchange, engine={"signal_every_n_ticks": 2})
    engine.wait_ticks(100)
    rows = sum(map(engine.row_count, COUNTED))
    commits = count_commits(engine.database.with_name("bot.db-wal").read_bytes())
    engine.expect(2 * commits <= rows, f"{rows} rows in {commits} transactions: one takes everything that is pending")
    clock = OsClock()
    end = clock.monotonic() + engine.deadline_secs
    while expect_whole_batches(engine) < 300 and clock.monotonic() < end:
        pass
    stored = engine.query("SELECT trade_id FROM ticks")
    with nemesis.killed(engine):
        engine.wait_restarts(1)
    before = engine.tick_count()
    engine.expect(engine.query("PRAGMA integrity_check") == [("ok",)], "the database is damaged")
    engine.wait_ticks(before + 200)
    lost = set(stored) - set(engine.query("SELECT trade_id FROM ticks"))
    engine.expect(not lost, f"of {len(stored)} ticks that were stored before the kill, {len(lost)} are gone")
    expect_whole_batches(engine)
    twice = engine.query("SELECT COUNT(*) FROM (SELECT 1 FROM ticks GROUP BY trade_id HAVING COUNT(*) > 1)")
    engine.expect(twice == [(0,)], f"a trade is stored twice: {twice}")
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["duplicates"] > 0)
