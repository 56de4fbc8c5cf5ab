"""`python -m bench`: runs the subjects, prints the figures, writes reports/bench.json and reports/bench.svg."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from bench import report, targets
from harness.base import arguments, terminal

CLEAR = "\r\x1b[K"
"""Back to the beginning of the terminal's line, and empty it (ECMA-48)."""

_EXAMPLES = """examples:
  python -m bench                              all targets: twenty minutes to an hour
  python -m bench --only T1,T3 --rounds 3
  python -m bench --full --only T6,T10         100 M rows, a whole day of ticks: an hour or two, 10 GB of disk
  python -m bench --only T2 --peers ~/peers/bin/python

A figure never fails the run: it ends with 0, or with 2 for a mistake in the command line."""


def _parser() -> argparse.ArgumentParser:
    parser = arguments.CommandParser(
        prog="python -m bench",
        description="Measure the engine against the raw floor, a naive pipeline and other people's engines, as ratios.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of each target (default: 5)")
    parser.add_argument("--only", metavar="T1,...", help=f"some of {','.join(targets.TARGETS)} (default: all)")
    parser.add_argument("--ticks", type=int, default=200_000, help="ticks of a saturated run (default: 200000)")
    parser.add_argument(
        "--full", action="store_true", help="T5: 5 M ticks, T6: 100 M rows, T10: a day (default: 1 M, 10 M, 1 M)"
    )
    parser.add_argument("--json", type=Path, default=Path("reports/bench.json"), help="default: reports/bench.json")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="databases; a real disk (default: /var/tmp)")
    parser.add_argument(
        "--peers", default=sys.executable, metavar="PYTHON", help="has cryptofeed, nautilus_trader (T2)"
    )
    return parser


class Progress:
    """Rounds as lines, and on a terminal below them a line that says what is going on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._started = time.monotonic()
        self._doing_at = 0.0
        self._round = ""

    def tell(self, text: str) -> None:
        """One line that stays."""
        print(f"{CLEAR if self._live else ''}{text}", file=self._stream, flush=True)

    def doing(self, text: str) -> None:
        """Replaces the line below, ten times a second at most. A text that begins with a target's name stays in front
        of those that follow."""
        now = time.monotonic()
        if text[:1] == "T":
            self._round, text = text, ""
        elif now - self._doing_at < 0.1:
            return
        if self._live:
            self._doing_at = now
            clock = f"{int(now - self._started) // 60}:{int(now - self._started) % 60:02}"
            print(f"{CLEAR}{clock} {self._round} {text}", end="", file=self._stream, flush=True)


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    names = list(targets.TARGETS) if arguments.only is None else arguments.only.upper().split(",")
    for name in names:
        if name not in targets.TARGETS:
            parser.error(f"--only {name!r}: allowed are {', '.join(targets.TARGETS)}")
    if arguments.rounds < 1 or arguments.ticks < 1:
        parser.error("--rounds and --ticks: allowed is 1 or more")
    progress = Progress(sys.stderr)
    plan = targets.Plan(
        rounds=arguments.rounds,
        ticks=arguments.ticks,
        long_ticks=5_000_000 if arguments.full else 1_000_000,
        table_rows=100_000_000 if arguments.full else 10_000_000,
        day_ticks=targets.DAY_TICKS if arguments.full else 1_000_000,
        directory=arguments.dir,
        peers=arguments.peers,
        tell=progress.tell,
        doing=progress.doing,
    )
    figures: list[report.Figure] = []
    interrupted = False
    try:
        # T4 and T5 share a run, which is not to be done twice.
        for measure in dict.fromkeys(measure for name in names for measure in targets.TARGETS[name]):
            figures += measure(plan)
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted; these figures are complete:", file=sys.stderr)
    progress.tell("")
    if figures:
        print(report.HEADING)
        for figure in figures:
            print(report.line(figure))
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report.as_json(figures, targets.facts(plan)), indent=2) + "\n")
        arguments.json.with_suffix(".svg").write_text(report.svg(figures))
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
