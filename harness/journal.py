"""Journal fields -> typed entries. An entry knows its unit, its invocation and, where the service logs JSON
in the shape of contract M1, the event's own fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One journal entry."""

    message: str
    """The text as it was logged."""
    unit: str
    """The unit it is about: the sender's own, or the one that systemd speaks of."""
    invocation_id: str
    """Of the service run it belongs to; empty when the entry names none."""
    identifier: str
    """SYSLOG_IDENTIFIER, such as `systemd` or `hybrid-engine`."""
    pid: int
    realtime_us: int
    """Microseconds since the Unix epoch, when journald received it."""
    sent_us: int
    """The same, when it was sent, of what systemd says itself; of a service's output, when it was received."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The `fields` of an M1 log line, `message` included; empty for other entries."""
    level: str = ""
    """The `level` of an M1 log line."""
    target: str = ""
    """The `target` of an M1 log line."""

    @property
    def event(self) -> str:
        """The M1 event's own message, or the raw text."""
        return str(self.fields.get("message", self.message))


def parse(raw: Mapping[str, str], realtime_us: int) -> Entry | None:
    """One journal entry from its fields (systemd.journal-fields(7)), or None when it has no message.

    realtime_us: when journald received it, microseconds since the Unix epoch.
    """
    if "MESSAGE" not in raw:
        return None
    message = raw["MESSAGE"]
    log = _m1(message)
    fields = log.get("fields", {})
    return Entry(
        message=message,
        unit=_first(raw, "UNIT", "USER_UNIT", "_SYSTEMD_USER_UNIT", "_SYSTEMD_UNIT"),
        invocation_id=_first(raw, "INVOCATION_ID", "USER_INVOCATION_ID", "_SYSTEMD_INVOCATION_ID"),
        identifier=raw.get("SYSLOG_IDENTIFIER", ""),
        pid=int(raw.get("_PID", 0)),
        realtime_us=realtime_us,
        sent_us=int(raw.get("_SOURCE_REALTIME_TIMESTAMP", realtime_us)),
        fields=fields if isinstance(fields, dict) else {},
        level=str(log.get("level", "")),
        target=str(log.get("target", "")),
    )


def _first(raw: Mapping[str, str], *names: str) -> str:
    return next((raw[name] for name in names if raw.get(name)), "")


def _m1(message: str) -> dict[str, Any]:
    if not message.startswith("{"):
        return {}
    try:
        log = json.loads(message)
    except ValueError:
        return {}
    return log if isinstance(log, dict) else {}
