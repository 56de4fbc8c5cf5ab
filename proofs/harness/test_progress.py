"""The soak's line on the terminal (contract K7)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import progress

SAMPLE = {
    "elapsed_secs": 1800.0, "active": "active", "state": "THROTTLE1", "ticks_per_sec": 812.04, "restarts": 2,
    "rss_bytes": 44 * 2**20, "cpu_some_avg10": 3.14, "memory_some_avg10": 0.0, "io_some_avg10": 0.2,
}  # fmt: skip


def shown(sample: dict[str, object], seconds: float = 7200, *, colour: bool = False, columns: int | None = 120) -> str:
    return progress.line(sample, seconds, colour=colour, columns=columns)


@pytest.mark.claim("K7")
def test_K7_a_line_says_rung_rate_pressure_and_time_left() -> None:
    assert shown(SAMPLE) == (
        "[#####---------------] 1:30:00 left  THROTTLE1  812.0 ticks/s  PSI cpu 3.1 mem 0.0 io 0.2 %  "
        "2 restarts  RSS 44 MiB"
    )
    assert shown(SAMPLE, columns=80) == (
        "[##------] 1:30:00 left  THROTTLE1  812.0 ticks/s  PSI cpu 3.1 mem 0.0 io 0.2 %"
    )


@pytest.mark.claim("K7")
def test_K7_without_a_terminal_there_is_no_bar_and_no_colour() -> None:
    assert shown(SAMPLE, columns=None) == (
        "1:30:00 left  THROTTLE1  812.0 ticks/s  PSI cpu 3.1 mem 0.0 io 0.2 %  2 restarts  RSS 44 MiB"
    )
    assert "\x1b[33mTHROTTLE1\x1b[0m" in shown(SAMPLE, colour=True)


@pytest.mark.claim("K7")
def test_K7_what_is_unknown_is_shown_as_such() -> None:
    sample = {
        "elapsed_secs": 99.0, "active": "failed", "state": "NORMAL", "ticks_per_sec": None, "restarts": 0,
        "rss_bytes": None, "psi": "unknown", "psi_error": "cpu: missing",
    }  # fmt: skip
    assert shown(sample, 10) == ("[####################] 0:00:00 left  down  ticks/s ?  PSI unknown  0 restarts  RSS ?")


@pytest.mark.claim("K7")
@given(
    st.integers(20, 300), st.floats(0, 1e7), st.sampled_from(["NORMAL", "THROTTLE3"]), st.floats(0, 100),
    st.booleans(), st.floats(0, 9e4),
)  # fmt: skip
def test_K7_a_line_never_fills_the_terminal(
    columns: int, ticks: float, state: str, cpu: float, read: bool, elapsed: float
) -> None:
    sample = {**SAMPLE, "ticks_per_sec": ticks, "state": state, "elapsed_secs": elapsed, "cpu_some_avg10": cpu}
    if not read:
        sample = {key: value for key, value in sample.items() if not key.endswith("avg10")}
    plain = shown(sample, 86400, columns=columns)
    assert len(plain) < columns
    assert re.sub(r"\x1b\[\d+m", "", shown(sample, 86400, columns=columns, colour=True)) == plain


@pytest.mark.claim("K7")
@pytest.mark.parametrize("read", [True, False])
def test_K7_a_narrow_terminal_loses_what_matters_least_and_nothing_without_need(read: bool) -> None:
    sample = {key: value for key, value in SAMPLE.items() if read or not key.endswith("avg10")}
    whole = shown(sample, columns=None).split("  ")
    matters = 4 if read else 3
    for columns in range(10, 160):
        line = shown(sample, columns=columns)
        bar, told = re.findall(r"^(?:\[([#-]+)\] )?(.*)$", line)[0]
        parts = told.split("  ")
        assert parts == whole[: len(parts)]
        with_one_more = len("  ".join(whole[: len(parts) + 1]))
        if len(parts) > matters:
            assert len(bar) == progress.BAR_CHARS, "restarts and memory are worth no piece of the bar"
        if matters <= len(parts) < len(whole):
            assert columns <= with_one_more + progress.BAR_CHARS + len("[] "), "there was room for more"
        if len(parts) < matters:
            assert columns <= with_one_more, "there was room for more"
        if len(parts) > 1:
            assert len(line) < columns
        room = columns - 1 - len(told) - len("[] ")
        assert len(bar) == (min(room, progress.BAR_CHARS) if room >= progress.BAR_CHARS_MIN else 0)


@pytest.mark.claim("K7")
@pytest.mark.parametrize(
    ("elapsed", "seconds", "bar", "left"),
    [
        (0, 100, "-" * 20, "0:01:40"), (4.9, 100, "-" * 20, "0:01:35"), (5, 100, "#" + "-" * 19, "0:01:35"),
        (99.4, 100, "#" * 19 + "-", "0:00:01"), (100, 100, "#" * 20, "0:00:00"), (1000, 100, "#" * 20, "0:00:00"),
        (0, 0, "#" * 20, "0:00:00"), (0.2, 0.4, "#" * 10 + "-" * 10, "0:00:00"),
        (None, 7261, "-" * 20, "2:01:01"), (3661, 86400, "-" * 20, "22:58:59"),
    ],
)  # fmt: skip
def test_K7_the_bar_grows_and_the_time_left_shrinks(elapsed: object, seconds: float, bar: str, left: str) -> None:
    assert shown({**SAMPLE, "elapsed_secs": elapsed}, seconds).startswith(f"[{bar}] {left} left  ")


@pytest.mark.claim("K7")
@pytest.mark.parametrize(
    ("state", "active", "colour"),
    [("NORMAL", "active", 32), ("THROTTLE1", "active", 33), ("THROTTLE2", "active", 33), ("THROTTLE3", "active", 31),
     ("NORMAL", "failed", 31), ("ANOTHER", "active", 0)],
)  # fmt: skip
def test_K7_a_rung_has_its_colour(state: str, active: str, colour: int) -> None:
    text = state if active == "active" else "down"
    line = shown({**SAMPLE, "state": state, "active": active}, colour=True)
    assert re.findall("\x1b.*?m", line) == [f"\x1b[{colour}m", "\x1b[0m"]
    assert f"\x1b[{colour}m{text}\x1b[0m" in line


@pytest.mark.claim("K2")
def test_K2_pressure_that_is_not_read_is_not_shown() -> None:
    sample = {key: value for key, value in SAMPLE.items() if not key.endswith("avg10")}
    assert "PSI" not in shown(sample)


def test_a_wait_fits_the_terminal_and_says_what_it_is_for() -> None:
    proof = "proofs/guardrails/test_stall.py::test_controller_restarts_a_paused_engine"
    line = progress.waiting_line("gw0", proof, "the decision STALL", 3.21, 80)
    assert line == "gw0    3.2 s  test_stall::controller_restarts_a_paused_eng…: the decision STALL"
    assert progress.waiting_line("gw0", proof, "", 3.21, 80) == (
        "gw0    3.2 s  test_stall::controller_restarts_a_paused_engine"
    )


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (60, "gw0    3.2 s  test_stall::paused_engine: the decision STALL"),
        (59, "gw0    3.2 s  test_stall::paused_engi…: the decision STALL"),
        (49, "gw0    3.2 s  test_stall::paus…: the decision…"),
        (30, "gw0    3.2 s  test_s…: the…"),
        (15, "gw0    3.2 s…"),
    ],
)
def test_a_narrow_terminal_has_both_of_proof_and_wait(columns: int, line: str) -> None:
    proof = "proofs/guardrails/test_stall.py::test_paused_engine"
    assert progress.waiting_line("gw0", proof, "the decision STALL", 3.21, columns) == line


@pytest.mark.parametrize(
    ("columns", "name"),
    [(40, "test_stall::paused_engine"), (39, "test_stall::paused_engi…"), (30, "test_stall::pa…")],
)
def test_a_proof_that_waits_for_nothing_has_all_of_the_line(columns: int, name: str) -> None:
    proof = "proofs/guardrails/test_stall.py::test_paused_engine"
    line = progress.waiting_line("gw0", proof, "", 3.21, columns)
    assert (line, len(line) < columns) == (f"gw0    3.2 s  {name}", True)


@given(st.text(max_size=60), st.text(max_size=200), st.floats(0, 1e5), st.integers(10, 200))
def test_a_wait_never_fills_the_terminal(proof: str, what: str, secs: float, columns: int) -> None:
    assert len(progress.waiting_line("gw12", proof, what, secs, columns)) < columns
