"""The books of ingest: which ticks are new, which are processed, and what number they get (N7, N9, I3).

Every parsed tick goes through `Intake.admit`, and every one ends in exactly one column of the books (M3):

    parsed   == received + duplicates
    received == processed + sampled_out
    processed == received // sample_every

What is new is decided per source, by the venue's trade id. Ids arrive nearly in order, so a source needs
only its lowest and highest id and the holes between them: an id above the highest is new and leaves a hole,
one in a hole is new and late, anything else in between was seen before. `gaps` is the number of ids in the
holes: trades that the venue numbered and we have not seen (yet).

Memory is bounded whatever the feed does (B1). Of a source's holes the newest 1024 are remembered; a hole
that is forgotten stays in `gaps`, and a trade of it that arrives after all is taken for a duplicate, because
losing a very late trade is better than storing one twice. Of textual ids the 65536 used last are remembered.

After a restart the watermark (the highest id on disk) stands for everything up to it: ids at or below it are
duplicates, and the hole between it and the first id after the restart is counted, for those trades were
missed. A source that is seen for the first time counts no gap for its first id.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from engine.events import Tick

MISSING_INTERVALS_MAX: Final = 1024
"""Holes remembered per source. Enough for one lost frame a second over a quarter of an hour, in 80 kB."""

EVENT_IDS_MAX: Final = 65536
"""Textual event ids remembered per source; what a feed resends after a reconnect lies well within it."""


class _Seen:
    """The integer ids seen of one source.

    The holes are `starts[i]..ends[i]`, inclusive, disjoint and ascending. Both lists stay within
    MISSING_INTERVALS_MAX.
    """

    __slots__ = ("ends", "gaps", "highest", "lowest", "starts")

    def __init__(self, lowest: int, highest: int) -> None:
        """Everything in `lowest`..`highest`, inclusive, counts as seen."""
        self.lowest = lowest
        self.highest = highest
        self.starts: list[int] = []
        self.ends: list[int] = []
        # Ids between lowest and highest that were never seen, those of forgotten holes included.
        self.gaps = 0

    def add(self, trade_id: int) -> bool:
        """Whether `trade_id` is new; from now on it is not."""
        if trade_id > self.highest:
            if trade_id > self.highest + 1:
                self._open_hole(len(self.starts), self.highest + 1, trade_id - 1)
            self.highest = trade_id
            return True
        if trade_id < self.lowest:
            # Older than the first one we saw, so never seen: a feed that starts out of order, or resends
            # more after a reconnect than we had.
            if trade_id < self.lowest - 1:
                self._open_hole(0, trade_id + 1, self.lowest - 1)
            self.lowest = trade_id
            return True
        index = bisect_right(self.starts, trade_id) - 1
        if index < 0 or trade_id > self.ends[index]:
            return False
        self._fill(index, trade_id)
        return True

    def _open_hole(self, index: int, start: int, end: int) -> None:
        self.gaps += end - start + 1
        self.starts.insert(index, start)
        self.ends.insert(index, end)
        self._forget_oldest()

    def _fill(self, index: int, trade_id: int) -> None:
        self.gaps -= 1
        start, end = self.starts[index], self.ends[index]
        if start == end:
            del self.starts[index], self.ends[index]
        elif trade_id == start:
            self.starts[index] += 1
        elif trade_id == end:
            self.ends[index] -= 1
        else:
            self.ends[index] = trade_id - 1
            self.starts.insert(index + 1, trade_id + 1)
            self.ends.insert(index + 1, end)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        if len(self.starts) > MISSING_INTERVALS_MAX:
            del self.starts[0], self.ends[0]


class _Recent:
    """The textual ids used last of one source."""

    __slots__ = ("_ids",)

    def __init__(self, event_ids: Iterable[str]) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        for event_id in event_ids:
            self.add(event_id)

    def add(self, event_id: str) -> bool:
        """Whether `event_id` is new; from now on it is not, until 65536 others were used after it."""
        if event_id in self._ids:
            self._ids.move_to_end(event_id)
            return False
        self._ids[event_id] = None
        if len(self._ids) > EVENT_IDS_MAX:
            self._ids.popitem(last=False)
        return True


class Intake:
    """Decides which ticks enter the pipeline. One per run, for all sources, across all reconnects (N7)."""

    parsed: int
    """Ticks given to `admit` and `readmit`."""

    received: int
    """Ticks among them that were new (`ingest_received`)."""

    processed: int
    """New ticks that entered the pipeline (`ingest_processed`, `tick_count`)."""

    duplicates: int
    """Ticks that had been seen before (N9)."""

    def __init__(
        self,
        sample_every: int,
        next_tick_id: int,
        watermarks: Mapping[str, int],
        recent_event_ids: Mapping[str, Iterable[str]],
        sparse_sources: AbstractSet[str] = frozenset(),
    ) -> None:
        """`sample_every` >= 1: every Nth new tick is processed. `next_tick_id`: the id of the first one,
        greater than any in the database. `watermarks`: source -> highest trade id on disk.
        `recent_event_ids`: source -> textual ids on disk, oldest first. `sparse_sources`: sources whose trade
        ids rise with holes that mean nothing (all kinds but `wire.CONSECUTIVE_IDS`); they count no gaps.

        ValueError when `sample_every` < 1.
        """
        if sample_every < 1:
            raise ValueError(f"sample_every {sample_every}: allowed is 1 or more")
        self.parsed = 0
        self.received = 0
        self.processed = 0
        self.duplicates = 0
        self._sample_every = sample_every
        self._next_tick_id = next_tick_id
        self._sparse = sparse_sources
        # The floor of 0 makes all ids up to the watermark seen: wire lets no negative id through.
        self._seen = {source: _Seen(min(0, highest), highest) for source, highest in watermarks.items()}
        self._recent = {source: _Recent(event_ids) for source, event_ids in recent_event_ids.items()}

    @property
    def sampled_out(self) -> int:
        """New ticks that sampling left out."""
        return self.received - self.processed

    @property
    def gaps(self) -> int:
        """Trade ids that were skipped and never seen, over all sources with consecutive ids (N9)."""
        return sum(seen.gaps for source, seen in self._seen.items() if source not in self._sparse)

    def watermark(self, source: str) -> int | None:
        """The highest trade id seen of `source`, restored ones included; None when it never gave one."""
        seen = self._seen.get(source)
        return None if seen is None else seen.highest

    def admit(self, ticks: list[Tick]) -> list[Tick]:
        """The ticks of `ticks` to process, in order: new ones, every Nth of them, with `id` set.

        A tick with a `trade_id` is judged by that, one with only an `event_id` by that, one with neither is
        always new. The list given is not changed.
        """
        fresh = []
        source: str | None = None
        seen: _Seen | None = None
        for tick in ticks:
            trade_id = tick.trade_id
            if trade_id is None:
                if tick.event_id is None or self._is_new_event(tick.source, tick.event_id):
                    fresh.append(tick)
                continue
            if tick.source != source:
                source = tick.source
                seen = self._seen.get(source)
            if seen is None:
                seen = self._seen[tick.source] = _Seen(trade_id, trade_id)
                fresh.append(tick)
            elif trade_id == seen.highest + 1:
                seen.highest = trade_id
                fresh.append(tick)
            elif seen.add(trade_id):
                fresh.append(tick)
        self.parsed += len(ticks)
        self.duplicates += len(ticks) - len(fresh)
        sampled = self._sample(fresh)
        tick_id = self._next_tick_id
        for tick in sampled:
            tick.id = tick_id
            tick_id += 1
        self._next_tick_id = tick_id
        return sampled

    def readmit(self, ticks: list[Tick]) -> list[Tick]:
        """Like `admit`, for ticks that are rows of this database (REPLAY): they keep their ids and are all new,
        because no row is there twice, while in time order the venue's ids may look like gaps and duplicates."""
        self.parsed += len(ticks)
        return self._sample(ticks)

    def _sample(self, fresh: list[Tick]) -> list[Tick]:
        every = self._sample_every
        sampled = fresh if every == 1 else fresh[every - 1 - self.received % every :: every]
        self.received += len(fresh)
        self.processed += len(sampled)
        return sampled

    def _is_new_event(self, source: str, event_id: str) -> bool:
        recent = self._recent.get(source)
        if recent is None:
            recent = self._recent[source] = _Recent(())
        return recent.add(event_id)
