"""The raw floor: the least code that brings trades from a WebSocket into the engine's table. Not an engine.

Same transport (picows on uvloop), same decoder library, same schema, keys, PRAGMAs and multi-row INSERT as the engine;
no dedupe, no gaps, no sampling, no strategy, risk or orders, no books, no backpressure, no reconnect, no clean stop.

    python -m bench.floor URL DATABASE
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import sys
import threading

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

ROWS_PER_STATEMENT = 128
_ROW = "(?,?,?,?,?,?,?,?)"
_HEAD = "INSERT INTO ticks(id, symbol, price, volume, ts, source, trade_id, event_id) VALUES "
_MANY = _HEAD + ",".join([_ROW] * ROWS_PER_STATEMENT)
_ONE = _HEAD + _ROW
_COLUMNS = 8


class Trade(msgspec.Struct, gc=False, rename={"id": "t", "price": "p", "volume": "q", "ts": "T"}):
    """A Binance trade."""

    id: int
    price: float
    volume: float
    ts: int


def open_database(path: str) -> sqlite3.Connection:
    """The engine's tick table, in a new file."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript(
        """PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
           PRAGMA wal_autocheckpoint = 4096; PRAGMA temp_store = MEMORY;
           CREATE TABLE ticks(id INTEGER PRIMARY KEY, symbol TEXT NOT NULL, price REAL NOT NULL, volume REAL NOT NULL,
                              ts INTEGER NOT NULL, source INTEGER, trade_id INTEGER, event_id TEXT);
           CREATE UNIQUE INDEX ticks_by_trade_id ON ticks(source, trade_id) WHERE trade_id IS NOT NULL;
           CREATE UNIQUE INDEX ticks_by_event_id ON ticks(source, event_id) WHERE event_id IS NOT NULL;"""
    )
    return connection


def write(connection: sqlite3.Connection, reads: queue.SimpleQueue[list[object]]) -> None:
    """The writer thread: everything that waits in one transaction."""
    step = ROWS_PER_STATEMENT * _COLUMNS
    while True:
        values = reads.get()
        while not reads.empty():
            values += reads.get()
        connection.execute("BEGIN")
        whole = len(values) - len(values) % step
        for start in range(0, whole, step):
            connection.execute(_MANY, values[start : start + step])
        for start in range(whole, len(values), _COLUMNS):
            connection.execute(_ONE, values[start : start + _COLUMNS])
        connection.execute("COMMIT")


class Listener(WSListener):
    """Decodes in the socket's callback and hands over what one read brought."""

    def __init__(self, reads: queue.SimpleQueue[list[object]]) -> None:
        self._reads = reads
        self._decode = msgspec.json.Decoder(Trade, strict=False).decode
        self._values: list[object] = []
        self._id = 0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """One message."""
        if frame.msg_type == WSMsgType.TEXT:
            trade = self._decode(frame.get_payload_as_memoryview())
            self._id += 1
            self._values += (self._id, "SOL/USDC", trade.price, trade.volume, trade.ts, 1, trade.id, None)
        if frame.last_in_buffer and self._values:
            self._reads.put(self._values)
            self._values = []


async def run(url: str, path: str) -> None:
    """Until it is killed."""
    reads: queue.SimpleQueue[list[object]] = queue.SimpleQueue()
    threading.Thread(target=write, args=(open_database(path), reads), daemon=True).start()
    transport, _ = await ws_connect(lambda: Listener(reads), url)
    await transport.wait_disconnected()


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(run(*sys.argv[1:]))
