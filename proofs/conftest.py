"""Fixtures of the proofs; the plugin in harness/ brings machine, shell and journal."""

import sys

from proofs.fixtures.bytecode import BYTECODE

if sys.dont_write_bytecode:
    # Somebody wants no bytecode in the tree. Rewriting the assertions of all modules anew, hypothesis among them, costs
    # every start more than a second, so it is kept beside the stage instead.
    sys.pycache_prefix = str(BYTECODE)
    sys.dont_write_bytecode = False

import pytest
from hypothesis import settings

pytest_plugins = [
    "proofs.fixtures.engine_unit",
    "proofs.fixtures.soak_run",
    "proofs.fixtures.dashboard_unit",
    "proofs.fixtures.browser",
]

# Every run draws other examples, so that many short runs see as much as a long one; the night's is long.
settings.register_profile("quick", max_examples=30, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("quick")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits more than it computes comes first, since at the end it would leave processors idle: proofs that drive
    a machine, then those that run processes on files of their own."""

    def rank(item: pytest.Item) -> tuple[bool, ...]:
        needs = getattr(item, "fixturenames", ())
        return "machine" not in needs, "tmp_path" not in needs

    items.sort(key=rank)
