"""Files that only root or this user can have put where they are (contract W1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.base import trusted
from harness.base.errors import Unavailable
from harness.base.trusted import Untrusted

OTHER = 65533
"""A user and a group that are not ours."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "evidence"
    directory.mkdir(mode=0o755)
    (directory / "file").write_text("text")
    return directory


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        raise Unavailable("only root can give a file to another user", "run as root")
    os.chown(path, OTHER, OTHER)


def test_what_is_ours_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trusted.read(place / "file", 4) == b"text"
    assert trusted.read_end(place / "file", 2) == (2, b"xt")
    assert trusted.read_end(place / "file", 9) == (0, b"text")
    assert trusted.names(place) == ["file"]
    assert trusted.status(place / "file").st_size == 4
    monkeypatch.chdir(place)
    assert trusted.read(Path("file"), 10) == b"text"
    assert trusted.names(Path()) == ["file"]


def link_file(place: Path) -> None:
    (place / "file").rename(place / "other")
    (place / "file").symlink_to(place / "other")


def link_directory(place: Path) -> None:
    place.rename(place.with_name("moved"))
    place.symlink_to(place.with_name("moved"))


def fifo(place: Path) -> None:
    (place / "file").unlink()
    os.mkfifo(place / "file")


def device(place: Path) -> None:
    (place / "file").unlink()
    (place / "file").symlink_to("/dev/zero")


def directory(place: Path) -> None:
    (place / "file").unlink()
    (place / "file").mkdir()


@pytest.mark.claim("W1")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (link_file, r"file is a symbolic link, which is not followed"),
        (link_directory, r"'evidence' is a symbolic link, which is not followed"),
        (fifo, r"is not a regular file"),
        (device, r"is a symbolic link"),
        (directory, r"is not a regular file"),
        (lambda place: (place / "file").chmod(0o646), r"file may be written by other users"),
        (lambda place: place.chmod(0o757), r"'evidence' may be written by other users"),
        (lambda place: give_away(place / "file"), rf"file belongs to user {OTHER}"),
        (give_away, rf"'evidence' belongs to user {OTHER}"),
        (lambda place: (os.chown(place / "file", -1, OTHER), (place / "file").chmod(0o664)), r"may be written by o"),
        (lambda place: (place / "file").write_text("longer"), r"has 6 bytes, more than the 4 that are read"),
    ],
    ids=["link", "linked directory", "FIFO", "device", "directory", "writable", "writable directory", "another's",
         "another's directory", "group-writable", "long"],
)  # fmt: skip
def test_what_others_may_have_put_there_is_refused(place: Path, spoil: Callable[[Path], object], says: str) -> None:
    spoil(place)
    with pytest.raises(Untrusted, match=says):
        trusted.read(place / "file", 4)


@pytest.mark.claim("W1")
def test_a_hard_link_in_another_users_directory_is_refused(place: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").hardlink_to(place / "file")
    give_away(theirs)
    with pytest.raises(Untrusted, match=f"'theirs' belongs to user {OTHER}"):
        trusted.read(theirs / "file", 4)


def test_what_is_not_there_is_told_as_such(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        trusted.read(place / "none", 4)
    with pytest.raises(NotADirectoryError):
        trusted.read(place / "file" / "below", 4)
    with pytest.raises(NotADirectoryError):
        trusted.names(place / "file")


def test_a_file_that_an_operator_names_may_lie_behind_links_but_is_a_file(place: Path) -> None:
    link_file(place)
    assert trusted.read_named(place / "file", 4) == b"text"
    (place / "other").unlink()
    os.mkfifo(place / "other")
    with pytest.raises(Untrusted, match="is not a regular file"):
        trusted.read_named(place / "file", 4)
