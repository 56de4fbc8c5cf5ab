"""PostgreSQL: the schema and its versions, and one transaction for each batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib import resources
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fleet.base.settings import CollectorSettings, ConfigError, read_secret
from fleet.base.tables import TABLES
from fleet.collector.intake import Arrived, Batch, Key, Stand, batch_of
from harness.base.clock import Clock, OsClock

SCHEMA = "hybrid"
"""Of PostgreSQL: where all of it lies."""

LOCK = 0x68796272
"""Whoever holds this advisory lock is the one collector of the database."""

UNTAKEN = (
    psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex,
)  # fmt: skip
"""What PostgreSQL says of values that it does not take, such as a key that is too long for an index."""

READ_SECS = 1
"""So long a new partition waits for those who read what has none, such as a backup at midnight; so long others who come
wait behind it."""

LATER_SECS = 60.0
"""And is tried again after."""

SILENT_SECS = 15
"""A connection over which nothing came for so long is given up, by both sides."""

ALIVE = {
    "connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": SILENT_SECS // 5 - 1,
    "tcp_user_timeout": SILENT_SECS * 1000,
}  # fmt: skip
"""libpq's parameters, unless conninfo says others."""

ALIVE_THERE = {
    "tcp_keepalives_idle": 5, "tcp_keepalives_interval": 5, "tcp_keepalives_count": SILENT_SECS // 5 - 1,
    "tcp_user_timeout": SILENT_SECS * 1000,
}  # fmt: skip
"""Settings of our session in PostgreSQL."""


@dataclass(frozen=True)
class Progress:
    """How far a stream was read."""

    made: datetime
    """When the stream was."""
    sequence: int


class Store:
    """One connection, of the one collector."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._clock: Clock = OsClock()
        self._partitions: set[str] = set()
        self._divided: set[str] = set()
        """Tables that have partitions of PostgreSQL's own; an operator may have made others of them."""
        self._made_later: dict[str, float] = {}
        """Table -> when its next partition is tried, of those that somebody read for too long."""
        self.stands: dict[Key, Stand] = {}
        """How far each table of each instance has come."""

    async def close(self) -> None:
        """Close the connection; the lock goes with it."""
        await self._connection.close()

    async def lock(self) -> bool:
        """Whether we are the one collector of this database now."""
        row = await (await self._connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,))).fetchone()
        return bool(row and row[0])

    async def begin(self) -> None:
        """Migrate, and make what a session needs. Raises ConfigError, psycopg.OperationalError."""
        await migrate(self._connection)
        await self._connection.execute(f"SET search_path = {SCHEMA}")
        for name in TABLES:
            await self._connection.execute(f"CREATE TEMP TABLE staged_{name} (LIKE {name}) ON COMMIT DELETE ROWS")
        # Also those that an operator has detached: what comes again of their days lies among the others.
        found = await self._connection.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s",
            (SCHEMA,),
        )
        self._partitions = {name for (name,) in await found.fetchall()}
        found = await self._connection.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relkind = 'p'",
            (SCHEMA,),
        )
        self._divided = {name for (name,) in await found.fetchall()}
        found = await self._connection.execute("SELECT instance, tab, place, sequence, ledger_schema FROM places")
        self.stands = {
            (instance, table): Stand(place, sequence, schema)
            for instance, table, place, sequence, schema in await found.fetchall()
        }

    async def progress(self, stream: str) -> Progress | None:
        """How far a stream was read; None for one that never was."""
        found = await self._connection.execute(
            "SELECT stream_made, sequence FROM progress WHERE stream = %s", (stream,)
        )
        row = await found.fetchone()
        return None if row is None else Progress(*row)

    async def begin_stream(self, stream: str, made: datetime) -> None:
        """Read a stream from its first message on. What is stored already is known by its keys."""
        async with self._connection.transaction():
            await self._connection.execute(
                "INSERT INTO progress VALUES (%s, %s, 0, now()) ON CONFLICT (stream) DO UPDATE"
                " SET stream_made = excluded.stream_made, sequence = 0, stored_at = now()",
                (stream, made),
            )
            await self._connection.execute("UPDATE places SET sequence = 0")
        self.stands = {key: Stand(one.place, 0, one.schema) for key, one in self.stands.items()}

    async def store(self, stream: str, arrived: list[Arrived], *, breaks: bool = True) -> Batch:
        """Store messages and how far the stream is read with them, all of it or nothing. Returns what was stored.

        breaks: whether a message is stored that does not go on from the one before; if not, nothing is. A message that
        PostgreSQL does not take is refused alone. Raises psycopg.OperationalError.
        """
        batch = batch_of(arrived, self.stands)
        if batch.breaks and not breaks:
            return batch
        try:
            await self._store(stream, batch)
        except UNTAKEN as error:
            if len(arrived) > 1:
                whole = Batch()
                for one in arrived:
                    part = await self.store(stream, [one])
                    for name, rows in part.rows.items():
                        whole.rows.setdefault(name, []).extend(rows)
                    whole.breaks += part.breaks
                    whole.refused += part.refused
                return whole
            batch = Batch(refused=[(arrived[0], str(error).partition("\n")[0])], sequence=arrived[0].sequence)
            await self._store(stream, batch)
        self.stands.update(batch.stands)
        return batch

    async def _store(self, stream: str, batch: Batch) -> None:
        made: list[str] = []
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            for name, days in batch.days.items():
                if name in self._divided and self._clock.monotonic() >= self._made_later.get(name, 0.0):
                    made += await self._make_partitions(cursor, name, days)
            for name, rows in batch.rows.items():
                if rows:
                    async with cursor.copy(f"COPY staged_{name} FROM STDIN") as copy:
                        for row in rows:
                            await copy.write_row(row)
                    await cursor.execute(f"INSERT INTO {name} SELECT * FROM staged_{name} ON CONFLICT DO NOTHING")
            await cursor.executemany(
                "INSERT INTO places VALUES (%s, %s, %s, %s, %s, now()) ON CONFLICT (instance, tab) DO UPDATE"
                " SET place = excluded.place, sequence = excluded.sequence, ledger_schema = excluded.ledger_schema,"
                " stored_at = excluded.stored_at",
                [(*key, json.dumps(one.place), one.sequence, one.schema) for key, one in batch.stands.items()],
            )
            await cursor.executemany(
                "INSERT INTO breaks VALUES (%s, %s, %s, %s, %s, now())",
                [
                    (one.instance, one.table, one.sequence, json.dumps(one.expected), json.dumps(one.found))
                    for one in batch.breaks
                ],
            )
            await cursor.executemany(
                "INSERT INTO refused VALUES (%s, %s, %s, %s, now())",
                [(stream, one.sequence, one.subject, reason[:1000]) for one, reason in batch.refused],
            )
            await cursor.execute(
                "UPDATE progress SET sequence = greatest(sequence, %s), stored_at = now() WHERE stream = %s",
                (batch.sequence, stream),
            )
        self._partitions.update(made)

    async def _make_partitions(self, cursor: psycopg.AsyncCursor[Any], name: str, days: Iterable[date]) -> list[str]:
        """Returns the names of those that were not there. While somebody else reads, rows lie among the others."""
        made: list[str] = []
        for day in sorted(days):
            partition = f"{name}_{day:%Y%m%d}"
            if partition in self._partitions:
                continue
            names = {
                "table": sql.Identifier(name), "part": sql.Identifier(partition), "day": sql.Literal(str(day)),
                "next": sql.Literal(str(day + timedelta(days=1))), "other": sql.Identifier(f"{name}_other"),
            }  # fmt: skip
            # What was sent before its day had come lies among the others.
            statements = (
                f"SET LOCAL lock_timeout = '{READ_SECS}s'",
                "LOCK TABLE {other} IN ACCESS EXCLUSIVE MODE",
                "CREATE TABLE {part} (LIKE {table} INCLUDING ALL)",
                "WITH moved AS (DELETE FROM {other} WHERE day = {day} RETURNING *) INSERT INTO {part}"
                " SELECT * FROM moved",
                "ALTER TABLE {table} ATTACH PARTITION {part} FOR VALUES FROM ({day}) TO ({next})",
                "SET LOCAL lock_timeout TO DEFAULT",
            )
            try:
                async with self._connection.transaction():
                    for statement in statements:
                        await cursor.execute(sql.SQL(statement).format(**names))
            except psycopg.errors.LockNotAvailable:
                self._made_later[name] = self._clock.monotonic() + LATER_SECS
                return made
            made.append(partition)
        return made


async def connect(settings: CollectorSettings) -> Store:
    """A connection. Raises ConfigError for a password that is refused, psycopg.OperationalError for what may pass."""
    secret = None if settings.password_file is None else read_secret(settings.password_file)
    try:
        parameters: dict[str, Any] = {**ALIVE, **conninfo_to_dict(settings.conninfo)}
        conninfo = make_conninfo(**parameters)
        connection = await psycopg.AsyncConnection.connect(
            conninfo, autocommit=True, application_name="hybrid-collector", password=secret
        )
        # The server's side of the same: the lock of a collector whose host is gone would else be held for two hours.
        for name, value in ALIVE_THERE.items():
            await connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
    except psycopg.OperationalError as error:
        said = str(error)
        if "authentication failed" in said or "no password supplied" in said:
            raise ConfigError("PostgreSQL refuses user or password: see conninfo and password_file") from error
        if "certificate verify failed" in said or "root certificate file" in said:
            raise ConfigError(
                f"PostgreSQL's certificate: {said.strip().partition(chr(10))[0]}: see conninfo"
            ) from error
        raise
    except psycopg.ProgrammingError as error:
        raise ConfigError(f"conninfo: {str(error).strip()}") from error
    return Store(connection)


def migrations() -> dict[int, str]:
    """Version -> SQL, ascending."""
    files = sorted(
        (one for one in resources.files("fleet.collector").joinpath("migrations").iterdir() if one.name[:4].isdigit()),
        key=lambda one: one.name,
    )
    return {int(one.name[:4]): one.read_text("utf-8") for one in files}


async def migrate(connection: psycopg.AsyncConnection[Any]) -> None:
    """Take the schema forward, a transaction for each version. Raises ConfigError for one that this collector does not
    know, and for a user that may not."""
    known = migrations()
    try:
        async with connection.transaction():
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS {SCHEMA}.migrations (version bigint PRIMARY KEY, digest text NOT NULL,"
                " applied_at timestamptz NOT NULL)"
            )
        found = await connection.execute(f"SELECT version, digest FROM {SCHEMA}.migrations ORDER BY version")
        applied = dict(await found.fetchall())
        for version in applied:
            if version not in known:
                raise ConfigError(
                    f"PostgreSQL, schema {SCHEMA}: version {version}, of a newer collector than this one, which knows"
                    f" {max(known)}; left as it is"
                )
        for version, text in known.items():
            digest = hashlib.sha256(text.encode()).hexdigest()
            if version not in applied:
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL search_path = {SCHEMA}")
                    await connection.execute(text)
                    await connection.execute(
                        f"INSERT INTO {SCHEMA}.migrations VALUES (%s, %s, now())", (version, digest)
                    )
            elif applied[version] != digest:
                raise ConfigError(f"PostgreSQL, schema {SCHEMA}: version {version} is not the one of this collector")
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(f"PostgreSQL: {str(error).partition(chr(10))[0]}: the user must own the database") from error
