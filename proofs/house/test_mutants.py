"""`make mutants` breaks what it should, asks whom it should, and reports what came of it (contract V12)."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutants import plan
from mutants.__main__ import broken, readers
from mutants.operators import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]


def changed(source: str, path: str = "engine/x.py") -> dict[str, list[str]]:
    """Operator -> the lines that come of it."""
    found: dict[str, list[str]] = {}
    for mutant in mutants(path, source):
        before, after = source.splitlines(), mutant.text.splitlines()
        lines = [line.strip() for line in after if line not in before]
        found.setdefault(mutant.operator, []).append("; ".join(lines))
    return found


@pytest.mark.claim("V12")
@pytest.mark.parametrize(
    ("source", "operator", "expected"),
    [
        ("ok = a < b", "comparison", ["ok = a <= b"]),
        ("ok = a >= b > c", "comparison", ["ok = a > b > c", "ok = a >= b >= c"]),
        ("ok = a is not None", "comparison", ["ok = a is None"]),
        ("ok = a not in b", "comparison", ["ok = a in b"]),
        ("ok = a == (b != c)", "comparison", ["ok = a != (b != c)", "ok = a == (b == c)"]),
        ("ok = a and b or c", "and and or", ["ok = a or b or c", "ok = a and b and c"]),
        ("ok = not a", "remove not", ["ok = (a)"]),
        ("x = 3", "constant", ["x = 2", "x = 4"]),
        ("x = True", "constant", ["x = False"]),
        ("x = 0.5", "constant", ["x = 2.0"]),
        ("x = a // b", "arithmetic", ["x = a / b"]),
        ("x = min(a, b)", "extreme", ["x = max(a, b)"]),
        ("f(a, b=1, c=d)", "drop argument", ["f(a, c=d)", "f(a, b=1, )"]),
        ("f(a)", "remove statement", ["pass"]),
        ("a.b = c", "remove statement", ["pass"]),
        ("a += c", "remove statement", ["pass"]),
        ("def f():\n    return a", "return None", ["return None"]),
        ("if a:\n    b = c", "negate condition", ["if not (a):"]),
        ("while a:\n    break", "break and continue", ["continue"]),
    ],
)
def test_an_operator_makes_one_small_fault(source: str, operator: str, expected: list[str]) -> None:
    assert changed(source)[operator] == expected


@pytest.mark.claim("V12")
@pytest.mark.parametrize(
    "source",
    [
        '"""What 1 < 2 says."""',
        "def f(a: dict[str, int] | None) -> bool: ...",
        "x: Annotated[int, 3]",
        "@dataclass(frozen=True)\nclass A: ...",
        "from a import b",
        'x = f"{a < 1}"',
    ],
)
def test_what_no_run_can_notice_is_left_alone(source: str) -> None:
    assert changed(source) == {}


@pytest.mark.claim("V12")
def test_a_units_directives_are_taken_out_and_changed() -> None:
    unit = (
        "# a=1\n[Unit]\nDescription=x 1\n[Service]\nRestart=no\nTimeoutStopSec=20\nNoNewPrivileges=yes\nA=b \\\n  c\n"
    )
    found = {(one.where, one.operator, one.text) for one in mutants("systemd/x.service", unit)}
    assert found == {
        ("Service", "remove directive", unit.replace("Restart=no\n", "")),
        ("Service", "other value", unit.replace("Restart=no", "Restart=yes")),
        ("Service", "remove directive", unit.replace("TimeoutStopSec=20\n", "")),
        ("Service", "other value", unit.replace("20", "41")),
        ("Service", "remove directive", unit.replace("NoNewPrivileges=yes\n", "")),
        ("Service", "other value", unit.replace("Privileges=yes", "Privileges=no")),
        ("Service", "remove directive", unit.replace("A=b \\\n  c\n", "")),
        ("Service", "other value", unit.replace("A=b \\\n  c", "A=b \\\n ")),
    }


@pytest.mark.claim("V12")
@pytest.mark.parametrize("path", ["engine/trading/risk.py", "harness/soak/ladder.py", "engine/ingest/session.py"])
def test_each_mutant_of_a_module_is_python_another_text_and_has_a_name_of_its_own(path: str) -> None:
    source = (ROOT / path).read_text()
    found = mutants(path, source)
    assert len(found) > 30
    assert len({mutant.id for mutant in found}) == len(found)
    for mutant in found[:: len(found) // 10]:
        compile(mutant.text, path, "exec")
        assert mutant.text != source
        assert mutant.text.splitlines()[: mutant.line - 1] == source.splitlines()[: mutant.line - 1]


def made(path: str, line: int) -> Mutant:
    return Mutant(path, "f", line, line + 1, "constant", f"{line} -> 0", 1, "", 0, 0, "")


@pytest.mark.claim("V12")
@given(st.integers(0, 30), st.integers(0, 40), st.integers())
def test_a_seed_draws_the_same_mutants_each_once_whatever_else_there_is(total: int, count: int, seed: int) -> None:
    found = [made("a.py", line) for line in range(total)]
    drawn = plan.sample(found, count, seed)
    assert drawn == plan.sample(found[::-1], count, seed)
    assert len(drawn) == len(set(drawn)) == min(count, total)
    assert set(drawn) <= set(found)
    more = plan.sample([*found, made("b.py", 1)], count, seed)
    assert [one for one in more if one in found] == drawn[: len(more) - (made("b.py", 1) in more)]


@pytest.mark.claim("V12")
def test_another_seed_draws_others() -> None:
    found = [made("a.py", line) for line in range(200)]
    drawn = [set(plan.sample(found, 20, seed)) for seed in range(3)]
    assert all(len(one & other) < 15 for one in drawn for other in drawn if one is not other)


@pytest.mark.claim("V12")
def test_who_ran_the_changed_lines_is_asked_first_the_quickest_first() -> None:
    seconds = {"slow": 9.0, "quick": 0.1, "other": 1.0, "i.py::process": 1.0, "i.py::longer": 50.0, "i.py::long": 10.0}
    seconds |= {"j.py::process": 1.0}
    reach = plan.Reach(
        {"a.py": {3: frozenset({"slow", "quick"}), 4: frozenset({"quick", "other"}), 5: frozenset({"elsewhere"})}},
        seconds,
        {"a.py": frozenset({"i.py"})},
        {"a.py": frozenset({"proof"})},
    )
    importers = ["i.py::process", "i.py::long"]
    assert plan.tests_of(made("a.py", 3), reach) == [["quick", "other", "slow"], importers, ["proof"]]
    red = dataclasses.replace(reach, red=frozenset({"quick", "i.py::process"}))
    assert plan.tests_of(made("a.py", 3), red) == [["other", "slow"], ["i.py::long", "i.py::longer"], ["proof"]]
    assert plan.tests_of(made("a.py", 7), reach) == [importers, ["proof"]]
    assert plan.tests_of(made("b.py", 3), reach) == []
    starts = dataclasses.replace(reach, importers={"proofs/fixtures/engine_process.py": frozenset({"j.py"})})
    assert plan.tests_of(made("engine/b.py", 3), starts) == [["j.py::process"]]
    assert plan.tests_of(made("harness/b.py", 3), starts) == []
    assert plan.time_limit_secs(["slow", "quick", "unknown"], seconds) == pytest.approx(60 + 10 * 19.1)
    assert plan.time_limit_secs(["j.py", "i.py::process"], seconds) == pytest.approx(60 + 10 * 2.0)


@pytest.mark.claim("V12")
def test_of_each_unit_who_demands_its_directives_is_asked() -> None:
    """Also of a template, and however quickly the test is over."""
    demands = "proofs/house/test_units.py::test_each_directive_is_demanded"
    units = [f"systemd/{path.name}" for path in (ROOT / "systemd").iterdir() if path.suffix in (".service", ".timer")]
    found = readers(ROOT, [demands, "proofs/house/test_docs.py::test_x", "proofs/engine/test_risk.py::test_y"])
    assert len(units) > 8
    assert [unit for unit in units if demands not in found.get(unit, ())] == []
    assert {test for tests in found.values() for test in tests if test.startswith("proofs/engine/")} == set()


@pytest.mark.claim("V12")
def test_the_report_counts_each_mutant_once() -> None:
    outcomes = {"a": "caught", "b": "timeout", "c": "survived", "d": "survived", "e": "caught"}
    paths = {
        "a": "engine/base/x.py",
        "b": "engine/base/y.py",
        "c": "engine/z.py",
        "d": "engine/z.py",
        "e": "engine/z.py",
    }
    results = [
        {"id": name, "path": paths[name], "outcome": outcome, "reason": ""} for name, outcome in outcomes.items()
    ]
    equivalents = [plan.Equivalent("d", "both are 0 there"), plan.Equivalent("e", "wrongly named: it was caught")]
    report = plan.report(results, equivalents, seed=7)
    assert {name: report[name] for name in ("seed", "tried", "caught", "timeouts", "survived", "equivalent")} == {
        "seed": 7, "tried": 5, "caught": 3, "timeouts": 1, "survived": 1, "equivalent": 1,
    }  # fmt: skip
    assert report["share"] == 0.75
    lines = report["mutants"]
    assert isinstance(lines, list)
    assert [line["id"] for line in lines] == ["c", "a", "b", "d", "e"]
    assert lines[3] == {"id": "d", "path": "engine/z.py", "outcome": "equivalent", "reason": "both are 0 there"}
    assert report["directories"] == [
        {"directory": "engine", "tried": 3, "caught": 1, "survived": 1, "equivalent": 1},
        {"directory": "engine/base", "tried": 2, "caught": 2, "survived": 0, "equivalent": 0},
    ]
    json.dumps(report)


@pytest.mark.claim("V12")
def test_only_what_changed_is_run_again_and_what_is_gone_is_forgotten() -> None:
    one, two, three = (f"proofs/engine/test_{name}.py" for name in ("one", "two", "three"))
    seconds = {f"{one}::a": 1.0, f"{two}::b": 2.0, f"{three}::c": 3.0}
    told = plan.Told("sources", {one: "1", two: "2", three: "3"}, seconds, [f"{two}::b", f"{three}::c"])
    files = {one: "1", two: "new"}
    assert told.changed(files) == [two]
    after = told.updated(files, [{"seconds": {f"{two}::d": 4.0, f"{two}::e": 5.0}, "red": [f"{two}::e"]}])
    assert after.changed(files) == []
    assert (after.red, after.files) == ([f"{three}::c", f"{two}::e"], {**files, three: "3"})
    assert after.of([one, two]).red == [f"{two}::e"]
    assert after.of(files).known([f"{one}::a", f"{two}::b", f"{two}::d", f"{three}::c", ""]) == {
        f"{one}::a",
        f"{two}::d",
    }


@pytest.mark.claim("V12")
def test_the_engine_what_is_decided_and_the_units_are_broken() -> None:
    names = [
        "engine/record.py", "engine/py.typed", "fleet/base/wire.py", "fleet/base/link.py", "harness/soak/ladder.py",
        "harness/machines/machine.py", "systemd/hybrid-relay@.service", "docs/contract.md",
    ]  # fmt: skip
    assert list(broken(names)) == [
        "engine/record.py", "fleet/base/wire.py", "harness/soak/ladder.py", "systemd/hybrid-relay@.service",
    ]  # fmt: skip


@pytest.mark.claim("V12")
@pytest.mark.parametrize(("share", "enough"), [(None, False), (0.9499, False), (0.95, True), (1.0, True)])
def test_a_run_that_judged_nothing_has_shown_nothing(share: object, enough: bool) -> None:
    assert plan.enough(share) is enough
    assert plan.report([], [])["share"] is None


@pytest.mark.claim("V12")
def test_the_red_test_and_its_reason_are_read_from_what_pytest_says() -> None:
    said = "F\n=== short ===\nFAILED proofs/a.py::test_b[x - y] - AssertionError: 1 - 2\nFAILED proofs/a.py::c - no\n"
    assert plan.refuted_by(said) == ("proofs/a.py::test_b[x - y]", "AssertionError: 1 - 2")
    assert plan.refuted_by("ERROR proofs/a.py\n") == ("proofs/a.py", "")
    assert plan.refuted_by("1 passed") == ("", "")


@pytest.mark.claim("V12")
@pytest.mark.parametrize(
    ("said", "ran"),
    [
        ("1 passed\n==== 1 failed, 64 passed, 2 errors in 62.11s (0:01:02) ====\nmake: *** Error 1\n", 67),
        ("3 passed, 9 deselected in 4.00s\n", 3),
        ("no tests ran in 2.46s\n", 0),
    ],
)
def test_how_many_tests_ran_is_read_from_the_last_line(said: str, ran: int) -> None:
    assert plan.ran(said) == ran


@pytest.mark.claim("V12")
def test_each_named_equivalent_is_still_there_and_says_why() -> None:
    named = [
        plan.Equivalent(**one) for one in tomllib.loads((ROOT / "mutants/equivalents.toml").read_text())["equivalent"]
    ]
    paths = {one.id.partition("::")[0] for one in named}
    found = [mutant for path in sorted(paths) for mutant in mutants(path, (ROOT / path).read_text())]
    assert plan.stale(named, found) == []
    assert all(len(one.reason) > 20 for one in named)
    assert plan.stale([plan.Equivalent("gone", "")], found) == ["gone"]


def run_mutants(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mutants", "--in-process", "--jobs", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.claim("V12")
def test_mutants_of_a_module_are_caught_by_its_tests_and_not_asked_about_twice(tmp_path: Path) -> None:
    left = ROOT / ".cache/mutants/copy-of-a-killed-run"
    (left / "engine").mkdir(parents=True, exist_ok=True)
    asked = ("--only", "engine/trading/risk.py", "--count", "2", "--seed", "4", "--output", str(tmp_path))
    risk = ("--tests", "proofs/engine/test_risk.py")
    first = run_mutants(*asked, *risk)
    assert first.returncode == 0, first.stdout + first.stderr
    assert not left.exists()
    report = json.loads((tmp_path / "mutants.json").read_text())
    assert (report["tried"], report["caught"], report["survived"]) == (2, 2, 0)
    assert {one["proof"].partition("::")[0] for one in report["mutants"]} == {"proofs/engine/test_risk.py"}
    assert all(one["reason"] and one["seconds"] > 0 for one in report["mutants"])
    assert "risk.py" in (tmp_path / "mutants.html").read_text()
    again = run_mutants(*asked, *risk)
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads((tmp_path / "mutants.json").read_text())["mutants"] == report["mutants"]
    # Whom nobody knows to reach the lines has nothing to say.
    other = run_mutants(*asked, "--tests", "proofs/house/test_release.py", "--output", str(tmp_path / "other"))
    assert other.returncode == 1
    assert "0 caught (0 hung), 2 survived" in other.stdout
    nobody = run_mutants(*asked, "--tests", "proofs/engine/test_rick.py")
    assert (nobody.returncode, nobody.stdout) == (2, "")
    assert "no test file matches --tests proofs/engine/test_rick.py" in nobody.stderr
