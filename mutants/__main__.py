"""`make mutants SEED=1 COUNT=200`: break copies of the checkout, one fault at a time, until a test is red.

With --another it is the second engine that is broken, and judged as a black box, by the clauses that it claims: what
survives is a promise that a stranger's engine may break. The checkout itself is never changed. Results are kept as they
come; of the same sources a run asks again only about what was not caught, or by a test that has changed since. Exit
status 0 when enough were caught, 1 when not, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import fcntl
import fnmatch
import hashlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

import coverage
import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.base import arguments, terminal
from mutants import contexts, plan
from mutants.operators import Mutant, mutants
from proofs.sabotages import CATALOGUE

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "mutants"
EQUIVALENTS = ROOT / "mutants" / "equivalents.toml"

MAP_SECS_MAX = 3600.0
"""What the run may take that finds out which test runs which line."""

SOURCES = ("engine/", "fleet/", "harness/", "proofs/", "systemd/", "config/", "mutants/contexts.py", "pyproject.toml")
"""What a verdict about a mutant depends on, with the test that gave it."""

ANOTHER = "proofs/fixtures/reference_engine.py"
"""The second engine, of which nothing is known but the contract."""

REFERENCE_SECS = 900.0
"""What `make reference` may take, which takes a minute: most mutants that hang do so in one proof."""

_TEST = re.compile(r"proofs/\w+/test_\w+\.py")

_LATER = re.compile(rf"{_TEST.pattern}|config/contract\.toml")
"""What changes as survivors become proofs: tests are compared one by one, and which clauses there are moves none."""

OPTIONS = ("-x", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider")
"""Of a run of pytest that ends with the first red test, and names it."""

_ended = threading.Event()
_running: set[subprocess.Popen[str]] = set()


@terminal.command
def main() -> int:
    options = _options()
    # Also where a shell started it in the background, with SIGINT ignored: whatever ends it, the copy goes.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    names = list(_tracked())
    state = _digest(name for name in names if name.startswith(SOURCES) and not _LATER.fullmatch(name))
    found = [
        mutant
        for name in ([ANOTHER] if options.another else broken(names))
        if _matches(name, options.only)
        for mutant in mutants(name, (ROOT / name).read_text())
    ]
    if not found:
        print(f"mutants: nothing to break: no source matches --only {' '.join(options.only)}", file=sys.stderr)
        return 2
    asked = [name for name in names if _TEST.fullmatch(name) and _matches(name, options.tests)]
    if not asked:
        print(f"mutants: nobody to ask: no test file matches --tests {' '.join(options.tests)}", file=sys.stderr)
        return 2
    equivalents = [plan.Equivalent(**one) for one in tomllib.loads(EQUIVALENTS.read_text())["equivalent"]]
    chosen = plan.sample(found, options.count, options.seed)
    report = options.output / ("another.json" if options.another else "mutants.json")
    done = _done(report, state)
    begun = time.monotonic()
    facts = {"seed": options.seed, "of": len(found), "sources": state, "under_units": not options.in_process}
    results: list[dict[str, object]] = []
    try:
        with ExitStack() as stack:
            copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
            for _ in range(options.jobs):
                copies.put(stack.enter_context(_copy(names)))
            pool = stack.enter_context(ThreadPoolExecutor(options.jobs))
            stack.callback(_end_all)
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            notice: _Notice = _black_box
            if not options.another:
                proofs = {} if options.in_process else _proofs(names)
                notice = partial(_reaching, _reach(copies, pool, _Map(options.output, state), asked, proofs))
            results += [done[mutant.id] for mutant in chosen if mutant.id in done]
            tried = [pool.submit(_try, copies, mutant, notice) for mutant in chosen if mutant.id not in done]
            for future in as_completed(tried):
                results.append(future.result())
                _write(plan.report(results, equivalents, **facts, seconds=round(time.monotonic() - begun, 1)), report)
                _tell(len(results), len(chosen), results[-1])
    except KeyboardInterrupt:
        print(f"\nmutants: interrupted; the same command goes on after {len(results)}", file=sys.stderr)
        return 130
    final = plan.report(results, equivalents, **facts, seconds=round(time.monotonic() - begun, 1))
    _write(final, report)
    print(
        f"{final['tried']} of {len(found)} mutants tried in {final['seconds']} s: {final['caught']} caught "
        f"({final['timeouts']} hung), {final['survived']} survived, {final['equivalent']} equivalent; "
        f"{report.with_suffix('.html')}"
    )
    return 0 if plan.enough(final["share"]) else 1


def _options() -> argparse.Namespace:
    parser = arguments.CommandParser(prog="make mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="which mutants are drawn")
    parser.add_argument("--count", type=int, default=200, help="how many")
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="files, such as 'engine/trading/*'")
    parser.add_argument("--jobs", type=int, help="how many at a time, each in its copy (as many as processors)")
    parser.add_argument(
        "--tests", action="append", default=[], metavar="GLOB", help="whom to ask, such as 'proofs/engine/test_risk.py'"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "reports",
        metavar="DIRECTORY",
        help="where the report is written and kept",
    )
    parser.add_argument("--another", action="store_true", help="break the second engine instead: another.html")
    parser.add_argument("--in-process", action="store_true", help="without the proofs that drive a machine")
    options: argparse.Namespace = parser.parse_args()
    if options.another and (options.tests or options.in_process or options.jobs is not None):
        parser.error("--another asks make reference, on all processors: it takes no --tests, --jobs or --in-process")
    options.jobs = 1 if options.another else options.jobs or os.cpu_count() or 1
    return options


def _matches(name: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _tracked() -> Iterator[str]:
    """Yield every file that belongs to the project, whether it is committed yet or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in sorted(filter(None, listed.split("\0"))):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            yield name


def broken(names: list[str]) -> Iterator[str]:
    """Yield what is mutated: the engine, what harness and fleet decide (the P modules of the map), and the units."""
    decides, half = set(), ""
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        if heading := re.fullmatch(r"### (\w+)/", line):
            half = heading[1]
        elif pure := re.match(r"\| `([\w./]+)` \| P \|", line):
            decides.add(f"{half}/{pure[1]}")
    for name in names:
        unit = name.startswith("systemd/") and name.endswith((".service", ".timer"))
        if unit or name in decides or (name.startswith("engine/") and name.endswith(".py")):
            yield name


def _digest(names: Iterable[str], root: Path = ROOT) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0".encode() + (root / name).read_bytes() + b"\0")
    return digest.hexdigest()


def _judge(proof: str, root: Path = ROOT) -> str:
    """Return the digest of the file of a test; of no test, nothing."""
    name = plan.file_of(proof)
    return _digest([name], root) if (root / name).is_file() else ""


def _done(report: Path, state: str) -> dict[str, dict[str, object]]:
    """Return what an earlier run has found out about the same sources, by tests that are as they were."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        earlier = json.loads(report.read_text())
        if earlier["sources"] == state:
            return {
                one["id"]: one
                for one in earlier["mutants"]
                if one["outcome"] in plan.CAUGHT and one["judge"] == _judge(one["proof"])
            }
    return {}


@contextmanager
def _copy(names: list[str]) -> Iterator[Path]:
    """The project in a directory of its own, with an environment that imports it from there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for left in CACHE.glob("copy-*"):
        with suppress(OSError), _held(left):
            shutil.rmtree(left)
    copy = Path(tempfile.mkdtemp(prefix="copy-", dir=CACHE))
    with _held(copy):
        try:
            _fill(copy, names)
            yield copy
        finally:
            shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Hold a directory for this process. BlockingIOError when another one does; nobody does what a killed one left."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _fill(copy: Path, names: list[str]) -> None:
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    # Some tests ask git what belongs to the project.
    subprocess.run(["git", "init", "--quiet", copy], check=True)
    subprocess.run(["git", "-C", copy, "add", "--all"], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", copy / ".venv"], check=True)
    packages = next((copy / ".venv/lib").glob("python*/site-packages"))
    theirs = next((ROOT / ".venv/lib").glob("python*/site-packages"))
    # What the checkout is installed from, in the copy; of `theirs`, a mere directory here, no .pth is read.
    ours = [line for file in sorted(theirs.glob("__editable__*.pth")) for line in file.read_text().splitlines()]
    paths = [line.replace(str(ROOT), str(copy), 1) for line in ours] + [str(theirs)]
    (packages / "mutants.pth").write_text("".join(f"{path}\n" for path in paths))
    for script in (ROOT / ".venv/bin").iterdir():
        place = copy / ".venv/bin" / script.name
        if not place.exists():
            place.write_bytes(script.read_bytes().replace(bytes(ROOT / ".venv"), bytes(copy / ".venv")))
            place.chmod(0o755)
    (copy / ".venv/.ready").touch()


def _python(copy: Path) -> str:
    return str(copy / ".venv/bin/python")


def _run(copy: Path, *argv: str, timeout_secs: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return a command in the copy, in a process group of its own, of which nothing stays whatever ends it.
    TimeoutExpired when it takes longer."""
    if _ended.is_set():
        raise KeyboardInterrupt
    surroundings = {**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "500"}
    running = subprocess.Popen(
        argv, cwd=copy, env=surroundings, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    _running.add(running)
    try:
        output, _ = running.communicate(timeout=timeout_secs)
        return subprocess.CompletedProcess(running.args, running.returncode, output, "")
    finally:
        _running.discard(running)
        _end(running)


def _end(running: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def _end_all() -> None:
    """End what other threads run, and let them begin nothing more."""
    _ended.set()
    for running in list(_running):
        _end(running)


def _reach(
    copies: queue.SimpleQueue[Path],
    pool: ThreadPoolExecutor,
    kept: _Map,
    asked: list[str],
    proofs: dict[str, frozenset[str]],
) -> plan.Reach:
    """Return which of the tests in these files runs which line. Only what changed since it was kept is run."""
    measured, told = kept.read()
    files = {name: _digest([name]) for name in asked}
    if changed := told.changed(files):
        print(f"mutants: finding out which lines the tests in {len(changed)} files run", file=sys.stderr)
        parts = [changed[first :: copies.qsize()] for first in range(min(copies.qsize(), len(changed)))]
        answers = []
        for ran, answer in pool.map(lambda part: _measure(copies, part), parts):
            measured.update(ran)
            answers.append(answer)
        told = told.updated(files, answers)
        kept.write(measured, told)
    told = told.of(files)
    lines = {
        file: {line: told.known(tests) for line, tests in measured.contexts_by_lineno(file).items()}
        for file in measured.measured_files()
    }
    for unit, tests in readers(ROOT, told.seconds).items():
        lines[unit] = dict.fromkeys(range(1, len((ROOT / unit).read_text().splitlines()) + 1), tests)
    if told.red:
        print(f"mutants: red without any mutant, and so not asked: {', '.join(told.red)}", file=sys.stderr)
    return plan.Reach(lines, told.seconds, _importers(asked), proofs, frozenset(told.red))


@dataclasses.dataclass(frozen=True)
class _Map:
    """Which test runs which line, as it is kept beside the report for the same sources."""

    directory: Path
    sources: str

    @property
    def _files(self) -> tuple[Path, Path]:
        return self.directory / "mutants.coverage", self.directory / "mutants.times.json"

    def read(self) -> tuple[coverage.CoverageData, plan.Told]:
        lines, times = self._files
        with suppress(OSError, ValueError, TypeError):
            told = plan.Told(**json.loads(times.read_text()))
            if told.sources == self.sources:
                measured = coverage.CoverageData(str(lines))
                measured.read()
                return measured, told
        for file in self._files:
            file.unlink(missing_ok=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        return coverage.CoverageData(str(lines)), plan.Told(self.sources, {}, {}, ())

    def write(self, measured: coverage.CoverageData, told: plan.Told) -> None:
        measured.write()
        self._files[1].write_text(json.dumps(dataclasses.asdict(told)))


def _measure(copies: queue.SimpleQueue[Path], files: list[str]) -> tuple[coverage.CoverageData, plan.Timings]:
    """Return which test of these files runs which line, and how long each takes."""
    copy = copies.get()
    data, times, settings = copy / "mutants.coverage", copy / "mutants.times", copy / "mutants.coveragerc"
    settings.write_text(f"[run]\nsource = engine,harness,fleet\nrelative_files = true\ndata_file = {data}\n")
    try:
        ran = _run(
            copy, _python(copy), "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-q",
            "-p", "mutants.contexts", "-m", "not sabotage", *files,
            timeout_secs=MAP_SECS_MAX, **{contexts.TIMES: str(times)},
        )  # fmt: skip
        if ran.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            sys.exit(f"mutants: the tests did not run to their end:\n{ran.stdout[-4000:]}")
        measured = coverage.CoverageData(str(data))
        measured.read()
        return measured, json.loads(times.read_text())
    finally:
        copies.put(copy)


def _importers(tests: list[str]) -> dict[str, frozenset[str]]:
    """Source -> test files that import it, but for those of the guardrails, which judge what is installed."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for test in tests:
        if test.startswith("proofs/guardrails/"):
            continue
        text = (ROOT / test).read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                for dotted in (node.module, *(f"{node.module}.{one.name}" for one in node.names)):
                    found[f"{dotted.replace('.', '/')}.py"].add(test)
        # Some look a module up by its name.
        for dotted in re.findall(r'"((?:engine|fleet|harness)(?:\.\w+)+)"', text):
            found[f"{dotted.replace('.', '/')}.py"].add(test)
    return {name: frozenset(tests) for name, tests in found.items()}


def readers(root: Path, tests: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return for each unit those of the tests that read it as it ships, however short that takes: it is no module that
    somebody runs."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for test in tests:
        file = plan.file_of(test)
        if file.startswith("proofs/house/"):
            for unit in re.findall(r"hybrid-[\w@-]+\.(?:service|timer)", (root / file).read_text()):
                if (root / "systemd" / unit).is_file():
                    found[f"systemd/{unit}"].add(test)
    return {unit: frozenset(tests) for unit, tests in found.items()}


def _proofs(names: list[str]) -> dict[str, frozenset[str]]:
    """Source -> proofs under the unit that the catalogue of sabotages has for it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    files = {Path(name).stem: name for name in names if name.startswith("proofs/")}
    for entry in CATALOGUE:
        module, _, function = entry.proof.partition("::")
        broken = entry.patch.module if entry.patch else "systemd/hybrid-engine.service" if entry.directives else ""
        found[broken].add(f"{files[module]}::{function}")
    for name in names:
        if name.endswith((".service", ".timer")):
            shipped = "proofs/guardrails/test_unit_file.py", "proofs/guardrails/test_shipped_units.py"
            found[name].update(test for test in shipped if Path(name).name in (ROOT / test).read_text())
    return {name: frozenset(tests) for name, tests in found.items()}


_Noticed: TypeAlias = tuple[str, str, str] | None
"""How a fault was noticed: the outcome, by which test, for which reason. None when no test minded."""

_Ask: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

_Notice: TypeAlias = Callable[[Path, Mutant], tuple[_Noticed, int]]
"""Runs the tests about a mutant that is in place in a copy. The number is how many were asked."""


def _try(copies: queue.SimpleQueue[Path], mutant: Mutant, notice: _Notice) -> dict[str, object]:
    """Put the fault into a copy, have it noticed, and take it away."""
    copy = copies.get()
    place = copy / mutant.path
    begun = time.monotonic()
    place.write_text(mutant.text)
    try:
        noticed, tests = notice(copy, mutant)
        outcome, proof, reason = noticed or ("survived", "", "")
        judge = _judge(proof, copy) if noticed else ""
    finally:
        place.write_text(mutant.source)
        copies.put(copy)
    return {
        "id": mutant.id, "path": mutant.path, "line": mutant.line, "operator": mutant.operator, "change": mutant.change,
        "outcome": outcome, "proof": proof, "reason": reason, "judge": judge, "tests": tests,
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def _reaching(reach: plan.Reach, copy: Path, mutant: Mutant) -> tuple[_Noticed, int]:
    """Ask those who reach it."""
    place, asked, deselected = copy / mutant.path, 0, set(reach.red)
    for tests in plan.tests_of(mutant, reach):
        asked += len(tests)
        limit = plan.time_limit_secs(tests, reach.seconds)
        noticed = _noticed(copy, tests, deselected, limit)
        if noticed and noticed[0] == "timeout":
            place.write_text(mutant.source)
            if _noticed(copy, tests, deselected, limit):
                noticed = None  # Nor do they end without the fault.
            place.write_text(mutant.text)
        if noticed:
            return noticed, asked
    return None, asked


def _black_box(copy: Path, _mutant: Mutant) -> tuple[_Noticed, int]:
    """Ask who judges another engine. RuntimeError when nobody can be asked."""
    asked = 0

    def reference(*more: str) -> subprocess.CompletedProcess[str]:
        nonlocal asked
        ran = _run(copy, "make", "reference", f"ARGS={shlex.join([*OPTIONS, *more])}", timeout_secs=REFERENCE_SECS)
        if ran.returncode != 0 and not plan.refuted_by(ran.stdout)[0]:
            raise RuntimeError(f"make reference: {ran.stdout[-1000:]}")
        asked = max(asked, plan.ran(ran.stdout))
        return ran

    def again(proof: str) -> subprocess.CompletedProcess[str]:
        return reference("-k", proof.rpartition("::")[2].partition("[")[0])

    return _noticed_by(reference, again, ["make reference"], set(), REFERENCE_SECS), asked


def _noticed(copy: Path, tests: list[str], deselected: set[str], limit_secs: float) -> _Noticed:
    """Ask these tests, but for the deselected."""

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = _python(copy), "-m", "pytest", *OPTIONS, "-m", "not sabotage", *arguments
        return _run(copy, *words, timeout_secs=limit_secs)

    return _noticed_by(lambda *but: ask(*but, *tests), ask, tests, deselected, limit_secs)


def _noticed_by(ask: _Ask, again: _Ask, tests: list[str], deselected: set[str], limit_secs: float) -> _Noticed:
    """Return how a fault was noticed.

    A test counts when it is red twice. One that is green the second time says nothing of the fault, and is asked no
    more. ask: runs all, but for what options deselect. again: runs the one that is named.
    """
    while True:
        try:
            ran = ask(*(f"--deselect={test}" for test in sorted(deselected)))
            if ran.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                return None
            proof, reason = plan.refuted_by(ran.stdout)
            second = again(proof) if proof else ran
        except subprocess.TimeoutExpired:
            return "timeout", tests[0], f"not over within {limit_secs:.0f} s"
        if second.returncode != pytest.ExitCode.OK:
            return "caught", proof, reason or ran.stdout.strip()[-300:]
        deselected.add(proof)


def _write(found: dict[str, object], report: Path) -> None:
    environment = Environment(loader=PackageLoader("mutants", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    for place, text in (
        (report, json.dumps(found, indent=1) + "\n"),
        (report.with_suffix(".html"), environment.get_template("page.html.j2").render(report=found)),
    ):
        partial = place.with_name(f".{place.name}.partial")
        partial.write_text(text)
        partial.replace(place)


def _tell(number: int, count: int, result: dict[str, object]) -> None:
    """A line for whoever waits; one that stays for what nobody noticed."""
    if result["outcome"] == "survived":
        print(f"survived  {result['path']}:{result['line']}  {result['operator']}: {result['change']}", flush=True)
    if terminal.redraws(sys.stderr):
        sys.stderr.write(f"\r\x1b[K{number}/{count}  {str(result['id'])[:80]}  {result['outcome']}")
        sys.stderr.write("\n" if number == count else "")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
