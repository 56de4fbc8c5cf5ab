"""A person who sees a refuted run finds the cause and the command that repeats it in two clicks (contract V2)."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.machines.machine import why_not_private
from harness.machines.stage import SOURCES, Stage
from proofs.fixtures.browser import SCHEMES, WIDTHS, Visit
from proofs.fixtures.bytecode import QUICK, environ

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.claim("V2"), pytest.mark.machine]

ROOT = Path(__file__).resolve().parents[2]
CANARY = "proofs/canary.py::test_canary_must_be_refuted"
CAUSE = r"the unit restarted \d+ times on exit status 12, which no restart can\s+heal"

ON_SCREEN = """one => {
  const box = one.getBoundingClientRect();
  const there = document.elementFromPoint(box.x + Math.min(box.width / 2, 40), box.y + Math.min(box.height / 2, 10));
  return box.bottom <= innerHeight && one.contains(there);
}"""
"""Whether an element is on the screen, with nothing before it."""


@pytest.fixture(scope="module")
def refuted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the canary was run and its evidence rendered; nothing of it is written to this one."""
    reason = why_not_private()
    if reason:
        raise reason
    checkout = tmp_path_factory.mktemp("refuted")
    # All that an installation is made from: with less, what is staged would be installed anew under everybody's feet.
    for name in {Path(source).parts[0] for source in SOURCES} | {"proofs", ".cache"}:
        (checkout / name).symlink_to(ROOT / name)
    assert Stage(checkout).digest() == Stage(ROOT).digest()
    done = typed([sys.executable, "-m", "pytest", *QUICK, CANARY], checkout)
    assert done.returncode == 1, done.stdout + done.stderr
    rendered = typed([sys.executable, "-m", "harness", "buglog"], checkout)
    assert rendered.returncode == 0, rendered.stderr
    return checkout


def typed(command: list[str] | str, checkout: Path) -> subprocess.CompletedProcess[str]:
    shell = isinstance(command, str)
    return subprocess.run(
        command, shell=shell, cwd=checkout, env=environ(), capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
@pytest.mark.machine
def test_two_clicks_lead_to_the_cause_and_the_command(browser: Browser, refuted_run: Path) -> None:
    (document,) = (refuted_run / "reports" / "buglog").glob("BUG_*.html")
    visit = Visit(browser, document.as_uri())
    page = visit.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for width, scheme in itertools.product(WIDTHS, SCHEMES):
        where = f"{width} px, {scheme}"
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto(document.as_uri())
        visit.expect(page.locator("h1").inner_text().split()[0] == "refuted", "the first word is not the verdict")

        page.locator(".headlines a").first.click()
        proof = page.locator(page.evaluate("location.hash"))
        told, command = proof.locator("pre.reason"), proof.locator(".again pre").first
        visit.wait(f"the command at {where}", ON_SCREEN, command.element_handle())
        visit.expect(bool(told.evaluate(ON_SCREEN)), f"the cause is not on the screen at {where}")
        visit.expect(re.search(CAUSE, told.inner_text()) is not None, f"the cause is {told.inner_text()!r}")

        copy = proof.locator(".again button").first
        copy.click()
        visit.wait("that it is copied", "one => one.textContent === 'Copied'", copy.element_handle())
        copied = page.evaluate("navigator.clipboard.readText()")
        visit.expect(copied == command.inner_text() and copied.endswith(CANARY), f"what is copied is {copied!r}")
    again = typed(copied, refuted_run)
    said = again.stdout + again.stderr
    visit.expect(again.returncode == 1, f"`{copied}` ended with {again.returncode}:\n{said}")
    visit.expect(f"refuted  {CANARY}" in said, f"`{copied}` repeats no refutation:\n{said}")
    # Wherever its lines are wrapped.
    visit.expect(re.search(CAUSE, " ".join(said.split())) is not None, f"`{copied}` shows another cause:\n{said}")
