"""Why the engine stops, as exceptions and as exit codes.

    EngineError
    ├── Crash          1   unhandled error, or a storage failure that a restart may heal
    ├── NetworkLost   10   no source connected for `network_give_up_secs`
    ├── ProtocolChanged 11 `parse_error_limit` consecutive unusable messages
    ├── ConfigError   12   nothing a restart can heal
    └── Overload      13   a bounded channel stayed full longer than `overload_grace_ms`

systemd restarts the unit on every code but 0 and 12 (docs/contract.md, section 3).
"""

from __future__ import annotations

from enum import IntEnum

from engine import is_damage


class ExitCode(IntEnum):
    """The process exit status of the engine (contract section 3)."""

    COMPLETE = 0
    CRASH = 1
    NETWORK = 10
    PARSE = 11
    CONFIG = 12
    OVERLOAD = 13


class EngineError(Exception):
    """Ends the run. `code` becomes the exit status; `details` become fields of the one ERROR log line."""

    code: ExitCode = ExitCode.CRASH

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details


class Crash(EngineError):
    """A failure that a restart may heal, such as a disk that is full at start."""

    code = ExitCode.CRASH


class NetworkLost(EngineError):
    """No source could be kept connected for `network_give_up_secs`."""

    code = ExitCode.NETWORK


class ProtocolChanged(EngineError):
    """`parse_error_limit` unusable messages in a row: the venue speaks a protocol we do not know."""

    code = ExitCode.PARSE


class ConfigError(EngineError):
    """Configuration, sources, LIVE gate or database file: a human has to mend it; a restart cannot."""

    code = ExitCode.CONFIG


class Overload(EngineError):
    """A bounded channel stayed full longer than `overload_grace_ms`."""

    code = ExitCode.OVERLOAD


def explain(error: Exception, message: str, **details: object) -> EngineError:
    """Return what ends the engine when `error` was not expected: a crash that `message` names, or a damaged
    installation, which nothing but a new one heals (C7)."""
    failure: EngineError
    if is_damage(error):
        reason = str(error) or type(error).__name__
        failure = ConfigError(f"installation is damaged: {reason}", error=repr(error), **details)
    else:
        failure = Crash(message, **details)
    failure.__cause__ = error
    return failure
