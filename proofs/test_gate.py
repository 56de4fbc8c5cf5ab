"""The gate's own hands: what it reads of files, bytecode, memory and adapters, and how its checks add up (R6, G1).

What systemd says of the unit is stood in for here; proofs/test_gate_unit.py has the real one.
"""

from __future__ import annotations

import importlib.metadata
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

import pytest

from engine import attestation, gate, settings
from engine.attestation import Refusal
from engine.exits import ConfigError
from harness import installed, statement
from proofs.fixtures import true_bundle
from proofs.fixtures.engine_process import ROOT, engine, write_config
from proofs.fixtures.recording_adapter import CALLS
from proofs.fixtures.true_bundle import Signer, at

UNIT = [("hybrid-engine.service", "3" * 64)]
SIGNER = Signer()
HOUR = 3600.0


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
        write_config(self.directory, {"gate": keys, "app": app, **tables}, mode="LIVE", live_armed=True)
        self.loaded = settings.load(str(self.directory / "config.toml"), {})

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
    monkeypatch.setattr(gate, "unit_files", lambda: UNIT)
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
    assert not loaded & {"engine.gate", "engine.attestation", "cryptography"}


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
    monkeypatch.setattr(gate.time, "time", lambda: place.made_at + 60)
    assert place.refused() == ["clock"]


def test_G1_a_damaged_memory_is_no_empty_memory(place: Place) -> None:
    place.put()
    gate.check(place.loaded)
    for content in (b"", b"{}", b"[]", b'{"newest_bundle":1,"opened_at":2}', b"\xff", b"9" * 5000):
        place.memory.write_bytes(content)
        assert place.refused() == ["memory"]
    place.memory.unlink()
    place.memory.symlink_to("/dev/null")
    assert place.refused() == ["memory"]


def test_G1_a_memory_that_cannot_be_kept_keeps_the_gate_shut(place: Place) -> None:
    place.put()
    (place.directory / "data").write_text("no directory")
    assert place.refused() == ["memory"]


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


def test_G1_the_engine_tree_is_what_the_harness_says_it_is(tmp_path: Path) -> None:
    """Two hands, one format: of this engine, with bytecode and a directory in it."""
    site = tmp_path / "lib/python3.11/site-packages"
    shutil.copytree(ROOT / "engine", site / "engine")
    (site / "engine" / "sub").mkdir()
    (site / "engine" / "sub" / "data.bin").write_bytes(b"\0")
    py_compile.compile(str(site / "engine" / "risk.py"))
    found = gate.engine_files(site / "engine")
    assert len(found) > 15
    assert found == installed.engine_files(tmp_path)
    assert attestation.digest(found) == statement.digest(found)


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


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("caps.py"), os.mkfifo], ids=["link", "pipe"])
def test_G1_a_tree_of_anything_but_files_is_refused(package: Path, make: Callable[[Path], object]) -> None:
    make(package / "orders.py")
    with pytest.raises(Refusal, match=r"engine: orders\.py is not a regular file"):
        gate.engine_files(package)


def test_G1_a_linked_directory_is_refused(package: Path) -> None:
    (package / "sub").symlink_to("/usr")
    with pytest.raises(Refusal, match="engine: sub is not a regular file"):
        gate.engine_files(package)


# --- configuration -----------------------------------------------------------------------------------------


def test_G1_the_safety_part_is_all_but_pace_and_looks(place: Place) -> None:
    part = gate.safety_part(place.loaded)
    assert set(part) == {"mode", "live_armed", "app", "engine", "strategy", "execution", "risk_caps", "gate"}
    assert not set(part["engine"]) & gate.PACE_KEYS
    assert {"ingest_mode", "ws_url", "max_staleness_ms", "signal_every_n_ticks"} <= set(part["engine"])
    assert part == statement.safety_part(settings.effective(place.loaded))
    assert (gate.PACE_TABLES, gate.PACE_KEYS) == (statement.PACE_TABLES, statement.PACE_KEYS)


@pytest.mark.claim("G1")
def test_the_ladder_may_throttle_a_live_engine(place: Place) -> None:
    """What the soak controller rewrites under pressure must not shut the gate at the restart; the feed it falls back
    to must."""
    place.put()
    place.configure(engine={"sample_every": 20}, dashboard={"port": 1}, channels={"tick_channel_size": 9})
    assert gate.check(place.loaded) is not None
    place.configure(engine={"ingest_mode": "MOCK_WS"})
    assert place.refused() == ["config"]


def test_G1_secrets_in_urls_are_in_no_bundle(place: Place) -> None:
    place.configure(engine={"ws_url": "ws://host/feed?token=hunter2"})
    assert "hunter2" not in json.dumps(gate.safety_part(place.loaded))


# --- adapter -----------------------------------------------------------------------------------------------


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
    ],
    ids=["raises", "wants-arguments", "no-adapter", "not-importable", "not-there", "nameless"],
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


@pytest.mark.claim("R6", "G1", "S14")
def test_outside_of_systemd_the_true_bundle_opens_nothing(tmp_path: Path) -> None:
    """The engine as a plain process, with everything else as it must be."""
    config = write_config(
        tmp_path,
        {"gate": {"trusted_keys": [SIGNER.public], "proof_bundle": "bundle.json"}},
        mode="LIVE",
        live_armed=True,
    )
    install_adapter(tmp_path / "site")
    flags = {"app.db_path": ("--db", str(tmp_path / "bot.db"))}
    part = gate.safety_part(settings.load(str(config), flags))
    (tmp_path / "bundle.json").write_bytes(SIGNER.seal(true_bundle.made(gate.engine_files(), UNIT, part)))
    with engine(tmp_path, "--config", str(config), PYTHONPATH=f"{ROOT}:{tmp_path / 'site'}") as running:
        assert running.wait_exit() == 12
        (error,) = [line["fields"] for line in running.lines if line["level"] == "ERROR"]
    assert error["checks"] == ["unit"], error
    assert not (tmp_path / CALLS).exists()
    assert not (tmp_path / "bot.db").exists()
