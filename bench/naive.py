"""The naive pipeline: what one writes first. json and a dataclass, three asyncio.Queues, aiosqlite, a random uuid as
the key, one row a commit; configuration in pydantic models. For scale, and for the start-up it needs.

    python -m bench.naive URL DATABASE
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import uuid
from dataclasses import dataclass

import aiosqlite
import websockets
from pydantic import BaseModel, Field


class App(BaseModel):
    """What is traded and where it is stored."""

    symbol: str = "SOL/USDC"
    db_path: str


class Engine(BaseModel):
    """The feed."""

    ws_url: str
    signal_every_n_ticks: int = Field(default=10, ge=1)


class Channels(BaseModel):
    """Items between the stages."""

    tick_channel_size: int = Field(default=256, ge=1)
    signal_channel_size: int = Field(default=64, ge=1)
    persist_channel_size: int = Field(default=512, ge=1)


class Settings(BaseModel):
    """The configuration."""

    app: App
    engine: Engine
    channels: Channels = Channels()


@dataclass
class Tick:
    """One trade."""

    event_id: str
    symbol: str
    price: float
    volume: float
    ts: int


async def ingest(settings: Settings, ticks: asyncio.Queue[Tick], rows: asyncio.Queue[Tick]) -> None:
    """From the socket into two queues."""
    async with websockets.connect(settings.engine.ws_url) as websocket:
        async for message in websocket:
            trade = json.loads(message)
            tick = Tick(str(uuid.uuid4()), settings.app.symbol, float(trade["p"]), float(trade["q"]), int(trade["T"]))
            await ticks.put(tick)
            await rows.put(tick)


async def decide(settings: Settings, ticks: asyncio.Queue[Tick], signals: asyncio.Queue[Tick]) -> None:
    """Every Nth tick is a signal."""
    count = 0
    while True:
        tick = await ticks.get()
        count += 1
        if count % settings.engine.signal_every_n_ticks == 0:
            await signals.put(tick)


async def execute(signals: asyncio.Queue[Tick]) -> None:
    """Orders in SHADOW go nowhere."""
    while True:
        await signals.get()


async def persist(database: aiosqlite.Connection, rows: asyncio.Queue[Tick]) -> None:
    """One row a commit."""
    while True:
        tick = await rows.get()
        await database.execute(
            "INSERT INTO ticks VALUES (?, ?, ?, ?, ?)",
            (tick.event_id, tick.symbol, tick.price, tick.volume, tick.ts),
        )
        await database.commit()


def notify_ready() -> None:
    """READY=1, as sd_notify(3) does it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"READY=1", path)


async def run(settings: Settings) -> None:
    """Until it is killed."""
    channels = settings.channels
    ticks: asyncio.Queue[Tick] = asyncio.Queue(channels.tick_channel_size)
    signals: asyncio.Queue[Tick] = asyncio.Queue(channels.signal_channel_size)
    rows: asyncio.Queue[Tick] = asyncio.Queue(channels.persist_channel_size)
    async with aiosqlite.connect(settings.app.db_path) as database:
        await database.execute("PRAGMA journal_mode = WAL")
        await database.execute("PRAGMA synchronous = NORMAL")
        await database.execute(
            "CREATE TABLE ticks(event_id TEXT PRIMARY KEY, symbol TEXT, price REAL, volume REAL, ts INTEGER)"
        )
        tasks = [
            asyncio.create_task(work)
            for work in (
                ingest(settings, ticks, rows),
                decide(settings, ticks, signals),
                execute(signals),
                persist(database, rows),
            )
        ]
        logging.info("running")
        notify_ready()
        await asyncio.gather(*tasks)


if __name__ == "__main__":
    url, path = sys.argv[1:]
    asyncio.run(run(Settings(app=App(db_path=path), engine=Engine(ws_url=url))))
