"""Series -> charts, without a library and without a script: lines in SVG that stretch to the width of the page, and
words around them in HTML that do not, to be read on a telephone as well as on paper.

Colours come from the page's CSS (templates/plots.css), so that a chart follows light and dark. What was not measured is
a gap, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

STRETCHED = 1000
"""Units of a drawing in both directions, however large it is shown."""

NUMBER_ROOM = 0.025
"""Of a figure's width, for one number at the top of a mark."""

HIDDEN = ' hidden=""'

Points = Sequence[tuple[float, float | None]]
"""(seconds since the start, value or None where it is not known), in order of time."""

Run = Sequence[tuple[float, float]]
"""Points without a gap."""

Scale = Callable[[float], float]
"""From a value to a coordinate of the drawing."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Points
    stepped: bool = False
    """Whether the value holds until the next point, as a rung does."""


@dataclass(frozen=True)
class Mark:
    """A vertical line: something happened."""

    at: float
    """Seconds since the start."""
    kind: str
    """A word for the CSS class `mark-<kind>`."""
    text: str
    """What a reader sees on pointing at it."""
    number: int | None = None
    """Of the decision in the page's table that tells more; None for none."""


def figure(
    title: str,
    series: Sequence[Series],
    *,
    unit: str,
    seconds: float,
    limits: Mapping[str, float] | None = None,
    marks: Sequence[Mark] = (),
    ticks: Sequence[float] = (),
    clock: Callable[[float], str] | None = None,
    detail: int = 1,
) -> str:
    """Return one chart as a `<figure>`, for a page that includes templates/plots.css.

    unit: of the values, shown at the title. seconds: the right end of the time axis. limits: series name -> its limit.
    ticks: values named at the left, default three. A mark with a number links to `#decision-<number>`; of marks that
    are close together all but the first have hidden numbers. clock: names a time of the axis, by default as seconds
    since the start. detail: how many times a page may stretch the drawing until a peak is lost. A value that is not
    finite is a gap.
    """
    seconds, limits = max(seconds, 1.0), limits or {}
    clock = clock or (lambda at: _since_start(at, seconds))
    digits = 1 if detail == 1 else 2
    values = [value for one in series for _, value in one.points if value is not None and math.isfinite(value)]
    top = _round_up(max([*values, *limits.values(), *ticks], default=1.0))

    def x(at: float) -> float:
        return STRETCHED * min(max(at / seconds, 0.0), 1.0)

    def y(value: float) -> float:
        return STRETCHED * (1.0 - min(max(value / top, 0.0), 1.0))

    named = [value for value in ticks or (0.0, top / 2, top) if value <= top]
    drawn = [f'<path class="grid" d="M0 {y(value):.1f}H{STRETCHED}"/>' for value in named]
    drawn += [f'<path class="mark mark-{escape(mark.kind)}" d="M{x(mark.at):.1f} 0V{STRETCHED}"/>' for mark in marks]
    for index, one in enumerate(series):
        if one.name in limits:
            drawn.append(f'<path class="limit series-{index}" d="M0 {y(limits[one.name]):.1f}H{STRETCHED}"/>')
        # A line of no length with round ends is a dot, which does not stretch with the drawing as a circle would.
        drawn += [
            f'<path class="line series-{index}" d="M{"L".join(f"{left:.{digits}f} {up:.1f}" for left, up in places)}"/>'
            for run in _runs(_thin(one.points, seconds, STRETCHED * detail))
            for places in [_places(run, x, y, stepped=one.stepped)]
            for places in [places * 2 if len(places) == 1 else places]
        ]
    key = "".join(
        f'<span class="key"><i class="series-{index}"></i>{escape(one.name)}'
        + (f', limit <i class="limit series-{index}"></i>{limits[one.name]:g}' if one.name in limits else "")
        + "</span>"
        for index, one in enumerate(series)
        if len(series) > 1 or one.name in limits
    )
    labels = [f'<span class="y" style="top:{y(value) / 10:.2f}%">{_short(value)}</span>' for value in named]
    labels += [
        f'<a class="mark mark-{escape(mark.kind)}" style="left:{x(mark.at) / 10:.{digits + 1}f}%" '
        f'href="#decision-{mark.number}" title="{escape(mark.text)}"{"" if apart else HIDDEN}>{mark.number}</a>'
        for mark, apart in _apart(marks, seconds)
    ]
    times = "".join(f"<span>{escape(clock(seconds * step / 4))}</span>" for step in range(5))
    return "\n".join(
        [
            f'<figure class="plot"><figcaption><b>{escape(title)}</b> <span>{escape(unit)}</span> {key}</figcaption>',
            f'<div class="area"><svg viewBox="0 0 {STRETCHED} {STRETCHED}" preserveAspectRatio="none" role="img" '
            f'aria-label="{escape(title)}">',
            *drawn,
            "</svg>",
            *labels,
            f'</div><div class="x">{times}</div></figure>',
        ]
    )


def _apart(marks: Sequence[Mark], seconds: float) -> Iterator[tuple[Mark, bool]]:
    """Yield the marks that have numbers, and whether there is room for them: for the first of those that are close
    together."""
    free_from = 0.0
    for mark in marks:
        if mark.number is not None:
            apart = mark.at >= free_from
            free_from = mark.at + seconds * NUMBER_ROOM if apart else free_from
            yield mark, apart


def _places(run: Run, x: Scale, y: Scale, *, stepped: bool) -> list[tuple[float, float]]:
    places: list[tuple[float, float]] = []
    for at, value in run:
        if stepped and places:
            places.append((x(at), places[-1][1]))
        places.append((x(at), y(value)))
    return places


def _thin(points: Points, seconds: float, columns: int) -> Points:
    """At most the extremes of each pixel column, so that a day has no more to draw than an hour, and no peak is
    lost."""
    if len(points) <= 2 * columns:
        return points
    buckets: dict[int, list[tuple[float, float | None]]] = {}
    for at, value in points:
        buckets.setdefault(int(at / seconds * columns), []).append((at, value))
    thinned: list[tuple[float, float | None]] = []
    for bucket in buckets.values():
        known = [(value, at) for at, value in bucket if value is not None and math.isfinite(value)]
        if known:
            thinned += sorted({(at, value) for value, at in (min(known), max(known))})
        else:
            thinned.append(bucket.pop())
    return thinned


def _runs(points: Points) -> Iterator[Run]:
    """Yield the stretches between gaps."""
    run: list[tuple[float, float]] = []
    for at, value in points:
        if value is not None and math.isfinite(value):
            run.append((at, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _round_up(value: float) -> float:
    """Return the next 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    if not 1e-300 < value < 1e300:
        # At the ends of what a float can hold there are no round numbers.
        return value
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _since_start(at: float, length: float) -> str:
    """Return a time, as exact as the length of the axis asks for."""
    if length < 60:
        return f"{at:.1f} s"
    whole = round(at)
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
