"""The evidence document: a pure function of a run's verdicts and flight record.

The same record renders to the same bytes: nothing here looks at the clock, the host or the file system beside
its own templates.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.verdict import Verdict, merge

SHOWN_OUTPUT_CHARS = 6000
"""Longer outputs are cut in the document, with a note; the record holds them whole."""


@dataclass
class Step:
    """One thing that happened during a proof, ready to be shown."""

    kind: str
    """command, write, journal or machine."""
    at: str
    """Time of day, UTC."""
    title: str
    body: str = ""
    note: str = ""
    ok: bool = True


@dataclass
class ProofLog:
    """One proof: its verdict, and what was done and seen on the way to it."""

    proof: str
    claims: list[str]
    verdict: str
    reason: str
    seconds: float
    steps: list[Step] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The test's name without its path."""
        return self.proof.partition("::")[2] or self.proof

    @property
    def anchor(self) -> str:
        """An id for links within the document."""
        return "".join(char if char.isalnum() else "-" for char in self.proof)


@dataclass(frozen=True)
class Document:
    """Everything the templates show."""

    name: str
    """File name without its ending: BUG_<date>_<slug>."""
    run_id: str
    systemd: str
    verdict: str
    counts: Mapping[str, int]
    started: str
    facts: Mapping[str, str]
    proofs: list[ProofLog]
    setting_up: list[Step]
    """What happened between proofs: booting, installing."""


def document(summary: Mapping[str, Any], record: Iterable[Mapping[str, Any]]) -> Document:
    """The document of one run.

    summary: the content of verdicts.json; record: the lines of its flight record, in file order.
    """
    proofs = {
        str(one["proof"]): ProofLog(
            proof=str(one["proof"]),
            claims=list(one["claims"]),
            verdict=str(one["verdict"]),
            reason=str(one["reason"]),
            seconds=float(one["seconds"]),
        )
        for one in summary["verdicts"]
    }
    between: list[Step] = []
    facts: Mapping[str, str] = {}
    first_at: float | None = None
    intents: dict[tuple[str, int], Step] = {}
    for line in record:
        if line["run"] != summary["run_id"]:
            continue
        first_at = line["at"] if first_at is None else min(first_at, line["at"])
        if line["type"] == "run":
            facts = facts or line["facts"]
            continue
        if line["type"] == "result":
            step = intents.pop((line["worker"], line["intent"]), None)
            if step is not None:
                _finish(step, line)
            continue
        new = _step(line)
        if new is None:
            continue
        if line["type"] == "intent":
            intents[line["worker"], line["seq"]] = new
        proof = proofs.get(line["proof"])
        (between if proof is None else proof.steps).append(new)
    day = datetime.fromtimestamp(first_at or 0.0, UTC)
    return Document(
        name=f"BUG_{day:%Y-%m-%d}_proofs-{summary['run_id']}",
        run_id=summary["run_id"],
        systemd=summary["systemd"],
        verdict=merge(Verdict(one.verdict) for one in proofs.values()).value,
        counts=summary["counts"],
        started=f"{day:%Y-%m-%d %H:%M:%S} UTC",
        facts=facts,
        proofs=sorted(proofs.values(), key=_worst_first),
        setting_up=between,
    )


def render(doc: Document) -> dict[str, str]:
    """The document as {file name: text}, Markdown and HTML."""
    environment = Environment(
        loader=PackageLoader("harness"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["fence"] = _fence
    return {
        f"{doc.name}.md": environment.get_template("buglog.md.j2").render(doc=doc),
        f"{doc.name}.html": environment.get_template("buglog.html.j2").render(doc=doc),
    }


def _worst_first(proof: ProofLog) -> tuple[int, str]:
    return (list(Verdict).index(Verdict(proof.verdict)), proof.proof)


def _step(line: Mapping[str, Any]) -> Step | None:
    at = f"{datetime.fromtimestamp(line['at'], UTC):%H:%M:%S.%f}"[:-3]
    if line["type"] == "intent":
        return Step("command", at, shlex.join(line["argv"]), note="interrupted: no result was recorded", ok=False)
    if line["type"] == "write":
        body = "(removed)" if line["text"] is None else _cut(line["text"])
        return Step("write", at, line["path"], body)
    if line["type"] == "journal":
        return Step("journal", at, f"{line['by']}: {_one_line(line['message'])}")
    if line["type"] == "machine":
        return Step("machine", at, f"{line['variant']} machine {line['name']} {line['event']}")
    return None


def _finish(step: Step, line: Mapping[str, Any]) -> None:
    step.body = _cut((line["stdout"] + line["stderr"]).rstrip("\n"))
    step.note = f"{_status(line['status'])}, {line['seconds'] * 1000:.0f} ms"
    step.ok = line["status"] == 0


def _status(status: int) -> str:
    return f"exit {status}" if status >= 0 else f"signal {-status}"


def _cut(text: str) -> str:
    if len(text) <= SHOWN_OUTPUT_CHARS:
        return text
    return f"{text[:SHOWN_OUTPUT_CHARS]}\n[{len(text) - SHOWN_OUTPUT_CHARS} more characters in the record]"


def _one_line(message: str) -> str:
    # The engine logs JSON; its event and fields read better than the envelope.
    try:
        log = json.loads(message)
        fields = dict(log["fields"])
        event = fields.pop("message")
    except (ValueError, KeyError, TypeError):
        return message
    rest = " ".join(f"{key}={value}" for key, value in fields.items())
    return f"{log.get('level', '')} {event} {rest}".strip()


def _fence(text: str) -> str:
    # A fence must be longer than any run of backticks inside it (CommonMark 4.5).
    longest = run = 0
    for char in text:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}\n{text}\n{ticks}"
