"""What a sabotage is, and how it is put into a module (contract V4). The entries are in proofs/sabotages.py.

A sabotage breaks exactly one guarded behaviour of what is installed: by directives in a drop-in of the unit, or by one
piece of code replaced in one module, mounted over the installed one. The piece is found by the qualified name of what
it is in and by its syntax, so that neither layout nor what else the module says matters. A proof that still passes
under its sabotage cannot fail, and is a defect.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Patch:
    """One piece of code replaced by another in one module."""

    module: str
    """Path below the installation's packages, such as `engine/storage/ledger.py`."""
    name: str
    """Qualified name, in the module, of the function, class or variable that holds the piece: `Ledger.commit`. Empty:
    the module's own level and all below it."""
    old: str
    """An expression, or statements that follow each other. What is not Python: text."""
    new: str
    """What takes its place: an expression for an expression, any number of statements for statements."""

    def apply(self, source: str) -> str:
        """Return the module's text with the replacement. ValueError when the name holds no such piece, or more than
        one."""
        if not self.module.endswith(".py"):
            self._expect_one(source.count(self.old))
            return source.replace(self.old, self.new)
        tree = ast.parse(source)
        scope = _named(tree, self.name)
        if scope is None:
            raise ValueError(f"{self.module} has no {self.name}, or more than one")
        if (expressions := _expressions(self.old, self.new)) is not None:
            old, new = expressions
            replacer = _Expressions(ast.dump(old), new)
            replacer.visit(scope)
            self._expect_one(replacer.found)
        else:
            self._expect_one(_replace_statements(scope, ast.parse(self.old).body, ast.parse(self.new).body))
        return ast.unparse(ast.fix_missing_locations(tree)) + "\n"

    def _expect_one(self, found: int) -> None:
        if found != 1:
            where = f"{self.module}: {self.name}" if self.name else self.module
            raise ValueError(f"{where}: {self.old!r} occurs {found} times, expected once")


@dataclass(frozen=True)
class Sabotage:
    """One entry of a catalogue."""

    id: str
    guardrail: str
    breaks: str
    """In words: the promise that no longer holds."""
    proof: str
    """Test module and function, `test_exit12::test_mended_unit_runs`."""
    reason: str
    """Regular expression that the refutation must match."""
    directives: str = ""
    """Lines for the [Service] section."""
    confirm: Mapping[str, str] = field(default_factory=dict)
    """Property -> value that `systemctl show` must tell while the sabotage is in effect, beside its drop-in."""
    patch: Patch | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    """Arguments of a parametrized proof."""
    installed: bool = True
    """Whether what is patched is what the machine has installed; if not, what the proof starts imports it."""


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _named(tree: ast.Module, name: str) -> ast.AST | None:
    """Return what bears a qualified name; None when nothing does, or several things do."""
    found: list[ast.AST] = [tree]
    for part in name.split(".") if name else ():
        found = [inner for outer in found for inner in _held(outer) if part in _names(inner)]
    return found.pop() if len(found) == 1 else None


def _held(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements of a body, those of its conditions and loops included, but not those of definitions in
    it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, (*_DEFINITIONS, ast.expr)):
            yield from _held(child)


def _names(statement: ast.AST) -> set[str]:
    """Return what a definition or an assignment gives a name to."""
    if isinstance(statement, _DEFINITIONS):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _expressions(old: str, new: str) -> tuple[ast.expr, ast.expr] | None:
    """Both as expressions; None when one of them is none."""
    try:
        return ast.parse(old, mode="eval").body, ast.parse(new, mode="eval").body
    except SyntaxError:
        return None


class _Expressions(ast.NodeTransformer):
    """Replaces an expression wherever it occurs, and counts that."""

    def __init__(self, old: str, new: ast.expr) -> None:
        self._old = old
        self._new = new
        self.found = 0

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.expr) and ast.dump(node) == self._old:
            self.found += 1
            return self._new
        return self.generic_visit(node)


def _replace_statements(scope: ast.AST, old: list[ast.stmt], new: list[ast.stmt]) -> int:
    """Replace consecutive statements wherever they occur; how often that was."""
    wanted, found = [ast.dump(one) for one in old], 0
    for node in list(ast.walk(scope)):
        for name, body in ast.iter_fields(node):
            if not isinstance(body, list):
                continue
            told = [ast.dump(one) for one in body if isinstance(one, ast.stmt)]
            for at in reversed(range(len(told))):
                if wanted and told[at : at + len(wanted)] == wanted:
                    found += 1
                    body[at : at + len(wanted)] = new
            if not body and told and name == "body":
                body.append(ast.Pass())
    return found
