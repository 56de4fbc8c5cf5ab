"""Contract N7, N9, N11, N12, I3, M3: which ticks are new, which are processed, and what the books say."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import Numbering, Tick
from engine.ingest import intake, recent_ids
from engine.ingest.intake import (
    BREAK_FROM,
    JUMP_MAX,
    MISSING_INTERVALS_MAX,
    MISSING_STORED_MAX,
    NUMBERINGS_MAX,
    SEGMENTS_MIN,
    Break,
    Intake,
)
from engine.ingest.recent_ids import RECENT_IDS_MAX
from engine.ingest.venues.markets import Markets, Streams
from engine.ingest.venues.wire import TickParser
from engine.storage.batch import Batch
from engine.storage.ledger import Ledger
from engine.storage.opening import open_ledger

ABSURD = 2**63 - 1


def tick(trade_id: int | None = None, event_id: str | None = None, source: str = "a", ts: int = 0) -> Tick:
    return Tick(source, "SYM", 1.0, 1.0, ts, trade_id, event_id)


def fresh_intake(sample_every: int = 1, **watermarks: int) -> Intake:
    return Intake(sample_every, 1, [Numbering(source, 1, 0, highest, 0) for source, highest in watermarks.items()])


def admitted(books: Intake, *trade_ids: int, source: str = "a", ts: int = 0) -> list[int | None]:
    return [t.trade_id for t in books.admit([tick(i, source=source, ts=ts) for i in trade_ids])]


def highest(books: Intake) -> dict[str, int]:
    """Label -> highest id, of what has moved since the last look."""
    return {one.label: one.last for one in books.take_moved()}


def assert_balanced(books: Intake, sample_every: int) -> None:
    assert books.parsed == books.received + books.duplicates
    assert books.received == books.processed + books.sampled_out
    assert books.processed == books.received // sample_every


@pytest.mark.claim("N9")
def test_N9_a_trade_seen_before_is_a_duplicate() -> None:
    books = fresh_intake()
    assert admitted(books, 7, 8, 8, 7, 9) == [7, 8, 9]
    assert (books.received, books.duplicates, books.gaps) == (3, 2, 0)


@pytest.mark.claim("N9")
def test_N9_the_first_id_of_a_source_is_no_gap() -> None:
    books = fresh_intake()
    admitted(books, 1_000_000)
    assert books.gaps == 0


@pytest.mark.claim("N9")
def test_N9_a_late_arrival_closes_its_gap() -> None:
    books = fresh_intake()
    assert admitted(books, 10, 15) == [10, 15]
    assert books.gaps == 4
    assert admitted(books, 13, 11, 11, 14) == [13, 11, 14]
    assert (books.gaps, books.duplicates) == (1, 1)
    assert admitted(books, 12, 12) == [12]
    assert (books.gaps, books.duplicates) == (0, 2)


@pytest.mark.claim("N9")
def test_N9_gaps_and_duplicates_are_counted_by_stream() -> None:
    books = Intake(1, 1, is_sparse=lambda stream: stream == "sparse")
    books.admit([tick(number, source="a") for number in (1, 2, 2, 5, 5, 4)])
    books.admit([tick(number, source="sparse") for number in (7, 900, 900, 7)])
    books.admit([tick(event_id=name, source="texts") for name in ("x", "y", "x")])
    # Ids that start over are the same stream's, and so is what comes twice of them.
    books.admit([tick(number, source="a", ts=10**6 + number) for number in (1, 3, 3)])
    assert books.by_stream() == {"a": (2, 3), "sparse": (None, 2), "texts": (None, 1)}
    assert (books.gaps, books.duplicates) == (2, 6)


@pytest.mark.claim("N9")
def test_N9_what_the_venue_says_it_traded_last_is_a_gap_until_it_comes() -> None:
    books = fresh_intake()
    books.tell_latest("a", 9)
    assert books.gaps == 0, "before its first trade nobody knows what could have come"
    admitted(books, 10, 12)
    for told, gaps in ((11, 1), (12, 1), (0, 1), (14, 3), (12 + JUMP_MAX + 1, 3)):
        books.tell_latest("a", told)
        assert (books.gaps, books.by_stream()) == (gaps, {"a": (gaps, 0)}), told
    assert admitted(books, 14, 13, 14) == [14, 13]
    assert (books.gaps, books.duplicates) == (1, 1)
    # Ids that start over: what was told of those before says nothing of these.
    books.tell_latest("a", 20)
    assert books.gaps == 7
    assert admitted(books, 1, 2, ts=10**9) == [1, 2]
    assert books.gaps == 1
    books.tell_latest("a", 4)
    assert books.gaps == 3
    sparse = Intake(1, 1, is_sparse=lambda stream: True)
    admitted(sparse, 1)
    sparse.tell_latest("a", 5)
    assert sparse.gaps == 0


@pytest.mark.claim("N9")
def test_N9_a_feed_that_starts_out_of_order_loses_nothing() -> None:
    books = fresh_intake()
    assert admitted(books, 5, 3, 4, 3, 6) == [5, 3, 4, 6]
    assert (books.gaps, books.duplicates) == (0, 1)


@pytest.mark.claim("N2", "N7")
def test_N2_N7_rows_of_the_database_keep_their_ids_and_are_all_new() -> None:
    """In time order the ids of a venue may go back and forth; a row is there once all the same."""
    books = fresh_intake(2)
    rows = [tick(9), tick(7), tick(7, source="b"), tick(event_id="x"), tick()]
    for row_id, row in enumerate(rows, 100):
        row.id = row_id
    assert [row.id for row in books.readmit(rows[:3]) + books.readmit(rows[3:])] == [101, 103]
    assert (books.received, books.duplicates, books.gaps, books.take_moved()) == (5, 0, 0, [])
    assert_balanced(books, 2)


@pytest.mark.claim("N9")
def test_N9_same_id_of_two_sources_is_two_trades() -> None:
    books = fresh_intake()
    ticks = [tick(1, source="a"), tick(1, source="b"), tick(2, source="a"), tick(1, source="b")]
    assert len(books.admit(ticks)) == 3
    assert books.duplicates == 1


@pytest.mark.claim("N9", "I3")
def test_N9_I3_the_watermark_of_the_database_counts_as_seen() -> None:
    """After a restart: what is on disk is a duplicate, and what was missed meanwhile is a gap."""
    books = fresh_intake(a=100)
    assert admitted(books, 99, 100) == []
    assert highest(books) == {}
    assert admitted(books, 103) == [103]
    assert (books.duplicates, books.gaps) == (2, 2)
    assert admitted(books, 0, 101) == [101]
    assert books.gaps == 1
    assert highest(books) == {"a": 103}


@pytest.mark.claim("N9")
def test_N9_ids_of_a_sparse_source_make_no_gaps_but_are_still_deduplicated() -> None:
    """Gemini's trade ids rise with holes that belong to other markets."""
    books = Intake(1, 1, [Numbering("g", 1, 0, 50, 0)], is_sparse=lambda stream: stream == "g")
    assert admitted(books, 90, 70, 90, 70, 50, source="g") == [90, 70]
    admitted(books, 1, 3, source="a")
    assert (books.gaps, books.duplicates) == (1, 3)


@pytest.mark.slow
@pytest.mark.claim("N9")
def test_N9_textual_ids_are_remembered_within_the_window() -> None:
    books = Intake(1, 1, (), {"a": [("old", 0)]})
    assert books.admit([tick(event_id="old")]) == []
    assert len(books.admit([tick(event_id="x"), tick(event_id="x"), tick(event_id="x", source="b")])) == 2
    books.admit([tick(event_id=str(n)) for n in range(RECENT_IDS_MAX - 1)])
    assert books.admit([tick(event_id="x")]) == []
    # Of two streams, which share the room.
    books.admit([tick(event_id=f"n{n}") for n in range(2 * 2 * RECENT_IDS_MAX)])
    assert len(books.admit([tick(event_id="x")])) == 1
    assert_balanced(books, 1)


@pytest.mark.claim("N9")
def test_N9_ticks_without_ids_are_always_new() -> None:
    books = fresh_intake()
    assert len(books.admit([tick(), tick(), tick()])) == 3
    assert books.duplicates == 0


@pytest.mark.claim("N7")
def test_N7_duplicates_do_not_move_the_sampling_counter() -> None:
    books = fresh_intake(3)
    assert admitted(books, 1, 1, 2, 2, 1) == []
    assert admitted(books, 3, 3, 4, 5, 6) == [3, 6]
    assert_balanced(books, 3)


@pytest.mark.claim("N7")
def test_N7_sample_every_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="sample_every 0: allowed is 1 or more"):
        fresh_intake(0)


@pytest.mark.claim("B1", "N9")
def test_B1_N9_memory_is_bounded_and_a_forgotten_hole_stays_a_gap() -> None:
    books = fresh_intake()
    holes = MISSING_INTERVALS_MAX + 10
    admitted(books, *range(0, 2 * holes + 1, 2))
    assert books.gaps == holes
    [seen] = books._streams["a"].numberings
    assert len(seen.starts) == len(seen.ends) == MISSING_INTERVALS_MAX
    assert admitted(books, 1) == []
    assert admitted(books, 2 * holes - 1) == [2 * holes - 1]
    assert books.gaps == holes - 1
    # Splitting a hole at the limit forgets the oldest one, and so does a hole below all others.
    admitted(books, 10 * holes, 9 * holes, 8 * holes, -10)
    assert len(seen.starts) == len(seen.ends) == MISSING_INTERVALS_MAX
    [stored] = books.take_moved()
    assert stored.missing == list(zip(seen.starts, seen.ends, strict=True))[-MISSING_STORED_MAX:]
    # What has not changed is not stored again.
    admitted(books, 10 * holes + 1)
    assert [one.missing for one in books.take_moved()] == [None]


@pytest.mark.claim("N9", "N11")
def test_N9_N11_an_absurd_jump_costs_no_memory_and_no_gap() -> None:
    books = fresh_intake()
    assert admitted(books, 0, ABSURD, 2**62) == [0, ABSURD, 2**62]
    assert books.gaps == 0


# --- breaks (N11) -------------------------------------------------------------------------------------------


@pytest.mark.claim("N11")
def test_N11_ids_that_start_over_are_new_trades_and_told_once() -> None:
    books = fresh_intake()
    assert admitted(books, *range(1, 41), ts=10) == list(range(1, 41))
    assert admitted(books, 1, 2, 3, ts=20) == [1, 2, 3]
    assert books.take_breaks() == [Break("a", 40, 1)]
    assert admitted(books, 2, 4, 5, ts=20) == [4, 5]
    assert admitted(books, 39, 40, 1, ts=10) == []
    assert books.take_breaks() == []
    assert (books.gaps, books.duplicates) == (0, 4)
    assert highest(books) == {"a": 40, "a (numbering 2)": 5}
    # In full flow beyond the old highest, and beyond what was seen again in between.
    assert admitted(books, *range(6, 60), ts=30) == list(range(6, 60))
    assert (books.gaps, books.take_breaks(), highest(books)) == (0, [], {"a (numbering 2)": 59})


@pytest.mark.claim("N9", "N11")
def test_N9_N11_textual_ids_that_start_over_are_new_trades_and_told_once() -> None:
    books = Intake(1, 1, (), {"a": [("t1", 10), ("t2", 11), ("t3", 12)]})

    def got(*trades: tuple[str, int]) -> list[tuple[str | None, int]]:
        return [(one.event_id, one.ts) for one in books.admit([tick(event_id=text, ts=ts) for text, ts in trades])]

    assert got(("t2", 11), ("t3", 12)) == []
    # At other times, later or earlier, they are of other trades; each of them is sent again as itself.
    assert got(("t1", 20), ("t2", 9), ("t1", 10), ("t1", 20), ("t3", 22)) == [("t1", 20), ("t2", 9), ("t3", 22)]
    assert books.take_breaks() == [Break("a", "t3", "t1")]
    assert got(("t4", 23), ("t2", 11), ("t2", 9), ("t4", 23)) == [("t4", 23)]
    assert books.take_breaks() == []
    # A round ends where an id comes that was in it already; which of the older ones it goes on with is all the same.
    assert got(("t4", 30), ("t5", 31), ("t1", 32), ("t4", 33)) == [("t4", 30), ("t5", 31), ("t1", 32), ("t4", 33)]
    assert books.take_breaks() == [Break("a", "t4", "t4"), Break("a", "t1", "t4")]
    assert_balanced(books, 1)


@pytest.mark.claim("B1", "N11")
def test_B1_N11_of_textual_ids_with_their_times_the_last_are_remembered() -> None:
    """Also of a venue that gives each trade the same id, of which there is nothing to tell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_ids, "RECENT_IDS_MAX", 100)
        books = fresh_intake()
        assert len(books.admit([tick(event_id="x", ts=n) for n in range(1000)])) == 1000
        kept = books._recent._trades
        assert kept._now.count + kept._before.count <= 200
        assert books.admit([tick(event_id="x", ts=n) for n in range(900, 1000)]) == []
        assert len(books.admit([tick(event_id="x", ts=798)])) == 1
    assert books.take_breaks() == []


@pytest.mark.claim("N11", "S3")
@pytest.mark.parametrize("sample_every", [1, 7])
def test_N11_S3_each_time_that_textual_ids_start_over_is_told_in_each_run(sample_every: int) -> None:
    """However much of them is on disk."""
    on_disk: list[tuple[str, int]] = []
    for run, base in enumerate([0, 1000, -1000, 5000]):
        books = Intake(sample_every, 1, (), {"a": on_disk})
        for half in (0, 500):
            ticks = books.admit([tick(event_id=f"t{n}", ts=base + half + n) for n in range(50)])
            on_disk += [(one.event_id or "", one.ts) for one in ticks]
        assert len(books.take_breaks()) == (2 if run else 1)
        assert books.received == 100


@pytest.mark.claim("N9")
def test_N9_a_textual_id_that_is_sent_again_counts_as_used() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_ids, "RECENT_IDS_MAX", 2)
        books = fresh_intake()
        for text, ts, is_new in (
            ("a", 1, True), ("b", 1, True), ("a", 1, False), ("c", 1, True), ("a", 1, False), ("b", 1, True),
            ("a", 2, True), ("a", 1, False), ("a", 2, False), ("c", 1, True),
        ):  # fmt: skip
            assert bool(books.admit([tick(event_id=text, ts=ts)])) == is_new, (text, ts)


@pytest.mark.claim("N11")
def test_N11_the_numbering_that_a_venue_goes_back_to_is_the_one_in_use() -> None:
    books = fresh_intake()
    admitted(books, 1, 40, ts=10)
    admitted(books, 1, 2, ts=20)
    assert admitted(books, 41, ts=30) == [41]
    books.take_breaks()
    assert admitted(books, 1, ts=40) == [1]
    assert books.take_breaks() == [Break("a", 41, 1)]


@pytest.mark.claim("N11")
def test_N11_the_ticks_of_a_numbering_are_stored_apart() -> None:
    books = fresh_intake()
    ticks = [*(tick(n, ts=10) for n in (7, 8)), *(tick(n, ts=20) for n in (7, 8))]
    books.admit(ticks)
    assert [one.source for one in ticks] == ["a", "a", *["a (numbering 2)"] * 2]


@pytest.mark.claim("N11")
@pytest.mark.parametrize("absurd", [ABSURD, 5_000_000, 0])
def test_N11_one_outlier_moves_nobodys_highest(absurd: int) -> None:
    books = fresh_intake()
    assert admitted(books, 1000, 1001, ts=10) == [1000, 1001]
    assert admitted(books, absurd, ts=20) == [absurd]
    assert admitted(books, 1002, 1003, ts=30) == [1002, 1003]
    assert admitted(books, absurd, ts=20) == []
    assert admitted(books, 1004, 1002, ts=30) == [1004]
    assert books.take_breaks() == [Break("a", 1001, absurd)]
    assert highest(books) == {"a": 1004, "a (numbering 2)": absurd}
    assert books.gaps == 0


@pytest.mark.claim("N11")
@pytest.mark.parametrize(
    ("jump", "gaps", "told"),
    [
        (BREAK_FROM, BREAK_FROM - 1, 0),
        (BREAK_FROM + 1, BREAK_FROM, 1),
        (JUMP_MAX, JUMP_MAX - 1, 1),
        (JUMP_MAX + 1, 0, 1),
    ],
)
def test_N11_a_jump_is_a_gap_then_a_break_then_an_outlier(jump: int, gaps: int, told: int) -> None:
    books = fresh_intake(a=100)
    assert admitted(books, 100 + jump, 101 + jump, ts=5) == [100 + jump, 101 + jump]
    assert books.gaps == gaps
    assert books.take_breaks() == [Break("a", 100, 100 + jump)] * told


@pytest.mark.claim("N11")
def test_N11_a_restarted_engine_tells_a_resend_from_a_trade_whose_id_came_again() -> None:
    stored = Numbering("a", 1, 50, 100, 1000, [(60, 61)], [(70, 0, 500), (100, 500, 1000)])
    books = Intake(1, 1, [stored])
    assert admitted(books, 65, ts=400) == []
    assert admitted(books, 80, 100, ts=800) == []
    # A late one fills its hole; it was missed by an earlier run, so it is no gap of this one that closes.
    assert admitted(books, 60, ts=450) == [60]
    assert (books.gaps, books.take_breaks()) == (0, [])
    # Another time is another trade: later than all, and later than ids of that time were.
    assert admitted(books, 65, ts=1001) == [65]
    assert books.take_breaks() == [Break("a", 100, 65)]
    assert admitted(books, 66, ts=900) == [66]
    assert admitted(books, 65, ts=1001) == []


@pytest.mark.claim("N11")
def test_N11_what_no_numbering_has_room_for_is_told_apart_by_id_and_time() -> None:
    books = fresh_intake()
    for n in range(NUMBERINGS_MAX + 20):
        assert len(books.admit([tick(7, ts=n)])) == 1
    assert len(books._streams["a"].numberings) == NUMBERINGS_MAX
    overflow = tick(7, ts=NUMBERINGS_MAX + 30)
    assert len(books.admit([overflow])) == 1
    assert (overflow.trade_id, overflow.event_id) == (None, f"7@{NUMBERINGS_MAX + 30}")
    assert len(books.take_breaks()) == NUMBERINGS_MAX + 20
    assert books.admit([tick(7, ts=n) for n in range(NUMBERINGS_MAX + 20)]) == []
    assert books.take_breaks() == []


@pytest.mark.claim("B1", "N11")
def test_B1_N11_numberings_beside_the_first_have_one_bound_for_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many streams there are, each of which has a first one. What has no room is told apart all the same."""
    monkeypatch.setattr(intake, "NUMBERINGS_SPARE", 3)
    books = fresh_intake()
    streams = [f"s{number}" for number in range(10)]
    for number, stream in enumerate(streams):
        assert admitted(books, 7, source=stream, ts=number) == [7]
    begun = [admitted(books, 7, source=stream, ts=100) for stream in streams]
    # The same id at another time: a numbering of its own, or the text of both.
    assert begun == [[7]] * 3 + [[None]] * 7
    for stream in streams:
        assert admitted(books, 7, source=stream, ts=100) == []
    assert (books.received, books.duplicates) == (20, 10)


@pytest.mark.claim("N11")
def test_N11_the_first_trade_of_a_source_that_was_pointed_elsewhere_is_a_break() -> None:
    stored = [Numbering("a", 1, 1, 40, 10), Numbering("b", 1, 1, 7, 10)]
    books = Intake(1, 1, stored, predecessor={"a ETH": "a", "new": None}.get)
    for source in ("a ETH", "b", "new", "a ETH"):
        admitted(books, 900, 901, source=source, ts=20)
    assert books.take_breaks() == [Break("a ETH", 40, 900)]


@pytest.mark.claim("N12")
def test_N12_an_id_that_bears_no_trade_is_no_gap() -> None:
    books = fresh_intake()
    books.pass_numbers([("a", 3, 3, 0)])
    admitted(books, 1, 2, 4)
    books.pass_numbers([("a", 3, 3, 0)])
    books.pass_numbers([("a", 5, 5, 0)])
    admitted(books, 6)
    assert (books.gaps, books.received, highest(books)) == (0, 4, {"a": 6})


@pytest.mark.claim("N18", "N9")
@given(
    reads=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), min_size=1, max_size=6),
        min_size=1,
        max_size=6,
    ),
    order=st.randoms(use_true_random=False),
)
def test_N18_ids_of_merged_trades_are_no_gap_in_whatever_order_they_come(
    reads: list[list[tuple[int, int, bool]]], order: random.Random
) -> None:
    """Nor when they are sent again; what was lost between them is one."""
    books = fresh_intake()
    admitted(books, 1000)
    number, lost = 1000, list[int]()
    for ts, read in enumerate(reads, start=1):
        trades = []
        for missing, merged, is_resent in read:
            lost += range(number + 1, number + 1 + missing)
            number += missing + merged + 1
            trades += [(number, merged)] * (1 + is_resent)
        order.shuffle(trades)
        admitted(books, *[one for one, _ in trades], ts=ts)
        books.pass_numbers([("a", one - merged, one - 1, ts) for one, merged in trades if merged])
        assert books.gaps == len(lost)
        [stored] = books.take_moved()
        if stored.missing is not None:
            held = [one for first, last in stored.missing for one in range(first, last + 1)]
        assert held == lost
    assert (books.received, stored.first, stored.last) == (1 + sum(map(len, reads)), 1000, number)


@pytest.mark.claim("N18", "N9")
def test_N18_ids_that_the_first_trade_merged_are_no_gap_before_it() -> None:
    books = fresh_intake()
    admitted(books, 10)
    books.pass_numbers([("a", 7, 9, 0), ("b", 1, 2, 0)])
    admitted(books, 5)
    assert (books.gaps, books.received) == (1, 2)
    # However many it says, they are no more than may lie before a first trade.
    books = fresh_intake()
    admitted(books, 10**9)
    books.pass_numbers([("a", 0, 10**9 - 1, 0)])
    [stored] = books.take_moved()
    assert stored.first == 10**9 - BREAK_FROM


@pytest.mark.claim("N18", "N9")
def test_N18_of_holes_that_an_earlier_run_left_merged_ids_count_in_neither_way() -> None:
    books = Intake(1, 1, [Numbering("a", 1, 1, 20, 5, [(4, 9), (12, 19)])])
    admitted(books, 25, ts=5)
    assert books.gaps == 4
    books.pass_numbers([("a", 6, 24, 5)])
    assert books.gaps == 0
    [stored] = books.take_moved()
    assert stored.missing == [(4, 5)]


@pytest.mark.claim("N11", "N12")
def test_N12_N11_a_number_that_is_told_again_changes_nothing() -> None:
    """What is no market trade is sent again after a reconnect like any other print."""
    books = fresh_intake()
    admitted(books, 1, 2)
    for _ in range(40):
        books.pass_numbers([("a", 3, 3, 1)])
    assert [one.source for one in books.admit([tick(4, ts=2)])] == ["a"]
    assert (books.gaps, books.received, highest(books)) == (0, 3, {"a": 4})
    assert books.take_breaks() == []


@pytest.fixture
def few_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a numbering has where there are many."""
    monkeypatch.setattr(intake, "SEGMENTS_MAX", SEGMENTS_MIN)


@pytest.mark.claim("B1", "N11")
def test_B1_N11_numberings_share_the_memory_of_their_times() -> None:
    books = fresh_intake(a=5)
    for source in "bcd":
        admitted(books, 1, source=source)
    admitted(books, 1, source="b", ts=7)
    rooms = [seen.segments_max for stream in books._streams.values() for seen in stream.numberings]
    assert rooms == [intake.SEGMENTS_MAX // n for n in (1, 2, 5, 3, 4)]
    for n in range(600):
        admitted(books, 1, source=f"s{n}")
    assert books._streams["s599"].numberings[0].segments_max == SEGMENTS_MIN
    # Of those on disk the newest comes first.
    books = Intake(1, 1, [Numbering("a", 1, 1, 9, 100), Numbering("a", 2, 1, 9, 300), Numbering("b", 1, 1, 9, 200)])
    shares = {seen.label: seen.segments_max for name in "ab" for seen in books._streams[name].numberings}
    assert shares == {label: intake.SEGMENTS_MAX // n for n, label in enumerate(("a (numbering 2)", "b", "a"), start=1)}


@pytest.mark.claim("N11")
@pytest.mark.parametrize("back", [0.1, 0.5, 0.9])
def test_N11_in_a_quiet_market_ids_that_start_over_with_an_earlier_clock_are_all_new(back: float) -> None:
    """Each trade has a read of its own, so that its time is known exactly, for as long as that matters."""
    chance = random.Random(7)
    times = list(itertools.accumulate(chance.randrange(0, 10) for _ in range(4000)))
    books = fresh_intake()
    for n, ts in enumerate(times):
        assert admitted(books, n, ts=10**12 + ts) == [n]
    late = 10**12 + times[-1] - int(back * times[-1])
    again = [(n, late + ts) for n, ts in enumerate(times)]
    new = set(again) - {(n, 10**12 + ts) for n, ts in enumerate(times)}
    assert sum(len(admitted(books, n, ts=ts)) for n, ts in again) == len(new) == len(times)
    assert len(books.take_breaks()) == 1
    # And sent again, whichever of them, they are known.
    assert not any(admitted(books, n, ts=ts) for n, ts in again[::7])
    assert not any(admitted(books, n, ts=10**12 + ts) for n, ts in enumerate(times))


@pytest.mark.claim("B1", "N11")
def test_B1_N11_times_are_remembered_in_bounded_memory(few_segments: None) -> None:
    """Each tick of its own read, for long: of the newest the exact time is known, of the oldest roughly."""
    books = fresh_intake()
    count = 20 * SEGMENTS_MIN
    for n in range(1, count + 1):
        admitted(books, n, ts=n * 10)
    [seen] = books._streams["a"].numberings
    assert len(seen.upto) == len(seen.since) == len(seen.until) <= SEGMENTS_MIN
    assert seen.upto == sorted(seen.upto)
    assert all(admitted(books, n, ts=n * 10) == [] for n in range(1, count, 7))
    assert admitted(books, count - 5, ts=(count - 4) * 10) == [count - 5]


@pytest.mark.claim("B1", "N11")
@pytest.mark.parametrize(
    "ids", [[1, 3000, *range(2, 3000, 2)], range(3000, 0, -1), range(6000, 0, -2)], ids=["late", "early", "early holes"]
)
def test_B1_N11_times_of_trades_that_come_out_of_order_are_bounded(few_segments: None, ids: list[int]) -> None:
    books = fresh_intake()
    assert all(admitted(books, n, ts=n) == [n] for n in ids)
    [seen] = books._streams["a"].numberings
    assert len(seen.upto) == len(seen.since) == len(seen.until) <= SEGMENTS_MIN
    assert all(admitted(books, n, ts=n) == [] for n in ids)


@pytest.mark.claim("B1", "N11")
def test_B1_N11_the_times_that_the_disk_knows_exactly_are_not_joined_as_those_of_reads_are(few_segments: None) -> None:
    restored = SEGMENTS_MIN + 91
    times = [(n, 10 * n, 10 * n) for n in range(1, restored + 1)]
    books = Intake(1, 1, [Numbering("a", 1, 1, restored, 10 * restored, [], times, oldest_ts=10)])
    for n in range(restored + 1, restored + SEGMENTS_MIN):
        admitted(books, n, ts=10 * n)
    [seen] = books._streams["a"].numberings
    assert [*zip(seen.upto, seen.since, seen.until, strict=True)][:restored] == times
    for n in range(restored + SEGMENTS_MIN, restored + 9 * SEGMENTS_MIN):
        admitted(books, n, ts=10 * n)
    assert len(seen.upto) == len(seen.since) == len(seen.until) <= restored + SEGMENTS_MIN
    assert all(
        since <= 10 * upto <= until for upto, since, until in zip(seen.upto, seen.since, seen.until, strict=True)
    )
    assert admitted(books, 1, ts=10) == []


@pytest.mark.parametrize(("ts", "gaps"), [(150, 18), (199, 18), (200, 17), (300, 17), (301, 18)])
@pytest.mark.claim("N11")
def test_N11_a_hole_takes_only_a_trade_of_its_time(ts: int, gaps: int) -> None:
    """The hole between the ids 20 and 30 was left between their times; of another time the id came anew."""
    books = fresh_intake()
    for trade_id in (10, 20, 30):
        assert admitted(books, trade_id, ts=trade_id * 10) == [trade_id]
    assert books.gaps == 18
    assert admitted(books, 25, ts=ts) == [25]
    assert books.gaps == gaps


@pytest.mark.claim("N11", "N9")
@pytest.mark.parametrize("missing", range(1, 6))
def test_N11_a_late_trade_leaves_the_times_of_the_ids_before_it_as_they_were(missing: int) -> None:
    """The last of a hole comes first: whatever its time, what was missed before it still has all of the hole's."""
    books = fresh_intake()
    admitted(books, 1, ts=100)
    admitted(books, missing + 2, ts=900)
    for ts, trade_id in enumerate(range(missing + 1, 1, -1), start=200):
        assert admitted(books, trade_id, ts=ts) == [trade_id]
    assert books.gaps == 0
    assert admitted(books, 1, ts=100) == admitted(books, missing + 2, ts=900) == []


def stored_ids(store: Ledger) -> Counter[tuple[int, int]]:
    return Counter(store._connection.execute("SELECT trade_id, ts FROM ticks").fetchall())


@pytest.mark.slow
@pytest.mark.claim("N11", "N9")
@pytest.mark.parametrize("sample_every", [1, 7, 100_000])
@pytest.mark.parametrize("back_ms", [1, 700, 2_000, 86_400_000])
def test_N11_N9_after_a_restart_a_venue_whose_ids_and_clock_go_back_is_not_mute(
    tmp_path: Path, sample_every: int, back_ms: int
) -> None:
    """The ids start over, at times that lie before those of the same ids, by anything from a moment to a day."""
    count, now = 900, 1_700_000_000_000
    before = [(n, now + 2 * n) for n in range(1, count + 1)]
    store = open_ledger(tmp_path / "bot.db", busy_timeout_ms=1000)
    books = Intake(sample_every, 1)
    for n, ts in before:
        fresh = books.admit([tick(n, ts=ts)])
        store.write(Batch(ticks=fresh, numberings={one.label: one for one in books.take_moved()}))
    restored = store.restore()
    books = Intake(1, restored.next_tick_id, restored.numberings)
    # Sent again, whether it was sampled or not: known. Each of them, for what was stored; what was left out may lie
    # anywhere between its neighbours.
    assert books.admit([tick(n, ts=ts) for n, ts in before]) == []
    again = [(n, ts - back_ms) for n, ts in before]
    fresh = books.admit([tick(n, ts=ts) for n, ts in again])
    store.write(Batch(ticks=fresh))
    assert books.take_breaks() == [Break("a", count, 1)]
    lost = count - len(fresh)
    if sample_every == 1 or back_ms >= 2 * count:
        assert lost == 0
    else:
        # As long as it may be a resend of what was sampled out, and not longer.
        assert lost <= 2 * min(sample_every, count)
    assert books.admit([tick(n, ts=ts) for n, ts in again[lost:]]) == []
    assert max(stored_ids(store).values()) == 1
    store.close()


@pytest.mark.claim("N11")
def test_N11_a_numbering_in_use_goes_on_where_another_one_may_have_been() -> None:
    """Where times are known roughly, a venue that trades on is believed; where they are known exactly, not."""
    books = Intake(
        1, 1, [Numbering("a", 1, 1, 1000, 9000, [], [(500, 0, 8000), (501, 8100, 8100), (1000, 8100, 9000)])]
    )
    assert admitted(books, 1, ts=8500) == [1]
    assert admitted(books, 2, 3, 5, ts=8500) == [2, 3, 5]
    assert books.take_breaks() == [Break("a", 1000, 1)]
    # Roughly known, and before what is in use now: sent again.
    assert admitted(books, 8, 9, ts=7999) == []
    now = books._streams["a"].now
    assert now is not None
    for trade_id in range(6, 500):
        now.extend(trade_id, 7000)
    now.newest_ts = 7000
    assert admitted(books, 500, ts=7500) == [500]
    assert admitted(books, 501, ts=8100) == []
    assert admitted(books, 502, ts=8200) == [502]


@pytest.mark.claim("N9", "N11", "S3")
def test_N9_N11_what_is_restored_of_a_numbering_goes_back_to_disk_as_it_was() -> None:
    stored = Numbering("a", 1, 50, 100, 1000, [(60, 61), (70, 80)], [(59, 400, 500), (90, 500, 900)], oldest_ts=400)
    books = Intake(1, 1, [stored])
    # Up to the highest id that was stored nothing is a gap of this run, beyond it everything is.
    assert admitted(books, 60, 75, ts=500) == [60, 75]
    assert books.gaps == 0
    assert admitted(books, 104, ts=1001) == [104]
    assert books.gaps == 3
    assert admitted(books, 102, ts=1001) == [102]
    assert books.gaps == 2
    # Above the newest tick on disk ids were left out until the latest time.
    assert admitted(books, 95, ts=900) == admitted(books, 100, ts=1000) == []
    [moved] = books.take_moved()
    assert (moved.first, moved.last, moved.oldest_ts, moved.newest_ts) == (50, 104, 400, 1001)
    assert moved.missing == [(61, 61), (70, 74), (76, 80), (101, 101), (103, 103)]
    for ts in (899, 1001):
        assert admitted(books, 96, ts=ts) == [96]
    assert len(books._streams["a"].numberings) == 3


@pytest.mark.claim("N9", "N11")
def test_N9_N11_a_feed_may_begin_in_any_order_of_ids_and_times() -> None:
    """As long as nothing before the first trade is later than it was."""
    for books in (
        fresh_intake(),
        Intake(1, 1, [Numbering("a", 1, 50, 60, 120, [], [(50, 105, 105), (60, 110, 120)], oldest_ts=105)]),
    ):
        admitted(books, 50, ts=105)
        assert [admitted(books, n, ts=ts) for n, ts in ((49, 103), (48, 104), (46, 101), (47, 105), (45, 105))] == [
            [49], [48], [46], [47], [45],
        ]  # fmt: skip
        assert books.take_breaks() == []
        assert admitted(books, 44, ts=106) == [44]
        assert len(books.take_breaks()) == 1


@pytest.mark.claim("N11")
def test_N11_a_numbering_without_a_time_of_its_first_id_begins_at_its_latest() -> None:
    books = Intake(1, 1, [Numbering("a", 1, 1, 100, 1000)])
    assert admitted(books, 40, 100, ts=1000) == []
    assert admitted(books, 40, ts=999) == [40]


# --- properties ---------------------------------------------------------------------------------------------

BATCHES = st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=12), min_size=1, max_size=12)


@pytest.mark.slow
@pytest.mark.claim("N7", "N9", "M3", "I3")
@given(
    batches=BATCHES,
    sample_every=st.integers(1, 7),
    watermarks=st.dictionaries(st.sampled_from("ab"), st.integers(0, 25)),
)
def test_N7_N9_M3_I3_agree_with_a_set_of_everything_seen(
    batches: list[list[tuple[str, int]]], sample_every: int, watermarks: dict[str, int]
) -> None:
    """The naive model: remember every id for ever, count one by one."""
    books = Intake(sample_every, 500, [Numbering(source, 1, 0, highest, 0) for source, highest in watermarks.items()])
    told = dict(watermarks)
    seen = {source: set(range(highest + 1)) for source, highest in watermarks.items()}
    new_so_far, next_id = 0, 500
    for batch in batches:
        expected = []
        for source, trade_id in batch:
            ids = seen.setdefault(source, set())
            if trade_id not in ids:
                ids.add(trade_id)
                new_so_far += 1
                if new_so_far % sample_every == 0:
                    expected.append((next_id, source, trade_id))
                    next_id += 1
        ticks = [tick(trade_id, source=source) for source, trade_id in batch]
        got = books.admit(ticks)
        assert [(t.id, t.source, t.trade_id) for t in got] == expected
        assert books.received == new_so_far
        assert books.gaps == sum(max(ids) - min(ids) + 1 - len(ids) for ids in seen.values())
        told |= highest(books)
        assert told == {s: max(ids) for s, ids in seen.items()}
        assert_balanced(books, sample_every)


@pytest.mark.claim("N7")
@given(sample_every=st.integers(1, 50), sizes=st.lists(st.integers(0, 60), max_size=20))
def test_N7_every_nth_new_tick_is_processed_however_they_are_batched(sample_every: int, sizes: list[int]) -> None:
    books = fresh_intake(sample_every)
    processed: list[int | None] = []
    start = 1
    for size in sizes:
        processed += admitted(books, *range(start, start + size))
        start += size
        assert_balanced(books, sample_every)
    assert processed == list(range(sample_every, start, sample_every))


@pytest.mark.claim("N9")
@given(ids=st.lists(st.integers(0, 60), max_size=60), limit=st.integers(1, 5))
def test_N9_with_forgotten_holes_nothing_is_ever_admitted_twice(ids: list[int], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "MISSING_INTERVALS_MAX", limit)
        books = fresh_intake()
        got = [trade_id for i in ids for trade_id in admitted(books, i) if trade_id is not None]
    assert all(len(seen.starts) <= limit for one in books._streams.values() for seen in one.numberings)
    assert len(got) == len(set(got))
    assert books.gaps == (max(got) - min(got) + 1 - len(got) if got else 0)


@pytest.mark.claim("I3")
@given(events=st.lists(st.text("xyz", min_size=1, max_size=2), max_size=40))
def test_I3_textual_ids_are_admitted_once(events: list[str]) -> None:
    books = fresh_intake()
    got = [t.event_id for t in books.admit([tick(event_id=e) for e in events])]
    assert got == list(dict.fromkeys(events))
    assert_balanced(books, 1)


# --- histories (N11) ----------------------------------------------------------------------------------------

Trade = tuple[str, int, int]  # market, id, time

STEP = st.one_of(
    st.tuples(st.just("trades"), st.integers(1, 30)),
    st.tuples(st.just("mixed"), st.integers(1, 30)),
    st.tuples(st.just("lost"), st.integers(1, 50)),
    st.tuples(st.just("late"), st.integers(1, 5)),
    st.tuples(st.just("overlap"), st.integers(1, 40)),
    st.tuples(st.just("reset"), st.sampled_from([0, 1, 2, 100])),
    st.tuples(st.just("jump"), st.sampled_from([9_000, 20_000, 2_000_000, 10**12])),
    st.tuples(st.just("poison"), st.sampled_from([0, 1, 2**63 - 1, 2**62])),
    st.tuples(st.just("repoint"), st.integers(0, 2)),
    st.tuples(st.just("back"), st.sampled_from([0, 1, 5_000_000])),
    st.tuples(st.just("again"), st.integers(2, 30)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("kill"), st.just(0)),
    st.tuples(st.just("torn"), st.integers(1, 5)),
)


class Venue:
    """Numbers the trades of one market, in its own time."""

    def __init__(self, market: str, first: int) -> None:
        self.market = market
        self.next_id = first
        self.sent: list[Trade] = []
        self.unsent: list[Trade] = []

    def trade(self, now: int) -> Trade:
        self.next_id += 1
        return self.market, self.next_id - 1, now


class World:
    """An engine on a real database, and venues that it is pointed at. Each step is a read of a socket."""

    def __init__(self, path: Path, kind: str) -> None:
        """`kind`: "venue", each market a source of its own; or a MOCK source that has all: "numbers", "texts"."""
        self.path = path
        self.kind = kind
        self.now = self.earliest = 1_700_000_000_000
        self.venues = [Venue("a", 5_000_000), Venue("b", 1), Venue("a", 10)]
        self.venue = self.venues[0]
        self.flushed: set[Trade] = set()
        self.start()

    def start(self) -> None:
        self.store: Ledger = open_ledger(self.path, busy_timeout_ms=1000)
        restored = self.store.restore()
        self.books = Intake(1, restored.next_tick_id, restored.numberings, restored.recent_event_ids)
        self.streams = Streams(restored.streams, ["mock"], restored.symbols)
        self.parser = TickParser("mock", Markets("mock", "", self.streams))

    def ticks(self, trades: list[Trade]) -> list[Tick]:
        found = []
        for market, number, ts in trades:
            if self.kind == "venue":
                found.append(Tick(market, market, 1.0, 1.0, ts, number))
            else:
                event_id = number if self.kind == "numbers" else f"t{number}"
                message = {"event_id": event_id, "symbol": market, "price": 1, "volume": 1, "ts": ts}
                self.parser.parse_into(json.dumps(message).encode(), found)
        assert self.parser.errors == 0
        return found

    def deliver(self, trades: list[Trade], *, flush: bool = True, told: bool = True) -> None:
        """flush: to disk before anything else happens. told: with what is known of the ids."""
        fresh = self.books.admit(self.ticks(trades))
        assert self.books.parsed == self.books.received + self.books.duplicates
        if flush:
            labels = {} if told else self.books.take_unnamed()
            moved = self.books.take_moved() if told else []
            numberings = {one.label: one for one in moved}
            self.store.write(Batch(fresh, labels=labels, numberings=numberings, streams=self.streams.take_new()))
            self.flushed |= set(trades)

    def trades(self, count: int) -> list[Trade]:
        made = []
        for _ in range(count):
            self.now += self.now % 3
            made.append(self.venue.trade(self.now))
        self.venue.sent += made
        return made

    def act(self, what: str, how: int) -> None:
        venue = self.venue
        # Whatever happens to a venue takes time.
        self.now += 1 + self.now % 2
        if what == "trades":
            self.deliver(self.trades(how))
        elif what == "lost":
            venue.unsent = self.trades(how)
        elif what == "late":
            self.deliver(venue.unsent[:how])
        elif what == "overlap":
            self.deliver(venue.sent[-how:])
        elif what == "reset":
            venue.next_id, venue.sent, venue.unsent = how, [], []
            self.deliver(self.trades(5))
        elif what == "back":
            # The venue's clock, too, to before everything.
            self.now = self.earliest = self.earliest - 10_000 - how
            venue.next_id, venue.sent, venue.unsent = how, [], []
            self.deliver(self.trades(20))
        elif what == "again":
            # Within the times of one read, which had the same ids: but no id comes at its time again.
            first, began = venue.next_id, self.now
            for later in range(2):
                read = [(venue.market, first + n, began + 2 * n + later) for n in range(how)]
                self.deliver(read)
            venue.next_id, venue.sent, venue.unsent = first + how, read, []
            self.now = began + 2 * how
        elif what == "mixed":
            # Two markets that have the same ids at the same times, for all that is known of each.
            made = self.trades(how)
            other = next(one for one in self.venues if one.market != venue.market)
            other.sent = [(other.market, number, ts) for _, number, ts in made]
            other.next_id, other.unsent = venue.next_id, []
            self.deliver([trade for pair in zip(made, other.sent, strict=True) for trade in pair])
        elif what == "jump":
            venue.next_id += how
            self.deliver(self.trades(3))
        elif what == "poison":
            self.deliver([*self.trades(2), (venue.market, how, self.now), *self.trades(2)])
        elif what == "repoint":
            self.venue = self.venues[how]
        elif what == "restart":
            self.store.close()
            self.start()
        else:
            if what == "torn":
                made = self.trades(2 * how)
                venue.unsent = made[::2]
                self.deliver(made[1::2], told=False)
            self.deliver(self.trades(7), flush=False)
            self.store.close()
            self.start()

    def stored(self) -> Counter[Trade]:
        rows = self.store._connection.execute("SELECT symbol, coalesce(trade_id, event_id), ts FROM ticks").fetchall()
        return Counter((market, int(str(text).removeprefix("t").partition("@")[0]), ts) for market, text, ts in rows)


@pytest.mark.slow
@pytest.mark.claim("N11", "N9", "N12", "D3")
@given(steps=st.lists(STEP, min_size=1, max_size=25), kind=st.sampled_from(["venue", "numbers", "texts"]))
def test_N11_N9_D3_every_distinct_trade_is_stored_once_whatever_a_venue_does_with_its_ids(
    steps: list[tuple[str, int]], kind: str
) -> None:
    """Against a set of (market, id, time): what was delivered and flushed is there, once, and nothing else."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory) / "bot.db", kind)
        for what, how in steps:
            world.act(what, how)
        stored = world.stored()
        world.store.close()
    assert set(stored) == world.flushed
    assert max(stored.values(), default=1) == 1
