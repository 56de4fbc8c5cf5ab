"""`make install` and `make uninstall`, run by whatever Python is there, before anything of ours is installed.

An installation is a virtual environment of its own at PREFIX, unit files, users, and an example configuration. What
it put where stands in PREFIX/share/hybrid-engine/installed.json, and nothing else is ever removed: a file that an
operator added to PREFIX stays, no link is followed, and configuration and data stay unless they are purged.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
UNITS = CHECKOUT / "systemd"
PREFIX = "/opt/hybrid-engine"
"""What the unit files say."""

CONFIGURATION = Path("/etc/hybrid-engine")
DATA = tuple(Path("/var/lib", name) for name in ("hybrid-engine", "hybrid-soak", "hybrid-evidence", "hybrid-dashboard"))
DISTRIBUTIONS = (".", "distributions/hybrid-harness")
"""What is installed: nothing that breaks an engine on purpose."""

EXTRAS = ("charts", "fleet")
"""What more may be asked for, by a variable of the same name: what draws the dashboard's charts, and what relay and
collector need."""

DOCUMENTS = ("fleet.md", "fleet-growth.md", "operating.md", "live.md", "metrics.md")
WATCHERS = ("prometheus", "alertmanager", "grafana")
"""Directories of configuration for whoever looks on: examples, beside the documents."""

EXAMPLES = ("config.toml", "ws_sources.toml", "relay.toml", "collector.toml")

MANIFEST = "share/hybrid-engine/installed.json"

OF_AN_INSTANCE = (
    (r"^(Description=.*)$", r"\1, instance %i"),
    (r"/etc/hybrid-engine(/[a-z]+\.toml)?(?=\s|$)", r"/etc/hybrid-engine/%i\1"),
    (r"^ConfigurationDirectory=hybrid-engine$", r"\g<0>/%i"),
    (r"(^StateDirectory=|%S/|/var/lib/)hybrid-(engine|soak|evidence|dashboard)\b", r"\g<0>-%i"),
    (r"^SyslogIdentifier=hybrid-engine$", r"\g<0>@%i"),
    (r"\b(hybrid-[a-z-]+)\.service\b", r"\1@%i.service"),
    (r"/bin/hybrid-(soak|dashboard|healthcheck)\b", r"\g<0> --instance %i"),
)
"""(what a line of a unit says, what the same line of its template says): whatever is one engine's own. Users and groups
are shared by all. The engine and the relay need no --instance: their configuration is the instance's own."""

OF_A_FLEET = "hybrid-collector.service"
"""Belongs to no engine, so that there is no template of it."""


class Refused(Exception):
    """It cannot be done as it was asked for. Says why."""


@dataclass(frozen=True)
class Installed:
    """What an installation put where; without anything for none."""

    at: str = ""
    """PREFIX."""
    prefix: frozenset[str] = frozenset()
    """Files and links below PREFIX, relative to it."""
    elsewhere: frozenset[str] = frozenset()
    """Unit files and users."""


@dataclass(frozen=True)
class Target:
    """Where to install, below the directory DESTDIR that a packager may name."""

    destdir: str
    prefix: str
    unitdir: str
    sysusersdir: str

    def place(self, path: str | Path) -> Path:
        """Return where a file of the installed system is now."""
        return Path(f"{self.destdir}{path}")

    @property
    def here(self) -> bool:
        """Whether this very system is meant, and a systemd runs it."""
        return not self.destdir and Path("/run/systemd/system").is_dir()


# --- install -----------------------------------------------------------------------------------------------


def install(target: Target, source: str, extras: Sequence[str] = ()) -> None:
    """Install, also over an older installation. source: an installation to copy; empty to fetch the packages, and those
    of the EXTRAS that are named."""
    # Others read and run what is installed, whatever this shell prefers.
    os.umask(0o022)
    home = target.place(target.prefix)
    _check(target, home)
    earlier = _manifest(home)
    # An installation from before there was a list is all ours.
    before = _files(home) if earlier.at else set()
    if source:
        _copy(Path(source), home, target.prefix, earlier.prefix)
    else:
        _fetch(home, target, extras)
    for name in DOCUMENTS:
        _put(CHECKOUT / "docs" / name, home / "share/doc/hybrid-engine" / name)
    for name in WATCHERS:
        for example in sorted((CHECKOUT / "config" / name).rglob("*.*")):
            _put(example, home / "share/doc/hybrid-engine" / example.relative_to(CHECKOUT))
    elsewhere = [*_install_units(target), *_install_users(target)]
    manifest = home / MANIFEST
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.touch()
    ours = (_files(home) - before) | (earlier.prefix & _files(home))
    listed = {"at": target.prefix, "prefix": sorted(ours), "elsewhere": sorted(elsewhere)}
    manifest.write_text(json.dumps(listed, indent=0) + "\n")
    for name in EXAMPLES:
        place = target.place(CONFIGURATION / name)
        if not os.path.lexists(place):
            _put(CHECKOUT / "config" / name, place)
    if target.here:
        _run("systemctl", "daemon-reload")
        _tell_what_next()


def _check(target: Target, home: Path) -> None:
    for name, path in (("PREFIX", target.prefix), ("UNITDIR", target.unitdir), ("SYSUSERSDIR", target.sysusersdir)):
        if not re.fullmatch(r"/[\w /.+@-]*\w", path, re.ASCII) or path != os.path.normpath(path):
            raise Refused(f"{name}={path!r}: must be an absolute path of letters, digits, spaces and _ / . + @ -")
    is_ours = (home / MANIFEST).exists() or (home / "bin/hybrid-engine").exists()
    if not is_ours and home.exists() and any(home.iterdir()):
        raise Refused(f"{home} is not empty, and not an installation of ours: PREFIX is a directory of its own")


def _fetch(home: Path, target: Target, extras: Sequence[str]) -> None:
    _run(sys.executable, "-m", "venv", str(home))
    # The units cannot write where they are installed, so what pip compiles has to lie there.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPYCACHEPREFIX"}
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    locked = [*pip, "--require-hashes", "--requirement"]
    for name in ("install", *extras):
        subprocess.run([*locked, f"requirements/{name}.txt"], check=True, cwd=CHECKOUT, env=environment)
    with tempfile.TemporaryDirectory() as backend:
        argv = [*locked, "requirements/build.txt", "--target", backend]
        subprocess.run(argv, check=True, cwd=CHECKOUT, env=environment)
        environment["PYTHONPATH"] = backend
        # One after the other: an older hybrid-engine that goes takes harness/ with it, which was its own then.
        for distribution in DISTRIBUTIONS:
            shutil.rmtree(CHECKOUT / distribution / "build", ignore_errors=True)
            argv = [*pip, "--no-deps", "--no-build-isolation", f"./{distribution}"]
            subprocess.run(argv, check=True, cwd=CHECKOUT, env=environment)
    if target.destdir:
        _say_where(home, str(home), target.prefix)


def _copy(source: Path, home: Path, prefix: str, earlier: frozenset[str]) -> None:
    listed = _manifest(source)
    if not listed.at:
        raise Refused(f"FROM={source}: is not an installation of ours: there is no {MANIFEST}")
    names = _files(source)
    for name in sorted(names):
        place = home / name
        place.parent.mkdir(parents=True, exist_ok=True)
        # Never into a file that is there: an engine that runs has it mapped.
        partial = place.with_name(f".{place.name}.partial")
        shutil.copy2(source / name, partial, follow_symlinks=False)
        if not partial.is_symlink():
            partial.chmod(0o755 if partial.stat().st_mode & stat.S_IXUSR else 0o644)
        partial.replace(place)
    _remove_files(home, earlier - names)
    _say_where(home, listed.at, prefix)


def _say_where(home: Path, old: str, new: str) -> None:
    """Correct where scripts and environment say that they are."""
    for path in [home / "pyvenv.cfg", *sorted((home / "bin").iterdir())]:
        if path.is_file() and not path.is_symlink():
            text = path.read_bytes()
            # The kernel takes no space in a first line; what pip writes instead is a shell's and Python's at once.
            first = re.compile(rb"#!(%s/bin/python[\d.]*)\n" % re.escape(old.encode()))
            if " " in new:
                text = first.sub(rb"""#!/bin/sh\n'''exec' "\1" "$0" "$@"\n' '''\n""", text, count=1)
            if old.encode() in text:
                _write(path, text.replace(old.encode(), new.encode()), path.stat().st_mode)


def template(text: str) -> str:
    """Return the text of the template unit that makes instances of a unit with this text: hybrid-engine@.service of
    hybrid-engine.service."""
    lines = text.splitlines(keepends=True)
    for index, line in enumerate(lines):
        if not line.startswith("#"):
            for said, says in OF_AN_INSTANCE:
                lines[index] = re.sub(said, says, lines[index], flags=re.MULTILINE)
    return "".join(lines)


def _install_units(target: Target) -> Iterator[str]:
    for unit in sorted(UNITS.glob("hybrid-*")):
        text = unit.read_text()
        made = {unit.name: text}
        if "@" not in unit.stem and unit.name != OF_A_FLEET:
            made[f"{unit.stem}@{unit.suffix}"] = template(text)
        for name, content in made.items():
            lines = []
            for line in content.splitlines(keepends=True):
                space = "%%20" if line.startswith("Documentation=") else r"\x20"
                lines.append(line.replace(f"{PREFIX}/", f"{target.prefix.replace(' ', space)}/"))
            _write(target.place(f"{target.unitdir}/{name}"), "".join(lines).encode())
            yield f"{target.unitdir}/{name}"


def _install_users(target: Target) -> Iterator[str]:
    for users in sorted((UNITS / "sysusers.d").glob("hybrid-*")):
        installed = f"{target.sysusersdir}/{users.name}"
        _put(users, target.place(installed))
        if not target.destdir:
            _run("systemd-sysusers", installed)
        yield installed


def _tell_what_next() -> None:
    running = _loaded("active", "activating", "reloading")
    if running:
        print(f"What runs goes on as it was installed before. When it suits:\n  systemctl restart {' '.join(running)}")
    else:
        print("Nothing of it runs. Look at /etc/hybrid-engine, then:\n  systemctl enable --now hybrid-engine.service")


# --- uninstall ---------------------------------------------------------------------------------------------


def uninstall(target: Target, *, purge: bool) -> None:
    """Stop everything and remove what `install` put there; with `purge`, configuration and data as well."""
    home = target.place(target.prefix)
    listed = _manifest(home)
    if home.is_symlink() or not listed.at:
        raise Refused(f"{home}: is not an installation of ours: there is no {MANIFEST}")
    if target.here:
        units = [Path(path).name for path in listed.elsewhere if path.endswith((".service", ".timer"))]
        # Of a template this disables every instance. A template itself cannot be stopped.
        _run("systemctl", "disable", "--quiet", *units)
        if loaded := _loaded():
            _run("systemctl", "stop", *loaded)
    for path in sorted(listed.elsewhere):
        _remove_file(target.place(path))
    _remove_files(home, listed.prefix)
    if target.here:
        _run("systemctl", "daemon-reload")
    kept = [place for path in _kept(target) if os.path.lexists(place := target.place(path))]
    if purge and kept:
        # Does not follow links, and leaves a disk alone that is mounted below.
        subprocess.run(["rm", "-rf", "--one-file-system", "--", *map(str, kept)], check=False)
        kept = [place for place in kept if os.path.lexists(place)]
    for place in [home] if home.exists() else []:
        print(f"left, since it holds what was not installed: {place}")
    for place in kept:
        print(f"left, with all data: {place}{'' if purge else ' (make uninstall PURGE=1 removes it)'}")


def _kept(target: Target) -> Iterator[Path]:
    """Yield where configuration and data are. What is called like an instance's data and has no configuration is not
    ours."""
    yield CONFIGURATION
    instances = sorted(path.parent.name for path in target.place(CONFIGURATION).glob("*/config.toml"))
    for path in DATA:
        yield path
        yield from (path.with_name(f"{path.name}-{name}") for name in instances)


def _remove_file(path: Path) -> None:
    try:
        if stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
        else:
            print(f"left, since it is not the file that was installed: {path}")
    except FileNotFoundError:
        return


def _remove_files(home: Path, names: frozenset[str]) -> None:
    """Remove these files, what Python compiled of them, and directories that are empty then."""
    for directory, subdirectories, files, fd in os.fwalk(home, topdown=False, follow_symlinks=False):
        relative = Path(directory).relative_to(home)
        for name in [*files, *subdirectories]:
            path = relative / name
            # __pycache__/wire.cpython-311.pyc is of wire.py.
            source = relative.parent / f"{name.partition('.')[0]}.py"
            compiled = relative.name == "__pycache__" and name.endswith(".pyc")
            if path.as_posix() in names or (compiled and source.as_posix() in names):
                os.unlink(name, dir_fd=fd)
            elif name in subdirectories and not stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode):
                _remove_empty(name, fd)
    _remove_empty(str(home), None)


def _remove_empty(name: str, directory: int | None) -> None:
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError:
        # It holds what is not ours.
        return


# --- both --------------------------------------------------------------------------------------------------


def _manifest(home: Path) -> Installed:
    try:
        found = json.loads((home / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return Installed()
    return Installed(found["at"], frozenset(found["prefix"]), frozenset(found["elsewhere"]))


def _files(home: Path) -> set[str]:
    """Return everything below that is not a directory; a link is one file, whatever it leads to."""
    found = set()
    for directory, subdirectories, names in os.walk(home):
        links = [name for name in subdirectories if Path(directory, name).is_symlink()]
        found |= {Path(directory, name).relative_to(home).as_posix() for name in [*names, *links]}
    return found


def _put(source: Path, place: Path) -> None:
    _write(place, source.read_bytes())


def _write(place: Path, content: bytes, mode: int = 0o644) -> None:
    """Atomically: systemd may read a unit at any moment."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.partial")
    partial.write_bytes(content)
    partial.chmod(stat.S_IMODE(mode))
    partial.replace(place)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def _loaded(*states: str) -> list[str]:
    """Return the units of ours that systemd has loaded, in one of these states if any is named."""
    argv = ["systemctl", "list-units", "--plain", "--no-legend", "--all", "hybrid-*"]
    argv += [f"--state={state}" for state in states]
    found = subprocess.run(argv, check=False, capture_output=True, text=True).stdout.splitlines()
    shipped = {unit.name.replace("@", "") for unit in UNITS.glob("hybrid-*")}
    # hybrid-engine@alpha.service is one of hybrid-engine.service.
    return sorted(name for line in found if re.sub(r"@.*(?=\.)", "", name := line.split()[0]) in shipped)


def main() -> int:
    """`installation.py install|uninstall`; what make(1) was told comes through the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("install", "uninstall"))
    what = parser.parse_args().what
    asked = os.environ.get
    target = Target(
        asked("DESTDIR", "").rstrip("/"),
        asked("PREFIX", PREFIX),
        asked("UNITDIR", "/usr/lib/systemd/system"),
        asked("SYSUSERSDIR", "/usr/lib/sysusers.d"),
    )
    try:
        if what == "install":
            install(target, asked("FROM", ""), [name for name in EXTRAS if asked(name.upper(), "") not in ("", "0")])
        else:
            uninstall(target, purge=asked("PURGE", "") not in ("", "0"))
    except (Refused, OSError) as error:
        print(f"make {what}: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"make {what}: {' '.join(map(str, error.cmd))} ended with {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
