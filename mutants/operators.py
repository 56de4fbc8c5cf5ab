"""Source text -> its mutants: the text with one small fault each. Pure.

Python is mutated by spans of its syntax tree, so that comments and line numbers stay; what no run can notice is left
alone (annotations, docstrings, decorators, the texts of messages). Unit files lose a directive, or get another value.

The operators are the usual ones of mutation testing (DeMillo, Lipton and Sayward 1978; Offutt's sufficient set 1996).
cosmic-ray 8.7 has most of them as a library, but neither removes statements nor arguments nor return values, and
replaces the `|` of annotations by the hundred; mutmut 3 swaps functions inside one pytest process, which reaches
neither an engine in a process of its own nor a unit file.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Mutant:
    """One fault in one file."""

    path: str
    """The file, from the checkout's root."""
    where: str
    """Qualified name of the function or class, or the section of a unit; empty at the top of a module."""
    line: int
    """First line of what is changed, from 1."""
    last: int
    """Last line of it."""
    operator: str
    change: str
    """`old -> new`, in one line."""
    number: int
    """Of those that are alike in everything above but the line: 1, 2, ..."""
    source: str = field(repr=False)
    """The whole file without the fault."""
    start: int
    """Offset of what is replaced, in characters."""
    end: int
    new: str
    """What comes instead."""

    @property
    def text(self) -> str:
        """The whole file with the fault."""
        return self.source[: self.start] + self.new + self.source[self.end :]

    @property
    def id(self) -> str:
        """Names the mutant as long as its function is what it is, wherever in the file that stands."""
        suffix = f" #{self.number}" if self.number > 1 else ""
        return f"{self.path}::{self.where}: {self.operator}: {self.change}{suffix}"


@dataclass(frozen=True)
class _Edit:
    operator: str
    where: str
    start: int
    end: int
    new: str


_COMPARED = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip

_COMPUTED = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
}  # fmt: skip

_Node = ast.expr | ast.stmt | ast.keyword

_EXTREMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


def mutants(path: str, source: str) -> list[Mutant]:
    """Return every mutant of a Python module or of a unit file, in the order of the text. SyntaxError for other
    text."""
    edits = _python(source) if path.endswith(".py") else _unit(source)
    seen: Counter[tuple[str, str, str]] = Counter()
    found = []
    for edit in sorted(set(edits), key=lambda edit: (edit.start, edit.end, edit.operator, edit.new)):
        old = source[edit.start : edit.end]
        change = f"{_line_of(source, edit.start, old)} -> {_one_line(edit.new)}"
        key = (edit.where, edit.operator, change)
        seen[key] += 1
        first = source.count("\n", 0, edit.start) + 1
        last = first + old.rstrip("\n").count("\n")
        found.append(
            Mutant(
                path, edit.where, first, last, edit.operator, change, seen[key], source, edit.start, edit.end, edit.new
            )
        )
    return found


def _line_of(source: str, start: int, old: str) -> str:
    """Return what is replaced, and for what is short the line that it stands in."""
    line = source[source.rfind("\n", 0, start) + 1 :].partition("\n")[0].strip()
    return _one_line(old) if len(old) > 12 else f"{old} in `{line}`"


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def _unit(source: str) -> Iterator[_Edit]:
    """Yield each directive taken out, and with another value."""
    section = ""
    for match in re.finditer(r"^(?:\[(\w+)\]|(\w+)=((?:[^\n]*\\\n)*[^\n]*))(?:\n|\Z)", source, re.MULTILINE):
        if match[1]:
            section = match[1]
        elif match[2] not in ("Description", "Documentation"):
            yield _Edit("remove directive", section, match.start(), match.end(), "")
            yield _Edit("other value", section, match.start(3), match.end(3), _other(match[3]))


def _other(value: str) -> str:
    """Return another value of the kind."""
    if not value:
        return "yes"
    if value in ("yes", "true"):
        return "no"
    if value in ("no", "false"):
        return "yes"
    if number := re.match(r"\d+", value):
        return f"{int(number[0]) * 2 + 1}{value[number.end() :]}"
    words = value.split(" ")
    return " ".join(words[:-1]) if len(words) > 1 else ""


def _python(source: str) -> Iterator[_Edit]:
    # Not by splitlines(): it ends lines where Python does not.
    lines = source.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)

    def at(number: int, column: int) -> int:
        """Offset in characters; ast counts bytes in a line."""
        return starts[number - 1] + len(lines[number - 1].encode()[:column].decode())

    def span(node: _Node) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    yield from _Walk(source, span).edits(ast.parse(source).body, ())


class _Walk:
    """Walks through a module's statements and expressions."""

    def __init__(self, source: str, span: Callable[[_Node], tuple[int, int]]) -> None:
        self._source = source
        self._of = span

    def _text(self, node: _Node) -> str:
        start, end = self._of(node)
        return self._source[start:end]

    def _between(self, left: _Node, right: _Node, old: str, new: str, operator: str, where: str) -> Iterator[_Edit]:
        """Yield an edit of the operator that stands between two operands."""
        start, end = self._of(left)[1], self._of(right)[0]
        pattern = r"(?<![<>=!/*])" + re.escape(old).replace(r"\ ", r"\s+") + r"(?![<>=/*])"
        if old.isidentifier() or " " in old:
            pattern = rf"\b{pattern}\b"
        if match := re.search(pattern, self._source[start:end]):
            yield _Edit(operator, where, start + match.start(), start + match.end(), new)

    def edits(self, body: list[ast.stmt], names: tuple[str, ...]) -> Iterator[_Edit]:
        for statement in body:
            yield from self._statement(statement, names)

    def _statement(self, node: ast.stmt, names: tuple[str, ...]) -> Iterator[_Edit]:
        where = ".".join(names)
        if isinstance(node, ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # A docstring.
        if isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete) or (
            isinstance(node, ast.Assign) and all(isinstance(one, ast.Attribute | ast.Subscript) for one in node.targets)
        ):
            yield _Edit("remove statement", where, *self._of(node), "pass")
        if isinstance(node, ast.Return) and node.value is not None and self._text(node.value) != "None":
            yield _Edit("return None", where, *self._of(node.value), "None")
        if isinstance(node, ast.Break | ast.Continue):
            other = "continue" if isinstance(node, ast.Break) else "break"
            yield _Edit("break and continue", where, *self._of(node), other)
        if isinstance(node, ast.If | ast.While | ast.IfExp) and self._text(node.test) != "TYPE_CHECKING":
            yield from self._negated(node.test, where)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for default in [*node.args.defaults, *(one for one in node.args.kw_defaults if one)]:
                yield from self._expression(default, ".".join((*names, node.name)))
            yield from self.edits(node.body, (*names, node.name))
            return
        if isinstance(node, ast.ClassDef):
            yield from self.edits(node.body, (*names, node.name))
            return
        for name, value in ast.iter_fields(node):
            if name == "annotation":
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.stmt):
                    yield from self._statement(child, names)
                elif isinstance(child, ast.expr):
                    yield from self._expression(child, where)
                elif isinstance(child, ast.ExceptHandler | ast.match_case):
                    yield from self.edits(child.body, names)
                    if isinstance(child, ast.match_case) and child.guard is not None:
                        yield from self._negated(child.guard, where)
                        yield from self._expression(child.guard, where)
                elif isinstance(child, ast.withitem):
                    yield from self._expression(child.context_expr, where)

    def _negated(self, test: ast.expr, where: str) -> Iterator[_Edit]:
        # What is one comparison gets its opposite below.
        if not isinstance(test, ast.UnaryOp | ast.Compare | ast.NamedExpr):
            yield _Edit("negate condition", where, *self._of(test), f"not ({self._text(test)})")

    def _expression(self, node: ast.expr, where: str) -> Iterator[_Edit]:
        if isinstance(node, ast.JoinedStr | ast.Lambda):
            # Python 3.11 does not know where in an f-string its parts stand; what it says is for a reader anyway.
            if isinstance(node, ast.Lambda):
                yield from self._expression(node.body, where)
            return
        match node:
            case ast.Compare():
                operands = [node.left, *node.comparators]
                for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
                    old, new = _COMPARED[type(operator)]
                    yield from self._between(left, right, old, new, "comparison", where)
            case ast.BoolOp():
                old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield from self._between(left, right, old, new, "and and or", where)
            case ast.BinOp() if type(node.op) in _COMPUTED and not isinstance(node.left, ast.JoinedStr):
                old, new = _COMPUTED[type(node.op)]
                yield from self._between(node.left, node.right, old, new, "arithmetic", where)
            case ast.UnaryOp(op=ast.Not()):
                yield _Edit("remove not", where, *self._of(node), f"({self._text(node.operand)})")
            case ast.IfExp():
                yield from self._negated(node.test, where)
            case ast.Constant(value=bool(value)):
                yield _Edit("constant", where, *self._of(node), str(not value))
            case ast.Constant(value=int(value)):
                for step in (1, -1):
                    yield _Edit("constant", where, *self._of(node), str(value + step))
            case ast.Constant(value=float(value)):
                yield _Edit("constant", where, *self._of(node), str(value * 2 + 1))
            case ast.Call():
                yield from self._call(node, where)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from self._expression(child, where)
            elif isinstance(child, ast.keyword):
                yield from self._expression(child.value, where)
            elif isinstance(child, ast.comprehension):
                yield from self._expression(child.iter, where)
                for test in child.ifs:
                    yield from self._negated(test, where)
                    yield from self._expression(test, where)

    def _call(self, node: ast.Call, where: str) -> Iterator[_Edit]:
        if isinstance(node.func, ast.Name) and node.func.id in _EXTREMES:
            yield _Edit("extreme", where, *self._of(node.func), _EXTREMES[node.func.id])
        for keyword in node.keywords:
            if keyword.arg is not None:
                start, end = self._of(keyword)
                rest = re.match(r"\s*,\s*", self._source[end:])
                yield _Edit("drop argument", where, start, end + (rest.end() if rest else 0), "")
