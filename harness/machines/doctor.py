"""What this computer can prove, line by line, and what to install for the rest."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.base import files
from harness.base.clock import OsClock
from harness.base.errors import HarnessError, Unavailable
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.machines import tools
from harness.machines.machine import INOTIFY_INSTANCES, PrivateMachine, inotify_instances, user_manager
from harness.machines.stage import Stage

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""Names under which distributions install a browser that playwright can drive."""


MACHINES_AT_ONCE = 10
"""Two workers of a run have no more, each its own and a few of single units."""

_DETAIL_COLUMN = 32
"""Where a finding's words begin."""


@dataclass(frozen=True)
class Requirement:
    """One line of the report."""

    subject: str
    ok: bool
    detail: str
    remedy: str = ""
    """What to do about it; empty when it is ok or nothing can be done."""
    needed: bool = True
    """Whether proofs stay unproven without it."""


def examine() -> list[Requirement]:
    """Look at everything a proof may need, and boot a machine. Leaves nothing behind."""
    checks: tuple[Callable[[], Requirement], ...] = (
        _python, _checkout, _private, _inotify, _host, _user, _journal, _pressure, _tracer, _cgroup_controllers,
        _browser, _fleet, _tools,
    )  # fmt: skip
    return [check() for check in checks]


def _python() -> Requirement:
    version = ".".join(map(str, sys.version_info[:3]))
    real = Path(sys.executable).resolve()
    hidden = real.is_relative_to("/root") or real.is_relative_to("/home")
    return Requirement(
        "python",
        not hidden,
        f"{version} at {real}",
        "make clean, then make with PYTHON=/usr/bin/python3: the unit's user cannot read an interpreter under a home"
        if hidden
        else "",
    )


UNUSABLE = frozenset('$"`\\')
"""What may be in no path of an environment: a shell reads what pip writes into the programs that it installs."""


def _checkout() -> Requirement:
    here = Path.cwd()
    if UNUSABLE & set(sys.prefix):
        detail = f'{sys.prefix} has one of $ " ` \\ in its path'
        return Requirement("checkout", False, detail, "move it: its programs cannot be run there")
    wanted = [here / "reports", *([here / ".cache"] if Stage(here).is_possible else [])]
    for place in wanted:
        if why := files.why_not_writable(place):
            remedy = "clone it to where you may write: no verdict is kept here"
            return Requirement("checkout", False, f"cannot write {place}: {why}", remedy)
    return Requirement("checkout", True, f"{here} can be written")


def _private() -> Requirement:
    clock = OsClock()
    machine = PrivateMachine(Shell(Unrecorded()), [], f"proof-{os.getpid()}-doctor")
    began = clock.monotonic()
    try:
        machine.boot()
    except Unavailable as error:
        return Requirement("private systemd", False, error.reason, error.remedy)
    except HarnessError as error:
        lines = str(error).splitlines()
        why = " ".join(dict.fromkeys((lines[0], lines[-1])))
        return Requirement("private systemd", False, why, "see what systemd-nspawn may not do here")
    finally:
        machine.halt()
    return Requirement("private systemd", True, f"systemd-nspawn boots one, in {clock.monotonic() - began:.1f} s")


def _inotify() -> Requirement:
    try:
        used, most = inotify_instances()
    except (OSError, ValueError):
        return Requirement("inotify instances", True, "this kernel tells no limit", needed=False)
    room = (most - used) // INOTIFY_INSTANCES
    detail = f"{used} of {most} in use by this user: room for {max(room, 0)} private machines"
    return Requirement(
        "inotify instances",
        room >= MACHINES_AT_ONCE,
        detail,
        "" if room >= MACHINES_AT_ONCE else "sysctl fs.inotify.max_user_instances=512, or end what holds them",
        needed=False,
    )


def _host() -> Requirement:
    booted = Path("/run/systemd/system").is_dir()
    detail = "PID 1 is systemd" if booted else "PID 1 is not systemd"
    return Requirement(
        "host systemd", booted and os.geteuid() == 0, detail, "" if booted else "not needed", needed=False
    )


def _user() -> Requirement:
    socket = user_manager()
    detail = f"a manager answers at {socket}" if socket.exists() else "no user manager runs"
    return Requirement("user systemd", socket.exists(), detail, "" if socket.exists() else "not needed", needed=False)


def _journal() -> Requirement:
    found = shutil.which("journalctl")
    return Requirement("journalctl", bool(found), found or "not installed", "" if found else "apt-get install systemd")


def _pressure() -> Requirement:
    readable = os.access("/proc/pressure/cpu", os.R_OK)
    return Requirement(
        "pressure (PSI)",
        readable,
        "/proc/pressure is readable" if readable else "/proc/pressure is missing",
        "" if readable else "boot a kernel with CONFIG_PSI=y and psi=1",
    )


def _cgroup_controllers() -> Requirement:
    try:
        controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    except OSError:
        controllers = []
    ok = {"cpu", "memory"} <= set(controllers)
    return Requirement(
        "cgroup v2 cpu, memory",
        ok,
        "available" if ok else "not available: CPUQuota= and MemoryMax= do nothing here",
        "" if ok else "not needed: the caged neighbour uses CPUSchedulingPolicy=idle",
        needed=False,
    )


def _tracer() -> Requirement:
    found = shutil.which("strace")
    return Requirement(
        "strace",
        bool(found),
        found or "not installed",
        "" if found else "apt-get install strace: two proofs about any engine need it, no other does",
        needed=False,
    )


def _browser() -> Requirement:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return Requirement(
        "browser",
        bool(found),
        found or f"none of {', '.join(BROWSERS)}",
        "" if found else "apt-get install chromium: the tests of the dashboard's page need it, no proof does",
        needed=False,
    )


def _fleet() -> Requirement:
    wanted = {
        "nats-server": "nats-server", "PostgreSQL": "postgres", "Prometheus": "prometheus",
        "Alertmanager": "prometheus-alertmanager",
    }  # fmt: skip
    missing = [name for name, command in wanted.items() if tools.find(command) is None]
    return Requirement(
        "fleet",
        not missing,
        f"missing: {', '.join(missing)}" if missing else f"{', '.join(wanted)} are here",
        f"{tools.REMEDY}: the proofs in proofs/fleet need them, no other does" if missing else "",
        needed=False,
    )


def _tools() -> Requirement:
    missing = [tool for tool in ("unshare", "nsenter", "setpriv", "mount", "make", "git") if shutil.which(tool) is None]
    return Requirement(
        "tools",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "unshare, nsenter, setpriv, mount, make and git are here",
        "apt-get install util-linux mount make git" if missing else "",
    )


def report(findings: list[Requirement], *, colour: bool, columns: int = 80) -> str:
    """Return the findings as text within so many columns, and a last line that says what follows."""
    # Words stand beside marks and subjects where there is room for it, else below them.
    indent = " " * (_DETAIL_COLUMN if columns >= 2 * _DETAIL_COLUMN else 4)
    lines = []

    def words(text: str, first: str = "") -> list[str]:
        return textwrap.wrap(
            first + text, max(columns - len(indent), 20), subsequent_indent=" " * len(first), break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip

    for finding in findings:
        mark, code = ("ok", 32) if finding.ok else ("missing", 31) if finding.needed else ("absent", 33)
        shown = f"\x1b[{code}m{mark:<8}\x1b[0m" if colour else f"{mark:<8}"
        told = [f"{indent}{line}" for line in words(finding.detail)]
        if len(indent) == _DETAIL_COLUMN:
            told[0] = f"{shown} {finding.subject:<22} {told[0].strip()}"
        else:
            lines.append(f"{shown} {finding.subject}")
        lines += told + [f"{indent}{line}" for line in words(finding.remedy, "-> ") if finding.remedy]
    lacking = [finding.subject for finding in findings if finding.needed and not finding.ok]
    end = (
        f"Proofs that need {', '.join(lacking)} will be unproven here." if lacking else "Everything can be proven here."
    )
    lines += textwrap.wrap(end, columns)
    return "\n".join(lines)
