"""Evidence is checked: records, and buglogs against their records (contract V1, V2)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import verify
from harness.__main__ import main
from harness.clock import FakeClock
from harness.errors import HarnessError
from harness.recorder import Recorder
from harness.shell import Shell

END = {"counts": {}, "interrupted": False, "systemd": "private", "planned": [], "accepted_unproven": []}


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
    recorder.end(**END)
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
        for changed, number in ((true.replace(b"1 proofs proven", b"9 proofs proven"), 5), (true + b"x\n", None)):
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
