"""`python -m engine`, `hybrid-engine`: the first and the last thing the process does (contract section 3, E6, C7).

What takes time to import, and whatever may be missing from a damaged installation, is imported once signals are taken
care of and errors can be told.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from engine.signals import Signals


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the engine and returns its exit status (contract section 3)."""
    _open_missing_descriptors()
    signals = Signals()
    signals.install()
    argv = sys.argv[1:] if argv is None else argv
    from engine import logs

    # --check-config prints its answer on stdout, so what it has to complain about goes to stderr.
    handler = logs.configure(fd=2 if "--check-config" in argv else 1)
    try:
        return _status(argv, signals)
    finally:
        signals.ignore()
        handler.drain(logs.LINGER_SECS)


def _status(argv: Sequence[str], signals: Signals) -> int:
    import logging

    from engine import logs
    from engine.exits import ConfigError, Crash, EngineError

    try:
        from engine import command

        return command.run(argv, signals)
    except EngineError as error:
        failure, cause = error, None
    except (ImportError, SyntaxError) as error:
        # Nothing heals an installation that lacks a part, or has one for another interpreter.
        failure, cause = ConfigError(f"installation is damaged: {error}", error=repr(error)), None
    except Exception as error:
        failure, cause = Crash("unexpected error"), error
    logs.report(logging.getLogger("engine"), failure, cause)
    with suppress(ImportError, SyntaxError):
        from engine import notify, settings

        if "--check-config" not in argv:
            notify.tell_reason(settings.notify_socket(), failure)
    return failure.code


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
