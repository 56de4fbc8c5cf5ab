"""Batches that wait are written as one transaction: nothing of them is lost, and the newest knowledge counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.base.events import Numbering, Tick
from engine.storage.batch import Batch, count_rows, merge

STREAMS = st.sampled_from(["a", "b", "c"])


def tick(number: int) -> Tick:
    return Tick(source="a", symbol="btcusdt", price=1.0, volume=1.0, ts=number, trade_id=number, id=number)


def numbering(last: int, missing: list[tuple[int, int]] | None) -> Numbering:
    return Numbering("a", 1, 1, last, last, missing)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.dictionaries(STREAMS, st.tuples(STREAMS, st.integers()))),
        min_size=1,
        max_size=6,
    )
)
def test_merging_keeps_every_row_in_order_and_the_newest_of_each_key(
    made: list[tuple[int, dict[str, tuple[str, int]]]],
) -> None:
    batches, numbers = [], iter(range(1, 100))
    barred: dict[str, tuple[str, int]] = {}
    for rows, bars in made:
        batches.append(Batch(ticks=[tick(next(numbers)) for _ in range(rows)], barred=bars))
        barred |= bars
    rows_before = sum(map(count_rows, batches))
    merged = merge(batches)
    assert count_rows(merged) == rows_before
    assert [one.id for one in merged.ticks] == list(range(1, rows_before + 1))
    assert merged.barred == barred


def test_holes_that_were_not_told_again_are_those_told_before() -> None:
    told = merge([Batch(numberings={"a": numbering(9, [(3, 4)])}), Batch(numberings={"a": numbering(12, None)})])
    assert told.numberings["a"].last == 12
    assert told.numberings["a"].missing == [(3, 4)]


def test_holes_told_anew_replace_those_told_before() -> None:
    told = merge([Batch(numberings={"a": numbering(9, [(3, 4)])}), Batch(numberings={"a": numbering(12, [])})])
    assert told.numberings["a"].missing == []


def test_what_is_known_of_streams_is_no_row() -> None:
    assert (
        count_rows(Batch(numberings={"a": numbering(9, None)}, streams={"a": ("x", "y")}, labels={"a": ("a", 2)})) == 0
    )
