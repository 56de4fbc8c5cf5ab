"""A TCP connection to a host: which of its addresses is tried last (contract N16), what it may hold (B1)."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from engine.ingest import dialing
from engine.ingest.dialing import Dialer, secs_since_bytes
from engine.ingest.session import CONNECT_TIMEOUT_SECS
from proofs.fixtures import engine_loop

PLACE = ("venue.test", 443)
FIRST, SECOND = (("192.0.2.1", 443), ("192.0.2.2", 443))


def order(dialer: Dialer) -> list[Any]:
    return [info[4] for info in dialer._in_order(PLACE, [(2, 1, 6, "", FIRST), (2, 1, 6, "", SECOND)])]


@pytest.mark.claim("N16")
def test_N16_an_address_is_tried_last_only_until_its_handshake_succeeds() -> None:
    dialer = Dialer()
    assert order(dialer) == [FIRST, SECOND]
    dialer.note_handshake(PLACE, FIRST, good=False)
    assert order(dialer) == [SECOND, FIRST]
    dialer.note_handshake(PLACE, FIRST, good=True)
    assert order(dialer) == [FIRST, SECOND]
    for address in (FIRST, SECOND):
        dialer.note_handshake(PLACE, address, good=False)
    assert order(dialer) == [FIRST, SECOND]
    # Where all have disappointed none has, until it does again.
    dialer.note_handshake(PLACE, FIRST, good=False)
    assert order(dialer) == [SECOND, FIRST]


async def dialed(place: tuple[str, int]) -> socket.socket:
    return await Dialer().dial(place)


@pytest.mark.claim("B1")
def test_B1_what_the_kernel_buffers_of_a_connection_is_bounded() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        engine_loop.run(dialed(server.getsockname()[:2])) as connected,
    ):
        # Linux doubles it, for what it keeps itself of each packet, and then leaves it at that.
        allowed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert allowed == 2 * dialing._RECEIVE_BUFFER_BYTES


@pytest.mark.claim("N6")
def test_N6_how_long_ago_bytes_came_is_known_of_a_connection_and_of_nothing_else() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        engine_loop.run(dialed(server.getsockname()[:2])) as connected,
    ):
        accepted, _ = server.accept()
        with accepted:
            connected.setblocking(True)
            accepted.sendall(b"x")
            assert connected.recv(1, socket.MSG_PEEK) == b"x"
            came = time.monotonic()
            while (secs := secs_since_bytes(connected)) is not None and secs < 0.03:
                assert time.monotonic() < came + 10
        assert secs is not None
        # The kernel counts in ticks of its own, of which one has 10 ms at most.
        assert secs < time.monotonic() - came + 0.02
    assert secs_since_bytes(connected) is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert secs_since_bytes(other) is None


@pytest.mark.claim("N16")
def test_N16_what_is_known_of_addresses_is_known_of_a_place_and_of_those_that_it_has() -> None:
    dialer = Dialer()
    dialer.note_handshake(PLACE, FIRST, good=False)
    assert [
        info[4] for info in dialer._in_order(("other.test", 443), [(2, 1, 6, "", FIRST), (2, 1, 6, "", SECOND)])
    ] == [
        FIRST,
        SECOND,
    ]
    # It is another address by now.
    assert [info[4] for info in dialer._in_order(PLACE, [(2, 1, 6, "", SECOND)])] == [SECOND]
    assert order(dialer) == [FIRST, SECOND]


@pytest.mark.claim("N16")
@pytest.mark.parametrize(
    ("count", "names"), [(1, "1"), (4, "1, 2, 3, 4"), (5, "1, 2, 3, 4 and 1 more"), (9, "1, 2, 3, 4 and 5 more")]
)
def test_N16_of_the_addresses_that_did_not_answer_the_first_are_named(count: int, names: str) -> None:
    assert dialing._names([(2, 1, 6, "", (str(number + 1), 443)) for number in range(count)]) == names


@pytest.mark.claim("N16")
def test_N16_there_is_time_to_say_what_did_not_answer() -> None:
    """Before the attempt itself is over, of which is only known that it led to nothing; and most of that is for it."""
    assert CONNECT_TIMEOUT_SECS / 2 < dialing.DIAL_TIMEOUT_SECS < CONNECT_TIMEOUT_SECS


@pytest.mark.claim("N16")
@pytest.mark.parametrize("count", [1, 5, 40])
def test_N16_every_address_is_tried_however_many_there_are(count: int) -> None:
    found: list[Any] = [(2, 1, 6, "", (f"192.0.2.{number}", 443)) for number in range(count)]
    dialer = Dialer()
    assert dialer._in_order(PLACE, found) == found
    dialer.note_handshake(PLACE, found[0][4], good=False)
    assert dialer._in_order(PLACE, found) == [*found[1:], found[0]]


@pytest.mark.claim("N16")
def test_N16_an_address_that_disappointed_is_last_of_all_families() -> None:
    """RFC 8305 takes them in turn, and none of the others may be left out for it."""
    six: list[Any] = [(10, 1, 6, "", (f"2001:db8::{number}", 443, 0, 0)) for number in range(2)]
    four: list[Any] = [(2, 1, 6, "", (f"192.0.2.{number}", 443)) for number in range(3)]
    dialer = Dialer()
    assert dialer._in_order(PLACE, [*six, *four]) == [six[0], four[0], six[1], four[1], four[2]]
    dialer.note_handshake(PLACE, six[0][4], good=False)
    assert dialer._in_order(PLACE, [*six, *four]) == [four[0], six[1], four[1], four[2], six[0]]


@pytest.mark.claim("N16")
def test_N16_a_name_is_looked_up_for_each_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue that moves has other addresses from one moment to the next."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.2", 0)) as second:
        moved = [first.getsockname(), second.getsockname()]

        def look_up(*_: object, **__: object) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", moved.pop(0))]

        async def dial_twice() -> list[str]:
            dialer, reached = Dialer(), []
            for _ in range(2):
                with await dialer.dial(PLACE) as connected:
                    reached.append(connected.getpeername()[0])
            return reached

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        assert engine_loop.run(dial_twice()) == ["127.0.0.1", "127.0.0.2"]
