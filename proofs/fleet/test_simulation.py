"""The simulated fleet: its hosts, its course, its figures, and a small one for real (contract F10)."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.fixtures import bytecode, fleet_parts
from proofs.fixtures.fleet_books import Streamed, compare
from proofs.fixtures.fleet_parts import ROOT, tool, wait
from proofs.simulation import figures, page
from proofs.simulation.__main__ import default_rate, main
from proofs.simulation.figures import Costs, Recovery
from proofs.simulation.hosts import own_namespaces

ROWS = st.lists(st.tuples(st.integers(1, 50), st.sampled_from("ab")), unique_by=lambda row: row[0]).map(sorted)


@given(ROWS)
def test_the_same_rows_are_equal(rows: list[tuple[int, str]]) -> None:
    books = compare("ticks", rows, [list(row) for row in rows])
    assert (books.due, books.lost, books.foreign, books.example) == (len(rows), 0, 0, "")


@given(ROWS.filter(bool), st.data())
def test_whatever_differs_is_counted(rows: list[tuple[int, str]], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    for found, lost, foreign in (
        (rows[:at] + rows[at + 1 :], 1, 0),
        (rows[: at + 1] + rows[at:], 0, 1),
        ([*rows[:at], (rows[at][0], "changed"), *rows[at + 1 :]], 1, 1),
        ([], len(rows), 0),
    ):
        books = compare("ticks", rows, found)
        assert (books.due, books.lost, books.foreign) == (len(rows), lost, foreign)
        assert books.example


def said(start: Any, end: int, *ids: int) -> bytes:
    rows = [[number, 0] for number in ids]
    message = {"instance": "a", "table": "ticks", "from": start, "to": {"id": end}, "columns": ["id"], "rows": rows}
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    ("messages", "rows", "faults"),
    [
        ([said(None, 2, 1, 2), said({"id": 2}, 3, 3)], 3, 0),
        ([said(None, 2, 1, 2), said({"id": 3}, 4, 4)], 3, 1),
        ([said(None, 2, 1, 2), said({"id": 2}, 3, 2, 3)], 4, 1),
        ([said(None, 1, 1), said(None, 1, 1)], 2, 2),
    ],
    ids=["whole", "a message is missing", "a row comes again", "a message comes again"],
)
def test_a_stream_that_is_not_whole_is_told(messages: list[bytes], rows: int, faults: int) -> None:
    streamed = Streamed()
    for message in messages:
        streamed.take(message)
    assert streamed.rows[("a", "ticks")] == rows
    assert len(streamed.faults) == faults


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(0, 9), st.integers(1, 20), st.integers(3, 6))
def test_a_course_has_what_is_asked_for(seed: int, kills: int, cuts: int, engines: int, hosts: int) -> None:
    course = figures.plan(seed, kills, cuts, engines, hosts)
    assert course == figures.plan(seed, kills, cuts, engines, hosts)
    kinds = [one.kind for one in course]
    assert all(kinds.count(kind) == kills for kind in figures.KINDS)
    assert kinds.count("cut") == cuts
    assert all(one.which in range(engines) for one in course if one.kind == "relay")
    drawn = [one.which for one in course if one.kind == "cut" and one.which is not None]
    assert len(drawn) == cuts // 2
    assert max(map(drawn.count, drawn), default=0) <= -(-len(drawn) // hosts)


def test_figures_of_what_was_seen() -> None:
    seen = [Recovery("relay", "relay 1", 1.0, secs) for secs in (1.0, 2.0, 9.0)] + [Recovery("cut", "host-1", 5.0, 3.0)]
    assert figures.recoveries(seen) == {
        "relay": {"times": 3, "p50": 2.0, "p90": 9.0, "max": 9.0},
        "cut": {"times": 1, "p50": 3.0, "p90": 3.0, "max": 3.0},
    }


COSTS = Costs(
    1.5, 50.0, 100.0, 300.0, {"engine": 30.0, "relay": 40.0, "stream": 10.0, "collector": 20.0, "postgres": 30.0}
)


def test_what_a_fleet_needs_is_what_its_rows_cost() -> None:
    need = figures.need(COSTS, 1000, 100.0)
    assert need.rows_a_sec == 150_000
    assert need.messages_a_sec == 3_000
    assert need.wire_mbit == 120
    assert need.stored_gb_a_day == pytest.approx(3888)
    # 150 000 rows at 30 us are 4.5 cores, of which 0.6 may be used each.
    assert (need.cores["postgres"], need.collectors) == (pytest.approx(7.5), 8)
    assert need.cores["engine"] == pytest.approx(5.0)


def test_the_document_follows_from_what_was_measured() -> None:
    text = (ROOT / "docs" / "fleet-growth.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([\d.e+-]+) \|$", text.partition("| what a row costs |")[2], re.MULTILINE)
    values = {name: float(value) for name, value in rows}
    rows_a_tick, rows_a_message, stream_bytes, stored_bytes = list(values.values())[:4]
    cpu_us = {name.partition(",")[0]: value for name, value in values.items() if ", us of a core" in name}
    costs = Costs(rows_a_tick, rows_a_message, stream_bytes, stored_bytes, cpu_us)
    assert "\n".join(page.costs_table(costs)) in text
    assert "\n".join(figures.growth(costs)) in text


@given(st.floats(1, 2000), st.integers(1, 1000))
def test_more_engines_need_no_less(rate: float, engines: int) -> None:
    one, more = figures.need(COSTS, engines, rate), figures.need(COSTS, engines + 1, rate)
    assert more.rows_a_sec > one.rows_a_sec
    assert more.collectors >= one.collectors
    assert all(more.cores[part] > one.cores[part] for part in COSTS.cpu_us)


def test_what_a_computer_carries() -> None:
    assert default_rate(20, 64) == 1000
    assert default_rate(20, 2) == 150
    assert default_rate(200, 1) == 7


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--hosts=2", "--hosts 2: allowed is 3 to 100"),
        ("--engines=0", "--engines 0: allowed is 1 to 200"),
        ("--cut-secs=0", "--cut-secs 0.0: allowed is 0.1 to 3600"),
    ],
)
def test_what_cannot_be_simulated_is_named(argument: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([argument])
    assert reason in capsys.readouterr().err


SMALL = ("--engines=2", "--rate=100", "--seconds=1", "--servers=1", "--seed=1")


@pytest.fixture
def place() -> Iterator[Path]:
    """Where simulations put their files: PostgreSQL's user has to reach it, and a socket's path is short."""
    own_namespaces()
    tool("nats-server")
    fleet_parts.tool("postgres")
    found = fleet_parts.directory_for_ordinary_user()
    yield found
    shutil.rmtree(found)


def simulate(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a small one."""
    return subprocess.Popen(
        [sys.executable, "-m", "proofs.simulation", *SMALL, f"--reports={place / 'reports'}", *arguments], cwd=ROOT,
        env={**bytecode.environ(), "TMPDIR": str(place)}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim("F10", "F1", "F3")
@pytest.mark.programs
def test_a_host_that_is_cut_off_loses_and_repeats_nothing(place: Path) -> None:
    # What a killed one has left.
    left = place / "hybrid-fleet-sim" / "left"
    left.mkdir(parents=True)
    simulation = simulate(place, "--kills=0", "--cuts=1", "--cut-secs=2")
    told, _ = simulation.communicate(timeout=120)
    assert simulation.returncode == 0, told
    found = json.loads((place / "reports" / "fleet-sim.json").read_text())
    assert found["outcome"]["exact"], told
    assert found["outcome"]["rows"]["ticks"] > 200
    assert min(found["outcome"]["rows"].values()) > 0
    # Who is cut off goes on.
    assert found["engines_while_cut_off"] > 0.5
    assert page.markdown(found) == (place / "reports" / "fleet-sim.md").read_text()
    assert list((place / "hybrid-fleet-sim").iterdir()) == []


@pytest.mark.claim("F10")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
@pytest.mark.programs
def test_a_simulation_that_is_ended_leaves_nothing_running(place: Path, number: int) -> None:
    simulation = simulate(place, "--kills=0", "--cuts=0")

    def parts() -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                argv = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if str(place).encode() in argv and int(process.name) != simulation.pid:
                found.append(int(process.name))
        return found

    wait(lambda: len(parts()) > 2, "something of a fleet runs")
    simulation.send_signal(number)
    # SIGKILL leaves a directory to the next one; processes end with their namespace.
    assert simulation.wait(60) == (130 if number == signal.SIGINT else -number)
    wait(lambda: not parts(), "all has ended", 60)
    assert simulation.stdout is not None
    simulation.stdout.close()
