"""What a feed is to the pipeline, and where it delivers. Contract section 4.

A feed turns its source into lists of ticks and delivers them to ingest, synchronously. When ingest has no room it
pauses the feed: a WebSocket feed stops reading its sockets, so that TCP slows the venue down (B2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from engine.base.events import Tick

Numbers: TypeAlias = Sequence[tuple[str, int, int, int]]
"""Ids that bear no trade: a stream, the first and the last of them, and the time of what used them up."""


class Inlet(Protocol):
    """What a feed delivers to. Implemented by the pipeline."""

    def deliver(self, ticks: list[Tick], numbers: Numbers = ()) -> int:
        """Take all of `ticks`, and `numbers` of what came beside them; returns how many ticks were new. May call the
        feed's `pause` before it returns."""

    def tell_latest(self, latest: dict[str, int]) -> None:
        """The latest trade of each of these streams has this id, as the venue says (N9)."""

    def answer(self) -> None:
        """The feed's task is at the top of its loop: it is not stuck (E5)."""

    def barred(self, source: str, host: str, secs: float) -> None:
        """`host`, which is that of `source`, is left alone for so long, whatever becomes of this process (N5)."""


class Feed(Protocol):
    """One source of ticks for one run."""

    @property
    def parse_errors(self) -> int:
        """Unusable messages (N8)."""

    @property
    def ignored(self) -> int:
        """Well-formed messages that are no trades (N8b)."""

    @property
    def foreign(self) -> int:
        """Trades of markets that nobody asked for (N12)."""

    @property
    def source(self) -> str | None:
        """Name of the source that delivers; None while there is none."""

    @property
    def reconnects(self) -> int:
        """Connections after the first one."""

    @property
    def connections_unbounded(self) -> int:
        """Connections that were closed because what their peer made us hold had no bound (B4)."""

    @property
    def hindrance(self) -> str:
        """What keeps the feed from its sources, for humans; empty when nothing does."""

    async def run(self) -> None:
        """Feed until `stop`, or until the source is at its end. Raises EngineError when it cannot go on."""

    def stop(self) -> None:
        """End `run`. What has been received has been delivered."""

    def pause(self) -> None:
        """Receive no more until `resume`: ingest has no room."""

    def resume(self) -> None:
        """Ingest has room again."""

    def nudge(self) -> None:
        """Make `run` pass the top of its loop: the probe that it still answers (E5)."""
