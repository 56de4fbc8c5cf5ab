"""Whoever looks for what is not in a machine's journal has read it to its end (contract V3, V10, V13)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from harness.base.clock import OsClock
from harness.base.errors import MachineError
from harness.evidence.recorder import Unrecorded
from harness.machines import systemd
from harness.machines.systemd import JournalStream

UNIT = "proof.service"


def entry(message: str, at: float) -> SimpleNamespace:
    data = {"MESSAGE": message, "_SYSTEMD_UNIT": UNIT, "SYSLOG_IDENTIFIER": "proof"}
    return SimpleNamespace(data=data, get_realtime_usec=lambda: int(at * 1e6))


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], JournalStream]]:
    """A stream of what a function gives one by one: an entry, or None at the end."""
    made: list[JournalStream] = []

    def make(read: Callable[[], object]) -> JournalStream:
        reader = SimpleNamespace(next=read, process_events=lambda: None)
        monkeypatch.setattr(systemd, "JournalReader", lambda: reader)
        machine: Any = SimpleNamespace(open_journal=lambda _: None)
        recorder: Any = Unrecorded()
        made.append(JournalStream(recorder, machine, {UNIT}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.claim("V13")
def test_what_stood_in_the_journal_was_read_before_nothing_is_found(
    stream: Callable[[Callable[[], object]], JournalStream],
) -> None:
    """However slowly it is read: ten lines take a fifth of a second here."""
    begin, lines = threading.Event(), [entry(f"line {number}", number) for number in range(10)]

    def read() -> object:
        if not begin.is_set() or not lines:
            return None
        OsClock().sleep(0.02)
        return lines.pop(0)

    one = stream(read)
    begin.set()
    one.catch_up()
    assert [found.message for found in one.since(0)] == [f"line {number}" for number in range(10)]


@pytest.mark.claim("V13")
def test_a_service_that_never_stops_talking_can_be_caught_up_with(
    stream: Callable[[Callable[[], object]], JournalStream],
) -> None:
    one = stream(lambda: entry("on and on", OsClock().wall()))
    one.catch_up()
    assert one.since(0)


@pytest.mark.claim("V3", "V13")
@pytest.mark.parametrize("fault", ["late", "dead"])
def test_a_journal_that_was_not_read_to_its_end_is_no_evidence(
    stream: Callable[[Callable[[], object]], JournalStream], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(systemd, "CATCH_UP_SECS", 0.1)

    def read() -> object:
        if fault == "dead":
            raise OSError("Bad message")
        return entry("of long ago", 1.0)

    says = "is longer than what was read of it in 0.1 s" if fault == "late" else "cannot be read any more: Bad message"
    with pytest.raises(MachineError, match=says):
        stream(read).catch_up()
