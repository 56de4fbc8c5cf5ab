"""Journal JSON -> typed log lines. A line knows its unit, its invocation and, where the service logs JSON
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
    job_result: str = ""
    """done, failed... when systemd reports a finished job."""
    code_exited: str = ""
    """EXIT_STATUS of a main process that systemd reports as ended."""
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


def parse(line: str) -> Entry | None:
    """One line of `journalctl -o json`, or None when it is not an entry with a message."""
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    if not isinstance(raw, dict) or "MESSAGE" not in raw:
        return None
    message = _text(raw["MESSAGE"])
    log = _m1(message)
    fields = log.get("fields", {})
    return Entry(
        message=message,
        unit=_text(
            raw.get("UNIT") or raw.get("USER_UNIT") or raw.get("_SYSTEMD_USER_UNIT") or raw.get("_SYSTEMD_UNIT") or ""
        ),
        invocation_id=_text(
            raw.get("INVOCATION_ID") or raw.get("USER_INVOCATION_ID") or raw.get("_SYSTEMD_INVOCATION_ID") or ""
        ),
        identifier=_text(raw.get("SYSLOG_IDENTIFIER", "")),
        pid=int(raw.get("_PID", 0)),
        realtime_us=int(raw.get("__REALTIME_TIMESTAMP", 0)),
        job_result=_text(raw.get("JOB_RESULT", "")),
        code_exited=_text(raw.get("EXIT_STATUS", "")),
        fields=fields if isinstance(fields, dict) else {},
        level=str(log.get("level", "")),
        target=str(log.get("target", "")),
    )


def _m1(message: str) -> dict[str, Any]:
    if not message.startswith("{"):
        return {}
    try:
        log = json.loads(message)
    except ValueError:
        return {}
    return log if isinstance(log, dict) else {}


def _text(value: object) -> str:
    # journald gives bytes that are not UTF-8 as a list of numbers, and a repeated field as a list of strings.
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return bytes(value).decode("utf-8", "replace")
        return str(value[-1]) if value else ""
    return "" if value is None else str(value)
