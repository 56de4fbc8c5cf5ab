"""harness/observing/bundle_time.py: when a bundle's proofs ended, and nothing else (contract O13)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.observing import bundle_time
from proofs.fixtures.true_bundle import Signer, made

NOON = 1_795_780_800.0


def envelope(payload: Any) -> bytes:
    return json.dumps({"payload": base64.b64encode(json.dumps(payload).encode()).decode()}).encode()


@pytest.mark.claim("O13")
def test_a_bundle_is_as_old_as_its_proofs(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    path.write_bytes(Signer().seal(made({}, [], {}, NOON)))
    assert bundle_time.read(path) == NOON


@pytest.mark.parametrize(
    "payload", [{}, [], 5, {"predicate": []}, {"predicate": {"time": 5}}, {"predicate": {"time": "x"}}]
)
def test_what_is_no_bundle_has_no_time(payload: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        bundle_time.made_at(envelope(payload))


@given(st.binary(max_size=100))
def test_no_bytes_are_more_than_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        bundle_time.made_at(data)
