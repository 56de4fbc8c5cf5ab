"""The bench: what it makes of figures, and that it can measure at all. Never how fast anything is."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__, limit, load, relaying, report, subject, targets
from bench.report import Figure, Target
from bench.subject import Load
from engine.config import settings
from harness.machines import tools


def test_ratios_are_taken_round_by_round() -> None:
    assert report.ratios([3.0, 8.0], [2.0, 4.0]) == [1.5, 2.0]


@pytest.mark.parametrize(("of", "to"), [([1.0], [0.0]), ([1.0, 2.0], [1.0])])
def test_a_ratio_without_its_other_side_is_refused(of: list[float], to: list[float]) -> None:
    with pytest.raises(ValueError, match=r"zero|shorter"):
        report.ratios(of, to)


@pytest.mark.parametrize(
    ("relation", "value", "held"), [(">=", 0.6, True), (">=", 0.7, False), ("<=", 0.6, True), ("<=", 0.5, False)]
)
def test_the_median_is_held_against_the_target(relation: str, value: float, held: bool) -> None:
    figure = Figure("T1", "a / b", "x", [0.1, 0.6, 9.0], Target(relation, value))  # type: ignore[arg-type]
    assert figure.median == 0.6
    assert figure.held is held
    assert ("NOT HELD" in report.line(figure)) is not held


def test_a_figure_without_a_target_has_no_verdict() -> None:
    figure = Figure("T1n", "a / b", "x", [2.0])
    assert figure.held is None
    assert "HELD" not in report.line(figure).upper()


@pytest.mark.parametrize("rounds", [[], [float("nan")], [1.0, float("inf")]])
def test_a_figure_of_nothing_is_refused(rounds: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        Figure("T1", "a / b", "x", rounds)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1), st.floats(0, 1))
def test_a_quantile_is_one_of_the_values_and_has_its_share_below(values: list[float], q: float) -> None:
    found = report.quantile(values, q)
    assert found in values
    assert sum(value <= found for value in values) >= q * len(values)


@given(st.floats(1, 1e6), st.lists(st.floats(0.01, 1), min_size=2, max_size=30))
def test_a_steady_rate_is_found_between_any_two_looks(rate: float, gaps: list[float]) -> None:
    at, progress = 0.0, []
    for gap in gaps:
        at += gap
        progress.append((at, round(rate * at * 1000)))
    end = progress[-1][1]
    assert report.rate_between(progress, end // 4, end) == pytest.approx(rate * 1000, rel=0.2)


def test_a_rate_up_to_what_was_never_reached_is_refused() -> None:
    with pytest.raises(ValueError, match="never reached"):
        report.rate_between([(1.0, 10)], 0, 11)


def test_the_drawing_is_svg_and_shows_each_round_of_what_has_a_target() -> None:
    figures = [Figure("T1", "a & b", "x", [0.5, 0.7, 0.9], Target(">=", 0.6)), Figure("T1n", "c", "x", [4.0])]
    drawing = ElementTree.fromstring(report.svg(figures))
    dots = [one.get("class") for one in drawing.iter("{http://www.w3.org/2000/svg}circle")]
    assert dots == ["missed", "held", "held", "median held"]


def trade_id(form: str, message: dict[str, Any]) -> int:
    if form == "mock":
        return int(message["event_id"].rsplit("-", 1)[1])
    return int(message["data"]["a"] if form == "combined" else message["t"])


def test_markets_come_in_turn_and_each_counts_for_itself() -> None:
    stream = b"".join(load.blocks(5, "trade", 2))
    size = int.from_bytes(stream[2:4], "big") + 4
    told = [json.loads(stream[at + 4 : at + size]) for at in range(0, len(stream), size)]
    first = load.FIRST_ID
    assert [(one["s"], one["t"] - first) for one in told] == [
        ("M0000USDT", 0), ("M0001USDT", 0), ("M0000USDT", 1), ("M0001USDT", 1), ("M0000USDT", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("form", load.FRAMES)
def test_the_load_is_whole_frames_with_consecutive_ids(form: str) -> None:
    ticks = load.BLOCK_FRAMES + 3
    stream = b"".join(load.blocks(ticks, form))
    ids = []
    while stream:
        assert stream[:2] == b"\x81\x7e"
        size = int.from_bytes(stream[2:4], "big")
        message, stream = json.loads(stream[4 : 4 + size]), stream[4 + size :]
        ids.append(trade_id(form, message))
    assert ids == list(range(load.FIRST_ID, load.FIRST_ID + ticks))


def test_an_unknown_target_is_a_mistake_in_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["--only", "T99"])
    assert stopped.value.code == 2
    assert "T1" in capsys.readouterr().err


def test_a_tiny_run_measures_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny(plan: targets.Plan) -> list[Figure]:
        run = targets.measure(plan, targets.floor_argv(), Load(2000))
        assert run.rss_bytes
        return [Figure("T1", "rate", "/s", [run.rate])]

    monkeypatch.setitem(targets.TARGETS, "T1", [tiny])
    written = tmp_path / "bench.json"
    assert __main__.main(["--only", "T1", "--rounds", "1", "--dir", str(tmp_path), "--json", str(written)]) == 0
    assert "rate" in capsys.readouterr().out
    figure = json.loads(written.read_text())["figures"][0]
    assert figure["min"] == figure["median"] == figure["max"] > 0
    assert written.with_suffix(".svg").exists()


def test_the_floor_in_c_stores_what_the_floor_stores(tmp_path: Path) -> None:
    binary = limit.build(tmp_path)
    if binary is None:
        assert not (shutil.which("cc") and Path("/usr/include/sqlite3.h").exists())
        return
    stored = []
    for name, argv in (("c", limit.argv(binary, 10, 512)), ("python", targets.floor_argv(10, 512))):
        directory = tmp_path / name
        directory.mkdir()
        subject.run(argv, subject.Load(1000), directory)
        with contextlib.closing(sqlite3.connect(directory / "ticks.db")) as connection:
            stored.append([connection.execute(sql).fetchall() for sql in (
                "SELECT id, symbol, price, volume, trade_id FROM ticks",
                "SELECT event_id, tick_id, kind, size, price FROM signals",
                "SELECT id, order_id, qty, price, seq, status, reason, detail, mode, signal_id FROM orders",
                "SELECT event_id, fill_qty, fill_price, fees_exact, cash_delta FROM trades",
                "SELECT mode, symbol, qty, cash, fees, price FROM positions",
                "SELECT name, stream, number, first_trade_id, last_trade_id, missing FROM sources",
            )])  # fmt: skip
    assert stored[0] == stored[1]
    assert [len(rows) for rows in stored[0]] == [1000, 100, 100, 100, 1, 1]


def test_without_a_compiler_there_is_no_floor_in_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert limit.build(tmp_path) is None


def test_how_quickly_each_venue_is_read_is_measured(tmp_path: Path) -> None:
    plan = targets.Plan(1, 1, 1, 1, 1, tmp_path, "python", lambda _: None, lambda _: None)
    figures = targets.reading(plan)
    assert [figure.what.split()[1] for figure in figures] == [
        "bitstamp",
        "bybit",
        "coinbase",
        "gemini",
        "kraken",
        "okx",
    ]
    assert all(figure.median > 0 for figure in figures)


@pytest.mark.programs
def test_an_engine_is_measured_beside_a_relay(tmp_path: Path) -> None:
    tools.need("nats-server")
    told: list[str] = []
    plan = targets.Plan(1, 5000, 1, 1, 1, tmp_path, "python", told.append, lambda _: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "RATE", 2000)
        patch.setattr(targets, "WARM_TICKS", 2000)
        # Beside other tests nobody else always wants the processor.
        patch.setattr(relaying, "LAST", ())
        figures = targets.beside_relay(plan)
    assert len(figures) == 8, told
    assert all(figure.median > 0 for figure in figures)


@pytest.mark.programs
def test_a_relay_is_measured(tmp_path: Path) -> None:
    tools.need("nats-server")
    plan = targets.Plan(1, 3000, 1, 1, 1, tmp_path, "python", lambda _: None, lambda _: None)
    core, clock = targets.relaying_rows(plan)
    assert core.median > 0
    assert clock.median > 0


def test_what_must_not_grow_with_the_database_is_measured(tmp_path: Path) -> None:
    plan = targets.Plan(1, 1, 1, 20_000, 1, tmp_path, "python", lambda _: None, lambda _: None)
    stall, page, start, *_ = targets.sizes(plan)
    assert {figure.id for figure in (stall, page, start)} == {"T6"}
    assert min(figure.median for figure in (stall, page, start)) > 0


def test_an_engine_of_many_sources_and_markets_is_configured(tmp_path: Path) -> None:
    argv = targets.engine_argv(sources=3, markets=2)("ws://127.0.0.1:9", tmp_path)
    loaded = settings.load(argv[argv.index("--config") + 1], {})
    assert [source.name for source in loaded.sources] == ["bench", "bench2", "bench3"]
    assert loaded.sources[2].markets == {"M0000USDT": "M0000/USDT", "M0001USDT": "M0001/USDT"}


def test_memory_grows_from_where_the_run_is_warm() -> None:
    rss = [(at / 10, 1000 + (500 if at < 20 else 600 + at)) for at in range(100)]
    run = subject.Run(ticks=100, seconds=10, progress=[(2.0, 20), (10.0, 100)], rss_bytes=rss)
    assert targets._growth(run, 20) == pytest.approx(96 - 21, abs=2)
