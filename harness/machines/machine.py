"""Machines: a real systemd to run the unit under. `private` boots one; `host` and `user` use one that runs.

A private machine is the host's own root, read through a throw-away overlay, booted by systemd-nspawn to a
target that holds journald, D-Bus and nothing else. It shares the host's loopback, so that an exchange in the
test process is reachable from the unit, and it has its own PID 1, journal, cgroup tree and /run.

States: absent -> booting -> running -> halted. nspawn tells "running" through NOTIFY_SOCKET, once with the
PID of the machine's PID 1 (the leader) and once when that has reached its target, so nothing here polls.

What can go wrong: the boot hangs (deadline, then the console is in the error); the test run is killed. Then
the kernel ends nspawn (its parent-death signal) but not the machine's PID 1, which goes on in its own
cgroup. The next start finds the machine's state directory without a living owner, kills what is in that
cgroup and removes both. The mounts live in nspawn's own mount namespace and vanish with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from cysystemd.reader import JournalOpenMode, JournalReader

from harness.base.clock import Clock, OsClock, poll
from harness.base.errors import CommandFailed, MachineError, Unavailable
from harness.base.waiting import awaiting
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import CommandResult, Process, Shell
from harness.machines.stage import PREFIX, SYSUSERS, UNITS, Stage

RUN_DIR = Path("/run/hybrid-proofs")
"""One directory for each private machine, named as the machine is."""

ENGINE_UNIT = "hybrid-engine.service"

JOURNALS = (Path("/run/log/journal"), Path("/var/log/journal"))

BOOT_SECS = 20.0
"""Deadline of a boot. Measured: 0.2 s to 0.3 s alone, 0.9 s with four at once on two cores."""

DEFAULTS = {
    "journald.conf": (
        "[Journal]\nStorage=volatile\nMaxLevelStore=debug\nRateLimitIntervalSec=30s\nRateLimitBurst=10000\n"
    ),
    "system.conf": (
        "[Manager]\nLogLevel=info\nDefaultEnvironment=\nDefaultRestartSec=100ms\nDefaultStartLimitIntervalSec=10s\n"
        "DefaultStartLimitBurst=5\nDefaultTimeoutStartSec=90s\nDefaultTimeoutStopSec=90s\n"
    ),
}
"""systemd's own, of whatever the computer's administrator has set otherwise and a verdict would rest on."""

NOT_ALL_TAKEN = (0, 65, 73)
"""Exit statuses of systemd-tmpfiles that its own service takes for a success: somebody's line was of no use, or could
not be carried out. tmpfiles.d(5) lets any package have lines."""

HALT_SECS = 5.0

FORSAKEN_SECS = 60.0
"""A cgroup without a process is one in which a machine is about to boot for a moment only."""

DOWN_SECS = 1.0
"""So long a machine that goes down may say so before."""

_GOES_DOWN = re.compile(r"^nsenter: (?!failed to execute)|connect(?:ed|ion)?\b", re.IGNORECASE | re.MULTILINE)
"""How a command fails whose machine is going down: its bus is gone, or its namespaces are."""

INOTIFY_INSTANCES = 4
"""So many inotify(7) instances a machine's systemd and D-Bus take, of those that the kernel gives each user."""

INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")

IN_EVERY_BOOT = "Attempted to remove disk file system under"
"""What systemd-nspawn says on each console of a machine with an overlay, and means nothing."""

NO_GENERATORS = "/run/no-generators"
"""Where the machine's systemd looks for generators: nowhere. They make units of the host's fstab, ttys and init
scripts, of which a machine has none, and each daemon-reload runs all of them, which takes twice as long as the rest."""

TARGET = """\
[Unit]
Description=A machine for proofs
DefaultDependencies=no
Requires=systemd-journald.service systemd-journald.socket dbus.socket
After=systemd-journald.service dbus.socket
"""


UMASK = 0o022
"""Of what is made for machines, as a computer's own boot makes it: units run as users of their own, and read it."""


class _Umask:
    """Has this process, and what it starts, make files for machines, whatever umask it was started with, for as long as
    a machine is in use. What it reports lies in directories that are there before, under the umask of whoever asked."""

    def __init__(self) -> None:
        self._machines: set[str] = set()
        self._before = UMASK

    def take(self, machine: str) -> None:
        if not self._machines:
            self._before = os.umask(UMASK)
        self._machines.add(machine)

    def leave(self, machine: str) -> None:
        if self._machines == {machine}:
            os.umask(self._before)
        self._machines.discard(machine)


_umask = _Umask()


@dataclass(frozen=True)
class Layout:
    """Where the installed engine's files are, as the unit sees them."""

    config: str = "/etc/hybrid-engine/config.toml"
    sources: str = "/etc/hybrid-engine/ws_sources.toml"
    state: str = "/var/lib/hybrid-engine"
    """The unit's working directory; the default `db_path` is relative to it."""
    disk: str = "/var/lib/hybrid-engine/disk"
    """Where a disk of its own may be mounted for the unit."""
    prefix: str = PREFIX
    """Of the programs that the unit runs."""

    @property
    def database(self) -> str:
        return f"{self.state}/data/bot.db"


def _unheard(_line: str) -> None:
    """What a command outside says is in the record."""


class Machine(Protocol):
    """A place with a systemd, seen from the test process."""

    kind: str
    """private, host or user."""
    name: str
    layout: Layout
    unit_dir: str
    """Where runtime units and drop-ins go, as the machine sees it."""
    base_drop_in: str
    """What the installed unit needs to run here at all, as drop-in text; empty when nothing."""

    def boot(self) -> None:
        """Make it usable. Raises MachineError, or Unavailable when this computer cannot have one."""
        ...

    def halt(self) -> None:
        """End it and leave nothing behind. Does nothing when it is not running."""
        ...

    def alive(self) -> bool:
        """Whether its systemd is the one that was booted."""
        ...

    def run(self, *argv: str, timeout_secs: float = 60.0) -> CommandResult:
        """Run a command in the machine."""
        ...

    def systemctl(self, *args: str, timeout_secs: float = 60.0) -> CommandResult:
        """Run systemctl against the manager that runs the unit."""
        ...

    def systemd_run(self, *args: str) -> CommandResult:
        """Have that manager run a command as a unit of its own, which `systemctl` then knows."""
        ...

    def open_journal(self, reader: JournalReader) -> None:
        """Open the machine's journal, placed so that what comes from now on is read next."""
        ...

    def journal_command(self, unit: str) -> str:
        """Return what a human types to read on."""
        ...

    def path(self, inside: str) -> Path:
        """Return where a file of the machine is seen from the test process."""
        ...

    def start_outside(self, *argv: str) -> Process:
        """Start a command of this computer's, beside the machine: in a private one nobody sees it."""
        ...

    def pid_outside(self, inside: int) -> int:
        """Return the number that a process of the machine has for the test process; 0 when there is none."""
        ...


class PrivateMachine:
    """A systemd of our own, in systemd-nspawn. Needs root."""

    kind = "private"
    unit_dir = "/run/systemd/system"
    base_drop_in = ""

    def __init__(
        self,
        shell: Shell,
        binds: Sequence[tuple[Path, str]],
        name: str,
        clock: Clock | None = None,
        network: Path | Literal["own"] | None = None,
    ) -> None:
        """binds: (directory or file of this computer, where the machine sees it, read-only). Unit files are copied, and
        the users that files of sysusers.d(5) name are made. network: a network namespace, or one of its own that leads
        nowhere, instead of the computer's; systemd-nspawn lets a machine make further ones only there."""
        self.name = name
        self.layout = Layout()
        self._shell = shell
        self._units = [source for source, target in binds if Path(target).parent == UNITS]
        self._users = [source for source, target in binds if Path(target).parent == SYSUSERS]
        self._binds = [(source, target) for source, target in binds if source not in self._units + self._users]
        self._clock = clock or OsClock()
        self._network: list[str] = []
        if network == "own":
            self._network = ["--private-network"]
        elif network is not None:
            self._network = [f"--network-namespace-path={network}"]
        self._work = RUN_DIR / name
        self._leader, self._began = 0, ""
        self._nspawn: Process | None = None
        self._console: list[str] = []

    def boot(self) -> None:
        reason = why_not_private()
        if reason:
            raise reason
        _umask.take(self.name)
        for directory in ("root", "run", "etc", "lib", "state"):
            (self._work / directory).mkdir(parents=True)
        (self._work / "run" / "proofs.target").write_text(TARGET)
        for name, text in DEFAULTS.items():
            (self._work / name).write_text(text)
        # None of the directories beside them (`sysinit.target.wants`), nor what was enabled below /etc: nothing is
        # started, or even loaded, that nobody asked for. A daemon-reload takes a third of the time with 40 units
        # loaded instead of 150.
        for unit in (*UNITS.iterdir(), *self._units):
            if unit.is_symlink() or unit.is_file():
                shutil.copy(unit, self._work / "lib", follow_symlinks=False)
        owner = {"pid": os.getpid(), "started": process_start(os.getpid())}
        (self._work / "owner.json").write_text(json.dumps(owner))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            address = self._work / "notify"
            notify.bind(str(address))
            try:
                self._nspawn = self._shell.start(
                    "unshare", "--mount", "--propagation", "private", "sh", "-c", self._boot_script(address),
                    on_line=self._console.append,
                )  # fmt: skip
                with awaiting(f"machine {self.name} to boot"):
                    self._await_boot(notify)
                self._complete()
            except BaseException:
                self.halt()
                raise
        self._shell.recorder.write("machine", name=self.name, variant=self.kind, event="booted", leader=self._leader)

    def _boot_script(self, notify: Path) -> str:
        # The shell moves itself into the machine's own cgroup before it becomes nspawn: two machines in one
        # cgroup collide in nspawn's /payload. /tmp is covered, so that nspawn's overlay directory is never
        # left on the host's; a stage that lies in there is bound to a place outside before. The parent-death
        # signal ends nspawn when a test run is killed.
        lines = [f"mkdir -p {path} && echo $$ >{path}/cgroup.procs" for path in self._cgroups()]
        lines.append(shlex.join(["mount", "--bind", "/", str(self._work / "root")]))
        binds = [
            f"--bind={self._work / 'run'}:{self.unit_dir}",
            f"--bind={self._work / 'etc'}:/etc/systemd/system",
            f"--bind-ro={self._work / 'lib'}:{UNITS}",
            f"--bind={self._work / 'state'}:{self.layout.state}",
            # Of all drop-ins the one whose name comes last counts.
            *(f"--bind-ro={self._work / name}:/run/systemd/{name}.d/zz-proofs.conf" for name in DEFAULTS),
        ]
        for number, (source, target) in enumerate(self._binds):
            place = self._work / f"stage-{number}"
            if source.is_dir():
                place.mkdir()
            else:
                place.touch()
            lines.append(shlex.join(["mount", "--bind", str(source), str(place)]))
            binds.append(f"--bind-ro={place}:{target}")
        lines += [
            "mount -t tmpfs tmpfs /tmp",
            # As on a current distribution, whatever the host has. The v1 hierarchies would be ten mounts more, and each
            # start of a sandboxed unit reads the list of all mounts again and again.
            f"export NOTIFY_SOCKET={shlex.quote(str(notify))} SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",
            shlex.join(["exec", "setpriv", "--pdeathsig", "KILL", *self._nspawn_argv(binds)]),
        ]
        return " && ".join(lines)

    def _nspawn_argv(self, binds: list[str]) -> list[str]:
        return [
            "systemd-nspawn", "--register=no", "--keep-unit", "--quiet", f"--machine={self.name}",
            f"--directory={self._work / 'root'}", "--volatile=overlay", "--link-journal=no",
            "--resolv-conf=off", "--timezone=off", "--console=pipe", "--notify-ready=yes",
            f"--setenv=SYSTEMD_GENERATOR_PATH={NO_GENERATORS}",
            *self._network, *binds, "--boot", "systemd.unit=proofs.target",
        ]  # fmt: skip

    def _complete(self) -> None:
        """What a boot does for all units beyond starting them."""
        # The journal is its group's to read.
        self.run("systemd-tmpfiles", "--create", "--prefix=/run/log/journal").expect(*NOT_ALL_TAKEN)
        lines = [line for path in self._users for line in path.read_text("utf-8").splitlines()]
        # As an argument, a remark is not understood.
        wanted = [line for line in lines if line and not line.startswith("#")]
        if wanted:
            self.run("systemd-sysusers", "--inline", *wanted).expect(0)

    def _await_boot(self, notify: socket.socket) -> None:
        end = self._clock.monotonic() + BOOT_SECS
        while True:
            notify.settimeout(max(0.05, min(0.5, end - self._clock.monotonic())))
            try:
                message = notify.recv(4096).decode("utf-8", "replace")
            except TimeoutError:
                message = ""
            for line in message.splitlines():
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    self._leader = int(line.partition("=")[2])
                    self._began = process_start(self._leader)
                if line == "READY=1" and self._leader > 1:
                    return
            assert self._nspawn is not None
            if not self._nspawn.alive or self._clock.monotonic() > end:
                how = f"is not up after {BOOT_SECS:g} s" if self._nspawn.alive else "ended while it booted"
                console = [line for line in self._console if IN_EVERY_BOOT not in line]
                told = f"its console:\n{''.join(console[-20:])}" if console else "its console says nothing"
                reasons = [f"machine {self.name} {how}", *filter(None, [short_of_inotify()]), told]
                raise MachineError("; ".join(reasons))

    def halt(self) -> None:
        if not self._work.exists():
            return
        _umask.leave(self.name)
        if self._nspawn is not None:
            if self.alive():
                # As a power cut: nothing in the overlay is worth an orderly shutdown of 2 s. One that goes down by
                # itself may leave the command where it is.
                with contextlib.suppress(CommandFailed):
                    poweroff = self._enter("systemctl", "poweroff", "--force", "--force")
                    self._shell.run(*poweroff, timeout_secs=HALT_SECS)
            if not self._nspawn.wait(HALT_SECS):
                self._nspawn.kill()
        self._nspawn = None
        self._leader = 0
        remove_machine(self.name, self._clock)
        self._shell.recorder.write("machine", name=self.name, variant=self.kind, event="halted")

    def alive(self) -> bool:
        if self._leader <= 1:
            return False
        name, state, started = process_stat(self._leader)
        # It ends as another program of systemd's, and has no namespaces to enter when it has ended.
        return started == self._began and name == "systemd" and state not in "ZX"

    def run(self, *argv: str, timeout_secs: float = 60.0) -> CommandResult:
        entered = self._enter(*argv)
        self._expect_alive()
        with awaiting(shlex.join(argv)):
            done = self._shell.run(*entered, timeout_secs=timeout_secs)
        if done.status != 0:
            if _GOES_DOWN.search(done.stderr):
                poll(lambda: None if self.alive() else True, self._clock, DOWN_SECS)
            self._expect_alive()
        return done

    def _expect_alive(self) -> None:
        if not self.alive():
            actions = "FailureAction=, SuccessAction=, StartLimitAction= or JobTimeoutAction="
            raise MachineError(
                f"machine {self.name} went down, which nobody had asked for: a unit's {actions} ends a whole computer"
            )

    def systemctl(self, *args: str, timeout_secs: float = 60.0) -> CommandResult:
        return self.run("systemctl", *args, timeout_secs=timeout_secs)

    def systemd_run(self, *args: str) -> CommandResult:
        return self.run("systemd-run", *args)

    def open_journal(self, reader: JournalReader) -> None:
        # The machine is as old as the run, so its journal is read from the start.
        (directory,) = self.path("/run/log/journal").iterdir()
        reader.open_directory(str(directory))

    def journal_command(self, unit: str) -> str:
        return shlex.join(self._enter("journalctl", "-u", unit))

    def path(self, inside: str) -> Path:
        if self._leader <= 1:
            raise MachineError(f"machine {self.name} is not running")
        if inside == self.layout.state or inside.startswith(f"{self.layout.state}/"):
            # SQLite resolves links itself and would take /proc/<pid>/root for our own root: the state directory,
            # which holds the database, is a directory of the host's.
            return self._work / f"state{inside.removeprefix(self.layout.state)}"
        return Path(f"/proc/{self._leader}/root{inside}")

    def start_outside(self, *argv: str) -> Process:
        return self._shell.start(*argv, on_line=_unheard)

    def pid_outside(self, inside: int) -> int:
        space = Path(f"/proc/{self._leader}/ns/pid").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            # Whatever ends meanwhile is not meant.
            with contextlib.suppress(OSError):
                numbers = re.search(rf"^NSpid:.*\s{inside}$", (process / "status").read_text(), re.MULTILINE)
                if numbers and (process / "ns/pid").readlink() == space:
                    return int(process.name)
        return 0

    def _enter(self, *argv: str) -> tuple[str, ...]:
        if self._leader <= 1:
            raise MachineError(f"machine {self.name} is not running")
        return ("nsenter", "-t", str(self._leader), "-a", *argv)

    def _cgroups(self) -> list[str]:
        return [f"{parent}/{self.name}" for parent in cgroup_parents()]


class _BorrowedManager:
    """A systemd that runs anyway: units are lent to it for the run, below a runtime directory, and taken back."""

    kind: str
    unit_dir: str
    _manager: tuple[str, ...]
    """How systemctl and journalctl are told which manager is meant."""

    def __init__(self, shell: Shell, stage: Stage, name: str, work: Path) -> None:
        self.name = name
        self._shell = shell
        self._stage = stage
        self._work = work
        self._held = -1

    def halt(self) -> None:
        self._take_back()
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _take_back(self) -> None:
        _umask.leave(self.name)
        self.systemctl("stop", ENGINE_UNIT, "proof-*.service")
        for path in Path(self.unit_dir).glob("proof-*.service"):
            path.unlink()
        Path(self.unit_dir, ENGINE_UNIT).unlink(missing_ok=True)
        shutil.rmtree(Path(self.unit_dir, f"{ENGINE_UNIT}.d"), ignore_errors=True)
        shutil.rmtree(self._work, ignore_errors=True)
        # Of several that are lent at once, the last one's end removes it.
        with contextlib.suppress(OSError):
            self._work.parent.rmdir()
        self.systemctl("daemon-reload")

    def alive(self) -> bool:
        return True

    def run(self, *argv: str, timeout_secs: float = 60.0) -> CommandResult:
        if programs := [word for word in argv if word.startswith(f"{PREFIX}/")]:
            raise Unavailable(f"{programs[0]} is installed in a private machine only", "use --systemd=private")
        with awaiting(shlex.join(argv)):
            return self._shell.run(*argv, timeout_secs=timeout_secs)

    def systemctl(self, *args: str, timeout_secs: float = 60.0) -> CommandResult:
        return self.run("systemctl", *self._manager, *args, timeout_secs=timeout_secs)

    def systemd_run(self, *args: str) -> CommandResult:
        return self.run("systemd-run", *self._manager, *args)

    def start_outside(self, *argv: str) -> Process:
        return self._shell.start(*argv, on_line=_unheard)

    def pid_outside(self, inside: int) -> int:
        return inside

    def journal_command(self, unit: str) -> str:
        return shlex.join(["journalctl", *self._manager, "-u", unit])

    def _lend(self) -> None:
        """Put the installed unit and its configuration where the manager finds them.

        Raises Unavailable when an engine is installed there: its unit is never touched. Nor is that of another run,
        which keeps the directory locked until its process ends.
        """
        Path(self.unit_dir).mkdir(parents=True, exist_ok=True)
        self._held = os.open(self.unit_dir, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"another run has its {ENGINE_UNIT} in {self.unit_dir}", "wait for its end") from None
        fragment = self.systemctl("show", ENGINE_UNIT, "--property=FragmentPath", "--value").stdout.strip()
        if fragment == f"{self.unit_dir}/{ENGINE_UNIT}":
            # Nobody but us installs into a runtime directory: a killed run left it.
            self._take_back()
        elif fragment:
            raise Unavailable(f"this manager has a {ENGINE_UNIT} of its own ({fragment})", "use PROOFS_SYSTEMD=private")
        if self.kind == "user":
            # Nobody else lends there while the directory is locked. What is left of root's runs is swept.
            for left in self._work.parent.glob("*"):
                shutil.rmtree(left, ignore_errors=True)
        _umask.take(self.name)
        for directory in (self._work / "etc", self._work / "state"):
            directory.mkdir(parents=True)
        shutil.copytree(self._stage.etc, self._work / "etc", dirs_exist_ok=True)
        shutil.copy(self._stage.unit(ENGINE_UNIT), self.unit_dir)


class HostMachine(_BorrowedManager):
    """The computer's own system manager. Needs root, and leaves an installed engine alone."""

    kind = "host"
    unit_dir = "/run/systemd/system"
    _manager = ()

    def __init__(self, shell: Shell, stage: Stage, name: str) -> None:
        super().__init__(shell, stage, name, RUN_DIR / name)
        self.layout = Layout(state="/var/lib/proof-engine", disk=f"{self._work}/disk")
        binds = " ".join(f"{source}:{target}" for source, target in stage.binds(units=False))
        # The user goes when the unit does, and is not left on a computer that is only borrowed; nor does the unit take
        # over the state of an engine that was installed here once. systemd maps the state directory of such a user by
        # id from 257 on, and cannot where a disk is mounted inside.
        self.base_drop_in = f"""\
[Service]
DynamicUser=yes
User=hybrid-proof
StateDirectory=
StateDirectory=proof-engine
StateDirectoryMode=0750
WorkingDirectory=%S/proof-engine
BindReadOnlyPaths={binds}
BindPaths={self._work}/etc:/etc/hybrid-engine
ReadWritePaths=-{self.layout.disk}
"""

    def boot(self) -> None:
        if os.geteuid() != 0 or not Path(self.unit_dir).is_dir():
            raise Unavailable("PID 1 is not a systemd that we may drive", "use PROOFS_SYSTEMD=private, as root")
        self._lend()

    def _take_back(self) -> None:
        super()._take_back()
        # What systemd made for the unit: its state, and where it bound something.
        state = Path(self.layout.state)
        if state.is_symlink():
            state.unlink()
        shutil.rmtree(state.parent / "private" / state.name, ignore_errors=True)
        for place in (Path(self.layout.config).parent, Path(PREFIX)):
            with contextlib.suppress(OSError):
                place.rmdir()

    def open_journal(self, reader: JournalReader) -> None:
        reader.open(JournalOpenMode.SYSTEM)
        reader.seek_tail()
        reader.previous()

    def path(self, inside: str) -> Path:
        if inside.startswith("/etc/hybrid-engine/"):
            return self._work / "etc" / inside.removeprefix("/etc/hybrid-engine/")
        return Path(inside)


class UserMachine(_BorrowedManager):
    """The invoking user's own manager: no root, and so none of the unit's sandbox."""

    kind = "user"
    _manager = ("--user",)

    def __init__(self, shell: Shell, stage: Stage, name: str) -> None:
        runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        super().__init__(shell, stage, name, Path(runtime, "hybrid-proofs", name))
        self.unit_dir = f"{runtime}/systemd/user"
        self.layout = Layout(
            config=f"{self._work}/etc/config.toml",
            sources=f"{self._work}/etc/ws_sources.toml",
            state=f"{self._work}/state",
            disk=f"{self._work}/state/disk",
            prefix=str(stage.prefix),
        )
        # A user manager cannot give a service another user, another root or fewer capabilities than it has.
        self.base_drop_in = f"""\
[Service]
ExecStart=
ExecStart={stage.prefix}/bin/python -I {stage.prefix}/bin/hybrid-engine --config {self.layout.config}
WorkingDirectory={self.layout.state}
User=
StateDirectory=
ConfigurationDirectory=
ProtectSystem=no
ProtectHome=no
ProtectProc=default
ProcSubset=all
PrivateTmp=no
PrivateDevices=no
PrivateUsers=no
ProtectClock=no
ProtectControlGroups=no
ProtectHostname=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectKernelTunables=no
DevicePolicy=auto
CapabilityBoundingSet=~
"""

    def boot(self) -> None:
        if self.systemctl("show-environment").status != 0:
            raise Unavailable("no user manager answers", "log in through systemd-logind, or run as root")
        self._lend()

    def open_journal(self, reader: JournalReader) -> None:
        # A journal that is not kept on disk has no file for each user, so all that may be read are opened.
        files = [path for top in JOURNALS for path in top.glob("*/*.journal") if os.access(path, os.R_OK)]
        if not files:
            raise Unavailable("no journal may be read by this user", "add the user to the group systemd-journal")
        reader.open(JournalOpenMode.LOCAL_ONLY)
        reader.seek_tail()
        reader.previous()

    def path(self, inside: str) -> Path:
        return Path(inside)


def user_manager() -> Path:
    """Return where this user's own manager answers, when it runs."""
    return Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"), "systemd", "private")


def why_not_private() -> Unavailable | None:
    """Return what keeps this computer from booting a private machine, or None when nothing does."""
    if os.geteuid() != 0:
        instead = ", or use PROOFS_SYSTEMD=user" if user_manager().exists() else ""
        return Unavailable("a private systemd needs root", f"run as root{instead}")
    for program, package in (
        ("systemd-nspawn", "systemd-container"),
        ("nsenter", "util-linux"),
        ("dbus-daemon", "dbus"),
    ):
        if shutil.which(program) is None:
            return Unavailable(f"{program} is not installed", f"apt-get install {package}")
    if reason := _why_not_to_be_entered():
        return reason
    if not cgroup_parents():
        return Unavailable("no writable cgroup hierarchy for systemd", "mount cgroup2 on /sys/fs/cgroup")
    return None


@cache
def _why_not_to_be_entered() -> Unavailable | None:
    """Return what is wrong where this process may enter no namespace, or its root is not that of its own mount
    namespace, where setns(2) puts whoever enters it.

    Asked of a process that enters it, since a chroot does not show in /proc of its own.
    """
    seen = Shell(Unrecorded()).run("nsenter", "--mount=/proc/self/ns/mnt", "stat", "-Lc", "%d %i", "/")
    if seen.status != 0:
        return Unavailable(
            f"nobody may enter a namespace here: {seen.stderr.strip()}",
            "run as root with CAP_SYS_ADMIN and CAP_SYS_CHROOT, in a container for instance with --privileged",
        )
    here = os.stat("/")
    if seen.stdout.split() == [str(here.st_dev), str(here.st_ino)]:
        return None
    return Unavailable(
        "this is a chroot: what enters a machine's namespaces would land outside of it",
        "make the directory a root of its own, as `python -m harness debian` does, or boot it with systemd-nspawn",
    )


def short_of_inotify() -> str:
    """Return what there is to say when this user has too few inotify instances left for one more machine, whose systemd
    then ends without a word; empty when there are enough."""
    used, most = inotify_instances()
    if most - used >= INOTIFY_INSTANCES:
        return ""
    return (
        f"{used} of the {most} inotify instances of this user are in use (sysctl fs.inotify.max_user_instances), and a "
        f"machine takes {INOTIFY_INSTANCES}"
    )


def inotify_instances() -> tuple[int, int]:
    """Return how many inotify instances this user's processes hold, nearly, and how many the kernel gives."""
    used = 0
    for process in Path("/proc").glob("[0-9]*"):
        # Processes come and go, and those of others may not be looked at.
        with contextlib.suppress(OSError):
            if process.stat().st_uid == os.geteuid():
                for link in (process / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        used += os.readlink(link) == "anon_inode:inotify"
    return used, int(INOTIFY_LIMIT.read_text())


def choose(kind: str) -> str:
    """Return the variant that `auto` stands for on this computer; any other kind as it is.

    Raises Unavailable when `auto` finds no systemd at all.
    """
    if kind != "auto":
        return kind
    reason = why_not_private()
    if reason is None:
        return "private"
    if user_manager().exists():
        return "user"
    raise reason


def make(
    kind: str, shell: Shell, stage: Stage | None, name: str, network: Path | Literal["own"] | None = None
) -> Machine:
    """Return a machine of the given kind (private, host, user), not booted yet.

    stage: the engine that is installed in it; None for a private machine without one, for services of one's own.
    network: of a private machine.
    """
    if kind == "private":
        return PrivateMachine(shell, stage.binds() if stage else [], name, network=network)
    if stage is None:
        raise Unavailable(
            f"a {kind} systemd is not ours to install services of your own in", "use PROOFS_SYSTEMD=private"
        )
    if kind == "host":
        return HostMachine(shell, stage, name)
    if kind == "user":
        return UserMachine(shell, stage, name)
    raise ValueError(f"no such systemd variant: {kind!r}; one of private, host, user, auto")


def cgroup_parents() -> list[str]:
    """Return the cgroup directories under which a machine needs one of its own: hybrid layout, or pure v2."""
    hybrid = [path for path in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified") if _has_procs(path)]
    return hybrid or [path for path in ("/sys/fs/cgroup",) if _has_procs(path)]


def _has_procs(path: str) -> bool:
    return os.access(f"{path}/cgroup.procs", os.W_OK)


def process_start(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty when it is gone."""
    return process_stat(pid)[2]


def process_stat(pid: int) -> tuple[str, str, str]:
    """Name, state and start (clock ticks since boot) of a process, fields 2, 3 and 22 of /proc/PID/stat (proc(5));
    empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return "", "", ""
    names, _, rest = stat.rpartition(")")
    fields = rest.split()
    return names.partition("(")[2], fields[0], fields[19]


def sweep(clock: Clock | None = None) -> list[str]:
    """Remove what killed runs left behind: machines whose owner is gone. Returns their names."""
    swept = []
    for work in sorted(RUN_DIR.glob("*")) if RUN_DIR.is_dir() and os.geteuid() == 0 else []:
        try:
            owner: Mapping[str, object] = json.loads((work / "owner.json").read_text())
            alive = process_start(int(str(owner["pid"]))) == owner["started"]
        except (OSError, ValueError, KeyError):
            # A directory that is being made or removed right now has a living owner that will deal with it.
            alive = process_start(_pid_in_name(work.name)) != ""
        if not alive:
            remove_machine(work.name, clock or OsClock())
            swept.append(work.name)
    if os.geteuid() == 0:
        _sweep_cgroups((clock or OsClock()).wall())
    return swept


def _sweep_cgroups(now: float) -> None:
    """Remove the cgroups of machines whose state directory went with a file system of its own, as that of a run in a
    chroot does, and in which no process is left, of whatever PID namespace."""
    for tree in (tree for parent in cgroup_parents() for tree in Path(parent).glob("proof-[0-9]*-*")):
        with contextlib.suppress(OSError):
            if now - tree.stat().st_mtime > FORSAKEN_SECS and not any(True for _ in _pids_below(tree)):
                _remove_cgroups(tree)


def _pid_in_name(name: str) -> int:
    digits = name.split("-")[1] if name.count("-") else ""
    return int(digits) if digits.isdigit() else 0


def remove_machine(name: str, clock: Clock) -> None:
    """Kill whatever is left in a machine's cgroup, then remove cgroup and state directory."""
    trees = [Path(parent, name) for parent in cgroup_parents()]

    def empty() -> bool | None:
        pids = {pid for tree in trees for pid in _pids_below(tree) if pid > 1}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return None if pids else True

    if poll(empty, clock, HALT_SECS) is None:
        raise MachineError(f"processes of machine {name} survive SIGKILL; see {trees[0]}/cgroup.procs")
    for tree in trees:
        _remove_cgroups(tree)
    shutil.rmtree(RUN_DIR / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        RUN_DIR.rmdir()


def _remove_cgroups(tree: Path) -> None:
    for directory, _, _ in os.walk(tree, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)


def _pids_below(tree: Path) -> Iterator[int]:
    for directory, _, _ in os.walk(tree):
        try:
            text = Path(directory, "cgroup.procs").read_text()
        except OSError:
            continue
        yield from map(int, text.split())
