"""What the engine runs on beside its own files: the interpreter and every package that it could import (R9).

A package is what an installer left in the environment's site-packages, each file of it, and each script beside it.
Python also runs what no installer put there: a stray module, a line in a .pth file, sitecustomize. So what belongs to
no package is a reason to refuse, and so is a place on sys.path that is neither the standard library nor this
environment. The standard library and shared libraries are the operating system's; only the interpreter's version speaks
for them.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import stat
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from engine.live import attestation
from engine.live.attestation import Refusal

PACKAGE: Final = Path(__file__).parent.parent
"""The engine's own, which is a subject of its own in a bundle."""

NO_BYTECODE: Final = "/dev/null"
"""As sys.pycache_prefix: nothing can be read or written below it."""

PRELOAD: Final = Path("/etc/ld.so.preload")
"""The dynamic linker's own list of libraries for every process."""

NOTES: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
"""What an installer notes in a package's metadata about its own work. Nothing of it runs, and it differs from place to
place."""

_INFO: Final = re.compile(r"(?P<name>[^-/]+)-(?P<version>[^-/]+)\.dist-info")


def describe(package: Path = PACKAGE) -> dict[str, Any]:
    """Return the interpreter and all packages, for a digest. package: the engine's own.

    Raises Refusal for whatever could run and belongs to no package.
    """
    sites = _sites()
    _check_path(sites)
    packages: dict[str, dict[str, str]] = {}
    scripts: set[Path] = set()
    for site in sites:
        for name, version, digests in _packages(site, package):
            if name in packages:
                raise Refusal("runtime", f"{name} is installed twice, {packages[name]['version']} and {version}")
            packages[name] = {"version": version, "sha256": attestation.digest(digests)}
            scripts |= {Path(os.path.normpath(site / path)) for path in digests}
    _check_entry(scripts, package)
    _check_bytecode(sites)
    return {"python": {"version": sys.version, "sha256": _sha256(Path("/proc/self/exe"))}, "packages": packages}


def process_objections() -> Iterator[str]:
    """Yield why this very process keeps LIVE shut, whatever is installed."""
    if not sys.flags.isolated:
        yield "Python is not isolated from its environment and the user's: ExecStart= must have `python -I`"
    try:
        if PRELOAD.read_bytes().strip():
            yield f"{PRELOAD} puts libraries into every process"
    except FileNotFoundError:
        pass
    except OSError as error:
        yield f"{PRELOAD} cannot be read: {error.strerror}"


def forget_bytecode() -> None:
    """From now on modules are compiled from their source: bytecode on disk need not be what the source says."""
    sys.pycache_prefix = NO_BYTECODE
    sys.dont_write_bytecode = True


def runs_as_written(path: Path, source: bytes) -> bool:
    """Return whether the bytecode that Python would run for a module, if there is any, is what its source says."""
    loader = _Loader(path.stem, str(path))
    if not os.path.lexists(importlib.util.cache_from_source(str(path))):
        return True
    try:
        return bool(loader.get_code(path.stem) == loader.source_to_code(source, str(path)))
    except (ImportError, SyntaxError, EOFError, ValueError, TypeError):
        return False


class _Loader(importlib.machinery.SourceFileLoader):
    """Python's own, but one that leaves no bytecode behind."""

    def set_data(self, path: str, data: object, *, _mode: int = 0o666) -> None:
        return


def is_bytecode(path: str) -> bool:
    """Return whether a path is that of bytecode beside a source; elsewhere a .pyc file is a module like any other."""
    parent, _, name = path.rpartition("/")
    return name.endswith(".pyc") and (parent == "__pycache__" or parent.endswith("/__pycache__"))


def _sites() -> list[Path]:
    """Return the environment's site-packages, pure and not; mostly one."""
    return [Path(path) for path in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})]


def _check_path(sites: list[Path]) -> None:
    """Raise Refusal for a place that modules come from which is neither Python's nor this environment's."""
    stdlib = Path(os.__file__).parent
    archive = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    own = {*map(str, sites), str(stdlib), str(stdlib / "lib-dynload"), str(stdlib.parent / archive)}
    for place in sys.path:
        if place not in own:
            raise Refusal("runtime", f"modules would come from {place!r} too, which is not this environment's")


def _check_entry(scripts: set[Path], engine: Path) -> None:
    """Raise Refusal when what was started is neither the engine's own file nor a script that a package installed."""
    started = Path(os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or "-"))
    if started not in scripts and not started.is_relative_to(engine):
        raise Refusal("runtime", f"{started} was started, which belongs to no installed package")


def _packages(site: Path, engine: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(name, version, path -> SHA-256) of each package in a site-packages directory."""
    found = dict(_files(site))
    owned: set[str] = set()
    for info in sorted(path.partition("/")[0] for path in found if path.endswith(".dist-info/RECORD")):
        match = _INFO.fullmatch(info)
        if match is None:
            raise Refusal("runtime", f"{info} in {site} is not the metadata of a package")
        digests = {}
        for path in _recorded(site / info / "RECORD"):
            if is_bytecode(path):
                continue
            owned.add(path)
            is_note = path.partition("/")[0] == info and path.partition("/")[2] in NOTES
            if not is_note and not (site / path).is_relative_to(engine):
                digests[path] = found[path] if path in found else _outside(site, path)
        yield match["name"], match["version"], digests
    stray = sorted(path for path in found if path not in owned and not (site / path).is_relative_to(engine))
    if stray:
        more = f" and {len(stray) - 3} more" if len(stray) > 3 else ""
        raise Refusal("runtime", f"{', '.join(stray[:3])}{more} in {site}: belongs to no installed package")


def _files(site: Path) -> Iterator[tuple[str, str]]:
    """(path below site-packages, SHA-256) of every file but bytecode. Raises Refusal for what is not a regular file."""
    for directory, subdirectories, names in os.walk(site, onerror=_refuse):
        for name in [*subdirectories, *names]:
            path = Path(directory, name)
            relative = path.relative_to(site).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                if not is_bytecode(relative):
                    yield relative, _sha256(path)
            elif not stat.S_ISDIR(mode):
                raise Refusal("runtime", f"{relative} in {site} is not a regular file")


def _refuse(error: OSError) -> None:
    raise Refusal("runtime", f"{error.filename!r} cannot be read: {error.strerror}")


def _recorded(record: Path) -> list[str]:
    """Return the paths in a package's RECORD. Raises Refusal for a file that is none."""
    try:
        with record.open(encoding="utf-8", newline="") as file:
            return [row[0] for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise Refusal("runtime", f"{record} cannot be read: {error}") from None


def _outside(site: Path, path: str) -> str:
    """Return the SHA-256 of a recorded file that does not lie in site-packages, such as a script."""
    target = Path(os.path.normpath(site / path))
    if not target.is_relative_to(sys.prefix) or target.is_symlink():
        raise Refusal("runtime", f"{path} of a package in {site} is not a file of this environment")
    return _sha256(target)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise Refusal("runtime", f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None


def _check_bytecode(sites: list[Path]) -> None:
    """Raise Refusal when a module that runs already came from bytecode that is not what its source says."""
    for module in list(sys.modules.values()):
        origin = getattr(getattr(module, "__spec__", None), "origin", None)
        if isinstance(origin, str) and origin.endswith(".py") and any(map(Path(origin).is_relative_to, sites)):
            path = Path(origin)
            try:
                source = path.read_bytes()
            except OSError as error:
                raise Refusal("runtime", f"{path} cannot be read: {error.strerror}") from None
            if not runs_as_written(path, source):
                raise Refusal("runtime", f"{path}: its bytecode in __pycache__ is not what the source says")
