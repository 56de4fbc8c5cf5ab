"""What an operator may say: names, types, ranges, defaults, and where they are read."""

import sys
from types import ModuleType

# Of each installed package pydantic would ask whether it brings a plugin, which could then read and change what is
# configured. Nobody asked for one, and to load importlib.metadata and look takes a tenth of a start.
_loader = ModuleType("pydantic.plugin._loader")
vars(_loader)["get_plugins"] = tuple


def _from_the_real_one(name: str) -> object:
    """Whatever a later pydantic wants of that module beside `get_plugins` (PEP 562)."""
    if name.startswith("__"):
        raise AttributeError(name)
    import importlib

    sys.modules.pop(_loader.__name__, None)
    return getattr(importlib.import_module(_loader.__name__), name)


vars(_loader)["__getattr__"] = _from_the_real_one
sys.modules[_loader.__name__] = _loader
