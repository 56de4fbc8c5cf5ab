"""Whether evidence stands up: a flight record, a buglog against its record (contract V1, V2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.base.errors import HarnessError, RecorderError
from harness.base.escape import shown
from harness.evidence import buglog, recorder, rejudge
from harness.evidence.checkers import Judgement
from harness.evidence.lines import RecordLine

_RUN = r"(?P<run>[\w-]+) (?P<sha256>[0-9a-f]{64})"
_POINTER = re.compile(rf'(?:<meta name="|<!-- )(?P<kind>flight|sabotage)-record(?:" content="| ){_RUN}(?:">| -->)')

LINES_SHOWN = 12
"""Of the lines in which one proof breaks a clause."""

POINTERS_BYTES = 4096
"""A buglog names its records within its first bytes."""


def record_of(reports: Path, run_id: str) -> Path:
    """Return the flight record of a run below a reports directory."""
    return reports / "runs" / run_id / "record.jsonl"


def document(record: Path, sabotage: Path | None) -> buglog.Document:
    """Return what these records tell. Raises RecorderError for a record that does not stand up."""
    return buglog.document(_lines(record), _lines(sabotage) if sabotage is not None else None)


def made(record: Path, sabotage: Path | None) -> dict[str, str]:
    """Return the buglog of these records, as {file name: text}; raises as document()."""
    return buglog.render(document(record, sabotage))


def story(record: Path, proof: str) -> tuple[bool, list[str]]:
    """Return whether one proof is named, and all that a record holds of it, as lines. Raises RecorderError as
    made()."""
    return buglog.story(_lines(record), proof)


def _lines(record: Path) -> Callable[[], Iterator[RecordLine]]:
    return lambda: recorder.read(record)


def check(path: Path, reports: Path | None = None) -> str:
    """Check a record (`*.jsonl`) or a buglog (`*.html`, `*.md`). Returns what was found to be right.

    reports: where the records of a buglog are, by default its own place's parent. Raises HarnessError that names the
    first bad line.
    """
    if path.suffix == ".jsonl":
        lines, digest = recorder.verify(path)
        judged = judge_history(path)
        return f"{path}: {lines} lines, unchanged and whole; last digest {digest}{judged}"
    if path.suffix in (".html", ".md"):
        return _check_buglog(path, reports or path.resolve().parent.parent)
    raise HarnessError(f"{path}: neither a flight record (.jsonl) nor a buglog (.html, .md) nor a bundle (.json)")


def judge_history(record: Path) -> str:
    """Judge the history in a record again. Returns what was judged and found right, as the end of a sentence.

    Raises HarnessError that names each clause that is broken, the proofs and the lines.
    """
    try:
        found = rejudge.judge(recorder.read(record))
    except ValueError as error:
        raise RecorderError(f"{record}: {error}") from error
    broken = [
        f"{record}:{judgement.violations[0].at} breaks {one.clause} in {shown(proof) or 'no proof'}: {_told(judgement)}"
        for one in found
        for proof, judgement in one.broken
    ]
    if broken:
        raise HarnessError("unchanged and whole, but what it holds breaks the contract:\n  " + "\n  ".join(broken))
    judged = ", ".join(f"{one.clause} {one.judged} times" for one in found if one.judged)
    return f"; its history judged again: {judged}" if judged else ""


def _told(judgement: Judgement) -> str:
    places = list(dict.fromkeys(one.at for one in judgement.violations))
    more = f" (lines {', '.join(map(str, places[:LINES_SHOWN]))}{', ...' if len(places) > LINES_SHOWN else ''})"
    return judgement.violations[0].says + (more if len(places) > 1 else "")


def _check_buglog(path: Path, reports: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HarnessError(f"cannot read {path}: {error.strerror}") from error
    pointers = {match["kind"]: match for match in _POINTER.finditer(data[:POINTERS_BYTES].decode("utf-8", "replace"))}
    if "flight" not in pointers:
        raise HarnessError(f"{path} names no flight record: it is no buglog, or its first lines were changed")
    records = {kind: record_of(reports, match["run"]) for kind, match in pointers.items()}
    for kind, record in records.items():
        _, digest = recorder.verify(record)
        if digest != pointers[kind]["sha256"]:
            raise HarnessError(f"{path} was made from another record: {record} ends with {digest}")
    judge_history(records["flight"])
    text = made(records["flight"], records.get("sabotage")).get(path.name)
    if text is None:
        raise HarnessError(f"{path} does not bear the name that its record gives it")
    theirs, ours = data.splitlines(keepends=True), encoded(text).splitlines(keepends=True)
    for number, (their, our) in enumerate(zip([*theirs, b""], [*ours, b""], strict=False), start=1):
        if their != our:
            raise HarnessError(
                f"{path}:{number} is not what {records['flight']} renders to: it was changed, or made by another "
                "version of the project"
            )
    return f"{path}: exactly what {' and '.join(map(str, records.values()))} render to, which are unchanged and whole"


def encoded(text: str) -> bytes:
    """Return a document's text as its file's bytes."""
    return text.encode("utf-8", "replace")
