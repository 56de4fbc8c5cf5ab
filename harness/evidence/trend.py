"""The history of the runs -> a page: how verdicts and seconds went, and which proofs are not steady (contract V14)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from harness.evidence import buglog, history, timeline
from harness.evidence.history import RunEntry
from harness.evidence.timeline import StackedBar
from harness.evidence.verdict import anchor

FLAKES_MAX = 100
"""Proofs that are named as not steady."""


@dataclass(frozen=True)
class TrendRow:
    """One run, as the page shows it."""

    entry: RunEntry
    day: str
    """When it started, UTC."""
    document: str
    """Where its evidence is, relative to the page; empty where it was not rendered."""
    flaky: int
    """How many of its proofs are not steady and were not proven here."""

    @property
    def counts(self) -> dict[str, int]:
        """How many proofs have which verdict."""
        one = self.entry
        return {"refuted": len(one.refuted), "unproven": len(one.unproven), "proven": len(one.proven)}


@dataclass(frozen=True)
class Flake:
    """A proof that was proven in one run and not in another of the same sources."""

    proof: str
    proven: int
    """In how many runs of such sources."""
    failed: int
    last: str
    """The last run in which it was not proven."""


def page(entries: Sequence[RunEntry], documents: Collection[str]) -> str:
    """Return the page, for `reports/history.html`.

    entries: the oldest first. documents: names of the files below reports/buglog.
    """
    unsteady = history.flaky(entries)
    rows = []
    for one in entries:
        name = f"{buglog.name_of(one.run, one.started)}.html"
        failed = {anchor(proof) for proof in (*one.refuted, *one.unproven)}
        rows.append(
            TrendRow(
                one, f"{datetime.fromtimestamp(one.started, UTC):%Y-%m-%d %H:%M}",
                f"buglog/{name}" if name in documents else "", len(failed & unsteady.keys()),
            )
        )  # fmt: skip

    def drawn(title: str, unit: str, parts: Callable[[TrendRow], list[tuple[str, float]]]) -> Markup:
        bars = [StackedBar(parts(row), _told(row), row.entry.state != "complete") for row in rows]
        ends = (rows[0].day, rows[-1].day) if rows else ("", "")
        return Markup(timeline.columns(f"{title} of each run, the oldest first", bars, unit=unit, ends=ends))

    words = ("proven", "unproven", "refuted")
    return (
        buglog.environment()
        .get_template("history.html.j2")
        .render(
            rows=rows[::-1],
            verdicts=drawn("Verdicts", "proofs", lambda row: [(word, row.counts[word]) for word in words]),
            spans=drawn("Seconds", "s", lambda row: [("command", row.entry.seconds)]),
            unsteady=drawn("Proofs not steady", "proofs", lambda row: [("unproven", row.flaky)]),
            flakes=_flakes(unsteady),
            flakes_max=FLAKES_MAX,
        )
    )


def _told(row: TrendRow) -> str:
    counts = ", ".join(f"{count} {word}" for word, count in [*row.counts.items(), ("not steady", row.flaky)] if count)
    return f"{row.day} UTC, run {row.entry.run} ({row.entry.state}): {counts}; {row.entry.seconds:.0f} s"


def _flakes(unsteady: Mapping[str, Sequence[RunEntry]]) -> list[Flake]:
    found = []
    for short, runs in unsteady.items():
        failed = [(one.run, proof) for one in runs for proof in (*one.refuted, *one.unproven) if anchor(proof) == short]
        last, name = failed[-1]
        found.append(Flake(name, sum(short in one.proven for one in runs), len(failed), last))
    return sorted(found, key=lambda flake: (-flake.failed, flake.proof))
