"""The map in docs/architecture.md is true: who imports whom, who alone touches what, who has a test.

Each rule prints what is wrong and what to write instead.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from harness.proving import contract
from proofs.fixtures.lies import LIES
from proofs.sabotages import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "harness", "fleet", "proofs", "bench")

IMPURE = {"asyncio", "socket", "subprocess", "time", "os", "threading", "pathlib", "shutil", "sqlite3", "signal"}
"""What a pure module may not import: see docs/architecture.md."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

SOLE_IMPORTERS = {
    # library: (packages the rule holds in, the modules that may import it, what everybody else uses)
    "sqlite3": (
        ("engine",),
        {
            f"engine/storage/{name}.py"
            for name in ("gaps", "ledger", "migrations", "opening", "restoring", "rows", "sqlite_codes")
        },
        "the Ledger",
    ),
    "aiosqlite": (("engine",), {"engine/storage/ledger.py"}, "the Ledger"),
    "picows": (("engine",), {"engine/ingest/via_picows.py"}, "a feed"),
    "websockets": (("engine",), {"engine/ingest/via_websockets.py"}, "a feed"),
    "tomllib": (("engine",), {"engine/config/settings.py"}, "Settings"),
    "pydantic": (("engine",), {"engine/config/schema.py", "engine/config/settings.py"}, "Settings"),
    "pydantic_core": (("engine",), set(), "a pydantic model"),
    "sh": (("engine", "harness", "proofs"), {"harness/evidence/shell.py"}, "a Shell, which records"),
    "nats": (
        ("fleet",),
        {f"fleet/{name}.py" for name in ("base/link", "relay/relay", "collector/collector")},
        "a Relay",
    ),
    "psycopg": (("fleet",), {"fleet/collector/store.py", "fleet/collector/collector.py"}, "a Store"),
    "subprocess": (("harness", "fleet"), {"harness/evidence/shell.py"}, "a Shell, which records"),
    "time": (("harness", "fleet"), {"harness/base/clock.py"}, "a Clock"),
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path


def imports(path: Path) -> set[str]:
    """Dotted names of everything a module imports, at any depth of nesting."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def kinds() -> dict[str, str]:
    """Module -> P or I, from the tables of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = {}
    for section, package in (("### engine/", "engine"), ("### harness/", "harness"), ("### fleet/", "fleet")):
        body = text.partition(section)[2].partition("\n#")[0]
        for match in re.finditer(r"^\| `([\w./]+)` \| ([PI]) \|", body, re.MULTILINE):
            found[f"{package}/{match[1]}"] = match[2]
    return found


def test_every_module_is_on_the_map() -> None:
    here = {name for name, _ in modules("engine", "harness", "fleet") if not name.endswith("__init__.py")}
    assert here == set(kinds()), "docs/architecture.md and the modules differ"


TWICE = {
    "HelpFormatter": "engine and harness share no code, and a proof holds that both lay out alike",
    "Recorder": "one writes down what a source says, the other what the harness does",
    "Source": "one is what the file says, the other what the session makes of it",
}
"""Classes whose name stands twice, and why. What a venue calls its own messages is private to its module."""


@pytest.mark.claim("G5")
def test_a_file_of_proofs_has_a_name_of_its_own() -> None:
    """By which the contract's table, the sabotages and the mutants know it."""
    names = Counter(path.name for path in (ROOT / "proofs").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_a_class_has_a_name_of_its_own() -> None:
    homes: dict[str, list[str]] = {}
    for name, path in modules("engine", "harness", "mutants"):
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    twice = {name: places for name, places in homes.items() if len(places) > 1 and name not in TWICE}
    assert not twice, f"a reader would take one for the other: {twice}"


def guide() -> list[str]:
    """The rows of "Where to look" in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## Where to look")[2].partition("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("row", guide(), ids=lambda row: row.split("|")[1].strip()[:40])
def test_the_guide_leads_where_it_says(row: str) -> None:
    _, _, decided, proven, _ = row.split("|")
    for path, name in re.findall(r"`([\w/.-]+/[\w.-]+)`(?:: `([\w.]+)`)?", decided + proven):
        assert (ROOT / path).is_file(), f"{path} is not there"
        scope: list[ast.stmt] = tree(ROOT / path).body if name else []
        for part in filter(None, name.split(".")):
            found = [node for node in scope if isinstance(node, Definition) and node.name == part]
            assert found, f"{path} has no {name}"
            scope = found[0].body
    clauses = re.search(r"\(([\w, ]+)\)\s*$", proven)
    claimed = {
        clause
        for path in re.findall(r"`(proofs/[\w/]+\.py)`", proven)
        for claims in contract.claims_in_source((ROOT / path).read_text()).values()
        for clause in claims
    }
    unclaimed = set(clauses[1].split(", ")) - claimed if clauses else set()
    assert not unclaimed, f"none of the proofs claims {', '.join(sorted(unclaimed))}"


@pytest.mark.parametrize("name", sorted(name for name, kind in kinds().items() if kind == "P"))
def test_pure_module(name: str) -> None:
    impure = tops(ROOT / name) & IMPURE
    assert not impure, f"{name} is pure and may not import {', '.join(sorted(impure))}: take the data as arguments"
    room, stem = Path(name).parts[-2:]
    # Venues, and how they speak, are proven by holding each against the other.
    together = ("test_venues.py",) if room == "venues" or stem == "dialects.py" else ()
    wanted = (f"test_{Path(stem).stem}.py", f"test_{room}_{stem}", *together)
    assert any(path.name in wanted for path in (ROOT / "proofs").rglob("test_*.py")), f"{name} needs {wanted[0]}"


OPERATING = {f"harness/{room}" for room in ("observing", "soak", "dashboard", "upkeep", "diagnosis")}
PROVING = {f"harness/{room}" for room in ("machines", "faults", "bundle", "proving")}
FLEET_KNOWS = {"harness/base", "harness/evidence", "harness/observing", "fleet/base", "fleet/relay", "fleet/collector"}
"""A ledger is looked at as any onlooker does."""


def rooms() -> list[str]:
    """The rooms in the order of the map: none knows those below it."""
    return list(dict.fromkeys(Path(name).parent.as_posix() for name in kinds()))


def arrows(name: str, path: Path) -> Iterator[str]:
    """The modules of engine/, harness/ and fleet/ that a module imports."""
    for dotted in imports(path):
        file = f"{dotted.replace('.', '/')}.py"
        if dotted.partition(".")[0] in ("engine", "harness", "fleet") and (ROOT / file).exists():
            yield file


def test_rooms_know_only_the_rooms_before_them() -> None:
    rank = {room: number for number, room in enumerate(rooms())}
    for name, path in modules("engine", "harness", "fleet"):
        room = Path(name).parent.as_posix()
        for other in arrows(name, path):
            there = Path(other).parent.as_posix()
            assert rank[there] <= rank[room], f"{name} imports {other}, of a room that comes after its own"
            assert not (room in OPERATING and there in PROVING), f"{name} imports {other}: operating needs no proofs"
            assert not (room.startswith("fleet") and there not in FLEET_KNOWS), (
                f"{name} imports {other}: see FLEET_KNOWS"
            )
            assert not (room in PROVING and there in OPERATING), f"{name} imports {other}: proving judges from outside"


def test_no_module_imports_itself_by_others() -> None:
    graph = {name: set(arrows(name, path)) for name, path in modules("engine", "harness", "fleet")}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_engine_and_harness_do_not_know_each_other() -> None:
    for name, path in modules("engine"):
        assert not tops(path) & {"harness", "fleet", "proofs", "bench"}, f"{name}: the engine stands alone"
    for name, path in modules("fleet"):
        assert not tops(path) & {"engine", "proofs", "bench"}, f"{name}: see a ledger as any onlooker does"
    for name, path in modules("harness"):
        assert not tops(path) & {"engine", "fleet", "proofs", "bench"}, (
            f"{name}: the harness judges any engine; see it as a unit, a socket, a database and a journal"
        )


def test_the_second_engine_is_small_and_has_no_code_of_ours() -> None:
    """What it takes to keep the contract can be read in one go (docs/hacking.md)."""
    path = ROOT / "proofs" / "fixtures" / "reference_engine.py"
    texts = [
        node for node in ast.walk(tree(path)) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    told = {number for text in texts for number in range(text.lineno, (text.end_lineno or text.lineno) + 1)}
    lines = enumerate(path.read_text().splitlines(), start=1)
    code = [line for number, line in lines if number not in told and line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 400
    assert not tops(path) & {"engine", "fleet", "harness", "proofs"}


def test_proofs_under_systemd_do_not_import_the_engine() -> None:
    for name, path in modules("proofs"):
        if "proofs.fixtures.engine_unit" in imports(path):
            assert "engine" not in tops(path), f"{name}: judge the installed unit, not the checkout's modules"


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_sole_importer(library: str) -> None:
    packages, allowed, instead = SOLE_IMPORTERS[library]
    for name, path in modules(*packages):
        if library in tops(path):
            assert name in allowed, f"{name} imports {library}; use {instead}"


def test_no_schema_is_made_by_hand() -> None:
    """A model says what a table may hold; what pydantic makes of it is pydantic's own (docs/decisions/0002)."""
    for name, path in modules("engine"):
        for node in ast.walk(tree(path)):
            words = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name | ast.alias) else ""
            named = node.name if isinstance(node, ast.FunctionDef) else words
            assert "core_schema" not in named, (
                f"{name}:{getattr(node, 'lineno', '?')} has {named}: write a pydantic model"
            )


UNDER_THE_UNIT = {"EngineUnit", "SoakRun"}
"""Whoever takes one of these drives the real unit."""

WITHOUT_SABOTAGE = {
    "test_sabotage::test_sabotage_is_caught": "is what runs the sabotages",
    "test_judges::test_judges_of_the_unit_say_no": "is itself what shows that judges can say no",
    "test_judges::test_judges_of_the_controller_say_no": "likewise",
    "test_judges::test_judges_of_a_history_say_no": "likewise",
    "test_judges::test_judges_of_the_dashboard_say_no": "likewise",
    "test_judges::test_judges_of_a_shipped_unit_say_no": "likewise",
    "test_judges::test_a_fault_of_the_unit_that_did_not_land_has_no_receipt": "likewise",
    "test_another_engine::test_a_wait_says_first_that_the_unit_has_ended": "likewise",
    "test_another_engine::test_a_wait_says_first_that_the_unit_has_ended_cleanly": "likewise",
    "test_another_engine::test_an_end_before_ready_and_a_log_of_no_m1_lines_are_told": "likewise",
}
"""Proofs under the unit that have no entry in proofs/sabotages.py, and why they need none."""


def proofs_under_the_unit() -> Iterator[str]:
    for name, path in modules("proofs"):
        if not Path(name).name.startswith("test_"):
            continue
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                annotations = {ast.unparse(one.annotation) for one in node.args.args if one.annotation}
                if annotations & UNDER_THE_UNIT:
                    yield f"{path.stem}::{node.name}"


def test_every_proof_under_the_unit_can_fail() -> None:
    under = set(proofs_under_the_unit())
    sabotaged = {entry.proof for entry in CATALOGUE}
    lied_to = {f"{lie.proof.__module__.rpartition('.')[2]}::{lie.proof.__name__}" for lie in LIES}
    assert under - sabotaged - lied_to == set(WITHOUT_SABOTAGE), (
        "each proof that takes an EngineUnit or a SoakRun needs an entry in proofs/sabotages.py or in "
        "proofs/fixtures/lies.py (contract V4), or a reason in WITHOUT_SABOTAGE"
    )


def test_every_sabotage_fits_the_sources() -> None:
    """A change may leave a sabotage without the code that it replaces: that shows here, not only at night."""
    for entry in CATALOGUE:
        if entry.patch is not None:
            patched = entry.patch.apply((ROOT / entry.patch.module).read_text())
            if entry.patch.module.endswith(".py"):
                compile(patched, f"{entry.id}: {entry.patch.module}", "exec")


def test_every_guardrail_has_a_sabotage() -> None:
    """Each built id of section 11: an entry is about it, or one of a proof that claims it."""
    guardrail = re.compile(r"G\d|[ISL]\d+|exit12|stall|sampling|psi|concurrency")
    listed = contract.listed(tomllib.loads((ROOT / "config" / "contract.toml").read_text()))
    built = {name for name, clause in listed.items() if guardrail.fullmatch(name) and not clause.planned}
    covered = {entry.guardrail for entry in CATALOGUE}
    for entry in CATALOGUE:
        module, _, function = entry.proof.partition("::")
        covered |= set(contract.claims_in_source(next((ROOT / "proofs").rglob(f"{module}.py")).read_text())[function])
    assert len(built) > 20
    assert built <= covered, f"no sabotage for {', '.join(sorted(built - covered))}"


def test_sabotages_are_among_the_guardrails() -> None:
    """`make sabotage` looks for them nowhere else."""
    for name, path in modules("proofs"):
        marked = any(ast.unparse(node) == "pytest.mark.sabotage" for node in ast.walk(tree(path)))
        assert not marked or name.startswith("proofs/guardrails/"), f"{name} is left out of make sabotage"


def calls(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def test_nobody_sleeps_but_the_clock() -> None:
    for name, path in modules("harness", "fleet", "proofs"):
        for number, call in calls(path):
            if call in ("time.sleep", "sleep") and name != "harness/base/clock.py":
                pytest.fail(
                    f"{name}:{number} sleeps; wait for an event with a deadline (harness/base/clock.py, Unit.wait)"
                )


def test_the_engine_is_tested_on_the_loop_that_it_has() -> None:
    """What a socket does is the loop's affair, and they differ: proofs/fixtures/engine_loop.py."""
    for name, path in modules("proofs/engine"):
        for number, call in calls(path):
            if call == "asyncio.run":
                pytest.fail(f"{name}:{number} has a loop of asyncio's own; use engine_loop.run")


def test_nothing_is_skipped_silently() -> None:
    for name, path in modules("proofs"):
        for number, call in calls(path):
            if call in ("pytest.skip", "pytest.xfail", "pytest.importorskip"):
                pytest.fail(f"{name}:{number} calls {call}; raise harness.base.errors.Unavailable, which is unproven")


def test_nobody_signals_a_pid_it_did_not_check() -> None:
    for name, path in modules("engine", "harness", "fleet"):
        for number, call in calls(path):
            if call in ("os.kill", "os.killpg") and name not in {
                "harness/machines/machine.py",
                "harness/evidence/shell.py",
            }:
                pytest.fail(f"{name}:{number} calls {call}; signal through the unit or a Process, which know their PID")


def test_public_docstrings() -> None:
    for name, path in modules("engine", "harness", "fleet"):
        assert ast.get_docstring(tree(path)), f"{name} has no docstring"
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith(
                "_"
            ):
                plain_enum = isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases)
                main = name.endswith("__main__.py")
                hook = node.name.startswith("pytest_")
                documented = bool(ast.get_docstring(node)) or plain_enum or main or hook
                assert documented, f"{name}:{node.lineno} {node.name} has no docstring"
