"""What a message of the stream says (contract F1, F3)."""

from __future__ import annotations

import json
from dataclasses import replace
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
     ({"rows": [["x"] + [None] * 7]}, "id is 'x', which is no int"),
     ({"v": None}, "version None; this one reads 1"), ({"instance": None}, "names no instance"),
     ({"instance": 1}, "names no instance"), ({"instance": ""}, "names no instance"),
     ({"table": None}, "no table"), ({"table": "signals"}, "is of one, signals, and came on hybrid.one.ticks"),
     ({"to": [7]}, "how far"), ({"from": 6}, "how far"), ({"from": []}, "how far"), ({"schema": None}, "how far"),
     ({"schema": "3"}, "how far"), ({"columns": None}, "no columns"), ({"columns": {}}, "no columns"),
     ({"rows": {}}, "no rows"), ({"rows": ["12345678"]}, "more or fewer values"),
     ({"rows": [[7, 1, "X", 1.0, 1.0, "a", 1]]}, "more or fewer values"),
     ({"rows": [], "last": [1]}, "more or fewer values"), ({"rows": [], "last": 7}, "more or fewer values"),
     ({"rows": [], "last": ["x"] + [None] * 7}, "id is 'x', which is no int")],
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


@pytest.mark.claim("F3")
@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"[]", "is no JSON object"), (b"7", "is no JSON object"), (b"null", "is no JSON object"),
     (b"[" * 100_000, "nested too deeply"), (b"", "Expecting value")],
)  # fmt: skip
def test_what_is_no_object_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        wire.decode(data, "hybrid.one.ticks")


@pytest.mark.claim("F1", "F3")
def test_a_message_is_the_text_that_other_versions_read() -> None:
    rowless = Message("one", TICKS, 5, None, {"id": 7}, [], TICK)
    shown = '["id","ts","symbol","price","volume","source","trade_id","event_id"]'
    row = '[7,1795000000000,"\\u00c4\\u00d6/\\u20ac",0.30000000000000004,1e-09,"binance",4611686018427387904,null]'
    head = '{"v":1,"instance":"one","table":"ticks",'
    assert (
        wire.encode(MESSAGE).decode()
        == f'{head}"schema":3,"from":{{"id":6}},"to":{{"id":7}},"columns":{shown},"rows":[{row}]}}'
    )
    assert (
        wire.encode(rowless).decode()
        == f'{head}"schema":5,"from":null,"to":{{"id":7}},"columns":{shown},"rows":[],"last":{row}}}'
    )


@pytest.mark.claim("F1")
def test_what_is_no_number_is_never_sent() -> None:
    with pytest.raises(ValueError):
        wire.encode(Message("one", TICKS, 3, None, {"id": 7}, [(*TICK[:3], float("nan"), *TICK[4:])], TICK))


@pytest.mark.claim("F1")
def test_the_last_row_is_that_of_the_message_where_it_has_any() -> None:
    found = json.loads(wire.encode(replace(MESSAGE, rows=[TICK, (8, *TICK[1:])])))
    assert wire.decode(json.dumps(found | {"last": list(TICK)}).encode(), "hybrid.one.ticks").last == (8, *TICK[1:])
    assert wire.decode(json.dumps(found | {"rows": []}).encode(), "hybrid.one.ticks").last is None


@pytest.mark.claim("F3")
def test_columns_are_told_by_their_names_wherever_they_stand() -> None:
    found = json.loads(wire.encode(replace(MESSAGE, rows=[TICK, (8, *TICK[1:])])))
    turned = {**found, "columns": [*found["columns"][::-1], 5], "rows": [[*row[::-1], "x"] for row in found["rows"]]}
    assert wire.decode(json.dumps(turned).encode(), "hybrid.one.ticks").rows == [TICK, (8, *TICK[1:])]


@pytest.mark.claim("F1")
@pytest.mark.parametrize(
    ("name", "taken"),
    [("a", True), ("A-b_9", True), ("x" * 64, True), ("x" * 65, False), ("", False), ("a.b", False), ("a b", False),
     ("\u00e9", False), ("a\n", False), ("*", False), (">", False)],
)  # fmt: skip
def test_an_instance_is_one_token_of_a_subject(name: str, taken: bool) -> None:
    data = wire.encode(replace(MESSAGE, instance=name))
    if taken:
        assert wire.decode(data, f"hybrid.{name}.ticks").instance == name
    else:
        with pytest.raises(ValueError, match="names no instance"):
            wire.decode(data, f"hybrid.{name}.ticks")


@pytest.mark.claim("F1")
@pytest.mark.parametrize(
    ("value", "written"),
    [("a/b", "a%2Fb"), ("a.b", "a%2Eb"), ("a b", "a%20b"), ("a%2Eb", "a%252Eb"), ("a\nb", "a%0Ab"),
     ("\u20ac", "%E2%82%AC"), ("a-b_c~", "a-b_c~"), (-5, "-5")],
)  # fmt: skip
def test_no_two_keys_have_one_id(value: str | int, written: str) -> None:
    gap = (1, 1_795_000_000_000, value, "BTC/USDT", 7, 9)
    assert wire.message_id("one", "gaps", gap) == f"one.gaps.1.{written}.BTC%2FUSDT.7"


@pytest.mark.claim("F1")
@pytest.mark.parametrize("row", [TICK[:-1], (*TICK, 1), ()])
def test_a_row_with_more_or_fewer_values_than_columns_has_no_id(row: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        wire.message_id("one", "ticks", row)
