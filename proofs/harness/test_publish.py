"""What a run has shown goes to where the dashboard looks, whole (contract O4)."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from harness.base.errors import HarnessError
from harness.upkeep import publish


def run(reports: Path, run_id: str) -> None:
    """What a run and `make buglog` leave."""
    (reports / "buglog").mkdir(parents=True, exist_ok=True)
    (reports / "verdicts.json").write_text(json.dumps({"run_id": run_id, "verdicts": []}))
    for end in ("md", "html"):
        (reports / "buglog" / f"BUG_2026-01-09_{run_id}.{end}").write_text(run_id)


def published(to: Path) -> list[str]:
    return sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())


@pytest.mark.claim("O4")
def test_the_last_run_is_published_for_everybody_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports, to = tmp_path / "reports", tmp_path / "evidence"
    for run_id in ("1-aa", "2-bb"):
        run(reports, run_id)
        mask = os.umask(0o077)
        try:
            assert publish.main(["--reports", str(reports), "--to", str(to)]) == 0
        finally:
            os.umask(mask)
        names = [f"buglog/BUG_2026-01-09_{run_id}.html", f"buglog/BUG_2026-01-09_{run_id}.md", "verdicts.json"]
        assert published(to) == names
        assert capsys.readouterr().out.split() == [str(to / name) for name in names]
    assert json.loads((to / "verdicts.json").read_text())["run_id"] == "2-bb"
    for place in (to, to / "buglog"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o755
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in place.iterdir() if path.is_file())


@pytest.mark.claim("O4")
def test_what_is_not_whole_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports, to = tmp_path / "reports", tmp_path / "evidence"
    argv = ["--reports", str(reports), "--to", str(to)]
    assert publish.main(argv) == 1
    assert "run `make proofs` first" in capsys.readouterr().err
    run(reports, "1-aa")
    assert publish.main(argv) == 0
    run(reports, "2-bb")
    (reports / "buglog" / "BUG_2026-01-09_2-bb.html").unlink()
    (reports / "buglog" / "BUG_2026-01-09_2-bb.md").unlink()
    assert publish.main(argv) == 1
    assert "no buglog of run 2-bb; run `make buglog` first" in capsys.readouterr().err
    for text in ("{", "[]", "{}", "[" * 100_000):
        (reports / "verdicts.json").write_text(text)
        with pytest.raises(HarnessError, match=r"verdicts\.json: is not the report of a proof run"):
            publish.publish(reports, to)
    assert json.loads((to / "verdicts.json").read_text())["run_id"] == "1-aa"


@pytest.mark.claim("O4")
def test_a_disk_that_is_full_leaves_the_earlier_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports, to = tmp_path / "reports", tmp_path / "evidence"
    run(reports, "1-aa")
    publish.publish(reports, to)
    run(reports, "2-bb")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HarnessError, match="No space left on device"):
        publish.publish(reports, to)
    assert json.loads((to / "verdicts.json").read_text())["run_id"] == "1-aa"
    assert "buglog/BUG_2026-01-09_1-aa.html" in published(to)


@pytest.mark.claim("O4")
def test_wherever_the_disk_is_full_the_verdicts_have_their_buglog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports, to = tmp_path / "reports", tmp_path / "evidence"
    run(reports, "1-aa")
    publish.publish(reports, to)
    run(reports, "2-bb")
    fsync, left = os.fsync, 0

    def full(fd: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full)
    shown = ""
    for room in range(100):
        left = room
        with suppress(HarnessError):
            publish.publish(reports, to)
        shown = json.loads((to / "verdicts.json").read_text())["run_id"]
        names = {f"buglog/BUG_2026-01-09_{shown}.{end}" for end in ("md", "html")}
        assert names <= set(published(to)), f"with room for {room} writes"
        if left >= 0:
            break
    assert (room > 3, shown) == (True, "2-bb")
