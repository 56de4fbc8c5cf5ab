"""A sabotage's patch replaces one piece of one module, wherever that stands, and nothing else (contract V4)."""

from __future__ import annotations

import ast
import textwrap

import pytest

from harness.proving.sabotage import Patch, Sabotage

pytestmark = pytest.mark.claim("V4")

MODULE = """\
import os

LIMIT: int = 5
first, second = 1, 2
table = {"limit": 5}
table["other"] = 7


def twice(number):
    return number + number


async def later(number):
    await nothing()
    return number - 1


class Ledger:
    size = 5

    def __init__(self):
        self.rows = []
        self.size = 0

    def commit(self):
        def inner():
            return 5

        with self.lock:
            self.write()
            self.flush()
        try:
            return inner()
        except OSError:
            self.size = 0
            raise
        finally:
            self.close()

    def write(self):
        for row in self.rows:
            self.put(row)
            self.put(row)
            self.put(row)


if os.name == "posix":

    def there():
        return "posix"

else:
    def elsewhere():
        return "else"


def one_of_two():
    return 1


def one_of_two():
    return 2
"""


def patched(name: str, old: str, new: str) -> str:
    return Patch("engine/x.py", name, textwrap.dedent(old), textwrap.dedent(new)).apply(MODULE)


@pytest.mark.parametrize(
    ("name", "old", "new", "was", "now"),
    [
        ("LIMIT", "5", "6", "LIMIT: int = 5", "LIMIT: int = 6"),
        ("table", "5", "6", "table = {'limit': 5}", "table = {'limit': 6}"),
        ("twice", "number + number", "number * 3", "return number + number", "return number * 3"),
        ("later", "number - 1", "0", "return number - 1", "return 0"),
        ("Ledger.size", "5", "6", "size = 5", "size = 6"),
        ("Ledger.__init__", "self.size = 0", "self.size = 1", "self.rows = []\n        self.size = 0",
         "self.rows = []\n        self.size = 1"),
        ("Ledger.commit.inner", "5", "7", "return 5", "return 7"),
        ("Ledger.commit", "self.size = 0", "", "self.size = 0\n            raise", "raise"),
        ("Ledger.commit", "self.write()\nself.flush()", "self.flush()\nself.write()\nself.flush()",
         "self.write()\n            self.flush()", "self.flush()\n            self.write()\n            self.flush()"),
        ("Ledger.commit", "self.close()", "None", "self.close()", "None"),
        ("Ledger.commit", "with self.lock:\n    self.write()\n    self.flush()", "self.write()",
         "with self.lock:\n            self.write()\n            self.flush()", "self.write()"),
        ("Ledger.write", "for row in self.rows:\n    self.put(row)\n    self.put(row)\n    self.put(row)", "",
         "for row in self.rows:\n            self.put(row)\n            self.put(row)\n            self.put(row)",
         "pass"),
        ("Ledger.write", "self.put(row)\nself.put(row)\nself.put(row)", "pass",
         "self.put(row)\n            self.put(row)\n            self.put(row)", "pass"),
        ("Ledger", "return inner()", "return 0", "return inner()", "return 0"),
        ("Ledger", "def write(self):\n    for row in self.rows:\n        self.put(row)\n        self.put(row)\n"
         "        self.put(row)", "def write(self):\n    return", "def write(self):\n        for row in self.rows:\n"
         "            self.put(row)\n            self.put(row)\n            self.put(row)",
         "def write(self):\n        return"),
        ("there", "'posix'", "'x'", "return 'posix'", "return 'x'"),
        ("elsewhere", "'else'", "'x'", "return 'else'", "return 'x'"),
        ("", "import os", "import sys as os", "import os", "import sys as os"),
        ("", "os.name", "'nt'", "if os.name == 'posix'", "if 'nt' == 'posix'"),
        ("", "7", "8", "table['other'] = 7", "table['other'] = 8"),
    ],
)  # fmt: skip
def test_one_piece_is_replaced_and_the_rest_stays(name: str, old: str, new: str, was: str, now: str) -> None:
    plain = ast.unparse(ast.parse(MODULE)) + "\n"
    assert plain.count(was) == 1
    assert patched(name, old, new) == plain.replace(was, now)


@pytest.mark.parametrize(
    ("name", "old", "says"),
    [
        ("nowhere", "5", "engine/x.py has no nowhere, or more than one"),
        ("Ledger.nowhere", "5", "engine/x.py has no Ledger.nowhere, or more than one"),
        # Of a definition's own names none is the module's.
        ("inner", "5", "has no inner, or more than one"),
        ("commit", "self.write()", "has no commit, or more than one"),
        ("one_of_two", "1", "has no one_of_two, or more than one"),
        ("first", "1", "has no first, or more than one"),
        ("twice", "5", "engine/x.py: twice: '5' occurs 0 times, expected once"),
        ("twice", "number", "engine/x.py: twice: 'number' occurs 2 times, expected once"),
        ("Ledger.write", "self.put(row)", "occurs 3 times, expected once"),
        ("Ledger.write", "self.put(row)\nself.put(row)", "occurs 2 times, expected once"),
        ("Ledger.commit", "self.size = 1", "occurs 0 times, expected once"),
        ("Ledger.commit", "self.write()\nself.close()", "occurs 0 times, expected once"),
        ("Ledger.commit", "", "Ledger.commit: '' occurs 0 times, expected once"),
        ("", "return 1\nreturn 2", "^engine/x.py: 'return 1.nreturn 2' occurs 0 times, expected once"),
    ],
)
def test_what_is_not_there_once_is_refused(name: str, old: str, says: str) -> None:
    # Of statements that occur more than once a new statement must not make fewer.
    new = "pass" if "\n" in old or old.startswith(("return", "self.size")) else "0"
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        patched(name, old, new)


def test_an_expression_gives_way_to_statements_where_it_is_one() -> None:
    assert "self.close()" not in patched("Ledger.commit", "self.close()", "x = 1\ny = 2")
    assert "        finally:\n            x = 1\n            y = 2" in patched(
        "Ledger.commit", "self.close()", "x = 1\ny = 2"
    )


def test_what_is_no_python_is_replaced_as_text() -> None:
    patch = Patch("harness/evidence/templates/x.j2", "", "b", "c")
    assert patch.apply("a b\n") == "a c\n"
    for text, times in (("a\n", 0), ("b b", 2)):
        with pytest.raises(ValueError, match=f"templates/x.j2: 'b' occurs {times} times, expected once"):
            patch.apply(text)


def test_a_sabotage_is_of_what_is_installed_unless_it_says_otherwise() -> None:
    assert Sabotage("id", "E2", "breaks", "test_x::test_y", "reason").installed
