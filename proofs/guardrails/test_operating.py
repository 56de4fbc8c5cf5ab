"""docs/operating.md, typed in its order into a computer of its own: a private machine (contract O5, O3).

What cannot be had in there is replaced, and only this: packages are copied from the stage and not fetched, proofs are
not run inside themselves, there is no repository to pull from, and the disk is one of memory.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.base.clock import OsClock, poll
from harness.base.errors import Refuted
from harness.evidence.recorder import Recorder
from harness.evidence.shell import CommandResult, Shell
from harness.faults.exchange import Exchange
from harness.machines.machine import PrivateMachine, why_not_private
from harness.machines.stage import PREFIX, SOURCES, UNITS, Stage

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = "/srv/hybrid-engine"
FROM = "FROM=.cache/stage/opt/hybrid-engine"
ENGINE, SOAK, DASHBOARD, ALPHA = (f"hybrid-{name}.service" for name in ("engine", "soak", "dashboard", "engine@alpha"))
DATABASE = "/var/lib/hybrid-engine/data/bot.db"
DECISIONS = "/var/lib/hybrid-soak/data/ops/soak_decisions.jsonl"
DISK = "/dev/disk/by-label/hybrid-engine"

REPLACED = {
    "make install": f"make install {FROM}",
    "make proofs": "test -e reports/verdicts.json",
    # Whether the checkout's own environment is up to date is another matter.
    "make buglog": "make --old-file=.venv/.ready buglog",
    "git pull": "true",
}
PRESSED = ("hybrid-healthcheck", "systemctl start hybrid-health-snapshot")
"""Commands that fail on a computer that is busy, which one that proves other things meanwhile is."""


class Computer:
    """A machine with a checkout and nothing installed, and an operator at its keyboard."""

    def __init__(self, machine: PrivateMachine) -> None:
        self.machine = machine

    def type(self, command: str) -> CommandResult:
        """Run a command in the checkout."""
        return self.machine.run("sh", "-c", f"cd {CHECKOUT} && {command}")

    def wait(self, what: str, command: str, within_secs: float = 15.0) -> None:
        """Wait until a command succeeds. Refuted when it does not in time."""

        def done() -> bool | None:
            return True if self.type(command).status == 0 else None

        self.expect(poll(done, OsClock(), within_secs) is True, f"{what} has not come within {within_secs:g} s")

    def expect(self, condition: bool, message: str) -> None:
        """Refute with the journal unless `condition` holds."""
        if not condition:
            said = self.machine.run("journalctl", "-n", "25", "-o", "short", "--no-pager", "-u", "hybrid-*")
            raise Refuted(f"{message}\n  its journal:\n{said.stdout}")

    def active(self, unit: str) -> bool:
        return self.machine.systemctl("is-active", unit).stdout.strip() == "active"

    def ticks(self, database: str = DATABASE) -> int:
        """The highest tick of a database."""
        newest = f"sqlite3.connect('file:{database}?mode=ro', uri=True).execute('SELECT max(id) FROM ticks')"
        ask = f"import sqlite3; print({newest}.fetchone()[0] or 0)"
        return int(self.machine.run("python3", "-c", ask).expect(0).stdout)


@pytest.fixture
def computer(shell: Shell, stage: Stage) -> Iterator[Computer]:
    reason = why_not_private()
    if reason:
        raise reason
    binds = [(Path(sys.prefix), f"{CHECKOUT}/.venv"), (stage.root, f"{CHECKOUT}/.cache/stage")]
    machine = PrivateMachine(shell, binds, f"proof-{os.getpid()}-operated")
    machine.boot()
    try:
        machine.run("mount", "-o", "remount,bind,rw", str(UNITS)).expect(0)
        for name in (*SOURCES, "docs/contract.md"):
            source, target = ROOT / name, machine.path(f"{CHECKOUT}/{name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=ignore) if source.is_dir() else shutil.copy2(source, target)
        yield Computer(machine)
    finally:
        machine.halt()


def commands() -> list[str]:
    text = (ROOT / "docs" / "operating.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def configure(computer: Computer, exchange: Exchange) -> None:
    """What an operator edits: a market that moves faster, a venue on loopback, a port that is free."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = computer.machine.path("/etc/hybrid-engine/config.toml")
    text = (
        config.read_text()
        .replace("port = 8501", f"port = {port}")
        .replace("tick_interval_ms = 500", "tick_interval_ms = 50")
    )
    assert f"port = {port}" in text
    assert "tick_interval_ms = 50 " in text
    config.write_text(text)
    source = f'[[source]]\nname = "here"\nurl = "{exchange.url}"\npriority = 1\n'
    config.with_name("ws_sources.toml").write_text(source)


def leave_a_run(computer: Computer, exchange: Exchange) -> None:
    """What `make proofs` leaves, as small as it can be."""
    reports = computer.machine.path(f"{CHECKOUT}/reports")
    with closing(Recorder(reports / "runs" / "1" / "record.jsonl", "1", "main")) as recorder:
        recorder.write("run", systemd="private", facts={}, clauses={})
        recorder.end(counts={}, interrupted=False, systemd="private", planned=[], accepted_unproven=[])
    counts = {"proven": 0, "refuted": 0, "unproven": 0}
    summary = {"run_id": "1", "systemd": "private", "verdicts": [], "counts": counts}
    (reports / "verdicts.json").write_text(json.dumps(summary))


BEFORE: dict[str, Callable[[Computer, Exchange], object]] = {
    f"{PREFIX}/bin/hybrid-engine --config /etc/hybrid-engine/config.toml --check-config": configure,
    f"{PREFIX}/bin/hybrid-healthcheck": lambda computer, _: computer.wait("a tick", f"test -s {DATABASE}"),
    f"tail --lines 3 {DECISIONS}": lambda computer, _: computer.wait(
        "a look", f"test -s {Path(DECISIONS).with_name('soak_samples.jsonl')}"
    ),
    "make proofs": leave_a_run,
    f"{PREFIX}/bin/hybrid-healthcheck --instance alpha --without-dashboard": lambda computer, _: computer.wait(
        "a tick of alpha", f"test -s {DATABASE.replace('hybrid-engine', 'hybrid-engine-alpha')}"
    ),
}
"""What happens before a command is typed, the first time: what an operator does by hand, or waits for."""


@pytest.mark.claim("O5")
def test_the_operators_day(computer: Computer, exchange: Exchange) -> None:
    exchange.feed(interval_secs=0.02)
    before = dict(BEFORE)
    marks: dict[str, int] = {}
    for command in commands():
        if command in before:
            before.pop(command)(computer, exchange)
        elif command == "make uninstall PURGE=1":
            computer.type("umount /var/lib/hybrid-engine/data").expect(0)
        typed = REPLACED.get(command, command).replace(f"mount {DISK}", "mount -t tmpfs disk")
        done = computer.type(typed)
        allowed = (0, 1) if any(name in command for name in PRESSED) else (0,)
        computer.expect(done.status in allowed, f"`{typed}` ended with {done.status}:\n{done.stdout}{done.stderr}")
        if (after := AFTER.get(command)) is not None:
            after(computer, done, marks)
    assert not before, f"the page has no more: {list(before)}"


def healthy(computer: Computer, done: CommandResult, _: dict[str, int]) -> None:
    wrong = [line for line in done.stdout.splitlines() if line.startswith("FAIL ") and "pressure" not in line]
    computer.expect("PASS unit" in done.stdout and not wrong, f"the healthcheck says:\n{done.stdout}")


def snapshot(computer: Computer, _: CommandResult, __: dict[str, int]) -> None:
    said = computer.type("journalctl --unit hybrid-health-snapshot --lines 20 --output cat --no-pager").stdout
    database = [line for line in said.splitlines() if line.split()[1:2] == ["database"]]
    computer.expect(database[-1:] != [] and database[-1].startswith("PASS"), f"the snapshot says:\n{said}")


def soak_ended(computer: Computer, _: CommandResult, __: dict[str, int]) -> None:
    last = json.loads(computer.machine.path(DECISIONS).read_text().splitlines()[-1])
    computer.expect(last["action"] == "PUT_BACK" and computer.active(ENGINE), f"the soak left {last}")


def published(computer: Computer, _: CommandResult, __: dict[str, int]) -> None:
    found = computer.type(
        "runuser -u nobody -- cat /var/lib/hybrid-evidence/verdicts.json /var/lib/hybrid-evidence/buglog/*.html"
    )
    computer.expect(found.status == 0, f"what was published cannot be read: {found.stderr}")


def backed_up(computer: Computer, _: CommandResult, marks: dict[str, int]) -> None:
    marks["ticks"] = computer.ticks("/var/backups/bot.db")
    computer.expect(marks["ticks"] > 0, "nothing was backed up")


def installed(computer: Computer, done: CommandResult, marks: dict[str, int]) -> None:
    """The first time over nothing; then over what runs; then, after it was removed, over configuration and data."""
    marks["installs"] = marks.get("installs", 0) + 1
    if marks["installs"] == 2:
        restart = re.search(r"systemctl restart (.*)", done.stdout)
        names = restart[1].split() if restart else []
        computer.expect({ENGINE, DASHBOARD} <= set(names), f"it did not say what to restart: {done.stdout}")
        state = computer.machine.systemctl("show", ENGINE, "--property=NeedDaemonReload,ActiveState").stdout
        computer.expect("NeedDaemonReload=no" in state and "ActiveState=active" in state, f"the engine is {state}")
    else:
        computer.expect("systemctl enable --now hybrid-engine.service" in done.stdout, f"it did not say: {done.stdout}")
    port = computer.type("grep --count 'port = 8501' /etc/hybrid-engine/config.toml").stdout.strip()
    computer.expect(port == str(int(marks["installs"] == 1)), "the configuration was not kept, or not installed")


def restarted_alone(computer: Computer, _: CommandResult, __: dict[str, int]) -> None:
    computer.expect(computer.active(ALPHA) and computer.active(ENGINE), "the engines are not both up")


def restored(computer: Computer, _: CommandResult, marks: dict[str, int]) -> None:
    """After each start: the engine is up, and knows the ticks of before."""
    computer.expect(computer.active(ENGINE), "the engine is not up")
    computer.expect(computer.ticks() >= marks.get("ticks", 0), "the engine began anew")


def uninstalled(computer: Computer, done: CommandResult, _: dict[str, int]) -> None:
    running = [unit for unit in (ENGINE, DASHBOARD, ALPHA) if computer.active(unit)]
    computer.expect(not running, f"{running} still run")
    units = f"{UNITS}/hybrid-*.service {UNITS}/hybrid-*.timer /etc/systemd/system/*/hybrid-*"
    left = computer.type(f"ls -d {PREFIX} {units} /usr/lib/sysusers.d/hybrid-*")
    computer.expect(left.stdout == "", f"it left {left.stdout}")
    computer.expect(
        computer.type(f"test -s {DATABASE} -a -s /etc/hybrid-engine/config.toml").status == 0, "data are gone"
    )


def purged(computer: Computer, _: CommandResult, __: dict[str, int]) -> None:
    left = computer.type(
        "ls -Ad /etc/hybrid-engine /var/lib/hybrid-engine/* /var/lib/hybrid-[!e]* /var/lib/hybrid-e*-*"
    )
    computer.expect(left.stdout == "", f"it left {left.stdout}")


AFTER: dict[str, Callable[[Computer, CommandResult, dict[str, int]], None]] = {
    "make install": installed,
    f"{PREFIX}/bin/hybrid-healthcheck": healthy,
    f"{PREFIX}/bin/hybrid-healthcheck --instance alpha --without-dashboard": healthy,
    f"{PREFIX}/bin/hybrid-ctl restart alpha": restarted_alone,
    "systemctl start hybrid-health-snapshot.service": snapshot,
    "systemctl stop hybrid-soak.service": soak_ended,
    ".venv/bin/python -m harness publish": published,
    f"{PREFIX}/bin/hybrid-backup /var/backups/bot.db": backed_up,
    "systemctl start hybrid-engine.service": restored,
    "systemctl restart hybrid-engine.service hybrid-dashboard.service": restored,
    "make uninstall": uninstalled,
    "make uninstall PURGE=1": purged,
}
"""What must be so after a command."""


@pytest.mark.claim("O3")
def test_a_prefix_with_a_space_under_a_tight_umask(computer: Computer) -> None:
    """And what somebody else put there stays, as does what a link leads to."""
    home = shlex.quote("/opt/my engine")
    computer.type(f"umask 077 && make install PREFIX={home} {FROM}").expect(0)
    computer.machine.systemctl("start", ENGINE)
    computer.expect(computer.active(ENGINE), "the engine does not run from there")
    command = computer.machine.systemctl("show", ENGINE, "--property=ExecStart").stdout
    computer.expect("path=/opt/my engine/" in command, f"the unit runs {command}")
    documents = computer.machine.systemctl("show", ENGINE, "--property=Documentation", "--value").stdout.strip()
    page = documents.removeprefix("file:").replace("%20", " ")
    computer.expect(computer.machine.run("cat", page).status == 0, f"Documentation={documents} is not there")
    computer.type(
        f"mkdir /root/precious && touch /root/precious/a {home}/lib/theirs && ln -s /root/precious {home}/lib/link"
    ).expect(0)
    computer.type(f"rm {home}/bin/hybrid-soak && ln -s /root/precious/a {home}/bin/hybrid-soak").expect(0)
    computer.type(f"make uninstall PREFIX={home}").expect(0)
    left = computer.type(f"cd {home} && find . | sort").stdout.split()
    computer.expect(left == [".", "./lib", "./lib/link", "./lib/theirs"], f"it left {left}")
    computer.expect(computer.type("test -e /root/precious/a").status == 0, "it followed a link")
    computer.expect(not computer.active(ENGINE), "the engine still runs")
