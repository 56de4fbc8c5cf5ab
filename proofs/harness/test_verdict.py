"""Verdicts: what outcomes mean and how they merge (contract V3)."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
import harness.base.journal
import harness.base.unit
from harness.base.errors import MachineError, Refuted
from harness.evidence import verdict
from harness.evidence.verdict import (
    ClauseId,
    Verdict,
    claims_in_name,
    exit_status,
    is_accepted,
    judge,
    merge,
    refutes,
    run_state,
)

G2, K1 = ClauseId("G2"), ClauseId("K1")


VERDICTS = st.sampled_from(Verdict)


HERE = {__file__}
HARNESS = str(Path(harness.base.__file__).parents[1])


@pytest.mark.claim("V3")
@pytest.mark.parametrize(
    ("outcome", "raised", "when", "verdict"),
    [
        ("passed", None, "call", Verdict.PROVEN),
        ("failed", Refuted("it restarted"), "call", Verdict.REFUTED),
        ("failed", AssertionError("1 == 2"), "call", Verdict.REFUTED),
        ("failed", MachineError("did not boot"), "setup", Verdict.UNPROVEN),
        ("failed", MachineError("vanished"), "call", Verdict.UNPROVEN),
        ("failed", KeyError("of nobody's"), "call", Verdict.UNPROVEN),
        ("failed", AssertionError("a fixture's"), "setup", Verdict.UNPROVEN),
        ("failed", AssertionError("a fixture's"), "teardown", Verdict.UNPROVEN),
        ("failed", None, "call", Verdict.UNPROVEN),
        ("skipped", None, "setup", Verdict.UNPROVEN),
        ("skipped", None, "call", Verdict.UNPROVEN),
    ],
)
def test_outcomes(outcome: str, raised: BaseException | None, when: str, verdict: Verdict) -> None:
    assert judge(outcome, raised=raised, when=when, proof_files=HERE, harness=HARNESS) is verdict


def raised_by(code: str, file: str, call: Callable[[], object] = str) -> BaseException:
    """What code in a file raises; it may call()."""
    try:
        exec(compile(code, file, "exec"), {"call": call, "harness": harness, "json": json})
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


EXHAUSTED = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""What a computer has no more of: room, memory, descriptors."""


@pytest.mark.claim("V3")
@pytest.mark.parametrize(
    ("code", "refuted"),
    [
        ("json.loads('{')", True),
        ("int('x')", True),
        ("assert 0", True),
        ("harness.nothing_of_this_name", True),
        ("harness.base.unit.parse('')", False),
        ("harness.base.journal.parse(None, 0)", False),
        ("import nothing_of_this_name", False),
        ("raise MemoryError", False),
        *((f"raise OSError({number}, 'none is left')", False) for number in EXHAUSTED),
        ("raise OSError(2, 'gone')", True),
        ("raise TimeoutError", True),
        ("import hypothesis.errors; raise hypothesis.errors.Unsatisfiable('of the property')", False),
    ],
)
def test_who_met_it_decides(code: str, refuted: bool) -> None:
    assert refutes(raised_by(code, __file__), HERE, HARNESS) is refuted
    # Through a helper of the proofs' too; and never from the harness's own code.
    assert refutes(raised_by("call()", __file__, lambda: raised_by_helper(code)), HERE, HARNESS) is refuted
    assert not refutes(raised_by(code, f"{HARNESS}/x.py"), HERE, HARNESS)


@pytest.mark.claim("V3")
@pytest.mark.parametrize("code", ["assert 0", "int('x')", "raise TimeoutError"])
def test_what_a_fixture_meets_that_a_proof_asks_for_in_its_call_says_nothing(code: str) -> None:
    def fixture() -> None:
        raise raised_by(code, __file__)

    def through(file: str) -> BaseException:
        inner = compile("call()", file, "exec")
        return raised_by("call()", __file__, lambda: exec(inner, {"call": fixture}))

    assert not refutes(through("/lib/site-packages/_pytest/fixtures.py"), HERE, HARNESS)
    assert refutes(through("/lib/site-packages/other/fixtures.py"), HERE, HARNESS)


def raised_by_helper(code: str) -> None:
    raise raised_by(code, "/project/helpers.py")


@pytest.mark.claim("V3")
@given(st.lists(VERDICTS), VERDICTS)
def test_merge_keeps_the_worst(verdicts: list[Verdict], other: Verdict) -> None:
    merged = merge([*verdicts, other])
    assert (merged is Verdict.PROVEN) == (set(verdicts) | {other} == {Verdict.PROVEN})
    assert (merged is Verdict.REFUTED) == (Verdict.REFUTED in [*verdicts, other])


@pytest.mark.claim("V3")
def test_nothing_proves_nothing() -> None:
    assert merge([]) is Verdict.UNPROVEN


@pytest.mark.claim("V3")
def test_exit_statuses_differ() -> None:
    def status(pytests: int, *verdicts: Verdict) -> int:
        return exit_status(pytests, verdicts, accepted=[False] * len(verdicts), plain_failures=False, missing=False)

    assert status(0, Verdict.PROVEN) == 0
    assert status(1, Verdict.PROVEN, Verdict.REFUTED, Verdict.UNPROVEN) == 1
    assert status(1, Verdict.PROVEN, Verdict.UNPROVEN) == 3


@pytest.mark.claim("V3", "V7")
@given(
    st.sampled_from([0, 1, 2, 3, 4, 5, 7]), st.lists(st.tuples(VERDICTS, st.booleans())), st.booleans(), st.booleans()
)
def test_green_means_all_of_it(pytests: int, found: list[tuple[Verdict, bool]], plain: bool, missing: bool) -> None:
    verdicts, accepted = [one for one, _ in found], [waved and one is Verdict.UNPROVEN for one, waved in found]
    status = exit_status(pytests, verdicts, accepted=accepted, plain_failures=plain, missing=missing)
    wanting = [one for one, waved in zip(verdicts, accepted, strict=True) if one is not Verdict.PROVEN and not waved]
    assert status in (0, 1, 3) or status == pytests
    if status == 0:
        assert not wanting
        assert not plain
        assert not missing
        assert pytests == 0 or (pytests == 1 and Verdict.UNPROVEN in verdicts)
    assert (status == 1) >= (plain or Verdict.REFUTED in verdicts)
    if pytests == 0 and not wanting and not plain and not missing:
        assert status == 0


@pytest.mark.claim("V7")
def test_how_much_a_run_has_judged() -> None:
    assert run_state(ended_early=False, left_out=False) == "complete"
    assert run_state(ended_early=False, left_out=True) == "partial"
    assert run_state(ended_early=True, left_out=False) == run_state(ended_early=True, left_out=True) == "interrupted"


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("test_N7_every_nth", ["N7"]),
        ("test_N8b_D3_both", ["N8b", "D3"]),
        ("test_stall_E2_stays_down", ["stall", "E2"]),
        ("test_N7_every_D3_nth", ["N7"]),
        ("test_plain", []),
        ("test_L_shaped", []),
    ],
)
def test_claims_in_a_name(name: str, claims: list[str]) -> None:
    assert claims_in_name(name) == claims


@pytest.mark.claim("V3")
def test_only_unproven_can_be_accepted() -> None:
    assert is_accepted(Verdict.UNPROVEN, [G2, K1], {K1})
    assert not is_accepted(Verdict.UNPROVEN, [G2], {K1})
    assert not is_accepted(Verdict.UNPROVEN, [G2], set())
    assert not is_accepted(Verdict.REFUTED, [K1], {K1})


@pytest.mark.claim("V7")
def test_exit_statuses_are_those_of_the_contract() -> None:
    assert (verdict.EXIT_PROVEN, verdict.EXIT_REFUTED, verdict.EXIT_UNPROVEN) == (0, 1, 3)


@pytest.mark.claim("V3", "V7")
@pytest.mark.parametrize(
    ("pytests", "verdicts", "accepted", "status"),
    [
        # What is waved through explains that pytest counts a failure.
        (1, [Verdict.UNPROVEN], [True], 0), (1, [Verdict.PROVEN, Verdict.UNPROVEN], [False, True], 0),
        (1, [Verdict.UNPROVEN, Verdict.UNPROVEN], [True, False], 3), (1, [Verdict.PROVEN], [False], 1), (1, [], [], 1),
        (0, [Verdict.UNPROVEN], [True], 0), (0, [], [], 0), (5, [], [], 5), (3, [], [], 3), (2, [], [], 2),
        (4, [Verdict.UNPROVEN], [False], 4), (4, [Verdict.REFUTED], [False], 1), (2, [Verdict.UNPROVEN], [True], 2),
    ],
)  # fmt: skip
def test_the_exit_status_of_a_run(pytests: int, verdicts: list[Verdict], accepted: list[bool], status: int) -> None:
    assert exit_status(pytests, verdicts, accepted=accepted, plain_failures=False, missing=False) == status
    assert exit_status(pytests, verdicts, accepted=accepted, plain_failures=True, missing=False) == 1


def test_each_verdict_needs_its_acceptance() -> None:
    with pytest.raises(ValueError, match="shorter"):
        exit_status(0, [Verdict.PROVEN] * 2, accepted=[False], plain_failures=False, missing=False)


def test_pytests_exit_statuses_are_pytests() -> None:
    code = pytest.ExitCode
    assert (verdict.PYTEST_OK, verdict.PYTEST_FAILED, verdict.PYTEST_INTERNAL_ERROR, verdict.PYTEST_NOTHING) == (
        code.OK, code.TESTS_FAILED, code.INTERNAL_ERROR, code.NO_TESTS_COLLECTED,
    )  # fmt: skip


@pytest.mark.claim("V7")
@pytest.mark.parametrize("pytests", [verdict.PYTEST_OK, verdict.PYTEST_FAILED, verdict.PYTEST_NOTHING])
def test_what_never_ran_is_unproven_by_itself(pytests: int) -> None:
    """Neither another unproven proof nor an error of pytest's own has to come with it."""
    status = exit_status(pytests, [Verdict.PROVEN], accepted=[False], plain_failures=False, missing=True)
    assert status == verdict.EXIT_UNPROVEN
    internal = exit_status(3, [Verdict.PROVEN], accepted=[False], plain_failures=False, missing=False)
    assert internal == verdict.EXIT_UNPROVEN
