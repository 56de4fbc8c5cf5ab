"""LIVE behind the gate: what the pipeline makes of a venue that answers late, wrongly or never (R6, L4).

The pipeline runs in this process, as the gate would have handed it the adapter.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine import pipeline
from engine.base.events import OrderStatus
from engine.config import settings
from engine.storage.opening import open_ledger
from engine.trading import execution
from engine.trading.execution import AdapterReport, Order
from proofs.fixtures.engine_process import write_config
from proofs.fixtures.recording_adapter import RecordingAdapter

pytestmark = pytest.mark.slow

QUIET: dict[str, object] = {"tick_interval_ms": 60_000, "signal_every_n_ticks": 1, "run_seconds": 0.5}
"""One tick and one order, and then nothing more for the whole run."""


class LateAdapter(RecordingAdapter):
    """Answers when it has been asked for reports `after` times since it had something to say."""

    name = "late"

    def __init__(self, after: int, *to_order: AdapterReport, to_cancel: OrderStatus | None = None) -> None:
        """`to_order` answers the first order, whose id each report gets; `to_cancel` every cancellation."""
        super().__init__()
        self._after = after
        self._to_order = to_order
        self._to_cancel = to_cancel
        self._later: list[tuple[int, AdapterReport]] = []
        self.asked = 0

    def submit(self, order: Order) -> None:
        super().submit(order)
        for report in self._to_order:
            self._later.append((self.asked + self._after, AdapterReport(order.order_id, *fields(report))))

    def cancel(self, order_id: str) -> None:
        super().cancel(order_id)
        if self._to_cancel is not None:
            self._later.append((self.asked + self._after, AdapterReport(order_id, self._to_cancel)))

    def reports(self) -> Iterator[AdapterReport]:
        self.asked += 1
        due = [report for when, report in self._later if when <= self.asked]
        self._later = [entry for entry in self._later if entry[0] > self.asked]
        yield from due


def fields(report: AdapterReport) -> tuple[Any, ...]:
    return report.status, report.qty, report.price, report.fees, report.detail


def filled(qty: str = "0.1", price: str = "100") -> AdapterReport:
    return AdapterReport("", OrderStatus.FILLED, Decimal(qty), Decimal(price), Decimal("0.01"))


def trade(directory: Path, adapter: execution.ExecutionAdapter, **engine: object) -> int:
    """One run, LIVE; its exit status."""
    config = write_config(directory, {"engine": {**QUIET, **engine}}, mode="LIVE", live_armed=True)
    loaded = settings.load(str(config), {"app.db_path": ("--db", str(directory / "bot.db"))})
    environment = settings.Environment("INFO", "picows", None, None)
    store = open_ledger(loaded.settings.app.db_path, busy_timeout_ms=1000, replay=False)
    return pipeline.run(loaded, environment, store, adapter)


def query(directory: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{directory / 'bot.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


EVENTS = "SELECT status, reason, detail FROM order_events ORDER BY order_id, seq"


@pytest.mark.claim("R6", "L4")
def test_an_answer_is_booked_without_any_further_tick(tmp_path: Path) -> None:
    adapter = LateAdapter(3, filled())
    assert trade(tmp_path, adapter) == 0
    assert query(tmp_path, "SELECT count(*) FROM ticks") == [(1,)]
    assert query(tmp_path, "SELECT status, is_shadow, mode FROM orders") == [("FILLED", 0, "LIVE")]
    assert query(tmp_path, "SELECT fill_qty, is_shadow FROM trades") == [(0.1, 0)]
    assert adapter.cancelled == []


@pytest.mark.claim("R6", "L4", "I4")
def test_a_venue_that_repeats_itself_ends_the_run_and_its_fill_is_stored(tmp_path: Path) -> None:
    assert trade(tmp_path, LateAdapter(3, filled(), filled())) == 1
    assert query(tmp_path, "SELECT status FROM orders") == [("FILLED",)]
    assert query(tmp_path, "SELECT fill_qty FROM trades") == [(0.1,)]


@pytest.mark.claim("R6", "L4")
def test_a_stop_waits_for_the_answer_to_a_cancellation(tmp_path: Path) -> None:
    adapter = LateAdapter(3, to_cancel=OrderStatus.CANCELED)
    assert trade(tmp_path, adapter) == 0
    assert adapter.cancelled == adapter.submitted
    assert [status for status, _, _ in query(tmp_path, EVENTS)] == ["SUBMITTED", "CANCELED"]


@pytest.mark.claim("R6", "L4")
def test_an_order_left_open_is_told_and_belongs_to_the_next_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    silent = LateAdapter(1)
    assert trade(tmp_path, silent, shutdown_timeout_secs=0.5) == 0
    (told,) = [record for record in caplog.records if record.message == "orders left open at the venue"]
    assert vars(told)["fields"] == {"order_ids": silent.submitted}
    assert silent.asked < 50, "a venue is asked now and then, and nobody waits for it in a circle"
    assert query(tmp_path, "SELECT status FROM orders") == [("SUBMITTED",)]
    later = RecordingAdapter()
    later.answers = [AdapterReport(silent.submitted[0], *fields(filled()))]
    assert trade(tmp_path, later, signal_every_n_ticks=100) == 0
    assert query(tmp_path, "SELECT status FROM orders") == [("FILLED",)]
    assert later.submitted == []


@pytest.mark.claim("L4")
@pytest.mark.parametrize(
    ("report", "says"),
    [
        (filled(qty="0.2"), "quantity 0.2, of which 0.1"),
        (filled(qty="0"), "is not a positive number"),
        (filled(qty="NaN"), "is not a positive number"),
        (filled(price="-1"), "price -1 is not a positive number"),
        (filled(price="1e20"), "is not below"),
        (AdapterReport("", OrderStatus.FILLED, Decimal("0.1"), Decimal(1), Decimal("Infinity")), "fees Infinity"),
        (AdapterReport("", OrderStatus.FILLED, 0.1, Decimal(1)), "quantity 0.1, which is no Decimal"),  # type: ignore[arg-type]
    ],
    ids=["more-than-ordered", "nothing", "nan", "negative-price", "huge-price", "infinite-fees", "float"],
)
def test_a_fill_that_cannot_be_is_recorded_and_moves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, report: AdapterReport, says: str
) -> None:
    adapter = LateAdapter(1, report, to_cancel=OrderStatus.CANCELED)
    assert trade(tmp_path, adapter, run_seconds=0.3) == 0
    (status, reason, detail), *_ = query(tmp_path, EVENTS)[1:]
    assert (status, reason) == ("SUBMITTED", "ADAPTER_ERROR")
    assert says in detail
    assert query(tmp_path, "SELECT count(*) FROM trades") == [(0,)]
    assert any(record.message == "execution error" for record in caplog.records)


@pytest.mark.claim("L4")
def test_a_stop_during_which_execution_fails_is_not_clean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An answer about an order that nobody made, to a cancellation at the stop."""

    class Confused(RecordingAdapter):
        def cancel(self, order_id: str) -> None:
            super().cancel(order_id)
            self.answers.append(AdapterReport("live-nobody", OrderStatus.CANCELED))

    assert trade(tmp_path, Confused()) == 1
    assert any("report about an order that is not open" in record.message for record in caplog.records)
