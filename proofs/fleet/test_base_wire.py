"""What a message of the stream says (contract F1, F3)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.base import wire
from fleet.base.tables import ORDER_EVENTS, TABLES, TICKS, Table
from fleet.base.wire import Message

TICK = (7, 1_795_000_000_000, "ÄÖ/€", 0.1 + 0.2, 1e-9, "binance", 2**62, None)
MESSAGE = Message("one", TICKS, 3, {"id": 6}, {"id": 7}, [TICK], TICK)

VALUES = {
    "int": st.integers(-(2**63), 2**63 - 1), "ts": st.integers(0, 10**14), "exact": st.just("-1.50"),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "text": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
}  # fmt: skip


def rows(table: Table) -> st.SearchStrategy[list[Any]]:
    row = [VALUES[kind] if name in table.key or kind == "ts" else VALUES[kind] | st.none()
           for name, kind in table.columns.items()]  # fmt: skip
    return st.lists(st.tuples(*row), max_size=4)


@pytest.mark.claim("F1", "F3")
@given(st.sampled_from(sorted(TABLES)).flatmap(lambda name: st.tuples(st.just(TABLES[name]), rows(TABLES[name]))))
def test_a_message_is_read_as_it_was_written(case: tuple[Table, list[Any]]) -> None:
    table, found = case
    last = found[-1] if found else None
    message = Message("acct-1", table, 3, None, {"id": 1, "open": {"x": 0}}, found, last)
    assert wire.decode(wire.encode(message), f"hybrid.acct-1.{table.name}") == message


@pytest.mark.claim("F1")
def test_a_message_without_rows_says_which_row_was_the_last() -> None:
    mark = Message("one", TICKS, 3, {"id": 7}, {"id": 7}, [], TICK)
    assert wire.decode(wire.encode(mark), "hybrid.one.ticks") == mark


@pytest.mark.claim("F1")
def test_an_id_has_instance_table_and_key_and_is_ascii() -> None:
    assert wire.message_id("one", "ticks", TICK) == "one.ticks.7"
    event = ("paper-ö.1", 2, 5, "FILLED", "", "1", None)
    assert wire.message_id("one", ORDER_EVENTS.name, event) == "one.order_events.paper-%C3%B6%2E1.2"


@pytest.mark.claim("F3")
def test_columns_that_are_new_or_missing_are_no_fault() -> None:
    found = json.loads(wire.encode(MESSAGE))
    found["columns"] = [*found["columns"][:-1], "colour"]
    assert wire.decode(json.dumps(found).encode(), "hybrid.one.ticks").rows == [TICK]


@pytest.mark.claim("F3")
@pytest.mark.parametrize(
    ("change", "reason"),
    [({"v": 2}, "version 2; this one reads 1"), ({"instance": "two"}, "came on hybrid.one.ticks"),
     ({"instance": "a.b"}, "names no instance"), ({"table": "secrets"}, "no table"), ({"to": None}, "how far"),
     ({"rows": None}, "no rows"), ({"rows": [[1]]}, "more or fewer values"), ({"columns": []}, "more or fewer values"),
     ({"rows": [["x"] + [None] * 7]}, "id is 'x', which is no int")],
)  # fmt: skip
def test_what_is_no_message_says_why(change: dict[str, Any], reason: str) -> None:
    found = {**json.loads(wire.encode(MESSAGE)), **change}
    with pytest.raises(ValueError, match=reason):
        wire.decode(json.dumps(found).encode(), "hybrid.one.ticks")


@pytest.mark.slow
@pytest.mark.claim("F3")
@given(st.binary() | st.just(b"[" * 100_000) | st.recursive(st.none() | st.integers() | st.text(), lambda inner:
       st.lists(inner) | st.dictionaries(st.text(), inner)).map(lambda tree: json.dumps(tree).encode()))  # fmt: skip
def test_no_bytes_are_more_than_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        wire.decode(data, "hybrid.one.ticks")
