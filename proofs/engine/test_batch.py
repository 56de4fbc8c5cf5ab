"""Batches that wait are written as one transaction: nothing of them is lost, and the newest knowledge counts."""

from __future__ import annotations

from typing import Any

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


LISTS = ("ticks", "signals", "orders", "fills")
MAPS = ("labels", "streams", "barred")


@given(
    st.lists(
        st.tuples(
            st.fixed_dictionaries({name: st.lists(st.integers(), max_size=3) for name in LISTS}),
            st.fixed_dictionaries({name: st.dictionaries(STREAMS, st.integers()) for name in MAPS}),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_merging_treats_alike_whatever_a_batch_has(
    made: list[tuple[dict[str, list[int]], dict[str, dict[str, int]]]],
) -> None:
    batches = [Batch(**lists, **maps) for lists, maps in made]  # type: ignore[arg-type]
    expected: dict[str, Any] = {name: [item for lists, _ in made for item in lists[name]] for name in LISTS}
    for name in MAPS:
        expected[name] = {}
        for _, maps in made:
            expected[name] |= maps[name]
    merged = merge(batches)
    assert {name: getattr(merged, name) for name in (*LISTS, *MAPS)} == expected
    assert count_rows(merged) == sum(len(expected[name]) for name in LISTS)
    # Those that were merged are as they were: nobody knows yet that they are on disk.
    assert [{name: getattr(batch, name) for name in LISTS} for batch in batches] == [lists for lists, _ in made]


def test_one_batch_is_as_it_is() -> None:
    batch = Batch(ticks=[tick(1)])
    assert merge([batch]) is batch
