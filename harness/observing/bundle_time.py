"""When a proof bundle was made, for whoever watches how long it still opens LIVE. What else it says, and who signed it,
is judged by the engine's gate (docs/live.md)."""

from __future__ import annotations

import base64
from datetime import datetime
from pathlib import Path

from harness.base import jsontext, trusted

BYTES_MAX = 16 * 1024 * 1024


def read(path: Path) -> float:
    """Return when the proofs of a bundle ended, in seconds since the Unix epoch.

    Raises ValueError for what is no bundle, OSError and HarnessError for what cannot be read.
    """
    return made_at(trusted.read_named(path, BYTES_MAX))


def made_at(envelope: bytes) -> float:
    """The same of a bundle's bytes. Raises ValueError."""
    try:
        payload = base64.b64decode(jsontext.parse(envelope)["payload"], validate=True)
        return datetime.fromisoformat(jsontext.parse(payload)["predicate"]["time"]).timestamp()
    except (LookupError, TypeError, OverflowError) as error:
        raise ValueError(f"no proof bundle: {error!r}") from error
