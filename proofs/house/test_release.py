"""A release: what its files say of the version (contract P1)."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOG = "# Changelog\n\n## Unreleased\n\n* New.\n\n## 0.1.0 (2026-01-02)\n\n* Old.\n"
MODULE = '"""Words."""\n\n__version__ = "0.1.9"\n\nX = 1\n'


def load() -> Any:
    spec = importlib.util.spec_from_file_location("release", ROOT / "distributions" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


release = load()


@pytest.mark.claim("P1")
def test_what_was_unreleased_has_a_version_and_a_date() -> None:
    text = release.changelog(LOG, "0.2.0", "2026-03-04")
    assert text == LOG.replace("Unreleased\n", "Unreleased\n\n## 0.2.0 (2026-03-04)\n")
    with pytest.raises(release.Refused, match="nothing under"):
        release.changelog(text, "0.3.0", "2026-03-05")


@pytest.mark.claim("P1")
@pytest.mark.parametrize(
    ("version", "refused"),
    [("0.2", "three numbers"), ("v1.0.0", "three numbers"), ("", "three numbers"), ("0.1.8", "earlier than 0.1.9")],
)
def test_a_version_that_cannot_be(version: str, refused: str) -> None:
    with pytest.raises(release.Refused, match=refused):
        release.module(MODULE, version)


@pytest.mark.claim("P1")
def test_a_version_is_released_once() -> None:
    with pytest.raises(release.Refused, match=r"has 0\.1\.0 already"):
        release.changelog(LOG, "0.1.0", "2026-03-04")


@pytest.mark.claim("P1")
@pytest.mark.parametrize("version", ["0.1.9", "0.1.10", "0.2.0", "1.0.0"])
def test_the_version_goes_where_all_three_have_it_from(version: str) -> None:
    assert release.module(MODULE, version) == MODULE.replace("0.1.9", version)
    text = (ROOT / "distributions/pytest-hybrid-proofs/pyproject.toml").read_text()
    (needed,) = re.findall(r'"(hybrid-harness[^"]*)"', release.plugin(text, version))
    assert version in Requirement(needed).specifier
    assert "0.0.9" not in Requirement(needed).specifier
    assert tomllib.loads(release.plugin(text, version)).keys() == tomllib.loads(text).keys()
