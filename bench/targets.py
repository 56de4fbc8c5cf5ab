"""What is run against what, and what follows from it: the targets T1 to T11.

A round runs every subject of a target once, one after the other, so that a neighbour who takes the processor for a
while spoils a round and not a side. Figures are made of rounds; a round in which a subject failed is told and left out.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import floor, limit, load, relaying, report, subject
from bench.report import Figure, Target
from bench.subject import Load, Run, SubjectFailed
from engine.base.events import Tick
from engine.ingest.venues import registry
from engine.ingest.venues.markets import Markets, Streams
from engine.storage import opening
from harness.evidence.recorder import Recorder, Unrecorded
from harness.evidence.shell import Shell
from harness.faults.dialects import DIALECTS, Dialect
from harness.machines import tools
from harness.observing import ledger_view

PYTHON = sys.executable
SIGNAL_EVERY = 10
"""Ticks to a signal by default: the configuration that ships (`signal_every_n_ticks`)."""

RATE = 25_000
"""Trades a second of T3: several times what the busiest venue sends on its busiest day."""

TRANSACTION_ROWS = 512
"""Rows that the engine has in a transaction at most, by default (`persist_channel_size`), and so the floor too."""

WARM_TICKS = RATE
"""T3 leaves out the first second: connecting, and the first page of everything."""

DAY_TICKS = 24 * 3600 * 1000
"""A day at 1000 ticks a second, sent as fast as they are taken."""

MIB = 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    ticks: int
    """Of a saturated run of the engine."""
    long_ticks: int
    """Of a run of T4 and T5."""
    table_rows: int
    """Of the large table of T6."""
    day_ticks: int
    """Of a run of T10 that says whether memory grows; DAY_TICKS for a whole day."""
    directory: Path
    """On a real disk: T4 is about bytes that reach it."""
    peers: str
    """The Python interpreter that has cryptofeed and nautilus_trader."""
    tell: Callable[[str], None]
    """Takes what a round has come to."""
    doing: Callable[[str], None]
    """Takes what is being done at the moment."""


def engine_argv(
    channel: int | None = None,
    signal_every: int = 1000,
    module: tuple[str, ...] = ("engine",),
    mode: str = "REAL_WS",
    persist: str = "",
    sources: int = 1,
    markets: int = 1,
) -> subject.Argv:
    """The engine as it ships.

    channel: size of all three; None for the defaults. signal_every: ticks to a signal, each of which becomes an order
    and a fill with everything that is recorded of them. mode: REAL_WS or MOCK_WS. persist: lines of `[persist]`.
    sources: how many it may choose from, all of the same venue. markets: how many each of them asks for.
    """

    def argv(url: str, directory: Path) -> list[str]:
        sizes = (
            "" if channel is None else "".join(f"{c}_channel_size = {channel}\n" for c in ("tick", "signal", "persist"))
        )
        (directory / "config.toml").write_text(
            f'[app]\ndb_path = "{directory}/ticks.db"\n'
            f'[engine]\ningest_mode = "{mode}"\nws_url = "{url}"\nsignal_every_n_ticks = {signal_every}\n'
            # Saturation is meant here, by frames that were made before they are sent: no neighbour who takes the
            # processor for a while shall end the run, or make vetoes of its orders.
            f"overload_grace_ms = 10000\nmax_staleness_ms = 3600000\n[channels]\n{sizes}[persist]\n{persist}\n"
        )
        asked = load.market_names(markets)
        streams, table = "", ""
        if markets > 1:
            streams = "/ws/" + "/".join(f"{name.lower()}@trade" for name in asked)
            table = "[source.markets]\n" + "".join(f'{name} = "{name[:-4]}/USDT"\n' for name in asked)
        (directory / "ws_sources.toml").write_text(
            "".join(
                f'[[source]]\nname = "bench{"" if number == 1 else number}"\nurl = "{url}{streams}"\nkind = "trade"\n'
                f'priority = {number}\nvenue = "binance"\n{table}'
                for number in range(1, sources + 1)
            )
        )
        return [PYTHON, "-m", *module, "--config", str(directory / "config.toml")]

    return argv


def floor_argv(orders_every: int = 0, rows: int = 0) -> subject.Argv:
    """The raw floor; orders_every: ticks to an order, 0 for none; rows: in a transaction at most, 0 for no limit."""
    numbers = [str(orders_every), str(rows)]
    return lambda url, directory: [PYTHON, "-m", "bench.floor", url, str(directory / "ticks.db"), *numbers]


def naive_argv(url: str, directory: Path) -> list[str]:
    return [PYTHON, "-m", "bench.naive", url, str(directory / "ticks.db")]


@contextmanager
def _directory(plan: Plan) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hybrid-bench-", dir=plan.directory) as name:
        yield Path(name)


def measure(
    plan: Plan, argv: subject.Argv, load: Load, *, env: dict[str, str] | None = None, counts: bool = True
) -> Run:
    with _directory(plan) as directory:
        return subject.run(argv, load, directory, env=env, counts=counts, watch=plan.doing)


def _rounds(
    plan: Plan, name: str, one: Callable[[], dict[str, float]], rounds: int | None = None
) -> dict[str, list[float]]:
    """Runs `one` for every round; the values of each key, of the rounds that came through. `rounds`: other than
    planned."""
    found: dict[str, list[float]] = {}
    rounds = rounds or plan.rounds
    for number in range(1, rounds + 1):
        plan.doing(f"{name} round {number}/{rounds}")
        try:
            values = one()
        except SubjectFailed as error:
            plan.tell(f"{name} round {number}/{rounds} left out: {error}")
            continue
        plan.tell(f"{name} round {number}/{rounds}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
        for key, value in values.items():
            found.setdefault(key, []).append(value)
    return found


def _figures(
    plan: Plan, found: dict[str, list[float]], rows: Sequence[tuple[str, str, str, str, Target | None]]
) -> list[Figure]:
    """rows: (key of `found`, id, what, unit, target). A target without a round that came through is told of."""
    for key, id_, what, _, target in rows:
        if target is not None and key not in found:
            plan.tell(f"{id_} NO FIGURE: {what}")
    return [Figure(id_, what, unit, found[key], target) for key, id_, what, unit, target in rows if key in found]


def throughput(plan: Plan) -> list[Figure]:
    """T1: from the WebSocket to SQLite, saturated."""
    full = Load(plan.ticks)
    built = tempfile.TemporaryDirectory(prefix="hybrid-bench-")
    binary = limit.build(Path(built.name))
    if binary is None:
        plan.tell("T1: no C compiler with SQLite's header, so the floor in C is left out")

    def one() -> dict[str, float]:
        ticks_floor_run = measure(plan, floor_argv(0, TRANSACTION_ROWS), full)
        ticks_floor = ticks_floor_run.rate
        ticks_unbounded_run = measure(plan, floor_argv(), full)
        ticks_unbounded = ticks_unbounded_run.rate
        ticks_run = measure(plan, engine_argv(), full)
        ticks = ticks_run.rate
        ticks_large = measure(plan, engine_argv(8192), full).rate
        orders_floor_run = measure(plan, floor_argv(SIGNAL_EVERY, TRANSACTION_ROWS), full)
        orders_floor = orders_floor_run.rate
        orders_unbounded_run = measure(plan, floor_argv(SIGNAL_EVERY), full)
        orders_unbounded = orders_unbounded_run.rate
        orders_run = measure(plan, engine_argv(None, SIGNAL_EVERY), full)
        orders = orders_run.rate
        made = next((fields["shadow_orders"] for fields in _final(orders_run)), 0)
        if made != plan.ticks // SIGNAL_EVERY:
            raise SubjectFailed(f"{made} orders of {plan.ticks} ticks")
        orders_large = measure(plan, engine_argv(8192, SIGNAL_EVERY), full).rate
        other = measure(plan, engine_argv(), full, env={"HYBRID_TRANSPORT": "websockets"}).rate
        # A sixtieth of the ticks takes it as long.
        naive = measure(plan, naive_argv, Load(max(1, plan.ticks // 60))).rate
        limits = {}
        if binary is not None:
            for name, every, run in (("ticks_limit", 0, ticks_run), ("orders_limit", SIGNAL_EVERY, orders_run)):
                spent = measure(plan, limit.argv(binary, every, TRANSACTION_ROWS), full).cpu_secs
                limits[name] = spent / run.cpu_secs
        return {
            **limits,
            "ticks": ticks / ticks_floor,
            "ticks_large": ticks_large / ticks_unbounded,
            "orders": orders / orders_floor,
            "orders_large": orders_large / orders_unbounded,
            "ticks_cpu": ticks_floor_run.cpu_secs / ticks_run.cpu_secs,
            "orders_cpu": orders_floor_run.cpu_secs / orders_run.cpu_secs,
            "ticks_unbounded_cpu": ticks_unbounded_run.cpu_secs / ticks_run.cpu_secs,
            "orders_unbounded_cpu": orders_unbounded_run.cpu_secs / orders_run.cpu_secs,
            "bare": orders / ticks_floor,
            "ticks_unbounded": ticks / ticks_unbounded,
            "orders_unbounded": orders / orders_unbounded,
            "transport": other / ticks,
            "naive": ticks / naive,
            "ticks_per_sec": ticks,
            "orders_per_sec": orders,
            "orders_bytes": _bytes_a_tick(orders_run),
        }

    some, many = "an order every 1000 ticks", f"an order every {SIGNAL_EVERY} ticks"
    with built:
        found = _rounds(plan, "T1", one)
    return _figures(
        plan,
        found,
        [
            ("ticks", "T1", f"engine / raw floor of ticks, {some}", "x", Target(">=", 0.6)),
            ("orders", "T1", f"engine / raw floor of the same rows, {many}", "x", Target(">=", 0.6)),
            # A floor's two threads suffer from neighbours as an engine that waits for its feed does not: what the
            # clock says is held only where the processor says so too.
            ("ticks_cpu", "T1p", f"CPU time, floor / engine, {some}", "x", Target(">=", 0.6)),
            ("orders_cpu", "T1p", f"CPU time, floor / engine, {many}", "x", Target(">=", 0.6)),
            ("ticks_unbounded_cpu", "T1p", f"CPU time, floor without a bound / engine, {some}", "x", None),
            ("orders_unbounded_cpu", "T1p", f"CPU time, floor without a bound / engine, {many}", "x", None),
            ("ticks_limit", "T1l", f"CPU time, C floor / engine, {some}", "x", None),
            ("orders_limit", "T1l", f"CPU time, C floor / engine, {many}", "x", None),
            ("ticks_unbounded", "T1u", f"engine / floor without a bound, {some}", "x", None),
            ("orders_unbounded", "T1u", f"engine / floor without a bound, {many}", "x", None),
            ("ticks_large", "T1c", f"channels of 8192: the same, {some}", "x", None),
            ("orders_large", "T1c", f"channels of 8192: the same, {many}", "x", None),
            ("bare", "T1o", f"engine / raw floor of ticks alone, {many}", "x", None),
            ("transport", "T1w", "engine on websockets / engine on picows", "x", None),
            ("naive", "T1n", "engine / naive pipeline", "x", None),
            ("ticks_per_sec", "T1s", f"ticks on this computer, today, {some}", "/s", None),
            ("orders_bytes", "T4", f"written to disk a tick, {many}", "B", Target("<=", 300)),
            ("orders_per_sec", "T1s", f"ticks on this computer, today, {many}", "/s", None),
        ],
    )


def _bytes_a_tick(run: Run) -> float:
    """Raises SubjectFailed where nothing reaches a disk, as on a tmpfs."""
    if not run.disk_bytes:
        raise SubjectFailed("not a byte has reached a disk: --dir must be on one")
    return run.disk_bytes / run.ticks


def _final(run: Run) -> Iterator[dict[str, object]]:
    """The fields of FINAL METRICS, if it came to that."""
    for line in run.lines:
        fields = line.get("fields")
        if isinstance(fields, dict) and fields.get("message") == "FINAL METRICS":
            yield fields


def peers(plan: Plan) -> list[Figure]:
    """T2: the same frames into other people's code.

    cryptofeed has no sink for SQLite. "cryptofeed + aiosqlite" is the callback that one writes: it awaits an INSERT for
    each trade. Beside it is measured what cryptofeed's Postgres backend does: a queue without a bound, written at once.
    """
    here = {name: _has(plan.peers, name) for name in ("cryptofeed", "nautilus_trader")}
    for name, found in here.items():
        if not found:
            plan.tell(
                f"T2: {plan.peers} has no {name}, which is left out. To have it: {plan.peers} -m pip install '.[bench]'"
            )
    if not any(here.values()):
        return []
    few = max(1, plan.ticks // 8)

    def one() -> dict[str, float]:
        engine = measure(plan, engine_argv(), Load(plan.ticks, frames="combined")).rate
        values = {}
        if here["cryptofeed"]:
            for way, part in (("each", 2), ("queued", 1)):
                # In whole hundreds, because the one way commits every hundred.
                load = Load(max(100, few // part // 100 * 100), frames="combined")
                argv = functools.partial(_cryptofeed_argv, plan.peers, way)
                values[way] = engine / measure(plan, argv, load).rate
        if here["nautilus_trader"]:
            script = str(Path(__file__).with_name("peer_nautilus.py"))
            run = measure(
                plan, lambda url, at: [plan.peers, script, url, str(few)], Load(few, frames="combined"), counts=False
            )
            values["nautilus"] = engine / run.rate
        return values

    return _figures(
        plan,
        _rounds(plan, "T2", one),
        [
            ("each", "T2", "engine / cryptofeed + aiosqlite (awaits each INSERT)", "x", Target(">=", 8)),
            ("queued", "T2q", "engine / cryptofeed, aiosqlite behind its backends' queue", "x", None),
            ("nautilus", "T2", "engine / nautilus receive + decode, nothing stored", "x", Target(">=", 3)),
        ],
    )


def _cryptofeed_argv(python: str, way: str, url: str, directory: Path) -> list[str]:
    return [python, str(Path(__file__).with_name("peer_cryptofeed.py")), way, url, str(directory / "ticks.db")]


def _has(python: str, module: str) -> bool:
    try:
        return subprocess.run([python, "-c", f"import {module}"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def latency(plan: Plan) -> list[Figure]:
    """T3: from a frame in the transport's callback to the strategy's answer, at 25 000 a second, all persisted."""

    def one() -> dict[str, float]:
        with _directory(plan) as directory:
            watch = directory / "watch"
            load = Load(WARM_TICKS + 2 * RATE, RATE, stamps=directory / "sent")
            subject.run(engine_argv(module=("bench.latency", str(watch))), load, directory)
            sent, arrived, decided = (
                array("q", (directory / name).read_bytes()) for name in ("sent", "watch.arrived", "watch.decided")
            )
        if not len(arrived) == len(decided) == len(sent):
            raise SubjectFailed(f"{len(sent)} sent, {len(arrived)} arrived, {len(decided)} decided")
        inside = [(end - start) / 1000 for start, end in zip(arrived, decided, strict=True)][WARM_TICKS:]
        whole = [(end - start) / 1000 for start, end in zip(sent, decided, strict=True)][WARM_TICKS:]
        return {
            "p50": report.quantile(inside, 0.5),
            "p99": report.quantile(inside, 0.99),
            "whole_p50": report.quantile(whole, 0.5),
            "whole_p99": report.quantile(whole, 0.99),
            "lost": len(sent) - len(decided),
        }

    return _figures(
        plan,
        _rounds(plan, "T3", one),
        [
            ("p50", "T3", "tick -> strategy at 25 000/s, median", "us", Target("<=", 50)),
            ("p99", "T3", "tick -> strategy at 25 000/s, p99", "us", Target("<=", 1000)),
            ("lost", "T3", "ticks lost of 75 000", "", Target("<=", 0)),
            ("whole_p50", "T3v", "the same from the venue's write, median", "us", None),
            ("whole_p99", "T3v", "the same from the venue's write, p99", "us", None),
        ],
    )


PENDING_MAX = 10_000
"""At the end of a run no more rows than this wait for their flush."""


def endurance(plan: Plan) -> list[Figure]:
    """T4 and the memory half of T5: one long saturated run with default channels a round."""
    window = 100_000

    def one() -> dict[str, float]:
        run = measure(plan, engine_argv(), Load(plan.long_ticks))
        if run.ticks < 3 * window:
            raise SubjectFailed(f"{run.ticks} ticks: T4 compares the first and the last {window}")
        first = report.rate_between(run.progress, 0, window)
        # The rest of the last batch waits for flush_interval_ms, as nothing comes after it.
        end = run.ticks - PENDING_MAX
        last = report.rate_between(run.progress, end - window, end)
        return {
            "bytes": _bytes_a_tick(run),
            "steady": last / first,
            "rss": max(rss for _, rss in run.rss_bytes) / MIB,
            "growth": _growth(run, window) / MIB,
        }

    million = plan.long_ticks / 1e6
    return _figures(
        plan,
        _rounds(plan, "T4+T5", one),
        [
            ("bytes", "T4", "written to disk a tick, an order every 1000 ticks", "B", Target("<=", 300)),
            (
                "steady",
                "T4",
                f"rate of 100 000 ticks at the end of {million:g} M / of the first",
                "x",
                Target(">=", 0.85),
            ),
            ("rss", "T5", "resident memory, saturated", "MiB", Target("<=", 45)),
            ("growth", "T5", f"its growth from 100 000 to {million:g} M ticks", "MiB", Target("<=", 2)),
        ],
    )


def _growth(run: Run, warm_ticks: int) -> float:
    """Bytes by which resident memory grew after the first `warm_ticks`."""
    warm_at = next(at for at, rows in run.progress if rows >= warm_ticks)
    warm = [rss for at, rss in run.rss_bytes if at >= warm_at]
    few = max(1, len(warm) // 20)
    return median(warm[-few:]) - median(warm[:few])


KEEPS_UP = 0.9
"""Of the rate that was asked for: below it, a run says nothing about that rate."""

RATES = ((20, 30), (200, 20), (2_000, 20), (25_000, 4))
"""Ticks a second, and for how many seconds: bytes at rates at which batches are small."""


def low_rates(plan: Plan) -> list[Figure]:
    """T4 where batches are small: what a tick costs at the rates of quiet and busy markets, with and without orders,
    and what the settings of `[persist]` do about it. What a start and a stop cost is not in it."""
    some, many = 1_000_000, SIGNAL_EVERY
    subjects: dict[str, tuple[subject.Argv, Load]] = {"start": (engine_argv(), Load(1))}
    for rate, seconds in RATES:
        for orders in (some, many):
            subjects[f"{rate} {orders}"] = (engine_argv(None, orders), Load(rate * seconds, rate))
    slow, quick = Load(20 * 30, 20), Load(2_000 * 20, 2_000)
    subjects["slow"] = (engine_argv(None, many, persist="flush_interval_ms = 5000"), slow)
    subjects["quick"] = (engine_argv(None, many, persist="batch_size = 500"), quick)

    def run_one(name: str) -> Run:
        argv, load_ = subjects[name]
        run = measure(plan, argv, load_)
        # Batches grow where an engine lags behind, and then a tick is cheaper.
        if load_.rate and run.rate < KEEPS_UP * load_.rate:
            raise SubjectFailed(f"{name}: {run.rate:.0f} of {load_.rate} ticks/s")
        _bytes_a_tick(run)
        return run

    def one() -> dict[str, float]:
        busy = [name for name, (_, load_) in subjects.items() if (load_.rate or 0) > 2_000]
        quiet = [name for name in subjects if name not in busy]
        # Those that do nothing most of the time run at once.
        with ThreadPoolExecutor(len(quiet)) as pool:
            written = dict(zip(quiet, pool.map(run_one, quiet), strict=True))
        written |= {name: run_one(name) for name in busy}
        start = written.pop("start").disk_bytes
        return {name: (run.disk_bytes - start) / run.ticks for name, run in written.items()}

    rows: list[tuple[str, str, str, str, Target | None]] = []
    for rate, _ in RATES:
        target = Target("<=", 400) if rate == 2_000 else None
        rows += [
            (f"{rate} {some}", "T4r", f"written to disk a tick, {rate} ticks/s, no orders", "B", None),
            (f"{rate} {many}", "T4r" if target is None else "T4", f"the same with an order every {many}", "B", target),
        ]
    rows += [
        ("slow", "T4r", "20 ticks/s, orders, flush_interval_ms = 5000", "B", None),
        ("quick", "T4r", "2000 ticks/s, orders, batch_size = 500", "B", None),
    ]
    return _figures(plan, _rounds(plan, "T4", one), rows)


def textual_ids(plan: Plan) -> list[Figure]:
    """The memory of T5 where trades have textual ids, which are remembered: MOCK_WS."""

    def one() -> dict[str, float]:
        run = measure(plan, engine_argv(mode="MOCK_WS"), Load(plan.ticks, frames="mock"))
        return {"rss": max(rss for _, rss in run.rss_bytes) / MIB, "bytes": _bytes_a_tick(run)}

    return _figures(
        plan,
        _rounds(plan, "T5", one),
        [
            ("rss", "T5", "resident memory, saturated, MOCK_WS with textual ids", "MiB", Target("<=", 45)),
            ("bytes", "T4m", "written to disk a tick, MOCK_WS with ids of 36 characters", "B", None),
        ],
    )


PYDANTIC = (
    "from pydantic import BaseModel\nclass Engine(BaseModel):\n    mode: str = 'SHADOW'\nEngine.model_validate({})"
)
"""What a program that checks its configuration with pydantic does at the least."""


def start_up(plan: Plan) -> list[Figure]:
    """The other half of T5: exec to READY=1, and to the end of what only checks; and the largest import of a start."""

    def one() -> dict[str, float]:
        seconds = {}
        # The quickest of three: whatever else the computer does can only add.
        for name, argv in (("engine", engine_argv()), ("naive", naive_argv)):
            times = []
            for _ in range(3):
                with _directory(plan) as directory:
                    times.append(subject.start_up_secs(argv, directory))
            seconds[name] = min(times)
        with _directory(plan) as directory:
            good = [*engine_argv()("ws://127.0.0.1:9", directory), "--check-config"]
            bad = directory / "bad.toml"
            bad.write_text("[engine]\ntick_intervall_ms = 5\n")
            for name, command, status in (
                ("pydantic", [PYTHON, "-c", PYDANTIC], 0),
                ("check", good, 0),
                ("exit12", [PYTHON, "-m", "engine", "--config", str(bad)], 12),
            ):
                seconds[name] = min(_secs_to_end(command, status) for _ in range(3))
            seconds["import"] = _imports(good)[0][0]
        return {
            "ratio": seconds["engine"] / seconds["naive"],
            "check": seconds["check"] / seconds["pydantic"],
            "exit12": seconds["exit12"] / seconds["pydantic"],
            "import": seconds["import"] * 1000,
            "ms": seconds["engine"] * 1000,
        }

    one()  # Compiles what has no bytecode yet.
    with _directory(plan) as directory:
        largest = _imports([*engine_argv()("ws://127.0.0.1:9", directory), "--check-config"])[0][1]
    return _figures(
        plan,
        _rounds(plan, "T5", one),
        [
            ("ratio", "T5", "READY=1 of the engine / of the naive pipeline", "x", Target("<=", 1.0)),
            ("check", "T5c", "--check-config / a program with one pydantic model", "x", None),
            ("exit12", "T5c", "exit 12 for a typo / a program with one pydantic model", "x", None),
            ("import", "T5i", f"the largest import of --check-config, {largest}", "ms", None),
            ("ms", "T5s", "READY=1 of the engine, on this computer and today", "ms", None),
        ],
    )


def _secs_to_end(command: Sequence[str], status: int) -> float:
    """From exec to the end. Raises SubjectFailed for another status."""
    started = time.monotonic()
    ended = subprocess.run(command, cwd=subject.ROOT, capture_output=True, env=subject.environment({}), timeout=60)
    taken = time.monotonic() - started
    if ended.returncode != status:
        raise SubjectFailed(
            f"{command}: ended with {ended.returncode}: {ended.stderr[-2000:].decode(errors='replace')}"
        )
    return taken


def _imports(command: Sequence[str]) -> list[tuple[float, str]]:
    """Seconds that the modules of each package but ours take to import, all together, the largest first."""
    python, *rest = command
    ended = subprocess.run(
        [python, "-X", "importtime", *rest], cwd=subject.ROOT, capture_output=True, env=subject.environment({}),
        timeout=60,
    )  # fmt: skip
    found: dict[str, float] = {}
    for line in ended.stderr.decode(errors="replace").splitlines():
        micros, _, name = (line.removeprefix("import time:") + "||").split("|")[:3]
        if micros.strip().isdigit():
            package = name.strip().split(".")[0]
            found[package] = found.get(package, 0.0) + int(micros) / 1e6
    return sorted(((secs, package) for package, secs in found.items() if package != "engine"), reverse=True)


SMALL_ROWS = 10_000

TICK_BYTES = 75
"""Of a tick and its place in the index, in a file; a little more than it takes."""


def sizes(plan: Plan) -> list[Figure]:
    """T6: what must cost the same however large the database is: a start, the stall check, a look of the dashboard."""
    with _directory(plan) as directory:
        small, checked, large = (directory / name for name in ("small", "checked", "large"))

        def fill(place: Path, rows: int) -> None:
            place.mkdir()
            _fill_table(plan, place / "ticks.db", rows)
            # As many as a refresh of the dashboard looks at, in each.
            _fill_orders(place / "ticks.db", max(rows // 1000, 2 * ledger_view.TALLY_ROWS))

        fill(small, SMALL_ROWS)
        # The largest that a start reads from end to end.
        room = opening.QUICK_CHECK_BYTES_MAX - (small / "ticks.db").stat().st_size
        fill(checked, SMALL_ROWS + room // TICK_BYTES)
        fill(large, plan.table_rows)

        def look(read: Callable[[Path], object], looks: int) -> dict[Path, float]:
            # A neighbour takes the processor for a few milliseconds: so both are looked at in turns, so often that
            # their medians are those of an undisturbed look.
            times: dict[Path, list[float]] = {small: [], large: []}
            for _ in range(looks):
                for place, found in times.items():
                    start = time.perf_counter()
                    read(place / "ticks.db")
                    found.append(time.perf_counter() - start)
            return {place: median(found) for place, found in times.items()}

        def one() -> dict[str, float]:
            stall, page = look(ledger_view.read_progress, 300), look(_read_page, 20)
            starts: dict[Path, list[float]] = {small: [], checked: [], large: []}
            for _ in range(3):
                for place, secs in starts.items():
                    secs.append(subject.start_up_secs(engine_argv(), place))
            return {
                "stall": stall[large] / stall[small],
                "page": page[large] / page[small],
                "start": min(starts[large]) / min(starts[small]),
                "checked": min(starts[checked]) / min(starts[small]),
                "us": stall[large] * 1e6,
                "ms": min(starts[large]) * 1e3,
            }

        found = _rounds(plan, "T6", one)
    at = f"at {plan.table_rows / 1e6:g} M rows / at {SMALL_ROWS}"
    return _figures(
        plan,
        found,
        [
            ("stall", "T6", f"stall check {at}", "x", Target("<=", 1.2)),
            ("page", "T6", f"what the dashboard reads in a refresh {at}", "x", Target("<=", 1.2)),
            ("start", "T6", f"READY=1 {at}", "x", Target("<=", 1.2)),
            ("checked", "T6", f"READY=1, largest file that is checked / at {SMALL_ROWS}", "x", Target("<=", 1.2)),
            ("us", "T6s", "stall check of the large one, on this computer and today", "us", None),
            ("ms", "T6s", "READY=1 with the large one, on this computer and today", "ms", None),
        ],
    )


def _read_page(database: Path) -> None:
    """What the dashboard asks of the database for a page that was just opened."""
    ledger_view.read_snapshot(database, after_tick=0, ticks_max=200, markers_max=80)
    ledger_view.read_tally(database, symbol="SOL/USDC", since_ms=0)


def breadth(plan: Plan) -> list[Figure]:
    """T10: many sources to choose from, many markets of one of them, at the same total rate; and whether memory grows.

    Processor time is compared, since a neighbour must not make a source dear. A source more costs nothing but its
    lines in the configuration, for one is read at a time; each market has trade ids of its own, whose place in the
    index is another.
    """
    subjects = {f"sources {count}": (engine_argv(sources=count), Load(plan.ticks)) for count in (1, 5, 20)} | {
        f"markets {count}": (engine_argv(markets=count), Load(plan.ticks, markets=count)) for count in (10, 1000)
    }

    def one() -> dict[str, float]:
        runs = {name: measure(plan, *subject) for name, subject in subjects.items()}
        base = runs.pop("sources 1")
        found = {name: base.cpu_secs / run.cpu_secs for name, run in runs.items()}
        for name in ("markets 10", "markets 1000"):
            found[f"{name} rss"] = max(rss for _, rss in runs[name].rss_bytes) / MIB
            found[f"{name} bytes"] = runs[name].disk_bytes / plan.ticks
        return found

    def day() -> dict[str, float]:
        run = measure(plan, engine_argv(markets=10), Load(plan.day_ticks, markets=10))
        return {"growth": _growth(run, min(100_000, plan.day_ticks // 4)) / MIB}

    found = _rounds(plan, "T10", one)
    # A day takes a quarter of an hour at least.
    found |= _rounds(plan, "T10", day, rounds=1 if plan.day_ticks >= DAY_TICKS else None)
    rows: list[tuple[str, str, str, str, Target | None]] = [
        (f"sources {count}", "T10", f"CPU time, 1 source / {count} sources, the same ticks", "x", Target(">=", 0.9))
        for count in (5, 20)
    ]
    for count in (10, 1000):
        rows += [
            (f"markets {count}", "T10m", f"CPU time, 1 market / {count} markets in turn", "x", None),
            (f"markets {count} rss", "T10m", f"resident memory, {count} markets", "MiB", None),
            (f"markets {count} bytes", "T10m", f"written to disk a tick, {count} markets in turn", "B", None),
        ]
    growth = f"growth of memory from 100 000 to {plan.day_ticks / 1e6:g} M ticks of 10 markets"
    return _figures(plan, found, [*rows, ("growth", "T10", growth, "MiB", Target("<=", 2))])


def reading(plan: Plan) -> list[Figure]:
    """T7: how quickly each venue's messages of one trade are read, next to Binance's."""
    messages, slices = 1000, 20

    def secs_of(dialect: Dialect) -> Callable[[], float]:
        venue = registry.find(dialect.name)
        markets = Markets(venue.name, "X", Streams(), {dialect.market.upper(): "X"})
        parse_into = venue.parser(venue.url, venue.name, markets).parse_into
        frames = [
            memoryview(
                dialect.trade(dialect.market, number, "90333.28", "0.00123", 1_764_000_000_000 + number).encode()
            )
            for number in range(messages)
        ]

        def secs() -> float:
            ticks: list[Tick] = []
            start = time.process_time()
            for frame in frames:
                parse_into(frame, ticks)
            taken = time.process_time() - start
            if len(ticks) != messages:
                raise SubjectFailed(f"{venue.name}: {len(ticks)} ticks of {messages} messages")
            return taken

        secs()  # The first trade of a market goes the long way.
        return secs

    subjects = {dialect.name: secs_of(dialect()) for dialect in DIALECTS}

    def one() -> dict[str, float]:
        # The best of many slices, taken in turn: what a neighbour took away is no venue's.
        best = {name: min(times) for name, times in zip(
            subjects, zip(*([secs() for secs in subjects.values()] for _ in range(slices)), strict=True), strict=True
        )}  # fmt: skip
        return {name: best["binance"] / secs for name, secs in best.items() if name != "binance"}

    rows = [
        (name, "T7", f"reading {name} / reading binance, messages of one trade", "x", Target(">=", 0.5))
        for name in subjects
    ]
    return _figures(plan, _rounds(plan, "T7", one), rows)


def recording(plan: Plan) -> list[Figure]:
    """T8: what the flight record adds to a command."""
    commands = 100

    def one() -> dict[str, float]:
        with _directory(plan) as directory:
            recorder = Recorder(directory / "record.jsonl", "bench", "main")
            times: dict[str, list[float]] = {"recorded": [], "unrecorded": []}
            shells = {"recorded": Shell(recorder), "unrecorded": Shell(Unrecorded())}
            for _ in range(commands):
                for name, shell in shells.items():
                    start = time.perf_counter()
                    shell.run("echo", "--property=ActiveState,SubState,Result,MainPID,NRestarts", "line\n" * 20)
                    times[name].append(time.perf_counter() - start)
            recorder.close()
        return {"ms": (median(times["recorded"]) - median(times["unrecorded"])) * 1000}

    one()  # The first command brings the detector's rules along.
    return _figures(
        plan,
        _rounds(plan, "T8", one),
        [("ms", "T8", "what the flight record adds to a command", "ms", Target("<=", 1))],
    )


def relaying_rows(plan: Plan) -> list[Figure]:
    """T9: rows that a relay publishes in a second of one core."""
    if tools.find("nats-server") is None:
        plan.tell(f"T9: there is no nats-server: {tools.REMEDY}")
        return []

    def one() -> dict[str, float]:
        with _directory(plan) as directory:
            _fill_table(plan, directory / "bench.db", plan.ticks)
            found = relaying.relay(directory / "bench.db", directory)
        if found.rows != plan.ticks:
            raise SubjectFailed(f"{found.rows} of {plan.ticks} rows were published")
        return {"core": found.rows / found.cpu_secs, "clock": found.rows / found.secs}

    return _figures(
        plan,
        _rounds(plan, "T9", one),
        [
            ("core", "T9", "rows that a relay publishes, a second of its processor time", "/s", Target(">=", 20_000)),
            ("clock", "T9s", "the same by the clock, with the server on this computer, today", "/s", None),
        ],
    )


BESIDE_TICKS = 4
"""Of T11's runs, as many times as long as the others': what a relay takes of an engine is little."""


def beside_relay(plan: Plan) -> list[Figure]:
    """T11: what T1 and T3 come to when a relay carries the ledger away meanwhile, to the same without one.

    Each round has a second run without a relay: how far that is from the first is what counts as nothing.
    """
    if tools.find("nats-server") is None:
        plan.tell(f"T11: there is no nats-server: {tools.REMEDY}")
        return []

    def saturated(*, with_relay: bool) -> Run:
        with _directory(plan) as directory, ExitStack() as stack:
            if with_relay:
                stack.enter_context(relaying.beside(directory / "ticks.db", directory))
            load = Load(BESIDE_TICKS * plan.ticks)
            return subject.run(engine_argv(None, SIGNAL_EVERY), load, directory, watch=plan.doing)

    def one() -> dict[str, float]:
        without, beside, again = (saturated(with_relay=relay) for relay in (False, True, False))
        quiet, busy, quiet_again = (_decided(plan, with_relay=relay) for relay in (False, True, False))
        return {
            "cpu": beside.cpu_secs / without.cpu_secs,
            "cpu_noise": again.cpu_secs / without.cpu_secs,
            "rate": beside.rate / without.rate,
            "rate_noise": again.rate / without.rate,
            "p50": report.quantile(busy, 0.5) / report.quantile(quiet, 0.5),
            "p50_noise": report.quantile(quiet_again, 0.5) / report.quantile(quiet, 0.5),
            "p99": report.quantile(busy, 0.99) / report.quantile(quiet, 0.99),
            "p99_noise": report.quantile(quiet_again, 0.99) / report.quantile(quiet, 0.99),
        }

    rows: list[tuple[str, str, str, str, Target | None]] = []
    for key, what, target in (
        ("cpu", "CPU time of a saturated engine", Target("<=", 1.05)),
        ("rate", "its ticks by the clock", None),
        ("p50", "tick -> strategy at 25 000/s, median", None),
        ("p99", "the same, p99", None),
    ):
        rows.append((key, "T11", f"{what}, beside a relay / without", "x", target))
        rows.append((f"{key}_noise", "T11n", f"{what}, without / without", "x", None))
    return _figures(plan, _rounds(plan, "T11", one), rows)


def _decided(plan: Plan, *, with_relay: bool) -> list[float]:
    """Microseconds from each tick in the transport's callback to the strategy's answer, at T3's rate."""
    with _directory(plan) as directory, ExitStack() as stack:
        if with_relay:
            stack.enter_context(relaying.beside(directory / "ticks.db", directory))
        argv = engine_argv(module=("bench.latency", str(directory / "watch")))
        subject.run(argv, Load(WARM_TICKS + 2 * RATE, RATE), directory)
        arrived, decided = (array("q", (directory / f"watch.{name}").read_bytes()) for name in ("arrived", "decided"))
    if len(arrived) != len(decided):
        raise SubjectFailed(f"{len(arrived)} arrived, {len(decided)} decided")
    return [(end - start) / 1000 for start, end in zip(arrived, decided, strict=True)][WARM_TICKS:]


def _fill_table(plan: Plan, database: Path, rows: int) -> None:
    connection = floor.open_database(str(database))
    connection.execute("PRAGMA synchronous = OFF")
    # In pieces, so that the write-ahead log stays small.
    piece = 500_000
    for start in range(0, rows, piece):
        plan.doing(f"T6: a table of {rows} rows, {start} are there")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO ticks SELECT i, 'SOL/USDC', 142.5, 1.25, 1767225600000 + i, 1, i, NULL FROM n",
            (start + 1, min(rows, start + piece)),
        )
    connection.close()


def _fill_orders(database: Path, orders: int) -> None:
    """So many signals, orders and fills, and what is known of the ids of the ticks."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
    of_all, signal_id = "'SOL/USDC', 'SELL', 1767225600000 + i", "'periodic:' || i || '@bench'"
    connection = floor.open_database(str(database))
    for columns, values in (
        (
            "signals(symbol, side, ts, id, event_id, value, tick_id, reason, size, price)",
            f"i, {signal_id}, 0.75, i, 'PERIODIC_TRIGGER', '0.1', '142.5'",
        ),
        (
            "orders(symbol, side, ts, id, order_id, status, qty_exact, price_exact, filled_qty, seq, reason)",
            f"4 * i, 'shadow-' || {signal_id}, 'FILLED', '0.1', '142.5', '0.1', 0, 'SHADOW_RECORDED'",
        ),
        (
            "trades(symbol, side, ts, order_id, seq, qty_exact, price_exact, fees_exact, cash_delta)",
            f"'shadow-' || {signal_id}, 0, '0.1', '142.5', '0.01425', '14.23575'",
        ),
    ):
        connection.execute(f"{numbers} INSERT INTO {columns} SELECT {of_all}, {values} FROM n", (orders,))
    [(newest,)] = connection.execute("SELECT max(id) FROM ticks")
    connection.execute(floor.WATERMARK, (1, newest, 1767225600001, 1767225600000 + newest))
    connection.close()


TARGETS: dict[str, list[Callable[[Plan], list[Figure]]]] = {
    "T1": [throughput],
    "T2": [peers],
    "T3": [latency],
    "T4": [endurance, low_rates],
    "T5": [endurance, textual_ids, start_up],
    "T6": [sizes],
    "T7": [reading],
    "T8": [recording],
    "T9": [relaying_rows],
    "T10": [breadth],
    "T11": [beside_relay],
}


def facts(plan: Plan) -> dict[str, object]:
    """What somebody who reads the figures has to know."""
    return {
        "python": sys.version.split()[0],
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "rounds": plan.rounds,
        "ticks": plan.ticks,
        "long_ticks": plan.long_ticks,
        "table_rows": plan.table_rows,
        "day_ticks": plan.day_ticks,
        "directory": str(plan.directory),
    }
