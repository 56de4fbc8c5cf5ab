"""What a person sees while something takes its time."""

from __future__ import annotations

import io

import pytest

from harness.base import terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_colour_is_for_terminals_and_for_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.coloured(Terminal())
    assert not terminal.coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "")  # Set to nothing: as if it were not set.
    assert terminal.coloured(Terminal())
    monkeypatch.setenv("NO_COLOR", "0")
    assert not terminal.coloured(Terminal())


def test_a_terminal_that_cannot_go_back_gets_neither_colour_nor_redrawn_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.coloured(Terminal())
    assert not terminal.redraws(Terminal())


def test_a_redrawn_line_fits_and_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    stream = Terminal()
    with terminal.redrawn(stream) as show:
        show("installing the engine")
        show("done")
    assert stream.getvalue() == "\r\x1b[Kinstallin\r\x1b[Kdone\r\x1b[K"


def test_nothing_is_redrawn_in_a_pipe() -> None:
    stream = io.StringIO()
    with terminal.redrawn(stream) as show:
        show("installing the engine")
    assert stream.getvalue() == ""
