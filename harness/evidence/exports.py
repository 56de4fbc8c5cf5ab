"""The evidence of a run for other people's tools: JUnit XML, and Allure results (contract V15).

What is unproven is green nowhere: it is an `error` in JUnit, and `broken` in Allure. So is what never ran.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from harness.evidence.buglog import Document, ProofLog, ProofStep
from harness.evidence.verdict import Verdict, anchor

_NO_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""What XML 1.0 cannot hold, not even as a reference."""

_NAMESPACE = uuid.UUID("7d4bc3f0-8f4a-4c62-9a1f-3b1f2d7a9c55")
_STATUS = {"proven": "passed", "refuted": "failed", "unproven": "broken"}


def junit(doc: Document) -> str:
    """Return the run as JUnit XML, a `testsuite` for each file of proofs."""
    root = ElementTree.Element("testsuites", name=doc.name, time=f"{doc.seconds:.3f}")
    by_file: dict[str, list[ProofLog]] = {}
    for proof in doc.proofs:
        by_file.setdefault(proof.file, []).append(proof)
    for file, proofs in sorted(by_file.items()):
        suite = _suite(root, file, proofs)
        for proof in sorted(proofs, key=lambda one: one.proof):
            case = _case(suite, file, proof.proof.partition("::")[2] or proof.proof, proof.seconds)
            properties = ElementTree.SubElement(case, "properties")
            for claim in proof.claims:
                ElementTree.SubElement(properties, "property", name="claim", value=_xml(claim))
            if proof.verdict != Verdict.PROVEN:
                kind = "failure" if proof.verdict == Verdict.REFUTED else "error"
                _fault(case, kind, proof.verdict, proof.reason, proof.told or proof.reason)
    if doc.state != "complete":
        suite = ElementTree.SubElement(
            root, "testsuite", name="the run", tests="1", failures="0", errors="1", skipped="0", time="0.000"
        )
        _fault(_case(suite, "the run", "judged all proofs", 0.0), "error", "unproven", _not_all(doc), _not_all(doc))
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ElementTree.tostring(root, encoding='unicode')}\n"


def allure(doc: Document) -> dict[str, str]:
    """Return the run as Allure results, {file name: text}."""
    guardrails = {clause.id for clause in doc.guardrails}
    files = {}
    for proof in doc.proofs:
        result = _result(doc, proof, guardrails)
        files[f"{result['uuid']}-result.json"] = _json(result)
    if doc.state != "complete":
        name, at = "the run judged all proofs", _ms(min((proof.began for proof in doc.proofs), default=0.0))
        result = {
            "uuid": str(uuid.uuid5(_NAMESPACE, f"{doc.run_id} {name}")), "historyId": anchor(name), "name": name,
            "fullName": name, "status": "broken", "statusDetails": {"message": _not_all(doc)}, "stage": "finished",
            "start": at, "stop": at, "labels": [], "steps": [],
        }  # fmt: skip
        files[f"{result['uuid']}-result.json"] = _json(result)
    facts = {"run": doc.run_id, "record": doc.sha256, "systemd machine": doc.systemd, **doc.facts}
    files["environment.properties"] = "".join(
        f"{_property(key)} = {_property(value)}\n" for key, value in facts.items()
    )
    files["categories.json"] = _json(
        [
            {"name": "Refuted: a promise is broken", "matchedStatuses": ["failed"]},
            {"name": "Unproven: nothing could be said", "matchedStatuses": ["broken"]},
        ]
    )
    return files


def _suite(root: ElementTree.Element, file: str, proofs: Iterable[ProofLog]) -> ElementTree.Element:
    proofs = list(proofs)
    begun = min(proof.began for proof in proofs)
    return ElementTree.SubElement(
        root, "testsuite", name=_xml(file), tests=str(len(proofs)),
        failures=str(sum(proof.verdict == Verdict.REFUTED for proof in proofs)),
        errors=str(sum(proof.verdict == Verdict.UNPROVEN for proof in proofs)), skipped="0",
        time=f"{sum(proof.seconds for proof in proofs):.3f}",
        timestamp=f"{datetime.fromtimestamp(max(begun, 0.0), UTC):%Y-%m-%dT%H:%M:%S}",
    )  # fmt: skip


def _case(suite: ElementTree.Element, file: str, name: str, seconds: float) -> ElementTree.Element:
    module = _xml(file.removesuffix(".py").replace("/", "."))
    return ElementTree.SubElement(suite, "testcase", classname=module, name=_xml(name), time=f"{seconds:.3f}")


def _fault(case: ElementTree.Element, kind: str, verdict: str, reason: str, told: str) -> None:
    fault = ElementTree.SubElement(case, kind, message=_xml(reason.partition("\n")[0]), type=verdict)
    fault.text = _xml(told)


def _not_all(doc: Document) -> str:
    if doc.cut_off:
        return "the record has no end: the run was cut off"
    if doc.state == "interrupted":
        return f"the run was interrupted: {doc.never_ran} of {doc.selected} proofs never ran"
    return f"a part of the proofs: {doc.selected} of {doc.collected} were chosen"


def _result(doc: Document, proof: ProofLog, guardrails: set[str]) -> dict[str, Any]:
    severity = "normal" if guardrails.isdisjoint(proof.claims) else "critical"
    labels = {
        "suite": proof.module, "package": proof.file.removesuffix(".py").replace("/", "."), "thread": proof.worker,
        "framework": "hybrid-proofs", "severity": severity,
    }  # fmt: skip
    details = {"message": proof.reason, "trace": proof.told} if proof.verdict != Verdict.PROVEN else {}
    return {
        "uuid": str(uuid.uuid5(_NAMESPACE, f"{doc.run_id} {proof.proof}")),
        "historyId": proof.anchor,
        "testCaseId": proof.anchor,
        "fullName": proof.proof,
        "name": proof.title,
        "description": proof.about,
        "status": _STATUS[proof.verdict],
        "statusDetails": details,
        "stage": "finished",
        "start": _ms(proof.began),
        "stop": _ms(proof.ended),
        "labels": [{"name": name, "value": value} for name, value in labels.items()]
        + [{"name": "tag", "value": claim} for claim in proof.claims],
        "steps": [_step(step) for step in proof.steps],
    }


def _step(step: ProofStep) -> dict[str, Any]:
    # Allure's steps have no output of their own; the first line tells most.
    said = step.body.partition("\n")[0]
    return {
        "name": f"{step.kind}: {step.title}"
        + (f" -> {said}" if said else "")
        + (f" ({step.note})" if step.note else ""),
        "status": "passed" if step.ok else "broken",
        "stage": "finished",
        "start": _ms(step.at),
        "stop": _ms(step.at + step.seconds),
    }


def _ms(seconds: float) -> int:
    return round(max(seconds, 0.0) * 1000)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


def _property(text: str) -> str:
    """Return text as a key or value of java.util.Properties, in one line."""
    return re.sub(r"([\\\s=:#!])", lambda match: f"\\{match[1]}" if match[1] != "\n" else "\\n", text)
