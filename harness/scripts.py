"""The console scripts of hybrid-harness. Where something that one needs is not installed, it says what to install."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

HOME = "pytest-hybrid-proofs"
"""The distribution of whatever is not in hybrid-harness."""

EXTRAS = {"nats": "fleet", "psycopg": "fleet", "pyarrow": "parquet"}
"""Package -> the extra of hybrid-harness that brings it: what few need."""


def _script(name: str, module: str) -> Callable[[], int]:
    def script() -> int:
        try:
            main: Callable[[], int] = importlib.import_module(module).main
        except ModuleNotFoundError as error:
            print(f"{name}: {missing(error)}", file=sys.stderr)
            return 2
        return main()

    script.__doc__ = f"Run {name}; exit status 2 when something that it needs is not installed."
    return script


def missing(error: ModuleNotFoundError) -> str:
    """Return what is not installed, and what to install, in a line."""
    package = (error.name or "").partition(".")[0]
    ours = package == "harness"
    lacks = error.name if ours else package
    home = HOME if ours else f"'hybrid-harness[{EXTRAS[package]}]'" if package in EXTRAS else "hybrid-harness"
    return f"{lacks} is not installed here: python -m pip install {home}"


backup = _script("hybrid-backup", "harness.upkeep.backup")
collector = _script("hybrid-collector", "fleet.collector.command")
ctl = _script("hybrid-ctl", "harness.upkeep.ctl")
dashboard = _script("hybrid-dashboard", "harness.dashboard.command")
diagnose = _script("hybrid-diagnose", "harness.diagnosis.diagnose")
healthcheck = _script("hybrid-healthcheck", "harness.observing.health")
notice = _script("hybrid-notice", "harness.upkeep.notice")
publish = _script("hybrid-publish", "harness.upkeep.publish")
relay = _script("hybrid-relay", "fleet.relay.command")
soak = _script("hybrid-soak", "harness.soak.controller")
