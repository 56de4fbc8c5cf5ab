"""The collector: the stream -> PostgreSQL, each row once.

PostgreSQL says how far the stream was read, in the transaction that stores the rows: what is durable is there. A
consumer is made anew from there whenever there is doubt: at a start, when a connection was lost, when PostgreSQL was
restored from a backup, when a delivery did not arrive. What comes twice is known by its key.

Each is of one server, in memory, and under a name of its own. A replicated one of the same name, deleted and made again
while a server was away, lives on there as a member of a group that is no more, and the new one waits for elections.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from datetime import UTC, datetime, timedelta

import nats
import psycopg
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError
from prometheus_client import CollectorRegistry

from fleet.base import link, wire
from fleet.base.service import Log, Meters, notify, pause
from fleet.base.settings import CollectorSettings
from fleet.collector import store
from fleet.collector.intake import Arrived, Break
from fleet.collector.store import Store
from harness.base.clock import Clock

FETCH_SECS = 1.0
"""How long a fetch waits for a message."""

FORGOTTEN_SECS = 60.0
"""A consumer that nobody has asked for so long is gone: that of a collector which was killed."""

ACK_SECS = 60.0
"""A batch that is not stored after this is delivered again."""

AGAIN_SECS = 3600.0
"""So far back, and so often at most, the stream is read again where a message does not go on from the one before it. A
stream that has lost its end, and got it again from the relays, has other messages where it was read already."""


class Metrics:
    """What a collector counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        made = Meters("collector", registry)
        self.rows = made.counter("rows", "Rows that came, those that were there already included.", ["engine", "table"])
        self.messages = made.counter("messages", "Messages that were stored.")
        self.refused = made.counter("refused", "Messages that are none of a relay's.")
        self.breaks = made.counter("breaks", "Messages before which something was lost on the way.", ["engine"])
        self.begun = made.counter("begun", "How often the stream was read on from where PostgreSQL says.")
        self.pending = made.gauge("pending_messages", "Messages of the stream that were not delivered yet.")
        self.lag = made.gauge("lag_seconds", "Age of the message that was stored last, while others wait.")
        self.caught_up = made.gauge(
            "caught_up_timestamp_seconds", "When the database last had all of the stream; at first, the start."
        )
        self.sequence = made.gauge("sequence", "Sequence number of the message that was stored last.")
        self.working = made.gauge(
            "working", "1 while stream and database can be had, and no other collector is at work."
        )
        self._registry = registry
        self.knows = True

    def know(self, knows: bool) -> None:
        """Whether it is known when the database last had all: only the collector that is at work knows. What is not
        known has no sample (O13)."""
        if knows and not self.knows:
            self._registry.register(self.caught_up)
        elif self.knows and not knows:
            self._registry.unregister(self.caught_up)
        self.knows = knows


class Collector:
    """Carries the stream into one database."""

    def __init__(self, settings: CollectorSettings, clock: Clock, log: Log, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._clock = clock
        self._log = log
        self._metrics = Metrics(registry)
        self._metrics.caught_up.set(clock.wall())
        self._again_from: datetime | None = None
        """Whence the stream is read next, instead of from where the database says."""
        self._again_at = -AGAIN_SECS

    async def run(self, stopping: asyncio.Event) -> None:
        """Until it is time to stop. Raises ConfigError, which no restart heals."""
        while not stopping.is_set():
            notify("READY=1\nWATCHDOG=1")
            try:
                database = await store.connect(self._settings)
            except psycopg.OperationalError as error:
                self._log.state("PostgreSQL", str(error).strip().partition("\n")[0])
                await pause(stopping, link.RETRY_SECS)
                continue
            try:
                await self._with(database, stopping)
            except psycopg.Error as error:
                self._log.state("PostgreSQL", str(error).strip().partition("\n")[0])
                await pause(stopping, link.RETRY_SECS)
            finally:
                self._metrics.working.set(0)
                await database.close()

    async def _with(self, database: Store, stopping: asyncio.Event) -> None:
        """Over one connection to the database."""
        # Before the lock: a host that cannot reach the stream holds up nobody who can.
        client = await link.connect(self._settings.nats, "hybrid-collector", self._log, stopping)
        if client is None:
            return
        try:
            while not await database.lock():
                self._metrics.know(False)
                self._log.state("PostgreSQL", "another collector is at work; this one waits")
                notify("WATCHDOG=1\nSTATUS=another collector is at work")
                await pause(stopping, link.RETRY_SECS)
                if stopping.is_set() or client.is_closed:
                    return
            await database.begin()
            self._log.state("PostgreSQL", "")
            if not self._metrics.knows:
                self._metrics.caught_up.set(self._clock.wall())
                self._metrics.know(True)
            stream = link.jetstream(client)
            while not stopping.is_set() and not client.is_closed:
                await self._read_on(stream, database, stopping)
        except link.TROUBLE as error:
            self._log.state("the stream", link.reason(error))
            await pause(stopping, link.RETRY_SECS)
        finally:
            await client.close()

    async def _read_on(self, stream: JetStreamContext, database: Store, stopping: asyncio.Event) -> None:
        """From where the database says, for as long as every delivery arrives."""
        name, consumer = self._settings.nats.stream, f"{self._settings.consumer}-{secrets.token_hex(4)}"
        info = await stream.stream_info(name)
        made = info.created or datetime.fromtimestamp(0, UTC)
        progress = await database.progress(name)
        if progress is None or progress.made != made or progress.sequence > info.state.last_seq:
            if progress is not None:
                self._log.say(f"stream {name} is not the one that was read until {progress.sequence}: from its start")
            await database.begin_stream(name, made)
            after = 0
        else:
            after = progress.sequence
        wanted = ConsumerConfig(
            name=consumer, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1,
            ack_policy=AckPolicy.ALL, ack_wait=ACK_SECS, max_ack_pending=4 * self._settings.batch_messages,
            filter_subject=f"{wire.PREFIX}.>", num_replicas=1, mem_storage=True, inactive_threshold=FORGOTTEN_SECS,
        )  # fmt: skip
        if after and self._again_from is not None:
            wanted.deliver_policy, wanted.opt_start_seq = DeliverPolicy.BY_START_TIME, None
            wanted.opt_start_time = self._again_from
        await stream.add_consumer(name, wanted)
        self._again_from = None
        self._metrics.begun.inc()
        self._log.state("the stream", "")
        subscription = await stream.pull_subscribe_bind(consumer=consumer, stream=name)
        try:
            await self._deliver(stream, consumer, subscription, database, stopping)
        finally:
            await subscription.unsubscribe()

    async def _deliver(
        self,
        stream: JetStreamContext,
        consumer: str,
        subscription: JetStreamContext.PullSubscription,
        database: Store,
        stopping: asyncio.Event,
    ) -> None:
        name = self._settings.nats.stream
        delivered = 0
        while not stopping.is_set():
            self._metrics.working.set(1)
            notify("WATCHDOG=1")
            try:
                messages = await self._fetch(subscription)
            except nats.errors.TimeoutError:
                self._metrics.pending.set(0)
                self._metrics.lag.set(0)
                # A consumer that somebody has deleted, and a stream that lost its end, say nothing either.
                if not await self._is_whole(stream, consumer, database):
                    return
                self._metrics.caught_up.set(self._clock.wall())
                continue
            numbers = [message.metadata.sequence.consumer for message in messages]
            if numbers != list(range(delivered + 1, delivered + 1 + len(messages))):
                # Something was delivered and did not arrive. To acknowledge what follows would acknowledge that too.
                return
            delivered += len(messages)
            now = self._clock.monotonic()
            looked_back = now - self._again_at < AGAIN_SECS
            batch = await database.store(name, [arrived(message) for message in messages], breaks=looked_back)
            if batch.breaks and not looked_back:
                self._again_at = now
                self._again_from = messages[0].metadata.timestamp - timedelta(seconds=AGAIN_SECS)
                self._log.say(f"{_lost(batch.breaks[0])}; read again from {self._again_from:%Y-%m-%d %H:%M:%S} UTC on")
                return
            await messages[-1].ack()
            last = messages[-1].metadata
            for table, rows in batch.rows.items():
                # The first column of each is the engine's name.
                for engine, count in Counter(row[0] for row in rows).items():
                    self._metrics.rows.labels(engine, table).inc(count)
            self._metrics.messages.inc(len(messages))
            self._metrics.refused.inc(len(batch.refused))
            for one, reason in batch.refused:
                self._log.say(f"message {one.sequence} on {one.subject} is refused: {reason}")
            for gap in batch.breaks:
                self._metrics.breaks.labels(gap.instance).inc()
                self._log.say(_lost(gap))
            self._metrics.sequence.set(last.sequence.stream)
            self._metrics.pending.set(last.num_pending)
            if not last.num_pending:
                self._metrics.caught_up.set(self._clock.wall())
            self._metrics.lag.set(max(0.0, self._clock.wall() - last.timestamp.timestamp()) if last.num_pending else 0)
            notify(f"STATUS=message {last.sequence.stream} of {name} is stored, {last.num_pending} wait")

    async def _fetch(self, subscription: JetStreamContext.PullSubscription) -> list[Msg]:
        """The next message as soon as there is one, and those that wait behind it. Raises nats.errors.TimeoutError."""
        # Asked for several, the server waits until it has all of them or the time is over.
        messages: list[Msg] = await subscription.fetch(1, timeout=FETCH_SECS)
        more = min(self._settings.batch_messages - 1, messages[0].metadata.num_pending)
        if more:
            with contextlib.suppress(nats.errors.TimeoutError):
                messages += await subscription.fetch(more, timeout=FETCH_SECS)
        return messages

    async def _is_whole(self, stream: JetStreamContext, consumer: str, database: Store) -> bool:
        name = self._settings.nats.stream
        try:
            about = await stream.consumer_info(name, consumer)
            info = await stream.stream_info(name)
        except NotFoundError:
            return False
        progress = await database.progress(name)
        delivered = about.delivered.stream_seq if about.delivered is not None else 0
        return progress is not None and delivered <= progress.sequence <= info.state.last_seq


def _lost(gap: Break) -> str:
    return f"before message {gap.sequence}, {gap.table} of {gap.instance}: something was lost"


def arrived(message: Msg) -> Arrived:
    """A message of the stream, as intake knows it."""
    about = message.metadata
    return Arrived(about.sequence.stream, about.timestamp, message.subject, message.data)
