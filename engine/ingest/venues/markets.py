"""Which market a trade belongs to, and what its ticks and ids are called (N10, N12); what a source asks for. Pure.

A source asks for markets: its URL says which, or `markets` in the sources file, or, where neither does, it is the first
market that it brings. A trade of another market is foreign: counted, never stored.

Each market of a source numbers its trades for itself, and so do a venue's single and aggregated trades. What shares one
sequence of ids is a **stream**; its name is what `Tick.source` says and what the table `sources` keeps. The first
stream of a source has the source's own name. Of a source whose messages bring their own symbols, MOCK_WS and the lines
of a replay, each symbol is a market.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from string import ascii_lowercase, ascii_uppercase
from sys import intern
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

_UPPER: Final = str.maketrans(ascii_lowercase, ascii_uppercase)
_LOWER: Final = str.maketrans(ascii_uppercase, ascii_lowercase)


def upper(market: str) -> str:
    """A market in the one spelling that it has among us. Only ASCII letters have two: of "\u0131" str.upper makes an I,
    which is another market's letter."""
    return market.translate(_UPPER)


def lower(market: str) -> str:
    """The same in lower case."""
    return market.translate(_LOWER)


TRADE: Final = "trade"
AGGREGATED: Final = "aggTrade"
"""What Binance calls its two kinds of trades, in messages and in the names of streams."""

# Text, which `re` compiles when it is first needed: what a run does not ask, it need not wait for.
_PAIR: Final = r"[^\W_a-z]+[/_-][^\W_a-z]+.*|[^\W_a-z]{2,}(USD|USDT|USDC|FDUSD|GUSD|EUR|GBP|TRY|BTC|ETH|BNB)"
_CONTRACT: Final = r"(:.*|[-_/ ]?PERP|[-_ ][0-9]{6})$"
_NUMBERING: Final = r" \(numbering \d+\)$"

MOCK: Final = "mock"
"""The venue of MOCK_WS, whose messages bring their own symbols."""


class Subscription(Struct, frozen=True):
    """What a source asks for."""

    venue: str
    """Its venue's name."""
    markets: tuple[str, ...] = ()
    """The markets whose trades it asks for, as the venue writes them; empty when the URL does not tell."""
    problem: str | None = None
    """Why no trade can ever come; None when one may."""
    doubts: tuple[str, ...] = ()
    """What an operator had better know."""
    messages: tuple[str, ...] = ()
    """What is sent after the upgrade, so that they come; empty where the URL is enough."""


def host_of(url: str) -> str:
    """The host that a URL names, as rules about hosts know it; "" where it names none. Raises ValueError for no URL."""
    return (urlsplit(url).hostname or "").rstrip(".")


def is_below(host: str, domains: Iterable[str]) -> bool:
    """Whether `host` is one of `domains`, or of one of them."""
    return any(host == domain or host.endswith("." + domain) for domain in domains)


def plain(name: str) -> str:
    """A market's or symbol's name without what is written differently here and there: "btc-usdt" -> "BTCUSDT"."""
    return upper(re.sub(r"[\W_]", "", name))


def misnomer(market: str, name: str) -> str | None:
    """What is doubtful of calling `market` by `name`: that it is another pair's. A name that is no pair is an alias,
    and so is one in another script."""
    if market.isascii() != name.isascii() or not re.fullmatch(_PAIR, upper(name)):
        return None
    is_other = plain(market) != plain(name) and _pair(market) != _pair(name)
    return f"{upper(market)} is called {name}, the name of another market" if is_other else None


def _pair(name: str) -> str:
    """What a market trades: of a future, "BTC/USDT:USDT", "BTC/USDT-PERP" or "BTCUSDT_260925", its underlying."""
    return plain(re.sub(_CONTRACT, "", upper(name)))


def asked(found: Subscription, table: Mapping[str, str] | None, symbol: str) -> dict[str, str] | None:
    """Market -> what its ticks are called, for one source; None when neither its URL nor its `markets` say.

    `table`: its `markets`. `symbol`: what its ticks are called where that does not tell: the only market; of several
    the one that is spelled like it, while the others are called as the venue calls them.
    """
    if table is not None:
        return {upper(market): name for market, name in table.items()}
    if len(found.markets) == 1:
        return {found.markets[0]: symbol}
    return {market: symbol if plain(market) == plain(symbol) else market for market in found.markets} or None


def misfit(found: Subscription, table: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """Why a source's `markets` cannot be what its URL asks for, or None; and what of it will not come as expected."""
    if found.venue == MOCK:
        return "each of its messages brings its own symbol", ()
    wanted = [upper(market) for market in table]
    if len(set(wanted)) < len(wanted):
        return "the same market stands there twice", ()
    if len(set(table.values())) < len(table):
        return "two markets are called by the same name, and would share positions", ()
    misnomers = [doubt for market, name in table.items() if (doubt := misnomer(market, name)) is not None]
    if not found.markets:
        return None, tuple(misnomers)
    if not set(wanted) & set(found.markets):
        return f"its URL asks for {', '.join(found.markets)}", ()
    unasked = [market for market in wanted if market not in found.markets]
    unnamed = [market for market in found.markets if market not in wanted]
    doubts = [f"{market} will not come: the URL does not ask for it" for market in unasked]
    doubts += [f"trades of {market} are left out: markets does not name it" for market in unnamed]
    return None, (*misnomers, *doubts)


def _market(key: str) -> str:
    """The market that a stream's key stands for."""
    return key.removesuffix(f"@{AGGREGATED}")


class Streams:
    """The names of all streams, those of earlier runs included."""

    def __init__(
        self,
        stored: Mapping[str, tuple[str, str] | None] | None = None,
        sources: Iterable[str] = (),
        symbols: Mapping[str, str] | None = None,
    ) -> None:
        """`stored`: name of a stream on disk -> (source, key); None where it is not known, which leaves the name to the
        source that is called so. `sources`: the names of all sources, which no other source's stream may get.
        `symbols`: name of a stream on disk -> what its newest tick is called."""
        stored = stored or {}
        self._symbols = symbols or {}
        self._names = {owner: intern(name) for name, owner in stored.items() if owner is not None}
        self._owners = {name: owner for owner, name in self._names.items()}
        self._taken = set(stored) | set(sources)
        self._used: set[str] = set()  # in this run
        self._asked: dict[str, frozenset[str]] = {}  # source -> markets, where they are known
        self._open: set[str] = set()  # sources that may bring any market at any time
        self._new: dict[str, tuple[str, str]] = {}

    def ask(self, source: str, markets: Iterable[str]) -> None:
        """A source is meant to bring these markets."""
        self._asked[source] = frozenset(markets)

    def market_called(self, source: str, symbol: str) -> str | None:
        """The market of an earlier run whose ticks, of `source`, were called `symbol`; None when there was none."""
        for name, called in self._symbols.items():
            if called == symbol and name in self._owners and self._owners[name][0] == source:
                return _market(self._owners[name][1])
        return None

    def predecessor(self, name: str) -> str | None:
        """The stream of an earlier run in whose place a new one has come: of the same source, not heard in this run,
        and of no other market that is asked for. None when there is none, or several, or the source brings what it
        likes."""
        source, key = self.owner(name)
        if source in self._open:
            return None
        others = self._asked.get(source, frozenset()) - {_market(key)}
        gone = [
            other
            for other, (its_source, its_key) in self._owners.items()
            if its_source == source and other not in self._used and _market(its_key) not in others
        ]
        return gone[0] if len(gone) == 1 else None

    def name(self, source: str, key: str) -> str:
        """The name of the stream in which `source` numbers what `key` stands for: a market, or "" for all it brings."""
        name = self._names.get((source, key))
        if name is None:
            name = source
            if name in self._owners:
                wanted = name = f"{source} {key}".rstrip()
                number = 2
                # Whatever a peer calls a symbol, it is not the numbering of another one (events.numbering_label).
                while name in self._taken or re.search(_NUMBERING, name):
                    name, number = f"{wanted} ({number})", number + 1
            name = self._claim(name, source, key)
        self._used.add(name)
        return name

    def _claim(self, name: str, source: str, key: str) -> str:
        name = intern(name)
        self._names[source, key] = name
        self._owners[name] = self._new[name] = (source, key)
        self._taken.add(name)
        return name

    def of_symbol(self, source: str, symbol: str) -> str:
        """The name of the stream of a symbol, as the messages of `source` spell it, which may bring any."""
        self._open.add(source)
        if self._owners.get(source) is None and self._symbols.get(source) is not None:
            # What was stored when all symbols of a source still had one stream.
            self._claim(source, source, self._symbols[source])
        return self.name(source, symbol)

    def owner(self, name: str) -> tuple[str, str]:
        """(source, key) of a stream; that of a name that nobody claimed is itself."""
        return self._owners.get(name, (name, ""))

    def take_new(self) -> dict[str, tuple[str, str]]:
        """The streams named since the last call, for the disk: name -> (source, key)."""
        new, self._new = self._new, {}
        return new


class Markets:
    """The markets of one source."""

    def __init__(self, source: str, symbol: str, streams: Streams, asked: Mapping[str, str] | None = None) -> None:
        """`symbol`: what ticks of a market that nobody named are called. `asked`: market, in upper case ->
        what its ticks are called; None: unknown, so that the first one that comes is meant, or came in an earlier run
        under that symbol."""
        self._source = source
        self._symbol = symbol
        self._streams = streams
        self.asked = None if asked is None else dict(asked)
        streams.ask(source, asked or ())
        self.guessed: str | None = None
        """The market that was taken because it came first; None while none was."""
        self.awaited: str | None = None
        """The market that came first in an earlier run, as long as no trade of it comes in this one; else None."""
        if asked is None and (market := streams.market_called(source, symbol)):
            self._guess(market)
            self.awaited = market

    @property
    def is_single(self) -> bool:
        """Whether all its trades are of one market, so that one that does not say its market is of that."""
        return self.asked is None or len(self.asked) == 1

    def place(self, market: str, kind: str) -> tuple[str, str] | None:
        """The stream and the symbol of a trade; None when nobody asked for its market. `market`: as the message says,
        "" when it does not; `kind`: TRADE or AGGREGATED."""
        market = upper(market)
        if not market:
            if not self.is_single:
                return None
            market = next(iter(self.asked), "") if self.asked else ""
        elif self.asked is None:
            self._guess(market)
        symbol = self._symbol if self.asked is None else self.asked.get(market)
        if symbol is None:
            return None
        self.awaited = None
        key = f"{market}@{kind}" if kind == AGGREGATED else market
        return self._streams.name(self._source, key), symbol

    def place_symbol(self, symbol: str) -> str:
        """The stream of a trade whose message brings the symbol of its tick."""
        return self._streams.of_symbol(self._source, symbol)

    def find(self, market: str, kind: str) -> tuple[str, str] | None:
        """Like `place`, for what is no trade: it does not tell which market is meant."""
        return None if self.asked is None else self.place(market, kind)

    def _guess(self, market: str) -> None:
        self.asked = {market: self._symbol}
        self.guessed = market
