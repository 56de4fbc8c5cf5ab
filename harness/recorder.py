"""The flight record: what the harness did and saw, one JSON object a line, in the order it happened.

A command is recorded twice: its intent before it runs and its result after, so that a run that was cut off
shows what it was doing. Every worker of a run appends to the same file; a line is one write(2) on an O_APPEND
descriptor, which Linux serialises, and carries run, worker and a per-worker sequence number.

Lines (all have `run`, `worker`, `seq`, `at`, `proof`, `type`):

    run       what this run is: systemd variant, host facts, git commit
    intent    argv, cwd
    result    intent (its seq), status, stdout, stderr, seconds
    write     path, text: a file the harness wrote
    machine   name, kind, what happened to it
    verdict   verdict, claims, reason, seconds
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.clock import Clock, OsClock
from harness.errors import RecorderError


class Recorder:
    """Appends to one record file. Not shared between processes: each opens its own on the same path."""

    def __init__(self, path: Path, run_id: str, worker: str, clock: Clock | None = None) -> None:
        self.path = path
        self.run_id = run_id
        self.worker = worker
        self.proof = ""
        """Id of the proof that is running, or empty between proofs."""
        self.began = False
        """Whether the record was begun by this recorder: of all workers of a run, by one."""
        self._clock = clock or OsClock()
        self._seq = 0
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            try:
                self._fd = os.open(path, flags | os.O_EXCL, 0o644)
                self.began = True
            except FileExistsError:
                self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            raise RecorderError(f"cannot write the flight record {path}: {error.strerror}") from error

    def write(self, kind: str, **facts: Any) -> int:
        """Append one line and return its sequence number. Raises RecorderError when it cannot be written."""
        with self._lock:
            self._seq += 1
            seq = self._seq
            line = {
                "run": self.run_id,
                "worker": self.worker,
                "seq": seq,
                "at": self._clock.wall(),
                "proof": self.proof,
                "type": kind,
                **facts,
            }
            data = json.dumps(line, ensure_ascii=False, default=str).encode("utf-8", "surrogateescape") + b"\n"
            try:
                written = os.write(self._fd, data)
            except OSError as error:
                raise RecorderError(f"cannot write the flight record {self.path}: {error.strerror}") from error
        if written != len(data):
            raise RecorderError(f"the flight record {self.path} took {written} of {len(data)} bytes: disk full?")
        return seq

    def close(self) -> None:
        """Close the file. A closed recorder refuses to write."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a record, in file order.

    Raises RecorderError for a line that is not a JSON object, and names it.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    entry = json.loads(line)
                except ValueError as error:
                    raise RecorderError(f"{path}:{number} is not JSON: {error}") from error
                if not isinstance(entry, dict) or "type" not in entry:
                    raise RecorderError(f"{path}:{number} is not a line of a flight record")
                yield entry
    except OSError as error:
        raise RecorderError(f"cannot read the flight record {path}: {error.strerror}") from error
