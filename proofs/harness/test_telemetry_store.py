"""What was observed outlives the dashboard, and no state of its file stops it (contract W8)."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.base.clock import OsClock, poll
from harness.dashboard import telemetry_store, view_model
from harness.dashboard.telemetry import EVENTS_MAX, TIERS, Telemetry, TelemetryEvent
from harness.dashboard.telemetry_store import NAME, KeptTelemetry, TelemetryStore
from harness.dashboard.view_model import LogSnapshot, Observation
from proofs.fixtures import traded_database
from proofs.fixtures.dashboard_process import running
from proofs.harness.test_view_model import BEAT, NOW, SEEN

pytestmark = pytest.mark.claim("W8")


def at(seconds: float, source: str = "binance", lag: float = 5.0) -> Observation:
    beat = {**BEAT, "source": source, "loop_lag_ms_p99": lag}
    return replace(SEEN, at=NOW + seconds, log=LogSnapshot("SHADOW", 5, beat, NOW))


def watched(directory: Path, *seen: Observation) -> KeptTelemetry:
    """A dashboard that has taken back what was kept, and has seen this."""
    telemetry = KeptTelemetry(TelemetryStore(directory))
    telemetry.load()
    for one in seen:
        telemetry.take(one)
    return telemetry


def span(telemetry: KeptTelemetry, before_secs: float = 0.0) -> dict[str, Any]:
    return telemetry.span(round((NOW - before_secs) * 1000) - 1000, round(NOW + 3600) * 1000)


def test_what_was_seen_before_a_restart_is_shown_after_it(tmp_path: Path) -> None:
    first = watched(tmp_path, at(0), at(1, lag=9.0), at(2, "gemini"))
    first.close(NOW + 2)
    again = watched(tmp_path, at(20, "gemini", lag=7.0))
    found = span(again)
    begin = int(NOW) * 1000
    assert [ms - begin for ms in found["series"]["at_ms"]] == [0, 1000, 2000, 20_000]
    assert found["series"]["lag_ms"] == [5.0, 9.0, 5.0, 7.0]
    assert [event["text"] for event in found["events"] if event["kind"] == "source"] == ["binance -> gemini"]
    assert again.source_since_ms() == first.source_since_ms()
    assert (found["kept"], found["notices"]) == (True, [])
    # The journal's events are not told twice, and a step that was begun before goes on.
    assert len(found["events"]) == len({json.dumps(event) for event in found["events"]})
    assert max(again.span(0, round(NOW + 3600) * 1000)["series"]["lag_ms"]) == 9.0


def test_each_tier_is_bounded_in_age_and_size(tmp_path: Path) -> None:
    telemetry = Telemetry()
    store = TelemetryStore(tmp_path)
    late = 3 * 86_400
    for second in (*range(30), *range(late, late + 30)):
        telemetry.take(at(second))
    for number in range(2 * EVENTS_MAX):
        telemetry._happened(TelemetryEvent(round(NOW * 1000) + number, "stop", "x"))
    assert store.save(telemetry.everything(), NOW)
    with closing(sqlite3.connect(tmp_path / NAME)) as connection:
        old = "INSERT INTO steps SELECT seconds, at - 100 * 86400, sums FROM steps"
        connection.execute(old)
        connection.commit()
    for _ in range(telemetry_store.OLD_EVERY):
        assert store.save(telemetry.unkept(), NOW + late + 30)
    with closing(sqlite3.connect(tmp_path / NAME)) as connection:
        ages = connection.execute("SELECT seconds, MIN(at) FROM steps GROUP BY 1").fetchall()
        (events,) = connection.execute("SELECT COUNT(*) FROM events").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    assert {seconds for seconds, _ in ages} == {seconds for seconds, _ in TIERS}
    for seconds, oldest in ages:
        assert oldest >= NOW + late + 30 - seconds * dict(TIERS)[seconds] - seconds
    assert events <= EVENTS_MAX
    assert pages <= telemetry_store.PAGES_MAX


def zeros(path: Path) -> None:
    path.write_bytes(b"\0" * 8192)


def text(path: Path) -> None:
    path.write_text("no database, and quite long, so that it is read" * 100)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def garbled(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    for page in range(1, len(raw) // 1024):
        raw[page * 1024 : page * 1024 + 64] = b"\xff" * 64
    path.write_bytes(raw)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()


@pytest.mark.parametrize("damage", [zeros, text, cut, garbled, foreign])
def test_a_damaged_file_is_set_aside_and_told(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    watched(tmp_path, *(at(second) for second in range(40))).close(NOW + 40)
    damage(tmp_path / NAME)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"{NAME}{suffix}").unlink(missing_ok=True)
    telemetry = watched(tmp_path, at(50))
    telemetry.keep(NOW + 50)
    notices = telemetry.notices
    assert len(notices) == 1, notices
    assert f"set aside as {NAME}.damaged" in notices[0]
    assert span(telemetry)["kept"]
    telemetry.close(NOW + 51)
    assert span(watched(tmp_path))["series"]["lag_ms"] == [5.0]


def test_a_file_that_is_damaged_or_gone_while_it_runs_is_written_anew(tmp_path: Path) -> None:
    telemetry = watched(tmp_path, at(0), at(1))
    telemetry.keep(NOW + 1)
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"{NAME}{suffix}").unlink(missing_ok=True)
    telemetry.take(at(2))
    telemetry.close(NOW + 2)
    assert span(watched(tmp_path, at(3)))["series"]["lag_ms"] == [5.0] * 4


def test_rows_that_no_dashboard_writes_are_left_out(tmp_path: Path) -> None:
    watched(tmp_path, at(0)).close(NOW)
    second = int(NOW)
    with closing(sqlite3.connect(tmp_path / NAME)) as connection:
        connection.executemany(
            "INSERT INTO steps VALUES (1, ?, ?)",
            [
                (second + number, text)
                for number, text in enumerate(
                    ('{"lag_ms": [1, 1e999, 1]}', '{"lag_ms": "x"}', "[]", "{", '{"lag_ms": [0, 1, 1]}', b"\xff"), 1
                )
            ],
        )
        connection.execute("INSERT INTO steps VALUES ('x', 'y', 'z')")
        connection.execute("INSERT INTO events VALUES ('never', 'start', 'x')")
        connection.execute("UPDATE state SET value = 'x' WHERE name <> 'source'")
        connection.commit()
    found = span(watched(tmp_path, at(60)))
    assert found["series"]["lag_ms"] == [5.0, 5.0]
    assert found["notices"] == []


def full(path: Path) -> Iterator[None]:
    # What is left of the last pages is soon full.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA max_page_count = {2 * telemetry_store.PAGES_MAX}")
        connection.execute("CREATE TABLE filler AS SELECT zeroblob(?) AS x", (telemetry_store.PAGES_MAX * 1024,))
        connection.commit()
    yield
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE filler")
        connection.execute("VACUUM")


def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("COMMIT")


def fifo(path: Path) -> Iterator[None]:
    kept = path.rename(path.with_name("kept"))
    os.mkfifo(path)
    yield
    path.unlink()
    kept.rename(path)


def no_directory(path: Path) -> Iterator[None]:
    away = path.parent.rename(path.parent.with_name("away"))
    path.parent.write_text("a file")
    yield
    path.parent.unlink()
    away.rename(path.parent)


@pytest.mark.slow
@pytest.mark.parametrize("hindrance", [full, locked, fifo, no_directory])
def test_what_cannot_be_kept_now_is_told_and_kept_later(
    tmp_path: Path, hindrance: Callable[[Path], Iterator[None]]
) -> None:
    directory = tmp_path / "state"
    watched(directory, at(0)).close(NOW)
    telemetry = watched(directory, *(at(second) for second in range(1, 150)))
    hindering = contextmanager(hindrance)(directory / NAME)
    with hindering:
        telemetry.keep(NOW + 150)
        (notice,) = telemetry.notices
        assert notice.startswith(f"telemetry is not kept: {directory / NAME}: "), notice
        seen = replace(at(150), notices=telemetry.notices)
        assert f"dashboard: {notice}" in view_model.health(seen)["lines"]
        telemetry.take(at(150))
        assert span(telemetry)["series"]["lag_ms"] == [5.0] * 151
        assert not span(telemetry)["kept"]
    telemetry.close(NOW + 151)
    assert telemetry.notices == []
    assert span(watched(directory, at(151)))["series"]["lag_ms"] == [5.0] * 152


@pytest.mark.slow
def test_a_sigkill_takes_the_last_seconds_at_most(tmp_path: Path) -> None:
    state = tmp_path / "state"
    traded_database.build(tmp_path / "bot.db", 0)

    def series(url: str) -> Any:
        with urllib.request.urlopen(f"{url}/span?range=5m", timeout=10) as answer:
            return json.loads(answer.read())

    def kept() -> list[int] | None:
        try:
            with closing(sqlite3.connect(f"file:{state / NAME}?mode=ro", uri=True)) as connection:
                rows = connection.execute("SELECT at FROM steps WHERE seconds = 1 ORDER BY at").fetchall()
                return [second * 1000 for (second,) in rows] or None
        except sqlite3.Error:
            return None

    with running(tmp_path / "bot.db", tmp_path, 0.2) as first:
        before = poll(kept, OsClock(), 20.0)
        assert before, "nothing is kept"
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(10)
    with running(tmp_path / "bot.db", tmp_path, 0.2) as again:
        assert poll(lambda: set(before) <= set(series(again.url)["series"]["at_ms"]) or None, OsClock(), 20.0)
        assert series(again.url)["known_from"] <= before[0]
