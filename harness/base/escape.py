"""Text from anywhere -> text that a reader sees all of: what a terminal or a page would obey or hide is spelled out.

An ESC moves the cursor, a bidirectional override turns a line round, a zero-width character hides in a word, a lone
surrogate (an undecodable byte of a file name) is in no encoding at all. Each stands as Python writes it: `\\x1b`,
`\\u202e`, `\\udcff`. Line feeds and tabs stay.
"""

from __future__ import annotations

import re

_OBEYED_OR_HIDDEN = re.compile(
    # C0, DEL and C1 without tab and line feed, surrogates, line and paragraph separators, format characters (Cf).
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029"
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0001-\U000e007f]"
)


def shown(text: str) -> str:
    """Return the text with nothing in it that is not seen; it can be encoded as UTF-8."""
    return _OBEYED_OR_HIDDEN.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
