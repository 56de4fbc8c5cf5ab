"""The sole reader of the harness's options: pytest's command line and the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

VARIANTS = ("auto", "private", "host", "user")


@dataclass(frozen=True)
class ProofOptions:
    """What a run was asked for."""

    systemd: str
    """Which systemd to prove against: one of VARIANTS."""
    checkout: Path
    """Root of the project under proof."""
    engine_cmd: str | None = None
    """The command that the unit runs instead of the installed one, `{config}` standing for the configuration's
    path; None for the installed one. What it names inside the checkout is copied to where the unit can read it."""

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
    if engine_cmd is not None and not engine_cmd.startswith(("/", "{checkout}/")):
        said = f"--proofs-engine-cmd={engine_cmd!r}"
        raise ValueError(f"{said}: must begin with an absolute path, as systemd's ExecStart= does")
    if clauses is not None and engine_cmd is None:
        raise ValueError("--proofs-clauses says what another engine claims to keep: it needs --proofs-engine-cmd")
    claimed = None if clauses is None else frozenset(clauses.replace(",", " ").split())
    if engine_cmd is not None:
        engine_cmd = engine_cmd.replace("{checkout}", str(checkout))
    return ProofOptions(systemd=chosen, checkout=checkout, engine_cmd=engine_cmd, clauses=claimed)
