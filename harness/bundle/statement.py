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
from datetime import UTC, datetime
from typing import Any

from harness.evidence.verdict import Verdict, merge

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


def canonical(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def show_time(moment: float) -> str:
    """Seconds since 1970 -> RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def safety_part(effective: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of an effective configuration, as the engine's `--check-config` prints it."""
    part = {key: value for key, value in effective.items() if key not in PACE_TABLES}
    part["engine"] = {key: value for key, value in part.get("engine", {}).items() if key not in PACE_KEYS}
    return part


def clause_verdicts(summary: Mapping[str, Any]) -> dict[str, str]:
    """Clause -> merged verdict of all its proofs, from the content of verdicts.json.

    A verdict that names no clause (a worker died) and a run of a part of the proofs leave nothing proven.
    """
    parts: dict[str, list[Verdict]] = {}
    for one in summary["verdicts"]:
        for clause in one["claims"]:
            parts.setdefault(clause, []).append(Verdict(one["verdict"]))
    for clause in (*summary["left_out"], *summary["planned"]):
        parts.setdefault(clause, []).append(Verdict.UNPROVEN)
    nameless = [one for one in summary["verdicts"] if not one["claims"] and one["verdict"] != Verdict.PROVEN]
    if nameless or not summary["complete"]:
        for verdicts in parts.values():
            verdicts.append(Verdict.UNPROVEN)
    return {clause: merge(verdicts).value for clause, verdicts in parts.items()}


def build(
    *,
    ended: float,
    signed: float,
    engine: Mapping[str, str],
    runtime: Mapping[str, Any],
    unit: Sequence[tuple[str, str]],
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    record: Mapping[str, Any],
    facts: Mapping[str, str],
    drop_ins: Mapping[str, str],
) -> dict[str, Any]:
    """The statement.

    ended, signed: when the run of the proofs ended, and when this is signed, in seconds since 1970. engine: path below
    the package -> SHA-256. runtime: the Python and the packages under it. unit: (file name, SHA-256) of fragment,
    drop-ins and environment files, in order. config: the safety part.
    summary: the content of verdicts.json. record: run id, SHA-256, count of lines and last digest of the flight record.
    facts: host facts of the run. drop_ins: name -> text of what the proofs put on top of the unit.
    """
    return {
        "_type": STATEMENT_TYPE,
        "predicateType": PREDICATE_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest(content)}}
            for name, content in (("engine", engine), ("runtime", runtime), ("unit", unit), ("config", config))
        ],
        "predicate": {
            # Of what was shown, not of the signature: signing again makes no proof younger.
            "time": show_time(ended),
            "signed": show_time(signed),
            "engine": dict(engine),
            "runtime": dict(runtime),
            "unit": [list(entry) for entry in unit],
            "config": dict(config),
            "proofs": [
                {key: one[key] for key in ("proof", "claims", "verdict", "reason")} for one in summary["verdicts"]
            ],
            "clauses": clause_verdicts(summary),
            "planned": list(summary["planned"]),
            "accepted_unproven": list(summary["accepted_unproven"]),
            "record": dict(record),
            "proved_on": {
                "systemd": summary["systemd"],
                "unit": summary["proved"]["unit"],
                "drop_ins": dict(drop_ins),
                "added_packages": added_packages(runtime, summary["proved"]["runtime"]),
            },
            "platform": {key: facts[key] for key in ("kernel", "os", "python", "systemd") if key in facts},
            "git": {key: facts[key] for key in ("commit", "tree") if key in facts},
        },
    }


def added_packages(runtime: Mapping[str, Any], proven: Mapping[str, Any]) -> list[str]:
    """The packages that are installed now and were not when the proofs ran: an adapter, and what it needs."""
    added = set(runtime["packages"]) - set(proven["packages"])
    return sorted(f"{name} {runtime['packages'][name]['version']}" for name in added)


def changed_since(runtime: Mapping[str, Any], proven: Mapping[str, Any]) -> list[str]:
    """What of the Python and the packages that the proofs ran on is another now, or gone; in words."""
    python = [] if runtime["python"] == proven["python"] else ["python"]
    now = runtime["packages"]
    return python + sorted(name for name, package in proven["packages"].items() if now.get(name) != package)


def problem(statement: Mapping[str, Any]) -> str | None:
    """The first thing in which a statement is not one of ours, or contradicts itself; None when there is none.

    Raises KeyError or TypeError for a form that is wholly another.
    """
    for key, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement[key] != wanted:
            return f"{key} is {statement[key]!r}, must be {wanted!r}"
    predicate = statement["predicate"]
    said = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    if set(said) != {"engine", "runtime", "unit", "config"}:
        return f"it is about {', '.join(said)}, must be about engine, runtime, unit and config"
    for name, sha256 in said.items():
        if sha256 != digest(predicate[name]):
            return f"the digest of {name} does not belong to what the statement says of it"
    for clause, verdict in predicate["clauses"].items():
        merged = merge(Verdict(one["verdict"]) for one in predicate["proofs"] if clause in one["claims"])
        if verdict == Verdict.PROVEN and merged is not Verdict.PROVEN:
            return f"clause {clause} is called proven, but its proofs are {merged}"
    return None


def objections(statement: Mapping[str, Any], clauses: Iterable[str]) -> list[str]:
    """Why the statement would open no gate, one sentence each, as far as that can be said without the unit.

    clauses: the ids of all clauses of the contract.
    """
    predicate = statement["predicate"]
    config = predicate["config"]
    found = []
    if config["mode"] != "LIVE" or not config["live_armed"]:
        found.append(f"its configuration has mode {config['mode']} and live_armed {str(config['live_armed']).lower()}")
    refuted = [one["proof"] for one in predicate["proofs"] if one["verdict"] == Verdict.REFUTED]
    if refuted:
        found.append(f"refuted: {_listed(refuted)}")
    lacking = [
        clause
        for clause in clauses
        if REQUIRED.fullmatch(clause)
        and (clause in predicate["accepted_unproven"] or predicate["clauses"].get(clause) != Verdict.PROVEN)
    ]
    if lacking:
        found.append(f"required and not proven: {_listed(lacking)}")
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return " ".join(names[:NAMED_MAX]) + more
