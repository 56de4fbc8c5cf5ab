"""What `make proofs` leaves out for its seconds (contract V18)."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from pathlib import Path

import pytest

from harness.proving import contract

ROOT = Path(__file__).resolve().parents[2]

ONLY_SLOW = {
    "O5": "an operator's day, as docs/operating.md has it, typed into a machine of its own",
    "F11": "from one host to four, as docs/fleet.md has it, typed into four machines",
    "V19": "proofs within a machine whose systemd they borrow",
}


def quick(source: str) -> set[str]:
    """The test functions of a module of which at least one case is not marked slow."""
    module = ast.parse(source)
    if any(isinstance(node, ast.Assign) and _slow(node.value) for node in module.body):
        return set()
    return {
        node.name
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not any(map(_slow, node.decorator_list))
    }


def _slow(mark: ast.expr) -> bool:
    marks = mark.elts if isinstance(mark, ast.List) else [mark]
    return any(ast.unparse(one) == "pytest.mark.slow" for one in marks)


@pytest.mark.slow
@pytest.mark.claim("V18")
def test_every_clause_has_a_proof_that_is_not_slow() -> None:
    table = contract.listed(tomllib.loads((ROOT / "config" / "contract.toml").read_text()))
    asked = set()
    for path in (ROOT / "proofs").rglob("test_*.py"):
        source = path.read_text()
        proofs = quick(source)
        asked |= {
            clause for name, claims in contract.claims_in_source(source).items() if name in proofs for clause in claims
        }
    built = {clause for clause, found in table.items() if not found.planned}
    assert built - asked == set(ONLY_SLOW), "make one of its proofs quicker, or take `slow` from one"


@pytest.mark.claim("V18")
def test_marks_of_a_function_and_of_a_module_count() -> None:
    source = "@pytest.mark.slow\ndef test_a(): ...\n@pytest.mark.parametrize('x', [1])\nasync def test_b(): ...\n"
    assert quick(source) == {"test_b"}
    assert quick("pytestmark = pytest.mark.slow\n" + source) == set()
    assert quick("pytestmark = [pytest.mark.claim('G0'), pytest.mark.slow]\n" + source) == set()
    assert quick("pytestmark = pytest.mark.claim('G0')\n" + source) == {"test_b"}


@pytest.mark.claim("V18", "V16")
@pytest.mark.parametrize(
    ("given", "whole"),
    [([], False), (["ARGS=-x"], False), (["WHOLE=1"], True), (["SIGN_KEY=proof.key"], True), (["SHARD=1/2"], True)],
)
def test_what_make_chooses(given: list[str], whole: bool) -> None:
    """A run that is signed, or merged of several, is of all proofs; and tests leave none out."""
    for target, leaves_out in [("proofs", not whole), ("test", False)]:
        told = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", target, *given],
            cwd=ROOT, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True, timeout=60,
        ).stdout.splitlines()  # fmt: skip
        [run] = [line for line in told if "pytest proofs" in line]
        assert ("not slow" in run) == leaves_out
        assert "not sabotage" in run
