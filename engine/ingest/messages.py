"""One source's messages: its parser, and what is told of those that cannot be used (N8, N9, N12)."""

from __future__ import annotations

import logging

from engine.base.exits import ProtocolChanged
from engine.base.logs import RateLimited
from engine.ingest.venues.port import Parser

logger = logging.getLogger("engine.ingest.messages")


# At most so often a source's foreign trades are logged.
_FOREIGN_SECS = 60.0


class Messages:
    """One source's parser and its run of unusable messages, across reconnects (N8)."""

    def __init__(
        self, parser: Parser, limit: int, messages: tuple[str, ...] = (), markets: tuple[str, ...] = (), beat: str = ""
    ) -> None:
        """`messages`: what is sent after the upgrade to have `markets` sent, in upper case. `beat`: what is sent now
        and then (`session.Beat`)."""
        self.parser = parser
        self.messages = messages
        self.markets = markets
        self.beat = beat
        # What the venue said the last time it rejected a subscription; "" once it acknowledged one.
        self.rejection = ""
        # Set once the parser's streak of errors reaches the limit.
        self.broken: ProtocolChanged | None = None
        self._limit = limit
        self._errors_seen = 0
        self._log = RateLimited(logger, logging.WARNING)
        self._foreign_seen = 0
        # Messages that were missed, by the venue's own count.
        self.lost = 0
        self._lost_log = RateLimited(logger, logging.WARNING)
        # It is the peer's way rather than an event: a line a minute will do.
        self._foreign_log = RateLimited(logger, logging.WARNING, _FOREIGN_SECS)

    def check_foreign(self, now: float, source: str) -> None:
        """To be called after messages, some of which may have been of another market (N12)."""
        parser = self.parser
        if parser.foreign != self._foreign_seen:
            self._foreign_seen = parser.foreign
            self._foreign_log.log(
                now,
                "trade of a market that nobody asked for",
                source=source,
                market=parser.last_foreign,
                foreign=parser.foreign,
            )

    def tell_lost(self, now: float, source: str, messages: int) -> None:
        """The venue counts its messages, and so many never came (N9)."""
        self.lost += messages
        self._lost_log.log(now, "messages of the venue are missing", source=source, lost=self.lost)

    def check(self, now: float, **where: object) -> None:
        """To be called after a message that may have been unusable."""
        parser = self.parser
        if parser.errors == self._errors_seen:
            return
        self._errors_seen = parser.errors
        self._log.log(now, "unusable message", error=parser.last_error, parse_errors=parser.errors, **where)
        if parser.error_streak >= self._limit and self.broken is None:
            self.broken = ProtocolChanged(
                f"{parser.error_streak} unusable messages in a row, the last one: {parser.last_error}",
                parse_errors=parser.errors,
                parse_error_limit=self._limit,
                **where,
            )
