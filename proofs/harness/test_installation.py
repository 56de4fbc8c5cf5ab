"""What is installed is listed, and nothing else is ever removed (contract O3)."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
OURS = {
    "bin/hybrid-engine": "#!/opt/hybrid-engine/bin/python\nrun()\n",
    "lib/engine/wire.py": "x = 1\n",
    "lib64": "-> lib",
}


def module() -> Any:
    spec = importlib.util.spec_from_file_location("installation", ROOT / "systemd" / "installation.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["installation"] = found
    spec.loader.exec_module(found)
    return found


installation = module()


def lay(home: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(text[3:]) if text.startswith("-> ") else path.write_text(text)


def proven(directory: Path, files: dict[str, str] = OURS) -> str:
    """An installation that can be copied."""
    home = directory / "proven"
    lay(home, {**files, "pyvenv.cfg": "home = /usr/bin\n"})
    manifest = {"at": "/opt/hybrid-engine", "prefix": [], "elsewhere": []}
    lay(home, {installation.MANIFEST: json.dumps(manifest)})
    return str(home)


def target(directory: Path, prefix: str = "/opt/hybrid-engine") -> Any:
    return installation.Target(f"{directory}/root", prefix, "/units", "/users")


def tree(top: Path) -> dict[str, str]:
    """Every file and link below, and what it holds."""
    return {
        name: f"-> {os.readlink(top / name)}" if (top / name).is_symlink() else (top / name).read_bytes().hex()
        for name in installation._files(top)
    }


@pytest.mark.slow
@pytest.mark.claim("O3")
@given(
    st.dictionaries(
        st.sampled_from(
            ["lib/engine/own.py", "lib/engine/__pycache__/own.pyc", "bin/own", "share/own", "own/deep/x", "lib/to"]
        ),
        st.sampled_from(["theirs", "-> /etc", "-> ../nowhere"]),
    ),
    st.booleans(),
)
def test_an_uninstall_leaves_what_others_put_there(
    tmp_path_factory: pytest.TempPathFactory, theirs: dict[str, str], before_an_upgrade: bool
) -> None:
    """Whether they did so before an upgrade or after it; what Python compiled of ours goes too."""
    directory = tmp_path_factory.mktemp("computer")
    source, here = proven(directory), target(directory)
    installation.install(here, source)
    home = directory / "root/opt/hybrid-engine"
    lay(home, theirs)
    lay(home, {"lib/engine/__pycache__/wire.cpython-399.pyc": "compiled"})
    expected = {name: f"{text}" if text.startswith("-> ") else text.encode().hex() for name, text in theirs.items()}
    if before_an_upgrade:
        installation.install(here, source)
    installation.uninstall(here, purge=False)
    assert (tree(home) if home.exists() else {}) == expected
    assert not list((directory / "root/units").iterdir())
    assert (directory / "root/etc/hybrid-engine/config.toml").exists()


@pytest.mark.claim("O3")
def test_an_upgrade_replaces_files_and_takes_away_those_of_before(tmp_path: Path) -> None:
    """Replaces: a library that is written into while a process has it mapped ends that process."""
    here = target(tmp_path)
    installation.install(here, proven(tmp_path, {**OURS, "lib/engine/gone.py": "x = 1\n"}))
    wire = tmp_path / "root/opt/hybrid-engine/lib/engine/wire.py"
    config = tmp_path / "root/etc/hybrid-engine/config.toml"
    config.write_text("# an operator's\n")
    with wire.open() as running:
        newer = tmp_path / "newer"
        installation.install(here, proven(newer, {**OURS, "lib/engine/wire.py": "x = 2\n"}))
        assert running.read() == "x = 1\n"
    assert wire.read_text() == "x = 2\n"
    assert not wire.with_name("gone.py").exists()
    assert config.read_text() == "# an operator's\n"


@pytest.mark.claim("O3", "O9")
def test_each_unit_of_an_engine_has_a_template_and_no_other(tmp_path: Path) -> None:
    installation.install(target(tmp_path), proven(tmp_path))
    units = {path.name for path in (tmp_path / "root/units").iterdir()}
    plain = {path.name for path in installation.UNITS.glob("hybrid-*")}
    of_an_engine = {name for name in plain if "@" not in name} - {"hybrid-collector.service"}
    assert units == plain | {name.replace(".", "@.") for name in of_an_engine}


@pytest.mark.claim("O3")
def test_a_unit_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    """systemd may read it at any moment."""
    here = target(tmp_path)
    installation.install(here, proven(tmp_path))
    with (tmp_path / "root/units/hybrid-engine.service").open() as read:
        installation.install(here, proven(tmp_path / "newer"))
        assert os.fstat(read.fileno()).st_nlink == 0


@pytest.mark.claim("O3")
def test_a_purge_removes_what_is_ours_on_our_disk_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance is ours that has a configuration; another disk, mounted below, is somebody's data."""
    here = target(tmp_path)
    installation.install(here, proven(tmp_path))
    lay(tmp_path / "root", {"etc/hybrid-engine/alpha/config.toml": "", "etc/hybrid-engine/beta/notes": ""})
    for name in ("", "-alpha", "-beta", "-gamma"):
        lay(tmp_path / "root/var/lib", {f"hybrid-engine{name}/bot.db": "", f"hybrid-soak{name}/log": ""})
    commands: list[list[str]] = []
    run = installation.subprocess.run
    monkeypatch.setattr(
        installation.subprocess, "run", lambda argv, **more: (commands.append(argv), run(argv, **more))[1]
    )
    installation.uninstall(here, purge=True)
    left = {path.name for path in (tmp_path / "root/var/lib").iterdir()}
    assert left == {"hybrid-engine-beta", "hybrid-engine-gamma", "hybrid-soak-beta", "hybrid-soak-gamma"}
    assert [argv[:4] for argv in commands] == [["rm", "-rf", "--one-file-system", "--"]]


@pytest.mark.claim("O3")
@pytest.mark.parametrize("mounted", [True, False])
def test_a_configuration_that_lies_elsewhere_stays_there(tmp_path: Path, mounted: bool) -> None:
    """On a disk that is not mounted now, the link leads nowhere."""
    config = tmp_path / "root/etc/hybrid-engine/config.toml"
    elsewhere = tmp_path / "disk/config.toml"
    elsewhere.parent.mkdir()
    if mounted:
        elsewhere.write_text("# an operator's\n")
    config.parent.mkdir(parents=True)
    config.symlink_to(elsewhere)
    installation.install(target(tmp_path), proven(tmp_path))
    assert config.readlink() == elsewhere
    assert elsewhere.exists() == mounted
    assert not mounted or elsewhere.read_text() == "# an operator's\n"


@pytest.mark.claim("O3")
def test_whatever_umask_others_can_read_it(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        installation.install(target(tmp_path), proven(tmp_path))
    finally:
        os.umask(mask)
    for directory, _, names in os.walk(tmp_path / "root"):
        assert stat.S_IMODE(Path(directory).stat().st_mode) & 0o755 == 0o755, directory
        for name in names:
            path = Path(directory, name)
            assert path.is_symlink() or stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444, path


SPOILED: dict[str, Callable[[Path], object]] = {
    "is not empty": lambda home: lay(home, {"bin/ls": "theirs"}),
    "": lambda home: home.mkdir(parents=True),
}


@pytest.mark.claim("O3")
@pytest.mark.parametrize("said", SPOILED)
def test_a_directory_of_others_is_no_prefix(tmp_path: Path, said: str) -> None:
    here, home = target(tmp_path, "/usr/local"), tmp_path / "root/usr/local"
    SPOILED[said](home)
    before = tree(home)
    if said:
        with pytest.raises(installation.Refused, match=said):
            installation.install(here, proven(tmp_path))
        with pytest.raises(installation.Refused, match="not an installation of ours"):
            installation.uninstall(here, purge=True)
        assert tree(home) == before
    else:
        installation.install(here, proven(tmp_path))


@pytest.mark.claim("O3")
@pytest.mark.parametrize(
    "prefix", ["opt", "/", "/opt/../etc", "/opt/a\nb", '/opt/"', "/opt/$HOME", "/opt/%i", "/opt/a/", ""]
)
def test_a_prefix_that_no_unit_could_name_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(installation.Refused, match="PREFIX="):
        installation.install(target(tmp_path, prefix), proven(tmp_path))


@pytest.mark.claim("O3")
def test_no_link_is_followed(tmp_path: Path) -> None:
    """A prefix, a directory in it, a unit and the data that are links now: what they lead to stays."""
    here = target(tmp_path)
    installation.install(here, proven(tmp_path))
    root, precious = tmp_path / "root", tmp_path / "precious"
    lay(precious, {"wire.py": "precious", "unit": "precious", "data/bot.db": "precious"})
    home = root / "opt/hybrid-engine"
    (home / "lib/engine").rename(home / "lib/moved")
    (home / "lib/engine").symlink_to(precious)
    (root / "units/hybrid-soak.service").unlink()
    (root / "units/hybrid-soak.service").symlink_to(precious / "unit")
    (root / "var/lib").mkdir(parents=True)
    (root / "var/lib/hybrid-engine").symlink_to(precious / "data")
    installation.uninstall(here, purge=True)
    assert {path.read_text() for path in precious.rglob("*") if path.is_file()} == {"precious"}
    assert len(tree(precious)) == 3
    assert (root / "units/hybrid-soak.service").is_symlink()
    assert not os.path.lexists(root / "var/lib/hybrid-engine")
    installation.install(target(tmp_path, "/opt/again"), proven(tmp_path / "more"))
    (root / "opt/link").symlink_to("again")
    with pytest.raises(installation.Refused):
        installation.uninstall(target(tmp_path, "/opt/link"), purge=False)
    assert (root / "opt/again/lib/engine/wire.py").exists()


@pytest.mark.claim("O3")
def test_scripts_and_units_name_a_place_with_a_space(tmp_path: Path) -> None:
    installation.install(target(tmp_path, "/opt/my engine"), proven(tmp_path))
    script = (tmp_path / "root/opt/my engine/bin/hybrid-engine").read_text()
    assert script == "#!/bin/sh\n'''exec' \"/opt/my engine/bin/python\" \"$0\" \"$@\"\n' '''\nrun()\n"
    for unit in (tmp_path / "root/units").glob("*.service"):
        text = unit.read_text()
        assert "/opt/hybrid-engine" not in text
        assert r"/opt/my\x20engine/bin/" in text
        assert "Documentation=file:/opt/my%%20engine/share/doc/hybrid-engine/" in text


def test_what_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DESTDIR": str(tmp_path), "PREFIX": "/opt/x", "FROM": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    for what, said in (("install", "FROM="), ("uninstall", "is not an installation of ours")):
        monkeypatch.setattr(sys, "argv", ["installation.py", what])
        assert installation.main() == 1
        assert said in capsys.readouterr().err
