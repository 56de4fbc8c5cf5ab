"""The relay: what is new in one ledger -> the stream, each row exactly once.

It keeps nothing on its host. How far it has come is what the stream's last message of a subject says, and each message
bears the sequence number of the one that it follows (`Nats-Expected-Last-Subject-Sequence`): what was in doubt when a
connection or a process ended, or what a second relay has published, makes the server refuse the next message, and the
stream is asked again. So it does not matter how long ago that was; `Nats-Msg-Id` is for whoever reads.

The engine never waits for it: it reads in short transactions, and what cannot be published stays in the ledger.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from nats.aio.client import Client
from nats.js.api import DiscardPolicy, Header, RawStreamMsg, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from prometheus_client import CollectorRegistry

from fleet.base import link, wire
from fleet.base.service import Log, Meters, notify, pause
from fleet.base.settings import ConfigError, RelaySettings, Stream
from fleet.base.tables import Table
from fleet.base.wire import Message, Place
from fleet.relay.tails import Known, LedgerChanged, Read, Tail, check_schema, ledger_tails
from harness.base.clock import Clock
from harness.base.errors import HarnessError
from harness.observing import ledger_view

WRONG_LAST_SEQUENCE = 10071
NAME_IN_USE = 10058
NO_PEERS = 10005
STREAM_IS_FULL = (10077, 10122)
"""What JetStream's API says: another message came before, there is such a stream, too few servers can have its
replicas, the stream's limits are reached."""

HEADER_BYTES = 8192

MESSAGE_BYTES = 512 * 1024
"""No message is longer, by far; a server takes 1 MiB where nobody said otherwise."""

DUPLICATE_WINDOW_SECS = 120.0

TRUSTED_FROM = (2, 10)
"""The first version of nats-server whose replicated streams were not seen to lose what they had acknowledged. 2.9 let a
server lead that had not caught up (`make fleet-sim`; nats-io/nats-server's pull request 5939 is such a case)."""

LOOK_SECS = 20.0
"""A look at the ledger is given up after this. It takes milliseconds, but for the first over what a replay has left, or
after a migration that gave orders other ids."""

FILES_SECS = 2.0
"""Between two looks at what is beside the ledger."""


class FileTail(Protocol):
    """Reads what is beside the ledger."""

    table: Table

    def read(self, known: Known | None, limit: int) -> Read:
        """As Tail.read; raises HarnessError when nothing can be learned."""
        ...


@dataclass
class Slot:
    """One table, and where the stream is with it."""

    table: Table
    known: Known | None = None
    sequence: int = 0
    """Of the last message of the subject; 0: there is none."""
    at: float = 0.0
    """When that came, in seconds since the Unix epoch."""
    stale: bool = True
    """Whether the stream has to be asked."""
    behind: bool = True
    """Whether the ledger had rows at the last look that the stream has not taken."""


@dataclass(frozen=True)
class Found:
    """What was read of all tables at one look."""

    schema: int
    reads: dict[str, Read] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    """Tables of the ledger that could not be read."""


class Metrics:
    """What a relay counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        made = Meters("relay", registry)
        self.rows = made.counter("rows", "Rows that the stream has taken.", ["table"])
        self.messages = made.counter("messages", "Messages that the stream has taken.", ["table"])
        self.odd = made.counter("odd_rows", "Rows with values that the engine never writes.", ["table"])
        self.asked = made.counter("asked", "How often the stream was asked how far it has come.", ["table"])
        self.forgotten = made.counter(
            "forgotten",
            "How often the stream had lost what it had taken; that is published again.",
            ["table"],
        )
        self.backlog = made.gauge("backlog_rows", "Rows, about, that the stream has not taken yet.", ["table"])
        self.lag = made.gauge("lag_seconds", "Age of the oldest row that the stream has not taken yet.", ["table"])
        self.caught_up = made.gauge(
            "caught_up_timestamp_seconds", "When the stream last had all rows of the ledger; at first, the start."
        )
        self.connected = made.gauge("connected", "1 while there is a connection to NATS.")
        self.readable = made.gauge("ledger_readable", "1 while the ledger can be read.")
        self.full = made.gauge("stream_full", "1 while the stream refuses messages because its limits are reached.")

    def forget_waiting(self, *tables: str) -> None:
        """What waits is not known meanwhile: of these tables, or of any."""
        for gauge in (self.backlog, self.lag):
            if not tables:
                gauge.clear()
            for table in tables:
                gauge.remove(table)


class Relay:
    """Carries one ledger into the stream."""

    def __init__(
        self, settings: RelaySettings, files: Sequence[FileTail], clock: Clock, log: Log, registry: CollectorRegistry
    ) -> None:
        self._settings = settings
        self._tails: list[Tail] = ledger_tails(settings.tick_every)
        self._files = files
        self._clock = clock
        self._log = log
        self._metrics = Metrics(registry)
        self._metrics.caught_up.set(clock.wall())
        tables = [tail.table for tail in self._tails] + [tail.table for tail in files]
        self._slots = {table.name: Slot(table) for table in tables}
        self._files_at = 0.0
        self._max_bytes = MESSAGE_BYTES
        self._max_age = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Until it is time to stop. Raises ConfigError and LedgerChanged, which no restart heals."""
        notify("READY=1")
        while not stopping.is_set():
            client = await link.connect(
                self._settings.nats, f"hybrid-relay {self._settings.instance}", self._log, stopping
            )
            if client is None:
                return
            self._metrics.connected.set(1)
            try:
                await self._carry(client, stopping)
            except link.TROUBLE as error:
                self._log.state("the stream", link.reason(error))
                await pause(stopping, link.RETRY_SECS)
            finally:
                self._metrics.connected.set(0)
                self._metrics.forget_waiting()
                await client.close()

    async def _carry(self, client: Client, stopping: asyncio.Event) -> None:
        """Over one connection, until that is lost."""
        stream = link.jetstream(client)
        info = await make_stream(stream, self._settings.nats.stream, self._settings.stream)
        server = client.connected_server_version
        self._log.state("nats-server", why_not_trusted(server.major, server.minor, info.config.num_replicas or 1))
        self._max_age = info.config.max_age or 0.0
        self._max_bytes = min(MESSAGE_BYTES, client.max_payload - HEADER_BYTES)
        for slot in self._slots.values():
            slot.stale = True
        while not stopping.is_set() and not client.is_closed:
            more = await self.round(stream)
            notify(f"WATCHDOG=1\nSTATUS={self.status()}")
            if not more:
                await pause(stopping, self._settings.poll_secs)

    async def round(self, stream: JetStreamContext) -> bool:
        """One look at everything, and at most one message a table. Returns whether there is more to be had at once."""
        for slot in self._slots.values():
            if slot.stale:
                await self._ask(stream, slot)
        # Of what comes while the ledger is read, this round knows nothing.
        looked_at = self._clock.wall()
        found = await asyncio.to_thread(self._look)
        if found is None:
            return False
        # All are waited for, whatever becomes of one: what is left behind would speak of a connection that is gone.
        more = await asyncio.gather(
            *(self._publish(stream, self._slots[name], read, found.schema) for name, read in found.reads.items()),
            return_exceptions=True,
        )
        for one in more:
            if isinstance(one, BaseException):
                raise one
        if not found.unread and not any(slot.behind for slot in self._slots.values()):
            self._metrics.caught_up.set(looked_at)
        return any(more)

    def status(self) -> str:
        """One line for systemctl status."""
        places = (f"{name} {slot.sequence}" for name, slot in self._slots.items() if slot.sequence)
        return f"{self._settings.instance}: {', '.join(places) or 'nothing published yet'}"

    # --- reading -------------------------------------------------------------------------------------------

    def _look(self) -> Found | None:
        """What is new; None while nothing can be learned."""
        path = self._settings.database
        limit = self._settings.batch_rows

        def ask(connection: sqlite3.Connection) -> Found:
            (schema,) = connection.execute("PRAGMA user_version").fetchone()
            if wrong := check_schema(schema):
                raise HarnessError(f"{path}: {wrong}")
            found = Found(schema)
            for tail in self._tails:
                # One snapshot for a table: what is verified is what is read on from.
                connection.execute("BEGIN")
                name = tail.table.name
                try:
                    found.reads[name] = self._safely(partial(self._of_ledger, tail, connection, schema), tail.table)
                except LedgerChanged:
                    raise
                except (HarnessError, sqlite3.DataError) as error:
                    # What one table holds keeps no other from the stream.
                    found.unread.append(name)
                    self._log.state(f"the ledger's {name}", str(error))
                    self._metrics.forget_waiting(name)
                else:
                    self._log.state(f"the ledger's {name}", "")
                connection.execute("COMMIT")
            return found

        try:
            found = ledger_view.query(path, ask, LOOK_SECS)
        except LedgerChanged:
            raise
        except HarnessError as error:
            self._metrics.readable.set(0)
            self._metrics.forget_waiting()
            self._log.state("the ledger", str(error))
            return None
        self._metrics.readable.set(int(not found.unread))
        self._log.state("the ledger", "")
        now = self._clock.monotonic()
        if now >= self._files_at:
            self._files_at = now + FILES_SECS
            for tail in self._files:
                try:
                    found.reads[tail.table.name] = self._safely(partial(tail.read, limit=limit), tail.table)
                except LedgerChanged:
                    raise
                except HarnessError as error:
                    self._log.state(tail.table.name, str(error))
                else:
                    self._log.state(tail.table.name, "")
        return found

    def _of_ledger(self, tail: Tail, connection: sqlite3.Connection, schema: int, known: Known | None) -> Read:
        return tail.read(connection, schema, known, self._settings.batch_rows)

    def _safely(self, read: Callable[[Known | None], Read], table: Table) -> Read:
        known = self._slots[table.name].known
        try:
            return read(known)
        except (ValueError, KeyError, TypeError) as error:
            if known is not None and not isinstance(error, ValueError):
                raise LedgerChanged(f"{table.name}: the stream's last message is none of ours: {error!r}") from error
            raise HarnessError(f"{table.name}: {error}") from error
        except LedgerChanged as error:
            subject = wire.subject(self._settings.instance, table.name)
            what = f"{self._settings.database} is not the ledger of which {subject} holds rows: {error}"
            if any(tail.table is table for tail in self._files):
                what = f"{error}; it is not the file of which {subject} holds rows"
            raise LedgerChanged(
                f"{what}. Restored, begun anew or another's: give the engine an instance name of its own, or bring back"
                " what there was; nothing was published over"
            ) from error

    # --- publishing ----------------------------------------------------------------------------------------

    async def _ask(self, stream: JetStreamContext, slot: Slot) -> None:
        """How far the stream has come with a table."""
        subject = wire.subject(self._settings.instance, slot.table.name)
        self._metrics.asked.labels(slot.table.name).inc()
        try:
            last: RawStreamMsg = await stream.get_last_msg(self._settings.nats.stream, subject)
        except NotFoundError:
            if slot.known is not None:
                self._log.say(f"the stream holds nothing of {subject} any more: all of it is published again")
                self._metrics.forgotten.labels(slot.table.name).inc()
            slot.known, slot.sequence, slot.stale = None, 0, False
            return
        try:
            message = wire.decode(last.data or b"", subject)
        except ValueError as error:
            raise LedgerChanged(f"{subject}: the stream's last message is none of a relay's: {error}") from error
        sequence = last.seq or 0
        if sequence < slot.sequence:
            # A server that had not caught up has become the leader.
            self._log.say(
                f"the stream has lost what it had taken of {subject}: its last message is {sequence}, and was"
                f" {slot.sequence}; what came after it is published again"
            )
            self._metrics.forgotten.labels(slot.table.name).inc()
        slot.known = Known(message.end, message.last, message.schema)
        slot.sequence = sequence
        slot.at = last.time.timestamp() if last.time is not None else self._clock.wall()
        slot.stale = False

    async def _publish(self, stream: JetStreamContext, slot: Slot, read: Read, schema: int) -> bool:
        """One message of what was read. Returns whether there is more."""
        name = slot.table.name
        slot.behind = bool(read.rows)
        if not read.rows:
            self._metrics.backlog.labels(name).set(0)
            self._metrics.lag.labels(name).set(0)
            if slot.known is not None and self._max_age and self._clock.wall() - slot.at > self._max_age / 2:
                await self._send(stream, slot, self._message(slot, (), slot.known.place, slot.known.schema))
            return False
        oldest = read.rows[0][slot.table.names.index("ts")]
        self._metrics.lag.labels(name).set(max(0.0, self._clock.wall() - float(oldest or 0) / 1000))
        self._metrics.backlog.labels(name).set(read.behind)
        count = len(read.rows)
        data = self._encoded(slot, read, count, schema)
        while len(data) > self._max_bytes and count > 1:
            count = max(1, count * self._max_bytes // (2 * len(data)))
            data = self._encoded(slot, read, count, schema)
        message = self._message(slot, read.rows[:count], read.place(count), schema)
        if not await self._send(stream, slot, message, data):
            return slot.stale
        self._metrics.rows.labels(name).inc(count)
        if read.odd:
            self._metrics.odd.labels(name).inc(read.odd)
        slot.behind = count < len(read.rows) or len(read.rows) >= self._settings.batch_rows
        return slot.behind

    def _message(self, slot: Slot, rows: Sequence[Any], place: Place, schema: int) -> Message:
        known = slot.known
        last = rows[-1] if rows else known.last if known is not None else None
        start = known.place if known is not None else None
        return Message(self._settings.instance, slot.table, schema, start, place, rows, last)

    def _encoded(self, slot: Slot, read: Read, count: int, schema: int) -> bytes:
        return wire.encode(self._message(slot, read.rows[:count], read.place(count), schema))

    async def _send(self, stream: JetStreamContext, slot: Slot, message: Message, data: bytes | None = None) -> bool:
        """Whether the stream has taken a message. When there is no telling, the slot is stale."""
        subject = wire.subject(message.instance, message.table.name)
        headers: dict[str, Any] = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(slot.sequence)}
        if message.rows:
            headers[Header.MSG_ID.value] = wire.message_id(message.instance, message.table.name, message.rows[-1])
        try:
            taken = await stream.publish(
                subject, wire.encode(message) if data is None else data, stream=self._settings.nats.stream,
                headers=headers,
            )  # fmt: skip
        except APIError as error:
            full = error.err_code in STREAM_IS_FULL
            self._metrics.full.set(full)
            if full:
                self._log.state("the stream", "is full; what comes waits in the ledger")
            elif error.err_code == WRONG_LAST_SEQUENCE:
                slot.stale = True
            else:
                slot.stale = True
                raise
            return False
        except link.TROUBLE:
            slot.stale = True
            raise
        self._metrics.full.set(0)
        self._log.state("the stream", "")
        if taken.duplicate:
            # It was there already, and whether anything after it is, the stream has to say.
            slot.stale = True
            return False
        slot.known = Known(message.end, message.last, message.schema)
        slot.sequence, slot.at = taken.seq, self._clock.wall()
        self._metrics.messages.labels(message.table.name).inc()
        return True


def why_not_trusted(major: int | None, minor: int | None, replicas: int) -> str:
    """What may become of messages that such a server has acknowledged; empty where nothing is known against it."""
    if major is None or minor is None or replicas == 1 or (major, minor) >= TRUSTED_FROM:
        return ""
    return (
        f"version {major}.{minor} may lose what it has acknowledged when one of {replicas} servers was away; that is"
        f" published again. Take {TRUSTED_FROM[0]}.{TRUSTED_FROM[1]} or later"
    )


async def make_stream(stream: JetStreamContext, name: str, wanted: Stream) -> StreamInfo:
    """The stream, made where there is none. Raises ConfigError for one that would lose what it has taken."""
    try:
        info = await stream.stream_info(name)
    except NotFoundError:
        try:
            await stream.add_stream(
                StreamConfig(
                    name=name, subjects=[f"{wire.PREFIX}.>"], retention=RetentionPolicy.LIMITS,
                    storage=StorageType.FILE, discard=DiscardPolicy.NEW, max_age=wanted.max_age_hours * 3600,
                    max_bytes=wanted.max_bytes, num_replicas=wanted.replicas, duplicate_window=DUPLICATE_WINDOW_SECS,
                )
            )  # fmt: skip
        except APIError as error:
            # Another relay may have made it at the same moment. A cluster without a leader says 503, and one of which
            # not all servers are up yet, that it lacks peers.
            if error.err_code != NAME_IN_USE:
                said = error.description or ""
                lacks_server = error.err_code == NO_PEERS and ("offline" in said or "storage" not in said)
                if error.code == 503 or lacks_server:
                    raise
                raise ConfigError(f"stream {name} cannot be made: {error.description}: see [stream]") from error
        info = await stream.stream_info(name)
    config = info.config
    for key, value, due in (
        ("retention", config.retention, RetentionPolicy.LIMITS), ("discard", config.discard, DiscardPolicy.NEW),
        ("storage", config.storage, StorageType.FILE),
    ):  # fmt: skip
        if value != due:
            raise ConfigError(f"stream {name}: its {key} is {value}, and must be {due.value}: it would lose rows")
    if (most := config.max_msgs_per_subject or -1) > 0:
        raise ConfigError(f"stream {name}: its max_msgs_per_subject is {most}, and must be -1: it would lose rows")
    # Headers count.
    if 0 < (largest := config.max_msg_size or -1) < MESSAGE_BYTES + HEADER_BYTES:
        raise ConfigError(
            f"stream {name}: its max_msg_size is {largest}, and must be -1, or {MESSAGE_BYTES + HEADER_BYTES} at least"
        )
    if f"{wire.PREFIX}.>" not in (config.subjects or []):
        raise ConfigError(f"stream {name}: it takes {config.subjects}, and must take {wire.PREFIX}.>")
    return info
