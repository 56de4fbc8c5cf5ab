"""Messages -> rows of one transaction (contract F3, F5)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from fleet.base import wire
from fleet.base.tables import FILLS, TICKS, Table
from fleet.base.wire import Message
from fleet.collector.intake import Arrived, Break, Stand, batch_of, day_of

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


@pytest.mark.claim("F5")
@pytest.mark.parametrize(
    ("at", "day", "own"),
    [
        (AT, date(2009, 1, 2), False),
        (AT, date(2009, 1, 3), True),
        (AT, date(2026, 11, 28), True),
        (AT, date(2026, 11, 29), False),
        # The stream's clock may be told in any zone; a day is one in UTC.
        (AT.astimezone(timezone(timedelta(hours=10))), date(2026, 11, 28), True),
        (AT.astimezone(timezone(timedelta(hours=10))), date(2026, 11, 29), False),
        (datetime(2026, 11, 28, tzinfo=UTC).astimezone(timezone(timedelta(hours=-5))), date(2026, 11, 29), True),
    ],
)
def test_days_from_the_first_trade_to_tomorrow_have_a_partition(at: datetime, day: date, own: bool) -> None:
    begin = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    for ts in (begin, begin + DAY_MS - 1):
        assert day_of(TICKS, tick(1, ts), at) == (day, own)


@pytest.mark.claim("F3")
def test_a_message_that_comes_twice_in_a_batch_says_nothing_new_the_second_time() -> None:
    first, second = arrived(5, None, tick(1)), arrived(6, 1, tick(2))
    batch = batch_of([first, second, first, second, arrived(7, 2, tick(3))], {})
    assert (batch.breaks, batch.stands["one", "ticks"], batch.sequence) == ([], Stand({"id": 3}, 7, 3), 7)
    assert [row[2] for row in batch.rows["ticks"]] == [1, 2, 1, 2, 3]
    # So where the message was the last one of a batch before.
    after = batch_of([second], {("one", "ticks"): Stand({"id": 2}, 6, 3)})
    assert (after.breaks, after.stands, after.sequence) == ([], {}, 6)


@pytest.mark.claim("F3")
def test_tables_and_instances_in_one_batch_have_their_own_places() -> None:
    def mark(sequence: int, instance: str, table: Table, schema: int, start: int, end: int) -> Arrived:
        message = Message(instance, table, schema, {"id": start}, {"id": end}, [], None)
        return Arrived(sequence, AT, f"hybrid.{instance}.{table.name}", wire.encode(message))

    stands = {("one", "ticks"): Stand({"id": 2}, 3, 3), ("two", "ticks"): Stand({"id": 7}, 4, 3)}
    batch = batch_of(
        [
            mark(5, "one", TICKS, 4, 2, 3), mark(8, "two", TICKS, 5, 7, 9), mark(6, "one", FILLS, 3, 1, 2),
            mark(7, "one", TICKS, 4, 3, 4),
        ],
        stands,
    )  # fmt: skip
    assert batch.stands == {
        ("one", "ticks"): Stand({"id": 4}, 7, 4), ("two", "ticks"): Stand({"id": 9}, 8, 5),
        ("one", "fills"): Stand({"id": 2}, 6, 3),
    }  # fmt: skip
    assert batch.breaks == [Break("one", "fills", 6, None, {"id": 1})]
    assert (batch.sequence, batch.days, [*batch.rows.values()]) == (8, {}, [[], []])


@pytest.mark.claim("F3")
def test_a_refused_message_is_passed_by_and_goes_on_where_the_one_before_it_ended() -> None:
    strange = Arrived(9, AT, "hybrid.one.ticks", b"[]")
    batch = batch_of([strange], {})
    assert (batch.sequence, batch.refused, batch.stands, batch.rows) == (9, [(strange, "is no JSON object")], {}, {})


@pytest.mark.claim("F3")
def test_no_message_is_nothing_to_store() -> None:
    batch = batch_of([], {("one", "ticks"): Stand({"id": 2}, 3, 3)})
    assert (batch.rows, batch.days, batch.stands, batch.breaks, batch.refused) == ({}, {}, {}, [], [])
    assert batch.sequence == 0
