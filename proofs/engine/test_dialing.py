"""Which of a host's addresses is tried last (contract N16)."""

from __future__ import annotations

from typing import Any

import pytest

from engine.ingest.dialing import Dialer

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
