"""What a bundle is about, read from where it is installed: the engine's files, its unit's, and its configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import statement
from harness.errors import BundleError
from harness.shell import Shell


def engine_files(prefix: Path) -> dict[str, str]:
    """Path below the installed engine package -> SHA-256, without the bytecode that Python wrote.

    Raises BundleError when there is no package, or something in it is no regular file.
    """
    packages = list(prefix.glob("lib/python3*/site-packages/engine"))
    if len(packages) != 1:
        raise BundleError(f"{prefix} has {len(packages)} installed engine packages, expected one: `make proofs` first")
    found = {}
    for path in sorted(packages[0].rglob("*")):
        relative = path.relative_to(packages[0])
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise BundleError(f"{path} is not a regular file")
        if path.is_file() and not (relative.parent.name == "__pycache__" and relative.suffix == ".pyc"):
            found[relative.as_posix()] = sha256(path)
    return found


def unit_files(fragment: Path, drop_ins: Sequence[Path] = ()) -> list[tuple[str, str]]:
    """(name, SHA-256) of a unit's files, in order. Raises BundleError for one that cannot be read."""
    return [(path.name, sha256(path)) for path in (fragment, *drop_ins)]


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file. Raises BundleError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error


def effective_config(shell: Shell, prefix: Path, config: Path) -> dict[str, Any]:
    """What counts of a configuration, as the installed engine itself reads it.

    Raises BundleError, with the engine's own words, when it refuses it.
    """
    argv = (str(prefix / "bin/python"), "-I", "-m", "engine", "--check-config", "--config", str(config.absolute()))
    # Not in the checkout, where Python would find another engine.
    done = shell.run(*argv, cwd=Path("/"))
    if done.status != 0:
        raise BundleError(f"the engine refuses {config}: {done.stderr.strip() or done.stdout.strip()}")
    try:
        return statement.safety_part(json.loads(done.stdout))
    except ValueError as error:
        raise BundleError(f"{argv[0]} printed no JSON for --check-config: {error}") from error
