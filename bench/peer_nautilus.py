"""nautilus_trader's receive and decode: its Rust WebSocket client, its Binance schemas, a TradeTick for each trade. It
stores nothing. Runs under any interpreter that has nautilus_trader; imports nothing of ours.

    python bench/peer_nautilus.py URL TICKS

prints {"done": monotonic ns} when it has seen them all.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import msgspec
from nautilus_trader.adapters.binance.common.schemas.market import BinanceAggregatedTradeMsg, BinanceDataMsgWrapper
from nautilus_trader.core.nautilus_pyo3 import WebSocketClient, WebSocketConfig
from nautilus_trader.model.identifiers import InstrumentId


class Receiver:
    """What its BinanceCommonDataClient does with an aggTrade, up to where the trade enters the data engine."""

    def __init__(self, ticks: int) -> None:
        self._left = ticks
        self._wrapper = msgspec.json.Decoder(BinanceDataMsgWrapper)
        self._trade = msgspec.json.Decoder(BinanceAggregatedTradeMsg)
        self._instrument = InstrumentId.from_str("SOLUSDT.BINANCE")

    def __call__(self, raw: bytes) -> None:
        """One message."""
        if "@aggTrade" in self._wrapper.decode(raw).stream:
            self._trade.decode(raw).data.parse_to_trade_tick(self._instrument, ts_init=time.time_ns())
            self._left -= 1
            if self._left == 0:
                print(json.dumps({"done": time.monotonic_ns()}), flush=True)


async def main() -> None:
    """Until it is killed."""
    url, ticks = sys.argv[1:]
    config = WebSocketConfig(url=url, handler=Receiver(int(ticks)), headers=[])
    client = await WebSocketClient.connect(config=config)
    await asyncio.Event().wait()
    del client


if __name__ == "__main__":
    asyncio.run(main())
