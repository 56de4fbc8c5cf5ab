"""The raw floor: the least code that brings trades from a WebSocket into the engine's table. Not an engine.

Same transport (picows on uvloop), same decoder library, same schema, keys, page cache and multi-row INSERT as the
engine; no dedupe, no gaps, no sampling, no strategy, no risk, no books, no backpressure, no reconnect, no clean stop.
Each transaction also says how far the stream's ids have come, as most of the engine's do.
With EVERY, each trade whose number that divides also brings the rows that a shadow order leaves: signal, order with its
transition, fill, and what they sum up to. Texts are made of the trade, the money is reckoned in decimals: whoever
decides about orders has to store them. With ROWS, no transaction has more rows than that, as the engine's have not: how
much is lost by a kill, how much memory waits, and how many pages a commit writes again are no matter of the code.

    python -m bench.floor URL DATABASE [EVERY [ROWS]]
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import sys
import threading
from decimal import Decimal

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from engine.storage import ledger, opening

ROWS_PER_STATEMENT = (128, 32, 8, 4, 2, 1)
ROWS_OF_ORDER = 3
TICK_COLUMNS = 7


class Insert:
    """A multi-row INSERT, cut into statements of ever fewer rows."""

    def __init__(self, head: str, columns: int) -> None:
        row = f"({','.join('?' * columns)})"
        self._texts = [(rows * columns, f"INSERT INTO {head} VALUES {','.join([row] * rows)}") for rows in
                       ROWS_PER_STATEMENT]  # fmt: skip

    def __call__(self, connection: sqlite3.Connection, values: list[object]) -> None:
        start, end = 0, len(values)
        for step, text in self._texts:
            while end - start >= step:
                connection.execute(text, values[start : start + step])
                start += step


TICKS = Insert("ticks(id, symbol, price, volume, ts, source, trade_id)", TICK_COLUMNS)
SIGNALS = Insert("signals(id, symbol, value, ts, event_id, tick_id, side, reason, size, price, replayed)", 11)
ORDERS = Insert(
    "orders(id, symbol, side, status, ts, order_id, is_shadow, qty_exact, price_exact, filled_qty, seq, reason,"
    " updated_ts, replayed, detail)",
    15,
)
FILLS = Insert(
    "trades(order_id, seq, symbol, side, ts, is_shadow, qty_exact, price_exact, fees_exact, cash_delta, replayed)",
    11,
)
# What is on disk of a stream's ids has to go on with its ticks, or a start would not know what was seen.
WATERMARK = (
    "INSERT INTO sources(id, name, stream, number, first_trade_id, last_trade_id, first_ts, last_ts, missing)"
    " VALUES (1, 'bench', 'bench', 1, ?, ?, ?, ?, '[]') ON CONFLICT(id) DO UPDATE SET"
    " last_trade_id = excluded.last_trade_id, last_ts = excluded.last_ts"
)
POSITION = "INSERT OR REPLACE INTO positions(mode, symbol, qty, cash, fees, price) VALUES (?, ?, ?, ?, ?, ?)"

TEXT = WSMsgType.TEXT
SIZE, FEE_RATE, PLACES = Decimal("0.1"), Decimal("0.001"), Decimal("1e-12")


class Trade(msgspec.Struct, gc=False, rename={"id": "t", "price": "p", "volume": "q", "ts": "T"}):
    """A Binance trade."""

    id: int
    price: float
    volume: float
    ts: int


def open_database(path: str) -> sqlite3.Connection:
    """The engine's tables, made by the engine itself, in a new file."""
    opening.open_ledger(path, busy_timeout_ms=5000).close()
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript(
        f"PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA cache_size = {-opening.CACHE_KIB};"
        f" PRAGMA wal_autocheckpoint = {ledger.WAL_BYTES // opening.PAGE_BYTES};"
    )
    return connection


def write(connection: sqlite3.Connection, reads: queue.SimpleQueue[list[object]], every: int, rows: int) -> None:
    """The writer thread: everything that waits, or what makes `rows` rows of it, in one transaction."""
    sums = [Decimal(0)] * 3
    ticks = sys.maxsize if not rows else rows * every // (every + ROWS_OF_ORDER) if every else rows
    most = ticks * TICK_COLUMNS
    waiting: list[object] = []
    first: list[object] = []
    while True:
        if not waiting:
            waiting = reads.get()
        while len(waiting) < most and not reads.empty():
            waiting += reads.get()
        values, waiting = waiting[:most], waiting[most:]
        connection.execute("BEGIN")
        TICKS(connection, values)
        # Ids and times of the first and the last tick.
        first = first or [values[TICK_COLUMNS - 1], values[4]]
        connection.execute(WATERMARK, (first[0], values[-1], first[1], values[-3]))
        if every:
            write_orders(connection, values, every, sums)
        connection.execute("COMMIT")


def write_orders(connection: sqlite3.Connection, values: list[object], every: int, sums: list[Decimal]) -> None:
    """The rows of the shadow orders that the ticks in `values` cause. `sums`: quantity, cash and fees until now."""
    signals: list[object] = []
    orders: list[object] = []
    fills: list[object] = []
    qty, cash, fees = sums
    text = ""
    first = values[0]
    assert isinstance(first, int)
    for start in range(-first % every * TICK_COLUMNS, len(values), every * TICK_COLUMNS):
        id_, symbol, price, _, ts, _, trade_id = values[start : start + TICK_COLUMNS]
        assert isinstance(id_, int)
        signal, text = f"periodic:{trade_id}@bench", str(price)
        order = f"shadow-{signal}"
        notional = SIZE * Decimal(text)
        fee = (notional * FEE_RATE).quantize(PLACES)
        qty, cash, fees = qty - SIZE, cash + notional - fee, fees + fee
        signals += (id_, symbol, 0.75, ts, signal, id_, "SELL", "PERIODIC_TRIGGER", "0.1", text, 0)
        orders += (
            4 * id_, symbol, "SELL", "FILLED", ts, order, 1, "0.1", text, "0.1", 0, "SHADOW_RECORDED", ts, 0,
            "fee_rate=0.001 slippage_bps=0.0",
        )  # fmt: skip
        fills += (order, 0, symbol, "SELL", ts, 1, "0.1", text, plain(fee), plain(notional - fee), 0)
    SIGNALS(connection, signals)
    ORDERS(connection, orders)
    FILLS(connection, fills)
    sums[:] = qty, cash, fees
    connection.execute(POSITION, ("SHADOW", "SOL/USDC", *map(plain, sums), text))


def plain(value: Decimal) -> str:
    """Without the zeros of PLACES, which would be bytes on disk."""
    return f"{value:f}".rstrip("0").rstrip(".") if value else "0"


class Listener(WSListener):
    """Decodes in the socket's callback and hands over what one read brought."""

    def __init__(self, reads: queue.SimpleQueue[list[object]]) -> None:
        self._reads = reads
        self._decode = msgspec.json.Decoder(Trade, strict=False).decode
        self._values: list[object] = []
        self._id = 0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """One message."""
        if frame.msg_type is TEXT:
            trade = self._decode(frame.get_payload_as_bytes())
            self._id += 1
            self._values += (self._id, "SOL/USDC", trade.price, trade.volume, trade.ts, 1, trade.id)
        if frame.last_in_buffer and self._values:
            self._reads.put(self._values)
            self._values = []


async def run(url: str, path: str, every: int = 0, rows: int = 0) -> None:
    """Until it is killed."""
    reads: queue.SimpleQueue[list[object]] = queue.SimpleQueue()
    threading.Thread(target=write, args=(open_database(path), reads, every, rows), daemon=True).start()
    transport, _ = await ws_connect(lambda: Listener(reads), url, use_aiofastnet=False)
    await transport.wait_disconnected()


if __name__ == "__main__":
    url, path, *numbers = sys.argv[1:]
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(run(url, path, *map(int, numbers)))
