"""The engine's database as an onlooker sees it: read-only, at a cost that does not grow with the table (D5, K3).

Each look opens and closes its own connection, so that a database that was replaced is seen as it is, and no open
read transaction keeps the engine's WAL from shrinking.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from harness.errors import HarnessError
from harness.stall import Progress

NEWEST = "SELECT id, ts FROM ticks ORDER BY id DESC LIMIT 1"
"""`id` is the table's own key, so this is one step to its end."""

TIMEOUT_SECS = 1.0
"""Readers do not wait for the writer in WAL mode; this is for the moment in which somebody recovers the WAL."""


class LedgerUnreadable(HarnessError):
    """The database is not there, or is not one that can be read. Says nothing about whether the engine lives."""


def look(path: Path) -> Progress:
    """The newest tick of the database at `path`. Raises LedgerUnreadable, which names the file and the reason."""
    # Without this, SQLite says of a missing file what it says of one it may not read.
    if not path.exists():
        raise LedgerUnreadable(f"{path}: there is no such database")
    uri = f"file:{quote(str(path))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT_SECS, isolation_level=None)) as connection:
            row = connection.execute(NEWEST).fetchone()
    except sqlite3.Error as error:
        raise LedgerUnreadable(f"{path}: {error}") from error
    return Progress(0, None) if row is None else Progress(int(row[0]), int(row[1]))
