"""Messages of the stream -> the rows of one transaction, and what there is to complain of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from fleet.base import wire
from fleet.base.tables import Row, Table
from fleet.base.wire import Place

FIRST_DAY = date(2009, 1, 3)
"""Before this day nothing was traded that an engine could have seen: what says so has lost its time."""

EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Arrived:
    """A message as the stream delivers it."""

    sequence: int
    """In the stream."""
    at: datetime
    """When the stream took it."""
    subject: str
    data: bytes


@dataclass(frozen=True)
class Stand:
    """How far one table of one instance has come."""

    place: Place
    sequence: int
    """Of the message that said so."""
    schema: int


@dataclass(frozen=True)
class Break:
    """A message that does not go on from where the one before it ended."""

    instance: str
    table: str
    sequence: int
    expected: Place | None
    found: Place


Key = tuple[str, str]
"""Instance and table."""


@dataclass
class Batch:
    """What one transaction stores."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    """By table; each begins with instance and day."""
    days: dict[str, set[date]] = field(default_factory=dict)
    """By table, the days that get a partition of their own."""
    stands: dict[Key, Stand] = field(default_factory=dict)
    breaks: list[Break] = field(default_factory=list)
    refused: list[tuple[Arrived, str]] = field(default_factory=list)
    sequence: int = 0
    """The last of all."""


def batch_of(arrived: Sequence[Arrived], stands: dict[Key, Stand]) -> Batch:
    """What messages, in the order of the stream, hold. stands: how far each table had come before."""
    batch = Batch()
    for one in arrived:
        batch.sequence = max(batch.sequence, one.sequence)
        try:
            message = wire.decode(one.data, one.subject)
        except ValueError as error:
            batch.refused.append((one, str(error)))
            continue
        name = message.table.name
        key = (message.instance, name)
        rows = batch.rows.setdefault(name, [])
        for row in message.rows:
            day, own = day_of(message.table, row, one.at)
            rows.append((message.instance, day.isoformat(), *row))
            if own:
                batch.days.setdefault(name, set()).add(day)
        stand = batch.stands.get(key) or stands.get(key)
        if stand is not None and one.sequence <= stand.sequence:
            # Once more, of which nothing is to be learned.
            continue
        expected = None if stand is None else stand.place
        # A relay that begins anew says so: the stream had lost all that it held.
        if message.start is not None and message.start != expected:
            batch.breaks.append(Break(*key, one.sequence, expected, message.start))
        batch.stands[key] = Stand(message.end, one.sequence, message.schema)
    return batch


def day_of(table: Table, row: Row, at: datetime) -> tuple[date, bool]:
    """The day of a row, in UTC, and whether it gets a partition: whoever has lost its time makes none."""
    ts = row[table.names.index("ts")]
    # A row that was cleaned has a time.
    assert isinstance(ts, int)
    day = EPOCH + timedelta(milliseconds=ts)
    return day, FIRST_DAY <= day <= at.astimezone(UTC).date() + timedelta(days=1)
