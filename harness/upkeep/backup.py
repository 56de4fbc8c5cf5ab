"""`hybrid-backup`: a copy of the engine's database as it is at one moment, made while the engine writes (contract O4).

The copy is read in one transaction and waits for nobody. It is checked before it gets its name, so that whatever has
the name is a whole database, in one file.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from harness.base import arguments, files, terminal
from harness.base.errors import HarnessError
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.observing import health, instances
from harness.soak.rewrite import ConfigFile

DESCRIPTION = "Copy the engine's database to a new file, whether the engine runs or not."
EPILOG = """\
Exit status: 0 when the copy is complete and has been checked; 1 otherwise, and then no file is left.

examples:
  hybrid-backup /var/backups/bot.db
  hybrid-backup /var/backups/bot-$(date +%F).db
  hybrid-backup --instance alpha /var/backups/alpha.db
  hybrid-backup --db /srv/engine/bot.db copy.db
"""


def backup(database: Path, target: Path) -> int:
    """Copy a database to a file that does not exist yet. Returns its size in bytes.

    Raises HarnessError, which names the file, and leaves none behind then.
    """
    if not database.is_file():
        raise HarnessError(f"{database}: there is no such database")
    try:
        with files.found(target) as place:
            if place.status() is not None:
                raise HarnessError(f"{place.path}: is there already; name another file")
            partial = files.Place(place.path.with_name(f".{place.path.name}.partial"), place.directory, place.ours)
            with suppress(FileNotFoundError):
                partial.unlink()
            try:
                os.close(partial.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
                _copy(database, partial.path)
                fd = partial.open(os.O_RDONLY)
                try:
                    os.fsync(fd)
                    size = os.fstat(fd).st_size
                finally:
                    os.close(fd)
                partial.rename(place.path.name)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise
            return size
    except OSError as error:
        raise HarnessError(f"{target}: cannot be written: {error.strerror}") from error
    except sqlite3.Error as error:
        raise HarnessError(f"{database}: cannot be copied: {error}") from error


def _copy(database: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        source.backup(copy)
        # One file, without the two of a WAL; the engine sets the mode again when it opens it.
        copy.execute("PRAGMA journal_mode = DELETE")
        (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise HarnessError(f"{database}: is damaged: {found}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backup's options."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("target", type=Path, metavar="FILE", help="the copy; a file that does not exist yet")
    instances.add_argument(parser, unit=lambda one: one.unit, config=lambda one: one.config)
    parser.add_argument("--unit", default=health.UNIT, help="the engine's unit (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=health.CONFIG, help="the engine's config (default: %(default)s)")
    parser.add_argument("--db", type=Path, help="its database (default: [app] db_path of the config)")


def run(options: argparse.Namespace) -> int:
    """Copy, say what was copied, and return the exit status."""
    database = options.db
    if database is None:
        configured = health.database_of(ConfigFile(options.config).load())
        database = health.placed(configured, Shell(Unrecorded()), options.unit)
    size = backup(database.absolute(), options.target)
    print(f"{database.absolute()} -> {options.target} ({size} bytes, checked)")
    return 0


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """`hybrid-backup`."""
    parser = arguments.CommandParser(prog="hybrid-backup")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except HarnessError as error:
        print(f"hybrid-backup: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
