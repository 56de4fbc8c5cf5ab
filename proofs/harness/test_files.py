"""Nobody's link is followed out of a directory that others can write (contract K10)."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.base import files
from harness.base.clock import FakeClock
from harness.base.errors import HarnessError, Unavailable
from harness.evidence.recorder import Recorder
from harness.soak import controller as soak
from harness.soak import decisions
from harness.soak.decisions import DecisionLog, Log
from harness.soak.reducer import Action
from harness.soak.rewrite import ConfigFile

SECRET = b"[engine]\nsecret = 1\n"

RUN = "aaaaaaaa-0000-4000-8000-000000000000"


@pytest.fixture(params=["everybody", "its group", "another owner"])
def others(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A directory that others can write in, as the engine's state is for the engine's user."""
    place = tmp_path / "others"
    place.mkdir()
    place.chmod({"everybody": 0o777, "its group": 0o775, "another owner": 0o755}[request.param])
    if request.param == "another owner":
        if os.geteuid() != 0:
            raise Unavailable("nobody but root gives a directory away", "run as root")
        os.chown(place, 65534, -1)
    return place


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    place = tmp_path / "victim"
    place.write_bytes(SECRET)
    return place


def decide(log: Path) -> None:
    DecisionLog(log, RUN, FakeClock(1767973370.0)).decide(
        Action.STARTUP, "why", ingest_mode="realws", psi_actions="on", state="NORMAL", sample_every=1, facts={}
    )


def report(directory: Path) -> None:
    decide(directory / "d.jsonl")
    soak.write_report(directory / "d.jsonl", None)


def change(directory: Path) -> None:
    config = directory / "config.toml"
    if not os.path.lexists(config):
        config.write_text("[engine]\nsample_every = 1\n")
    file = ConfigFile(config)
    file.change({"sample_every": 5})
    file.restore()


def record(directory: Path) -> None:
    recorder = Recorder(directory / "record.jsonl", "run", "soak", FakeClock())
    recorder.write("write", path="x", text="y" * 100_000)
    recorder.close()


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "decision log": ("d.jsonl", lambda directory: decide(directory / "d.jsonl")),
    "samples, set aside": ("s.jsonl", lambda directory: Log(directory / "s.jsonl", sync=False, keep_bytes=1)),
    "report": ("soak_report_2026-01-09_aaaaaaaa.html", report),
    "config": ("config.toml", change),
    "its original": ("config.toml.soak-original", change),
    "its new text": (".config.toml.partial", change),
    "its original's new text": (".config.toml.soak-original.partial", change),
    "flight record": ("record.jsonl", record),
    "decisions, read": ("d.jsonl", lambda directory: decisions.read(directory / "d.jsonl")),
}
"""Everything the controller writes or reads by name: what name, and who does."""


@pytest.mark.claim("K10")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("how", ["link", "name"])
def test_what_others_put_there_is_not_followed(others: Path, victim: Path, writer: str, how: str) -> None:
    """A symbolic link, or a second name (a hard link) of a file that is not theirs."""
    name, act = WRITERS[writer]
    (others / name).symlink_to(victim) if how == "link" else (others / name).hardlink_to(victim)
    before = victim.stat()
    with contextlib.suppress(HarnessError):
        act(others)
    found = victim.stat()
    assert victim.read_bytes() == SECRET
    assert (found.st_mode, found.st_uid, found.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert not any(SECRET in one.read_bytes() for one in others.iterdir() if not one.samefile(victim))


@pytest.mark.claim("K10")
def test_no_directory_on_the_way_is_followed(others: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (others / "ops").symlink_to(tmp_path / "elsewhere")
    for act in (report, record, change):
        with pytest.raises((HarnessError, OSError), match="is a link in a directory that others can write"):
            act(others / "ops")
        if act is not change:
            assert not list((tmp_path / "elsewhere").iterdir())
    with pytest.raises(OSError, match="is a link"), files.found(others / "ops" / "more" / "x", make=True):
        pass
    assert not (tmp_path / "elsewhere" / "more").exists()


@pytest.mark.claim("K10")
def test_an_operators_own_links_work(tmp_path: Path) -> None:
    """Of files and directories, relative, absolute, through `..`, and one after the other."""
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to("real/../real")
    (tmp_path / "again").symlink_to(tmp_path / "way")
    (tmp_path / "real" / "log").symlink_to("../again/true")
    with files.found(tmp_path / "again" / "log") as place:
        assert place.path == tmp_path / "real" / "true"
        place.replace(b"x", 0o600)
    assert (tmp_path / "real" / "true").read_bytes() == b"x"
    assert stat.S_IMODE((tmp_path / "real" / "true").stat().st_mode) == 0o600
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"), files.found(tmp_path / "loop"):
        pass


def test_another_processs_view_is_the_kernels_to_follow(tmp_path: Path) -> None:
    """As proofs name a file of a machine: /proc/<pid>/root is not what its text says, `/`."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with files.found(Path(f"/proc/{os.getpid()}/fd/{fd}/x")) as place:
            assert place.path == Path(f"/proc/{os.getpid()}/fd/{fd}/x")
            place.replace(b"here")
    finally:
        os.close(fd)
    assert (tmp_path / "x").read_bytes() == b"here"


@pytest.mark.claim("K10")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/full")], ids=["pipe", "device"])
def test_what_is_no_file_is_refused_at_once(others: Path, make: Callable[[Path], object]) -> None:
    make(others / "d.jsonl")
    with pytest.raises(HarnessError, match=r"d\.jsonl"):
        decide(others / "d.jsonl")


def test_what_was_left_half_written_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / ".x.partial").write_text("ha")
    with files.found(tmp_path / "x") as place:
        place.replace(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


def test_a_place_that_is_none_is_named(tmp_path: Path) -> None:
    assert files.resolved(tmp_path / "none" / "x") == tmp_path / "none" / "x"
    with pytest.raises(FileNotFoundError, match="none"), files.found(tmp_path / "none" / "x"):
        pass
    with pytest.raises(IsADirectoryError), files.found(Path("/")):
        pass
