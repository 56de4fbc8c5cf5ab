"""A proof is the same wherever the project lies, whatever umask it is run with, whatever an engine's file is called."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base.unit import exec_start
from harness.machines.machine import Machine
from proofs.fixtures.bytecode import QUICK, environ

ROOT = Path(__file__).resolve().parents[2]

CONFTEST = f"""
from pathlib import Path
import pytest
from harness.machines.stage import Stage

pytest_plugins = ["proofs.fixtures.short_names", "proofs.fixtures.engine_unit"]

@pytest.fixture(scope="session")
def proof_stage(proof_shell):
    made = Stage(Path({str(ROOT)!r}))
    made.build(proof_shell)
    return made
"""

SAMPLE = "from proofs.guardrails.test_exit12 import test_misconfigured_unit_stays_down_and_says_why\n"


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.claim("V3", "V9")
@pytest.mark.parametrize("engine", [None, "reference 100%n $HOME 'engine'.py"], ids=["ours", "another"])
def test_a_proof_is_proven_under_a_tight_umask_in_a_directory_of_any_name(tmp_path: Path, engine: str | None) -> None:
    project = tmp_path / 'it\'s 100%n $HOME "dir" \\ here'
    project.mkdir()
    (project / "conftest.py").write_text(CONFTEST)
    (project / "test_sample.py").write_text(SAMPLE)
    (project / "pytest.ini").write_text("[pytest]\nhybrid_proofs = true\n")
    flags = []
    if engine is not None:
        shutil.copy(ROOT / "proofs" / "fixtures" / "reference_engine.py", project / engine)
        quoted = engine.replace("'", "\\'").replace("$", "\\$").replace(" ", "\\ ")
        flags = ["--engine-cmd", f"/opt/hybrid-engine/bin/python -I {{checkout}}/{quoted} --config {{config}}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *QUICK, "-p", "no:xdist", "-k", "unknown-key", *flags],
        cwd=project, capture_output=True, text=True, timeout=120, umask=0o077,
        env=environ() | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((project / "reports" / "verdicts.json").read_text())
    assert report["counts"]["proven"] == 1, done.stdout
    assert list(report["judged"].get("files", {})) == ([] if engine is None else [str(project / engine)])
    # What is reported is as private as it was asked to be.
    assert stat.S_IMODE((project / "reports").stat().st_mode) == 0o700


WORDS = [
    "a b", "100%n %% %", "$HOME ${HOME} $$", "$HOME", ";", "it's", 'say "no"', "\\n \\", "", "é", "two\nlines",
    "a\ttab", "@x", "-x", "{x}", "*", "#",
]  # fmt: skip


@pytest.mark.claim("V9")
@pytest.mark.parametrize("name", ["plain", "a b", "100%n", "$HOME", "x${HOME}y", "ü;"])
def test_systemd_runs_the_words_of_a_command_as_they_are(machine: Machine, name: str) -> None:
    program, told = machine.path(f"/run/{name}"), machine.path("/run/proof-told")
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    program.chmod(0o755)
    unit = machine.path(f"{machine.unit_dir}/proof-words.service")
    command = exec_start([f"/run/{name}", *WORDS])
    unit.write_text(f"[Service]\nType=oneshot\nExecStart={command}\nStandardOutput=truncate:/run/proof-told\n")
    try:
        machine.systemctl("daemon-reload").expect(0)
        machine.systemctl("start", unit.name).expect(0)
        assert told.read_text().split("\0")[:-1] == WORDS
    finally:
        for path in (program, told, unit):
            path.unlink(missing_ok=True)
