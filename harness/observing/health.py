"""`hybrid-healthcheck`: is the engine well, right now? One line a check, PASS or FAIL last (contract M5, G1, G2).

All checks run at once, each with its own deadline, and whoever has not answered when time is up has failed: a
healthcheck that hangs is worse than one that fails. What cannot be learned is a failure too. It changes nothing. What
is well and what is not stands in harness/observing/judgement.py.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base import arguments, jsontext, terminal, trusted
from harness.base.clock import Clock, OsClock, poll, process_age_secs
from harness.base.errors import HarnessError
from harness.base.journal import Entry
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.observing import instances, judgement, ledger_view, observe
from harness.observing.instances import Instance
from harness.observing.judgement import PROGRESS_SECS, Finding
from harness.observing.stall import Progress

UNIT = Instance().unit
CONFIG = Instance().config

ALL_SECS = 4.0
"""How old the process is when every check must have answered: M5 allows 5 s, and it has to end as well."""

LEAST_SECS = 0.5
"""What the checks have however long the process took to start."""

COMMAND_SECS = 3.0

CONFIG_BYTES_MAX = 256 * 1024
"""A configuration is far smaller, and TOML can be made to take long."""

Check = Callable[[], tuple[bool, str]]


@dataclass(frozen=True)
class HealthTarget:
    """The engine to be examined."""

    unit: str
    database: Path
    """Relative to the unit's working directory, or absolute."""
    heartbeat_interval_secs: float
    sample_every: int
    """One tick in so many is stored."""
    flush_secs: float
    """So long it may wait for others before."""
    dashboard_url: str | None
    """Base URL; None when there is no dashboard here."""
    pressure_dir: Path = observe.PRESSURE_DIR


def checks(target: HealthTarget, shell: Shell, clock: Clock) -> dict[str, Check]:
    """Return every check for `target`, by name, in the order of their lines."""
    found: dict[str, Check] = {
        "unit": lambda: check_unit(shell, target.unit),
        "database": lambda: check_database(
            placed(target.database, shell, target.unit), clock, lambda: limit_secs(shell, target, clock)
        ),
        "heartbeat": lambda: check_heartbeat(shell, target, clock),
    }
    if target.dashboard_url is not None:
        url = target.dashboard_url
        found["dashboard"] = lambda: check_dashboard(url)
    found["pressure"] = lambda: check_pressure(target.pressure_dir)
    return found


def examine(wanted: Mapping[str, Check], clock: Clock, deadline_secs: float = ALL_SECS) -> list[Finding]:
    """Run the checks side by side and return what they found, in their order, after `deadline_secs` at most."""
    answers: dict[str, Finding] = {}
    changed = threading.Condition()

    def run(name: str, check: Check) -> None:
        try:
            finding = Finding(name, *check())
        except Exception as error:
            # Whatever keeps a check from answering, the answer is no.
            finding = Finding(name, False, f"{error or type(error).__name__}".splitlines()[0])
        with changed:
            answers[name] = finding
            changed.notify_all()

    end = clock.monotonic() + deadline_secs
    for name, check in wanted.items():
        # A daemon, so that a check that never ends does not keep the process from ending.
        threading.Thread(target=run, args=(name, check), name=f"check-{name}", daemon=True).start()
    with changed:
        changed.wait_for(lambda: len(answers) == len(wanted), max(0.0, end - clock.monotonic()))
        return judgement.whole(
            [answers.get(name) or Finding(name, False, f"no answer within {deadline_secs:.2g} s") for name in wanted]
        )


def check_unit(shell: Shell, unit_name: str) -> tuple[bool, str]:
    """Check that systemd calls the unit active."""
    return _answer(judgement.unit(observe.show(shell, unit_name, COMMAND_SECS)))


def check_database(
    path: Path, clock: Clock, limit_secs: Callable[[], float] = lambda: PROGRESS_SECS
) -> tuple[bool, str]:
    """Check that the database can be read, and that its newest tick changes. limit_secs: in how many seconds it has to;
    of one that has more time than a healthcheck it counts when it was last written."""
    limit = limit_secs()
    started, first = clock.monotonic(), ledger_view.read_progress(path)
    if limit > PROGRESS_SECS:
        return _answer(judgement.progress(_unwritten_secs(path, clock), first.tick_id_max, limit))

    def grown() -> Progress | None:
        second = ledger_view.read_progress(path)
        return second if second.tick_id_max != first.tick_id_max else None

    second = poll(grown, clock, PROGRESS_SECS)
    if second is None:
        return _answer(judgement.progress(PROGRESS_SECS, first.tick_id_max))
    return True, f"tick {first.tick_id_max} -> {second.tick_id_max} in {clock.monotonic() - started:.1f} s"


def check_heartbeat(shell: Shell, target: HealthTarget, clock: Clock) -> tuple[bool, str]:
    """Check that the engine's present run has logged a heartbeat lately, and that its books balance."""
    beats = _heartbeats(shell, target, clock)
    if beats is None:
        return False, f"{target.unit} does not run"
    entry = next(beats, None)
    age_secs = None if entry is None else clock.wall() - entry.realtime_us / 1e6
    found = [judgement.heartbeat(age_secs, target.heartbeat_interval_secs)]
    found += [] if entry is None else judgement.books(entry.fields)
    return all(one.ok for one in found), "; ".join(one.detail for one in found)


def _unwritten_secs(path: Path, clock: Clock) -> float:
    """For how long nothing was written to a database: a commit goes to its -wal."""
    wal = path.with_name(f"{path.name}-wal")
    return round(clock.wall() - max(one.stat().st_mtime for one in (path, wal) if one.exists()), 1)


def limit_secs(shell: Shell, target: HealthTarget, clock: Clock) -> float:
    """Return how long the engine's database may take to show a new tick, as its configuration and heartbeats tell."""
    if target.sample_every <= 1:
        return judgement.limit_secs(0.0, target.flush_secs)
    newest = list(itertools.islice(_heartbeats(shell, target, clock) or (), 2))
    beats = [(entry.realtime_us / 1e6, entry.fields) for entry in reversed(newest)]
    row_secs = judgement.row_secs(beats, target.sample_every, target.heartbeat_interval_secs)
    return judgement.limit_secs(row_secs, target.flush_secs)


def _heartbeats(shell: Shell, target: HealthTarget, clock: Clock) -> Iterator[Entry] | None:
    """Those of the last intervals, the last first; None when the unit does not run."""
    limit = judgement.HEARTBEAT_INTERVALS_MAX * target.heartbeat_interval_secs
    invocation = observe.show(shell, target.unit, COMMAND_SECS).invocation_id
    if not invocation:
        return None
    entries = observe.read_journal(
        shell, f"--since=@{clock.wall() - limit:.6f}", f"_SYSTEMD_INVOCATION_ID={invocation}", timeout_secs=COMMAND_SECS
    )
    return observe.heartbeats(entries, invocation)


def check_dashboard(url: str) -> tuple[bool, str]:
    """Check that the dashboard answers `/healthz` with 200."""
    # Here, because an HTTP library takes 25 ms, and few configurations have a dashboard.
    import urllib.error
    import urllib.request

    healthz = f"{url.rstrip('/')}/healthz"
    # A proxy that the environment names knows nothing of this computer's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(healthz, timeout=COMMAND_SECS) as response:
            return response.status == 200, f"{healthz} answers {response.status}"
    except urllib.error.HTTPError as error:
        with error:
            return False, f"{healthz} answers {error.code}{_problems(error.read(10_000))}"
    except OSError as error:
        return False, f"{healthz}: {getattr(error, 'reason', error)}"


def check_pressure(directory: Path) -> tuple[bool, str]:
    """Check that PSI is known and the limits of K1 are not exceeded for long."""
    return _answer(judgement.pressure(observe.read_pressure(directory)))


def _answer(finding: Finding) -> tuple[bool, str]:
    return finding.ok, finding.detail


def _problems(healthz: bytes) -> str:
    """Return what the dashboard finds wrong, as far as it says so."""
    try:
        said = jsontext.parse(healthz)["problems"]
        return f": {'; '.join(map(jsontext.text, said))}"
    except (ValueError, TypeError, KeyError):
        return ""


def report(findings: Sequence[Finding], *, colour: bool) -> str:
    """Return one line a finding, and the whole's PASS or FAIL as the last line."""

    def mark(ok: bool) -> str:
        word = "PASS" if ok else "FAIL"
        return f"\x1b[{32 if ok else 31}m{word}\x1b[0m" if colour else word

    lines = [f"{mark(finding.ok)} {finding.name:<10} {finding.detail}" for finding in findings]
    return "\n".join([*lines, mark(all(finding.ok for finding in findings))])


# --- where the engine is -----------------------------------------------------------------------------------


def load_tables(path: Path) -> dict[str, Any]:
    """Return a configuration's tables. HarnessError, which names the file, for one that cannot be read or is no
    TOML."""
    try:
        return tomllib.loads(trusted.read_named(path, CONFIG_BYTES_MAX).decode("utf-8"))
    except OSError as error:
        raise HarnessError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise HarnessError(f"{path}: {error}") from error
    except RecursionError:
        raise HarnessError(f"{path}: nested too deeply") from None


def target_of(
    tables: Mapping[str, Any],
    *,
    unit: str,
    database: Path,
    dashboard_url: str | None = None,
    pressure_dir: Path = observe.PRESSURE_DIR,
) -> HealthTarget:
    """Return the engine to be examined, and what its config says of its pace; what is no number is the default."""
    engine, persist = _table(tables, "engine"), _table(tables, "persist")
    return HealthTarget(
        unit=unit,
        database=database,
        heartbeat_interval_secs=float(jsontext.number(engine.get("heartbeat_interval_secs")) or 10),
        sample_every=jsontext.whole(engine.get("sample_every")) or 1,
        flush_secs=float(jsontext.number(persist.get("flush_interval_ms")) or 1000) / 1000,
        dashboard_url=dashboard_url,
        pressure_dir=pressure_dir,
    )


def database_of(tables: Mapping[str, Any]) -> Path:
    """Return the config's `[app] db_path`, absolute or relative to the unit's working directory."""
    return Path(str(_table(tables, "app").get("db_path", "data/bot.db")))


def placed(path: Path, shell: Shell, unit_name: str) -> Path:
    """Return a path of the config as the unit's process understands it."""
    return path if path.is_absolute() else observe.working_directory(shell, unit_name, COMMAND_SECS) / path


def dashboard_of(tables: Mapping[str, Any]) -> str:
    """Return the base URL under which the config's `[dashboard]` listens, seen from this computer."""
    table = _table(tables, "dashboard")
    host = str(table.get("host", "127.0.0.1"))
    # A server that listens everywhere is asked at home.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{table.get('port', 8501)}"


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name, {})
    return table if isinstance(table, Mapping) else {}


# --- command line ------------------------------------------------------------------------------------------

DESCRIPTION = """\
Check whether the engine is well: one line for each check, PASS or FAIL last. Takes less than 5 s, changes nothing."""
EPILOG = """\
Exit status: 0 when every check passed, 1 otherwise.

examples:
  hybrid-healthcheck
  hybrid-healthcheck --without-dashboard
  hybrid-healthcheck --json | jq -r '.checks[] | select(.ok | not) | .detail'
  hybrid-healthcheck --instance alpha                  hybrid-engine@alpha.service
  hybrid-healthcheck --dashboard http://127.0.0.1:9000 --db /srv/engine/bot.db
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The healthcheck's options."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    instances.add_argument(parser, unit=lambda one: one.unit, config=lambda one: one.config)
    parser.add_argument("--unit", default=UNIT, help="the engine's unit (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the engine's config (default: %(default)s)")
    parser.add_argument("--db", type=Path, help="its database (default: [app] db_path of the config)")
    dashboard = parser.add_mutually_exclusive_group()
    dashboard.add_argument("--dashboard", metavar="URL", help="its dashboard (default: [dashboard] of the config)")
    dashboard.add_argument("--without-dashboard", action="store_true", help="this computer has no dashboard")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")
    parser.add_argument(
        "--pressure-dir", type=Path, default=observe.PRESSURE_DIR, help="directory of PSI files (default: %(default)s)"
    )


def told(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what `--json` says of one engine, here and in hybrid-ctl."""
    return {"ok": all(finding.ok for finding in findings), "checks": [vars(finding) for finding in findings]}


def run(options: argparse.Namespace) -> int:
    """Examine, print, and return the exit status."""
    clock = OsClock()
    # What only looks leaves no record of its own: its lines are the record.
    shell = Shell(Unrecorded())
    try:
        wanted = checks(_target(options), shell, clock)
        findings = examine(wanted, clock, max(LEAST_SECS, ALL_SECS - process_age_secs()))
    except HarnessError as error:
        findings = [Finding("config", False, str(error).splitlines()[0])]
    if options.json:
        print(jsontext.write(told(findings)), flush=True)
    else:
        print(report(findings, colour=terminal.coloured(sys.stdout)), flush=True)
    return int(not all(finding.ok for finding in findings))


def _target(options: argparse.Namespace) -> HealthTarget:
    tables = load_tables(options.config)
    return target_of(
        tables,
        unit=options.unit,
        database=options.db.absolute() if options.db else database_of(tables),
        dashboard_url=None if options.without_dashboard else options.dashboard or dashboard_of(tables),
        pressure_dir=options.pressure_dir,
    )


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """`hybrid-healthcheck`."""
    parser = arguments.CommandParser(prog="hybrid-healthcheck")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
