"""`make release VERSION=1.2.3`: name what is under "Unreleased" in CHANGELOG.md, and all distributions with it."""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNRELEASED = "## Unreleased\n"

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_SAID = re.compile(r'^__version__ = "([^"]*)"$', re.MULTILINE)


class Refused(Exception):
    """There cannot be such a release. Says why."""


def changelog(text: str, version: str, date: str) -> str:
    """CHANGELOG.md in which what was unreleased has a version. Raises Refused when there is nothing."""
    before, heading, after = text.partition(UNRELEASED)
    if f"\n## {version} " in after:
        raise Refused(f"CHANGELOG.md has {version} already")
    entries = after.partition("\n## ")[0].strip()
    if not heading or not entries:
        raise Refused('CHANGELOG.md has nothing under "## Unreleased"')
    return f"{before}{UNRELEASED}\n## {version} ({date})\n{after}"


def module(text: str, version: str) -> str:
    """engine/__init__.py of this version. Raises Refused for one that is none, or not a later one."""
    said = _SAID.search(text)
    if said is None:
        raise Refused("engine/__init__.py does not say __version__")
    new, old = _VERSION.fullmatch(version), _VERSION.fullmatch(said[1])
    if new is None:
        raise Refused(f"VERSION={version}: must be three numbers, such as 1.2.3")
    if old is not None and [*map(int, new.groups())] < [*map(int, old.groups())]:
        raise Refused(f"VERSION={version}: is earlier than {said[1]}")
    return _SAID.sub(f'__version__ = "{version}"', text)


def plugin(text: str, version: str) -> str:
    """pyproject.toml of pytest-hybrid-proofs, which needs a hybrid-harness of the same major and minor version."""
    major, minor, _ = map(int, version.split("."))
    return re.sub(r'"hybrid-harness>=[^"]*"', f'"hybrid-harness>={major}.{minor},<{major}.{minor + 1}"', text)


def main(arguments: list[str]) -> int:
    """Change all files, or none. Exit status 1 when it is refused."""
    version = arguments[0] if arguments else ""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    log, engine = ROOT / "CHANGELOG.md", ROOT / "engine/__init__.py"
    proofs = ROOT / "distributions/pytest-hybrid-proofs/pyproject.toml"
    try:
        changed = {
            engine: module(engine.read_text("utf-8"), version),
            log: changelog(log.read_text("utf-8"), version, today),
            proofs: plugin(proofs.read_text("utf-8"), version),
        }
    except Refused as error:
        print(f"make release: {error}", file=sys.stderr)
        return 1
    for path, text in changed.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
