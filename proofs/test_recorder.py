"""The flight record and the recorded shell (contract V1)."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from harness import recorder as flight
from harness.clock import FakeClock
from harness.errors import CommandFailed, RecorderError, Unavailable
from harness.recorder import Recorder
from harness.shell import Shell


@pytest.fixture
def record(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "record.jsonl", "run", "gw0", FakeClock(1.5))


@pytest.mark.claim("V1")
def test_intent_before_result_after(record: Recorder) -> None:
    record.proof = "proofs/test_x.py::test_y"
    result = Shell(record).run("sh", "-c", "echo out; echo err >&2; exit 3")
    intent, ended = flight.read(record.path)
    assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert (intent["type"], intent["argv"][0], intent["proof"]) == ("intent", "sh", "proofs/test_x.py::test_y")
    assert (ended["type"], ended["intent"], ended["status"]) == ("result", intent["seq"], 3)
    assert (ended["stdout"], ended["stderr"]) == ("out\n", "err\n")
    assert ended["seconds"] > 0


@pytest.mark.claim("V1")
def test_a_command_that_a_signal_ended(record: Recorder) -> None:
    assert Shell(record).run("sh", "-c", "kill -TERM $$").status == -15


@pytest.mark.claim("V1")
def test_a_command_that_does_not_end_is_killed_and_recorded(record: Recorder) -> None:
    with pytest.raises(CommandFailed, match=r"did not end within 0\.2 s"):
        Shell(record).run("sleep", "60", timeout_secs=0.2)
    *_, ended = flight.read(record.path)
    assert ended["status"] == -9


def test_an_unexpected_status_shows_the_output(record: Recorder) -> None:
    with pytest.raises(CommandFailed, match=r"(?s)ended with 1, expected 0.*no such"):
        Shell(record).run("sh", "-c", "echo no such thing; exit 1").expect(0)


def test_a_missing_program_says_so(record: Recorder) -> None:
    with pytest.raises(Unavailable, match="no-such-program"):
        Shell(record).run("no-such-program")


@pytest.mark.claim("V1")
def test_a_streamed_command_ends_and_is_recorded(record: Recorder) -> None:
    lines: list[str] = []
    process = Shell(record).start("sh", "-c", "echo one; echo two", on_line=lines.append)
    assert process.wait(5.0)
    assert lines == ["one\n", "two\n"]
    *_, ended = flight.read(record.path)
    assert ended["stdout"] == "one\ntwo\n"


@pytest.mark.claim("V1")
def test_lines_of_two_recorders_and_many_threads_never_mix(record: Recorder) -> None:
    other = Recorder(record.path, "run", "gw1", FakeClock())

    def write(to: Recorder) -> None:
        for number in range(50):
            to.write("note", text="x" * 5000, number=number)

    assert (record.began, other.began) == (True, False)
    threads = [threading.Thread(target=write, args=(to,)) for to in (record, other, record, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = list(flight.read(record.path))
    assert len(lines) == 200
    assert {worker: sorted(e["seq"] for e in lines if e["worker"] == worker) for worker in ("gw0", "gw1")} == {
        "gw0": list(range(1, 101)),
        "gw1": list(range(1, 101)),
    }


@pytest.mark.claim("V1", "V3")
def test_a_record_that_cannot_be_written_is_an_error(record: Recorder, tmp_path: Path) -> None:
    record.close()
    with pytest.raises(RecorderError, match="cannot write"):
        record.write("note")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecorderError, match="cannot write"):
        Recorder(tmp_path / "file" / "record.jsonl", "run", "main")


@pytest.mark.claim("V1")
def test_a_damaged_record_names_the_line(record: Recorder) -> None:
    record.write("note")
    with record.path.open("a") as lines:
        lines.write('{"half a line')
    with pytest.raises(RecorderError, match=r"record\.jsonl:2"):
        list(flight.read(record.path))


def test_surrogates_survive(record: Recorder) -> None:
    record.write("note", text="\udcff")
    (line,) = flight.read(record.path)
    assert line["text"] == "\udcff"
    assert json.dumps(line)
