"""Contract R4, R5, B5, I1, I3, I4, S9-S11, L4: what becomes of a signal, and that the accounts balance."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import EXACT, Fill, Mode, OrderEvent, OrderStatus, Reason, Side, Signal, Tick
from engine.base.exits import ConfigError, Crash
from engine.trading import execution
from engine.trading.execution import (
    PAPER_ORDERS_MAX,
    PAPER_REST_MS,
    PAPER_TICKS_MAX,
    PLACES,
    SEEN_IDS_MAX,
    AdapterReport,
    Executor,
    LiveExecutor,
    PaperExecutor,
    SeenIds,
    ShadowExecutor,
)
from engine.trading.risk import Book, Caps
from harness.evidence.checkers import FillRow, LedgerRows, fills_balance
from proofs.fixtures.recording_adapter import RecordingAdapter

FEE = Decimal("0.001")
NOW = 5_000


def signal(
    tick_id: int = 1,
    side: Side = Side.BUY,
    size: str = "0.1",
    price: str = "100",
    veto: Reason | None = None,
    symbol: str = "SOL/USDC",
) -> Signal:
    return Signal(
        event_id=f"periodic:{tick_id}",
        tick_id=tick_id,
        symbol=symbol,
        side=side,
        reason=Reason.PERIODIC_TRIGGER,
        confidence=0.75,
        size=Decimal(size),
        price=Decimal(price),
        ts=4_000,
        veto=veto,
    )


def tick(tick_id: int, volume: float, price: float = 100.0, symbol: str = "SOL/USDC") -> Tick:
    return Tick("feed", symbol, price, volume, 4_000 + tick_id, id=tick_id)


def shadow(bps: int = 0) -> ShadowExecutor:
    return ShadowExecutor(FEE, Decimal(bps))


def paper(bps: int = 0) -> PaperExecutor:
    return PaperExecutor(FEE, Decimal(bps))


def statuses(events: Iterable[OrderEvent]) -> list[str]:
    return [event.status for event in events]


def assert_balanced(fills: Iterable[Fill]) -> None:
    rows = [
        FillRow(number, fill.symbol, fill.side.value, fill.qty, fill.price, fill.fees, fill.cash_delta)
        for number, fill in enumerate(fills, start=1)
    ]
    judgement = fills_balance([LedgerRows(1, [], [], [], rows)])
    assert not judgement.violations, judgement


@pytest.mark.claim("R4", "S9")
def test_R4_S9_shadow_records_order_and_fill_at_the_tick_price() -> None:
    [event], [fill] = shadow(bps=10).submit(signal(side=Side.BUY, price="100"), NOW)
    assert (event.status, event.reason, event.seq, event.is_shadow) == (
        OrderStatus.FILLED, Reason.SHADOW_RECORDED, 0, True,
    )  # fmt: skip
    assert (event.order_id, fill.event_id) == ("shadow-periodic:1", "shadow-periodic:1/0")
    assert event.detail == "fee_rate=0.001 slippage_bps=10"
    assert (fill.qty, fill.price, fill.fees) == (Decimal("0.1"), Decimal("100.1"), Decimal("0.01001"))
    assert fill.cash_delta == Decimal("-10.02001")
    assert (fill.is_shadow, fill.mode, fill.ts) == (True, Mode.SHADOW, NOW)


@pytest.mark.claim("S9")
def test_S9_slippage_is_always_against_us() -> None:
    _, [bought] = shadow(bps=50).submit(signal(1, Side.BUY), NOW)
    _, [sold] = shadow(bps=50).submit(signal(1, Side.SELL), NOW)
    assert (bought.price, sold.price) == (Decimal("100.5"), Decimal("99.5"))


@pytest.mark.claim("R5", "S9")
@pytest.mark.parametrize(
    ("size", "price", "qty", "paid", "fees"),
    [
        # 0.666733333332|6666 and 0.001111111111|5555: to the nearest.
        ("1", "0.666666666666", "1", "0.666733333333", "0.000666733333"),
        # Never more than was asked for.
        ("0.1234567890128", "1", "0.123456789012", "1.0001", "0.000123469135"),
        # 0.000000005000|5 and 0.000000015001|5 lie in the middle: to the even one.
        ("1", "0.000000005", "1", "0.000000005000", "0.000000000005"),
        ("1", "0.000000015", "1", "0.000000015002", "0.000000000015"),
    ],
)
def test_R5_S9_what_is_finer_than_the_places_is_rounded_once(
    size: str, price: str, qty: str, paid: str, fees: str
) -> None:
    """Prices and fees to the nearest, a quantity down: an order is never larger than its signal."""
    shadowed = shadow(bps=1).submit(signal(size=size, price=price), NOW)[1]
    papered = paper(bps=1)
    papered.submit(signal(size=size, price=price), NOW)
    _, filled = papered.on_ticks([tick(2, 10.0, float(price))], NOW)
    for [fill] in (shadowed, filled):
        assert (fill.qty, fill.price, fill.fees) == (Decimal(qty), Decimal(paid), Decimal(fees))
        assert_balanced([fill])


@pytest.mark.claim("R5", "I4")
def test_R5_I4_what_a_venue_says_is_rounded_to_the_nearest() -> None:
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    executor.submit(signal(size="1"), NOW)
    qty, price, fees = Decimal("0.4000000000008"), Decimal("99.0000000000008"), Decimal("0.0000000000018")
    adapter.answers = [AdapterReport("live-periodic:1", OrderStatus.PARTIAL_FILL, qty, price, fees)]
    _, [fill] = executor.on_ticks([], NOW)
    assert [fill.qty, fill.price, fill.fees] == [
        Decimal("0.400000000001"), Decimal("99.000000000001"), Decimal("0.000000000002"),
    ]  # fmt: skip
    assert_balanced([fill])


@pytest.mark.claim("R4", "L3")
@pytest.mark.parametrize("value", ["0", "-1", "NaN", "Infinity", "1e15", "1e300", "1e-13"])
@pytest.mark.parametrize("field", ["size", "price"])
def test_R4_L3_what_cannot_be_booked_is_rejected(field: str, value: str) -> None:
    wrong: dict[str, Any] = {field: value}
    for bps in (0, 10):
        events, fills = shadow(bps).submit(signal(**wrong), NOW)
        assert (statuses(events), fills) == (["REJECTED"], [])
        assert (events[0].detail or "").startswith(f"{field} ")
    events, fills = paper().submit(signal(**wrong), NOW)
    assert (statuses(events), fills) == (["SUBMITTED", "REJECTED"], [])
    assert events[1].reason is Reason.PAPER_REJECTED
    assert field in (events[1].detail or "")


@pytest.mark.claim("R4", "L3")
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("0", "0 is not a positive number"), ("-0.5", "-0.5 is not a positive number"),
        ("NaN", "NaN is not a positive number"), ("-Infinity", "-Infinity is not a positive number"),
        ("1e-13", "1E-13 is below 1E-12"), ("1e15", "1E+15 is not below 1E+15"),
        ("1000000000000000.5", "1000000000000000.5 is not below 1E+15"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["size", "price"])
def test_L3_a_rejection_says_what_is_wrong_with_which_figure(field: str, value: str, why: str) -> None:
    wrong: dict[str, Any] = {field: value}
    [rejected], _ = shadow().submit(signal(**wrong), NOW)
    assert rejected.detail == f"{field} {why}"
    # Of two the size is named.
    [both], _ = shadow().submit(signal(2, size=value, price=value), NOW)
    assert both.detail == f"size {why}"


LEAST, MOST = "0.000000000001", "999999999999999.999999999999"
"""What can be booked, in size and in price."""


@pytest.mark.claim("R4", "R5")
@pytest.mark.parametrize(("size", "price"), [(LEAST, LEAST), (LEAST, MOST), (MOST, LEAST), (MOST, MOST)])
def test_R4_R5_from_the_least_to_the_most_that_can_be_booked_an_order_is_made_and_balances(
    size: str, price: str
) -> None:
    _, shadowed = shadow().submit(signal(size=size, price=price), NOW)
    adapter = RecordingAdapter()
    live = LiveExecutor(adapter)
    live.submit(signal(size=size, price=price), NOW)
    adapter.answers = [
        AdapterReport("live-periodic:1", OrderStatus.FILLED, Decimal(size), Decimal(price), Decimal(MOST))
    ]
    _, told = live.on_ticks([], NOW)
    for [fill] in (shadowed, told):
        assert (fill.qty, fill.price) == (Decimal(size), Decimal(price))
        assert_balanced([fill])
    papered = paper()
    assert statuses(papered.submit(signal(size=size, price=price), NOW)[0]) == ["SUBMITTED", "ACKNOWLEDGED"]


@pytest.mark.claim("R4", "R5")
@pytest.mark.parametrize("price", [1e-12, 999999999999999.9])
@pytest.mark.parametrize("volume", [1e-12, 999999999999999.9])
def test_R4_R5_a_tick_of_the_least_and_of_the_most_fills_an_order(price: float, volume: float) -> None:
    executor = paper()
    executor.submit(signal(size=MOST), NOW)
    [event], [fill] = executor.on_ticks([tick(2, volume, price)], NOW)
    assert event.status is OrderStatus.PARTIAL_FILL
    assert (fill.qty, fill.price) == (Decimal(repr(volume)), Decimal(repr(price)))
    assert_balanced([fill])


@pytest.mark.claim("R6", "L4")
@pytest.mark.parametrize(
    "figures",
    [
        ("0.100000000001", "100", "0"),
        ("0", "100", "0"),
        ("1e-13", "100", "0"),
        ("NaN", "100", "0"),
        ("0.1", "0", "0"),
        ("0.1", "1e15", "0"),
        ("0.1", "Infinity", "0"),
        ("0.1", "100", "NaN"),
        ("0.1", "100", "1e15"),
        ("0.1", "100", "-1e15"),
    ],
)
def test_L4_a_fill_that_cannot_be_is_recorded_on_the_order_and_fills_nothing(figures: tuple[str, str, str]) -> None:
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    executor.submit(signal(size="0.1"), NOW)
    qty, price, fees = map(Decimal, figures)
    adapter.answers = [AdapterReport("live-periodic:1", OrderStatus.FILLED, qty, price, fees)]
    [event], fills = executor.on_ticks([], NOW)
    assert (event.status, event.reason, event.filled_qty, fills) == (
        OrderStatus.SUBMITTED, Reason.ADAPTER_ERROR, 0, [],
    )  # fmt: skip
    assert event.detail is not None
    assert event.detail.startswith("reports: FILLED with ")
    # All of it can still be filled, and fees that the venue pays are fees too.
    adapter.answers = [
        AdapterReport("live-periodic:1", OrderStatus.FILLED, Decimal("0.1"), Decimal(100), Decimal("-0.01"))
    ]
    _, [fill] = executor.on_ticks([], NOW)
    assert (fill.qty, fill.fees, fill.cash_delta) == (Decimal("0.1"), Decimal("-0.01"), Decimal("-9.99"))


@pytest.mark.claim("R4")
def test_R4_slippage_of_the_whole_price_is_rejected() -> None:
    events, fills = shadow(bps=10_000).submit(signal(side=Side.SELL), NOW)
    assert (statuses(events), fills) == (["REJECTED"], [])


@pytest.mark.claim("S10", "S11")
def test_S10_S11_paper_order_lives_through_partial_fills() -> None:
    executor = paper()
    events, _ = executor.submit(signal(1, size="1"), NOW)
    assert [(e.status, e.reason, e.seq) for e in events] == [
        (OrderStatus.SUBMITTED, Reason.PAPER_SUBMITTED, 0),
        (OrderStatus.ACKNOWLEDGED, Reason.PAPER_ACKNOWLEDGED, 1),
    ]
    events, fills = executor.on_ticks([tick(2, 0.25), tick(3, 0.5, 101.0), tick(4, 9.0)], NOW + 1)
    assert [(e.status, e.filled_qty, e.seq) for e in events] == [
        (OrderStatus.PARTIAL_FILL, Decimal("0.25"), 2),
        (OrderStatus.PARTIAL_FILL, Decimal("0.75"), 3),
        (OrderStatus.FILLED, Decimal("1"), 4),
    ]
    assert [(f.event_id, f.qty, f.price) for f in fills] == [
        ("paper-periodic:1/2", Decimal("0.25"), 100),
        ("paper-periodic:1/3", Decimal("0.5"), 101),
        ("paper-periodic:1/4", Decimal("0.25"), 100),
    ]
    assert_balanced(fills)
    assert executor.on_ticks([tick(5, 9.0)], NOW) == ([], [])


@pytest.mark.claim("S11")
def test_S11_the_rest_of_a_partial_fill_can_be_cancelled() -> None:
    executor = paper()
    executor.submit(signal(1, size="1"), NOW)
    executor.on_ticks([tick(2, 0.4)], NOW)
    [event], fills = executor.cancel("paper-periodic:1", NOW)
    assert (event.status, event.filled_qty, fills) == (OrderStatus.CANCELED, Decimal("0.4"), [])
    assert event.reason is Reason.PAPER_CANCELED
    assert executor.on_ticks([tick(3, 9.0)], NOW) == ([], [])
    assert executor.cancel("paper-periodic:1", NOW) == ([], [])


@pytest.mark.claim("S11")
def test_S11_what_no_tick_fills_is_cancelled_in_the_end() -> None:
    executor = paper()
    executor.submit(signal(1, size="1000"), NOW)
    events, fills = executor.on_ticks([tick(n, 1.0) for n in range(2, 2 + PAPER_TICKS_MAX)], NOW)
    assert len(fills) == PAPER_TICKS_MAX
    assert events[-1].status is OrderStatus.CANCELED
    assert events[-1].filled_qty == PAPER_TICKS_MAX


@pytest.mark.claim("S11", "R4")
def test_S11_R4_an_order_in_a_market_without_ticks_is_cancelled_after_an_hour() -> None:
    executor = paper()
    executor.submit(signal(1), NOW)
    executor.submit(signal(2), NOW + 1)
    assert executor.on_ticks([tick(3, 1.0, symbol="other")], NOW + PAPER_REST_MS) == ([], [])
    events, fills = executor.on_ticks([tick(4, 1.0, symbol="other")], NOW + PAPER_REST_MS + 1)
    assert [(event.order_id, event.status, event.detail) for event in events] == [
        ("paper-periodic:1", OrderStatus.CANCELED, "not filled within 3600 s")
    ]
    assert (fills, executor.open_order_ids()) == ([], ["paper-periodic:2"])
    # Partial fills are no new beginning.
    third = paper()
    third.submit(signal(7), NOW)
    assert statuses(third.on_ticks([tick(8, 0.01)], NOW + PAPER_REST_MS // 2)[0]) == ["PARTIAL_FILL"]
    assert statuses(third.on_ticks([tick(9, 1.0, symbol="other")], NOW + PAPER_REST_MS + 1)[0]) == ["CANCELED"]
    # One that an earlier run left is as old as its last transition.
    second = paper()
    second.adopt(list(paper().submit(signal(5), NOW)[0]))
    assert statuses(second.on_ticks([tick(6, 1.0, symbol="other")], NOW + PAPER_REST_MS + 1)[0]) == ["CANCELED"]


@pytest.mark.claim("S11", "R4")
@pytest.mark.parametrize("symbols", [["SOL/USDC"], ["other", "SOL/USDC"], ["SOL/USDC"] * 3])
@pytest.mark.parametrize("late_ms", [0, 1, 2 * PAPER_REST_MS])
def test_S11_R4_the_tick_that_ends_an_hours_silence_fills_nothing_of_before(symbols: list[str], late_ms: int) -> None:
    executor = paper()
    executor.submit(signal(1), NOW)
    executor.submit(signal(2), NOW + PAPER_REST_MS + late_ms)
    ticks = [tick(number, 1.0, symbol=symbol) for number, symbol in enumerate(symbols, start=3)]
    events, fills = executor.on_ticks(ticks, NOW + PAPER_REST_MS + late_ms)
    first = "CANCELED" if late_ms else "FILLED"
    assert {event.order_id[-1]: event.status.value for event in events} == {"1": first, "2": "FILLED"}
    assert len(fills) == (1 if late_ms else 2)


@pytest.mark.claim("B5", "R4")
def test_B5_R4_the_oldest_paper_order_makes_room_when_a_new_symbol_comes_with_each_tick() -> None:
    executor = paper()
    made, ended = 0, []
    for n in range(PAPER_ORDERS_MAX + 50):
        events, _ = executor.submit(signal(n, symbol=f"S{n}"), NOW)
        made += statuses(events).count("ACKNOWLEDGED")
        ended += [event for event in events if event.status is OrderStatus.CANCELED]
        assert executor.on_ticks([tick(n, 1.0, symbol=f"S{n}")], NOW) == ([], [])
    assert (made, len(executor.open_order_ids())) == (PAPER_ORDERS_MAX + 50, PAPER_ORDERS_MAX)
    assert [event.order_id for event in ended] == [f"paper-periodic:{n}" for n in range(50)]
    assert ended[0].detail == "4096 newer orders rest"
    # The books of what is open follow: no tick fills what was cancelled, the rest is filled.
    assert executor.on_ticks([tick(9_999, 1.0, symbol="S49")], NOW) == ([], [])
    assert statuses(executor.on_ticks([tick(9_999, 1.0, symbol="S50")], NOW)[0]) == ["FILLED"]


@pytest.mark.claim("B5")
def test_B5_the_work_for_a_tick_does_not_grow_with_the_orders_in_other_symbols() -> None:
    def tick_secs(others: int) -> float:
        executor = paper()
        for n in range(others):
            executor.submit(signal(n, symbol=f"S{n}"), NOW)
        quickest = 1.0
        for n in range(10_000, 10_300):
            executor.submit(signal(n, symbol="mine"), NOW)
            started = time.perf_counter()
            executor.on_ticks([tick(n + 1, 1.0, symbol="mine"), tick(n + 1, 1.0, symbol="nobody's")], NOW)
            quickest = min(quickest, time.perf_counter() - started)
        return quickest

    few, many = tick_secs(10), tick_secs(4_000)
    assert many < 5 * few, f"{many * 1e6:.0f} us with 4 000 orders elsewhere, {few * 1e6:.0f} us with 10"


@pytest.mark.claim("R4")
def test_R4_shutdown_cancels_every_open_paper_order() -> None:
    executor = paper()
    for n in (1, 2):
        executor.submit(signal(n), NOW)
    events, _ = executor.cancel_all(NOW)
    assert [(e.order_id, e.status) for e in events] == [
        ("paper-periodic:1", OrderStatus.CANCELED),
        ("paper-periodic:2", OrderStatus.CANCELED),
    ]


@pytest.mark.claim("R4", "S11")
def test_R4_S11_shutdown_cancels_what_is_left_of_a_partial_fill() -> None:
    """What was filled stays filled and booked once; the rest is gone."""
    executor = paper()
    executor.submit(signal(1, size="1"), NOW)
    partial, [fill] = executor.on_ticks([tick(2, 0.4)], NOW)
    [event], fills = executor.cancel_all(NOW)
    assert (event.status, event.filled_qty, event.seq) == (OrderStatus.CANCELED, Decimal("0.4"), partial[-1].seq + 1)
    assert (fill.qty, fills) == (Decimal("0.4"), [])
    assert executor.on_ticks([tick(3, 9.0)], NOW) == ([], [])
    assert executor.cancel_all(NOW) == ([], [])


@pytest.mark.claim("R4")
def test_R4_one_tick_fills_no_more_than_its_volume_oldest_order_first() -> None:
    executor = paper()
    executor.submit(signal(1, size="0.6"), NOW)
    executor.submit(signal(2, size="0.6"), NOW)
    _, fills = executor.on_ticks([tick(3, 1.0)], NOW)
    assert [(f.order_id, f.qty) for f in fills] == [
        ("paper-periodic:1", Decimal("0.6")),
        ("paper-periodic:2", Decimal("0.4")),
    ]


@pytest.mark.claim("R4")
def test_R4_paper_ignores_other_symbols_and_ticks_up_to_its_own() -> None:
    executor = paper()
    executor.submit(signal(5), NOW)
    early = [tick(4, 9.0), tick(5, 9.0), tick(6, 9.0, symbol="ETH/USD")]
    assert executor.on_ticks(early, NOW) == ([], [])


@pytest.mark.claim("R4", "L3")
@pytest.mark.parametrize(("price", "volume"), [(1e300, 1.0), (100.0, 0.0), (100.0, 1e-20), (1e-20, 1.0)])
def test_R4_L3_a_tick_that_cannot_be_booked_fills_nothing(price: float, volume: float) -> None:
    executor = paper(bps=10)
    executor.submit(signal(1), NOW)
    assert executor.on_ticks([tick(2, volume, price)], NOW) == ([], [])


@pytest.mark.claim("R4", "L3")
@pytest.mark.parametrize("price", [9e14, 1e-12])
def test_R4_L3_a_tick_at_which_one_side_could_not_be_booked_fills_neither(price: float) -> None:
    """With slippage a buyer would pay too much for the books, or a seller get too little."""
    executor = paper(bps=5000)
    for tick_id, side in ((1, Side.SELL), (2, Side.BUY)):
        executor.submit(signal(tick_id, side=side), NOW)
    assert executor.on_ticks([tick(3, 9.0, price)], NOW) == ([], [])
    assert len(executor.on_ticks([tick(4, 9.0, 100.0)], NOW)[1]) == 2


@pytest.mark.claim("S10")
def test_S10_an_open_order_of_an_earlier_run_is_carried_on() -> None:
    first = paper()
    events, _ = first.submit(signal(1, size="1"), NOW)
    more, _ = first.on_ticks([tick(2, 0.4)], NOW)
    second = paper()
    second.adopt(more)
    assert second.submit(signal(1, size="1"), NOW) == ([], [])
    [event], [fill] = second.on_ticks([tick(3, 9.0)], NOW)
    assert (event.status, event.seq, event.filled_qty) == (OrderStatus.FILLED, more[-1].seq + 1, 1)
    assert (fill.qty, fill.event_id) == (Decimal("0.6"), "paper-periodic:1/3")
    assert statuses(events) == ["SUBMITTED", "ACKNOWLEDGED"]


@pytest.mark.claim("S10")
def test_S10_an_open_order_of_an_earlier_run_is_filled_by_whatever_tick_comes_first() -> None:
    """Also by the first of all: somebody may have emptied the table of ticks."""
    left, _ = paper().submit(signal(500, size="1"), NOW)
    executor = paper()
    executor.adopt(left[-1:])
    assert executor.open_order_ids() == ["paper-periodic:500"]
    [event], [fill] = executor.on_ticks([tick(1, 0.25)], NOW)
    assert (event.status, event.filled_qty, event.seq) == (OrderStatus.PARTIAL_FILL, Decimal("0.25"), 2)
    assert (fill.order_id, fill.price) == ("paper-periodic:500", 100)
    # It rests as many ticks as any other.
    later, _ = executor.on_ticks([tick(n, 1e-13) for n in range(2, PAPER_TICKS_MAX + 1)], NOW)
    assert statuses(later) == ["CANCELED"]


@pytest.mark.claim("S10", "L4")
@pytest.mark.parametrize("status", [OrderStatus.SUBMITTED, OrderStatus.ACKNOWLEDGED, OrderStatus.PARTIAL_FILL])
def test_S10_an_order_of_an_earlier_run_has_the_status_that_it_had(status: OrderStatus) -> None:
    """What goes wrong with it is a transition to that status."""
    [left], _ = LiveExecutor(RecordingAdapter()).submit(signal(1, size="1"), NOW)
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    executor.adopt([msgspec.structs.replace(left, seq=4, status=status, filled_qty=Decimal("0.25"))])
    adapter.failure = ConnectionError("gone")
    [event], fills = executor.cancel_all(NOW + 1)
    assert (event.order_id, event.seq, event.status, event.reason, fills) == (
        "live-periodic:1", 5, status, Reason.ADAPTER_ERROR, [],
    )  # fmt: skip
    assert (event.qty, event.filled_qty, event.side, event.price, event.ts) == (
        1, Decimal("0.25"), Side.BUY, 100, NOW + 1,
    )  # fmt: skip


@pytest.mark.claim("B5")
def test_B5_of_a_symbol_without_open_orders_nothing_is_kept() -> None:
    executor = paper()
    for n in range(1, 50):
        executor.submit(signal(n, symbol=f"S{n}"), NOW)
        if n % 2:
            executor.on_ticks([tick(n + 1, 9.0, symbol=f"S{n}")], NOW)
        else:
            executor.cancel(f"paper-periodic:{n}", NOW)
    assert (executor._by_symbol, executor.open_order_ids()) == ({}, [])


@pytest.mark.claim("S10", "S11")
@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.LIVE])
def test_S10_an_open_order_of_another_mode_is_not_taken_over(mode: Mode) -> None:
    left = [msgspec.structs.replace(event, mode=mode) for event in paper().submit(signal(1), NOW)[0]]
    executor = paper()
    executor.adopt(left)
    assert executor.open_order_ids() == []
    assert executor.submit(signal(1), NOW)[0] != []


EXECUTORS: list[Callable[[], Executor]] = [shadow, paper, lambda: LiveExecutor(RecordingAdapter())]


@pytest.mark.claim("I3")
@pytest.mark.parametrize("make", EXECUTORS, ids=["shadow", "paper", "live"])
def test_I3_the_same_signal_again_changes_nothing(make: Callable[[], Executor]) -> None:
    executor = make()
    assert executor.submit(signal(1), NOW)[0]
    assert executor.submit(signal(1), NOW + 1) == ([], [])


@pytest.mark.claim("R4", "S11")
@pytest.mark.parametrize("make", EXECUTORS, ids=["shadow", "paper", "live"])
def test_S11_an_order_that_is_not_open_cannot_be_cancelled(make: Callable[[], Executor]) -> None:
    executor = make()
    assert executor.cancel("nobody's", NOW) == ([], [])
    assert executor.cancel_all(NOW) == ([], [])
    assert executor.open_order_ids() == []
    assert executor.on_ticks([tick(2, 1.0)], NOW) == ([], [])


@pytest.mark.claim("I3")
def test_I3_the_memory_of_ids_is_exact_within_its_bound() -> None:
    seen = SeenIds(3)
    assert [seen.add(name) for name in "abcabcd"] == [True, True, True, False, False, False, True]
    assert [name in seen for name in "abcd"] == [False, True, True, True]
    assert SEEN_IDS_MAX == 2048


@pytest.mark.claim("L2")
@pytest.mark.parametrize("make", EXECUTORS, ids=["shadow", "paper", "live"])
def test_L2_a_vetoed_signal_never_becomes_an_order(make: Callable[[], Executor]) -> None:
    with pytest.raises(ValueError, match="STALE_DATA"):
        make().submit(signal(1, veto=Reason.STALE_DATA), NOW)


AMOUNTS = st.decimals(min_value="0.000000000001", max_value="999999999", allow_nan=False, places=12)


@pytest.mark.claim("I4")
@given(
    size=AMOUNTS,
    price=st.decimals(min_value="0.000001", max_value="999999999999", allow_nan=False),
    side=st.sampled_from(Side),
    fee=st.decimals(min_value="0", max_value="0.05", places=6),
    bps=st.decimals(min_value="0", max_value="500", places=3),
    volumes=st.lists(st.floats(1e-9, 1e9), max_size=8),
)
def test_I4_cash_position_and_fees_balance_for_every_fill(
    size: Decimal, price: Decimal, side: Side, fee: Decimal, bps: Decimal, volumes: list[float]
) -> None:
    wish = signal(1, side, str(size), str(price))
    _, fills = ShadowExecutor(fee, bps).submit(wish, NOW)
    assert_balanced(fills)
    executor = PaperExecutor(fee, bps)
    executor.submit(wish, NOW)
    ticks = [tick(n, volume, float(price)) for n, volume in enumerate(volumes, 2)]
    events, fills = executor.on_ticks(ticks, NOW)
    assert_balanced(fills)
    filled = sum((f.qty for f in fills), Decimal(0))
    assert filled <= size
    for fill, event in zip(fills, events, strict=True):
        assert fill.fees == fill.fees.quantize(PLACES, context=EXACT)
        assert fill.event_id == f"{event.order_id}/{event.seq}"
    for fill, one in zip(fills, ticks, strict=False):
        assert fill.qty <= Decimal(repr(one.volume))


@pytest.mark.claim("R4")
@given(
    sizes=st.lists(st.sampled_from(["0.1", "1", "5"]), min_size=1, max_size=5),
    volumes=st.lists(st.sampled_from([0.05, 0.5, 2.0]), max_size=20),
    cut=st.integers(0, 20),
)
def test_R4_batches_do_not_change_what_is_filled(sizes: list[str], volumes: list[float], cut: int) -> None:
    ticks = [tick(n, volume) for n, volume in enumerate(volumes, 10)]

    def run(batches: list[list[Tick]]) -> tuple[list[OrderEvent], list[Fill]]:
        executor = paper()
        for n, size in enumerate(sizes):
            executor.submit(signal(n, size=size), NOW)
        outcomes = [executor.on_ticks(batch, NOW) for batch in batches]
        return [e for events, _ in outcomes for e in events], [f for _, fills in outcomes for f in fills]

    assert run([ticks]) == run([ticks[:cut], ticks[cut:]])


@pytest.mark.claim("L4")
def test_L4_an_adapter_error_is_recorded_with_its_text() -> None:
    adapter = RecordingAdapter()
    adapter.failure = TimeoutError("venue does not answer")
    events, fills = LiveExecutor(adapter).submit(signal(1), NOW)
    assert adapter.submitted == ["live-periodic:1"]
    assert (statuses(events), fills) == (["SUBMITTED", "REJECTED"], [])
    assert (events[1].reason, events[1].detail) == (Reason.ADAPTER_ERROR, "TimeoutError: venue does not answer")
    assert not events[0].is_shadow


@pytest.mark.claim("L4")
def test_L4_a_cancel_that_fails_is_recorded_and_the_order_stays_open() -> None:
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    executor.submit(signal(1), NOW)
    adapter.failure = ConnectionError("gone")
    [event], _ = executor.cancel_all(NOW)
    assert (event.status, event.detail) == (OrderStatus.SUBMITTED, "cancel: ConnectionError: gone")
    assert event.reason is Reason.ADAPTER_ERROR
    adapter.failure = None
    assert executor.cancel("live-periodic:1", NOW) == ([], [])
    assert adapter.cancelled == ["live-periodic:1", "live-periodic:1"]


@pytest.mark.claim("L4")
def test_L4_reports_that_fail_are_recorded_once_and_asked_for_again() -> None:
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    executor.submit(signal(1), NOW)
    executor.submit(signal(2), NOW)
    adapter.answers = [AdapterReport("live-periodic:1", OrderStatus.ACKNOWLEDGED)]
    adapter.reports_failure = ConnectionError("gone")
    events, fills = executor.on_ticks([], NOW)
    assert [(e.order_id[-1], e.seq, e.status, e.reason, e.detail) for e in events] == [
        ("1", 1, OrderStatus.ACKNOWLEDGED, Reason.ADAPTER, None),
        ("1", 2, OrderStatus.ACKNOWLEDGED, Reason.ADAPTER_ERROR, "reports: ConnectionError: gone"),
        ("2", 1, OrderStatus.SUBMITTED, Reason.ADAPTER_ERROR, "reports: ConnectionError: gone"),
    ]
    assert fills == []
    # A venue that stays away does not fill the database; an order that comes meanwhile is in doubt too.
    executor.submit(signal(3), NOW)
    assert [e.order_id[-1] for e in executor.on_ticks([], NOW)[0]] == ["3"]
    adapter.reports_failure = None
    adapter.answers = [AdapterReport("live-periodic:2", OrderStatus.CANCELED)]
    assert statuses(executor.on_ticks([], NOW)[0]) == ["CANCELED"]
    adapter.reports_failure = ConnectionError("gone again")
    assert [e.order_id[-1] for e in executor.on_ticks([], NOW)[0]] == ["1", "3"]


@pytest.mark.claim("I3")
@pytest.mark.parametrize("mode", list(Mode))
def test_I3_a_signal_that_an_earlier_run_answered_is_not_answered_again(mode: Mode) -> None:
    executor = execution.make(mode, fee_rate=FEE, slippage_bps=Decimal(0), adapter=RecordingAdapter())
    executor.adopt([], ["periodic:1"])
    assert executor.submit(signal(1), NOW) == ([], [])
    assert executor.submit(signal(2), NOW)[0] != []


@pytest.mark.claim("R6")
def test_R6_live_books_what_the_adapter_reports() -> None:
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    executor.submit(signal(1, size="1"), NOW)
    adapter.answers = [
        AdapterReport("live-periodic:1", OrderStatus.ACKNOWLEDGED),
        AdapterReport("live-periodic:1", OrderStatus.PARTIAL_FILL, Decimal("0.4"), Decimal("99.9"), Decimal("0.01")),
        AdapterReport("live-periodic:1", OrderStatus.CANCELED, detail="by venue"),
    ]
    events, fills = executor.on_ticks([], NOW)
    assert statuses(events) == ["ACKNOWLEDGED", "PARTIAL_FILL", "CANCELED"]
    assert [(f.qty, f.cash_delta, f.mode) for f in fills] == [(Decimal("0.4"), Decimal("-39.97"), Mode.LIVE)]
    assert_balanced(fills)


@pytest.mark.claim("L4")
def test_L4_a_report_about_an_unknown_order_ends_the_run() -> None:
    adapter = RecordingAdapter()
    adapter.answers = [AdapterReport("live-x", OrderStatus.FILLED)]
    with pytest.raises(Crash, match="recording") as ended:
        LiveExecutor(adapter).on_ticks([], NOW)
    assert ended.value.details == {"order_id": "live-x", "status": OrderStatus.FILLED}


@pytest.mark.claim("L4", "I4")
@pytest.mark.parametrize("with_ticks", [False, True])
def test_L4_I4_what_is_reported_beside_an_unknown_order_is_booked_before_the_run_ends(with_ticks: bool) -> None:
    """A venue that repeats itself after a reconnect has filled the order all the same."""
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    for number in (1, 2):
        executor.submit(signal(number), NOW)
    first, second = (
        AdapterReport(f"live-periodic:{number}", OrderStatus.FILLED, Decimal("0.1"), Decimal(100), Decimal(0))
        for number in (1, 2)
    )
    adapter.answers = [first, first, second]
    events, fills = executor.on_ticks([tick(3, 1.0)] if with_ticks else [], NOW)
    assert statuses(events) == ["FILLED", "FILLED"]
    assert [fill.order_id for fill in fills] == [first.order_id, second.order_id]
    # With ticks come signals, which are orders at the venue by then.
    assert executor.on_ticks([tick(4, 1.0)], NOW) == ([], [])
    with pytest.raises(Crash, match="not open"):
        executor.on_ticks([], NOW)


@pytest.mark.claim("R6")
def test_R6_live_without_an_adapter_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="adapter") as refused:
        execution.make(Mode.LIVE, fee_rate=FEE, slippage_bps=Decimal(0))
    assert refused.value.details == {"mode": Mode.LIVE}


@pytest.mark.claim("R4")
@pytest.mark.parametrize("mode", list(Mode))
def test_R4_every_mode_has_its_executor(mode: Mode) -> None:
    made = execution.make(mode, fee_rate=FEE, slippage_bps=Decimal(0), adapter=RecordingAdapter())
    assert made.mode is mode


@pytest.mark.claim("I1")
def test_I1_execution_imports_nothing_that_could_reach_a_venue() -> None:
    tree = ast.parse(Path(execution.__file__).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("__import__", "eval", "exec", "open")
    assert imported <= {
        "__future__", "collections", "collections.abc", "decimal", "typing", "msgspec", "engine.base.events",
        "engine.base.exits",
    }  # fmt: skip


@pytest.mark.claim("L4")
def test_L4_reports_after_an_impossible_fill_are_booked_all_the_same() -> None:
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    executor.submit(signal(1), NOW)
    executor.submit(signal(2, size="1"), NOW)
    adapter.answers = [
        AdapterReport("live-periodic:1", OrderStatus.FILLED, Decimal(99), Decimal(100), Decimal(0)),
        AdapterReport("live-periodic:2", OrderStatus.FILLED, Decimal(1), Decimal(100), Decimal(0)),
    ]
    events, fills = executor.on_ticks([], NOW)
    assert [(event.order_id, event.reason) for event in events] == [
        ("live-periodic:1", Reason.ADAPTER_ERROR), ("live-periodic:2", Reason.ADAPTER),
    ]  # fmt: skip
    assert [fill.order_id for fill in fills] == ["live-periodic:2"]


@pytest.mark.claim("R6", "L4", "I2")
@pytest.mark.parametrize("status", list(OrderStatus))
def test_L4_I2_a_status_that_an_adapter_spells_as_text_is_that_status(status: OrderStatus) -> None:
    """As JSON gives it: the order that it ends is over for risk too, and no longer counts against the caps."""
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    book = Book(Caps(Decimal(10_000), Decimal(5_000), 10, 5_000))
    book.record(*executor.submit(signal(1), NOW))
    as_text: Any = status.value
    adapter.answers = [AdapterReport("live-periodic:1", as_text, Decimal("0.1"), Decimal(100), Decimal(0))]
    events, fills = executor.on_ticks([], NOW)
    book.record(events, fills)
    assert [event.status for event in events] == [status]
    assert events[0].status is status
    assert len(fills) == (status in (OrderStatus.PARTIAL_FILL, OrderStatus.FILLED))
    assert book.open_orders == len(executor.open_order_ids())


@pytest.mark.claim("L4")
@pytest.mark.parametrize("status", ["filled", "", "Filled ", b"FILLED", None, 4, [], float("nan")])
def test_L4_what_is_no_status_is_recorded_on_the_order_and_changes_nothing(status: Any) -> None:
    adapter = RecordingAdapter()
    executor = LiveExecutor(adapter)
    executor.submit(signal(1), NOW)
    adapter.answers = [AdapterReport("live-periodic:1", status, Decimal("0.1"), Decimal(100), Decimal(0))]
    [event], fills = executor.on_ticks([], NOW)
    assert (event.status, event.reason, fills) == (OrderStatus.SUBMITTED, Reason.ADAPTER_ERROR, [])
    assert event.detail == f"reports: {status!r}, which is no status"
    assert executor.open_order_ids() == ["live-periodic:1"]


@pytest.mark.claim("R6")
def test_R6_a_report_without_an_execution_has_no_figures() -> None:
    report = AdapterReport("live-periodic:1", OrderStatus.CANCELED)
    assert (report.qty, report.price, report.fees, report.detail) == (0, 0, 0, None)
