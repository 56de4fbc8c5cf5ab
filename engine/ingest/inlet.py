"""Where a feed delivers: intake, then both channels in one pass (B2, N7).

Every processed tick goes into the tick channel and the persist channel in one synchronous pass, so what is stored does
not depend on what strategy makes of it. What finds no room pauses the feed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from engine.base import logs
from engine.base.channels import Channel
from engine.base.events import Numbering, Tick
from engine.ingest.clock_skew import VenueClocks
from engine.ingest.intake import Break, Intake
from engine.ingest.ports import Feed, Inlet, Numbers
from engine.ingest.venues.markets import Streams
from engine.storage.batch import Batch

logger = logging.getLogger("engine.pipeline")

# Breaks in trade ids that are told at once, before their log is held to one line a second (N11).
_BREAKS_TOLD = 10


class Ingest:
    """What the feed delivers to: intake, then both channels in one pass (B2, N7).

    Implements Inlet.
    """

    def __init__(
        self,
        intake: Intake,
        ticks: Channel[list[Tick]],
        rows: Channel[Batch],
        answer: Callable[[], None],
        streams: Streams,
        make_feed: Callable[[Inlet], Feed],
        *,
        replay: bool,
        keep_ids: bool,
        clocks: VenueClocks | None,
        wall_ms: Callable[[], int],
    ) -> None:
        """`make_feed`: the feed that delivers to the inlet it is given. `replay`: what is known of trade ids stays
        as it is, a replay is no progress of the live feed. `keep_ids`: ticks come with the row ids they have in the
        database. `clocks`: None where no venue's clock is in the ticks. `wall_ms`: the time of day."""
        self.intake = intake
        self.clocks = clocks
        self._streams = streams
        self._break_log = logs.RateLimited(logger, logging.WARNING, burst=_BREAKS_TOLD)
        self.answer = answer
        self._admit = intake.readmit if keep_ids else intake.admit
        # Processed ticks that found no room yet, oldest first. Bounded by what one read of a socket holds,
        # because the feed is paused while there are any.
        self.rest: list[Tick] = []
        # Set while the rest is empty.
        self.empty = asyncio.Event()
        self.empty.set()
        self.ticks_parsed = 0
        self.tick_count = 0
        self._ticks = ticks
        self._rows = rows
        self._replay = replay
        self._wall_ms = wall_ms
        self.feed = make_feed(self)

    def deliver(self, ticks: list[Tick], numbers: Numbers = ()) -> int:
        self.ticks_parsed += len(ticks)
        known = self.intake.received
        # Before intake may have named another numbering.
        stream = ticks[-1].source if ticks else ""
        processed = self._admit(ticks)
        if numbers:
            # Before the numbering goes to disk with those ticks: there they would be missing for good.
            self.intake.pass_numbers(numbers)
        for found in self.intake.take_breaks():
            self._tell_break(found)
        self.tick_count += len(processed)
        if processed:
            self.rest += processed
            self._push()
        new = self.intake.received - known
        if new and self.clocks is not None:
            self.clocks.add(self._streams.owner(stream)[0], ticks[-1].ts, self._wall_ms())
        return new

    def _tell_break(self, found: Break) -> None:
        source, market = self._streams.owner(found.stream)
        self._break_log.log(
            time.monotonic(),
            "trade ids do not go on from where they were",
            source=source,
            market=market or None,
            old_id=found.old_id,
            new_id=found.new_id,
        )

    def by_market(self) -> dict[str, tuple[int | None, int]]:
        """Source and market -> its gaps, None where holes in its ids mean nothing, and its duplicates (N9)."""
        found: dict[str, tuple[int | None, int]] = {}
        for stream, counts in self.intake.by_stream().items():
            source, market = self._streams.owner(stream)
            found[f"{source} {market}".rstrip()] = counts
        return found

    def tell_latest(self, latest: dict[str, int]) -> None:
        self.intake.tell_all_latest(latest)

    def barred(self, source: str, host: str, secs: float) -> None:
        until_ms = self._wall_ms() + int(secs * 1000)
        # It weighs nothing, so there is room for it: it has to reach the disk even when this run ends over it.
        self._rows.put_nowait(Batch(barred={source: (host, until_ms)}), 0)
        self._rows.nudge()

    def _push(self) -> None:
        """Put as much of the rest into both channels as fits into both; pause the feed over what does not."""
        if self.rest:
            room = min(self._ticks.room(), self._rows.room())
            if room:
                ticks, self.rest = self.rest[:room], self.rest[room:]
                self._ticks.put_nowait(ticks, len(ticks))
                batch = Batch(
                    ticks=ticks,
                    labels=self.intake.take_unnamed() if self.rest else {},
                    numberings=self.numberings(),
                    streams=self._streams.take_new(),
                )
                self._rows.put_nowait(batch, len(ticks))
        if self.rest:
            self._ticks.refused()
            self._rows.refused()
        if self.rest and self._ticks.on_room is None:
            self._ticks.on_room = self._rows.on_room = self._push
            self.empty.clear()
            self.feed.pause()
        elif not self.rest and self._ticks.on_room is not None:
            self._ticks.on_room = self._rows.on_room = None
            self.empty.set()
            self.feed.resume()

    def numberings(self) -> dict[str, Numbering]:
        """What is known of trade ids and not on disk: it goes there with the ticks that were just taken off the rest.
        None while some are left: an id on disk says that all before it is there (D3)."""
        if self.rest or self._replay:
            return {}
        return {one.label: one for one in self.intake.take_moved()}
