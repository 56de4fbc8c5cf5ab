"""engine/__main__.py: the first and the last words of a process (E6, C7, M1, M6, U1). As a whole: test_engine_cli.py,
test_endings.py."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import Callable

import pytest

from engine import __main__ as first
from engine.base.exits import ConfigError, EngineError, Overload
from proofs.fixtures.engine_process import ROOT


def written(work: Callable[[int], object]) -> tuple[object, bytes]:
    """What this returns, and what it writes to the descriptor that it is given."""
    read, write = os.pipe()
    try:
        returned = work(write)
        os.close(write)
        return returned, os.read(read, 65536)
    finally:
        os.close(read)


@pytest.mark.claim("C7", "M1")
@pytest.mark.parametrize(
    ("error", "code", "name", "message"),
    [
        (ImportError("no x"), 12, "CONFIG", "installation is damaged: ImportError(?no x?)"),
        (SyntaxError("bad"), 12, "CONFIG", "installation is damaged: SyntaxError(?bad?)"),
        (MemoryError(), 1, "CRASH", "cannot start: MemoryError()"),
        (OSError(errno.EMFILE, "files"), 1, "CRASH", "cannot start: OSError(24, ?files?)"),
        (ValueError('a"b\\c\nd\x00\x7f \u00e4~'), 1, "CRASH", "cannot start: ValueError(?a?b??c?nd?x00?x7f ?~?)"),
    ],
    ids=range(5),
)
def test_C7_M1_what_cannot_even_be_imported_is_told_in_the_shape_of_every_line(
    error: Exception, code: int, name: str, message: str
) -> None:
    # repr takes the one quote or the other, of which only one is replaced.
    returned, raw = written(lambda fd: first._fail_early(error, fd))
    assert returned == code
    assert raw.endswith(b"\n")
    assert raw.isascii()
    line = json.loads(raw)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    fields = line.pop("fields")
    assert line == {"level": "ERROR", "target": "engine"}
    assert fields.pop("message").replace("'", "?") == message
    assert fields == {"exit_code": code, "exit_name": name}


@pytest.mark.claim("C7")
def test_C7_nobody_has_to_hear_it() -> None:
    assert first._fail_early(MemoryError(), 10**6) == 1


def on_terminal(columns: int, failure: EngineError, argv: list[str]) -> list[str]:
    """The lines that a terminal of so many columns shows."""
    ours, theirs = pty.openpty()
    try:
        tty.setraw(theirs)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        assert first._tell_human(failure, theirs, argv)
        return os.read(ours, 65536).decode().splitlines()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.claim("U1")
@pytest.mark.parametrize(
    ("argv", "check"),
    [
        ([], "hybrid-engine --check-config"),
        (["--mode", "live"], "hybrid-engine --check-config"),
        (["--config", "a b.toml", "--db", "x"], "hybrid-engine --config 'a b.toml' --check-config"),
        (["--db", "x", "--config=c.toml"], "hybrid-engine --config=c.toml --check-config"),
        (["--config"], "hybrid-engine --config --check-config"),
        (["--check-config", "--config", "c.toml"], None),
    ],
    ids=range(6),
)
def test_U1_a_human_is_told_which_command_checks_it(argv: list[str], check: str | None) -> None:
    lines = on_terminal(80, ConfigError("c.toml: a = 0: should be more"), argv)
    assert lines[:3] == ["hybrid-engine does not start (CONFIG, exit 12):", "", "  c.toml: a = 0: should be more"]
    assert lines[3:] == ([] if check is None else ["", "Mend it, then check it without starting:", f"  {check}"])


@pytest.mark.claim("U1")
@pytest.mark.parametrize(("columns", "longest"), [(40, 40), (0, 80), (200, 200)])
def test_U1_a_terminal_that_does_not_know_how_wide_it_is_has_80_columns(columns: int, longest: int) -> None:
    lines = on_terminal(columns, ConfigError("ab " * 200), ["--check-config"])
    assert longest - 3 < max(map(len, lines[2:])) <= longest


@pytest.mark.claim("U1", "M1")
def test_U1_M1_who_is_no_terminal_is_no_human() -> None:
    assert written(lambda fd: first._tell_human(Overload("x"), fd, [])) == (False, b"")


@pytest.mark.slow
@pytest.mark.claim("M6")
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_M6_what_is_closed_at_the_start_leads_nowhere(closed: tuple[int, ...]) -> None:
    """Else the next file that is opened gets its number, and lines are written into it."""
    script = f"""
import os, sys
for fd in {closed!r}:
    os.close(fd)
for name, fd in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
    if fd in {closed!r}:
        setattr(sys, name, None)
from engine.__main__ import _open_missing_descriptors
_open_missing_descriptors()
null = os.stat(os.devnull)
for fd in {closed!r}:
    assert os.path.samestat(os.fstat(fd), null), fd
    assert os.get_inheritable(fd), fd
after = os.open(os.devnull, os.O_RDONLY)
assert after == 3, after
assert sys.stdin.read(1) == "" if 0 in {closed!r} else True
print("nobody reads this", file=sys.stdout, flush=True)
print("nor this", file=sys.stderr, flush=True)
assert sys.stdin.fileno() == 0 and sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2
# Whoever closes one of these leaves its number taken.
for fd in {closed!r}:
    (sys.stdin, sys.stdout, sys.stderr)[fd].close()
    os.fstat(fd)
os._exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    said = ("" if 1 in closed else "nobody reads this\n", "" if 2 in closed else "nor this\n")
    assert (done.returncode, (done.stdout, done.stderr)) == (7, said)
