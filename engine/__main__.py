"""`python -m engine`, `hybrid-engine`: argv -> Settings -> pipeline -> exit status (contract sections 1, 3).

The pipeline and its libraries are imported only once the configuration is known to be good, so that a
mistake in it is reported at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn

from engine import __version__, logs, settings
from engine.exits import ConfigError, Crash, EngineError, ExitCode

if TYPE_CHECKING:
    from engine.execution import ExecutionAdapter

logger = logging.getLogger("engine")

# Flag -> dotted key of the setting it overrides; precedence is flags, then file, then defaults.
_OVERRIDES = {
    "mode": "mode",
    "ingest": "engine.ingest_mode",
    "db": "app.db_path",
    "ws_url": "engine.ws_url",
    "sample_every": "engine.sample_every",
    "seconds": "engine.run_seconds",
    "replay_file": "engine.replay_file",
}


_EPILOG = """\
Exit status: 0 complete, 1 crash, 10 network, 11 parse, 12 config, 13 overload.

examples:
  hybrid-engine --ingest synthetic --seconds 10 --db /tmp/bot.db
  hybrid-engine --config config/config.toml --check-config
  hybrid-engine --ingest mockws --ws-url ws://127.0.0.1:9001
  hybrid-engine --ingest realws --sources config/ws_sources.toml
  hybrid-engine --ingest replay --replay-file ticks.jsonl --db /tmp/replay.db
"""


class _Parser(argparse.ArgumentParser):
    """Reports a usage error as ConfigError: after argparse's own exit status 2 systemd would restart."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}", usage=self.format_usage().strip())


def _parser() -> _Parser:
    parser = _Parser(
        prog="hybrid-engine",
        description="Asyncio trading engine. It trades nothing by default (SHADOW).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="PATH", help=f"TOML config (default: {settings.DEFAULT_CONFIG_PATH})")
    parser.add_argument("--mode", metavar="shadow|paper|live", help="what may be done with an order")
    parser.add_argument("--ingest", metavar="synthetic|replay|mockws|realws", help="where ticks come from")
    parser.add_argument("--db", metavar="PATH", help="SQLite database")
    parser.add_argument("--ws-url", metavar="URL", help="the URL of mockws")
    parser.add_argument("--sample-every", metavar="N", type=int, help="process every Nth new tick")
    parser.add_argument("--seconds", metavar="N", type=float, help="stop with status 0 after N seconds")
    parser.add_argument("--replay-file", metavar="PATH", help="JSONL file to replay")
    parser.add_argument("--sources", metavar="PATH", help=f"sources file (default: {settings.SOURCES_FILE_NAME})")
    parser.add_argument("--check-config", action="store_true", help="print the effective config and exit 0 or 12")
    parser.add_argument(
        "--lift-bars", action="store_true", help="contact venues again that said to wait (HTTP 429, 418), and exit"
    )
    parser.add_argument("--version", action="version", version=f"hybrid-engine {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the engine and returns its exit status (contract section 3)."""
    logs.configure("INFO")
    try:
        arguments = _parser().parse_args(argv)
        environment = settings.read_environment()
        # --check-config prints its answer on stdout, so what it has to complain about goes to stderr.
        logs.configure(environment.log_level, fd=2 if arguments.check_config else 1)
        if not arguments.check_config:
            logger.info(
                "engine starting",
                extra={"fields": {"version": __version__, "python": sys.version.split()[0]}},
            )
        flags = {
            key: (f"--{name.replace('_', '-')}", value)
            for name, key in _OVERRIDES.items()
            if (value := getattr(arguments, name)) is not None
        }
        loaded = settings.load(arguments.config, flags, arguments.sources)
        for message, fields in loaded.warnings:
            logger.warning(message, extra={"fields": fields})
        if arguments.check_config:
            if loaded.settings.mode == "LIVE":
                from engine import gate

                gate.check_prices(loaded)
                logger.warning("mode LIVE: whether its gate opens is known when the unit starts, and not before")
            print(json.dumps(settings.effective(loaded), indent=2, sort_keys=True))
            return ExitCode.COMPLETE
        if arguments.lift_bars:
            return _lift_bars(loaded)
        adapter = None
        if loaded.settings.mode == "LIVE":
            from engine import gate

            adapter = gate.check(loaded)
        return _run(loaded, environment, adapter)
    except EngineError as error:
        logs.report(logger, error)
        return error.code
    except Exception as error:
        logs.report(logger, Crash("unexpected error"), cause=error)
        return ExitCode.CRASH


def _lift_bars(loaded: settings.Loaded) -> int:
    """For an operator who knows better than the venue's Retry-After, while the engine is stopped."""
    from engine import ledger

    options = loaded.settings
    # Opening makes a database where there is none, which would hide a mistyped path.
    if not os.path.exists(options.app.db_path):
        raise ConfigError(
            f"app.db_path = {options.app.db_path!r}: there is no database, so no bar to lift",
            key="app.db_path",
            value=options.app.db_path,
        )
    store = ledger.open_ledger(options.app.db_path, busy_timeout_ms=options.persist.busy_timeout_ms)
    try:
        logger.info("bars lifted", extra={"fields": {"sources": store.lift_bars()}})
    finally:
        store.close()
    return ExitCode.COMPLETE


def _run(loaded: settings.Loaded, environment: settings.Environment, adapter: ExecutionAdapter | None) -> int:
    from engine import ledger

    options = loaded.settings
    logger.info(
        "configuration loaded",
        extra={
            "fields": {
                "config_path": None if loaded.config_path is None else str(loaded.config_path),
                "mode": options.mode,
                "ingest_mode": options.engine.ingest_mode,
                "db_path": options.app.db_path,
                "sample_every": options.engine.sample_every,
            }
        },
    )
    # The database waits for the disk meanwhile the pipeline and asyncio are imported.
    with ThreadPoolExecutor(1) as thread:
        store = thread.submit(
            ledger.open_ledger,
            options.app.db_path,
            busy_timeout_ms=options.persist.busy_timeout_ms,
            replay=options.engine.ingest_mode == "REPLAY",
        )
        from engine import pipeline
    return pipeline.run(loaded, environment, store.result(), adapter)


if __name__ == "__main__":
    sys.exit(main())
