"""A mistyped command line is answered with what was meant (contract U1)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

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
