"""What a person sees of a command: whether a stream is a terminal, a line that is redrawn on it, and how a command ends
when nobody takes what it says.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ParamSpec, TextIO, cast

P = ParamSpec("P")

CLEAR = "\r\x1b[K"
"""Back to the line's start, and away with what stands there (ECMA-48, EL)."""


def coloured(stream: TextIO) -> bool:
    """Return whether to use colour: on a terminal that has any, unless NO_COLOR is set to something (no-color.org)."""
    return redraws(stream) and not os.environ.get("NO_COLOR")


def redraws(stream: TextIO) -> bool:
    """Return whether a line on it can be redrawn: a terminal, and not one that cannot go back."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def columns() -> int:
    """Return the terminal's width; 80 where there is none."""
    return shutil.get_terminal_size().columns


@contextmanager
def redrawn(stream: TextIO) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text in place of the last one, cut to the terminal's width; the line is gone at the
    end. Does nothing where a line cannot be redrawn."""
    if not redraws(stream):
        yield lambda _text: None
        return

    def show(text: str) -> None:
        stream.write(f"{CLEAR}{text[: columns() - 1]}")
        stream.flush()

    try:
        yield show
    finally:
        stream.write(CLEAR)
        stream.flush()


class Unheard(Exception):
    """What was printed cannot be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.had_enough = isinstance(error, BrokenPipeError)


class _Closed(io.StringIO):
    """Stands for a standard output that was closed before this process began."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class _Stdout:
    """Standard output of which no error is taken for one of a file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise Unheard(error) from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise Unheard(error) from None


def command(main: Callable[P, int]) -> Callable[P, int]:
    """Make a main() end in order when nobody takes what it prints, --help included.

    A reader that has read enough (`| head`) is no error: a command that is over by then keeps its exit status, and one
    that is not ends as by SIGPIPE, 141. A standard output that cannot be written (a full disk) is said in a line on
    stderr, exit status 1. So is one that is closed. What is closed of stdin, stdout and stderr leads nowhere: no file
    that is opened later takes its place. What the encoding of the output has no signs for is spelled out.
    """

    @functools.wraps(main)
    def run(*arguments: P.args, **options: P.kwargs) -> int:
        _occupy_closed()
        stream, ended = sys.stdout, 128 + signal.SIGPIPE
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        sys.stdout = cast(TextIO, _Stdout(stream))
        try:
            try:
                ended = main(*arguments, **options)
            except SystemExit as ending:
                ended = ending.code if isinstance(ending.code, int) else 1
                raise
            finally:
                sys.stdout.flush()
        except Unheard as trouble:
            # The interpreter tries again when it ends.
            if not isinstance(stream, _Closed):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if trouble.had_enough:
                return ended
            print(f"standard output cannot be written: {trouble}", file=sys.stderr)
            return 1
        finally:
            sys.stdout = stream
        return ended

    return run


def _occupy_closed() -> None:
    with suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)
    sys.stdin = sys.stdin or io.StringIO()
    sys.stdout = sys.stdout or _Closed()
    sys.stderr = sys.stderr or io.StringIO()
