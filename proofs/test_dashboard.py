"""The dashboard: the real unit beside the real engine, looked at through a real browser and by hand."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from harness import dashboard as program
from harness import nemesis, panel, web
from harness.buglog import anchor
from harness.clock import OsClock, poll
from harness.errors import HarnessError
from harness.lookout import Lookout, Places
from harness.recorder import Unrecorded
from harness.shell import Shell
from proofs.fixtures import seed_database
from proofs.fixtures.browser import Visit, check_readable
from proofs.fixtures.dashboard_unit import DASHBOARD, DashboardUnit
from proofs.fixtures.engine_unit import EngineUnit, toml
from proofs.fixtures.soak_run import WORK, SoakRun

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EXPOSURE_MAX = 2.0
"""Of `systemd-analyze security`, as for the engine."""

FAST = {"engine": {"tick_interval_ms": 20, "heartbeat_interval_secs": 0.5}, "persist": {"flush_interval_ms": 20}}

REQUESTS = 1000


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
    visit.wait("a running engine", "document.getElementById('unit-word').textContent === 'running'")
    for name in ("price-last", "figures", "books"):
        now = visit.page.inner_text(f"#{name}")
        visit.wait(f"another {name}", f"now => document.getElementById('{name}').innerText !== now", now)
    engine.stop()
    visit.wait("a stopped engine", "document.getElementById('unit-word').textContent === 'stopped'", within_secs=3.0)
    visit.expect("the engine is not running" in visit.page.inner_text("[role=status]"), "a reader is not told of it")
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
    reports = engine.machine.path("/var/lib/hybrid-engine/reports")
    engine.configure({**FAST, "dashboard": dashboard.table})
    engine.start()
    write_run(reports)
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
    visit.page.evaluate("state.mode = {word: 'LIVE', runs: true, says: 'REAL ORDERS go to the venue.'}; render()")
    check_readable(visit, "stopped, LIVE")
    visit.page.close()


def write_run(reports: Path) -> None:
    (reports / "buglog").mkdir(parents=True)
    (reports / "verdicts.json").write_text(
        '{"run_id": "1795527233-03d67820", "planned": ["V5"], "verdicts": ['
        '{"proof": "proofs/test_g0.py::test_a", "claims": ["G0"], "verdict": "proven"},'
        '{"proof": "proofs/test_g2.py::test_b", "claims": ["G2"], "verdict": "refuted"},'
        '{"proof": "proofs/test_g3.py::test_c", "claims": ["G3"], "verdict": "unproven"}]}'
    )
    (reports / "buglog" / "BUG_2026-11-24_proofs-1795527233-03d67820.html").write_text(
        "<!doctype html><title>Evidence</title><style>p { color: rgb(1, 2, 3) }</style><p id=x>evidence</p>"
    )
    (reports / "buglog" / "secret.txt").write_text("no buglog")


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
    # Only the first start of its unit makes the state directory that the dashboard reads.
    engine.start()
    write_run(engine.machine.path("/var/lib/hybrid-engine/reports"))
    dashboard.start()
    rows = dashboard.state()["verdicts"]["rows"]
    judged = [(row["clause"], row["verdict"]) for row in rows]
    dashboard.expect(judged == [("G0", "proven"), ("G2", "refuted"), ("G3", "unproven")], f"guardrails: {judged}")
    href = rows[0]["href"]
    dashboard.expect(href.endswith(f".html#{anchor('proofs/test_g0.py::test_a')}"), f"the link to the buglog is {href}")
    visit = Visit(browser, dashboard.url + href)
    colour = visit.page.evaluate("getComputedStyle(document.getElementById('x')).color")
    visit.expect(colour == "rgb(1, 2, 3)", f"the buglog is shown without its own styles: {colour}")
    visit.expect(visit.complaints == [], f"the browser complains: {visit.complaints}")
    visit.page.close()
    for path in ("secret.txt", "..%2Fverdicts.json", "../verdicts.json", "", "%2Fetc%2Fpasswd", "../../etc/passwd"):
        status = dashboard.get(f"/buglog/{path}").status
        dashboard.expect(status == 404, f"/buglog/{path} answers {status}")


# --- what it is told of ------------------------------------------------------------------------------------


def test_a_database_that_cannot_be_read_is_told_in_words(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    engine.configure({**FAST, "dashboard": dashboard.table})
    dashboard.start()

    def says(text: str) -> None:
        dashboard.wait(text, lambda state: text in state["price"].get("trouble", ""))
        answer = dashboard.get("/healthz")
        dashboard.expect(answer.status == 503 and text in answer.body, f"/healthz does not say {text!r}: {answer}")

    says("there is no such database")
    engine.start()
    dashboard.wait("the database", lambda state: "points" in state["price"])
    engine.stop()
    owner = engine.database.stat()
    engine.database.unlink()
    seed_database.build(engine.database, ticks=10)
    os.chown(engine.database, owner.st_uid, owner.st_gid)
    says("schema version 0, of an older engine than this dashboard")
    engine.start()
    dashboard.wait("the migrated database", lambda state: len(state["price"].get("points", ())) > 10)
    engine.stop()
    with closing(sqlite3.connect(engine.database, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN IMMEDIATE")
        holder.execute("UPDATE ticks SET volume = volume WHERE id = 1")
        says("database is locked")
        holder.execute("ROLLBACK")
    dashboard.wait("the database after the lock", lambda state: "points" in state["price"])
    engine.database.write_bytes(b"garbage " * 1000)
    says("file is not a database")


def test_who_started_the_engine_is_told(watched: EngineUnit, dashboard: DashboardUnit, soak: SoakRun) -> None:
    place = watched.machine.path("/var/lib/hybrid-soak/data/ops")
    place.mkdir(parents=True, exist_ok=True)
    (place / "soak_decisions.jsonl").unlink(missing_ok=True)
    (place / "soak_decisions.jsonl").symlink_to(f"{WORK}/soak_decisions.jsonl")
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


# --- it is in nobody's way ---------------------------------------------------------------------------------


def gaps_ms(engine: EngineUnit, after: int) -> list[int]:
    """Times between the ticks that follow tick `after`."""
    stamps = [int(str(ts)) for (ts,) in engine.query(f"SELECT ts FROM ticks WHERE id > {after} ORDER BY id")]
    return [late - early for early, late in pairwise(stamps)]


def newest(engine: EngineUnit) -> int:
    return int(str(engine.query("SELECT MAX(id) FROM ticks")[0][0]))


def test_a_thousand_requests_do_not_change_the_cadence_of_ticks(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    paths = ("/", "/healthz", "/metrics", "/dashboard.js")
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
    streams = [socket.create_connection(("127.0.0.1", dashboard.port)) for _ in range(web.WATCHERS_MAX)]
    try:
        seen = []
        for stream in streams:
            stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for stream in streams:
            stream.settimeout(5.0)
            seen.append(stream.recv(200))
        dashboard.expect(all(b"200 OK" in head for head in seen), f"not every page got events: {seen}")
        one_more = dashboard.first_event().status
        dashboard.expect(one_more == 503, f"one more page than {len(streams)} is answered {one_more}")
        dashboard.expect(dashboard.get("/healthz").status == 200, "/healthz is not answered beside many pages")
    finally:
        for stream in streams:
            stream.close()
    served = poll(lambda: True if dashboard.first_event().status == 200 else None, OsClock(), 5.0)
    dashboard.expect(served is True, "no page is served after the others were closed")


# --- who may ask, and what is answered ---------------------------------------------------------------------


def test_a_foreign_host_is_refused(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    for path in ("/", "/events", "/healthz", "/metrics", "/dashboard.js", "/nothing"):
        answer = dashboard.get(path, host="evil.example")
        dashboard.expect(answer.status == 421, f"{path} answers {answer.status} to the Host evil.example")
    for host in ("localhost", "localhost:9000", f"127.0.0.1:{dashboard.port}"):
        status = dashboard.get("/healthz", host=host).status
        dashboard.expect(status == 200, f"/healthz answers {status} to the Host {host}")
    with closing(socket.create_connection(("127.0.0.1", dashboard.port))) as old:
        old.settimeout(5.0)
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
        with closing(socket.create_connection(("127.0.0.1", dashboard.port))) as client:
            client.settimeout(5.0)
            client.sendall(f"{method} /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            dashboard.expect(b" 405 " in client.recv(200), f"{method} is answered")


def test_metrics_are_clean_in_both_formats(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    dashboard.wait("a heartbeat with ticks", lambda state: state["books"].get("lines", [{}])[0].get("number", 0) > 0)
    text = dashboard.get("/metrics").body
    families = {family.name: family for family in text_string_to_metric_families(text)}
    dashboard.expect(list(families) == [metric.name for metric in panel.METRICS], f"metrics: {list(families)}")
    for metric in panel.METRICS:
        family = families[metric.name]
        labels = {label for sample in family.samples for label in sample.labels}
        told = (family.type, family.documentation, labels - {metric.label})
        dashboard.expect(told == (metric.kind, metric.help, set()), f"{metric.name}: {told}")
    for name in ("hybrid_engine_up", "hybrid_database_readable", "hybrid_books_balanced", "hybrid_ticks_received"):
        dashboard.expect(families[name].samples[0].value > 0, f"{name} is 0 beside a healthy engine")
    with closing(socket.create_connection(("127.0.0.1", dashboard.port))) as client:
        client.settimeout(5.0)
        client.sendall(
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text; version=1.0.0\r\n"
            b"Connection: close\r\n\r\n"
        )
        body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")[2].decode()
    dashboard.expect(len(list(open_families(body))) == len(panel.METRICS), f"as OpenMetrics: {body}")


def test_the_unit_is_caged(engine: EngineUnit, dashboard: DashboardUnit) -> None:
    start(engine, dashboard)
    machine = dashboard.machine
    assert machine.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{DASHBOARD}").expect(0).stderr == ""
    shown = machine.run("systemd-analyze", "security", "--no-pager", DASHBOARD).stdout
    overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown)
    assert overall, shown
    assert float(overall[1]) <= EXPOSURE_MAX, f"exposure {overall[1]}, at most {EXPOSURE_MAX}"
    pid = machine.systemctl("show", DASHBOARD, "--property=MainPID", "--value").stdout.strip()
    status = machine.run("cat", f"/proc/{pid}/status").stdout
    # CAP_DAC_READ_SEARCH is bit 2 (linux/capability.h).
    assert re.findall(r"^Cap(?:Prm|Eff|Bnd|Amb):\s+(\w+)$", status, re.MULTILINE) == ["0" * 15 + "4"] * 4
    assert not re.search(r"^Uid:\s+0\b", status, re.MULTILINE)
    # Among the mounts that it sees there is no secret and no place to write, even for root.
    inside = ("nsenter", "-t", pid, "-m")
    assert "Permission denied" in machine.run(*inside, "setpriv", "--bounding-set=-all", "cat", "/etc/shadow").stderr
    for place in ("/var/lib/hybrid-engine/x", "/etc/hybrid-engine/x", "/var/lib/x", "/usr/x"):
        assert "Read-only file system" in machine.run(*inside, "touch", place).stderr, place


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


def test_systemd_hears_of_it_although_looks_are_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "none"
    places = Places("none.service", nowhere, None, nowhere, nowhere, nowhere, "/")
    board = web.Board(Lookout(places, 3600.0, Shell(Unrecorded()), OsClock()))
    monkeypatch.setattr(web, "FEED_SECS", 0.01)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    async def look_until_fed(systemd: socket.socket) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(board.look_on(3600.0))
            fed = 0
            while fed < 3:
                # A systemctl that fails tells so too.
                fed += b"WATCHDOG=1" in await asyncio.get_running_loop().sock_recv(systemd, 100)
            board.close()

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
    with closing(program.listen(panel.Listen("0.0.0.0", free_port()))) as sock:
        assert not program.is_loopback(sock)
        names = program.names_of(panel.Listen("0.0.0.0"), sock)
        assert {"localhost", socket.gethostname().lower()} <= names
    with closing(program.listen(panel.Listen("localhost", free_port()))) as sock:
        assert program.is_loopback(sock)
        assert program.names_of(panel.Listen("localhost"), sock) == {"localhost"}
