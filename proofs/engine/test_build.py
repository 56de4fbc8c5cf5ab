"""What a run begins with of what earlier runs left: positions and open orders of its own mode, and a replay nothing
(contract R3, R4, I2, N2)."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import pytest

from engine import build
from engine.base import metrics, notify
from engine.base.events import Mode, OrderEvent, OrderStatus, Reason, Side, Signal
from engine.config.schema import Settings
from engine.storage.batch import Position, Restored

NOW_MS = time.time_ns() // 1_000_000


def held(mode: Mode) -> Restored:
    """As much as one symbol may have, bought."""
    position = Position(Decimal(50), Decimal(-5000), Decimal(0), Decimal(100))
    return Restored(1, [], {}, {}, {}, {}, {mode: {"SOL/USDC": position}}, [], [])


def waiting(mode: Mode) -> Restored:
    """As many open orders as there may be."""
    orders = [
        OrderEvent(
            order_id=f"{mode.lower()}-{number}", seq=1, signal_id=str(number), symbol="ETH/USDC", side=Side.BUY,
            qty=Decimal(1), price=Decimal(1), filled_qty=Decimal(0), status=OrderStatus.ACKNOWLEDGED,
            reason=Reason.PAPER_ACKNOWLEDGED, ts=NOW_MS, is_shadow=mode is not Mode.LIVE, mode=mode,
        )
        for number in range(10)
    ]  # fmt: skip
    return Restored(1, [], {}, {}, {}, {}, {}, [], orders)


async def judged(options: Settings, restored: Restored, side: Side) -> Reason | None:
    """Why the first signal of a run is vetoed."""
    counters, liveness = metrics.Counters(), notify.Liveness(("strategy", "execution"))
    channels = build.make_channels(options, asyncio.get_running_loop().time)
    desk = build.make_desk(options, restored, None, channels, counters, liveness)
    signal = Signal("first", 1, "SOL/USDC", side, Reason.PERIODIC_TRIGGER, 0.75, Decimal("0.1"), Decimal(100), NOW_MS)
    [found] = desk._execute([], [signal]).signals
    return found.veto


@pytest.mark.claim("R3", "I2", "N2")
@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.PAPER])
@pytest.mark.parametrize("left_by", list(Mode))
@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize(
    ("restored", "side", "counts"),
    [(held, Side.BUY, True), (held, Side.SELL, False), (waiting, Side.BUY, True), (waiting, Side.SELL, True)],
    ids=["held, more", "held, less", "waiting, buy", "waiting, sell"],
)
def test_caps_count_what_earlier_runs_of_the_mode_left(
    mode: Mode, left_by: Mode, replay: bool, restored: object, side: Side, counts: bool
) -> None:
    assert callable(restored)
    options = Settings(mode=mode.value)
    options = options.model_copy(
        update={
            "engine": options.engine.model_copy(
                update={"ingest_mode": "REPLAY" if replay else "SYNTHETIC", "max_staleness_ms": 3_600_000}
            )
        }
    )
    veto = asyncio.run(judged(options, restored(left_by), side))
    assert veto == (Reason.RISK_CAP if counts and mode is left_by and not replay else None)
