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
RARE = (NOW - 13, {"ingest_received": 5})
LOG = LogSnapshot("SHADOW", 5, BEAT, NOW - 1, (NOW - 1.5, {**BEAT, "ingest_received": 0}))

SEEN = Observation(
    at=NOW, refresh_secs=1.0, config=EngineConfig(sample_every=5, caps=RiskLimits(1000.0, 500.0, 3)),
    unit=UnitSnapshot(RUNNING, NOW - 60, rss_bytes=2**20), log=LOG,
    ledger=LEDGER,
    pressure=psi(3.0), ticks_per_sec=20.0, decisions=[], verdicts=Trouble("no run"),
    tally=Tally(TICKS[0].ts, 3, 1, 1, 2), still_secs=0.5,
)  # fmt: skip


RUNNING_UNIT = UnitSnapshot(RUNNING, NOW - 60)


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
        # One tick in five, and five come in 12 s.
        ({"still_secs": 26.5, "log": replace(LOG, heartbeat_before=RARE)}, "database: no new tick within 26.5 s"),
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
        (1, 0, ["clock: the venue's clock is 0.0 s ahead: every signal is vetoed as stale"]),
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
    assert (page["mode"]["word"], page["mode"]["feed"], page["mode"]["runs"]) == ("unknown", "", False)
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


def stopped(invocation: str) -> dict[str, str]:
    return entry("7ad2d189f7e94e70a38c781354912448", invocation, NOW)


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
        (down("protocol", 1, 1), "crashed", "bad", "the engine crashed: protocol"),
        # Of several ends the last one counts.
        (replace(unit(active="inactive", invocation_id=""), lifecycle=[*FAILED_BEFORE, stopped("c" * 32)]), "stopped",
         "calm", "in order (exit 0)"),
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
    beside = [*line(0, 0.5, 1), StoredTick(603, 301_000, "X", 1.0), StoredTick(604, 301_500, "X", 1.0)]
    assert parts(beside) == [5], "nor where others were not"
    assert parts([*beside, StoredTick(605, 306_501, "X", 1.0)]) == [5, 1]


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
        SEEN, at=at, decisions=decisions, log=LogSnapshot(names[0], 2, beat, at, (at - 1, beat), names[1], names[2]),
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


# --- each figure, to its edge -------------------------------------------------------------------------------

FULL_BEAT = {
    **BEAT, "risk_vetoes": 2, "stale_vetoes": 3, "parse_errors": 4, "reconnects": 5, "persist_errors": 6, "foreign": 7,
    "log_drops": 8, "clock_skew_ms": -250, "gaps": 9, "ignored": 10, "shadow_orders": 11, "connections_unbounded": 12,
    "persist_count": 13, "bp_drops_signal": 14, "source": "binance", "gaps_by_market": {"a": 1},
    "duplicates_by_market": {"b": 2},
}  # fmt: skip
FULL = replace(
    SEEN, log=replace(LOG, heartbeat=FULL_BEAT), rates=(1.0, None, 2.0), engine="acct-1", differing=0,
    decisions=[{"timestamp": timestamp(NOW - 7), "state": "NORMAL", "current_sample_every": 1, "action": "STARTUP",
                "reason": "x"},
               {"timestamp": timestamp(NOW - 5), "state": "THROTTLE1", "current_sample_every": 5,
                "action": "ENGINE_RESTART", "reason": "CPU"}],
    verdicts=Verdicts("1800000000-ab", [Judged("a", ["G0"], Verdict.PROVEN)], ["V5"], {}),
)  # fmt: skip


def test_the_page_has_every_figure_of_what_was_seen() -> None:
    page = view_model.page(FULL)
    assert (page["at"], page["refresh_secs"], page["engine"]) == (NOW, 1.0, "acct-1")
    assert view_model.page(SEEN)["engine"] == ""
    assert page["mode"] == {
        "word": "SHADOW", "feed": "SYNTHETIC", "runs": True,
        "says": "Nothing is traded: orders and fills are recorded, not sent.",
    }  # fmt: skip
    assert page["unit"] == {
        "word": "running", "tone": "good", "says": "started by an operator, or at boot", "since": NOW - 60,
        "by": "operator", "restarts": 0, "pid": 42,
    }  # fmt: skip
    assert page["figures"] == [
        {"name": "Ticks stored", "value": "20.0", "unit": "/s", "points": [1.0, None, 2.0],
         "note": "newest tick 17 min old"},
        {"name": "Sampling", "value": "THROTTLE1", "unit": "", "note": "1 of 5 ticks is processed"},
        {"name": "Event-loop lag", "value": "2.5", "unit": "ms", "note": "99th percentile, this run"},
        {"name": "Memory", "value": "1", "unit": "MiB", "note": "resident"},
    ]  # fmt: skip
    assert page["pressure"]["rows"] == [
        {"name": "CPU", "value": 3.0, "limit": 20.0, "over": False},
        {"name": "Memory", "value": 0.0, "limit": 10.0, "over": False},
        {"name": "I/O", "value": 0.0, "limit": 15.0, "over": False},
    ]
    assert (page["books"]["word"], page["books"]["tone"], page["books"]["at"]) == ("balance", "good", NOW - 1)
    assert [(one["name"], one["value"]) for one in page["books"]["counts"]] == [
        ("signals", 1), ("fills", 1), ("risk vetoes", 2), ("stale vetoes", 3), ("parse errors", 4), ("reconnects", 5),
        ("write errors", 6), ("foreign trades", 7), ("lost log lines", 8),
    ]  # fmt: skip
    assert page["decisions"] == {
        "rows": [
            {"at": NOW - 5, "state": "THROTTLE1 ÷5", "action": "ENGINE_RESTART", "reason": "CPU"},
            {"at": NOW - 7, "state": "NORMAL", "action": "STARTUP", "reason": "x"},
        ]
    }
    assert page["verdicts"] == {
        "word": "all proven", "tone": "good", "run_id": "1800000000-ab", "at": NOW, "planned": ["V5"],
        "rows": [{"clause": "G0", "verdict": "proven", "proofs": 1, "href": ""}],
        "counts": {"refuted": 0, "unproven": 0, "proven": 1},
    }  # fmt: skip
    assert view_model.feed(FULL) == {
        "mode": "SYNTHETIC", "source": "binance", "clock_skew_ms": -250, "gaps": 9, "duplicates": 2, "reconnects": 5,
        "parse_errors": 4, "foreign": 7,
    }  # fmt: skip
    assert [view_model.decision_row(one) for one in view_model.decided(FULL)] == [
        (round(NOW - 7) * 1000, "STARTUP", "NORMAL", "x"),
        (round(NOW - 5) * 1000, "ENGINE_RESTART", "THROTTLE1 ÷5", "CPU"),
    ]  # fmt: skip
    assert view_model.decided(replace(FULL, decisions=Trouble("gone"))) == ()


def test_metrics_have_every_figure_of_what_was_seen() -> None:
    found = {metric.name: samples for metric, samples in view_model.metrics(FULL) if samples}
    counters = {
        "ticks_parsed": 12, "ticks_received": 10, "ticks_processed": 2, "ticks_sampled_out": 8, "ticks_foreign": 7,
        "ticks_duplicate": 2, "messages_ignored": 10, "signals": 1, "orders_shadow": 11, "fills": 1, "vetoes_risk": 2,
        "vetoes_stale": 3, "parse_errors": 4, "reconnects": 5, "connections_unbounded": 12, "rows_written": 13,
        "ticks_dropped": 0, "order_rows_dropped": 14, "tick_rows_dropped": 0, "persist_errors": 6, "log_drops": 8,
    }  # fmt: skip
    gauges = {
        "engine_up": 1, "engine_restarts": 0, "engine_resident_memory_bytes": 2**20, "sample_every": 5,
        "stored_ticks_per_second": 20, "newest_tick_id": 3, "newest_tick_timestamp_seconds": TICKS[-1].ts / 1000,
        "newest_tick_still_seconds": 0.5, "database_readable": 1, "heartbeat_timestamp_seconds": NOW - 1,
        "heartbeat_interval_seconds": 10, "books_balanced": 1, "positions_differing": 0,
        "event_loop_lag_seconds": 0.0025, "clock_skew_seconds": -0.25, "staleness_limit_seconds": 5, "wal_bytes": 4096,
        "ticks_missing": 9, "open_orders": 0, "open_orders_limit": 3, "dashboard_look_timestamp_seconds": NOW,
        "dashboard_refresh_seconds": 1,
    }  # fmt: skip
    labelled = {
        "engine_mode": [("SHADOW", 1)], "market_ticks_missing": [("a", 1)], "market_ticks_duplicate": [("b", 2)],
        "exposure_usd": [("SOL/USDC", 206)], "exposure_limit_usd": [("total", 1000), ("symbol", 500)],
        "pressure_ratio": [("cpu", 0.03), ("memory", 0), ("io", 0)],
        "pressure_limit_ratio": [("cpu", 0.2), ("memory", 0.1), ("io", 0.15)],
        "proofs": [("refuted", 0), ("unproven", 0), ("proven", 1)],
    }  # fmt: skip
    plain = {name: [("", value)] for name, value in {**counters, **gauges}.items()}
    assert found == {f"hybrid_{name}": samples for name, samples in {**plain, **labelled}.items()}


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"unit": unit(active="inactive", main_pid=0, exec_main_code=1)}, "engine_up", 0),
        ({"unit": unit(n_restarts=3)}, "engine_restarts", 3),
        ({"unit": unit(main_pid=0, exec_main_code=1, exec_main_status=0)}, "engine_exit_status", 0),
        ({"unit": unit(main_pid=1, exec_main_code=1, exec_main_status=12)}, "engine_exit_status", None),
        ({"unit": unit(main_pid=0, exec_main_code=0)}, "engine_exit_status", None),
        ({"unit": unit(active="failed")}, "engine_mode", None),
        ({"ledger": replace(LEDGER, ticks=[])}, "newest_tick_id", None),
        ({"log": replace(LOG, heartbeat={**BEAT, "duplicates": 3})}, "books_balanced", 0),
        ({"log": replace(LOG, heartbeat={**BEAT, "duplicates": "?"})}, "books_balanced", None),
        ({"log": replace(LOG, heartbeat={})}, "heartbeat_timestamp_seconds", None),
        ({"bundle_made_at": NOW}, "bundle_expires_timestamp_seconds", NOW + 24 * 3600),
        ({"bars": [("h", round(NOW * 1000) + 1500)]}, "venue_barred_seconds", 1.5),
        ({"bars": [("h", round(NOW * 1000) - 1500)]}, "venue_barred_seconds", 0),
    ],
)  # fmt: skip
def test_a_metric_is_what_was_seen_or_has_no_sample(changes: dict[str, Any], name: str, value: float | None) -> None:
    found = {metric.name: samples for metric, samples in view_model.metrics(replace(SEEN, **changes))}
    assert [sample for _, sample in found[f"hybrid_{name}"]] == ([] if value is None else [pytest.approx(value)])


@pytest.mark.parametrize(
    ("age_secs", "told"),
    [
        (-5.0, "0.0 s"), (0.04, "0.0 s"), (0.25, "0.2 s"), (9.5, "9.5 s"), (10.0, "10 s"), (119.0, "119 s"),
        (120.0, "2 min"), (7199.0, "120 min"), (7200.0, "2 h"), (360_000.0, "100 h"),
    ],
)  # fmt: skip
def test_an_age_is_told_as_exactly_as_it_matters(age_secs: float, told: str) -> None:
    tick = replace(TICKS[-1], ts=round((NOW - age_secs) * 1000))
    figures = view_model.page(replace(SEEN, ledger=replace(LEDGER, ticks=[tick])))["figures"]
    assert figures[0]["note"] == f"newest tick {told} old"


@pytest.mark.parametrize(
    ("every", "value", "note"),
    [(1, "NORMAL", "every tick is processed"), (5, "THROTTLE1", "1 of 5 ticks is processed"),
     (10, "THROTTLE2", "1 of 10 ticks is processed"), (20, "THROTTLE3", "1 of 20 ticks is processed"),
     (2, "off the ladder", "1 of 2 ticks is processed")],
)  # fmt: skip
def test_each_rung_has_its_name(every: int, value: str, note: str) -> None:
    figure = view_model.page(replace(SEEN, log=replace(LOG, sample_every=every)))["figures"][1]
    assert (figure["value"], figure["note"]) == (value, note)
    # Of a run that is over the configuration tells; where nothing does, there is no rung.
    down = replace(SEEN, unit=unit(active="inactive"), log=replace(LOG, sample_every=every))
    assert view_model.sample_every(down) == 5
    lost = view_model.page(replace(down, config=Trouble("x")))["figures"][1]
    assert (lost["value"], lost["note"]) == ("?", "no configuration tells it")


def test_a_figure_that_is_not_known_is_a_question_and_a_large_one_is_parted() -> None:
    known = replace(SEEN, ticks_per_sec=1234.56, unit=replace(RUNNING_UNIT, rss_bytes=5000 * 2**20))
    assert [one["value"] for one in view_model.page(known)["figures"]] == ["1,234.6", "THROTTLE1", "2.5", "5,000"]
    unknown = replace(
        SEEN, ticks_per_sec=None, unit=replace(RUNNING_UNIT, rss_bytes=None), log=replace(LOG, heartbeat={})
    )
    assert [one["value"] for one in view_model.page(unknown)["figures"]] == ["?", "THROTTLE1", "?", "?"]
    lost = view_model.page(replace(SEEN, unit=Trouble("x"), ledger=replace(LEDGER, ticks=[])))["figures"]
    assert (lost[0]["note"], lost[3]["value"], lost[3]["note"]) == ("no tick yet", "–", "systemd cannot be asked")


def test_the_newest_dozen_of_decisions_is_shown() -> None:
    lines = [{"timestamp": timestamp(NOW + number), "action": f"A{number}"} for number in range(15)]
    seen = replace(SEEN, decisions=lines)
    assert [row["action"] for row in view_model.page(seen)["decisions"]["rows"]] == [f"A{n}" for n in range(14, 2, -1)]


def test_a_decision_that_lacks_something_is_shown_without_it() -> None:
    seen = replace(SEEN, decisions=[{"state": "NORMAL"}, {"timestamp": "soon", "action": "STALL", "reason": None}])
    rows = view_model.page(seen)["decisions"]["rows"]
    assert [(row["at"], row["state"], row["action"]) for row in rows][1] == (0.0, "NORMAL", "?")
    assert (rows[0]["at"], rows[0]["action"]) == (0.0, "STALL")
    assert [view_model.decision_row(one)[0] for one in view_model.decided(seen)] == [0, 0]


@pytest.mark.claim("W5")
@pytest.mark.parametrize(
    ("beat", "warned"),
    [
        ({"clock_skew_ms": 1000}, []), ({"clock_skew_ms": 1001}, ["clock"]), ({"clock_skew_ms": -1001}, ["clock"]),
        ({"clock_skew_ms": 5000}, ["clock"]), ({"clock_skew_ms": -5000}, ["clock"]), ({"clock_skew_ms": 5001}, []),
        ({"wal_bytes": 64 * 2**20}, []), ({"wal_bytes": 64 * 2**20 + 1}, ["database"]), ({"log_drops": 1}, ["log"]),
        ({"foreign": 1}, ["feed"]), ({"log_drops": -1, "foreign": -1, "wal_bytes": -1}, []),
    ],
)  # fmt: skip
def test_an_operator_is_told_from_the_first_thing_too_much(beat: dict[str, float], warned: list[str]) -> None:
    seen = replace(SEEN, log=replace(LOG, heartbeat={**BEAT, **beat}))
    assert [line.partition(":")[0] for line in view_model.warnings(seen)] == warned


def test_what_is_wrong_with_the_dashboard_itself_is_said_and_no_problem() -> None:
    seen = replace(SEEN, notices=["telemetry.db was set aside"])
    assert view_model.warnings(seen) == ["dashboard: telemetry.db was set aside"]
    assert view_model.problems(seen) == []
    assert view_model.health(seen) == {
        "tone": "busy", "title": "The engine is well. To be noted:", "lines": ["dashboard: telemetry.db was set aside"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("still_secs", "said"),
    [(None, []), (3.44, []), (3.5, ["3.5"]), (3.64, ["3.6"]), (100.0, ["100"]), (1234.56, ["1234.6"])],
)
def test_how_long_no_tick_came_is_told_to_a_tenth_of_a_second(still_secs: float | None, said: list[str]) -> None:
    wanted = [f"database: no new tick within {secs} s, the last is 3" for secs in said]
    assert view_model.problems(replace(SEEN, still_secs=still_secs)) == wanted
    empty = view_model.problems(replace(SEEN, still_secs=still_secs, ledger=replace(LEDGER, ticks=[])))
    assert empty == [line.replace("is 3", "is 0") for line in wanted]


@pytest.mark.claim("W4")
@pytest.mark.parametrize("before", [RARE, None])
def test_an_engine_that_samples_need_not_store_a_tick_each_second(before: tuple[float, dict[str, Any]] | None) -> None:
    """As under the rungs of a soak; how many ticks come is not known before its second heartbeat."""
    seen = replace(SEEN, log=replace(LOG, heartbeat_before=before))
    assert view_model.problems(replace(seen, still_secs=22.4)) == []
    assert view_model.problems(replace(seen, still_secs=26.5)) != []
    assert view_model.problems(replace(seen, still_secs=22.4, log=replace(LOG, sample_every=1))) != []


@pytest.mark.claim("W4")
def test_an_engine_that_waits_for_more_ticks_need_not_store_them_at_once() -> None:
    """As docs/performance.md recommends for a market of few trades."""
    config = view_model.config_of({"persist": {"flush_interval_ms": 5000}})
    assert config.flush_secs == 5.0
    seen = replace(SEEN, config=config)
    assert view_model.problems(replace(seen, still_secs=10.4)) == []
    assert view_model.problems(replace(seen, still_secs=11.0)) != []


def test_as_many_things_as_are_wrong_are_counted() -> None:
    one = view_model.health(replace(SEEN, config=Trouble("broken")))
    assert (one["tone"], one["title"], one["lines"]) == ("bad", "1 thing is wrong", ["config: broken"])
    seen = replace(SEEN, config=Trouble("broken"), ledger=Trouble("locked"), notices=["odd"])
    assert view_model.health(seen) == {
        "tone": "bad", "title": "2 things are wrong", "lines": ["config: broken", "database: locked", "dashboard: odd"],
    }  # fmt: skip
    stopped = replace(SEEN, unit=unit(active="inactive", sub="dead", exec_main_code=1, main_pid=0))
    assert (view_model.health(stopped)["tone"], view_model.health(stopped)["title"]) == (
        "calm", "The engine was stopped in order",
    )  # fmt: skip
    assert view_model.health(replace(stopped, config=Trouble("broken")))["title"] == "2 things are wrong"


@pytest.mark.claim("W5")
@pytest.mark.parametrize(
    ("age_secs", "refresh_secs", "stale"),
    [(5.0, 1.0, False), (5.001, 1.0, True), (3.0, 0.1, False), (3.001, 0.1, True), (3.0, 0.6, False),
     (50.0, 10.0, False), (50.001, 10.0, True), (-9.0, 1.0, False)],
)  # fmt: skip
def test_an_observation_is_believed_for_five_refreshes_and_three_seconds_at_least(
    age_secs: float, refresh_secs: float, stale: bool
) -> None:
    assert view_model.is_stale(1000.0, 1000.0 + age_secs, refresh_secs) is stale


@pytest.mark.parametrize(
    ("after_secs", "who"),
    [(0.0, "operator"), (0.001, "controller"), (150.0, "controller"), (150.001, "operator")],
)
def test_a_restart_is_the_controllers_for_as_long_as_one_may_take(after_secs: float, who: str) -> None:
    at = 1_800_000_000.5
    begun = {**entry(STARTED, "b" * 32, 0), "__REALTIME_TIMESTAMP": str(round((at + after_secs) * 1e6))}
    assert view_model.who_started(RUNNING, [begun], [restart(at)])[0] == who
    # A run that came after the one that was seen says nothing of it.
    another = {**begun, "INVOCATION_ID": "c" * 32, "__REALTIME_TIMESTAMP": str(round((at + after_secs + 1) * 1e6))}
    assert view_model.who_started(RUNNING, [begun, another], [restart(at)])[0] == who
    # The last restart counts, whatever was decided since.
    later = {"action": "STALL", "timestamp": timestamp(at)}
    assert view_model.who_started(RUNNING, [begun], [restart(at - 1000), restart(at), later])[0] == who


@pytest.mark.claim("W5")
@pytest.mark.parametrize(
    ("silent_secs", "until"),
    [(-1, 0), (0, 0), (0.5, 500), (300, 300_000), (300.001, 0)],
    ids=["a clock behind", "now", "silent", "as long as is shown", "of another time"],
)
def test_the_line_goes_up_to_now_for_as_long_as_is_shown(silent_secs: float, until: int) -> None:
    seen = replace(SEEN, at=TICKS[-1].ts / 1000 + silent_secs)
    assert view_model.page(seen)["price"]["until"] == TICKS[-1].ts + until


def test_marks_are_those_of_the_lines_symbol_from_its_first_tick_on_that_have_a_price() -> None:
    first = TICKS[0].ts
    marks = [
        Marker(first - 1, "SOL/USDC", "BUY", 1.0, "before"), Marker(first, "SOL/USDC", "BUY", 1.0, "first"),
        Marker(first, "ETH/USDC", "BUY", 1.0, "another"), Marker(first, "SOL/USDC", "SELL", None, "no price"),
        Marker(first + 9_999_999, "SOL/USDC", "SELL", 0.0, "after"),
    ]  # fmt: skip
    price = view_model.page(replace(SEEN, ledger=replace(LEDGER, signals=marks, fills=marks)))["price"]
    assert [mark["note"] for mark in price["signals"]] == ["first", "after"]
    assert price["signals"] == price["fills"]
    assert price["signals"][0] == {"ts": first, "price": 1.0, "side": "BUY", "note": "first"}
    # The line is that of the newest tick's symbol.
    mixed = [*TICKS, StoredTick(4, first + 900, "ETH/USDC", 7.0)]
    other = view_model.page(replace(SEEN, ledger=replace(LEDGER, ticks=mixed, signals=marks), tally=None))["price"]
    assert (other["symbol"], other["lines"], other["tally"]) == ("ETH/USDC", [[[first + 900, 7.0]]], None)
    nothing = view_model.page(replace(SEEN, ledger=replace(LEDGER, ticks=[])))["price"]
    assert nothing == {"trouble": "There is no tick in the database yet."}


@pytest.mark.parametrize(
    ("beat", "word", "tone"),
    [({}, "balance", "good"), ({"duplicates": 3}, "do not balance", "bad"),
     ({"duplicates": None}, "unknown", "unknown"),
     ({"duplicates": None, "tick_count": 99}, "do not balance", "bad")],
)  # fmt: skip
def test_books_are_as_good_as_their_worst_equation(beat: dict[str, Any], word: str, tone: str) -> None:
    books = view_model.page(replace(SEEN, log=replace(LOG, heartbeat={**BEAT, **beat})))["books"]
    assert (books["word"], books["tone"]) == (word, tone)


def test_exposure_is_over_its_cap_above_it_and_not_at_it() -> None:
    def rows(**caps: float) -> list[tuple[str, bool]]:
        limits = RiskLimits(caps.get("total", 206.0), caps.get("symbol", 206.0), int(caps.get("orders", 1)))
        ledger = replace(LEDGER, open_orders=[OpenOrder("SHADOW", "SOL/USDC", "SELL", "1", "0")])
        seen = replace(SEEN, config=EngineConfig(caps=limits), ledger=ledger)
        return [(row["name"], row["over"]) for row in view_model.page(seen)["exposure"]["rows"]]

    assert rows() == [("all symbols", False), ("SOL/USDC", False), ("open orders", False)]
    assert rows(total=205.99, symbol=205.99, orders=0) == [
        ("all symbols", True), ("SOL/USDC", True), ("open orders", True),
    ]  # fmt: skip
    troubled = view_model.page(replace(SEEN, config=Trouble("broken")))["exposure"]
    assert troubled["note"] == "caps: broken"
    assert [row["cap"] for row in troubled["rows"]] == [10_000.0, 5_000.0, 10.0]


def test_exposures_are_those_of_the_present_mode_by_symbol() -> None:
    holdings = [Holding("SHADOW", "SOL/USDC", "-2", "90"), Holding("PAPER", "SOL/USDC", "50", "90"),
                Holding("SHADOW", "ETH/USDC", "3", "10")]  # fmt: skip
    orders = [
        OpenOrder("SHADOW", "ETH/USDC", "SELL", "9", "1"), OpenOrder("SHADOW", "ETH/USDC", "BUY", "1", "0.5"),
        OpenOrder("SHADOW", "NEW", "BUY", "4", "0"), OpenOrder("SHADOW", "SOL/USDC", "SELL", "1", "0"),
        OpenOrder("SHADOW", "SOL/USDC", "SELL", "1", "0"),
    ]  # fmt: skip
    seen = replace(SEEN, ledger=replace(LEDGER, holdings=holdings, open_orders=orders))
    # Sold two of SOL, and two more are offered; of ETH as much as eight less three could be owed; NEW has no price.
    assert view_model.exposures(seen) == {"SOL/USDC": 4 * 103.0, "ETH/USDC": 5 * 10.0, "NEW": 0.0}
    assert view_model.page(seen)["exposure"]["rows"][0]["value"] == 462.0
    assert view_model.exposures(replace(seen, ledger=Trouble("gone"))) == {}


@pytest.mark.parametrize("side", ["BUY", "SELL"])
@pytest.mark.parametrize(("qty", "filled"), [("0.5", "0"), ("2", "1.5")])
def test_an_order_in_a_symbol_of_which_nothing_is_held_weighs_at_its_latest_tick(
    side: str, qty: str, filled: str
) -> None:
    ledger = replace(LEDGER, holdings=[], open_orders=[OpenOrder("SHADOW", "SOL/USDC", side, qty, filled)])
    assert view_model.exposures(replace(SEEN, ledger=ledger)) == {"SOL/USDC": 0.5 * 103.0}


@pytest.mark.parametrize(
    ("mode", "config", "word", "says"),
    [
        ("LIVE", "SHADOW", "LIVE", "REAL ORDERS go to the venue."),
        ("", "PAPER", "PAPER", "Nothing is traded: the order lifecycle is simulated."),
        ("dark", "PAPER", "DARK", "A mode that this page does not know."),
    ],
)
def test_a_mode_is_what_was_logged_or_else_configured(mode: str, config: str, word: str, says: str) -> None:
    seen = replace(SEEN, log=replace(LOG, mode=mode), config=EngineConfig(mode=config, feed="replay"))
    assert view_model.page(seen)["mode"] == {"word": word, "feed": "REPLAY", "runs": True, "says": says}
    lost = view_model.page(replace(seen, unit=Trouble("x")))["mode"]
    assert (lost["word"], lost["runs"], lost["says"][:32]) == (word, False, "Whether the engine runs cannot b")


@pytest.mark.parametrize(
    ("active", "sub", "word", "tone"),
    [
        ("active", "running", "running", "good"), ("activating", "start", "starting", "busy"),
        ("activating", "auto-restart", "waiting to be restarted", "busy"),
        ("deactivating", "stop-sigterm", "stopping", "busy"), ("reloading", "reload", "reloading/reload", "busy"),
    ],
)  # fmt: skip
def test_each_state_of_the_unit_has_its_word(active: str, sub: str, word: str, tone: str) -> None:
    found = view_model.page(replace(SEEN, unit=unit(active=active, sub=sub)))["unit"]
    assert (found["word"], found["tone"]) == (word, tone)


def test_a_unit_that_systemd_forgot_is_as_old_as_its_last_line() -> None:
    lifecycle = [entry(STARTED, "a" * 32, NOW - 90), entry(EXITED, "a" * 32, NOW - 30)]
    forgotten = UnitSnapshot(replace(RUNNING, active="inactive"), None, lifecycle)
    assert view_model.page(replace(SEEN, unit=forgotten))["unit"]["since"] == NOW - 30
    assert view_model.page(replace(SEEN, unit=replace(forgotten, lifecycle=())))["unit"]["since"] is None
    assert view_model.page(replace(SEEN, unit=replace(forgotten, changed_at=NOW - 5)))["unit"]["since"] == NOW - 5


@pytest.mark.parametrize(
    ("signal", "orderly"), [(1, True), (2, True), (13, True), (15, True), (3, False), (9, False), (14, False)]
)
def test_a_death_by_a_signal_is_orderly_where_systemd_says_so(signal: int, orderly: bool) -> None:
    word = view_model.page(replace(SEEN, unit=down("success", 2, signal, "inactive")))["unit"]["word"]
    assert word == ("stopped" if orderly else "down after a failure")
    assert view_model.page(replace(SEEN, unit=down("success", 3, signal, "inactive")))["unit"]["tone"] == "bad"


@pytest.mark.parametrize(
    ("number", "named"),
    [(4, " (SIGILL)"), (6, " (SIGABRT)"), (7, " (SIGBUS)"), (8, " (SIGFPE)"), (9, " (SIGKILL)"), (11, " (SIGSEGV)"),
     (31, " (SIGSYS)"), (34, "")],
)  # fmt: skip
def test_what_killed_it_is_named(number: int, named: str) -> None:
    for code, how in ((2, "killed"), (3, "dumped core")):
        says = view_model.page(replace(SEEN, unit=down("signal", code, number)))["unit"]["says"]
        assert says == f"the engine crashed: {how} by signal {number}{named}"
    # Where no process ran there is no signal.
    assert view_model.page(replace(SEEN, unit=down("resources", 0, number)))["unit"]["says"].endswith(": resources")


@pytest.mark.parametrize(
    ("run_id", "at"),
    [("1800000000-ab", NOW), ("0-x", 0.0), ("99999999999-x", 99_999_999_999.0), ("100000000000-x", None), ("-x", None),
     ("x", None), ("12", 12.0), ("-1-x", None)],
)  # fmt: skip
def test_the_time_of_a_run_is_the_head_of_its_id(run_id: str, at: float | None) -> None:
    assert view_model.page(replace(SEEN, verdicts=Verdicts(run_id, [], [], {})))["verdicts"]["at"] == at


def test_guardrails_come_in_the_order_of_the_contract() -> None:
    claims = [
        "L4",
        "S10",
        "S2",
        "I7",
        "psi",
        "exit12",
        "G5",
        "G0",
        "stall",
        "N1",
        "V12",
        "I1",
        "sampling",
        "concurrency",
    ]
    rows = [Judged("a", claims, Verdict.PROVEN), Judged("b", ["G0", "G0"], Verdict.UNPROVEN)]
    shown = view_model.page(replace(SEEN, verdicts=Verdicts("1-a", rows, [], {})))["verdicts"]
    assert [row["clause"] for row in shown["rows"]] == [
        "G0", "G5", "concurrency", "exit12", "psi", "sampling", "stall", "I1", "I7", "S2", "S10", "L4",
    ]  # fmt: skip
    assert (shown["rows"][0]["proofs"], shown["rows"][0]["verdict"], shown["word"]) == (3, "unproven", "1 unproven")


def test_many_proofs_are_counted_with_a_comma() -> None:
    refuted = [Judged("a", ["G0"], Verdict.REFUTED)] * 1234
    assert (
        view_model.page(replace(SEEN, verdicts=Verdicts("1-a", refuted, [], {})))["verdicts"]["word"] == "1,234 refuted"
    )
    cut = Verdicts("1-a", [], [], {}, "interrupted", 1234)
    assert view_model.page(replace(SEEN, verdicts=cut))["verdicts"]["word"] == "interrupted: 1,234 proofs never ran"


@pytest.mark.parametrize(
    ("tables", "refused"),
    [
        ({"port": 1}, False), ({"port": 65_535}, False), ({"port": 65_536}, True), ({"port": 8501.0}, False),
        ({"port": 8501.5}, True), ({"refresh_seconds": 0.001}, False), ({"refresh_seconds": -1}, True),
        ({"host": " a"}, True), ({"host": "a "}, True), ({"host": 5}, True), ({"host": "::"}, False),
    ],
)  # fmt: skip
def test_the_dashboards_own_table_is_taken_up_to_its_edges(tables: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(ValueError, match=r"^dashboard\."):
            view_model.listen_of({"dashboard": tables})
    else:
        found = view_model.listen_of({"dashboard": tables})
        names = {"host": "host", "port": "port", "refresh_seconds": "refresh_secs"}
        assert found == replace(view_model.Listen(), **{names[key]: value for key, value in tables.items()})


def test_each_key_of_the_engine_is_read_where_it_stands() -> None:
    found = view_model.config_of(
        {
            "mode": "live",
            "engine": {
                "ingest_mode": "real_ws",
                "sample_every": 7,
                "heartbeat_interval_secs": 2.5,
                "max_staleness_ms": 9,
            },
            "risk_caps": {"max_exposure_usd": 1.5, "max_symbol_exposure_usd": 2.5, "max_open_orders": 4},
            "gate": {"proof_bundle": "/b.json", "max_age_hours": 0.5},
        }
    )
    assert found == EngineConfig("LIVE", 7, 2.5, 9.0, RiskLimits(1.5, 2.5, 4), "REAL_WS", "/b.json", 0.5)
    assert (EngineConfig().bundle, EngineConfig().bundle_max_age_hours) == ("data/proof_bundle.json", 24.0)


@pytest.mark.parametrize("most", [4, 10, 100])
def test_thinning_leaves_a_short_line_as_it_is_and_a_long_one_its_ends(most: int) -> None:
    def line(count: int) -> list[StoredTick]:
        # Neither end is the dearest or the cheapest of its stretch.
        prices = [5.0, *(9.0 if number % 2 else 1.0 for number in range(count - 2)), 5.0]
        return [StoredTick(number, number * 100, "X", price) for number, price in enumerate(prices)]

    assert view_model.thin(line(most), most) == line(most)
    long = line(most * 20)
    kept = view_model.thin(long, most)
    assert most // 2 <= len(kept) <= most + 3
    assert (kept[0], kept[-1]) == (long[0], long[-1])
    assert view_model.thin([], most) == []


def test_thinning_keeps_both_sides_of_what_is_longer_than_a_gap_and_of_no_other() -> None:
    def line(pause_ms: int) -> list[StoredTick]:
        # Prices rise, so that the extremes of a stretch are its ends; a pause stands amid one.
        return [StoredTick(n, n * 100 + (pause_ms if n >= 25 else 0), "X", float(n)) for n in range(100)]

    assert {24, 25}.isdisjoint(tick.id for tick in view_model.thin(line(4900), 4))
    assert {24, 25} <= {tick.id for tick in view_model.thin(line(4901), 4)}


@pytest.mark.parametrize(
    ("text", "at"), [("1800000000500000", 1_800_000_000.5), ("", 0.0), ("-5", 0.0), ("x", 0.0), ("0", 0.0)]
)
def test_a_journal_entry_was_made_when_it_says_so(text: str, at: float) -> None:
    assert view_model.entry_at({"__REALTIME_TIMESTAMP": text}) == at
    assert view_model.entry_at({}) == 0.0
