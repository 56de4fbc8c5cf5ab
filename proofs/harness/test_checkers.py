"""The checkers: history in, verdict out (contract V11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence import checkers
from harness.evidence.checkers import Equation, FillRow, Heartbeat, Judgement, LedgerRows
from harness.evidence.verdict import Verdict

pytestmark = pytest.mark.claim("V11")

BOOKS: dict[str, object] = {
    "ticks_parsed": 12, "ingest_received": 10, "duplicates": 2, "ingest_processed": 3, "sampled_out": 7,
    "tick_count": 3,
    "tick_rows_written": 1, "tick_rows_known": 0, "tick_rows_queued": 2, "bp_drops_tick": 0, "bp_drops_persist": 0,
}  # fmt: skip


def fill(number: int, side: str, qty: str, price: str, symbol: str = "A", off: str = "0") -> FillRow:
    """A fill that balances, but for `off`."""
    notional = Decimal(qty) * Decimal(price)
    cash = (-notional if side == "BUY" else notional) - Decimal("0.1") + Decimal(off)
    return FillRow(number, symbol, side, Decimal(qty), Decimal(price), Decimal("0.1"), cash)


LEDGER = LedgerRows(
    at=1,
    ticks=[(1, "A", 7, 1000), (2, "A", 8, 1000), (3, "B", 7, 1000), (4, "A", None, 1000), (5, "A", None, 1000)],
    signals=[(1, 1, "BUY"), (2, 3, "SELL")],
    orders=["o1", "o2"],
    fills=[fill(1, "BUY", "2", "100"), fill(2, "SELL", "1", "100", "B")],
    exposure_cap=Decimal(350),
    symbol_exposure_cap=Decimal(250),
)


def says(judgement: Judgement) -> list[str]:
    return [violation.says for violation in judgement.violations]


def test_true_histories_are_proven_and_empty_ones_are_not() -> None:
    beats = [Heartbeat(1, BOOKS, 3), Heartbeat(2, BOOKS, None)]
    for judge, history in ((checkers.books_balance, beats), (checkers.sampling_is_exact, beats)):
        assert (judge(history).verdict, judge([]).verdict) == (Verdict.PROVEN, Verdict.UNPROVEN)
    for of_ledger in (checkers.caps_hold, checkers.events_count_once, checkers.fills_balance):
        assert (of_ledger([LEDGER]).verdict, of_ledger([]).verdict) == (Verdict.PROVEN, Verdict.UNPROVEN)
    assert (checkers.books_balance(beats).judged, checkers.sampling_is_exact(beats).judged) == (2, 1)
    ledgers = [LEDGER, replace(LEDGER, symbol_exposure_cap=None)]
    assert [of(ledgers).judged for of in (checkers.caps_hold, checkers.events_count_once, checkers.fills_balance)] == [
        2 * 2 + 2, 2 * (3 + 2 + 2 + 2), 2 * 2,
    ]  # fmt: skip
    unknown = replace(LEDGER, exposure_cap=None, symbol_exposure_cap=None)
    assert checkers.caps_hold([unknown]).verdict is Verdict.UNPROVEN


@pytest.mark.claim("M3")
@pytest.mark.parametrize("name", BOOKS)
def test_M3_no_number_of_a_heartbeat_can_be_another(name: str) -> None:
    books = {**BOOKS, name: int(str(BOOKS[name])) + 1}
    judgement = checkers.books_balance([Heartbeat(5, BOOKS, 3), Heartbeat(9, books, 3)])
    assert judgement.verdict is Verdict.REFUTED
    assert {violation.at for violation in judgement.violations} == {9}
    missing = {key: value for key, value in BOOKS.items() if key != name}
    assert "no heartbeat tells" in says(checkers.books_balance([Heartbeat(1, missing)]))[0]


@pytest.mark.claim("M3")
def test_M3_an_equation_is_told_with_its_numbers() -> None:
    """As proofs, `verify` and the dashboard show it."""
    told = [(one.ok, one.says, one.number) for one in checkers.equations({**BOOKS, "sampled_out": 8})]
    assert told == [
        (True, "ticks parsed 12 = received + duplicates 12", 12),
        (False, "received 10 ≠ processed + sampled out 11", 10),
        (True, "ticks 3 = processed 3", 3),
        (True, "ticks 3 = written + known before + queued + dropped 3", 3),
    ]
    for name, number in (("ingest_received", None), ("sampled_out", 10)):
        one = checkers.equations({**BOOKS, name: "many"})[1]
        assert one == Equation(
            None,
            "received",
            "processed + sampled out",
            "received = processed + sampled out: no heartbeat tells",
            number,
        )


@pytest.mark.parametrize(
    ("violations", "told"),
    [
        ([], "N7: proven by 4"),
        (["7 ≠ 8"], "N7: 7 ≠ 8"),
        (["7 ≠ 8", "8 ≠ 9"], "N7: 7 ≠ 8, and 1 more"),
        (["7 ≠ 8", "8 ≠ 9", "9 ≠ 7"], "N7: 7 ≠ 8, and 2 more"),
    ],
)
def test_a_judgement_says_what_is_broken_first(violations: list[str], told: str) -> None:
    assert str(Judgement(checkers.N7, 4, [checkers.Violation(1, one) for one in violations])) == told


@pytest.mark.claim("N7")
def test_N7_what_is_processed_is_a_floor() -> None:
    right = [Heartbeat(n, {"ingest_received": n, "ingest_processed": n // 7}, 7) for n in range(50)]
    assert checkers.sampling_is_exact(right).verdict is Verdict.PROVEN
    wrong = Heartbeat(50, {"ingest_received": 50, "ingest_processed": 8}, 7)
    assert says(checkers.sampling_is_exact([*right, wrong])) == ["processed 8 ≠ received 50 // 7 = 7"]
    assert "does not tell" in says(checkers.sampling_is_exact([Heartbeat(1, {"ingest_received": 1}, 1)]))[0]


@pytest.mark.claim("I2")
@pytest.mark.parametrize(
    ("fills", "told"),
    [
        ([fill(1, "BUY", "2.6", "100")], ["fill 1 carries the exposure of A from 0 to 260.0, the cap is 250"]),
        ([fill(1, "SELL", "2.6", "100")], ["fill 1 carries the exposure of A from 0 to 260.0, the cap is 250"]),
        ([fill(1, "BUY", "2", "100"), fill(2, "SELL", "4", "100")], []),
        ([fill(1, "BUY", "2", "100"), fill(2, "BUY", "2", "100", "B")],
         ["fill 2 carries the exposure of all symbols from 200 to 400, the cap is 350"]),
        # The market carried it there; the order brings it back.
        ([fill(1, "BUY", "2", "100"), fill(2, "SELL", "0.1", "200")], []),
        ([fill(1, "BUY", "2", "100"), fill(2, "BUY", "0.1", "200")],
         ["fill 2 carries the exposure of A from 400 to 420.0, the cap is 250",
          "fill 2 carries the exposure of all symbols from 400 to 420.0, the cap is 350"]),
        # To the other side, as far as it was on this one.
        ([fill(1, "BUY", "2", "100"), fill(2, "SELL", "4", "200")], []),
        ([fill(1, "BUY", "2.5", "100")], []),
    ],
    ids=["bought", "sold", "turned", "in-all", "brought-back", "carried-on", "turned-beyond", "at-the-cap"],
)  # fmt: skip
def test_I2_a_fill_over_a_cap(fills: list[FillRow], told: list[str]) -> None:
    assert says(checkers.caps_hold([replace(LEDGER, fills=fills)])) == told


@pytest.mark.claim("I3")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda one: replace(one, ticks=[*one.ticks, (9, "A", 7, 1000)]), "trade A 7 1000 is there twice"),
        (lambda one: replace(one, signals=[*one.signals, (3, 1, "SELL")]), "signal on tick 1 is there twice"),
        (lambda one: replace(one, orders=[*one.orders, "o1"]), "order o1 is there twice"),
        (lambda one: replace(one, fills=[*one.fills, one.fills[0]]), "fill 1 is there twice"),
        (lambda one: replace(one, ticks=one.ticks[1:]), "of the ticks something was changed or is gone"),
        (lambda one: replace(one, orders=one.orders[1:]), "of the orders something was changed or is gone"),
        (lambda one: replace(one, fills=[fill(1, "BUY", "3", "100"), *one.fills[1:]]), "of the fills something"),
    ],
    ids=["trade", "signal", "order", "fill", "gone", "order-gone", "changed"],
)  # fmt: skip
def test_I3_what_counts_twice_or_is_changed(change: Callable[[LedgerRows], LedgerRows], told: str) -> None:
    more = replace(LEDGER, at=2, ticks=[*LEDGER.ticks, (6, "A", 9, 1000)], signals=[*LEDGER.signals, (3, 6, "BUY")])
    assert checkers.events_count_once([LEDGER, LEDGER, more]).verdict is Verdict.PROVEN
    assert checkers.events_count_once([LEDGER, replace(more, orders=["o0", *LEDGER.orders])]).verdict is Verdict.PROVEN
    judgement = checkers.events_count_once([LEDGER, change(more)])
    assert [violation.at for violation in judgement.violations] == [2]
    assert told in says(judgement)[0]


@pytest.mark.claim("I4")
@given(st.decimals("-1e6", "1e6", places=18).filter(bool))
def test_I4_no_fill_is_off_by_anything(off: Decimal) -> None:
    wrong = [fill(1, "BUY", "2", "100"), fill(2, "SELL", "3", "0.000000000000000001", off=str(off))]
    judgement = checkers.fills_balance([replace(LEDGER, fills=wrong)])
    assert says(judgement)[0].startswith("fill 2: cash ")
    assert (judgement.judged, len(judgement.violations)) == (2, 1)
