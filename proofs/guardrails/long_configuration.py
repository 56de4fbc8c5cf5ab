"""C4 for every key of section 2 with every value that it must not have, and for names that nearly are one; G0 and C1
for whatever may be taken for LIVE. Not collected by name. `pytest proofs/guardrails/long_configuration.py`.

test_configuration.py asks for some of each kind; here the judged engine is asked 700 times, which takes four minutes.
"""

from __future__ import annotations

import json

import pytest

from proofs.fixtures.engine_unit import EngineUnit
from proofs.fixtures.misconfigured import (
    TABLES,
    Mistake,
    check,
    every_near_miss,
    every_wrong_value,
    expect_refused,
    expect_shadow,
    expect_untouched,
    logged,
)

NEVER_LIVE = (
    "", " ", "0", "true", "LIV", "LIVEE", "L1VE", " LIVE", "LIVE ", "\tLIVE", "LIVE\n", "'LIVE'", "LIVE,SHADOW",
    "l\u0131ve", "L\u0130VE", "\uff2c\uff29\uff36\uff25", "LI\u200bVE", "L\u0399VE", "\u041b\u0406VE",
)  # fmt: skip
"""What an eye, a shell or Unicode may take for LIVE."""


@pytest.mark.claim("G0", "C1")
@pytest.mark.parametrize("asked", NEVER_LIVE)
def test_what_is_not_live_is_shadow_on_the_command_line(engine: EngineUnit, asked: str) -> None:
    engine.configure({"mode": "LIVE", "live_armed": True})
    expect_shadow(engine, asked)


@pytest.mark.claim("G0", "C4")
def test_what_is_not_live_is_refused_in_the_file(engine: EngineUnit) -> None:
    texts = ((asked, f"mode = {json.dumps(asked)}\nlive_armed = true\n") for asked in NEVER_LIVE)
    expect_refused(engine, (Mistake(f"mode = {asked!r}", text, "mode", named=("SHADOW",)) for asked, text in texts))


@pytest.mark.claim("G0", "S14")
@pytest.mark.parametrize("asked", ["LIVE", "live", "Live", "lIvE"])
def test_live_is_live_in_any_case(engine: EngineUnit, asked: str) -> None:
    """In the file and on the command line; on made-up prices, which `--check-config` refuses as a start does."""
    for text, flags in ((f'mode = "{asked}"\n', ()), ("", ("--mode", asked))):
        engine.configure_text(f"{text}live_armed = true\n")
        result = check(engine, *flags)
        engine.expect(result.status == 12, f"LIVE as {text.strip() or flags}: exit {result.status}, expected 12")
        said = [entry.event for entry in logged(result) if entry.level == "ERROR"]
        engine.expect(any("LIVE" in event for event in said), f"LIVE as {text.strip() or flags}: it says {said}")


@pytest.mark.claim("C4")
@pytest.mark.parametrize("table", ["", *TABLES])
def test_every_wrong_value_is_refused_and_told(engine: EngineUnit, table: str) -> None:
    with expect_untouched(engine):
        expect_refused(engine, (one for one in every_wrong_value() if one.key.rpartition(".")[0] == table))


@pytest.mark.claim("C4")
def test_every_near_miss_is_refused_and_told(engine: EngineUnit) -> None:
    with expect_untouched(engine):
        expect_refused(engine, every_near_miss())
