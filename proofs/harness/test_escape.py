"""Nothing that a terminal or a page would obey or hide is shown as it is (contract V6)."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.escape import shown

pytestmark = pytest.mark.claim("V6")

OBEYED_OR_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_every_control_and_format_character_is_spelled_out() -> None:
    """As this Python's Unicode has them."""
    missed = [
        f"U+{code:04X}"
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in OBEYED_OR_HIDDEN
        and chr(code) not in "\n\t"
        and shown(chr(code)) == chr(code)
    ]
    assert not missed


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("a\x00b\rc", "a\\x00b\\x0dc"),
        ("caf\udce9.db", "caf\\udce9.db"),
        ("abc\u202ecba", "abc\\u202ecba"),
        ("pass\u200bword", "pass\\u200bword"),
        ("tag\U000e0041", "tag\\U000e0041"),
    ],
)
def test_what_is_seen(text: str, seen: str) -> None:
    assert shown(text) == seen


@pytest.mark.slow
@given(st.text())
def test_all_else_stays_and_can_be_encoded(text: str) -> None:
    seen = shown(text)
    seen.encode()
    assert shown(seen) == seen
    if all(unicodedata.category(char) not in OBEYED_OR_HIDDEN or char in "\n\t" for char in text):
        assert seen == text
