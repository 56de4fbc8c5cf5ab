"""argv -> Settings -> pipeline -> exit status (contract sections 1, 3).

The pipeline and its libraries are imported only once the configuration is known to be good, so that a
mistake in it is reported at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine import __version__
from engine.base import logs, redaction
from engine.base.exits import ConfigError, Crash, ExitCode
from engine.config import settings
from engine.signals import Signals

if TYPE_CHECKING:
    from engine.trading.execution import ExecutionAdapter

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

_DESCRIPTORS_MIN = 24
"""More than database and event loop open; connections come on top."""

_EPILOG = """\
Exit status: 0 complete, 1 crash, 10 network, 11 parse, 12 config, 13 overload.

examples:
  hybrid-engine --ingest synthetic --seconds 10 --db /tmp/bot.db
  hybrid-engine --config config/config.toml --check-config
  hybrid-engine --ingest mockws --ws-url ws://127.0.0.1:9001
  hybrid-engine --ingest realws --sources config/ws_sources.toml
  hybrid-engine --ingest replay --replay-file ticks.jsonl --db /tmp/replay.db
  hybrid-engine venues
  hybrid-engine gaps --db data/bot.db
"""


class _Parser(argparse.ArgumentParser):
    """Reports a usage error as ConfigError, since systemd would restart after argparse's own exit status 2, and without
    what it does not know: that may be a password behind a mistyped flag (C8)."""

    def __init__(self, signals: Signals, **options: Any) -> None:
        super().__init__(**options)
        self._signals = signals

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The flags of a command line."""
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [_flag_name(text) for text in unknown if text.startswith("-")]
            self.error(f"unknown flag {flags[0]}" if flags else "takes flags only")
        return arguments

    def error(self, message: str) -> NoReturn:
        message = re.sub("ignored explicit argument .*", "takes no value", message, flags=re.DOTALL)
        raise ConfigError(f"command line: {message}", usage=self.format_usage().strip())

    def _print_message(self, message: str, file: object = None) -> None:
        _print(message, self._signals)


def _flag_name(text: str) -> str:
    """The name in `--name=value` or `-nvalue`."""
    name = text.partition("=")[0] if text.startswith("--") else text[:2]
    return settings.shorten(redaction.redact(name))


def _whole_number(text: str) -> int:
    # Nothing but what TOML would take: int() also reads digits of other scripts, blanks and underscores.
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        raise argparse.ArgumentTypeError(f"{_shown(text)}: should be a whole number")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|inf|nan)", text):
        raise argparse.ArgumentTypeError(f"{_shown(text)}: should be a number")
    return float(text)


def _shown(text: str) -> str:
    return settings.shorten(repr(redaction.redact_value(text)))


def _parser(signals: Signals) -> _Parser:
    parser = _Parser(
        signals,
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
    parser.add_argument("--sample-every", metavar="N", type=_whole_number, help="process every Nth new tick")
    parser.add_argument("--seconds", metavar="N", type=_number, help="stop with status 0 after N seconds")
    parser.add_argument("--replay-file", metavar="PATH", help="JSONL file to replay")
    parser.add_argument("--sources", metavar="PATH", help=f"sources file (default: {settings.SOURCES_FILE_NAME})")
    parser.add_argument("--check-config", action="store_true", help="print the effective config and exit 0 or 12")
    parser.add_argument(
        "--lift-bars", action="store_true", help="contact venues again that said to wait (HTTP 429, 418), and exit"
    )
    parser.add_argument("--version", action="version", version=f"hybrid-engine {__version__}")
    return parser


def run(argv: Sequence[str], signals: Signals) -> int:
    """Does what the command line says; returns the exit status. Raises EngineError when it cannot be done."""
    if list(argv) == ["venues"]:
        return _list_venues(signals)
    if argv and argv[0] == "gaps":
        return _list_gaps(_parser(signals).read(argv[1:]), signals)
    arguments = _parser(signals).read(argv)
    environment = settings.read_environment()
    logs.set_level(environment.log_level)
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
            from engine.live import gate

            gate.check_prices(loaded)
            logger.warning("mode LIVE: whether its gate opens is known when the unit starts, and not before")
        replayed = loaded.settings.engine.replay_file if loaded.settings.engine.ingest_mode == "REPLAY" else None
        # What this user may not read the unit's may.
        if replayed is not None and os.access(replayed, os.R_OK):
            from engine.ingest import replay

            replay.open_lines(Path(replayed)).close()
        _print(json.dumps(settings.effective(loaded), indent=2, sort_keys=True, allow_nan=False) + "\n", signals)
        return ExitCode.COMPLETE
    if arguments.lift_bars:
        return _lift_bars(loaded)
    adapter = None
    if loaded.settings.mode == "LIVE":
        from engine.live import gate

        adapter = gate.check(loaded)
    return _trade(loaded, environment, adapter, signals)


def _print(text: str, signals: Signals) -> None:
    """Writes `text` to stdout. A reader that has read enough is no error."""
    # Whoever waits for a slow reader here is a command like any other: a signal ends it.
    signals.restore()
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer must not be tried again, with a traceback, when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            raise Crash(f"stdout cannot be written: {error.strerror}") from None


def _list_venues(signals: Signals) -> int:
    """What an operator may write into the sources file."""
    from engine.ingest.venues import registry

    rows = [("venue", "market", "url", "documentation")]
    for name in registry.names():
        venue = registry.find(name)
        rows.append((name, venue.example, venue.url, venue.documentation))
    _print(_table(rows), signals)
    return ExitCode.COMPLETE


def _list_gaps(arguments: argparse.Namespace, signals: Signals) -> int:
    """The trades that were missed, with the times around them. Of the flags it heeds --db, --config and --sources."""
    from engine.ingest.venues import registry
    from engine.storage import gaps

    flags = {} if arguments.db is None else {"app.db_path": ("--db", arguments.db)}
    loaded = settings.load(arguments.config, flags, arguments.sources)
    path = loaded.settings.app.db_path
    if not os.path.exists(path):
        shown = redaction.redact_value(path)
        raise ConfigError(f"app.db_path = {shown!r}: there is no database", key="app.db_path", value=shown)
    # Their ids are not consecutive, so that holes mean nothing.
    sparse = {
        source.name
        for source in settings.known_sources(loaded, arguments.sources)
        if not registry.venue_of(source.venue, source.url).consecutive_ids
    }
    missed = [gap for gap in gaps.read_gaps(path) if gap.source not in sparse]
    rows = [("source", "market", "first id", "last id", "trades", "after", "before")]
    for gap in missed:
        times = (_time(gap.after_ts), _time(gap.before_ts))
        rows.append((gap.source, gap.market, str(gap.first), str(gap.last), str(gap.last - gap.first + 1), *times))
    _print(_table(rows) + f"{sum(gap.last - gap.first + 1 for gap in missed)} trades missed\n", signals)
    return ExitCode.COMPLETE


def _time(ms: int | None) -> str:
    """A venue's time in RFC 3339."""
    if ms is None:
        return "?"
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns, the last of which is as long as it likes."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _lift_bars(loaded: settings.Loaded) -> int:
    """For an operator who knows better than the venue's Retry-After, while the engine is stopped."""
    from engine.storage import opening

    options = loaded.settings
    # Opening makes a database where there is none, which would hide a mistyped path.
    if not os.path.exists(options.app.db_path):
        shown = redaction.redact_value(options.app.db_path)
        raise ConfigError(
            f"app.db_path = {shown!r}: there is no database, so no bar to lift", key="app.db_path", value=shown
        )
    store = opening.open_ledger(options.app.db_path, busy_timeout_ms=options.persist.busy_timeout_ms)
    try:
        logger.info("bars lifted", extra={"fields": {"sources": store.lift_bars()}})
    finally:
        store.close()
    return ExitCode.COMPLETE


def _check_descriptors() -> None:
    """Raises Crash while there are too few. Where the database gets none, SQLite calls it unusable; where the event
    loop gets none, libuv aborts the process."""
    try:
        with ExitStack() as opened:
            for _ in range(_DESCRIPTORS_MIN):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise Crash(f"too few file descriptors: {error.strerror}", needed=_DESCRIPTORS_MIN) from None


def _trade(
    loaded: settings.Loaded,
    environment: settings.Environment,
    adapter: ExecutionAdapter | None,
    signals: Signals,
) -> int:
    _check_descriptors()
    from engine.base import notify
    from engine.storage import opening
    from engine.storage.ledger import Ledger

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
    store: Future[Ledger] = Future()

    def open_ledger() -> None:
        extension = notify.Extension(environment.notify_socket, "migrating the database")
        try:
            store.set_result(
                opening.open_ledger(
                    options.app.db_path,
                    busy_timeout_ms=options.persist.busy_timeout_ms,
                    replay=options.engine.ingest_mode == "REPLAY",
                    going_on=extension,
                )
            )
        except BaseException as error:
            store.set_exception(error)
        finally:
            extension.close()

    # The database waits for the disk meanwhile the pipeline and asyncio are imported. A daemon, because somebody else's
    # lock or a long migration, which is one transaction, must not hold up a stop.
    threading.Thread(target=open_ledger, name="open", daemon=True).start()
    from engine import pipeline

    opened = signals.wait(store)
    if signals.report():
        if opened and store.exception() is None:
            store.result().close()
        logger.info("shutdown complete", extra={"fields": {"exit_code": int(ExitCode.COMPLETE)}})
        return ExitCode.COMPLETE
    return pipeline.run(loaded, environment, store.result(), adapter, signals)
