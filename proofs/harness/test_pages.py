"""The documents that people look at, the buglog and a soak's report, in a real browser: readable, accessible, asking
nobody for anything. The dashboard has tests of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.evidence import buglog, trend
from harness.evidence.lines import VerdictLine
from harness.evidence.verdict import Verdict
from harness.soak import report as soak_report
from harness.soak.reducer import Action
from proofs.fixtures import large_run
from proofs.fixtures.browser import WIDTHS, Visit, check_readable
from proofs.harness.test_buglog import RECORD, SABOTAGE
from proofs.harness.test_history import RUNS
from proofs.harness.test_soak_report import DECISIONS, SAMPLES, decision

pytestmark = pytest.mark.slow

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


@pytest.mark.claim("V2")
def test_the_buglog_is_readable_and_accessible(browser: Browser, document: Path) -> None:
    visit = look(browser, document)
    visit.page.click("#open")
    check_readable(visit, "all opened", WIDTHS)
    visit.page.emulate_media(media="print")
    check_readable(visit, "in print")
    expect_alone(visit)


@pytest.mark.claim("V2")
def test_the_buglog_is_searched_and_opened(browser: Browser, document: Path) -> None:
    visit = look(browser, document)
    opened = "[...document.querySelectorAll('details')].filter(one => one.open).length"
    total = visit.page.locator("details").count()
    visit.page.click("#open")
    visit.expect(visit.page.evaluate(opened) == total, "not all parts are open")
    visit.page.click("#close")
    visit.expect(visit.page.evaluate(opened) == 0, "a part is still open")
    visit.page.keyboard.press("/")
    visit.page.keyboard.type("STAYS e2")
    shown = visit.page.locator(".proof:visible")
    visit.expect(shown.count() == 1 and "stays down" in shown.inner_text(), f"shown: {shown.all_inner_texts()}")
    visit.page.keyboard.press("Escape")
    visit.expect(visit.page.locator(".proof:not([hidden])").count() == 2, "the filter does not let go")
    expect_alone(visit)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The buglog of a run of 3000 proofs, some of them refuted."""
    texts = buglog.render(buglog.document(large_run.record))
    path = tmp_path_factory.mktemp("buglog") / "large.html"
    path.write_text(next(text for name, text in texts.items() if name.endswith(".html")))
    return path


FITS = "(id => document.getElementById(id).getBoundingClientRect().bottom <= innerHeight)"


@pytest.mark.claim("V2")
def test_what_a_large_run_has_more_of_is_readable_and_accessible(browser: Browser, tmp_path: Path) -> None:
    """What is new, filters, folded files: as in the large one, of which axe would look at each proof."""
    path = tmp_path / "some.html"
    texts = buglog.render(buglog.document(lambda: large_run.record(24)))
    path.write_text(next(text for name, text in texts.items() if name.endswith(".html")))
    visit = look(browser, path)
    check_readable(visit, "a run with news", WIDTHS)
    expect_alone(visit)


@pytest.mark.claim("V2")
def test_the_summary_of_a_large_run_is_one_screen(browser: Browser, large: Path) -> None:
    """Verdict, counts, what is new, what is not proven and the guardrails, and a person scrolls for nothing of it."""
    visit = look(browser, large)
    for width in (1280, 1920):
        visit.page.set_viewport_size({"width": width, "height": 900})
        visit.expect(visit.page.evaluate(f"{FITS}('summary')"), f"the summary is taller than {width} x 900")
    summary = visit.page.inner_text("#summary")
    for words in ("refuted Evidence", "20\nrefuted", "2972\nproven", "3 newly not proven", "22 more"):
        visit.expect(words in summary, f"the summary does not say {words!r}: {summary}")
    visit.expect(visit.page.locator(".parts").is_visible(), "there is no navigation")
    for width in WIDTHS:
        visit.page.set_viewport_size({"width": width, "height": 900})
        needed = visit.page.evaluate("document.documentElement.scrollWidth")
        visit.expect(needed <= width, f"{needed} px wide in a window of {width} px")
    height = visit.page.evaluate("document.documentElement.scrollHeight")
    visit.expect(height < 12_000, f"{height} pixels tall")
    expect_alone(visit)


@pytest.mark.claim("V2")
def test_cause_and_command_of_a_refutation_are_one_click_away(browser: Browser, large: Path) -> None:
    visit = look(browser, large)
    first = visit.page.locator(".headlines a").first
    first.click()
    proof = visit.page.locator(f"{first.get_attribute('href')}")
    visit.wait("the proof", "() => document.querySelector(location.hash).open")
    # An address that was cut in the midst of an escape.
    visit.page.evaluate("location.hash = '%E0%A4%A'")
    told = proof.inner_text()
    for words in (
        "observed  the unit restarted 307 times",
        "pytest 'proofs/engine/test_part_07.py::",
        "harness show p-",
    ):
        visit.expect(words in told, f"the refuted proof does not say {words!r}:\n{told[:1500]}")
    expect_alone(visit)


@pytest.mark.claim("V2")
def test_filters_count_and_are_in_the_address(browser: Browser, large: Path) -> None:
    """Against the record: what a filter counts is what the record holds."""
    verdicts = [one for one in large_run.record() if isinstance(one, VerdictLine)]
    refuted = [one for one in verdicts if one.verdict is Verdict.REFUTED]
    visit = look(browser, large)
    visit.page.select_option("#by-verdict", "refuted")
    hits = "document.getElementById('hits').textContent"
    visit.expect(visit.page.evaluate(hits) == f"{len(refuted)} of {len(verdicts)} proofs", visit.page.evaluate(hits))
    claim = refuted[0].claims[0]
    visit.page.select_option("#by-claim", claim)
    wanted = sum(claim in one.claims for one in refuted)
    visit.expect(visit.page.evaluate(hits) == f"{wanted} of {len(verdicts)} proofs", visit.page.evaluate(hits))
    visit.page.fill("#filter", f"case-{large_run.REFUTED_EVERY + 7}] stays nowhere")
    visit.expect(visit.page.evaluate(hits) == f"0 of {len(verdicts)} proofs", visit.page.evaluate(hits))
    visit.page.fill("#filter", "")
    again = Visit(browser, visit.page.url)
    visit.expect(again.page.evaluate(hits) == visit.page.evaluate(hits), f"{visit.page.url} does not show the same")
    visit.expect(f"verdict=refuted&claim={claim}" in visit.page.url, f"the address is {visit.page.url}")
    # A link to a proof that the filter hides shows it all the same.
    hidden = visit.page.locator(".proof[id][data-verdict=proven]").first.get_attribute("id")
    visit.page.evaluate("id => { location.hash = id; }", hidden)
    visit.wait(
        "the hidden proof",
        "id => { const one = document.getElementById(id); return one.open && !one.closest('[hidden]'); }",
        hidden,
    )
    visit.page.click("#new a")
    visit.expect(visit.page.evaluate(hits) == f"3 of {len(verdicts)} proofs", visit.page.evaluate(hits))
    expect_alone(visit)


@pytest.mark.claim("V2")
def test_a_large_run_prints_with_an_outline(browser: Browser, large: Path) -> None:
    """What is not proven with its steps, the rest by name, in less than 60 pages."""
    visit = look(browser, large)
    pdf = visit.page.pdf(format="A4", outline=True, tagged=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    titles = pdf.count(b"/Title")
    visit.expect(20 < pages < 60, f"{pages} pages")
    visit.expect(titles > large_run.FILES, f"the outline has {titles} entries for {large_run.FILES} files")
    expect_alone(visit)


@pytest.mark.claim("V14")
def test_the_history_is_readable_and_accessible(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "history.html"
    path.write_text(trend.page(RUNS, [f"{buglog.name_of(RUNS[0].run, RUNS[0].started)}.html"]))
    visit = look(browser, path)
    check_readable(visit, "the history", WIDTHS)
    rows = visit.page.locator("#runs tbody tr")
    visit.expect(rows.count() == len(RUNS), f"{rows.count()} rows of {len(RUNS)} runs")
    expect_alone(visit)


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a soak in which the engine stalled five times in a row."""
    stalls = [
        decision(40 + 5 * number + after, action, reason)
        for number in range(5)
        for after, action, reason in ((0, Action.STALL, f"Stalled {number}"), (1, Action.ENGINE_RESTART, "Restarting"))
    ]
    path = tmp_path_factory.mktemp("soak") / "soak.html"
    path.write_text(soak_report.render([*DECISIONS[:4], *stalls, *DECISIONS[4:]], SAMPLES))
    return path


@pytest.mark.claim("K7")
def test_the_soak_report_is_readable_and_accessible(browser: Browser, soaked: Path) -> None:
    visit = look(browser, soaked)
    check_readable(visit, "a soak's report", WIDTHS)
    visit.page.click("details summary")
    visit.page.click("#closer")
    check_readable(visit, "unfolded, zoomed", WIDTHS)
    expect_alone(visit)


AXES = "[...document.querySelectorAll('.x')].map(axis => [...axis.children].map(time => time.textContent))"


@pytest.mark.claim("K7")
def test_the_soak_report_is_zoomed(browser: Browser, soaked: Path) -> None:
    """By a drag over one drawing all show the same span, its times on their axes; the address shows it again."""
    visit = look(browser, soaked)
    whole = visit.page.evaluate(AXES)
    visit.expect({(times[0], times[-1]) for times in whole} == {("15:42:50", "15:44:21")}, f"the axes say {whole}")
    area = visit.page.locator(".area").nth(2)
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    across = [(box["x"] + part * box["width"], box["y"] + box["height"] / 2) for part in (0.25, 0.4, 0.5)]
    visit.page.mouse.move(*across[0])
    visit.page.mouse.down()
    for place in across[1:]:
        visit.page.mouse.move(*place)
    visit.page.mouse.up()
    zoomed = visit.page.evaluate(AXES)
    visit.expect(
        {(times[0], times[-1]) for times in zoomed} <= {(f"15:43:1{a}", f"15:43:3{b}") for a in "234" for b in "456"},
        f"a drag over the second quarter shows {zoomed}",
    )
    boxes = visit.page.evaluate(
        "[...new Set([...document.querySelectorAll('.area svg')].map(svg => svg.getAttribute('viewBox')))]"
    )
    visit.expect(len(boxes) == 1 and abs(float(boxes[0].split()[0]) - 250) < 5, f"the drawings show {boxes}")
    # The numbers of marks stand where the marks are: the stall at 15:43:20 at (30 - 22.75) / 22.75 of the width.
    number = visit.page.locator(".area").first.locator("a:visible").first
    visit.expect(number.inner_text() == "3", f"the first number is {number.inner_text()}")
    at = (30 / 91 * 1000 - float(boxes[0].split()[0])) / float(boxes[0].split()[2])
    left = visit.page.evaluate("one => parseFloat(one.style.left)", number.element_handle())
    visit.expect(abs(left - 100 * at) < 0.5, f"the number stands at {left} %, the mark at {100 * at} %")
    again = Visit(browser, visit.page.url)
    visit.expect(again.page.evaluate(AXES) == zoomed, f"{visit.page.url} does not show the same span")
    visit.page.keyboard.press("+")
    visit.expect(visit.page.evaluate(AXES) != zoomed, "+ does not look closer")
    visit.page.keyboard.press("Escape")
    visit.expect(visit.page.evaluate(AXES) == whole, "Escape does not show the whole")
    visit.expect("?" not in visit.page.url, f"the address still has a span: {visit.page.url}")
    expect_alone(visit)


@pytest.mark.claim("K7")
def test_a_mark_leads_to_its_decision_also_where_it_is_folded(browser: Browser, soaked: Path) -> None:
    visit = look(browser, soaked)
    visit.expect(not visit.page.locator("#decision-12").is_visible(), "nothing is folded")
    visit.page.evaluate("location.hash = 'decision-12'")
    visit.wait("the decision", "() => document.querySelector('details').open")
    visit.expect(visit.page.locator("#decision-12").is_visible(), "the decision of a mark stays folded")
    with visit.page.expect_download() as download:
        visit.page.click("a[download$='samples.csv']")
    lines = Path(download.value.path()).read_text().splitlines()
    visit.expect(len(lines) == len(SAMPLES) + 1, f"{len(lines)} lines of CSV for {len(SAMPLES)} samples")
    expect_alone(visit)
