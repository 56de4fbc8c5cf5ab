"""Decisions and samples of a soak -> tables, for whoever has questions that the report does not answer (contract K7).

A column is a member of the lines, each value as the log has it: CSV for a spreadsheet, Parquet with types for pandas,
DuckDB and the like.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from harness.base import jsontext
from harness.base.csvtext import csv_text
from harness.soak.decisions import Decision, SampleLine

Value = str | int | float | bool | None


@dataclass(frozen=True)
class SoakTable:
    """One of the files of a run as columns of equal length, in the order in which the lines have their members."""

    columns: Mapping[str, Sequence[Value]]
    """Name -> values, of one type (text, whole number, number, truth) or None. What is no such value, and a column of
    which the log has several types, is JSON as text."""


def decisions_table(lines: Sequence[Decision]) -> SoakTable:
    """Return the decisions as a table."""
    return _table([line.as_json() for line in lines])


def samples_table(lines: Sequence[SampleLine]) -> SoakTable:
    """Return the samples as a table."""
    return _table([{"timestamp": line.timestamp, "run_id": line.run_id, **line.facts} for line in lines])


def as_csv(table: SoakTable) -> str:
    """Return it as CSV; a value that the line does not have is empty."""
    return csv_text(list(table.columns), list(zip(*table.columns.values(), strict=True)))


def as_parquet(table: SoakTable) -> bytes:
    """Return it as a Parquet file, `timestamp` as one in UTC. Raises ModuleNotFoundError without pyarrow."""
    import pyarrow
    from pyarrow import parquet

    times = pyarrow.timestamp("us", tz="UTC")
    arrays = {
        name: pyarrow.array(
            [datetime.fromisoformat(str(value)) for value in values], times
        ) if name == "timestamp" else pyarrow.array(values)
        for name, values in table.columns.items()
    }  # fmt: skip
    out = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays), out)
    return out.getvalue()


def _table(lines: Sequence[Mapping[str, object]]) -> SoakTable:
    names = dict.fromkeys(name for line in lines for name in line)
    return SoakTable({name: _column([line.get(name) for line in lines]) for name in names})


def _column(values: Sequence[object]) -> list[Value]:
    known = [value for value in values if value is not None]
    for kinds in ((bool,), (str,), (int,), (int, float)):
        if all(type(value) in kinds and _fits(value) for value in known):
            return [float(value) if float in kinds and value is not None else value for value in values]  # type: ignore[arg-type, misc]
    return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]


def _fits(value: object) -> bool:
    return isinstance(value, str | bool | float) or jsontext.whole(value) is not None
