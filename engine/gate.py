"""The LIVE gate: everything that LIVE needs beside `mode = "LIVE"` (contract R6, guardrails G0 and G1).

It fails closed: this version verifies no proof bundle, so no bundle opens it and LIVE always exits 12.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from engine.exits import ConfigError
from engine.settings import Loaded

ADAPTER_GROUP = "hybrid_engine.execution"


def check(loaded: Loaded) -> None:
    """Raises ConfigError naming exactly what is missing for LIVE; returns at once for SHADOW and PAPER."""
    settings = loaded.settings
    if settings.mode != "LIVE":
        return
    missing = []
    if not settings.live_armed:
        missing.append("live_armed is not true")
    bundle = Path(settings.gate.proof_bundle)
    if bundle.is_file():
        missing.append(f"proof bundle {bundle} does not count: this version cannot verify one")
    else:
        missing.append(f"proof bundle {bundle} is missing")
    if not importlib.metadata.entry_points(group=ADAPTER_GROUP):
        missing.append(f"no execution adapter is installed (entry point group {ADAPTER_GROUP})")
    where = f"{loaded.config_path}: " if loaded.config_path else ""
    raise ConfigError(
        f'{where}mode = "LIVE" is refused: {"; ".join(missing)}', key="mode", value="LIVE", missing=missing
    )
