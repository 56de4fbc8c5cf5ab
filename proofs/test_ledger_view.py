"""What onlookers see of the engine's database (contract D5, K3)."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from engine import ledger
from harness import ledger_view
from harness.clock import OsClock
from harness.ledger_view import LedgerUnreadable


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """As the engine makes it, with nothing in it; closed."""
    path = tmp_path / "bot.db"
    ledger.open_ledger(path, busy_timeout_ms=1000).close()
    return path


def glance(path: Path) -> ledger_view.Glance:
    return ledger_view.glance(path, after_tick=0, ticks_max=3, deeds_max=2)


def insert_ticks(path: Path, count: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO ticks(symbol, price, volume, ts) VALUES ('X', ?, 1.0, ?)",
            ((n, n) for n in range(1, count + 1)),
        )


def test_the_engines_schema_is_understood(database: Path) -> None:
    assert ledger.SCHEMA_VERSION in ledger_view.SCHEMA_VERSIONS
    assert glance(database) == ledger_view.Glance([], [], [], [], [])


@pytest.mark.claim("K3")
def test_no_glance_costs_more_when_a_table_grows(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        for sql in ledger_view.GLANCES:
            values = (0,) * sql.count("?")
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values))
            opcodes = {row[1] for row in connection.execute(f"EXPLAIN {sql}", values)}
            assert "TEMP B-TREE" not in plan, f"{sql} sorts: {plan}"
            assert "Count" not in opcodes, f"{sql} counts"
            # From an end of the table, by a partial index, or a table with a row a symbol.
            assert "ORDER BY id DESC LIMIT" in sql or "orders_open" in plan or "FROM positions" in sql, plan


def test_the_newest_rows_are_told_oldest_first(database: Path) -> None:
    insert_ticks(database, 5)
    assert [tick.id for tick in glance(database).ticks] == [3, 4, 5]
    later = ledger_view.glance(database, after_tick=4, ticks_max=3, deeds_max=2)
    assert [tick.id for tick in later.ticks] == [5]


def test_a_database_without_a_wal_is_read_in_a_directory_that_may_not_be_written(database: Path) -> None:
    insert_ticks(database, 1)
    before = sorted(path.name for path in database.parent.iterdir())
    assert before == ["bot.db"], "the last writer closed it"
    glance(database)
    assert sorted(path.name for path in database.parent.iterdir()) == before


def test_a_glance_leaves_the_index_of_the_wal_as_it_is(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        for number in range(3):
            writer.execute("INSERT INTO ticks(symbol, price, volume, ts) VALUES ('X', 1.0, 1.0, ?)", (number,))
        index = database.with_name("bot.db-shm").read_bytes()
        # In a process of its own: within one, SQLite shares the mapping that the writer made.
        look = "import sys; from pathlib import Path; from harness.ledger_view import glance; "
        look += "print([tick.ts for tick in glance(Path(sys.argv[1]), after_tick=0, ticks_max=3, deeds_max=2).ticks])"
        command = [sys.executable, "-c", look, str(database)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[0, 1, 2]\n"
        assert database.with_name("bot.db-shm").read_bytes() == index


def test_after_the_first_commit_what_was_checkpointed_is_read(database: Path) -> None:
    insert_ticks(database, 1)
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("INSERT INTO ticks(symbol, price, volume, ts) VALUES ('X', 2.0, 1.0, 2)")
        assert [tick.id for tick in glance(database).ticks] in ([1], [1, 2])
        writer.execute("INSERT INTO ticks(symbol, price, volume, ts) VALUES ('X', 3.0, 1.0, 3)")
        assert [tick.id for tick in glance(database).ticks] == [1, 2, 3]


@pytest.mark.parametrize(("version", "age"), [(0, "an older"), (99, "a newer")])
def test_a_schema_that_is_not_understood_is_named(database: Path, version: int, age: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(LedgerUnreadable, match=f"schema version {version}, of {age} engine"):
        glance(database)


def endless(path: Path, wanted: str = "id, 1 AS ts") -> None:
    numbers = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE VIEW ticks AS {numbers} SELECT {wanted} FROM n")


def one_tick(path: Path, tick: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE VIEW ticks AS SELECT {tick}")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


THINGS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "directory": os.mkdir,
    "socket": listening,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "link to a pipe": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
    "zeros": lambda path: path.touch() or os.truncate(path, 1 << 40),
    "view without an end": endless,
    "text for an id": lambda path: one_tick(path, "'x' AS id, 1 AS ts"),
    "nothing for a time": lambda path: one_tick(path, "1 AS id, NULL AS ts"),
    "infinity for an id": lambda path: one_tick(path, "9e999 AS id, 1 AS ts"),
    "no text": lambda path: one_tick(path, "CAST(x'ff' AS TEXT) AS id, 1 AS ts"),
    "digits without an end": lambda path: one_tick(path, "replace(hex(zeroblob(500000)), '0', '9') AS id, 1 AS ts"),
    "too much": lambda path: one_tick(path, "zeroblob(1000000000) AS id, 1 AS ts"),
}
"""Makes what lies where the database should be."""

LOOKS: list[Callable[[Path], object]] = [ledger_view.look, glance]


@pytest.mark.claim("K9")
@pytest.mark.parametrize("look", LOOKS, ids=["look", "glance"])
@pytest.mark.parametrize("thing", THINGS)
def test_whatever_lies_there_is_named_in_time(tmp_path: Path, thing: str, look: Callable[[Path], object]) -> None:
    path = tmp_path / "bot.db"
    THINGS[thing](path)
    clock = OsClock()
    begun = clock.monotonic()
    with pytest.raises(LedgerUnreadable, match=r"bot\.db"):
        look(path)
    assert clock.monotonic() - begun < 3.0


@pytest.mark.claim("K9")
@pytest.mark.parametrize("look", LOOKS, ids=["look", "glance"])
@pytest.mark.parametrize("beside", ["-wal", "-shm", "-journal"])
def test_a_pipe_beside_the_database_is_not_opened(database: Path, beside: str, look: Callable[[Path], object]) -> None:
    os.mkfifo(database.with_name(f"bot.db{beside}"))
    with pytest.raises(LedgerUnreadable, match=f"bot.db{beside}: is not a file"):
        look(database)
