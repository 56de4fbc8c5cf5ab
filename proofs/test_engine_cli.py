"""`python -m engine`: flags and exit codes, as a real process (C1-C4, R6, G0, G1)."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from engine import __version__, command
from engine.exits import ConfigError
from engine.signals import Signals
from proofs.fixtures.engine_process import ROOT, engine, write_config
from proofs.test_settings import unusual


def call(directory: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine", *args],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environ},
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
    assert list(shown) == sorted(shown)
    assert list(tmp_path.iterdir()) == []


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


def test_C4_a_bad_environment_exits_12(tmp_path: Path) -> None:
    assert call(tmp_path, HYBRID_TRANSPORT="pigeon").returncode == 12


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


@pytest.mark.parametrize("args", REFUSED, ids=range(len(REFUSED)))
def test_C7_a_command_line_is_refused_in_few_words(args: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        command.run(["--check-config", *args], Signals())
    assert len(str(refused.value)) < 10_000


@pytest.mark.parametrize("args", REFUSED[::6], ids=range(len(REFUSED[::6])))
def test_C7_no_command_line_is_a_crash(tmp_path: Path, args: list[str]) -> None:
    result = call(tmp_path, *args)
    assert result.returncode == 12
    assert "raceback" not in result.stdout + result.stderr


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


@pytest.mark.parametrize(
    ("damage", "status"),
    [("import nowhere", 12), ("def (", 12), ("raise MemoryError", 1), ("raise OSError(24, 'files')", 1)],
)
@pytest.mark.parametrize("module", ["settings", "pipeline"])
def test_C7_a_damaged_installation_exits_12_and_what_may_be_over_1(
    tmp_path: Path, module: str, damage: str, status: int
) -> None:
    shutil.copytree(ROOT / "engine", tmp_path / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "engine" / f"{module}.py").write_text(damage)
    result = call(tmp_path, "--seconds", "0.1", "--db", "bot.db", PYTHONPATH=str(tmp_path))
    assert result.returncode == status
    error_of(result)


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
