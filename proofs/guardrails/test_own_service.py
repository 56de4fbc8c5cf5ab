"""A service that is nobody's engine keeps the ready-made promises, and each of them can fail (contract V13)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from pytest_hybrid_proofs import unit_under_proof

from harness.base.errors import HarnessError, MachineError, Refuted, Unavailable
from harness.base.journal import Entry
from harness.evidence.shell import CommandResult, Shell
from harness.machines.machine import Machine, PrivateMachine
from harness.proving import service
from harness.proving.plugin import Run
from harness.proving.service import Promise, ServiceUnit
from proofs.fixtures.bytecode import QUICK, environ

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
        ((), "RuntimeDirectory=proof-left-open"),
        (("/run",), "StateDirectory=proof-left-open"),
        (("/run/a",), "RuntimeDirectory=proof-left-open"),
        (("/run", "/var"), "TemporaryFileSystem=/proof-left-open:mode=1777"),
    ):
        assert service.writes_only_below(*allowed).sabotage == left_open


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
    status = "Name:\tx\nUid:\t1\t2\t2\t2\nGid:\t3\t4\t4\t4\nGroups:\t5 6 \nCapPrm:\t0000000000000404\n"
    assert service.users(status) == ["2", "1"]
    held = "-all,+cap_2,+cap_10"
    assert service.privileges(status, "2") == [
        "--reuid=2", "--regid=4", "--groups=5,6", f"--inh-caps={held}", f"--ambient-caps={held}",
        f"--bounding-set={held}",
    ]  # fmt: skip
    assert "--clear-groups" in service.privileges(status.replace("5 6 ", ""), "2")
    for number in (0, 3, 6, 7):
        leads = service.privileges(status.replace("404", f"{1 << number:03x}"), "2")
        assert leads[0] == "--reuid=0"
        assert f"--inh-caps=-all,{','.join(f'+cap_{one}' for one in sorted({1, number}))}" in leads


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


TEXT = "[Service]\nExecStart=/bin/sleep infinity\n"


@pytest.mark.claim("V13")
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"name": "greeter"}, r"not the name of a service\. It ends with `\.service`"),
        ({"name": "greeter.socket"}, "not the name of a service"),
        ({"name": ".service"}, "not the name of a service"),
        ({"name": ""}, "not the name of a service"),
        ({"name": "a b.service"}, "not the name of a service"),
        ({"name": "ünit.service"}, "not the name of a service"),
        ({"name": "../x.service"}, "not the name of a service"),
        ({"name": "a.service\n"}, "not the name of a service"),
        ({"name": "g" * 250 + ".service"}, "no longer than 200 characters"),
        ({"name": "foo@.service"}, "an instance is proven, such as `name@one.service`"),
        ({"name": "systemd-journald.service", "text": TEXT}, "a private machine needs its own"),
        ({"text": "ExecStart=/bin/true"}, r"has no section \[Service\]"),
        ({"text": ""}, r"has no section \[Service\]"),
        ({"text": f"{TEXT}\0"}, "a NUL character"),
        ({"text": TEXT, "drop_in": "Restart=\0"}, "a NUL character"),
        ({"text": TEXT, "serves": "redis-cli ping"}, r"serves is a list of words, such as \['redis-cli', 'ping'\]"),
    ],
)
def test_what_cannot_be_a_service_under_proof_is_told_where_it_is_defined(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        unit_under_proof(**{"name": "a.service", **asked})
    assert "\n" not in str(error.value)


@pytest.mark.claim("V13")
@pytest.mark.parametrize(
    "asked",
    [
        {"name": r"my-\x2ddash.service", "text": f"\ufeff{TEXT}"},
        {"name": "foo@bar:1_2.service", "text": TEXT.replace("\n", "\r\n")},
        {"name": "systemd-journald.service"},
        {"serves": ["redis-cli", "ping"]},
    ],
    ids=str,
)
def test_what_can_be_a_service_under_proof_is_taken(asked: dict[str, Any]) -> None:
    unit_under_proof(**{"name": "a.service", **asked})


@pytest.mark.claim("V13")
@pytest.mark.parametrize(
    "make",
    [
        lambda: service.restarts_on(256),
        lambda: service.stays_down_on(-1),
        lambda: service.stops_within(float("nan")),
        lambda: service.stops_within(-1.0),
        lambda: service.survives_sigkill(float("inf")),
        lambda: service.watchdog_bites(-1.0),
        lambda: service.exposure_at_most(11),
        lambda: service.writes_only_below("var/lib/x"),
        lambda: service.writes_only_below("/var", "/"),
    ],
)
def test_a_promise_of_nothing_is_told_where_it_is_made(make: Callable[[], Promise]) -> None:
    with pytest.raises(ValueError, match=r"not|from 0 to"):
        make()


@pytest.mark.claim("V13")
def test_time_spans_are_read_as_systemd_shows_them() -> None:
    for shown, secs in {
        "0": 0.0, "100ms": 0.1, "20s": 20.0, "1min 30s": 90.0, "1h 1min 1.5s": 3661.5, "3us": 3e-6, "1month": 2629800.0,
        "infinity": float("inf"),
    }.items():  # fmt: skip
        assert service.seconds(shown) == pytest.approx(secs)
    for wrong in ("", "20", "20 bananas", "s", "1s2"):
        with pytest.raises(ValueError, match="not a time span"):
            service.seconds(wrong)


@pytest.mark.claim("V13")
def test_a_stop_is_not_measured_by_one_clock_that_the_other_contradicts() -> None:
    def said(message: str, at: float) -> Entry:
        return Entry(message, "a.service", "", "systemd", 1, int(at * 1e6), int(at * 1e6))

    whole = [said("Stopping a.service...", 1.0), said("Stopped a.service.", 1.5)]
    assert service.stopping_secs(whole, 0.6, 2.0) == 0.5
    assert service.stopping_secs(whole[:1], 0.6, 2.0) == 0.6, "one end is missing"
    assert service.stopping_secs([], 6.0, 2.0) == 6.0, "a journal that tells nothing is no stop of 0 s"
    set_back = [said("Stopping a.service...", 1.5), said("Stopped a.service.", 1.0)]
    assert service.stopping_secs(set_back, 6.0, 2.0) == 6.0
    forged = [replace(entry, pid=14) for entry in whole]
    assert service.stopping_secs(forged, 6.0, 2.0) == 6.0, "a service may call itself systemd"
    assert service.stopping_secs(whole, 0.4, 2.0) == 0.4
    with pytest.raises(MachineError, match=r"0\.50 s by the journal and 6\.00 s by systemctl"):
        service.stopping_secs(whole, 6.0, 2.0)


@pytest.mark.slow
@pytest.mark.claim("V13")
def test_a_line_that_systemd_ignores_is_not_passed_over(greeter: ServiceUnit, proof_run: Run, tmp_path: Path) -> None:
    def under(name: str, text: str, drop_in: str = "") -> AbstractContextManager[ServiceUnit]:
        return service.under_proof(proof_run.recorder, greeter.machine, name, text, tmp_path, drop_in=drop_in)

    for wrong in ("RestartSec=banana", "Restrat=always", "nonsense", "[Nonsense]\nA=1"):
        with (
            pytest.raises(HarnessError, match="systemd ignores a line of the drop-in 10-proof: "),
            under("ignored.service", TEXT, wrong),
        ):
            pass
    with (
        pytest.warns(UserWarning, match=r"systemd ignores lines of a\.service: Unknown key 'Restrat'"),
        under("a.service", f"{TEXT}Restrat=always\n") as unit,
    ):
        service.exposure_at_most(10.0).prove(unit)
    # A name that systemd quotes where it shows it.
    with under(r"my-\x2ddash.service", TEXT, "RestartSec=1") as unit:
        unit.start_serving()
        assert unit.property("RestartUSec") == "1s"


@pytest.mark.slow
@pytest.mark.claim("V13")
def test_what_cannot_be_asked_of_a_service_says_nothing_about_it(
    greeter: ServiceUnit, proof_run: Run, tmp_path: Path
) -> None:
    late = f"{TEXT}Restart=always\nRestartSec=10min\n"
    with service.under_proof(
        proof_run.recorder, greeter.machine, "late.service", late, tmp_path, serves=["/no/such/program"]
    ) as unit:
        unit.deadline_secs = 0.2
        with pytest.raises(HarnessError, match=r"nobody can tell whether late\.service serves: .*/no/such/program"):
            service.stops_within(3.0).prove(unit)
        # What takes a connection and never answers is no more there than what takes none.
        unit._serves, unit.deadline_secs = ("sleep", "60"), 1.5
        with pytest.raises(Refuted, match=r"late\.service does not serve: `sleep 60` has not answered"):
            unit.start_serving()
        unit._serves = ()
        for promise in (service.survives_sigkill(), service.restarts_on(1), service.stays_down_on(1)):
            with pytest.raises(HarnessError, match=r"started again after 10min \(RestartSec=\), .*a drop_in"):
                promise.prove(unit)


@pytest.mark.claim("V13")
def test_a_unit_is_had_as_the_computers_administrator_has_it(tmp_path: Path) -> None:
    etc, run, lib = (tmp_path / name for name in ("etc", "run", "lib"))
    given = {
        "etc/a-b@.service": "template", "run/a-b@.service": "older", "etc/a-b@1.service.d/10.conf": "etc",
        "run/a-b@1.service.d/10.conf": "run", "lib/a-b@1.service.d/20.conf": "vendor", "lib/service.d/30.conf": "all",
        "run/a-.service.d/40.conf": "a-", "lib/a-b@.service.d/50.conf": "every instance", "etc/b.service.d/1.conf": "b",
        "etc/a-b@1.service.d/not.txt": "", "lib/b.service": "a package's", "run/heals.socket": "named",
        "etc/dbus.service": "a machine has its own", "etc/dbus.service.d/1.conf": "", "etc/a.target.wants/a": "",
        "etc/notes.txt": "no unit",
    }  # fmt: skip
    for name, text in given.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (etc / "a-b@1.service.d" / "20.conf").symlink_to(os.devnull)
    whole = {
        "a-b@.service": b"template", "service.d/30.conf": b"all", "a-.service.d/40.conf": b"a-",
        "a-b@.service.d/50.conf": b"every instance", "a-b@1.service.d/10.conf": b"etc", "a-b@1.service.d/20.conf": b"",
        "b.service.d/1.conf": b"b", "heals.socket": b"named",
    }  # fmt: skip
    for name in ("a-b@1.service", "b.service"):
        assert service.administered(name, (etc, run), lib) == whole
    (etc / "masked.service").symlink_to(os.devnull)
    (run / "empty.service").touch()
    for name in ("masked.service", "empty.service"):
        with pytest.raises(Unavailable, match=f"{name} is masked on this computer") as error:
            service.administered(name, (etc, run), lib)
        assert error.value.remedy == f"systemctl unmask {name}"
    (etc / "alias.service").symlink_to(lib / "b.service")
    with pytest.raises(HarnessError, match=r"alias\.service is another name of b\.service"):
        service.administered("alias.service", (etc, run), lib)


@pytest.mark.claim("V13")
def test_what_the_administrator_has_changed_is_proven_and_lines_on_top_are_on_top(
    greeter: ServiceUnit, proof_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "own.service": f"{TEXT}Restart=always\nRestartSec=100ms\n",
        "own.service.d/override.conf": "[Service]\nRestart=no\n",
    }
    monkeypatch.setattr(service, "administered", lambda _: {name: text.encode() for name, text in files.items()})
    under = partial(service.under_proof, proof_run.recorder, greeter.machine)
    with under("own.service", None, tmp_path) as unit:
        unit.deadline_secs = 1.0
        with pytest.raises(Refuted, match=r"own\.service"):
            service.survives_sigkill().prove(unit)
    with under("own.service", None, tmp_path, drop_in="Restart=always") as unit:
        service.survives_sigkill().prove(unit)
    greeter.machine.path("/etc/systemd/system/alias.service").symlink_to("own.service")
    with (
        pytest.raises(HarnessError, match=r"alias\.service is another name of own\.service"),
        under("alias.service", None, tmp_path),
    ):
        pass


THREADS = """
import ctypes, os, platform, socket, threading
libc, ready = ctypes.CDLL(None), threading.Event()
SETRESUID = {"x86_64": 117, "aarch64": 147}[platform.machine()]

def other():
    THREAD
    ready.set()
    threading.Event().wait()

threading.Thread(target=other, daemon=True).start()
ready.wait()
MAIN
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
threading.Event().wait()
"""


@pytest.mark.slow
@pytest.mark.claim("V13")
@pytest.mark.parametrize(
    ("promise", "thread", "main", "says"),
    [
        (
            service.no_network(), "assert libc.setns(os.open('/proc/1/ns/net', os.O_RDONLY), 0) == 0", "pass",
            "shares the computer's network",
        ),
        # What a C library does for all threads, the kernel does for one.
        (
            service.writes_only_below(), "pass", "assert libc.syscall(SETRESUID, 65534, 65534, 65534) == 0",
            "may write to",
        ),
    ],
    ids=["network", "files"],
)  # fmt: skip
def test_a_thread_may_be_what_its_process_is_not(
    greeter: ServiceUnit, proof_run: Run, tmp_path: Path, promise: Promise, thread: str, main: str, says: str
) -> None:
    program = greeter.machine.path("/usr/local/bin/threads.py")
    program.write_text(THREADS.replace("THREAD", thread).replace("MAIN", main))
    text = (
        "[Service]\nType=notify\nPrivateNetwork=yes\nProtectSystem=strict\nReadWritePaths=/srv\n"
        "ExecStart=/usr/bin/python3 /usr/local/bin/threads.py\n"
    )
    with (
        service.under_proof(proof_run.recorder, greeter.machine, "threads.service", text, tmp_path) as unit,
        pytest.raises(Refuted, match=says),
    ):
        promise.prove(unit)


@pytest.mark.slow
@pytest.mark.claim("V3", "V13")
def test_a_service_that_takes_the_machine_down_with_it_is_told_and_no_other_suffers(
    proof_run: Run, shell: Shell, tmp_path: Path
) -> None:
    machine = PrivateMachine(shell, [], f"proof-{os.getpid()}-down")
    text = f"[Unit]\nFailureAction=reboot-immediate\n{TEXT}"
    try:
        machine.boot()
        with (
            pytest.raises(MachineError, match=r"went down, which nobody had asked for: a unit's FailureAction="),
            service.under_proof(proof_run.recorder, machine, "reboots.service", text, tmp_path) as unit,
        ):
            service.stays_down_on(1).prove(unit)
        assert not machine.alive()
    finally:
        machine.halt()


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


@pytest.mark.slow
@pytest.mark.claim("V13", "V4")
def test_judges_of_a_service_say_no(greeter: ServiceUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """To one that does not serve, or is not there to be looked at; and what cannot be asked is not taken for a no."""
    down, never = (ServiceUnit(greeter.machine, greeter._stream, greeter.name, serves) for serves in ((), ("false",)))
    down.deadline_secs = never.deadline_secs = 0.2
    with pytest.raises(Refuted, match=r"greeter\.service does not serve: it is inactive"):
        down.wait_serving()
    greeter.start_serving()
    with pytest.raises(Refuted, match=r"does not serve: waited 0\.2 s \(deadline_secs\) for `false`"):
        never.wait_serving()
    monkeypatch.setattr(service, "privileges", lambda *_: ["--reuid=nobody-of-that-name"])
    with pytest.raises(MachineError, match=r"cannot look at what greeter\.service may write to: setpriv:"):
        service.writes_only_below("/var/lib/greeter").prove(greeter)
    greeter.fresh()


MANY = """
import os
import pytest
from pathlib import Path
from pytest_hybrid_proofs import KEPT_MACHINES, unit_under_proof

TEXT = "[Service]\\nExecStart=/bin/sleep infinity\\n"

@pytest.fixture(scope="session")
def begun(unit_0):
    unit_0.start()
    yield unit_0
    unit_0.stop()

def machines():
    return {path.name for path in Path("/run/hybrid-proofs").glob(f"proof-{os.getpid()}-*")}
"""

ONE_OF_MANY = """
unit_{n} = unit_under_proof("unit-{n}.service", text=TEXT)

@pytest.mark.claim("one")
def test_{n}(unit_{n}):
    unit_{n}.start_serving()
    # Its own, the run's, and those that are kept.
    assert len(machines()) <= KEPT_MACHINES + 2, machines()

@pytest.mark.claim("one")
def test_{n}_again(unit_{n}):
    assert unit_{n}.show().active == "active", "the machine went between two tests that use it"
"""

AFTER_MANY = """
@pytest.mark.claim("one")
def test_begun(begun):
    assert begun.show().active == "active", "what was made of a machine that went is still there"
"""


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.claim("V13")
def test_a_machine_goes_when_few_others_are_left_to_keep(tmp_path: Path) -> None:
    """However many units a run has, and in whatever order: what a test uses is there, made anew where it went."""
    tests = AFTER_MANY + "".join(ONE_OF_MANY.format(n=number) for number in range(6)) + AFTER_MANY.replace("n(", "n_2(")
    (tmp_path / "test_many.py").write_text(MANY + tests)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *QUICK], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=environ(),
    )  # fmt: skip
    assert "14 proven, 0 unproven, 0 refuted" in done.stdout, done.stdout + done.stderr
