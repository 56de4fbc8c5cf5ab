"""`make lock`: the lock files in requirements/, with a hash for each file that may be installed.

install.txt is what `make install` installs, fleet.txt what FLEET=1 adds to it, charts.txt what CHARTS=1 does,
develop.txt also what the proofs and the work on this repository need, build.txt what makes wheels of it, coverage.txt
what counts the lines that ran, tools.txt what makes releases and the site. All hold for Python 3.11 and later. What is
installed in production is what was developed with: develop.txt is made within the bounds of install.txt, and each other
file within those of develop.txt.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"

ENGINE, HARNESS, PROOFS = (
    ROOT / "pyproject.toml",
    ROOT / "distributions/hybrid-harness/pyproject.toml",
    ROOT / "distributions/pytest-hybrid-proofs/pyproject.toml",
)
OURS = ("hybrid-engine", "hybrid-harness", "pytest-hybrid-proofs")

FILES = {
    # lock file: (the distributions whose dependencies it has, the groups of the root's pyproject.toml, the extras of
    # hybrid-harness)
    "install.txt": ((ENGINE, HARNESS), (), ()),
    "develop.txt": ((ENGINE, HARNESS, PROOFS), ("dev",), ("charts", "fleet", "parquet")),
    "charts.txt": ((), (), ("charts",)),
    "fleet.txt": ((), (), ("fleet",)),
    "build.txt": ((), ("build",), ()),
    "coverage.txt": ((), ("coverage",), ()),
    "tools.txt": ((), ("tools",), ()),
}


def wanted(name: str) -> list[str]:
    """Return the requirements that a lock file is made of: everything but our own distributions."""
    distributions, groups, extras = FILES[name]
    found = [
        line for path in distributions for line in tomllib.loads(path.read_text("utf-8"))["project"]["dependencies"]
    ]
    table = tomllib.loads(ENGINE.read_text("utf-8"))["dependency-groups"]
    found += [line for group in groups for line in table[group]]
    optional = tomllib.loads(HARNESS.read_text("utf-8"))["project"]["optional-dependencies"]
    found += [line for extra in extras for line in optional[extra]]
    return sorted({line for line in found if not line.startswith(OURS)})


def main(arguments: list[str]) -> int:
    """Make all lock files anew, or those that are named. Returns uv's exit status when it fails."""
    for name in arguments or FILES:
        bound = {"install.txt": None, "develop.txt": "install.txt"}.get(name, "develop.txt")
        bounds = ["--constraints", str(LOCKS / bound)] if bound else []
        done = subprocess.run(
            [
                sys.executable, "-m", "uv", "pip", "compile", "-", "--output-file", str(LOCKS / name), *bounds,
                "--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--no-annotate",
                "--no-emit-find-links", "--no-config", "--custom-compile-command", "make lock", "--quiet",
                *(["--upgrade"] if not arguments else []),
            ],
            input="\n".join(wanted(name)), text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
