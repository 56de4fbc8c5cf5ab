"""Under the real unit: one venue after the other is left for the next, and each symbol stays what it is."""

from __future__ import annotations

import pytest

from harness.faults.dialects import CoinbaseDialect, KrakenDialect, OKXDialect
from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit

NOW = 1_764_000_000_000

SOURCES = """
[[source]]
name = "binance"
venue = "binance"
url = "{binance}/ws"
priority = 1
markets = {{ BTCUSDT = "BTC/USD", ETHUSDT = "ETH/USD" }}

[[source]]
name = "okx"
venue = "okx"
url = "{okx}"
priority = 2
markets = {{ "BTC-USDT" = "BTC/USD", "ETH-USDT" = "ETH/USD" }}

[[source]]
name = "coinbase"
venue = "coinbase"
url = "{coinbase}"
priority = 3
markets = {{ "BTC-USD" = "BTC/USD", "ETH-USD" = "ETH/USD" }}

[[source]]
name = "kraken"
venue = "kraken"
url = "{kraken}"
priority = 4
markets = {{ "BTC/USD" = "BTC/USD", "ETH/USD" = "ETH/USD" }}
"""


@pytest.mark.claim("N18", "N4", "N9", "N10", "N12")
def test_a_failover_from_venue_to_venue_keeps_names_ids_and_books(engine: EngineUnit) -> None:
    """Binance answers 451; OKX has no such market; Coinbase delivers until it is gone; Kraken goes on. The venues' ids
    overlap, a trade is lost at each, and one comes twice."""
    with Exchange() as binance, Exchange() as okx, Exchange() as coinbase, Exchange() as kraken:
        binance.refuse(451)
        okx.speak(OKXDialect("BTC-USDT"))
        coinbase.speak(first := CoinbaseDialect())
        kraken.speak(second := KrakenDialect())
        engine.configure_sources(
            SOURCES.format(binance=binance.url, okx=okx.url, coinbase=coinbase.url, kraken=kraken.url)
        )
        engine.configure(
            {
                "engine": {
                    "ingest_mode": "REAL_WS", "signal_every_n_ticks": 1, "heartbeat_interval_secs": 0.1,
                    "max_staleness_ms": 3 * 10**11,
                    # All of them are on one host here, which has one budget (N15).
                    "max_connects_per_minute": 6000,
                },
                "persist": {"flush_interval_ms": 10},
                "risk_caps": {"max_exposure_usd": 10**9, "max_symbol_exposure_usd": 10**9},
            }
        )  # fmt: skip
        engine.start()
        rejected = engine.wait_log("connection dropped", lambda entry: entry.fields["source"] == "okx").fields
        engine.expect(
            rejected["reason"]
            == "subscription rejected: 60018: Wrong URL or channel:trades,instId:ETH-USDT doesn't exist.",
            f"the log does not have the venue's words: {rejected}",
        )
        coinbase.wait_heard(1)
        coinbase.send_raw(
            [
                *(first.trade("BTC-USD", number, "90000.01", "0.5", NOW + number) for number in (1, 2, 4, 4)),
                *(first.trade("ETH-USD", number, "3000.07", "2", NOW + number) for number in (1, 2)),
                first.trade("SOL-USD", 1, "140", "1", NOW),
                *first.heartbeats,
            ]
        )
        engine.wait_ticks(5)
        engine.wait("the venue's words in the status", lambda _: "60018: Wrong URL" in engine.property("StatusText"))
        coinbase.close_port()
        kraken.wait_heard(1)
        rows = [(1, "90001.02", "0.25", NOW + 10), (2, "90001.03", "0.25", NOW + 11), (5, "90001.04", "1", NOW + 12)]
        kraken.send_raw([*second.trades("BTC/USD", rows), second.trade("ETH/USD", 2, "3001.5", "1", NOW + 13)])
        engine.wait_ticks(9)
        engine.stop()
    final = engine.wait_log("FINAL METRICS").fields
    books = {name: final[name] for name in ("ingest_received", "duplicates", "gaps", "foreign", "parse_errors")}
    engine.expect(
        books == {"ingest_received": 9, "duplicates": 1, "gaps": 3, "foreign": 1, "parse_errors": 0}, f"books: {books}"
    )
    by_market = {name: final[name] for name in ("gaps_by_market", "duplicates_by_market")}
    engine.expect(
        by_market
        == {
            "gaps_by_market": {
                "coinbase BTC-USD": 1, "coinbase ETH-USD": 0, "kraken BTC/USD": 2, "kraken ETH/USD": 0,
            },
            "duplicates_by_market": {
                "coinbase BTC-USD": 1, "coinbase ETH-USD": 0, "kraken BTC/USD": 0, "kraken ETH/USD": 0,
            },
        },
        f"by market: {by_market}",
    )  # fmt: skip
    stored = engine.query(
        "SELECT sources.name, symbol, trade_id, price, volume FROM ticks JOIN sources ON sources.id = ticks.source"
        " ORDER BY ticks.id"
    )
    bitcoin, ether = "BTC/USD", "ETH/USD"
    engine.expect(
        sorted(stored)
        == sorted(
            [
                *(("coinbase", bitcoin, number, 90000.01, 0.5) for number in (1, 2, 4)),
                *(("coinbase ETH-USD", ether, number, 3000.07, 2.0) for number in (1, 2)),
                *(("kraken", bitcoin, number, float(price), float(size)) for number, price, size, _ in rows),
                ("kraken ETH/USD", ether, 2, 3001.5, 1.0),
            ]
        ),
        f"what was stored: {stored}",
    )
    fills = engine.query("SELECT symbol, count(*) FROM trades GROUP BY symbol ORDER BY symbol")
    engine.expect(fills == [(bitcoin, 6), (ether, 3)], f"fills by symbol: {fills}")
