"""A flight record is judged again, not only its chain (contract V11)."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.base.clock import FakeClock
from harness.evidence import lines, recorder, rejudge, verify
from harness.evidence.recorder import Recorder

pytestmark = pytest.mark.claim("V11")

PROOF = "proofs/guardrails/test_x.py::test_x"
BOOKS = {
    "ticks_parsed": 10, "ingest_received": 10, "duplicates": 0, "ingest_processed": 2, "sampled_out": 8,
    "tick_count": 2,
    "tick_rows_written": 2, "tick_rows_known": 0, "tick_rows_queued": 0, "bp_drops_tick": 0, "bp_drops_persist": 0,
}  # fmt: skip
OVERSAMPLED = {**BOOKS, "ingest_processed": 3, "sampled_out": 7, "tick_count": 3, "tick_rows_written": 3}
LEDGER = {
    "ticks": [[1, "A", 7, 1000]], "signals": [[1, 1, "BUY"]], "orders": ["o1"],
    "fills": [[1, "A", "BUY", "2", "100", "0.1", "-200.1"]], "caps": {"exposure": "350", "symbol_exposure": "350"},
}  # fmt: skip


class Flight:
    """A record in the making."""

    def __init__(self, record: Recorder) -> None:
        self.record = record

    def log(self, message: str, **fields: object) -> None:
        told = json.dumps({"level": "INFO", "fields": {"message": message, **fields}})
        self.record.write("journal", unit="hybrid-engine.service", by="hybrid-engine", message=told)

    def starts(self, sample_every: int | None = 5) -> None:
        starting = "Starting hybrid-engine.service - Hybrid trading engine..."
        self.record.write("journal", unit="hybrid-engine.service", by="systemd", message=starting)
        if sample_every is not None:
            self.log("configuration loaded", mode="SHADOW", sample_every=sample_every)

    def judged(self, verdict: str, *claims: str) -> None:
        facts = {"claims": list(claims), "reason": "", "seconds": 0.1, "about": ""}
        self.record.write("verdict", verdict=verdict, **facts)


@contextmanager
def flown(reports: Path, **facts: str) -> Iterator[Flight]:
    """A record with a true chain: lines 1 to 3 are how it begins."""
    with closing(Recorder(verify.record_of(reports, "1"), "1", "gw0", FakeClock(1_795_423_471.5))) as record:
        record.write("run", systemd="private", facts=facts, clauses={})
        record.proof = PROOF
        flight = Flight(record)
        flight.starts()
        yield flight
        record.end(systemd="private")
    recorder.verify(record.path)


def checked(reports: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and words of `python -m harness verify`."""
    status = main(["verify", str(verify.record_of(reports, "1"))])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_what_was_right_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with flown(tmp_path) as flight:
        flight.log("HEARTBEAT (G4)", **BOOKS)
        flight.log("FINAL METRICS", **BOOKS)
        flight.record.write("ledger", **LEDGER)
        flight.judged("proven", "M3")
    status, said = checked(tmp_path, capsys)
    assert (status, "judged again: M3 2 times, N7 2 times, I2 2 times, I3 4 times, I4 1 times" in said) == (0, True), (
        said
    )


@pytest.mark.slow
def test_a_chain_that_is_whole_and_a_history_that_breaks_a_clause(tmp_path: Path) -> None:
    with flown(tmp_path) as flight:
        for received in (10, 11, 12):
            flight.log("HEARTBEAT (G4)", **{**BOOKS, "ingest_received": received})
        flight.log("FINAL METRICS", **OVERSAMPLED)
        twice = {**LEDGER, "ticks": [[1, "A", 7, 1000], [2, "A", 7, 1000]]}
        dear = {**twice, "fills": [[1, "A", "BUY", "4", "100", "0.1", "-400"]]}
        flight.record.write("ledger", **dear)
        flight.judged("proven", "M3")
    record = verify.record_of(tmp_path, "1")
    # A process of its own, which a sabotage can give another package.
    command = [sys.executable, "-m", "harness", "verify", str(record)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, f"what it holds is believed: {done.stdout}"
    for line, clause, words in (
        (5, "M3", "ticks parsed 10 ≠ received + duplicates 11 (lines 5, 6)"),
        (7, "N7", "processed 3 ≠ received 10 // 5 = 2"),
        (8, "I2", "fill 1 carries the exposure of A from 0 to 400, the cap is 350"),
        (8, "I3", "trade A 7 1000 is there twice"),
        (8, "I4", "fill 1: cash -400 + 4 x 100 + fees 0.1 = 0.1"),
    ):
        assert f"{record}:{line} breaks {clause} in {PROOF}: {words}" in done.stderr, done.stderr


def test_a_buglog_of_such_a_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with flown(tmp_path) as flight:
        flight.log("HEARTBEAT (G4)", **OVERSAMPLED)
        flight.judged("proven")
    (tmp_path / "buglog").mkdir()
    made = verify.made(verify.record_of(tmp_path, "1"), None)
    for name, text in made.items():
        (tmp_path / "buglog" / name).write_bytes(verify.encoded(text))
        assert main(["verify", str(tmp_path / "buglog" / name)]) == 1
        assert "breaks N7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdict", "claims", "status"),
    [("refuted", ["N7"], 0), ("proven", ["V4"], 0), ("unproven", ["N7"], 1), ("proven", ["N7"], 1)],
    ids=["refuted", "sabotage", "unproven", "proven"],
)
def test_what_is_known_to_be_broken_is_no_news(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verdict: str, claims: list[str], status: int
) -> None:
    """And what nobody has judged is not known to be."""
    with flown(tmp_path) as flight:
        flight.log("HEARTBEAT (G4)", **OVERSAMPLED)
        flight.judged(verdict, *claims)
    assert checked(tmp_path, capsys)[0] == status


BEAT = {"message": "HEARTBEAT (G4)", "tick_count": 2}


def logged(told: object) -> str:
    return json.dumps({"level": "INFO", "fields": told, "target": "engine"})


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (logged(BEAT), BEAT),
        (logged({"message": "HEARTBEAT"}), {"message": "HEARTBEAT"}),
        # The word alone does not make one.
        (logged({"message": "no HEARTBEAT (G4) for a minute"}), None),
        (logged({"message": "connected", "reason": "HEARTBEAT (G4)"}), None),
        (logged({"message": 7, "reason": "HEARTBEAT"}), None),
        (logged({"reason": "HEARTBEAT"}), None),
        (logged(["HEARTBEAT"]), None),
        (logged(None), None),
        (logged({"message": "connected"}), None),
        ("HEARTBEAT (G4)", None),
        ('{"HEARTBEAT', None),
        ('["HEARTBEAT"]', None),
        ("", None),
        # What the record does not hold as text.
        (lines.ShortBytes("SEVBUlRCRUFU"), None),
        (lines.LongBytes("0" * 64, 70_000, True), None),
        (lines.LongText("0" * 64, 70_000, "HEARTBEAT", "HEARTBEAT"), None),
    ],
)
def test_a_heartbeat_is_a_line_in_the_contracts_form_that_says_so(
    message: lines.Kept, fields: dict[str, object] | None
) -> None:
    told: dict[str, object] = {
        "run": "1", "worker": "gw0", "seq": 1, "at": 1.0, "proof": PROOF, "type": "journal", "unit": "u",
        "by": "engine", "message": "",
    }  # fmt: skip
    line = lines.of(told, "0" * 64)
    assert isinstance(line, lines.JournalLine)
    assert rejudge.heartbeat(dataclasses.replace(line, message=message)) == fields


def test_a_run_of_the_engine_is_held_to_what_it_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with flown(tmp_path) as flight:
        flight.starts(sample_every=None)
        flight.log("HEARTBEAT (G4)", **OVERSAMPLED)
        flight.starts(sample_every=3)
        flight.log("HEARTBEAT (G4)", **OVERSAMPLED)
        flight.judged("proven")
    status, said = checked(tmp_path, capsys)
    assert (status, "M3 2 times, N7 1 times" in said) == (0, True), said


@pytest.mark.parametrize("claims", [["N7"], ["E2"]])
def test_another_engine_is_held_to_what_was_claimed_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], claims: list[str]
) -> None:
    with flown(tmp_path, engine="/usr/bin/other --config {config}") as flight:
        flight.log("HEARTBEAT (G4)", **OVERSAMPLED)
        flight.judged("proven", *claims)
    assert checked(tmp_path, capsys)[0] == int(claims == ["N7"])


def test_an_exact_decimal_has_digits_enough() -> None:
    for exact in ("1" * 60, f"-{'1' * 60}", "1e60", "1e-60", "0"):
        line = lines.LedgerLine(
            run="1", worker="gw0", seq=1, at=1.0, proof=PROOF, ticks=[], signals=[], orders=[], fills=[],
            caps={"exposure": exact},
        )  # fmt: skip
        assert rejudge.ledger(1, line).exposure_cap == Decimal(exact)


@pytest.mark.claim("V8")
@pytest.mark.parametrize(
    "exact", ["x", "NaN", "Infinity", "1e999999999", "1" * 61, "-1e61", "1e-61"], ids=lambda exact: exact[:11]
)
def test_V8_what_is_no_exact_decimal_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], exact: str
) -> None:
    with flown(tmp_path) as flight:
        flight.record.write("ledger", **{**LEDGER, "fills": [[1, "A", "BUY", exact, "100", "0.1", "-200.1"]]})
        flight.judged("proven")
    status, said = checked(tmp_path, capsys)
    assert (status, "record.jsonl" in said, ":4" in said or "line 4" in said) == (1, True, True), said
