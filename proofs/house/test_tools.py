"""What make installs on somebody's computer, and what it leaves alone there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOLD = '#!/bin/sh\necho "$(basename "$0") $*" >>"$TOLD_BY"\n'


@pytest.fixture
def computer(tmp_path: Path) -> Path:
    """A directory of commands without nats-server, in which apt-get and systemctl only tell what they were asked."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("bash", "sh", "awk", "nproc", "id", "ls", "env", "basename", "test"):
        found = shutil.which(name)
        assert found is not None
        (commands / name).symlink_to(found)
    for name in ("apt-get", "systemctl", "sudo"):
        (commands / name).write_text(TOLD if name != "sudo" else '#!/bin/sh\nexec "$@"\n')
        (commands / name).chmod(0o755)
    return commands


def installed(root: Path, commands: Path) -> list[str]:
    told = commands.parent / "told"
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(
        [make, "fleet-tools"], cwd=root, capture_output=True, text=True, timeout=60,
        env={"PATH": str(commands), "TOLD_BY": str(told), "HOME": os.environ.get("HOME", "/")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return told.read_text().splitlines() if told.exists() else []


POSTGRESQL_MISSING = not list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
COMMANDS = {
    "nats-server": "nats-server",
    "prometheus": "promtool",
    "prometheus-alertmanager": "prometheus-alertmanager",
}
"""Package -> the command by which it is there."""


@pytest.mark.parametrize("there", [[], ["nats-server"], ["prometheus"], list(COMMANDS)], ids="+".join)
def test_a_server_that_was_there_before_is_left_as_it_is(
    pytestconfig: pytest.Config, computer: Path, there: list[str]
) -> None:
    for package in there:
        (computer / COMMANDS[package]).write_text("#!/bin/sh\n")
        (computer / COMMANDS[package]).chmod(0o755)
    order = ["nats-server", "postgresql", "prometheus", "prometheus-alertmanager"]
    missing = " ".join(one for one in order if one not in there and (one != "postgresql" or POSTGRESQL_MISSING))
    told = installed(pytestconfig.rootpath, computer)
    if missing:
        assert told[-2].startswith("apt-get install ")
        assert told[-2].endswith(f" --no-install-recommends {missing}")
        assert told[-1] == f"systemctl disable --quiet --now {missing}"
    else:
        assert told == []
