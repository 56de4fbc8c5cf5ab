"""Equity and profit from fills, exact to the last digit (contract W7)."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
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
        st.booleans(), st.integers(1, 10**9), st.integers(1, 10**12), st.integers(0, 10**6), st.sampled_from("AB")
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
