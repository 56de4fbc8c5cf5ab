"""pytest plugin: a test with claims is a proof, and a proof gets a verdict.

A test claims contract clauses by `@pytest.mark.claim("E2", "L1")`. Its outcome becomes proven, refuted or unproven
(harness/evidence/verdict.py). At the end the plugin prints the verdicts, writes `reports/verdicts.json`, and sets the
exit status: 0 all proven, 1 something refuted (or a test without claims failed), 3 nothing refuted but something
unproven or never run (contract V7).

pytest_hybrid_proofs, the part that pytest itself loads, begins this one with the first proof, and brings options and
fixtures.

`reports/verdicts.json` says from the moment in which the tests were chosen that a run is going on, so that nothing that
happens to this process leaves the verdicts of an earlier run behind. With pytest-xdist each worker has its own machine;
all append to one flight record, and each announces the run, since the controller collects nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import linecache
import os
import shlex
import shutil
import signal
import sys
import textwrap
import threading
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TypeAlias

import pytest

from harness.base import files, settings, terminal
from harness.base.arguments import nearest
from harness.base.clock import OsClock
from harness.base.errors import HarnessError, RecorderError, Refuted, Unavailable
from harness.base.escape import shown
from harness.base.settings import ProofOptions
from harness.evidence import history, host, past, recorder, results
from harness.evidence.lines import RunLine
from harness.evidence.recorder import Recorder, Unrecorded, verify
from harness.evidence.results import (
    JudgedEngine,
    ProofResult,
    ProvedEngine,
    RecordIdentity,
    RunSummary,
    SabotageResult,
    Shard,
    counts,
)
from harness.evidence.shell import Shell
from harness.evidence.verdict import ClauseId, Verdict, anchor, exit_status, is_accepted, judge, merge, run_state
from harness.machines.machine import ENGINE_UNIT, choose, sweep
from harness.machines.stage import Stage
from harness.proving import contract, live, refutation, shards
from harness.proving.refutation import Refutation

if TYPE_CHECKING:
    from _pytest._io import TerminalWriter

KEPT_RUNS = 10
"""Flight records of earlier runs that stay under reports/runs."""

RUNNING_SECS = 600.0
"""A younger run is not forgotten: it may be going on beside this one."""

NAMED_CLAUSES_MAX = 10
"""So many clauses that a partial run did not ask for are named; of more, how many they are."""

_RUN = pytest.StashKey["Run"]()
_PARTS = pytest.StashKey[list[tuple[Verdict, str]]]()
_STARTED = pytest.StashKey[float]()
_TOLD = pytest.StashKey[list[str]]()
_CALLED = pytest.StashKey[bool]()
_HANDLERS = pytest.StashKey[dict[int, "Handler"]]()

SUMMED_UP = {
    pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR,
    pytest.ExitCode.NO_TESTS_COLLECTED,
}  # fmt: skip
"""The ends after which pytest asks for a summary: not after an internal error, or with a status of somebody's own."""

HARNESS = str(Path(__file__).resolve().parents[1]) + os.sep


Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None
"""What `signal.signal` takes and gives back."""

_TOLD_BY_WORKER = "hybrid_proofs"
"""Where in its output a worker of pytest-xdist tells the controller what it has collected."""


class Node(Protocol):
    """A worker as pytest-xdist shows it to the controller."""

    config: pytest.Config


class Run:
    """One pytest session in one process: the controller's, or a worker's."""

    def __init__(self, options: ProofOptions, run_id: str, worker: str) -> None:
        self.options = options
        self.id = run_id
        self.worker = worker
        self.clock = OsClock()
        self.verdicts: list[ProofResult] = []
        self.sabotages: list[SabotageResult] = []
        """What the tests marked `sabotage` recorded under that property."""
        self.plain_failures = 0
        self.accepted: list[ClauseId] = []
        """Clauses whose proofs may be unproven (--accept-unproven)."""
        self.known: dict[str, list[ClauseId]] | None = None
        """Every proof that was collected, whether -k and -m leave it in or not, and its claims. None: nothing was."""
        self.foreign: list[str] = []
        """Tests that say nothing about the engine of --engine-cmd, and were left out."""
        self.chosen: set[str] = set()
        """Every test that is to run, by its id."""
        self.shard: Shard | None = None
        """Which part of the proofs this run is; None for all, and until they were divided."""
        self.ran: set[str] = set()
        """The proofs that have a verdict, by the ids they have in `known`: a verdict's own is redacted."""
        self.crashed: list[str] = []
        """Tests in the middle of which their worker died."""
        self.uncollected = 0
        """How many files could not be collected: what is in them nobody knows."""
        self.refusal = ""
        """Why nothing may run, such as a claim that is no clause; empty as long as all may."""
        self.ended_early = False
        """Whether pytest did not come to its end by itself."""
        self.complete = False
        """Whether all of the project's test files were collected."""
        self.signed = ""
        """What came of the proof bundle, in a line; empty when none was asked for."""
        self.systemd = options.systemd
        self.fewer_workers = ""
        """Why there is one worker instead of several; empty when there are as many as were asked for."""
        self.pytest = ["pytest"]
        """The words of a command that runs a proof of this run again, without the proof."""
        self.fault: str | None = None
        """Why the flight record is no evidence; None as long as it is."""
        self.only_sabotage = True
        """Whether no proof ran but as the subject of a sabotage."""
        self.entry: history.RunEntry | None = None
        """What the history is to keep of this run; None until its record has its end."""
        self._recorder: Recorder | None = None

    @property
    def record(self) -> Path:
        return self.options.reports / "runs" / self.id / "record.jsonl"

    @property
    def recorder(self) -> Recorder:
        """Opened on first use, so that a session without proofs writes nothing."""
        if self._recorder is None:
            self._recorder = Recorder(self.record, self.id, self.worker)
            if self._recorder.began:
                facts = host.facts(Shell(self._recorder), self.options.checkout)
                facts["pytest"] = shlex.join(self.pytest)
                # With the contract's words, for whoever reads the record without the checkout.
                if self.options.engine_cmd is not None:
                    facts["engine"] = self.options.engine_cmd
                    facts |= {f"sha256 of {path}": digest for path, digest in self.judged.files.items()}
                if self.shard is not None:
                    facts["shard"] = f"{self.shard.number}/{self.shard.of} of {self.shard.split}"
                self._recorder.write("run", systemd=self.options.systemd, facts=facts, clauses=self.clauses)
        return self._recorder

    def record_verdict(self, result: ProofResult, told: str = "") -> ProofResult:
        """Record a verdict, and return it as recorded: without secrets, and unproven when the record has a fault.

        told: all that pytest had to say about a proof that is not proven, for the record alone.
        """
        result = _with_texts(result, shown)
        try:
            recorder = self.recorder
            if recorder.failure is None:
                result = _with_texts(result, recorder.redactor.text)
                recorder.write("verdict", **result.as_json(), told=shown(told))
                recorder.proof = ""
                return result
            fault = recorder.failure
        except RecorderError as error:
            fault = str(error)
        return _without_evidence(result, fault)

    def end(self) -> RecordIdentity | None:
        """Write the record's last line and check the whole of it. Returns what identifies it; None sets `fault`."""
        try:
            self.recorder.proof = ""
            for sabotage in self.sabotages:
                self.recorder.write("sabotage", **dataclasses.asdict(sabotage))
            entry = self._entry()
            if not self.only_sabotage:
                names = [one.proof for one in self.verdicts]
                self.recorder.write("since", **history.changes(past.remembered(self.options.reports), entry, names))
            self.recorder.end(
                counts=counts(self.verdicts), interrupted=self.state == "interrupted", systemd=self.systemd,
                planned=self.planned, accepted_unproven=self.accepted, state=self.state,
                collected=len(self.known or {}), selected=len(self.chosen_proofs), never_ran=self.never_ran,
            )  # fmt: skip
            lines, digest = verify(self.record)
            self.entry = dataclasses.replace(entry, sha256=digest)
        except RecorderError as error:
            self.fault = self.fault or str(error)
            return None
        return RecordIdentity(str(self.record.relative_to(self.options.reports)), lines, digest)

    def _entry(self) -> history.RunEntry:
        """Return what the history keeps of this run, but for the digest of its end. Raises RecorderError."""
        first = next((line for line in recorder.read(self.record) if isinstance(line, RunLine)), None)
        if first is None:
            raise RecorderError(f"{self.record} does not say what ran")
        facts, now = first.facts, self.clock.wall()
        told = {
            "run": self.id, "sha256": recorder.GENESIS, "state": self.state, "systemd": self.systemd,
            "engine": self.options.engine_cmd or "", **{name: facts.get(name, "") for name in ("commit", "tree")},
        }  # fmt: skip
        return history.entry(told, self.verdicts, started=first.at, seconds=max(now - first.at, 0.0))

    @cached_property
    def judged(self) -> JudgedEngine:
        """Which engine the proofs are about: the installed one, or a command with the digests of its files."""
        command = self.options.engine_cmd
        if command is None:
            return JudgedEngine()
        from harness.bundle import installed

        kept = None if self.options.clauses is None else sorted(map(ClauseId, self.options.clauses))
        return JudgedEngine(
            command, kept, installed.files_of_command(command, self.options.checkout), len(self.foreign)
        )

    @cached_property
    def contract(self) -> dict[ClauseId, contract.Clause]:
        """The project's clauses; empty for a project that keeps no list."""
        path = self.options.checkout / "config" / "contract.toml"
        try:
            return contract.listed(tomllib.loads(path.read_text("utf-8"))) if path.exists() else {}
        except ValueError as error:
            raise pytest.UsageError(f"{path}: {error}") from error

    @cached_property
    def clauses(self) -> dict[ClauseId, str]:
        """The contract's words; empty where there is none, as in an installation."""
        path = self.options.checkout / "docs" / "contract.md"
        return contract.clauses(path.read_text("utf-8")) if path.exists() else {}

    @property
    def chosen_proofs(self) -> set[str]:
        """The proofs among what is to run. When no worker lived to say which tests are proofs: all of it."""
        return self.chosen & self.known.keys() if self.known is not None else self.chosen

    @property
    def never_ran(self) -> int:
        """How many of the chosen proofs have no verdict."""
        return len(self.chosen_proofs - self.ran)

    @property
    def missing(self) -> bool:
        """Whether something that was to run did not, as far as anybody can tell."""
        return self.never_ran > 0 or self.uncollected > 0 or self.known is None

    @property
    def state(self) -> str:
        """How much of the project's proofs this run has judged."""
        return run_state(
            ended_early=self.ended_early or self.missing,
            left_out=not self.complete or bool(_left_out(self)),
        )

    @property
    def planned(self) -> list[ClauseId]:
        """The clauses that are not built yet."""
        return [clause.id for clause in self.contract.values() if clause.planned]

    def close(self) -> None:
        """End the record of this process."""
        if self._recorder is not None:
            self._recorder.close()


def run_of(config: pytest.Config) -> Run:
    """Return the run of proofs that this pytest session is."""
    return config.stash[_RUN]


def begin(config: pytest.Config, run_id: str) -> None:
    """Begin a run, before the hooks below are registered.

    run_id: for the controller; a worker of pytest-xdist is told the controller's. Raises pytest.UsageError for options
    that cannot be.
    """
    config.addinivalue_line("markers", "sabotage: shows that a proof can fail; `make sabotage` runs these")
    try:
        options = settings.load(
            config.rootpath, config.getoption("proofs_systemd"), config.getoption("proofs_engine_cmd"),
            config.getoption("proofs_clauses"),
        )  # fmt: skip
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if config.getoption("proofs_shard") is not None and config.getoption("proofs_sign_key") is not None:
        raise pytest.UsageError("--shard: a part of the proofs is not signed; sign what `harness merge` makes of all")
    worker = getattr(config, "workerinput", None)
    if worker is None:
        run = Run(options, run_id, "main")
        _check_clauses(run)
        sweep()
    else:
        run = Run(options, worker["proof_run"], worker["workerid"])
    # With links followed, a virtual environment's Python would be the system's.
    binaries = os.path.relpath(os.path.dirname(sys.executable), config.invocation_params.dir)
    run.pytest = [f"{binaries}/pytest"] + [
        f"--proofs-{name}={value}"
        for name in ("systemd", "engine-cmd", "clauses")
        if (value := config.getoption(f"proofs_{name.replace('-', '_')}"))
    ]
    run.accepted = config.getoption("proofs_accept_unproven")
    # What pytest leaves out before it collects is known by nobody afterwards.
    partial = any(config.getoption(name, None) for name in ("ignore", "ignore_glob", "lf"))
    # A project that names no paths has all its tests below its root.
    everything = config.getini("testpaths") or [str(config.rootpath)]
    run.complete = set(config.args) == set(everything) and not partial
    if worker is None and (key := config.getoption("proofs_sign_key")) is not None:
        # Here, because the cryptography takes 40 ms that no other run needs to wait for.
        from harness.bundle import bundle

        try:
            # Now, and not after a minute of proofs.
            bundle.check_key(key)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error
    config.stash[_RUN] = run


def _check_clauses(run: Run) -> None:
    """Raises pytest.UsageError for a clause of --clauses that no engine can keep."""
    if not run.options.clauses or not run.contract:
        return
    engines = [clause.id for clause in run.contract.values() if clause.engines]
    for clause in sorted(run.options.clauses - set(engines)):
        what = "no promise of an engine's" if clause in run.contract else "no clause of config/contract.toml"
        raise pytest.UsageError(f"--clauses: {clause} is {what}{nearest(clause, engines)}")


def _share_one_unit(config: pytest.Config, run: Run) -> None:
    """Have one worker where a systemd is borrowed: it has one unit, which another would take away (V19)."""
    asked = config.getoption("tx", None) or []
    if len(asked) < 2:
        return
    try:
        kind = choose(run.options.systemd)
    except Unavailable:
        return  # Which each proof then says.
    if kind != "private":
        config.option.tx, config.option.numprocesses = asked[:1], 1
        run.fewer_workers = f"one worker instead of {len(asked)}: a {kind} systemd has one {ENGINE_UNIT}"


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [*filter(None, [config.stash[_RUN].fewer_workers])]


def pytest_unconfigure(config: pytest.Config) -> None:
    for number, handler in config.stash.get(_HANDLERS, {}).items():
        signal.signal(number, handler)
    if _RUN in config.stash:
        config.stash[_RUN].close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Node, ids: list[str]) -> None:
    node.config.stash[_RUN].chosen |= set(ids)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Node, error: object) -> None:
    # All workers collect the same. One that died says nothing.
    run, told = node.config.stash[_RUN], getattr(node, "workeroutput", {}).get(_TOLD_BY_WORKER)
    if told is None:
        return
    if told["known"] is not None:
        run.known, run.foreign = told["known"], told["foreign"]
        run.shard = None if told["shard"] is None else Shard(**told["shard"])
    run.refusal = run.refusal or told["refusal"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    # Before -k and -m take proofs away. Those marked sabotage are proofs about the proofs, and have runs of their own.
    run = config.stash[_RUN]
    marked = [(item, claims(item)) for item in items if item.get_closest_marker("claim") is not None]
    proofs = [one for one in marked if one[0].get_closest_marker("sabotage") is None]
    run.known = {item.nodeid: claimed for item, claimed in proofs}
    if empty := [item for item, claimed in marked if not claimed]:
        _refuse(config, items, f'{shown(empty[0].nodeid)}: the mark claim names no clause: @pytest.mark.claim("E2")')
    # G5, for a project that keeps a list of clauses.
    listed = run.contract
    if listed:
        _check_claims(config, items, listed)
    if run.known and (why := settings.why_nothing_can_be_judged(sys.flags)):
        _refuse(config, items, why)
    if run.options.engine_cmd is not None and items:
        _leave_out_foreign(config, items)
    yield
    # pytest-xdist has appended the name of its group to those that have one.
    run.known = {item.nodeid: claimed for item, claimed in proofs}
    if (wanted := config.getoption("proofs_shard")) is not None and items:
        _take_shard(config, items, *wanted)


def _take_shard(config: pytest.Config, items: list[pytest.Item], number: int, of: int) -> None:
    """Keep what this computer runs, of all that is to run."""
    run = config.stash[_RUN]
    # A run is named after the second in which it began.
    known = shards.durations(
        past.remembered(run.options.reports), float(run.id.partition("-")[0]), run.options.engine_cmd or ""
    )
    parts = shards.split((item.nodeid for item in items), known, of)
    run.shard = shards.made(number, of, parts)
    others = [item for item in items if parts[item.nodeid] != number]
    items[:] = [item for item in items if parts[item.nodeid] == number]
    config.hook.pytest_deselected(items=others)


def _leave_out_foreign(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Another engine is a black box: keep what drives its unit and claims something of an engine (contract V9)."""
    run = config.stash[_RUN]
    kept = None if run.options.clauses is None else frozenset(map(ClauseId, run.options.clauses))
    ours = [
        item for item in items
        if "engine" not in getattr(item, "fixturenames", ())
        or item.get_closest_marker("sabotage") is not None
        or not contract.judges_engine(run.contract, claims(item), kept)
    ]  # fmt: skip
    run.foreign = [item.nodeid for item in ours]
    judged = {clause for item in items if item not in ours for clause in claims(item)}
    unproved = sorted((run.options.clauses or set()) - judged)
    if unproved and run.complete:
        _refuse(config, items, f"--clauses: no proof judges an engine that keeps these by {', '.join(unproved)}")
        return
    gone = set(run.foreign)
    items[:] = [item for item in items if item.nodeid not in gone]
    config.hook.pytest_deselected(items=ours)


def _check_claims(config: pytest.Config, items: list[pytest.Item], listed: dict[ClauseId, contract.Clause]) -> None:
    claimed = {clause for item in items for clause in claims(item)}
    wrong = [f"{clause} is claimed by a proof but is no clause" for clause in contract.unknown(listed, claimed)]
    if set(config.args) == set(config.getini("testpaths")):
        wrong += [f"clause {clause} has no proof" for clause in contract.unproved(listed, claimed)]
    if wrong:
        _refuse(config, items, "config/contract.toml: " + "; ".join(wrong))


def _refuse(config: pytest.Config, items: list[pytest.Item], reason: str) -> None:
    """Let nothing run. What a worker of pytest-xdist raises here is lost, so the controller has to say it."""
    config.stash[_RUN].refusal = reason
    if not hasattr(config, "workerinput"):
        raise pytest.UsageError(reason)
    items.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    config, run = session.config, session.config.stash[_RUN]
    run.chosen = {item.nodeid for item in session.items}
    if run.refusal or config.getoption("collectonly") or not run.chosen_proofs:
        return
    try:
        run.options.reports.mkdir(exist_ok=True)
        _write_report(run.options.reports / results.FILE, _summary(run, "running").as_json())
    except OSError as error:
        _refuse(config, session.items, f"cannot write {error.filename or run.options.reports}: {error.strerror}")


def claims(item: pytest.Item) -> list[ClauseId]:
    """Return the clauses a test claims, from all its claim marks."""
    return sorted({ClauseId(str(clause)) for mark in item.iter_markers("claim") for clause in mark.args})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    run = item.config.stash[_RUN]
    if _PARTS not in item.stash:
        # Else a plugin runs it again, because it failed: what it showed then stands.
        item.stash[_STARTED] = run.clock.monotonic()
        item.stash[_PARTS] = []
        item.stash[_TOLD] = []
    item.stash[_CALLED] = False
    if claims(item):
        run.recorder.proof = shown(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    claimed = claims(item)
    if claimed and _PARTS in item.stash:
        raised = call.excinfo.value if call.excinfo else None
        files = _proof_files(item)
        part = judge(report.outcome, raised=raised, when=report.when or "", proof_files=files, harness=HARNESS)
        item.stash[_PARTS].append((part, "" if raised is None else _reason(raised)))
        item.stash[_CALLED] |= report.when == "call"
        if report.failed:
            told = [report.longreprtext, *(f"{title}\n{text}" for title, text in report.sections)]
            item.stash[_TOLD].append("\n".join(told))
        if part is Verdict.REFUTED and raised is not None:
            block = "\n".join(refutation.block(_refutation(item, raised, report)))
            # Who reads of it later looks for the same as who watches: the cause, and the command to run it again.
            item.stash[_TOLD].insert(0, f"{block}\n")
            if item.config.getoption("tbstyle", "auto") == "auto":
                report.longrepr, report.sections = block, []
        # Keywords of a report are also the names of directories.
        report.user_properties.append(("proof", item.get_closest_marker("sabotage") is None))
        if report.when == "teardown":
            report.user_properties.append(("verdict", _verdict(item, claimed).as_json()))
    return report  # type: ignore[return-value]


def _verdict(item: pytest.Item, claimed: list[ClauseId]) -> ProofResult:
    """Return the verdict of a proof that has come to its end, as recorded."""
    run, parts, told = item.config.stash[_RUN], item.stash[_PARTS], item.stash[_TOLD]
    if not item.stash[_CALLED]:
        parts = [*parts, (Verdict.UNPROVEN, "it was set up and not called")]
    verdict = merge(part for part, _ in parts)
    result = ProofResult(
        proof=item.nodeid,
        claims=claimed,
        verdict=verdict,
        reason=next((reason for part, reason in parts if part is verdict), ""),
        seconds=round(run.clock.monotonic() - item.stash[_STARTED], 3),
        about=_about(item),
    )
    return run.record_verdict(result, "\n".join(told))


def _proof_files(item: pytest.Item) -> set[str]:
    """Return where a proof's own code is, as its frames name it."""
    function = getattr(item, "function", None)
    code = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
    return {str(item.path)} | ({code.co_filename} if code is not None else set())


def _refutation(item: pytest.Item, raised: BaseException, report: pytest.TestReport) -> Refutation:
    """Return what a reader of a refuted proof asks for; without what the record must not know either."""
    run = item.config.stash[_RUN]
    redact = run.recorder.redactor.text
    parts = raised if isinstance(raised, Refuted) else Refuted(_message(raised))
    found = refutation.innermost(raised, _proof_files(item))
    expected = where = ""
    if found is not None:
        file, line, function = found
        expected = refutation.expectation("".join(linecache.getlines(file)), line)
        where = f"{os.path.relpath(file, item.config.rootpath)}:{line}, {function}()"
    notes = getattr(raised, "__notes__", [])
    short = anchor(shown(redact(item.nodeid)))[:10]
    return Refutation(
        proof=redact(item.nodeid),
        claims={clause: run.clauses.get(clause, "") for clause in claims(item)},
        expected=redact(expected),
        observed=redact("\n".join([parts.observed, *notes])),
        where=where,
        state=parts.state,
        set_by=redact(parts.set_by),
        journal=[
            dataclasses.replace(one, message=redact(one.message), fields=run.recorder.redactor.value(one.fields))
            for one in parts.journal
        ],
        printed=redact("\n".join(text for _, text in report.sections)),
        again=redact(shlex.join([*run.pytest, item.nodeid])),
        look=f"{os.path.dirname(run.pytest[0])}/python -m harness show {short} --run {run.id}",
    )


def _about(item: pytest.Item) -> str:
    """Return what the proof says of itself: the first paragraph of its docstring, else of its module's."""
    for thing in (getattr(item, "function", None), getattr(item, "module", None)):
        if text := inspect.getdoc(thing) if thing is not None else None:
            return " ".join(text.partition("\n\n")[0].split())
    return ""


def _with_texts(result: ProofResult, change: Callable[[str], str]) -> ProofResult:
    return dataclasses.replace(
        result,
        proof=change(result.proof),
        claims=[ClauseId(change(clause)) for clause in result.claims],
        reason=change(result.reason),
        about=change(result.about),
    )


def _without_evidence(result: ProofResult, fault: str) -> ProofResult:
    """Return a verdict of which no record stands up: what was proven is unproven (contract V1)."""
    if result.verdict is not Verdict.PROVEN:
        return dataclasses.replace(result, fault=fault)
    return dataclasses.replace(result, verdict=Verdict.UNPROVEN, reason=f"no evidence: {fault}", fault=fault)


def _message(raised: BaseException) -> str:
    text = str(raised).strip() or repr(raised)
    return text if isinstance(raised, AssertionError) else f"{type(raised).__name__}: {text}"


def _reason(raised: BaseException) -> str:
    return _message(raised).splitlines()[0]


class _Verdicts:
    """Collects on the controller what the workers report."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        verdict = properties.get("verdict")
        if report.when == "teardown" and isinstance(sabotage := properties.get("sabotage"), dict):
            self.run.sabotages.append(SabotageResult(**sabotage))
        if report.when == "teardown" and isinstance(verdict, dict):
            result = ProofResult(**{**verdict, "verdict": Verdict(verdict["verdict"])})
            self.run.verdicts.append(result)
            self.run.ran.add(report.nodeid)
            self.run.only_sabotage &= not properties["proof"]
            self.run.fault = self.run.fault or result.fault or None
        elif report.when not in ("setup", "call", "teardown"):
            # xdist reports a worker that died in the middle of a test with a phase of its own.
            self.run.crashed.append(report.nodeid)
        elif report.failed and "proof" not in properties:
            self.run.plain_failures += 1
        if report.failed and isinstance(report.longrepr, str) and report.longrepr.startswith("REFUTED "):
            report.longrepr = _Block(report.longrepr)  # type: ignore[assignment]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.run.uncollected += report.failed


class _Block:
    """A refutation's block, in colour where there is any."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def toterminal(self, writer: TerminalWriter) -> None:
        """Labels are bold, what was observed instead of what was expected is red."""
        label = ""
        for line in self._text.splitlines():
            # A command stands below its label, which is a line of its own.
            end = refutation.LABEL_COLUMNS if line[refutation.LABEL_COLUMNS - 1 :][:1] in ("", " ") else len(line)
            head, rest = line[:end], line[end:]
            label = head.strip() or label
            writer.write(head, bold=not line.startswith("  "), red=head.startswith("REFUTED"))
            writer.line(rest, red=label in ("observed", "REFUTED"), cyan=label == "expected")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    live.attach(config)
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(_Verdicts(config.stash[_RUN]), "proof-verdicts")
    if threading.current_thread() is threading.main_thread():
        # As Ctrl-C: machines are taken down, and what has not run is told. `nohup` and the like stay what they are.
        ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
        before: dict[int, Handler] = {number: signal.signal(number, signal.default_int_handler) for number in ours}
        config.stash[_HANDLERS] = before
    run = config.stash[_RUN]
    _share_one_unit(config, run)
    looks = ("collectonly", "showfixtures", "show_fixtures_per_test")
    # To collect everything takes most of a minute. Who asks for a part is told when it is known that it has a proof.
    at_once = config.getini("hybrid_proofs") and run.complete and not any(map(config.getoption, looks))
    if at_once and (why := files.why_not_writable(run.options.reports)):
        run.refusal = f"cannot write {run.options.reports}: {why}"
        raise pytest.UsageError(run.refusal)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    run = session.config.stash[_RUN]
    if hasattr(session.config, "workerinput"):
        shard = None if run.shard is None else dataclasses.asdict(run.shard)
        told = {"known": run.known, "refusal": run.refusal, "foreign": run.foreign, "shard": shard}
        session.config.workeroutput[_TOLD_BY_WORKER] = told  # type: ignore[attr-defined]
        return
    if run.refusal:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
        return
    if session.config.getoption("collectonly"):
        return
    run.ended_early = exitstatus not in (
        pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED,
    )  # fmt: skip
    _take_crashed(run)
    if run.verdicts or run.missing:
        _report(run)
    if (key := session.config.getoption("proofs_sign_key")) is not None and run.verdicts and not run.only_sabotage:
        run.signed = _sign(run, key, session.config.getoption("proofs_sign_config"))
    session.exitstatus = exit_status(
        exitstatus,
        [one.verdict for one in run.verdicts],
        accepted=[is_accepted(one.verdict, one.claims, run.accepted) for one in run.verdicts],
        plain_failures=run.plain_failures > 0,
        missing=run.missing,
    )
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and exitstatus not in SUMMED_UP:
        _sum_up(reporter)


def _take_crashed(run: Run) -> None:
    """Judge the tests in the middle of which their worker died: a proof is unproven, any other test has failed."""
    for nodeid in run.crashed:
        if run.known is not None and nodeid not in run.known:
            run.plain_failures += 1
            continue
        run.only_sabotage = False
        run.ran.add(nodeid)
        claimed = (run.known or {}).get(nodeid, [])
        result = ProofResult(nodeid, claimed, Verdict.UNPROVEN, "the worker that ran it died")
        run.verdicts.append(run.record_verdict(result))


def _report(run: Run) -> None:
    """End the record, and write what this run has shown to verdicts.json and sabotage.json."""
    run.verdicts.sort(key=lambda one: one.proof)
    run.sabotages.sort(key=lambda one: (one.guardrail, one.id))
    try:
        run.systemd = choose(run.options.systemd)
    except Unavailable:
        run.systemd = "none"
    record = run.end() if run.verdicts else None
    if run.fault is not None:
        run.verdicts = [_without_evidence(one, run.fault) for one in run.verdicts]
    reports = run.options.reports
    # Without any proof, as when no file could be collected, there is only an earlier run's report to put right.
    of_proofs = not run.only_sabotage or run.chosen_proofs or (not run.verdicts and (reports / results.FILE).exists())
    try:
        if of_proofs:
            summary = dataclasses.replace(_summary(run, run.state), record=record, proved=_proved(run))
            _write_report(reports / results.FILE, summary.as_json())
            if run.entry is not None and not run.only_sabotage and run.fault is None:
                past.remember(reports, run.entry)
        if run.sabotages:
            of_record = None if record is None else dataclasses.asdict(record)
            sabotages = [dataclasses.asdict(one) for one in run.sabotages]
            _write_report(reports / "sabotage.json", {"run_id": run.id, "sabotages": sabotages, "record": of_record})
    except OSError as error:
        run.fault = f"cannot write {error.filename or reports}: {error.strerror}"
        run.verdicts = [_without_evidence(one, run.fault) for one in run.verdicts]
    if run.fault is None:
        _forget_old_runs(reports)


def _summary(run: Run, state: str) -> RunSummary:
    """Return the content of verdicts.json, but for what is known at the end only."""
    return RunSummary(
        run_id=run.id,
        state=state,
        collected=len(run.known or {}),
        selected=len(run.chosen_proofs),
        never_ran=run.never_ran,
        systemd=run.systemd,
        verdicts=run.verdicts,
        counts=counts(run.verdicts),
        accepted_unproven=run.accepted,
        planned=run.planned,
        judged=run.judged,
        complete=run.complete and state in ("complete", "partial"),
        left_out=_left_out(run),
        shard=run.shard,
    )


def _left_out(run: Run) -> dict[ClauseId, int]:
    """Return clause -> how many of its proofs were collected and have no verdict: deselected, or not reached."""
    left = [claimed for proof, claimed in (run.known or {}).items() if proof not in run.ran]
    return dict(sorted(Counter(clause for claimed in left for clause in claimed).items()))


def _proved(run: Run) -> ProvedEngine:
    """Return what the proofs ran: digest of the staged engine's tree, what it ran on, and its unit file. Empty where
    nothing is staged."""
    # Here, because pydantic comes with it, which no worker needs to wait for.
    from harness.bundle import installed, statement

    stage, command = Stage(run.options.checkout), run.options.engine_cmd
    try:
        engine = statement.digest(installed.engine_files(stage.prefix))
        runtime = installed.runtime(Shell(Unrecorded()), stage.prefix)
        return ProvedEngine(engine, runtime, installed.unit_files(stage.unit(ENGINE_UNIT)), command)
    except HarnessError:
        return ProvedEngine(engine_cmd=command)


def _sign(run: Run, key: Path, config: Path | None) -> str:
    """Sign what the run has shown; what came of it, in a line."""
    from harness.bundle import bundle

    checkout, target = run.options.checkout, run.options.reports / bundle.BUNDLE_NAME
    try:
        raw, made = bundle.sign(
            Shell(Unrecorded()), run.options.reports, bundle.LiveTarget.staged(checkout, config), key
        )
        bundle.write(target, raw)
        return f"proof bundle {target.relative_to(checkout)}: {bundle.verdict_on(made, checkout, key)}"
    except HarnessError as error:
        return f"no proof bundle: {error}"


def _write_report(target: Path, content: Mapping[str, object]) -> None:
    """Put a report in the place of the one before. Whoever reads it sees the one or the other."""
    partial = target.with_suffix(f".partial-{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(target)


def _forget_old_runs(reports: Path) -> None:
    reported = {
        str(json.loads(report.read_text("utf-8"))["run_id"])
        for report in (reports / results.FILE, reports / "sabotage.json")
        if report.exists()
    }
    still = OsClock().wall() - RUNNING_SECS
    for old in sorted((reports / "runs").glob("*"))[:-KEPT_RUNS]:
        record = old / "record.jsonl"
        # Another run in this checkout may do the same.
        with suppress(FileNotFoundError):
            written = (record if record.exists() else old).stat().st_mtime
            if old.name not in reported and written < still:
                shutil.rmtree(old, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _sum_up(terminalreporter)


def _sum_up(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the verdicts, and what is missing."""
    run = terminalreporter.config.stash[_RUN]
    if run.refusal and terminalreporter.config.pluginmanager.has_plugin("dsession"):
        terminalreporter.write_line(f"ERROR: {run.refusal}", red=True)
    if run.refusal or not (run.verdicts or run.missing) or terminalreporter.config.getoption("collectonly"):
        return
    colour = {Verdict.PROVEN: "green", Verdict.REFUTED: "red", Verdict.UNPROVEN: "yellow"}
    by_file: dict[str, list[ProofResult]] = defaultdict(list)
    for one in run.verdicts:
        by_file[one.proof.partition("::")[0].removeprefix("proofs/")].append(one)
    terminalreporter.section(f"verdicts (systemd: {run.systemd})")
    for file, members in by_file.items():
        verdict = merge(one.verdict for one in members)
        claimed = sorted({clause for one in members for clause in one.claims}, key=_clause_order)
        seconds = sum(one.seconds for one in members)
        counted = f"{len(members)} {'proofs' if len(members) > 1 else 'proof'}"
        _row(terminalreporter, verdict.value, colour[verdict], f"{file:<19} {counted:>10} {seconds:7.2f} s", claimed)
    for one in run.verdicts:
        if one.verdict is not Verdict.PROVEN:
            words = [f"{one.proof}:", *one.reason.split()]
            _row(terminalreporter, one.verdict.value, colour[one.verdict], "", words)
    by_verdict = counts(run.verdicts)
    if run.sabotages:
        terminalreporter.section("sabotages")
        for sabotage in run.sabotages:
            caught = sabotage.verdict == Verdict.REFUTED
            told = f"{sabotage.guardrail:<11} {sabotage.id:<28}"
            _row(
                terminalreporter,
                "caught" if caught else "MISSED",
                "green" if caught else "red",
                told,
                sabotage.breaks.split(),
            )
    if run.fault is not None:
        terminalreporter.write_line(f"NOTHING IS PROVEN without evidence: {run.fault}", red=True)
    if run.accepted:
        terminalreporter.write_line(f"ACCEPTED UNPROVEN, and so proven to nobody: {' '.join(run.accepted)}", red=True)
    if run.planned:
        terminalreporter.write_line(f"planned, not built and so not proven: {' '.join(run.planned)}", yellow=True)
    if run.options.engine_cmd is not None:
        terminalreporter.write_line(f"judged as a black box: {run.options.engine_cmd}", yellow=True)
        for path, digest in run.judged.files.items():
            terminalreporter.write_line(f"  sha256 {digest}  {path}")
        if run.systemd == "private":
            terminalreporter.write_line("of the checkout, its unit sees what is named here, and nothing else")
        terminalreporter.write_line(
            f"{len(run.foreign)} tests were left out: they are about the engine of this project, or about the harness"
        )
    if run.signed:
        terminalreporter.write_line(run.signed)
    terminalreporter.write_line(", ".join(f"{by_verdict[verdict]} {verdict.value}" for verdict in reversed(Verdict)))
    if run.never_ran:
        terminalreporter.write_line(
            f"{run.never_ran} of {len(run.chosen_proofs)} never ran to their end: nothing is said of them", red=True
        )
    if run.known is None:
        terminalreporter.write_line("no worker came to its end: nobody knows what never ran", red=True)
    if run.uncollected:
        terminalreporter.write_line("files that could not be collected: what is in them never ran", red=True)
    if run.chosen_proofs and run.known is not None and len(run.chosen_proofs) < len(run.known):
        judged = {clause for one in run.verdicts for clause in one.claims}
        unasked = sorted(_left_out(run).keys() - judged, key=_clause_order)
        told = ", ".join(unasked) if len(unasked) <= NAMED_CLAUSES_MAX else f"{len(unasked)} clauses"
        terminalreporter.write_line(
            f"partial: {len(run.chosen_proofs)} of {len(run.known)} proofs were chosen"
            + (f", and none for {told}" if unasked else ""),
            yellow=True,
        )
    if run.shard is not None:
        told = f"shard {run.shard.number} of {run.shard.of}: `python -m harness merge` makes one run of all of them"
        terminalreporter.write_line(told, yellow=True)
    terminalreporter.write_line(f"record: {run.record.relative_to(run.options.checkout)}")


def _row(reporter: pytest.TerminalReporter, word: str, colour: str, told: str, rest: Sequence[str]) -> None:
    """One row of a table; what does not fit into the terminal goes on below its own column."""
    first = f"{word:<8} {told}{'  ' if told else ''}"
    # At least so much room for the last column, whatever there is.
    width = max(terminal.columns() - 1, len(first) + 20)
    lines = textwrap.wrap(
        " ".join(rest), width, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False,
        break_long_words=False,
    ) or [first]  # fmt: skip
    reporter.write(lines[0][: len(word)], **{colour: True, "bold": True})
    reporter.write("\n".join([lines[0][len(word) :], *lines[1:]]) + "\n")


def _clause_order(clause: ClauseId) -> tuple[str, int, str]:
    digits = "".join(filter(str.isdigit, clause))
    return (clause.rstrip("0123456789b"), int(digits or 0), clause)
