"""What a human has to mend -> words for a terminal (contract U1). Whoever is no terminal gets the log line."""

from __future__ import annotations

import re
import textwrap

from engine.base.exits import EngineError
from engine.base.redaction import redact

_COLUMNS_MIN = 20
_COUNTED = re.compile(r" \(and ([0-9]+) more\)$")


def told(error: EngineError, columns: int, check: str = "") -> str:
    """Return the mistake, and any others, within so many columns, and what to do.

    check: the command that only checks the configuration; empty when that is the one that has just run.
    """
    width = max(columns, _COLUMNS_MIN)
    others = error.details.get("problems")
    problems = [str(error)]
    if isinstance(others, list):
        # The log's message counts the others, which follow here.
        problems = [_COUNTED.sub("", problems[0]), *map(str, others)]
        counted = _COUNTED.search(str(error))
        if counted is not None and (more := int(counted[1]) - len(others)) > 0:
            problems.append(f"and {more} more")
    lines = [f"hybrid-engine does not start ({error.code.name}, exit {int(error.code)}):", ""]
    for problem in problems:
        lines += _wrapped(_seen(redact(problem)), width)
    usage = error.details.get("usage")
    if isinstance(usage, str):
        lines += ["", *(line for part in usage.splitlines() for line in _wrapped(part, width))]
    if check:
        lines += ["", "Mend it, then check it without starting:", f"  {check}"]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def _seen(text: str) -> str:
    """Spell out control characters and text that runs backwards, which what a stranger says may hold."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
