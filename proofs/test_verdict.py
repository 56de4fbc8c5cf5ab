"""Verdicts: what outcomes mean and how they merge (contract V3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import MachineError, Refuted
from harness.verdict import Verdict, claims_in_name, exit_status, is_accepted, judge, merge

VERDICTS = st.sampled_from(Verdict)


@pytest.mark.claim("V3")
@pytest.mark.parametrize(
    ("outcome", "raised", "when", "verdict"),
    [
        ("passed", None, "call", Verdict.PROVEN),
        ("failed", Refuted("it restarted"), "call", Verdict.REFUTED),
        ("failed", AssertionError("1 == 2"), "call", Verdict.REFUTED),
        ("failed", MachineError("did not boot"), "setup", Verdict.UNPROVEN),
        ("failed", MachineError("vanished"), "call", Verdict.UNPROVEN),
        ("failed", KeyError("a bug in the proof"), "call", Verdict.UNPROVEN),
        ("failed", AssertionError("a fixture's"), "setup", Verdict.UNPROVEN),
        ("failed", AssertionError("a fixture's"), "teardown", Verdict.UNPROVEN),
        ("skipped", None, "setup", Verdict.UNPROVEN),
        ("skipped", None, "call", Verdict.UNPROVEN),
    ],
)
def test_outcomes(outcome: str, raised: BaseException | None, when: str, verdict: Verdict) -> None:
    assert judge(outcome, raised=raised, when=when) is verdict


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
    assert exit_status([Verdict.PROVEN]) == 0
    assert exit_status([Verdict.PROVEN, Verdict.REFUTED, Verdict.UNPROVEN]) == 1
    assert exit_status([Verdict.PROVEN, Verdict.UNPROVEN]) == 3


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("test_N7_every_nth", ["N7"]),
        ("test_N8b_D3_both", ["N8b", "D3"]),
        ("test_stall_E2_stays_down", ["stall", "E2"]),
        ("test_plain", []),
        ("test_L_shaped", []),
    ],
)
def test_claims_in_a_name(name: str, claims: list[str]) -> None:
    assert claims_in_name(name) == claims


@pytest.mark.claim("V3")
def test_only_unproven_can_be_accepted() -> None:
    assert is_accepted(Verdict.UNPROVEN, ["G2", "K1"], {"K1"})
    assert not is_accepted(Verdict.UNPROVEN, ["G2"], {"K1"})
    assert not is_accepted(Verdict.UNPROVEN, ["G2"], set())
    assert not is_accepted(Verdict.REFUTED, ["K1"], {"K1"})
