"""What rings, and what is looked at (contract O13). The whole table of alerts and their faults is in long_alerts.py."""

from __future__ import annotations

import json
import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from harness.base.clock import OsClock, poll
from harness.machines import tools
from proofs.fixtures.dashboard_unit import DashboardUnit
from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.fleet_parts import ROOT, NatsServer, Postgres, wait
from proofs.fixtures.monitoring import ALERTMANAGER, PROMETHEUS, Monitoring, Site, alerts, site, tampered_books

WATCH_SECS = 4.0
RATE_SECS = 20.0
"""Longer than all alerts but one wait."""

PAGES = sorted((ROOT / "config/grafana/dashboards").glob("*.json"))


# --- rules ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.claim("O13")
@pytest.mark.programs
def test_prometheus_takes_the_configuration_and_the_rules_pass_their_tests() -> None:
    for argv in (
        ["promtool", "check", "config", "prometheus.yml"],
        ["promtool", "test", "rules", "hybrid.tests.yml"],
        ["amtool", "check-config", str(ALERTMANAGER / "alertmanager.yml")],
    ):
        done = subprocess.run(
            [tools.need(argv[0]), *argv[1:]], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.claim("O13")
def test_each_rule_has_a_test_in_which_it_rings_and_one_moment_before_does_not() -> None:
    text = (PROMETHEUS / "hybrid.tests.yml").read_text()
    rung = set()
    for case in text.split("  - name: ")[1:]:
        moments = re.split(r"^ +eval_time: ", case, flags=re.MULTILINE)[1:]
        said = [set(re.findall(r'alertname="(\w+)"', moment)) for moment in moments]
        assert said[0] == set(), f"it begins with what rings already: {case}"
        rung |= set().union(*said)
    assert rung == set(alerts())


@pytest.mark.claim("O13")
def test_the_document_lists_each_rule_and_how_long_it_waits() -> None:
    text = (ROOT / "docs/fleet.md").read_text()
    listed = re.findall(r"^\| `(Hybrid\w+)` \|.*\| (\w*) ?\|.*\|$", text, re.MULTILINE)
    rules = (PROMETHEUS / "hybrid.rules.yml").read_text().split("- alert: ")[1:]
    waits = [re.search(r"^ +for: (\w+)$", rule, re.MULTILINE) for rule in rules]
    assert listed == [(name, wait[1] if wait else "") for name, wait in zip(alerts(), waits, strict=True)]


@pytest.mark.claim("O13")
@pytest.mark.programs
def test_what_the_document_installs_is_there_and_fits_together(tmp_path: Path) -> None:
    """But for restarting Debian's services, below another root."""
    section = (ROOT / "docs/fleet.md").read_text().partition("\n## Looking and ringing\n")[2].partition("\n## ")[0]
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S) for line in block.splitlines()]
    for name in ("prometheus", "default"):
        (tmp_path / "etc" / name).mkdir(parents=True)
    for line in lines:
        if not line.startswith("systemctl "):
            inside = re.sub(r"(?<=[ =])/(etc|var)/", rf"{tmp_path}/\1/", line)
            subprocess.run(["sh", "-ec", inside], cwd=ROOT, check=True, timeout=60)
    for argv in (["promtool", "check", "config", "prometheus.yml"], ["amtool", "check-config", "alertmanager.yml"]):
        checked = [tools.need(argv[0]), *argv[1:]]
        assert subprocess.run(checked, cwd=tmp_path / "etc/prometheus", capture_output=True, timeout=60).returncode == 0
    provisioned = (tmp_path / "etc/grafana/provisioning/dashboards/hybrid.yml").read_text()
    (place,) = re.findall(r"^ +path: /(.*)$", provisioned, re.MULTILINE)
    assert sorted(path.name for path in (tmp_path / place).iterdir()) == [path.name for path in PAGES]


# --- pages ---------------------------------------------------------------------------------------------------


class Form(BaseModel):
    """A part of a dashboard's JSON, as Grafana's documentation of the model has it."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Source(Form):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Query(Form):
    datasource: Source
    expr: str
    legendFormat: str
    refId: str
    editorMode: Literal["code"]
    range: bool
    instant: bool = False
    format: Literal["time_series", "table"] = "time_series"


class GridPos(Form):
    x: int
    y: int
    w: int
    h: int


class Panel(Form):
    id: int
    type: Literal["timeseries", "stat", "table"]
    title: str
    description: str
    datasource: Source
    gridPos: GridPos
    targets: list[Query]
    fieldConfig: dict[Literal["defaults", "overrides"], Any]
    options: dict[str, Any]
    transformations: list[dict[str, Any]] = []


class Page(Form):
    uid: str
    title: str
    description: str
    tags: list[str]
    schemaVersion: int
    version: int
    editable: bool
    timezone: Literal["browser", "utc"]
    graphTooltip: Literal[0, 1, 2]
    refresh: str
    time: dict[Literal["from", "to"], str]
    fiscalYearStartMonth: int
    liveNow: bool
    weekStart: str
    annotations: dict[Literal["list"], list[dict[str, Any]]]
    templating: dict[Literal["list"], list[dict[str, Any]]]
    links: list[dict[str, Any]]
    panels: list[Panel]


def page(path: Path) -> Page:
    return Page.model_validate_json(path.read_bytes())


@pytest.mark.claim("O13")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_one_that_grafana_can_show(path: Path) -> None:
    found = page(path)
    assert len({panel.id for panel in found.panels}) == len(found.panels)
    taken: set[tuple[int, int]] = set()
    for panel in found.panels:
        at = panel.gridPos
        cells = {(x, y) for x in range(at.x, at.x + at.w) for y in range(at.y, at.y + at.h)}
        assert at.x + at.w <= 24, f"{panel.title} is wider than the page"
        assert not cells & taken, f"{panel.title} lies over another"
        taken |= cells
        assert [query.refId for query in panel.targets] == [chr(65 + at) for at in range(len(panel.targets))]
    known = {variable["name"] for variable in found.templating["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(found.model_dump())))
    assert used - {"__auto"} <= known
    linked = {link["url"].removeprefix("/d/") for link in found.links}
    assert linked <= {page(other).uid for other in PAGES}


# --- a fleet of one, watched ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.claim("O13", "O12")
def test_a_healthy_fleet_is_silent_and_a_fault_rings(
    engine: EngineUnit, dashboard: DashboardUnit, nats_server: NatsServer, postgres: Postgres, tmp_path: Path
) -> None:
    """Through Prometheus and Alertmanager to a webhook; and all that is asked for is there while the engine runs."""
    with site(tmp_path, engine, dashboard, nats_server, postgres) as watched:
        watched.seen.watch(WATCH_SECS)
        assert watched.seen.told.got == [], "a healthy fleet rings"
        with tampered_books(watched):
            books_ring_and_everything_is_shown(watched)
        watched.seen.wait_silent()
        exit_12_rings_once(watched)


def sampled(seen: Monitoring, expr: str) -> list[dict[str, Any]] | None:
    return seen.query(expr) or None


def books_ring_and_everything_is_shown(watched: Site) -> None:
    seen = watched.seen
    told = seen.wait_rung("HybridBooksBroken")
    assert told["labels"]["engine"] == "default"
    assert told["annotations"]["summary"] == "default: its books do not balance"
    asked = {rule["name"]: rule["query"] for rule in seen.rules()}
    own = f"127.0.0.1:{watched.dashboard.port}"

    def filled(expr: str) -> str:
        return expr.replace("$engine", "default").replace("$instance", own)

    for path in PAGES:
        for variable in page(path).templating["list"]:
            if variable["type"] == "query":
                (chosen,) = re.findall(r"^label_values\((.*), (\w+)\)$", variable["query"]["query"])
                offered = seen.ask(f"label/{chosen[1]}/values", **{"match[]": filled(chosen[0])})
                assert offered == [filled(f"${variable['name']}")], f"{path.name} offers {offered}"
        for mark in page(path).annotations["list"]:
            assert seen.query(filled(mark["expr"])), f"{mark['name']} of {path.name} marks nothing"
        for panel in page(path).panels:
            for query in panel.targets:
                asked[f"{path.stem}: {panel.title} {query.refId}"] = query.expr
                # A rate wants two scrapes of its series.
                found = poll(partial(sampled, seen, filled(query.expr)), OsClock(), RATE_SECS)
                assert found, f"{panel.title} of {path.name} shows nothing: {query.expr}"
                names = {one["metric"]["engine"] for one in found if "engine" in one["metric"]}
                assert names <= {"default"}, f"{query.expr} is about {names}"
    for expr in ("hybrid_engine_up", "hybrid_relay_connected", 'hybrid_collector_rows_total{table="ticks"}'):
        assert [one["metric"]["engine"] for one in seen.query(expr)] == ["default"], expr
    printed = watched.printed()
    for name, query in asked.items():
        unknown = set(re.findall(r"\bhybrid_\w+", query)) - printed
        assert not unknown, f"{name} asks for what nobody tells: {unknown}"
    assert seen.firing() == {"HybridBooksBroken"}


def exit_12_rings_once(watched: Site) -> None:
    seen = watched.seen
    watched.engine.configure_text("[engine]\nsample_every = 0\n")
    watched.engine.machine.systemctl("restart", watched.engine.name)
    told = seen.wait_rung("HybridEngineMisconfigured")
    assert told["annotations"]["summary"] == "default: exit 12, which no restart heals"
    wait(lambda: seen.suppressed() == {"HybridEngineDown"}, "that it is down as well is told to nobody")
