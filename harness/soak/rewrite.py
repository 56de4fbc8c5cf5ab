"""The engine's config file, changed for the time of a soak and put back afterwards (contract K5).

    untouched --change--> changed, original kept beside it --restore--> untouched

The original is on disk, whole, before the first change is. Every write goes to a file beside the target, which is
synced and then renamed over it: at any moment the config is one of its versions, never a part of one. A controller
that was killed leaves the original beside the config; its successor restores it before anything else.

An operator may edit the config meanwhile. Such an edit survives: restoring then puts back only the keys that the
controller owns.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from harness.base import files
from harness.base.errors import HarnessError

TABLE = "engine"

OWNED = ("sample_every", "ingest_mode")
"""Keys of TABLE that a soak changes."""

Values = Mapping[str, int | str]


class ConfigTrouble(HarnessError):
    """The config file cannot be read, is not TOML, or cannot be written. Names the file."""


class ConfigFile:
    """One config file and, while it is changed, its original."""

    def __init__(self, path: Path) -> None:
        """A link is followed once, so that the file it points to is replaced and the link stays; one that others may
        have put there is not followed (harness/base/files.py)."""
        self.path = files.resolved(path)
        self.original = self.path.with_name(f"{self.path.name}.soak-original")

    def load(self) -> dict[str, Any]:
        """Return the values as they are now. Raises ConfigTrouble."""
        return _parse(self._read(self.path), self.path)

    def change(self, values: Values) -> None:
        """Set keys of `[engine]` (of OWNED only) and leave everything else, comments included, as it is.

        Raises ConfigTrouble; the config is then what it was.
        """
        assert set(values) <= set(OWNED), values
        text = self._read(self.path)
        changed = _with_values(text, values, self.path)
        if not self._is_changed():
            self._write(self.original, text)
        if changed != text:
            self._write(self.path, changed)

    def restore(self) -> bool:
        """Undo all changes, also those of a controller that was killed. Returns whether there were any.

        Raises ConfigTrouble when that cannot be done; the original then stays where it is.
        """
        if not self._is_changed():
            return False
        original, current = self._read(self.original), self._read(self.path)
        owned = {key: value for key, value in _engine(_parse(current, self.path)).items() if key in OWNED}
        if _with_values(original, owned, self.original) == current:
            restored = original
        else:
            before = {key: value for key, value in _engine(_parse(original, self.original)).items() if key in OWNED}
            restored = _with_values(current, before, self.path, drop=[key for key in OWNED if key not in before])
        try:
            with files.found(self.original) as place:
                if restored == original:
                    # Takes no room on a disk that is full.
                    place.rename(self.path.name)
                else:
                    self._write(self.path, restored)
                    place.unlink()
        except OSError as error:
            raise ConfigTrouble(f"{self.original}: cannot be put back: {error.strerror}") from error
        return True

    def _is_changed(self) -> bool:
        try:
            with files.found(self.original) as place:
                return place.status() is not None
        except OSError:
            # What keeps us from the original keeps us from the config as well, which says so.
            return False

    def _read(self, path: Path) -> str:
        try:
            with files.found(path) as place:
                return place.read().decode()
        except OSError as error:
            raise ConfigTrouble(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigTrouble(f"{path}: is not UTF-8") from error

    def _write(self, target: Path, text: str) -> None:
        """Replace `target` by a file with this text, and the config's mode and owner."""
        try:
            with files.found(self.path) as config:
                like = config.status()
            if like is None:
                raise ConfigTrouble(f"{self.path}: was removed")
            with files.found(target) as place:
                place.replace(text.encode(), stat.S_IMODE(like.st_mode), (like.st_uid, like.st_gid))
        except OSError as error:
            raise ConfigTrouble(f"{target}: cannot be written: {error.strerror}") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigTrouble(f"{path}: not valid TOML: {error}") from error


def _engine(table: Mapping[str, Any]) -> dict[str, Any]:
    engine = table.get(TABLE, {})
    return dict(engine) if isinstance(engine, Mapping) else {}


def _with_values(text: str, values: Values, path: Path, drop: list[str] | None = None) -> str:
    """`text` with these values of TABLE, and without the keys in `drop`."""
    before = _parse(text, path)
    if not isinstance(before.get(TABLE, {}), dict):
        raise ConfigTrouble(f"{path}: {TABLE} = {before[TABLE]!r}: must be a table")
    wanted = {key: value for key, value in _engine(before).items() if key not in (drop or [])} | dict(values)
    if wanted == _engine(before):
        return text
    try:
        document = tomlkit.parse(text)
        if TABLE not in document:
            document[TABLE] = tomlkit.table()
        for key, value in values.items():
            if _engine(before).get(key) != value:
                document[TABLE][key] = value
        for key in drop or []:
            if key in _engine(before):
                del document[TABLE][key]
        changed = tomlkit.dumps(document)
    except TOMLKitError as error:
        raise ConfigTrouble(f"{path}: cannot be rewritten: {error}") from error
    # Whatever the library makes of an unusual layout: the file must say what was meant, and nothing else.
    if _parse(changed, path) != {**before, TABLE: wanted}:
        raise ConfigTrouble(f"{path}: cannot be rewritten without changing more than {', '.join(values)}")
    return changed
