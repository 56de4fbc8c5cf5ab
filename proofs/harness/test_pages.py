"""The documents that people look at, the buglog and a soak's report, in a real browser: readable, accessible, asking
nobody for anything. The dashboard has tests of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.evidence import buglog
from harness.soak import report as soak_report
from proofs.fixtures.browser import Visit, check_readable
from proofs.harness.test_buglog import RECORD, SABOTAGE
from proofs.harness.test_soak_report import DECISIONS, SAMPLES

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A buglog with a refuted and a proven proof, pictures, an effective unit and sabotages."""
    texts = buglog.render(buglog.document(lambda: RECORD, lambda: SABOTAGE))
    path = tmp_path_factory.mktemp("buglog") / "buglog.html"
    path.write_text(next(text for name, text in texts.items() if name.endswith(".html")))
    return path


def look(browser: Browser, path: Path) -> Visit:
    return Visit(browser, path.as_uri())


def expect_alone(visit: Visit) -> None:
    visit.expect(not visit.complaints, f"the browser complains: {visit.complaints}")
    visit.expect(all(url.startswith("file://") for url in visit.asked), f"the page asks elsewhere: {visit.asked}")


def test_the_buglog_is_readable_and_accessible(browser: Browser, document: Path) -> None:
    visit = look(browser, document)
    visit.page.click("#open")
    check_readable(visit, "all opened")
    visit.page.emulate_media(media="print")
    check_readable(visit, "in print")
    expect_alone(visit)


def test_the_buglog_is_searched_and_opened(browser: Browser, document: Path) -> None:
    visit = look(browser, document)
    opened = "[...document.querySelectorAll('details')].filter(one => one.open).length"
    total = visit.page.locator("details").count()
    visit.page.click("#open")
    visit.expect(visit.page.evaluate(opened) == total, "not all parts are open")
    visit.page.click("#close")
    visit.expect(visit.page.evaluate(opened) == 0, "a part is still open")
    visit.page.fill("#filter", "STAYS e2")
    shown = visit.page.locator("#table tbody tr:visible")
    visit.expect(shown.count() == 1 and "stays down" in shown.inner_text(), f"shown: {shown.all_inner_texts()}")
    visit.page.fill("#filter", "")
    visit.expect(shown.count() == 2, "the filter does not let go")
    # A link from the table opens what it leads to.
    visit.page.click("#table a")
    visit.wait("the proof that the link leads to", opened + " === 1")
    expect_alone(visit)


def test_the_soak_report_is_readable_and_accessible(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "soak.html"
    path.write_text(soak_report.render(DECISIONS, SAMPLES))
    visit = look(browser, path)
    check_readable(visit, "a soak's report")
    expect_alone(visit)
