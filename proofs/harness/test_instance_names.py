"""Names of instances, what belongs to them, and the templates that they are made from (contract O9, O10)."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.observing import instances
from harness.observing.instances import Instance
from proofs.harness.test_installation import installation
from proofs.house.test_units import DEMANDED, UNITS, directives

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True).filter(lambda name: name != "default")


@pytest.mark.claim("O9")
@given(NAMES)
def test_what_belongs_to_an_instance_belongs_to_no_other(name: str) -> None:
    one, nameless = instances.named(name), Instance()
    assert nameless == instances.named(instances.NAMELESS)
    assert instances.name_of(one.config, {}) == instances.name_of(nameless.config, {"app": {"instance": name}}) == name
    assert instances.name_of(nameless.config, {}) == instances.NAMELESS
    for place in ("unit", "config", "decision_log", "evidence", "shown"):
        assert getattr(one, place) != getattr(nameless, place)


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "..", ".", "-a", "a@b", "%i", "ä", "a" * 33, "a\n", "/etc", "a\\x2db", "$HOME", "a.b"]
)
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be an instance"):
        instances.named(name)
    assert instances.name_of(Path("config/config.toml"), {"app": {"instance": name}}) == instances.NAMELESS


def test_only_directories_that_can_be_instances_are_listed(tmp_path: Path) -> None:
    for name in ("beta", "alpha", "a b", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").touch()
    (tmp_path / "empty").mkdir()
    assert instances.configured(tmp_path) == [Instance("alpha"), Instance("beta")]
    (tmp_path / "config.toml").touch()
    assert instances.configured(tmp_path)[0] == Instance()


def configuration(db: str, port: int, host: str = "127.0.0.1", instance: str = "") -> dict[str, Any]:
    return {"app": {"db_path": db, "instance": instance}, "dashboard": {"host": host, "port": port}}


@pytest.mark.claim("O10")
def test_what_two_engines_cannot_both_have() -> None:
    def place(name: str, path: Path) -> Path:
        return Path("/var/lib", name) / path

    same = {"a": configuration("x.db", 1), "b": configuration("x.db", 2), "c": configuration("/var/lib/a/x.db", 1)}
    assert instances.conflicts(same, place) == [
        "a and c have the same [app] db_path: /var/lib/a/x.db",
        "a and c have the same [dashboard] host and port: 127.0.0.1:1",
    ]
    assert instances.conflicts({"a": configuration("x", 1), "b": configuration("x", 1, "::1")}, place) == []
    for one, other in (("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::", "::1"), ("localhost", "127.0.0.1")):
        both = {"a": configuration("x", 1, one), "b": configuration("y", 1, other), "c": configuration("z", 2, one)}
        (told,) = instances.conflicts(both, place)
        assert told.startswith("a and b have the same [dashboard] host and port: ")
    named = {"default": configuration("x", 1, instance="a"), "a": configuration("x", 2, instance="a")}
    assert instances.conflicts(named, place) == ["default and a have the same [app] instance: a"]


@pytest.mark.claim("O10")
def test_a_database_is_the_same_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    both = {"a": configuration("real/x.db", 1), "b": configuration("link/../link/x.db", 2)}
    assert instances.conflicts(both, lambda _, path: tmp_path / path) == [
        f"a and b have the same [app] db_path: {tmp_path}/real/x.db"
    ]


def test_the_option_stands_for_others_which_may_follow_it() -> None:
    parser = argparse.ArgumentParser()
    instances.add_argument(parser, unit=lambda one: one.unit, config=lambda one: one.config)
    parser.add_argument("--unit", default="u")
    parser.add_argument("--config", type=Path)
    assert parser.parse_args([]).unit == "u"
    found = parser.parse_args(["--instance", "alpha", "--config", "c"])
    assert (found.unit, found.config) == ("hybrid-engine@alpha.service", Path("c"))
    assert parser.parse_args(["--instance", "default"]).config == Path("/etc/hybrid-engine/config.toml")
    assert not hasattr(found, "instance")


SHARED = {"Service.User", "Service.Group", "Service.SupplementaryGroups", "Install.WantedBy"}
"""Directives in which a name of ours stands that all instances share."""


@pytest.mark.claim("O9")
@pytest.mark.parametrize("name", [name for name in DEMANDED if "@" not in name and name != installation.OF_A_FLEET])
def test_a_template_differs_in_names_only(name: str) -> None:
    """Whatever is the engine's own is the instance's own; all else is as the unit without a name has it."""
    shipped, made = DEMANDED[name], directives(installation.template((UNITS / name).read_text()))
    assert made.keys() == shipped.keys()
    for key, values in shipped.items():
        if key in SHARED or values == made[key]:
            owned = re.search(
                r"/(etc|var/lib)/hybrid|%S/hybrid|hybrid-[a-z-]+\.service|bin/hybrid-(?!engine)|'hybrid-[a-z]+'",
                str(values),
            )
            assert key in SHARED or not owned, f"{key} of every instance is {values}"
            continue
        plain = [re.sub(r" --instance %i|(?<=service)@%i|@%i|/%i(?=/|$| )|-%i", "", value) for value in made[key]]
        assert tuple(plain) == values, key
    assert "%i" in installation.template((UNITS / name).read_text())
