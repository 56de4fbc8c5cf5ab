"""A service that is nobody's engine keeps the ready-made promises, and each of them can fail (contract V13)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from pytest_hybrid_proofs import unit_under_proof

from harness.base.errors import HarnessError, Refuted, Unavailable
from harness.machines.machine import Machine
from harness.proving import service
from harness.proving.service import Promise, ServiceUnit

GREETER = """
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'while touch greeted; do systemd-notify --ready WATCHDOG=1; sleep 0.1; done'
Restart=on-failure
RestartPreventExitStatus=12
RestartSec=20ms
WatchdogSec=700ms
TimeoutStopSec=5
User=nobody
StateDirectory=greeter
WorkingDirectory=/var/lib/greeter
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateNetwork=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictNamespaces=yes
SystemCallFilter=@system-service
"""

PROMISES = [
    service.restarts_on(1),
    service.stays_down_on(12),
    service.survives_sigkill(),
    service.watchdog_bites(within_secs=3.0),
    service.stops_within(2.0),
    service.exposure_at_most(5.0),
    service.writes_only_below("/var/lib/greeter", "/tmp", "/var/tmp"),
    service.no_network(),
]

greeter = unit_under_proof("greeter.service", text=GREETER, serves=["test", "-e", "/var/lib/greeter/greeted"])


@pytest.mark.claim("V13")
@pytest.mark.parametrize("promise", PROMISES, ids=str)
def test_a_service_keeps_a_promise_and_is_refuted_without_it(greeter: ServiceUnit, promise: Promise) -> None:
    promise.prove_it_can_fail(greeter)


class Sabotageable:
    """As much of a unit as a promise that looks at nothing needs."""

    deadline_secs = 10.0
    broken = False

    @contextmanager
    def drop_in(self, _name: str, _directives: str) -> Iterator[None]:
        self.broken = True
        yield


def keeps(unit: Any) -> None:
    if unit.broken:
        raise Refuted("it is broken")


def never_fails(_unit: Any) -> None:
    pass


def always_fails(_unit: Any) -> None:
    raise Refuted("it is broken")


@pytest.mark.claim("V13", "V4")
@pytest.mark.parametrize(
    ("prove", "reason", "raised", "told"),
    [
        (never_fails, "broken", AssertionError, "proves nothing"),
        (keeps, "another", AssertionError, "refuted, but not by /another/"),
        (always_fails, "broken", HarnessError, "refuted without any sabotage"),
    ],
)
def test_a_promise_that_cannot_fail_is_told(prove: Any, reason: str, raised: type[Exception], told: str) -> None:
    with pytest.raises(raised, match=told):
        Promise("p", prove, "Restart=no", reason).prove_it_can_fail(cast(ServiceUnit, Sabotageable()))
    unit = Sabotageable()
    Promise("p", keeps, "Restart=no", "is broken").prove_it_can_fail(cast(ServiceUnit, unit))
    assert unit.deadline_secs == Sabotageable.deadline_secs, "a sabotage's short deadline stays"


@pytest.mark.claim("V13")
def test_where_a_process_may_write_is_read_from_its_mounts() -> None:
    mountinfo = (
        "28 1 0:25 / / ro,relatime shared:1 - ext4 /dev/vda rw\n"
        "29 28 0:26 / /var/lib/a\\040b rw,nosuid - tmpfs tmpfs rw,size=1k\n"
        "30 28 0:27 / /cdrom rw - iso9660 /dev/sr0 ro\n"
    )
    assert service.writable_mounts(mountinfo) == ["/var/lib/a b"]


@pytest.mark.claim("V13")
def test_what_a_process_may_do_is_read_from_its_status() -> None:
    status = "Name:\tx\nUid:\t1\t2\t2\t2\nGid:\t3\t4\t4\t4\nGroups:\t5 6 \nCapEff:\t0000000000000402\n"
    held = "-all,+cap_1,+cap_10"
    assert service.privileges(status) == [
        "--reuid=2", "--regid=4", "--groups=5,6", f"--inh-caps={held}", f"--ambient-caps={held}",
        f"--bounding-set={held}",
    ]  # fmt: skip
    assert "--clear-groups" in service.privileges(status.replace("5 6 ", ""))


@pytest.mark.claim("V13")
def test_a_unit_that_cannot_be_had_is_unavailable_and_says_what_to_do(greeter: ServiceUnit, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no-such\.service is not installed"):
        service.put(greeter.machine, "no-such.service", None, None, tmp_path)
    with pytest.raises(ValueError, match="text and path"):
        unit_under_proof("a.service", text="", path="a.service")

    class Host:
        kind = "host"

    with pytest.raises(Unavailable, match="--proofs-systemd=private"):
        service.put(cast(Machine, Host()), "a.service", "", None, tmp_path)
