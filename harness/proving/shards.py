"""Which of several computers runs which tests, so that each takes about as long as the others (contract V16).

Tests of one function stay together: they share what its fixtures make. Whoever has the same tests and durations
divides them in the same way, in whatever order they come.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Mapping
from statistics import median

from harness.evidence.history import RunEntry
from harness.evidence.results import Shard
from harness.evidence.verdict import anchor

SHARDS_MAX = 1000

_SHARD = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})", re.ASCII)


def parse(text: str) -> tuple[int, int]:
    """`2/4`: the second of four. Raises ValueError that says what is allowed."""
    found = _SHARD.fullmatch(text)
    if found is None or not int(found[1]) <= int(found[2]) <= SHARDS_MAX:
        raise ValueError(f"{text!r}: must be N/OF, such as 2/4, with N from 1 to OF and OF at most {SHARDS_MAX}")
    return int(found[1]), int(found[2])


def durations(entries: Iterable[RunEntry], before: float, engine: str) -> dict[str, float]:
    """A proof's anchor() -> the seconds that it took last, in runs of an engine that had ended before a moment (seconds
    since the Unix epoch): all processes of a run know the same of those, whatever ends meanwhile. The oldest first."""
    found: dict[str, float] = {}
    for one in entries:
        if one.engine == engine and one.started + one.seconds < before:
            found |= one.proven
            found |= {anchor(proof): secs for proof, secs in {**one.refuted, **one.unproven}.items()}
    return found


def split(tests: Iterable[str], known: Mapping[str, float], of: int) -> dict[str, int]:
    """Test -> its shard, from 1. known: anchor() -> seconds; what is not there counts as the median of those that are.

    The longest first, each to the shard that has least until then: no shard exceeds the mean by more than one group.
    """
    usual = median(known.values()) if known else 1.0
    groups: dict[str, list[str]] = {}
    for test in tests:
        groups.setdefault(test.partition("[")[0], []).append(test)
    weights = {name: sum(known.get(anchor(test), usual) for test in sorted(group)) for name, group in groups.items()}
    loads = [(0.0, number) for number in range(1, of + 1)]
    found: dict[str, int] = {}
    # Names of the same weight in an order that has nothing to do with where they stand: neighbours are alike.
    for name in sorted(groups, key=lambda name: (-weights[name], anchor(name))):
        load, number = heapq.heappop(loads)
        heapq.heappush(loads, (load + weights[name], number))
        found |= dict.fromkeys(groups[name], number)
    return found


def made(number: int, of: int, shards: Mapping[str, int]) -> Shard:
    """What a run says of its part."""
    return Shard(number, of, hashlib.sha256(json.dumps(sorted(shards.items())).encode()).hexdigest())
