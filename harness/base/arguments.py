"""A command line that says what was meant, where a command or a flag is mistyped (contract U1)."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_INVALID_CHOICE = re.compile(
    r"argument (?P<of>[^:]*): invalid choice: '(?P<word>[^']*)' \(choose from (?P<allowed>.*)\)", re.DOTALL
)

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


class CommandParser(argparse.ArgumentParser):
    """argparse's, without abbreviations: a flag that is added later must not change what an old command line means."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": HelpFormatter, **options})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does it; ends the process with status 2 for a command line that cannot be read."""
        words = sys.argv[1:] if args is None else args
        found, unknown = self.parse_known_args(words, namespace)
        if unknown:
            flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
            command = self
            for word in words:
                command = command._commands().get(word, command)
            known = [flag for action in command._actions for flag in action.option_strings]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(flag, known)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and the nearest that would be right; ends the process with status 2."""
        match = _INVALID_CHOICE.search(message)
        if match is not None and match["of"].startswith("-"):
            message += nearest(match["word"], [word.strip("'") for word in match["allowed"].split(", ")])
        elif match is not None and (commands := self._commands()):
            message = f"there is no command {match['word']!r}{nearest(match['word'], commands)}"
        super().error(message)

    def _commands(self) -> dict[str, CommandParser]:
        return {
            name: command
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for name, command in action.choices.items()
        }


def nearest(word: str, known: Iterable[str]) -> str:
    """End a sentence about a word that is not known; empty when nothing known is like it."""
    found = difflib.get_close_matches(word, sorted(set(known)), 1, 0.6)
    return f"; did you mean {found[0]}?" if found else ""
