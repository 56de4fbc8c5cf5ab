"""What a line of a flight record holds (contract V8)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence import lines

pytestmark = pytest.mark.claim("V8")

ENVELOPE = {"run": "r", "worker": "gw0", "seq": 1, "at": 1.5, "proof": "", "type": "note", "prev": "0" * 64}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def refused(body: bytes) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        lines.parse(body)
    return str(error.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Expecting value"),
        (b"[]", "not an object"),
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"at":1e400}', "1e400 is not a number that can be held"),
        (b'{"at":NaN}', "NaN is not a number"),
        (b'{"at":-Infinity}', "-Infinity is not a number"),
        (b'{"seq":' + b"9" * 5000 + b"}", "digits"),
        (b'{"run":"\xff"}', "not UTF-8"),
        (b"\0", "Expecting value"),
        (b"{}", "it has no run, worker, seq, at, proof, type"),
    ],
)
def test_what_is_no_line(body: bytes, says: str) -> None:
    assert says in refused(body)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"at": "now"}, "its at is not"),
        ({"at": True}, "its at is not"),
        ({"at": -1}, "its at is not"),
        ({"at": 10**400}, "its at is not"),
        ({"seq": 1.5, "run": None}, "its run, seq are not"),
        ({"type": ["note"]}, "its type is not"),
        ({"type": "verdict", "verdict": "green"}, "its verdict is not"),
        ({"type": "verdict", "verdict": ["proven"]}, "its verdict is not"),
        ({"type": "verdict", "claims": "E2"}, "its claims is not"),
        (
            {"type": "result", "stdout": {"blob": "../../../etc/passwd", "bytes": 1, "binary": True}},
            "its stdout is not",
        ),
        ({"type": "result", "stdout": {"blob": "0" * 64, "bytes": 1, "head": "x"}}, "its stdout is not"),
        ({"type": "journal", "message": {"base64": 5}}, "its message is not"),
        ({"type": "run", "facts": {"kernel": 6.1}}, "its facts is not"),
        ({"type": "end"}, "it has no lines"),
        ({"type": "end", "lines": 1, "never_ran": "none"}, "its never_ran is not"),
    ],
)
def test_what_no_recorder_writes(changed: dict[str, Any], says: str) -> None:
    assert lines.problem(ENVELOPE) == ""
    assert says in lines.problem({**ENVELOPE, **changed})


@given(st.dictionaries(st.sampled_from([*ENVELOPE, "facts", "verdict", "claims", "lines", "stdout"]), JSON))
def test_any_members_are_judged(changed: dict[str, Any]) -> None:
    entry = {**ENVELOPE, **changed}
    told = lines.problem(entry)
    body = json.dumps(entry).encode()
    if told:
        assert refused(body) == told
    else:
        assert lines.parse(body) == entry
        assert lines.missing(entry) is not None


def test_what_is_missing() -> None:
    assert lines.missing(ENVELOPE) == []
    assert lines.missing({**ENVELOPE, "type": "machine", "name": "m"}) == ["variant", "event"]
