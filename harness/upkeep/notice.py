"""`hybrid-notice UNIT`: tells somebody that a unit has failed, by a webhook or a command (contract O11).

`hybrid-notice@.service` runs it once for a unit that names it as OnFailure=, when there is
/etc/hybrid-engine/notice.toml. What is secret is not in that file: the webhook's URL comes as a systemd credential, and
is never shown. One call, one attempt: systemd makes it again when it failed, and who was told is not told twice.
"""

from __future__ import annotations

import argparse
import os
import platform
import queue
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from harness.base import arguments, journal, jsontext, terminal
from harness.base.errors import HarnessError
from harness.base.journal import Entry
from harness.evidence.recorder import Unrecorded
from harness.evidence.shell import Shell
from harness.observing import health
from harness.soak.exit_actions import EngineExitCode
from harness.upkeep import failure
from harness.upkeep.failure import Failure, FailureNotice, Wanted

CONFIG = Path("/etc/hybrid-engine/notice.toml")
CREDENTIAL = "hybrid-notice-url"
URL_BYTES_MAX = 4096

DESCRIPTION = "Tells somebody that a unit has failed. Started by systemd, as OnFailure= of the unit."
EPILOG = """\
Exit status: 0 told, 1 could not be told (systemd tries again), 12 settings that cannot be used.

/etc/hybrid-engine/notice.toml says how, and without it nobody is told:
  webhook = true                                       POST, as JSON, to the URL in /etc/credstore/hybrid-notice-url
  command = ["mail", "-s", "{subject}", "ops@example.org"]     gets the text on stdin
  timeout_secs = 10

examples:
  systemctl start hybrid-notice@trial.service          tell on trial
  hybrid-notice --config notice.toml trial
"""


class NoticeConfigError(HarnessError):
    """Settings that no second attempt heals."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would be followed as a GET, without what is to be told."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def read_wanted(path: Path) -> Wanted:
    """Return the settings. Raises NoticeConfigError, which names file, key and what is allowed."""
    try:
        return failure.wanted_of(health.load_tables(path))
    except HarnessError as error:
        raise NoticeConfigError(str(error)) from error
    except ValueError as error:
        raise NoticeConfigError(f"{path}: {error}") from error


def read_url(directory: str | None) -> str:
    """Return the webhook's URL. directory: of systemd's credentials. Raises NoticeConfigError, which never shows it."""
    if directory is None:
        raise NoticeConfigError(f"webhook = true, and no credentials: put the URL into /etc/credstore/{CREDENTIAL}")
    path = Path(directory, CREDENTIAL)
    try:
        raw = path.read_bytes()
        if len(raw) > URL_BYTES_MAX:
            raise NoticeConfigError(f"credential {CREDENTIAL}: is longer than {URL_BYTES_MAX} bytes")
        text = raw.decode("ascii").strip()
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        # A port that is none is a ValueError as well.
        usable = usable and text.isprintable() and " " not in text and parts.port != 0
    except OSError as error:
        raise NoticeConfigError(f"credential {CREDENTIAL}: {error.strerror}") from error
    except ValueError:
        usable = False
    if not usable:
        raise NoticeConfigError(
            f"credential {CREDENTIAL}: must be one URL with http:// or https://, without a user in it"
        )
    return text


def post(url: str, told: FailureNotice, timeout_secs: float) -> None:
    """Send a notice. Raises HarnessError, which names the host and what it answered, and no more of the URL.

    timeout_secs: for all of it. A resolver that is silent and a server that sends its answer byte by byte know of no
    other limit, so it is sent by a thread that ends with the process.
    """
    host = urlsplit(url).hostname
    answered: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: answered.put(_sent(url, told, timeout_secs)), daemon=True).start()
    try:
        trouble = answered.get(timeout=timeout_secs)
    except queue.Empty:
        trouble = f"cannot be told: no answer within {timeout_secs:g} s"
    if trouble:
        raise HarnessError(f"{host} {trouble}")


def _sent(url: str, told: FailureNotice, timeout_secs: float) -> str:
    """Return what was in the way, without the URL; empty when it was taken."""
    body = jsontext.write(told.payload).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", "User-Agent": "hybrid-notice"})
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_secs) as answer:
            answer.read(URL_BYTES_MAX)
    except urllib.error.HTTPError as error:
        with error:
            return f"answers HTTP {error.code}"
    except urllib.error.URLError as error:
        return f"cannot be told: {error.reason}"
    except UnicodeError:
        return "cannot be told: that is no name of a host"
    except (OSError, HTTPException, ValueError) as error:
        # Its words may hold the address.
        return f"cannot be told: {type(error).__name__}"
    return ""


def read_entries(shell: Shell, one: Failure) -> list[Entry]:
    """Return the journal's last entries of the run that failed. None where it cannot be read: the notice goes out all
    the same."""
    of_unit = ["--unit", one.unit]
    of_run = [f"_SYSTEMD_INVOCATION_ID={one.invocation_id}", "+", f"INVOCATION_ID={one.invocation_id}"]
    argv = ["--all", "--output=json", "--no-pager", "--quiet", "-n", str(failure.LINES)]
    try:
        found = shell.run("journalctl", *argv, *(of_run if one.invocation_id else of_unit), timeout_secs=5.0)
    except HarnessError:
        return []
    raws = journal.entries(found.stdout)
    parsed = (journal.parse(raw, int(raw.get("__REALTIME_TIMESTAMP", "0"))) for raw in raws)
    return [entry for entry in parsed if entry is not None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The notice's options."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("unit", metavar="UNIT", help="the unit that failed")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="PATH", help="default: %(default)s")


def run(options: argparse.Namespace) -> int:
    """Tell, by every way that is wanted; returns the exit status."""
    shell = Shell(Unrecorded())
    try:
        wanted = read_wanted(options.config)
        url = read_url(os.environ.get("CREDENTIALS_DIRECTORY")) if wanted.webhook else ""
    except NoticeConfigError as error:
        _say(str(error))
        return EngineExitCode.CONFIG
    one = failure.failure_of(options.unit, platform.node() or socket.gethostname(), os.environ)
    told = failure.notice(one, read_entries(shell, one))
    ways: dict[str, Callable[[], None]] = {}
    if wanted.webhook:
        ways["webhook"] = lambda: post(url, told, wanted.timeout_secs)
    if wanted.command:
        ways["command"] = lambda: _hand_over(shell, wanted, told)
    failed = False
    for how, tell in ways.items():
        if _already(how, one):
            continue
        try:
            tell()
            _remember(how, one)
            _say(f"{how}: told: {told.subject}")
        except HarnessError as error:
            failed = True
            _say(f"{how}: {error}")
    return int(failed)


def _already(how: str, one: Failure) -> bool:
    """Whether an earlier attempt has told of this failure that way: of two ways, the one that works is not taken again
    because the other one does not."""
    try:
        return bool(one.invocation_id) and (_memory() / how).read_text() == one.invocation_id
    except OSError:
        return False


def _remember(how: str, one: Failure) -> None:
    with suppress(OSError):
        (_memory() / how).write_text(one.invocation_id)


def _memory() -> Path:
    """Return the directory that systemd keeps for the attempts of one notice."""
    return Path(os.environ.get("RUNTIME_DIRECTORY") or os.devnull)


def _hand_over(shell: Shell, wanted: Wanted, told: FailureNotice) -> None:
    argv = failure.words_of(wanted.command, told.subject)
    result = shell.run(*argv, timeout_secs=wanted.timeout_secs, stdin=told.text + "\n")
    if result.status != 0:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise HarnessError(f"{argv[0]} ends with {result.status}{f': {said[-1]}' if said else ''}")


def _say(text: str) -> None:
    print(f"hybrid-notice: {text}", file=sys.stderr, flush=True)


@terminal.command
def main(argv: Sequence[str] | None = None) -> int:
    """`hybrid-notice`."""
    parser = arguments.CommandParser(prog="hybrid-notice")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
