"""A pytest plugin for `coverage run`: which test runs which line, and how long each takes.

Only tests that run in this process tell; those that drive a machine are left out.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import coverage
import pytest

TIMES = "MUTANTS_TIMES"
"""Environment variable: the file that is told how long each test took, and which were red."""

_taken: defaultdict[str, float] = defaultdict(float)
_red: set[str] = set()


def name_of(nodeid: str) -> str:
    """Return a test without its parameters, whose ids need not be the same in the next run."""
    return nodeid.partition("[")[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # What has the mark is said in proofs/conftest.py; a browser's work is another process's too.
    out = [
        item for item in items if item.get_closest_marker("machine") or "browser" in getattr(item, "fixturenames", ())
    ]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if (measured := coverage.Coverage.current()) is not None:
        measured.switch_context(name_of(item.nodeid))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _taken[name_of(report.nodeid)] += report.duration
    if report.failed:
        _red.add(name_of(report.nodeid))


def pytest_sessionfinish() -> None:
    if TIMES in os.environ:
        Path(os.environ[TIMES]).write_text(json.dumps({"seconds": _taken, "red": sorted(_red)}))
