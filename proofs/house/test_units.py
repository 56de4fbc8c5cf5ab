"""Every directive of every shipped unit has the value that is demanded here, in the file as it ships (contract O8).

Proofs under the unit shorten times by a drop-in, which shadows what is shipped; a sandbox is summed up by
`systemd-analyze security`, where one directive hides behind the others. So what nobody would miss is missed here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.base.exits import ExitCode
from engine.config.schema import Engine
from mutants.operators import mutants

UNITS = Path(__file__).resolve().parents[2] / "systemd"

BIN = "/opt/hybrid-engine/bin"

Directives = dict[str, tuple[str, ...]]
"""`Section.Name` -> its values, one for each time that it stands there."""


def service(**values: str | tuple[str, ...]) -> Directives:
    return {f"Service.{name}": (value,) if isinstance(value, str) else value for name, value in values.items()}


CAGE = service(
    # No core of a process that holds prices, positions and keys.
    LimitCORE="0",
    DevicePolicy="closed", LockPersonality="yes", MemoryDenyWriteExecute="yes", NoNewPrivileges="yes",
    PrivateDevices="yes", PrivateTmp="yes", ProtectClock="yes", ProtectControlGroups="yes", ProtectHome="yes",
    ProtectHostname="yes", ProtectKernelLogs="yes", ProtectKernelModules="yes", ProtectKernelTunables="yes",
    ProtectSystem="strict", RestrictNamespaces="yes", RestrictRealtime="yes", RestrictSUIDSGID="yes",
    SystemCallArchitectures="native", SystemCallErrorNumber="EPERM",
    SystemCallFilter=("@system-service", "~@privileged @resources"),
)  # fmt: skip
"""What no service of ours may do."""

INTERNET = service(RestrictAddressFamilies="AF_INET AF_INET6 AF_UNIX")

UNPRIVILEGED = service(CapabilityBoundingSet="", PrivateUsers="yes")

PYTHON = service(Environment="PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1")
"""Lines reach the journal as they are said; nothing is written where they are installed."""

RESTARTS = service(
    Type="notify", NotifyAccess="main", Restart="on-failure", RestartPreventExitStatus=str(int(ExitCode.CONFIG)),
    WatchdogSec="30",
)  # fmt: skip

FLEET: Directives = {
    "Unit.After": ("network.target",),
    "Unit.StartLimitIntervalSec": ("0",),
    "Unit.OnFailure": ("hybrid-notice@%n.service",),
    **CAGE, **INTERNET, **UNPRIVILEGED, **RESTARTS, **PYTHON,
    **service(
        RestartSec="5", TimeoutStartSec="60", TimeoutStopSec="10", UMask="0077", AmbientCapabilities="",
        PrivateMounts="yes", ProcSubset="pid", ProtectProc="invisible", RemoveIPC="yes",
    ),
    "Install.WantedBy": ("multi-user.target",),
}  # fmt: skip
"""Relay and collector: they wait for others as long as that takes."""

DEMANDED: dict[str, Directives] = {
    "hybrid-engine.service": {
        "Unit.After": ("network.target",),
        # A long outage must not end in a dead unit.
        "Unit.StartLimitIntervalSec": ("0",),
        "Unit.OnFailure": ("hybrid-notice@%n.service",),
        **CAGE, **INTERNET, **UNPRIVILEGED, **RESTARTS,
        **service(
            ExecStart=f"{BIN}/python -I {BIN}/hybrid-engine --config /etc/hybrid-engine/config.toml",
            SyslogIdentifier="hybrid-engine", RestartSec="2", TimeoutStartSec="60", TimeoutStopSec="20",
            KillMode="mixed", MemoryMax="512M", MemorySwapMax="0", OOMPolicy="stop", User="hybrid-engine",
            StateDirectory="hybrid-engine", StateDirectoryMode="0750", WorkingDirectory="%S/hybrid-engine",
            ConfigurationDirectory="hybrid-engine", UMask="0027", AmbientCapabilities="", ProcSubset="pid",
            ProtectProc="invisible", RemoveIPC="yes",
        ),
        "Install.WantedBy": ("multi-user.target",),
    },
    "hybrid-dashboard.service": {
        "Unit.After": ("network.target",),
        "Unit.OnFailure": ("hybrid-notice@%n.service",),
        **CAGE, **INTERNET, **UNPRIVILEGED, **RESTARTS,
        **service(
            ExecStart=f"{BIN}/hybrid-dashboard --decision-log /var/lib/hybrid-soak/data/ops/soak_decisions.jsonl "
            "--reports /var/lib/hybrid-evidence --state-dir /var/lib/hybrid-dashboard",
            StateDirectory="hybrid-dashboard", StateDirectoryMode="0700",
            Environment="PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MALLOC_ARENA_MAX=2",
            RestartSec="5", TimeoutStopSec="10", Nice="5", User="hybrid-dashboard", Group="hybrid-dashboard",
            SupplementaryGroups="hybrid-engine systemd-journal", UMask="0077", LimitNOFILE="2048",
            AmbientCapabilities="", PrivateMounts="yes", RemoveIPC="yes",
            SystemCallFilter=("@system-service", "~@privileged @resources open_by_handle_at ptrace"),
        ),
        "Install.WantedBy": ("multi-user.target",),
    },
    "hybrid-relay.service": {
        **FLEET,
        **service(
            WatchdogSec="300", TimeoutStartSec="300", CPUSchedulingPolicy="idle", CPUWeight="idle",
            ExecStart=f"{BIN}/hybrid-relay --config /etc/hybrid-engine/relay.toml",
            MemoryMax="256M", User="hybrid-relay", Group="hybrid-relay",
            SupplementaryGroups="hybrid-engine systemd-journal",
        ),
    },
    "hybrid-collector.service": {
        **FLEET,
        **service(
            WatchdogSec="120", ExecStart=f"{BIN}/hybrid-collector --config /etc/hybrid-engine/collector.toml",
            LoadCredential="postgres-password:/etc/hybrid-engine/postgres-password",
            MemoryMax="512M", User="hybrid-collector", Group="hybrid-collector",
        ),
    },
    "hybrid-soak.service": {
        "Unit.After": ("network-online.target",),
        "Unit.OnFailure": ("hybrid-notice@%n.service",),
        **CAGE, **PYTHON,
        **service(
            Type="exec", ExecStart=f"{BIN}/hybrid-soak --seconds 7200 --mode realws",
            ExecStopPost=f"{BIN}/hybrid-soak --put-back", SuccessExitStatus="3", Restart="no", Group="hybrid-engine",
            StateDirectory="hybrid-soak", StateDirectoryMode="0750", WorkingDirectory="%S/hybrid-soak", UMask="0027",
            TimeoutStopSec="60", KillMode="mixed",
            # Root, so the cage is narrower elsewhere: no network at all, and two capabilities.
            CapabilityBoundingSet="CAP_CHOWN CAP_DAC_OVERRIDE", IPAddressDeny="any", RestrictAddressFamilies="AF_UNIX",
            ReadWritePaths="/etc/hybrid-engine -/var/lib/hybrid-engine",
            SystemCallFilter=("@system-service", "~@privileged @resources", "@chown"),
        ),
    },
    "hybrid-soak.timer": {
        "Timer.OnCalendar": ("*-*-* 02:00:00",),
        "Timer.RandomizedDelaySec": ("10min",),
        "Timer.Persistent": ("false",),
        "Install.WantedBy": ("timers.target",),
    },
    "hybrid-notice@.service": {
        "Unit.ConditionPathExists": ("/etc/hybrid-engine/notice.toml",),
        "Unit.StartLimitIntervalSec": ("2100",),
        "Unit.StartLimitBurst": ("10",),
        **CAGE, **INTERNET, **UNPRIVILEGED, **PYTHON,
        **service(
            Type="oneshot", ExecStart=f"{BIN}/hybrid-notice -- %i", Restart="on-failure", RestartSec="60",
            RuntimeDirectory="hybrid-notice/%i", RuntimeDirectoryPreserve="restart",
            RestartPreventExitStatus="12", TimeoutStartSec="150", LoadCredential="hybrid-notice-url",
            DynamicUser="yes", SupplementaryGroups="systemd-journal", UMask="0077", AmbientCapabilities="",
            ProcSubset="pid", ProtectProc="invisible", RemoveIPC="yes",
        ),
    },
    "hybrid-health-snapshot.service": {
        "Unit.After": ("hybrid-engine.service hybrid-dashboard.service",),
        **CAGE, **INTERNET, **UNPRIVILEGED, **PYTHON,
        **service(
            Type="oneshot", ExecStart=f"{BIN}/hybrid-healthcheck", TimeoutStartSec="30", User="hybrid-engine",
            SupplementaryGroups="systemd-journal", UMask="0027", ReadWritePaths="-/var/lib/hybrid-engine",
            ProtectProc="invisible",
        ),
    },
    "hybrid-health-snapshot.timer": {
        "Timer.OnBootSec": ("2min",),
        "Timer.OnUnitActiveSec": ("5min",),
        "Timer.AccuracySec": ("10s",),
        "Install.WantedBy": ("timers.target",),
    },
}  # fmt: skip

PROSE = {"Unit.Description", "Unit.Documentation"}


def directives(text: str) -> Directives:
    """What a unit file says, but for what it says to a reader (systemd.syntax(7))."""
    found: Directives = {}
    section = ""
    lines = [line for line in text.splitlines() if not line.startswith(("#", ";"))]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.strip():
            name, _, value = line.partition("=")
            key = f"{section}.{name.strip()}"
            found[key] = (*found.get(key, ()), " ".join(value.split()))
    return {key: values for key, values in found.items() if key not in PROSE}


def test_no_unit_is_left_out() -> None:
    assert {path.name for path in UNITS.glob("hybrid-*")} == set(DEMANDED)


@pytest.mark.claim("O8")
@pytest.mark.parametrize("name", DEMANDED)
def test_each_directive_is_demanded(name: str) -> None:
    shipped = directives((UNITS / name).read_text())
    assert shipped == DEMANDED[name], f"{name}: what ships differs from what is demanded here, with the reason"


@pytest.mark.claim("O8")
def test_the_engine_stops_by_itself_before_systemd_loses_patience() -> None:
    """As they ship, together: its longest stop lies well inside the unit's, and a soak's stop has room for one."""
    longest = Engine().shutdown_timeout_secs
    engine, soak = (
        float(directives((UNITS / name).read_text())["Service.TimeoutStopSec"][0])
        for name in ("hybrid-engine.service", "hybrid-soak.service")
    )
    assert 2 * longest <= engine
    assert 2 * engine <= soak


@pytest.mark.claim("O11")
def test_a_notice_that_fails_at_once_is_tried_again_for_ten_minutes() -> None:
    """systemd counts its own restarts too: attempts that take no time must not use up the starts before the time."""
    notice = directives((UNITS / "hybrid-notice@.service").read_text())
    pause, longest, starts, within = (
        int(notice[name][0])
        for name in (
            "Service.RestartSec", "Service.TimeoutStartSec", "Unit.StartLimitBurst", "Unit.StartLimitIntervalSec",
        )
    )  # fmt: skip
    assert pause * starts >= 600
    # Attempts that take their time come to an end as well.
    assert (pause + longest) * starts <= within


@pytest.mark.claim("O8")
@pytest.mark.parametrize("name", DEMANDED)
def test_no_mutant_of_a_unit_is_as_demanded(name: str) -> None:
    """Each directive taken out, and each with another value: none goes unseen."""
    found = mutants(f"systemd/{name}", (UNITS / name).read_text())
    assert len(found) == 2 * sum(len(values) for values in DEMANDED[name].values())
    assert [one.id for one in found if directives(one.text) == DEMANDED[name]] == []
