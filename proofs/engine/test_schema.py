"""config/schema.py: what a table may hold. What a whole file may hold, and what the error says: test_settings.py."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.config.schema import Engine, Settings, Source, SourcesFile, keys


def test_every_setting_says_what_it_is_for() -> None:
    for table in (Settings, SourcesFile):
        for key, purpose in keys(table):
            assert len(purpose) > 10, key
            assert purpose.endswith("."), key


@pytest.mark.claim("C4")
def test_C4_keys_are_those_of_all_tables_below() -> None:
    assert dict(keys(SourcesFile)).keys() == {
        "source", *(f"source.{name}" for name in ("name", "url", "kind", "priority", "venue", "symbol", "markets"))
    }  # fmt: skip


def test_what_is_absent_has_its_default() -> None:
    assert Settings.model_validate({}) == Settings()
    assert Settings.model_validate({"engine": {"sample_every": 5}}) == Settings(engine=Engine(sample_every=5))


@pytest.mark.claim("C6")
def test_C6_what_has_no_default_is_missing() -> None:
    with pytest.raises(ValidationError) as raised:
        Source.model_validate({"name": "a"})
    assert [(error["loc"], error["type"]) for error in raised.value.errors()] == [
        (("priority",), "missing"),
    ]


def test_every_default_is_allowed() -> None:
    assert Settings.model_validate(Settings().model_dump()) == Settings()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.claim("C4")
@given(st.dictionaries(st.sampled_from([key for key, _ in keys(Settings) if "." not in key]), anything))
def test_C4_any_table_is_made_or_refused(table: dict[str, Any]) -> None:
    with suppress(ValidationError):
        assert isinstance(Settings.model_validate(table), Settings)
