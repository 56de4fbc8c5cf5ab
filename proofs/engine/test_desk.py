"""From ticks to rows, without feed and database (contract R2, R4, S11, L4, M2, B1)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import build
from engine.base import metrics, notify
from engine.base.events import OrderStatus, Reason, Tick
from engine.config.schema import Settings
from engine.storage.batch import Batch, Restored
from proofs.fixtures import engine_loop

NOTHING_LEFT = Restored(1, [], {}, {}, {}, {}, {}, [], [])


def settings(
    mode: str,
    *,
    signal_channel_size: int = 64,
    order_size: float = 0.1,
    max_exposure_usd: float = 10_000.0,
    max_open_orders: int = 1000,
    strategy: str = "periodic",
    **engine: Any,
) -> Settings:
    return Settings.model_validate(
        {
            "mode": mode,
            "engine": {"ingest_mode": "REPLAY", "signal_every_n_ticks": 1, **engine},
            "execution": {"order_size": order_size},
            "strategy": {"name": strategy, "sma_short": 2, "sma_long": 3},
            "risk_caps": {"max_exposure_usd": max_exposure_usd, "max_open_orders": max_open_orders},
            "channels": {"signal_channel_size": signal_channel_size},
        }
    )


def tick(number: int, ts: int, volume: float = 1.0, price: float = 100.0, symbol: str = "SOL/USDC") -> Tick:
    return Tick("f", symbol, price, volume, ts, trade_id=number, id=number)


@dataclass
class Traded:
    """What came of some ticks."""

    batches: list[Batch]
    weights: list[int]
    """Of what went through the signal channel, piece by piece."""
    counters: metrics.Counters
    outcomes_made: int

    def of(self, kind: str) -> list[Any]:
        return [row for batch in self.batches for row in getattr(batch, kind)]


def trade(options: Settings, *pieces: Sequence[Tick]) -> Traded:
    """The two stages, each to its end, on ticks that come in these pieces."""

    async def run() -> Traded:
        counters, liveness = metrics.Counters(), notify.Liveness(("strategy", "execution"))
        ticks, signals, rows = build.make_channels(options, asyncio.get_running_loop().time)
        channels = build.PipelineChannels(ticks, signals, rows)
        desk = build.make_desk(options, NOTHING_LEFT, None, channels, counters, liveness)
        batches: list[Batch] = []
        weights: list[int] = []

        async def feed() -> None:
            for piece in pieces:
                await ticks.put(list(piece), len(piece))
            ticks.close()

        async def strategy() -> None:
            await desk.run_strategy()
            signals.close()

        async def execution() -> None:
            await desk.run_execution()
            rows.close()

        async def persist() -> None:
            while not (rows.closed and not rows.pending()):
                weights.append(signals.weight)
                await rows.wait()
                batches.extend(rows.take_all())

        async with asyncio.timeout(10):
            await asyncio.gather(feed(), strategy(), execution(), persist())
        return Traded(batches, weights, counters, desk.outcomes_made)

    return engine_loop.run(run())


@pytest.mark.claim("R2", "R4")
@pytest.mark.parametrize(
    ("stamps", "told"),
    [
        ([[0]], [0]),
        ([[7], [9]], [7, 9]),
        # A trade that comes late does not turn the clock back, in its own piece or in a later one.
        ([[5, 3, 9, 4]], [5, 5, 9, 9]),
        ([[5], [3], [9], [4]], [5, 5, 9, 9]),
    ],
)
def test_R2_a_replay_is_at_the_latest_time_that_it_has_seen(stamps: list[list[int]], told: list[int]) -> None:
    numbers = iter(range(1, 100))
    pieces = [[tick(next(numbers), ts) for ts in piece] for piece in stamps]
    made = trade(settings("SHADOW"), *pieces)
    assert [order.ts for order in made.of("orders")] == [fill.ts for fill in made.of("fills")] == told


@pytest.mark.claim("R2", "R4")
def test_R2_a_paper_order_of_a_replay_is_filled_and_cancelled_at_the_latest_time_that_it_has_seen() -> None:
    pieces = [[tick(1, 50), tick(2, 90), tick(3, 70)], [tick(4, 80)], [tick(5, 95, volume=1e-13)]]
    made = trade(settings("PAPER", signal_every_n_ticks=3), *pieces)
    assert [(order.status.value, order.ts) for order in made.of("orders")] == [
        ("SUBMITTED", 90), ("ACKNOWLEDGED", 90), ("FILLED", 90),
    ]  # fmt: skip
    assert [fill.ts for fill in made.of("fills")] == [90]
    unfilled = trade(settings("PAPER", signal_every_n_ticks=3), pieces[0], pieces[2])
    assert [(order.status.value, order.ts) for order in unfilled.of("orders")][2:] == [("CANCELED", 95)]


@pytest.mark.claim("R2")
@pytest.mark.parametrize("mode", ["SHADOW", "PAPER"])
def test_R2_a_replay_judges_staleness_by_the_latest_time_that_it_has_seen(mode: str) -> None:
    pieces = [[tick(1, 100_000)], [tick(2, 95_000)], [tick(3, 94_999)], [tick(4, 100_001)], [tick(5, 95_000)]]
    made = trade(settings(mode, max_staleness_ms=5000), *pieces)
    stale = Reason.STALE_DATA
    assert [signal.veto for signal in made.of("signals")] == [None, None, stale, None, stale]
    assert (made.counters.stale_vetoes, made.counters.risk_vetoes) == (2, 0)
    assert made.counters.signal_count == 5


@pytest.mark.claim("R2")
def test_R2_ticks_without_a_signal_move_the_time_of_a_paper_replay_on() -> None:
    """Risk is asked about the second signal when the third tick, which is no signal's, has been seen."""
    made = trade(
        settings("PAPER", signal_every_n_ticks=2, max_staleness_ms=5000),
        [tick(1, 0), tick(2, 100_000)], [tick(3, 200_000)], [tick(4, 150_000)],
    )  # fmt: skip
    assert [signal.veto for signal in made.of("signals")] == [None, Reason.STALE_DATA]


@pytest.mark.claim("S11", "R4")
def test_S11_what_is_still_open_at_the_end_of_the_ticks_is_cancelled_and_stored() -> None:
    made = trade(settings("PAPER"), [tick(1, 10), tick(2, 20, volume=0.05)])
    lives: dict[str, list[tuple[str, Decimal]]] = {}
    for order in made.of("orders"):
        lives.setdefault(order.order_id, []).append((order.status.value, order.filled_qty))
    half, nothing = Decimal("0.05"), Decimal(0)
    assert list(lives.values()) == [
        [("SUBMITTED", nothing), ("ACKNOWLEDGED", nothing), ("PARTIAL_FILL", half), ("CANCELED", half)],
        [("SUBMITTED", nothing), ("ACKNOWLEDGED", nothing), ("CANCELED", nothing)],
    ]
    assert made.outcomes_made == 7 + 1


@pytest.mark.claim("L4", "M2")
@pytest.mark.parametrize("mode", ["SHADOW", "PAPER"])
def test_L4_an_order_that_cannot_be_booked_is_told_with_its_reason(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    made = trade(settings(mode, order_size=1e-13), [tick(1, 10), tick(2, 20)])
    rejected = [order for order in made.of("orders") if order.status is OrderStatus.REJECTED]
    told = [vars(record)["fields"] for record in caplog.records if record.message == "order rejected"]
    assert told == [{"order_id": order.order_id, "detail": order.detail, "reason": order.reason} for order in rejected]
    assert len(rejected) == 2
    assert all(record.levelname == "ERROR" for record in caplog.records)
    assert (made.counters.shadow_orders, made.counters.trade_count) == (0, 0)


@pytest.mark.claim("M2", "R3")
def test_M2_vetoes_are_counted_by_their_reason_and_shadow_orders_when_they_are_recorded() -> None:
    pieces = [tick(number, 10 * number) for number in range(1, 9)]
    made = trade(settings("SHADOW", max_exposure_usd=10.0), pieces)
    # Each buys or sells for 10 USD; the first of each pair opens, and the second closes.
    assert [signal.veto for signal in made.of("signals")] == [None] * 8
    tight = trade(settings("SHADOW", max_exposure_usd=9.0), pieces)
    assert [signal.veto for signal in tight.of("signals")] == [Reason.RISK_CAP] * 8
    assert (made.counters.shadow_orders, made.counters.trade_count, made.counters.risk_vetoes) == (8, 8, 0)
    assert (tight.counters.shadow_orders, tight.counters.trade_count, tight.counters.risk_vetoes) == (0, 0, 8)
    assert made.counters.stale_vetoes == tight.counters.stale_vetoes == 0


@pytest.mark.claim("B1", "R1")
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.sampled_from([1, 7, 64]),
    st.sampled_from([1, 3]),
    st.sampled_from(["SHADOW", "PAPER"]),
)
def test_B1_what_becomes_of_ticks_does_not_depend_on_pieces_and_never_overfills_a_channel(
    sizes: list[int], signal_channel_size: int, every: int, mode: str
) -> None:
    ticks = [tick(number, number) for number in range(1, sum(sizes) + 1)]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    pieces = [ticks[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    options = settings(mode, signal_channel_size=signal_channel_size, signal_every_n_ticks=every)
    made = trade(options, *pieces)
    assert [signal.tick_id for signal in made.of("signals")] == [one.id for one in ticks[every - 1 :: every]]
    assert made.counters.signal_count == len(ticks) // every
    assert made.counters.trade_count == len(made.of("fills"))
    assert made.outcomes_made == len(made.of("orders")) + len(made.of("fills"))
    # A PAPER piece is its ticks and their signals, which are no more.
    assert max(made.weights) <= signal_channel_size * (1 if mode == "SHADOW" else 2)


@pytest.mark.claim("R3", "R4", "I2")
@pytest.mark.parametrize(("price", "veto"), [(940.0, None), (960.0, Reason.RISK_CAP)])
@pytest.mark.parametrize("mode", ["SHADOW", "PAPER"])
@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_R3_ticks_without_a_signal_move_the_exposure_of_what_a_run_holds(
    mode: str, size: int, price: float, veto: Reason | None
) -> None:
    """A tenth is sold at 100, and the market carries it on; whether another symbol has room depends on that."""
    ticks = [tick(n, n) for n in (1, 2, 3, 4)] + [tick(5, 5, price=price), tick(6, 6, symbol="ETH/USDC")]
    pieces = [ticks[at : at + size] for at in range(0, len(ticks), size)]
    made = trade(settings(mode, signal_every_n_ticks=3, max_exposure_usd=105.0), *pieces)
    assert [signal.symbol for signal in made.of("signals")] == ["SOL/USDC", "ETH/USDC"]
    assert [signal.veto for signal in made.of("signals")] == [None, veto]


TICKS = st.lists(
    st.tuples(
        st.sampled_from(["SOL/USDC", "ETH/USDC"]),
        st.sampled_from([90.0, 100.0, 110.0, 200.0]),
        st.sampled_from([0.04, 0.1, 5.0]),
        # A trade may come late, and a market be silent for more than an hour.
        st.sampled_from([0, 1, 1, 1000, -6000, 4_000_000]),
    ),
    min_size=1,
    max_size=40,
)


@pytest.mark.slow
@pytest.mark.claim("R3", "R4", "S8")
@given(
    said=TICKS,
    cuts=st.sets(st.integers(1, 39)),
    signal_channel_size=st.sampled_from([1, 5, 64]),
    every=st.sampled_from([1, 2, 5]),
    strategy=st.sampled_from(["periodic", "sma_crossover"]),
    max_open_orders=st.sampled_from([1, 3]),
    max_exposure_usd=st.sampled_from([15.0, 35.0]),
    mode=st.sampled_from(["SHADOW", "PAPER"]),
)
def test_R3_R4_S8_the_same_ticks_give_the_same_signals_vetoes_and_fills_however_many_come_at_once(
    said: list[tuple[str, float, float, int]], cuts: set[int], signal_channel_size: int, mode: str, **options: Any
) -> None:
    ticks, ts = [], 10_000
    for number, (symbol, price, volume, after_ms) in enumerate(said, start=1):
        ts += after_ms
        ticks.append(tick(number, ts, volume, price, symbol))
    every = options.pop("every")
    single, other = (
        trade(settings(mode, signal_channel_size=size, signal_every_n_ticks=every, **options), *pieces)
        for size, pieces in (
            (64, [[one] for one in ticks]),
            (
                signal_channel_size,
                [ticks[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), 40]) if a < len(ticks)],
            ),
        )
    )
    for kind in ("signals", "orders", "fills"):
        assert other.of(kind) == single.of(kind)
    assert other.counters == single.counters


@pytest.mark.claim("M1")
@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_M1_each_signal_veto_and_order_is_told_to_who_asks_for_everything(
    level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "engine.pipeline")
    made = trade(settings("SHADOW", max_staleness_ms=5000), [tick(1, 100_000), tick(2, 1)])
    first, second = made.of("signals")
    [order] = made.of("orders")
    assert [(record.message, vars(record)["fields"]) for record in caplog.records] == (
        [
            *(
                (
                    "signal generated",
                    {"event_id": one.event_id, "symbol": one.symbol, "side": one.side, "reason_code": one.reason},
                )
                for one in (first, second)
            ),
            (
                "signal vetoed",
                {"event_id": second.event_id, "reason": Reason.STALE_DATA, "detail": second.veto_detail},
            ),
            (
                "shadow order executed",
                {"order_id": order.order_id, "signal_id": first.event_id, "symbol": "SOL/USDC"},
            ),
        ]
        if level == "DEBUG"
        else []
    )
