"""A copy of the database while the engine writes (contract O4)."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.storage import opening
from harness.base.errors import HarnessError
from harness.upkeep import backup

INSERT = "INSERT INTO ticks(symbol, price, volume, ts) VALUES ('X', 1.0, 1.0, ?)"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "bot.db"
    opening.open_ledger(path, busy_timeout_ms=1000).close()
    return path


@pytest.mark.claim("O4")
def test_a_copy_of_one_moment_while_somebody_writes(database: Path, tmp_path: Path) -> None:
    """Two rows a transaction: a copy has both or none, and the engine can go on with it."""
    done, some = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as connection:
            number = 0
            while not done.is_set():
                number += 1
                connection.execute("BEGIN")
                connection.executemany(INSERT, [(number,), (number,)])
                connection.execute("COMMIT")
                some.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert some.wait(10)
        sizes = [backup.backup(database, tmp_path / f"copy-{n}.db") for n in range(5)]
    finally:
        done.set()
        writer.join()
    assert all(sizes)
    for n in range(5):
        copy = tmp_path / f"copy-{n}.db"
        with closing(sqlite3.connect(copy)) as connection:
            counts = connection.execute("SELECT COUNT(*) FROM ticks GROUP BY ts").fetchall()
            assert counts
            assert set(counts) == {(2,)}
        opening.open_ledger(copy, busy_timeout_ms=1000).close()
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.claim("O4")
def test_nothing_is_overwritten_and_nothing_half_is_left(database: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.db"
    there.write_text("precious")
    with pytest.raises(HarnessError, match=r"there\.db: is there already"):
        backup.backup(database, there)
    assert there.read_text() == "precious"
    with pytest.raises(HarnessError, match=r"none/x\.db: cannot be written"):
        backup.backup(database, tmp_path / "none" / "x.db")
    with pytest.raises(HarnessError, match=r"nowhere\.db: there is no such database"):
        backup.backup(tmp_path / "nowhere.db", tmp_path / "x.db")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(INSERT, [(n,) for n in range(20_000)])
    with database.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(HarnessError, match=r"bot\.db: (is damaged|cannot be copied)"):
        backup.backup(database, tmp_path / "x.db")
    assert not list(tmp_path.glob("*x.db*"))


class Unlucky(sqlite3.Connection):
    """Its copies are damaged on their way to the disk; what it copies stays whole."""

    def backup(self, target: sqlite3.Connection, **how: Any) -> None:
        super().backup(target, **how)
        ((_, _, path),) = target.execute("PRAGMA database_list")
        with Path(path).open("r+b") as file:
            file.seek(20 * 4096)
            file.write(b"\xff" * 4096)


@pytest.mark.claim("O4")
def test_a_copy_that_was_damaged_on_its_way_gets_no_name(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(INSERT, [(n,) for n in range(20_000)])
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Unlucky))
    with pytest.raises(HarnessError, match=r"bot\.db: (is damaged|cannot be copied)"):
        backup.backup(database, tmp_path / "x.db")
    assert not list(tmp_path.glob("*x.db*"))


@pytest.mark.claim("O4")
def test_as_a_command(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[app]\ndb_path = "{database}"\n')
    argv = ["--config", str(config), str(tmp_path / "copy.db")]
    assert backup.main(argv) == 0
    assert "bytes, checked" in capsys.readouterr().out
    assert backup.main(argv) == 1
    assert "is there already" in capsys.readouterr().err
