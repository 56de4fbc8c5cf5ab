"""Lines that are redrawn on a terminal: how a soak does, what a proof waits for. Text only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BAR_CHARS = 20
"""At most; less in a narrow terminal."""

BAR_CHARS_MIN = 5
"""A shorter bar says nothing."""

_GAP = "  "

_RESOURCES = {"cpu": "cpu", "mem": "memory", "io": "io"}
"""As they are shown -> as a sample calls them."""

_COLOURS = {"NORMAL": "32", "THROTTLE1": "33", "THROTTLE2": "33", "THROTTLE3": "31", "down": "31"}


def line(sample: Mapping[str, object], seconds: float, *, colour: bool, columns: int | None) -> str:
    """Return one sample (see harness/soak/controller.py) as one line.

    seconds: length of the whole soak. colour: with ANSI colours. columns: of the terminal the line is redrawn on, which
    it must not fill: it gets a bar and, when that is narrow, loses what matters least. None for a line that stays.
    """
    elapsed = min(_number(sample, "elapsed_secs") or 0.0, seconds)
    state = str(sample["state"]) if sample["active"] == "active" else "down"
    ticks = _number(sample, "ticks_per_sec")
    rss = _number(sample, "rss_bytes")
    parts = [
        f"{duration(seconds - elapsed)} left",
        state,
        "ticks/s ?" if ticks is None else f"{ticks:.1f} ticks/s",
        *([text] if (text := _pressure(sample)) else []),
        f"{sample['restarts']} restarts",
        "RSS ?" if rss is None else f"RSS {rss / 2**20:.0f} MiB",
    ]
    bar = ""
    if columns is not None:
        always = 4 if _pressure(sample) else 3
        while len(parts) > always and columns - _length(parts) < BAR_CHARS + 4:
            parts.pop()
        while len(parts) > 1 and columns - _length(parts) < 1:
            parts.pop()
        room = min(BAR_CHARS, columns - 1 - _length(parts) - len("[] "))
        if room >= BAR_CHARS_MIN:
            done = int(room * elapsed / seconds) if seconds > 0 else room
            bar = f"[{'#' * done}{'-' * (room - done)}] "
    if colour:
        parts = [f"\x1b[{_COLOURS.get(state, '0')}m{part}\x1b[0m" if part == state else part for part in parts]
    return bar + _GAP.join(parts)


def _length(parts: Sequence[str]) -> int:
    return len(_GAP.join(parts))


def waiting_line(worker: str, proof: str, what: str, secs: float, columns: int) -> str:
    """Return what a pytest process does, within a terminal of so many columns.

    proof: its pytest id. what: is awaited; empty when the proof itself runs. secs: since when.
    """
    name = proof.rpartition("/")[2].replace(".py::test_", "::")
    text = f"{worker:<4} {secs:5.1f} s  "
    # The name of the proof must not take the room of what it waits for.
    room = columns - 1 - len(text)
    if what and len(name) + len(what) + 2 > room:
        name = shortened(name, max(room // 2, room - len(what) - 2))
    return shortened(f"{text}{name}{f': {what}' if what else ''}", columns - 1)


def shortened(text: str, chars: int) -> str:
    """Return the text, with an ellipsis where it had to be cut: between two words, unless that would leave less than
    half."""
    if len(text) <= chars:
        return text
    kept = text[: max(0, chars - 1)]
    whole = kept if text[len(kept) : len(kept) + 1] == " " else kept.rpartition(" ")[0]
    return f"{(whole if 2 * len(whole) >= len(kept) else kept).rstrip()}…"


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    whole = round(max(0.0, seconds))
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


def _pressure(sample: Mapping[str, object]) -> str:
    if "psi_error" in sample:
        return "PSI unknown"
    found = [(short, _number(sample, f"{name}_some_avg10")) for short, name in _RESOURCES.items()]
    values = [f"{short} {value:.1f}" for short, value in found if value is not None]
    return f"PSI {' '.join(values)} %" if values else ""


def _number(sample: Mapping[str, object], key: str) -> float | None:
    value = sample.get(key)
    return float(value) if isinstance(value, int | float) else None
