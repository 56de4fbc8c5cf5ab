"""Contract N7, N9, I3, M3: which ticks are new, which are processed, and what the books say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import intake
from engine.events import Tick
from engine.intake import EVENT_IDS_MAX, MISSING_INTERVALS_MAX, Intake


def tick(trade_id: int | None = None, event_id: str | None = None, source: str = "a") -> Tick:
    return Tick(source, "SYM", 1.0, 1.0, 0, trade_id, event_id)


def fresh_intake(sample_every: int = 1, **watermarks: int) -> Intake:
    return Intake(sample_every, 1, watermarks, {})


def admitted(books: Intake, *trade_ids: int, source: str = "a") -> list[int | None]:
    return [t.trade_id for t in books.admit([tick(i, source=source) for i in trade_ids])]


def assert_balanced(books: Intake, sample_every: int) -> None:
    assert books.parsed == books.received + books.duplicates
    assert books.received == books.processed + books.sampled_out
    assert books.processed == books.received // sample_every


def test_N9_a_trade_seen_before_is_a_duplicate() -> None:
    books = fresh_intake()
    assert admitted(books, 7, 8, 8, 7, 9) == [7, 8, 9]
    assert (books.received, books.duplicates, books.gaps) == (3, 2, 0)


def test_N9_the_first_id_of_a_source_is_no_gap() -> None:
    books = fresh_intake()
    admitted(books, 1_000_000)
    assert books.gaps == 0


def test_N9_a_late_arrival_closes_its_gap() -> None:
    books = fresh_intake()
    assert admitted(books, 10, 15) == [10, 15]
    assert books.gaps == 4
    assert admitted(books, 13, 11, 11, 14) == [13, 11, 14]
    assert (books.gaps, books.duplicates) == (1, 1)
    assert admitted(books, 12, 12) == [12]
    assert (books.gaps, books.duplicates) == (0, 2)


def test_N9_a_feed_that_starts_out_of_order_loses_nothing() -> None:
    books = fresh_intake()
    assert admitted(books, 5, 3, 4, 3, 6) == [5, 3, 4, 6]
    assert (books.gaps, books.duplicates) == (0, 1)


def test_N2_N7_rows_of_the_database_keep_their_ids_and_are_all_new() -> None:
    """In time order the ids of a venue may go back and forth; a row is there once all the same."""
    books = fresh_intake(2)
    rows = [tick(9), tick(7), tick(7, source="b"), tick(event_id="x"), tick()]
    for row_id, row in enumerate(rows, 100):
        row.id = row_id
    assert [row.id for row in books.readmit(rows[:3]) + books.readmit(rows[3:])] == [101, 103]
    assert (books.received, books.duplicates, books.gaps, books.watermark("a")) == (5, 0, 0, None)
    assert_balanced(books, 2)


def test_N9_same_id_of_two_sources_is_two_trades() -> None:
    books = fresh_intake()
    ticks = [tick(1, source="a"), tick(1, source="b"), tick(2, source="a"), tick(1, source="b")]
    assert len(books.admit(ticks)) == 3
    assert books.duplicates == 1


def test_N9_I3_the_watermark_of_the_database_counts_as_seen() -> None:
    """After a restart: what is on disk is a duplicate, and what was missed meanwhile is a gap."""
    books = fresh_intake(a=100)
    assert books.watermark("a") == 100
    assert admitted(books, 99, 100, 103) == [103]
    assert (books.duplicates, books.gaps) == (2, 2)
    assert admitted(books, 0, 101) == [101]
    assert books.gaps == 1
    assert books.watermark("a") == 103
    assert books.watermark("b") is None


def test_N9_ids_of_a_sparse_source_make_no_gaps_but_are_still_deduplicated() -> None:
    """Gemini's trade ids rise with holes that belong to other markets."""
    books = Intake(1, 1, {"g": 50}, {}, sparse_sources=frozenset({"g"}))
    assert admitted(books, 90, 70, 90, 70, 50, source="g") == [90, 70]
    admitted(books, 1, 3, source="a")
    assert (books.gaps, books.duplicates) == (1, 3)


def test_N9_textual_ids_are_remembered_within_the_window() -> None:
    books = Intake(1, 1, {}, {"a": ["old"]})
    assert books.admit([tick(event_id="old")]) == []
    assert len(books.admit([tick(event_id="x"), tick(event_id="x"), tick(event_id="x", source="b")])) == 2
    books.admit([tick(event_id=str(n)) for n in range(EVENT_IDS_MAX - 1)])
    assert books.admit([tick(event_id="x")]) == []
    books.admit([tick(event_id=f"n{n}") for n in range(EVENT_IDS_MAX)])
    assert len(books.admit([tick(event_id="x")])) == 1
    assert_balanced(books, 1)


def test_N9_ticks_without_ids_are_always_new() -> None:
    books = fresh_intake()
    assert len(books.admit([tick(), tick(), tick()])) == 3
    assert books.duplicates == 0


def test_N7_duplicates_do_not_move_the_sampling_counter() -> None:
    books = fresh_intake(3)
    assert admitted(books, 1, 1, 2, 2, 1) == []
    assert admitted(books, 3, 3, 4, 5, 6) == [3, 6]
    assert_balanced(books, 3)


def test_N7_sample_every_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="sample_every 0: allowed is 1 or more"):
        fresh_intake(0)


def test_B1_N9_memory_is_bounded_and_a_forgotten_hole_stays_a_gap() -> None:
    books = fresh_intake()
    holes = MISSING_INTERVALS_MAX + 10
    admitted(books, *range(0, 2 * holes + 1, 2))
    assert books.gaps == holes
    seen = books._seen["a"]
    assert len(seen.starts) == len(seen.ends) == MISSING_INTERVALS_MAX
    assert admitted(books, 1) == []
    assert admitted(books, 2 * holes - 1) == [2 * holes - 1]
    assert books.gaps == holes - 1
    # Splitting a hole at the limit forgets the oldest one, and so does a hole below all others.
    admitted(books, 10 * holes, 9 * holes, 8 * holes, -10)
    assert len(seen.starts) == len(seen.ends) == MISSING_INTERVALS_MAX


def test_N9_an_absurd_jump_costs_no_memory() -> None:
    books = fresh_intake()
    assert admitted(books, 0, 2**63 - 1, 2**62) == [0, 2**63 - 1, 2**62]
    assert books.gaps == 2**63 - 3


# --- properties ---------------------------------------------------------------------------------------------

BATCHES = st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=12), min_size=1, max_size=12)


@given(
    batches=BATCHES,
    sample_every=st.integers(1, 7),
    watermarks=st.dictionaries(st.sampled_from("ab"), st.integers(0, 25)),
)
def test_N7_N9_M3_I3_agree_with_a_set_of_everything_seen(
    batches: list[list[tuple[str, int]]], sample_every: int, watermarks: dict[str, int]
) -> None:
    """The naive model: remember every id for ever, count one by one."""
    books = Intake(sample_every, 500, watermarks, {})
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
        assert {s: books.watermark(s) for s in seen} == {s: max(ids) for s, ids in seen.items()}
        assert_balanced(books, sample_every)


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


@given(ids=st.lists(st.integers(0, 60), max_size=60), limit=st.integers(1, 5))
def test_N9_with_forgotten_holes_nothing_is_ever_admitted_twice(ids: list[int], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "MISSING_INTERVALS_MAX", limit)
        books = fresh_intake()
        got = [trade_id for i in ids for trade_id in admitted(books, i)]
    assert all(len(seen.starts) <= limit for seen in books._seen.values())
    assert len(got) == len(set(got))
    assert books.gaps == (max(got) - min(got) + 1 - len(got) if got else 0)


@given(events=st.lists(st.text("xyz", min_size=1, max_size=2), max_size=40))
def test_I3_textual_ids_are_admitted_once(events: list[str]) -> None:
    books = fresh_intake()
    got = [t.event_id for t in books.admit([tick(event_id=e) for e in events])]
    assert got == list(dict.fromkeys(events))
    assert_balanced(books, 1)
