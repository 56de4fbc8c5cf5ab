"""The file that keeps what earlier runs have shown (contract V14)."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from harness.evidence import history


def remembered(reports: Path) -> list[history.RunEntry]:
    """Return the earlier runs, the oldest first; none where nothing was kept or what was cannot be read."""
    try:
        return history.parse((reports / history.FILE_NAME).read_text("utf-8", "replace"))
    except OSError:
        return []


def remember(reports: Path, one: history.RunEntry) -> None:
    """Append a run to the history, and forget the oldest ones when there are twice as many as are kept. Raises
    OSError."""
    path = reports / history.FILE_NAME
    with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
        # Another run of this checkout may end at the same moment.
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.read().splitlines(keepends=True)
        if len(lines) >= 2 * history.KEPT:
            file.truncate(0)
            file.writelines(lines[1 - history.KEPT :])
        elif lines and not lines[-1].endswith(b"\n"):
            file.write(b"\n")
        file.write(history.line(one).encode("utf-8", "replace"))
