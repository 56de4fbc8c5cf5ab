"""The installed engine that machines run: `make install` into a directory, as a packager would, once for
each state of the sources."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.base.errors import HarnessError
from harness.base.waiting import awaiting
from harness.evidence.shell import Shell

SOURCES = (
    "engine", "fleet", "harness", "distributions/hybrid-harness/pyproject.toml", "requirements/install.txt",
    "requirements/build.txt", "systemd", "config", "docs/operating.md", "docs/fleet.md", "docs/fleet-growth.md",
    "docs/live.md", "docs/metrics.md", "pyproject.toml", "Makefile",
)  # fmt: skip
"""What an installation is made from."""

PREFIX = "/opt/hybrid-engine"
"""Where a machine has what is staged."""

UNITS = Path("/usr/lib/systemd/system")
"""Where packages put unit files."""

SYSUSERS = Path("/usr/lib/sysusers.d")
"""Where packages say which users they need."""


class Stage:
    """A staged installation below `<checkout>/.cache/stage`."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.root = checkout / ".cache" / "stage"
        self.prefix = self.root / PREFIX.lstrip("/")
        self.etc = self.root / "etc/hybrid-engine"
        self._units = self.root / UNITS.relative_to("/")
        self.sysusers = self.root / SYSUSERS.relative_to("/")

    @property
    def is_possible(self) -> bool:
        """Whether the checkout is one of the engine's, of which an installation can be made."""
        return (self.checkout / "systemd" / "installation.py").is_file()

    def unit(self, name: str) -> Path:
        """Return an installed unit file."""
        return self._units / name

    def binds(self, *, units: bool = True) -> list[tuple[Path, str]]:
        """(directory or file of the stage, where a machine sees it), for everything but the configuration."""
        pairs = [(self.prefix, PREFIX)]
        if units:
            pairs += [(path, str(UNITS / path.name)) for path in sorted(self._units.iterdir())]
            pairs += [(path, str(SYSUSERS / path.name)) for path in sorted(self.sysusers.iterdir())]
        return pairs

    def build(self, shell: Shell) -> bool:
        """Install, unless this state of the sources is installed already. Returns whether it had to.

        Safe to call from several workers at once: one installs, the others wait. Raises HarnessError when
        the checkout cannot be written or the installation fails.
        """
        wanted = self.digest()
        try:
            (self.checkout / ".cache").mkdir(exist_ok=True)
            with awaiting("the installation of the engine: make install"), self._lock():
                stamp = self.root.parent / "stage.digest"
                if stamp.is_file() and stamp.read_text() == wanted and self.prefix.is_dir():
                    return False
                stamp.unlink(missing_ok=True)
                shutil.rmtree(self.etc, ignore_errors=True)
                shutil.rmtree(self._units, ignore_errors=True)
                shutil.rmtree(self.sysusers, ignore_errors=True)
                shell.run(
                    "make", "--no-print-directory", "install", f"DESTDIR={self.root}",
                    cwd=self.checkout, timeout_secs=300,
                ).expect(0)  # fmt: skip
                stamp.write_text(wanted)
                return True
        except OSError as error:
            raise HarnessError(
                f"cannot stage the engine in {self.root}: {error.strerror}; the checkout must be writable"
            ) from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.checkout / ".cache" / "stage.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def digest(self) -> str:
        """Return what an installation is made from, in few characters."""
        digest = hashlib.sha256()
        for path in sorted(self._files()):
            digest.update(f"{path.relative_to(self.checkout)}\0{path.stat().st_mode}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _files(self) -> Iterator[Path]:
        for name in SOURCES:
            top = self.checkout / name
            if top.is_file():
                yield top
            for directory, subdirectories, files in os.walk(top):
                subdirectories[:] = [entry for entry in subdirectories if entry != "__pycache__"]
                yield from (Path(directory, file) for file in files)
