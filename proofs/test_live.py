"""Lines below pytest's output, seen as a person sees them: through a terminal's emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte
import pytest

from harness.clock import OsClock, poll

COLUMNS, ROWS = 80, 24

TESTS = """
import pathlib
import pytest
from harness.clock import OsClock, poll
from harness.waiting import awaiting

def test_first():
    pass

@pytest.mark.parametrize("number", range(3))
def test_that_waits_for_somebody(number):
    with awaiting("the file go"):
        assert poll(lambda: True if pathlib.Path("go").exists() else None, OsClock(), 30.0)
"""


class Screen:
    """A command on a terminal, and what can be read there."""

    def __init__(self, directory: Path, argv: list[str], **environ: str) -> None:
        (directory / "test_sample.py").write_text(TESTS)
        (directory / "pytest.ini").write_text("[pytest]\n")
        self.directory = directory
        self.raw = b""
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.set_blocking(master, False)
        self._master = master
        inherited = {
            name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES", "CI")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *argv], cwd=directory,
            stdin=slave, stdout=slave, stderr=slave, env={**inherited, "TERM": "xterm-256color", **environ},
        )  # fmt: skip
        os.close(slave)

    def text(self) -> str:
        """The rows that are not empty, as they stand now."""
        try:
            while data := os.read(self._master, 65536):
                self.raw += data
                self._stream.feed(data)
        except OSError:  # Nothing more for now, or for good.
            pass
        return "\n".join(row.rstrip() for row in self._screen.display if row.strip())

    def wait(self, look: Callable[[str], object]) -> str:
        """Until what stands on the screen satisfies `look`."""
        found = poll(lambda: text if look(text := self.text()) else None, OsClock(), 30.0)
        assert found is not None, self.text()
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextmanager
def screen(directory: Path, argv: list[str], **environ: str) -> Iterator[Screen]:
    running = Screen(directory, argv, **environ)
    try:
        yield running
    finally:
        running.close()


def finished(text: str) -> bool:
    return bool(re.search(r"\d passed in ", text))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_process_says_what_it_waits_for_and_pytests_own_output_stays(tmp_path: Path, workers: int) -> None:
    names = ["gw0", "gw1"] if workers else ["main"]
    with screen(tmp_path, ["-v", "-n", str(workers)]) as shown:
        for name in names:
            line = re.compile(
                rf"^{name} +\d+\.\d s  test_sample::that_waits_for_somebody\[\d\]: the file go$", re.MULTILINE
            )
            shown.wait(line.search)
        (tmp_path / "go").touch()
        text = shown.wait(finished)
    assert "the file go" not in text
    # Each result stands on a line of its own, whole.
    assert len(re.findall(r"PASSED", text)) == 4
    assert re.search(r"^(\[gw\d\] \[ *\d+%\] PASSED )?test_sample.py::test_first", text, re.MULTILINE)
    assert b"\x1b[2m" in shown.raw


def test_without_colour_when_none_is_wanted(tmp_path: Path) -> None:
    with screen(tmp_path, [], NO_COLOR="1") as shown:
        shown.wait(lambda text: "the file go" in text)
        (tmp_path / "go").touch()
        shown.wait(finished)
    assert b"\x1b[2m" not in shown.raw


@pytest.mark.parametrize(("argv", "term"), [(["-s"], "xterm"), ([], "dumb")])
def test_no_lines_where_they_would_be_in_the_way(tmp_path: Path, argv: list[str], term: str) -> None:
    (tmp_path / "go").touch()
    with screen(tmp_path, argv, TERM=term) as shown:
        shown.wait(finished)
    assert b"\x1b7" not in shown.raw


def test_a_pipe_gets_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "go").touch()
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "\x1b" not in done.stdout
