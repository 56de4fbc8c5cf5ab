"""Settings, and what earlier runs left -> the parts of a run, not yet wired to each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from engine.base import metrics, notify
from engine.base.channels import Channel
from engine.base.events import Mode, Tick
from engine.config.schema import Settings, Source
from engine.config.settings import Environment, Loaded, redact_url
from engine.ingest.clock_skew import VenueClocks
from engine.ingest.inlet import Ingest
from engine.ingest.intake import Intake
from engine.ingest.ports import Feed, Inlet
from engine.ingest.venues import registry
from engine.ingest.venues.markets import Streams
from engine.storage.batch import Batch, Restored
from engine.storage.ledger import Ledger
from engine.trading import execution, risk, strategy
from engine.trading.desk import Desk, Items

# The part of shutdown_timeout_secs that a venue has to answer in; the rest is for the disk.
_SETTLE_SHARE = 0.5


class PipelineChannels(NamedTuple):
    """The channels of a run, in the order of the flow."""

    ticks: Channel[list[Tick]]
    signals: Channel[Items]
    rows: Channel[Batch]


def make_channels(options: Settings, clock: Callable[[], float]) -> PipelineChannels:
    """Empty channels; `clock` gives the event loop's time."""
    sizes = options.channels
    return PipelineChannels(
        Channel("tick", sizes.tick_channel_size, clock),
        Channel("signal", sizes.signal_channel_size, clock),
        Channel("persist", sizes.persist_channel_size, clock),
    )


def is_replay(options: Settings) -> bool:
    """Return whether this run shows what would have happened, and starts from nothing for that."""
    return options.engine.ingest_mode == "REPLAY"


def make_ingest(
    loaded: Loaded,
    environment: Environment,
    store: Ledger,
    restored: Restored,
    channels: PipelineChannels,
    clock: Callable[[], float],
    answer: Callable[[], None],
) -> Ingest:
    """Intake and the feed that delivers to it. `answer`: says that the feed's task is not stuck (E5). Raises
    EngineError for a replay file that is not there."""
    options = loaded.settings
    replay = is_replay(options)
    live = _sources(loaded)
    path = Path(options.engine.replay_file) if replay and options.engine.replay_file is not None else None
    recording = None
    sources = live
    if path is not None:
        # Imported only here, for most starts replay nothing.
        from engine.ingest import playback, tape

        recording = tape.find(path)
        sources = () if recording is None else (playback.source_of(recording),)
    sparse = {source.name for source in sources if not registry.venue_of(source.venue, source.url).consecutive_ids}
    streams = Streams(restored.streams, (source.name for source in sources), restored.symbols)
    intake = Intake(
        options.engine.sample_every,
        restored.next_tick_id,
        () if replay else restored.numberings,
        {} if replay else restored.recent_event_ids,
        lambda stream: streams.owner(stream)[0] in sparse,
        streams.predecessor,
    )

    def make_feed(inlet: Inlet) -> Feed:
        # A run has one feed, and a start is not to wait for the others.
        if live:
            from engine.ingest import websocket

            connect = websocket.CONNECTS[environment.transport]
            # A clock that was set back since those times were written would make the waits longer by as much.
            now_ms = max(_wall_ms(), store.written_ms())
            barred_secs = {host: (until - now_ms) / 1000 for host, until in restored.barred.items() if until > now_ms}
            return websocket.WebSocketFeed(
                inlet, live, options.engine, options.app.symbol, connect, clock, barred_secs, streams
            )
        if not replay:
            from engine.ingest.synthetic import SyntheticFeed

            return SyntheticFeed(inlet, options.engine, options.app.symbol, _wall_ms)
        if recording is not None:
            return playback.PlaybackFeed(inlet, recording, sources[0], options.engine, streams)
        from engine.ingest import replay as replay_feed

        if path is not None:
            return replay_feed.FileReplayFeed(inlet, path, options.engine.parse_error_limit)
        return replay_feed.ReplayFeed(inlet, store.read_ticks(), str(store.path))

    return Ingest(
        intake,
        channels.ticks,
        channels.rows,
        answer,
        streams,
        make_feed,
        replay=replay,
        keep_ids=replay and path is None,
        clocks=VenueClocks(options.engine.max_staleness_ms, options.engine.heartbeat_interval_secs) if live else None,
        wall_ms=_wall_ms,
    )


def make_desk(
    options: Settings,
    restored: Restored,
    adapter: execution.ExecutionAdapter | None,
    channels: PipelineChannels,
    counters: metrics.Counters,
    liveness: notify.Liveness,
) -> Desk:
    """Strategy, risk and execution, with the positions and open orders of earlier runs. `adapter`: what LIVE trades
    through."""
    replay = is_replay(options)
    mode = Mode(options.mode)
    maker = strategy.make(
        options.strategy.name,
        order_size=_decimal(options.execution.order_size),
        signal_every_n_ticks=options.engine.signal_every_n_ticks,
        sma_short=options.strategy.sma_short,
        sma_long=options.strategy.sma_long,
    )
    executor = execution.make(
        mode,
        fee_rate=_decimal(options.execution.fee_rate),
        slippage_bps=_decimal(options.execution.slippage_bps),
        adapter=adapter,
    )
    caps = risk.Caps(
        max_exposure_usd=_decimal(options.risk_caps.max_exposure_usd),
        max_symbol_exposure_usd=_decimal(options.risk_caps.max_symbol_exposure_usd),
        max_open_orders=options.risk_caps.max_open_orders,
        max_staleness_ms=options.engine.max_staleness_ms,
    )
    held = {} if replay else restored.positions.get(mode, {})
    # Weighed at the price of its last fill until a tick of its symbol brings a newer one (R3).
    book = risk.Book(caps, {symbol: (position.qty, position.price) for symbol, position in held.items()})
    if not replay:
        open_orders = [event for event in restored.open_orders if event.mode is mode]
        executor.adopt(open_orders, restored.recent_signal_ids)
        book.record(open_orders, [])
    return Desk(
        maker,
        book,
        executor,
        channels.ticks,
        channels.signals,
        channels.rows,
        counters,
        liveness,
        wants_ticks=mode is not Mode.SHADOW,
        asks_venue=adapter is not None,
        settle_secs=_SETTLE_SHARE * options.engine.shutdown_timeout_secs,
        wall_ms=None if replay else _wall_ms,
    )


def _sources(loaded: Loaded) -> tuple[Source, ...]:
    options = loaded.settings
    if options.engine.ingest_mode == "REAL_WS":
        return loaded.sources
    if options.engine.ingest_mode == "MOCK_WS":
        # Trade ids belong to the exchange at that address, so the name has to tell addresses apart. Names
        # of sources are at most 128 characters long.
        name = f"mock_ws {redact_url(options.engine.ws_url)}"[:128]
        return (Source(name=name, url=options.engine.ws_url, kind="mock", priority=0),)
    return ()


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _decimal(number: float) -> Decimal:
    """Return the number as it stands in the file: 0.1 is a tenth, not the double next to it."""
    return Decimal(repr(number))
