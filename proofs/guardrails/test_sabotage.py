"""Every proof can fail: under its sabotage it is refuted, for the expected reason (contract V4).

The baseline is proven first, with the same call. Then the sabotage is put in place and confirmed to be in effect,
the proof must be refuted, and afterwards the unit is as it was.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.base.clock import OsClock
from harness.base.errors import HarnessError, Refuted
from harness.faults.exchange import Exchange
from harness.proving.sabotage import Patch, Sabotage
from proofs.fixtures.dashboard_unit import served
from proofs.fixtures.engine_unit import EngineUnit, exchange_for
from proofs.fixtures.soak_run import controller
from proofs.sabotages import CATALOGUE, find

ROOT = Path(__file__).resolve().parents[2]

SABOTAGED_DEADLINE_SECS = 3.0
"""What a sabotaged unit is waited for. On a busy computer it is half of what the whole baseline took."""

EFFECTIVE = "DropInPaths,BindReadOnlyPaths,Restart,RestartPreventExitStatus,KillSignal,User"


def proof_of(entry: Sabotage) -> Callable[..., object]:
    """The function that a sabotage is for, in whichever room of the proofs it is."""
    module, _, function = entry.proof.partition("::")
    (path,) = (ROOT / "proofs").rglob(f"{module}.py")
    return getattr(importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)), function)  # type: ignore[no-any-return]


@contextmanager
def called(entry: Sabotage, request: pytest.FixtureRequest) -> Iterator[Callable[[], object]]:
    """The proof as a call without arguments, on a fresh unit and with an exchange of its own."""
    proof = proof_of(entry)
    engine = request.getfixturevalue("engine")
    with ExitStack() as stack:
        # Last of all: a controller that still runs would start it again meanwhile.
        stack.callback(engine.down)
        arguments = dict(entry.params)
        for name, parameter in inspect.signature(proof).parameters.items():
            if parameter.annotation == Exchange.__name__:
                arguments[name] = stack.enter_context(exchange_for(engine))
            elif name == "soak":
                arguments[name] = stack.enter_context(controller(engine))
            elif name == "dashboard":
                arguments[name] = stack.enter_context(served(engine))
            elif name not in arguments:
                arguments[name] = request.getfixturevalue(name)
        engine.down()
        engine.wipe()
        yield lambda: proof(**arguments)


def reported(entry: Sabotage, record_property: Callable[[str, object], None]) -> dict[str, object]:
    """The entry's line in the report, to be filled in as it goes."""
    result: dict[str, object] = {
        "id": entry.id, "guardrail": entry.guardrail, "breaks": entry.breaks, "proof": entry.proof,
        "confirmed": "", "verdict": "proven", "reason": "",
    }  # fmt: skip
    record_property("sabotage", result)
    return result


def is_refuted_as_expected(entry: Sabotage, proof: Callable[[], object], result: dict[str, object]) -> bool:
    """The proof must turn red; whether it does for the expected reason."""
    with pytest.raises(AssertionError) as refuted:
        proof()
    expected = re.search(entry.reason, str(refuted.value)) is not None
    verdict = "refuted" if expected else "refuted for another reason"
    result.update(verdict=verdict, reason=str(refuted.value).splitlines()[0])
    return expected


@pytest.mark.sabotage
@pytest.mark.claim("V4")
@pytest.mark.parametrize("entry", [entry for entry in CATALOGUE if entry.installed], ids=lambda entry: entry.id)
def test_sabotage_is_caught(
    entry: Sabotage,
    engine: EngineUnit,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    clock = OsClock()
    with called(entry, request) as proof:
        began = clock.monotonic()
        try:
            proof()
        except Refuted as error:
            raise HarnessError(f"{entry.proof} is refuted without any sabotage: {error}") from error
        took = clock.monotonic() - began
    before = engine.property(EFFECTIVE)
    result = reported(entry, record_property)
    with engine.sabotaged(entry) as confirmed:
        result["confirmed"] = confirmed
        engine.deadline_secs = max(SABOTAGED_DEADLINE_SECS, took / 2)
        with called(entry, request) as proof:
            expected = is_refuted_as_expected(entry, proof, result)
        if not expected:
            warnings.warn(f"{entry.id}: refuted, but not for that at first: {result['reason']}", stacklevel=1)
            with called(entry, request) as proof:
                expected = is_refuted_as_expected(entry, proof, result)
    assert expected, f"refuted, but not for that: {result['reason']}, expected {entry.reason}"
    assert engine.property(EFFECTIVE) == before, "the sabotage left something behind"


@pytest.mark.sabotage
@pytest.mark.claim("V4")
@pytest.mark.parametrize("entry", [entry for entry in CATALOGUE if not entry.installed], ids=lambda entry: entry.id)
def test_sabotage_of_what_a_proof_imports_is_caught(
    entry: Sabotage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """The proof's processes find a patched package before the true one."""
    assert entry.patch is not None
    proof = proof_of(entry)
    (tmp_path / "true").mkdir()
    proof(tmp_path / "true", **entry.params)
    result = reported(entry, record_property)
    package = entry.patch.module.partition("/")[0]
    patched = tmp_path / "packages" / entry.patch.module
    shutil.copytree(ROOT / package, tmp_path / "packages" / package, ignore=shutil.ignore_patterns("__pycache__"))
    patched.write_text(entry.patch.apply(patched.read_text()))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    # The module itself: of a namespace, as harness/ is one, each part may lie somewhere else.
    module = entry.patch.module.removesuffix(".py").replace("/", ".")
    find_it = f"import importlib.util; print(importlib.util.find_spec({module!r}).origin)"
    found = subprocess.run([sys.executable, "-c", find_it], cwd=tmp_path, capture_output=True, text=True, check=True)
    if found.stdout.strip() != str(patched):
        raise HarnessError(f"sabotage {entry.id} is not in effect: processes import {found.stdout}")
    result["confirmed"] = found.stdout.strip()
    (tmp_path / "sabotaged").mkdir()
    expected = is_refuted_as_expected(entry, lambda: proof(tmp_path / "sabotaged", **entry.params), result)
    assert expected, f"refuted, but not for that: {result['reason']}, expected {entry.reason}"


@pytest.mark.claim("V4")
def test_a_sabotage_is_caught_only_by_a_refutation_for_its_reason() -> None:
    entry, result = CATALOGUE[0], dict[str, object](verdict="proven")
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        is_refuted_as_expected(entry, lambda: None, result)
    assert result["verdict"] == "proven"

    def refute() -> None:
        raise Refuted("the computer is busy\nand more", observed="", state="", set_by="", journal=[])

    assert not is_refuted_as_expected(entry, refute, result)
    assert result == {"verdict": "refuted for another reason", "reason": "the computer is busy"}
    assert is_refuted_as_expected(replace(entry, reason="and more"), refute, result)
    assert result["verdict"] == "refuted"


def test_catalogue() -> None:
    ids = [entry.id for entry in CATALOGUE]
    assert len(set(ids)) == len(ids)
    for entry in CATALOGUE:
        assert entry.directives or entry.patch, f"{entry.id} breaks nothing"
        proof = proof_of(entry)
        taken = set(inspect.signature(proof).parameters)
        assert taken >= set(entry.params), f"{entry.id}: {entry.proof} takes {taken}"
        assert entry.installed or taken == {"tmp_path", *entry.params}, f"{entry.id}: {entry.proof} takes {taken}"
        assert find(entry.id) is entry
    with pytest.raises(KeyError, match="restart-on-12"):
        find("no-such")


MODULE = """
TABLE = {"a": 1, "b": [1, 2]}


class Taker:
    limit: int = 3

    def take(self, n: int) -> bool:
        # As many as there is room for.
        if n <= 0:
            raise ValueError("nothing to take")
        self.taken = self.taken + n
        self.tell()
        return n < self.limit

    def tell(self) -> None:
        self.tell()

    def twice(self) -> None:
        pass

    if True:

        def twice(self) -> None:
            self.tell()
"""


@pytest.mark.claim("V4")
@pytest.mark.parametrize(
    ("name", "old", "new", "left", "instead"),
    [
        ("Taker.take", "n < self.limit", "n <= self.limit", "return n < self.limit", "return n <= self.limit"),
        # However it is laid out.
        ("Taker.take", "n   <\\\n self.limit", "True", "return n < self.limit", "return True"),
        ("Taker.limit", "3", "4", "limit: int = 3", "limit: int = 4"),
        ("TABLE", "[1, 2]", "()", '"b": [1, 2]', '"b": ()'),
        ("Taker.take", "self.tell()", "self.mute()", "self.tell()\n        return", "self.mute()\n        return"),
        (
            "Taker.take",
            "self.taken = self.taken + n\nself.tell()",
            "",
            "self.taken = self.taken + n\n        self.tell()",
            "",
        ),
        (
            "Taker.tell",
            "self.tell()",
            "raise RuntimeError",
            "None:\n        self.tell()",
            "None:\n        raise RuntimeError",
        ),
        ("Taker.tell", "self.tell()", "", "None:\n        self.tell()", "None:\n        pass"),
        ("", "raise ValueError('nothing to take')", "n = 1", 'raise ValueError("nothing to take")', "n = 1"),
    ],
)
def test_a_patch_replaces_the_piece_that_it_names(name: str, old: str, new: str, left: str, instead: str) -> None:
    """The piece, of all the module, and nothing else of it."""
    patched = Patch("m.py", name, old, new).apply(MODULE)
    assert ast.dump(ast.parse(patched)) == ast.dump(ast.parse(MODULE.replace(left, instead, 1)))


@pytest.mark.claim("V4")
@pytest.mark.parametrize(
    ("name", "old", "told"),
    [
        ("Taker.take", "n > 0", r"m\.py: Taker\.take: 'n > 0' occurs 0 times"),
        ("TABLE", "1", "occurs 2 times"),
        ("", "self.tell()", "occurs 3 times"),
        ("Taker.take", "self.taken = 0\nself.tell()", "occurs 0 times"),
        ("Taker.twice", "self.tell()", r"m\.py has no Taker\.twice, or more than one"),
        ("Taker.gone", "self.tell()", "has no Taker.gone"),
        ("take", "n < self.limit", "has no take"),
    ],
)
def test_a_patch_that_does_not_fit_is_an_error(name: str, old: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Patch("m.py", name, old, "True").apply(MODULE)


@pytest.mark.claim("V4")
def test_a_patch_of_what_is_no_python_is_one_of_text() -> None:
    assert Patch("m.css", "", "a: 1", "a: 2").apply("a: 1\nb: 1\n") == "a: 2\nb: 1\n"
    for source in ("b: 1", "a: 1 a: 1"):
        with pytest.raises(ValueError, match="expected once"):
            Patch("m.css", "", "a: 1", "a: 2").apply(source)
