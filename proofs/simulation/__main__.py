"""`python -m proofs.simulation`: a fleet on this computer, disturbed, and what came of it (`make fleet-sim`)."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from harness.base import arguments, terminal
from harness.base.errors import Unavailable
from proofs.fixtures.fleet_parts import ROOT
from proofs.simulation import course, page
from proofs.simulation.course import Asked
from proofs.simulation.fleet import Size
from proofs.simulation.hosts import own_namespaces

PLACE = "hybrid-fleet-sim"
"""Below it each simulation has a directory, which it holds locked."""

TICKS_A_CORE = 1_500
"""Ticks a second, with all that comes of them in all parts, that a core carries and has something left."""

RATE = 1000
"""Ticks a second of an engine, where the computer can."""

END_SECS = 30.0

_EXAMPLES = """examples:
  python -m proofs.simulation                         20 engines, a minute undisturbed, two kills of each kind, a cut
  python -m proofs.simulation --kills 20 --cuts 4     the night's
  python -m proofs.simulation --engines 4 --rate 1000 --seconds 20 --kills 0 --cuts 0
  python -m proofs.simulation --seed 7                the course of an earlier run once more

exit status: 0 every row of every ledger is in PostgreSQL once, 1 it is not, or something did not come back,
3 this computer cannot show it (root, nats-server, PostgreSQL), 130 interrupted"""


def _parser() -> argparse.ArgumentParser:
    parser = arguments.CommandParser(
        prog="python -m proofs.simulation",
        description="Run a fleet in network namespaces: engines with relays on hosts, a cluster of three nats-servers,"
        " PostgreSQL, two collectors. Kill each, cut hosts off, and compare every row.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--engines", type=int, default=20, help="default: 20")
    add("--hosts", type=int, default=4, help="3 or more (default: 4)")
    add("--servers", type=int, default=3, choices=(1, 3), help="of the stream (default: 3)")
    add("--rate", type=int, help=f"ticks/s of each (default: {RATE}, or what {TICKS_A_CORE} a core leave for each)")
    add("--seconds", type=float, default=60.0, help="of undisturbed flow, which is measured (default: 60)")
    add("--kills", type=int, default=2, help="of each kind (default: 2)")
    add("--cuts", type=int, default=1, help="of a host (default: 1)")
    add("--cut-secs", type=float, default=60.0, help="how long each lasts (default: 60)")
    add("--seed", type=int, help="of the course (default: drawn, and printed)")
    add("--reports", type=Path, default=Path("reports"), help="gets fleet-sim.json and .md (default: reports)")
    add("--inside", type=Path, help=argparse.SUPPRESS)
    return parser


ALLOWED = {
    "engines": (1, 200), "hosts": (3, 100), "rate": (1, 1000), "seconds": (1, 86_400), "kills": (0, 10_000),
    "cuts": (0, 1000), "cut_secs": (0.1, 3600),
}  # fmt: skip


def default_rate(engines: int, cores: int) -> int:
    """Ticks a second of each engine that a computer can carry."""
    return max(1, min(RATE, TICKS_A_CORE * cores // engines))


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    for name, (low, high) in ALLOWED.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name.replace('_', '-')} {value}: allowed is {low} to {high}")
    if options.rate is None:
        options.rate = default_rate(options.engines, os.cpu_count() or 1)
    if options.inside is not None:
        return _inside(options)
    if options.seed is None:
        options.seed = random.randrange(2**32)
    try:
        enter = own_namespaces()
        with _directory() as (directory, lock):
            options.inside, options.reports = directory, options.reports.resolve()
            given = [f"--{name.replace('_', '-')}={value}" for name, value in vars(options).items()]
            return _outside([*enter, sys.executable, "-m", "proofs.simulation", *given], lock)
    except Unavailable as error:
        print(f"fleet-sim: {error}", file=sys.stderr)
        return 3


@contextmanager
def _directory() -> Iterator[tuple[Path, int]]:
    """A directory of this simulation's own, and what holds it locked. What killed ones have left is removed first."""
    top = Path(tempfile.gettempdir()) / PLACE
    top.mkdir(mode=0o755, exist_ok=True)
    about = top.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
        raise Unavailable(f"{top} is not ours alone", f"remove it, or set TMPDIR to another place than {top.parent}")
    with closing(_Held(top)) as beginning:
        for left in top.iterdir():
            with closing(_Held(left)) as held:
                if held.take(wait=False):
                    shutil.rmtree(left)
        beginning.take(wait=True)
        place = Path(tempfile.mkdtemp(dir=top, prefix=""))
        place.chmod(0o755)
        ours = _Held(place)
        ours.take(wait=True)
    try:
        yield place, ours.fd
    finally:
        shutil.rmtree(place, ignore_errors=True)
        ours.close()


class _Held:
    """A directory that can be locked; the lock goes with the last process that has it open."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def take(self, *, wait: bool) -> bool:
        """Lock it. Whether nobody else has."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self.fd)


def _outside(argv: Sequence[str], lock: int) -> int:
    """Run it in namespaces of its own, and end it when we are to end. That we are gone it sees by its input."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True, pass_fds=[lock], cwd=ROOT)
    assert process.stdin is not None
    try:
        return process.wait()
    except KeyboardInterrupt:
        print("fleet-sim: interrupted; ending everything", file=sys.stderr)
        return 130
    finally:
        process.stdin.close()
        try:
            process.wait(END_SECS)
        except subprocess.TimeoutExpired:
            # All that is in the namespace of processes ends with its first one.
            process.kill()
            process.wait()


def _inside(options: argparse.Namespace) -> int:
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def watch() -> None:
        sys.stdin.read()
        signal.pthread_kill(main_thread, signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    size = Size(options.engines, options.hosts, max(1, round(1000 / options.rate)), options.servers)
    asked = Asked(size, options.seconds, options.kills, options.cuts, options.cut_secs, options.seed)
    try:
        found = course.run(options.inside, asked, lambda text: print(text, flush=True))
    except AssertionError as error:
        print(f"fleet-sim: seed {options.seed}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    options.reports.mkdir(parents=True, exist_ok=True)
    (options.reports / "fleet-sim.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    text = page.markdown(found)
    (options.reports / "fleet-sim.md").write_text(text)
    print(f"\n{text}\n{options.reports}/fleet-sim.json, fleet-sim.md")
    return 0 if found["outcome"]["exact"] else 1


if __name__ == "__main__":
    sys.exit(main())
