"""What a human at a terminal is told of a mistake (contract U1)."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import mistakes
from engine.base.exits import ConfigError
from proofs.fixtures.engine_process import ROOT

pytestmark = pytest.mark.claim("U1")


def test_every_mistake_is_told_and_what_to_do() -> None:
    error = ConfigError("config.toml: a = 0: should be more (and 3 more)", problems=["b: missing", "c: unknown key"])
    assert mistakes.told(error, 80, "hybrid-engine --check-config").splitlines() == [
        "hybrid-engine does not start (CONFIG, exit 12):", "",
        "  config.toml: a = 0: should be more", "  b: missing", "  c: unknown key", "  and 1 more", "",
        "Mend it, then check it without starting:", "  hybrid-engine --check-config",
    ]  # fmt: skip


def test_of_a_mistyped_command_the_usage_follows() -> None:
    error = ConfigError("command line: unknown flag --sampel", usage="usage: x [--one]\n  [--two-three FOUR-FIVE]")
    assert mistakes.told(error, 30).splitlines() == [
        "hybrid-engine does not start (CONFIG, exit 12):", "",
        "  command line: unknown flag", "    --sampel", "",
        "  usage: x [--one]", "    [--two-three FOUR-FIVE]",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [1, 20, 21, 40])
def test_no_word_is_cut_neither_at_a_hyphen_nor_where_it_is_too_long(columns: int) -> None:
    words = ["engine.signal_every_n_ticks_and_more", "well-known-names", "--check-config", "a-b"] * 3
    lines = mistakes.told(ConfigError(" ".join(words)), columns).splitlines()[2:]
    assert " ".join(lines).split() == words
    # What goes on stands farther in.
    assert {line[: len(line) - len(line.lstrip())] for line in lines[1:]} == {"    "}
    assert lines[0].startswith("  e")
    assert all(len(line) <= max(columns, 20) for line in lines if len(line.split()) > 1)


@given(st.text(max_size=300), st.integers(1, 200))
def test_words_stay_whole_within_the_terminal_and_nothing_is_obeyed(text: str, columns: int) -> None:
    told = mistakes.told(ConfigError(text), columns)
    assert all(char.isprintable() or char == "\n" for char in told)
    body = told.partition("\n\n")[2]
    assert all(len(line) <= max(columns, 20) or " " not in line.strip() for line in body.splitlines())
    words = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    assert body.split() == words.split()


def run_on_terminal(directory: Path, *argv: str) -> tuple[int, str]:
    """Exit status, and what a terminal of 40 columns shows."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run(["stty", "cols", "40"], stdin=theirs, check=True)
        done = subprocess.Popen(
            [sys.executable, "-m", "engine", *argv], cwd=directory, stdin=theirs, stdout=theirs, stderr=theirs,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        # The terminal is gone (EIO) when the process has ended.
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:
            pass
        return done.wait(15), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)


def test_a_terminal_gets_words_and_everybody_else_json(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[engine]\nsample_every = 0\ntick_interval_ms = -1\n")
    argv = ["--config", "config.toml", "--check-config"]
    status, shown = run_on_terminal(tmp_path, *argv)
    assert status == 12
    assert shown.startswith("hybrid-engine does not start (CONFIG, exit 12):\n\n  config.toml: engine.")
    assert max(map(len, shown.splitlines()[1:])) <= 40
    for key in ("engine.sample_every = 0", "engine.tick_interval_ms = -1"):
        assert key in " ".join(shown.split())
    piped = subprocess.run(
        [sys.executable, "-m", "engine", *argv], cwd=tmp_path, capture_output=True, text=True, timeout=15, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert (piped.returncode, piped.stdout) == (12, "")
    assert json.loads(piped.stderr)["fields"]["exit_name"] == "CONFIG"
