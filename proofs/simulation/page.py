"""The figures of a simulation -> a page of Markdown, which is also what the terminal shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proofs.simulation.figures import Costs, growth

FULL = 0.9
"""Of the computer's processors: with more at work, lag tells of the computer and not of the fleet."""

WHAT = {
    "relay": "a relay killed",
    "collector": "the collector at work killed",
    "leader": "the stream's leader killed",
    "postgres": "PostgreSQL killed",
    "cut": "a host cut off, from its return",
}


def costs_table(costs: Costs) -> list[str]:
    """What a row costs, as lines of Markdown."""
    return [
        "| what a row costs | measured |",
        "|---|---:|",
        f"| rows that a tick leaves behind, itself included | {costs.rows_a_tick:.4g} |",
        f"| rows in a message | {costs.rows_a_message:.4g} |",
        f"| bytes in the stream | {costs.stream_bytes:.4g} |",
        f"| bytes in PostgreSQL, indexes included | {costs.stored_bytes:.4g} |",
        f"| engine, us of a core a tick | {costs.cpu_us['engine']:.4g} |",
        *(f"| {part}, us of a core | {us:.4g} |" for part, us in costs.cpu_us.items() if part != "engine"),
    ]


def markdown(found: Mapping[str, Any]) -> str:
    """The page. found: as course.run returns it."""
    asked, steady, outcome = found["asked"], found["steady"], found["outcome"]
    lag, cores = steady["lag_secs"], found["computer"]["cores"]
    rows = sum(outcome["rows"].values())
    verdict = "every row of every ledger is in PostgreSQL once" if outcome["exact"] else "NOT EXACT"
    lines = [
        f"# Fleet of {asked['size']['engines']} engines on {asked['size']['hosts']} hosts: {verdict}",
        "",
        f"Seed {asked['seed']}, {cores} cores. Hosts are network namespaces of one computer. Servers of the stream,"
        f" each of which has all of it: {asked['size']['servers']}; one PostgreSQL, two collectors.",
        "",
        "| figure | value |",
        "|---|---:|",
        f"| ticks/s asked for, all engines | {steady['asked_ticks_a_sec']:.0f} |",
        f"| ticks/s made | {steady['ticks_a_sec']:.0f} |",
        f"| rows/s stored, all tables | {steady['rows_a_sec']:.0f} |",
        f"| messages/s | {steady['messages_a_sec']:.0f} |",
        f"| lag, from a tick to its commit in PostgreSQL: p50 | {lag['p50']:.2f} s |",
        f"| p99 | {lag['p99']:.2f} s |",
        f"| maximum | {lag['max']:.2f} s |",
        f"| cores busy, of {cores} | {steady['cores_busy']:.2f} |",
        *(f"| of them {part} | {value:.2f} |" for part, value in steady["cores_of_parts"].items()),
        f"| rows compared | {rows} |",
        f"| lost | {outcome['lost']} |",
        f"| not of any ledger | {outcome['foreign']} |",
        f"| twice in the stream | {outcome['repeated']} |",
    ]
    if found["engines_while_cut_off"] is not None:
        lines.append(f"| ticks of engines that were cut off, to others' | {found['engines_while_cut_off']:.0%} |")
    if steady["cores_busy"] > FULL * cores:
        lines += ["", "The computer was full: lag and recovery tell of it more than of the fleet."]
    lines += [f"- {one}" for one in outcome["wrong"]]
    if found["recoveries"]:
        lines += [
            "",
            "Until a row that was made afterwards is in PostgreSQL, of every engine that it held up (a process is"
            " started again at once; systemd waits RestartSec=5):",
            "",
            "| what | times | p50 s | p90 s | max s |",
            "|---|---:|---:|---:|---:|",
        ]
        for kind, one in found["recoveries"].items():
            lines.append(f"| {WHAT[kind]} | {one['times']} | {one['p50']:.1f} | {one['p90']:.1f} | {one['max']:.1f} |")
    elsewhere = [one["elsewhere_secs"] for one in found["events"] if one["kind"] == "cut" and one["elsewhere_secs"]]
    if elsewhere:
        lines += ["", f"While a host was cut off, rows of all others flowed after {max(elsewhere):.1f} s at most."]
    costs = Costs(**steady["costs"])
    lines += ["", *costs_table(costs)]
    lines += ["", "What larger fleets need if a row costs there what it cost here:", "", *growth(costs)]
    return "\n".join(lines) + "\n"
