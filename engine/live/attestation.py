"""What a proof bundle must be to open LIVE: bytes -> a statement -> reasons to refuse (contract R6, V5, G1).

A bundle is a DSSE envelope (https://github.com/secure-systems-lab/dsse) around an in-toto statement
(https://github.com/in-toto/attestation), signed with Ed25519. The harness writes it with a library; this module reads
it with code of its own, so that one mistake does not sit on both sides. The format: docs/decisions/0003-live-gate.md.

Two steps, and nothing of a bundle is believed before the first is over: `verified` takes the bytes of a file and the
trusted keys, and gives the statement that one of them signed; `refusals` compares the statement with what this engine
is and runs on. There is one form of a bundle, to the byte, so that a flipped bit cannot hide where no signature looks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, NoReturn

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from engine.base import ed25519

BYTES_MAX: Final = 4 * 1024 * 1024
"""No bundle is larger: one of two thousand proofs has half a megabyte."""

DEPTH_MAX: Final = 16
"""No bundle nests lists and objects deeper than this."""

SKEW_SECS: Final = 60.0
"""How far the clock of the computer that ran the proofs may be ahead of ours."""

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://hybrid-engine.invalid/proof-bundle/v2"
PREDICATE_TYPE_BEFORE: Final = "https://hybrid-engine.invalid/proof-bundle/v1"
"""Of bundles that say nothing of what the engine runs on."""

REQUIRED: Final = (
    *(f"G{number}" for number in range(6)),
    *("exit12", "stall", "sampling", "psi", "concurrency"),
    *(f"I{number}" for number in range(1, 8)),
    *(f"S{number}" for number in range(1, 16)),
    *(f"L{number}" for number in range(1, 5)),
)
"""The guardrails of contract section 11: each must be proven."""

KEY_PREFIX: Final = "ed25519:"
"""What a trusted key begins with; the base64 of its 32 bytes follows."""

_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
# A string that does not end is a token up to the end: looking for its end again from each quote in it would take hours.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.?)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)

_NAMED_MAX: Final = 3
"""How many of the things that differ a refusal names."""

_REASON_MAX: Final = 1000
"""How many characters a refusal has: it may name what a bundle holds, and journald cuts a long line."""


class Refusal(Exception):
    """One reason why LIVE stays shut: the check that failed, and in words why."""

    def __init__(self, check: str, reason: str) -> None:
        if len(reason) > _REASON_MAX:
            reason = f"{reason[: _REASON_MAX - 3]}..."
        super().__init__(f"{check}: {reason}")
        self.check = check
        self.reason = reason


class Subject(msgspec.Struct, forbid_unknown_fields=True):
    """What a statement is about: `engine`, `runtime`, `unit` or `config`, and its digest."""

    name: str
    digest: dict[Literal["sha256"], str]


class Proof(msgspec.Struct, forbid_unknown_fields=True):
    """One proof of the run, and what came of it."""

    proof: str
    claims: list[str]
    verdict: Literal["proven", "unproven", "refuted"]
    reason: str


class Predicate(msgspec.Struct, forbid_unknown_fields=True):
    """What the run of the proofs has shown.

    `time` is when the run ended; `signed` is later, and makes no proof younger. `engine` maps a file's path below the
    package to its SHA-256, `runtime` says which Python and which packages it runs on, `unit` lists (file name, SHA-256)
    of fragment and drop-ins in the order in which they apply, and of environment files, `config` is the part of the
    effective configuration that counts: the subjects' digests are theirs. What `signed`, `record`, `proved_on`,
    `platform` and `git` say is for people.
    """

    time: str
    signed: str
    engine: dict[str, str]
    runtime: dict[str, Any]
    unit: list[tuple[str, str]]
    config: dict[str, Any]
    proofs: list[Proof]
    clauses: dict[str, Literal["proven", "unproven", "refuted"]]
    planned: list[str]
    accepted_unproven: list[str]
    record: dict[str, Any]
    proved_on: dict[str, Any]
    platform: dict[str, str]
    git: dict[str, str]


class Statement(msgspec.Struct, forbid_unknown_fields=True, rename={"type": "_type"}):
    """An in-toto statement, version 1."""

    type: str
    subject: list[Subject]
    predicateType: str
    predicate: Predicate


class Here(msgspec.Struct):
    """What this engine is, and what it knows, at the moment of the check."""

    now: float
    """Wall clock, in seconds since 1970."""
    max_age_hours: float
    engine: dict[str, str]
    """As Predicate.engine, of the files that run."""
    runtime: dict[str, Any]
    unit: list[tuple[str, str]]
    config: dict[str, Any]
    newest_bundle: float | None = None
    """The time of the newest bundle that ever opened the gate here; None: there was none."""
    opened_at: float | None = None
    """When the gate was last opened, by the clock of then."""


def canonical(value: object) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8. What digests are made of.

    A lone surrogate stands for a byte of a file name or of the command line that is not UTF-8; it is written as such,
    so that these have a digest too. No bundle can hold one. Raises ValueError for a number that JSON cannot write.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def digest(value: object) -> str:
    """Return the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def parse_time(text: str) -> float:
    """Return RFC 3339 in UTC, whole seconds -> seconds since 1970. Raises ValueError."""
    moment = datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
    if moment.strftime(_TIME_FORMAT) != text:
        raise ValueError(f"{text!r} is not a time of the form 2026-11-24T13:36:28Z")
    return moment.timestamp()


def show_time(moment: float) -> str:
    """Return seconds since 1970 -> RFC 3339 in UTC, cut to whole seconds."""
    return datetime.fromtimestamp(moment, UTC).strftime(_TIME_FORMAT)


def public_key(text: str) -> bytes:
    """Return the 32 bytes of a trusted key, which engine/config/settings.py has checked the spelling of."""
    return base64.b64decode(text.removeprefix(KEY_PREFIX))


# --- bytes -> statement ------------------------------------------------------------------------------------


def verified(raw: bytes, trusted_keys: Sequence[str]) -> Statement:
    """Return the statement in the bundle, signed by one of the trusted keys.

    Raises Refusal for the first of these checks that fails: envelope, payload type, signature, statement.
    """
    payload_type, payload, keyid, signature = _envelope(raw)
    if payload_type != PAYLOAD_TYPE:
        raise Refusal("payload type", f"has the payload type {payload_type[:80]!r}, must have {PAYLOAD_TYPE!r}")
    _check_signature(payload_type, payload, keyid, signature, trusted_keys)
    return _statement(payload)


def _envelope(raw: bytes) -> tuple[str, bytes, str, bytes]:
    """Payload type, payload, key id and signature."""
    found = _json("envelope", raw)
    if not isinstance(found, dict) or set(found) != {"payload", "payloadType", "signatures"}:
        _refuse_envelope("must be an object with payload, payloadType and signatures, and nothing else")
    if canonical(found) + b"\n" != raw:
        _refuse_envelope("is not in the form in which `python -m harness bundle` writes it, byte for byte")
    payload_type, payload, signatures = found["payloadType"], found["payload"], found["signatures"]
    if not isinstance(payload_type, str) or not isinstance(payload, str):
        _refuse_envelope("must have strings as payload and payloadType")
    if not isinstance(signatures, list) or len(signatures) != 1:
        _refuse_envelope("must have exactly one signature")
    (signature,) = signatures
    if (
        not isinstance(signature, dict)
        or set(signature) != {"keyid", "sig"}
        or not all(isinstance(value, str) for value in signature.values())
    ):
        _refuse_envelope("must have a signature with the strings keyid and sig")
    try:
        return payload_type, _base64(payload), signature["keyid"], _base64(signature["sig"])
    except ValueError as error:
        _refuse_envelope(str(error))


def _refuse_envelope(reason: str) -> NoReturn:
    raise Refusal("envelope", reason)


def _json(check: str, raw: bytes) -> Any:
    """Return what a JSON text says; bounded in size and depth, no key twice."""
    if not raw.strip():
        raise Refusal(check, "is empty")
    if len(raw) > BYTES_MAX:
        raise Refusal(check, f"is larger than {BYTES_MAX} bytes")
    depth = 0
    for token in _TOKEN.finditer(raw):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > DEPTH_MAX:
            raise Refusal(check, f"is nested deeper than {DEPTH_MAX} levels")
    try:
        return json.loads(
            raw.decode(), object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite_float
        )
    except UnicodeDecodeError:
        raise Refusal(check, "is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise Refusal(check, f"is not the JSON it must be: {str(error)[:120]}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _base64(text: str) -> bytes:
    """Return RFC 4648 section 4 and only that: one text for one value. Raises ValueError."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must have base64 in payload and signature") from None
    if base64.b64encode(raw).decode() != text:
        raise ValueError("has base64 that is not in its one form")
    return raw


def _check_signature(payload_type: str, payload: bytes, keyid: str, signature: bytes, trusted: Sequence[str]) -> None:
    if not trusted:
        raise Refusal("signature", "cannot count: [gate] trusted_keys is empty, so nobody may sign")
    # Pre-authentication encoding, DSSE v1.
    signed = b"DSSEv1 %d %s %d %s" % (len(payload_type.encode()), payload_type.encode(), len(payload), payload)
    for text in trusted:
        raw = public_key(text)
        if weak := ed25519.weakness(raw):
            raise Refusal("signature", f"cannot count: a key in [gate] trusted_keys {weak}")
        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, signed)
        except InvalidSignature:
            continue
        if keyid != hashlib.sha256(raw).hexdigest():
            raise Refusal("signature", "is by a trusted key, but its key id names another")
        if weak := ed25519.signature_weakness(signature):
            raise Refusal("signature", f"is not one that a signer makes: it {weak}")
        return
    raise Refusal("signature", "is by none of [gate] trusted_keys, or what was signed has been changed")


def _statement(payload: bytes) -> Statement:
    found = _json("statement", payload)
    if canonical(found) != payload:
        raise Refusal("statement", "is not canonical JSON")
    for key, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        said = found.get(key) if isinstance(found, dict) else None
        if said != wanted:
            older = "; an older harness made it: sign again" if said == PREDICATE_TYPE_BEFORE else ""
            check = "predicate type" if key == "predicateType" else "statement"
            raise Refusal(check, f"must have {wanted} as {key}{older}")
    try:
        statement = msgspec.convert(found, Statement)
        parse_time(statement.predicate.time)
    except (msgspec.ValidationError, ValueError) as error:
        raise Refusal("statement", f"has not the form it must have: {error}") from None
    names = [subject.name for subject in statement.subject]
    if sorted(names) != ["config", "engine", "runtime", "unit"]:
        raise Refusal("statement", f"must be about config, engine, runtime and unit, is about {', '.join(names)[:80]}")
    return statement


# --- statement -> reasons to refuse ------------------------------------------------------------------------


def refusals(statement: Statement, here: Here) -> list[Refusal]:
    """Return every check of a verified statement that fails here; empty when it opens the gate."""
    found = [*_of_time(statement.predicate, here), *_of_subjects(statement, here), *_of_proofs(statement.predicate)]
    return [Refusal(check, reason) for check, reason in found]


def _of_time(predicate: Predicate, here: Here) -> Iterator[tuple[str, str]]:
    made = parse_time(predicate.time)
    if made > here.now + SKEW_SECS:
        yield "age", f"the bundle of {predicate.time} is from the future: it is {show_time(here.now)} here"
    elif here.now - made > here.max_age_hours * 3600:
        hours = (here.now - made) / 3600
        yield "age", f"the bundle of {predicate.time} is {hours:.1f} hours old, max_age_hours is {here.max_age_hours:g}"
    if here.opened_at is not None and here.now < here.opened_at - SKEW_SECS:
        yield "clock", f"it is {show_time(here.now)}, but the gate was opened at {show_time(here.opened_at)} already"
    if here.newest_bundle is not None and made < here.newest_bundle:
        newest = show_time(here.newest_bundle)
        yield "replay", f"the bundle of {predicate.time} is older than the one of {newest} that was accepted here"


def _of_subjects(statement: Statement, here: Here) -> Iterator[tuple[str, str]]:
    said = {subject.name: subject.digest["sha256"] for subject in statement.subject if subject.digest}
    predicate = statement.predicate
    if said.get("engine") != digest(here.engine):
        yield "engine", f"the bundle is about another engine tree: {_differing(predicate.engine, here.engine)}"
    if said.get("runtime") != digest(here.runtime):
        told_flat, ours_flat = dict(_flat(predicate.runtime)), dict(_flat(here.runtime))
        yield "runtime", f"the bundle is about other packages or another Python: {_differing(told_flat, ours_flat)}"
    if said.get("unit") != digest(here.unit):
        told, ours = [f"{name} {sha[:12]}" for name, sha in predicate.unit], [f"{n} {s[:12]}" for n, s in here.unit]
        yield "unit", f"the bundle is about another unit: {', '.join(told)}; effective here is {', '.join(ours)}"
    if said.get("config") != digest(here.config):
        told_flat, ours_flat = dict(_flat(predicate.config)), dict(_flat(here.config))
        yield "config", f"the bundle is about another configuration: {_differing(told_flat, ours_flat)}"


def _differing(told: Mapping[str, object], ours: Mapping[str, object]) -> str:
    names = sorted(
        name
        for name in told.keys() | ours.keys()
        if name not in told or name not in ours or canonical(told[name]) != canonical(ours[name])
    )
    if not names:
        return "its digest does not belong to its own list"
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return f"{', '.join(names[:_NAMED_MAX])}{more} differ" + ("s" if len(names) == 1 else "")


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _of_proofs(predicate: Predicate) -> Iterator[tuple[str, str]]:
    refuted = [one.proof for one in predicate.proofs if one.verdict == "refuted"]
    if refuted:
        yield "guardrails", f"refuted: {_listed(refuted)}"
    if lacking := [clause for clause in REQUIRED if not _is_proven(clause, predicate)]:
        yield "guardrails", f"not proven: {_listed(lacking)}"
    if planned := [clause for clause in REQUIRED if clause in predicate.planned]:
        yield "guardrails", f"planned, so not built: {_listed(planned)}"
    if accepted := [clause for clause in REQUIRED if clause in predicate.accepted_unproven]:
        yield "guardrails", f"accepted unproven by whoever ran the proofs, not by this gate: {_listed(accepted)}"


def _is_proven(clause: str, predicate: Predicate) -> bool:
    """Return whether the bundle calls it proven, and every proof in it that claims it is, and there is one."""
    verdicts = {one.verdict for one in predicate.proofs if clause in one.claims}
    return verdicts == {"proven"} and predicate.clauses.get(clause) == "proven"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return " ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
