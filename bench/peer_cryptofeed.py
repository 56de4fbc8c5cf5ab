"""cryptofeed's Binance feed with an SQLite sink over aiosqlite, written as its own storage backends are: a queue, and a
task that writes what has come in. Runs under any interpreter that has cryptofeed and aiosqlite; imports nothing of ours.

    python bench/peer_cryptofeed.py URL DATABASE
"""

from __future__ import annotations

import asyncio
import sys

import aiosqlite
from cryptofeed import FeedHandler
from cryptofeed.backends.backend import BackendCallback, BackendQueue
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import TRADES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbol, Symbols


class TradeSQLite(BackendQueue, BackendCallback):
    """Takes everything the queue holds into one transaction."""

    default_key = TRADES

    def __init__(self, path: str) -> None:
        self.path = path
        self.running = True
        self.numeric_type = float
        self.none_to = None

    async def writer(self) -> None:
        """The backend's task; cryptofeed starts it."""
        async with aiosqlite.connect(self.path) as database:
            await database.execute("PRAGMA journal_mode = WAL")
            await database.execute("PRAGMA synchronous = NORMAL")
            await database.execute(
                "CREATE TABLE ticks(id INTEGER PRIMARY KEY, symbol TEXT, price REAL, volume REAL, ts REAL,"
                " trade_id INTEGER)"
            )
            while self.running:
                async with self.read_queue() as trades:
                    await database.executemany(
                        "INSERT INTO ticks(symbol, price, volume, ts, trade_id) VALUES (?, ?, ?, ?, ?)",
                        [
                            (trade["symbol"], trade["price"], trade["amount"], trade["timestamp"], trade["id"])
                            for trade in trades
                        ],
                    )
                    await database.commit()


def main() -> None:
    """Until it is killed."""
    url, path = sys.argv[1:]
    symbol = Symbol("SOL", "USDT")
    # Instead of asking the venue's REST interface for its symbols.
    Symbols.set(Binance.id, {symbol.normalized: "SOLUSDT"}, {"instrument_type": {symbol.normalized: symbol.type}})
    Binance.websocket_endpoints = [WebsocketEndpoint(url)]
    # It switches to uvloop, whose policy makes no loop of its own accord.
    handler = FeedHandler(config={"log": {"disabled": True}, "uvloop": True})
    asyncio.set_event_loop(asyncio.new_event_loop())
    handler.add_feed(Binance(symbols=[symbol.normalized], channels=[TRADES], callbacks={TRADES: TradeSQLite(path)}))
    handler.run(install_signal_handlers=False)


if __name__ == "__main__":
    main()
