"""What the lines of a flight record hold, and what is wrong with one that holds something else.

A record comes from anybody: its digests say that nobody changed it afterwards, not that a recorder of ours wrote it.
So whatever reads it (the buglog, a bundle) may rely on the types below, and no value in it ends a reader.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from harness.evidence.verdict import Verdict

SECONDS_MAX = 253_402_300_799
"""The last second of the year 9999, beyond which nothing here can show a time."""

_DIGEST = re.compile(r"[0-9a-f]{64}")

Check = Callable[[Any], bool]


def _str(value: Any) -> bool:
    return isinstance(value, str)


def _int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bool(value: Any) -> bool:
    return isinstance(value, bool)


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= SECONDS_MAX


def _strs(value: Any) -> bool:
    return isinstance(value, list) and all(map(_str, value))


def _named(check: Check) -> Check:
    return lambda value: isinstance(value, Mapping) and all(map(check, value.values()))


def is_digest(value: Any) -> bool:
    """Whether it is a SHA-256 in hex, and so the name of a long text's file and of nothing else."""
    return _str(value) and _DIGEST.fullmatch(value) is not None


def _text(value: Any) -> bool:
    """A text as the record keeps it: whole, with its middle in a file, or bytes."""
    if not isinstance(value, Mapping):
        return _str(value)
    if "base64" in value:
        return _str(value["base64"])
    whole = is_digest(value.get("blob")) and _int(value.get("bytes"))
    return whole and (value.get("binary") is True or (_str(value.get("head")) and _str(value.get("tail"))))


def _verdict(value: Any) -> bool:
    return value in list(Verdict)


_ENVELOPE: dict[str, Check] = {
    "run": _str, "worker": _str, "seq": _int, "at": _seconds, "proof": _str, "type": _str,
}  # fmt: skip
_KINDS: dict[str, dict[str, Check]] = {
    "run": {"systemd": _str, "facts": _named(_str), "clauses": _named(_str)},
    "environment": {"digest": _str, "names": _strs},
    "intent": {"argv": _strs, "cwd": _text, "environment": _str},
    "result": {"intent": _int, "status": _int, "stdout": _text, "stderr": _text, "seconds": _seconds},
    "write": {"path": _text, "text": lambda value: value is None or _text(value)},
    "machine": {"name": _str, "variant": _str, "event": _str},
    "unit": {"name": _str, "text": _text},
    "journal": {"unit": _str, "by": _str, "message": _text},
    "verdict": {"verdict": _verdict, "claims": _strs, "reason": _text, "seconds": _seconds, "about": _text},
    "sabotage": {
        "id": _str, "guardrail": _str, "breaks": _str, "confirmed": _str, "verdict": _str, "reason": _text,
    },
    "since": {
        "before": _str, "counts": _named(_int), "gone": _int, "broken": _strs, "mended": _strs, "added": _strs,
        "flaky": _strs,
    },
    "end": {
        "lines": _int, "counts": _named(_int), "interrupted": _bool, "systemd": _str, "planned": _strs,
        "accepted_unproven": _strs,
    },
}  # fmt: skip
"""Kind -> what every line of it holds. A line of another kind holds what it likes."""
_SOME: dict[str, dict[str, Check]] = {
    "verdict": {"told": _text},
    "end": {"state": _str, "collected": _int, "selected": _int, "never_ran": _int},
}
"""The same, of what a line may hold."""


def parse(body: bytes) -> dict[str, Any]:
    """A line's JSON. Raises ValueError that says what is wrong with it."""
    try:
        entry = json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error.reason}") from None
    if not isinstance(entry, dict):
        raise ValueError("it is not an object")
    if wrong := problem(entry):
        raise ValueError(wrong)
    return entry


def problem(entry: Mapping[str, Any]) -> str:
    """What is wrong with the members that a line has; empty when nothing is."""
    if lacking := [name for name in _ENVELOPE if name not in entry]:
        return f"it has no {', '.join(lacking)}"
    kind = entry["type"]
    checks = {**_ENVELOPE, **_KINDS.get(kind, {}), **_SOME.get(kind, {})} if _str(kind) else _ENVELOPE
    wrong = [name for name, check in checks.items() if name in entry and not check(entry[name])]
    if wrong:
        return f"its {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not what a recorder writes"
    return "it has no lines" if kind == "end" and "lines" not in entry else ""


def missing(entry: Mapping[str, Any]) -> list[str]:
    """What a line of this kind holds and this one does not: it cannot be rendered."""
    return [name for name in _KINDS.get(entry["type"], {}) if name not in entry]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a number that can be held")
    return number
