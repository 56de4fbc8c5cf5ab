"""The dashboard's judgement: what was seen -> page, /healthz, /metrics."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import panel, pressure
from harness.decisions import timestamp
from harness.ledger_view import Deed, Glance, Holding, OpenOrder, Tick
from harness.panel import Caps, EngineConfig, Judged, LogLook, Observation, Trouble, UnitLook, Verdicts
from harness.unit import UnitState
from harness.verdict import Verdict

NOW = 1_800_000_000.0
RUNNING = UnitState("active", "running", "success", 42, 0, 0, 0, "b" * 32, "")
BEAT = {
    "ticks_parsed": 12, "ingest_received": 10, "duplicates": 2, "ingest_processed": 2, "sampled_out": 8,
    "tick_count": 2, "tick_rows_written": 1, "tick_rows_known": 0, "tick_rows_queued": 1, "bp_drops_tick": 0,
    "bp_drops_persist": 0, "signal_count": 1, "trade_count": 1, "loop_lag_ms_p99": 2.5, "wal_bytes": 4096,
}  # fmt: skip
TICKS = [Tick(id, 1_799_999_000_000 + id * 100, "SOL/USDC", 100.0 + id) for id in range(1, 4)]


def psi(cpu: float) -> pressure.Pressure | pressure.Unknown:
    text = "some avg10={:.2f} avg60=0.00 avg300=0.00 total=0"
    return pressure.parse({name: text.format(cpu if name == "cpu" else 0.0) for name in pressure.RESOURCES})


SEEN = Observation(
    at=NOW, refresh_secs=1.0, config=EngineConfig(sample_every=5, caps=Caps(1000.0, 500.0, 3)),
    unit=UnitLook(RUNNING, NOW - 60, rss_bytes=2**20), log=LogLook("SHADOW", 5, BEAT, NOW - 1),
    ledger=Glance(
        TICKS, [Deed(TICKS[1].ts, "SOL/USDC", "BUY", 102.0, "RISK_CAP"), Deed(1, "SOL/USDC", "BUY", 1.0, "")],
        [Deed(TICKS[2].ts, "SOL/USDC", "SELL", 103.0, "0.1")], [Holding("SHADOW", "SOL/USDC", "2", "90")], [],
    ),
    pressure=psi(3.0), ticks_per_sec=20.0, decisions=[], verdicts=Trouble("no run"),
)  # fmt: skip


def unit(**changes: Any) -> UnitLook:
    return UnitLook(replace(RUNNING, **changes), NOW - 5)


def test_a_healthy_engine_has_no_problem() -> None:
    assert panel.problems(SEEN) == []
    assert panel.warnings(SEEN) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"unit": unit(active="failed", result="exit-code", exec_main_code=1, exec_main_status=12)}, "exit 12"),
        ({"unit": unit(active="inactive", sub="dead")}, "stopped"),
        ({"unit": unit(active="activating", sub="auto-restart")}, "waiting to be restarted"),
        ({"unit": Trouble("no bus")}, "unit: no bus"),
        ({"ledger": Trouble("bot.db: database is locked")}, "database: bot.db: database is locked"),
        ({"log": Trouble("no entry")}, "journal: no entry"),
        ({"config": Trouble("config.toml: broken")}, "config: config.toml: broken"),
        ({"log": LogLook()}, "heartbeat: none"),
        ({"log": LogLook("SHADOW", 5, BEAT, NOW - 31)}, "heartbeat: the last is 31 s old, at most 30 s"),
        ({"log": LogLook("SHADOW", 5, {**BEAT, "duplicates": 1}, NOW)}, "books: ticks parsed 12 ≠ received"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], named: str) -> None:
    seen = replace(SEEN, **changes)
    assert named in "\n".join(panel.problems(seen))
    json.dumps(panel.page(seen))


@pytest.mark.claim("N14")
@pytest.mark.parametrize(
    ("skew_ms", "limit_ms", "said"),
    [
        (62_000, 5000, ["clock: the venue's clock is 62 s ahead: every signal is vetoed as stale"]),
        (
            -5_001, 5000,
            ["clock: the venue's clock is 5.0 s behind, or its trades come late: every signal is vetoed as stale"],
        ),
        (62_000, 62_000, []), (-5_000, 5000, []), (0, 5000, []), (None, 5000, []),
    ],
)  # fmt: skip
def test_a_clock_beyond_the_limit_is_wrong(skew_ms: int | None, limit_ms: int, said: list[str]) -> None:
    config = panel.config_of({"engine": {"max_staleness_ms": limit_ms}})
    seen = replace(SEEN, config=config, log=LogLook("SHADOW", 1, {**BEAT, "clock_skew_ms": skew_ms}, NOW))
    assert panel.problems(seen) == said
    samples = {metric.name: samples for metric, samples in panel.metrics(seen)}
    assert samples["hybrid_clock_skew_seconds"] == ([] if skew_ms is None else [("", skew_ms / 1000)])
    # Down, it vetoes nothing.
    assert not any("clock" in line for line in panel.problems(replace(seen, unit=unit(active="inactive"))))


def test_everything_unknown_still_makes_a_page_and_no_zeros() -> None:
    lost = Trouble("gone")
    seen = replace(
        SEEN, config=lost, unit=lost, log=lost, ledger=lost, decisions=lost, verdicts=lost, ticks_per_sec=None,
        pressure=pressure.Unknown("cpu: missing"),
    )  # fmt: skip
    page = panel.page(seen)
    assert page["mode"]["word"] == "unknown"
    assert page["unit"]["word"] == "unknown"
    assert [page[name]["trouble"] for name in ("price", "books", "exposure", "decisions", "verdicts")] == ["gone"] * 5
    assert panel.warnings(seen) == ["pressure: cpu: missing"]
    samples = {metric.name: samples for metric, samples in panel.metrics(seen) if samples}
    assert set(samples) == {
        "hybrid_dashboard_look_timestamp_seconds", "hybrid_database_readable", "hybrid_pressure_limit_ratio"
    }  # fmt: skip
    assert samples["hybrid_database_readable"] == [("", 0.0)]


def test_pressure_is_a_warning_and_no_problem() -> None:
    seen = replace(SEEN, pressure=psi(20.01))
    assert panel.problems(seen) == []
    assert panel.warnings(seen) == ["pressure: CPU 20.01 > 20 % of the time waited"]
    assert [row["over"] for row in panel.page(seen)["pressure"]["rows"]] == [True, False, False]


def test_the_price_line_has_the_marks_of_its_symbol_and_its_time() -> None:
    price = panel.page(SEEN)["price"]
    assert price["points"] == [[tick.ts, tick.price] for tick in TICKS]
    assert [mark["note"] for mark in price["signals"]] == ["RISK_CAP"]
    assert [mark["side"] for mark in price["fills"]] == ["SELL"]


def test_exposure_is_what_the_open_orders_could_make_of_it() -> None:
    assert isinstance(SEEN.ledger, Glance)
    orders = [OpenOrder("SHADOW", "SOL/USDC", "BUY", "1.5", "0.5"), OpenOrder("SHADOW", "SOL/USDC", "SELL", "9", "0"),
              OpenOrder("PAPER", "SOL/USDC", "SELL", "99", "0")]  # fmt: skip
    seen = replace(SEEN, ledger=replace(SEEN.ledger, open_orders=orders))
    # max(2 + 1, 9 - 2) at the latest price, not at that of the last fill.
    assert panel.exposures(seen) == {"SOL/USDC": 7 * 103.0}
    rows = {row["name"]: (row["value"], row["cap"], row["over"]) for row in panel.page(seen)["exposure"]["rows"]}
    assert rows == {
        "all symbols": (721.0, 1000.0, False), "SOL/USDC": (721.0, 500.0, True), "open orders": (2.0, 3.0, False)
    }  # fmt: skip


def test_the_mode_is_what_the_engine_logged_and_live_alarms() -> None:
    assert panel.page(replace(SEEN, log=LogLook("LIVE", 1, BEAT, NOW)))["mode"]["says"].startswith("REAL ORDERS")
    assert panel.page(replace(SEEN, log=LogLook()))["mode"]["word"] == "SHADOW"
    down = panel.page(replace(SEEN, unit=unit(active="inactive")))["mode"]
    assert (down["word"], down["runs"]) == ("SHADOW", False)


def test_an_engine_that_is_down_stores_nothing() -> None:
    assert panel.page(SEEN)["figures"][0]["value"] == "20.0"
    assert panel.page(replace(SEEN, unit=unit(active="inactive")))["figures"][0]["value"] == "0.0"


def test_the_rung_is_that_of_the_running_engine() -> None:
    figure = panel.page(SEEN)["figures"][1]
    assert (figure["value"], figure["note"]) == ("THROTTLE1", "1 of 5 ticks is processed")
    off = replace(SEEN, log=LogLook("SHADOW", 7, BEAT, NOW))
    assert panel.page(off)["figures"][1]["value"] == "off the ladder"


# --- who started it ----------------------------------------------------------------------------------------

STARTED, EXITED, FAILED = (
    "39f53479d3a045ac8e11786248231fbf", "98e322203f7a4ed290d09fe03c09fe15", "d9b373ed55a64feb8242e02dbe79a49c",
)  # fmt: skip


def entry(kind: str, invocation: str, at: float, **more: str) -> dict[str, str]:
    return {"MESSAGE_ID": kind, "INVOCATION_ID": invocation, "__REALTIME_TIMESTAMP": f"{at * 1e6:.0f}", **more}


def restart(at: float) -> dict[str, str]:
    return {"action": "ENGINE_RESTART", "reason": "CPU 58.8 > 20", "timestamp": timestamp(at)}


def test_a_first_start_is_the_operators() -> None:
    assert panel.who_started(RUNNING, [entry(STARTED, "b" * 32, NOW)], [])[0] == "operator"


def test_an_automatic_restart_is_systemds_or_the_watchdogs() -> None:
    again = replace(RUNNING, n_restarts=1)
    before = [
        entry(EXITED, "a" * 32, NOW - 9, EXIT_CODE="exited", EXIT_STATUS="10", COMMAND="ExecStart"),
        entry(FAILED, "a" * 32, NOW - 9, UNIT_RESULT="exit-code"),
    ]
    assert panel.who_started(again, before, []) == ("systemd", "restarted by systemd after exit 10 (NETWORK)")
    bitten = [entry(FAILED, "a" * 32, NOW - 9, UNIT_RESULT="watchdog")]
    assert panel.who_started(again, bitten, [])[0] == "watchdog"
    assert panel.who_started(again, [], [])[0] == "systemd"


def test_a_start_is_the_controllers_only_right_after_it_asked() -> None:
    mine = [entry(STARTED, "b" * 32, NOW)]
    assert panel.who_started(RUNNING, mine, [restart(NOW - 3)]) == (
        "controller", "restarted by the soak controller: CPU 58.8 > 20",
    )  # fmt: skip
    assert panel.who_started(RUNNING, mine, [restart(NOW + 3)])[0] == "operator"
    assert panel.who_started(RUNNING, mine, [restart(NOW - 3600)])[0] == "operator"
    another_between = [entry(STARTED, "a" * 32, NOW - 2), *mine]
    assert panel.who_started(RUNNING, another_between, [restart(NOW - 3)])[0] == "operator"


def test_of_an_engine_that_is_down_it_is_said_how_it_ended() -> None:
    down = replace(RUNNING, active="failed")
    ends = [
        entry(EXITED, "b" * 32, NOW, EXIT_CODE="exited", EXIT_STATUS="12", COMMAND="ExecStart"),
        entry(FAILED, "b" * 32, NOW, UNIT_RESULT="exit-code"),
    ]
    assert panel.who_started(down, ends, []) == ("", "ended: exit 12 (CONFIG)")
    assert panel.who_started(replace(down, active="inactive"), [], []) == ("", "has not run")


# --- verdicts ----------------------------------------------------------------------------------------------


def test_a_guardrail_is_as_good_as_its_worst_proof() -> None:
    rows = [
        Judged("a", ["G0", "C1"], Verdict.PROVEN), Judged("b", ["G0"], Verdict.REFUTED),
        Judged("c", ["exit12"], Verdict.PROVEN), Judged("d", ["N8b", "S10", "S2"], Verdict.UNPROVEN),
    ]  # fmt: skip
    seen = replace(SEEN, verdicts=Verdicts("1800000000-ab", rows, ["V5"], {"b": "/buglog/x#b"}))
    shown = panel.page(seen)["verdicts"]
    assert [(row["clause"], row["verdict"], row["href"]) for row in shown["rows"]] == [
        ("G0", "refuted", "/buglog/x#b"), ("exit12", "proven", ""), ("S2", "unproven", ""), ("S10", "unproven", ""),
    ]  # fmt: skip
    assert shown["counts"] == {"refuted": 1, "unproven": 1, "proven": 2}
    assert shown["at"] == 1800000000.0


# --- the Host header ---------------------------------------------------------------------------------------

NAMES = frozenset({"localhost", "127.0.0.1"})


@pytest.mark.parametrize(
    "header", ["localhost", "localhost:8501", "LOCALHOST:9", "localhost.", "127.0.0.1:8501", "127.0.0.1"]
)
def test_our_own_names_are_allowed(header: str) -> None:
    assert panel.host_allowed(header, NAMES, "127.0.0.1")


def test_the_address_of_the_connection_is_allowed() -> None:
    assert panel.host_allowed("[::1]:8501", NAMES, "::1")
    assert panel.host_allowed("192.0.2.7:8501", NAMES, "192.0.2.7")
    assert not panel.host_allowed("192.0.2.8:8501", NAMES, "192.0.2.7")


@pytest.mark.parametrize(
    "header",
    ["", "evil.example", "evil.example:8501", "localhost.evil.example", "127.0.0.1.evil.example", "[::1]evil:80", "[",
     ":80", "localhost@evil.example", "127.0.0.2"],
)  # fmt: skip
def test_foreign_names_are_refused(header: str) -> None:
    assert not panel.host_allowed(header, NAMES, "127.0.0.1")


@given(st.text(max_size=40))
def test_no_host_header_makes_it_crash(header: str) -> None:
    allowed = panel.host_allowed(header, NAMES, "127.0.0.1")
    assert not allowed or any(name in header.lower() for name in NAMES)


# --- configuration -----------------------------------------------------------------------------------------


def test_the_defaults_are_the_engines() -> None:
    assert panel.listen_of({}) == panel.Listen("127.0.0.1", 8501, 1.0)
    assert panel.config_of({}) == EngineConfig("SHADOW", 1, 10.0, 5_000, Caps(10_000.0, 5_000.0, 10))
    assert panel.config_of({"mode": "LIEV"}).mode == "SHADOW"


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"dashboard": {"port": 0}}, r"dashboard\.port = 0: must be a whole number from 1 to 65535"),
        ({"dashboard": {"port": True}}, r"dashboard\.port = True"),
        ({"dashboard": {"port": "8501"}}, r"dashboard\.port = '8501'"),
        ({"dashboard": {"host": ""}}, r"dashboard\.host = ''"),
        ({"dashboard": {"refresh_seconds": 0}}, r"dashboard\.refresh_seconds = 0"),
        ({"dashboard": {"refresh_seconds": float("nan")}}, r"dashboard\.refresh_seconds = nan"),
        ({"dashboard": {"prot": 1}}, r"dashboard\.prot: unknown key, allowed are host, port, refresh_seconds"),
        ({"dashboard": 5}, "dashboard = 5: must be a table"),
    ],
)
def test_a_wrong_dashboard_table_names_key_value_and_what_is_allowed(tables: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        panel.listen_of(tables)


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"mode": 1}, "mode = 1"),
        ({"engine": {"sample_every": "5"}}, r"engine\.sample_every = '5'"),
        ({"risk_caps": []}, "risk_caps"),
    ],
)
def test_a_wrong_engine_table_is_named(tables: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        panel.config_of(tables)


# --- thinning, staleness -----------------------------------------------------------------------------------


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=300), st.integers(4, 50))
def test_thinning_keeps_the_extremes_and_the_last(prices: list[float], most: int) -> None:
    ticks = [Tick(number, number, "X", price) for number, price in enumerate(prices)]
    kept = panel.thin(ticks, most)
    assert len(kept) <= most + 2
    assert kept[-1] is ticks[-1]
    assert {min(prices), max(prices)} <= {tick.price for tick in kept}
    assert [tick.id for tick in kept] == sorted({tick.id for tick in kept})


def test_what_is_old_is_stale() -> None:
    assert not panel.is_stale(NOW, NOW + 4.9, 1.0)
    assert panel.is_stale(NOW, NOW + 5.1, 1.0)
    assert not panel.is_stale(NOW, NOW + 2.9, 0.1)


# --- metrics -----------------------------------------------------------------------------------------------


def test_every_metric_is_documented_and_no_other() -> None:
    text = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    documented = re.findall(
        r"^\| `(hybrid_\w+?)(_total)?(?:\{(\w+)\})?` \| (gauge|counter) \| (.*) \|$", text, re.MULTILINE
    )
    assert documented == [
        (metric.name, "_total" if metric.kind == "counter" else "", metric.label, metric.kind, metric.help)
        for metric in panel.METRICS
    ]


def test_metric_names_are_in_base_units() -> None:
    # What `promtool check metrics` minds: names, help texts, units; and that a counter alone ends in _total.
    for metric in panel.METRICS:
        assert re.fullmatch(r"hybrid_[a-z]+(_[a-z]+)*", metric.name), metric.name
        assert metric.help.endswith(".")
        assert not re.search(
            r"(_total|_count|_sum|_bucket|_info|_ms|_milliseconds|_percent|_kb|_mb|_minutes)$", metric.name
        )
    assert len({metric.name for metric in panel.METRICS}) == len(panel.METRICS)


def test_metrics_have_what_was_seen() -> None:
    found = {metric.name: dict(samples) for metric, samples in panel.metrics(SEEN)}
    assert found["hybrid_engine_up"] == {"": 1.0}
    assert found["hybrid_engine_mode"] == {"SHADOW": 1.0}
    assert found["hybrid_sample_every"] == {"": 5.0}
    assert found["hybrid_newest_tick_timestamp_seconds"] == {"": TICKS[-1].ts / 1000}
    assert found["hybrid_event_loop_lag_seconds"] == {"": 0.0025}
    assert found["hybrid_wal_bytes"] == {"": 4096.0}
    assert found["hybrid_pressure_ratio"] == {"cpu": 0.03, "memory": 0.0, "io": 0.0}
    assert found["hybrid_exposure_usd"] == {"SOL/USDC": 206.0}
    assert found["hybrid_ticks_received"] == {"": 10.0}
    assert found["hybrid_books_balanced"] == {"": 1.0}
