"""JSON from and for others: what cannot be read is a ValueError whatever is wrong with it, and what is written is JSON
that every reader takes, whatever stands in it."""

from __future__ import annotations

import json
import math
from typing import Any

TEXT_MAX = 2000
"""Characters of one text that are written; the rest is cut off."""

EXACT_MAX = 2**53
"""Whole numbers beyond this are not exact in JavaScript, which takes every number for a double."""


def parse(text: str | bytes) -> Any:
    """Return a JSON document. ValueError when it is none, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def number(value: object) -> int | float | None:
    """Return a finite number of a sensible size, or None for everything else; true and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -1e300 < value < 1e300 else None


def whole(value: object) -> int | None:
    """Return a whole number that fits into 64 bits, or None for everything else."""
    known = number(value)
    return known if isinstance(known, int) and -(2**63) <= known < 2**63 else None


def text(value: object, default: str = "?") -> str:
    """Return a text, or a number as one; `default` for what a reader could not make sense of."""
    if isinstance(value, str):
        return value[:TEXT_MAX].encode("utf-8", "replace").decode("utf-8")
    known = number(value)
    return default if known is None else str(known)


def clean(value: Any) -> Any:
    """Return a tree of dicts, lists, texts and numbers as JSON can say it: no infinities, no lone surrogates, no text
    without end. What it cannot say becomes null."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return {text(key): clean(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [clean(one) for one in value]
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return value if abs(value) <= EXACT_MAX else clean(float(value) if abs(value) < 2**1000 else None)
    return value if isinstance(value, float) and math.isfinite(value) else None


def write(value: Any) -> str:
    """Return a tree as compact JSON, cleaned."""
    return json.dumps(clean(value), allow_nan=False, separators=(",", ":"))
