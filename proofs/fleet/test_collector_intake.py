"""Messages -> rows of one transaction (contract F3, F5)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from fleet.base import wire
from fleet.base.tables import TICKS
from fleet.base.wire import Message
from fleet.collector.intake import Arrived, Break, Stand, batch_of

AT = datetime(2026, 11, 27, 23, 59, tzinfo=UTC)
DAY_MS = 86_400_000
NOON = int(datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp() * 1000)


def tick(number: int, ts: int = NOON) -> tuple[Any, ...]:
    return (number, ts, "X", 1.0, 1.0, "a", number, None)


def arrived(sequence: int, start: int | None, *rows: tuple[Any, ...]) -> Arrived:
    place = None if start is None else {"id": start}
    data = wire.encode(Message("one", TICKS, 3, place, {"id": rows[-1][0]}, rows, rows[-1]))
    return Arrived(sequence, AT, "hybrid.one.ticks", data)


@pytest.mark.claim("F3")
def test_messages_that_go_on_from_each_other_are_whole() -> None:
    batch = batch_of([arrived(5, None, tick(1), tick(2)), arrived(9, 2, tick(3))], {})
    assert [row[2] for row in batch.rows["ticks"]] == [1, 2, 3]
    assert batch.rows["ticks"][0][:2] == ("one", "2026-11-27")
    assert batch.stands == {("one", "ticks"): Stand({"id": 3}, 9, 3)}
    assert (batch.breaks, batch.refused, batch.sequence) == ([], [], 9)


@pytest.mark.claim("F3")
def test_what_is_missing_between_two_messages_is_told() -> None:
    stands = {("one", "ticks"): Stand({"id": 2}, 5, 3)}
    batch = batch_of([arrived(9, 4, tick(5))], stands)
    assert batch.breaks == [Break("one", "ticks", 9, {"id": 2}, {"id": 4})]
    assert batch_of([arrived(9, 4, tick(5))], {}).breaks == [Break("one", "ticks", 9, None, {"id": 4})]
    # Another instance's place is its own.
    assert batch_of([arrived(9, None, tick(5))], {("two", "ticks"): Stand({"id": 2}, 5, 3)}).breaks == []


@pytest.mark.claim("F3")
def test_what_comes_again_and_what_begins_anew_is_no_break() -> None:
    stands = {("one", "ticks"): Stand({"id": 9}, 20, 3)}
    again = batch_of([arrived(5, 2, tick(3))], stands)
    assert (again.breaks, again.stands, len(again.rows["ticks"])) == ([], {}, 1)
    anew = batch_of([arrived(21, None, tick(1))], stands)
    assert (anew.breaks, anew.stands["one", "ticks"].place) == ([], {"id": 1})


@pytest.mark.claim("F3")
def test_a_message_of_nobody_holds_up_nothing() -> None:
    strange = Arrived(6, AT, "hybrid.one.ticks", b"{}")
    batch = batch_of([arrived(5, None, tick(1)), strange, arrived(7, 1, tick(2))], {})
    assert [(one.sequence, reason) for one, reason in batch.refused] == [(6, "version None; this one reads 1")]
    assert (len(batch.rows["ticks"]), batch.breaks, batch.sequence) == (2, [], 7)


@pytest.mark.claim("F5")
def test_a_day_that_cannot_be_makes_no_partition() -> None:
    rows = [tick(1), tick(2, NOON + DAY_MS), tick(3, NOON + 2 * DAY_MS), tick(4, 0), tick(5, 253_402_300_799_999)]
    batch = batch_of([arrived(5, None, *rows)], {})
    assert batch.days == {"ticks": {date(2026, 11, 27), date(2026, 11, 28)}}
    assert [row[1] for row in batch.rows["ticks"]][2:] == ["2026-11-29", "1970-01-01", "9999-12-31"]
