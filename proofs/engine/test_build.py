"""What a run begins with of what earlier runs left: positions and open orders of its own mode, and a replay nothing
(contract R3, R4, I2, N2)."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import build
from engine.base import metrics, notify
from engine.base.events import Mode, OrderEvent, OrderStatus, Reason, Side, Signal, Tick
from engine.config.schema import Settings
from engine.config.settings import Loaded, load, read_environment
from engine.ingest.connected import Connected, FeedLine
from engine.ingest.inlet import Ingest
from engine.storage import opening
from engine.storage.batch import Batch, Position, Restored
from engine.storage.gaps import read_gaps
from engine.storage.ledger import Ledger
from proofs.fixtures import engine_loop

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
    veto = engine_loop.run(judged(options, restored(left_by), side))
    assert veto == (Reason.RISK_CAP if counts and mode is left_by and not replay else None)


@pytest.mark.claim("E4")
@pytest.mark.parametrize("stop_secs", [0.2, 5.0])
def test_E4_half_of_a_stop_is_the_venues_and_the_rest_the_disks(stop_secs: float) -> None:
    async def scenario() -> float:
        options = Settings.model_validate({"engine": {"shutdown_timeout_secs": stop_secs}})
        channels = build.make_channels(options, asyncio.get_running_loop().time)
        liveness = notify.Liveness(("strategy", "execution"))
        return build.make_desk(options, held(Mode.PAPER), None, channels, metrics.Counters(), liveness)._settle_secs

    assert engine_loop.run(scenario()) == stop_secs / 2


@pytest.mark.claim("R2")
def test_R2_the_time_of_day_is_in_milliseconds() -> None:
    before = time.time_ns()
    assert before // 1_000_000 <= build._wall_ms() <= time.time_ns() // 1_000_000


@pytest.mark.claim("B1")
def test_B1_channels_are_as_large_as_they_are_configured() -> None:
    options = Settings.model_validate(
        {"channels": {"tick_channel_size": 3, "signal_channel_size": 5, "persist_channel_size": 7}}
    )
    made = build.make_channels(options, lambda: 0.0)
    assert [(channel.name, channel.capacity) for channel in made] == [("tick", 3), ("signal", 5), ("persist", 7)]


@pytest.mark.claim("R5")
@pytest.mark.parametrize("text", ["0.1", "1e-07", "10000.0", "0.30000000000000004", "1e+22"])
def test_R5_a_number_is_taken_as_it_stands_in_the_file(text: str) -> None:
    assert build._decimal(float(text)) == Decimal(text)


@pytest.mark.claim("N10", "C8")
@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("ws://127.0.0.1:9001", "mock_ws ws://127.0.0.1:9001"),
        ("ws://h/x?token=hunter2", "mock_ws ws://h/x?[redacted]"),
        (f"ws://h/{'x/' * 100}", f"mock_ws ws://h/{'x/' * 100}"[:128]),
    ],
)
def test_N10_the_source_of_a_mock_feed_is_called_by_its_address(url: str, name: str) -> None:
    options = Settings.model_validate({"engine": {"ingest_mode": "MOCK_WS", "ws_url": url}})
    [source] = build._sources(Loaded(options, (), None, ()))
    assert (source.name, source.url, source.kind, source.priority) == (name, url, "mock", 0)
    for mode in ("SYNTHETIC", "REPLAY"):
        options = Settings.model_validate({"engine": {"ingest_mode": mode}})
        assert build._sources(Loaded(options, (source,), None, ())) == ()


@contextmanager
def ingesting(path: Path) -> Iterator[tuple[Ledger, build.PipelineChannels, Ingest]]:
    """What a run has of the configuration in a directory, with its ledger there; within a loop."""
    loaded = load(str(path / "config.toml"), {})
    store = opening.open_ledger(path / "bot.db", busy_timeout_ms=1000)
    clock = asyncio.get_running_loop().time
    try:
        channels = build.make_channels(loaded.settings, clock)
        environment = read_environment({}, 7)
        yield (
            store,
            channels,
            build.make_ingest(loaded, environment, store, store.restore(), channels, clock, lambda: None),
        )
    finally:
        store.close()


@pytest.mark.claim("N9")
@pytest.mark.parametrize(("venue", "market", "gaps"), [("kraken", "BTC/USD", 6), ("bitstamp", "btcusd", None)])
def test_N9_holes_in_ids_that_lie_apart_by_nature_are_no_gaps(
    tmp_path: Path, venue: str, market: str, gaps: int | None
) -> None:
    (tmp_path / "config.toml").write_text('engine.ingest_mode = "REAL_WS"')
    (tmp_path / "ws_sources.toml").write_text(
        f'[[source]]\nname = "a"\npriority = 1\nvenue = "{venue}"\nmarkets = {{ "{market}" = "BTC/USD" }}\n'
    )

    async def scenario() -> dict[str, tuple[int | None, int]]:
        with ingesting(tmp_path) as (_, _, ingest):
            ticks = [Tick("a", "BTC/USD", 1.0, 1.0, NOW_MS + number, number) for number in (1, 2, 5, 5, 10)]
            assert ingest.deliver(ticks) == 4
            return ingest.by_market()

    assert engine_loop.run(scenario()) == {"a": (gaps, 1)}


def okx_said(number: int, used: int) -> list[str]:
    """A trade that merges the fills of an order, `used` beside its own."""
    row = {"instId": "BTC-USDT", "tradeId": str(number), "px": "1.5", "sz": "1", "side": "buy", "ts": str(NOW_MS)}
    return [json.dumps({"arg": {"channel": "trades", "instId": "BTC-USDT"}, "data": [row | {"count": str(used + 1)}]})]


def binance_said(number: int, used: int) -> list[str]:
    """A trade behind so many prints that are none."""
    return [
        json.dumps({"e": "trade", "E": NOW_MS, "T": NOW_MS, "s": "BTC-USDT", "t": one, "p": "1.5", "q": "1", "X": what})
        for one in range(number - used, number + 1)
        for what in ["MARKET" if one == number else "INSURANCE_FUND"]
    ]


@pytest.mark.slow
@pytest.mark.claim("N18", "N12", "N9")
@pytest.mark.parametrize(("venue", "said"), [("okx", okx_said), ("binance", binance_said)])
@given(
    reads=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=4), min_size=1, max_size=5
    ),
    killed=st.booleans(),
)
def test_N18_N12_no_id_that_was_used_up_is_a_gap_on_disk(
    venue: str, said: Callable[[int, int], list[str]], reads: list[list[tuple[int, int]]], killed: bool
) -> None:
    """Beside a running engine, after a kill and after a stop: what `gaps` lists are the ids that never came."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "config.toml").write_text('engine.ingest_mode = "REAL_WS"')
        (path / "ws_sources.toml").write_text(
            f'[[source]]\nname = "a"\npriority = 1\nvenue = "{venue}"\nmarkets = {{ "BTC-USDT" = "BTC/USDT" }}\n'
            'url = "ws://127.0.0.1:1/ws"\n'
        )

        async def scenario() -> None:
            with ingesting(path) as (store, channels, ingest):
                feed = ingest.feed
                assert isinstance(feed, Connected)
                line = FeedLine(feed, 1, feed._sources[0], feed._streams["a"])
                number, missing = 1000, list[int]()
                for read in [[(0, 0)], *reads]:
                    for lost, used in read:
                        missing += range(number + 1, number + 1 + lost)
                        number += lost + used + 1
                        for message in said(number, used):
                            line.text(message.encode())
                    line.flush()
                    for batch in channels.rows.take_all():
                        store.write(batch)
                    assert on_disk(path / "bot.db") == missing
                # What comes behind the last trade is known once something is stored again.
                if venue == "binance":
                    line.text(said(number + 2, 1)[0].encode())
                    line.flush()
                if not killed:
                    store.write(Batch(numberings=ingest.numberings()))
                    later = max(one.last for one in store.restore().numberings)
                    assert later == number + (venue == "binance")
                assert on_disk(path / "bot.db") == missing

        engine_loop.run(scenario())


def on_disk(path: Path) -> list[int]:
    """The ids that `hybrid-engine gaps` lists."""
    return [number for gap in read_gaps(path) for number in range(gap.first, gap.last + 1)]


@pytest.mark.claim("N5")
@pytest.mark.parametrize("left_secs", [600, 60, -1])
def test_N5_a_bar_that_an_earlier_run_left_lasts_as_long_as_it_was_to(tmp_path: Path, left_secs: int) -> None:
    (tmp_path / "config.toml").write_text('engine.ingest_mode = "REAL_WS"')
    (tmp_path / "ws_sources.toml").write_text('[[source]]\nname = "a"\npriority = 1\nurl = "wss://h.example/x"\n')
    loaded = load(str(tmp_path / "config.toml"), {})

    async def scenario() -> str:
        store = opening.open_ledger(tmp_path / "bot.db", busy_timeout_ms=1000)
        clock = asyncio.get_running_loop().time
        try:
            until = time.time_ns() // 1_000_000 + left_secs * 1000
            store.write(Batch(barred={"a": ("h.example", until)}))
            channels = build.make_channels(loaded.settings, clock)
            environment = read_environment({}, 7)
            ingest = build.make_ingest(loaded, environment, store, store.restore(), channels, clock, lambda: None)
            return ingest.feed.hindrance
        finally:
            store.close()

    before = datetime.now(UTC)
    told = re.match(r"a barred until (\S+): ", engine_loop.run(scenario()))
    if left_secs < 0:
        assert told is None
        return
    assert told is not None
    until = datetime.strptime(told[1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    # Told in whole seconds.
    assert before + timedelta(seconds=left_secs - 1.1) <= until <= datetime.now(UTC) + timedelta(seconds=left_secs)
