"""The dashboard's judgement: what was seen -> page, /healthz, /metrics."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.base import jsontext, pressure
from harness.base.unit import UnitState
from harness.dashboard import view_model
from harness.dashboard.view_model import (
    EngineConfig,
    Judged,
    LogSnapshot,
    Observation,
    RiskLimits,
    Trouble,
    UnitSnapshot,
    Verdicts,
)
from harness.evidence.verdict import ClauseId, Verdict
from harness.observing.ledger_view import Holding, LedgerSnapshot, Marker, OpenOrder, StoredTick, Tally
from harness.proving import contract
from harness.soak.decisions import timestamp
from proofs.harness.test_jsontext import ANYTHING, strict

NOW = 1_800_000_000.0
RUNNING = UnitState("active", "running", "success", 42, 0, 0, 0, "b" * 32, "")
BEAT = {
    "ticks_parsed": 12, "ingest_received": 10, "duplicates": 2, "ingest_processed": 2, "sampled_out": 8,
    "tick_count": 2, "tick_rows_written": 1, "tick_rows_known": 0, "tick_rows_queued": 1, "bp_drops_tick": 0,
    "bp_drops_persist": 0, "signal_count": 1, "trade_count": 1, "loop_lag_ms_p99": 2.5, "wal_bytes": 4096,
}  # fmt: skip
TICKS = [StoredTick(id, 1_799_999_000_000 + id * 100, "SOL/USDC", 100.0 + id) for id in range(1, 4)]


def psi(cpu: float, minute: float = 0.0) -> pressure.Pressure | pressure.Unknown:
    calm, text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", f"some avg10={cpu:.2f} avg60={minute:.2f}"
    return pressure.parse({"cpu": f"{text} avg300=0.00 total=0", "memory": calm, "io": calm})


LEDGER = LedgerSnapshot(
    TICKS, [Marker(TICKS[1].ts, "SOL/USDC", "BUY", 102.0, "RISK_CAP"), Marker(1, "SOL/USDC", "BUY", 1.0, "")],
    [Marker(TICKS[2].ts, "SOL/USDC", "SELL", 103.0, "0.1")], [Holding("SHADOW", "SOL/USDC", "2", "90")], [],
)  # fmt: skip
LOG = LogSnapshot("SHADOW", 5, BEAT, NOW - 1)

SEEN = Observation(
    at=NOW, refresh_secs=1.0, config=EngineConfig(sample_every=5, caps=RiskLimits(1000.0, 500.0, 3)),
    unit=UnitSnapshot(RUNNING, NOW - 60, rss_bytes=2**20), log=LOG,
    ledger=LEDGER,
    pressure=psi(3.0), ticks_per_sec=20.0, decisions=[], verdicts=Trouble("no run"),
    tally=Tally(TICKS[0].ts, 3, 1, 1, 2), still_secs=0.5,
)  # fmt: skip


def unit(**changes: Any) -> UnitSnapshot:
    return UnitSnapshot(replace(RUNNING, **changes), NOW - 5)


def test_a_healthy_engine_has_no_problem() -> None:
    assert view_model.problems(SEEN) == []
    assert view_model.warnings(SEEN) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"unit": unit(active="failed", result="exit-code", exec_main_code=1, exec_main_status=12)}, "exit 12"),
        ({"unit": unit(active="inactive", sub="dead", exec_main_code=1)}, "stopped, or ended, in order"),
        ({"unit": unit(active="inactive", sub="dead", invocation_id="")}, "never started"),
        ({"unit": unit(active="activating", sub="auto-restart")}, "waiting to be restarted"),
        ({"unit": unit(active="activating", sub="start")}, "unit: the engine is starting"),
        ({"unit": Trouble("no bus")}, "unit: no bus"),
        ({"ledger": Trouble("bot.db: database is locked")}, "database: bot.db: database is locked"),
        ({"log": Trouble("no entry")}, "journal: no entry"),
        ({"config": Trouble("config.toml: broken")}, "config: config.toml: broken"),
        ({"log": LogSnapshot()}, "heartbeat: none"),
        ({"log": LogSnapshot("SHADOW", 5, BEAT, NOW - 31)}, "heartbeat: the last is 31.0 s old, at most 30 s"),
        ({"still_secs": 3.6}, "database: no new tick within 3.6 s, the last is 3"),
        ({"ledger": replace(LEDGER, odd=2)}, "database: 2 rows hold what the engine never writes"),
        ({"pressure": psi(20.01, 20.01)}, "limit 20 %; the engine itself is well"),
        ({"pressure": pressure.Unknown("cpu: missing")}, "pressure: unknown: cpu: missing"),
        ({"log": LogSnapshot("SHADOW", 5, {**BEAT, "duplicates": 1}, NOW)}, "books: ticks parsed 12 ≠ received"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], named: str) -> None:
    seen = replace(SEEN, **changes)
    assert named in "\n".join(view_model.problems(seen))
    assert strict(jsontext.write(view_model.page(seen)))["health"]["tone"] != "good"


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
    config = view_model.config_of({"engine": {"max_staleness_ms": limit_ms}})
    seen = replace(SEEN, config=config, log=LogSnapshot("SHADOW", 1, {**BEAT, "clock_skew_ms": skew_ms}, NOW))
    assert view_model.problems(seen) == said
    samples = {metric.name: samples for metric, samples in view_model.metrics(seen)}
    assert samples["hybrid_clock_skew_seconds"] == ([] if skew_ms is None else [("", skew_ms / 1000)])
    # Down, it vetoes nothing.
    assert not any("clock" in line for line in view_model.problems(replace(seen, unit=unit(active="inactive"))))


def test_everything_unknown_still_makes_a_page_and_no_zeros() -> None:
    lost = Trouble("gone")
    seen = replace(
        SEEN, config=lost, unit=lost, log=lost, ledger=lost, decisions=lost, verdicts=lost, ticks_per_sec=None,
        still_secs=None, pressure=pressure.Unknown("cpu: missing"),
    )  # fmt: skip
    page = view_model.page(seen)
    assert page["mode"]["word"] == "unknown"
    assert page["unit"]["word"] == "unknown"
    assert [page[name]["trouble"] for name in ("price", "books", "exposure", "decisions", "verdicts")] == ["gone"] * 5
    assert "pressure: unknown: cpu: missing" in view_model.problems(seen)
    samples = {metric.name: samples for metric, samples in view_model.metrics(seen) if samples}
    assert set(samples) == {
        "hybrid_dashboard_look_timestamp_seconds", "hybrid_dashboard_refresh_seconds", "hybrid_database_readable",
        "hybrid_pressure_limit_ratio",
    }  # fmt: skip
    assert samples["hybrid_database_readable"] == [("", 0.0)]


@pytest.mark.claim("W4")
def test_a_moment_of_pressure_is_a_warning_and_no_problem() -> None:
    seen = replace(SEEN, pressure=psi(20.01, 5.0))
    assert view_model.problems(seen) == []
    (said,) = view_model.warnings(seen)
    assert said.startswith("pressure: the computer was for a moment under pressure: CPU 20.01 % over 10 s and 5 % over")
    assert view_model.health(seen)["title"] == "The engine is well. To be noted:"
    assert [row["over"] for row in view_model.page(seen)["pressure"]["rows"]] == [True, False, False]
    lasting = view_model.health(replace(SEEN, pressure=psi(50.0, 50.0)))
    assert (lasting["tone"], lasting["title"]) == ("bad", "The engine is well; the computer is under pressure")


def test_what_a_heartbeat_tells_of_trouble_is_listed() -> None:
    beat = {**BEAT, "clock_skew_ms": -1500.0, "wal_bytes": 2**30, "log_drops": 3, "foreign": 4}
    shown = view_model.warnings(replace(SEEN, log=LogSnapshot("SHADOW", 5, beat, NOW)))
    assert [line.partition(":")[0] for line in shown] == ["clock", "database", "log", "feed"]
    assert "1.5 s" in shown[0]
    assert "1024 MiB" in shown[1]
    calm = {**BEAT, "clock_skew_ms": 900.0, "wal_bytes": 2**20, "log_drops": 0, "foreign": 0}
    assert view_model.warnings(replace(SEEN, log=LogSnapshot("SHADOW", 5, calm, NOW))) == []
    assert {one["name"] for one in view_model.page(SEEN)["books"]["counts"]}.isdisjoint(
        {"lost log lines", "foreign trades"}
    )


def test_the_price_line_has_the_marks_of_its_symbol_and_its_time() -> None:
    price = view_model.page(SEEN)["price"]
    assert price["lines"] == [[[tick.ts, tick.price] for tick in TICKS]]
    assert price["tally"] == {"since_ms": TICKS[0].ts, "signals": 3, "vetoed": 1, "bought": 1, "sold": 2}
    assert [mark["note"] for mark in price["signals"]] == ["RISK_CAP"]
    assert [mark["side"] for mark in price["fills"]] == ["SELL"]


def test_exposure_is_what_the_open_orders_could_make_of_it() -> None:
    assert isinstance(SEEN.ledger, LedgerSnapshot)
    orders = [OpenOrder("SHADOW", "SOL/USDC", "BUY", "1.5", "0.5"), OpenOrder("SHADOW", "SOL/USDC", "SELL", "9", "0"),
              OpenOrder("PAPER", "SOL/USDC", "SELL", "99", "0")]  # fmt: skip
    seen = replace(SEEN, ledger=replace(SEEN.ledger, open_orders=orders))
    # max(2 + 1, 9 - 2) at the latest price, not at that of the last fill.
    assert view_model.exposures(seen) == {"SOL/USDC": 7 * 103.0}
    rows = {row["name"]: (row["value"], row["cap"], row["over"]) for row in view_model.page(seen)["exposure"]["rows"]}
    assert rows == {
        "all symbols": (721.0, 1000.0, False), "SOL/USDC": (721.0, 500.0, True), "open orders": (2.0, 3.0, False)
    }  # fmt: skip


def test_the_mode_is_what_the_engine_logged_and_live_alarms() -> None:
    assert view_model.page(replace(SEEN, log=LogSnapshot("LIVE", 1, BEAT, NOW)))["mode"]["says"].startswith(
        "REAL ORDERS"
    )
    assert view_model.page(replace(SEEN, log=LogSnapshot()))["mode"]["word"] == "SHADOW"
    paper = view_model.page(replace(SEEN, log=LogSnapshot("PAPER", 1, BEAT, NOW, feed="REPLAY")))["mode"]
    assert (paper["word"], paper["feed"]) == ("PAPER", "REPLAY")
    assert view_model.page(SEEN)["mode"]["feed"] == "SYNTHETIC"
    down = view_model.page(replace(SEEN, unit=unit(active="inactive")))["mode"]
    assert (down["word"], down["runs"]) == ("SHADOW", False)


def test_an_engine_that_is_down_stores_nothing() -> None:
    assert view_model.page(SEEN)["figures"][0]["value"] == "20.0"
    assert view_model.page(replace(SEEN, unit=unit(active="inactive")))["figures"][0]["value"] == "0.0"
    memory = view_model.page(replace(SEEN, unit=unit(active="inactive")))["figures"][3]
    assert (memory["value"], memory["note"]) == ("–", "the engine does not run")
    assert view_model.page(SEEN)["figures"][3]["note"] == "resident"


def test_the_rung_is_that_of_the_running_engine() -> None:
    figure = view_model.page(SEEN)["figures"][1]
    assert (figure["value"], figure["note"]) == ("THROTTLE1", "1 of 5 ticks is processed")
    off = replace(SEEN, log=LogSnapshot("SHADOW", 7, BEAT, NOW))
    assert view_model.page(off)["figures"][1]["value"] == "off the ladder"


# --- who started it ----------------------------------------------------------------------------------------

STARTED, EXITED, FAILED = (
    "39f53479d3a045ac8e11786248231fbf", "98e322203f7a4ed290d09fe03c09fe15", "d9b373ed55a64feb8242e02dbe79a49c",
)  # fmt: skip


def entry(kind: str, invocation: str, at: float, **more: str) -> dict[str, str]:
    return {"MESSAGE_ID": kind, "INVOCATION_ID": invocation, "__REALTIME_TIMESTAMP": f"{at * 1e6:.0f}", **more}


def restart(at: float) -> dict[str, str]:
    return {"action": "ENGINE_RESTART", "reason": "CPU 58.8 > 20", "timestamp": timestamp(at)}


def test_a_first_start_is_the_operators() -> None:
    assert view_model.who_started(RUNNING, [entry(STARTED, "b" * 32, NOW)], [])[0] == "operator"


def test_an_automatic_restart_is_systemds_or_the_watchdogs() -> None:
    again = replace(RUNNING, n_restarts=1)
    before = [
        entry(EXITED, "a" * 32, NOW - 9, EXIT_CODE="exited", EXIT_STATUS="10", COMMAND="ExecStart"),
        entry(FAILED, "a" * 32, NOW - 9, UNIT_RESULT="exit-code"),
    ]
    assert view_model.who_started(again, before, []) == ("systemd", "restarted by systemd after exit 10 (NETWORK)")
    bitten = [entry(FAILED, "a" * 32, NOW - 9, UNIT_RESULT="watchdog")]
    assert view_model.who_started(again, bitten, [])[0] == "watchdog"
    assert view_model.who_started(again, [], [])[0] == "systemd"


def test_a_start_is_the_controllers_only_right_after_it_asked() -> None:
    mine = [entry(STARTED, "b" * 32, NOW)]
    assert view_model.who_started(RUNNING, mine, [restart(NOW - 3)]) == (
        "controller", "restarted by the soak controller: CPU 58.8 > 20",
    )  # fmt: skip
    assert view_model.who_started(RUNNING, mine, [restart(NOW + 3)])[0] == "operator"
    assert view_model.who_started(RUNNING, mine, [restart(NOW - 3600)])[0] == "operator"
    another_between = [entry(STARTED, "a" * 32, NOW - 2), *mine]
    assert view_model.who_started(RUNNING, another_between, [restart(NOW - 3)])[0] == "operator"


def down(result: str, code: int, status: int, active: str = "failed") -> UnitSnapshot:
    return unit(active=active, sub="dead", result=result, exec_main_code=code, exec_main_status=status, main_pid=0)


FAILED_BEFORE = (
    entry(EXITED, "b" * 32, NOW, EXIT_CODE="exited", EXIT_STATUS="12", COMMAND="ExecStart"),
    entry(FAILED, "b" * 32, NOW, UNIT_RESULT="exit-code"),
)


@pytest.mark.claim("W5")
@pytest.mark.parametrize(
    ("look", "word", "tone", "says"),
    [
        (unit(active="inactive", invocation_id=""), "never started", "calm", "was never started"),
        (down("success", 1, 0, "inactive"), "stopped", "calm", "was stopped, or ended, in order (exit 0)"),
        (down("success", 2, 15, "inactive"), "stopped", "calm", "in order"),
        (down("exit-code", 1, 12), "failed", "bad", "ended with exit 12 (CONFIG): no such key"),
        (down("exit-code", 1, 1), "failed", "bad", "ended with exit 1 (CRASH): no such key"),
        (down("signal", 2, 9), "crashed", "bad", "crashed: killed by signal 9 (SIGKILL)"),
        (down("core-dump", 3, 11), "crashed", "bad", "crashed: dumped core by signal 11 (SIGSEGV)"),
        (down("watchdog", 2, 6), "crashed", "bad", "crashed: stuck, and killed by systemd's watchdog"),
        (down("oom-kill", 2, 9), "crashed", "bad", "because memory was short"),
        (down("timeout", 2, 9), "crashed", "bad", "did not stop or start in time"),
        # After `systemctl reset-failed`, which makes it inactive, and after which systemd may forget it.
        (down("success", 1, 12, "inactive"), "down after a failure", "bad",
         "ended with exit 12 (CONFIG): no such key"),
        (replace(unit(active="inactive", invocation_id=""), lifecycle=FAILED_BEFORE), "down after a failure", "bad",
         "ended with exit 12 (CONFIG): no such key"),
    ],
)  # fmt: skip
def test_a_stop_a_failure_a_crash_and_no_start_at_all_look_different(
    look: UnitSnapshot, word: str, tone: str, says: str
) -> None:
    page = view_model.page(replace(SEEN, unit=look, log=replace(LOG, reason="no such key")))
    assert (page["unit"]["word"], page["unit"]["tone"]) == (word, tone)
    assert page["health"]["tone"] == tone
    assert says in page["unit"]["says"]
    assert says in page["health"]["lines"][0]


def test_an_engine_that_was_never_started_has_no_database_and_no_journal_to_miss() -> None:
    fresh = replace(
        SEEN, unit=unit(active="inactive", invocation_id=""), ledger=Trouble("no such"), log=Trouble("nothing")
    )
    assert view_model.health(fresh)["title"] == "The engine was never started"


# --- verdicts ----------------------------------------------------------------------------------------------


def test_a_guardrail_is_as_good_as_its_worst_proof() -> None:
    rows = [
        Judged("a", ["G0", "C1"], Verdict.PROVEN), Judged("b", ["G0"], Verdict.REFUTED),
        Judged("c", ["exit12"], Verdict.PROVEN), Judged("d", ["N8b", "S10", "S2"], Verdict.UNPROVEN),
    ]  # fmt: skip
    seen = replace(SEEN, verdicts=Verdicts("1800000000-ab", rows, ["V5"], {"b": "/buglog/x#b"}))
    shown = view_model.page(seen)["verdicts"]
    assert [(row["clause"], row["verdict"], row["href"]) for row in shown["rows"]] == [
        ("G0", "refuted", "/buglog/x#b"), ("exit12", "proven", ""), ("S2", "unproven", ""), ("S10", "unproven", ""),
    ]  # fmt: skip
    assert shown["counts"] == {"refuted": 1, "unproven": 1, "proven": 2}
    assert (shown["word"], shown["tone"]) == ("1 refuted", "bad")
    nothing = view_model.page(replace(SEEN, verdicts=Verdicts("1-ab", [], [], {})))["verdicts"]
    assert (nothing["word"], nothing["tone"]) == ("nothing was proven", "unknown")
    assert shown["at"] == 1800000000.0


@pytest.mark.parametrize(
    ("state", "never_ran", "word"),
    [
        ("complete", 0, "all proven"), ("partial", 0, "a part was proven"),
        ("running", 9, "a run is going on, or was killed"),
        ("interrupted", 16, "interrupted: 16 proofs never ran"), ("complete", 1, "1 proof never ran"),
        ("?", 0, "?: 0"),
    ],
)  # fmt: skip
def test_only_a_whole_run_is_green(state: str, never_ran: int, word: str) -> None:
    verdicts = Verdicts("1-ab", [Judged("a", ["G0"], Verdict.PROVEN)], [], {}, state, never_ran)
    shown = view_model.page(replace(SEEN, verdicts=verdicts))["verdicts"]
    assert word in shown["word"]
    assert (shown["tone"] == "good") is (word == "all proven")


# --- the Host header ---------------------------------------------------------------------------------------

NAMES = frozenset({"localhost", "127.0.0.1"})


@pytest.mark.parametrize(
    "header", ["localhost", "localhost:8501", "LOCALHOST:9", "localhost.", "127.0.0.1:8501", "127.0.0.1"]
)
def test_our_own_names_are_allowed(header: str) -> None:
    assert view_model.host_allowed(header, NAMES, "127.0.0.1")


def test_the_address_of_the_connection_is_allowed() -> None:
    assert view_model.host_allowed("[::1]:8501", NAMES, "::1")
    assert view_model.host_allowed("192.0.2.7:8501", NAMES, "192.0.2.7")
    assert not view_model.host_allowed("192.0.2.8:8501", NAMES, "192.0.2.7")


@pytest.mark.parametrize(
    "header",
    ["", "evil.example", "evil.example:8501", "localhost.evil.example", "127.0.0.1.evil.example", "[::1]evil:80", "[",
     ":80", "localhost@evil.example", "127.0.0.2"],
)  # fmt: skip
def test_foreign_names_are_refused(header: str) -> None:
    assert not view_model.host_allowed(header, NAMES, "127.0.0.1")


@given(st.text(max_size=40))
def test_no_host_header_makes_it_crash(header: str) -> None:
    allowed = view_model.host_allowed(header, NAMES, "127.0.0.1")
    assert not allowed or any(name in header.lower() for name in NAMES)


# --- configuration -----------------------------------------------------------------------------------------


def test_the_defaults_are_the_engines() -> None:
    assert view_model.listen_of({}) == view_model.Listen("127.0.0.1", 8501, 1.0)
    assert view_model.config_of({}) == EngineConfig("SHADOW", 1, 10.0, 5_000, RiskLimits(10_000.0, 5_000.0, 10))
    assert view_model.config_of({"mode": "LIEV"}).mode == "SHADOW"


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"dashboard": {"port": 0}}, r"dashboard\.port = 0: must be a whole number from 1 to 65535"),
        ({"dashboard": {"port": True}}, r"dashboard\.port = True"),
        ({"dashboard": {"port": "8501"}}, r"dashboard\.port = '8501'"),
        ({"dashboard": {"host": ""}}, r"dashboard\.host = ''"),
        ({"dashboard": {"refresh_seconds": 0}}, r"dashboard\.refresh_seconds = 0"),
        ({"dashboard": {"refresh_seconds": float("nan")}}, r"dashboard\.refresh_seconds = nan"),
        ({"dashboard": {"refresh_seconds": float("inf")}}, r"dashboard\.refresh_seconds = inf"),
        ({"dashboard": {"port": float("inf")}}, r"dashboard\.port = inf"),
        ({"dashboard": {"port": 10**400}}, r"dashboard\.port = 1000"),
        ({"dashboard": {"prot": 1}}, r"dashboard\.prot: unknown key, allowed are host, port, refresh_seconds"),
        ({"dashboard": 5}, "dashboard = 5: must be a table"),
    ],
)
def test_a_wrong_dashboard_table_names_key_value_and_what_is_allowed(tables: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        view_model.listen_of(tables)


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"mode": 1}, "mode = 1"),
        ({"engine": {"sample_every": "5"}}, r"engine\.sample_every = '5'"),
        ({"risk_caps": []}, "risk_caps"),
        ({"engine": {"ingest_mode": 5}}, r"engine\.ingest_mode = 5"),
        ({"engine": {"sample_every": float("inf")}}, r"engine\.sample_every = inf"),
        ({"risk_caps": {"max_open_orders": -math.inf}}, r"risk_caps\.max_open_orders = -inf"),
    ],
)
def test_a_wrong_engine_table_is_named(tables: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        view_model.config_of(tables)


# --- thinning, staleness -----------------------------------------------------------------------------------


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=300), st.integers(4, 50))
def test_thinning_keeps_the_extremes_and_the_last(prices: list[float], most: int) -> None:
    ticks = [StoredTick(number, number, "X", price) for number, price in enumerate(prices)]
    kept = view_model.thin(ticks, most)
    assert len(kept) <= most + 3
    assert kept[-1] is ticks[-1]
    assert {min(prices), max(prices)} <= {tick.price for tick in kept}
    assert [tick.id for tick in kept] == sorted({tick.id for tick in kept})


def test_what_is_old_is_stale() -> None:
    assert not view_model.is_stale(NOW, NOW + 4.9, 1.0)
    assert view_model.is_stale(NOW, NOW + 5.1, 1.0)
    assert not view_model.is_stale(NOW, NOW + 2.9, 0.1)


@pytest.mark.claim("W5")
def test_where_no_tick_came_the_line_has_a_gap() -> None:
    def line(*seconds: float) -> list[StoredTick]:
        return [StoredTick(number, round(second * 1000), "X", 1.0) for number, second in enumerate(seconds, 1)]

    def parts(ticks: list[StoredTick]) -> list[int]:
        return [len(part) for part in view_model.stretches(ticks)]

    assert parts(line(0, 0.5, 1, 6.0, 6.5)) == [5], "five seconds are no gap"
    assert parts(line(0, 0.5, 1, 6.1, 6.5)) == [3, 2]
    assert parts(line(*range(0, 100, 10))) == [10], "a slow feed is no gap"
    assert parts(line(*range(0, 100, 10), 191)) == [10, 1]
    assert parts(line(7)) == [1]
    thinned = [StoredTick(1, 0, "X", 1.0), StoredTick(600, 300_000, "X", 1.0)]
    assert parts(thinned) == [2], "ticks that were thinned out are no gap"


@pytest.mark.claim("W2")
@given(st.lists(st.builds(StoredTick, st.integers(-3, 3), st.integers(0, 9), st.just("X"), st.just(1.0)), min_size=1))
def test_whatever_ids_ticks_have_the_line_is_made_of_all_of_them(ticks: list[StoredTick]) -> None:
    """Where `ticks` is a view, ids may repeat and times go back."""
    assert [tick for part in view_model.stretches(ticks) for tick in part] == ticks


@given(st.lists(st.sampled_from([100, 100, 100, 5001]), min_size=40, max_size=100), st.integers(4, 8))
def test_thinning_hides_no_gap(pauses: list[int], most: int) -> None:
    ticks, ts = [], 0
    for number, pause in enumerate(pauses):
        ts += pause
        ticks.append(StoredTick(number, ts, "X", float(number % 7)))
    kept = {tick.id for tick in view_model.thin(ticks, most)}
    for before, after in pairwise(ticks):
        if after.ts - before.ts > view_model.GAP_SECS * 1000:
            assert {before.id, after.id} <= kept


@pytest.mark.claim("W5")
def test_the_line_goes_up_to_now_unless_its_ticks_are_of_another_time() -> None:
    silent = replace(SEEN, at=TICKS[-1].ts / 1000 + 60)
    assert view_model.page(silent)["price"]["until"] == TICKS[-1].ts + 60_000
    replayed = replace(SEEN, at=TICKS[-1].ts / 1000 + 301)
    assert view_model.page(replayed)["price"]["until"] == TICKS[-1].ts


# --- whatever was seen -------------------------------------------------------------------------------------


def table() -> st.SearchStrategy[Any]:
    keys = ["sample_every", "heartbeat_interval_secs", "max_exposure_usd", "max_open_orders", "ingest_mode", "port",
            "host", "refresh_seconds", "db_path"]  # fmt: skip
    return st.dictionaries(st.sampled_from(keys), ANYTHING, max_size=4) | ANYTHING


@pytest.mark.claim("W2")
@given(st.fixed_dictionaries({}, optional={name: table() for name in ("mode", "engine", "risk_caps", "dashboard")}))
def test_any_configuration_is_understood_or_named(tables: dict[str, Any]) -> None:
    for judge in (view_model.listen_of, view_model.config_of):
        try:
            found = judge(tables)
        except ValueError as error:
            str(error).encode("utf-8", "backslashreplace")
        else:
            assert isinstance(found, view_model.Listen | EngineConfig)


DECISION = st.dictionaries(
    st.sampled_from(["timestamp", "action", "reason", "state", "current_sample_every", "run_id"]), ANYTHING
)


@pytest.mark.claim("W2")
@given(
    beat=st.dictionaries(st.sampled_from([*BEAT, "clock_skew_ms", "wal_bytes", "log_drops", "foreign"]), ANYTHING),
    decisions=st.lists(DECISION, max_size=3),
    names=st.lists(st.text(max_size=5) | st.sampled_from(["\ud800", "G0", "99999999999999-x", "²-x"]), min_size=3,
                   max_size=3),
    at=st.floats(0, 1e11), verdict=st.sampled_from(Verdict),
)  # fmt: skip
@example({}, [{"action": "STALL", "timestamp": "0001-01-01T00:00:00"}, {"action": "STALL", "timestamp": "9999-12-31"}],
         ["G0"] * 3, 0.0, Verdict.PROVEN)  # fmt: skip
def test_whatever_was_seen_there_is_a_page_and_metrics_of_it(
    beat: dict[str, Any], decisions: list[dict[str, Any]], names: list[str], at: float, verdict: Verdict
) -> None:
    seen = replace(
        SEEN, at=at, decisions=decisions, log=LogSnapshot(names[0], None, beat, at, names[1], names[2]),
        verdicts=Verdicts(names[0], [Judged(names[1], names, verdict)], names, {}),
    )  # fmt: skip
    page = strict(jsontext.write(view_model.page(seen)))
    assert set(page) == set(view_model.page(SEEN))
    strict(jsontext.write(view_model.problems(seen)))
    for _, samples in view_model.metrics(seen):
        for label, value in samples:
            assert math.isfinite(value)
            label.encode("utf-8")


# --- metrics -----------------------------------------------------------------------------------------------


def test_every_metric_is_documented_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    documented = re.findall(
        r"^\| `(hybrid_\w+?)(_total)?(?:\{(\w+)\})?` \| (gauge|counter) \| (.*) \|$", text, re.MULTILINE
    )
    assert documented == [
        (metric.name, "_total" if metric.kind == "counter" else "", metric.label, metric.kind, metric.help)
        for metric in view_model.METRICS
    ]


def test_every_figure_of_a_heartbeat_becomes_a_metric() -> None:
    """Those that M2 names; `tick_count` is what M3 makes equal to the ticks processed."""
    clause = contract.clauses((Path(__file__).parents[2] / "docs" / "contract.md").read_text())[ClauseId("M2")]
    names = re.findall(r"[a-z]+(?:_[a-z0-9]+)+|\b(?:ignored|foreign|duplicates|gaps|reconnects)\b", clause)
    names = [name for name in names if name not in ("heartbeat_interval_secs", "tick_count")]
    assert len(names) > 20
    without = {metric.name: samples for metric, samples in view_model.metrics(SEEN)}
    for name in names:
        beat = {**BEAT, name: 77_000_000}
        assert isinstance(SEEN.log, LogSnapshot)
        with_it = view_model.metrics(replace(SEEN, log=replace(SEEN.log, heartbeat=beat)))
        assert any(samples != without[metric.name] for metric, samples in with_it), f"/metrics has nothing of {name}"


def test_metric_names_are_in_base_units() -> None:
    # What `promtool check metrics` minds: names, help texts, units; and that a counter alone ends in _total.
    for metric in view_model.METRICS:
        assert re.fullmatch(r"hybrid_[a-z]+(_[a-z]+)*", metric.name), metric.name
        assert metric.help.endswith(".")
        assert not re.search(
            r"(_total|_count|_sum|_bucket|_info|_ms|_milliseconds|_percent|_kb|_mb|_minutes)$", metric.name
        )
    assert len({metric.name for metric in view_model.METRICS}) == len(view_model.METRICS)


def test_metrics_have_what_was_seen() -> None:
    found = {metric.name: dict(samples) for metric, samples in view_model.metrics(SEEN)}
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
    assert found["hybrid_heartbeat_interval_seconds"] == {"": 10.0}
    assert found["hybrid_staleness_limit_seconds"] == {"": 5.0}
    unknown = ("engine_exit_status", "positions_differing", "venue_barred_seconds", "bundle_expires_timestamp_seconds")
    assert [found[f"hybrid_{name}"] for name in unknown] == [{}] * 4
    assert (found["hybrid_market_ticks_missing"], found["hybrid_market_ticks_duplicate"]) == ({}, {})
    assert isinstance(SEEN.unit, UnitSnapshot)
    for code, status, shown in ((1, 12, 12.0), (2, 9, 137.0), (3, 11, 139.0)):
        ended = replace(SEEN.unit.state, main_pid=0, exec_main_code=code, exec_main_status=status)
        down = replace(
            SEEN, unit=replace(SEEN.unit, state=ended), differing=2, bundle_made_at=NOW - 3600,
            bars=[("a.example", round(NOW * 1000) + 90_000), ("b.example", round(NOW * 1000) - 1)],
        )  # fmt: skip
        found = {metric.name: dict(samples) for metric, samples in view_model.metrics(down)}
        assert found["hybrid_engine_exit_status"] == {"": shown}
    assert found["hybrid_positions_differing"] == {"": 2.0}
    assert found["hybrid_venue_barred_seconds"] == {"a.example": pytest.approx(90, abs=0.01), "b.example": 0.0}
    assert found["hybrid_bundle_expires_timestamp_seconds"] == {"": NOW + 23 * 3600}
    # What is no number has no sample, and an engine that has another shape of it no figures.
    beat = {**BEAT, "gaps_by_market": {"a BTC-USD": 3, "b": 0, "c": "x"}, "duplicates_by_market": [1]}
    by_market = {
        metric.name: dict(samples)
        for metric, samples in view_model.metrics(replace(SEEN, log=replace(LOG, heartbeat=beat)))
    }
    assert by_market["hybrid_market_ticks_missing"] == {"a BTC-USD": 3.0, "b": 0.0}
    assert by_market["hybrid_market_ticks_duplicate"] == {}
