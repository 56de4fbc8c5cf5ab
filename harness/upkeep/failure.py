"""A unit that failed -> what is told of it, and how (contract O11)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.base import jsontext
from harness.base.escape import shown
from harness.base.journal import Entry, how_it_ended

LINES, LINE_CHARS_MAX = 20, 300
"""Of the journal, in a notice."""

TIMEOUT_SECS_MAX = 60

SUBJECT = "{subject}"
"""In a command's argument: the notice's subject."""


@dataclass(frozen=True)
class Wanted:
    """How to give notice."""

    webhook: bool = False
    """Whether to send it to the URL in the credential."""
    command: tuple[str, ...] = ()
    """Gets the text on stdin; empty for none."""
    timeout_secs: float = 10.0


def wanted_of(tables: Mapping[str, Any]) -> Wanted:
    """Return the settings in a parsed notice.toml. ValueError names key, value and what is allowed."""
    allowed = {"webhook": "true or false", "command": "a list of words", "timeout_secs": "a number of seconds"}
    for key in tables:
        if key not in allowed:
            raise ValueError(f"{key}: unknown key, allowed are {', '.join(allowed)}")
    webhook, command = tables.get("webhook", False), tables.get("command", [])
    if not isinstance(webhook, bool):
        raise ValueError(f"webhook = {webhook!r}: must be true or false")
    if not isinstance(command, list) or not all(isinstance(word, str) and word for word in command):
        raise ValueError(f"command = {command!r:.80}: must be a list of words that are not empty")
    secs = jsontext.number(tables.get("timeout_secs", Wanted.timeout_secs))
    if secs is None or not 0 < secs <= TIMEOUT_SECS_MAX:
        raise ValueError(f"timeout_secs = {tables['timeout_secs']!r}: must be above 0 and at most {TIMEOUT_SECS_MAX}")
    if not webhook and not command:
        raise ValueError("neither webhook = true nor a command: there is nobody to tell")
    return Wanted(webhook, tuple(command), float(secs))


@dataclass(frozen=True)
class Failure:
    """How a unit ended, as systemd tells whoever OnFailure= starts (systemd.exec(5), $MONITOR_*)."""

    unit: str
    host: str
    result: str = ""
    """Of systemd: exit-code, watchdog, oom-kill...; empty when nobody failed, as when it is tried by hand."""
    code: str = ""
    """exited, killed or dumped."""
    status: str = ""
    """The exit status, or the signal's name."""
    invocation_id: str = ""


def failure_of(unit: str, host: str, environ: Mapping[str, str]) -> Failure:
    """Return what the environment tells of a unit's failure; only that of a run is believed to have an id."""
    result, code, status = (
        shown(environ.get(f"MONITOR_{name}", "")) for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS")
    )
    invocation = environ.get("MONITOR_INVOCATION_ID", "")
    return Failure(unit, host, result, code, status, invocation if re.fullmatch("[0-9a-f]{32}", invocation) else "")


@dataclass(frozen=True)
class FailureNotice:
    """What is told."""

    subject: str
    text: str
    payload: Mapping[str, Any]
    """For a webhook; `text` is what chat services show."""


def notice(failure: Failure, entries: Sequence[Entry]) -> FailureNotice:
    """Return what to tell of a failure. entries: of the run that failed, and of systemd about it, the oldest first."""
    if failure.result:
        ended = f"{failure.code} {failure.status}".strip() or failure.result
        subject = f"{failure.unit} failed on {failure.host}: {ended}"
    else:
        subject = f"{failure.unit} on {failure.host}: a notice on trial, nothing failed"
    # It becomes a header of a letter, say: one line, of which all is seen.
    subject = " ".join(shown(subject).split())
    how = how_it_ended(entries)
    reason = next((entry.event for entry in reversed(entries) if entry.level == "ERROR"), "")
    said = (shown(" ".join(f"{entry.identifier}: {entry.event}".split())) for entry in entries[-LINES:])
    lines = [line[:LINE_CHARS_MAX] for line in said]
    told = [subject, *([how] if how else []), *([reason] if reason and reason not in how else [])]
    of_run = f" _SYSTEMD_INVOCATION_ID={failure.invocation_id}" if failure.invocation_id else ""
    look = f"journalctl --unit {failure.unit}{of_run}"
    text = "\n".join([*map(shown, told), "", *lines, "", f"Look further: {look}"])
    payload = {
        "text": text, "subject": subject, "unit": failure.unit, "host": failure.host, "result": failure.result,
        "exit_code": failure.code, "exit_status": failure.status, "invocation_id": failure.invocation_id,
        "reason": shown(reason), "lines": lines,
    }  # fmt: skip
    return FailureNotice(subject, text, payload)


def words_of(command: Sequence[str], subject: str) -> list[str]:
    """Return a command with the subject in its place."""
    return [word.replace(SUBJECT, subject) for word in command]
