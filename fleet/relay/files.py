"""What is new beside the ledger: the soak controller's decisions, and the heartbeats that the engine has logged."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fleet.base.tables import DECISIONS, HEARTBEATS, Row
from fleet.relay.tails import NOTHING, Known, LedgerChanged, Read
from harness.base import jsontext
from harness.base.clock import Clock
from harness.base.errors import HarnessError
from harness.evidence.shell import Shell
from harness.observing.observe import HEARTBEAT

READ_BYTES = 1 << 20
"""Of the decision log at a time; a longer line is not one of the controller's."""

HEARTBEATS_SECS = 86_400.0
"""Older heartbeats are left where they are: what they say is what somebody watches now."""

JOURNAL_SECS = 10.0
"""Deadline of a look at the journal."""


class DecisionsTail:
    """The lines of the decision log, by the byte at which each begins. A last line without its end is not there yet."""

    table = DECISIONS

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, known: Known | None, limit: int) -> Read:
        """At most `limit` lines after those that are known; none when there is no log yet.

        Raises LedgerChanged when the log is another one, HarnessError when it cannot be read.
        """
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            if known is not None:
                raise LedgerChanged(f"{self._path}: is gone; the decisions of it were published") from None
            return NOTHING
        except OSError as error:
            raise HarnessError(f"{self._path}: {error.strerror}") from error
        with os.fdopen(fd, "rb", buffering=0) as file:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                raise HarnessError(f"{self._path}: is not a file")
            start = 0
            if known is not None:
                start = self._verify(fd, known)
            chunk = os.pread(file.fileno(), READ_BYTES, start)
        rows: list[Row] = []
        ends: list[int] = []
        odd = 0
        at = start
        for line in _lines(chunk)[:limit]:
            if not line.endswith(b"\n"):
                break
            row, is_odd = decision(at, line)
            odd += is_odd
            at += len(line)
            rows.append(row)
            ends.append(at)
        if not rows and len(chunk) == READ_BYTES:
            raise HarnessError(f"{self._path}: the line at byte {start} is longer than {READ_BYTES}")
        behind = len(rows) * max(1, (about.st_size - start) // max(1, at - start))
        return Read(rows, lambda count: {"at": ends[count - 1]}, odd, behind if rows else 0)

    def _verify(self, fd: int, known: Known) -> int:
        start, last = known.place.get("at"), known.last
        if not isinstance(start, int) or last is None or not isinstance(last[0], int) or not 0 <= last[0] < start:
            raise LedgerChanged("decisions: the last message of the stream does not say how far it comes")
        line = os.pread(fd, min(start - last[0], READ_BYTES), last[0])
        if not line.endswith(b"\n") or decision(last[0], line)[0] != last:
            raise LedgerChanged(f"{self._path}: byte {last[0]} does not begin the line that was published")
        return start


def _lines(chunk: bytes) -> list[bytes]:
    """Lines end with a line feed, and with nothing else."""
    *whole, rest = chunk.split(b"\n")
    return [*(line + b"\n" for line in whole), *([rest] if rest else [])]


def decision(at: int, line: bytes) -> tuple[Row, bool]:
    """A line of the decision log as a row, and whether it is not one that the controller writes."""
    text = line.decode("utf-8", "replace").rstrip("\n")
    action, ts = None, None
    try:
        found = jsontext.parse(text)
        action, ts = found.get("action"), milliseconds(found.get("timestamp"))
    except (ValueError, AttributeError):
        pass
    return DECISIONS.cleaned((at, ts, action, text))


def milliseconds(timestamp: object) -> int | None:
    """RFC 3339 text -> milliseconds since the Unix epoch; None for what is none."""
    try:
        return round(datetime.fromisoformat(str(timestamp)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


class HeartbeatsTail:
    """The heartbeats of the engine's unit in the journal, by the microsecond in which the journal took them."""

    table = HEARTBEATS

    def __init__(self, shell: Shell, unit: str, clock: Clock) -> None:
        self._shell = shell
        self._clock = clock
        self._unit = unit

    def read(self, known: Known | None, limit: int) -> Read:
        """At most `limit` heartbeats after those that are known. Raises HarnessError when the journal does not answer.

        Journals forget, so a heartbeat that was published need not be there any more.
        """
        after = int(known.place["at_us"]) if known is not None else 0
        after = max(after, int((self._clock.wall() - HEARTBEATS_SECS) * 1e6))
        since = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=after)).strftime("%Y-%m-%d %H:%M:%S UTC")
        result = self._shell.run(
            "journalctl", "--unit", self._unit, "--since", since, "--grep", "^HEARTBEAT|\"message\": ?\"HEARTBEAT",
            # --all: else a line of 4096 bytes, such as a heartbeat of eighty markets, is null.
            "--all", "--output", "json", "--output-fields", "MESSAGE", "--no-pager", "--quiet",
            timeout_secs=JOURNAL_SECS,
        )  # fmt: skip
        # Without a match it says 1, and so it does where it cannot read; of a damaged file it warns for as long as that
        # is there, and reads the others.
        if result.status not in (0, 1) or (
            result.status == 1 and not all(map(_is_warning, result.stderr.splitlines()))
        ):
            raise HarnessError(f"journalctl: {result.stderr.strip() or result.status}")
        rows, odd = heartbeats(result.stdout.split("\n"), after, limit)
        return Read(rows, lambda count: {"at_us": rows[count - 1][0]}, odd, len(rows))


def _is_warning(line: str) -> bool:
    """Of journalctl, about one file among others that a loss of power has damaged."""
    return line.endswith("ignoring file.")


def heartbeats(lines: Sequence[str], after_us: int, limit: int) -> tuple[list[Row], int]:
    """Journal entries as JSON -> the heartbeats among them after a time, oldest first, and how many were odd."""
    found: dict[int, str] = {}
    odd = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            entry = jsontext.parse(line)
            at_us, text = int(entry["__REALTIME_TIMESTAMP"]), entry["MESSAGE"]
            said = jsontext.parse(text)["fields"]["message"]
        except (ValueError, TypeError, KeyError):
            odd += 1
            continue
        if said == HEARTBEAT and at_us > after_us:
            found[at_us] = text
    rows = [HEARTBEATS.cleaned((at_us, at_us // 1000, found[at_us])) for at_us in sorted(found)[:limit]]
    return [row for row, _ in rows], odd + sum(is_odd for _, is_odd in rows)
