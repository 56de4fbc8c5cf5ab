"""Contract N20: what a source says is recorded as it comes, and replayed as if the source said it again."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import command
from engine import record as command_of_record
from engine.base.events import Tick
from engine.base.exits import ConfigError, Crash, NetworkLost, ProtocolChanged
from engine.config import schema, settings
from engine.ingest import connected, recorder, session, tape, websocket
from engine.ingest.intake import Intake
from engine.ingest.messages import Messages
from engine.ingest.playback import PlaybackFeed, source_of
from engine.ingest.ports import Numbers
from engine.ingest.recorder import Books
from engine.ingest.recording import Event, Header, line_of, message, public_url, read_event, without_secrets
from engine.ingest.transport import ConnectFailed
from engine.ingest.venues import registry
from engine.ingest.venues.markets import Markets, Streams
from engine.ingest.venues.port import Ack, Said, Trade, Venue
from engine.signals import Signals
from harness.faults.dialects import DIALECTS, BinanceDialect, BybitDialect, CoinbaseDialect, Dialect, OKXDialect
from harness.faults.exchange import Exchange
from proofs.fixtures import engine_loop, fork_server
from proofs.fixtures.captures import CAPTURES, books
from proofs.fixtures.engine_process import ROOT, engine, mock_tick, write_config
from proofs.fixtures.raw_server import close_frame, frame, raw_server, upgrade

NOW = 1_764_000_000_000
DEADLINE_SECS = 15.0
OPTIONS = schema.Engine(max_connects_per_minute=60_000)


# --- in one process -----------------------------------------------------------------------------------------


class Ears(Books):
    """Where ticks end: by the books of a run, without its channels."""

    def __init__(self, venue: str | None, url: str) -> None:
        sparse = not registry.venue_of(venue, url).consecutive_ids
        super().__init__(Intake(1, 1, is_sparse=lambda stream: sparse))
        self.rows: list[tuple[Any, ...]] = []
        self.heard = asyncio.Event()

    def deliver(self, ticks: list[Tick], numbers: Numbers = ()) -> int:
        known = self.intake.received
        self.rows += [msgspec.structs.astuple(tick) for tick in self.intake.admit(ticks)]
        self.intake.pass_numbers(numbers)
        self.heard.set()
        return self.intake.received - known

    def barred(self, source: str, host: str, secs: float) -> None:
        raise AssertionError("nobody said to wait")

    def books(self, feed: Any) -> dict[str, int]:
        return {
            "gaps": self.intake.gaps, "duplicates": self.intake.duplicates, "errors": feed.parse_errors,
            "ignored": feed.ignored, "foreign": feed.foreign, "reconnects": feed.reconnects,
        }  # fmt: skip


async def until(condition: Callable[[], bool], event: asyncio.Event) -> None:
    async with asyncio.timeout(DEADLINE_SECS):
        while not condition():
            event.clear()
            await event.wait()


def source(dialect: Dialect, url: str) -> schema.Source:
    bare = f"{url}/ws" if dialect.name == "binance" else url
    markets = {dialect.market: "FIRST", dialect.other: "SECOND"}
    return schema.Source(name="the venue", priority=1, url=bare, venue=dialect.name, markets=markets)


def header_of(wanted: schema.Source) -> Header:
    return Header(
        recording=1, source=wanted.name, url=public_url(wanted.url), symbol="SYMBOL", run="20261127T010203456Z",
        venue=wanted.venue, markets=settings.asked_markets(wanted, "SYMBOL"),
    )  # fmt: skip


@asynccontextmanager
async def running(feed: Any) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(feed.run())
    try:
        yield
    finally:
        feed.stop()
        await task


class Listening(recorder.Recorder):
    """A recorder that says when it has recorded something."""

    heard: asyncio.Event

    def record(self, event: Event) -> None:
        super().record(event)
        self.heard.set()


def record(
    directory: Path, dialect: Dialect, said: list[str | bytes], transport: str
) -> tuple[Path, list[tuple[Any, ...]], dict[str, int]]:
    """Records what an exchange says, beside a live run; returns the file and what the live run made of it."""
    with Exchange() as exchange:
        exchange.speak(dialect)
        return engine_loop.run(listen(directory, exchange, source(dialect, exchange.url), said, transport, 999.0))


async def listen(
    directory: Path, exchange: Exchange, wanted: schema.Source, said: list[str | bytes], transport: str, last: float
) -> tuple[Path, list[tuple[Any, ...]], dict[str, int]]:
    """`last`: the price of the last trade."""
    ears = Ears(wanted.venue, wanted.url)
    loop = asyncio.get_running_loop()
    connect = websocket.CONNECTS[transport]
    live = websocket.WebSocketFeed(ears, [wanted], OPTIONS, "SYMBOL", connect, loop.time, {}, Streams())
    written = tape.Tape(directory, header_of(wanted), file_bytes=1 << 20, files=4)
    heard = recorder.make_books(sparse=False)
    listening = Listening(wanted, OPTIONS, "SYMBOL", connect, loop.time, heard, Streams(), written)
    listening.heard = asyncio.Event()
    async with running(live), running(listening):
        await asyncio.to_thread(exchange.wait_heard, 2 * len(settings.subscription(wanted).messages))
        await asyncio.to_thread(exchange.send_raw, said)
        await until(lambda: bool(ears.rows) and ears.rows[-1][2] == last, ears.heard)
        await until(lambda: heard.received == ears.intake.received, listening.heard)
    written.close()
    return written.path, ears.rows, ears.books(live)


async def replay(path: Path, options: schema.Engine = OPTIONS) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    found = tape.find(path)
    assert found is not None
    wanted = source_of(found)
    ears = Ears(wanted.venue, wanted.url)
    feed = PlaybackFeed(ears, found, wanted, options, Streams())
    await feed.run()
    return ears.rows, ears.books(feed)


def an_odd_day(dialect: Dialect) -> list[str | bytes]:
    """Trades of both markets, one missing, one twice, one of a stranger; what cannot be read; last a price of 999."""
    stranger = dialect.market.replace("BTC", "DOGE").replace("btc", "doge")
    return [
        *(dialect.trade(dialect.market, number, "1.5", "2", NOW + number) for number in (1, 2, 2, 4)),
        *dialect.heartbeats,
        dialect.trade(dialect.other, 7, "2.5", "1", NOW),
        dialect.trade(stranger, 1, "9", "9", NOW),
        "rubbish \u2028\u202e\U0001f600",
        b"\x00\xff binary",
        *dialect.trades(dialect.market, [(number, "3.25", "1", NOW + number) for number in (5, 6)]),
        dialect.trade(dialect.other, 8, "999", "1", NOW + 1),
    ]


@pytest.mark.slow
@pytest.mark.claim("N20")
@pytest.mark.parametrize("dialect", [dialect() for dialect in DIALECTS], ids=[dialect.name for dialect in DIALECTS])
def test_N20_a_replay_gives_what_live_ingest_made_of_the_same_messages(tmp_path: Path, dialect: Dialect) -> None:
    transport = "websockets" if dialect.name in ("okx", "kraken") else "picows"
    path, rows, books = record(tmp_path, dialect, an_odd_day(dialect), transport)
    assert [row[1:3] for row in rows][-4:] == [("SECOND", 2.5), ("FIRST", 3.25), ("FIRST", 3.25), ("SECOND", 999.0)]
    assert (books["errors"], books["foreign"], books["duplicates"]) == (2, 1, 1)
    assert books["gaps"] == (1 if dialect.numbers_by_market else 0)
    assert engine_loop.run(replay(path)) == (rows, books)
    # As a text it is the same.
    text = tmp_path / "plain.jsonl"
    text.write_bytes(gzip.decompress(path.read_bytes()))
    assert engine_loop.run(replay(text)) == (rows, books)


@pytest.mark.slow
@pytest.mark.claim("N20", "N4", "N8b", "N9", "N12", "N18")
@pytest.mark.parametrize("name", CAPTURES)
def test_N20_what_a_venue_says_in_a_quarter_of_an_hour(tmp_path: Path, name: str) -> None:
    """As its documentation has it, with all that is no trade: replayed, and recorded from an exchange and replayed."""
    capture = CAPTURES[name]
    wanted = schema.Source(name="s", priority=1, url=capture.url, venue=capture.venue, markets=capture.markets)
    records: list[Header | Event] = [header_of(wanted)]
    for conn, said in enumerate(capture.connections, 1):
        records += [Event("opened", 10**6 * conn, conn), *(message(10**6 * conn, conn, one.encode()) for one in said)]
    rows, counts = engine_loop.run(replay(write(tmp_path / "r", *records)))
    assert [(row[1], row[2], row[3], row[4], row[5] if row[5] is not None else row[6]) for row in rows] == capture.rows
    assert counts == books(**capture.books)
    with Exchange() as exchange:
        exchange.speak(Script(capture.messages(), settings.subscription(wanted).messages))
        real = wanted.model_copy(update={"url": capture.url.replace("ws://127.0.0.1:9", exchange.url)})
        last = capture.rows[-1][1]
        path, live, live_counts = engine_loop.run(listen(tmp_path, exchange, real, [], "picows", last))
    assert [row[1:6] for row in live] == [row[1:6] for row in rows]
    assert engine_loop.run(replay(path)) == (live, live_counts)


class Script(Dialect):
    """Says what it was given to say to whoever has asked for everything."""

    def __init__(self, said: list[str], asked: Sequence[str]) -> None:
        super().__init__()
        self.greeting = () if asked else tuple(said)
        self._said = said
        self._asked = asked

    def answer(self, message: str) -> list[str]:
        return self._said if message == self._asked[-1] else []


# --- what a recording says ----------------------------------------------------------------------------------


def okx_header(**fields: Any) -> Header:
    return msgspec.structs.replace(header_of(source(OKXDialect(), "ws://127.0.0.1:9")), **fields)


def write(path: Path, *records: Header | Event) -> Path:
    path.write_bytes(b"".join(map(line_of, records)))
    return path


def trade(number: int, conn: int = 1, at: int = 0, market: str = "BTC-USDT") -> Event:
    return message(at, conn, OKXDialect().trade(market, number, "1.5", "2", NOW + number).encode())


def answers(conn: int = 1) -> list[Event]:
    asked = json.dumps(
        {"op": "subscribe", "args": [{"channel": "trades", "instId": one} for one in OKXDialect().markets]}
    )
    return [message(0, conn, reply.encode()) for reply in OKXDialect().answer(asked)]


def ids(rows: Iterable[tuple[Any, ...]]) -> list[int]:
    return [row[5] for row in rows]


@pytest.mark.claim("N20", "N18")
def test_N20_the_session_hears_what_it_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A refused attempt, a rejection, a subscription that nobody acknowledges, silence, and a server that says that it
    will close: as in a live run, whatever the recording goes on to say on a connection that was given up."""
    secs = 1_000_000
    draining = OKXDialect().draining.encode()
    rejection = b'{"event":"error","code":"60018","msg":"no such channel"}'
    records: list[Header | Event] = [
        okx_header(),
        Event("failed", 0, 1, reason="HTTP 451"),
        Event("opened", 0, 2), message(0, 2, rejection), trade(1, 2),
        Event("opened", secs, 3), trade(2, 3, secs), trade(3, 3, 12 * secs),
        Event("opened", 20 * secs, 4), *answers(4), trade(4, 4, 20 * secs), trade(5, 4, 139 * secs),
        trade(6, 4, 260 * secs),
        Event("opened", 300 * secs, 5), *answers(5), trade(7, 5, 300 * secs), message(301 * secs, 5, draining),
        Event("opened", 302 * secs, 6), *answers(6), trade(8, 5, 302 * secs), trade(8, 6, 303 * secs),
        trade(9, 5, 303 * secs), trade(10, 6, 303 * secs), trade(11, 5, 303 * secs), trade(12, 6, 303 * secs),
        Event("closed", 304 * secs, 6, reason="closed by the peer: 1001"),
        Event("opened", 320 * secs, 7), *answers(7), trade(13, 7, 320 * secs), message(321 * secs, 7, rejection),
    ]  # fmt: skip
    with caplog.at_level("INFO"):
        rows, books = engine_loop.run(replay(write(tmp_path / "r", *records)))
    said = [
        (record.message, getattr(record, "fields", {}).get("reason"))
        for record in caplog.records
        if record.message.startswith(("conn", "the server"))
    ]
    assert said == [
        ("connection failed", "HTTP 451"),
        ("connected", None),
        ("connection dropped", "subscription rejected: 60018: no such channel"),
        ("connected", None),
        ("connection dropped", "the subscription was not acknowledged within 10 s"),
        ("connected", None),
        ("connection dropped", "no new tick for 120 s"),
        ("connected", None),
        ("the server is about to close", None),
        ("connected", None),
        ("connection dropped", "replaced before the server closes it"),
        ("connection lost", "closed by the peer: 1001"),
        ("connected", None),
        ("connection dropped", "the venue will send no more: 60018: no such channel"),
    ]
    # With the first tick that the old connection had not brought the new one replaced it, so 11 was not heard.
    assert ids(rows) == [2, 4, 5, 7, 8, 9, 10, 12, 13]
    assert books["reconnects"] == 5


@pytest.mark.claim("N20", "N18")
@pytest.mark.parametrize("answered", [2, 3])
def test_N20_N18_all_requests_of_a_subscription_have_to_be_answered(tmp_path: Path, answered: int) -> None:
    names = [f"COIN{number}USDT" for number in range(25)]
    dialect = BybitDialect(*names)
    wanted = schema.Source(
        name="s", priority=1, url="ws://127.0.0.1:9", venue="bybit", markets={name: name for name in names}
    )
    replies = [dialect.answer(asked)[0].encode() for asked in settings.subscription(wanted).messages]
    trades = [message(at, 1, dialect.trade(names[0], at, "1.5", "2", NOW + at).encode()) for at in (1, 11_000_000)]
    records = [Event("opened", 1), *(message(1, 1, reply) for reply in replies[:answered]), *trades]
    rows, _ = engine_loop.run(replay(write(tmp_path / "r", header_of(wanted), *records)))
    assert ids(rows) == [1, 11_000_000][: answered - 1]


@pytest.mark.claim("N20", "N18")
def test_N20_N18_a_connection_to_binance_is_replaced_before_it_is_a_day_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dialect = BinanceDialect()
    wanted = source(dialect, "ws://127.0.0.1:9")
    hour = 3600 * 10**6
    acknowledged = b'{"result":null,"id":1}'

    def tells(hours: float, conn: int) -> Event:
        number = int(hours * 10)
        return message(int(hours * hour), conn, dialect.trade("BTCUSDT", number, "1.5", "2", NOW + number).encode())

    records: list[Header | Event] = [
        header_of(wanted),
        Event("opened", 1, 1), message(1, 1, acknowledged), *(tells(1 + hours / 2, 1) for hours in range(45)),
        # Half past twenty-three it is time, and no earlier.
        Event("opened", int(23.6 * hour), 2), message(int(23.6 * hour), 2, acknowledged),
        tells(23.7, 1), tells(23.8, 2), tells(23.9, 1), tells(24, 2),
    ]  # fmt: skip
    options = OPTIONS.model_copy(update={"feed_silence_secs": 0.0})
    with caplog.at_level("INFO"):
        rows, books = engine_loop.run(replay(write(tmp_path / "r", *records), options))
    assert ids(rows)[-4:] == [230, 237, 238, 240]
    assert books["reconnects"] == 1
    told = [record.fields["reason"] for record in caplog.records if record.message.startswith("connection ")]  # type: ignore[attr-defined]
    assert told == ["replaced before the server closes it"]


@pytest.mark.claim("N20", "N9", "N11")
def test_N20_N9_N11_what_coinbase_said_before_its_ids_started_over_is_forgotten(tmp_path: Path) -> None:
    dialect = CoinbaseDialect()
    said = [
        dialect.trade("BTC-USD", 8, "1.5", "2", NOW),
        dialect.latest("BTC-USD", 20),
        dialect.trade("BTC-USD", 1, "1.5", "2", NOW + 10**6),
        dialect.trade("BTC-USD", 2, "1.5", "2", NOW + 10**6),
    ]
    wanted = source(dialect, "ws://127.0.0.1:9")
    for upto, gaps in ((2, 12), (4, 0)):
        records = [message(0, 1, one.encode()) for one in said[:upto]]
        _, counts = engine_loop.run(replay(write(tmp_path / "r", header_of(wanted), *records)))
        assert counts["gaps"] == gaps


@pytest.mark.claim("N20")
def test_N20_a_capture_made_by_hand_needs_no_more_than_its_messages(tmp_path: Path) -> None:
    path = tmp_path / "by hand.jsonl"
    first = {
        "recording": 1, "source": "okx", "url": "wss://ws.okx.com:8443/ws/v5/public", "symbol": "X", "run": "",
        "venue": "okx", "markets": {"BTC-USDT": "B"},
    }  # fmt: skip
    lines = [
        first,
        *(
            {"event": "received", "at": n * 20_000_000, "text": OKXDialect().trade("BTC-USDT", n, "1", "1", NOW)}
            for n in range(3)
        ),
    ]
    path.write_text("\ufeff".removeprefix("\ufeff") + "\r\n\n".join(map(json.dumps, lines)))
    rows, _ = engine_loop.run(replay(path))
    assert [(row[0], row[1], row[5]) for row in rows] == [("okx", "B", number) for number in range(3)]


@pytest.mark.claim("N20", "N2b")
def test_N20_a_recording_without_a_tick_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine_loop.run(replay(write(tmp_path / "r", okx_header(), Event("opened"), *answers())))
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["nothing to replay: there is no tick in it"]


@pytest.mark.claim("N20", "N8")
def test_N20_a_recording_of_rubbish_is_a_changed_protocol(tmp_path: Path) -> None:
    rubbish = [message(0, 1, b"\xff\xfe")] * 100
    assert rubbish[0].base64 == b"\xff\xfe"
    path = write(tmp_path / "r", okx_header(), *answers(), *rubbish)
    with pytest.raises(ProtocolChanged, match="100 unusable messages in a row"):
        engine_loop.run(replay(path))


@pytest.mark.claim("N20")
@given(st.binary(max_size=200))
def test_N20_a_message_is_kept_byte_by_byte(payload: bytes) -> None:
    assert read_event(line_of(message(1, 2, payload))).payload == payload
    assert line_of(message(1, 2, payload)).count(b"\n") == 1


# --- files --------------------------------------------------------------------------------------------------


def fill(directory: Path, count: int, **bounds: int) -> tape.Tape:
    written = tape.Tape(directory, okx_header(), **bounds)
    for event in (Event("opened", 1, 1), *answers()):
        written.write(event)
    for number in range(count):
        # What cannot be compressed, so that files fill.
        written.write(message(number, 1, os.urandom(400).hex().encode()))
        written.write(trade(number, 1, number))
    written.close()
    return written


@pytest.mark.claim("N20")
def test_N20_files_are_bounded_and_each_can_be_replayed_alone_and_all_together(tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"parse_error_limit": 1000})
    written = fill(tmp_path, 300, file_bytes=8192, files=100)
    files = sorted(tmp_path.glob("*.jsonl.gz"))
    assert len(files) == written.parts > 5
    # A block of zlib at most, of 16 Ki symbols, is over the bound, and the rest of the part.
    assert max(path.stat().st_size for path in files) < 8192 + (32 << 10)
    assert written.size() == sum(path.stat().st_size for path in files)
    each = [ids(engine_loop.run(replay(path, options))[0]) for path in files]
    assert sorted(number for one in each for number in one) == list(range(300))
    assert all(each)
    joined = tmp_path / "joined.gz"
    joined.write_bytes(b"".join(path.read_bytes() for path in files))
    rows, books = engine_loop.run(replay(joined, options))
    assert ids(rows) == list(range(300))
    assert (books["reconnects"], books["errors"]) == (0, 300)
    # A later recording of the same source pushes the older files out, and nothing else.
    other = tmp_path / f"{files[0].name.rpartition('-')[0]}-notes.txt"
    other.write_text("mine")
    joined.unlink()
    later = tape.Tape(tmp_path, okx_header(run="20261128T000000000Z"), file_bytes=8192, files=3)
    later.close()
    assert [path.name for path in sorted(tmp_path.glob("*.jsonl.gz"))] == [
        *(path.name for path in files[-2:]), later.path.name,
    ]  # fmt: skip
    assert other.read_text() == "mine"


@pytest.mark.claim("N20")
def test_N20_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--to .*file/x: cannot be written: Not a directory"):
        tape.Tape(tmp_path / "file" / "x", okx_header(), file_bytes=1, files=1)
    with pytest.raises(ConfigError, match=r"--to /proc/x: cannot be written: No such file or directory"):
        tape.Tape(Path("/proc/x"), okx_header(), file_bytes=1, files=1)
    first = tape.Tape(tmp_path, okx_header(), file_bytes=1 << 20, files=1)
    with pytest.raises(Crash, match="another recorder writes 'the venue' there"):
        tape.Tape(tmp_path, okx_header(run="20261128T000000000Z"), file_bytes=1, files=1)
    first.close()
    full = tape.Tape(tmp_path / "full", okx_header(), file_bytes=1 << 20, files=1)
    full._raw.close()
    full._raw = open("/dev/full", "wb")  # noqa: SIM115
    full.write(trade(1))
    with pytest.raises(Crash, match="cannot be written: No space left on device"):
        full.flush()
    full.close()


@pytest.mark.claim("N20")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_N20_who_may_read_a_recording_is_the_umasks_to_say(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        tape.Tape(tmp_path / "to", okx_header(), file_bytes=1 << 20, files=1).close()
    finally:
        os.umask(before)
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "to").iterdir()}
    assert modes == dict.fromkeys((".gz", ".lock"), 0o666 & ~umask)


@pytest.mark.claim("N20")
def test_N20_where_the_next_file_cannot_be_made(tmp_path: Path) -> None:
    written = tape.Tape(tmp_path / "gone", okx_header(), file_bytes=1, files=1)
    (whole,) = (tmp_path / "gone").glob("*.gz")
    whole.rename(tmp_path / "whole.gz")
    shutil.rmtree(tmp_path / "gone")
    (tmp_path / "gone").touch()
    with pytest.raises(Crash, match="cannot be written: File exists"):
        written.write(trade(1))
    written.close()
    events, cut = events_of(tmp_path / "whole.gz")
    assert (events[-1], cut) == (trade(1), False)


@pytest.mark.slow
@pytest.mark.claim("N20")
@pytest.mark.parametrize("transport", ["picows", "websockets"])
@pytest.mark.parametrize("when", ["a message comes", "it is flushed"])
def test_N20_a_disk_that_takes_no_more_ends_the_recording(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str, transport: str
) -> None:
    """As what it is: no failure of the venue's, after which the recorder would go on, and write nothing."""
    is_flush = when == "it is flushed"
    to = tmp_path / "to"
    written = tape.Tape(to, okx_header(), file_bytes=1 << 20 if is_flush else 1, files=1)
    if is_flush:
        written._raw.close()
        written._raw = open("/dev/full", "wb")  # noqa: SIM115
    else:
        shutil.rmtree(to)
        to.touch()

    async def listen_in_vain(exchange: Exchange) -> None:
        wanted = schema.Source(name="one", url=exchange.url, kind="mock", priority=0)
        loop = asyncio.get_running_loop()
        books = recorder.make_books(sparse=False)
        feed = Listening(
            wanted, OPTIONS, "S", websocket.CONNECTS[transport], loop.time, books, Streams(), written
        )  # fmt: skip
        feed.heard = asyncio.Event()
        task = loop.create_task(feed.run())
        if is_flush:
            await until(lambda: books.received > 0, feed.heard)
            feed.flush()
        await asyncio.wait_for(task, DEADLINE_SECS)

    with Exchange() as exchange, caplog.at_level("WARNING"):
        exchange.feed(interval_secs=0.01)
        with pytest.raises(Crash, match=r"cannot be written: (File exists|No space)"):
            engine_loop.run(listen_in_vain(exchange))
    written.close()
    assert not caplog.records


TAKEN_AWAY: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "moved": lambda path: path.rename(path.with_suffix(".old")),
    "replaced": lambda path: (path.unlink(), path.write_bytes(b"")),
    "with its directory": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.claim("N20")
@pytest.mark.parametrize("how", TAKEN_AWAY)
def test_N20_a_file_that_is_taken_away_is_told_and_another_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    written = tape.Tape(tmp_path / "to", okx_header(), file_bytes=1 << 20, files=5)
    gone = written.path
    written.write(trade(1, 1, 1))
    written.flush()
    assert not caplog.records
    TAKEN_AWAY[how](gone)
    written.flush()
    (told,) = caplog.records
    assert told.levelname == "WARNING"
    assert told.__dict__["fields"] == {"path": str(gone), "next": str(written.path)}
    with pytest.raises(Crash, match="another recorder writes"):
        tape.Tape(tmp_path / "to", okx_header(), file_bytes=1 << 20, files=5)
    written.write(trade(2, 1, 2))
    written.close()
    assert written.path != gone
    assert len(events_of(written.path)[0]) == 1


@pytest.mark.claim("N20")
@pytest.mark.parametrize("how", TAKEN_AWAY)
def test_N20_a_full_file_that_was_taken_away_is_told_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    written = tape.Tape(tmp_path / "to", okx_header(), file_bytes=256, files=5)
    gone = written.path
    written.flush()
    TAKEN_AWAY[how](gone)
    while written.path == gone:
        written.write(message(1, 1, os.urandom(400).hex().encode()))
    (told,) = caplog.records
    assert told.__dict__["fields"] == {"path": str(gone), "next": str(written.path)}
    written.close()


@pytest.mark.claim("N20")
def test_N20_each_source_has_files_of_its_own(tmp_path: Path) -> None:
    """Whatever it is called, beside others that are called nearly so."""
    names = ["a/b", "a_b", "a b", "a-b", "a", "ä", "ö", *(f"{'x' * 64}{end}" for end in ("", "y", "z"))]
    for name in names:
        written = tape.Tape(tmp_path, msgspec.structs.replace(okx_header(), source=name), file_bytes=1 << 20, files=1)
        assert name not in ("a_b", "a-b", "a") or written.path.name.startswith(f"{name}-2026")
        written.close()
    kept = [header_in(path).source for path in tmp_path.glob("*.jsonl.gz")]
    assert sorted(kept) == sorted(names)


@pytest.mark.claim("N20")
@pytest.mark.parametrize("how", TAKEN_AWAY)
def test_N20_what_is_taken_away_just_before_the_end_is_no_good_end(tmp_path: Path, how: str) -> None:
    written = tape.Tape(tmp_path / "to", okx_header(), file_bytes=1 << 20, files=5)
    TAKEN_AWAY[how](written.path)
    with pytest.raises(Crash, match="is not there any more"):
        written.close()


def header_in(path: Path) -> Header:
    found = tape.find(path)
    assert found is not None
    with closing(found):
        return found.header


def events_of(path: Path) -> tuple[list[Header | Event], bool]:
    """What can be read of a recording, and whether its end is missing."""
    found = tape.find(path)
    assert found is not None
    with closing(found):
        events: list[Header | Event] = []
        while more := found.read(10_000):
            events += more
        return events, found.cut


@pytest.mark.slow
@pytest.mark.claim("N20")
@pytest.mark.parametrize("packed", [True, False])
def test_N20_a_recording_that_is_cut_short_anywhere_is_read_up_to_there(tmp_path: Path, packed: bool) -> None:
    path = fill(tmp_path, 10, file_bytes=1 << 20, files=1).path
    whole = path.read_bytes() if packed else gzip.decompress(path.read_bytes())
    path.write_bytes(whole)
    everything, cut = events_of(path)
    assert not cut
    assert len(everything) == 23
    lengths = set()
    for end in range(400 if packed else 300, len(whole) - 8, 97):
        for tail in (b"", b"\0" * 5000):
            path.write_bytes(whole[:end] + tail)
            read, cut = events_of(path)
            assert read == everything[: len(read)]
            assert cut or not packed, "but where a line of a text happens to end"
            assert cut or len(read) < len(everything)
            lengths.add(len(read))
    assert max(lengths) >= 21
    assert len(lengths) > 5


@pytest.mark.claim("N20")
def test_N20_the_last_bytes_of_a_recording_are_its_end(tmp_path: Path) -> None:
    """Some of them are NULs. Where they are missing the end is missing; where the disk has given others in their place,
    after a power failure, nothing is."""
    path = fill(tmp_path, 10, file_bytes=1 << 20, files=1).path
    whole = path.read_bytes()
    everything, _ = events_of(path)
    zeros = len(whole) - len(whole.rstrip(b"\0"))
    assert zeros > 0
    for missing in range(9):
        for tail in (b"", b"\0" * (missing - 1) if missing else b"", b"\0" * 5000):
            path.write_bytes(whole[: len(whole) - missing] + tail)
            is_whole = missing == 0 or (missing <= zeros and len(tail) >= missing)
            read, cut = events_of(path)
            assert cut is not is_whole, f"{missing} missing, {len(tail)} NULs"
            assert read == everything[: len(read)]


@pytest.mark.claim("N20")
def test_N20_what_is_flushed_is_there_whatever_becomes_of_the_process(tmp_path: Path) -> None:
    written = tape.Tape(tmp_path, okx_header(), file_bytes=1 << 20, files=1)
    assert events_of(written.path) == ([], True)
    written.write(trade(1))
    written.flush()
    assert events_of(written.path) == ([trade(1)], True)
    written.close()
    assert events_of(written.path) == ([trade(1)], False)


def damaged(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]


def torn(text: bytes, at: int) -> bytes:
    """As gzip, which goes on as none at a place of the text."""
    pack = zlib.compressobj(wbits=31)
    return pack.compress(text[:at]) + pack.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 64


DAY: list[Header | Event] = [okx_header(), Event("opened"), *answers(), *(trade(number) for number in range(40))]
GOOD = b"".join(map(line_of, DAY))
# Deeper than anybody reads.
DEEP = b"[" * 100_000 + b"]" * 100_000
BAD = {
    # what is wrong: (the bytes, what the reason says)
    "a damaged gzip": (damaged(gzip.compress(GOOD, 0), 3000), r"damaged after line \d+: .*: head -c \d+ r \| zcat"),
    "a damaged check sum": (damaged(gzip.compress(GOOD), -7 + len(gzip.compress(GOOD))), "incorrect data check"),
    "a gzip damaged in its first line": (torn(GOOD, 100), "damaged within its first line, so that nothing of it can"),
    "no JSON in the middle": (GOOD.replace(b'{"event":"opened"}', b"?"), r"damaged after line 1: .*cat r \| head"),
    "two megabytes of NULs": (GOOD.replace(b"\n", b"\n" + bytes(2_000_000), 1), r"damaged after line 1: \d{7} NULs;"),
    "an event that nobody knows": (GOOD.replace(b'"opened"', b'"melted"'), "melted"),
    "nothing received": (GOOD.replace(b'"text"', b'"test"', 1), "neither text nor base64"),
    "another version": (GOOD.replace(b'"recording":1', b'"recording":2'), "version 2; this engine reads version 1"),
    "no version": (GOOD.replace(b'"recording":1', b'"recording":"x"'), "its first line"),
    "no source": (GOOD.replace(b'"source":"the venue",', b""), "its first line: .*source"),
    "an unknown venue": (GOOD.replace(b'"venue":"okx"', b'"venue":"mtgox"'), "venue 'mtgox': allowed are"),
    "no URL": (GOOD.replace(b'"ws://127.0.0.1:9"', b'"http://x"'), "should be a ws:// or wss:// URL"),
    "two sources": (GOOD + line_of(okx_header(source="another")), "another source, 'another'"),
    "other markets": (GOOD + line_of(okx_header(markets={"A-B": "C"})), "'the venue', asked for something else"),
    "another kind": (GOOD + line_of(okx_header(kind="aggTrade")), "'the venue', asked for something else"),
    "nothing in it": (gzip.compress(b""), "nothing in it"),
    "half a first line": (GOOD[:40], "cut short within its first line"),
    "a first line without a bottom": (GOOD.replace(b'"recording":1', b'"recording":1,"x":' + DEEP), "its first line: "),
    "an event without a bottom": (GOOD.replace(b'"opened"', b'"opened","x":' + DEEP), "damaged after line 1: "),
    "two events without a bottom": (GOOD.replace(b'"received"', b'"received","x":' + DEEP), "damaged after line 2: "),
}  # fmt: skip


@pytest.mark.claim("N20")
@pytest.mark.parametrize("pack", [bytes, lambda text: gzip.compress(text, 0)], ids=["text", "gzip"])
def test_N20_a_recording_is_read_to_its_end_however_long_it_is(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Only to know one from another file not all of it is read."""
    events = [message(number, 1, b"x" * 100_000) for number in range(90)]
    (tmp_path / "r").write_bytes(pack(line_of(okx_header()) + b"".join(map(line_of, events))))
    assert events_of(tmp_path / "r") == (events, False)


@pytest.mark.slow
@pytest.mark.claim("N20", "B1")
def test_N20_B1_a_recording_is_read_piece_by_piece_however_well_it_is_packed(tmp_path: Path) -> None:
    """A thousandth of it on disk is not all of it in memory."""
    (tmp_path / "r").write_bytes(gzip.compress(line_of(okx_header()) + (b" " * 1_000_000 + b"\n") * 64, 1))
    tracemalloc.start()
    try:
        assert events_of(tmp_path / "r") == ([], False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.claim("N20", "B1")
def test_N20_B1_of_long_messages_few_are_read_at_once(tmp_path: Path) -> None:
    """As many as there are lines to be read have no room in memory."""
    long = line_of(message(1, 1, b"x" * 1_000_000))
    (tmp_path / "r").write_bytes(gzip.compress(line_of(okx_header()) + long * 100, 1))
    found, sizes = tape.find(tmp_path / "r"), list[int]()
    assert found is not None
    with closing(found):
        while events := found.read(2000):
            sizes.append(len(events))
    assert (sum(sizes), max(sizes)) == (100, 5)


@pytest.mark.claim("N20")
@pytest.mark.parametrize("what", BAD)
def test_N20_a_recording_that_cannot_be_replayed_says_why_and_what_to_do(tmp_path: Path, what: str) -> None:
    raw, reason = BAD[what]
    (tmp_path / "r").write_bytes(raw)
    with pytest.raises(ConfigError, match=reason) as refused:
        engine_loop.run(replay(tmp_path / "r"))
    assert str(tmp_path / "r") in str(refused.value)


@pytest.mark.slow
@pytest.mark.claim("N20")
@pytest.mark.parametrize("how", ["a line of a text", "a packed line", "gzip"])
@given(data=st.data())
def test_N20_the_remedy_of_a_damaged_recording_gives_what_is_before(
    tmp_path_factory: pytest.TempPathFactory, how: str, data: st.DataObject
) -> None:
    """As a shell runs it: what it leaves can be replayed, and is each line before the damage."""
    lines = GOOD.splitlines(keepends=True)
    if how == "gzip":
        at = data.draw(st.integers(len(lines[0]), len(GOOD) - 1))
        raw, good = torn(GOOD, at), GOOD[:at].count(b"\n")
    else:
        good = data.draw(st.integers(1, len(lines) - 1))
        lines[good] = data.draw(st.sampled_from([b"?\n", b"{\n", b'{"event":"melted"}\n', b'{"recording":2}\n']))
        raw = b"".join(lines) if how == "a line of a text" else gzip.compress(b"".join(lines))
    path = tmp_path_factory.mktemp("any") / "r"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=f"damaged after line {good}: ") as refused:
        engine_loop.run(replay(path))
    remedy = re.search(r"can be replayed: (.*)", str(refused.value))
    assert remedy is not None
    assert shell(remedy[1], path.parent) == 0
    read, _ = events_of(path.parent / "good.jsonl")
    assert read == DAY[1:good]


def shell(command: str, directory: Path) -> int:
    """Run what a user is told to."""
    return subprocess.run(["sh", "-c", command], cwd=directory, stderr=subprocess.DEVNULL, check=False).returncode


@pytest.mark.claim("N20")
@given(st.data())
def test_N20_whatever_stands_in_a_recording_nothing_but_a_refusal_comes_of_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(data.draw(st.sampled_from([GOOD, gzip.compress(GOOD), gzip.compress(GOOD, 0)])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.mktemp("any") / "r"
    path.write_bytes(raw)
    with suppress(ConfigError):
        if (found := tape.find(path)) is not None:
            with closing(found):
                source_of(found)
                while found.read(7):
                    pass


# --- secrets ------------------------------------------------------------------------------------------------


@pytest.mark.claim("N20", "C8")
def test_N20_C8_no_key_is_recorded() -> None:
    urls = {
        "wss://stream.binance.com:9443/stream?streams=btcusdt@trade/ethusdt@aggTrade&timeUnit=MICROSECOND&key=K3Y":
            "wss://stream.binance.com:9443/stream?streams=btcusdt@trade/ethusdt@aggTrade&timeUnit=MICROSECOND",
        "wss://stream.binance.com/ws/pqia91ma19a5s61cv6a81va65sdf19v8a65a1a5s61cv6a81va65sdf19v8a6":
            "wss://stream.binance.com/ws/redacted",
        "wss://api.gemini.com/v1/marketdata/btcusd?trades=true&token=S3CRET":
            "wss://api.gemini.com/v1/marketdata/btcusd?trades=true",
        "wss://x.y/stream?streams=S3CRETS3CRETS3CRET": "wss://x.y/stream",
        "ws://[::1]:9/token/S3CRET": "ws://[::1]:9/token/redacted",
        "wss://user:pass@x.y/": "wss://x.y/",
        # What is left is still a URL, and the same one.
        "wss://stream.binance.com:9443/ws/btcusdt@trade/btcusdt@kline_1d@+08:00":
            "wss://stream.binance.com:9443/ws/btcusdt@trade/btcusdt@kline_1d@+08:00",
        "wss://x.y/stream?streams=%E5%B8%81usdt@trade/btcusdt@trade":
            "wss://x.y/stream?streams=%E5%B8%81usdt@trade/btcusdt@trade",
        "wss://x.y/stream?streams=btcusdt%40trade": "wss://x.y/stream?streams=btcusdt@trade",
    }  # fmt: skip
    for url, shown in urls.items():
        assert public_url(url) == shown
    login = {"op": "login", "args": [{"apiKey": "S3CRET", "passphrase": "S3CRET", "sign": "S3CRET", "instId": "BTC"}]}
    for said in (
        json.dumps(login),
        '{"method": "subscribe", "params": {"channel": "x", "token": "S3CRET"}, "key": "S3CRET"}',
        "login token=S3CRET",
        '{"event": "bts:subscribe", "data": {"channel": "x", "auth": 12345}}',
        # By their places, or under a name of which only the outer one tells.
        '{"op": "auth", "args": ["S3CRET", 12345, "S3CRET"]}',
        '{"method": "private/logon", "params": [["S3CRET"], 12345]}',
        '{"type": "subscribe", "jwt": "S3CRET"}',
        '{"type": "subscribe", "auth": {"k": "S3CRET", "t": [12345]}}',
    ):
        kept = without_secrets(said)
        assert "S3CRET" not in kept
        assert "12345" not in kept
        assert "redacted" in kept
    assert '"instId": "BTC"' in without_secrets(json.dumps(login))
    for dialect in DIALECTS:
        wanted = source(dialect(), "ws://127.0.0.1:9")
        for said in settings.subscription(wanted).messages:
            assert without_secrets(said) == said


class Keyed(Venue):
    """One that has to be told who one is."""

    name = "keyed"
    consecutive_ids = True

    def subscribe(self, markets: Sequence[str], kind: str) -> list[str]:
        return ['{"op": "login", "args": [{"apiKey": "S3CRET", "instId": "A"}]}']

    def read(self, message: bytes) -> list[Said]:
        return [Ack()] if message == b"ok" else [Trade("A", 999.0, 1.0, NOW, 1)]


@pytest.mark.claim("N20", "C8")
def test_N20_C8_the_venue_hears_the_key_and_the_file_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find", lambda name: Keyed())
    with Exchange() as exchange:
        wanted = schema.Source(
            name="s", priority=1, url=f"{exchange.url}/?api_key=S3CRET", venue="keyed", markets={"A": "A"}
        )
        asked = settings.subscription(wanted).messages
        exchange.speak(Script(["ok", "S3CRET is what it said itself"], asked))
        path, _, _ = engine_loop.run(listen(tmp_path, exchange, wanted, [], "picows", 999.0))
        assert exchange.heard == [*asked, *asked]
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert len(lines) == 6
    assert [line for line in lines if "S3CRET" in line and '"event":"received"' not in line] == []
    assert [json.loads(line)["text"] for line in lines if '"event":"sent"' in line] == [
        '{"op": "login", "args": [{"apiKey": "[redacted]", "instId": "A"}]}'
    ]


# --- the whole of it ----------------------------------------------------------------------------------------


def stored(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(
            "SELECT name, symbol, trade_id, price, volume, ts FROM ticks JOIN sources ON sources.id = ticks.source"
            " ORDER BY ticks.id"
        ).fetchall()


@pytest.mark.slow
@pytest.mark.claim("N20", "N2")
def test_N20_an_engine_replays_what_was_recorded_while_another_one_traded(tmp_path: Path) -> None:
    """The recorder is ended by SIGTERM, and another one by SIGKILL, whose recording says that its end is missing."""
    dialect = OKXDialect()
    with Exchange() as exchange:
        exchange.speak(dialect)
        (tmp_path / "ws_sources.toml").write_text(
            f'[[source]]\nname = "okx"\nvenue = "okx"\nurl = "{exchange.url}"\npriority = 2\n'
            'markets = { BTC-USDT = "FIRST", ETH-USDT = "SECOND" }\n'
        )
        config = write_config(tmp_path)
        flags = ["record", "--config", str(config), "--source", "okx", "--to"]
        env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        err = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT)
        well = fork_server.Forked([*flags, str(tmp_path / "well")], tmp_path, env, out, err)
        killed = fork_server.Forked([*flags, str(tmp_path / "killed")], tmp_path, env, out, err)
        os.close(out)
        os.close(err)
        with engine(tmp_path, "--config", str(config), "--ingest", "realws") as live:
            exchange.wait_heard(3)
            exchange.send_raw(
                [
                    *(dialect.trade("BTC-USDT", number, "1.5", "2", NOW + number) for number in (1, 2, 4, 4)),
                    dialect.trade("ETH-USDT", 7, "2.5", "1", NOW, count=3),
                    dialect.trade("SOL-USDT", 1, "140", "1", NOW),
                    "rubbish",
                    dialect.trade("ETH-USDT", 8, "2.5", "1", NOW),
                ]
            )
            live.wait_heartbeat(lambda beat: beat["ingest_received"] == 5)
            # What was flushed is on the disk: the last message is.
            live.wait_heartbeat(lambda _: _is_recorded(tmp_path / "killed", 10))
            killed.send_signal(signal.SIGKILL)
            killed.wait(DEADLINE_SECS)
            well.send_signal(signal.SIGTERM)
            assert well.wait(DEADLINE_SECS) == 0
            assert live.stop() == 0
            wanted, final = stored(live.db), live.final()
    assert "okx: 10 received, 1 sent, 5 trades, 1 missed, 1 unusable" in (tmp_path / "err").read_text()
    names = ("ingest_received", "duplicates", "gaps", "foreign", "ignored", "parse_errors", "gaps_by_market")
    books = {name: final[name] for name in names}
    assert (books["foreign"], books["gaps"], books["parse_errors"]) == (1, 1, 1)
    assert books["gaps_by_market"] == {"okx BTC-USDT": 1, "okx ETH-USDT": 0}
    for which in ("well", "killed"):
        [path] = (tmp_path / which).glob("*.gz")
        (tmp_path / f"replay {which}").mkdir()
        asked = ["--config", str(config), "--ingest", "replay", "--replay-file", str(path)]
        with engine(tmp_path / f"replay {which}", *asked) as again:
            assert again.wait_exit() == 0
        assert stored(again.db) == wanted
        assert {name: again.final()[name] for name in names} == books
        assert bool(again.messages("the recording is cut short")) == (which == "killed")
    # Into the database that has them already: nothing is stored twice.
    with engine(tmp_path, *asked) as onto:
        assert onto.wait_exit() == 0
    assert stored(onto.db) == wanted


@pytest.mark.claim("N20")
def test_N20_what_the_documentation_shows_is_understood(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "venues.md").read_text()
    [shown] = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "shown").write_text(shown)
    _, books = engine_loop.run(replay(tmp_path / "shown"))
    assert (books["ignored"], books["errors"]) == (1, 1)
    found = [shlex.split(line) for line in text.splitlines() if line.startswith("hybrid-engine record")]
    assert len(found) == 2
    for argv in found:
        arguments = command._recorder_parser(Signals()).read(argv[2:])
        assert arguments.to == "recordings"
        if arguments.source is None:
            described = command._described_source(arguments)
            assert (described.url, described.markets) == (
                "wss://ws.kraken.com/v2",
                {"BTC/USD": "BTC/USD", "ETH/USD": "ETH/USD"},
            )


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.claim("N20", "N18")
@pytest.mark.parametrize("dialect", [dialect() for dialect in DIALECTS], ids=[dialect.name for dialect in DIALECTS])
def test_N20_N18_what_was_asked_for_is_known_from_the_recording(tmp_path: Path, dialect: Dialect) -> None:
    """So that a replay waits for the acknowledgement of it."""
    url = "ws://127.0.0.1:9/ws" if dialect.name == "binance" else "ws://127.0.0.1:9"
    asked = ["--venue", dialect.name, "--markets", dialect.market, "--url", url, "--config", "/dev/null"]
    with pytest.raises(NetworkLost):
        command.run(["record", *asked, "--seconds", "0.1", "--to", str(tmp_path)], Signals())
    [path] = tmp_path.glob("*.gz")
    found = tape.find(path)
    assert found is not None
    with closing(found):
        recorded = settings.subscription(source_of(found))
    assert recorded.problem is None
    assert recorded.messages
    assert all(dialect.market in said for said in recorded.messages) or dialect.name == "binance"


@pytest.mark.claim("N20")
def test_N20_a_venue_that_lets_nobody_in_is_recorded_too(tmp_path: Path) -> None:
    """And never given up; who asked for so many seconds is told that they brought nothing."""
    config = write_config(tmp_path, {"engine": {"network_give_up_secs": 0.05, "max_backoff_secs": 0.05}})
    with Exchange() as exchange:
        exchange.refuse(451)
        asked = ["--venue", "okx", "--markets", "BTC-USDT", "--url", exchange.url, "--config", str(config)]
        with pytest.raises(NetworkLost, match=r"nothing was received from okx in 0\.9 s"):
            command.run(["record", *asked, "--seconds", "0.9", "--to", str(tmp_path / "to")], Signals())
        assert len(exchange.refusals) > 1
    [path] = (tmp_path / "to").glob("*.gz")
    events, cut = events_of(path)
    assert not cut
    assert {(event.event, event.reason) for event in events if isinstance(event, Event)} == {("failed", "HTTP 451")}
    # The end may come before the last answer.
    assert len(exchange.refusals) - 1 <= len(events) <= len(exchange.refusals)
    # A start would find nothing in it, which is no mistake of the configuration.
    replayed = ["--ingest", "replay", "--replay-file", str(path), "--db", str(tmp_path / "x.db"), "--check-config"]
    assert command.run(["--config", str(config), *replayed], Signals()) == 0


@pytest.mark.claim("N20")
def test_N20_what_nobody_understands_is_recorded_for_as_long_as_it_comes(tmp_path: Path) -> None:
    """On that day above all: an engine would leave with 11. And something was received, though no trade."""
    with Exchange() as exchange:
        exchange.feed(interval_secs=0.002)
        asked = ["--venue", "okx", "--markets", "BTC-USDT", "--url", exchange.url, "--config", "/dev/null"]
        assert command.run(["record", *asked, "--seconds", "1.5", "--to", str(tmp_path)], Signals()) == 0
    [path] = tmp_path.glob("*.gz")
    received = [event for event in events_of(path)[0] if isinstance(event, Event) and event.event == "received"]
    assert len(received) > 100


@pytest.mark.claim("N20")
def test_N20_what_comes_behind_the_end_of_a_connection_is_not_recorded(tmp_path: Path) -> None:
    class Tape:
        """As much of a recorder as a tap uses."""

        received = sent = 0

        def __init__(self) -> None:
            self.events: list[Event] = []

        def record(self, event: Event) -> None:
            self.events.append(event)

    dialect = OKXDialect()
    venue = registry.find("okx")
    parser = venue.parser("", "s", Markets("s", "X", Streams(), {dialect.market: "X"}))
    line = connected.FeedLine(
        None,  # type: ignore[arg-type]
        7,
        session.Source("s", "ws://x", "x", 1),
        Messages(parser, 100),
    )
    line.dead = True
    kept = Tape()
    tap = recorder._Tap(kept, line)  # type: ignore[arg-type]
    for _ in range(2):
        tap.parser.parse_into(b"pong", tap.ticks)
        tap.text(b"pong")
        tap.closed("gone")
    assert [(event.event, event.conn) for event in kept.events] == [("received", 7), ("received", 7), ("closed", 7)]


@pytest.mark.slow
@pytest.mark.claim("N20")
@pytest.mark.parametrize("transport", ["picows", "websockets"])
def test_N20_who_ended_a_connection_is_recorded(tmp_path: Path, transport: str) -> None:
    """The venue, or the recorder; each connection has one end."""
    written = tape.Tape(tmp_path, okx_header(), file_bytes=1 << 20, files=1)

    def script(client: socket.socket, number: int) -> None:
        upgrade(client, and_then=frame(mock_tick(number)) + (b"" if number else close_frame(1001)))
        # Its goodbye.
        client.recv(65536)

    async def listen_to(url: str) -> None:
        wanted = schema.Source(name="one", url=url, kind="mock", priority=0)
        options = OPTIONS.model_copy(update={"max_backoff_secs": 0.01})
        books = recorder.make_books(sparse=False)
        connect = websocket.CONNECTS[transport]
        now = asyncio.get_running_loop().time
        feed = Listening(wanted, options, "S", connect, now, books, Streams(), written)
        feed.heard = asyncio.Event()
        async with running(feed):
            await until(lambda: books.received == 2, feed.heard)

    with raw_server(script) as server:
        engine_loop.run(listen_to(server.url))
    written.close()
    events = [event for event in events_of(written.path)[0] if isinstance(event, Event)]
    assert [event.event for event in events] == ["opened", "received", "closed"] * 2
    assert [event.conn for event in events] == [1, 1, 1, 2, 2, 2]
    assert "1001" in events[2].reason
    assert events[5].reason == "closed by the recorder"


@pytest.mark.claim("N20", "C8")
def test_N20_C8_a_failure_that_says_a_key_is_recorded_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket.WebSocketFeed, "_report_failure", lambda *_: None)
    kept: list[Event] = []
    feed = recorder.Recorder.__new__(recorder.Recorder)
    monkeypatch.setattr(feed, "record", kept.append, raising=False)
    line: Any = SimpleNamespace(conn=7)
    feed._report_failure(line, ConnectFailed("nobody at wss://venue.test/ws?token=0123456789abcdefgh"))
    assert [(event.event, event.conn) for event in kept] == [("failed", 7)]
    assert "0123456789abcdefgh" not in str(kept)


@pytest.mark.claim("N20", "B1")
def test_N20_a_recorder_keeps_nothing_that_nobody_asks_for() -> None:
    """It goes on for as long as the disk does."""
    heard = recorder.Books(recorder.make_books(sparse=False))
    # An absurd id, and those that go on, one after the other: each is a break.
    ticks = [Tick("s", "S", 1.0, 1.0, NOW + number, number + (10**15 if number % 2 else 0)) for number in range(20)]
    assert [heard.deliver([tick]) for tick in ticks] == [1] * 20
    assert (heard.intake.take_breaks(), heard.intake.take_moved()) == ([], [])


@pytest.mark.claim("N20")
def test_N20_a_recorded_connection_does_what_it_is_asked_for() -> None:
    asked: list[tuple[Any, ...]] = []
    kept: list[Event] = []
    below: Any = SimpleNamespace(
        ping=lambda: asked.append(("ping",)),
        send=lambda text: asked.append(("send", text)),
        pause=lambda: asked.append(("pause",)),
        resume=lambda: asked.append(("resume",)),
        close=lambda: asked.append(("close",)),
    )
    line: Any = SimpleNamespace(conn=7, parser=SimpleNamespace(parse_into=None))
    listening: Any = SimpleNamespace(sent=0, record=kept.append)
    tapped = recorder._TappedConnection(recorder._Tap(listening, line), below)
    tapped.ping()
    tapped.pause()
    tapped.resume()
    tapped.send("hello")
    tapped.close()
    assert asked == [("ping",), ("pause",), ("resume",), ("send", "hello"), ("close",)]
    assert [(event.event, event.conn, event.text) for event in kept] == [("sent", 7, "hello"), ("closed", 7, None)]
    assert listening.sent == 1


@pytest.mark.claim("N20", "N8")
def test_N20_N8_what_is_refused_was_received() -> None:
    """Of a source that sends nothing but what cannot be read it is not said that it sends nothing (exit 10)."""
    kept: Any = SimpleNamespace(received=0, record=lambda event: None)
    line: Any = SimpleNamespace(conn=7, parser=SimpleNamespace(parse_into=None), refuse=lambda *_: None)
    tap = recorder._Tap(kept, line)
    for number in (1, 2):
        tap.refuse("binary", b"\x00")
        assert kept.received == number


@pytest.mark.claim("N20")
def test_N20_a_recorder_waits_for_nobody_who_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    read, written = os.pipe()
    with open(read, "rb") as reader, open(written, "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        command_of_record._tell("seen")
        os.set_blocking(written, False)
        with suppress(BlockingIOError):
            while True:
                os.write(written, b"x" * 65536)
        os.set_blocking(written, True)
        command_of_record._tell("never seen")
        full.close()
        assert reader.read().startswith(b"seen\nxxx")
        command_of_record._tell("to nobody")


@pytest.mark.claim("N20")
@pytest.mark.parametrize(("hole_secs", "heard"), [(60, 1005), (180, 5)])
def test_N20_what_is_behind_a_hole_in_a_recording_is_not_lost_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hole_secs: int, heard: int
) -> None:
    """Who cuts lines out leaves a silence that no session would have heard out."""
    trades = [trade(n, 1, n + (hole_secs * 10**6 if n > 5 else 0)) for n in range(1, 1006)]
    rows, _ = engine_loop.run(replay(write(tmp_path / "r", okx_header(), Event("opened", 1), *answers(), *trades)))
    assert len(rows) == heard
    told = [
        vars(one)["fields"]["messages"] for one in caplog.records if one.message.startswith("the recording goes on")
    ]
    assert told == ([] if heard == 1005 else [1000])


@pytest.mark.claim("N20")
@pytest.mark.parametrize("set_by_secs", [-3600, -1, 0, 1, 3600])
def test_N20_a_clock_that_is_set_makes_no_hole_in_a_recording(
    monkeypatch: pytest.MonkeyPatch, set_by_secs: int
) -> None:
    before, true_ns = recorder.at(), time.time_ns
    assert abs(before - true_ns() // 1000) < 3600 * 10**6
    monkeypatch.setattr(time, "time_ns", lambda: true_ns() + set_by_secs * 10**9)
    assert 0 <= recorder.at() - before < 10**6


@pytest.mark.claim("N20")
def test_N20_a_clock_that_leaps_costs_no_time(tmp_path: Path) -> None:
    years = 20 * 365 * 86_400 * 10**6
    path = write(tmp_path / "r", okx_header(), Event("opened", 1), *answers(), trade(1, 1, 1), trade(2, 1, years))
    began = time.process_time()
    rows, _ = engine_loop.run(replay(path, OPTIONS.model_copy(update={"feed_silence_secs": 0.0})))
    assert ids(rows) == [1, 2]
    assert time.process_time() - began < 2.0


@pytest.mark.claim("N20")
def test_N20_a_wrong_command_line_says_what_is_right(tmp_path: Path) -> None:
    to = ["--to", str(tmp_path / "to")]
    for args, told in (
        ([], "record needs --to DIR"),
        (to, "record needs a source: --source NAME"),
        ([*to, "--source", "a", "--venue", "okx"], "record needs a source"),
        ([*to, "--venue", "mtgox"], "--venue = 'mtgox': venue 'mtgox': allowed are"),
        ([*to, "--venue", "okx"], "okx has to be told which markets"),
        ([*to, "--venue", "okx", "--markets", "btcusdt"], "okx has no market 'btcusdt'"),
        ([*to, "--venue", "okx", "--markets", "BTC-USDT", "--url", "http://x"], "--url = 'http://x'"),
        ([*to, "--venue", "okx", "--markets", "BTC-USDT", "--files", "0"], "--files 0: should be from 1 to"),
        ([*to, "--venue", "okx", "--markets", "BTC-USDT", "--seconds", "nan"], "--seconds nan: should be from"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            command.run(["record", *args], Signals())
    assert not (tmp_path / "to").exists()


def _is_recorded(directory: Path, count: int) -> bool:
    [path] = directory.glob("*.gz")
    return sum(isinstance(event, Event) and event.event == "received" for event in events_of(path)[0]) == count


class Broken(Ears):
    """Books that cannot be kept."""

    def deliver(self, ticks: list[Tick], numbers: Numbers = ()) -> int:
        raise ZeroDivisionError("the books cannot be kept")


@pytest.mark.claim("E3", "M3")
@pytest.mark.parametrize("transport", ["picows", "websockets"])
def test_E3_M3_ticks_that_cannot_be_booked_end_the_run(transport: str) -> None:
    """Nothing that goes wrong within the engine is taken for a failure of the network, after which it would go on."""

    async def listen_in_vain(exchange: Exchange) -> None:
        wanted = schema.Source(name="one", url=exchange.url, kind="mock", priority=0)
        loop = asyncio.get_running_loop()
        connect = websocket.CONNECTS[transport]
        ears = Broken(None, exchange.url)
        await websocket.WebSocketFeed(ears, [wanted], OPTIONS, "S", connect, loop.time, {}, Streams()).run()

    with Exchange() as exchange:
        exchange.feed(interval_secs=0.01)
        with pytest.raises(Crash, match="ingest failed") as caught:
            engine_loop.run(asyncio.wait_for(listen_in_vain(exchange), 20.0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.claim("E3", "M3", "M4")
@pytest.mark.parametrize("transport", ["picows", "websockets"])
def test_E3_M3_M4_after_ticks_that_cannot_be_booked_the_rest_is_drained(transport: str) -> None:
    """As at any other end: the feed is stopped, so that what came before is written and the last line told."""

    async def listen_in_vain(exchange: Exchange) -> None:
        wanted = schema.Source(name="one", url=exchange.url, kind="mock", priority=0)
        now = asyncio.get_running_loop().time
        ears = Broken(None, exchange.url)
        feed = websocket.WebSocketFeed(ears, [wanted], OPTIONS, "S", websocket.CONNECTS[transport], now, {}, Streams())
        with pytest.raises(Crash, match="ingest failed"):
            await feed.run()
        feed.stop()
        await asyncio.wait_for(feed.run(), DEADLINE_SECS)

    with Exchange() as exchange:
        exchange.feed(interval_secs=0.01)
        engine_loop.run(asyncio.wait_for(listen_in_vain(exchange), 20.0))


@pytest.mark.claim("N20")
def test_N20_a_clock_that_was_set_back_costs_no_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was recorded while it was ahead sorts behind what is recorded now, and is the older all the same."""
    fill(tmp_path, 0, file_bytes=1, files=5)
    ahead = sorted(tmp_path.glob("*.gz"))
    now = tape.Tape(tmp_path, okx_header(run="20200101T000000000Z"), file_bytes=1 << 20, files=2)
    now.flush()
    assert not caplog.records
    assert sorted(tmp_path.glob("*.gz")) == sorted([now.path, ahead[-1]])
    now.close()


@pytest.mark.slow
@pytest.mark.claim("N20", "N17")
@pytest.mark.parametrize("transport", ["picows", "websockets"])
def test_N20_N17_what_another_transport_carries_is_recorded_too(tmp_path: Path, transport: str) -> None:
    """Of a server whose upgrade only one of them takes."""

    def script(client: socket.socket, number: int) -> None:
        upgrade(client, connection="keep-alive, Upgrade", and_then=frame(mock_tick(number + 1)))
        client.recv(65536)

    async def listen(url: str, written: tape.Tape) -> None:
        wanted = schema.Source(name="one", url=url, kind="mock", priority=0)
        loop = asyncio.get_running_loop()
        feed = Listening(
            wanted, OPTIONS, "S", websocket.CONNECTS[transport], loop.time, recorder.make_books(sparse=False),
            Streams(), written,
        )  # fmt: skip
        feed.heard = asyncio.Event()
        task = loop.create_task(feed.run())
        await until(lambda: feed.received > 0, feed.heard)
        feed.stop()
        await asyncio.wait_for(task, DEADLINE_SECS)

    written = tape.Tape(tmp_path, okx_header(), file_bytes=1 << 20, files=1)
    with raw_server(script) as server:
        engine_loop.run(asyncio.wait_for(listen(server.url, written), 20.0))
    written.close()
    events = [event.event for event in events_of(written.path)[0] if isinstance(event, Event)]
    assert events[-3:] == ["opened", "received", "closed"]
