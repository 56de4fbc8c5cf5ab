"""Figures that the contract promises are those of the code: a proof that imports a bound would move with it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from harness.evidence.verdict import ClauseId
from harness.proving import contract
from proofs.fixtures import misconfigured, section_2

ROOT = Path(__file__).resolve().parents[2]

PROMISED: list[tuple[str, str, object, str, str]] = [
    ("engine.trading.execution", "PAPER_TICKS_MAX", 100, "R4", "after 100 ticks of its symbol"),
    ("engine.trading.execution", "PAPER_REST_MS", 60 * 60 * 1000, "R4", "an hour"),
    ("engine.trading.execution", "PAPER_ORDERS_MAX", 4096, "R4", "when 4096 newer orders rest"),
    ("engine.trading.strategy", "CONFIDENCE", 0.75, "R1", "confidence 0.75"),
    ("engine.trading.strategy", "SYMBOLS_MAX", 4096, "B5", "averages of 4096 symbols"),
    ("engine.trading.strategy", "PRICES_MAX", 131_072, "B5", "131072 prices in all"),
    ("engine.trading.risk", "HOLDINGS_MAX", 16_384, "B5", "in 16384 symbols"),
    ("engine.ingest.venues.wire", "SYMBOLS_MAX", 4096, "B5", "one run takes 4096 symbols"),
    ("engine.ingest.venues.wire", "MAX_TEXT_CHARS", 128, "B5", "has 128 bytes at most"),
    ("engine.ingest.venues.port", "MAX_MESSAGE_BYTES", 4 * 2**20, "N8", "over the size limit (4 MiB"),
    ("engine.ingest.refusal", "HEAD_BYTES_MAX", 16 * 2**10, "B4", "the head may have 16 KiB"),
    ("engine.ingest.transport", "SEND_BUFFER_BYTES", 64 * 2**10, "B4", "64 KiB may wait for it"),
    ("engine.ingest.intake", "BREAK_FROM", 10_000, "N11", "jump by more than 10 000"),
    ("engine.ingest.intake", "JUMP_MAX", 1_000_000, "N11", "more than 1 000 000 ids"),
    ("engine.storage.opening", "BUSY_TIMEOUT_MS_MIN", 1000, "D1", "busy_timeout >= 1000 ms"),
    ("engine.storage.ledger", "WAL_ALARM_BYTES", 64 * 2**20, "D9", "when it is 64 MiB"),
    ("engine.command", "_DESCRIPTORS_MIN", 24, "C7", "descriptors (24 are needed"),
    ("engine.base.logs", "QUEUE_BYTES_MAX", 2**20, "M6", "waits, 1 MiB at most"),
    ("engine.base.logs", "LINGER_SECS", 0.5, "M6", "waits 0.5 s for a reader"),
    ("engine.ingest.recent_ids", "RECENT_IDS_MAX", 65_536, "B5", "65,536 for each of four markets"),
    ("engine.ingest.venues.bybit", "_ARGS_CHARS_MAX", 21_000, "N18", "21,000 characters of a connection"),
    ("fleet.relay.files", "HEARTBEATS_SECS", 86_400.0, "F1", "the last day's heartbeats"),
    ("engine.record", "_FLUSH_SECS", 1.0, "N20", "all but the last second is there"),
    ("harness.dashboard.web", "REQUEST_SECS", 5.0, "W3", "A request has 5 s to come"),
    ("harness.dashboard.web", "ANSWER_SECS", 60.0, "W3", "an answer 60 s to be taken"),
    ("harness.dashboard.web", "CONNECTIONS_MAX", 256, "W3", "at most 256 connections are kept"),
]
"""Module, constant, value, clause, its words."""


@pytest.mark.claim("G5")
@pytest.mark.parametrize(("module", "name", "value", "clause", "words"), PROMISED, ids=lambda one: str(one)[:40])
def test_a_promised_figure_is_the_codes(module: str, name: str, value: object, clause: str, words: str) -> None:
    texts = contract.clauses((ROOT / "docs" / "contract.md").read_text())
    assert words in " ".join(texts[ClauseId(clause)].split()), f"{clause} no longer says {words!r}"
    assert getattr(importlib.import_module(module), name) == value, f"{module}.{name} is not what {clause} promises"


def test_the_table_of_wrong_values_has_each_key_of_the_contract() -> None:
    """And no other, so that a key that is added is asked for too."""
    named = section_2.said_of_keys().keys()
    assert len(named) > 40
    assert misconfigured.KEYS.keys() == misconfigured.defaults().keys() == named | {"mode", "live_armed"}
