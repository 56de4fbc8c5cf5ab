"""The gate's own hands: what it reads of files, bytecode, memory and adapters, and how its checks add up (R6, G1).

What systemd says of the unit is stood in for here; proofs/guardrails/test_gate_unit.py has the real one.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import ipaddress
import json
import os
import py_compile
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.exits import ConfigError
from engine.config import settings
from engine.live import attestation, environment, gate, runtime
from engine.live.attestation import Refusal
from harness.bundle import installed, statement
from proofs.fixtures import true_bundle
from proofs.fixtures.engine_process import ROOT, engine, write_config
from proofs.fixtures.recording_adapter import CALLS
from proofs.fixtures.true_bundle import Signer, at

UNIT = [("hybrid-engine.service", "3" * 64)]
SIGNER = Signer()
HOUR = 3600.0
SOURCE = "wss://stream.binance.com:9443/ws/solusdc@trade"


class Place:
    """A working directory with all that LIVE needs, but a systemd."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bundle = directory / "bundle.json"
        self.memory = directory / "data" / gate.MEMORY_NAME
        self.made_at = time.time()
        self.configure()
        install_adapter(directory / "site")

    def configure(self, **tables: Any) -> None:
        keys = {"trusted_keys": [SIGNER.public], "proof_bundle": str(self.bundle)}
        app = {"db_path": str(self.directory / "data" / "bot.db")}
        engine = {"ingest_mode": "REAL_WS", **tables.pop("engine", {})}
        self.source(SOURCE)
        tables = {"gate": keys, "app": app, "engine": engine, **tables}
        write_config(self.directory, tables, mode="LIVE", live_armed=True)
        self.loaded = settings.load(str(self.directory / "config.toml"), {})

    def source(self, url: str) -> None:
        """The one source, for what is loaded from now on."""
        text = f"[[source]]\nname = 'here'\nurl = '{url}'\npriority = 1\n"
        (self.directory / settings.SOURCES_FILE_NAME).write_text(text)

    def statement(self) -> dict[str, Any]:
        return true_bundle.made(gate.engine_files(), UNIT, gate.safety_part(self.loaded), self.made_at)

    def put(self, *changes: true_bundle.Change) -> None:
        self.bundle.write_bytes(SIGNER.seal(self.statement(), *changes))

    def refused(self) -> list[str]:
        """The checks that failed."""
        with pytest.raises(ConfigError) as error:
            gate.check(self.loaded)
        assert error.value.code == 12
        checks = error.value.details["checks"]
        assert isinstance(checks, list)
        assert all(f"{check}: " in str(error.value) for check in checks)
        return checks


def install_adapter(site: Path, name: str = "recording", value: str = "recording_adapter:FillingAdapter") -> None:
    info = site / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{gate.ADAPTER_GROUP}]\n{name} = {value}\n")
    shutil.copy(ROOT / "proofs/fixtures/recording_adapter.py", site)


engine_files = cache(gate.engine_files)
"""Once is enough where something else is looked at: this compiles the whole engine."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(gate, "effective_unit", lambda: gate.UnitFacts(UNIT, set(os.environ), set()))
    monkeypatch.setattr(runtime, "describe", lambda: true_bundle.RUNTIME)
    monkeypatch.setattr(runtime, "process_objections", lambda: iter(()))
    for name in filter(environment.FORBIDDEN.fullmatch, list(os.environ)):
        monkeypatch.delenv(name)
    # An opened gate sets these for the rest of the process.
    monkeypatch.setattr(sys, "pycache_prefix", sys.pycache_prefix)
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.setattr(gate, "engine_files", engine_files)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    yield Place(tmp_path)
    sys.modules.pop("recording_adapter", None)


@pytest.mark.claim("R6", "G1")
def test_all_that_is_needed_opens_the_gate(place: Place) -> None:
    place.put()
    adapter = gate.check(place.loaded)
    assert adapter is not None
    assert adapter.name == "filling"
    assert attestation.parse_time(json.loads(place.memory.read_text())["newest_bundle"]) == int(place.made_at)


@pytest.mark.claim("R6", "G1", "L1")
def test_a_refusal_names_every_check_and_changes_nothing(place: Place) -> None:
    place.put(at(place.made_at - 25 * HOUR), true_bundle.verdict("G3", "refuted"))
    place.configure(risk_caps={"max_open_orders": 11})
    install_adapter(place.directory / "site", "second")
    before = sorted(place.directory.rglob("*"))
    assert place.refused() == ["age", "config", "guardrails", "guardrails", "execution adapter"]
    assert sorted(place.directory.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.claim("R6", "L1", "M1")
def test_L1_what_the_gate_says_has_its_fields(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.put()
    assert gate.check(place.loaded) is not None
    (line,) = caplog.records
    assert (line.levelname, line.name, line.message) == (
        "WARNING", "engine.live.gate", "LIVE gate opened: orders are real",
    )  # fmt: skip
    assert vars(line)["fields"] == {"bundle_time": attestation.show_time(place.made_at), "adapter": "filling"}
    config = place.directory / "config.toml"
    config.write_text(config.read_text().replace("live_armed = true", "live_armed = false"))
    place.loaded = settings.load(str(config), {})
    place.put()
    with pytest.raises(ConfigError) as refused:
        gate.check(place.loaded)
    assert str(refused.value) == f'{config}: mode = "LIVE" is refused: live_armed: is not true'
    assert refused.value.details == {"key": "mode", "value": "LIVE", "checks": ["live_armed"]}
    # A configuration of flags alone has no file.
    with pytest.raises(ConfigError) as refused:
        gate.check(place.loaded._replace(config_path=None))
    assert str(refused.value) == 'mode = "LIVE" is refused: live_armed: is not true'
    # Nobody else is asked.
    for mode in ("SHADOW", "PAPER"):
        loaded = place.loaded._replace(settings=place.loaded.settings.model_copy(update={"mode": mode}))
        assert gate.check(loaded) is None


@pytest.mark.claim("G1")
def test_G1_the_bundle_may_be_no_link_no_pipe_no_directory_and_not_huge(place: Place) -> None:
    place.put()
    place.bundle.rename(place.directory / "true.json")
    makers: list[Callable[[], object]] = [
        lambda: place.bundle.symlink_to("true.json"),
        lambda: os.mkfifo(place.bundle),
        lambda: place.bundle.write_bytes(b" " * (attestation.BYTES_MAX + 1)),
    ]
    for make in makers:
        assert place.refused() == ["proof bundle"]
        make()
        assert place.refused() == ["proof bundle"]
        place.bundle.unlink()
    place.bundle.mkdir()
    assert place.refused() == ["proof bundle"]


def test_only_live_pays_for_the_gate() -> None:
    """A start in SHADOW imports neither the gate nor what it needs."""
    loads = "import sys, engine.__main__, engine.pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loads], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "engine.pipeline" in loaded
    assert not loaded & {"engine.live.gate", "engine.live.attestation", "cryptography"}


# --- memory ------------------------------------------------------------------------------------------------


@pytest.mark.claim("R6", "G1")
def test_an_older_bundle_than_the_newest_accepted_is_refused(place: Place) -> None:
    place.put()
    gate.check(place.loaded)
    gate.check(place.loaded)
    place.put(at(place.made_at - 1))
    assert place.refused() == ["replay"]
    place.put(at(place.made_at + 1))
    gate.check(place.loaded)
    place.put()
    assert place.refused() == ["replay"]


@pytest.mark.claim("R6", "G1")
def test_a_clock_that_was_set_back_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or an old bundle, and an old clock with it, would be as good as new."""
    place.made_at -= HOUR
    place.put()
    gate.check(place.loaded)
    monkeypatch.setattr(time, "time", lambda: place.made_at + 60)
    assert place.refused() == ["clock"]


@pytest.mark.claim("G1")
def test_G1_a_damaged_memory_is_no_empty_memory(place: Place) -> None:
    place.put()
    gate.check(place.loaded)
    odd = (b"", b"{}", b"[]", b'{"newest_bundle":1,"opened_at":2}', b"\xff", b"9" * 5000, b"[" * 4000, b"\0", b"1e400")
    for content in odd:
        place.memory.write_bytes(content)
        assert place.refused() == ["memory"]
    place.memory.unlink()
    place.memory.symlink_to("/dev/null")
    assert place.refused() == ["memory"]


@pytest.mark.slow
@pytest.mark.claim("G1", "C9")
def test_G1_C9_each_file_is_read_up_to_its_bound(place: Place, tmp_path: Path) -> None:
    place.put()
    gate.check(place.loaded)
    known = place.memory.read_bytes()
    for size, says in ((4096, None), (4097, f"memory: {place.memory} is larger than 4096 bytes")):
        place.memory.write_bytes(known.ljust(size))
        if says is None:
            assert gate.check(place.loaded) is not None
        else:
            with pytest.raises(ConfigError, match=says):
                gate.check(place.loaded)
    place.memory.unlink()
    for size, check in ((attestation.BYTES_MAX, "envelope"), (attestation.BYTES_MAX + 1, "proof bundle")):
        place.bundle.write_bytes(b"[1]".ljust(size))
        assert place.refused() == [check]
    unit_file = tmp_path / "a.env"
    for size in (1024 * 1024, 1024 * 1024 + 1):
        unit_file.write_bytes(b"#" * size)
        if size <= 1024 * 1024:
            assert gate._content(str(unit_file)) == b"#" * size
        else:
            with pytest.raises(Refusal, match=f"^unit: {unit_file} is larger than 1048576 bytes"):
                gate._content(str(unit_file))


@pytest.mark.slow
@pytest.mark.claim("R6", "G1")
def test_G1_the_memory_never_goes_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a clock could be set back by a little, any number of times."""
    place.put()
    latest = 0.0
    for later in (0, 50, 20, 90, 31):
        now = place.made_at + later
        latest = max(latest, now)
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert gate.check(place.loaded) is not None
        assert json.loads(place.memory.read_text()) == {
            "newest_bundle": attestation.show_time(place.made_at), "opened_at": attestation.show_time(latest),
        }  # fmt: skip
    monkeypatch.setattr(time, "time", lambda: place.made_at + 29)
    assert place.refused() == ["clock"]


@pytest.mark.claim("G1")
def test_G1_a_memory_that_cannot_be_kept_keeps_the_gate_shut(place: Place) -> None:
    place.put()
    # What is written first cannot be; then there is no place to write to.
    place.memory.with_suffix(".partial").mkdir(parents=True)
    assert place.refused() == ["memory"]
    shutil.rmtree(place.memory.parent)
    (place.directory / "data").write_text("no directory")
    assert place.refused() == ["memory"]


@pytest.mark.claim("R6", "G1")
def test_damaged_metadata_of_an_adapter_keeps_the_gate_shut(place: Place) -> None:
    place.put()
    (place.directory / "site/recording-1.dist-info/entry_points.txt").write_bytes(b"\xff\xfe[")
    assert place.refused() == ["execution adapter"]
    with pytest.raises(ConfigError, match="entry points cannot be read: UnicodeDecodeError"):
        gate.check(place.loaded)


# --- engine tree -------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package as pip installs one, bytecode and all."""
    root = tmp_path / "engine"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "caps.py").write_text("CAP = 1\n")
    py_compile.compile(str(root / "caps.py"))
    return root


@pytest.mark.claim("G1")
def test_G1_the_engine_tree_is_what_the_harness_says_it_is(tmp_path: Path) -> None:
    """Two hands, one format: of this engine, with bytecode and a directory in it."""
    site = tmp_path / "lib/python3.11/site-packages"
    shutil.copytree(ROOT / "engine", site / "engine")
    (site / "engine" / "sub").mkdir()
    (site / "engine" / "sub" / "data.bin").write_bytes(b"\0")
    py_compile.compile(str(site / "engine" / "trading" / "risk.py"))
    found = gate.engine_files(site / "engine")
    assert len(found) > 15
    assert found == installed.engine_files(tmp_path)
    assert attestation.digest(found) == statement.digest(found)


@pytest.mark.claim("G1")
def test_G1_bytecode_does_not_count_but_whatever_else_python_would_import_does(package: Path) -> None:
    names = set(gate.engine_files(package))
    assert names == {"__init__.py", "caps.py"}
    (package / "caps.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF")
    (package / "orders.pyc").write_bytes(b"")
    (package / "sub").mkdir()
    (package / "sub" / "more.py").write_text("")
    assert set(gate.engine_files(package)) - names == {
        "caps.cpython-311-x86_64-linux-gnu.so", "orders.pyc", "sub/more.py",
    }  # fmt: skip


@pytest.mark.claim("G1")
def test_bytecode_that_python_would_run_must_be_what_the_source_says(package: Path) -> None:
    source, other = package / "caps.py", package.parent / "other.py"
    other.write_text("CAP = 9\n")
    cached = Path(py_compile.compile(str(source)) or "")
    py_compile.compile(str(other), cfile=str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    with pytest.raises(Refusal, match=r"engine: caps.py: its bytecode"):
        gate.engine_files(package)
    # Bytecode that is out of date is not what Python runs, and is no reason to refuse.
    other.write_text("CAP = 99\n")
    py_compile.compile(str(other), cfile=str(cached))
    assert set(gate.engine_files(package)) == {"__init__.py", "caps.py"}
    cached.write_bytes(cached.read_bytes()[:20])
    assert set(gate.engine_files(package)) == {"__init__.py", "caps.py"}


@pytest.mark.claim("G1")
@pytest.mark.parametrize("make", [lambda path: path.symlink_to("caps.py"), os.mkfifo], ids=["link", "pipe"])
def test_G1_a_tree_of_anything_but_files_is_refused(package: Path, make: Callable[[Path], object]) -> None:
    make(package / "orders.py")
    with pytest.raises(Refusal, match=r"engine: orders\.py is not a regular file"):
        gate.engine_files(package)


@pytest.mark.claim("G1")
def test_G1_a_linked_directory_is_refused(package: Path) -> None:
    (package / "sub").symlink_to("/usr")
    with pytest.raises(Refusal, match="engine: sub is not a regular file"):
        gate.engine_files(package)


# --- configuration -----------------------------------------------------------------------------------------


@pytest.mark.claim("G1")
def test_G1_the_safety_part_is_all_but_pace_and_looks(place: Place) -> None:
    part = gate.safety_part(place.loaded)
    tables = {"app", "engine", "strategy", "execution", "risk_caps", "gate", "sources"}
    assert set(part) == {"mode", "live_armed", *tables}
    assert not set(part["engine"]) & gate.PACE_KEYS
    assert {"ingest_mode", "ws_url", "max_staleness_ms", "signal_every_n_ticks"} <= set(part["engine"])
    effective: Any = settings.effective(place.loaded)
    assert part == statement.safety_part(effective)
    assert (gate.PACE_TABLES, gate.PACE_KEYS) == (statement.PACE_TABLES, statement.PACE_KEYS)


@pytest.mark.claim("G1")
def test_the_ladder_may_throttle_a_live_engine(place: Place) -> None:
    """What the soak controller rewrites under pressure must not shut the gate at the restart; the feed it falls back
    to must."""
    place.put()
    place.configure(engine={"sample_every": 20}, dashboard={"port": 1}, channels={"tick_channel_size": 9})
    assert gate.check(place.loaded) is not None
    place.configure(engine={"ingest_mode": "MOCK_WS"})
    assert place.refused() == ["ingest", "config"]


@pytest.mark.claim("G1")
def test_G1_secrets_in_urls_are_in_no_bundle(place: Place) -> None:
    place.source("wss://host/feed?token=hunter2")
    place.loaded = settings.load(str(place.directory / "config.toml"), {})
    part = gate.safety_part(place.loaded)
    assert "hunter2" not in json.dumps(part)
    # And still another query is another configuration: it may say what is streamed.
    place.source("wss://host/feed?token=hunter3")
    assert gate.safety_part(settings.load(str(place.directory / "config.toml"), {})) != part


# --- adapter -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.claim("R6", "G1", "L4")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def make():\n    raise OSError('no credentials')\n", "OSError: no credentials"),
        ("def make(key):\n    pass\n", "TypeError"),
        ("def make():\n    return object()\n", "lacks submit, cancel, reports"),
        ("raise ImportError('broken')\n", "ImportError: broken"),
        ("", "AttributeError"),
        ("class make:\n    submit = cancel = reports = print\n", "lacks name"),
        ("raise SystemExit(1)\n", "SystemExit: 1"),
        ("class make:\n    submit = property(lambda self: 1 / 0)\n", "ZeroDivisionError"),
    ],
    ids=["raises", "wants-arguments", "no-adapter", "not-importable", "not-there", "nameless", "exits", "property"],
)
def test_an_adapter_that_does_not_come_up_keeps_the_gate_shut(place: Place, text: str, says: str) -> None:
    place.put()
    site = place.directory / "site"
    shutil.rmtree(site)
    install_adapter(site, value="broken_adapter:make")
    (site / "broken_adapter.py").write_text(text)
    sys.modules.pop("broken_adapter", None)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=says) as error:
        gate.check(place.loaded)
    assert error.value.details["checks"] == ["execution adapter"]
    assert not place.memory.exists()


@pytest.mark.slow
@pytest.mark.claim("R6", "R9", "G1", "S14")
def test_outside_of_systemd_the_true_bundle_opens_nothing(tmp_path: Path) -> None:
    """The engine as a plain process, with everything else as it must be."""
    config = write_config(
        tmp_path,
        {
            "engine": {"ingest_mode": "REAL_WS"},
            "gate": {"trusted_keys": [SIGNER.public], "proof_bundle": "bundle.json"},
        },
        mode="LIVE",
        live_armed=True,
    )
    (tmp_path / "ws_sources.toml").write_text(f"[[source]]\nname = 'here'\nurl = '{SOURCE}'\npriority = 1\n")
    install_adapter(tmp_path / "site")
    flags = {"app.db_path": ("--db", str(tmp_path / "bot.db"))}
    part = gate.safety_part(settings.load(str(config), flags))
    (tmp_path / "bundle.json").write_bytes(SIGNER.seal(true_bundle.made(gate.engine_files(), UNIT, part)))
    with engine(tmp_path, "--config", str(config), PYTHONPATH=f"{ROOT}:{tmp_path / 'site'}") as running:
        assert running.wait_exit() == 12
        (error,) = [line["fields"] for line in running.lines if line["level"] == "ERROR"]
    # It is started with PYTHONPATH, and so not isolated.
    assert error["checks"] == ["unit", "isolation", "environment"], error
    assert not (tmp_path / CALLS).exists()
    assert not (tmp_path / "bot.db").exists()


# --- prices ------------------------------------------------------------------------------------------------

HERE_OR_ENCRYPTED = [
    "wss://stream.binance.com:9443/ws/solusdc@trade", "WSS://api.gemini.com/v1/marketdata/SOLUSD", "wss://192.0.2.1/",
    "wss://127.0.0.1:9001", "ws://127.0.0.1:9001", "ws://127.0.0.1", "WS://127.255.255.254:1/feed?x=ws://other",
    "ws://localhost:9001/", "ws://LocalHost:9001", "ws://[::1]:9001", "ws://[::1]", "ws://[0:0:0:0:0:0:0:1]/x",
]  # fmt: skip
IN_THE_CLEAR = [
    "ws://stream.binance.com/ws", "ws://192.0.2.1:9001", "ws://10.0.0.1", "ws://[fe80::1]", "ws://[2001:db8::1]:80",
    "ws://[::]", "ws://0.0.0.0:9001", "ws://0/", "ws://128.0.0.1", "ws://126.255.255.255",
    # Spellings that only some parsers know.
    "ws://127.1:9001", "ws://0x7f.1", "ws://2130706433", "ws://0177.0.0.1", "ws://127.0.0.01", "ws://127.0.0.0.1",
    "ws://[::ffff:127.0.0.1]", "ws://[::ffff:7f00:1]", "ws://[::127.0.0.1]", "ws://[::1%25lo]", "ws://[::1%lo]:1",
    "ws://[127.0.0.1]", "ws://[localhost]", "ws://::1/",
    # Names that only look like this computer's.
    "ws://localhost.", "ws://localhost.localdomain", "ws://localhost.example.com", "ws://127.0.0.1.example.com",
    "ws://localtest.me", "ws://ip6-localhost", "ws://127.0.0.1.:9001", "ws://xlocalhost", "ws://localhost%2e",
    # Hosts that hide behind another.
    "ws://127.0.0.1@example.com", "ws://localhost:9001@example.com", "ws://127.0.0.1\\@example.com",
    "ws://127.0.0.1\\.example.com", "ws://example.com?127.0.0.1", "ws://example.com/127.0.0.1", "ws:///127.0.0.1",
    "ws://[::1].example.com", "ws://example.com[::1]", "ws://[::1]example.com:1", "ws://127.0.0.1,example.com",
    "ws://127.0.0.1;example.com", "ws://127.0.0.1 .example.com", "ws:127.0.0.1", "//127.0.0.1", "127.0.0.1",
    "http://127.0.0.1", "wsss://127.0.0.1", "",
]  # fmt: skip


@pytest.mark.claim("R7")
def test_only_what_nobody_can_change_on_the_way_is_a_price() -> None:
    assert [url for url in HERE_OR_ENCRYPTED if not gate.is_private(url)] == []
    assert [url for url in IN_THE_CLEAR if gate.is_private(url)] == []


@pytest.mark.claim("R7")
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))
def test_any_host_is_judged(text: str) -> None:
    """What is called this computer in the clear is dialled there: the URL's host is an address of it, or localhost."""
    if gate.is_private(f"ws://{text}"):
        host = urlsplit(f"ws://{text}").hostname
        assert host == "localhost" or ipaddress.ip_address(host or "").is_loopback


@pytest.mark.claim("R7", "G1")
@pytest.mark.parametrize("mode", ["SYNTHETIC", "REPLAY", "MOCK_WS"])
def test_nobody_trades_on_made_up_prices(place: Place, mode: str) -> None:
    """Signed as it is, with all else as it must be."""
    place.configure(engine={"ingest_mode": mode, "ws_url": "wss://example.com"})
    place.put()
    assert place.refused() == ["ingest"]


@pytest.mark.claim("R7", "G1")
def test_nobody_trades_on_prices_that_others_can_change(place: Place) -> None:
    for url, checks in (("ws://venue.example/feed?token=hunter2", ["ingest"]), ("ws://127.0.0.1:9001", [])):
        place.source(url)
        place.loaded = settings.load(str(place.directory / "config.toml"), {})
        place.put()
        if checks:
            assert place.refused() == checks
            with pytest.raises(ConfigError, match=r"source 'here' \(ws://venue.example/feed\?\[redacted\]\)"):
                gate.check(place.loaded)
        else:
            assert gate.check(place.loaded) is not None


@pytest.mark.slow
@pytest.mark.claim("R7", "G1")
@pytest.mark.parametrize(
    "text",
    [
        'url = "wss://stream.testnet.binance.vision/ws/btcusdt@trade"',
        'url = "wss://fstream.binancefuture.com/ws/btcusdt@aggTrade"',
        'url = "wss://demo-fstream.binance.com/market/ws/btcusdt@aggTrade"',
        'url = "wss://api.sandbox.gemini.com/v1/marketdata/btcusd"',
        'venue = "okx"\nurl = "wss://wspap.okx.com:8443/ws/v5/public"\nmarkets = { BTC-USDT = "BTC/USDT" }',
        'venue = "kraken"\nurl = "wss://beta-ws.kraken.com/v2"\nmarkets = { "BTC/USD" = "BTC/USD" }',
    ],
)
def test_nobody_trades_on_the_prices_of_a_test_network(place: Place, text: str) -> None:
    place.source("wss://stream.binance.com/ws/btcusdt@trade")
    sources = place.directory / settings.SOURCES_FILE_NAME
    place.loaded = settings.load(str(place.directory / "config.toml"), {})
    place.put()
    assert gate.check(place.loaded) is not None
    # Also as the last resort of several.
    sources.write_text(sources.read_text() + f"[[source]]\nname = 'test'\npriority = 9\n{text}\n")
    place.loaded = settings.load(str(place.directory / "config.toml"), {})
    place.put()
    assert place.refused() == ["ingest"]
    with pytest.raises(ConfigError, match=r"source 'test' .* is a test network"):
        gate.check_prices(place.loaded)


# --- what runs beside --------------------------------------------------------------------------------------


@pytest.mark.claim("R9")
def test_another_runtime_and_another_environment_keep_the_gate_shut(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put()
    assert gate.check(place.loaded) is not None
    assert (sys.pycache_prefix, sys.dont_write_bytecode) == ("/dev/null", True)
    monkeypatch.setenv("SSL_CERT_FILE", "/tmp/ca.pem")
    assert place.refused() == ["environment"]
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("NOBODY_SIGNED", "1")
    monkeypatch.setattr(
        gate, "effective_unit", lambda: gate.UnitFacts(UNIT, set(os.environ) - {"NOBODY_SIGNED"}, set())
    )
    assert place.refused() == ["environment"]
    monkeypatch.setattr(gate, "effective_unit", lambda: gate.UnitFacts(UNIT, set(os.environ), {"LD_PRELOAD"}))
    assert place.refused() == ["environment"]
    monkeypatch.setattr(gate, "effective_unit", lambda: gate.UnitFacts(UNIT, set(os.environ), set()))
    monkeypatch.setattr(runtime, "describe", lambda: {**true_bundle.RUNTIME, "packages": {}})
    assert place.refused() == ["runtime"]


class Systemctl:
    """What systemctl answers, in place of the real one."""

    def __init__(self, directory: Path) -> None:
        self.fragment = directory / "engine.service"
        self.fragment.write_text("[Service]\n")
        self.show = {
            "MainPID": str(os.getpid()), "FragmentPath": str(self.fragment), "DropInPaths": "",
            "NeedDaemonReload": "no", "Environment": "",
        }  # fmt: skip
        self.more = ""
        self.manager = b"PATH=/usr/bin\n"
        self.raw: bytes | None = None

    def __call__(self, argv: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        if self.raw is not None:
            return subprocess.CompletedProcess(argv, 0, self.raw, b"")
        if argv[-1] == "show-environment":
            return subprocess.CompletedProcess(argv, 0, self.manager, b"")
        text = "".join(f"{key}={value}\n" for key, value in self.show.items()) + self.more
        return subprocess.CompletedProcess(argv, 0, text.encode(), b"")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    answer = Systemctl(tmp_path)
    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/usr/bin/systemctl")
    monkeypatch.setattr(gate, "_text", lambda _: "0::/system.slice/hybrid-engine.service\n")
    return answer


@pytest.mark.claim("R9")
def test_the_unit_is_its_files_and_those_of_its_environment(systemctl: Systemctl, tmp_path: Path) -> None:
    names = ("a.env", "b.env", "c.env")
    for name in names[:2]:
        (tmp_path / name).write_text(f"# Of {name}.\nFROM_{name[0].upper()}=1\n")
    systemctl.show["Environment"] = 'OWN=1 "SPACED=a b"'
    named = {f"{tmp_path}/[ab].env": "no", f"{tmp_path}/c.env": "yes"}
    systemctl.more = "".join(f"EnvironmentFiles={name} (ignore_errors={word})\n" for name, word in named.items())
    unit = gate.effective_unit()
    assert unit.files == installed.unit_files(systemctl.fragment, (), [tmp_path / name for name in names])
    assert [name for name, _ in unit.files[1:]] == [f"EnvironmentFile={name}" for name in names]
    assert unit.files[3][1] == "absent"
    assert unit.variables == {"OWN", "SPACED", "FROM_A", "FROM_B"}
    assert unit.in_manager == {"PATH"}
    # A link is read as what it leads to, as systemd does it, and is called as it is named.
    (tmp_path / "c.env").symlink_to("a.env")
    as_linked = gate.effective_unit()
    assert as_linked.files[3] == ("EnvironmentFile=c.env", unit.files[1][1])
    assert as_linked.variables == unit.variables
    (tmp_path / "c.env").unlink()
    systemctl.more = f"EnvironmentFiles={tmp_path}/c.env (ignore_errors=no)\n"
    with pytest.raises(Refusal, match=r"unit: .*c\.env is missing"):
        gate.effective_unit()
    for path in ("/dev/zero", str(tmp_path), "a\0b", "/proc/self/mem"):
        systemctl.more = f"EnvironmentFiles={path} (ignore_errors=yes)\n"
        with pytest.raises(Refusal, match="unit: "):
            gate.effective_unit()
    os.mkfifo(tmp_path / "pipe")
    systemctl.more = f"EnvironmentFiles={tmp_path}/pipe (ignore_errors=yes)\n"
    with pytest.raises(Refusal, match="is not a regular file"):
        gate.effective_unit()


@pytest.mark.claim("R9")
@pytest.mark.parametrize("which", ["FragmentPath", "DropInPaths"])
def test_R9_a_file_of_the_unit_that_is_gone_keeps_the_gate_shut(
    systemctl: Systemctl, tmp_path: Path, which: str
) -> None:
    """Only an environment file may be absent, where the unit says so."""
    paths = [tmp_path / "10-a.conf", tmp_path / "20-b.conf"]
    for path in paths:
        path.write_text("[Service]\n")
    systemctl.show["DropInPaths"] = " ".join(map(str, paths))
    assert [name for name, _ in gate.effective_unit().files] == ["engine.service", "10-a.conf", "20-b.conf"]
    gone = systemctl.fragment if which == "FragmentPath" else paths[1]
    gone.unlink()
    with pytest.raises(Refusal, match=f"^unit: {gone} is missing"):
        gate.effective_unit()


UNIT_REFUSALS: dict[str, tuple[Callable[[Systemctl, pytest.MonkeyPatch], object], str]] = {
    "no service": (
        lambda _, patch: patch.setattr(gate, "_text", lambda _: "0::/user.slice/session-1.scope\n"),
        "does not run as a service of systemd",
    ),
    "a child of it": (
        lambda answer, _: answer.show.update(MainPID="1"),
        "is not the main process of hybrid-engine.service",
    ),
    "changed since": (
        lambda answer, _: answer.show.update(NeedDaemonReload="yes"),
        "has changed since systemd read it",
    ),
    "no systemctl": (
        lambda _, patch: patch.setattr(shutil, "which", lambda *_, **__: None),
        "there is no systemctl",
    ),
    "no answer": (
        lambda _, patch: patch.setattr(subprocess, "run", failing(subprocess.TimeoutExpired("systemctl", 5))),
        "systemd does not say what hybrid-engine.service is: .* timed out",
    ),
    "a refusal": (
        lambda _, patch: patch.setattr(
            subprocess, "run", failing(subprocess.CalledProcessError(1, "systemctl", stderr=b"Access denied\n"))
        ),
        "systemd does not say what hybrid-engine.service is: Access denied",
    ),
}


def failing(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


@pytest.mark.claim("R9", "G1")
@pytest.mark.parametrize("case", UNIT_REFUSALS)
def test_each_refusal_of_a_unit_says_why(systemctl: Systemctl, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    assert gate.effective_unit().files
    make, says = UNIT_REFUSALS[case]
    make(systemctl, monkeypatch)
    with pytest.raises(Refusal, match=f"^unit: .*{says}"):
        gate.effective_unit()


TEXT = st.text(max_size=30)


@pytest.mark.claim("C9")
@given(
    st.binary(max_size=200)
    | st.lists(
        st.tuples(
            st.sampled_from(["MainPID", "FragmentPath", "DropInPaths", "Environment", "EnvironmentFiles"]), st.text()
        ),
        max_size=8,
    ).map(lambda lines: "".join(f"{key}={value}\n" for key, value in lines).encode("utf-8", "surrogatepass"))
)
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_answer_of_systemd_is_refused_in_words(systemctl: Systemctl, raw: bytes) -> None:
    for head in (b"", f"MainPID={os.getpid()}\nNeedDaemonReload=no\n".encode()):
        systemctl.raw = head + raw
        with contextlib.suppress(Refusal):
            unit = gate.effective_unit()
            # Nothing of ours stands in it, so its digest is no signed one.
            attestation.digest(unit.files)
            assert head


@pytest.mark.slow
@pytest.mark.claim("C9")
@given(st.binary(max_size=300))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_bytes_as_memory_are_refused_in_words(place: Place, raw: bytes) -> None:
    place.put()
    place.memory.parent.mkdir(exist_ok=True)
    place.memory.write_bytes(raw)
    assert place.refused() == ["memory"]


@pytest.mark.slow
@pytest.mark.claim("C9", "R6")
@pytest.mark.parametrize(
    "raw",
    [
        b'{"payload":"\\ud800","payloadType":"x","signatures":[]}\n', b'{"payload":1e400}', b"[" * 100_000, b"\0",
        b"\xff", b'{"payload":' + b"9" * 5000 + b"}",
    ],
    ids=["surrogate", "infinite", "deep", "nul", "no-utf-8", "digits"],
)  # fmt: skip
def test_the_process_ends_with_12_whatever_the_bundle_holds(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(raw)
    gate_table = {"trusted_keys": [SIGNER.public], "proof_bundle": "bundle.json"}
    config = write_config(tmp_path, {"gate": gate_table}, mode="LIVE", live_armed=True)
    with engine(tmp_path, "--config", str(config)) as running:
        assert running.wait_exit() == 12
        (error,) = [line["fields"] for line in running.lines if line["level"] == "ERROR"]
    assert "envelope" in error["checks"]
    assert "traceback" not in error


@pytest.mark.claim("C9", "R6")
@pytest.mark.parametrize(
    "path",
    ["/proc/self/fd/0", "/dev/zero", "/dev/stdin", "/proc/self/mem", ".", "config.toml/x", "/dev/tty", "x" * 5000],
)
def test_a_bundle_that_is_no_file_is_refused(place: Place, path: str) -> None:
    place.configure(gate={"trusted_keys": [SIGNER.public], "proof_bundle": path})
    assert place.refused() == ["proof bundle"]


@pytest.mark.claim("C9")
def test_a_file_name_that_is_no_utf_8_has_a_digest(package: Path) -> None:
    """Such bytes reach Python as lone surrogates, which UTF-8 does not have."""
    (package / os.fsdecode(b"\xff.py")).write_text("")
    assert attestation.digest(gate.engine_files(package)) != attestation.digest({})


@pytest.mark.claim("R9")
def test_a_systemd_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "systemctl"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: str(silent))
    monkeypatch.setattr(gate, "SYSTEMCTL_SECS", 0.05)
    with pytest.raises(Refusal, match=r"systemd does not say what its own environment is: .*timed out after 0\.05"):
        gate._systemctl("show-environment", about="its own environment")
