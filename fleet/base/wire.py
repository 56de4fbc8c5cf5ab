"""Messages of the stream: the rows of one table of one instance, and how far the ledger was read for them.

A message says where it goes on from (`from`) and how far it comes (`to`), so that the last message of a subject is all
that a relay needs to go on, and whoever reads the stream sees that nothing is missing between two messages. A message
without rows keeps the place of a table in which nothing happens, before the stream forgets its last one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fleet.base.tables import TABLES, Row, Table

VERSION = 1
"""Of what a message looks like."""

PREFIX = "hybrid"
"""First token of all subjects."""

INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
"""What an instance may be called: one token of a subject, and one of a unit's name."""

Place = dict[str, Any]
"""How far a table was read. What is in it is its reader's affair (fleet/relay/tails.py)."""


@dataclass(frozen=True)
class Message:
    """What one message holds."""

    instance: str
    table: Table
    schema: int
    """The ledger's `PRAGMA user_version`."""
    start: Place | None
    """Where the message before it ended; None for the first of a table."""
    end: Place
    rows: Sequence[Row]
    last: Row | None
    """The last row up to `end`, also when that came with an earlier message; None when there never was one."""


def subject(instance: str, table: str) -> str:
    """Where the rows of a table are published."""
    return f"{PREFIX}.{instance}.{table}"


def message_id(instance: str, table: str, row: Row) -> str:
    """`Nats-Msg-Id` of the message that ends with `row`: instance, table and the row's key."""
    known = TABLES[table]
    # A header is ASCII, and a point stands between two parts.
    key = [
        quote(str(value), safe="").replace(".", "%2E")
        for name, value in zip(known.names, row, strict=True)
        if name in known.key
    ]
    return ".".join((instance, table, *key))


def encode(message: Message) -> bytes:
    """A message as JSON. Floats are written so that the same ones are read again, decimals are texts."""
    return json.dumps(
        {
            "v": VERSION, "instance": message.instance, "table": message.table.name, "schema": message.schema,
            "from": message.start, "to": message.end, "columns": message.table.names, "rows": message.rows,
            **({} if message.rows else {"last": message.last}),
        },
        allow_nan=False, separators=(",", ":"),
    ).encode()  # fmt: skip


def decode(data: bytes, subject_of: str) -> Message:
    """A message of the subject `subject_of`. Raises ValueError, which says what is wrong with it.

    Columns that this version does not know are left out; one that the message has not is null.
    """
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("is no JSON object")
    if found.get("v") != VERSION:
        raise ValueError(f"version {found.get('v')!r}; this one reads {VERSION}")
    instance, table = found.get("instance"), TABLES.get(str(found.get("table")))
    if not isinstance(instance, str) or INSTANCE.fullmatch(instance) is None or table is None:
        raise ValueError("names no instance or no table")
    if subject_of != subject(instance, table.name):
        raise ValueError(f"is of {instance}, {table.name}, and came on {subject_of}")
    start, end, schema = found.get("from"), found.get("to"), found.get("schema")
    if not isinstance(end, dict) or not (start is None or isinstance(start, dict)) or not isinstance(schema, int):
        raise ValueError("does not say how far the ledger was read")
    columns, rows = found.get("columns"), found.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise ValueError("has no columns or no rows")
    given = {name: number for number, name in enumerate(columns) if isinstance(name, str)}
    order = [given.get(name) for name in table.names]
    kept = [_row(table, order, len(columns), row) for row in rows]
    last = found.get("last")
    if not kept and last is not None:
        return Message(instance, table, schema, start, end, kept, _row(table, order, len(columns), last))
    return Message(instance, table, schema, start, end, kept, kept[-1] if kept else None)


def _row(table: Table, order: Sequence[int | None], width: int, row: object) -> Row:
    if not isinstance(row, list) or len(row) != width:
        raise ValueError("has a row with more or fewer values than columns")
    return table.cleaned([None if at is None else row[at] for at in order])[0]
