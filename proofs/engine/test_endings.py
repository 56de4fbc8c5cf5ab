"""How a run ends when more than one thing is wrong, and what its last line says (contract section 3, D7, N14).

The pipeline runs in this process.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import pipeline
from engine.base.exits import ConfigError, Crash
from engine.config import settings
from engine.storage.opening import open_ledger
from proofs.fixtures.engine_process import write_config

pytestmark = pytest.mark.slow


def run(directory: Path, error: Exception | None, **engine: object) -> int:
    """One run, whose database shows only when it is closed that something is wrong; returns the exit status."""
    loaded = settings.load(str(write_config(directory, {"engine": engine})), {})
    store = open_ledger(directory / "bot.db", busy_timeout_ms=1000)
    close = store.close

    def close_badly() -> None:
        close()
        if error is not None:
            raise error

    store.close = close_badly  # type: ignore[method-assign]
    return pipeline.run(loaded, settings.Environment("INFO", "picows", None, None), store)


LOST = ConfigError("bot.db: the database is not there any more")
CLEAN: dict[str, object] = {"run_seconds": 0.1}
DARK: dict[str, object] = {"ingest_mode": "MOCK_WS", "ws_url": "ws://127.0.0.1:1", "network_give_up_secs": 0.1}


@pytest.mark.claim("D7", "E2", "E3")
@pytest.mark.parametrize(
    ("options", "error", "status"),
    [(CLEAN, None, 0), (CLEAN, LOST, 12), (CLEAN, Crash("disk"), 1), (DARK, None, 10), (DARK, LOST, 12)],
    ids=["clean", "clean, lost", "clean, disk", "dark", "dark, lost"],
)
def test_what_no_restart_heals_is_the_exit_status_whatever_ended_the_run(
    tmp_path: Path, options: dict[str, object], error: Exception | None, status: int
) -> None:
    """An engine that lost the network, and then its database, must not be restarted for ever."""
    assert run(tmp_path, error, **options) == status
