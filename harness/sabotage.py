"""The catalogue of sabotages: what each breaks, which proof must turn red, and for which reason (contract V4).

A sabotage breaks exactly one guarded behaviour of the real unit, by a drop-in: a directive, a flag, or an engine
module with one text replaced, mounted over the installed one. A proof that still passes under its sabotage
cannot fail, and is a defect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Patch:
    """One replacement in one module of the installed engine."""

    module: str
    """File name below engine/, such as `ledger.py`."""
    old: str
    """Text that occurs exactly once in the module."""
    new: str

    def apply(self, source: str) -> str:
        """The module's text with the replacement. ValueError when `old` does not occur exactly once."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.module}: {self.old!r} occurs {source.count(self.old)} times, expected once")
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Sabotage:
    """One entry of the catalogue."""

    id: str
    guardrail: str
    breaks: str
    """In words: the promise that no longer holds."""
    proof: str
    """Test module and function, `test_exit12::test_mended_unit_runs`."""
    reason: str
    """Regular expression that the refutation must match."""
    directives: str = ""
    """Lines for the [Service] section."""
    confirm: Mapping[str, str] = field(default_factory=dict)
    """Property -> value that `systemctl show` must tell while the sabotage is in effect, beside its drop-in."""
    patch: Patch | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    """Arguments of a parametrized proof."""


CATALOGUE: tuple[Sabotage, ...] = (
    Sabotage(
        id="restart-on-12",
        guardrail="exit12",
        breaks="a misconfigured engine is restarted for ever",
        proof="test_exit12::test_misconfigured_unit_stays_down_and_says_why",
        params={"case": "unknown-key"},
        directives="RestartPreventExitStatus=",
        confirm={"RestartPreventExitStatus": ""},
        reason=r"restarted \d+ times on exit status 12",
    ),
    Sabotage(
        id="never-restart",
        guardrail="exit12",
        breaks="a killed engine stays dead",
        proof="test_exit12::test_killed_engine_is_restarted",
        directives="Restart=no",
        confirm={"Restart": "no"},
        reason=r"was restarted 0 times",
    ),
    Sabotage(
        id="network-loss-is-final",
        guardrail="exit12",
        breaks="an engine that lost its network stays down",
        proof="test_exit12::test_lost_network_is_restarted",
        directives="RestartPreventExitStatus=10",
        confirm={"RestartPreventExitStatus": "10 12"},
        reason=r"was restarted 0 times",
    ),
    Sabotage(
        id="wrong-code-for-parse",
        guardrail="exit12",
        breaks="a changed protocol is reported as a lost network",
        proof="test_exit12::test_changed_protocol_is_restarted",
        patch=Patch("exits.py", "    PARSE = 11", "    PARSE = 10"),
        reason=r"expected exit status 11",
    ),
    Sabotage(
        id="config-error-is-a-crash",
        guardrail="exit12",
        breaks="a broken configuration ends in exit 1, which systemd restarts",
        proof="test_exit12::test_misconfigured_unit_stays_down_and_says_why",
        params={"case": "wrong-type"},
        patch=Patch("exits.py", "    CONFIG = 12", "    CONFIG = 1"),
        reason=r"expected exit status 12",
    ),
    Sabotage(
        id="no-sandbox",
        guardrail="E1",
        breaks="the unit runs as root with every capability",
        proof="test_unit_file::test_is_hardened",
        directives="DynamicUser=no\nUser=root\nNoNewPrivileges=no\nProtectSystem=no\nPrivateDevices=no\n"
        "RestrictNamespaces=no\nSystemCallFilter=\nCapabilityBoundingSet=~",
        confirm={"DynamicUser": "no"},
        reason=r"exposure [\d.]+, at most",
    ),
    Sabotage(
        id="no-watchdog",
        guardrail="stall",
        breaks="nothing ends an engine that hangs",
        proof="test_watchdog::test_paused_engine_is_restarted_by_the_watchdog",
        directives="WatchdogSec=0",
        reason=r"watchdog report of systemd has not come",
    ),
    Sabotage(
        id="stop-drops-what-is-pending",
        guardrail="S13",
        breaks="a stop loses the last batch",
        proof="test_stop::test_systemctl_stop_in_full_flow",
        directives="KillSignal=SIGKILL",
        confirm={"KillSignal": "9"},
        reason=r"'FINAL METRICS' has not come",
    ),
)


def find(sabotage_id: str) -> Sabotage:
    """The entry with this id. KeyError, with all ids, when there is none."""
    for entry in CATALOGUE:
        if entry.id == sabotage_id:
            return entry
    raise KeyError(f"no sabotage {sabotage_id!r}; one of {', '.join(entry.id for entry in CATALOGUE)}")
