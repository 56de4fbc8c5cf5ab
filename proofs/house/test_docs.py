"""Every command in the documents works."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.evidence.recorder import Recorder
from harness.machines import tools
from harness.machines.machine import why_not_private
from proofs.fixtures.proven_run import ProvenRun

ROOT = Path(__file__).resolve().parents[2]
OF_ITS_OWN = ROOT / "docs" / "operating.md"
"""Its commands change the computer: proofs/guardrails/test_operating.py types them into a machine."""
DOCUMENTS = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")} - {OF_ITS_OWN})

NEVER_INSIDE_ITSELF = (
    "make proofs",
    "make test",
    "make sabotage",
    "make mutants",
    "make another",
    "make canary",
    "make nothing",
    "make reference",
    "make bench",
    "make debian",
    "make stress",
    "make fleet-sim",
    "make lint",
    "make format",
    "make pure",
    "make coverage",
    "make docs",
    "make pictures",
    "make lock",
    "make fleet-tools",
    "make install",
    "make dist",
    "make release",
    ".venv/bin/pytest",
)
"""Commands that run this very suite, rewrite the checkout or fetch packages: their spelling is checked, CI runs them
for real."""


OF_OTHERS = ("promtool", "amtool")


def commands() -> list[str]:
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```console\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL):
            found += [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    return sorted(set(found))


def run(argv: list[str], cwd: Path, timeout_secs: float = 60.0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_secs)


# Numbered, not named after the commands: `-k exit12` must not select a command that has these words.
@pytest.mark.parametrize(
    "command",
    [pytest.param(one, marks=[pytest.mark.programs] if one.startswith(OF_OTHERS) else []) for one in commands()],
    ids=range(len(commands())),
)
def test_documented_command(command: str, tmp_path: Path) -> None:
    if command.startswith(NEVER_INSIDE_ITSELF):
        done = dry_run(shlex.split(command))
    else:
        # A copy of what the commands read, so that none of them touches the checkout.
        for name in (
            "config",
            "docs",
            "Makefile",
            "pyproject.toml",
            "engine",
            "fleet",
            "harness",
            "distributions",
            "requirements",
            "README.md",
            ".venv",
            "reports",
        ):
            if (ROOT / name).exists():
                (tmp_path / name).symlink_to(ROOT / name)
        if "--update" in command:
            for name in ("config", "docs"):
                (tmp_path / name).unlink()
            (tmp_path / "config").mkdir()
            shutil.copytree(ROOT / "docs", tmp_path / "docs")
        if "buglog" in command or "harness verify" in command:
            (tmp_path / "reports").unlink(missing_ok=True)
            make_report(tmp_path / "reports")
        if "--lift-bars" in command or "hybrid-engine gaps" in command:
            run(shlex.split(".venv/bin/hybrid-engine --config config/config.toml --seconds 0.1"), tmp_path)
        if command.startswith(OF_OTHERS):
            tools.need(command.partition(" ")[0])
        if "harness bundle" in command:
            (tmp_path / "reports").unlink(missing_ok=True)
            ProvenRun(tmp_path).sign()
            if "keygen" in command:
                for name in ("proof.key", "proof.key.pub"):
                    (tmp_path / name).unlink()
        done = run(shlex.split(command.replace("~", str(tmp_path))), tmp_path)
    assert done.returncode == 0, f"`{command}` ended with {done.returncode}:\n{done.stdout}{done.stderr}"


def dry_run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    if argv[0] == "make":
        return run([*argv, "--dry-run"], ROOT)
    return run([*argv, "--collect-only", "-q", "-p", "no:cacheprovider"], ROOT)


def make_report(reports: Path) -> None:
    """A run's leavings, as small as they can be."""
    recorder = Recorder(reports / "runs" / "1" / "record.jsonl", "1", "main")
    recorder.write("run", systemd="private", facts={}, clauses={})
    recorder.end(counts={}, interrupted=False, systemd="private", planned=[], accepted_unproven=[])
    recorder.close()
    summary = {
        "run_id": "1",
        "systemd": "private",
        "verdicts": [],
        "counts": {"proven": 0, "refuted": 0, "unproven": 0},
    }
    (reports / "verdicts.json").write_text(json.dumps(summary))


def example_of(name: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run an example of docs/own-service.md, as it stands there, in a project that has nothing else."""
    reason = why_not_private()
    if reason:
        raise reason
    (example,) = re.findall(
        rf"^```python\n# {name}.py\n(.*?)^```", (ROOT / "docs" / "own-service.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / f"{name}.py").write_text(example)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    # What the set-up has fetched need not be fetched again.
    (tmp_path / ".cache").symlink_to(ROOT / ".cache")
    return run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], tmp_path, timeout_secs=300.0)


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.claim("V13")
@pytest.mark.machine
def test_example_of_a_service_of_ones_own(tmp_path: Path) -> None:
    done = example_of("test_greeter", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 proven, 0 unproven, 0 refuted" in done.stdout


@pytest.mark.machine
@pytest.mark.machine
def test_example_of_a_service_of_debians(tmp_path: Path) -> None:
    """No proof of ours: where Debian's packages cannot be had, the example is unproven, as the document says."""
    done = example_of("test_redis", tmp_path)
    if done.returncode == 3:
        assert "0 proven, 6 unproven, 0 refuted" in done.stdout, done.stdout
        assert "(apt-get install redis-server)" in " ".join(done.stdout.split()), done.stdout
    else:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "6 proven, 0 unproven, 0 refuted" in done.stdout


def shown_help(*argv: str) -> str:
    done = run([sys.executable, "-m", *argv, "--help"], ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_shows_examples() -> None:
    whole = shown_help("harness")
    subcommands = re.findall(r"^    ([a-z-]+)(?:\s|$)", whole, re.MULTILINE)
    assert {"soak", "diagnose", "healthcheck"} <= set(subcommands), whole
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    modules = [target.partition(":")[0].removesuffix(".__main__") for target in scripts.values()]
    assert "examples:" in whole
    for argv in [*(("harness", name) for name in subcommands), *((module,) for module in modules)]:
        assert re.search(r"^examples?:", shown_help(*argv), re.MULTILINE | re.IGNORECASE), f"{argv}: no example"


def test_each_document_is_in_the_site_and_the_start_page_leads_to_what_people_want() -> None:
    """That the links lead somewhere, `make docs` finds out."""
    nav = re.findall(r"- (?:[\w ]+: )?([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(nav) == sorted(["index.md", *(path.name for path in (ROOT / "docs").glob("*.md"))])
    start = (ROOT / "README.md").read_text().partition("\n## ")[0]
    wanted = ["operating", "own-service", "venues", "fleet", "live", "contract", "decisions/0001-transport"]
    assert re.findall(r"\]\(docs/([\w/-]+)\.md\)", start)[1:] == wanted


def test_there_are_commands() -> None:
    assert {"make proofs", "make test", "make buglog"} <= set(commands())
