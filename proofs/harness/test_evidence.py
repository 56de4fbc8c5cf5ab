"""The installed harness keeps evidence that stands up, and refuses what was tampered with (contract V1, V2).

The record is made in the machine, by real commands through the installed recorder; buglog and verify are the installed
ones too, so that each can be sabotaged.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from harness.evidence.shell import CommandResult
from proofs.fixtures.engine_unit import EngineUnit

pytestmark = pytest.mark.slow

PYTHON = "/opt/hybrid-engine/bin/python"
REPORTS = "/run/proof-evidence"

FLIGHT = """
import json, os, sys
from pathlib import Path
from harness.evidence.recorder import Recorder
from harness.evidence.shell import Shell

reports, planted = Path(sys.argv[1]), json.loads(sys.argv[2])
os.environ["VENUE_API_SECRET"] = planted["environ"]
recorder = Recorder(reports / "runs" / "1" / "record.jsonl", "1", "main")
run = Shell(recorder).run
recorder.write("run", systemd="private", facts={}, clauses={})
recorder.proof = "proofs/test_x.py::test_x"
run("echo", "--token", planted["argument"], "wss://me:%s@venue.example/x" % planted["url"])
run("sh", "-c", "env; echo signed in with $1 and $VENUE_API_SECRET", "sh", planted["argument"])
(reports / "output").write_text("padding " * 4000 + "api_key=" + planted["output"])
run("cat", str(reports / "output"))
(reports / "output").unlink()
run("echo", "<script>alert(1)</script>")
recorder.write("verdict", claims=["V1"], verdict="proven", reason="", seconds=0.1, about="")
recorder.end(counts={}, interrupted=False, systemd="private", planned=[], accepted_unproven=[])
(reports / "verdicts.json").write_text(json.dumps({"run_id": "1"}))
"""


class Evidence:
    """A flight record in the machine, and the installed commands that judge it."""

    def __init__(self, engine: EngineUnit) -> None:
        self.engine = engine
        self.planted = {name: secrets.token_hex(12) for name in ("argument", "environ", "output", "url")}
        self.machine = engine.machine

    def __enter__(self) -> Self:
        self.machine.run("rm", "-rf", REPORTS).expect(0)
        self.machine.run("mkdir", REPORTS).expect(0)
        self.machine.run(PYTHON, "-c", FLIGHT, REPORTS, json.dumps(self.planted)).expect(0)
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.run("rm", "-r", REPORTS).expect(0)

    def run(self, number: int) -> Path:
        """The directory of a run."""
        return self.machine.path(f"{REPORTS}/runs/{number}")

    @property
    def record(self) -> Path:
        return self.run(1) / "record.jsonl"

    def harness(self, *argv: str) -> CommandResult:
        return self.machine.run(PYTHON, "-m", "harness", *argv)

    def verify(self, *names: str) -> CommandResult:
        return self.harness("verify", "--reports", REPORTS, *(f"{REPORTS}/{name}" for name in names))

    def files(self) -> Iterator[Path]:
        return (path for path in self.machine.path(REPORTS).rglob("*") if path.is_file())


@pytest.mark.claim("V1")
def test_every_change_of_a_record_is_found(engine: EngineUnit) -> None:
    """A changed byte, a removed line, two that changed places, a missing end, a changed long output."""
    with Evidence(engine) as evidence:
        lines = evidence.record.read_bytes().splitlines(keepends=True)
        tampered = {
            "3 was changed": [*lines[:2], lines[2].replace(b'"main"', b'"mine"'), *lines[3:]],
            "4 does not follow": [*lines[:3], *lines[4:]],
            "2 does not follow": [lines[0], lines[2], lines[1], *lines[3:]],
            "has no end": lines[:-1],
            "stdout: /run": lines,
        }
        for number, data in enumerate(tampered.values(), start=2):
            shutil.copytree(evidence.record.parent, evidence.run(number))
            (evidence.run(number) / "record.jsonl").write_bytes(b"".join(data))
        (blob,) = evidence.run(6).glob("blobs/*")
        blob.write_bytes(blob.read_bytes().replace(b"padding", b"paddinG", 1))
        done = evidence.verify(*(f"runs/{number}/record.jsonl" for number in range(1, 7)))
        told = done.stdout + done.stderr
        engine.expect("runs/1/record.jsonl: 12 lines, unchanged and whole" in told, f"a true record is refused: {told}")
        for number, what in enumerate(tampered, start=2):
            engine.expect(
                f"runs/{number}/record.jsonl" in done.stderr and what in done.stderr, f"missed {what!r}: {told}"
            )
        engine.expect(done.status == 1, f"status {done.status}: {told}")


@pytest.mark.claim("V1")
def test_secrets_reach_no_file(engine: EngineUnit) -> None:
    """Planted in an argument, the environment, an output and a URL: in no record, long output or buglog."""
    with Evidence(engine) as evidence:
        evidence.harness("buglog", "--reports", REPORTS).expect(0)
        files = list(evidence.files())
        engine.expect(len(files) >= 5, f"expected record, long output, report and two documents: {files}")
        everything = "".join(path.read_text() for path in files)
        found = sorted(name for name, secret in evidence.planted.items() if secret in everything)
        engine.expect(not found, f"the reports give away the secrets of {found}")


@pytest.mark.claim("V2")
def test_a_buglog_is_what_its_record_renders_to(engine: EngineUnit) -> None:
    """Twice the same bytes; output is no markup; a changed document, or one of another record, is refused."""
    with Evidence(engine) as evidence:
        evidence.harness("buglog", "--reports", REPORTS).expect(0)
        documents = {path.name: path.read_bytes() for path in evidence.files() if path.name.startswith("BUG_")}
        evidence.harness("buglog", "--reports", REPORTS).expect(0)
        for path in evidence.files():
            engine.expect(
                path.read_bytes() == documents.get(path.name, path.read_bytes()), "rendered twice, it differs"
            )
        for name, data in documents.items():
            engine.expect(name.endswith(".md") or b"<script>alert(1)" not in data, "a command's output became markup")
        done = evidence.verify(*(f"buglog/{name}" for name in documents))
        engine.expect(done.status == 0, f"a document as it was made is refused: {done.stderr}")
        for name, data in documents.items():
            changed = data.replace(b"proven", b"proved")
            engine.expect(changed != data, f"{name} calls nothing proven")
            evidence.machine.path(f"{REPORTS}/buglog/{name}").write_bytes(changed)
        done = evidence.verify(*(f"buglog/{name}" for name in documents))
        refused = done.stderr.count("is not what") == len(documents) == 2
        engine.expect(done.status == 1 and refused, f"a changed document passes: {done.stdout}")
