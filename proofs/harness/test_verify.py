"""Evidence is checked: records, and buglogs against their records (contract V1, V2)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.__main__ import main
from harness.base.clock import FakeClock
from harness.base.errors import HarnessError
from harness.evidence import recorder, verify
from harness.evidence.recorder import Recorder
from harness.evidence.shell import Shell


def fly(reports: Path, run_id: str, sabotages: int = 0) -> Path:
    """A small record that ended."""
    recorder = Recorder(verify.record_of(reports, run_id), run_id, "main", FakeClock(1_795_423_471.5))
    recorder.write("run", systemd="private", facts={"kernel": "Linux"}, clauses={"G0": "| G0 | SHADOW | x |"})
    recorder.proof = "proofs/test_x.py::test_x"
    Shell(recorder, FakeClock()).run("echo", "hello")
    recorder.write("verdict", claims=["G0"], verdict="proven", reason="", seconds=0.1, about="")
    for number in range(sabotages):
        recorder.write(
            "sabotage",
            id=f"s{number}",
            guardrail="G0",
            breaks="x",
            proof="p",
            confirmed="",
            verdict="refuted",
            reason="r",
        )
    recorder.end(systemd="private")
    recorder.close()
    return recorder.path


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and the buglog of both."""
    reports = tmp_path_factory.mktemp("reports")
    made = verify.made(fly(reports, "1"), fly(reports, "2", sabotages=2))
    (reports / "buglog").mkdir()
    for name, text in made.items():
        (reports / "buglog" / name).write_bytes(verify.encoded(text))
    return reports


@pytest.mark.claim("V1", "V2")
def test_what_was_not_touched_passes(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [*reports.glob("buglog/*"), *reports.glob("runs/*/record.jsonl")]
    assert len(paths) == 4
    assert main(["verify", *map(str, paths)]) == 0
    assert capsys.readouterr().out.count("whole") == 4


@pytest.mark.claim("V2")
@pytest.mark.parametrize("suffix", [".html", ".md"])
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_of_a_buglog_can_be_changed(reports: Path, suffix: str, data: st.DataObject) -> None:
    (path,) = reports.glob(f"buglog/*{suffix}")
    true = path.read_bytes()
    position = data.draw(st.integers(0, len(true) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != true[position]))
    try:
        path.write_bytes(true[:position] + bytes([value]) + true[position + 1 :])
        with pytest.raises(HarnessError):
            verify.check(path)
    finally:
        path.write_bytes(true)


@pytest.mark.claim("V2")
def test_the_first_line_that_differs_is_named(reports: Path) -> None:
    (path,) = reports.glob("buglog/*.md")
    true = path.read_bytes()
    try:
        for changed, number in ((true.replace(b"1 proof proven", b"9 proof proven"), 5), (true + b"x\n", None)):
            path.write_bytes(changed)
            where = number or changed.count(b"\n")
            with pytest.raises(HarnessError, match=rf"\.md:{where} is not what .*record\.jsonl renders to"):
                verify.check(path)
    finally:
        path.write_bytes(true)


@pytest.mark.claim("V2")
def test_another_record_or_none_is_refused(reports: Path, tmp_path: Path) -> None:
    other = tmp_path / "reports"
    shutil.copytree(reports, other)
    (document,) = other.glob("buglog/*.html")
    shutil.rmtree(other / "runs" / "2")
    with pytest.raises(HarnessError, match=r"runs/2/record\.jsonl: No such file"):
        verify.check(document)
    fly(other, "2", sabotages=3)
    with pytest.raises(HarnessError, match="was made from another record"):
        verify.check(document)
    document.rename(document.with_name("renamed.html"))
    shutil.copy(reports / "runs/2/record.jsonl", other / "runs/2/record.jsonl")
    with pytest.raises(HarnessError, match="does not bear the name"):
        verify.check(document.with_name("renamed.html"))


def test_what_is_no_evidence_is_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.html").write_text("<html></html>")
    (tmp_path / "x.txt").write_text("")
    for name, message in (
        ("x.html", "names no flight record"),
        ("x.txt", "neither a flight record"),
        ("none.html", "No such file"),
        ("none.jsonl", "No such file"),
    ):
        assert main(["verify", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err


# --- records of anybody's ------------------------------------------------------------------------------------------

NASTY = st.sampled_from([
    "\\ud800", "\\u0000", "\\u001b[31m", "\\u202e", "1e400", "-1e400", "NaN", "9" * 5000, "null", "true", "[[[]]]",
    "{}",
    '{"blob":"x"}', '{"blob":null}', '{"blob":"../../etc/passwd","bytes":1,"binary":true}', '{"base64":"?"}',
    "[" * 50_000 + "]" * 50_000, '{"a":' * 50_000 + "1" + "}" * 50_000, "1" * 400, "-1", "0.5", '""', '[""]', '{"":""}',
])  # fmt: skip
"""As they stand in a line; those that begin like an escape stand within a string."""


def chained(bodies: list[bytes]) -> bytes:
    """Lines with true digests, as anybody can make them."""
    data, previous = b"", recorder.GENESIS
    for body in bodies:
        line = re.sub(rb'"prev":"[0-9a-f]*"', f'"prev":"{previous}"'.encode(), body)
        previous = hashlib.sha256(line).hexdigest()
        data += line[:-1] + f',"sha256":"{previous}"}}\n'.encode()
    return data


def bodies(record: Path) -> list[bytes]:
    """The lines without their digests."""
    return [line[: -len(',"sha256":"}"\n') - 64] + b"}" for line in record.read_bytes().splitlines(keepends=True)]


def answered(path: Path, reports: Path) -> None:
    """Fine, or refused with the record and a line of it."""
    try:
        verify.check(path, reports)
        for text in verify.made(path, None).values():
            verify.encoded(text)
    except HarnessError as error:
        refused = str(error)
    else:
        return
    assert re.search(r"record\.jsonl(:\d+| has no end after line \d+)", refused), refused


@pytest.fixture(scope="module")
def crafted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """Where crafted records go, and the lines of a true one, of every kind."""
    reports = tmp_path_factory.mktemp("crafted")
    made = Recorder(verify.record_of(reports, "true"), "true", "main", FakeClock(1_795_423_471.5))
    made.write("run", systemd="private", facts={"kernel": "Linux"}, clauses={"G0": "| G0 | SHADOW | x |"})
    made.proof = "proofs/test_x.py::test_x"
    Shell(made, FakeClock()).run("echo", "hello")
    made.write("write", path="/etc/x", text="x")
    made.write("machine", name="m", variant="private", event="booted")
    made.write("unit", name="u.service", text="[Service]")
    for ticks in range(4):
        fields = {"message": "HEARTBEAT (G4)", "ingest_received": 5 + ticks}
        made.write("journal", unit="u", by="engine", message=json.dumps({"level": "INFO", "fields": fields}))
    sabotage = {"id": "s", "guardrail": "G0", "breaks": "x", "confirmed": "", "verdict": "refuted", "reason": "r"}
    made.write("sabotage", **sabotage)
    made.write("verdict", claims=["G0"], verdict="refuted", reason="r", seconds=0.1, about="", told="t")
    made.end(systemd="private", collected=1, selected=1)
    made.close()
    recorder.verify(made.path)
    return reports, bodies(made.path)


@pytest.mark.claim("V8")
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_member_is_answered(crafted: tuple[Path, list[bytes]], data: st.DataObject) -> None:
    """With true digests: no recorder of ours wrote it, and nobody changed it afterwards."""
    reports, true = crafted
    changed = list(true)
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(changed) - 1))
        members = [name for name in json.loads(true[number]) if name != "prev"]
        name, value = data.draw(st.sampled_from(members)), data.draw(NASTY)
        text = f'"{value}"' if value.startswith("\\u") else value
        member = re.compile(rb'"%s":(?:"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\{[^}]*\}|[^,}]*)' % re.escape(name.encode()))
        put = f'"{name}":{text}'.encode()
        before, found, after = changed[number].partition((member.search(changed[number]) or [b""])[0])
        changed[number] = before + (put if found else b"") + after
    path = verify.record_of(reports, "1")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(chained(changed))
    answered(path, reports)


@pytest.mark.claim("V8")
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_answered(crafted: tuple[Path, list[bytes]], data: st.DataObject) -> None:
    """Cut, joined, doubled, with bytes in the middle that are no text."""
    reports, true = crafted
    whole = chained(true)
    cut = data.draw(st.integers(0, len(whole)))
    between = data.draw(
        st.binary(max_size=20) | st.sampled_from([b"", whole, b"\0" * 100, b"\xff", b"\r\n", b"x" * (1 << 20)])
    )
    path = verify.record_of(reports, "2")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole[:cut] + between + whole[data.draw(st.integers(cut, len(whole))) :])
    answered(path, reports)


@pytest.mark.claim("V8")
def test_what_is_no_file_is_answered(tmp_path: Path) -> None:
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "directory.jsonl").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(HarnessError, match=r"not a regular file|Is a directory"):
            verify.check(tmp_path / f"{name}.jsonl")
