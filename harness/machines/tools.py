"""Where other people's servers are: what Debian installs for administrators is not on everybody's PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.base.errors import Unavailable

REMEDY = "make fleet-tools"


def find(name: str) -> str | None:
    """Return the path of a command; None where there is none. PostgreSQL's have a directory for each version."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    places = (os.environ.get("PATH", os.defpath), "/usr/sbin", *map(str, versions))
    return shutil.which(name, path=os.pathsep.join(places))


def need(name: str) -> str:
    """Return the path of a command. Raises Unavailable."""
    found = find(name)
    if found is None:
        raise Unavailable(f"there is no {name}", REMEDY)
    return found
