"""The canary: a proof that must be refuted. Not collected by name; `make canary` fails when this passes.

It asks of a unit without RestartPreventExitStatus= what only a unit with it can do. When the answer is "proven",
nothing else that the night proved can be believed.
"""

from __future__ import annotations

import pytest

from proofs.fixtures.engine_unit import EngineUnit
from proofs.guardrails.test_exit12 import misconfigure, prove_not_restarted
from proofs.sabotages import find


@pytest.mark.claim("E2")
def test_canary_must_be_refuted(engine: EngineUnit) -> None:
    misconfigure(engine, "unknown-key")
    with engine.sabotaged(find("restart-on-12")):
        prove_not_restarted(engine)
