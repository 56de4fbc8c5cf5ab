"""Who did what when, and how much of what each time -> SVG: bars, without a library and without a script.

Colours come from the page's CSS (`.bar-<kind>`), so that a drawing follows light and dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 900
LANE_HEIGHT = 22
COLUMNS_HEIGHT = 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 98, 12, 6, 24
_BAR_WIDTH_MIN = 2.0


@dataclass(frozen=True)
class Span:
    """Something that took its time, or happened at a moment."""

    at: float
    """Seconds since the drawing's start."""
    seconds: float
    """0 for a moment."""
    kind: str
    """A word for the CSS class `bar-<kind>`; of bars that fall on one another the last kind of `priority` is seen."""
    text: str
    """What a reader sees on pointing at it."""


def lanes(title: str, rows: Mapping[str, Sequence[Span]], *, seconds: float, priority: Sequence[str] = ()) -> str:
    """Return one drawing as an `<svg>` element, a lane for each row, in their order.

    seconds: the right end of the axis. priority: kinds from the least to the most important. Bars that would lie within
    a bar's least width of each other are drawn once, so that the drawing's size is bounded by its width.
    """
    seconds = max(seconds, 1e-3)
    height = _TOP + LANE_HEIGHT * len(rows) + _BOTTOM
    scale = (WIDTH - _LEFT - _RIGHT) / seconds
    parts = [f'<svg class="lanes" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for step in range(5):
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * step / 4
        anchor = "start" if step == 0 else "end" if step == 4 else "middle"
        parts += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>',
            f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">'
            f"{_duration(seconds * step / 4)}</text>",
        ]
    for number, (name, bars) in enumerate(rows.items()):
        y = _TOP + LANE_HEIGHT * number
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        for bar in _thinned(bars, scale, priority):
            begin = min(max(bar.at, 0.0), seconds)
            width = max(_BAR_WIDTH_MIN, min(bar.seconds, seconds - begin) * scale)
            x = min(_LEFT + begin * scale, WIDTH - _RIGHT - width)
            parts.append(
                f'<rect class="bar-{escape(bar.kind)}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}" '
                f'height="{LANE_HEIGHT - 6}"><title>{escape(bar.text)}</title></rect>'
            )
    return "\n".join([*parts, "</svg>"])


@dataclass(frozen=True)
class StackedBar:
    """One bar of several parts, one on the other."""

    parts: Sequence[tuple[str, float]]
    """(kind, value), from the bottom: a word for the CSS class `bar-<kind>`."""
    text: str
    """What a reader sees on pointing at it."""
    pale: bool = False
    """Whether it is less than the others, such as a part of a run."""


def columns(title: str, bars: Sequence[StackedBar], *, unit: str, ends: tuple[str, str] = ("", "")) -> str:
    """Bars side by side, in their order, as an `<svg>` element. unit: what the values are, named at the scale's top.
    ends: what stands below the first and the last."""
    height, bottom = COLUMNS_HEIGHT, COLUMNS_HEIGHT - _BOTTOM
    top = max((sum(value for _, value in bar.parts) for bar in bars), default=0.0) or 1.0
    room = WIDTH - _LEFT - _RIGHT
    step = room / max(len(bars), 12)
    parts = [
        f'<svg class="columns" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>',
        f'<text class="tick" x="{_LEFT - 8}" y="20" text-anchor="end">{top:.4g} {escape(unit)}</text>',
        f'<text class="tick" x="{_LEFT - 8}" y="{bottom}" text-anchor="end">0</text>',
    ]
    for number, bar in enumerate(bars):
        y, drawn = float(bottom), []
        for kind, value in bar.parts:
            # One of thousands is seen all the same.
            tall = max(value / top * (bottom - 8), _BAR_WIDTH_MIN) if value > 0 else 0.0
            y -= tall
            if tall:
                drawn.append(
                    f'<rect class="bar-{escape(kind)}" x="{_LEFT + step * number:.1f}" y="{y:.1f}" '
                    f'width="{max(step - 2, _BAR_WIDTH_MIN):.1f}" height="{tall:.1f}"/>'
                )
        shade = ' class="pale"' if bar.pale else ""
        parts.append(f"<g{shade}><title>{escape(bar.text)}</title>{''.join(drawn)}</g>")
    last = _LEFT + step * max(len(bars), 1)
    for x, anchor, end in ((_LEFT, "start", ends[0]), (last, "end", ends[1])):
        if end and last - _LEFT > room / 2:
            parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">{escape(end)}</text>')
    return "\n".join([*parts, "</svg>"])


def _thinned(bars: Sequence[Span], scale: float, priority: Sequence[str]) -> Iterator[Span]:
    rank = {kind: number for number, kind in enumerate(priority)}
    seen: dict[tuple[int, int], Span] = {}
    for bar in sorted(bars, key=lambda bar: (rank.get(bar.kind, -1), bar.at)):
        seen[round(bar.at * scale / _BAR_WIDTH_MIN), round(bar.seconds * scale / _BAR_WIDTH_MIN)] = bar
    # A later one lies on top.
    yield from sorted(seen.values(), key=lambda bar: (rank.get(bar.kind, -1), bar.at))


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if 0 < seconds < 1 else f"{seconds:.3g} s"
