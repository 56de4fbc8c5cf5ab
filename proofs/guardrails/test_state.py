"""Where the engine keeps its state, and as whom: a static user, also with a disk of its own, and after an older install
(contract O1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.base.errors import Unavailable
from proofs.fixtures.engine_unit import EngineUnit

FAST = {"engine": {"tick_interval_ms": 20, "heartbeat_interval_secs": 0.5}, "persist": {"flush_interval_ms": 20}}

OLD_UID = "61234"
"""Of those that systemd gives to dynamic users."""

MOVED = """\
[Service]
StateDirectory=
StateDirectory=hybrid-moved
StateDirectoryMode=0750
WorkingDirectory=%S/hybrid-moved
"""


def in_private_machine(engine: EngineUnit) -> None:
    if engine.machine.kind != "private":
        raise Unavailable("a disk is mounted, and another state directory used", "use --systemd=private")


@contextmanager
def removed_at_the_end(engine: EngineUnit, *directories: str) -> Iterator[None]:
    try:
        yield
    finally:
        engine.machine.run("rm", "-rf", *directories).expect(0)


@pytest.mark.claim("O1")
def test_a_disk_of_its_own_below_the_state_directory(engine: EngineUnit) -> None:
    """Mounted before the start and owned by the engine's user, as docs/operating.md says."""
    in_private_machine(engine)
    place = f"{engine.machine.layout.state}/data"
    engine.machine.path(place).mkdir()
    engine.machine.run("mount", "-t", "tmpfs", "-o", "mode=0750", "disk", place).expect(0)
    try:
        engine.machine.run("chown", "hybrid-engine:hybrid-engine", place).expect(0)
        engine.configure(FAST)
        engine.start()
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields.get("persist_count", 0) > 0)
        found = engine.machine.run("stat", "--format=%U:%G %a", f"{place}/bot.db", f"{place}/bot.db-shm").stdout
        engine.expect(found == "hybrid-engine:hybrid-engine 640\n" * 2, f"the database is {found!r}")
    finally:
        engine.down()
        engine.machine.run("umount", place).expect(0)


@pytest.mark.claim("O1")
def test_a_first_start_in_what_systemd_makes(engine: EngineUnit) -> None:
    """Nothing is there: no directory, no database, and nobody but systemd and the engine makes them."""
    in_private_machine(engine)
    engine.configure(FAST)
    state = "/var/lib/hybrid-moved"
    with removed_at_the_end(engine, state), engine.drop_in("40-moved", MOVED):
        engine.expect(engine.machine.run("test", "-e", state).status == 1, f"{state} is there before the first start")
        engine.start()
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields.get("persist_count", 0) > 0)
        places = (state, f"{state}/data", f"{state}/data/bot.db")
        found = engine.machine.run("stat", "--format=%U:%G %a", *places).stdout.splitlines()
        owner = "hybrid-engine:hybrid-engine"
        engine.expect(found == [f"{owner} 750", f"{owner} 750", f"{owner} 640"], f"{places} are {found}")


@pytest.mark.slow
@pytest.mark.claim("O1")
def test_what_a_dynamic_user_left_is_taken_over(engine: EngineUnit) -> None:
    """An older install had DynamicUser=yes: its state lies below /var/lib/private, under a user id that nobody has."""
    in_private_machine(engine)
    engine.configure(FAST)
    old, new = "/var/lib/private/hybrid-moved", "/var/lib/hybrid-moved"
    with removed_at_the_end(engine, old, new), engine.drop_in("40-moved", MOVED):
        with engine.drop_in("50-old", "[Service]\nDynamicUser=yes\n"):
            engine.start()
            engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields.get("persist_count", 0) > 0)
            engine.stop()
            engine.machine.run("chown", "-R", f"{OLD_UID}:{OLD_UID}", old).expect(0)
        engine.start()
        state = engine.wait_log("initial database state")
        engine.expect(state.fields["ticks_id_max"] > 0, f"it began anew: {state.fields}")
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields.get("persist_count", 0) > 0)
        found = engine.machine.run("stat", "--format=%F %U %a", new).stdout.strip()
        engine.expect(found == "directory hybrid-engine 750", f"the state directory is {found!r}")
        engine.expect(engine.machine.run("test", "-e", old).status == 1, f"{old} is still there")
