"""Several engines on one computer, each an instance of the template units, by its name (contract O9).

`hybrid-engine@alpha.service` has its configuration in /etc/hybrid-engine/alpha and its state in
/var/lib/hybrid-engine-alpha; soak, dashboard and healthcheck of that name are about that engine and no other. An engine
without a name is `hybrid-engine.service`, as ever. What a template differs in is written by systemd/installation.py.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMELESS = "default"
"""What the engine without a name is called where names are listed; so no instance can have this name."""

_EVERY = {"0.0.0.0", "::"}
"""Hosts that mean every address of the computer."""

_HOSTS = {"localhost": "127.0.0.1"}
"""Names that mean an address."""

CONFIGURATION = Path("/etc/hybrid-engine")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
"""What systemd.unit(5) takes as the name of an instance without escaping it, a file system as that of a file, and NATS
as a part of a subject."""


@dataclass(frozen=True)
class Instance:
    """Where one engine and what belongs to it are."""

    name: str = ""
    """Empty for the engine without a name."""

    @property
    def unit(self) -> str:
        return f"hybrid-engine@{self.name}.service" if self.name else "hybrid-engine.service"

    @property
    def config(self) -> Path:
        return CONFIGURATION / self.name / "config.toml"

    @property
    def state(self) -> Path:
        """Where it works: relative paths of its configuration start from there."""
        return Path(f"/var/lib/hybrid-engine{self._suffix}")

    @property
    def decision_log(self) -> Path:
        """What its soaks decided."""
        return Path(f"/var/lib/hybrid-soak{self._suffix}/data/ops/soak_decisions.jsonl")

    @property
    def evidence(self) -> Path:
        """What `hybrid-publish` publishes for its dashboard."""
        return Path(f"/var/lib/hybrid-evidence{self._suffix}")

    @property
    def shown(self) -> str:
        """Its name for people."""
        return self.name or NAMELESS

    @property
    def _suffix(self) -> str:
        return f"-{self.name}" if self.name else ""


def named(text: str) -> Instance:
    """Return the instance of a name; NAMELESS is the engine without one. Raises ValueError for what cannot be a
    name."""
    if text == NAMELESS:
        return Instance()
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} cannot be an instance: 1 to 32 of A-Z a-z 0-9 _ -, the first a letter or a digit")
    return Instance(text)


def at(config: Path) -> Instance:
    """Return the instance whose configuration lies there; the nameless one for every other place."""
    place = Path(os.path.abspath(config)).parent
    return Instance(place.name if place.parent == CONFIGURATION and _NAME.fullmatch(place.name) else "")


def name_of(config: Path, tables: Mapping[str, Any]) -> str:
    """Return what an engine is called, by where its configuration is and what that says; NAMELESS for none.

    A configuration that says another name than its place is one that the engine refuses; the place counts then.
    """
    if name := at(config).name:
        return name
    app = tables.get("app")
    said = app.get("instance") if isinstance(app, Mapping) else None
    return said if isinstance(said, str) and _NAME.fullmatch(said) else NAMELESS


def configured(directory: Path = CONFIGURATION) -> list[Instance]:
    """Return the instances that have a configuration, the nameless one first. Raises OSError for the directory."""
    found = [Instance()] if (directory / "config.toml").exists() else []
    names = sorted(path.parent.name for path in directory.glob("*/config.toml") if _NAME.fullmatch(path.parent.name))
    return [*found, *map(Instance, names)]


def conflicts(configurations: Mapping[str, Mapping[str, Any]], place: Callable[[str, Path], Path]) -> list[str]:
    """Return what two engines of one computer cannot both have: a name, a database, a dashboard's address.

    A database is the same behind a link; an address that is every one of the computer's is the same as each.
    configurations: the effective configuration of each, by the name to show. place: where a relative path of one leads.
    """
    found = []
    taken: dict[tuple[str, str], str] = {}
    listening: list[tuple[str, str, object]] = []
    for name, config in configurations.items():
        host, port = (
            _HOSTS.get(str(config["dashboard"]["host"]), str(config["dashboard"]["host"])),
            config["dashboard"]["port"],
        )
        database = os.path.realpath(place(name, Path(str(config["app"]["db_path"]))))
        for what, value in (("[app] instance", config["app"]["instance"]), ("[app] db_path", database)):
            if not value:
                continue
            other = taken.setdefault((what, value), name)
            if other != name:
                found.append(f"{other} and {name} have the same {what}: {value}")
        for other, its, at in listening:
            if at == port and (its == host or _EVERY & {its, host}):
                found.append(f"{other} and {name} have the same [dashboard] host and port: {host}:{port}")
                break
        listening.append((name, host, port))
    return found


def add_argument(parser: argparse.ArgumentParser, **places: Callable[[Instance], object]) -> None:
    """An option --instance NAME that sets other options, which may follow it.

    places: option's destination -> what it is for an instance.
    """

    class Chosen(argparse.Action):
        def __call__(
            self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: object, option: object = None
        ) -> None:
            try:
                instance = named(str(value))
            except ValueError as error:
                raise argparse.ArgumentError(self, str(error)) from error
            for destination, place in places.items():
                setattr(namespace, destination, place(instance))

    flags = [f"--{destination.replace('_', '-')} {place(Instance('NAME'))}" for destination, place in places.items()]
    parser.add_argument(
        "--instance", action=Chosen, dest=argparse.SUPPRESS, metavar="NAME",
        help=f"the engine of this name; short for {_listed(flags)}",
    )  # fmt: skip


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
