"""The soak controller's decisions as JSON lines, and the samples that its plots are made of (contract K6).

A decision is on disk before it is acted on. The file is shared by all runs; a run is told by its `run_id`.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from harness.base import files, jsontext
from harness.base.clock import Clock
from harness.base.errors import RecorderError
from harness.soak.reducer import Action

KEPT_BYTES = 64 * 1024 * 1024
"""A samples file or flight record larger than this is set aside (`.1`) when a run starts: some hundred nights."""


def new_run_id() -> str:
    """Return a random uuid4, as text."""
    return str(uuid.uuid4())


def timestamp(wall: float) -> str:
    """Return seconds since the epoch as RFC 3339, UTC, with microseconds."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True)
class Decision:
    """One line of the decision log."""

    timestamp: str
    """RFC 3339, UTC, with microseconds."""
    run_id: str
    ingest_mode: str
    psi_actions: str
    state: str
    """The rung's name."""
    current_sample_every: int
    action: str
    """An `Action`, or one of another version of the controller."""
    reason: str
    facts: Mapping[str, object] = field(default_factory=dict)
    """PSI and what the action needs."""

    def as_json(self) -> dict[str, object]:
        """Make it the members of a line, in their order."""
        made = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "facts"}
        return {**made, **self.facts}


@dataclass(frozen=True)
class SampleLine:
    """One line of the samples."""

    timestamp: str
    run_id: str
    facts: Mapping[str, object]
    """What was measured, by name."""


Line = TypeVar("Line", Decision, SampleLine)


class Log:
    """A file of JSON lines, appended to. Each line is one write, on disk when `write` returns if `sync` is set."""

    def __init__(self, path: Path, *, sync: bool, keep_bytes: int | None = None) -> None:
        """keep_bytes: a file larger than this is set aside first. Raises RecorderError, also from `write`."""
        self.path = path
        self._sync = sync
        try:
            if keep_bytes is not None:
                set_aside(path, keep_bytes)
            with files.found(path, make=True) as place:
                self._fd = place.open(os.O_RDWR | os.O_APPEND | os.O_CREAT)
            self._end_torn_line()
        except OSError as error:
            raise self._trouble(error) from error

    def write(self, entry: Mapping[str, object]) -> None:
        """Append one line."""
        data = json.dumps(entry, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
        try:
            written = os.write(self._fd, data)
            if self._sync:
                os.fsync(self._fd)
        except OSError as error:
            raise self._trouble(error) from error
        if written != len(data):
            raise RecorderError(f"{self.path} took {written} of {len(data)} bytes: disk full?")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _end_torn_line(self) -> None:
        # A power cut or a full disk may have cut a line; what follows must not become part of it.
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")

    def _trouble(self, error: OSError) -> RecorderError:
        return RecorderError(f"cannot write {self.path}: {error.strerror}")


class DecisionLog(Log):
    """The decision log of one run."""

    def __init__(self, path: Path, run_id: str, clock: Clock) -> None:
        super().__init__(path, sync=True)
        self.run_id = run_id
        self._clock = clock

    def decide(
        self,
        action: Action,
        reason: str,
        *,
        ingest_mode: str,
        psi_actions: str,
        state: str,
        sample_every: int,
        facts: Mapping[str, object],
    ) -> None:
        """Put one decision on disk. state: the rung's name; facts: PSI and what the action needs."""
        decision = Decision(
            timestamp=timestamp(self._clock.wall()),
            run_id=self.run_id,
            ingest_mode=ingest_mode,
            psi_actions=psi_actions,
            state=state,
            current_sample_every=sample_every,
            action=action.value,
            reason=reason,
            facts=facts,
        )
        self.write(decision.as_json())


def set_aside(path: Path, keep_bytes: int) -> None:
    """Rename a file that is larger than `keep_bytes` to `<name>.1`, over an older one."""
    with files.found(path, make=True) as place:
        status = place.status()
        if status is not None and status.st_size > keep_bytes:
            place.rename(f"{path.name}.1")


def read(path: Path, run_id: str | None = None) -> list[Decision]:
    """Read the decisions of one run, by default of the last one in the file. Raises RecorderError as `read_all`."""
    found = read_all(path)
    wanted = run_id or (found[-1].run_id if found else None)
    return [entry for entry in found if entry.run_id == wanted]


def read_all(path: Path) -> list[Decision]:
    """Read the decisions of all runs; a line that is none, as a crash leaves it, is left out.

    Raises RecorderError when the file cannot be read.
    """
    return _read(path, Decision)


def read_samples(path: Path, run_id: str) -> list[SampleLine]:
    """Read the samples of one run. Raises RecorderError as `read_all`."""
    return [entry for entry in _read(path, SampleLine) if entry.run_id == run_id]


def _read(path: Path, kind: type[Line]) -> list[Line]:
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(kind)
    names = [one.name for one in fields(kind) if one.name != "facts"]
    found = []
    try:
        # Lines of bytes end at a line feed only; JSON is UTF-8, and what is not is not a line of ours.
        with files.found(path) as place, os.fdopen(place.open(os.O_RDONLY), "rb") as lines:
            for text in lines:
                try:
                    entry = jsontext.parse(text)
                    if not isinstance(entry, dict):
                        continue
                    known = {name: entry.pop(name) for name in names if name in entry}
                    line = adapter.validate_python({**known, "facts": entry})
                    datetime.fromisoformat(line.timestamp)
                except (ValidationError, ValueError):
                    continue
                found.append(line)
    except OSError as error:
        raise RecorderError(f"cannot read {path}: {error.strerror}") from error
    return found
