"""Every proof can fail: under its sabotage it is refuted, for the expected reason (contract V4).

The baseline is proven first, with the same call. Then the sabotage is put in place and confirmed to be in effect,
the proof must be refuted, and afterwards the unit is as it was.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from harness.errors import HarnessError, Refuted
from harness.exchange import Exchange
from harness.sabotage import CATALOGUE, Patch, Sabotage, find
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.soak_run import controller

SABOTAGED_DEADLINE_SECS = 3.0
"""What a sabotaged unit is waited for: the baseline just did it in less."""

EFFECTIVE = ("DropInPaths", "BindReadOnlyPaths", "Restart", "RestartPreventExitStatus", "KillSignal", "DynamicUser")


@contextmanager
def called(entry: Sabotage, request: pytest.FixtureRequest) -> Iterator[Callable[[], object]]:
    """The proof as a call without arguments, on a fresh unit and with an exchange of its own."""
    module, _, function = entry.proof.partition("::")
    proof = getattr(importlib.import_module(f"proofs.{module}"), function)
    engine = request.getfixturevalue("engine")
    with ExitStack() as stack:
        # Last of all: a controller that still runs would start it again meanwhile.
        stack.callback(engine.down)
        arguments = dict(entry.params)
        for name in inspect.signature(proof).parameters:
            if name == "exchange":
                arguments[name] = stack.enter_context(Exchange())
            elif name == "soak":
                arguments[name] = stack.enter_context(controller(engine))
            elif name not in arguments:
                arguments[name] = request.getfixturevalue(name)
        engine.down()
        engine.wipe()
        yield lambda: proof(**arguments)


@pytest.mark.sabotage
@pytest.mark.claim("V4")
@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.id)
def test_sabotage_is_caught(
    entry: Sabotage,
    engine: EngineUnit,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    with called(entry, request) as proof:
        try:
            proof()
        except Refuted as error:
            raise HarnessError(f"{entry.proof} is refuted without any sabotage: {error}") from error
    before = [engine.property(name) for name in EFFECTIVE]
    result = {
        "id": entry.id, "guardrail": entry.guardrail, "breaks": entry.breaks, "proof": entry.proof,
        "confirmed": "", "verdict": "proven", "reason": "",
    }  # fmt: skip
    record_property("sabotage", result)
    with engine.sabotaged(entry) as confirmed, called(entry, request) as proof:
        result["confirmed"] = confirmed
        engine.deadline_secs = SABOTAGED_DEADLINE_SECS
        try:
            with pytest.raises(Refuted, match=entry.reason) as refuted:
                proof()
        except Refuted as error:
            result.update(verdict="refuted for another reason", reason=str(error).splitlines()[0])
            raise
        result.update(verdict="refuted", reason=str(refuted.value).splitlines()[0])
    after = [engine.property(name) for name in EFFECTIVE]
    assert after == before, "the sabotage left something behind"


def test_catalogue() -> None:
    ids = [entry.id for entry in CATALOGUE]
    assert len(set(ids)) == len(ids)
    for entry in CATALOGUE:
        assert entry.directives or entry.patch, f"{entry.id} breaks nothing"
        module, _, function = entry.proof.partition("::")
        assert hasattr(importlib.import_module(f"proofs.{module}"), function), f"{entry.id}: no {entry.proof}"
        assert find(entry.id) is entry
    with pytest.raises(KeyError, match="restart-on-12"):
        find("no-such")


def test_a_patch_must_fit_exactly_once() -> None:
    assert Patch("m.py", "a = 1", "a = 2").apply("a = 1\nb = 1\n") == "a = 2\nb = 1\n"
    for source in ("b = 1", "a = 1 a = 1"):
        with pytest.raises(ValueError, match="expected once"):
            Patch("m.py", "a = 1", "a = 2").apply(source)
