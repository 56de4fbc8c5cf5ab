"""A mistyped command line is answered with what was meant (contract U1)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import __main__ as harness_main
from harness import scripts
from harness.__main__ import main
from harness.base import arguments
from harness.base.progress import shortened
from harness.machines import doctor
from harness.observing import health

pytestmark = pytest.mark.claim("U1")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["dashbord"], "there is no command 'dashbord'; did you mean dashboard?"),
        (["zzz"], "there is no command 'zzz'\n"),
        (["buglog", "--repots", "x"], "unrecognized arguments: --repots x; did you mean --reports?"),
        (["buglog", "--repots=x"], "did you mean --reports?"),
        # Abbreviations are another flag's tomorrow.
        (["buglog", "--repo", "x"], "did you mean --reports?"),
        (["verify", "a", "--zzz"], "unrecognized arguments: --zzz\n"),
        (["publish", "--ot", "x"], "did you mean --to?"),
    ],
)
def test_a_mistyped_command_line_is_answered(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_script_of_its_own_answers_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        health.main(["--jsno"])
    assert "unrecognized arguments: --jsno; did you mean --json?" in capsys.readouterr().err


def test_what_is_right_is_read_as_ever() -> None:
    parser = arguments.CommandParser(prog="x")
    parser.add_argument("--to")
    assert parser.parse_args(["--to", "--from"[2:]]).to == "from"


def test_what_is_cut_is_cut_between_words() -> None:
    words = "as long as it fits, and then not"
    assert shortened(words, len(words)) == words
    assert shortened(words, 20) == "as long as it fits,…"
    assert shortened(words, 19) == "as long as it…"
    assert shortened("a " + "x" * 30, 20) == "a " + "x" * 17 + "…"


def test_make_help_is_grouped_and_no_wider_than_the_terminal() -> None:
    for columns in (40, 80):
        told = subprocess.run(
            ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True,
            env={"PATH": "/usr/bin:/bin", "COLUMNS": str(columns)}, timeout=60,
        ).stdout  # fmt: skip
        too_long = [line for line in told.splitlines() if len(line) > columns]
        assert all(len(line.split()) <= (1 if line.startswith(" " * 17) else 3) for line in too_long)
        assert (
            told.index("\nProve\n") < told.index("make proofs") < told.index("\nOperate\n") < told.index("make doctor")
        )
        described = [line.split("## ")[1] for line in (ROOT / "Makefile").read_text().splitlines() if ":  ## " in line]
        assert all(" ".join(text.split()) in " ".join(told.split()) for text in described)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_doctor_keeps_to_the_terminal(columns: int) -> None:
    findings = [
        doctor.Requirement("pressure (PSI)", False, "this kernel counts no pressure", "boot with psi=1, then again"),
        doctor.Requirement("tools", True, "unshare, nsenter, setpriv, mount, make and git are here"),
    ]
    lines = doctor.report(findings, colour=False, columns=columns).splitlines()
    assert max(map(len, lines)) <= columns
    told = " ".join(" ".join(lines).split())
    for words in ("missing pressure (PSI) this kernel counts no pressure -> boot with psi=1, then again",
                  "Proofs that need pressure (PSI) will be unproven here."):  # fmt: skip
        assert words in told


COLUMNS = 40

SHIPPED = tomllib.loads((ROOT / "distributions/hybrid-harness/pyproject.toml").read_text())["project"]["scripts"]
BELOW = {
    "ctl": ["list", "health", "targets", "check-config", "start", "stop", "restart"],
    "bundle": ["keygen", "sign", "verify", "show"],
}
OF_HARNESS = ["doctor", "buglog", "show", "verify", "contract", *harness_main._ELSEWHERE]

PROGRAMS: dict[str, tuple[Callable[[], int], list[str]]] = {
    **{name: (getattr(scripts, target.partition(":")[2]), [name]) for name, target in SHIPPED.items()},
    **{f"hybrid-ctl {word}": (scripts.ctl, ["hybrid-ctl", word]) for word in BELOW["ctl"]},
    "python -m harness": (main, ["harness"]),
    **{f"python -m harness {word}": (main, ["harness", word]) for word in OF_HARNESS},
    **{
        f"python -m harness {name} {word}": (main, ["harness", name, word])
        for name, words in BELOW.items()
        for word in words
    },
}
"""What is shipped with the harness -> its entry, and the words of its command."""


def cut(told: str) -> list[str]:
    """The lines in which a terminal of COLUMNS would cut a word that has room in a line of its own."""
    long = [line for line in told.splitlines() if len(line) > COLUMNS]
    return [line for line in long if len(line.split()) > 1 or len(line.strip()) <= COLUMNS]


def test_the_table_has_every_program_and_command() -> None:
    listed = set(re.findall(r"^    ([a-z-]+)(?:\s|$)", harness_main._parser([]).format_help(), re.MULTILINE))
    assert listed == set(OF_HARNESS)
    for name, words in BELOW.items():
        parser = harness_main._parser([name])
        assert set(parser._commands()[name]._commands()) == set(words)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_helps_at_40_columns_and_knows_what_was_meant(
    program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, words = PROGRAMS[program]

    def typed(*more: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit) as ended:
            entry()
        return ended.value.code, "".join(capsys.readouterr())

    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    status, told = typed("--help")
    assert status == 0
    assert not cut(told), told
    flag = max(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", told, re.MULTILINE), key=len)
    # Whatever else the program would ask for: the mistyped flag is what it complains of.
    places = re.findall(r"^  ([A-Z]+)$", told.partition("positional arguments:")[2].partition("\n\n")[0], re.MULTILINE)
    required = {"bundle sign": ["--key", "k"], "bundle verify": ["--trust", "k"]}.get(
        program.partition("harness ")[2], []
    )
    wrong = flag[:3] + flag[4:]
    # What follows another one's command is that one's own.
    if "COMMAND" not in told:
        status, said = typed(*["x" for _ in places], *required, wrong)
        assert status == 2
        assert f"did you mean {flag}?" in " ".join(said.split()), said


@pytest.mark.slow
@pytest.mark.parametrize("command", [[], ["gaps"], ["venues"], ["record"]])
def test_the_engine_helps_at_40_columns_and_knows_what_was_meant(command: list[str]) -> None:
    def typed(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "engine", *command, *more], cwd=ROOT, capture_output=True, text=True, timeout=60,
            env={**os.environ, "COLUMNS": str(COLUMNS)},
        )  # fmt: skip

    told = typed("--help")
    assert told.returncode == 0
    assert not cut(told.stdout), told.stdout
    mistyped = typed("--sourcs", "x") if command != ["venues"] else typed("--jsn")
    assert mistyped.returncode == 12
    assert f"the nearest known one is {'--json' if command == ['venues'] else '--sources'}" in mistyped.stdout


@pytest.mark.slow
def test_pytest_knows_which_option_was_meant() -> None:
    for wrong, meant in (("--systemdd=private", "--systemd"), ("--acept-unproven", "--accept-unproven")):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", wrong], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 4
        assert f"{wrong.partition('=')[0]}: did you mean {meant}?" in done.stderr, done.stderr


def test_a_choice_that_is_none_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["soak", "--mode", "repaly"])
    assert "did you mean replay?" in capsys.readouterr().err
