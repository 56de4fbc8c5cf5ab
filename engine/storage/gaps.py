"""The trades that a database knows to be missing, for whoever asks: `hybrid-engine gaps` (N9)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from engine.storage.restoring import NotOurs, read_holes
from engine.storage.sqlite_codes import refuse, refuse_contents, uri


class Gap(msgspec.Struct, frozen=True):
    """Trades that a venue numbered and that were never seen (N9). Times are those of the stored ticks around it, in ms
    by the venue's clock; None where there is none."""

    source: str
    market: str
    """As the venue writes it; "" where it is not known."""
    first: int
    last: int
    after_ts: int | None
    before_ts: int | None


def read_gaps(path: str | Path) -> list[Gap]:
    """The holes in each stream's trade ids that the database remembers: the newest 64 of each. Beside a running engine
    too. Raises ConfigError or Crash for a database that cannot be read."""
    path = Path(path)
    gaps: list[Gap] = []
    try:
        # Without a WAL nobody is writing, and who may not write could not make one, as even a reader has to.
        mode = "ro" if path.with_name(f"{path.name}-wal").exists() else "ro&immutable=1"
        with closing(sqlite3.connect(uri(path, mode), uri=True)) as connection:
            rows = connection.execute(
                "SELECT id, coalesce(source, stream, name), market, missing FROM sources WHERE missing IS NOT NULL"
                " ORDER BY id"
            ).fetchall()
            for row_id, source, market, missing in rows:
                for first, last in read_holes(missing):
                    around = [
                        connection.execute(f"SELECT ts FROM ticks WHERE source = ? AND {edge} LIMIT 1", (row_id, at))
                        for edge, at in (
                            ("trade_id < ? ORDER BY trade_id DESC", first), ("trade_id > ? ORDER BY trade_id", last)
                        )
                    ]  # fmt: skip
                    after, before = (row[0] if (row := found.fetchone()) else None for found in around)
                    gaps.append(Gap(source, market or "", first, last, after, before))
    except sqlite3.Error as error:
        refuse(path, error, "cannot be read")
    except NotOurs as error:
        refuse_contents(path, error)
    return gaps
