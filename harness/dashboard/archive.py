"""What was, for who asks: spans of time, equity, tables (contract W6, W7). The newest state is the collector's.

Everything here is asked for by clients, so it is read in threads of its own, few at a time, with a deadline for each
read (harness/observing/ledger_view.py), and neither the collector nor the engine waits for it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.base.errors import HarnessError
from harness.dashboard import query, view_model
from harness.dashboard.equity import Equity, EquityLine, Point
from harness.dashboard.telemetry_store import KeptTelemetry
from harness.dashboard.view_model import Observation
from harness.observing import ledger_history
from harness.observing.ledger_history import Page

READS_MAX = 4
"""Reads of fills for one request, a seventh of a second: for so long every other answer is late. What is left the next
request reads."""

_AT = re.compile(r" at ([0-9]+)")
"""When a transition came, in a text of several."""

SEEN_TABLES = ("decisions", "journal")
"""Tables of what the collector has seen, beside those of the database."""


class Archive:
    """Answers about the past. `seen` is the newest observation; `database` where the engine's database is; `decisions`
    those of the soak, each with the byte of the log at which it begins."""

    def __init__(
        self,
        telemetry: KeptTelemetry,
        seen: Callable[[], Observation],
        database: Callable[[], Path | None],
        decisions: Callable[[], Sequence[tuple[int, Mapping[str, Any]]]],
    ) -> None:
        self._telemetry = telemetry
        self._seen = seen
        self._database = database
        self._decisions = decisions
        # Guards the two below: fills are booked in order, once.
        self._lock = threading.Lock()
        self._equity = Equity()
        self._file: Path | None = None

    def span(self, asked: query.SpanQuery) -> Mapping[str, Any]:
        """Price, ticks, what was observed, what happened, and why signals made no order. What the database does not
        tell is empty, and `ledger` says why: what was observed does not depend on it."""
        now_ms = round(self._seen().at * 1000)
        trouble = ""
        try:
            found = ledger_history.read_span(
                self._path(), symbol=asked.symbol, from_ms=asked.from_ms, to_ms=asked.to_ms, buckets=asked.buckets,
                now_ms=now_ms,
            )  # fmt: skip
        except HarnessError as error:
            trouble, found = str(error), ledger_history.NO_SPAN
        if found.symbol:
            begin, end = found.first_ms, found.last_ms
        else:
            begin = (self._telemetry.first_ms() or now_ms) if asked.from_ms is None else asked.from_ms
            end = now_ms if asked.to_ms is None else asked.to_ms
        rows = [[one.at_ms, one.ticks, one.low, one.high, one.last] for one in found.buckets]
        return {
            "symbol": found.symbol, "symbols": found.symbols, "from": begin, "to": end, "step_ms": found.step_ms,
            "buckets": rows, "sampled": found.sampled,
            "vetoes": [{"reason": reason, "signals": number} for reason, number in found.vetoes],
            "vetoes_from": found.vetoes_from_ms,
            "ledger": trouble, "feed": self._feed(now_ms), **self._telemetry.span(begin, end),
        }  # fmt: skip

    def _feed(self, now_ms: int) -> Mapping[str, Any]:
        try:
            bars = ledger_history.read_bars(self._path(), now_ms)
        except HarnessError:
            # Told with the span.
            bars = []
        return {
            **view_model.feed(self._seen()), "since": self._telemetry.source_since_ms(),
            "bars": [{"source": name, "until": until} for name, until in bars],
        }  # fmt: skip

    def equity(self) -> Mapping[str, Any]:
        """Equity and what it is made of, of each mode, as JSON. Raises HarnessError."""
        path = self._path()
        with self._lock:
            if path != self._file:
                self._file, self._equity = path, Equity()
            for _ in range(READS_MAX):
                read = self._equity.follow(partial(ledger_history.read_fills, path))
                if read.whole:
                    break
            last = self._equity.last_ms
            return {
                "whole": read.whole, "odd": read.odd,
                "disagreements": self._equity.disagreements(read.positions) if read.whole else [],
                "modes": {mode: _line(line, last) for mode, line in self._equity.lines.items()},
            }  # fmt: skip

    def table(self, name: str, asked: query.PageQuery) -> Page:
        """Return rows of a table. Raises HarnessError."""
        if name not in SEEN_TABLES:
            return ledger_history.read_page(
                self._path(), table=name, at_id=asked.at_id, newest_first=asked.newest_first, rows=asked.rows,
                filters=asked.filters, from_ms=asked.from_ms, to_ms=asked.to_ms,
            )  # fmt: skip
        columns, rows = self._observed(name)
        wanted = asked.filters.get(query.CONTAINS, "").lower()
        begin, end = asked.from_ms or 0, query.MS_MAX if asked.to_ms is None else asked.to_ms
        numbered = [
            list(row) for row in rows
            if begin <= row[1] < end and any(wanted in str(cell).lower() for cell in row[2:])
        ]  # fmt: skip
        if asked.at_id is not None:
            at_id, newest = asked.at_id, asked.newest_first
            # The row itself may have gone meanwhile.
            numbered = [row for row in numbered if (row[0] <= at_id if newest else row[0] >= at_id)]
        ordered = numbered[::-1] if asked.newest_first else numbered
        following = ordered[asked.rows :]
        return Page(columns, ordered[: asked.rows], following[0][0] if following else None)

    def _observed(self, name: str) -> tuple[list[str], list[Sequence[Any]]]:
        if name == "journal":
            return ["id", "time", "by", "text"], [
                (line.number, round(line.at * 1000), line.by, line.text) for line in self._seen().tail
            ]
        return ["id", "time", "action", "state", "reason"], [
            (at + 1, *view_model.decision_row(decision)) for at, decision in self._decisions()
        ]

    def _path(self) -> Path:
        path = self._database()
        if path is None:
            raise HarnessError("where the engine's database is cannot be told yet")
        return path


def dated(page: Page) -> list[Sequence[Any]]:
    """Return the rows with their times as a spreadsheet reads them: ISO 8601, UTC."""
    at = page.columns.index("time")
    notes = page.columns.index("transitions") if "transitions" in page.columns else None
    found: list[Sequence[Any]] = []
    for row in page.rows:
        cells = list(row)
        cells[at] = _utc(cells[at])
        if notes is not None:
            cells[notes] = _AT.sub(lambda one: f" at {_utc(int(one[1]))}", str(cells[notes] or ""))
        found.append(cells)
    return found


def _utc(ms: Any) -> Any:
    if not isinstance(ms, int) or not 0 <= ms <= query.MS_MAX:
        return ms
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(line: EquityLine, last_ms: int) -> Mapping[str, Any]:
    now = line.now(last_ms)
    return {
        "now": _point(now), "peak": str(line.peak), "drawdown": str(line.drawdown), "fills": line.fills,
        "points": [_point(point) for point in (*line.points, now)],
        "holdings": {
            symbol: {"qty": str(held.qty), "cash": str(held.cash), "fees": str(held.fees), "price": str(held.price)}
            for symbol, held in line.holdings.items()
        },
    }  # fmt: skip


def _point(point: Point) -> Mapping[str, Any]:
    return {
        "at": point.ts_ms, "equity": str(point.equity), "realised": str(point.realised),
        "unrealised": str(point.unrealised), "fees": str(point.fees),
    }  # fmt: skip
