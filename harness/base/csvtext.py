"""Rows -> CSV that a spreadsheet reads, and takes for what it is (contract W7, K7)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?")


def csv_text(columns: Sequence[str] | None, rows: Sequence[Sequence[Any]]) -> str:
    """Return a table for a spreadsheet (RFC 4180); columns: None for one that goes on. Text that one would take for a
    formula is quoted with an apostrophe: symbols and reasons are a venue's words."""
    out = io.StringIO()
    writer = csv.writer(out)
    if columns is not None:
        writer.writerow(columns)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return "" if value is None else value
