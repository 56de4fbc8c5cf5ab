"""A mistyped command line is answered with what was meant (contract U1)."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import __main__ as harness_main
from harness import scripts
from harness.__main__ import main
from harness.base import arguments
from harness.base.errors import Unavailable
from harness.base.progress import shortened
from harness.machines import doctor
from harness.machines.machine import why_not_private
from harness.observing import health
from proofs.fixtures.bytecode import environ

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
    assert [shortened(words, chars) for chars in (0, 1, 2, 3)] == ["…", "…", "a…", "as…"]
    assert shortened("a " + "x" * 30, 20) == "a " + "x" * 17 + "…"


WORDS = st.lists(st.text("abc-", min_size=1, max_size=14), min_size=1, max_size=12)


@given(WORDS, st.integers(0, 6), st.integers(-1, 40))
def test_a_line_is_wrapped_between_words_and_what_goes_on_is_indented(
    words: list[str], indent: int, width: int
) -> None:
    line = " " * indent + " ".join(words)
    lines = arguments.wrapped(line, width)
    if len(line) <= width:
        assert lines == [line]
        return
    assert [one.split() for one in lines if not one.strip()] == []
    assert " ".join(lines).split() == words
    for number, one in enumerate(lines):
        wanted = indent + 4 if indent and number else indent
        room = max(0, width - len(one.strip()))
        # A word that has no room behind an indentation is worth more than that.
        indented, alone = len(one) - len(one.lstrip()), len(one.split()) == 1
        begins_too_late = number == 0 and indent + len(words[0]) > width
        assert indented == (min(wanted, room) if alone else wanted) or begins_too_late
        assert len(one) <= width or len(one.split()) == 1
        if number + 1 < len(lines):
            assert len(one) + 1 + len(lines[number + 1].split()[0]) > width, f"there was room for more: {lines}"


def test_nothing_stays_nothing() -> None:
    assert arguments.wrapped("", 10) == [""]
    assert arguments.wrapped(" " * 20, 10) == [" " * 20]


TOLD = """
Says what it does,
and goes on.

The file, for example:
a = 1
  Indented
  stays so.
Not this,
nor that:

  $ x --to y
"""


@pytest.mark.parametrize(
    ("width", "told"),
    [
        (500, ["Says what it does, and goes on.", "", "The file, for example:", "a = 1", "  Indented", "  stays so.",
               "Not this, nor that:", "", "  $ x --to y"]),
        (20, ["Says what it does,", "and goes on.", "", "The file, for", "example:", "a = 1", "  Indented",
              "  stays so.", "Not this, nor that:", "", "  $ x --to y"]),
    ],
)  # fmt: skip
def test_prose_is_paragraphs_and_what_is_indented_stays_a_line(width: int, told: list[str]) -> None:
    assert arguments.HelpFormatter("x", width=width)._fill_text(TOLD, width, "").splitlines() == told


def test_prose_is_no_wider_than_can_be_read() -> None:
    text = "word " * 100
    widest = {
        width: max(map(len, arguments.HelpFormatter("x", width=width)._fill_text(text, width, "").splitlines()))
        for width in (50, 99, 100, 500)
    }
    assert widest == {50: 49, 99: 99, 100: 99, 500: 99}


def _help(width: int) -> arguments.CommandParser:
    parser = arguments.CommandParser(
        prog="prog", formatter_class=lambda prog: arguments.HelpFormatter(prog, width=width), add_help=False
    )
    parser.add_argument("-x", action="store_true", help="where it goes")
    for name in ("--first", "--second-one", "--to"):
        parser.add_argument(name, metavar="A-VALUE", help="what is said of it")
    return parser


@pytest.mark.parametrize(
    ("width", "layout"),
    [
        (59, ["  -x", "    where it goes"]),
        (60, ["  -x                    where it goes"]),
    ],
)
def test_in_a_narrow_terminal_what_a_flag_does_stands_below_it(width: int, layout: list[str]) -> None:
    told = _help(width).format_help().splitlines()
    begin = told.index(layout[0])
    assert told[begin : begin + len(layout)] == layout


def test_a_usage_has_no_more_lines_than_it_needs_and_cuts_no_flag_from_its_value() -> None:
    groups = ["usage:", "prog", "[-x]", "[--first A-VALUE]", "[--second-one A-VALUE]", "[--to A-VALUE]"]
    for width in range(12, 90):
        usage = _help(width).format_usage().rstrip("\n")
        lines = usage.splitlines()
        if width < 2 + max(map(len, groups)):
            assert [line for line in lines if len(line) > width and len(line.split()) > 1] == []
            continue
        assert " ".join(usage.split()) == " ".join(groups)
        assert [line for line in lines if line.count("[") != line.count("]")] == []
        assert max(map(len, lines)) <= width
        # argparse's own layout, where that has room, aligns what goes on with the first flag.
        if len(lines) > 1 and lines[1].startswith("  ["):
            spare = [
                width - len(line) - 1 - len(re.findall(r"\[.*?\]", below)[0])
                for line, below in itertools.pairwise(lines)
            ]
            assert spare[0] < 2, usage
            assert all(one < 0 for one in spare[1:]), usage


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


AS_NOBODY = """
import os, sys
from harness.machines import doctor
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for one in doctor.examine():
    print(one.subject, one.ok, one.detail, one.remedy, sep="|")
"""


def test_the_doctor_says_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor._checkout().ok
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "reports").touch()
    found = doctor._checkout()
    assert (found.ok, found.needed, found.detail) == (False, True, f"cannot write {tmp_path}/reports: Not a directory")


@pytest.mark.parametrize("sign", '$"`\\')
def test_the_doctor_says_where_no_program_of_an_environment_can_be_run(
    sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", f"/home/a{sign}b/.venv")
    found = doctor._checkout()
    assert not found.ok
    assert f"a{sign}b" in found.detail


def test_the_doctor_sends_nobody_to_a_manager_that_does_not_run() -> None:
    if os.geteuid() != 0:
        raise Unavailable("to become somebody else takes root", "run as root")
    argv = [sys.executable, "-c", AS_NOBODY]
    environment = environ() | {"XDG_RUNTIME_DIR": "/nowhere"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    rows = {line.partition("|")[0]: line for line in done.stdout.splitlines()}
    assert rows["user systemd"].startswith("user systemd|False|no user manager runs")
    assert rows["private systemd"] == "private systemd|False|a private systemd needs root|run as root"
    assert rows["checkout"].startswith(f"checkout|False|cannot write {ROOT}/reports: Permission denied|")


@pytest.mark.machine
@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("sys_admin", "nobody may enter a namespace here: nsenter: "),
        ("dac_override", "ended while it booted; its console: mkdir: cannot create directory"),
    ],
)
def test_the_doctor_boots_a_machine_and_says_why_there_is_none(missing: str, says: str) -> None:
    if reason := why_not_private():
        raise reason
    without = ["setpriv", f"--bounding-set=-{missing}", f"--inh-caps=-{missing}"]
    argv = [*without, sys.executable, "-m", "harness", "doctor", "--json"]
    done = subprocess.run(argv, cwd=ROOT, env=environ(), capture_output=True, text=True, timeout=60)
    (found,) = [one for one in json.loads(done.stdout) if one["subject"] == "private systemd"]
    assert (done.returncode, found["ok"], says in found["detail"]) == (1, False, True), found
    assert found["remedy"]


@pytest.mark.parametrize("sign", '$"`\\')
def test_a_checkout_in_whose_path_a_shell_would_read_is_refused_at_once(tmp_path: Path, sign: str) -> None:
    place = tmp_path / f"a {sign}b"
    for pattern in ("Makefile", "pyproject.toml", "requirements/*.txt", "distributions/*/pyproject.toml"):
        for path in ROOT.glob(pattern):
            copied = place / path.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copied)
    done = subprocess.run(["make", "-s", "doctor"], cwd=place, capture_output=True, text=True, timeout=60)
    first, *rest = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert first == 'nothing works in a directory with one of $ " ` \\ in its path: move this checkout'
    assert [re.sub(r"\[\d+\]", "", line.partition(":")[0]) for line in rest] == ["make"]
    assert not (place / ".venv").exists()


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
