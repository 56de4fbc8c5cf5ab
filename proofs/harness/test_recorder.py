"""The flight record and the recorded shell (contract V1)."""

from __future__ import annotations

import base64
import json
import os
import secrets
import string
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.base.clock import FakeClock, OsClock, poll
from harness.base.errors import CommandFailed, RecorderError, Unavailable
from harness.evidence import recorder as flight
from harness.evidence.lines import (
    EnvironmentLine,
    IntentLine,
    LongBytes,
    LongText,
    OtherLine,
    RecordLine,
    ResultLine,
    ShortBytes,
)
from harness.evidence.recorder import Recorder, Unrecorded
from harness.evidence.shell import Shell

L = TypeVar("L")


def of_kind(kind: type[L], found: Iterable[RecordLine]) -> list[L]:
    return [line for line in found if isinstance(line, kind)]


def result(recorder: Recorder, output: bytes) -> None:
    recorder.write("result", intent=1, status=0, stdout=output, stderr=b"", seconds=0.0)


@pytest.fixture
def record(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "record.jsonl", "run", "gw0", FakeClock(1.5))


@pytest.mark.claim("V1")
def test_intent_before_result_after(record: Recorder) -> None:
    record.proof = "proofs/test_x.py::test_y"
    came = Shell(record).run("sh", "-c", "echo out; echo err >&2; exit 3")
    environment, intent, ended = flight.read(record.path)
    assert isinstance(environment, EnvironmentLine)
    assert (came.status, came.stdout, came.stderr) == (3, "out\n", "err\n")
    assert isinstance(intent, IntentLine)
    assert (intent.argv[0], intent.proof) == ("sh", "proofs/test_x.py::test_y")
    assert isinstance(ended, ResultLine)
    assert (ended.intent, ended.status) == (intent.seq, 3)
    assert (ended.stdout, ended.stderr) == ("out\n", "err\n")
    assert ended.seconds > 0


@pytest.mark.claim("V1")
def test_a_command_that_a_signal_ended(record: Recorder) -> None:
    assert Shell(record).run("sh", "-c", "kill -TERM $$").status == -15


@pytest.mark.claim("V1")
def test_a_command_that_does_not_end_is_killed_and_recorded(record: Recorder) -> None:
    with pytest.raises(CommandFailed, match=r"did not end within 0\.2 s"):
        Shell(record).run("sleep", "60", timeout_secs=0.2)
    *_, ended = of_kind(ResultLine, flight.read(record.path))
    assert ended.status == -9


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
    *_, ended = of_kind(ResultLine, flight.read(record.path))
    assert ended.stdout == "one\ntwo\n"


@pytest.mark.claim("V1")
def test_a_streamed_command_keeps_its_bytes(record: Recorder) -> None:
    assert Shell(record).start("printf", "\\377\\000\\n", on_line=lambda _: None).wait(5.0)
    *_, ended = of_kind(ResultLine, flight.read(record.path))
    assert isinstance(ended.stdout, ShortBytes)
    assert base64.b64decode(ended.stdout.base64) == b"\xff\x00\n"


@pytest.mark.slow
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
    assert {worker: sorted(e.seq for e in lines if e.worker == worker) for worker in ("gw0", "gw1")} == {
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
def test_each_line_is_on_disk_before_the_next_step(record: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda _fd: synced.append(record.path.stat().st_size))
    shell = Shell(record)
    shell.run("true")
    record.write("journal", unit="u", by="u", message="taken along by the next")
    before = record.path.stat().st_size
    shell.run("true")
    *_, intent, ended = flight.read(record.path)
    sizes = [len(line) for line in record.path.read_bytes().splitlines(keepends=True)]
    assert isinstance(intent, IntentLine)
    assert isinstance(ended, ResultLine)
    assert synced[-1] == before + sizes[-2], "the command ran before its intent, and all before it, was on disk"
    record.end()
    assert synced[-1] == record.path.stat().st_size


@pytest.mark.claim("V1")
def test_a_command_that_is_cut_off_leaves_its_intent(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    with subprocess.Popen([sys.executable, "-c", CUT_OFF, str(path)]) as running:
        assert poll(lambda: True if (tmp_path / "runs").exists() else None, OsClock(), 20.0)
        running.kill()
    *_, last = flight.read(path)
    assert isinstance(last, IntentLine)
    assert last.argv[0] == "sh"
    with pytest.raises(RecorderError, match="has no end after line 2: the run was cut off"):
        flight.verify(path)


CUT_OFF = """
import sys
from pathlib import Path
from harness.evidence.recorder import Recorder
from harness.evidence.shell import Shell
path = Path(sys.argv[1])
Shell(Recorder(path, "run", "main")).run("sh", "-c", "touch runs; exec sleep 5", cwd=path.parent)
"""


@pytest.mark.claim("V1")
def test_the_environment_is_recorded_by_digest_and_names(record: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENUE_TOKEN", "first-secret-value")
    Shell(record).run("true")
    monkeypatch.setenv("VENUE_TOKEN", "second-secret-value")
    Shell(record).run("true")
    monkeypatch.setenv("COLUMNS", "132")
    Shell(record).run("true")
    lines = list(flight.read(record.path))
    environments = {line.digest: line.names for line in of_kind(EnvironmentLine, lines)}
    used = [line.environment for line in of_kind(IntentLine, lines)]
    assert used[0] == used[1] != used[2]
    assert set(used) == set(environments)
    assert "VENUE_TOKEN" in environments[used[0]]


@pytest.mark.claim("V1")
@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_output_comes_back_as_it_was(tmp_path: Path, output: bytes) -> None:
    (tmp_path / "record.jsonl").unlink(missing_ok=True)
    recorder = Recorder(tmp_path / "record.jsonl", "run", "gw0")
    result(recorder, output)
    recorder.close()
    (line,) = of_kind(ResultLine, flight.read(recorder.path))
    kept = line.stdout
    if b"redacted" not in output and recorder.redactor.text(output.decode("latin-1")) == output.decode("latin-1"):
        assert isinstance(kept, str | ShortBytes)
        assert (kept.encode() if isinstance(kept, str) else base64.b64decode(kept.base64)) == output


@pytest.mark.claim("V1")
def test_long_outputs_are_stored_once_by_digest(record: Recorder) -> None:
    long = b"".join(b"line %d\n" % number for number in range(20_000))
    binary = bytes(range(256)) * 100
    for output in (long, long, binary):
        result(record, output)
    record.end()
    first, second, third = (line.stdout for line in of_kind(ResultLine, flight.read(record.path)))
    assert first == second
    assert isinstance(first, LongText)
    assert first.head.startswith("line 0\n")
    assert first.tail.endswith("line 19999\n")
    assert first.bytes == len(long)
    assert flight.blob(record.path, first.blob).read_bytes() == long
    assert isinstance(third, LongBytes)
    assert flight.blob(record.path, third.blob).read_bytes() == binary
    assert len(list(flight.blob(record.path, "x").parent.iterdir())) == 2
    assert record.path.stat().st_size < 25_000
    flight.verify(record.path)


@pytest.mark.slow
@pytest.mark.claim("V1")
@given(st.sampled_from(["argv", "flag", "environment", "output", "binary output", "url", "file", "verdict", "proof"]),
       st.text(string.ascii_letters + string.digits + "!$%+,-.<>_{|}~", min_size=16, max_size=40).filter(
           lambda secret: "redacted" not in secret and secret[0] != "-" and len(set(secret)) > 6
           # The names of all variables are recorded before anything is a secret.
           and not any(secret in name for name in os.environ)))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_secret_appears_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, secret: str) -> None:
    """Whatever way it comes in, through real commands, into a record, its long texts and the names of its files."""
    directory = tmp_path / secrets.token_hex(4)
    with monkeypatch.context() as patched:
        if where == "environment":
            patched.setenv("VENUE_API_SECRET", secret)
        recorder = Recorder(directory / "record.jsonl", "run", "gw0")
        run = Shell(recorder).run
        padding = "x" * 20_000
        if where == "argv":
            run("echo", f"--password={secret}", padding)
        elif where == "flag":
            run("sh", "-c", 'echo "signed in with $2"', "sh", "--token", secret)
        elif where == "environment":
            run("sh", "-c", 'env; echo "$VENUE_API_SECRET"')
        elif where == "output":
            (tmp_path / "secret").write_text(f"{padding} api_key={secret}\n")
            run("cat", str(tmp_path / "secret"))
        elif where == "binary output":
            run("printf", f"\\377 secret: {secret.replace('%', '%%')}")
        elif where == "url":
            run("echo", f"https://user:{quote(secret)}@venue.example/")
        elif where == "file":
            recorder.write("write", path="/etc/x", text=f"[vault]\npassword = {json.dumps(secret)}\n")
        elif where == "verdict":
            facts = {"verdict": "proven", "claims": [], "seconds": 0.0, "about": ""}
            recorder.write("verdict", **facts, reason=f"it logged token={secret}", more={"password": secret})
        else:
            recorder.proof = f"test_x[api_key={secret}]"
            run("true")
        recorder.end()
        recorder.close()
    flight.verify(recorder.path)
    for file in directory.rglob("*"):
        if file.is_file():
            kept = file.read_text(errors="surrogateescape")
            for line in [*flight.read(file), kept] if file.suffix else [kept]:
                assert secret not in str(line)
                assert quote(secret) not in str(line)
                assert base64.b64encode(secret.encode())[1:-4].decode() not in str(line)


@pytest.fixture(scope="module")
def flown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record that ended, with a long text."""
    recorder = Recorder(tmp_path_factory.mktemp("flown") / "record.jsonl", "run", "gw0", FakeClock(1.5))
    Shell(recorder, FakeClock()).run("echo", "hello")
    recorder.write("write", path="/etc/x", text="x" * (flight.INLINE_BYTES + 1))
    recorder.end()
    recorder.close()
    flight.verify(recorder.path)
    return recorder.path


@contextmanager
def tampered(path: Path, data: bytes) -> Iterator[None]:
    true = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(true)


@pytest.mark.claim("V1")
@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_can_be_changed(flown: Path, data: st.DataObject) -> None:
    """At any position, to any other value, of the record or of a long text beside it."""
    target = data.draw(st.sampled_from([flown, *flown.parent.glob("blobs/*")]))
    true = target.read_bytes()
    position = data.draw(st.integers(0, len(true) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != true[position]))
    changed = true[:position] + bytes([value]) + true[position + 1 :]
    with tampered(target, changed), pytest.raises(RecorderError) as caught:
        flight.verify(flown)
    number = true[:position].count(b"\n") + 1 if target is flown else 4
    assert f"record.jsonl:{number}" in str(caught.value), "the first bad line is named"


@pytest.mark.claim("V1")
def test_no_line_can_be_removed_swapped_added_or_cut_off(flown: Path) -> None:
    lines = flown.read_bytes().splitlines(keepends=True)
    moved = r"record\.jsonl:{} does not follow the line before: a line was removed, inserted or moved"
    for number in range(1, len(lines)):
        with (
            tampered(flown, b"".join(lines[: number - 1] + lines[number:])),
            pytest.raises(RecorderError, match=moved.format(number)),
        ):
            flight.verify(flown)
        swapped = [*lines[: number - 1], lines[number], lines[number - 1], *lines[number + 1 :]]
        with tampered(flown, b"".join(swapped)), pytest.raises(RecorderError, match=moved.format(number)):
            flight.verify(flown)
        with (
            tampered(flown, b"".join(lines[:number])),
            pytest.raises(RecorderError, match=f"no end after line {number}"),
        ):
            flight.verify(flown)
    with (
        tampered(flown, b"".join([*lines, lines[-1]])),
        pytest.raises(RecorderError, match=moved.format(len(lines) + 1)),
    ):
        flight.verify(flown)
    with tampered(flown, b""), pytest.raises(RecorderError, match="no end after line 0"):
        flight.verify(flown)
    (blob,) = flown.parent.glob("blobs/*")
    with tampered(blob, b""):
        blob.unlink()
        with pytest.raises(RecorderError, match=r"record\.jsonl:4 text: .*No such file"):
            flight.verify(flown)


@pytest.mark.claim("V1")
def test_lines_after_the_end_do_not_count(record: Recorder) -> None:
    record.write("note")
    record.end()
    record.write("note")
    with pytest.raises(RecorderError, match="no end after line 3"):
        flight.verify(record.path)
    record.end()
    assert flight.verify(record.path)[0] == 4


@pytest.mark.claim("V1", "V3")
def test_half_a_line_at_the_end_stops_every_writer(record: Recorder) -> None:
    """A worker that was killed in the middle of a line: what follows could not be told from what was before."""
    record.write("note")
    with record.path.open("ab") as lines:
        lines.write(b'{"half a line')
    with pytest.raises(RecorderError, match="ends in the middle of a line"):
        record.write("note")
    assert record.failure is not None
    with pytest.raises(RecorderError, match=r"record\.jsonl:2 does not end in its digest, it is cut off"):
        list(flight.read(record.path))


def test_surrogates_survive(record: Recorder) -> None:
    record.write("note", text="\udcff\ud800")
    (line,) = flight.read(record.path)
    assert isinstance(line, OtherLine)
    assert line.members == {"text": "\udcff\ud800"}


def test_nothing_is_kept_where_nothing_is_recorded() -> None:
    result = Shell(Unrecorded()).run("echo", "hello")
    assert (result.status, result.stdout) == (0, "hello\n")
