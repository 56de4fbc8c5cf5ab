"""What the relay reads of a ledger, and that each row is in the stream once (contract F1, F2, F4)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.client import JetStreamContext
from prometheus_client import CollectorRegistry

from engine.base.events import Numbering
from engine.storage import opening
from engine.storage.batch import Batch
from fleet.base import link, wire
from fleet.base.service import Log
from fleet.base.settings import ConfigError, Nats, RelaySettings, Stream
from fleet.base.tables import DECISIONS
from fleet.base.wire import Message
from fleet.relay.files import DecisionsTail, HeartbeatsTail, heartbeats
from fleet.relay.relay import FileTail, Relay, make_stream, why_not_trusted
from fleet.relay.tails import Known, LedgerChanged, Tail, ledger_tails
from harness.base.clock import Clock, FakeClock, OsClock
from harness.base.errors import HarnessError
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from proofs.fixtures.fleet_parts import NatsServer, Program, free_port, growing, grown, streamed, wait


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """With some hundred rows; closed."""
    return grown(tmp_path / "bot.db", times=10)


def write(path: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, values)


def drained(tail: Tail, path: Path, known: Known | None = None, limit: int = 7, schema: int | None = None) -> list[Any]:
    """The rows of all reads until there is nothing more, and where that is."""
    rows: list[Any] = []
    with closing(sqlite3.connect(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0] if schema is None else schema
        while True:
            read = tail.read(connection, version, known, limit)
            if not read.rows:
                return [rows, known]
            assert len(read.rows) <= limit
            # Any part of what was read may be all that fits into a message.
            count = 1 + len(rows) % len(read.rows)
            rows += read.rows[:count]
            known = Known(json.loads(json.dumps(read.place(count))), read.rows[count - 1], version)


TAILS = {tail.table.name: tail for tail in ledger_tails(1)}
BY_ID = ("ticks", "signals", "orders", "fills", "order_events")


@pytest.mark.claim("F1")
def test_reads_of_any_size_make_the_whole_table(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as connection:
        due = {
            table: connection.execute(f"SELECT count(*) FROM {'trades' if table == 'fills' else table}").fetchone()[0]
            for table in BY_ID
        }
    for table in BY_ID:
        rows, known = drained(TAILS[table], ledger)
        keys = [row[:2] if table == "order_events" else row[0] for row in rows]
        assert len(keys) == len(set(keys)) == due[table], table
        assert drained(TAILS[table], ledger, known) == [[], known]
    positions, _ = drained(TAILS["positions"], ledger, limit=2)
    assert len({row[2:4] for row in positions}) == len(positions) == 6


@pytest.mark.claim("F1")
@given(moves=st.lists(st.sampled_from("abcd "), max_size=30), limit=st.integers(1, 3))
def test_positions_that_move_while_they_are_published_are_there_as_they_are_at_last(
    moves: list[str], limit: int
) -> None:
    """Those that were published before the others had their turn included. A space: the relay looks."""
    known: Known | None = None
    latest: dict[Any, Any] = {}
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(
            "CREATE TABLE trades (id INTEGER PRIMARY KEY, ts, mode, symbol, replayed);"
            "CREATE TABLE positions (mode, symbol, qty, cash, fees, price, PRIMARY KEY (mode, symbol))"
        )
        for number, symbol in enumerate([*moves, *" " * 12], start=1):
            if symbol != " ":
                connection.execute("INSERT INTO trades VALUES (?, ?, 'SHADOW', ?, 0)", (number, number, symbol))
                held = ("SHADOW", symbol, str(number), "0", "0", "1")
                connection.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?, ?)", held)
                continue
            read = TAILS["positions"].read(connection, 6, known, limit)
            if read.rows:
                known = Known(json.loads(json.dumps(read.place(len(read.rows)))), read.rows[-1], 6)
                latest |= {row[3]: row[4] for row in read.rows}
        assert latest == dict(connection.execute("SELECT symbol, qty FROM positions"))


@pytest.mark.claim("F1")
def test_an_order_that_goes_on_is_followed_to_its_end(tmp_path: Path) -> None:
    """Read after each transaction, in steps of one row: the same as read at once, in each order's order."""
    known: Known | None = None
    rows: list[Any] = []
    with growing(tmp_path / "bot.db", seed=6) as found:
        for _ in range(40):
            found.grow(6)
            more, known = drained(TAILS["order_events"], found.path, known, limit=1)
            rows += more
    at_once, _ = drained(TAILS["order_events"], found.path, limit=5000)
    assert sorted(rows) == sorted(at_once)
    assert known is not None
    assert known.place["open"]
    for order_id in {row[0] for row in rows}:
        seqs = [row[1] for row in rows if row[0] == order_id]
        assert seqs == list(range(len(seqs)))


@pytest.mark.slow
@pytest.mark.claim("F1")
def test_what_a_replay_has_made_is_passed_over_and_each_so_many_th_tick_is_sent(ledger: Path) -> None:
    for table in ("signals", "trades"):
        write(ledger, f"UPDATE {table} SET replayed = 1 WHERE id > (SELECT max(id) FROM {table}) - 3")
    for table, name in (("signals", "signals"), ("fills", "trades")):
        rows, known = drained(TAILS[table], ledger)
        with closing(sqlite3.connect(ledger)) as connection:
            (top,) = connection.execute(f"SELECT max(id) FROM {name}").fetchone()
        assert rows[-1][0] == known.place["id"] == top - 3
    (every_tenth,) = [tail for tail in ledger_tails(10) if tail.table.name == "ticks"]
    assert [row[0] for row in drained(every_tenth, ledger)[0]] == list(range(10, 301, 10))
    assert "ticks" not in {tail.table.name for tail in ledger_tails(0)}


@pytest.mark.claim("F1")
def test_known_gaps_are_sent_whenever_they_change(tmp_path: Path) -> None:
    store = opening.open_ledger(tmp_path / "bot.db", busy_timeout_ms=1000)
    tail = TAILS["gaps"]
    assert drained(tail, tmp_path / "bot.db") == [[], None]
    known: Known | None = None
    seen = []
    for missing in ([(5, 9), (20, 20)], [(5, 9), (20, 20)], [(20, 20)], []):
        store.write(Batch(numberings={"a": Numbering("a", 1, 1, 100, 1000, missing)}))
        rows, known = drained(tail, tmp_path / "bot.db", known, limit=1)
        seen.append([(row[0], row[2], *row[4:]) for row in rows])
    store.close()
    assert seen == [
        [(1, "", 0, 0), (1, "a", 5, 9), (1, "a", 20, 20)], [], [(2, "", 0, 0), (2, "a", 20, 20)], [(3, "", 0, 0)],
    ]  # fmt: skip


def other_ledger(path: Path, seed: int, ticks: int) -> None:
    path.unlink()
    with growing(path, seed) as found:
        found.grow(ticks)


NOT_THE_SAME: dict[str, Callable[[Path], None]] = {
    "put back from a backup": lambda path: other_ledger(path, seed=5, ticks=30),
    "begun anew": lambda path: other_ledger(path, seed=5, ticks=0),
    "of another engine, and longer": lambda path: other_ledger(path, seed=7, ticks=3000),
    "renumbered": lambda path: [
        write(path, f"UPDATE {table} SET id = id + 100000") for table in ("ticks", "signals", "orders", "trades")
    ].clear(),
}


@pytest.mark.slow
@pytest.mark.claim("F2")
@pytest.mark.parametrize("how", NOT_THE_SAME)
def test_another_ledger_is_noticed_by_every_table(ledger: Path, how: str) -> None:
    places = {table: drained(TAILS[table], ledger)[1] for table in (*BY_ID, "positions")}
    NOT_THE_SAME[how](ledger)
    for table, known in places.items():
        if how == "renumbered" and table == "order_events":
            # Found by the order's own id; that the orders were renumbered their own table notices.
            continue
        with pytest.raises(LedgerChanged, match=f"^{table}: ") as error:
            drained(TAILS[table], ledger, known)
        assert "published" in str(error.value)


@pytest.mark.claim("F2")
def test_rows_to_which_a_migration_gave_other_ids_are_found_by_name(ledger: Path) -> None:
    for table in ("signals", "orders"):
        rows, _ = drained(TAILS[table], ledger)
        with closing(sqlite3.connect(ledger)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            read = TAILS[table].read(connection, version, None, 20)
        known = Known(read.place(20), read.rows[19], version)
        write(ledger, f"UPDATE {table} SET id = -4 * id")
        write(ledger, f"UPDATE {table} SET id = -id")
        rest, _ = drained(TAILS[table], ledger, replace(known, schema=version - 1))
        assert rest == [(row[0] * 4, *row[1:]) for row in rows[20:]]
        with pytest.raises(LedgerChanged):
            drained(TAILS[table], ledger, known)


@pytest.mark.claim("F1", "F2")
def test_decisions_are_read_line_by_line(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    tail = DecisionsTail(log)
    assert tail.read(None, 5).rows == ()
    line = '{"timestamp":"2026-11-27T10:00:00.250000Z","action":"STALL","reason":"ä\u2028"}\n'
    log.write_bytes((line + "no JSON\n" + line + line[:20]).encode())
    first = tail.read(None, 2)
    assert first.rows[0][:3] == (0, 1_795_773_600_250, "STALL")
    assert (first.rows[1][0], first.odd) == (len(line.encode()), 1)
    known = Known(first.place(2), first.rows[1], 3)
    rest = tail.read(known, 5)
    assert [row[2] for row in rest.rows] == ["STALL"]
    known = Known(rest.place(1), rest.rows[0], 3)
    assert tail.read(known, 5).rows == []
    log.write_bytes(log.read_bytes() + line[20:].encode())
    assert [row[3] for row in tail.read(known, 5).rows] == [line.rstrip("\n")]
    log.write_bytes(b"x" + log.read_bytes())
    with pytest.raises(LedgerChanged, match="does not begin the line that was published"):
        tail.read(known, 5)
    log.unlink()
    with pytest.raises(LedgerChanged, match="is gone"):
        tail.read(known, 5)


@pytest.mark.claim("F1")
def test_heartbeats_are_those_of_the_journal_after_a_time() -> None:
    def entry(at_us: int, message: str) -> str:
        said = json.dumps({"fields": {"message": message, "tick_count": at_us}})
        return json.dumps({"__REALTIME_TIMESTAMP": str(at_us), "MESSAGE": said})

    lines = [entry(3000, "HEARTBEAT (G4)"), entry(1000, "HEARTBEAT (G4)"), entry(4000, "other"), "{", "",
             entry(5000, "HEARTBEAT (G4)"), '{"__REALTIME_TIMESTAMP": "9", "MESSAGE": [1, 2]}']  # fmt: skip
    rows, odd = heartbeats(lines, 1000, 5)
    assert ([row[:2] for row in rows], odd) == ([(3000, 3), (5000, 5)], 2)
    assert json.loads(str(rows[0][2]))["fields"]["tick_count"] == 3000
    assert [row[0] for row in heartbeats(lines, 0, 2)[0]] == [1000, 3000]


@pytest.mark.claim("F1")
def test_a_relay_that_begins_takes_the_last_days_heartbeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(1_795_773_600.0)
    ages_secs = [86_401, 86_399, 3600, 1]
    message = json.dumps({"fields": {"message": "HEARTBEAT (G4)"}})
    entries = [
        {"__REALTIME_TIMESTAMP": f"{(clock.wall() - age) * 1e6:.0f}", "MESSAGE": message} for age in ages_secs
    ]  # fmt: skip
    (tmp_path / "entries").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    journalctl = tmp_path / "journalctl"
    journalctl.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/argv\ncat {tmp_path}/entries\n')
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    read = HeartbeatsTail(Shell(Unrecorded()), "hybrid-engine.service", clock).read(None, 5)
    assert [row[0] for row in read.rows] == [int(entry["__REALTIME_TIMESTAMP"]) for entry in entries[1:]]
    argv = (tmp_path / "argv").read_text().splitlines()
    since = datetime.strptime(argv[argv.index("--since") + 1], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    assert clock.wall() - 86_401 < since.timestamp() <= clock.wall() - 86_400
    # Long ones are null otherwise.
    assert "--all" in argv


@pytest.mark.claim("F1")
@pytest.mark.parametrize(
    ("said", "status", "found"),
    [
        ("Journal file /x is truncated, ignoring file.", 0, 1),
        ("Journal file /x is corrupted, ignoring file.\nJournal file /y is truncated, ignoring file.", 1, 0),
        ("", 1, 0),
        ("No journal files were opened due to insufficient permissions.", 1, None),
        ("Journal file /x is truncated, ignoring file.\nFailed to iterate through journal", 1, None),
        ("", 127, None),
    ],
)
def test_a_damaged_journal_file_stops_no_heartbeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int, found: int | None
) -> None:
    """A loss of power leaves one, and journalctl warns of it each time it is asked. None: it cannot be read."""
    clock = FakeClock(1_795_773_600.0)
    entry = {
        "__REALTIME_TIMESTAMP": f"{(clock.wall() - 1) * 1e6:.0f}",
        "MESSAGE": '{"fields": {"message": "HEARTBEAT (G4)"}}',
    }
    (tmp_path / "entry").write_text(json.dumps(entry) * (found or 0))
    (tmp_path / "said").write_text(said)
    journalctl = tmp_path / "journalctl"
    journalctl.write_text(f"#!/bin/sh\ncat {tmp_path}/entry; cat {tmp_path}/said >&2; exit {status}\n")
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tail = HeartbeatsTail(Shell(Unrecorded()), "hybrid-engine.service", clock)
    if found is None:
        with pytest.raises(HarnessError, match="journalctl"):
            tail.read(None, 5)
    else:
        assert len(tail.read(None, 5).rows) == found


# --- with a stream -------------------------------------------------------------------------------------------


def settings(url: str, database: Path, **given: Any) -> RelaySettings:
    found = RelaySettings(
        instance="one", database=database, decision_log=None, journal_unit="", tick_every=1, poll_secs=0.02,
        batch_rows=50, metrics_port=0, nats=Nats((url,), "HYBRID", "", None, None),
        stream=Stream(1, 24.0, 1 << 28),
    )  # fmt: skip
    return replace(found, **given)


class Metered(Relay):
    """A relay, with what it counts."""

    def __init__(self, found: RelaySettings, clock: Clock | None = None, files: Sequence[FileTail] = ()) -> None:
        self.registry = CollectorRegistry()
        super().__init__(found, files, clock or OsClock(), Log("relay"), self.registry)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"hybrid_relay_{name}", labels) or 0.0


def over(server: NatsServer, work: Callable[[JetStreamContext], Awaitable[None]]) -> None:
    """Do something with a connection to the stream."""

    async def run() -> None:
        client = await nats.connect(server.url)
        try:
            await work(link.jetstream(client))
        finally:
            await client.close()

    asyncio.run(run())


async def drain(relay: Relay, stream: JetStreamContext) -> None:
    while await relay.round(stream):
        pass


def expect_once(server: NatsServer, ledger: Path) -> dict[str, list[Message]]:
    """Each row of the ledger is in the stream once, and each message goes on from the one before."""
    found = streamed(server.url)
    with closing(sqlite3.connect(ledger)) as connection:
        for table in BY_ID:
            sql = f"SELECT count(*) FROM {'trades' if table == 'fills' else table}"
            keys = Counter(row[:2] if table == "order_events" else row[0] for one in found[table] for row in one.rows)
            assert max(keys.values()) == 1, f"{table}: {keys.most_common(2)}"
            assert len(keys) == connection.execute(sql).fetchone()[0]
    for messages in found.values():
        assert messages[0].start is None
        for before, after in itertools.pairwise(messages):
            assert after.start == before.end
    return found


@pytest.mark.slow
@pytest.mark.claim("F1")
def test_two_relays_and_lost_answers_publish_each_row_once(nats_server: NatsServer, tmp_path: Path) -> None:
    """In turns, by chance, some of them forgetting what came of their last messages, long after the server has
    forgotten its ids."""
    chance = random.Random(3)

    async def work(stream: JetStreamContext) -> None:
        await make_stream(stream, "HYBRID", Stream(1, 24.0, 1 << 28))
        info = await stream.stream_info("HYBRID")
        info.config.duplicate_window = 0.1
        await stream.update_stream(info.config)
        relays = [Metered(settings(nats_server.url, found.path, batch_rows=20)) for _ in range(2)]
        for _ in range(30):
            found.grow(30)
            relay = chance.choice(relays)
            before = {name: replace(slot) for name, slot in relay._slots.items()}
            await relay.round(stream)
            if chance.random() < 0.5:
                # As if no answer had come, and as if that had not been noticed.
                relay._slots.update({name: replace(slot, stale=False) for name, slot in before.items()
                                     if not slot.stale})  # fmt: skip
        for relay in relays:
            await drain(relay, stream)
        assert min(relay.value("asked_total", table="ticks") for relay in relays) > 1

    with growing(tmp_path / "bot.db", seed=8) as found:
        over(nats_server, work)
    expect_once(nats_server, found.path)


@pytest.mark.slow
@pytest.mark.claim("F1")
def test_a_place_is_kept_before_the_stream_forgets_it(nats_server: NatsServer, ledger: Path) -> None:
    async def work(stream: JetStreamContext) -> None:
        clock = FakeClock(OsClock().wall())
        relay = Metered(settings(nats_server.url, ledger), clock)
        await make_stream(stream, "HYBRID", Stream(1, 24.0, 1 << 28))
        relay._max_age = 24 * 3600.0
        await drain(relay, stream)
        clock.sleep(11 * 3600)
        assert not await relay.round(stream)
        clock.sleep(2 * 3600)
        before = (await stream.stream_info("HYBRID")).state.messages
        await relay.round(stream)
        after = (await stream.stream_info("HYBRID")).state.messages
        assert after - before == len(BY_ID) + 1
        # Whoever begins anew goes on from the marks, and still knows the ledger by them.
        successor = Metered(settings(nats_server.url, ledger))
        await drain(successor, stream)
        assert successor.value("messages_total", table="ticks") == 0
        other_ledger(ledger, seed=7, ticks=30)
        with pytest.raises(LedgerChanged):
            await Metered(settings(nats_server.url, ledger)).round(stream)

    over(nats_server, work)
    found = streamed(nats_server.url)
    assert [one.rows for one in found["ticks"]][-1] == []


@pytest.mark.slow
@pytest.mark.claim("F4")
def test_a_full_stream_is_waited_for(nats_server: NatsServer, ledger: Path) -> None:
    async def work(stream: JetStreamContext) -> None:
        await make_stream(stream, "HYBRID", Stream(1, 24.0, 30_000))
        relay = Metered(settings(nats_server.url, ledger))
        for _ in range(5):
            await relay.round(stream)
        assert relay.value("stream_full") == 1
        assert relay.value("backlog_rows", table="ticks") > 0
        assert relay.value("lag_seconds", table="ticks") > 0
        info = await stream.stream_info("HYBRID")
        info.config.max_bytes = 1 << 28
        await stream.update_stream(info.config)
        await drain(relay, stream)
        await relay.round(stream)
        assert relay.value("stream_full") == 0
        assert [relay.value(name, table="ticks") for name in ("backlog_rows", "lag_seconds")] == [0, 0]

    over(nats_server, work)
    expect_once(nats_server, ledger)


@pytest.mark.slow
@pytest.mark.claim("F1")
def test_a_stream_that_lost_everything_gets_everything(nats_server: NatsServer, ledger: Path) -> None:
    async def work(stream: JetStreamContext) -> None:
        relay = Metered(settings(nats_server.url, ledger))
        for _ in range(2):
            await make_stream(stream, "HYBRID", Stream(1, 24.0, 1 << 28))
            for slot in relay._slots.values():
                slot.stale = True
            await drain(relay, stream)
            if _ == 0:
                await stream.delete_stream("HYBRID")

    over(nats_server, work)
    expect_once(nats_server, ledger)


@pytest.mark.claim("F1", "F2")
def test_a_stream_that_lost_what_it_had_taken_gets_it_again_and_that_is_told(
    nats_server: NatsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when a server that has not caught up becomes the leader."""

    async def work(stream: JetStreamContext) -> None:
        await make_stream(stream, "HYBRID", Stream(1, 24.0, 1 << 28))
        for slot in relay._slots.values():
            slot.stale = True
        found.grow(30)
        await drain(relay, stream)

    with growing(tmp_path / "bot.db", seed=9) as found:
        relay = Metered(settings(nats_server.url, found.path))
        over(nats_server, work)
        with nats_server.put_back():
            over(nats_server, work)
            last = relay._slots["ticks"].sequence
            assert relay.value("forgotten_total", table="ticks") == 0
        over(nats_server, work)
    assert relay.value("forgotten_total", table="ticks") == 1
    assert f"and was {last}; what came after it is published again" in capsys.readouterr().err
    expect_once(nats_server, found.path)


@pytest.mark.claim("F1")
@pytest.mark.parametrize(
    ("version", "replicas", "trusted"),
    [((2, 9), 3, False), ((2, 9), 1, True), ((2, 10), 3, True), ((3, 0), 3, True), ((1, 99), 3, False),
     ((None, None), 3, True)],
)  # fmt: skip
def test_a_server_that_loses_what_it_acknowledged_is_told_of(
    version: tuple[int | None, int | None], replicas: int, trusted: bool
) -> None:
    told = why_not_trusted(*version, replicas)
    assert (told == "") == trusted
    if not trusted:
        assert told.startswith(f"version {version[0]}.{version[1]} may lose what it has acknowledged")
        assert told.endswith("Take 2.10 or later")


@pytest.mark.slow
@pytest.mark.claim("F1")
def test_what_is_too_long_for_a_message_is_in_several(nats_server: NatsServer, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    log.write_text("".join(json.dumps({"action": "STALL", "reason": "x" * 15_000, "n": n}) + "\n" for n in range(40)))
    opening.open_ledger(tmp_path / "bot.db", busy_timeout_ms=1000).close()

    async def work(stream: JetStreamContext) -> None:
        await make_stream(stream, "HYBRID", Stream(1, 24.0, 1 << 28))
        relay = Metered(settings(nats_server.url, tmp_path / "bot.db"), FakeClock(1.0), [DecisionsTail(log)])
        relay._max_bytes = 100_000
        for _ in range(20):
            await relay.round(stream)
            relay._files_at = 0
        log.unlink()
        # Of what is wrong the file is named, not the ledger.
        with pytest.raises(LedgerChanged, match=r"decisions.jsonl: is gone; .* not the file of which hybrid.one"):
            await relay.round(stream)

    over(nats_server, work)
    messages = streamed(nats_server.url)[DECISIONS.name]
    assert [json.loads(str(row[3]))["n"] for one in messages for row in one.rows] == list(range(40))
    assert len(messages) > 5
    assert max(len(wire.encode(one)) for one in messages) <= 100_000


@pytest.mark.claim("F6")
@pytest.mark.parametrize(("key", "value"), [("retention", "workqueue"), ("discard", "old"), ("subjects", ["other"])])
def test_a_stream_that_would_lose_rows_is_refused(nats_server: NatsServer, key: str, value: Any) -> None:
    async def work(stream: JetStreamContext) -> None:
        given = {"name": "HYBRID", "subjects": ["hybrid.>"], "discard": "new", "max_bytes": 1 << 20, key: value}
        await stream.add_stream(**given)
        with pytest.raises(ConfigError, match="stream HYBRID: it"):
            await make_stream(stream, "HYBRID", Stream(1, 24.0, 1 << 28))

    over(nats_server, work)


@pytest.mark.claim("F4")
def test_a_look_leaves_no_byte_beside_the_ledger(nats_server: NatsServer, ledger: Path) -> None:
    before = {path.name: path.read_bytes() for path in ledger.parent.glob("bot.db*")}

    async def work(stream: JetStreamContext) -> None:
        await make_stream(stream, "HYBRID", Stream(1, 24.0, 1 << 28))
        await drain(Metered(settings(nats_server.url, ledger)), stream)

    over(nats_server, work)
    assert {path.name: path.read_bytes() for path in ledger.parent.glob("bot.db*")} == before


@pytest.mark.slow
@pytest.mark.claim("F2", "F6")
def test_the_command_ends_with_12_over_a_ledger_that_was_put_back(
    nats_server: NatsServer, ledger: Path, tmp_path: Path
) -> None:
    config = {"instance": "one", "database": str(ledger), "metrics_port": 0, "poll_secs": 0.02,
              "stream": {"max_bytes": 1 << 28}, "nats": {"servers": [nats_server.url]}}  # fmt: skip
    backup = tmp_path / "backup.db"
    shutil.copy(ledger, backup)
    with growing(ledger, seed=5) as found:
        for _ in range(10):
            found.market.batch(30)
        found.grow(30)
    relay = Program(tmp_path, "relay", config)
    try:
        relay.start()
        wait(lambda: published(nats_server) == 330, "330 ticks are published")
        assert relay.end(signal.SIGTERM) == 0, relay.said
        shutil.copy(backup, ledger)
        relay.start()
        assert relay.status() == 12, relay.said
        assert (
            "is not the ledger of which hybrid.one.ticks holds rows: ticks: the row with id 330, which was published"
            in (relay.said.replace("\n", " "))
        )
        assert published(nats_server) == 330
    finally:
        relay.end()


def published(server: NatsServer) -> int:
    """Ticks in the stream."""
    try:
        return sum(len(one.rows) for one in streamed(server.url).get("ticks", []))
    except nats.errors.Error:
        return -1


@pytest.mark.slow
@pytest.mark.claim("F4", "O12")
@pytest.mark.programs
def test_the_command_waits_for_ledger_and_stream_and_says_so(tmp_path: Path) -> None:
    """Neither is there at first; the stream goes away and comes back."""
    place = tmp_path / "nats"
    place.mkdir()
    server, port = NatsServer(place), free_port()
    config = {"instance": "one", "database": str(tmp_path / "bot.db"), "metrics_port": port, "poll_secs": 0.02,
              "stream": {"max_bytes": 1 << 26}, "nats": {"servers": [server.url]}}  # fmt: skip
    relay = Program(tmp_path, "relay", config)

    def metric(name: str) -> float | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                found = re.search(rf'^hybrid_relay_{name}{{engine="one"}} (\S+)$', answer.read().decode(), re.MULTILINE)
        except OSError:
            return None
        return float(found[1]) if found else None

    relay.start()
    try:
        wait(lambda: "Connect call failed" in relay.said and metric("connected") == 0, relay.said)
        server.start()
        wait(lambda: "there is no such database" in relay.said and metric("connected") == 1, relay.said)
        with growing(tmp_path / "bot.db", seed=5) as ledger:
            ledger.grow(30)
            before = OsClock().wall()
            wait(lambda: published(server) == 30 and metric("ledger_readable") == 1, "30 ticks")
            wait(lambda: (metric("caught_up_timestamp_seconds") or 0) > before, "that it has caught up")
            server.end()
            ledger.grow(30)
            grown = OsClock().wall()
            wait(lambda: metric("connected") == 0, "the loss is noticed")
            behind = metric("caught_up_timestamp_seconds")
            assert behind is not None, relay.said
            assert before < behind <= grown
            server.start()
            wait(lambda: published(server) == 60, "60 ticks")
            wait(lambda: (metric("caught_up_timestamp_seconds") or 0) > grown, "that it has caught up again")
        assert relay.end(signal.SIGTERM) == 0
    finally:
        relay.end()
        server.end()
    assert relay.said.count("Connect call failed") < 5, "what is said again and again is said once"
