"""cryptofeed's Binance feed with an SQLite sink over aiosqlite, in two ways:

    each     a callback that awaits an INSERT for each trade and commits every 100, as its examples use callbacks
    queued   as its Postgres backend does it: an unbounded queue, and a task that writes all that has come in at once

Neither has a second unique key, sees duplicates or gaps, or bounds its memory. Runs under any interpreter that has
cryptofeed and aiosqlite; imports nothing of ours.

    python bench/peer_cryptofeed.py each|queued URL DATABASE
"""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal
from typing import Protocol

import aiosqlite
from cryptofeed import FeedHandler, connection
from cryptofeed.backends.backend import BackendCallback, BackendQueue
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import TRADES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbol, Symbols

CREATE = """CREATE TABLE ticks(id INTEGER PRIMARY KEY, symbol TEXT, price REAL, volume REAL, ts REAL,
                               trade_id INTEGER)"""
INSERT = "INSERT INTO ticks(symbol, price, volume, ts, trade_id) VALUES (?, ?, ?, ?, ?)"
COMMIT_EVERY = 100


async def open_database(path: str) -> aiosqlite.Connection:
    """The table, in a new file."""
    database = await aiosqlite.connect(path)
    await database.execute("PRAGMA journal_mode = WAL")
    await database.execute("PRAGMA synchronous = NORMAL")
    await database.execute(CREATE)
    return database


class Trade(Protocol):
    """What cryptofeed gives a callback."""

    symbol: str
    price: Decimal
    amount: Decimal
    timestamp: float
    id: str


class Each:
    """A callback that writes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._database: aiosqlite.Connection | None = None
        self._count = 0

    async def __call__(self, trade: Trade, receipt_timestamp: float) -> None:
        """One trade."""
        if self._database is None:
            self._database = await open_database(self._path)
        row = (trade.symbol, float(trade.price), float(trade.amount), trade.timestamp, trade.id)
        await self._database.execute(INSERT, row)
        self._count += 1
        if self._count % COMMIT_EVERY == 0:
            await self._database.commit()


class Queued(BackendQueue, BackendCallback):
    """A storage backend; cryptofeed starts its writer."""

    default_key = TRADES

    def __init__(self, path: str) -> None:
        self.path = path
        self.running = True
        self.numeric_type = float
        self.none_to = None

    async def writer(self) -> None:
        """Until the end of the process."""
        database = await open_database(self.path)
        while self.running:
            async with self.read_queue() as trades:
                rows = [(t["symbol"], t["price"], t["amount"], t["timestamp"], t["id"]) for t in trades]
                await database.executemany(INSERT, rows)
                await database.commit()


def main() -> None:
    """Until it is killed."""
    way, url, path = sys.argv[1:]
    sink = {"each": Each, "queued": Queued}[way](path)
    symbol = Symbol("SOL", "USDT")
    # Instead of asking the venue's REST interface for its symbols.
    Symbols.set(Binance.id, {symbol.normalized: "SOLUSDT"}, {"instrument_type": {symbol.normalized: symbol.type}})
    # No subject speaks TLS here, but cryptofeed refuses an address without it.
    secure_connect = connection.connect
    connection.connect = lambda address, **options: secure_connect(address.replace("wss:", "ws:"), **options)
    Binance.websocket_endpoints = [WebsocketEndpoint(url.replace("ws:", "wss:"))]
    # It switches to uvloop, whose policy makes no loop of its own accord.
    handler = FeedHandler(config={"log": {"disabled": True}, "uvloop": True})
    asyncio.set_event_loop(asyncio.new_event_loop())
    handler.add_feed(Binance(symbols=[symbol.normalized], channels=[TRADES], callbacks={TRADES: sink}))
    handler.run(install_signal_handlers=False)


if __name__ == "__main__":
    main()
