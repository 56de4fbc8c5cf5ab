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


@pytest.mark.claim("V6")
def test_a_refutation_has_its_parts_for_whoever_shows_them_apart() -> None:
    parts = {"observed": "3 restarts", "state": "failed", "set_by": "Restart=always", "journal": ["a line"]}
    error = errors.Refuted("all of it", **parts)  # type: ignore[arg-type]
    assert (str(error), {name: getattr(error, name) for name in parts}) == ("all of it", parts)
    alone = errors.Refuted("all of it")
    assert (alone.observed, alone.state, alone.set_by, list(alone.journal)) == ("all of it", "", "", [])


def test_what_is_unavailable_is_known_apart_from_its_remedy() -> None:
    error = errors.Unavailable("no nspawn", "install it")
    assert (error.reason, error.remedy) == ("no nspawn", "install it")
