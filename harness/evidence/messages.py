"""Judge the lines that an engine logged: each has the level, fields and priority that the contract gives it (M1, 10b),
and what one counts is no less than in the line before (M2).

Whoever filters by them (`journalctl -p err`, an alert on WARN) sees nothing of a line that is told at another level.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.base import journal, jsontext
from harness.base.journal import Entry
from harness.evidence.checkers import Judgement, Violation
from harness.evidence.verdict import ClauseId

E4 = ClauseId("E4")
M1 = ClauseId("M1")
M2 = ClauseId("M2")

PRIORITIES = {"ERROR": 3, "WARN": 4, "INFO": 6, "DEBUG": 7}
"""The levels of M1, and what `journalctl -p` calls them (syslog, RFC 5424)."""

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(?:Z|[+-]00:00)")
"""When a line says that it was: RFC 3339, UTC, microseconds (M1)."""

MESSAGES: dict[str, tuple[str, frozenset[str]]] = {
    "configuration loaded": ("INFO", frozenset({"mode", "sample_every"})),
    "PRAGMA verification": ("INFO", frozenset({"journal_mode", "synchronous", "busy_timeout", "temp_store"})),
    "all PRAGMAs verified": ("INFO", frozenset()),
    "pipeline running": ("INFO", frozenset()),
    "connected": ("INFO", frozenset({"source"})),
    "connection failed": ("WARN", frozenset({"source", "reason"})),
    "connection lost": ("WARN", frozenset({"source", "reason"})),
    "connection dropped": ("WARN", frozenset({"source", "reason"})),
    "told to wait longer than max_retry_after_secs": ("WARN", frozenset({"source"})),
    "trade of a market that nobody asked for": ("WARN", frozenset({"market"})),
    "trade ids do not go on from where they were": ("WARN", frozenset({"old_id", "new_id"})),
    "order rejected": ("ERROR", frozenset({"detail"})),
    "signal ignored": ("WARN", frozenset({"signal"})),
    "set aside what a database that is gone has left": ("WARN", frozenset({"bytes"})),
    "HEARTBEAT (G4)": ("INFO", frozenset({"source"})),
    "FINAL METRICS": ("INFO", frozenset({"source"})),
}  # fmt: skip
"""Section 10b of the contract: the level of each message, and the fields that it always has."""


COUNTERS = frozenset({
    "tick_count", "signal_count", "shadow_orders", "trade_count", "persist_count", "persist_errors", "ingest_received",
    "ingest_processed", "bp_drops_tick", "bp_drops_signal", "bp_drops_persist", "risk_vetoes", "parse_errors",
    "ignored", "foreign", "duplicates", "reconnects", "connections_unbounded", "stale_vetoes", "log_drops",
})  # fmt: skip
"""What M2 counts, and what never falls while a process runs."""

ENDS = frozenset({10, 11, 12, 13})
"""The exits for which an engine has a reason of its own (section 3 of the contract)."""


def ends_are_told(entries: Sequence[Entry]) -> Judgement:
    """Judge M1 by each end of a run: an exit of section 3 is the `exit_code` of one of the run's ERROR lines."""
    told = {(entry.invocation_id, entry.fields.get("exit_code")) for entry in entries if entry.level == "ERROR"}
    ends = [(at, entry.invocation_id, journal.exit_status(entry)) for at, entry in enumerate(entries, start=1)]
    judged = [(at, run, status) for at, run, status in ends if status in ENDS]
    found = [
        Violation(at, f"a run ended with exit {status}, and no ERROR line of it has exit_code {status}")
        for at, run, status in judged
        # Of what ends at once journald may not know any more which run it was.
        if not {(run, status), ("", status)} & told
    ]
    return Judgement(M1, len(judged), found)


def stops_are_obeyed(entries: Iterable[Entry]) -> Judgement:
    """Judge E4 by each end of which systemd tells: it never had to kill what it had told to stop."""
    told = [(at, entry) for at, entry in enumerate(entries, start=1) if entry.identifier == "systemd"]
    late = [at for at, entry in told if "State 'stop-sigterm' timed out" in entry.message]
    return Judgement(E4, len(told), [Violation(at, "it did not stop in time, and systemd killed it") for at in late])


def counters_never_fall(entries: Iterable[Entry]) -> Judgement:
    """Judge M2 by each heartbeat and the last metrics: of what is counted none is less than what the same process has
    told before."""
    judged, found = 0, []
    before: dict[tuple[str, int], dict[str, int]] = {}
    for at, entry in enumerate(entries, start=1):
        if entry.event not in ("HEARTBEAT (G4)", "FINAL METRICS"):
            continue
        judged += 1
        known = before.setdefault((entry.invocation_id, entry.pid), {})
        for name in sorted(COUNTERS):
            if (count := jsontext.whole(entry.fields.get(name))) is not None:
                if count < known.get(name, 0):
                    found.append(Violation(at, f"{name} falls from {known[name]} to {count}"))
                known[name] = count
    return Judgement(M2, judged, found)


def are_lines(entries: Iterable[Entry]) -> Judgement:
    """Judge M1 by all that processes of one unit have written which write M1 lines at all: they write nothing else, nor
    does stderr have anything."""
    entries = list(entries)
    # What systemd says before it becomes the service has the same PID, and another name.
    writers = {(entry.pid, entry.identifier) for entry in entries if entry.level}
    own = [(at, one) for at, one in enumerate(entries, start=1) if (one.pid, one.identifier) in writers]
    found = [Violation(at, f"a line that is no M1 line: {one.message[:80]!r}") for at, one in own if not one.level]
    return Judgement(M1, len(own), found)


def are_as_told(entries: Iterable[Entry]) -> Judgement:
    """Judge M1 by lines of one unit. What is no M1 line is not judged: systemd has its own."""
    judged, found = 0, []
    for at, entry in enumerate(entries, start=1):
        if not entry.level:
            continue
        judged += 1
        if (priority := PRIORITIES.get(entry.level)) != entry.priority:
            expected = "no level of M1" if priority is None else f"whose priority is {priority}"
            found.append(
                Violation(at, f"{entry.event!r} is logged with priority {entry.priority} as {entry.level}, {expected}")
            )
        if not entry.target or not TIMESTAMP.fullmatch(entry.timestamp):
            found.append(
                Violation(at, f"{entry.event!r} has the timestamp {entry.timestamp!r} and the target {entry.target!r}")
            )
        level, fields = MESSAGES.get(entry.event, (entry.level, frozenset[str]()))
        if entry.level != level:
            found.append(Violation(at, f"{entry.event!r} is logged as {entry.level}, and 10b says {level}"))
        if missing := sorted(fields - entry.fields.keys()):
            found.append(Violation(at, f"{entry.event!r} does not tell {', '.join(missing)}"))
    return Judgement(M1, judged, found)
