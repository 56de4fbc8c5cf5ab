"""Nobody reads the log, and the engine trades on (M6): pipes, sockets, terminals, and the unit's own stdout."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.base.clock import OsClock, poll
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_process import DEADLINE_SECS, ROOT, write_config
from proofs.fixtures.engine_unit import EngineUnit

STOP_SECS = 5.0
"""shutdown_timeout_secs."""


def pipe() -> tuple[int, int]:
    read, write = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 4096)
    return read, write


def stream_socket() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def terminal() -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave


def halted_terminal() -> tuple[int, int]:
    """Halted with Ctrl-S, so that it takes nothing at all."""
    master, slave = terminal()
    termios.tcflow(slave, termios.TCOOFF)
    return master, slave


OUTPUTS = {"pipe": pipe, "socket": stream_socket, "terminal": terminal, "halted": halted_terminal}


@contextmanager
def trading(tmp_path: Path, kind: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """An engine that logs more than anything holds into something nobody reads: the process, the end that could be
    read, and the end it writes to."""
    read, write = OUTPUTS[kind]()
    # Each tick is a signal, and so some lines.
    tables: dict[str, dict[str, object]] = {"engine": {"tick_interval_ms": 1, "signal_every_n_ticks": 1}}
    config = write_config(tmp_path, tables)
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "--config", str(config), "--db", str(tmp_path / "bot.db")],
        cwd=ROOT,
        env={**os.environ, "HYBRID_LOG": "DEBUG"},
        stdout=write,
        stderr=write,
    )
    try:
        yield process, read, write
    finally:
        process.kill()
        process.wait()
        os.close(read)
        os.close(write)


def ticks(tmp_path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{tmp_path / 'bot.db'}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM ticks").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait_ticks(tmp_path: Path, at_least: int, deadline_secs: float = DEADLINE_SECS) -> None:
    reached = poll(lambda: True if ticks(tmp_path) >= at_least else None, OsClock(), deadline_secs)
    assert reached, f"{ticks(tmp_path)} of {at_least} ticks are on disk"


def rest_of(read: int) -> bytes:
    """What can be read now."""
    os.set_blocking(read, False)
    raw = b""
    while True:
        try:
            more = os.read(read, 65536)
        except OSError:
            return raw
        if not more:
            return raw
        raw += more


def read_until(read: int, words: bytes) -> bytes:
    """Reads until these words have come."""
    raw = b""
    deadline = time.monotonic() + DEADLINE_SECS
    while words not in raw[-100_000:]:
        assert select.select([read], [], [], max(0.0, deadline - time.monotonic()))[0], f"{words!r} has not come"
        raw += os.read(read, 65536)
    return raw


def whole_lines(raw: bytes) -> list[dict[str, Any]]:
    """Every line; the last one may have been cut short by the end of the process."""
    *lines, _ = raw.split(b"\n")
    return [json.loads(line)["fields"] for line in lines]


@pytest.mark.slow
@pytest.mark.claim("M6", "E4")
@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_engine_trades_and_stops_although_nobody_reads(tmp_path: Path, kind: str) -> None:
    with trading(tmp_path, kind) as (process, read, write):
        wait_ticks(tmp_path, 1000)
        shared = fcntl.fcntl(write, fcntl.F_GETFL)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(DEADLINE_SECS) == 0
        assert time.monotonic() - began < STOP_SECS
        assert not shared & os.O_NONBLOCK, "the open file belongs to others, too"
        assert bool(whole_lines(rest_of(read))) is (kind != "halted")


@pytest.mark.slow
@pytest.mark.claim("M6")
def test_when_it_flows_again_what_is_missing_is_told(tmp_path: Path) -> None:
    with trading(tmp_path, "pipe") as (process, read, _):
        # Some lines of 200 characters each: more than 1 MiB.
        wait_ticks(tmp_path, 4000, 2 * DEADLINE_SECS)
        raw = read_until(read, b"log lines dropped")
        process.send_signal(signal.SIGTERM)
        lines = whole_lines(raw + read_until(read, b"shutdown complete"))
        assert process.wait(DEADLINE_SECS) == 0
        (final,) = [line for line in lines if line["message"] == "FINAL METRICS"]
        assert final["log_drops"] == sum(line.get("dropped", 0) for line in lines) > 1000
        assert final["loop_lag_ms_p99"] < 1000


@pytest.mark.claim("M6")
def test_the_last_lines_are_out_when_the_reader_comes_back_in_time(tmp_path: Path) -> None:
    with trading(tmp_path, "pipe") as (process, read, _):
        wait_ticks(tmp_path, 1000)
        process.send_signal(signal.SIGTERM)
        lines = whole_lines(read_until(read, b"shutdown complete"))
        assert process.wait(DEADLINE_SECS) == 0
        assert [line["message"] for line in lines][-2:] == ["FINAL METRICS", "shutdown complete"]


@pytest.mark.claim("M6")
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_what_is_closed_at_the_start_leads_nowhere(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Else the database would get that number, and log lines would be written into it."""
    config = write_config(tmp_path, {"engine": {"tick_interval_ms": 1}})
    process = subprocess.Popen(
        [sys.executable, "-c",
         f"import os, sys\nfor fd in {closed}: os.close(fd)\n"
         "os.execv(sys.executable, [sys.executable, '-m', 'engine', *sys.argv[1:]])",
         "--config", str(config), "--db", str(tmp_path / "bot.db")],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_ticks(tmp_path, 50)
        for fd in closed:
            assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == os.devnull
        process.terminate()
        assert process.wait(DEADLINE_SECS) == 0
    finally:
        process.kill()
        process.wait()
    with closing(sqlite3.connect(tmp_path / "bot.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
@pytest.mark.claim("M6")
@pytest.mark.parametrize("args", [["--version"], ["--help"], ["--check-config"]], ids=str)
@pytest.mark.parametrize(("out", "status"), [("gone", 0), ("/dev/full", 1), ("closed", 0)])
def test_what_only_prints_says_when_it_cannot(tmp_path: Path, args: list[str], out: str, status: int) -> None:
    redirection = {"gone": "", "closed": ">&-", "/dev/full": ">/dev/full"}[out]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m engine {' '.join(args)} {redirection}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=write if out == "gone" else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=DEADLINE_SECS,
        check=False,
    )
    os.close(write)
    assert done.returncode == status
    assert b"Traceback" not in done.stderr
    assert b"traceback" not in done.stderr


@pytest.mark.claim("M6", "E4")
@pytest.mark.parametrize("may_open", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_unit_trades_and_stops_although_nobody_reads(
    engine: EngineUnit, exchange: Exchange, may_open: bool
) -> None:
    """may_open: whether the engine's user may open the pipe that systemd opened for it."""
    path = "/run/proof-log"
    engine.machine.run("rm", "-f", path).expect(0)
    engine.machine.run("mkfifo", "--mode", "0666" if may_open else "0600", path).expect(0)
    engine.machine.run("chmod", "0666" if may_open else "0600", path).expect(0)
    reader = os.open(engine.machine.path(path), os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert stat.S_ISFIFO(os.fstat(reader).st_mode)
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        exchange.feed(interval_secs=0.001)
        with engine.drop_in("30-log", f"[Service]\nStandardOutput=file:{path}\nEnvironment=HYBRID_LOG=DEBUG\n"):
            engine.connect(exchange, engine={"heartbeat_interval_secs": 0.01})
            # More lines by far than the pipe holds.
            engine.wait_ticks(1000)
            engine.stop()
            state = engine.show()
            engine.expect(
                (state.active, state.result, state.exec_main_status) == ("inactive", "success", 0),
                "the engine did not end cleanly",
            )
        engine.expect(bool(whole_lines(rest_of(reader))), "nothing was logged")
    finally:
        os.close(reader)
