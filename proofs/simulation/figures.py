"""What was seen of a fleet -> figures, pages, and what a larger one would need. Pure: nothing is measured here."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.report import quantile

Kind = Literal["relay", "collector", "leader", "postgres", "cut"]
KINDS: tuple[Kind, ...] = ("relay", "collector", "leader", "postgres")
"""What is killed."""


@dataclass(frozen=True)
class Disturbance:
    """What is done to a fleet."""

    kind: Kind
    which: int | None = None
    """Of the relays, or of the hosts that are cut off. None: who is at work, or the host of the collector that is."""


@dataclass(frozen=True)
class Recovery:
    """What came of a disturbance."""

    kind: Kind
    victim: str
    at: float
    """Seconds since the fleet began."""
    secs: float
    """From the kill, or from the end of the cut, until a row that was made after that is in PostgreSQL, of each engine
    whose rows were held up."""
    elsewhere_secs: float | None = None
    """Of a cut: from its beginning until rows of all other hosts flow again, while it lasts; None when they did not."""


def plan(seed: int, kills: int, cuts: int, engines: int, hosts: int) -> list[Disturbance]:
    """So many kills of each kind and cuts, in an order drawn by the seed. Every other cut is of the collector at work,
    the first among them; of the rest no host is cut off twice before all were."""
    draw = random.Random(seed)
    found = [
        Disturbance(kind, draw.randrange(engines) if kind == "relay" else None) for kind in KINDS for _ in range(kills)
    ]
    turns: list[int] = []
    for number in range(cuts):
        turns = turns or draw.sample(range(hosts), hosts)
        found.append(Disturbance("cut", turns.pop() if number % 2 else None))
    draw.shuffle(found)
    return found


def recoveries(seen: Sequence[Recovery]) -> dict[str, dict[str, float]]:
    """Kind -> how many, and the median, 90th percentile and maximum of seconds."""
    found: dict[str, dict[str, float]] = {}
    for kind in (*KINDS, "cut"):
        secs = [one.secs for one in seen if one.kind == kind]
        if secs:
            found[kind] = {
                "times": len(secs), "p50": quantile(secs, 0.5), "p90": quantile(secs, 0.9), "max": max(secs),
            }  # fmt: skip
    return found


@dataclass(frozen=True)
class Costs:
    """What a row costs, as it was measured."""

    rows_a_tick: float
    """Rows of all tables that a tick leaves behind, itself included."""
    rows_a_message: float
    stream_bytes: float
    """Of a row in a message."""
    stored_bytes: float
    """Of a row in PostgreSQL, its indexes included."""
    cpu_us: Mapping[str, float]
    """Part -> microseconds of a processor a row: engine (a tick), relay, stream (all servers), collector, postgres."""


DAY_SECS = 86_400
TABLES = 9
"""Each has a partition a day."""

KEPT_DAYS = 14
"""How long the stream keeps what it has (`max_age_hours`, as shipped)."""

STORED_DAYS = 30
"""How long PostgreSQL keeps it, on paper; nothing of the code removes a day."""

CORE_EUR, TB_EUR = 15.0, 80.0
"""A month of a processor and of a terabyte of SSD, about, where both are rented."""

REPLICAS = 3

BUSY = 0.6
"""Of a core that may be planned for: the rest is for what comes after an outage, all at once."""


@dataclass(frozen=True)
class Need:
    """What a fleet of a size needs, on paper."""

    engines: int
    ticks_a_sec: float
    rows_a_sec: float
    messages_a_sec: float
    wire_mbit: float
    """Into the stream, from all hosts together; the servers send it to each other twice more."""
    stream_tb: float
    """On each of three servers, when it is as full as it gets."""
    stored_gb_a_day: float
    rows_a_partition: float
    """Of ticks, in each collector's database."""
    collectors: int
    """Streams, collectors and databases, each of some of the engines."""
    cores: Mapping[str, float]
    """Part -> processors, at BUSY."""
    month_eur: float
    """Of what is there beside the engines: processors, and disks for KEPT_DAYS in the stream and STORED_DAYS in
    PostgreSQL."""


def need(costs: Costs, engines: int, rate: float) -> Need:
    """What `engines` at `rate` ticks a second each need, if a row costs what it cost here."""
    ticks = engines * rate
    per_day = DAY_SECS * rate * engines * costs.rows_a_tick / 1e12
    disks_tb = per_day * (REPLICAS * KEPT_DAYS * costs.stream_bytes + STORED_DAYS * costs.stored_bytes)
    rows = ticks * costs.rows_a_tick
    cores = {part: (ticks if part == "engine" else rows) * us / 1e6 / BUSY for part, us in costs.cpu_us.items()}
    # A collector is one process on one connection, so neither it nor its backend has more than one core.
    collectors = max(1, -int(-max(cores["collector"], cores["postgres"]) // 1))
    return Need(
        engines, ticks, rows, rows / costs.rows_a_message, rows * costs.stream_bytes * 8 / 1e6,
        rows * costs.stream_bytes * DAY_SECS * KEPT_DAYS / 1e12, rows * costs.stored_bytes * DAY_SECS / 1e9,
        ticks * DAY_SECS / collectors, collectors, cores,
        CORE_EUR * sum(cores[part] for part in cores if part != "engine") + TB_EUR * disks_tb,
    )  # fmt: skip


SIZES = ((1, 1000.0), (20, 1000.0), (100, 100.0), (1000, 100.0), (1000, 1000.0))
"""Engines, and ticks a second of each, of the table of growth."""


def growth(costs: Costs) -> list[str]:
    """A table, as lines of Markdown, of what fleets of SIZES need."""
    needs = [need(costs, engines, rate) for engines, rate in SIZES]
    rows: list[tuple[str, list[str]]] = [
        ("engines x ticks/s", [f"{one.engines} x {one.ticks_a_sec / one.engines:g}" for one in needs]),
        ("rows/s", [_short(one.rows_a_sec) for one in needs]),
        ("messages/s", [_short(one.messages_a_sec) for one in needs]),
        ("into the stream, Mbit/s", [_short(one.wire_mbit) for one in needs]),
        (f"each of {REPLICAS} servers, {KEPT_DAYS} days, TB", [_short(one.stream_tb) for one in needs]),
        ("PostgreSQL, GB/day", [_short(one.stored_gb_a_day) for one in needs]),
        ("streams with a collector and a database each", [str(one.collectors) for one in needs]),
        ("rows in a day's partition of ticks", [_short(one.rows_a_partition) for one in needs]),
        *((f"cores: {part}", [_short(one.cores[part]) for one in needs]) for part in costs.cpu_us),
        (f"EUR a month, rows kept {STORED_DAYS} days", [_short(one.month_eur) for one in needs]),
    ]
    head, *rest = [f"| {name} | {' | '.join(values)} |" for name, values in rows]
    return [head, "|---|" + "---:|" * len(needs), *rest]


def _short(value: float) -> str:
    """Three digits that count."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
