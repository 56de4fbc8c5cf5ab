"""engine/base/notify.py: sd_notify and the probe that feeds the watchdog (M4, E5)."""

from __future__ import annotations

import re
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from engine.base import notify
from engine.base.exits import ConfigError, Crash, EngineError, NetworkLost, Overload, ProtocolChanged
from engine.base.notify import Liveness, Notifier
from harness.evidence.verdict import ClauseId
from harness.proving import contract

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.claim("M4")
@pytest.mark.parametrize("abstract", [False, True])
def test_M4_datagrams_reach_the_socket_systemd_names(tmp_path: Path, abstract: bool) -> None:
    name = f"proof-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}" if abstract else str(tmp_path / name))
        listener.settimeout(5)
        notifier = Notifier(f"@{name}" if abstract else str(tmp_path / name))
        notifier.send(READY=1, STATUS="two\nlines")
        assert listener.recv(4096) == b"READY=1\nSTATUS=two lines"
        notifier.close()


@pytest.mark.claim("M4")
def test_M4_without_the_variable_nothing_happens() -> None:
    notifier = Notifier(None)
    notifier.send(READY=1)
    notifier.close()


@pytest.mark.claim("M4")
def test_M4_more_time_is_asked_for_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        extension = notify.Extension(str(tmp_path / "notify"), "migrating")
        for _ in range(3):
            extension()
        assert systemd.recv(4096) == b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=migrating"
        with pytest.raises(BlockingIOError):
            systemd.recv(4096)
        monkeypatch.setattr(notify, "EXTEND_EVERY_SECS", 0.0)
        extension._next_at = 0.0
        for _ in range(2):
            extension()
            assert systemd.recv(4096).startswith(b"EXTEND_TIMEOUT_USEC=")
        extension.close()


@pytest.mark.claim("M4")
def test_M4_the_reason_comes_first_and_has_no_secret(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        notify.tell_reason(str(tmp_path / "notify"), ConfigError("c.toml: ws_url = wss://u:hunter2@h/: no\nuser"))
        assert systemd.recv(4096) == b"STATUS=c.toml: ws_url = wss://[redacted]@h/: no user (exit 12 CONFIG)"
        notify.tell_reason(str(tmp_path / "notify"), Overload("x" * 10_000))
        assert len(systemd.recv(4096)) < 600
    notify.tell_reason(None, Overload("nobody listens"))


@pytest.mark.claim("M4")
@pytest.mark.parametrize(("length", "shown"), [(1, "x"), (500, "x" * 500), (501, "x" * 497 + "...")], ids=range(3))
def test_M4_a_reason_is_told_as_far_as_one_reads_it(length: int, shown: str) -> None:
    assert notify.reason(Overload("x" * length)) == f"{shown} (exit 13 OVERLOAD)"


@pytest.mark.claim("M4")
def test_M4_a_listener_that_is_gone_is_no_reason_to_stop(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    notifier.send(WATCHDOG=1)
    notifier.close()


@pytest.mark.claim("M4")
def test_M4_that_nobody_hears_is_told_once_a_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    for _ in range(100):
        notifier.send(WATCHDOG=1, STATUS="a\nb")
    notifier.close()
    assert 1 <= len(caplog.records) <= 3
    first = caplog.records[0]
    assert (first.levelname, first.message) == ("WARNING", "sd_notify failed")
    assert vars(first)["fields"] == {
        "error": "[Errno 2] No such file or directory", "sent": ["WATCHDOG=1", "STATUS=a b"], "suppressed": 0,
    }  # fmt: skip


@pytest.mark.claim("E5")
def test_E5_only_when_every_task_answered_is_nobody_silent() -> None:
    liveness = Liveness(("ingest", "strategy", "persist"))
    assert liveness.silent() == ["ingest", "strategy", "persist"]
    liveness.answer("ingest")
    liveness.answer("strategy")
    assert liveness.silent() == ["persist"]
    liveness.answer("persist")
    assert liveness.silent() == []


@pytest.mark.claim("E5")
def test_E5_an_old_answer_does_not_count_in_the_next_epoch() -> None:
    liveness = Liveness(("strategy",))
    liveness.answer("strategy")
    liveness.next_epoch()
    assert liveness.silent() == ["strategy"]


@pytest.mark.claim("E5")
def test_E5_who_waits_for_room_is_not_stuck_but_its_consumer_must_answer() -> None:
    liveness = Liveness(("strategy", "persist"))
    with liveness.waiting("strategy"):
        assert liveness.silent() == ["persist"]
    assert liveness.silent() == ["strategy", "persist"]


@pytest.mark.claim("E5")
def test_E5_a_task_that_ended_as_it_should_is_not_missed() -> None:
    liveness = Liveness(("ingest",))
    liveness.finished("ingest")
    assert liveness.silent() == []


@pytest.mark.claim("D2", "M4")
def test_D2_M4_more_time_is_asked_for_well_before_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        extension = notify.Extension(str(tmp_path / "notify"), "migrating")
        asked = []
        for now in (1000.0, 1004.9, 1005.0, 1009.9, 1010.0, 1100.0, 1104.9):
            monkeypatch.setattr(time, "monotonic", lambda now=now: now)
            extension()
            with suppress(BlockingIOError):
                systemd.recv(4096)
                asked.append(now)
        extension.close()
    assert asked == [1000.0, 1005.0, 1010.0, 1100.0]


@pytest.mark.slow
@pytest.mark.claim("M4", "E5")
def test_M4_a_listener_that_does_not_read_holds_up_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As many datagrams as its queue has room for are kept; of the others each is waited for a moment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        notifier = Notifier(str(tmp_path / "notify"))
        kept, took = 0, list[float]()
        while not caplog.records or len(took) < kept + 3:
            began = time.monotonic()
            notifier.send(WATCHDOG=1)
            took.append(time.monotonic() - began)
            kept = len(took) if not caplog.records else kept
        notifier.close()
        assert vars(caplog.records[0])["fields"]["error"] == "timed out"
        assert 0.1 <= min(took[kept:]) < 1.0
        systemd.setblocking(False)
        for _ in range(kept):
            assert systemd.recv(4096) == b"WATCHDOG=1"


@pytest.mark.claim("M4")
@pytest.mark.parametrize("failure", [Crash, NetworkLost, ProtocolChanged, ConfigError, Overload])
def test_M4_behind_a_reason_is_the_code_with_the_name_that_the_contract_has(failure: type[EngineError]) -> None:
    text = contract.clauses((ROOT / "docs" / "contract.md").read_text())[ClauseId("M4")]
    named = dict(re.findall(r"\b(\d+) ([A-Z]+)[,)]", text))
    code = int(failure.code)
    assert notify.reason(failure("why")) == f"why (exit {code} {named[str(code)]})"
