"""A replay says what it could not read (N2b): files of lines, of something else, and of nothing."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import sqlite3
import zipfile
import zlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.base.events import Tick
from engine.base.exits import ConfigError, ProtocolChanged
from engine.config import schema
from engine.ingest import replay, tape
from engine.ingest.intake import Intake
from engine.ingest.ports import Numbers
from engine.ingest.recorder import Books
from engine.ingest.replay import why_no_lines
from engine.ingest.stepped import STEP_TICKS
from engine.ingest.synthetic import SyntheticFeed
from proofs.fixtures import engine_loop
from proofs.fixtures.engine_process import Engine, engine, write_config

TS = 1_700_000_000_000


def line(number: int, **fields: object) -> bytes:
    return json.dumps({"symbol": "BTC/USD", "price": 100.0 + number, "volume": 1, "ts": TS + number} | fields).encode()


LINES = [line(number) for number in range(5)]
JSONL = b"\n".join(LINES) + b"\n"
OBJECTS = [json.loads(one) for one in LINES]


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("t.jsonl", JSONL)
    return made.getvalue()


def database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE ticks (price)")
        made = connection.serialize()
    connection.close()
    return made


OTHERS = {
    # what it is: (its bytes, the remedy)
    "gzip": (gzip.compress(JSONL), "gunzip"),
    "bzip2": (bz2.compress(JSONL), "bunzip2"),
    "xz": (lzma.compress(JSONL), "unxz"),
    "zip": (zipped(), "unzip"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00" + bytes(range(64)), "unzstd"),
    "SQLite": (database(), "--db"),
    "Parquet": (b"PAR1" + bytes(range(64)) + b"PAR1", "one object a line"),
    "UTF-16": (JSONL.decode().encode("utf-16"), "iconv"),
    "UTF-16, big end first": (codecs.BOM_UTF16_BE + JSONL.decode().encode("utf-16-be"), "iconv"),
    "UTF-16 without a mark": (JSONL.decode().encode("utf-16-le"), "iconv"),
    "UTF-32": (JSONL.decode().encode("utf-32"), "iconv -f UTF-32"),
    "zlib": (zlib.compress(JSONL), "zlib-flate"),
    "lzma": (lzma.compress(JSONL, lzma.FORMAT_ALONE), "unlzma"),
    "snappy": (b"\xff\x06\0\0sNaPpY" + bytes(range(64)), "snzip"),
    "array": (json.dumps(OBJECTS).encode(), "jq -c '.[]'"),
    "array over many lines": (json.dumps(OBJECTS, indent=2).encode(), "jq -c '.[]'"),
    "array behind a mark and blanks": (codecs.BOM_UTF8 + b"\r\n  [\r\n  {}]", "jq -c '.[]'"),
    "empty array": (b"[ ]", "jq -c '.[]'"),
}

READ = {
    # how the five lines are written
    "as usual": JSONL,
    "mark": codecs.BOM_UTF8 + JSONL,
    "CRLF": b"\r\n".join(LINES) + b"\r\n",
    "CRLF and a mark": codecs.BOM_UTF8 + b"\r\n".join(LINES),
    "mixed": LINES[0] + b"\r\n" + LINES[1] + b"\n" + b"\n".join(LINES[2:]),
    "blank lines": b"\n\n \t\r\n" + b"\n\n\r\n".join(LINES) + b"\n\n",
    "no last newline": b"\n".join(LINES),
    "NULs at the end": JSONL + b"\0" * 5000,
    "NULs behind the last line": b"\n".join(LINES) + b"\0" * 5000,
    "NULs in a gap": LINES[0] + b"\n" + b"\0" * 5000 + b"\n".join(LINES[1:]),
}

UNUSABLE = {
    # what is wrong with each line: (the lines, what the reason must say)
    "seconds": ([line(0, ts=TS // 1000)], "ts is in seconds, expected milliseconds"),
    "microseconds": ([line(0, ts=TS * 1000)], "microseconds, expected milliseconds"),
    "nanoseconds": ([line(0, ts=TS * 1_000_000)], "nanoseconds, expected milliseconds"),
    "null": ([line(0, price=None), b"{}"], "`$.price`"),
    "csv": ([b"symbol,price,volume,ts", b"BTC/USD,1,1,1"], "line 1: not JSON"),
    "arrays": ([b'[1700000000000,"100.0"]'], "line 1: not a JSON object"),
    "other messages": ([b'{"type": "heartbeat"}'], "line 1: not a tick"),
    "text": ([b"\xff\xfe\x00"[1:]] * 3, "line 1"),
    "more than the limit": ([b"{}"] * 150, "line 1: bad tick"),
}


@pytest.mark.claim("M2")
def test_M2_what_a_feed_without_a_venue_cannot_meet_is_none() -> None:
    async def none() -> AsyncGenerator[list[Tick], None]:
        yield []

    inlet = Books(Intake(1, 1))
    feeds: dict[str, SyntheticFeed | replay.ReplayFeed] = {
        "synthetic": SyntheticFeed(inlet, schema.Engine(), "A/B", lambda: 7),
        "replay": replay.ReplayFeed(inlet, none(), "x.db"),
    }
    for name, feed in feeds.items():
        assert (feed.source, feed.hindrance) == (name, "")
        counts = (feed.parse_errors, feed.ignored, feed.foreign, feed.reconnects, feed.connections_unbounded)
        assert counts == (0,) * 5


def replayed(directory: Path, raw: bytes) -> tuple[Engine, int]:
    (directory / "t.jsonl").write_bytes(raw)
    with engine(directory, "--config", str(write_config(directory)), "--ingest", "replay", "--replay-file",
                str(directory / "t.jsonl")) as running:  # fmt: skip
        status = running.wait_exit()
    assert not any("traceback" in found["fields"] for found in running.lines)
    return running, status


def ticks(running: Engine) -> list[tuple[Any, ...]]:
    return running.query("SELECT price, ts FROM ticks ORDER BY id")


@pytest.mark.slow
@pytest.mark.claim("N2b")
@pytest.mark.parametrize("how", READ)
def test_N2b_lines_are_read_however_they_end(tmp_path: Path, how: str) -> None:
    running, status = replayed(tmp_path, READ[how])
    assert status == 0
    assert ticks(running) == [(100.0 + number, TS + number) for number in range(5)]
    assert running.final()["parse_errors"] == 0
    assert not running.messages("nothing to replay")


@pytest.mark.claim("N2b")
@pytest.mark.parametrize("what", OTHERS)
def test_N2b_what_is_not_lines_is_known_by_its_beginning(what: str) -> None:
    raw, remedy = OTHERS[what]
    assert remedy in str(why_no_lines(raw))


@pytest.mark.slow
@pytest.mark.claim("N2b")
@pytest.mark.parametrize("what", ["gzip", "UTF-16", "array over many lines"])
def test_N2b_what_is_not_lines_exits_12_with_the_remedy(tmp_path: Path, what: str) -> None:
    raw, remedy = OTHERS[what]
    running, status = replayed(tmp_path, raw)
    assert status == 12
    (error,) = [found["fields"]["message"] for found in running.lines if found["level"] == "ERROR"]
    assert remedy in error
    assert "t.jsonl" in error


@pytest.mark.slow
@pytest.mark.claim("N2b")
@pytest.mark.parametrize("what", UNUSABLE)
def test_N2b_no_usable_line_exits_11_with_the_reason_of_the_first(tmp_path: Path, what: str) -> None:
    lines, reason = UNUSABLE[what]
    running, status = replayed(tmp_path, b"\n".join(lines))
    assert status == 11
    (error,) = [found["fields"]["message"] for found in running.lines if found["level"] == "ERROR"]
    assert "no usable line" in error
    assert reason in error


@pytest.mark.claim("N2b")
def test_N2b_one_usable_line_is_enough(tmp_path: Path) -> None:
    running, status = replayed(tmp_path, b"\n".join([b"{}", *LINES[:1], line(2, ts=TS * 1000), b"[]"]))
    assert status == 0
    assert len(ticks(running)) == 1
    assert running.final()["parse_errors"] == 3


@pytest.mark.slow
@pytest.mark.claim("N2b")
@pytest.mark.parametrize("raw", [b"", b"\n\r\n  \n", b"\0" * 100, codecs.BOM_UTF8], ids=range(4))
def test_N2b_an_empty_file_is_0_with_a_warning(tmp_path: Path, raw: bytes) -> None:
    running, status = replayed(tmp_path, raw)
    assert status == 0
    assert running.wait_line("nothing to replay")["replay"] == str(tmp_path / "t.jsonl")


@pytest.mark.claim("N2b")
def test_N2b_a_database_without_ticks_is_0_with_a_warning(tmp_path: Path) -> None:
    with engine(tmp_path, "--config", str(write_config(tmp_path)), "--ingest", "replay") as running:
        assert running.wait_exit() == 0
        assert running.wait_line("nothing to replay")["replay"] == str(tmp_path / "bot.db")


@pytest.mark.slow
@pytest.mark.claim("N2b")
def test_N2b_a_stop_is_not_a_replay_that_read_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\n" * 50_000_000 + JSONL)
    config = write_config(tmp_path)
    with engine(tmp_path, "--config", str(config), "--ingest", "replay", "--replay-file", "t.jsonl") as running:
        running.wait_line("pipeline running")
        assert running.stop() == 0
        assert not running.messages("nothing to replay")


@pytest.mark.claim("N2b")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40), st.sampled_from([b"", *(raw[:6] for raw, _ in OTHERS.values()), b"{", b"[", b" [ {"]))
def test_N2b_the_first_bytes_decide_and_never_raise(tail: bytes, head: bytes) -> None:
    reason = why_no_lines(head + tail)
    assert reason is None or "first" in reason or "jq" in reason
    assert why_no_lines(b"{" + tail.replace(b"\0", b"")) is None


@pytest.mark.claim("N2")
@pytest.mark.parametrize(
    "count", [0, 1, STEP_TICKS - 1, STEP_TICKS, STEP_TICKS + 1, 2 * STEP_TICKS, 2 * STEP_TICKS + 1]
)
def test_a_file_is_read_whole_and_in_order_whatever_its_steps(tmp_path: Path, count: int) -> None:
    """No line is lost or comes twice where one step ends and the next begins."""
    path = tmp_path / "ticks.jsonl"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(count)))
    steps = []
    with path.open("rb") as file:
        reader = replay._LineReader(file)
        while lines := reader.step():
            steps.append([int(line) for line in lines])
    assert [number for step in steps for number in step] == list(range(count))
    assert all(len(step) == STEP_TICKS for step in steps[:-1])


@pytest.mark.claim("N2", "B5")
def test_long_lines_end_a_step_early_and_one_without_an_end_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MAX_MESSAGE_BYTES", 10)
    path = tmp_path / "ticks.jsonl"
    path.write_bytes(b"123456\n" * 3 + b"x" * 95 + b"\nlast\n")
    steps = []
    with path.open("rb") as file:
        reader = replay._LineReader(file)
        while (lines := reader.step()) is not None:
            steps.append(lines)
    # What is skipped is skipped in steps too: nobody else may have to wait for the end of such a line.
    assert steps == [[b"123456\n"] * 2, [b"123456\n", b"x" * 11], *[[]] * 7, [b"last\n"]]


HOLE_BYTES = 64 << 30
"""Takes minutes to read, and no room on the disk."""


def holes(path: Path, head: bytes, tail: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(HOLE_BYTES)
        if tail:
            file.seek(0, os.SEEK_END)
            file.write(tail)


RECORDING = (
    b'{"recording":1,"source":"k","url":"wss://ws.kraken.com/v2","symbol":"X","run":"r","venue":"kraken",'
    b'"markets":{"BTC/USD":"X"}}\n'
)
RECORDED = b'{"event":"received","at":1795741323052001,"text":"{\\"channel\\":\\"heartbeat\\"}"}\n'
ENDLESS: dict[str, Callable[[Path], object]] = {
    "zeros": lambda path: holes(path, b""),
    "a recording, and zeros": lambda path: holes(path, RECORDING, RECORDED),
    "a packed recording, and zeros": lambda path: holes(path, gzip.compress(RECORDING), gzip.compress(RECORDED)),
    "a packed recording, and blank lines": lambda path: path.write_bytes(
        gzip.compress(RECORDING) + gzip.compress(b"\n" * (64 << 20)) * 8
    ),
}


@pytest.mark.slow
@pytest.mark.claim("E6", "N2b", "N20")
@pytest.mark.parametrize("what", ENDLESS)
def test_E6_a_stop_does_not_wait_for_the_end_of_a_file_in_which_nothing_comes(tmp_path: Path, what: str) -> None:
    """The file is being read in another thread, which no process ends without."""
    path = tmp_path / "replay"
    ENDLESS[what](path)
    config = write_config(tmp_path, {"engine": {"replay_file": str(path)}})
    with engine(tmp_path, "--config", str(config), "--ingest", "replay") as running:
        running.wait_heartbeats(2)
        assert running.stop() == 0
        assert running.messages("shutdown complete")


class Endless(io.BytesIO):
    """A file whose zeros do not end."""

    def read(self, size: int | None = -1) -> bytes:
        """Its next bytes, up to more than anybody needs to see."""
        assert self.tell() < 64 << 20, "nobody would read so far"
        found = super().read(size)
        self.seek(self.tell() + (size or 0) - len(found))
        return found.ljust(size or 0, b"\0")


@pytest.mark.slow
@pytest.mark.claim("E6", "N20")
@pytest.mark.parametrize(
    "head",
    [b"", gzip.compress(b""), gzip.compress(b"") * 1_000_000],
    ids=["zeros", "gzip of nothing", "gzip of nothing, very often"],
)
def test_E6_a_start_reads_only_so_far_to_know_a_recording(head: bytes) -> None:
    assert tape._Lines(Endless(head)).head() == b""


@pytest.mark.claim("N20", "N2b")
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "packed"])
@pytest.mark.parametrize("before", [codecs.BOM_UTF8, b"\n\n \r\n", codecs.BOM_UTF8 + b"\n"])
def test_N20_a_recording_is_known_whatever_an_editor_put_before_it(
    tmp_path: Path, before: bytes, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "replay"
    path.write_bytes(pack(before + RECORDING + RECORDED))
    found = tape.find(path)
    assert found is not None
    assert found.header.source == "k"
    assert len(found.read(10)) == 1
    found.close()


class Meddler:
    """An inlet that does something to the file with the first ticks."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self._meddle: list[Callable[[], object]] = [meddle]

    def deliver(self, ticks: list[Tick], numbers: Numbers = ()) -> int:
        if self._meddle:
            self._meddle.pop()()
        return len(ticks)

    def answer(self) -> None:
        pass


@pytest.mark.claim("N8", "N2b")
@pytest.mark.parametrize(("unusable", "ends"), [(2, False), (3, True)])
def test_N8_N2b_too_many_unusable_lines_in_a_row_end_a_replay_that_has_read_ticks_too(
    tmp_path: Path, unusable: int, ends: bool
) -> None:
    """As exit 11, and not as a file that was read to its end."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(line(1) + b"junk\n" * unusable + line(2))
    feed = replay.FileReplayFeed(Meddler(lambda: None), path, 3)  # type: ignore[arg-type]
    if ends:
        with pytest.raises(ProtocolChanged, match="3 unusable messages in a row"):
            engine_loop.run(feed.run())
    else:
        engine_loop.run(feed.run())


@pytest.mark.claim("N2b")
def test_N2b_a_file_that_begins_with_too_many_unusable_lines_is_read_no_further(tmp_path: Path) -> None:
    """What is wrong with it is what the first line says, and nothing of it becomes a tick."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"junk\n" * STEP_TICKS + line(1) + b"\n" + line(2))
    inlet = Books(Intake(1, 1))
    feed = replay.FileReplayFeed(inlet, path, 3)
    with pytest.raises(ProtocolChanged, match="no usable line; line 1: not JSON") as refused:
        engine_loop.run(feed.run())
    assert refused.value.details == {"parse_errors": STEP_TICKS, "lines": STEP_TICKS}
    assert inlet.intake.parsed == 0


@pytest.mark.claim("N2b")
@pytest.mark.parametrize(
    ("meddle", "told"),
    [
        (lambda path: os.truncate(path, 100), None),
        (lambda path: path.open("ab").write(line(7)), 1),
        (lambda path: os.utime(path, (1, 1)), 1),
        (lambda path: None, 0),
        (lambda path: path.unlink(), 0),
    ],
    ids=["cut off", "longer", "changed", "left alone", "deleted"],
)
def test_N2b_a_file_that_is_changed_while_it_is_replayed_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, meddle: Callable[[Path], object], told: int | None
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(JSONL * (2 * STEP_TICKS // len(LINES)))
    feed = replay.FileReplayFeed(Meddler(lambda: meddle(path)), path, 100)  # type: ignore[arg-type]
    if told is None:
        with pytest.raises(ConfigError, match=r"cut off while it was replayed, from \d+ to 100 bytes"):
            engine_loop.run(feed.run())
    else:
        engine_loop.run(feed.run())
        assert [record.message for record in caplog.records].count(
            "the replay file was changed while it was replayed"
        ) == told
