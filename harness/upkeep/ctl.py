"""`hybrid-ctl`: every engine of this computer at once, or those that are named (contract O10).

It does by name what systemctl, the engine's --check-config and hybrid-healthcheck do for one, side by side, and its
exit status is the worst of theirs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.base import arguments, terminal, unit
from harness.base.clock import OsClock
from harness.base.errors import HarnessError
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.observing import health, instances, observe
from harness.observing.instances import Instance
from harness.observing.judgement import Finding
from harness.soak.exit_actions import EngineExitCode

AT_ONCE_MAX = 16
"""How many engines are asked at the same time."""

CHECK_SECS = 30.0

DESCRIPTION = """\
Control every engine of this computer, or the named ones. An engine has the name of its directory in /etc/hybrid-engine
and runs as hybrid-engine@NAME.service; "default" is the one without a name, hybrid-engine.service."""
EPILOG = """\
Exit status: the worst of all. 0 well, 1 not, 2 wrong usage, 12 a configuration that the engine refuses.

examples:
  hybrid-ctl list
  hybrid-ctl check-config                 every configuration, and whether two engines want the same file or port
  hybrid-ctl start alpha beta
  hybrid-ctl restart --all
  hybrid-ctl health --json
  hybrid-ctl targets > /etc/prometheus/hybrid-dashboards.json
"""

ACTIONS = {"start": "start", "stop": "stop", "restart": "stop, then start"}


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """`hybrid-ctl`."""
    parser = arguments.CommandParser(prog="hybrid-ctl")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except HarnessError as error:
        print(f"hybrid-ctl: {error}", file=sys.stderr)
        return 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its commands and their options."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")
    for name, what in (
        ("list", "list the engines, and what systemd says of them"),
        ("health", "hybrid-healthcheck of each"),
        ("targets", "where the dashboards have their /metrics, as Prometheus' file_sd_configs reads it"),
        ("check-config", "whether each engine takes its configuration, and none wants what another has"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("names", nargs="*", metavar="NAME", help="default: all")
        if name != "targets":
            command.add_argument("--json", action="store_true", help="as one JSON object")
    for name, what in ACTIONS.items():
        command = commands.add_parser(name, help=f"{what} engines", description=f"{what} engines")
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument("names", nargs="*", default=[], metavar="NAME", help="the engines")
        which.add_argument("--all", action="store_true", help="every engine that has a configuration")


def run(options: argparse.Namespace) -> int:
    """Do what was asked for, say what came of it, and return the exit status."""
    chosen = _chosen(options.names)
    shell = Shell(Unrecorded())
    if options.action in ACTIONS:
        return _act(shell, options.action, chosen)
    if options.action == "list":
        return _list(shell, chosen, as_json=options.json)
    if options.action == "targets":
        return _targets(chosen)
    if options.action == "health":
        return _health(shell, chosen, as_json=options.json)
    return _check(shell, chosen, as_json=options.json)


def _chosen(names: Sequence[str]) -> list[Instance]:
    try:
        there = instances.configured()
    except OSError as error:
        raise HarnessError(f"{instances.CONFIGURATION}: {error.strerror}") from error
    if not names:
        if not there:
            raise HarnessError(f"no engine is configured: there is no {instances.CONFIGURATION}/NAME/config.toml")
        return there
    try:
        chosen = list(dict.fromkeys(instances.named(name) for name in names))
    except ValueError as error:
        raise HarnessError(str(error)) from error
    for one in chosen:
        if one not in there:
            known = ", ".join(other.shown for other in there) or "none"
            raise HarnessError(f"{one.shown}: there is no {one.config}; configured: {known}")
    return chosen


def _each(chosen: Sequence[Instance], ask: Callable[[Instance], Any]) -> list[Any]:
    with ThreadPoolExecutor(min(len(chosen), AT_ONCE_MAX)) as asking:
        return list(asking.map(ask, chosen))


# --- commands ----------------------------------------------------------------------------------------------


def _act(shell: Shell, action: str, chosen: Sequence[Instance]) -> int:
    """Begin the job of each at the same time, so that none waits for another, and return the exit status."""

    def act(one: Instance) -> str:
        done = shell.run("systemctl", action, one.unit, timeout_secs=observe.ACT_SECS)
        return "" if done.status == 0 else done.stderr.strip() or f"systemctl ended with {done.status}"

    said = _each(chosen, act)
    states = _each(chosen, lambda one: observe.show(shell, one.unit))
    _print_table([(one.shown, state.active, words) for one, state, words in zip(chosen, states, said, strict=True)])
    return int(any(said))


def _list(shell: Shell, chosen: Sequence[Instance], *, as_json: bool) -> int:
    states = _each(chosen, lambda one: observe.show(shell, one.unit))
    if as_json:
        listed = [
            {"name": one.shown, "unit": one.unit, "config": str(one.config), "active": state.active,
             "sub": state.sub, "pid": state.main_pid, "restarts": state.n_restarts, "result": state.result}
            for one, state in zip(chosen, states, strict=True)
        ]  # fmt: skip
        print(json.dumps({"engines": listed}, indent=1))
    else:
        rows = [
            (one.shown, f"{state.active} ({state.sub})", _life(state), str(one.config))
            for one, state in zip(chosen, states, strict=True)
        ]
        _print_table([("NAME", "STATE", "RUN", "CONFIGURATION"), *rows])
    return int(any(state.active != "active" for state in states))


def _life(state: unit.UnitState) -> str:
    """Return what there is to say of the present run, or of the last one's end."""
    restarts = f", {state.n_restarts} restarts" if state.n_restarts else ""
    if state.main_pid:
        return f"pid {state.main_pid}{restarts}"
    return f"{state.result}{restarts}"


def _targets(chosen: Sequence[Instance]) -> int:
    """Print a target for each, which bears the engine's name also while nothing answers there. One whose configuration
    cannot be read takes no other off the list."""
    found, status = [], 0
    for one in chosen:
        try:
            tables = health.load_tables(one.config)
        except HarnessError as error:
            print(f"{one.shown}: {error}", file=sys.stderr)
            status = int(EngineExitCode.CONFIG)
            continue
        address = health.dashboard_of(tables).removeprefix("http://")
        found.append({"targets": [address], "labels": {"engine": instances.name_of(one.config, tables)}})
    print(json.dumps(found, indent=1))
    return status


def _health(shell: Shell, chosen: Sequence[Instance], *, as_json: bool) -> int:
    clock = OsClock()

    def examine(one: Instance) -> list[Finding]:
        try:
            tables = health.load_tables(one.config)
        except HarnessError as error:
            return [Finding("config", False, str(error).splitlines()[0])]
        target = health.target_of(tables, unit=one.unit, database=health.database_of(tables))
        return health.examine(health.checks(target, shell, clock), clock)

    found = dict(zip(chosen, _each(chosen, examine), strict=True))
    well = {one: all(finding.ok for finding in findings) for one, findings in found.items()}
    if as_json:
        print(json.dumps({one.shown: health.told(findings) for one, findings in found.items()}, indent=1))
    else:
        for one, findings in found.items():
            print(f"{one.shown} ({one.unit})")
            print(health.report(findings, colour=terminal.coloured(sys.stdout)))
    return int(not all(well.values()))


def _check(shell: Shell, chosen: Sequence[Instance], *, as_json: bool) -> int:
    def check(one: Instance) -> Mapping[str, Any] | str:
        argv = (sys.executable, "-I", "-m", "engine", "--check-config", "--config", str(one.config))
        done = shell.run(*argv, timeout_secs=CHECK_SECS)
        try:
            if done.status == 0:
                return dict(json.loads(done.stdout))
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            return str(next(line["fields"]["message"] for line in lines if line["level"] == "ERROR"))
        except (ValueError, LookupError, TypeError, StopIteration):
            return (done.stderr or done.stdout).strip() or f"the engine ended with {done.status}"

    answers = dict(zip(chosen, _each(chosen, check), strict=True))
    refused = {one.shown: answer for one, answer in answers.items() if isinstance(answer, str)}
    taken = {one.shown: answer for one, answer in answers.items() if not isinstance(answer, str)}
    units = {one.shown: one.unit for one in chosen}

    def place(name: str, path: Path) -> Path:
        return health.placed(path, shell, units[name])

    clashes = instances.conflicts(taken, place)
    if as_json:
        print(json.dumps({"fine": sorted(taken), "refused": refused, "conflicts": clashes}, indent=1))
    else:
        _print_table([(one.shown, refused.get(one.shown, "fine")) for one in chosen])
        for clash in clashes:
            print(clash)
    return int(EngineExitCode.CONFIG) if refused or clashes else 0


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    sys.exit(main())
