"""A command line that says what was meant, where a command or a flag is mistyped (contract U1)."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_INVALID_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)'")


class CommandParser(argparse.ArgumentParser):
    """argparse's, without abbreviations: a flag that is added later must not change what an old command line means."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does it; ends the process with status 2 for a command line that cannot be read."""
        words = sys.argv[1:] if args is None else args
        found, unknown = self.parse_known_args(words, namespace)
        if unknown:
            flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
            command = next((one for name, one in self._commands().items() if name in words), self)
            known = [flag for action in command._actions for flag in action.option_strings]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(flag, known)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and the nearest that would be right; ends the process with status 2."""
        match = _INVALID_CHOICE.search(message)
        if match is not None and (commands := self._commands()):
            message = f"there is no command {match['word']!r}{nearest(match['word'], commands)}"
        super().error(message)

    def _commands(self) -> dict[str, argparse.ArgumentParser]:
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
