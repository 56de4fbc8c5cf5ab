"""The status file in which a pytest process says what it waits for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from harness.base import waiting
from harness.base.clock import FakeClock
from harness.base.waiting import StatusFile, Waiting


def test_a_slate_tells_the_proof_and_the_innermost_wait(tmp_path: Path) -> None:
    clock = FakeClock(100.0)
    path = tmp_path / "gw0"
    status_file = StatusFile(path, clock)
    assert waiting.read(path) is None
    status_file.works_on("test_a.py::test_x")
    assert waiting.read(path) == Waiting(100.0, "test_a.py::test_x", "")
    clock.sleep(5)
    with status_file.awaiting("the decision\tSTALL\n"):
        clock.sleep(1)
        assert waiting.read(path) == Waiting(105.0, "test_a.py::test_x", "the decision STALL")
        with status_file.awaiting("systemctl start"):
            assert waiting.read(path) == Waiting(106.0, "test_a.py::test_x", "systemctl start")
        assert waiting.read(path) == Waiting(105.0, "test_a.py::test_x", "the decision STALL")
    assert waiting.read(path) == Waiting(100.0, "test_a.py::test_x", "")
    status_file.works_on("")
    assert waiting.read(path) is None
    status_file.close()
    assert not path.exists()
    assert waiting.read(path) is None


def test_whatever_is_awaited_fits_on_the_slate(tmp_path: Path) -> None:
    status_file = StatusFile(tmp_path / "main", FakeClock())
    status_file.works_on("t")
    with status_file.awaiting("ß" * 5000):
        found = waiting.read(tmp_path / "main")
        assert found is not None
        assert found.what.startswith("ßßß")
        assert (tmp_path / "main").stat().st_size == waiting.BYTES
    status_file.close()


def test_threads_share_a_slate(tmp_path: Path) -> None:
    status_file = StatusFile(tmp_path / "main")
    status_file.works_on("t")

    def wait_often() -> None:
        for number in range(200):
            with status_file.awaiting(f"number {number}"):
                pass

    threads = [threading.Thread(target=wait_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = waiting.read(tmp_path / "main")
        assert found is not None
        assert found.proof == "t"
    last = waiting.read(tmp_path / "main")
    assert last is not None
    assert last.what == ""
    status_file.close()


def test_without_a_watcher_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_status_file", None)
    with waiting.awaiting("nobody asks"):
        pass
