"""What a bundle is about, read from where it is installed: the engine's files, what they run on, the files of its unit,
and its configuration."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue, TypeAdapter

from harness.base import settings
from harness.base.errors import BundleError
from harness.bundle import statement
from harness.evidence.results import Interpreter, Package, Runtime
from harness.evidence.shell import Shell

INSTALLER_NOTES = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""What pip writes into a package's metadata about how it came there: no part of what runs."""


def engine_files(prefix: Path) -> dict[str, str]:
    """Return path below the installed engine package -> SHA-256, without the bytecode that Python wrote.

    Raises BundleError when there is no package, or something in it is not a regular file.
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


def files_of_command(command: str, checkout: Path) -> dict[str, str]:
    """Return path -> SHA-256 of each file that a command line names."""
    return {str(path): sha256(path) for path in settings.files_named(command, checkout)}


def unit_files(
    fragment: Path, drop_ins: Sequence[Path] = (), environment_files: Sequence[Path] = ()
) -> list[tuple[str, str]]:
    """(name, SHA-256) of a unit's files, in order. An environment file may be absent: the unit says so by a `-`.

    Raises BundleError for one that cannot be read.
    """
    return [
        *((path.name, sha256(path)) for path in (fragment, *drop_ins)),
        *((f"EnvironmentFile={path.name}", sha256(path) if path.exists() else "absent") for path in environment_files),
    ]


def runtime(shell: Shell, prefix: Path) -> Runtime:
    """Describe the interpreter of an installation and every package in it, as the gate compares them.

    Raises BundleError when a package's own list of its files cannot be read or is not true.
    """
    python = prefix / "bin/python"
    said = shell.run(str(python), "-I", "-VV", cwd=Path("/"))
    if said.status != 0:
        raise BundleError(f"{python} does not say its version: {said.stderr.strip()}")
    version = said.stdout.strip().removeprefix("Python ")
    return Runtime(Interpreter(version, sha256(python)), _packages(prefix))


def _packages(prefix: Path) -> dict[str, Package]:
    """Name -> version, and the digest of all that the package has installed but bytecode, the engine's own files and
    what the installer notes about itself."""
    found: dict[str, Package] = {}
    for site in prefix.glob("lib/python3*/site-packages"):
        for info in sorted(site.glob("*.dist-info")):
            name, _, version = info.name.removesuffix(".dist-info").partition("-")
            if name in found:
                raise BundleError(f"{name} is installed twice in {site}: {found[name].version} and {version}")
            digests = {
                path: sha256(site / path)
                for path in _recorded(info / "RECORD")
                if not (path.endswith(".pyc") and path.split("/")[-2:-1] == ["__pycache__"])
                and not path.startswith("engine/")
                and path not in {f"{info.name}/{note}" for note in INSTALLER_NOTES}
            }
            found[name] = Package(version, statement.digest(digests))
    return found


def _recorded(record: Path) -> list[str]:
    try:
        return [path for path, *_ in filter(None, csv.reader(record.read_text("utf-8").splitlines()))]
    except (OSError, ValueError, csv.Error) as error:
        raise BundleError(f"cannot read {record}: {error}") from error


def sha256(path: Path) -> str:
    """Return the hexadecimal digest of a file. Raises BundleError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error


def effective_config(shell: Shell, prefix: Path, config: Path) -> dict[str, JsonValue]:
    """Read what counts of a configuration, as the installed engine itself reads it.

    Raises BundleError, with the engine's own words, when it refuses it.
    """
    argv = (str(prefix / "bin/python"), "-I", "-m", "engine", "--check-config", "--config", str(config.absolute()))
    # Not in the checkout, where Python would find another engine.
    done = shell.run(*argv, cwd=Path("/"))
    if done.status != 0:
        raise BundleError(f"the engine refuses {config}: {done.stderr.strip() or done.stdout.strip()}")
    try:
        return statement.safety_part(TypeAdapter(dict[str, JsonValue]).validate_json(done.stdout))
    except ValueError as error:
        raise BundleError(f"{argv[0]} printed no JSON for --check-config: {error}") from error
