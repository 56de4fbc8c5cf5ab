"""pytest plugin: the part that every project pays for that has it installed, which is next to nothing.

It defines the mark `claim`, options and fixtures with names of their own, and stays inactive. The first test that bears
the mark, or asks for one of the fixtures, activates it: harness.proving.plugin is loaded, which judges. A project that
consists of proofs sets `hybrid_proofs = true` in its ini file. There it is active from the start: it also judges a run
of which nothing could be collected, and its options have short names (`--systemd` for `--proofs-systemd`).

With pytest-xdist the workers collect; the first report of a proof activates the controller. What the controller saw
until then it hands over.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Nothing of harness/ is imported here: a foreign project would wait for it, and may have a `harness` of its own.
if TYPE_CHECKING:
    from harness.evidence.shell import Shell
    from harness.machines.machine import Machine
    from harness.machines.stage import Stage
    from harness.machines.systemd import JournalStream
    from harness.proving.plugin import Run
    from harness.proving.service import ServiceUnit

INI = "hybrid_proofs"

FIXTURES = frozenset({"proof_run", "proof_shell", "proof_stage", "proof_machine", "proof_journal"})

_ACTIVATION = pytest.StashKey["Activation"]()

KEPT_MACHINES = 3
"""So many machines of units are kept that the next test does not use: each takes memory, and four or so of the 128
inotify instances that a kernel gives a user."""

_OWN_MACHINE = "proofs_own_machine"
"""Attribute of a fixture's function: what it makes has a machine of its own."""


class Activation:
    """Waits for the first proof, and remembers what the judging part needs to know of the time before."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.active = False
        self.run_id = f"{time.time():.0f}-{os.urandom(4).hex()}"
        """All processes of a run have the same."""
        self.session: pytest.Session | None = None
        self.chosen: set[str] = set()
        self.crashed: list[str] = []
        self.plain_failures = 0
        self.uncollected = 0
        self._lent: list[tuple[pytest.FixtureDef[Any], Any]] = []
        """Fixtures with a machine of their own, and with what request they were made; the one used last is last."""

    def activate(self) -> Any:
        """Load the judging part, once, and hand over; returns its module."""
        from harness.proving import plugin

        if not self.active:
            self.active = True
            plugin.begin(self.config, self.run_id)
            self.config.pluginmanager.register(plugin, "hybrid-proofs-judge")
            if self.session is not None:
                plugin.pytest_sessionstart(self.session)
            run = plugin.run_of(self.config)
            run.chosen |= self.chosen
            run.crashed += self.crashed
            run.plain_failures += self.plain_failures
            run.uncollected += self.uncollected
        return plugin

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not self.active:
            self.uncollected += report.failed

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        asked = item.get_closest_marker("claim") is not None or FIXTURES & set(getattr(item, "fixturenames", ()))
        if asked and not self.active:
            self.activate()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> Iterator[Any]:
        if getattr(fixturedef.func, _OWN_MACHINE, False):
            self._lent.append((fixturedef, request))
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[Any]:
        """Of the machines that the next test does not use, only a few are kept."""
        result = yield
        if nextitem is not None and self._lent:
            # Those that were used last go last.
            self._lent.sort(key=lambda lent: _uses(item, lent[0]))
            idle = [lent for lent in self._lent if not _uses(nextitem, lent[0])]
            for lent in idle[: max(0, len(idle) - KEPT_MACHINES)]:
                self._lent.remove(lent)
                # What was made of it ends before; whoever asks for it again gets a new one.
                lent[0].finish(lent[1])
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.active:
            return
        if "proof" in dict(report.user_properties):
            # pytest has already made the list of those whom it tells of this report.
            self.activate()
            verdicts: Any = self.config.pluginmanager.get_plugin("proof-verdicts")
            verdicts.pytest_runtest_logreport(report)
        elif report.when not in ("setup", "call", "teardown"):
            # pytest-xdist reports a worker that died in the middle of a test with a phase of its own.
            self.crashed.append(report.nodeid)
        else:
            self.plain_failures += report.failed

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["proof_run"] = self.run_id

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        if not self.active:
            self.chosen |= set(ids)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        # A worker that is active has found proofs, and none of them may have come to a report.
        if not self.active and "hybrid_proofs" in getattr(node, "workeroutput", {}):
            self.activate().pytest_testnodedown(node, error)


def _uses(item: pytest.Item, fixturedef: pytest.FixtureDef[Any]) -> bool:
    """Whether a test is known to use this very fixture, and not another of the same name."""
    info = getattr(item, "_fixtureinfo", None)
    return info is not None and fixturedef in info.name2fixturedefs.get(fixturedef.argname, ())


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> Iterator[Any]:
    """Afterwards every option is known: of one that is not, pytest's complaint names the nearest."""
    result = yield
    optparser = getattr(parser, "optparser", None)
    if optparser is not None and early_config.getini(INI):
        unknown = [word.partition("=")[0] for word in parser.parse_known_and_unknown_args(args)[1]]
        flags = [word for word in unknown if word.startswith("--")]
        if flags:
            from harness.base.arguments import nearest

            known = [flag for action in optparser._actions for flag in action.option_strings]
            if meant := nearest(flags[0], known):
                parser.extra_info[flags[0]] = meant.removeprefix("; ")
    return result


def _shard(text: str) -> tuple[int, int]:
    from harness.proving import shards

    try:
        return shards.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    parser.addini(
        INI,
        "this project consists of proofs: judge also a run of which nothing could be collected; short option names",
        type="bool",
        default=False,
    )
    config: Any = pluginmanager.get_plugin("pytestconfig")
    group = parser.getgroup("hybrid-proofs", "proofs about systemd services")

    def option(name: str, **kwargs: Any) -> None:
        short = [f"--{name}"] if config.getini(INI) else []
        group.addoption(f"--proofs-{name}", *short, dest=f"proofs_{name.replace('-', '_')}", **kwargs)

    option(
        "systemd",
        default=None,
        metavar="KIND",
        help="which systemd to prove against: a private one booted for the run, the host's, the user's, or the "
        "best that can be had (auto). Default: $PROOFS_SYSTEMD, else auto.",
    )
    option(
        "accept-unproven",
        action="append",
        default=[],
        metavar="CLAIM",
        help="for a computer that cannot show everything: let proofs of this clause be unproven without failing the "
        "run. Repeatable; printed, recorded, and no ground for a proof bundle.",
    )
    option(
        "shard",
        type=_shard,
        default=None,
        metavar="N/OF",
        help="run the Nth of OF parts, that take equally long by reports/history.jsonl; each on a computer of its own, "
        "and `python -m harness merge` makes one run of them",
    )
    option(
        "sign-key",
        type=Path,
        default=None,
        metavar="FILE",
        help="sign a proof bundle at the end, reports/proof_bundle.json, with this private key "
        "(`python -m harness bundle keygen` makes one)",
    )
    option(
        "sign-config",
        type=Path,
        default=None,
        metavar="FILE",
        help="the configuration that the bundle is to be about (default: the example). `python -m harness bundle sign` "
        "does the same afterwards, and knows drop-ins too",
    )
    option(
        "engine-cmd",
        default=None,
        metavar="CMD",
        help="judge another engine that keeps the contract: the command the unit runs, `{config}` standing for the "
        "configuration's path, and `{checkout}/...` for a file of this project, which is copied to where the unit can "
        "read it. For example '/usr/bin/my-engine --config {config}'",
    )
    option(
        "clauses",
        default=None,
        metavar="IDS",
        help="with --engine-cmd: the clauses that this engine claims to keep, such as E2,E3,N7; what claims any "
        "other of an engine's is left out",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "claim(*clauses): the contract clauses that this proof is about")
    activation = config.stash[_ACTIVATION] = Activation(config)
    config.pluginmanager.register(activation, "hybrid-proofs-activation")
    if config.getini(INI):
        activation.activate()


@pytest.fixture(scope="session")
def proof_run(pytestconfig: pytest.Config) -> Run:
    """This session of proofs: its options, id and record."""
    run: Run = pytestconfig.stash[_ACTIVATION].activate().run_of(pytestconfig)
    return run


@pytest.fixture(scope="session")
def proof_shell(proof_run: Run) -> Shell:
    """Run commands on this computer, each of them recorded."""
    from harness.evidence.shell import Shell

    return Shell(proof_run.recorder)


@pytest.fixture(scope="session")
def proof_stage(proof_run: Run, proof_shell: Shell) -> Stage | None:
    """Return what is installed in machines: what `make install` of a checkout of hybrid-engine makes, elsewhere
    nothing."""
    from harness.machines.stage import Stage

    stage = Stage(proof_run.options.checkout)
    if not stage.is_possible:
        return None
    stage.build(proof_shell)
    return stage


@pytest.fixture(scope="session")
def proof_machine(proof_run: Run, proof_shell: Shell, proof_stage: Stage | None) -> Iterator[Machine]:
    """Yield a booted machine of this worker's own; halted at the end of the session."""
    from harness.machines import machine

    kind = machine.choose(proof_run.options.systemd)
    booted = machine.make(kind, proof_shell, proof_stage, f"proof-{os.getpid()}-{proof_run.worker}")
    booted.boot()
    try:
        yield booted
    finally:
        booted.halt()


@pytest.fixture(scope="session")
def proof_journal(proof_run: Run, proof_machine: Machine) -> Iterator[JournalStream]:
    """Yield the journal of the engine's unit in the machine, followed from before the first proof on."""
    from harness.machines.machine import ENGINE_UNIT
    from harness.machines.systemd import METRONOME, JournalStream

    stream = JournalStream(proof_run.recorder, proof_machine, (ENGINE_UNIT, METRONOME))
    yield stream
    stream.close()


def unit_under_proof(
    name: str,
    *,
    text: str | None = None,
    path: str | os.PathLike[str] | None = None,
    package: str | None = None,
    drop_in: str = "",
    serves: Sequence[str] = (),
) -> Callable[..., Iterator[ServiceUnit]]:
    """Make a fixture: a unit of your own on a private machine of this worker, for the promises of
    harness.proving.service.

        greeter = unit_under_proof("greeter.service", path="systemd/greeter.service")

    name: of the unit. text, path: its file, as text or where it lies (relative to pytest's rootdir); with neither, the
    one that the computer has. package: what to install into the machine, and into nothing else, where the computer has
    no such unit. drop_in: lines for [Service] on top of the file, such as shorter times. serves: a command that exits 0
    in the machine as soon as the service does what it is there for.

    Raises ValueError for text and path together, and for what cannot be a service's name, unit file or command. A proof
    with this fixture is unproven where no private machine can be had, or no such unit. Its machine may go, and a new
    one come, between two tests of which the second does not use it.
    """
    if text is not None and path is not None:
        raise ValueError(f"unit_under_proof({name!r}): text and path both say what is in the unit file; give one")
    # Whoever calls this has loaded it, or is about to.
    from harness.proving import service

    service.check_definition(name, text, drop_in, serves)

    def unit(
        proof_run: Run, proof_shell: Shell, proof_machine: Machine, pytestconfig: pytest.Config
    ) -> Iterator[ServiceUnit]:
        from harness.base.errors import HarnessError
        from harness.machines import machine

        content = text
        if path is not None:
            try:
                content = (pytestconfig.rootpath / path).read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise HarnessError(f"the unit file of {name} cannot be read: {error}") from error
        archives = proof_run.options.checkout / ".cache" / "archives"
        with ExitStack() as stack:
            lent = proof_machine
            # A package may have to be fetched; whatever else runs here cannot reach the computer's network.
            if lent.kind == "private" and package is None:
                lent = machine.make(lent.kind, proof_shell, None, f"{lent.name}-{os.urandom(2).hex()}", "own")
                stack.callback(lent.halt)
                lent.boot()
            yield stack.enter_context(
                service.under_proof(
                    proof_run.recorder, lent, name, content, archives, package=package, drop_in=drop_in, serves=serves
                )
            )

    setattr(unit, _OWN_MACHINE, package is None)
    made: Callable[..., Iterator[ServiceUnit]] = pytest.fixture(scope="session")(unit)
    return made
