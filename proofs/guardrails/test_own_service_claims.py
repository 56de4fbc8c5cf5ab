"""What a promise says of a service: a few of each kind; long_own_service_claims.py has every one (contract V13)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from harness.proving.service import ServiceUnit
from proofs.guardrails import long_own_service_claims as every
from proofs.guardrails.long_own_service_claims import Case, judged

place, under = every.place, every.under

FEW = {
    "on-failure", "burst-1", "down", "cannot-start", "up", "kill-on-abnormal", "kill-lock", "kill-no", "fed",
    "never-fed", "stop", "stop-too-late", "stop-leaves", "stop-child-killed", "exposed", "too-exposed", "writes-own",
    "writes-more", "net-none", "net", "net-of-a-child", "writes-log", "stop-killed-well",
}  # fmt: skip
NOT_RUNNING = {"exits", "no-program", "not-ready", "condition"}


@pytest.mark.slow
@pytest.mark.claim("V13")
@pytest.mark.parametrize("case", [case for case in every.CASES if case[0] in FEW], ids=every.ids)
def test_a_promise_is_proven_of_those_that_keep_it_and_refuted_of_others(
    under: Callable[[str, str], AbstractContextManager[ServiceUnit]], case: Case
) -> None:
    judged(under, case)


@pytest.mark.slow
@pytest.mark.claim("V13", "V3")
@pytest.mark.parametrize("broken", [one for one in every.UNUSABLE if one[0] in NOT_RUNNING], ids=every.ids)
def test_a_service_that_does_not_run_is_refuted_and_the_reason_comes_first(
    under: Callable[[str, str], AbstractContextManager[ServiceUnit]], broken: tuple[str, str, str]
) -> None:
    name, lines, reason = broken
    judged(under, (name, every.ANY[0], lines, reason), start_secs=1.0)


def test_the_few_are_among_them() -> None:
    assert {case[0] for case in every.CASES} >= FEW
    assert {one[0] for one in every.UNUSABLE} >= NOT_RUNNING
