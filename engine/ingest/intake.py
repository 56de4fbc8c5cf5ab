"""The books of ingest: which ticks are new, which are processed, and what number they get (N7, N9, N11, I3).

Every parsed tick goes through `Intake.admit`, and every one ends in exactly one column of the books (M3):

    parsed   == received + duplicates
    received == processed + sampled_out
    processed == received // sample_every

A trade is its stream, its id and its time. A **stream** is what one source says of one market (venues/markets.py
names it); its ids arrive nearly in order, so remembering them takes only the lowest, the highest and the holes between:
an id above the highest is new and leaves a hole, one in a hole is new and late. `gaps` counts the ids in the holes:
those of trades that the venue numbered and we have not seen (yet).

Venues start their ids over, jump, print one absurd id, and sources are pointed elsewhere (N11). Then an id that lies
between lowest and highest may be of a trade that was never seen, and its time tells: each numbering remembers, in
segments of its ids, between which times they came. A trade whose id was seen at another time is another trade. It
begins a new **numbering** of its stream, with a lowest, highest and holes of its own; `Tick.source` names it, so that
the same id can be stored for both; and the break is told. A jump too wide to be missed trades begins one too, so that a
single absurd id moves nobody's highest. An id that goes on where an earlier numbering ended goes on there.
Why so: docs/decisions/0004-trade-identity.md.

Memory is bounded whatever the feed does (B1, B5), and the numberings share it. Each keeps its share of 16384 segments,
and 32 at least: ids that came one by one at the same time are one; the older ones are joined. Of its holes it remembers
as many, and no more than 1024: one that is forgotten stays in `gaps`, and a trade of it that arrives after all is taken
for a duplicate, because losing a very late trade is better than storing one twice. A stream has at most 32 numberings,
and all together 1024 beside their first; whatever fits none of them is remembered by the text of its id and time. Of
such texts, and of textual ids with their times, the 65536 used last at least are remembered (recent_ids.py).

After a restart the numberings on disk go on: ids up to their highest are duplicates if their time fits, which of the
newest ticks on disk is known exactly; and the hole between the highest and the first id after the restart is counted,
for those trades were missed. A stream that is seen for the first time counts no gap for its first id.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from engine.base.events import Numbering, Tick, numbering_label
from engine.ingest.ports import Numbers
from engine.ingest.recent_ids import RecentIds

MISSING_INTERVALS_MAX: Final = 1024
"""Holes remembered per numbering, or as many as it may have segments, where there are many numberings. Enough for one
lost frame a second over a quarter of an hour, in 80 kB."""

MISSING_STORED_MAX: Final = 64
"""Of these the newest so many go to disk, whenever they have changed."""

SEGMENTS_MAX: Final = 16_384
"""Segments of ids with their times, which the numberings share as they begin: 1.5 MB for the first one, half of that
for the second. Where each trade has a read of its own, so many are known exactly."""

SEGMENTS_MIN: Final = 32
"""What each numbering may remember of them, however many there are: of the 4096 symbols that a MOCK source may name all
together 20 MiB."""

NUMBERINGS_MAX: Final = 32
"""Numberings of one stream: two and a half years of a test network that is wiped each month."""

NUMBERINGS_SPARE: Final = 1024
"""Numberings that all streams together may begin beside their first."""

BREAK_FROM: Final = 10_000
"""A jump of more ids than this is told, and as many may lie before the first one seen."""

JUMP_MAX: Final = 1_000_000
"""A jump of more ids than this begins a new numbering. Binance's busiest market prints as many trades in six hours."""

SPARSE_JUMP_MAX: Final = 10**12
"""The same for a source whose ids are those of a whole venue."""


class Break(msgspec.Struct, frozen=True):
    """A venue's ids did not go on from where they were: told as one WARNING (N11)."""

    stream: str
    old_id: int | str
    """The highest id of the numbering that was in use; of textual ids the one that was new last."""
    new_id: int | str


class _Seen:
    """The integer ids seen of one numbering, and when.

    The holes are `starts[i]..ends[i]`, inclusive, disjoint and ascending. Segment i holds the ids above that of segment
    i - 1 up to `upto[i]`; their times lay in `since[i]..until[i]`. All five lists are bounded.
    """

    __slots__ = (
        "before", "changed", "early_ts", "ends", "gaps", "highest", "label", "lowest", "newest_ts", "number",
        "segments_max", "since", "starts", "stream", "until", "upto",
    )  # fmt: skip

    def __init__(
        self, stream: str, number: int, lowest: int, highest: int, since: int, until: int, segments_max: int
    ) -> None:
        """Everything in `lowest`..`highest`, inclusive, counts as seen between the times `since` and `until`."""
        self.stream = stream
        self.number = number
        self.label = numbering_label(stream, number)
        self.lowest = lowest
        self.highest = highest
        self.newest_ts = until
        self.starts: list[int] = []
        self.ends: list[int] = []
        # Ids between lowest and highest that were never seen in this run, those of forgotten holes included.
        self.gaps = 0
        # The highest id of the runs before: holes up to there are not this run's.
        self.before = -1
        # Whether the holes have changed since they were last stored.
        self.changed = True
        self.upto = [highest]
        self.since = [since]
        self.until = [until]
        self.segments_max = segments_max
        # What comes before the first ids is not later than they are.
        self.early_ts = until

    @classmethod
    def restored(cls, stored: Numbering, segments_max: int) -> _Seen:
        """As it was when it was last stored, or as the ticks tell it: those holes are on disk with the next move."""
        oldest_ts = stored.newest_ts if stored.oldest_ts is None else stored.oldest_ts
        seen = cls(stored.stream, stored.number, stored.first, stored.last, oldest_ts, stored.newest_ts, segments_max)
        seen.starts = [start for start, _ in stored.missing or ()]
        seen.ends = [end for _, end in stored.missing or ()]
        seen.before = stored.last
        if stored.segments:
            upto, since, until = zip(*stored.segments, strict=True)
            seen.upto, seen.since, seen.until = list(upto), list(since), list(until)
            seen.early_ts = until[0]
            # The disk knows better than this run will: its exact times are not to be joined as those of reads are.
            seen.segments_max += len(upto)
            if upto[-1] < stored.last:
                seen.pass_segment(stored.last, until[-1], stored.newest_ts)
        return seen

    def stored(self) -> Numbering:
        """What goes to disk. The holes only when they have changed."""
        missing = None
        if self.changed:
            missing = list(zip(self.starts, self.ends, strict=True))[-MISSING_STORED_MAX:]
            self.changed = False
        return Numbering(
            self.stream, self.number, self.lowest, self.highest, self.newest_ts, missing, oldest_ts=self.since[0]
        )

    def knows(self, trade_id: int, ts: int) -> bool:
        """Whether a trade of this id and time was seen."""
        if not self.lowest <= trade_id <= self.highest:
            return False
        segment = bisect_left(self.upto, trade_id)
        return self.since[segment] <= ts <= self.until[segment] and self._hole(trade_id) is None

    def is_sure(self, trade_id: int) -> bool:
        """Whether the time of an id that `knows` knows is the only one that it may have."""
        segment = bisect_left(self.upto, trade_id)
        return self.since[segment] == self.until[segment]

    def may_go_on(self, trade_id: int, ts: int) -> bool:
        """Whether a trade may be one of the next of this numbering."""
        return self.highest < trade_id <= self.highest + BREAK_FROM and ts >= self.newest_ts

    def fill(self, trade_id: int, ts: int) -> bool:
        """Take a late trade into the hole it left; False when there is none, or its time is not that of one."""
        if not self.lowest < trade_id < self.highest:
            return False
        hole = self._hole(trade_id)
        segment = bisect_left(self.upto, trade_id)
        if hole is None or ts > self.until[segment] or (segment and ts < self.since[segment - 1]):
            return False
        self._close(trade_id, trade_id)
        # The times of the ids around it are as they were.
        since, until = self.since[segment], self.until[segment]
        if trade_id - 1 > (self.upto[segment - 1] if segment else self.lowest - 1):
            self._insert_segment(segment, trade_id - 1, since, until)
            segment += 1
        if trade_id == self.upto[segment]:
            self.since[segment] = self.until[segment] = ts
        else:
            self._insert_segment(segment, trade_id, ts, ts)
        self._join_oldest()
        return True

    def precede(self, trade_id: int, ts: int) -> bool:
        """Take a trade from before the first one; False when its id or its time does not say that it is one."""
        if not self.lowest - BREAK_FROM <= trade_id < self.lowest or ts > self.early_ts:
            return False
        # A feed that starts out of order, or resends more after a reconnect than we had. A segment of its own, for of
        # the ids that were the first until now the times are as they were.
        if trade_id < self.lowest - 1:
            self._open_hole(0, trade_id + 1, self.lowest - 1)
            self._insert_segment(0, self.lowest - 1, ts, self.early_ts)
        self._insert_segment(0, trade_id, ts, ts)
        self._join_oldest()
        self.lowest = trade_id
        return True

    def extend(self, trade_id: int, ts: int) -> None:
        """Take a trade above the highest."""
        if trade_id > self.highest + 1:
            self._open_hole(len(self.starts), self.highest + 1, trade_id - 1)
        self.highest = trade_id
        self.newest_ts = max(self.newest_ts, ts)
        self.pass_segment(trade_id, ts, ts)

    def pass_below(self, first: int, last: int, ts: int) -> None:
        """The ids `first` to `last` are not missing: the trade behind them, which came at `ts`, has used them up."""
        if last + 1 == self.lowest:
            self.lowest = max(first, self.lowest - BREAK_FROM)
            self._insert_segment(0, last, ts, ts)
            self._join_oldest()
        else:
            self._close(first, last)

    def pass_segment(self, upto: int, since: int, until: int) -> None:
        """The ids above the last segment, up to `upto`, came between these times."""
        self._insert_segment(len(self.upto), upto, since, until)
        self._join_oldest()

    def pass_run(self, upto: list[int], times: list[int], highest: int, ts: int) -> None:
        """Ids above the highest came one by one: those up to each of `upto` at each of `times`, the rest at `ts`."""
        self.highest = highest
        latest = ts
        if times:
            latest = max(*times, ts)
            self.upto += upto
            self.since += times
            self.until += times
        self.newest_ts = max(latest, self.newest_ts)
        self.upto.append(highest)
        self.since.append(ts)
        self.until.append(ts)
        if len(self.upto) > self.segments_max:
            self._join_oldest()

    def _insert_segment(self, index: int, upto: int, since: int, until: int) -> None:
        self.upto.insert(index, upto)
        self.since.insert(index, since)
        self.until.insert(index, until)

    def _join_oldest(self) -> None:
        while len(self.upto) > self.segments_max:
            # The older half becomes half as many, so that for ever some memory of all times is left.
            half = self.segments_max // 4 * 2
            self.since[:half] = map(min, self.since[:half:2], self.since[1:half:2])
            self.until[:half] = map(max, self.until[:half:2], self.until[1:half:2])
            self.upto[:half] = self.upto[1:half:2]

    def _hole(self, trade_id: int) -> int | None:
        """The index of the hole in which an id lies."""
        index = bisect_right(self.starts, trade_id) - 1
        return index if index >= 0 and trade_id <= self.ends[index] else None

    def _open_hole(self, index: int, start: int, end: int) -> None:
        self.gaps += end - start + 1
        self.starts.insert(index, start)
        self.ends.insert(index, end)
        self.changed = True
        self._forget_oldest()

    def _close(self, first: int, last: int) -> None:
        """What is missing of the ids `first` to `last` is so no longer."""
        index = bisect_left(self.ends, first)
        while index < len(self.starts) and self.starts[index] <= last:
            start, end = self.starts[index], self.ends[index]
            self.gaps -= max(0, min(end, last) - max(start, first, self.before + 1) + 1)
            left = [(one, other) for one, other in ((start, first - 1), (last + 1, end)) if one <= other]
            self.starts[index : index + 1] = [one for one, _ in left]
            self.ends[index : index + 1] = [other for _, other in left]
            index += len(left)
            self.changed = True
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        if len(self.starts) > min(MISSING_INTERVALS_MAX, self.segments_max):
            del self.starts[0], self.ends[0]


class _Run:
    """Of one stream in one read of a socket: ids that come one by one, which `Intake.admit` judges without a call."""

    __slots__ = ("expected", "floor", "is_open", "label", "newest", "seen", "stream", "times", "upto")

    def __init__(self, stream: _Stream) -> None:
        self.stream = stream
        # Whether it has begun in this read.
        self.is_open = False
        # What is not booked yet: the ids up to each of `upto` came at each of `times`, the rest at `newest`; below 0
        # while there are none.
        self.upto: list[int] = []
        self.times: list[int] = []
        self.go_on()

    def go_on(self) -> None:
        """Begin where the stream goes on after all that is booked of it."""
        # The numbering in use; the next id, the time after which it can belong to no other numbering, and the name that
        # its tick gets. That is the very object that the tick has, while there is one numbering, so that `is` tells.
        now = self.seen = self.stream.now
        self.newest = -1
        if now is None:
            self.expected, self.floor, self.label = -1, -1, self.stream.name
        else:
            self.expected, self.floor = now.highest + 1, self.stream.floor_ts
            self.label = self.stream.name if now.number == 1 else now.label


class _Shares:
    """What all numberings share: the memory of segments, and how many there may be."""

    __slots__ = ("_given", "spare")

    def __init__(self) -> None:
        self._given = 0
        # Numberings that may yet begin beside the first of their stream.
        self.spare = NUMBERINGS_SPARE

    def take(self, *, is_first: bool) -> int:
        """How many segments one more numbering may keep. `is_first`: it is the first of its stream."""
        self._given += 1
        if not is_first:
            self.spare = max(0, self.spare - 1)
        return max(SEGMENTS_MIN, SEGMENTS_MAX // self._given)


class _Stream:
    """The numberings of one stream. One of them is in use: the one that the last new trade belongs to."""

    __slots__ = ("_shares", "floor_ts", "jump_max", "name", "now", "numberings", "sparse", "told")

    def __init__(self, name: str, sparse: bool, shares: _Shares) -> None:
        self.name = name
        self._shares = shares
        self.sparse = sparse
        self.jump_max = SPARSE_JUMP_MAX if sparse else JUMP_MAX
        self.numberings: list[_Seen] = []
        self.now: _Seen | None = None
        # The id of its latest trade, as the venue says; -1 while it has not said.
        self.told = -1
        # A trade later than this belongs to no numbering but the one in use.
        self.floor_ts = -1

    def restore(self, stored: Numbering) -> None:
        seen = _Seen.restored(stored, self._shares.take(is_first=not self.numberings))
        self.numberings.append(seen)
        self._use(max(self.numberings, key=lambda one: one.newest_ts))

    @property
    def gaps(self) -> int | None:
        """Ids that were skipped and never seen; None where holes mean nothing."""
        if self.sparse:
            return None
        found = 0 if self.now is None or self.told < 0 else max(0, self.told - self.now.highest)
        for seen in self.numberings:
            found += seen.gaps
        return found

    def tell_latest(self, trade_id: int) -> None:
        """The venue says that its latest trade has this id."""
        # What is too far off may be an outlier, or the ids of a time before they started over.
        if self.now is not None and self.now.highest < trade_id <= self.now.highest + self.jump_max:
            self.told = trade_id

    @property
    def is_full(self) -> bool:
        return len(self.numberings) >= NUMBERINGS_MAX or (bool(self.numberings) and not self._shares.spare)

    def known(self, trade_id: int, ts: int) -> bool:
        """Whether a trade of this id and time was seen. Where one numbering only knows that the time may be right, and
        the one in use may go on with the trade, it does: a venue that trades on is not to be mute for its past."""
        knowing = [seen for seen in self.numberings if seen.knows(trade_id, ts)]
        if not knowing or self.now is None or not self.now.may_go_on(trade_id, ts):
            return bool(knowing)
        return any(seen.is_sure(trade_id) for seen in knowing)

    def place(self, trade_id: int, ts: int) -> tuple[_Seen | None, Break | None]:
        """The numbering that takes a trade that was never seen, and the break that it is, if any. None: no room for
        another numbering."""
        now = self.now
        if now is None:
            return self._begin(trade_id, ts), None
        others = [seen for seen in self.numberings if seen is not now]
        for seen in (now, *others):
            if seen.fill(trade_id, ts):
                return seen, None
        # The nearest one that it may go on from; of two, the one in use.
        before = max(
            (one for one in (now, *others) if one.highest < trade_id), key=lambda one: one.highest, default=None
        )
        if before is not None and trade_id - before.highest <= self.jump_max:
            wide = not self.sparse and trade_id - before.highest > BREAK_FROM
            told = Break(self.name, before.highest, trade_id) if wide else None
            before.extend(trade_id, ts)
            self._use(before)
            return before, told
        for seen in (now, *others):
            if seen.precede(trade_id, ts):
                return seen, None
        told = Break(self.name, now.highest, trade_id)
        return (None if self.is_full else self._begin(trade_id, ts)), told

    def pass_numbers(self, first: int, last: int, ts: int) -> _Seen | None:
        """The ids `first` to `last`, which bear no trade, were used up (N12). Returns the numbering that they are of
        where it may have changed."""
        for seen in self.numberings:
            # The trade that they were used up by, or one that came beside it.
            if seen.knows(last + 1, ts):
                seen.pass_below(first, last, ts)
                return seen
        if first < last or self.now is None or self.known(last, ts):
            return None
        return self.place(last, ts)[0]

    def _begin(self, trade_id: int, ts: int) -> _Seen:
        number = max((seen.number for seen in self.numberings), default=0) + 1
        share = self._shares.take(is_first=not self.numberings)
        seen = _Seen(self.name, number, trade_id, trade_id, ts, ts, share)
        self.numberings.append(seen)
        self._use(seen)
        return seen

    def _use(self, seen: _Seen) -> None:
        if seen is not self.now:
            self.told = -1
        self.now = seen
        self.floor_ts = max((other.newest_ts for other in self.numberings if other is not seen), default=-1)


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
        numberings: Iterable[Numbering] = (),
        recent_event_ids: Mapping[str, Iterable[tuple[str, int]]] | None = None,
        is_sparse: Callable[[str], bool] = lambda stream: False,
        predecessor: Callable[[str], str | None] = lambda stream: None,
    ) -> None:
        """`sample_every` >= 1: every Nth new tick is processed. `next_tick_id`: the id of the first one,
        greater than any in the database. `numberings`: what is on disk of each stream's ids. `recent_event_ids`:
        stream -> textual ids on disk with their times, oldest first. `is_sparse`: whether the ids of a stream rise with
        holes that mean nothing (venues without `consecutive_ids`); it counts no gaps. `predecessor`: the stream on disk
        in whose place a new one has come, because its source was pointed elsewhere.

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
        self._is_sparse = is_sparse
        self._predecessor = predecessor
        self._streams: dict[str, _Stream] = {}
        self._runs: dict[str, _Run] = {}
        self._shares = _Shares()
        # The newest first, which has most use for the times of its trades.
        for stored in sorted(numberings, key=lambda one: one.newest_ts, reverse=True):
            self._stream(stored.stream).restore(stored)
        self._recent = RecentIds(recent_event_ids)
        self._breaks: list[Break] = []
        # By stream; without those that had none.
        self._duplicates: dict[str, int] = {}
        # Numberings with ids that are not on disk yet, by their label.
        self._moved: dict[str, _Seen] = {}
        # Labels of which the disk knows whose they are, and of those that moved the others.
        self._named: set[str] = set()
        self._unnamed: list[_Seen] = []

    @property
    def sampled_out(self) -> int:
        """New ticks that sampling left out."""
        return self.received - self.processed

    @property
    def gaps(self) -> int:
        """Trade ids that were skipped and never seen, over all sources with consecutive ids (N9)."""
        return sum(stream.gaps or 0 for stream in self._streams.values())

    def by_stream(self) -> dict[str, tuple[int | None, int]]:
        """Stream -> its gaps, None where holes mean nothing, and its duplicates: what `gaps`, `duplicates` sum up."""
        gaps = {stream.name: stream.gaps for stream in self._streams.values()}
        return {name: (gaps.get(name), self._duplicates.get(name, 0)) for name in (*gaps, *self._recent.streams)}

    def take_breaks(self) -> list[Break]:
        """What was found of breaks since the last call (N11)."""
        breaks, self._breaks = self._breaks, []
        return breaks

    def take_moved(self) -> list[Numbering]:
        """The numberings that have moved since the last call: what goes to disk with the ticks that moved them."""
        moved, self._moved = self._moved, {}
        self._named.update(seen.label for seen in self._unnamed)
        self._unnamed.clear()
        return [seen.stored() for seen in moved.values()]

    def take_unnamed(self) -> dict[str, tuple[str, int]]:
        """Label -> (stream, number) of what `take_moved` would give and the disk was not told of: it has to be there
        before ticks that go there without the rest, so that it is known whose they are."""
        named = {seen.label: (seen.stream, seen.number) for seen in self._unnamed}
        self._named.update(named)
        self._unnamed.clear()
        return named

    def _move(self, seen: _Seen) -> None:
        label = seen.label
        if label not in self._moved:
            self._moved[label] = seen
            if label not in self._named:
                self._unnamed.append(seen)

    def admit(self, ticks: list[Tick]) -> list[Tick]:
        """The ticks of `ticks` to process, in order: new ones, every Nth of them, with `id` set, and `source` where a
        stream's ids have started over.

        A tick with a `trade_id` is judged by that and its time, one with only an `event_id` likewise, one with neither
        is always new. The list given is not changed.
        """
        fresh = []
        source: str | None = None
        # Of the stream that the last tick was of, and what stands in its run.
        run: _Run | None = None
        expected, floor, label, newest = -1, -1, "", -1
        runs: list[_Run] = []
        for tick in ticks:
            trade_id = tick.trade_id
            if trade_id is None:
                if tick.event_id is None or self._admit_text(tick.source, tick.event_id, tick.ts):
                    fresh.append(tick)
                else:
                    self._note_duplicate(tick.source)
                continue
            ts = tick.ts
            if tick.source != source:
                if run is not None:
                    run.expected, run.newest = expected, newest
                source = tick.source
                run = self._runs.get(source) or self._run(source)
                if not run.is_open:
                    run.is_open = True
                    run.go_on()
                    runs.append(run)
                expected, floor, label, newest = run.expected, run.floor, run.label, run.newest
            if trade_id == expected and ts > floor:
                if ts != newest:
                    if newest >= 0:
                        assert run is not None
                        run.upto.append(expected - 1)
                        run.times.append(newest)
                    newest = ts
                expected += 1
                if label is not source:
                    tick.source = label
                fresh.append(tick)
                continue
            assert run is not None
            run.expected, run.newest = expected, newest
            self._pass(run)
            if self._admit_slowly(run.stream, tick):
                fresh.append(tick)
            else:
                self._note_duplicate(run.stream.name)
            run.go_on()
            expected, floor, label, newest = run.expected, run.floor, run.label, -1
        if run is not None:
            run.expected, run.newest = expected, newest
        for run in runs:
            self._pass(run)
            run.is_open = False
        self.parsed += len(ticks)
        self.duplicates += len(ticks) - len(fresh)
        sampled = self._sample(fresh)
        tick_id = self._next_tick_id
        for tick in sampled:
            tick.id = tick_id
            tick_id += 1
        self._next_tick_id = tick_id
        return sampled

    def _note_duplicate(self, stream: str) -> None:
        self._duplicates[stream] = self._duplicates.get(stream, 0) + 1

    def _pass(self, run: _Run) -> None:
        """Book the ids of a run."""
        if run.newest >= 0:
            seen = run.seen
            assert seen is not None
            seen.pass_run(run.upto, run.times, run.expected - 1, run.newest)
            self._move(seen)
            if run.times:
                run.upto.clear()
                run.times.clear()

    def _admit_slowly(self, stream: _Stream, tick: Tick) -> bool:
        """Judge a tick that does not simply go on; returns whether it is new."""
        trade_id, ts = tick.trade_id, tick.ts
        assert trade_id is not None
        text = f"{trade_id}@{ts}"
        if stream.known(trade_id, ts) or (stream.is_full and self._recent.knows(stream.name, text, ts)):
            return False
        if stream.now is None:
            self._tell_of_another(stream.name, trade_id)
        seen, told = stream.place(trade_id, ts)
        if told is not None:
            self._breaks.append(told)
        if seen is None:
            tick.trade_id, tick.event_id = None, text
            return self._recent.add(stream.name, text, ts)[0]
        tick.source = seen.label
        self._move(seen)
        return True

    def _admit_text(self, source: str, event_id: str, ts: int) -> bool:
        """Judge a tick that has a textual id; returns whether it is new."""
        is_new, old_id = self._recent.add(source, event_id, ts)
        if old_id is not None:
            self._breaks.append(Break(source, old_id, event_id))
        return is_new

    def _tell_of_another(self, name: str, trade_id: int) -> None:
        """A stream's first trade is a break where another stream of its source ended."""
        ended = self._streams.get(self._predecessor(name) or "")
        if ended is not None and ended.now is not None:
            self._breaks.append(Break(name, ended.now.highest, trade_id))

    def pass_numbers(self, numbers: Numbers) -> None:
        """Ids were used up by what is no trade: they are not missing (N12, N18)."""
        for stream, first, last, ts in numbers:
            found = self._streams.get(stream)
            seen = found.pass_numbers(first, last, ts) if found is not None else None
            if seen is not None:
                self._move(seen)

    def tell_latest(self, stream: str, trade_id: int) -> None:
        """A stream's latest trade has this id, as the venue says: those up to there that have not come are gaps."""
        found = self._streams.get(stream)
        if found is not None:
            found.tell_latest(trade_id)

    def tell_all_latest(self, latest: Mapping[str, int]) -> None:
        """`tell_latest` for each stream."""
        for stream, trade_id in latest.items():
            self.tell_latest(stream, trade_id)

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

    def _run(self, name: str) -> _Run:
        run = self._runs[name] = _Run(self._stream(name))
        return run

    def _stream(self, name: str) -> _Stream:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream(name, self._is_sparse(name), self._shares)
        return stream
