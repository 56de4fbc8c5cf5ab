"""sampling: of what the exchange sent, every Nth tick is processed, exactly, across reconnects (contract N7, N9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from harness.evidence import checkers
from harness.faults import nemesis
from harness.faults.dialects import BinanceDialect
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit

CUTS = 3
PART = 151
"""Ticks before each cut and after the last. It is odd and no multiple of 5, so that whoever counts from another tick on
comes to another number."""

STEP = 0.25
"""Each tick costs that much more than the one before, so that a price says which tick it was of."""


@pytest.mark.claim("sampling", "N7", "N9", "S3")
@pytest.mark.parametrize("every", [1, 5, 10, 20])
def test_processed_is_received_over_n_across_reconnects(engine: EngineUnit, exchange: Exchange, every: int) -> None:
    feed = {"ingest_mode": "MOCK_WS", "ws_url": exchange.url}
    sample(engine, exchange, every, feed, ['{"type": "heartbeat"}', "nonsense", '{"type": "subscribed"}'])


@pytest.mark.slow
@pytest.mark.claim("sampling", "N7")
def test_made_up_ticks_are_sampled_as_well(engine: EngineUnit) -> None:
    engine.configure({"engine": {"tick_interval_ms": 5, "sample_every": 7, "run_seconds": 1}})
    engine.start()
    engine.wait_end()
    final = engine.wait_log("FINAL METRICS").fields
    engine.expect(final["ingest_received"] >= 7, f"{final['ingest_received']} ticks were made in a second")
    engine.expect_judged(checkers.sampling_is_exact([checkers.Heartbeat(1, final, 7)]))
    stored = engine.tick_count()
    engine.expect(stored == final["ingest_processed"], f"{final['ingest_processed']} were processed, {stored} stored")


@pytest.mark.slow
@pytest.mark.claim("N6", "N7")
def test_a_feed_of_which_little_is_processed_is_not_mute(engine: EngineUnit, exchange: Exchange) -> None:
    exchange.feed(interval_secs=0.05)
    engine.connect(exchange, engine={"sample_every": 1000, "feed_silence_secs": 0.7})
    wait_received(engine, 50)
    engine.expect(exchange.connections == 1, f"a feed that brings new ticks was left {exchange.connections - 1} times")


@pytest.mark.claim("sampling", "N4", "N7", "N9")
def test_the_same_of_a_venue(engine: EngineUnit, exchange: Exchange) -> None:
    exchange.speak(BinanceDialect())
    engine.configure_sources(
        f'[[source]]\nname = "binance"\nvenue = "binance"\nurl = "{exchange.url}/ws"\npriority = 1\n'
        'markets = { BTCUSDT = "BTC/USD" }\n'
    )
    sample(engine, exchange, 5, {"ingest_mode": "REAL_WS"})


LONG = 70_000
"""Ticks of a long run: more than 16 bits count."""

RARELY = 150
"""One in so many is processed of it."""

TEXTS = 20_000
"""Ticks of textual ids behind it, a part of what is remembered of one market (B5)."""

MISSING = 5
LATE = 200
"""Trades that come once more at its end: of the first ones, and of those after the reconnect."""


@pytest.mark.slow
@pytest.mark.claim("sampling", "N7", "N9")
def test_a_long_run_is_sampled_as_a_short_one(engine: EngineUnit, exchange: Exchange) -> None:
    """What came long ago is known, and where the ids were when the connection was lost."""
    exchange.numbered = True
    engine.connect(exchange, engine={"sample_every": RARELY})
    half = LONG // 2
    exchange.send_ticks(half)
    wait_received(engine, half)
    with nemesis.disconnected(exchange):
        engine.wait_log("connection lost")
    exchange.wait_client(connections=2)
    again = [exchange.tick(number) for number in range(1, LATE // 2 + 1)]
    exchange.number_from(half + 1 + MISSING)
    exchange.send_ticks(half)
    exchange.send_raw([*again, *(exchange.tick(half + 1 + MISSING + number) for number in range(LATE // 2))])
    wait_received(engine, LONG)
    beat = engine.wait_log("HEARTBEAT (G4)", lambda e: e.fields["ticks_parsed"] >= LONG + LATE).fields
    engine.expect(beat["ingest_received"] == LONG, f"{beat['ingest_received']} of {LONG} received")
    engine.expect(beat["duplicates"] == LATE, f"{beat['duplicates']} of {LATE} that came again are duplicates")
    engine.expect(beat["gaps"] == MISSING, f"{beat['gaps']} gaps, where {MISSING} ids are missing after a reconnect")
    engine.wait_ticks(LONG // RARELY)
    stored = [int(str(number)) for (number,) in engine.query("SELECT trade_id FROM ticks ORDER BY id")]
    due = [number + (MISSING if number > half else 0) for number in range(RARELY, LONG + 1, RARELY)]
    engine.expect(stored == due, differing(stored, due))
    # Of texts, which nobody can put in order, fewer are remembered.
    exchange.numbered, texts = False, exchange.sent + 1 + MISSING
    exchange.send_ticks(TEXTS)
    exchange.send_raw(map(exchange.tick, range(texts, texts + LATE)))
    parsed = LONG + LATE + TEXTS + LATE
    beat = engine.wait_log("HEARTBEAT (G4)", lambda e: e.fields["ticks_parsed"] >= parsed).fields
    engine.expect(
        beat["duplicates"] == 2 * LATE, f"{beat['duplicates'] - LATE} of {LATE} textual ids that came again were known"
    )


def wait_received(engine: EngineUnit, count: int) -> None:
    engine.wait_log("HEARTBEAT (G4)", lambda entry: entry.fields["ingest_received"] >= count)


def differing(stored: Sequence[int], due: Sequence[int]) -> str:
    """Which ticks are there, and which should be."""
    first = [pair for pair in zip(stored, due, strict=False) if pair[0] != pair[1]][:3]
    return f"{len(stored)} ticks are stored, {len(due)} are due; the first that differ: {first} (stored, due)"


def sample(
    engine: EngineUnit, exchange: Exchange, every: int, feed: Mapping[str, object], between: Sequence[str] = ()
) -> None:
    """Start, cut the connection some times, each time with ticks that come twice, stop; and count."""
    engine.configure(
        {
            "engine": {**feed, "sample_every": every, "max_backoff_secs": 0.1, "max_connects_per_minute": 60_000},
            "persist": {"flush_interval_ms": 10},
        }
    )
    engine.start()
    for part in range(CUTS + 1):
        exchange.wait_client(connections=part + 1)
        # What is no tick counts for nothing here.
        exchange.send_raw(between)
        exchange.send_ticks(PART, step=STEP, again=120 if part else 0)
        engine.wait_ticks(exchange.sent // every)
        if part < CUTS:
            with nemesis.disconnected(exchange):
                engine.wait_log("connection lost")
            engine.mark()
    engine.stop()
    final = engine.wait_log("FINAL METRICS").fields
    ticks = PART * (CUTS + 1)
    engine.expect(exchange.sent == ticks, f"the exchange sent {exchange.sent} distinct ticks, not {ticks}")
    engine.expect(final["ingest_received"] == exchange.sent, f"{final['ingest_received']} of {exchange.sent} received")
    engine.expect_judged(checkers.sampling_is_exact([checkers.Heartbeat(1, final, every)]))
    engine.expect(final["duplicates"] == exchange.sent_again > 0, f"duplicates: {final['duplicates']}")
    engine.expect(final["reconnects"] >= CUTS, f"{final['reconnects']} reconnects, {CUTS} cuts")
    stored = [
        round((float(str(price)) - 100.0) / STEP) for (price,) in engine.query("SELECT price FROM ticks ORDER BY id")
    ]
    due = list(range(every, ticks + 1, every))
    engine.expect(stored == due, differing(stored, due))
