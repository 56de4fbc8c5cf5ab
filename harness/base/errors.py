"""What can go wrong while proving, as exceptions. A refuted claim is not a harness fault.

AssertionError
└── Refuted            the system under proof did not do what the claim says
HarnessError           the harness itself could not do its work: the verdict is `unproven`
├── Unavailable        this computer lacks something; says what, and how to get it
├── MachineError       a machine did not boot, or vanished
├── CommandFailed      a command ended with a status that was not expected
├── RecorderError      evidence could not be written, so nothing after it counts (contract V1, V3)
└── BundleError        a proof bundle or a key is not what it must be (contract V5)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Refuted(AssertionError):
    """The system under proof did not behave as claimed. The message is the evidence a reader starts from."""

    def __init__(
        self, message: str, *, observed: str = "", state: str = "", set_by: str = "", journal: Sequence[Any] = ()
    ) -> None:
        """message: all that is known, as text. The rest are its parts, for whoever shows them apart: what was
        observed (by default the whole message), how the unit stood, what set it so, and the journal's entries."""
        super().__init__(message)
        self.observed = observed or message
        self.state = state
        self.set_by = set_by
        self.journal = journal


class HarnessError(Exception):
    """The harness could not do its work. Never says anything about the system under proof."""


class Unavailable(HarnessError):
    """Something that the proof needs cannot be had here; `remedy` is what a human can do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason} ({remedy})")
        self.reason = reason
        self.remedy = remedy


class MachineError(HarnessError):
    """A machine did not boot, or is gone."""


class CommandFailed(HarnessError):
    """A recorded command ended with an exit status that its caller did not expect."""


class RecorderError(HarnessError):
    """The flight record could not be written."""


class BundleError(HarnessError):
    """A proof bundle, or a key, is not what it must be; the message names the first check that failed."""
