"""The scenarios S2 to S12 and their neighbours, under the real unit; S1, S13 and S14 have files of their own
(g3, stop, exit12)."""

from __future__ import annotations

import functools
import itertools
import json
import math
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal

import pytest

from harness.base.clock import OsClock, poll
from harness.base.journal import Entry
from harness.base.waiting import awaiting
from harness.faults import nemesis
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import COUNTED, EngineUnit
from proofs.fixtures.raw_server import TRADE, frame, raw_server, until_closed, upgrade

FAILED_WRITES = 7
RETRY_SECS = 2.0
"""Of a write that failed, at most (D4)."""

LAG_MS_MAX = 500.0
"""Far below the busy timeout of 1000 ms."""

FLUSH_SECS = 0.4
FLUSHES = 5
"""Of which one at least is in time."""

LATE_SECS = 2.0
"""How much later a busy computer may write."""

CLOSES = 4

LIMIT_SECS = 0.3
"""max_backoff_secs, of which many waits are short."""

BACKOFF_SECS = 3.0

SOON_SECS = 1.45
"""How long the first wait for a new connection may be: a second, and a moment for the connection."""

JUMP_MAX = 1_000_000
"""From one id to the next, of which the ids between count as gaps (N9)."""


@pytest.mark.claim("S2", "N3", "N9", "D3")
def test_normalised_ticks(engine: EngineUnit, exchange: Exchange) -> None:
    """What is sent is stored as it is, in time, and once: a trade is its id and its time, whatever else it has."""
    exchange.numbered = True
    exchange.symbol = "SHIB/EUR"
    engine.connect(exchange, persist={"flush_interval_ms": int(FLUSH_SECS * 1000)})
    trades = [
        exchange.tick(number, price, volume=volume, age_secs=90.0)
        for number, price, volume in ((7, 0.00001234, 0.25), (8, 123456.789, 2.0), (9, 124.5, 0.00000001))
    ]
    took = [seconds_to_store(engine, exchange, trades, len(trades))]
    expect_stored(engine, trades)
    # Another id, a number or a text, of which the rest is the same is another trade; so is the same id a millisecond
    # later, or of another market. Three ids are missing, of which one comes late; in a market of its own as many as are
    # counted, and after them one more.
    first, last = json.loads(trades[0]), json.loads(trades[2])
    elsewhere = {**first, "symbol": "SHIB/CHF"}
    others = [
        {**last, "event_id": 10}, {**last, "event_id": "14"}, {**last, "event_id": "x-15"},
        {**last, "event_id": 12}, {**last, "event_id": 15},
        *({**elsewhere, "event_id": number} for number in (1000, 1000 + JUMP_MAX, 1001 + 2 * JUMP_MAX)),
        {**first, "symbol": "SHIB/USD"}, {**first, "ts": first["ts"] + 1},
    ]  # fmt: skip
    trades += map(json.dumps, others)
    exchange.send_raw([*trades[3:], *trades])
    engine.wait_ticks(len(trades))
    beat = engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["duplicates"] == len(trades)).fields
    missing = beat["gaps"] - (JUMP_MAX - 1)
    # What came late may still count.
    engine.expect(
        missing in (2, 3),
        f"after 7, 8, 9, 10, 14, 12 and 15, and {JUMP_MAX - 1} elsewhere, it counts {beat['gaps']} gaps",
    )
    # A trade that is known is known by its id, number or text, and its time, whatever else it has got meanwhile.
    exchange.send_raw(
        [
            json.dumps({**last, **other})
            for other in ({"event_id": "10"}, {"event_id": 14}, {"price": 99.5, "volume": 9.0})
        ]
    )
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["duplicates"] == len(trades) + 3)
    # In a market of its own, whatever else a tick may be: names and ids that differ in case only, a long id, next to
    # nothing of a price, no volume, fields that nobody asked for, and a name that SQL would read otherwise.
    odd = {**first, "symbol": "odd/usd"}
    unusual = [
        {**odd, "event_id": "x-15"}, {**odd, "event_id": "X-15"}, {**odd, "symbol": "ODD/usd", "event_id": "x-15"},
        {**odd, "event_id": 123_456_789_012_345_678}, {**odd, "event_id": "a", "price": 1.23456e-07},
        {**odd, "event_id": 1_700_000_000_000_000_001}, {**odd, "event_id": str(2**63 - 1)},
        {**odd, "event_id": "b", "volume": 0.0}, {**odd, "event_id": "c", "type": "trade"},
        {**odd, "event_id": "d", "side": "buy", "maker": True, "of": {"venue": [1, 2]}},
        {**odd, "event_id": "e"}, {**odd, "event_id": " e"}, {**odd, "symbol": "odd/usd ", "event_id": "e"},
        {**odd, "event_id": "0x7"}, {**odd, "event_id": "1e3"},
        *({**odd, "event_id": f"{'long-' * 20}{end}"} for end in "ab"),
        # All the digits that a number has, and names that other forms of the same signs are.
        *({**odd, "event_id": f"g{price}", "price": price} for price in (67123.123456789, 1_234_567.125, 2e9)),
        *({**odd, "event_id": f"h{volume}", "volume": volume} for volume in (0.123456789012, 98_765_432.25)),
        *({**odd, "symbol": "odd\u00a0\ufb01/usd", "event_id": f"{sign}" } for sign in "\u2460\ufb01"),
        # Of any year, were they seconds elsewhere.
        *({**odd, "event_id": "f", "ts": ts} for ts in (1_700_000_000, 1, 32_503_680_000_000)),
        {**odd, "event_id": "e'); --", "symbol": "o'dd\"\u20ac/?1"},
        # A whole number is a number, and no key has its place.
        {**odd, "event_id": "i", "price": 100, "volume": 2}, dict(reversed({**odd, "event_id": "j"}.items())),
    ]  # fmt: skip
    unusual_trades = [*map(json.dumps, unusual), json.dumps({**odd, "event_id": "k"}, separators=(",", ":"))]
    exchange.send_raw(unusual_trades)
    trades += unusual_trades
    engine.wait_ticks(len(trades))
    # A busy computer is late at times, and not each time.
    while min(took) > 2 * FLUSH_SECS and len(took) < FLUSHES:
        late = json.dumps({**odd, "event_id": f"late-{len(took)}"})
        trades.append(late)
        took.append(seconds_to_store(engine, exchange, [late], len(trades)))
    engine.expect(
        min(took) <= 2 * FLUSH_SECS,
        f"a quiet feed's last ticks are written after {min(took):.1f} s, a flush is due each {FLUSH_SECS} s",
    )
    expect_stored(engine, trades)


def seconds_to_store(engine: EngineUnit, exchange: Exchange, trades: Sequence[str], ticks: int) -> float:
    """How long it takes from when these are sent until there are so many ticks."""
    clock = OsClock()
    began = clock.monotonic()
    exchange.send_raw(trades)
    engine.wait_ticks(ticks)
    return clock.monotonic() - began


def expect_stored(engine: EngineUnit, trades: Sequence[str]) -> None:
    """What was sent, and only that, is there as it was sent."""
    sent = [json.loads(trade) for trade in trades]
    ids = [int(one["event_id"]) if str(one["event_id"]).isdecimal() else None for one in sent]
    due = [(one["symbol"], number, one["price"], one["volume"]) for one, number in zip(sent, ids, strict=True)]
    rows = engine.query("SELECT symbol, trade_id, CAST(price AS REAL), CAST(volume AS REAL) FROM ticks ORDER BY id")
    engine.expect(rows == due, f"what was stored: {rows}")
    times = [int(str(ts)) for (ts,) in engine.query("SELECT ts FROM ticks ORDER BY id")]
    later = [stored - one["ts"] for stored, one in zip(times, sent, strict=True)]
    engine.expect(not any(later), f"the times are not the venue's, but later by {later} ms")


@pytest.mark.slow
@pytest.mark.claim("S3", "N6")
def test_refused_reconnects_back_off(engine: EngineUnit, exchange: Exchange) -> None:
    """Refused for a while: it keeps its distance; then it comes back and goes on without a duplicate. A feed that then
    answers pings and says nothing is left as well."""
    engine.connect(exchange, engine={"max_backoff_secs": 3.0, "feed_silence_secs": 1})
    exchange.send_ticks(5)
    engine.wait_ticks(5)
    with nemesis.refusing(exchange, 503):
        for number in range(1, 5):
            exchange.wait_refusals(number)
        refused = exchange.refusals[:4]
    engine.wait_log("connection failed", lambda entry: entry.fields.get("http_status") == 503)
    # The cut was the first failure, so these are the second to the fourth.
    for failures, (earlier, later) in enumerate(itertools.pairwise(refused), start=2):
        wait, least = later - earlier, min(3.0, 0.5 * 2 ** (failures - 1)) / 2
        word = "a reconnect storm" if wait < 0.25 else "no backoff"
        engine.expect(
            wait >= least, f"{wait:.3f} s between two attempts, not {least:g} s after {failures} failures: {word}"
        )
    exchange.wait_client(connections=2)
    exchange.send_ticks(5, again=5)
    engine.wait_ticks(10)
    engine.expect(engine.tick_count() == 10, f"{engine.tick_count()} ticks of 10: the resent ones count again")
    before = exchange.connections
    # One that has delivered, and one that never did.
    for times in (1, 2):
        dropped = engine.wait_log("connection dropped")
        engine.mark()
        engine.expect("no new tick" in str(dropped.fields["reason"]), f"dropped for {dropped.fields['reason']}")
        exchange.wait_client(connections=before + times)


@pytest.mark.slow
@pytest.mark.claim("N6")
def test_a_first_connection_that_says_nothing_is_left(engine: EngineUnit, exchange: Exchange) -> None:
    engine.connect(exchange, engine={"feed_silence_secs": 0.7})
    dropped = engine.wait_log("connection dropped")
    engine.expect("no new tick" in str(dropped.fields["reason"]), f"dropped for {dropped.fields['reason']}")
    exchange.wait_client(connections=2)


@pytest.mark.slow
@pytest.mark.claim("S3")
def test_a_healthy_connection_begins_the_backoff_anew(engine: EngineUnit, exchange: Exchange) -> None:
    """One that delivers, and for longer than any backoff: what failed before it counts no more."""
    exchange.feed(interval_secs=0.02)
    engine.connect(exchange, engine={"max_backoff_secs": BACKOFF_SECS})
    with nemesis.refusing(exchange, 503):
        exchange.wait_refusals(3)
    exchange.wait_client(connections=2)
    waits = [math.inf]
    # A busy computer is late at times.
    while len(waits) <= 3 and min(waits) > SOON_SECS:
        with awaiting(f"{BACKOFF_SECS} s of a healthy connection"):
            poll(lambda: None, OsClock(), BACKOFF_SECS)
        engine.wait_ticks(engine.tick_count() + 5)
        connected, cut = exchange.connections, time.time()
        exchange.drop_clients()
        exchange.wait_client(connections=connected + 1)
        waits.append(exchange.opened[-1] - cut)
    engine.expect(
        min(waits) <= SOON_SECS, f"{min(waits):.1f} s until it is connected again to one that was healthy: not anew"
    )


@pytest.mark.slow
@pytest.mark.claim("S3")
def test_who_accepts_and_at_once_closes_is_backed_off(engine: EngineUnit) -> None:
    began: list[float] = []

    def script(client: socket.socket, number: int) -> None:
        began.append(time.monotonic())
        upgrade(client)
        if number > CLOSES:
            until_closed(client)

    with raw_server(script) as server:
        feed = {
            "ingest_mode": "MOCK_WS",
            "ws_url": server.url,
            "max_backoff_secs": BACKOFF_SECS,
            "heartbeat_interval_secs": 0.1,
        }
        engine.configure({"engine": {**feed, "max_connects_per_minute": 60_000}})
        engine.start()
        engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields.get("reconnects") == CLOSES)
    for failures, (earlier, later) in enumerate(itertools.pairwise(began[: CLOSES + 1]), start=1):
        wait, least = later - earlier, min(3.0, 0.5 * 2 ** (failures - 1)) / 2
        engine.expect(
            wait >= least, f"{wait:.3f} s after {failures} connections that were closed at once, not {least:g}"
        )


@pytest.mark.slow
@pytest.mark.claim("N5")
def test_a_wait_is_never_longer_than_its_limit(engine: EngineUnit, exchange: Exchange) -> None:
    """Jitter: who lost the same venue at the same moment does not come back to it at the same moment."""
    engine.connect(exchange, engine={"max_backoff_secs": LIMIT_SECS})
    with nemesis.refusing(exchange, 401):
        exchange.wait_refusals(3)
        first, _, third = exchange.refusals[:3]
        took = third - first
        engine.expect(
            took <= 2 * LIMIT_SECS + 1,
            f"{took:.1f} s from one attempt to the next but one, max_backoff_secs is {LIMIT_SECS}",
        )
        exchange.wait_refusals(12)
    waits = [later - earlier for earlier, later in itertools.pairwise(exchange.refusals[3:12])]
    shortest, longest = min(waits), max(waits)
    engine.expect(
        shortest < 0.95 * LIMIT_SECS and longest - shortest > 0.02,
        f"no jitter: waits of {shortest:.3f} to {longest:.3f} s, max_backoff_secs is {LIMIT_SECS}",
    )


@pytest.mark.claim("S4", "N6", "M2")
@pytest.mark.parametrize("pong_secs", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_missed_pong_means_reconnect(engine: EngineUnit, exchange: Exchange, pong_secs: float) -> None:
    """A connection that is up and dead is found without any TCP reset."""
    engine.connect(exchange, engine={"keepalive_secs": 0.3, "pong_timeout_secs": pong_secs})
    # The first connection of a run, and a later one.
    for times in (1, 2) if pong_secs == 1 else (1,):
        began = time.time()
        engine.mark()
        with nemesis.half_open(exchange):
            lost = engine.wait_log("connection dropped")
            engine.expect("pong" in str(lost.fields["reason"]), f"lost because: {lost.fields['reason']}")
            took = lost.realtime_us / 1e6 - began
            # The ping may have been sent just before; a busy computer is late.
            engine.expect(
                pong_secs - 0.1 <= took <= 0.3 + pong_secs + LATE_SECS,
                f"lost after {took:.1f} s: 0.3 s of silence and {pong_secs} s without a pong are due",
            )
            exchange.wait_client(connections=1 + times)
            engine.wait_log("HEARTBEAT (G4)", lambda entry, times=times: entry.fields["reconnects"] == times)  # type: ignore[misc]


NO_TRADES: list[dict[str, object]] = [
    {"type": "heartbeat"}, {"type": "subscribed", "channel": "trades"}, {"type": "kline", "k": {"o": "1.5", "c": 2}},
    {"type": "book", "bids": [[1.5, 2]], "asks": []}, {"type": 7}, {"type": ""},
]  # fmt: skip
"""What is well-formed, and no trade (N8b)."""


def without_a_part(tick: Mapping[str, object]) -> list[str]:
    """A tick that lacks each of its parts, or has there what is of another kind (N8)."""
    others: dict[str, tuple[object, ...]] = {
        "event_id": (None, [], {}, True), "symbol": (None, [], {}, True, 7), "price": (None, {}, ""),
        "volume": ([], {}, True, ""), "ts": (None, [], {}, True, "now"),
    }  # fmt: skip
    lacking = [{key: value for key, value in tick.items() if key != left} for left in others]
    return [json.dumps(one) for one in (*lacking, *({**tick, key: other} for key in others for other in others[key]))]


FLOOD = 1000
LINES_MAX = 50
"""In which an engine may tell of so many unusable messages (N8)."""

SIZE_MAX = 4 << 20
"""Of a message, in bytes (N8)."""


def padded(message: str, size: int) -> str:
    """The same JSON object in so many bytes."""
    return f"{message[:-1]}{' ' * (size - len(message))}}}"


@pytest.mark.claim("S5", "L3", "N8")
def test_malformed_messages_are_counted_and_survived(engine: EngineUnit, exchange: Exchange) -> None:
    engine.connect(exchange, engine={"parse_error_limit": 2 * FLOOD})
    bad: list[str | bytes] = [
        "nonsense",
        "",
        "null",
        "[]",
        '{"event_id": 1}',
        exchange.tick(1, -1.0),
        exchange.tick(2, 0.0),
        b"\x00\x01",
        "{" * 500,
        "[" * 100_000,
        # Half a character is none, however JSON writes it.
        exchange.tick(4).replace(exchange.symbol, "\\ud800"),
        # In a text frame it would be one.
        exchange.tick(4).encode(),
        *(
            exchange.tick(5).replace('"volume": 1.0', f'"volume": {volume}')
            for volume in ("NaN", "Infinity", "-1", "null")
        ),
        # A time that no database holds.
        *(exchange.tick(6).replace('"ts": ', f'"ts": {sign}9223372036854775808, "at": ') for sign in ("", "-")),
        *(exchange.tick(6).replace('"price": 100.0', f'"price": {price}') for price in ("true", "NaN", "1e999", "[]")),
        *without_a_part(json.loads(exchange.tick(10))),
        # More than any number of a computer's holds, and no word for infinity.
        *(exchange.tick(13).replace(f'"{key}": 1', f'"{key}": 1{400 * "0"}') for key in ("price", "volume")),
        *(f"{exchange.tick(11)}{more}" for more in (" garbage", "}", exchange.tick(12), "\0")),
    ]
    ignored = [json.dumps(message) for message in NO_TRADES]
    bad += ["nonsense"] * FLOOD
    engine.mark()
    with nemesis.garbage(exchange, bad):
        exchange.send_raw([*ignored, exchange.tick(3)])
        engine.wait_ticks(1)
    told = [entry.level for entry in engine.whole_journal() if entry.level and entry.event != "HEARTBEAT (G4)"]
    engine.mark()
    beat = engine.wait_log("HEARTBEAT (G4)").fields
    engine.expect(beat["parse_errors"] == len(bad), f"{beat['parse_errors']} parse errors, {len(bad)} were sent")
    engine.expect(beat["ignored"] == len(ignored), f"{beat['ignored']} ignored, {len(ignored)} were sent")
    engine.expect("WARN" in told, f"no warning in the log tells of {len(bad)} unusable messages")
    engine.expect(len(told) <= LINES_MAX, f"{len(told)} lines of the log tell of {len(bad)} unusable messages")
    # At the limit of size and a byte above it, which may cost the connection.
    last = exchange.tick(9, 109.0)
    exchange.send_raw([padded(exchange.tick(7, 107.0), SIZE_MAX)])
    engine.wait_ticks(2)
    exchange.on_connect_send([last])
    exchange.send_raw([padded(exchange.tick(8, 108.0), SIZE_MAX + 1), last])
    engine.wait_ticks(3)
    prices = engine.query("SELECT CAST(price AS REAL) FROM ticks ORDER BY id")
    engine.expect(prices == [(100.0,), (107.0,), (109.0,)], f"with one of over 4 MiB at 108.0, it stored {prices}")
    engine.wait(
        "a heartbeat that counts the message of over 4 MiB as a parse error",
        lambda entry: entry.fields.get("parse_errors") == len(bad) + 1,
    )
    # What is a price, and more than anybody's books can hold.
    exchange.send_raw([exchange.tick(number, 1e300) for number in range(20, 40)])
    engine.wait_ticks(23)
    state = engine.show()
    engine.expect((state.active, state.n_restarts) == ("active", 0), "a malformed message took the engine down")


@pytest.mark.claim("S6", "B1", "B2")
def test_burst_is_no_overload_and_loses_nothing(engine: EngineUnit, exchange: Exchange) -> None:
    """Channels of sixteen, a burst of ten thousand: the socket waits, the engine does not fall over."""
    engine.connect(exchange, channels={"tick_channel_size": 16, "signal_channel_size": 16, "persist_channel_size": 16})
    exchange.send_ticks(10_000)
    engine.wait_ticks(10_000)
    state = engine.show()
    engine.expect((state.active, state.n_restarts) == ("active", 0), "a burst was taken for an overload")


BIG = 256 * 1024
MANY = 300
"""Messages of so many bytes, which together are more than any engine has room for."""

GROWTH_MAX = 24 * 1024
"""Of memory, in KiB, while nobody has room for what the exchange sends."""


@pytest.mark.slow
@pytest.mark.claim("B2")
def test_what_there_is_no_room_for_stays_in_the_socket(engine: EngineUnit) -> None:
    """While nothing can be written, and within the grace: it does not read on into memory."""
    trades = b"".join(frame(padded(TRADE.format(number), BIG)) for number in range(1, MANY))
    locked = threading.Event()

    def script(client: socket.socket, _: int) -> None:
        upgrade(client, and_then=frame(TRADE.format(0)))
        locked.wait(engine.deadline_secs)
        client.sendall(trades)

    with raw_server(script) as server:
        feed = {"ingest_mode": "MOCK_WS", "ws_url": server.url, "heartbeat_interval_secs": 0.2}
        engine.configure(
            {
                "engine": {**feed, "overload_grace_ms": 60_000},
                "channels": {"tick_channel_size": 16, "signal_channel_size": 16, "persist_channel_size": 16},
                "persist": {"flush_interval_ms": 10, "batch_size": 1, "busy_timeout_ms": 1000},
            }
        )
        engine.start()
        engine.wait_ticks(1)
        before = resident_kib(engine)
        with nemesis.locked(engine.database):
            locked.set()
            for _ in range(8):
                engine.mark()
                beat = engine.wait_log("HEARTBEAT (G4)").fields
            grown = resident_kib(engine) - before
        received = beat["ingest_received"]
        engine.expect(received < MANY, f"it has received all of {received} ticks, its channels have room for 48")
        engine.expect(grown <= GROWTH_MAX, f"while nothing can be written it has grown by {grown} KiB")


def resident_kib(engine: EngineUnit) -> int:
    """Memory of its main process that is in RAM, in KiB (proc(5))."""
    status = engine.machine.run("cat", f"/proc/{engine.show().main_pid}/status").expect(0).stdout
    return int(status.partition("VmRSS:")[2].split()[0])


STALE_SECS = (60.0, 2.5, -60.0, -12.0, -4.5)
"""How old ticks are that are too old, or too new, when they may be of 2 s; a busy computer is late."""


@pytest.mark.claim("S7", "L2", "R2")
def test_stale_data_is_vetoed_and_the_veto_persisted(engine: EngineUnit, exchange: Exchange) -> None:
    engine.connect(exchange, engine={"signal_every_n_ticks": 1, "max_staleness_ms": 2000})
    ticks = [exchange.tick(number, age_secs=age) for number, age in enumerate((*STALE_SECS, 1.2))]
    # At the first moment of the clock, and a moment later.
    epochs = [json.dumps({**json.loads(ticks[0]), "event_id": f"epoch {ts}", "ts": ts}) for ts in (0, 1)]
    exchange.send_raw([*epochs, *ticks])
    stale = len(epochs) + len(STALE_SECS)
    engine.wait_rows("SELECT COUNT(*) FROM signals", at_least=stale + 1)
    vetoes = engine.query("SELECT veto FROM signals ORDER BY id")
    engine.expect(vetoes == [*[("STALE_DATA",)] * stale, (None,)], f"vetoes: {vetoes}")
    engine.wait_rows("SELECT COUNT(*) FROM orders", at_least=1)
    engine.expect(engine.query("SELECT COUNT(*) FROM orders") == [(1,)], "a stale signal became an order")
    beat = engine.wait(
        "a heartbeat that counts all stale vetoes", lambda entry: entry.fields.get("stale_vetoes") == len(vetoes) - 1
    ).fields
    engine.expect(beat["risk_vetoes"] == 0, f"{beat['risk_vetoes']} vetoes of risk caps, which are all of stale data")


@pytest.mark.claim("N14", "R2")
def test_a_venue_clock_that_vetoes_everything_is_told(engine: EngineUnit, exchange: Exchange) -> None:
    """Ahead, then behind, then well again; and a stray trade from the future is none of it."""
    engine.connect(exchange, engine={"signal_every_n_ticks": 1})
    number = 0

    def trade(age_secs: float) -> None:
        nonlocal number
        number += 1
        exchange.send_raw([exchange.tick(number, age_secs=age_secs)])
        # Written at the earliest 10 ms later, so that no two come at the same moment.
        engine.wait_ticks(number)

    first = engine.wait_log("HEARTBEAT (G4)").fields
    engine.expect(first["clock_skew_ms"] is None, f"clock_skew_ms before the first tick: {first['clock_skew_ms']}")
    trade(0.0)
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["clock_skew_ms"] is not None)
    for age_secs, word in ((-62.0, "ahead"), (62.0, "behind")):
        trade(age_secs)
        trade(age_secs)
        engine.wait(
            f"the warning that the venue's clock is {word}",
            lambda entry, word=word: entry.level == "WARN" and word in entry.event,  # type: ignore[misc]
        )
        engine.mark()
        skew_ms = engine.wait_log("HEARTBEAT (G4)").fields["clock_skew_ms"]
        engine.expect(skew_ms / -age_secs > 900, f"clock_skew_ms is {skew_ms}, the venue {-age_secs:g} s ahead")
    trade(0.0)
    engine.wait("the word that it is over", lambda entry: entry.level == "INFO" and "clock" in entry.event)
    engine.mark()
    for age_secs in (0.0, -86_400.0, 0.0):
        trade(age_secs)
    later = itertools.count(1)
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["tick_count"] == number and next(later) == 2)
    for beat in engine.journal():
        skew_ms = beat.fields.get("clock_skew_ms", 0)
        engine.expect(abs(skew_ms) < 5000, f"clock_skew_ms is {skew_ms} after a stray trade from tomorrow")
    vetoes = engine.query("SELECT veto FROM signals ORDER BY id")
    stale, well = ("STALE_DATA",), (None,)
    engine.expect(vetoes == [well, *[stale] * 4, well, well, stale, well], f"vetoes: {vetoes}")


@pytest.mark.claim("B5")
def test_no_peer_names_more_symbols_than_a_run_takes(engine: EngineUnit, exchange: Exchange) -> None:
    engine.connect(exchange, engine={"signal_every_n_ticks": 1})
    trades = []
    for number in range(1, 4096 + 500 + 1):
        exchange.symbol = f"{number:0128}"
        trades.append(exchange.tick(number))
    exchange.send_raw(trades)
    word = engine.wait_log("trade of a market that nobody asked for")
    told = str(word.fields["market"])
    engine.expect(any(f"{number:0128}" in told for number in range(4097, 4597)), f"the log says {word.fields}")
    engine.wait_log(
        "HEARTBEAT (G4)", lambda entry: (entry.fields["tick_count"], entry.fields["foreign"]) == (4096, 500)
    )
    engine.wait_ticks(4096)
    counted = engine.query("SELECT COUNT(*), COUNT(DISTINCT symbol) FROM ticks")
    engine.expect(counted == [(4096, 4096)], f"ticks and symbols: {counted}")


@pytest.mark.claim("S8", "R1")
def test_same_ticks_same_signals_in_a_fresh_process(engine: EngineUnit, exchange: Exchange) -> None:
    """The same prices twice, each time to a process and a database of its own."""
    prices = [100.0, 101.0, 103.0, 99.0, 97.0, 98.0, 104.0, 108.0, 96.0, 95.0, 110.0, 90.0]
    runs = []
    for name in ("first", "second"):
        engine.connect(
            exchange,
            app={"db_path": f"data/{name}.db"},
            strategy={"name": "sma_crossover", "sma_short": 2, "sma_long": 4},
        )
        exchange.send_raw([exchange.tick(number, price) for number, price in enumerate(prices, start=1)])
        database = engine.database.with_name(f"{name}.db")
        engine.wait_rows("SELECT COUNT(*) FROM ticks", at_least=len(prices), database=database)
        engine.stop()
        runs.append(engine.query("SELECT tick_id, side, reason, price FROM signals ORDER BY id", database))
    engine.expect(len(runs[0]) >= 2, f"too few signals to compare: {runs[0]}")
    engine.expect(runs[0] == runs[1], f"other signals for the same ticks: {runs}")


@pytest.mark.claim("S9", "R4", "R5", "D3")
def test_shadow_orders_are_recorded_with_their_assumptions(engine: EngineUnit, exchange: Exchange) -> None:
    exchange.symbol = "ETH/EUR"
    engine.connect(
        exchange,
        engine={"signal_every_n_ticks": 1},
        execution={"slippage_bps": 12.5, "fee_rate": 0.001, "order_size": 0.5000000000009},
        # Nothing has to wait for the next flush when a batch is full.
        persist={"batch_size": 1, "flush_interval_ms": 60_000},
    )  # fmt: skip
    prices = (200.0, 300.0, 0.12345603, 0.1237)
    exchange.send_raw([exchange.tick(number, price) for number, price in enumerate(prices, start=1)])
    engine.wait_rows("SELECT COUNT(*) FROM trades", at_least=len(prices))
    fills = engine.query("SELECT side, is_shadow, fill_qty, fill_price, fees FROM trades ORDER BY id")
    symbols = engine.query("SELECT DISTINCT symbol FROM trades")
    engine.expect(symbols == [(exchange.symbol,)], f"fills of {exchange.symbol} are of {symbols}")
    # Slippage of 12.5 basis points against us, whether we sell, as the first periodic signal does (R1), or buy.
    # Of the third the price, and of the last the fees, are as far from what is above as from what is below, and the
    # quantity is cut down, however near it is to what is above (R5).
    wanted = [
        ("SELL", 1, "0.5", "199.75", "0.099875"), ("BUY", 1, "0.5", "300.375", "0.1501875"),
        ("SELL", 1, "0.5", "0.123301709962", "0.000061650855"), ("BUY", 1, "0.5", "0.123854625", "0.000061927312"),
    ]  # fmt: skip
    engine.expect(
        [(*fill[:2], *(Decimal(str(figure)) for figure in fill[2:])) for fill in fills]
        == [(*fill[:2], *map(Decimal, fill[2:])) for fill in wanted],
        f"side, is_shadow, quantity, price and fees of the fills: {fills}",
    )
    events = engine.query("SELECT status, reason FROM order_events")
    engine.expect(events == [("FILLED", "SHADOW_RECORDED")] * len(prices), f"events of the orders: {events}")
    named = engine.query(
        "SELECT count(DISTINCT order_id) FROM orders JOIN order_events USING (order_id) JOIN trades USING (order_id)"
    )
    engine.expect(named == [(len(prices),)], f"of {len(prices)} orders, transition and fill name {named}")
    signals = engine.query(
        "SELECT CAST(ticks.price AS REAL), CAST(signals.price AS REAL), side, reason, veto"
        " FROM signals JOIN ticks ON ticks.id = tick_id ORDER BY signals.id"
    )
    due = [
        (price, price, side, "PERIODIC_TRIGGER", None) for price, side in zip(prices, ("SELL", "BUY") * 2, strict=True)
    ]
    engine.expect(signals == due, f"signals, with the prices of their ticks: {signals}")


@pytest.mark.slow
@pytest.mark.claim("R4", "C4")
def test_what_is_configured_as_0_is_0(engine: EngineUnit) -> None:
    """Wherever it may be: neither left out nor the default, and nor is what is configured otherwise."""
    walk = {"start_price": 42, "price_step": 0, "volume": 0, "tick_interval_ms": 2, "signal_every_n_ticks": 1}
    engine.configure({"app": {"symbol": "ETH/EUR"}, "engine": walk, "execution": {"fee_rate": 0, "slippage_bps": 0}})
    engine.start()
    engine.wait_rows("SELECT COUNT(*) FROM trades", at_least=4)
    figures = engine.query(
        "SELECT DISTINCT ticks.symbol, CAST(ticks.price AS REAL), CAST(volume AS REAL), CAST(fill_price AS REAL),"
        " CAST(fees AS REAL) FROM ticks, trades"
    )
    engine.expect(
        figures == [("ETH/EUR", 42.0, 0.0, 42.0, 0.0)], f"symbol, price, volume, price of the fill and fees: {figures}"
    )


@pytest.mark.claim("S10", "S11", "R4")
def test_paper_orders_live_through_partial_fills(engine: EngineUnit, exchange: Exchange) -> None:
    """One order of 1.0 against trades of 0.4: two partial fills and the rest, every transition persisted."""
    engine.connect(exchange, "PAPER", engine={"signal_every_n_ticks": 4}, execution={"order_size": 1.0})
    for number in range(1, 8):
        exchange.send_raw([exchange.tick(number, volume=0.4)])
        engine.wait_ticks(number)
    engine.wait_rows("SELECT COUNT(*) FROM order_events WHERE status = 'FILLED'", at_least=1)
    events = engine.query("SELECT status, filled_qty FROM order_events ORDER BY order_id, seq")
    engine.expect(
        [status for status, _ in events][:5] == ["SUBMITTED", "ACKNOWLEDGED", "PARTIAL_FILL", "PARTIAL_FILL", "FILLED"],
        f"transitions: {events}",
    )
    quantities = engine.query("SELECT CAST(fill_qty AS REAL) FROM trades ORDER BY id")
    engine.expect(quantities[:3] == [(0.4,), (0.4,), (0.2,)], f"fills: {quantities}")
    held = engine.query("SELECT qty FROM positions")
    engine.expect(float(str(held[0][0])) == -1.0, f"exposure is not counted once: {held}")


@pytest.mark.claim("S12", "D4", "D5", "L3")
def test_locked_database_is_waited_for(engine: EngineUnit, exchange: Exchange) -> None:
    engine.connect(exchange)
    exchange.send_ticks(10)
    engine.wait_ticks(10)
    # A backup, or an operator's own table: between batches the database is nobody's.
    refused = nemesis.refusal(engine.database, "BEGIN IMMEDIATE", LATE_SECS)
    engine.expect(refused is None, f"of a quiet feed, and another process cannot write for {LATE_SECS:g} s: {refused}")
    with nemesis.locked(engine.database):
        began = time.time()
        exchange.send_ticks(50)
        told = engine.wait(
            "the word that a batch could not be written", lambda e: e.level == "WARN" and "lock" in e.message
        )
        waited = told.sent_us / 1e6 - began
        engine.expect(
            0.9 <= waited <= 1 + LATE_SECS, f"it gave up a write after {waited:.3f} s of a lock: busy_timeout is 1 s"
        )
        engine.mark()
        beat = engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["ingest_received"] == 60).fields
        engine.expect(
            beat["tick_rows_written"] <= 10, f"it says that {beat['tick_rows_written']} of 10 rows are written"
        )
        rows = sum(map(engine.row_count, (*COUNTED, "order_events")))
        engine.expect(beat["persist_count"] <= rows, f"persist_count is {beat['persist_count']}, there are {rows} rows")
    engine.wait_ticks(60)
    state = engine.show()
    engine.expect((state.active, state.n_restarts) == ("active", 0), "a lock took the engine down")
    engine.mark()
    beat = engine.wait_log("HEARTBEAT (G4)").fields
    engine.expect(beat["persist_errors"] > 0, "the failed write was not counted")
    engine.expect(beat["ingest_received"] == 60, f"{beat['ingest_received']} of 60 received")


def fails_so_often(times: int, beat: Entry) -> bool:
    """Whether it is a heartbeat that counts so many failed writes."""
    return bool(beat.fields["persist_errors"] >= times)


@pytest.mark.slow
@pytest.mark.claim("S12", "D4", "L3", "B3")
def test_locked_database_is_waited_for_however_often_that_fails(engine: EngineUnit, exchange: Exchange) -> None:
    """What cannot be written is neither given up nor written at long last: each attempt is soon after the last, and as
    patient as the first. Signals and orders are made meanwhile, and the loop is not late."""
    engine.connect(exchange, engine={"signal_every_n_ticks": 10})
    exchange.send_ticks(10)
    engine.wait_ticks(10)
    engine.mark()
    clock = OsClock()
    with nemesis.locked(engine.database):
        exchange.send_ticks(50)
        first = clock.monotonic()
        for failures in range(1, FAILED_WRITES + 1):
            if failures == 2:
                # While a batch waits already.
                exchange.send_ticks(20)
            began = clock.monotonic()
            beat = engine.wait_log("HEARTBEAT (G4)", functools.partial(fails_so_often, failures)).fields
            took = clock.monotonic() - began
            engine.expect(
                took <= 1 + RETRY_SECS + LATE_SECS,
                f"attempt {failures} fails {took:.1f} s after the one before it: busy_timeout is 1 s",
            )
            dropped = {name: count for name, count in beat.items() if name.startswith("bp_drops_") and count}
            engine.expect(not dropped, f"it drops rows after {failures} failed attempts: {dropped}")
        took = clock.monotonic() - first
        least = 0.9 * FAILED_WRITES - LATE_SECS
        engine.expect(
            took >= least, f"{FAILED_WRITES} attempts fail within {took:.1f} s: busy_timeout is 1 s each time"
        )
        made = {name: beat[name] for name in ("tick_count", "signal_count", "shadow_orders")}
        due = {"tick_count": 80, "signal_count": 8, "shadow_orders": 8}
        engine.expect(made == due, f"while nothing can be written it has made {made} of {due}")
        lag_ms = beat["loop_lag_ms_p99"]
        engine.expect(lag_ms <= LAG_MS_MAX, f"a write that fails again and again makes the loop {lag_ms} ms late")
        told = [entry for entry in engine.journal() if entry.level == "WARN" and "lock" in entry.message]
    engine.expect(len(told) > 1, f"{FAILED_WRITES} attempts failed, and {len(told)} warnings tell of them")
    engine.wait_ticks(80)
    engine.stop()
    engine.expect(engine.tick_count() == 80, f"of 80 ticks {engine.tick_count()} are written after the lock")


@pytest.mark.claim("L4", "R4")
def test_what_cannot_be_booked_is_rejected_logged_and_persisted(engine: EngineUnit, exchange: Exchange) -> None:
    """A price below the smallest that accounts can hold: no order is made of it, and nobody has to guess why."""
    engine.connect(exchange, engine={"signal_every_n_ticks": 1})
    exchange.send_raw([exchange.tick(1, 1e-15), exchange.tick(2, 100.0)])
    rejected = engine.wait_log("order rejected")
    engine.expect(
        rejected.level == "ERROR" and "price" in str(rejected.fields["detail"]), f"the log says {rejected.message}"
    )
    engine.wait_rows("SELECT COUNT(*) FROM trades", at_least=1)
    events = engine.query("SELECT status, detail FROM order_events ORDER BY order_id, seq")
    engine.expect([status for status, _ in events] == ["REJECTED", "FILLED"], f"transitions: {events}")
    engine.expect("price" in str(events[0][1]), f"the reason is not persisted: {events}")


@pytest.mark.claim("D4", "L3")
def test_full_disk_is_waited_for(engine: EngineUnit, exchange: Exchange) -> None:
    """The disk fills up while the engine runs, and has room again later: nothing that was received is lost."""
    disk = engine.machine.layout.disk
    # systemd makes the state directory, in which the disk may be, at the first start.
    engine.try_start()
    with nemesis.small_disk(engine.machine, disk, "1m"):
        engine.connect(exchange, app={"db_path": f"{disk}/bot.db"})
        with nemesis.full_disk(engine.machine, disk):
            # Fewer than the persist channel holds: more would be an overload (B2).
            exchange.send_ticks(300)
            engine.wait(
                "the word that a batch could not be written", lambda e: e.level == "WARN" and "full" in e.message
            )
        engine.wait_log(
            "HEARTBEAT (G4)", lambda e: e.fields["tick_rows_written"] == 300 and e.fields["persist_errors"] > 0
        )
        state = engine.show()
        engine.expect((state.active, state.n_restarts) == ("active", 0), "a full disk took the engine down")
        engine.stop()
        # The disk is the machine's own mount; where a stop leaves a WAL, that belongs to the database.
        copy = f"{engine.machine.layout.state}/copy"
        engine.machine.run("cp", "-r", disk, copy).expect(0)
    ((stored,),) = engine.query("SELECT COUNT(*) FROM ticks", engine.machine.path(f"{copy}/bot.db"))
    engine.expect(stored == 300, f"it says that 300 rows are written, and {stored} are")


BOTH = """
[[source]]
name = "better"
url = "{better}"
kind = "trade"
priority = 1

[[source]]
name = "other"
url = "{other}"
kind = "trade"
priority = 99
"""


def connect_to_both(engine: EngineUnit, better: Exchange, other: Exchange, **options: object) -> None:
    for exchange in (better, other):
        exchange.feed(interval_secs=0.02)
    engine.configure_sources(BOTH.format(better=better.url, other=other.url))
    engine.configure(
        {
            "engine": {
                "ingest_mode": "REAL_WS", "max_backoff_secs": 0.2, "heartbeat_interval_secs": 0.2,
                "max_connects_per_minute": 60_000, **options,
            },
            "persist": {"flush_interval_ms": 10},
        }
    )  # fmt: skip
    engine.start()
    wait_source(engine, "better")


def wait_source(engine: EngineUnit, name: str) -> None:
    """Ticks of this source go on arriving."""
    engine.mark()
    first = engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["source"] == name).fields["tick_count"]
    engine.wait_log(
        "HEARTBEAT (G4)", lambda entry: entry.fields["source"] == name and entry.fields["tick_count"] > first
    )


@pytest.mark.slow
@pytest.mark.claim("N4", "N5")
def test_a_venue_that_refuses_is_left_and_come_back_to(engine: EngineUnit, exchange: Exchange, other: Exchange) -> None:
    """HTTP 451, as the seed saw it, and then a closed port: each time the next source, and back when the better is."""
    connect_to_both(engine, exchange, other)
    with nemesis.refusing(exchange, 451):
        engine.wait_log("connection failed", lambda entry: entry.fields.get("http_status") == 451)
        wait_source(engine, "other")
    wait_source(engine, "better")
    with nemesis.unreachable(exchange):
        wait_source(engine, "other")
    wait_source(engine, "better")
    engine.expect(engine.show().n_restarts == 0, "a venue that refuses took the engine down")


@pytest.mark.slow
@pytest.mark.claim("N4", "N6")
def test_a_mute_venue_is_left_although_it_answers_pings(
    engine: EngineUnit, exchange: Exchange, other: Exchange
) -> None:
    connect_to_both(engine, exchange, other, feed_silence_secs=0.8, keepalive_secs=0.2, pong_timeout_secs=5)
    with nemesis.silent(exchange):
        dropped = engine.wait_log("connection dropped", lambda entry: entry.fields["source"] == "better")
        engine.expect("no new tick" in str(dropped.fields["reason"]), f"dropped for {dropped.fields['reason']}")
        wait_source(engine, "other")
    wait_source(engine, "better")
