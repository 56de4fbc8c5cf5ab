"""Under the real unit: a venue whose trade ids start over (N11), one connection with several markets (N12)."""

from __future__ import annotations

import json

import pytest

from harness.faults.exchange import Exchange
from proofs.fixtures.engine_unit import EngineUnit

ABSURD = 2**63 - 1

SOURCE = """
[[source]]
name = "both"
url = "{url}/stream?streams=btcusdt@trade/ethusdt@trade"
venue = "binance"
priority = 1
markets = {{BTCUSDT = "BTC/USDT", ETHUSDT = "ETH/USDT"}}
"""

BREAK = "trade ids do not go on from where they were"


@pytest.mark.claim("N11", "S3")
def test_a_venue_that_starts_its_ids_over_is_not_mute(engine: EngineUnit, exchange: Exchange) -> None:
    """One absurd id, a restart, the ids once more: each trade is stored once, a resend is not, each break is told."""
    exchange.numbered = True
    exchange.number_from(5_000)
    engine.connect(exchange, engine={"signal_every_n_ticks": 1})
    exchange.send_ticks(20)
    exchange.send_raw([exchange.tick(ABSURD)])
    exchange.send_ticks(20, again=20)
    engine.wait_ticks(41)
    told = engine.wait_log(BREAK).fields
    engine.expect((told["old_id"], told["new_id"]) == (5_019, ABSURD), f"the outlier was told as {told}")
    engine.stop()
    gaps = engine.wait_log("FINAL METRICS").fields["gaps"]
    engine.expect(gaps == 0, f"an outlier made {gaps} gaps")
    exchange.number_from(5_000)
    engine.start()
    exchange.wait_client(connections=2)
    exchange.send_ticks(20)
    exchange.send_ticks(20, again=20)
    engine.wait_ticks(81)
    told = engine.wait_log(BREAK).fields
    engine.expect((told["old_id"], told["new_id"]) == (5_039, 5_000), f"ids that start over were told as {told}")
    engine.stop()
    rows = engine.query("SELECT trade_id, count(*), count(DISTINCT ts) FROM ticks GROUP BY trade_id ORDER BY trade_id")
    engine.expect([number for number, _, _ in rows] == [*range(5_000, 5_040), ABSURD], f"ids that were stored: {rows}")
    engine.expect(all(count == times for _, count, times in rows), f"a resend was stored: {rows}")
    (fills, signals), (position, bought) = (
        engine.query("SELECT (SELECT count(*) FROM trades), (SELECT count(*) FROM signals WHERE veto IS NULL)")[0],
        engine.query(
            "SELECT (SELECT qty FROM positions), (SELECT sum(CASE side WHEN 'BUY' THEN 1 ELSE -1 END) FROM trades)"
        )[0],
    )
    engine.expect(fills == signals == 81, f"{fills} fills of {signals} signals, 81 ticks asked for one each")
    engine.expect(
        float(str(position)) == pytest.approx(0.1 * float(str(bought))), f"position {position}, fills sum to {bought}"
    )


def trade(market: str, number: int, price: str, **more: object) -> str:
    data = {"e": "trade", "s": market, "t": number, "p": price, "q": "1", "T": 1_700_000_000_000 + number, **more}
    return json.dumps({"stream": f"{market.lower()}@trade", "data": data})


@pytest.mark.claim("N12", "N10")
def test_each_market_of_one_connection_has_its_name_and_its_ids(engine: EngineUnit, exchange: Exchange) -> None:
    """The markets' ids overlap; a market that nobody asked for comes too, and prints that are no market trades."""
    messages = []
    for number in range(1, 11):
        messages += [
            trade("BTCUSDT", number, "90000"),
            trade("ETHUSDT", number, "3000"),
            trade("SOLUSDT", number, "140"),
        ]
        messages.append(trade("ETHUSDT", 100 + number, "1", X="INSURANCE_FUND"))
    exchange.on_connect_send(messages)
    engine.configure_sources(SOURCE.format(url=exchange.url))
    engine.configure(
        {
            "engine": {"ingest_mode": "REAL_WS", "heartbeat_interval_secs": 0.2},
            "persist": {"flush_interval_ms": 10},
        }
    )
    engine.start()
    engine.wait_log("trade of a market that nobody asked for", lambda entry: entry.fields["market"] == "SOLUSDT")
    engine.wait_ticks(20)
    counts = ("ticks_parsed", "foreign", "ignored")
    beat = engine.wait_log(
        "HEARTBEAT (G4)", lambda entry: sum(int(str(entry.fields[name])) for name in counts) == len(messages)
    ).fields
    engine.expect(
        (beat["foreign"], beat["ignored"]) == (10, 10), f"foreign {beat['foreign']}, ignored {beat['ignored']}"
    )
    rows = engine.query("SELECT symbol, CAST(price AS REAL), count(*) FROM ticks GROUP BY 1, 2 ORDER BY 1")
    engine.expect(
        rows == [("BTC/USDT", 90000.0, 10), ("ETH/USDT", 3000.0, 10)], f"what was stored of which market: {rows}"
    )
