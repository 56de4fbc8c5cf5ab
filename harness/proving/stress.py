"""`make stress`: the whole suite again and again, shuffled, on a quiet and on a busy computer. A flake is a defect.

Each run has another order of tests and, with Hypothesis, other examples; every other one shares the processors with as
many busy loops as there are. What did not pass in each of them is listed in reports/stress.json, with the seed that
repeats the run's order and the flight record that tells what happened.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.clock import Clock, OsClock
from harness.base.errors import HarnessError
from harness.evidence import results
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.evidence.verify import record_of

RUN_SECS = 3600.0
"""No run of the suite takes longer, on whatever computer."""

END_SECS = 60.0
"""How long an interrupted run may take to clean up."""

BURN = "while True: pass"


@dataclass(frozen=True)
class Outcome:
    """How one run of the suite ended."""

    seed: int
    loaded: bool
    status: int
    """pytest's exit status."""
    seconds: float
    passed: frozenset[str]
    failed: Mapping[str, str]
    """Test -> the first line of what went wrong."""
    record: str = ""
    """The run's flight record."""


def outcomes(junit: str) -> tuple[frozenset[str], dict[str, str]]:
    """pytest's JUnit XML -> (the tests that passed, test -> the first line of why it did not).

    Raises ValueError for what is not XML.
    """
    try:
        root = ElementTree.fromstring(junit)
    except ElementTree.ParseError as error:
        raise ValueError(f"no JUnit report: {error}") from None
    ran: set[str] = set()
    failed: dict[str, str] = {}
    for case in root.iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        ran.add(name)
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                failed.setdefault(name, next(iter((child.get("message") or child.tag).splitlines()), child.tag))
    return frozenset(ran - failed.keys()), failed


def flakes(runs: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Test -> the runs in which it did not pass, the most frequent first; of all that failed in any.

    A test that fails in each of them is listed too: it is not a flake, but nor is it what a green run promises.
    """
    found: dict[str, list[Outcome]] = {}
    for run in runs:
        for test in run.failed:
            found.setdefault(test, []).append(run)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def report(runs: list[Outcome]) -> dict[str, Any]:
    """Return what reports/stress.json holds."""
    return {
        "runs": [
            {
                "seed": run.seed, "loaded": run.loaded, "status": run.status, "seconds": round(run.seconds, 1),
                "passed": len(run.passed), "failed": len(run.failed), "record": run.record,
            }
            for run in runs
        ],
        "flakes": [
            {
                "test": test,
                "failed": len(among),
                "of": len(runs),
                "runs": [{"seed": one.seed, "reason": one.failed[test], "record": one.record} for one in among],
            }
            for test, among in flakes(runs).items()
        ],
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `python -m harness stress`."""
    parser.description = (
        "Runs the whole suite RUNS times, in another order each time, every other run beside busy loops on all "
        "processors. Exit status 0 when every test passed in every run."
    )
    parser.epilog = (
        "examples:\n  make stress RUNS=10\n  python -m harness stress --runs 20 -- proofs -m sabotage -n 4\n"
        "  python -m harness stress --runs 1 --seed 1764221 -- proofs -n 4 -k exit12      that order again"
    )
    parser.add_argument("--runs", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the first run's order; the next have the following numbers")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where to report (default: reports)")
    parser.add_argument("words", nargs="*", metavar="ARGUMENT", help="for pytest (default: proofs -m 'not sabotage')")


def run(options: argparse.Namespace) -> int:
    """Run the suite as often as asked. Returns 1 when anything did not pass in any run.

    Raises HarnessError when a run leaves no report.
    """
    clock = OsClock()
    first = options.seed if options.seed is not None else int.from_bytes(os.urandom(3))
    words = options.words or ["proofs", "-m", "not sabotage"]
    made: list[Outcome] = []
    shell = Shell(Unrecorded())
    for number in range(options.runs):
        seed, loaded = first + number, bool(number % 2)
        print(f"stress: run {number + 1} of {options.runs}, order {seed}, {'busy' if loaded else 'quiet'}", flush=True)
        with _load(shell, (os.cpu_count() or 1) if loaded else 0):
            made.append(_run(shell, clock, seed, loaded, words, options.reports))
        target = options.reports / "stress.json"
        target.write_text(json.dumps(report(made), indent=1))
    found = flakes(made)
    for test, among in found.items():
        print(f"stress: {test} failed in {len(among)} of {len(made)} runs: {among[0].failed[test]}")
        print(f"        order {', '.join(str(one.seed) for one in among)}; record {among[0].record}")
    ended = [one for one in made if one.status != 0]
    print(f"stress: {len(made)} runs, {len(ended)} not green, {len(found)} tests that did not always pass")
    return int(bool(found or ended))


def _run(shell: Shell, clock: Clock, seed: int, loaded: bool, words: list[str], reports: Path) -> Outcome:
    reports.mkdir(exist_ok=True)
    junit = reports / "stress.xml"
    junit.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", "-q", f"--shuffle={seed}", f"--junitxml={junit}", *words]
    started = clock.monotonic()
    process = shell.start(*argv, on_line=lambda line: print(line, end="" if line.endswith("\n") else "\n", flush=True))
    try:
        if not process.wait(RUN_SECS):
            raise HarnessError(f"`{shlex.join(argv)}` takes more than {RUN_SECS:.0f} s")
    finally:
        # Of an interrupted run: pytest takes its machines down.
        process.signal(signal.SIGINT)
        if not process.wait(END_SECS):
            process.kill()
    seconds = clock.monotonic() - started
    if not junit.exists():
        raise HarnessError(f"`{shlex.join(argv)}` left no report")
    passed, failed = outcomes(junit.read_text())
    try:
        record = str(record_of(reports, results.read(reports).run_id))
    except HarnessError:
        record = ""
    return Outcome(seed, loaded, process.status or 0, seconds, passed, failed, record)


@contextmanager
def _load(shell: Shell, loops: int) -> Iterator[None]:
    """So many busy loops while the block runs."""
    burners = [shell.start(sys.executable, "-c", BURN, on_line=lambda _: None) for _ in range(loops)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
