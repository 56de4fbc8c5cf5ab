"""`python -m harness publish`: the last run's verdicts and buglog to where the installed dashboard shows them (O4).

Buglogs come first and the verdicts last, each at once, so that whoever looks meanwhile sees one run's verdicts or the
other's, and never verdicts whose buglog is not there yet. Buglogs of earlier runs go at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.base import arguments, files, terminal
from harness.base.errors import HarnessError
from harness.evidence import results
from harness.observing import instances
from harness.observing.instances import Instance

EVIDENCE = Instance().evidence
"""A directory of root's; what the dashboard's unit names as --reports."""

DESCRIPTION = """\
Copy verdicts.json and the buglog of that run to the directory that the installed dashboard reads, readable by all."""
EPILOG = """\
examples:
  python -m harness buglog && python -m harness publish
  hybrid-publish --reports /srv/proofs/reports
  hybrid-publish --to /srv/evidence                    a dashboard that was started with --reports /srv/evidence
"""


def publish(reports: Path, to: Path) -> list[Path]:
    """Publish what is in `reports`; returns the files that are there now. Raises HarnessError, which names the file."""
    summary = _read(reports / "verdicts.json")
    try:
        run_id = results.parse(summary).run_id
    except ValueError as error:
        raise HarnessError(f"{reports / results.FILE}: is not the report of a proof run: {error}") from error
    buglogs = sorted(path for path in (reports / "buglog").glob("BUG_*") if path.stem.endswith(run_id))
    if not buglogs:
        raise HarnessError(f"{reports / 'buglog'}: has no buglog of run {run_id}; run `make buglog` first")
    # For everybody to read, whatever this shell prefers.
    mask = os.umask(0o022)
    try:
        published = [to / "buglog" / path.name for path in buglogs]
        for source, place in zip(buglogs, published, strict=True):
            _write(place, _read(source))
        _write(to / "verdicts.json", summary)
        for old in (to / "buglog").glob("BUG_*"):
            if old not in published:
                old.unlink()
    except OSError as error:
        raise HarnessError(f"{error.filename or to}: cannot be written: {error.strerror}") from error
    finally:
        os.umask(mask)
    return [*published, to / "verdicts.json"]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read: {error.strerror}; run `make proofs` first") from error


def _write(path: Path, content: bytes) -> None:
    with files.found(path, make=True) as place:
        place.replace(content)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `publish`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), metavar="DIR", help="where runs report (default: reports)"
    )
    instances.add_argument(parser, to=lambda one: one.evidence)
    parser.add_argument("--to", type=Path, default=EVIDENCE, metavar="DIR", help="default: %(default)s")


def run(options: argparse.Namespace) -> int:
    """Publish, and print what is where."""
    for path in publish(options.reports, options.to):
        print(path)
    return 0


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """`hybrid-publish`."""
    parser = arguments.CommandParser(prog="hybrid-publish")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except HarnessError as error:
        print(f"hybrid-publish: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
