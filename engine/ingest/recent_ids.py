"""Textual ids seen lately, in 16 to 32 bytes of memory for each (N9, N11, B1).

An id is remembered as its hash of 64 bits, alone and with its time. That another one has the same hash as any of those
remembered happens once in 10^14 trades, and loses that one; the texts themselves would take ten times the memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Final

RECENT_IDS_MAX: Final = 65_536
"""So many of the ids used last are remembered at least, and twice as many at most; what a feed sends again after a
reconnect lies well within it."""

SHARES_MAX: Final = 4
"""Where several streams have textual ids, so many times as many, in 32 MiB at most. Of Bybit's markets, which have no
other ids, a source may have hundreds."""

_SLOTS_MIN: Final = 64

# Multiplied: an array made of bytes has them beside it for a moment, which a process keeps.
_ZERO: Final = array("q", [0])


def _key(*parts: str | int) -> int:
    """What is remembered of an id: any number but 0, which stands for a free slot."""
    return hash(parts) or 1


class _Hashes:
    """A set of integers other than 0, at least twice as wide as it is full; where one belongs, the next free slot."""

    __slots__ = ("_slots", "count")

    def __init__(self) -> None:
        self._slots = _ZERO * _SLOTS_MIN
        self.count = 0

    def __contains__(self, key: int) -> bool:
        slots = self._slots
        mask = len(slots) - 1
        at = key & mask
        while found := slots[at]:
            if found == key:
                return True
            at = (at + 1) & mask
        return False

    def add(self, key: int) -> None:
        """Add a key that is not there."""
        if 2 * self.count >= len(self._slots):
            old, self._slots = self._slots, _ZERO * (2 * len(self._slots))
            for known in old:
                if known:
                    self._put(known)
        self._put(key)
        self.count += 1

    def _put(self, key: int) -> None:
        slots = self._slots
        mask = len(slots) - 1
        at = key & mask
        while slots[at]:
            at = (at + 1) & mask
        slots[at] = key


class _Recent:
    """The hashes used last: those since the last turn, and those of the turn before."""

    __slots__ = ("_before", "_now")

    def __init__(self) -> None:
        self._now = _Hashes()
        self._before = _Hashes()

    def __contains__(self, key: int) -> bool:
        return key in self._now or key in self._before

    def add(self, key: int, least: int) -> bool:
        """Whether `key` is new; from now on it is not, until `least` others at least were used after it."""
        if key in self._now:
            return False
        new = key not in self._before
        self._now.add(key)
        if self._now.count >= least:
            self._before, self._now = self._now, _Hashes()
        return new


class _Round:
    """Of one stream: which of its rounds it is, whether that has one id only, and the id that was new last."""

    __slots__ = ("is_alone", "newest", "number")

    def __init__(self) -> None:
        self.number = 0
        self.is_alone = False
        self.newest = ""


class RecentIds:
    """The textual ids used last of all streams, and when: an id that comes at another time is of another trade (N11).

    The streams share the room, for a peer may name thousands of them (B5). A **round** is what came of a stream from
    where its ids started over until they do so again: an id that was in this one already begins the next. One of a
    single id is none, for then the venue gives each trade the same.
    """

    __slots__ = ("_of_round", "_rounds", "_trades")

    def __init__(self, trades: Mapping[str, Iterable[tuple[str, int]]] | None = None) -> None:
        """`trades`: stream -> (id, time in Unix ms), oldest first."""
        self._trades = _Recent()
        self._of_round = _Recent()
        self._rounds: dict[str, _Round] = {}
        for stream, known in (trades or {}).items():
            for text, ts in known:
                self.add(stream, text, ts)

    @property
    def streams(self) -> Iterable[str]:
        """Those of which ids were seen."""
        return self._rounds.keys()

    def knows(self, stream: str, text: str, ts: int) -> bool:
        """Whether a trade of this id and time was seen lately."""
        return _key(stream, text, ts) in self._trades

    def add(self, stream: str, text: str, ts: int) -> tuple[bool, str | None]:
        """Whether a trade is new: from now on it is not, until RECENT_IDS_MAX others at least were used after it; and
        where the ids of its stream start over with it the one before, else None."""
        current = self._rounds.get(stream)
        if current is None:
            current = self._rounds[stream] = _Round()
        least = RECENT_IDS_MAX * min(len(self._rounds), SHARES_MAX)
        if not self._trades.add(_key(stream, text, ts), least):
            return False, None
        old_id = None
        if self._of_round.add(_key(stream, current.number, text), least):
            current.is_alone = not current.newest
        elif not current.is_alone:
            old_id = current.newest
            current.number += 1
            self._of_round.add(_key(stream, current.number, text), least)
            current.is_alone = True
        current.newest = text
        return True, old_id
