"""The trading pipeline: ingest -> strategy -> risk + execution -> SQLite. See docs/architecture.md."""

import errno
import sys

__version__ = "0.1.0"

_RAN_OUT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EIO, errno.EAGAIN, errno.EINTR})

_RAN_OUT_SAYS = (
    "Too many open files", "Cannot allocate memory", "failed to map segment", "No space left", "Input/output error",
)  # fmt: skip
"""The same from the loader of shared objects, which has but words."""


# It stands here because this is what cannot be missing when it is asked.
def is_damage(error: BaseException) -> bool:
    """Return whether a module of the engine, or one that it needs, is missing or is not what was installed."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _RAN_OUT):
        return False
    if isinstance(error, ImportError):
        return not any(words in str(error) for words in _RAN_OUT_SAYS)
    if isinstance(error, SyntaxError):
        return True
    if isinstance(error, AttributeError) and isinstance(error.obj, type(sys)):
        return error.obj.__name__.partition(".")[0] == "engine"
    if isinstance(error, ValueError) and "null bytes" in str(error):
        # Python before 3.12 for a source that is filled with them.
        return True
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        # Unreadable, bad bytecode, or a part that its other parts do not fit: found while it was imported.
        if code.co_filename.startswith("<frozen importlib") or (
            code.co_name == "<module>" and step.tb_frame.f_globals.get("__name__", "").startswith("engine.")
        ):
            return True
        step = step.tb_next
    return False
