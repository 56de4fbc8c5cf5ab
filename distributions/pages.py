"""What the documents' site has beside docs/ (`make docs`, a hook of mkdocs): README.md as its first page, the decisions
in the navigation, and a reference that is made of the docstrings, one page a room."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine", "harness", "fleet")


def on_config(config: Any) -> Any:
    """Put into the navigation what is not written there."""
    decisions = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
    for section in config.nav:
        for entry in section.get("How it is built", []) if isinstance(section, dict) else []:
            if isinstance(entry, dict) and "Decisions" in entry:
                entry["Decisions"] = [f"decisions/{name}" for name in decisions]
    config.nav.append({"Reference": [{room: f"reference/{room}.md"} for room in rooms()]})
    return config


_CODE = re.compile(r"(^```.*?^```$|\[[^]]*\]\([^)]*\))", re.MULTILINE | re.DOTALL)
"""Blocks of code, and what is a link already."""
_DOCUMENT = re.compile(r"`?\bdocs/((?:decisions/)?[\w-]+\.md)\b`?")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Make a link of each document that a text names."""
    up = "../" * page.file.src_uri.count("/")

    def linked(match: re.Match[str]) -> str:
        return f"[{match[0]}]({up}{match[1]})" if files.get_file_from_path(match[1]) else match[0]

    parts = _CODE.split(markdown)
    return "".join(part if number % 2 else _DOCUMENT.sub(linked, part) for number, part in enumerate(parts))


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that no file in docs/ is."""
    files.append(File.generated(config, "index.md", content=first_page((ROOT / "README.md").read_text("utf-8"))))
    for room, modules in rooms().items():
        files.append(File.generated(config, f"reference/{room}.md", content=page(room, modules)))
    return files


def on_post_build(config: Any) -> None:
    """Follow each link of the site that leads within it. Raises PluginError where one leads nowhere."""
    site = Path(config.site_dir)
    missing = sorted(
        f"{page.relative_to(site)}: {address}"
        for page in site.rglob("*.html")
        if page.name != "404.html"
        for address in re.findall(r'(?:href|src)="([^"#?:]+)[^":]*"', page.read_text("utf-8"))
        if not _leads_somewhere(page.parent / unquote(address))
    )
    if missing:
        raise PluginError("links lead nowhere:\n" + "\n".join(missing))


def _leads_somewhere(path: Path) -> bool:
    return (path / "index.html").exists() if path.is_dir() else path.exists()


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
    """README.md, with its links as they are from within docs/, and one to the reference, which only the site has."""
    linked = re.sub(r"(\]\()docs/", r"\1", readme)
    decisions = "[decisions](decisions/0001-transport.md)"
    assert decisions in linked
    return linked.replace(decisions, f"{decisions} | [reference](reference/engine.md)", 1)
