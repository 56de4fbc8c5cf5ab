"""A fleet: engines with a relay each on several hosts, three nats-servers, a PostgreSQL, two collectors.

All of it are the processes that a real one has. Their supervisor is whoever uses this, in systemd's place.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nats
import psycopg

from harness.base.clock import OsClock, poll
from proofs.fixtures import bytecode, fleet_books, fleet_parts
from proofs.fixtures.fleet_books import Streamed
from proofs.fixtures.fleet_parts import PASSWORD, NatsServer, Place, Postgres, Process, Program
from proofs.simulation.hosts import Switch

T = TypeVar("T")

STREAM = "HYBRID"
DATABASE = "fleet"
DEADLINE_SECS = 300.0
"""Until rows flow again, whatever was done."""

SILENCE = 'ping_interval: "5s"\nping_max: 2\nwrite_deadline: "5s"\n'
"""How soon a nats-server gives up whom it hears nothing of; docs/fleet.md has the same."""

COLLECTORS = (1, 2)
"""The hosts of the two collectors."""

WAITS = "no suitable peers"
"""What nats-server says when a stream is to have more replicas than there are servers."""

SLOWEST = 1000.0
"""Ticks a second that a fleet catches up with, whatever the computer."""

DURABLE = {"track_commit_timestamp": "on", "max_wal_size": "4GB"}
"""PostgreSQL as it ships, but for what says of each row when it was there."""

ONCE: dict[str, Any] = {
    "allow_reconnect": False,
    "connect_timeout": 2,
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0,
}
"""Whoever is dead is not waited for."""


@dataclass(frozen=True)
class Size:
    """How large a fleet is."""

    engines: int
    hosts: int
    interval_ms: int
    """Between two ticks of an engine."""
    servers: int = 3
    """Of the stream, which each of them has."""


class EngineProcess(Process):
    """The engine of this checkout, which makes its own ticks."""

    def __init__(self, directory: Path, number: int, interval_ms: int, place: Place) -> None:
        self.ledger = directory / "bot.db"
        config = directory / "config.toml"
        tables = {
            "mode": ("SHADOW", "PAPER")[number % 2],
            "app": {"db_path": str(self.ledger), "symbol": f"S{number}/USDC"},
            "engine": {"ingest_mode": "SYNTHETIC", "tick_interval_ms": interval_ms},
            # So that nothing is vetoed only because it was so before: there are fills, and positions that move.
            "risk_caps": {"max_exposure_usd": 1e9, "max_symbol_exposure_usd": 1e9},
        }
        config.write_text(fleet_parts.toml(tables))
        super().__init__([*place.enter, sys.executable, "-m", "engine", "--config", str(config)], directory, "engine")

    def start(self, environ: dict[str, str] | None = None) -> None:
        super().start({**bytecode.environ(), "PYTHONPATH": str(fleet_parts.ROOT), **(environ or {})})

    def ticks(self) -> int:
        """How many its ledger has."""
        if not self.ledger.exists():
            return 0
        with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as connection:
            try:
                return int(connection.execute("SELECT coalesce(max(id), 0) FROM ticks").fetchone()[0])
            except sqlite3.OperationalError:
                # Not made yet.
                return 0


class Fleet:
    """Everything that runs, by its part."""

    def __init__(self, directory: Path, size: Size, stack: ExitStack) -> None:
        """directory: short, and anybody can enter it. stack: ends all of it."""
        self.size = size
        self.clock = OsClock()
        self.began = self.clock.monotonic()
        self.switch = Switch(size.hosts)
        self._directory = directory
        # A server reserves all of it at once, and three may lie on one small disk.
        self._room = min(1 << 33, shutil.disk_usage(directory).free // 4)
        places = self.switch.places
        self.servers = self._cluster(places[: size.servers])
        for server in self.servers:
            stack.callback(server.end)
        late = self.servers[2:]
        for server in self.servers[:2]:
            server.start()
        self.database_at = size.hosts - 1
        """PostgreSQL's host."""
        self.postgres = Postgres(self._made("postgres"), DURABLE, place=places[self.database_at])
        stack.callback(fleet_parts.sweep)
        stack.callback(self.postgres.end)
        self.postgres.start()
        conninfo = self.postgres.make_database(DATABASE)
        self._reader: psycopg.Connection[Any] | None = None
        stack.callback(self._forget)
        self.collectors = [self._collector(places[number % size.hosts], conninfo) for number in COLLECTORS]
        self.engines = [self._engine(number) for number in range(size.engines)]
        self.relays = [self._relay(number) for number in range(size.engines)]
        self.names = [f"acct-{number}" for number in range(size.engines)]
        self.lags: list[tuple[float, float]] = []
        """Seconds since the fleet began, and how old the newest row of the engine that is furthest behind was then."""
        for process in (*self.collectors, *self.engines, *self.relays):
            stack.callback(process.end)
            process.start()
        for server in late:
            # Hosts come up in any order: a stream that is to be on all of them is asked for before they are there.
            self.wait(lambda: any(WAITS in relay.said for relay in self.relays), "a relay says what it waits for")
            server.start()

    # --- making ------------------------------------------------------------------------------------------------

    def _made(self, name: str) -> Path:
        found = self._directory / name
        found.mkdir()
        found.chmod(0o755)
        return found

    def _cluster(self, places: list[Place]) -> list[NatsServer]:
        ports = [fleet_parts.free_port() for _ in places]
        pairs = zip(places, ports, strict=True)
        routes = ", ".join(f"nats-route://{place.address}:{port}" for place, port in pairs)
        found = []
        for number, (place, port) in enumerate(zip(places, ports, strict=True)):
            cluster = f'cluster {{ name: "fleet", listen: "{place.address}:{port}", routes: [{routes}] }}\n'
            config = f'server_name: "{number}"\n{SILENCE}{cluster if len(places) > 1 else ""}'
            found.append(NatsServer(self._made(f"nats-{number}"), config, place=place))
        return found

    def _collector(self, place: Place, conninfo: str) -> Program:
        directory = self._made(f"collector-{place.address.rpartition('.')[2]}")
        password = directory / "password"
        password.write_text(f"{PASSWORD}\n")
        config = {"conninfo": conninfo, "password_file": str(password), "metrics_port": 0, "nats": self._nats()}
        return Program(directory, "collector", config, place=place)

    def _engine(self, number: int) -> EngineProcess:
        place = self.switch.places[number % self.size.hosts]
        return EngineProcess(self._made(f"acct-{number}"), number, self.size.interval_ms, place)

    def _relay(self, number: int) -> Program:
        config = {
            "instance": f"acct-{number}", "database": str(self.engines[number].ledger), "metrics_port": 0,
            "nats": self._nats(), "stream": {"replicas": self.size.servers, "max_bytes": self._room},
        }  # fmt: skip
        return Program(
            self._directory / f"acct-{number}", "relay", config, place=self.switch.places[number % self.size.hosts]
        )

    def _nats(self) -> dict[str, Any]:
        return {"servers": [server.url for server in self.servers]}

    # --- looking -----------------------------------------------------------------------------------------------

    @property
    def secs(self) -> float:
        """Since it began."""
        return self.clock.monotonic() - self.began

    def ask(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask PostgreSQL, past all networks. Raises psycopg.OperationalError while it does not answer."""
        try:
            if self._reader is None:
                self._reader = self.postgres.connect(DATABASE)
                self._reader.execute("SET search_path = hybrid")
            return self._reader.execute(sql, values or None).fetchall()
        except psycopg.OperationalError:
            self._forget()
            raise

    def _forget(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def newest(self) -> Mapping[str, int]:
        """Engine -> when its newest tick in PostgreSQL was made (ms since the Unix epoch); empty while nobody knows."""
        try:
            found = dict(
                self.ask(
                    "SELECT p.instance, t.ts FROM places p JOIN ticks t ON t.instance = p.instance"
                    " AND t.id = (p.place->>'id')::bigint WHERE p.tab = 'ticks'"
                )
            )
        except psycopg.Error:
            # Not there, or not made yet.
            return {}
        if len(found) == len(self.names):
            self.lags.append((self.secs, self.clock.wall() - min(found.values()) / 1000))
        return found

    def flows(self, since: float, whose: Collection[str]) -> bool:
        """Whether each of these engines has a row there that was made after `since` (seconds since the Unix epoch)."""
        found = self.newest()
        return all(found.get(name, 0) > since * 1000 for name in whose)

    def wait_flow(self, since: float, whose: Collection[str], what: str) -> None:
        """Until it flows. AssertionError that says what the parts had to say."""
        self.wait(lambda: self.flows(since, whose), f"rows flow after {what}")

    def wait(self, look: Callable[[], T | None], what: str, deadline_secs: float = DEADLINE_SECS) -> T:
        """What `look` returns once that is true. AssertionError that says what whoever does not run, and the
        collectors, had to say last; at once when one of them has failed, which nobody starts again."""
        parts = [*self.servers, self.postgres, *self.relays, *self.engines]

        def told(how: str) -> AssertionError:
            said = [f"{one.name} has ended: {one.said[-300:]}" for one in parts if not one.running]
            said += [f"{one.name}: {one.said[-300:]}" for one in self.collectors]
            return AssertionError(f"{what}: {how}; {'; '.join(said)}; {dict(self.newest())}")

        def looked() -> T | None:
            found = look() or None
            if found is None and any(one.failed for one in parts):
                raise told("it will not come")
            return found

        if (found := poll(looked, self.clock, deadline_secs)) is None:
            raise told(f"not within {deadline_secs:g} s")
        return found

    def leader(self) -> NatsServer | None:
        """Who leads the stream; None while nobody does."""
        if self.size.servers == 1:
            return self.servers[0]
        for server in self.servers:
            try:
                info = asyncio.run(_stream_info(server.url))
            except (nats.errors.Error, TimeoutError, OSError):
                continue
            if info.cluster is not None and info.cluster.leader is not None:
                return self.servers[int(info.cluster.leader)]
        return None

    def worker(self) -> Program | None:
        """The collector that is at work; None while none is."""
        try:
            found = self.ask(
                "SELECT host(client_addr) FROM pg_stat_activity JOIN pg_locks USING (pid)"
                " WHERE locktype = 'advisory' AND granted"
            )
        except psycopg.Error:
            return None
        for (address,) in found:
            for collector in self.collectors:
                if self.switch.places[self.place_of(collector)].address == address:
                    return collector
        return None

    def place_of(self, collector: Program) -> int:
        """Which host a collector is on."""
        return COLLECTORS[self.collectors.index(collector)] % self.size.hosts

    def stream_state(self) -> tuple[int, int]:
        """Messages and bytes of the stream, as a server holds it."""
        state = asyncio.run(_stream_info(self.servers[0].url)).state
        return state.messages, state.bytes

    def hosted(self, host: int) -> list[str]:
        """The engines on a host."""
        return [name for number, name in enumerate(self.names) if number % self.size.hosts == host]

    def cpu_secs(self) -> dict[str, float]:
        """Part -> processor time of all its processes since they were started."""
        parts: dict[str, list[Process]] = {
            "engine": [*self.engines], "relay": [*self.relays], "stream": [*self.servers],
            "collector": [*self.collectors], "postgres": [self.postgres],
        }  # fmt: skip
        return {part: sum(_cpu_secs(one.pid) for one in members) for part, members in parts.items()}

    # --- ending ------------------------------------------------------------------------------------------------

    def stop_engines(self) -> None:
        """In order, so that their ledgers are at rest. AssertionError when one does not end as it should."""
        for engine in self.engines:
            engine.send(signal.SIGTERM)
        for engine in self.engines:
            status = engine.status()
            assert status == 0, f"an engine ended with {status}: {engine.said[-500:]}"

    def wait_all(self) -> None:
        """Until PostgreSQL has come to the end of every ledger, which are at rest. AssertionError."""
        due = {name: _ends(engine.ledger) for name, engine in zip(self.names, self.engines, strict=True)}
        left = list(due)

        def all_there() -> bool:
            while left and self._has(left[-1], due[left[-1]]):
                left.pop()
            return not left

        deadline = DEADLINE_SECS + sum(ends["ticks"] for ends in due.values()) / SLOWEST
        self.wait(all_there, "all of the ledgers", deadline)

    def _has(self, name: str, due: Mapping[str, int]) -> bool:
        try:
            for table, end in due.items():
                column = {"order_events": "count(*)", "positions": "max(fill_id)"}.get(table, "max(id)")
                if (self.ask(f"SELECT {column} FROM {table} WHERE instance = %s", name)[0][0] or 0) < end:
                    return False
        except psycopg.Error:
            return False
        return True

    def streamed(self) -> Streamed:
        """The whole stream, read through. AssertionError when no server lets it be read."""

        def read() -> Streamed | None:
            for server in self.servers:
                found = Streamed()
                try:
                    asyncio.run(_read(server.url, found.take))
                except (nats.errors.Error, TimeoutError, OSError):
                    # What has just come back may not know yet who leads.
                    continue
                return found
            return None

        return self.wait(read, "the stream can be read through")


def _ends(ledger: Path) -> dict[str, int]:
    """How far a ledger's tables go."""
    with closing(sqlite3.connect(ledger)) as connection:
        asked = {
            "ticks": "SELECT max(id) FROM ticks", "signals": "SELECT max(id) FROM signals",
            "orders": "SELECT max(id) FROM orders", "order_events": "SELECT count(*) FROM order_events",
            "fills": "SELECT max(id) FROM trades", "positions": "SELECT max(id) FROM trades",
        }  # fmt: skip
        assert set(asked) == set(fleet_books.LEDGER)
        return {table: int(connection.execute(sql).fetchone()[0] or 0) for table, sql in asked.items()}


async def _stream_info(url: str) -> Any:
    client = await nats.connect(url, **ONCE)
    try:
        return await client.jetstream().stream_info(STREAM)
    finally:
        await client.close()


async def _read(url: str, take: Callable[[bytes], None]) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    info = await stream.stream_info(STREAM)
    subscription = await stream.subscribe("hybrid.>", ordered_consumer=True)
    for _ in range(info.state.messages):
        message = await subscription.next_msg(timeout=30)
        take(message.data)
    await client.close()


def _cpu_secs(pid: int) -> float:
    """Of a process and of all that it has started."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return 0.0
    # utime, stime, and those of children that have ended (proc(5)).
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(_cpu_secs(int(child)) for child in children)
