"""`make dist`: what is released, in dist/: wheel and sdist of each distribution, a bill of materials, and checksums.

Each wheel is made from its sdist, and both from a copy of the sources in which no earlier build has left anything.
The wheels are installed, with the locked packages, into an environment that knows nothing of the checkout; of that
environment is the bill of materials (CycloneDX), and in it every module must import and every command start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = (".", "distributions/hybrid-harness", "distributions/pytest-hybrid-proofs")
INSTALLED = ("hybrid-engine", "hybrid-harness")
"""What an operator installs."""

SOURCES = ("engine", "fleet", "harness", "distributions", "pyproject.toml", "README.md", "LICENSE")
IMPORT_ALL = """
import importlib, pkgutil
for name in ("engine", "fleet", "harness"):
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
        importlib.import_module(module.name)
"""


def copy_sources(target: Path) -> None:
    """The sources of all distributions, without what builds and runs leave in a checkout; links stay links."""
    leavings = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=leavings)
        else:
            shutil.copy(ROOT / name, target / name)


def build(sources: Path, target: Path) -> None:
    """Wheel and sdist of each distribution. A wheel has the same bytes whenever it is made of the same commit."""
    committed = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    for name in DISTRIBUTIONS:
        subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(sources / name)],
            check=True, stdout=subprocess.DEVNULL, env={**os.environ, "SOURCE_DATE_EPOCH": committed},
        )  # fmt: skip


def install(environment: Path, wheels: Path) -> None:
    """Fill a fresh environment with the locked packages and what an operator installs, from a directory of wheels.

    Raises CalledProcessError when that does not fit together, or does not start.
    """
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for lock in ("install.txt", "fleet.txt", "charts.txt"):
        subprocess.run([*pip, "--require-hashes", "-r", str(ROOT / "requirements" / lock)], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", "--find-links", str(wheels), *INSTALLED], check=True)
    # What the wheels say that they need must be what the lock has.
    subprocess.run([str(environment / "bin/python"), "-m", "pip", "check"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([str(environment / "bin/python"), "-I", "-c", IMPORT_ALL], check=True, cwd="/")
    for script in environment.glob("bin/hybrid-*"):
        argv = [str(environment / "bin/python"), "-I", str(script), "--help"]
        subprocess.run(argv, check=True, cwd="/", stdout=subprocess.DEVNULL)


def main() -> int:
    """Make dist/ anew."""
    target = ROOT / "dist"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with tempfile.TemporaryDirectory() as place:
        sources, environment = Path(place, "sources"), Path(place, "environment")
        sources.mkdir()
        copy_sources(sources)
        build(sources, target)
        install(environment, target)
        described = sources / "pyproject.toml"
        (wheel,) = target.glob("hybrid_engine-*.whl")
        # The bill says which version it is of; its maker does not ask setuptools.
        version = f'version = "{wheel.name.split("-")[1]}"'
        described.write_text(described.read_text("utf-8").replace('dynamic = ["version"]', version), "utf-8")
        subprocess.run(
            [
                sys.executable, "-m", "cyclonedx_py", "environment", str(environment / "bin/python"),
                "--pyproject", str(described), "--mc-type", "application", "--output-reproducible",
                "--output-file", str(target / "sbom.cdx.json"),
            ],
            check=True,
        )  # fmt: skip
    files = sorted(target.iterdir())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (target / "SHA256SUMS").write_text("".join(sums))
    for path in files:
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
