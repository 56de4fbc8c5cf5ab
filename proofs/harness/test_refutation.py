"""A refutation is one block that is read in 30 seconds (contract V6)."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.journal import Entry
from harness.proving import refutation
from harness.proving.refutation import COLUMNS, JOURNAL_LINES, LINES_MAX, Refutation, block, expectation, that_matter
from proofs.fixtures.bytecode import QUICK, environ

pytestmark = pytest.mark.claim("V6")

HERE = {__file__}


def entry(message: str, identifier: str = "engine", level: str = "") -> Entry:
    return Entry(message, "u.service", "", identifier, 1, 0, 0, {"message": message} if level else {}, level=level)


FOUND = Refutation(
    proof="proofs/guardrails/test_exit12.py::test_stays_down[unknown-key]",
    claims={"E2": "* E2 Exit 12 under the real unit.", "exit12": "| exit12 | E2, E3 | the matrix |"},
    expected="last.n_restarts == 0",
    observed="the unit restarted 3 times on exit status 12",
    where="proofs/guardrails/test_exit12.py:57, prove_not_restarted()",
    state="hybrid-engine.service failed/failed result=exit-code status=12 restarts=3",
    set_by="RestartPreventExitStatus= in /etc/systemd/system/u.service.d/90-sabotage.conf",
    journal=[entry(f"line {number}") for number in range(20)],
    printed="",
    again=".venv/bin/pytest 'proofs/guardrails/test_exit12.py::test_stays_down[unknown-key]'",
    look=".venv/bin/python -m harness show p-3fa2b81c --run 1-a",
)


def test_what_a_reader_asks_for_in_this_order() -> None:
    lines = block(FOUND)
    labels = [line[:10].strip() for line in lines if line[:1] not in ("", " ")]
    assert labels == [
        "REFUTED", "claim", "claim", "expected", "observed", "at", "unit", "set by", "journal", "run it aga",
        "look furth",
    ]  # fmt: skip
    text = "\n".join(lines)
    assert "claim     E2 Exit 12 under the real unit." in lines
    assert "claim     exit12 E2, E3 the matrix" in lines
    assert "5 of 20 lines" in text
    assert lines[-3:] == [f"  {FOUND.again}", "look further, also later:", f"  {FOUND.look}"]


def numbered(count: int, word: str = "line") -> str:
    return "\n".join(f"{word} {number}" for number in range(1, count + 1))


FULL = Refutation(
    proof="proofs/guardrails/test_exit12.py::test_stays_down[a-parameter-that-has-no-room-in-a-line]",
    claims={f"E{number}": f"* E{number} {'its words ' * 10}" for number in range(1, 6)},
    expected=numbered(3),
    observed=numbered(9, "a-word-that-is-not-broken-at-its-hyphens " * 3),
    where="proofs/guardrails/test_exit12.py:57, a function whose name has no room there(), and the next one",
    state=numbered(3),
    set_by="",
    journal=[entry(f"{number} " + "y" * 300) for number in range(2)],
    printed=numbered(4),
    again="again",
    look="look\nfurther",
)
HYPHENS = "          a-word-that-is-not-broken-at-its-hyphens\n            a-word-that-is-not-broken-at-its-hyphens\n"
CUT = f"""\
REFUTED   proofs/guardrails/test_exit12.py::test_stays_down[a-parameter-that-...
claim     E1 its words its words its words its words its words its words its ...
claim     E2 its words its words its words its words its words its words its ...
          and E3, E4, E5
expected  line 1
          line 2 [+1 lines]
observed  a-word-that-is-not-broken-at-its-hyphens
            a-word-that-is-not-broken-at-its-hyphens
            a-word-that-is-not-broken-at-its-hyphens  1
{HYPHENS}            a-word-that-is-not-broken-at-its-hyphens  2
          a-word-that-is-not-broken-at-its-hyphens [+20 lines]
at        proofs/guardrails/test_exit12.py:57, a function whose name  [+1 lines]
unit      line 1
          line 2 [+1 lines]
journal   2 lines, the last at the bottom
          engine: 0 {"y" * 60}
            {"y" * 68}
            {"y" * 62}
            [+110]
          engine: 1 {"y" * 60}
            {"y" * 68}
            {"y" * 62}
            [+110]
printed   line 1
          line 2 [+2 lines]
run it again:
  again
look further, also later:
  look\\nfurther"""


def test_what_has_no_room_is_cut_with_a_count() -> None:
    assert "\n".join(block(FULL)) == CUT


def test_tabs_and_lines_stay_and_blanks_at_the_end_do_not() -> None:
    lines = block(dataclasses.replace(FOUND, observed="\n\na\tb\n\n    c\n\n"))
    at = lines.index("observed  a   b")
    assert lines[at + 1] == "              c"


def test_what_has_just_room_is_not_cut() -> None:
    full = dataclasses.replace(
        FULL, claims={f"E{number}": "" for number in range(3)}, expected=numbered(2), observed=numbered(7),
        where="w" * (COLUMNS - 10), state=numbered(2), set_by=numbered(2), printed=numbered(2),
        journal=[entry("y" * (200 - len("engine: "))) for _ in range(5)], proof="p" * (COLUMNS - 10),
    )  # fmt: skip
    told = "\n".join(block(full))
    assert re.findall(r"\[\+.*|\.\.\.$|and E.*", told, re.MULTILINE) == []
    assert [line for line in told.splitlines() if line.split()[:1] == ["and"]] == []
    assert [told.count(word) for word in ("line 7", "line 2", "claim ")] == [1, 5, 3]


ANY = st.text(max_size=3000) | st.text("x", min_size=200, max_size=3000) | st.text("ab \n\t\x1b\u202e", max_size=3000)


@pytest.mark.slow
@given(
    ANY,
    ANY,
    ANY,
    ANY,
    st.dictionaries(st.text(max_size=6), ANY, max_size=8),
    st.lists(st.builds(entry, ANY), max_size=30),
)
def test_at_most_40_lines_of_80_columns(
    proof: str, expected: str, observed: str, rest: str, claims: dict[str, str], journal: list[Entry]
) -> None:
    lines = block(Refutation(proof, claims, expected, observed, rest, rest, rest, journal, rest, "again", "look"))
    assert len(lines) <= LINES_MAX
    assert max(map(len, lines)) <= COLUMNS
    assert not set("\x1b\u202e\r\n") & set("".join(lines))
    assert lines[-3] == "  again"


def test_the_lines_that_matter() -> None:
    """Errors and ends, then warnings and last words, then restarts, then the latest; in their order."""
    entries = [
        entry("bad key", level="ERROR"),
        *(entry(f"chatter {number}") for number in range(30)),
        entry("u.service: Main process exited, code=exited, status=12/n/a", "systemd"),
        entry("u.service: Failed with result 'exit-code'", "systemd"),
        entry("slow", level="WARN"),
        *(entry(f"later {number}") for number in range(30)),
        entry("u.service: Scheduled restart job", "systemd"),
        entry("the last"),
    ]
    assert [one.event for one in that_matter(entries)] == [
        "bad key", "chatter 28", "chatter 29", "u.service: Main process exited, code=exited, status=12/n/a", "slow",
    ]  # fmt: skip
    assert len(that_matter(entries[:3])) == 3
    assert len(that_matter(entries)) == JOURNAL_LINES
    long = block(Refutation("p", {}, "", "", "", "", "", [entry("y" * 1000)], "", "a", "l"))
    assert any("[+" in line for line in long)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # An error, or an end that systemd tells of, before a warning or a start, before the rest.
        (entry("e", level="ERROR"), entry("w", level="WARN")),
        (entry("e", level="CRITICAL"), entry("w", level="WARNING")),
        *((entry(f"u: {what}", "systemd"), entry("w", level="WARN"))
          for what in ("Main process exited", "killed", "dumped", "Failed", "failed", "start timed out", "refused")),
        (entry("u: Failed", "systemd"), entry("Started u", "systemd")),
        *((entry("w", level=level), entry("i", level="INFO")) for level in ("WARN", "WARNING")),
        *((entry(f"{what} u", "systemd"), entry("i", level="INFO"))
          for what in ("Scheduled restart", "Stopped", "Started")),
        # What others say of failures is their word.
        (entry("w", level="WARN"), entry("it failed, was killed and timed out")),
        (entry("Started u", "systemd"), entry("Started it")),
        (entry("Started u", "systemd"), entry("u: Deactivated", "systemd")),
    ],
)  # fmt: skip
def test_of_two_kinds_of_lines_one_matters_more(before: Entry, after: Entry) -> None:
    crowd = [entry(f"{after.message} {word}", after.identifier, after.level) for word in "abcde"]
    for entries in ([before, *crowd], [*crowd, before]):
        assert before in that_matter(entries)
    many = [entry(f"{before.message} {word}", before.identifier, before.level) for word in "abcde"]
    assert that_matter([*many, after]) == many


RESTART = [
    entry("Stopped u.service - A unit.", "systemd"),
    entry("Starting u.service - A unit...", "systemd"),
]
CANNOT = [
    entry("u.service: Failed to locate executable /no/such: No such file or directory", "(such)"),
    entry("u.service: Failed at step EXEC spawning /no/such: No such file or directory", "(such)"),
]


def ended(status: str) -> list[Entry]:
    return [
        entry(f"u.service: Main process exited, code=exited, status={status}", "systemd"),
        entry("u.service: Failed with result 'exit-code'.", "systemd"),
        entry("Failed to start u.service - A unit.", "systemd"),
    ]


@pytest.mark.parametrize(
    ("why", "status"),
    [
        (CANNOT, "203/EXEC"),
        ([entry("a reason"), entry("/bin/sh: 1: exec: /nope: not found")], "127/n/a"),
        ([entry("what", level="INFO"), entry("why", level="INFO")], "12/n/a"),
        ([entry("the first", level="ERROR"), entry("the second", level="ERROR")], "12/n/a"),
    ],
    ids=["not-run", "a-shell", "its-own-words", "its-errors"],
)
@pytest.mark.parametrize("times", [1, 2, 5])
def test_of_a_unit_that_is_restarted_again_and_again_one_reads_why_it_ends(
    why: list[Entry], status: str, times: int
) -> None:
    """systemd says of each end and each start six lines that say nothing of the reason."""
    loop: list[Entry] = [entry("Starting u.service - A unit...", "systemd")]
    for number in range(times):
        if number:
            loop += [entry(f"u.service: Scheduled restart job, restart counter is at {number}.", "systemd"), *RESTART]
        loop += [*(dataclasses.replace(one) for one in why), *ended(status)]
    loop.append(entry(f"u.service: Scheduled restart job, restart counter is at {times}.", "systemd"))
    told = [one.message for one in that_matter(loop)]
    assert told[:3] == [*(one.message for one in why), f"u.service: Main process exited, code=exited, status={status}"]


SOURCE = """
def test_x(engine):
    assert 1 == 2, "no"
    engine.expect(
        engine.count() > 5,
        "too few",
    )
    with pytest.raises(ValueError):
        int("1")
    engine.wait_log("x")
    for one in two:
        assert one
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (3, "1 == 2"), (4, "engine.count() > 5"), (6, "engine.count() > 5"), (8, "with pytest.raises(ValueError):"),
        (9, "int('1')"), (10, "engine.wait_log('x')"), (12, "one"), (99, ""),
    ],
)  # fmt: skip
def test_what_was_expected_is_what_the_line_asks_for(line: int, expected: str) -> None:
    assert expectation(SOURCE, line) == expected
    assert expectation("def", line) == ""


def raiser() -> None:
    raise ValueError("x")


def test_the_proofs_own_line_is_named() -> None:
    with pytest.raises(ValueError, match="x") as error:
        raiser()
    line = inspect.getsourcelines(raiser)[1] + 1
    assert refutation.innermost(error.value, HERE) == (__file__, line, "raiser")
    assert refutation.innermost(ValueError("nowhere"), HERE) is None


SAMPLE = """
import pytest
from hypothesis import given, strategies as st

@pytest.mark.claim("E2")
@pytest.mark.parametrize("case", ["a b"])
def test_wrong(case):
    print("seen on the way")
    value = 3
    assert value == 2, "it was restarted 3 times \\x1b[31m"

@pytest.mark.claim("E3")
@given(st.integers())
def test_property(number):
    assert number < 7
"""


@pytest.mark.slow
@pytest.mark.claim("V8")
@pytest.mark.parametrize("colour", ["yes", "no"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_on_a_terminal_of_80_columns(tmp_path: Path, colour: str, workers: str) -> None:
    """As pytest prints it, with and without colour, with workers too; and both commands do what they say."""
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nhybrid_proofs = true\n")

    def pytest_run(*args: str) -> str:
        argv = [sys.executable, "-m", "pytest", *QUICK, f"--color={colour}", "-n", workers, *args]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environ())
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stdout

    output = pytest_run()
    assert ("\x1b[31m" in output) == (colour == "yes")
    screen = pyte.Screen(COLUMNS, 200)
    pyte.Stream(screen).feed(output.replace("\n", "\r\n"))
    rows = [row.rstrip() for row in screen.display]
    at = rows.index("REFUTED   test_sample.py::test_wrong[a b]")
    assert rows[at + 1 : at + 6] == [
        "claim     E2",
        "expected  value == 2",
        "observed  it was restarted 3 times \\x1b[31m",
        "          assert 3 == 2",
        "at        test_sample.py:10, test_wrong()",
    ]
    assert rows[at + 6] == "printed   seen on the way"
    assert any("number=7" in row for row in rows)
    if colour == "yes":
        assert {screen.buffer[at + 3][column].fg for column in (0, 12)} == {"default", "red"}
    assert "Traceback" not in output
    assert "in test_wrong" in pytest_run("--tb=short")
    # Here the paths are long, and a command is not folded.
    plain = re.sub(r"\x1b\[[\d;]*m", "", output).partition("test_property")[0]
    (look,) = re.findall(r"look further, also later:\n  \S+ -m (.*)", plain)
    shown = subprocess.run(
        [sys.executable, "-m", *look.split()], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environ()
    )
    assert shown.returncode == 0, shown.stderr
    assert "refuted  test_sample.py::test_wrong[a b]" in shown.stdout
    # All that the block leaves out.
    assert '>       assert value == 2, "it was restarted 3 times' in shown.stdout
    assert "seen on the way" in shown.stdout
    unknown = subprocess.run(
        [sys.executable, "-m", "harness", "show", "nobody"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert unknown.returncode == 1
