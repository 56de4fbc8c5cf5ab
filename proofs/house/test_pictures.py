"""The pictures in docs/pictures show what a person sees today (`make pictures` takes them anew).

A picture is not compared by its pixels, which differ from computer to computer. Beside each stands what it shows, in
words, and its digest (shown.json): the words are those of the page as it is made now, from the same data.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.evidence import buglog, trend
from harness.observing.ledger_view import Marker, StoredTick
from harness.soak import report as soak_report
from proofs.fixtures import large_run, long_soak
from proofs.fixtures.browser import Visit
from proofs.fixtures.served_dashboard import served
from proofs.harness.test_history import RUNS
from proofs.harness.test_history_page import END_MS, START_MS, charted, database  # noqa: F401
from proofs.harness.test_view_model import LEDGER, NOW, SEEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PLACE = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SHOWN = PLACE / "shown.json"
BYTES_MAX = 150_000
WINDOW = {"width": 1024, "height": 720}

WORDS = """selector => [...document.querySelectorAll(selector)].filter(one => one.getClientRects().length)
  .map(one => one.innerText.trim().replace(/\\s+/g, ' ')).filter(Boolean)"""


@dataclass(frozen=True)
class Picture:
    """One of the pictures."""

    address: Callable[[Path, pytest.FixtureRequest], str]
    """Makes the page; returns where it is."""
    told_by: str
    """CSS selector of what says in words what it shows."""
    ready: str = "document.readyState === 'complete'"


def _buglog(directory: Path, _: pytest.FixtureRequest) -> str:
    texts = buglog.render(buglog.document(large_run.record))
    return _page(directory, next(text for name, text in texts.items() if name.endswith(".html")))


def _runs(directory: Path, _: pytest.FixtureRequest) -> str:
    return _page(directory, trend.page(RUNS, []))


def _soak(directory: Path, _: pytest.FixtureRequest) -> str:
    return _page(directory, soak_report.render(list(long_soak.decided()), list(long_soak.sampled())))


def _page(directory: Path, text: str) -> str:
    path = directory / "page.html"
    path.write_text(text)
    return path.as_uri()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[str]:
    """A dashboard about an engine that has run for a minute."""
    prices = [100 + 2 * math.sin(number / 25) + math.sin(number / 6) / 2 for number in range(300)]
    ticks = [
        StoredTick(number + 1, round((NOW - 60 + number / 5) * 1000), "SOL/USDC", round(price, 3))
        for number, price in enumerate(prices)
    ]
    made = ((60, "BUY", "0.1"), (140, "BUY", "RISK_CAP"), (220, "SELL", "0.1"))
    bought, vetoed, sold = (Marker(ticks[at].ts, "SOL/USDC", side, ticks[at].price, what) for at, side, what in made)
    seen = replace(SEEN, ledger=replace(LEDGER, ticks=ticks, signals=[vetoed], fills=[bought, sold]))
    with served(tmp_path / "bot.db", lambda: seen) as url:
        yield url


def _dashboard(_: Path, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("live"))


def _history(_: Path, request: pytest.FixtureRequest) -> str:
    return f"{request.getfixturevalue('charted')}/history?from={START_MS}&to={END_MS + 60_000}&symbol=SOL/USDC"


DRAWN = "document.querySelectorAll('main svg path, main canvas').length > 0"

PICTURES = {
    "buglog": Picture(_buglog, "#summary, .parts, #proofs"),
    "runs": Picture(_runs, "header, h2, #runs thead"),
    "soak-report": Picture(_soak, "header, .explained, .zoom, figcaption, thead, summary"),
    "dashboard": Picture(_dashboard, "h1, h2, h3, th", DRAWN),
    "history": Picture(_history, "h1, h2, h3, th", "document.getElementById('charts').dataset.by === 'plotly'"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_shows_what_there_is_to_see(
    name: str, browser: Browser, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    one, path = PICTURES[name], PLACE / f"{name}.png"
    visit = Visit(browser, "about:blank")
    visit.page.set_viewport_size(WINDOW)  # type: ignore[arg-type]
    visit.page.goto(one.address(tmp_path, request))
    visit.wait("what is drawn", one.ready)
    shows = visit.page.evaluate(WORDS, one.told_by)
    assert shows, f"nothing on the page is {one.told_by}"
    if request.config.getoption("take_pictures"):
        visit.page.screenshot(path=path)
        told = {**_shown(), name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "shows": shows}}
        SHOWN.write_text(json.dumps(dict(sorted(told.items())), indent=1, ensure_ascii=False) + "\n")
    told = _shown()[name]
    data = path.read_bytes()
    assert len(data) < BYTES_MAX
    assert hashlib.sha256(data).hexdigest() == told["sha256"], f"{path} is not what shown.json tells of: make pictures"
    assert shows == told["shows"], f"{path} shows what is no more: make pictures"


def test_every_picture_is_held_and_in_a_document() -> None:
    """Those of the state before are what they are: nobody can take them again."""
    documents = "".join(path.read_text() for path in [*PLACE.parent.glob("*.md"), PLACE.parents[1] / "README.md"])
    assert {path.stem for path in PLACE.glob("*.png")} == set(PICTURES) == set(_shown())
    for path in PLACE.rglob("*.png"):
        assert path.stat().st_size < BYTES_MAX, path
        assert f"pictures/{path.relative_to(PLACE)}" in documents, f"{path} is in no document"


def _shown() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SHOWN.read_text()) if SHOWN.exists() else {}
    return found
