"""Equity and profit from fills, exact to the last digit (contract W7)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.dashboard import equity
from harness.dashboard.equity import Equity, Point
from harness.observing import ledger_history
from harness.observing.ledger_history import FillAt, PositionAt
from proofs.fixtures import traded_database

pytestmark = pytest.mark.claim("W7")

D = Decimal


def fill(
    number: int, buys: bool, qty: str, price: str, fees: str = "0", symbol: str = "A/B", mode: str = "PAPER"
) -> FillAt:
    amount = D(qty) * D(price)
    cash = (-amount if buys else amount) - D(fees)
    return FillAt(number, 1000 * number, mode, symbol, buys, D(qty), D(price), D(fees), cash)


def taken(fills: Iterable[FillAt]) -> Equity:
    made = Equity()
    for one in fills:
        made.take([one], one.id)
    return made


def shown(point: Point) -> tuple[str, str, str, str]:
    return str(point.equity), str(point.realised), str(point.unrealised), str(point.fees)


def test_bought_risen_sold_and_through_zero() -> None:
    steps = [
        (fill(1, True, "2", "100", "1"), ("-1", "0", "0", "1")),
        # Half of it is sold dearer: ten earned, and ten more on paper.
        (fill(2, False, "1", "110", "1"), ("18", "10", "10", "2")),
        # The other half, and two more that are owed, at a lower price.
        (fill(3, False, "3", "90", "1"), ("-3", "0", "0", "3")),
        # Bought back cheaper: what was owed brings twenty.
        (fill(4, True, "2", "80", "1"), ("16", "20", "0", "4")),
    ]
    made = Equity()
    for one, wanted in steps:
        made.take([one], one.id)
        assert tuple(D(value) for value in shown(made.lines["PAPER"].now(0))) == tuple(map(D, wanted))
    line = made.lines["PAPER"]
    assert (line.peak, line.drawdown, line.fills) == (D(18), D(21), 4)
    assert [point.ts_ms for point in line.points] == [1000, 2000, 3000, 4000]


FILLS = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(1, 3) | st.integers(1, 10**9),
        st.integers(1, 10**12),
        st.integers(0, 10**6),
        st.sampled_from("AB"),
    ),
    max_size=30,
)


@given(FILLS)
def test_the_four_always_add_up_and_equity_is_exact(drawn: list[tuple[bool, int, int, int, str]]) -> None:
    fills = [
        fill(number, buys, f"{D(qty).scaleb(-8)}", f"{D(price).scaleb(-8)}", f"{D(fees).scaleb(-12)}", symbol)
        for number, (buys, qty, price, fees, symbol) in enumerate(drawn, start=1)
    ]
    made = taken(fills)
    if not fills:
        assert made.lines == {}
        return
    now = made.lines["PAPER"].now(0)
    held = {
        symbol: sum((one.qty if one.buys else -one.qty) for one in fills if one.symbol == symbol) for symbol in "AB"
    }
    prices = {one.symbol: one.price for one in fills}
    assert now.equity == sum(one.cash for one in fills) + sum(held[symbol] * price for symbol, price in prices.items())
    assert now.fees == sum(one.fees for one in fills)
    assert now.realised + now.unrealised - now.fees == pytest.approx(now.equity, abs=D("1e-20"))
    positions = []
    for symbol in prices:
        cash, fees = (sum(getattr(one, name) for one in fills if one.symbol == symbol) for name in ("cash", "fees"))
        positions.append(PositionAt("PAPER", symbol, D(held[symbol]), D(cash), D(fees)))
    assert made.disagreements(positions) == []


@given(FILLS)
def test_profit_is_reckoned_by_average_cost(drawn: list[tuple[bool, int, int, int, str]]) -> None:
    """As textbooks have it, in fractions: what is closed earns its distance from the average price, nothing else."""
    held, average, last = (dict.fromkeys("AB", Fraction(0)) for _ in range(3))
    realised = Fraction(0)
    made = Equity()
    for number, (buys, size, worth, _, symbol) in enumerate(drawn, start=1):
        qty, price = Fraction(size, 10**8), Fraction(worth, 10**8)
        signed = qty if buys else -qty
        before = held[symbol]
        closed = min(qty, abs(before)) if before * signed < 0 else Fraction(0)
        realised += closed * (price - average[symbol]) * (1 if before > 0 else -1)
        held[symbol], last[symbol] = before + signed, price
        if closed == 0:
            average[symbol] = (abs(before) * average[symbol] + qty * price) / abs(held[symbol])
        elif closed < qty:
            average[symbol] = price
        made.take([fill(number, buys, f"{D(size).scaleb(-8)}", f"{D(worth).scaleb(-8)}", symbol=symbol)], number)
        now = made.lines["PAPER"].now(0)
        unrealised = sum(held[name] * (last[name] - average[name]) for name in "AB")
        assert abs(Fraction(now.unrealised) - unrealised) < Fraction(1, 10**20)
        assert abs(Fraction(now.realised) - realised) < Fraction(1, 10**20)
        for name in "AB":
            if held[name] == 0 and name in made.lines["PAPER"].holdings:
                assert made.lines["PAPER"].holdings[name].paid == 0


@pytest.mark.parametrize("buys", [True, False])
def test_what_is_closed_to_the_last_digit_leaves_nothing_on_paper(buys: bool) -> None:
    """Also where a product is longer than what is reckoned with."""
    qty, price = "78122573303404.879460515376", "613319017111157.557222454332"
    line = taken([fill(1, buys, qty, price), fill(2, not buys, qty, "7")]).lines["PAPER"]
    assert (line.holdings["A/B"].qty, line.holdings["A/B"].paid, line.now(0).unrealised) == (0, 0, 0)


def test_equity_begins_with_nothing_and_knows_where_it_is() -> None:
    made = Equity()
    assert (made.lines, made.last_id, made.last_ms, made.disagreements([])) == ({}, 0, 0, [])
    # Rows that are no fills move the place, and not the time.
    made.take([], 9)
    assert (made.lines, made.last_id, made.last_ms) == ({}, 9, 0)
    made.take([fill(12, True, "1", "5"), fill(13, True, "1", "5", mode="SHADOW")], 20)
    assert (set(made.lines), made.last_id, made.last_ms) == ({"PAPER", "SHADOW"}, 20, 13_000)


@pytest.mark.parametrize(("most", "fills"), [(4, 4), (4, 5), (4, 6), (4, 9), (4, 40)])
def test_of_a_long_line_every_second_point_goes_and_the_rest_is_what_it_was(
    most: int, fills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = taken([fill(number, True, "1", "5", "1") for number in range(1, fills + 1)]).lines["PAPER"].points
    assert [point.ts_ms for point in whole] == [1000 * number for number in range(1, fills + 1)]
    monkeypatch.setattr(equity, "POINTS_MAX", most)
    line = taken([fill(number, True, "1", "5", "1") for number in range(1, fills + 1)]).lines["PAPER"]
    every = 1
    while fills // every > most:
        every *= 2
    assert line.points == [point for point in whole if point.ts_ms // 1000 % every == 0]
    assert (line.now(7), line.fills) == (Point(7, D(-fills), D(0), D(fills)), fills)


def test_each_sum_that_differs_is_named_and_each_position_alone() -> None:
    made = taken([fill(1, True, "2", "100", "1"), fill(2, False, "1", "5", symbol="C/D", mode="SHADOW")])
    good = [PositionAt("PAPER", "A/B", D(2), D(-201), D(1)), PositionAt("SHADOW", "C/D", D(-1), D(5), D(0))]
    assert made.disagreements(good) == []
    assert made.disagreements([PositionAt("PAPER", "A/B", D(3), D(-202), D(2)), good[1]]) == [
        "PAPER A/B: qty is 3, fills add up to 2",
        "PAPER A/B: cash is -202, fills add up to -201",
        "PAPER A/B: fees is 2, fills add up to 1",
    ]
    assert made.disagreements([]) == ["PAPER A/B: fills, and no position", "SHADOW C/D: fills, and no position"]


def test_a_position_that_is_not_the_sum_is_named() -> None:
    made = taken([fill(1, True, "2", "100")])
    good = PositionAt("PAPER", "A/B", D(2), D(-200), D(0))
    assert made.disagreements([good]) == []
    assert made.disagreements([]) == ["PAPER A/B: fills, and no position"]
    off = PositionAt("PAPER", "A/B", D(2), D("-200.000000000000000001"), D(0))
    assert made.disagreements([off]) == ["PAPER A/B: cash is -200.000000000000000001, fills add up to -200"]
    assert made.disagreements([good, PositionAt("LIVE", "A/B", D(1), D(0), D(0))]) == [
        "LIVE A/B: qty is 1, fills add up to 0"
    ]


def test_a_long_line_is_thinned_and_its_drawdown_is_not() -> None:
    rounds = equity.POINTS_MAX + 500
    fills = [fill(number, number % 2 == 1, "1", "100" if number % 2 else "99") for number in range(1, 2 * rounds + 1)]
    line = taken(fills).lines["PAPER"]
    assert len(line.points) <= equity.POINTS_MAX
    assert [point.ts_ms for point in line.points] == sorted(point.ts_ms for point in line.points)
    assert (line.drawdown, line.fills) == (D(rounds), 2 * rounds)


@pytest.mark.slow
@pytest.mark.claim("O13", "W7")
def test_positions_of_very_many_markets_agree_with_their_fills(tmp_path: Path) -> None:
    """As many as an engine holds, most of them of nothing any more."""
    path, count = tmp_path / "bot.db", 16_384
    traded_database.build(path, 1)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM positions")
        connection.executemany(
            "INSERT INTO positions(mode, symbol, qty, cash, fees, price) VALUES ('PAPER', ?, '0', '0', '0', '1')",
            [(f"X{number}",) for number in range(count)],
        )
    assert len(ledger_history.read_fills(path, 0).positions) == count


@pytest.mark.claim("O13")
def test_a_backup_in_the_place_of_a_database_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Whatever its inode number is: file systems give the one that was freed last, and `cp` keeps the file's."""
    path, backup = tmp_path / "bot.db", tmp_path / "backup.db"
    for name, ticks in ((path, 3000), (backup, 1000)):
        traded_database.build(name, ticks)
    made = Equity()
    read = partial(ledger_history.read_fills, path)
    assert made.disagreements(made.follow(read).positions) == []
    taken = {mode: line.fills for mode, line in made.lines.items()}
    assert made.disagreements(made.follow(read).positions) == []
    assert {mode: line.fills for mode, line in made.lines.items()} == taken
    path.write_bytes(backup.read_bytes())
    assert made.disagreements(made.follow(read).positions) == []
    assert all(0 < line.fills < taken[mode] for mode, line in made.lines.items())
    # Fewer at a time than there are.
    few = Equity()
    while not (found := few.follow(partial(read, most=7))).whole:
        assert len(found.fills) == 7
    assert few.disagreements(found.positions) == []


def test_fills_of_a_database_agree_with_its_positions(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    traded_database.build(path, 3000)
    read = ledger_history.read_fills(path, 0)
    made = Equity()
    made.take(read.fills, read.last_id)
    assert made.disagreements(read.positions) == []
    assert made.last_id == read.last_id
    sums = {one.symbol: one for one in read.positions}
    held = made.lines["PAPER"].holdings
    assert {symbol: one.qty for symbol, one in held.items()} == {symbol: one.qty for symbol, one in sums.items()}
