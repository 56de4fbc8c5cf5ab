"""Real runs of parts of the proofs become one, which is signed and opens what a whole one opens (contract V16, V17)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope

from engine.live import attestation
from engine.live.attestation import Here
from harness.base.clock import OsClock
from harness.base.errors import HarnessError
from harness.bundle import bundle
from harness.evidence import history, past, recorder, results, verify
from harness.evidence.lines import JournalLine, ResultLine, RunLine
from harness.evidence.recorder import Recorder, Unrecorded
from harness.evidence.results import RunSummary
from harness.evidence.shell import Shell
from harness.evidence.verdict import Verdict
from harness.proving import merge
from proofs.fixtures import true_bundle
from proofs.fixtures.bytecode import QUICK, environ
from proofs.fixtures.proven_run import ProvenRun
from proofs.harness.test_verify import bodies, chained

CLAUSES = [*true_bundle.GUARDRAILS, "R6"]

SAMPLE = "import pytest\n" + "\n".join(
    f'@pytest.mark.claim("{clause}")\ndef test_{clause}(proof_shell):\n    proof_shell.run("echo", "{clause}" * 9000)\n'
    for clause in CLAUSES
)
"""A proof of each guardrail, with a long text in its record."""


class Parts:
    """The reports of two halves of a project's proofs, each as its computer left them."""

    def __init__(self, run: ProvenRun) -> None:
        self.run = run
        (run.directory / "test_sample.py").write_text(SAMPLE)
        (run.directory / "pytest.ini").write_text("[pytest]\nhybrid_proofs = true\ntestpaths = .\n")
        (run.directory / "config").mkdir()
        listed = "".join(f'{one} = {{ digest = "x" }}\n' for one in CLAUSES)
        (run.directory / "config" / "contract.toml").write_text(listed)
        shutil.rmtree(run.reports)
        self.halves = [self._part(1), self._part(2, "-n", "1")]

    def _part(self, number: int, *args: str) -> Path:
        done = self.pytest("--shard", f"{number}/2", *args)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.run.reports.rename(self.run.directory / f"part-{number}")

    def pytest(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *QUICK, *args], cwd=self.run.directory, capture_output=True, text=True,
            timeout=120, check=False, env=environ(),
        )  # fmt: skip

    def sign(self, reports: Path) -> bytes:
        return bundle.sign(Shell(Unrecorded()), reports, self.run.target, self.run.key)[0]

    def refused(self, raw: bytes) -> list[str]:
        """Why the engine's gate does not open for a bundle, on the very computer that it is about."""
        seen = attestation.verified(raw, [self.run.public])
        about = json.loads(Envelope.from_dict(json.loads(raw)).payload)["predicate"]
        here = Here(
            now=OsClock().wall(), max_age_hours=24.0, engine=about["engine"], runtime=about["runtime"],
            unit=[(name, digest) for name, digest in about["unit"]], config=about["config"],
        )  # fmt: skip
        return [one.check for one in attestation.refusals(seen, here)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(ProvenRun(tmp_path_factory.mktemp("merge")))


@pytest.fixture
def halves(made: Parts, tmp_path: Path) -> list[Path]:
    """A copy, to be changed."""
    return [Path(shutil.copytree(half, tmp_path / half.name)) for half in made.halves]


def record(reports: Path) -> Path:
    return verify.record_of(reports, results.read(reports).run_id)


@pytest.mark.slow
@pytest.mark.claim("V16", "V17", "G1")
def test_parts_make_a_run_that_opens_what_a_whole_one_opens(made: Parts, tmp_path: Path) -> None:
    summaries = [results.read(half) for half in made.halves]
    proofs = [{one.proof for one in summary.verdicts} for summary in summaries]
    assert len(proofs[0] | proofs[1]) == len(CLAUSES) == sum(map(len, proofs))
    assert min(map(len, proofs)) >= len(CLAUSES) // 2
    assert [summary.state for summary in summaries] == ["partial", "partial"]
    for half in made.halves:
        # A part alone opens nothing.
        assert made.refused(made.sign(half)) != []
    reports = tmp_path / "reports"
    summary = merge.merge(made.halves, reports)
    assert (summary.state, summary.counts["proven"]) == ("complete", len(CLAUSES))
    assert results.read(reports) == summary
    assert made.refused(made.sign(reports)) == []
    whole = merged_record(made, reports, summary)
    assert verify.check(whole).startswith(f"{whole}: ")
    (entry,) = past.remembered(reports)
    assert (entry.run, entry.state, entry.sha256) == (
        summary.run_id,
        "complete",
        summary.record and summary.record.sha256,
    )
    assert set(entry.outcomes.values()) == {Verdict.PROVEN}


def merged_record(made: Parts, reports: Path, summary: RunSummary) -> Path:
    """The record of both, in which nothing of either is missing."""
    whole = record(reports)
    lines = list(recorder.read(whole))
    kinds = (ResultLine, JournalLine)
    for half in made.halves:
        theirs = [one for one in recorder.read(record(half)) if isinstance(one, kinds)]
        ours = [one for one in lines if isinstance(one, kinds)]
        assert {(one.at, one.proof, one.seq) for one in theirs} <= {(one.at, one.proof, one.seq) for one in ours}
        assert theirs
    (begun,) = [one for one in lines if isinstance(one, RunLine)]
    assert [begun.facts[f"part {n}"] for n in (1, 2)] == [
        f"run {part.run_id}, last digest {part.record and part.record.sha256}"
        for part in map(results.read, made.halves)
    ]
    assert {one.run for one in lines} == {summary.run_id}
    # A bundle is no younger than the oldest part.
    ends = [list(recorder.read(record(half)))[-1].at for half in made.halves]
    assert lines[-1].at == min(ends)
    return whole


def cut_off(reports: Path) -> None:
    path = record(reports)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def change_a_byte(reports: Path) -> None:
    path = record(reports)
    path.write_bytes(path.read_bytes().replace(b'"proven"', b'"refuted"', 1))


def change_a_long_text(reports: Path) -> None:
    next((record(reports).parent / "blobs").iterdir()).write_bytes(b"another")


def prove_what_is_not(reports: Path) -> None:
    """In verdicts.json alone."""
    path = reports / results.FILE
    found = json.loads(path.read_text())
    found["verdicts"][0]["proof"] = "test_sample.py::test_of_nobody"
    path.write_text(json.dumps(found))


def say_that_it_runs(reports: Path) -> None:
    path = reports / results.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running"}))


def lead_elsewhere(reports: Path) -> None:
    path = reports / results.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "run_id": "../../elsewhere"}))


def put_another_record(reports: Path) -> None:
    path = record(reports)
    run_id = path.parent.name
    shutil.rmtree(path.parent)
    other = Recorder(path, run_id, "main")
    other.write("run", systemd="private", facts={}, clauses={})
    other.end()
    other.close()


def break_a_clause(reports: Path) -> None:
    """As the run of an engine whose books do not balance: the record is whole, and verdicts.json is about it."""
    path = record(reports)
    *before, end = map(json.loads, bodies(path))
    beat = {"level": "INFO", "fields": {"message": "HEARTBEAT (G4)", "tick_count": 2, "ingest_processed": 3}}
    logged = {"worker": "gw9", "seq": 1, "type": "journal", "unit": "u", "by": "engine", "message": json.dumps(beat)}
    told = [*before, {**before[-1], **logged}, {**end, "lines": end["lines"] + 1}]
    path.write_bytes(chained([json.dumps(one, separators=(",", ":")).encode() for one in told]))
    lines, digest = recorder.verify(path)
    summary = json.loads((reports / results.FILE).read_text())
    summary["record"] |= {"lines": lines, "sha256": digest}
    (reports / results.FILE).write_text(json.dumps(summary))


@pytest.mark.slow
@pytest.mark.claim("V17")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (cut_off, r"record.jsonl has no end after line \d+"),
        (change_a_byte, r"record.jsonl:\d+ was changed"),
        (change_a_long_text, r"was changed: its digest is"),
        (prove_what_is_not, r"part-2: verdicts.json says nothing of test_sample.py::test_\w+, its record proven"),
        (say_that_it_runs, r"part-2: run [\w-]+ did not come to its end \(state running\)"),
        (lead_elsewhere, r"part-2/verdicts.json: its run_id is none: '../../elsewhere'"),
        (put_another_record, r"part-2: its verdicts.json is about another record than the one beside it"),
        (break_a_clause, r"part-2/runs/[\w-]+/record\.jsonl:\d+ breaks M3 in "),
    ],
)
def test_evidence_that_was_changed_is_refused(
    halves: list[Path], tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    change(halves[1])
    with pytest.raises(HarnessError, match=reason):
        merge.merge(halves, tmp_path / "reports")
    assert not (tmp_path / "reports").exists()


@pytest.mark.slow
@pytest.mark.claim("V17")
def test_a_part_that_is_missing_makes_nothing(made: Parts, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "harness", "merge", *[str(made.halves[0])] * 2, "--reports", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environ())
    assert (done.returncode, done.stdout) == (1, "")
    assert "part-1 is too" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.claim("V16")
def test_a_history_that_others_have_not_divides_otherwise(made: Parts, halves: list[Path], tmp_path: Path) -> None:
    """The other computer knew how long the proofs take."""
    path = made.run.directory / "reports" / history.FILE_NAME
    path.parent.mkdir()
    try:
        path.write_bytes((halves[0] / history.FILE_NAME).read_bytes())
        assert made.pytest("--shard", "2/2").returncode == 0
        with pytest.raises(
            HarnessError, match=r"shard 2/2 is of another division than 1/2: give each computer the same"
        ):
            merge.merge([halves[0], path.parent], tmp_path / "reports")
    finally:
        shutil.rmtree(path.parent)


@pytest.mark.slow
@pytest.mark.claim("V16")
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--shard", "3/2"), "'3/2': must be N/OF, such as 2/4"),
        (("--shard", "1/2", "--sign-key", "{key}"), "--shard: a part of the proofs is not signed"),
    ],
)
def test_a_part_that_cannot_be_is_refused(made: Parts, args: tuple[str, ...], reason: str) -> None:
    done = made.pytest(*(one.format(key=made.run.key) for one in args))
    assert done.returncode == 4
    assert reason in done.stderr
