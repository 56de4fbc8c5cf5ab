"""The page about the past in a real browser: what it shows is what SQL says of the same database (contract W6, W7)."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from harness.base.clock import OsClock, poll
from harness.dashboard import charts
from harness.dashboard.view_model import LogLine, LogSnapshot, UnitSnapshot
from proofs.fixtures import traded_database
from proofs.fixtures.browser import Visit, check_readable
from proofs.fixtures.served_dashboard import served
from proofs.fixtures.traded_database import PAUSE_MS, START_MS, STEP_MS
from proofs.harness.test_view_model import BEAT, SEEN, STARTED, entry

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect

TICKS = 6000
END_MS = START_MS + TICKS * STEP_MS + PAUSE_MS
NOW = END_MS / 1000


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "bot.db"
    traded_database.build(path, TICKS)
    return path


@pytest.fixture(scope="module")
def site(database: Path) -> Iterator[str]:
    """Where nobody has installed what draws the charts."""
    with watching(database, charts_of="no_package_of_this_name") as url:
        yield url


@pytest.fixture(scope="module")
def charted(database: Path) -> Iterator[str]:
    """Where the charts are plotly's."""
    with watching(database) as url:
        yield url


@contextmanager
def watching(database: Path, charts_of: str = charts.PACKAGE) -> Iterator[str]:
    """An engine that was started five minutes ago, and whose source has just changed."""
    looks = iter(range(10**6))

    def seen() -> Any:
        number = next(looks)
        beat = {**BEAT, "source": "binance" if number < 2 else "gemini", "loop_lag_ms_p99": 7.5, "gaps": 4}
        started = [entry(STARTED, SEEN.unit.state.invocation_id, NOW - 300, MESSAGE="Started the engine.")]  # type: ignore[union-attr]
        return replace(
            SEEN, at=NOW + 0.2 * number, log=LogSnapshot("SHADOW", 5, beat, NOW),
            tail=[LogLine(NOW, "INFO", f"{'=1+1 a line' if one == 70 else 'another'}", one) for one in range(1, 101)],
            unit=replace(SEEN.unit, lifecycle=started) if isinstance(SEEN.unit, UnitSnapshot) else SEEN.unit,
        )  # fmt: skip

    with served(database, seen, charts_of=charts_of) as url:
        yield url


OVERLAPPING = """[...document.querySelectorAll('.plot svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('.axis')].map(one => one.getBoundingClientRect());
  return boxes.slice(1).filter((box, at) => box.left < boxes[at].right);
}).length"""


def ask(database: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def fetched(url: str) -> Any:
    """What is answered, asked again while the dashboard says that others ask too: a page of an earlier proof may."""

    def answered() -> Any:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return [json.loads(answer.read())]
        except urllib.error.HTTPError as error:
            if error.code == 503 and error.headers["Retry-After"]:
                return None
            raise

    found = poll(answered, OsClock(), 20.0)
    assert found is not None, f"{url}: others ask all the time"
    return found[0]


def look(browser: Browser, site: str, address: str, timezone: str | None = None) -> Visit:
    visit = Visit(browser, f"{site}/history?{address}", timezone)
    visit.wait("the charts", "document.querySelectorAll('.plot svg').length > 2")
    visit.wait("the table", "document.querySelectorAll('#table tbody tr').length > 0")
    visit.wait("the equity", "document.querySelectorAll('#equity .tiles').length > 0")
    return visit


def choose_a_fifth(visit: Visit, box: FloatRect) -> tuple[int, int]:
    """Drag over a fifth of a chart of everything, from where the pointer is; the span that is asked for then."""
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 60, steps=4)
    visit.page.mouse.up()
    visit.wait("a part of the span", "new URLSearchParams(location.search).has('from')")
    asked = parse_qs(urlsplit(visit.page.url).query)
    begin, end = int(asked["from"][0]), int(asked["to"][0])
    share = (end - begin) / (TICKS * STEP_MS + PAUSE_MS)
    visit.expect(0.15 < share < 0.3, f"a fifth of the chart was chosen, {share:.2f} is shown")
    return begin, end


def expect_clean(visit: Visit, site: str) -> None:
    visit.expect(visit.complaints == [], f"the browser complains: {visit.complaints}")
    visit.expect(all(url.startswith(site) for url in visit.asked), f"others are asked: {visit.asked}")
    visit.page.close()


@pytest.mark.slow
@pytest.mark.claim("W6")
def test_the_page_fits_and_is_accessible(browser: Browser, site: str) -> None:
    visit = look(browser, site, "range=all&table=orders&f_symbol=ETH/USD")
    check_readable(visit, "history", (390, 768, 1280, 1920))
    for width in (390, 768):
        visit.page.set_viewport_size({"width": width, "height": 900})
        visit.wait("charts of that width", "document.querySelector('.plot svg').viewBox.baseVal.width < innerWidth")
        visit.expect(visit.page.evaluate(OVERLAPPING) == 0, f"labels lie on each other in {width} px")
    how = visit.page.inner_text("#charts-note")
    visit.expect("make install CHARTS=1" in how, f"nobody is told how to have other charts: {how}")
    visit.page.emulate_media(media="print")
    visit.expect(not visit.page.locator(".tools").first.is_visible(), "buttons are printed")
    expect_clean(visit, site)


@pytest.mark.slow
@pytest.mark.claim("W6")
def test_the_charts_show_the_whole_span_its_gap_and_what_happened(browser: Browser, site: str, database: Path) -> None:
    visit = look(browser, site, "range=all")
    visit.wait("the change of source", "document.querySelector('#events').innerText.includes('binance -> gemini')")
    (count,) = ask(database, "SELECT COUNT(*) FROM ticks")[0]
    visit.expect(f"{count:,} ticks" in visit.page.inner_text("#span-says"), visit.page.inner_text("#span-says"))
    pieces = visit.page.evaluate(
        "[...document.querySelectorAll('.plot')].slice(0, 2).map(one => one.querySelectorAll('.line').length)"
    )
    visit.expect(pieces == [2, 2], f"price and ticks are drawn in {pieces} pieces, with one pause")
    low, high = ask(database, "SELECT MIN(price), MAX(price) FROM ticks WHERE symbol = 'ETH/USD'")[0]
    label = visit.page.locator(".plot svg").first.get_attribute("aria-label") or ""
    visit.expect(f"between {low:g} and {high:g}" in label, f"the price is described as {label!r}")
    told = visit.page.inner_text("#events")
    visit.expect("start" in told and "started by an operator, or at boot" in told, f"what happened: {told}")
    marks = visit.page.evaluate(
        "[...document.querySelectorAll('.plot')].map(one => one.querySelectorAll('.event').length)"
    )
    visit.expect(marks[0] == 2, f"marks on the charts: {marks}")
    feed = visit.page.inner_text("#feed")
    visit.expect("source gemini" in feed and "gaps 4" in feed, f"the feed: {feed}")
    rows = dict(ask(database, "SELECT COALESCE(veto, 'traded: no veto'), COUNT(*) FROM signals GROUP BY 1"))
    shown = {
        words: int(number.replace(",", ""))
        for words, number in visit.page.evaluate(
            "[...document.querySelectorAll('#vetoes li')].map(one =>"
            " [one.querySelector('span').innerText, one.querySelector('b').innerText])"
        )
    }
    visit.expect(shown == rows, f"vetoes are {shown}, in the database {rows}")
    expect_clean(visit, site)


@pytest.mark.slow
@pytest.mark.claim("W6")
def test_zoom_keys_and_address(browser: Browser, site: str) -> None:
    visit = look(browser, site, "range=all&symbol=SOL/USDC")
    visit.expect(visit.page.input_value("#symbol") == "SOL/USDC", "the address does not choose the market")
    chart = visit.page.locator(".plot svg").first
    box = chart.bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + 60)
    begin, end = choose_a_fifth(visit, box)
    span = fetched(f"{site}/span?from={begin}&to={end}&symbol=SOL/USDC")
    ticks = sum(bucket[1] for bucket in span["buckets"])
    visit.wait("its ticks", f"document.getElementById('span-says').innerText.includes('{ticks:,} ticks')")
    visit.page.keyboard.press("+")
    visit.wait(
        "half of it",
        "span => { const asked = new URLSearchParams(location.search);"
        " return Number(asked.get('to')) - Number(asked.get('from')) < span; }",
        (end - begin) * 0.6,
    )
    visit.page.go_back()
    visit.wait("what was before", f"new URLSearchParams(location.search).get('from') === '{begin}'")
    visit.page.keyboard.press("4")
    visit.wait(
        "all",
        "location.search.includes('range=all') && !location.search.includes('from=')",
    )
    expect_clean(visit, site)


DRAWN = """[...document.querySelectorAll('#charts .canvas')].map(one => {
  const axis = one._fullLayout.xaxis, clock = text => new Date(text.replace(' ', 'T')).getTime();
  const shown = x => clock(axis.c2r(axis.d2c(x)));
  return {
    says: one.getAttribute('aria-label'),
    span: axis.range.map(clock),
    lines: one.data.map(line => [...line.x].map((x, at) => [shown(x), line.y[at]])),
    marks: one._fullLayout.shapes.map(mark => clock(axis.c2r(axis.r2c(mark.x0))))}})"""
"""What plotly shows, its times read as the clock of the browser."""

NEWFOUNDLAND = "America/St_Johns"
"""Half an hour beside everybody else's clock."""


@pytest.mark.slow
@pytest.mark.claim("W6", "W9")
def test_charts_are_plotlys_of_what_sql_says(browser: Browser, charted: str, database: Path) -> None:
    # A span that stays as it is.
    address = f"from={START_MS}&to={END_MS + 60_000}&symbol=SOL/USDC"
    changed = poll(
        lambda: [one for one in fetched(f"{charted}/span?{address}")["events"] if one["kind"] == "source"] or None,
        OsClock(), 20.0,
    )  # fmt: skip
    assert changed, "no change of source is told"
    visit = look(browser, charted, address, NEWFOUNDLAND)
    visit.wait("the charts of plotly", "document.getElementById('charts').dataset.by === 'plotly'")
    span = fetched(f"{charted}/span?{address}")
    price, ticks, *_, lag = visit.page.evaluate(DRAWN)
    bucket = f"{span['from']} + (ts - {span['from']}) / {span['step_ms']} * {span['step_ms']}"
    counted = ask(database, f"SELECT {bucket}, COUNT(*) FROM ticks GROUP BY 1 ORDER BY 1")
    closing_prices = ask(
        database,
        f"SELECT {bucket}, price, MAX(id) FROM ticks WHERE symbol = 'SOL/USDC' GROUP BY 1 ORDER BY 1",
    )
    visit.expect(price["span"] == [span["from"], span["to"]], f"the axis is of {price['span']}, not {address}")
    shown = [[at, value] for at, value in price["lines"][1] if value is not None]
    visit.expect(shown == [[at, value] for at, value, _ in closing_prices], f"the price is drawn as {shown[:3]}")
    rates = {at: value for at, value in ticks["lines"][0] if value is not None}
    last = max(rates)
    expected = {at: number / span["step_ms"] * 1000 for at, number in counted if at != last}
    visit.expect({at: rates[at] for at in rates if at != last} == pytest.approx(expected), "ticks are drawn otherwise")
    gaps = [sum(value is None for _, value in line) for line in (*price["lines"], *ticks["lines"])]
    visit.expect(gaps == [1, 1, 1], f"there was one pause, and there are {gaps} gaps in outline, price and ticks")
    marks = [round(at) for at in price["marks"]]
    visit.expect(marks == [event["at_ms"] for event in span["events"]], f"marks at {marks}, of {span['events']}")
    visit.expect("Event-loop lag, p99: between" in lag["says"], f"the lag is described as {lag['says']!r}")
    expect_clean(visit, charted)


@pytest.mark.slow
@pytest.mark.claim("W6", "W9")
def test_charts_are_zoomed_and_printed(browser: Browser, charted: str) -> None:
    visit = look(browser, charted, "range=all&table=journal", NEWFOUNDLAND)
    by = "document.getElementById('charts').dataset.by"
    visit.wait("the charts of plotly", f"{by} === 'plotly'")
    check_readable(visit, "history with plotly's charts", (390, 768, 1280, 1920), "#charts")
    visit.page.set_viewport_size({"width": 1280, "height": 900})
    visit.wait("charts of that width", "document.querySelector('#charts .canvas').layout.width > 1000")
    box = visit.page.locator("#charts .canvas").first.bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + 60)
    visit.wait("its value there", "document.querySelector('#charts .says').innerText.includes(': 1')")
    begin, end = choose_a_fifth(visit, box)
    visit.expect(START_MS <= begin < end <= END_MS, f"{begin} to {end} was not there to be chosen")
    shows = "document.getElementById('charts').dataset.shows"
    visit.wait("that part", f"{shows}.startsWith('{begin} {end} ')")
    visit.page.mouse.dblclick(box["x"] + box["width"] * 0.5, box["y"] + 60)
    visit.wait("all again", f"!location.search.includes('from=') && !{shows}.startsWith('{begin} ')")
    visit.page.keyboard.press("1")
    visit.wait("five minutes", "location.search.includes('range=5m')")
    visit.page.click("[data-table=orders]")
    visit.wait("orders", "document.querySelector('#table thead').innerText.includes('transitions')")
    visit.page.emulate_media(media="print")
    visit.page.set_viewport_size({"width": 700, "height": 900})
    visit.wait("plain charts on paper", f"{by} === 'plain' && document.querySelectorAll('#charts svg').length > 4")
    needed = visit.page.evaluate("document.documentElement.scrollWidth")
    visit.expect(needed <= 700, f"{needed} px of 700 are printed")
    visit.page.emulate_media(media="screen")
    visit.wait("plotly's again", f"{by} === 'plotly'")
    expect_clean(visit, charted)


@pytest.mark.claim("W9")
def test_the_library_comes_from_its_package_and_may_be_kept(site: str, charted: str) -> None:
    found = charts.load()
    assert found is not None
    package = importlib.util.find_spec(charts.PACKAGE)
    assert package is not None
    assert package.origin is not None
    script = Path(package.origin).with_name("package_data").joinpath("plotly.min.js").read_bytes()
    for encoding in ("identity", "gzip"):
        request = urllib.request.Request(charted + found.url, headers={"Accept-Encoding": encoding})
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
            assert "immutable" in answer.headers["Cache-Control"]
            assert answer.headers["Content-Type"].startswith("text/javascript")
            assert (gzip.decompress(body) if encoding == "gzip" else body) == script
    for address in (f"{charted}/charts/plotly.js", f"{charted}/charts/..%2Fhistory.js", f"{site}{found.url}"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address, timeout=30)
        assert refused.value.code == 404, address
    for url, address in ((charted, found.url), (site, "")):
        with urllib.request.urlopen(f"{url}/history", timeout=30) as answer:
            assert f'<meta name="charts" content="{address}">' in answer.read().decode()
            policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
    assert charts.PACKAGE not in sys.modules, "its Python is loaded, which needs more memory than the dashboard"


@pytest.mark.slow
@pytest.mark.claim("W7")
def test_equity_and_tables_are_those_of_the_database(browser: Browser, site: str, database: Path) -> None:
    visit = look(browser, site, "range=all")
    visit.wait("that the books agree", "document.querySelector('#equity').innerText.includes('to the last digit')")
    sums = ask(database, "SELECT qty, cash, fees, price FROM positions")
    equity = sum(Decimal(cash) + Decimal(qty) * Decimal(price) for qty, cash, _, price in sums)
    fees = sum(Decimal(fees) for _, _, fees, _ in sums)
    tiles = dict(
        visit.page.evaluate(
            "[...document.querySelectorAll('#equity .tiles > div')].map(one =>"
            " one.innerText.split('\\n').filter(Boolean))"
        )
    )
    visit.expect(Decimal(tiles["equity"]) == equity, f"equity is {tiles['equity']}, by the positions {equity}")
    visit.expect(Decimal(tiles["fees"]) == fees, f"fees are {tiles['fees']}, by the positions {fees}")
    visit.expect(
        Decimal(tiles["realised"]) + Decimal(tiles["unrealised"]) - fees == equity, f"profit does not add up: {tiles}"
    )
    cells = "[...document.querySelectorAll('#table tbody tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    rows = ask(
        database,
        "SELECT id, side, qty_exact, price_exact, fees_exact, cash_delta FROM trades ORDER BY id DESC LIMIT 50",
    )
    shown = [[row[at] for at in (0, 4, 5, 6, 7, 8)] for row in visit.page.evaluate(cells)]
    visit.expect(
        shown == [list(map(str, row)) for row in rows], f"the newest trades are shown as {shown[:2]}, not {rows[:2]}"
    )
    visit.page.click("#next")
    visit.wait("the next page", f"document.querySelector('#table tbody td')?.innerText === '{rows[-1][0] - 1}'")
    visit.page.click("[data-table=orders]")
    visit.wait("orders", "document.querySelector('#table thead').innerText.includes('transitions')")
    visit.page.fill("[data-filter=side]", "SELL")
    visit.page.keyboard.press("Enter")
    (newest,) = ask(database, "SELECT MAX(id) FROM orders WHERE side = 'SELL'")[0]
    sold_only = "!document.querySelector('#table tbody').innerText.includes('BUY')"
    visit.wait(
        "sold orders only", f"document.querySelector('#table tbody td')?.innerText === '{newest}' && {sold_only}"
    )
    visit.expect(
        "f_side=SELL" in visit.page.url and "table=orders" in visit.page.url, f"the address is {visit.page.url}"
    )
    visit.page.click("#table thead th button >> text=price")
    shown_prices = "[...document.querySelectorAll('#table tbody tr')].map(row => Number(row.cells[8].innerText))"
    visit.wait("sorting by price", f"{shown_prices}.every((price, at, all) => !at || all[at - 1] <= price)")
    with visit.page.expect_download() as download:
        visit.page.click("#csv")
    text = Path(download.value.path()).read_text()
    (sold,) = ask(database, "SELECT COUNT(*) FROM orders WHERE side = 'SELL'")[0]
    visit.expect(len(text.splitlines()) == sold + 1, f"{len(text.splitlines())} lines for {sold} orders")
    visit.page.click("[data-table=journal]")
    first = "Number(document.querySelector('#table tbody td')?.innerText)"
    visit.wait("the journal", f"{first} === 100")
    visit.page.click("#next")
    visit.wait("its next page", f"{first} === 50")
    visit.page.fill("[data-filter=contains]", "A LINE")
    visit.page.keyboard.press("Enter")
    visit.wait("one line", f"{first} === 70 && document.querySelectorAll('#table tbody tr').length === 1")
    with visit.page.expect_download() as download:
        visit.page.click("#csv")
    sheet = Path(download.value.path()).read_text()
    visit.expect("'=1+1 a line" in sheet, f"the journal as CSV has a formula, or no line: {sheet}")
    visit.page.click("#vetoes a >> text=RISK_CAP")
    (capped,) = ask(database, "SELECT MAX(id) FROM signals WHERE veto = 'RISK_CAP'")[0]
    visit.wait("the signals behind a veto", f"{first} === {capped} && location.search.includes('f_veto=RISK_CAP')")
    expect_clean(visit, site)


@pytest.mark.slow
@pytest.mark.claim("W7")
def test_a_table_is_of_the_span_that_was_chosen(browser: Browser, site: str, database: Path) -> None:
    begin, end = START_MS + 60_000, START_MS + 90_000
    ids = ask(database, f"SELECT id FROM trades WHERE ts >= {begin} AND ts < {end} ORDER BY id DESC")
    assert 2 <= len(ids) <= 50
    visit = look(browser, site, f"from={begin}&to={end}&table=trades")
    cells = "[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[0].innerText)"
    shown = visit.page.evaluate(cells)
    visit.expect(shown == [str(id_) for (id_,) in ids], f"trades {shown} are shown, not {ids}")
    with visit.page.expect_download() as download:
        visit.page.click("#csv")
    sheet = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    visit.expect([row["id"] for row in sheet] == shown, f"the CSV has {[row['id'] for row in sheet]}, not {shown}")
    times = [datetime.fromisoformat(row["time"]).timestamp() * 1000 for row in sheet]
    visit.expect(all(begin <= at < end for at in times), f"times of the CSV: {times}")
    visit.page.keyboard.press("4")
    visit.wait("all trades", f"{cells}.length === 50")
    expect_clean(visit, site)


@pytest.mark.slow
@pytest.mark.claim("W6")
@pytest.mark.parametrize("name", ["constructor", "__proto__", "toString", "<img>", ""])
def test_an_unknown_table_is_the_first(browser: Browser, site: str, name: str) -> None:
    visit = look(browser, site, urlencode({"range": "all", "table": name}))
    pressed = visit.page.evaluate("document.querySelector('#tables [aria-pressed=true]').dataset.table")
    visit.expect(pressed == "trades", f"{name!r} is answered with {pressed}")
    expect_clean(visit, site)


@pytest.mark.claim("W7")
def test_what_nobody_may_ask(site: str) -> None:
    answers = {
        "/span?range=1y": 400,
        "/span?from=5&to=1": 400,
        "/table/trades.json?id=1": 400,
        "/table/positions.json": 404,
        "/table/trades.xml": 404,
        "/table/..%2Ftrades.json": 404,
    }
    for address, status in answers.items():
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetched(site + address)
        assert refused.value.code == status, address
    # A filter is a value, whatever it looks like.
    assert fetched(f"{site}/table/trades.json?symbol='%20OR%201=1%20--")["rows"] == []


@pytest.mark.slow
@pytest.mark.claim("O12")
def test_the_live_page_of_a_named_engine_bears_its_name(database: Path, browser: Browser) -> None:
    with served(database, lambda: replace(SEEN, engine="alpha")) as url:
        visit = Visit(browser, url)
        visit.wait("its name", "document.getElementById('engine').textContent === 'hybrid-engine alpha'")
        assert visit.page.title().endswith(" – hybrid-engine alpha")
        visit.page.close()
