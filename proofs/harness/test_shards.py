"""Which tests which computer runs (contract V16)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence.history import RunEntry
from harness.evidence.verdict import anchor
from harness.proving import shards

TESTS = st.lists(st.from_regex(r"proofs/test_[ab]\.py::test_[a-d]{1,3}(\[[0-9]\])?", fullmatch=True), unique=True)
SECONDS = st.floats(0, 100)


@pytest.mark.claim("V16")
@given(TESTS, st.data(), st.integers(1, 6), st.randoms())
def test_every_test_is_in_one_part_and_no_part_is_much_too_long(
    tests: list[str], data: st.DataObject, of: int, order: random.Random
) -> None:
    known = {
        anchor(test): data.draw(SECONDS)
        for test in data.draw(st.lists(st.sampled_from(tests)) if tests else st.just([]))
    }
    parts = shards.split(tests, known, of)
    assert set(parts) == set(tests)
    assert set(parts.values()) <= set(range(1, of + 1))
    function: dict[str, set[int]] = {}
    for test, number in parts.items():
        function.setdefault(test.partition("[")[0], set()).add(number)
    assert all(len(numbers) == 1 for numbers in function.values())
    shuffled = list(tests)
    order.shuffle(shuffled)
    again = shards.split(shuffled, known, of)
    assert again == parts
    assert shards.made(1, of, again) == shards.made(1, of, parts)
    if len(known) == len(tests) and tests:
        took = [sum(known[anchor(test)] for test in tests if parts[test] == number) for number in range(1, of + 1)]
        longest = max(sum(known[anchor(test)] for test in tests if test.partition("[")[0] == name) for name in function)
        assert max(took) <= sum(took) / of + longest + 1e-6


@pytest.mark.claim("V16")
@given(st.dictionaries(st.sampled_from([f"test_{number}" for number in range(12)]), SECONDS), st.integers(1, 4))
def test_only_how_durations_compare_divides(seconds: dict[str, float], of: int) -> None:
    known = {anchor(test): float(round(secs)) for test, secs in seconds.items()}
    tiny = {name: secs * 2.0**-80 for name, secs in known.items()}
    assert shards.split(seconds, tiny, of) == shards.split(seconds, known, of)


@pytest.mark.claim("V16")
def test_the_longest_come_first_and_neighbours_that_are_alike_in_no_order_of_theirs() -> None:
    known = {anchor(f"test_{name}"): 4.0 if name == "z" else 1.0 for name in "abcdz"}
    parts = shards.split([f"test_{name}" for name in "abcdz"], known, 2)
    assert [test for test, number in parts.items() if number == parts["test_z"]] == ["test_z"]
    alike = shards.split([f"test_{number:02}" for number in range(20)], {}, 2)
    assert len({(alike[f"test_{number:02}"], alike[f"test_{number + 1:02}"]) for number in range(0, 20, 2)}) > 1


@pytest.mark.claim("V16")
def test_another_division_is_another() -> None:
    tests = [f"proofs/test_a.py::test_{number}" for number in range(20)]
    plain, informed = shards.split(tests, {}, 2), shards.split(tests, {anchor(tests[0]): 9.0, anchor(tests[1]): 1.0}, 2)
    assert shards.made(1, 2, plain).split == shards.made(2, 2, plain).split
    assert shards.made(1, 2, plain).split != shards.made(1, 2, informed).split
    # Half of what is alike is in each.
    assert list(plain.values()).count(1) == 10


@pytest.mark.claim("V16")
def test_what_a_proof_took_last_counts() -> None:
    def entry(started: float, engine: str, **seconds: float) -> RunEntry:
        return RunEntry("r", "0" * 64, started, 10.0, "complete", "private", "", "", engine, seconds)

    earlier = [entry(100, "", a=1.0, b=5.0), entry(200, "", a=2.0), entry(300, "other", a=7.0), entry(400, "", a=9.0)]
    # The last of them ends after the run began.
    assert shards.durations(earlier, 405.0, "") == {"a": 2.0, "b": 5.0}
    assert shards.durations(earlier, 410.0, "") == {"a": 2.0, "b": 5.0}
    assert shards.durations(earlier, 410.1, "") == {"a": 9.0, "b": 5.0}
    assert shards.durations(earlier, 410.1, "other") == {"a": 7.0}


@pytest.mark.claim("V16")
def test_what_a_refuted_proof_took_counts_too() -> None:
    one = RunEntry(
        "r", "0" * 64, 1.0, 1.0, "complete", "private", "", "", "", {}, {"proofs/test_a.py::test_x": 3.0}, {}
    )
    assert shards.durations([one], 10.0, "") == {anchor("proofs/test_a.py::test_x"): 3.0}


@pytest.mark.claim("V16")
@pytest.mark.parametrize(("text", "parsed"), [("1/1", (1, 1)), ("2/4", (2, 4)), ("1000/1000", (1000, 1000))])
def test_a_part_is_named(text: str, parsed: tuple[int, int]) -> None:
    assert shards.parse(text) == parsed


@pytest.mark.claim("V16")
@pytest.mark.parametrize("text", ["", "0/2", "3/2", "2", "a/b", "1/1001", "-1/2", "1/2/3", "01/2", "1 /2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be N/OF, such as 2/4"):
        shards.parse(text)
