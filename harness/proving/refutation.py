"""A refutation as it is read in 30 seconds: one block of at most 40 lines of 80 columns (contract V6).

What a reader asks comes in this order: which promise, what was expected, what was seen instead, where the proof says
so, how the unit stood, what set it so, what the journal says about it, how to see it again, where to see more. What
does not fit is cut with a count; all of it is in the flight record.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from harness.base.escape import shown
from harness.base.journal import Entry

LINES_MAX, COLUMNS = 40, 80

LABEL_COLUMNS = 10
"""Where the text begins beside its label."""

JOURNAL_LINES = 5
JOURNAL_CHARS = 200
"""Of one journal line."""

CLAIMS_MAX, EXPECTED_LINES, OBSERVED_LINES, SHORT_LINES = 3, 2, 7, 2
"""How many claims are quoted, and how many lines the other parts have."""

LAST_WORDS = 2
"""Lines of the service just before its end that matter more than what systemd did about that end."""

_ROUTINE = re.compile(r"Failed with result|Failed to start|Scheduled restart|Stopped|Started", re.ASCII)
"""What systemd says of every end and every start."""

_FAULTY = re.compile(r"exited|killed|dumped|Failed|failed|timed out|timeout|refused", re.ASCII)

_END = re.compile(r"exited|killed|dumped", re.ASCII)


@dataclass(frozen=True)
class Refutation:
    """What is known of one refuted proof. Empty texts are left out of the block."""

    proof: str
    claims: Mapping[str, str]
    """Clause -> its words."""
    expected: str
    observed: str
    where: str
    """Of the proof's line that failed."""
    state: str
    """The unit's."""
    set_by: str
    """The directive or key, its value, and the file."""
    journal: Sequence[Entry]
    printed: str
    """What the proof printed."""
    again: str
    """The command to run it again."""
    look: str
    """The command that shows this proof's part of the record."""


def block(found: Refutation) -> list[str]:
    """Return the lines. A label begins in the first column, a text in column LABEL_COLUMNS, a command in column 2."""
    ids = list(found.claims)
    quoted = ids if len(ids) <= CLAIMS_MAX else ids[: CLAIMS_MAX - 1]
    lines = [_labelled("REFUTED", found.proof)]
    lines += [_labelled("claim", _words(clause, found.claims[clause])) for clause in quoted]
    if len(quoted) < len(ids):
        lines += [_labelled("", f"and {', '.join(ids[len(quoted) :])}")]
    lines += _part("expected", found.expected, EXPECTED_LINES)
    lines += _part("observed", found.observed, OBSERVED_LINES)
    lines += _part("at", found.where, 1)
    lines += _part("unit", found.state, SHORT_LINES)
    lines += _part("set by", found.set_by, SHORT_LINES)
    if found.journal:
        told = that_matter(found.journal)
        count = f"{len(told)} of {len(found.journal)} lines" if len(told) < len(found.journal) else f"{len(told)} lines"
        lines += _part("journal", f"{count}, the last at the bottom", 1)
        for entry in told:
            lines += _part("", _counted(_line(entry), JOURNAL_CHARS), JOURNAL_LINES)
    lines += _part("printed", found.printed, SHORT_LINES)
    again, look = (shown(command).replace("\n", "\\n") for command in (found.again, found.look))
    return [*lines, "run it again:", f"  {again}", "look further, also later:", f"  {look}"]


def that_matter(entries: Sequence[Entry]) -> list[Entry]:
    """Return the five that tell most, in their order: errors and ends, then warnings and the last words before the last
    end, then what systemd says of every end and start, then what is said again later, then the rest; and of the same
    kind the latest, since the event that refuted was near the end."""
    last_words = _last_words(entries)
    again, later = set(), set()
    for number in reversed(range(len(entries))):
        said = _said(entries[number])
        (again.add(number) if said in later else later.add(said))

    def rank(number: int) -> int:
        found = 1 if number in last_words else _rank(entries[number])
        return max(found, _SAID_AGAIN) if number in again else found

    ranked = sorted(range(len(entries)), key=lambda number: (rank(number), -number))
    return [entries[number] for number in sorted(ranked[:JOURNAL_LINES])]


_SAID_AGAIN = 3


def _rank(entry: Entry) -> int:
    if entry.level in ("ERROR", "CRITICAL"):
        return 0
    if entry.level in ("WARN", "WARNING"):
        return 1
    if not _by_systemd(entry):
        return 4
    return 2 if _ROUTINE.search(entry.message) else 0 if _FAULTY.search(entry.message) else 4


def _by_systemd(entry: Entry) -> bool:
    # In parentheses stands the name of a program that systemd is about to run, in the process that is to become it.
    return entry.identifier == "systemd" or (entry.identifier.startswith("(") and entry.identifier.endswith(")"))


def _said(entry: Entry) -> tuple[str, str]:
    # systemd counts what it does.
    return entry.identifier, re.sub(r"[0-9]+", "0", entry.message) if _by_systemd(entry) else entry.event


def _last_words(entries: Sequence[Entry]) -> set[int]:
    """Return where the service's own lines stand that come just before its last end, but for its errors."""
    ends = [at for at, entry in enumerate(entries) if entry.identifier == "systemd" and _END.search(entry.message)]
    own = [at for at in range(ends[-1] if ends else 0) if not _by_systemd(entries[at])]
    return {at for at in own[-LAST_WORDS:] if _rank(entries[at]) > 1}


def _line(entry: Entry) -> str:
    if not entry.fields:
        return f"{entry.identifier}: {entry.message}"
    told = " ".join(f"{key}={value}" for key, value in entry.fields.items() if key != "message")
    return f"{entry.level} {entry.event} {told}".rstrip()


def expectation(source: str, line: int) -> str:
    """Return what the statement at a line of a proof asks for: the condition of an assert or an expect(), else its
    code.

    source: the file's text. Empty when there is no statement.
    """
    try:
        statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    except (SyntaxError, ValueError, RecursionError):
        return ""
    around = [node for node in statements if node.lineno <= line <= (node.end_lineno or node.lineno)]
    if not around:
        return ""
    found = min(around, key=lambda node: (node.end_lineno or node.lineno) - node.lineno)
    if isinstance(found, ast.Assert):
        return ast.unparse(found.test)
    if isinstance(found, ast.Expr) and isinstance(call := found.value, ast.Call) and call.args:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name == "expect":
            return ast.unparse(call.args[0])
    return ast.unparse(found).partition("\n")[0]


def innermost(raised: BaseException, files: Collection[str]) -> tuple[str, int, str] | None:
    """File, line and function of the proof's last step on the way to an exception; None: it has none.

    files: where the proof's own code is. What it borrows from another test module counts as its own.
    """
    found = None
    traceback = raised.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename in files or code.co_filename.rpartition("/")[2].startswith("test_"):
            found = (code.co_filename, traceback.tb_lineno, code.co_name)
        traceback = traceback.tb_next
    return found


def _words(clause: str, text: str) -> str:
    # A bullet of the contract begins with its id, a row of one of its tables has it in the first cell.
    if text.startswith("|"):
        return " ".join([clause, *(cell.strip() for cell in text.strip("| ").split(" | ")[1:])])
    return text.removeprefix("* ") if text else clause


def _labelled(label: str, text: str) -> str:
    """Just one line."""
    line = f"{label:<{LABEL_COLUMNS}}{' '.join(shown(text).split())}".rstrip()
    return line if len(line) <= COLUMNS else f"{line[: COLUMNS - 3]}..."


def _part(label: str, text: str, lines_max: int) -> list[str]:
    folded = [
        piece
        for line in shown(text).strip("\n").expandtabs(4).splitlines()
        for piece in textwrap.wrap(
            line, COLUMNS - LABEL_COLUMNS, subsequent_indent="  ", break_on_hyphens=False, drop_whitespace=True
        )
    ]
    if len(folded) > lines_max:
        more = f" [+{len(folded) - lines_max} lines]"
        folded = [*folded[: lines_max - 1], folded[lines_max - 1][: COLUMNS - LABEL_COLUMNS - len(more)] + more]
    return [f"{label if not number else '':<{LABEL_COLUMNS}}{line}" for number, line in enumerate(folded)]


def _counted(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]} [+{len(text) - chars}]"
