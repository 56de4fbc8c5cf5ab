"""The plugin's own promises: verdicts, exit statuses, the report, and tidiness when interrupted (contract V3)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.base import settings
from harness.base.clock import OsClock, poll
from harness.base.errors import Unavailable
from harness.evidence import history, past
from harness.evidence import recorder as flight
from harness.evidence.lines import EndLine, RunLine, SinceLine, VerdictLine
from harness.evidence.verdict import anchor
from harness.machines import machine as machines
from harness.proving import plugin
from proofs.fixtures.bytecode import QUICK, environ
from proofs.harness.test_history import run as a_run

HEADER = """
import pytest
from harness.base.errors import MachineError, Refuted, Unavailable

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
    (tmp_path / "pytest.ini").write_text("[pytest]\nhybrid_proofs = true\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *QUICK, *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=environ(),
    )
    report = tmp_path / "reports" / "verdicts.json"
    return done.returncode, done.stdout + done.stderr, json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.claim("V7")
@pytest.mark.parametrize("status", [0, 1, 3])
def test_make_tells_the_status_by_its_name(pytestconfig: pytest.Config, tmp_path: Path, status: int) -> None:
    """Of its own make knows but 2; what it says is the recipe's."""
    (tmp_path / "pytest").write_text(f"#!/bin/sh\nexit {status}\n")
    (tmp_path / "pytest").chmod(0o755)
    (tmp_path / "ready").touch()
    argv = ["make", "proofs", f"BIN={tmp_path}", f"READY={tmp_path / 'ready'}"]
    argv += [f"--old-file={installs}" for installs in ("machine-tools", "fleet-tools", "browser")]
    done = subprocess.run(argv, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60)
    assert done.returncode == (2 if status else 0)
    assert (f"Error {status}\n" in done.stderr) == bool(status), done.stderr


@pytest.mark.claim("V7")
@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=["alone", "workers"])
@pytest.mark.parametrize("name", ["PYTHONOPTIMIZE", "PYTHONDEVMODE"])
def test_an_interpreter_in_which_nothing_can_be_judged_judges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, more: list[str]
) -> None:
    monkeypatch.setenv(name, "1")
    status, output, _ = run(tmp_path, PROVEN, *more)
    assert status == 4, output
    assert f"ERROR: {name} (python -" in output
    assert "1 proven" not in output


@pytest.mark.claim("V1")
def test_an_old_run_that_another_has_just_forgotten_is_none(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "0-gone").symlink_to(tmp_path / "gone")
    for number in range(plugin.KEPT_RUNS):
        (runs / f"1-{number:02}").mkdir()
    plugin._forget_old_runs(tmp_path)
    assert len(list(runs.glob("1-*"))) == plugin.KEPT_RUNS


LATER = """
@claim("E4")
def test_z_later():
    pass
"""


def interrupting(how: str) -> str:
    """Three proofs; in the second the run is interrupted."""
    return f"""
import os, signal, time

def later():
    # A signal to another process takes a moment; this one is ended by whoever got it.
    time.sleep(60)

@claim("E2")
def test_a():
    pass

@claim("E3")
def test_b():
    {how}
{LATER}"""


# As pytest-xdist does with --dist=loadgroup, and as much as pytest lets it.
RENAMES = """
from _pytest.nodeid import coerce_node_id

def pytest_collection_modifyitems(items):
    for item in items:
        item._id = coerce_node_id(f"{item.nodeid}@group")
"""
DIES_IN_A_PROOF = interrupting("os._exit(9)")
WORKER_CONFTEST = "import os\ndef pytest_configure(config):\n    if hasattr(config, 'workerinput'):\n        "
LOGFINISH = "def pytest_runtest_logfinish(nodeid):\n    assert 'test_a' not in nodeid"
SLOW = "".join(LATER.replace("later():\n    pass", f"{n}():\n    import time; time.sleep(0.1)") for n in range(20))
DIES_ELSEWHERE = "def test_b():\n    import os; os._exit(9)\n"
DIES_EARLY = WORKER_CONFTEST + "os._exit(9)"
CANNOT_COLLECT = WORKER_CONFTEST + "import nothing_of_this_name"

ENDS = {
    # case: (tests, arguments, conftest, exit status, state, how many of the chosen proofs never ran)
    "proven": (PROVEN, [], "", 0, "complete", 0),
    "plain-failure": (PROVEN + PLAIN_FAILURE, [], "", 1, "complete", 0),
    "plain-failure-and-unproven": (PROVEN + UNPROVEN + PLAIN_FAILURE, [], "", 1, "complete", 0),
    "first-refuted": (REFUTED + LATER, ["-x"], "", 1, "interrupted", 1),
    "first-refuted-2-workers": (REFUTED + SLOW, ["-x", "-n2"], "", 1, "interrupted", None),
    "first-unproven": (UNPROVEN + LATER, ["--maxfail=1"], "", 3, "interrupted", 4),
    "ctrl-c": (interrupting("raise KeyboardInterrupt"), [], "", 2, "interrupted", 2),
    "ctrl-c-after-refuted": (REFUTED + interrupting("raise KeyboardInterrupt"), [], "", 1, "interrupted", 2),
    "sigterm": (interrupting("os.kill(os.getpid(), signal.SIGTERM)"), [], "", 2, "interrupted", 2),
    "sighup": (interrupting("os.kill(os.getpid(), signal.SIGHUP)"), [], "", 2, "interrupted", 2),
    "sigterm-2-workers": (
        interrupting("os.kill(os.getppid(), signal.SIGTERM); later()"), ["-n2"], "", 2, "interrupted", None,
    ),
    "killed": (interrupting("os.kill(os.getpid(), signal.SIGKILL)"), [], "", -9, "running", 3),
    "exit-0": (interrupting("pytest.exit('enough', returncode=0)"), [], "", 3, "interrupted", 2),
    "exit-7": (interrupting("pytest.exit('enough', returncode=7)"), [], "", 7, "interrupted", 2),
    "worker-dies": (DIES_IN_A_PROOF, ["-n1"], "", 3, "complete", 0),
    "worker-dies-for-good": (DIES_IN_A_PROOF, ["-n1", "--max-worker-restart=0"], "", 3, "interrupted", None),
    "worker-dies-in-a-test-without-claims": (PROVEN + DIES_ELSEWHERE, ["-n1"], "", 1, "complete", 0),
    "worker-does-not-start": (PROVEN, ["-n1", "--max-worker-restart=0"], DIES_EARLY, 3, "interrupted", 0),
    "worker-cannot-collect": (PROVEN, ["-n1", "--max-worker-restart=1"], CANNOT_COLLECT, 3, "interrupted", 0),
    "not-collected": (PROVEN + "import nothing_of_this_name\n", [], "", 2, None, None),
    "not-collected-and-on": (PROVEN, ["--continue-on-collection-errors"], "", 3, "interrupted", 0),
    "internal-error": (interrupting("pass"), [], LOGFINISH, 3, "interrupted", 2),
    "internal-error-after-refuted": (REFUTED.replace("wrong", "a") + LATER, [], LOGFINISH, 1, "interrupted", 1),
    "chosen-by-name": (PROVEN + LATER, ["-k", "fine"], "", 0, "partial", 0),
    "renamed": (PROVEN, ["-n2"], RENAMES, 0, "complete", 0),
    "killed-renamed": (
        interrupting("os.kill(os.getppid(), signal.SIGKILL); later()"), ["-n2"], RENAMES, -9, "running", 3,
    ),
    "deselected": (PROVEN + LATER, ["--deselect", "test_sample.py::test_fine"], "", 0, "partial", 0),
    "path": (PROVEN + LATER, ["test_sample.py::test_fine"], "", 0, "partial", 0),
    "ignored": (PROVEN, ["--ignore=elsewhere"], "", 0, "partial", 0),
    "ignored-glob": (PROVEN, ["--ignore-glob=else*"], "", 0, "partial", 0),
    "last-failed": (PROVEN, ["-p", "cacheprovider", "--lf"], "", 0, "partial", 0),
    "nothing-chosen": (PROVEN, ["-k", "nothing"], "", 5, None, None),
    "only-set-up": (PROVEN, ["--setup-plan"], "", 3, "complete", 0),
    "no-terminal": (REFUTED, ["-p", "no:terminal"], "", 1, "complete", 0),
    "no-xdist": (PROVEN + UNPROVEN, ["-p", "no:xdist"], "", 3, "complete", 0),
    "undecodable": (
        "@claim('E2')\ndef test_a():\n    assert False, '\\udcff \\x00 \\x1b[31m \\u202e'\n", [], "", 1, "complete", 0,
    ),
}  # fmt: skip


WITHOUT_A_FILE = {"ignored", "ignored-glob", "last-failed"}
"""What may have left out whole files, of which nothing is known."""


@pytest.mark.slow
@pytest.mark.claim("V3", "V7")
@pytest.mark.parametrize("case", ENDS)
def test_an_end_is_what_it_is(tmp_path: Path, case: str) -> None:
    """Exit status and verdicts.json of runs that end in every way; an earlier run was green."""
    text, args, conftest, status, state, never_ran = ENDS[case]
    (tmp_path / "conftest.py").write_text(conftest)
    if case == "not-collected-and-on":
        (tmp_path / "test_broken.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "verdicts.json").write_text('{"run_id": "green", "verdicts": []}')
    ended, output, report = run(tmp_path, text, *args)
    assert ended == status, output
    if case == "nothing-chosen":
        assert report["run_id"] == "green"
        return
    assert report["run_id"] != "green", output
    if state is not None:
        assert report["state"] == state, output
        assert report["complete"] == (state == "complete" or "-k" in args or "--deselect" in args)
    if never_ran is not None:
        assert (report["never_ran"], len(report["verdicts"])) == (never_ran, report["selected"] - never_ran)
    if report.get("never_ran"):
        assert case.startswith("killed") or f"{report['never_ran']} of {report['selected']} never ran" in output
    if status == 0 and state == "partial" and case not in WITHOUT_A_FILE:
        other = "E2" if case == "deselected" else "E4"
        assert f"partial: 1 of 2 proofs were chosen, and none for {other}\n" in output or case == "path"
    if report.get("record"):
        *_, end = flight.read(tmp_path / "reports" / report["record"]["path"])
        assert isinstance(end, EndLine)
        assert (end.state, end.never_ran, end.selected) == (state, report["never_ran"], report["selected"])


@pytest.mark.slow
@pytest.mark.claim("V1", "V3", "V14")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_report(tmp_path: Path, workers: str) -> None:
    """Every kind of verdict, reported and on a record that stands up; what is new since a run in the history."""
    wrong, before = "test_sample.py::test_wrong", tmp_path / "reports" / history.FILE_NAME
    before.parent.mkdir()
    earlier = a_run(1, {wrong: "proven", "test_sample.py::test_cannot": "unproven", "test_gone.py::test_x": "proven"})
    before.write_text(f"{history.line(earlier)}torn by a cra")
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
    assert isinstance(end, EndLine)
    assert (end.counts, end.interrupted) == (report["counts"], False)
    recorded = {line.proof: line.verdict for line in lines if isinstance(line, VerdictLine)}
    assert recorded == {one["proof"]: one["verdict"] for one in report["verdicts"]}
    (since,) = (line for line in lines if isinstance(line, SinceLine))
    assert (since.before, since.broken, since.mended, since.gone) == (earlier.run, [wrong], [], 1)
    assert since.counts == {"broken": 1, "mended": 0, "added": 4, "flaky": 0}
    kept, entry = history.parse(before.read_text())
    assert (kept, entry.run, entry.sha256) == (earlier, report["run_id"], report["record"]["sha256"])
    assert entry.outcomes == {anchor(proof): verdict for proof, verdict in recorded.items()}
    # Who reads of a refutation later finds the block that a terminal shows, with the command.
    told = next(line.told for line in lines if isinstance(line, VerdictLine) and line.proof == wrong)
    assert isinstance(told, str)
    assert told.startswith(f"REFUTED   {wrong}\n")
    assert f"pytest {wrong}" in told


@pytest.mark.claim("V14")
def test_a_history_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / history.FILE_NAME
    path.write_text("".join(history.line(a_run(number, {})) for number in range(2 * history.KEPT - 1)))
    for number, kept in ((5000, 2 * history.KEPT), (5001, history.KEPT)):
        past.remember(tmp_path, a_run(number, {}))
        entries = history.parse(path.read_text())
        assert (len(entries), entries[-1].run) == (kept, f"run-{number}")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.claim("V1", "V3")
@pytest.mark.parametrize("end", FAULTS)
def test_nothing_is_proven_when_the_record_is_no_evidence(tmp_path: Path, end: str) -> None:
    text, fault = FAULTS[end]
    status, output, report = run(tmp_path, PROVEN + text + PROVEN.replace("fine", "fine_too"))
    assert (status, report["counts"]) == (3, {"proven": 0, "unproven": 3, "refuted": 0})
    assert all(re.search(f"no evidence: .*{fault}", one["reason"]) for one in report["verdicts"])
    assert "NOTHING IS PROVEN without evidence" in output


@pytest.mark.slow
@pytest.mark.claim("V1", "V3")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_record_that_cannot_be_written_proves_nothing(tmp_path: Path, workers: str) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "runs").write_text("in the way")
    status, output, report = run(tmp_path, PROVEN + REFUTED, "-n", workers)
    assert (status, report["counts"]) == (3, {"proven": 0, "unproven": 2, "refuted": 0})
    assert "cannot write the flight record" in output


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.claim("V3")
def test_no_systemd_is_unproven_and_says_what_to_install(tmp_path: Path) -> None:
    """A user without root and without a manager of its own, as in a container."""
    text = (
        '@claim("E2")\ndef test_needs(proof_machine):\n    pass\n'
        '\n@pytest.fixture(scope="session")\ndef proof_stage():\n    pass\n'
    )
    (tmp_path / "test_sample.py").write_text(HEADER + text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nhybrid_proofs = true\n")
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
from harness.machines import machine
os.chmod(sys.argv[1], 0o777)
machine.os.geteuid = lambda: 65534
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.claim("G5")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_claim_that_is_no_clause_stops_the_run(tmp_path: Path, workers: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "contract.toml").write_text('E2 = { digest = "x" }\n')
    status, output, report = run(tmp_path, PROVEN + '@claim("Z9")\ndef test_z():\n    pass\n', "-n", workers)
    assert (status, report) == (4, {})
    assert "Z9 is claimed by a proof but is no clause" in output


@pytest.mark.slow
@pytest.mark.claim("V3", "V7")
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("mark", ["@pytest.mark.claim", "@claim()"])
def test_a_claim_without_a_clause_stops_the_run(tmp_path: Path, workers: str, mark: str) -> None:
    """It would be in no verdict, and its failure beside an accepted one in no exit status."""
    status, output, report = run(tmp_path, PROVEN + f"{mark}\ndef test_z():\n    assert False\n", "-n", workers)
    assert (status, report) == (4, {})
    assert "test_sample.py::test_z: the mark claim names no clause" in output


NOTICED = """
import asyncio, errno, json, subprocess
from hypothesis import given, strategies as st, find
from harness.base.clock import OsClock

def parse(text):
    return json.loads(text)

async def nothing_comes():
    await asyncio.wait_for(asyncio.Event().wait(), 0.01)

@pytest.fixture
def late():
    raise ValueError("in a fixture")

@pytest.fixture
def fails_after():
    yield
    assert False, "in a teardown"


"""
REFUTE = {
    "a failed claim": "assert 1 == 2",
    "a refutation": "raise Refuted('it restarted')",
    "pytest.fail": "pytest.fail('it restarted')",
    "an exception that did not come": "with pytest.raises(ValueError):\n        pass",
    "a command that takes too long": "subprocess.run(['sleep', '60'], timeout=0.01)",
    "a command that fails": "subprocess.run(['false'], check=True)",
    "text that is no JSON": "json.loads('{')",
    "text that is no JSON, in a helper": "parse('{')",
    "text that is no number": "int('x')",
    "a key that is not there": "{}['verdict']",
    "a file that is not there": "open('/nowhere/at/all')",
    "nobody listens": "import socket; socket.create_connection(('127.0.0.1', 1))",
    "nothing came in time": "asyncio.run(nothing_comes())",
    "several at once": "raise ExceptionGroup('both', [AssertionError('a'), MachineError('b')])",
    "an example of a property": "given(st.just(1))(lambda n: parse('{'))()",
}
DO_NOT = {
    "the harness": "raise MachineError('vanished')",
    "what cannot be had": "raise Unavailable('no pressure', 'boot with psi=1')",
    "inside the harness": "OsClock().sleep('x')",
    "a full disk": "raise OSError(errno.ENOSPC, 'No space left on device')",
    "no memory": "raise MemoryError",
    "a package that is missing": "import nothing_of_this_name",
    "a fixture that was asked for in the call": "request.getfixturevalue('late')",
    "a skip": "pytest.skip('not today')",
    "an expected failure": "pytest.xfail('known')",
    "a property without examples": "find(st.nothing(), lambda n: True)",
}


@pytest.mark.slow
@pytest.mark.claim("V3")
def test_a_broken_promise_is_refuted_however_it_is_noticed(tmp_path: Path) -> None:
    """And what says nothing about the system is not."""
    proofs = [
        f'@claim("E2")\ndef test_{number}(request):\n    {code}\n'
        for number, code in enumerate([*REFUTE.values(), *DO_NOT.values()])
    ]
    after = '@claim("E2")\ndef test_after(fails_after):\n    pass\n'
    status, _, report = run(tmp_path, NOTICED + "".join(proofs) + after)
    found = {one["proof"].rpartition("_")[2]: one["verdict"] for one in report["verdicts"]}
    named = {name: found[str(number)] for number, name in enumerate([*REFUTE, *DO_NOT])}
    assert named == {**dict.fromkeys(REFUTE, "refuted"), **dict.fromkeys(DO_NOT, "unproven")}
    assert (found["after"], status) == ("unproven", 1)


@pytest.mark.machine
def test_ctrl_c_halts_the_machine(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Interrupted in the middle of a proof, a run takes its machine with it."""
    reason = machines.why_not_private()
    if reason:
        raise reason
    marker = tmp_path / "booted"
    (tmp_path / "conftest.py").write_text(
        "import signal\nfrom pathlib import Path\nimport pytest\nfrom harness.machines.stage import Stage\n"
        # What was started in the background of a script has SIGINT ignored, and so has all that it starts.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "@pytest.fixture(scope='session')\ndef proof_stage():\n"
        f"    return Stage(Path({str(pytestconfig.rootpath)!r}))\n"
    )
    (tmp_path / "test_sample.py").write_text(
        "def test_waits(proof_machine):\n"
        f"    open({str(marker)!r}, 'w').write(proof_machine.name)\n"
        "    proof_machine.run('sh', '-c', 'touch /var/lib/hybrid-engine/sleeps; exec sleep 60')\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nhybrid_proofs = true\n")
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


READ_ONLY = """
set -e
mount --bind . .
mount -o remount,ro,bind .
cd .
exec "$@"
"""


@pytest.mark.claim("V7")
@pytest.mark.parametrize(
    ("flags", "status", "told"),
    [
        ([], 4, "ERROR: cannot write {}/reports: Read-only file system"),
        (["-n", "2"], 4, "ERROR: cannot write {}/reports: Read-only file system"),
        (["test_sample.py"], 4, "ERROR: cannot write {}/reports: Read-only file system"),
        (["--collect-only", "-q"], 0, "1 test collected in"),
    ],
    ids=["all", "workers", "one", "collected"],
)
def test_a_checkout_that_cannot_be_written_is_told_before_anything_is_collected(
    tmp_path: Path, flags: list[str], status: int, told: str
) -> None:
    if os.geteuid() != 0:
        raise Unavailable("to mount a directory read-only takes root", "run as root")
    marker, project = tmp_path / "collected", tmp_path / "project"
    project.mkdir()
    (project / "test_sample.py").write_text(HEADER + f"open({str(marker)!r}, 'w').close()\n" + PROVEN)
    (project / "pytest.ini").write_text("[pytest]\nhybrid_proofs = true\n")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", sys.executable, "-B", "-m", "pytest", *QUICK, *flags],
        cwd=project, capture_output=True, text=True, timeout=60, env=environ(),
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    assert told.format(project) in output
    assert "Traceback" not in output
    assert marker.exists() == bool([flag for flag in flags if flag not in ("-n", "2")])


BLACK_BOX = """
import pytest


@pytest.fixture
def engine():
    return "a unit"


@claim("E2")
def test_of_the_engine(engine):
    pass


@claim("K1")
def test_of_the_controller_that_needs_the_unit(engine):
    pass


@claim("E2")
def test_of_a_module_of_ours():
    pass


def test_plain():
    pass
"""


KEEPS_SOME = (
    BLACK_BOX
    + """
@claim("E2", "E4")
def test_of_a_clause_too_many(engine):
    pass


@claim("E2", "K1")
def test_of_both_sides(engine):
    pass
"""
)


@pytest.mark.slow
@pytest.mark.claim("V9")
@pytest.mark.parametrize(
    ("flags", "status", "proven", "told"),
    [
        (
            ["--engine-cmd", "{checkout}/other", "--clauses", "E2"],
            0,
            ["of_both_sides", "of_the_engine"],
            "4 tests were",
        ),
        (
            ["--engine-cmd", "{checkout}/other", "--clauses", "E2 E4"],
            0,
            ["of_a_clause_too_many", "of_both_sides", "of_the_engine"],
            "3 tests",
        ),
        (["--engine-cmd", "{checkout}/other", "--clauses", "E2,E3"], 4, [], "no proof judges an engine .* by E3"),
        (["--clauses", "E2"], 4, [], "needs --proofs-engine-cmd"),
        (
            ["--engine-cmd", "{checkout}/other", "--clauses", "E2,E22", "-n", "2"],
            4,
            [],
            r"\AERROR: --clauses: E22 is no clause of config/contract.toml; did you mean E2\?\s*\Z",
        ),
        (["--engine-cmd", "{checkout}/other", "--clauses", "K1"], 4, [], "--clauses: K1 is no promise of an engine's"),
    ],
    ids=["one", "two", "unproved", "no-engine", "unknown", "harness"],
)
def test_an_engine_is_judged_by_the_clauses_that_it_claims(
    tmp_path: Path, flags: list[str], status: int, proven: list[str], told: str
) -> None:
    """What asks for any other clause of an engine's is left out, and a clause that nothing asks about is refused."""
    (tmp_path / "other").write_text("#!/bin/sh\n")
    (tmp_path / "config").mkdir()
    zeros = "0" * 16
    (tmp_path / "config" / "contract.toml").write_text(
        "".join(f'{name} = {{ digest = "{zeros}" }}\n' for name in ("E2", "E4"))
        + f'E3 = {{ digest = "{zeros}", planned = true }}\nK1 = {{ digest = "{zeros}", of = "harness" }}\n'
    )
    ended, output, report = run(tmp_path, KEEPS_SOME, *flags)
    assert ended == status, output
    assert sorted(one["proof"].partition("::test_")[2] for one in report.get("verdicts", [])) == proven
    assert re.search(told, output), output


@pytest.mark.claim("V9")
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--engine-cmd", ""], "must begin with an absolute path"),
        (["--engine-cmd", "relative {config}"], "must begin with an absolute path"),
        (["--engine-cmd", "/bin/sh -c 'unbalanced"], "No closing quotation"),
        (["--engine-cmd", "/bin/sh\\"], "No escaped character"),
        (["--engine-cmd", "/bin/engine {confg}"], "{confg} is no placeholder, {config} and {checkout} are; did"),
        (["--engine-cmd", "/bin/sh -c 'exec a {}'"], "{} is no placeholder"),
        (["--engine-cmd", "{checkout}/missing"], "{checkout}/missing is no file of the checkout"),
        (["--engine-cmd", "/bin/sh -c 'exec {checkout}/missing {config}'"], "{checkout}/missing {config} is no file"),
        (["--engine-cmd", "/bin/sh -c 'cd {checkout} && exec ./other'"], "{checkout} && exec ./other is no file"),
        (["--engine-cmd", "/bin/x {checkout}/"], "{checkout}/ is no file"),
        (["--engine-cmd", "/bin/x {checkout}/../x"], "{checkout}/../x is no file"),
        (["--engine-cmd", "\"/bin/it's\""], "systemd runs no program with a quote or a backslash in its path"),
        (["--engine-cmd", "/bin/engine", "--clauses", " , "], "names no clause"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_is_told_in_a_line(tmp_path: Path, flags: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as refused:
        settings.load(tmp_path, engine_cmd=flags[1], clauses=flags[3] if flags[2:] else None)
    assert "\n" not in str(refused.value)


@pytest.mark.claim("V9")
def test_what_pytest_says_of_a_command_that_cannot_be_is_that_line(tmp_path: Path) -> None:
    status, output, _ = run(tmp_path, PROVEN, "--engine-cmd", "/bin/sh -c 'unbalanced")
    said = 'ERROR: --proofs-engine-cmd="/bin/sh -c \'unbalanced": No closing quotation'
    assert (status, output.strip()) == (4, said)


NAMED: dict[str, tuple[str, list[str]]] = {
    "a program": ("{checkout}/other {config}", ["other"]),
    "a script": ("/bin/sh {checkout}/other", ["other"]),
    "in a word": ("/bin/sh --file={checkout}/other", ["other"]),
    "in a shell's words": ("/bin/sh -c 'exec /bin/sh {checkout}/other --config {config}'", ["other"]),
    "before a shell's sign": ("/bin/sh -c 'exec {checkout}/other; exit 1'", ["other"]),
    "with a blank": ("/bin/sh '{checkout}/a b'", ["a b"]),
    "with a blank in a shell's words": ("""/bin/sh -c 'exec "{checkout}/a b" {config}'""", ["a b"]),
    "two in a word": ("/bin/env A={checkout}/other:{checkout}/below/helper.py x", ["below/helper.py", "other"]),
    "the longer of two": ("/bin/sh {checkout}/other.py", ["other.py"]),
    "a shell's own braces": ("/bin/sh -c 'exec ${SHELL} {checkout}/other'", ["other"]),
}  # fmt: skip


@pytest.mark.claim("V9")
@pytest.mark.parametrize("checkout", ["plain", 'it\'s "a" 100% $HOME\\'])
@pytest.mark.parametrize("command", NAMED)
def test_a_file_of_the_checkout_is_found_wherever_it_is_named(tmp_path: Path, checkout: str, command: str) -> None:
    text, expected = NAMED[command]
    place = tmp_path / checkout
    (place / "below").mkdir(parents=True)
    for name in ("other", "other.py", "a b", "a", "below/helper.py"):
        (place / name).touch()
    loaded = settings.load(place, engine_cmd=text)
    assert loaded.engine_cmd is not None
    found = settings.files_named(loaded.engine_cmd, place)
    assert sorted(str(name) for name in found.values() if name is not None) == expected
    assert all(path == place / name for path, name in found.items() if name is not None)
    # Its words are those that were typed, and where nothing needs a quote it is the text that was typed.
    assert shlex.split(loaded.engine_cmd) == [word.replace("{checkout}", str(place)) for word in shlex.split(text)]


@pytest.mark.slow
@pytest.mark.claim("V9")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_another_engine_is_judged_by_what_drives_its_unit(tmp_path: Path, workers: str) -> None:
    """What is ours is left out and counted, and verdicts and record name the engine and its file."""
    program = tmp_path / "other"
    program.write_text("#!/bin/sh\n")
    (tmp_path / "config").mkdir()
    digests = {
        clause: f'{{ digest = "{"0" * 16}"{whose} }}' for clause, whose in (("E2", ""), ("K1", ', of = "harness"'))
    }
    (tmp_path / "config" / "contract.toml").write_text("\n".join(f"{name} = {text}" for name, text in digests.items()))
    status, output, report = run(
        tmp_path, BLACK_BOX, "-n", workers, "--engine-cmd", "{checkout}/other --config {config}"
    )
    assert status == 0, output
    assert [one["proof"].partition("::")[2] for one in report["verdicts"]] == ["test_of_the_engine"]
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    command = f"{program} --config {{config}}"
    assert report["judged"] == {
        "engine": command, "clauses": None, "files": {str(program): digest}, "left_out": 3,
    }  # fmt: skip
    assert report["state"] == "partial"
    assert f"judged as a black box: {command}" in output
    assert "3 tests were left out" in output
    first = next(
        line for line in flight.read(tmp_path / "reports" / report["record"]["path"]) if isinstance(line, RunLine)
    )
    assert first.facts["engine"] == command
    assert first.facts[f"sha256 of {program}"] == digest
    assert run(tmp_path, PROVEN)[2]["judged"] == {"engine": "installed"}
