"""`make mutants SEED=1 COUNT=200`: break a copy of the checkout, one fault at a time, until a test is red.

The checkout itself is never changed. Results are kept as they come; a run that is begun again with the same sources
goes on where it was. Exit status 0 when enough were caught, 1 when not, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import coverage
from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.base import arguments
from harness.base.terminal import redraws
from mutants import contexts, plan
from mutants.operators import Mutant, mutants
from proofs.sabotages import CATALOGUE

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "reports" / "mutants.json"
PAGE = REPORT.with_suffix(".html")
CACHE = ROOT / ".cache" / "mutants"
EQUIVALENTS = ROOT / "mutants" / "equivalents.toml"

MAP_SECS_MAX = 3600.0
"""What the run may take that finds out which test runs which line."""


def main() -> int:
    options = _options()
    # Also where a shell started it in the background, with SIGINT ignored: whatever ends it, the copy goes.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    names = list(_tracked())
    state = _digest(names)
    found = [
        mutant
        for name in _broken(names)
        if not options.only or any(fnmatch.fnmatch(name, pattern) for pattern in options.only)
        for mutant in mutants(name, (ROOT / name).read_text())
    ]
    if not found:
        print(f"mutants: nothing to break: no source matches --only {' '.join(options.only)}", file=sys.stderr)
        return 2
    equivalents = [plan.Equivalent(**one) for one in tomllib.loads(EQUIVALENTS.read_text())["equivalent"]]
    chosen = plan.sample(found, options.count, options.seed)
    done = _done(state)
    begun = time.monotonic()
    facts = {"seed": options.seed, "of": len(found), "sources": state, "under_units": not options.in_process}
    results: list[dict[str, object]] = []
    try:
        with _copy(names) as copy:
            reach = _reach(copy, state, names, in_process=options.in_process)
            for number, mutant in enumerate(chosen, start=1):
                known = done.get(mutant.id)
                result = known or _try(copy, mutant, reach)
                results.append(result)
                _write(plan.report(results, equivalents, **facts, seconds=round(time.monotonic() - begun, 1)))
                _tell(number, len(chosen), result, fresh=known is None)
    except KeyboardInterrupt:
        print(f"\nmutants: interrupted; the same command goes on after {len(results)}", file=sys.stderr)
        return 130
    final = plan.report(results, equivalents, **facts, seconds=round(time.monotonic() - begun, 1))
    print(
        f"{final['tried']} of {len(found)} mutants tried in {final['seconds']} s: {final['caught']} caught "
        f"({final['timeouts']} hung), {final['survived']} survived, {final['equivalent']} equivalent; {PAGE}"
    )
    return 0 if plan.enough(final["share"]) else 1


def _options() -> argparse.Namespace:
    parser = arguments.CommandParser(prog="make mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="which mutants are drawn")
    parser.add_argument("--count", type=int, default=200, help="how many")
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="files, such as 'engine/trading/*'")
    parser.add_argument("--in-process", action="store_true", help="without the proofs that drive a machine")
    options: argparse.Namespace = parser.parse_args()
    return options


def _tracked() -> Iterator[str]:
    """Yield every file that belongs to the project, whether it is committed yet or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    yield from sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def _broken(names: list[str]) -> Iterator[str]:
    """Yield what is mutated: the engine, what the harness decides (the P modules of the map), and the units."""
    pure = re.findall(r"^\| `([\w./]+)` \| P \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    decides = {f"harness/{name}" for name in pure}
    for name in names:
        unit = name.startswith("systemd/") and name.endswith((".service", ".timer"))
        if unit or name in decides or (name.startswith("engine/") and name.endswith(".py")):
            yield name


def _digest(names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        if name.startswith(("engine/", "harness/", "proofs/", "systemd/", "config/", "mutants/", "pyproject.toml")):
            digest.update(f"{name}\0".encode() + (ROOT / name).read_bytes() + b"\0")
    return digest.hexdigest()


def _done(state: str) -> dict[str, dict[str, object]]:
    """Return what an earlier run has found out about the same sources."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        earlier = json.loads(REPORT.read_text())
        if earlier["sources"] == state:
            return {one["id"]: one for one in earlier["mutants"] if one["outcome"] in plan.CAUGHT}
    return {}


@contextmanager
def _copy(names: list[str]) -> Iterator[Path]:
    """The project in a directory of its own, with an environment that imports it from there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(prefix="copy-", dir=CACHE))
    try:
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", copy / ".venv"], check=True)
        packages = next((copy / ".venv/lib").glob("python*/site-packages"))
        theirs = next((ROOT / ".venv/lib").glob("python*/site-packages"))
        # Directories only: of an editable installation's own .pth, which names the checkout, nothing is read.
        (packages / "mutants.pth").write_text(f"{copy}\n{theirs}\n")
        for script in (ROOT / ".venv/bin").iterdir():
            place = copy / ".venv/bin" / script.name
            if not place.exists():
                place.write_bytes(script.read_bytes().replace(bytes(ROOT / ".venv"), bytes(copy / ".venv")))
                place.chmod(0o755)
        (copy / ".venv/.ready").touch()
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _run(copy: Path, *argv: str, timeout_secs: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return a command in the copy, in a process group of its own, of which nothing stays whatever ends it.
    TimeoutExpired when it takes longer."""
    surroundings = {**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "500"}
    running = subprocess.Popen(
        [str(copy / ".venv/bin/python"), *argv], cwd=copy, env=surroundings, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = running.communicate(timeout=timeout_secs)
        return subprocess.CompletedProcess(running.args, running.returncode, output, "")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def _reach(copy: Path, state: str, names: list[str], *, in_process: bool) -> plan.Reach:
    """Return which test runs which line: from a run of all that run in one process, which is kept for the same
    sources."""
    data, times = CACHE / f"{state}.coverage", CACHE / f"{state}.json"
    if not (data.exists() and times.exists()):
        print("mutants: finding out which test runs which line, once for these sources", file=sys.stderr)
        for other in CACHE.iterdir():
            if other.is_file():
                other.unlink()
        settings = copy / "mutants.coveragerc"
        settings.write_text(f"[run]\nsource = engine,harness\nrelative_files = true\ndata_file = {data}.partial\n")
        ran = _run(
            copy, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-q", "-p", "mutants.contexts",
            "-m", "not sabotage", "proofs", timeout_secs=MAP_SECS_MAX, **{contexts.TIMES: str(times)},
        )  # fmt: skip
        if ran.returncode not in (0, 1) or not times.exists():
            times.unlink(missing_ok=True)
            sys.exit(f"mutants: the tests did not run to their end:\n{ran.stdout[-4000:]}")
        Path(f"{data}.partial").replace(data)
    measured = coverage.CoverageData(str(data))
    measured.read()
    lines = {
        file: {line: frozenset(tests) - {""} for line, tests in measured.contexts_by_lineno(file).items()}
        for file in measured.measured_files()
    }
    importers, proofs = _importers(names), {} if in_process else _proofs(names)
    told = json.loads(times.read_text())
    if told["red"]:
        print(f"mutants: red without any mutant, and so not asked: {', '.join(told['red'])}", file=sys.stderr)
    return plan.Reach(lines, told["seconds"], importers, proofs, frozenset(told["red"]))


def _importers(names: list[str]) -> dict[str, frozenset[str]]:
    """Source -> test files that import it, but for those of the guardrails, which judge what is installed."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    tests = [name for name in names if re.fullmatch(r"proofs/(engine|harness|house)/test_\w+\.py", name)]
    for test in tests:
        text = (ROOT / test).read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                for dotted in (node.module, *(f"{node.module}.{one.name}" for one in node.names)):
                    found[f"{dotted.replace('.', '/')}.py"].add(test)
        # Some look a module up by its name.
        for dotted in re.findall(r'"((?:engine|harness)(?:\.\w+)+)"', text):
            found[f"{dotted.replace('.', '/')}.py"].add(test)
        for unit in re.findall(r"hybrid-[\w-]+\.(?:service|timer)", text):
            if test.startswith("proofs/house/"):
                found[f"systemd/{unit}"].add(test)
    return {name: frozenset(tests) for name, tests in found.items()}


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


def _try(copy: Path, mutant: Mutant, reach: plan.Reach) -> dict[str, object]:
    """Put the fault in place, run who reaches it, and take it away."""
    place = copy / mutant.path
    original = place.read_text()
    result: dict[str, object] = {
        "id": mutant.id, "path": mutant.path, "line": mutant.line, "operator": mutant.operator, "change": mutant.change,
        "outcome": "survived", "proof": "", "reason": "", "tests": 0,
    }  # fmt: skip
    begun = time.monotonic()
    place.write_text(mutant.text)
    try:
        for tests in plan.tests_of(mutant, reach):
            result["tests"] = int(str(result["tests"])) + len(tests)
            limit = plan.time_limit_secs(tests, reach.seconds)
            try:
                ran = _run(
                    copy, "-m", "pytest", "-x", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider",
                    "-m", "not sabotage", *(f"--deselect={test}" for test in sorted(reach.red)), *tests,
                    timeout_secs=limit,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                result.update(outcome="timeout", proof=tests[0], reason=f"not over within {limit:.0f} s")
                break
            if ran.returncode:
                proof, reason = plan.refuted_by(ran.stdout)
                result.update(outcome="caught", proof=proof, reason=reason or ran.stdout.strip()[-300:])
                break
    finally:
        place.write_text(original)
    result["seconds"] = round(time.monotonic() - begun, 1)
    return result


def _write(report: dict[str, object]) -> None:
    REPORT.parent.mkdir(exist_ok=True)
    environment = Environment(loader=PackageLoader("mutants", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    for place, text in (
        (REPORT, json.dumps(report, indent=1) + "\n"),
        (PAGE, environment.get_template("page.html.j2").render(report=report)),
    ):
        partial = place.with_name(f".{place.name}.partial")
        partial.write_text(text)
        partial.replace(place)


def _tell(number: int, count: int, result: dict[str, object], *, fresh: bool) -> None:
    """A line for whoever waits; one that stays for what nobody noticed."""
    if fresh and result["outcome"] == "survived":
        print(f"survived  {result['path']}:{result['line']}  {result['operator']}: {result['change']}", flush=True)
    if redraws(sys.stderr):
        sys.stderr.write(f"\r\x1b[K{number}/{count}  {str(result['id'])[:80]}  {result['outcome']}")
        sys.stderr.write("\n" if number == count else "")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
