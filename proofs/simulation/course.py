"""What is done to a fleet in full flow, and what is seen of it then."""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.base.clock import poll
from proofs.fixtures import fleet_books
from proofs.fixtures.fleet_parts import Process
from proofs.simulation import figures
from proofs.simulation.figures import Costs, Disturbance, Recovery
from proofs.simulation.fleet import Fleet, Size

FLOW_SECS = 2.0
"""At most between two disturbances, beside what the fleet needs to recover."""

WARM_SECS = 2.0

TAKEN_OVER_SECS = 60.0
"""Until another collector is at work and another server leads the stream, on a busy computer: 15 s to notice, 10 s for
an election, twice 10 s for connections to who is not there."""

REST_SECS = 0.2
"""Between two looks at all engines."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What a simulation is to do."""

    size: Size
    seconds: float
    """Of undisturbed flow, of which lag and costs are measured."""
    kills: int
    """Of each kind."""
    cuts: int
    cut_secs: float
    seed: int


@dataclass
class Outcome:
    """What was found."""

    lost: int = 0
    """Rows of ledgers that PostgreSQL does not have as they are."""
    foreign: int = 0
    """Rows of PostgreSQL that no ledger has as they are."""
    repeated: int = 0
    """Rows that are in the stream more often than in the ledgers."""
    rows: dict[str, int] = field(default_factory=dict)
    """Of the ledgers, by table."""
    wrong: list[str] = field(default_factory=list)
    """Whatever else is not as it must be; and examples of what was counted above."""

    @property
    def exact(self) -> bool:
        """Whether every row is there once, and nothing else."""
        return not (self.lost or self.foreign or self.repeated or self.wrong)


def run(directory: Path, asked: Asked, say: Say) -> dict[str, Any]:
    """Make a fleet, disturb it, let it come to rest, and compare. Returns all figures, for JSON. AssertionError when
    something does not come back."""
    with ExitStack() as stack:
        say(f"starting {asked.size.engines} engines on {asked.size.hosts} hosts, seed {asked.seed}")
        fleet = Fleet(directory, asked.size, stack)
        fleet.wait_flow(fleet.clock.wall(), fleet.names, "the start")
        _pass(fleet, WARM_SECS)
        say(f"{fleet.secs:6.1f} s  rows of all engines flow; undisturbed for {asked.seconds:g} s")
        steady = _steady(fleet, asked.seconds)
        seen, held, wrong = [], [], []
        draw = random.Random(asked.seed)
        for one in figures.plan(asked.seed, asked.kills, asked.cuts, asked.size.engines, asked.size.hosts):
            _pass(fleet, draw.uniform(0, FLOW_SECS))
            if one.kind == "cut":
                host = fleet.place_of(fleet.wait(fleet.worker, "a collector")) if one.which is None else one.which
                recovery, ratio = _cut(fleet, host, asked.cut_secs, say)
                held.append(ratio)
                if recovery.elsewhere_secs is None and asked.cut_secs >= TAKEN_OVER_SECS and host != fleet.database_at:
                    wrong.append(f"while {recovery.victim} was cut off for {asked.cut_secs:g} s, no other went on")
            else:
                recovery = _kill(fleet, one, say)
            seen.append(recovery)
        fleet.stop_engines()
        say(f"{fleet.secs:6.1f} s  engines have stopped; waiting for the last row")
        fleet.wait_all()
        found = _compare(fleet, wrong)
        counts = f"lost {found.lost}, foreign {found.foreign}, repeated in the stream {found.repeated}"
        say(f"{fleet.secs:6.1f} s  compared: {sum(found.rows.values())} rows, {counts}")
        return {
            "asked": asdict(asked),
            "computer": {"cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release()},
            "steady": _measured(fleet, steady),
            "recoveries": figures.recoveries(seen),
            "events": [asdict(one) for one in seen],
            "engines_while_cut_off": min(held, default=None),
            "outcome": {**asdict(found), "exact": found.exact},
            "lags": [(round(at, 2), round(lag, 3)) for at, lag in fleet.lags],
        }


def _pass(fleet: Fleet, secs: float) -> None:
    """Let time pass, and look at the fleet meanwhile."""
    end = fleet.clock.monotonic() + secs
    while fleet.clock.monotonic() < end:
        fleet.newest()
        fleet.clock.sleep(min(REST_SECS, max(end - fleet.clock.monotonic(), 0.0)))


# --- disturbing ----------------------------------------------------------------------------------------------


def _kill(fleet: Fleet, one: Disturbance, say: Say) -> Recovery:
    whose = fleet.names
    victim: Process
    if one.kind == "relay":
        victim, whose = fleet.relays[one.which or 0], [fleet.names[one.which or 0]]
    elif one.kind == "postgres":
        victim = fleet.postgres
    else:
        who = fleet.leader if one.kind == "leader" else fleet.worker
        victim = fleet.wait(who, f"a {one.kind}")
    at, name = fleet.secs, f"{one.kind} {_place(fleet, victim)}"
    victim.end()
    since = fleet.clock.wall()
    # The others of a cluster must do without it, and elect somebody.
    apart = one.kind == "leader" and fleet.size.servers > 1
    if not apart:
        victim.start()
    fleet.wait_flow(since, whose, f"{name} was killed")
    recovery = Recovery(one.kind, name, at, fleet.clock.wall() - since)
    if apart:
        victim.start()
    say(f"{at:6.1f} s  {name} killed; rows flow again after {recovery.secs:.1f} s")
    return recovery


def _place(fleet: Fleet, victim: Process) -> str:
    """What tells it from others of its kind."""
    for members in (fleet.relays, fleet.servers, fleet.collectors):
        if victim in members:
            return str([*members].index(victim))
    return ""


def _cut(fleet: Fleet, host: int, secs: float, say: Say) -> tuple[Recovery, float]:
    """Cut a host off. Returns what came of it, and how many ticks an engine there made meanwhile, to one elsewhere."""
    name, others = f"host-{host + 1}", [one for one in fleet.names if one not in fleet.hosted(host)]
    at, began = fleet.secs, fleet.clock.monotonic()
    before = [engine.ticks() for engine in fleet.engines]
    with fleet.switch.cut_off(host):
        since = fleet.clock.wall()
        elsewhere = poll(lambda: fleet.flows(since, others) or None, fleet.clock, secs)
        elsewhere_secs = fleet.clock.wall() - since if elsewhere else None
        _pass(fleet, began + secs - fleet.clock.monotonic())
        made = [engine.ticks() - count for engine, count in zip(fleet.engines, before, strict=True)]
    since = fleet.clock.wall()
    fleet.wait_flow(since, fleet.names, f"{name} was cut off")
    recovery = Recovery("cut", name, at, fleet.clock.wall() - since, elsewhere_secs)
    here = [count for one, count in zip(fleet.names, made, strict=True) if one not in others]
    there = [count for one, count in zip(fleet.names, made, strict=True) if one in others]
    ratio = (sum(here) / len(here)) / max(sum(there) / len(there), 1) if here and there else 1.0
    meanwhile = "nothing flowed elsewhere" if elsewhere_secs is None else f"elsewhere after {elsewhere_secs:.1f} s"
    say(f"{at:6.1f} s  {name} cut off for {secs:g} s ({meanwhile}; its engines made {ratio:.0%} of others' ticks);"
        f" all flows again after {recovery.secs:.1f} s")  # fmt: skip
    return recovery, ratio


# --- measuring -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Edge:
    """The fleet at a moment."""

    wall: float
    cpu: dict[str, float]
    messages: int
    bytes: int
    busy: float
    """Seconds of all processors of the computer, that were not idle."""


def _edge(fleet: Fleet) -> _Edge:
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return _Edge(fleet.clock.wall(), fleet.cpu_secs(), *fleet.stream_state(), busy)


def _steady(fleet: Fleet, secs: float) -> tuple[_Edge, _Edge]:
    first = _edge(fleet)
    _pass(fleet, secs)
    return first, _edge(fleet)


def _measured(fleet: Fleet, steady: tuple[_Edge, _Edge]) -> dict[str, Any]:
    """Lag and costs of the time between, as PostgreSQL knows when each row was there."""
    first, last = steady
    secs = last.wall - first.wall
    within = (first.wall, last.wall)
    committed = "extract(epoch FROM pg_xact_commit_timestamp(xmin))"
    rows = {
        table: int(fleet.ask(f"SELECT count(*) FROM {table} WHERE {committed} BETWEEN %s AND %s", *within)[0][0])
        for table in fleet_books.LEDGER
    }
    (lags,) = fleet.ask(
        f"SELECT percentile_disc(ARRAY[0.5, 0.99, 1.0]) WITHIN GROUP (ORDER BY {committed} - ts / 1000.0) FROM ticks"
        " WHERE ts / 1000.0 BETWEEN %s AND %s",
        *within,
    )
    made = fleet.ask("SELECT count(*) FROM ticks WHERE ts / 1000.0 BETWEEN %s AND %s", *within)[0][0]
    (size,) = fleet.ask(
        "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits JOIN pg_class c ON c.oid = inhparent"
        " WHERE c.relkind = 'p'"
    )[0]
    everything = sum(int(fleet.ask(f"SELECT count(*) FROM {table}")[0][0]) for table in fleet_books.LEDGER)
    total = max(sum(rows.values()), 1)
    spent = {part: last.cpu[part] - first.cpu[part] for part in first.cpu}
    costs = Costs(
        rows_a_tick=total / max(rows["ticks"], 1),
        rows_a_message=total / max(last.messages - first.messages, 1),
        stream_bytes=(last.bytes - first.bytes) / total,
        stored_bytes=size / max(everything, 1),
        cpu_us={part: 1e6 * one / (made if part == "engine" else total) for part, one in spent.items()},
    )
    return {
        "seconds": secs,
        "ticks_a_sec": made / secs,
        "asked_ticks_a_sec": fleet.size.engines * 1000 / fleet.size.interval_ms,
        "rows_a_sec": total / secs,
        "messages_a_sec": (last.messages - first.messages) / secs,
        "lag_secs": dict(zip(("p50", "p99", "max"), map(float, lags[0]), strict=True)),
        "cores_busy": (last.busy - first.busy) / secs,
        "cores_of_parts": {part: one / secs for part, one in spent.items()},
        "costs": asdict(costs),
    }


# --- comparing -----------------------------------------------------------------------------------------------


def _compare(fleet: Fleet, wrong: list[str]) -> Outcome:
    """Everything against everything: ledgers, stream, PostgreSQL. wrong: what is known to be before that."""
    found = Outcome(wrong=wrong)
    streamed = fleet.streamed()
    found.wrong += streamed.faults[:10]
    with fleet.postgres.connect("fleet") as connection:
        for name, engine in zip(fleet.names, fleet.engines, strict=True):
            for books in fleet_books.of_ledger(engine.ledger, connection, name):
                found.rows[books.table] = found.rows.get(books.table, 0) + books.due
                found.lost += books.lost
                found.foreign += books.foreign
                if books.example:
                    found.wrong.append(f"{name}, {books.table}: {books.example}")
                if books.table != "positions":
                    # A position is sent whenever it has moved.
                    found.repeated += max(streamed.rows[name, books.table] - books.due, 0)
            found.wrong += fleet_books.sums_that_differ(connection, name)
        for table in ("breaks", "refused"):
            rows = connection.execute(f"SELECT * FROM hybrid.{table}").fetchall()
            found.wrong += [f"{table}: {row}" for row in rows[:10]]
    if min(found.rows.values()) == 0:
        found.wrong.append(f"nothing was compared of a table: {found.rows}")
    return found
