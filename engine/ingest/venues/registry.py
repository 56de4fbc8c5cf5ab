"""Which venues there are: those of this package, and those that other packages bring (entry points, group
`hybrid_engine.venues`).

A venue's module is loaded when a source is of it. Entry points are looked up only for a name that no venue of this
package has, because that reads the metadata of every installed package; so a host tells a venue of this package alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Final

from engine.base.exits import ConfigError
from engine.ingest.venues.markets import Markets, Subscription, host_of, is_below
from engine.ingest.venues.port import Parser, Venue
from engine.ingest.venues.wire import VENUE as MOCK

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

GROUP: Final = "hybrid_engine.venues"

_OURS: Final = {
    "binance": ("binance.com", "binance.us", "binance.vision", "binancefuture.com"),
    "bitstamp": ("bitstamp.net",),
    "bybit": ("bybit.com", "bybit-tr.com", "bybit.kz", "bybitgeorgia.ge"),
    "coinbase": ("coinbase.com",),
    "gemini": ("gemini.com",),
    "kraken": ("kraken.com",),
    "okx": ("okx.com",),
}
"""Venues of this package, by name, which is that of their module too -> their hosts."""


def names() -> list[str]:
    """What `venue` in the sources file may say."""
    return sorted({*_OURS, *(point.name for point in _others())})


def find(name: str) -> Venue:
    """The venue of this name. Raises ValueError when there is none, ConfigError when it cannot be loaded."""
    name = name.lower() if name.isascii() else name
    if name in _OURS:
        venue = import_module(f"engine.ingest.venues.{name}").VENUE
        assert isinstance(venue, Venue)
        return venue
    for point in _others():
        if point.name.lower() == name.lower():
            return _load(point)
    raise ValueError(f"venue {name!r}: allowed are {', '.join(map(repr, names()))}")


def venue_of(name: str | None, url: str) -> Venue:
    """The venue of a source: the one that `venue` in the sources file names, else the one whose host `url` is of, else
    MOCK (N3)."""
    if name is not None:
        return find(name)
    owner = _owner(host_of(url))
    return MOCK if owner is None else find(owner)


def subscription(name: str | None, url: str, table: Mapping[str, str] | None, kind: str) -> Subscription:
    """What a source asks its venue for (N12, N13), of which `name` is the `venue`, `table` the `markets`."""
    venue = venue_of(name, url)
    owner = _owner(host_of(url))
    # Another package's may be another reader of a venue that we know.
    if owner not in (None, venue.name) and venue.name in _OURS:
        problem = f"{host_of(url)} speaks {owner}, not {venue.name}: leave venue out"
        return Subscription(venue.name, problem=problem)
    with _of_another(venue, "it cannot say what to send"):
        found = venue.subscription(url, table, kind)
        if odd := [one for one in (*found.messages, venue.beat) if not isinstance(one, str)]:
            raise TypeError(f"what it sends is text, not {type(odd[0]).__name__}")
        if not all(isinstance(secs, int | float) and 0 <= secs < inf for secs in (venue.beat_secs, venue.max_age_secs)):
            raise ValueError(f"beat_secs {venue.beat_secs!r} or max_age_secs {venue.max_age_secs!r}, expected seconds")
    return found


def parser(name: str | None, url: str, source: str, markets: Markets) -> Parser:
    """What reads the messages of a source, of which `name` is the `venue`, for the whole run."""
    venue = venue_of(name, url)
    with _of_another(venue, "it cannot read"):
        return venue.parser(url, source, markets)


@contextmanager
def _of_another(venue: Venue, what: str) -> Iterator[None]:
    """Whatever another package's code raises is a ConfigError: it will raise the same after each restart."""
    try:
        yield
    except Exception as trouble:
        if venue.name in _OURS:
            raise
        raise ConfigError(
            f"venue {venue.name!r}: {what}: {type(trouble).__name__}: {trouble}",
            key="source.venue",
            value=venue.name,
        ) from None


def is_test_network(name: str | None, url: str) -> bool:
    """Whether the prices of a source are not the market's (R7): its host is a test network of its venue, or of one of
    this package, whoever reads it."""
    host = host_of(url)
    return any(is_below(host, venue.testnets) for venue in (venue_of(name, url), *map(find, _OURS)))


def _owner(host: str) -> str | None:
    """The venue of this package whose host it is."""
    return next((name for name, hosts in _OURS.items() if is_below(host, hosts)), None)


def _others() -> EntryPoints:
    # Here, because it takes an eighth of the time that the engine needs to start, and few bring venues of their own.
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _load(point: EntryPoint) -> Venue:
    """A venue of another package. It is a class or an instance of one."""
    try:
        found = point.load()
        venue = found() if isinstance(found, type) else found
        if not isinstance(venue, Venue):
            raise TypeError(f"not a Venue but {type(venue).__name__}")
        # Whatever its class calls itself: a subclass of one of ours is another venue.
        vars(venue)["name"] = point.name
    except Exception as trouble:
        # Another's code may raise what it likes; whatever it is, the source cannot be read as long as it does.
        raise ConfigError(
            f"venue {point.name!r}: {point.value} cannot be loaded: {type(trouble).__name__}: {trouble}",
            key="source.venue",
            value=point.name,
        ) from None
    return venue
