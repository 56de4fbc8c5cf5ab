"""Exit codes are those of the contract's section 3."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from engine.base import exits


@pytest.mark.claim("G5")
def test_codes_are_the_contracts() -> None:
    contract = (Path(__file__).resolve().parents[2] / "docs" / "contract.md").read_text()
    section = contract.partition("## 3. Exit codes")[2].partition("\n## ")[0]
    table = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| ([A-Z]+) \|", section, re.MULTILINE)}
    assert table == {code.name: code.value for code in exits.ExitCode}


def test_each_error_has_a_code_of_its_own() -> None:
    classes = [one for _, one in inspect.getmembers(exits, inspect.isclass)]
    errors = [one for one in classes if issubclass(one, exits.EngineError) and one.__base__ is exits.EngineError]
    assert sorted(error.code for error in errors) == sorted(set(exits.ExitCode) - {exits.ExitCode.COMPLETE})


def test_details_become_fields() -> None:
    error = exits.Overload("channel full", channel="persist", full_ms=250)
    assert error.details == {"channel": "persist", "full_ms": 250}
    assert error.code == 13
