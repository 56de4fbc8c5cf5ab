"""A soak's decisions and samples as CSV and Parquet: read back, they are what the log holds (contract K7)."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from harness.__main__ import main
from harness.soak import decisions, table
from harness.soak.decisions import Decision, Log, SampleLine
from proofs.harness.test_soak_report import BEGUN, DECISIONS, RUN, SAMPLES

pytestmark = pytest.mark.claim("K7")

ODD = SampleLine(decisions.timestamp(BEGUN + 200), RUN, {
    "tick_id_max": 2**63 - 1, "ticks_per_sec": 3, "psi_error": "=cmd", "sample_every": 1, "asked": True,
    "gone": None, "by_market": {"A/B": 2}, "huge": 2**70,
})  # fmt: skip
"""Whole numbers in a column of fractions, a formula, a truth, a table, a number beyond 64 bits, nothing at all."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log of a soak, and its samples beside it, as the controller writes them."""
    path = tmp_path / "soak_decisions.jsonl"
    for file, lines in ((path, [one.as_json() for one in DECISIONS]), (tmp_path / "soak_samples.jsonl", [
        {"timestamp": one.timestamp, "run_id": one.run_id, **one.facts} for one in [*SAMPLES, ODD]
    ])):  # fmt: skip
        written = Log(file, sync=False)
        for line in lines:
            written.write(line)
        written.close()
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_parquet_read_back_is_the_log(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pyarrow import parquet

    assert main(["soak-report", str(log), "--parquet", str(log.parent / "new" / "tables")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    for path, source in zip(paths[1:], (log, log.parent / "soak_samples.jsonl"), strict=True):
        read = parquet.read_table(path)
        assert str(read.schema.field("timestamp").type) == "timestamp[us, tz=UTC]"
        rows, lines = read.to_pylist(), lines_of(source)
        assert set(read.column_names) == {name for line in lines for name in line}
        for row, line in zip(rows, lines, strict=True):
            told = {name: value for name, value in row.items() if value is not None}
            for name in ("by_market", "huge"):
                if name in told:
                    told[name] = json.loads(told[name])
            told["timestamp"] = f"{told['timestamp']:%Y-%m-%dT%H:%M:%S.%fZ}"
            assert told == {name: value for name, value in line.items() if value is not None}
    kinds = {field.name: str(field.type) for field in read.schema}
    assert [kinds[name] for name in ("tick_id_max", "ticks_per_sec", "psi_error", "asked", "huge")] == [
        "int64", "double", "string", "bool", "string",
    ]  # fmt: skip


def test_csv_read_back_is_the_log(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak-report", str(log), "--csv", str(log.parent / "tables")]) == 0
    _, path, samples = (Path(line) for line in capsys.readouterr().out.split())
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [(row["timestamp"], row["action"], row["reason"], row["ticks_count"]) for row in rows] == [
        (one.timestamp, one.action, one.reason, str(one.facts.get("ticks_count", ""))) for one in DECISIONS
    ]
    *_, odd = csv.DictReader(io.StringIO(samples.read_text()))
    assert (odd["psi_error"], odd["ticks_per_sec"], odd["gone"]) == ("'=cmd", "3.0", "")


def test_without_pyarrow_the_remedy_is_told_and_nothing_is_written(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    before = sorted(log.parent.iterdir())
    assert main(["soak-report", str(log), "--csv", str(log.parent), "--parquet", str(log.parent)]) == 2
    assert "pyarrow is not installed here: python -m pip install 'hybrid-harness[parquet]'" in capsys.readouterr().err
    assert sorted(log.parent.iterdir()) == before


def test_an_empty_table_has_its_file() -> None:
    assert table.as_csv(table.samples_table([])) == "\r\n"
    assert table.as_parquet(table.samples_table([])).startswith(b"PAR1")


def test_columns_have_one_type() -> None:
    lines = [Decision("2026-01-09T00:00:00.000000Z", RUN, "realws", "on", "NORMAL", 1, "STALL", "x", {"a": value})
             for value in (1, "1", None)]  # fmt: skip
    assert table.decisions_table(lines).columns["a"] == ["1", '"1"', None]
    assert datetime.fromisoformat(lines[0].timestamp).tzinfo is not None


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([True, None, False], [True, None, False]),
        (["a", None], ["a", None]),
        ([1, None, -(2**63), 2**63 - 1], [1, None, -(2**63), 2**63 - 1]),
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([None, None], [None, None]),
        ([2**63, None], ["9223372036854775808", None]),
        ([True, 1], ["true", "1"]),
        ([{"x": "\u20ac"}, ["\u00e9"]], ['{"x": "\u20ac"}', '["\u00e9"]']),
        ([1, "1"], ["1", '"1"']),
    ],
)
def test_a_column_has_the_values_of_the_log_or_their_json(values: list[Any], column: list[Any]) -> None:
    lines = [SampleLine(decisions.timestamp(BEGUN), RUN, {"a": value}) for value in values]
    found = table.samples_table(lines).columns["a"]
    assert [(type(value), value) for value in found] == [(type(value), value) for value in column]


def test_columns_are_those_of_all_lines_in_their_order_and_of_one_length() -> None:
    lines = [SampleLine("t1", RUN, {"b": 1}), SampleLine("t2", RUN, {"a": 2})]
    assert table.samples_table(lines).columns == {
        "timestamp": ["t1", "t2"], "run_id": [RUN, RUN], "b": [1, None], "a": [None, 2],
    }  # fmt: skip
    with pytest.raises(ValueError, match="shorter"):
        table.as_csv(table.SoakTable({"a": [1], "b": []}))
