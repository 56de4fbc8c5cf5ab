"""The sole reader of the harness's options: pytest's command line and the environment."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.base import unit
from harness.base.arguments import nearest
from harness.base.progress import shortened

VARIANTS = ("auto", "private", "host", "user")


def why_nothing_can_be_judged(flags: object) -> str:
    """Why no proof can run in an interpreter with these flags (sys.flags); empty where they can."""
    if getattr(flags, "optimize", 0):
        return "PYTHONOPTIMIZE (python -O) leaves out every assert: nothing could be refuted"
    if getattr(flags, "dev_mode", False):
        return (
            "PYTHONDEVMODE (python -X dev) ends the process as the journal is read: cysystemd does not bear its checks"
        )
    return ""


@dataclass(frozen=True)
class ProofOptions:
    """What a run was asked for."""

    systemd: str
    """Which systemd to prove against: one of VARIANTS."""
    checkout: Path
    """Root of the project under proof."""
    engine_cmd: str | None = None
    """The command that the unit runs instead of the installed one, as a shell would take its words, `{config}` standing
    for the configuration's path; None for the installed one. What it names inside the checkout is copied to where the
    unit can read it."""

    clauses: frozenset[str] | None = None
    """What that engine claims to keep; None: everything."""

    @property
    def reports(self) -> Path:
        """Where everything generated goes."""
        return self.checkout / "reports"


def load(
    checkout: Path, systemd: str | None = None, engine_cmd: str | None = None, clauses: str | None = None
) -> ProofOptions:
    """ProofOptions from an explicit option, else from PROOFS_SYSTEMD, else `auto`.

    Raises ValueError for a variant that does not exist; the message names where it came from.
    """
    source = "--proofs-systemd" if systemd is not None else "PROOFS_SYSTEMD"
    chosen = systemd if systemd is not None else os.environ.get("PROOFS_SYSTEMD", "auto")
    if chosen not in VARIANTS:
        raise ValueError(f"{source}={chosen!r}: must be one of {', '.join(VARIANTS)}")
    if clauses is not None and engine_cmd is None:
        raise ValueError("--proofs-clauses says what another engine claims to keep: it needs --proofs-engine-cmd")
    claimed = None if clauses is None else frozenset(clauses.replace(",", " ").split())
    if claimed is not None and not claimed:
        raise ValueError(f"--proofs-clauses={clauses!r}: names no clause")
    return ProofOptions(
        systemd=chosen,
        checkout=checkout,
        engine_cmd=None if engine_cmd is None else _command(engine_cmd, checkout),
        clauses=claimed,
    )


PLACEHOLDERS = ("config", "checkout")

# Of a shell's variables, `${...}`, it is not to say.
_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w*)\}")

_PLAIN = re.compile(r"[\w@%+=:,./{}-]+", re.ASCII)

_IN_A_NAME = re.compile(r"[\w./-]")

_SHOWN_CHARS = 60


def _command(text: str, checkout: Path) -> str:
    """Return the command with the checkout in its place, each word quoted where a shell would need it.

    Raises ValueError that says what of it cannot be.
    """
    said = f"--proofs-engine-cmd={text!r}"
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{said}: {error}") from error
    program = words[0] if words else ""
    if not program.startswith(("/", "{checkout}/")):
        raise ValueError(f"{said}: must begin with an absolute path, as systemd's ExecStart= does")
    if set(program) & set(unit.UNRUNNABLE):
        raise ValueError(f"{said}: systemd runs no program with a quote or a backslash in its path")
    for word in words:
        for name in _PLACEHOLDER.findall(word):
            if name not in PLACEHOLDERS:
                known = " and ".join(f"{{{one}}}" for one in PLACEHOLDERS)
                raise ValueError(f"{said}: {{{name}}} is no placeholder, {known} are{nearest(name, PLACEHOLDERS)}")
        for rest in word.split("{checkout}")[1:]:
            if not _file(checkout, rest):
                raise ValueError(
                    f"{said}: {{checkout}}{shortened(rest, _SHOWN_CHARS)} is no file of the checkout; what the unit is "
                    "to read is named, file by file"
                )
    return " ".join(
        word if _PLAIN.fullmatch(word) else shlex.quote(word)
        for word in (word.replace("{checkout}", str(checkout)) for word in words)
    )


def files_named(command: str, checkout: Path) -> dict[Path, Path | None]:
    """Return the files that a command line names: the program, a script that an interpreter runs, and what of the
    checkout stands anywhere in a word -> its path in the checkout, or None outside of it."""
    found: dict[Path, Path | None] = {}
    for word in shlex.split(command):
        if os.path.isfile(word) and word.startswith("/") and not word.startswith(f"{checkout}/"):
            found[Path(word)] = None
        for rest in word.split(str(checkout))[1:]:
            if name := _file(checkout, rest):
                found[Path(f"{checkout}{name}")] = Path(os.path.relpath(f"{checkout}{name}", checkout))
    return found


def _file(checkout: Path, text: str) -> str:
    """Return the longest beginning of a text, a slash first, that is a file's path below the checkout; else nothing."""
    return next((name for name in _beginnings(text) if os.path.isfile(f"{checkout}{name}")), "")


def _beginnings(text: str) -> Iterator[str]:
    # A word may be a shell's whole script; what is longer than any path is not looked up.
    for end in range(min(len(text), os.pathconf("/", "PC_PATH_MAX")), 1, -1):
        name, behind = text[:end], text[end : end + 1]
        inside = name.startswith("/") and not os.path.normpath(name[1:]).startswith("..")
        if inside and not (behind and _IN_A_NAME.match(behind)):
            yield name
