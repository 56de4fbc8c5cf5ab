"""Servers of a fleet, once for all proofs of a process; what each proof makes in them bears its own name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from proofs.fixtures import fleet_parts
from proofs.fixtures.fleet_parts import NatsServer, Postgres


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Of this proof alone: a nats-server starts in a few milliseconds."""
    place = tmp_path / "nats"
    place.mkdir()
    server = NatsServer(place)
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One for all proofs of this process, and still there after each."""
    place = fleet_parts.directory_for_ordinary_user()
    server = Postgres(place)
    server.start()
    yield server
    server.end()
    shutil.rmtree(place)
    fleet_parts.sweep()
