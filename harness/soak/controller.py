"""`hybrid-soak`: watches the running engine for hours, and drives it through systemctl only (contract section 9).

Each poll of the computer is followed by decisions, each decision is on disk before it is acted on:

    poll      unit, journal, database, PSI, memory
    decide    why did a run end (exit_actions), does it stand still (stall), is the computer pressed (ladder): reducer
    act       systemctl restart or stop; rewrite `[engine] sample_every` or `ingest_mode`
    record    a decision line for each action, a sample line for each poll, every command in the flight record

At the end, whatever ends it, config and engine are as they were found (put_back.py), and a report is written.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TextIO

from harness.base import arguments, files, progress, terminal
from harness.base.clock import Clock, OsClock
from harness.base.errors import HarnessError, RecorderError
from harness.base.pressure import Pressure, Unknown
from harness.evidence.recorder import Recorder, Unrecorded
from harness.evidence.shell import Shell
from harness.observing import health, instances, observe
from harness.observing.judgement import Finding
from harness.observing.ledger_view import LedgerUnreadable
from harness.observing.observe import Computer, LocalComputer
from harness.observing.stall import Progress
from harness.soak import put_back
from harness.soak.decisions import (
    KEPT_BYTES,
    Decision,
    DecisionLog,
    Log,
    SampleLine,
    new_run_id,
    read,
    read_samples,
    set_aside,
    timestamp,
)
from harness.soak.exit_actions import stopped_since
from harness.soak.ladder import Ladder
from harness.soak.reducer import (
    EXIT_ABORT,
    EXIT_COMPLETE,
    INGEST_MODES,
    Action,
    Change,
    Decide,
    Effect,
    End,
    Halt,
    Reducer,
    Requests,
    Restart,
    Say,
    Seen,
    Terms,
    WriteSample,
)
from harness.soak.rewrite import ConfigFile, ConfigTrouble

NAP_SECS = 0.2
"""A sleeping process does not see the flag that a signal handler sets, so sleep is taken in naps."""

SAMPLES, RECORD = "soak_samples.jsonl", "soak_record.jsonl"
"""Beside the decision log: what the plots are made of, and every command."""

SCREEN_LINE_SECS = 60.0
"""Without a terminal, a line on how it goes is printed so often."""


@dataclass(frozen=True)
class Options(Terms):
    """What a soak was asked for, and where somebody may ask for its end."""

    abort_file: Path


class _Ended(Exception):
    """The soak is over."""

    def __init__(self, end: End) -> None:
        super().__init__(end.reason)
        self.end = end


class Screen:
    """Where a human watches: a line that is redrawn on a terminal, plain lines elsewhere."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._redrawn = terminal.redraws(stream)
        self._colour = terminal.coloured(stream)
        self._clock = clock
        self._next_line_at = 0.0

    def say(self, text: str) -> None:
        """Print one line that stays."""
        self._put(f"{terminal.CLEAR}{text}\n" if self._redrawn else f"{text}\n")

    def draw(self, sample: Mapping[str, object], seconds: float) -> None:
        """Show how it goes."""
        if self._redrawn:
            width = terminal.columns()
            self._put(f"{terminal.CLEAR}{progress.line(sample, seconds, colour=self._colour, columns=width)}")
        elif self._clock.monotonic() >= self._next_line_at:
            self._next_line_at = self._clock.monotonic() + SCREEN_LINE_SECS
            self.say(progress.line(sample, seconds, colour=self._colour, columns=None))

    def close(self) -> None:
        """Leave the redrawn line behind."""
        if self._redrawn:
            self._put("\n")

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # A terminal that was closed or a pipe nobody reads must not end a soak of hours.
            return


class Soak:
    """One run of the controller."""

    def __init__(
        self,
        options: Options,
        computer: Computer,
        config: ConfigFile,
        healthcheck: Callable[[], list[Finding]],
        log: DecisionLog,
        samples: Log,
        clock: Clock,
        screen: Screen,
        engine_before: str = "",
    ) -> None:
        """healthcheck: examines the engine once; every finding must be ok before the soak begins.

        engine_before: how a soak that was killed found the engine (put_back.RUNNING or STOPPED), if it did not put it
        back: then that counts, and not what it left.
        """
        self._options = options
        self._computer = computer
        self._config = config
        self._healthcheck = healthcheck
        self._log = log
        self._samples = samples
        self._clock = clock
        self._screen = screen
        self._reducer = Reducer(options, clock.monotonic())
        # The name of the signal that asks for the end; empty while none does.
        self._asked_to_stop = ""
        # How the engine was found; empty as long as nothing was touched.
        self._engine_before = ""
        self._left_before = engine_before

    def ask_to_stop(self, why: str) -> None:
        """End the soak soon, in order. May be called by a signal handler."""
        self._asked_to_stop = self._asked_to_stop or why

    def run(self) -> int:
        """Return the whole soak; returns the exit status.

        Raises RecorderError when something cannot be recorded: then nothing more is done to the unit, which goes
        on running, and the config is put back. Raises ConfigTrouble when that fails.
        """
        try:
            self._begin()
            while True:
                self._poll()
                self._pause()
        except _Ended as ended:
            self._decide(ended.end.action, ended.end.reason)
            return ended.end.status
        except RecorderError:
            raise
        except HarnessError as error:
            self._decide(Action.CONFIG_ERROR if isinstance(error, ConfigTrouble) else Action.ABORT, str(error))
            return EXIT_ABORT
        finally:
            self._put_back()
            self._screen.close()

    # --- beginning and end ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        restored = self._config.restore()
        self._config.load()
        self._carry_out(self._reducer.start(self._log.run_id, self._read_pressure(), restored=restored))
        self._check_requests()
        self._engine_before = (self._left_before if restored else "") or put_back.found(self._computer)
        self._carry_out(self._reducer.begin(self._engine_before))
        self._await_health()
        self._reducer.healthy(self._clock.monotonic())

    def _await_health(self) -> None:
        """A feed gets as long to deliver as a stall may last."""
        end = self._clock.monotonic() + self._options.stall_threshold_secs
        while True:
            self._check_requests()
            failed = [str(finding) for finding in self._healthcheck() if not finding.ok]
            if not failed:
                return
            self._end_if(self._reducer.judge_health(failed, self._computer.unit(), self._clock.monotonic(), end))
            self._clock.sleep(NAP_SECS)

    def _put_back(self) -> None:
        if self._engine_before:
            put_back.put_back(
                self._computer, self._config, self._engine_before, self._stopped_by_others, self._decide, self._clock
            )

    def _stopped_by_others(self) -> bool:
        """Return whether somebody else stopped the run of the engine that was last seen."""
        entries: Sequence[Mapping[str, str]] = ()
        try:
            entries = self._computer.journal()
        except RecorderError:
            raise
        except HarnessError as error:
            self._screen.say(f"[SOAK] {error}")
        return self._reducer.stopped_by_others(entries)

    def _check_requests(self) -> None:
        abort_file = self._options.abort_file
        requests = Requests(self._asked_to_stop, str(abort_file) if abort_file.exists() else "")
        self._end_if(self._reducer.check(requests))

    def _end_if(self, end: End | None) -> None:
        if end is not None:
            raise _Ended(end)

    # --- one poll ------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._check_requests()
        now = self._clock.monotonic()
        self._end_if(self._reducer.check_time(now))
        self._carry_out(self._reducer.observe(self._see(), now))

    def _see(self) -> Seen:
        entries: Sequence[Mapping[str, str]] = ()
        try:
            # The journal first: what has ended by then shows in the state that is looked at next.
            entries = self._computer.journal()
            state = self._computer.unit()
        except RecorderError:
            raise
        except HarnessError as error:
            return Seen(entries, str(error))
        reading = self._read_pressure()
        progress: Progress | str
        try:
            progress = self._computer.progress()
        except LedgerUnreadable as error:
            progress = str(error)
        beat = observe.heartbeat(entries, state.invocation_id)
        return Seen(entries, state, None if beat is None else beat.fields, reading, progress)

    def _read_pressure(self) -> Pressure | Unknown | None:
        if self._options.psi_actions != "off":
            return self._computer.pressure()
        return None

    def _pause(self) -> None:
        """Wait until the next poll."""
        until = self._reducer.next_poll_at(self._clock.monotonic())
        while (left := until - self._clock.monotonic()) > 0:
            if self._asked_to_stop or self._options.abort_file.exists():
                return
            self._clock.sleep(min(NAP_SECS, left))

    # --- effects -------------------------------------------------------------------------------------------

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Decide():
                    self._record(effect)
                case Change():
                    self._config.change(dict(effect.keys))
                case Restart():
                    self._act(self._computer.restart, started=True)
                case Halt():
                    self._act(self._computer.stop, started=False)
                case Say():
                    self._screen.say(f"[SOAK] {effect.text}")
                case WriteSample():
                    self._sample(effect)
                case End():
                    raise _Ended(effect)

    def _act(self, act: Callable[[Callable[[], bool]], str], *, started: bool) -> None:
        """Do something to the unit that ends its present run. Given up when we are to stop."""
        ended = self._computer.unit().invocation_id
        began_at = self._clock.monotonic()
        complaint = act(lambda: bool(self._asked_to_stop))
        present = self._computer.unit().invocation_id
        self._reducer.acted(ended, present, complaint, began_at, self._clock.monotonic(), started=started)

    def _decide(self, action: Action, reason: str, **facts: object) -> None:
        self._record(self._reducer.decision(action, reason, facts))

    def _record(self, decision: Decide) -> None:
        self._log.decide(
            decision.action,
            decision.reason,
            ingest_mode=decision.mode,
            psi_actions=self._options.psi_actions,
            state=decision.rung.name,
            sample_every=decision.rung.sample_every,
            facts=decision.facts,
        )
        self._screen.say(f"[SOAK] {decision.action.value}: {decision.reason}")

    def _sample(self, sample: WriteSample) -> None:
        line: dict[str, object] = {
            "timestamp": timestamp(self._clock.wall()),
            "run_id": self._log.run_id,
            **sample.fields,
            "rss_bytes": self._computer.rss_bytes(sample.main_pid) if sample.main_pid > 1 else None,
            "restarts": sample.restarts,
            **sample.pressure,
        }
        self._samples.write(line)
        self._screen.draw(line, self._options.seconds)


# --- command line ------------------------------------------------------------------------------------------

DESCRIPTION = """\
Watch the running engine: restart it when it stalls, throttle it under pressure, answer its exits, and record every
decision. At the end the engine's config is what it was, and the engine runs if it ran before."""

EPILOG = """\
Exit status: 0 complete, 1 aborted (or nothing could be started), 2 wrong usage, 3 stopped before its time.

examples:
  hybrid-soak                                          two hours against the real venues
  hybrid-soak --seconds 180 --mode synthetic --psi-actions off --stall-threshold-sec 20
  hybrid-soak --psi-actions logonly --poll-sec 1       record pressure, do nothing about it
  hybrid-soak --recover-after-sec 300                  step down again after five calm minutes
  touch data/ops/ABORT                                 abort the run that watches for this file
  hybrid-soak --put-back                               put back what a killed soak could not

beside the decision log: soak_samples.jsonl, soak_record.jsonl (every command), soak_report_<run>.html
"""


REPORT_EPILOG = """\
examples:
  python -m harness soak-report
  python -m harness soak-report /var/lib/hybrid-soak/data/ops/soak_decisions.jsonl
  python -m harness soak-report --run 9d02287d-d9ba-4bee-8d6b-3941e0295fea
  python -m harness soak-report --csv tables --parquet tables     decisions and samples, to compute with
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The soak controller's options (contract section 9)."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    default = " (default: %(default)s)"
    instances.add_argument(parser, unit=lambda one: one.unit, config=lambda one: one.config)
    parser.add_argument("--seconds", type=_positive, default=7200.0, metavar="N", help=f"how long{default}")
    parser.add_argument("--mode", choices=INGEST_MODES, default="realws", help=f"the engine's feed{default}")
    parser.add_argument("--db", type=Path, metavar="PATH", help="database (default: [app] db_path of the config)")
    parser.add_argument("--config", type=Path, default=health.CONFIG, metavar="PATH", help=f"engine's config{default}")
    parser.add_argument("--unit", default=health.UNIT, help=f"the engine's unit{default}")
    parser.add_argument(
        "--psi-actions", choices=("on", "logonly", "off"), default="on",
        help=f"on: throttle under pressure; logonly: record it; off: do not read it{default}",
    )  # fmt: skip
    parser.add_argument(
        "--stall-threshold-sec", type=_positive, default=45.0, metavar="N",
        help=f"restart after so long without a new tick{default}",
    )  # fmt: skip
    parser.add_argument(
        "--recover-after-sec", type=_not_negative, default=0.0, metavar="N",
        help=f"one rung down after so long below the limits; 0: never{default}",
    )  # fmt: skip
    parser.add_argument(
        "--poll-sec", type=_positive, default=5.0, metavar="N", help=f"seconds between two polls{default}"
    )
    parser.add_argument(
        "--decision-log", type=Path, default=Path("data/ops/soak_decisions.jsonl"), metavar="PATH",
        help=f"JSON lines, appended to{default}",
    )  # fmt: skip
    parser.add_argument(
        "--abort-file", type=Path, default=Path("data/ops/ABORT"), metavar="PATH",
        help=f"the run aborts when it exists{default}",
    )  # fmt: skip
    parser.add_argument(
        "--pressure-dir", type=Path, default=observe.PRESSURE_DIR, metavar="PATH",
        help=f"directory of PSI files{default}",
    )  # fmt: skip
    parser.add_argument(
        "--put-back", action="store_true",
        help="do not soak: put back config and engine if the last soak in the decision log was killed",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Return one soak, from lock to report. Returns the exit status; raises HarnessError when none can begin."""
    clock = OsClock()
    run_id = new_run_id()
    directory = options.decision_log.parent
    screen = Screen(sys.stdout, clock)
    config = ConfigFile(options.config)
    with ExitStack() as stack:
        _make(directory)
        for place in {directory.resolve(), config.path.parent}:
            stack.enter_context(_alone(place))
        killed = put_back.unfinished(options.decision_log) if options.decision_log.exists() else None
        if options.put_back:
            return _put_back_killed(options, config, killed, clock, screen)
        log = stack.enter_context(closing(DecisionLog(options.decision_log, run_id, clock)))
        # Whatever happens from here on is worth a report.
        stack.callback(_write_report, options.decision_log, run_id, screen)
        samples = stack.enter_context(closing(Log(directory / SAMPLES, sync=False, keep_bytes=KEPT_BYTES)))
        set_aside(directory / RECORD, KEPT_BYTES)
        recorder = stack.enter_context(closing(Recorder(directory / RECORD, run_id, "soak", clock)))
        engine_before = str(killed.facts["engine_before"]) if killed else ""
        soak = _soak(options, config, Shell(recorder, clock), log, samples, clock, screen, engine_before)
        with _stopped_by_signals(soak):
            status = soak.run()
        recorder.end(status=status)
        return status


def _soak(
    options: argparse.Namespace,
    config: ConfigFile,
    shell: Shell,
    log: DecisionLog,
    samples: Log,
    clock: Clock,
    screen: Screen,
    engine_before: str,
) -> Soak:
    asked = Options(
        seconds=options.seconds,
        mode=options.mode,
        psi_actions=options.psi_actions,
        stall_threshold_secs=options.stall_threshold_sec,
        recover_after_secs=options.recover_after_sec,
        poll_secs=options.poll_sec,
        abort_file=options.abort_file,
    )
    try:
        tables = config.load()
    except ConfigTrouble as error:
        log.decide(
            Action.CONFIG_ERROR, str(error), ingest_mode=asked.mode, psi_actions=asked.psi_actions,
            state=Ladder().rung.name, sample_every=Ladder().rung.sample_every, facts={},
        )  # fmt: skip
        raise
    database = health.placed(options.db.absolute() if options.db else health.database_of(tables), shell, options.unit)
    # The soak is about the engine and not the dashboard, and pressure is what its ladder is for.
    target = health.target_of(tables, unit=options.unit, database=database)
    wanted = {name: check for name, check in health.checks(target, shell, clock).items() if name != "pressure"}
    computer = LocalComputer(shell, options.unit, database, clock, options.pressure_dir)
    return Soak(
        asked, computer, config, lambda: health.examine(wanted, clock), log, samples, clock, screen, engine_before
    )


def _put_back_killed(
    options: argparse.Namespace, config: ConfigFile, killed: Decision | None, clock: Clock, screen: Screen
) -> int:
    """Put back what a soak that was killed could not; its decision log is continued, if it can be."""
    if killed is None:
        if config.restore():
            screen.say("[SOAK] put back the config; how the engine was found stands nowhere, it is left as it is")
        return EXIT_COMPLETE

    def decide(action: Action, reason: str, **facts: object) -> None:
        screen.say(f"[SOAK] {action.value}: {reason}")
        try:
            with closing(DecisionLog(options.decision_log, killed.run_id, clock)) as log:
                log.decide(
                    action, reason, ingest_mode=killed.ingest_mode, psi_actions=killed.psi_actions,
                    state=Ladder().rung.name, sample_every=Ladder().rung.sample_every, facts=facts,
                )  # fmt: skip
        except RecorderError as error:
            screen.say(f"[SOAK] {error}")

    act, acted = put_back.last_act(options.decision_log)
    since = datetime.fromisoformat(act.timestamp).timestamp()
    # Its lines are the record: what is put back must not depend on whether a disk takes more.
    computer = LocalComputer(
        Shell(Unrecorded()), options.unit, options.config, clock, options.pressure_dir, since=since
    )

    def stopped_by_others() -> bool:
        try:
            return stopped_since(computer.journal(), acted=acted)
        except HarnessError as error:
            screen.say(f"[SOAK] {error}")
            return False

    put_back.put_back(computer, config, str(killed.facts["engine_before"]), stopped_by_others, decide, clock)
    return EXIT_COMPLETE


def _make(directory: Path) -> None:
    try:
        with files.found(directory / "x", make=True):
            return
    except OSError as error:
        raise HarnessError(f"{directory}: cannot be made: {error.strerror}") from error


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Only one controller at a time has the lock on a directory; it goes with the process, however that ends.

    A directory that does not exist needs no lock: what looks into it will say so.
    """
    if not directory.is_dir():
        yield
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HarnessError(f"another soak controller runs: it holds the lock on {directory}") from error
        yield
    finally:
        os.close(fd)


@contextmanager
def _stopped_by_signals(soak: Soak) -> Iterator[None]:
    def handle(number: int, _frame: FrameType | None) -> None:
        soak.ask_to_stop(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_report(decision_log: Path, run_id: str, screen: Screen) -> None:
    """The report is made from the files, and a failure here loses nothing: `soak-report` makes it again."""
    try:
        screen.say(f"[SOAK] report: {write_report(decision_log, run_id)}")
    except Exception as error:
        screen.say(f"[SOAK] no report: {error}; `python -m harness soak-report` makes it from the files")


def write_report(decision_log: Path, run_id: str | None) -> Path:
    """Render the report of a run (default: the last one) beside its decision log, and return its path."""
    # jinja2 costs more to import than everything else here, and a soak needs it once.
    from harness.soak import report as soak_report

    decisions, samples = _read_run(decision_log, run_id)
    target = decision_log.parent / f"{soak_report.name_of(decisions)}.html"
    _write(target, soak_report.render(decisions, samples).encode("utf-8", "replace"))
    return target


def _read_run(decision_log: Path, run_id: str | None) -> tuple[list[Decision], list[SampleLine]]:
    decisions = read(decision_log, run_id)
    if not decisions:
        raise RecorderError(f"{decision_log} holds no decisions{f' of run {run_id}' if run_id else ''}")
    samples = decision_log.parent / SAMPLES
    return decisions, read_samples(samples, decisions[0].run_id) if samples.exists() else []


def _write(target: Path, data: bytes) -> None:
    try:
        with files.found(target, make=True) as place:
            place.replace(data)
    except OSError as error:
        raise RecorderError(f"{target}: cannot be written: {error.strerror}") from error


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `soak-report`."""
    parser.description = "Render a soak's HTML report, with plots, from its decision log and the samples beside it."
    parser.epilog = REPORT_EPILOG
    parser.add_argument(
        "log", type=Path, nargs="?", default=Path("data/ops/soak_decisions.jsonl"), metavar="LOG",
        help="decision log (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--run", dest="run_id", metavar="ID", help="run_id (default: the last run in the log)")
    parser.add_argument("--csv", type=Path, metavar="DIR", help="also write decisions and samples as CSV there")
    parser.add_argument("--parquet", type=Path, metavar="DIR", help="also write them as Parquet (needs pyarrow)")


def run_report(options: argparse.Namespace) -> int:
    """Render a report again, with its tables where they are wanted, and print where it is. Raises ModuleNotFoundError
    when there is nothing to write Parquet with."""
    from harness.soak import report as soak_report
    from harness.soak import table

    decisions, samples = _read_run(options.log, options.run_id)
    tables = {"decisions": table.decisions_table(decisions), "samples": table.samples_table(samples)}
    made: dict[Path, bytes] = {}
    for kind, one in tables.items():
        name = f"{soak_report.name_of(decisions)}_{kind}"
        if options.csv is not None:
            made[options.csv / f"{name}.csv"] = table.as_csv(one).encode("utf-8", "replace")
        if options.parquet is not None:
            made[options.parquet / f"{name}.parquet"] = table.as_parquet(one)
    print(write_report(options.log, options.run_id))
    for path, data in made.items():
        _write(path, data)
        print(path)
    return 0


def _positive(text: str) -> float:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be more than 0")
    return value


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of seconds") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be 0 or more seconds")
    return value


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """`hybrid-soak`."""
    parser = arguments.CommandParser(prog="hybrid-soak")
    add_arguments(parser)
    options = parser.parse_args(argv)
    try:
        return run(options)
    except HarnessError as error:
        print(f"hybrid-soak: {error}", file=sys.stderr)
        return EXIT_ABORT


if __name__ == "__main__":
    sys.exit(main())
