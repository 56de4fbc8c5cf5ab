"""What the database holds of a span of time: the same as SQL says of the whole, at a cost that does not grow (contract
W6, W7)."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness.observing import ledger_history
from harness.observing.ledger_history import WHOLE_ROWS
from harness.observing.ledger_view import LedgerUnreadable
from proofs.fixtures import traded_database
from proofs.fixtures.traded_database import PAUSE_MS, START_MS, STEP_MS

pytestmark = pytest.mark.claim("W6")

TICKS = 6000


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traded") / "bot.db"
    traded_database.build(path, TICKS)
    return path


def ask(database: Path, sql: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql, values).fetchall()


SPANS = [
    (None, None),
    (START_MS, START_MS + 100_000),
    (START_MS + 12_345, START_MS + 299_999),
    (START_MS + 250_000, None),
]


@pytest.mark.parametrize(("begin", "end"), SPANS, ids=["all", "first", "odd", "over-the-pause"])
@pytest.mark.parametrize("symbol", ["SOL/USDC", "ETH/USD"])
def test_buckets_are_what_sql_says_of_the_whole(
    database: Path, symbol: str, begin: int | None, end: int | None
) -> None:
    span = ledger_history.read_span(database, symbol=symbol, from_ms=begin, to_ms=end, buckets=200)
    assert not span.sampled
    first, last = span.first_ms, span.last_ms
    bucket = f"{first} + (ts - {first}) / {span.step_ms} * {span.step_ms}"
    rows = ask(
        database,
        f"SELECT {bucket}, COUNT(*), MIN(price) FILTER (WHERE symbol = ?), MAX(price) FILTER (WHERE symbol = ?)"
        " FROM ticks WHERE ts >= ? AND ts < ? GROUP BY 1",
        symbol, symbol, first, last,
    )  # fmt: skip
    # With MAX() beside it, a column is that of the row which has it (SQLite, bare columns in an aggregate query).
    closing_prices = ask(
        database, f"SELECT {bucket}, price, MAX(id) FROM ticks WHERE symbol = ? AND ts >= ? AND ts < ? GROUP BY 1",
        symbol, first, last,
    )  # fmt: skip
    lasts = {at: price for at, price, _ in closing_prices}
    assert [(one.at_ms, one.ticks, one.low, one.high) for one in span.buckets] == rows
    assert {one.at_ms: one.last for one in span.buckets if one.last is not None} == lasts
    assert rows


def test_a_pause_has_no_buckets(database: Path) -> None:
    span = ledger_history.read_span(database, symbol="", from_ms=None, to_ms=None, buckets=400)
    quiet = (START_MS + TICKS // 2 * STEP_MS, START_MS + TICKS // 2 * STEP_MS + PAUSE_MS)
    assert not [one for one in span.buckets if quiet[0] + span.step_ms < one.at_ms < quiet[1] - span.step_ms]
    assert (span.symbol, sorted(span.symbols)) == ("ETH/USD", ["ETH/USD", "SOL/USDC"])


def test_of_many_rows_some_are_looked_at_and_all_are_counted(database: Path) -> None:
    few = ledger_history.read_span(database, symbol="SOL/USDC", from_ms=None, to_ms=None, buckets=10)
    assert few.sampled
    assert sum(one.ticks for one in few.buckets) == TICKS
    whole = ask(database, "SELECT MIN(price), MAX(price) FROM ticks WHERE symbol = 'SOL/USDC'")[0]
    for one in few.buckets:
        assert one.low is not None
        assert one.high is not None
        assert whole[0] <= one.low < one.high <= whole[1]


def test_signals_are_counted_by_their_veto(database: Path) -> None:
    end = START_MS + 200_000
    span = ledger_history.read_span(database, symbol="", from_ms=START_MS, to_ms=end, buckets=10)
    rows = ask(
        database, "SELECT COALESCE(veto, ''), COUNT(*) FROM signals WHERE ts < ? GROUP BY 1 ORDER BY 2 DESC", end
    )
    assert sorted(span.vetoes) == sorted(rows)
    assert span.vetoes_from_ms == START_MS


def test_a_span_without_ticks_and_an_empty_database(database: Path, tmp_path: Path) -> None:
    later = ledger_history.read_span(database, symbol="", from_ms=START_MS * 2, to_ms=START_MS * 2 + 1000, buckets=50)
    assert (later.buckets, later.vetoes) == ([], [])
    empty = tmp_path / "empty.db"
    traded_database.build(empty, 0)
    assert ledger_history.read_span(empty, symbol="", from_ms=None, to_ms=None, buckets=50).symbol == ""
    assert ledger_history.read_fills(empty, 0).whole
    with pytest.raises(LedgerUnreadable, match="no such database"):
        ledger_history.read_span(tmp_path / "none.db", symbol="", from_ms=None, to_ms=None, buckets=50)


@pytest.mark.slow
def test_the_cost_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """A whole span of 300 000 ticks takes less than 0.2 s of CPU; of ten million, measured by hand, 0.12 s."""
    path = tmp_path / "bot.db"
    traded_database.build(path, 0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "WITH RECURSIVE one(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM one WHERE n < 300000) INSERT INTO"
            f" ticks(id, symbol, price, volume, ts, source) SELECT n, 'A/B', 1.0, 1.0, {START_MS} + n, 1 FROM one"
        )
        connection.commit()
    began = time.process_time()
    span = ledger_history.read_span(path, symbol="", from_ms=None, to_ms=None, buckets=400)
    assert time.process_time() - began < 0.2
    assert sum(one.ticks for one in span.buckets) == 300_000
    assert max(one.ticks for one in span.buckets) > WHOLE_ROWS


@pytest.mark.claim("W7")
@pytest.mark.parametrize("table", ledger_history.TABLES)
@pytest.mark.parametrize("newest_first", [True, False], ids=["newest", "oldest"])
@pytest.mark.parametrize("filters", [{}, {"side": "BUY"}], ids=["all", "bought"])
def test_pages_have_each_row_once_and_in_order(
    database: Path, table: str, newest_first: bool, filters: dict[str, str]
) -> None:
    found: list[int] = []
    at: int | None = None
    for _ in range(100):
        page = ledger_history.read_page(
            database, table=table, at_id=at, newest_first=newest_first, rows=37, filters=filters
        )
        found += [row[0] for row in page.rows]
        at = page.next_id
        if at is None:
            break
    where = "WHERE side = 'BUY'" if filters else ""
    order = "DESC" if newest_first else "ASC"
    assert found == [row_id for (row_id,) in ask(database, f"SELECT id FROM {table} {where} ORDER BY id {order}")]


@pytest.mark.claim("W7")
def test_an_order_shows_its_transitions(database: Path) -> None:
    page = ledger_history.read_page(database, table="orders", at_id=1, newest_first=False, rows=1, filters={})
    row = dict(zip(page.columns, page.rows[0], strict=True))
    ts = row["time"]
    assert row["transitions"] == f"SUBMITTED 0 at {ts}, PARTIAL_FILL 0.1 at {ts + 1}, FILLED 0.3 at {ts + 2}"


@pytest.mark.claim("W7")
def test_a_filter_that_nothing_meets_ends_and_says_where_to_go_on(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_history, "SCANNED_MAX", 30)
    page = ledger_history.read_page(
        database, table="trades", at_id=None, newest_first=True, rows=10, filters={"symbol": "'; DROP TABLE trades; --"}
    )
    assert page.rows == []
    assert page.next_id == ask(database, "SELECT MAX(id) - 30 FROM trades")[0][0]


@pytest.mark.claim("W7")
def test_fills_and_what_the_engine_never_writes(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    traded_database.build(path, 500)
    whole = ledger_history.read_fills(path, 0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO trades(order_id, seq, symbol, side, ts, qty_exact, price_exact, fees_exact, cash_delta)"
            " VALUES ('paper-x', 1, 'x', 'HOLD', 1, 'many', '1', '1', '1')"
        )
        connection.execute(
            "INSERT INTO sources(name, barred_host, barred_until) VALUES ('binance', 'stream.binance.com', 5000),"
            " ('old', 'old.example.org', 10), ('earlier', NULL, 6000)"
        )
        connection.commit()
    bent = ledger_history.read_fills(path, 0)
    assert (len(bent.fills), bent.odd, bent.whole) == (len(whole.fills), 1, True)
    assert bent.last_id == whole.last_id + 1
    assert ledger_history.read_bars(path, 1000) == [("stream.binance.com", 5000), ("earlier", 6000)]
    for version, bars in ((3, [("binance", 5000), ("earlier", 6000)]), (1, [])):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
        assert ledger_history.read_bars(path, 1000) == bars
