"""Why a run of the engine ended, and what the soak controller does about it (contract K4).

systemd restarts the unit by itself on every exit status but 0 and 12, two seconds later. The controller does not
fight it: it acts on what systemd leaves.

    exit            the controller's answer                       systemd has restarted it already
    0               the soak stops                                (it does not)
    10 NETWORK      restart, with a backoff that doubles          is left running when the delay has passed, else
                                                                  stopped until it has
    11 PARSE        restart; after three retries the mock feed    is left running
    12 CONFIG       abort                                         (it does not)
    13 OVERLOAD     one rung up and restart; at the top abort     is restarted with the new rung
    watchdog        restart: systemd saw a stall before we did    is left running
    anything else   abort                                         is stopped

A LIVE engine that is put on the mock feed ends with 12, since nobody trades on made-up prices (R7): the soak aborts,
and what it had changed in the configuration is put back.

Where the end of a run is learned: what is down now from `systemctl show`; what was restarted since the last look, and
what ended cleanly, from the journal, because `show` forgets an exit status with the next start and forgets a clean
unit altogether. Each run has an invocation id, by which it is answered once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from harness.base.unit import UnitState

# Catalogue ids of systemd's own messages (systemd/sd-messages.h).
_PROCESS_EXIT = "98e322203f7a4ed290d09fe03c09fe15"
_FAILURE_RESULT = "d9b373ed55a64feb8242e02dbe79a49c"
_SUCCESS = "7ad2d189f7e94e70a38c781354912448"
_STOPPING = "de5b426a63be47a7b6ac3eaac82e2f6f"
_STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"

_CODES = {1: "exited", 2: "killed", 3: "dumped"}

BACKOFF_SECS_FIRST = 2.0
"""Delay of the first restart after NETWORK: the unit's own RestartSec, so that systemd's restart stands."""

BACKOFF_SECS_MAX = 300.0

PARSE_RETRIES = 3
"""Restarts after PARSE before the mock feed takes over."""

PARSE_ROW_SECS = 600.0
"""Two ends with PARSE further apart than this are not in a row. Progress says nothing here: a venue may send good
messages before the bad ones every time."""


SOAK_START, SOAK_END = "Soak Start", "Soak End"
"""How the reason of an ENGINE_RESTART begins that is not for anything the engine did."""


class EngineExitCode(IntEnum):
    """The engine's exit statuses (contract section 3)."""

    COMPLETE = 0
    CRASH = 1
    NETWORK = 10
    PARSE = 11
    CONFIG = 12
    OVERLOAD = 13


@dataclass(frozen=True)
class Exit:
    """The end of one run of the engine."""

    invocation_id: str
    code: str
    """exited, killed or dumped; empty when no process ran."""
    status: int | None
    """Exit status, or signal number; None when systemd did not tell."""
    result: str
    """systemd's verdict: success, exit-code, signal, core-dump, watchdog, timeout..."""
    at: float | None
    """Monotonic seconds; None when it was not told (systemctl show)."""

    @property
    def exit_code(self) -> int | None:
        """The exit status, None when a signal or systemd ended the run."""
        return self.status if self.code == "exited" and self.result in ("success", "exit-code") else None

    def __str__(self) -> str:
        if self.result == "watchdog":
            return "watchdog"
        if self.exit_code is not None:
            name = (
                EngineExitCode(self.exit_code).name
                if self.exit_code in list(EngineExitCode)
                else "unknown to the contract"
            )
            return f"exit {self.exit_code} ({name})"
        return f"{self.result}{f': {self.code} {self.status}' if self.code else ''}"


class ExitAction(StrEnum):
    """What an exit asks for."""

    STOP = "STOP"
    RESTART = "RESTART"
    FALL_BACK = "FALL_BACK"
    STEP_UP = "STEP_UP"
    ABORT = "ABORT"


@dataclass(frozen=True)
class Answer:
    """What to do about an exit."""

    action: ExitAction
    reason: str
    delay_secs: float = 0.0
    """RESTART: not before so long after the exit."""


class ExitPolicy:
    """K4 with its memory: how often in a row the network was lost, or the protocol not understood."""

    def __init__(self) -> None:
        self._network_row = 0
        # When it ended with PARSE, as long as those are in a row.
        self._parse_ends: list[float] = []
        self._fell_back = False

    def progressed(self) -> None:
        """The engine stored a tick: whatever kept it from the network is over."""
        self._network_row = 0

    def answer(self, ended: Exit, now: float) -> Answer:
        """Return what to do about `ended`; now: monotonic seconds of the exit."""
        if ended.result == "watchdog":
            return Answer(ExitAction.RESTART, "systemd's watchdog found it stuck")
        match ended.exit_code:
            case EngineExitCode.COMPLETE:
                return Answer(ExitAction.STOP, "the engine ended by itself")
            case EngineExitCode.NETWORK:
                self._network_row += 1
                delay = min(BACKOFF_SECS_FIRST * 2.0 ** (self._network_row - 1), BACKOFF_SECS_MAX)
                return Answer(ExitAction.RESTART, f"network lost {self._network_row} time(s) in a row", delay)
            case EngineExitCode.PARSE:
                return self._answer_parse(now)
            case EngineExitCode.OVERLOAD:
                return Answer(ExitAction.STEP_UP, "overload")
            case EngineExitCode.CONFIG:
                return Answer(ExitAction.ABORT, "the configuration is wrong, which no restart can heal")
            case _:
                return Answer(ExitAction.ABORT, "an end that the contract has no restart for")

    def _answer_parse(self, now: float) -> Answer:
        if self._parse_ends and now - self._parse_ends[-1] > PARSE_ROW_SECS:
            self._parse_ends.clear()
        self._parse_ends.append(now)
        if len(self._parse_ends) <= PARSE_RETRIES:
            return Answer(ExitAction.RESTART, f"retry {len(self._parse_ends)} of {PARSE_RETRIES}")
        if self._fell_back:
            return Answer(ExitAction.ABORT, "the mock feed cannot be understood either")
        self._fell_back = True
        self._parse_ends.clear()
        return Answer(ExitAction.FALL_BACK, f"not understood after {PARSE_RETRIES} retries")


def is_down(state: UnitState) -> bool:
    """Return whether no process of the unit runs or is being started or stopped; systemd may be about to start one."""
    return state.active in ("failed", "inactive") or awaits_restart(state)


def runs(state: UnitState) -> bool:
    """Return whether a process of the unit runs, or systemd is about to start one."""
    return not is_down(state) or awaits_restart(state)


def awaits_restart(state: UnitState) -> bool:
    """Return whether systemd will start it again by itself, after its RestartSec."""
    return state.sub.startswith("auto-restart")


def from_unit(state: UnitState) -> Exit | None:
    """Return the end of the run that `systemctl show` tells of; None while it lives, or when the unit never ran."""
    if not is_down(state) or not state.invocation_id or (state.active == "inactive" and state.exec_main_code == 0):
        return None
    code = _CODES.get(state.exec_main_code, "")
    return Exit(state.invocation_id, code, state.exec_main_status if code else None, state.result, None)


class Endings:
    """Journal entries of the unit, in order -> the runs that have ended. How the process ended is remembered until
    systemd has said its last word on that run."""

    def __init__(self) -> None:
        self._processes: dict[str, tuple[str, int | None]] = {}
        self.stopped: set[str] = set()
        """Invocations that did not end by themselves: systemd was asked to stop or to restart the unit."""

    def take(self, entries: Iterable[Mapping[str, str]]) -> list[Exit]:
        """entries: fields as `journalctl -o json` prints them."""
        found = []
        for entry in entries:
            invocation = entry.get("INVOCATION_ID") or entry.get("USER_INVOCATION_ID") or ""
            kind = entry.get("MESSAGE_ID", "")
            # What anybody may log under these names is not systemd's word.
            if not invocation or entry.get("_PID", "1") != "1":
                continue
            if kind == _STOPPING:
                self.stopped.add(invocation)
            elif kind == _PROCESS_EXIT and entry.get("COMMAND", "ExecStart") == "ExecStart":
                self._processes[invocation] = (entry.get("EXIT_CODE", ""), _number(entry.get("EXIT_STATUS", "")))
            elif kind in (_FAILURE_RESULT, _SUCCESS):
                # systemd says nothing of how the process ended when that was clean.
                untold = ("exited", 0) if kind == _SUCCESS else ("", None)
                code, status = self._processes.pop(invocation, untold)
                at = int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6 if "__MONOTONIC_TIMESTAMP" in entry else None
                found.append(Exit(invocation, code, status, entry.get("UNIT_RESULT", "success"), at))
        return found


def stopped_since(entries: Sequence[Mapping[str, str]], *, acted: bool) -> bool:
    """Return whether somebody else stopped the unit's last run.

    entries: the unit's journal since we restarted or stopped it (`acted`), or else since we saw it first: what began
    before an act of ours was ended by it.
    """
    endings = Endings()
    endings.take(entries)
    runs = [entry.get("INVOCATION_ID") or entry.get("USER_INVOCATION_ID") or "" for entry in entries]
    begun = {run for run, entry in zip(runs, entries, strict=True) if entry.get("MESSAGE_ID") == _STARTING}
    last = next((run for run in reversed(runs) if run), "")
    return last in endings.stopped and (not acted or last in begun)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
