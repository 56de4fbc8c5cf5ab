"""Which market a trade belongs to, and what its ticks and ids are called (N10, N12); what a URL asks for (N13). Pure.

A source asks for markets: its URL says which, or `markets` in the sources file, or, where neither does, it is the first
market that it brings. A trade of another market is foreign: counted, never stored.

Each market of a source numbers its trades for itself, and so do a venue's single and aggregated trades. What shares one
sequence of ids is a **stream**; its name is what `Tick.source` says and what the table `sources` keeps. The first
stream of a source has the source's own name.

What URLs mean: Binance "WebSocket Streams" (spot; USD-M and COIN-M futures; testnet), "SBE Market Data Streams" and
"WebSocket API", Gemini "Market Data" versions 1 and 2 and "Fast API", as their documentation stood in November 2026.
USD-M futures since April 2026: "Important WebSocket Change Notice" (developers.binance.com, USDS-Margined Futures,
WebSocket Market Streams) gives `@aggTrade` to /market alone; elsewhere the connection opens and stays silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import pairwise
from json import dumps
from string import ascii_lowercase, ascii_uppercase
from sys import intern
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct


class Kind(StrEnum):
    """The dialects that are told by their URL or need no telling; those of other venues go by the venue's name."""

    MOCK = "mock"
    BINANCE = "binance"
    GEMINI = "gemini"
    REPLAY = "replay"


_VENUES: Final = {"binance": Kind.BINANCE, "gemini": Kind.GEMINI}
_HOSTS: Final = {
    "binance.com": Kind.BINANCE,
    "binance.us": Kind.BINANCE,
    "binance.vision": Kind.BINANCE,
    "binancefuture.com": Kind.BINANCE,
    "gemini.com": Kind.GEMINI,
}


def kind_for(venue: str | None, url: str) -> Kind:
    """The dialect of a source in ws_sources.toml (contract section 2).

    `venue` decides when given; without it the host of `url` does, and an unknown host speaks MOCK.
    ValueError when `venue` is unknown, or when there is none and `url` is not a URL.
    """
    if venue is not None:
        try:
            return _VENUES[venue.lower() if venue.isascii() else venue]
        except KeyError:
            raise ValueError(f"venue {venue!r}: allowed are {', '.join(map(repr, _VENUES))}") from None
    host = host_of(url)
    return next((kind for domain, kind in _HOSTS.items() if is_below(host, (domain,))), Kind.MOCK)


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

_TESTNETS: Final = ("testnet.binance.vision", "binancefuture.com", "sandbox.gemini.com")
# Markets may be called in any script: Binance has some since 2025 ("UTF-8 Encoding" in its changelog of December 2025).
_TRADE_STREAM: Final = re.compile(rf"([\w.\-]+)@({TRADE}|{AGGREGATED})")
_ROUTED: Final = "fstream.binance.com"
_FUTURES_HOST: Final = re.compile(r"[a-z-]*[fd]stream[a-z-]*\.binance\.com|(.+\.)?binancefuture\.com")
_SPOT_MARKET: Final = re.compile(r"[^\W_A-Z]+")
_FUTURES_MARKET: Final = re.compile(r"[^\W_A-Z]+(_(perp|[0-9]{6}))?")
_PAIR: Final = re.compile(
    r"[^\W_a-z]+[/_-][^\W_a-z]+.*|[^\W_a-z]{2,}(USD|USDT|USDC|FDUSD|GUSD|EUR|GBP|TRY|BTC|ETH|BNB)"
)
_CONTRACT: Final = re.compile(r"(:.*|[-_/ ]?PERP|[-_ ][0-9]{6})$")
_GEMINI_ENTRIES: Final = ("bids", "offers", "trades", "auctions")


class Subscription(Struct, frozen=True):
    """What a source asks for."""

    kind: str
    """A `Kind`, or the name of another venue."""
    markets: tuple[str, ...] = ()
    """The markets whose trades it asks for, as the venue writes them; empty when the URL does not tell."""
    problem: str | None = None
    """Why no trade can ever come; None when one may."""
    doubts: tuple[str, ...] = ()
    """What an operator had better know."""
    messages: tuple[str, ...] = ()
    """What is sent after the upgrade, so that they come; empty where the URL is enough."""


def subscription(
    venue: str | None, url: str, table: Mapping[str, str] | None = None, label: str = TRADE
) -> Subscription:
    """Reads a URL as Binance, Gemini (version 1) or nobody does. The rules are held against a venue's own hosts only:
    what a proxy or a mock exchange makes of a path is its own business.

    `table`: the source's `markets`, which Binance is asked for by SUBSCRIBE where the URL is for that. `label`: its
    `kind`.
    """
    kind = kind_for(venue, url)
    parts, host = urlsplit(url), host_of(url)
    if kind is Kind.MOCK:
        if _is_local(host):
            return Subscription(kind)
        return Subscription(
            kind, doubts=(f"{host} is not a host of a known venue: its messages are read as MOCK_WS's",)
        )
    if kind is Kind.BINANCE and table is not None and is_bare(url):
        return _subscribed(host, url, table, label)
    read = _binance if kind is Kind.BINANCE else _gemini
    its_kind = kind_for(None, url)
    if its_kind not in (kind, Kind.MOCK):
        return _hopeless(kind, f"{host} speaks {its_kind}, not {kind}: leave venue out")
    if its_kind is Kind.MOCK:
        return Subscription(kind, read("", unquote(parts.path), parts.query).markets)
    if parts.scheme == "ws":
        return _hopeless(kind, f"{host} serves wss:// only")
    found = read(host, unquote(parts.path), parts.query)
    if is_below(host, _TESTNETS):
        doubt = f"{host} is a test network: its prices are not the market's, and its ids start over"
        return Subscription(kind, found.markets, found.problem, (*found.doubts, doubt))
    return found


def is_bare(url: str) -> bool:
    """Whether a URL of Binance's is for those who name their streams in a SUBSCRIBE."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    return path.endswith("/ws") or (path.endswith("/stream") and "streams=" not in parts.query)


def _subscribed(host: str, url: str, table: Mapping[str, str], label: str) -> Subscription:
    """What Binance is asked for by SUBSCRIBE: held against the same rules as if the URL named those streams."""
    kind = AGGREGATED if label.lower() == AGGREGATED.lower() else TRADE
    streams = [f"{lower(market)}@{kind}" for market in table]
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/stream").removesuffix("/ws") + "/ws/" + "/".join(streams)
    found = subscription("binance", parts._replace(path=path, query="").geturl())
    if found.problem is not None:
        return found
    # By the id the answer is told from others.
    asked = dumps({"method": "SUBSCRIBE", "params": streams, "id": 1})
    return Subscription(found.kind, found.markets, doubts=found.doubts, messages=(asked,))


def host_of(url: str) -> str:
    """The host that a URL names, as rules about hosts know it; "" where it names none. Raises ValueError for no URL."""
    return (urlsplit(url).hostname or "").rstrip(".")


def is_below(host: str, domains: Iterable[str]) -> bool:
    """Whether `host` is one of `domains`, or of one of them."""
    return any(host == domain or host.endswith("." + domain) for domain in domains)


def _is_local(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _binance(host: str, path: str, query: str) -> Subscription:
    """`host`: "" for one that is not the venue's."""
    if host.startswith("stream-sbe."):
        return _hopeless(Kind.BINANCE, "it sends binary SBE messages; use stream.binance.com")
    if host.startswith(("ws-api.", "ws-fapi.", "ws-dapi.", "api.", "fapi.", "dapi.", "www.")) or host == "binance.com":
        return _hopeless(Kind.BINANCE, "it answers requests and sends no streams; use stream.binance.com")
    path = path.rstrip("/")
    if path.endswith("/stream"):
        # By hand: parse_qs would take the "+" of a time zone for a space. A slash may be encoded, in a query.
        pairs = [unquote(pair) for pair in query.split("&")]
        asked = [name for pair in pairs if pair.startswith("streams=") for name in pair[8:].split("/")]
    else:
        asked = path.partition("/ws/")[2].split("/")
    asked = [name for name in asked if name]
    if not asked:
        return _hopeless(
            Kind.BINANCE,
            "it names no stream; ask for one, such as /ws/btcusdt@trade, or end it in /ws and name `markets`",
        )
    route = path.removesuffix("/stream").partition("/ws/")[0].strip("/")
    markets: list[str] = []
    wrong: list[str] = []
    doubts: list[str] = []
    for before, name in pairwise(("@", *asked)):
        problem, doubt = _binance_stream(host, route, before, name)
        if problem is not None:
            wrong.append(problem)
            continue
        if doubt is not None:
            doubts.append(doubt)
        market = upper(name.partition("@")[0])
        if market not in markets:
            markets.append(market)
    if not markets:
        return _hopeless(Kind.BINANCE, "; ".join(wrong[:3]))
    return Subscription(Kind.BINANCE, tuple(markets), doubts=tuple((wrong + doubts)[:3]))


def _binance_stream(host: str, route: str, before: str, name: str) -> tuple[str | None, str | None]:
    """Why a stream brings no trades, or None; and what is doubtful of one that may. `route`: what stands before /ws;
    `before`: the stream that is asked for before it."""
    match = _TRADE_STREAM.fullmatch(name)
    if match is None:
        is_near = re.search(r"@(trade|aggtrade)\b", name, re.IGNORECASE)
        return f"{name!r} is not spelled as the venue does" if is_near else f"{name!r} carries no trades", None
    market, kind = match.groups()
    # European options write their symbols in upper case, and what an unknown host does nobody knows.
    if not host or host.startswith("nbstream."):
        return None, None
    is_futures = _FUTURES_HOST.fullmatch(host) is not None
    meant = lower(plain(market))
    if is_futures and (contract := re.search(r"[-_.]?(perp|[0-9]{6})$", lower(market))):
        meant = f"{lower(plain(market[: contract.start()]))}_{contract[1]}"
    # A "/" within a market's name parts it in two streams, the first of no kind. A user's key is longer.
    if re.fullmatch(r"[^\W_]{1,20}", before):
        return f"'{before}/{name}' must be written without the slash: '{lower(before)}{meant}@{kind}'", None
    if not (_FUTURES_MARKET if is_futures else _SPOT_MARKET).fullmatch(market):
        how = "in lower case" if lower(market) == meant else "without separators, in lower case"
        return f"{name!r} must be written {how}: '{meant}@{kind}'", None
    if host == _ROUTED and route != "market" and (kind == AGGREGATED or route == "private"):
        where = f"/{route} is silent" if route else "silent without a route"
        return f"{name!r}: {where} since April 2026; use wss://{host}/market/ws/{market}@{AGGREGATED}", None
    if is_futures and kind == TRADE:
        return None, f"{name!r} is not documented for futures and may be silent; {market}@{AGGREGATED} is"
    if route and not is_futures:
        return None, f"the venue documents no /{route} for its spot markets"
    return None, None


def _gemini(host: str, path: str, query: str) -> Subscription:
    match = re.fullmatch(r"/v1/marketdata/([A-Za-z0-9]+)/?", path)
    if match is None:
        asked = "its market data must be subscribed to by a message, which this engine does not send"
        if path.startswith("/v1/"):
            asked = f"{path!r} is not the market data of one market"
        return _hopeless(Kind.GEMINI, f"{asked}; use wss://api.gemini.com/v1/marketdata/btcusd")
    if host and not host.startswith("api."):
        return _hopeless(Kind.GEMINI, f"version 1 is served by api.gemini.com, not by {host}")
    flags = {name: value.lower() for name, value in parse_qsl(query)}
    chosen = {name: flags[name] for name in _GEMINI_ENTRIES if name in flags}
    if chosen and chosen.get("trades") != "true":
        return _hopeless(Kind.GEMINI, "its flags leave out trades: add trades=true, or no flags at all")
    return Subscription(Kind.GEMINI, (match[1].upper(),))


def _hopeless(kind: Kind, problem: str) -> Subscription:
    return Subscription(kind, problem=problem)


def plain(name: str) -> str:
    """A market's or symbol's name without what is written differently here and there: "btc-usdt" -> "BTCUSDT"."""
    return upper(re.sub(r"[\W_]", "", name))


def misnomer(market: str, name: str) -> str | None:
    """What is doubtful of calling `market` by `name`: that it is another pair's. A name that is no pair is an alias,
    and so is one in another script."""
    if market.isascii() != name.isascii() or not _PAIR.fullmatch(upper(name)):
        return None
    is_other = plain(market) != plain(name) and _pair(market) != _pair(name)
    return f"{upper(market)} is called {name}, the name of another market" if is_other else None


def _pair(name: str) -> str:
    """What a market trades: of a future, "BTC/USDT:USDT", "BTC/USDT-PERP" or "BTCUSDT_260925", its underlying."""
    return plain(_CONTRACT.sub("", upper(name)))


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
    if found.kind is Kind.MOCK:
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
        and of no other market that is asked for. None when there is none, or several."""
        source, key = self.owner(name)
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
                while name in self._taken:
                    name, number = f"{wanted} ({number})", number + 1
            name = intern(name)
            self._names[source, key] = name
            self._owners[name] = self._new[name] = (source, key)
            self._taken.add(name)
        self._used.add(name)
        return name

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
        if asked is None and (market := streams.market_called(source, symbol)):
            self._guess(market)

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
        key = f"{market}@{kind}" if kind == AGGREGATED else market
        return self._streams.name(self._source, key), symbol

    def find(self, market: str, kind: str) -> tuple[str, str] | None:
        """Like `place`, for what is no trade: it does not tell which market is meant."""
        return None if self.asked is None else self.place(market, kind)

    def _guess(self, market: str) -> None:
        self.asked = {market: self._symbol}
        self.guessed = market
