"""A systemd service of anybody's under proof: the unit on a private machine, and ready-made promises about it.

A promise asks of a unit what its directives are for, and not whether they stand there: it kills, stops, pauses, looks.
Each knows its own sabotage, lines of a drop-in under which it must be refuted, which shows that it can fail.
pytest_hybrid_proofs.unit_under_proof makes the fixture.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.base.clock import OsClock, poll
from harness.base.errors import HarnessError, MachineError, Refuted, Unavailable
from harness.base.waiting import awaiting
from harness.machines.machine import Machine
from harness.machines.stage import UNITS
from harness.machines.systemd import JournalStream, Metronome, Unit

SABOTAGED_SECS_MIN, SABOTAGED_TIMES = 1.0, 3.0
"""A sabotaged unit is waited for so many times as long as the proof just took without the sabotage, and for so long at
least."""

ARCHIVES = "/run/proof-archives"
"""Where a machine's apt keeps packages."""

BEATS = 3
"""Restart delays after which a unit that was not restarted stays down."""

MADE_BY_SYSTEMD = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "CacheDirectory": "/var/cache"}
"""Directive -> where a directory is made of it that the service may write to."""

API_FILE_SYSTEMS = ("/dev", "/proc", "/sys")
"""Not writable data, whoever may write to them: what ProtectSystem=strict leaves as it is."""


class ServiceUnit(Unit):
    """One unit on a private machine, for promises about it."""

    def __init__(self, machine: Machine, stream: JournalStream, name: str, serves: Sequence[str] = ()) -> None:
        """serves: a command that exits 0, in the machine, as soon as the service does what it is there for."""
        super().__init__(machine, stream, name)
        self._serves = serves
        self.metronome = Metronome(machine, f"proof-metronome-{name}")

    def fresh(self) -> None:
        """Stop it and let systemd forget what became of it, how often it was started included."""
        self.stop()
        self.machine.systemctl("reset-failed", self.name)

    def start_serving(self) -> None:
        """Start it and wait until it serves. Refuted when it does not."""
        self.fresh()
        self.start()
        self.wait_serving()

    def wait_serving(self) -> None:
        """Wait until it runs and does what it is there for. Refuted when it does not in time."""

        def serving() -> bool | None:
            if self.show().active != "active":
                return None
            return True if not self._serves or self.machine.run(*self._serves).status == 0 else None

        what = f"`{shlex.join(self._serves)}`" if self._serves else "it to be active"
        with awaiting(what):
            done = poll(serving, OsClock(), self.deadline_secs)
        if done is None:
            raise self.refuted(f"{self.name} does not serve: waited {self.deadline_secs:g} s for {what}")

    @contextmanager
    def drop_in(self, name: str, directives: str) -> Iterator[None]:
        """Put lines of [Service] on top of the unit's file for a while. HarnessError when that is not in effect."""
        inside = f"{self.machine.unit_dir}/{self.name}.d/{name}.conf"
        path = self.machine.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[Service]\n{directives}\n", "utf-8")
        try:
            self.machine.systemctl("daemon-reload").expect(0)
            if inside not in self.property("DropInPaths").split():
                raise HarnessError(f"{inside} is not in effect: {self.property('DropInPaths')}")
            yield
        finally:
            self.fresh()
            path.unlink()
            self.machine.systemctl("daemon-reload").expect(0)

    @contextmanager
    def ending_with(self, status: int) -> Iterator[None]:
        """Have another program in the place of the unit's, which ends at once with an exit status."""
        # With full privileges, so that no sandbox keeps it from being run: the status is what is asked about.
        program = f"ExecStart=\nExecStart=+/bin/sh -c 'exit {status}'"
        with self.drop_in("50-ends", f"Type=exec\nExecCondition=\nExecStartPre=\nExecStartPost=\n{program}"):
            yield


@dataclass(frozen=True)
class Promise:
    """What a unit is to keep, and how it is broken on purpose."""

    name: str
    prove: Callable[[ServiceUnit], None]
    """Refuted when the unit does not keep it."""
    sabotage: str
    """Lines for [Service] under which it must be refuted."""
    reason: str
    """Regular expression that this refutation must match."""

    def __str__(self) -> str:
        return self.name

    def prove_it_can_fail(self, unit: ServiceUnit) -> None:
        """Prove it, break it on purpose, and expect the refutation. AssertionError when that does not come, or for
        another reason; HarnessError when the promise is not kept to begin with."""
        clock = OsClock()
        began = clock.monotonic()
        try:
            self.prove(unit)
        except BaseException as error:
            # Whoever comes next expects it stopped, as a promise that is kept leaves it.
            unit.fresh()
            if isinstance(error, Refuted):
                raise HarnessError(f"{self.name}: refuted without any sabotage: {error}") from error
            raise
        usual = unit.deadline_secs
        unit.deadline_secs = max(SABOTAGED_SECS_MIN, SABOTAGED_TIMES * (clock.monotonic() - began))
        try:
            with unit.drop_in("90-sabotage", self.sabotage):
                self.prove(unit)
        except Refuted as error:
            if not re.search(self.reason, error.observed):
                raise AssertionError(f"{self.name}: refuted, but not by /{self.reason}/: {error}") from error
            return
        finally:
            unit.deadline_secs = usual
        raise AssertionError(f"{self.name}: not refuted under {self.sabotage!r}, so it proves nothing")


def restarts_on(status: int = 1) -> Promise:
    """Systemd starts it again when its program ends with this exit status."""

    def prove(unit: ServiceUnit) -> None:
        unit.fresh()
        with unit.ending_with(status):
            unit.try_start()
            unit.wait_restarts(1)

    return Promise(f"restarts on exit status {status}", prove, "Restart=no", r"was restarted 0 times")


def stays_down_on(status: int) -> Promise:
    """It is not started again, however long one waits, when its program ends with this exit status.

    Takes three of the unit's RestartSec=.
    """

    def prove(unit: ServiceUnit) -> None:
        unit.fresh()
        unit.metronome.install(unit.property("RestartUSec"))
        with unit.ending_with(status):
            try:
                unit.try_start(unit.metronome.name)
                seen = unit.metronome.beats(BEATS, unit)
            finally:
                unit.machine.systemctl("stop", unit.metronome.name)
            last = seen[-1]
            unit.expect(
                last.n_restarts == 0, f"restarted {last.n_restarts} times on exit status {status}",
                "Restart", "RestartPreventExitStatus",
            )  # fmt: skip
            told = (last.active, last.exec_main_status)
            unit.expect(told == ("failed", status), f"expected it to be failed with status {status}: {last}")

    return Promise(
        f"stays down on exit status {status}", prove, "Restart=always\nRestartPreventExitStatus=",
        r"restarted [1-9]\d* times",
    )  # fmt: skip


def survives_sigkill() -> Promise:
    """Killed, it comes back by itself as another process, and serves again."""

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        before = unit.show().main_pid
        unit.kill("KILL")
        unit.wait_restarts(1)
        unit.wait_serving()
        unit.expect(unit.show().main_pid not in (0, before), f"still process {before} after SIGKILL")
        unit.fresh()

    return Promise(
        "survives SIGKILL", prove, "RestartForceExitStatus=\nRestartPreventExitStatus=SIGKILL",
        r"was restarted 0 times",
    )  # fmt: skip


def watchdog_bites(within_secs: float = 10.0) -> Promise:
    """A paused process, which says nothing any more, is ended by systemd within so many seconds."""

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        unit.kill("STOP")
        unit.wait(
            "the watchdog's report of systemd",
            lambda entry: entry.identifier == "systemd" and "Failed with result 'watchdog'" in entry.message,
            within_secs,
        )
        unit.fresh()

    return Promise("watchdog bites", prove, "WatchdogSec=0", r"watchdog's report of systemd has not come")


def stops_within(secs: float) -> Promise:
    """Asked to stop, it ends by itself within so many seconds, without an error and without SIGKILL."""

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        unit.stop()
        state = unit.show()
        unit.expect(
            (state.active, state.result) == ("inactive", "success"), f"did not stop cleanly: result {state.result}",
            "KillSignal", "TimeoutStopSec",
        )  # fmt: skip
        # By systemd's clock: ours would count how long systemctl takes.
        left, down = (
            int(unit.property(f"{name}TimestampMonotonic")) for name in ("ActiveExit", "InactiveEnter")
        )  # fmt: skip
        unit.expect((down - left) / 1e6 <= secs, f"took {(down - left) / 1e6:.2f} s to stop, at most {secs:g}")

    return Promise(
        f"stops within {secs:g} s", prove, "ExecStop=\nKillSignal=SIGURG\nTimeoutStopSec=200ms",
        r"did not stop cleanly: result timeout",
    )  # fmt: skip


def exposure_at_most(limit: float) -> Promise:
    """`systemd-analyze security` gives it at most this exposure, from 0 (none) to 10."""

    def prove(unit: ServiceUnit) -> None:
        shown = unit.machine.run("systemd-analyze", "security", "--no-pager", unit.name)
        overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown.stdout)
        if overall is None:
            raise MachineError(f"systemd-analyze said: {shown.stdout}{shown.stderr}")
        unit.expect(float(overall[1]) <= limit, f"exposure {overall[1]}, at most {limit:g}")

    return Promise(
        f"exposure at most {limit:g}", prove,
        "DynamicUser=no\nUser=root\nNoNewPrivileges=no\nProtectSystem=no\nProtectHome=no\nPrivateDevices=no\n"
        "PrivateNetwork=no\nPrivateUsers=no\nRestrictNamespaces=no\nRestrictAddressFamilies=\nSystemCallFilter=\n"
        "CapabilityBoundingSet=~",
        r"exposure [\d.]+, at most",
    )  # fmt: skip


def writes_only_below(*directories: str) -> Promise:
    """As it runs, with its mounts, its user and its capabilities, it can write to nothing but these directories.

    Beside /dev, /proc and /sys. Every file and directory that it sees on a file system that it has not mounted
    read-only is asked about. A service with PrivateTmp= has /tmp and /var/tmp to name as well.
    """

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        found = _writable(unit, [*API_FILE_SYSTEMS, *directories])
        unit.expect(not found, f"may write to {found}", "ProtectSystem", "ReadWritePaths")
        unit.fresh()

    # One more directory of its own, in a place that is not its own already.
    others = (name for name, place in MADE_BY_SYSTEMD.items() if not _is_below(place, directories))
    return Promise(
        f"writes only below {' '.join(directories) or 'nothing'}", prove,
        f"{next(others, 'RuntimeDirectory')}=proof-left-open", r"may write to \S+/proof-left-open",
    )  # fmt: skip


def no_network() -> Promise:
    """It has a network of its own, which leads nowhere.

    That takes PrivateNetwork=; IPAddressDeny= and RestrictAddressFamilies= leave other ways, and are not asked about.
    """

    def prove(unit: ServiceUnit) -> None:
        unit.start_serving()
        pid = unit.show().main_pid
        inodes = unit.machine.run("readlink", "/proc/1/ns/net", f"/proc/{pid}/ns/net").expect(0).stdout.split()
        if len(set(inodes)) == 1 and any(
            "PrivateNetwork=yes is configured, but" in entry.message for entry in unit.whole_journal()
        ):
            raise Unavailable(
                "systemd could not make a network for the unit here, and went on without (see its journal)",
                "a computer on which a private machine may make network namespaces",
            )
        unit.expect(len(set(inodes)) == 2, "shares the computer's network", "PrivateNetwork")
        tables = unit.machine.run(
            "nsenter", f"--net=/proc/{pid}/ns/net", "cat", "/proc/net/route", "/proc/net/ipv6_route"
        ).stdout
        routes = {line.split()[0] for line in tables.splitlines() if "\t" in line and not line.startswith("Iface")}
        routes |= {line.split()[-1] for line in tables.splitlines() if "\t" not in line and line.strip()}
        unit.expect(routes <= {"lo"}, f"has routes by {', '.join(sorted(routes - {'lo'}))}")
        unit.fresh()

    return Promise("no network", prove, "PrivateNetwork=no", r"shares the computer's network")


def _writable(unit: ServiceUnit, allowed: Sequence[str]) -> str:
    """The first file or directory outside of these directories that the running unit may write to; else empty."""
    pid = unit.show().main_pid
    mounts = unit.machine.path(f"/proc/{pid}/mountinfo").read_text("utf-8", "surrogateescape")
    status = unit.machine.path(f"/proc/{pid}/status").read_text()
    become = shlex.join(["setpriv", *privileges(status)])
    for place in writable_mounts(mounts):
        if _is_below(place, allowed):
            continue
        left_out = [word for path in allowed for word in ("-path", f"./{path.lstrip('/')}", "-prune", "-o")]
        search = shlex.join(
            ["find", f"./{place.lstrip('/')}", "-xdev", *left_out, "-type", "f,d", "-writable", "-print", "-quit"]
        )
        # The directory is that of the unit's own mount namespace; the programs are the machine's, which it may not run.
        looked = unit.machine.run("sh", "-c", f"cd /proc/{pid}/root && {become} {search}; echo looked")
        *found, end = looked.stdout.splitlines()
        if end != "looked" or (not found and "setpriv:" in looked.stderr):
            raise MachineError(f"cannot look at what {unit.name} may write to: {looked.stderr}")
        if found:
            return found[0].removeprefix(".")
    return ""


def _is_below(path: str, directories: Sequence[str]) -> bool:
    return any(path == one or path.startswith(f"{one.rstrip('/')}/") for one in directories)


def writable_mounts(mountinfo: str) -> list[str]:
    """Where something is mounted that may be written to, from /proc/PID/mountinfo."""
    lines = [line.split() for line in mountinfo.splitlines()]
    # Options of the mount are the sixth field, those of the file system the last.
    return [
        re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        for fields in lines
        if "rw" in fields[5].split(",") and "rw" in fields[-1].split(",")
    ]


def privileges(status: str) -> list[str]:
    """What setpriv(1) has to be told to be as a process, from its /proc/PID/status: user, groups, capabilities."""
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    held = int(fields["CapEff"][0], 16)
    capabilities = ",".join(["-all", *(f"+cap_{number}" for number in range(64) if held >> number & 1)])
    groups = [f"--groups={','.join(fields['Groups'])}"] if fields["Groups"] else ["--clear-groups"]
    return [
        f"--reuid={fields['Uid'][1]}", f"--regid={fields['Gid'][1]}", *groups,
        f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", f"--bounding-set={capabilities}",
    ]  # fmt: skip


def put(machine: Machine, name: str, text: str | None, package: str | None, archives: Path) -> None:
    """Have a unit in a private machine: its text as a unit file, or the computer's own, or what a package brings.

    archives: where packages may lie that need not be fetched. Raises Unavailable on any other machine, and for a unit
    that is not to be had.
    """
    if machine.kind != "private":
        raise Unavailable(f"a {machine.kind} systemd is not ours to put {name} into", "use --proofs-systemd=private")
    if text is not None:
        machine.path(f"{machine.unit_dir}/{name}").write_text(text, "utf-8")
        machine.systemctl("daemon-reload").expect(0)
    elif machine.systemctl("cat", name).status != 0:
        if package is None:
            raise Unavailable(f"{name} is not installed on this computer", f"install what has {name}")
        _install(machine, package, archives)


def _install(machine: Machine, package: str, archives: Path) -> None:
    # The machine's root is thrown away: nothing of this reaches the computer.
    kept = machine.path(ARCHIVES)
    (kept / "partial").mkdir(parents=True, exist_ok=True)
    for path in archives.glob("*.deb"):
        shutil.copy(path, kept)
    # A proof starts it, when its drop-ins are there.
    policy = machine.path("/usr/sbin/policy-rc.d")
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    # Units are read-only in a machine: copies of the computer's, for this run alone.
    machine.run("mount", "-o", "remount,bind,rw", str(UNITS)).expect(0)
    done = machine.run(
        "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet", "--no-install-recommends",
        "-o", f"Dir::Cache::Archives={ARCHIVES}", package, timeout_secs=120.0,
    )  # fmt: skip
    if done.status != 0:
        told = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(
            f"the package {package} cannot be had: {told[-1] if told else 'apt-get says nothing'}",
            f"apt-get install {package}",
        )
