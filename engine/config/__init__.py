"""What an operator may say: names, types, ranges, defaults, and where they are read."""

import sys
from types import ModuleType

# Of each installed package pydantic would ask whether it brings a plugin, which could then read and change what is
# configured. Nobody asked for one, and to load importlib.metadata and look takes a tenth of a start.
_loader = ModuleType("pydantic.plugin._loader")
vars(_loader)["get_plugins"] = tuple
sys.modules[_loader.__name__] = _loader
