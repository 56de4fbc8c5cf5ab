"""The soak controller's loop, on a computer and a clock of the test's own (contract section 9)."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.base import pressure
from harness.base.clock import FakeClock
from harness.base.errors import CommandFailed, HarnessError, RecorderError
from harness.base.pressure import Pressure, Unknown
from harness.base.unit import UnitState
from harness.observing.judgement import Finding
from harness.observing.ledger_view import LedgerUnreadable
from harness.observing.stall import Progress
from harness.soak import controller as soak
from harness.soak import decisions, reducer
from harness.soak.controller import Options, Screen, Soak
from harness.soak.decisions import DecisionLog, Log
from harness.soak.rewrite import ConfigFile
from proofs.harness.test_exit_actions import failure, process_exit, starting, success
from proofs.harness.test_pressure import reading

CONFIG = "[engine]\nsample_every = 3 # ours\ningest_mode = 'SYNTHETIC'\n"

CALM = reading()
PRESSED = reading(cpu=58.8)


class Script(FakeClock):
    """A clock on which things happen: `at` a time, once."""

    def __init__(self) -> None:
        super().__init__(1000.0)
        self._events: list[tuple[float, Callable[[], object]]] = []

    def at(self, seconds: float, event: Callable[[], object]) -> None:
        """`event` when `seconds` have passed since the start of the test."""
        self._events.append((1000.0 + seconds, event))

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        due = [one for one in self._events if one[0] <= self.now]
        self._events = [one for one in self._events if one[0] > self.now]
        for _, event in sorted(due, key=lambda one: one[0]):
            event()


@dataclass
class FakeComputer:
    """An engine under a systemd that restarts it at once, with ticks at a rate."""

    clock: FakeClock
    ticks_per_sec: float = 2.0
    readings: list[Pressure | Unknown] = field(default_factory=lambda: [CALM])
    """One a look; the last one stays."""
    calls: list[str] = field(default_factory=list)
    entries: list[dict[str, str]] = field(default_factory=list)
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    code: int = 0
    status: int = 0
    starts: int = 1
    ticks: float = 100.0
    frozen: bool = False
    unreadable: bool = False
    blind: bool = False
    complaint: str = ""
    shutdown: bool = False
    end_at_start: int | None = None
    """Exit status with which every start fails; None when starts succeed."""
    _counted_at: float = 0.0

    @property
    def invocation(self) -> str:
        return f"{self.starts:032x}"

    def unit(self) -> UnitState:
        if self.blind:
            raise CommandFailed("systemctl did not answer")
        gone = self.active == "inactive" and not self.code
        return UnitState(
            active=self.active, sub=self.sub, result=self.result, main_pid=4242 if self.active == "active" else 0,
            exec_main_code=self.code, exec_main_status=self.status, n_restarts=0,
            # systemd forgets a unit that has ended cleanly.
            invocation_id="" if gone else self.invocation,
            status_text="",
        )  # fmt: skip

    def restart(self, give_up: Callable[[], bool]) -> str:
        self.calls.append("restart")
        self.begin()
        if self.end_at_start is not None:
            self.fail(self.end_at_start, restarted=False)
            return "Job for hybrid-engine.service failed"
        return self.complaint

    def shuts_down(self) -> bool:
        return self.shutdown

    def stop(self, give_up: Callable[[], bool]) -> str:
        self.calls.append("stop")
        self.active, self.sub, self.code = "inactive", "dead", 0
        return ""

    def begin(self) -> None:
        """A new run of the engine."""
        self._count()
        self.starts += 1
        self.entries.append(starting(self.invocation))
        self.frozen = False
        self.active, self.sub, self.result, self.code, self.status = "active", "running", "success", 0, 0

    def fail(self, status: int, *, code: str = "exited", result: str = "exit-code", restarted: bool = True) -> None:
        """The engine ends, and systemd starts it again or not."""
        stamp = {"__MONOTONIC_TIMESTAMP": f"{self.clock.now * 1e6:.0f}"}
        self.entries += [
            process_exit(self.invocation, status, code) | stamp, failure(self.invocation, result) | stamp,
        ]  # fmt: skip
        if restarted:
            self.begin()
        else:
            self._count()
            self.active, self.sub, self.result = "failed", "failed", result
            self.code, self.status = {"exited": 1, "killed": 2, "dumped": 3}[code], status

    def finish(self, *, restarted: bool) -> None:
        """The engine ends cleanly; an operator starts it again or not."""
        stamp = {"__MONOTONIC_TIMESTAMP": f"{self.clock.now * 1e6:.0f}"}
        self.entries.append(success(self.invocation) | stamp)
        if restarted:
            self.begin()
        else:
            self._count()
            self.active, self.sub, self.code = "inactive", "dead", 0

    def freeze(self) -> None:
        """SIGSTOP: systemd goes on calling it active."""
        self._count()
        self.frozen = True

    def journal(self) -> list[dict[str, str]]:
        found, self.entries = self.entries, []
        return found

    def pressure(self) -> Pressure | Unknown:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]

    def progress(self) -> Progress:
        if self.unreadable:
            raise LedgerUnreadable("bot.db: there is no such database")
        self._count()
        return Progress(int(self.ticks), int(self.ticks) * 1000)

    def rss_bytes(self, pid: int) -> int | None:
        return 44 * 2**20 if pid == 4242 else None

    def _count(self) -> None:
        if self.active == "active" and not self.frozen:
            self.ticks += self.ticks_per_sec * (self.clock.now - (self._counted_at or self.clock.now))
        self._counted_at = self.clock.now


class Bench:
    """A controller with everything around it."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.clock = Script()
        self.computer = FakeComputer(self.clock)
        self.config = directory / "config.toml"
        self.config.write_text(CONFIG)
        self.ops = directory / "ops"
        self.abort_file = self.ops / "ABORT"
        self.healthy = [Finding("unit", True, "active/running")]
        self.screen = io.StringIO()
        self.rungs_seen: list[int] = []
        values = {
            "seconds": 300.0, "mode": "realws", "psi_actions": "on", "stall_threshold_secs": 45.0,
            "recover_after_secs": 0.0, "poll_secs": 5.0, "abort_file": self.abort_file,
        }  # fmt: skip
        self.options = Options(**(values | changes))  # type: ignore[arg-type]
        self.log = DecisionLog(self.ops / "soak_decisions.jsonl", "run", self.clock)
        self.samples = Log(self.ops / "soak_samples.jsonl", sync=False)
        self.soak = Soak(
            self.options, self.computer, ConfigFile(self.config), self.check, self.log, self.samples, self.clock,
            Screen(self.screen, self.clock),
        )  # fmt: skip

    def check(self) -> list[Finding]:
        return self.healthy

    def run(self) -> int:
        status = self.soak.run()
        assert decisions.read(self.log.path)[-1].action == "PUT_BACK" or not self.computer.calls
        assert self.config.read_text() == CONFIG, "the config is what it was"
        return status

    def decisions(self, *keys: str) -> list[Any]:
        """The decisions so far but PUT_BACK, with which each soak ends: their actions, or these keys of each."""
        made = [one.as_json() for one in decisions.read(self.log.path)]
        found = [entry for entry in made if entry["action"] != "PUT_BACK"]
        return [tuple(entry.get(key) for key in keys) if keys else entry["action"] for entry in found]

    def restarts(self) -> list[str]:
        return [reason for action, reason in self.decisions("action", "reason") if action == "ENGINE_RESTART"]

    def exits(self) -> list[tuple[Any, Any]]:
        found = self.decisions("action", "exit_code", "restarted_by")
        return [(code, by) for action, code, by in found if action == "ENGINE_EXIT"]


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    return lambda **changes: Bench(tmp_path, **changes)


@pytest.mark.claim("K6")
def test_K6_a_quiet_run(bench: Callable[..., Bench]) -> None:
    one = bench()
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.decisions() == ["STARTUP", "ENGINE_RESTART", "COMPLETE", "ENGINE_STOP"]
    assert one.computer.calls == ["restart", "stop"]
    first = decisions.read(one.log.path)[0]
    assert first.ingest_mode == "realws"
    assert first.facts["cpu_some_avg10"] == 0.0
    assert len(decisions.read_samples(one.samples.path, first.run_id)) == 60


@pytest.mark.claim("K5")
def test_K5_the_config_is_the_runs_while_it_runs(bench: Callable[..., Bench]) -> None:
    one = bench()
    seen: list[dict[str, Any]] = []
    one.clock.at(100, lambda: seen.append(ConfigFile(one.config).load()))
    one.run()
    assert seen == [{"engine": {"sample_every": 1, "ingest_mode": "REAL_WS"}}]


@pytest.mark.claim("K5")
def test_K5_what_a_killed_controller_left_is_put_back_first(bench: Callable[..., Bench]) -> None:
    one = bench()
    ConfigFile(one.config).change({"sample_every": 20, "ingest_mode": "MOCK_WS"})
    assert one.run() == reducer.EXIT_COMPLETE
    assert "put back the config" in one.decisions("reason")[0][0]


@pytest.mark.claim("K1")
def test_K1_pressure_climbs_one_rung_a_reading_then_aborts(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.computer.readings = [CALM, PRESSED]
    assert one.run() == reducer.EXIT_ABORT
    assert one.decisions() == [
        "STARTUP", *["ENGINE_RESTART"] * 4, *["THROTTLE_MAX"] * 6, "ABORT", "ENGINE_STOP",
    ]  # fmt: skip
    assert one.decisions("state", "current_sample_every")[1:5] == [
        ("NORMAL", 1), ("THROTTLE1", 5), ("THROTTLE2", 10), ("THROTTLE3", 20),
    ]  # fmt: skip
    assert one.restarts()[1] == "Throttling up to THROTTLE1 due to PSI: CPU 58.8 > 20"


@pytest.mark.claim("K1")
def test_K1_the_rung_is_in_the_config_before_the_restart(bench: Callable[..., Bench]) -> None:
    one = bench(seconds=20.0)
    one.computer.readings = [CALM, PRESSED, CALM]
    at_restart: list[int] = []
    begin = one.computer.begin
    one.computer.begin = lambda: (  # type: ignore[method-assign]
        at_restart.append(ConfigFile(one.config).load()["engine"]["sample_every"]), begin(),
    )[1]  # fmt: skip
    one.run()
    assert at_restart == [1, 5]


@pytest.mark.claim("K1")
def test_K1_recovery_steps_down(bench: Callable[..., Bench]) -> None:
    one = bench(recover_after_secs=60.0, seconds=200.0)
    one.computer.readings = [CALM, PRESSED, PRESSED, CALM]
    assert one.run() == reducer.EXIT_COMPLETE
    assert [state for action, state in one.decisions("action", "state") if action == "ENGINE_RESTART"] == [
        "NORMAL", "THROTTLE1", "THROTTLE2", "THROTTLE1", "NORMAL",
    ]  # fmt: skip


@pytest.mark.claim("K2")
def test_K2_logonly_records_and_does_nothing(bench: Callable[..., Bench]) -> None:
    one = bench(psi_actions="logonly", seconds=15.0)
    one.computer.readings = [PRESSED]
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.decisions() == ["STARTUP", "ENGINE_RESTART", *["PSI_LOGONLY"] * 3, "COMPLETE", "ENGINE_STOP"]
    assert one.computer.calls == ["restart", "stop"]


@pytest.mark.claim("K2")
def test_K2_off_does_not_read(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench(psi_actions="off", seconds=15.0)
    monkeypatch.delattr(FakeComputer, "pressure")
    assert one.run() == reducer.EXIT_COMPLETE
    assert not any("psi" in key or "cpu" in key for key in decisions.read(one.log.path)[0].facts)


@pytest.mark.claim("K2")
def test_K2_unknown_is_recorded_and_moves_nothing(bench: Callable[..., Bench]) -> None:
    one = bench(seconds=60.0, recover_after_secs=10.0)
    one.computer.readings = [Unknown("cpu: missing"), PRESSED, Unknown("cpu: missing")]
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.decisions("psi", "psi_error")[0] == ("unknown", "cpu: missing")
    assert one.decisions("state")[-1] == ("THROTTLE1",)
    assert decisions.read_samples(one.samples.path, "run")[-1].facts["psi"] == "unknown"


@pytest.mark.claim("K3")
def test_K3_a_frozen_engine_is_restarted_at_the_threshold(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.clock.at(100, one.computer.freeze)
    assert one.run() == reducer.EXIT_COMPLETE
    (stall,) = [entry.facts for entry in decisions.read(one.log.path) if entry.action == "STALL"]
    assert (stall["progress"], stall["stall_streak"]) == (False, 1)
    assert stall["seconds_since_progress"] == pytest.approx(45.0, abs=0.01)
    ticks = stall["ticks_count"]
    assert isinstance(ticks, int)
    assert stall["last_tick_ts"] == ticks * 1000
    assert one.restarts() == ["Soak Start", "Restarting due to STALL"]


@pytest.mark.claim("K3")
def test_K3_a_slow_engine_is_left_alone(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.computer.ticks_per_sec = 1 / 40
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.restarts() == ["Soak Start"]


@pytest.mark.claim("K3")
def test_K3_stalls_in_a_row_are_counted(bench: Callable[..., Bench]) -> None:
    one = bench(seconds=200.0)
    one.clock.at(1, lambda: setattr(one.computer, "ticks_per_sec", 0.0))
    assert one.run() == reducer.EXIT_COMPLETE
    assert [streak for (streak,) in one.decisions("stall_streak") if streak] == [1, 2, 3, 4]


@pytest.mark.claim("K3")
def test_K3_a_database_that_cannot_be_read_aborts_after_the_threshold(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.clock.at(50, lambda: setattr(one.computer, "unreadable", True))
    assert one.run() == reducer.EXIT_ABORT
    assert "STALL" not in one.decisions()
    assert "progress cannot be seen" in one.decisions("reason")[-2][0]


@pytest.mark.claim("K4")
def test_K4_exit_0_stops(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.clock.at(50, lambda: one.computer.finish(restarted=False))
    assert one.run() == reducer.EXIT_STOPPED
    assert one.decisions()[-3:] == ["ENGINE_EXIT", "STOP", "ENGINE_STOP"]
    assert one.exits() == [(0, "nobody")]


@pytest.mark.claim("K4")
def test_K4_a_restart_by_an_operator_is_told_apart(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.clock.at(50, lambda: one.computer.finish(restarted=True))
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.exits() == [(0, "operator")]
    assert one.computer.calls == ["restart", "stop"]


@pytest.mark.claim("K4")
@pytest.mark.parametrize(
    ("status", "code", "result"),
    [(12, "exited", "exit-code"), (1, "exited", "exit-code"), (9, "killed", "signal"), (2, "exited", "exit-code")],
)
def test_what_no_restart_heals_aborts(bench: Callable[..., Bench], status: int, code: str, result: str) -> None:
    one = bench()
    one.clock.at(50, lambda: one.computer.fail(status, code=code, result=result, restarted=status == 1))
    assert one.run() == reducer.EXIT_ABORT
    assert one.decisions()[-3:] == ["ENGINE_EXIT", "ABORT", "ENGINE_STOP"]


@pytest.mark.claim("K4")
def test_K4_a_watchdog_restart_is_attributed_and_left_alone(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.clock.at(50, lambda: one.computer.fail(6, code="dumped", result="watchdog"))
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.exits() == [(None, "watchdog")]
    assert one.computer.calls == ["restart", "stop"]


@pytest.mark.claim("K4")
def test_K4_overload_steps_up_even_when_systemd_was_faster(bench: Callable[..., Bench]) -> None:
    one = bench()
    for at in (50, 100, 150):
        one.clock.at(at, lambda: one.computer.fail(13))
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.exits() == [(13, "systemd")] * 3
    assert one.decisions("state")[-1] == ("THROTTLE3",)
    assert len(one.restarts()) == 4


@pytest.mark.claim("K4")
def test_K4_overload_at_the_top_aborts(bench: Callable[..., Bench]) -> None:
    one = bench(psi_actions="off")
    for at in (50, 100, 150, 200):
        one.clock.at(at, lambda: one.computer.fail(13, restarted=False))
    assert one.run() == reducer.EXIT_ABORT
    assert one.exits() == [*[(13, "controller")] * 3, (13, "nobody")]


@pytest.mark.claim("K4")
def test_K4_two_overloads_between_two_looks_are_one_step(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.clock.at(51, lambda: one.computer.fail(13))
    one.clock.at(53, lambda: one.computer.fail(13))
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.exits() == [(13, "systemd"), (13, "controller")]
    assert one.decisions("state")[-1] == ("THROTTLE1",)


@pytest.mark.claim("K4")
def test_K4_lost_network_is_held_back_longer_each_time(bench: Callable[..., Bench]) -> None:
    one = bench(seconds=400.0, stall_threshold_secs=1000.0)
    one.computer.ticks_per_sec = 0.0
    starts: list[float] = []
    begin = one.computer.begin
    one.computer.begin = lambda: (starts.append(one.clock.now - 1000.0), begin())[1]  # type: ignore[method-assign]
    for at in (50, 100, 150, 200, 250):
        one.clock.at(at, lambda: one.computer.fail(10))
    assert one.run() == reducer.EXIT_COMPLETE
    held = [reason for action, reason in one.decisions("action", "reason") if "Holding" in str(reason)]
    assert len(held) == 5
    assert starts[-1] == pytest.approx(250 + 32, abs=0.3)
    assert one.exits() == [(10, "systemd")] * 5


@pytest.mark.claim("K4")
def test_K4_a_protocol_that_changed_falls_back_to_the_mock_feed(bench: Callable[..., Bench]) -> None:
    one = bench()
    for at in (50, 60, 70, 80):
        one.clock.at(at, lambda: one.computer.fail(11))
    modes: list[str] = []
    one.clock.at(100, lambda: modes.append(ConfigFile(one.config).load()["engine"]["ingest_mode"]))
    assert one.run() == reducer.EXIT_COMPLETE
    assert modes == ["MOCK_WS"]
    assert one.decisions("ingest_mode")[-1] == ("mockws",)
    assert one.restarts() == ["Soak Start", "Falling back to the mock feed: exit 11 (PARSE)"]


@pytest.mark.claim("R7", "K4", "K5")
def test_a_live_engine_that_is_put_on_the_mock_feed_ends_the_soak(bench: Callable[..., Bench]) -> None:
    """LIVE refuses made-up prices with 12: the soak aborts, and leaves the configuration as it was."""
    one = bench()
    before = one.config.read_text()
    for at in (50, 60, 70, 80):
        one.clock.at(at, lambda: one.computer.fail(11))
    one.clock.at(82, lambda: one.computer.fail(12, restarted=False))
    assert one.run() == reducer.EXIT_ABORT
    assert one.restarts()[-1].startswith("Falling back to the mock feed")
    aborted = [reason for action, reason in one.decisions("action", "reason") if action == "ABORT"]
    assert [str(reason).partition(":")[0] for reason in aborted] == ["exit 12 (CONFIG)"]
    assert one.config.read_text() == before


@pytest.mark.claim("K4")
def test_K4_a_retry_that_systemd_does_not_make_is_ours(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.clock.at(50, lambda: one.computer.fail(11, restarted=False))
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.exits() == [(11, "controller")]
    assert len(one.restarts()) == 2


@pytest.mark.claim("K4")
def test_K4_an_end_that_our_own_restart_brought_about_is_not_answered(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.clock.at(100, one.computer.freeze)
    restart = one.computer.restart

    def killed_while_stopping(give_up: Callable[[], bool]) -> str:
        if one.computer.frozen:
            one.computer.fail(9, code="killed", result="timeout", restarted=False)
        return restart(give_up)

    one.computer.restart = killed_while_stopping  # type: ignore[method-assign]
    assert one.run() == reducer.EXIT_COMPLETE
    assert one.exits() == []


@pytest.mark.claim("K4")
def test_K4_a_restart_that_fails_says_why(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.computer.readings = [CALM, PRESSED]
    one.clock.at(0.1, lambda: setattr(one.computer, "end_at_start", 12))
    one.computer.readings = [CALM, CALM, PRESSED]
    assert one.run() == reducer.EXIT_ABORT
    assert "systemctl said: Job for hybrid-engine.service failed" in one.decisions("reason")[-2][0]


@pytest.mark.claim("K4")
def test_K4_a_unit_that_vanishes_without_a_word_aborts(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.clock.at(50, lambda: one.computer.stop(lambda: False))
    assert one.run() == reducer.EXIT_ABORT
    assert "The unit is down" in one.decisions("reason")[-2][0]


@pytest.mark.claim("K7")
def test_K7_the_abort_file_stops_the_run(bench: Callable[..., Bench]) -> None:
    one = bench(poll_secs=60.0)
    one.clock.at(50, lambda: one.abort_file.write_text(""))
    assert one.run() == reducer.EXIT_ABORT
    assert one.decisions()[-2:] == ["ABORT", "ENGINE_STOP"]
    assert one.clock.now < 1052


@pytest.mark.claim("K7")
def test_K7_an_abort_file_at_the_start_touches_nothing(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.abort_file.write_text("")
    assert one.run() == reducer.EXIT_ABORT
    assert one.decisions() == ["STARTUP", "ABORT"]
    assert one.computer.calls == []


@pytest.mark.claim("K7")
def test_K7_a_failing_healthcheck_at_the_start_aborts(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.healthy = [Finding("database", False, "no new tick")]
    assert one.run() == reducer.EXIT_ABORT
    assert one.decisions() == ["STARTUP", "ENGINE_RESTART", "ABORT", "ENGINE_STOP"]
    assert "FAIL database no new tick" in one.decisions("reason")[2][0]
    assert one.clock.now == pytest.approx(1045.0, abs=0.3)


@pytest.mark.claim("K7")
def test_K7_a_feed_that_takes_a_moment_is_waited_for(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.healthy = [Finding("database", False, "no new tick")]
    one.clock.at(20, lambda: setattr(one, "healthy", [Finding("database", True, "")]))
    assert one.run() == reducer.EXIT_COMPLETE


@pytest.mark.claim("K7")
def test_K7_a_unit_that_cannot_start_is_not_waited_for(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.computer.end_at_start = 12
    one.healthy = [Finding("unit", False, "failed/failed")]
    assert one.run() == reducer.EXIT_ABORT
    assert one.clock.now == 1000.0
    assert "systemctl said" in one.decisions("reason")[2][0]


@pytest.mark.claim("K7")
def test_K7_a_signal_ends_it_in_order(bench: Callable[..., Bench]) -> None:
    one = bench(poll_secs=60.0)
    with soak._stopped_by_signals(one.soak):
        one.clock.at(50, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert one.run() == reducer.EXIT_STOPPED
    assert one.decisions("action", "reason")[-2] == ("STOP", "Stopped by SIGTERM")
    assert one.computer.calls[-1] == "stop"
    assert one.clock.now < 1052


@pytest.mark.claim("K7", "K11")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("healthy", [True, False])
def test_K7_K11_each_signal_ends_it_at_once_also_while_health_is_waited_for(
    bench: Callable[..., Bench], signum: signal.Signals, healthy: bool
) -> None:
    """Whoever closes the terminal hangs up."""
    one = bench(poll_secs=60.0)
    one.healthy = [Finding("database", healthy, "")]
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with soak._stopped_by_signals(one.soak):
            one.clock.at(10, lambda: os.kill(os.getpid(), signum))
            assert one.run() == reducer.EXIT_STOPPED
    finally:
        signal.signal(signum, before)
    assert one.decisions("action", "reason")[-2] == ("STOP", f"Stopped by {signum.name}")
    assert one.clock.now < 1012


@pytest.mark.claim("K7")
def test_K7_the_abort_file_is_seen_while_health_is_waited_for(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.healthy = [Finding("database", False, "no new tick")]
    one.clock.at(10, lambda: one.abort_file.write_text(""))
    assert one.run() == reducer.EXIT_ABORT
    assert "Abort file" in one.decisions("reason")[2][0]
    assert one.clock.now < 1012


@pytest.mark.claim("K7")
def test_K7_plain_lines_without_a_terminal(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.run()
    text = one.screen.getvalue()
    assert "[SOAK] ENGINE_RESTART: Soak Start\n" in text
    assert "\x1b" not in text
    assert "\r" not in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.claim("K7")
def test_K7_a_line_that_is_redrawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    screen = Screen(stream, FakeClock())
    sample = {"elapsed_secs": 5.0, "active": "active", "state": "NORMAL", "restarts": 0}
    screen.draw(sample, 10)
    screen.say("[SOAK] STALL: x")
    assert stream.getvalue().count("\r\x1b[K") == 2
    assert "[##########----------]" in stream.getvalue()
    assert "\x1b[32mNORMAL" in stream.getvalue()


@pytest.mark.claim("K7")
@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_K7_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    stream = Terminal()
    Screen(stream, FakeClock()).draw({"elapsed_secs": 5.0, "active": "active", "state": "NORMAL", "restarts": 0}, 10)
    assert "\x1b[32m" not in stream.getvalue()
    assert ("\r" in stream.getvalue()) == (name == "NO_COLOR")


def test_a_terminal_that_was_closed_ends_no_soak() -> None:
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    Screen(Closed(), FakeClock()).say("x")


@pytest.mark.claim("K7")
@pytest.mark.parametrize("blind_looks", [3, 4])
def test_a_systemd_that_stays_silent_aborts(bench: Callable[..., Bench], blind_looks: int) -> None:
    one = bench()
    one.clock.at(51, lambda: setattr(one.computer, "blind", True))
    one.clock.at(51 + 5 * blind_looks, lambda: setattr(one.computer, "blind", False))
    assert one.run() == (reducer.EXIT_ABORT if blind_looks > 3 else reducer.EXIT_COMPLETE)


@pytest.mark.claim("K5")
def test_K5_a_config_that_cannot_be_rewritten_is_an_error_and_the_engine_is_stopped(
    bench: Callable[..., Bench],
) -> None:
    one = bench()
    one.computer.readings = [CALM, CALM, PRESSED]
    broken = "invalid = [toml\n"
    one.clock.at(1, lambda: one.config.write_text(broken))
    with pytest.raises(HarnessError, match="not valid TOML"):
        one.soak.run()
    assert one.decisions()[-3:] == ["CONFIG_ERROR", "CONFIG_ERROR", "ENGINE_STOP"]
    assert one.computer.calls[-1] == "stop"
    assert one.config.with_name("config.toml.soak-original").read_text() == CONFIG


@pytest.mark.claim("K6")
def test_K6_without_a_record_nothing_goes_on(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench()

    def full(*_: object, **__: object) -> None:
        raise RecorderError("disk full")

    one.clock.at(50, lambda: monkeypatch.setattr(DecisionLog, "write", full))
    # As the flight record, which is on the same disk, refuses each command.
    one.clock.at(50, lambda: monkeypatch.setattr(FakeComputer, "journal", full))
    one.clock.at(50, one.computer.freeze)
    with pytest.raises(RecorderError):
        one.soak.run()
    assert one.config.read_text() == CONFIG


def options(directory: Path, *more: str) -> list[str]:
    config = directory / "config.toml"
    if not config.exists():
        config.write_text(CONFIG)
    return ["--config", str(config), "--decision-log", str(directory / "ops/d.jsonl"), *more]


@pytest.mark.claim("K7", "K5")
@pytest.mark.parametrize("shared", ["ops", "."])
def test_K7_K5_only_one_controller_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str], shared: str) -> None:
    """Of a decision log, and of a config wherever its log is."""
    (tmp_path / "ops").mkdir()
    with soak._alone(tmp_path / shared):
        for more in ([], ["--put-back"]):
            assert soak.main([*options(tmp_path), *more]) == reducer.EXIT_ABORT
            assert "another soak controller runs" in capsys.readouterr().err
    assert not (tmp_path / "ops/d.jsonl").exists()


@pytest.mark.claim("K6")
@pytest.mark.parametrize("name", [soak.SAMPLES, soak.RECORD])
def test_what_grew_too_large_is_set_aside_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also where the soak does not come far."""
    monkeypatch.setattr(soak, "KEPT_BYTES", 3)
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / name).write_text("old\n")
    monkeypatch.setattr(soak, "_soak", lambda *_: Ended())
    assert soak.main(options(tmp_path)) == reducer.EXIT_COMPLETE
    assert (tmp_path / "ops" / f"{name}.1").read_text() == "old\n"
    assert "old" not in (tmp_path / "ops" / name).read_text()


class Ended:
    """A soak that is over."""

    def ask_to_stop(self, why: str) -> None:
        pass

    def run(self) -> int:
        return reducer.EXIT_COMPLETE


@pytest.mark.claim("K6")
def test_K6_a_config_that_is_missing_is_a_decision_and_has_a_report(tmp_path: Path) -> None:
    argv = ["--config", str(tmp_path / "none.toml"), "--decision-log", str(tmp_path / "ops/d.jsonl")]
    assert soak.main(argv) == reducer.EXIT_ABORT
    (entry,) = decisions.read(tmp_path / "ops/d.jsonl")
    assert entry.action == "CONFIG_ERROR"
    assert "none.toml: cannot be read" in entry.reason
    (report,) = (tmp_path / "ops").glob("soak_report_*.html")
    report.unlink()
    assert soak.write_report(tmp_path / "ops/d.jsonl", None) == report
    assert report.exists()


@pytest.mark.claim("K7")
def test_the_defaults_are_the_contracts() -> None:
    parser = argparse.ArgumentParser()
    soak.add_arguments(parser)
    found = {name: str(value) for name, value in vars(parser.parse_args([])).items()}
    assert found == {
        "seconds": "7200.0", "mode": "realws", "db": "None", "config": "/etc/hybrid-engine/config.toml",
        "unit": "hybrid-engine.service", "psi_actions": "on", "stall_threshold_sec": "45.0", "recover_after_sec": "0.0",
        "poll_sec": "5.0", "decision_log": "data/ops/soak_decisions.jsonl", "abort_file": "data/ops/ABORT",
        "pressure_dir": "/proc/pressure", "put_back": "False",
    }  # fmt: skip


@pytest.mark.parametrize(
    "argv", [["--seconds", "0"], ["--poll-sec", "-1"], ["--seconds", "nan"], ["--seconds", "inf"], ["--mode", "live"]]
)
def test_wrong_usage_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        soak.main(argv)
    assert caught.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_samples_hold_what_the_plots_need(bench: Callable[..., Bench]) -> None:
    one = bench(seconds=20.0)
    beat = {
        "MESSAGE": json.dumps(
            {"fields": {"message": "HEARTBEAT (G4)", "ingest_received": 7, "loop_lag_ms_p99": 1.5}, "level": "INFO"}
        ),
        "_SYSTEMD_INVOCATION_ID": f"{2:032x}",
    }
    one.clock.at(6, lambda: one.computer.entries.append(beat))
    one.run()
    last = decisions.read_samples(one.samples.path, "run")[-1].facts
    assert (last["ticks_per_sec"], last["rss_bytes"], last["loop_lag_ms_p99"]) == (2.0, 44 * 2**20, 1.5)
    assert {f"{name}_some_avg10" for name in pressure.RESOURCES} <= set(last)
    assert (last["ingest_received"], last["sample_every"], last["restarts"]) == (7, 1, 0)
