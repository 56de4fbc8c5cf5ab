"""What the computer could do: the floor in C (bench/limit.c), built where a compiler and SQLite's header are there.

    python -m bench.limit BINARY URL DATABASE EVERY ROWS

makes the database and becomes the binary.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from bench import subject
from engine.storage import ledger, opening


def build(directory: Path) -> Path | None:
    """The binary, made in `directory`; None without a compiler or SQLite's header."""
    binary = directory / "limit"
    source = Path(__file__).with_name("limit.c")
    try:
        built = subprocess.run(
            ["cc", "-O2", "-o", str(binary), str(source), "-lsqlite3"], capture_output=True, timeout=120
        )
    except FileNotFoundError:
        return None
    return binary if built.returncode == 0 else None


def argv(binary: Path, orders_every: int, rows: int) -> subject.Argv:
    """As bench.targets.floor_argv, for the binary."""
    words = [str(orders_every), str(rows)]
    return lambda url, directory: [
        sys.executable, "-m", "bench.limit", str(binary), url, str(directory / "ticks.db"), *words,
    ]  # fmt: skip


def main() -> None:
    """Makes the database and becomes the binary. See the module's docstring."""
    binary, url, path, every, rows = sys.argv[1:]
    opening.open_ledger(path, busy_timeout_ms=5000).close()
    pages = ledger.WAL_BYTES // opening.PAGE_BYTES
    os.execv(binary, [binary, str(urlsplit(url).port), path, every, rows, str(pages)])


if __name__ == "__main__":
    main()
