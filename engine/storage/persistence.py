"""The persist stage: what is to be stored, on its way from the channel through the writer thread to the disk.

Everything pending goes into one transaction (D3), one batch at a time, which the writer thread writes: the event loop
itself never touches the disk (B3, I6). A batch that could not be written is kept and tried again (D4).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable

from engine.base import logs, metrics
from engine.base.channels import Channel
from engine.base.exits import EngineError, explain
from engine.config.schema import Persist
from engine.storage.batch import Batch, Unwritten, Written, count_rows, merge
from engine.storage.ledger import Ledger

logger = logging.getLogger("engine.pipeline")

# Waits between attempts at a batch that could not be written; SQLite has itself waited busy_timeout_ms before
# it says locked, so only a full or failing disk needs the longer ones.
_RETRY_SECS = (0.05, 0.1, 0.2, 0.5, 1.0)

# How often a writer without work looks at the files, at the least.
_LOOK_SECS = 1.0

# How much longer than busy_timeout_ms one write may take before persist counts as stuck (E5).
_WRITE_SLACK_SECS = 2.0


class Writer:
    """The thread that owns the database while the pipeline runs. It holds at most one batch."""

    def __init__(self, store: Ledger, done: Callable[[Written | Exception], None], look_secs: float) -> None:
        """`done` is called on the event loop with the outcome of each batch, and when it shows between two that there
        can be no other: `store` looks after its files every `look_secs`."""
        self._store = store
        self._done = done
        self._look_secs = look_secs
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        # A daemon, because a write that hangs in the kernel must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def write(self, batch: Batch) -> None:
        """Hands `batch` over; `done` follows. Not before `done` of the previous one."""
        self._batches.put(batch)

    def stop(self, timeout_secs: float) -> bool:
        """End the thread; False when it is still in a write after `timeout_secs`."""
        self._batches.put(None)
        self._thread.join(timeout_secs)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            outcome: Written | Exception
            try:
                outcome = self._store.write(batch)
            except Exception as error:
                outcome = error
            self._report(outcome)

    def _next(self) -> Batch | None:
        while True:
            try:
                return self._batches.get(timeout=self._look_secs)
            except queue.Empty:
                pass
            try:
                self._store.look()
            except Unwritten:
                # It may pass; if it does not, the next batch will tell.
                pass
            except Exception as error:
                self._report(error)
                return self._batches.get()

    def _report(self, outcome: Written | Exception) -> None:
        # The loop may have ended at the shutdown deadline, and with it whoever wanted to know.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._done, outcome)


class Persistence:
    """Writes what comes out of the persist channel, until that is closed and empty."""

    def __init__(
        self,
        store: Ledger,
        rows: Channel[Batch],
        options: Persist,
        counters: metrics.Counters,
        *,
        look_secs: float,
        answer: Callable[[], None],
        end: Callable[[EngineError], None],
    ) -> None:
        """`look_secs`: the longest the files go without a look although there is nothing to write (D7). `answer`: says
        that the stage is not stuck (E5). `end`: ends the run, for a failure that no retry can mend."""
        self._store = store
        self._channel = rows
        self._options = options
        self._counters = counters
        self._answer = answer
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(store, self._written, min(_LOOK_SECS, look_secs))
        # The batch in the writer thread, or waiting for another attempt; None when nothing is being written.
        self._in_flight: Batch | None = None
        self._attempt_started_at: float  # of the batch in flight; not there before the first one
        self._attempt_failures: int  # attempts at the batch in flight that failed so far
        # Why nothing more is written: a failure that no retry can mend; the batch in flight is then lost.
        self.failure: EngineError | None = None
        self._write_trouble = logs.RateLimited(logger, logging.WARNING)
        # How many of the signals, order events and fills that were handed over are on disk.
        self.derived_written = 0

    def unwritten(self) -> list[Batch]:
        """The batches that are not on disk yet, oldest first."""
        in_flight = [] if self._in_flight is None else [self._in_flight]
        return [*in_flight, *self._channel.pending(), *self._channel.waiting()]

    def close(self) -> None:
        """End the writer thread and close the database; not where the thread is in a write that does not end. Raises
        ConfigError when only now it shows that the files are not what they should be (D7)."""
        if self._writer.stop(0.0 if self._in_flight is not None and self.failure is None else 1.0):
            self._store.close()

    async def run(self) -> None:
        """The stage, to the end of the channel or of the disk."""
        channel, options = self._channel, self._options
        flush_secs = options.flush_interval_ms / 1000
        while self.failure is None:
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
                    self._start_write(merge(channel.take_all()))
            if self._writer_answers():
                self._answer()

    def _start_write(self, batch: Batch) -> None:
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
        allowed = self._options.busy_timeout_ms / 1000 + _WRITE_SLACK_SECS
        return self._loop.time() - self._attempt_started_at <= allowed

    def _written(self, outcome: Written | Exception) -> None:
        """The writer thread is done with an attempt at the batch in flight."""
        counters = self._counters
        if isinstance(outcome, Written):
            counters.tick_rows_written += outcome.ticks
            counters.tick_rows_known += outcome.ticks_known
            rows = outcome.ticks + outcome.signals + outcome.orders + outcome.fills
            counters.persist_count += rows
            assert self._in_flight is not None
            self.derived_written += count_rows(self._in_flight) - len(self._in_flight.ticks)
            self._in_flight = None
            logger.debug("batch flushed", extra={"fields": {"persisted": rows, "errors": counters.persist_errors}})
            self._channel.nudge()
            return
        counters.persist_errors += 1
        if isinstance(outcome, Unwritten):
            wait = _RETRY_SECS[min(self._attempt_failures, len(_RETRY_SECS) - 1)]
            self._attempt_failures += 1
            self._attempt_started_at = self._loop.time()
            assert self._in_flight is not None
            self._write_trouble.log(
                self._loop.time(),
                "batch not written, trying again",
                error=str(outcome),
                kind=type(outcome).__name__,
                rows=count_rows(self._in_flight),
                attempt=self._attempt_failures,
            )
            self._loop.call_later(wait, self._attempt)
            return
        self.failure = outcome if isinstance(outcome, EngineError) else explain(outcome, "writer failed", task="writer")
        self._channel.nudge()
        self._end(self.failure)


def flush_due_secs(
    *, rows: int, batch_size: int, full: bool, closed: bool, waited_secs: float, flush_secs: float
) -> float:
    """How long pending rows may wait on for more to share their transaction; 0 when they are to be written now (B6).

    A full channel is written whatever `batch_size` says: nothing more can come that would make the batch complete.
    """
    if full or closed or rows >= batch_size:
        return 0.0
    return max(0.0, flush_secs - waited_secs)
