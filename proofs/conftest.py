"""Fixtures of the proofs; the plugin pytest_hybrid_proofs brings machine, shell and journal."""

import gc
import logging
import random
import signal
import sys
from collections.abc import Iterator

from proofs.fixtures.bytecode import BYTECODE

if sys.dont_write_bytecode:
    # Somebody wants no bytecode in the tree. Rewriting the assertions of all modules anew, hypothesis among them, costs
    # every start more than a second, so it is kept beside the stage instead.
    sys.pycache_prefix = str(BYTECODE)
    sys.dont_write_bytecode = False

import pytest
from hypothesis import settings

pytest_plugins = [
    "proofs.fixtures.short_names",
    "proofs.fixtures.engine_unit",
    "proofs.fixtures.soak_run",
    "proofs.fixtures.dashboard_unit",
    "proofs.fixtures.browser",
    "proofs.fixtures.fleet_servers",
]

# Every run draws other examples, so that many short runs see as much as a long one; the night's is long.
settings.register_profile("quick", max_examples=30, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("proofs")
    group.addoption("--shuffle", type=int, metavar="SEED", help="run in the order that SEED makes")
    group.addoption("--take-pictures", action="store_true", help="take the pictures in docs/pictures anew")


NEEDS = {
    "machine": {"machine", "stage", "proof_machine", "proof_stage"},
    "programs": {"browser", "nats_server", "postgres"},
}
"""Mark -> the fixtures by which a test needs that. A test that needs it otherwise bears the mark itself."""


def pytest_configure(config: pytest.Config) -> None:
    # What nohup or the background of a script has ignored would be ignored by all that proofs start. A handler is not
    # inherited, and ignores it here as well.
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)
    config.addinivalue_line("markers", "machine: drives a machine, or looks at what is installed in one")
    config.addinivalue_line(
        "markers", "slow: `make proofs` leaves it out for its seconds; WHOLE=1 and `make test` do not"
    )
    config.addinivalue_line("markers", "programs: needs a browser or servers of other people")


def pytest_itemcollected(item: pytest.Item) -> None:
    """So that `-m 'not machine and not programs'` selects what needs an interpreter and nothing else."""
    for mark, fixtures in NEEDS.items():
        if fixtures & set(getattr(item, "fixturenames", ())):
            item.add_marker(mark)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What drives a machine comes first: it waits more than it computes, and at the end would leave processors idle.

    Of pytest-xdist's workers each begins with as many neighbours as any other (`--dist=worksteal`), so these are dealt.
    The rest is not: a module's tests share what the first of them made, such as compiled templates.
    """
    if (seed := config.getoption("--shuffle")) is not None:
        random.Random(seed).shuffle(items)
        return
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    waits: list[pytest.Item] = []
    rest: list[pytest.Item] = []
    for item in items:
        (rest if item.get_closest_marker("machine") is None else waits).append(item)
    # Sabotages compute, being their proofs twice over, while the second engine's lies wait: all along there are both.
    sabotages = [item for item in waits if item.path.name == "test_sabotage.py"]
    others = [item for item in waits if item.path.name != "test_sabotage.py"]
    place = {item: (at + 0.5) / len(part) for part in (sabotages, others) for at, item in enumerate(part)}
    waits.sort(key=lambda item: place[item])
    each = -(-len(rest) // workers)
    items[:] = [
        item for worker in range(workers) for item in waits[worker::workers] + rest[worker * each : (worker + 1) * each]
    ]


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """What an engine that ran in this process logs is not what the next test hears."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def pytest_collection_finish() -> None:
    """What is loaded by now stays to the end: the garbage collector need not walk through it again and again."""
    gc.freeze()
