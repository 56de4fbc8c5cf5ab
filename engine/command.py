"""argv -> Settings -> pipeline -> exit status (contract sections 1, 3).

The pipeline and its libraries are imported only once the configuration is known to be good, so that a
mistake in it is reported at once.
"""

from __future__ import annotations

import argparse
import functools
import gc
import io
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine import __version__
from engine.base import logs, redaction
from engine.base.exits import ConfigError, Crash, ExitCode
from engine.config import schema, settings
from engine.config.schema import Source
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

_PROG = "hybrid-engine"
_COMMANDS = ("venues", "record", "gaps")

_UNSEEN_COLUMNS = 78
"""Of a formatter that formats no help: argparse asks one for every flag that it is told of."""

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
  hybrid-engine gaps --db data/bot.db --json
  hybrid-engine record --venue kraken --markets BTC/USD,ETH/USD --to recordings
  hybrid-engine --ingest replay --replay-file recordings/kraken-20261127T010203456Z-000001.jsonl.gz
"""

_RECORD_EPILOG = """\
Ctrl-C or SIGTERM ends a recording well; whatever else ends it, all but the last second is there. Keys in the URL and in
what is sent are taken out; what a venue sends is kept as it comes.

examples:
  hybrid-engine record --venue kraken --markets BTC/USD,ETH/USD --to recordings
  hybrid-engine record --venue binance --url wss://stream.binance.us:9443/ws --markets BTCUSDT --to recordings
  hybrid-engine record --config config/config.toml --source coinbase --to recordings --seconds 3600
"""


_GAPS_EPILOG = """\
Of venues that do not number a market's trades without holes nothing is listed; which venue a source is of stands in the
sources file.

examples:
  hybrid-engine gaps --db data/bot.db
  hybrid-engine gaps --config config/config.toml --json
"""


class _Parser(argparse.ArgumentParser):
    """Reports a usage error as ConfigError, since systemd would restart after argparse's own exit status 2, and without
    what it does not know: that may be a password behind a mistyped flag (C8)."""

    def __init__(self, signals: Signals, command: str = "", **options: Any) -> None:
        # To ask for the terminal's width, argparse loads shutil and three libraries of compression, and it does so for
        # every flag, asked for help or not.
        formatter = functools.partial(argparse.HelpFormatter, width=_UNSEEN_COLUMNS)
        super().__init__(f"{_PROG} {command}".rstrip(), allow_abbrev=False, formatter_class=formatter, **options)
        self._signals = signals

    def format_help(self) -> str:
        from engine.base.helptext import HelpFormatter

        self.formatter_class = HelpFormatter
        return super().format_help()

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the flags of a command line."""
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [_flag_name(text) for text in unknown if text.startswith("-")]
            # What is no flag may be a password: it is compared, and not shown.
            if flags:
                known = [flag for action in self._actions for flag in action.option_strings]
                self.error(f"unknown flag {flags[0]}{_nearest(flags[0], known)}")
            if self.prog != _PROG:
                self.error("takes flags, and nothing beside them")
            self.error(f"takes flags, or a command: {', '.join(_COMMANDS)}{_nearest(unknown[0], _COMMANDS)}")
        return arguments

    def error(self, message: str) -> NoReturn:
        message = re.sub("ignored explicit argument .*", "takes no value", message, flags=re.DOTALL)
        raise ConfigError(f"command line: {message}", usage=self.format_usage().strip())

    def _print_message(self, message: str, file: object = None) -> None:
        _print(message, self._signals)


def _nearest(word: str, known: Sequence[str]) -> str:
    # Imported only here, for most starts have no use for it.
    import difflib

    found = difflib.get_close_matches(word, known, 1, 0.6)
    return f"; the nearest known one is {found[0]}" if found else ""


def _flag_name(text: str) -> str:
    """Return the name in `--name=value` or `-nvalue`."""
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
        description="Asyncio trading engine. It trades nothing by default (SHADOW).",
        epilog=_EPILOG,
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


def _add_files(parser: _Parser) -> None:
    parser.add_argument("--config", metavar="PATH", help=f"TOML config (default: {settings.DEFAULT_CONFIG_PATH})")
    parser.add_argument("--sources", metavar="PATH", help=f"sources file (default: {settings.SOURCES_FILE_NAME})")


def _venues_parser(signals: Signals) -> _Parser:
    parser = _Parser(signals, "venues", description="Lists the venues that a source may be of.")
    parser.add_argument("--json", action="store_true", help="for a script")
    return parser


def _gaps_parser(signals: Signals) -> _Parser:
    parser = _Parser(
        signals,
        "gaps",
        description="Lists the trades that were missed, beside a running engine too.",
        epilog=_GAPS_EPILOG,
    )
    parser.add_argument("--db", metavar="PATH", help="SQLite database (default: that of the config)")
    parser.add_argument("--json", action="store_true", help="for a script")
    _add_files(parser)
    return parser


def _recorder_parser(signals: Signals) -> _Parser:
    parser = _Parser(
        signals,
        "record",
        description="Records what a source says, to be replayed by --ingest replay --replay-file.",
        epilog=_RECORD_EPILOG,
    )
    parser.add_argument("--to", metavar="DIR", help="where its files go; made if missing")
    parser.add_argument("--source", metavar="NAME", help="a source of the sources file")
    parser.add_argument("--venue", metavar="NAME", help="instead of --source: `hybrid-engine venues` lists them")
    parser.add_argument("--markets", metavar="A,B", help="with --venue: markets, as the venue writes them")
    parser.add_argument("--url", metavar="URL", help="with or instead of --venue: where to connect")
    parser.add_argument("--kind", metavar="trade|aggTrade", help="with --venue: what to ask Binance for")
    parser.add_argument("--file-mib", metavar="N", type=_whole_number, default=64, help="size of a file (default: 64)")
    parser.add_argument("--files", metavar="N", type=_whole_number, default=16, help="how many are kept (default: 16)")
    parser.add_argument("--seconds", metavar="N", type=_number, help="stop after N seconds")
    _add_files(parser)
    return parser


def run(argv: Sequence[str], signals: Signals) -> int:
    """Do what the command line says; returns the exit status. Raises EngineError when it cannot be done."""
    if argv and argv[0] == "venues":
        return _list_venues(signals, as_json=_venues_parser(signals).read(argv[1:]).json)
    if argv and argv[0] == "record":
        return _record(_recorder_parser(signals).read(argv[1:]), signals)
    if argv and argv[0] == "gaps":
        return _list_gaps(_gaps_parser(signals).read(argv[1:]), signals)
    arguments = _parser(signals).read(argv)
    environment = settings.read_environment()
    logs.set_level(environment.log_level)
    logs.set_instance(settings.unit_instance(arguments.config))
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
    logs.set_instance(loaded.settings.app.instance)
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
            _check_replayed(Path(replayed))
        _print(json.dumps(settings.effective(loaded), indent=2, sort_keys=True, allow_nan=False) + "\n", signals)
        return ExitCode.COMPLETE
    if arguments.lift_bars:
        return _lift_bars(loaded)
    adapter = None
    if loaded.settings.mode == "LIVE":
        from engine.live import gate

        adapter = gate.check(loaded)
    return _trade(loaded, environment, adapter, signals)


def _check_replayed(path: Path) -> None:
    """Raise ConfigError for a replay file that no start could replay."""
    from engine.ingest import playback, replay, tape

    recording = tape.find(path)
    if recording is None:
        replay.open_lines(path).close()
    else:
        playback.source_of(recording)
        recording.close()


def _print(text: str, signals: Signals) -> None:
    """Write `text` to stdout. A reader that has read enough is no error."""
    # Whoever waits for a slow reader here is a command like any other: a signal ends it.
    signals.restore()
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # What its encoding has no sign for is spelled out (U1).
            sys.stdout.reconfigure(errors="backslashreplace")
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer must not be tried again, with a traceback, when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            # The log would go the same way.
            with suppress(OSError):
                os.write(2, f"hybrid-engine: standard output cannot be written: {error.strerror}\n".encode())
            raise Crash(f"stdout cannot be written: {error.strerror}") from None


def _list_venues(signals: Signals, *, as_json: bool) -> int:
    """Return what an operator may write into the sources file."""
    from engine.ingest.venues import registry

    rows = [("venue", "market", "url", "documentation")]
    for name in registry.names():
        venue = registry.find(name)
        rows.append((name, venue.example, venue.url, venue.documentation))
    _print(_json(rows) if as_json else _table(rows), signals)
    return ExitCode.COMPLETE


def _list_gaps(arguments: argparse.Namespace, signals: Signals) -> int:
    """Return the trades that were missed, with the times around them."""
    from engine.ingest.venues import registry
    from engine.storage import gaps

    flags = {} if arguments.db is None else {"app.db_path": ("--db", arguments.db)}
    loaded = settings.load(arguments.config, flags, arguments.sources)
    path = loaded.settings.app.db_path
    if not os.path.exists(path):
        shown = redaction.redact_value(path)
        raise ConfigError(f"app.db_path = {shown!r}: there is no database", key="app.db_path", value=shown)
    # Their ids are not consecutive, so that holes mean nothing.
    sources = settings.known_sources(loaded, arguments.sources)
    sparse = {source.name for source in sources if not registry.venue_of(source.venue, source.url).consecutive_ids}
    missed = [gap for gap in gaps.read_gaps(path) if gap.source not in sparse]
    unknown = sorted({gap.source for gap in missed} - {source.name for source in sources})
    if unknown:
        # Not within the answer, which a script may read.
        names = ", ".join(settings.shorten(name) for name in unknown)
        sys.stderr.write(
            f"no sources file names {names}: where a venue's ids lie apart by nature nothing was missed; --sources says"
            " which venue it is\n"
        )
    rows = [("source", "market", "first id", "last id", "trades", "after", "before")]
    for gap in missed:
        times = (_time(gap.after_ts), _time(gap.before_ts))
        rows.append((gap.source, gap.market, str(gap.first), str(gap.last), str(gap.last - gap.first + 1), *times))
    missing = f"{sum(gap.last - gap.first + 1 for gap in missed)} trades missed\n"
    _print(_json(rows) if arguments.json else _table(rows) + missing, signals)
    return ExitCode.COMPLETE


def _time(ms: int | None) -> str:
    """Return a venue's time in RFC 3339."""
    if ms is None:
        return "?"
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


def _json(rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a script: an array of objects, whose members are named as the columns."""
    names = [name.replace(" ", "_") for name in rows[0]]
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows[1:]], indent=1) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns, the last of which is as long as it likes. What a terminal would obey is shown as it is written
    in Python: a venue calls its markets as it likes."""
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _record(arguments: argparse.Namespace, signals: Signals) -> int:
    """Write down what a source says. Of the configuration it heeds how to connect, and what ticks are called."""
    environment = settings.read_environment()
    logs.set_level(environment.log_level)
    for flag, value, least, most in (
        ("--file-mib", arguments.file_mib, 1, 1024 * 1024),
        ("--files", arguments.files, 1, 100_000),
        ("--seconds", arguments.seconds, 0.001, 10 * 365 * 86_400),
    ):
        if value is not None and not least <= value <= most:
            raise ConfigError(f"command line: {flag} {value}: should be from {least} to {most}", key=flag)
    if not arguments.to:
        raise ConfigError("command line: record needs --to DIR, where its files go", key="--to")
    described = [arguments.venue, arguments.markets, arguments.url, arguments.kind]
    if (arguments.source is None) is not any(described):
        raise ConfigError(
            "command line: record needs a source: --source NAME of the sources file, or --venue, --url and --markets",
            key="--source",
        )
    mode = "SYNTHETIC" if arguments.source is None else "REAL_WS"
    loaded = settings.load(arguments.config, {"engine.ingest_mode": ("record", mode)}, arguments.sources)
    warnings = list(loaded.warnings)
    if arguments.source is None:
        source = _described_source(arguments)
        warnings += settings.check_source(source, Path("command line"), loaded.settings.app.symbol)
    else:
        named = {source.name: source for source in loaded.sources}
        if arguments.source not in named:
            raise ConfigError(
                f"--source {_shown(arguments.source)}: the sources file has {', '.join(map(repr, named))}",
                key="--source",
            )
        source = named[arguments.source]
    for message, fields in warnings:
        logger.warning(message, extra={"fields": fields})
    from engine import record

    return record.run(
        source,
        loaded.settings,
        environment,
        signals,
        directory=Path(arguments.to),
        file_bytes=arguments.file_mib * 1024 * 1024,
        files=arguments.files,
        seconds=arguments.seconds,
    )


def _described_source(arguments: argparse.Namespace) -> Source:
    """Return a source that stands in no file."""
    table: dict[str, object] = {"name": arguments.venue or "mock", "priority": 0}
    for key in ("venue", "url", "kind"):
        if getattr(arguments, key) is not None:
            table[key] = getattr(arguments, key)
    if arguments.markets is not None:
        names = [name.strip() for name in arguments.markets.split(",", schema.MARKETS_MAX)]
        # They are called as the venue calls them.
        table["markets"] = {name: name for name in names if name}
    return settings.make_source(table, Path("command line"), {key: f"--{key}" for key in ("venue", "url", "kind")})


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
        logger.info("bars lifted", extra={"fields": {"hosts": store.lift_bars()}})
    finally:
        store.close()
    return ExitCode.COMPLETE


def _check_descriptors() -> None:
    """Raise Crash while there are too few. Where the database gets none, SQLite calls it unusable; where the event loop
    gets none, libuv aborts the process."""
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
    # What is loaded by now stays, so that no collection need look at it while the engine trades.
    gc.freeze()
    gc.enable()
    return pipeline.run(loaded, environment, store.result(), adapter, signals)
