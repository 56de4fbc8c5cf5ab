"""The dashboard's site: one live page about the engine, /healthz and /metrics.

One thread collects once a refresh, however many pages are open; each client is sent the newest state when it has taken
the one before, so a slow one misses states instead of delaying the others, and one that takes nothing at all is cut
off by the kernel (TCP_USER_TIMEOUT). No request starts a collection, so load on the page is not load on the engine.

uvicorn has no deadline for a request that does not come, and refuses everybody when it has too many connections. So
here each connection has one (`Deadlines`), and where there are too many, the one that has waited for its client longest
makes room for the new one: whoever asks is answered, however many there are who say nothing.

Nothing a client sends reaches a command or a path: the name of a buglog is looked up among the files that are there.
What is asked about the past (harness/dashboard/query.py) reaches a query as numbers and bound values alone, and two
questions are answered at a time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib.resources
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import ClassVar

import uvicorn
from cysystemd.daemon import Notification, notify
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as MetricsCollector
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from harness.base import csvtext, jsontext
from harness.base.clock import OsClock
from harness.base.errors import HarnessError
from harness.dashboard import charts, query, view_model
from harness.dashboard.archive import SEEN_TABLES, Archive, dated
from harness.dashboard.collector import Collector, read_buglog
from harness.dashboard.telemetry_store import KEEP_SECS, KeptTelemetry
from harness.dashboard.view_model import Observation
from harness.observing import ledger_history

WATCHERS_MAX = 50
"""Pages that may be open at once; one more is told to come back."""

CONNECTIONS_MAX = 256
"""One more takes the place of the one that has been without a request for longest."""

BACKLOG = 512
"""So many clients wait in the kernel, and are taken in at once; both together stay below the unit's LimitNOFILE=."""

REQUEST_SECS = 5.0
"""How long a request may take to come: from the connection, or the answer before, to the end of its headers."""

ANSWER_SECS = 60.0
"""How long a client may take to take an answer; a page's events go on for ever."""

BUGLOGS_MAX = 4
"""Buglogs that may be on their way at once: they are large."""

CHUNK_BYTES = 64 * 1024

FEED_SECS = 10.0
"""Longest time between two WATCHDOG=1 while the refresh is longer than that: a third of the unit's WatchdogSec."""

GRACE_SECS = 2
"""How long answers may take to end when the dashboard is told to."""

READS_MAX, READS_WAITING_MAX = 2, 64
"""Questions about the past that are answered at once, and that wait for their turn."""

BUGLOG_URL, EVENTS_URL = "/buglog/", "/events"

CSV_ROWS = 1000
"""Rows of a sheet that are read at once: so few are in memory, however many there are."""

FOR_EVER = "public, max-age=31536000, immutable"
"""Of what has another address when it is another: a year, the longest that is meant (RFC 9111)."""

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CSP,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer, where it has no other."""

STATIC = {
    "/": ("dashboard.html", "text/html; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/history.css": ("history.css", "text/css; charset=utf-8"),
    "/history.js": ("history.js", "text/javascript; charset=utf-8"),
    "/plots.js": ("plots.js", "text/javascript; charset=utf-8"),
}


class Broadcaster:
    """Holds the newest observation and sends it to every open page."""

    def __init__(self, collector: Collector, telemetry: KeptTelemetry | None = None) -> None:
        self._collector = collector
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        # The newest observation; None before the first.
        self._seen: Observation | None = None
        self._text = ""
        self.watchers = 0
        self.telemetry = telemetry or KeptTelemetry()
        self.archive = Archive(self.telemetry, lambda: self.seen, lambda: collector.database, collector.past_decisions)

    @property
    def seen(self) -> Observation:
        """The newest observation; the server starts only when there is one."""
        assert self._seen is not None
        return self._seen

    async def run(self, refresh_secs: float) -> None:
        """Collect once a refresh until closed. An exception of the collector ends the process: better restarted than
        stale."""
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.telemetry.load)
        with ThreadPoolExecutor(1, "collector") as thread:
            while not self._closing.is_set():
                due = loop.time() + refresh_secs
                self._publish(await loop.run_in_executor(thread, self._collector.collect))
                _tell_systemd(Notification.WATCHDOG)
                while (left := due - loop.time()) > 0 and not self._closing.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._closing.wait(), min(left, FEED_SECS))
                    _tell_systemd(Notification.WATCHDOG)

    async def keep(self) -> None:
        """Keep what was observed, now and then and at the end. A disk that takes nothing holds up nobody else."""
        clock = OsClock()
        await self.first_state()
        while not self._closing.is_set():
            await asyncio.to_thread(self.telemetry.keep, clock.wall())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), KEEP_SECS)
        await asyncio.to_thread(self.telemetry.close, clock.wall())

    async def first_state(self) -> None:
        """Return when the first observation is there."""
        await self._news.wait()

    def _publish(self, seen: Observation) -> None:
        self._seen = seen = replace(seen, notices=self.telemetry.notices)
        self.telemetry.take(seen)
        self._text = jsontext.write(view_model.page(seen))
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def states(self) -> AsyncIterator[str]:
        """Yield the page's states as server-sent events, the newest first; ends when the dashboard does."""
        self.watchers += 1
        try:
            while not self._closing.is_set():
                news = self._news
                yield f"data: {self._text}\n\n"
                await news.wait()
        finally:
            self.watchers -= 1

    def close(self) -> None:
        """End every event stream."""
        self._closing.set()
        self._news.set()


def _tell_systemd(what: Notification) -> None:
    # Without anybody who listens, cysystemd complains.
    if "NOTIFY_SOCKET" in os.environ:
        notify(what)


class _Exporter(MetricsCollector):
    """The observation as Prometheus metrics."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    def collect(self) -> Iterable[Metric]:
        seen = self._broadcaster.seen
        for metric, samples in view_model.metrics(seen):
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            # Not `instance`: to Prometheus that is the address it asks.
            family = kind(metric.name, metric.help, labels=["engine", *([metric.label] if metric.label else [])])
            for label, value in samples:
                family.add_metric([seen.engine, *([label] if metric.label else [])], value)
            yield family


class Guard:
    """Refuses a Host that is not ours, and gives every answer the security headers."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) == 1 and view_model.host_allowed(given[0], self._names, scope["server"][0]):
            await self._app(scope, receive, send_guarded)
        else:
            refusal = PlainTextResponse("This Host is not the dashboard's.\n", status_code=421)
            await refusal(scope, receive, send_guarded)


class Drawing:
    """What draws the charts, loaded once."""

    def __init__(self, package: str = charts.PACKAGE) -> None:
        self._package = package
        self._loading = asyncio.Lock()
        self._found: list[charts.ChartLibrary | None] = []

    async def library(self) -> charts.ChartLibrary | None:
        """Return it; None where its package is not installed."""
        async with self._loading:
            if not self._found:
                self._found.append(await asyncio.to_thread(charts.load, self._package))
        return self._found[0]


def application(
    broadcaster: Broadcaster, reports: Path, names: frozenset[str], refresh_secs: float,
    drawing: Drawing,
) -> ASGIApp:  # fmt: skip
    """Return the whole site. reports: directory of the buglogs; names: what the dashboard may be called in Host
    headers; drawing: what draws its charts."""
    registry = CollectorRegistry()
    registry.register(_Exporter(broadcaster))
    directory = importlib.resources.files("harness.dashboard") / "static"
    # Read once: what is served does not depend on what an address says.
    files = {url: ((directory / name).read_bytes(), kind) for url, (name, kind) in STATIC.items()}

    history_page = (directory / "history.html").read_text("utf-8")

    async def history(_: Request) -> Response:
        found = await drawing.library()
        body = history_page.replace("{{charts}}", found.url if found is not None else "")
        headers = {}
        if found is not None:
            headers["Content-Security-Policy"] = CSP.replace("style-src 'self'", f"style-src 'self' {found.styles}")
        return HTMLResponse(body, headers=headers)

    async def chart_library(request: Request) -> Response:
        found = await drawing.library()
        if found is None or request.url.path != found.url:
            raise HTTPException(404)
        headers = {"Cache-Control": FOR_EVER, "Vary": "Accept-Encoding"}
        pieces = found.plain()
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            pieces = _pieces(found.compressed)
        return StreamingResponse(pieces, media_type="text/javascript; charset=utf-8", headers=headers)

    # One token for each buglog that is on its way.
    sending: set[object] = set()

    async def static(request: Request) -> Response:
        body, kind = files[request.url.path]
        return Response(body, media_type=kind)

    async def events(_: Request) -> Response:
        if broadcaster.watchers >= WATCHERS_MAX:
            return PlainTextResponse("Too many open pages.\n", status_code=503, headers={"Retry-After": "10"})
        return StreamingResponse(broadcaster.states(), media_type="text/event-stream")

    async def healthz(_: Request) -> Response:
        seen = broadcaster.seen
        found = view_model.problems(seen)
        if view_model.is_stale(seen.at, OsClock().wall(), refresh_secs):
            found = ["dashboard: its last observation is too old", *found]
        answer = jsontext.write({"ok": not found, "problems": found, "at": seen.at})
        return Response(answer, media_type="application/json", status_code=503 if found else 200)

    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=kind)

    async def buglog(request: Request) -> Response:
        if len(sending) >= BUGLOGS_MAX:
            busy = "Too many large documents at once.\n"
            return PlainTextResponse(busy, status_code=503, headers={"Retry-After": "5"})
        token = object()
        sending.add(token)
        try:
            body = await asyncio.to_thread(read_buglog, reports, request.path_params["name"])
            if body is None:
                raise HTTPException(404)
            return _Document(body, await asyncio.to_thread(_own_csp, body), lambda: sending.discard(token))
        except BaseException:
            sending.discard(token)
            raise

    # Questions about the past: those that are answered, and one token for each that waits or is answered.
    turn = asyncio.Semaphore(READS_MAX)
    asking: set[object] = set()

    async def ask(question: Callable[[], Response]) -> Response:
        if len(asking) >= READS_MAX + READS_WAITING_MAX:
            busy = "Others are asking about the past.\n"
            return PlainTextResponse(busy, status_code=503, headers={"Retry-After": "1"})
        token = object()
        asking.add(token)
        try:
            async with turn:
                return await asyncio.to_thread(question)
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        except (HarnessError, OSError) as error:
            words = str(error) if isinstance(error, HarnessError) else f"{error.filename}: {error.strerror}"
            return Response(jsontext.write({"trouble": words}), media_type="application/json", status_code=503)
        finally:
            asking.discard(token)

    async def span(request: Request) -> Response:
        now_ms = round(broadcaster.seen.at * 1000)
        return await ask(lambda: _json(broadcaster.archive.span(query.span_of(request.query_params, now_ms))))

    async def equity(_: Request) -> Response:
        return await ask(lambda: _json(broadcaster.archive.equity()))

    async def table(request: Request) -> Response:
        name, _, kind = request.path_params["name"].partition(".")
        if name not in (*ledger_history.TABLES, *SEEN_TABLES) or kind not in ("json", "csv"):
            raise HTTPException(404)

        def answer() -> Response:
            if kind == "json":
                return _json(vars(broadcaster.archive.table(name, query.page_of(request.query_params))))
            asked = query.page_of(request.query_params, ledger_history.CSV_ROWS_MAX, ledger_history.CSV_ROWS_MAX)
            first = broadcaster.archive.table(name, replace(asked, rows=min(asked.rows, CSV_ROWS)))
            headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
            body = sheet(asked, csvtext.csv_text(first.columns, dated(first)), first.next_id, len(first.rows))
            return StreamingResponse(body, media_type="text/csv; charset=utf-8", headers=headers)

        def more(asked: query.PageQuery, at_id: int, left: int) -> tuple[str, int | None, int]:
            page = broadcaster.archive.table(name, replace(asked, at_id=at_id, rows=min(left, CSV_ROWS)))
            return csvtext.csv_text(None, dated(page)), page.next_id, len(page.rows)

        async def sheet(asked: query.PageQuery, text: str, at_id: int | None, rows: int) -> AsyncIterator[str]:
            # While this waits for its turn, or for its client, it holds a page's text and no rows.
            yield text
            left = asked.rows - rows
            # A page that is not full has looked through as much as one question may, and the next goes on.
            while left > 0 and at_id is not None:
                async with turn:
                    text, at_id, rows = await asyncio.to_thread(more, asked, at_id, left)
                yield text
                left -= rows

        return await ask(answer)

    routes = [Route(url, static) for url in files]
    routes += [Route("/history", history), Route(f"{charts.URL}{{name}}", chart_library)]
    routes += [Route("/span", span), Route("/equity", equity), Route("/table/{name}", table)]
    routes += [Route(EVENTS_URL, events), Route("/healthz", healthz), Route("/metrics", metrics)]
    routes.append(Route(f"{BUGLOG_URL}{{name}}", buglog))
    return Guard(Starlette(routes=routes), names)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    # Asynchronous, since Starlette has a thread for each generator that is not.
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]


def _json(value: object) -> Response:
    return Response(jsontext.write(value), media_type="application/json")


class _Document(StreamingResponse):
    """A document piece by piece, so that a slow client has little of it waiting in our memory. ended: is called when it
    has been sent or its client has gone."""

    def __init__(self, body: bytes, policy: str, ended: Callable[[], None]) -> None:
        super().__init__(
            _pieces(body), media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy}
        )
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def _own_csp(html: bytes) -> str:
    """Return a policy under which a self-contained document may use the styles and scripts that stand in it, and no
    other."""
    none = "'none'"

    def hashes(tag: bytes) -> str:
        found = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), html, re.DOTALL)
        return (
            " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found) or none
        )

    return (
        f"default-src 'none'; style-src {hashes(b'style')}; script-src {hashes(b'script')}; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Deadlines(H11Protocol):
    """uvicorn's HTTP/1.1, with a deadline for each connection and a way to make room.

        waiting --request complete--> answering --answer complete--> waiting (again)

    A connection that waits longer than REQUEST_SECS is closed, whatever of a request it has sent meanwhile; so is one
    that has not taken its answer after ANSWER_SECS, unless that is a page's events.
    """

    crowd: ClassVar[dict[Deadlines, None]] = {}
    """All connections, those that have changed last at the end."""

    _deadline: asyncio.TimerHandle | None = None
    _answering = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        if len(self.crowd) >= CONNECTIONS_MAX:
            waiting = (one for one in self.crowd if not one._answering)
            next(waiting, next(iter(self.crowd))).cut_off()
        self._turn(answering=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was cut off."""
        self.crowd.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Take what has come of a request."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.transport.is_closing():
            self._turn(answering=not self.cycle.response_complete)

    def on_response_complete(self) -> None:
        """An answer has been given to the transport."""
        self._turn(answering=False)
        super().on_response_complete()

    def cut_off(self) -> None:
        """Close it at once."""
        self.crowd.pop(self, None)
        self.transport.abort()

    def _turn(self, *, answering: bool) -> None:
        if self.transport.is_closing():
            return
        self._answering = answering
        self.crowd.pop(self, None)
        self.crowd[self] = None
        if self._deadline is not None:
            self._deadline.cancel()
        if answering and self.scope["path"] == EVENTS_URL:
            self._deadline = None
        else:
            self._deadline = self.loop.call_later(ANSWER_SECS if answering else REQUEST_SECS, self.cut_off)


def options(app: ASGIApp) -> uvicorn.Config:
    """Return how uvicorn serves the site."""
    return uvicorn.Config(
        app, http=Deadlines, log_level="error", access_log=False, server_header=False, lifespan="off", ws="none",
        proxy_headers=False, backlog=BACKLOG, timeout_graceful_shutdown=GRACE_SECS,
    )  # fmt: skip


class _Server(uvicorn.Server):
    """uvicorn, with an end that is clean: open pages are ended, and the exit status is 0."""

    def __init__(self, config: uvicorn.Config, broadcaster: Broadcaster) -> None:
        super().__init__(config)
        self._broadcaster = broadcaster
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would raise the signal again at its end, which turns an ordinary stop into a death by signal.
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._broadcaster.close)


async def serve(
    collector: Collector, sock: socket.socket, *, refresh_secs: float, reports: Path, names: frozenset[str],
    telemetry: KeptTelemetry,
) -> None:  # fmt: skip
    """Serve on a listening socket until SIGTERM or SIGINT. reports, names: as of `application`."""
    broadcaster = Broadcaster(collector, telemetry)
    drawing = Drawing()
    server = _Server(options(application(broadcaster, reports, names, refresh_secs, drawing)), broadcaster)

    async def answer() -> None:
        await broadcaster.first_state()
        _tell_systemd(Notification.READY)
        # Before the first page asks for it.
        tasks.create_task(drawing.library())
        await server.serve([sock])
        broadcaster.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(broadcaster.run(refresh_secs))
        tasks.create_task(broadcaster.keep())
        tasks.create_task(answer())
