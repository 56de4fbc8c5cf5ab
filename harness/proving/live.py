"""A line for each pytest process below pytest's own output, on a terminal: what it waits for, and for how long yet.

pytest goes on writing where it was: before each of its writes the lines are wiped away, afterwards drawn again below,
and the cursor is put back. Nothing of this happens where there is no terminal.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any, TextIO

import pytest

from harness.base import progress, terminal, waiting
from harness.base.clock import Clock, OsClock
from harness.base.escape import shown

REDRAW_SECS = 0.5

# ECMA-48 control functions, and DECSC and DECRC, which every terminal since the VT100 knows.
_WIPE_BELOW = "\x1b[J"
_SAVE, _RESTORE = "\x1b7", "\x1b8"
_CODES = re.compile(r"\x1b\[[\d;]*[A-Za-z]")


class Live:
    """The lines. `status_files` is the directory in which each process keeps its status file."""

    def __init__(self, writer: Any, clock: Clock | None = None) -> None:
        """writer: pytest's TerminalWriter, on a terminal."""
        self._writer = writer
        self._clock = clock or OsClock()
        self._directory = tempfile.TemporaryDirectory(prefix="hybrid-proofs-")
        self.status_files = Path(self._directory.name)
        self._file: TextIO = writer._file
        # pytest points file descriptor 1 elsewhere while a test runs in this process.
        self._screen = os.fdopen(os.dup(self._file.fileno()), "w", encoding="utf-8", errors="replace")
        self._colour = terminal.coloured(self._file)
        self._lock = threading.Lock()
        self._column = 0
        self._drawn = False
        self._stopping = threading.Event()
        writer._file = _Guarded(self._file, self)
        self._thread = threading.Thread(target=self._redraw, name="live", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wipe the lines away; pytest has the terminal to itself again. May be called twice."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._thread.join()
        with self._lock:
            self._wipe()
            self._writer._file = self._file
            self._screen.close()
        self._directory.cleanup()

    def pass_on(self, text: str) -> None:
        """Write what pytest writes, with the lines out of its way."""
        with self._lock:
            drawn = self._drawn
            self._wipe()
            self._file.write(text)
            self._file.flush()
            for part in re.split(r"([\r\n])", _CODES.sub("", text)):
                self._column = 0 if part in ("\r", "\n") else self._column + len(part)
            if drawn:
                self._draw()

    def _redraw(self) -> None:
        while not self._stopping.wait(REDRAW_SECS):
            with self._lock:
                self._wipe()
                self._draw()

    def _wipe(self) -> None:
        if self._drawn:
            self._show(_WIPE_BELOW)
            self._drawn = False

    def _draw(self) -> None:
        columns, now = terminal.columns(), self._clock.monotonic()
        # A long line goes on in the next row. One that just fills its row leaves the cursor where nothing leads back.
        column = self._column % columns
        if self._column and not column:
            return
        lines = []
        for path in sorted(self.status_files.iterdir()):
            if (found := waiting.read(path)) is not None:
                words = shown(found.proof), shown(found.what)
                text = progress.waiting_line(path.name, *words, now - found.since, columns)
                lines.append(f"\x1b[2m{text}\x1b[0m" if self._colour else text)
        if lines:
            # At the bottom of the screen the line feeds scroll, and so make room; the column has to be found again.
            room = "\n" * len(lines) + f"\x1b[{len(lines)}A\x1b[{column + 1}G"
            self._show(room + _SAVE + "".join(f"\r\n{text}" for text in lines) + _RESTORE)
            self._drawn = True

    def _show(self, text: str) -> None:
        try:
            self._screen.write(text)
            self._screen.flush()
        except OSError:
            # A terminal that was closed is no reason to end a run.
            return


class _Guarded:
    """pytest's terminal file while there are lines below."""

    def __init__(self, file: TextIO, live: Live) -> None:
        self._file = file
        self._live = live

    def write(self, text: str) -> int:
        self._live.pass_on(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Watched:
    """Plugin of a pytest process that runs tests: its status file says which one, and what that waits for."""

    def __init__(self, status_file: waiting.StatusFile) -> None:
        self._status_file = status_file
        waiting.use(status_file)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._status_file.works_on(item.nodeid)

    def pytest_runtest_logfinish(self) -> None:
        self._status_file.works_on("")

    def pytest_unconfigure(self) -> None:
        waiting.use(None)
        self._status_file.close()


class Watching:
    """Plugin of the pytest process that has the terminal."""

    def __init__(self, live: Live) -> None:
        self._live = live

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["status_files"] = str(self._live.status_files)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # A worker that was killed did not remove its own.
        (self._live.status_files / node.gateway.id).unlink(missing_ok=True)

    def pytest_enter_pdb(self) -> None:
        self._live.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._live.close()


def attach(config: pytest.Config) -> None:
    """Watch, or be watched, when there is a terminal for it. To be called when the session starts."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        if "status_files" in workerinput:
            status_file = waiting.StatusFile(Path(workerinput["status_files"], workerinput["workerid"]))
            config.pluginmanager.register(Watched(status_file), "proofs-watched")
        return
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    # Without capturing, what tests print would run into the lines.
    if reporter is None or config.getoption("capture") == "no" or not terminal.redraws(reporter._tw._file):
        return
    live = Live(reporter._tw)
    config.pluginmanager.register(Watching(live), "proofs-watching")
    if not config.pluginmanager.has_plugin("dsession"):
        config.pluginmanager.register(Watched(waiting.StatusFile(live.status_files / "main")), "proofs-watched")
