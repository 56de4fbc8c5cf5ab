"""The running engine: ingest -> strategy -> execution -> persist, in one event loop and one writer thread.

    feed --> ingest ==tick channel==> strategy ==signal channel==> execution --+
                |                                                              |
                +---------------------persist channel--------------------------+==> persist --> writer thread

Every processed tick goes into the tick channel and the persist channel in one synchronous pass, so what is
stored does not depend on what strategy makes of it. Persist takes everything pending into one transaction
(D3) and hands it to the writer thread, one batch at a time: the loop itself never touches the disk (B3), and
a batch that could not be written is kept and tried again (D4).

Whatever ends the run, a signal, the end of a replay, lost network or overload, ends it the same way (E4): the
feed stops, then each stage drains and closes the channel behind it, in the order of the flow, all within
`shutdown_timeout_secs`. What is left in a channel after that is counted in `bp_drops_*` and logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path

from engine.base import logs, metrics, notify
from engine.base.channels import Channel
from engine.base.events import Mode, Numbering, OrderStatus, Reason, Signal, Tick
from engine.base.exits import EngineError, ExitCode, explain
from engine.config.schema import Source
from engine.config.settings import Environment, Loaded, redact_url
from engine.ingest import feeds
from engine.ingest.clock_skew import VenueClocks
from engine.ingest.intake import Break, Intake
from engine.ingest.venues import registry
from engine.ingest.venues.markets import Streams
from engine.signals import Signals
from engine.storage import ledger
from engine.trading import execution, risk, strategy

logger = logging.getLogger("engine.pipeline")

_TASKS = ("ingest", "strategy", "execution", "persist")

# How often the lag of the event loop is measured.
_LAG_INTERVAL_SECS = 0.1

_OVERLOAD_RECHECK_SECS = 0.01

# systemd may ask for more often, and then nothing else would be done.
_WATCHDOG_PAUSE_SECS_MIN = 0.01

# Waits between attempts at a batch that could not be written; SQLite has itself waited busy_timeout_ms before
# it says locked, so only a full or failing disk needs the longer ones.
_RETRY_SECS = (0.05, 0.1, 0.2, 0.5, 1.0)

# How often a writer without work looks at the files, at the least.
_LOOK_SECS = 1.0

# How much longer than busy_timeout_ms one write may take before persist counts as stuck (E5).
_WRITE_SLACK_SECS = 2.0

# How long an answer of a venue may wait to be booked while there are no ticks, LIVE.
_REPORTS_SECS = 0.1

# Breaks in trade ids that are told at once, before their log is held to one line a second (N11).
_BREAKS_TOLD = 10

# The part of shutdown_timeout_secs that a venue has to answer in; the rest is for the disk.
_SETTLE_SHARE = 0.5

_Items = tuple[list[Tick], list[Signal]]


def run(
    loaded: Loaded,
    environment: Environment,
    store: ledger.Ledger,
    adapter: execution.ExecutionAdapter | None = None,
    signals: Signals | None = None,
) -> int:
    """Runs the engine on `store`, which it closes, until it is told to stop or cannot go on; returns the exit status.

    `adapter`: what LIVE trades through; the gate hands it out (gate.py). `signals`: those of the process; None when
    they are somebody else's business.
    Raises EngineError for what fails before the pipeline runs: a replay file that is not there.
    """
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(_run(loaded, environment, store, adapter, signals or Signals()))


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop, or asyncio's own where uvloop cannot be had: slower, otherwise the same."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _run(
    loaded: Loaded,
    environment: Environment,
    store: ledger.Ledger,
    adapter: execution.ExecutionAdapter | None,
    signals: Signals,
) -> int:
    try:
        pipeline = Pipeline(loaded, environment, store, adapter)
    except BaseException:
        store.close()
        raise

    def look_at_signals() -> None:
        if signals.report():
            pipeline.stop()

    loop = asyncio.get_running_loop()
    with signals.waking(lambda: loop.call_soon_threadsafe(look_at_signals)):
        return await pipeline.run()


class Writer:
    """The thread that owns the database while the pipeline runs. It holds at most one batch."""

    def __init__(
        self, store: ledger.Ledger, done: Callable[[ledger.Written | Exception], None], look_secs: float
    ) -> None:
        """`done` is called on the event loop with the outcome of each batch, and when it shows between two that there
        can be no other: `store` looks after its files every `look_secs`."""
        self._store = store
        self._done = done
        self._look_secs = look_secs
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[ledger.Batch | None] = queue.SimpleQueue()
        # A daemon, because a write that hangs in the kernel must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def write(self, batch: ledger.Batch) -> None:
        """Hands `batch` over; `done` follows. Not before `done` of the previous one."""
        self._batches.put(batch)

    def stop(self, timeout_secs: float) -> bool:
        """Ends the thread; False when it is still in a write after `timeout_secs`."""
        self._batches.put(None)
        self._thread.join(timeout_secs)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            outcome: ledger.Written | Exception
            try:
                outcome = self._store.write(batch)
            except Exception as error:
                outcome = error
            self._report(outcome)

    def _next(self) -> ledger.Batch | None:
        while True:
            try:
                return self._batches.get(timeout=self._look_secs)
            except queue.Empty:
                pass
            try:
                self._store.look()
            except ledger.Unwritten:
                # It may pass; if it does not, the next batch will tell.
                pass
            except Exception as error:
                self._report(error)
                return self._batches.get()

    def _report(self, outcome: ledger.Written | Exception) -> None:
        # The loop may have ended at the shutdown deadline, and with it whoever wanted to know.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._done, outcome)


class Ingest:
    """What the feed delivers to: intake, then both channels in one pass (B2, N7).

    Implements feeds.Inlet.
    """

    def __init__(
        self,
        intake: Intake,
        ticks: Channel[list[Tick]],
        rows: Channel[ledger.Batch],
        answer: Callable[[], None],
        streams: Streams,
        *,
        replay: bool,
        keep_ids: bool,
        clocks: VenueClocks | None,
    ) -> None:
        """`replay`: what is known of trade ids stays as it is, a replay is no progress of the live feed. `keep_ids`:
        ticks come with the row ids they have in the database. `clocks`: None where no venue's clock is in the ticks."""
        self.intake = intake
        self.clocks = clocks
        self._streams = streams
        self._break_log = logs.RateLimited(logger, logging.WARNING, burst=_BREAKS_TOLD)
        self.answer = answer
        self._admit = intake.readmit if keep_ids else intake.admit
        # Processed ticks that found no room yet, oldest first. Bounded by what one read of a socket holds,
        # because the feed is paused while there are any.
        self.rest: list[Tick] = []
        # Set while the rest is empty.
        self.empty = asyncio.Event()
        self.empty.set()
        self.ticks_parsed = 0
        self.tick_count = 0
        self.feed: feeds.Feed | None = None
        self._ticks = ticks
        self._rows = rows
        self._replay = replay

    def deliver(self, ticks: list[Tick]) -> int:
        self.ticks_parsed += len(ticks)
        known = self.intake.received
        # Before intake may have named another numbering.
        stream = ticks[-1].source if ticks else ""
        processed = self._admit(ticks)
        for found in self.intake.take_breaks():
            self._tell_break(found)
        self.tick_count += len(processed)
        if processed:
            self.rest += processed
            self._push()
        new = self.intake.received - known
        if new and self.clocks is not None:
            self.clocks.add(self._streams.owner(stream)[0], ticks[-1].ts, _wall_ms())
        return new

    def _tell_break(self, found: Break) -> None:
        source, market = self._streams.owner(found.stream)
        self._break_log.log(
            time.monotonic(),
            "trade ids do not go on from where they were",
            source=source,
            market=market or None,
            old_id=found.old_id,
            new_id=found.new_id,
        )

    def pass_numbers(self, numbers: list[tuple[str, int, int]]) -> None:
        for stream, trade_id, ts in numbers:
            self.intake.pass_number(stream, trade_id, ts)

    def barred(self, source: str, secs: float) -> None:
        until_ms = _wall_ms() + int(secs * 1000)
        # It weighs nothing, so there is room for it: it has to reach the disk even when this run ends over it.
        self._rows.put_nowait(ledger.Batch(barred={source: until_ms}), 0)
        self._rows.nudge()

    def _push(self) -> None:
        """Puts as much of the rest into both channels as fits into both; pauses the feed over what does not."""
        if self.rest:
            room = min(self._ticks.room(), self._rows.room())
            if room:
                ticks, self.rest = self.rest[:room], self.rest[room:]
                self._ticks.put_nowait(ticks, len(ticks))
                batch = ledger.Batch(
                    ticks=ticks,
                    labels=self.intake.moving() if self.rest else {},
                    numberings=self.numberings(),
                    streams=self._streams.take_new(),
                )
                self._rows.put_nowait(batch, len(ticks))
        if self.rest:
            self._ticks.refused()
            self._rows.refused()
        assert self.feed is not None
        if self.rest and self._ticks.on_room is None:
            self._ticks.on_room = self._rows.on_room = self._push
            self.empty.clear()
            self.feed.pause()
        elif not self.rest and self._ticks.on_room is not None:
            self._ticks.on_room = self._rows.on_room = None
            self.empty.set()
            self.feed.resume()

    def numberings(self) -> dict[str, Numbering]:
        """What is known of trade ids and not on disk: it goes there with the ticks that were just taken off the rest.
        None while some are left: an id on disk says that all before it is there (D3)."""
        if self.rest or self._replay:
            return {}
        return {one.label: one for one in self.intake.take_moved()}


class Pipeline:
    """One run of the engine."""

    def __init__(
        self,
        loaded: Loaded,
        environment: Environment,
        store: ledger.Ledger,
        adapter: execution.ExecutionAdapter | None,
    ) -> None:
        options = loaded.settings
        self._options = options
        self._environment = environment
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._counters = metrics.Counters()
        self._lag = metrics.LagHistogram()
        self._replay = options.engine.ingest_mode == "REPLAY"
        restored = store.restore()

        now = self._loop.time
        self._ticks: Channel[list[Tick]] = Channel("tick", options.channels.tick_channel_size, now)
        self._signals: Channel[_Items] = Channel("signal", options.channels.signal_channel_size, now)
        self._rows: Channel[ledger.Batch] = Channel("persist", options.channels.persist_channel_size, now)

        self._strategy = strategy.make(
            options.strategy.name,
            order_size=_decimal(options.execution.order_size),
            signal_every_n_ticks=options.engine.signal_every_n_ticks,
            sma_short=options.strategy.sma_short,
            sma_long=options.strategy.sma_long,
        )
        mode = Mode(options.mode)
        self._executor = execution.make(
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
        # A replay starts from nothing, so that it shows what would have happened.
        held = {} if self._replay else restored.positions.get(mode, {})
        # Weighed at the price of its last fill until a tick of its symbol brings a newer one (R3).
        self._book = risk.Book(caps, {symbol: (position.qty, position.price) for symbol, position in held.items()})
        if not self._replay:
            open_orders = [event for event in restored.open_orders if event.mode is mode]
            self._executor.adopt(open_orders, restored.recent_signal_ids)
            self._book.record(open_orders, [])
        self._reports_secs = None if adapter is None else _REPORTS_SECS
        # PAPER orders are filled by the ticks that follow them, so execution needs those too.
        self._execution_wants_ticks = mode is not Mode.SHADOW
        # Replay time: the latest time stamp seen, in ms (R2).
        self._replay_ms = 0

        self._notifier = notify.Notifier(environment.notify_socket)
        self._liveness = notify.Liveness(_TASKS)
        sources = self._sources(loaded)
        sparse = {source.name for source in sources if not registry.venue_of(source.venue, source.url).consecutive_ids}
        streams = Streams(restored.streams, (source.name for source in sources))
        from_database = self._replay and options.engine.replay_file is None
        intake = Intake(
            options.engine.sample_every,
            restored.next_tick_id,
            () if self._replay else restored.numberings,
            {} if self._replay else restored.recent_event_ids,
            lambda stream: streams.owner(stream)[0] in sparse,
            streams.predecessor,
        )
        self._ingest = Ingest(
            intake,
            self._ticks,
            self._rows,
            lambda: self._liveness.answer("ingest"),
            streams,
            replay=self._replay,
            keep_ids=from_database,
            clocks=VenueClocks(options.engine.max_staleness_ms, options.engine.heartbeat_interval_secs)
            if sources
            else None,
        )
        self._feed = self._make_feed(store, sources, restored.barred, streams)
        self._ingest.feed = self._feed

        # So that a file that is lost is noticed within a heartbeat although there is nothing to write (D7).
        self._writer = Writer(store, self._written, min(_LOOK_SECS, options.engine.heartbeat_interval_secs))
        # The batch in the writer thread, or waiting for another attempt; None when nothing is being written.
        self._in_flight: ledger.Batch | None = None
        self._attempt_started_at = 0.0  # of the batch in flight; meaningless without one
        self._attempt_failures = 0  # attempts at the batch in flight that failed so far
        # False once a write failed in a way that no retry can mend; the batch in flight is then lost.
        self._writable = True
        self._write_trouble = logs.RateLimited(logger, logging.WARNING)
        # Order events and fills made, and how many of those and of the signals are on disk.
        self._outcomes_made = 0
        self._derived_written = 0
        # True once what is unwritten has been counted as dropped.
        self._abandoned = False
        # Resolved with why the run ends: None for a clean stop.
        self._stop: asyncio.Future[EngineError | None] = self._loop.create_future()
        # Stage or timer -> what it raised.
        self._failures: dict[str, EngineError] = {}

    # --- assembly -------------------------------------------------------------------------------------------

    def _sources(self, loaded: Loaded) -> tuple[Source, ...]:
        options = loaded.settings
        if options.engine.ingest_mode == "REAL_WS":
            return loaded.sources
        if options.engine.ingest_mode == "MOCK_WS":
            # Trade ids belong to the exchange at that address, so the name has to tell addresses apart. Names
            # of sources are at most 128 characters long.
            name = f"mock_ws {redact_url(options.engine.ws_url)}"[:128]
            return (Source(name=name, url=options.engine.ws_url, kind="mock", priority=0),)
        return ()

    def _make_feed(
        self, store: ledger.Ledger, sources: tuple[Source, ...], barred: dict[str, int], streams: Streams
    ) -> feeds.Feed:
        options = self._options
        if sources:
            connect = feeds.CONNECTS[self._environment.transport]
            # A clock that was set back since those times were written would make the waits longer by as much.
            now_ms = max(_wall_ms(), store.written_ms())
            barred_secs = {name: (until - now_ms) / 1000 for name, until in barred.items() if until > now_ms}
            return feeds.WebSocketFeed(
                self._ingest,
                sources,
                options.engine,
                options.app.symbol,
                connect,
                self._loop.time,
                barred_secs,
                streams,
            )
        if not self._replay:
            return feeds.SyntheticFeed(self._ingest, options.engine, options.app.symbol, _wall_ms)
        if options.engine.replay_file is not None:
            path = Path(options.engine.replay_file)
            return feeds.FileReplayFeed(self._ingest, path, options.engine.parse_error_limit)
        return feeds.ReplayFeed(self._ingest, store.read_ticks(), str(store.path))

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Runs until something ends it; returns the exit status."""
        timers = [
            self._loop.create_task(self._guard(name, work), name=name)
            for name, work in (
                ("heartbeats", self._heartbeats),
                ("lag", self._watch_lag),
                ("overload", self._watch_overload),
            )
        ]
        stages = {
            name: self._loop.create_task(self._stage(name, work), name=name)
            for name, work in (
                ("ingest", self._feed.run),
                ("strategy", self._work_strategy),
                ("execution", self._work_execution),
                ("persist", self._work_persist),
            )
        }
        logger.info("pipeline running", extra={"fields": {"ingest_mode": self._options.engine.ingest_mode}})
        self._notifier.send(READY=1, STATUS=self._status())
        watchdog_secs = self._environment.watchdog_secs
        if watchdog_secs is not None:
            feed_watchdog = functools.partial(self._feed_watchdog, watchdog_secs)
            timers.append(self._loop.create_task(self._guard("watchdog", feed_watchdog), name="watchdog"))
        run_seconds = self._options.engine.run_seconds
        if run_seconds is not None:
            self._loop.call_later(run_seconds, self._end, None)

        failure = await self._stop
        self._notifier.send(STOPPING=1, STATUS="stopping")
        if failure is not None:
            logs.report(logger, failure)
        await self._drain(stages)
        if failure is None:
            # A stop is clean only if every stage came to its end.
            failure = next((self._failures[name] for name in stages if name in self._failures), None)
            if failure is not None:
                logs.report(logger, failure)
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, return_exceptions=True)
        lost = self._count_lost()
        if self._writer.stop(0.0 if self._in_flight is not None and self._writable else 1.0):
            try:
                self._store.close()
            except EngineError as error:
                failure = error
                logs.report(logger, error)
        self._tell_clock_skew()
        logger.info("FINAL METRICS", extra={"fields": self._snapshot()})
        self._report_books()
        if failure is not None:
            self._notifier.send(STATUS=notify.reason(failure))
        self._notifier.close()
        if failure is not None:
            return failure.code
        if lost:
            return ExitCode.CRASH
        logger.info("shutdown complete", extra={"fields": {"exit_code": int(ExitCode.COMPLETE)}})
        return ExitCode.COMPLETE

    def stop(self) -> None:
        """Ends the run in good order."""
        self._end(None)

    def _end(self, failure: EngineError | None) -> None:
        if not self._stop.done():
            self._stop.set_result(failure)

    async def _stage(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """One stage to its end; the end of ingest is that of the run."""
        if await self._guard(name, work):
            self._liveness.finished(name)
            if name == "ingest":
                self._end(None)

    async def _guard(self, name: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Does `work`. Whatever it raises ends the run, in good order; returns whether it raised nothing."""
        try:
            await work()
        except EngineError as error:
            self._failures[name] = error
        except Exception as error:
            self._failures[name] = explain(error, f"{name} failed", task=name)
        else:
            return True
        self._end(self._failures[name])
        return False

    async def _drain(self, stages: dict[str, asyncio.Task[None]]) -> None:
        """Stops the feed and lets each stage finish what is queued, in the order of the flow, as far as
        `shutdown_timeout_secs` allow."""
        closes: dict[str, Channel[list[Tick]] | Channel[_Items] | Channel[ledger.Batch]] = {
            "ingest": self._ticks,
            "strategy": self._signals,
            "execution": self._rows,
        }
        self._feed.stop()
        try:
            async with asyncio.timeout(self._options.engine.shutdown_timeout_secs):
                for name, task in stages.items():
                    await task
                    if name == "ingest":
                        await self._ingest.empty.wait()
                        numberings = self._ingest.numberings()
                        if numberings:
                            await self._rows.put(ledger.Batch(numberings=numberings), 0)
                    if name in closes:
                        closes[name].close()
        except TimeoutError:
            for task in stages.values():
                task.cancel()
            await asyncio.gather(*stages.values(), return_exceptions=True)

    def _unwritten(self) -> list[ledger.Batch]:
        """The batches that are not on disk yet, rows of the rest of ingest excluded."""
        in_flight = [] if self._in_flight is None else [self._in_flight]
        return [*in_flight, *self._rows.pending(), *self._rows.waiting()]

    def _tick_rows_queued(self) -> int:
        if self._abandoned:
            return 0
        return len(self._ingest.rest) + sum(len(batch.ticks) for batch in self._unwritten())

    # --- stages ---------------------------------------------------------------------------------------------

    async def _work_strategy(self) -> None:
        channel = self._ticks
        while not (channel.closed and not channel.pending()):
            await channel.wait()
            self._liveness.answer("strategy")
            for ticks in channel.take_all():
                for items in self._decide(ticks):
                    with self._liveness.waiting("strategy"):
                        await self._signals.put(items, len(items[0]) + len(items[1]))

    def _decide(self, ticks: list[Tick]) -> Iterator[_Items]:
        """What strategy makes of `ticks`, in pieces that the signal channel can hold."""
        size = self._signals.capacity
        if self._execution_wants_ticks:
            for start in range(0, len(ticks), size):
                piece = ticks[start : start + size]
                yield piece, self._signals_of(piece)
        else:
            signals = self._signals_of(ticks)
            for start in range(0, len(signals), size):
                yield [], signals[start : start + size]

    def _signals_of(self, ticks: list[Tick]) -> list[Signal]:
        signals = self._strategy.on_ticks(ticks)
        self._counters.signal_count += len(signals)
        if signals and logger.isEnabledFor(logging.DEBUG):
            for made in signals:
                fields = {"event_id": made.event_id, "symbol": made.symbol, "side": made.side}
                logger.debug("signal generated", extra={"fields": {**fields, "reason_code": made.reason}})
        return signals

    async def _work_execution(self) -> None:
        channel = self._signals
        while not (channel.closed and not channel.pending()):
            await channel.wait(timeout_secs=self._reports_secs)
            self._liveness.answer("execution")
            for ticks, signals in channel.take_all():
                await self._persist(self._execute(ticks, signals))
            if self._reports_secs is not None:
                await self._book_reports()
        # What no tick of this run can fill any more must not look open to the next one (S11).
        batch = ledger.Batch(orders=[], fills=[])
        self._book_outcome(self._executor.cancel_all(self._now_ms()), batch)
        await self._persist(batch)
        await self._settle()

    async def _book_reports(self) -> None:
        """Books what a venue has said since it was last asked."""
        batch = ledger.Batch(orders=[], fills=[])
        self._book_outcome(self._executor.on_ticks([], self._now_ms()), batch)
        await self._persist(batch)

    async def _settle(self) -> None:
        """Waits for a venue to say what became of the orders that it was asked to cancel. Its answer to one that is
        left open comes to the next run."""
        deadline = self._loop.time() + _SETTLE_SHARE * self._options.engine.shutdown_timeout_secs
        while (left := self._executor.open_order_ids()) and self._loop.time() < deadline:
            await asyncio.sleep(_REPORTS_SECS / 2)
            await self._book_reports()
        if left:
            logger.error("orders left open at the venue", extra={"fields": {"order_ids": left}})

    def _execute(self, ticks: list[Tick], signals: list[Signal]) -> ledger.Batch:
        """Risk and execution for one piece of the flow, as the rows that come of it."""
        batch = ledger.Batch(signals=[], orders=[], fills=[])
        if ticks:
            self._book.mark(ticks)
        for signal_ in signals:
            self._replay_ms = max(self._replay_ms, signal_.ts)
            now_ms = self._now_ms()
            assessed = self._book.assess(signal_, now_ms)
            batch.signals.append(assessed)
            if assessed.veto is None:
                self._book_outcome(self._executor.submit(assessed, now_ms), batch)
            else:
                self._count_veto(assessed)
        if ticks:
            self._replay_ms = max(self._replay_ms, max(tick.ts for tick in ticks))
            self._book_outcome(self._executor.on_ticks(ticks, self._now_ms()), batch)
        return batch

    def _book_outcome(self, outcome: execution.Outcome, batch: ledger.Batch) -> None:
        events, fills = outcome
        if not events and not fills:
            return
        self._book.record(events, fills)
        batch.orders += events
        batch.fills += fills
        self._counters.trade_count += len(fills)
        for event in events:
            if event.status is OrderStatus.REJECTED:
                # L4: what execution could not do is never silent.
                fields = {"order_id": event.order_id, "detail": event.detail, "reason": event.reason}
                logger.error("order rejected", extra={"fields": fields})
            elif event.reason is Reason.ADAPTER_ERROR:
                fields = {"order_id": event.order_id, "detail": event.detail, "status": event.status}
                logger.error("execution error", extra={"fields": fields})
            elif event.is_shadow and event.reason is Reason.SHADOW_RECORDED:
                self._counters.shadow_orders += 1
                fields = {"order_id": event.order_id, "signal_id": event.signal_id, "symbol": event.symbol}
                logger.debug("shadow order executed", extra={"fields": fields})

    def _count_veto(self, vetoed: Signal) -> None:
        if vetoed.veto is Reason.STALE_DATA:
            self._counters.stale_vetoes += 1
        else:
            self._counters.risk_vetoes += 1
        fields = {"event_id": vetoed.event_id, "reason": vetoed.veto, "detail": vetoed.veto_detail}
        logger.debug("signal vetoed", extra={"fields": fields})

    async def _persist(self, batch: ledger.Batch) -> None:
        rows = _rows(batch)
        self._outcomes_made += len(batch.orders) + len(batch.fills)
        if rows:
            with self._liveness.waiting("execution"):
                await self._rows.put(batch, rows)

    async def _work_persist(self) -> None:
        channel, options = self._rows, self._options.persist
        flush_secs = options.flush_interval_ms / 1000
        while self._writable:
            if self._in_flight is not None:
                await channel.wait(None)
            elif not channel.pending():
                if channel.closed:
                    return
                await channel.wait()
            else:
                due_secs = flush_due_secs(
                    rows=channel.weight,
                    batch_size=options.batch_size,
                    full=not channel.room(),
                    closed=channel.closed,
                    waited_secs=self._loop.time() - channel.pending_since,
                    flush_secs=flush_secs,
                )
                if due_secs > 0:
                    await channel.wait(options.batch_size, due_secs)
                else:
                    self._start_write(_merge(channel.take_all()))
            if self._writer_answers():
                self._liveness.answer("persist")

    # --- writer ---------------------------------------------------------------------------------------------

    def _start_write(self, batch: ledger.Batch) -> None:
        self._in_flight = batch
        self._attempt_failures = 0
        self._attempt()

    def _attempt(self) -> None:
        assert self._in_flight is not None
        self._attempt_started_at = self._loop.time()
        self._writer.write(self._in_flight)

    def _writer_answers(self) -> bool:
        """Whether the writer thread is idle, or not longer in one write than a locked database explains."""
        if self._in_flight is None:
            return True
        allowed = self._options.persist.busy_timeout_ms / 1000 + _WRITE_SLACK_SECS
        return self._loop.time() - self._attempt_started_at <= allowed

    def _written(self, outcome: ledger.Written | Exception) -> None:
        """The writer thread is done with an attempt at the batch in flight."""
        counters = self._counters
        if isinstance(outcome, ledger.Written):
            counters.tick_rows_written += outcome.ticks
            counters.tick_rows_known += outcome.ticks_known
            rows = outcome.ticks + outcome.signals + outcome.orders + outcome.fills
            counters.persist_count += rows
            assert self._in_flight is not None
            self._derived_written += _rows(self._in_flight) - len(self._in_flight.ticks)
            self._in_flight = None
            logger.debug("batch flushed", extra={"fields": {"persisted": rows, "errors": counters.persist_errors}})
            self._rows.nudge()
            return
        counters.persist_errors += 1
        if isinstance(outcome, ledger.Unwritten):
            wait = _RETRY_SECS[min(self._attempt_failures, len(_RETRY_SECS) - 1)]
            self._attempt_failures += 1
            self._attempt_started_at = self._loop.time()
            assert self._in_flight is not None
            self._write_trouble.log(
                self._loop.time(),
                "batch not written, trying again",
                error=str(outcome),
                kind=type(outcome).__name__,
                rows=_rows(self._in_flight),
                attempt=self._attempt_failures,
            )
            self._loop.call_later(wait, self._attempt)
            return
        self._writable = False
        self._rows.nudge()
        if isinstance(outcome, EngineError):
            self._end(outcome)
        else:
            self._end(explain(outcome, "writer failed", task="writer"))

    # --- timers ---------------------------------------------------------------------------------------------

    async def _heartbeats(self) -> None:
        interval = self._options.engine.heartbeat_interval_secs
        next_at = self._loop.time()
        while True:
            self._tell_clock_skew()
            logger.info("HEARTBEAT (G4)", extra={"fields": self._snapshot()})
            self._report_books()
            self._notifier.send(STATUS=self._status())
            # On the cadence of the start, whatever a late turn of the loop did to this one; and one interval on in
            # any case, because timers may fire a fraction of a millisecond early.
            next_at += interval
            while next_at <= self._loop.time():
                next_at += interval
            await asyncio.sleep(next_at - self._loop.time())

    def _tell_clock_skew(self) -> None:
        """Ends an interval of the venues' clocks; what an operator must know of them goes to the log (N14)."""
        clocks = self._ingest.clocks
        for notice in () if clocks is None else clocks.turn(self._loop.time()):
            fields = {
                "source": notice.source,
                "clock_skew_ms": notice.skew_ms,
                "max_staleness_ms": self._options.engine.max_staleness_ms,
            }
            logger.log(logging.INFO if notice.over else logging.WARNING, notice.text, extra={"fields": fields})

    async def _watch_lag(self) -> None:
        while True:
            due_at = self._loop.time() + _LAG_INTERVAL_SECS
            await asyncio.sleep(_LAG_INTERVAL_SECS)
            self._lag.add(max(0.0, self._loop.time() - due_at) * 1000)

    async def _watch_overload(self) -> None:
        grace = self._options.engine.overload_grace_ms / 1000
        channels = (self._ticks, self._signals, self._rows)
        while True:
            await asyncio.sleep(max(_OVERLOAD_RECHECK_SECS, grace / 4))
            if any(channel.full_for(grace) for channel in channels):
                # The loop itself may have been late, or the process stopped: let the consumers run once
                # before it is called an overload.
                await asyncio.sleep(_OVERLOAD_RECHECK_SECS)
                for channel in channels:
                    channel.check_overload(grace)

    async def _feed_watchdog(self, watchdog_secs: float) -> None:
        pause_secs = max(watchdog_secs / 4, _WATCHDOG_PAUSE_SECS_MIN)
        unfed = logs.RateLimited(logger, logging.WARNING)
        while True:
            self._liveness.next_epoch()
            for channel in (self._ticks, self._signals, self._rows):
                channel.nudge()
            self._feed.nudge()
            await asyncio.sleep(pause_secs)
            while silent := self._liveness.silent():
                unfed.log(self._loop.time(), "watchdog not fed", silent=silent)
                self._rows.nudge()
                await asyncio.sleep(pause_secs)
            self._notifier.send(WATCHDOG=1)

    # --- books ----------------------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self._replay_ms if self._replay else _wall_ms()

    def _snapshot(self) -> dict[str, object]:
        counters, intake = self._counters, self._ingest.intake
        counters.tick_count = self._ingest.tick_count
        counters.ticks_parsed = self._ingest.ticks_parsed
        counters.ingest_received = intake.received
        counters.ingest_processed = intake.processed
        counters.sampled_out = intake.sampled_out
        counters.duplicates = intake.duplicates
        counters.gaps = intake.gaps
        counters.parse_errors = self._feed.parse_errors
        counters.foreign = self._feed.foreign
        counters.ignored = self._feed.ignored
        counters.reconnects = self._feed.reconnects
        counters.connections_unbounded = self._feed.connections_unbounded
        counters.log_drops = logs.drops()
        return metrics.snapshot(
            counters,
            tick_rows_queued=self._tick_rows_queued(),
            loop_lag_ms_p99=self._lag.quantile_ms(0.99),
            wal_bytes=self._store.wal_bytes,
            source=self._feed.source,
            clock_skew_ms=None if self._ingest.clocks is None else self._ingest.clocks.skew_ms,
        )

    def _report_books(self) -> None:
        broken = metrics.broken_books(self._snapshot(), self._options.engine.sample_every)
        if broken:
            logger.error("books do not balance", extra={"fields": {"broken": broken}})

    def _status(self) -> str:
        counters = self._counters
        hindrance = self._feed.hindrance
        return (
            f"{self._options.mode} {self._options.engine.ingest_mode} from {self._feed.source or 'nobody'}:"
            f" {self._ingest.intake.processed} ticks, {counters.signal_count} signals,"
            f" {counters.persist_count} rows on disk" + (f"; {hindrance}" if hindrance else "")
        )

    def _count_lost(self) -> int:
        """Books what the shutdown deadline left unwritten as dropped; returns how many rows."""
        counters, unwritten = self._counters, self._unwritten()
        counters.bp_drops_tick += len(self._ingest.rest)
        counters.bp_drops_persist += sum(len(batch.ticks) for batch in unwritten)
        # Not counted where they were left, because a cancelled stage takes what it held with it.
        counters.bp_drops_signal += counters.signal_count + self._outcomes_made - self._derived_written
        self._abandoned = True
        lost = counters.bp_drops_tick + counters.bp_drops_persist + counters.bp_drops_signal
        if lost:
            logger.error(
                "rows lost: not written within shutdown_timeout_secs",
                extra={"fields": {"rows": lost, "persist_errors": counters.persist_errors}},
            )
        return lost


def flush_due_secs(
    *, rows: int, batch_size: int, full: bool, closed: bool, waited_secs: float, flush_secs: float
) -> float:
    """How long pending rows may wait on for more to share their transaction; 0 when they are to be written now (B6).

    A full channel is written whatever `batch_size` says: nothing more can come that would make the batch complete.
    """
    if full or closed or rows >= batch_size:
        return 0.0
    return max(0.0, flush_secs - waited_secs)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _decimal(number: float) -> Decimal:
    """The number as it stands in the file: 0.1 is a tenth, not the double next to it."""
    return Decimal(repr(number))


def _rows(batch: ledger.Batch) -> int:
    return len(batch.ticks) + len(batch.signals) + len(batch.orders) + len(batch.fills)


def _merge(batches: list[ledger.Batch]) -> ledger.Batch:
    if len(batches) == 1:
        return batches[0]
    merged = ledger.Batch()
    for batch in batches:
        merged.ticks += batch.ticks
        merged.signals += batch.signals
        merged.orders += batch.orders
        merged.fills += batch.fills
        for label, one in batch.numberings.items():
            if one.missing is None and (before := merged.numberings.get(label)) is not None:
                one.missing = before.missing
            merged.numberings[label] = one
        merged.labels |= batch.labels
        merged.streams |= batch.streams
        merged.barred |= batch.barred
    return merged
