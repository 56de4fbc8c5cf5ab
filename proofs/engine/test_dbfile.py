"""Contract D6 to D9, as files: one engine a database, what became of it meanwhile, what it left behind.

Each fault is done to real files, by a process that is not the one that has the database open.
"""

from __future__ import annotations

import faulthandler
import fcntl
import itertools
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import Tick
from engine.base.exits import ConfigError, Crash
from engine.storage import dbfile, ledger, migrations, opening
from engine.storage.batch import Batch, DiskTrouble, Written
from engine.storage.ledger import Ledger
from engine.storage.rows import RowWriter
from harness.base.errors import Unavailable
from proofs.engine.test_ledger import traded
from proofs.fixtures import seed_database

DEADLINE_SECS = 15.0

MIB = 1024 * 1024

OPEN = """
import os, sys
from engine.base.exits import EngineError
from engine.storage.opening import open_ledger
for gate in sys.argv[2:]:
    os.read(int(gate), 1)
try:
    store = open_ledger(sys.argv[1], busy_timeout_ms=1000)
except EngineError as error:
    print(int(error.code), error)
else:
    print("open", os.getpid(), flush=True)
    sys.stdin.read()
    store.close()
"""
"""Waits at the gate, if there is one; opens, says so, and closes when its stdin does."""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "bot.db"


def opened(path: Path) -> Ledger:
    return opening.open_ledger(path, busy_timeout_ms=1000)


def ticks(first: int, count: int = 10) -> Batch:
    return Batch(
        ticks=[
            Tick("feed", "SOL/USDC", 100.0, 1.0, 1_700_000_000_000 + n, n, None, n) for n in range(first, first + count)
        ]
    )


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


@contextmanager
def another(path: Path | str, *prefix: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Another process that opens the database at `path`."""
    command = [*prefix, sys.executable, "-c", OPEN, str(path)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, cwd=cwd, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- D6: one engine ----------------------------------------------------------------------------------------


def same(database: Path) -> Path:
    return database


def relative(database: Path) -> Path:
    return Path(os.path.relpath(database, Path.cwd()))


def dotted(database: Path) -> Path:
    return database.parent / ".." / database.parent.name / "." / database.name


def link(database: Path) -> Path:
    path = database.parent.parent / "link.db"
    path.symlink_to(database)
    return path


def linked_directory(database: Path) -> Path:
    path = database.parent.parent / "current"
    path.symlink_to(database.parent)
    return path / database.name


def hard_link(database: Path) -> Path:
    path = database.parent.parent / "hard.db"
    path.hardlink_to(database)
    return path


@pytest.mark.slow
@pytest.mark.claim("D6")
@pytest.mark.parametrize("name", [same, relative, dotted, link, linked_directory, hard_link])
def test_D6_a_second_engine_is_told_who_has_the_database(database: Path, name: Callable[[Path], Path]) -> None:
    store = opened(database)
    named = name(database)
    with another(named) as process:
        line = said(process)
        assert line.startswith("12 ")
        assert f"another engine has this database: pid {os.getpid()}" in line
    # It has done no harm: what we write is ours.
    assert store.write(ticks(1)).ticks == 10
    store.close()
    with another(named) as process:
        assert said(process).startswith("open ")


@pytest.mark.claim("D6")
def test_D6_a_bind_mount_is_the_same_database(database: Path, tmp_path: Path) -> None:
    store = opened(database)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if subprocess.run(["mount", "--bind", database.parent, elsewhere], capture_output=True).returncode != 0:
        raise Unavailable("nothing can be mounted here", "run as root, with CAP_SYS_ADMIN")
    try:
        with another(elsewhere / database.name) as process:
            assert f"pid {os.getpid()}" in said(process)
    finally:
        subprocess.run(["umount", elsewhere], check=True)
        store.close()


@pytest.mark.slow
@pytest.mark.claim("D6")
def test_D6_of_engines_that_start_at_the_same_instant_one_has_it(database: Path) -> None:
    for _ in range(3):
        gate_read, gate_write = os.pipe()
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        engines = [
            subprocess.Popen(
                [sys.executable, "-c", OPEN, str(database), str(gate_read)],
                env=environ,
                pass_fds=[gate_read],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(6)
        ]
        os.close(gate_read)
        os.close(gate_write)
        lines = [said(process) for process in engines]
        winners = [line.split()[1] for line in lines if line.startswith("open ")]
        assert len(winners) == 1
        assert all(f"pid {winners[0]};" in line for line in lines if line.startswith("12 ")), lines
        assert len(lines) == 6
        for process in engines:
            process.communicate(timeout=DEADLINE_SECS)
        database.unlink()


@pytest.mark.claim("D6")
def test_D6_the_lock_dies_with_the_process_and_what_it_leaves_is_in_nobodys_way(database: Path) -> None:
    database.parent.mkdir()
    with another(database) as process:
        assert said(process) == f"open {process.pid}"
        lock = database.with_name("bot.db.lock")
        assert lock.read_text() == f"{process.pid}\n"
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_SECS)
    assert lock.exists()
    # The PID may be another process's by now, and longer than ours.
    for left in (os.getppid(), 10**12):
        lock.write_text(f"{left}\n")
        store = opened(database)
        assert lock.read_text() == f"{os.getpid()}\n"
        store.close()
        assert not lock.exists()


@pytest.mark.claim("D6")
def test_D6_children_of_an_engine_do_not_inherit_the_lock(database: Path) -> None:
    store = opened(database)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        store.close()
        with another(database) as process:
            assert said(process).startswith("open ")
        assert child.poll() is None
        child.communicate()


@pytest.mark.claim("D6")
def test_D6_a_lock_file_that_was_removed_does_not_let_a_second_engine_in(database: Path) -> None:
    store = opened(database)
    database.with_name("bot.db.lock").unlink()
    with another(database) as process:
        assert f"pid {os.getpid()}" in said(process)
    store.close()


@pytest.mark.claim("D6")
def test_D6_a_lock_file_that_is_removed_while_it_is_taken_is_taken_anew(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder ends between our opening it and our locking it, and takes the name away."""
    lockf, lock = fcntl.lockf, database.with_name("bot.db.lock")
    removed: list[object] = []

    def too_late(descriptor: int, how: int) -> None:
        if not removed:
            removed.append(lock.unlink())
        lockf(descriptor, how)

    monkeypatch.setattr(fcntl, "lockf", too_late)
    store = opened(database)
    assert removed
    assert lock.read_text() == f"{os.getpid()}\n"
    store.close()


@pytest.mark.claim("D6")
def test_D6_a_database_that_was_replaced_is_still_the_first_ones(database: Path) -> None:
    """The WAL beside it is the first one's: a second engine would write into it."""
    store = opened(database)
    shutil.copy(database, database.with_name("new"))
    database.with_name("new").replace(database)
    with another(database) as process:
        assert f"pid {os.getpid()}" in said(process)
    with pytest.raises(ConfigError):
        store.close()


@pytest.mark.claim("D6")
def test_D6_the_lock_file_of_another_user_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        raise Unavailable("nobody else's file can be made here", "run as root")
    place = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        os.chown(place, 65534, 65534)
        lock = place / "bot.db.lock"
        lock.touch(0o600)
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                opened(place / "bot.db")
            except ConfigError as error:
                code = 12 if "belongs to uid 0, mode 600, and this is uid 65534" in str(error) else 98
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 12
        assert not (place / "bot.db").exists()
    finally:
        shutil.rmtree(place)


@pytest.mark.claim("D6")
def test_D6_an_engine_outside_of_the_pid_namespace_is_told_by_the_pid_it_wrote(database: Path) -> None:
    probe = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*probe, "true"], capture_output=True).returncode != 0:
        raise Unavailable("no PID namespace can be made here", "run as root")
    store = opened(database)
    with another(database, *probe) as process:
        assert f"pid {os.getpid()} of another PID namespace" in said(process)
    store.close()


# --- D7: the file is watched -------------------------------------------------------------------------------


def run_elsewhere(code: str, *args: Path | str) -> None:
    """In a process of its own: this one has the database open, and closing a file would drop its locks."""
    subprocess.run([sys.executable, "-c", "import os, shutil, sqlite3, sys\n" + code, *map(str, args)], check=True)


def restored_by(code: str) -> Callable[[Path], None]:
    return lambda database: run_elsewhere(code, database, database.parent.parent / "backup.db")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (lambda db: db.unlink(), "is not there any more"),
    "all deleted": (
        lambda db: [db.with_name(db.name + suffix).unlink() for suffix in ("", "-wal", "-shm")],
        "is not there any more",
    ),
    "renamed": (lambda db: db.rename(db.with_name("old.db")), "is not there any more"),
    "moved, and a link in its place": (
        lambda db: db.symlink_to(db.rename(db.parent.parent / "real.db")),
        "was replaced",
    ),
    "directory renamed": (lambda db: db.parent.rename(db.parent.with_name("old")), "is not there any more"),
    "directory deleted": (lambda db: shutil.rmtree(db.parent), "is not there any more"),
    "replaced by nothing": (
        restored_by("open(sys.argv[1] + '.new', 'w').close(); os.replace(sys.argv[1] + '.new', sys.argv[1])"),
        "was replaced",
    ),
    "replaced by a backup": (restored_by("os.replace(sys.argv[2], sys.argv[1])"), "was replaced"),
    "overwritten by a backup": (restored_by("shutil.copyfile(sys.argv[2], sys.argv[1])"), "not by SQLite"),
    "restored by SQLite": (
        restored_by("sqlite3.connect(sys.argv[2]).backup(sqlite3.connect(sys.argv[1]))"),
        "was restored over: its newest tick has id 10, and 2010 was written",
    ),
    "index cut off": (restored_by("os.truncate(sys.argv[1] + '-shm', 0)"), "has lost its WAL's index: it was cut off"),
    "truncated": (restored_by("os.truncate(sys.argv[1], 0)"), "was truncated to nothing"),
    "cut in half": (
        restored_by("os.truncate(sys.argv[1], os.path.getsize(sys.argv[1]) // 2048 * 1024)"),
        "bytes shorter, and not by SQLite",
    ),
    "overwritten by garbage": (
        restored_by("f = open(sys.argv[1], 'r+b'); f.seek(3072); f.write(os.urandom(4096)); f.close()"),
        "was changed in place, and not by SQLite",
    ),
    "WAL deleted": (lambda db: db.with_name(db.name + "-wal").unlink(), "is not there any more: .*-wal"),
    "WAL replaced": (
        restored_by("w = sys.argv[1] + '-wal'; shutil.copy(w, w + 'x'); os.replace(w + 'x', w)"),
        "has lost its WAL: another",
    ),
    "WAL truncated": (restored_by("os.truncate(sys.argv[1] + '-wal', 0)"), "WAL that was cut off|malformed"),
    "index replaced": (
        restored_by("i = sys.argv[1] + '-shm'; shutil.copy(i, i + 'x'); os.replace(i + 'x', i)"),
        "has lost its WAL's index: another",
    ),
    "index deleted": (lambda db: db.with_name(db.name + "-shm").unlink(), "is not there any more: .*-shm"),
}


def whole(path: Path) -> tuple[int, str]:
    """Ticks and integrity of a copy, as another engine would find it."""
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    with closing(sqlite3.connect(copy)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM ticks").fetchone()
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    for leftover in copy.parent.glob("copy.db*"):
        leftover.unlink()
    return count, verdict


@pytest.fixture
def flowing(database: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A database of 2010 ticks, most of them in the file and some in the WAL; ten in a backup beside its directory."""
    monkeypatch.setattr(ledger, "ODD_SECS", 0.05)
    store = opened(database)
    store.write(ticks(1))
    with closing(sqlite3.connect(database.parent.parent / "backup.db")) as backup:
        store._connection.backup(backup)
    store.write(ticks(11, 1000))
    store._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    store.look()
    store.write(ticks(1011, 1000))
    store.look()
    return store


def look_until_it_shows(store: Ledger) -> ConfigError:
    deadline = time.monotonic() + DEADLINE_SECS
    while time.monotonic() < deadline:
        try:
            store.look()
        except ConfigError as error:
            return error
    raise AssertionError("nothing was noticed")


@pytest.mark.slow
@pytest.mark.claim("D7")
@pytest.mark.parametrize("fault", FAULTS)
def test_D7_whatever_becomes_of_the_files_is_noticed_and_nothing_more_is_written(flowing: Ledger, fault: str) -> None:
    database = flowing.path
    do, words = FAULTS[fault]
    do(database)
    left = database.read_bytes() if database.exists() else None
    error = look_until_it_shows(flowing)
    assert error.code == 12
    with pytest.raises(ConfigError, match=words):
        flowing.write(ticks(3000))
    assert "nothing was committed since 20" in str(error)
    flowing.close()
    after = database.read_bytes() if database.exists() else None
    if "WAL" not in fault:
        assert after == left, "what was left of the database was written to"


# Of a WAL that is truncated in the midst of a transaction the commit makes one of the right length again; by an index
# that is, the kernel ends the process.
@pytest.mark.slow
@pytest.mark.claim("D7")
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ("WAL truncated", "index cut off")])
def test_D7_the_engine_says_what_it_wrote_where_nobody_finds_it(
    flowing: Ledger, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """It happens between the look before a batch and the commit of the batch."""
    write_rows = RowWriter.write

    def and_then(self: RowWriter, batch: Batch) -> Written:
        written = write_rows(self, batch)
        FAULTS[fault][0](flowing.path)
        return written

    if fault == "restored by SQLite":
        # Nobody else can write in the midst of a transaction.
        FAULTS[fault][0](flowing.path)
        and_then = write_rows
    written = 0
    with monkeypatch.context() as patch, suppress(ConfigError, DiskTrouble):
        patch.setattr(RowWriter, "write", and_then)
        batch = traded(9000)
        batch.ticks = ticks(2011, 7).ticks
        made = flowing.write(batch)
        written = made.ticks + made.signals + made.orders + made.fills
    assert written in (0, 10)
    error = look_until_it_shows(flowing)
    assert error.details["rows"] == written
    assert (f"{written} rows were committed since 20" if written else "nothing was committed since 20") in str(error)
    flowing.close()


@pytest.mark.claim("D7")
@pytest.mark.parametrize("left", ["0", "32", "os.path.getsize(sys.argv[1]) // 2"])
def test_D7_a_wal_that_was_cut_is_noticed_by_the_next_write_although_it_would_grow_again(
    flowing: Ledger, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Its length says nothing: SQLite writes on behind the hole."""
    monkeypatch.setattr(ledger, "LOOK_PAUSE_SECS", 3600.0)
    # The next one, which is due already, would be between the two.
    flowing.look()
    flowing.write(ticks(2011, 3))
    flowing.write(ticks(2014, 4))
    before = flowing.path.read_bytes()
    run_elsewhere(f"os.truncate(sys.argv[1], {left})", flowing.path.with_name("bot.db-wal"))
    with pytest.raises(ConfigError, match="has a WAL that was cut off; 7 rows were committed since 20"):
        flowing.write(ticks(2018, 7))
    flowing.close()
    assert flowing.path.read_bytes() == before, "holes were copied into the database"


@pytest.mark.claim("D8")
def test_D8_what_lies_beside_a_link_belongs_to_no_database(tmp_path: Path) -> None:
    real, link = tmp_path / "real.db", tmp_path / "bot.db"
    opened(real).close()
    link.symlink_to(real)
    link.with_name("bot.db-wal").write_bytes(bytes(100))
    opened(link).close()
    [orphan] = tmp_path.glob("bot.db-wal.orphan-*")
    assert orphan.read_bytes() == bytes(100)


@pytest.mark.claim("D7")
def test_D7_a_restore_just_before_a_batch_is_noticed_in_its_transaction(
    flowing: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Ledger.look

    def and_then(self: Ledger) -> None:
        look(self)
        FAULTS["restored by SQLite"][0](self.path)

    monkeypatch.setattr(ledger, "LOOK_PAUSE_SECS", 0.0)
    flowing.look()
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "look", and_then)
        with pytest.raises(ConfigError, match="was restored over"):
            flowing.write(ticks(2011))
    flowing.close()
    assert whole(flowing.path) == (10, "ok")


@pytest.mark.claim("D7")
def test_D7_a_wal_that_lost_its_name_is_copied_into_the_file(flowing: Ledger) -> None:
    wal = flowing.path.with_name("bot.db-wal")
    wal.unlink()
    assert "all that was committed is in the file" in str(look_until_it_shows(flowing))
    flowing.close()
    assert query(flowing.path, "SELECT count(*) FROM ticks") == [(2010,)]
    assert query(flowing.path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.claim("D7")
@pytest.mark.parametrize("fault", ["overwritten by a backup", "replaced by a backup"])
def test_D7_a_restored_backup_is_left_as_it_is_and_the_next_start_has_it(flowing: Ledger, fault: str) -> None:
    """The WAL beside it belonged to what was there before; SQLite would play it into the backup."""
    FAULTS[fault][0](flowing.path)
    error = look_until_it_shows(flowing)
    flowing.close()
    orphan = Path(str(error.details["wal_set_aside"]))
    assert orphan.stat().st_size > 0
    again = opened(flowing.path)
    assert again.restore().next_tick_id == 11
    again.close()
    assert query(flowing.path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.claim("D7")
def test_D7_files_that_were_changed_in_place_stay_as_after_a_kill(flowing: Ledger) -> None:
    """The WAL holds what the file may have lost."""
    FAULTS["overwritten by garbage"][0](flowing.path)
    wal = flowing.path.with_name("bot.db-wal")
    before = wal.read_bytes()
    error = look_until_it_shows(flowing)
    flowing.close()
    assert error.details["wal_set_aside"] is None
    assert wal.read_bytes() == before


@pytest.mark.slow
@pytest.mark.claim("D7", "D3")
@pytest.mark.parametrize("left", [0, 100, 32768])
def test_D7_D3_an_index_that_was_cut_off_costs_nothing_but_the_run(flowing: Ledger, left: int) -> None:
    """Also where a part of it is left: the index of a long WAL has several."""
    flowing.write(ticks(2011, 1000))
    # The reader keeps the WAL from beginning anew, so that the index grows beyond its first part.
    with closing(sqlite3.connect(flowing.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT max(id) FROM ticks").fetchone()
        for n in range(3011, 83011, 1000):
            flowing.write(ticks(n, 1000))
        flowing.look()
        shm = flowing.path.with_name("bot.db-shm")
        assert shm.stat().st_size > 32768
        run_elsewhere(f"os.truncate(sys.argv[1], {left})", shm)
        with pytest.raises(ConfigError, match="has lost its WAL's index: it was cut off"):
            flowing.look()
    flowing.close()
    store = opened(flowing.path)
    assert store.restore().next_tick_id == 83011
    assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


@pytest.mark.claim("D7", "D3")
def test_D7_D3_an_index_that_is_cut_off_within_a_transaction_costs_that_transaction(database: Path) -> None:
    """The kernel ends the process by SIGBUS: SQLite has the index mapped, and no error that it could return."""
    pid = os.fork()
    if pid == 0:
        try:
            faulthandler.disable()
            store = opened(database)
            store.write(ticks(1))
            write = store._rows.write

            def cut_off(batch: Batch) -> Written:
                written = write(batch)
                os.truncate(database.with_name("bot.db-shm"), 0)
                return written

            store._rows.write = cut_off  # type: ignore[method-assign]
            store.write(ticks(11))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGBUS
    store = opened(database)
    assert store.restore().next_tick_id == 11
    assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert store.write(ticks(1, 20)) == Written(10, 10, 0, 0, 0)
    store.close()


@pytest.mark.claim("D7")
def test_D7_it_shows_at_the_latest_when_the_engine_stops(flowing: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    look, looked_at = Ledger.look, list[float]()

    def watched(self: Ledger) -> None:
        looked_at.append(time.monotonic())
        look(self)

    monkeypatch.setattr(Ledger, "look", watched)
    FAULTS["overwritten by garbage"][0](flowing.path)
    with pytest.raises(ConfigError, match="not by SQLite"):
        flowing.close()
    # Whoever may be in the midst of a checkpoint is left the time for it.
    assert time.monotonic() - looked_at[0] >= ledger.ODD_SECS
    assert min(later - earlier for earlier, later in itertools.pairwise(looked_at)) >= ledger.LAST_LOOK_PAUSE_SECS


@pytest.mark.claim("D7")
def test_D7_a_link_that_leads_elsewhere_is_a_replaced_database(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    current = tmp_path / "current"
    current.symlink_to("one")
    store = opened(current / "bot.db")
    store.write(ticks(1))
    shutil.copy(tmp_path / "one" / "bot.db", tmp_path / "two" / "bot.db")
    current.unlink()
    current.symlink_to("two")
    with pytest.raises(ConfigError, match="was replaced"):
        store.look()
    store.close()
    # Where it was written it is whole.
    assert whole(tmp_path / "one" / "bot.db") == (10, "ok")


HARMLESS = {
    "a reader": "c.execute('SELECT count(*) FROM ticks').fetchone()",
    "a checkpoint": "c.execute('PRAGMA wal_checkpoint(PASSIVE)')",
    "a checkpoint that cuts the WAL": "c.execute('PRAGMA wal_checkpoint(TRUNCATE)')",
    "another writer": "c.execute('UPDATE ticks SET price = 1')",
    "an index": "c.execute('CREATE INDEX mine ON ticks(ts)'); c.execute('PRAGMA wal_checkpoint(PASSIVE)')",
    "retention": "c.execute('DELETE FROM ticks WHERE id < 1500'); c.execute('VACUUM');"
    " c.execute('PRAGMA wal_checkpoint(TRUNCATE)')",
    "a transaction taken back": "c.execute('PRAGMA cache_size = 5'); c.execute('BEGIN');"
    " c.execute('UPDATE ticks SET price = 2'); c.execute('ROLLBACK')",
    "a mode": "os.chmod(sys.argv[1], 0o640)",
}


@pytest.mark.slow
@pytest.mark.claim("D7")
@pytest.mark.parametrize("what", HARMLESS)
def test_D7_what_others_do_by_sqlite_is_no_fault(flowing: Ledger, what: str) -> None:
    run_elsewhere(f"c = sqlite3.connect(sys.argv[1], isolation_level=None); {HARMLESS[what]}", flowing.path)
    deadline = time.monotonic() + 3 * ledger.ODD_SECS
    while time.monotonic() < deadline:
        flowing.look()
    assert flowing.write(ticks(2011)).ticks == 10
    flowing.close()
    assert query(flowing.path, "PRAGMA integrity_check") == [("ok",)]
    assert query(flowing.path, "SELECT max(id) FROM ticks") == [(2020,)]


@pytest.mark.slow
@pytest.mark.claim("D7")
def test_D7_a_checkpoint_of_another_process_may_take_its_time(flowing: Ledger) -> None:
    """It has changed the file and not said so yet: held up by strace's place, a lock on the byte that it holds."""
    hold = (
        "import fcntl; f = open(sys.argv[1] + '-shm', 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 1, 121);"
        " d = open(sys.argv[1], 'r+b'); d.seek(24); h = d.read(4); d.seek(24); d.write(h); d.flush();"
        " print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; " + hold, flowing.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert said(holder) == "held"
        deadline = time.monotonic() + 4 * ledger.ODD_SECS
        while time.monotonic() < deadline:
            flowing.look()
        holder.communicate(timeout=DEADLINE_SECS)
    assert "changed in place" in str(look_until_it_shows(flowing))
    flowing.close()


# --- D8: what a lost database leaves -----------------------------------------------------------------------


@pytest.fixture
def killed(database: Path) -> Path:
    """As a kill leaves it: ten ticks, in the WAL alone."""
    store = opened(database)
    store.write(ticks(1))
    for suffix in ("", "-wal"):
        shutil.copy(database.with_name(database.name + suffix), database.parent.parent)
    store.close()
    for suffix in ("", "-wal"):
        (database.parent.parent / (database.name + suffix)).replace(database.with_name(database.name + suffix))
    return database


@pytest.mark.slow
@pytest.mark.claim("D8")
@pytest.mark.parametrize("lost", ["gone", "empty", "linked and gone"])
@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_D8_what_a_lost_database_left_is_set_aside_and_named(
    killed: Path, caplog: pytest.LogCaptureFixture, lost: str, suffix: str
) -> None:
    left = killed.with_name(killed.name + "-wal").rename(killed.with_name(killed.name + suffix))
    before = left.read_bytes()
    killed.unlink()
    path = killed
    if lost == "empty":
        killed.touch()
    elif lost == "linked and gone":
        path = killed.parent.parent / "link.db"
        path.symlink_to(killed)
    caplog.set_level(logging.WARNING, "engine.storage.ledger")
    opened(path).close()
    (warning,) = caplog.records
    fields = vars(warning)["fields"]
    orphan = Path(fields["orphan"])
    assert (warning.levelname, fields["bytes"]) == ("WARNING", len(before))
    assert orphan.name.startswith(f"bot.db{suffix}.orphan-20")
    assert orphan.read_bytes() == before
    assert query(killed, "SELECT count(*) FROM ticks") == [(0,)]


@pytest.mark.claim("D8")
def test_D8_all_that_a_lost_database_left_is_named(killed: Path, caplog: pytest.LogCaptureFixture) -> None:
    wal, journal = (killed.with_name(killed.name + suffix) for suffix in ("-wal", "-journal"))
    shutil.copy(wal, journal)
    killed.unlink()
    caplog.set_level(logging.WARNING, "engine.storage.ledger")
    opened(killed).close()
    named = [Path(vars(warning)["fields"]["orphan"]).name.partition(".orphan-")[0] for warning in caplog.records]
    assert sorted(named) == [journal.name, wal.name]


@pytest.mark.claim("D8")
def test_D8_nothing_that_was_set_aside_is_ever_overwritten(killed: Path) -> None:
    wal = killed.with_name("bot.db-wal")
    kept = wal.read_bytes()
    names = set()
    for number in range(3):
        wal.write_bytes(kept + bytes([number]))
        names.add(dbfile.set_aside(wal))
    assert sorted(path.read_bytes()[-1] for path in names) == [0, 1, 2]


@pytest.mark.claim("D8")
@pytest.mark.parametrize("content", [b"", bytes(32)])
def test_D8_a_wal_without_anything_in_it_is_not_worth_a_word(
    killed: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    killed.with_name("bot.db-wal").write_bytes(content)
    killed.unlink()
    opened(killed).close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


LEFT_BY_A_KILL = """
import os
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.executescript(sys.argv[2])
os._exit(0)
"""

PAGES = "PRAGMA page_size = {}; PRAGMA journal_mode = WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1);"
BESIDE = {
    "another engine's": None,
    "another application's": PAGES.format(1024),
    "of other pages": PAGES.format(8192),
    "journal": """
        CREATE TABLE t(x); PRAGMA cache_size = 1; BEGIN;
        WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 9999) INSERT INTO t SELECT x FROM n;
    """,
}


@pytest.mark.slow
@pytest.mark.claim("D8")
@pytest.mark.parametrize("whose", BESIDE)
def test_D8_what_is_of_another_database_is_set_aside_and_named(
    killed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, whose: str
) -> None:
    """SQLite would take its pages for those of the database beside which it lies."""
    script, suffix = BESIDE[whose], "-journal" if whose == "journal" else "-wal"
    other = killed if script is None else tmp_path / "other.db"
    if script is not None:
        run_elsewhere(LEFT_BY_A_KILL, other, script)
    ours = tmp_path / "ours" / "bot.db"
    store = opened(ours)
    for n in range(1, 2001, 500):
        store.write(ticks(n, 500))
    store.close()
    foreign = Path(shutil.copy(other.with_name(other.name + suffix), ours.with_name("bot.db" + suffix))).read_bytes()
    caplog.set_level(logging.WARNING, "engine.storage.ledger")
    store = opened(ours)
    assert store.restore().next_tick_id == 2001
    store.close()
    (warning,) = caplog.records
    fields = vars(warning)["fields"]
    assert (warning.message, fields["bytes"]) == ("set aside what belongs to another database", len(foreign))
    assert Path(fields["orphan"]).read_bytes() == foreign
    assert query(ours, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.claim("D8")
@pytest.mark.parametrize("other_column", ["price", "ts"])
def test_D8_a_wal_in_which_the_newest_tick_is_another_one_is_not_ours(
    database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, other_column: str
) -> None:
    """It is longer, and whole: with it the database would be the other one."""
    other, left = opened(database), tmp_path / "left"
    other.write(ticks(1, 30))
    other._connection.execute(f"UPDATE ticks SET {other_column} = {other_column} + 1")
    shutil.copy(database.with_name("bot.db-wal"), left)
    other.close()
    ours = tmp_path / "ours" / "bot.db"
    store = opened(ours)
    store.write(ticks(1, 20))
    store.close()
    shutil.copy(left, ours.with_name("bot.db-wal"))
    caplog.set_level(logging.WARNING, "engine.storage.ledger")
    store = opened(ours)
    assert store.restore().next_tick_id == 21
    store.close()
    (warning,) = caplog.records
    assert vars(warning)["fields"]["why"] == "with it tick 20, the newest of the database, is not there"


@pytest.mark.claim("D8", "D2")
def test_D8_D2_a_wal_that_has_the_migration_of_an_earlier_engines_database_is_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed behind it: in the file times are in seconds, in the WAL in milliseconds."""
    path = tmp_path / "bot.db"
    seed_database.build(path, 200)
    before = path.read_bytes()
    store = opened(path)
    wal = path.with_name("bot.db-wal").read_bytes()
    newest = store.restore().next_tick_id
    store.close()
    # The file in WAL mode, which the migration begins with.
    path.write_bytes(before[:18] + b"\x02\x02" + before[20:])
    path.with_name("bot.db-wal").write_bytes(wal)
    caplog.set_level(logging.WARNING, "engine.storage.ledger")
    store = opened(path)
    assert store.restore().next_tick_id == newest
    assert store._connection.execute("PRAGMA user_version").fetchone() == (migrations.SCHEMA_VERSION,)
    store.close()
    assert not caplog.records


@pytest.mark.claim("D8")
def test_D8_the_wal_of_a_damaged_database_is_its_own(flowing: Ledger) -> None:
    database = flowing.path
    wal = database.with_name("bot.db-wal").read_bytes()
    flowing.close()
    # The root of an index that the WAL has nothing of.
    with closing(sqlite3.connect(database)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'orders_open'").fetchone()
    with database.open("r+b") as file:
        file.seek((page - 1) * opening.PAGE_BYTES)
        file.write(os.urandom(opening.PAGE_BYTES))
    database.with_name("bot.db-wal").write_bytes(wal)
    with pytest.raises(ConfigError, match=r"damaged|malformed"):
        opened(database)
    assert list(database.parent.glob("*.orphan-*")) == []


@pytest.mark.claim("D8")
@pytest.mark.parametrize(
    ("database_pages", "wal_pages", "why"),
    [
        (1024, 1024, None),
        (1, 65536, None),
        (1024, 4096, "its pages have 4096 bytes, those of the database 1024"),
        (1, 1024, "its pages have 1024 bytes, those of the database 65536"),
    ],
)
def test_D8_pages_of_a_wal_are_as_long_as_those_of_its_database(
    database_pages: int, wal_pages: int, why: str | None
) -> None:
    header = bytes(16) + database_pages.to_bytes(2, "big") + bytes(82)
    for magic in ("377f0682", "377f0683"):
        found = bytes.fromhex(magic) + bytes(4) + wal_pages.to_bytes(4, "big")
        assert dbfile.why_foreign(header, Path("bot.db-wal"), found) == why
    # What SQLite would not read is not worth a word.
    assert dbfile.why_foreign(header, Path("bot.db-wal"), bytes(100)) is None


@pytest.mark.claim("D8", "D7")
def test_D8_D7_a_backup_that_was_restored_beside_the_wal_of_what_it_replaces_is_what_counts(
    flowing: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    database = flowing.path
    wal = database.with_name("bot.db-wal").read_bytes()
    flowing.close()
    shutil.copyfile(database.parent.parent / "backup.db", database)
    database.with_name("bot.db-wal").write_bytes(wal)
    caplog.set_level(logging.WARNING, "engine.storage.ledger")
    store = opened(database)
    assert store.restore().next_tick_id == 11
    store.close()
    assert [record.message for record in caplog.records] == ["set aside what belongs to another database"]


@pytest.mark.slow
@pytest.mark.claim("D8")
def test_D8_a_file_that_a_checkpoint_was_changing_has_its_own_wal(
    flowing: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Any of the pages may have been copied by then, in whole."""
    database = flowing.path
    before, wal = database.read_bytes(), database.with_name("bot.db-wal").read_bytes()
    flowing.close()
    after = database.read_bytes()
    caplog.set_level(logging.WARNING, "engine.storage.ledger")
    chance = random.Random(7)
    pages = range(0, len(after), opening.PAGE_BYTES)
    for _ in range(25):
        torn = bytearray(before.ljust(chance.choice([len(before), len(after)]), b"\0"))
        share = chance.random()
        for at in (at for at in pages if chance.random() < share):
            torn[at : at + opening.PAGE_BYTES] = after[at : at + opening.PAGE_BYTES].ljust(opening.PAGE_BYTES, b"\0")
        database.write_bytes(torn)
        database.with_name("bot.db-wal").write_bytes(wal)
        store = opened(database)
        assert store.restore().next_tick_id == 2011
        store.close()
        assert not caplog.records


@pytest.mark.claim("D8", "D2")
def test_D8_D2_beside_a_database_of_a_newer_engine_nothing_is_touched(killed: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer" / "bot.db"
    store = opened(newer)
    store.write(ticks(1, 500))
    store.close()
    with closing(sqlite3.connect(newer, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 99")
    shutil.copy(killed.with_name("bot.db-wal"), newer.with_name("bot.db-wal"))
    left = sorted(path.name for path in newer.parent.iterdir())
    with pytest.raises(ConfigError, match="schema version 99"):
        opened(newer)
    assert sorted(path.name for path in newer.parent.iterdir()) == left


@pytest.mark.claim("D8")
def test_D8_a_wal_with_its_database_is_what_it_is_for(killed: Path, caplog: pytest.LogCaptureFixture) -> None:
    killed.with_name("bot.db-shm").write_bytes(os.urandom(32768))
    store = opened(killed)
    assert store.restore().next_tick_id == 11
    store.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# --- D9: the WAL is kept short -----------------------------------------------------------------------------


@pytest.mark.claim("D9")
@given(left=st.integers(0, 2**40), more=st.integers(0, 2**40))
def test_D9_the_bulk_is_never_copied_while_the_writer_waits(left: int, more: int) -> None:
    how = ledger.plan_checkpoint(left, left + more)
    assert (how == "ASIDE") == (left > ledger.WAL_BYTES_MAX)
    if how is None:
        assert left < ledger.WAL_BYTES
        assert left + more <= ledger.WAL_BYTES_MAX


@pytest.mark.claim("D9")
@pytest.mark.parametrize(
    ("left", "wal", "how"),
    [
        (0, 0, None), (4 * MIB - 1, 8 * MIB, None), (4 * MIB, 4 * MIB, "PASSIVE"), (8 * MIB, 8 * MIB, "PASSIVE"),
        (8 * MIB + 1, 8 * MIB + 1, "ASIDE"), (64 * MIB, 64 * MIB, "ASIDE"), (0, 8 * MIB + 1, "TRUNCATE"),
        (8 * MIB, 8 * MIB + 1, "TRUNCATE"), (8 * MIB, 64 * MIB, "TRUNCATE"),
    ],
)  # fmt: skip
def test_D9_where_nobody_reads_a_wal_has_4_MiB_to_be_copied_and_8_at_most(left: int, wal: int, how: str | None) -> None:
    assert ledger.plan_checkpoint(left, wal) == how


@pytest.mark.claim("D9")
@pytest.mark.parametrize(
    ("mib", "level"), [(0, 0), (63.9, 0), (64, 1), (127.9, 1), (128, 2), (255, 2), (256, 3), (1024, 5)]
)
def test_D9_a_long_wal_is_told_of_at_64_MiB_and_at_each_doubling(mib: float, level: int) -> None:
    assert ledger.wal_alarm_level(int(mib * 1024 * 1024)) == level


READER = (
    "c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN');"
    " c.execute('SELECT count(*) FROM ticks').fetchone(); print('reading', flush=True); sys.stdin.read()"
)


@pytest.mark.slow
@pytest.mark.claim("D9")
@pytest.mark.parametrize("readers", [1, 3])
def test_D9_a_long_reader_is_told_of_and_when_it_lets_go_the_wal_is_cut(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, readers: int
) -> None:
    monkeypatch.setattr(ledger, "WAL_ALARM_BYTES", 1024 * 1024)
    monkeypatch.setattr(ledger, "WAL_BYTES", 256 * 1024)
    monkeypatch.setattr(ledger, "WAL_BYTES_MAX", 512 * 1024)
    monkeypatch.setattr(ledger, "CHECKPOINT_PAUSE_SECS", 0.02)
    caplog.set_level(logging.INFO, "engine.storage.ledger")
    copy, bulk = Ledger._copy, []

    def watched(self: Ledger, connection: sqlite3.Connection, how: str) -> bool:
        if self._files.frames().left_bytes > ledger.WAL_BYTES_MAX:
            bulk.append(threading.current_thread().name)
        return copy(self, connection, how)

    monkeypatch.setattr(Ledger, "_copy", watched)
    store = opened(database)
    monkeypatch.setattr(ledger, "LOOK_PAUSE_SECS", 0.0)
    number = 1
    pids = []
    processes = []
    for _ in range(readers):
        store.write(ticks(number, 100))
        number += 100
        process = subprocess.Popen(
            [sys.executable, "-c", "import sqlite3, sys; " + READER, database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert said(process) == "reading"
        processes.append(process)
        pids.append(process.pid)
    while store.wal_bytes < 2 * 1024 * 1024:
        store.write(ticks(number, 100))
        number += 100
    told = [vars(line)["fields"] for line in caplog.records if line.message == "the WAL grows and cannot be cut"]
    assert [fields["wal_bytes"] >> 20 for fields in told] == [1, 2]
    assert told[0]["reader_pids"] == sorted(pids)
    for process in processes:
        process.communicate(timeout=DEADLINE_SECS)
    deadline = time.monotonic() + DEADLINE_SECS
    while store.wal_bytes > ledger.WAL_BYTES_MAX and time.monotonic() < deadline:
        store.write(ticks(number, 1))
        number += 1
    assert store.wal_bytes <= ledger.WAL_BYTES_MAX
    assert database.with_name("bot.db-wal").stat().st_size <= ledger.WAL_BYTES_MAX
    assert set(bulk) == {"checkpoint"}
    assert "the WAL is short again" in [line.message for line in caplog.records]
    store.close()
    assert query(database, "SELECT count(*) FROM ticks") == [(number - 1,)]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.claim("D9")
def test_D9_the_wal_is_cut_although_nothing_more_is_written(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "WAL_BYTES", 64 * 1024)
    monkeypatch.setattr(ledger, "WAL_BYTES_MAX", 128 * 1024)
    monkeypatch.setattr(ledger, "CHECKPOINT_PAUSE_SECS", 0.02)
    store = opened(database)
    store.write(ticks(1, 100))
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ticks").fetchone()
        store.write(ticks(101, 20_000))
        store.look()
        assert store.wal_bytes > ledger.WAL_BYTES_MAX
    deadline = time.monotonic() + DEADLINE_SECS
    while store.wal_bytes > ledger.WAL_BYTES_MAX and time.monotonic() < deadline:
        store.look()
    assert store.wal_bytes <= ledger.WAL_BYTES_MAX
    store.close()


@pytest.mark.slow
@pytest.mark.claim("D9")
@pytest.mark.parametrize("most", [128 * 1024, 1024**3], ids=["aside", "between batches"])
def test_D9_while_a_reader_keeps_the_wal_it_is_tried_now_and_then(
    database: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(ledger, "WAL_BYTES", 64 * 1024)
    monkeypatch.setattr(ledger, "WAL_BYTES_MAX", most)
    monkeypatch.setattr(ledger, "CHECKPOINT_PAUSE_SECS", 0.05)
    monkeypatch.setattr(ledger, "LOOK_PAUSE_SECS", 0.0)
    copy, tried_at = Ledger._copy, list[float]()

    def watched(self: Ledger, connection: sqlite3.Connection, how: str) -> bool:
        tried_at.append(time.monotonic())
        return copy(self, connection, how)

    store = opened(database)
    store.write(ticks(1, 10))
    assert store._copy(store._connection, "PASSIVE")
    monkeypatch.setattr(Ledger, "_copy", watched)
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ticks").fetchone()
        number, deadline = 11, time.monotonic() + DEADLINE_SECS
        while len(tried_at) < 4 and time.monotonic() < deadline:
            store.write(ticks(number, 100))
            number += 100
        assert len(tried_at) == 4, "what somebody reads is not tried to be copied again"
    assert min(later - earlier for earlier, later in itertools.pairwise(tried_at)) >= 0.05
    store.close()


@pytest.mark.claim("D9")
def test_D9_what_was_copied_beside_the_writer_is_on_disk_and_the_wal_in_no_cache(
    flowing: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it: cutting the file would take the longer, while the writer waits."""
    advise, sync, synced, advised = os.posix_fadvise, os.fsync, list[int](), list[tuple[int, int, int, int]]()

    def watched(descriptor: int, offset: int, length: int, advice: int) -> None:
        advised.append((os.fstat(descriptor).st_ino, offset, length, advice))
        advise(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", watched)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), sync(descriptor)))
    flowing._copy_aside()
    assert flowing._checkpoint_error is None
    assert flowing._files.frames().left_bytes == 0
    assert synced == [flowing.path.stat().st_ino]
    [(inode, offset, length, advice)] = advised
    wal = flowing.path.with_name("bot.db-wal").stat()
    assert (inode, offset, advice) == (wal.st_ino, 0, os.POSIX_FADV_DONTNEED)
    # None is up to the end.
    assert length == 0 or length >= wal.st_size
    # Where nothing was copied there is nothing to bring to the disk.
    flowing._copy_aside()
    assert len(advised) == len(synced) == 1
    flowing.close()


HOLD = (
    "c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('PRAGMA locking_mode = EXCLUSIVE');"
    " c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()"
)


@pytest.mark.slow
@pytest.mark.claim("D4", "D8")
@pytest.mark.parametrize("is_copied", [False, True], ids=["all in the WAL", "some in the file"])
def test_D4_D8_whoever_keeps_a_database_with_its_wal_is_waited_for_as_long_as_for_any_lock(
    killed: Path, monkeypatch: pytest.MonkeyPatch, is_copied: bool
) -> None:
    """Before it is known whether the WAL is its own."""
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_MS_MIN", 0)
    if is_copied:
        with closing(sqlite3.connect(killed)) as connection, closing(sqlite3.connect(killed)) as reader:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            # Who is still there when the other one goes keeps the WAL from being removed.
            reader.execute("SELECT count(*) FROM ticks").fetchone()
            files = {suffix: killed.with_name(killed.name + suffix).read_bytes() for suffix in ("", "-wal")}
        for suffix, content in files.items():
            killed.with_name(killed.name + suffix).write_bytes(content)
    with subprocess.Popen(
        [sys.executable, "-c", "import sqlite3, sys; " + HOLD, killed],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert said(holder) == "held"
        # SQLite by itself, or Python's module, would wait for longer than that, and so find it free.
        lets_go = threading.Timer(4.0, holder.terminate)
        lets_go.start()
        try:
            began = time.monotonic()
            with pytest.raises(Crash, match="database is locked"):
                opening.open_ledger(killed, busy_timeout_ms=300)
            assert time.monotonic() - began >= 0.3
        finally:
            lets_go.cancel()
            holder.terminate()
    store = opened(killed)
    assert store.restore().next_tick_id == 11
    store.close()


SEEN = dbfile.FilesSnapshot(
    database=(1, 2, 10_240, 777), wal=(1, 3), shm=(1, 4), wal_bytes=32 + 3 * (24 + 1024),
    frames=dbfile.Frames(page_bytes=1024, written=3, salts=(5, 6), copied=1),
)  # fmt: skip


@pytest.mark.claim("D7")
@pytest.mark.parametrize(
    ("files", "frames", "odd"),
    [
        ({}, {}, None),
        # By what became of the file itself, while SQLite says of no checkpoint.
        ({"database": (1, 2, 10_240, 778)}, {}, "was changed in place"),
        ({"database": (1, 2, 11_264, 777)}, {}, "was changed in place"),
        ({"database": (1, 2, 10_239, 777)}, {}, "is 1 bytes shorter"),
        ({"database": (1, 2, 1024, 778)}, {}, "is 9216 bytes shorter"),
        ({"database": (1, 2, 11_264, 778)}, {"copied": 2}, None),
        ({"database": (1, 2, 1024, 778)}, {"copied": 3}, None),
        ({"database": (1, 2, 11_264, 778)}, {"salts": (6, 6), "written": 0}, None),
        ({"database": (1, 2, 11_264, 778)}, {"salts": (5, 7), "written": 0}, None),
        # More frames alone are transactions, which do not change the file.
        ({"wal_bytes": 32 + 4 * (24 + 1024), "database": (1, 2, 10_240, 778)}, {"written": 4}, "was changed in place"),
        ({"wal_bytes": 32 + 4 * (24 + 1024)}, {"written": 4}, None),
        # By how long the WAL is, of which what is left of an earlier time may follow.
        ({"wal_bytes": 32 + 3 * (24 + 1024) - 1}, {}, "has a WAL that was cut off"),
        ({"wal_bytes": 0}, {}, "has a WAL that was cut off"),
        ({"wal_bytes": 99_999}, {}, None),
        ({"wal_bytes": 0}, {"written": 0}, None),
    ],
    ids=range(15),
)
def test_D7_a_change_that_no_transaction_and_no_checkpoint_explains_is_odd(
    files: dict[str, Any], frames: dict[str, Any], odd: str | None
) -> None:
    now = SEEN._replace(**files, frames=SEEN.frames._replace(**frames))
    assert dbfile.find_oddity(SEEN, now) == odd


@pytest.mark.claim("D7")
@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({}, None),
        ({"database": (1, 2, 1, 999), "wal_bytes": 0}, None),
        ({"database": (9, 2, 10_240, 777)}, "was replaced: another file is in its place"),
        ({"database": (1, 9, 10_240, 777)}, "was replaced: another file is in its place"),
        ({"wal": (1, 9)}, "has lost its WAL: another file is in its place"),
        ({"shm": (9, 4)}, "has lost its WAL's index: another file is in its place"),
        ({"database": (1, 2, 0, 777)}, "was truncated to nothing"),
        ({"database": (1, 9, 0, 777), "wal": (1, 9)}, "was replaced: another file is in its place"),
    ],
    ids=range(8),
)
def test_D7_which_file_is_another_one_is_said(files: dict[str, Any], fault: str | None) -> None:
    assert dbfile.find_fault(SEEN, SEEN._replace(**files)) == fault


@pytest.mark.claim("D9")
def test_D9_a_frame_is_a_page_and_its_header() -> None:
    assert [SEEN.frames.bytes_of(frames) for frames in (0, 1, 3)] == [0, 1048, 3144]
    assert SEEN.frames.left_bytes == 2096


def wal(page_bytes: int, magic: int = 0x377F0682) -> bytes:
    return magic.to_bytes(4, "big") + (3_007_000).to_bytes(4, "big") + page_bytes.to_bytes(4, "big") + bytes(20)


def header(page_bytes: int, *, in_wal_mode: bool = True, version: int = 5) -> bytes:
    mode = b"\x02\x02" if in_wal_mode else b"\x01\x01"
    return (b"SQLite format 3\0" + page_bytes.to_bytes(2, "big") + mode).ljust(60, b"\0") + version.to_bytes(4, "big")


JOURNAL = bytes.fromhex("d9d505f920a163d7") + bytes(20)


@pytest.mark.claim("D8")
@pytest.mark.parametrize(
    ("beside", "found", "of", "why"),
    [
        ("bot.db-wal", wal(1024), header(1024), None),
        ("bot.db-wal", wal(1024, 0x377F0683), header(1024), None),
        ("bot.db-wal", wal(4096), header(1024), "its pages have 4096 bytes, those of the database 1024"),
        ("bot.db-wal", wal(4096, 0x377F0683), header(1024), "its pages have 4096 bytes, those of the database 1024"),
        ("bot.db-wal", wal(65536), header(1), None),
        ("bot.db-wal", wal(1), header(1), "its pages have 1 bytes, those of the database 65536"),
        # What means nothing to SQLite is in nobody's way.
        ("bot.db-wal", wal(4096, 0x377F0684), header(1024), None),
        ("bot.db-wal", b"", header(1024), None),
        ("bot.db-journal", JOURNAL, header(1024), "the database is in WAL mode and has no journal"),
        ("bot.db-journal", JOURNAL, header(1024, in_wal_mode=False), None),
        # It was changed to that mode, and then died: before it was one of ours.
        ("bot.db-journal", JOURNAL, header(1024, version=0), None),
        ("bot.db-journal", bytes(28), header(1024), None),
        ("bot.db-journal", JOURNAL[:7], header(1024), None),
    ],
    ids=range(13),
)
def test_D8_why_what_lies_beside_a_database_is_another_ones(
    beside: str, found: bytes, of: bytes, why: str | None
) -> None:
    assert dbfile.why_foreign(of.ljust(100, b"\0"), Path("/x") / beside, found) == why


@pytest.mark.claim("D8")
@pytest.mark.parametrize(
    ("suffix", "size", "is_kept"),
    [
        ("-wal", 0, False), ("-wal", 32, False), ("-wal", 33, True), ("-journal", 512, False), ("-journal", 513, True),
        ("-shm", 32_768, False), ("-other", 9999, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("there", [b"", None, b"SQLite format 3\0"], ids=["empty", "gone", "there"])
def test_D8_what_holds_something_and_has_no_database_is_kept(
    tmp_path: Path, suffix: str, size: int, is_kept: bool, there: bytes | None
) -> None:
    path = tmp_path / "bot.db"
    beside = path.with_name(f"bot.db{suffix}")
    beside.write_bytes(b"x" * size)
    if there is not None:
        path.write_bytes(there)
    found = dbfile.set_aside_orphans(path)
    if is_kept and not there:
        [(orphan, orphan_bytes)] = found
        assert orphan_bytes == size
        assert orphan.read_bytes() == b"x" * size
        assert not beside.exists()
    else:
        assert found == []
        assert beside.read_bytes() == b"x" * size


def as_of_another_application(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA application_id = 7; CREATE TABLE t(x)")


def as_of_a_newer_engine(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA user_version = 6; CREATE TABLE t(x)")


def locked_by_a_link(path: Path) -> None:
    path.with_name("bot.db.lock").symlink_to("elsewhere")


def locked_by_a_directory(path: Path) -> None:
    path.with_name("bot.db.lock").mkdir()


REFUSED: dict[str, tuple[Callable[[Path], object], str, dict[str, object]]] = {
    "text": (
        lambda path: path.write_text("this is a letter"), "{path}: not an SQLite database",
        {"found": b"this is a letter".hex()},
    ),
    "short": (
        lambda path: path.write_bytes(b"SQLite format 3\0".ljust(99)), "{path}: not an SQLite database",
        {"found": b"SQLite format 3\0".hex()},
    ),
    "another application's": (
        as_of_another_application,
        "{path}: the database of another application (application_id 0x00000007); left as it is",
        {"application_id": "00000007"},
    ),
    "a newer engine's": (
        as_of_a_newer_engine, "{path}: schema version 6; this engine knows 0 to 5; left as it is",
        {"version": 6, "known": 5},
    ),
    "a directory": (Path.mkdir, "{path}: not a regular file", {}),
    "a pipe": (os.mkfifo, "{path}: not a regular file", {}),
    "a directory for its WAL": (
        lambda path: path.with_name("bot.db-wal").mkdir(),
        "{path}-wal: not a regular file, and SQLite needs one there", {},
    ),
    "a directory for its index": (
        lambda path: path.with_name("bot.db-shm").mkdir(),
        "{path}-shm: not a regular file, and SQLite needs one there", {},
    ),
    "a lock that is a link": (
        locked_by_a_link,
        f"{{path}}.lock: Too many levels of symbolic links: it belongs to uid {os.getuid()}, mode 777, and this is uid"
        f" {os.geteuid()}; nobody holds it, so it can be removed", {},
    ),
    "a lock that is a directory": (locked_by_a_directory, "{path}.lock: Is a directory: it belongs to uid ", {}),
}  # fmt: skip


@pytest.mark.claim("C7", "D2", "D6")
@pytest.mark.parametrize("what", REFUSED)
def test_C7_what_is_no_database_of_ours_is_told_in_words_and_fields(tmp_path: Path, what: str) -> None:
    make, says, details = REFUSED[what]
    path = tmp_path / "bot.db"
    make(path)
    there = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError) as refused:
        opened(path)
    assert str(refused.value).startswith(says.format(path=path))
    told = f"{path}-{'wal' if 'WAL' in what else 'shm'}" if "for its" in what else str(path)
    assert refused.value.details == {"path": told, **details}
    # Nobody has it afterwards, and nothing was left there but what a lock was taken for.
    assert sorted(set(tmp_path.iterdir()) - {path}) == sorted(set(there) - {path})


@pytest.mark.claim("D6")
def test_D6_who_has_it_is_a_field_too(database: Path) -> None:
    store = opened(database)
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            opened(database)
        except ConfigError as error:
            details = {"path": str(database), "holder": f"pid {os.getppid()}"}
            code = 12 if error.details == details else 98
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 12
    store.close()


@pytest.mark.claim("D1", "D8")
def test_D1_D8_what_is_told_of_an_opening_has_its_fields(killed: Path, caplog: pytest.LogCaptureFixture) -> None:
    killed.unlink()
    caplog.set_level(logging.INFO, "engine.storage.ledger")
    opened(killed).close()
    told = {line.message: (line.levelname, vars(line)["fields"]) for line in caplog.records}
    level, fields = told["set aside what a database that is gone has left"]
    orphan = Path(fields["orphan"])
    assert (level, fields) == (
        "WARNING", {"path": str(killed), "orphan": str(orphan), "bytes": orphan.stat().st_size}
    )  # fmt: skip
    assert told["all PRAGMAs verified"] == ("INFO", {"path": str(killed)})
    assert told["initial database state"] == ("INFO", {
        "path": str(killed), "schema_version": 5, "ticks_id_max": 0, "signals_id_max": 0, "orders_id_max": 0,
        "trades_id_max": 0,
    })  # fmt: skip
    store = opened(killed)
    store.write(traded(3))
    store.write(ticks(1))
    store.close()
    caplog.clear()
    opened(killed).close()
    (fields,) = (vars(line)["fields"] for line in caplog.records if line.message == "initial database state")
    assert fields == {
        "path": str(killed), "schema_version": 5, "ticks_id_max": 10, "signals_id_max": 1, "orders_id_max": 4,
        "trades_id_max": 1,
    }  # fmt: skip


@pytest.mark.claim("D7", "D9")
def test_D7_D9_times_and_lengths_are_those_of_the_contract() -> None:
    contract = " ".join((Path(__file__).parents[2] / "docs/contract.md").read_text().split())
    assert f"a transaction or within {ledger.LOOK_PAUSE_SECS * 1000:g} ms of one" in contract
    assert f"when it is {ledger.WAL_ALARM_BYTES // MIB} MiB long, and at each doubling" in contract


@pytest.mark.claim("D4", "D7")
def test_D4_D7_files_that_cannot_be_looked_at_are_no_other_files(database: Path) -> None:
    """What lies in the way may be gone at the next attempt, and then nothing is lost."""
    store = opened(database)
    store.write(ticks(1))
    aside = database.rename(database.with_name("aside.db"))
    database.symlink_to(database.name)
    for _ in range(2):
        with pytest.raises(DiskTrouble, match="Too many levels of symbolic links") as trouble:
            store.look()
        assert trouble.value.reason == "ELOOP"
    database.unlink()
    aside.rename(database)
    store.look()
    assert store.write(ticks(11)).ticks == 10
    store.close()
    assert query(database, "SELECT count(*) FROM ticks") == [(20,)]
