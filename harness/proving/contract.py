"""The behaviour contract as data: docs/contract.md -> clauses, config/contract.toml -> what is promised of them.

G5 holds three things together: the contract's text, the list of its clauses, and the proofs. The list keeps a
digest of each clause's text, so that nobody rewords a promise without saying so, and marks as planned what is
not built yet. A planned clause counts as not proven.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from harness.evidence.verdict import ClauseId

TABLE_HEADING = "## 14. Where each clause is proved"
"""The part of docs/contract.md that is generated."""

_BULLET = re.compile(r"^\* ([A-Z]\d{1,2}b?) ")
_ROW = re.compile(r"^\| (G\d|exit12|stall|sampling|psi|concurrency|[ISL]\d{1,2}) \| ")


@dataclass(frozen=True)
class Clause:
    """One line of the list."""

    id: ClauseId
    digest: str
    """First 16 hex digits of the SHA-256 of the clause's text, white space folded."""
    planned: bool
    engines: bool = True
    """Whether it is a promise of the engine's, which any engine can keep; else of the harness, the units or what is
    installed with them."""


def clauses(markdown: str) -> dict[ClauseId, str]:
    """Return clause id -> its text, white space folded, in the order of the contract.

    A clause is a bullet that starts with its id and goes on while lines are indented, or a table row whose first
    cell is an id (guardrails, invariants, scenarios, limits). Raises ValueError when an id stands twice.
    """
    found: dict[ClauseId, str] = {}
    current = ClauseId("")
    for line in markdown.partition(TABLE_HEADING)[0].splitlines():
        match = _BULLET.match(line) or _ROW.match(line)
        if match:
            current = ClauseId(match[1])
            if current in found:
                raise ValueError(f"clause {current} stands twice in the contract")
            found[current] = line
        elif current and line.startswith("  ") and not found[current].startswith("|"):
            found[current] += f" {line}"
        else:
            current = ClauseId("")
    return {clause: " ".join(text.split()) for clause, text in found.items()}


INTERFACE_HEADING = "## 10b. What proofs read of an engine"


_TOLD_FIRST = ("## 1. ", "## 2. ", "## 3. ")
"""What an engine is told, and when it ends."""

_REFERRED = re.compile(r"(?<![\w.-])(?:[A-Z]\d{1,2}b?|exit12|stall|sampling|psi|concurrency)(?![\w-])")


def interface(markdown: str, table: Mapping[ClauseId, Clause], sources: Mapping[str, str]) -> str:
    """Return the page for whoever writes another engine: what proofs read of one, the parts of the contract that say
    what it is told and when it ends, and each further clause that is an engine's promise and that proofs ask another
    engine for, or that those refer to.

    sources: as for with_table. Raises ValueError when the contract has no such part.
    """
    parts = re.split(r"^(?=## )", markdown.partition(TABLE_HEADING)[0], flags=re.MULTILINE)
    whole = [part for heading in (INTERFACE_HEADING, *_TOLD_FIRST) for part in parts if part.startswith(heading)]
    if len(whole) != 1 + len(_TOLD_FIRST):
        raise ValueError(f"docs/contract.md has no part {INTERFACE_HEADING!r}, or not the three first ones")
    texts = clauses(markdown)
    wanted: set[ClauseId] = set()
    new = asked_of_engines(table, sources) | _referred(whole[0])
    while new := {clause for clause in new if clause in texts and clause in table and table[clause].engines} - wanted:
        wanted |= new
        new = {clause for one in new for clause in _referred(texts[one])}
    rest = [told for part in parts if part not in whole and (told := _only(part, wanted))]
    return "\n".join(part.strip() + "\n" for part in [*whole, *rest])


def _referred(text: str) -> set[ClauseId]:
    return {ClauseId(found) for found in _REFERRED.findall(text)}


def _only(part: str, wanted: Collection[ClauseId]) -> str:
    """Return a part of the contract with these clauses and nothing else; empty when it has none of them."""
    heading, *lines = part.splitlines() or [""]
    kept, found, keeps, head = [heading, ""], False, False, ""
    for number, line in enumerate(lines):
        match = _BULLET.match(line) or _ROW.match(line)
        if match:
            keeps = match[1] in wanted
            if keeps and head:
                kept, head = [*kept, head], ""
        elif line.startswith("|---"):
            head = f"{lines[number - 1]}\n{line}"
        keeps = keeps and (match is not None or line.startswith("  "))
        if keeps:
            kept, found = [*kept, line], True
    return "\n".join(kept) if found else ""


def asked_of_engines(table: Mapping[ClauseId, Clause], sources: Mapping[str, str]) -> set[ClauseId]:
    """Return the engine's promises that the proofs claim that drive its unit.

    sources: as for with_table.
    """
    asked: set[ClauseId] = set()
    for source in sources.values():
        if "EngineUnit" not in source:
            continue
        claimed = claims_in_source(source)
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.FunctionDef)
                and any(each.annotation and ast.unparse(each.annotation) == "EngineUnit" for each in node.args.args)
                and judges_engine(table, claimed.get(node.name, []))
            ):
                asked |= {clause for clause in claimed[node.name] if clause not in table or table[clause].engines}
    return asked


def digest(text: str) -> str:
    """Return the digest that the list keeps of a clause's folded text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def listed(table: Mapping[str, object]) -> dict[ClauseId, Clause]:
    """Return the clauses of a parsed config/contract.toml: `ID = {digest = "...", planned = true, of = "harness"}`.

    Raises ValueError that names the entry when it has another form.
    """
    found = {}
    for clause, entry in ((ClauseId(name), entry) for name, entry in table.items()):
        if (
            not isinstance(entry, dict)
            or set(entry) - {"digest", "planned", "of"}
            or not isinstance(entry.get("digest"), str)
            or entry.get("of", "harness") != "harness"
        ):
            raise ValueError(
                f'{clause}: expected {{ digest = "..." }}, with `planned = true` where it is not built yet, and '
                '`of = "harness"` where it is not a promise of the engine\'s'
            )
        found[clause] = Clause(clause, entry["digest"], bool(entry.get("planned", False)), "of" not in entry)
    return found


def as_toml(texts: Mapping[ClauseId, str], planned: Collection[ClauseId], of_harness: Collection[ClauseId] = ()) -> str:
    """Return the list for these clauses, as the text of config/contract.toml."""
    lines = [
        "# Every clause of docs/contract.md. `planned`: not built yet, shown as such, counts as not proven.",
        "# `of`: what is not a promise of the engine's; --engine-cmd judges another engine by all the rest.",
        "# `python -m harness contract --update` takes over a text that was changed on purpose.",
    ]
    for clause, text in texts.items():
        planning = ", planned = true" if clause in planned else ""
        whose = ', of = "harness"' if clause in of_harness else ""
        lines.append(f'{clause} = {{ digest = "{digest(text)}"{planning}{whose} }}')
    return "\n".join(lines) + "\n"


def disagreements(texts: Mapping[ClauseId, str], table: Mapping[ClauseId, Clause]) -> list[str]:
    """Return how the contract's text and the list differ, one sentence each."""
    found = [
        f"{clause} is in docs/contract.md but not in config/contract.toml" for clause in texts if clause not in table
    ]
    found += [
        f"{clause} is in config/contract.toml but not in docs/contract.md" for clause in table if clause not in texts
    ]
    found += [
        f"the text of {clause} in docs/contract.md is not the one that config/contract.toml has the digest of"
        for clause, text in texts.items()
        if clause in table and digest(text) != table[clause].digest
    ]
    return found


def unproved(table: Mapping[ClauseId, Clause], claimed: Collection[ClauseId]) -> list[ClauseId]:
    """Clauses that are built but that no proof claims."""
    return [clause.id for clause in table.values() if not clause.planned and clause.id not in claimed]


def unknown(table: Mapping[ClauseId, Clause], claimed: Iterable[ClauseId]) -> list[ClauseId]:
    """Return the claims that are not clauses."""
    return sorted(set(claimed) - set(table))


def judges_engine(
    table: Mapping[ClauseId, Clause], claimed: Iterable[ClauseId], kept: Collection[ClauseId] | None = None
) -> bool:
    """Return whether a proof of these clauses judges an engine: one of them is the engine's promise.

    kept: the clauses that the engine claims to keep; a proof that asks for any other of an engine's does not judge it.
    """
    promises = {clause for clause in claimed if clause not in table or table[clause].engines}
    return bool(promises) and (kept is None or promises <= set(kept))


def claims_in_source(source: str) -> dict[str, list[ClauseId]]:
    """Test function -> the clauses it claims, read from a test module's text without importing it.

    Sees what the plugin sees: `claim` marks on the function or on the module (`pytestmark`).
    """
    module = ast.parse(source)
    everywhere = [
        clause
        for node in module.body
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "pytestmark" for target in node.targets)
        for clause in _marked(node.value)
    ]
    found = {}
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            found[node.name] = everywhere + [
                clause for decorator in node.decorator_list for clause in _marked(decorator)
            ]
    return found


def _marked(node: ast.AST) -> list[ClauseId]:
    return [
        ClauseId(argument.value)
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("mark.claim")
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


def with_table(markdown: str, table: Mapping[ClauseId, Clause], sources: Mapping[str, str]) -> str:
    """Return the contract's text with its generated part made anew.

    sources: test module's file name -> its text.
    """
    proofs: dict[ClauseId, list[str]] = defaultdict(list)
    for file, source in sorted(sources.items()):
        for test, claimed in claims_in_source(source).items():
            for clause in dict.fromkeys(claimed):
                proofs[clause].append(f"`{file.removesuffix('.py')}::{test.removeprefix('test_')}`")
    lines = [
        TABLE_HEADING,
        "",
        "Made by `python -m harness contract --update`. A planned clause is not built yet and counts as not proven.",
        "",
        "| clause | status | proofs |",
        "|---|---|---|",
    ]
    for entry in table.values():
        status = "planned" if entry.planned else "built"
        listed_proofs = f" {'<br>'.join(proofs[entry.id])}" if proofs[entry.id] else ""
        lines.append(f"| {entry.id} | {status} |{listed_proofs} |")
    return markdown.partition(TABLE_HEADING)[0].rstrip() + "\n\n" + "\n".join(lines) + "\n"
