"""What the controller sees of a computer, and does to it, by scripts in the place of systemctl (K4, K8)."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from harness.base.clock import FakeClock, OsClock
from harness.observing import ledger_view, observe
from harness.observing.ledger_view import LedgerUnreadable
from harness.observing.observe import LocalComputer
from harness.upkeep import notice
from harness.upkeep.failure import Failure
from proofs.harness.test_health import programs, shown


def computer(directory: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> LocalComputer:
    shell = programs(directory, monkeypatch, **scripts)
    return LocalComputer(shell, "engine.service", directory / "bot.db", FakeClock(1000.0), directory)


@pytest.mark.claim("K4", "K8")
def test_each_entry_of_the_journal_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last one on, which not every look brings anything after."""
    for number, messages in ((1, ["a", "b", "c"]), (2, []), (3, ["d", "e"]), (4, [])):
        lines = [json.dumps({"MESSAGE": one, "__CURSOR": f"cursor-{one}"}) + "\n" for one in messages]
        (tmp_path / f"look-{number}").write_text("".join(lines))
    script = f"""cd {tmp_path}; echo "$@" >> asked; cat look-$(wc -l < asked)"""
    one = computer(tmp_path, monkeypatch, journalctl=script)
    assert [[entry["MESSAGE"] for entry in one.journal()] for _ in range(4)] == [["a", "b", "c"], [], ["d", "e"], []]
    asked = [line.split()[-1] for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == [
        "--since=@1000.000000",
        "--after-cursor=cursor-c",
        "--after-cursor=cursor-c",
        "--after-cursor=cursor-e",
    ]


NULL_UNASKED = """case " $* " in *" --all "*) ;; *) echo '{"MESSAGE": null}'; exit;; esac
printf '{"__REALTIME_TIMESTAMP": "1", "MESSAGE": "%05000d"}\\n' 7"""
"""A journalctl that does with a long field as the real one does."""


@pytest.mark.claim("M5", "K7", "O11")
def test_a_long_line_of_the_journal_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the heartbeat of an engine with many markets is."""
    shell = programs(tmp_path, monkeypatch, journalctl=NULL_UNASKED)
    (raw,) = observe.read_journal(shell, "--unit=engine.service")
    assert len(raw["MESSAGE"]) == 5000
    failed = Failure("engine.service", "here")
    (entry,) = notice.read_entries(shell, failed)
    assert len(entry.message) == 5000


@pytest.mark.slow
@pytest.mark.claim("K9")
def test_a_look_at_a_database_that_hangs_in_the_kernel_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does the next one, which is not begun behind it."""
    released = threading.Event()
    monkeypatch.setattr(ledger_view, "read_progress", lambda _: released.wait())
    one, clock = computer(tmp_path, monkeypatch), OsClock()
    try:
        for told in ("no answer within 3 s", "an earlier read of it has not come back"):
            began = clock.monotonic()
            with pytest.raises(LedgerUnreadable, match=told):
                one.progress()
            assert clock.monotonic() - began < 3.5
    finally:
        released.set()


@pytest.mark.claim("M5")
@pytest.mark.parametrize(
    ("told", "directory"),
    [("/var/lib/x", "/var/lib/x"), ("!/var/lib/x", "/var/lib/x"), ("", "/"), ("/a b", "/a b")],
)
def test_where_a_unit_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, directory: str) -> None:
    """`!`: the directory may be missing (`WorkingDirectory=-`)."""
    shell = programs(tmp_path, monkeypatch, systemctl=f"echo 'WorkingDirectory={told}'")
    assert observe.working_directory(shell, "engine.service") == Path(directory)


@pytest.mark.claim("K4")
@pytest.mark.parametrize(
    ("active", "status", "complaint"),
    [
        ("active", 0, ""),
        ("failed", 0, "after systemctl restart"),
        ("activating", 0, "after systemctl restart"),
        ("active", 4, "Unit engine.service not found."),
    ],
)
def test_a_restart_that_does_not_bring_the_engine_up_is_complained_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, active: str, status: int, complaint: str
) -> None:
    said = f"echo 'Unit engine.service not found.' >&2; exit {status}"
    script = f'case "$*" in\n*restart*) {said};;\n*Job*) echo Job=;;\n*) {shown(active)}\n;;\nesac'
    one = computer(tmp_path, monkeypatch, systemctl=script)
    found = one.restart(lambda: False)
    assert complaint in found
    assert bool(found) == bool(complaint)
