"""The config is changed atomically and put back (contract K5)."""

from __future__ import annotations

import multiprocessing
import os
import random
import stat
import tomllib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import files
from harness.soak import rewrite
from harness.soak.rewrite import ConfigFile, ConfigTrouble

TEXT = """\
# The engine of the north desk.
mode = "SHADOW"  # never LIVE

[engine]
tick_interval_ms = 50 # fast
sample_every = 3      # ours
ingest_mode = 'SYNTHETIC'

# caps, agreed with risk
[risk_caps]
max_exposure_usd = 10_000
"""

LAYOUTS = [
    TEXT,
    "",
    "# only a comment\n",
    'mode = "SHADOW"\n[app]\ndb_path = "x.db"\n',
    "engine.tick_interval_ms = 50 # dotted\n",
    "engine = {tick_interval_ms = 50}\n",
    '[engine]\r\nsample_every = 2 # CRLF\r\n[app]\r\nsymbol = "A/B"',
    "[app]\n[engine]",
]


def config(directory: Path, text: str = TEXT) -> ConfigFile:
    path = directory / "config.toml"
    path.write_bytes(text.encode())
    return ConfigFile(path)


def engine(file: ConfigFile) -> dict[str, Any]:
    return dict(file.load()["engine"])


@pytest.mark.claim("K5", "K11")
def test_the_config_stays_whose_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller is root; the engine, which is not, reads by owner, group and mode."""
    owners: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(os, "fchown", lambda fd, *owner: owners.update({os.fstat(fd).st_ino: owner}))
    file = config(tmp_path)
    file.path.chmod(0o640)
    whose = (4711, 4712)
    status = files.Place.status
    monkeypatch.setattr(files.Place, "status", lambda place: _owned(status(place), whose))
    file.change({"sample_every": 5})
    for path in (file.path, file.original):
        assert owners[path.stat().st_ino] == whose
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    file.path.write_text(file.path.read_text() + "# an operator's word\n")
    file.restore()
    assert owners[file.path.stat().st_ino] == whose
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640


def _owned(status: os.stat_result | None, whose: tuple[int, int]) -> os.stat_result | None:
    return None if status is None else os.stat_result((*status[:4], *whose, *status[6:]))


@pytest.mark.claim("K5")
@pytest.mark.parametrize("text", LAYOUTS)
def test_changed_then_restored_to_the_byte(tmp_path: Path, text: str) -> None:
    file = config(tmp_path, text)
    before = file.load()
    file.change({"sample_every": 1, "ingest_mode": "REAL_WS"})
    file.change({"sample_every": 5})
    assert file.load() == {
        **before, "engine": {**before.get("engine", {}), "sample_every": 5, "ingest_mode": "REAL_WS"},
    }  # fmt: skip
    assert file.restore()
    assert file.path.read_bytes() == text.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    assert not file.restore()


@pytest.mark.claim("K5")
def test_K5_comments_and_other_keys_stay(tmp_path: Path) -> None:
    file = config(tmp_path)
    file.change({"sample_every": 20})
    assert file.path.read_text() == TEXT.replace("sample_every = 3", "sample_every = 20")


@pytest.mark.claim("K5")
def test_K5_mode_and_link_stay(tmp_path: Path) -> None:
    real = config(tmp_path).path
    real.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(real)
    file = ConfigFile(link)
    file.change({"sample_every": 5})
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert stat.S_IMODE(file.original.stat().st_mode) == 0o640


@pytest.mark.claim("K5")
def test_K5_what_an_operator_edits_meanwhile_survives(tmp_path: Path) -> None:
    file = config(tmp_path)
    file.change({"sample_every": 20, "ingest_mode": "MOCK_WS"})
    file.path.write_text(file.path.read_text().replace("10_000", "500") + "# lowered\n")
    file.restore()
    # The value comes back; that it was written in single quotes does not.
    assert file.path.read_text() == TEXT.replace("10_000", "500").replace("'", '"') + "# lowered\n"


@pytest.mark.claim("K5")
def test_K5_a_key_that_was_not_there_goes_again(tmp_path: Path) -> None:
    file = config(tmp_path, "[engine]\ntick_interval_ms = 50\n")
    file.change({"sample_every": 20, "ingest_mode": "MOCK_WS"})
    file.path.write_text(file.path.read_text().replace("50", "60"))
    file.restore()
    assert file.load() == {"engine": {"tick_interval_ms": 60}}


@pytest.mark.claim("K5")
@pytest.mark.parametrize(
    ("text", "named"),
    [("invalid = [toml\n", "not valid TOML"), ("engine = 3\n", "must be a table"), ("a = '\udcff'\n", "not UTF-8")],
)
def test_a_config_that_cannot_be_changed_is_left_alone(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(ConfigTrouble, match=f"config.toml: .*{named}"):
        ConfigFile(path).change({"sample_every": 5})
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.claim("K5")
def test_K5_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigTrouble, match=r"nowhere\.toml: cannot be read"):
        ConfigFile(tmp_path / "nowhere.toml").load()


@pytest.mark.claim("K5")
def test_K5_a_config_that_an_operator_broke_keeps_its_original(tmp_path: Path) -> None:
    file = config(tmp_path)
    file.change({"sample_every": 5})
    file.path.write_text("invalid = [toml\n")
    with pytest.raises(ConfigTrouble):
        file.restore()
    assert file.original.read_text() == TEXT


class Died(BaseException):
    """Stands for the end of the process."""


def dies_at(step: int, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException], *, forever: bool) -> None:
    """Make the `step`th system call of the rewriter fail, and with `forever` every one after it."""
    count = 0
    os_open = os.open

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            # The way to a file is only looked at.
            count += not (call is os_open and args[1] & os.O_PATH)
            if count == step or (forever and count > step):
                raise error()
            return call(*args, **kwargs)

        return wrapped

    for name in ("open", "fchmod", "write", "fsync", "rename", "unlink"):
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))


STEPS = range(1, 27)
"""The last one is more than the system calls of one change and one restore."""


@pytest.mark.slow
@pytest.mark.claim("K5")
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_leaves_a_config_that_loads(tmp_path: Path, step: int) -> None:
    file = config(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        dies_at(step, patch, Died, forever=True)
        try:
            file.change({"sample_every": 20, "ingest_mode": "REAL_WS"})
            file.restore()
            died = False
        except Died:
            died = True
    assert died == (step < STEPS[-4]), "STEPS does not cover every system call, or covers far too many"
    assert engine(file)["sample_every"] in (3, 20)
    successor = ConfigFile(file.path)
    successor.restore()
    assert file.path.read_text() == TEXT
    successor.change({"sample_every": 5})
    successor.restore()
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.claim("K5")
@pytest.mark.parametrize("step", STEPS)
def test_a_system_call_that_fails_leaves_what_was(tmp_path: Path, step: int) -> None:
    file = config(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        dies_at(step, patch, lambda: OSError(28, "No space left on device"), forever=False)
        try:
            file.change({"sample_every": 20})
            done = True
        except (ConfigTrouble, OSError):
            done = False
    text = file.path.read_text()
    assert text in (TEXT, TEXT.replace("sample_every = 3", "sample_every = 20"))
    assert not done or text != TEXT
    ConfigFile(file.path).restore()
    assert file.path.read_text() == TEXT


def _rewrite_for_ever(path: str, steps: Connection) -> None:
    file = ConfigFile(Path(path))
    while True:
        for rung in (1, 5, 10, 20):
            file.change({"sample_every": rung, "ingest_mode": "REAL_WS"})
            steps.send_bytes(b".")
        file.restore()


@pytest.mark.slow
@pytest.mark.claim("K5")
def test_sigkill_at_random_moments_leaves_a_config_that_loads(tmp_path: Path) -> None:
    chance = random.Random(20260109)
    file = config(tmp_path)
    for _ in range(50):
        theirs, ours = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_rewrite_for_ever, args=(str(file.path), theirs))
        process.start()
        for _ in range(chance.randrange(1, 12)):
            assert ours.poll(10.0)
            ours.recv_bytes()
        process.kill()
        process.join()
        found = tomllib.loads(file.path.read_text())
        assert found["engine"]["sample_every"] in (1, 3, 5, 10, 20)
        assert found["risk_caps"] == {"max_exposure_usd": 10_000}
        ConfigFile(file.path).restore()
        assert file.path.read_text() == TEXT


KEYS = st.text("abcdefgh_", min_size=1, max_size=6).filter(lambda key: key not in rewrite.OWNED)


@pytest.mark.slow
@pytest.mark.claim("K5")
@given(
    st.dictionaries(KEYS, st.integers(-9, 10**12), max_size=4),
    st.dictionaries(KEYS.filter(lambda key: key != "engine"), st.integers(0, 9), max_size=3),
    st.booleans(),
    st.sampled_from(["\n", "\n\n# remark\n", "  # remark\n"]),
    st.sampled_from([1, 5, 10, 20]),
)
def test_any_config_comes_back_and_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    inside: dict[str, int],
    outside: dict[str, int],
    has_table: bool,
    end: str,
    rung: int,
) -> None:
    text = "".join(f"{key} = {value}{end}" for key, value in outside.items())
    if has_table:
        text += "[engine]\n" + "".join(f"{key} = {value}{end}" for key, value in inside.items()) + "[zz]\n"
    file = config(tmp_path_factory.mktemp("config"), text)
    before = file.load()
    file.change({"sample_every": rung})
    after = file.load()
    assert after.pop("engine") == {**before.pop("engine", {}), "sample_every": rung}
    assert after == before
    file.restore()
    assert file.path.read_text() == text
