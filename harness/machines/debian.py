"""Another Debian in a directory, to run the proofs on: `python -m harness debian --release 13 make proofs`.

debootstrap makes it once. Commands then run on a fresh clone of this checkout, in namespaces of their own whose root is
that directory: not in a plain chroot, out of which a private machine's tools would land in the outer root (see
`machine.why_not_private`). They share this computer's kernel, cgroups and loopback. When the command ends, or whoever
waits for it is killed, all that it started is gone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from harness.base.errors import Unavailable
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell

RELEASES = {"12": "bookworm", "13": "trixie", "14": "forky"}
"""Supported versions of Debian, and the names under which their archives go. 14 is not released yet."""

PACKAGES = (
    "ca-certificates", "dbus", "git", "iproute2", "make", "procps", "python3", "python3-venv", "systemd",
    "systemd-container",
)  # fmt: skip
"""What a computer has on which somebody types the two commands of the README. The rest `make` installs itself."""

DEFAULT_MIRROR = ""
SCRIPT = "sid"
"""What debootstrap makes each of them by. It is told, since an older debootstrap does not know the newer names."""

CHECKOUT = "srv/checkout"
"""Where the clone lies inside."""

LENT = (
    "etc/resolv.conf", "etc/hosts", "etc/pip.conf", "etc/ssl/certs/ca-certificates.crt", "etc/apt/apt.conf.d",
)  # fmt: skip
"""How this computer reaches archives: copied, where it exists."""

ENTER = """
root=$1; shift
mount --rbind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
test "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs || mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
cd "$root"
mount --move . /
exec chroot . bash -uc 'cd "/$1" && shift && "$@"; exit' inside "$@"
"""
"""Makes a directory the root, and runs a command in it.

Not as PID 1 of the namespace, which must reap orphans: bash becomes what comes last in a script, so that is `exit`. By
moving it, since a plain Debian 14 has no pivot_root. systemd 258 and later boots nothing beside cgroup v1.
"""


def entering(root: Path, directory: str, command: list[str]) -> list[str]:
    """Return the argv that runs a command in namespaces of its own whose root is `root`; directory: relative to it."""
    return [
        "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child",
        "bash", "-euc", ENTER, "enter", str(root), directory, *command,
    ]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `python -m harness debian`."""
    parser.description = (
        "Run a command on a fresh clone of this checkout, on another Debian that debootstrap makes in .cache (a "
        "minute, once). Needs root. Exit status: the command's."
    )
    parser.epilog = (
        "examples:\n  python -m harness debian --release 13 make proofs\n  python -m harness debian --release 12 bash\n"
        "  make debian VERSION=13"
    )
    parser.add_argument("--release", choices=RELEASES, required=True, help="version of Debian")
    parser.add_argument("--directory", type=Path, help="where it lies (default: .cache/debian-RELEASE)")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run, such as `make proofs`")


def run(options: argparse.Namespace) -> int:
    """Make the Debian if it is not there, clone into it, and become the command. Does not return.

    Raises Unavailable where this computer cannot make one, CommandFailed when debootstrap fails.
    """
    root = (options.directory or Path(".cache", f"debian-{options.release}")).resolve()
    shell = Shell(Unrecorded())
    make(shell, root, RELEASES[options.release])
    _clone(shell, Path.cwd(), root / CHECKOUT)
    argv = entering(root, CHECKOUT, options.words or ["bash"])
    sys.stdout.flush()
    os.execvp(argv[0], argv)


def make(shell: Shell, root: Path, suite: str) -> None:
    """Make the Debian `suite` by debootstrap, unless it is there, and lend it this computer's ways to archives.

    Raises Unavailable where this computer cannot make one, CommandFailed when debootstrap fails.
    """
    if os.geteuid() != 0:
        raise Unavailable("another Debian is root's to make", "sudo make debian VERSION=13")
    made = root / ".made"
    if not made.exists():
        if shutil.which("debootstrap") is None:
            raise Unavailable("debootstrap is not installed", "apt-get install debootstrap")
        print(f"making {root} by debootstrap, which takes a minute and is done once", file=sys.stderr)
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        include = ",".join(PACKAGES)
        shell.run(
            "debootstrap", "--variant=minbase", f"--include={include}", suite, str(root), DEFAULT_MIRROR, SCRIPT,
            timeout_secs=900,
        ).expect()  # fmt: skip
        made.touch()
    for lent in LENT:
        ours, theirs = Path("/", lent), root / lent
        if ours.is_dir():
            shutil.copytree(ours, theirs, dirs_exist_ok=True)
        elif ours.exists():
            theirs.parent.mkdir(parents=True, exist_ok=True)
            theirs.unlink(missing_ok=True)
            shutil.copy(ours, theirs)


def _clone(shell: Shell, checkout: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shell.run("git", "clone", "--quiet", str(checkout), str(target), timeout_secs=300).expect()
