"""Which mutants are tried, by which tests, and what came of it. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import PurePosixPath
from typing import TypedDict

from mutants.operators import Mutant

CAUGHT = ("caught", "timeout")
"""Outcomes of a mutant that somebody noticed."""

IMPORTERS_SECS = 60.0
"""So long may those take together that are asked only because they import the module."""

ENGINE_PROCESSES = ("proofs/fixtures/engine_process.py", "proofs/fixtures/fork_server.py")
"""What tests start an engine with."""

SHARE_MIN = 0.95
"""Of the mutants that are not equivalent, so many must be caught."""


class Timings(TypedDict):
    """What a run of some tests tells of them: how long each took, in seconds, and which failed."""

    seconds: dict[str, float]
    red: list[str]


@dataclass(frozen=True)
class Equivalent:
    """A mutant that no proof can tell from the original."""

    id: str
    reason: str


@dataclass(frozen=True)
class Reach:
    """Who runs what."""

    lines: Mapping[str, Mapping[int, frozenset[str]]]
    """File -> line -> tests that ran it in their own process."""
    seconds: Mapping[str, float]
    """Test -> how long it took."""
    importers: Mapping[str, frozenset[str]]
    """File -> test files that import it, or import what does."""
    proofs: Mapping[str, frozenset[str]]
    """File -> proofs under the unit that the catalogue of sabotages has for it."""
    red: frozenset[str] = frozenset()
    """Tests that fail although nothing is broken: they judge no mutant."""


@dataclass(frozen=True)
class Told:
    """What is known of tests from running them."""

    sources: str
    """The digest of what they ran over."""
    files: Mapping[str, str]
    """Test file -> the digest of it that ran."""
    seconds: Mapping[str, float]
    """Test -> how long it took."""
    red: Sequence[str]
    """Tests that failed although nothing was broken."""

    def changed(self, files: Mapping[str, str]) -> list[str]:
        """Return which of these files, with their digests, have to run again."""
        return sorted(name for name, digest in files.items() if self.files.get(name) != digest)

    def known(self, tests: Iterable[str]) -> frozenset[str]:
        """Return those of the tests that there are: what ran earlier may be gone."""
        return frozenset(self.seconds.keys() & set(tests))

    def of(self, files: Iterable[str]) -> Told:
        """Return what is known of the tests in these files alone."""
        kept = set(files)
        return Told(
            self.sources,
            {name: digest for name, digest in self.files.items() if name in kept},
            {test: took for test, took in self.seconds.items() if file_of(test) in kept},
            [test for test in self.red if file_of(test) in kept],
        )

    def updated(self, files: Mapping[str, str], answers: Iterable[Timings]) -> Told:
        """Return what is known after the files that changed ran, each of these answers being of some of them."""
        same = self.of(self.files.keys() - set(self.changed(files)))
        seconds, red = dict(same.seconds), set(same.red)
        for answer in answers:
            seconds |= answer["seconds"]
            red |= set(answer["red"])
        return Told(self.sources, {**same.files, **files}, seconds, sorted(red))


def file_of(test: str) -> str:
    """Return the file of a test; a file is its own."""
    return test.partition("::")[0]


def sample(found: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """So many of them, the same for a seed, in the order in which they are tried; all when there are no more. Each has
    its place by its own id, so that a change elsewhere in the code leaves it in, or out, but for a few at the end."""

    def place(mutant: Mutant) -> bytes:
        return hashlib.sha256(f"{seed}\0{mutant.id}".encode()).digest()

    return sorted(found, key=place)[:count]


def tests_of(mutant: Mutant, reach: Reach) -> list[list[str]]:
    """Batches of tests to run, one after the other until one is red.

    First what ran the changed lines, quickest first. What runs as a module is imported, or in a process of its own, has
    no test of its own there: second come those of whoever imports the module, or starts engines where nobody ran the
    lines, as many as IMPORTERS_SECS allow; proofs under the unit last.
    """
    lines = reach.lines.get(mutant.path, {})
    direct = {test for line in range(mutant.line, mutant.last + 1) for test in lines.get(line, ())} - reach.red
    importers = reach.importers.get(mutant.path, frozenset())
    if not direct and mutant.path.startswith("engine/"):
        importers = importers.union(*(reach.importers.get(fixture, frozenset()) for fixture in ENGINE_PROCESSES))
    others = {test for test in reach.seconds if file_of(test) in importers}
    batches = [
        _quickest(direct, reach.seconds),
        _quickest(others - direct - reach.red, reach.seconds, IMPORTERS_SECS),
        sorted(reach.proofs.get(mutant.path, ())),
    ]
    return [batch for batch in batches if batch]


def _quickest(tests: Iterable[str], seconds: Mapping[str, float], most: float = math.inf) -> list[str]:
    """Return the tests, the quickest first, as far as all of them take so many seconds."""
    ordered = sorted(tests, key=lambda test: (seconds.get(test, 0.0), test))
    taken = accumulate(seconds.get(test, 0.0) for test in ordered)
    return [test for test, so_far in zip(ordered, taken, strict=True) if so_far <= most]


def time_limit_secs(tests: Iterable[str], seconds: Mapping[str, float]) -> float:
    """Return how long a batch may take before its mutant counts as one that hangs: well above what the tests took."""
    files: defaultdict[str, float] = defaultdict(float)
    for test, took in seconds.items():
        files[file_of(test)] += took
    return 60.0 + 10 * sum(seconds.get(test, files.get(test, 10.0)) for test in tests)


def report(
    results: Sequence[Mapping[str, object]], equivalents: Sequence[Equivalent], **facts: object
) -> dict[str, object]:
    """Return what `reports/mutants.json` holds: figures, and a line a mutant. `results` have at least id and
    outcome."""
    reasons = {one.id: one.reason for one in equivalents}
    lines = [
        {**result, "outcome": "equivalent", "reason": reasons[str(result["id"])]}
        if result["outcome"] == "survived" and result["id"] in reasons
        else dict(result)
        for result in results
    ]
    counts = Counter(str(line["outcome"]) for line in lines)
    caught = sum(counts[outcome] for outcome in CAUGHT)
    judged = caught + counts["survived"]
    return {
        **facts,
        "tried": len(lines),
        "caught": caught,
        "timeouts": counts["timeout"],
        "survived": counts["survived"],
        "equivalent": counts["equivalent"],
        "share": round(caught / judged, 4) if judged else None,
        "directories": _by_directory(lines),
        "mutants": sorted(lines, key=lambda line: (line["outcome"] != "survived", str(line["id"]))),
    }


def _by_directory(lines: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return how many were tried, caught, survived and are equivalent in each directory."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        outcome = "caught" if line["outcome"] in CAUGHT else str(line["outcome"])
        found[str(PurePosixPath(str(line["path"])).parent)].update(["tried", outcome])
    columns = ("tried", "caught", "survived", "equivalent")
    return [{"directory": name, **{one: found[name][one] for one in columns}} for name in sorted(found)]


def refuted_by(output: str) -> tuple[str, str]:
    """From pytest's last lines (`-rfE`): the test that turned red, and the reason it gave. Empty texts for none."""
    for line in output.splitlines():
        # A test's parameters may hold anything, " - " too.
        if red := re.fullmatch(r"(?:FAILED|ERROR) ([^\s\[]+(?:\[.*?\])?)(?: - (.*))?", line):
            return red[1], red[2] or ""
    return "", ""


def ran(output: str) -> int:
    """From pytest's last line: how many tests ran, whatever came of them."""
    last = re.findall(r"^=* ?((?:\d+ \w+,? )+)in [\d.]+s", output, re.MULTILINE)
    counts = re.findall(r"(\d+) (?:passed|failed|errors?)\b", last[-1]) if last else []
    return sum(map(int, counts))


def enough(share: object) -> bool:
    """Return whether so many mutants were caught as must be; a run that judged none has shown nothing."""
    return isinstance(share, float) and share >= SHARE_MIN


def stale(equivalents: Iterable[Equivalent], found: Iterable[Mutant]) -> list[str]:
    """Equivalents of code that is no longer there."""
    ids = {mutant.id for mutant in found}
    return [one.id for one in equivalents if one.id not in ids]
