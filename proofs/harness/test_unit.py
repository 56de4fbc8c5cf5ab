"""`systemctl show` text as UnitState."""

from __future__ import annotations

import pytest

from harness.base import unit

SHOWN = """\
Result=exit-code
NRestarts=3
ExecMainCode=1
ExecMainStatus=12
MainPID=0
StatusText=mode=SHADOW a=b
ActiveState=failed
SubState=failed
InvocationID=2aac588b01154faeb82b2fea39a7fa67
"""


def test_a_failed_unit() -> None:
    state = unit.parse(SHOWN)
    assert (state.active, state.exec_main_status, state.n_restarts, state.main_pid) == ("failed", 12, 3, 0)
    assert state.status_text == "mode=SHADOW a=b"
    assert "restarts=3" in str(state)


def test_a_value_ends_where_its_line_ends_and_nowhere_else() -> None:
    """What Unicode takes for the end of a line may stand in a name, and begins no property."""
    text = "from x\u2028ActiveState=active\x85NRestarts=7\x0bMainPID=1"
    state = unit.parse(SHOWN.replace("mode=SHADOW a=b", text))
    assert (state.active, state.n_restarts, state.main_pid, state.status_text) == ("failed", 3, 0, text)


def test_a_missing_property_is_named() -> None:
    with pytest.raises(ValueError, match="NRestarts"):
        unit.parse(SHOWN.replace("NRestarts=3\n", ""))


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="many"):
        unit.parse(SHOWN.replace("NRestarts=3", "NRestarts=many"))


def test_several_units() -> None:
    failed, running = unit.parse_all(SHOWN + "\n" + SHOWN.replace("failed", "active"))
    assert (failed.active, running.active) == ("failed", "active")
