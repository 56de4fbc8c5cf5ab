"""A refuted claim and a fault of the harness can never be taken for each other (contract V3)."""

from __future__ import annotations

import inspect

import pytest

from harness.base import errors


@pytest.mark.claim("V3")
def test_only_refuted_is_an_assertion() -> None:
    for _, error in inspect.getmembers(errors, lambda one: inspect.isclass(one) and issubclass(one, BaseException)):
        assert issubclass(error, AssertionError) == (error is errors.Refuted)
        assert issubclass(error, errors.HarnessError) == (error is not errors.Refuted)


def test_unavailable_says_what_to_do() -> None:
    error = errors.Unavailable("nspawn is not installed", "apt-get install systemd-container")
    assert str(error) == "nspawn is not installed (apt-get install systemd-container)"
