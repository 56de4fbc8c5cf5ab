"""One run of one process under load: start it, watch its table grow, end it, say what it cost.

The table is watched from outside, by its highest rowid over a read-only connection, so that every subject is measured
alike and none has to report on itself.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from urllib.parse import quote

from bench import report

ROOT = Path(__file__).resolve().parent.parent
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

LOOK_SECS = 0.01
"""Between two looks at a subject. A look costs 0.1 ms of the other core, and is the same for all subjects."""

STUCK_SECS = 10.0
"""A subject that makes no progress for so long has failed."""

END_SECS = 10.0


class SubjectFailed(Exception):
    """A subject did not do what is to be measured."""


@dataclass(frozen=True)
class Load:
    """What the venue sends."""

    ticks: int
    rate: int | None = None
    """Trades a second; None: as fast as the subject takes them."""
    frames: str = "trade"
    """One of bench.load's FRAMES."""
    markets: int = 1
    """Whose trades come in turn; see bench.load.market_names."""
    stamps: Path | None = None


@dataclass
class Run:
    """What one run of a subject came to."""

    ticks: int
    seconds: float
    """From the first frame sent to the last row on disk."""
    progress: list[tuple[float, int]]
    """(seconds since the first frame, rows on disk), at each look that saw more; empty without a table."""
    rss_bytes: list[tuple[float, int]]
    """(seconds since the first frame, resident memory), at each look."""
    disk_bytes: int = 0
    """Written to the file system by the whole life of the process, checkpoints included."""
    cpu_secs: float = 0.0
    """User and system time of the process."""
    lines: list[dict[str, object]] = field(default_factory=list)
    """What it printed, where that was JSON."""

    @property
    def rate(self) -> float:
        """Ticks a second, up to the last twentieth: the final rows may wait for a flush interval, which is a setting
        and no speed."""
        if not self.progress:
            return self.ticks / self.seconds
        return report.rate_between(self.progress, 0, max(1, self.ticks * 19 // 20))


Hear = Callable[..., int]
"""(key, client) -> what the load generator said under that key; fails early when the client is there and has ended."""

Argv = Callable[[str, Path], Sequence[str]]
"""(URL, directory of its own) -> the command line of a subject; its table is in `ticks.db` there."""


def run(
    argv: Argv,
    load: Load,
    directory: Path,
    *,
    env: dict[str, str] | None = None,
    counts: bool = True,
    watch: Callable[[str], None] = lambda text: None,
) -> Run:
    """Runs a subject under `load` until all ticks are on disk, then stops it with SIGTERM.

    directory: empty, on a real disk. env: added to the environment. counts: False for a subject without a database,
    which prints {"done": monotonic ns} when it has seen all ticks. watch: takes how far it is.
    Raises SubjectFailed when it ends early or gets stuck; the message has the end of its output.
    """
    database = directory / "ticks.db"
    log = directory / "subject.log"
    with venue(load) as (port, hear):
        with log.open("wb") as output:
            child = subprocess.Popen(
                argv(f"ws://127.0.0.1:{port}", directory),
                cwd=ROOT, env=environment(env or {}), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            started = hear("started", child) / 1e9
            progress, rss, ended = _watch(child, started, load.ticks, database if counts else None, log, watch)
        except BaseException as error:
            child.kill()
            child.wait()
            if isinstance(error, SubjectFailed):
                raise SubjectFailed(f"{error}\n{tail(log)}") from None
            raise
        child.send_signal(signal.SIGTERM)
        usage = _reap(child)
        if load.stamps is not None:
            hear("stamped")
    return Run(
        ticks=load.ticks, seconds=ended - started, progress=progress, rss_bytes=rss,
        # Blocks of 512 bytes (getrusage(2)); dirtied pages, whether or not the device has seen them yet.
        disk_bytes=usage.ru_oublock * 512, cpu_secs=usage.ru_utime + usage.ru_stime, lines=_lines(log),
    )  # fmt: skip


@contextmanager
def venue(load: Load) -> Iterator[tuple[int, Hear]]:
    """The load generator: its port, and a function that waits for it to say something (see bench/load.py)."""
    argv = [sys.executable, "-m", "bench.load", "--ticks", str(load.ticks), "--frames", load.frames]
    argv += ["--markets", str(load.markets)]
    if load.rate is not None:
        argv += ["--rate", str(load.rate)]
    if load.stamps is not None:
        argv += ["--stamps", str(load.stamps)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as child:
        output = child.stdout
        assert output is not None
        said = b""

        def hear(key: str, client: subprocess.Popen[bytes] | None = None) -> int:
            nonlocal said
            deadline = time.monotonic() + STUCK_SECS
            while True:
                for line in said.split(b"\n")[:-1]:
                    fields = json.loads(line)
                    if key in fields:
                        return int(fields[key])
                if not select([output], [], [], LOOK_SECS)[0]:
                    if client is not None and client.poll() is not None:
                        raise SubjectFailed(f"{client.args!r}: ended with {client.returncode} before it connected")
                    if time.monotonic() > deadline:
                        raise SubjectFailed(f"the load generator did not say {key!r} within {STUCK_SECS:.0f} s")
                    continue
                received = output.read(65536)
                if not received:
                    raise SubjectFailed(f"the load generator ended without saying {key!r}")
                said += received

        try:
            yield hear("port"), hear
        finally:
            child.kill()


def rows(database: Path) -> int:
    """The highest rowid of `ticks`; 0 while there is no such table."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=1.0)) as connection:
            return int(connection.execute("SELECT max(rowid) FROM ticks").fetchone()[0] or 0)
    except sqlite3.Error:
        return 0


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def environment(more: dict[str, str]) -> dict[str, str]:
    """Ours and `more`, for a subject."""
    # Without bytecode every start compiles the engine again; an installed one never does.
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | more


def _watch(
    child: subprocess.Popen[bytes],
    started: float,
    ticks: int,
    database: Path | None,
    log: Path,
    watch: Callable[[str], None],
) -> tuple[list[tuple[float, int]], list[tuple[float, int]], float]:
    progress: list[tuple[float, int]] = []
    rss: list[tuple[float, int]] = []
    moved_at = time.monotonic()
    while True:
        if child.poll() is not None:
            raise SubjectFailed(f"{child.args!r}: ended with {child.returncode}")
        now = time.monotonic()
        rss.append((now - started, rss_bytes(child.pid)))
        if database is None:
            done = next((line["done"] for line in _lines(log) if "done" in line), None)
            if isinstance(done, int):
                return progress, rss, done / 1e9
        else:
            count = rows(database)
            now = time.monotonic()
            if not progress or count > progress[-1][1]:
                progress.append((now - started, count))
                moved_at = now
                watch(f"{count} of {ticks} ticks")
            if count >= ticks:
                return progress, rss, now
        if now - moved_at > STUCK_SECS:
            raise SubjectFailed(f"{child.args!r}: no progress for {STUCK_SECS:.0f} s")
        time.sleep(LOOK_SECS)


def _reap(child: subprocess.Popen[bytes]) -> resource.struct_rusage:
    """Waits for the end with wait4(2), which also tells what the process used; kills what does not end."""
    deadline = time.monotonic() + END_SECS
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > deadline:
            child.kill()
            deadline += END_SECS
        time.sleep(LOOK_SECS)


def _lines(log: Path) -> list[dict[str, object]]:
    found = []
    for line in log.read_bytes().splitlines():
        if line.startswith(b"{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def tail(log: Path) -> str:
    """The end of a subject's output, for an error message."""
    return log.read_bytes()[-2000:].decode(errors="replace")


def start_up_secs(argv: Argv, directory: Path) -> float:
    """From exec to READY=1 (M4), with nobody at the other end of the feed. Raises SubjectFailed without READY."""
    with (
        # A socket's path is 107 bytes at most (unix(7)); `directory` may be anywhere.
        tempfile.TemporaryDirectory() as place,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox,
        (directory / "subject.log").open("wb") as output,
    ):
        path = Path(place, "notify")
        inbox.bind(str(path))
        inbox.settimeout(END_SECS)
        started = time.monotonic()
        child = subprocess.Popen(
            # Port 9 (discard): refused at once.
            argv("ws://127.0.0.1:9", directory),
            cwd=ROOT, env=environment({"NOTIFY_SOCKET": str(path)}), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            while b"READY=1" not in inbox.recv(65536).split(b"\n"):
                pass
            return time.monotonic() - started
        except TimeoutError:
            raise SubjectFailed(f"{child.args!r}: no READY=1: {tail(directory / 'subject.log')}") from None
        finally:
            child.kill()
            child.wait()
