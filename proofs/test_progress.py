"""The soak's line on the terminal (contract K7)."""

from __future__ import annotations

from harness import progress

SAMPLE = {
    "elapsed_secs": 1800.0, "active": "active", "state": "THROTTLE1", "ticks_per_sec": 812.04, "restarts": 2,
    "rss_bytes": 44 * 2**20, "cpu_some_avg10": 3.14, "memory_some_avg10": 0.0, "io_some_avg10": 0.2,
}  # fmt: skip


def test_K7_a_line_says_rung_rate_pressure_and_time_left() -> None:
    line = progress.line(SAMPLE, 7200, colour=False, bar=True)
    assert line == (
        "[#####---------------] 1:30:00 left  THROTTLE1  812.0 ticks/s  PSI % cpu 3.1 memory 0.0 io 0.2  RSS 44 MiB  "
        "2 restarts"
    )


def test_K7_without_a_terminal_there_is_no_bar_and_no_colour() -> None:
    line = progress.line(SAMPLE, 7200, colour=False, bar=False)
    assert line.startswith("1:30:00 left")
    assert "\x1b" not in line
    assert "\x1b[33mTHROTTLE1\x1b[0m" in progress.line(SAMPLE, 7200, colour=True, bar=True)


def test_K7_what_is_unknown_is_shown_as_such() -> None:
    sample = {
        "elapsed_secs": 99.0, "active": "failed", "state": "NORMAL", "ticks_per_sec": None, "restarts": 0,
        "rss_bytes": None, "psi": "unknown", "psi_error": "cpu: missing",
    }  # fmt: skip
    assert progress.line(sample, 10, colour=False, bar=True) == (
        "[####################] 0:00:00 left  down  ticks/s ?  PSI unknown  RSS ?  0 restarts"
    )


def test_K2_pressure_that_is_not_read_is_not_shown() -> None:
    sample = {key: value for key, value in SAMPLE.items() if not key.endswith("avg10")}
    assert "PSI" not in progress.line(sample, 7200, colour=False, bar=True)
