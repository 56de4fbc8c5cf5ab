"""The mock exchange: what becomes of clients that it does not expect."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading

import pytest

from harness.base.clock import OsClock, poll
from harness.faults.exchange import Exchange


@pytest.mark.slow
@pytest.mark.claim("V3")
def test_whoever_comes_while_it_closes_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Which would be told, at some later time, as a fault of another proof."""
    for _ in range(6):
        over, calls = threading.Event(), list[float]()
        with Exchange() as exchange:
            thread = threading.Thread(target=_call_until, args=(over, exchange.port, calls))
            thread.start()
            _wait_for(calls)
        over.set()
        thread.join()
    gc.collect()
    assert not [record.getMessage() for record in caplog.records if "was destroyed" in record.getMessage()]


def _call_until(over: threading.Event, port: int, calls: list[float]) -> None:
    """Connect and begin a request, over and over; `calls` has when."""
    while not over.is_set():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as caller:
            caller.sendall(b"GET / HTTP/1.1\r\n")
            calls.append(OsClock().monotonic())


def _wait_for(calls: list[float]) -> None:
    assert poll(lambda: len(calls) >= 20 or None, OsClock(), 10.0), "nobody could connect"
