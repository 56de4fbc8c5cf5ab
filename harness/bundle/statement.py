"""What a proof bundle says: verdicts and facts of a run -> an in-toto statement (contract V5).

The statement is about four things: the engine tree that was proven, the Python and the packages that it runs on, the
effective unit, and the part of the configuration that decides about orders. Its predicate holds every verdict, what was
left out, and where the evidence is. docs/decisions/0003-live-gate.md has the format; the engine's gate reads it with
code of its own.

Whatever was not shown counts as unproven here: a proof that did not run, a clause that is planned, a run of a part
of the proofs, a clause that `--accept-unproven` waved through.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from harness.evidence.results import Package, RunSummary, Runtime
from harness.evidence.verdict import ClauseId, Verdict, merge

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://hybrid-engine.invalid/proof-bundle/v2"

REQUIRED = re.compile(r"G\d|exit12|stall|sampling|psi|concurrency|[ISL]\d{1,2}")
"""The guardrails of contract section 11, without which no bundle opens LIVE."""

PACE_TABLES = frozenset({"channels", "persist", "dashboard"})
PACE_KEYS = frozenset({"sample_every", "run_seconds", "heartbeat_interval_secs"})
"""What of the configuration no bundle is about: these tables, and these keys of `[engine]`."""

NAMED_MAX = 12
"""How many clauses one line of `objections` names."""


class _Form(BaseModel):
    """A part of a statement. It holds what is named here and nothing else."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True)


class Sha256(_Form):
    """A digest, as in-toto writes it."""

    sha256: str


class BundleSubject(_Form):
    """Something that the statement is about."""

    name: str
    digest: Sha256


class ProofVerdict(_Form):
    """The verdict on one proof."""

    proof: str
    claims: list[ClauseId]
    verdict: Verdict
    reason: str


class SignedRecord(_Form):
    """The flight record that the statement is made from."""

    run_id: str
    sha256: str
    """Of the file."""
    lines: int
    head: str
    """The digest that its last line bears."""


class ProvedOn(_Form):
    """What the proofs ran on, as far as it is not the subject itself."""

    systemd: str
    unit: list[tuple[str, str]]
    drop_ins: dict[str, str]
    added_packages: list[str]
    """Installed since: an adapter, and what it needs."""


class BundlePredicate(_Form):
    """What is said of the subjects."""

    time: str
    """When the proofs ended (RFC 3339): signing again makes no proof younger."""
    signed: str
    engine: dict[str, str]
    """Path below the package -> SHA-256."""
    runtime: Runtime
    unit: list[tuple[str, str]]
    """(file name, SHA-256) of fragment, drop-ins and environment files, in order."""
    config: dict[str, JsonValue]
    """The safety part."""
    proofs: list[ProofVerdict]
    clauses: dict[ClauseId, Verdict]
    planned: list[ClauseId]
    accepted_unproven: list[ClauseId]
    record: SignedRecord
    proved_on: ProvedOn
    platform: dict[str, str]
    git: dict[str, str]


class BundleStatement(_Form):
    """An in-toto statement about an engine that was proven."""

    type: str = Field(validation_alias="_type", serialization_alias="_type")
    predicate_type: str = Field(validation_alias="predicateType", serialization_alias="predicateType")
    subject: list[BundleSubject]
    predicate: BundlePredicate

    def as_json(self) -> dict[str, object]:
        """Make it the JSON that is signed."""
        return self.model_dump(mode="json", by_alias=True)


class _TrustedKeys(BaseModel):
    trusted_keys: list[str] = []


class LiveConfig(BaseModel):
    """What of a configuration decides whether it can open LIVE."""

    mode: str
    live_armed: bool
    gate: _TrustedKeys = _TrustedKeys()


def canonical(value: object) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: object) -> str:
    """Return the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def show_time(moment: float) -> str:
    """Return seconds since 1970 -> RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def safety_part(effective: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Keep what counts of an effective configuration, as the engine's `--check-config` prints it."""
    part = {key: value for key, value in effective.items() if key not in PACE_TABLES}
    engine = part.get("engine", {})
    if isinstance(engine, dict):
        part["engine"] = {key: value for key, value in engine.items() if key not in PACE_KEYS}
    return part


def clause_verdicts(summary: RunSummary) -> dict[ClauseId, Verdict]:
    """Merge the verdicts of each clause's proofs.

    A verdict that names no clause (a worker died) and a run of a part of the proofs leave nothing proven.
    """
    parts: dict[ClauseId, list[Verdict]] = {}
    for one in summary.verdicts:
        for clause in one.claims:
            parts.setdefault(clause, []).append(one.verdict)
    for clause in (*summary.left_out, *summary.planned):
        parts.setdefault(clause, []).append(Verdict.UNPROVEN)
    nameless = [one for one in summary.verdicts if not one.claims and one.verdict is not Verdict.PROVEN]
    if nameless or not summary.complete:
        for verdicts in parts.values():
            verdicts.append(Verdict.UNPROVEN)
    return {clause: merge(verdicts) for clause, verdicts in parts.items()}


def build(
    *,
    ended: float,
    signed: float,
    engine: Mapping[str, str],
    runtime: Runtime,
    unit: Sequence[tuple[str, str]],
    config: Mapping[str, JsonValue],
    summary: RunSummary,
    record: SignedRecord,
    facts: Mapping[str, str],
    drop_ins: Mapping[str, str],
) -> BundleStatement:
    """Make the statement about a run that says which engine it proved (`summary.proved`).

    ended, signed: when the run of the proofs ended, and when this is signed, in seconds since 1970. engine: path below
    the package -> SHA-256. runtime: the Python and the packages under it. unit: (file name, SHA-256) of fragment,
    drop-ins and environment files, in order. config: the safety part.
    facts: host facts of the run. drop_ins: name -> text of what the proofs put on top of the unit.
    """
    proved = summary.proved
    if proved is None or proved.runtime is None:
        raise ValueError("the run does not say which engine was proven")
    subjects = (("engine", dict(engine)), ("runtime", asdict(runtime)), ("unit", list(unit)), ("config", dict(config)))
    predicate = BundlePredicate(
        # Of what was shown, not of the signature: signing again makes no proof younger.
        time=show_time(ended),
        signed=show_time(signed),
        engine=dict(engine),
        runtime=runtime,
        unit=list(unit),
        config=dict(config),
        proofs=[
            ProofVerdict(proof=one.proof, claims=one.claims, verdict=one.verdict, reason=one.reason)
            for one in summary.verdicts
        ],
        clauses=clause_verdicts(summary),
        planned=summary.planned,
        accepted_unproven=summary.accepted_unproven,
        record=record,
        proved_on=ProvedOn(
            systemd=summary.systemd,
            unit=proved.unit,
            drop_ins=dict(drop_ins),
            added_packages=added_packages(runtime, proved.runtime),
        ),
        platform={key: facts[key] for key in ("kernel", "os", "python", "systemd") if key in facts},
        git={key: facts[key] for key in ("commit", "tree") if key in facts},
    )
    return BundleStatement(
        type=STATEMENT_TYPE,
        predicate_type=PREDICATE_TYPE,
        subject=[BundleSubject(name=name, digest=Sha256(sha256=digest(content))) for name, content in subjects],
        predicate=predicate,
    )


def added_packages(runtime: Runtime, proven: Runtime) -> list[str]:
    """Name the packages that are installed now and were not when the proofs ran: an adapter, and what it needs."""
    added = runtime.packages.keys() - proven.packages.keys()
    return sorted(f"{name} {runtime.packages[name].version}" for name in added)


def changed_since(runtime: Runtime, proven: Runtime) -> list[str]:
    """Name what of the Python and the packages that the proofs ran on is another now, or gone."""
    python = [] if runtime.python == proven.python else ["python"]
    now: Mapping[str, Package] = runtime.packages
    return python + sorted(name for name, package in proven.packages.items() if now.get(name) != package)


def problem(statement: BundleStatement) -> str | None:
    """Say the first thing in which a statement is not one of ours, or contradicts itself; None when there is none."""
    for key, found, wanted in (
        ("_type", statement.type, STATEMENT_TYPE),
        ("predicateType", statement.predicate_type, PREDICATE_TYPE),
    ):
        if found != wanted:
            return f"{key} is {found!r}, must be {wanted!r}"
    predicate = statement.predicate
    said = {subject.name: subject.digest.sha256 for subject in statement.subject}
    about: dict[str, object] = {
        "engine": predicate.engine,
        "runtime": asdict(predicate.runtime),
        "unit": predicate.unit,
        "config": predicate.config,
    }
    if set(said) != set(about):
        return f"it is about {', '.join(said)}, must be about engine, runtime, unit and config"
    for name, sha256 in said.items():
        if sha256 != digest(about[name]):
            return f"the digest of {name} does not belong to what the statement says of it"
    for clause, verdict in predicate.clauses.items():
        merged = merge(one.verdict for one in predicate.proofs if clause in one.claims)
        if verdict is Verdict.PROVEN and merged is not Verdict.PROVEN:
            return f"clause {clause} is called proven, but its proofs are {merged}"
    return None


def objections(statement: BundleStatement, clauses: Iterable[ClauseId]) -> list[str]:
    """Say why the statement would open no gate, one sentence each, as far as that can be said without the unit.

    clauses: the ids of all clauses of the contract. Raises ValueError for a configuration that is none of the engine's.
    """
    predicate = statement.predicate
    config = LiveConfig.model_validate(predicate.config)
    found = []
    if config.mode != "LIVE" or not config.live_armed:
        found.append(f"its configuration has mode {config.mode} and live_armed {str(config.live_armed).lower()}")
    refuted = [one.proof for one in predicate.proofs if one.verdict is Verdict.REFUTED]
    if refuted:
        found.append(f"refuted: {_listed(refuted)}")
    lacking = [
        clause
        for clause in clauses
        if REQUIRED.fullmatch(clause)
        and (clause in predicate.accepted_unproven or predicate.clauses.get(clause) is not Verdict.PROVEN)
    ]
    if lacking:
        found.append(f"required and not proven: {_listed(lacking)}")
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return " ".join(names[:NAMED_MAX]) + more
