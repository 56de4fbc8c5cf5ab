"""`python -m engine`, `hybrid-engine`: the first and the last thing the process does (contract section 3, E6, C7).

Whatever may be missing from a damaged installation, this package's other modules included, is imported only where its
absence can be told; what takes time to import, only once signals are taken care of.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.base.exits import EngineError
    from engine.signals import Signals


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the engine and returns its exit status (contract section 3)."""
    # Nothing of what imports make is garbage: looking for it takes a tenth of their time.
    gc.disable()
    _open_missing_descriptors()
    argv = sys.argv[1:] if argv is None else argv
    # --check-config prints its answer on stdout, so what it has to complain about goes to stderr.
    fd = 2 if "--check-config" in argv else 1
    try:
        from engine.signals import Signals

        signals = Signals()
        signals.install()
        from engine.base import logs

        handler = logs.configure(fd)
    except Exception as error:
        return _fail_early(error, fd)
    try:
        return _status(argv, signals)
    finally:
        signals.ignore()
        handler.drain(logs.LINGER_SECS)


def _status(argv: Sequence[str], signals: Signals) -> int:
    import logging

    from engine.base import logs
    from engine.base.exits import EngineError, explain

    try:
        from engine import command

        return command.run(argv, signals)
    except EngineError as error:
        failure = error
    except Exception as error:
        failure = explain(error, "unexpected error")
    if not (failure.code == 12 and _tell_human(failure, 2 if "--check-config" in argv else 1, argv)):
        logs.report(logging.getLogger("engine"), failure)
    if "--check-config" not in argv:
        _tell_systemd(failure)
    return failure.code


def _tell_human(failure: EngineError, fd: int, argv: Sequence[str]) -> bool:
    """Whether a human was told of a mistake, which is where somebody sits at a terminal."""
    try:
        columns = os.get_terminal_size(fd).columns
    except OSError:
        return False
    import shlex

    from engine.base import mistakes

    checks = "--check-config" in argv
    place = [word for at, word in enumerate(argv) if word.startswith("--config") or argv[at - 1 : at] == ["--config"]]
    check = "" if checks else shlex.join(["hybrid-engine", *place, "--check-config"])
    with suppress(OSError):
        os.write(fd, mistakes.told(failure, columns or 80, check).encode("utf-8", "replace"))
    return True


def _tell_systemd(failure: EngineError) -> None:
    # Whatever keeps us from it, a part of the installation included: the log has the reason already.
    with suppress(Exception):
        from engine.base import notify
        from engine.config import settings

        notify.tell_reason(settings.notify_socket(), failure)


def _fail_early(error: Exception, fd: int) -> int:
    """Tell of an error as M1 says, with nothing but the standard library: what else does it could not be imported."""
    # Built in, both of these: an import that needs a file may fail for the same reason.
    import time

    from engine import is_damage

    code, name, what = (12, "CONFIG", "installation is damaged") if is_damage(error) else (1, "CRASH", "cannot start")
    message = "".join(char if " " <= char <= "~" and char not in '"\\' else "?" for char in f"{what}: {error!r}")
    now, ns = divmod(time.time_ns(), 1_000_000_000)
    line = (
        f'{{"timestamp":"{time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))}.{ns // 1000:06}Z","level":"ERROR",'
        f'"fields":{{"message":"{message}","exit_code":{code},"exit_name":"{name}"}},"target":"engine"}}\n'
    )
    with suppress(OSError):
        os.write(fd, line.encode())
    return code


def _open_missing_descriptors() -> None:
    """What is closed of stdin, stdout and stderr leads nowhere from now on. Else the next file or socket that is opened
    gets its number, and log lines are written into it."""
    with suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


if __name__ == "__main__":
    sys.exit(main())
