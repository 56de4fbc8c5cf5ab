"""What the commands of the fleet have in common: options, exit status, a last word."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fleet.base.service import Log, notify, stop_on_signals
from fleet.base.settings import EXIT_CONFIG, ConfigError
from harness.base import arguments
from harness.base.errors import HarnessError

S = TypeVar("S")


def parser(program: str, about: str, default: Path) -> argparse.ArgumentParser:
    """The options that each command has."""
    found = arguments.CommandParser(
        prog=program, description=about,
        epilog=f"exit status: 0 stopped in order, 1 may be over at the next start, {EXIT_CONFIG} nothing that a restart"
        " heals\n\nexamples:\n"
        f"  {program} --config {default} --check-config\n  {program} --config {default}",
    )  # fmt: skip
    found.add_argument("--config", type=Path, default=default, help=f"TOML configuration (default: {default})")
    found.add_argument("--check-config", action="store_true", help="read the configuration, and do nothing else")
    return found


def run(
    program: str,
    options: argparse.Namespace,
    load: Callable[[Path], S],
    serve: Callable[[S, Log, asyncio.Event], Coroutine[Any, Any, None]],
    fatal: Sequence[type[HarnessError]] = (ConfigError,),
) -> int:
    """Load the configuration and serve until a signal; returns the exit status. fatal: what no restart heals."""
    log = Log(program)

    async def main(settings: S) -> None:
        await serve(settings, log, stop_on_signals())

    try:
        settings = load(options.config)
        if options.check_config:
            print(f"{options.config}: can be used")
            return 0
        asyncio.run(main(settings))
    except tuple(fatal) as error:
        return _end(log, error, EXIT_CONFIG)
    except HarnessError as error:
        return _end(log, error, 1)
    notify("STOPPING=1")
    return 0


def _end(log: Log, error: HarnessError, status: int) -> int:
    log.say(str(error))
    notify(f"STATUS={str(error)[:500]}")
    return status
