"""engine/base/logs.py: one JSON object a line, whatever is logged and whoever reads it (M1, M6, N8)."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import select
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import logs
from engine.base.exits import ConfigError, Crash
from engine.base.redaction import redact

ROOT = Path(__file__).resolve().parents[2]

DEADLINE_SECS = 15.0


def record(message: str, level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("engine.pipeline", level, __file__, 1, message, None, None)
    made.fields = fields
    return made


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


@pytest.mark.claim("M1")
def test_M1_the_shape_of_a_line() -> None:
    line = json.loads(logs.format_record(record("HEARTBEAT (G4)", tick_count=61)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "level": "INFO",
        "fields": {"message": "HEARTBEAT (G4)", "tick_count": 61},
        "target": "engine.pipeline",
    }


@pytest.mark.claim("M1")
@pytest.mark.parametrize(("level", "name"), [(logging.WARNING, "WARN"), (logging.ERROR, "ERROR"), (10, "DEBUG")])
def test_M1_level_names_are_those_of_tracing(level: int, name: str) -> None:
    assert json.loads(logs.format_record(record("x", level)))["level"] == name


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.binary(), inner),
    max_leaves=8,
)


@pytest.mark.slow
@pytest.mark.claim("M1")
@given(st.text(st.characters(codec=None)), st.dictionaries(st.text(), ANYTHING))
def test_M1_anything_logged_is_one_line_of_json(message: str, fields: dict[str, Any]) -> None:
    text = logs.format_record(record(message, **{f"k{key}": value for key, value in fields.items()}))
    assert "\n" not in text
    raw = text.encode("utf-8", "backslashreplace")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(raw, parse_constant=refuse)["fields"]["message"] == redact(message)


SPOKEN = st.text(st.characters(codec=None)) | st.text('\u2028\u2029\x00\x07\x1b\x7f\x85\x9b\u202e\u2066\ud800\n"\\é')


@pytest.mark.claim("N17")
@given(SPOKEN, st.dictionaries(SPOKEN, SPOKEN | st.lists(SPOKEN) | st.just(float("nan"))))
def test_N17_a_line_is_printable_ascii_whatever_a_peer_said(said: str, fields: dict[str, Any]) -> None:
    """Nothing in it ends a line, moves a cursor or turns the text round; and nothing of it is lost but what looks like
    credentials, such as `0:@0`."""
    line = logs.format_record(record(said, **{f"x{key}": value for key, value in fields.items()}))
    assert re.fullmatch(r"[ -~]+", line)
    read = json.loads(line)["fields"]
    assert read["message"] == redact(said)
    for key, value in fields.items():
        assert not isinstance(value, str) or read[f"x{key}"] in (value, redact(value))


@pytest.mark.claim("M1", "N17")
@pytest.mark.parametrize(
    "value", [10**5000, [10**5000], {"a": 10**5000}, -(10**5000)], ids=["int", "list", "dict", "minus"]
)
def test_M1_N17_a_number_that_python_does_not_write_out_costs_no_line(value: object) -> None:
    """A peer may have said it."""
    record = logging.LogRecord("engine.x", logging.INFO, "", 0, "said", (), None)
    record.fields = {"value": value, "kept": 1}
    fields = json.loads(logs.format_record(record))["fields"]
    assert (fields["message"], fields["kept"]) == ("said", 1)
    assert len(str(fields["value"])) < 100


@pytest.mark.claim("O12")
def test_O12_a_named_engine_says_so_in_each_line() -> None:
    assert "instance" not in json.loads(logs.format_record(record("a")))["fields"]
    logs.set_instance("alpha")
    try:
        fields = json.loads(logs.format_record(record("a", b=1)))["fields"]
        assert fields == {"message": "a", "instance": "alpha", "b": 1}
    finally:
        logs.set_instance("")


@pytest.mark.claim("M1")
def test_M1_exceptions_are_fields() -> None:
    try:
        raise ValueError("of this")
    except ValueError as error:
        made = record("failed", logging.ERROR, price=Decimal("1.50"))
        made.exc_info = (ValueError, error, error.__traceback__)
    fields = json.loads(logs.format_record(made))["fields"]
    assert fields["error"] == "ValueError: of this"
    assert fields["price"] == "1.50"
    assert "test_logs.py" in fields["traceback"]


@pytest.mark.claim("M1")
def test_M1_a_reader_that_went_away_costs_the_line_not_the_engine(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    handler = logs.JsonLines(write)
    handler.emit(record("nobody reads this"))
    handler.drain(DEADLINE_SECS)
    assert handler.drops == 1


@pytest.mark.claim("M1")
def test_M1_a_line_is_out_when_the_call_returns(tmp_path: Path) -> None:
    """A crash in the next moment loses none."""
    code = (
        "import logging, os\nfrom engine.base import logs\nlogs.configure()\nlogging.error('last words')\nos._exit(7)"
    )
    for out in (subprocess.PIPE, os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=out, check=False)
        said = done.stdout if out == subprocess.PIPE else (tmp_path / "file").read_bytes()
        assert (done.returncode, json.loads(said)["fields"]["message"]) == (7, "last words")


class Reader:
    """The end of a log that somebody reads, or does not."""

    def __init__(self, kind: str) -> None:
        if kind == "socket":
            ours, theirs = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            self.fd, self.written = ours.detach(), theirs.detach()
        elif kind == "terminal":
            self.fd, self.written = pty.openpty()
            tty.setraw(self.written)
        else:
            self.fd, self.written = os.pipe()
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self.fd, False)
        self.raw = b""
        # Somebody else's pipe: nobody may open it anew.
        self.handler = logs.JsonLines(self.written)
        if kind == "another's pipe":
            self.handler._out._fd, self.handler._out.waits = self.written, True

    def read(self) -> bytes:
        """Takes what is there."""
        try:
            more = os.read(self.fd, 65536)
        except BlockingIOError:
            more = b""
        self.raw += more
        return more

    def read_all(self) -> list[dict[str, Any]]:
        """Reads until nothing waits any more; every line there was."""
        deadline = time.monotonic() + DEADLINE_SECS
        while self.handler._thread is not None or self.read():
            assert time.monotonic() < deadline, "what waits does not come out although it is read"
            if self.handler._thread is not None:
                select.select([self.fd], [], [], 0.01)
                self.read()
        assert self.raw.endswith(b"\n")
        return [json.loads(line) for line in self.raw.splitlines()]

    def close(self) -> None:
        os.close(self.fd)
        self.handler.drain(DEADLINE_SECS)
        os.close(self.written)


KINDS = ("pipe", "another's pipe", "socket", "terminal")


@pytest.mark.slow
@pytest.mark.claim("M6")
@pytest.mark.parametrize("kind", KINDS)
@given(steps=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9000), st.booleans()), min_size=1, max_size=12))
def test_M6_whoever_reads_when_no_line_is_torn_and_each_is_read_or_told(
    kind: str, steps: list[tuple[int, int, bool]]
) -> None:
    """Lines of any length, in any rhythm, before a reader that reads now and then."""
    reader = Reader(kind)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logs, "QUEUE_BYTES_MAX", 60_000)
            sent = 0
            for count, size, reads in steps:
                for _ in range(count):
                    sent += 1
                    reader.handler.emit(record("x" * size, number=sent))
                    assert reader.handler._waiting_bytes <= 60_000
                if reads:
                    reader.read()
            lines = reader.read_all()
            # What waits is told of with the next line.
            reader.handler.emit(record("the last one", number=sent + 1))
            lines = reader.read_all()
    finally:
        reader.close()
    numbers = [line["fields"]["number"] for line in lines if "number" in line["fields"]]
    told = [line for line in lines if "dropped" in line["fields"]]
    assert numbers == sorted(set(numbers)), "out of order, or twice"
    assert numbers[-1] == sent + 1
    assert {line["level"] for line in told} <= {"WARN"}
    assert sum(line["fields"]["dropped"] for line in told) == sent + 1 - len(numbers) == reader.handler.drops
    # Each stands where its lines would have stood.
    expected = 1
    for line in lines:
        if "dropped" in line["fields"]:
            expected += line["fields"]["dropped"]
        else:
            assert line["fields"]["number"] == expected
            expected += 1


@pytest.mark.slow
@pytest.mark.claim("M6")
@pytest.mark.parametrize("kind", KINDS)
def test_M6_nobody_waits_and_memory_is_bounded(kind: str) -> None:
    reader = Reader(kind)
    try:
        began = time.monotonic()
        for number in range(20_000):
            reader.handler.emit(record("x" * 200, number=number))
        assert time.monotonic() - began < DEADLINE_SECS
        assert reader.handler._waiting_bytes <= logs.QUEUE_BYTES_MAX
        assert reader.handler.drops > 1000
        assert os.get_blocking(reader.written), "the open file belongs to others, too"
        lines = reader.read_all()
        assert lines[-1]["fields"]["number"] == 19_999, "the last lines say why an engine ended"
        assert sum("dropped" in line["fields"] for line in lines) == 1
    finally:
        reader.close()


@pytest.mark.claim("M6")
def test_M6_the_end_waits_for_a_reader_but_not_for_long() -> None:
    reader = Reader("pipe")
    try:
        for number in range(1000):
            reader.handler.emit(record("x" * 200, number=number))
        began = time.monotonic()
        reader.handler.drain(0.05)
        assert 0.05 <= time.monotonic() - began < DEADLINE_SECS
        reads = threading.Thread(target=reader.read_all)
        reads.start()
        reader.handler.drain(DEADLINE_SECS)
        reads.join()
        assert reader.handler._thread is None
    finally:
        reader.close()


@pytest.mark.slow
@pytest.mark.claim("M6")
@pytest.mark.parametrize("kind", KINDS)
def test_M6_the_end_cuts_no_line_but_the_last(kind: str) -> None:
    """Nobody reads before the process has ended, and then it is too late for what did not fit."""
    reader = Reader(kind)
    try:
        for number in range(3000):
            reader.handler.emit(record("x" * 300, number=number))
        reader.handler.drain(0.05)
        reader.read()
        *whole, last = reader.raw.split(b"\n")
        assert [json.loads(line)["fields"]["number"] for line in whole] == list(range(len(whole)))
        assert len(whole) > 5
        if kind != "terminal":
            assert last == b""
    finally:
        reader.close()


@pytest.mark.claim("M6")
def test_M6_a_full_disk_tears_no_line(tmp_path: Path) -> None:
    """A file that may not grow stops in the middle of a line; when it may, that line is finished first."""
    path = tmp_path / "log"
    code = (
        "import json, os, resource, sys\n"
        "from engine.base import logs\n"
        "import logging\n"
        "handler = logs.configure()\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))\n"
        "for n in range(50): logging.warning('line', extra={'fields': {'number': n}})\n"
        "assert handler.drops > 30, handler.drops\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "for n in range(50, 53): logging.warning('line', extra={'fields': {'number': n}})\n"
        "print(handler.drops, file=sys.stderr)\n"
    )
    with open(path, "wb") as file:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=file, stderr=subprocess.PIPE, check=True)
    lines = [json.loads(line)["fields"] for line in path.read_bytes().splitlines()]
    told = [line["dropped"] for line in lines if "dropped" in line]
    numbers = [line["number"] for line in lines if "number" in line]
    assert told == [int(done.stderr)] == [53 - len(numbers)]
    assert numbers[-3:] == [50, 51, 52]
    assert "dropped" in lines[-4]


@pytest.mark.claim("M6")
def test_M6_a_finalizer_that_logs_in_the_middle_of_a_line_is_written_after_it() -> None:
    reader = Reader("pipe")
    try:
        true = reader.handler._out.write

        def write(data: memoryview) -> int:
            if not reader.handler._waiting and b"outer" in bytes(data):
                reader.handler.emit(record("inner"))
            return true(data)

        reader.handler._out.write = write  # type: ignore[method-assign]
        reader.handler.emit(record("outer"))
        assert [line["fields"]["message"] for line in reader.read_all()] == ["outer", "inner"]
    finally:
        reader.close()


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.fields: list[dict[str, Any]] = []

    def emit(self, made: logging.LogRecord) -> None:
        self.fields.append(json.loads(logs.format_record(made))["fields"])


@pytest.fixture
def captured() -> Iterator[tuple[logging.Logger, _Lines]]:
    logger = logging.getLogger("proofs.logs")
    lines = _Lines()
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger, lines
    logger.removeHandler(lines)


@pytest.mark.claim("N8")
def test_N8_at_most_one_line_an_interval_and_the_next_says_how_many_were_held_back(
    captured: tuple[logging.Logger, _Lines],
) -> None:
    logger, lines = captured
    limited = logs.RateLimited(logger, logging.WARNING)
    assert [limited.log(now, "bad", n=now) for now in (0.0, 0.1, 0.9, 1.0, 1.5, 2.5)] == [
        True, False, False, True, False, True,
    ]  # fmt: skip
    assert [fields["suppressed"] for fields in lines.fields] == [0, 2, 1]


def test_exit_codes_are_logged_with_the_details(captured: tuple[logging.Logger, _Lines]) -> None:
    logger, lines = captured
    logs.report(logger, ConfigError("no such key", key="engine.x"))
    logs.report(logger, Crash("failed"), cause=ZeroDivisionError("x"))
    assert lines.fields[0] == {"message": "no such key", "key": "engine.x", "exit_code": 12, "exit_name": "CONFIG"}
    assert lines.fields[1]["exit_code"] == 1
    assert "ZeroDivisionError" in lines.fields[1]["traceback"]


@pytest.mark.claim("N8")
def test_N8_some_lines_may_come_at_once_and_each_is_given_back_after_an_interval(
    captured: tuple[logging.Logger, _Lines],
) -> None:
    logger, lines = captured
    limited = logs.RateLimited(logger, logging.WARNING, interval_secs=10.0, burst=3)
    at_once = [limited.log(now, "bad") for now in (0.0, 0.0, 0.1, 0.2, 9.9)]
    given_back = [limited.log(now, "bad") for now in (10.0, 10.1, 20.0, 20.1)]
    # However long nothing comes, they are no more than three.
    after_long = [limited.log(now, "bad") for now in (1000.0, 1000.0, 1000.0, 1000.0)]
    assert (at_once, given_back, after_long) == (
        [True, True, True, False, False], [True, False, True, False], [True, True, True, False],
    )  # fmt: skip
    assert [fields["suppressed"] for fields in lines.fields] == [0, 0, 0, 2, 1, 1, 0, 0]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """As it was, when the test is over."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in ("asyncio", "picows", "websockets")}
    yield root
    root.handlers[:] = before
    root.setLevel(level)
    for name, level in quiet.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.claim("M1", "M6")
def test_M1_M6_what_is_logged_anywhere_goes_to_the_one_place(
    root_logger: logging.Logger, pipe: tuple[int, int]
) -> None:
    logs.configure(2)
    handler = logs.configure(pipe[1])
    assert root_logger.handlers == [handler]
    for level, heard in (
        (None, ["INFO", "WARN", "ERROR"]),
        ("DEBUG", ["DEBUG", "INFO", "WARN", "ERROR"]),
        ("INFO", ["INFO", "WARN", "ERROR"]),
        ("WARN", ["WARN", "ERROR"]),
        ("ERROR", ["ERROR"]),
    ):
        if level is not None:
            logs.set_level(level)
        for name in ("engine.x", "y", "websockets.client", "picows", "asyncio"):
            for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
                logging.getLogger(name).log(number, "said")
        handler.drain(DEADLINE_SECS)
        said: dict[str, list[str]] = {}
        for line in map(json.loads, os.read(pipe[0], 65536).splitlines()):
            said.setdefault(line["target"], []).append(line["level"])
        # What libraries tell of each connection the feed tells itself.
        trouble = [one for one in heard if one in ("WARN", "ERROR")]
        chatty = dict.fromkeys(("websockets.client", "picows", "asyncio"), trouble)
        assert said == {"engine.x": heard, "y": heard, **chatty}
    assert logs.drops() == 0
    handler.drops = 7
    assert logs.drops() == 7


@pytest.mark.claim("M1")
def test_M1_the_journal_is_told_the_priority_of_each_line(pipe: tuple[int, int], tmp_path: Path) -> None:
    handler = logs.JsonLines(pipe[1])
    for told in (False, True):
        handler._tells_priorities = told
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, 25):
            handler.emit(record("said", number))
        handler.drain(DEADLINE_SECS)
        heads = [line.partition(b"{")[0] for line in os.read(pipe[0], 65536).splitlines()]
        assert heads == ([b"<7>", b"<6>", b"<4>", b"<3>", b"<3>", b"<6>"] if told else [b""] * 6)
    # What is not the journal does not take it off again.
    path = tmp_path / "run/systemd/journal/stdout"
    path.parent.mkdir(parents=True)
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(path))
        listener.listen()
        client.connect(str(path))
        assert not any(map(logs._is_journal, (pipe[1], ours.fileno(), client.fileno(), 10**6)))


@pytest.mark.claim("M6")
def test_M6_a_mebibyte_waits_and_of_more_the_older_half_is_dropped() -> None:
    reader = Reader("pipe")
    try:
        line = record("x" * 10_000)
        size, before = 0, -1
        while not reader.handler.drops:
            before = reader.handler._waiting_bytes
            reader.handler.emit(line)
            size = size or len(logs.format_record(line)) + 1
        assert 1024 * 1024 - size < before <= 1024 * 1024
        assert 512 * 1024 - size < reader.handler._waiting_bytes <= 512 * 1024
        # One that is longer than that is the last word all the same.
        reader.handler.emit(record("y" * 2_000_000))
        assert reader.read_all()[-1]["fields"]["message"].startswith("yyy")
    finally:
        reader.close()


@pytest.mark.claim("M6")
def test_M6_times_and_lengths_are_those_of_the_contract() -> None:
    contract = " ".join((ROOT / "docs/contract.md").read_text().split())
    assert f"The end of the process waits {logs.LINGER_SECS:g} s for a reader" in contract
    assert f"waits, {logs.QUEUE_BYTES_MAX // 2**20} MiB at most" in contract
