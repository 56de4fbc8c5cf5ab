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


def test_a_look_asks_for_each_property_that_is_read() -> None:
    verb, first, second, asked = unit.show_argv("a.service", "b.service")
    assert (verb, first, second) == ("show", "a.service", "b.service")
    assert set(asked.removeprefix("--property=").split(",")) == set(unit.properties(SHOWN))
    assert unit.show_argv("u", names=["Type", "User"]) == ("show", "u", "--property=Type,User")


def test_a_state_in_words() -> None:
    assert str(unit.parse(SHOWN)) == "failed/failed result=exit-code status=12 restarts=3 pid=0 invocation=2aac588b"
    never = SHOWN.replace("InvocationID=2aac588b01154faeb82b2fea39a7fa67", "InvocationID=")
    assert str(unit.parse(never)).endswith("pid=0 invocation=-")


CAT = """\
# /usr/lib/systemd/system/u.service
[Unit]
# Restart=never, says a comment\u2028Restart=and not by a separator of Unicode's
After=network.target
[Service]
Restart=on-failure
ExecStart=/bin/x --set=1 Restart=2
RestartSec = 2

# /etc/systemd/system/u.service.d/10-a.conf
[Service]
Restart=
#Restart=always
RestartSec=20ms
"""


@pytest.mark.parametrize(
    ("directive", "told"),
    [
        ("Restart", ("", "/etc/systemd/system/u.service.d/10-a.conf")),
        ("RestartSec", ("20ms", "/etc/systemd/system/u.service.d/10-a.conf")),
        ("After", ("network.target", "/usr/lib/systemd/system/u.service")),
        ("ExecStart", ("/bin/x --set=1 Restart=2", "/usr/lib/systemd/system/u.service")),
        ("Rest", None),
        ("[Service]", None),
    ],
)
def test_a_directive_is_set_by_the_last_file_that_names_it(directive: str, told: tuple[str, str] | None) -> None:
    assert unit.set_by(CAT, directive) == told
    assert unit.set_by(CAT.partition("\n# /etc")[0], "Restart") == ("on-failure", "/usr/lib/systemd/system/u.service")
