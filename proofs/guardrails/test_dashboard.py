"""The dashboard: the real unit beside the real engine, looked at through a real browser and by hand."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from harness.base.clock import OsClock, poll
from harness.base.errors import HarnessError
from harness.dashboard import command as program
from harness.dashboard import view_model, web
from harness.dashboard.collector import Collector, Places
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.evidence.verdict import anchor
from harness.faults import nemesis
from proofs.fixtures import seed_database
from proofs.fixtures.browser import Visit, check_readable
from proofs.fixtures.dashboard_unit import DASHBOARD, DashboardUnit
from proofs.fixtures.engine_unit import EngineUnit, toml
from proofs.fixtures.soak_run import WORK, SoakRun

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EXPOSURE_MAX = 1.5
"""Of `systemd-analyze security`."""

EVIDENCE = "/var/lib/hybrid-evidence"
"""Where the unit looks for verdicts.json and buglog/."""

FAST = {"engine": {"tick_interval_ms": 20, "heartbeat_interval_secs": 0.5}, "persist": {"flush_interval_ms": 20}}

REQUESTS = 1000

RSS_MIB_MAX = 80
"""Resident memory of the dashboard, with as many pages open as there may be."""


def start(engine: EngineUnit, dashboard: DashboardUnit, **dashboard_table: object) -> None:
    engine.configure({**FAST, "dashboard": {**dashboard.table, **dashboard_table}})
    engine.start()
    engine.wait_ticks(1)
    dashboard.start()


# --- the page ----------------------------------------------------------------------------------------------


def test_the_page_changes_live_and_says_when_the_engine_stops(
    engine: EngineUnit, dashboard: DashboardUnit, browser: Browser
) -> None:
    start(engine, dashboard, refresh_seconds=1)
    visit = Visit(browser, dashboard.url)
    visit.wait("the mode", "document.getElementById('mode-word').textContent === 'SHADOW'")
    visit.wait("the feed", "document.getElementById('mode-feed').textContent === 'on SYNTHETIC'")
    visit.wait("a running engine", "document.getElementById('unit-word').textContent === 'running'")
    zone = visit.page.inner_text("#link-says").rpartition(" ")[2]
    visit.expect(re.fullmatch(r"UTC([+-]\d+(:\d+)?)?", zone) is not None, f"the times are of no zone: {zone!r}")
    for name in ("price-last", "figures", "books"):
        now = visit.page.inner_text(f"#{name}")
        visit.wait(f"another {name}", f"now => document.getElementById('{name}').innerText !== now", now)
    engine.stop()
    visit.wait("a stopped engine", "document.getElementById('unit-word').textContent === 'stopped'", within_secs=3.0)
    visit.expect("was stopped in order" in visit.page.inner_text("[role=status]"), "a reader is not told of it")
    engine.start()
    visit.wait("a running engine again", "document.getElementById('unit-word').textContent === 'running'")
    visit.expect(visit.complaints == [], f"the browser complains: {visit.complaints}")
    visit.expect(all(url.startswith(f"{dashboard.url}/") for url in visit.asked), f"others are asked: {visit.asked}")
    dashboard.stop()
    visit.wait("that it is old", "document.body.dataset.link === 'lost'", within_secs=8.0)
    visit.expect("everything below is old" in visit.page.inner_text("[role=status]"), "a reader is not told of it")
    visit.page.close()


def test_the_page_fits_and_is_accessible(
    engine: EngineUnit, dashboard: DashboardUnit, browser: Browser, soak: SoakRun
) -> None:
    engine.configure({**FAST, "dashboard": dashboard.table})
    engine.start()
    write_run(engine)
    write_decisions(engine)
    dashboard.start()
    visit = Visit(browser, dashboard.url)
    visit.wait("marks on the price line", "document.querySelectorAll('#price .signal').length > 0")
    visit.wait("the guardrails", "document.querySelectorAll('#verdicts li').length === 3")
    visit.wait("the decisions", "document.querySelectorAll('#decisions li').length === 2")
    check_readable(visit, "running")
    engine.stop()
    visit.wait("a stopped engine", "document.getElementById('unit-word').textContent === 'stopped'")
    dashboard.stop()
    # Nothing comes any more that would take it back.
    live = "{word: 'LIVE', feed: 'REAL_WS', runs: true, says: 'REAL ORDERS go to the venue.'}"
    visit.page.evaluate(f"state.mode = {live}; render()")
    check_readable(visit, "stopped, LIVE")
    visit.page.close()


def write_run(engine: EngineUnit) -> Path:
    """What `python -m harness publish` puts where the installed dashboard looks; the directory."""
    reports = engine.machine.path(EVIDENCE)
    shutil.rmtree(reports, ignore_errors=True)
    (reports / "buglog").mkdir(parents=True)
    (reports / "verdicts.json").write_text(
        '{"run_id": "1795527233-03d67820", "planned": ["V5"], "verdicts": ['
        '{"proof": "proofs/guardrails/test_g0.py::test_a", "claims": ["G0"], "verdict": "proven"},'
        '{"proof": "proofs/guardrails/test_g2.py::test_b", "claims": ["G2"], "verdict": "refuted"},'
        '{"proof": "proofs/guardrails/test_g3.py::test_c", "claims": ["G3"], "verdict": "unproven"}]}'
    )
    (reports / "buglog" / "BUG_2026-11-24_proofs-1795527233-03d67820.html").write_text(
        "<!doctype html><title>Evidence</title><style>p { color: rgb(1, 2, 3) }</style><p id=x>evidence</p>"
    )
    (reports / "buglog" / "secret.txt").write_text("no buglog")
    return reports


def write_decisions(engine: EngineUnit) -> None:
    place = engine.machine.path("/var/lib/hybrid-soak/data/ops")
    place.mkdir(parents=True, exist_ok=True)
    line = '{"timestamp": "2026-11-24T13:00:0%d.000000Z", "action": "%s", "reason": "%s", "state": "THROTTLE1"}\n'
    log = line % (1, "STARTUP", "soak") + line % (2, "STALL", "no tick") + '{"action": "torn'
    (place / "soak_decisions.jsonl").write_text(log)


def test_the_buglog_is_served_with_its_own_styles_and_nothing_else_is(
    engine: EngineUnit, dashboard: DashboardUnit, browser: Browser
) -> None:
    engine.configure({"dashboard": dashboard.table})
    write_run(engine)
    dashboard.start()
    rows = dashboard.state()["verdicts"]["rows"]
    judged = [(row["clause"], row["verdict"]) for row in rows]
    dashboard.expect(judged == [("G0", "proven"), ("G2", "refuted"), ("G3", "unproven")], f"guardrails: {judged}")
    href = rows[0]["href"]
    proof = anchor("proofs/guardrails/test_g0.py::test_a")
    dashboard.expect(href.endswith(f".html#{proof}"), f"the link to the buglog is {href}")
    visit = Visit(browser, dashboard.url + href)
    colour = visit.page.evaluate("getComputedStyle(document.getElementById('x')).color")
    visit.expect(colour == "rgb(1, 2, 3)", f"the buglog is shown without its own styles: {colour}")
    visit.expect(visit.complaints == [], f"the browser complains: {visit.complaints}")
    visit.page.close()
    reports = engine.machine.path(EVIDENCE)
    (reports / "buglog" / "BUG_1.html").symlink_to("/etc/hostname")
    os.mkfifo(reports / "buglog" / "BUG_2.html")
    (reports / "buglog" / "BUG_3.html").write_text("another's")
    os.chown(reports / "buglog" / "BUG_3.html", 65533, -1)
    links = ("BUG_1.html", "BUG_2.html", "BUG_3.html")
    for path in (
        *links,
        "secret.txt",
        "..%2Fverdicts.json",
        "../verdicts.json",
        "",
        "%2Fetc%2Fpasswd",
        "../../etc/passwd",
    ):
        status = dashboard.get(f"/buglog/{path}").status
        dashboard.expect(status == 404, f"/buglog/{path} answers {status}")
    (reports / "verdicts.json").rename(reports / "elsewhere.json")
    (reports / "verdicts.json").symlink_to("elsewhere.json")
    dashboard.wait("a link", lambda state: "is a symbolic link" in state["verdicts"].get("trouble", ""))


# --- how it tells one end from another ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.claim("W5")
def test_how_the_engine_ended_and_what_it_left_is_told(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    """Misconfigured, running, stopped, killed: and its database is read in each of these states."""
    engine.configure({"engine": {"tick_intervall_ms": 20}, "dashboard": dashboard.table})
    dashboard.start()

    def shows(word: str, tone: str, says: str) -> dict[str, Any]:
        def told(state: dict[str, Any]) -> bool:
            return (state["unit"]["word"], state["unit"]["tone"]) == (word, tone) and says in state["unit"]["says"]

        return dashboard.wait(f"{word}: {says}", told)

    engine.machine.systemctl("start", engine.name)
    wrong = shows("failed", "bad", "exit 12 (CONFIG)")
    dashboard.expect("tick_intervall_ms" in wrong["unit"]["says"], f"why it ended is not told: {wrong['unit']}")
    engine.configure({**FAST, "dashboard": dashboard.table})
    engine.start()
    running = dashboard.wait("signals", lambda state: (state["price"].get("tally") or {}).get("signals", 0) > 1)
    dashboard.expect(running["unit"]["word"] == "running", f"it shows {running['unit']}")
    engine.stop()
    stopped = shows("stopped", "calm", "in order")
    tally = stopped["price"]["tally"]
    since = f"ts >= {tally['since_ms']}"
    counted = [int(str(engine.query(f"SELECT COUNT(*) FROM {table} WHERE {since}")[0][0])) for table in
               ("signals", "trades")]  # fmt: skip
    shown = [tally["signals"], tally["bought"] + tally["sold"]]
    dashboard.expect(shown == counted, f"signals and fills {counted} since then, shown {shown}")
    with engine.drop_in("30-once", "[Service]\nRestart=no\n"):
        engine.start()
        engine.wait_ticks(engine.tick_count() + 5)
        engine.kill("KILL")
        killed = shows("crashed", "bad", "killed by signal 9 (SIGKILL)")
    dashboard.expect(engine.database.with_name("bot.db-wal").exists(), "a killed engine leaves no WAL")
    newest = engine.query("SELECT ts FROM ticks ORDER BY id DESC LIMIT 1")[0][0]
    last = killed["price"]["lines"][-1][-1][0]
    dashboard.expect(last == newest, f"the newest tick is of {newest}, shown is {last}")


@pytest.mark.slow
@pytest.mark.claim("W2")
def test_nothing_that_others_write_ends_it(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    engine.configure({**FAST, "dashboard": dashboard.table})
    reports = write_run(engine)
    write_decisions(engine)
    odd = r"import sys; o = sys.stdout.buffer; o.write(b'\\xff\\xe2\\x80\\xa8\\n' + b'{\\x22a\\x22:' * 9000 + b'\\n')"
    with engine.drop_in("30-noise", f'[Service]\nExecStartPost=/usr/bin/python3 -c "{odd}"\n'):
        start(engine, dashboard)
        pid = dashboard.pid()
        engine.stop()
    with closing(sqlite3.connect(engine.database, isolation_level=None)) as connection:
        for ts in ("'soon'", "9223372036854775807", "x'ff'"):
            connection.execute(f"INSERT INTO ticks(symbol, price, volume, ts) VALUES (x'ff', 9e999, 1, {ts})")
        connection.execute("INSERT INTO positions VALUES ('SHADOW', 'Z', '1e999999', '1', '1', 'NaN')")
    (reports / "verdicts.json").write_text("[" * 100_000)
    log = engine.machine.path("/var/lib/hybrid-soak/data/ops/soak_decisions.jsonl")
    log.write_text('{"action": "STALL", "reason": NaN, "timestamp": 1e400}\n' + "[" * 50_000 + "\n")
    dashboard.wait("rows left out", lambda state: "4 rows hold what the engine never writes" in str(state["health"]))
    engine.configure_text("a = " + "[" * 5000)
    dashboard.wait("a configuration nested too deeply", lambda state: "nested too deeply" in str(state["health"]))
    state = dashboard.state()
    dashboard.expect("nested too deeply" in str(state["verdicts"]), f"verdicts: {state['verdicts']}")
    dashboard.expect(len(state["decisions"]["rows"]) == 1, f"decisions: {state['decisions']}")
    for path, status in (("/healthz", 503), ("/metrics", 200)):
        answer = dashboard.get(path)
        dashboard.expect(answer.status == status, f"{path} answers {answer}")
    dashboard.expect(dashboard.pid() == pid, "it has been restarted")


# --- what it is told of ------------------------------------------------------------------------------------


def test_a_database_that_cannot_be_read_is_told_in_words(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    engine.configure({**FAST, "dashboard": dashboard.table})
    dashboard.start()

    def says(text: str) -> None:
        dashboard.wait(text, lambda state: text in state["price"].get("trouble", ""))
        answer = dashboard.get("/healthz")
        dashboard.expect(answer.status == 503 and text in answer.body, f"/healthz does not say {text!r}: {answer}")

    engine.start()
    dashboard.wait("the database", lambda state: "lines" in state["price"])
    engine.stop()
    owner = engine.database.stat()
    engine.database.unlink()
    says("there is no such database")
    seed_database.build(engine.database, ticks=10)
    os.chown(engine.database, owner.st_uid, owner.st_gid)
    says("schema version 0, of an older engine than this dashboard")
    engine.start()
    dashboard.wait("the migrated database", lambda state: sum(map(len, state["price"].get("lines", ()))) > 10)
    engine.stop()
    with closing(sqlite3.connect(engine.database, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN IMMEDIATE")
        holder.execute("UPDATE ticks SET volume = volume WHERE id = 1")
        says("database is locked")
        holder.execute("ROLLBACK")
    dashboard.wait("the database after the lock", lambda state: "lines" in state["price"])
    engine.database.write_bytes(b"garbage " * 1000)
    says("file is not a database")


def test_who_started_the_engine_is_told(watched: EngineUnit, dashboard: DashboardUnit, soak: SoakRun) -> None:
    place = watched.machine.path("/var/lib/hybrid-soak/data/ops")
    place.mkdir(parents=True, exist_ok=True)
    watched.machine.run("mount", "--bind", WORK, "/var/lib/hybrid-soak/data/ops").expect(0)
    start(watched, dashboard)

    def by(who: str) -> dict[str, object]:
        def told(state: dict[str, Any]) -> bool:
            return (state["unit"]["by"], state["unit"]["word"]) == (who, "running")

        return dict(dashboard.wait(f"a start by {who}", told)["unit"])

    by("operator")
    watched.kill("KILL")
    says = str(by("systemd")["says"])
    dashboard.expect("signal: killed 9" in says, f"of a killed engine it says {says!r}")
    with nemesis.paused(watched):
        by("watchdog")
    watched.wait_restarts(2)
    soak.start("--mode", "synthetic")
    by("controller")
    soak.stop()
    dashboard.stop()
    watched.machine.run("umount", "/var/lib/hybrid-soak/data/ops").expect(0)


# --- it is in nobody's way ---------------------------------------------------------------------------------


def gaps_ms(engine: EngineUnit, after: int) -> list[int]:
    """Times between the ticks that follow tick `after`."""
    stamps = [int(str(ts)) for (ts,) in engine.query(f"SELECT ts FROM ticks WHERE id > {after} ORDER BY id")]
    return [late - early for early, late in pairwise(stamps)]


def newest(engine: EngineUnit) -> int:
    return int(str(engine.query("SELECT MAX(id) FROM ticks")[0][0]))


def test_a_thousand_requests_do_not_change_the_cadence_of_ticks(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    paths = ("/", "/healthz", "/metrics", "/dashboard.js", "/span?range=1h", "/table/signals.json", "/equity")
    calm_from = newest(engine)
    engine.wait_rows(f"SELECT COUNT(*) FROM ticks WHERE id > {calm_from}", 75)
    calm = gaps_ms(engine, calm_from)
    loaded_from = newest(engine)
    with ThreadPoolExecutor(8) as crowd:
        answers = list(crowd.map(lambda number: dashboard.get(paths[number % len(paths)]), range(REQUESTS)))
    loaded = gaps_ms(engine, loaded_from)
    statuses = Counter(answer.status for answer in answers)
    dashboard.expect(statuses == {200: REQUESTS}, f"a crowd is answered {statuses}")
    if len(loaded) < 10:
        raise HarnessError(f"the load lasted only {len(loaded)} ticks")
    # The computer has other work too, and the crowd is on it as well: medians, in the same run.
    before, during = statistics.median(calm), statistics.median(loaded)
    engine.expect(abs(during - before) <= 2, f"a tick each {before:g} ms before the load, each {during:g} ms under it")
    engine.expect(engine.show().n_restarts == 0, "the engine was restarted")


@pytest.mark.slow
@pytest.mark.claim("W6", "W7")
def test_the_past_is_what_the_database_holds(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    """Read by the shipped unit, which may write nowhere, from a database that the engine has just closed."""
    start(engine, dashboard)
    engine.wait_rows("SELECT COUNT(*) FROM trades", 3)
    engine.stop()
    counts = engine.query(
        "SELECT (SELECT COUNT(*) FROM ticks), (SELECT COUNT(*) FROM signals), (SELECT COUNT(*) FROM trades)"
    )
    ticks, signals, trades = (int(str(count)) for count in counts[0])

    def said() -> list[list[Any]]:
        rows: list[list[Any]] = json.loads(dashboard.get("/table/journal.json").body)["rows"]
        return rows

    # A refresh or two after the stop.
    ended = poll(lambda: any("FINAL METRICS" in row[-1] for row in said()) or None, OsClock(), 10.0)
    dashboard.expect(ended is not None, f"the journal's end is {said()[:3]}")
    # A span with an end: what has none reaches to the latest observation.
    now_ms = round(OsClock().wall() * 1000)
    span = json.loads(dashboard.get(f"/span?from={now_ms - 3_600_000}&to={now_ms + 60_000}").body)
    shown = sum(bucket[1] for bucket in span["buckets"])
    dashboard.expect(shown == ticks, f"{ticks} ticks, shown are {shown}")
    counted = sum(one["signals"] for one in span["vetoes"])
    dashboard.expect(counted == signals, f"{signals} signals, counted by veto are {span['vetoes']}")
    dashboard.expect("start" in [event["kind"] for event in span["events"]], f"no start among {span['events']}")
    equity = json.loads(dashboard.get("/equity").body)
    fills = {mode: line["fills"] for mode, line in equity["modes"].items()}
    dashboard.expect((fills, equity["disagreements"]) == ({"SHADOW": trades}, []), f"{trades} fills, not {equity}")
    lines = dashboard.get("/table/trades.csv").body.splitlines()
    dashboard.expect(len(lines) == trades + 1, f"{len(lines)} lines of CSV for {trades} fills")


def test_the_engine_does_not_notice_when_the_dashboard_is_killed(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    before = engine.show()
    dashboard.machine.systemctl("kill", "--signal=KILL", DASHBOARD).expect(0)
    engine.wait_ticks(engine.tick_count() + 20)
    after = engine.show()
    engine.expect((after.main_pid, after.n_restarts) == (before.main_pid, 0), f"the engine noticed: {before}, {after}")
    errors = engine.wait_log("HEARTBEAT (G4)").fields["persist_errors"]
    engine.expect(errors == 0, f"{errors} writes failed")


def test_many_pages_are_served_and_one_too_many_is_refused(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    streams = [dashboard.dialed() for _ in range(web.WATCHERS_MAX)]
    try:
        for stream in streams:
            stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        seen = [stream.recv(200) for stream in streams]
        dashboard.expect(all(b"200 OK" in head for head in seen), f"not every page got events: {seen}")
        status = dashboard.machine.run("cat", f"/proc/{dashboard.pid()}/status").stdout
        (resident_kib,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        resident = int(resident_kib) / 1024
        dashboard.expect(resident < RSS_MIB_MAX, f"{len(streams)} pages take {resident:.0f} MiB")
        one_more = dashboard.first_event().status
        dashboard.expect(one_more == 503, f"one more page than {len(streams)} is answered {one_more}")
        dashboard.expect(dashboard.get("/healthz").status == 200, "/healthz is not answered beside many pages")
    finally:
        for stream in streams:
            stream.close()
    served = poll(lambda: True if dashboard.first_event().status == 200 else None, OsClock(), 5.0)
    dashboard.expect(served is True, "no page is served after the others were closed")


SILENT = 2000

BEGINNINGS = (
    b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"GET /dashboard.css HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n", b"GET ", b"\x16\x03\x01",
)  # fmt: skip
"""Of clients that say nothing, half of something, or nothing more."""


@pytest.mark.slow
@pytest.mark.claim("W3")
def test_whoever_asks_is_answered_beside_thousands_who_do_not(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    pid = dashboard.pid()
    with ExitStack() as crowd:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        crowd.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        page = crowd.enter_context(dashboard.dialed())
        page.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for number in range(SILENT):
            silent = crowd.enter_context(dashboard.dialed())
            with suppress(ConnectionError):
                silent.sendall(BEGINNINGS[number % len(BEGINNINGS)])
            if number % 200 == 0:
                with dashboard.dialed() as slow:
                    status = dashboard.get("/healthz").status
                    dashboard.expect(status == 200, f"/healthz answers {status} beside {number} who say nothing")
                    # Many have waited for longer than this one.
                    said = b""
                    with suppress(OSError):
                        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        said = slow.recv(12)
                    dashboard.expect(said == b"HTTP/1.1 200", f"who came just before one more gets {said!r}")
        for path in ("/healthz", "/metrics"):
            answer = dashboard.get(path)
            dashboard.expect(answer.status == 200, f"{path} answers {answer.status} beside {SILENT} who say nothing")
        descriptors = len(list(dashboard.machine.path(f"/proc/{pid}/fd").iterdir()))
        dashboard.expect(descriptors < web.CONNECTIONS_MAX + 50, f"it keeps {descriptors} descriptors open")
        event = b""
        with suppress(OSError):
            page.recv(1_000_000)
            event = page.recv(1_000_000)
        dashboard.expect(b"data: " in event, "a page that was open gets no events any more")
    dashboard.expect(dashboard.pid() == pid, "it has been restarted")


# --- who may ask, and what is answered ---------------------------------------------------------------------


def test_a_foreign_host_is_refused(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    for path in ("/", "/events", "/healthz", "/metrics", "/dashboard.js", "/nothing"):
        answer = dashboard.get(path, host="evil.example")
        dashboard.expect(answer.status == 421, f"{path} answers {answer.status} to the Host evil.example")
    for host in ("localhost", "localhost:9000", f"127.0.0.1:{dashboard.port}"):
        status = dashboard.get("/healthz", host=host).status
        dashboard.expect(status == 200, f"/healthz answers {status} to the Host {host}")
    with dashboard.dialed() as old:
        old.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        dashboard.expect(b" 421 " in old.recv(200), "a request without Host is answered")


def test_every_answer_has_the_security_headers(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    for path in ("/", "/healthz", "/metrics", "/dashboard.css", "/icon.svg", "/nothing"):
        headers = dashboard.get(path).headers
        for name, value in web.HEADERS.items():
            dashboard.expect(headers.get(name.lower()) == value, f"{path}: {name} is {headers.get(name.lower())}")
        dashboard.expect("server" not in headers, f"{path} tells what serves it")
    dashboard.expect("unsafe" not in web.CSP, web.CSP)
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        with dashboard.dialed() as client:
            client.sendall(f"{method} /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            dashboard.expect(b" 405 " in client.recv(200), f"{method} is answered")


@pytest.mark.slow
@pytest.mark.claim("O12")
def test_metrics_are_clean_in_both_formats(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    dashboard.wait("a heartbeat with ticks", lambda state: state["books"].get("lines", [{}])[0].get("number", 0) > 0)
    text = dashboard.get("/metrics").body
    families = {family.name: family for family in text_string_to_metric_families(text)}
    dashboard.expect(list(families) == [metric.name for metric in view_model.METRICS], f"metrics: {list(families)}")
    for metric in view_model.METRICS:
        family = families[metric.name]
        labels = {label for sample in family.samples for label in sample.labels}
        told = (family.type, family.documentation, labels - {metric.label, "engine"})
        dashboard.expect(told == (metric.kind, metric.help, set()), f"{metric.name}: {told}")
    names = {sample.labels.get("engine") for family in families.values() for sample in family.samples}
    dashboard.expect(names == {"default"}, f"an engine without a name is called {names}")
    for name in ("hybrid_engine_up", "hybrid_database_readable", "hybrid_books_balanced", "hybrid_ticks_received"):
        dashboard.expect(families[name].samples[0].value > 0, f"{name} is 0 beside a healthy engine")
    with dashboard.dialed() as client:
        client.sendall(
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text; version=1.0.0\r\n"
            b"Connection: close\r\n\r\n"
        )
        body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")[2].decode()
        found = list(open_families(body))  # type: ignore[no-untyped-call]
    dashboard.expect(len(found) == len(view_model.METRICS), f"as OpenMetrics: {body}")


@pytest.mark.claim("O2", "W8")
def test_the_unit_is_caged(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    """As it ships, with nothing on top, it does its work: it shows what is the engine's, the soak's and root's."""
    dashboard.as_shipped()
    machine = dashboard.machine
    write_run(engine)
    write_decisions(engine)
    start(engine, dashboard)
    drop_ins = machine.systemctl("show", DASHBOARD, "--property=DropInPaths", "--value").stdout.strip()
    dashboard.expect(drop_ins == "", f"not the unit as it ships: {drop_ins}")
    state = dashboard.wait("a heartbeat", lambda state: "lines" in state["books"])
    dashboard.expect("lines" in state["price"], f"the engine's database is not shown: {state['price']}")
    dashboard.expect(state["unit"]["word"] == "running", f"the unit is {state['unit']}")
    dashboard.expect("trouble" not in state["pressure"], f"pressure: {state['pressure']}")
    dashboard.expect(state["figures"][3]["value"] not in ("?", "0"), f"the engine's memory: {state['figures'][3]}")
    dashboard.expect(len(state["decisions"]["rows"]) == 2, f"decisions: {state['decisions']}")
    dashboard.expect(state["verdicts"]["counts"]["proven"] == 1, f"verdicts: {state['verdicts']}")
    assert machine.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{DASHBOARD}").expect(0).stderr == ""
    file = f"/usr/lib/systemd/system/{DASHBOARD}"
    shown = machine.run("systemd-analyze", "security", "--offline=true", "--no-pager", file).stdout
    overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown)
    assert overall, shown
    assert float(overall[1]) <= EXPOSURE_MAX, f"exposure {overall[1]}, at most {EXPOSURE_MAX}"
    pid = dashboard.pid()
    status = machine.run("cat", f"/proc/{pid}/status").stdout
    assert re.findall(r"^Cap(?:Prm|Eff|Bnd|Amb):\s+(\w+)$", status, re.MULTILINE) == ["0" * 16] * 4
    assert not re.search(r"^Uid:\s+0\b", status, re.MULTILINE)
    # Among the mounts that it sees there is no place to write, even for root.
    for place in ("/var/lib/hybrid-engine/x", "/etc/hybrid-engine/x", "/var/lib/x", "/usr/x"):
        assert "Read-only file system" in machine.run("nsenter", "-t", pid, "-m", "touch", place).stderr, place
    # But for its own memory, which nobody else reads.
    kept = machine.path("/var/lib/hybrid-dashboard/telemetry.db")
    dashboard.expect(poll(lambda: kept.exists() or None, OsClock(), 10.0) is True, "what it observes is not kept")
    span = json.loads(dashboard.get("/span?range=5m").body)
    dashboard.expect(span["kept"] and not span["notices"], f"what it observes is not kept: {span['notices']}")
    assert kept.parent.stat().st_mode & 0o777 == 0o700


# --- the program alone -------------------------------------------------------------------------------------


def config(tmp_path: Path, **table: object) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(toml({"app": {"db_path": str(tmp_path / "bot.db")}, "dashboard": table}))
    return path


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(path: Path) -> Iterator[subprocess.Popen[str]]:
    """The dashboard as a child process, until it says where it serves."""
    command = [sys.executable, "-m", "harness", "dashboard", "--config", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "http://127.0.0.1:" in process.stderr.readline()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_although_a_page_is_open(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    with (
        running(config(tmp_path, port=port)) as process,
        closing(socket.create_connection(("127.0.0.1", port))) as page,
    ):
        page.settimeout(10.0)
        page.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"text/event-stream" in page.recv(4000)
        process.send_signal(number)
        assert process.wait(timeout=5.0) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    port = free_port()
    with running(config(tmp_path, port=port, refresh_seconds=0.01)) as process, closing(socket.socket()) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        child, own = psutil.Process(process.pid), slow.getsockname()[1]

        def served() -> bool:
            return any(one.raddr and one.raddr.port == own for one in child.net_connections("tcp"))

        assert poll(lambda: True if served() else None, OsClock(), 5.0)
        assert poll(lambda: None if served() else True, OsClock(), 5 * program.UNTAKEN_MS / 1000), "it is still served"
        assert process.poll() is None


LARGE = 12_000_000
"""Bytes of a buglog: more than the kernel takes for a client that reads nothing."""


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The site on a port of its own, with deadlines so short that a test can wait for them."""
    monkeypatch.setattr(web, "REQUEST_SECS", 0.2)
    monkeypatch.setattr(web, "ANSWER_SECS", 2.0)
    (tmp_path / "buglog").mkdir()
    (tmp_path / "buglog" / "BUG_large.html").write_bytes(b"x" * LARGE)
    nowhere = tmp_path / "none"
    places = Places("none.service", nowhere, None, nowhere, tmp_path, nowhere, web.BUGLOG_URL)
    sock = program.listen(view_model.Listen("127.0.0.1", free_port()))
    collector = Collector(places, 60.0, Shell(Unrecorded()), OsClock())
    loop, serving = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        broadcaster = web.Broadcaster(collector)
        app = web.application(broadcaster, tmp_path, frozenset({"localhost"}), 60.0, web.Drawing())
        server = web._Server(web.options(app), broadcaster)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(broadcaster.run(60.0))
            await broadcaster.first_state()
            serve = tasks.create_task(server.serve([sock]))
            serving.set()
            await asyncio.to_thread(ended.wait)
            server.should_exit = True
            broadcaster.close()
            await serve

    ended = threading.Event()
    # Not on the main thread: there uvicorn would take the signals, and while a browser is open playwright has a loop.
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert serving.wait(10.0)
    yield sock.getsockname()[1]
    ended.set()
    thread.join(10.0)
    loop.close()


def read_all(client: socket.socket) -> bytes:
    """What comes until the other end closes, or cuts off."""
    found = b""
    with suppress(ConnectionError):
        while data := client.recv(65536):
            found += data
    return found


def trickle(client: socket.socket, byte: bytes) -> bytes:
    """Send a byte now and then until the other end closes; what came meanwhile."""
    found = b""
    client.settimeout(0.02)
    end = OsClock().monotonic() + 5.0
    while OsClock().monotonic() < end:
        try:
            client.sendall(byte)
            if not (data := client.recv(65536)):
                return found
            found += data
        except TimeoutError:
            continue
        except ConnectionError:
            return found
    raise AssertionError("it is still served")


@pytest.mark.slow
@pytest.mark.claim("W3")
@pytest.mark.parametrize(
    ("begin", "byte", "answers"),
    [
        (b"", b"", 0),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"a", 0),
        (b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n", b"a", 1),
        (b"GET /dashboard.css HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", 1),
        (b"GET /dashboard.css HTTP/1.1\r\nHost: localhost\r\n\r\nGET ", b"/", 1),
    ],
    ids=["silence", "slow headers", "slow body", "keep-alive", "slow second request"],
)
def test_a_request_that_does_not_come_is_not_waited_for(
    impatient: int, begin: bytes, byte: bytes, answers: int
) -> None:
    with closing(socket.create_connection(("127.0.0.1", impatient))) as client:
        client.sendall(begin)
        assert trickle(client, byte).count(b"HTTP/1.1 ") == answers


@pytest.mark.claim("W3")
def test_an_answer_that_is_taken_too_slowly_is_given_up_and_no_other_waits_for_it(impatient: int) -> None:
    ask = b"GET /buglog/BUG_large.html HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        slow = []
        for _ in range(web.BUGLOGS_MAX):
            client = stack.enter_context(closing(socket.socket()))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", impatient))
            client.sendall(ask)
            assert client.recv(12) == b"HTTP/1.1 200"
            slow.append(client)
        with closing(socket.create_connection(("127.0.0.1", impatient))) as one_more:
            one_more.sendall(ask)
            assert one_more.recv(12) == b"HTTP/1.1 503"

        def served() -> bool | None:
            with closing(socket.create_connection(("127.0.0.1", impatient))) as again:
                again.sendall(ask)
                return True if again.recv(12) == b"HTTP/1.1 200" else None

        assert poll(served, OsClock(), 10.0), "the places of those that were cut off are not free again"
        assert all(len(read_all(client)) < LARGE for client in slow)


def test_systemd_hears_of_it_although_looks_are_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "none"
    places = Places("none.service", nowhere, None, nowhere, nowhere, nowhere, "/")
    broadcaster = web.Broadcaster(Collector(places, 3600.0, Shell(Unrecorded()), OsClock()))
    monkeypatch.setattr(web, "FEED_SECS", 0.01)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    async def look_until_fed(systemd: socket.socket) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(broadcaster.run(3600.0))
            fed = 0
            while fed < 3:
                # A systemctl that fails tells so too.
                fed += b"WATCHDOG=1" in await asyncio.get_running_loop().sock_recv(systemd, 100)
            broadcaster.close()

    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.setblocking(False)
        systemd.bind(str(tmp_path / "notify"))
        # On a thread of its own: while a browser is open, playwright has a loop on this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(asyncio.wait_for(look_until_fed(systemd), 10.0))).result()


def test_a_port_that_is_taken_is_told_with_its_holder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert program.main(["--config", str(config(tmp_path, port=port))]) == 1
    said = capsys.readouterr().err
    own = psutil.Process()
    assert f"127.0.0.1 port {port} is taken by process {own.pid} of {own.username()}: " in said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[dashboard]\nport = 70000", r"dashboard\.port = 70000: must be a whole number from 1 to 65535"),
        ("[dashboard\n", "config.toml: "),
        ('[dashboard]\nhost = "no such host"', r"dashboard\.host = 'no such host'"),
        (
            '[dashboard]\nhost = "192.0.2.1"\nport = 8599',
            "'192.0.2.1': is no address of this computer",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_ends_it_with_12(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    assert program.main(["--config", str(path)]) == 12
    assert re.search(named, capsys.readouterr().err)
    assert program.main(["--config", str(tmp_path / "none.toml")]) == 12


def test_a_host_on_the_network_is_served_under_its_name_and_with_a_warning() -> None:
    with closing(program.listen(view_model.Listen("0.0.0.0", free_port()))) as sock:
        assert not program.is_loopback(sock)
        names = program.names_of(view_model.Listen("0.0.0.0"), sock)
        assert {"localhost", socket.gethostname().lower()} <= names
    with closing(program.listen(view_model.Listen("localhost", free_port()))) as sock:
        assert program.is_loopback(sock)
        assert program.names_of(view_model.Listen("localhost"), sock) == {"localhost"}
