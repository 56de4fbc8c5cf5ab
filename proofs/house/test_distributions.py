"""What comes with which distribution, and what a project notices of a plugin that it does not use (contract 9c)."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytest_hybrid_proofs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import engine
from harness.machines.stage import Stage
from proofs.fixtures.bytecode import QUICK, environ

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = {
    name: ROOT / "distributions" / name / "pyproject.toml" for name in ("hybrid-harness", "pytest-hybrid-proofs")
} | {"hybrid-engine": ROOT / "pyproject.toml"}
BACKEND = ROOT / ".cache" / "backend"


@cache
def project(name: str) -> dict[str, Any]:
    return tomllib.loads(PROJECTS[name].read_text())


def packages(name: str) -> set[str]:
    """The packages that a distribution has."""
    listed = project(name)["tool"]["setuptools"]["packages"]
    if isinstance(listed, list):
        return set(listed)
    assert listed == {"find": {"include": ["engine", "engine.*"]}}
    return {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "engine").rglob("*.py")}


def files(name: str) -> set[str]:
    """The files of a distribution's packages, as they lie in the checkout."""
    found = set()
    for package in packages(name):
        directory = package.replace(".", "/")
        if not (place := ROOT / directory).is_dir():
            place = PROJECTS[name].parent / directory
        found |= {f"{directory}/{path.name}" for path in place.iterdir() if path.is_file()}
    return found


@pytest.mark.claim("P1")
def test_every_file_is_in_one_distribution() -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for top in ("engine", "fleet", "harness")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = [file for name in PROJECTS for file in files(name) if not file.startswith("pytest_hybrid_proofs/")]
    assert sorted(shipped) == sorted(here)
    for package in sorted(set().union(*map(packages, PROJECTS))):
        place = ROOT / package.replace(".", "/")
        if package.count(".") == 1 and package.startswith(("fleet", "harness")):
            assert (place / "py.typed").is_file(), f"{package} has types, but does not say so"
    assert (ROOT / "engine/py.typed").is_file()


@pytest.mark.claim("P1")
def test_the_version_is_said_once() -> None:
    for name in PROJECTS:
        assert "version" not in project(name)["project"]
        assert importlib.metadata.version(name) == engine.__version__, f"{name}: make .venv/.ready"
    (needed,) = (
        line for line in project("pytest-hybrid-proofs")["project"]["dependencies"] if "hybrid-harness" in line
    )
    assert engine.__version__ in Requirement(needed).specifier


def imported(path: Path) -> set[str]:
    """The top-level names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.slow
@pytest.mark.claim("P1")
@pytest.mark.parametrize("name", PROJECTS)
def test_what_a_distribution_imports_it_depends_on(name: str) -> None:
    """And what it depends on it imports."""
    whose = importlib.metadata.packages_distributions()
    modules = [ROOT / file for file in files(name) if file.endswith(".py") and (ROOT / file).exists()]
    tops = set().union(*map(imported, modules)) - sys.stdlib_module_names - {"engine", "fleet", "harness"}
    needed = {canonicalize_name(distribution) for top in tops for distribution in whose[top]}
    # The engine's own extra is other people's engines.
    extras = project(name)["project"].get("optional-dependencies", {})
    extra = [*extras.get("fleet", []), *extras.get("parquet", [])]
    declared = {
        canonicalize_name(Requirement(line).name) for line in (*project(name)["project"]["dependencies"], *extra)
    }
    assert needed <= declared, f"{name} needs {needed - declared} too"
    assert declared - needed <= INDIRECT, f"{name} imports no {declared - needed}"


INDIRECT = {"hybrid-harness"}
"""Dependencies that no import shows."""


@pytest.mark.claim("P1", "P4")
def test_an_installation_has_nothing_that_breaks_engines(stage: Stage) -> None:
    (site,) = stage.prefix.glob("lib/python3*/site-packages")
    rooms = {path.name for path in (site / "harness").iterdir() if path.is_dir()} - {"__pycache__"}
    assert rooms == {package.split(".")[1] for package in packages("hybrid-harness") if package.startswith("harness.")}
    assert rooms.isdisjoint({"machines", "faults", "proving", "bundle"})
    installed = {canonicalize_name(path.name.partition("-")[0]) for path in site.glob("*.dist-info")}
    assert {"hybrid-engine", "hybrid-harness"} <= installed
    assert installed.isdisjoint({"pytest", "pytest-hybrid-proofs"})
    assert not any("[pytest11]" in path.read_text() for path in site.glob("hybrid_*.dist-info/entry_points.txt"))
    for argv, lacking in ((("bundle", "--help"), "harness.bundle"), (("doctor",), "harness.machines")):
        command = [str(stage.prefix / "bin/python"), "-I", "-m", "harness", *argv]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(
            rf"harness: {lacking}\S* is not installed here: python -m pip install pytest-hybrid-proofs\n", done.stderr
        )


LACKING = """
import sys
sys.modules["prometheus_client"] = None
from harness import scripts
sys.exit(scripts.dashboard())
"""


@pytest.mark.claim("P4")
def test_a_command_says_what_to_install() -> None:
    """Here as if prometheus_client had not been installed."""
    argv = [sys.executable, "-c", LACKING, "--config", os.devnull]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environ())
    told = "hybrid-dashboard: prometheus_client is not installed here: python -m pip install hybrid-harness\n"
    assert (done.returncode, done.stderr) == (2, told)


# --- locks -------------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Package -> its requirement and hashes, of a lock file."""
    text = re.sub(r"^#.*\n", "", (ROOT / "requirements" / name).read_text(), flags=re.MULTILINE)
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for entry in text.replace("\\\n", "").splitlines():
        wanted, *hashes = entry.split(" --hash=")
        requirement = Requirement(wanted)
        found[canonicalize_name(requirement.name)] = (requirement, [one.strip() for one in hashes])
    return found


LOCKS = sorted(path.name for path in (ROOT / "requirements").iterdir())


@pytest.mark.claim("P3")
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_and_hashes_each_package(name: str) -> None:
    """And names no host to have it from: that is the computer's configuration to say."""
    assert locked(name)
    for requirement, hashes in locked(name).values():
        assert [one.operator for one in requirement.specifier] == ["=="], requirement
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement
        assert requirement.url is None
    assert "://" not in (ROOT / "requirements" / name).read_text()


@pytest.mark.claim("P3")
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_is_asked_for(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import lock; print('\\n'.join(lock.wanted({name!r})))"],
        cwd=ROOT / "distributions", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    pins, production = locked(name), locked("install.txt")
    for line in done.stdout.splitlines():
        wanted = Requirement(line)
        (pin,) = pins[canonicalize_name(wanted.name)][0].specifier
        assert pin.version in wanted.specifier, f"{name} has {pin} for {line}: make lock"
    for package in pins.keys() & production.keys():
        assert pins[package][0].specifier == production[package][0].specifier, f"{name}: {package} is not production's"


RECORDING = """#!/bin/sh
# Stands in for Python: notes how it was called, and an environment that it is to make has itself as its Python.
echo "$*" >> {log}
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


@pytest.mark.claim("P3")
@pytest.mark.parametrize("what", ["make install", "make install CHARTS=1 FLEET=1", "make .venv/.ready"])
def test_nothing_is_installed_but_what_is_locked(tmp_path: Path, what: str) -> None:
    """Whatever pip is told to install is a lock file with hashes, or sources of ours without anything else."""
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(RECORDING.format(log=log))
    python.chmod(0o755)
    for name in ("distributions", "requirements", "systemd", "docs", "config", "pyproject.toml", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    argv = ["make", f"PYTHON={python}", *what.split()[1:], f"DESTDIR={tmp_path}/root"]
    if what.startswith("make install"):
        argv = [sys.executable, "-c", INSTALL, str(ROOT / "systemd"), str(python), str(tmp_path), *what.split()[2:]]
    subprocess.run(argv, cwd=tmp_path, check=True, timeout=60, capture_output=True)
    installs = [line.split() for line in log.read_text().splitlines() if "-m pip install" in line]
    locks = [line[line.index(flag) + 1] for line in installs for flag in ("-r", "--requirement") if flag in line]
    extras = map(str.lower, re.findall("(CHARTS|FLEET)=1", what))
    wanted = [*extras, "install"] if what.startswith("make install") else ["develop"]
    assert sorted(locks) == sorted(f"requirements/{name}.txt" for name in ("build", *wanted))
    for line in installs:
        if set(locks).isdisjoint(line):
            assert {"--no-deps", "--no-build-isolation"} <= set(line)
            ours = [word for word in line[line.index("--no-build-isolation") + 1 :] if word != "-e"]
            assert all((ROOT / word / "pyproject.toml").is_file() for word in ours), line
        else:
            assert "--require-hashes" in line


INSTALL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import installation
sys.executable = sys.argv[2]
installation.CHECKOUT = Path(sys.argv[3])
installation._fetch(Path(sys.argv[3], "home"), installation.Target("", "/opt/x", "", ""), [
    word.partition("=")[0].lower() for word in sys.argv[4:]
])
"""


# --- wheels and sdists -------------------------------------------------------------------------------------

BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def build(what: str, sources: Path, target: Path) -> Path:
    """Build a wheel or an sdist by setuptools as it is locked, in a process that has seen nothing else."""
    target.mkdir()
    # Without site-packages: an editable installation there would lend what an sdist lacks.
    argv = [sys.executable, "-S", "-c", BUILD, f"build_{what}", str(target)]
    subprocess.run(argv, cwd=sources, check=True, timeout=60, env={**environ(), "PYTHONPATH": str(BACKEND)})
    (built,) = target.iterdir()
    return built


@pytest.mark.claim("P2")
def test_a_wheel_made_from_the_sdist_is_whole(tmp_path: Path) -> None:
    """Of the distribution that lies behind links into the checkout; `make dist` makes all three."""
    name = "hybrid-harness"
    sources = tmp_path / "sources"
    leavings = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for top in ("engine", "fleet", "harness", "distributions"):
        shutil.copytree(ROOT / top, sources / top, symlinks=True, ignore=leavings)
    shutil.copy(ROOT / "LICENSE", sources)
    sdist = build("sdist", sources / "distributions" / name, tmp_path / "sdists")
    shutil.unpack_archive(sdist, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheel = build("wheel", unpacked, tmp_path / "wheels")
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() or member.isdir() for member in archive), "a link leads out of an sdist"
    with zipfile.ZipFile(wheel) as archive:
        content = {file for file in archive.namelist() if ".dist-info/" not in file}
        (scripts,) = (file for file in archive.namelist() if file.endswith(".dist-info/entry_points.txt"))
        assert "pytest" not in archive.read(scripts).decode()
    assert content == files(name)


# --- a project that does not use the plugin ----------------------------------------------------------------

FOREIGN = """
import pytest

def test_S3_bucket():
    pytest.skip("no bucket")
"""

SPY = """
import json, sys

def pytest_addoption(parser):
    parser.addoption("--systemd", help="this project's own")

def pytest_unconfigure(config):
    print("LOADED", json.dumps([name for name in sys.modules if name.partition(".")[0] in OURS or name in HEAVY]))

OURS = ("harness", "engine", "pytest_hybrid_proofs")
HEAVY = ("sh", "jinja2", "cryptography", "websockets", "cysystemd")
"""


def foreign(tmp_path: Path, text: str, *args: str, **files: str) -> tuple[int, str]:
    """Exit status and output of pytest in a project that says nothing of proofs."""
    for name, content in {"test_sample": text, "conftest": SPY, **files}.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    argv = [sys.executable, "-m", "pytest", *QUICK, *args]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environ())
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.claim("P5")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_foreign_project_does_not_notice_the_plugin(tmp_path: Path, workers: str) -> None:
    """Not its outcomes, nor its files, an option of its own, or its start: one small module is loaded."""
    # Reports bear the names of directories beside those of marks.
    status, output = foreign(tmp_path, FOREIGN, "-n", workers, **{"claim/test_more": FOREIGN})
    assert status == 0, output
    assert "2 skipped" in output
    assert "verdicts" not in output
    assert json.loads(output.partition("LOADED ")[2].splitlines()[0]) == ["pytest_hybrid_proofs"]
    files = {"conftest.py", "pytest.ini", "test_sample.py", "__pycache__", "claim"}
    assert {path.name for path in tmp_path.iterdir()} <= files


@pytest.mark.claim("P5")
def test_the_plugin_takes_no_common_names() -> None:
    """Of fixtures and options; the names of hooks are pytest's."""
    tree = ast.parse(Path(pytest_hybrid_proofs.__file__).read_text())
    fixtures = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and "fixture" in map(called, node.decorator_list)
    }
    assert fixtures == pytest_hybrid_proofs.FIXTURES
    assert all(name.startswith("proof_") for name in fixtures)
    parser, plugins = pytest.Parser(_ispytest=True), pytest.PytestPluginManager()
    plugins.register(NoIni(), "pytestconfig")
    pytest_hybrid_proofs.pytest_addoption(parser, plugins)
    names = [name for group in parser._groups for option in group.options for name in option.names()]
    assert len(names) > 3
    assert all(name.startswith("--proofs-") for name in names)


class NoIni:
    """A configuration that says nothing of proofs."""

    def getini(self, _name: str) -> bool:
        return False


def called(node: ast.expr) -> str:
    """The last name of what a decorator calls."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


AT_LAST_A_PROOF = """
import pytest

def test_a_before():
    {before}

@pytest.mark.claim("it-stands")
def test_proof():
    {proof}
"""

PASSES, FAILS, SKIPS = "pass", "assert 1 == 2", "pytest.skip()"


@pytest.mark.slow
@pytest.mark.claim("P5", "V7")
@pytest.mark.parametrize(
    ("before", "proof", "more", "workers", "status", "told"),
    [
        (PASSES, PASSES, {}, "1", 0, "1 proven, 0 unproven, 0 refuted"),
        (FAILS, SKIPS, {}, "0", 1, "0 proven, 1 unproven, 0 refuted"),
        (FAILS, SKIPS, {}, "1", 1, "0 proven, 1 unproven, 0 refuted"),
        (PASSES, PASSES, {"test_a_first": "import nothing_of_this_name"}, "0", 3, "1 proven, 0 unproven, 0 refuted"),
    ],
    ids=["quiet-worker", "plain-failure", "plain-failure-worker", "uncollected"],
)
def test_the_first_proof_activates_the_plugin(
    tmp_path: Path, before: str, proof: str, more: dict[str, str], workers: str, status: int, told: str
) -> None:
    """What happened before counts as if it had been active: a test that failed, a file that could not be collected."""
    text = AT_LAST_A_PROOF.format(before=before, proof=proof)
    ended, output = foreign(tmp_path, text, "-n", workers, "--continue-on-collection-errors", **more)
    assert (ended, told in output) == (status, True), output
    report = json.loads((tmp_path / "reports" / "verdicts.json").read_text())
    assert report["state"] == ("interrupted" if more else "complete")
    assert (report["collected"], report["selected"], report["never_ran"]) == (1, 1, 0)
    assert [one["claims"] for one in report["verdicts"]] == [["it-stands"]]
