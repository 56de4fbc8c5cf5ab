"""What the dashboard saw -> what its page shows, what /healthz answers, what /metrics exports.

An `Observation` is everything seen in one look. What could not be learned is a `Trouble`, which the page shows in
words where the value would stand; it never becomes a zero, and never keeps the rest from being shown.

Who started the present run of the engine is told from systemd's own words: an automatic restart counts in
NRestarts, and the result of the run before tells the watchdog's from an exit's. A start by hand is the controller's
when its decision log has an ENGINE_RESTART after which systemd has started no other run; else an operator's (or the
boot's).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from ipaddress import ip_address
from typing import Any

from harness.exit_actions import Endings, Exit
from harness.ladder import RUNGS
from harness.ledger_view import Deed, Glance, Tick
from harness.pressure import LIMITS, RESOURCES, Pressure, Unknown
from harness.unit import UnitState
from harness.verdict import Verdict, merge

Json = dict[str, Any]

STALE_LOOKS = 5
"""What was seen so many refreshes ago is stale: /healthz says so."""

HEARTBEAT_INTERVALS_MAX = 3
"""A heartbeat older than so many intervals is not fresh (G4), as the healthcheck has it."""

DECISIONS_SHOWN = 12

RESTART_SECS_MAX = 150.0
"""A controller's restart takes no longer (harness/observe.py: ACT_SECS)."""

PRICE_SECS = 300.0
"""How much of the price line is shown."""

LINE_POINTS_MAX = 600

_STARTED = "39f53479d3a045ac8e11786248231fbf"
"""Catalogue id of systemd's message that a unit has been started (systemd/sd-messages.h)."""


@dataclass(frozen=True)
class Trouble:
    """Something could not be learned."""

    reason: str
    """A sentence for a human."""


@dataclass(frozen=True)
class Caps:
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
    caps: Caps = Caps()


@dataclass(frozen=True)
class Listen:
    """`[dashboard]`."""

    host: str = "127.0.0.1"
    port: int = 8501
    refresh_secs: float = 1.0


@dataclass(frozen=True)
class UnitLook:
    """The engine's unit."""

    state: UnitState
    changed_at: float | None
    """Seconds since the Unix epoch: when it last became active, failed, inactive...; None when systemd forgot."""
    lifecycle: Sequence[Mapping[str, str]] = ()
    """systemd's own journal entries about it, oldest first, as raw fields."""
    rss_bytes: int | None = None


@dataclass(frozen=True)
class LogLook:
    """What the present run of the engine (or, when it is down, the last) has logged."""

    mode: str = ""
    """Of its "configuration loaded" line, which knows of --mode; empty when that is not in the journal."""
    sample_every: int | None = None
    """Likewise."""
    heartbeat: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its last HEARTBEAT or FINAL METRICS; empty before the first."""
    heartbeat_at: float | None = None
    """Seconds since the Unix epoch."""


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


@dataclass(frozen=True)
class Observation:
    """Everything seen in one look."""

    at: float
    """Seconds since the Unix epoch, when the look was complete."""
    refresh_secs: float
    config: EngineConfig | Trouble
    unit: UnitLook | Trouble
    log: LogLook | Trouble
    ledger: Glance | Trouble
    """Its ticks: the price line."""
    pressure: Pressure | Unknown
    ticks_per_sec: float | None
    """Ticks that reached the database; None while it cannot be told."""
    decisions: Sequence[Mapping[str, Any]] | Trouble
    verdicts: Verdicts | Trouble
    rates: Sequence[float | None] = ()
    """`ticks_per_sec` of the last looks, oldest first."""


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
    if not 0 < refresh < float("inf"):
        raise ValueError(f"dashboard.refresh_seconds = {refresh:g}: must be a number of seconds above 0")
    return Listen(host, int(port), refresh)


def config_of(tables: Mapping[str, Any]) -> EngineConfig:
    """What the page needs of a parsed configuration. ValueError names what is wrong; judging the rest of it is the
    engine's work."""
    engine, caps = _table(tables, "engine"), _table(tables, "risk_caps")
    mode = tables.get("mode", EngineConfig.mode)
    if not isinstance(mode, str):
        raise ValueError(f"mode = {mode!r}: must be SHADOW, PAPER or LIVE")
    return EngineConfig(
        # The engine takes an unknown mode for SHADOW (C1).
        mode=mode.upper() if mode.upper() in _MODES else "SHADOW",
        sample_every=int(_number(engine, "engine", "sample_every", 1, "a whole number")),
        heartbeat_interval_secs=_number(engine, "engine", "heartbeat_interval_secs", 10, "a number of seconds"),
        max_staleness_ms=_number(engine, "engine", "max_staleness_ms", 5000, "a whole number of milliseconds"),
        caps=Caps(
            _number(caps, "risk_caps", "max_exposure_usd", Caps.exposure_usd, "a number"),
            _number(caps, "risk_caps", "max_symbol_exposure_usd", Caps.symbol_exposure_usd, "a number"),
            int(_number(caps, "risk_caps", "max_open_orders", Caps.open_orders, "a whole number")),
        ),
    )


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, Mapping):
        raise ValueError(f"{name} = {table!r}: must be a table")
    return table


def _number(table: Mapping[str, Any], name: str, key: str, default: float, allowed: str) -> float:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f"{name}.{key} = {value!r}: must be {allowed}")
    return value


# --- judgement ---------------------------------------------------------------------------------------------


def problems(seen: Observation) -> list[str]:
    """Why an operator should look, one sentence each; empty when all is well. What /healthz answers 503 with."""
    found = []
    if isinstance(seen.unit, Trouble):
        found.append(f"unit: {seen.unit.reason}")
    elif seen.unit.state.active != "active":
        found.append(f"unit: the engine is not running ({_unit_words(seen.unit.state)})")
    for name, part in (("config", seen.config), ("database", seen.ledger), ("journal", seen.log)):
        if isinstance(part, Trouble):
            found.append(f"{name}: {part.reason}")
    if isinstance(seen.log, LogLook) and _runs(seen):
        age = None if seen.log.heartbeat_at is None else seen.at - seen.log.heartbeat_at
        limit = HEARTBEAT_INTERVALS_MAX * _config(seen).heartbeat_interval_secs
        if age is None:
            found.append("heartbeat: none from this run of the engine yet")
        elif age > limit:
            found.append(f"heartbeat: the last is {age:.0f} s old, at most {limit:g} s")
        found += [f"books: {line['says']}" for line in _book_lines(seen) if line["ok"] is False]
        skew_ms = seen.log.heartbeat.get("clock_skew_ms")
        if isinstance(skew_ms, int) and abs(skew_ms) > _config(seen).max_staleness_ms:
            direction = "ahead" if skew_ms > 0 else "behind, or its trades come late"
            off = f"the venue's clock is {_age(abs(skew_ms) / 1000)} {direction}"
            found.append(f"clock: {off}: every signal is vetoed as stale")
    return found


def warnings(seen: Observation) -> list[str]:
    """What an operator should know of although the engine is well; /healthz does not mind."""
    if isinstance(seen.pressure, Unknown):
        return [f"pressure: {seen.pressure.reason}"]
    return [f"pressure: {text} % of the time waited" for text in seen.pressure.exceeded()]


def is_stale(at: float, now: float, refresh_secs: float) -> bool:
    """Whether a look that was complete at `at` is too old to be believed. Seconds since the epoch."""
    return now - at > max(STALE_LOOKS * refresh_secs, 3.0)


def who_started(
    state: UnitState, lifecycle: Sequence[Mapping[str, str]], decisions: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    """Who started the present run, or who ended the last one when it is down: (a word, a sentence).

    The word is controller, systemd, watchdog or operator; empty when nothing can be said.
    """
    endings = Endings().take(lifecycle)
    last = endings[-1] if endings else None
    if state.active in ("failed", "inactive"):
        return ("", _ended(last)) if last else ("", "has not run")
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
            if one.get("MESSAGE_ID") == _STARTED and asked < _at(one) <= asked + RESTART_SECS_MAX
        ]
        if runs[:1] == [state.invocation_id]:
            return "controller", f"restarted by the soak controller: {restart.get('reason', '')}"
    return "operator", "started by an operator, or at boot"


def host_allowed(header: str, names: Iterable[str], local_address: str) -> bool:
    """Whether a Host header names this dashboard, so that a foreign page which rebinds its own name to our address
    (DNS rebinding) gets nothing.

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


def thin(ticks: Sequence[Tick], most: int) -> list[Tick]:
    """At most about `most` of the ticks: the extremes of each stretch and the last, so that no peak is lost."""
    if len(ticks) <= most:
        return list(ticks)
    stretch = -(-len(ticks) * 2 // most)
    kept: dict[int, Tick] = {}
    for start in range(0, len(ticks), stretch):
        part = ticks[start : start + stretch]
        for tick in (min(part, key=lambda one: one.price), max(part, key=lambda one: one.price)):
            kept[tick.id] = tick
    kept[ticks[-1].id] = ticks[-1]
    return [kept[key] for key in sorted(kept)]


# --- the page ----------------------------------------------------------------------------------------------


def page(seen: Observation) -> Json:
    """The page's whole state as JSON. `tone` is good, busy, bad or unknown, and never says what no word says."""
    return {
        "at": seen.at,
        "refresh_secs": seen.refresh_secs,
        "problems": problems(seen),
        "warnings": warnings(seen),
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
        return {"word": "unknown", "runs": False, "says": "Neither journal nor configuration tells the mode."}
    says = _MODES.get(word, "A mode that this page does not know.")
    if not _runs(seen):
        says = "The engine does not run; this is the mode of its last run, or of its configuration."
    return {"word": word, "runs": _runs(seen), "says": says}


def _mode_word(seen: Observation) -> str:
    logged = seen.log.mode if isinstance(seen.log, LogLook) else ""
    configured = seen.config.mode if isinstance(seen.config, EngineConfig) else ""
    return (logged or configured).upper() or "unknown"


def _unit(seen: Observation) -> Json:
    if isinstance(seen.unit, Trouble):
        return {"word": "unknown", "tone": "unknown", "says": seen.unit.reason, "since": None, "by": "", "restarts": 0}
    state = seen.unit.state
    by, says = who_started(state, seen.unit.lifecycle, _lines(seen.decisions))
    return {
        "word": _unit_words(state),
        "tone": {"active": "good", "failed": "bad", "inactive": "bad"}.get(state.active, "busy"),
        "says": says,
        # systemd forgets a unit that was stopped in order, its journal does not.
        "since": seen.unit.changed_at or (_at(seen.unit.lifecycle[-1]) if seen.unit.lifecycle else None),
        "by": by,
        "restarts": state.n_restarts,
        "pid": state.main_pid,
    }


def _unit_words(state: UnitState) -> str:
    match state.active:
        case "active":
            return "running"
        case "inactive":
            return "stopped"
        case "failed":
            return f"failed: {state.result}" + (f", exit {state.exec_main_status}" if state.exec_main_code == 1 else "")
        case "activating" if state.sub.startswith("auto-restart"):
            return "waiting to be restarted"
        case "activating":
            return "starting"
        case "deactivating":
            return "stopping"
    return f"{state.active}/{state.sub}"


def _ended(last: Exit) -> str:
    return "stopped in order" if last.result == "success" else f"ended: {last}"


def _figures(seen: Observation) -> list[Json]:
    beat = seen.log.heartbeat if isinstance(seen.log, LogLook) else {}
    ticks = seen.ledger.ticks if isinstance(seen.ledger, Glance) else []
    rung = _rung(seen)
    lag, rss = beat.get("loop_lag_ms_p99"), seen.unit.rss_bytes if isinstance(seen.unit, UnitLook) else None
    return [
        {
            "name": "Ticks stored", "value": _shown(seen.ticks_per_sec if _runs(seen) else 0.0, 1), "unit": "/s",
            "points": list(seen.rates),
            "note": f"newest tick {_age(seen.at - ticks[-1].ts / 1000)} old" if ticks else "no tick yet",
        },
        {
            "name": "Sampling", "value": rung[0], "unit": "",
            "note": "every tick is processed" if rung[1] == 1 else f"1 of {rung[1]} ticks is processed" if rung[1]
            else "no configuration tells it",
        },
        {
            "name": "Event-loop lag", "value": _shown(lag if isinstance(lag, int | float) else None, 1), "unit": "ms",
            "note": "99th percentile, this run",
        },
        {
            "name": "Memory", "value": _shown(None if rss is None else rss / 2**20, 0), "unit": "MiB",
            "note": "resident",
        },
    ]  # fmt: skip


def _rung(seen: Observation) -> tuple[str, int | None]:
    every = _sample_every(seen)
    name = next((rung.name for rung in RUNGS if rung.sample_every == every), "off the ladder")
    return (name, every) if every is not None else ("?", None)


def _sample_every(seen: Observation) -> int | None:
    logged = seen.log.sample_every if isinstance(seen.log, LogLook) else None
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
    first = line[0].ts

    def marks(deeds: Sequence[Deed]) -> list[Json]:
        return [
            {"ts": deed.ts, "price": deed.price, "side": deed.side, "note": deed.note}
            for deed in deeds
            if deed.symbol == symbol and deed.ts >= first and deed.price is not None
        ]

    return {
        "symbol": symbol,
        "points": [[tick.ts, tick.price] for tick in line],
        "signals": marks(seen.ledger.signals),
        "fills": marks(seen.ledger.fills),
    }


def _pressure(seen: Observation) -> Json:
    if isinstance(seen.pressure, Unknown):
        return {"trouble": f"unknown: {seen.pressure.reason}"}
    return {
        "rows": [
            {
                "name": {"cpu": "CPU", "memory": "Memory", "io": "I/O"}[name],
                "value": seen.pressure.some(name),
                "limit": LIMITS[name],
                "over": seen.pressure.some(name) > LIMITS[name],
            }
            for name in RESOURCES
        ]
    }


_EQUATIONS = (
    ("ticks parsed", "ticks_parsed", "received + duplicates", ("ingest_received", "duplicates")),
    ("received", "ingest_received", "processed + sampled out", ("ingest_processed", "sampled_out")),
    ("ticks", "tick_count", "processed", ("ingest_processed",)),
    (
        "ticks", "tick_count", "written + known before + queued + dropped",
        ("tick_rows_written", "tick_rows_known", "tick_rows_queued", "bp_drops_tick", "bp_drops_persist"),
    ),
)  # fmt: skip
"""M3, as a reader says it and as the heartbeat's fields have it."""


def _book_lines(seen: Observation) -> list[Json]:
    beat = seen.log.heartbeat if isinstance(seen.log, LogLook) else {}
    lines = []
    for left_name, left, right_name, parts in _EQUATIONS:
        numbers = [beat.get(name) for name in (left, *parts)]
        known = [number for number in numbers if isinstance(number, int)]
        if len(known) != len(numbers):
            ok, says = None, f"{left_name} = {right_name}: no heartbeat tells"
        else:
            ok = known[0] == sum(known[1:])
            says = f"{left_name} {known[0]} {'=' if ok else '≠'} {right_name} {sum(known[1:])}"
        lines.append({"ok": ok, "left": left_name, "right": right_name, "says": says, "number": numbers[0]})
    return lines


def _books(seen: Observation) -> Json:
    if isinstance(seen.log, Trouble):
        return {"trouble": seen.log.reason}
    if not seen.log.heartbeat:
        return {"trouble": "No heartbeat of this run of the engine in the journal yet."}
    lines = _book_lines(seen)
    broken = any(line["ok"] is False for line in lines)
    unknown = any(line["ok"] is None for line in lines)
    return {
        "word": "do not balance" if broken else "unknown" if unknown else "balance",
        "tone": "bad" if broken else "unknown" if unknown else "good",
        "at": seen.log.heartbeat_at,
        "lines": lines,
        "counts": [
            {"name": name, "value": seen.log.heartbeat.get(key)}
            for name, key in (
                ("signals", "signal_count"), ("fills", "trade_count"), ("risk vetoes", "risk_vetoes"),
                ("stale vetoes", "stale_vetoes"), ("parse errors", "parse_errors"), ("reconnects", "reconnects"),
                ("write errors", "persist_errors"),
            )
        ],
    }  # fmt: skip


def exposures(seen: Observation) -> dict[str, float]:
    """Symbol -> exposure in quote currency, as R3 has it: how far the position of the present mode can get with the
    open orders, whichever of them fill, at the latest price. Empty when the database cannot be read."""
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
    open_orders = _open_orders(seen)
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


def _open_orders(seen: Observation) -> int:
    if isinstance(seen.ledger, Trouble):
        return 0
    mode = _mode_word(seen)
    return sum(order.mode == mode for order in seen.ledger.open_orders)


def _decisions(seen: Observation) -> Json:
    if isinstance(seen.decisions, Trouble):
        return {"trouble": seen.decisions.reason}
    return {
        "rows": [
            {
                "at": _seconds(line.get("timestamp")),
                "state": _state(line),
                "action": str(line.get("action", "?")),
                "reason": str(line.get("reason", "")),
            }
            for line in reversed(seen.decisions[-DECISIONS_SHOWN:])
        ]
    }


def _state(line: Mapping[str, Any]) -> str:
    every = line.get("current_sample_every", 1)
    return f"{line.get('state', '?')}{'' if every == 1 else f' ÷{every}'}"


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
    return {
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
    "ingest_processed": ("hybrid_ticks_processed", "Ticks processed by this run: every sample_every-th received."),
    "foreign": ("hybrid_ticks_foreign", "Trades of markets that nobody asked for; not counted as parsed."),
    "duplicates": ("hybrid_ticks_duplicate", "Ticks that had been seen before."),
    "signal_count": ("hybrid_signals", "Signals made by this run, vetoed ones included."),
    "trade_count": ("hybrid_fills", "Fills of this run, simulated ones included."),
    "risk_vetoes": ("hybrid_vetoes_risk", "Signals vetoed because of a risk cap."),
    "stale_vetoes": ("hybrid_vetoes_stale", "Signals vetoed because their tick was too old."),
    "parse_errors": ("hybrid_parse_errors", "Malformed messages of the feed."),
    "reconnects": ("hybrid_reconnects", "Connection attempts after the first."),
    "persist_errors": ("hybrid_persist_errors", "Attempts to write to the database that failed and were retried."),
    "log_drops": ("hybrid_log_drops", "Log lines of this run that were dropped because nobody read them."),
}
"""Field of a heartbeat -> the counter it becomes."""

METRICS = (
    Metric("hybrid_engine_up", "gauge", "1 while the engine's unit is active, else 0; absent when systemd is silent."),
    Metric("hybrid_engine_restarts", "gauge", "Automatic restarts since the engine was last started by hand."),
    Metric("hybrid_engine_mode", "gauge", "1 for the mode the engine runs in.", "mode"),
    Metric("hybrid_engine_resident_memory_bytes", "gauge", "Resident memory of the engine's main process."),
    Metric("hybrid_sample_every", "gauge", "The engine processes every so many-th new tick: the rung."),
    Metric("hybrid_stored_ticks_per_second", "gauge", "Ticks that reached the database, over the last ten seconds."),
    Metric("hybrid_newest_tick_id", "gauge", "Id of the newest tick in the database."),
    Metric("hybrid_newest_tick_timestamp_seconds", "gauge", "Unix time of the newest tick in the database."),
    Metric("hybrid_database_readable", "gauge", "1 while the engine's database can be read, else 0."),
    Metric("hybrid_heartbeat_timestamp_seconds", "gauge", "Unix time of the engine's last heartbeat."),
    Metric("hybrid_books_balanced", "gauge", "1 if the last heartbeat's books balance, else 0."),
    Metric("hybrid_event_loop_lag_seconds", "gauge", "99th percentile of the engine's event-loop lag in this run."),
    Metric("hybrid_clock_skew_seconds", "gauge", "How far the venue's clock is ahead of ours; below 0: behind."),
    Metric("hybrid_wal_bytes", "gauge", "Length of the database's write-ahead log at the engine's last heartbeat."),
    Metric("hybrid_exposure_usd", "gauge", "Exposure of a symbol with its open orders, at its latest price.", "symbol"),
    Metric("hybrid_exposure_limit_usd", "gauge", "Cap on the exposure: scope total or symbol.", "scope"),
    Metric("hybrid_open_orders", "gauge", "Open orders of the present mode."),
    Metric("hybrid_open_orders_limit", "gauge", "Cap on open orders."),
    Metric("hybrid_pressure_ratio", "gauge", "PSI: share of the last 10 s in which some task waited.", "resource"),
    Metric("hybrid_pressure_limit_ratio", "gauge", "Above this pressure the soak controller throttles.", "resource"),
    Metric("hybrid_proofs", "gauge", "Proofs of the last proof run by verdict.", "verdict"),
    Metric("hybrid_dashboard_look_timestamp_seconds", "gauge", "Unix time of the dashboard's last look."),
    *(Metric(name, "counter", text) for name, text in _COUNTED.values()),
)
"""Everything /metrics exports, in its order. docs/metrics.md lists the same."""


def metrics(seen: Observation) -> list[tuple[Metric, list[tuple[str, float]]]]:
    """Each metric with its samples: (value of its label or "", value). What is not known has no sample."""
    found = _values(seen)
    return [(metric, found.get(metric.name, [])) for metric in METRICS]


def _values(seen: Observation) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}

    def put(name: str, value: object, label: str = "") -> None:
        if isinstance(value, int | float):
            found.setdefault(name, []).append((label, float(value)))

    put("hybrid_dashboard_look_timestamp_seconds", seen.at)
    put("hybrid_database_readable", isinstance(seen.ledger, Glance))
    put("hybrid_sample_every", _sample_every(seen))
    put("hybrid_stored_ticks_per_second", seen.ticks_per_sec)
    if isinstance(seen.unit, UnitLook):
        put("hybrid_engine_up", seen.unit.state.active == "active")
        put("hybrid_engine_restarts", seen.unit.state.n_restarts)
        put("hybrid_engine_resident_memory_bytes", seen.unit.rss_bytes)
    if _runs(seen) and (mode := _mode_word(seen)) != "unknown":
        put("hybrid_engine_mode", 1, mode)
    if isinstance(seen.ledger, Glance):
        if seen.ledger.ticks:
            put("hybrid_newest_tick_id", seen.ledger.ticks[-1].id)
            put("hybrid_newest_tick_timestamp_seconds", seen.ledger.ticks[-1].ts / 1000)
        for symbol, value in exposures(seen).items():
            put("hybrid_exposure_usd", value, symbol)
        put("hybrid_open_orders", _open_orders(seen))
    if isinstance(seen.config, EngineConfig):
        put("hybrid_exposure_limit_usd", seen.config.caps.exposure_usd, "total")
        put("hybrid_exposure_limit_usd", seen.config.caps.symbol_exposure_usd, "symbol")
        put("hybrid_open_orders_limit", seen.config.caps.open_orders)
    if isinstance(seen.log, LogLook) and seen.log.heartbeat:
        put("hybrid_heartbeat_timestamp_seconds", seen.log.heartbeat_at)
        balance = [line["ok"] for line in _book_lines(seen)]
        if None not in balance:
            put("hybrid_books_balanced", all(balance))
        lag = seen.log.heartbeat.get("loop_lag_ms_p99")
        put("hybrid_event_loop_lag_seconds", lag / 1000 if isinstance(lag, int | float) else None)
        skew = seen.log.heartbeat.get("clock_skew_ms")
        put("hybrid_clock_skew_seconds", skew / 1000 if isinstance(skew, int) else None)
        wal_bytes = seen.log.heartbeat.get("wal_bytes")
        put("hybrid_wal_bytes", wal_bytes if isinstance(wal_bytes, int | float) else None)
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


# --- small things ------------------------------------------------------------------------------------------


def _runs(seen: Observation) -> bool:
    return isinstance(seen.unit, UnitLook) and seen.unit.state.active == "active"


def _config(seen: Observation) -> EngineConfig:
    return seen.config if isinstance(seen.config, EngineConfig) else EngineConfig()


def _lines(decisions: Sequence[Mapping[str, Any]] | Trouble) -> Sequence[Mapping[str, Any]]:
    return () if isinstance(decisions, Trouble) else decisions


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
        return datetime.fromisoformat(str(timestamp)).timestamp()
    except ValueError:
        return 0.0


def _run_seconds(run_id: str) -> float | None:
    # A run's id begins with its time.
    head = run_id.partition("-")[0]
    return float(head) if head.isdigit() else None


def _at(entry: Mapping[str, str]) -> float:
    text = entry.get("__REALTIME_TIMESTAMP", "0")
    return int(text) / 1e6 if text.isdigit() else 0.0
