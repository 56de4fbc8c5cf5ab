"""Collect everything the dashboard shows, once a refresh, and change nothing.

A collection costs the same whatever the size of database, journal and logs: the journal is followed from where the last
one left it, files are read again only when they have changed, of a log only its end. Each source is read on its own;
one that fails becomes a Trouble and leaves the others alone, whatever somebody has put there.

Decision log and evidence are believed only where root or the dashboard's own user put them (harness/base/trusted.py).

Everything here runs on one thread, because a journal must not be read from two.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from cysystemd.reader import JournalOpenMode, JournalReader, Rule

from harness.base import journal, jsontext, trusted, unit
from harness.base.clock import Clock
from harness.base.errors import HarnessError
from harness.base.unit import UnitState
from harness.dashboard.equity import Equity
from harness.dashboard.view_model import (
    LINE_POINTS_MAX,
    PRICE_SECS,
    EngineConfig,
    Judged,
    LogLine,
    LogSnapshot,
    Observation,
    Trouble,
    UnitSnapshot,
    Verdicts,
    config_of,
    entry_at,
    thin,
)
from harness.evidence import results
from harness.evidence.shell import Shell
from harness.evidence.verdict import anchor
from harness.observing import bundle_time, health, instances, ledger_history, ledger_view, observe
from harness.observing.ledger_view import LedgerSnapshot, StoredTick, Tally

T = TypeVar("T")

COMMAND_SECS = 2.0
"""A systemd that does not answer in this time is unknown; the page goes on."""

TICKS_PER_REFRESH_MAX, POINTS_PER_REFRESH_MAX = 200, 6
"""Ticks read, and points of the price line made of them, for each refresh after the first."""

FILLS_PER_REFRESH_MAX = 5000
"""Fills that are added up for each refresh, in 50 ms."""

MARKERS_MAX = 80
"""Signals and fills that are marked on the price line."""

LIFECYCLE_MAX, LOG_MAX, BEGINNING_MAX = 200, 500, 50
"""Journal entries: of systemd about the unit that are kept, of the engine that are read when a journal is opened, of
a run's beginning that are searched for its settings."""

CATCH_UP_MAX = 2000
"""An engine that logs more entries than this between two refreshes is read from its end again."""

TAIL_MAX, LINE_CHARS_MAX = 300, 500
"""Journal lines that can be looked at, and how much of each."""

DECISION_BYTES = 64 * 1024
"""How much of the decision log's end is read again and again."""

DECISIONS_BYTES_MAX = 16 * 1024 * 1024
"""How much of it who asks about the past is told of: two months of a decision a minute. Read in a fifth of a second."""

VERDICTS_BYTES_MAX = 16 * 1024 * 1024

BUGLOG_BYTES_MAX = 64 * 1024 * 1024

RATE_SECS = 10.0
"""Ticks a second are counted over so long, because the engine writes in batches."""

RATES_SHOWN = 120

HEARTBEATS = (observe.HEARTBEAT, "FINAL METRICS")


@dataclass(frozen=True)
class Places:
    """Where everything is."""

    unit: str
    config: Path
    database: Path | None
    """None: as the configuration says."""
    decision_log: Path
    reports: Path
    """Directory with verdicts.json and buglog/."""
    pressure_dir: Path
    buglog_url: str
    """Below which the buglogs are served."""


class _File(Generic[T]):
    """A file's content as a value, read again only when the file has changed."""

    def __init__(
        self, path: Path, read: Callable[[Path], T], status: Callable[[Path], os.stat_result] = trusted.status
    ) -> None:
        """read: may raise OSError, HarnessError or ValueError. status: likewise; tells whether it has changed."""
        self.path = path
        self._read = read
        self._status = status
        self._stamp: tuple[int, int, int, int] | None = None
        self._value: T | Trouble | None = None

    def value(self) -> T | Trouble:
        stamp = None
        try:
            status = self._status(self.path)
            # Who may read it changes nothing but the last of them.
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)
            if self._value is None or stamp != self._stamp:
                self._value = self._read(self.path)
        except FileNotFoundError:
            self._value, stamp = Trouble(f"{self.path}: there is no such file"), None
        except OSError as error:
            self._value, stamp = Trouble(f"{self.path}: {error.strerror}"), None
        except HarnessError as error:
            self._value = Trouble(str(error))
        except ValueError as error:
            self._value = Trouble(f"{self.path}: {error}")
        self._stamp = stamp
        return self._value


class Journal:
    """What systemd and the engine say in the journal."""

    def __init__(self, unit_name: str) -> None:
        self._unit = unit_name
        self.lifecycle: deque[dict[str, str]] = deque(maxlen=LIFECYCLE_MAX)
        self._about = _Tail(Rule("UNIT", unit_name) & Rule("_PID", "1"), LIFECYCLE_MAX)
        self._own = _Tail(Rule("_SYSTEMD_UNIT", unit_name), LOG_MAX)
        self._logs: dict[str, LogSnapshot] = {}
        self.tail: deque[LogLine] = deque(maxlen=TAIL_MAX)
        self._taken = 0
        # The run whose beginning has been searched for.
        self._begun = ""

    def follow(self) -> None:
        """Take what has come since the last call."""
        told = self._about.take()
        self.lifecycle.extend(told)
        own = self._own.take()
        for raw in own:
            self._note(raw)
        lines = [*(_line("systemd", raw) for raw in told), *map(_engine_line, own)]
        for line in sorted(lines, key=lambda line: line.at):
            self._taken += 1
            self.tail.append(replace(line, number=self._taken))

    def log(self, invocation_id: str) -> LogSnapshot | Trouble:
        """Return what this run of the engine has logged; the last run that the journal knows for an empty id."""
        told = (raw["INVOCATION_ID"] for raw in reversed(self.lifecycle) if "INVOCATION_ID" in raw)
        invocation_id = invocation_id or next(told, "")
        if not self._logs and not self.lifecycle:
            return Trouble(f"it holds nothing about {self._unit}, or this user may not read it (group systemd-journal)")
        seen = self._logs.get(invocation_id, LogSnapshot())
        if not seen.mode and invocation_id != self._begun:
            # Its beginning lies before what was read when the journal was opened.
            self._begun = invocation_id
            fresh = seen.heartbeat_at is not None
            for raw in _Tail(Rule("_SYSTEMD_INVOCATION_ID", invocation_id), None).take(BEGINNING_MAX):
                self._note(raw, heartbeats=not fresh)
            seen = self._logs.get(invocation_id, seen)
        # Runs that are over are asked for no more.
        self._logs = {invocation_id: seen}
        return seen

    def _note(self, raw: Mapping[str, str], *, heartbeats: bool = True) -> None:
        entry = journal.parse(raw, int(raw["__REALTIME_TIMESTAMP"]))
        if entry is None:
            return
        seen = self._logs.get(entry.invocation_id, LogSnapshot())
        if entry.event in HEARTBEATS and heartbeats:
            # The last that came, whatever its time: the computer's clock may have been set back.
            before = None if seen.heartbeat_at is None else (seen.heartbeat_at, seen.heartbeat)
            seen = replace(seen, heartbeat=entry.fields, heartbeat_at=entry.realtime_us / 1e6, heartbeat_before=before)
        elif entry.event == "configuration loaded":
            seen = replace(
                seen,
                mode=jsontext.text(entry.fields.get("mode"), ""),
                feed=jsontext.text(entry.fields.get("ingest_mode"), ""),
                sample_every=jsontext.whole(entry.fields.get("sample_every")),
            )
        elif entry.level == "ERROR" and "exit_code" in entry.fields:
            seen = replace(seen, reason=jsontext.text(entry.fields.get("message"), ""))
        self._logs[entry.invocation_id] = seen


def _line(by: str, raw: Mapping[str, str]) -> LogLine:
    return LogLine(entry_at(raw), by, jsontext.text(raw.get("MESSAGE", ""))[:LINE_CHARS_MAX])


def _engine_line(raw: Mapping[str, str]) -> LogLine:
    entry = journal.parse(raw, int(raw["__REALTIME_TIMESTAMP"]))
    if entry is None:
        return _line("", raw)
    more = " ".join(f"{name}={jsontext.text(value)}" for name, value in entry.fields.items() if name != "message")
    return LogLine(entry_at(raw), entry.level, f"{entry.event} {more}".strip()[:LINE_CHARS_MAX])


class _Tail:
    """Journal entries that match, from the last `back` on; from the journal's start for None."""

    def __init__(self, rule: Rule, back: int | None) -> None:
        self._back = back
        self._reader = JournalReader()
        self._reader.open(JournalOpenMode.SYSTEM)
        self._reader.add_filter(rule)
        self._rewind()

    def _rewind(self) -> None:
        if self._back is None:
            self._reader.seek_head()
        else:
            self._reader.seek_tail()
            self._reader.skip_previous(self._back + 1)

    def take(self, most: int = CATCH_UP_MAX) -> list[dict[str, str]]:
        """Return what has come since the last call, at most `most` entries; of what is more only the last `back` are
        taken by the next call."""
        # Notices files that were added or rotated away.
        self._reader.process_events()
        found: list[dict[str, str]] = []
        while (entry := self._reader.next()) is not None:
            found.append({**entry.data, "__REALTIME_TIMESTAMP": str(entry.get_realtime_usec())})
            if len(found) == most:
                if self._back is not None:
                    self._rewind()
                break
        return found


@dataclass(frozen=True)
class _Shown:
    """What systemd tells of the unit."""

    state: UnitState
    changed_at: float | None
    """Seconds since the Unix epoch; None when systemd has forgotten."""
    directory: Path
    """Where the unit's relative paths start from."""


class Collector:
    """Reads every source of the dashboard. Not safe for two threads."""

    def __init__(self, places: Places, refresh_secs: float, shell: Shell, clock: Clock) -> None:
        self._places = places
        self._refresh_secs = refresh_secs
        self._shell = shell
        self._clock = clock
        self._tables = _File(places.config, health.load_tables, os.stat)
        self._decisions = _File(places.decision_log, _read_end)
        self._verdicts = _File(places.reports / "verdicts.json", _read_verdicts)
        # Verdicts, the buglog of their run, and both together.
        self._links: tuple[Verdicts, str, Verdicts] | None = None
        # None until the journal could be opened.
        self._journal: Journal | None = None
        self._line: list[StoredTick] = []
        self._database: Path | None = None
        # The newest tick, and since when (monotonic seconds) it has been that.
        self._newest: tuple[int, float] | None = None
        # (monotonic seconds, id of the newest tick) of the last refreshes.
        self._counts: deque[tuple[float, int]] = deque()
        self._rates: deque[float | None] = deque(maxlen=RATES_SHOWN)
        # None before LIVE was configured.
        self._bundle: _File[float] | None = None
        # Of which file the fills were booked.
        self._booked: Path | None = None
        self._equity = Equity()

    @property
    def database(self) -> Path | None:
        """Where the engine's database was at the last refresh; None before the first."""
        return self._database

    def past_decisions(self) -> list[tuple[int, dict[str, Any]]]:
        """The decisions of the log, the oldest first, each with the byte at which its line begins. Any thread may ask.
        Raises HarnessError."""
        path = self._places.decision_log
        try:
            return _read_decisions(path, DECISIONS_BYTES_MAX)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HarnessError(f"{path}: {error.strerror}") from error

    def collect(self) -> Observation:
        """Read every source once. Takes a few milliseconds, or COMMAND_SECS when systemd does not answer."""
        tables = self._tables.value()
        shown = self._show()
        journal = self._follow()
        ledger = self._ledger(tables, shown)
        still_secs = self._still_secs(ledger)
        self._rates.append(self._rate(ledger))
        config = self._config(tables)
        return Observation(
            at=self._clock.wall(),
            refresh_secs=self._refresh_secs,
            config=config,
            unit=shown if isinstance(shown, Trouble) else self._unit(shown, journal),
            log=self._log(shown, journal),
            ledger=ledger,
            tally=self._tally(ledger),
            still_secs=still_secs,
            pressure=observe.read_pressure(self._places.pressure_dir),
            ticks_per_sec=self._rates[-1],
            decisions=self._decisions.value(),
            verdicts=self._linked(self._verdicts.value()),
            rates=list(self._rates),
            tail=[] if isinstance(journal, Trouble) else list(journal.tail),
            engine=instances.name_of(self._places.config, {} if isinstance(tables, Trouble) else tables),
            bars=self._bars(ledger),
            differing=self._differing(ledger),
            bundle_made_at=self._bundle_made_at(config, shown),
        )

    @staticmethod
    def _config(tables: dict[str, Any] | Trouble) -> EngineConfig | Trouble:
        if isinstance(tables, Trouble):
            return tables
        try:
            return config_of(tables)
        except ValueError as error:
            return Trouble(str(error))

    def _show(self) -> _Shown | Trouble:
        names = (*unit.PROPERTIES, "StateChangeTimestampMonotonic", "WorkingDirectory")
        argv = unit.show_argv(self._places.unit, names=names)
        try:
            answer = self._shell.run("systemctl", *argv, timeout_secs=COMMAND_SECS)
            state, more = unit.parse(answer.stdout), unit.properties(answer.stdout)
        except (HarnessError, OSError) as error:
            return Trouble(f"systemd does not answer: {str(error).splitlines()[0]}")
        except ValueError as error:
            return Trouble(f"systemd does not tell: {answer.stderr.strip() or error}")
        changed_us = int(more.get("StateChangeTimestampMonotonic") or 0)
        changed_at = self._clock.wall() - (self._clock.monotonic() - changed_us / 1e6) if changed_us else None
        # systemd marks a directory that may be missing with an exclamation mark.
        return _Shown(state, changed_at, Path(more.get("WorkingDirectory", "").removeprefix("!") or "/"))

    def _follow(self) -> Journal | Trouble:
        try:
            if self._journal is None:
                self._journal = Journal(self._places.unit)
            self._journal.follow()
        except OSError as error:
            self._journal = None
            return Trouble(f"it cannot be read: {error.strerror or error}")
        return self._journal

    @staticmethod
    def _unit(shown: _Shown, journal: Journal | Trouble) -> UnitSnapshot:
        lifecycle = [] if isinstance(journal, Trouble) else list(journal.lifecycle)
        pid = shown.state.main_pid
        return UnitSnapshot(shown.state, shown.changed_at, lifecycle, observe.rss_bytes(pid) if pid > 1 else None)

    @staticmethod
    def _log(shown: _Shown | Trouble, journal: Journal | Trouble) -> LogSnapshot | Trouble:
        if isinstance(journal, Trouble):
            return journal
        if isinstance(shown, Trouble):
            return Trouble("without systemd it is not known which run of the engine to look for")
        try:
            return journal.log(shown.state.invocation_id)
        except OSError as error:
            return Trouble(f"it cannot be read: {error.strerror or error}")

    def _ledger(self, tables: dict[str, Any] | Trouble, shown: _Shown | Trouble) -> LedgerSnapshot | Trouble:
        path = self._places.database
        if path is None:
            if isinstance(tables, Trouble):
                return Trouble(f"where it is cannot be told: {tables.reason}")
            path = health.database_of(tables)
        if not path.is_absolute():
            if isinstance(shown, Trouble):
                return Trouble(f"{path}: it is relative to the unit's working directory, and {shown.reason}")
            path = shown.directory / path
        if path != self._database:
            self._line, self._database = [], path
            self._counts.clear()
        newest = self._line[-1].id if self._line else 0
        most = TICKS_PER_REFRESH_MAX if self._line else LINE_POINTS_MAX
        try:
            seen = ledger_view.read_snapshot(path, after_tick=newest, ticks_max=most, markers_max=MARKERS_MAX)
            if newest and not seen.ticks:
                again = ledger_view.read_snapshot(
                    path, after_tick=0, ticks_max=LINE_POINTS_MAX, markers_max=MARKERS_MAX
                )
                if again.ticks[-1:] != self._line[-1:]:
                    # Another database stands in the old one's place.
                    self._line, seen = [], again
        except HarnessError as error:
            return Trouble(str(error))
        fresh = thin(seen.ticks, POINTS_PER_REFRESH_MAX) if self._line else seen.ticks
        self._line = [*self._line, *fresh][-LINE_POINTS_MAX:]
        if self._line:
            first = self._line[-1].ts - PRICE_SECS * 1000
            self._line = [tick for tick in self._line if tick.ts >= first]
        return replace(seen, ticks=self._line)

    def _tally(self, ledger: LedgerSnapshot | Trouble) -> Tally | None:
        if isinstance(ledger, Trouble) or not ledger.ticks or self._database is None:
            return None
        symbol = ledger.ticks[-1].symbol
        since_ms = next(tick.ts for tick in ledger.ticks if tick.symbol == symbol)
        try:
            return ledger_view.read_tally(self._database, symbol=symbol, since_ms=since_ms)
        except HarnessError:
            # What keeps it from being read was told with the ticks, or will be at the next refresh.
            return None

    def _still_secs(self, ledger: LedgerSnapshot | Trouble) -> float | None:
        if isinstance(ledger, Trouble):
            self._newest = None
            return None
        newest, now = ledger.ticks[-1].id if ledger.ticks else 0, self._clock.monotonic()
        if self._newest is None or self._newest[0] != newest:
            self._newest = (newest, now)
        return now - self._newest[1]

    def _rate(self, ledger: LedgerSnapshot | Trouble) -> float | None:
        if isinstance(ledger, Trouble):
            self._counts.clear()
            return None
        newest = ledger.ticks[-1].id if ledger.ticks else 0
        if self._counts and newest < self._counts[-1][1]:
            self._counts.clear()
        self._counts.append((self._clock.monotonic(), newest))
        while self._counts[-1][0] - self._counts[0][0] > max(RATE_SECS, 2 * self._refresh_secs):
            self._counts.popleft()
        (begun, first), (now, last) = self._counts[0], self._counts[-1]
        return (last - first) / (now - begun) if now > begun else None

    def _bars(self, ledger: LedgerSnapshot | Trouble) -> list[tuple[str, int]]:
        if isinstance(ledger, Trouble) or self._database is None:
            return []
        try:
            return ledger_history.read_bars(self._database, round(self._clock.wall() * 1000))
        except HarnessError:
            # As with the tally.
            return []

    def _differing(self, ledger: LedgerSnapshot | Trouble) -> int | None:
        """Book what fills have come, a bounded number of them, and compare their sums with the engine's."""
        if isinstance(ledger, Trouble) or self._database is None:
            return None
        try:
            if self._database != self._booked:
                self._booked, self._equity = self._database, Equity()
            read = self._equity.follow(partial(ledger_history.read_fills, self._database, most=FILLS_PER_REFRESH_MAX))
        except HarnessError:
            return None
        return len(self._equity.disagreements(read.positions)) + read.odd if read.whole else None

    def _bundle_made_at(self, config: EngineConfig | Trouble, shown: _Shown | Trouble) -> float | None:
        if isinstance(config, Trouble) or isinstance(shown, Trouble) or config.mode != "LIVE":
            return None
        path = shown.directory / config.bundle
        if self._bundle is None or self._bundle.path != path:
            self._bundle = _File(path, bundle_time.read, os.stat)
        made_at = self._bundle.value()
        return None if isinstance(made_at, Trouble) else made_at

    def _linked(self, verdicts: Verdicts | Trouble) -> Verdicts | Trouble:
        """Return the verdicts with links into the buglog of their run, which may be rendered later than they are
        written."""
        if isinstance(verdicts, Trouble):
            return verdicts
        name = next((one for one in buglogs(self._places.reports) if one.endswith(f"-{verdicts.run_id}.html")), "")
        if self._links is None or self._links[0] is not verdicts or self._links[1] != name:
            url = f"{self._places.buglog_url}{name}"
            hrefs = {row.proof: f"{url}#{anchor(row.proof)}" for row in verdicts.rows} if name else {}
            self._links = (verdicts, name, replace(verdicts, hrefs=hrefs))
        return self._links[2]


def buglogs(reports: Path) -> list[str]:
    """Return the file names of the rendered evidence documents: all that may be served of the reports."""
    try:
        names = trusted.names(reports / "buglog")
    except (OSError, HarnessError):
        return []
    return [name for name in names if name.startswith("BUG_") and name.endswith(".html")]


def read_buglog(reports: Path, name: str) -> bytes | None:
    """Return an evidence document; None when there is none of that name, or when not root or this user put it there."""
    if name not in buglogs(reports):
        return None
    try:
        return trusted.read(reports / "buglog" / name, BUGLOG_BYTES_MAX)
    except (OSError, HarnessError):
        return None


def _read_verdicts(path: Path) -> Verdicts:
    summary = results.parse(trusted.read(path, VERDICTS_BYTES_MAX))
    rows = [
        Judged(jsontext.text(one.proof), list(map(jsontext.text, one.claims)), one.verdict) for one in summary.verdicts
    ]
    planned = list(map(jsontext.text, summary.planned))
    return Verdicts(jsontext.text(summary.run_id), rows, planned, {}, jsontext.text(summary.state), summary.never_ran)


def _read_end(path: Path) -> list[dict[str, Any]]:
    return [decision for _, decision in _read_decisions(path, DECISION_BYTES)]


def _read_decisions(path: Path, most_bytes: int) -> list[tuple[int, dict[str, Any]]]:
    """Return the decisions in the last bytes of the log, each with the byte at which its line begins; the first and the
    last line may be cut."""
    found = []
    at, end = trusted.read_end(path, most_bytes)
    for line in end.split(b"\n"):
        try:
            entry = jsontext.parse(line.decode("utf-8", "replace"))
        except ValueError:
            entry = None
        if isinstance(entry, dict) and "action" in entry:
            found.append((at, entry))
        at += len(line) + 1
    return found
