"""A large database stays fluent on the page, and the dashboard small (contract W9).

In the suite 200 000 ticks, of which the same is asked as of ten million; `make scale` sets PROOFS_HISTORY_TICKS to
those, and then times count too: the first paint by the clock, changes of the range by the processor time of browser
and dashboard, which neighbours hardly change. Figures go to reports/history_scale.json.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from harness.base.clock import OsClock, poll
from harness.dashboard import charts
from proofs.fixtures import traded_database
from proofs.fixtures.browser import Visit
from proofs.fixtures.dashboard_process import Dashboard, running
from proofs.fixtures.traded_database import STEP_MS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.claim("W9")

TICKS = int(os.environ.get("PROOFS_HISTORY_TICKS", "200000"))
ORDERS = TICKS // 100
TIMED = "PROOFS_HISTORY_TICKS" in os.environ
"""Whether seconds count: on a computer that does nothing else."""

PAINT_MS_MAX, CHANGE_MS_MAX, RSS_MIB_MAX, PAGES = 1000, 300, 80, 20

FIGURES = Path("reports/history_scale.json")

CHANGED = """act => new Promise((done, fail) => {
  const charts = document.getElementById('charts'), shown = charts.dataset.shows, began = performance.now();
  setTimeout(() => fail(new Error('nothing changes')), 30000);
  new MutationObserver((_, watching) => {
    if (charts.dataset.shows === shown) return;
    watching.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
  }).observe(charts, { attributes: true });
  if (act.length > 1) document.getElementById(act).click();
  else document.body.dispatchEvent(new KeyboardEvent('keydown', { key: act, bubbles: true }));
})"""
"""Milliseconds from a click, or a key, to the picture of another span."""

SHOWN = "[document.getElementById('charts').dataset.shows, document.getElementById('span-says').innerText]"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ticks up to now."""
    path = tmp_path_factory.mktemp("large") / "bot.db"
    traded_database.build_large(path, TICKS, ORDERS, int(time.time() * 1000) - TICKS * STEP_MS)
    return path


@pytest.fixture(scope="module")
def dashboard(database: Path) -> Iterator[Dashboard]:
    with running(database, database.parent) as started:
        yield started


def told(figures: dict[str, float]) -> None:
    """Add to the figures of this run."""
    FIGURES.parent.mkdir(exist_ok=True)
    before = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps({**before, "ticks": TICKS, **figures}, indent=2) + "\n")


def ask(database: Path, sql: str) -> Any:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchone()


@pytest.mark.slow
def test_the_page_is_there_at_once_and_each_range_soon(browser: Browser, dashboard: Dashboard, database: Path) -> None:
    # Neither the start of the dashboard nor that of a browser's process is the page's.
    visit = Visit(browser, f"{dashboard.url}/metrics")
    visit.page.goto(f"{dashboard.url}/history?range=all&symbol=SOL/USDC&table=orders")
    visit.wait("the charts of plotly", "document.getElementById('charts').dataset.by === 'plotly'", within_secs=60)
    paint = visit.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    visit.wait("all ticks", f"document.getElementById('span-says').innerText.includes(' {TICKS:,} ticks')")
    visit.wait(
        "all orders", "document.querySelector('#equity').innerText.includes('to the last digit')", within_secs=60
    )
    changes: dict[str, float] = {}
    session = visit.page.context.new_cdp_session(visit.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent_ms() -> float:
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"]) * 1000 + dashboard.cpu_ms()

    for name, act in (("24 h", "3"), ("1 h", "2"), ("5 min", "1"), ("all", "4"), ("in", "+"), ("further in", "in"),
                      ("earlier", "earlier"), ("out", "out")):  # fmt: skip
        before = spent_ms()
        changes[f"to {name}, ms by the clock"] = visit.page.evaluate(CHANGED, act)
        changes[f"to {name}, ms"] = spent_ms() - before
        # Of one moment: where the range ends now, the next answer shows another.
        shows, says = visit.page.evaluate(SHOWN)
        begin, end, _ = shows.split(" ", 2)
        (number,) = ask(database, f"SELECT COUNT(*) FROM ticks WHERE ts >= {begin} AND ts < {end}")
        visit.expect(f" {number:,} ticks" in says, f"{name}: {number:,} ticks by SQL, the page says {says}")
    told({"first paint, ms": paint, **changes})
    if TIMED:
        visit.expect(paint < PAINT_MS_MAX, f"the first paint takes {paint:.0f} ms")
        slow = {name: round(ms) for name, ms in changes.items() if name.endswith(" ms") and ms >= CHANGE_MS_MAX}
        visit.expect(not slow, f"changes of the range that take {CHANGE_MS_MAX} ms or longer: {slow}")
    visit.page.close()


@pytest.mark.slow
def test_twenty_open_pages_need_little_memory(dashboard: Dashboard) -> None:
    """What a page asks for, by twenty clients at once who then listen on."""
    library = charts.load()
    assert library is not None
    assets = ("/", "/history", "/plots.js", "/history.js", "/history.css", library.url)
    questions = ("/span?range=all", "/span?range=24h", "/equity", "/table/orders.json", "/table/trades.csv?rows=20000")

    def visit(_: int) -> None:
        for path in (*assets, *questions):
            fetch(f"{dashboard.url}{path}")

    def fetch(url: str) -> bytes:
        def answered() -> bytes | None:
            try:
                request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                if error.code == 503:
                    return None
                raise

        found = poll(answered, OsClock(), 60.0)
        assert found is not None, f"{url} is not answered"
        return found

    while not json.loads(fetch(f"{dashboard.url}/equity"))["whole"]:
        continue
    highest = 0.0
    with ExitStack() as pages, ThreadPoolExecutor(PAGES) as crowd:
        for _ in range(PAGES):
            address = (urlsplit(dashboard.url).hostname, urlsplit(dashboard.url).port)
            page = pages.enter_context(closing(socket.create_connection(address)))
            page.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            page.settimeout(20)
            assert b"200 OK" in page.recv(4096)
        for visited in [crowd.submit(visit, number) for number in range(PAGES)]:
            visited.result()
            highest = max(highest, dashboard.resident_mib())
    told({"resident at 20 pages, MiB": highest})
    assert highest < RSS_MIB_MAX, f"{PAGES} pages take {highest:.0f} MiB"
