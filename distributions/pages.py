"""What the documents' site has beside docs/ (`make docs`, a hook of mkdocs): README.md as its first page, the decisions
in the navigation, and a reference that is made of the docstrings, one page a room."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine", "harness")


def on_config(config: Any) -> Any:
    """Put into the navigation what is not written there."""
    decisions = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
    for section in config.nav:
        for entry in section.get("How it is built", []) if isinstance(section, dict) else []:
            if isinstance(entry, dict) and "Decisions" in entry:
                entry["Decisions"] = [f"decisions/{name}" for name in decisions]
    config.nav.append({"Reference": [{room: f"reference/{room}.md"} for room in rooms()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that no file in docs/ is."""
    files.append(File.generated(config, "index.md", content=first_page((ROOT / "README.md").read_text("utf-8"))))
    for room, modules in rooms().items():
        files.append(File.generated(config, f"reference/{room}.md", content=page(room, modules)))
    return files


def rooms() -> dict[str, list[str]]:
    """Return room -> its modules, by their dotted names."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if path.stem not in ("__init__", "__main__"):
                found[module.rpartition(".")[0]].append(module)
    return dict(found)


def page(room: str, modules: list[str]) -> str:
    """Return the reference of a room, in mkdocstrings' notation."""
    return "\n\n".join([f"# {room}", *(f"::: {module}" for module in modules)]) + "\n"


def first_page(readme: str) -> str:
    """README.md, with its links as they are from within docs/."""
    return re.sub(r"(\]\()docs/", r"\1", readme)
