"""harness/proving/stress.py: what does not pass in every run is told, with all that is needed to see it again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.proving.stress import Outcome, flakes, outcomes, report

JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="a" name="test_fine[x]" />
<testcase classname="a" name="test_red">
<failure message="first&#10;second">long</failure><error message="later"/></testcase>
<testcase classname="b" name="test_red"><skipped /></testcase>
</testsuite></testsuites>"""

ROOT = Path(__file__).resolve().parents[2]


def ended(seed: int, **failed: str) -> Outcome:
    return Outcome(seed, False, int(bool(failed)), 1.0, frozenset({"a"} - failed.keys()), failed, f"runs/{seed}")


def test_outcomes_are_of_each_test() -> None:
    passed, failed = outcomes(JUNIT)
    assert passed == {"a::test_fine[x]"}
    assert failed == {"a::test_red": "first", "b::test_red": "skipped"}
    with pytest.raises(ValueError, match="no JUnit report"):
        outcomes("cut off <")


def test_whatever_failed_once_is_listed_the_most_frequent_first() -> None:
    runs = [ended(1), ended(2, a="boom"), ended(3, b="late", a="boom"), ended(4)]
    assert list(flakes(runs)) == ["a", "b"]
    assert [one.seed for one in flakes(runs)["a"]] == [2, 3]
    made = report(runs)
    assert made["flakes"][0] == {
        "test": "a", "failed": 2, "of": 4,
        "runs": [{"seed": 2, "reason": "boom", "record": "runs/2"}, {"seed": 3, "reason": "boom", "record": "runs/3"}],
    }  # fmt: skip
    assert [one["status"] for one in made["runs"]] == [0, 1, 1, 0]
    assert not flakes([ended(1), ended(2)])


FLAKY = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(20))
def test_order(number):
    with open("order.txt", "a") as file:
        file.write(f"{number} ")

def test_fails_every_other_time():
    ran = Path("ran")
    ran.touch() if not ran.exists() else ran.unlink()
    assert ran.exists(), "the second time"
"""


def test_a_test_that_fails_now_and_then_is_told(tmp_path: Path) -> None:
    """Whole: three runs of a suite with a flake, in three orders, the second on a busy computer."""
    (tmp_path / "test_flaky.py").write_text(FLAKY)
    conftest = (ROOT / "proofs/conftest.py").read_text()
    shuffle = conftest[conftest.index("def pytest_addoption") : conftest.index("def pytest_collection_finish")]
    (tmp_path / "conftest.py").write_text(
        f"import logging\nimport random\nimport signal\nfrom collections.abc import Iterator\nimport pytest\n{shuffle}"
    )
    argv = ["-m", "harness", "stress", "--runs", "3", "--seed", "7", "--", "-p", "no:cacheprovider", "--rootdir", "."]
    done = subprocess.run(
        [sys.executable, *argv, "test_flaky.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_flaky::test_fails_every_other_time failed in 1 of 3 runs" in done.stdout
    assert "the second time" in done.stdout
    assert "order 8, busy" in done.stdout
    made = json.loads((tmp_path / "reports/stress.json").read_text())
    assert [(one["seed"], one["loaded"], one["status"]) for one in made["runs"]] == [
        (7, False, 0), (8, True, 1), (9, False, 0),
    ]  # fmt: skip
    drawn = (tmp_path / "order.txt").read_text().split()
    orders = [drawn[at : at + 20] for at in (0, 20, 40)]
    assert all(sorted(order) == sorted(map(str, range(20))) for order in orders)
    assert len(set(map(tuple, orders))) == 3
