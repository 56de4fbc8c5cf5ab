"""What journalctl prints as JSON -> fields -> typed entries. An entry knows its unit, its invocation and, where the
service logs JSON in the shape of contract M1, the event's own fields.

Whatever bytes a service logs come through here, and none of them raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
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
    timestamp: str = ""
    """The `timestamp` of an M1 log line: when the service says that it was."""
    level: str = ""
    """The `level` of an M1 log line."""
    target: str = ""
    """The `target` of an M1 log line."""
    priority: int = 6
    """As `journalctl -p` filters: 3 is an error, 4 a warning, 6 information."""

    @property
    def event(self) -> str:
        """The M1 event's own message, or the raw text."""
        return str(self.fields.get("message", self.message))


_EXITED = re.compile(r"Main process exited, code=(\w+), status=(\S+)")
_FAILED = re.compile(r"Failed with result '([\w-]+)'")
_CLEAN = re.compile(r": Deactivated successfully")
_CONTROL = re.compile(r"Control process exited, code=(\w+), status=(\S+)")
_STEP = re.compile(r"Failed at step \w+ spawning .*")


def tells_an_end(entry: Entry) -> bool:
    """Return whether a unit's process has ended by it. Of an exit status other than 0, the entry with the status comes
    first."""
    return any(kind.search(entry.message) for kind in (_EXITED, _FAILED, _CLEAN))


def how_it_ended(entries: Sequence[Entry]) -> str:
    """Return how a unit's main process last ended, and what it said of that; empty when no entry tells of an end.

    entries: what was logged by and about one unit, in order. A clean end for which systemd was asked is none.
    """
    ends = [at for at, entry in enumerate(entries) if tells_an_end(entry)]
    if not ends:
        return ""
    began = max((at for at in range(ends[-1]) if entries[at].message.startswith("Starting ")), default=None)
    since = entries[began or 0 : ends[-1] + 1]
    clean = _CLEAN.search(since[-1].message) is not None
    if clean and any(entry.message.startswith("Stopping ") for entry in since):
        return ""
    # Of a service that need not say that it is ready, systemd tells only when it has started it.
    timed = (
        since[0] if began is not None else next((e for e in reversed(since) if e.message.startswith("Started ")), None)
    )
    told = "" if timed is None else f" after {(since[-1].sent_us - timed.sent_us) / 1e6:.1f} s"
    if any("tart operation timed out" in entry.message for entry in since):
        return f"no READY=1 (M4){told}"
    exited, control, step = (_last(pattern, since) for pattern in (_EXITED, _CONTROL, _STEP))
    if step is not None:
        status = exited or control
        return f"exit {status[2] if status else 'unknown'}: {step[0]}"
    if exited is None and not clean:
        if control is not None:
            return f"{_how(control)} of a command beside the main process (such as ExecStartPre=){told}"
        failed = _FAILED.search(since[-1].message)
        if failed and failed[1] == "protocol":
            return f"a clean end before READY=1 (M4){told}"
        return f"result {failed[1] if failed else 'unknown'}{told}"
    word = "a clean end" if exited is None else _how(exited)
    errors = [entry for entry in since if entry.level == "ERROR"]
    if not errors:
        return f"{word}{told}"
    named = [str(value) for name in ("reason", "channel") if (value := errors[-1].fields.get(name))]
    return f"{word}{told}: {' '.join(named) or errors[-1].event}"


def exit_status(entry: Entry) -> int | None:
    """Return the status of which systemd tells in this entry that a main process exited with it; else None."""
    found = _EXITED.search(entry.message) if entry.identifier == "systemd" else None
    return int(found[2].partition("/")[0]) if found and found[1] == "exited" else None


def _last(pattern: re.Pattern[str], entries: Sequence[Entry]) -> re.Match[str] | None:
    return next((found for entry in reversed(entries) if (found := pattern.search(entry.message))), None)


def _how(exited: re.Match[str]) -> str:
    number, _, name = exited[2].partition("/")
    return f"exit {number}" if exited[1] == "exited" else f"{exited[1]} by {name}"


def entries(output: str) -> list[dict[str, str]]:
    """Return the entries that `journalctl --output=json` printed, as fields; what is not an entry is left out.

    A line ends at a line feed and nowhere else: a message may hold what Unicode takes for the end of a line, such as
    U+2028. A field that journalctl found too long to print is missing.
    """
    found = []
    for line in output.split("\n"):
        raw = _object(line)
        if raw:
            found.append({name: text for name, value in raw.items() if (text := _text(value)) is not None})
    return found


def _text(value: object) -> str | None:
    """Return a field's value: text, or its bytes where they are not UTF-8, or a list of these when it stands several
    times."""
    match value:
        case str():
            return value
        case [int(), *_]:
            numbers = [byte for byte in value if isinstance(byte, int) and 0 <= byte <= 255]
            return bytes(numbers).decode("utf-8", "replace") if len(numbers) == len(value) else None
        case [str() | list() as first, *_]:
            return _text(first)
    return None


def parse(raw: Mapping[str, str], realtime_us: int) -> Entry | None:
    """Return one journal entry from its fields (systemd.journal-fields(7)), or None when it has no message.

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
        timestamp=str(log.get("timestamp", "")),
        level=str(log.get("level", "")),
        target=str(log.get("target", "")),
        priority=int(raw["PRIORITY"]) if raw.get("PRIORITY", "").isdecimal() else 6,
    )


def _first(raw: Mapping[str, str], *names: str) -> str:
    return next((raw[name] for name in names if raw.get(name)), "")


def _m1(message: str) -> dict[str, Any]:
    return _object(message) if message.startswith("{") else {}


def _object(text: str) -> dict[str, Any]:
    """Return a JSON object; empty for whatever is not one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
