"""What a proof's outcome means: proven, refuted or unproven (contract V3), and how outcomes merge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """In the order in which one outweighs another when verdicts are merged."""

    REFUTED = "refuted"
    UNPROVEN = "unproven"
    PROVEN = "proven"


EXIT_PROVEN = 0
EXIT_REFUTED = 1
EXIT_UNPROVEN = 3

_PRIORITY = {verdict: rank for rank, verdict in enumerate(Verdict)}
_CLAUSE = re.compile(r"(?:[A-Z]\d{1,2}b?|exit12|stall|sampling|psi|concurrency)")


def merge(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of a whole from those of its parts. Nothing at all proves nothing: unproven."""
    return min(verdicts, key=_PRIORITY.__getitem__, default=Verdict.UNPROVEN)


def judge(outcome: str, *, raised: BaseException | None, when: str) -> Verdict:
    """The verdict of one test phase.

    outcome: pytest's "passed", "failed" or "skipped"; when: "setup", "call" or "teardown"; raised: what the
    phase raised, if anything. Only a failed assertion in the call refutes. A fault of the harness, a proof
    that crashes, a fixture that fails and a skip say nothing about the system: unproven.
    """
    if outcome == "passed":
        return Verdict.PROVEN
    if outcome == "failed" and when == "call" and isinstance(raised, AssertionError):
        return Verdict.REFUTED
    return Verdict.UNPROVEN


def exit_status(verdicts: Iterable[Verdict]) -> int:
    """The exit status of a run: 0 all proven, 1 something refuted, 3 something unproven and nothing refuted."""
    return {
        Verdict.PROVEN: EXIT_PROVEN,
        Verdict.REFUTED: EXIT_REFUTED,
        Verdict.UNPROVEN: EXIT_UNPROVEN,
    }[merge(verdicts)]


def is_accepted(verdict: Verdict, claims: Iterable[str], accepted: Iterable[str]) -> bool:
    """Whether a verdict is one that `--accept-unproven` waves through: unproven, and about an accepted clause."""
    return verdict is Verdict.UNPROVEN and not set(claims).isdisjoint(accepted)


def claims_in_name(test_name: str) -> list[str]:
    """The contract clauses a test's name starts with: `test_N7_N9_every_nth` claims N7 and N9."""
    claims = []
    for part in test_name.removeprefix("test_").split("_"):
        if not _CLAUSE.fullmatch(part):
            break
        claims.append(part)
    return claims
