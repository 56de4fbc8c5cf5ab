"""What the ledger is handed and what it gives back: batches, their outcome, and what a start is told.

A batch is one transaction (D3). Handing over the same batch again changes nothing, because every row has an identity
of its own (I3); that is what makes a retry after `Unwritten` safe even where nobody can tell whether a COMMIT arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from engine.base.events import Fill, Mode, Numbering, OrderEvent, Signal, Tick


class Unwritten(Exception):
    """Nothing of the batch is on disk. The same batch may be handed over again, as often as it takes (D4)."""


class Busy(Unwritten):
    """Another process held the database for the whole of busy_timeout."""


class DiskTrouble(Unwritten):
    """The disk is full or failing. `reason` is SQLite's name for it, such as SQLITE_FULL."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Batch(msgspec.Struct):
    """What one transaction takes. `numberings` maps a label (`Tick.source`) to the trade ids seen, `labels` to (stream,
    number) where the ids follow in a later batch, `streams` the names of new streams to (source, market), `barred` a
    source's name to its host and the time (ms) before which that must not be contacted (N5)."""

    ticks: list[Tick] = []
    signals: list[Signal] = []
    orders: list[OrderEvent] = []
    fills: list[Fill] = []
    numberings: dict[str, Numbering] = {}
    labels: dict[str, tuple[str, int]] = {}
    streams: dict[str, tuple[str, str]] = {}
    barred: dict[str, tuple[str, int]] = {}


class Written(msgspec.Struct):
    """What `write` put on disk, in rows. `orders` counts transitions. `ticks_known` are ticks that were
    stored before; the other lists' known rows are only missing from their counts."""

    ticks: int
    ticks_known: int
    signals: int
    orders: int
    fills: int


class Position(msgspec.Struct, frozen=True):
    """The exact sums of all fills of one symbol in one mode, those of replays excluded: quantity held, cash moved,
    fees paid (which are in the cash). `price` is that of the last fill."""

    qty: Decimal
    cash: Decimal
    fees: Decimal
    price: Decimal


class Restored(msgspec.Struct):
    """What a starting engine must know of the runs before it.

    `numberings` are those of all streams (N9, N11); `streams` maps a stream's name to (source, market), None where an
    earlier version did not keep them, `symbols` a stream's name to what its newest tick is called. `barred` maps a host
    to the time (ms) before which it must not be contacted; what an earlier version kept stands under the source's name.
    `recent_event_ids` maps a stream to its textual ids and their times, oldest first.
    `recent_signal_ids`, oldest first, are those of signals that have been judged, and executed if they passed.
    `open_orders` holds the last transition of every order that neither filled, nor was cancelled or rejected, in order
    of creation.
    """

    next_tick_id: int
    numberings: list[Numbering]
    streams: dict[str, tuple[str, str] | None]
    symbols: dict[str, str]
    barred: dict[str, int]
    recent_event_ids: dict[str, list[tuple[str, int]]]
    positions: dict[Mode, dict[str, Position]]
    recent_signal_ids: list[str]
    open_orders: list[OrderEvent]


def count_rows(batch: Batch) -> int:
    """Rows of ticks, signals, orders and fills in `batch`; what is known of streams does not count."""
    return len(batch.ticks) + len(batch.signals) + len(batch.orders) + len(batch.fills)


def merge(batches: Sequence[Batch]) -> Batch:
    """All of `batches`, oldest first, as one transaction. A single one is returned as it is.

    Of one numbering the newest state counts, but where it leaves `missing` open that of the one before stays.
    """
    if len(batches) == 1:
        return batches[0]
    merged = Batch()
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
