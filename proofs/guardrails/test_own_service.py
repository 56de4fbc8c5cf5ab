"""A service that is nobody's engine keeps the ready-made promises, and each of them can fail (contract V13)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from pytest_hybrid_proofs import unit_under_proof

from harness.base.errors import MachineError, Refuted, Unavailable
from harness.evidence.shell import CommandResult
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


@pytest.mark.slow
@pytest.mark.claim("V13")
@pytest.mark.parametrize("promise", PROMISES, ids=str)
def test_a_service_keeps_a_promise_and_is_refuted_without_it(greeter: ServiceUnit, promise: Promise) -> None:
    promise.prove_it_can_fail(greeter)


class Sabotageable:
    """As much of a unit as a promise that looks at nothing needs."""

    deadline_secs = 10.0
    broken = False
    lines = ""
    runs = False

    def fresh(self) -> None:
        self.runs = False

    @contextmanager
    def drop_in(self, _name: str, directives: str) -> Iterator[None]:
        self.broken = True
        self.lines = directives
        yield


def keeps(unit: Any) -> None:
    if unit.broken:
        raise Refuted("it is broken")


def cannot_be_asked(unit: Any) -> None:
    unit.runs = True
    raise Unavailable("there is no network", "a network")


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
        (always_fails, "broken", Refuted, "it is broken"),
    ],
)
def test_a_promise_that_cannot_fail_is_told(prove: Any, reason: str, raised: type[Exception], told: str) -> None:
    with pytest.raises(raised, match=told):
        Promise("p", prove, "Restart=no", reason).prove_it_can_fail(cast(ServiceUnit, Sabotageable()))
    unit = Sabotageable()
    Promise("p", keeps, "Restart=no", "is broken").prove_it_can_fail(cast(ServiceUnit, unit))
    assert unit.deadline_secs == Sabotageable.deadline_secs, "a sabotage's short deadline stays"


@pytest.mark.claim("V13", "V4")
def test_each_way_in_which_a_promise_can_be_broken_has_to_be_noticed() -> None:
    unit = Sabotageable()

    def notices_one(unit: Any) -> None:
        if unit.lines == "Restart=no":
            raise Refuted("it is broken")

    promise = Promise("p", notices_one, "Restart=no", "is broken", (("TimeoutStopSec=1", "is late"),))
    with pytest.raises(AssertionError, match=r"not refuted under 'TimeoutStopSec=1', so it proves nothing"):
        promise.prove_it_can_fail(cast(ServiceUnit, unit))


@pytest.mark.claim("V13")
def test_a_promise_that_cannot_be_asked_about_leaves_nothing_running() -> None:
    unit = Sabotageable()
    with pytest.raises(Unavailable, match="there is no network"):
        Promise("p", cannot_be_asked, "Restart=no", "broken").prove_it_can_fail(cast(ServiceUnit, unit))
    assert not unit.runs


@pytest.mark.claim("V13", "V4")
def test_what_is_left_open_on_purpose_is_open_to_nobody_otherwise() -> None:
    for allowed, left_open in (
        ((), "RuntimeDirectory"),
        (("/run",), "StateDirectory"),
        (("/run/a",), "RuntimeDirectory"),
    ):
        assert service.writes_only_below(*allowed).sabotage == f"{left_open}=proof-left-open"


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


class Bare:
    """A machine in which there is no unit, and no package."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind = kind
        self.root = root

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def systemctl(self, *_: str) -> CommandResult:
        return CommandResult(("systemctl",), 1, "", "No files found", 0.0)

    def run(self, *argv: str, timeout_secs: float = 60.0) -> CommandResult:
        failed = "apt-get" in argv
        return CommandResult(argv, 100 if failed else 0, "", "E: Unable to locate package a" if failed else "", 0.0)


@pytest.mark.claim("V13")
def test_a_unit_that_cannot_be_had_is_unavailable_and_says_what_to_do(greeter: ServiceUnit, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no-such\.service is not installed"):
        service.put(greeter.machine, "no-such.service", None, None, tmp_path)
    with pytest.raises(ValueError, match="text and path"):
        unit_under_proof("a.service", text="", path="a.service")

    with pytest.raises(Unavailable, match="--proofs-systemd=private"):
        service.put(cast(Machine, Bare("host", tmp_path)), "a.service", "", None, tmp_path)
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "one.deb").write_text("")
    with pytest.raises(Unavailable, match="the package a cannot be had: E: Unable to locate package a") as error:
        service.put(cast(Machine, Bare("private", tmp_path)), "a.service", None, "a", tmp_path)
    assert error.value.remedy == "apt-get install a"
    assert (tmp_path / service.ARCHIVES.lstrip("/") / "one.deb").exists(), "what was fetched is not used"


@pytest.mark.claim("V13", "V4")
def test_judges_of_a_service_say_no(greeter: ServiceUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """To one that does not serve, or is not there to be looked at; and what cannot be asked is not taken for a no."""
    down, never = (ServiceUnit(greeter.machine, greeter._stream, greeter.name, serves) for serves in ((), ("false",)))
    down.deadline_secs = never.deadline_secs = 0.2
    with pytest.raises(Refuted, match=r"greeter\.service does not serve: it is inactive"):
        down.wait_serving()
    greeter.start_serving()
    with pytest.raises(Refuted, match=r"does not serve: waited 0\.2 s for `false`"):
        never.wait_serving()
    monkeypatch.setattr(service, "privileges", lambda _: ["--reuid=nobody-of-that-name"])
    with pytest.raises(MachineError, match=r"cannot look at what greeter\.service may write to: setpriv:"):
        service.writes_only_below("/var/lib/greeter").prove(greeter)
    greeter.fresh()
