"""What a proof's outcome means: proven, refuted or unproven (contract V3), and how outcomes merge."""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import NewType

from harness.base.errors import HarnessError, Refuted

ClauseId = NewType("ClauseId", str)
"""The id of a clause of docs/contract.md, such as `E2` or `exit12`."""


class Verdict(StrEnum):
    """In the order in which one outweighs another when verdicts are merged."""

    REFUTED = "refuted"
    UNPROVEN = "unproven"
    PROVEN = "proven"


EXIT_PROVEN = 0
EXIT_REFUTED = 1
EXIT_UNPROVEN = 3

PYTEST_OK, PYTEST_FAILED, PYTEST_INTERNAL_ERROR, PYTEST_NOTHING = 0, 1, 3, 5
"""Exit statuses of pytest (`pytest.ExitCode`) that are not passed on as they are."""

EXHAUSTED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""What the computer, and not the system under proof, has run out of."""

_PRIORITY = {verdict: rank for rank, verdict in enumerate(Verdict)}
_CLAUSE = re.compile(r"(?:[A-Z]\d{1,2}b?|exit12|stall|sampling|psi|concurrency)")


def anchor(proof: str) -> str:
    """Return the short name of a proof: its id in a document, and what a terminal prints."""
    return f"p-{hashlib.sha256(proof.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def merge(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of a whole from those of its parts. Nothing at all proves nothing: unproven."""
    return min(verdicts, key=_PRIORITY.__getitem__, default=Verdict.UNPROVEN)


def judge(
    outcome: str, *, raised: BaseException | None, when: str, proof_files: Collection[str], harness: str
) -> Verdict:
    """Return the verdict of one test phase.

    outcome: pytest's "passed", "failed" or "skipped"; when: "setup", "call" or "teardown"; raised: what the
    phase raised, if anything. proof_files, harness: see refutes(). A fixture that fails and a skip say nothing about
    the system, but what a fixture judges at the end by `Refuted` does.
    """
    if outcome == "passed":
        return Verdict.PROVEN
    if outcome == "failed" and raised is not None:
        judged = when == "call" and refutes(raised, proof_files, harness)
        if judged or (when == "teardown" and isinstance(raised, Refuted)):
            return Verdict.REFUTED
    return Verdict.UNPROVEN


def refutes(raised: BaseException, proof_files: Collection[str], harness: str) -> bool:
    """Return whether what a proof's call raised means that a promise is broken, however the proof noticed it.

    proof_files: where the proof's own code is; harness: the directory of the harness's. What the proof's code meets
    (through whatever library) refutes. What comes from inside the harness or a fixture, what is missing, and what the
    computer has run out of says nothing about the system under proof.
    """
    if isinstance(raised, BaseExceptionGroup):
        return any(refutes(one, proof_files, harness) for one in raised.exceptions)
    if isinstance(raised, Refuted):
        return True
    kind = type(raised)
    # Hypothesis complains so about the property itself, from a frame that it gives the proof's file name.
    of_hypothesis = kind.__module__.partition(".")[0] == "hypothesis"
    if isinstance(raised, HarnessError | ImportError | MemoryError) or of_hypothesis:
        return False
    if isinstance(raised, OSError) and raised.errno in EXHAUSTED:
        return False
    met = _met_by_proof(raised, proof_files, harness)
    if met is None:
        # pytest's, or a table's: what has no frame of anybody's is judged by what it says.
        return isinstance(raised, AssertionError) or (kind.__module__, kind.__name__) == ("_pytest.outcomes", "Failed")
    return met


def _met_by_proof(raised: BaseException, proof_files: Collection[str], harness: str) -> bool | None:
    """Return whose the innermost frame is that is not a library's: the proof's, or that of the harness or a fixture.
    None: neither's."""
    files = []
    traceback = raised.__traceback__
    while traceback is not None:
        files.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    # What pytest calls from its fixtures.py is a fixture, also when the proof asked for it in the call.
    if any(file.endswith("/_pytest/fixtures.py") for file in files):
        return False
    for file in reversed(files):
        if file in proof_files or file.startswith(harness):
            return file in proof_files
    return None


def exit_status(
    pytests: int, verdicts: Sequence[Verdict], *, accepted: Sequence[bool], plain_failures: bool, missing: bool
) -> int:
    """Return the exit status of a run (contract V7), from the one that pytest would give.

    accepted: of each verdict, whether `--accept-unproven` waves it through. plain_failures: whether a test without
    claims failed. missing: whether a proof that was chosen never ran, or a file could not be collected.
    """
    if plain_failures or Verdict.REFUTED in verdicts:
        return EXIT_REFUTED
    if pytests not in (PYTEST_OK, PYTEST_FAILED, PYTEST_INTERNAL_ERROR, PYTEST_NOTHING):
        return pytests
    wanting = any(verdict is Verdict.UNPROVEN and not waved for verdict, waved in zip(verdicts, accepted, strict=True))
    if wanting or missing or pytests == PYTEST_INTERNAL_ERROR:
        return EXIT_UNPROVEN
    # Of a failure that no verdict explains nothing is known but that it was one.
    return EXIT_PROVEN if pytests == PYTEST_FAILED and Verdict.UNPROVEN in verdicts else pytests


def run_state(*, ended_early: bool, left_out: bool) -> str:
    """Return how much a run has judged: all proofs there are, those that were chosen, or not even those."""
    if ended_early:
        return "interrupted"
    return "partial" if left_out else "complete"


def is_accepted(verdict: Verdict, claims: Iterable[ClauseId], accepted: Iterable[ClauseId]) -> bool:
    """Return whether a verdict is one that `--accept-unproven` waves through: unproven, and about an accepted
    clause."""
    return verdict is Verdict.UNPROVEN and not set(claims).isdisjoint(accepted)


def claims_in_name(test_name: str) -> list[ClauseId]:
    """Return the contract clauses a test's name starts with: `test_N7_N9_every_nth` is of N7 and N9.

    For whoever reads the name: a claim is made by a mark, and the name only repeats it.
    """
    claims = []
    for part in test_name.removeprefix("test_").split("_"):
        if not _CLAUSE.fullmatch(part):
            break
        claims.append(ClauseId(part))
    return claims
