"""harness/dashboard/web.py: a document that is sent piece by piece is the document."""

from __future__ import annotations

import asyncio

import pytest

from harness.dashboard.web import CHUNK_BYTES, _Document


@pytest.mark.parametrize("size", [0, 1, *(times * CHUNK_BYTES + off for times in (1, 2) for off in (-1, 0, 1))])
def test_the_pieces_of_a_document_are_all_of_it(size: int) -> None:
    body = bytes(number % 251 for number in range(size))

    async def pieces() -> list[bytes]:
        return [bytes(piece) async for piece in _Document(body, "", lambda: None).body_iterator]  # type: ignore[arg-type]

    found = asyncio.run(pieces())
    assert b"".join(found) == body
    assert all(0 < len(piece) <= CHUNK_BYTES for piece in found)
