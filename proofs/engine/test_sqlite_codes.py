"""engine/storage/sqlite_codes.py: what heals by waiting, what by a restart, and what not at all (D4, C7)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from engine.base.exits import ConfigError, Crash
from engine.storage import sqlite_codes


def said(name: str, message: str = "of this") -> sqlite3.Error:
    """As SQLite says it."""
    error = sqlite3.OperationalError(message)
    error.sqlite_errorname = name
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


MEND = (
    "SQLITE_AUTH", "SQLITE_CANTOPEN", "SQLITE_CORRUPT", "SQLITE_ERROR", "SQLITE_MISMATCH", "SQLITE_NOTADB",
    "SQLITE_PERM", "SQLITE_READONLY",
    # Extended ones count as what they are a kind of.
    "SQLITE_CANTOPEN_ISDIR", "SQLITE_CORRUPT_INDEX", "SQLITE_READONLY_DBMOVED",
    # Of constraints the one that the engine did not make itself.
    "SQLITE_CONSTRAINT_TRIGGER",
)  # fmt: skip
PASSES = (
    "SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED", "SQLITE_PROTOCOL", "SQLITE_FULL", "SQLITE_IOERR",
    "SQLITE_IOERR_WRITE", "SQLITE_NOMEM", "SQLITE_INTERNAL", "SQLITE_CONSTRAINT", "SQLITE_CONSTRAINT_NOTNULL",
    "SQLITE_TOOBIG",
)  # fmt: skip


@pytest.mark.claim("C7", "D4")
@pytest.mark.parametrize("name", [*MEND, *PASSES])
def test_C7_D4_what_a_human_has_to_mend_is_told_from_what_may_pass(name: str) -> None:
    kind = ConfigError if name in MEND else Crash
    error = said(name)
    with pytest.raises(kind) as raised:
        sqlite_codes.refuse(Path("bot.db"), error, "cannot be read")
    assert str(raised.value) == "bot.db: cannot be read: of this"
    assert raised.value.details == {"path": "bot.db", "sqlite": name}
    assert raised.value.__cause__ is error


@pytest.mark.claim("D4")
def test_D4_what_python_itself_says_of_a_database_has_no_code() -> None:
    error = sqlite3.ProgrammingError("closed")
    assert sqlite_codes.primary_code(error) == 0
    with pytest.raises(Crash) as raised:
        sqlite_codes.refuse(Path("bot.db"), error, "cannot be read")
    assert raised.value.details["sqlite"] == "ProgrammingError"


@pytest.mark.claim("D4")
@pytest.mark.parametrize(
    ("names", "group"),
    [
        (("SQLITE_BUSY", "SQLITE_BUSY_RECOVERY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"), sqlite_codes.LOCKED),
        (
            ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_IOERR_SHORT_READ", "SQLITE_NOMEM", "SQLITE_CANTOPEN",
             "SQLITE_READONLY"),
            sqlite_codes.DISK,
        ),
        (("SQLITE_CORRUPT", "SQLITE_CORRUPT_VTAB", "SQLITE_NOTADB"), sqlite_codes.DAMAGED),
        (("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_READONLY_CANTINIT"), sqlite_codes.BESIDE),
    ],
    ids=["locked", "disk", "damaged", "beside"],
)  # fmt: skip
def test_D4_a_group_has_these_codes_and_no_others(names: tuple[str, ...], group: frozenset[int]) -> None:
    assert {sqlite_codes.primary_code(said(name)) for name in names} == group


@pytest.mark.claim("C7")
def test_C7_what_no_engine_writes_is_for_a_human_whatever_found_it() -> None:
    with pytest.raises(ConfigError) as raised:
        sqlite_codes.refuse_contents(Path("bot.db"), ValueError("ticks: 'x' is no amount"))
    assert str(raised.value) == (
        "bot.db: holds what the engine never writes, in ticks: 'x' is no amount; mend it, or put a backup in its place"
    )
    assert raised.value.details == {"path": "bot.db"}
    assert raised.value.__suppress_context__


@pytest.mark.claim("C7")
@pytest.mark.parametrize(
    "name", ["bot.db", "file:bot.db", "a b?mode=memory", "100%.db", "#x", "\u00e4.db", "\udcff.db"]
)
def test_C7_any_name_is_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sqlite3.OperationalError):
        sqlite3.connect(sqlite_codes.uri(Path(name)), uri=True)
    (tmp_path / name).touch()
    for mode, may_write in (("rw", True), ("ro", False)):
        connection = sqlite3.connect(sqlite_codes.uri(Path(name), mode), uri=True, isolation_level=None)
        try:
            if may_write:
                connection.execute("CREATE TABLE t(x)")
            else:
                assert sqlite_codes.uri(Path(name)) == sqlite_codes.uri(Path(name), mode)
                with pytest.raises(sqlite3.OperationalError, match="readonly"):
                    connection.execute("INSERT INTO t VALUES (1)")
        finally:
            connection.close()
    assert (tmp_path / name).stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
