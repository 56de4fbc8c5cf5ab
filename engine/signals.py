"""What each signal does to the engine, from the first moment of `main` to the last (contract E6).

    TERM, INT, HUP, QUIT      a clean stop; the first one counts, whatever comes after it
    what else would end it    a log line, at most one a second: USR1, USR2, ALRM, PROF, the real-time signals...
    TTIN, TTOU                nothing, so that an engine in the background of a shell is not halted by its terminal

What was ignored when the process started stays ignored, as `nohup` and the background of a shell expect, except TERM:
something has to be able to stop an engine. What was blocked does not stay so: nobody asks for that.

Python's own handlers do it, not the event loop's: those begin only with the loop, and when the loop is closed they
leave the default behind, by which the next signal kills. A handler only takes notes, because it may interrupt anything,
a line that is being logged included; `report` logs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from concurrent.futures import Future

    from engine.base.logs import RateLimited

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

TOLD = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGPWR,
    signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
"""Signals that would end the process and mean nothing to it. Not those that say that it is broken (SEGV, ABRT...)."""

_TERMINAL = (signal.SIGTTIN, signal.SIGTTOU)

LOOK_SECS = 0.1
"""A signal that comes as the main thread is about to sleep does not wake it: its handler runs only after that."""


class Signals:
    """The signals that came. Its methods are for the main thread, where Python runs handlers."""

    def __init__(self) -> None:
        self.stop: int | None = None  # the first signal that asked for a stop
        self._handled: list[int] = []
        # Signal -> how often it came since the last report: bounded, however many come.
        self._came: dict[int, int] = {}
        self._stop_told = False
        self._wake: Callable[[], object] | None = None
        self._ignored: RateLimited | None = None

    def install(self) -> None:
        """From now on no signal of this module ends the process."""
        for signum in (*STOPS, *TOLD):
            if signal.getsignal(signum) is not signal.SIG_IGN or signum == signal.SIGTERM:
                signal.signal(signum, self._note)
                self._handled.append(signum)
        # Whoever started us may have blocked them, and a mask is inherited. Before any thread begins, which takes ours.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._handled)
        for signum in _TERMINAL:
            signal.signal(signum, signal.SIG_IGN)

    def restore(self) -> None:
        """Every signal does again what it does to any command: for what only prints."""
        for signum in self._handled:
            signal.signal(signum, signal.SIG_DFL)

    def ignore(self) -> None:
        """Nothing interrupts the end of the process: the interpreter would bring the defaults back before it is gone,
        but leaves alone what is ignored."""
        for signum in self._handled:
            signal.signal(signum, signal.SIG_IGN)

    def _note(self, signum: int, _frame: object) -> None:
        if self.stop is None and signum in STOPS:
            self.stop = signum
        self._came[signum] = self._came.get(signum, 0) + 1
        if self._wake is not None:
            self._wake()

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call `wake` with each signal inside this block, and at once for those that came before. It runs in a signal
        handler, so it may do little."""
        self._wake = wake
        try:
            if self._came:
                wake()
            yield
        finally:
            self._wake = None

    @contextmanager
    def stopping(self, loop: AbstractEventLoop, stop: Callable[[], object]) -> Iterator[None]:
        """Report each signal on `loop` inside this block, and call `stop` for one that asks for it. One that comes as
        the block ends is not told any more: what ended has had its last word."""

        def look() -> None:
            if self._wake is not None and self.report():
                stop()

        with self.waking(lambda: loop.call_soon_threadsafe(look)):
            yield

    def wait(self, work: Future[Any]) -> bool:
        """Wait until `work` is done, or for a signal that asks for a stop. Returns whether `work` is done."""
        # A signal handler may put into it whatever it interrupts, which Event and Condition do not allow.
        bell: SimpleQueue[None] = SimpleQueue()
        work.add_done_callback(lambda _: bell.put(None))
        with self.waking(lambda: bell.put(None)):
            while not work.done() and self.stop is None:
                with suppress(Empty):
                    bell.get(timeout=LOOK_SECS)
        return work.done()

    def report(self) -> bool:
        """Log what came since the last call; returns whether a stop was asked for."""
        # Imported only here, so that `install` comes before whatever takes time.
        import logging
        import time

        from engine.base.logs import RateLimited

        logger = logging.getLogger("engine.signals")
        if self._ignored is None:
            self._ignored = RateLimited(logger, logging.WARNING)
        came, self._came = self._came, {}
        for signum, times in came.items():
            first = signum == self.stop and not self._stop_told
            if first:
                self._stop_told = True
                logger.info("shutdown signal received", extra={"fields": {"signal": name_of(signum)}})
            if times > first:
                self._ignored.log(time.monotonic(), "signal ignored", signal=name_of(signum), times=times - first)
        return self.stop is not None


def name_of(signum: int) -> str:
    """ "SIGUSR1"; a real-time signal, most of which have no name, by its distance from the first: "SIGRTMIN+3"."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"SIGRTMIN+{signum - signal.SIGRTMIN}"
