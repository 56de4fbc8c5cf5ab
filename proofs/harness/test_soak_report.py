"""The report of a soak (contract K7)."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.soak import decisions, table
from harness.soak import report as soak_report
from harness.soak.decisions import Decision, SampleLine
from harness.soak.reducer import Action

RUN = "9d02287d-d9ba-4bee-8d6b-3941e0295fea"
BEGUN = 1767973370.0


def decision(at: float, action: Action, reason: str, **facts: object) -> Decision:
    return Decision(
        decisions.timestamp(BEGUN + at), RUN, "realws", "on", "NORMAL", 1, action.value, reason, facts,
    )  # fmt: skip


DECISIONS = [
    decision(0, Action.STARTUP, "Run ID", cpu_some_avg10=62.33, memory_some_avg10=0.0, io_some_avg10=0.0),
    decision(1, Action.ENGINE_RESTART, "Soak Start", soak_phase="start"),
    decision(30, Action.STALL, "Pipeline stalled", ticks_count=153972, seconds_since_progress=45.2),
    decision(30, Action.ENGINE_RESTART, "Restarting due to STALL"),
    decision(60, Action.ENGINE_EXIT, "watchdog <b>", restarted_by="watchdog", result="watchdog"),
    decision(90, Action.COMPLETE, "Soak duration reached", psi="unknown", psi_error="cpu: missing"),
    decision(91, Action.ENGINE_STOP, "Stopping service via systemctl"),
]
SAMPLES = [
    SampleLine(decisions.timestamp(BEGUN + 5 * n), RUN, {
        "tick_id_max": 100 + n, "ticks_per_sec": 2.0,
        "rss_bytes": 40 * 2**20, "sample_every": 1, "loop_lag_ms_p99": None if n < 3 else 1.5, "cpu_some_avg10": 3.0,
        "memory_some_avg10": 0.0, "io_some_avg10": 0.0,
    })
    for n in range(18)
]  # fmt: skip


@pytest.mark.claim("K7")
def test_K7_the_same_run_gives_the_same_page() -> None:
    assert soak_report.render(DECISIONS, SAMPLES) == soak_report.render(DECISIONS, SAMPLES)


@pytest.mark.claim("K7")
def test_K7_the_page_has_outcome_plots_restarts_and_decisions() -> None:
    page = soak_report.render(DECISIONS, SAMPLES)
    assert "<title>Soak COMPLETE" in page
    for title in (
        "Ticks received and processed",
        "Ticks stored",
        "Resident memory",
        "Pressure (PSI)",
        "Rung",
        "Event-loop lag",
    ):
        assert title in page
    assert page.count("<svg") == 6
    assert "1 by controller, 1 by watchdog" in page
    assert "15:42:50 ENGINE_RESTART" not in page.replace("Soak Start", ""), "the start is no restart"
    assert '<path class="mark mark-watchdog"' in page
    # A mark tells its cause, and where to read on.
    assert 'href="#decision-5" title="15:43:50 ENGINE_EXIT: watchdog &lt;b&gt;">5</a>' in page
    assert '<tr id="decision-5">' in page
    assert 'cpu, limit <i class="limit series-0"></i>20' in page
    assert "ticks_count=153972" in page
    assert "unknown: cpu: missing" in page


@pytest.mark.claim("K7")
def test_K7_the_page_is_self_contained_and_escaped() -> None:
    page = soak_report.render(DECISIONS, SAMPLES)
    assert "watchdog <b>" not in page
    assert "watchdog &lt;b&gt;" in page
    for outside in ("<script src", " src=", "http://", "https://", "@import"):
        assert outside not in page


@pytest.mark.claim("K7")
def test_K7_repeated_decisions_are_folded_and_none_is_lost() -> None:
    """A stall and its restart, again and again, are one line; what differs in more than figures is not."""
    rounds = [
        one
        for number in range(5)
        for one in (
            decision(100 + 50 * number, Action.STALL, f"Pipeline stalled for {45 + number}.5 s"),
            decision(101 + 50 * number, Action.ENGINE_RESTART, "Restarting due to STALL"),
        )
    ]
    lines = [*DECISIONS[:2], *rounds, *DECISIONS[2:4], *DECISIONS[4:]]
    page = soak_report.render(lines, SAMPLES)
    assert "STALL, ENGINE_RESTART: the same 4 more times, until 15:47:51" in page
    assert [int(number) for number in re.findall(r'<tr id="decision-(\d+)">', page)] == [*range(1, len(lines) + 1)]
    folded = re.findall(r"<details>.*?</details>", page, re.DOTALL)
    assert len(folded) == 1
    assert re.findall(r'id="decision-(\d+)"', folded[0]) == [str(number) for number in range(5, 13)]
    # Twice is no habit.
    assert "more times" not in soak_report.render([*DECISIONS[:2], *rounds[:4]], SAMPLES)


@pytest.mark.claim("K7")
@pytest.mark.parametrize("begun", [BEGUN, datetime(2026, 1, 9, 23, 59, 30, tzinfo=UTC).timestamp()])
def test_K7_every_time_on_the_page_is_told_by_one_clock(begun: float) -> None:
    """Axis, marks, decisions and what the engine said of its last tick; over midnight all of them tell the day."""
    moved = begun - BEGUN
    lines = [
        decision(datetime.fromisoformat(line.timestamp).timestamp() - BEGUN + moved, Action(line.action), line.reason,
                 **{**line.facts, **({"last_tick_ts": round((begun + 7) * 1000)} if line.action == "STALL" else {})})
        for line in DECISIONS
    ]  # fmt: skip
    page = soak_report.render(lines, [])
    shown = re.sub(
        r'(datetime|title)="\d{4}-[^"]*"|<title>.*?</title>|<dt>started.*?</dd>|<script.*', "", page, flags=re.DOTALL
    )
    whole = r"01-\d\d \d\d:\d\d:\d\d" if moved else r"\d\d:\d\d:\d\d"
    times = re.findall(whole, shown)
    # 6 axes of 5 times, a mark in each for restart, stall and watchdog, a row for each decision, a tick.
    assert len(times) == 6 * (5 + 3) + len(lines) + 1
    assert len(re.findall(r"\d\d?:\d\d", shown)) == len(times), "a time is told in another way"
    said = {f"{datetime.fromtimestamp(begun + at, UTC):{'%m-%d %H:%M:%S' if moved else '%H:%M:%S'}}" for at in (0, 91)}
    assert said <= set(times)
    assert "Every time on this page is UTC" in page
    assert f"last_tick_ts={datetime.fromtimestamp(begun + 7, UTC):{'%m-%d ' if moved else ''}%H:%M:%S}" in shown


@pytest.mark.claim("K7")
def test_K7_the_page_brings_its_data_along() -> None:
    page = soak_report.render(DECISIONS, SAMPLES)
    found = re.findall(r'download="([^"]+)" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)
    assert {name: base64.b64decode(data).decode() for name, data in found} == {
        "soak_report_2026-01-09_9d02287d_decisions.csv": table.as_csv(table.decisions_table(DECISIONS)),
        "soak_report_2026-01-09_9d02287d_samples.csv": table.as_csv(table.samples_table(SAMPLES)),
    }


@pytest.mark.claim("K7")
def test_K7_a_run_that_was_cut_off_says_so() -> None:
    assert "CUT OFF" in soak_report.render(DECISIONS[:4], SAMPLES[:3])


@pytest.mark.claim("K7")
def test_K7_a_run_that_never_began_has_a_report_too() -> None:
    page = soak_report.render([decision(0, Action.CONFIG_ERROR, "config.toml: cannot be read")], [])
    assert "CONFIG_ERROR" in page
    assert "ticks stored</dt><dd>unknown" in page


@pytest.mark.claim("K7")
def test_K7_counters_are_shown_as_rates_and_a_new_run_of_the_engine_as_a_gap() -> None:
    counts = [None, 0, 0, 50, 100, 100, 0, 20, None, 30]
    samples = [
        SampleLine(decisions.timestamp(BEGUN + 5 * n), RUN, {"ingest_received": count})
        for n, count in enumerate(counts)
    ]
    rate = soak_report._rate(samples, BEGUN, "received", "ingest_received")
    assert [(at, value) for at, value in rate.points] == [
        (0, None), (5, None), (15, 5.0), (20, 10.0), (30, None), (35, 4.0), (40, None), (45, None),
    ]  # fmt: skip


@pytest.mark.claim("K7")
def test_K7_a_feed_that_stands_still_is_shown_as_nothing_and_not_as_a_slope() -> None:
    counts = [0, 100, *[100] * 13, 200]
    samples = [
        SampleLine(decisions.timestamp(BEGUN + 5 * n), RUN, {"ingest_received": count})
        for n, count in enumerate(counts)
    ]
    rate = soak_report._rate(samples, BEGUN, "received", "ingest_received")
    assert list(rate.points) == [(0, None), (5, 20.0), (35, 0.0), (65, 0.0), (75, 10.0)]


def head(page: str) -> dict[str, str]:
    """What the page says before the drawings: name -> value."""
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))


@pytest.mark.claim("K7")
def test_K7_the_head_of_the_page_has_the_figures_of_the_run() -> None:
    assert head(soak_report.render(DECISIONS, SAMPLES)) == {
        "run": RUN,
        "started": "2026-01-09 15:42:50 UTC",
        "length": "91 s, 18 polls",
        "feed": "realws",
        "PSI actions": "on",
        "ticks stored": "17",
        "stalls": "1",
        "restarts": "1 by controller, 1 by watchdog",
    }
    unknown = SampleLine(decisions.timestamp(BEGUN + 120), RUN, {"psi": "unknown", "psi_error": "cpu: missing"})
    lines = [
        DECISIONS[0],
        decision(5, Action.ENGINE_EXIT, "exit 10", restarted_by="systemd"),
        decision(6, Action.ENGINE_EXIT, "exit 0", restarted_by="operator"),
        decision(7, Action.ENGINE_EXIT, "exit 12", restarted_by="nobody"),
        decision(8, Action.ENGINE_EXIT, "exit 11", restarted_by="controller"),
        replace(decision(9, Action.ENGINE_RESTART, "Falling back to the mock feed"), ingest_mode="mockws"),
    ]
    assert head(soak_report.render(lines, [*SAMPLES[:2], unknown])) == {
        "run": RUN,
        "started": "2026-01-09 15:42:50 UTC",
        "length": "120 s, 3 polls",
        "feed": "realws then mockws",
        "PSI actions": "on",
        "ticks stored": "1",
        "stalls": "0",
        "PSI unknown": "in 1 of 3 polls",
        "restarts": "1 by systemd, 1 by operator, 1 by controller",
    }
    quiet = head(soak_report.render(DECISIONS[:1], []))
    assert (quiet["length"], quiet["restarts"], quiet["stalls"]) == ("0 s, 0 polls", "none", "0")


def drawings(page: str, seconds: float) -> dict[str, list[list[list[tuple[float, float]]]]]:
    """Title -> lines in their order -> their pieces, in seconds and in units of the axis, as they are drawn."""
    found: dict[str, list[list[list[tuple[float, float]]]]] = {}
    for figure in re.findall(r"<figure.*?</figure>", page, re.DOTALL):
        (title,) = re.findall(r'aria-label="(.*?)"', figure)
        (top, unit) = re.findall(r'style="top:0.00%">([\d.]+)([kMG]?)<', figure)[0]
        scale = float(top) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit]
        lines: dict[str, list[list[tuple[float, float]]]] = {}
        for index, path in re.findall(r'class="line series-(\d)" d="M(.*?)"', figure):
            places = [tuple(map(float, place.split())) for place in path.split("L")]
            lines.setdefault(index, []).append(
                [(round(x * seconds / 1000, 2), round(scale * (1 - y / 1000), 1)) for x, y in places]
            )
        found[title] = [lines[index] for index in sorted(lines)]
    return found


@pytest.mark.claim("K7")
def test_K7_each_drawing_shows_what_was_sampled() -> None:
    known: list[dict[str, object]] = [
        {"ticks_per_sec": 2.0, "rss_bytes": 40 * 2**20, "sample_every": 1, "loop_lag_ms_p99": 1.5,
         "cpu_some_avg10": 50.0, "memory_some_avg10": 6.5, "io_some_avg10": 3.0,
         "ingest_received": 100, "ingest_processed": 100},
        {"ticks_per_sec": 4.0, "rss_bytes": 50 * 2**20, "sample_every": 5, "loop_lag_ms_p99": 2.0,
         "cpu_some_avg10": 25.5, "memory_some_avg10": 8.5, "io_some_avg10": 4.5,
         "ingest_received": 200, "ingest_processed": 120},
        {},
        {"ticks_per_sec": 0.0, "rss_bytes": 45 * 2**20, "sample_every": 20, "loop_lag_ms_p99": 0.5,
         "cpu_some_avg10": 0.0, "memory_some_avg10": 0.0, "io_some_avg10": 0.0,
         "ingest_received": 400, "ingest_processed": 130},
        {"ticks_per_sec": 1, "rss_bytes": 45 * 2**20, "sample_every": 10, "loop_lag_ms_p99": "?",
         "cpu_some_avg10": 1.0, "memory_some_avg10": 1.0, "io_some_avg10": 1.0,
         "ingest_received": 500, "ingest_processed": 135},
    ]  # fmt: skip
    samples = [
        SampleLine(decisions.timestamp(BEGUN + 10 * number), RUN, facts) for number, facts in enumerate(known, start=1)
    ]
    found = drawings(soak_report.render(DECISIONS[:1], samples), 50.0)
    assert found == {
        # At the first of a row there is a count and no rate yet; what is one point alone is drawn as a dot.
        "Ticks received and processed": [
            [[(20, 10), (20, 10)], [(50, 10), (50, 10)]],
            [[(20, 2)] * 2, [(50, 0.5)] * 2],
        ],
        "Ticks stored": [[[(10, 2), (20, 4)], [(40, 0), (50, 1)]]],
        "Resident memory": [[[(10, 40), (20, 50)], [(40, 45), (50, 45)]]],
        "Pressure (PSI)": [
            [[(10, 50), (20, 25.5)], [(40, 0), (50, 1)]],
            [[(10, 6.5), (20, 8.5)], [(40, 0), (50, 1)]],
            [[(10, 3), (20, 4.5)], [(40, 0), (50, 1)]],
        ],
        # Both hold until they change.
        "Rung": [[[(10, 1), (20, 1), (20, 5)], [(40, 20), (50, 20), (50, 10)]]],
        "Event-loop lag": [[[(10, 1.5), (20, 1.5), (20, 2)], [(40, 0.5), (40, 0.5)]]],
    }


@pytest.mark.claim("K7", "K2")
def test_K7_a_decision_is_shown_with_what_its_line_says() -> None:
    page = soak_report.render(DECISIONS, SAMPLES)
    shown = re.sub(r"</?(?:span|time)[^>]*>", "", page).replace("<br>", " ")
    rows = [
        re.findall(r"<td.*?>(.*?)</td>", row)
        for row in re.findall(r'<tr id="decision-\d+">(.*?)</tr>', shown, re.DOTALL)
    ]
    assert rows == [
        ["1", "15:42:50", "NORMAL 1", "STARTUP", "Run ID", "cpu 62.33, memory 0, io 0"],
        ["2", "15:42:51", "NORMAL 1", "ENGINE_RESTART", "Soak Start soak_phase=start", ""],
        ["3", "15:43:20", "NORMAL 1", "STALL", "Pipeline stalled ticks_count=153972 seconds_since_progress=45.2", ""],
        ["4", "15:43:20", "NORMAL 1", "ENGINE_RESTART", "Restarting due to STALL", ""],
        ["5", "15:43:50", "NORMAL 1", "ENGINE_EXIT", "watchdog &lt;b&gt; restarted_by=watchdog result=watchdog", ""],
        ["6", "15:44:20", "NORMAL 1", "COMPLETE", "Soak duration reached", "unknown: cpu: missing"],
        ["7", "15:44:21", "NORMAL 1", "ENGINE_STOP", "Stopping service via systemctl", ""],
    ]


WORDS = ("a", "b", "c", "d", "e")


@pytest.mark.claim("K7")
@pytest.mark.parametrize("rounds", [2, 3, 4])
@pytest.mark.parametrize("period", [1, 2, 3, 4, 5])
def test_K7_rounds_of_up_to_four_decisions_are_folded_from_the_third_on(period: int, rounds: int) -> None:
    again = [
        decision(period * turn + number, Action.STALL, f"{WORDS[number]} after {turn}.5 s", ticks_count=turn)
        for turn in range(1, rounds + 1)
        for number in range(period)
    ]
    end = decision(1000, Action.COMPLETE, "Soak duration reached")
    page = soak_report.render([DECISIONS[0], *again, end], [])
    said = re.findall(r"<summary>(.*?)</summary>", page)
    if period > 4 or rounds < 3:
        assert said == []
    else:
        last = f"{datetime.fromtimestamp(BEGUN + period * rounds + period - 1, UTC):%H:%M:%S}"
        actions = ", ".join(["STALL"] * period)
        assert said == [f"{actions}: the same {rounds - 1} more times, until {last}"]
    assert re.findall(r'id="decision-(\d+)"', page) == [str(number) for number in range(1, period * rounds + 3)]


@pytest.mark.claim("K7")
@pytest.mark.parametrize(
    "other",
    [
        {}, {"action": "ENGINE_EXIT"}, {"state": "THROTTLE1"}, {"ingest_mode": "mockws"}, {"reason": "another 1.5 s"},
        {"facts": {"soak_phase": "start"}}, {"facts": {"restarted_by": "systemd"}},
    ],
)  # fmt: skip
def test_K7_what_differs_in_more_than_figures_is_not_folded(other: dict[str, Any]) -> None:
    alike = [decision(number, Action.STALL, f"still for {number}.5 s", ticks_count=number) for number in range(3)]
    page = soak_report.render([alike[0], replace(alike[1], **other), alike[2]], [])
    assert page.count("<summary>") == (0 if other else 1)


@pytest.mark.claim("K7")
def test_K7_the_longest_fold_is_taken_and_of_equal_ones_the_shortest_round() -> None:
    """Six that are alike are one and its repetitions, not two of three."""
    alike = [decision(number, Action.STALL, f"still for {number} s") for number in range(6)]
    assert "STALL: the same 5 more times" in soak_report.render(alike, [])
    # Three alike at the beginning of three rounds: the rounds fold more.
    kinds = [Action.STALL, Action.STALL, Action.STALL, Action.ENGINE_RESTART] * 3
    lines = [decision(number, kind, "x") for number, kind in enumerate(kinds)]
    assert "STALL, STALL, STALL, ENGINE_RESTART: the same 2 more times" in soak_report.render(lines, [])


@pytest.mark.claim("K7")
@pytest.mark.parametrize(
    ("fact", "value", "told"),
    [
        ("last_tick_ts", 0, "01-01 00:00:00"),
        ("last_tick_ts", 253_402_300_799_999, "12-31 23:59:59"),
        ("last_tick_ts", -1, "-1"),
        ("last_tick_ts", 253_402_300_800_000, "253402300800000"),
        ("last_tick_ts", None, "None"),
        ("last_tick_ts", "soon", "soon"),
        ("ticks_count", 0, "0"),
    ],
)
def test_K7_a_time_of_the_engines_is_told_as_one_where_it_can_be(fact: str, value: object, told: str) -> None:
    lines = [DECISIONS[0], decision(86_400, Action.STALL, "Pipeline stalled", **{fact: value})]
    assert f'<span class="facts">{fact}={told}</span>' in soak_report.render(lines, [])


@pytest.mark.claim("K7")
def test_K7_the_page_has_no_empty_lines() -> None:
    """Of thousands of decisions each would have some."""
    assert not re.findall(r"\n[ \t]*\n", soak_report.render(DECISIONS, SAMPLES).partition("<body>")[2])


@pytest.mark.claim("K7")
@pytest.mark.parametrize("most", [-1, 0, 1])
def test_K7_a_table_that_is_too_large_to_bring_along_is_named(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    length = len(table.as_csv(table.decisions_table(DECISIONS)).encode())
    monkeypatch.setattr(soak_report, "CSV_EMBEDDED_MAX", length + most)
    page = soak_report.render(DECISIONS, [])
    name = "soak_report_2026-01-09_9d02287d_decisions.csv"
    assert (f'download="{name}"' in page) is (most >= 0)
    assert (f"{name} (too large to bring along), 7 lines." in page) is (most < 0)
    assert "_samples.csv" not in page


@pytest.mark.claim("K7")
@pytest.mark.parametrize(("action", "shown"), [(one, one) for one in ("COMPLETE", "STOP", "ABORT", "CONFIG_ERROR")])
def test_K7_the_outcome_is_the_last_that_there_is(action: str, shown: str) -> None:
    lines = [decision(0, Action.STARTUP, "Run ID"), decision(5, Action.STOP, "first"),
             decision(9, Action(action), "the reason"), decision(10, Action.PUT_BACK, "config")]  # fmt: skip
    page = soak_report.render(lines, [])
    assert f"<title>Soak {shown}: 2026-01-09 15:42:50 UTC</title>" in page
    assert '<p class="lead">the reason</p>' in page
