"""The throttling ladder (contract K1, K2)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.soak.ladder import RUNGS, TOP_READINGS_MAX, Ladder, Step

TOP = Ladder(len(RUNGS) - 1)


def climb(
    ladder: Ladder, readings: Sequence[bool | None], recover_after_secs: float = 0.0
) -> tuple[Ladder, list[Step]]:
    """Readings five seconds apart."""
    steps = []
    for number, pressured in enumerate(readings):
        ladder, step = ladder.read(pressured, 5.0 * number, recover_after_secs)
        steps.append(step)
    return ladder, steps


@pytest.mark.claim("K1")
def test_K1_the_rungs() -> None:
    assert [(rung.name, rung.sample_every) for rung in RUNGS] == [
        ("NORMAL", 1), ("THROTTLE1", 5), ("THROTTLE2", 10), ("THROTTLE3", 20),
    ]  # fmt: skip


@pytest.mark.claim("K1")
def test_K1_each_pressured_reading_is_one_rung_up() -> None:
    ladder, steps = climb(Ladder(), [True, True, True])
    assert steps == [Step.UP] * 3
    assert ladder.at_top


@pytest.mark.claim("K1")
def test_K1_more_than_five_pressured_readings_at_the_top_abort() -> None:
    _, steps = climb(TOP, [True] * 6)
    assert steps == [Step.THROTTLE_MAX] * 5 + [Step.ABORT]


@pytest.mark.claim("K1")
def test_K1_a_calm_reading_at_the_top_starts_the_count_again() -> None:
    _, steps = climb(TOP, [True] * 5 + [False] + [True] * 6)
    assert steps == [Step.THROTTLE_MAX] * 5 + [Step.HOLD] + [Step.THROTTLE_MAX] * 5 + [Step.ABORT]


@pytest.mark.claim("K1")
def test_K1_latched_without_recovery() -> None:
    ladder, steps = climb(Ladder(2), [False] * 1000)
    assert set(steps) == {Step.HOLD}
    assert ladder.index == 2


@pytest.mark.claim("K1")
def test_K1_recovery_takes_the_whole_time_for_each_rung() -> None:
    ladder, steps = climb(Ladder(2), [False] * 15, recover_after_secs=30.0)
    assert [number * 5 for number, step in enumerate(steps) if step is Step.DOWN] == [30, 65]
    assert ladder.index == 0


@pytest.mark.claim("K1")
def test_K1_pressure_starts_the_recovery_again() -> None:
    _, steps = climb(TOP, [False] * 6 + [True] + [False] * 6, recover_after_secs=30.0)
    assert Step.DOWN not in steps


@pytest.mark.claim("K2")
def test_K2_an_unknown_reading_changes_nothing() -> None:
    ladder, steps = climb(TOP, [True, None, True, None, True, None, True, None, True, None, True])
    assert steps[-1] is Step.ABORT
    assert steps[1::2] == [Step.HOLD] * 5
    assert ladder.index == TOP.index


@pytest.mark.claim("K2")
def test_K2_unknown_time_is_not_calm_time() -> None:
    ladder, steps = climb(Ladder(1), [False, False, None, None, None, None, None, False], recover_after_secs=30.0)
    assert set(steps) == {Step.HOLD}
    assert ladder.calm_secs == 5.0


@pytest.mark.claim("K4")
def test_K4_overload_steps_up_and_aborts_at_the_top() -> None:
    assert Ladder().overloaded() == (Ladder(1), Step.UP)
    assert TOP.overloaded() == (TOP, Step.ABORT)


@pytest.mark.claim("K1", "K2")
@given(st.lists(st.sampled_from([True, False, None]), max_size=60), st.sampled_from([0.0, 5.0, 20.0]))
def test_never_more_than_one_rung_and_never_without_a_reading(readings: Sequence[bool | None], recover: float) -> None:
    ladder = Ladder()
    at_top = 0
    for number, pressured in enumerate(readings):
        before = ladder
        ladder, step = ladder.read(pressured, 5.0 * number, recover)
        moved = ladder.index - before.index
        assert moved == {Step.UP: 1, Step.DOWN: -1}.get(step, 0)
        if moved > 0:
            assert pressured
        if moved < 0:
            assert pressured is False
            assert recover > 0
        at_top = at_top + (pressured is True) if before.at_top and pressured is not False else 0
        assert (step is Step.ABORT) == (at_top > TOP_READINGS_MAX)
        if step is Step.ABORT:
            return


@pytest.mark.parametrize("recover", [0.25, 1.0, 2.0])
@pytest.mark.claim("K1")
def test_K1_a_recovery_of_any_length_steps_down_and_not_below_the_bottom(recover: float) -> None:
    ladder, steps = Ladder(2), []
    for number in range(9):
        ladder, step = ladder.read(False, number * recover, recover)
        steps.append(step)
    # A rung's first calm reading begins its time; the next, that much later, ends it.
    assert steps == [Step.HOLD, Step.DOWN, Step.HOLD, Step.DOWN] + [Step.HOLD] * 5
    assert ladder.rung.name == "NORMAL"


@pytest.mark.claim("K4")
def test_K4_overload_at_the_top_leaves_the_ladder_as_it_is() -> None:
    seen = Ladder(len(RUNGS) - 1, 3, 7.0, 9.0)
    assert seen.overloaded() == (seen, Step.ABORT)
    assert Ladder(1, 0, 7.0, 9.0).overloaded() == (Ladder(2), Step.UP)
