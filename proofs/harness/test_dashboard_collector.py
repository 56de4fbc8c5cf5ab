"""What the dashboard's collector keeps of a file, and when it looks again (W4)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.base.errors import HarnessError
from harness.dashboard.collector import _File
from harness.dashboard.view_model import Trouble


@pytest.mark.claim("W4")
def test_a_file_that_may_be_read_again_is_read_again(tmp_path: Path) -> None:
    """`chmod` changes neither its length nor when it was written."""
    path, denied = tmp_path / "config.toml", [True]
    path.write_text("x")

    def read(path: Path) -> str:
        if denied:
            raise HarnessError(f"{path}: Permission denied")
        return path.read_text()

    file = _File(path, read, os.stat)
    path.chmod(0o600)
    assert isinstance(file.value(), Trouble)
    denied.clear()
    assert isinstance(file.value(), Trouble)
    path.chmod(0o644)
    assert file.value() == "x"
