"""The soak's line on the terminal: how far it is, and how the engine does. Text only; printing is the caller's."""

from __future__ import annotations

from collections.abc import Mapping

BAR_CHARS = 20

_COLOURS = {"NORMAL": "32", "THROTTLE1": "33", "THROTTLE2": "33", "THROTTLE3": "31", "down": "31"}


def line(sample: Mapping[str, object], seconds: float, *, colour: bool, bar: bool) -> str:
    """One sample (see harness/soak.py) as one line.

    seconds: length of the whole soak. colour: with ANSI colours. bar: with a bar, for a terminal that is redrawn.
    """
    elapsed = min(_number(sample, "elapsed_secs") or 0.0, seconds)
    state = str(sample["state"]) if sample["active"] == "active" else "down"
    shown = f"\x1b[{_COLOURS.get(state, '0')}m{state}\x1b[0m" if colour else state
    ticks = _number(sample, "ticks_per_sec")
    rss = _number(sample, "rss_bytes")
    parts = [
        f"{duration(seconds - elapsed)} left",
        shown,
        "ticks/s ?" if ticks is None else f"{ticks:.1f} ticks/s",
        _pressure(sample),
        "RSS ?" if rss is None else f"RSS {rss / 2**20:.0f} MiB",
        f"{sample['restarts']} restarts",
    ]
    text = "  ".join(part for part in parts if part)
    if not bar:
        return text
    done = int(BAR_CHARS * elapsed / seconds) if seconds > 0 else BAR_CHARS
    return f"[{'#' * done}{'-' * (BAR_CHARS - done)}] {text}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(max(0.0, seconds))
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


def _pressure(sample: Mapping[str, object]) -> str:
    if "psi_error" in sample:
        return "PSI unknown"
    found = [(name, _number(sample, f"{name}_some_avg10")) for name in ("cpu", "memory", "io")]
    values = [f"{name} {value:.1f}" for name, value in found if value is not None]
    return f"PSI % {' '.join(values)}" if values else ""


def _number(sample: Mapping[str, object], key: str) -> float | None:
    value = sample.get(key)
    return float(value) if isinstance(value, int | float) else None
