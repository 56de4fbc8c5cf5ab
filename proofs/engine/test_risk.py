"""Contract R2, R3, B5, I2, I3, S7, S11: what is vetoed, and that orders never carry the exposure over a cap."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import Fill, Mode, OrderEvent, OrderStatus, Reason, Side, Signal, Tick
from engine.trading import risk
from engine.trading.execution import Executor, LiveExecutor, PaperExecutor, ShadowExecutor
from engine.trading.risk import Book, Caps
from proofs.fixtures.recording_adapter import RecordingAdapter

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


@pytest.mark.claim("R2", "S7")
@pytest.mark.parametrize(
    ("age_ms", "veto"),
    [(0, None), (5_000, None), (5_001, Reason.STALE_DATA), (-5_000, None), (-5_001, Reason.STALE_DATA)],
)
def test_R2_S7_a_signal_of_a_tick_too_old_or_too_new_is_vetoed(age_ms: int, veto: Reason | None) -> None:
    assessed = Book(caps()).assess(signal(ts=NOW - age_ms), NOW)
    assert assessed.veto is veto
    assert (assessed.veto_detail is None) is (veto is None)


@pytest.mark.claim("R2")
def test_R2_a_stale_price_does_not_mark_the_book() -> None:
    book = held("2")
    book.assess(signal(price="900", ts=0), NOW)
    assert book.exposure() == 200


@pytest.mark.claim("R2")
def test_R2_a_signal_that_passes_is_unchanged() -> None:
    wish = signal()
    assert Book(caps()).assess(wish, NOW) is wish


@pytest.mark.claim("R3")
@pytest.mark.parametrize(("size", "veto"), [("5", None), ("5.000000000001", Reason.RISK_CAP)])
def test_R3_the_symbol_cap_is_exact(size: str, veto: Reason | None) -> None:
    assert Book(caps()).assess(signal(size=size), NOW).veto is veto


@pytest.mark.claim("R3")
def test_R3_the_cap_is_judged_at_the_price_of_the_tick() -> None:
    assert Book(caps()).assess(signal(size="1", price="501"), NOW).veto is Reason.RISK_CAP


@pytest.mark.claim("R3")
def test_R3_the_total_cap_counts_all_symbols() -> None:
    book = Book(caps(total=800), {"B": (Decimal("-4"), Decimal(100))})
    assert book.exposure() == 400
    assert book.assess(signal(size="4"), NOW).veto is None
    vetoed = book.assess(signal(size="4.1"), NOW)
    assert vetoed.veto is Reason.RISK_CAP
    assert vetoed.veto_detail == "exposure could become 810.0, allowed is 800"


@pytest.mark.claim("R3")
def test_R3_open_orders_are_capped() -> None:
    book = Book(caps(orders=1))
    book.record(*PaperExecutor(FEE, Decimal(0)).submit(signal(1), NOW))
    assert book.assess(signal(2), NOW).veto_detail == "1 open orders, allowed are 1"


@pytest.mark.claim("R3")
def test_R3_a_way_out_of_a_position_over_the_cap_is_open() -> None:
    book = held("9")  # 900 of 500 allowed: the market carried it there
    assert book.assess(signal(side=Side.SELL, size="9"), NOW).veto is None
    assert book.assess(signal(side=Side.SELL, size="18.1"), NOW).veto is Reason.RISK_CAP
    assert book.assess(signal(side=Side.BUY, size="0.1"), NOW).veto is Reason.RISK_CAP


@pytest.mark.claim("R3")
def test_R3_open_orders_that_would_get_out_do_so_only_once() -> None:
    book = held("9")
    book.record(*PaperExecutor(FEE, Decimal(0)).submit(signal(1, Side.SELL, "9"), NOW))
    # Both sells filled would leave -9: no worse than now. A third could leave -18.
    second = signal(2, Side.SELL, "9")
    assert book.assess(second, NOW).veto is None
    book.record(*PaperExecutor(FEE, Decimal(0)).submit(second, NOW))
    assert book.assess(signal(3, Side.SELL, "9"), NOW).veto is Reason.RISK_CAP


@pytest.mark.claim("R3")
@pytest.mark.parametrize("no_amount", ["0", "-0", "-1", "NaN", "-NaN", "sNaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["size", "price"])
def test_R3_a_size_or_price_that_is_no_amount_is_vetoed(field: str, no_amount: str) -> None:
    good = signal()
    bad = msgspec.structs.replace(good, **{field: Decimal(no_amount)})
    fresh, used = Book(caps()), Book(caps())
    assert used.assess(good, NOW).veto is None
    for book in (fresh, used):
        vetoed = book.assess(bad, NOW)
        assert vetoed.veto is Reason.RISK_CAP
        assert vetoed.veto_detail == f"{field} {no_amount} is not a positive number"
        assert book.assess(good, NOW).veto is None
        assert (book.position("A"), book.exposure()) == (0, 0)


@pytest.mark.claim("R3", "L3")
def test_R3_L3_a_price_beyond_all_reason_is_vetoed_and_forgotten_at_the_next_tick() -> None:
    book = held("1")
    assert book.assess(signal(price="1e300"), NOW).veto is Reason.RISK_CAP
    book.mark([Tick("f", "A", 100.0, 1.0, NOW)])
    assert book.assess(signal(), NOW).veto is None


@pytest.mark.claim("R3")
def test_R3_mark_takes_the_latest_price_of_what_is_held() -> None:
    book = held("2")
    book.mark([Tick("f", "A", 7.0, 1.0, 0), Tick("f", "B", 1.0, 1.0, 0), Tick("f", "A", 110.5, 1.0, 0)])
    assert (book.exposure("A"), book.exposure("B"), book.exposure()) == (221, 0, 221)


@pytest.mark.claim("R3")
@given(
    held=st.sampled_from(["", "A", "AB", "ABC", "ABCD"]),
    marked=st.lists(st.tuples(st.sampled_from("ABCDX"), st.integers(1, 99)), max_size=12),
)
def test_R3_mark_takes_the_latest_price_of_each_symbol_however_they_alternate(
    held: str, marked: list[tuple[str, int]]
) -> None:
    book = Book(caps(), {symbol: (Decimal(2), Decimal(100)) for symbol in held})
    book.mark([Tick("f", symbol, float(price), 1.0, 0) for symbol, price in marked])
    latest = dict.fromkeys("ABCD", 100) | dict(marked)
    assert [book.exposure(symbol) for symbol in held] == [2 * latest[symbol] for symbol in held]
    assert book.exposure() == sum(2 * latest[symbol] for symbol in held)


@pytest.mark.claim("S11")
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


@pytest.mark.claim("I3")
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


@pytest.mark.claim("I2")
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


@pytest.mark.claim("I2")
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
            assert after <= max(before, Decimal(500))


UP = Context(prec=60, rounding=ROUND_CEILING)


class Plain:
    """The caps by the formula of risk.py's docstring, from all positions and orders there ever were; nothing is
    remembered but those, and sums are fractions, which never round."""

    def __init__(self, limits: Caps) -> None:
        self.limits = limits
        self.position: dict[str, Decimal] = {}
        self.price: dict[str, Decimal] = {}
        self.orders: dict[str, OrderEvent] = {}

    def exposure(self, symbol: str, extra_buys: Decimal = Decimal(0), extra_sells: Decimal = Decimal(0)) -> Decimal:
        rest = {
            side: sum(
                (
                    order.qty - order.filled_qty
                    for order in self.orders.values()
                    if (order.symbol, order.side) == (symbol, side)
                ),
                Decimal(0),
            )
            for side in Side
        }
        position = self.position.get(symbol, Decimal(0))
        up = UP.add(UP.add(position, rest[Side.BUY]), extra_buys)
        down = UP.subtract(UP.add(rest[Side.SELL], extra_sells), position)
        return UP.multiply(max(up, down), self.price.get(symbol, Decimal(0)))

    def total(self) -> Fraction:
        return sum((Fraction(self.exposure(symbol)) for symbol in self.price), Fraction(0))

    def allows(self, wish: Signal) -> bool:
        self.price[wish.symbol] = wish.price
        before = self.exposure(wish.symbol)
        extra = {"extra_buys" if wish.side is Side.BUY else "extra_sells": wish.size}
        after = self.exposure(wish.symbol, **extra)
        if after <= before:
            return True
        total = self.total() - Fraction(before) + Fraction(after)
        return after <= self.limits.max_symbol_exposure_usd and total <= Fraction(self.limits.max_exposure_usd)

    def record(self, events: list[OrderEvent], fills: list[Fill]) -> None:
        for event in events:
            self.orders[event.order_id] = event
            if event.status in (OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.REJECTED):
                del self.orders[event.order_id]
        for fill in fills:
            change = fill.qty if fill.side is Side.BUY else -fill.qty
            self.position[fill.symbol] = self.position.get(fill.symbol, Decimal(0)) + change


PRICES = st.one_of(
    st.sampled_from([100.0, 37.5, 0.1, 5e-324, 1.7976931348623157e308, 999999999999999.9, 1e-12, 1e-13]),
    st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False),
)
SIZES = st.sampled_from(["0.1", "1", "0.000000000001", "7", "999999999999999", "1E+308", "1E-300"])
SYMBOLS = st.sampled_from("ABCDE")
HISTORIES = st.lists(
    st.one_of(
        st.tuples(st.just("signal"), SYMBOLS, st.sampled_from(Side), SIZES, PRICES),
        st.tuples(
            st.just("ticks"), st.lists(st.tuples(SYMBOLS, PRICES, st.sampled_from([0.3, 1.0, 1e15])), max_size=6)
        ),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
    ),
    max_size=60,
)


@pytest.mark.slow
@pytest.mark.claim("B5", "R3")
@given(
    history=HISTORIES,
    make=st.sampled_from([ShadowExecutor, PaperExecutor]),
    cap=st.sampled_from([1, 500, 10**9, 10**30, 10**330]),
)
def test_B5_R3_the_running_sum_is_the_sum_over_all_holdings(
    history: list[tuple[Any, ...]], make: type[ShadowExecutor] | type[PaperExecutor], cap: int
) -> None:
    """To the digit, whatever the prices: also after prices of 300 digits came and went."""
    limits = caps(total=3 * cap, symbol=2 * cap, orders=10_000)
    book, plain, executor = Book(limits), Plain(limits), make(FEE, Decimal(25))
    opened = ["none"]
    for n, (what, *rest) in enumerate(history, 1):
        events: list[OrderEvent] = []
        fills: list[Fill] = []
        if what == "signal":
            symbol, side, size, price = rest
            wish = signal(n, side, size, repr(price), symbol)
            assessed = book.assess(wish, NOW)
            assert (assessed.veto is None) == plain.allows(wish), assessed.veto_detail
            if assessed.veto is None:
                events, fills = executor.submit(assessed, NOW)
                opened.append(events[0].order_id)
        elif what == "ticks":
            ticks = [Tick("f", symbol, price, volume, NOW, id=n) for symbol, price, volume in rest[0]]
            book.mark(ticks)
            plain.price |= {tick.symbol: Decimal(repr(tick.price)) for tick in ticks}
            events, fills = executor.on_ticks(ticks, NOW)
        else:
            events, fills = executor.cancel(opened[rest[0] % len(opened)], NOW)
        book.record(events, fills)
        plain.record(events, fills)
        assert Fraction(book.exposure()) == plain.total()
        assert [book.exposure(name) for name in "ABCDE"] == [plain.exposure(name) for name in "ABCDE"]


def held_in(symbols: int) -> Book:
    held = {f"S{n}": (Decimal("0.1"), Decimal("99.5")) for n in range(symbols)}
    return Book(caps(total=10**12, symbol=10**9), held)


def round_secs(book: Book) -> float:
    """The quickest of many rounds of ticks, a signal and what came of it."""
    executor = ShadowExecutor(FEE, Decimal(0))
    quickest = 1.0
    for n in range(1, 300):
        started = time.perf_counter()
        book.mark([Tick("f", "S1", 100.0 + n, 1.0, NOW), Tick("f", "unheld", 1.0, 1.0, NOW)])
        book.record(*executor.submit(book.assess(signal(n, symbol="S2"), NOW), NOW))
        quickest = min(quickest, time.perf_counter() - started)
    return quickest


@pytest.mark.claim("B5")
def test_B5_the_work_for_a_signal_does_not_grow_with_the_symbols() -> None:
    few, many = round_secs(held_in(10)), round_secs(held_in(10_000))
    assert many < 5 * few, f"{many * 1e6:.0f} us with 10 000 symbols, {few * 1e6:.0f} us with 10"


@pytest.mark.claim("B5")
def test_B5_a_symbol_more_than_can_be_held_is_vetoed_and_a_flat_one_is_not_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(risk, "HOLDINGS_MAX", 2)
    flat = {f"flat{n}": (Decimal(0), Decimal(100)) for n in range(5)}
    book, executor = Book(caps(), flat), ShadowExecutor(FEE, Decimal(0))

    def assess(n: int, symbol: str, side: Side = Side.BUY) -> Signal:
        assessed = book.assess(signal(n, side, "0.1", symbol=symbol), NOW)
        if assessed.veto is None:
            book.record(*executor.submit(assessed, NOW))
        return assessed

    for n in range(0, 20, 2):  # Each is opened and closed again.
        assert assess(n, f"passing{n}").veto is None
        assert assess(n + 1, f"passing{n}", Side.SELL).veto is None
    # What is assessed and vetoed, or assessed and then answered by nothing, takes no room either.
    for n in range(20, 25):
        assert book.assess(signal(n, size="999", symbol=f"vetoed{n}"), NOW).veto is Reason.RISK_CAP
        assert book.assess(signal(n, size="0.1", symbol=f"dropped{n}"), NOW).veto is None
    # Nor does one whose order ends when others have been assessed.
    paper = PaperExecutor(FEE, Decimal(0))
    for n in range(25, 30):
        for symbol in (f"cancelled{n}", "other"):
            assessed = book.assess(signal(n, size="0.1", symbol=symbol), NOW)
            book.record(*paper.submit(assessed, NOW))
        book.record(*paper.cancel_all(NOW))
    assert [assess(30, "A").veto, assess(31, "B").veto] == [None, None]
    vetoed = assess(32, "C")
    assert vetoed.veto is Reason.RISK_CAP
    assert vetoed.veto_detail == "positions or open orders in 2 symbols, allowed are 2"
    assert assess(33, "A").veto is None
    assert assess(34, "A", Side.SELL).veto is None
    assert assess(35, "A", Side.SELL).veto is None
    assert assess(36, "C").veto is None


@pytest.mark.claim("R3")
def test_R3_a_fill_of_a_symbol_without_a_price_yet_is_reckoned_at_its_own() -> None:
    """A late fill of an order that an earlier run placed: nothing of this symbol was ever marked."""
    book = Book(caps())
    book.record([], [Fill("f1", "o1", "A", Side.SELL, Decimal(2), Decimal(30), Decimal(0), Decimal(60), NOW, False)])
    assert (book.position("A"), book.exposure("A"), book.exposure()) == (-2, 60, 60)


@pytest.mark.claim("R3")
@pytest.mark.parametrize(("side", "filled", "reach"), [(Side.BUY, "0", 3), (Side.SELL, "0", 3), (Side.SELL, "1", 2)])
def test_R3_an_order_that_an_earlier_run_left_open_is_reckoned_at_its_own_price_until_there_is_another(
    side: Side, filled: str, reach: int
) -> None:
    left = OrderEvent(
        order_id="paper-1", seq=3, signal_id="1", symbol="A", side=side, qty=Decimal(3), price=Decimal(30),
        filled_qty=Decimal(filled), status=OrderStatus.ACKNOWLEDGED, reason=Reason.PAPER_ACKNOWLEDGED, ts=NOW,
        is_shadow=True, mode=Mode.PAPER,
    )  # fmt: skip
    book = Book(caps())
    book.record([left], [])
    assert (book.open_orders, book.position("A"), book.exposure("A"), book.exposure()) == (1, 0, 30 * reach, 30 * reach)
    # Told again, or late, it is the same order.
    book.record([left, msgspec.structs.replace(left, seq=1, filled_qty=Decimal(0))], [])
    assert (book.open_orders, book.exposure()) == (1, 30 * reach)
    book.mark([Tick("f", "A", 7.0, 1.0, NOW)])
    assert book.exposure() == 7 * reach
    book.record([msgspec.structs.replace(left, seq=4, status=OrderStatus.CANCELED)], [])
    assert (book.open_orders, book.exposure()) == (0, 0)
    # What comes late does not open it again.
    book.record([left], [])
    assert (book.open_orders, book.exposure()) == (0, 0)


@pytest.mark.claim("R3")
@pytest.mark.parametrize(
    ("side", "most"), [(Side.BUY, "3"), (Side.SELL, "7")], ids=["more of what is held", "through zero"]
)
def test_R3_a_signal_may_raise_the_exposure_up_to_the_cap_and_not_beyond(side: Side, most: str) -> None:
    """Two are held; five are allowed, on either side."""
    assert held("2").assess(signal(side=side, size=most), NOW).veto is None
    assert held("2").assess(signal(side=side, size=f"{most}.000000000001"), NOW).veto_detail == (
        "exposure of A could become 500.000000000100, allowed is 500"
    )
    total = Book(caps(total=500, symbol=501), {"A": (Decimal(2), Decimal(100))})
    assert total.assess(signal(side=side, size=most), NOW).veto is None
    assert total.assess(signal(side=side, size=f"{most}.000000000001"), NOW).veto_detail == (
        "exposure could become 500.000000000100, allowed is 500"
    )


@pytest.mark.claim("R2")
@pytest.mark.parametrize("age_ms", [5_001, -5_001])
def test_R2_a_veto_says_how_old_the_tick_was(age_ms: int) -> None:
    vetoed = Book(caps()).assess(signal(ts=NOW - age_ms), NOW)
    assert vetoed.veto_detail == f"tick is {age_ms} ms old, allowed are 5000 in either direction"


@pytest.mark.claim("R3")
@pytest.mark.parametrize("make", [lambda: PaperExecutor(FEE, Decimal(0)), lambda: LiveExecutor(RecordingAdapter())])
def test_R3_an_order_counts_from_its_first_transition_on(make: Callable[[], Executor]) -> None:
    """Nothing more is heard of a LIVE one until the venue answers."""
    book, executor = Book(caps(orders=1)), make()
    events, fills = executor.submit(signal(1, size="2"), NOW)
    book.record(events[:1], fills)
    assert (book.open_orders, book.exposure("A")) == (1, 200)
    assert book.assess(signal(2), NOW).veto_detail == "1 open orders, allowed are 1"


@pytest.mark.claim("R3")
def test_R3_a_position_of_nothing_is_none() -> None:
    book = Book(caps(), {"A": (Decimal(0), Decimal(100)), "B": (Decimal(1), Decimal(5))})
    assert (book.position("A"), book.position("B"), book.position("C")) == (0, 1, 0)
    assert (book.exposure("A"), book.exposure("B"), book.exposure("C"), book.exposure()) == (0, 5, 0, 5)
    assert Book(caps()).exposure() == 0


@pytest.mark.claim("B5")
def test_B5_symbols_that_are_held_are_as_many_as_the_contract_says() -> None:
    book = Book(caps(total=10**9), {f"S{n}": (Decimal(1), Decimal(1)) for n in range(16_383)})
    last, one_more = signal(1, symbol="last"), signal(2, symbol="one more")
    book.record(*ShadowExecutor(FEE, Decimal(0)).submit(book.assess(last, NOW), NOW))
    assert book.assess(one_more, NOW).veto is Reason.RISK_CAP
    assert book.position("last") == 1


@pytest.mark.claim("R5")
def test_R5_an_exposure_too_long_for_exact_arithmetic_is_rounded_against_us() -> None:
    price = "1." + "1" * 64
    for qty in ("3", "-3"):
        exposure = held(qty, price).exposure("A")
        assert 0 < Fraction(exposure) - 3 * Fraction(price) < Fraction(1, 10**50)
