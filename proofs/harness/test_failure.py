"""What is told of a unit that failed, and how (contract O11)."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.clock import OsClock
from harness.base.escape import shown
from harness.base.journal import Entry, parse
from harness.upkeep import failure, notice
from harness.upkeep.failure import Wanted
from proofs.fixtures.hook import hook

pytestmark = pytest.mark.claim("O11")

RUN = "a" * 32
ENVIRON = {
    "MONITOR_SERVICE_RESULT": "exit-code", "MONITOR_EXIT_CODE": "exited", "MONITOR_EXIT_STATUS": "12",
    "MONITOR_INVOCATION_ID": RUN,
}  # fmt: skip
ERROR = {"level": "ERROR", "fields": {"message": "config.toml: engine.sample_every = 0"}, "target": "engine"}


def entry(identifier: str, message: str) -> Entry:
    found = parse({"MESSAGE": message, "SYSLOG_IDENTIFIER": identifier}, 1)
    assert found is not None
    return found


ENTRIES = [
    entry("systemd", "Starting hybrid-engine.service"),
    entry("hybrid-engine", json.dumps(ERROR)),
    entry("systemd", "hybrid-engine.service: Main process exited, code=exited, status=12/n/a"),
]


def test_a_notice_says_who_where_how_and_why() -> None:
    one = failure.failure_of("hybrid-engine.service", "box", ENVIRON)
    told = failure.notice(one, ENTRIES)
    assert told.subject == "hybrid-engine.service failed on box: exited 12"
    assert told.text.splitlines()[:2] == [told.subject, "exit 12 after 0.0 s: config.toml: engine.sample_every = 0"]
    assert told.text.endswith(f"Look further: journalctl --unit hybrid-engine.service _SYSTEMD_INVOCATION_ID={RUN}")
    assert told.payload["reason"] == "config.toml: engine.sample_every = 0"
    assert (told.payload["exit_status"], told.payload["result"], len(told.payload["lines"])) == ("12", "exit-code", 3)


END = entry("systemd", "hybrid-engine.service: Main process exited, code=exited, status=12/n/a")
MISTAKE = "config.toml: engine.sample_every = 0"


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (ENTRIES, [f"exit 12 after 0.0 s: {MISTAKE}"]),
        # How it ended names the reason that it logged, if there is one, and else nothing is left to say.
        ([END], ["exit 12"]),
        (ENTRIES[:2], [MISTAKE]),
        ([*ENTRIES[:1], END, ENTRIES[1]], ["exit 12 after 0.0 s", MISTAKE]),
        ([entry("hybrid-engine", "hello")], []),
        ([], []),
    ],
    ids=["end-and-reason", "end", "reason", "reason-after-the-end", "neither", "nothing"],
)
def test_what_is_told_is_the_end_the_reason_and_the_last_lines(entries: list[Entry], told: list[str]) -> None:
    made = failure.notice(failure.failure_of("hybrid-engine.service", "box", ENVIRON), entries)
    lines = [f"{one.identifier}: {one.event}" for one in entries]
    look = f"Look further: journalctl --unit hybrid-engine.service _SYSTEMD_INVOCATION_ID={RUN}"
    assert made.text.splitlines() == [made.subject, *told, "", *lines, "", look]
    assert made.payload == {
        "text": made.text, "subject": made.subject, "unit": "hybrid-engine.service", "host": "box",
        "result": "exit-code", "exit_code": "exited", "exit_status": "12", "invocation_id": RUN,
        "reason": MISTAKE if ENTRIES[1] in entries else "", "lines": lines,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "ended"),
    [
        ({}, ": a notice on trial, nothing failed"),
        ({"MONITOR_SERVICE_RESULT": "watchdog", "MONITOR_EXIT_CODE": "dumped", "MONITOR_EXIT_STATUS": "ABRT"},
         "dumped ABRT"),
        ({"MONITOR_SERVICE_RESULT": "oom-kill"}, "oom-kill"),
        ({"MONITOR_SERVICE_RESULT": "timeout", "MONITOR_EXIT_CODE": "killed"}, "killed"),
        ({"MONITOR_SERVICE_RESULT": "x", "MONITOR_INVOCATION_ID": f"{RUN}0"}, "x"),
        ({"MONITOR_SERVICE_RESULT": "x", "MONITOR_INVOCATION_ID": RUN.upper()}, "x"),
    ],
)  # fmt: skip
def test_how_it_ended_is_what_systemd_says(environ: dict[str, str], ended: str) -> None:
    made = failure.notice(failure.failure_of("u", "box", environ), [])
    assert made.subject == (f"u failed on box: {ended}" if environ else f"u on box{ended}")
    assert made.text.endswith("\nLook further: journalctl --unit u")


def test_of_the_journal_the_last_lines_are_told_and_of_a_long_one_its_beginning() -> None:
    entries = [entry("e", f"line {number}") for number in range(25)]
    long = [entry("e", "x" * 296 + "y"), entry("e", "x" * 297 + "y")]
    lines = failure.notice(failure.failure_of("u", "h", ENVIRON), [*entries, *long]).payload["lines"]
    assert lines == [*(f"e: line {number}" for number in range(7, 25)), f"e: {'x' * 296}y", f"e: {'x' * 297}"]


def test_on_trial_nothing_has_failed() -> None:
    told = failure.notice(failure.failure_of("trial", "box", {}), [])
    assert told.subject == "trial on box: a notice on trial, nothing failed"


@given(st.text(), st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=40))
def test_whatever_was_logged_is_shown_and_not_obeyed(status: str, run: str, logged: list[tuple[str, str]]) -> None:
    environ = {**ENVIRON, "MONITOR_EXIT_STATUS": status, "MONITOR_INVOCATION_ID": run}
    told = failure.notice(failure.failure_of("u", "h", environ), [entry(*line) for line in logged])
    assert shown(told.text) == told.text
    assert len(told.payload["lines"]) <= failure.LINES
    assert re.fullmatch("([0-9a-f]{32})?", told.payload["invocation_id"])


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({}, "nobody to tell"),
        ({"webhook": "yes"}, "webhook = 'yes': must be true or false"),
        ({"command": "mail"}, "command = 'mail': must be a list of words"),
        ({"command": ["mail", ""]}, "must be a list of words that are not empty"),
        *(
            ({"webhook": True, "timeout_secs": secs}, f"timeout_secs = {secs!r}: must be above 0 and at most 60")
            for secs in (-1, 60.001, True, "10", [1], float("nan"), float("inf"))
        ),
        ({"webhook": False}, "neither webhook = true nor a command"),
        ({"webhook": False, "command": []}, "neither webhook = true nor a command"),
        ({"command": [1]}, "command = [1]: must be a list of words"),
        ({"webhook": 1}, "webhook = 1: must be true or false"),
        ({"webhook": True, "timeout_secs": 0}, "timeout_secs = 0: must be above 0 and at most 60"),
        ({"webhook": True, "url": "http://x"}, "url: unknown key, allowed are webhook, command, timeout_secs"),
    ],
)
def test_settings_that_cannot_be(tables: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        failure.wanted_of(tables)


def test_settings() -> None:
    assert failure.wanted_of({"webhook": True}) == Wanted(True, (), 10.0)
    for secs in (0.001, 1, 60, 60.0):
        assert failure.wanted_of({"webhook": True, "timeout_secs": secs}) == Wanted(True, (), float(secs))
    assert Wanted() == Wanted(False, (), 10.0)
    mail = {"command": ["mail", "{subject}"], "timeout_secs": 2}
    assert failure.wanted_of(mail) == Wanted(False, ("mail", "{subject}"), 2.0)
    assert failure.words_of(["mail", "-s", "{subject}", "x"], "it {failed}") == ["mail", "-s", "it {failed}", "x"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings for a webhook, and a place for its credential."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "notice.toml"
    path.write_text("webhook = true\n")
    return path


@pytest.mark.parametrize("status", [204, 302, 404, 503])
def test_a_webhook_gets_it_or_the_exit_status_says_no(
    config: Path, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    with hook(status) as there:
        (config.parent / notice.CREDENTIAL).write_text(f"{there.url}\n")
        done = notice.main(["--config", str(config), "hybrid-engine.service"])
    assert done == int(status != 204)
    ((path, told),) = there.got
    assert path == "/hook/s3cr3t-t0ken"
    assert (told["unit"], told["exit_status"], told["invocation_id"]) == ("hybrid-engine.service", "12", RUN)
    said = capfd.readouterr().err
    assert ("webhook: told" if status == 204 else f"127.0.0.1 answers HTTP {status}") in said
    assert "s3cr3t" not in said


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/s3cr3t",
        "http:///s3cr3t",
        "",
        "http://x/s3cr3t y",
        "http://\xff/s3cr3t",
        "http://x/\ns3cr3t",
        "http://x/s3cr3t\x01",
        "http://x:99999/s3cr3t",
        "http://x:0/s3cr3t",
        "http://x:port/s3cr3t",
        "http://[x/s3cr3t",
        "http://me:s3cr3t@x/",
    ],
)
def test_a_url_that_cannot_be_is_no_second_attempt(config: Path, capfd: pytest.CaptureFixture[str], url: str) -> None:
    (config.parent / notice.CREDENTIAL).write_text(url, encoding="latin-1")
    assert notice.main(["--config", str(config), "x"]) == 12
    said = capfd.readouterr().err
    assert "must be one URL with http:// or https://" in said
    assert "s3cr3t" not in said


def test_a_url_that_is_too_long_is_not_cut(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (config.parent / notice.CREDENTIAL).write_text("http://127.0.0.1:1/s3cr3t/" + "x" * notice.URL_BYTES_MAX)
    assert notice.main(["--config", str(config), "x"]) == 12
    said = capfd.readouterr().err
    assert f"{notice.CREDENTIAL}: is longer than 4096 bytes" in said
    assert "s3cr3t" not in said


def test_who_cannot_be_reached_is_named_without_the_url(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with hook() as there:
        pass
    (config.parent / notice.CREDENTIAL).write_text(there.url)
    assert notice.main(["--config", str(config), "x"]) == 1
    said = capfd.readouterr().err
    assert "127.0.0.1 cannot be told" in said
    assert "s3cr3t" not in said


def test_a_command_gets_subject_and_text(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    letter, mailer = tmp_path / "letter", tmp_path / "mailer"
    mailer.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$1\" > {letter}\ncat >> {letter}\n")
    mailer.chmod(0o755)
    config.write_text(f'command = ["{mailer}", "{{subject}}"]')
    assert notice.main(["--config", str(config), "hybrid-engine.service"]) == 0
    subject, *text = letter.read_text().splitlines()
    assert subject == text[0]
    assert subject.startswith("hybrid-engine.service failed on ")
    config.write_text('command = ["sh", "-c", "echo no such user >&2; exit 67"]')
    assert notice.main(["--config", str(config), "x"]) == 1
    assert "command: sh ends with 67: no such user" in capfd.readouterr().err


def test_what_is_no_host_is_told_without_the_url(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (config.parent / notice.CREDENTIAL).write_text(f"http://{'a' * 80}.example/s3cr3t")
    assert notice.main(["--config", str(config), "x"]) == 1
    said = capfd.readouterr().err
    assert "cannot be told: that is no name of a host" in said
    assert "s3cr3t" not in said


@pytest.mark.slow
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n"])
def test_a_server_that_does_not_come_to_an_end_is_left(
    config: Path, capfd: pytest.CaptureFixture[str], answer: bytes
) -> None:
    """It says nothing, or a byte now and then, so that no read is ever late."""
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.sendall(answer)
            while not over.wait(0.05):
                if answer:
                    connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        (config.parent / notice.CREDENTIAL).write_text(f"http://127.0.0.1:{server.getsockname()[1]}/s3cr3t")
        config.write_text("webhook = true\ntimeout_secs = 0.4\n")
        begun = OsClock().monotonic()
        assert notice.main(["--config", str(config), "x"]) == 1
        took = OsClock().monotonic() - begun
        over.set()
        thread.join()
    said = capfd.readouterr().err
    assert "127.0.0.1 cannot be told: " in said
    assert "s3cr3t" not in said
    assert took < 8, f"it took {took:.1f} s"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ('["no-such-mailer"]', "no-such-mailer"),
        ('["sh", "-c", "exec sleep 60"]', "0.4 s"),
        ('["sh", "-c", "sleep 60 & exit 1"]', "0.4 s"),
        ('["sh", "-c", "kill -9 $$"]', "sh ends with -9"),
    ],
)  # fmt: skip
def test_a_command_that_fails_is_told_in_a_line(
    config: Path, capfd: pytest.CaptureFixture[str], command: str, says: str
) -> None:
    config.write_text(f"command = {command}\ntimeout_secs = 0.4\n")
    assert notice.main(["--config", str(config), "x"]) == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "command: " in line)
    assert says in line


def test_who_was_told_is_not_told_again_because_another_one_was_not(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook that is down for ten minutes does not make ten letters of one; the next failure makes one again."""
    letters = tmp_path / "letters"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    config.write_text(f'webhook = true\ncommand = ["sh", "-c", "echo x >> {letters}"]\n')
    with hook(503, 503) as there:
        (config.parent / notice.CREDENTIAL).write_text(there.url)
        assert [notice.main(["--config", str(config), "x"]) for _ in range(3)] == [1, 1, 0]
        assert (len(there.got), letters.read_text()) == (3, "x\n")
        monkeypatch.setenv("MONITOR_INVOCATION_ID", "b" * 32)
        assert notice.main(["--config", str(config), "x"]) == 0
        assert (len(there.got), letters.read_text()) == (4, "x\nx\n")


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["-.mount", "--config", "a%n%s@50%.service", "srv-my\\x20disk.mount", "{subject}"])
def test_units_of_any_name_are_told_of(config: Path, unit: str) -> None:
    with hook() as there:
        (config.parent / notice.CREDENTIAL).write_text(there.url)
        assert notice.main(["--config", str(config), "--", unit]) == 0
    ((_, told),) = there.got
    assert told["unit"] == unit
    assert told["subject"].startswith(f"{unit} failed on ")


def test_a_subject_is_one_line() -> None:
    told = failure.notice(failure.failure_of("x\nBcc: all@example.org\u202e", "box", ENVIRON), [])
    assert told.subject.startswith("x Bcc: all@example.org\\u202e failed on box")
