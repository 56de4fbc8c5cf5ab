"""Whatever ends a soak, config and engine are as it found them (contract K11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import CommandFailed, HarnessError, RecorderError
from harness.soak import controller as soak
from harness.soak import decisions, put_back, reducer
from proofs.harness.test_exit_actions import starting, stopping
from proofs.harness.test_soak import CALM, CONFIG, PRESSED, Bench, FakeComputer

Found = str


class Watched(Bench):
    """A bench on which the engine was found running or stopped, and every start of it is looked at."""

    def __init__(self, directory: Path, found: Found, **changes: Any) -> None:
        super().__init__(directory, **changes)
        if found == put_back.RUNNING:
            self.computer.active, self.computer.sub = "active", "running"
        self.started_on: list[str] = []
        begin = self.computer.begin
        self.computer.begin = lambda: (self.started_on.append(self.config.read_text()), begin())[1]  # type: ignore[method-assign]

    def stop_by_operator(self) -> None:
        """`systemctl stop`, by somebody else."""
        if self.computer.active == "active":
            self.computer.entries.append(stopping(self.computer.invocation))
            self.computer.finish(restarted=False)

    def finish(self) -> None:
        if self.computer.active == "active":
            self.computer.finish(restarted=False)

    def fail(self, status: int) -> None:
        if self.computer.active == "active":
            self.computer.fail(status, restarted=status != 12)

    @property
    def last(self) -> dict[str, Any]:
        return decisions.read(self.log.path)[-1].as_json()

    @property
    def now(self) -> Found:
        return put_back.found(self.computer)


EVENTS: dict[str, Callable[[Watched], object]] = {
    "network": lambda one: one.fail(10),
    "parse": lambda one: one.fail(11),
    "config": lambda one: one.fail(12),
    "overload": lambda one: one.fail(13),
    "crash": lambda one: one.fail(1),
    "ends": Watched.finish,
    "frozen": lambda one: one.computer.freeze(),
    "pressure": lambda one: one.computer.readings.append(PRESSED),
    "calm": lambda one: one.computer.readings.append(CALM),
    "database gone": lambda one: setattr(one.computer, "unreadable", True),
    "signal": lambda one: one.soak.ask_to_stop("SIGTERM"),
    "abort file": lambda one: one.abort_file.touch(),
    "systemd is silent": lambda one: setattr(one.computer, "blind", True),
    "systemd answers": lambda one: setattr(one.computer, "blind", False),
}


@pytest.mark.slow
@pytest.mark.claim("K11")
@given(
    st.sampled_from([put_back.RUNNING, put_back.STOPPED]),
    st.lists(st.tuples(st.floats(0, 310), st.sampled_from(sorted(EVENTS))), max_size=6),
)
def test_whatever_happens_it_is_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, found: Found, events: list[tuple[float, str]]
) -> None:
    one = Watched(tmp_path_factory.mktemp("soak"), found)
    for at, name in events:
        one.clock.at(at, partial(EVENTS[name], one))
    one.run()
    one.computer.blind = False
    assert one.now == found
    assert one.last["action"] == "PUT_BACK"
    assert one.last["engine_before"] == found
    if found == put_back.RUNNING:
        assert one.started_on[-1] == CONFIG, "it runs on the operator's config"


@pytest.mark.claim("K11")
def test_an_engine_that_somebody_else_stopped_stays_stopped(tmp_path: Path) -> None:
    one = Watched(tmp_path, put_back.RUNNING)
    one.clock.at(50, one.stop_by_operator)
    assert one.run() == reducer.EXIT_STOPPED
    assert one.decisions("action", "reason")[-2:] == [
        ("ENGINE_EXIT", "exit 0 (COMPLETE): stopped by somebody else"),
        ("STOP", "exit 0 (COMPLETE): stopped by somebody else"),
    ]
    assert one.last["reason"] == "Config put back; engine left stopped, as somebody else stopped it"
    assert one.computer.calls == ["restart"]


@pytest.mark.claim("K11")
def test_both_stopped_at_once_stay_stopped(tmp_path: Path) -> None:
    """`systemctl stop hybrid-soak hybrid-engine`: the controller looks no more, but before it puts back."""
    one = Watched(tmp_path, put_back.RUNNING)
    one.clock.at(50, lambda: one.soak.ask_to_stop("SIGTERM"))
    one.clock.at(50, one.stop_by_operator)
    one.run()
    assert one.now == put_back.STOPPED


@pytest.mark.claim("K11")
def test_a_shutdown_is_not_worked_against(tmp_path: Path) -> None:
    one = Watched(tmp_path, put_back.RUNNING)
    one.clock.at(50, lambda: setattr(one.computer, "shutdown", True))
    one.clock.at(50, lambda: one.soak.ask_to_stop("SIGTERM"))
    assert one.run() == reducer.EXIT_STOPPED
    assert one.computer.calls == ["restart"]
    assert one.last["reason"] == "Config put back; engine left to the shutdown of the computer"


@pytest.mark.claim("K11")
@pytest.mark.parametrize(("found", "calls"), [(put_back.RUNNING, []), (put_back.STOPPED, ["stop"])])
def test_without_the_config_a_running_engine_is_left_alone(tmp_path: Path, found: Found, calls: list[str]) -> None:
    """It would not start again on a config that somebody broke."""
    one = Watched(tmp_path, found)
    one.clock.at(1, lambda: one.config.write_text("invalid = [toml\n"))
    one.clock.at(50, lambda: one.soak.ask_to_stop("SIGTERM"))
    with pytest.raises(HarnessError, match="not valid TOML"):
        one.soak.run()
    assert one.computer.calls == ["restart", *calls]
    assert one.last["reason"].startswith("Config still changed; engine ")


@pytest.mark.claim("K11")
def test_an_engine_that_does_not_start_again_is_told(tmp_path: Path) -> None:
    one = Watched(tmp_path, put_back.RUNNING)
    one.clock.at(1, lambda: setattr(one.computer, "end_at_start", 12))
    one.run()
    assert one.last["reason"] == "Config put back; engine stopped: Job for hybrid-engine.service failed"


@pytest.mark.claim("K11")
@pytest.mark.parametrize("at", ["start", "stall"])
def test_a_stop_does_not_wait_for_an_engine_that_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    one = Watched(tmp_path, put_back.RUNNING)
    restart = FakeComputer.restart

    def slow(computer: FakeComputer, give_up: Callable[[], bool]) -> str:
        starts = len(computer.calls)
        if starts == (0 if at == "start" else 1):
            one.clock.at(one.clock.now - 1000 + 5, lambda: one.soak.ask_to_stop("SIGTERM"))
            while not give_up():
                one.clock.sleep(0.1)
        return restart(computer, give_up)

    monkeypatch.setattr(FakeComputer, "restart", slow)
    one.clock.at(20, one.computer.freeze)
    assert one.run() == reducer.EXIT_STOPPED
    assert one.clock.now < 1000 + 20 + 45 + 10


class Killed(BaseException):
    """Stands for SIGKILL."""


def kill(one: Watched, at: float) -> None:
    """The controller ends at that moment and does nothing any more."""

    def end() -> None:
        raise Killed

    one.clock.at(at, end)
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        patch.setattr(put_back, "put_back", lambda *_: None)
        one.soak.run()


def argv(one: Watched) -> list[str]:
    return ["--config", str(one.config), "--decision-log", str(one.log.path), "--put-back"]


@pytest.mark.claim("K11")
@pytest.mark.parametrize("found", [put_back.RUNNING, put_back.STOPPED])
def test_what_a_killed_soak_left_is_put_back_in_its_stead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Found
) -> None:
    one = Watched(tmp_path, found)
    monkeypatch.setattr(soak, "LocalComputer", lambda *_, **__: one.computer)
    # Held back after a lost network: the engine is stopped, and nobody but the controller would start it.
    one.computer.ticks_per_sec = 0.0
    for at in (10, 20, 30):
        one.clock.at(at, lambda: one.fail(10))
    kill(one, 36)
    assert (one.computer.active, one.config.read_text() != CONFIG) == ("inactive", True)
    assert soak.main(argv(one)) == 0
    assert (one.now, one.config.read_text()) == (found, CONFIG)
    assert {line.run_id for line in decisions.read_all(one.log.path)} == {"run"}
    acts = [line for line in decisions.read_all(one.log.path) if line.action.startswith("ENGINE_")]
    assert acts[-1].facts["soak_phase"] == "end"
    calls = list(one.computer.calls)
    assert soak.main(argv(one)) == 0
    assert one.computer.calls == calls, "it is put back once"


@pytest.mark.claim("K11")
@pytest.mark.parametrize("stalled", [False, True])
def test_what_somebody_else_stopped_after_the_kill_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stalled: bool
) -> None:
    one = Watched(tmp_path, put_back.RUNNING)
    monkeypatch.setattr(soak, "LocalComputer", lambda *_, **__: one.computer)
    if stalled:
        one.clock.at(5, one.computer.freeze)
    kill(one, 80)
    # Who reads the journal anew reads again what the soak has read.
    one.computer.entries.insert(0, starting(one.computer.invocation))
    one.stop_by_operator()
    assert soak.main(argv(one)) == 0
    assert (one.now, one.config.read_text()) == (put_back.STOPPED, CONFIG)
    assert one.last["reason"] == "Config put back; engine left stopped, as somebody else stopped it"


@pytest.mark.claim("K11")
def test_an_unreadable_log_does_not_keep_the_engine_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full ends the soak, and takes no decision of what is put back afterwards."""
    one = Watched(tmp_path, put_back.RUNNING)
    monkeypatch.setattr(soak, "LocalComputer", lambda *_, **__: one.computer)

    def full(*_: object, **__: object) -> None:
        raise RecorderError("disk full")

    kill(one, 35)
    one.computer.stop(lambda: False)
    monkeypatch.setattr(decisions.DecisionLog, "write", full)
    assert soak.main(argv(one)) == 0
    assert (one.now, one.config.read_text()) == (put_back.RUNNING, CONFIG)


@pytest.mark.claim("K11")
def test_the_next_soak_knows_how_the_killed_one_found_the_engine(tmp_path: Path) -> None:
    one = Watched(tmp_path, put_back.RUNNING)
    kill(one, 35)
    begun = put_back.unfinished(one.log.path)
    assert begun is not None
    again = Bench(tmp_path)
    again.computer.active, again.computer.sub = "inactive", "dead"
    again.soak._left_before = str(begun.facts["engine_before"])
    again.config.write_text('[engine]\nsample_every = 1 # ours\ningest_mode = "REAL_WS"\n')
    assert again.soak.run() == reducer.EXIT_COMPLETE
    assert put_back.found(again.computer) == put_back.RUNNING
    assert again.config.read_text() == CONFIG


@pytest.mark.claim("K11")
def test_nothing_is_unfinished_that_touched_nothing(tmp_path: Path) -> None:
    log = tmp_path / "d.jsonl"
    log.write_text("")
    assert put_back.unfinished(log) is None
    one = Watched(tmp_path, put_back.RUNNING)
    one.abort_file.touch()
    one.run()
    assert one.computer.calls == []
    assert put_back.unfinished(one.log.path) is None
    with one.log.path.open("a") as file:
        file.write(json.dumps({"run_id": "x", "action": "ENGINE_RESTART", "engine_before": 7}) + "\n")
    assert put_back.unfinished(one.log.path) is None


def test_a_systemd_that_is_silent_is_not_asked_how_it_looks(tmp_path: Path) -> None:
    one = Watched(tmp_path, put_back.RUNNING)
    one.computer.blind = True
    with pytest.raises(CommandFailed):
        put_back.found(one.computer)
