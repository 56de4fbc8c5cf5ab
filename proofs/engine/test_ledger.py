"""Contract D1-D5, S1, S12, I3, I4, N2: what is on disk, after a crash, a lock, a full disk, an old schema."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import logging
import os
import random
import shutil
import signal as signals_of_posix
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import EXACT, Fill, Mode, Numbering, OrderEvent, OrderStatus, Reason, Side, Signal, Tick
from engine.base.exits import ConfigError, Crash, EngineError
from engine.ingest.intake import Intake
from engine.storage import gaps, migrations, opening, restoring
from engine.storage.batch import Batch, Busy, DiskTrouble, Position, Written
from engine.storage.ledger import Ledger
from proofs.fixtures import engine_loop, seed_database
from proofs.fixtures.small_disk import mounted

BUSY_MS = 1_000


def opened(path: Path, busy_timeout_ms: int = BUSY_MS) -> Ledger:
    return opening.open_ledger(path, busy_timeout_ms=busy_timeout_ms)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "bot.db"


@pytest.fixture
def store(database: Path) -> Iterator[Ledger]:
    store = opened(database)
    yield store
    store.close()


def query(path: Path, sql: str) -> list[Any]:
    """As any other reader of the file would see it."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = connection.execute(sql).fetchall()
    finally:
        connection.close()
    return [row[0] if len(row) == 1 else row for row in rows]


def tick(n: int, trade_id: int | None = None, event_id: str | None = None, **changes: Any) -> Tick:
    fields: dict[str, Any] = {
        "source": "binance", "symbol": "SOL/USDC", "price": 100.0 + n, "volume": 1.5, "ts": 1_700_000_000_000 + n,
    }  # fmt: skip
    return Tick(**fields | changes, trade_id=trade_id, event_id=event_id, id=n)


def numbering(stream: str, first: int, last: int, number: int = 1, **changes: Any) -> Numbering:
    return Numbering(stream, number, first, last, 1_700_000_000_000 + last, **changes)


def traded(n: int, side: Side = Side.BUY, qty: str = "0.1", price: str = "100.05") -> Batch:
    """One signal of tick n with the order, transition and fill that SHADOW makes of it."""
    size, at, fees = Decimal(qty), Decimal(price), Decimal("0.010005")
    cash = -size * at - fees if side is Side.BUY else size * at - fees
    order_id = f"shadow-s:{n}"
    return Batch(
        signals=[Signal(f"s:{n}", n, "SOL/USDC", side, Reason.PERIODIC_TRIGGER, 0.75, size, at, 1_000 + n)],
        orders=[order_event(n, 0, OrderStatus.FILLED, size, side=side, qty=size, price=at)],
        fills=[Fill(f"{order_id}/0", order_id, "SOL/USDC", side, size, at, fees, cash, 1_000 + n, True)],
    )


def order_event(
    n: int, seq: int, status: OrderStatus, filled: Decimal, mode: Mode = Mode.SHADOW, **changes: Any
) -> OrderEvent:
    fields: dict[str, Any] = {
        "order_id": f"{mode.lower()}-s:{n}", "seq": seq, "signal_id": f"s:{n}", "symbol": "SOL/USDC",
        "side": Side.BUY, "qty": Decimal("1"), "price": Decimal("100.000000000001"), "filled_qty": filled,
        "status": status, "reason": Reason.SHADOW_RECORDED, "ts": 1_000 + seq, "is_shadow": True, "mode": mode,
    }  # fmt: skip
    return OrderEvent(**fields | changes)


# --- opening -----------------------------------------------------------------------------------------------


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, Any]]:
    return {record.getMessage(): vars(record)["fields"] for record in caplog.records}


@pytest.mark.claim("D1", "S1")
def test_D1_S1_pragmas_are_applied_read_back_and_logged(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "engine.storage.ledger")
    opened(database, busy_timeout_ms=5_000).close()
    lines = logged(caplog)
    assert list(lines) == [
        "PRAGMA verification", "all PRAGMAs verified", "schema migrated", "initial database state",
    ]  # fmt: skip
    assert lines["PRAGMA verification"] == {
        "journal_mode": "wal", "synchronous": 1, "busy_timeout": 5_000, "temp_store": 2,
    }  # fmt: skip
    assert lines["schema migrated"] == {"from_version": 0, "to_version": 5, "rows": 0}


@pytest.mark.claim("D1")
def test_D1_another_process_sees_the_wal(store: Ledger) -> None:
    assert query(store.path, "PRAGMA journal_mode") == ["wal"]


@pytest.mark.claim("D1", "G3")
@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("journal_mode", ("DELETE", "wal")),
        ("synchronous", ("FULL", 1)),
        ("temp_store", ("FILE", 2)),
    ],
)
def test_D1_G3_a_pragma_that_reads_back_wrong_refuses_to_start(
    database: Path, monkeypatch: pytest.MonkeyPatch, name: str, broken: tuple[str, str | int]
) -> None:
    monkeypatch.setitem(opening.PRAGMAS, name, broken)
    with pytest.raises(ConfigError, match="PRAGMA mismatch") as raised:
        opened(database)
    assert raised.value.details["differing"] == [name]


@pytest.mark.claim("D1")
def test_D1_a_busy_timeout_under_a_second_is_refused(database: Path) -> None:
    with pytest.raises(ConfigError, match="busy_timeout_ms = 999: at least 1000"):
        opened(database, busy_timeout_ms=999)
    assert not database.exists()


@pytest.mark.claim("D5")
def test_D5_a_reader_that_opens_at_the_same_moment_does_no_harm(database: Path) -> None:
    """The files beside the database may be another user's for an instant: root's healthcheck makes them so."""
    opened(database).close()
    in_the_way = database.with_name(database.name + "-shm")
    in_the_way.symlink_to("nowhere")
    with concurrent.futures.ThreadPoolExecutor() as elsewhere:
        opening = elsewhere.submit(opened, database)
        with pytest.raises(TimeoutError):
            opening.result(timeout=0.1)
        in_the_way.unlink()
        opening.result(timeout=10).close()


@pytest.mark.claim("D5")
@pytest.mark.parametrize("code", [sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY])
def test_D5_whatever_sqlite_says_of_files_that_are_anothers_is_waited_for(
    database: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Root may write everything, so what SQLite says to an engine that is not root is said in its place."""
    real, said = opening._open, list[Exception]()

    def other(*args: Any) -> Ledger:
        if len(said) < 3:
            said.append(error := sqlite3.OperationalError("of another user"))
            error.sqlite_errorcode = code
            raise error
        return real(*args)

    monkeypatch.setattr(opening, "_open", other)
    opened(database).close()
    assert len(said) == 3


@pytest.mark.claim("D5")
def test_D5_files_beside_the_database_that_stay_beyond_us_are_a_configuration_error(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "OPEN_PATIENCE_SECS", 0.05)
    real, tried_at = opening._open, list[float]()

    def watched(*args: Any) -> Ledger:
        tried_at.append(time.monotonic())
        return real(*args)

    monkeypatch.setattr(opening, "_open", watched)
    opened(database).close()
    database.with_name(database.name + "-shm").symlink_to("nowhere")
    tried_at.clear()
    with pytest.raises(ConfigError, match="cannot be opened: unable to open database file"):
        opened(database)
    assert time.monotonic() - tried_at[0] >= 0.05
    # Whose they are is not kept from handing them over.
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried_at)]
    assert pauses
    assert min(pauses) >= opening.OPEN_PAUSE_SECS


@pytest.mark.claim("S1")
def test_S1_missing_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "state" / "deep" / "bot.db"
    opened(path).close()
    assert path.exists()


def text_file(path: Path) -> None:
    path.write_text("price,volume\n" * 50)


def damaged(path: Path) -> None:
    seed_database.build(path, ticks=2_000)
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * 4096 * 4)


def cut_off(path: Path) -> None:
    seed_database.build(path, ticks=2_000)
    os.truncate(path, 4096 * 3)


def header_only(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


@pytest.mark.claim("D2")
@pytest.mark.parametrize("spoil", [Path.mkdir, text_file, damaged, cut_off, header_only])
def test_D2_a_file_that_is_no_usable_database_is_a_configuration_error(
    database: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(database)
    with pytest.raises(ConfigError, match=r"bot\.db"):
        opened(database)


@pytest.mark.claim("D2")
def test_D2_a_damaged_file_of_this_engine_is_a_configuration_error(database: Path) -> None:
    store = opened(database)
    store.write(Batch(ticks=[tick(n, trade_id=n) for n in range(1, 3_000)]))
    store.close()
    with database.open("r+b") as file:
        file.seek(40 * 1024)
        file.write(b"\xa5" * 8 * 1024)
    with pytest.raises(ConfigError, match=r"damaged|malformed"):
        opened(database)


@pytest.mark.claim("D2")
def test_D2_a_parent_that_is_a_file_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError):
        opened(tmp_path / "data" / "bot.db")


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that an ordinary user can look into; pytest's own are closed to all but their owner."""
    path = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.claim("N9")
@pytest.mark.parametrize("running", [False, True])
def test_N9_gaps_are_told_to_those_who_may_only_read(public_directory: Path, running: bool) -> None:
    """While an engine runs, and after it has gone."""
    path = public_directory / "bot.db"
    store = opened(path)
    store.write(Batch(numberings={"a": Numbering("a", 1, 1, 9, 9, [(3, 4)], [])}, streams={"a": ("one", "A")}))
    if not running:
        store.close()
    for file in public_directory.iterdir():
        file.chmod(0o444)
    child = os.fork()
    if child == 0:
        found = -1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            found = len(gaps.read_gaps(path))
        finally:
            os._exit(found)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    if running:
        store.close()


@pytest.mark.claim("D2")
@pytest.mark.parametrize("protect", ["file", "directory"])
def test_D2_a_file_this_user_may_not_write_is_a_configuration_error(public_directory: Path, protect: str) -> None:
    path = public_directory / "bot.db"
    opened(path).close()
    before = path.read_bytes()
    path.chmod(0o444 if protect == "file" else 0o666)
    public_directory.chmod(0o777 if protect == "file" else 0o555)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            if os.geteuid() == 0:  # root may write anything: become somebody who may not
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            opened(path)
        except EngineError as error:
            code = error.code
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 12
    public_directory.chmod(0o755)
    assert path.read_bytes() == before


# --- migration ---------------------------------------------------------------------------------------------


@pytest.mark.claim("D2")
def test_D2_the_earlier_engines_database_is_migrated_without_loss(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it, row by row; proofs/engine/test_scale.py has as many as there were."""
    seed_database.build(database, ticks=15_000)
    old = {
        table: query(database, f"SELECT * FROM {table} ORDER BY id")
        for table in ("ticks", "signals", "orders", "trades")
    }
    assert len(old["ticks"]) == 15_000
    caplog.set_level(logging.INFO, "engine.storage.ledger")
    store = opened(database)
    assert logged(caplog)["schema migrated"] == {"from_version": 0, "to_version": 5, "rows": 19_500}
    assert store._connection.execute("PRAGMA temp_store").fetchone() == (2,)
    store.close()

    columns = {
        "ticks": "id, symbol, price, volume, ts / 1000",
        "signals": "id, symbol, kind, value, ts / 1000",
        "orders": "id, symbol, side, qty, price, status, ts / 1000",
        "trades": "id, event_id, order_id, symbol, side, fill_qty, fill_price, fees, ts / 1000, is_shadow",
    }
    for table, names in columns.items():
        assert query(database, f"SELECT {names} FROM {table} ORDER BY id") == old[table]
        assert query(database, f"SELECT count(*) FROM {table} WHERE ts % 1000 != 0") == [0]
    assert query(database, "SELECT DISTINCT side || ' ' || reason FROM signals ORDER BY 1") == [
        "BUY PERIODIC_TRIGGER", "SELL PERIODIC_TRIGGER",
    ]  # fmt: skip
    assert query(database, "PRAGMA user_version") == [5]
    assert query(database, "PRAGMA integrity_check") == ["ok"]


def of_version(path: Path, version: int, *statements: str) -> None:
    """A database as an engine of that version made it, with what the statements put into it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for step in migrations._MIGRATIONS[:version]:
            step(connection, path)
        connection.execute(f"PRAGMA user_version = {version}")
        for statement in statements:
            connection.execute(statement)


# As versions 1 to 3 wrote them. Orders 1 and 90 and fill 1 are the earlier engine's; order 93 is a replay's, and the
# signal of order 94 was deleted.
_ROWS_V3 = (
    "INSERT INTO signals(id, symbol, kind, value, ts) VALUES (1, 'A', 'BUY:OLD', 0.5, 1), (2, 'A', 'odd', 0.5, 1)",
    "UPDATE signals SET side = 'BUY', reason = 'OLD' WHERE id = 1",
    "INSERT INTO signals(id, symbol, kind, value, ts, event_id, tick_id, side, reason, size, price, veto, veto_detail)"
    " VALUES (3, 'A', 'BUY:PERIODIC_TRIGGER', 0.75, 7, 's:3', 3, 'BUY', 'PERIODIC_TRIGGER', '1', '2.5', NULL, NULL),"
    " (4, 'A', 'SELL:PERIODIC_TRIGGER', 0.75, 8, 's:4', 4, 'SELL', 'PERIODIC_TRIGGER', '1', '2.5', NULL, NULL),"
    " (5, 'A', 'SELL:PERIODIC_TRIGGER', 0.75, 8, 's:5', 5, 'SELL', 'PERIODIC_TRIGGER', '1', '2.5', 'RISK_CAP', 'x')",
    "INSERT INTO orders(id, symbol, side, qty, price, status, ts)"
    " VALUES (1, 'A', 'BUY', 0.30000000000000004, NULL, 'OLD', 1), (90, 'A', 'BUY', 0.1, 100, 'OLD', 2)",
    "INSERT INTO orders(id, symbol, side, qty, price, status, ts, order_id, signal_id, mode, is_shadow, qty_exact,"
    " price_exact, filled_qty, seq, reason, updated_ts, replayed) VALUES"
    " (91, 'A', 'BUY', 1, 2.5, 'FILLED', 7, 'shadow-s:3', 's:3', 'SHADOW', 1, '1', '2.5', '1', 0,"
    "  'SHADOW_RECORDED', 7, 0),"
    " (92, 'A', 'SELL', 1, 2.5, 'PARTIAL_FILL', 8, 'live-s:4', 's:4', 'LIVE', 0, '1', '2.5', '0.3', 2, 'ADAPTER',"
    "  9, 0),"
    " (93, 'A', 'BUY', 1, 2.5, 'FILLED', 7, 'paper-s:3', 's:3', 'PAPER', 1, '1', '2.5', '1', 0, 'PAPER_FILL', 7, 1),"
    " (94, 'A', 'BUY', 1, 2.5, 'SUBMITTED', 7, 'paper-s:9', 's:9', 'PAPER', 1, '1', '2.5', '0', 0, 'PAPER_SUBMITTED',"
    "  7, 0)",
    "INSERT INTO order_events VALUES ('shadow-s:3', 0, 'FILLED', 'SHADOW_RECORDED', '1', 7, 'fee_rate=0.001'),"
    " ('live-s:4', 0, 'SUBMITTED', 'ADAPTER', '0', 8, 'toy'),"
    " ('live-s:4', 1, 'ACKNOWLEDGED', 'ADAPTER', '0', 8, NULL),"
    " ('live-s:4', 2, 'PARTIAL_FILL', 'ADAPTER', '0.3', 9, NULL),"
    " ('paper-s:3', 0, 'FILLED', 'PAPER_FILL', '1', 7, NULL),"
    " ('paper-s:9', 0, 'SUBMITTED', 'PAPER_SUBMITTED', '0', 7, NULL)",
    "INSERT INTO trades(id, event_id, order_id, symbol, side, fill_qty, fill_price, fees, ts, is_shadow)"
    " VALUES (1, 'fill-1', 'order-1', 'A', 'BUY', 0.30000000000000004, 100, 0.01, 1, 1)",
    "INSERT INTO trades(id, event_id, order_id, symbol, side, fill_qty, fill_price, fees, ts, is_shadow, mode,"
    " qty_exact, price_exact, fees_exact, cash_delta, replayed) VALUES"
    " (2, 'shadow-s:3/0', 'shadow-s:3', 'A', 'BUY', 1, 2.5, 0.0025, 7, 1, 'SHADOW', '1', '2.5', '0.0025',"
    "  '-2.5025', 0),"
    " (3, 'live-s:4/2', 'live-s:4', 'A', 'SELL', 0.3, 2.5, 0, 9, 0, 'LIVE', '0.3', '2.5', '0', '0.75', 0),"
    " (4, 'paper-s:3/0', 'paper-s:3', 'A', 'BUY', 1, 2.5, 0, 7, 1, 'PAPER', '1', '2.5', '0', '-2.5', 1)",
    "INSERT INTO positions VALUES ('LIVE', 'A', '-0.3', '0.75', '0', '2.5'),"
    " ('SHADOW', 'A', '1', '-2.5025', '0.0025', '2.5')",
    "ALTER TABLE orders ADD COLUMN note TEXT NOT NULL DEFAULT 'x'",
    "UPDATE orders SET note = 'mine' WHERE order_id = 'live-s:4'",
    "CREATE INDEX mine ON orders(note)",
    "CREATE VIEW notes AS SELECT order_id, note FROM orders WHERE note = 'mine'",
)  # fmt: skip

_READ_V3 = (
    "SELECT symbol, kind, value, ts, event_id, tick_id, side, reason, size, price, veto, veto_detail, replayed"
    " FROM signals ORDER BY id",
    "SELECT symbol, side, qty, price, status, ts, order_id, signal_id, mode, is_shadow, qty_exact, price_exact,"
    " filled_qty, seq, reason, updated_ts, replayed, note FROM orders ORDER BY ts, order_id",
    "SELECT * FROM order_events ORDER BY order_id, seq",
    "SELECT id, event_id, order_id, symbol, side, fill_qty, fill_price, fees, ts, is_shadow, mode, qty_exact,"
    " price_exact, fees_exact, cash_delta, replayed FROM trades ORDER BY id",
    "SELECT * FROM positions ORDER BY mode",
    "SELECT id, qty, price FROM orders WHERE order_id IS NULL ORDER BY id",
    "SELECT * FROM notes",
    "SELECT order_id FROM orders INDEXED BY mine WHERE note = 'mine'",
)


@pytest.mark.slow
@pytest.mark.claim("D2", "D10", "R5", "S10")
@pytest.mark.parametrize("version", [1, 2, 3])
def test_D2_D10_what_earlier_versions_recorded_of_orders_reads_as_before_and_goes_on(
    database: Path, version: int
) -> None:
    of_version(database, version, *_ROWS_V3)
    before = [query(database, sql) for sql in _READ_V3]
    store = opened(database)
    assert [query(database, sql) for sql in _READ_V3] == before
    assert [event.order_id for event in store.restore().open_orders] == ["live-s:4", "paper-s:9"]
    # An order goes on where it was, also one whose signal is gone, and what was known still is.
    filled = order_event(4, 3, OrderStatus.FILLED, Decimal("1"), Mode.LIVE, symbol="A", side=Side.SELL)
    money = (Decimal("0.7"), Decimal(3), Decimal(0), Decimal("2.1"))
    fill = Fill("live-s:4/3", "live-s:4", "A", Side.SELL, *money, 9, False, Mode.LIVE)
    gone = order_event(9, 1, OrderStatus.CANCELED, Decimal(0), Mode.PAPER)
    assert store.write(Batch(orders=[filled, gone], fills=[fill])) == Written(0, 0, 0, 2, 1)
    for _ in range(2):
        assert store.write(Batch(orders=[filled, gone], fills=[fill])) == Written(0, 0, 0, 0, 0)
    known = traded(3)
    assert store.write(known) == Written(0, 0, 0, 0, 0)
    # The earlier engine's orders have ids that no other gets.
    assert store.write(traded(10)) == Written(0, 0, 1, 1, 1)
    restored = store.restore()
    store.close()
    assert restored.open_orders == []
    assert restored.positions[Mode.LIVE]["A"] == Position(Decimal(-1), Decimal("2.85"), Decimal(0), Decimal(3))
    assert query(database, "SELECT seq, status FROM order_events WHERE order_id = 'live-s:4' ORDER BY seq") == [
        (0, "SUBMITTED"), (1, "ACKNOWLEDGED"), (2, "PARTIAL_FILL"), (3, "FILLED"),
    ]  # fmt: skip
    assert query(database, "SELECT seq, status FROM order_events WHERE order_id = 'paper-s:9' ORDER BY seq") == [
        (0, "SUBMITTED"), (1, "CANCELED"),
    ]  # fmt: skip
    assert query(database, "SELECT count(*), count(DISTINCT id) FROM orders") == [(7, 7)]
    assert query(database, "PRAGMA integrity_check") == ["ok"]


@pytest.mark.claim("D2")
def test_D2_a_generated_column_that_is_not_ours_is_refused_and_left_alone(database: Path) -> None:
    of_version(database, 3, "ALTER TABLE trades ADD COLUMN cost REAL AS (fill_qty * fill_price)")
    before = schema(database)
    with pytest.raises(ConfigError, match="column cost is generated"):
        opened(database)
    assert schema(database) == before


def schema(path: Path) -> dict[str, set[str]]:
    tables = query(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    found = {name: set(query(path, f"SELECT name FROM pragma_table_xinfo('{name}')")) for name in tables}
    found["indexes"] = set(query(path, "SELECT name FROM sqlite_master WHERE type = 'index'"))
    return found


BENT = {
    "a table is missing": ["DROP TABLE signals", "DROP TABLE trades"],
    "columns are missing": [
        "DROP INDEX idx_trades_ts", "ALTER TABLE trades DROP COLUMN is_shadow", "ALTER TABLE trades DROP COLUMN ts",
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim("D2")
@pytest.mark.parametrize("statements", BENT.values(), ids=BENT.keys())
def test_D2_old_databases_and_new_ones_end_with_the_same_schema(tmp_path: Path, statements: list[str]) -> None:
    for name, build in (("new", None), ("seed", []), ("bent", statements)):
        if build is not None:
            seed_database.build(tmp_path / name, ticks=100, statements=build)
        opened(tmp_path / name).close()
    assert schema(tmp_path / "new") == schema(tmp_path / "seed") == schema(tmp_path / "bent")


@pytest.mark.claim("D2")
def test_D2_extra_columns_and_tables_are_kept_and_writing_works(database: Path) -> None:
    seed_database.build(database, 20, ["ALTER TABLE ticks ADD COLUMN note TEXT DEFAULT 'x'", "CREATE TABLE own(a)"])
    store = opened(database)
    assert store.write(Batch(ticks=[tick(21)])).ticks == 1
    store.close()
    assert query(database, "SELECT DISTINCT note FROM ticks") == ["x"]
    assert query(database, "SELECT count(*) FROM own") == [0]


_NOT_UNIQUE = [
    "DROP TABLE trades", "CREATE TABLE trades(id INTEGER PRIMARY KEY, event_id TEXT)",
    "INSERT INTO trades(event_id) VALUES ('a'), ('a')",
]  # fmt: skip
"""Two fills of one id."""


@pytest.mark.claim("D2")
@pytest.mark.parametrize(
    ("statements", "column"),
    [
        (["DROP TABLE ticks", "CREATE TABLE ticks(id TEXT PRIMARY KEY, symbol TEXT)"], "id"),
        (["DROP TABLE orders", "CREATE TABLE orders(id INTEGER PRIMARY KEY, trader TEXT NOT NULL)"], "trader"),
        (["DROP TABLE orders", "CREATE TABLE orders(id INTEGER, symbol TEXT)"], "id"),
        (_NOT_UNIQUE, "event_id"),
        ([*_NOT_UNIQUE, "CREATE UNIQUE INDEX own ON trades(event_id) WHERE id > 1"], "event_id"),
        ([*_NOT_UNIQUE, "CREATE UNIQUE INDEX own ON trades(event_id, id)"], "event_id"),
        ([*_NOT_UNIQUE, "CREATE INDEX own ON trades(event_id)"], "event_id"),
    ],
)
def test_D2_a_schema_the_engine_cannot_write_is_refused_and_left_alone(
    database: Path, statements: list[str], column: str
) -> None:
    seed_database.build(database, 20, statements)
    before = schema(database)
    with pytest.raises(ConfigError, match=f"column {column}") as raised:
        opened(database)
    assert raised.value.details["column"] == column
    assert f"table {raised.value.details['table']}: " in str(raised.value)
    assert schema(database) == before
    assert query(database, "PRAGMA user_version") == [0]


@pytest.mark.claim("D2")
@pytest.mark.parametrize("unique", [[], ["CREATE UNIQUE INDEX own ON trades(event_id)"]], ids=["no index", "an index"])
def test_D2_fills_of_ids_of_their_own_need_no_index_to_be_kept(database: Path, unique: list[str]) -> None:
    fills = ["DELETE FROM trades", "INSERT INTO trades(event_id) VALUES ('a'), ('b'), (NULL), (NULL)"]
    seed_database.build(database, 20, [*_NOT_UNIQUE[:2], *fills, *unique])
    opened(database).close()
    assert query(database, "SELECT event_id FROM trades ORDER BY id") == ["a", "b", None, None]


@pytest.mark.claim("N9", "C7")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("UPDATE sources SET missing = '[[3,1]]'", "holds what the engine never writes, in sources.missing"),
        ("UPDATE sources SET missing = 'x'", "holds what the engine never writes, in sources.missing"),
        ("DROP TABLE sources", "cannot be read: no such table: sources"),
        ("DROP TABLE ticks", "cannot be read: no such table: ticks"),
        (text_file, "cannot be read: file is not a database"),
        (Path.is_file, "cannot be read: unable to open database file"),
    ],
    ids=range(6),
)
def test_N9_C7_what_was_missed_is_read_or_it_is_said_why_not(
    written: Path, tmp_path: Path, spoil: str | Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "bot.db"
    if isinstance(spoil, str):
        shutil.copyfile(written, path)
        assert [(gap.first, gap.last, gap.after_ts, gap.before_ts) for gap in gaps.read_gaps(path)] == [
            (2, 2, 1001, 1003), (4, 4, 1003, 1005), (6, 6, 1005, 1007),
        ]  # fmt: skip
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(spoil)
            connection.commit()
    else:
        spoil(path)
    with pytest.raises(ConfigError) as raised:
        gaps.read_gaps(path)
    assert str(raised.value).startswith(f"{path}: {says}")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}


@pytest.mark.claim("D2")
@pytest.mark.parametrize("version", [6, 99, -1])
def test_D2_a_version_unknown_to_this_engine_is_left_untouched(database: Path, version: int) -> None:
    seed_database.build(database, 200, [f"PRAGMA user_version = {version}"])
    before = contents(database.parent)
    with pytest.raises(ConfigError, match=f"schema version {version}"):
        opened(database)
    assert contents(database.parent) == before


@pytest.mark.claim("D2")
def test_D2_a_newer_version_that_is_only_in_the_wal_is_left_untouched(tmp_path: Path) -> None:
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    seed_database.build(tmp_path / "bot.db", 200)
    writer = sqlite3.connect(tmp_path / "bot.db")
    writer.execute("PRAGMA user_version = 7")
    for name in ("bot.db", "bot.db-wal"):
        shutil.copy(tmp_path / name, crashed / name)
    writer.close()
    before = contents(crashed)
    assert len(before["bot.db-wal"]) > 0
    assert before["bot.db"][60:64] == bytes(4)
    with pytest.raises(ConfigError, match="schema version 7"):
        opened(crashed / "bot.db")
    assert contents(crashed) == before


@pytest.mark.claim("D2")
def test_D2_a_migration_that_fails_changes_nothing(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed_database.build(database, 200)
    before = schema(database)
    monkeypatch.setattr(migrations, "_STATEMENTS_V1", (*migrations._STATEMENTS_V1, "CREATE NONSENSE"))
    with pytest.raises(ConfigError, match="NONSENSE"):
        opened(database)
    assert schema(database) == before
    assert query(database, "SELECT max(ts) FROM ticks") == [seed_database.FIRST_TS + 200]


@pytest.mark.claim("D2")
def test_D2_a_second_start_migrates_nothing(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened(database).close()
    caplog.set_level(logging.INFO, "engine.storage.ledger")
    caplog.clear()
    opened(database).close()
    assert "schema migrated" not in logged(caplog)


# --- writing -----------------------------------------------------------------------------------------------


@pytest.mark.claim("D3")
def test_D3_a_batch_is_written_whole(store: Ledger) -> None:
    batch = traded(3)
    batch.ticks = [tick(n, trade_id=n) for n in range(1, 101)]
    batch.numberings = {"binance": numbering("binance", 1, 100)}
    assert store.write(batch) == Written(ticks=100, ticks_known=0, signals=1, orders=1, fills=1)
    assert query(store.path, "SELECT count(*), min(ts), max(ts), sum(volume) FROM ticks") == [
        (100, 1_700_000_000_001, 1_700_000_000_100, 150.0)
    ]
    assert query(store.path, "SELECT symbol, kind, value, ts, event_id, tick_id, size, price FROM signals") == [
        ("SOL/USDC", "BUY:PERIODIC_TRIGGER", 0.75, 1_003, "s:3", 3, "0.1", "100.05")
    ]
    assert query(store.path, "SELECT order_id, side, qty, price, status, reason, is_shadow FROM orders") == [
        ("shadow-s:3", "BUY", 0.1, 100.05, "FILLED", "SHADOW_RECORDED", 1)
    ]
    assert query(store.path, "SELECT event_id, fill_qty, fill_price, fees, cash_delta FROM trades") == [
        ("shadow-s:3/0", 0.1, 100.05, 0.010005, "-10.015005")
    ]


@pytest.mark.slow
@pytest.mark.claim("D3")
@pytest.mark.parametrize("rows", [1, 7, 8, 31, 32, 33, 40, 41, 100])
def test_D3_every_size_of_batch_is_written_whole(store: Ledger, rows: int) -> None:
    batches = [traded(n) for n in range(1, rows + 1)]
    batch = Batch(
        ticks=[tick(n) for n in range(1, rows + 1)],
        signals=[one for b in batches for one in b.signals],
        orders=[one for b in batches for one in b.orders],
        fills=[one for b in batches for one in b.fills],
    )
    assert store.write(batch) == Written(rows, 0, rows, rows, rows)
    assert store.write(batch) == Written(0, rows, 0, 0, 0)


@pytest.mark.claim("D10")
def test_D10_a_commit_writes_few_pages(store: Ledger) -> None:
    """As the engine makes them: ids of a constant width, a numbering with each batch. A page is 1048 bytes of a WAL."""

    def commit(batch: int) -> None:
        ids = range(1_000_000 + 80 * batch, 1_000_000 + 80 * batch + 77)
        made = [traded(n) for n in ids[::10]]
        store.write(
            Batch(
                ticks=[tick(n, trade_id=n) for n in ids],
                signals=[one for b in made for one in b.signals],
                orders=[one for b in made for one in b.orders],
                fills=[one for b in made for one in b.fills],
                numberings={"binance": numbering("binance", ids[0], ids[-1])},
            )
        )

    for batch in range(30):
        commit(batch)
    wal = store.path.with_name("bot.db-wal")
    before = wal.stat().st_size
    for batch in range(30, 60):
        commit(batch)
    assert (wal.stat().st_size - before) / 1048 / 30 <= 25


@pytest.mark.claim("S7")
def test_S7_a_veto_is_stored_with_its_reason(store: Ledger) -> None:
    [wish] = traded(1).signals
    vetoed = msgspec.structs.replace(wish, veto=Reason.STALE_DATA, veto_detail="tick is 9000 ms old")
    store.write(Batch(signals=[vetoed]))
    assert query(store.path, "SELECT veto, veto_detail FROM signals") == [("STALE_DATA", "tick is 9000 ms old")]


@pytest.mark.claim("I3", "N9")
@pytest.mark.parametrize(
    ("first", "again"),
    [
        (tick(1), tick(1)),
        (tick(1, trade_id=7), tick(2, trade_id=7)),
        (tick(1, event_id="e"), tick(2, event_id="e", ts=1_700_000_000_001)),
    ],
    ids=["row id", "trade id", "event id"],
)
def test_I3_N9_a_tick_stored_before_is_known(store: Ledger, first: Tick, again: Tick) -> None:
    store.write(Batch(ticks=[first]))
    assert store.write(Batch(ticks=[again, tick(9)])) == Written(1, 1, 0, 0, 0)


@pytest.mark.claim("N9")
def test_N9_sources_have_trade_ids_of_their_own(store: Ledger) -> None:
    assert store.write(Batch(ticks=[tick(1, trade_id=7), tick(2, trade_id=7, source="gemini")])).ticks == 2


@pytest.mark.claim("L3")
def test_L3_a_value_sqlite_would_turn_into_null_is_not_taken_for_a_known_tick(store: Ledger) -> None:
    with pytest.raises(Crash, match="NOT NULL"):
        store.write(Batch(ticks=[tick(1), tick(2, price=float("nan"))]))
    assert query(store.path, "SELECT count(*) FROM ticks") == [0]


@pytest.mark.claim("S10")
def test_S10_every_transition_is_stored_and_the_order_shows_the_last(store: Ledger) -> None:
    steps = [
        order_event(1, 0, OrderStatus.SUBMITTED, Decimal(0), Mode.PAPER, reason=Reason.PAPER_SUBMITTED),
        order_event(1, 1, OrderStatus.ACKNOWLEDGED, Decimal(0), Mode.PAPER, reason=Reason.PAPER_ACKNOWLEDGED),
        order_event(1, 2, OrderStatus.PARTIAL_FILL, Decimal("0.25"), Mode.PAPER, reason=Reason.PAPER_FILL),
        order_event(1, 3, OrderStatus.CANCELED, Decimal("0.25"), Mode.PAPER, detail="requested"),
    ]
    assert store.write(Batch(orders=steps[:2])).orders == 2
    assert store.restore().open_orders == [steps[1]]
    assert store.write(Batch(orders=steps[1:])).orders == 2
    assert query(store.path, "SELECT seq, status, filled_qty, detail FROM order_events ORDER BY seq") == [
        (0, "SUBMITTED", "0", None), (1, "ACKNOWLEDGED", "0", None), (2, "PARTIAL_FILL", "0.25", None),
        (3, "CANCELED", "0.25", "requested"),
    ]  # fmt: skip
    final = [("CANCELED", 3, "0.25", 1_000, 1_003, "PAPER")]
    columns = "SELECT status, seq, filled_qty, ts, updated_ts, mode FROM orders"
    assert query(store.path, columns) == final
    assert store.write(Batch(orders=steps[:1])).orders == 0
    assert query(store.path, columns) == final
    assert store.restore().open_orders == []


@pytest.mark.claim("S10")
def test_S10_an_order_that_somebody_deleted_is_stored_again(store: Ledger) -> None:
    steps = [
        order_event(1, 0, OrderStatus.SUBMITTED, Decimal(0), Mode.PAPER, reason=Reason.PAPER_SUBMITTED),
        order_event(1, 1, OrderStatus.ACKNOWLEDGED, Decimal(0), Mode.PAPER, reason=Reason.PAPER_ACKNOWLEDGED),
        order_event(1, 2, OrderStatus.CANCELED, Decimal(0), Mode.PAPER, detail="requested"),
    ]
    for pieces in ([steps], [steps[:1], steps[1:2], steps[2:]]):
        for piece in pieces:
            store.write(Batch(orders=piece))
        assert query(store.path, "SELECT seq, status FROM order_events ORDER BY seq") == [
            (0, "SUBMITTED"), (1, "ACKNOWLEDGED"), (2, "CANCELED"),
        ]  # fmt: skip
        with contextlib.closing(sqlite3.connect(store.path)) as other, other:
            other.execute("DELETE FROM orders")


FILLS = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.sampled_from(Side),
        st.decimals("0.000000000001", "99999", places=12),
        st.decimals("0.000000000001", "999999", places=12),
        st.sampled_from(list(Mode)),
    ),
    max_size=12,
)


@pytest.mark.slow
@pytest.mark.claim("I3", "I4")
@given(fills=FILLS, cuts=st.lists(st.integers(0, 12), max_size=3))
def test_I3_I4_positions_are_the_exact_sums_of_distinct_fills(
    tmp_path_factory: pytest.TempPathFactory, fills: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    made = [
        Fill(
            f"{mode.lower()}-s:{n}/0", f"{mode.lower()}-s:{n}", f"S{n % 2}", side, qty, price, Decimal("0.01"),
            EXACT.subtract(EXACT.multiply(-qty if side is Side.BUY else qty, price), Decimal("0.01")), 1,
            mode is not Mode.LIVE, mode,
        )
        for n, side, qty, price, mode in fills
    ]  # fmt: skip
    events = [
        order_event(n, 0, OrderStatus.FILLED, qty, mode, symbol=f"S{n % 2}", side=side, qty=qty, price=price)
        for n, side, qty, price, mode in fills
    ]
    distinct: dict[str, Fill] = {}
    for fill in made:
        distinct.setdefault(fill.event_id, fill)
    expected: dict[Mode, dict[str, Position]] = {}
    for fill in distinct.values():
        held = expected.setdefault(fill.mode, {})
        before = held.get(fill.symbol, Position(Decimal(0), Decimal(0), Decimal(0), Decimal(0)))
        signed = fill.qty if fill.side is Side.BUY else -fill.qty
        held[fill.symbol] = Position(
            EXACT.add(before.qty, signed), EXACT.add(before.cash, fill.cash_delta), before.fees + fill.fees, fill.price
        )
    store = opened(tmp_path_factory.mktemp("fills") / "bot.db")
    try:
        edges = sorted({0, *cuts, len(made)})
        for start, end in itertools.pairwise(edges):
            store.write(Batch(orders=events[start:end], fills=made[start:end]))
        store.write(Batch(orders=events, fills=made))
        assert store.restore().positions == expected
    finally:
        store.close()


def test_a_fill_without_the_transition_that_reports_it_is_refused(store: Ledger) -> None:
    batch = traded(1)
    batch.orders = []
    with pytest.raises(ValueError, match="shadow-s:1/0 came without"):
        store.write(batch)
    assert query(store.path, "SELECT count(*) FROM signals") == [0]


@pytest.mark.claim("I3")
def test_I3_a_signal_makes_one_order_in_each_mode_whatever_comes_with_it(store: Ledger) -> None:
    """Orders have ids made of their signals': whether those are new, known, or gone, no order is taken for another."""
    paper = order_event(1, 0, OrderStatus.SUBMITTED, Decimal(0), Mode.PAPER)
    assert store.write(traded(1)) == Written(0, 0, 1, 1, 1)
    assert store.write(Batch(orders=[paper])) == Written(0, 0, 0, 1, 0)
    assert store.write(traded(2)) == Written(0, 0, 1, 1, 1)
    both = Batch(signals=traded(3).signals + traded(2).signals, orders=traded(3).orders + traded(2).orders + [paper])
    assert store.write(both) == Written(0, 0, 1, 1, 0)
    with contextlib.closing(sqlite3.connect(store.path)) as other, other:
        other.execute("DELETE FROM signals")
    ended = order_event(1, 1, OrderStatus.CANCELED, Decimal(0), Mode.PAPER)
    assert store.write(Batch(orders=[paper, ended])) == Written(0, 0, 0, 1, 0)
    assert store.write(Batch(orders=[paper, ended])) == Written(0, 0, 0, 0, 0)
    assert store.write(traded(4)) == Written(0, 0, 1, 1, 1)
    assert query(store.path, "SELECT order_id, mode, signal_id, status FROM orders ORDER BY order_id") == [
        ("paper-s:1", "PAPER", "s:1", "CANCELED"), ("shadow-s:1", "SHADOW", "s:1", "FILLED"),
        ("shadow-s:2", "SHADOW", "s:2", "FILLED"), ("shadow-s:3", "SHADOW", "s:3", "FILLED"),
        ("shadow-s:4", "SHADOW", "s:4", "FILLED"),
    ]  # fmt: skip


@pytest.mark.claim("I3")
def test_I3_a_replay_touches_neither_the_live_book_nor_what_a_live_run_recorded(database: Path) -> None:
    def run(batch: Batch, replay: bool = False) -> Written:
        store = opening.open_ledger(database, busy_timeout_ms=BUSY_MS, replay=replay)
        try:
            return store.write(batch)
        finally:
            store.close()

    def book() -> tuple[dict[Mode, dict[str, Position]], list[OrderEvent], list[str]]:
        store = opened(database)
        restored = store.restore()
        store.close()
        return restored.positions, restored.open_orders, restored.recent_signal_ids

    resting = order_event(1, 0, OrderStatus.SUBMITTED, Decimal(0), Mode.PAPER, reason=Reason.PAPER_SUBMITTED)
    run(Batch(orders=[resting]))
    run(traded(2))
    live = book()
    # The replay fills the order that rests, repeats a fill at another price, and makes one of its own.
    filled = order_event(1, 1, OrderStatus.FILLED, Decimal(1), Mode.PAPER, reason=Reason.PAPER_FILL)
    fill = Fill(
        "paper-s:1/1", "paper-s:1", "SOL/USDC", Side.BUY, Decimal(1), Decimal(5), Decimal(0), Decimal(-5), 1, True
    )
    assert run(Batch(orders=[resting, filled], fills=[fill]), replay=True) == Written(0, 0, 0, 0, 0)
    assert run(traded(2, price="7"), replay=True) == Written(0, 0, 0, 0, 0)
    assert run(traded(3, side=Side.SELL), replay=True) == Written(0, 0, 1, 1, 1)
    assert run(traded(3, side=Side.SELL), replay=True) == Written(0, 0, 0, 0, 0)
    left_open = order_event(4, 0, OrderStatus.SUBMITTED, Decimal(0), Mode.PAPER, reason=Reason.PAPER_SUBMITTED)
    run(Batch(orders=[left_open]), replay=True)
    assert book() == live
    columns = "SELECT event_id, fill_price, replayed FROM trades ORDER BY id"
    assert query(database, columns) == [("shadow-s:2/0", 100.05, 0), ("shadow-s:3/0", 100.05, 1)]
    # A live run that comes to the same tick takes it over, on its own terms.
    assert run(traded(3, price="50")) == Written(0, 0, 1, 1, 1)
    assert query(database, columns) == [("shadow-s:2/0", 100.05, 0), ("shadow-s:3/0", 50.0, 0)]
    assert query(database, "SELECT event_id, side, price, replayed FROM signals ORDER BY id") == [
        ("s:2", "BUY", "100.05", 0), ("s:3", "BUY", "50", 0),
    ]  # fmt: skip
    assert query(database, "SELECT side, price, replayed FROM orders WHERE order_id = 'shadow-s:3'") == [
        ("BUY", 50.0, 0)
    ]
    assert book()[0][Mode.SHADOW]["SOL/USDC"].qty == Decimal("0.2")


@pytest.mark.claim("S3", "N11")
def test_S3_N11_restore_gives_back_what_a_restart_needs(store: Ledger) -> None:
    assert store.restore().next_tick_id == 1
    store.write(
        Batch(
            ticks=[tick(1, trade_id=70), tick(2, event_id="e1", source="mock"), tick(3, event_id="e2", source="mock")],
            numberings={"binance": numbering("binance", 70, 71, missing=[(5, 9)])},
            streams={"binance": ("binance", "BTCUSDT")},
        )
    )  # fmt: skip
    again = numbering("binance", 1, 2, number=2, missing=[])
    store.write(
        Batch(
            numberings={"binance": numbering("binance", 69, 75, oldest_ts=1_700_000_000_000), again.label: again},
            barred={"binance": ("binance.com", 1000), "other": ("binance.com", 2500), "gemini": ("gemini.com", 2000)},
        )
    )
    store.write(Batch(barred={"binance": ("binance.com", 3000)}))
    restored = store.restore()
    assert restored.next_tick_id == 4
    # Holes are as they were last told, and times those of the ticks.
    first, second = restored.numberings
    oldest, only = 1_700_000_000_000, 1_700_000_000_001
    segments = [(69, oldest, only), (70, only, only)]
    assert first == numbering("binance", 69, 75, missing=[(5, 9)], segments=segments, oldest_ts=oldest)
    assert (second, second.label) == (again, "binance (numbering 2)")
    assert restored.streams == {
        "binance": ("binance", "BTCUSDT"),
        "mock": None,
        "binance.com": None,
        "gemini.com": None,
    }
    assert restored.symbols == {"binance": "SOL/USDC"}
    assert restored.barred == {"binance.com": 3000, "gemini.com": 2000}
    assert restored.recent_event_ids == {"mock": [("e1", 1_700_000_000_002), ("e2", 1_700_000_000_003)]}
    for n in (7, 8):
        store.write(traded(n))
    assert store.restore().recent_signal_ids == ["s:7", "s:8"]


@pytest.mark.claim("S3", "S10")
@pytest.mark.parametrize(("mode", "is_shadow"), [(Mode.PAPER, True), (Mode.LIVE, False)])
def test_S3_S10_an_open_order_is_restored_as_it_was_last_told(store: Ledger, mode: Mode, is_shadow: bool) -> None:
    event = order_event(
        5, 2, OrderStatus.PARTIAL_FILL, Decimal("0.3"), mode, is_shadow=is_shadow, side=Side.SELL,
        reason=Reason.ADAPTER, ts=77, symbol="A/B",
    )  # fmt: skip
    store.write(Batch(signals=traded(5).signals, orders=[event]))
    assert store.restore().open_orders == [event]


@pytest.mark.claim("N11")
def test_N11_ticks_that_are_ahead_of_what_is_said_of_their_ids_count_as_seen(store: Ledger) -> None:
    """A kill between the ticks and what is said of their ids: the holes between them are still holes."""
    store.write(Batch(ticks=[tick(n, trade_id=n) for n in (1, 2)], numberings={"binance": numbering("binance", 1, 2)}))
    store.write(Batch(ticks=[tick(n, trade_id=n) for n in (3, 6, 7, 9)]))
    store.write(Batch(ticks=[tick(20, trade_id=50, source="new"), tick(21, trade_id=52, source="new")]))
    first, second = store.restore().numberings
    assert (first.first, first.last, first.missing) == (1, 9, [(4, 5), (8, 8)])
    assert (first.newest_ts, first.segments[-1]) == (1_700_000_000_009, (9, 1_700_000_000_009, 1_700_000_000_009))
    assert (second.stream, second.first, second.last, second.missing) == ("new", 50, 52, [(51, 51)])


@pytest.mark.claim("N11")
def test_N11_times_are_restored_of_the_newest_ticks_and_of_some_of_the_older_ones(store: Ledger) -> None:
    ticks = [tick(n, trade_id=2 * n) for n in range(10, 2000)]
    told = numbering("binance", 17, 2 * 1999, oldest_ts=1_700_000_000_005)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoring, "RECENT_TIMES", 100)
        store.write(Batch(ticks=ticks, numberings={"binance": told}))
        [found] = store.restore().numberings
    known = [segment for segment in found.segments if segment[1] == segment[2]]
    between = [segment for segment in found.segments if segment[1] != segment[2]]
    # Of a tick on disk the time is exact, of an id before it as that of its neighbours.
    assert [upto for upto, _, _ in known[-100:]] == list(range(2 * 1900, 4000, 2))
    assert 4 <= len(known) - 100 <= 8
    assert all(until == 1_700_000_000_000 + upto // 2 for upto, _, until in known)
    assert [upto for upto, _, _ in between] == [upto - 1 for upto, _, _ in known]
    assert [(since, until) for _, since, until in between] == list(
        itertools.pairwise([1_700_000_000_005, *(until for _, _, until in known)])
    )
    assert found.segments == sorted(found.segments)


@pytest.mark.claim("N11")
def test_N11_the_numberings_share_the_times_that_are_restored(store: Ledger) -> None:
    sources = [f"feed {n}" for n in range(40)]
    for n, source in enumerate(sources):
        first = 20 * n
        store.write(Batch(ticks=[tick(first + i, trade_id=i, source=source) for i in range(20)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoring, "RECENT_TIMES", 400)
        found = store.restore().numberings
    exact = {one.stream: [upto for upto, since, until in one.segments if since == until][-10:] for one in found}
    assert exact == {source: list(range(10, 20)) for source in sources}


@pytest.mark.claim("D2", "N5", "N11")
def test_D2_N5_N11_version_3_knew_textual_ids_without_times_and_bars_by_source(database: Path) -> None:
    of_version(
        database,
        3,
        "INSERT INTO sources(id, name, source, market, stream, number, first_trade_id, last_trade_id, last_ts, missing,"
        " barred_until) VALUES (1, 'binance', 'binance', '', 'binance', 0, 38, 45, 1700000000045, NULL, 7000),"
        " (2, 'mock', 'mock', '', 'mock', 0, NULL, NULL, NULL, NULL, NULL)",
        "INSERT INTO ticks(id, symbol, price, volume, ts, source, trade_id) SELECT column1, 'A', 1, 1,"
        " 1700000000000 + column1, 1, column1 FROM (VALUES (40), (41), (45))",
        "INSERT INTO ticks(id, symbol, price, volume, ts, source, event_id)"
        " VALUES (50, 'A', 1, 1, 1700000000050, 2, 'x')",
    )
    texts = [tick(50, event_id="x", source="mock")]
    store = opened(database)
    restored = store.restore()
    # What was seen before the first tick on disk has no known time: it came with that, as far as anybody can tell.
    assert restored.numberings[0].segments[0] == (39, 1_700_000_000_040, 1_700_000_000_040)
    assert restored.barred == {"binance": 7000}
    assert store.write(Batch(ticks=texts)).ticks_known == 1
    assert store.write(Batch(ticks=[tick(51, event_id="x", source="mock")])).ticks == 1
    store.close()


@pytest.mark.claim("D2", "N11")
def test_D2_N11_a_watermark_of_version_2_becomes_the_first_numbering(database: Path) -> None:
    of_version(
        database,
        2,
        "INSERT INTO sources(name, last_trade_id) VALUES ('binance', 45), ('pruned', 7)",
        "INSERT INTO ticks(id, symbol, price, volume, ts, source, trade_id) SELECT column1, 'A', 1, 1,"
        " 1700000000000 + column1, 1, column1 FROM (VALUES (40), (41), (45))",
    )
    store = opened(database)
    first, pruned = store.restore().numberings
    store.close()
    assert (first.stream, first.number, first.first, first.last, first.newest_ts) == (
        "binance", 1, 40, 45, 1_700_000_000_045,
    )  # fmt: skip
    assert (pruned.first, pruned.last, pruned.newest_ts) == (7, 7, 0)


@pytest.mark.claim("N2")
def test_N2_read_ticks_gives_all_ticks_in_time_order(store: Ledger) -> None:
    stored = [tick(n, trade_id=n, ts=1_000_000 - n // 2) for n in range(1, 51)]
    stored[7] = tick(8, event_id="e8", source="gemini", ts=5)
    store.write(Batch(ticks=stored))

    async def read() -> list[list[Tick]]:
        return [chunk async for chunk in store.read_ticks(chunk=20)]

    chunks = engine_loop.run(read())
    assert [len(chunk) for chunk in chunks] == [20, 20, 10]
    assert [one for chunk in chunks for one in chunk] == sorted(stored, key=lambda one: (one.ts, one.id))


@pytest.mark.claim("N2")
def test_N2_read_ticks_does_not_see_what_is_written_meanwhile(store: Ledger) -> None:
    store.write(Batch(ticks=[tick(n) for n in range(1, 11)]))

    async def read() -> int:
        seen = 0
        async for chunk in store.read_ticks(chunk=2):
            seen += len(chunk)
            store.write(Batch(ticks=[tick(100 + seen)]))
        return seen

    assert engine_loop.run(read()) == 10


@pytest.mark.claim("D5")
def test_D5_readers_and_the_writer_do_not_disturb_each_other(store: Ledger) -> None:
    reader = sqlite3.connect(f"file:{store.path}?mode=ro", uri=True, isolation_level=None, timeout=0)
    counts = []
    for n in range(1, 200):
        reader.execute("BEGIN")
        counts.append(reader.execute("SELECT count(*) FROM ticks").fetchone()[0])
        store.write(Batch(ticks=[tick(n)]))
        assert reader.execute("SELECT count(*) FROM ticks").fetchone()[0] == counts[-1]
        reader.execute("COMMIT")
    reader.close()
    assert counts == list(range(199))


# --- trouble -----------------------------------------------------------------------------------------------

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def lock_holder(store: Ledger) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the database exclusively until its stdin closes."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.claim("D4", "S12")
def test_D4_S12_a_lock_is_waited_for_and_the_same_batch_then_written(
    store: Ledger, lock_holder: subprocess.Popen[str]
) -> None:
    batch = traded(1)
    batch.ticks = [tick(1)]
    store._connection.execute("PRAGMA busy_timeout = 100")  # rather than the second that D1 asks for
    began = time.monotonic()
    with pytest.raises(Busy, match="locked"):
        store.write(batch)
    assert time.monotonic() - began >= 0.1
    lock_holder.communicate(timeout=10)
    assert store.write(batch) == Written(1, 0, 1, 1, 1)


@pytest.mark.claim("D4")
def test_D4_a_lock_at_start_is_a_crash_not_a_configuration_error(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_MS_MIN", 0)
    seed_database.build(database, 20)
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Crash, match="locked"):
        opened(database, busy_timeout_ms=50)
    connection.close()


@pytest.mark.claim("D4")
def test_D4_a_full_database_keeps_the_batch_for_later(store: Ledger) -> None:
    limit = store._connection
    pages = limit.execute("PRAGMA page_count").fetchone()[0]
    limit.execute(f"PRAGMA max_page_count = {pages + 2}")
    batch = traded(1)
    batch.ticks = [tick(n, trade_id=n) for n in range(1, 1_001)]
    batch.numberings = {"binance": numbering("binance", 1, 1_000)}
    with pytest.raises(DiskTrouble) as raised:
        store.write(batch)
    assert raised.value.reason == "SQLITE_FULL"
    for table in ("ticks", "signals", "sources", "positions"):
        assert query(store.path, f"SELECT count(*) FROM {table}") == [0]
    limit.execute("PRAGMA max_page_count = 1000000")
    assert store.write(batch) == Written(1_000, 0, 1, 1, 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB, for root where mounting is allowed."""
    with mounted(tmp_path / "disk", "512k") as path:
        yield path


def fill_up(disk: Path) -> None:
    """Write to the file `ballast` until nothing more fits."""
    with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))


@pytest.mark.claim("D4")
def test_D4_a_full_disk_keeps_the_batch_for_later(small_disk: Path) -> None:
    store = opened(small_disk / "bot.db")
    try:
        fill_up(small_disk)
        batch = Batch(ticks=[tick(n, trade_id=n) for n in range(1, 501)])
        with pytest.raises(DiskTrouble):
            store.write(batch)
        (small_disk / "ballast").unlink()
        assert store.write(batch).ticks == 500
        assert query(store.path, "PRAGMA integrity_check") == ["ok"]
    finally:
        store.close()


@pytest.mark.claim("D4")
def test_D4_a_full_disk_at_start_is_a_crash_not_a_configuration_error(small_disk: Path) -> None:
    fill_up(small_disk)
    with pytest.raises(Crash):
        opened(small_disk / "bot.db")


ROWS = 37
WRITER = f"""
import sys
from engine.base.events import Numbering, Tick
from engine.storage.batch import Batch
from engine.storage.opening import open_ledger
store = open_ledger(sys.argv[1], busy_timeout_ms=1000)
number = store.restore().next_tick_id
while True:
    name = f"batch-{{number}}"
    store.write(Batch(
        ticks=[Tick("feed", name, 1.0, 1.0, 1, number + n, None, number + n) for n in range({ROWS})],
        numberings={{"feed": Numbering("feed", 1, 1, number + {ROWS} - 1, 1)}},
    ))
    print(name, flush=True)
    number += {ROWS}
"""


@pytest.mark.slow
@pytest.mark.claim("D3")
def test_D3_no_half_batch_after_sigkill_at_any_moment(database: Path) -> None:
    moments = random.Random(20_231_114)
    reported: set[str] = set()
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(database)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(moments.randrange(1, 400)):
                reported.add(writer.stdout.readline().strip())
            writer.send_signal(signals_of_posix.SIGKILL)
            reported |= {line.strip() for line in writer.stdout if line.endswith("\n")}
        assert writer.returncode == -signals_of_posix.SIGKILL
    store = opened(database)
    restored = store.restore()
    store.close()
    assert query(database, "PRAGMA integrity_check") == ["ok"]
    batches = dict(query(database, "SELECT symbol, count(*) FROM ticks GROUP BY symbol"))
    assert set(batches.values()) == {ROWS}
    assert len(reported) > 5
    assert reported <= batches.keys()
    assert restored.next_tick_id == len(batches) * ROWS + 1
    assert [(one.label, one.last) for one in restored.numberings] == [("feed", len(batches) * ROWS)]


# --- what the engine never writes (C7) ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with something in each column that a start reads."""
    path = tmp_path_factory.mktemp("written") / "bot.db"
    store = opened(path)
    ticks = [
        Tick("mock", "A/B", 1.0, 1.0, 1000 + n, n if n % 2 else None, None if n % 2 else f"t{n}", n)
        for n in range(1, 9)
    ]
    seen = Numbering("mock", 1, 1, 7, 1007, [(2, 2), (4, 4), (6, 6)], oldest_ts=1001)
    store.write(
        Batch(ticks=ticks, numberings={"mock": seen}, streams={"mock": ("mock", "A/B")}, barred={"mock": ("host", 5)})
    )
    store.write(traded(1))
    store.write(Batch(orders=[order_event(3, 0, OrderStatus.SUBMITTED, Decimal(0), Mode.PAPER)]))
    store.close()
    return path


STARTS_READ = {
    "sources": (
        "name", "source", "market", "stream", "number", "first_trade_id", "last_trade_id", "first_ts", "last_ts",
        "missing", "barred_host", "barred_until",
    ),
    "ticks": ("symbol", "ts", "trade_id", "event_id", "source"),
    "signals": ("event_id", "replayed"),
    "orders": ("order_id", "seq", "symbol", "side", "status", "reason", "qty_exact", "price_exact", "filled_qty",
               "updated_ts", "is_shadow", "replayed"),
    "positions": ("mode", "symbol", "qty", "cash", "fees", "price"),
}  # fmt: skip
COLUMNS = [(table, column) for table, columns in STARTS_READ.items() for column in columns]
ODD = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.binary(max_size=4),
    st.text(max_size=6),
    st.sampled_from(
        ["NaN", "-Infinity", "1e999999999", "[[3,1]]", "[[1,2,3]]", '[["a",1]]', "[" * 9000, "7", "LIVE", "BUY"]
    ),
)


@pytest.mark.slow
@pytest.mark.claim("C7", "D2")
@given(which=st.sampled_from(COLUMNS), value=ODD, as_text=st.booleans())
def test_C7_D2_whatever_stands_in_a_column_a_start_reads_it_or_says_what_is_wrong(
    written: Path, which: tuple[str, str], value: object, as_text: bool
) -> None:
    """And what it has read stops no feed and no writer."""
    table, column = which
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bot.db"
        shutil.copyfile(written, path)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            # Bytes that are taken for text: not all of them are.
            put = f"UPDATE OR IGNORE {table} SET {column} = {'CAST(? AS TEXT)' if as_text else '?'}"
            try:
                connection.execute(put, (value,))
            except sqlite3.IntegrityError:
                return
            connection.commit()
        store = opened(path)
        try:
            restored = store.restore()
        except ConfigError as error:
            if f"{path}: holds what the engine never writes, in {table}" not in str(error):
                raise
        else:
            books = Intake(1, restored.next_tick_id, restored.numberings, restored.recent_event_ids)
            fresh = books.admit(
                [Tick("mock", "A/B", 1.0, 1.0, ts, number) for ts in (0, 1003, 9999) for number in (0, 3, 5, 8, 10**7)]
                + [Tick("mock", "A/B", 1.0, 1.0, 1, None, "t2")]
            )
            numberings = {one.label: one for one in books.take_moved()}
            store.write(Batch(ticks=fresh, numberings=numberings))
            store.write(traded(5))
        finally:
            store.close()


@pytest.mark.slow
@pytest.mark.claim("C7", "D2")
@pytest.mark.parametrize(
    ("table", "column", "last", "beyond"),
    [
        *((table, "id", 2**60, 2**60 + 1) for table in ("ticks", "signals", "orders")),
        ("sources", "number", 2**31, 2**31 + 1),
        ("sources", "number", 0, -1),
        ("sources", "first_trade_id", 0, -1),
        ("sources", "last_trade_id", 2**63 - 1, -1),
        *((table, column, sign * 2**60, sign * (2**60 + 1)) for sign in (1, -1) for table, column in (
            ("sources", "first_ts"), ("sources", "last_ts"), ("sources", "barred_until"), ("ticks", "ts"),
            ("orders", "updated_ts"),
        )),
        *(("positions", column, good, bad) for column in ("qty", "cash", "fees", "price") for good, bad in (
            ("9" * 35, "1" + "0" * 35), ("-1." + "0" * 23 + "1", "0." + "0" * 24 + "1"), ("1e34", "1e35"),
        )),
        ("orders", "qty_exact", "1E-24", "1E-25"),
        ("sources", "missing", "[[0,0],[0,9223372036854775807]]", "[[0,9223372036854775808]]"),
        ("sources", "missing", "[[5,5]]", "[[5,4]]"),
        ("sources", "missing", "[]", "[[5,6],[5,7]]"),
    ],
)  # fmt: skip
def test_C7_D2_a_start_takes_what_can_be_gone_on_from_and_no_more(
    written: Path, tmp_path: Path, table: str, column: str, last: object, beyond: object
) -> None:
    for value in (last, beyond):
        path = tmp_path / f"{value is beyond}.db"
        shutil.copyfile(written, path)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            newest = f" WHERE id = (SELECT max(id) FROM {table})" if column == "id" else ""
            connection.execute(f"UPDATE {table} SET {column} = ?{newest}", (value,))
            connection.commit()
        store = opened(path)
        try:
            if value is last:
                store.restore()
            else:
                with pytest.raises(ConfigError, match=f"holds what the engine never writes, in {table}") as raised:
                    store.restore()
                assert len(str(raised.value)) < 500
        finally:
            store.close()


@pytest.mark.claim("C7")
def test_C7_rows_that_a_trigger_forbids_are_for_a_human(store: Ledger) -> None:
    store._connection.execute("CREATE TRIGGER t BEFORE INSERT ON ticks BEGIN SELECT RAISE(ABORT, 'not today'); END")
    with pytest.raises(ConfigError, match="cannot be written: not today"):
        store.write(Batch(ticks=[Tick("feed", "A/B", 1.0, 1.0, 1, 1, None, 1)]))


@pytest.mark.claim("N12", "L3")
def test_N12_L3_names_that_hold_a_nul_are_told_apart(store: Ledger) -> None:
    names = [f"mock A\0{n}" for n in range(40)] + ["mock A", "\0", ""]
    for first in (1, 100):
        ticks = [Tick(name, "A/B", 1.0, 1.0, 1, first, None, first + n) for n, name in enumerate(names)]
        assert store.write(Batch(ticks=ticks)).ticks == len(names)
    found = store._connection.execute("SELECT name FROM sources").fetchall()
    assert sorted(name for (name,) in found) == sorted(names)


@pytest.mark.slow
@pytest.mark.claim("C7", "N2")
@pytest.mark.parametrize(
    "put",
    ["ts = 'yesterday'", "price = 'x'", "price = 9e999", "volume = x'00'", "symbol = CAST(x'ff' AS TEXT)"],
)
def test_C7_N2_a_row_that_is_no_tick_is_not_replayed(store: Ledger, put: str) -> None:
    store.write(Batch(ticks=[Tick("feed", "A/B", 1.0, 1.0, n, n, None, n) for n in range(1, 4)]))
    store._connection.execute(f"UPDATE ticks SET {put} WHERE id = 2")

    async def replay() -> list[int]:
        return [tick.id async for chunk in store.read_ticks() for tick in chunk]

    with pytest.raises(ConfigError, match="holds what the engine never writes"):
        engine_loop.run(replay())


@pytest.mark.slow
@pytest.mark.claim("D1", "C7")
@pytest.mark.parametrize("name", ["file:x.db", "file:x.db?mode=memory", "a?b#c%20d.db", "\udcff\udcfe.db", "a\nb.db"])
def test_D1_C7_a_name_that_looks_like_a_uri_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = opened(Path(name))
    store.write(Batch(ticks=[Tick("feed", "A/B", 1.0, 1.0, 1, 1, None, 1)]))
    store.close()
    assert {path.name.removesuffix(".lock") for path in tmp_path.iterdir()} == {name}
    with contextlib.closing(sqlite3.connect(tmp_path / name)) as connection:
        assert connection.execute("SELECT count(*) FROM ticks").fetchone() == (1,)


@pytest.mark.claim("D9")
def test_D9_a_wal_that_grew_once_is_told_of_when_it_grows_again(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mib = 1024 * 1024
    store = opened(database)
    with caplog.at_level(logging.INFO, logger="engine.storage.ledger"):
        caplog.clear()
        for size in (63, 64, 65, 127, 128, 64, 1, 2, 64, 63):
            store._watch_wal(size * mib)
        told = [(record.levelname, record.__dict__["fields"]["wal_bytes"] // mib) for record in caplog.records]
    store.close()
    assert told == [
        ("WARNING", 64), ("WARNING", 128), ("INFO", 1), ("WARNING", 64), ("INFO", 63),
    ]  # fmt: skip


@pytest.mark.claim("D1", "D9")
def test_D1_D9_to_cut_the_wal_nobody_is_waited_for_and_afterwards_locks_are_again(database: Path) -> None:
    store = opening.open_ledger(database, busy_timeout_ms=5_000)
    store.write(traded(1))
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM signals").fetchone()
        store.write(traded(2))
        began = time.monotonic()
        assert not store._copy(store._connection, "TRUNCATE")
        assert time.monotonic() - began < 2.5
    assert store._connection.execute("PRAGMA busy_timeout").fetchone() == (5_000,)
    store.close()


@pytest.mark.claim("N9")
def test_N9_the_times_around_a_gap_are_those_of_its_market(store: Ledger) -> None:
    """However near the ids of another one are."""
    rows = [
        Tick(name, "S", 1.0, 1.0, ts, number, id=at)
        for at, (name, number, ts) in enumerate(
            [("a", 1, 1000), ("b", 3, 5000), ("b", 7, 6000), ("a", 10, 2000), ("b", 11, 7000)], start=1
        )
    ]
    missing = {"a": Numbering("a", 1, 1, 10, 2000, [(4, 6)], [])}
    store.write(Batch(ticks=rows, numberings=missing, streams={"a": ("one", "A"), "b": ("one", "B")}))
    assert gaps.read_gaps(store.path) == [gaps.Gap("one", "A", 4, 6, 1000, 2000)]


@pytest.mark.slow
@pytest.mark.claim("N5")
@given(
    told=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "x.example"]), st.sampled_from(["x.example", "y.example"]), st.integers(1, 9)
        ),
        max_size=6,
    ),
    earlier=st.dictionaries(st.sampled_from(["a", "b", "gone"]), st.sampled_from([None, "x.example", "y.example"])),
)
def test_N5_a_host_is_barred_as_it_was_told_last_wherever_its_sources_are_pointed(
    told: list[tuple[str, str, int]], earlier: dict[str, str | None]
) -> None:
    """An earlier version kept it by source, and one before that did not say of which host."""
    with tempfile.TemporaryDirectory() as directory:
        store = opened(Path(directory) / "bot.db")
        try:
            store._connection.executemany(
                "INSERT INTO sources(name, barred_host, barred_until) VALUES (?, ?, 50)", earlier.items()
            )
            expected = {host or name: 50 for name, host in earlier.items()}
            for source, host, until in told:
                store.write(Batch(barred={source: (host, until)}))
                if earlier.get(source, "") is None:
                    expected.pop(source, None)
                expected[host] = until
            assert store.restore().barred == expected
        finally:
            store.close()


@pytest.mark.claim("N5")
@pytest.mark.parametrize("newest", ["bot.db", "bot.db-wal"])
def test_N5_when_the_files_were_last_written_both_say(store: Ledger, newest: str) -> None:
    """After a kill the last thing that was written is in the WAL."""
    store.write(Batch(barred={"a": ("a.example", 9)}))
    files = [store.path, store.path.with_name("bot.db-wal")]
    before = [path.stat() for path in files]
    for path in files:
        os.utime(path, (2_000_000_000 if path.name == newest else 1_000_000_000,) * 2)
    try:
        assert store.written_ms() == 2_000_000_000_000
    finally:
        # It would take them for files that somebody else wrote.
        for path, was in zip(files, before, strict=True):
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
