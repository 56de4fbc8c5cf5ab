"""`systemctl show` text -> UnitState."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PROPERTIES = (
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "ExecMainCode",
    "ExecMainStatus",
    "NRestarts",
    "InvocationID",
    "StatusText",
)
"""What every look at a unit asks for (systemd's org.freedesktop.systemd1(5))."""


@dataclass(frozen=True)
class UnitState:
    """One unit at one moment, as systemd tells it."""

    active: str
    """active, activating, deactivating, failed or inactive."""
    sub: str
    """running, auto-restart, failed, dead..."""
    result: str
    """success, exit-code, signal, watchdog..."""
    main_pid: int
    """0 when no main process runs."""
    exec_main_code: int
    """CLD_EXITED (1), CLD_KILLED (2), CLD_DUMPED (3); 0 while it runs."""
    exec_main_status: int
    """Exit status or signal number of the last main process."""
    n_restarts: int
    """Automatic restarts since the unit was last started by hand."""
    invocation_id: str
    """Changes with every start, automatic or not; empty when the unit never ran."""
    status_text: str
    """What the service last said in STATUS=."""

    def __str__(self) -> str:
        return (
            f"{self.active}/{self.sub} result={self.result} status={self.exec_main_status} "
            f"restarts={self.n_restarts} pid={self.main_pid} invocation={self.invocation_id[:8] or '-'}"
        )


def show_argv(*units: str, names: Iterable[str] = PROPERTIES) -> tuple[str, ...]:
    """Return the arguments of systemctl that make it tell these properties of these units."""
    return ("show", *units, f"--property={','.join(names)}")


def properties(text: str) -> dict[str, str]:
    """`Key=Value` lines as a dict; a line without `=` continues nothing and is dropped.

    At line feeds only: what a service says of itself may hold what Unicode takes for the end of a line.
    """
    return {key: value for key, equals, value in (line.partition("=") for line in text.split("\n")) if equals}


def parse_all(text: str) -> list[UnitState]:
    """Return the output of `systemctl show -p <PROPERTIES>` for several units, in the order they were asked for.

    Raises ValueError as parse() does.
    """
    return [parse(block) for block in text.strip().split("\n\n")]


def parse(text: str) -> UnitState:
    """Return the output of `systemctl show -p <PROPERTIES>` for one unit as a UnitState.

    Raises ValueError when a property is missing or not a number where one is due.
    """
    found = properties(text)
    missing = [name for name in PROPERTIES if name not in found]
    if missing:
        raise ValueError(f"systemctl show did not tell {', '.join(missing)}")
    return UnitState(
        active=found["ActiveState"],
        sub=found["SubState"],
        result=found["Result"],
        main_pid=int(found["MainPID"]),
        exec_main_code=int(found["ExecMainCode"]),
        exec_main_status=int(found["ExecMainStatus"]),
        n_restarts=int(found["NRestarts"]),
        invocation_id=found["InvocationID"],
        status_text=found["StatusText"],
    )


def set_by(cat: str, directive: str) -> tuple[str, str] | None:
    """(value, file) of the last line that sets a directive, from what `systemctl cat` prints; None: no file does."""
    file, found = "", None
    for line in cat.split("\n"):
        name, equals, value = line.partition("=")
        if line.startswith("# /"):
            file = line.removeprefix("# ")
        elif equals and name.strip() == directive:
            found = (value.strip(), file)
    return found


UNRUNNABLE = "'\"\\"
"""What systemd allows in no path of a program."""

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\t": r"\t", "\r": r"\r", "%": "%%"})


def exec_start(argv: Sequence[str]) -> str:
    """Return a command line for ExecStart= (systemd.service(5)) that runs just these words: nothing of them is expanded
    or parted."""
    # In the path of the program systemd looks for no variable.
    words = [argv[0], *(word.replace("$", "$$") for word in argv[1:])]
    return " ".join(word if _PLAIN.fullmatch(word) else f'"{word.translate(_ESCAPED)}"' for word in words)


_PLAIN = re.compile(r"[\w@+=:,./{}-]+", re.ASCII)
