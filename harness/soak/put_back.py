"""The end of a soak: config and engine as they were found (contract K11).

    found         at the end
    running       runs, on the operator's config
    stopped       is stopped
    either        is left as it is when somebody else stopped it meanwhile, when the computer shuts down, or when the
                  config does not come back and it runs on what the soak made of it

A soak that was killed puts nothing back itself. `hybrid-soak --put-back` does it in its stead, which the unit runs
whatever ends the controller (ExecStopPost=); the decision log says how the engine was found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from harness.base.clock import Clock
from harness.base.errors import CommandFailed, HarnessError, RecorderError
from harness.observing.observe import Computer
from harness.soak.decisions import Decision, read
from harness.soak.exit_actions import SOAK_END, runs
from harness.soak.reducer import Action
from harness.soak.rewrite import ConfigFile, ConfigTrouble

RUNNING, STOPPED = "running", "stopped"
"""How the engine was found (`engine_before` of the decisions)."""

ACT_SECS = 30.0
"""How long a start or a stop at the end is waited for: longer than the engine takes to be killed, less than the soak's
own TimeoutStopSec=. systemd goes on with it in any case."""


class DecisionWriter(Protocol):
    """Puts a decision on disk."""

    def __call__(self, action: Action, reason: str, **facts: object) -> None: ...


def found(computer: Computer) -> str:
    """Return how the engine is now."""
    return RUNNING if runs(computer.unit()) else STOPPED


def put_back(
    computer: Computer,
    config: ConfigFile,
    engine_before: str,
    stopped_by_others: Callable[[], bool],
    decide: DecisionWriter,
    clock: Clock,
) -> None:
    """Put back config and engine, and tell what became of both.

    engine_before: RUNNING or STOPPED. stopped_by_others: whether somebody who is not us stopped the engine's last run.
    Raises ConfigTrouble when the config cannot be put back, after the engine has been seen to. Raises RecorderError
    when something cannot be recorded: the config is then put back, and the engine left as it is.
    """
    trouble = None
    try:
        config_now = "put back" if config.restore() else "as it was"
    except ConfigTrouble as error:
        trouble, config_now = error, "still changed"
        decide(Action.CONFIG_ERROR, str(error))
    try:
        engine_now = _put_engine_back(computer, engine_before, stopped_by_others(), trouble is None, decide, clock)
    except RecorderError:
        raise
    except HarnessError as error:
        decide(Action.PUT_BACK, f"Config {config_now}; engine unknown: {error}", engine_before=engine_before)
        raise
    decide(Action.PUT_BACK, f"Config {config_now}; engine {engine_now}", engine_before=engine_before)
    if trouble is not None:
        raise trouble


def _put_engine_back(
    computer: Computer, before: str, stopped_by_others: bool, has_config: bool, decide: DecisionWriter, clock: Clock
) -> str:
    end = clock.monotonic() + ACT_SECS

    def late() -> bool:
        return clock.monotonic() >= end

    now = _now(computer)
    if computer.shuts_down():
        return "left to the shutdown of the computer"
    if stopped_by_others and now == STOPPED:
        return "left stopped, as somebody else stopped it"
    if before == RUNNING and now == RUNNING and not has_config:
        return "left running on the config as it is"
    if before == RUNNING:
        decide(Action.ENGINE_RESTART, f"{SOAK_END}: it ran before", soak_phase="end")
        complaint = computer.restart(late)
    else:
        decide(Action.ENGINE_STOP, f"{SOAK_END}: it was stopped before", soak_phase="end")
        complaint = computer.stop(late)
    return f"{_now(computer)}: {complaint}" if complaint else f"{_now(computer)}, as before"


def _now(computer: Computer) -> str:
    try:
        return found(computer)
    except CommandFailed:
        return "unseen"


def last_act(log: Path) -> tuple[Decision, bool]:
    """Return the decision by which the last run in the log, an unfinished one, saw to the engine last, and whether it
    did so at all: without one, its first.

    Raises RecorderError when the log cannot be read.
    """
    last = read(log)
    acts = [one for one in last if one.action in (Action.ENGINE_RESTART, Action.ENGINE_STOP)]
    return (acts[-1], True) if acts else (last[0], False)


def unfinished(log: Path) -> Decision | None:
    """Find the first decision of the last run in the log, when that run found an engine and did not put it back.

    Raises RecorderError when the log cannot be read.
    """
    last = read(log)
    begun = next((one for one in last if one.facts.get("engine_before") in (RUNNING, STOPPED)), None)
    return None if any(one.action == Action.PUT_BACK for one in last) else begun
