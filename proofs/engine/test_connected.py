"""Contract N4, N5, N12, N18, B2: what a feed over connections does, with hand-written connections and a clock that
nobody waits for."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from engine.base.exits import ConfigError, ProtocolChanged
from engine.config import schema
from engine.ingest.connected import FeedLine
from engine.ingest.intake import Intake
from engine.ingest.recorder import Books
from engine.ingest.transport import ConnectFailed, Connection, Line
from engine.ingest.venues.markets import Streams
from engine.ingest.websocket import WebSocketFeed
from harness.faults.dialects import DIALECTS, CoinbaseDialect, Dialect

NOW = 1_764_000_000_000


class Wire(Connection):
    """A connection that only remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sent: list[str] = []

    def ping(self) -> None:
        self.asked.append("ping")

    def send(self, text: str) -> None:
        self.asked.append("send")
        self.sent.append(text)

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")

    def close(self) -> None:
        self.asked.append("close")


class Wired(WebSocketFeed):
    """A feed whose attempts wait for the test, and whose time is the test's."""

    def __init__(
        self,
        sources: Sequence[schema.Source],
        barred_secs: Mapping[str, float] | None = None,
        streams: Streams | None = None,
        feed_silence_secs: float = 120.0,
    ) -> None:
        self.clock = 1000.0
        self.attempts: list[FeedLine] = []
        self.wakes: list[float] = []
        options = schema.Engine(feed_silence_secs=feed_silence_secs)
        self.books = Books(Intake(1, 1))
        super().__init__(
            self.books,
            sources,
            options,
            "S",
            self._never,
            lambda: self.clock,
            barred_secs or {},
            streams or Streams(),
        )

    @staticmethod
    async def _never(url: str, line: Line, connected: object) -> None:
        raise AssertionError("nothing of this goes over a network")

    def _attempt(self, line: FeedLine) -> None:
        self.attempts.append(line)

    def _wake_at(self, at: float) -> None:
        self.wakes.append(at)

    def open(self) -> tuple[FeedLine, Wire]:
        """Open the latest attempt."""
        wire = Wire()
        self.attempts[-1].opened(wire)
        return self.attempts[-1], wire


def kraken(*markets: str) -> schema.Source:
    return schema.Source(
        name="one", priority=1, url="ws://127.0.0.1:1", venue="kraken", markets={market: market for market in markets}
    )


def said(line: FeedLine, *messages: str) -> None:
    """What comes in one read."""
    for message in messages:
        line.text(message.encode())
    line.flush()


async def begin(feed: Wired) -> asyncio.Task[None]:
    """It has asked for its first connections, and waits."""
    task = asyncio.get_running_loop().create_task(feed.run())
    await asyncio.sleep(0)
    return task


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.claim("B2")
def test_a_connection_that_opens_while_there_is_no_room_is_not_read(loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        feed = Wired([kraken("BTC/USD")])
        task = await begin(feed)
        feed.pause()
        _, wire = feed.open()
        assert wire.asked[0] == "pause"
        feed.resume()
        assert wire.asked[-1] == "resume"
        feed.stop()
        await task

    loop.run(scenario())


@pytest.mark.claim("N6", "N18")
def test_once_there_is_room_again_deadlines_count_again(loop: asyncio.Runner) -> None:
    """While we do not read, silence says nothing; a wake that comes meanwhile must not be the last one."""

    async def scenario() -> None:
        feed = Wired([kraken("BTC/USD")])
        task = await begin(feed)
        _, wire = feed.open()
        feed.pause()
        feed.clock += 3600
        feed._wake()
        assert "close" not in wire.asked
        feed.wakes.clear()
        feed.resume()
        assert feed.wakes == [feed.clock]
        feed._wake()
        assert wire.asked[-1] == "close"
        feed.stop()
        await task

    loop.run(scenario())


@pytest.mark.claim("N18")
def test_what_a_venue_says_before_it_hangs_up_is_heard(loop: asyncio.Runner, caplog: pytest.LogCaptureFixture) -> None:
    """Its words, and the end, may come in one read, which no flush separates."""

    async def scenario() -> None:
        feed = Wired([kraken("BTC/USD")])
        task = await begin(feed)
        line, wire = feed.open()
        line.text(b'{"method": "subscribe", "success": false, "error": "Currency pair not supported"}')
        line.closed("closed by the peer")
        assert "Currency pair not supported" in feed.hindrance
        assert wire.asked[-1] == "close"
        feed.stop()
        await task

    with caplog.at_level(logging.WARNING):
        loop.run(scenario())
    [told] = [record.__dict__["fields"]["reason"] for record in caplog.records if "connection" in record.message]
    assert "Currency pair not supported" in told


@pytest.mark.claim("N18")
def test_the_venues_words_are_in_the_status_until_it_acknowledges(loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        feed = Wired([kraken("BTC/USD", "ETH/USD")])
        task = await begin(feed)
        line, _ = feed.open()
        said(line, '{"method": "subscribe", "success": false, "error": "EGeneral:Busy"}')
        assert "EGeneral:Busy" in feed.hindrance
        feed.clock += 60
        feed._wake()
        line, _ = feed.open()
        ack = '{{"method":"subscribe","success":true,"result":{{"channel":"trade","symbol":"{}"}}}}'
        said(line, ack.format("BTC/USD"))
        assert "EGeneral:Busy" in feed.hindrance
        said(line, ack.format("ETH/USD"))
        assert feed.hindrance == ""
        feed.stop()
        await task

    loop.run(scenario())


@pytest.mark.claim("N18")
@pytest.mark.parametrize("dialect", [dialect() for dialect in DIALECTS], ids=[dialect.name for dialect in DIALECTS])
@pytest.mark.parametrize("is_whole", [True, False])
def test_what_a_venue_answers_is_all_of_the_acknowledgement_or_not_enough(
    loop: asyncio.Runner, dialect: Dialect, is_whole: bool
) -> None:
    """After `subscribe_timeout_secs` the connection is still there, or is none any more if an answer is missing."""
    bare = "ws://127.0.0.1:1/ws" if dialect.name == "binance" else "ws://127.0.0.1:1"
    wanted = schema.Source(
        name="one", priority=1, url=bare, venue=dialect.name, markets={dialect.market: "A", dialect.other: "B"}
    )

    async def scenario() -> None:
        feed = Wired([wanted])
        task = await begin(feed)
        line, wire = feed.open()
        replies = [reply for message in wire.sent for reply in dialect.answer(message)]
        assert replies
        said(line, *dialect.greeting, *(replies if is_whole else replies[:-1]))
        feed.clock += schema.Engine().subscribe_timeout_secs
        feed._wake()
        assert ("close" in wire.asked) is not is_whole
        feed.stop()
        await task

    loop.run(scenario())


def binance_trade(market: str, number: int) -> str:
    return json.dumps(
        {"e": "trade", "E": NOW, "s": market, "t": number, "p": "1.5", "q": "1", "T": NOW, "m": True, "M": True}
    )


@pytest.mark.claim("N12")
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_trades_of_another_market_end_the_run_only_where_there_is_no_other_source(
    loop: asyncio.Runner, sources: int
) -> None:
    async def scenario() -> None:
        places = [
            schema.Source(name=f"s{number}", priority=number, url="ws://127.0.0.1:1", venue="binance")
            for number in range(sources)
        ]
        # In an earlier run the first one brought BTCUSDT, called as it is now.
        streams = Streams({"s0": ("s0", "BTCUSDT")}, [place.name for place in places], {"s0": "S"})
        feed = Wired(places, streams=streams, feed_silence_secs=5.0)
        task = await begin(feed)
        line, _ = feed.open()
        said(line, binance_trade("ETHUSDT", 1))
        assert "brings ETHUSDT, and nothing of BTCUSDT" in feed.hindrance
        feed.clock += 5
        said(line, binance_trade("ETHUSDT", 2))
        await asyncio.sleep(0)
        assert task.done() == (sources == 1)
        feed.stop()
        if sources == 1:
            with pytest.raises(ConfigError, match="`markets` has to"):
                await task
        else:
            await task

    loop.run(scenario())


def binance(name: str = "one", priority: int = 1, **options: Any) -> schema.Source:
    # Each on a host of its own, so that no budget is shared.
    url = f"ws://127.0.0.{priority}:1/ws/btcusdt@trade"
    return schema.Source(name=name, priority=priority, url=url, venue="binance", **options)


@pytest.mark.claim("N4")
def test_a_better_source_replaces_the_one_that_there_is_once_it_delivers(
    loop: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        feed = Wired([binance("best", 1), binance("worse", 2)])
        task = await begin(feed)
        feed._report_failure(feed.attempts[-1], ConnectFailed("refused"))
        worse_line, worse = feed.open()
        said(worse_line, binance_trade("BTCUSDT", 1))
        assert (feed.source, feed.reconnects) == ("worse", 0)
        feed.clock += 1
        feed._wake()
        best_line, best = feed.open()
        said(best_line, '{"e": "nothing of interest"}', binance_trade("BTCUSDT", 1)[:-1])
        assert worse.asked == []
        assert feed.source == "worse"
        said(best_line, binance_trade("BTCUSDT", 2))
        assert (worse.asked, best.asked) == (["close"], [])
        assert (feed.source, feed.reconnects) == ("best", 1)
        feed.stop()
        assert best.asked == ["close"]
        await task

    with caplog.at_level(logging.WARNING):
        loop.run(scenario())
    [dropped] = [record for record in caplog.records if record.message == "connection dropped"]
    assert vars(dropped)["fields"] == {
        "source": "worse", "url": "ws://127.0.0.2:1/ws/btcusdt@trade", "reason": "best is preferred",
    }  # fmt: skip


@pytest.mark.claim("N6", "N8b")
@pytest.mark.parametrize(
    "message",
    [
        '{"e": "kline"}',
        "rubbish",
        binance_trade("BTCUSDT", 1),
        binance_trade("ETHUSDT", 7),
        binance_trade("BTCUSDT", 2).replace('"M"', '"X": "INSURANCE_FUND", "M"'),
    ],
    ids=["no trade", "rubbish", "a trade again", "a trade of another market", "no market trade"],
)
def test_what_is_no_new_tick_is_no_progress(loop: asyncio.Runner, message: str) -> None:
    """However often it comes, and whatever was progress before."""

    async def scenario() -> None:
        feed = Wired([binance()])
        task = await begin(feed)
        line, wire = feed.open()
        said(line, binance_trade("BTCUSDT", 1))
        for _ in range(11):
            feed.clock += 10
            said(line, message)
            feed._wake()
        assert "close" not in wire.asked
        feed.clock += 10
        said(line, message)
        feed._wake()
        assert wire.asked[-1] == "close"
        feed.stop()
        await task

    loop.run(scenario())


@pytest.mark.claim("N12", "N9")
@pytest.mark.parametrize("execution", ["INSURANCE_FUND", "ADL", "NA"])
def test_an_id_of_what_is_no_trade_is_no_gap_for_a_feed_either(loop: asyncio.Runner, execution: str) -> None:
    async def scenario() -> None:
        feed = Wired([binance()])
        task = await begin(feed)
        line, _ = feed.open()
        no_trade = binance_trade("BTCUSDT", 2).replace('"M"', f'"X": "{execution}", "M"')
        said(line, binance_trade("BTCUSDT", 1), no_trade)
        said(line, binance_trade("BTCUSDT", 3), binance_trade("BTCUSDT", 5))
        assert feed.books.intake.gaps == 1
        # Each is told once.
        assert (line.parser.numbers, line.parser.latest) == ([], {})
        feed.stop()
        await task

    loop.run(scenario())


@pytest.mark.claim("N18", "N6")
def test_a_replacement_that_brings_what_the_old_connection_has_brought_takes_over(loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        feed = Wired([binance()])
        task = await begin(feed)
        old, old_wire = feed.open()
        said(old, binance_trade("BTCUSDT", 1))
        feed.clock += 60
        feed._apply(feed._session.draining(old.conn, feed.clock))
        new, _ = feed.open()
        assert new is not old
        feed.clock += 5
        said(old, binance_trade("BTCUSDT", 2))
        assert "close" not in old_wire.asked
        said(new, binance_trade("BTCUSDT", 2))
        assert old_wire.asked[-1] == "close"
        feed.stop()
        await task

    loop.run(scenario())


@pytest.mark.claim("N9")
def test_what_a_venue_says_it_traded_last_reaches_the_books(loop: asyncio.Runner) -> None:
    async def scenario() -> None:
        dialect = CoinbaseDialect()
        place = schema.Source(
            name="one", priority=1, url="ws://127.0.0.1:1", venue="coinbase", markets={dialect.market: "A"}
        )
        feed = Wired([place])
        task = await begin(feed)
        line, _ = feed.open()
        said(line, dialect.trade(dialect.market, 7, "1.5", "1", NOW), dialect.latest(dialect.market, 9))
        assert feed.books.intake.gaps == 2
        assert line.parser.latest == {}
        feed.stop()
        await task

    loop.run(scenario())


@pytest.mark.claim("N4")
def test_a_connection_that_nobody_wants_any_more_is_heard_no_more(
    loop: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither what it brings, nor its end; one that opens too late is closed."""

    async def scenario() -> None:
        feed = Wired([binance()])
        task = await begin(feed)
        late = feed.attempts[-1]
        feed.clock += 3600
        feed._wake()
        wire = Wire()
        late.opened(wire)
        assert wire.asked == ["close"]
        feed.clock += 60
        feed._wake()
        line, _ = feed.open()
        line.closed("gone")
        caplog.clear()
        said(line, binance_trade("BTCUSDT", 1))
        line.refuse("binary")
        line.pong()
        line.unread()
        line.closed("gone")
        assert (feed.books.intake.parsed, feed.parse_errors, feed.connections_unbounded) == (0, 0, 0)
        assert line.parser.controls == []
        assert not caplog.records
        feed.stop()
        await task

    loop.run(scenario())


@pytest.mark.claim("N8", "N12")
@pytest.mark.parametrize("first", ["foreign", "rubbish"])
def test_the_first_reason_to_end_a_run_is_the_one_that_is_told(loop: asyncio.Runner, first: str) -> None:
    """Both come in one read, before the run can end."""

    async def scenario() -> None:
        # In an earlier run BTCUSDT came.
        url = "ws://127.0.0.1:1/ws"
        place = schema.Source(name="s0", priority=0, url=url, venue="binance")
        feed = Wired([place], streams=Streams({"s0": ("s0", "BTCUSDT")}, ["s0"], {"s0": "S"}), feed_silence_secs=5.0)
        task = await begin(feed)
        line, _ = feed.open()
        said(line, binance_trade("ETHUSDT", 1))
        feed.clock += 5
        causes: dict[str, Callable[[], None]] = {
            "foreign": lambda: said(line, binance_trade("ETHUSDT", 2)),
            "rubbish": lambda: said(line, *["{"] * schema.Engine().parse_error_limit),
        }
        causes.pop(first)()
        [other] = causes.values()
        other()
        await asyncio.sleep(0)
        feed.stop()
        with pytest.raises(ConfigError if first == "foreign" else ProtocolChanged):
            await task

    loop.run(scenario())


@pytest.mark.claim("N5")
@pytest.mark.parametrize(
    ("told", "secs"),
    [
        ({}, None),
        ({"127.0.0.1": 60}, 60),
        ({"first": 60}, 60),
        ({"second": 60}, 60),
        ({"first": 60, "second": 30}, 60),
        ({"first": 30, "second": 60}, 60),
        ({"127.0.0.1": 30, "first": 60}, 60),
        ({"127.0.0.1": 60, "second": 30}, 60),
        ({"127.0.0.1": 30, "first": 40, "second": 60}, 60),
        ({"elsewhere": 60}, None),
    ],
)
def test_of_all_that_earlier_runs_were_told_of_a_host_the_longest_counts(
    told: dict[str, float], secs: float | None
) -> None:
    """By its own name, or in an earlier version by those of its sources."""
    sources = [
        schema.Source(name=name, priority=1, url=f"ws://127.0.0.1:1/{name}", kind="mock")
        for name in ("first", "second")
    ]
    feed = Wired(sources, told)
    bar = feed._session.bar("127.0.0.1", feed.clock)
    assert (bar and bar.until - feed.clock) == secs
