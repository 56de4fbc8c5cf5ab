"""What a person sees while something takes its time: whether a stream is a terminal, and a line that is redrawn on it.

Plain where nobody watches: nothing here is written to a pipe or a file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

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
