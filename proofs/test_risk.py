"""Contract R2, R3, I2, I3, S7, S11: what is vetoed, and that orders never carry the exposure over a cap."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.events import Fill, OrderEvent, Reason, Side, Signal, Tick
from engine.execution import PaperExecutor, ShadowExecutor
from engine.risk import Book, Caps

NOW = 10_000_000
FEE = Decimal("0.001")


def caps(total: int = 1_000, symbol: int = 500, orders: int = 10, staleness_ms: int = 5_000) -> Caps:
    return Caps(Decimal(total), Decimal(symbol), orders, staleness_ms)


def signal(
    tick_id: int = 1,
    side: Side = Side.BUY,
    size: str = "1",
    price: str = "100",
    symbol: str = "A",
    ts: int = NOW,
) -> Signal:
    return Signal(
        f"s:{tick_id}", tick_id, symbol, side, Reason.PERIODIC_TRIGGER, 0.75, Decimal(size), Decimal(price), ts
    )


def held(qty: str, price: str = "100", symbol: str = "A", **limits: Any) -> Book:
    return Book(caps(**limits), {symbol: (Decimal(qty), Decimal(price))})


@pytest.mark.parametrize(
    ("age_ms", "veto"),
    [(0, None), (5_000, None), (5_001, Reason.STALE_DATA), (-5_000, None), (-5_001, Reason.STALE_DATA)],
)
def test_R2_S7_a_signal_of_a_tick_too_old_or_too_new_is_vetoed(age_ms: int, veto: Reason | None) -> None:
    assessed = Book(caps()).assess(signal(ts=NOW - age_ms), NOW)
    assert assessed.veto is veto
    assert (assessed.veto_detail is None) is (veto is None)


def test_R2_a_stale_price_does_not_mark_the_book() -> None:
    book = held("2")
    book.assess(signal(price="900", ts=0), NOW)
    assert book.exposure() == 200


def test_R2_a_signal_that_passes_is_unchanged() -> None:
    wish = signal()
    assert Book(caps()).assess(wish, NOW) is wish


@pytest.mark.parametrize(("size", "veto"), [("5", None), ("5.000000000001", Reason.RISK_CAP)])
def test_R3_the_symbol_cap_is_exact(size: str, veto: Reason | None) -> None:
    assert Book(caps()).assess(signal(size=size), NOW).veto is veto


def test_R3_the_cap_is_judged_at_the_price_of_the_tick() -> None:
    assert Book(caps()).assess(signal(size="1", price="501"), NOW).veto is Reason.RISK_CAP


def test_R3_the_total_cap_counts_all_symbols() -> None:
    book = Book(caps(total=800), {"B": (Decimal("-4"), Decimal(100))})
    assert book.exposure() == 400
    assert book.assess(signal(size="4"), NOW).veto is None
    vetoed = book.assess(signal(size="4.1"), NOW)
    assert vetoed.veto is Reason.RISK_CAP
    assert vetoed.veto_detail == "exposure could become 810.0, allowed is 800"


def test_R3_open_orders_are_capped() -> None:
    book = Book(caps(orders=1))
    book.record(*PaperExecutor(FEE, Decimal(0)).submit(signal(1), NOW))
    assert book.assess(signal(2), NOW).veto_detail == "1 open orders, allowed are 1"


def test_R3_a_way_out_of_a_position_over_the_cap_is_open() -> None:
    book = held("9")  # 900 of 500 allowed: the market carried it there
    assert book.assess(signal(side=Side.SELL, size="9"), NOW).veto is None
    assert book.assess(signal(side=Side.SELL, size="18.1"), NOW).veto is Reason.RISK_CAP
    assert book.assess(signal(side=Side.BUY, size="0.1"), NOW).veto is Reason.RISK_CAP


def test_R3_open_orders_that_would_get_out_do_so_only_once() -> None:
    book = held("9")
    book.record(*PaperExecutor(FEE, Decimal(0)).submit(signal(1, Side.SELL, "9"), NOW))
    # Both sells filled would leave -9: no worse than now. A third could leave -18.
    second = signal(2, Side.SELL, "9")
    assert book.assess(second, NOW).veto is None
    book.record(*PaperExecutor(FEE, Decimal(0)).submit(second, NOW))
    assert book.assess(signal(3, Side.SELL, "9"), NOW).veto is Reason.RISK_CAP


@pytest.mark.parametrize("size", ["0", "-1", "NaN", "Infinity"])
def test_R3_a_size_that_is_no_amount_is_vetoed(size: str) -> None:
    assert Book(caps()).assess(signal(size=size), NOW).veto is Reason.RISK_CAP


def test_R3_L3_a_price_beyond_all_reason_is_vetoed_and_forgotten_at_the_next_tick() -> None:
    book = held("1")
    assert book.assess(signal(price="1e300"), NOW).veto is Reason.RISK_CAP
    book.mark([Tick("f", "A", 100.0, 1.0, NOW)])
    assert book.assess(signal(), NOW).veto is None


def test_R3_mark_takes_the_latest_price_of_what_is_held() -> None:
    book = held("2")
    book.mark([Tick("f", "A", 7.0, 1.0, 0), Tick("f", "B", 1.0, 1.0, 0), Tick("f", "A", 110.5, 1.0, 0)])
    assert (book.exposure("A"), book.exposure("B"), book.exposure()) == (221, 0, 221)


def test_S11_partial_fills_move_the_exposure_once() -> None:
    book, executor = Book(caps()), PaperExecutor(FEE, Decimal(0))
    book.record(*executor.submit(signal(1, size="2"), NOW))
    assert (book.position("A"), book.exposure(), book.open_orders) == (0, 200, 1)
    book.record(*executor.on_ticks([Tick("f", "A", 100.0, 0.5, NOW, id=2)], NOW))
    assert (book.position("A"), book.exposure(), book.open_orders) == (Decimal("0.5"), 200, 1)
    book.record(*executor.cancel_all(NOW))
    assert (book.position("A"), book.exposure(), book.open_orders) == (Decimal("0.5"), 50, 0)


def state(book: Book) -> tuple[Decimal, Decimal, int]:
    return book.position("A"), book.exposure(), book.open_orders


def test_I3_recording_the_same_events_again_changes_nothing() -> None:
    book, executor = Book(caps()), PaperExecutor(FEE, Decimal(0))
    history: list[tuple[list[OrderEvent], list[Fill]]] = []
    for outcome in (
        executor.submit(signal(1, size="2"), NOW),
        executor.on_ticks([Tick("f", "A", 100.0, 0.5, NOW, id=2)], NOW),
        executor.on_ticks([Tick("f", "A", 100.0, 1.5, NOW, id=3)], NOW),
    ):
        history.append(outcome)
        book.record(*outcome)
        before = state(book)
        for earlier in history:
            book.record(*earlier)
            assert state(book) == before
    assert state(book) == (2, 200, 0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("signal"),
            st.sampled_from(["A", "B", "C"]),
            st.sampled_from(Side),
            st.sampled_from(["0.1", "1", "2.5", "4", "7"]),
        ),
        st.tuples(st.just("tick"), st.sampled_from(["A", "B", "C"]), st.sampled_from([0.3, 1.0, 9.0])),
        st.tuples(st.just("cancel"), st.integers(0, 3)),
    ),
    max_size=60,
)
PRICE = {"A": 100.0, "B": 37.5, "C": 250.0}


@given(actions=ACTIONS, make=st.sampled_from([ShadowExecutor, PaperExecutor]))
def test_I2_caps_hold_whatever_the_order_of_signals_and_fills(
    actions: list[tuple[Any, ...]], make: type[ShadowExecutor] | type[PaperExecutor]
) -> None:
    limits = caps(total=1_000, symbol=500, orders=3)
    book, executor = Book(limits), make(FEE, Decimal(25))
    position = dict.fromkeys(PRICE, Decimal(0))
    opened: list[str] = []
    for n, (what, *rest) in enumerate(actions, 1):
        events: list[OrderEvent] = []
        fills: list[Fill] = []
        if what == "signal":
            symbol, side, size = rest
            assessed = book.assess(signal(n, side, size, repr(PRICE[symbol]), symbol), NOW)
            if assessed.veto is None:
                events, fills = executor.submit(assessed, NOW)
                opened.append(events[0].order_id)
        elif what == "tick":
            symbol, volume = rest
            ticks = [Tick("f", symbol, PRICE[symbol], volume, NOW, id=n)]
            book.mark(ticks)
            events, fills = executor.on_ticks(ticks, NOW)
        elif opened:
            events, fills = executor.cancel(opened[rest[0] % len(opened)], NOW)
        book.record(events, fills)
        for fill in fills:
            position[fill.symbol] += fill.qty if fill.side is Side.BUY else -fill.qty
        exposures = {name: abs(qty) * Decimal(PRICE[name]) for name, qty in position.items()}
        assert max(exposures.values()) <= limits.max_symbol_exposure_usd
        assert sum(exposures.values()) <= limits.max_exposure_usd
        assert book.open_orders <= limits.max_open_orders
        assert all(book.position(name) == qty for name, qty in position.items())


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(Side), st.sampled_from(["0.5", "2"]), st.sampled_from([50, 100, 400])),
        max_size=40,
    )
)
def test_I2_no_order_raises_an_exposure_that_the_market_moved(steps: list[tuple[Side, str, int]]) -> None:
    book, executor = Book(caps()), ShadowExecutor(FEE, Decimal(0))
    for n, (side, size, price) in enumerate(steps, 1):
        before = abs(book.position("A")) * price
        assessed = book.assess(signal(n, side, size, str(price)), NOW)
        if assessed.veto is None:
            book.record(*executor.submit(assessed, NOW))
            after = abs(book.position("A")) * price
            assert after <= max(before, 500)
