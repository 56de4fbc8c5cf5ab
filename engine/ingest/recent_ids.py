"""Textual ids seen lately, in 8 to 16 bytes of memory for each (N9, B1).

An id is remembered as its hash of 64 bits. That another id has the same one as any of those remembered happens once in
10^14 ids, and loses that one trade; the texts themselves would take ten times the memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

RECENT_IDS_MAX: Final = 65_536
"""So many of the ids used last are remembered at least, and twice as many at most; what a feed sends again after a
reconnect lies well within it."""

_SLOTS_MIN: Final = 64


class _Hashes:
    """A set of integers other than 0, at least twice as wide as it is full; where one belongs, the next free slot."""

    __slots__ = ("_slots", "count")

    def __init__(self) -> None:
        self._slots = array("q", bytes(8 * _SLOTS_MIN))
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
            old, self._slots = self._slots, array("q", bytes(16 * len(self._slots)))
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


class RecentIds:
    """The ids used last of one source: those since the last turn, and those of the turn before."""

    __slots__ = ("_before", "_now")

    def __init__(self, ids: Iterable[str] = ()) -> None:
        """`ids`: oldest first."""
        self._now = _Hashes()
        self._before = _Hashes()
        for one in ids:
            self.add(one)

    def __contains__(self, text: str) -> bool:
        key = hash(text) or 1
        return key in self._now or key in self._before

    def add(self, text: str) -> bool:
        """Whether `text` is new; from now on it is not, until RECENT_IDS_MAX others at least were used after it."""
        key = hash(text) or 1
        if key in self._now:
            return False
        new = key not in self._before
        self._now.add(key)
        if self._now.count >= RECENT_IDS_MAX:
            self._before, self._now = self._now, _Hashes()
        return new
