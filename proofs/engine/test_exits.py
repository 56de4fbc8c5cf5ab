"""Exit codes are those of the contract's section 3."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import inspect
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import engine
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


def raised(work: Callable[[], object]) -> Exception:
    """What this raises, with its traceback."""
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def importing(name: str, text: str = "1 / 0") -> Callable[[], object]:
    """As a module of this name is imported."""
    return lambda: exec(compile(text, "x.py", "exec"), {"__name__": name})


def fail(error: Exception) -> Callable[[], object]:
    def work() -> None:
        raise error

    return work


DAMAGE: list[Callable[[], object]] = [
    lambda: importlib.import_module("engine.nowhere"),
    fail(ImportError("libcrypto.so.3: cannot open shared object file: No such file or directory")),
    lambda: compile("1 +", "x.py", "exec"),
    importing("engine.base.x"),
    importing("engine.base.x", "open('/nowhere')"),
    lambda: engine.nothing,  # type: ignore[attr-defined]
    lambda: exits.nothing,  # type: ignore[attr-defined]
    fail(ValueError("source code string cannot contain null bytes")),
]
NO_DAMAGE: list[Callable[[], object]] = [
    lambda: 1 / 0,
    lambda: math.nothing,  # type: ignore[attr-defined]
    lambda: object().nothing,  # type: ignore[attr-defined]
    fail(ValueError("of this")),
    fail(OSError(errno.EACCES, "Permission denied")),
    importing("__main__"),
    importing("engineering.x"),
    importing("other.engine.x"),
    # What has run out is there again at the next start, even if it was for an import.
    fail(MemoryError()),
    importing("engine.base.x", "raise MemoryError"),
    *(
        importing("engine.base.x", f"raise OSError({number}, 'x')")
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EIO, errno.EAGAIN, errno.EINTR)
    ),
    *(
        fail(ImportError(f"x.so: cannot open shared object file: {os.strerror(number)}"))
        for number in (errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.EIO)
    ),
    fail(ImportError("x.so: failed to map segment from shared object")),
]


@pytest.mark.claim("C7")
@pytest.mark.parametrize("work", DAMAGE, ids=range(len(DAMAGE)))
def test_C7_a_damaged_installation_is_for_whoever_installs(work: Callable[[], object]) -> None:
    error = raised(work)
    failure = exits.explain(error, "ingest failed", task="ingest")
    assert type(failure) is exits.ConfigError
    assert str(failure) == f"installation is damaged: {error}"
    assert failure.details == {"error": repr(error), "task": "ingest"}
    assert failure.__cause__ is error


@pytest.mark.claim("C7")
@pytest.mark.parametrize("work", NO_DAMAGE, ids=range(len(NO_DAMAGE)))
def test_C7_what_else_was_not_expected_is_a_crash(work: Callable[[], object]) -> None:
    error = raised(work)
    failure = exits.explain(error, "ingest failed", task="ingest")
    assert type(failure) is exits.Crash
    assert (str(failure), failure.details) == ("ingest failed", {"task": "ingest"})
    assert failure.__cause__ is error


@pytest.mark.claim("C7")
def test_C7_bytecode_that_is_cut_short_is_damage_whoever_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut_short.pyc").write_bytes(importlib.util.MAGIC_NUMBER + bytes(12) + b"\xe3")
    monkeypatch.syspath_prepend(tmp_path)
    error = raised(lambda: importlib.import_module("cut_short"))
    assert type(error) is EOFError
    assert exits.explain(error, "x").code == 12


@pytest.mark.claim("C7")
def test_C7_damage_without_words_is_told_by_its_kind() -> None:
    assert str(exits.explain(ImportError(), "x")) == "installation is damaged: ImportError"
