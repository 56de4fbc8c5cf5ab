"""The connection to NATS: kept up for as long as we live, with a password that nobody sees."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import nats
from nats.aio.client import Client
from nats.js.client import JetStreamContext

from fleet.base.service import Log, notify, pause
from fleet.base.settings import ConfigError, Nats, read_secret

TROUBLE = (nats.errors.Error, TimeoutError, OSError)
"""What a request raises when there is no telling what came of it, among others."""

ANSWER_SECS = 5.0
"""How long an answer is waited for."""

RETRY_SECS = 0.5
"""Between two attempts to connect."""

PING_SECS = 5
"""After twice this without an answer a connection is given up."""


async def connect(settings: Nats, program: str, log: Log, stopping: asyncio.Event) -> Client | None:
    """A connection, however long that takes; None when it was time to stop first. One that is lost is closed, and does
    not come back by itself: what was on its way is in doubt then, and whoever connects anew asks the stream.

    Raises ConfigError for what only an operator can change: certificates, user, password.
    """
    subject = f"NATS at {', '.join(settings.servers)}"
    options: dict[str, Any] = {}
    if settings.user:
        options["user"] = settings.user
    if settings.password_file is not None:
        options["password"] = read_secret(settings.password_file)
    if settings.ca is not None or any(url.startswith("tls:") for url in settings.servers):
        try:
            options["tls"] = ssl.create_default_context(cafile=settings.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"nats.ca = {str(settings.ca)!r}: {error}") from error
    last = ""

    async def on_error(error: Exception) -> None:
        nonlocal last
        last = reason(error)
        if "permissions violation" in last.lower():
            # What was asked for gets no answer, and nobody else would say why.
            log.state("NATS", last)

    while not stopping.is_set():
        client = Client()
        try:
            # Each server is tried twice, and then it is our turn again.
            await client.connect(
                list(settings.servers), name=program, allow_reconnect=False, max_reconnect_attempts=1,
                reconnect_time_wait=0, connect_timeout=int(ANSWER_SECS), ping_interval=PING_SECS,
                max_outstanding_pings=2, error_cb=on_error, **options,
            )  # fmt: skip
        except TROUBLE as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                raise ConfigError(f"{subject}: {error.verify_message}: see nats.ca") from error
            if "authorization" in str(error).lower():
                raise ConfigError(f"{subject}: user {settings.user!r} is refused: see nats.password_file") from error
            log.state(subject, last or reason(error))
            notify("WATCHDOG=1")
            await pause(stopping, RETRY_SECS)
        else:
            log.state(subject, "")
            return client
    return None


def jetstream(client: Client) -> JetStreamContext:
    """JetStream over a connection, with our deadline."""
    return client.jetstream(timeout=ANSWER_SECS)


def reason(error: Exception) -> str:
    """What an exception says, or what it is."""
    return str(error) or type(error).__name__
