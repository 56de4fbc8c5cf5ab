"""`--help` for terminals of any width (contract U1). Loaded only when somebody asks for help."""

from __future__ import annotations

import argparse
import re
import textwrap
from typing import Any

NARROW_COLUMNS = 60
"""In a narrower terminal, what a flag does stands below it."""

PROSE_COLUMNS = 100
"""Lines of prose are no longer, however wide the terminal is."""


class HelpFormatter(argparse.HelpFormatter):
    """Wraps everything between words, however narrow the terminal is.

    A description or epilog is paragraphs of prose, and lines that are indented, such as examples, each of which stays a
    line of its own.
    """

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **options)
        if self._width < NARROW_COLUMNS:
            self._max_help_position = 4

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(line for part in _parts(text) for line in wrapped(part, min(width, PROSE_COLUMNS)))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), width)

    def _format_action(self, action: argparse.Action) -> str:
        lines = super()._format_action(action).splitlines()
        return "".join(f"{line}\n" for one in lines for line in wrapped(one, self._width))

    def _format_usage(self, *args: Any) -> str:
        usage = super()._format_usage(*args)
        if max(map(len, usage.splitlines())) <= self._width:
            return usage
        # A flag and its value stay together where there is room for both.
        whole = re.sub(r"\[[^][]*\]", lambda group: group[0].replace(" ", "\0"), " ".join(usage.split()))
        first, *more = (line.replace("\0", " ") for line in wrapped(whole, self._width - 2))
        return "\n".join([first, *(line for one in more for line in wrapped(f"  {one}", self._width)), "", ""])


def _parts(text: str) -> list[str]:
    """Return paragraphs, each as a line, and indented lines as they are."""
    parts: list[str] = []
    for line in text.strip("\n").splitlines():
        prose = bool(line) and not line[0].isspace()
        if prose and parts and parts[-1] and not parts[-1][0].isspace() and not parts[-1].endswith(":"):
            parts[-1] += f" {line}"
        else:
            parts.append(line.rstrip())
    return parts


def wrapped(line: str, width: int) -> list[str]:
    """Return a line as lines of at most `width` characters; what goes on is indented, as far as there is
    room. A word is never cut: one that is too long is too long."""
    if len(line) <= width or not line.strip():
        return [line]
    begin = line[: len(line) - len(line.lstrip())]
    on = f"{begin}    " if begin else ""
    lines = textwrap.wrap(line, max(width, 1), subsequent_indent=on, break_long_words=False, break_on_hyphens=False)
    return [one.strip().rjust(min(len(one), width)) if len(one.split()) == 1 else one for one in lines]
