"""What a heartbeat and STATUS= say, and in which unit (contract M2, M4)."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.base import metrics, notify
from engine.config.schema import Settings
from engine.watch import Watch


def watching(ingest: object = None, counters: metrics.Counters | None = None) -> Watch:
    nobody = cast("Any", None)
    return Watch(
        Settings(), cast("Any", ingest), (), nobody, counters or metrics.Counters(), nobody, notify.Notifier(None),
        lambda: 0,
    )  # fmt: skip


@pytest.mark.claim("M2")
def test_M2_loop_lag_is_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> float:
        watch = watching()
        # By this clock each turn of the loop comes a quarter of a second late.
        clock = itertools.count(0.0, 0.25)
        monkeypatch.setattr(watch, "_loop", SimpleNamespace(time=lambda: next(clock)))
        monkeypatch.setattr("engine.watch._LAG_INTERVAL_SECS", 0.0)
        measuring = asyncio.get_running_loop().create_task(watch.measure_lag())
        await asyncio.wait({measuring}, timeout=0.01)
        measuring.cancel()
        return watch._lag.quantile_ms(0.99)

    assert asyncio.run(scenario()) == pytest.approx(255.0, abs=5.0)


@pytest.mark.claim("M4", "N7")
@pytest.mark.parametrize("hindrance", ["", "a barred until tomorrow"])
@pytest.mark.parametrize("source", [None, "a"])
def test_M4_N7_the_status_counts_what_the_heartbeat_does(source: str | None, hindrance: str) -> None:
    async def scenario() -> str:
        intake = SimpleNamespace(received=70, processed=7)
        ingest = SimpleNamespace(intake=intake, feed=SimpleNamespace(source=source, hindrance=hindrance))
        return watching(ingest, metrics.Counters(signal_count=3, persist_count=11)).status()

    more = f"; {hindrance}" if hindrance else ""
    assert asyncio.run(scenario()) == (
        f"SHADOW SYNTHETIC from {source or 'nobody'}: 7 ticks, 3 signals, 11 rows on disk{more}"
    )
