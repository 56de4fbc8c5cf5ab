"""The nightly job runs what there is, says how long each part takes, and gives it time enough."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NIGHT = (ROOT / ".github/workflows/nightly-soak.yml").read_text()
JOBS = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", NIGHT.partition("\njobs:\n")[2], re.MULTILINE))


def setting(job: str, key: str) -> str:
    found = re.search(rf"^    {key}: (.+)$", JOBS[job], re.MULTILINE)
    assert found, f"the job {job} has no {key}"
    return found[1]


def test_the_jobs_are_found() -> None:
    assert set(re.findall(r"^  (\w+):$", NIGHT.partition("\njobs:\n")[2], re.MULTILINE)) == set(JOBS)
    assert {"soak", "mutants", "liars", "stress"} <= set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_says_how_long_it_takes_and_has_twice_that(job: str) -> None:
    said = re.search(r"\((\d+) minutes\)$", setting(job, "name"))
    assert said, f"the job {job} does not say how long it takes: {setting(job, 'name')}"
    assert int(setting(job, "timeout-minutes")) >= 2 * int(said[1])


def test_what_takes_too_long_for_the_suite_runs_in_the_night() -> None:
    files = sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("proofs/*/long_*.py"))
    fixtures = {"proofs/fixtures/long_soak.py"}
    missing = [file for file in files if file not in NIGHT and file not in fixtures]
    assert missing == []


def test_what_the_night_calls_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"\bsudo make ([a-z][a-z-]*)", NIGHT))
    assert called - targets == set()
    assert {"sabotage", "nothing", "reference", "canary", "stress", "mutants", "fleet-sim", "scale"} <= called
    assert [file for file in re.findall(r"proofs/\S+\.py", NIGHT) if not (ROOT / file).is_file()] == []


@pytest.mark.slow
def test_what_only_the_night_runs_is_collected() -> None:
    files = [file for file in re.findall(r"proofs/\S+\.py", NIGHT) if "/long_" in file]
    asked = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [file for file in files if f"{file}::" not in done.stdout] == []
