"""engine/logs.py: one JSON object a line, whatever is logged (M1, N8)."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import logs
from engine.exits import ConfigError, Crash


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


def test_M1_the_shape_of_a_line() -> None:
    line = json.loads(logs.format_record(record("HEARTBEAT (G4)", tick_count=61)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "level": "INFO",
        "fields": {"message": "HEARTBEAT (G4)", "tick_count": 61},
        "target": "engine.pipeline",
    }


@pytest.mark.parametrize(("level", "name"), [(logging.WARNING, "WARN"), (logging.ERROR, "ERROR"), (10, "DEBUG")])
def test_M1_level_names_are_those_of_tracing(level: int, name: str) -> None:
    assert json.loads(logs.format_record(record("x", level)))["level"] == name


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.binary(), inner),
    max_leaves=8,
)


@given(st.text(st.characters(codec=None)), st.dictionaries(st.text(), ANYTHING))
def test_M1_anything_logged_is_one_line_of_json(message: str, fields: dict[str, Any]) -> None:
    text = logs.format_record(record(message, **{f"k{key}": value for key, value in fields.items()}))
    assert "\n" not in text
    raw = text.encode("utf-8", "backslashreplace")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(raw, parse_constant=refuse)["fields"]["message"] == message


SPOKEN = st.text(st.characters(codec=None)) | st.text('\u2028\u2029\x00\x07\x1b\x7f\x85\x9b\u202e\u2066\ud800\n"\\é')


@given(SPOKEN, st.dictionaries(SPOKEN, SPOKEN | st.lists(SPOKEN) | st.just(float("nan"))))
def test_N17_a_line_is_printable_ascii_whatever_a_peer_said(said: str, fields: dict[str, Any]) -> None:
    """Nothing in it ends a line, moves a cursor or turns the text round; and nothing of it is lost."""
    line = logs.format_record(record(said, **{f"x{key}": value for key, value in fields.items()}))
    assert re.fullmatch(r"[ -~]+", line)
    read = json.loads(line)["fields"]
    assert read["message"] == said
    for key, value in fields.items():
        assert read[f"x{key}"] == value or not isinstance(value, str)


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


def test_M1_a_reader_that_went_away_costs_the_line_not_the_engine(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    handler = logs.JsonLines(write)
    handler.emit(record("nobody reads this"))
    assert handler.lost == 1


def test_M1_a_full_pipe_does_not_block(pipe: tuple[int, int]) -> None:
    _, write = pipe
    os.set_blocking(write, False)
    handler = logs.JsonLines(write)
    while not handler.lost:
        handler.emit(record("x" * 10_000))


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
