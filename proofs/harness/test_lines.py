"""What a line of a flight record holds (contract V8)."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence import lines
from harness.evidence.lines import (
    EndLine,
    LongBytes,
    LongText,
    MachineLine,
    OtherLine,
    RecordLine,
    ShortBytes,
    VerdictLine,
    WriteLine,
)
from harness.evidence.verdict import Verdict

pytestmark = pytest.mark.claim("V8")

ENVELOPE = {"run": "r", "worker": "gw0", "seq": 1, "at": 1.5, "proof": "", "type": "note", "prev": "0" * 64}
BY_KIND: dict[str, dict[str, object]] = {
    "run": {"systemd": "private", "facts": {"kernel": "6.1"}, "clauses": {"E2": "words"}},
    "environment": {"digest": "d", "names": ["PATH"]},
    "intent": {"argv": ["true"], "cwd": "/", "environment": "d"},
    "result": {"intent": 1, "status": 0, "stdout": "x", "stderr": "", "seconds": 0.5},
    "write": {"path": "/etc/x", "text": None},
    "machine": {"name": "m", "variant": "private", "event": "booted"},
    "unit": {"name": "u.service", "text": "[Service]"},
    "journal": {"unit": "u.service", "by": "u", "message": "hello"},
    "ledger": {
        "ticks": [[1, "A", None, 1000]], "signals": [[1, 1, "BUY"]], "orders": ["o"],
        "fills": [[1, "A", "BUY", "1", "2", "0", "-2"]], "caps": {},
    },
    "verdict": {"verdict": "proven", "claims": ["E2"], "reason": "", "seconds": 1, "about": "x"},
    "sabotage": {"id": "s", "guardrail": "G0", "breaks": "x", "confirmed": "", "verdict": "refuted", "reason": "r"},
    "since": {
        "before": "", "counts": {"broken": 1}, "gone": 0, "broken": ["p"], "mended": [], "added": [], "flaky": [],
    },
    "end": {
        "lines": 3, "counts": {"proven": 1}, "interrupted": False, "systemd": "private", "planned": [],
        "accepted_unproven": [],
    },
}  # fmt: skip
"""Of each kind what every line holds."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def line(kind: str, **changed: object) -> RecordLine:
    return lines.of({**ENVELOPE, **BY_KIND.get(kind, {}), "type": kind, **changed}, "d" * 64)


def refused(kind: str, **changed: object) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        line(kind, **changed)
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
    ],
)
def test_what_is_no_line(body: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        lines.parse(body)
    assert says in str(error.value)
    with pytest.raises(ValueError, match="it has no run, worker, seq, at, proof, type"):
        lines.of({})


@pytest.mark.parametrize(
    ("kind", "changed", "says"),
    [
        ("note", {"at": "now"}, "its at is not"),
        ("note", {"at": True}, "its at is not"),
        ("note", {"at": -1}, "its at is not"),
        ("note", {"at": 10**400}, "its at is not"),
        ("note", {"seq": 1.5, "run": None}, "its run, seq are not"),
        ("note", {"seq": "1"}, "its seq is not"),
        ("note", {"type": ["note"]}, "its type is not"),
        ("verdict", {"verdict": "green"}, "its verdict is not"),
        ("verdict", {"verdict": ["proven"]}, "its verdict is not"),
        ("verdict", {"claims": "E2"}, "its claims is not"),
        ("verdict", {"claims": [2]}, "its claims is not"),
        ("result", {"stdout": {"blob": "../../../etc/passwd", "bytes": 1, "binary": True}}, "its stdout is not"),
        ("result", {"stdout": {"blob": "0" * 64, "bytes": 1, "head": "x"}}, "its stdout is not"),
        ("result", {"stdout": {"blob": "0" * 64, "bytes": "1", "binary": True}}, "its stdout is not"),
        ("result", {"status": True, "seconds": "1"}, "its status, seconds are not"),
        ("journal", {"message": {"base64": 5}}, "its message is not"),
        ("run", {"facts": {"kernel": 6.1}}, "its facts is not"),
        ("end", {"never_ran": "none"}, "its never_ran is not"),
        ("end", {"interrupted": 0}, "its interrupted is not"),
    ],
)
def test_what_no_recorder_writes(kind: str, changed: dict[str, object], says: str) -> None:
    assert says in refused(kind, **changed)


@pytest.mark.parametrize("kind", BY_KIND)
def test_each_kind_is_a_class_of_its_own_and_needs_its_members(kind: str) -> None:
    assert type(line(kind)) is lines.KINDS[kind]
    with pytest.raises(ValueError, match=f"it has no {', '.join(BY_KIND[kind])}"):
        lines.of({**ENVELOPE, "type": kind})


DEFAULTS: dict[str, dict[str, object]] = {
    "verdict": {"told": ""},
    "end": {"state": "", "collected": 0, "selected": 0, "never_ran": 0, "status": None},
}
"""What recorders of earlier versions did not write."""


def test_the_table_has_every_kind() -> None:
    assert set(BY_KIND) == set(lines.KINDS)


@pytest.mark.parametrize("kind", BY_KIND)
def test_what_an_earlier_recorder_did_not_write_is_empty(kind: str) -> None:
    envelope = {"run", "worker", "seq", "at", "proof", "sha256"}
    members = {name: value for name, value in dataclasses.asdict(line(kind)).items() if name not in envelope}
    assert {name: value for name, value in members.items() if name not in BY_KIND[kind]} == DEFAULTS.get(kind, {})


def test_a_line_is_what_its_members_say() -> None:
    assert line("machine") == MachineLine(
        run="r", worker="gw0", seq=1, at=1.5, proof="", sha256="d" * 64, name="m", variant="private", event="booted"
    )
    verdict = line("verdict", told="a\ud800")
    assert isinstance(verdict, VerdictLine)
    assert (verdict.verdict, verdict.told) == (Verdict.PROVEN, "a\ud800")
    end = line("end")
    assert isinstance(end, EndLine)
    assert (end.lines, end.counts, end.interrupted) == (3, {"proven": 1}, False)


def test_a_kind_that_is_not_known_holds_what_it_likes() -> None:
    other = line("note", text={"blob": "x"}, number=5)
    assert isinstance(other, OtherLine)
    assert (other.type, other.members) == ("note", {"text": {"blob": "x"}, "number": 5})
    assert list(lines.long_texts(other)) == [("text", "x")]


def test_what_is_long_is_named_with_its_digest() -> None:
    digest = "a" * 64
    long = line("write", path={"base64": "eA=="}, text={"blob": digest, "bytes": 9, "head": "h", "tail": "t"})
    assert isinstance(long, WriteLine)
    assert (long.path, long.text) == (ShortBytes("eA=="), LongText(digest, 9, "h", "t"))
    assert list(lines.long_texts(long)) == [("text", digest)]
    out = line("result", stdout={"blob": digest, "bytes": 9, "binary": True})
    assert list(lines.long_texts(out)) == [("stdout", digest)]
    assert getattr(out, "stdout", None) == LongBytes(digest, 9, True)


MEMBERS = sorted({*ENVELOPE, *(name for members in BY_KIND.values() for name in members)})


@given(st.sampled_from([*BY_KIND, "note"]), st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=3))
def test_any_members_are_judged(kind: str, changed: dict[str, object]) -> None:
    body = json.dumps({**ENVELOPE, **BY_KIND.get(kind, {}), "type": kind, **changed}).encode()
    made: RecordLine | str
    try:
        made = lines.of(lines.parse(body))
    except ValueError as error:
        made = str(error)
    if isinstance(made, str):
        assert made.startswith(("its ", "it has no "))
    else:
        assert isinstance(made, lines.KINDS.get(json.loads(body)["type"], OtherLine))
