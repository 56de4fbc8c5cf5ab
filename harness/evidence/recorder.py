"""The flight record: what the harness did and saw, one JSON object a line, in the order it happened (contract V1).

A command is recorded twice: its intent before it runs and its result after, so that a run that was cut off shows what
it was doing. Every worker of a run appends to the same file, under a lock; `worker` and `seq` tell whose line it is.

Each line ends with `prev`, the digest of the line before (64 zeros for the first), and `sha256`, its own: the SHA-256
of the line's bytes as they would be without this last member. Whoever changes, removes, inserts or moves a line has to
make anew all that follow; that the last digest is the true one is what a signed bundle says. The last line is of type
`end` and counts the lines, so that a record cut off at the end is seen to be.

Secrets are redacted before anything is written. What is long is stored once, in `blobs/<sha256>` beside the record, and
the line holds its beginning and its end.

Lines (all have `run`, `worker`, `seq`, `at`, `proof`, `type`, `prev`, `sha256`):

    run          what this run is: systemd variant, host facts, git commit, the contract's clauses
    environment  digest and names of an environment that commands ran in
    intent       argv, cwd, environment (its digest)
    result       intent (its seq), status, stdout, stderr, seconds
    write        path, text: a file the harness wrote
    machine      name, kind, what happened to it
    unit         name, text: the effective unit, fragment and drop-ins
    journal      unit, by, message
    ledger       ticks, signals, orders, fills, caps: what a proof read of the engine's database
    verdict      verdict, claims, reason, seconds, about; told: all that pytest said, of one that is not proven
    sabotage     id, what it breaks, how its proof took it
    end          lines before this one, counts of verdicts, how many proofs were chosen and never ran

A text is a string. A long one is {"blob", "bytes", "head", "tail"}; bytes that are not text are {"base64"} or, when
long, {"blob", "bytes", "binary": true}.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Protocol, Self

from harness.base import files
from harness.base.clock import Clock, OsClock
from harness.base.errors import RecorderError
from harness.base.escape import shown
from harness.evidence import lines
from harness.evidence.lines import EndLine, RecordLine, RunLine, SinceLine
from harness.evidence.redaction import Redactor
from harness.evidence.verdict import ClauseId

GENESIS = "0" * 64
"""`prev` of the first line."""

INLINE_BYTES = 16 * 1024
"""A longer text goes to a file of its own."""

PROOF_CHARS_MAX = 1000
"""How much of a proof's name a line has: pytest makes names of arguments, which may be of any length."""

EXCERPT_CHARS = 4096
"""How much of a long text's beginning, and of its end, stands in the line."""

LINE_BYTES_MAX = 16 * 1024 * 1024
"""No writer of ours makes a line nearly as long; a reader need not hold more."""

UNSYNCED = ("journal", "result", "verdict")
"""Lines that are not waited for on their way to the disk: the next other line takes them along, and that is the intent
of the next command at the latest, before it runs."""

_ENCODER = json.JSONEncoder(default=str, separators=(",", ":"))
_SUFFIX = b',"sha256":"%s"}\n'
_SUFFIX_BYTES = len(_SUFFIX % GENESIS.encode())


class Record(Protocol):
    """Where a shell tells what it does."""

    def write(self, kind: str, **facts: object) -> int:
        """Keep one line and return its number. Raises RecorderError when it cannot be kept."""
        ...

    def intent(self, argv: Sequence[str], cwd: str) -> int:
        """Keep that a command is about to run; as write()."""
        ...


class Unrecorded:
    """Keeps nothing: for commands that change nothing, and whose caller prints what they found."""

    def write(self, kind: str, **facts: object) -> int:
        """Forget it."""
        return 0

    def intent(self, argv: Sequence[str], cwd: str) -> int:
        """Forget it."""
        return 0


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
        self.failure: str | None = None
        """Why a line could not be written; None while all could. What comes after it counts for nothing."""
        self.redactor = Redactor(os.environ)
        self._clock = clock or OsClock()
        self._environ: dict[str, str] = {}
        self._environment = ""
        """Digest of the environment in which commands last ran."""
        self._seq = 0
        self._lock = threading.Lock()
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
            with files.found(path, make=True) as place:
                try:
                    self._fd = place.open(flags | os.O_EXCL)
                    self.began = True
                except FileExistsError:
                    self._fd = place.open(flags)
        except OSError as error:
            raise RecorderError(f"cannot write the flight record {path}: {error.strerror}") from error

    def write(self, kind: str, **facts: object) -> int:
        """Append one line and return its sequence number; it and all before are on disk then, but for UNSYNCED kinds.

        facts: JSON values, or bytes for output. Raises RecorderError when the line cannot be written.
        """
        with self._lock:
            try:
                return self._write(kind, facts)
            except OSError as error:
                self.failure = f"cannot write the flight record {self.path}: {error.strerror}"
            except RecorderError as error:
                self.failure = str(error)
            raise RecorderError(self.failure)

    def intent(self, argv: Sequence[str], cwd: str) -> int:
        """Record a command that is about to run in this process's environment; see write()."""
        environ = dict(os.environ)
        if environ != self._environ:
            self._environ = environ
            kept = self.redactor.environment(environ)
            self._environment = hashlib.sha256(json.dumps(kept).encode()).hexdigest()
            self.write("environment", digest=self._environment, names=list(kept))
        return self.write("intent", argv=self.redactor.argv(argv), cwd=cwd, environment=self._environment)

    def end(
        self,
        *,
        counts: Mapping[str, int] | None = None,
        interrupted: bool = False,
        systemd: str = "",
        planned: Sequence[ClauseId] = (),
        accepted_unproven: Sequence[ClauseId] = (),
        state: str = "complete",
        collected: int = 0,
        selected: int = 0,
        never_ran: int = 0,
        status: int | None = None,
    ) -> None:
        """Write the record's last line (harness/evidence/lines.py: EndLine). Raises RecorderError as write()."""
        with _opened(self.path, f"cannot read the flight record {self.path}") as file:
            count = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        self.write(
            "end", lines=count, counts=dict(counts or {}), interrupted=interrupted, systemd=systemd,
            planned=list(planned), accepted_unproven=list(accepted_unproven), state=state, collected=collected,
            selected=selected, never_ran=never_ran, status=status,
        )  # fmt: skip

    def close(self) -> None:
        """Close the file. A closed recorder refuses to write."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, kind: str, facts: Mapping[str, object]) -> int:
        if self._fd < 0:
            raise OSError(errno.EBADF, "it is closed")
        kept = {name: self._kept(value) for name, value in facts.items()}
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            self._seq += 1
            line = {
                "run": self.run_id, "worker": self.worker, "seq": self._seq, "at": self._clock.wall(),
                "proof": self.redactor.text(self.proof)[:PROOF_CHARS_MAX], "type": kind, **kept, "prev": self._head(),
            }  # fmt: skip
            body = _ENCODER.encode(line).encode()
            data = body[:-1] + _SUFFIX % hashlib.sha256(body).hexdigest().encode()
            written = os.write(self._fd, data)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        if written != len(data):
            raise RecorderError(f"the flight record {self.path} took {written} of {len(data)} bytes: disk full?")
        if kind not in UNSYNCED:
            os.fdatasync(self._fd)
        return self._seq

    def _head(self) -> str:
        """Return the digest that the last line bears."""
        size = os.fstat(self._fd).st_size
        if size == 0:
            return GENESIS
        last = os.pread(self._fd, _SUFFIX_BYTES, max(size - _SUFFIX_BYTES, 0))
        digest = _digest_in(last)
        if digest is None:
            raise RecorderError(f"the flight record {self.path} ends in the middle of a line")
        return digest

    def _kept(self, value: object) -> object:
        """Return a fact as it goes into the line: redacted, and what is long or no text put where that goes."""
        if isinstance(value, bytes):
            # Decoded so, any bytes are a text to the rules of redaction, and can be had back.
            data = self.redactor.text(value.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            try:
                return self._kept_text(data.decode())
            except UnicodeDecodeError:
                if len(data) <= INLINE_BYTES:
                    return {"base64": base64.b64encode(data).decode()}
                return {"blob": self._stored(data), "bytes": len(data), "binary": True}
        return self._kept_text(self.redactor.text(value)) if isinstance(value, str) else self.redactor.value(value)

    def _kept_text(self, text: str) -> str | dict[str, object]:
        # What is not a character, a lone surrogate, may stand in a path.
        data = text.encode("utf-8", "surrogatepass")
        if len(data) <= INLINE_BYTES:
            return text
        return {
            "blob": self._stored(data), "bytes": len(data),
            "head": text[:EXCERPT_CHARS], "tail": text[-EXCERPT_CHARS:],
        }  # fmt: skip

    def _stored(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        target = blob(self.path, digest)
        if not target.exists():
            with files.found(target.with_name(f"{digest}.{os.getpid()}.{threading.get_ident()}"), make=True) as place:
                place.replace(data)
                place.rename(digest)
        return digest


def blob(record: Path, digest: str) -> Path:
    """Return where a long text of this record is."""
    return record.parent / "blobs" / digest


def _digest_in(suffix: bytes) -> str | None:
    digest = suffix[len(b',"sha256":"') : -len(b'"}\n')]
    if suffix != _SUFFIX % digest or len(digest) != 64 or digest.strip(b"0123456789abcdef"):
        return None
    return digest.decode()


def read(path: Path) -> Iterator[RecordLine]:
    """Read the lines of a record, in file order, each of them checked against the one before.

    Raises RecorderError for the first line that is not as it was written, and says which and what is wrong. Whatever
    is in the file, the members of what is given have the types that harness/evidence/lines.py names.
    """
    with _opened(path, f"cannot read the flight record {path}") as file:
        previous = GENESIS
        for number, raw in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), start=1):
            _, line = _checked(raw, previous, f"{path}:{number}")
            previous = line.sha256
            yield line


class Copy:
    """A record of one run that is made of the lines of others, each under a worker's name of its own. What they had in
    their first and last lines is for the maker to say.

    A context manager: what is not whole at its end is removed.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        """path: of the record, in a directory that is not there. Raises RecorderError."""
        self._path = path
        self._run_id = run_id
        self._lines = 0
        self._head = GENESIS
        try:
            path.parent.mkdir(parents=True)
            self._file = path.open("xb")
        except OSError as error:
            raise RecorderError(f"cannot write the flight record {path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if error is not None:
            shutil.rmtree(self._path.parent)
            if isinstance(error, OSError):
                raise RecorderError(f"cannot write the flight record {self._path}: {error.strerror}") from error

    def line(self, kind: str, at: float, **facts: object) -> None:
        """A line of the maker's. at: seconds since the Unix epoch."""
        made = {"run": self._run_id, "worker": "main", "seq": self._lines + 1, "at": at, "proof": "", "type": kind}
        self._put({**made, **facts})

    def take(self, source: Path, prefix: str) -> None:
        """All lines of a record but those that say what ran and how it ended, with prefix before each worker's name.
        Raises RecorderError for a record that does not stand up."""
        with _opened(source, f"cannot read the flight record {source}") as file:
            previous = GENESIS
            for number, raw in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), start=1):
                entry, line = _checked(raw, previous, f"{source}:{number}")
                previous = line.sha256
                if isinstance(line, RunLine | SinceLine | EndLine):
                    continue
                for name, digest in lines.long_texts(line):
                    self._take_blob(source, digest, f"{source}:{number} {shown(name)}")
                kept = {name: value for name, value in entry.items() if name != "prev"}
                self._put({**kept, "run": self._run_id, "worker": f"{prefix}{line.worker}"})

    def end(self, at: float, **facts: object) -> None:
        """The last line (harness/evidence/lines.py: EndLine), with all on disk then."""
        self.line("end", at, lines=self._lines, **facts)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _put(self, line: Mapping[str, object]) -> None:
        body = _ENCODER.encode({**line, "prev": self._head}).encode()
        self._head = hashlib.sha256(body).hexdigest()
        self._file.write(body[:-1] + _SUFFIX % self._head.encode())
        self._lines += 1

    def _take_blob(self, source: Path, digest: object, where: str) -> None:
        _check_blob(source, digest, where)
        target = blob(self._path, str(digest))
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(blob(source, str(digest)), target)


@contextmanager
def _opened(path: Path, what: str) -> Iterator[BufferedReader]:
    """A file of the evidence, for reading. Raises RecorderError, which begins with `what`, for any error, and for what
    is not a regular file (a pipe would be waited for)."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RecorderError(f"{what}: it is not a regular file")
            yield file
    except OSError as error:
        raise RecorderError(f"{what}: {error.strerror}") from error


def _checked(raw: bytes, previous: str, where: str) -> tuple[dict[str, object], RecordLine]:
    digest = _digest_in(raw[-_SUFFIX_BYTES:])
    if digest is None:
        half = "" if raw.endswith(b"\n") else ", it is cut off"
        raise RecorderError(f"{where} does not end in its digest{half}")
    body = raw[:-_SUFFIX_BYTES] + b"}"
    if hashlib.sha256(body).hexdigest() != digest:
        raise RecorderError(f"{where} was changed: its digest is another one")
    try:
        entry = lines.parse(body)
        line = lines.of(entry, digest)
    except ValueError as error:
        raise RecorderError(f"{where} is not a line of a flight record: {error}") from error
    if entry.get("prev") != previous:
        raise RecorderError(f"{where} does not follow the line before: a line was removed, inserted or moved")
    return entry, line


def verify(path: Path) -> tuple[int, str]:
    """Check a whole record: every line, every long text, and that it goes on to its end.

    Returns the number of lines and the last digest. Raises RecorderError that names the first bad line.
    """
    checked: set[str] = set()
    number = 0
    last: RecordLine | None = None
    for number, last in enumerate(read(path), start=1):
        for name, digest in lines.long_texts(last):
            if str(digest) not in checked:
                checked.add(str(digest))
                _check_blob(path, digest, f"{path}:{number} {shown(name)}")
    if not isinstance(last, EndLine):
        raise RecorderError(
            f"{path} has no end after line {number}: the run was cut off, or its last lines were removed"
        )
    if last.lines != number - 1:
        raise RecorderError(f"{path}:{number} counts {last.lines} lines before it, there are {number - 1}")
    return number, last.sha256


def _check_blob(record: Path, digest: object, where: str) -> None:
    if not (isinstance(digest, str) and lines.is_digest(digest)):
        raise RecorderError(f"{where} names no long text: its digest is not one")
    with _opened(blob(record, digest), f"{where}: {blob(record, digest)}") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise RecorderError(f"{where}: {blob(record, digest)} was changed: its digest is {found}")
