"""Figures of the rounds -> lines, JSON and a drawing. Pure: nothing is measured here.

A figure is one number per round: a ratio of two subjects of the same round, or an amount. Only the median is held
against the target; minimum and maximum say how much to believe it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Literal


@dataclass(frozen=True)
class Target:
    """What docs/contract.md's companion, the performance targets T1 to T11, asks for."""

    relation: Literal[">=", "<="]
    value: float

    def held(self, figure: float) -> bool:
        """Whether `figure` keeps it."""
        return figure >= self.value if self.relation == ">=" else figure <= self.value


@dataclass(frozen=True)
class Figure:
    """One row of the report."""

    id: str
    """Of the target ("T1"), with a letter for what is shown beside it."""
    what: str
    unit: str
    """"x" for a ratio."""
    rounds: Sequence[float]
    """One value a round, in order."""
    target: Target | None = None
    """None for a figure that is only there for scale."""

    def __post_init__(self) -> None:
        if not self.rounds or not all(math.isfinite(value) for value in self.rounds):
            raise ValueError(f"{self.id} {self.what}: needs at least one finite value, got {list(self.rounds)}")

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def held(self) -> bool | None:
        """Whether the median keeps the target; None without one."""
        return None if self.target is None else self.target.held(self.median)


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Round by round. ValueError for a round that one side lacks, or a zero to divide by."""
    if any(value == 0 for value in to):
        raise ValueError("a ratio to zero says nothing")
    return [above / below for above, below in zip(of, to, strict=True)]


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which the fraction `q` (0..1) of `values` lies. ValueError when there are none."""
    if not values:
        raise ValueError("a quantile of nothing")
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def rate_between(progress: Sequence[tuple[float, int]], start: int, end: int) -> float:
    """Rows a second while the count went from `start` to `end`.

    progress: (seconds, rows) at each look, ascending; between two looks the count is taken to rise evenly.
    ValueError when it never got there.
    """
    return (end - start) / (_reached(progress, end) - _reached(progress, start))


def _reached(progress: Sequence[tuple[float, int]], count: int) -> float:
    before = (0.0, 0)
    for at, rows in progress:
        if rows >= count:
            share = (count - before[1]) / (rows - before[1]) if rows > before[1] else 1.0
            return before[0] + share * (at - before[0])
        before = (at, rows)
    raise ValueError(f"{count} rows were never reached")


def line(figure: Figure) -> str:
    """One row for a terminal."""
    low, high = min(figure.rounds), max(figure.rounds)
    wanted, verdict = "", ""
    if figure.target is not None:
        wanted = f"{figure.target.relation} {_number(figure.target.value)}"
        verdict = "held" if figure.held else "NOT HELD"
    values = "".join(f"{_number(value):>9}" for value in (low, figure.median, high))
    of = f"{len(figure.rounds):>3}"
    return f"{figure.id:<4} {figure.what:<58}{of}{values} {figure.unit:<4} {wanted:<9} {verdict}".rstrip()


HEADING = f"{'':<4} {'':<58}{'n':>3}{'min':>9}{'median':>9}{'max':>9}"


def as_json(figures: Sequence[Figure], facts: Mapping[str, object]) -> dict[str, object]:
    """Everything, for reports/bench.json. facts: of the run and the computer."""
    return {
        "facts": dict(facts),
        "figures": [
            {
                "id": figure.id,
                "what": figure.what,
                "unit": figure.unit,
                "min": min(figure.rounds),
                "median": figure.median,
                "max": max(figure.rounds),
                "rounds": list(figure.rounds),
                "target": None if figure.target is None else f"{figure.target.relation} {figure.target.value:g}",
                "held": figure.held,
            }
            for figure in figures
        ],
    }


_WIDTH, _ROW, _LEFT, _TOP = 1040, 26, 560, 34
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.held{fill:#2a7d3f}.missed{fill:#b3261e}"
    ".scale{stroke:#999}.times{stroke:#ddd}.range{stroke:#aaa;stroke-width:2}.median{fill:none;stroke-width:1.5}"
    ".median.held{stroke:#2a7d3f}.median.missed{stroke:#b3261e}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.held{fill:#6cc683}.missed{fill:#ff8a80}.times{stroke:#444}"
    ".median.held{stroke:#6cc683}.median.missed{stroke:#ff8a80}}"
)
_TIMES = (("4 times worse", 1 / 4), ("2", 1 / 2), ("target", 1.0), ("2", 2.0), ("4 times better", 4.0))


def svg(figures: Sequence[Figure]) -> str:
    """The figures that have a target: each round as a dot, the median with a ring, on a logarithmic scale on which the
    target is the line in the middle, and right of it is better. What is beyond the scale is at its end."""
    aimed = [figure for figure in figures if figure.target is not None and figure.target.value > 0]
    height = _TOP + _ROW * len(aimed) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="Figures against their targets"><style>{_STYLE}</style>',
    ]
    for text, better in _TIMES:
        x = _x(better)
        css = "scale" if better == 1 else "times"
        anchor = "end" if better == 4 else "middle"
        parts.append(f'<text x="{min(x, _WIDTH - 8):.1f}" y="18" text-anchor="{anchor}">{text}</text>')
        parts.append(f'<line class="{css}" x1="{x:.1f}" x2="{x:.1f}" y1="24" y2="{height - 6}"/>')
    for index, figure in enumerate(aimed):
        assert figure.target is not None
        y = _TOP + _ROW * index + 14
        wanted = f"{figure.target.relation} {_number(figure.target.value)}"
        text = f"{figure.id} {figure.what}: {_number(figure.median)} {figure.unit} ({wanted})"
        parts.append(f'<text x="8" y="{y}">{escape(text)}</text>')
        places = [_place(figure, value) for value in figure.rounds]
        parts.append(f'<line class="range" x1="{min(places):.1f}" x2="{max(places):.1f}" y1="{y - 4}" y2="{y - 4}"/>')
        for value, x in zip(figure.rounds, places, strict=True):
            css = "held" if figure.target.held(value) else "missed"
            parts.append(f'<circle class="{css}" cx="{x:.1f}" cy="{y - 4}" r="3.5"/>')
        css = "held" if figure.held else "missed"
        parts.append(f'<circle class="median {css}" cx="{_place(figure, figure.median):.1f}" cy="{y - 4}" r="7"/>')
    return "\n".join([*parts, "</svg>\n"])


def _place(figure: Figure, value: float) -> float:
    assert figure.target is not None
    # Nothing at all, or less (memory that shrank), is as good as it gets on a scale that has no zero.
    better = max(value, 1e-9) / figure.target.value
    if figure.target.relation == "<=":
        better = 1 / better
    return _x(better)


def _x(better: float) -> float:
    share = min(max(math.log(better, 4), -1.0), 1.0)
    return (_LEFT + _WIDTH) / 2 + share * ((_WIDTH - _LEFT) / 2 - 16)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
