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
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from engine import build
from engine.base import logs, metrics, notify
from engine.base.channels import Channel
from engine.base.exits import Crash, EngineError, ExitCode, explain
from engine.config.settings import Environment, Loaded
from engine.signals import Signals
from engine.storage.batch import Batch
from engine.storage.ledger import Ledger
from engine.storage.persistence import Persistence
from engine.trading import execution
from engine.watch import Watch

logger = logging.getLogger("engine.pipeline")

_TASKS = ("ingest", "strategy", "execution", "persist")


def run(
    loaded: Loaded,
    environment: Environment,
    store: Ledger,
    adapter: execution.ExecutionAdapter | None = None,
    signals: Signals | None = None,
) -> int:
    """Run the engine on `store`, which it closes, until it is told to stop or cannot go on; returns the exit status.

    `adapter`: what LIVE trades through; the gate hands it out (gate.py). `signals`: those of the process; None when
    they are somebody else's business.
    Raises EngineError for what fails before the pipeline runs: a replay file that is not there.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_run(loaded, environment, store, adapter, signals or Signals()))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop, or asyncio's own where uvloop cannot be had: slower, otherwise the same."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _run(
    loaded: Loaded,
    environment: Environment,
    store: Ledger,
    adapter: execution.ExecutionAdapter | None,
    signals: Signals,
) -> int:
    try:
        pipeline = Pipeline(loaded, environment, store, adapter)
    except BaseException:
        store.close()
        raise

    with signals.stopping(asyncio.get_running_loop(), pipeline.stop):
        return await pipeline.run()


class Pipeline:
    """One run of the engine: its parts, wired, from start to stop."""

    def __init__(
        self,
        loaded: Loaded,
        environment: Environment,
        store: Ledger,
        adapter: execution.ExecutionAdapter | None,
    ) -> None:
        options = self._options = loaded.settings
        self._environment = environment
        self._loop = asyncio.get_running_loop()
        self._counters = metrics.Counters()
        self._notifier = notify.Notifier(environment.notify_socket)
        self._liveness = notify.Liveness(_TASKS)
        restored = store.restore()
        channels = self._channels = build.make_channels(options, self._loop.time)
        self._desk = build.make_desk(options, restored, adapter, channels, self._counters, self._liveness)
        self._ingest = build.make_ingest(
            loaded, environment, store, restored, channels, self._loop.time, lambda: self._liveness.answer("ingest")
        )
        self._persistence = Persistence(
            store,
            channels.rows,
            options.persist,
            self._counters,
            look_secs=options.engine.heartbeat_interval_secs,
            answer=lambda: self._liveness.answer("persist"),
            end=self._end,
        )
        self._watch = Watch(
            options,
            self._ingest,
            channels,
            store,
            self._counters,
            self._liveness,
            self._notifier,
            self._tick_rows_queued,
        )
        # True once what is unwritten has been counted as dropped.
        self._abandoned = False
        # Resolved with why the run ends: None for a clean stop.
        self._stop: asyncio.Future[EngineError | None] = self._loop.create_future()
        # Stage or timer -> what it raised.
        self._failures: dict[str, EngineError] = {}

    async def run(self) -> int:
        """Run until something ends it; returns the exit status."""
        timers = [
            self._loop.create_task(self._guard(name, work), name=name)
            for name, work in (
                ("heartbeats", self._watch.heartbeats),
                ("lag", self._watch.measure_lag),
                ("overload", self._watch.watch_overload),
            )
        ]
        stages = {
            name: self._loop.create_task(self._stage(name, work), name=name)
            for name, work in (
                ("ingest", self._ingest.feed.run),
                ("strategy", self._desk.run_strategy),
                ("execution", self._desk.run_execution),
                ("persist", self._persistence.run),
            )
        }
        logger.info("pipeline running", extra={"fields": {"ingest_mode": self._options.engine.ingest_mode}})
        self._notifier.send(READY=1, STATUS=self._watch.status())
        watchdog_secs = self._environment.watchdog_secs
        if watchdog_secs is not None:
            feed_watchdog = functools.partial(self._watch.feed_watchdog, watchdog_secs)
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
            # A stop is clean only if every stage came to its end, and the writer too.
            failed = (self._failures[name] for name in stages if name in self._failures)
            failure = next(failed, self._persistence.failure)
            if failure is not None:
                logs.report(logger, failure)
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, return_exceptions=True)
        lost = self._count_lost()
        if lost is not None and failure is None:
            failure = lost
            logs.report(logger, failure)
        elif lost is not None:
            logger.error("%s", lost, extra={"fields": lost.details})
        try:
            self._persistence.close()
        except EngineError as error:
            failure = error
            logs.report(logger, error)
        self._watch.tell_clock_skew()
        self._watch.report("FINAL METRICS")
        if failure is not None:
            self._notifier.send(STATUS=notify.reason(failure))
        self._notifier.close()
        if failure is not None:
            return failure.code
        logger.info("shutdown complete", extra={"fields": {"exit_code": int(ExitCode.COMPLETE)}})
        return ExitCode.COMPLETE

    def stop(self) -> None:
        """End the run in good order."""
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
        """Do `work`. Whatever it raises ends the run, in good order; returns whether it raised nothing."""
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
        """Stop the feed and lets each stage finish what is queued, in the order of the flow, as far as
        `shutdown_timeout_secs` allow."""
        closes: dict[str, Channel[Any]] = dict(zip(_TASKS, self._channels, strict=False))
        self._ingest.feed.stop()
        try:
            async with asyncio.timeout(self._options.engine.shutdown_timeout_secs):
                for name, task in stages.items():
                    await task
                    if name == "ingest":
                        await self._ingest.empty.wait()
                        numberings = self._ingest.numberings()
                        if numberings:
                            await self._channels.rows.put(Batch(numberings=numberings), 0)
                    if name in closes:
                        closes[name].close()
        except TimeoutError:
            for task in stages.values():
                task.cancel()
            await asyncio.gather(*stages.values(), return_exceptions=True)

    def _tick_rows_queued(self) -> int:
        if self._abandoned:
            return 0
        return len(self._ingest.rest) + sum(len(batch.ticks) for batch in self._persistence.unwritten())

    def _count_lost(self) -> Crash | None:
        """Book what the shutdown deadline left unwritten as dropped; returns how many rows, as a failure if any."""
        counters, unwritten = self._counters, self._persistence.unwritten()
        counters.bp_drops_tick += len(self._ingest.rest)
        counters.bp_drops_persist += sum(len(batch.ticks) for batch in unwritten)
        # Not counted where they were left, because a cancelled stage takes what it held with it.
        counters.bp_drops_signal += counters.signal_count + self._desk.outcomes_made - self._persistence.derived_written
        self._abandoned = True
        lost = counters.bp_drops_tick + counters.bp_drops_persist + counters.bp_drops_signal
        if not lost:
            return None
        return Crash(
            "rows lost: not written within shutdown_timeout_secs", rows=lost, persist_errors=counters.persist_errors
        )
