"""Turn an observation into what the page shows, what /healthz answers and what /metrics exports.

An `Observation` is everything that was collected in one refresh. What could not be learned is a `Trouble`, which the
page shows in words where the value would stand; it never becomes a zero, and never keeps the rest from being shown.
Whatever was seen, there is a page of it: what others have written is taken for a number or a text only where it is one
(harness/base/jsontext.py).

Who started the present run of the engine is told from systemd's own words: an automatic restart counts in
NRestarts, and the result of the run before tells the watchdog's from an exit's. A start by hand is the controller's
when its decision log has an ENGINE_RESTART after which systemd has started no other run; else an operator's (or the
boot's).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

from harness.base import jsontext
from harness.base.pressure import LIMITS, RESOURCES, Pressure, Unknown
from harness.base.unit import UnitState
from harness.evidence.checkers import equations
from harness.evidence.verdict import Verdict, merge
from harness.observing import judgement
from harness.observing.instances import NAMELESS
from harness.observing.judgement import Finding
from harness.observing.ledger_view import LedgerSnapshot, Marker, StoredTick, Tally
from harness.soak.exit_actions import Endings, Exit, awaits_restart, from_unit
from harness.soak.ladder import RUNGS

Json = dict[str, Any]

STALE_REFRESHES = 5
"""An observation older than so many refreshes is stale, and /healthz says so."""

DECISIONS_SHOWN = 12

RESTART_SECS_MAX = 150.0
"""A controller's restart takes no longer (harness/observing/observe.py: ACT_SECS)."""

PRICE_SECS = 300.0
"""How much of the price line is shown."""

GAP_SECS, GAP_STRIDES = 5.0, 10
"""Where no tick came for longer than this, and for longer than so many times what usually lies between two of them, the
line has a gap. The engine itself makes nothing of a tick older than five seconds (`max_staleness_ms`)."""

CLOCK_SKEW_MS, WAL_BYTES = 1000, 64 * 2**20
"""An operator is told of more than this: of a feed's clock beside ours, and of a WAL, which is checkpointed at 4 MiB
unless a reader that never ends keeps the engine from it."""

LINE_POINTS_MAX = 600

FEED_COUNTS = ("gaps", "duplicates", "reconnects", "parse_errors", "foreign")
"""Of a heartbeat: what the page tells of the feed."""

_CLD_EXITED = 1
"""UnitState.exec_main_code of a process that ended by itself."""

_STARTED = "39f53479d3a045ac8e11786248231fbf"
"""Catalogue id of systemd's message that a unit has been started (systemd/sd-messages.h)."""


@dataclass(frozen=True)
class Trouble:
    """Something could not be learned."""

    reason: str
    """A sentence for a human."""


@dataclass(frozen=True)
class RiskLimits:
    """`[risk_caps]`."""

    exposure_usd: float = 10_000.0
    symbol_exposure_usd: float = 5_000.0
    open_orders: int = 10


@dataclass(frozen=True)
class EngineConfig:
    """What the page needs of the engine's configuration file; absent keys have the engine's defaults."""

    mode: str = "SHADOW"
    sample_every: int = 1
    heartbeat_interval_secs: float = 10.0
    max_staleness_ms: float = 5000.0
    caps: RiskLimits = RiskLimits()
    feed: str = "SYNTHETIC"
    """`[engine] ingest_mode`."""
    bundle: str = "data/proof_bundle.json"
    """`[gate] proof_bundle`, absolute or relative to the unit's working directory."""
    bundle_max_age_hours: float = 24.0
    flush_secs: float = 1.0
    """So long a tick may wait for others before it is stored."""


@dataclass(frozen=True)
class Listen:
    """`[dashboard]`."""

    host: str = "127.0.0.1"
    port: int = 8501
    refresh_secs: float = 1.0


@dataclass(frozen=True)
class UnitSnapshot:
    """The engine's unit."""

    state: UnitState
    changed_at: float | None
    """Seconds since the Unix epoch: when it last became active, failed, inactive...; None when systemd forgot."""
    lifecycle: Sequence[Mapping[str, str]] = ()
    """systemd's own journal entries about it, oldest first, as raw fields."""
    rss_bytes: int | None = None


@dataclass(frozen=True)
class LogSnapshot:
    """What the present run of the engine (or, when it is down, the last) has logged."""

    mode: str = ""
    """Of its "configuration loaded" line, which knows of --mode; empty when that is not in the journal."""
    sample_every: int | None = None
    """Likewise."""
    heartbeat: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its last HEARTBEAT or FINAL METRICS; empty before the first."""
    heartbeat_at: float | None = None
    """Seconds since the Unix epoch."""
    heartbeat_before: tuple[float, Mapping[str, Any]] | None = None
    """Of the one before it, that and its fields."""
    feed: str = ""
    """Of the same line as the mode: SYNTHETIC, REPLAY, MOCK_WS or REAL_WS."""
    reason: str = ""
    """Why it ended, where it was the engine that said so."""


@dataclass(frozen=True)
class LogLine:
    """One line of the journal."""

    at: float
    """Seconds since the Unix epoch."""
    by: str
    """systemd, or the level that the engine gave it."""
    text: str
    number: int = 0
    """Of all that were taken, in their order."""


@dataclass(frozen=True)
class Judged:
    """One proof of the last run."""

    proof: str
    claims: Sequence[str]
    verdict: Verdict


@dataclass(frozen=True)
class Verdicts:
    """The last proof run."""

    run_id: str
    rows: Sequence[Judged]
    planned: Sequence[str]
    hrefs: Mapping[str, str]
    """Proof -> where the buglog tells of it; empty when there is no buglog of that run."""
    state: str = "complete"
    """How much was judged: running, interrupted, partial (not all proofs were chosen) or complete."""
    never_ran: int = 0
    """Proofs that were chosen and have no verdict."""


@dataclass(frozen=True)
class Observation:
    """Everything collected in one refresh."""

    at: float
    """Seconds since the Unix epoch, when the collection was complete."""
    refresh_secs: float
    config: EngineConfig | Trouble
    unit: UnitSnapshot | Trouble
    log: LogSnapshot | Trouble
    ledger: LedgerSnapshot | Trouble
    """Its ticks: the price line."""
    pressure: Pressure | Unknown
    ticks_per_sec: float | None
    """Ticks that reached the database; None while it cannot be told."""
    decisions: Sequence[Mapping[str, Any]] | Trouble
    verdicts: Verdicts | Trouble
    rates: Sequence[float | None] = ()
    """`ticks_per_sec` of the last refreshes, oldest first."""
    tally: Tally | None = None
    """Signals and fills of the price line's symbol and time."""
    still_secs: float | None = None
    """For how long the newest tick in the database has been the same; None when it cannot be read."""
    tail: Sequence[LogLine] = ()
    """The newest journal lines of the engine and of systemd about it, oldest first."""
    notices: Sequence[str] = ()
    """What is wrong with the dashboard itself, a sentence each; the engine has nothing to do with it."""
    engine: str = NAMELESS
    """What it is called."""
    bars: Sequence[tuple[str, int]] = ()
    """(host, until when it may not be contacted, in ms since the Unix epoch) of each venue that said so."""
    differing: int | None = None
    """Sums of the engine's positions that its fills do not add up to; None while not all fills are read."""
    bundle_made_at: float | None = None
    """Seconds since the Unix epoch: when the proofs ended that the bundle is of; None where that is not known, or no
    LIVE is configured."""


# --- the engine's configuration ----------------------------------------------------------------------------


def listen_of(tables: Mapping[str, Any]) -> Listen:
    """`[dashboard]` of a parsed configuration. ValueError names key, value and what is allowed."""
    table = _table(tables, "dashboard")
    for key in table:
        if key not in ("host", "port", "refresh_seconds"):
            raise ValueError(f"dashboard.{key}: unknown key, allowed are host, port, refresh_seconds")
    host = table.get("host", Listen.host)
    if not isinstance(host, str) or not host or host != host.strip():
        raise ValueError(f"dashboard.host = {host!r}: must be an address or a name")
    port = _number(table, "dashboard", "port", Listen.port, "a whole number from 1 to 65535")
    if port != int(port) or not 1 <= port <= 65_535:
        raise ValueError(f"dashboard.port = {port:g}: must be a whole number from 1 to 65535")
    refresh = _number(table, "dashboard", "refresh_seconds", Listen.refresh_secs, "a number of seconds above 0")
    if refresh <= 0:
        raise ValueError(f"dashboard.refresh_seconds = {refresh:g}: must be a number of seconds above 0")
    return Listen(host, int(port), refresh)


def config_of(tables: Mapping[str, Any]) -> EngineConfig:
    """Return what the page needs of a parsed configuration. ValueError names what is wrong; judging the rest of it is
    the engine's work."""
    engine, persist = _table(tables, "engine"), _table(tables, "persist")
    caps, gate = _table(tables, "risk_caps"), _table(tables, "gate")
    mode, feed = tables.get("mode", EngineConfig.mode), engine.get("ingest_mode", EngineConfig.feed)
    if not isinstance(mode, str):
        raise ValueError(f"mode = {mode!r}: must be SHADOW, PAPER or LIVE")
    if not isinstance(feed, str):
        raise ValueError(f"engine.ingest_mode = {feed!r}: must be SYNTHETIC, REPLAY, MOCK_WS or REAL_WS")
    return EngineConfig(
        # The engine takes an unknown mode for SHADOW (C1).
        mode=mode.upper() if mode.upper() in _MODES else "SHADOW",
        feed=feed.upper(),
        sample_every=int(_number(engine, "engine", "sample_every", 1, "a whole number")),
        heartbeat_interval_secs=_number(engine, "engine", "heartbeat_interval_secs", 10, "a number of seconds"),
        max_staleness_ms=_number(engine, "engine", "max_staleness_ms", 5000, "a whole number of milliseconds"),
        flush_secs=_number(persist, "persist", "flush_interval_ms", 1000, "a whole number of milliseconds") / 1000,
        caps=RiskLimits(
            _number(caps, "risk_caps", "max_exposure_usd", RiskLimits.exposure_usd, "a number"),
            _number(caps, "risk_caps", "max_symbol_exposure_usd", RiskLimits.symbol_exposure_usd, "a number"),
            int(_number(caps, "risk_caps", "max_open_orders", RiskLimits.open_orders, "a whole number")),
        ),
        bundle=jsontext.text(gate.get("proof_bundle"), EngineConfig.bundle),
        bundle_max_age_hours=_number(gate, "gate", "max_age_hours", EngineConfig.bundle_max_age_hours, "a number"),
    )


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, Mapping):
        raise ValueError(f"{name} = {table!r}: must be a table")
    return table


def _number(table: Mapping[str, Any], name: str, key: str, default: float, allowed: str) -> float:
    value = table.get(key, default)
    known = jsontext.number(value)
    if known is None:
        raise ValueError(f"{name}.{key} = {jsontext.text(repr(value))}: must be {allowed}")
    return known


# --- judgement ---------------------------------------------------------------------------------------------


def findings(seen: Observation) -> list[Finding]:
    """Return the judgement of harness/observing/judgement.py on what was seen. What only follows from a unit that does
    not run is not judged."""
    found = []
    never = False
    if isinstance(seen.unit, Trouble):
        found.append(Finding("unit", False, seen.unit.reason))
    else:
        never = seen.unit.state.active == "inactive" and _last_end(seen.unit) is None
        found.append(replace(judgement.unit(seen.unit.state), detail=_unit_says(seen.unit, seen.log)))
    for name, part in (("config", seen.config), ("database", seen.ledger), ("journal", seen.log)):
        if isinstance(part, Trouble) and (name == "config" or not never):
            found.append(Finding(name, False, part.reason))
    if isinstance(seen.ledger, LedgerSnapshot):
        if seen.ledger.odd:
            found.append(Finding("database", False, f"{seen.ledger.odd} rows hold what the engine never writes"))
        if _runs(seen) and seen.still_secs is not None:
            newest = seen.ledger.ticks[-1].id if seen.ledger.ticks else 0
            found.append(judgement.progress(round(seen.still_secs, 1), newest, _limit_secs(seen)))
    if isinstance(seen.log, LogSnapshot) and _runs(seen):
        age = None if seen.log.heartbeat_at is None else seen.at - seen.log.heartbeat_at
        found.append(judgement.heartbeat(age, _config(seen).heartbeat_interval_secs))
        found += judgement.books(seen.log.heartbeat)
        skew_ms = jsontext.number(seen.log.heartbeat.get("clock_skew_ms"))
        if skew_ms is not None and abs(skew_ms) > _config(seen).max_staleness_ms:
            direction = "ahead" if skew_ms > 0 else "behind, or its trades come late"
            off = f"the venue's clock is {_age(abs(skew_ms) / 1000)} {direction}"
            found.append(Finding("clock", False, f"{off}: every signal is vetoed as stale"))
    found.append(judgement.pressure(seen.pressure))
    return judgement.whole(found)


def problems(seen: Observation) -> list[str]:
    """Return why an operator should look, one sentence each; empty when all is well. What /healthz answers 503 with."""
    return [f"{one.name}: {one.detail}" for one in findings(seen) if not one.ok]


def warnings(seen: Observation) -> list[str]:
    """Return what an operator should know of although all is well; /healthz does not mind."""
    pressure = judgement.pressure(seen.pressure)
    found = []
    if pressure.ok and isinstance(seen.pressure, Pressure) and seen.pressure.exceeded():
        found.append(f"pressure: {pressure.detail}")
    beat = _beat(seen)
    skew, wal, dropped, foreign = (
        jsontext.number(beat.get(name)) or 0 for name in ("clock_skew_ms", "wal_bytes", "log_drops", "foreign")
    )
    if CLOCK_SKEW_MS < abs(skew) <= _config(seen).max_staleness_ms:
        found.append(f"clock: that of the feed and this computer's differ by {abs(skew) / 1000:.1f} s")
    if wal > WAL_BYTES:
        found.append(f"database: its WAL has grown to {wal / 2**20:.0f} MiB; does a reader never end?")
    if dropped > 0:
        found.append(f"log: {dropped:.0f} lines of the engine were lost, because nobody took them")
    if foreign > 0:
        found.append(f"feed: {foreign:.0f} trades were of markets that nobody asked for, and are not stored")
    return [*found, *(f"dashboard: {notice}" for notice in seen.notices)]


def health(seen: Observation) -> Json:
    """Return what the page says above everything else."""
    wrong, odd = problems(seen), warnings(seen)
    if wrong and isinstance(seen.unit, UnitSnapshot) and (calm := _calm(seen.unit)) and len(wrong) == 1:
        return {"tone": "calm", "title": calm, "lines": [*wrong, *odd]}
    if wrong:
        failed = {one.name for one in findings(seen) if not one.ok}
        if failed <= judgement.BESIDE_THE_ENGINE:
            title = "The engine is well; the computer is under pressure"
        else:
            title = "1 thing is wrong" if len(wrong) == 1 else f"{len(wrong)} things are wrong"
        return {"tone": "bad", "title": title, "lines": [*wrong, *odd]}
    if odd:
        return {"tone": "busy", "title": "The engine is well. To be noted:", "lines": odd}
    return {"tone": "good", "title": "Engine and computer are well", "lines": []}


def _calm(unit: UnitSnapshot) -> str:
    """Of a unit that is down and that nobody need worry about: what is so; empty for every other."""
    if unit.state.active != "inactive":
        return ""
    last = _last_end(unit)
    if last is None:
        return "The engine was never started"
    return "The engine was stopped in order" if _is_orderly(last) else ""


def is_stale(at: float, now: float, refresh_secs: float) -> bool:
    """Return whether an observation of the time `at` is too old to be believed. Seconds since the Unix epoch."""
    return now - at > max(STALE_REFRESHES * refresh_secs, 3.0)


def who_started(
    state: UnitState, lifecycle: Sequence[Mapping[str, str]], decisions: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    """Return who started the present run: controller, systemd, watchdog or operator, and a sentence."""
    endings = Endings().take(lifecycle)
    if state.n_restarts > 0:
        before = next((ended for ended in reversed(endings) if ended.invocation_id != state.invocation_id), None)
        if before is not None and before.result == "watchdog":
            return "watchdog", "restarted by systemd's watchdog: the engine was stuck"
        return "systemd", f"restarted by systemd{f' after {before}' if before else ''}"
    restart = next((line for line in reversed(decisions) if line.get("action") == "ENGINE_RESTART"), None)
    if restart is not None:
        asked = _seconds(restart.get("timestamp"))
        runs = [
            one.get("INVOCATION_ID")
            for one in lifecycle
            if one.get("MESSAGE_ID") == _STARTED and asked < entry_at(one) <= asked + RESTART_SECS_MAX
        ]
        if runs[:1] == [state.invocation_id]:
            return "controller", f"restarted by the soak controller: {jsontext.text(restart.get('reason', ''))}"
    return "operator", "started by an operator, or at boot"


_LIFECYCLE = {
    _STARTED: "start",
    "9d1aaa27d60140bd96365438aad20286": "stop",
    "98e322203f7a4ed290d09fe03c09fe15": "crash",
}
"""systemd's messages that a unit was started or stopped, and that its process ended otherwise."""


def lifecycle_event(entry: Mapping[str, str]) -> tuple[str, str]:
    """Return what one of systemd's journal entries about the unit tells: start, stop or crash, and in its words; empty
    for any other."""
    kind = _LIFECYCLE.get(entry.get("MESSAGE_ID", ""), "")
    return kind, jsontext.text(entry.get("MESSAGE", kind)) if kind else ""


def host_allowed(header: str, names: Iterable[str], local_address: str) -> bool:
    """Return whether a Host header names this dashboard, so that a foreign page which rebinds its own name to our
    address (DNS rebinding) gets nothing.

    names: the names it goes by, in lower case. local_address: where the connection arrived; an address cannot be
    rebound. The port is not compared: a tunnel may use another.
    """
    if header.startswith("["):
        host, _, rest = header[1:].partition("]")
        if rest and not rest.startswith(":"):
            return False
    else:
        host = header.partition(":")[0]
    host = host.lower().rstrip(".")
    if host in names:
        return True
    try:
        return ip_address(host) == ip_address(local_address.partition("%")[0])
    except ValueError:
        return False


def thin(ticks: Sequence[StoredTick], most: int) -> list[StoredTick]:
    """About `most` of the ticks: the extremes of each stretch, the first and the last, so that no peak is lost, and
    both sides of every gap."""
    if len(ticks) <= most:
        return list(ticks)
    stretch = -(-len(ticks) * 2 // most)
    kept: dict[int, StoredTick] = {ticks[0].id: ticks[0]}
    for before, after in pairwise(ticks):
        if after.ts - before.ts > GAP_SECS * 1000:
            kept |= {before.id: before, after.id: after}
    for start in range(0, len(ticks), stretch):
        part = ticks[start : start + stretch]
        for tick in (min(part, key=lambda one: one.price), max(part, key=lambda one: one.price)):
            kept[tick.id] = tick
    kept[ticks[-1].id] = ticks[-1]
    return [kept[key] for key in sorted(kept)]


# --- the page ----------------------------------------------------------------------------------------------


def page(seen: Observation) -> Json:
    """Return the page's whole state as JSON. `tone` is good, busy, bad or unknown, and never says what no word says."""
    return {
        "at": seen.at,
        "refresh_secs": seen.refresh_secs,
        "engine": "" if seen.engine == NAMELESS else seen.engine,
        "health": health(seen),
        "mode": _mode(seen),
        "unit": _unit(seen),
        "figures": _figures(seen),
        "price": _price(seen),
        "pressure": _pressure(seen),
        "books": _books(seen),
        "exposure": _exposure(seen),
        "decisions": _decisions(seen),
        "verdicts": _verdicts(seen),
    }


_MODES = {
    "SHADOW": "Nothing is traded: orders and fills are recorded, not sent.",
    "PAPER": "Nothing is traded: the order lifecycle is simulated.",
    "LIVE": "REAL ORDERS go to the venue.",
}


def _mode(seen: Observation) -> Json:
    word = _mode_word(seen)
    if word == "unknown":
        says = "Neither journal nor configuration tells the mode."
        return {"word": "unknown", "feed": "", "runs": False, "says": says}
    says = _MODES.get(word, "A mode that this page does not know.")
    if isinstance(seen.unit, Trouble):
        says = "Whether the engine runs cannot be told; this is the mode of its last run, or of its configuration."
    elif not _runs(seen):
        says = "The engine does not run; this is the mode of its last run, or of its configuration."
    return {"word": word, "feed": _feed_word(seen), "runs": _runs(seen), "says": says}


def _mode_word(seen: Observation) -> str:
    logged = seen.log.mode if isinstance(seen.log, LogSnapshot) else ""
    configured = seen.config.mode if isinstance(seen.config, EngineConfig) else ""
    return (logged or configured).upper() or "unknown"


def _feed_word(seen: Observation) -> str:
    """Return where the ticks come from; empty when nothing tells."""
    logged = seen.log.feed if isinstance(seen.log, LogSnapshot) else ""
    configured = seen.config.feed if isinstance(seen.config, EngineConfig) else ""
    return (logged or configured).upper()


def _unit(seen: Observation) -> Json:
    if isinstance(seen.unit, Trouble):
        return {"word": "unknown", "tone": "unknown", "says": seen.unit.reason, "since": None, "by": "", "restarts": 0}
    state = seen.unit.state
    by, says = ("", _unit_says(seen.unit, seen.log))
    if state.active not in ("failed", "inactive") and not awaits_restart(state):
        by, says = who_started(state, seen.unit.lifecycle, decided(seen))
    return {
        "word": _unit_word(seen.unit),
        "tone": _unit_tone(seen.unit),
        "says": says,
        # systemd forgets a unit that was stopped in order, its journal does not.
        "since": seen.unit.changed_at or (entry_at(seen.unit.lifecycle[-1]) if seen.unit.lifecycle else None),
        "by": by,
        "restarts": state.n_restarts,
        "pid": state.main_pid,
    }


def _unit_word(unit: UnitSnapshot) -> str:
    state = unit.state
    match state.active:
        case "active":
            return "running"
        case "inactive":
            last = _last_end(unit)
            if last is None:
                return "never started"
            return "stopped" if _is_orderly(last) else "down after a failure"
        case "failed":
            return "failed" if _last_code(unit) is not None else "crashed"
        case "activating" if awaits_restart(state):
            return "waiting to be restarted"
        case "activating":
            return "starting"
        case "deactivating":
            return "stopping"
    return f"{state.active}/{state.sub}"


def _unit_tone(unit: UnitSnapshot) -> str:
    if unit.state.active in ("failed", "inactive"):
        return "calm" if _calm(unit) else "bad"
    return "good" if unit.state.active == "active" else "busy"


def _unit_says(unit: UnitSnapshot, log: LogSnapshot | Trouble) -> str:
    """Return how the unit does; of one that is down, how it ended and why, in words that tell a stop from a crash."""
    state = unit.state
    if state.active == "active":
        return "the engine runs"
    if state.active not in ("failed", "inactive") and not awaits_restart(state):
        return f"the engine is {_unit_word(unit)}"
    last = _last_end(unit)
    waits = ", and is waiting to be restarted" if awaits_restart(state) else ""
    if last is None:
        return "the engine was never started, as far as systemd and its journal know"
    if _is_orderly(last):
        return f"the engine was stopped, or ended, in order (exit 0){waits}"
    if last.exit_code is None:
        return f"the engine crashed: {_death(last)}{waits}"
    reason = log.reason if isinstance(log, LogSnapshot) else ""
    return f"the engine ended with {last}{f': {reason}' if reason else ''}{waits}"


def _last_end(unit: UnitSnapshot) -> Exit | None:
    """Return how its last run ended; None when it never ran. The journal remembers what systemd was told to forget."""
    endings = Endings().take(unit.lifecycle)
    return from_unit(unit.state) or (endings[-1] if endings else None)


_SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 31: "SIGSYS"}

_CLEAN_SIGNALS = (1, 2, 13, 15)
"""A death by one of these is a success to systemd (systemd.service(5), SuccessExitStatus=)."""


def _is_orderly(last: Exit) -> bool:
    # Told to forget a failure (reset-failed), systemd calls the result a success; how the process ended it still knows.
    clean = {"exited": (0,), "killed": _CLEAN_SIGNALS, "dumped": ()}
    return last.result == "success" and last.status in clean.get(last.code, (last.status,))


def _last_code(unit: UnitSnapshot) -> int | None:
    last = _last_end(unit)
    return None if last is None else last.exit_code


def _death(last: Exit) -> str:
    """Return what killed it, as a human says it."""
    names = {"watchdog": "stuck, and killed by systemd's watchdog", "timeout": "killed by systemd, because it did not "
             "stop or start in time", "oom-kill": "killed by the kernel, because memory was short"}  # fmt: skip
    if last.result in names:
        return names[last.result]
    if last.status is None or last.code not in ("killed", "dumped"):
        return last.result
    name = _SIGNALS.get(last.status, "")
    how = "killed" if last.code == "killed" else "dumped core"
    return f"{how} by signal {last.status}{f' ({name})' if name else ''}"


def _figures(seen: Observation) -> list[Json]:
    beat = _beat(seen)
    ticks = seen.ledger.ticks if isinstance(seen.ledger, LedgerSnapshot) else []
    rung = _rung(seen)
    lag = jsontext.number(beat.get("loop_lag_ms_p99"))
    rss = seen.unit.rss_bytes if isinstance(seen.unit, UnitSnapshot) else None
    is_down = isinstance(seen.unit, UnitSnapshot) and not _runs(seen)
    return [
        {
            "name": "Ticks stored", "value": _shown(0.0 if is_down else seen.ticks_per_sec, 1), "unit": "/s",
            "points": list(seen.rates),
            "note": f"newest tick {_age(seen.at - ticks[-1].ts / 1000)} old" if ticks else "no tick yet",
        },
        {
            "name": "Sampling", "value": rung[0], "unit": "",
            "note": "every tick is processed" if rung[1] == 1 else f"1 of {rung[1]} ticks is processed" if rung[1]
            else "no configuration tells it",
        },
        {
            "name": "Event-loop lag", "value": _shown(lag, 1), "unit": "ms",
            "note": "99th percentile, this run",
        },
        {
            "name": "Memory", "value": _shown(None if rss is None else rss / 2**20, 0) if _runs(seen) else "–",
            "unit": "MiB",
            "note": "resident" if _runs(seen) else "the engine does not run" if is_down else "systemd cannot be asked",
        },
    ]  # fmt: skip


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _rung(seen: Observation) -> tuple[str, int | None]:
    every = sample_every(seen)
    name = next((rung.name for rung in RUNGS if rung.sample_every == every), "off the ladder")
    return (name, every) if every is not None else ("?", None)


def sample_every(seen: Observation) -> int | None:
    """Of how many ticks the engine processes one; None while nobody tells."""
    logged = seen.log.sample_every if isinstance(seen.log, LogSnapshot) else None
    if logged is not None and _runs(seen):
        return logged
    return seen.config.sample_every if isinstance(seen.config, EngineConfig) else None


def _price(seen: Observation) -> Json:
    if isinstance(seen.ledger, Trouble):
        return {"trouble": seen.ledger.reason}
    if not seen.ledger.ticks:
        return {"trouble": "There is no tick in the database yet."}
    symbol = seen.ledger.ticks[-1].symbol
    line = [tick for tick in seen.ledger.ticks if tick.symbol == symbol]
    first, last = line[0].ts, line[-1].ts
    now = round(seen.at * 1000)

    def marks(markers: Sequence[Marker]) -> list[Json]:
        return [
            {"ts": marker.ts, "price": marker.price, "side": marker.side, "note": marker.note}
            for marker in markers
            if marker.symbol == symbol and marker.ts >= first and marker.price is not None
        ]

    return {
        "symbol": symbol,
        "lines": [[[tick.ts, tick.price] for tick in stretch] for stretch in stretches(line)],
        # Up to now, so that a feed or an engine that is silent is seen to be; ticks of a replay are of another time.
        "until": now if last <= now <= last + PRICE_SECS * 1000 else last,
        "signals": marks(seen.ledger.signals),
        "fills": marks(seen.ledger.fills),
        "tally": None if seen.tally is None else vars(seen.tally),
    }


def stretches(line: Sequence[StoredTick]) -> list[list[StoredTick]]:
    """Return the line, parted where no tick came for long. Ids are consecutive, so they tell how many ticks lie between
    two points, all of which were thinned out of the line."""
    usual = statistics.median([_stride_ms(*pair) for pair in pairwise(line)] or [0.0])
    longest = max(GAP_SECS * 1000, GAP_STRIDES * usual)
    found = [[line[0]]]
    for before, after in pairwise(line):
        if _stride_ms(before, after) > longest:
            found.append([])
        found[-1].append(after)
    return found


def _stride_ms(before: StoredTick, after: StoredTick) -> float:
    return (after.ts - before.ts) / max(1, after.id - before.id)


def _pressure(seen: Observation) -> Json:
    if isinstance(seen.pressure, Unknown):
        return {"trouble": f"unknown: {seen.pressure.reason}"}
    return {
        "rows": [
            {
                "name": judgement.NAMES[name].capitalize() if name == "memory" else judgement.NAMES[name],
                "value": seen.pressure.some(name),
                "limit": LIMITS[name],
                "over": seen.pressure.some(name) > LIMITS[name],
            }
            for name in RESOURCES
        ]
    }


def _books(seen: Observation) -> Json:
    if isinstance(seen.log, Trouble):
        return {"trouble": seen.log.reason}
    if not seen.log.heartbeat:
        return {"trouble": "No heartbeat of this run of the engine in the journal yet."}
    lines = equations(seen.log.heartbeat)
    broken = any(line.ok is False for line in lines)
    unknown = any(line.ok is None for line in lines)
    return {
        "word": "do not balance" if broken else "unknown" if unknown else "balance",
        "tone": "bad" if broken else "unknown" if unknown else "good",
        "at": seen.log.heartbeat_at,
        "lines": [vars(line) for line in lines],
        "counts": [
            {"name": name, "value": jsontext.number(seen.log.heartbeat.get(key))}
            for name, key in (
                ("signals", "signal_count"), ("fills", "trade_count"), ("risk vetoes", "risk_vetoes"),
                ("stale vetoes", "stale_vetoes"), ("parse errors", "parse_errors"), ("reconnects", "reconnects"),
                ("write errors", "persist_errors"), ("foreign trades", "foreign"), ("lost log lines", "log_drops"),
            )
            if key in seen.log.heartbeat or key not in _LATER
        ],
    }  # fmt: skip


_LATER = ("foreign", "log_drops")
"""Numbers of a heartbeat that an engine of another version may not have."""


def exposures(seen: Observation) -> dict[str, float]:
    """Return symbol -> exposure in quote currency, as R3 has it: how far the position of the present mode can get with
    the open orders, whichever of them fill, at the latest price. Empty when the database cannot be read."""
    if isinstance(seen.ledger, Trouble):
        return {}
    mode = _mode_word(seen)
    newest = {tick.symbol: Decimal(repr(tick.price)) for tick in seen.ledger.ticks}
    found: dict[str, tuple[Decimal, Decimal, Decimal, Decimal]] = {}
    for held in seen.ledger.holdings:
        if held.mode == mode:
            price = newest.get(held.symbol, Decimal(held.price))
            found[held.symbol] = (Decimal(held.qty), Decimal(0), Decimal(0), price)
    for order in seen.ledger.open_orders:
        if order.mode == mode:
            left = Decimal(order.qty) - Decimal(order.filled_qty)
            qty, buys, sells, price = found.get(
                order.symbol, (Decimal(0), Decimal(0), Decimal(0), newest.get(order.symbol, Decimal(0)))
            )
            more = (buys + left, sells) if order.side == "BUY" else (buys, sells + left)
            found[order.symbol] = (qty, *more, price)
    return {symbol: float(max(qty + buys, sells - qty) * price) for symbol, (qty, buys, sells, price) in found.items()}


def _exposure(seen: Observation) -> Json:
    if isinstance(seen.ledger, Trouble):
        return {"trouble": seen.ledger.reason}
    caps = _config(seen).caps
    by_symbol = exposures(seen)
    open_orders = _open_orders(seen.ledger, _mode_word(seen))
    rows = [("all symbols", sum(by_symbol.values()), caps.exposure_usd, "USD")]
    rows += [(symbol, value, caps.symbol_exposure_usd, "USD") for symbol, value in sorted(by_symbol.items())]
    rows.append(("open orders", float(open_orders), float(caps.open_orders), ""))
    return {
        "rows": [
            {"name": name, "value": value, "cap": cap, "unit": unit, "over": value > cap}
            for name, value, cap, unit in rows
        ],
        "note": f"caps: {seen.config.reason}" if isinstance(seen.config, Trouble) else "",
    }


def _open_orders(ledger: LedgerSnapshot, mode: str) -> int:
    return sum(order.mode == mode for order in ledger.open_orders)


def _decisions(seen: Observation) -> Json:
    if isinstance(seen.decisions, Trouble):
        return {"trouble": seen.decisions.reason}
    return {
        "rows": [
            {
                "at": _seconds(line.get("timestamp")),
                "state": _state(line),
                "action": jsontext.text(line.get("action")),
                "reason": jsontext.text(line.get("reason", "")),
            }
            for line in reversed(seen.decisions[-DECISIONS_SHOWN:])
        ]
    }


def feed(seen: Observation) -> Json:
    """Return where ticks come from and what is wrong with them, as the last heartbeat tells."""
    beat = _beat(seen)
    counts = {name: jsontext.whole(beat.get(name)) for name in FEED_COUNTS}
    source = beat.get("source")
    return {
        "mode": _feed_word(seen), "source": jsontext.text(source) if isinstance(source, str) else None,
        "clock_skew_ms": jsontext.whole(beat.get("clock_skew_ms")), **counts,
    }  # fmt: skip


def decision_row(line: Mapping[str, Any]) -> Sequence[Any]:
    """(time in ms, action, state, reason) of a decision of the soak."""
    return (
        round(_seconds(line.get("timestamp")) * 1000), jsontext.text(line.get("action", "")), _state(line),
        jsontext.text(line.get("reason", "")),
    )  # fmt: skip


def _state(line: Mapping[str, Any]) -> str:
    every = line.get("current_sample_every", 1)
    return f"{jsontext.text(line.get('state'))}{'' if every == 1 else f' ÷{jsontext.text(every)}'}"


_GUARDRAIL = re.compile(r"(G|I|S|L)(\d+)|exit12|stall|sampling|psi|concurrency")
"""The ids of sections 11 and 13 of the contract; the clauses of the others are many."""

_GROUPS = ("G", "", "I", "S", "L")


def _verdicts(seen: Observation) -> Json:
    if isinstance(seen.verdicts, Trouble):
        return {"trouble": seen.verdicts.reason}
    parts: dict[str, list[Judged]] = {}
    for row in seen.verdicts.rows:
        for clause in row.claims:
            parts.setdefault(clause, []).append(row)
    guardrails = []
    for clause in sorted(filter(_GUARDRAIL.fullmatch, parts), key=_guardrail_order):
        verdict = merge(row.verdict for row in parts[clause])
        shown = next(row for row in parts[clause] if row.verdict is verdict)
        guardrails.append(
            {
                "clause": clause,
                "verdict": verdict.value,
                "proofs": len(parts[clause]),
                "href": seen.verdicts.hrefs.get(shown.proof, ""),
            }
        )
    counts = {verdict.value: sum(row.verdict is verdict for row in seen.verdicts.rows) for verdict in Verdict}
    if refuted := counts[Verdict.REFUTED.value]:
        word, tone = f"{refuted:,} refuted", "bad"
    elif seen.verdicts.state == "running":
        word, tone = "not proven: a run is going on, or was killed", "busy"
    elif seen.verdicts.state not in ("complete", "partial") or seen.verdicts.never_ran:
        word, tone = f"{seen.verdicts.state}: {_counted(seen.verdicts.never_ran, 'proof')} never ran", "busy"
    elif unproven := counts[Verdict.UNPROVEN.value]:
        word, tone = f"{unproven:,} unproven", "busy"
    elif not seen.verdicts.rows:
        word, tone = "nothing was proven", "unknown"
    elif seen.verdicts.state == "partial":
        word, tone = "a part was proven", "busy"
    else:
        word, tone = "all proven", "good"
    return {
        "word": word,
        "tone": tone,
        "run_id": seen.verdicts.run_id,
        "at": _run_seconds(seen.verdicts.run_id),
        "rows": guardrails,
        "counts": counts,
        "planned": list(seen.verdicts.planned),
    }


def _guardrail_order(clause: str) -> tuple[int, int, str]:
    match = _GUARDRAIL.fullmatch(clause)
    group, number = (match[1] or "", int(match[2] or 0)) if match else ("", 0)
    return _GROUPS.index(group), number, clause


# --- metrics -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """One metric of /metrics."""

    name: str
    kind: str
    """gauge or counter; a counter's samples end in _total, its name does not."""
    help: str
    label: str = ""
    """The name of its label; empty when it has none."""


_COUNTED = {
    "ticks_parsed": ("hybrid_ticks_parsed", "Ticks parsed from the feed by this run of the engine."),
    "ingest_received": ("hybrid_ticks_received", "New ticks received by this run; duplicates are not new."),
    "ingest_processed": ("hybrid_ticks_processed", "Ticks processed by this run: one of sample_every received."),
    "sampled_out": ("hybrid_ticks_sampled_out", "New ticks of this run that sampling left out."),
    "foreign": ("hybrid_ticks_foreign", "Trades of markets that are not configured; not counted as parsed."),
    "duplicates": ("hybrid_ticks_duplicate", "Ticks that had been seen before."),
    "ignored": ("hybrid_messages_ignored", "Well-formed messages of the feed that are not trades."),
    "signal_count": ("hybrid_signals", "Signals made by this run, vetoed ones included."),
    "shadow_orders": ("hybrid_orders_shadow", "Orders of this run that were recorded and not sent."),
    "trade_count": ("hybrid_fills", "Fills of this run, simulated ones included."),
    "risk_vetoes": ("hybrid_vetoes_risk", "Signals vetoed because of a risk cap."),
    "stale_vetoes": ("hybrid_vetoes_stale", "Signals vetoed because their tick was too old."),
    "parse_errors": ("hybrid_parse_errors", "Malformed messages of the feed."),
    "reconnects": ("hybrid_reconnects", "Connection attempts after the first."),
    "connections_unbounded": (
        "hybrid_connections_unbounded",
        "Connections closed because their peer made the engine buffer without bound.",
    ),
    "persist_count": ("hybrid_rows_written", "Rows of all tables that this run wrote to the database."),
    "bp_drops_tick": ("hybrid_ticks_dropped", "Ticks for which no channel had room by the end of a shutdown."),
    "bp_drops_signal": (
        "hybrid_order_rows_dropped",
        "Signals, order events and fills not written by the end of a shutdown.",
    ),
    "bp_drops_persist": ("hybrid_tick_rows_dropped", "Tick rows not written by the end of a shutdown."),
    "persist_errors": ("hybrid_persist_errors", "Attempts to write to the database that failed and were retried."),
    "log_drops": ("hybrid_log_drops", "Log lines of this run that were dropped because they were not read."),
}
"""Field of a heartbeat -> the counter it becomes."""

_BY_MARKET = {"gaps_by_market": "hybrid_market_ticks_missing", "duplicates_by_market": "hybrid_market_ticks_duplicate"}
"""Field of a heartbeat that has a figure of each market -> the metric it becomes."""

METRICS = (
    Metric(
        "hybrid_engine_up", "gauge", "1 while the engine's unit is active, else 0; absent when systemd does not answer."
    ),
    Metric(
        "hybrid_engine_exit_status",
        "gauge",
        "Exit status of the last run, 128 + its signal for one killed; absent in a run.",
    ),
    Metric("hybrid_engine_restarts", "gauge", "Automatic restarts since the engine was last started by hand."),
    Metric("hybrid_engine_mode", "gauge", "1 for the mode the engine runs in.", "mode"),
    Metric("hybrid_engine_resident_memory_bytes", "gauge", "Resident memory of the engine's main process."),
    Metric("hybrid_sample_every", "gauge", "Sampling: one of this many new ticks is processed."),
    Metric("hybrid_stored_ticks_per_second", "gauge", "Ticks that reached the database, over the last ten seconds."),
    Metric("hybrid_newest_tick_id", "gauge", "Id of the newest tick in the database."),
    Metric("hybrid_newest_tick_timestamp_seconds", "gauge", "Unix time of the newest tick in the database."),
    Metric("hybrid_newest_tick_still_seconds", "gauge", "For how long no newer tick has come to the database."),
    Metric("hybrid_database_readable", "gauge", "1 while the engine's database can be read, else 0."),
    Metric("hybrid_heartbeat_timestamp_seconds", "gauge", "Unix time of the engine's last heartbeat."),
    Metric("hybrid_heartbeat_interval_seconds", "gauge", "Time between two heartbeats, as configured."),
    Metric("hybrid_books_balanced", "gauge", "1 if the last heartbeat's books balance, else 0."),
    Metric("hybrid_positions_differing", "gauge", "Sums of positions in the database that the fills do not add up to."),
    Metric("hybrid_event_loop_lag_seconds", "gauge", "99th percentile of the engine's event-loop lag in this run."),
    Metric(
        "hybrid_clock_skew_seconds", "gauge", "How far the venue's clock is ahead of this computer's; negative: behind."
    ),
    Metric("hybrid_staleness_limit_seconds", "gauge", "A signal on an older tick is vetoed, as configured."),
    Metric("hybrid_venue_barred_seconds", "gauge", "How long a venue still wants to be left alone.", "host"),
    Metric("hybrid_wal_bytes", "gauge", "Length of the database's write-ahead log at the engine's last heartbeat."),
    Metric(
        "hybrid_ticks_missing", "gauge", "Trade ids that the venue has given in this run and that have not arrived."
    ),
    Metric("hybrid_market_ticks_missing", "gauge", "The same for each source and market, the 100 highest.", "market"),
    Metric("hybrid_exposure_usd", "gauge", "Exposure of a symbol with its open orders, at its latest price.", "symbol"),
    Metric("hybrid_exposure_limit_usd", "gauge", "Cap on the exposure: scope total or symbol.", "scope"),
    Metric("hybrid_open_orders", "gauge", "Open orders of the present mode."),
    Metric("hybrid_open_orders_limit", "gauge", "Cap on open orders."),
    Metric("hybrid_pressure_ratio", "gauge", "PSI: share of the last 10 s in which some task waited.", "resource"),
    Metric("hybrid_pressure_limit_ratio", "gauge", "Above this pressure the soak controller throttles.", "resource"),
    Metric(
        "hybrid_bundle_expires_timestamp_seconds",
        "gauge",
        "Unix time when the bundle gets too old for LIVE; absent where that is not configured.",
    ),
    Metric("hybrid_proofs", "gauge", "Proofs of the last proof run by verdict.", "verdict"),
    Metric("hybrid_dashboard_look_timestamp_seconds", "gauge", "Unix time of the dashboard's last observation."),
    Metric("hybrid_dashboard_refresh_seconds", "gauge", "Time between two observations, as configured."),
    *(Metric(name, "counter", text) for name, text in _COUNTED.values()),
    Metric(
        "hybrid_market_ticks_duplicate",
        "counter",
        "Ticks that had been seen before, for each source and market, the 100 highest.",
        "market",
    ),
)
"""Everything /metrics exports, in its order. docs/metrics.md lists the same."""


def metrics(seen: Observation) -> list[tuple[Metric, list[tuple[str, float]]]]:
    """Return each metric with its samples: (value of its label or "", value). What is not known has no sample."""
    found = _values(seen)
    return [(metric, found.get(metric.name, [])) for metric in METRICS]


def _values(seen: Observation) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}

    def put(name: str, value: object, label: str = "") -> None:
        known = int(value) if isinstance(value, bool) else jsontext.number(value)
        if known is not None:
            found.setdefault(name, []).append((jsontext.text(label), float(known)))

    put("hybrid_dashboard_look_timestamp_seconds", seen.at)
    put("hybrid_dashboard_refresh_seconds", seen.refresh_secs)
    put("hybrid_database_readable", isinstance(seen.ledger, LedgerSnapshot))
    put("hybrid_sample_every", sample_every(seen))
    put("hybrid_newest_tick_still_seconds", seen.still_secs)
    put("hybrid_positions_differing", seen.differing)
    for host, until_ms in seen.bars:
        put("hybrid_venue_barred_seconds", max(0.0, until_ms / 1000 - seen.at), host)
    put("hybrid_stored_ticks_per_second", seen.ticks_per_sec)
    if isinstance(seen.unit, UnitSnapshot):
        put("hybrid_engine_up", seen.unit.state.active == "active")
        put("hybrid_engine_exit_status", _exit_status(seen.unit.state))
        put("hybrid_engine_restarts", seen.unit.state.n_restarts)
        put("hybrid_engine_resident_memory_bytes", seen.unit.rss_bytes)
    if _runs(seen) and (mode := _mode_word(seen)) != "unknown":
        put("hybrid_engine_mode", 1, mode)
    if isinstance(seen.ledger, LedgerSnapshot):
        if seen.ledger.ticks:
            put("hybrid_newest_tick_id", seen.ledger.ticks[-1].id)
            put("hybrid_newest_tick_timestamp_seconds", seen.ledger.ticks[-1].ts / 1000)
        for symbol, value in exposures(seen).items():
            put("hybrid_exposure_usd", value, symbol)
        put("hybrid_open_orders", _open_orders(seen.ledger, _mode_word(seen)))
    if isinstance(seen.config, EngineConfig):
        put("hybrid_exposure_limit_usd", seen.config.caps.exposure_usd, "total")
        put("hybrid_exposure_limit_usd", seen.config.caps.symbol_exposure_usd, "symbol")
        put("hybrid_open_orders_limit", seen.config.caps.open_orders)
        put("hybrid_heartbeat_interval_seconds", seen.config.heartbeat_interval_secs)
        put("hybrid_staleness_limit_seconds", seen.config.max_staleness_ms / 1000)
        if seen.bundle_made_at is not None:
            expires_at = seen.bundle_made_at + seen.config.bundle_max_age_hours * 3600
            put("hybrid_bundle_expires_timestamp_seconds", expires_at)
    if isinstance(seen.log, LogSnapshot) and seen.log.heartbeat:
        put("hybrid_heartbeat_timestamp_seconds", seen.log.heartbeat_at)
        balance = [line.ok for line in equations(seen.log.heartbeat)]
        if None not in balance:
            put("hybrid_books_balanced", all(balance))
        lag = jsontext.number(seen.log.heartbeat.get("loop_lag_ms_p99"))
        put("hybrid_event_loop_lag_seconds", None if lag is None else lag / 1000)
        skew = jsontext.number(seen.log.heartbeat.get("clock_skew_ms"))
        put("hybrid_clock_skew_seconds", None if skew is None else skew / 1000)
        put("hybrid_wal_bytes", jsontext.number(seen.log.heartbeat.get("wal_bytes")))
        put("hybrid_ticks_missing", jsontext.number(seen.log.heartbeat.get("gaps")))
        for key, name in _BY_MARKET.items():
            counts = seen.log.heartbeat.get(key)
            for market, count in counts.items() if isinstance(counts, dict) else ():
                put(name, count, market)
        for key, (name, _) in _COUNTED.items():
            put(name, seen.log.heartbeat.get(key))
    for resource in RESOURCES:
        put("hybrid_pressure_limit_ratio", LIMITS[resource] / 100, resource)
        if isinstance(seen.pressure, Pressure):
            put("hybrid_pressure_ratio", seen.pressure.some(resource) / 100, resource)
    if isinstance(seen.verdicts, Verdicts):
        for verdict in Verdict:
            put("hybrid_proofs", sum(row.verdict is verdict for row in seen.verdicts.rows), verdict.value)
    return found


def _exit_status(state: UnitState) -> int | None:
    """As a shell has it; None while a run goes on, and before the first one has ended."""
    if state.main_pid or not state.exec_main_code:
        return None
    return state.exec_main_status + (128 if state.exec_main_code != _CLD_EXITED else 0)


# --- small things ------------------------------------------------------------------------------------------


def _runs(seen: Observation) -> bool:
    return isinstance(seen.unit, UnitSnapshot) and seen.unit.state.active == "active"


def _beat(seen: Observation) -> Mapping[str, Any]:
    return seen.log.heartbeat if isinstance(seen.log, LogSnapshot) else {}


def _limit_secs(seen: Observation) -> float:
    """How long the database may take to show a new tick."""
    config, log, row_secs = _config(seen), seen.log, 0.0
    if isinstance(log, LogSnapshot) and log.heartbeat_at is not None:
        beats = [(log.heartbeat_at, log.heartbeat)]
        if log.heartbeat_before is not None:
            beats.insert(0, log.heartbeat_before)
        row_secs = judgement.row_secs(beats, log.sample_every or 1, config.heartbeat_interval_secs)
    return judgement.limit_secs(row_secs, config.flush_secs)


def _config(seen: Observation) -> EngineConfig:
    return seen.config if isinstance(seen.config, EngineConfig) else EngineConfig()


def decided(seen: Observation) -> Sequence[Mapping[str, Any]]:
    """Return the soak's decisions, the oldest first; none where they cannot be read."""
    return () if isinstance(seen.decisions, Trouble) else seen.decisions


def _shown(value: float | None, digits: int) -> str:
    return "?" if value is None else f"{value:,.{digits}f}"


def _age(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _seconds(timestamp: object) -> float:
    try:
        return datetime.fromisoformat(jsontext.text(timestamp)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _run_seconds(run_id: str) -> float | None:
    # A run's id begins with its time.
    head = run_id.partition("-")[0]
    return float(head) if re.fullmatch(r"[0-9]{1,11}", head) else None


def entry_at(entry: Mapping[str, str]) -> float:
    """When a journal entry was made, seconds since the Unix epoch."""
    text = entry.get("__REALTIME_TIMESTAMP", "0")
    return int(text) / 1e6 if text.isdigit() else 0.0
