"""engine/signals.py: what each signal does, from the first moment to the last (E6)."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from engine import signals
from harness.base.clock import OsClock, poll
from proofs.fixtures import engine_loop
from proofs.fixtures.engine_process import DEADLINE_SECS, ROOT, Engine, engine, write_config

# Nothing is written before the stop.
LAZY: dict[str, dict[str, object]] = {
    "engine": {"tick_interval_ms": 1},
    "persist": {"batch_size": 100_000, "flush_interval_ms": 60_000},
}


def expect_clean_end(running: Engine) -> None:
    assert running.wait_exit() == 0
    final = running.final()
    assert final["tick_rows_written"] == final["ingest_received"] > 0
    assert running.query("SELECT count(*) FROM ticks") == [(final["ingest_received"],)]
    assert len(running.messages("shutdown signal received")) == len(running.messages("FINAL METRICS")) == 1
    assert running.lines[-1]["fields"] == {"message": "shutdown complete", "exit_code": 0}


@pytest.mark.slow
@pytest.mark.claim("E6")
@pytest.mark.parametrize("signum", signals.STOPS)
def test_E6_a_stop_is_clean(tmp_path: Path, signum: int) -> None:
    with engine(tmp_path, "--config", str(write_config(tmp_path, LAZY))) as running:
        running.wait_heartbeat(lambda beat: beat["ingest_received"] > 20)
        running.process.send_signal(signum)
        expect_clean_end(running)
        assert running.messages("shutdown signal received") == [
            {"message": "shutdown signal received", "signal": signals.name_of(signum)}
        ]


@pytest.mark.slow
@pytest.mark.claim("E6")
@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMAX])
def test_E6_signals_that_mean_nothing_are_log_lines(tmp_path: Path, signum: int) -> None:
    with engine(tmp_path, "--config", str(write_config(tmp_path, LAZY))) as running:
        running.wait_heartbeat(lambda beat: beat["ingest_received"] > 0)
        running.process.send_signal(signum)
        assert running.wait_line("signal ignored")["signal"] == signals.name_of(signum)
        for other in signals.TOLD:
            running.process.send_signal(other)
        before = running.messages("HEARTBEAT (G4)")[-1]["ingest_received"]
        running.wait_heartbeat(lambda beat: beat["ingest_received"] > before)
        running.process.send_signal(signal.SIGTERM)
        expect_clean_end(running)


@pytest.mark.claim("E6")
def test_E6_whatever_would_end_the_process_is_taken_care_of() -> None:
    """Ask the kernel: which signals still end a process that has installed its handlers?"""
    broken = {"SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGSEGV", "SIGSYS", "SIGXCPU", "SIGKILL", "SIGSTOP"}
    code = (
        "import signal\n"
        "from engine.signals import Signals, name_of\n"
        "Signals().install()\n"
        "print(*(name_of(s) for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_DFL))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    harmless_by_default = {"SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGTSTP"}
    assert set(found.stdout.split()) <= broken | harmless_by_default


@pytest.mark.slow
@pytest.mark.claim("E6")
@pytest.mark.parametrize("others", [signals.STOPS, (*signals.STOPS, signal.SIGALRM, signal.SIGUSR1)])
def test_E6_a_storm_changes_nothing_until_the_process_is_gone(tmp_path: Path, others: tuple[int, ...]) -> None:
    with engine(tmp_path, "--config", str(write_config(tmp_path, LAZY))) as running:
        running.wait_heartbeat(lambda beat: beat["ingest_received"] > 0)
        deadline = time.monotonic() + DEADLINE_SECS
        while running.process.poll() is None and time.monotonic() < deadline:
            for signum in others:
                running.process.send_signal(signum)
        expect_clean_end(running)


@pytest.mark.slow
@pytest.mark.claim("E6")
@pytest.mark.parametrize("signum", [*signals.STOPS, signal.SIGALRM])
def test_E6_from_the_first_line_on(tmp_path: Path, signum: int) -> None:
    """The database is somebody else's for now, and the engine waits for it in its start."""
    config = write_config(tmp_path, {"persist": {"busy_timeout_ms": 600_000}})
    with sqlite3.connect(tmp_path / "bot.db", isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with engine(tmp_path, "--config", str(config)) as running:
            running.wait_line("engine starting")
            running.process.send_signal(signum)
            running.wait_line("configuration loaded")
            if signum not in signals.STOPS:
                running.process.send_signal(signal.SIGTERM)
            assert running.wait_exit() == 0
            assert running.lines[-1]["fields"] == {"message": "shutdown complete", "exit_code": 0}
            assert len(running.messages("shutdown signal received")) == 1
            assert not running.messages("pipeline running")
    holder.close()


@pytest.mark.slow
@pytest.mark.claim("E6")
@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1])
def test_E6_what_was_ignored_stays_ignored(tmp_path: Path, signum: int) -> None:
    """nohup; the background of a script."""
    code = (
        f"import os, signal, sys; signal.signal({int(signum)}, signal.SIG_IGN);"
        "os.execv(sys.executable, [sys.executable, '-m', 'engine', *sys.argv[1:]])"
    )
    config = write_config(tmp_path, LAZY)
    with subprocess.Popen(
        [sys.executable, "-c", code, "--config", str(config), "--db", str(tmp_path / "bot.db")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen = [next(line for line in process.stdout if "HEARTBEAT" in line)]
        process.send_signal(signum)
        seen += [next(line for line in process.stdout if "HEARTBEAT" in line) for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        seen += process.stdout.readlines()
    assert process.returncode == 0
    assert not any("signal ignored" in line for line in seen)
    assert sum('"SIGTERM"' in line for line in seen) == 1


@pytest.mark.slow
@pytest.mark.claim("E6")
@pytest.mark.parametrize("signum", signals.STOPS)
def test_E6_what_was_blocked_is_obeyed(tmp_path: Path, signum: int) -> None:
    """A mask is inherited. Every thread that the engine starts while it trades is there when the signal comes."""
    code = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals());"
        "os.execv(sys.executable, [sys.executable, '-m', 'engine', *sys.argv[1:]])"
    )
    config = write_config(tmp_path, LAZY)
    with subprocess.Popen(
        [sys.executable, "-c", code, "--config", str(config), "--db", str(tmp_path / "bot.db")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            seen = [next(line for line in process.stdout if "HEARTBEAT" in line)]
            process.send_signal(signum)
            process.wait(DEADLINE_SECS)
        finally:
            process.kill()
        seen += process.stdout.readlines()
    assert process.returncode == 0
    assert sum("shutdown signal received" in line for line in seen) == 1


@pytest.fixture
def installed() -> signals.Signals:
    return signals.Signals()


@pytest.mark.claim("E6")
def test_E6_a_wait_ends_with_the_work_or_with_a_stop(installed: signals.Signals) -> None:
    done: Future[int] = Future()
    done.set_result(1)
    assert installed.wait(done)
    never: Future[int] = Future()
    installed._note(signal.SIGUSR1, None)
    installed._note(signal.SIGHUP, None)
    installed._note(signal.SIGTERM, None)
    assert not installed.wait(never)
    assert installed.stop == signal.SIGHUP


@pytest.mark.claim("E6")
def test_E6_signals_that_came_before_wake_at_once(installed: signals.Signals) -> None:
    woken = []
    with installed.waking(lambda: woken.append(1)):
        assert not woken
        installed._note(signal.SIGUSR1, None)
    installed._note(signal.SIGUSR1, None)
    assert woken == [1]
    with installed.waking(lambda: woken.append(2)):
        assert woken == [1, 2]


@pytest.mark.claim("E6")
def test_E6_what_comes_as_the_block_ends_has_no_line_after_the_last_one(
    installed: signals.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    """It is scheduled on the loop, which goes on for a moment when the run is over."""
    stops: list[int] = []

    async def run() -> None:
        with installed.stopping(asyncio.get_running_loop(), lambda: stops.append(1)):
            installed._note(signal.SIGUSR1, None)
            await asyncio.sleep(0)
            assert "signal ignored" in caplog.text
            caplog.clear()
            installed._note(signal.SIGTERM, None)
        await asyncio.sleep(0)

    caplog.set_level("INFO")
    engine_loop.run(run())
    assert (stops, caplog.text) == ([], "")


@pytest.mark.claim("E6")
@pytest.mark.parametrize(
    ("came", "told"),
    [
        ([], []),
        ([signal.SIGUSR1], [("signal ignored", "SIGUSR1", 1)]),
        ([signal.SIGRTMAX] * 7, [("signal ignored", "SIGRTMAX", 7)]),
        ([signal.SIGRTMIN + 3] * 2, [("signal ignored", "SIGRTMIN+3", 2)]),
        ([signal.SIGHUP], [("shutdown signal received", "SIGHUP", None)]),
        (
            [signal.SIGINT] * 3,
            [("shutdown signal received", "SIGINT", None), ("signal ignored", "SIGINT", 2)],
        ),
        (
            [signal.SIGQUIT, signal.SIGTERM, signal.SIGTERM],
            [("shutdown signal received", "SIGQUIT", None), ("signal ignored", "SIGTERM", 2)],
        ),
        (
            [signal.SIGUSR2, signal.SIGTERM],
            [("signal ignored", "SIGUSR2", 1), ("shutdown signal received", "SIGTERM", None)],
        ),
    ],
    ids=range(8),
)
def test_E6_what_came_is_told_once_and_how_often(
    installed: signals.Signals,
    caplog: pytest.LogCaptureFixture,
    came: list[int],
    told: list[tuple[str, str, int | None]],
) -> None:
    caplog.set_level("INFO")
    for signum in came:
        installed._note(signum, None)
    stops = set(came) & set(signals.STOPS)
    assert installed.report() is bool(stops)
    found = [(line.levelname, line.message, vars(line)["fields"]) for line in caplog.records]
    assert [(message, fields["signal"], fields.get("times")) for _, message, fields in found] == told
    assert all(level == ("WARNING" if message == "signal ignored" else "INFO") for level, message, _ in found)
    caplog.clear()
    # What it has told it does not tell again, and a stop stays asked for.
    assert installed.report() is bool(stops)
    if stops:
        installed._note(signal.SIGTERM, None)
        assert installed.report()
    assert "shutdown signal received" not in caplog.text


@pytest.mark.claim("E6")
def test_E6_of_a_storm_there_is_a_line_a_second(
    installed: signals.Signals, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    for now in (0.0, 0.5, 0.99, 1.0, 1.5, 2.0):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        installed._note(signal.SIGUSR1, None)
        installed.report()
    assert [vars(line)["fields"]["suppressed"] for line in caplog.records] == [0, 2, 1]


@pytest.mark.claim("E6")
@pytest.mark.parametrize(
    ("method", "left"), [("restore", {signal.SIG_DFL}), ("ignore", {signal.SIG_IGN}), ("report", None)]
)
def test_E6_what_is_asked_of_signals_holds_for_each_of_them(method: str, left: set[object] | None) -> None:
    """But for one that was ignored at the start, which stays so; TERM does not."""
    touched = (*signals.STOPS, *signals.TOLD, signal.SIGTTIN, signal.SIGTTOU)
    before = {signum: signal.getsignal(signum) for signum in touched}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        for signum in (signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGINT])
        ours = signals.Signals()
        ours.install()
        getattr(ours, method)()
        now = {signum: signal.getsignal(signum) for signum in before}
        still_blocked = signal.pthread_sigmask(signal.SIG_BLOCK, []) - mask
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    ignored = {signal.SIGUSR2, signal.SIGHUP}
    expected = {ours._note} if left is None else left
    assert {now[signum] for signum in {*signals.STOPS, *signals.TOLD} - ignored} == expected
    assert {now[signum] for signum in (*ignored, signal.SIGTTIN, signal.SIGTTOU)} == {signal.SIG_IGN}
    assert not still_blocked


@pytest.mark.claim("E6")
def test_E6_a_signal_that_comes_as_the_wait_begins_is_not_slept_over() -> None:
    """Its handler has not rung, for the interpreter ran it too late; and what is waited for takes its time."""
    came, work = signals.Signals(), Future[None]()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(came.wait, work)
        assert poll(lambda: came._wake is not None or None, OsClock(), DEADLINE_SECS)
        came.stop = signal.SIGTERM
        try:
            assert waiting.result(DEADLINE_SECS) is False
        finally:
            work.set_result(None)
