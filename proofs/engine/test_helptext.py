"""`--help` of the engine is laid out as the harness lays out its own (contract U1)."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from engine.base import helptext

pytestmark = pytest.mark.claim("U1")

ROOT = Path(__file__).resolve().parents[2]


def helped(columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    parser = argparse.ArgumentParser(
        prog="x", formatter_class=helptext.HelpFormatter,
        epilog="One\ntwo.\n\nexamples:\n  x --place somewhere --often",
    )  # fmt: skip
    parser.add_argument("--place", metavar="one|another|some/third", help="where it is, in a few more words")
    parser.add_argument("--often", action="store_true")
    return parser.format_help()


def test_prose_is_wrapped_and_examples_stay_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = helped(120, monkeypatch)
    assert "\nOne two.\n\nexamples:\n  x --place somewhere --often\n" in wide
    narrow = helped(26, monkeypatch)
    assert "\n  x --place somewhere\n      --often\n" in narrow
    assert max(map(len, narrow.splitlines())) <= 26
    assert set(wide.split()) - set(narrow.split()) == set()


OPTIONS = {
    120: """\
options:
  -h, --help            show this help message and exit
  --place one|another|some/third
                        where it is, in a few more words
  --often
""",
    # Two less are the width: from 60 on what a flag does stands beside it.
    62: """\
options:
  -h, --help            show this help message and exit
  --place one|another|some/third
                        where it is, in a few more words
  --often
""",
    61: """\
options:
  -h, --help
    show this help message and exit
  --place one|another|some/third
    where it is, in a few more words
  --often
""",
    26: """\
options:
  -h, --help
    show this help
    message and exit
  --place
  one|another|some/third
    where it is, in a
    few more words
  --often
""",
}
"""By the columns of the terminal."""


@pytest.mark.parametrize("columns", OPTIONS)
def test_each_flag_says_what_it_does_beside_it_or_below(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = helped(columns, monkeypatch)
    assert found[found.index("options:") : found.index("\nOne")] == OPTIONS[columns]


@pytest.mark.parametrize(("columns", "longest"), [(40, 38), (102, 100), (103, 100), (300, 100)])
def test_prose_is_as_wide_as_the_terminal_but_no_wider_than_one_reads(
    columns: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    parser = argparse.ArgumentParser(prog="x", formatter_class=helptext.HelpFormatter, description="a " * 500)
    lines = [line for line in parser.format_help().splitlines() if line.startswith("a a")]
    assert max(map(len, lines)) in (longest, longest - 1)


def test_engine_and_harness_lay_out_alike() -> None:
    """They share no code, and say the same: who changes one changes the other."""
    ours = (ROOT / "engine/base/helptext.py").read_text().partition("NARROW_COLUMNS")[2]
    theirs = (ROOT / "harness/base/arguments.py").read_text().partition("NARROW_COLUMNS")[2]
    assert ours.strip() == theirs.partition("class CommandParser")[0].strip()
