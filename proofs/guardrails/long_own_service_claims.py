"""Each ready-made promise about a service is proven for those that keep it and refuted for those that do not (V13).

The services stand in tables, in each of which the ways are collected that a service has to keep or break a promise.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pytest_hybrid_proofs import unit_under_proof

from harness.base.errors import Refuted
from harness.proving import service
from harness.proving.plugin import Run
from harness.proving.service import Promise, ServiceUnit

LOOP = "ExecStart=/bin/sh -c 'echo hello; exec sleep infinity'"
FEEDS = "ExecStart=/bin/sh -c 'systemd-notify --ready; while :; do systemd-notify WATCHDOG=1; sleep 0.1; done'"
NOTIFIES = "Type=notify\nNotifyAccess=all"
IGNORED = LOOP.replace("=/", "=-/", 1)
DEAF = "ExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'"
NOT_TWICE = "ExecStart=/bin/sh -c 'test -e /run/lock-%n && {{ {} echo stale lock; exit 1; }}; touch /run/lock-%n; {}'"

place = unit_under_proof("place.service", text=f"[Service]\n{LOOP}\n")
"""In whose machine all of them are."""

Case = tuple[str, Promise, str, str]
"""A name, what it promises, its unit file without the header [Service], and what a refutation begins with or says;
empty: it keeps its promise."""

KEPT = ""


@pytest.fixture
def under(
    place: ServiceUnit, proof_run: Run, tmp_path: Path
) -> Callable[[str, str], AbstractContextManager[ServiceUnit]]:
    """Put a unit with this name and text under proof."""
    return lambda name, text: service.under_proof(proof_run.recorder, place.machine, f"{name}.service", text, tmp_path)


def ids(case: object) -> str | None:
    return case[0] if isinstance(case, tuple) else None


def judged(
    under: Callable[[str, str], AbstractContextManager[ServiceUnit]], case: Case, start_secs: float = service.START_SECS
) -> None:
    name, promise, lines, reason = case

    def prove() -> None:
        with under(name, f"[Service]\n{lines}\n") as unit:
            unit.start_secs = start_secs
            unit.deadline_secs = 5.0
            promise.prove(unit)

    if reason == KEPT:
        prove()
        return
    with pytest.raises(Refuted) as error:
        prove()
    assert reason in error.value.observed


RESTARTS: list[Case] = [
    ("on-failure", service.restarts_on(1), f"{LOOP}\nRestart=on-failure", KEPT),
    ("exec", service.restarts_on(1), f"{LOOP}\nType=exec\nRestart=on-failure", KEPT),
    ("forking", service.restarts_on(1), "Type=forking\nExecStart=/bin/sh -c 'sleep infinity &'\nRestart=always", KEPT),
    ("notify", service.restarts_on(1), f"{FEEDS}\n{NOTIFIES}\nRestart=on-failure", KEPT),
    ("always-0", service.restarts_on(0), f"{LOOP}\nRestart=always", KEPT),
    ("slowly", service.restarts_on(1), f"{LOOP}\nRestart=always\nRestartSec=6", KEPT),
    ("burst-2", service.restarts_on(1), f"{LOOP}\nRestart=always\n[Unit]\nStartLimitBurst=2", KEPT),
    ("never", service.restarts_on(1), f"{LOOP}\nRestart=no", "was restarted 0 times"),
    ("prevented", service.restarts_on(1), f"{LOOP}\nRestart=always\nRestartPreventExitStatus=1", "restarted 0 times"),
    ("success", service.restarts_on(1), f"{LOOP}\nRestart=on-failure\nSuccessExitStatus=1", "was restarted 0 times"),
    ("on-abnormal", service.restarts_on(1), f"{LOOP}\nRestart=on-abnormal", "was restarted 0 times"),
    (
        "burst-1", service.restarts_on(1),
        f"{LOOP}\nRestart=on-failure\n[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h",
        "start request repeated too quickly",
    ),
    ("cannot-start", service.restarts_on(1), f"{LOOP}\nExecStartPre=/bin/sh -c 'exit 3'\nRestart=on-failure", "exit 3"),
    ("ignored", service.restarts_on(1), f"{IGNORED}\nRestart=on-failure", "was restarted 0 times"),
    ("rooted", service.restarts_on(7), f"{LOOP}\nRootDirectory=/usr\nRestart=on-failure", KEPT),
    ("down-ignored", service.stays_down_on(3), f"{IGNORED}\nRestart=on-failure", KEPT),
    ("down-rooted", service.stays_down_on(3), f"{LOOP}\nRootDirectory=/usr\nRestart=no", KEPT),
    ("down", service.stays_down_on(3), f"{LOOP}\nRestart=no", KEPT),
    (
        "up-by-others", service.stays_down_on(3),
        f"{LOOP}\nRestart=no\nExecStopPost=/bin/sh -c 'systemd-run --on-active=1 systemctl start %n'",
        "times on exit status 3",
    ),
    ("down-prevented", service.stays_down_on(3), f"{LOOP}\nRestart=always\nRestartPreventExitStatus=3", KEPT),
    ("down-success", service.stays_down_on(3), f"{LOOP}\nRestart=on-failure\nSuccessExitStatus=3", KEPT),
    ("down-0", service.stays_down_on(0), f"{LOOP}\nRestart=on-failure", KEPT),
    ("up", service.stays_down_on(3), f"{LOOP}\nRestart=always", "restarted"),
    ("up-forced", service.stays_down_on(3), f"{LOOP}\nRestart=no\nRestartForceExitStatus=3", "restarted"),
    ("up-late", service.stays_down_on(3), f"{LOOP}\nRestart=always\nRestartSec=4", "restarted"),
    (
        "up-before", service.stays_down_on(3),
        f"{LOOP}\nExecStartPre=/bin/sh -c 'exit 3'\nRestartPreventExitStatus=3\nRestart=on-failure\nRestartSec=1",
        "exit 3",
    ),
]  # fmt: skip

KILLED: list[Case] = [
    ("kill-on-abnormal", service.survives_sigkill(), f"{LOOP}\nRestart=on-abnormal", KEPT),
    ("kill-slowly", service.survives_sigkill(), f"{LOOP}\nRestart=always\nRestartSec=6", KEPT),
    (
        "kill-forking", service.survives_sigkill(),
        "Type=forking\nExecStart=/bin/sh -c 'sleep infinity &'\nRestart=on-failure", KEPT,
    ),
    ("kill-no", service.survives_sigkill(), f"{LOOP}\nRestart=no", "killed by KILL"),
    (
        "kill-prevented", service.survives_sigkill(),
        f"{LOOP}\nRestart=always\nRestartPreventExitStatus=SIGKILL", "killed by KILL",
    ),
    (
        "kill-burst-1", service.survives_sigkill(),
        f"{LOOP}\nRestart=always\n[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h",
        "start request repeated too quickly",
    ),
    (
        "kill-lock", service.survives_sigkill(),
        f"{NOT_TWICE.format('', 'exec sleep infinity')}\nRestart=always\nRestartSec=1", "stale lock",
    ),
    (
        "kill-lock-late", service.survives_sigkill(),
        f"{NOT_TWICE.format('sleep 0.7;', 'exec sleep infinity')}\nRestart=always\nRestartSec=1", "stale lock",
    ),
    (
        "kill-no-main", service.survives_sigkill(),
        "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true", "has no main process",
    ),
]  # fmt: skip

WATCHED: list[Case] = [
    ("fed", service.watchdog_bites(5.0), f"{FEEDS}\n{NOTIFIES}\nWatchdogSec=1\nRestart=on-failure", KEPT),
    ("none", service.watchdog_bites(2.0), f"{FEEDS}\n{NOTIFIES}\nRestart=on-failure", "watchdog's report"),
    ("long", service.watchdog_bites(2.0), f"{FEEDS}\n{NOTIFIES}\nWatchdogSec=30", "watchdog's report"),
    ("never-fed", service.watchdog_bites(5.0), f"{LOOP}\nWatchdogSec=1\nRestart=on-failure", "its watchdog (Watchdog"),
    (
        "child-feeds", service.watchdog_bites(3.0),
        "ExecStart=/bin/sh -c 'systemd-notify --ready; while :; do systemd-notify WATCHDOG=1; sleep 0.1; done & "
        f"exec sleep infinity'\n{NOTIFIES}\nWatchdogSec=1", "watchdog's report",
    ),
    (
        "bites-nobody", service.watchdog_bites(5.0),
        f"{FEEDS}\n{NOTIFIES}\nWatchdogSec=1\nKillMode=none\nTimeoutAbortSec=1", "is still there after the bite",
    ),
    (
        "barks", service.watchdog_bites(3.0),
        "ExecStart=/bin/sh -c 'systemd-notify --ready; while :; do systemd-notify WATCHDOG=1; sleep 0.1; done'\n"
        f"{NOTIFIES}\nWatchdogSec=1\nWatchdogSignal=SIGURG\nTimeoutAbortSec=60", "it barked, and nothing has ended",
    ),
    (
        "switched-off", service.watchdog_bites(3.0),
        f"{FEEDS.replace('--ready', '--ready WATCHDOG_USEC=100000000')}\n{NOTIFIES}\nWatchdogSec=1",
        "watchdog's report",
    ),
]  # fmt: skip

STOPPED: list[Case] = [
    ("stop", service.stops_within(3.0), LOOP, KEPT),
    ("stop-slowly", service.stops_within(3.0), f"{LOOP}\nExecStop=/bin/sleep 1", KEPT),
    (
        "stop-children", service.stops_within(3.0),
        "ExecStart=/bin/sh -c 'sleep infinity & exec sleep infinity'", KEPT,
    ),
    ("stop-quiet", service.stops_within(3.0), f"{LOOP}\nLogLevelMax=emerg", KEPT),
    ("stop-0", service.stops_within(0.0), LOOP, "s to stop, at most 0"),
    ("stop-late", service.stops_within(0.5), f"{LOOP}\nExecStop=/bin/sleep 1", "s to stop, at most 0.5"),
    ("stop-late-quiet", service.stops_within(0.5), f"{LOOP}\nExecStop=/bin/sleep 1\nLogLevelMax=emerg", "at most 0.5"),
    ("stop-too-late", service.stops_within(0.5), f"{LOOP}\nExecStop=/bin/sleep 6", "took more than 1.50 s to stop"),
    ("stop-post", service.stops_within(0.5), f"{LOOP}\nExecStopPost=/bin/sleep 1", "s to stop, at most 0.5"),
    (
        "stop-by-itself", service.stops_within(0.5),
        "ExecStart=/bin/sh -c 'trap \"sleep 1; exit 0\" TERM; while :; do sleep 0.1; done'", "s to stop, at most 0.5",
    ),
    ("stop-deaf", service.stops_within(1.0), f"{DEAF}\nTimeoutStopSec=30", "took more than 2.00 s to stop"),
    ("stop-deaf-short", service.stops_within(3.0), f"{DEAF}\nTimeoutStopSec=500ms", "result timeout"),
    (
        "stop-deaf-forgotten", service.stops_within(3.0),
        f"{DEAF}\nTimeoutStopSec=500ms\nLogLevelMax=emerg\n[Unit]\nCollectMode=inactive-or-failed",
        "result timeout",
    ),
    (
        "stop-exit-1", service.stops_within(3.0),
        "ExecStart=/bin/sh -c 'trap \"exit 1\" TERM; while :; do sleep 0.1; done'", "result exit-code",
    ),
    ("stop-killed", service.stops_within(3.0), f"{LOOP}\nKillSignal=SIGKILL", "result signal"),
    (
        "stop-killed-well", service.stops_within(3.0), f"{LOOP}\nKillSignal=SIGKILL\nSuccessExitStatus=SIGKILL",
        "killed by SIGKILL",
    ),
    (
        "stop-kills", service.stops_within(3.0),
        f"{LOOP}\nExecStop=/bin/kill -9 $MAINPID\nSuccessExitStatus=SIGKILL", "killed by SIGKILL",
    ),
    ("stop-fails", service.stops_within(3.0), f"{LOOP}\nExecStop=/bin/false", "result exit-code"),
    ("stop-refused", service.stops_within(3.0), f"{LOOP}\n[Unit]\nRefuseManualStop=yes", "does not stop"),
    (
        "stop-child-killed", service.stops_within(3.0),
        "KillMode=mixed\nExecStart=/bin/sh -c '(trap \"\" TERM; while :; do sleep 0.1; done) & exec sleep infinity'",
        "with signal SIGKILL",
    ),
    (
        "stop-leaves", service.stops_within(3.0),
        "KillMode=process\nExecStart=/bin/sh -c 'setsid sleep 1000 & exec sleep infinity'", "left running: ",
    ),
]  # fmt: skip

STRICT = "ProtectSystem=strict\nProtectHome=yes"
PLACE = "ReadWritePaths=/srv\nExecStartPre=+/bin/mkdir -p -m 711 /srv/%n\nExecStopPost=+/bin/rm -r /srv/%n"

CONFINED: list[Case] = [
    ("exposed", service.exposure_at_most(9.9), LOOP, KEPT),
    ("too-exposed", service.exposure_at_most(5.0), LOOP, "exposure 9."),
    (
        "writes-own", service.writes_only_below("/var/lib/x/", "/var/lib/private/x", "/tmp", "/var/tmp"),
        f"{LOOP}\nDynamicUser=yes\nStateDirectory=x", KEPT,
    ),
    ("writes-all", service.writes_only_below("/var/lib/x"), LOOP, "may write to /"),
    (
        "writes-wild", service.writes_only_below("/var/lib/*"),
        f"{LOOP}\nProtectSystem=strict\nStateDirectory=x", "may write to /",
    ),
    (
        "writes-more", service.writes_only_below("/var/lib/x"),
        f"{LOOP}\nProtectSystem=strict\nReadWritePaths=/srv\nStateDirectory=x", "may write to /",
    ),
    (
        "writes-privileged", service.writes_only_below("/var/lib/x", "/var/lib/private/x", "/tmp", "/var/tmp"),
        f"{LOOP.replace('=/', '=+/', 1)}\nDynamicUser=yes\nStateDirectory=x", "may write to /",
    ),
    (
        "writes-linked", service.writes_only_below("/var/lib/linked", "/tmp", "/var/tmp"),
        f"{LOOP}\nDynamicUser=yes\nStateDirectory=linked", KEPT,
    ),
    (
        "writes-log", service.writes_only_below(),
        f"{LOOP}\n{STRICT}\nUser=daemon\nStandardOutput=append:/etc/log-of-%n", "may write to /etc/log-of-",
    ),
    (
        "writes-by-real-user", service.writes_only_below(),
        f"ExecStart=/usr/bin/setpriv --euid 65534 --clear-groups sleep infinity\n{STRICT}\n{PLACE}",
        "may write to /srv",
    ),
    (
        "writes-by-capability", service.writes_only_below(),
        f"{LOOP}\n{STRICT}\n{PLACE}\nUser=daemon\nAmbientCapabilities=CAP_SETUID", "may write to /srv",
    ),
    ("writes-nothing", service.writes_only_below(), f"{LOOP}\n{STRICT}\n{PLACE}\nUser=daemon", KEPT),
    (
        "writes-own-file", service.writes_only_below(),
        f"{LOOP}\n{STRICT}\n{PLACE}\nUser=daemon\n"
        "ExecStartPre=+/usr/bin/install -m 444 -o daemon /dev/null /srv/%n/f",
        "may write to /srv/writes-own-file.service/f",
    ),
    (
        "writes-unlisted", service.writes_only_below(),
        f"{LOOP}\n{STRICT}\n{PLACE}\nUser=daemon\n"
        "ExecStartPre=+/usr/bin/install -m 666 /dev/null /srv/%n/f",
        "may write to /srv/writes-unlisted.service/f",
    ),
    ("net-none", service.no_network(), f"{LOOP}\nPrivateNetwork=yes", KEPT),
    ("net", service.no_network(), LOOP, "shares the computer's network"),
    (
        "net-of-a-child", service.no_network(),
        "ExecStart=/bin/sh -c 'nsenter --net=/proc/1/ns/net sleep infinity & exec sleep infinity'\nPrivateNetwork=yes",
        "shares the computer's network",
    ),
    (
        "net-more", service.no_network(),
        "ExecStart=/bin/sh -c 'ip link add more type veth peer name other; ip link set more up; exec sleep infinity'\n"
        "PrivateNetwork=yes", "its network leads somewhere: more",
    ),
]  # fmt: skip


CASES = [*RESTARTS, *KILLED, *WATCHED, *STOPPED, *CONFINED]


@pytest.mark.slow
@pytest.mark.claim("V13")
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_promise_is_proven_of_those_that_keep_it_and_refuted_of_others(
    under: Callable[[str, str], AbstractContextManager[ServiceUnit]], case: Case
) -> None:
    judged(under, case)


FAILS_TOO: list[tuple[str, Promise, str]] = [
    ("oneshot", service.stops_within(1.0), "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true"),
    ("rooted", service.survives_sigkill(0.5), f"{LOOP}\nRootDirectory=/usr\nRestart=always"),
    ("writes-widely", service.writes_only_below("/run", "/var", "/tmp"), f"{LOOP}\n{STRICT}\nReadWritePaths=/var /tmp"),
]
"""Services of which a promise is kept, and hard to break."""


@pytest.mark.slow
@pytest.mark.claim("V13", "V4")
@pytest.mark.parametrize(("name", "promise", "lines"), FAILS_TOO, ids=ids)
def test_what_is_promised_of_an_unusual_service_can_fail(
    under: Callable[[str, str], AbstractContextManager[ServiceUnit]], name: str, promise: Promise, lines: str
) -> None:
    with under(name, f"[Service]\n{lines}\n") as unit:
        promise.prove_it_can_fail(unit)


ANY = (
    service.restarts_on(1), service.stays_down_on(3), service.survives_sigkill(), service.watchdog_bites(2.0),
    service.stops_within(3.0), service.writes_only_below("/var"), service.no_network(),
)  # fmt: skip

UNUSABLE: list[tuple[str, str, str]] = [
    ("exits", "ExecStart=/bin/sh -c 'sleep 0.1; exit 7'", "exit 7 after 0."),
    (
        "exits-again", "ExecStart=/bin/sh -c 'sleep 0.1; echo no room; exit 7'\nRestart=always\nRestartSec=1",
        "exit 7 after 0.",
    ),
    ("exits-0", "ExecStart=/bin/true", "a clean end after 0."),
    ("no-program", "ExecStart=/no/such/program", "exit 203/EXEC: Failed at step EXEC"),
    ("no-user", f"{LOOP}\nUser=nosuchuser", "exit 217/USER: Failed at step USER"),
    ("no-file", f"{LOOP}\nEnvironmentFile=/etc/nope", "result resources: Failed to "),
    ("no-command", "Restart=always", "systemd cannot use no-command.service (bad-setting): no-command.service: Servi"),
    ("no-path", "ExecStart=sleep infinity; 'x", "systemd cannot use no-path.service (bad-setting)"),
    (
        "words-of-its-own",
        "ExecStart=/bin/sh -c 'echo backup was skipped because Watchdog timeout repeated too quickly; exit 3'",
        "exit 3 after 0.",
    ),
    ("done-before-ready", "ExecStart=/bin/true\nType=notify", "a clean end before READY=1 after 0."),
    ("not-ready", f"{LOOP}\nType=notify", "no READY=1 within 1 s"),
    ("not-ready-short", f"{LOOP}\nType=notify\nTimeoutStartSec=500ms", "no READY=1 after 0."),
    ("not-forked", f"{LOOP}\nType=forking", "no end of ExecStart= (Type=forking) within 1 s"),
    ("not-prepared", f"{LOOP}\nExecStartPre=/bin/sleep 1000", "no end of ExecStartPre= within 1 s"),
    ("oneshot", "Type=oneshot\nExecStart=/bin/true", "a clean end after 0."),
    ("condition", f"{LOOP}\n[Unit]\nConditionPathExists=/nope", "not started by systemd: condition.service"),
    ("requires", f"{LOOP}\n[Unit]\nRequires=nope.service\nAfter=nope.service", "nope.service not found"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim("V13", "V3")
@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        *((UNUSABLE[0], promise) for promise in ANY),
        *((broken, ANY[at % len(ANY)]) for at, broken in enumerate(UNUSABLE[1:])),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else str(one),
)
def test_a_service_that_does_not_run_is_refuted_and_the_reason_comes_first(
    under: Callable[[str, str], AbstractContextManager[ServiceUnit]], broken: tuple[str, str, str], promise: Promise
) -> None:
    name, lines, reason = broken
    judged(under, (name, promise, lines, reason), start_secs=1.0)
