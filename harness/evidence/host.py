"""Facts about the computer a run happens on, for the flight record."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from harness.evidence.shell import Shell


def facts(shell: Shell, checkout: Path) -> dict[str, str]:
    """Return what a reader of the evidence needs to know of the computer and the sources; values are plain text."""
    found = {
        "host": platform.node(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "os": _os_name(),
        "python": platform.python_version(),
        "cpus": str(os.cpu_count()),
        "user": "root" if os.geteuid() == 0 else f"uid {os.geteuid()}",
    }
    if shutil.which("systemctl"):
        found["systemd"] = shell.run("systemctl", "--version").stdout.splitlines()[0]
    if shutil.which("git") and (checkout / ".git").exists():
        head = shell.run("git", "-C", str(checkout), "rev-parse", "HEAD")
        status = shell.run("git", "-C", str(checkout), "status", "--porcelain")
        found["commit"] = head.stdout.strip() if head.status == 0 else "none"
        found["tree"] = "clean" if status.status == 0 and not status.stdout else "modified"
    return found


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"
