"""Contract R1, S8, B5: which ticks make signals, and that nothing but the ticks decides it."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import Reason, Side, Signal, Tick
from engine.base.exits import ConfigError
from engine.trading import strategy
from engine.trading.strategy import Strategy

SIZE = Decimal("0.1")


def ticks_of(prices: list[float], symbols: list[str] | None = None) -> list[Tick]:
    names = symbols or ["SOL/USDC"] * len(prices)
    return [
        Tick("feed", name, price, 1.0, 1_000 + n, id=n)
        for n, (price, name) in enumerate(zip(prices, names, strict=True), 1)
    ]


def periodic(every: int = 10) -> Strategy:
    return strategy.make("periodic", order_size=SIZE, signal_every_n_ticks=every, sma_short=5, sma_long=20)


def crossover(short: int = 2, long: int = 3) -> Strategy:
    return strategy.make("sma_crossover", order_size=SIZE, signal_every_n_ticks=10, sma_short=short, sma_long=long)


@pytest.mark.claim("R1")
def test_R1_periodic_signals_every_nth_tick_with_alternating_sides() -> None:
    signals = periodic(10).on_ticks(ticks_of([100.5] * 35))
    assert [(s.tick_id, s.side) for s in signals] == [(10, Side.SELL), (20, Side.BUY), (30, Side.SELL)]
    assert signals[0] == Signal(
        event_id="periodic:10",
        tick_id=10,
        symbol="SOL/USDC",
        side=Side.SELL,
        reason=Reason.PERIODIC_TRIGGER,
        confidence=0.75,
        size=SIZE,
        price=Decimal("100.5"),
        ts=1_010,
    )


@pytest.mark.claim("R1")
def test_R1_sma_crossover_buys_above_and_sells_below() -> None:
    signals = crossover().on_ticks(ticks_of([10, 10, 10, 13, 13, 13, 9, 9]))
    assert [(s.tick_id, s.side, s.reason, s.confidence) for s in signals] == [
        (4, Side.BUY, Reason.SMA_CROSSOVER, 0.75),
        (7, Side.SELL, Reason.SMA_CROSSOVER, 0.75),
    ]


@pytest.mark.claim("R1")
def test_R1_sma_crossover_needs_one_tick_more_than_the_long_average() -> None:
    # Rising from the start: already above when the averages first exist, so nothing has crossed.
    assert crossover().on_ticks(ticks_of([1, 2, 3, 4, 5, 6])) == []


@pytest.mark.claim("R1")
def test_R1_equal_averages_are_no_cross_however_long_the_price_stands_still() -> None:
    # 100.1 is not a binary fraction: averages made by adding floats would differ in the last bit.
    assert crossover(3, 7).on_ticks(ticks_of([100.1] * 500)) == []


@pytest.mark.claim("R1")
def test_R1_symbols_have_averages_of_their_own() -> None:
    mixed = ticks_of([10, 50, 10, 40, 10, 30, 13, 20], ["A", "B"] * 4)
    assert [(s.symbol, s.side) for s in crossover().on_ticks(mixed)] == [("A", Side.BUY)]


@pytest.mark.claim("R1")
@pytest.mark.parametrize(("short", "long"), [(5, 5), (6, 5), (0, 5)])
def test_R1_averages_that_cannot_cross_are_refused(short: int, long: int) -> None:
    with pytest.raises(ConfigError, match=f"sma_short = {short}, sma_long = {long}"):
        crossover(short, long)


@pytest.mark.claim("R1")
def test_R1_an_unknown_strategy_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'periodc'.*periodic.*sma_crossover") as refused:
        strategy.make("periodc", order_size=SIZE, signal_every_n_ticks=1, sma_short=1, sma_long=2)
    assert refused.value.details == {"name": "periodc", "known": ["periodic", "sma_crossover"]}


PRICES = st.lists(
    st.one_of(
        st.sampled_from([99.9, 100.0, 100.1, 100.2]),
        st.floats(min_value=5e-324, max_value=1.7e308, allow_nan=False),
    ),
    max_size=60,
)


@pytest.mark.claim("R1")
@given(prices=PRICES, short=st.integers(1, 4), more=st.integers(1, 5))
def test_R1_rolling_averages_equal_a_recomputation_from_all_prices(prices: list[float], short: int, more: int) -> None:
    long = short + more
    exact = [int(Decimal(repr(p)).scaleb(400)) for p in prices]
    expected = []
    for n in range(long, len(exact)):
        before = sum(exact[n - short : n]) * long - sum(exact[n - long : n]) * short
        now = sum(exact[n - short + 1 : n + 1]) * long - sum(exact[n - long + 1 : n + 1]) * short
        if before <= 0 < now:
            expected.append((n + 1, Side.BUY))
        if before >= 0 > now:
            expected.append((n + 1, Side.SELL))
    signals = crossover(short, long).on_ticks(ticks_of(prices))
    assert [(s.tick_id, s.side) for s in signals] == expected


@pytest.mark.claim("S8")
@given(
    prices=st.lists(st.sampled_from([99.9, 100.0, 100.1]), max_size=60),
    sizes=st.lists(st.integers(0, 9), max_size=20),
    every=st.integers(1, 7),
)
def test_S8_batches_do_not_matter(prices: list[float], sizes: list[int], every: int) -> None:
    ticks = ticks_of(prices)
    builders: list[Callable[[], Strategy]] = [lambda: periodic(every), crossover]
    for build in builders:
        one_by_one, batched = build(), build()
        expected = [signal for tick in ticks for signal in one_by_one.on_ticks([tick])]
        got, start = [], 0
        for size in [*sizes, len(ticks)]:
            got += batched.on_ticks(ticks[start : start + size])
            start += size
        assert got == expected


@pytest.mark.claim("I3")
def test_I3_a_signal_is_named_after_the_trade_not_after_the_row_it_came_to_lie_in() -> None:
    def ids(*ticks: Tick) -> list[str]:
        return [signal.event_id for signal in periodic(1).on_ticks(ticks)]

    def tick(source: str, **identity: Any) -> Tick:
        return Tick(source, "SOL/USDC", 1.0, 1.0, 1, **identity)

    assert ids(tick("feed", trade_id=7, id=1)) == ids(tick("feed", trade_id=7, id=2)) == ["periodic:7@feed"]
    assert ids(tick("feed", event_id="x", id=1)) == ids(tick("feed", event_id="x", id=2)) == ["periodic:'x'@1@feed"]
    # Different trades never share a name, however the sources and the textual ids are chosen.
    others = [
        tick("feed", id=7),
        tick("feed2", trade_id=7),
        tick("feed", trade_id=8),
        tick("feed", event_id="7"),
        tick("feed", event_id="7@feed"),
        tick("feed", event_id="7'@feed"),
        tick("'@feed", event_id="7"),
    ]
    assert len({*ids(*others), "periodic:7@feed"}) == len(others) + 1


@pytest.mark.slow
@pytest.mark.claim("S8")
def test_S8_a_fresh_process_makes_the_same_signals() -> None:
    prices = [100 + (n * 7919 % 31) / 10 for n in range(400)]
    program = (
        "from proofs.engine.test_strategy import crossover, periodic, ticks_of;"
        "ticks = ticks_of([100 + (n * 7919 % 31) / 10 for n in range(400)]);"
        "print(periodic().on_ticks(ticks) + crossover().on_ticks(ticks))"
    )
    here = periodic().on_ticks(ticks_of(prices)) + crossover().on_ticks(ticks_of(prices))
    assert len(here) > 50
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout == f"{here}\n"


def remembering(batches: list[list[Tick]], symbols_max: int, prices_max: int, long: int) -> list[Signal]:
    """What the crossover must say, from one strategy for each symbol that is still remembered: B5 written once more."""
    alone: dict[str, tuple[Strategy, int]] = {}  # the latest tick's symbol last; the prices it holds
    made = []
    for tick in (tick for batch in batches for tick in batch):
        own, held = alone.pop(tick.symbol, (crossover(1, long), 0))
        made += own.on_ticks([tick])
        alone[tick.symbol] = own, min(held + 1, long)
        while len(alone) > symbols_max or (sum(n for _, n in alone.values()) > prices_max and len(alone) > 1):
            del alone[next(iter(alone))]
    return made


@pytest.mark.claim("B5", "S8")
@given(
    steps=st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from([99.0, 101.0])), min_size=20, max_size=120),
    cut=st.integers(0, 120),
    symbols_max=st.integers(1, 3),
    prices_max=st.integers(1, 12),
    long=st.integers(2, 4),
)
def test_B5_S8_the_symbol_without_a_tick_for_longest_is_forgotten_and_starts_anew(
    steps: list[tuple[str, float]], cut: int, symbols_max: int, prices_max: int, long: int
) -> None:
    ticks = ticks_of([price for _, price in steps], [symbol for symbol, _ in steps])
    batches = [ticks[:cut], ticks[cut:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategy, "SYMBOLS_MAX", symbols_max)
        patch.setattr(strategy, "PRICES_MAX", prices_max)
        bounded = crossover(1, long)
        made = [signal for batch in batches for signal in bounded.on_ticks(batch)]
    assert made == remembering(batches, symbols_max, prices_max, long)


@pytest.mark.claim("B5", "R1")
def test_B5_a_symbol_alone_is_remembered_however_long_its_average(monkeypatch: pytest.MonkeyPatch) -> None:
    prices: list[float] = [10, 10, 10, 13, 13, 13, 9, 9]
    unbounded = crossover().on_ticks(ticks_of(prices))
    monkeypatch.setattr(strategy, "PRICES_MAX", 2)
    assert crossover().on_ticks(ticks_of(prices)) == unbounded != []


@pytest.mark.slow
@pytest.mark.claim("B5")
@pytest.mark.parametrize(("long", "symbols"), [(20, 30_000), (1_000, 3_000)])
def test_B5_the_memory_of_averages_is_bounded(long: int, symbols: int) -> None:
    """A new symbol with each tick, and as many ticks of each symbol as its average takes."""
    ticks_each = 1 if symbols > strategy.SYMBOLS_MAX else 100
    bounded = crossover(5, long)
    tracemalloc.start()
    try:
        for n in range(symbols):
            bounded.on_ticks([Tick("f", f"{n:0128}", 100.0, 1.0, 0, id=1)] * ticks_each)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 24 * 2**20, f"{held / 2**20:.0f} MiB"
