"""A TCP connection to a host, whichever of its addresses answers (N16).

Every address is tried as RFC 8305 says (happy eyeballs), so that a dead one costs a quarter of a second. An address
whose TCP connection came about and whose handshake failed is tried last the next time.

Names are resolved in daemon threads of our own: asyncio waits for its own at the end of a run, and the interpreter for
all that are not daemons, as long as a silent name server makes them wait.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
import threading
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

from engine.ingest.session import CONNECT_TIMEOUT_SECS

DIAL_TIMEOUT_SECS: Final = 0.9 * CONNECT_TIMEOUT_SECS
"""How long names and addresses together may take: less than the attempt, so that the log can say which of them did."""

_NEXT_ADDRESS_SECS: Final = 0.25
"""How long an address has before the next one is tried beside it: RFC 8305's Connection Attempt Delay."""

# What the kernel may buffer of one connection, and so about the most that one read brings: picows doubles its own
# buffer whenever a read fills it, and a saturated loopback would take it to megabytes (B1). Market data over a
# link of 100 ms still gets 1 MB/s, 7000 trades a second, through. Against 256 KiB this saves 1 MiB of resident
# memory at saturation and costs no throughput (`python -m bench --only T1,T5`).
_RECEIVE_BUFFER_BYTES: Final = 96 * 1024

# `struct tcp_info` of linux/tcp.h begins with 8 bytes and 15 numbers; the 12th is tcpi_last_data_recv.
_TCP_INFO: Final = struct.Struct("8x15I")
_LAST_DATA_RECV: Final = 11

Place = tuple[str, int]
"""Host and port, as they stand in a URL."""

_Address = tuple[Any, ...]
_AddressInfo = tuple[int, int, int, str, _Address]
"""What getaddrinfo gives."""


def secs_since_bytes(connected: socket.socket) -> float | None:
    """How long ago the kernel got the latest bytes from the peer, read or not; None where it does not say."""
    try:
        info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        return float(_TCP_INFO.unpack(info)[_LAST_DATA_RECV]) / 1000
    except (OSError, struct.error):
        # Closed already, or no socket of TCP's.
        return None


class Dialer:
    """Dials for one run."""

    def __init__(self) -> None:
        # Lookups that have not ended. One a name, so that a silent resolver holds as many threads as there are names.
        self._lookups: dict[Place, asyncio.Future[Sequence[_AddressInfo]]] = {}
        # Those of a place's addresses whose last handshake failed.
        self._disappointing: dict[Place, set[_Address]] = {}

    async def dial(self, place: Place) -> socket.socket:
        """A connected socket. Raises OSError, which says what did not answer, within DIAL_TIMEOUT_SECS."""
        # Imported only here, for a run without a WebSocket has no use for it.
        from aiohappyeyeballs import start_connection

        missing = f"the name {place[0]!r} was not resolved"
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_SECS):
                addresses = self._in_order(place, await self._resolve(place))
                missing = f"no connection to {_names(addresses)}"
                return await start_connection(
                    addresses, happy_eyeballs_delay=_NEXT_ADDRESS_SECS, interleave=0, socket_factory=_make_socket
                )
        except TimeoutError as error:
            raise TimeoutError(f"{missing} within {DIAL_TIMEOUT_SECS:g} s") from error

    def note_handshake(self, place: Place, address: _Address, *, good: bool) -> None:
        """What became of a connection to one address (its peer name) of a place."""
        known = self._disappointing.setdefault(place, set())
        known.discard(address) if good else known.add(address)

    def _in_order(self, place: Place, addresses: Sequence[_AddressInfo]) -> list[_AddressInfo]:
        """`addresses`, of each family in turn, with those last that disappointed, unless all have."""
        families: dict[int, list[_AddressInfo]] = {}
        for info in addresses:
            families.setdefault(info[0], []).append(info)
        addresses = [info for turn in zip_longest(*families.values()) for info in turn if info is not None]
        known = {info[4] for info in addresses} & self._disappointing.get(place, set())
        if len(known) == len({info[4] for info in addresses}):
            known.clear()
        self._disappointing[place] = known
        return sorted(addresses, key=lambda info: info[4] in known)

    async def _resolve(self, place: Place) -> Sequence[_AddressInfo]:
        lookup = self._lookups.get(place)
        if lookup is None:
            loop = asyncio.get_running_loop()
            lookup = loop.create_future()
            threading.Thread(target=_look_up, args=(loop, lookup, place), name="resolver", daemon=True).start()
            self._lookups[place] = lookup
            lookup.add_done_callback(functools.partial(self._looked_up, place))
        # A cancelled attempt leaves the lookup to the next one.
        return await asyncio.shield(lookup)

    def _looked_up(self, place: Place, lookup: asyncio.Future[Sequence[_AddressInfo]]) -> None:
        del self._lookups[place]
        # Nobody may be waiting for it any more.
        if not lookup.cancelled():
            lookup.exception()


def _look_up(loop: asyncio.AbstractEventLoop, lookup: asyncio.Future[Sequence[_AddressInfo]], place: Place) -> None:
    """The work of a resolver thread."""
    found: Sequence[_AddressInfo] | OSError
    try:
        found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
    except OSError as error:
        found = error
    except UnicodeError as error:
        found = OSError(f"{place[0]!r} cannot be the name of a host: {error}")

    def tell() -> None:
        if lookup.done():
            return
        if isinstance(found, OSError):
            lookup.set_exception(found)
        else:
            lookup.set_result(found)

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:
        # The loop ended, and with it whoever wanted to know.
        return


def _make_socket(info: _AddressInfo) -> socket.socket:
    made = socket.socket(*info[:3])
    # Before the connection, so that it bounds the handshake too.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    return made


def _names(addresses: Sequence[_AddressInfo]) -> str:
    shown = [str(info[4][0]) for info in addresses[:4]]
    more = len(addresses) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
