"""What a run of proofs has shown, as reports/verdicts.json holds it (contract V7).

The classes are plain dataclasses, because a run of proofs must not wait for pydantic to be loaded; `parse` has pydantic
check what is read back, since whoever reads it did not write it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.base import jsontext
from harness.base.errors import HarnessError
from harness.evidence.verdict import ClauseId, Verdict

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from harness.evidence.lines import EndLine

FILE = "verdicts.json"
"""Below the directory of reports."""


@dataclass(frozen=True)
class ProofResult:
    """The verdict on one proof."""

    proof: str
    """pytest's id of the test."""
    claims: list[ClauseId]
    verdict: Verdict
    reason: str = ""
    """Why it is not proven; empty where it is."""
    seconds: float = 0.0
    about: str = ""
    """What the proof says of itself."""
    fault: str = ""
    """Why the flight record is not evidence for it; empty as long as it is."""

    def as_json(self) -> dict[str, object]:
        """Make it what JSON, and a channel of pytest-xdist, can hold."""
        made = {**asdict(self), "verdict": self.verdict.value}
        return made if self.fault else {name: value for name, value in made.items() if name != "fault"}


@dataclass(frozen=True)
class SabotageResult:
    """How a sabotage was taken by its proof."""

    id: str
    guardrail: str
    breaks: str
    proof: str
    confirmed: str
    """What showed that the sabotage was in effect."""
    verdict: str
    """`refuted`, as it must be, or what happened instead."""
    reason: str


@dataclass(frozen=True)
class RecordIdentity:
    """The flight record of a run."""

    path: str
    """Below the directory of reports."""
    lines: int
    sha256: str
    """The digest that its last line bears."""


@dataclass(frozen=True)
class JudgedEngine:
    """The engine that the proofs are about."""

    engine: str = "installed"
    """`installed`, or the command of --engine-cmd."""
    clauses: list[ClauseId] | None = None
    """What that engine claims to keep; None: everything."""
    files: dict[str, str] = field(default_factory=dict)
    """Path -> SHA-256 of the files that the command names."""
    left_out: int = 0
    """Tests that say nothing about another engine."""


@dataclass(frozen=True)
class Interpreter:
    """A Python."""

    version: str
    sha256: str


@dataclass(frozen=True)
class Package:
    """An installed package."""

    version: str
    sha256: str
    """Digest of all that it has installed."""


@dataclass(frozen=True)
class Runtime:
    """What an engine runs on."""

    python: Interpreter
    packages: dict[str, Package]


@dataclass(frozen=True)
class ProvedEngine:
    """The installation that the proofs ran; empty where nothing was staged."""

    engine: str = ""
    """Digest of the engine's tree."""
    runtime: Runtime | None = None
    unit: list[tuple[str, str]] = field(default_factory=list)
    """(name, SHA-256) of the unit's files."""
    engine_cmd: str | None = None


@dataclass(frozen=True)
class Shard:
    """A part of the proofs, of which several computers run one each."""

    number: int
    """From 1."""
    of: int
    split: str
    """SHA-256 of which test is in which part: parts of the same whole have the same."""


@dataclass(frozen=True)
class RunSummary:
    """All that verdicts.json says."""

    run_id: str
    state: str = "complete"
    """How much was judged: running, interrupted, partial (not all proofs were chosen) or complete."""
    collected: int = 0
    selected: int = 0
    never_ran: int = 0
    """Proofs that were chosen and have no verdict."""
    systemd: str = ""
    verdicts: list[ProofResult] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Verdict -> how many proofs have it."""
    accepted_unproven: list[ClauseId] = field(default_factory=list)
    planned: list[ClauseId] = field(default_factory=list)
    judged: JudgedEngine = field(default_factory=JudgedEngine)
    complete: bool = False
    """Whether all of the project's test files were collected, and the run came to its end."""
    left_out: dict[ClauseId, int] = field(default_factory=dict)
    """Clause -> how many of its proofs have no verdict."""
    record: RecordIdentity | None = None
    """None while the run goes on, and when there is no whole record of it."""
    proved: ProvedEngine | None = None
    """None while the run goes on."""
    shard: Shard | None = None
    """None for a run that was no part of several."""

    def as_json(self) -> dict[str, object]:
        """Make it what verdicts.json holds."""
        made = {**asdict(self), "verdicts": [one.as_json() for one in self.verdicts]}
        if self.judged == JudgedEngine():
            made["judged"] = {"engine": self.judged.engine}
        return {name: value for name, value in made.items() if value is not None}


Verdicts = Mapping[str, tuple[Verdict, list[ClauseId]]]
"""Proof -> verdict and claims."""


def contradiction(summary: RunSummary, recorded: Verdicts, end: EndLine) -> str | None:
    """Return in what a verdicts.json says something else than the record of its run, of which are all verdicts and the
    last line; None when they agree. verdicts.json is easily edited, and who edits it may also leave out."""
    said = {one.proof: (one.verdict, one.claims) for one in summary.verdicts}
    if len(said) != len(summary.verdicts):
        return "its verdicts.json names a proof twice"
    for proof in sorted(said.keys() | recorded.keys()):
        ours, theirs = said.get(proof), recorded.get(proof)
        if ours != theirs:
            return f"verdicts.json says {told_verdict(ours)} of {proof}, its record {told_verdict(theirs)}"
    for name in ("state", "collected", "selected", "never_ran", "counts", "planned", "accepted_unproven", "systemd"):
        if getattr(summary, name) != getattr(end, name):
            return f"verdicts.json and its record differ in {name}: {getattr(summary, name)}, {getattr(end, name)}"
    if end.state != "complete" and summary.complete and not summary.left_out:
        return f"verdicts.json says that all was judged, its record that the run is {end.state}"
    return None


def told_verdict(verdict: tuple[Verdict, list[ClauseId]] | None) -> str:
    """Return a verdict and its claims in words."""
    return "nothing" if verdict is None else f"{verdict[0]} ({' '.join(verdict[1])})"


def counts(verdicts: Iterable[ProofResult]) -> dict[str, int]:
    """Count the proofs of each verdict."""
    found = [one.verdict for one in verdicts]
    return {verdict.value: found.count(verdict) for verdict in Verdict}


def parse(text: str | bytes) -> RunSummary:
    """Read the content of verdicts.json. Raises ValueError that names the first member that is not as it must be."""
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(jsontext.parse(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    raise ValueError(f"not the verdicts of a proof run: {where}{': ' if where else ''}{first['msg']}")


def read(reports: Path) -> RunSummary:
    """Read reports/verdicts.json. Raises HarnessError that names the file and what is wrong."""
    path = reports / FILE
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise HarnessError(f"cannot read {path}: {error.strerror}; run `make proofs` first") from error
    except ValueError as error:
        raise HarnessError(f"{path}: {error}") from error


@cache
def _adapter() -> TypeAdapter[RunSummary]:
    # Here, because it takes longer to load than most who import this module take to run.
    from pydantic import TypeAdapter

    return TypeAdapter(RunSummary)
