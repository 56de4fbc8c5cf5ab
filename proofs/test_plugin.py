"""The plugin's own promises: verdicts, exit statuses, the report, and tidiness when interrupted (contract V3)."""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import machine as machines
from harness import recorder as flight
from harness.clock import OsClock, poll
from proofs.fixtures.bytecode import QUICK, environ

HEADER = """
import pytest
from harness.errors import MachineError, Refuted, Unavailable

claim = pytest.mark.claim
"""

PROVEN = """
@claim("E2")
def test_fine():
    pass
"""
REFUTED = """
@claim("E3")
def test_wrong():
    raise Refuted("it restarted 3 times\\n  journal: ...")
"""
UNPROVEN = """
@claim("K2")
def test_cannot():
    raise Unavailable("no pressure here", "boot with psi=1")

@claim("K3")
def test_skipped():
    pytest.skip("not today")

@claim("K4")
def test_crashes():
    raise MachineError("vanished")

@pytest.fixture
def broken():
    assert False, "in a fixture"

@claim("K5")
def test_needs_broken(broken):
    pass
"""
PLAIN_FAILURE = """
def test_plain():
    assert 1 == 2
"""


def run(tmp_path: Path, text: str, *args: str) -> tuple[int, str, dict[str, Any]]:
    """Exit status, output and verdicts.json of a pytest run on a test file with this text."""
    (tmp_path / "test_sample.py").write_text(HEADER + text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *QUICK, *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=environ(),
    )
    report = tmp_path / "reports" / "verdicts.json"
    return done.returncode, done.stdout, json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.claim("V3")
@pytest.mark.parametrize(
    ("text", "status"),
    [
        (PROVEN, 0),
        (PROVEN + PLAIN_FAILURE, 1),
        (PROVEN + UNPROVEN + PLAIN_FAILURE, 1),
    ],
    ids=["proven", "plain-failure", "plain-failure-and-unproven"],
)
def test_exit_status(tmp_path: Path, text: str, status: int) -> None:
    """Those of something refuted (1) and something unproven (3) are looked at below."""
    assert run(tmp_path, text)[0] == status


@pytest.mark.claim("V1", "V3")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_report(tmp_path: Path, workers: str) -> None:
    """Every kind of verdict, reported and on a record that stands up."""
    status, output, report = run(tmp_path, PROVEN + REFUTED + UNPROVEN, "-n", workers)
    assert status == 1
    by_name = {one["proof"].partition("::")[2]: one for one in report["verdicts"]}
    assert {name: one["verdict"] for name, one in by_name.items()} == {
        "test_fine": "proven",
        "test_wrong": "refuted",
        "test_cannot": "unproven",
        "test_skipped": "unproven",
        "test_crashes": "unproven",
        "test_needs_broken": "unproven",
    }
    assert report["counts"] == {"proven": 1, "refuted": 1, "unproven": 4}
    assert by_name["test_wrong"]["reason"] == "it restarted 3 times"
    assert by_name["test_wrong"]["claims"] == ["E3"]
    assert "psi=1" in by_name["test_cannot"]["reason"]
    assert "not today" in by_name["test_skipped"]["reason"]
    assert set(report) >= {"run_id", "systemd", "verdicts", "counts"}
    assert "1 proven, 4 unproven, 1 refuted" in output
    record = tmp_path / "reports" / report["record"]["path"]
    assert record == tmp_path / "reports" / "runs" / report["run_id"] / "record.jsonl"
    assert flight.verify(record) == (report["record"]["lines"], report["record"]["sha256"])
    *_, end = lines = list(flight.read(record))
    assert (end["counts"], end["interrupted"]) == (report["counts"], False)
    recorded = {line["proof"]: line["verdict"] for line in lines if line["type"] == "verdict"}
    assert recorded == {one["proof"]: one["verdict"] for one in report["verdicts"]}


@pytest.mark.claim("V3")
def test_a_worker_that_dies_leaves_its_proof_unproven(tmp_path: Path) -> None:
    status, _, report = run(
        tmp_path,
        '@claim("E2")\ndef test_dies():\n    import os\n    os._exit(9)\n',
        "-n",
        "1",
        "--max-worker-restart=0",
    )
    assert status != 0
    assert [one["verdict"] for one in report["verdicts"]] == ["unproven"]


@pytest.mark.claim("V3")
def test_accepted_unproven_is_loud_and_recorded(tmp_path: Path) -> None:
    accept = [flag for clause in ("K2", "K3", "K4", "K5") for flag in ("--accept-unproven", clause)]
    status, output, report = run(tmp_path, PROVEN + UNPROVEN, *accept)
    assert (status, report["counts"]["unproven"], report["accepted_unproven"]) == (0, 4, ["K2", "K3", "K4", "K5"])
    assert "ACCEPTED UNPROVEN" in output
    assert run(tmp_path, PROVEN + UNPROVEN, *accept[2:])[0] == 3


TAMPERS = """
@claim("E2")
def test_tampers(proof_run):
    lines = proof_run.record.read_bytes().splitlines(keepends=True)
    proof_run.record.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b"main", b"mine")]))
"""
CUTS = """
@claim("E2")
def test_cuts(proof_run):
    with open(proof_run.record, "ab") as lines:
        lines.write(b"{")
"""


FAULTS = {
    "changed": (TAMPERS, r"record.jsonl:\d+ was changed"),
    "cut": (CUTS, r"ends in the middle of a line"),
}


@pytest.mark.claim("V1", "V3")
@pytest.mark.parametrize("end", FAULTS)
def test_nothing_is_proven_when_the_record_is_no_evidence(tmp_path: Path, end: str) -> None:
    text, fault = FAULTS[end]
    status, output, report = run(tmp_path, PROVEN + text + PROVEN.replace("fine", "fine_too"))
    assert (status, report["counts"]) == (3, {"proven": 0, "unproven": 3, "refuted": 0})
    assert all(re.search(f"no evidence: .*{fault}", one["reason"]) for one in report["verdicts"])
    assert "NOTHING IS PROVEN without evidence" in output


@pytest.mark.claim("V1", "V3")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_record_that_cannot_be_written_proves_nothing(tmp_path: Path, workers: str) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "runs").write_text("in the way")
    status, output, report = run(tmp_path, PROVEN + REFUTED, "-n", workers)
    assert (status, report["counts"]) == (3, {"proven": 0, "unproven": 2, "refuted": 0})
    assert "cannot write the flight record" in output


@pytest.mark.claim("V1")
def test_secrets_of_a_proof_appear_nowhere_in_its_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted in arguments, environment, output, a URL, a parameter and the reason of a refutation."""
    planted = {
        place: f"{place}-{secrets.token_hex(12)}" for place in ("argument", "environ", "output", "url", "reason")
    }
    monkeypatch.setenv("VENUE_API_SECRET", planted["environ"])
    (tmp_path / "output").write_text(f"api_key={planted['output']}\n")
    run(
        tmp_path,
        f"""
@claim("E2")
@pytest.mark.parametrize("token", ["token={planted["argument"]}"])
def test_leaks(shell, token):
    shell.run("curl", "-V", "--password", {planted["argument"]!r}, "wss://me:{planted["url"]}@venue.example/x")
    shell.run("sh", "-c", "env; cat output; echo {planted["argument"]}")
    raise Refuted("it said {planted["argument"]}, password={planted["reason"]}, and {planted["environ"]} to that")
""",
    )
    buglog = subprocess.run([sys.executable, "-m", "harness", "buglog"], cwd=tmp_path, capture_output=True, check=True)
    assert buglog.stdout
    files = [file for file in (tmp_path / "reports").rglob("*") if file.is_file()]
    assert len(files) >= 4
    for file in files:
        found = [place for place, secret in planted.items() if secret.encode() in file.read_bytes()]
        assert not found, f"{file}: {found}"


def test_a_session_without_proofs_writes_nothing(tmp_path: Path) -> None:
    run(tmp_path, "def test_plain():\n    pass\n")
    assert not (tmp_path / "reports").exists()


@pytest.mark.claim("V3")
def test_no_systemd_is_unproven_and_says_what_to_install(tmp_path: Path) -> None:
    """A user without root and without a manager of its own, as in a container."""
    text = (
        '@claim("E2")\ndef test_needs(machine):\n    pass\n\n@pytest.fixture(scope="session")\ndef stage():\n    pass\n'
    )
    (tmp_path / "test_sample.py").write_text(HEADER + text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(tmp_path), *QUICK],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**environ(), "XDG_RUNTIME_DIR": str(tmp_path / "none")},
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "a private systemd needs root" in done.stdout


AS_NOBODY = """
import os, sys
import pytest
from harness import machine
os.chmod(sys.argv[1], 0o777)
machine.os.geteuid = lambda: 65534
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.mark.claim("G5")
def test_a_claim_that_is_no_clause_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "contract.toml").write_text('E2 = { digest = "x" }\n')
    assert run(tmp_path, PROVEN + '@claim("Z9")\ndef test_z():\n    pass\n')[0] == 4


def test_ctrl_c_halts_the_machine(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Interrupted in the middle of a proof, a run takes its machine with it."""
    reason = machines.why_not_private()
    if reason:
        raise reason
    marker = tmp_path / "booted"
    (tmp_path / "conftest.py").write_text(
        "import signal\nfrom pathlib import Path\nimport pytest\nfrom harness.stage import Stage\n"
        # What was started in the background of a script has SIGINT ignored, and so has all that it starts.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"@pytest.fixture(scope='session')\ndef stage():\n    return Stage(Path({str(pytestconfig.rootpath)!r}))\n"
    )
    (tmp_path / "test_sample.py").write_text(
        "def test_waits(machine):\n"
        f"    open({str(marker)!r}, 'w').write(machine.name)\n"
        "    machine.run('sh', '-c', 'touch /var/lib/hybrid-engine/sleeps; exec sleep 60')\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    with subprocess.Popen([sys.executable, "-m", "pytest"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        name = poll(lambda: (marker.read_text() or None) if marker.exists() else None, OsClock(), 20.0)
        assert name, "the machine did not boot"
        # The command has to run before it can be interrupted.
        sleeps = machines.RUN_DIR / name / "state" / "sleeps"
        assert poll(lambda: True if sleeps.exists() else None, OsClock(), 20.0), "the command did not start"
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=20)
    assert running.returncode == 2, output
    assert not (machines.RUN_DIR / name).exists()
