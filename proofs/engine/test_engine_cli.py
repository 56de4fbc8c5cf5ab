"""`python -m engine`: flags and exit codes, as a real process (C1-C4, R6, G0, G1)."""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from engine import __version__, command
from engine.base.events import Numbering, Tick
from engine.base.exits import ConfigError
from engine.base.redaction import forget, redact
from engine.config.settings import Environment, Loaded
from engine.signals import Signals
from engine.storage import opening
from engine.storage.batch import Batch
from engine.storage.ledger import Ledger
from proofs.engine.test_settings import unusual
from proofs.fixtures import fork_server
from proofs.fixtures.engine_process import ROOT, engine, write_config


def call(directory: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environ}
    if fork_server.can_fork(environ, args):
        return fork_server.run(args, directory, env, timeout=15)
    return subprocess.run(
        [sys.executable, "-m", "engine", *args],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    lines = [json.loads(line) for line in (result.stdout + result.stderr).splitlines() if line.startswith("{")]
    (error,) = [line["fields"] for line in lines if line["level"] == "ERROR"]
    assert error["exit_code"] == result.returncode
    return str(error["message"])


def test_version(tmp_path: Path) -> None:
    result = call(tmp_path, "--version")
    assert (result.returncode, result.stdout) == (0, f"hybrid-engine {__version__}\n")


def test_check_config_prints_the_effective_config_and_touches_nothing(tmp_path: Path) -> None:
    result = call(tmp_path, "--check-config", "--sample-every", "5", "--seconds", "1", "--mode", "typo")
    assert result.returncode == 0
    shown = json.loads(result.stdout)
    assert (shown["engine"]["sample_every"], shown["engine"]["run_seconds"], shown["mode"]) == (5, 1.0, "SHADOW")
    # For people, and for whoever compares two of them.
    assert result.stdout == json.dumps(shown, indent=2, sort_keys=True) + "\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.claim("C2", "C3", "C4")
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--config", "nope.toml"], "nope.toml"),
        (["--ingest", "synthetc"], "--ingest = 'synthetc'"),
        (["--sample-every", "0"], "--sample-every = 0"),
        (["--sample-every", "many"], "--sample-every"),
        (["--seconds", "nan"], "--seconds = nan"),
        (["--sample", "5"], "--sample"),
        (["--db"], "--db"),
        (["--ingest", "realws"], "ws_sources.toml"),
    ],
)
def test_C2_C3_C4_a_mistake_on_the_command_line_exits_12_and_touches_nothing(
    tmp_path: Path, args: list[str], says: str
) -> None:
    result = call(tmp_path, *args)
    assert result.returncode == 12
    assert says in error_of(result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.claim("C4")
def test_C4_a_bad_environment_exits_12(tmp_path: Path) -> None:
    assert call(tmp_path, HYBRID_TRANSPORT="pigeon").returncode == 12


@pytest.mark.slow
@pytest.mark.claim("R6", "G1", "G0", "S14", "L1")
@pytest.mark.parametrize("armed", [False, True])
@pytest.mark.parametrize("bundle", [False, True])
def test_R6_G1_G0_S14_L1_live_exits_12_and_says_exactly_what_is_missing(
    tmp_path: Path, armed: bool, bundle: bool
) -> None:
    config = write_config(tmp_path, {"gate": {"proof_bundle": "bundle.json"}}, mode="live", live_armed=armed)
    if bundle:
        # `touch` opened the earlier engine's gate.
        (tmp_path / "bundle.json").touch()
    result = call(tmp_path, "--config", str(config))
    assert result.returncode == 12
    message = error_of(result)
    assert ("live_armed" in message) is (not armed)
    assert ("proof bundle: bundle.json is missing" in message) is (not bundle)
    assert ("envelope: proof bundle bundle.json is empty" in message) is bundle
    assert "hybrid_engine.execution must have one, has none" in message
    assert not (tmp_path / "data").exists()


def test_a_start_does_not_do_what_nobody_asked_for(tmp_path: Path) -> None:
    """Look for garbage among what was imported, ask every package for plugins of pydantic, load what no table and no
    flag needs, make a validator for each table beside that of the file, or load a pipeline before the configuration is
    known to be good."""
    script = """
import gc, json, sys
from engine.__main__ import main
before = sum(each["collections"] for each in gc.get_stats())
assert main(["--check-config", "--config", "/dev/null"]) == 0
collections = sum(each["collections"] for each in gc.get_stats()) - before
from engine.config import schema
made = [table.__name__ for table in schema.Table.__subclasses__() if table.__pydantic_complete__]
told = {"collections": collections, "made": made, "modules": sorted(sys.modules)}
print(json.dumps(told), file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=15, check=True,
    )  # fmt: skip
    told = json.loads(result.stderr.splitlines()[-1])
    assert told["collections"] == 0
    assert told["made"] == ["Settings"]
    assert "pydantic.main" in told["modules"]
    unwanted = {
        "importlib.metadata", "email", "shutil", "pydantic.v1", "pydantic.networks", "pydantic.type_adapter",
        "asyncio", "sqlite3", "uvloop", "engine.pipeline",
    }  # fmt: skip
    assert not unwanted & set(told["modules"])


def test_garbage_is_looked_for_while_the_engine_trades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while it starts, and later not among what was loaded by then."""
    from engine import pipeline

    found = []

    def run(_loaded: object, _environment: object, store: Ledger, *_: object) -> int:
        store.close()
        found.append((gc.isenabled(), gc.get_freeze_count()))
        return 0

    monkeypatch.setattr(pipeline, "run", run)
    frozen = gc.get_freeze_count()
    gc.disable()
    try:
        made: list[list[object]] = [[] for _ in range(1000)]
        assert command.run(["--config", "/dev/null", "--db", str(tmp_path / "bot.db")], Signals()) == 0
        assert [enabled for enabled, _ in found] == [True]
        assert found[0][1] > frozen + len(made)
    finally:
        gc.enable()


def test_check_config_does_not_ask_the_gate(tmp_path: Path) -> None:
    """Only the unit itself can pass it; what a bundle is signed for must be known before there is one."""
    config = write_config(tmp_path, {"engine": {"ingest_mode": "REAL_WS"}}, mode="LIVE", live_armed=True)
    source(tmp_path, "wss://stream.binance.com:9443/ws/solusdc@trade")
    result = call(tmp_path, "--config", str(config), "--check-config")
    assert (result.returncode, json.loads(result.stdout)["mode"]) == (0, "LIVE")
    assert "when the unit starts" in result.stderr


def source(directory: Path, url: str) -> None:
    """The one source of a sources file."""
    (directory / "ws_sources.toml").write_text(f'[[source]]\nname = "here"\nurl = "{url}"\npriority = 1\n')


@pytest.mark.slow
@pytest.mark.claim("R7")
def test_check_config_says_beforehand_that_nobody_trades_on_made_up_prices(tmp_path: Path) -> None:
    for mode in ("SYNTHETIC", "REPLAY", "MOCK_WS"):
        config = write_config(tmp_path, {"engine": {"ingest_mode": mode}}, mode="LIVE")
        result = call(tmp_path, "--config", str(config), "--check-config")
        assert (result.returncode, result.stdout) == (12, "")
        assert f'ingest_mode is \\"{mode}\\"' in result.stderr
    config = write_config(tmp_path, {"engine": {"ingest_mode": "REAL_WS"}}, mode="LIVE")
    for url, status in (("ws://192.0.2.1/ws/solusdc@trade", 12), ("ws://localhost:9001", 0)):
        source(tmp_path, url)
        assert call(tmp_path, "--config", str(config), "--check-config").returncode == status


@pytest.mark.claim("C1", "G0")
def test_C1_G0_a_mode_typo_warns_and_records_nothing_but_shadow_orders(tmp_path: Path) -> None:
    config = write_config(tmp_path, mode="LIVE", live_armed=True)
    with engine(tmp_path, "--config", str(config), "--mode", "lvie") as running:
        running.wait_line("unknown --mode, running SHADOW")
        running.wait_heartbeat(lambda beat: beat["shadow_orders"] > 0)
        assert running.stop() == 0
        assert running.query("SELECT count(*) FROM orders WHERE NOT is_shadow") == [(0,)]


def test_exit_12_on_a_database_that_is_not_one(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "bot.db").write_text("this is a letter, not a database. " * 50)
    with engine(tmp_path, "--config", str(config)) as running:
        assert running.wait_exit() == 12


def test_exit_1_on_a_database_locked_at_start(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"persist": {"busy_timeout_ms": 1000}})
    with sqlite3.connect(tmp_path / "bot.db", isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with engine(tmp_path, "--config", str(config)) as running:
            assert running.wait_exit() == 1
    holder.close()


REFUSED: list[list[str]] = [
    ["--seconds", "1e999"],
    ["--seconds", "9" * 5000],
    ["--seconds", "٣"],
    ["--seconds", "1_0"],
    ["--seconds", "-1"],
    ["--seconds", ""],
    ["--sample-every", "9" * 5000],
    ["--sample-every", "9" * 20],
    ["--sample-every", "٣"],
    ["--sample-every", " 5"],
    ["--sample-every", "1e1"],
    ["-"],
    [""],
    ["--"],
    ["\udcff\udcfe"],
    ["--\udcff=\udcfe"],
    ["--db", "\udcff" + "x" * 300],
    ["--db", "x" * 120_000],
    ["--mode=" + "x" * 120_000, "--ingest", "y" * 120_000],
    ["--ingest", "\udcff"],
    ["--check-config=yes"],
    ["--config", "\udcff"],
    ["--config", "\udcff" * 3000],
    ["--ws-url", "ws://h\udcff"],
    ["--replay-file", "\udcff", "--ingest", "replay"],
]


@pytest.mark.claim("C7")
@pytest.mark.parametrize("args", REFUSED, ids=range(len(REFUSED)))
def test_C7_a_command_line_is_refused_in_few_words(args: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        command.run(["--check-config", *args], Signals())
    assert len(str(refused.value)) < 10_000


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize("args", REFUSED[::6], ids=range(len(REFUSED[::6])))
def test_C7_no_command_line_is_a_crash(tmp_path: Path, args: list[str]) -> None:
    result = call(tmp_path, *args)
    assert result.returncode == 12
    assert "raceback" not in result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize("flag", ["--db", "--replay-file"])
def test_C7_no_path_is_a_crash_or_waited_for(tmp_path: Path, flag: str) -> None:
    """What a check finds, test_settings.py says; a start opens these, too."""
    ingest = "replay" if flag == "--replay-file" else "synthetic"
    places = unusual(tmp_path)
    for what in ("pipe", "socket", "memory", "too long"):
        place = places[what]
        db = [] if flag == "--db" else ["--db", "bot.db"]
        args = [*db, "--ingest", ingest, "--seconds", "0.01", flag, place]
        result = call(tmp_path, *args)
        assert result.returncode == 12, f"{what}: {result.stdout}"
        assert "traceback" not in result.stdout


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize(
    "text",
    [
        'engine.ingest_mode = "REPLAY"\nengine.replay_file = "nope.jsonl"',
        'engine.ingest_mode = "REAL_WS"',
        "engine.start_price = 1.7e308\nengine.price_step = 1.7e308\nengine.tick_interval_ms = 1",
        "engine.heartbeat_interval_secs = 0.001",
        "engine.heartbeat_interval_secs = 5e-324",
        "engine.volume = 0x" + "f" * 5000,
        'app.symbol = "\\u2028\\ud7ff\\U0010ffff"',
        "strategy = []",
    ],
    ids=range(8),
)
def test_C7_a_start_and_a_check_agree(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    args = ["--config", "c.toml", "--seconds", "0.05", "--db", "bot.db"]
    check, start = call(tmp_path, "--check-config", *args), call(tmp_path, *args)
    assert check.returncode == start.returncode
    assert start.returncode in (0, 12)
    if check.returncode == 0:
        json.loads(check.stdout)


def damaged(directory: Path, module: str, damage: str) -> Path:
    """A copy of the engine in which one module is not what it was; returns that module's path."""
    # With its bytecode, which the interpreter believes of the modules that are as they were. Links, because copies
    # would take as long as the start that follows.
    shutil.copytree(ROOT / "engine", directory / "engine", copy_function=os.symlink)
    (path,) = (directory / "engine").rglob(f"{module}.py")
    source = path.read_bytes()
    path.unlink()
    if damage == "a directory":
        path.mkdir()
    elif damage == "a loop of links":
        path.symlink_to(path.name)
    elif damage != "missing":
        content = {"empty": b"", "NULs": bytes(len(source)), "cut off": source[: len(source) // 2]}
        path.write_bytes(content[damage] if damage in content else damage.encode() + b"\n" + source)
    return path


DAMAGES = ["missing", "empty", "NULs", "a directory", "a loop of links", "def (", "import nowhere", "a = 1 / 0"]


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("module", ["signals", "logs", "exits", "redaction", "settings", "risk", "ledger"])
def test_C7_a_damaged_installation_exits_12(tmp_path: Path, module: str, damage: str) -> None:
    damaged(tmp_path, module, damage)
    result = call(tmp_path, "--seconds", "0.1", "--db", "bot.db", PYTHONPATH=str(tmp_path))
    assert result.returncode == 12, result.stdout + result.stderr
    assert "raceback" not in result.stdout + result.stderr
    assert "installation is damaged" in error_of(result)


EVERY = sorted({path.stem for path in (ROOT / "engine").rglob("*.py")} - {"__init__", "__main__"})


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize("module", EVERY)
def test_C7_whatever_module_is_missing_none_is_a_crash(tmp_path: Path, module: str) -> None:
    """One that this run does not need is not missed."""
    damaged(tmp_path, module, "missing")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{nobody.getsockname()[1]}/"
        args = ["--ingest", "mockws", "--ws-url", url, "--seconds", "0.3", "--db", "bot.db"]
        result = call(tmp_path, *args, PYTHONPATH=str(tmp_path))
    assert result.returncode in (0, 12), result.stdout + result.stderr
    assert "raceback" not in result.stdout + result.stderr
    if result.returncode:
        assert "installation is damaged" in error_of(result)


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize("module", ["signals", "exits", "pipeline"])
def test_C7_the_installed_command_says_so_too(tmp_path: Path, module: str) -> None:
    damaged(tmp_path, module, "missing")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from engine.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-I", "-c", script, "--seconds", "0.1", "--db", "bot.db"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=15, check=False)
    assert result.returncode == 12, result.stderr
    assert "installation is damaged" in error_of(result)


@pytest.mark.claim("C7")
@pytest.mark.parametrize("module", ["logs", "command"])
def test_C7_a_module_that_may_not_be_read_is_damage(tmp_path: Path, module: str) -> None:
    """Root may read whatever it likes, so the loader is made to say it. In a process of its own: the engine leaves
    signals ignored behind it, which the engines of other proofs would inherit."""
    script = f"""
import sys
from importlib.machinery import SourceFileLoader

read = SourceFileLoader.get_data

def get_data(self, path):
    if self.name.split(".")[0] == "engine" and self.name.endswith(".{module}"):
        raise PermissionError(13, "Permission denied", path)
    return read(self, path)

SourceFileLoader.get_data = get_data
sys.path.insert(0, {str(ROOT)!r})
from engine.__main__ import main
sys.exit(main(["--check-config"]))
"""
    command = [sys.executable, "-B", "-c", script]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=15, check=False)
    assert (result.returncode, "Permission denied" in result.stderr) == (12, True), result.stderr


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize("damage", ["raise MemoryError", "raise OSError(24, 'files')", "raise OSError(28, 'disk')"])
@pytest.mark.parametrize("module", ["logs", "settings", "pipeline"])
def test_C7_what_may_be_over_at_the_next_start_exits_1(tmp_path: Path, module: str, damage: str) -> None:
    damaged(tmp_path, module, damage).write_text(damage)
    result = call(tmp_path, "--seconds", "0.1", "--db", "bot.db", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    error_of(result)


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize("limit", [8, 12, 13, 20])
def test_C7_too_few_descriptors_are_told(tmp_path: Path, limit: int) -> None:
    """libuv ends the process by SIGABRT when it gets none."""
    script = "import resource, sys; from engine.__main__ import main\n"
    script += f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit})); sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", script, "--seconds", "0.1", "--db", "bot.db"], env={"PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=15, check=False,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout + result.stderr
    assert "file descriptors" in error_of(result)


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize(
    "place",
    ["/proc/x.db", "/proc/x/y.db", "/sys/x.db", "/dev/fd/x.db", *("d" * n for n in (248, 250, 252)), "x" + "/e" * 250],
)
def test_C7_a_database_that_can_never_be_exits_12(tmp_path: Path, place: str) -> None:
    result = call(tmp_path, "--seconds", "0.1", "--db", place)
    assert result.returncode == 12, result.stdout
    assert "traceback" not in result.stdout
    if not place.startswith(("/proc", "/sys", "/dev")):
        assert call(tmp_path, "--check-config", "--db", place).returncode == 12
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_C7_what_sqlite_can_make_no_file_of_beside_the_database_exits_12(
    tmp_path: Path, make: Callable[[Path], None], suffix: str
) -> None:
    make(tmp_path / f"bot.db{suffix}")
    result = call(tmp_path, "--seconds", "0.1", "--db", "bot.db")
    assert (result.returncode, "raceback" in result.stdout) == (12, False), result.stdout
    assert f"bot.db{suffix}: not a regular file" in result.stdout


@pytest.mark.slow
@pytest.mark.claim("C7")
def test_C7_the_database_of_another_application_is_left_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.executescript("PRAGMA application_id = 1298752324; CREATE TABLE ticks (id, foo);")
    before = (tmp_path / "other.db").read_bytes()
    result = call(tmp_path, "--seconds", "0.1", "--db", "other.db")
    assert result.returncode == 12
    assert "database of another application (application_id 0x4d696344)" in result.stdout
    assert (tmp_path / "other.db").read_bytes() == before


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize("name_bytes", [240, 247])
def test_C7_the_longest_names_are_databases(tmp_path: Path, name_bytes: int) -> None:
    assert call(tmp_path, "--seconds", "0.1", "--db", "d" * name_bytes).returncode == 0


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize(
    "raw",
    [
        gzip.compress(b"{}\n"),
        b'[{"price":1}]',
        "{}\n".encode("utf-16"),
        gzip.compress(b'{"recording":1,"source":"s","url":"ws://x","symbol":"X","run":"","venue":"mtgox"}\n'),
        None,
    ],
    ids=range(5),
)
def test_C7_a_check_and_a_start_agree_about_a_replay_file(tmp_path: Path, raw: bytes | None) -> None:
    path = Path("/proc/self/mem")
    if raw is not None:
        path = tmp_path / "ticks"
        path.write_bytes(raw)
    args = ["--ingest", "replay", "--replay-file", str(path), "--db", "bot.db"]
    assert [call(tmp_path, *more, *args).returncode for more in ([], ["--check-config"])] == [12, 12]


@pytest.mark.slow
@pytest.mark.claim("C7")
@pytest.mark.parametrize(
    "variables",
    [
        {"HYBRID_LOG": "\udcff"},
        {"HYBRID_LOG": "x" * 120_000},
        {"WATCHDOG_USEC": "9" * 5000},
        {"WATCHDOG_USEC": "9" * 30},
        {"WATCHDOG_USEC": "²"},
        {"NOTIFY_SOCKET": "@"},
        {"NOTIFY_SOCKET": "/\udcff" * 100},
        {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000"},
    ],
    ids=range(8),
)
def test_C7_no_environment_is_a_crash(tmp_path: Path, variables: dict[str, str]) -> None:
    result = call(tmp_path, "--seconds", "0.05", "--db", "bot.db", **variables)
    assert result.returncode == (12 if "HYBRID_LOG" in variables else 0)
    assert "traceback" not in result.stdout


@pytest.mark.slow
@pytest.mark.claim("N19")
def test_N19_venues_are_listed_with_what_they_need(tmp_path: Path) -> None:
    listed = call(tmp_path, "venues")
    assert listed.returncode == 0
    header, *rows = listed.stdout.splitlines()
    assert header.split() == ["venue", "market", "url", "documentation"]
    assert [row.split()[:3] for row in rows][3:6] == [
        ["coinbase", "BTC-USD", "wss://ws-feed.exchange.coinbase.com"],
        ["gemini", "btcusd", "wss://ws.gemini.com"],
        ["kraken", "BTC/USD", "wss://ws.kraken.com/v2"],
    ]
    told = json.loads(call(tmp_path, "venues", "--json").stdout)
    assert [[one[name] for name in header.split()] for one in told] == [row.split(maxsplit=3) for row in rows]


@pytest.mark.claim("U1")
@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--sampel-every", "3"], "unknown flag --sampel-every; the nearest known one is --sample-every"),
        (["venuse"], "takes flags, or a command: venues, record, gaps; the nearest known one is venues"),
        (["correct-horse"], "takes flags, or a command: venues, record, gaps"),
    ],
)
def test_U1_what_is_mistyped_is_answered_with_the_nearest(tmp_path: Path, argv: list[str], says: str) -> None:
    result = call(tmp_path, *argv)
    assert result.returncode == 12
    assert error_of(result) == f"command line: {says}"
    # What is no flag may be a password (C8).
    assert "horse" not in result.stdout


@pytest.mark.slow
@pytest.mark.claim("U1")
@pytest.mark.parametrize("command", ["venues", "gaps", "record"])
def test_U1_a_command_has_help_and_flags_of_its_own(tmp_path: Path, command: str) -> None:
    helped = call(tmp_path, command, "--help")
    assert helped.returncode == 0
    assert helped.stdout.startswith(f"usage: hybrid-engine {command} ")
    assert "--lift-bars" not in helped.stdout
    for argument, why in (
        ("--lift-bars", "unknown flag --lift-bars"),
        ("word", "takes flags, and nothing beside them"),
    ):
        refused = call(tmp_path, command, argument)
        assert refused.returncode == 12
        assert why in refused.stdout


@pytest.mark.slow
@pytest.mark.claim("U1")
def test_U1_what_an_encoding_has_no_sign_for_is_spelled_out(tmp_path: Path) -> None:
    """A market may be called in any script."""
    (tmp_path / "ws_sources.toml").write_text('[[source]]\nname = "k"\nurl = "ws://localhost:1"\npriority = 1\n')
    config = write_config(tmp_path)
    store = opening.open_ledger(tmp_path / "bot.db", busy_timeout_ms=1000)
    try:
        ticks = [Tick("k", "\u5e01/USD", 1.0, 1.0, 1_764_000_000_000 + number, number, id=number) for number in (1, 5)]
        found = {"k": Numbering("k", 1, 1, 5, 1_764_000_000_005, [(2, 4)], [])}
        store.write(Batch(ticks=ticks, numberings=found, streams={"k": ("k", "\u5e01/USD")}))
        flags = ("gaps", "--db", str(tmp_path / "bot.db"), "--config", str(config))
        listed = call(tmp_path, *flags, PYTHONIOENCODING="ascii")
    finally:
        store.close()
    assert (listed.returncode, "Traceback" in listed.stderr) == (0, False), listed.stderr
    assert listed.stdout.isascii()
    assert "\\u5e01/USD" in listed.stdout


@pytest.mark.claim("N9", "U1")
def test_N9_U1_a_table_obeys_no_market() -> None:
    shown = command._table([("source", "market"), ("a", "\x1b[2JBTC\n\u202eX 币")])
    assert shown == "source  market\na       \\x1b[2JBTC\\n\\u202eX 币\n"


@pytest.mark.slow
@pytest.mark.claim("N9")
def test_N9_what_was_missed_is_listed_with_the_times_around_it(tmp_path: Path) -> None:
    """Not for a venue whose ids lie apart. Beside an engine that has the database open, too."""
    (tmp_path / "ws_sources.toml").write_text(
        "".join(
            f'[[source]]\nname = "{name}"\nvenue = "{venue}"\npriority = 1\nmarkets = {{ "{market}" = "BTC/USD" }}\n'
            for name, venue, market in (("k", "kraken", "BTC/USD"), ("b", "bitstamp", "btcusd"))
        )
    )
    config = write_config(tmp_path)
    store = opening.open_ledger(tmp_path / "bot.db", busy_timeout_ms=1000)
    try:
        start = 1_764_000_000_000
        found = {name: Numbering(name, 1, 1, 9, start + 9, [(3, 4), (6, 8)], []) for name in ("k", "b")}
        ticks = [
            Tick(name, "BTC/USD", 1.0, 1.0, start + number, number, id=10 * at + number)
            for at, name in enumerate(found)
            for number in (1, 2, 5, 9)
        ]
        streams = {"k": ("k", "BTC/USD"), "b": ("b", "BTCUSD")}
        store.write(Batch(ticks=ticks, numberings=found, streams=streams))
        listed = call(tmp_path, "gaps", "--db", str(tmp_path / "bot.db"), "--config", str(config))
        as_json = call(tmp_path, "gaps", "--json", "--db", str(tmp_path / "bot.db"), "--config", str(config))
        (tmp_path / "ws_sources.toml").unlink()
        unknown = call(tmp_path, "gaps", "--json", "--db", str(tmp_path / "bot.db"), "--config", str(config))
        of_people = call(tmp_path, "gaps", "--db", str(tmp_path / "bot.db"), "--config", str(config))
    finally:
        store.close()
    assert listed.returncode == 0, listed.stderr
    assert [line.split() for line in listed.stdout.splitlines()[1:]] == [
        ["k", "BTC/USD", "3", "4", "2", "2025-11-24T16:00:00.002Z", "2025-11-24T16:00:00.005Z"],
        ["k", "BTC/USD", "6", "8", "3", "2025-11-24T16:00:00.005Z", "2025-11-24T16:00:00.009Z"],
        ["5", "trades", "missed"],
    ]
    told = json.loads(as_json.stdout)
    assert [(one["source"], one["first_id"], one["trades"], one["before"]) for one in told] == [
        ("k", "3", "2", "2025-11-24T16:00:00.005Z"),
        ("k", "6", "3", "2025-11-24T16:00:00.009Z"),
    ]
    assert (listed.stderr, as_json.stderr) == ("", "")
    # Nothing tells then that holes of one of them are natural.
    assert [one["source"] for one in json.loads(unknown.stdout)] == ["k", "k", "b", "b"]
    assert unknown.stderr.startswith("no sources file names b, k: ")
    assert of_people.stderr == unknown.stderr
    nothing = call(tmp_path, "gaps", "--db", str(tmp_path / "typo.db"), "--config", str(config))
    assert nothing.returncode == 12
    assert "there is no database" in nothing.stdout
    assert not (tmp_path / "typo.db").exists()


RECORD = ["record", "--to", "x"]


@pytest.mark.claim("U1", "C4", "N20")
@pytest.mark.parametrize(
    ("argv", "says", "details"),
    [
        (["--seconds", "x"], "command line: argument --seconds: 'x': should be a number", None),
        (["--seconds", "0x1"], "command line: argument --seconds: '0x1': should be a number", None),
        (["--sample-every", "1.0"], "command line: argument --sample-every: '1.0': should be a whole number", None),
        (["--sample-every", "9" * 21], f"command line: argument --sample-every: '{'9' * 21}': should be a whole", None),
        (["--seconds", "y" * 90], f"command line: argument --seconds: '{'y' * 76}...: should be a number", None),
        (["--check-config=1"], "command line: argument --check-config: takes no value", None),
        (["--colour=red", "-x9", "word"], "command line: unknown flag --colour", None),
        (["-x9"], "command line: unknown flag -x", None),
        (["record"], "command line: record needs --to DIR, where its files go", {"key": "--to"}),
        (["record", "--to", ""], "command line: record needs --to DIR, where its files go", {"key": "--to"}),
        *(
            (["record", flag, value],
             f"command line: {flag} {shown}: should be from {least} to {most}", {"key": flag})
            for flag, least, most, values in (
                ("--file-mib", 1, 1024 * 1024, [("0", "0"), ("-1", "-1"), ("1048577", "1048577")]),
                ("--files", 1, 100_000, [("0", "0"), ("100001", "100001")]),
                ("--seconds", 0.001, 315_360_000, [("0", "0.0"), ("0.00099", "0.00099"), ("315360000.1", "315360000.1"),
                                                   ("nan", "nan"), ("inf", "inf")]),
            )
            for value, shown in values
        ),
        # The last that is allowed is complained about no more.
        *(
            (["record", flag, value], "command line: record needs --to DIR", {"key": "--to"})
            for flag, values in (
                ("--file-mib", ("1", "1048576", "+5")), ("--files", ("1", "100000")),
                ("--seconds", ("0.001", "315360000", "1e3", "1.", "1.5E+2")),
            )
            for value in values
        ),
        *(
            (argv, "command line: record needs a source: --source NAME of the sources file, or --venue, --url and"
             " --markets", {"key": "--source"})
            for argv in (
                RECORD, [*RECORD, "--source", "a", "--venue", "kraken"], [*RECORD, "--source", "a", "--url", "ws://h"],
                [*RECORD, "--source", "a", "--markets", "A"], [*RECORD, "--source", "a", "--kind", "trade"],
            )
        ),
        ([*RECORD, "--source", "nobody", "--config", "/dev/null", "--sources", str(ROOT / "config/ws_sources.toml")],
         "--source 'nobody': the sources file has '", {"key": "--source"}),
        ([*RECORD, "--venue", "kraken", "--markets", " , "], "command line: ", None),
        ([*RECORD, "--venue", "krake", "--markets", "BTC/USD"], "--venue = 'krake'", None),
        ([*RECORD, "--url", "http://h"], "--url = 'http://h': should be a ws:// or wss:// URL", None),
        (["gaps", "--config", "/dev/null", "--db", "nowhere.db"],
         "app.db_path = 'nowhere.db': there is no database", {"key": "app.db_path", "value": "nowhere.db"}),
        (["--lift-bars", "--config", "/dev/null", "--db", "nowhere.db"],
         "app.db_path = 'nowhere.db': there is no database, so no bar to lift",
         {"key": "app.db_path", "value": "nowhere.db"}),
    ],
    ids=range(41),
)  # fmt: skip
def test_U1_C4_a_mistake_on_a_command_line_is_told_with_its_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], says: str, details: dict[str, object] | None
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        command.run(argv, Signals())
    assert str(refused.value).startswith(says)
    if details is not None:
        assert refused.value.details == details
    assert list(tmp_path.iterdir()) == []


@pytest.mark.claim("U1")
def test_U1_a_table_is_of_columns_for_people_and_of_objects_for_scripts() -> None:
    rows = [("first id", "b", "times"), ("1", "long one", "?"), ("22", "", "")]
    assert command._table(rows) == "first id  b         times\n1         long one  ?\n22\n"
    assert json.loads(command._json(rows)) == [
        {"first_id": "1", "b": "long one", "times": "?"}, {"first_id": "22", "b": "", "times": ""},
    ]  # fmt: skip
    assert command._json(rows[:1]) == "[]\n"


@pytest.mark.claim("N9")
@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (None, "?"),
        (0, "1970-01-01T00:00:00.000Z"),
        (1_764_000_000_007, "2025-11-24T16:00:00.007Z"),
        (1_764_000_000_999, "2025-11-24T16:00:00.999Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
    ],
)
def test_N9_a_time_is_shown_to_the_millisecond(ms: int | None, shown: str) -> None:
    assert command._time(ms) == shown


@pytest.mark.claim("M1", "C3")
@pytest.mark.parametrize("config", [None, "c.toml"])
def test_M1_a_start_says_what_it_starts_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, config: str | None
) -> None:
    from engine import pipeline

    ran = []

    def run(loaded: Loaded, environment: Environment, store: Ledger, adapter: object, signals: Signals) -> int:
        store.close()
        ran.append((loaded.settings.engine.sample_every, environment.transport, adapter, signals))
        return 11

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("engine.sample_every = 3")
    caplog.set_level("INFO")
    signals = Signals()
    flags = [] if config is None else ["--config", config]
    monkeypatch.setattr("engine.base.logs.set_level", lambda _: None)
    # The status is the pipeline's.
    assert command.run([*flags, "--ingest", "mockws", "--db", "bot.db"], signals) == 11
    assert ran == [(1 if config is None else 3, "picows", None, signals)]
    told = [(line.levelname, line.message, vars(line)["fields"]) for line in caplog.records if line.name == "engine"]
    python = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    version, started = told[0], told[-1]
    assert version == ("INFO", "engine starting", {"version": __version__, "python": python})
    assert started == ("INFO", "configuration loaded", {
        "config_path": config, "mode": "SHADOW", "ingest_mode": "MOCK_WS", "db_path": "bot.db",
        "sample_every": 1 if config is None else 3,
    })  # fmt: skip
    absent = ("WARNING", "no config file, built-in defaults apply", {"config_path": "config/config.toml"})
    assert told[1:-1] == ([absent] if config is None else [])


@pytest.mark.claim("N5")
def test_N5_bars_are_lifted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.base.logs.set_level", lambda _: None)
    path = tmp_path / "bot.db"
    store = opening.open_ledger(path, busy_timeout_ms=1000)
    store.write(Batch(barred={"b": ("b.example", 7), "a": ("a.example", 9), "c": ("a.example", 8)}))
    store.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        # As a version left it that kept bars by source.
        connection.execute("INSERT INTO sources(name, barred_until) VALUES ('old', 9)")
    caplog.set_level("INFO")
    for hosts in (["a.example", "b.example", "old"], []):
        caplog.clear()
        assert command.run(["--lift-bars", "--config", "/dev/null", "--db", str(path)], Signals()) == 0
        (lifted,) = (vars(line)["fields"] for line in caplog.records if line.message == "bars lifted")
        assert lifted == {"hosts": hosts}
    # Nobody has it any more.
    store = opening.open_ledger(path, busy_timeout_ms=1000)
    assert store.restore().barred == {}
    store.close()


@pytest.mark.claim("U1")
@pytest.mark.parametrize(
    "parser", [command._parser, command._venues_parser, command._gaps_parser, command._recorder_parser]
)
def test_U1_every_flag_says_what_it_does_and_what_it_takes(
    parser: Callable[[Signals], argparse.ArgumentParser],
) -> None:
    made = parser(Signals())
    helped = " ".join(made.format_help().split())
    assert made.description
    assert made.description in helped
    for action in made._actions:
        assert action.help, action.option_strings
        # What is not a switch says what follows it.
        assert (action.nargs == 0) or action.metavar, action.option_strings
        assert " ".join(action.help.split()) in helped
        for flag in action.option_strings:
            assert flag in helped


@pytest.mark.claim("U1", "C1", "C2", "C3")
def test_U1_the_contract_lists_each_flag() -> None:
    section = (ROOT / "docs/contract.md").read_text().partition("\n## 1. ")[2].partition("\n## ")[0]
    flags = {flag for row in re.findall(r"^\| (`--[^|]+)\|", section.replace("\\|", "/"), re.MULTILINE)
             for flag in re.findall(r"`(--[a-z-]+)", row)}  # fmt: skip
    known = {flag for action in command._parser(Signals())._actions for flag in action.option_strings}
    assert known - flags == {"-h", "--help"}
    assert flags <= known
    of_commands = dict(re.findall(r"^\| `(\w+)` \|([^\n]*)\|$", section, re.MULTILINE))
    parsers = {"venues": command._venues_parser, "gaps": command._gaps_parser, "record": command._recorder_parser}
    assert of_commands.keys() == parsers.keys()
    for name, parser in parsers.items():
        told = set(re.findall(r"--[a-z-]+", of_commands[name]))
        assert told == {flag for action in parser(Signals())._actions for flag in action.option_strings} - {
            "-h", "--help"
        }  # fmt: skip


@pytest.mark.claim("C8", "N20")
def test_C8_N20_a_key_in_the_url_of_a_recording_is_shown_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A venue that closes the connection may say it again."""
    from engine import record

    said = "closed by the peer: 4001 unknown key swordfish-1"
    shown: list[str] = []
    monkeypatch.setattr(record, "run", lambda *_, **__: shown.append(redact(said)) or 0)
    forget()
    try:
        assert redact(said) == said
        argv = ["record", "--to", str(tmp_path), "--url", "ws://h/x?token=swordfish-1", "--config", "/dev/null"]
        assert command.run(argv, Signals()) == 0
    finally:
        forget()
    assert shown == ["closed by the peer: 4001 unknown key [redacted]"]
