"""`python -m harness merge`: the runs of several computers -> one run, with one record, to be signed as any other
(contract V17)."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from harness.base import files
from harness.base.clock import OsClock
from harness.base.errors import HarnessError
from harness.evidence import history, past, recorder, results, verify
from harness.evidence.lines import EndLine, RunLine, VerdictLine
from harness.evidence.results import JudgedEngine, RecordIdentity, RunSummary
from harness.evidence.verdict import exit_status, is_accepted
from harness.proving import joining
from harness.proving.joining import Part

_RUN_ID = re.compile(r"[\w-]{1,100}", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.description = (
        "Make one run of several, such as those of `make proofs SHARD=1/2` and `SHARD=2/2` on two computers: one "
        "verdicts.json, one flight record, of which `buglog` and `bundle sign` make one document and one bundle. Each "
        "record is verified first. Refused, with the run and the reason: another engine, unit, package or contract; a "
        "shard that is missing or there twice; verdicts that contradict each other; a run that did not come to its "
        "end; a record that was changed."
    )
    parser.epilog = (
        "Exit status: 0 all proven, 1 something refuted or nothing merged, 3 something unproven or left out.\n\n"
        "examples:\n"
        "  python -m harness merge shard-1/reports shard-2/reports\n"
        "  python -m harness merge shards/* --reports merged\n"
        "  python -m harness bundle sign --reports merged --key ~/proof.key --config live.toml"
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="the reports of a run: verdicts.json with runs/ beside it"
    )
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where the one is put (default: reports)")


def run(options: argparse.Namespace) -> int:
    """Merge, and say what came of it. Raises HarnessError."""
    summary = merge(options.runs, options.reports)
    counted = ", ".join(f"{count} {verdict}" for verdict, count in summary.counts.items())
    record = verify.record_of(options.reports, summary.run_id)
    print(f"{len(options.runs)} runs are one, {summary.state}: {counted}\nrecord: {record}")
    return exit_status(
        0,
        [one.verdict for one in summary.verdicts],
        accepted=[is_accepted(one.verdict, one.claims, summary.accepted_unproven) for one in summary.verdicts],
        plain_failures=False,
        missing=summary.state != "complete",
    )


def merge(runs: Sequence[Path], reports: Path) -> RunSummary:
    """Put one run below `reports`, of those whose reports are in `runs`. Raises HarnessError; then nothing is put."""
    parts = [_part(path) for path in runs]
    now = OsClock().wall()
    run_id = f"{now:.0f}-{os.urandom(4).hex()}"
    summary = joining.join(parts, run_id)
    target = verify.record_of(reports, run_id)
    first = parts[0].run
    # A bundle is as old as what it is made of, and not younger than the oldest of that.
    begun, ended = min(part.run.at for part in parts), min(part.end.at for part in parts)
    facts = joining.facts(parts)
    told = {
        "run": run_id, "sha256": recorder.GENESIS, "state": summary.state, "systemd": summary.systemd,
        "engine": summary.judged.engine if summary.judged != JudgedEngine() else "",
        **{name: facts.get(name, "") for name in ("commit", "tree")},
    }  # fmt: skip
    entry = history.entry(told, summary.verdicts, started=begun, seconds=ended - begun)
    since = history.changes(past.remembered(reports), entry, [one.proof for one in summary.verdicts])
    with recorder.Copy(target, run_id) as copy:
        copy.line("run", begun, systemd=first.systemd, facts=facts, clauses=first.clauses)
        for number, part in enumerate(parts, start=1):
            copy.take(verify.record_of(runs[number - 1], part.summary.run_id), f"{number}/")
        copy.line("since", ended, **since)
        copy.end(
            ended, counts=summary.counts, interrupted=False, systemd=summary.systemd, planned=summary.planned,
            accepted_unproven=summary.accepted_unproven, state=summary.state, collected=summary.collected,
            selected=summary.selected, never_ran=0, status=None,
        )  # fmt: skip
    lines, digest = recorder.verify(target)
    verify.judge_history(target)
    summary = dataclasses.replace(summary, record=RecordIdentity(str(target.relative_to(reports)), lines, digest))
    text = json.dumps(summary.as_json(), indent=1, ensure_ascii=False) + "\n"
    try:
        with files.found(reports / results.FILE) as place:
            place.replace(text.encode())
        past.remember(reports, dataclasses.replace(entry, sha256=digest))
    except OSError as error:
        raise HarnessError(f"cannot write {error.filename or reports}: {error.strerror}") from error
    return summary


def _part(reports: Path) -> Part:
    """A run, after its record was verified. Raises HarnessError."""
    summary = results.read(reports)
    if _RUN_ID.fullmatch(summary.run_id) is None:
        raise HarnessError(f"{reports / results.FILE}: its run_id is none: {summary.run_id[:100]!r}")
    if summary.state not in ("complete", "partial"):
        raise HarnessError(f"{reports}: run {summary.run_id} did not come to its end (state {summary.state})")
    record = verify.record_of(reports, summary.run_id)
    lines, digest = recorder.verify(record)
    verify.judge_history(record)
    begun: RunLine | None = None
    verdicts = {}
    for line in recorder.read(record):
        match line:
            case RunLine():
                begun = line
            case VerdictLine():
                verdicts[line.proof] = (line.verdict, line.claims)
            case EndLine():
                end = line
    if begun is None:
        raise HarnessError(f"{record} does not say what ran")
    return Part(str(reports), summary, begun, end, verdicts, RecordIdentity("", lines, digest))
