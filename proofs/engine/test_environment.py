"""Variables that nobody signed, or that nobody may sign: what systemd says of a unit, as data (R9, C9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.live import environment

FORBIDDEN = [
    "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONBREAKPOINT", "PYTHONOPTIMIZE",
    "PYTHONINSPECT", "PYTHONPLATLIBDIR", "PYTHON_BASIC_REPL", "PYTHONASYNCIODEBUG", "PYTHONOFTHEFUTURE", "LD_PRELOAD",
    "LD_LIBRARY_PATH", "LD_AUDIT", "LD_DEBUG", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "NLSPATH", "HOSTALIASES",
    "LOCALDOMAIN", "RES_OPTIONS", "RESOLV_HOST_CONF", "RESOLV_ADD_TRIM_DOMAINS",
    "OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE",
]  # fmt: skip

OF_A_SERVICE = [
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "USER", "LOGNAME", "HOME", "SHELL", "INVOCATION_ID", "JOURNAL_STREAM",
    "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "SYSTEMD_EXEC_PID", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY",
    "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE",
]  # fmt: skip
"""What systemd gives to a service like ours."""


def found(own: list[str], by_unit: set[str] | None = None, in_manager: tuple[str, ...] = ()) -> list[str]:
    return list(environment.objections(own, by_unit, in_manager))


@pytest.mark.claim("R9")
@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_changes_the_code_that_runs_is_refused_although_it_is_signed(name: str) -> None:
    (reason,) = found([*OF_A_SERVICE, name], {name})
    assert reason.startswith(f"{name} is set")
    (reason,) = found(OF_A_SERVICE, set(), (name, "PATH"))
    assert reason.startswith(f"{name} is set in systemd's own environment")


@pytest.mark.claim("R9")
def test_what_the_manager_was_told_explains_nothing() -> None:
    """`systemctl set-environment` is not signed."""
    for in_manager in ((), ("ODD",)):
        (reason,) = found([*OF_A_SERVICE, "ODD"], set(), in_manager)
        assert reason.startswith("ODD is set")


@pytest.mark.claim("R9")
def test_what_systemd_and_the_unit_set_is_fine() -> None:
    assert found(OF_A_SERVICE, set(), ("PATH", "LANG")) == []
    assert found([*OF_A_SERVICE, "HYBRID_LOG", "PYTHONUNBUFFERED"], {"HYBRID_LOG", "PYTHONUNBUFFERED"}) == []


@pytest.mark.claim("R9")
def test_what_nobody_signed_is_named() -> None:
    (reason,) = found([*OF_A_SERVICE, "HYBRID_TRANSPORT", "TZ"], {"HYBRID_LOG"})
    assert reason.startswith("HYBRID_TRANSPORT, TZ are set by neither")
    (reason,) = found([f"V{number}" for number in range(9)], set())
    assert reason.startswith("V0, V1, V2, V3, V4 and 4 more are set")
    # Of a unit that is not known nothing can be said, but what is always refused.
    assert found(["HYBRID_TRANSPORT"], None) == []
    assert len(found(["HYBRID_TRANSPORT", "LD_PRELOAD"], None)) == 1
    # Harmless where the unit sets them, and signed by nobody where it does not.
    assert len(found(["PYTHONUNBUFFERED"], set())) == 1


@pytest.mark.claim("R9")
@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", set()),
        ("A=1 B=2", {"A", "B"}),
        ('"A=x y" B=LD_PRELOAD=1', {"A", "B"}),
        ("$'A=x\\ny' _b2=", {"A", "_b2"}),
        ('"A=unclosed', set()),
        ("=1 1A=2 A-B=3 word", set()),
    ],
)
def test_names_that_a_unit_sets(value: str, names: set[str]) -> None:
    assert environment.set_by_unit([value]) == names


@pytest.mark.claim("R9")
def test_names_that_an_environment_file_sets() -> None:
    text = "# A remark.\n; Another.\n\nA=1\n  B = \"x y\"\nC='z'\nD=1 \\\n  more\nno assignment\n#E=1\n"
    assert environment.set_by_file(text) == {"A", "B", "C", "D"}


@pytest.mark.claim("R9")
def test_what_systemctl_prints() -> None:
    text = "MainPID=7\nEnvironmentFiles=/a b/c (ignore_errors=no)\nEnvironmentFiles=/d/*.env (ignore_errors=yes)\nodd\n"
    shown = environment.properties(text)
    assert shown["MainPID"] == ["7"]
    assert environment.files(shown["EnvironmentFiles"]) == [("/a b/c", False), ("/d/*.env", True)]
    assert environment.set_in_manager("PATH=/bin\nX=$'a\\nLD_PRELOAD=b'\nodd\n") == {"PATH", "X"}


@pytest.mark.claim("C9")
@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for values in environment.properties(text).values():
        assert environment.files(values) is not None
        assert all(name.isidentifier() for name in environment.set_by_unit(values))
    assert all(name.isidentifier() for name in environment.set_by_file(text))
    assert found(list(environment.set_in_manager(text)), set()) is not None
