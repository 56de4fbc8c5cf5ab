"""Stopping is clean: exit 0, and everything that was received is on disk (contract E4, S13)."""

from __future__ import annotations

import itertools
import re
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from datetime import datetime
from signal import SIGALRM, SIGIO, SIGPROF, SIGPWR, SIGRTMAX, SIGRTMIN, SIGSTKFLT, SIGUSR2, SIGVTALRM

import pytest

from harness.base.clock import OsClock, poll
from harness.base.unit import exec_start
from harness.base.waiting import awaiting
from harness.evidence.shell import CommandResult
from harness.faults import nemesis, tracing
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import COUNTED, EngineUnit

MEANINGLESS = (
    *map(int, (SIGUSR2, SIGALRM, SIGPROF, SIGVTALRM, SIGIO, SIGPWR, SIGSTKFLT)),
    *range(SIGRTMIN, SIGRTMAX + 1),
)
"""Signals that E6 means, and that would end a process that does nothing about them."""

BATCHES = 30
"""Each of one tick, after which it is looked what they have left."""

TOLD_SECS = 2.0
"""How long systemd may not know of a stop, or a start not obey one: far less than shutdown_timeout_secs (5)."""

SHUTDOWN_SECS = 5
"""shutdown_timeout_secs, of its own."""

HOLD_SECS = 3.0
"""How long a stop may not be over that is told to take LONG_SECS."""

LONG_SECS = 12

SELDOM = {"flush_interval_ms": 60_000, "batch_size": 1_000_000}
"""Of [persist]: no flush comes by itself."""

RUN_SECS = 2
"""How long an engine runs that is told to."""

FAILED_ATTEMPTS = 3
OUTAGE_BEATS = 8
"""Of 0.2 s: longer than the watchdog's period, and shorter than the wait for the next attempt."""

LATE_SECS = 3.0
"""By how much later that may be over, on a busy computer."""

GOES_ON_TICKS = 20

UNHEARD = ("env", "NOTIFY_SOCKET=@proof-notify", "WATCHDOG_USEC=40000")
"""How it is started where nobody hears it, and it has much to tell."""

STARTED_WITH = ("HUP", "INT", "QUIT", "USR1", "TERM")
"""Signals that may be ignored by whoever starts it."""


def run_and_feed(engine: EngineUnit, exchange: Exchange) -> None:
    exchange.feed(interval_secs=0.001)
    engine.configure({"engine": {"ingest_mode": "MOCK_WS", "ws_url": exchange.url}})
    engine.start()
    exchange.wait_sent(100)


def stop_within(engine: EngineUnit, secs: float) -> None:
    """Stop it, and refute when that takes much longer."""
    began = OsClock().monotonic()
    engine.stop()
    took = OsClock().monotonic() - began
    engine.expect(took <= secs + LATE_SECS, f"the stop took {took:.1f} s, {secs} s are allowed")


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
    stop_within(engine, SHUTDOWN_SECS)
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
@pytest.mark.claim("E4", "E5", "S13", "G4", "M2", "I1", "R4")
def test_an_outage_is_lived_through(watched: EngineUnit, exchange: Exchange) -> None:
    """Nobody is at the exchange's port, and the next attempt is far away: it is fed, it beats, asks nobody else, and
    stops at once and cleanly."""
    watched.connect(exchange, engine={"max_backoff_secs": 600, "network_give_up_secs": 900, "signal_every_n_ticks": 1})
    with tracing.calls(watched, tracing.SENDING) as calls, ExitStack() as outage:
        exchange.send_raw([exchange.tick(-1, age_secs=60.0), "nonsense"])
        exchange.send_ticks(10)
        watched.wait_ticks(11)
        outage.enter_context(nemesis.unreachable(exchange))
        failed, beats = itertools.count(1), itertools.count(1)
        watched.wait_log("connection failed", lambda _: next(failed) == FAILED_ATTEMPTS)
        watched.mark()
        watched.wait_log("HEARTBEAT (G4)", lambda _: next(beats) == OUTAGE_BEATS)
        watched.expect(watched.show().n_restarts == 0, "an outage took it down")
        stop_within(watched, 0)
        called = [call for call in calls() if tracing.NEW.search(call) and "sa_family" in call]
    others = [call for call in called if f"htons({exchange.port})" not in call]
    watched.expect(not others, f"in an outage it calls others than its feed: {others[:3]}")
    expect_clean_end(watched)
    # Nor is a peer waited for that is gone and has not said so.
    watched.start()
    exchange.wait_client()
    with nemesis.half_open(exchange):
        stop_within(watched, SHUTDOWN_SECS)
    state = watched.show()
    watched.expect((state.active, state.result) == ("inactive", "success"), "it did not end cleanly over a dead peer")


@pytest.mark.slow
@pytest.mark.claim("E4", "S13")
def test_a_run_that_is_over_is_over_however_quiet_it_was(engine: EngineUnit, exchange: Exchange) -> None:
    """`--seconds` elapse without a tick as well, and while nobody is at the exchange's port."""
    for has_outage in (False, True):
        engine.connect(exchange, engine={"run_seconds": RUN_SECS})
        with nemesis.unreachable(exchange) if has_outage else nullcontext():
            engine.wait_end()
            state = engine.show()
        engine.expect((state.result, state.n_restarts) == ("success", 0), "it did not end cleanly after run_seconds")


@pytest.mark.slow
@pytest.mark.claim("E4", "S13")
def test_a_run_that_is_over_is_written(engine: EngineUnit, exchange: Exchange) -> None:
    """When `--seconds` have elapsed, all that came until then is written, though no flush is due yet, and nothing wakes
    whoever waits for more."""
    engine.connect(
        exchange,
        engine={"run_seconds": RUN_SECS},
        persist=SELDOM,
        channels={"persist_channel_size": 100_000},
    )
    exchange.send_ticks(50)
    engine.wait_end()
    expect_clean_end(engine)
    engine.expect(engine.show().n_restarts == 0, "a clean end was restarted")
    ready, loaded, final = (
        engine.wait(f"the line {event!r}", lambda entry, event=event: entry.event == event).realtime_us / 1e6  # type: ignore[misc]
        for event in ("pipeline running", "configuration loaded", "FINAL METRICS")
    )
    engine.expect(
        final - loaded >= 0.9 * RUN_SECS and final - ready <= RUN_SECS + LATE_SECS,
        f"it ran for {final - ready:.1f} s, run_seconds is {RUN_SECS}",
    )


@pytest.mark.slow
@pytest.mark.claim("E4", "S13")
@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_stop_waits_for_no_flush_that_is_due_later(engine: EngineUnit, exchange: Exchange, signal: str) -> None:
    engine.connect(exchange, persist=SELDOM, channels={"persist_channel_size": 100_000})
    exchange.send_ticks(50)
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["ingest_received"] == 50)
    began = OsClock().monotonic()
    engine.kill(signal)
    engine.wait_end()
    took = OsClock().monotonic() - began
    engine.expect(took <= LATE_SECS, f"a stop by {signal} took {took:.1f} s, where only a flush is due later")
    expect_clean_end(engine)


@pytest.mark.slow
@pytest.mark.claim("E4", "M4", "D4")
def test_a_stop_that_loses_rows_says_so(engine: EngineUnit, exchange: Exchange) -> None:
    """Somebody has the database for longer than a stop may take: it is over in time, and is no success."""
    engine.connect(exchange, engine={"shutdown_timeout_secs": 1})
    exchange.send_ticks(5)
    engine.wait_ticks(5)
    with nemesis.locked(engine.database):
        exchange.send_ticks(20)
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["ingest_received"] == 25)
        # And the write that is going on may wait for busy_timeout_ms, which is as long.
        stop_within(engine, 2)
    final = engine.wait_log("FINAL METRICS").fields
    state, stored = engine.show(), engine.tick_count()
    engine.expect(
        (state.active, state.exec_main_status) == ("failed", 1),
        f"of {final['ingest_received']} ticks received, {stored} are stored: that is no clean end",
    )
    engine.expect(final["tick_rows_written"] == stored, f"it says that {final['tick_rows_written']} rows are written")
    line = engine.wait("the line that ends the run", lambda e: e.level == "ERROR" and e.fields.get("exit_code") == 1)
    status = engine.property("StatusText")
    engine.expect(status == f"{line.event} (exit 1 CRASH)", f"systemctl status says {status!r}")


@pytest.mark.slow
@pytest.mark.claim("M4", "I1")
def test_systemd_is_told_of_a_stop(engine: EngineUnit, exchange: Exchange) -> None:
    """READY=1 and STOPPING=1, each once, whatever the stop begins with: one that the engine began by itself looks like
    a service that runs. By the protocol of sd_notify(3)."""
    run_and_feed(engine, exchange)
    with tracing.calls(engine, tracing.SENDING) as calls:
        engine.kill("INT")
        engine.wait_end()
        expect_told_once(engine, calls(), "STOPPING=1")
    engine.configure({"engine": {"tick_interval_ms": 10, "network_give_up_secs": 0.3, "ws_url": "ws://127.0.0.1:1"}})
    ready_and_stopping = ("READY=1", "STOPPING=1")
    exchange.on_connect_send(["nonsense"] * 100)
    for words, flags, ends, expected in (
        ([], ["--seconds", "0.3"], 0, ready_and_stopping),
        ([], ["--ingest", "mockws"], 10, ready_and_stopping),
        ([], ["--ingest", "mockws", "--ws-url", exchange.url], 11, ready_and_stopping),
        ([*UNHEARD], ["--seconds", "0.3"], 0, ready_and_stopping),
        # By hand, where nobody wants to know.
        (["env", "--unset=NOTIFY_SOCKET"], ["--seconds", "0.3"], 0, ()),
    ):
        argv, state = [*words, *engine.argv(*flags)], engine.machine.layout.state
        began = OsClock().monotonic()
        status, seen = tracing.whole_run(engine.machine, state, argv, tracing.SENDING, engine.deadline_secs)
        engine.expect(status == ends, f"exit {status} of a run that ends with {ends}")
        expect_told_once(engine, seen, *expected)
        feeds = (f"htons({exchange.port})", "htons(1)")
        others = [call for call in seen if "sa_family=AF_INET" in call and not any(feed in call for feed in feeds)]
        engine.expect(not others, f"a run that ends with {ends} calls others than its feed: {others[:3]}")
        if words == [*UNHEARD]:
            is_abstract = any('sun_path=@"proof-notify' in call for call in seen)
            engine.expect(is_abstract, "a NOTIFY_SOCKET that begins with @ is none of a path (sd_notify(3))")
            warned = sum('"WARN"' in call.replace("\\", "") for call in seen)
            took = OsClock().monotonic() - began
            engine.expect(1 <= warned <= 1 + took, f"nobody hears it, of which {warned} WARNINGs tell in {took:.1f} s")


def expect_told_once(engine: EngineUnit, calls: Sequence[str], *told: str) -> None:
    """Refute unless each of these was sent to systemd once, and in this order."""
    # What goes over a stream is the log.
    sent = [call for call in calls if "AF_UNIX" in call or "UNIX-DGRAM" in call]
    times = [[at for at, call in enumerate(sent) if re.search(rf'(?:"|\\n){word}(?:"|\\n)', call)] for word in told]
    for word, at in zip(told, times, strict=True):
        engine.expect(len(at) == 1, f"{word} was sent {len(at)} times")
    engine.expect(times == sorted(times), f"{told} were sent in another order")


@pytest.mark.slow
@pytest.mark.claim("E6", "M4", "S13")
def test_once_a_stop_has_begun_no_signal_changes_its_end(engine: EngineUnit, exchange: Exchange) -> None:
    """An operator who presses Ctrl-C again and again: while the database is locked, so that the stop takes a while, and
    longer than one write waits for it."""
    exchange.feed(interval_secs=0.001)
    engine.connect(exchange, engine={"shutdown_timeout_secs": LONG_SECS})
    exchange.wait_sent(100)
    with nemesis.locked(engine.database):
        engine.kill("INT")
        with awaiting("systemd to be told of the stop"):
            # Before it can have given up the rows that it cannot write.
            known = poll(lambda: engine.show().active == "deactivating" or None, OsClock(), TOLD_SECS)
        engine.expect(known is not None, "it is stopping, and systemd was not told (STOPPING=1)")
        for signal in ("TERM", "INT", "HUP", "QUIT", "USR1", "TERM"):
            sent = engine.machine.systemctl("kill", f"--signal={signal}", "--kill-whom=main", engine.name)
            state = engine.show()
            goes_on = sent.status == 0 and state.active == "deactivating" and state.n_restarts == 0
            engine.expect(goes_on, "a signal ended it in the midst of its stop")
        engine.wait("the word that a batch could not be written", lambda e: e.level == "WARN" and "lock" in e.message)
        with awaiting("an end that comes too soon"):
            over = poll(lambda: engine.show().active != "deactivating" or None, OsClock(), HOLD_SECS)
        engine.expect(not over, f"it gave up what it had not written, shutdown_timeout_secs is {LONG_SECS}")
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
        for signal in ("TERM", "INT", "HUP", "QUIT"):
            # An end before READY=1 is a success only if systemd has asked for it.
            with engine.drop_in("40-signal", f"[Service]\nKillSignal=SIG{signal}\n"):
                stop_during_the_start(engine, signal)


def stop_during_the_start(engine: EngineUnit, signal: str) -> None:
    """Refute unless systemd's KillSignal= ends it at once while the database is not to be had."""
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
        f"a stop by {signal} during the start did not end it cleanly",
    )
    engine.expect(took <= TOLD_SECS, f"a stop by {signal} during the start took {took:.1f} s")


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
    for signal in ("RTMIN+1", "USR2", "PROF", "PWR"):
        expect_told_again(engine, signal)
    sent = send_all(engine, pid, MEANINGLESS)
    engine.expect(sent.status == 0, f"a signal that means nothing ended it: {sent.stderr.strip()}")
    exchange.wait_sent(exchange.sent + 100)
    state = engine.show()
    engine.expect((state.active, state.main_pid) == ("active", pid), "another process runs, or none")
    # To the very end.
    engine.machine.run("sh", "-c", f"kill -INT {pid}; while kill -USR1 {pid}; do sleep 0.01; done")
    engine.wait_end()
    expect_clean_end(engine)
    expect_at_most_one_a_second(engine)
    # And while it waits for an answer that does not come.
    with socket.create_server(("127.0.0.1", 0)) as mute:
        engine.configure({"engine": {"ingest_mode": "MOCK_WS", "ws_url": f"ws://127.0.0.1:{mute.getsockname()[1]}"}})
        engine.start()
        began = OsClock().monotonic()
        engine.kill("QUIT")
        engine.wait_end()
        took = OsClock().monotonic() - began
    engine.expect(took <= SHUTDOWN_SECS + LATE_SECS, f"a stop while it connects took {took:.1f} s")
    state = engine.show()
    engine.expect(
        (state.active, state.result, state.exec_main_status) == ("inactive", "success", 0),
        "a stop at the moment at which it was ready did not end it cleanly",
    )


@pytest.mark.slow
@pytest.mark.claim("E6")
def test_what_was_ignored_stays_ignored_and_what_was_blocked_is_obeyed(engine: EngineUnit) -> None:
    """`nohup`, or a shell's background. A signal of each kind that is blocked is pending for ever otherwise."""
    blocked = ",".join(map(str, [15, *MEANINGLESS]))
    env = ["/usr/bin/env", f"--ignore-signal={','.join(STARTED_WITH)}", f"--block-signal={blocked}"]
    engine.configure({"engine": {"tick_interval_ms": 5}, "persist": {"flush_interval_ms": 10}})
    with engine.drop_in("40-signals", f"[Service]\nExecStart=\nExecStart={exec_start([*env, *engine.argv()])}\n"):
        engine.start()
        pid = engine.show().main_pid
        send_all(engine, pid, STARTED_WITH[:-1])
        send_all(engine, pid, MEANINGLESS)
        with awaiting("signals that were blocked to be taken"):
            taken = poll(lambda: not pending(engine, pid) or None, OsClock(), engine.deadline_secs)
        left = pending(engine, pid)
        engine.expect(taken is not None, f"signals that were blocked at the start are not taken: {left}")
        engine.expect(bool(engine.goes_on(GOES_ON_TICKS)), "a signal that was ignored at the start ended it")
        ignored = [name for name in STARTED_WITH if told(engine, name)]
        engine.expect(not ignored, f"signals that were ignored at the start are told: {ignored}")
        engine.kill("TERM")
        engine.wait_end()
        expect_clean_end(engine)


def send_all(engine: EngineUnit, pid: int, signals: Sequence[int | str]) -> CommandResult:
    """Send these signals to a process, as long as it is there."""
    words = " ".join(map(str, signals))
    return engine.machine.run("sh", "-c", f"for signal in {words}; do kill -$signal {pid} || exit 1; done")


def pending(engine: EngineUnit, pid: int) -> list[int]:
    """Numbers of the signals that were sent to a process, and that it has not taken yet (proc(5))."""
    status = engine.machine.run("cat", f"/proc/{pid}/status").stdout
    mask = 0
    for shown in re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", status, re.MULTILINE):
        mask |= int(shown, 16)
    return [number for number in range(1, 65) if mask >> (number - 1) & 1]


def expect_at_most_one_a_second(engine: EngineUnit) -> None:
    """Refute when signals that mean nothing were told more often, by the engine's own clock."""
    lines = [entry for entry in engine.whole_journal() if entry.event == "signal ignored"]
    at = [datetime.fromisoformat(entry.timestamp).timestamp() for entry in lines]
    between = min((after - before for before, after in itertools.pairwise(at)), default=1.0)
    # Its limit is counted on another clock, and a busy computer may come between the two.
    engine.expect(between >= 0.7, f"two lines of signals that were ignored came within {between:.2f} s")


def told(engine: EngineUnit, signal: str) -> bool:
    """Whether this signal is a log line yet."""
    lines = [entry.fields["signal"] for entry in engine.journal() if entry.event == "signal ignored"]
    return f"SIG{signal}" in lines


def expect_told(engine: EngineUnit, signal: str) -> None:
    """Refute when this signal is no log line."""
    engine.wait_log("signal ignored", lambda entry: entry.fields["signal"] == f"SIG{signal}")


def expect_told_again(engine: EngineUnit, signal: str) -> None:
    """Refute when this signal, sent over and over, is no log line. Of several within a second one is told."""
    with awaiting("a further signal to be told"):
        heard = poll(lambda: engine.kill(signal) or told(engine, signal) or None, OsClock(), engine.deadline_secs)
    engine.expect(heard is not None, "a signal that means nothing is told no more")


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
