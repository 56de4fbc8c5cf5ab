"""The stream that a relay makes keeps what it takes, and one that does not is refused (contract F1, F6)."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo, StreamState
from nats.js.errors import NotFoundError

from fleet.base.settings import ConfigError, Stream
from fleet.relay.relay import make_stream

GOOD = StreamConfig(
    name="HYBRID", subjects=["hybrid.>"], retention=RetentionPolicy.LIMITS, discard=DiscardPolicy.NEW,
    storage=StorageType.FILE,
)  # fmt: skip


class Server:
    """As much of JetStream as is asked."""

    def __init__(self, config: StreamConfig | None) -> None:
        self.config = config

    async def stream_info(self, _name: str) -> StreamInfo:
        if self.config is None:
            raise NotFoundError
        return StreamInfo(self.config, StreamState(0, 0, 0, 0, 0))

    async def add_stream(self, config: StreamConfig) -> None:
        self.config = config


def make(server: Server, wanted: Stream) -> None:
    asyncio.run(make_stream(cast("Any", server), "HYBRID", wanted))


@pytest.mark.claim("F1")
def test_a_stream_is_made_as_it_was_asked_for() -> None:
    server = Server(None)
    make(server, Stream(replicas=3, max_age_hours=24.0, max_bytes=1 << 30))
    made = server.config
    assert made is not None
    assert (made.max_age, made.max_bytes, made.num_replicas) == (86_400.0, 1 << 30, 3)
    assert (made.retention, made.discard, made.storage) == (GOOD.retention, GOOD.discard, GOOD.storage)
    assert made.subjects == ["hybrid.>"]
    # A place in doubt is asked for again long before that.
    assert made.duplicate_window == 120.0


@pytest.mark.claim("F6")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, None),
        ({"subjects": ["other", "hybrid.>"]}, None),
        ({"retention": RetentionPolicy.WORK_QUEUE}, "its retention is"),
        ({"retention": RetentionPolicy.INTEREST}, "its retention is"),
        ({"discard": DiscardPolicy.OLD}, "its discard is"),
        ({"storage": StorageType.MEMORY}, "its storage is"),
        ({"max_msgs_per_subject": 1000}, "its max_msgs_per_subject is 1000, and must be -1"),
        ({"max_msgs_per_subject": -1, "max_msg_size": -1}, None),
        ({"max_msg_size": 4096}, "its max_msg_size is 4096, and must be -1, or 532480"),
        ({"max_msg_size": 1 << 20}, None),
        ({"subjects": ["hybrid.one.>"]}, "must take hybrid.>"),
        ({"subjects": None}, "must take hybrid.>"),
    ],
)
def test_a_stream_that_would_lose_rows_is_refused(change: dict[str, Any], named: str | None) -> None:
    server = Server(GOOD.evolve(**change))
    if named is None:
        make(server, Stream(1, 24.0, 1 << 28))
    else:
        with pytest.raises(ConfigError, match=named):
            make(server, Stream(1, 24.0, 1 << 28))
