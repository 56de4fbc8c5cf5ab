"""The kinds of line that a flight record has, and how a line is read back.

A record comes from anybody: its digests say that nobody changed it afterwards, not that a recorder of ours wrote it.
So a line is checked by pydantic before anything else sees it, and every reader (the buglog, a bundle, the checkers)
gets a `RecordLine`: one class for each kind, whose members have the types below.

The classes are plain dataclasses, because whoever writes a record must not wait for pydantic to be loaded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from harness.evidence.verdict import ClauseId, Verdict

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, TypeAdapter
    from pydantic_core import CoreSchema

SECONDS_MAX = 253_402_300_799
"""The last second of the year 9999, beyond which nothing here can show a time."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(value: object) -> bool:
    """Return whether it is a SHA-256 in hex, and so the name of a long text's file and of nothing else."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


class _AnyText:
    """Says that any str is right: also one with a lone surrogate, which pydantic refuses and which a path may hold."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(str)


class _Strict:
    """Says that a value must be of this very type: a text is not a number, and neither is true."""

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        strict: dict[type, CoreSchema] = {
            bool: core_schema.bool_schema(strict=True),
            int: core_schema.int_schema(strict=True),
            float: core_schema.float_schema(strict=True),
        }
        return strict[source]


@dataclass(frozen=True)
class _Which:
    """Says what must hold of a value beside its type."""

    holds: Callable[[object], bool]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: object) -> object:
        if not self.holds(value):
            raise ValueError("is out of range")
        return value


def _in_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= SECONDS_MAX


Text: TypeAlias = Annotated[str, _AnyText()]
Clause: TypeAlias = Annotated[ClauseId, _AnyText()]
Whole: TypeAlias = Annotated[int, _Strict()]
Flag: TypeAlias = Annotated[bool, _Strict()]
Seconds: TypeAlias = Annotated[float, _Strict(), _Which(_in_time)]
Digest: TypeAlias = Annotated[str, _AnyText(), _Which(is_digest)]


@dataclass(frozen=True)
class LongText:
    """A text that is kept in a file of its own, with its beginning and its end."""

    blob: Digest
    """SHA-256 of the whole, which is the file's name."""
    bytes: Whole
    head: Text
    tail: Text


@dataclass(frozen=True)
class LongBytes:
    """Bytes that are not text, kept in a file of their own."""

    blob: Digest
    bytes: Whole
    binary: Literal[True]


@dataclass(frozen=True)
class ShortBytes:
    """Bytes that are not text."""

    base64: Text


Kept: TypeAlias = Text | LongText | LongBytes | ShortBytes
"""A text, or bytes, as the record keeps it."""


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """What every line has."""

    run: Text
    worker: Text
    seq: Whole
    at: Seconds
    """Seconds since the Unix epoch."""
    proof: Text
    """The proof that ran when the line was written; empty between proofs."""
    sha256: str = ""
    """The digest that the line bears."""


@dataclass(frozen=True, kw_only=True)
class RunLine(_Recorded):
    """What a run is."""

    systemd: Text
    """Which systemd its machines are of."""
    facts: dict[Text, Text]
    """Of the host and the checkout."""
    clauses: dict[Clause, Text]
    """The contract's clauses and their words."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentLine(_Recorded):
    """An environment that commands run in."""

    digest: Text
    names: list[Text]


@dataclass(frozen=True, kw_only=True)
class IntentLine(_Recorded):
    """A command that is about to run."""

    argv: list[Text]
    cwd: Kept
    environment: Text
    """Digest of its environment."""


@dataclass(frozen=True, kw_only=True)
class ResultLine(_Recorded):
    """What came of a command."""

    intent: Whole
    """`seq` of its intent, of the same worker."""
    status: Whole
    """Exit status; minus the signal's number when a signal ended it."""
    stdout: Kept
    stderr: Kept
    seconds: Seconds


@dataclass(frozen=True, kw_only=True)
class WriteLine(_Recorded):
    """A file that the harness wrote."""

    path: Kept
    text: Kept | None
    """None: it was removed."""


@dataclass(frozen=True, kw_only=True)
class MachineLine(_Recorded):
    """What happened to a machine."""

    name: Text
    variant: Text
    event: Text


@dataclass(frozen=True, kw_only=True)
class UnitLine(_Recorded):
    """A unit as systemd has it."""

    name: Text
    text: Kept
    """Fragment and drop-ins."""


@dataclass(frozen=True, kw_only=True)
class JournalLine(_Recorded):
    """An entry of a machine's journal."""

    unit: Text
    by: Text
    """Who wrote it: SYSLOG_IDENTIFIER."""
    message: Kept


@dataclass(frozen=True, kw_only=True)
class LedgerLine(_Recorded):
    """What an engine's database held when a proof read it, in the order of its rows."""

    ticks: list[tuple[Whole, Text, Whole | None, Whole]]
    """id, symbol, trade id, time (ms)."""
    signals: list[tuple[Whole, Whole, Text]]
    """id, id of the tick, side."""
    orders: list[Text]
    """Their ids."""
    fills: list[tuple[Whole, Text, Text, Text, Text, Text, Text]]
    """id, symbol, side, and as exact decimals quantity, price, fees, what it did to the cash."""
    caps: dict[Text, Text]
    """`exposure` and `symbol_exposure` of the run, as exact decimals; what is not known is absent."""


@dataclass(frozen=True, kw_only=True)
class VerdictLine(_Recorded):
    """A verdict on `proof`."""

    verdict: Verdict
    claims: list[Clause]
    reason: Kept
    seconds: Seconds
    about: Kept
    told: Kept = ""
    """All that pytest said, of one that is not proven."""


@dataclass(frozen=True, kw_only=True)
class SabotageLine(_Recorded):
    """How a sabotage was taken by its proof."""

    id: Text
    guardrail: Text
    breaks: Text
    confirmed: Text
    verdict: Text
    reason: Kept


@dataclass(frozen=True, kw_only=True)
class SinceLine(_Recorded):
    """What is new in a run since earlier ones (harness/evidence/history.py)."""

    before: Text
    """The run before; empty when there was none."""
    counts: dict[Text, Whole]
    """How many proofs are new in each of the next respects."""
    gone: Whole
    """How many proofs of an earlier run are no more."""
    broken: list[Text]
    """Proofs that were proven and are not, as many as are named; likewise the next."""
    mended: list[Text]
    added: list[Text]
    flaky: list[Text]


@dataclass(frozen=True, kw_only=True)
class EndLine(_Recorded):
    """The last line of a record that came to its end."""

    lines: Whole
    """Lines before this one."""
    counts: dict[Text, Whole]
    """Verdict -> how many proofs have it."""
    interrupted: Flag
    systemd: Text
    planned: list[Clause]
    accepted_unproven: list[Clause]
    state: Text = ""
    collected: Whole = 0
    selected: Whole = 0
    never_ran: Whole = 0
    status: Whole | None = None
    """Exit status, of a run that is a command's, such as a soak; None of a run of proofs."""


@dataclass(frozen=True, kw_only=True)
class OtherLine(_Recorded):
    """A line of a kind that this version does not know."""

    type: Text
    members: Mapping[str, object]


RecordLine: TypeAlias = (
    RunLine | EnvironmentLine | IntentLine | ResultLine | WriteLine | MachineLine | UnitLine | JournalLine | LedgerLine
    | VerdictLine | SabotageLine | SinceLine | EndLine | OtherLine
)  # fmt: skip
"""Any line of a record. Which class it is says `type`."""

KINDS: Mapping[str, type[RecordLine]] = {
    "run": RunLine,
    "environment": EnvironmentLine,
    "intent": IntentLine,
    "result": ResultLine,
    "write": WriteLine,
    "machine": MachineLine,
    "unit": UnitLine,
    "journal": JournalLine,
    "ledger": LedgerLine,
    "verdict": VerdictLine,
    "sabotage": SabotageLine,
    "since": SinceLine,
    "end": EndLine,
}
"""`type` -> the class of its lines."""

_ENVELOPE = tuple(one.name for one in fields(_Recorded) if one.name != "sha256")


def parse(body: bytes) -> dict[str, object]:
    """Read a line's JSON. Raises ValueError that says what is wrong with it."""
    try:
        entry = json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error.reason}") from None
    if not isinstance(entry, dict):
        raise ValueError("it is not an object")
    return entry


def of(entry: Mapping[str, object], sha256: str = "") -> RecordLine:
    """Make a line of its members. Raises ValueError that names those that are missing or not what a recorder writes."""
    from pydantic import ValidationError

    if lacking := [name for name in (*_ENVELOPE, "type") if name not in entry]:
        raise ValueError(f"it has no {', '.join(lacking)}")
    kind = entry["type"]
    given: Mapping[str, object] = entry
    if not isinstance(kind, str):
        raise ValueError("its type is not what a recorder writes")
    if kind not in KINDS:
        known = (*_ENVELOPE, "type", "prev")
        given = {
            **{name: entry[name] for name in (*_ENVELOPE, "type")},
            "members": {name: value for name, value in entry.items() if name not in known},
        }
    try:
        return _adapter(kind if kind in KINDS else "").validate_python({**given, "sha256": sha256})
    except ValidationError as error:
        found = error.errors()
    lacking = [str(one["loc"][0]) for one in found if one["type"] == "missing" and len(one["loc"]) == 1]
    if lacking:
        raise ValueError(f"it has no {', '.join(lacking)}")
    wrong = list(dict.fromkeys(str(one["loc"][0]) for one in found))
    raise ValueError(f"its {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not what a recorder writes")


@cache
def _adapter(kind: str) -> TypeAdapter[RecordLine]:
    # Here, because it takes longer to load than most who import this module take to run.
    from pydantic import TypeAdapter

    return TypeAdapter(KINDS.get(kind, OtherLine))


def long_texts(line: RecordLine) -> Iterator[tuple[str, object]]:
    """Name the members of a line that are kept in files of their own, each with the digest that it gives."""
    if isinstance(line, OtherLine):
        for name, value in line.members.items():
            if isinstance(value, Mapping) and "blob" in value:
                yield name, value["blob"]
        return
    for one in fields(line):
        value = getattr(line, one.name)
        if isinstance(value, LongText | LongBytes):
            yield one.name, value.blob


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a number that can be held")
    return number
