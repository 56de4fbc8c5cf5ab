"""engine/ingest/recent_ids.py: what is remembered of textual ids, and for how long (N9, B1)."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ingest import recent_ids
from engine.ingest.recent_ids import RECENT_IDS_MAX, RecentIds


@pytest.mark.claim("N9")
@given(ids=st.lists(st.integers(0, 40), max_size=300), most=st.integers(1, 12))
def test_N9_an_id_is_known_until_enough_others_were_used_and_not_much_longer(ids: list[int], most: int) -> None:
    """Against a list of everything used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_ids, "RECENT_IDS_MAX", most)
        recent = RecentIds()
        used: list[int] = []
        for one in ids:
            since = used[len(used) - used[::-1].index(one) :] if one in used else None
            known = recent.knows("s", str(one), 7)
            assert recent.add("s", str(one), 7)[0] is not known
            if since is None or known:
                assert (since is not None) is known
            else:
                assert len(set(since)) >= most
            used.append(one)
            assert recent.knows("s", str(one), 7)
            assert not recent.knows("s", str(one), 8)
            assert not recent.knows("another", str(one), 7)


@pytest.mark.claim("N9")
@pytest.mark.parametrize("hashed", [0, 1, -1, 2**61 - 2, -(2**61) + 2])
def test_N9_an_id_is_remembered_whatever_its_hash_is(monkeypatch: pytest.MonkeyPatch, hashed: int) -> None:
    monkeypatch.setattr(recent_ids, "hash", lambda parts: hashed, raising=False)
    recent = RecentIds()
    assert not recent.knows("s", "a", 7)
    assert recent.add("s", "a", 7) == (True, None)
    assert recent.knows("s", "a", 7)
    assert recent.add("s", "a", 7) == (False, None)


@pytest.mark.claim("B5", "N9")
@pytest.mark.parametrize("streams", [1, 2, 4, 5, 16])
def test_B5_N9_each_of_four_streams_has_all_of_the_room(monkeypatch: pytest.MonkeyPatch, streams: int) -> None:
    """And more than four share what four have."""
    monkeypatch.setattr(recent_ids, "RECENT_IDS_MAX", 64)
    recent = RecentIds()
    rounds = [(f"s{stream}", str(number)) for number in range(400) for stream in range(streams)]
    for stream, text in rounds:
        assert recent.add(stream, text, 7)[0]
    assert all(recent.knows(stream, text, 7) for stream, text in rounds[-64 * min(streams, 4) :])
    assert not any(recent.knows(stream, text, 7) for stream, text in rounds[: -2 * 64 * min(streams, 4)])


@pytest.mark.slow
@pytest.mark.claim("B1", "N9")
def test_B1_N9_ids_cost_few_bytes_each_however_many_come() -> None:
    recent = RecentIds({"s": ((f"trade-{n}", n) for n in range(3 * RECENT_IDS_MAX - 1))})
    tables = [turn._slots for kept in (recent._trades, recent._of_round) for turn in (kept._now, kept._before)]
    assert sum(map(sys.getsizeof, tables)) <= 2 * 20 * 2 * RECENT_IDS_MAX
    assert all(recent.knows("s", f"trade-{n}", n) for n in range(RECENT_IDS_MAX, 3 * RECENT_IDS_MAX - 1, 997))
    assert not any(recent.knows("s", f"trade-{n}", n) for n in range(0, RECENT_IDS_MAX, 997))
